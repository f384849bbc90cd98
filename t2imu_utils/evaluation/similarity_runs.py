"""Real and synthetic windows side by side: the features, panels and numbers of Fig. 2."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from t2imu_utils.clips import Clips
from t2imu_utils.evaluation.similarity import (
    Estimate,
    Scaling,
    catch22_features,
    nearest_neighbour_mixing,
    tsne,
    two_sample_distance,
)
from t2imu_utils.evaluation.window_sets import WindowSet, labelled_windows
from t2imu_utils.runs import REAL
from t2imu_utils.tracks import RecordingsSection

DYNAMIC = ("jumping", "running")  # panels C and D
TOGETHER = " + ".join(DYNAMIC)
MEASURES = {"distance": "energy distance, catch22", "mixing": "nearest-neighbour mixing, catch22"}
WITH_SIZE = {f"{key}_sized": f"{name} + mean, sd" for key, name in MEASURES.items()}
SPLITS = 20  # of the real subjects into halves
FEWEST = 4  # recordings on either side of a comparison


@dataclass(frozen=True)
class Described:
    """Windows of one source by their features; catch24 is catch22 with mean and deviation.

    `constant` counts windows in which an axis does not move at all: they have no features.
    """

    catch22: Float[np.ndarray, "n 66"]
    catch24: Float[np.ndarray, "n 72"]
    labels: np.ndarray
    groups: np.ndarray
    subjects: np.ndarray
    constant: int

    def _rows(self, rows: np.ndarray) -> "Described":
        parts = (self.catch22, self.catch24, self.labels, self.groups, self.subjects)
        return Described(*(part[rows] for part in parts), self.constant)

    def only(self, classes: Sequence[str]) -> "Described":
        """The windows of some classes."""
        return self._rows(np.isin(self.labels, classes))

    def thinned(self, count: int, rng: np.random.Generator) -> "Described":
        """`count` windows, as evenly over classes as they allow."""
        turn = np.empty(len(self.labels), dtype=int)
        for name in np.unique(self.labels):
            own = np.flatnonzero(self.labels == name)
            turn[own] = rng.permutation(len(own))
        return self._rows(np.lexsort((rng.random(len(turn)), turn))[:count])


def describe(windows: WindowSet) -> Described:
    """Features of the three axes of one accelerometer."""
    features = catch22_features(windows.x, moments=True)
    names = features.masked.index
    plain = [not name.endswith(("DN_mean", "DN_Spread_std")) for name in names]
    rows = features.usable
    values = features.values[rows]
    return Described(
        values[:, plain],
        values,
        windows.labels[rows],
        windows.groups[rows],
        windows.subjects[rows],
        int((~rows).sum()),
    )


def describe_all(
    sources: Mapping[str, Clips], section: RecordingsSection, per_class: int, seed: int
) -> dict[str, Described]:
    """`describe` for each source: at most so many windows of each class of a track's section."""
    return {
        name: describe(labelled_windows(clips, section, per_class, seed))
        for name, clips in sources.items()
    }


def counts(described: Mapping[str, Described]) -> pd.DataFrame:
    """How many windows of each class (rows) each source (columns) has."""
    return pd.DataFrame(
        {name: pd.Series(part.labels).value_counts() for name, part in described.items()}
    )


def embed(
    real: Described, synthetic: Described, perplexity: float, seed: int
) -> tuple[Float[np.ndarray, "n 2"], np.ndarray]:
    """t-SNE of equally many real and synthetic windows, and which of the points are real."""
    rng = np.random.default_rng(seed)
    count = min(len(real.labels), len(synthetic.labels))
    parts = [part.thinned(count, rng).catch22 for part in (real, synthetic)]
    pooled = np.concatenate(parts)
    points = tsne(Scaling.fit(pooled)(pooled), seed, min(perplexity, (len(pooled) - 1) / 4))
    return points, np.arange(len(pooled)) < count


