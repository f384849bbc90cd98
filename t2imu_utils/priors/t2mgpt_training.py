"""Training T2M-GPT: its tokeniser of one codebook, then the transformer on corrupted tokens."""

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
from torch import Tensor

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.priors.loop import LoopConfig, Rows, run_loop
from t2imu_utils.priors.losses import LossWeights
from t2imu_utils.priors.momask_training import COLUMNS, Stage
from t2imu_utils.priors.rvq import STRIDE
from t2imu_utils.priors.rvq_training import (
    RVQTrainConfig,
    motions_hash,
    normalised_motions,
    train_rvq,
)
from t2imu_utils.priors.t2mgpt import T2MGPTPrior, TokenGPT
from t2imu_utils.priors.token_data import TokenData
from t2imu_utils.runs import sha256

STAGES = ("rvq", "gpt")
BETAS = {"rvq": (0.9, 0.99), "gpt": (0.5, 0.9)}
# Which of the random streams of a seed.
CORRUPTION = 13


@dataclass(frozen=True)
class T2MGPTTrainConfig:
    """Settings of the training of a whole T2M-GPT; the recipe is the published one.

    steps: of both stages together, divided by their shares. keep: share of the tokens that the
    transformer is shown as they are; the others are random codes. window, weights, decoder_only: of
    the tokeniser (`RVQTrainConfig`); `weights.acc` is lambda_acc on the decoder's output.
    ema_decay: of a moving average of the transformer's weights, which the original does not have.
    The text is never dropped.
    """

    steps: int
    rvq: Stage = Stage(0.5, 256, warmup=0.0033, milestones=(0.67,), decay=0.05)
    gpt: Stage = Stage(0.5, 128, 1e-4, 1e-6, warmup=0.0, milestones=(0.5,), decay=0.05)
    keep: float = 0.5
    window: int = 64
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
                "T2MGPTTrainConfig: shares", str(shares), "two shares that add up to 1",
                "Divide the steps between rvq and gpt.",
            )  # fmt: skip
        steps = self.stage_steps()
        if any(steps[stage] < 1 for stage in STAGES if getattr(self, stage).share > 0):
            raise InputError(
                "T2MGPTTrainConfig: steps", str(self.steps), "a step or more for each stage",
                "Raise steps, or set the share of a stage to 0 to keep its network.",
            )  # fmt: skip
        if not 0 <= self.keep <= 1:
            raise InputError(
                "T2MGPTTrainConfig: keep", str(self.keep), "a share of 0 to 1", "T2M-GPT uses 0.5."
            )
        if any(getattr(self, stage).text_dropout for stage in STAGES):
            raise InputError(
                "T2MGPTTrainConfig: text_dropout", "more than 0", "0",
                "T2M-GPT has no guidance and is always trained with its text.",
            )  # fmt: skip

    def stage_steps(self) -> dict[str, int]:
        """Steps of each stage, of `steps` in all."""
        first = round(self.rvq.share * self.steps)
        return {"rvq": first, "gpt": self.steps - first}

    def loop(self, name: str) -> LoopConfig:
        """The loop of one stage."""
        stage: Stage = getattr(self, name)
        steps = self.stage_steps()[name]
        warmup = round(stage.warmup * steps)
        return LoopConfig(
            steps=steps,
            learning_rate=stage.learning_rate,
            betas=BETAS[name],
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
) -> T2MGPTTrainConfig:
    """A short training: one batch size and one rate in both stages, which rises and does not fall.

    See `momask_training.plain_training`.
    """
    stage = Stage(0.5, batch_size, learning_rate, warmup=0.02)
    return T2MGPTTrainConfig(steps, stage, stage, seed=seed)


