"""Training in stages: a motion tokeniser, then transformers on its tokens (MoMask, T2M-GPT)."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from t2imu_utils.priors.early_stopping import kept_row
from t2imu_utils.priors.loop import CRITERION, LoopConfig, Rows, run_loop
from t2imu_utils.priors.losses import LossWeights, recorded
from t2imu_utils.priors.rvq_training import (
    RVQTrainConfig,
    motions_hash,
    normalised_motions,
    train_rvq,
)
from t2imu_utils.priors.text import TextEncoder
from t2imu_utils.priors.token_data import TokenData
from t2imu_utils.priors.train_config import check_early_stopping

RVQ_STAGE = "rvq"
COLUMNS = (
    "step", "stage", "split", "total", "reconstruction", "positions", "commit", "simple", "pos",
    "foot", "vel", "acc", "accuracy",
)  # fmt: skip
# Warm-up of the short trainings, as a share of a stage's steps.
SHORT_WARMUP = 0.02


@dataclass(frozen=True)
class Stage:
    """Settings of the training of one network.

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


def short_stage(
    share: float, batch_size: int, learning_rate: float, text_dropout: float = 0.0
) -> Stage:
    """A stage whose learning rate rises and does not fall.

    The published recipes lower the rate after a share of several hundred thousand steps; a
    training of a few thousand would stand still from there on.
    """
    return Stage(share, batch_size, learning_rate, warmup=SHORT_WARMUP, text_dropout=text_dropout)


@dataclass(frozen=True)
class StagedTrainConfig:
    """Settings that trainings in stages share; each stage is a field of type `Stage` beside them.

    steps: of all stages together, divided by their shares. window, weights, decoder_only: of the
    tokeniser (`RVQTrainConfig`); `weights.acc` is lambda_acc on the decoder's output.
    ema_decay: of a moving average of the transformers' weights, which the originals do not have;
    of the decoder's with `decoder_only`. A tokeniser that is trained whole keeps its last weights:
    its codebooks follow the encoder as it is at each step and do not fit an averaged one.
    checkpoint_every, validate_every: in steps, counted from the start of each stage; each stage is
    validated at its end in any case. early_stopping: of each stage, by its own `total`.
    """

    # In the order of their training; the tokeniser first.
    STAGES: ClassVar[tuple[str, ...]] = (RVQ_STAGE,)
    # Of AdamW; those of `LoopConfig` for stages that are not named.
    BETAS: ClassVar[dict[str, tuple[float, float]]] = {}

    steps: int
    _: KW_ONLY
    window: int = 64
    weights: LossWeights = field(default_factory=LossWeights)
    decoder_only: bool = False
    ema_decay: float = 0.0
    checkpoint_every: int = 500
    validate_every: int = 0
    early_stopping: bool = False
    seed: int = 0

    def __post_init__(self):
        own, names = type(self).__name__, ", ".join(self.STAGES)
        shares = [self.stage(name).share for name in self.STAGES]
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise InputError(
                f"{own}: shares", str(shares), f"{len(shares)} shares that add up to 1",
                f"Divide the steps between {names}.",
            )  # fmt: skip
        steps = self.stage_steps()
        if any(steps[name] < 1 for name in self.STAGES if self.stage(name).share > 0):
            raise InputError(
                f"{own}: steps", str(self.steps), "a step or more for each stage",
                "Raise steps, or set the share of a stage to 0 to keep its network.",
            )  # fmt: skip

    def stage(self, name: str) -> Stage:
        """Settings of one stage."""
        return getattr(self, name)

    def stage_steps(self) -> dict[str, int]:
        """Steps of each stage, of `steps` in all."""
        ends = np.cumsum([self.stage(name).share for name in self.STAGES])
        ends = np.round(ends * self.steps).astype(int)
        return dict(zip(self.STAGES, np.diff(ends, prepend=0).tolist(), strict=True))

    def tokeniser(self) -> RVQTrainConfig:
        """What the tokeniser is trained on."""
        return RVQTrainConfig(
            self.stage(RVQ_STAGE).batch_size,
            self.window,
            level_dropout=0.0,
            weights=self.weights,
            decoder_only=self.decoder_only,
        )

    def loop(self, name: str) -> LoopConfig:
        """The loop of one stage."""
        stage, steps = self.stage(name), self.stage_steps()[name]
        warmup = round(stage.warmup * steps)
        averaged = name != RVQ_STAGE or self.decoder_only
        return LoopConfig(
            steps=steps,
            learning_rate=stage.learning_rate,
            betas=self.BETAS.get(name, LoopConfig.betas),
            weight_decay=stage.weight_decay,
            warmup=warmup,
            milestones=tuple(max(round(x * steps) - warmup, 0) for x in stage.milestones),
            decay=stage.decay,
            ema_decay=self.ema_decay if averaged else 0.0,
            checkpoint_every=self.checkpoint_every,
            validate_every=self.validate_every,
            early_stopping=self.early_stopping,
            seed=self.seed,
        )


