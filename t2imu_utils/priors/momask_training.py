"""Training MoMask: its tokeniser, then the mask transformer, then the residual transformer."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.priors.loop import LoopConfig, Rows, run_loop
from t2imu_utils.priors.losses import LossWeights
from t2imu_utils.priors.masked_transformer import MaskTransformer, ResidualTransformer
from t2imu_utils.priors.momask import MoMaskPrior
from t2imu_utils.priors.rvq import STRIDE
from t2imu_utils.priors.rvq_training import (
    RVQTrainConfig,
    motions_hash,
    normalised_motions,
    train_rvq,
)
from t2imu_utils.priors.token_data import TokenData
from t2imu_utils.runs import sha256

STAGES = ("rvq", "mask", "residual")
COLUMNS = (
    "step", "stage", "split", "total", "reconstruction", "positions", "commit", "simple", "pos",
    "foot", "vel", "acc", "accuracy",
)  # fmt: skip
# Of the masked tokens, so many are replaced by a random code; of the rest, so many by the mask.
RANDOM, MASKED = 0.1, 0.88
# Which of the random streams of a seed.
CORRUPTION = 12


@dataclass(frozen=True)
class Stage:
    """Settings of one of the three trainings.

    share: of all steps; 0 keeps the network as it is. warmup: share of the stage's steps over
    which the learning rate rises. milestones: shares after which it is multiplied by `decay`.
    text_dropout: share of items that are trained without their text.
    """

    share: float
    batch_size: int = 64
    learning_rate: float = 2e-4
    weight_decay: float = 0.0
    warmup: float = 0.011
    milestones: tuple[float, ...] = ()
    decay: float = 0.1
    text_dropout: float = 0.0

    def __post_init__(self):
        shares = (self.warmup, self.text_dropout, *self.milestones)
        if self.batch_size < 1 or not all(0 <= share <= 1 for share in shares):
            raise InputError(
                "Stage: batch_size, warmup, text_dropout, milestones",
                f"{self.batch_size}, {self.warmup}, {self.text_dropout}, {self.milestones}",
                "at least 1, then shares of 0 to 1", "See the docstring of Stage.",
            )  # fmt: skip


@dataclass(frozen=True)
class MoMaskTrainConfig:
    """Settings of the training of a whole MoMask; the recipe is the published one.

    steps: of all three stages together, divided by their shares. window, level_dropout, weights,
    decoder_only: of the tokeniser (`RVQTrainConfig`); `weights.acc` is lambda_acc on the decoder's
    output.
    ema_decay: of a moving average of the transformers' weights, which the original does not have;
    codebooks belong to the tokeniser's last weights.
    """

    steps: int
    rvq: Stage = Stage(0.5, 256, warmup=0.0055, milestones=(0.42, 0.69), decay=0.05)
    mask: Stage = Stage(0.25, weight_decay=1e-5, milestones=(0.27,), text_dropout=0.1)
    residual: Stage = Stage(0.25, weight_decay=1e-5, milestones=(0.27,), text_dropout=0.2)
    window: int = 64
    level_dropout: float = 0.2
    weights: LossWeights = field(default_factory=LossWeights)
    decoder_only: bool = False
    ema_decay: float = 0.0
    checkpoint_every: int = 500
    validate_every: int = 0
    seed: int = 0

    def __post_init__(self):
        shares = [getattr(self, stage).share for stage in STAGES]
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise InputError(
                "MoMaskTrainConfig: shares", str(shares), "three shares that add up to 1",
                "Divide the steps between rvq, mask and residual.",
            )  # fmt: skip
        steps = self.stage_steps()
        if any(steps[stage] < 1 for stage in STAGES if getattr(self, stage).share > 0):
            raise InputError(
                "MoMaskTrainConfig: steps", str(self.steps), "a step or more for each stage",
                "Raise steps, or set the share of a stage to 0 to keep its network.",
            )  # fmt: skip

    def stage_steps(self) -> dict[str, int]:
        """Steps of each stage, of `steps` in all."""
        ends = np.cumsum([getattr(self, stage).share for stage in STAGES])
        ends = np.round(ends * self.steps).astype(int)
        return dict(zip(STAGES, np.diff(ends, prepend=0).tolist(), strict=True))

    def loop(self, name: str) -> LoopConfig:
        """The loop of one stage."""
        stage: Stage = getattr(self, name)
        steps = self.stage_steps()[name]
        warmup = round(stage.warmup * steps)
        return LoopConfig(
            steps=steps,
            learning_rate=stage.learning_rate,
            weight_decay=stage.weight_decay,
            warmup=warmup,
            milestones=tuple(max(round(x * steps) - warmup, 0) for x in stage.milestones),
            decay=stage.decay,
            ema_decay=0.0 if name == "rvq" else self.ema_decay,
            checkpoint_every=self.checkpoint_every,
            validate_every=self.validate_every,
            seed=self.seed,
        )


def plain_training(
    steps: int, batch_size: int, learning_rate: float, seed: int = 0
) -> MoMaskTrainConfig:
    """A short training: one batch size and one rate in all stages, which rises and does not fall.

    The published recipe lowers the rate after a share of several hundred thousand steps; a
    training of a few thousand would stand still from there on.
    """

    def plain(share: float, text_dropout: float = 0.0) -> Stage:
        return Stage(share, batch_size, learning_rate, warmup=0.02, text_dropout=text_dropout)

    return MoMaskTrainConfig(
        steps, rvq=plain(0.5), mask=plain(0.25, 0.1), residual=plain(0.25, 0.2), seed=seed
    )


def refinement(
    steps: int, batch_size: int, learning_rate: float, weights: LossWeights, seed: int = 0
) -> MoMaskTrainConfig:
    """Fine-tuning of the decoder alone, with L_acc where `weights.acc` is above 0.

    Encoder and codebooks stay, so that tokens keep their meaning and the transformers still fit.
    """
    stage = Stage(1.0, batch_size, learning_rate, warmup=0.02)
    return MoMaskTrainConfig(
        steps, stage, Stage(0.0), Stage(0.0), weights=weights, decoder_only=True, seed=seed
    )


def train(
    prior: MoMaskPrior,
    clips: Sequence[MotionClip],
    config: MoMaskTrainConfig,
    out_dir: Path,
    validation: Sequence[MotionClip] = (),
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> tuple[MoMaskPrior, pd.DataFrame]:
    """Train a copy of `prior` on `clips`; returns it and its loss curves.

    The curves have a row a step (split "train") and a row a validation (split "validation"), a
    column a term; `step` counts on from stage to stage, and terms of another stage are NaN.
    Reconstruction is compared on whole clips; `total` and `accuracy` of the transformers are
    cross-entropy and share of right tokens. `out_dir` keeps the state of each stage: the same call
    goes on where it was interrupted, bit for bit on a CPU.

    Raises:
        InputError: unusable clips, a damaged state file, or a loss that is no longer finite.
    """
    motions = normalised_motions(prior.normaliser, clips)
    held_out = normalised_motions(prior.normaliser, validation) if validation else []
    folder = Path(out_dir)
    networks = {name: copy.deepcopy(getattr(prior, name)).to(device) for name in STAGES}
    tokens: list[TokenData] = []
    curves: list[dict] = []
    done = 0
    for name in STAGES:
        if not config.stage_steps()[name]:
            continue
        path = folder / f"momask-{name}.pt"
        if name == "rvq":
            settings = RVQTrainConfig(
                config.rvq.batch_size,
                config.window,
                level_dropout=config.level_dropout,
                weights=config.weights,
                decoder_only=config.decoder_only,
            )
            result = train_rvq(
                networks[name], prior.normaliser, motions, settings, config.loop(name), path,
                held_out, progress,
            )  # fmt: skip
        else:
            if not tokens:
                longest = prior.config.transformer.max_tokens
                tokens = [
                    TokenData(networks["rvq"], prior.text_encoder, longest, x, group)
                    for x, group in ((motions, clips), (held_out, validation))
                ]
            result = _train_transformer(
                networks[name], *tokens, getattr(config, name), config.loop(name), path, progress
            )
        networks[name], rows, checks = result
        for split, group in (("train", rows), ("validation", checks)):
            shifted = [{**row, "step": row["step"] + done} for row in group]
            curves += [{**row, "stage": name, "split": split} for row in shifted]
        done += config.stage_steps()[name]
    table = pd.DataFrame(curves, columns=list(COLUMNS))
    entry = {"config": asdict(config), "clips": len(clips), "data": motions_hash(motions)}
    if validation:
        last = table[table["split"] == "validation"].groupby("stage", sort=False).last()
        entry["validation"] = {
            stage: {k: float(x) for k, x in row.drop("split").dropna().items()}
            for stage, row in last.iterrows()
        }
    history = [*prior.history, entry]
    return replace(prior, **networks, history=history), table


def mask_losses(
    model: MaskTransformer,
    tokens: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    text: Float[Tensor, "B W"],
    drop_text: Bool[Tensor, "B"],
    times: Float[np.ndarray, "B"],
    rng: np.random.Generator,
    corrupt: bool = True,
) -> tuple[Float[Tensor, "M"], Bool[Tensor, "M"]]:
    """Cross-entropy of masked tokens of the first level, and which of them are predicted best.

    times: of 0 to 1; a share of cos(pi time / 2) of an item's own tokens is masked, one at least
    (the original takes it of the padded length, which leaves short motions without a target now
    and then). corrupt: some masked tokens show a random code or themselves instead of the mask.
    """
    counts = valid.sum(1).cpu().numpy()
    wanted = np.maximum(np.round(np.cos(times * np.pi / 2) * counts), 1)
    # Padding ranks last, so that it is never among the masked.
    order = np.where(valid.cpu().numpy(), rng.random(valid.shape), 2.0)
    masked = torch.from_numpy(order.argsort(1).argsort(1) < wanted[:, None]).to(tokens.device)
    shown = tokens.masked_fill(masked, model.mask_id)
    if corrupt:
        dice, again = rng.random(valid.shape), rng.random(valid.shape)
        codes = rng.integers(0, model.config.codes, valid.shape)
        other = torch.from_numpy(dice < RANDOM).to(tokens.device)
        same = torch.from_numpy((dice >= RANDOM) & (again >= MASKED)).to(tokens.device)
        shown = torch.where(masked & other, torch.from_numpy(codes).to(tokens.device), shown)
        shown = torch.where(masked & same, tokens, shown)
    logits, targets = model(shown, text, valid, drop_text)[masked], tokens[masked]
    return F.cross_entropy(logits, targets, reduction="none"), logits.argmax(-1) == targets


def residual_losses(
    model: ResidualTransformer,
    tokens: Int[Tensor, "B N Q"],
    valid: Bool[Tensor, "B N"],
    text: Float[Tensor, "B W"],
    drop_text: Bool[Tensor, "B"],
    levels: Int[np.ndarray, "B"],
) -> tuple[Float[Tensor, "M"], Bool[Tensor, "M"]]:
    """Cross-entropy of an item's tokens of its level, and which of them are predicted best."""
    level = torch.from_numpy(levels).to(tokens.device)
    targets = tokens.gather(-1, level[:, None, None].expand(*valid.shape, 1))[..., 0][valid]
    logits = model(tokens, level, text, valid, drop_text)[valid]
    return F.cross_entropy(logits, targets, reduction="none"), logits.argmax(-1) == targets


