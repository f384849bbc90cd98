"""How near synthetic signals are to real ones: catch22, t-SNE, and numbers beside the picture.

catch22 z-scores every series before it looks at it, so its 22 numbers, and the picture made of
them, are blind to how *large* an acceleration is. `catch22_features(..., moments=True)` appends
mean and standard deviation (the set known as catch24) for a comparison that sees amplitude.

Windows of one recording resemble each other, so the functions below take `groups` (the recording,
motion or subject that a window comes from) and treat those, not windows, as the sample.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import pycatch22
from jaxtyping import Bool, Float, Int
from scipy.spatial.distance import cdist
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from t2imu_utils.errors import InputError

AXES = ("x", "y", "z")
# Interquartile range of a normal distribution in standard deviations.
IQR_PER_SD = 1.35


@dataclass(frozen=True)
class Features:
    """catch22 of windows.

    Attributes:
        values: (n, F) features, NaN throughout where not usable.
        usable: (n,) False where an axis is constant or not finite, so that it has no features.
        masked: for each feature name, how many usable windows got the fixed end-of-range value
            that pycatch22 sets where an estimate is undefined. In windows of 40 samples that is
            always so for ``SC_FluctAnal_2_dfa_50_1_2_logi_prop_r1``: 21 features an axis tell.
    """

    values: Float[np.ndarray, "n F"]
    usable: Bool[np.ndarray, "n"]
    masked: pd.Series


def catch22_features(windows: Float[np.ndarray, "n T 3"], moments: bool = False) -> Features:
    """The 22 features of Lubba et al. (2019) for each of three axes: 66 columns, axis by axis.

    Args:
        windows: accelerometer windows of one sensor, m/s².
        moments: append mean and standard deviation of each axis (72 columns).
    """
    windows = np.asarray(windows, dtype=np.float64)
    if windows.ndim != 3 or windows.shape[2] != len(AXES):
        raise InputError(
            "windows", f"shape {windows.shape}", "(n, T, 3)", "Pick the three axes of one sensor."
        )
    probe = pycatch22.catch22_all(np.arange(8.0), catch24=moments)["names"]
    names = [f"{axis}: {name}" for axis in AXES for name in probe]
    usable = np.isfinite(windows).all((1, 2)) & (np.ptp(windows, axis=1) > 0).all(1)
    values = np.full((len(windows), len(names)), np.nan)
    masked = np.zeros(len(names), dtype=int)
    for index in np.flatnonzero(usable):
        rows = [
            pycatch22.catch22_all(series, catch24=moments, return_masked=True)
            for series in windows[index].T
        ]
        values[index] = np.concatenate([row["values"] for row in rows])
        masked += np.concatenate([row["masked"] for row in rows]).astype(int)
    return Features(values, usable, pd.Series(masked, index=names, name="masked"))


@dataclass(frozen=True)
class Scaling:
    """A robust sigmoid per feature: median to 0.5, outliers bent towards 0 and 1.

    The transform of the catch22 authors' own tools (Fulcher & Jones 2017, hctsa): several catch22
    features have long tails, on which any linear scaling lets single windows rule all distances.
    """

    centre: Float[np.ndarray, "F"]
    spread: Float[np.ndarray, "F"]

    @classmethod
    def fit(cls, pooled: Float[np.ndarray, "n F"]) -> "Scaling":
        """Median and spread of real and synthetic windows together.

        The spread is the interquartile range / 1.35, or the standard deviation where more than
        half of the values are equal. A constant feature ends up constant.
        """
        pooled = _finite("pooled features", pooled)
        low, centre, high = np.percentile(pooled, [25, 50, 75], axis=0)
        spread = (high - low) / IQR_PER_SD
        spread = np.where(spread > 0, spread, pooled.std(0))
        return cls(centre, np.where(spread > 0, spread, 1.0))

    def __call__(self, features: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n F"]:
        """Features mapped into (0, 1)."""
        return 1 / (1 + np.exp(-np.clip((features - self.centre) / self.spread, -500, 500)))


def _finite(name: str, features: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n F"]:
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or not len(features):
        raise InputError(name, f"shape {features.shape}", "(n, F), n > 0", "Check the selection.")
    bad = int((~np.isfinite(features)).any(1).sum())
    if bad:
        raise InputError(
            name, f"{bad} rows with NaN", "finite features", "Keep the `usable` rows only."
        )
    return features


def tsne(
    features: Float[np.ndarray, "n F"], seed: int, perplexity: float = 30.0
) -> Float[np.ndarray, "n 2"]:
    """t-SNE of scaled features (van der Maaten & Hinton 2008), started from two PCA axes."""
    features = _finite("features", features)
    if len(features) <= 3 * perplexity:
        raise InputError(
            "features",
            f"{len(features)} windows",
            f"more than three times the perplexity ({perplexity:g})",
            "Give more windows or a lower perplexity.",
        )
    model = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    # Its threads wait for each other at every step: with a busy core that takes many times longer.
    with threadpool_limits(limits=1):
        return model.fit_transform(features)


@dataclass(frozen=True)
class Estimate:
    """A number with a 95 % interval, the sizes of the two samples, and, for a test, its p."""

    value: float
    low: float
    high: float
    n_x: int
    n_y: int
    p: float | None = None


def _codes(groups: np.ndarray | None, n: int) -> Int[np.ndarray, "n"]:
    if groups is not None and len(groups) != n:
        raise InputError(
            "groups", f"{len(groups)} labels", f"{n}, one a window", "Label every window."
        )
    return np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]


def _unbiased(
    pairs: Float[np.ndarray, "n n"], code: Int[np.ndarray, "n"], drawn: Float[np.ndarray, "D n"]
) -> Float[np.ndarray, "D"]:
    """2 E k(x, y) - E k(x, x') - E k(y, y') for each row of `drawn`, without pairs in one group.

    Rows of `drawn` are 1 for the first sample, -1 for the second, 0 for windows left out.
    """
    x, y = (drawn > 0).astype(float), (drawn < 0).astype(float)
    apart = (code[:, None] != code[None, :]).astype(float)

    def mean(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        total = ((left @ (pairs * apart)) * right).sum(1)
        return total / ((left @ apart) * right).sum(1)

    return 2 * mean(x, y) - mean(x, x) - mean(y, y)


def two_sample_distance(
    x: Float[np.ndarray, "n F"],
    y: Float[np.ndarray, "m F"],
    seed: int,
    kind: Literal["energy", "mmd"] = "energy",
    x_groups: np.ndarray | None = None,
    y_groups: np.ndarray | None = None,
    draws: int = 400,
) -> Estimate:
    """Distance between two distributions, from all pairs of windows: about 0 when they are one.

    ``energy``: 2 E|x-y| - E|x-x'| - E|y-y'| (Székely & Rizzo 2013). ``mmd``: squared maximum mean
    discrepancy with a Gaussian kernel as wide as the median pooled distance (Gretton et al. 2012).
    Both without pairs inside a group, so unbiased: they may fall slightly below zero.

    The interval re-estimates on random halves of the groups and takes the spread around their
    mean; a bootstrap would repeat windows and so shrink the distances within a sample. The p
    value is from permuting groups between the samples.

    Args:
        x, y: scaled features, real and synthetic.
        x_groups, y_groups: the recording or motion of each window (default: each its own).
        draws: halves, and permutations.
    """
    x, y = _finite("x", x), _finite("y", y)
    pooled = np.concatenate([x, y])
    pairs = cdist(pooled, pooled)
    if kind == "mmd":
        width = np.median(pairs[np.triu_indices(len(pairs), 1)])
        pairs = -np.exp(-(pairs**2) / (2 * width**2))
    first, second = _codes(x_groups, len(x)), _codes(y_groups, len(y))
    code = np.concatenate([first, second + first.max() + 1])
    n_x, n_y = first.max() + 1, second.max() + 1
    if min(n_x, n_y) < 4:
        raise InputError(
            "groups", f"{n_x} and {n_y} groups", "at least 4 of each", "Compare larger samples."
        )
    rng = np.random.default_rng(seed)
    sign = np.concatenate([np.ones(n_x), -np.ones(n_y)])
    half = np.zeros((draws, n_x + n_y))
    for row in half:
        row[rng.permutation(n_x)[: n_x // 2]] = 1
        row[n_x + rng.permutation(n_y)[: n_y // 2]] = -1
    swapped = np.stack([rng.permutation(sign) for _ in range(draws)])

    value = float(_unbiased(pairs, code, sign[None, code])[0])
    halves = _unbiased(pairs, code, half[:, code])
    # The spread of halves drawn without replacement is that of the whole sample (Shao & Tu 1995,
    # delete-d jackknife with d = n / 2).
    low, high = np.percentile(halves - halves.mean(), [2.5, 97.5]) + value
    null = _unbiased(pairs, code, swapped[:, code])
    p = (1 + int((null >= value).sum())) / (1 + draws)
    return Estimate(value, float(low), float(high), int(n_x), int(n_y), p)


def nearest_neighbour_mixing(
    x: Float[np.ndarray, "n F"],
    y: Float[np.ndarray, "m F"],
    seed: int,
    k: int = 10,
    x_groups: np.ndarray | None = None,
    y_groups: np.ndarray | None = None,
    draws: int = 100,
) -> Estimate:
    """How often a window's k nearest neighbours are of the other kind, as a share of chance.

    1 means that real and synthetic windows are mixed, 0 that they lie apart; slightly above 1 is
    possible. Each draw takes half of the groups on either side and then the same number of windows
    from both, since otherwise the larger sample would look mixed in. Windows of one's own group
    are no neighbours, and chance counts only the others.
    """
    x, y = _finite("x", x), _finite("y", y)
    first, second = _codes(x_groups, len(x)), _codes(y_groups, len(y))
    n_x, n_y = first.max() + 1, second.max() + 1
    pairs = cdist(np.concatenate([x, y]), np.concatenate([x, y]))
    rng = np.random.default_rng(seed)
    values = np.empty(draws)
    for draw in range(draws):
        rows_x = np.flatnonzero(np.isin(first, rng.permutation(n_x)[: (n_x + 1) // 2]))
        rows_y = np.flatnonzero(np.isin(second, rng.permutation(n_y)[: (n_y + 1) // 2]))
        size = min(len(rows_x), len(rows_y))
        rows_x, rows_y = (rng.permutation(rows)[:size] for rows in (rows_x, rows_y))
        rows = np.concatenate([rows_x, rows_y + len(x)])
        code = np.concatenate([first[rows_x], second[rows_y] + n_x])
        same = code[:, None] == code[None, :]
        others = int((~same).sum(1).min())
        if others < k:
            raise InputError(
                "windows",
                f"{others} windows of other groups in a draw",
                f"at least k = {k}",
                "Give more windows or groups, or lower k.",
            )
        near = np.where(same, np.inf, pairs[np.ix_(rows, rows)])
        order = np.argpartition(near, k - 1, axis=1)[:, :k]
        is_x = np.arange(2 * size) < size
        observed = (is_x[order] != is_x[:, None]).mean()
        values[draw] = observed / (size / (~same).sum(1)).mean()
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high), int(n_x), int(n_y))
