"""Several processes that train one model: started from a notebook, joined by `accelerate`.

`accelerate.notebook_launcher` forks, which hangs once a library of the notebook has used OpenMP,
and takes CUDA away from what is forked. Here each process starts afresh (spawn) and joins the
others there; the notebook's own process only waits, and makes no CUDA context.
"""

import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from multiprocessing import connection, get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing import start_processes

from t2imu_utils.errors import InputError
from t2imu_utils.files import write_json

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
