"""Figures of the schemes of differentiation (notebook 04)."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from t2imu_utils.palette import INK, QUIET

SCHEME_COLOURS = {
    "central": INK,
    "quintic": "#56b4e9",
    "smoothing": "#009e73",
    "spectral": "#0072b2",
}
SCHEME_LABELS = {
    "central": "second difference (the paper's)",
    "quintic": "quintic spline",
    "smoothing": "smoothing spline",
    "spectral": "spectral",
}
UNITS = {"acc": "m/s²", "gyro": "rad/s"}
TITLES = {"acc": "acceleration", "gyro": "angular velocity"}


def scheme_gains(gains: pd.DataFrame) -> Figure:
    """Share of a sinusoidal movement that each scheme gives, against its frequency.

    Args:
        gains: `imu.sensors.gain_table`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True)
    for ax, sensor in zip(axes, TITLES, strict=True):
        ax.axhline(1, color=QUIET, linewidth=0.9)
        for name, part in gains.groupby("scheme", sort=False):
            ax.plot(part["frequency"], part[sensor], color=_colour(name), label=_label(name),
                    linestyle="--" if name == "smoothing" else "-")  # fmt: skip
        ax.set(title=TITLES[sensor], xlabel="frequency of the movement (Hz)", ylim=(0, 1.5))
    axes[0].set_ylabel("given / true")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def scheme_errors(errors: pd.DataFrame, column: str = "rmse") -> Figure:
    """Error of each scheme on a real board, by trial; a bar of the pose at its own rate beside.

    Args:
        errors: `imu.rigid_body.scheme_table`.
        column: ``rmse`` or ``rmse_ends``.
    """
    errors = errors.dropna(subset=[column])
    names = list(dict.fromkeys(errors["scheme"]))
    kinds = errors.drop_duplicates("trial").set_index("trial")["kind"]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8))
    for ax, sensor in zip(axes, TITLES, strict=True):
        part = errors[errors["sensor"] == sensor]
        table = part.pivot(index="trial", columns="scheme", values=column).loc[kinds.index, names]
        _bars(ax, table)
        spread = part.drop_duplicates("trial").set_index("trial")["spread"]
        texts = [
            f"{trial[:2]}  {kind} (σ = {spread[trial]:.2g})".replace(" with ", "\nwith ")
            for trial, kind in kinds.items()
        ]
        ax.set_yticks(range(len(texts)), texts if ax is axes[0] else [
            f"σ = {spread[trial]:.2g}" for trial in kinds.index
        ])  # fmt: skip
        ax.set(title=TITLES[sensor], xlabel=f"error ({UNITS[sensor]}, root mean square)")
        ax.grid(axis="y", visible=False)
        ax.grid(axis="x", visible=True)
        ax.invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _bars(axes: Axes, table: pd.DataFrame) -> None:
    names: Sequence[str] = table.columns
    height = 0.84 / len(names)
    at = np.arange(len(table))
    for index, name in enumerate(names):
        y = at + (index - (len(names) - 1) / 2) * height
        axes.barh(y, table[name], height * 0.9, color=_colour(name), label=_label(name))


def _colour(scheme: str) -> str:
    return SCHEME_COLOURS.get(scheme, "#c9ced5")


def _label(scheme: str) -> str:
    return SCHEME_LABELS.get(scheme, scheme)
