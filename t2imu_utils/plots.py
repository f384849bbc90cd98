"""The figures that several notebooks draw, in the one style of `palette`.

Every function returns a figure and shows nothing; `save` writes it small and reproducibly.
`pictures.py` draws bodies and motions in the same style.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Image as DisplayedImage
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from PIL import Image

from t2imu_utils.activities import HIGH_DYNAMIC, category_of
from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write
from t2imu_utils.palette import (
    COLOURS,
    DPI,
    FAINT,
    INK,
    QUIET,
    UPRIGHT,
    WIDEST,
    colour,
    label,
    legend_above,
    name_models,
    ordered,
)

LIMIT = 150_000
# Terms of trainings that are no equation of the paper.
TERMS = {"reconstruction": "reconstruction", "accuracy": "tokens predicted (share)"}
RISING = ("accuracy",)


def caption(figure: Figure, title: str, text: str = "") -> Figure:
    """Write under a figure which data it shows (`Track.title`), then what n and whiskers are."""
    whole = f"{title}. {text}".strip() if text else title
    width = int(figure.get_figwidth() * 16.5)
    figure.supxlabel(
        "\n".join(textwrap.wrap(whole, width)), x=0.01, ha="left", fontsize=8, color=QUIET
    )
    return figure


def show(figure: Figure, title: str, text: str = "", path: Path | None = None) -> DisplayedImage:
    """What a notebook cell ends with: the figure with its caption, as a small PNG.

    Args:
        title: `Track.title`, or whatever the figure is made of.
        text: what n is and what whiskers show.
        path: also write it there.
    """
    data = _encode(caption(figure, title, text), LIMIT, path or title)
    if path:
        _write(data, path)
    return DisplayedImage(data=data, format="png")


def save(figure: Figure, path: Path, limit: int = LIMIT) -> Path:
    """Write a PNG of at most `limit` bytes, the same bytes for the same figure, and close it.

    Above the limit the picture is reduced to a palette, then in size.
    """
    return _write(_encode(figure, limit, path), path)


def _write(data: bytes, path: Path) -> Path:
    with atomic_write(Path(path)) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def _encode(figure: Figure, limit: int, where: Path | str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    plt.close(figure)
    data = buffer.getvalue()
    for colours, scale in ((256, 1.0), (128, 1.0), (128, 0.8), (96, 0.65), (64, 0.5)):
        if len(data) <= limit:
            break
        image = Image.open(buffer).convert("RGB")
        size = (round(image.width * scale), round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS) if scale < 1 else image
        small = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        data = small.getvalue()
    else:
        if len(data) > limit:
            raise InputError(
                where, f"{len(data)} bytes", f"at most {limit}", "Draw less, or a smaller figure."
            )
    return data


def grouped_bars(
    axes: Axes,
    values: pd.DataFrame,
    low: pd.DataFrame | None = None,
    high: pd.DataFrame | None = None,
) -> Axes:
    """Bars by group (rows) and model (columns), with whiskers from `low` to `high`."""
    width = 0.8 / max(1, len(values.columns))
    at = np.arange(len(values))
    for index, model in enumerate(values.columns):
        x = at + (index - (len(values.columns) - 1) / 2) * width
        axes.bar(x, values[model], width * 0.92, color=colour(model), label=label(model))
        if low is not None and high is not None:
            axes.vlines(x, low[model], high[model], color=INK, linewidth=1)
    axes.set_xticks(at, [name.replace(" ", "\n") for name in values.index])
    axes.set_xlim(-0.6, len(values) - 0.4)
    return axes


def bars(
    values: pd.DataFrame,
    ylabel: str,
    low: pd.DataFrame | None = None,
    high: pd.DataFrame | None = None,
    log: bool = False,
) -> Figure:
    """`grouped_bars` as a figure of its own: a measure of motion per category and model."""
    rows = ordered(list(values.index))
    parts = [part if part is None else part.loc[rows] for part in (values, low, high)]
    figure, ax = plt.subplots(figsize=(10, 3.6))
    grouped_bars(ax, *parts)
    shade_high_dynamic(ax, rows)
    ax.set_ylabel(ylabel)
    if log:
        ax.set_yscale("log")
        plain_log(ax)
    legend_above(figure, ax)
    return figure


def shade_high_dynamic(axes: Axes, names: Sequence[str]) -> None:
    """A band behind the high-dynamic groups, which stand together at the left."""
    count = sum(category_of(name) in HIGH_DYNAMIC for name in names)
    if count:
        axes.axvspan(-0.6, count - 0.5, color="#f4f1e8", zorder=0)
        axes.text(
            -0.52, 0.985, "high-dynamic", transform=axes.get_xaxis_transform(), va="top",
            fontsize=8, color=QUIET, style="italic",
        )  # fmt: skip


def fig1_lacc(
    differences: Mapping[str, pd.DataFrame], relative: bool = False, loss: str = r"$L_\mathrm{acc}$"
) -> Figure:
    """Fig. 1: change of L_acc against the base per category, and for high, low and all together.

    Args:
        differences: by model, what `paired_difference(base, model, ...)` returned.
        relative: show the change as a share of the base's loss.
    """
    column, factor = ("relative", 100.0) if relative else ("delta", 1.0)
    tables = {model: table.set_index("group") for model, table in differences.items()}
    first = next(iter(tables.values()))
    pooled = [name for name in ("high-dynamic", "low-dynamic", "all") if name in first.index]
    single = ordered([name for name in first.index if name not in pooled])
    figure, axes = plt.subplots(
        1, 2, figsize=(10, 4.1), sharey=True, width_ratios=[max(2, len(single)), len(pooled) + 0.5]
    )
    for ax, names in zip(axes, (single, pooled), strict=True):
        parts = [
            factor * pd.DataFrame({model: t.loc[names, key] for model, t in tables.items()})
            for key in (column, f"{column}_low", f"{column}_high")
        ]
        grouped_bars(ax, *parts)
        counts = first.loc[names, "clips"]
        ax.set_xticks(
            range(len(names)),
            [
                f"{n.replace(' ', chr(10)).replace('-', '-' + chr(10))}\nn = {counts[n]}"
                for n in names
            ],
            fontsize=8.5,
        )
        ax.axhline(0, color=INK, linewidth=0.9)
    shade_high_dynamic(axes[0], single)
    axes[0].set_title("by category")
    axes[1].set_title("together")
    unit = "relative to the base (%)" if relative else "(model - base)"
    axes[0].set_ylabel(f"Δ {loss} {unit}")
    legend_above(figure, axes[0], most=4)
    return figure


@dataclass(frozen=True)
class Panel:
    """One panel of Fig. 2: an embedding, which points are real, the model, a line of numbers."""

    title: str
    points: Float[np.ndarray, "n 2"]
    real: Bool[np.ndarray, "n"]
    model: str
    note: str = ""


def fig2_tsne(panels: Sequence[Panel]) -> Figure:
    """Fig. 2: real and synthetic windows in one plane, lettered panels, two in a row."""
    rows = -(-len(panels) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(9, 4.1 * rows), squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    for letter, ax, panel in zip("ABCDEFGHIJ", axes.flat, panels, strict=False):
        size = 16 if len(panel.points) < 1500 else 9
        order = np.random.default_rng(0).permutation(len(panel.points))
        hues = np.where(panel.real, COLOURS["real"], colour(panel.model))
        ax.scatter(
            *panel.points[order].T, s=size, c=hues[order], alpha=0.65, linewidths=0, rasterized=True
        )
        for name, shown in (("real", panel.real), (panel.model, ~panel.real)):
            text = f"{label(name)} (n = {shown.sum()})"
            ax.scatter([], [], s=28, color=colour(name), label=text)
        ax.legend(loc="upper right", fontsize=8, handletextpad=0.1, borderaxespad=0)
        ax.set_title(f"{letter}  {panel.title}")
        ax.set(xticks=[], yticks=[], xlabel=panel.note)
        ax.xaxis.label.set(size=8.5, color=QUIET)
        ax.spines[["top", "right"]].set_visible(True)
        ax.spines[:].set_color(FAINT)
        ax.margins(0.08)
        ax.set_aspect("equal", adjustable="datalim")
    return figure


def fig3_har(
    accuracy: Mapping[str, Sequence[float]],
    real: Sequence[float] | None = None,
    chance: float | None = None,
    paper: Mapping[str, float] | None = None,
) -> Figure:
    """Fig. 3: balanced accuracy (%) of the classifier trained on each generator.

    Args:
        accuracy: by model, one value (0..1) for each seed; bars are means, points the seeds.
        real: the same for the classifier trained on real recordings: a line with its range.
        chance: one over the number of classes.
        paper: what the paper reports for a model (0..1), as a tick beside its bar.
    """
    width = min(max(4.8, 1.5 * len(accuracy) + 2), WIDEST)
    figure, ax = plt.subplots(figsize=(width, 4.2 if len(accuracy) <= UPRIGHT else 4.8))
    for at, (model, values) in enumerate(accuracy.items()):
        points = 100 * np.asarray(values, dtype=float)
        ax.bar(at, points.mean(), 0.62, color=colour(model))
        spread = np.linspace(-0.16, 0.16, len(points)) if len(points) > 1 else np.zeros(1)
        ax.scatter(at + spread, points, s=18, color="white", edgecolor=INK, linewidth=0.9, zorder=3)
        top = max(points.max(), points.mean())
        reported = 100 * paper[model] if paper and model in paper else None
        if reported is not None and top < reported < top + 10:
            top = reported  # the number stands over the tick, not in it
        ax.annotate(
            f"{points.mean():.1f}", (at, top), (0, 5), textcoords="offset points", ha="center",
            weight="bold", zorder=2.5,  # over the lines, under the points
            bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.8},
        )  # fmt: skip
        if reported is not None:
            ax.hlines(reported, at - 0.4, at + 0.4, color="#b3261e", linewidth=1.4,
                      linestyle=(0, (2, 1.2)), zorder=4)  # fmt: skip
    edge = len(accuracy) - 0.45
    notes = []
    if real is not None:
        line = 100 * np.asarray(real, dtype=float)
        ax.axhline(line.mean(), color=COLOURS["real"], linewidth=1.2)
        ax.axhspan(line.min(), line.max(), color=COLOURS["real"], alpha=0.08, linewidth=0)
        notes.append((line.mean(), f"trained on\nreal: {line.mean():.1f}", COLOURS["real"]))
    if chance is not None:
        ax.axhline(100 * chance, color=QUIET, linewidth=1, linestyle=":")
        notes.append((100 * chance, f"chance: {100 * chance:.1f}", QUIET))
    for height, text, hue in notes:
        ax.annotate(text, (edge, height), (6, 0), textcoords="offset points", va="center",
                    fontsize=8.5, color=hue, annotation_clip=False)  # fmt: skip
    if paper and set(paper) & set(accuracy):
        ax.plot([], [], color="#b3261e", linestyle=(0, (2, 1.2)), linewidth=1.4, label="paper")
        ax.legend(loc="upper left")
    name_models(ax, list(accuracy))
    ax.set(ylabel="balanced accuracy (%)", ylim=(0, 100), xlim=(-0.55, edge))
    return figure


def plain_log(axes: Axes) -> None:
    """Ticks at 1, 2 and 5 of each decade, as plain numbers."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def loss_curves(
    curves: Mapping[str, pd.DataFrame], terms: Sequence[str] = ("simple", "vel", "acc")
) -> Figure:
    """Each loss against the step: training as a running median (thin), validation as points.

    Args:
        curves: by model, with columns ``step``, ``split`` ("train" or "validation"), the terms and
            perhaps ``stage``.
    """
    size = (min(3.3 * len(terms), 11), 3)
    figure, axes = plt.subplots(1, len(terms), figsize=size, squeeze=False)
    for ax, term in zip(axes.flat, terms, strict=True):
        for model, table in curves.items():
            known = table[table[term].notna()]
            # The networks of a generator are trained one after the other: no line joins them.
            stages = known.groupby(known.get("stage", pd.Series("", known.index)), sort=False)
            for number, (_, part) in enumerate(stages):
                train, held = (part[part["split"] == name] for name in ("train", "validation"))
                smooth = train[term].rolling(
                    max(1, len(train) // 20), center=True, min_periods=1
                ).median()  # fmt: skip
                ax.plot(train["step"], smooth, color=colour(model), linewidth=1, alpha=0.75)
                ax.plot(held["step"], held[term], "o-", color=colour(model), markersize=4,
                        label=None if number else label(model))  # fmt: skip
        ax.set(title=TERMS.get(term, rf"$L_\mathrm{{{term}}}$"), xlabel="step")
        if term in RISING:
            ax.set(ylim=(0, 1))
        else:
            ax.set(yscale="log")
            plain_log(ax)
    axes[0, 0].set_ylabel("loss")
    legend_above(figure, axes[0, 0], most=4)
    return figure


def lines(
    series: Mapping[str, tuple[np.ndarray, np.ndarray]],
    xlabel: str,
    ylabel: str,
    log: bool = False,
) -> Figure:
    """One line a model: a loss against the timestep, or a power spectrum (`log`)."""
    aside = len(series) > 5  # a legend that would hide lines
    figure, ax = plt.subplots(figsize=(8 if aside else 6, 3.5))
    for model, (x, y) in series.items():
        dash = "--" if model in ("gaussian", "constant") else "-"
        hue = QUIET if model in ("gaussian", "constant") else colour(model)
        marker = "" if len(x) > 15 else "o"
        ax.plot(x, y, dash, marker=marker, markersize=4, color=hue, label=label(model),
                linewidth=2.2 if model == "real" else 1.6)  # fmt: skip
    ax.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    if log:
        plain_log(ax)
    if aside:
        figure.legend(loc="outside right upper", fontsize=8.5)
    else:
        ax.legend(fontsize=8.5)
    return figure
