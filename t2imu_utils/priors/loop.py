"""The training loop of the priors beside MDM: exact resume, warm-up, moving average, curves."""

import copy
import json
import pickle
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write, sha256
from t2imu_utils.priors.early_stopping import Best
from t2imu_utils.priors.training import ema_decay_at

Model = TypeVar("Model", bound=nn.Module)
Rows = list[dict[str, float]]

# Which of the random streams of a seed the layers draw from (dropout, noise of the global
# generator); 0 to 2 are those of `batches` and `training`.
LAYERS, CHECKS = 3, 4
# The term by which early stopping chooses.
CRITERION = "total"


@dataclass(frozen=True)
class LoopConfig:
    """Settings of one training with AdamW.

    warmup: steps over which the learning rate rises linearly to its value. milestones: steps
    counted after the warm-up, ascending; at each the rate is multiplied by `decay`. ema_decay: of
    the moving average of the weights, lower at the start (`training.ema_decay_at`); 0 keeps none.
    validate_every: in steps; 0 validates at the end alone. early_stopping: whether the weights of
    the validation with the lowest `CRITERION` are returned, instead of the last. grad_clip: largest
    norm of the gradient.
    """

    steps: int
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup: int = 0
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    ema_decay: float = 0.0
    checkpoint_every: int = 500
    validate_every: int = 0
    seed: int = 0
    grad_clip: float | None = None
    early_stopping: bool = False

    def __post_init__(self):
        checks = {
            "steps": self.steps >= 1,
            "learning_rate": self.learning_rate > 0,
            "betas": len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            "weight_decay": self.weight_decay >= 0,
            "warmup": self.warmup >= 0,
            "milestones": list(self.milestones) == sorted(self.milestones),
            "decay": self.decay > 0,
            "ema_decay": 0 <= self.ema_decay < 1,
            "checkpoint_every": self.checkpoint_every >= 1,
            "validate_every": self.validate_every >= 0,
            "seed": self.seed >= 0,
            "grad_clip": self.grad_clip is None or self.grad_clip > 0,
        }
        for name, good in checks.items():
            if not good:
                raise InputError(
                    f"LoopConfig: {name}", str(getattr(self, name)), "a value in its range",
                    "See the docstring of LoopConfig.",
                )  # fmt: skip


