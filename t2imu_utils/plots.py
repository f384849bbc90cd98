"""The figures of the notebooks, in the one style of `style`; `pictures` draws bodies and motions.

Every function returns a figure and shows nothing; `save` writes it small and reproducibly.
"""

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
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

LIMIT = 150_000  # bytes of a PNG
# Terms of trainings that are no equation of the paper.
TERMS = {"reconstruction": "reconstruction", "accuracy": "tokens predicted (share)"}
SPLITS = {"train": "#8d97a5", "val": "#e69f00", "test": "#0072b2", "test_trials": "#9ecbe8"}
SPLIT_NAMES = {"test": "unseen subjects", "test_trials": "unseen trials"}
# What trivial changes of the reference's x̂_0 reach: names and dashes.
TRIVIAL = {"gaussian": "Gaussian over x̂₀, σ = 1 frame", "constant": "x̂₀ frozen"}
DASHES = {"gaussian": (0, (4, 2)), "constant": (0, (1, 1.5))}
REAL, ALL, POOLED = "real", "all", ("high-dynamic", "low-dynamic", "all")
CONTRAST = "high-dynamic minus low-dynamic"
TOP = 8.0  # Hz up to which spectra of sensors are compared
END = 5  # frames of a clip that do not count as its inside
ACC = "power of the acceleration ((m/s²)²/Hz)"
CHANGE = "Δ $L_\\mathrm{acc}$"
SCHEMES = {
    "central": (INK, "second difference (the paper's)"),
    "quintic": ("#56b4e9", "quintic spline"),
    "smoothing": ("#009e73", "smoothing spline"),
    "spectral": ("#0072b2", "spectral"),
}
SENSORS = {"acc": ("acceleration", "m/s²"), "gyro": ("angular velocity", "rad/s")}
# Bars of solvers with as many evaluations stand beside each other (the last number).
SOLVERS = {
    "ancestral": (QUIET, "ancestral (Euler, stochastic)", 0.97),
    "ddim": ("#e69f00", "DDIM (Euler, ordinary)", 0.99),
    "dpm++2m": ("#0072b2", "DPM-Solver++ (2nd order, ordinary)", 1.01),
    "sde-dpm++2m": ("#009e73", "DPM-Solver++ (2nd order, stochastic)", 1.03),
}


# ---------------------------------------------------------------- showing and saving
def caption(figure: Figure, title: str, text: str = "") -> Figure:
    """Write under a figure which data it shows (`Track.title`), then what n and whiskers are."""
    whole = f"{title}. {text}".strip() if text else title
    lines = textwrap.wrap(whole, int(figure.get_figwidth() * 16.5))
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=8, color=QUIET)
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
            return data
        image = Image.open(buffer).convert("RGB")
        size = (round(image.width * scale), round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS) if scale < 1 else image
        small = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        data = small.getvalue()
    if len(data) > limit:
        raise InputError(
            where, f"{len(data)} bytes", f"at most {limit}", "Draw less, or a smaller figure."
        )
    return data


