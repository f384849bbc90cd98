"""How the cost of each kind of work grows, with the exponent of a straight line through its logs.

    python -m tests.benchmarks.growth [--only sampling --only windows] [--out growth.json]
    python -m tests.benchmarks.growth --draw growth.png --out growth.json

An exponent of 1 is a cost in proportion to the work. Below it something is paid once, or large work
uses the machine better; above it work gets dearer as it grows. Measured on the device that bench.py
takes too, ours only; each point is the median of the repeats, of the largest one call. What is in
the JSON file stays, so panels can be measured one after the other. --quick takes two small points.
"""

import json
import tempfile
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
from t2imu_utils.synthesis import processors, run_shards
from tests.benchmarks.machine import processor, seconds
from tests.benchmarks.rows_body import motions, on_device, people
from tests.benchmarks.rows_priors import prior_of
from tests.benchmarks.rows_windows import INGREDIENTS, plan_for, shipped
from tests.benchmarks.sampling import PROMPT
from tests.benchmarks.sizes import FULL, QUICK, Sizes

STEPS = 4  # diffusion steps: every step costs the same
LONGEST = 392  # frames
ONCE = 60.0  # s: a call that takes longer is not repeated


@dataclass(frozen=True)
class Growth:
    """One panel: `run(n)` does the work of size n, which a call of `prepare(n)` has made ready."""

    title: str
    axis: str
    sizes: Sequence[int]
    prepare: Callable[[int], Callable[[], Any]]


def growths(sizes: Sizes, device: str, quick: bool = False) -> dict[str, Growth]:
    """The panels, in order; with `quick` of few and small points."""
    mdm = replace(sizes.mdm, diffusion_steps=STEPS, max_frames=LONGEST)
    prior = prior_of(replace(sizes, mdm=mdm))
    body = load_bodies().neutral

    def sampling(items: int, frames: int) -> Callable[[], Any]:
        arguments = [PROMPT] * items, [frames] * items, list(range(items)), 2.5, items, device
        return lambda: generate(prior, *arguments, progress=False)

    def some(clips: int) -> Clips:
        return motions().select(np.arange(clips) % len(motions()))

    def fitting(clips: int) -> Callable[[], Any]:
        chosen = some(clips)
        return lambda: fit(chosen, body, device=device, progress=False)

    def sensing(clips: int) -> Callable[[], Any]:
        bodies = on_device(load_bodies(), device)
        fitted, sites = fit(some(clips), body, progress=False), sensor_sites(body)
        shapes = people(bodies)
        return lambda: synthesise(fitted, bodies.neutral, shapes, sites, progress=False)

    def windows(count: int) -> Callable[[], Any]:
        tools, plan = shipped(), plan_for(count, seconds=2.0)

        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                run_shards(tools, plan, Path(folder), INGREDIENTS, processors(), progress=False)

        return run

    def classes(count: int) -> Callable[[], Any]:
        x = np.random.default_rng(0).standard_normal((count, 40, 24)).astype(np.float32)
        names = [f"activity {i}" for i in range(4)]
        labels, groups = np.array(names)[np.arange(count) % 4], np.arange(count) // 4
        config = HarConfig(epochs=1, filters=sizes.filters, units=sizes.units)
        return lambda: train_classifier(x, labels, names, config, groups, device)

    def embedding(count: int) -> Callable[[], Any]:
        features = np.random.default_rng(0).random((count, 66))
        return lambda: tsne(features, seed=0, perplexity=min(30.0, count / 4))

    long = min(sizes.frames, sizes.mdm.max_frames)
    found = {
        "batch": Growth("sampling, batch", f"clips of {long} frames", (1, 2, 4, 8, 16),
                        lambda n: sampling(n, long)),
        "length": Growth("sampling, length", "frames, 4 clips", (24, 49, 98, 196, LONGEST),
                         lambda n: sampling(4, n)),
        "fitting": Growth("fitting", "clips of 3 to 8 s", (1, 10, 100, 1000), fitting),
        "sensors": Growth("sensors", "motions, 8 bodies x 9 sites", (1, 10, 100, 1000), sensing),
        "windows": Growth("text to windows", f"motions of 2 s, {processors()} processes",
                          (10, 100, 1000, 10_000), windows),
        "t-SNE": Growth("t-SNE", "windows", (125, 250, 500, 1000, 2000), embedding),
        "classifier": Growth("classifier, one epoch", "windows of 24 channels",
                             (64, 128, 256, 512, 1024), classes),
    }  # fmt: skip
    return {k: replace(g, sizes=g.sizes[:2]) for k, g in found.items()} if quick else found


def measure(growth: Growth, repeats: int, device: str) -> list[float]:
    """Median seconds of each size, after one call that is not counted unless it is long."""
    medians = []
    for size in growth.sizes:
        run = growth.prepare(size)
        first = seconds(run, device)[0]
        more = [] if first > ONCE else [seconds(run, device)[0] for _ in range(repeats)]
        medians.append(float(np.median(more or [first])))
    return medians


def exponent(sizes: Sequence[int], times: Sequence[float]) -> float:
    """Slope of the line of least squares through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def picture(found: dict[str, dict[str, Any]], told: str) -> Figure:
    """A panel for each kind of work (title, axis, sizes, times); `told` stands below."""
    style.use()
    figure = plt.figure(figsize=(9.5, 5.5))
    places = figure.subplots(2, -(-len(found) // 2), squeeze=False).ravel()
    for axes, panel in zip(places, found.values(), strict=False):
        sizes, times = np.array(panel["sizes"]), np.array(panel["times"])
        slope = exponent(sizes, times)
        middle = np.exp(np.log(times).mean() - slope * np.log(sizes).mean())
        axes.loglog(sizes, middle * sizes**slope, color=style.COLOURS["mdm"])
        axes.loglog(sizes, times, "o", color=style.INK, markersize=4)
        axes.set(title=f"{panel['title']}: {slope:.2f}", xlabel=panel["axis"], ylabel="seconds")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
    for axes in places[len(found) :]:
        axes.set_visible(False)
    return plots.caption(figure, "Cost as work grows, with the exponent of the line", told)


@click.command(help=__doc__)
@click.option("--only", multiple=True, help="Panels; all if not told.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--quick", is_flag=True, help="Two small points each.")
@click.option("--out", type=click.Path(path_type=Path), default="growth.json", show_default=True)
@click.option("--draw", type=click.Path(path_type=Path), help="A picture (.png) of what is there.")
def main(only: Sequence[str], repeats: int, quick: bool, out: Path, draw: Path | None) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = json.loads(out.read_text()) if out.exists() else {}
    panels = growths(QUICK if quick else FULL, device, quick)
    for name in () if draw else only or panels:
        growth = panels[name]
        times = measure(growth, repeats, device)
        points = ", ".join(f"{n}: {t:.3g} s" for n, t in zip(growth.sizes, times, strict=True))
        click.echo(f"{growth.title}, exponent {exponent(growth.sizes, times):.2f} ({points})")
        found[name] = {"title": growth.title, "axis": growth.axis, "sizes": list(growth.sizes)}
        found[name]["times"] = times
        out.write_text(json.dumps(found, indent=1) + "\n")
    if draw:
        name = torch.cuda.get_device_name() if device == "cuda" else processor()
        told = f"{name}, {torch.get_num_threads()} threads, medians of {repeats}"
        ordered = {key: found[key] for key in panels if key in found}
        plots.save(picture(ordered, told), draw)


if __name__ == "__main__":
    main()
