"""Figures of the error that each stage of the chain adds to the virtual sensors."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure

from t2imu_utils.errors import InputError
from t2imu_utils.style import FAINT, INK, QUIET, ordered

STAGES = {
    "band": "above the band (not in the sum)",
    "differentiation": "differentiation",
    "surface": "surface",
    "frame": "sensor frame",
    "fitting": "fitting",
    "skeleton": "other skeleton",
    "total": "whole chain",
}
SIGNALS = {"acc": ("Accelerometer", "m/s²"), "gyro": ("Gyroscope", "rad/s")}
_SHADES = LinearSegmentedColormap.from_list("share", ["white", "#9aa4b0", INK])
_DARK = 0.35  # share from which the numbers are white


def part_heatmaps(table: pd.DataFrame, by: str = "site") -> Figure:
    """RMS error of every stage (rows) at every site or activity (columns), acc above gyro.

    The numbers are in the unit of the panel; the shade is the share of the true signal's RMS about
    its mean, which stands in the first row.

    Args:
        table: from `evaluation.chain_error.pooled`, pooled by the column `by`.
        by: ``"site"`` or ``"activity"``.

    Raises:
        InputError: `table` lacks `by` or was pooled by more than that.
    """
    if by not in table or table.duplicated([by, "part"]).any():
        raise InputError(
            "part_heatmaps: table",
            "no such column" if by not in table else f"several rows of one {by} and part",
            f"one row for each {by} and part",
            f'Use pooled(table, ("{by}",)).',
        )
    names = list(dict.fromkeys(table[by]))
    names = ordered(names) if by == "activity" else names
    parts = [part for part in STAGES if part in set(table["part"])]
    rows = len(parts) + 1
    figure, axes = plt.subplots(2, 1, figsize=(10, 2 * (0.3 * rows + 0.45)), sharex=True)
    for ax, (kind, (title, unit)) in zip(axes, SIGNALS.items(), strict=True):
        values, shares = (
            table.pivot(index="part", columns=by, values=f"{kind}_{column}").loc[parts, names]
            for column in ("rms", "share")
        )
        signal = table.drop_duplicates(by).set_index(by).loc[names, f"{kind}_signal"]
        shaded = np.vstack([np.zeros(len(names)), shares.fillna(0)])
        image = ax.imshow(shaded, aspect="auto", cmap=_SHADES, norm=PowerNorm(0.6, 0, 1, clip=True))
        _write(ax, np.vstack([signal, values]), shaded)
        ax.set_yticks(range(rows), ["true signal", *(STAGES[part] for part in parts)])
        ax.set_title(f"{title}: RMS ({unit})")
        ax.spines[:].set_visible(False)
        ax.grid(False)
        for edge in (0.5, rows - 1.5):
            ax.axhline(edge, color=QUIET, linewidth=1)
    axes[1].set_xticks(range(len(names)), [re.sub("[ _]", "\n", name) for name in names])
    axes[1].set_xlabel(by)
    bar = figure.colorbar(image, ax=axes, aspect=40, pad=0.015, ticks=[0, 0.1, 0.25, 0.5, 1])
    bar.ax.set_yticklabels(["0", "0.1", "0.25", "0.5", "1 and more"])
    bar.set_label("share of the true signal's RMS")
    bar.outline.set_edgecolor(FAINT)
    return figure


def _write(axes: Axes, values: np.ndarray, shares: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(values):
        text = f"{value:.2f}" if value < 10 else f"{value:.1f}"
        hue = "white" if shares[row, column] > _DARK else INK
        weight = "normal" if row else "bold"
        axes.text(
            column, row, text, ha="center", va="center", fontsize=8.5, color=hue, weight=weight
        )
