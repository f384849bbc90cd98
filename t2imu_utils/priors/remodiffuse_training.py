"""Training a ReMoDiffuse prior on masked x_0 errors, and tuning how its branches are mixed.

Data, crops, captions, timesteps, noise and dropped conditions of a step follow from the seed and
the step's number alone, as for MDM. A clip never sees a retrieved motion of its own recording.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from t2imu_utils.priors.batches import SENTENCES, Batch, Dataset, step_items
from t2imu_utils.priors.diffusion import add_noise
from t2imu_utils.priors.early_stopping import kept_row
from t2imu_utils.priors.loop import CRITERION, LoopConfig, run_loop
from t2imu_utils.priors.losses import LossWeights, motion_losses
from t2imu_utils.priors.remodiffuse import Mixture, ReMoDiffuse
from t2imu_utils.priors.remodiffuse_checkpoints import ReMoDiffusePrior
from t2imu_utils.priors.remodiffuse_sampling import linear_schedule, timestep_map
from t2imu_utils.priors.retrieval import gather, retrieve
from t2imu_utils.priors.train_config import check_early_stopping
from t2imu_utils.priors.training import STEP, VALIDATION, TrainConfig, loss_curves

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

# Adam as PyTorch sets it, which the official training does not change.
BETAS = (0.9, 0.999)
# Which of the random streams of a seed the tuning draws from.
TUNING = 30
# How far tuned weights are held to those of the branch with both conditions, as a share of the
# spread of the branches.
RIDGE = 1e-3


def official_training(steps: int, seed: int = 0, weights: LossWeights | None = None) -> TrainConfig:
    """Batch, rate and dropout of the official training; it has no moving average.

    Officially the rate falls to nearly zero along a cosine; here it is constant.
    """
    return TrainConfig(
        steps=steps,
        batch_size=128,
        learning_rate=2e-4,
        ema_decay=0.0,
        condition_dropout=0.1,
        seed=seed,
        weights=weights or LossWeights(),
    )


@dataclass(frozen=True)
class RetrievalBatch:
    """What one step trains on: `Batch` and the retrieved items of each clip (see `gather`)."""

    clips: Batch
    motion: Float[Tensor, "B R T 263"]
    motion_valid: Bool[Tensor, "B R T"]
    text: Float[Tensor, "B R L W"]
    text_valid: Bool[Tensor, "B R L"]
    drop_retrieval: Bool[Tensor, "B"]

    def to(self, device: torch.device | str) -> "RetrievalBatch":
        """The same batch on another device."""
        return RetrievalBatch(**{name: x.to(device) for name, x in vars(self).items()})


def neighbours(
    prior: ReMoDiffusePrior, clips: Sequence[MotionClip], max_frames: int, held_out: bool = False
) -> list[Int[np.ndarray, "captions R"]]:
    """Retrieved rows for each caption of each clip, at the length that training shows of it.

    Rows of the clip's own recording are left out: itself, its mirrored twin, other cuts. Where the
    database does not say whose clips it holds, as the official one, none can be; that is only good
    for clips that are `held_out`, which it has not.

    Raises:
        InputError: too few other motions, or training clips and a database that does not say whose
            clips it holds.
    """
    sentences = list(dict.fromkeys(text for clip in clips for text in clip.captions))
    number = {text: i for i, text in enumerate(sentences)}
    pooled = np.concatenate(
        [
            prior.text_encoder.encode_pooled(sentences[i : i + SENTENCES]).numpy()
            for i in range(0, len(sentences), SENTENCES)
        ]
    )
    queries = [(clip, number[text]) for clip in clips for text in clip.captions]
    unknown = held_out and prior.database.names is None
    kin = {id(clip): [] if unknown else prior.database.kin(clip) for clip in clips}
    config = prior.config
    rows = retrieve(
        prior.database,
        pooled[[text for _, text in queries]],
        [min(len(clip.features), max_frames) for clip, _ in queries],
        [kin[id(clip)] for clip, _ in queries],
        config.retrieved,
        config.length_weight,
    )
    return np.split(rows, np.cumsum([len(clip.captions) for clip in clips])[:-1])


def draw_batch(
    prior: ReMoDiffusePrior,
    data: Dataset,
    near: Sequence[Int[np.ndarray, "captions R"]],
    config: TrainConfig,
    step: int,
) -> RetrievalBatch:
    """The batch of a step: a function of the data, the seed and the step's number.

    Text and retrieval are dropped independently, each with probability `condition_dropout`.
    """
    rng = np.random.default_rng([config.seed, STEP, step])
    shown = np.minimum(data.lengths, config.max_frames)
    items = step_items(shown, config.batch_size, config.seed, step)
    spare = data.lengths[items] - shown[items]
    starts = rng.integers(0, spare + 1)
    captions = rng.integers(0, [len(data.captions[i]) for i in items])
    t = rng.integers(0, prior.config.diffusion_steps, len(items))
    drop = rng.random((2, len(items))) < config.condition_dropout
    return _assemble(prior, data, near, items, starts, captions, config.max_frames, t, drop, rng)


def _assemble(
    prior, data, near, items, starts, captions, max_frames, t, drop, rng
) -> RetrievalBatch:
    clips = data.batch(
        items,
        starts=starts,
        captions=captions,
        max_frames=max_frames,
        t=torch.from_numpy(t),
        drop_text=torch.from_numpy(drop[0]),
        noise=torch.Generator().manual_seed(int(rng.integers(2**63))),
    )
    rows = np.stack([near[i][c] for i, c in zip(items, captions, strict=True)])
    return RetrievalBatch(clips, *gather(prior.database, rows), torch.from_numpy(drop[1]))


def batch_losses(
    model: ReMoDiffuse,
    batch: RetrievalBatch,
    normaliser: Normaliser,
    weights: LossWeights,
    scheduler: "DDPMScheduler",
    all_terms: bool = False,
) -> dict[str, Float[Tensor, "B"]]:
    """Noise a batch, predict it clean, and compare, one value a sample (see `motion_losses`)."""
    clips = batch.clips
    x_t = add_noise(clips.x0, clips.noise, clips.t, scheduler)
    retrieved = model.database(batch.motion, batch.motion_valid, batch.text, batch.text_valid)
    condition = model.condition(clips.text, clips.text_valid, retrieved)
    x0_hat = model(x_t, clips.t, clips.mask, condition, ~clips.drop_text, ~batch.drop_retrieval)
    return motion_losses(clips.x0, x0_hat, clips.mask, weights, normaliser, all_terms)


def _held_out(prior, data, near, config, timesteps, stream):
    """Batches over all clips once, by length, with both conditions and the first captions."""
    order = np.argsort(data.lengths, kind="stable")
    for start in range(0, len(data), config.batch_size):
        items = order[start : start + config.batch_size]
        zeros, none = np.zeros(len(items), int), np.zeros((2, len(items)), bool)
        rng = np.random.default_rng([config.seed, *stream, start])
        yield _assemble(
            prior, data, near, items, zeros, zeros, config.max_frames, timesteps[items], none, rng
        )


@torch.inference_mode()
def validation_losses(
    model: ReMoDiffuse,
    prior: ReMoDiffusePrior,
    data: Dataset,
    near: Sequence[Int[np.ndarray, "captions R"]],
    config: TrainConfig,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """All terms on held-out clips, averaged; timesteps, noise and captions are the same each time.

    data, near: `Dataset` and `neighbours` of the clips. Timesteps are spread evenly over them.
    """
    steps, n = prior.config.diffusion_steps, len(data)
    scheduler = linear_schedule(steps)
    spread = np.linspace(0, steps - 1, n).round().astype(int)
    timesteps = np.random.default_rng([config.seed, VALIDATION, 0]).permutation(spread)
    sums: dict[str, float] = {}
    for batch in _held_out(prior, data, near, config, timesteps, (VALIDATION, 1)):
        terms = batch_losses(
            model, batch.to(device), prior.normaliser, config.weights, scheduler, all_terms=True
        )
        for name, values in terms.items():
            sums[name] = sums.get(name, 0.0) + float(values.sum())
    return {name: total / n for name, total in sums.items()}


def train(
    prior: ReMoDiffusePrior,
    clips: Sequence[MotionClip],
    config: TrainConfig,
    out_dir: Path,
    validation: Sequence[MotionClip] = (),
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> tuple[ReMoDiffusePrior, pd.DataFrame]:
    """Train a copy of `prior` on `clips`; returns it and its loss curves.

    config: as for MDM, so that both can be given the same budget (`official_training`: as the
    authors do). `weights` adds L_acc and its siblings to the x_0 error with the same parameters.
    The curves and `out_dir` are those of `training.train`: the same call goes on where it was
    interrupted, bit for bit on a CPU.

    Raises:
        InputError: unusable clips, fewer than two motions to retrieve for one, a damaged state
            file, or a loss that is no longer finite.
    """
    if config.max_frames > prior.config.max_frames:
        raise InputError(
            "TrainConfig: max_frames", str(config.max_frames),
            f"at most the model's {prior.config.max_frames}", "Lower it or enlarge the model.",
        )  # fmt: skip
    check_early_stopping(config, validation)
    data, near = Dataset(prior, clips), neighbours(prior, clips, config.max_frames)
    scheduler = linear_schedule(prior.config.diffusion_steps)

    def losses(model: ReMoDiffuse, step: int) -> dict[str, Tensor]:
        batch = draw_batch(prior, data, near, config, step).to(device)
        terms = batch_losses(model, batch, prior.normaliser, config.weights, scheduler)
        return {name: values.mean() for name, values in terms.items()}

    settings = config.record("checkpoint_every")
    ingredients = [
        settings, asdict(prior.config), data.fingerprint, prior.text_encoder.fingerprint,
        prior.database.version,
    ]  # fmt: skip
    check = None
    if validation:
        held_out = Dataset(prior, validation)
        if config.early_stopping:
            ingredients.append(held_out.fingerprint)
        theirs = neighbours(prior, validation, config.max_frames, held_out=True)

        def check(model: ReMoDiffuse) -> dict[str, float]:
            return validation_losses(model, prior, held_out, theirs, config, device)

    loop = LoopConfig(
        steps=config.steps,
        learning_rate=config.learning_rate,
        betas=BETAS,
        weight_decay=config.weight_decay,
        ema_decay=config.ema_decay,
        checkpoint_every=config.checkpoint_every,
        validate_every=config.validate_every,
        early_stopping=config.early_stopping,
        seed=config.seed,
    )
    model = copy.deepcopy(prior.model).to(device).requires_grad_(True)
    path = Path(out_dir) / "training.pt"
    key = sha256(json.dumps(ingredients, sort_keys=True).encode())
    model, rows, validated = run_loop(model, losses, loop, path, key, check, progress)
    entry = {"config": config.record(), "clips": len(clips), "data": data.fingerprint}
    if validated:
        entry["validation"] = kept_row(validated, CRITERION, config.early_stopping)
    trained = replace(prior, model=model, history=[*prior.history, entry])
    return trained, loss_curves(rows, validated)


@torch.inference_mode()
def fit_mixture(
    prior: ReMoDiffusePrior,
    clips: Sequence[MotionClip],
    config: TrainConfig,
    device: torch.device | str = "cpu",
) -> Mixture:
    """The `fine` weights that lie closest to held-out clips; the rest of the mixture is kept.

    Least squares on x_0 at every sampled timestep up to `fine_until`, over the four branches, with
    weights that sum to 1 and a small pull towards (1, 0, 0). (The authors tuned theirs for FID and
    do not tell how.)
    """
    data, near = Dataset(prior, clips), neighbours(prior, clips, config.max_frames, held_out=True)
    scheduler = linear_schedule(prior.config.diffusion_steps)
    model = prior.model.to(device).eval()
    gram, pull = np.zeros((3, 3)), np.zeros(3)
    kept = timestep_map(prior.config.diffusion_steps)
    for t in kept[kept <= prior.mixture.fine_until].tolist():
        at = np.full(len(data), t)
        for drawn in _held_out(prior, data, near, config, at, (TUNING, t)):
            batch = drawn.to(device)
            clean = batch.clips
            x_t = add_noise(clean.x0, clean.noise, clean.t, scheduler)
            seen = model.database(batch.motion, batch.motion_valid, batch.text, batch.text_valid)
            condition = model.condition(clean.text, clean.text_valid, seen)
            out = {}
            for text, retrieval in ((True, True), (True, False), (False, True), (False, False)):
                on = (torch.full_like(clean.drop_text, flag) for flag in (text, retrieval))
                x0_hat = model(x_t, clean.t, clean.mask, condition, *on)
                out[text, retrieval] = x0_hat[clean.mask].double()
            none = out.pop((False, False))
            apart = torch.stack([x - none for x in out.values()]).flatten(1)
            gram += (apart @ apart.T).cpu().numpy()
            pull += (apart @ (clean.x0[clean.mask].double() - none).flatten()).cpu().numpy()
    ridge = RIDGE * np.trace(gram) / 3 + 1e-12
    weights = np.linalg.solve(gram + ridge * np.eye(3), pull + ridge * np.array([1.0, 0.0, 0.0]))
    return replace(prior.mixture, fine=tuple(float(x) for x in weights))