def draw_levels(times: Float[np.ndarray, "B"], levels: int) -> Int[np.ndarray, "B"]:
    """Levels to be predicted, of 1 to levels - 1, for times of 0 to 1: low ones more often."""
    return np.round((1 - np.cos(times * np.pi / 2)) * (levels - 2)).astype(int) + 1


def _train_transformer(
    model, data: TokenData, held_out: TokenData, stage: Stage, loop: LoopConfig, path, progress
) -> tuple[nn.Module, Rows, Rows]:
    ingredients = [asdict(stage), data.fingerprint, held_out.fingerprint]
    key = sha256(json.dumps(ingredients, sort_keys=True).encode())
    losses = _losses(data, stage, loop.seed)

    def validate(averaged: nn.Module) -> dict[str, float]:
        return transformer_validation(averaged, held_out, stage.batch_size, loop.seed)

    return run_loop(model, losses, loop, path, key, validate if len(held_out) else None, progress)


def _losses(data: TokenData, stage: Stage, seed: int) -> Callable[..., dict[str, Tensor]]:
    def losses(model: nn.Module, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([seed, CORRUPTION, step])
        batch = data.step(stage.batch_size, seed, step)
        drop = torch.from_numpy(rng.random(len(batch[0])) < stage.text_dropout)
        loss, right = _terms(model, batch, drop, rng.random(len(drop)), rng, corrupt=True)
        return {"total": loss.mean(), "accuracy": right.float().mean()}

    return losses


def _terms(model, batch, drop_text, times, rng, corrupt):
    device = next(model.parameters()).device
    tokens, valid, text = (x.to(device) for x in batch)
    drop_text = drop_text.to(device)
    if isinstance(model, MaskTransformer):
        return mask_losses(model, tokens[..., 0], valid, text, drop_text, times, rng, corrupt)
    levels = draw_levels(times, model.config.levels)
    return residual_losses(model, tokens, valid, text, drop_text, levels)


@torch.no_grad()
def transformer_validation(
    model: MaskTransformer | ResidualTransformer, data: TokenData, batch_size: int, seed: int
) -> dict[str, float]:
    """Cross-entropy ("total") and accuracy on clips from their first frame on, with their text.

    Averaged over tokens. Times are spread evenly over the clips, and what is masked is the same
    each time.
    """
    times = np.random.default_rng([seed, CORRUPTION]).permutation(
        (np.arange(len(data)) + 0.5) / len(data)
    )
    counts = np.minimum(data.frames // STRIDE, data.max_tokens)
    order = np.argsort(counts, kind="stable")
    loss = right = tokens = 0.0
    for start in range(0, len(order), batch_size):
        items = order[start : start + batch_size]
        zeros = np.zeros(len(items), dtype=int)
        batch = data.batch(items, zeros, counts[items], zeros)
        rng = np.random.default_rng([seed, CORRUPTION, start, 1])
        drop = torch.zeros(len(items), dtype=torch.bool)
        losses, hits = _terms(model.eval(), batch, drop, times[items], rng, corrupt=False)
        loss, right = loss + float(losses.sum()), right + float(hits.sum())
        tokens += len(losses)
    return {"total": loss / tokens, "accuracy": right / tokens}