def compare(
    real: Described, synthetic: Mapping[str, Described], seed: int, classes: str = "all"
) -> pd.DataFrame:
    """Two-sample numbers of each model, on features scaled by all models' windows together.

    The row `REAL` compares real with real: one half of the subjects with the other half, the mean
    and the range of 95 % over `SPLITS` ways to halve them. No synthetic set can be expected to lie
    nearer than that. NaN where the halves have too few recordings.

    Returns:
        Columns ``model``, ``classes``, ``measure`` (keys of `MEASURES` and `WITH_SIZE`), ``value``
        with ``low`` and ``high`` (95 %), and how many recordings and motions stood behind it.
    """
    rows = []
    for suffix, name in (("", "catch22"), ("_sized", "catch24")):
        sets = {model: getattr(part, name) for model, part in synthetic.items()}
        scaling = Scaling.fit(np.concatenate([getattr(real, name), *sets.values()]))
        own = scaling(getattr(real, name))
        found = {REAL: _between_halves(own, real, seed)}
        for model, values in sets.items():
            groups = {"x_groups": real.groups, "y_groups": synthetic[model].groups}
            found[model] = {
                "distance": two_sample_distance(own, scaling(values), seed, **groups),
                "mixing": nearest_neighbour_mixing(own, scaling(values), seed, **groups),
            }
        rows += [
            {
                "model": model,
                "classes": classes,
                "measure": measure + suffix,
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "recordings": estimate.n_x,
                "motions": estimate.n_y,
            }
            for model, estimates in found.items()
            for measure, estimate in estimates.items()
        ]
    return pd.DataFrame(rows)


def compare_all(real: Described, synthetic: Mapping[str, Described], seed: int) -> pd.DataFrame:
    """`compare` on all classes, then on jumping and running alone."""
    dynamic = {model: part.only(DYNAMIC) for model, part in synthetic.items()}
    parts = [
        compare(real, synthetic, seed),
        compare(real.only(DYNAMIC), dynamic, seed, TOGETHER),
    ]
    return pd.concat(parts)


def _between_halves(
    features: Float[np.ndarray, "n F"], real: Described, seed: int
) -> dict[str, Estimate]:
    """The two numbers between the windows of one half of the subjects and those of the other."""
    rng = np.random.default_rng(seed)
    subjects = np.unique(real.subjects)
    values: dict[str, list[float]] = {"distance": [], "mixing": []}
    for _ in range(SPLITS):
        first = np.isin(real.subjects, rng.permutation(subjects)[: len(subjects) // 2])
        sides = [np.flatnonzero(first), np.flatnonzero(~first)]
        if min(len(np.unique(real.groups[side])) for side in sides) < FEWEST:
            continue
        x, y = (features[side] for side in sides)
        groups = dict(zip(("x_groups", "y_groups"), (real.groups[s] for s in sides), strict=True))
        values["distance"].append(two_sample_distance(x, y, seed, draws=2, **groups).value)
        values["mixing"].append(nearest_neighbour_mixing(x, y, seed, draws=5, **groups).value)
    count = len(np.unique(real.groups))
    return {
        name: Estimate(float(np.mean(v)), *map(float, np.percentile(v, [2.5, 97.5])), count, count)
        if v
        else Estimate(np.nan, np.nan, np.nan, count, count)
        for name, v in values.items()
    }


def table(numbers: pd.DataFrame) -> pd.DataFrame:
    """`compare` for reading: a row for each model, "value [low, high]" in the cells."""
    cells = numbers.assign(
        text=[
            f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" if row.value == row.value else "–"
            for row in numbers.itertuples(index=False)
        ],
        measure=numbers["measure"].map(MEASURES | WITH_SIZE),
    )
    order = list(dict.fromkeys(cells["model"]))
    return cells.pivot(index="model", columns=["classes", "measure"], values="text").loc[order]


def in_words(numbers: pd.DataFrame, base: str, model: str) -> str:
    """Whether one model's windows lie nearer to the real ones than another's, by all numbers."""
    lines = []
    names = MEASURES | WITH_SIZE
    for (classes, measure), part in numbers.groupby(["classes", "measure"], sort=False):
        rows = part.set_index("model")
        before, after = rows.loc[base], rows.loc[model]
        better = (after["value"] < before["value"]) == measure.startswith("distance")
        apart = after["low"] > before["high"] or after["high"] < before["low"]
        verdict = "nearer to real" if better else "farther from real"
        sure = "the intervals do not overlap" if apart else "the intervals overlap"
        lines.append(
            f"{names[measure]} ({classes}): {before['value']:.3f} → {after['value']:.3f}, "
            f"{verdict}; {sure}."
        )
    return "\n".join(lines)


def as_metrics(numbers: pd.DataFrame) -> dict:
    """Nested by model, classes and measure, for `run.json`."""
    found: dict = {}
    for row in numbers.itertuples(index=False):
        at = found.setdefault(row.model, {}).setdefault(row.classes, {})
        at[row.measure] = {"value": row.value, "low": row.low, "high": row.high}
    return found
