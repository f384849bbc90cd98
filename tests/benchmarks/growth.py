"""How the cost of each kind of work grows, with the exponent of a straight line through its logs.

    python -m tests.benchmarks.growth [--quick] [--repeats 3] [--out growth.png]

An exponent of 1 is a cost in proportion to the work. Below it something is paid once, or large work
uses the machine better; above it work gets dearer as it grows. Measured on the device that bench.py
takes too, ours only; each point is the median of the repeats. About three minutes on two cores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from t2imu_utils import plots, style
from t2imu_utils.analysis.har import HarConfig, train_classifier
from t2imu_utils.analysis.signals import tsne
from t2imu_utils.body.fitting import fit
from t2imu_utils.body.smpl import load_bodies
from t2imu_utils.clips import Clips
from t2imu_utils.imu.sensors import synthesise
from t2imu_utils.imu.sites import sensor_sites
from t2imu_utils.models.mdm import generate
from tests.benchmarks.machine import processor, seconds
from tests.benchmarks.rows_body import motions, on_device, people
from tests.benchmarks.rows_priors import prior_of
from tests.benchmarks.sampling import PROMPT
from tests.benchmarks.sizes import FULL, QUICK, Sizes

STEPS = 4  # diffusion steps: every step costs the same
FEATURES = 66


@dataclass(frozen=True)
class Growth:
    """One panel: `run(n)` does the work of size n, which a call of `prepare(n)` has made ready."""

    title: str
    axis: str
    sizes: Sequence[int]
    prepare: Callable[[int], Callable[[], Any]]


def _sampling(sizes: Sizes, device: str) -> Callable[[int, int], Callable[[], Any]]:
    prior = prior_of(replace(sizes, mdm=replace(sizes.mdm, diffusion_steps=STEPS)))

    def prepare(items: int, frames: int) -> Callable[[], Any]:
        arguments = [PROMPT] * items, [frames] * items, list(range(items)), 2.5, items, device
        return lambda: generate(prior, *arguments, progress=False)

    return prepare


def _tsne(windows: int) -> Callable[[], Any]:
    features = np.random.default_rng(0).random((windows, FEATURES))
    return lambda: tsne(features, seed=0, perplexity=min(30.0, windows / 4))


def _recognition(sizes: Sizes, device: str) -> Callable[[int], Callable[[], Any]]:
    def prepare(windows: int) -> Callable[[], Any]:
        x = np.random.default_rng(0).standard_normal((windows, 40, 24)).astype(np.float32)
        classes = [f"activity {i}" for i in range(4)]
        labels, groups = np.array(classes)[np.arange(windows) % 4], np.arange(windows) // 4
        config = HarConfig(epochs=1, filters=sizes.filters, units=sizes.units)
        return lambda: train_classifier(x, labels, classes, config, groups, device, progress=False)

    return prepare


def growths(sizes: Sizes, device: str, quick: bool) -> list[Growth]:
    """The panels, in order; with `quick` of few and small points."""

    def few(*values: int, first: int = 2) -> list[int]:
        return list(values[:first] if quick else values)

    sampled = _sampling(sizes, device)
    bodies = on_device(load_bodies(), device)
    body, sites = load_bodies().neutral, sensor_sites(load_bodies().neutral)
    shapes = people(bodies)

    def some(clips: int) -> Clips:
        joints = motions()
        return joints.select(np.arange(clips) % len(joints))

    def fitting(clips: int) -> Callable[[], Any]:
        chosen = some(clips)
        return lambda: fit(chosen, body, device=device, progress=False)

    def synthesis(clips: int) -> Callable[[], Any]:
        fitted = fit(some(clips), body, progress=False)
        return lambda: synthesise(fitted, bodies.neutral, shapes, sites, progress=False)

    long = min(sizes.frames, sizes.mdm.max_frames)
    lengths = few(24, 48, 96, 196) if not quick else [10, 20]
    return [
        Growth("sampling, batch", f"clips of {long} frames", few(1, 2, 4, 8, 16),
               lambda n: sampled(n, long)),
        Growth("sampling, length", "frames, 4 clips", lengths, lambda n: sampled(4, n)),
        Growth("fitting", "clips of 3 to 8 s", few(1, 4, 16, 64), fitting),
        Growth("synthesis", "motions, 8 bodies x 9 sites", few(1, 4, 16, 64), synthesis),
        Growth("t-SNE", "windows", few(125, 250, 500, 1000), _tsne),
        Growth("HAR, one epoch", "windows of 24 channels", few(64, 128, 256, 512),
               _recognition(sizes, device)),
    ]  # fmt: skip


def measure(growth: Growth, repeats: int, device: str) -> list[float]:
    """Median seconds of each size, after one call that is not counted."""
    medians = []
    for size in growth.sizes:
        run = growth.prepare(size)
        run()
        medians.append(float(np.median([seconds(run, device)[0] for _ in range(repeats)])))
    return medians


def exponent(sizes: Sequence[int], times: Sequence[float]) -> float:
    """Slope of the line of least squares through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def picture(found: Sequence[tuple[Growth, list[float]]], told: str) -> Figure:
    """A panel for each kind of work; `told` stands below."""
    style.use()
    figure = plt.figure(figsize=(9.5, 5.5))
    for axes, (growth, times) in zip(figure.subplots(2, 3).flat, found, strict=True):
        slope, sizes = exponent(growth.sizes, times), np.array(growth.sizes)
        middle = np.exp(np.log(times).mean() - slope * np.log(sizes).mean())
        axes.loglog(sizes, middle * sizes**slope, color=style.COLOURS["mdm"])
        axes.loglog(sizes, times, "o", color=style.INK, markersize=4)
        axes.set(title=f"{growth.title}: {slope:.2f}", xlabel=growth.axis, ylabel="seconds")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
    return plots.caption(figure, "Cost as work grows, with the exponent of the line", told)


@click.command(help=__doc__)
@click.option("--repeats", default=3, show_default=True)
@click.option("--quick", is_flag=True, help="Two small points each.")
@click.option("--out", type=click.Path(path_type=Path), help="A picture (.png).")
def main(repeats: int, quick: bool, out: Path | None) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    for growth in growths(QUICK if quick else FULL, device, quick):
        times = measure(growth, repeats, device)
        found.append((growth, times))
        points = ", ".join(f"{n}: {t:.3g} s" for n, t in zip(growth.sizes, times, strict=True))
        click.echo(f"{growth.title}, exponent {exponent(growth.sizes, times):.2f} ({points})")
    if out is not None:
        name = torch.cuda.get_device_name() if device == "cuda" else processor()
        told = f"{name}, {torch.get_num_threads()} threads, medians of {repeats}"
        out.parent.mkdir(parents=True, exist_ok=True)
        plots.save(picture(found, told), out)


if __name__ == "__main__":
    main()
