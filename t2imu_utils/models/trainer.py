"""One trainer for all families: exact resume, moving average, several processes, early stopping.

Everything random at a step (which clips, crops, captions, timesteps, noise, dropped texts) follows
from the seed and the step's number alone. Models that differ in their losses thus see the same data
and the same noise, and a training that was interrupted ends where an uninterrupted one ends.
"""

import copy
import json
import math
import os
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.multiprocessing import start_processes
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write, sha256
from t2imu_utils.models.losses import TERMS, LossWeights, recorded
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.motion.features import check_features

# Settings that came later: where they have their defaults, nothing is said of them.
LATER = ("accumulate", "precision", "early_stopping", "warmup", "anneal")
# Settings that change the order of sums at most, as the number of processes does.
ROUNDING = ("checkpoint_every", "accumulate")
# Batches are cut from at most this many batches' worth of shuffled clips, sorted by length. Most of
# the padding goes, while clips of one length (often of one activity) still meet others.
CHUNK = 8
# Captions encoded at a time: padding all of a large corpus to its longest would not fit in memory.
SENTENCES = 1024
# Which of the random streams of a seed: order of the data, steps, validation, layers (dropout, and
# what else draws from the global generator), checks.
ORDER, STEP, VALIDATION, LAYERS, CHECKS = range(5)
# The others wait as long as the first process validates and writes.
PATIENCE = timedelta(hours=24)

