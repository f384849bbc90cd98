"""Figures that belong to one notebook each, in the style of `plots.py`."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from jaxtyping import Float
from matplotlib.figure import Figure

from t2imu_utils.clips import Clips
from t2imu_utils.palette import (
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

SPLITS = {"train": "#8d97a5", "val": "#e69f00", "test": "#0072b2", "test_trials": "#9ecbe8"}
AXES = {"x": "#d55e00", "y": "#009e73", "z": "#0072b2"}
END = 5  # frames of a clip that do not count as its inside


def minutes_by_category(minutes: pd.DataFrame) -> Figure:
    """Minutes of motion: a bar for each category (rows), stacked by split (columns)."""
    table = minutes.loc[ordered(list(minutes.index))].fillna(0)
    figure, ax = plt.subplots(figsize=(8, 3.2))
    bottom = np.zeros(len(table))
    for split in [name for name in SPLITS if name in table]:
        ax.bar(range(len(table)), table[split], 0.7, bottom, color=SPLITS[split], label=split)
        bottom += table[split].to_numpy()
    ax.set_xticks(range(len(table)), [name.replace(" ", "\n") for name in table.index])
    ax.set_ylabel("motion (min)")
    ax.legend(ncols=4)
    return figure


def recording_examples(
    recordings: Clips, activities: Sequence[str], site: str, seconds: float = 6.0
) -> Figure:
    """Accelerometer of one position during the first recording of each activity."""
    rate, at = recordings.meta["rate"], recordings.meta["sites"].index(site)
    rows, height = -(-len(activities) // 2), 1.25 * len(activities)
    figure, axes = plt.subplots(
        rows, 2, figsize=(10, height), sharex=True, sharey=True, squeeze=False
    )
    for ax, activity in zip(axes.flat, activities, strict=False):
        ax.set_title(activity, pad=2)
        for index in np.flatnonzero(recordings.table["activity"] == activity):
            acc = recordings[index]["acc"][:, at]
            whole = acc[np.isfinite(acc).all(1)][: round(seconds * rate)]
            if len(whole) > rate:
                for axis, values in zip(AXES, whole.T, strict=True):
                    ax.plot(np.arange(len(values)) / rate, values, color=AXES[axis], linewidth=1.1)
                break
    for ax in axes.flat[len(activities) :]:
        ax.remove()
    _label_lowest(axes, len(activities), "time (s)")
    for ax in axes[:, 0]:
        ax.set_ylabel("acc (m/s²)")
    handles = [plt.Line2D([], [], color=hue, label=axis) for axis, hue in AXES.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=3)
    return figure


def _label_lowest(axes: np.ndarray, count: int, text: str) -> None:
    """Label the x axis of the lowest panel of each column where only `count` panels are used."""
    for ax in axes.flat[max(0, count - axes.shape[1]) : count]:
        ax.set_xlabel(text)
        ax.tick_params(labelbottom=True)


def prompt_similarity(scores: pd.DataFrame, activities: pd.Series) -> Figure:
    """Cosine similarity of prompts (rows, by activity) to the category names (columns)."""
    figure, ax = plt.subplots(figsize=(6.4, 7))
    image = ax.imshow(scores.to_numpy(), aspect="auto", cmap="Blues", vmin=0, vmax=0.8)
    names = [name.replace(" ", "\n") for name in scores.columns]
    ax.set_xticks(range(len(names)), names, fontsize=8)
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


def fit_error(fits: Mapping[str, Clips]) -> Figure:
    """Distance of fitted to given joints (mm), by model and activity: the median of the motions."""
    columns = {}
    for model, clips in fits.items():
        error = pd.Series([1000 * each.mean() for each in clips.each("joint_error")])
        columns[label(model)] = error.groupby(clips.table["activity"].to_numpy()).median()
    table = pd.DataFrame(columns).T
    figure, ax = plt.subplots(figsize=(10, 0.36 * len(table) + 1.5))
    sns.heatmap(
        table[ordered(table.columns)], annot=True, fmt=".0f", cmap="Blues", vmin=0, ax=ax,
        cbar=False, linewidths=1, annot_kws={"fontsize": 9},
    )  # fmt: skip
    ax.set_xticks(ax.get_xticks(), [name.replace(" ", "\n") for name in ordered(table.columns)])
    ax.tick_params(axis="both", rotation=0)
    ax.set(xlabel="", ylabel="")
    return figure


def known_motions(virtual_imu: Callable, rate: float = 20.0) -> tuple[Figure, pd.DataFrame]:
    """A falling, a circling and a spinning sensor: what it reads, and what it should read.

    Returns:
        The figure, and the largest deviation of each motion's reading from its analytic answer,
        `END` frames at both ends left out, where a derivative has one side only.
    """
    t = torch.arange(0, 3, 1 / rate, dtype=torch.float64)
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    turn = _about_y(2.0 * t)
    radius, omega, g = 0.5, 2.0, 9.81
    circle = radius * torch.stack([torch.sin(omega * t), zero, torch.cos(omega * t)], -1)
    still = torch.eye(3, dtype=torch.float64).expand(len(t), 3, 3)
    cases = {
        "free fall": (torch.stack([zero, -g * t**2 / 2, zero], -1), still, [0, 0, 0], [0, 0, 0]),
        "wheel, r = 0.5 m, 2 rad/s": (circle, turn, [0, g, -radius * omega**2], [0, omega, 0]),
        "spin, 2 rad/s": (torch.stack([zero, one, zero], -1), turn, [0, g, 0], [0, omega, 0]),
    }
    figure, axes = plt.subplots(2, 3, figsize=(10, 4), sharex=True, sharey="row")
    rows = {}
    for column, (name, (positions, rotations, acc, gyro)) in zip(
        axes.T, cases.items(), strict=True
    ):
        found = virtual_imu(positions, rotations, rate)
        for ax, values, expected in zip(column, found, (acc, gyro), strict=True):
            for axis, series, level in zip(AXES, values.T, expected, strict=True):
                ax.axhline(level, color=AXES[axis], linewidth=5, alpha=0.25)
                ax.plot(t, series, color=AXES[axis], linewidth=1.4, label=axis)
        column[0].set_title(name)
        column[1].set_xlabel("time (s)")
        inner = [values[END:-END] for values in found]
        errors = [(v - v.new_tensor(e)).abs() for v, e in zip(inner, (acc, gyro), strict=True)]
        rows[name] = {"acc (m/s²)": float(errors[0].max()), "gyro (rad/s)": float(errors[1].max())}
    axes[0, 0].set_ylabel("acc (m/s²)")
    axes[1, 0].set_ylabel("gyro (rad/s)")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=3)
    return figure, pd.DataFrame(rows).T.rename_axis("largest deviation")


def _about_y(angle: torch.Tensor) -> torch.Tensor:
    c, s, o, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = [torch.stack(r, -1) for r in ([c, o, s], [o, one, o], [-s, o, c])]
    return torch.stack(rows, -2)


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
    height = max(0.36, 0.07 / offset)
    figure, axes = plt.subplots(1, len(sites), figsize=(10, height * len(names) + 1.3), sharey=True)
    for ax, site in zip(axes, sites, strict=True):
        for place, (model, table) in enumerate(spread.items()):
            own = table[table["site"] == site].groupby("activity")["spread"].median().reindex(names)
            at = np.arange(len(names)) + (place - (len(spread) - 1) / 2) * offset
            ax.plot(own, at, "o", color=colour(model), markersize=5, label=label(model),
                    clip_on=False)  # fmt: skip
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


def spectra(
    found: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
) -> Figure:
    """Power spectra of joint acceleration: a panel for each category, a line for each set in it."""
    names = ordered(list(found))
    rows = -(-len(names) // 3)
    figure, axes = plt.subplots(
        rows, 3, figsize=(10, 2.5 * rows), sharex=True, sharey=True, squeeze=False
    )
    # The legend is that of the first panel, which names those that have no line in it as well.
    models = dict.fromkeys(model for name in names for model in found[name])
    for ax, name in zip(axes.flat, names, strict=False):
        for model in models:
            frequency, power = found[name].get(model, ([], []))
            width = 2.2 if model == "real" else 1.4
            ax.plot(frequency, power, color=colour(model), linewidth=width, label=label(model))
        ax.set_title(name)
        ax.set_yscale("log")
    for ax in axes.flat[len(names) :]:
        ax.remove()
    figure.supylabel("power ((m/s²)²/Hz)", fontsize=10)
    _label_lowest(axes, len(names), "frequency (Hz)")
    legend_above(figure, axes[0, 0], most=4)
    return figure


def intervals(numbers: pd.DataFrame, panels: Mapping[str, str]) -> Figure:
    """Estimates with 95 % intervals, a row for each model, a panel for each measure.

    Args:
        numbers: columns ``model``, ``measure``, ``value``, ``low``, ``high``.
        panels: axis label by measure.
    """
    models = list(dict.fromkeys(numbers["model"]))[::-1]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(10, 0.36 * len(models) + 1.1), sharey=True, squeeze=False
    )
    for ax, (measure, text) in zip(axes.flat, panels.items(), strict=True):
        own = numbers[numbers["measure"] == measure].set_index("model")
        for at, model in enumerate(models):
            row = own.loc[model]
            ax.plot([row["low"], row["high"]], [at, at], color=colour(model), linewidth=2.5)
            ax.plot(row["value"], at, "o", color=colour(model), markersize=7)
        ax.set_xlabel(text)
        ax.grid(axis="x")
        ax.set_ylim(-0.6, len(models) - 0.4)
    axes[0, 0].set_yticks(range(len(models)), [label(model) for model in models])
    return figure


def confusions(shares: Mapping[str, pd.DataFrame]) -> Figure:
    """One confusion matrix for each generator, three in a row, names of classes at the edges."""
    columns = min(3, len(shares))
    rows = -(-len(shares) // columns)
    side = 1.0 + 0.36 * len(next(iter(shares.values())))
    size = (side * columns + 1.0, side * rows + 0.8)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for place, (ax, (model, table)) in enumerate(zip(axes.flat, shares.items(), strict=False)):
        names = ordered(list(table.index))
        percent = 100 * table.loc[names, names]
        written = percent.map(lambda value: f"{value:.0f}" if value >= 0.5 else "")
        sns.heatmap(
            percent, ax=ax, annot=written, fmt="", cmap="Blues", vmin=0, vmax=100, cbar=False,
            square=True, annot_kws={"size": 8}, yticklabels=place % columns == 0,
            xticklabels=place + columns >= len(shares),
        )  # fmt: skip
        ax.set(xlabel="", ylabel="", title=label(model))
        plt.setp(ax.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
    for ax in axes.flat[len(shares) :]:
        ax.remove()
    figure.supxlabel("recognised as (%)")
    figure.supylabel("true class")
    return figure


def by_subject(accuracy: Mapping[str, pd.Series]) -> Figure:
    """Balanced accuracy (%) of each subject, one column of dots a generator, means as bars."""
    size = (min(1.6 * len(accuracy) + 1.5, WIDEST), 3.4 if len(accuracy) <= UPRIGHT else 4.0)
    figure, ax = plt.subplots(figsize=size)
    for at, (model, values) in enumerate(accuracy.items()):
        spread = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else [0.0]
        ax.scatter(at + np.asarray(spread), 100 * values, s=26, color=colour(model), alpha=0.85)
        ax.hlines(100 * values.mean(), at - 0.32, at + 0.32, color=INK, linewidth=1.6)
    name_models(ax, list(accuracy))
    ax.set(ylabel="balanced accuracy (%)", ylim=(0, 100))
    ax.tick_params(axis="x", labelcolor=QUIET)
    return figure
