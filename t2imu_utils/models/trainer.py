"""One trainer for all families: exact resume, moving average, several processes; and the training
that MDM and ReMoDiffuse share.

Everything random at a step (which clips, crops, captions, timesteps, noise, dropped texts) follows
from the seed and the step's number alone. Models that differ in their losses thus see the same data
and the same noise, and a training that was interrupted ends where an uninterrupted one ends.
"""

import copy
import json
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

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
from t2imu_utils.models.diffusion import Schedule, add_noise, autocast
from t2imu_utils.models.generator import Denoiser, Generator
from t2imu_utils.models.losses import TERMS, LossWeights, motion_losses, recorded
from t2imu_utils.models.text import unpadded
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from t2imu_utils.motion.features import check_features
from t2imu_utils.tracks import Precision

# Batches are cut from at most this many batches' worth of shuffled clips, sorted by length. Most of
# the padding goes, while clips of one length (often of one activity) still meet others.
CHUNK = 8
# Which of the random streams of a seed: order of the data, steps, validation, layers (dropout, and
# what else draws from the global generator), checks.
ORDER, STEP, VALIDATION, LAYERS, CHECKS = range(5)

Rows, Terms = list[dict[str, float]], dict[str, Tensor]
# (network, step, part, parts) -> scalar terms, "total" among them, of that part of the step's
# batch; those of all parts add up to the batch's mean.
Losses = Callable[[nn.Module, int, int, int], Terms]
Validate = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training; learning rate and dropout of conditions as in MDM.

    ema_decay: of the moving average of the weights, which is what is validated and returned; it
    starts lower (`ema_decay_at`), so that short trainings forget their start; 0 returns the last
    weights. warmup: steps over which the learning rate rises linearly to its value. anneal:
    whether it then falls linearly to zero at the last step. max_frames: longer clips are cropped
    at random. checkpoint_every, validate_every: in steps; validate_every 0 validates at the end
    alone. precision: of the matrix products of a network that predicts clean motions.
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
    warmup: int = 0
    anneal: bool = False
    precision: Precision = "float32"

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step; 0 is the first."""
        rate = self.learning_rate * min(1.0, (step + 1) / (self.warmup + 1))
        return rate * (1 - step / self.steps) if self.anneal else rate

    def record(self, *left_out: str) -> dict[str, Any]:
        """The settings by name; of `warmup` and `anneal` nothing is said where they are not used,
        as before there were any."""
        found = asdict(self, dict_factory=recorded)
        unused = {name for name in ("warmup", "anneal") if not found[name]}
        return {name: x for name, x in found.items() if name not in unused | {*left_out}}


# ---------------------------------------------------------------- data
def normalised(
    normaliser: Normaliser, clips: Sequence[MotionClip], min_frames: int
) -> list[Float[Tensor, "T 263"]]:
    if not clips:
        raise InputError("clips", "none", "at least one clip to train on", "Check the split.")
    for clip in clips:
        check_features(clip.features, clip.name, min_frames)
    return [
        torch.from_numpy(normaliser.normalise(clip.features).astype(np.float32)) for clip in clips
    ]


def sentences_of(clips: Sequence[MotionClip]) -> tuple[list[str], list[list[int]]]:
    """The different captions of clips, and which of them each clip has."""
    sentences = list(dict.fromkeys(text for clip in clips for text in clip.captions))
    number = {text: i for i, text in enumerate(sentences)}
    return sentences, [[number[text] for text in clip.captions] for clip in clips]


def prefix(lengths: Sequence[int]) -> Bool[Tensor, "B L"]:
    """Mask of the first so many places of each row."""
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


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


# ---------------------------------------------------------------- processes that share each batch
# The others wait as long as the first process validates and writes.
PATIENCE = timedelta(hours=24)


class Team:
    """The processes of a training (data-parallel), as one of them sees them.

    device: of this process; of several the kind, "cpu" or "cuda". index: 0 is the one that
    validates and writes. count: of all. told: what `tell` reports to (`launch`).
    """

    def __init__(
        self, device: torch.device | str = "cpu", index: int = 0, count: int = 1, told: Any = None
    ):
        self.device, self.index, self.count = torch.device(device), index, count
        self._told, self._accelerator = told, None
        if count > 1:
            from accelerate import Accelerator
            from accelerate.utils import DistributedDataParallelKwargs

            # Buffers are constants, so the first process need not send them out at every step.
            settings = DistributedDataParallelKwargs(broadcast_buffers=False)
            self._accelerator = Accelerator(
                cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[settings]
            )
            # accelerate numbers CPUs too, which torch.load does not know.
            self.device = self.device if device == "cpu" else self._accelerator.device

    def join(self, model: nn.Module) -> nn.Module:
        """What to call in place of `model`, so that its gradients become the mean of all's."""
        if self._accelerator is None:
            return model
        with warnings.catch_warnings():  # torch 2.13 has another name for `broadcast_buffers`
            warnings.simplefilter("ignore", FutureWarning)
            return self._accelerator.prepare_model(model)

    def sum(self, x: Tensor) -> Tensor:
        """Sum over the processes; all have to call it."""
        return self._accelerator.reduce(x, reduction="sum")

    def tell(self, step: int, loss: float | None = None) -> None:
        """Report how far the training is, for whoever draws the progress."""
        if self.index == 0:
            self._told[0] = step
            if loss is not None:
                self._told[1] = loss


