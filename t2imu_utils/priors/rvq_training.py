"""Training a motion tokeniser on windows of clips: MoMask's, and T2M-GPT's with one level."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from t2imu_utils.motion.features import POSITIONS, check_features
from t2imu_utils.priors.batches import step_items
from t2imu_utils.priors.loop import LoopConfig, Rows, run_loop
from t2imu_utils.priors.losses import LossWeights, motion_losses
from t2imu_utils.priors.rvq import RVQ, STRIDE, detokenise, equal_lengths, tokenise

# Which of the random streams of a seed.
WINDOWS = 10


@dataclass(frozen=True)
class RVQTrainConfig:
    """What a tokeniser is trained on; the defaults are those of MoMask.

    window: frames, a multiple of 4. positions, commit: weights of the term of joint positions and
    of the commitment. level_dropout: share of steps that use only the first k levels, k drawn
    evenly. weights: of eqs. (3)-(6) of the paper on the decoder's output, added to the rest: with
    `acc` above 0 the tokeniser is trained with L_acc. decoder_only: encoder and codebooks stay as
    they are, so that tokens keep their meaning.
    """

    batch_size: int = 256
    window: int = 64
    positions: float = 0.5
    commit: float = 0.02
    level_dropout: float = 0.2
    weights: LossWeights = field(default_factory=LossWeights)
    decoder_only: bool = False

    def __post_init__(self):
        checks = {
            "batch_size": self.batch_size >= 1,
            "window": self.window >= STRIDE and self.window % STRIDE == 0,
            "positions": self.positions >= 0,
            "commit": self.commit >= 0,
            "level_dropout": 0 <= self.level_dropout <= 1,
        }
        for name, good in checks.items():
            if not good:
                raise InputError(
                    f"RVQTrainConfig: {name}", str(getattr(self, name)), "a value in its range",
                    f"window is a multiple of {STRIDE}; see the docstring of RVQTrainConfig.",
                )  # fmt: skip


def normalised_motions(
    normaliser: Normaliser, clips: Sequence[MotionClip]
) -> list[Float[Tensor, "T 263"]]:
    """Normalised features of clips, float32.

    Raises:
        InputError: no clips, or one that is not finite, of another shape, or shorter than a token.
    """
    if not clips:
        raise InputError("clips", "none", "at least one clip to train on", "Check the split.")
    for clip in clips:
        check_features(clip.features, clip.name, min_frames=STRIDE)
    normalise = normaliser.normalise
    return [torch.from_numpy(normalise(clip.features).astype(np.float32)) for clip in clips]


def motions_hash(motions: Sequence[Float[Tensor, "T C"]]) -> str:
    """Hash of motions, in order."""
    return sha256("\n".join(sha256(x.numpy().tobytes()) for x in motions).encode())


def draw_windows(
    motions: Sequence[Float[Tensor, "T C"]], config: RVQTrainConfig, seed: int, step: int
) -> Float[Tensor, "B W C"]:
    """The windows of a step: a function of the motions, the seed and the step's number.

    Motions shorter than the window come together in batches whose window is the shortest of them,
    so that nothing is padded and nothing is left out.
    """
    lengths = np.array([len(x) for x in motions])
    items = step_items(np.minimum(lengths, config.window), config.batch_size, seed, step)
    size = min(config.window, int(lengths[items].min()) // STRIDE * STRIDE)
    starts = np.random.default_rng([seed, WINDOWS, step]).integers(0, lengths[items] - size + 1)
    return torch.stack([motions[i][s : s + size] for i, s in zip(items, starts, strict=True)])


def reconstruction_losses(
    x: Float[Tensor, "B T 263"],
    x_hat: Float[Tensor, "B T 263"],
    commit: Float[Tensor, ""],
    config: RVQTrainConfig,
    normaliser: Normaliser,
    all_terms: bool = False,
) -> dict[str, Float[Tensor, ""]]:
    """Terms of the tokeniser's loss, averaged over the batch; `total` is their weighted sum.

    reconstruction: smooth L1 of all normalised features. positions: of the joint positions among
    them. commit: see `RVQ.forward`. Then those of `motion_losses` whose weight is above 0
    (`all_terms=True`: all).
    """
    terms = {
        "reconstruction": F.smooth_l1_loss(x_hat, x),
        "positions": F.smooth_l1_loss(x_hat[..., POSITIONS], x[..., POSITIONS]),
        "commit": commit,
    }
    total = terms["reconstruction"] + config.positions * terms["positions"]
    total = total + config.commit * commit
    weights = {name: getattr(config.weights, name) for name in ("pos", "foot", "vel", "acc")}
    if all_terms or any(weights.values()):
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        more = motion_losses(x, x_hat, mask, config.weights, normaliser, all_terms)
        terms |= {name: value.mean() for name, value in more.items() if name != "total"}
        for name, weight in weights.items():
            if weight:
                total = total + weight * terms[name]
    return terms | {"total": total}


@torch.no_grad()
def rvq_validation(
    model: RVQ,
    motions: Sequence[Float[Tensor, "T 263"]],
    config: RVQTrainConfig,
    normaliser: Normaliser,
) -> dict[str, float]:
    """All terms on whole motions, each at its own length (a multiple of 4), averaged over them."""
    device = next(model.parameters()).device
    counts = [len(motion) // STRIDE for motion in motions]
    sums: dict[str, float] = {}
    for items in equal_lengths(counts, config.batch_size):
        frames = STRIDE * counts[items[0]]
        x = torch.stack([motions[i][:frames] for i in items]).to(device)
        x_hat, _, commit = model.eval()(x)
        terms = reconstruction_losses(x, x_hat, commit, config, normaliser, all_terms=True)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(items)
    return {name: total / len(motions) for name, total in sums.items()}


def reconstruct(
    rvq: RVQ,
    normaliser: Normaliser,
    clips: Sequence[MotionClip],
    device: torch.device | str = "cpu",
) -> list[Float[Tensor, "4*N 263"]]:
    """What is left of whole clips after the tokeniser: their tokens of all levels, decoded again.

    Normalised features on the CPU, in the order of `clips`, to be compared with the first 4 N
    frames of `normalised_motions(normaliser, clips)`: a clip of T frames has N = T // 4 tokens, so
    that up to three last frames are missing. Only clips of one length come together, so nothing is
    padded, which convolutions would carry into the motion. `rvq` is moved to `device`.

    Raises:
        InputError: as `normalised_motions`.
    """
    return detokenise(rvq.to(device), tokenise(rvq, normalised_motions(normaliser, clips)))


def train_rvq(
    model: RVQ,
    normaliser: Normaliser,
    motions: Sequence[Float[Tensor, "T 263"]],
    config: RVQTrainConfig,
    loop: LoopConfig,
    path: Path,
    validation: Sequence[Float[Tensor, "T 263"]] = (),
    progress: bool = True,
) -> tuple[RVQ, Rows, Rows]:
    """Train a copy of a tokeniser through `run_loop`; returns what that returns.

    motions, validation: normalised, on the CPU (`normalised_motions`). Codebooks and their running
    sums are part of the state that is resumed. path: see `run_loop`.
    """
    statistics = [sha256(np.asarray(x).tobytes()) for x in (normaliser.mean, normaliser.std)]
    ingredients = [asdict(config), motions_hash(motions), motions_hash(validation), statistics]
    key = sha256(json.dumps(ingredients, sort_keys=True).encode())
    losses = _losses(normaliser, motions, config, loop.seed)

    def validate(averaged: RVQ) -> dict[str, float]:
        return rvq_validation(averaged, validation, config, normaliser)

    model = copy.deepcopy(model)
    model.encoder.requires_grad_(not config.decoder_only)
    trained, rows, checks = run_loop(
        model, losses, loop, path, key, validate if validation else None, progress
    )
    return trained.requires_grad_(True), rows, checks


def _losses(normaliser, motions, config, seed) -> Callable[[RVQ, int], dict[str, Tensor]]:
    def losses(model: RVQ, step: int) -> dict[str, Tensor]:
        device = next(model.parameters()).device
        x = draw_windows(motions, config, seed, step).to(device)
        rng = np.random.default_rng([seed, WINDOWS, step, 1])
        levels = model.config.levels
        dropped = rng.random() < config.level_dropout
        active = int(rng.integers(1, levels + 1)) if dropped else levels
        if config.decoder_only:
            model.encoder.eval()
            model.quantizer.eval()
        x_hat, _, commit = model(x, active)
        return reconstruction_losses(x, x_hat, commit, config, normaliser)

    return losses