def learning_rate_at(config: LoopConfig, step: int) -> float:
    """Learning rate of a step (0 is the first)."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / (config.warmup + 1)
    passed = sum(step - config.warmup >= milestone for milestone in config.milestones)
    return config.learning_rate * config.decay**passed


def run_loop(
    model: Model,
    losses: Callable[[Model, int], dict[str, Tensor]],
    config: LoopConfig,
    path: Path,
    key: str,
    validate: Callable[[Model], dict[str, float]] | None = None,
    progress: bool = True,
) -> tuple[Model, Rows, Rows]:
    """Train a copy of `model`, on the device where it lies.

    losses: (model in training mode, step from 0) -> scalar terms, "total" among them, which is
    minimised. What it draws must follow from the step alone or come from torch's global generator,
    which is seeded at every step and left as it was found. What the model keeps beside its weights
    (codebook sums) must be buffers, so that it is resumed too. Parameters that need no gradient are
    left as they are.

    path: the state file; its stem gets a hash of `key`, `config` and the weights at the start, so
    that trainings with other ingredients do not mix. key: hash of all that `losses` depends on.
    The same call goes on where it was interrupted, bit for bit on a CPU, and returns at once when
    it had ended.

    validate: (averaged model in evaluation mode) -> terms, without gradients.

    Returns:
        the averaged model (the last one where `ema_decay` is 0) in evaluation mode, a row for each
        training step and a row for each validation; rows have "step", from 1, and the terms.

    Raises:
        InputError: a damaged state file, or a loss or weights that are no longer finite.
    """
    state = _State(model, config, Path(path), key)
    every = config.validate_every or config.steps
    bar = tqdm(
        total=config.steps, initial=state.step, unit="step", desc=Path(path).stem, mininterval=2,
        disable=not progress,
    )  # fmt: skip
    with bar, torch.random.fork_rng():
        while state.step < config.steps:
            torch.manual_seed(_seed(config.seed, LAYERS, state.step))
            state.update(losses)
            ends = state.step == config.steps
            if validate is not None and (ends or state.step % every == 0):
                state.flush()
                with state.averaged() as averaged, torch.no_grad():
                    torch.manual_seed(_seed(config.seed, CHECKS, 0))
                    terms = validate(averaged)
                    state.validated.append({"step": state.step, **terms})
                    if config.early_stopping:
                        state.best.offer(averaged, state.step, terms[CRITERION])
            if ends or state.step % config.checkpoint_every == 0:
                state.save()
                bar.set_postfix(loss=f"{state.rows[-1]['total']:.4f}", refresh=False)
            bar.update()
    with state.averaged() as averaged:
        trained = averaged
    if config.early_stopping and validate is not None:
        state.best.restore(trained)
    return trained.eval(), state.rows, state.validated


class _State:
    """Weights, their average, optimiser and curves between two steps; what a state file holds."""

    def __init__(self, model: nn.Module, config: LoopConfig, path: Path, key: str):
        self.config, self.step = config, 0
        self.model = copy.deepcopy(model).train()
        self.ema = copy.deepcopy(self.model).eval() if config.ema_decay else None
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.trained,
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.rows: Rows = []
        self.validated: Rows = []
        self.best = Best()
        self._pending: list[dict[str, Tensor]] = []
        settings = {k: v for k, v in asdict(config).items() if k != "checkpoint_every"}
        ingredients = [key, settings, weights_hash(model)]
        self.key = sha256(json.dumps(ingredients, sort_keys=True).encode())
        self.path = path.with_name(f"{path.stem}-{self.key[:12]}{path.suffix or '.pt'}")
        if self.path.exists():
            self._load()

    def update(self, losses: Callable[[nn.Module, int], dict[str, Tensor]]) -> None:
        """One step of AdamW on `total`, then of the moving average."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate_at(self.config, self.step)
        terms = losses(self.model, self.step)
        self.optimiser.zero_grad()
        terms["total"].backward()
        if self.config.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.trained, self.config.grad_clip)
        self.optimiser.step()
        if self.ema is not None:
            share = 1 - ema_decay_at(self.config.ema_decay, self.step)
            with torch.no_grad():
                pairs = zip(self.ema.parameters(), self.model.parameters(), strict=True)
                for kept, new in pairs:
                    kept.lerp_(new, share)
                # Buffers are averages already, or constants.
                for kept, new in zip(self.ema.buffers(), self.model.buffers(), strict=True):
                    kept.copy_(new)
        self.step += 1
        self._pending.append({name: x.detach() for name, x in terms.items()})

    @contextmanager
    def averaged(self):
        """What is validated and returned, in evaluation mode."""
        chosen = self.model if self.ema is None else self.ema
        chosen.eval()
        yield chosen
        self.model.train()

    def flush(self) -> None:
        """Read the losses of the last steps; refuse those that are not finite."""
        first = self.step - len(self._pending)
        for i, terms in enumerate(self._pending, start=first + 1):
            row = {"step": i, **{name: float(x) for name, x in terms.items()}}
            if not np.isfinite(row["total"]):
                raise self._diverged(i, str(row["total"]))
            self.rows.append(row)
        self._pending.clear()
        if not all(bool(p.isfinite().all()) for p in self.trained):
            raise self._diverged(self.step, "weights that are not finite")

    def _diverged(self, step: int, found: str) -> InputError:
        return InputError(
            f"training, step {step}: loss", found, "a finite loss",
            "Lower learning_rate or the weights of the losses.",
        )  # fmt: skip

    def save(self) -> None:
        """Write the state atomically, after making sure that it is still sound."""
        self.flush()
        content = {
            "key": self.key,
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rows": self.rows,
            "validated": self.validated,
            "best": self.best.state(),
        }
        with atomic_write(self.path) as temporary:
            torch.save(content, temporary)

    def _load(self) -> None:
        try:
            content = torch.load(self.path, map_location=self.trained[0].device, weights_only=True)
            if content["key"] != self.key:
                raise KeyError("it belongs to another training")
            self.model.load_state_dict(content["model"])
            if self.ema is not None:
                self.ema.load_state_dict(content["ema"])
            self.optimiser.load_state_dict(content["optimiser"])
            self.step, self.rows = content["step"], content["rows"]
            self.validated = content["validated"]
            self.best.load(content["best"])
        except (
            RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError,
        ) as error:  # fmt: skip
            raise InputError(
                self.path,
                f"unreadable ({type(error).__name__})",
                "the state of an interrupted training",
                "Delete the file to train from the start.",
            ) from error


def weights_hash(model: nn.Module) -> str:
    """Hash of all parameters and buffers of a model, with their names."""
    parts = [f"{k}:{sha256(x.cpu().numpy().tobytes())}" for k, x in model.state_dict().items()]
    return sha256("\n".join(parts).encode())


def _seed(*stream: int) -> int:
    return int(np.random.default_rng(stream).integers(2**63))
