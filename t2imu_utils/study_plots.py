"""Figures of the study over seeds: Fig. 1 for each λ, noise levels, trade-off, spectra (nb. 08)."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from t2imu_utils.arm_names import base_of, control_of, is_base, is_refined, model_order, parse
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.lacc import ALL, CONSTANT, GAUSSIAN, HIGH, LOW
from t2imu_utils.evaluation.motion_distance import PARTS
from t2imu_utils.evaluation.sampled import REAL
from t2imu_utils.evaluation.study import BASE, CONTRAST, CONTROL, TRIVIAL
from t2imu_utils.evaluation.study_costs import COSTS
from t2imu_utils.palette import INK, QUIET, WIDEST, colour, label, ordered
from t2imu_utils.plots import plain_log, shade_high_dynamic

DASHES = {GAUSSIAN: (0, (4, 2)), CONSTANT: (0, (1, 1.5))}
REFERENCES = {GAUSSIAN: "Gaussian over x̂₀, σ = 1 frame", CONSTANT: "x̂₀ frozen"}
SPLITS = {"test": "unseen\nsubjects", "test_trials": "unseen\ntrials"}


def plain_arms(arms: Sequence[str], generator: str) -> list[str]:
    """Refined arms of a generator without options of their own, by weight."""
    own = {a for a in arms if a not in (REAL, *TRIVIAL) and base_of(a) == generator}
    return sorted((a for a in own if is_refined(a) and not parse(a).options), key=model_order)


def change_by_category(
    change: pd.DataFrame,
    by_seed: pd.DataFrame,
    generator: str,
    arms: Sequence[str] | None = None,
    reference: str = CONTROL,
) -> Figure:
    """Fig. 1 over seeds: relative change of L_acc by category, for high and low, and by test split.

    Dashes are means over seeds with their 95 % intervals, dots single seeds, lines across a group
    what trivial changes of the reference's x̂_0 reach. Below: clips / trials.

    Args:
        change: `study.change_over_seeds`. by_seed: `study.changes_by_seed`.
        arms: None takes all refined ones without options.
    """
    own, seeds = (
        t[(t["generator"] == generator) & (t["reference"] == reference)] for t in (change, by_seed)
    )
    arms = list(arms or plain_arms(own["arm"].unique(), generator))
    if own.empty or not arms:
        raise InputError(
            "change", f"no arm of {generator} against its {reference}", "at least one",
            "Train some: `make sweep LAMBDA_ACC=\"0.1 1\"`.",
        )  # fmt: skip
    there = set(own.loc[own["split"] == ALL, "group"]) - {CONTRAST}
    pooled = [(ALL, name) for name in (HIGH, LOW, ALL) if name in there]
    pooled += [(split, ALL) for split in dict.fromkeys(own["split"]) if split != ALL]
    single = [(ALL, name) for name in ordered(list(there - {HIGH, LOW, ALL}))]
    figure, axes = plt.subplots(
        1, 2, figsize=(WIDEST, 4.4), sharey=True, width_ratios=[max(2, len(single)), len(pooled)]
    )
    for ax, places in zip(axes, (single, pooled), strict=True):
        _changes(ax, own, seeds, arms, places)
        ax.axhline(0, color=INK, linewidth=0.9)
    shade_high_dynamic(axes[0], [name for _, name in single])
    axes[0].set_title("by category")
    axes[1].set_title("together")
    axes[0].set_ylabel(f"Δ $L_\\mathrm{{acc}}$ against the {reference} (%)")
    _legend(figure, arms, REFERENCES, dots=seeds["seed"].nunique() > 1)
    return figure


def _changes(
    ax: Axes,
    own: pd.DataFrame,
    seeds: pd.DataFrame,
    arms: Sequence[str],
    places: Sequence[tuple[str, str]],
) -> None:
    keys = ["arm", "split", "group"]
    rows, single = own.set_index(keys).sort_index(), seeds.set_index(keys).sort_index()
    names = []
    for at, (split, group) in enumerate(places):
        for shift, arm in zip(_shifts(len(arms)), arms, strict=True):
            row = rows.loc[(arm, split, group)]
            _point(ax, at + shift, 100 * row[["relative", "low", "high"]], colour(arm))
            each = 100 * single.loc[[(arm, split, group)], "relative"]
            if len(each) > 1:
                _dots(ax, at + shift, each, colour(arm), 0.3 / len(arms))
        for name in (n for n in TRIVIAL if (n, split, group) in rows.index):
            height = 100 * rows.loc[(name, split, group), "relative"]
            ax.hlines(height, at - 0.42, at + 0.42, color=INK, linewidth=1.2,
                      linestyle=DASHES[name])  # fmt: skip
        row = rows.loc[(arms[0], split, group)]
        text = SPLITS.get(split, split) if split != ALL else group
        text = text.replace(" ", "\n").replace("-", "-\n")
        names.append(f"{text}\n{row['clips']} / {row['units']}")
    ax.set_xticks(range(len(places)), names, fontsize=8.5)
    ax.set_xlim(-0.6, len(places) - 0.4)


def _shifts(count: int) -> np.ndarray:
    return np.linspace(-0.3, 0.3, count) if count > 1 else np.zeros(1)


def _point(ax: Axes, x: float, values: Sequence[float], hue: str) -> None:
    value, low, high = values
    ax.plot([x, x], [low, high], color=hue, linewidth=1.8, alpha=0.7, solid_capstyle="butt")
    ax.plot(x, value, "_", color=hue, markersize=9, markeredgewidth=3, zorder=3)


def _dots(ax: Axes, x: float, values: Sequence[float], hue: str, width: float) -> None:
    at = x + np.linspace(-width, width, len(values)) / 2
    ax.scatter(at, values, s=6, facecolor="white", edgecolor=hue, linewidth=0.7, zorder=4)


def _legend(
    figure: Figure, arms: Sequence[str], references: Mapping[str, str] | None = None, dots=True
) -> None:
    handles = [plt.Line2D([], [], color=colour(arm), linewidth=3, label=label(arm)) for arm in arms]
    handles += [
        plt.Line2D([], [], color=INK, linewidth=1.2, linestyle=DASHES[name], label=text)
        for name, text in (references or {}).items()
    ]
    if dots:
        handles.append(
            plt.Line2D([], [], marker="o", markersize=3, markerfacecolor="white", color=QUIET,
                       linewidth=0, label="one seed")
        )  # fmt: skip
    figure.legend(handles=handles, loc="outside upper right", ncols=min(4, len(handles)))


def by_timestep(table: pd.DataFrame, generator: str, arms: Sequence[str] | None = None) -> Figure:
    """L_acc at each noise level, and by how much it differs from the control's: means over seeds,
    bands of one standard deviation.

    Args:
        table: `study.by_timestep`.
        arms: None takes all refined ones without options.
    """
    own = table[table["generator"] == generator]
    arms = list(arms or plain_arms(own["arm"].unique(), generator))
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    shown = [name for name in (generator, control_of(generator), *arms) if name in set(own["arm"])]
    for arm in [*shown, *(name for name in TRIVIAL if name in set(own["arm"]))]:
        part = own[own["arm"] == arm]
        style = DASHES.get(arm, "-")
        hue = INK if arm in TRIVIAL else colour(arm)
        _band(axes[0], part["timestep"], part["mean"], part["sd"], hue, style)
        if arm in arms:
            relative = (100 * part[name] for name in ("relative", "relative_sd"))
            _band(axes[1], part["timestep"], *relative, hue, style)
    axes[0].set(yscale="log", ylabel="$L_\\mathrm{acc}$", title="loss")
    axes[1].set(ylabel="Δ $L_\\mathrm{acc}$ (%)", title="against the control of the same seed")
    axes[1].axhline(0, color=colour(control_of(generator)), linewidth=1.5)
    for ax in axes:
        ax.set_xlabel("timestep t (noise grows to the right)")
    plain_log(axes[0])
    _legend(figure, shown, REFERENCES, dots=False)
    return figure


def _band(ax: Axes, x, y, sd, hue: str, style="-") -> None:
    ax.plot(x, y, linestyle=style, marker="o" if len(x) < 15 else "", markersize=3.5, color=hue)
    ax.fill_between(x, y - sd, y + sd, color=hue, alpha=0.18, linewidth=0)


def trade_off(
    by_seed: pd.DataFrame,
    costs: pd.DataFrame,
    generator: str,
    measures: Sequence[str] = ("mean_abs_acceleration", "spectral_distance", "sensor_distance"),
    arms: Sequence[str] | None = None,
    reference: str = CONTROL,
) -> Figure:
    """What a lower L_acc buys in sampled motion: a dot a seed, a panel a measure, real as a line.

    Args:
        by_seed: `study.changes_by_seed`. costs: `study_costs.costs`.
        measures: keys of `study_costs.COSTS`; one that no model has gets no panel.
        arms: None takes all refined ones without options. The reference stands at 0.
    """
    arms = list(arms or plain_arms(costs["arm"].unique(), generator))
    first = control_of(generator) if reference == CONTROL else generator
    all_clips = by_seed[(by_seed["split"] == ALL) & (by_seed["group"] == ALL)]
    change = all_clips.set_index(["reference", "arm", "seed"])["relative"].sort_index()
    shown = [name for name in (generator, first, *arms) if name in set(costs["arm"])]
    shown = list(dict.fromkeys(shown))
    models = costs[costs["arm"].isin(shown)]

    def moved(arm: str, seeds: Sequence[int]) -> list[float]:
        if arm == first:
            return [0.0] * len(seeds)
        if arm == generator:  # from the control back to the base, mean over the controls
            there = change.get((BASE, first))
            return [np.nan if there is None else 100 * float((1 / (1 + there) - 1).mean())]
        return [100 * change.get((reference, arm, seed), np.nan) for seed in seeds]

    measures = [name for name in measures if models[name].notna().any()]
    figure, axes = plt.subplots(
        1, len(measures), figsize=(min(3.9 * len(measures), WIDEST), 3.7), squeeze=False
    )
    real = costs[costs["model"] == REAL].iloc[0]
    for ax, measure in zip(axes.flat, measures, strict=True):
        means = []
        for arm in shown:
            own = models[models["arm"] == arm]
            x = moved(arm, own["seed"])
            ax.scatter(x, own[measure], s=22, color=colour(arm), alpha=0.6, linewidths=0)
            means.append((np.nanmean(x), own[measure].mean()))
            ax.plot(*means[-1], "D", color=colour(arm), markersize=7, markeredgecolor="white")
        path = means[shown.index(first) :]
        ax.plot(*zip(*path, strict=True), color=QUIET, linewidth=0.8, zorder=0)
        ax.axhline(real[measure], color=colour(REAL), linewidth=1.4)
        ax.annotate("real", (0.01, real[measure]), (0, 3), xycoords=("axes fraction", "data"),
                    textcoords="offset points", fontsize=8.5, color=colour(REAL))  # fmt: skip
        name, _, unit = COSTS[measure].partition(" (")
        ax.set_title(name if len(measures) < 3 else name.replace(", ", "\n"), fontsize=9.5)
        ax.set_ylabel(unit.rstrip(")"))
        ax.set_xlabel(f"Δ $L_\\mathrm{{acc}}$ against the {reference} (%)")
        ax.set_ylim(min(0, ax.get_ylim()[0]) if measure.endswith("distance") else None, None)
    _legend(figure, shown, dots=False)
    return figure


def spectra(table: pd.DataFrame, generator: str, arms: Sequence[str] | None = None) -> Figure:
    """Power of the acceleration of sampled joints by category: means over seeds, bands of one
    standard deviation, real motion in black.

    Args:
        table: `study_costs.spectra_over_seeds`.
        arms: None takes all refined ones without options.
    """
    arms = list(arms or plain_arms(table["arm"].unique(), generator))
    shown = [a for a in (generator, control_of(generator), *arms) if a in set(table["arm"])]
    names = ordered(table["category"].unique())
    rows = -(-len(names) // 3)
    figure, axes = plt.subplots(
        rows, 3, figsize=(10, 2.5 * rows + 0.4), sharex=True, sharey=True, squeeze=False
    )
    for ax, name in zip(axes.flat, names, strict=False):
        # Real motion last: what is to be matched must not be hidden.
        for arm in [*shown, REAL]:
            own = table[(table["category"] == name) & (table["arm"] == arm)]
            ax.plot(own["frequency"], own["density"], color=colour(arm),
                    linewidth=2.2 if arm == REAL else 1.4)  # fmt: skip
            ax.fill_between(own["frequency"], own["low"], own["high"], color=colour(arm),
                            alpha=0.2, linewidth=0)  # fmt: skip
        ax.set_title(name)
    axes[0, 0].set(yscale="log", xlim=(0, None))
    axes[0, 0].yaxis.set_minor_locator(NullLocator())
    for ax in axes.flat[len(names) :]:
        ax.remove()
    for ax in axes.flat[max(0, len(names) - 3) : len(names)]:
        ax.set_xlabel("frequency (Hz)")
        ax.tick_params(labelbottom=True)
    figure.supylabel("power of the acceleration ((m/s²)²/Hz)", fontsize=10)
    handles = [plt.Line2D([], [], color=colour(arm), label=label(arm)) for arm in [REAL, *shown]]
    figure.legend(handles=handles, loc="outside upper right", ncols=min(5, len(handles)))
    return figure


def power_by_part(costs: pd.DataFrame, generator: str, arms: Sequence[str] | None = None) -> Figure:
    """Power of the acceleration of legs, trunk and arms against real (dB): a dot a seed.

    Args:
        costs: `study_costs.costs`.
        arms: None takes all refined ones without options.
    """
    arms = list(arms or plain_arms(costs["arm"].unique(), generator))
    shown = [a for a in (generator, control_of(generator), *arms) if a in set(costs["arm"])]
    figure, ax = plt.subplots(figsize=(7, 3.4))
    for at, part in enumerate(PARTS):
        for shift, arm in zip(_shifts(len(shown)), shown, strict=True):
            values = costs.loc[costs["arm"] == arm, part]
            ax.bar(at + shift, values.mean(), 0.5 / len(shown), color=colour(arm), alpha=0.85)
            if not is_base(arm) and len(values) > 1:
                _dots(ax, at + shift, values, INK, 0.3 / len(shown))
    ax.axhline(0, color=colour(REAL), linewidth=1.4)
    ax.set_xticks(range(len(PARTS)), list(PARTS))
    ax.set_ylabel("power against real (dB)")
    ax.set_xlim(-0.6, len(PARTS) - 0.4)
    _legend(figure, shown, dots=costs["seed"].nunique() > 1)
    return figure