def launch(
    task: tuple,
    processes: int,
    device: torch.device | str,
    progress: Callable[[int, float | None], None],
) -> None:
    """Run ``_Training(team, *task)`` in several new processes at once and wait for all of them.

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
        torch.save(task, Path(name) / "task.pt", pickle_module=cloudpickle)
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
    """What a new process does; what is trained ends in the state file."""
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
    task = torch.load(Path(folder) / "task.pt", mmap=True, weights_only=False)
    team = Team(kind, index, count, told)
    _Training(team, *task).run(team.tell)
    torch.distributed.destroy_process_group()


# ---------------------------------------------------------------- training
def ema_decay_at(decay: float, updates: int) -> float:
    """Decay of the moving average after `updates` steps; small at first."""
    return min(decay, (1 + updates) / (10 + updates))


def weights_hash(model: nn.Module) -> str:
    """Hash of all parameters and buffers of a model, with their names."""
    parts = [f"{k}:{sha256(x.cpu().numpy().tobytes())}" for k, x in model.state_dict().items()]
    return sha256("\n".join(parts).encode())


def key_of(*ingredients: Any) -> str:
    """Hash of what a training depends on; each must be JSON-able."""
    return sha256(json.dumps(ingredients, sort_keys=True).encode())


def train(
    model: nn.Module,
    losses: Losses,
    config: TrainConfig,
    path: Path,
    key: str,
    validate: Validate | None = None,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    stream: tuple[int, ...] = (LAYERS,),
    device: torch.device | str = "cpu",
    processes: int = 1,
) -> tuple[nn.Module, Rows, Rows]:
    """Train a copy of `model` with AdamW.

    The same call goes on where it was interrupted, bit for bit on a CPU, and returns at once when
    it had ended.

    Args:
        losses: see `Losses`; minimised is "total". What it draws must follow from the step alone or
            come from torch's global generator, which is seeded at every step and left as it was
            found. What the model keeps beside its weights (codebook sums) must be buffers.
        path: the state file; its stem gets a hash of `key`, `config` and the weights at the start.
        key: hash of all else that `losses` depends on.
        validate: (averaged model in evaluation mode) -> terms, without gradients.
        stream: first of which random streams the layers draw from, then what it ends with.
        processes: more than 1 trains data-parallel in new processes, on as many CUDA devices where
            `device` is one; losses and weights are the same up to the order of sums where the model
            has no dropout. `losses` and `validate` are sent there by their code.

    Returns:
        The averaged model in evaluation mode, a row for each training step and one for each
        validation; rows have "step", from 1, and the terms.
    """
    task = model, losses, config, Path(path), key, validate, betas, stream
    state = _Training(Team(device if processes == 1 else "cpu"), *task)
    bar = tqdm(
        total=config.steps, initial=state.step, unit="step", desc=Path(path).stem, mininterval=2
    )

    def tell(step: int, loss: float | None) -> None:
        if loss is not None:
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        bar.update(step - bar.n)

    with bar:
        if processes == 1:
            with torch.random.fork_rng():
                state.run(tell)
        elif state.step < config.steps:
            launch(task, processes, device, tell)
            state.load()
            tell(state.step, None)
    return state.averaged.eval(), state.rows, state.validated


class _Training:
    """Weights, their average, optimiser and curves between two steps; what a state file holds."""

    def __init__(
        self,
        team: Team,
        model: nn.Module,
        losses: Losses,
        config: TrainConfig,
        path: Path,
        key: str,
        validate: Validate | None,
        betas: tuple[float, float],
        stream: tuple[int, ...],
    ):
        self.team, self.losses, self.config, self.validate = team, losses, config, validate
        self.stream, self.step = stream, 0
        self.model = copy.deepcopy(model).to(team.device).train()
        self.ema = copy.deepcopy(self.model).eval() if config.ema_decay else None
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.trained, config.learning_rate, betas, weight_decay=config.weight_decay, fused=True
        )
        self.rows: Rows = []
        self.validated: Rows = []
        self._pending: list[dict[str, Tensor]] = []
        # How often the state is written is no part of what is trained.
        self.key = key_of(key, config.record("checkpoint_every"), weights_hash(model))
        self.path = path.with_name(f"{path.stem}-{self.key[:12]}.pt")
        if self.path.exists():
            self.load()

    @property
    def averaged(self) -> nn.Module:
        return self.model if self.ema is None else self.ema

    def run(self, tell: Callable[[int, float | None], None]) -> None:
        """All steps that are left, with their validations and checkpoints."""
        config, network = self.config, self.team.join(self.model)
        every = config.validate_every or config.steps
        while self.step < config.steps:
            self.update(network)
            ends = self.step == config.steps
            if self.validate is not None and (ends or self.step % every == 0):
                self.flush()
                if self.team.index == 0:
                    self.check()
            saves = ends or self.step % config.checkpoint_every == 0
            if saves:
                self.save()
            tell(self.step, self.rows[-1]["total"] if saves else None)

    def update(self, network: nn.Module) -> None:
        """One step of AdamW on `total`, then of the moving average."""
        config, team, (first, *more) = self.config, self.team, self.stream
        own = [team.index] if team.index else []
        torch.manual_seed(_seed(config.seed, first, self.step, *more, *own))
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate_at(self.step)
        self.optimiser.zero_grad()
        terms = self.losses(network, self.step, team.index, team.count)
        # Processes average their gradients, which here are to add up.
        (terms["total"] * team.count).backward()
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
        self._pending.append({name: x.detach() for name, x in terms.items()})

    @torch.no_grad()
    def check(self) -> None:
        torch.manual_seed(_seed(self.config.seed, CHECKS, 0))
        terms = self.validate(self.averaged.eval())
        self.model.train()
        self.validated.append({"step": self.step, **terms})

    def flush(self) -> None:
        """Read the losses of the last steps; refuse those that are not finite."""
        first, pending = self.step - len(self._pending), self._pending
        if self.team.count > 1 and pending:
            table = torch.stack([torch.stack(list(terms.values())) for terms in pending])
            summed = self.team.sum(table).tolist()
            pending = [dict(zip(self._pending[0], row, strict=True)) for row in summed]
        rows = [
            {"step": i, **{name: float(x) for name, x in terms.items()}}
            for i, terms in enumerate(pending, start=first + 1)
        ]
        broken = [row["step"] for row in rows if not np.isfinite(row["total"])]
        if broken or not all(bool(p.isfinite().all()) for p in self.trained):
            raise InputError(
                f"training, step {min(broken, default=self.step)}", "no finite number",
                "a finite loss", "Lower learning_rate or the weights of the losses.",
            )  # fmt: skip
        self.rows += rows
        self._pending = []

    def save(self) -> None:
        """Write the state atomically, after making sure that it is still sound."""
        self.flush()
        if self.team.index > 0:
            return
        content = {
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rows": self.rows,
            "validated": self.validated,
        }
        with atomic_write(self.path) as temporary:
            torch.save(content, temporary)

    def load(self) -> None:
        """Go to where the state file is."""
        try:
            content = torch.load(self.path, map_location=self.team.device, weights_only=True)
            self.model.load_state_dict(content["model"])
            if self.ema is not None:
                self.ema.load_state_dict(content["ema"])
            self.optimiser.load_state_dict(content["optimiser"])
            self.step = content["step"]
            self.rows, self.validated = content["rows"], content["validated"]
        except Exception as error:  # a damaged file may raise anything
            raise InputError(
                self.path, f"unreadable ({type(error).__name__})",
                "the state of an interrupted training", "Delete the file to train from the start.",
            ) from error  # fmt: skip


def _seed(*stream: int) -> int:
    return int(np.random.default_rng(stream).integers(2**63))


# ---------------------------------------------------------------- what a diffusion is trained on
@dataclass(frozen=True)
class Batch:
    """What one step trains on; x0 is normalised, noise is N(0, 1), on the CPU until `to`.

    retrieved, drop_retrieval: of ReMoDiffuse, motions and captions with their masks
    (`retrieval.gather`), and for which items they are left out.
    """

    x0: Float[Tensor, "B T 263"]
    mask: Bool[Tensor, "B T"]
    text: Float[Tensor, "B L W"]
    text_valid: Bool[Tensor, "B L"]
    t: Int[Tensor, "B"]
    noise: Float[Tensor, "B T 263"]
    drop_text: Bool[Tensor, "B"]
    drop_retrieval: Bool[Tensor, "B"]
    retrieved: tuple[Tensor, ...] = ()

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        *own, retrieved = vars(self).values()
        return Batch(*map(change, own), tuple(map(change, retrieved)))

    def part(self, number: int, parts: int) -> "Batch":
        """One of as many nearly equal parts."""
        start, end = (len(self.t) * n // parts for n in (number, number + 1))
        return self._each(lambda x: x[start:end])

    def to(self, device: torch.device | str) -> "Batch":
        return self._each(lambda x: x.to(device))


class Dataset:
    """Clips in memory: normalised features, and what conditions on each caption, encoded once.

    retrieve: (clips, their captions, by number) -> what ReMoDiffuse retrieves for them.
    """

    def __init__(
        self,
        prior: Any,
        clips: Sequence[MotionClip],
        retrieve: Callable[[Sequence[int], Sequence[int]], tuple[Tensor, ...]] | None = None,
    ):
        self.motions = normalised(prior.normaliser, clips, min_frames=3)
        self.lengths = np.array([len(x) for x in self.motions])
        sentences, self.captions = sentences_of(clips)
        self.tokens = unpadded(prior.condition, sentences)
        self.retrieve = retrieve
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
        drop: Bool[np.ndarray, "conditions B"],
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
            drop_text=torch.from_numpy(drop[0]),
            drop_retrieval=torch.from_numpy(drop[-1]),
            retrieved=self.retrieve(items, captions) if self.retrieve else (),
        )


def draw_batch(data: Dataset, config: TrainConfig, diffusion_steps: int, step: int) -> Batch:
    """The batch of a step: a function of the data, the seed and the step's number.

    Text and retrieval are dropped independently, each with probability `condition_dropout`.
    """
    rng = np.random.default_rng([config.seed, STEP, step])
    shown = np.minimum(data.lengths, config.max_frames)
    items = step_items(shown, config.batch_size, config.seed, step)
    starts = rng.integers(0, data.lengths[items] - shown[items] + 1)
    captions = rng.integers(0, [len(data.captions[i]) for i in items])
    t = rng.integers(0, diffusion_steps, len(items))
    conditions = 2 if data.retrieve else 1
    drop = rng.random((conditions, len(items))) < config.condition_dropout
    return data.batch(items, starts, captions, config.max_frames, t, drop, rng)


class Diffusion(NamedTuple):
    """What of a family its losses depend on, beside the network.

    predict: (network, x_t, batch) -> x̂_0.
    """

    predict: Callable[[nn.Module, Tensor, Batch], Tensor]
    schedule: Schedule
    normaliser: Normaliser


def batch_losses(
    model: nn.Module,
    batch: Batch,
    how: Diffusion,
    weights: LossWeights,
    all_terms: bool = False,
    precision: Precision = "float32",
) -> dict[str, Float[Tensor, "B"]]:
    """Noise a batch, predict it clean, and compare: eqs. (2)-(6), one value a sample."""
    x_t = add_noise(batch.x0, batch.noise, batch.t, how.schedule)
    with autocast(x_t.device, precision):
        x0_hat = how.predict(model, x_t, batch).float()
    return motion_losses(batch.x0, x0_hat, batch.mask, weights, how.normaliser, all_terms)


def step_losses(
    model: nn.Module, step: int, part: int, parts: int, *, data: Dataset, config: TrainConfig,
    how: Diffusion,
) -> Terms:  # fmt: skip
    """Losses of a part of a step's batch (`Losses`)."""
    whole = draw_batch(data, config, len(how.schedule.betas), step)
    batch = whole.part(part, parts).to(next(model.parameters()).device)
    share = len(batch.t) / len(whole.t)
    terms = batch_losses(model, batch, how, config.weights, precision=config.precision)
    return {name: x.mean() * share for name, x in terms.items()}


