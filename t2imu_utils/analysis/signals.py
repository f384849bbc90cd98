"""How near synthetic signals are to real ones: catch22, t-SNE, and a number beside the picture.

catch22 z-scores every series before it looks at it, so its 22 numbers, and the picture made of
them, are blind to how *large* an acceleration is. catch24 adds mean and standard deviation.
Windows of one recording resemble each other, so recordings and motions are the sample, not windows.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pycatch22
from jaxtyping import Bool, Float
from threadpoolctl import threadpool_limits

from t2imu_utils.analysis.stats import (
    FEWEST,
    SPLITS,
    TAILS,
    codes,
    energy_distance,
    halves,
    two_sample_distance,
    written,
)  # fmt: skip
from t2imu_utils.analysis.windows import labelled_windows
from t2imu_utils.clips import Clips
from t2imu_utils.runs import REAL
from t2imu_utils.tracks import RecordingsSection

NAMES = pycatch22.catch22_all(np.arange(8.0), catch24=True)["names"]
SHAPE = np.tile([name not in ("DN_mean", "DN_Spread_std") for name in NAMES], 3)
DYNAMIC = ("jumping", "running")  # panels C and D
TOGETHER = " + ".join(DYNAMIC)
# By measure, its name and which of the features it sees.
MEASURES = {
    "distance": "energy distance, catch22",
    "distance_sized": "energy distance, catch22 + mean, sd",
}
FEATURES = {"distance": SHAPE, "distance_sized": np.ones(len(SHAPE), bool)}
IQR_PER_SD = 1.35  # interquartile range of a normal distribution in standard deviations


def catch24(windows: Float[np.ndarray, "n T 3"]) -> Float[np.ndarray, "n 72"]:
    """The features of Lubba et al. (2019), mean and standard deviation of each of three axes.

    NaN throughout where an axis is constant or not finite, so that it has no features.
    """
    windows = np.asarray(windows, dtype=np.float64)
    found = np.full((len(windows), 3 * len(NAMES)), np.nan)
    for index in np.flatnonzero(np.isfinite(windows).all((1, 2)) & (np.ptp(windows, 1) > 0).all(1)):
        each = (pycatch22.catch22_all(series, catch24=True) for series in windows[index].T)
        found[index] = np.concatenate([one["values"] for one in each])
    return found


def describe(clips: Clips, section: RecordingsSection, per_class: int, seed: int) -> pd.DataFrame:
    """Features of at most so many windows of each class: columns 0 to 71 are `catch24` of one
    accelerometer, the section's only site; and ``label``, ``group`` and ``subject``. Windows
    without features are left out."""
    windows = labelled_windows(clips, section, per_class, seed)
    found = catch24(windows.x)
    who = {"label": windows.labels, "group": windows.groups, "subject": windows.subjects}
    return pd.DataFrame(found).assign(**who)[np.isfinite(found).all(1)]


def scaled(pooled: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n F"]:
    """A robust sigmoid per feature: median to 0.5, outliers bent towards 0 and 1.

    The transform of the catch22 authors' own tools (Fulcher & Jones 2017, hctsa): several features
    have long tails, on which any linear scaling lets single windows rule all distances. The spread
    is the interquartile range / 1.35, or the standard deviation where more than half of the values
    are equal. A constant feature ends up constant.
    """
    low, centre, high = np.percentile(pooled, [25, 50, 75], axis=0)
    spread = (high - low) / IQR_PER_SD
    spread = np.where(spread > 0, spread, pooled.std(0))
    spread = np.where(spread > 0, spread, 1.0)
    return 1 / (1 + np.exp(-np.clip((pooled - centre) / spread, -500, 500)))


def tsne(
    features: Float[np.ndarray, "n F"], seed: int, perplexity: float = 30.0
) -> Float[np.ndarray, "n 2"]:
    """t-SNE of scaled features (van der Maaten & Hinton 2008), started from two PCA axes."""
    from sklearn.manifold import TSNE  # slow to import

    model = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    # Its threads wait for each other at every step: with a busy core that takes many times longer.
    with threadpool_limits(limits=1):
        return model.fit_transform(features)


def thinned(described: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """`count` windows, as evenly over classes as they allow."""
    shuffled = described.sample(frac=1, random_state=seed)
    turn = shuffled.groupby("label").cumcount().to_numpy()
    return shuffled.iloc[turn.argsort(kind="stable")[:count]]


def embed(
    real: pd.DataFrame, synthetic: pd.DataFrame, perplexity: float, seed: int
) -> tuple[Float[np.ndarray, "n 2"], Bool[np.ndarray, "n"], list[str]]:
    """t-SNE of equally many real and synthetic windows, which of the points are real, and the
    class of each."""
    count = min(len(real), len(synthetic))
    both = pd.concat([thinned(part, count, seed) for part in (real, synthetic)])
    pooled = scaled(both[np.flatnonzero(SHAPE)].to_numpy())
    points = tsne(pooled, seed, min(perplexity, (len(pooled) - 1) / 4))
    return points, np.arange(len(pooled)) < count, both["label"].tolist()


def compare(
    real: pd.DataFrame, synthetic: Mapping[str, pd.DataFrame], seed: int, classes: str = "all"
) -> pd.DataFrame:
    """Energy distance of each model, on features scaled by all models' windows together.

    The row `REAL` is the split-half reference: one half of the subjects against the other, the
    mean and the range of 95 % over `SPLITS` ways to halve them. No synthetic set can be expected to
    lie nearer than that. NaN where the halves have too few recordings.

    Returns:
        Columns ``model``, ``classes``, ``measure`` (keys of `MEASURES`), ``value`` with ``low`` and
        ``high`` (95 %), and how many recordings and motions stood behind it.
    """
    parts, rows = {REAL: real, **synthetic}, []
    everything = pd.concat(parts)
    for measure, columns in FEATURES.items():
        pooled = scaled(everything[np.flatnonzero(columns)].to_numpy())
        own = pooled[: len(real)]
        for model, part in parts.items():
            if model == REAL:
                value = _between_halves(own, real, seed)
            else:
                x = pooled[everything.index.get_level_values(0) == model]
                value = two_sample_distance(own, x, real["group"], part["group"], seed)
            counts = real["group"].nunique(), part["group"].nunique()
            rows.append((model, classes, measure, *value, *counts))
    names = ["model", "classes", "measure", "value", "low", "high", "recordings", "motions"]
    return pd.DataFrame(rows, columns=names)


def compare_all(
    real: pd.DataFrame, synthetic: Mapping[str, pd.DataFrame], seed: int
) -> pd.DataFrame:
    """`compare` on all classes, then on jumping and running alone."""
    sources = {REAL: real, **synthetic}
    dynamic = {name: x[x["label"].isin(DYNAMIC)] for name, x in sources.items()}
    parts = compare(real, synthetic, seed), compare(dynamic.pop(REAL), dynamic, seed, TOGETHER)
    return pd.concat(parts, ignore_index=True)


def _between_halves(x: np.ndarray, real: pd.DataFrame, seed: int) -> tuple[float, float, float]:
    rng, code = np.random.default_rng(seed), codes(real["group"])
    sides = halves(rng, SPLITS, codes(real["subject"]))[1:]
    enough = [s for s in sides if min(len({*code[s == 1]}), len({*code[s == 0]})) >= FEWEST]
    if not enough:
        return np.nan, np.nan, np.nan
    rows = np.array(enough)
    values = energy_distance(x, x, code, code, rows, 1 - rows)
    return float(values.mean()), *map(float, np.percentile(values, TAILS))


def table(numbers: pd.DataFrame) -> pd.DataFrame:
    """`compare` for reading: a row for each model, "value [low, high]" in the cells."""
    cells = numbers.assign(text=written(numbers, 3), measure=numbers["measure"].map(MEASURES))
    wide = cells.pivot(index="model", columns=["classes", "measure"], values="text")
    return wide.loc[cells["model"].unique()]
