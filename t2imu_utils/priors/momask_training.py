"""Training MoMask: its tokeniser, then the mask transformer, then the residual transformer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.priors.losses import LossWeights
from t2imu_utils.priors.masked_transformer import MaskTransformer, ResidualTransformer
from t2imu_utils.priors.momask import MoMaskPrior
from t2imu_utils.priors.rvq_training import RVQTrainConfig
from t2imu_utils.priors.stages import (
    Stage,
    StagedTrainConfig,
    TokenTask,
    short_stage,
    train_stages,
)
from t2imu_utils.priors.token_data import TokenData

STAGES = ("rvq", "mask", "residual")
# Of the masked tokens, so many are replaced by a random code; of the rest, so many by the mask.
RANDOM, MASKED = 0.1, 0.88
# Which of the random streams of a seed.
CORRUPTION = 12


@dataclass(frozen=True)
class MoMaskTrainConfig(StagedTrainConfig):
    """Settings of the training of a whole MoMask; the recipe is the published one.

    level_dropout: see `RVQTrainConfig`. The other fields are those of `StagedTrainConfig`.
    """

    STAGES = STAGES

    rvq: Stage = Stage(0.5, 256, warmup=0.0055, milestones=(0.42, 0.69), decay=0.05)
    mask: Stage = Stage(0.25, weight_decay=1e-5, milestones=(0.27,), text_dropout=0.1)
    residual: Stage = Stage(0.25, weight_decay=1e-5, milestones=(0.27,), text_dropout=0.2)
    level_dropout: float = 0.2

    def tokeniser(self) -> RVQTrainConfig:
        """What the tokeniser is trained on."""
        return replace(super().tokeniser(), level_dropout=self.level_dropout)


def plain_training(
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int = 0,
    *,
    ema_decay: float = 0.0,
    checkpoint_every: int = 500,
    validate_every: int = 0,
    early_stopping: bool = False,
) -> MoMaskTrainConfig:
    """A short training: one batch size and one rate in all stages (`short_stage`).

    ema_decay, checkpoint_every, validate_every: see `StagedTrainConfig`.
    """
    return MoMaskTrainConfig(
        steps,
        rvq=short_stage(0.5, batch_size, learning_rate),
        mask=short_stage(0.25, batch_size, learning_rate, text_dropout=0.1),
        residual=short_stage(0.25, batch_size, learning_rate, text_dropout=0.2),
        ema_decay=ema_decay,
        checkpoint_every=checkpoint_every,
        validate_every=validate_every,
        early_stopping=early_stopping,
        seed=seed,
    )


def refinement(
    steps: int,
    batch_size: int,
    learning_rate: float,
    weights: LossWeights,
    seed: int = 0,
    *,
    ema_decay: float = 0.0,
    checkpoint_every: int = 500,
    validate_every: int = 0,
    early_stopping: bool = False,
) -> MoMaskTrainConfig:
    """Fine-tuning of the decoder alone, with L_acc where `weights.acc` is above 0.

    Encoder and codebooks stay, so that tokens keep their meaning and the transformers still fit.
    ema_decay: of the decoder's weights; it and the others: see `StagedTrainConfig`.
    """
    return MoMaskTrainConfig(
        steps,
        rvq=short_stage(1.0, batch_size, learning_rate),
        mask=Stage(0.0),
        residual=Stage(0.0),
        weights=weights,
        decoder_only=True,
        ema_decay=ema_decay,
        checkpoint_every=checkpoint_every,
        validate_every=validate_every,
        early_stopping=early_stopping,
        seed=seed,
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
    """Train a copy of `prior` on `clips`; returns it and its loss curves (see `train_stages`).

    Reconstruction is compared on whole clips; `total` and `accuracy` of the transformers are
    cross-entropy and share of right tokens. `out_dir` keeps the state of each stage: the same call
    goes on where it was interrupted, bit for bit on a CPU.

    Raises:
        InputError: unusable clips, a damaged state file, or a loss that is no longer finite.
    """
    return train_stages(
        prior, clips, config, _task, out_dir, "momask", validation, progress, device
    )


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


def _task(config: MoMaskTrainConfig, name: str, data: TokenData, held_out: TokenData) -> TokenTask:
    stage, seed = config.stage(name), config.seed

    def validate(averaged: nn.Module) -> dict[str, float]:
        return transformer_validation(averaged, held_out, stage.batch_size, seed)

    return TokenTask(_losses(data, stage, seed), validate)


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
    loss = right = tokens = 0.0
    for number, (items, batch) in enumerate(data.whole(batch_size)):
        rng = np.random.default_rng([seed, CORRUPTION, number * batch_size, 1])
        drop = torch.zeros(len(items), dtype=torch.bool)
        losses, hits = _terms(model.eval(), batch, drop, times[items], rng, corrupt=False)
        loss, right = loss + float(losses.sum()), right + float(hits.sum())
        tokens += len(losses)
    return {"total": loss / tokens, "accuracy": right / tokens}
