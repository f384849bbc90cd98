"""How a prior is trained: the settings of one training."""

import copy
import json
import math
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from datetime import timedelta
from multiprocessing import connection, get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.multiprocessing import start_processes
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write, sha256, write_json
from t2imu_utils.models.losses import LossWeights
from t2imu_utils.motion.corpus import MotionClip

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


class Best:
    """The weights with the lowest held-out loss so far, and the step that they were found at."""

    def __init__(self):
        self.step, self.loss = 0, math.inf
        self._weights: dict[str, Tensor] = {}

    def offer(self, model: nn.Module, step: int, loss: float) -> None:
        """Keep a copy of the weights if their loss is lower than all before."""
        if loss < self.loss:
            self.step, self.loss = step, loss
            self._weights = {name: x.detach().clone() for name, x in model.state_dict().items()}

    def restore(self, model: nn.Module) -> None:
        """Give a model the weights that were kept."""
        model.load_state_dict(self._weights)

    def state(self) -> dict[str, Any]:
        """For a state file."""
        return {"step": self.step, "loss": self.loss, "weights": self._weights}

    def load(self, state: dict[str, Any]) -> None:
        """From a state file; `KeyError` where it is none."""
        self.step, self.loss, self._weights = state["step"], state["loss"], state["weights"]


def kept_row(
    validated: Sequence[dict[str, float]], term: str, early_stopping: bool
) -> dict[str, float]:
    """Of all validations that of the weights that a training returns."""
    return min(validated, key=lambda row: row[term]) if early_stopping else validated[-1]


# Batches are cut from at most this many batches' worth of shuffled clips, sorted by length. Most of
# the padding goes, while clips of one length (often of one activity) still meet others.
CHUNK = 8
# Captions encoded at a time: padding all of a large corpus to its longest would not fit in memory.
SENTENCES = 1024
# Which of the random streams of a seed.
ORDER = 0


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

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(**{name: x.to(device) for name, x in vars(self).items()})


class Dataset:
    """Clips in memory: normalised features, and what conditions on each caption, encoded once."""

    def __init__(self, prior: Any, clips: Sequence[MotionClip]):
        _check_clips(clips, prior.config.channels)
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
        self.fingerprint = sha256(
            json.dumps(
                [
                    [clip.captions, sha256(x.numpy().tobytes())]
                    for clip, x in zip(clips, self.motions, strict=True)
                ]
            ).encode()
        )

    def __len__(self) -> int:
        return len(self.motions)

    def batch(
        self,
        items: Sequence[int],
        starts: Sequence[int],
        captions: Sequence[int],
        max_frames: int,
        t: Int[Tensor, "B"],
        drop_text: Bool[Tensor, "B"],
        noise: torch.Generator,
    ) -> Batch:
        """Assemble items, each from its start on, with its chosen caption."""
        crops = [self.motions[i][s : s + max_frames] for i, s in zip(items, starts, strict=True)]
        x0 = pad_sequence(crops, batch_first=True)
        texts = [self.tokens[self.captions[i][c]] for i, c in zip(items, captions, strict=True)]
        return Batch(
            x0=x0,
            mask=_prefix([len(x) for x in crops]),
            text=pad_sequence(texts, batch_first=True),
            text_valid=_prefix([len(x) for x in texts]),
            t=t,
            noise=torch.randn(x0.shape, generator=noise),
            drop_text=drop_text,
        )


def _prefix(lengths: list[int]) -> Bool[Tensor, "B L"]:
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def _check_clips(clips: Sequence[MotionClip], channels: int) -> None:
    if not clips:
        raise InputError("clips", "none", "at least one clip to train on", "Check the split.")
    for clip in clips:
        features = np.asarray(clip.features)
        if features.ndim != 2 or features.shape[1] != channels or len(features) < 3:
            raise InputError(
                f"{clip.name}: features", f"shape {features.shape}", f"(3 or more, {channels})",
                "Remove the clip or make it again.",
            )  # fmt: skip
        if not np.isfinite(features).all():
            raise InputError(
                f"{clip.name}: features", "values that are not finite", "finite values",
                "Remove the clip or make it again.",
            )  # fmt: skip
        if not clip.captions:
            raise InputError(
                f"{clip.name}: captions", "none", "at least one sentence", "Describe the clip."
            )


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


# The others wait as long as the first one validates and writes; one that dies ends them anyway.
PATIENCE = timedelta(hours=24)
# Seconds between two looks at the processes, and that they get to end by themselves.
LOOK, GRACE = 0.5, 10.0


class Team:
    """The processes of a training, as one of them sees them; this one is alone.

    index: of this process, 0 is the one that validates and writes. count: of all.
    """

    index, count = 0, 1

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)

    @property
    def first(self) -> bool:
        """Whether this process keeps the average, the curves and the files."""
        return self.index == 0

    def join(self, model: nn.Module) -> nn.Module:
        """What to call in place of `model`, so that its gradients become the mean of all's."""
        return model

    def apart(self, model: nn.Module) -> AbstractContextManager:
        """Within it gradients add up in this process alone (`model` as `join` gave it)."""
        return nullcontext()

    def sum(self, x: Tensor) -> Tensor:
        """Sum over the processes; all have to call it."""
        return x

    def tell(self, step: int, loss: float | None = None) -> None:
        """Report how far this process is, for whoever draws the progress."""


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

    def tell(self, step, loss=None):
        if self.first:
            self._told[0] = step
            if loss is not None:
                self._told[1] = loss


