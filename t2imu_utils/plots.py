"""The figures of the notebooks, in the one style of `style`; `pictures` draws bodies and motions.

Every function returns a figure and shows nothing; `show` adds the caption and ends a cell.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Image as DisplayedImage
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator
from PIL import Image

from t2imu_utils.activities import HIGH_DYNAMIC, category_of
from t2imu_utils.arms import arm as model_of
from t2imu_utils.arms import base_of, control_of, is_refined, model_order
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write
from t2imu_utils.style import (
    AXES,
    CLASSES,
    COLUMN,
    DPI,
    FAINT,
    INK,
    PAGE,
    QUIET,
    SMALL,
    colour,
    label,
    legend_above,
    ordered,
)

LIMIT = 200_000  # bytes of a PNG
CSS_DPI = 100  # pixels per inch of the page that a figure takes in a notebook
# Terms of trainings that are no equation of the paper.
TERMS = {"reconstruction": "reconstruction", "accuracy": "tokens predicted (share)"}
SPLITS = {"train": "#8d97a5", "val": "#e69f00", "test": "#0072b2"}
# What trivial changes of the reference's x̂_0 reach: names and dashes.
TRIVIAL = {"gaussian": "Gaussian over x̂₀, σ = 1 frame", "constant": "x̂₀ frozen"}
DASHES = {"gaussian": (0, (4, 2)), "constant": (0, (1, 1.5))}
REAL, POOLED = "real", ("high-dynamic", "low-dynamic", "all")
CONTRAST = "high-dynamic minus low-dynamic"
TOP = 8.0  # Hz up to which spectra of sensors are compared
BEYOND = 60.0  # %: a trivial change that reaches more would flatten all others
FAR = 8  # multiples of recorded motion, up or down, that a figure shows in their place
POWER = "power ((m/s²)²/Hz)"
CHANGE = "Δ $L_\\mathrm{acc}$"
SCHEMES = {
    "central": (INK, "second difference (the paper's)"),
    "quintic": ("#56b4e9", "quintic spline"),
    "smoothing": ("#009e73", "smoothing spline"),
    "spectral": ("#0072b2", "spectral"),
}
SENSORS = {"acc": ("acceleration", "m/s²"), "gyro": ("angular velocity", "rad/s")}


# ---------------------------------------------------------------- showing and saving
def caption(figure: Figure, title: str, text: str = "") -> Figure:
    """Write under a figure which data it shows (`Track.title`), then what n and bands are."""
    lines = textwrap.wrap(f"{title}. {text}" if text else title, int(figure.get_figwidth() * 18))
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=SMALL, color=QUIET)
    return figure


def show(figure: Figure, title: str, text: str = "", path: Path | None = None) -> DisplayedImage:
    """What a notebook cell ends with: the figure with its caption, as a small PNG.

    Args:
        title: `Track.title`, or whatever the figure is made of.
        text: what n is and what bands show.
        path: also write it there.
    """
    width = round(CSS_DPI * caption(figure, title, text).get_figwidth())
    data = save(figure, path).read_bytes() if path else _encode(figure, LIMIT, title)
    return DisplayedImage(data=data, format="png", width=width)


def save(figure: Figure, path: Path, limit: int = LIMIT) -> Path:
    """Write a PNG of at most `limit` bytes, the same bytes for the same figure, and close it."""
    data = _encode(figure, limit, path)
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    return path


def _encode(figure: Figure, limit: int, where: Path | str) -> bytes:
    """A PNG with as large a palette as fits."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    plt.close(figure)
    image = Image.open(drawn).convert("RGB")
    for colours in (256, 128, 64, 32, 16):
        small = io.BytesIO()
        palette = image.quantize(colours, dither=Image.Dither.NONE)
        palette.save(small, "PNG", optimize=True, dpi=(DPI, DPI))
        if small.tell() <= limit:
            return small.getvalue()
    raise InputError(
        where, f"{small.tell()} bytes", f"at most {limit}", "Draw less, or a smaller figure."
    )