Rows = list[dict[str, float]]
# (network, step, part, parts) -> scalar terms, "total" among them, of that part of the step's
# batch; those of all parts add up to the batch's mean.
Losses = Callable[[nn.Module, int, int, int], dict[str, Tensor]]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training; learning rate and dropout of conditions as in MDM.

    ema_decay: of the moving average of the weights, which is what is validated and returned; it
    starts lower (`ema_decay_at`), so that short trainings forget their start; 0 returns the last
    weights. warmup: steps over which the learning rate rises linearly to its value. anneal:
    whether it then falls linearly to zero at the last step. max_frames: longer clips are cropped
    at random. checkpoint_every, validate_every: in steps; validate_every 0 validates at the end
    alone. early_stopping: whether the weights with the lowest loss on held-out clips are returned,
    instead of the last; it needs validate_every. accumulate: parts in which each process takes its
    share of a batch, one after the other, to save memory; gradients are those of the whole batch.
    precision: of MDM in training; weights, losses and validation stay in float32.
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
    early_stopping: bool = False
    warmup: int = 0
    anneal: bool = False

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step; 0 is the first."""
        rate = self.learning_rate * min(1.0, (step + 1) / (self.warmup + 1))
        return rate * (1 - step / self.steps) if self.anneal else rate

    def record(self, *left_out: str) -> dict[str, Any]:
        """The settings by name, without those of `LATER` that have their defaults."""
        usual = {f.name: f.default for f in fields(self) if f.name in LATER}
        return {
            name: value
            for name, value in asdict(self, dict_factory=recorded).items()
            if name not in left_out and not (name in usual and value == usual[name])
        }


@dataclass(frozen=True)
class Batch:
    """What one step trains on; x0 is normalised, noise is N(0, 1), on the CPU until `to`."""

    x0: Float[Tensor, "B T 263"]
    mask: Bool[Tensor, "B T"]
    text: Float[Tensor, "B L W"]
    text_valid: Bool[Tensor, "B L"]
    t: Int[Tensor, "B"]
    noise: Float[Tensor, "B T 263"]
    drop_text: Bool[Tensor, "B"]

    def part(self, number: int, parts: int) -> "Batch":
        """One of as many nearly equal parts."""
        start, end = (len(self.t) * n // parts for n in (number, number + 1))
        return Batch(**{name: x[start:end] for name, x in vars(self).items()})

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(**{name: x.to(device) for name, x in vars(self).items()})


class Dataset:
    """Clips in memory: normalised features, and what conditions on each caption, encoded once."""

    def __init__(self, prior: Any, clips: Sequence[MotionClip]):
        if not clips:
            raise InputError("clips", "none", "at least one clip to train on", "Check the split.")
        for clip in clips:
            check_features(clip.features, clip.name, min_frames=3)
            if not clip.captions:
                raise InputError(f"{clip.name}: captions", "none", "a sentence", "Describe it.")
        normalise = prior.normaliser.normalise
        self.motions = [
            torch.from_numpy(np.asarray(normalise(clip.features), dtype=np.float32))
            for clip in clips
        ]
        self.lengths = np.array([len(x) for x in self.motions])
        sentences = list(dict.fromkeys(text for clip in clips for text in clip.captions))
        number = {text: i for i, text in enumerate(sentences)}
        self.captions = [[number[text] for text in clip.captions] for clip in clips]
        self.tokens: list[Tensor] = []
        for start in range(0, len(sentences), SENTENCES):
            tokens, valid = prior.condition(sentences[start : start + SENTENCES])
            self.tokens += [row[keep] for row, keep in zip(tokens, valid, strict=True)]
        pairs = zip(clips, self.motions, strict=True)
        hashes = [[clip.captions, sha256(x.numpy().tobytes())] for clip, x in pairs]
        self.fingerprint = sha256(json.dumps(hashes).encode())

    def __len__(self) -> int:
        return len(self.motions)

    def batch(
        self,
        items: Sequence[int],
        starts: Sequence[int],
        captions: Sequence[int],
        max_frames: int,
        t: Int[np.ndarray, "B"],
        drop_text: Bool[np.ndarray, "B"],
        rng: np.random.Generator,
    ) -> Batch:
        """Assemble items, each from its start on, with its chosen caption and noise of `rng`."""
        crops = [self.motions[i][s : s + max_frames] for i, s in zip(items, starts, strict=True)]
        x0 = pad_sequence(crops, batch_first=True)
        texts = [self.tokens[self.captions[i][c]] for i, c in zip(items, captions, strict=True)]
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        return Batch(
            x0=x0,
            mask=prefix([len(x) for x in crops]),
            text=pad_sequence(texts, batch_first=True),
            text_valid=prefix([len(x) for x in texts]),
            t=torch.from_numpy(t),
            noise=torch.randn(x0.shape, generator=generator),
            drop_text=torch.from_numpy(drop_text),
        )


def prefix(lengths: Sequence[int]) -> Bool[Tensor, "B L"]:
    """Mask of the first so many places of each row."""
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def draw_batch(
    data: Dataset, config: TrainConfig, diffusion_steps: int, step: int, drops: int = 1
) -> tuple[Batch, list[tuple[int, int]], Bool[np.ndarray, "drops B"]]:
    """The batch of a step, a function of the data, the seed and the step's number; the clip and
    caption of each item; and what is dropped of its conditions, the text first."""
    rng = np.random.default_rng([config.seed, STEP, step])
    shown = np.minimum(data.lengths, config.max_frames)
    items = step_items(shown, config.batch_size, config.seed, step)
    starts = rng.integers(0, data.lengths[items] - shown[items] + 1)
    captions = rng.integers(0, [len(data.captions[i]) for i in items])
    t = rng.integers(0, diffusion_steps, len(items))
    drop = rng.random((drops, len(items))) < config.condition_dropout
    batch = data.batch(items, starts, captions, config.max_frames, t, drop[0], rng)
    return batch, list(zip(items, captions, strict=True)), drop


@torch.inference_mode()
def held_out_losses(
    data: Dataset,
    config: TrainConfig,
    diffusion_steps: int,
    losses: Callable[[Batch, Int[np.ndarray, "B"]], dict[str, Tensor]],
) -> dict[str, float]:
    """`losses` of batches and their clips, averaged over held-out clips.

    Timesteps (spread evenly over the clips), noise and captions are the same each time; clips are
    cut at `max_frames`.
    """
    n, steps = len(data), diffusion_steps
    spread = np.arange(n) * steps // n if n >= steps else np.linspace(0, steps - 1, n).astype(int)
    timesteps = np.random.default_rng([config.seed, VALIDATION, 0]).permutation(spread)
    order = np.argsort(data.lengths, kind="stable")
    sums: dict[str, float] = {}
    for start in range(0, n, config.batch_size):
        items = order[start : start + config.batch_size]
        zeros = np.zeros(len(items), int)
        rng = np.random.default_rng([config.seed, VALIDATION, 1, start])
        batch = data.batch(
            items, zeros, zeros, config.max_frames, timesteps[items], zeros.astype(bool), rng
        )
        for name, values in losses(batch, items).items():
            sums[name] = sums.get(name, 0.0) + float(values.sum())
    return {name: total / n for name, total in sums.items()}


def step_items(
    lengths: Int[np.ndarray, "n"], batch_size: int, seed: int, step: int
) -> Int[np.ndarray, "B"]:
    """The clips of a step: shuffled epochs, end to end, sorted by length within chunks."""
    n = len(lengths)
    # No larger than the data, or a batch would hold the same clips many times.
    batches = min(CHUNK, max(n // batch_size, 1))
    per_chunk = batches * batch_size
    chunk, place = divmod(step, batches)
    first, last = chunk * per_chunk, (chunk + 1) * per_chunk
    epochs = range(first // n, (last - 1) // n + 1)
    stream = np.concatenate(
        [np.random.default_rng([seed, ORDER, 0, epoch]).permutation(n) for epoch in epochs]
    )
    items = stream[first - epochs[0] * n :][:per_chunk]
    items = items[np.argsort(lengths[items], kind="stable")].reshape(batches, batch_size)
    return items[np.random.default_rng([seed, ORDER, 1, chunk]).permutation(batches)[place]]


def ema_decay_at(decay: float, updates: int) -> float:
    """Decay of the moving average after `updates` steps; small at first."""
    return min(decay, (1 + updates) / (10 + updates))


def kept_row(validated: Rows, term: str, early_stopping: bool) -> dict[str, float]:
    """Of all validations that of the weights that a training returns."""
    return min(validated, key=lambda row: row[term]) if early_stopping else validated[-1]


def train_diffusion(
    prior: Any,
    data: Dataset,
    config: TrainConfig,
    out_dir: Path,
    losses: "Losses",
    validate: Callable[[nn.Module], dict[str, float]] | None,
    key: Sequence[Any],
    criterion: str = "total",
    stream: tuple[int, ...] = (LAYERS,),
    progress: bool = True,
    device: torch.device | str = "cpu",
    processes: int = 1,
) -> tuple[Any, pd.DataFrame]:
    """A copy of a diffusion prior, trained (`train`), and its curves.

    The curves have a row a step (split "train") and a row a validation (split "validation", all
    terms, averaged weights), a column a term; a term that was not computed is NaN.
    """
    if config.max_frames > prior.config.max_frames:
        raise InputError(
            "TrainConfig: max_frames", str(config.max_frames),
            f"at most the model's {prior.config.max_frames}", "Lower it or enlarge the model.",
        )  # fmt: skip
    key = key_of(asdict(prior.config), data.fingerprint, prior.text_encoder.fingerprint, *key)
    network = copy.deepcopy(prior.model).requires_grad_(True)
    model, rows, validated = train(
        network, losses, config, Path(out_dir) / "training.pt", key, validate, criterion=criterion,
        stream=stream, progress=progress, device=device, processes=processes,
    )  # fmt: skip
    entry = {"config": config.record(), "clips": len(data), "data": data.fingerprint}
    if validated:
        entry["validation"] = kept_row(validated, criterion, config.early_stopping)
    splits = {"train": rows, "validation": validated}
    table = [{**row, "split": split} for split, group in splits.items() for row in group]
    curves = pd.DataFrame(table, columns=["step", "split", *TERMS, "total"])
    return replace(prior, model=model, history=[*prior.history, entry]), curves


def weights_hash(model: nn.Module) -> str:
    """Hash of all parameters and buffers of a model, with their names."""
    parts = [f"{k}:{sha256(x.cpu().numpy().tobytes())}" for k, x in model.state_dict().items()]
    return sha256("\n".join(parts).encode())


def key_of(*ingredients: Any) -> str:
    """Hash of what a training depends on; each must be JSON-able."""
    return sha256(json.dumps(ingredients, sort_keys=True).encode())


class Task(NamedTuple):
    """A training, as each of its processes gets it (see `train`)."""

    model: nn.Module
    losses: Losses
    config: TrainConfig
    path: Path
    key: str
    validate: Callable[[nn.Module], dict[str, float]] | None
    criterion: str
    betas: tuple[float, float]
    stream: tuple[int, ...]


def train(
    model: nn.Module,
    losses: Losses,
    config: TrainConfig,
    path: Path,
    key: str,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    *,
    criterion: str = "total",
    betas: tuple[float, float] = (0.9, 0.999),
    stream: tuple[int, ...] = (LAYERS,),
    progress: bool = True,
    device: torch.device | str = "cpu",
    processes: int = 1,
) -> tuple[nn.Module, Rows, Rows]:
    """Train a copy of `model` with AdamW.

    Args:
        losses: see `Losses`; minimised is "total". What it draws must follow from the step alone or
            come from torch's global generator, which is seeded at every step and left as it was
            found. What the model keeps beside its weights (codebook sums) must be buffers.
            Parameters that need no gradient are left as they are.
        path: the state file; its stem gets a hash of `key`, `config` and the weights at the start.
            The same call goes on where it was interrupted, bit for bit on a CPU, and returns at
            once when it had ended.
        key: hash of all else that `losses` depends on.
        validate: (averaged model in evaluation mode) -> terms, without gradients; early stopping
            goes by `criterion`.
        stream: first of which random streams the layers draw from, then what it ends with.
        processes: more than 1 trains data-parallel in new processes, on as many CUDA devices where
            `device` is one; losses and weights are the same up to the order of sums where the model
            has no dropout. `losses` and `validate` are sent there by their code.

    Returns:
        The averaged model in evaluation mode, a row for each training step and one for each
        validation; rows have "step", from 1, and the terms.
    """
    if config.early_stopping and validate is None:
        raise InputError(
            "training: early_stopping", "no held-out clips", "some to choose the weights by",
            "Pass validation clips, or set early_stopping to False.",
        )  # fmt: skip
    task = Task(model, losses, config, Path(path), key, validate, criterion, betas, stream)
    state = _Training(task, Team(device if processes == 1 else "cpu"))
    bar = tqdm(
        total=config.steps, initial=state.step, unit="step", desc=Path(path).stem, mininterval=2,
        disable=not progress,
    )  # fmt: skip

    def tell(step: int, loss: float | None) -> None:
        if loss is not None:
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        bar.update(step - bar.n)

    with bar:
        if processes == 1:
            with torch.random.fork_rng():
                state.run(tell)
        elif state.step < config.steps:
            launch(_work, task, processes, device, tell)
            state.load()
            tell(state.step, None)
    if state.step < config.steps:
        raise KeyboardInterrupt(f"training: interrupted after step {state.step} of {config.steps}")
    trained = state.averaged
    if config.early_stopping:
        trained.load_state_dict(state.best["weights"])
    return trained.eval(), state.rows, state.validated


def _work(team: "Team", task: Task) -> None:
    """One process of several; what is trained ends in the state file."""
    _Training(task, team).run(team.tell)


class _Training:
    """Weights, their average, optimiser and curves between two steps; what a state file holds."""

    def __init__(self, task: Task, team: "Team"):
        config = task.config
        self.task, self.team, self.config, self.step = task, team, config, 0
        self.model = copy.deepcopy(task.model).to(team.device).train()
        self.ema = copy.deepcopy(self.model).eval() if config.ema_decay else None
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.trained,
            lr=config.learning_rate,
            betas=task.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.rows: Rows = []
        self.validated: Rows = []
        self.best: dict[str, Any] = {"step": 0, "loss": math.inf, "weights": {}}
        self._pending: list[dict[str, Tensor]] = []
        self.key = key_of(task.key, config.record(*ROUNDING), weights_hash(task.model))
        path = task.path
        self.path = path.with_name(f"{path.stem}-{self.key[:12]}{path.suffix or '.pt'}")
        if self.path.exists():
            self.load()

    @property
    def averaged(self) -> nn.Module:
        """What is validated and returned."""
        return self.model if self.ema is None else self.ema

    def run(self, tell: Callable[[int, float | None], None]) -> None:
        """All steps that are left, with their validations and checkpoints."""
        config, validate = self.config, self.task.validate
        every = config.validate_every or config.steps
        network = self.team.join(self.model)
        while self.step < config.steps:
            self.update(network)
            ends = self.step == config.steps
            if validate is not None and (ends or self.step % every == 0):
                self.flush()
                if self.team.index == 0:
                    self.check(validate)
            saves = ends or self.step % config.checkpoint_every == 0
            if saves:
                self.save()
            tell(self.step, self.rows[-1]["total"] if saves else None)

    def update(self, network: nn.Module) -> None:
        """One step of AdamW on `total`, then of the moving average."""
        task, config, team, k = self.task, self.config, self.team, self.config.accumulate
        first, *more = task.stream
        own = [team.index] if team.index else []
        torch.manual_seed(_seed(config.seed, first, self.step, *more, *own))
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate_at(self.step)
        self.optimiser.zero_grad()
        means: dict[str, Tensor] = {}
        for part in range(team.index * k, (team.index + 1) * k):
            with nullcontext() if part + 1 == (team.index + 1) * k else team.apart(network):
                terms = task.losses(network, self.step, part, team.count * k)
                # Processes average their gradients, which here are to add up.
                (terms["total"] * team.count).backward()
            for name, x in terms.items():
                means[name] = means[name] + x.detach() if name in means else x.detach()
        self.optimiser.step()
        if self.ema is not None and team.index == 0:
            share = 1 - ema_decay_at(config.ema_decay, self.step)
            with torch.no_grad():
                for kept, new in zip(self.ema.parameters(), self.model.parameters(), strict=True):
                    kept.lerp_(new, share)
                # Buffers are averages already, or constants.
                for kept, new in zip(self.ema.buffers(), self.model.buffers(), strict=True):
                    kept.copy_(new)
        self.step += 1
        self._pending.append(means)

    @torch.no_grad()
    def check(self, validate: Callable[[nn.Module], dict[str, float]]) -> None:
        """Validate, and keep the weights if they are the best so far."""
        torch.manual_seed(_seed(self.config.seed, CHECKS, 0))
        terms = validate(self.averaged.eval())
        self.model.train()
        self.validated.append({"step": self.step, **terms})
        loss = terms[self.task.criterion]
        if self.config.early_stopping and loss < self.best["loss"]:
            weights = {k: x.detach().clone() for k, x in self.averaged.state_dict().items()}
            self.best = {"step": self.step, "loss": loss, "weights": weights}

    def flush(self) -> None:
        """Read the losses of the last steps; refuse those that are not finite."""
        first, pending = self.step - len(self._pending), self._pending
        if self.team.count > 1 and pending:
            table = torch.stack([torch.stack(list(terms.values())) for terms in pending])
            summed = self.team.sum(table).tolist()
            pending = [dict(zip(self._pending[0], row, strict=True)) for row in summed]
        for i, terms in enumerate(pending, start=first + 1):
            row = {"step": i, **{name: float(x) for name, x in terms.items()}}
            if not np.isfinite(row["total"]):
                raise self._diverged(i, str(row["total"]))
            self.rows.append(row)
        self._pending = []
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
        if self.team.index > 0:
            return
        content = {
            "key": self.key,
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rows": self.rows,
            "validated": self.validated,
            "best": self.best,
        }
        with atomic_write(self.path) as temporary:
            torch.save(content, temporary)

    def load(self) -> None:
        """Go to where the state file is."""
        try:
            content = torch.load(self.path, map_location=self.team.device, weights_only=True)
            if content["key"] != self.key:
                raise KeyError("it belongs to another training")
            self.model.load_state_dict(content["model"])
            if self.ema is not None:
                self.ema.load_state_dict(content["ema"])
            self.optimiser.load_state_dict(content["optimiser"])
            names = ("step", "rows", "validated", "best")
            self.step, self.rows, self.validated, self.best = (content[name] for name in names)
        except (
            RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError,
        ) as error:  # fmt: skip
            raise InputError(
                self.path,
                f"unreadable ({type(error).__name__})",
                "the state of an interrupted training",
                "Delete the file to train from the start.",
            ) from error


def _seed(*stream: int) -> int:
    return int(np.random.default_rng(stream).integers(2**63))


class Team:
    """The processes of a training, as one of them sees them; this one is alone.

    index: of this process, 0 is the one that validates and writes. count: of all.
    """

    index, count = 0, 1

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)

    def join(self, model: nn.Module) -> nn.Module:
        """What to call in place of `model`, so that its gradients become the mean of all's."""
        return model

    def apart(self, model: nn.Module):
        """Within it gradients add up in this process alone (`model` as `join` gave it)."""
        return nullcontext()

    def sum(self, x: Tensor) -> Tensor:
        """Sum over the processes; all have to call it."""
        return x