def launch(
    work: Callable[[Team, Any], None],
    task: Any,
    processes: int,
    device: torch.device | str = "cpu",
    progress: Callable[[int, float | None], None] = lambda step, loss: None,
) -> None:
    """Call ``work(team, task)`` in each of several new processes and wait for all of them.

    They join over gloo on a CPU, and over NCCL on CUDA, with one device for each. The threads of
    this process are divided among them. One that fails ends the others; all end with this one.

    Args:
        work: function of a module, not of a notebook: the new processes import it.
        task: what it works on; written to a temporary file, whose tensors the processes share.
        device: its kind counts alone, "cpu" or "cuda".
        progress: called now and then with what the first process last told.

    Raises:
        InputError: too few devices, a process that was killed, or what `work` raised of this kind.
        RuntimeError: anything else that `work` raised, with its traceback.
    """
    kind = torch.device(device).type
    _check_devices(kind, processes)
    threads = max(1, torch.get_num_threads() // processes)
    told = get_context("spawn").Array("d", [-1.0, float("nan")])
    with tempfile.TemporaryDirectory(prefix="t2imu-training-") as name:
        torch.save(task, Path(name) / "task.pt")
        context = start_processes(
            _start,
            (work, processes, kind, threads, name, told),
            nprocs=processes,
            join=False,
            start_method="spawn",
        )
        running: list[BaseProcess] = context.processes
        try:
            while any(p.exitcode is None for p in running):
                connection.wait([p.sentinel for p in running if p.exitcode is None], LOOK)
                step, loss = told[:]
                if step >= 0:
                    progress(int(step), None if loss != loss else loss)
                if any(p.exitcode for p in running):
                    raise _failure(Path(name), [p.exitcode for p in running])
        finally:
            _end(running)


def _check_devices(kind: str, processes: int) -> None:
    if kind not in ("cpu", "cuda"):
        raise InputError(
            "training: device", f"{kind} for {processes} processes", "cpu or cuda",
            "Train in one process there.",
        )  # fmt: skip
    there = torch.cuda.device_count() if kind == "cuda" else processes
    if there < processes:
        raise InputError(
            "training: processes", f"{processes} with {there} CUDA devices",
            "a device for each process", f"Set num_processes to at most {there}.",
        )  # fmt: skip


def _start(
    index: int, work: Callable, count: int, kind: str, threads: int, folder: str, told: Any
) -> None:
    """What a new process does; an error is left in `folder`, with the time at which it happened."""
    place = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ.update({name: str(x) for name, x in place.items()}, OMP_NUM_THREADS=str(threads))
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if sys.platform == "linux":  # else gloo asks the name service, which may not know this machine
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
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
        task = torch.load(Path(folder) / "task.pt", mmap=True, weights_only=False)
        work(Worker(index, count, kind, told), task)
        torch.distributed.destroy_process_group()
    except Exception as error:
        content = {"time": time.time(), "traceback": traceback.format_exc()}
        if isinstance(error, InputError):
            names = ("where", "found", "expected", "remedy")
            content["input"] = {name: getattr(error, name) for name in names}
        write_json(Path(folder) / f"error-{index}.json", content)
        sys.exit(1)


def _end_with_parent() -> None:
    """No process goes on writing states after the one that started it was killed."""
    parent_process().join()
    os._exit(1)


def _failure(folder: Path, codes: Sequence[int | None]) -> Exception:
    """The cause among the ends of processes: others fail only because they lost a partner."""
    for i, code in enumerate(codes):
        if code is not None and code < 0:
            return InputError(
                f"training, process {i + 1} of {len(codes)}",
                f"an end by {signal.Signals(-code).name}",
                "a process that trains to the end",
                "If memory ran out (SIGKILL), use fewer processes or a smaller batch. The same "
                "call goes on from the last checkpoint.",
            )
    errors = [json.loads(path.read_text()) for path in folder.glob("error-*.json")]
    if not errors:
        at = next(i for i, code in enumerate(codes) if code)
        return RuntimeError(
            f"training, process {at + 1} of {len(codes)}: it ended with code {codes[at]} before "
            "it could begin; what it printed says why"
        )
    first = min(errors, key=lambda error: error["time"])
    failure = RuntimeError(f"a process of the training failed:\n{first['traceback']}")
    if "input" not in first:
        return failure
    refused = InputError(**first["input"])
    refused.__cause__ = failure
    return refused


def _end(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive():
            process.terminate()
    limit = time.monotonic() + GRACE
    for process in processes:
        process.join(max(0.0, limit - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


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


# Which of the random streams of a seed (0, the order of the data, is that of `batches`).
STEP, VALIDATION = 1, 2
# Settings that change the order of sums at most, as the number of processes does.
ROUNDING = ("checkpoint_every", "accumulate", "compile")


def _generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**63)))


def ema_decay_at(decay: float, updates: int) -> float:
    """Decay of the moving average after `updates` steps; small at first (see `TrainConfig`)."""
    return min(decay, (1 + updates) / (10 + updates))


def loss_curves(
    trained: Sequence[dict[str, float]], validated: Sequence[dict[str, float]]
) -> pd.DataFrame:
    """Loss curves of training steps and validations: step, split, and a column for each term."""
    splits = {"train": trained, "validation": validated}
    rows = [{**row, "split": split} for split, group in splits.items() for row in group]
    columns = ["step", "split", "simple", "pos", "foot", "vel", "acc", "total"]
    return pd.DataFrame(rows, columns=columns)