# ---------------------------------------------------------------- what several figures draw
def _panels(
    count: int, columns: int, height: float, width: float = PAGE, xlabel: str = "", **shared
):
    """A figure and its `count` axes, so many in a row, each row so high (inches)."""
    rows = -(-count // columns)
    size = (width, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **shared)
    for ax in axes.flat[count:]:
        ax.remove()
    for ax in axes.flat[max(0, count - columns) : count]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel(xlabel)
    return figure, list(axes.flat[:count])


def _handles(names: Sequence[str], **style) -> list[plt.Line2D]:
    style = {"linewidth": 2} | style
    return [plt.Line2D([], [], color=colour(n), label=label(n), **style) for n in names]


def _references() -> list[plt.Line2D]:
    return [
        plt.Line2D([], [], color=INK, linestyle=DASHES[name], label=text)
        for name, text in TRIVIAL.items()
    ]


def _shifts(count: int, reach: float = 0.3) -> np.ndarray:
    return np.linspace(-reach, reach, count) if count > 1 else np.zeros(1)


def _dots(ax: Axes, x, y, **more) -> None:
    style = {"s": 6, "facecolor": "white", "edgecolor": INK, "linewidth": 0.6, "zorder": 4}
    ax.scatter(x, y, **style | more)


def _spectra(ax: Axes, tables: Mapping[str, pd.DataFrame], kind: str, y: str = "density") -> None:
    """Of each model a line and its band; real motion last, so that nothing hides it."""
    for name in sorted(tables, key=lambda name: name == REAL):
        own = tables[name][(tables[name]["label"] == kind) & (tables[name]["frequency"] > 0)]
        line = {"color": colour(name), "linewidth": 1.6 if name == REAL else 1.1}
        ax.plot(own["frequency"], own[y], **line)
        ax.fill_between(own["frequency"], own["low"], own["high"], color=line["color"],
                        alpha=0.18, linewidth=0)  # fmt: skip
    if y == "density":
        ax.set(yscale="log")
        ax.yaxis.set_major_locator(LogLocator(numticks=5))
        ax.yaxis.set_minor_locator(NullLocator())


def _folded(name: str) -> str:
    return name.replace(" ", "\n").replace("-", "-\n")


def _plain_log(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def refined_arms(arms: Sequence[str], generator: str) -> list[str]:
    """Fine-tuned models of a generator without seed and options of their own, by weight."""
    own = {a for a in arms if a not in (REAL, *TRIVIAL) and base_of(a) == generator}
    return sorted((a for a in own if is_refined(a) and not model_of(a).others), key=model_order)


def _plain(arms: Sequence[str], generator: str) -> list[str]:
    """The generator, its control and its plain fine-tuned models, those that there are."""
    first = [name for name in (generator, control_of(generator)) if name in set(arms)]
    return first + refined_arms(arms, generator)


# ---------------------------------------------------------------- 00 to 02: data and training
def minutes_by_category(minutes: pd.DataFrame) -> Figure:
    """Minutes of motion: a bar for each category (rows), stacked by split (columns)."""
    names = ordered(list(minutes.index))
    table = minutes.loc[names, [split for split in SPLITS if split in minutes]]
    figure, ax = plt.subplots(figsize=(PAGE, 2.2))
    table.plot.bar(ax=ax, stacked=True, width=0.7, rot=0, color=SPLITS, legend=False)
    ax.set_xticks(range(len(names)), [_folded(name) for name in names])
    ax.set(xlabel="", ylabel="motion (min)")
    legend_above(figure, ax)
    return figure


def recording_examples(
    recordings: Clips, activities: Sequence[str], site: str, seconds: float = 6.0
) -> Figure:
    """Accelerometer of one position during the first recording of each activity."""
    rate, at = recordings.meta["rate"], recordings.meta["sites"].index(site)
    shared = {"xlabel": "time (s)", "sharex": True, "sharey": True}
    figure, axes = _panels(len(activities), 3, 1.4, **shared)
    for ax, activity in zip(axes, activities, strict=True):
        ax.set_title(activity, pad=2)
        for index in np.flatnonzero(recordings.table["activity"] == activity):
            acc = recordings[index]["acc"][:, at]
            whole = acc[np.isfinite(acc).all(1)][: round(seconds * rate)]
            if len(whole) > rate:
                for hue, values in zip(AXES.values(), whole.T, strict=True):
                    ax.plot(np.arange(len(values)) / rate, values, color=hue, linewidth=0.9)
                break
    for ax in axes[::3]:
        ax.set_ylabel("acc (m/s²)")
    legend_above(figure, [plt.Line2D([], [], color=hue, label=axis) for axis, hue in AXES.items()])
    return figure


def prompt_similarity(scores: pd.DataFrame, activities: pd.Series) -> Figure:
    """Cosine similarity of prompts (rows, by activity) to the category names (columns)."""
    figure, ax = plt.subplots(figsize=(PAGE, 2.4))
    image = ax.imshow(scores.to_numpy().T, aspect="auto", cmap="Blues", vmin=0, vmax=0.8)
    ax.set_yticks(range(scores.shape[1]), scores.columns)
    changes = np.flatnonzero(activities.ne(activities.shift()))
    middles = (changes + np.append(changes[1:], len(activities))) / 2 - 0.5
    ax.set_xticks(middles, [_folded(name) for name in activities.iloc[changes]])
    for column in changes[1:]:
        ax.axvline(column - 0.5, color="white", linewidth=2)
    ax.set(xlabel="prompts, by activity", ylabel="category")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    figure.colorbar(image, ax=ax, pad=0.01, label="cosine similarity")
    return figure


def noise_schedule(alphas_cumprod: Float[np.ndarray, "T"]) -> Figure:
    """How much of the motion and how much noise x_t holds at each timestep."""
    figure, ax = plt.subplots(figsize=(COLUMN, 1.9))
    ax.plot(np.sqrt(alphas_cumprod), color=INK, label=r"signal $\sqrt{\bar\alpha_t}$")
    ax.plot(np.sqrt(1 - alphas_cumprod), color="#d55e00", label=r"noise $\sqrt{1-\bar\alpha_t}$")
    ax.set(xlabel="timestep t", ylabel="factor", ylim=(0, 1.03))
    ax.legend()
    return figure


def loss_curves(curves: pd.DataFrame, model: str, terms: Sequence[str]) -> Figure:
    """Losses of one training: on its batches as a running median, on held-out clips as dots.

    curves: columns ``step``, ``split`` ("train" or "validation"), the terms and perhaps ``stage``:
    networks that are trained one after the other.
    """
    figure, axes = _panels(len(terms), len(terms), 2.2, PAGE if len(terms) > 1 else COLUMN)
    for ax, term in zip(axes, terms, strict=True):
        known = curves[curves[term].notna()]
        for _, part in known.groupby(known.get("stage", pd.Series("", known.index)), sort=False):
            train, held = (part[part["split"] == name] for name in ("train", "validation"))
            size = max(1, len(train) // 20)
            smooth = train[term].rolling(size, center=True, min_periods=1).median()
            ax.plot(train["step"], smooth, color=colour(model), linewidth=0.8)
            ax.plot(held["step"], held[term], "o", color=colour(model), ms=3)
        ax.set(title=TERMS.get(term, rf"$L_\mathrm{{{term}}}$"), xlabel="step")
        if term == "accuracy":
            ax.set_ylim(0, 1)
        else:
            _plain_log(ax)
    axes[0].set_ylabel("loss")
    return figure


def held_out_change(curves: Mapping[str, pd.DataFrame], base: str) -> Figure:
    """What fine-tuning did to L_simple and L_acc of held-out clips, in percent of the base's.

    curves: of the base and of the models that began with it, columns as of `loss_curves`.
    """
    held = {m: t[t["split"] == "validation"].set_index("step") for m, t in curves.items()}
    figure, axes = _panels(2, 2, 2.2, sharey=True)
    for ax, term in zip(axes, ("simple", "acc"), strict=True):
        before = held[base][term].dropna().iloc[-1]
        ax.axhline(0, color=colour(base), label=label(base))
        for model in (name for name in held if name != base):
            own = held[model][term].dropna()
            change = 100 * (np.append(before, own) / before - 1)
            line = {"color": colour(model), "ms": 3, "label": label(model)}
            ax.plot(np.append(0, own.index), change, "o-", **line)
        ax.set(title=rf"$L_\mathrm{{{term}}}$", xlabel="step")
    axes[0].set_ylabel("change from the base (%)")
    legend_above(figure, axes[0])
    return figure


# ---------------------------------------------------------------- 04: sensors
def scheme_gains(gains: pd.DataFrame) -> Figure:
    """Share of a sinusoidal movement that each scheme gives, against its frequency.

    gains: `imu.sensors.gain_table`.
    """
    figure, axes = _panels(2, 2, 2.3, sharey=True)
    for ax, (sensor, (title, _)) in zip(axes, SENSORS.items(), strict=True):
        ax.axhline(1, color=QUIET, linewidth=0.7)
        for name, part in gains.groupby("scheme", sort=False):
            (hue, text), dash = SCHEMES[name], "--" if name == "smoothing" else "-"
            ax.plot(part["frequency"], part[sensor], dash, color=hue, label=text)
        ax.set(title=title, xlabel="frequency of the movement (Hz)", ylim=(0, 1.5))
    axes[0].set_ylabel("given / true")
    legend_above(figure, axes[0])
    return figure


def recorded_and_sampled(
    traces: Mapping[str, Mapping[str, Float[np.ndarray, "T"]]],
    spectra: Mapping[str, pd.DataFrame],
    rate: float,
) -> Figure:
    """What one sensor reads, recorded and on sampled motion: activities by row, a column of traces
    for each source, all on one scale, and one of spectra, all sources together.

    Args:
        traces: by source (`REAL` first), then by activity: length of the acceleration, m/s².
        spectra: by source, of `analysis.spectra.mean_spectra` at that site.
    """
    sources, names = list(traces), ordered(list(traces[REAL]))
    everything = np.concatenate([x for own in traces.values() for x in own.values()])
    scale = (0, 1.05 * np.percentile(everything, 99.8))
    size, ratios = (PAGE, 0.72 * len(names) + 0.8), [1] * len(sources) + [0.9]
    figure, axes = plt.subplots(
        len(names), len(ratios), figsize=size, squeeze=False, sharex="col", width_ratios=ratios
    )
    for row, name in zip(axes, names, strict=True):
        for ax, source in zip(row, sources, strict=False):
            ax.set_ylim(scale)
            ax.tick_params(labelleft=source == REAL)
            if name in traces[source]:
                trace = traces[source][name]
                ax.plot(np.arange(len(trace)) / rate, trace, color=colour(source), linewidth=0.9)
        _spectra(row[-1], spectra, name)
        row[-1].set_xlim(0, TOP)
        row[0].set_ylabel(_folded(name), rotation=0, ha="right", va="center", weight="bold")
    for ax, source in zip(axes[0], sources, strict=False):
        ax.set_title(f"{'recorded' if source == REAL else label(source)}", color=colour(source))
    ends = [ax.get_ylim() for ax in axes[:, -1]]
    for ax in axes[:, -1]:
        ax.set_ylim(max(min(low for low, _ in ends), 1e-4), max(high for _, high in ends))
    axes[0, -1].set_title(POWER)
    for ax, text in zip(axes[-1], [*["time (s)"] * len(sources), "frequency (Hz)"], strict=True):
        ax.set_xlabel(text)
    figure.supylabel("|acceleration| (m/s²)", fontsize=SMALL)
    return figure


def against_recorded(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """Each model's value as a multiple of the recorded one: activities by row, a panel a measure.

    What lies beyond `FAR` is drawn as an arrow at the edge, so that no model flattens the others.

    panels: by title; rows activities, columns `REAL` and models.
    """
    names = ordered([name for table in panels.values() for name in table.index])
    models = [name for name in next(iter(panels.values())) if name != REAL]
    apart = min(0.16, 0.8 / len(models))
    ticks = {1 / 8: "⅛", 1 / 4: "¼", 1 / 2: "½", 1: "1", 2: "2", 4: "4", 8: "8"}
    if len(panels) > 4:
        ticks = {at: ticks[at] for at in (1 / 8, 1, 8)}
    height = max(0.3, 0.055 / apart) * len(names) + 0.9
    figure, axes = _panels(len(panels), len(panels), height, sharey=True)
    for ax, (text, table) in zip(axes, panels.items(), strict=True):
        ax.axvline(1, color=colour(REAL), linewidth=1.6)
        for place, model in enumerate(models):
            ratio = (table[model] / table[REAL]).reindex(names).to_numpy(float)
            at = np.arange(len(names)) + (place - (len(models) - 1) / 2) * apart
            for marker, shown in ((">", ratio > FAR), ("<", ratio < 1 / FAR), ("o", True)):
                rows = shown & ~((np.abs(np.log(ratio)) > np.log(FAR)) & (marker == "o"))
                own = {"ms": 4, "color": colour(model), "clip_on": False, "in_layout": False}
                ax.plot(np.clip(ratio, 1 / FAR, FAR)[rows], at[rows], marker, **own)
        for row in range(0, len(names), 2):
            ax.axhspan(row - 0.5, row + 0.5, color=FAINT, alpha=0.45, linewidth=0, zorder=0)
        ax.set(xscale="log", xlim=(1 / FAR, FAR), title=text)
        ax.xaxis.set_major_locator(FixedLocator(list(ticks)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticklabels(ticks.values())
        ax.grid(False, axis="y")
        ax.grid(True, axis="x")
    axes[len(axes) // 2].set_xlabel("times recorded")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    legend_above(figure, _handles([REAL]) + _handles(models, marker="o", linewidth=0, ms=4))
    return figure


# ---------------------------------------------------------------- 05: L_acc
def _by_group(groups: Sequence[str], height: float):
    """A figure, its axes for categories and for groups of them, and what stands on each; a band
    lies behind the high-dynamic categories, which come first."""
    pooled = [name for name in POOLED if name in groups]
    single = ordered([name for name in groups if name not in (*POOLED, CONTRAST)])
    ratios = [max(2, len(single)), len(pooled) + 0.5]
    figure, axes = _panels(2, 2, height, sharey=True, width_ratios=ratios)
    for ax, title, names in zip(axes, ("by category", "together"), (single, pooled), strict=True):
        ax.set(title=title, xlim=(-0.6, len(names) - 0.4))
        ax.axhline(0, color=INK, linewidth=0.7)
    if count := sum(category_of(name) in HIGH_DYNAMIC for name in single):
        axes[0].axvspan(-0.6, count - 0.5, color="#f4f1e8", zorder=0)
        place = {"transform": axes[0].get_xaxis_transform(), "va": "top"}
        axes[0].text(-0.52, 0.985, "high-dynamic", fontsize=SMALL, color=QUIET, **place)
    return figure, axes, (single, pooled)


def fig1_lacc(differences: Mapping[str, pd.DataFrame]) -> Figure:
    """Fig. 1: change of L_acc against the base per category, and for high, low and all together.

    differences: by model, what `lacc.paired_difference(base, model, ...)` returned.
    """
    tables = {model: table.set_index("group") for model, table in differences.items()}
    first = next(iter(tables.values()))
    figure, axes, groups = _by_group(first.index, 2.8)
    width = 0.8 / len(tables)
    shifts = _shifts(len(tables), 0.4 - width / 2)
    for ax, names in zip(axes, groups, strict=True):
        for (model, table), shift in zip(tables.items(), shifts, strict=True):
            own, x = table.loc[names], np.arange(len(names)) + shift
            ax.bar(x, own["delta"], 0.92 * width, color=colour(model), label=label(model))
            ax.vlines(x, own["delta_low"], own["delta_high"], color=INK, linewidth=0.8)
        texts = [f"{_folded(name)}\nn = {first.loc[name, 'clips']}" for name in names]
        ax.set_xticks(range(len(names)), texts)
    axes[0].set_ylabel(f"{CHANGE} (model − base)")
    legend_above(figure, axes[0])
    return figure


def by_timestep(table: pd.DataFrame, generator: str) -> Figure:
    """L_acc at each noise level, and by how much it differs from the control's: means over seeds,
    bands of one standard deviation. table: `sweep.by_timestep`."""
    own = table[table["generator"] == generator]
    shown = _plain(own["arm"].unique(), generator)
    figure, axes = _panels(2, 2, 2.4, xlabel="timestep t (noise grows to the right)")
    for arm in [*shown, *(name for name in TRIVIAL if name in set(own["arm"]))]:
        part = own[own["arm"] == arm]
        line = {"linestyle": DASHES.get(arm, "-"), "marker": "o" if len(part) < 15 else ""}
        line |= {"markersize": 2.5, "color": INK if arm in TRIVIAL else colour(arm)}
        for ax, name, size in zip(axes, ("mean", "relative"), (1, 100), strict=True):
            y, sd = size * part[name], size * part["sd" if name == "mean" else "relative_sd"]
            if y.notna().any():
                ax.plot(part["timestep"], y, **line)
                ax.fill_between(part["timestep"], y - sd, y + sd, color=line["color"], alpha=0.18)
    axes[0].set(ylabel="$L_\\mathrm{acc}$", title="loss")
    axes[1].set(ylabel=f"{CHANGE} (%)", title="against the control of the same seed")
    axes[1].axhline(0, color=colour(control_of(generator)))
    _plain_log(axes[0])
    legend_above(figure, _handles(shown) + _references())
    return figure


# ---------------------------------------------------------------- 06: signals
def fig2_tsne(
    panels: Sequence[tuple[str, str, np.ndarray, np.ndarray, Sequence[str]]],
) -> Figure:
    """Fig. 2: real and synthetic windows in one plane, lettered panels, two in a row. A class has
    its colour; real windows are rings, synthetic ones crosses.

    panels: title, model, points (n, 2), which of them are real (n,), and classes (n,).
    """
    figure, axes = _panels(len(panels), 2, 2.9)
    for letter, ax, (title, model, points, real, classes) in zip(
        "ABCDEFGH", axes, panels, strict=False
    ):
        order = np.random.default_rng(0).permutation(len(points))
        hues, size = np.array([CLASSES.get(name, QUIET) for name in classes]), len(points)
        dots = {"s": 12 if size < 1500 else 7, "linewidths": 0.8, "alpha": 0.8, "rasterized": True}
        rings, crosses = order[real[order]], order[~real[order]]
        ax.scatter(*points[rings].T, facecolors="none", edgecolors=hues[rings], **dots)
        ax.scatter(*points[crosses].T, c=hues[crosses], marker="x", **dots)
        ax.set(title=f"{letter}  {title}", xticks=[], yticks=[])
        counts = f"{real.sum()} real, {(~real).sum()} of {label(model)}"
        ax.set_xlabel(counts, fontsize=SMALL, color=QUIET)
        ax.spines[:].set(visible=True, color=FAINT)
        ax.margins(0.05)
        ax.set_aspect("equal", adjustable="datalim")
    shown = ordered([name for *_, classes in panels for name in classes])
    dot = {"linewidth": 0, "marker": "s", "markersize": 5}
    handles = [plt.Line2D([], [], color=CLASSES.get(n, QUIET), label=n, **dot) for n in shown]
    for marker, text in (("o", "real"), ("x", "synthetic")):
        style = dot | {"marker": marker, "markerfacecolor": "none"}
        handles.append(plt.Line2D([], [], color=INK, label=text, **style))
    legend_above(figure, handles)
    return figure


def intervals(numbers: pd.DataFrame, panels: Mapping[str, str]) -> Figure:
    """Estimates with 95 % intervals, a row for each model, a panel for each measure.

    numbers: columns ``model``, ``measure``, ``value``, ``low``, ``high``. panels: axis label by
    measure.
    """
    models = list(dict.fromkeys(numbers["model"]))[::-1]
    figure, axes = _panels(len(panels), len(panels), 0.2 * len(models) + 0.8, sharey=True)
    for ax, (measure, text) in zip(axes, panels.items(), strict=True):
        own = numbers[numbers["measure"] == measure].set_index("model")
        for at, model in enumerate(models):
            ax.plot(own.loc[model, ["low", "high"]], [at, at], color=colour(model), linewidth=2)
            ax.plot(own.loc[model, "value"], at, "o", color=colour(model), markersize=5)
        ax.set(xlabel=text, ylim=(-0.6, len(models) - 0.4), xlim=(0, None))
        ax.grid(axis="x")
    axes[0].set_yticks(range(len(models)), [label(model) for model in models])
    return figure


def spectra_by_class(
    tables: Mapping[str, pd.DataFrame], y: str = "density", name: str = POWER, top: float = TOP
) -> Figure:
    """Spectra with their bands, a panel for each class, all models together.

    tables: by model or `REAL`; columns ``label``, ``frequency`` (Hz), that of `y`, ``low``,
    ``high``, as `analysis.spectra` gives them: `mean_spectra` of one site, or `gains`.
    """
    classes = ordered([kind for table in tables.values() for kind in table["label"].unique()])
    columns = len(classes) if len(classes) <= 6 else 5
    shared = {"xlabel": "frequency (Hz)", "sharex": True, "sharey": True}
    figure, axes = _panels(len(classes), columns, 1.9, **shared)
    for ax, kind in zip(axes, classes, strict=True):
        _spectra(ax, tables, kind, y)
        ax.set_title(kind)
        if y != "density":
            ax.axhline(0, color=QUIET, linewidth=0.7)
    axes[0].set(xlim=(0, top))
    figure.supylabel(name, fontsize=SMALL)
    legend_above(figure, _handles(sorted(tables, key=lambda model: model != REAL)))
    return figure


def joint_spectra(table: pd.DataFrame, generator: str | None = None) -> Figure:
    """Power of the acceleration of joints by category: means over seeds, bands of one standard
    deviation.

    table: `sweep.spectra_over_seeds`. generator: whose plain models are shown; None shows all.
    """
    table, shown = table.rename(columns={"category": "label"}), list(table["arm"].unique())
    shown = [REAL, *_plain(shown, generator)] if generator else shown
    return spectra_by_class({arm: table[table["arm"] == arm] for arm in shown}, top=10)


# ---------------------------------------------------------------- 07: recognition
def fig3_har(
    accuracy: Mapping[str, Sequence[float]], real: Sequence[float], chance: float
) -> Figure:
    """Fig. 3: balanced accuracy (%) of the classifier trained on each model, its mean at the edge.

    Args:
        accuracy: by model, one value (0..1) for each seed; bars are means, points the seeds.
        real: the same for the classifier trained on real recordings: a line with its range.
        chance: one over the number of classes.
    """
    figure, ax = plt.subplots(figsize=(PAGE, 0.24 * len(accuracy) + 0.9))
    for at, (model, values) in enumerate(accuracy.items()):
        points = 100 * np.asarray(values, dtype=float)
        ax.barh(at, points.mean(), 0.7, color=colour(model))
        _dots(ax, points, at + _shifts(len(points), 0.2), s=9)
        place = {"xycoords": ("axes fraction", "data"), "va": "center"}
        ax.annotate(f"{points.mean():.1f}", (1.01, at), weight="bold", **place)
    line = 100 * np.asarray(real, dtype=float)
    text = f"trained on real recordings: {line.mean():.1f}"
    ax.axvline(line.mean(), color=colour(REAL), label=text)
    ax.axvspan(line.min(), line.max(), color=colour(REAL), alpha=0.1, linewidth=0)
    ax.axvline(100 * chance, color=INK, linestyle=":", label=f"chance: {100 * chance:.1f}")
    ax.set_yticks(range(len(accuracy)), [label(model) for model in accuracy])
    ax.set(xlabel="balanced accuracy (%)", xlim=(0, 100), ylim=(len(accuracy) - 0.5, -0.5))
    ax.grid(False, axis="y")
    ax.grid(True, axis="x")
    legend_above(figure, ax)
    return figure


def confusions(shares: Mapping[str, pd.DataFrame]) -> Figure:
    """One confusion matrix for each model, three in a row, names of classes at the edges."""
    import seaborn as sns  # slow to import, and used here alone

    columns = min(3, len(shares))
    figure, axes = _panels(len(shares), columns, 2.3)
    style = {"cmap": "Blues", "vmin": 0, "vmax": 100, "cbar": False, "square": True}
    for place, (ax, (model, table)) in enumerate(zip(axes, shares.items(), strict=True)):
        names = ordered(list(table.index))
        percent = 100 * table.loc[names, names]
        written = percent.map(lambda value: f"{value:.0f}" if value >= 0.5 else "")
        edges = {"yticklabels": place % columns == 0, "xticklabels": place + columns >= len(shares)}
        text = {"annot": written, "fmt": "", "annot_kws": {"size": SMALL}}
        sns.heatmap(percent, ax=ax, **style, **text, **edges)
        ax.set(xlabel="", ylabel="", title=label(model))
        plt.setp(ax.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
    figure.supxlabel("recognised as (%)", fontsize=SMALL)
    figure.supylabel("true class", fontsize=SMALL)
    return figure


# ---------------------------------------------------------------- 08: the grid
def against_weight(table: pd.DataFrame, measures: Mapping[str, str]) -> Figure:
    """Each measure against lambda_acc, a row a measure, a column a generator, since their scales
    differ: means as lines, bars of ± one standard deviation over seeds, and every seed as a dot.
    λ = 0 is the control, the dashed line the generator as it was.

    table: `sweep.finished_cells`; models with options of their own are left out. measures: text of
    the axis by column.
    """
    arms = table[table["lambda_acc"].notna() & (table["options"] == "")]
    generators = list(dict.fromkeys(arms["generator"]))
    count, columns = len(measures) * len(generators), len(generators)
    figure, axes = _panels(count, columns, 1.3, xlabel="λ_acc", sharex="col")
    places = [(measure, name) for measure in measures for name in generators]
    for ax, (measure, generator) in zip(axes, places, strict=True):
        own, hue = arms[arms["generator"] == generator], colour(generator)
        weights = sorted(own["lambda_acc"].unique())
        values = own.dropna(subset=[measure])
        at = [weights.index(weight) for weight in values["lambda_acc"]]
        ax.plot(at, values[measure], "o", color=hue, markersize=2.5, alpha=0.6)
        found = values.groupby("lambda_acc")[measure].agg(["mean", "std"])
        x = [weights.index(weight) for weight in found.index]
        ax.errorbar(x, found["mean"], found["std"].fillna(0), color=hue, capsize=2)
        for base in table.loc[table["model"] == generator, measure]:
            ax.axhline(base, color=hue, linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set_xticks(range(len(weights)), [f"{weight:g}" for weight in weights])
        ax.margins(y=0.15)
        if generator == generators[0]:
            ax.set_title(measures[measure])
    legend_above(figure, _handles(generators))
    return figure


def change_by_category(change: pd.DataFrame, by_seed: pd.DataFrame, generator: str) -> Figure:
    """Fig. 1 over seeds: change of L_acc from the control, by category, for high, low and all.

    Dashes are means over seeds with their 95 % intervals, dots single seeds, lines across a group
    what trivial changes of the control's x̂_0 reach, with an arrow where that is beyond the scale.
    Below: clips / trials.

    change: `sweep.change_over_seeds`. by_seed: `sweep.changes_by_seed`.
    """
    own, seeds = (
        t[(t["generator"] == generator) & (t["reference"] == "control")] for t in (change, by_seed)
    )
    arms = refined_arms(own["arm"].unique(), generator)
    if not arms:
        raise InputError(
            "change", f"no fine-tuned {generator} with its control", "at least one",
            "Train some: `make sweep LAMBDA_ACC=\"0.1 1\"`.",
        )  # fmt: skip
    rows, each = (t.set_index(["arm", "group"]).sort_index() for t in (own, seeds))
    figure, axes, groups = _by_group(own["group"].unique(), 3.0)
    for ax, names in zip(axes, groups, strict=True):
        for at, group in enumerate(names):
            for shift, arm in zip(_shifts(len(arms)), arms, strict=True):
                row, hue, x = rows.loc[(arm, group)], colour(arm), at + shift
                low, mean, high = (100 * row[name] for name in ("low", "relative", "high"))
                ax.plot([x, x], [low, high], color=hue, linewidth=1.4, alpha=0.7)
                ax.plot(x, mean, "_", color=hue, markersize=6, markeredgewidth=2, zorder=3)
                dots = 100 * each.loc[[(arm, group)], "relative"]
                if len(dots) > 1:
                    _dots(ax, x + _shifts(len(dots), 0.15 / len(arms)), dots, edgecolor=hue)
            for name in (n for n in TRIVIAL if (n, group) in rows.index):
                height = 100 * rows.loc[(name, group), "relative"]
                if height > BEYOND:
                    ax.plot(at, BEYOND, "^", color=INK, markersize=4)
                    height = BEYOND
                ax.hlines(height, at - 0.42, at + 0.42, color=INK, lw=0.9, linestyle=DASHES[name])
        counts = rows.loc[arms[0]].loc[names]
        texts = [f"{_folded(n)}\n{row['clips']} / {row['units']}" for n, row in counts.iterrows()]
        ax.set_xticks(range(len(names)), texts)
    axes[0].set_ylabel(f"{CHANGE} against the control (%)")
    handles = _handles(arms) + _references()
    if seeds["seed"].nunique() > 1:
        dot = {"marker": "o", "markersize": 3, "markerfacecolor": "white", "linewidth": 0}
        handles.append(plt.Line2D([], [], color=QUIET, label="one seed", **dot))
    legend_above(figure, handles)
    return figure


def cost_trade_off(costs: pd.DataFrame, generator: str, measures: Mapping[str, str]) -> Figure:
    """What a lower L_acc buys in sampled motion: a dot a seed, a diamond their mean, a panel a
    measure, real motion as a line.

    costs: `sweep.costs`. measures: some of `sweep.COSTS`; one that no model has gets no panel.
    """
    shown = _plain(costs["arm"].unique(), generator)
    models, real = costs[costs["arm"].isin(shown)], costs[costs["model"] == REAL].iloc[0]
    measures = {name: text for name, text in measures.items() if models[name].notna().any()}
    figure, axes = _panels(len(measures), len(measures), 2.4)
    for ax, (measure, text) in zip(axes, measures.items(), strict=True):
        known = models.dropna(subset=["acc", measure])
        means = known.groupby("arm")[["acc", measure]].mean().reindex(shown).dropna()
        for arm, mean in means.iterrows():
            own, hue = known[known["arm"] == arm], colour(arm)
            ax.scatter(own["acc"], own[measure], s=12, color=hue, alpha=0.6, linewidths=0)
            ax.plot(*mean, "D", color=hue, markersize=5, markeredgecolor="white")
        ax.plot(*means.drop(generator, errors="ignore").T.to_numpy(), color=QUIET, lw=0.7, zorder=0)
        ax.axhline(real[measure], color=colour(REAL))
        name, _, unit = text.partition(" (")
        ax.set_title(name.replace(", ", "\n"))
        ax.set(xlabel="$L_\\mathrm{acc}$ of held-out clips", ylabel=unit.rstrip(")"))
        if measure.endswith("distance"):
            ax.set_ylim(0, 1.08 * ax.get_ylim()[1])
    legend_above(figure, _handles([REAL, *shown]))
    return figure
