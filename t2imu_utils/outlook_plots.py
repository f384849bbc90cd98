"""Figure of the paper's outlook: one change a row (notebook 08)."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from t2imu_utils.style import INK, QUIET, colour

LOWEST = 0.0  # %


def changes(table: pd.DataFrame, seeds: pd.DataFrame) -> Figure:
    """Balanced accuracy of each change: seeds as dots, mean ± one standard deviation as a bar.

    The first row's mean is a line through all, its standard deviation a band; a dotted tick is
    chance.

    Args:
        table: `evaluation.outlook.outlook_table`. seeds: `evaluation.outlook.outlook_seeds`.
    """
    figure, ax = plt.subplots(figsize=(9, 0.42 * len(table) + 1.2))
    first = table.iloc[0]
    centre, spread = 100 * first["mean"], 100 * (first["sd"] if first["n"] > 1 else 0)
    ax.axvspan(centre - spread, centre + spread, color=QUIET, alpha=0.12, linewidth=0)
    ax.axvline(centre, color=QUIET, linewidth=1)
    for at, (label, row) in enumerate(table.iterrows()):
        hue = colour(row["model"])
        points = 100 * seeds.loc[seeds["change"] == label, "accuracy"]
        ax.plot(points, [at] * len(points), "o", color=hue, markersize=4, alpha=0.6)
        bar = 100 * row["sd"] if row["n"] > 1 else None
        ax.errorbar(100 * row["mean"], at, xerr=bar, fmt="D", color=hue, markersize=5,
                    markeredgecolor=INK, ecolor=INK, capsize=3, linewidth=1.4)  # fmt: skip
        ax.plot([100 * row["chance"]] * 2, [at - 0.35, at + 0.35], ":", color=QUIET, linewidth=1.2)
    ax.set_yticks(range(len(table)), [f"{label} (n = {n})" for label, n in table["n"].items()])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlim(left=LOWEST)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", visible=True)
    ax.set_xlabel("balanced accuracy (%)")
    return figure