@torch.inference_mode()
def validation_losses(
    model: nn.Module, *, data: Dataset, config: TrainConfig, how: Diffusion
) -> dict[str, float]:
    """All terms on held-out clips, averaged over them.

    Timesteps (spread evenly over the clips), noise and captions are the same each time; clips are
    cut at `max_frames`.
    """
    n, steps, device = len(data), len(how.schedule.betas), next(model.parameters()).device
    spread = np.arange(n) * steps // n if n >= steps else np.linspace(0, steps - 1, n).astype(int)
    timesteps = np.random.default_rng([config.seed, VALIDATION, 0]).permutation(spread)
    order = np.argsort(data.lengths, kind="stable")
    sums: dict[str, float] = {}
    for start in range(0, n, config.batch_size):
        items = order[start : start + config.batch_size]
        zeros = np.zeros(len(items), int)
        rng = np.random.default_rng([config.seed, VALIDATION, 1, start])
        drop = zeros[None].astype(bool)
        batch = data.batch(items, zeros, zeros, config.max_frames, timesteps[items], drop, rng)
        terms = batch_losses(model, batch.to(device), how, config.weights, True)
        for name, values in terms.items():
            sums[name] = sums.get(name, 0.0) + float(values.sum())
    return {name: total / n for name, total in sums.items()}