class TokenTask(NamedTuple):
    """How a transformer is trained on tokens; functions as in `run_loop`.

    settings: what `losses` depends on beside its `Stage`, the data and the loop.
    """

    losses: Callable[[nn.Module, int], dict[str, Tensor]]
    validate: Callable[[nn.Module], dict[str, float]]
    settings: tuple[float, ...] = ()


class TransformerConfig(Protocol):
    """The part of a transformer's sizes that the data must fit."""

    max_tokens: int


class GeneratorConfig(Protocol):
    """Sizes of a generator."""

    transformer: TransformerConfig


class StagedPrior(Protocol):
    """A generator (a dataclass) that holds the network of each stage under the stage's name."""

    config: GeneratorConfig
    normaliser: Normaliser
    text_encoder: TextEncoder
    history: list[dict[str, Any]]


Prior = TypeVar("Prior", bound=StagedPrior)
Config = TypeVar("Config", bound=StagedTrainConfig)


def train_stages(
    prior: Prior,
    clips: Sequence[MotionClip],
    config: Config,
    task: Callable[[Config, str, TokenData, TokenData], TokenTask],
    out_dir: Path,
    prefix: str,
    validation: Sequence[MotionClip] = (),
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> tuple[Prior, pd.DataFrame]:
    """Train copies of the networks of `prior` one after the other; returns prior and loss curves.

    task: (config, stage, tokens of `clips`, tokens of `validation`) -> how that stage's transformer
    is trained. The tokens are those of the tokeniser as it is after its own stage.

    The curves have a row a step (split "train") and a row a validation (split "validation"), a
    column a term (`COLUMNS`); `step` counts on from stage to stage, and terms of another stage are
    NaN. The history of what is returned is one entry longer: "config", "clips" (their number),
    "data" (hash of the motions) and, with `validation`, the last terms of each stage under its
    name. `out_dir` keeps the state of each stage in files PREFIX-STAGE-HASH.pt (see `run_loop`).

    Raises:
        InputError: unusable clips, a damaged state file, or a loss that is no longer finite.
    """
    check_early_stopping(config, validation)
    motions = normalised_motions(prior.normaliser, clips)
    held_out = normalised_motions(prior.normaliser, validation) if validation else []
    networks = {name: copy.deepcopy(getattr(prior, name)).to(device) for name in config.STAGES}
    stages = {name: steps for name, steps in config.stage_steps().items() if steps}
    tokens: list[TokenData] = []
    curves: list[dict] = []
    done = 0
    for name, steps in stages.items():
        path, loop = Path(out_dir) / f"{prefix}-{name}.pt", config.loop(name)
        if name == RVQ_STAGE:
            result = train_rvq(
                networks[name], prior.normaliser, motions, config.tokeniser(), loop, path,
                held_out, progress,
            )  # fmt: skip
        else:
            if not tokens:
                longest = prior.config.transformer.max_tokens
                tokens = [
                    TokenData(networks[RVQ_STAGE], prior.text_encoder, longest, x, group)
                    for x, group in ((motions, clips), (held_out, validation))
                ]
            parts = task(config, name, *tokens)
            ingredients = [asdict(config.stage(name), dict_factory=recorded), *parts.settings]
            ingredients += [data.fingerprint for data in tokens]
            key = sha256(json.dumps(ingredients, sort_keys=True).encode())
            validate = parts.validate if validation else None
            result = run_loop(networks[name], parts.losses, loop, path, key, validate, progress)
        networks[name], rows, checks = result
        curves += _labelled(rows, name, "train", done) + _labelled(checks, name, "validation", done)
        done += steps
    table = pd.DataFrame(curves, columns=list(COLUMNS))
    entry = {
        "config": asdict(config, dict_factory=recorded),
        "clips": len(clips),
        "data": motions_hash(motions),
    }
    if validation:
        checks = table[table["split"] == "validation"]
        entry["validation"] = _kept(checks, config.early_stopping)
    return replace(prior, **networks, history=[*prior.history, entry]), table


def _labelled(rows: Rows, stage: str, split: str, done: int) -> list[dict]:
    return [{**row, "step": row["step"] + done, "stage": stage, "split": split} for row in rows]


def _kept(checks: pd.DataFrame, early_stopping: bool) -> dict[str, dict[str, float]]:
    """Of each stage the validation of the weights that were kept."""
    kept = {}
    for stage, rows in checks.drop(columns="split").groupby("stage", sort=False):
        terms = rows.drop(columns="stage").dropna(axis=1, how="all").to_dict("records")
        row = kept_row(terms, CRITERION, early_stopping)
        kept[stage] = {name: float(x) for name, x in row.items()}
    return kept
