"""Training a motion prior: exact resume, moving average of the weights, condition dropout.

Everything random at a step (which clips, crops, captions, timesteps, noise, dropped texts) follows
from the seed and the step's number alone. Arms that differ in their losses thus see the same data
and the same noise, and a training that was interrupted ends where an uninterrupted one ends.
"""

import copy
import json
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import DDPMScheduler
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from t2imu_utils.priors.batches import Batch, Dataset, step_items
from t2imu_utils.priors.checkpoints import Prior
from t2imu_utils.priors.diffusion import add_noise, schedule
from t2imu_utils.priors.losses import LossWeights, motion_losses
from t2imu_utils.priors.mdm import MDM
from t2imu_utils.runs import atomic_write, sha256

# Which of the random streams of a seed (0, the order of the data, is that of `batches`).
STEP, VALIDATION = 1, 2


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training; learning rate and dropout of conditions as in MDM.

    ema_decay: of the moving average of the weights, which is what `train` returns; it starts lower,
    min(ema_decay, (1 + n) / (10 + n)) after n steps, so that short trainings forget their start;
    0 returns the last weights. max_frames: longer clips are cropped at random. checkpoint_every,
    validate_every: in steps; validate_every 0 validates at the end alone.
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
        }
        for name, good in checks.items():
            if not good:
                raise InputError(
                    f"TrainConfig: {name}", str(getattr(self, name)), "a value in its range",
                    "See the docstring of TrainConfig.",
                )  # fmt: skip


def draw_batch(data: Dataset, config: TrainConfig, diffusion_steps: int, step: int) -> Batch:
    """The batch of a step: a function of the data, the seed and the step's number."""
    rng = np.random.default_rng([config.seed, STEP, step])
    shown = np.minimum(data.lengths, config.max_frames)
    items = step_items(shown, config.batch_size, config.seed, step)
    spare = data.lengths[items] - shown[items]
    return data.batch(
        items,
        starts=rng.integers(0, spare + 1),
        captions=rng.integers(0, [len(data.captions[i]) for i in items]),
        max_frames=config.max_frames,
        t=torch.from_numpy(rng.integers(0, diffusion_steps, len(items))),
        drop_text=torch.from_numpy(rng.random(len(items)) < config.condition_dropout),
        noise=_generator(rng),
    )


def _generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**63)))


def batch_losses(
    model: MDM,
    batch: Batch,
    normaliser: Normaliser,
    weights: LossWeights,
    scheduler: DDPMScheduler,
    all_terms: bool = False,
) -> dict[str, Float[Tensor, "B"]]:
    """Noise a batch, predict it clean, and compare: eqs. (2)-(6), one value a sample."""
    x_t = add_noise(batch.x0, batch.noise, batch.t, scheduler)
    x0_hat = model(x_t, batch.t, batch.text, batch.text_valid, batch.mask, batch.drop_text)
    return motion_losses(batch.x0, x0_hat, batch.mask, weights, normaliser, all_terms)


