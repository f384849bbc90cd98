"""Power spectra of accelerations: of moving joints, and of accelerometers, synthetic and real.

L_acc is the mean square of a second difference over time. By Parseval's theorem that is the squared
error at each frequency times ``(2 sin(pi f / rate))**4``, a weight that at 20 Hz grows by 32 dB
from 1 to 10 Hz: what the loss teaches, it teaches the upper end of the spectrum.

A sensor's spectrum here is the sum of those of its three axes, the trace of the spectral matrix,
which no rotation of the sensor changes. Each window's mean is taken off first, and gravity's
constant with it. Every person and every motion counts once, whatever its number of windows, and in
decibels: motions for one prompt may differ by 40 dB, and a mean of powers is that of the wildest.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float

from t2imu_utils.analysis.signals import labels_of
from t2imu_utils.analysis.stats import (
    FEWEST,
    SPLITS,
    TAILS,
    halves,
    interval,
    resampled,
    stream,
    written,
)
from t2imu_utils.clips import Clips, windows
from t2imu_utils.runs import REAL
from t2imu_utils.tracks import RecordingsSection

FPS = 20.0
SEGMENT = 40  # frames: two seconds, the length of a recognition window
DECIBEL_FLOOR = 1e-12
# The resampling of recordings (`imu.streams`) passes 0.9 of the Nyquist frequency: at 20 Hz it
# takes 0.5 dB at 8 Hz, 5 dB at 9 Hz and 20 dB at 10 Hz. (Central differences in a virtual sensor
# take 2 dB at 5 Hz, 5 dB at 8 Hz and 8 dB at 10 Hz.)
TOP = 8.0
# The first of these columns that there is tells what is resampled.
UNITS = ("motion", "subject", "recording")
ALL, CELL = "all", ["label", "site"]
MEASURES = ("distance", "shape", "level")  # of `spectral_errors`


def window_spectra(
    x: Float[np.ndarray, "n T 3"], rate: float
) -> tuple[Float[np.ndarray, "F"], Float[np.ndarray, "n F"]]:
    """Power spectral density of accelerations (m/s²), summed over their axes.

    Welch's method (1967) with Hann windows of `SEGMENT` frames, their means taken off. What is
    shorter is one window, zero-padded, so that all share one frequency grid. Returns Hz and
    (m/s²)²/Hz; the integral is the variance of the vector.
    """
    from scipy.signal import welch  # slow to import

    x = np.asarray(x, dtype=np.float64)
    size = min(SEGMENT, x.shape[1])
    frequency, density = welch(x, rate, nperseg=size, nfft=SEGMENT, detrend="constant", axis=1)
    return frequency, density.sum(-1)


def joint_spectra(
    joints: Float[np.ndarray, "T J 3"],
) -> tuple[Float[np.ndarray, "F"], Float[np.ndarray, "J F"]]:
    """`window_spectra` of the acceleration of each joint (m), at 20 fps."""
    acc = np.diff(np.asarray(joints, dtype=np.float64), n=2, axis=0) * FPS**2
    return window_spectra(acc.swapaxes(0, 1), FPS)


def power_spectrum(
    joints: Float[np.ndarray, "T J 3"],
) -> tuple[Float[np.ndarray, "F"], Float[np.ndarray, "F"]]:
    """`joint_spectra`, mean over joints."""
    frequency, density = joint_spectra(joints)
    return frequency, density.mean(0)


def spectral_distance(
    p: Float[np.ndarray, "*D F"], q: Float[np.ndarray, "*D F"]
) -> Float[np.ndarray, "*D"]:
    """Log-spectral distance of densities on one grid, dB (Rabiner & Juang 1993, sec. 4.5).

    Root mean square over frequencies of ``10 log10(p / q)``. The first bin is left out: the mean
    acceleration of a bounded motion is close to zero and its logarithm means nothing.
    """
    ratio = (p[..., 1:] + DECIBEL_FLOOR) / (q[..., 1:] + DECIBEL_FLOOR)
    return np.sqrt(np.mean((10 * np.log10(ratio)) ** 2, -1))


# ---------------------------------------------------------------- accelerometers
def typical_windows(
    clips: Clips, section: RecordingsSection, site: str, frames: int = 60
) -> dict[str, Float[np.ndarray, "T"]]:
    """Of each class the length of the acceleration (m/s²) in one window of a site: the one that
    varies as much as the median window does, so that nobody chose it."""
    labels, found = labels_of(clips, section), {}
    at = list(clips.meta["sites"]).index(site)
    for label in section.classes:
        own = clips.select((labels == label).to_numpy())
        if np.isfinite(own.arrays["acc"][:, at]).any():
            x = np.linalg.norm(windows(own, frames, channels=("acc",), sites=[site])[0], axis=2)
            if len(x):
                found[label] = x[x.std(1).argsort()[len(x) // 2]]
    return found


def accelerometer_spectra(clips: Clips, section: RecordingsSection) -> pd.DataFrame:
    """Mean spectrum of each unit (motion or person), in each class and at each site of a track.

    Args:
        clips: virtual sensors or recordings: array ``acc``, column ``activity``, and of
            `UNITS` the first that there is; without any each clip counts.

    Returns:
        Power spectral density in dB of 1 (m/s²)²/Hz. Rows: ``label``, ``site``, ``unit``; columns:
        frequency (Hz), from 0 to half the rate.
    """
    labels, have, found = labels_of(clips, section), list(clips.meta["sites"]), {}
    for label in section.classes:
        own = clips.select((labels == label).to_numpy())
        for site in (name for name in section.sites if name in have):
            if np.isfinite(own.arrays["acc"][:, have.index(site)]).any():
                x, table = windows(own, SEGMENT, channels=("acc",), sites=[site])
                unit = table[next((u for u in UNITS if u in table), "clip")].to_numpy()
                frequency, power = window_spectra(x, clips.meta["rate"])
                mean = pd.DataFrame(power, columns=frequency).groupby(unit).mean()
                found[label, site] = 10 * np.log10(mean + DECIBEL_FLOOR)
    return pd.concat(found, names=["label", "site", "unit"])


def _means(own: pd.DataFrame, label: str, seed: int, draws: int) -> Float[np.ndarray, "1+D F"]:
    """Mean spectrum of units, dB: of all, then of bootstrap samples.

    As many units of one class have the same samples, so that sites are drawn together and models,
    which were all asked for the same motions, are compared motion by motion.
    """
    return resampled(len(own), draws, stream(seed, label)) @ own.to_numpy() / len(own)


def _bands(samples: np.ndarray, own: pd.DataFrame, name: str) -> pd.DataFrame:
    ends = interval(samples) if len(own) >= FEWEST else np.full((2, samples.shape[1]), np.nan)
    columns = {"frequency": own.columns.to_numpy(float), name: samples[0]}
    return pd.DataFrame(columns | {"low": ends[0], "high": ends[1]}).assign(units=len(own))


def mean_spectra(spectra: pd.DataFrame, seed: int, draws: int = 1000) -> pd.DataFrame:
    """Spectrum of every class at every site with a pointwise interval of 95 %.

    Columns ``label``, ``site``, ``frequency`` (Hz), ``density``, ``low``, ``high`` ((m/s²)²/Hz)
    and ``units``, motions or people: fewer than `FEWEST` have no interval.
    """
    parts = []
    for (label, site), own in spectra.groupby(CELL, sort=False):
        part = _bands(10 ** (_means(own, label, seed, draws) / 10), own, "density")
        parts.append(part.assign(label=label, site=site))
    return pd.concat(parts, ignore_index=True)


def gains(before: pd.DataFrame, after: pd.DataFrame, seed: int, draws: int = 1000) -> pd.DataFrame:
    """By how much one model's spectra lie above another's at each frequency, in dB.

    Each motion is compared with the one that the other model made for the same prompt, so what
    differs between motions does not blur it; its sites are averaged.

    Returns:
        Columns ``label`` (`ALL`: every motion), ``frequency`` (Hz), ``value``, ``low``, ``high``
        (dB, 95 % of a bootstrap over motions) and ``units``.
    """
    change = (after - before).dropna().groupby(["label", "unit"], sort=False).mean()
    both = pd.concat([change, pd.concat({ALL: change.droplevel("label")}, names=["label"])])
    parts = [
        _bands(_means(own, label, seed, draws), own, "value").assign(label=label)
        for label, own in both.groupby("label", sort=False)
    ]
    return pd.concat(parts, ignore_index=True)


def spectral_errors(
    p: Float[np.ndarray, "*D F"], q: Float[np.ndarray, "*D F"], frequency: Float[np.ndarray, "F"]
) -> Float[np.ndarray, "*D 3"]:
    """How spectra `p` differ from true ones `q`, both in dB, up to `TOP` and without 0 Hz.

    Returns:
        In the order of `MEASURES`, dB: the log-spectral distance; its part that no gain removes;
        and the mean difference, negative where `p` moves too little. The square of the first is
        the sum of the squares of the others.
    """
    ratio = (p - q)[..., (frequency <= TOP) & (frequency > 0)]
    return np.stack([np.sqrt(np.mean(ratio**2, -1)), ratio.std(-1), ratio.mean(-1)], -1)


def _errors(
    real: pd.DataFrame, synthetic: pd.DataFrame, seed: int, draws: int
) -> dict[tuple[str, str], Float[np.ndarray, "1+D 3"]]:
    """`spectral_errors` of the cells (class and site) that both have, in bootstrap samples."""
    made, found = dict(iter(synthetic.groupby(CELL, sort=False))), {}
    for cell, own in real.groupby(CELL, sort=False):
        if cell in made:
            pair = (made[cell], seed), (own, seed + 1)
            means = (_means(x, cell[0], s, draws) for x, s in pair)
            found[cell] = spectral_errors(*means, real.columns.to_numpy(float))
    return found


def _between_halves(
    real: pd.DataFrame, seed: int
) -> dict[tuple[str, str], Float[np.ndarray, "D 3"]]:
    """`spectral_errors` of one half of the people to the others, of cells with enough of them."""
    rng, frequency, found = np.random.default_rng(seed), real.columns.to_numpy(float), {}
    for cell, own in real.groupby(CELL, sort=False):
        if len(own) >= FEWEST:
            first = halves(rng, SPLITS, np.arange(len(own)))[1:]
            means = [(x @ own.to_numpy()) / x.sum(1)[:, None] for x in (first, 1 - first)]
            found[cell] = spectral_errors(*means, frequency)
    return found


def _table(
    samples: Mapping[tuple[str, str], np.ndarray],
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    summary: Callable[[np.ndarray], tuple[float, float, float]],
) -> pd.DataFrame:
    """Value and interval of every cell, of every site over classes, and of everything."""
    parts = {cell: [cell] for cell in samples}
    parts |= {(ALL, site): [c for c in samples if c[1] == site] for _, site in samples}
    parts[ALL, ALL] = list(samples)
    people, motions, rows = real.groupby(CELL).size(), synthetic.groupby(CELL).size(), []
    for place, cells in parts.items() if samples else ():
        numbers = [int(n.loc[cells].min()) for n in (people, motions)]
        for measure, own in zip(MEASURES, np.mean([samples[c] for c in cells], 0).T, strict=True):
            value, *ends = summary(own)
            ends = ends if min(numbers) >= FEWEST else [np.nan, np.nan]
            rows.append((*place, measure, value, *ends, *numbers))
    names = [*CELL, "measure", "value", "low", "high", "people", "motions"]
    return pd.DataFrame(rows, columns=names)


def _estimate(samples: Float[np.ndarray, "1+D"]) -> tuple[float, float, float]:
    return samples[0], *interval(samples, centred=True)


def compare(
    real: pd.DataFrame, synthetic: Mapping[str, pd.DataFrame], seed: int, draws: int = 1000
) -> pd.DataFrame:
    """Errors of each model's spectra, with 95 % of a bootstrap over people and over motions.

    The row `REAL` is the split-half reference: one half of the people against the other, the mean
    and the range of 95 % over `SPLITS` ways to halve them. Half as many people are noisier than
    all of them, so it lies rather too high: a model below it is as near as people are.

    Returns:
        Columns ``model``, ``label``, ``site``, ``measure`` (keys of `MEASURES`), ``value``,
        ``low``, ``high`` (dB), and ``people`` and ``motions`` behind it. The label `ALL` is the
        mean over classes, the site `ALL` over sites too, and their numbers the smallest of any.
        Fewer than `FEWEST` have no interval. Classes are drawn each for itself.
    """
    between, parts = _between_halves(real, seed), {}
    parts[REAL] = _table(between, real, real, lambda x: (x.mean(), *np.percentile(x, TAILS)))
    for model, own in synthetic.items():
        parts[model] = _table(_errors(real, own, seed, draws), real, own, _estimate)
        lengths = parts[model]["measure"] != "level"
        parts[model].loc[lengths, "low"] = parts[model]["low"].clip(lower=0)
    return pd.concat(parts, names=["model", None]).reset_index("model").reset_index(drop=True)


def changes(
    real: pd.DataFrame, before: pd.DataFrame, after: pd.DataFrame, seed: int, draws: int = 1000
) -> pd.DataFrame:
    """How much nearer to real one model's spectra are than another's: below zero is nearer.

    The same people and motions are drawn for both models, so the interval of the change is much
    narrower than those of the two errors. Of the level the size counts, either way.

    Columns as of `compare`, without ``model``.
    """
    first, second = (_errors(real, x, seed, draws) for x in (before, after))
    change = {c: np.abs(second[c]) - np.abs(first[c]) for c in first if c in second}
    return _table(change, real, after, _estimate)


def table(numbers: pd.DataFrame) -> pd.DataFrame:
    """Distances of `compare` for reading: rows are sites and classes, columns models."""
    own = numbers[numbers["measure"] == "distance"]
    own = own.assign(text=written(own, 1))
    wide = own.pivot(index=["site", "label"], columns="model", values="text")
    return wide[own["model"].unique()].fillna("–")
