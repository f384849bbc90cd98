"""The one bootstrap and the one two-sample distance of all notebooks, and how intervals are read.

What is resampled are independent units (people, trials, motions), never the clips or windows that
were cut from one of them. Every array of samples has the estimate itself in its first row.

Seeds of a training and trials are crossed: each seed is evaluated on the same trials. Both are
resampled, and one sample of trials serves all seeds (the pigeonhole bootstrap, Owen 2007,
doi:10.1214/07-AOAS122). A bootstrap over few seeds is too narrow; what the drawn seeds deviate by
is stretched until it would alone give Student's interval (`stretch`; Hesterberg 2015,
doi:10.1080/00031305.2015.1089789). With one seed that part is absent: the interval then says
nothing of other seeds.
"""

import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.special import ndtri, stdtrit

TAILS = (2.5, 97.5)
FEWEST = 4  # units, for an interval or for halves
SPLITS = 20  # ways to halve real recordings, for the distance between two halves of them


def stream(seed: int, name: str) -> list[int]:
    """Seed of a generator of random numbers that is one quantity's own."""
    return [seed, zlib.crc32(name.encode())]


def codes(groups: Sequence) -> Int[np.ndarray, "n"]:
    """Labels as numbers from 0."""
    return np.unique(np.asarray(groups), return_inverse=True)[1]


def resampled(units: int, draws: int, seed: int | Sequence[int]) -> Float[np.ndarray, "1+D U"]:
    """How often each unit is in each bootstrap sample; in the first row, the whole sample, once."""
    rng = np.random.default_rng(seed)
    times = rng.multinomial(units, np.full(units, 1 / units), size=draws)
    return np.concatenate([np.ones((1, units)), times])


def bootstrap_means(
    values: Float[np.ndarray, "n K"], units: Sequence, draws: int, seed: int | Sequence[int]
) -> Float[np.ndarray, "1+D K"]:
    """Means of all rows, then of bootstrap samples of whole units, each row counting once."""
    code = codes(units)
    totals = np.zeros((code.max() + 1, values.shape[1]))
    np.add.at(totals, code, values)
    times = resampled(len(totals), draws, seed)
    return (times @ totals) / (times @ np.bincount(code))[:, None]


def interval(
    samples: Float[np.ndarray, "1+D *F"], centred: bool = False
) -> Float[np.ndarray, "2 *F"]:
    """Ends of the 95 % interval: percentiles of the samples.

    centred: of their deviations from their mean, laid about the estimate. For distances, which the
    noise of a sample makes larger.
    """
    drawn = samples[1:]
    if centred:
        drawn = drawn - drawn.mean(0) + samples[0]
    return np.percentile(drawn, TAILS, axis=0)


@cache
def stretch(seeds: int) -> float:
    """Factor by which the bootstrap's deviations of a mean of so few values are too small."""
    if seeds < 2:
        return 0.0
    # Quantiles of Student's t and of the normal distribution; scipy.stats is slow to import.
    tails = stdtrit(seeds - 1, TAILS[1] / 100) / ndtri(TAILS[1] / 100)
    return float(tails * np.sqrt(seeds / (seeds - 1)))


def over_seeds(samples: Float[np.ndarray, "1+D S"], seed: int) -> tuple[float, float, float, float]:
    """Mean over seeds (columns), standard deviation between them, and ends of the 95 % interval.

    samples: of a quantity in bootstrap samples of trials, which all seeds share; a single row has
    no interval. The same seeds are drawn for all quantities, so these can be compared.
    """
    count = samples.shape[1]
    sd = samples[0].std(ddof=1) if count > 1 else np.nan
    low, high = np.nan, np.nan
    if len(samples) > 1:
        of_trials = samples.mean(1)
        picks = resampled(count, len(samples) - 1, [seed, count])
        of_both = (samples * picks).sum(1) / count
        low, high = interval(of_trials + stretch(count) * (of_both - of_trials))
    return samples[0].mean(), sd, low, high


def halves(
    rng: np.random.Generator, draws: int, groups: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "1+D n"]:
    """Which rows count, 0 or 1: all of them, then those of a random half of their groups.

    Halves drawn without replacement spread as the whole sample does (Shao & Tu 1995, delete-d
    jackknife with d = n / 2), and repeat no row, as a bootstrap would.
    """
    count = groups.max() + 1
    orders = rng.permuted(np.tile(np.arange(count), (1 + draws, 1)), axis=1)
    chosen = (orders < count // 2).astype(float)
    chosen[0] = 1
    return chosen[:, groups]


def energy_distance(
    x: Float[np.ndarray, "n F"],
    y: Float[np.ndarray, "m F"],
    x_groups: Int[np.ndarray, "n"],
    y_groups: Int[np.ndarray, "m"],
    x_rows: Float[np.ndarray, "D n"],
    y_rows: Float[np.ndarray, "D m"],
) -> Float[np.ndarray, "D"]:
    """2 E|x-y| - E|x-x'| - E|y-y'| (Székely & Rizzo 2013), for each choice of rows (`halves`).

    Pairs within a group are left out, so it is unbiased and may fall slightly below zero.
    """
    everything = np.ones((len(x), len(y)))
    first = _mean_distance(x, y, everything, x_rows, y_rows)
    second = _mean_distance(x, x, x_groups[:, None] != x_groups, x_rows, x_rows)
    third = _mean_distance(y, y, y_groups[:, None] != y_groups, y_rows, y_rows)
    return 2 * first - second - third


def _mean_distance(x, y, apart, x_rows, y_rows) -> Float[np.ndarray, "D"]:
    from scipy.spatial.distance import cdist  # slow to import

    total = ((x_rows @ (cdist(x, y) * apart)) * y_rows).sum(1)
    return total / ((x_rows @ apart) * y_rows).sum(1)


def two_sample_distance(
    x: Float[np.ndarray, "n F"],
    y: Float[np.ndarray, "m F"],
    x_groups: Sequence,
    y_groups: Sequence,
    seed: int,
    draws: int = 400,
) -> tuple[float, float, float]:
    """`energy_distance` of two sets, and the ends of its 95 % interval over halves of groups."""
    rng, first, second = np.random.default_rng(seed), codes(x_groups), codes(y_groups)
    rows = halves(rng, draws, first), halves(rng, draws, second)
    samples = energy_distance(x, y, first, second, *rows)
    low, high = interval(samples, centred=True)
    return float(samples[0]), float(low), float(high)


def written(numbers: pd.DataFrame, digits: int) -> pd.Series:
    """``value [low, high]`` of each row; without an interval a value stands alone."""
    value, low, high = (
        numbers[name].map(f"{{:.{digits}f}}".format) for name in ("value", "low", "high")
    )
    whole = (value + " [" + low + ", " + high + "]").where(numbers["low"].notna(), value)
    return whole.where(numbers["value"].notna(), "–")


def nested(numbers: pd.DataFrame, *keys: str) -> dict:
    """``value``, ``low`` and ``high`` of each row under its `keys`, for `run.json`."""
    found: dict = {}
    for row in numbers.to_dict("records"):
        at = found
        for key in keys:
            at = at.setdefault(row[key], {})
        at |= {name: row[name] for name in ("value", "low", "high")}
    return found


def summary_of(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None for one value), n, and the values, for `run.json`."""
    values = [float(value) for value in values]
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd, "n": len(values), "values": values}