@torch.inference_mode()
def validation_losses(
    model: MDM,
    data: Dataset,
    normaliser: Normaliser,
    config: TrainConfig,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """All terms on held-out clips, averaged; timesteps, noise and captions are the same each time.

    Timesteps are spread evenly over the clips; clips are cut at `max_frames`.
    """
    steps, n = model.config.diffusion_steps, len(data)
    scheduler = schedule(steps)
    spread = np.arange(n) * steps // n if n >= steps else np.linspace(0, steps - 1, n).astype(int)
    timesteps = np.random.default_rng([config.seed, VALIDATION, 0]).permutation(spread)
    order = np.argsort(data.lengths, kind="stable")
    sums: dict[str, float] = {}
    for start in range(0, n, config.batch_size):
        items = order[start : start + config.batch_size]
        zeros = np.zeros(len(items), dtype=int)
        batch = data.batch(
            items,
            starts=zeros,
            captions=zeros,
            max_frames=config.max_frames,
            t=torch.from_numpy(timesteps[items]),
            drop_text=torch.zeros(len(items), dtype=torch.bool),
            noise=_generator(np.random.default_rng([config.seed, VALIDATION, 1, start])),
        )
        terms = batch_losses(
            model, batch.to(device), normaliser, config.weights, scheduler, all_terms=True
        )
        for name, values in terms.items():
            sums[name] = sums.get(name, 0.0) + float(values.sum())
    return {name: total / n for name, total in sums.items()}


def ema_decay_at(decay: float, updates: int) -> float:
    """Decay of the moving average after `updates` steps; small at first (see `TrainConfig`)."""
    return min(decay, (1 + updates) / (10 + updates))


def train(
    prior: Prior,
    clips: Sequence[MotionClip],
    config: TrainConfig,
    out_dir: Path,
    validation: Sequence[MotionClip] = (),
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> tuple[Prior, pd.DataFrame]:
    """Train a copy of `prior` on `clips`; returns it (averaged weights) and its loss curves.

    The curves have a row a step (split "train") and a row a validation (split "validation", all
    terms, averaged weights), a column a term; a term that was not computed is NaN. `out_dir` keeps
    the state of the training, named after its ingredients: the same call goes on where it was
    interrupted, bit for bit on a CPU, and returns at once when it had ended.

    Raises:
        InputError: unusable clips, a damaged state file, or a loss that is no longer finite.
    """
    if config.max_frames > prior.config.max_frames:
        raise InputError(
            "TrainConfig: max_frames", str(config.max_frames),
            f"at most the model's {prior.config.max_frames}", "Lower it or enlarge the model.",
        )  # fmt: skip
    data = Dataset(prior, clips)
    held_out = Dataset(prior, validation) if validation else None
    state = _Training(prior, data, config, Path(out_dir), device)
    every = config.validate_every or config.steps
    bar = tqdm(
        total=config.steps, initial=state.step, unit="step", mininterval=2, disable=not progress
    )
    # Dropout draws from the global generator; it is left as it was found.
    with bar, torch.random.fork_rng(enabled=prior.config.dropout > 0):
        while state.step < config.steps:
            batch = draw_batch(data, config, prior.config.diffusion_steps, state.step)
            state.update(batch.to(device))
            ends = state.step == config.steps
            if held_out is not None and (ends or state.step % every == 0):
                terms = validation_losses(state.ema, held_out, prior.normaliser, config, device)
                state.validated.append({"step": state.step, **terms})
            if ends or state.step % config.checkpoint_every == 0:
                state.save()
                bar.set_postfix(loss=f"{state.rows[-1]['total']:.4f}", refresh=False)
            bar.update()
    curves = loss_curves(state.rows, state.validated)
    entry = {"config": asdict(config), "clips": len(clips), "data": data.fingerprint}
    if held_out is not None:
        entry["validation"] = state.validated[-1]
    trained = Prior(state.ema.eval(), prior.normaliser, prior.text_encoder, [*prior.history, entry])
    return trained, curves


class _Training:
    """Weights, their average, optimiser and curves between two steps; what a state file holds."""

    def __init__(self, prior: Prior, data: Dataset, config: TrainConfig, folder: Path, device):
        self.config, self.step = config, 0
        self.normaliser = prior.normaliser
        self.scheduler = schedule(prior.config.diffusion_steps)
        self.model: MDM = copy.deepcopy(prior.model).to(device).train().requires_grad_(True)
        self.ema: MDM = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.rows: list[dict[str, float]] = []
        self.validated: list[dict[str, float]] = []
        self._pending: list[dict[str, Tensor]] = []
        settings = {k: v for k, v in asdict(config).items() if k != "checkpoint_every"}
        ingredients = [
            settings, asdict(prior.config), _weights_hash(prior.model), data.fingerprint,
            prior.text_encoder.fingerprint,
        ]  # fmt: skip
        self.key = sha256(json.dumps(ingredients, sort_keys=True).encode())
        self.path = folder / f"training-{self.key[:12]}.pt"
        if self.path.exists():
            self._load(device)

    def update(self, batch: Batch) -> None:
        """One step of AdamW on the mean of `total`, then of the moving average."""
        if self.model.config.dropout > 0:
            torch.manual_seed(
                int(np.random.default_rng([self.config.seed, STEP, self.step, 1]).integers(2**63))
            )
        terms = batch_losses(
            self.model, batch, self.normaliser, self.config.weights, self.scheduler
        )
        self.optimiser.zero_grad()
        terms["total"].mean().backward()
        self.optimiser.step()
        decay = ema_decay_at(self.config.ema_decay, self.step)
        with torch.no_grad():
            for kept, new in zip(self.ema.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        self.step += 1
        self._pending.append({name: x.detach().mean() for name, x in terms.items()})

    def save(self) -> None:
        """Write the state atomically, after making sure that it is still sound."""
        self._flush()
        content = {
            "key": self.key,
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rows": self.rows,
            "validated": self.validated,
        }
        with atomic_write(self.path) as temporary:
            torch.save(content, temporary)

    def _flush(self) -> None:
        first = self.step - len(self._pending)
        for i, terms in enumerate(self._pending, start=first + 1):
            row = {"step": i, **{name: float(x) for name, x in terms.items()}}
            if not np.isfinite(row["total"]):
                raise InputError(
                    f"training, step {i}: loss", str(row["total"]), "a finite loss",
                    "Lower learning_rate or the weights of the losses.",
                )  # fmt: skip
            self.rows.append(row)
        self._pending.clear()

    def _load(self, device) -> None:
        try:
            content = torch.load(self.path, map_location=device, weights_only=True)
            if content["key"] != self.key:
                raise KeyError("it belongs to another training")
            self.model.load_state_dict(content["model"])
            self.ema.load_state_dict(content["ema"])
            self.optimiser.load_state_dict(content["optimiser"])
            self.step, self.rows = content["step"], content["rows"]
            self.validated = content["validated"]
        except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise InputError(
                self.path,
                f"unreadable ({type(error).__name__})",
                "the state of an interrupted training",
                "Delete the file to train from the start.",
            ) from error


def loss_curves(
    trained: Sequence[dict[str, float]], validated: Sequence[dict[str, float]]
) -> pd.DataFrame:
    """Loss curves of training steps and validations: step, split, and a column for each term."""
    splits = {"train": trained, "validation": validated}
    rows = [{**row, "split": split} for split, group in splits.items() for row in group]
    columns = ["step", "split", "simple", "pos", "foot", "vel", "acc", "total"]
    return pd.DataFrame(rows, columns=columns)


def _weights_hash(model: nn.Module) -> str:
    parts = [f"{k}:{sha256(x.cpu().numpy().tobytes())}" for k, x in model.state_dict().items()]
    return sha256("\n".join(parts).encode())
