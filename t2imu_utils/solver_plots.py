"""Figure of what fewer evaluations cost (notebook 03)."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from t2imu_utils.evaluation.solvers import FULL, MEASURES, REAL
from t2imu_utils.models.diffusion import ANCESTRAL
from t2imu_utils.palette import FAINT, QUIET, legend_above

COLOURS = {
    ANCESTRAL: QUIET,
    "ddim": "#e69f00",
    "dpm++2m": "#0072b2",
    "sde-dpm++2m": "#009e73",
}
LABELS = {
    ANCESTRAL: "ancestral (Euler, stochastic)",
    "ddim": "DDIM (Euler, ordinary)",
    "dpm++2m": "DPM-Solver++ (2nd order, ordinary)",
    "sde-dpm++2m": "DPM-Solver++ (2nd order, stochastic)",
}
# Bars of solvers with as many evaluations stand beside each other.
APART = dict(zip(COLOURS, (0.97, 0.99, 1.01, 1.03), strict=True))
UNITS = {"features": "energy distance", "kinetics": "energy distance", "spectrum": "dB"}


def trade_off(table: pd.DataFrame) -> Figure:
    """Distances to real motion (above) and to full sampling (below) against evaluations.

    A line for each solver, with 95 % intervals of its difference to full sampling; dashed: full
    sampling itself (above), or a second full sample with other seeds (below), with the interval
    of two full samples' difference as a band around it (above).

    Args:
        table: of `evaluation.solvers.trade_off`.
    """
    figure, axes = plt.subplots(2, len(MEASURES), figsize=(11, 6), sharex=True)
    for row, to in zip(axes, (REAL, FULL), strict=True):
        for ax, measure in zip(row, MEASURES, strict=True):
            part = table[(table["measure"] == measure) & (table["to"] == to)]
            _panel(ax, part, to)
            ax.set_title(f"{measure}, to {to}", fontsize=9.5)
        row[0].set_ylabel("distance")
    for ax, measure in zip(axes[-1], MEASURES, strict=True):
        ax.set_xlabel("evaluations of the model")
        for above in axes[:, MEASURES.index(measure)]:
            above.set_ylabel(UNITS[measure])
    legend_above(figure, axes[0, 0], most=3)
    return figure


def _panel(ax, part: pd.DataFrame, to: str) -> None:
    again = part[part["seeds"] == "other"].iloc[0]
    same = part[part["seeds"] == "same"]
    full = same[(same["solver"] == ANCESTRAL) & (same["evaluations"] == again["evaluations"])]
    floor = full["value"].iloc[0] if to == REAL else again["value"]
    if to == REAL:
        low, high = again["low"] - again["excess"], again["high"] - again["excess"]
        ax.axhspan(floor + low, floor + high, color=FAINT, zorder=0)
    ax.axhline(floor, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), label="full sampling")
    for solver, line in same.groupby("solver", sort=False):
        line = line.sort_values("evaluations")
        below, above = line["excess"] - line["low"], line["high"] - line["excess"]
        ax.errorbar(line["evaluations"] * APART[solver], line["value"], (below, above),
                    color=COLOURS[solver], label=LABELS[solver], marker="o", markersize=3.5,
                    capsize=2, linewidth=1.4)  # fmt: skip
    ax.set_xscale("log")
    shown = sorted(part["evaluations"].unique())
    ax.xaxis.set_major_locator(FixedLocator(shown))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([f"{n:g}" for n in shown])
