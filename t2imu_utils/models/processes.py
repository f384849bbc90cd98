"""Several processes that share each batch of a training (data-parallel)."""

import math
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing import start_processes

from t2imu_utils.errors import InputError

# The others wait as long as the first process validates and writes.
PATIENCE = timedelta(hours=24)


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
