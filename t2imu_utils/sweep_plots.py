"""Figures of a grid of weights and seeds (notebook 08)."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from t2imu_utils.palette import QUIET, colour, label


def against_weight(
    table: pd.DataFrame, measures: Mapping[str, str], bases: pd.DataFrame, columns: int = 2
) -> Figure:
    """Each measure against lambda_acc: means as lines, bars of ± one standard deviation over
    seeds, and every seed as a dot. The weights stand at equal distances; λ = 0 is the control.

    Args:
        table: `sweep.finished_cells`; arms with options of their own are left out.
        measures: text of the axis by column.
        bases: by generator, the same columns: dashed lines.
    """
    arms = table[table["lambda_acc"].notna() & (table["options"] == "")]
    weights = sorted(arms["lambda_acc"].unique())
    place = {weight: at for at, weight in enumerate(weights)}
    generators = list(dict.fromkeys(arms["generator"]))
    rows = -(-len(measures) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(10, 2.5 * rows + 0.6), sharex=True, squeeze=False
    )
    for ax, (measure, text) in zip(axes.flat, measures.items(), strict=False):
        for shift, generator in zip(_shifts(len(generators)), generators, strict=True):
            _line(ax, arms[arms["generator"] == generator], measure, place, shift, generator)
            if generator in bases.index:
                ax.axhline(bases.loc[generator, measure], color=colour(generator), linewidth=1,
                           linestyle=(0, (4, 3)))  # fmt: skip
        ax.set_title(text, fontsize=9.5)
        ax.set_xticks(range(len(weights)), [f"{weight:g}" for weight in weights])
    for ax in axes.flat[len(measures) :]:
        ax.remove()
    for ax in axes[-1]:
        ax.set_xlabel("λ_acc")
    ax = axes[0, 0]
    ax.plot([], [], color=QUIET, linewidth=1, linestyle=(0, (4, 3)), label="before refinement")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=5)
    return figure


def _shifts(count: int) -> Sequence[float]:
    return np.linspace(-0.06, 0.06, count) if count > 1 else [0.0]


def _line(ax, part: pd.DataFrame, measure: str, place: Mapping[float, int], shift, generator):
    values = part.dropna(subset=[measure])
    at = values["lambda_acc"].map(place) + shift
    hue = colour(generator)
    ax.plot(at, values[measure], "o", color=hue, markersize=3.5, alpha=0.6)
    found = values.groupby("lambda_acc")[measure].agg(["mean", "std"])
    x = np.array([place[weight] for weight in found.index]) + shift
    ax.errorbar(x, found["mean"], found["std"].fillna(0), color=hue, linewidth=1.6, capsize=3,
                label=label(generator))  # fmt: skip