def refinement(
    steps: int, batch_size: int, learning_rate: float, weights: LossWeights, seed: int = 0
) -> T2MGPTTrainConfig:
    """Fine-tuning of the decoder alone, with L_acc where `weights.acc` is above 0.

    Encoder and codebook stay, so that tokens keep their meaning and the transformer still fits.
    """
    stage = Stage(1.0, batch_size, learning_rate, warmup=0.02)
    return T2MGPTTrainConfig(
        steps, stage, Stage(0.0), weights=weights, decoder_only=True, seed=seed
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
    """Train a copy of `prior` on `clips`; returns it and its loss curves.

    The curves have a row a step (split "train") and a row a validation (split "validation"), a
    column a term; `step` counts on from stage to stage, and terms of the other stage are NaN.
    Reconstruction is compared on whole clips; `total` and `accuracy` of the transformer are
    cross-entropy and share of right predictions, in validation with the tokens as they are.
    `out_dir` keeps the state of each stage: the same call goes on where it was interrupted, bit for
    bit on a CPU.

    Raises:
        InputError: unusable clips, a damaged state file, or a loss that is no longer finite.
    """
    motions = normalised_motions(prior.normaliser, clips)
    held_out = normalised_motions(prior.normaliser, validation) if validation else []
    folder, steps = Path(out_dir), config.stage_steps()
    networks = {name: copy.deepcopy(getattr(prior, name)).to(device) for name in STAGES}
    curves: list[dict] = []
    done = 0
    for name in STAGES:
        if not steps[name]:
            continue
        path, loop = folder / f"t2mgpt-{name}.pt", config.loop(name)
        if name == "rvq":
            settings = RVQTrainConfig(
                config.rvq.batch_size,
                config.window,
                level_dropout=0.0,
                weights=config.weights,
                decoder_only=config.decoder_only,
            )
            result = train_rvq(
                networks[name], prior.normaliser, motions, settings, loop, path, held_out, progress
            )
        else:
            longest = prior.config.transformer.max_tokens
            tokens = [
                TokenData(networks["rvq"], prior.text_encoder, longest, x, group)
                for x, group in ((motions, clips), (held_out, validation))
            ]
            result = _train_gpt(networks[name], *tokens, config, loop, path, progress)
        networks[name], rows, checks = result
        for split, group in (("train", rows), ("validation", checks)):
            shifted = [{**row, "step": row["step"] + done} for row in group]
            curves += [{**row, "stage": name, "split": split} for row in shifted]
        done += steps[name]
    table = pd.DataFrame(curves, columns=list(COLUMNS))
    entry = {"config": asdict(config), "clips": len(clips), "data": motions_hash(motions)}
    if validation:
        last = table[table["split"] == "validation"].groupby("stage", sort=False).last()
        entry["validation"] = {
            stage: {k: float(x) for k, x in row.drop("split").dropna().items()}
            for stage, row in last.iterrows()
        }
    return replace(prior, **networks, history=[*prior.history, entry]), table


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


def _train_gpt(
    model: TokenGPT,
    data: TokenData,
    held_out: TokenData,
    config: T2MGPTTrainConfig,
    loop: LoopConfig,
    path: Path,
    progress: bool,
) -> tuple[TokenGPT, Rows, Rows]:
    stage = config.gpt
    ingredients = [asdict(stage), config.keep, data.fingerprint, held_out.fingerprint]
    key = sha256(json.dumps(ingredients, sort_keys=True).encode())
    losses = _losses(data, stage.batch_size, config.keep, loop.seed)

    def validate(averaged: TokenGPT) -> dict[str, float]:
        return gpt_validation(averaged, held_out, stage.batch_size)

    return run_loop(model, losses, loop, path, key, validate if len(held_out) else None, progress)


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
    counts = np.minimum(data.frames // STRIDE, data.max_tokens)
    order = np.argsort(counts, kind="stable")
    total = hits = predictions = 0.0
    for start in range(0, len(order), batch_size):
        items = order[start : start + batch_size]
        zeros = np.zeros(len(items), dtype=int)
        batch = data.batch(items, zeros, counts[items], zeros)
        tokens, valid, text = (x.to(device) for x in batch)
        tokens = tokens[..., 0]
        loss, right, counted = gpt_losses(model.eval(), tokens, valid, text, tokens)
        total, hits = total + float(loss[counted].sum()), hits + float(right[counted].sum())
        predictions += int(counted.sum())
    return {"total": total / predictions, "accuracy": hits / predictions}
