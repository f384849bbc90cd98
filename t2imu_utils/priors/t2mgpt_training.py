"""Training T2M-GPT: its tokeniser of one codebook, then the transformer on corrupted tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.priors.losses import LossWeights
from t2imu_utils.priors.stages import (
    Stage,
    StagedTrainConfig,
    TokenTask,
    short_stage,
    train_stages,
)
from t2imu_utils.priors.t2mgpt import T2MGPTPrior, TokenGPT
from t2imu_utils.priors.token_data import TokenData

STAGES = ("rvq", "gpt")
# Which of the random streams of a seed.
CORRUPTION = 13


@dataclass(frozen=True)
class T2MGPTTrainConfig(StagedTrainConfig):
    """Settings of the training of a whole T2M-GPT; the recipe is the published one.

    keep: share of the tokens that the transformer is shown as they are; the others are random
    codes. The text is never dropped. The other fields are those of `StagedTrainConfig`.
    """

    STAGES = STAGES
    BETAS = {"gpt": (0.5, 0.9)}

    rvq: Stage = Stage(0.5, 256, warmup=0.0033, milestones=(0.67,), decay=0.05)
    gpt: Stage = Stage(0.5, 128, 1e-4, 1e-6, warmup=0.0, milestones=(0.5,), decay=0.05)
    keep: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.keep <= 1:
            raise InputError(
                "T2MGPTTrainConfig: keep", str(self.keep), "a share of 0 to 1", "T2M-GPT uses 0.5."
            )
        if any(self.stage(name).text_dropout for name in STAGES):
            raise InputError(
                "T2MGPTTrainConfig: text_dropout", "more than 0", "0",
                "T2M-GPT has no guidance and is always trained with its text.",
            )  # fmt: skip


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
) -> T2MGPTTrainConfig:
    """A short training: one batch size and one rate in both stages (`short_stage`).

    ema_decay, checkpoint_every, validate_every: see `StagedTrainConfig`.
    """
    stage = short_stage(0.5, batch_size, learning_rate)
    return T2MGPTTrainConfig(
        steps,
        rvq=stage,
        gpt=stage,
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
) -> T2MGPTTrainConfig:
    """Fine-tuning of the decoder alone, with L_acc where `weights.acc` is above 0.

    Encoder and codebook stay, so that tokens keep their meaning and the transformer still fits.
    ema_decay: of the decoder's weights; it and the others: see `StagedTrainConfig`.
    """
    return T2MGPTTrainConfig(
        steps,
        rvq=short_stage(1.0, batch_size, learning_rate),
        gpt=Stage(0.0),
        weights=weights,
        decoder_only=True,
        ema_decay=ema_decay,
        checkpoint_every=checkpoint_every,
        validate_every=validate_every,
        early_stopping=early_stopping,
        seed=seed,
    )


def train(
    prior: T2MGPTPrior,
    clips: Sequence[MotionClip],
    config: T2MGPTTrainConfig,
    out_dir: Path,
    validation: Sequence[MotionClip] = (),
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> tuple[T2MGPTPrior, pd.DataFrame]:
    """Train a copy of `prior` on `clips`; returns it and its loss curves (see `train_stages`).

    Reconstruction is compared on whole clips; `total` and `accuracy` of the transformer are
    cross-entropy and share of right predictions, in validation with the tokens as they are.
    `out_dir` keeps the state of each stage: the same call goes on where it was interrupted, bit for
    bit on a CPU.

    Raises:
        InputError: unusable clips, a damaged state file, or a loss that is no longer finite.
    """
    return train_stages(
        prior, clips, config, _task, out_dir, "t2mgpt", validation, progress, device
    )


def gpt_losses(
    model: TokenGPT,
    tokens: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    text: Float[Tensor, "B W"],
    shown: Int[Tensor, "B N"],
) -> tuple[Float[Tensor, "B N+1"], Bool[Tensor, "B N+1"], Bool[Tensor, "B N+1"]]:
    """Cross-entropy of every token and of the end, which are predicted best, and which count.

    shown: what the model reads in place of `tokens`. `valid` is a prefix of each row. Padding does
    not count, nor does the end of a motion of `max_tokens`: it may have been cut there, and
    sampling goes no further.
    """
    places = torch.arange(tokens.shape[1] + 1, device=tokens.device)
    counts = valid.sum(1, keepdim=True)
    targets = F.pad(tokens, (0, 1)).masked_fill(places >= counts, model.end_id)
    counted = (places <= counts) & (places < model.config.max_tokens)
    logits = model(shown, text)
    loss = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return loss, logits.argmax(-1) == targets, counted


def corrupted(
    tokens: Int[Tensor, "B N"], codes: int, keep: float, rng: np.random.Generator
) -> Int[Tensor, "B N"]:
    """Tokens of which a share of about 1 - `keep` are replaced by any of the codes."""
    kept = torch.from_numpy(rng.random(tokens.shape) < keep)
    others = torch.from_numpy(rng.integers(0, codes, tokens.shape))
    return torch.where(kept.to(tokens.device), tokens, others.to(tokens.device))


def _task(config: T2MGPTTrainConfig, name: str, data: TokenData, held_out: TokenData) -> TokenTask:
    batch_size = config.stage(name).batch_size

    def validate(averaged: TokenGPT) -> dict[str, float]:
        return gpt_validation(averaged, held_out, batch_size)

    return TokenTask(_losses(data, batch_size, config.keep, config.seed), validate, (config.keep,))


def _losses(
    data: TokenData, batch_size: int, keep: float, seed: int
) -> Callable[[TokenGPT, int], dict[str, Tensor]]:
    def losses(model: TokenGPT, step: int) -> dict[str, Tensor]:
        device = next(model.parameters()).device
        tokens, valid, text = (x.to(device) for x in data.step(batch_size, seed, step))
        tokens = tokens[..., 0]
        rng = np.random.default_rng([seed, CORRUPTION, step])
        shown = corrupted(tokens, model.config.codes, keep, rng)
        loss, right, counted = gpt_losses(model, tokens, valid, text, shown)
        # Every motion counts alike, however long it is.
        total = ((loss * counted).sum(1) / counted.sum(1)).mean()
        return {"total": total, "accuracy": right[counted].float().mean()}

    return losses


@torch.no_grad()
def gpt_validation(model: TokenGPT, data: TokenData, batch_size: int) -> dict[str, float]:
    """Cross-entropy ("total") and accuracy on clips from their first frame on, with their text.

    Averaged over predictions. The model is shown the tokens as they are.
    """
    device = next(model.parameters()).device
    total = hits = predictions = 0.0
    for _, batch in data.whole(batch_size):
        tokens, valid, text = (x.to(device) for x in batch)
        tokens = tokens[..., 0]
        loss, right, counted = gpt_losses(model.eval(), tokens, valid, text, tokens)
        total, hits = total + float(loss[counted].sum()), hits + float(right[counted].sum())
        predictions += int(counted.sum())
    return {"total": total / predictions, "accuracy": hits / predictions}
