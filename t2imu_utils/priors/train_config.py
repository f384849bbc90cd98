"""How a prior is trained: the settings of one training."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Protocol

import torch

from t2imu_utils.errors import InputError
from t2imu_utils.priors.losses import LossWeights

# Settings that came later: where they have their defaults, nothing is said of them.
LATER = ("accumulate", "precision", "compile", "early_stopping", "warmup", "anneal")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training; learning rate and dropout of conditions as in MDM.

    ema_decay: of the moving average of the weights, which is what `train` returns; it starts lower,
    min(ema_decay, (1 + n) / (10 + n)) after n steps, so that short trainings forget their start; 0
    returns the last weights. warmup: steps over which the learning rate rises linearly to its
    value. anneal: whether it then falls linearly to zero at the last step. max_frames: longer clips
    are cropped at random. checkpoint_every, validate_every: in steps; validate_every 0 validates at
    the end alone. early_stopping: whether the weights with the lowest loss on held-out clips are
    returned, instead of the last; it needs validate_every.

    accumulate: parts in which each process takes its share of a batch, one after the other, to save
    memory; gradients are those of the whole batch. precision: of the network in training; weights,
    losses and validation stay in float32. bfloat16 is slow on a CPU without AMX. compile: whether
    torch compiles the layers of the network for training, which takes a minute or so first; a
    resumed training then equals a whole one to rounding.
    """

    steps: int
    batch_size: int = 32
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    ema_decay: float = 0.999
    condition_dropout: float = 0.1
    max_frames: int = 196
    seed: int = 0
    weights: LossWeights = field(default_factory=LossWeights)
    checkpoint_every: int = 500
    validate_every: int = 0
    accumulate: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    early_stopping: bool = False
    warmup: int = 0
    anneal: bool = False

    def __post_init__(self):
        checks = {
            "steps": self.steps >= 1,
            "batch_size": self.batch_size >= 1,
            "learning_rate": self.learning_rate > 0,
            "weight_decay": self.weight_decay >= 0,
            "ema_decay": 0 <= self.ema_decay < 1,
            "condition_dropout": 0 <= self.condition_dropout <= 1,
            "max_frames": self.max_frames >= 3,
            "seed": self.seed >= 0,
            "checkpoint_every": self.checkpoint_every >= 1,
            "validate_every": self.validate_every >= 0,
            "accumulate": 1 <= self.accumulate <= self.batch_size,
            "precision": self.precision in ("float32", "bfloat16"),
            "warmup": 0 <= self.warmup <= self.steps,
            "early_stopping": not self.early_stopping or self.validate_every >= 1,
        }
        for name, good in checks.items():
            if not good:
                raise InputError(
                    f"TrainConfig: {name}", str(getattr(self, name)), "a value in its range",
                    "See the docstring of TrainConfig.",
                )  # fmt: skip

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step; 0 is the first."""
        rate = self.learning_rate * min(1.0, (step + 1) / (self.warmup + 1))
        return rate * (1 - step / self.steps) if self.anneal else rate

    def record(self, *left_out: str) -> dict[str, Any]:
        """The settings by name, without those of `LATER` that have their defaults."""
        usual = {f.name: f.default for f in fields(self) if f.name in LATER}
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in left_out and not (name in usual and value == usual[name])
        }


def check_precision(precision: str, device: torch.device) -> None:
    """Raise an `InputError` where a device does not compute in this precision."""
    if precision == "float32" or device.type == "cpu":
        return
    if device.type != "cuda" or not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        raise InputError(
            "TrainConfig: precision", f"{precision} on {name}",
            "a CUDA device of compute capability 8.0 or more (Ampere), or a CPU",
            "Set precision to float32.",
        )  # fmt: skip


class Stoppable(Protocol):
    """Settings of any training."""

    early_stopping: bool


def check_early_stopping(config: Stoppable, held_out: Sequence[Any]) -> None:
    """Raise an `InputError` where a training is to be stopped by clips that are not there."""
    if config.early_stopping and not held_out:
        raise InputError(
            "training: early_stopping", "no held-out clips", "some to choose the weights by",
            "Pass validation clips, or set early_stopping to False.",
        )  # fmt: skip