class DiffusionGenerator(Generator):
    """Training, refinement and examination of a family that predicts clean motions."""

    # Of the family: how it predicts (`Diffusion`), and the schedule of so many steps.
    predict: ClassVar[Callable[[nn.Module, Tensor, Batch], Tensor]]
    schedule: ClassVar[Callable[[int], Schedule]]
    # First of which random streams its layers draw from, then what it ends with.
    stream: ClassVar[tuple[int, ...]] = (LAYERS,)

    def retrieval(self, prior, clips, max_frames, held_out=False):
        """What retrieves for clips as it is trained on them, or validated (`Dataset`)."""
        return None

    def key(self, prior) -> list[Any]:
        """What its losses depend on beside the network, its data and its text encoder."""
        return []

    def how(self, prior) -> Diffusion:
        steps = prior.config.diffusion_steps
        return Diffusion(type(self).predict, type(self).schedule(steps), prior.normaliser)

    def _data(self, prior, clips, settings, held_out=False) -> Dataset:
        retrieve = self.retrieval(prior, clips, settings.max_frames, held_out)
        return Dataset(prior, clips, retrieve)

    def train(self, prior, clips, settings, folder, held_out, device, processes=1):
        if settings.max_frames > prior.config.max_frames:
            raise InputError(
                "TrainConfig: max_frames", str(settings.max_frames),
                f"at most the model's {prior.config.max_frames}", "Lower it or enlarge the model.",
            )  # fmt: skip
        data = self._data(prior, clips, settings)
        given = {"config": settings, "how": self.how(prior)}
        parts = [asdict(prior.config), data.fingerprint, prior.text_encoder.fingerprint]
        parts += self.key(prior)
        validate = None
        if len(held_out):
            unseen = self._data(prior, held_out, settings, held_out=True)
            validate = partial(validation_losses, data=unseen, **given)
        network = copy.deepcopy(prior.model).requires_grad_(True)
        losses = partial(step_losses, data=data, **given)
        model, rows, validated = train(
            network, losses, settings, Path(folder) / "training.pt", key_of(*parts), validate,
            stream=self.stream, device=device, processes=processes,
        )  # fmt: skip
        entry = {"config": settings.record(), "clips": len(data), "data": data.fingerprint}
        if validated:
            entry["validation"] = validated[-1]
        splits = {"train": rows, "validation": validated}
        table = [{**row, "split": split} for split, group in splits.items() for row in group]
        curves = pd.DataFrame(table, columns=["step", "split", *TERMS, "total"])
        return replace(prior, model=model, history=[*prior.history, entry]), curves

    refine = train

    def validation(self, prior, held_out, settings, device):
        data = self._data(prior, held_out, settings, held_out=True)
        model = prior.model.to(device).eval()
        return validation_losses(model, data=data, config=settings, how=self.how(prior))

    def denoiser(self, prior, device):
        """x̂_0 from a noisy motion and the clip's first caption, without guidance; of what is
        retrieved nothing is of the clip's own recording, where the database tells it."""
        how, model, config = self.how(prior), prior.model.to(device).eval(), prior.config

        def guess(clips, x0, mask, level, noise):
            text, valid = prior.condition([clip.captions[0] for clip in clips])
            kept = torch.zeros(len(clips), dtype=torch.bool)
            retrieve = self.retrieval(prior, clips, config.max_frames, held_out=True)
            found = retrieve(range(len(clips)), [0] * len(clips)) if retrieve else ()
            batch = Batch(x0, mask, text, valid, level, noise, kept, kept, found).to(device)
            return how.predict(model, add_noise(x0, noise, level, how.schedule), batch)

        return Denoiser(guess, prior.normaliser, config.max_frames, config.diffusion_steps)
