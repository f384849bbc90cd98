"""Training a motion prior: exact resume, moving average of the weights, condition dropout.

Everything random at a step (which clips, crops, captions, timesteps, noise, dropped texts) follows
from the seed and the step's number alone. Arms that differ in their losses thus see the same data
and the same noise, and a training that was interrupted ends where an uninterrupted one ends.
Several processes (see `parallel`) draw the same batch and share out its rows.
"""

import copy
import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write, sha256
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from t2imu_utils.priors.batches import Batch, Dataset, step_items
from t2imu_utils.priors.checkpoints import Prior
from t2imu_utils.priors.diffusion import add_noise, schedule
from t2imu_utils.priors.early_stopping import Best, kept_row
from t2imu_utils.priors.losses import LossWeights, motion_losses
from t2imu_utils.priors.mdm import MDM, Stack
from t2imu_utils.priors.parallel import Team, launch
from t2imu_utils.priors.train_config import TrainConfig, check_early_stopping, check_precision

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

# Which of the random streams of a seed (0, the order of the data, is that of `batches`).
STEP, VALIDATION = 1, 2
# The term by which early stopping chooses.
CRITERION = "simple"
# Settings that change the order of sums at most, as the number of processes does.
ROUNDING = ("checkpoint_every", "accumulate", "compile")


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
    model: Callable[..., Tensor],
    batch: Batch,
    normaliser: Normaliser,
    weights: LossWeights,
    scheduler: "DDPMScheduler",
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
    processes: int = 1,
) -> tuple[Prior, pd.DataFrame]:
    """Train a copy of `prior` on `clips`; returns it (averaged weights) and its loss curves.

    The curves have a row a step (split "train") and a row a validation (split "validation", all
    terms, averaged weights), a column a term; a term that was not computed is NaN. `out_dir` keeps
    the state of the training, named after its ingredients: the same call goes on where it was
    interrupted, bit for bit on a CPU, and returns at once when it had ended.

    processes: more than 1 trains data-parallel in new processes (`parallel.launch`), on as many
    CUDA devices where `device` is one; the batch of a step is the same, and so are losses and
    weights up to the order of sums where the model has no dropout. Another number may go on with a
    state. The model then comes back on the CPU.

    Raises:
        InputError: unusable clips, none held out for early stopping, a damaged state file, a loss
            that is no longer finite, a precision that the device lacks, too many processes, or one
            that was killed.
    """
    if config.max_frames > prior.config.max_frames:
        raise InputError(
            "TrainConfig: max_frames", str(config.max_frames),
            f"at most the model's {prior.config.max_frames}", "Lower it or enlarge the model.",
        )  # fmt: skip
    if not 1 <= processes <= config.batch_size // config.accumulate:
        raise InputError(
            "training: processes", f"{processes}, each with {config.accumulate} parts of a batch",
            f"from 1 to as many as give each part one of the {config.batch_size} clips",
            "Change num_processes, accumulate or batch_size.",
        )  # fmt: skip
    check_early_stopping(config, validation)
    task = _Task(
        prior.model,
        prior.normaliser,
        prior.text_encoder.fingerprint,
        Dataset(prior, clips),
        Dataset(prior, validation) if validation else None,
        config,
        Path(out_dir),
    )
    state = _Training(task, Team(device if processes == 1 else "cpu"))
    bar = tqdm(
        total=config.steps, initial=state.step, unit="step", mininterval=2, disable=not progress
    )

    def tell(step: int, loss: float | None) -> None:
        if loss is not None:
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        bar.update(step - bar.n)

    with bar:
        if processes == 1:
            # Dropout draws from the global generator; it is left as it was found.
            with torch.random.fork_rng(enabled=prior.config.dropout > 0):
                _run(state, tell)
        elif state.step < config.steps:
            launch(_work, task, processes, device, tell)
            state.load()
            tell(state.step, None)
    if state.step < config.steps:
        raise KeyboardInterrupt(f"training: interrupted after step {state.step} of {config.steps}")
    curves = loss_curves(state.rows, state.validated)
    entry = {"config": config.record(), "clips": len(clips), "data": task.data.fingerprint}
    if task.held_out is not None:
        entry["validation"] = kept_row(state.validated, CRITERION, config.early_stopping)
    if config.early_stopping:
        state.best.restore(state.ema)
    return replace(prior, model=state.ema.eval(), history=[*prior.history, entry]), curves


@dataclass(frozen=True)
class _Task:
    """What a process needs for its share of a training; encoder: fingerprint of the text encoder,
    which is not needed itself."""

    model: MDM
    normaliser: Normaliser
    encoder: str
    data: Dataset
    held_out: Dataset | None
    config: TrainConfig
    folder: Path


def _work(team: Team, task: _Task) -> None:
    """One process of several; what is trained ends in the state file."""
    _run(_Training(task, team), team.tell)


def _run(state: "_Training", tell: Callable[[int, float | None], None]) -> None:
    """All steps that are left, with their validations and checkpoints."""
    task, config, team = state.task, state.config, state.team
    check_precision(config.precision, team.device)
    every = config.validate_every or config.steps
    state.prepare()
    while state.step < config.steps:
        batch = draw_batch(task.data, config, task.model.config.diffusion_steps, state.step)
        state.update(batch)
        ends = state.step == config.steps
        if team.first and task.held_out is not None and (ends or state.step % every == 0):
            terms = validation_losses(
                state.ema, task.held_out, task.normaliser, config, team.device
            )
            state.validated.append({"step": state.step, **terms})
            if config.early_stopping:
                state.best.offer(state.ema, state.step, terms[CRITERION])
        saves = ends or state.step % config.checkpoint_every == 0
        if saves:
            state.save()
        tell(state.step, state.rows[-1]["total"] if saves else None)


