"""Power spectra of real and synthetic accelerometers side by side (notebook 06)."""

from collections.abc import Iterator, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.spectra import ALL
from t2imu_utils.evaluation.spectral_errors import TOP
from t2imu_utils.palette import WIDEST, colour, label, ordered
from t2imu_utils.runs import REAL

MARGIN = 1.25  # of the densities, above and below
ROOMY = 6  # columns that leave room for the longest name of a class


def by_site_and_class(
    means: Mapping[str, pd.DataFrame],
    sites: Sequence[str] | None = None,
    numbers: pd.DataFrame | None = None,
) -> Figure:
    """Spectra with their intervals: a row for each site, a column for each class.

    Args:
        means: `spectra.mean_spectra` by name, `REAL` among them.
        sites: rows; None takes those of the recordings.
        numbers: `spectral_errors.compare`; writes each model's distance to real, in its colour.
    """
    if REAL not in means:
        raise InputError(
            "means", f"{', '.join(means) or 'nothing'}", f"{REAL!r} among them",
            "Add the spectra of the recordings.",
        )  # fmt: skip
    real = means[REAL]
    sites = list(sites or dict.fromkeys(real["site"]))
    classes = ordered(list(real["label"]))
    size = (min(1.2 + 1.95 * len(classes), WIDEST), 0.9 + 1.6 * len(sites))
    figure, axes = plt.subplots(
        len(sites), len(classes), figsize=size, sharex=True, sharey=True, squeeze=False
    )
    # The real ones last: what is to be matched must not be hidden.
    for name in [*(model for model in means if model != REAL), REAL]:
        table = means[name][means[name]["frequency"] > 0]
        for (site, kind), ax in _panels(axes, sites, classes):
            own = table[(table["site"] == site) & (table["label"] == kind)]
            _line(ax, own, name)
    for (site, kind), ax in _panels(axes, sites, classes):
        if numbers is not None:
            _distances(ax, numbers, site, kind, [model for model in means if model != REAL])
        if site == sites[0]:
            pad = 16 if numbers is not None else None
            ax.set_title(kind, pad=pad, fontsize=_title_size(classes))
        if kind == classes[0]:
            ax.annotate(
                site, (0, 0.5), (-44, 0), xycoords="axes fraction", textcoords="offset points",
                rotation=90, ha="right", va="center", weight="bold", fontsize=10.5,
            )  # fmt: skip
    _frame(axes[0, 0], pd.concat(list(means.values())))
    figure.supylabel("power of the acceleration ((m/s²)²/Hz)", fontsize=10)
    for ax in axes[-1]:
        ax.set_xlabel("Hz")
    _legend(figure, [REAL, *(model for model in means if model != REAL)])
    return figure


def gains_by_class(gains: Mapping[str, pd.DataFrame], before: str) -> Figure:
    """What training on did to the spectrum: a panel for each class, and one for all motions.

    Args:
        gains: `spectra.gains` over one model, by name.
        before: that model.
    """
    first = next(iter(gains.values()))
    classes = [*ordered([name for name in first["label"] if name != ALL]), ALL]
    size = (min(1.2 + 1.6 * len(classes), WIDEST), 2.6)
    figure, axes = plt.subplots(1, len(classes), figsize=size, sharex=True, sharey=True)
    for ax, kind in zip(axes, classes, strict=True):
        ax.axhline(0, color=colour(before), linewidth=1.5)
        for model, table in gains.items():
            own = table[(table["label"] == kind) & (table["frequency"] > 0)]
            _line(ax, own.rename(columns={"value": "density"}), model)
        units = first.loc[first["label"] == kind, "units"].iloc[0]
        ax.set_title(f"{kind}\nn = {units}", fontsize=_title_size(classes))
        ax.set(xlim=(0, None), xlabel="Hz")
    axes[0].set_ylabel("change of power (dB)")
    _legend(figure, [before, *gains])
    return figure


def _title_size(classes: Sequence[str]) -> float:
    return 10.5 if len(classes) <= ROOMY else 8.5


def _legend(figure: Figure, names: Sequence[str]) -> None:
    handles = [plt.Line2D([], [], color=colour(n), linewidth=_width(n), label=label(n))
               for n in names]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper right", ncols=min(5, len(handles)))


def _panels(
    axes: np.ndarray, sites: Sequence[str], classes: Sequence[str]
) -> Iterator[tuple[tuple[str, str], Axes]]:
    for row, site in zip(axes, sites, strict=True):
        yield from (((site, kind), ax) for kind, ax in zip(classes, row, strict=True))


def _width(name: str) -> float:
    return 2.2 if name == REAL else 1.5


def _line(ax: Axes, own: pd.DataFrame, name: str) -> None:
    ax.plot(own["frequency"], own["density"], color=colour(name), linewidth=_width(name))
    alpha = 0.24 if name == REAL else 0.12
    ax.fill_between(
        own["frequency"], own["low"], own["high"], color=colour(name), alpha=alpha, linewidth=0
    )


def _distances(
    ax: Axes, numbers: pd.DataFrame, site: str, kind: str, models: Sequence[str]
) -> None:
    """Each model's log-spectral distance above the panel, from the right edge to the left."""
    here = (numbers["site"] == site) & (numbers["label"] == kind)
    own = numbers[here & (numbers["measure"] == "distance")].set_index("model")["value"]
    for place, model in enumerate(reversed(models)):
        text = f"{own[model]:.1f}" if np.isfinite(own.get(model, np.nan)) else "–"
        ax.annotate(
            text, (1, 1), (-24 * place, 0), xycoords="axes fraction", textcoords="offset points",
            ha="right", va="bottom", fontsize=8.5, weight="bold", color=colour(model),
        )  # fmt: skip


def _frame(ax: Axes, table: pd.DataFrame) -> None:
    """Axes that all panels share: the densities of the frequencies that are compared."""
    shown = table[(table["frequency"] > 0) & (table["frequency"] <= TOP) & (table["density"] > 0)]
    ax.set(yscale="log", xlim=(0, TOP), xticks=range(0, int(TOP) + 1, 2))
    ax.set_ylim(shown["density"].min() / MARGIN, shown["density"].max() * MARGIN)
    ax.yaxis.set_major_locator(LogLocator(numticks=6))
    ax.yaxis.set_minor_locator(NullLocator())
