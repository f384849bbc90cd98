"""The machine that a benchmark runs on: what it is, and how fast it multiplies and copies."""

import ctypes
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from t2imu_utils.tracks import Precision

# Side of the square matrices that are multiplied, and bytes that are copied.
SIDES = {"cpu": 1536, "cuda": 8192}
COPIED = {"cpu": 2**27, "cuda": 2**31}


@dataclass(frozen=True)
class Machine:
    """Where a table was measured.

    Attributes:
        device: of torch, "cpu" or "cuda".
        rate: operations a second (multiplications and additions) of large matrix products.
        copied: bytes a second, read and written, of a copy that fits into no cache.
        precision: of these products, and of the networks that sample or are trained.
    """

    device: str
    rate: float
    copied: float
    precision: Precision = "float32"

    def operations(self, count: float) -> float:
        """Seconds that so many operations take at least."""
        return count / self.rate

    def moves(self, count: float) -> float:
        """Seconds that so many bytes, read and written, take at least."""
        return count / self.copied

    def lines(self) -> list[str]:
        """The header of a table."""
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        on = torch.cuda.get_device_name() if self.device == "cuda" else "not measured"
        return [
            f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
            f"{pages / 2**30:.0f} GB; torch {torch.__version__}; {date.today().isoformat()}",
            f"GPU: {on}",
            f"on {self.device}, measured in this run: {self.rate / 1e9:,.0f} GFLOP/s in "
            f"{self.precision}; copy {self.copied / 1e9:.1f} GB/s",
        ]


def processor() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def wait_for(device: str) -> None:
    """Return when the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], Any], device: str) -> tuple[float, Any]:
    """How long a call takes, and what it returns."""
    wait_for(device)
    started = time.perf_counter()
    result = run()
    wait_for(device)
    return time.perf_counter() - started, result


def _best(run: Callable[[], Any], device: str, times: int = 5) -> float:
    run()
    return min(seconds(run, device)[0] for _ in range(times))


def measure_machine(device: str, share: float = 1.0, precision: Precision = "float32") -> Machine:
    """Rates of this machine, the best of five; `share` shrinks the matrices and the copy."""
    side = int(SIDES[device] * share)
    a = torch.ones(side, side, device=device, dtype=getattr(torch, precision))
    rate = 2 * side**3 / _best(lambda: a @ a, device)
    source = torch.ones(int(COPIED[device] * share) // 4, device=device)
    target = torch.empty_like(source)
    copied = 2 * 4 * len(source) / _best(lambda: target.copy_(source), device)
    return Machine(device, rate, copied, precision)


def peak_memory(run: Callable[[], Any], device: str) -> float | None:
    """Bytes that a call held beyond what was there before; None where the system does not tell."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    try:
        # What was freed goes back to the system, and the peak is set to what is there now.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    before = _resident("VmRSS")
    run()
    return max(0.0, _resident("VmHWM") - before)


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(field))