class _Training:
    """Weights, their average, optimiser and curves between two steps; what a state file holds."""

    def __init__(self, task: _Task, team: Team):
        config = task.config
        self.task, self.team, self.config, self.step = task, team, config, 0
        self.scheduler = schedule(task.model.config.diffusion_steps)
        self.model: MDM = copy.deepcopy(task.model).to(team.device).train().requires_grad_(True)
        self.ema: MDM = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.rows: list[dict[str, float]] = []
        self.validated: list[dict[str, float]] = []
        self.best = Best()
        self._pending: list[dict[str, Tensor | float]] = []
        self._joined: nn.Module = self.model
        ingredients = [
            config.record(*ROUNDING), asdict(task.model.config), _weights_hash(task.model),
            task.data.fingerprint, task.encoder,
        ]  # fmt: skip
        if config.early_stopping:
            ingredients.append(task.held_out.fingerprint)
        self.key = sha256(json.dumps(ingredients, sort_keys=True).encode())
        self.path = task.folder / f"training-{self.key[:12]}.pt"
        if self.path.exists():
            self.load()

    def prepare(self) -> None:
        """Compile the layers where asked to, and join the other processes."""
        if self.config.compile:
            stack = next(part for part in self.model.children() if isinstance(part, Stack))
            stack.compile(dynamic=True)
        self._joined = self.team.join(self.model)

    def _predict(self, *inputs: Tensor) -> Tensor:
        if self.config.precision == "float32":
            return self._joined(*inputs)
        with torch.autocast(self.team.device.type, dtype=torch.bfloat16):
            return self._joined(*inputs).float()

    def _parts(self, batch: Batch) -> Iterator[tuple[Batch, float, bool]]:
        """This process's parts of a batch, the share of each in it, and whether it is the last."""
        size, team, k = len(batch.t), self.team, self.config.accumulate
        for i in range(team.index * k, (team.index + 1) * k):
            start, end = (size * n // (team.count * k) for n in (i, i + 1))
            part = Batch(**{name: x[start:end] for name, x in vars(batch).items()})
            yield part.to(team.device), (end - start) / size, i + 1 == (team.index + 1) * k

    def update(self, batch: Batch) -> None:
        """One step of AdamW on the mean of `total`, then of the moving average."""
        if self.model.config.dropout > 0:
            stream = [self.config.seed, STEP, self.step, 1]
            stream += [self.team.index] if self.team.index else []
            torch.manual_seed(int(np.random.default_rng(stream).integers(2**63)))
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.learning_rate_at(self.step)
        self.optimiser.zero_grad()
        means: dict[str, Tensor] = {}
        for part, share, last in self._parts(batch):
            with nullcontext() if last else self.team.apart(self._joined):
                terms = batch_losses(
                    self._predict, part, self.task.normaliser, self.config.weights, self.scheduler
                )
                # Processes average their gradients, which here are to add up.
                (terms["total"].mean() * (share * self.team.count)).backward()
            for name, x in terms.items():
                mean = x.detach().mean() * share
                means[name] = means[name] + mean if name in means else mean
        self.optimiser.step()
        if self.team.first:
            decay = ema_decay_at(self.config.ema_decay, self.step)
            with torch.no_grad():
                for kept, new in zip(self.ema.parameters(), self.model.parameters(), strict=True):
                    kept.lerp_(new, 1 - decay)
        self.step += 1
        self._pending.append(means)

    def save(self) -> None:
        """Write the state atomically, after making sure that it is still sound."""
        self._flush()
        if not self.team.first:
            return
        content = {
            "key": self.key,
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rows": self.rows,
            "validated": self.validated,
            "best": self.best.state(),
        }
        with atomic_write(self.path) as temporary:
            torch.save(content, temporary)

    def _flush(self) -> None:
        first = self.step - len(self._pending)
        if self.team.count > 1:
            names = list(self._pending[0])
            table = torch.stack([torch.stack(list(terms.values())) for terms in self._pending])
            summed = self.team.sum(table).tolist()
            self._pending = [dict(zip(names, values, strict=True)) for values in summed]
        for i, terms in enumerate(self._pending, start=first + 1):
            row = {"step": i, **{name: float(x) for name, x in terms.items()}}
            if not np.isfinite(row["total"]):
                raise InputError(
                    f"training, step {i}: loss", str(row["total"]), "a finite loss",
                    "Lower learning_rate or the weights of the losses.",
                )  # fmt: skip
            self.rows.append(row)
        self._pending.clear()

    def load(self) -> None:
        """Go to where the state file is."""
        try:
            content = torch.load(self.path, map_location=self.team.device, weights_only=True)
            if content["key"] != self.key:
                raise KeyError("it belongs to another training")
            self.model.load_state_dict(content["model"])
            self.ema.load_state_dict(content["ema"])
            self.optimiser.load_state_dict(content["optimiser"])
            self.step, self.rows = content["step"], content["rows"]
            self.validated = content["validated"]
            self.best.load(content["best"])
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