# ---------------------------------------------------------------- what several figures draw
def _panels(count: int, columns: int, width: float, height: float, **shared):
    """A figure and its `count` axes, so many in a row, each row so high."""
    rows = -(-count // columns)
    size = (width, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **shared)
    for ax in axes.flat[count:]:
        ax.remove()
    for ax in axes.flat[max(0, count - columns) : count]:
        ax.tick_params(labelbottom=True)
    return figure, list(axes.flat[:count])


def _name_x(axes: Sequence[Axes], columns: int, text: str) -> None:
    for ax in axes[-columns:]:
        ax.set_xlabel(text)


def _legend(figure: Figure, names: Sequence[str], trivial: bool = False, dots: bool = False):
    """Over all panels: a line for each model, and what else is drawn."""
    handles = [plt.Line2D([], [], color=colour(n), linewidth=3, label=label(n)) for n in names]
    for name, text in TRIVIAL.items() if trivial else ():
        handles.append(plt.Line2D([], [], color=INK, linestyle=DASHES[name], label=text))
    if dots:
        style = {"marker": "o", "markersize": 3, "markerfacecolor": "white", "linewidth": 0}
        handles.append(plt.Line2D([], [], color=QUIET, label="one seed", **style))
    figure.legend(handles=handles, loc="outside upper right", ncols=min(5, len(handles)))


def _shifts(count: int, reach: float = 0.3) -> np.ndarray:
    return np.linspace(-reach, reach, count) if count > 1 else np.zeros(1)


def _dots(ax: Axes, x: float, values: Sequence[float], hue: str, width: float) -> None:
    at = x + _shifts(len(values), width / 2)
    ax.scatter(at, values, s=6, facecolor="white", edgecolor=hue, linewidth=0.7, zorder=4)


def _band(ax: Axes, x, y, low, high, name: str, **line) -> None:
    line = {"color": colour(name), "linewidth": 2.2 if name == REAL else 1.5} | line
    ax.plot(x, y, **line)
    ax.fill_between(x, low, high, color=line["color"], alpha=0.18, linewidth=0)


def _folded(name: str) -> str:
    return name.replace(" ", "\n").replace("-", "-\n")


def plain_log(axes: Axes) -> None:
    """Ticks at 1, 2 and 5 of each decade, as plain numbers."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def shade_high_dynamic(axes: Axes, names: Sequence[str]) -> None:
    """A band behind the high-dynamic groups, which stand together at the left."""
    count = sum(category_of(name) in HIGH_DYNAMIC for name in names)
    if count:
        axes.axvspan(-0.6, count - 0.5, color="#f4f1e8", zorder=0)
        place = {"transform": axes.get_xaxis_transform(), "va": "top"}
        axes.text(-0.52, 0.985, "high-dynamic", fontsize=8, color=QUIET, style="italic", **place)


def grouped_bars(
    axes: Axes, values: pd.DataFrame, low: pd.DataFrame | None = None, high=None
) -> None:
    """Bars by group (rows) and model (columns), with whiskers from `low` to `high`."""
    width = 0.8 / max(1, len(values.columns))
    at = np.arange(len(values))
    for index, model in enumerate(values.columns):
        x = at + (index - (len(values.columns) - 1) / 2) * width
        axes.bar(x, values[model], width * 0.92, color=colour(model), label=label(model))
        if low is not None:
            axes.vlines(x, low[model], high[model], color=INK, linewidth=1)
    axes.set_xticks(at, [_folded(name) for name in values.index])
    axes.set_xlim(-0.6, len(values) - 0.4)


def refined_arms(arms: Sequence[str], generator: str) -> list[str]:
    """Refined models of a generator without seed and options of their own, by weight."""
    own = {a for a in arms if a not in (REAL, *TRIVIAL) and base_of(a) == generator}
    return sorted((a for a in own if is_refined(a) and not model_of(a).others), key=model_order)


def _shown(arms: Sequence[str], generator: str) -> list[str]:
    """Of some arms those that are plain: the generator, its control, and its refined models."""
    first = [name for name in (generator, control_of(generator)) if name in set(arms)]
    return first + refined_arms(arms, generator)


# ---------------------------------------------------------------- 00 to 02: data and training
def minutes_by_category(minutes: pd.DataFrame) -> Figure:
    """Minutes of motion: a bar for each category (rows), stacked by split (columns)."""
    table = minutes.loc[ordered(list(minutes.index))].fillna(0)
    figure, ax = plt.subplots(figsize=(8, 3.2))
    bottom = np.zeros(len(table))
    for split in [name for name in SPLITS if name in table]:
        ax.bar(range(len(table)), table[split], 0.7, bottom, color=SPLITS[split], label=split)
        bottom += table[split].to_numpy()
    ax.set_xticks(range(len(table)), [_folded(name) for name in table.index])
    ax.set_ylabel("motion (min)")
    ax.legend(ncols=4)
    return figure


def recording_examples(
    recordings: Clips, activities: Sequence[str], site: str, seconds: float = 6.0
) -> Figure:
    """Accelerometer of one position during the first recording of each activity."""
    rate, at = recordings.meta["rate"], recordings.meta["sites"].index(site)
    figure, axes = _panels(len(activities), 2, 10, 2.5, sharex=True, sharey=True)
    for ax, activity in zip(axes, activities, strict=True):
        ax.set_title(activity, pad=2)
        for index in np.flatnonzero(recordings.table["activity"] == activity):
            acc = recordings[index]["acc"][:, at]
            whole = acc[np.isfinite(acc).all(1)][: round(seconds * rate)]
            if len(whole) > rate:
                for axis, values in zip(AXES, whole.T, strict=True):
                    ax.plot(np.arange(len(values)) / rate, values, color=AXES[axis], linewidth=1.1)
                break
    _name_x(axes, 2, "time (s)")
    for ax in axes[::2]:
        ax.set_ylabel("acc (m/s²)")
    handles = [plt.Line2D([], [], color=hue, label=axis) for axis, hue in AXES.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=3)
    return figure


def prompt_similarity(scores: pd.DataFrame, activities: pd.Series) -> Figure:
    """Cosine similarity of prompts (rows, by activity) to the category names (columns)."""
    figure, ax = plt.subplots(figsize=(6.4, 7))
    image = ax.imshow(scores.to_numpy(), aspect="auto", cmap="Blues", vmin=0, vmax=0.8)
    ax.set_xticks(range(scores.shape[1]), [_folded(name) for name in scores.columns], fontsize=8)
    ax.xaxis.tick_top()
    changes = np.flatnonzero(activities.ne(activities.shift()))
    middles = (changes + np.append(changes[1:], len(activities))) / 2 - 0.5
    ax.set_yticks(middles, activities.iloc[changes])
    for row in changes[1:]:
        ax.axhline(row - 0.5, color="white", linewidth=2)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    figure.colorbar(image, ax=ax, shrink=0.5, label="cosine similarity")
    return figure


def noise_schedule(alphas_cumprod: Float[np.ndarray, "T"]) -> Figure:
    """How much of the motion and how much noise x_t holds at each timestep."""
    figure, ax = plt.subplots(figsize=(5.5, 2.6))
    ax.plot(np.sqrt(alphas_cumprod), color=INK, label=r"signal $\sqrt{\bar\alpha_t}$")
    ax.plot(np.sqrt(1 - alphas_cumprod), color="#d55e00", label=r"noise $\sqrt{1-\bar\alpha_t}$")
    ax.set(xlabel="timestep t", ylabel="factor", ylim=(0, 1.03))
    ax.legend()
    return figure


def loss_curves(
    curves: Mapping[str, pd.DataFrame], terms: Sequence[str] = ("simple", "vel", "acc")
) -> Figure:
    """Each loss against the step: training as a running median (thin), validation as points.

    Args:
        curves: by model, with columns ``step``, ``split`` ("train" or "validation"), the terms and
            perhaps ``stage``.
    """
    figure, axes = _panels(len(terms), len(terms), min(3.3 * len(terms), 11), 3)
    for ax, term in zip(axes, terms, strict=True):
        for model, table in curves.items():
            known = table[table[term].notna()]
            # The networks of a generator are trained one after the other: no line joins them.
            stages = known.groupby(known.get("stage", pd.Series("", known.index)), sort=False)
            for number, (_, part) in enumerate(stages):
                train, held = (part[part["split"] == name] for name in ("train", "validation"))
                size = max(1, len(train) // 20)
                smooth = train[term].rolling(size, center=True, min_periods=1).median()
                ax.plot(train["step"], smooth, color=colour(model), linewidth=1, alpha=0.75)
                name = None if number else label(model)
                ax.plot(held["step"], held[term], "o-", color=colour(model), ms=4, label=name)
        ax.set(title=TERMS.get(term, rf"$L_\mathrm{{{term}}}$"), xlabel="step")
        if term == "accuracy":
            ax.set(ylim=(0, 1))
        else:
            ax.set(yscale="log")
            plain_log(ax)
    axes[0].set_ylabel("loss")
    legend_above(figure, axes[0], most=4)
    return figure


# ---------------------------------------------------------------- 03 and 04: bodies and sensors
def solver_trade_off(table: pd.DataFrame) -> Figure:
    """Distances of each solver's motions to real motion against evaluations of the model.

    A line for each solver, with 95 % intervals of its difference to full sampling. Dashed: full
    sampling itself; the band around it is the difference of a second full sample.

    Args:
        table: of `analysis.solvers.trade_off`.
    """
    measures = table["measure"].unique()
    figure, axes = _panels(len(measures), len(measures), 11, 3, sharex=True)
    for ax, measure in zip(axes, measures, strict=True):
        part = table[table["measure"] == measure]
        again, same = (part[part["seeds"] == name] for name in ("other", "same"))
        count, excess = again["evaluations"].iloc[0], again["excess"].iloc[0]
        full = same[(same["solver"] == "ancestral") & (same["evaluations"] == count)]
        level = full["value"].iloc[0]
        ax.axhspan(*(level + again[x].iloc[0] - excess for x in ("low", "high")), color=FAINT)
        ax.axhline(level, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), label="full sampling")
        for solver, line in same.groupby("solver", sort=False):
            line, (hue, name, apart) = line.sort_values("evaluations"), SOLVERS[solver]
            reach = line["excess"] - line["low"], line["high"] - line["excess"]
            drawn = {"color": hue, "label": name, "marker": "o", "ms": 3.5, "capsize": 2}
            ax.errorbar(line["evaluations"] * apart, line["value"], reach, lw=1.4, **drawn)
        shown = sorted(part["evaluations"].unique())
        ax.set(
            xscale="log", title=measure, ylabel="dB" if measure == "spectrum" else "energy distance"
        )
        ax.xaxis.set_major_locator(FixedLocator(shown))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticklabels([f"{n:g}" for n in shown])
    _name_x(axes, len(measures), "evaluations of the model")
    legend_above(figure, axes[0], most=3)
    return figure


def _blue_table(table: pd.DataFrame, ax: Axes, top: float | None, least: float = 0) -> None:
    """Cells the bluer the nearer to `top`, with their whole numbers where those reach `least`."""
    cells = ax.pcolormesh(table, cmap="Blues", vmin=0, vmax=top, edgecolors="white")
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            written = f"{value:.0f}" if value >= least else ""
            hue = "white" if cells.norm(value) > 0.6 else INK
            place = {"ha": "center", "va": "center", "fontsize": 8}
            ax.text(column + 0.5, row + 0.5, written, color=hue, **place)
    ax.set_xticks(np.arange(table.shape[1]) + 0.5, table.columns)
    ax.set_yticks(np.arange(len(table)) + 0.5, table.index)
    ax.invert_yaxis()
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def fit_error(fits: Mapping[str, Clips]) -> Figure:
    """Distance of fitted to given joints (mm), by model and activity: the median of the motions."""
    columns = {}
    for model, clips in fits.items():
        error = pd.Series([1000 * each.mean() for each in clips.each("joint_error")])
        columns[label(model)] = error.groupby(clips.table["activity"].to_numpy()).median()
    table = pd.DataFrame(columns).T
    names = ordered(table.columns)
    figure, ax = plt.subplots(figsize=(10, 0.36 * len(table) + 1.5))
    _blue_table(table[names], ax, None)
    ax.set_xticks(ax.get_xticks(), [_folded(name) for name in names])
    return figure


def known_motions(virtual_imu: Callable, rate: float = 20.0) -> tuple[Figure, pd.DataFrame]:
    """A falling, a circling and a spinning sensor: what it reads, and what it should read.

    Returns:
        The figure, and the largest deviation of each motion's reading from its analytic answer,
        `END` frames at both ends left out, where a derivative has one side only.
    """
    t = torch.arange(0, 3, 1 / rate, dtype=torch.float64)
    o, one, radius, omega, g = torch.zeros_like(t), torch.ones_like(t), 0.5, 2.0, 9.81
    c, s = (omega * t).cos(), (omega * t).sin()
    turn = torch.stack([torch.stack(r, -1) for r in ([c, o, s], [o, one, o], [-s, o, c])], -2)
    still = torch.eye(3, dtype=torch.float64).expand(len(t), 3, 3)
    fall, circle, spin = ([o, -g * t**2 / 2, o], [radius * s, o, radius * c], [o, one, o])
    cases = {
        "free fall": (fall, still, [0, 0, 0], [0, 0, 0]),
        "wheel, r = 0.5 m, 2 rad/s": (circle, turn, [0, g, -radius * omega**2], [0, omega, 0]),
        "spin, 2 rad/s": (spin, turn, [0, g, 0], [0, omega, 0]),
    }
    figure, axes = plt.subplots(2, 3, figsize=(10, 4), sharex=True, sharey="row")
    rows = {}
    for column, (name, (path, rotations, *answers)) in zip(axes.T, cases.items(), strict=True):
        found, rows[name] = virtual_imu(torch.stack(path, -1), rotations, rate), {}
        for ax, values, expected, kind in zip(column, found, answers, SENSORS, strict=True):
            for axis, series, level in zip(AXES, values.T, expected, strict=True):
                ax.axhline(level, color=AXES[axis], linewidth=5, alpha=0.25)
                ax.plot(t, series, color=AXES[axis], linewidth=1.4, label=axis)
            error = (values - values.new_tensor(expected))[END:-END].abs().max()
            rows[name][f"{kind} ({SENSORS[kind][1]})"] = float(error)
        column[0].set_title(name)
        column[1].set_xlabel("time (s)")
    for ax, kind in zip(axes[:, 0], SENSORS, strict=True):
        ax.set_ylabel(f"{kind} ({SENSORS[kind][1]})")
    legend_above(figure, axes[0, 0])
    return figure, pd.DataFrame(rows).T.rename_axis("largest deviation")


def scheme_gains(gains: pd.DataFrame) -> Figure:
    """Share of a sinusoidal movement that each scheme gives, against its frequency.

    Args:
        gains: `imu.differentiation.gain_table`.
    """
    figure, axes = _panels(2, 2, 10, 3.4, sharey=True)
    for ax, (sensor, (title, _)) in zip(axes, SENSORS.items(), strict=True):
        ax.axhline(1, color=QUIET, linewidth=0.9)
        for name, part in gains.groupby("scheme", sort=False):
            (hue, text), dash = SCHEMES[name], "--" if name == "smoothing" else "-"
            ax.plot(part["frequency"], part[sensor], dash, color=hue, label=text)
        ax.set(title=title, xlabel="frequency of the movement (Hz)", ylim=(0, 1.5))
    axes[0].set_ylabel("given / true")
    legend_above(figure, axes[0], most=3)
    return figure


def scheme_errors(errors: pd.DataFrame) -> Figure:
    """Error of each scheme on a real board, by trial; a bar of the pose at its own rate beside.

    Args:
        errors: `imu.rigid_body.scheme_table`.
    """
    names = list(dict.fromkeys(errors["scheme"]))
    kinds = errors.drop_duplicates("trial").set_index("trial")["kind"]
    height = 0.84 / len(names)
    figure, axes = _panels(2, 2, 10, 3.8)
    for ax, (sensor, (title, unit)) in zip(axes, SENSORS.items(), strict=True):
        part = errors[errors["sensor"] == sensor]
        table = part.pivot(index="trial", columns="scheme", values="rmse").loc[kinds.index]
        for index, name in enumerate(names):
            hue, text = SCHEMES.get(name, ("#c9ced5", name))
            y = np.arange(len(table)) + (index - (len(names) - 1) / 2) * height
            ax.barh(y, table[name], height * 0.9, color=hue, label=text)
        spread = part.drop_duplicates("trial").set_index("trial")["spread"]
        texts = [f"σ = {spread[trial]:.2g}" for trial in kinds.index]
        if ax is axes[0]:
            told = [f"{trial[:2]}  {kind} ".replace(" with ", "\nwith ")
                    for trial, kind in kinds.items()]  # fmt: skip
            texts = [f"{kind}({text})" for kind, text in zip(told, texts, strict=True)]
        ax.set_yticks(range(len(texts)), texts)
        ax.set(title=title, xlabel=f"error ({unit}, root mean square)")
        ax.grid(axis="y", visible=False)
        ax.grid(axis="x", visible=True)
        ax.invert_yaxis()
    legend_above(figure, axes[0], most=4)
    return figure


def dynamics_by_activity(
    spread: Mapping[str, pd.DataFrame], sites: Sequence[str], activities: Sequence[str]
) -> Figure:
    """How much the length of the acceleration varies: activities by row, positions by panel.

    Args:
        spread: by name ("real" or a model), columns ``activity``, ``site``, ``spread`` (m/s²).
    """
    names = ordered(list(activities))
    # Dots of one activity stand one under the other, and apart from the next one's.
    offset = min(0.16, 0.8 / len(spread))
    height = max(0.36, 0.07 / offset) * len(names) + 1.3
    figure, axes = _panels(len(sites), len(sites), 10, height, sharey=True)
    for ax, site in zip(axes, sites, strict=True):
        for place, (model, table) in enumerate(spread.items()):
            own = table[table["site"] == site].groupby("activity")["spread"].median().reindex(names)
            at = np.arange(len(names)) + (place - (len(spread) - 1) / 2) * offset
            hue = {"color": colour(model), "label": label(model)}
            ax.plot(own, at, "o", markersize=5, clip_on=False, **hue)
        for row in range(0, len(names), 2):
            ax.axhspan(row - 0.5, row + 0.5, color=FAINT, alpha=0.45, linewidth=0, zorder=0)
        ax.set_title(site)
        ax.set(xscale="symlog", xlim=(0, None))
        ax.grid(False, axis="y")
        ax.grid(True, axis="x")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    axes[len(sites) // 2].set_xlabel("standard deviation of |acc| (m/s²)")
    legend_above(figure, axes[0])
    return figure


# ---------------------------------------------------------------- 05: L_acc
def fig1_lacc(differences: Mapping[str, pd.DataFrame]) -> Figure:
    """Fig. 1: change of L_acc against the base per category, and for high, low and all together.

    Args:
        differences: by model, what `lacc.paired_difference(base, model, ...)` returned.
    """
    tables = {model: table.set_index("group") for model, table in differences.items()}
    first = next(iter(tables.values()))
    pooled = [name for name in POOLED if name in first.index]
    single = ordered([name for name in first.index if name not in (*pooled, CONTRAST)])
    ratios = [max(2, len(single)), len(pooled) + 0.5]
    figure, axes = _panels(2, 2, 10, 4.1, sharey=True, width_ratios=ratios)
    for ax, names in zip(axes, (single, pooled), strict=True):
        columns = ("delta", "delta_low", "delta_high")
        parts = (pd.DataFrame({m: t.loc[names, key] for m, t in tables.items()}) for key in columns)
        grouped_bars(ax, *parts)
        texts = [f"{_folded(name)}\nn = {first.loc[name, 'clips']}" for name in names]
        ax.set_xticks(range(len(names)), texts, fontsize=8.5)
        ax.axhline(0, color=INK, linewidth=0.9)
    shade_high_dynamic(axes[0], single)
    axes[0].set_title("by category")
    axes[1].set_title("together")
    axes[0].set_ylabel(f"{CHANGE} (model - base)")
    legend_above(figure, axes[0], most=4)
    return figure


def bars(values: pd.DataFrame, ylabel: str) -> Figure:
    """`grouped_bars` as a figure of its own: a measure of motion per category and model."""
    rows = ordered(list(values.index))
    figure, ax = plt.subplots(figsize=(10, 3.6))
    grouped_bars(ax, values.loc[rows])
    shade_high_dynamic(ax, rows)
    ax.set_ylabel(ylabel)
    legend_above(figure, ax)
    return figure


def joint_spectra(table: pd.DataFrame, generator: str | None = None) -> Figure:
    """Power of the acceleration of joints by category: means over seeds, bands of one standard
    deviation, real motion in black.

    Args:
        table: `sweep.spectra_over_seeds`.
        generator: whose plain arms are shown; None shows all that there is.
    """
    arms = [arm for arm in dict.fromkeys(table["arm"]) if arm != REAL]
    arms = _shown(arms, generator) if generator else arms
    names = ordered(table["category"].unique())
    figure, axes = _panels(len(names), 3, 10, 2.6, sharex=True, sharey=True)
    for ax, name in zip(axes, names, strict=True):
        # Real motion last: what is to be matched must not be hidden.
        for arm in [*arms, REAL]:
            own = table[(table["category"] == name) & (table["arm"] == arm)]
            _band(ax, *(own[c] for c in ("frequency", "density", "low", "high")), arm)
        ax.set_title(name)
    axes[0].set(yscale="log", xlim=(0, None))
    axes[0].yaxis.set_minor_locator(NullLocator())
    _name_x(axes, 3, "frequency (Hz)")
    figure.supylabel(ACC, fontsize=10)
    _legend(figure, [REAL, *arms])
    return figure


# ---------------------------------------------------------------- 06: signals
def fig2_tsne(panels: Sequence[tuple[str, str, np.ndarray, np.ndarray]]) -> Figure:
    """Fig. 2: real and synthetic windows in one plane, lettered panels, two in a row.

    Args:
        panels: title, model, points (n, 2), and which of them are real (n,).
    """
    figure, axes = _panels(len(panels), 2, 9, 4.1)
    for letter, ax, (title, model, points, real) in zip("ABCDEFGH", axes, panels, strict=False):
        order = np.random.default_rng(0).permutation(len(points))
        hues = np.where(real, COLOURS[REAL], colour(model))
        dots = {"s": 16 if len(points) < 1500 else 9, "alpha": 0.65, "linewidths": 0}
        ax.scatter(*points[order].T, c=hues[order], rasterized=True, **dots)
        for name, count in ((REAL, real.sum()), (model, (~real).sum())):
            ax.scatter([], [], s=28, color=colour(name), label=f"{label(name)} (n = {count})")
        ax.legend(loc="upper right", fontsize=8, handletextpad=0.1, borderaxespad=0)
        ax.set(title=f"{letter}  {title}", xticks=[], yticks=[])
        ax.spines[:].set(visible=True, color=FAINT)
        ax.margins(0.08)
        ax.set_aspect("equal", adjustable="datalim")
    return figure


def intervals(numbers: pd.DataFrame, panels: Mapping[str, str]) -> Figure:
    """Estimates with 95 % intervals, a row for each model, a panel for each measure.

    Args:
        numbers: columns ``model``, ``measure``, ``value``, ``low``, ``high``.
        panels: axis label by measure.
    """
    models = list(dict.fromkeys(numbers["model"]))[::-1]
    figure, axes = _panels(len(panels), len(panels), 10, 0.36 * len(models) + 1.1, sharey=True)
    for ax, (measure, text) in zip(axes, panels.items(), strict=True):
        own = numbers[numbers["measure"] == measure].set_index("model")
        for at, model in enumerate(models):
            ax.plot(own.loc[model, ["low", "high"]], [at, at], color=colour(model), linewidth=2.5)
            ax.plot(own.loc[model, "value"], at, "o", color=colour(model), markersize=7)
        ax.set_xlabel(text)
        ax.grid(axis="x")
        ax.set_ylim(-0.6, len(models) - 0.4)
    axes[0].set_yticks(range(len(models)), [label(model) for model in models])
    return figure


def spectra_by_site(means: Mapping[str, pd.DataFrame], numbers: pd.DataFrame) -> Figure:
    """Spectra of accelerometers with intervals: a row for each site, a column for each class.

    Args:
        means: `spectra.mean_spectra` by name, "real" among them.
        numbers: `spectra.compare`; each model's distance to real stands above, in its colour.
    """
    models = [name for name in means if name != REAL]
    sites = list(dict.fromkeys(means[REAL]["site"]))
    classes = ordered(list(means[REAL]["label"]))
    size = {"width": min(1.2 + 1.95 * len(classes), WIDEST), "height": 1.6 + 0.9 / len(sites)}
    count = len(sites) * len(classes)
    figure, axes = _panels(count, len(classes), **size, sharex=True, sharey=True)
    told = numbers[numbers["measure"] == "distance"]
    told = told.set_index(["site", "label", "model"])["value"]
    places = [(site, kind) for site in sites for kind in classes]
    for ax, (site, kind) in zip(axes, places, strict=True):
        # The real ones last: what is to be matched must not be hidden.
        for name in [*models, REAL]:
            own = means[name][(means[name]["site"] == site) & (means[name]["label"] == kind)]
            own = own[own["frequency"] > 0]
            _band(ax, *(own[c] for c in ("frequency", "density", "low", "high")), name)
        edge = {"xycoords": "axes fraction", "textcoords": "offset points", "weight": "bold"}
        for place, model in enumerate(reversed(models)):
            value = told.get((site, kind, model), np.nan)
            text, hue = f"{value:.1f}" if np.isfinite(value) else "–", colour(model)
            at = {"xy": (1, 1), "xytext": (-24 * place, 0), "ha": "right", "va": "bottom"}
            ax.annotate(text, **at, fontsize=8.5, color=hue, **edge)
        if site == sites[0]:
            ax.set_title(kind, pad=16, fontsize=10.5 if len(classes) <= 6 else 8.5)
        if kind == classes[0]:
            ax.annotate(site, (0, 0.5), (-44, 0), rotation=90, ha="right", va="center", **edge)
    everything = pd.concat(list(means.values()))
    shown = everything[everything["frequency"].between(0, TOP, "right")]["density"]
    axes[0].set(yscale="log", xlim=(0, TOP), xticks=range(0, int(TOP) + 1, 2))
    axes[0].set_ylim(shown.min() / 1.25, shown.max() * 1.25)
    axes[0].yaxis.set_major_locator(LogLocator(numticks=6))
    axes[0].yaxis.set_minor_locator(NullLocator())
    figure.supylabel(ACC, fontsize=10)
    _name_x(axes, len(classes), "Hz")
    _legend(figure, [REAL, *models])
    return figure


def gains_by_class(gains: Mapping[str, pd.DataFrame], before: str) -> Figure:
    """What training on did to the spectrum: a panel for each class, and one for all motions.

    Args:
        gains: `spectra.gains` over one model, by name.
        before: that model.
    """
    first = next(iter(gains.values()))
    classes = [*ordered([name for name in first["label"] if name != ALL]), ALL]
    width = min(1.2 + 1.6 * len(classes), WIDEST)
    figure, axes = _panels(len(classes), len(classes), width, 2.6, sharex=True, sharey=True)
    for ax, kind in zip(axes, classes, strict=True):
        ax.axhline(0, color=colour(before), linewidth=1.5)
        for model, table in gains.items():
            own = table[(table["label"] == kind) & (table["frequency"] > 0)]
            _band(ax, *(own[c] for c in ("frequency", "value", "low", "high")), model)
        units = first.loc[first["label"] == kind, "units"].iloc[0]
        ax.set_title(f"{kind}\nn = {units}", fontsize=10.5 if len(classes) <= 6 else 8.5)
        ax.set(xlim=(0, None), xlabel="Hz")
    axes[0].set_ylabel("change of power (dB)")
    _legend(figure, [before, *gains])
    return figure


# ---------------------------------------------------------------- 07: recognition
def fig3_har(
    accuracy: Mapping[str, Sequence[float]],
    real: Sequence[float] | None = None,
    chance: float | None = None,
) -> Figure:
    """Fig. 3: balanced accuracy (%) of the classifier trained on each generator.

    Args:
        accuracy: by model, one value (0..1) for each seed; bars are means, points the seeds.
        real: the same for the classifier trained on real recordings: a line with its range.
        chance: one over the number of classes.
    """
    width = min(max(4.8, 1.5 * len(accuracy) + 2), WIDEST)
    figure, ax = plt.subplots(figsize=(width, 4.2 if len(accuracy) <= UPRIGHT else 4.8))
    for at, (model, values) in enumerate(accuracy.items()):
        points = 100 * np.asarray(values, dtype=float)
        ax.bar(at, points.mean(), 0.62, color=colour(model))
        dots = {"s": 18, "color": "white", "edgecolor": INK, "linewidth": 0.9, "zorder": 3}
        ax.scatter(at + _shifts(len(points), 0.16), points, **dots)
        box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.8}
        ax.annotate(
            f"{points.mean():.1f}", (at, points.max()), (0, 5), textcoords="offset points",
            ha="center", weight="bold", zorder=2.5, bbox=box,
        )  # fmt: skip
    edge, notes = len(accuracy) - 0.45, []
    if real is not None:
        line = 100 * np.asarray(real, dtype=float)
        ax.axhline(line.mean(), color=COLOURS[REAL], linewidth=1.2)
        ax.axhspan(line.min(), line.max(), color=COLOURS[REAL], alpha=0.08, linewidth=0)
        notes.append((line.mean(), f"trained on\nreal: {line.mean():.1f}", COLOURS[REAL]))
    if chance is not None:
        ax.axhline(100 * chance, color=QUIET, linewidth=1, linestyle=":")
        notes.append((100 * chance, f"chance: {100 * chance:.1f}", QUIET))
    for height, text, hue in notes:
        ax.annotate(text, (edge, height), (6, 0), textcoords="offset points", va="center",
                    fontsize=8.5, color=hue, annotation_clip=False)  # fmt: skip
    name_models(ax, list(accuracy))
    ax.set(ylabel="balanced accuracy (%)", ylim=(0, 100), xlim=(-0.55, edge))
    return figure


def confusions(shares: Mapping[str, pd.DataFrame]) -> Figure:
    """One confusion matrix for each generator, three in a row, names of classes at the edges."""
    columns = min(3, len(shares))
    side = 1.0 + 0.36 * len(next(iter(shares.values())))
    figure, axes = _panels(len(shares), columns, side * columns + 1.0, side + 0.4)
    for place, (ax, (model, table)) in enumerate(zip(axes, shares.items(), strict=True)):
        names = ordered(list(table.index))
        _blue_table(100 * table.loc[names, names], ax, 100, 0.5)
        ax.set(title=label(model), aspect="equal")
        ax.tick_params(labelleft=place % columns == 0, labelbottom=place + columns >= len(shares))
        plt.setp(ax.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
    figure.supxlabel("recognised as (%)")
    figure.supylabel("true class")
    return figure


# ---------------------------------------------------------------- 08: the grid
def against_weight(table: pd.DataFrame, measures: Mapping[str, str]) -> Figure:
    """Each measure against lambda_acc: means as lines, bars of ± one standard deviation over
    seeds, and every seed as a dot. The weights stand at equal distances; λ = 0 is the control, and
    a dashed line the generator before refinement.

    Args:
        table: `sweep.finished_cells`; arms with options of their own are left out.
        measures: text of the axis by column.
    """
    arms = table[table["lambda_acc"].notna() & (table["options"] == "")]
    weights = sorted(arms["lambda_acc"].unique())
    generators = list(dict.fromkeys(arms["generator"]))
    figure, axes = _panels(len(measures), 2, 10, 2.7, sharex=True)
    before = {"linewidth": 1, "linestyle": (0, (4, 3))}
    for ax, (measure, text) in zip(axes, measures.items(), strict=True):
        for shift, generator in zip(_shifts(len(generators), 0.06), generators, strict=True):
            own, hue = arms[arms["generator"] == generator], colour(generator)
            values = own.dropna(subset=[measure])
            at = [weights.index(weight) + shift for weight in values["lambda_acc"]]
            ax.plot(at, values[measure], "o", color=hue, markersize=3.5, alpha=0.6)
            found = values.groupby("lambda_acc")[measure].agg(["mean", "std"])
            x = [weights.index(weight) + shift for weight in found.index]
            bars = {"color": hue, "capsize": 3, "label": label(generator)}
            ax.errorbar(x, found["mean"], found["std"].fillna(0), **bars)
            for base in table.loc[table["model"] == generator, measure]:
                ax.axhline(base, color=hue, **before)
        ax.set_title(text, fontsize=9.5)
        ax.set_xticks(range(len(weights)), [f"{weight:g}" for weight in weights])
    _name_x(axes, 2, "λ_acc")
    axes[0].plot([], [], color=QUIET, label="before refinement", **before)
    legend_above(figure, axes[0])
    return figure


def change_by_category(
    change: pd.DataFrame, by_seed: pd.DataFrame, generator: str, reference: str = "control"
) -> Figure:
    """Fig. 1 over seeds: relative change of L_acc by category, for high and low, and by test split.

    Dashes are means over seeds with their 95 % intervals, dots single seeds, lines across a group
    what trivial changes of the reference's x̂_0 reach. Below: clips / trials.

    Args:
        change: `sweep.change_over_seeds`. by_seed: `sweep.changes_by_seed`.
    """
    own, seeds = (
        t[(t["generator"] == generator) & (t["reference"] == reference)] for t in (change, by_seed)
    )
    arms = refined_arms(own["arm"].unique(), generator)
    if not arms:
        raise InputError(
            "change", f"no arm of {generator} against its {reference}", "at least one",
            "Train some: `make sweep LAMBDA_ACC=\"0.1 1\"`.",
        )  # fmt: skip
    there = [name for name in own.loc[own["split"] == ALL, "group"].unique() if name != CONTRAST]
    pooled = [(ALL, name) for name in POOLED if name in there]
    pooled += [(split, ALL) for split in dict.fromkeys(own["split"]) if split != ALL]
    single = [(ALL, name) for name in ordered([name for name in there if name not in POOLED])]
    ratios = [max(2, len(single)), len(pooled)]
    keys = ["arm", "split", "group"]
    rows, each = own.set_index(keys).sort_index(), seeds.set_index(keys).sort_index()
    figure, axes = _panels(2, 2, WIDEST, 4.4, sharey=True, width_ratios=ratios)
    for ax, places in zip(axes, (single, pooled), strict=True):
        names = []
        for at, (split, group) in enumerate(places):
            for shift, arm in zip(_shifts(len(arms)), arms, strict=True):
                row, hue, x = rows.loc[(arm, split, group)], colour(arm), at + shift
                low, mean, high = (100 * row[name] for name in ("low", "relative", "high"))
                ax.plot([x, x], [low, high], color=hue, linewidth=1.8, alpha=0.7)
                ax.plot(x, mean, "_", color=hue, markersize=9, markeredgewidth=3, zorder=3)
                dots = 100 * each.loc[[(arm, split, group)], "relative"]
                if len(dots) > 1:
                    _dots(ax, x, dots, hue, 0.3 / len(arms))
            for name in (n for n in TRIVIAL if (n, split, group) in rows.index):
                height = 100 * rows.loc[(name, split, group), "relative"]
                ax.hlines(height, at - 0.42, at + 0.42, color=INK, lw=1.2, linestyle=DASHES[name])
            text = _folded(SPLIT_NAMES.get(split, split) if split != ALL else group)
            names.append(f"{text}\n{row['clips']} / {row['units']}")
        ax.set_xticks(range(len(places)), names, fontsize=8.5)
        ax.set_xlim(-0.6, len(places) - 0.4)
        ax.axhline(0, color=INK, linewidth=0.9)
    shade_high_dynamic(axes[0], [name for _, name in single])
    axes[0].set_title("by category")
    axes[1].set_title("together")
    axes[0].set_ylabel(f"{CHANGE} against the {reference} (%)")
    _legend(figure, arms, trivial=True, dots=seeds["seed"].nunique() > 1)
    return figure


def by_timestep(table: pd.DataFrame, generator: str) -> Figure:
    """L_acc at each noise level, and by how much it differs from the control's: means over seeds,
    bands of one standard deviation.

    Args:
        table: `sweep.by_timestep`.
    """
    own = table[table["generator"] == generator]
    shown, control = _shown(own["arm"].unique(), generator), control_of(generator)
    figure, axes = _panels(2, 2, 10, 3.6)
    for arm in [*shown, *(name for name in TRIVIAL if name in set(own["arm"]))]:
        part = own[own["arm"] == arm]
        line = {"linestyle": DASHES.get(arm, "-"), "marker": "o" if len(part) < 15 else ""}
        line |= {"markersize": 3.5, "color": INK if arm in TRIVIAL else colour(arm)}
        for ax, name, size in zip(axes, ("mean", "relative"), (1, 100), strict=True):
            y, sd = size * part[name], size * part["sd" if name == "mean" else "relative_sd"]
            if y.notna().any():
                _band(ax, part["timestep"], y, y - sd, y + sd, arm, **line)
    axes[0].set(yscale="log", ylabel="$L_\\mathrm{acc}$", title="loss")
    axes[1].set(ylabel=f"{CHANGE} (%)", title="against the control of the same seed")
    axes[1].axhline(0, color=colour(control), linewidth=1.5)
    _name_x(axes, 2, "timestep t (noise grows to the right)")
    plain_log(axes[0])
    _legend(figure, shown, trivial=True)
    return figure


def cost_trade_off(costs: pd.DataFrame, generator: str, measures: Mapping[str, str]) -> Figure:
    """What a lower L_acc buys in sampled motion: a dot a seed, a diamond their mean, a panel a
    measure, real motion as a line.

    Args:
        costs: `sweep.costs`. measures: some of `sweep.COSTS`; one that no model has gets no panel.
    """
    shown = _shown(costs["arm"].unique(), generator)
    models, real = costs[costs["arm"].isin(shown)], costs[costs["model"] == REAL].iloc[0]
    measures = {name: text for name, text in measures.items() if models[name].notna().any()}
    figure, axes = _panels(len(measures), len(measures), min(3.9 * len(measures), WIDEST), 3.7)
    for ax, (measure, text) in zip(axes, measures.items(), strict=True):
        known = models.dropna(subset=["acc", measure])
        means = known.groupby("arm")[["acc", measure]].mean().reindex(shown).dropna()
        for arm, mean in means.iterrows():
            own, hue = known[known["arm"] == arm], colour(arm)
            ax.scatter(own["acc"], own[measure], s=22, color=hue, alpha=0.6, linewidths=0)
            ax.plot(*mean, "D", color=hue, markersize=7, markeredgecolor="white")
        ax.plot(*means.drop(generator, errors="ignore").T.to_numpy(), color=QUIET, lw=0.8, zorder=0)
        ax.axhline(real[measure], color=colour(REAL), linewidth=1.4)
        name, _, unit = text.partition(" (")
        ax.set_title(name.replace(", ", "\n"), fontsize=9.5)
        ax.set(xlabel="$L_\\mathrm{acc}$ of held-out clips", ylabel=unit.rstrip(")"))
        if measure.endswith("distance"):
            ax.set_ylim(min(0, ax.get_ylim()[0]), None)
    _legend(figure, [REAL, *shown])
    return figure