class Worker(Team):
    """One of several processes that `launch` started."""

    def __init__(self, index: int, count: int, device: str, told: Any):
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs

        self.index, self.count, self._told = index, count, told
        # Buffers are constants, so the first process need not send them out at every step.
        settings = DistributedDataParallelKwargs(broadcast_buffers=False)
        self.accelerator = Accelerator(
            cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[settings]
        )
        # accelerate numbers CPUs too, which torch.load does not know.
        super().__init__("cpu" if device == "cpu" else self.accelerator.device)

    def join(self, model):
        with warnings.catch_warnings():  # torch 2.13 has another name for `broadcast_buffers`
            warnings.simplefilter("ignore", FutureWarning)
            return self.accelerator.prepare_model(model)

    def apart(self, model):
        return self.accelerator.no_sync(model)

    def sum(self, x):
        return self.accelerator.reduce(x, reduction="sum")

    def tell(self, step: int, loss: float | None = None) -> None:
        """Report how far the training is, for whoever draws the progress."""
        if self.index == 0:
            self._told[0] = step
            if loss is not None:
                self._told[1] = loss


def launch(
    work: Callable[[Worker, Any], None],
    task: Any,
    processes: int,
    device: torch.device | str = "cpu",
    progress: Callable[[int, float | None], None] = lambda step, loss: None,
) -> None:
    """Call ``work(team, task)`` in each of several new processes and wait for all of them.

    They start afresh (`accelerate.notebook_launcher` forks, which hangs once a library of the
    notebook has used OpenMP), and join over gloo on a CPU, over NCCL on CUDA with one device each.
    The threads of this process are divided among them. One that fails ends the others; all end
    with this one. progress: called now and then with what the first process last told.
    """
    kind = torch.device(device).type
    there = torch.cuda.device_count() if kind == "cuda" else processes if kind == "cpu" else 0
    if there < processes:
        raise InputError(
            "training: processes", f"{processes} with {there} devices of the kind {kind}",
            "cpu, or a CUDA device for each process", f"Set num_processes to at most {there or 1}.",
        )  # fmt: skip
    # By value where it is of a notebook, whose functions no other process can import.
    import cloudpickle

    threads = max(1, torch.get_num_threads() // processes)
    told = torch.multiprocessing.get_context("spawn").Array("d", [-1.0, math.nan])
    with tempfile.TemporaryDirectory(prefix="t2imu-training-") as name:
        torch.save((work, task), Path(name) / "task.pt", pickle_module=cloudpickle)
        context = start_processes(
            _start, (processes, kind, threads, name, told), processes, join=False
        )
        try:
            while not context.join(timeout=0.5):
                step, loss = told[:]
                if step >= 0:
                    progress(int(step), None if loss != loss else loss)
        finally:
            for process in context.processes:
                process.kill()
                process.join()


def _start(index: int, count: int, kind: str, threads: int, folder: str, told: Any) -> None:
    """What a new process does."""
    place = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ.update({name: str(x) for name, x in place.items()}, OMP_NUM_THREADS=str(threads))
    torch.set_num_threads(threads)
    if sys.platform == "linux":  # else gloo asks the name service, which may not know this machine
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if kind == "cuda":
        torch.cuda.set_device(index)
    # They find each other through a file: a port chosen here could be taken by then.
    torch.distributed.init_process_group(
        "nccl" if kind == "cuda" else "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=index,
        world_size=count,
        timeout=PATIENCE,
    )
    # Its tensors stay in the file until they are used. Written a moment ago by our own parent.
    work, task = torch.load(Path(folder) / "task.pt", mmap=True, weights_only=False)
    work(Worker(index, count, kind, told), task)
    torch.distributed.destroy_process_group()
