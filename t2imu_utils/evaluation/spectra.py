"""Power spectra of accelerometers, synthetic and real, by activity and site.

L_acc is the mean square of a second difference over time. By Parseval's theorem that is the squared
error at each frequency times ``(2 sin(pi f / rate))**4``, a weight that at 20 Hz grows by 32 dB
from 1 to 10 Hz: what the loss teaches, it teaches the upper end of the spectrum.

A sensor's spectrum here is the sum of those of its three axes, the trace of the spectral matrix,
which no rotation of the sensor changes. Each window's mean is taken off first, and gravity's
constant with it.

Windows of one person, or of one motion on eight bodies, are alike. So every person and every
motion counts once, whatever its number of windows, and these are what intervals are drawn over.
Motions for one prompt may differ by 40 dB, so that a mean of their powers is the spectrum of the
wildest one: decibels are averaged, unless `accelerometer_spectra` is asked for ``"power"``.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.signal import welch

from t2imu_utils.activities import category_of
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.kinematics import DECIBEL_FLOOR, SEGMENT
from t2imu_utils.imu.windows import windows
from t2imu_utils.tracks import RecordingsSection

# What is drawn for an interval: of real recordings the people, since one person's are alike.
UNITS = ("motion", "subject", "recording")
FEWEST = 4  # people or motions, for an interval or for halves
ALL = "all"
TAILS = [2.5, 97.5]


@dataclass(frozen=True)
class Spectra:
    """Spectra of one source.

    Attributes:
        frequency: Hz, from 0 to half the rate.
        density: (n, F) (m/s²)²/Hz, one row for each motion or person, class and site.
        table: n rows: ``label``, ``site``, ``unit`` (the motion or person), ``windows``.
        counts: by ``label`` and ``site``: ``units`` and ``windows`` used, ``dropped``, windows in
            which a value is missing, and ``without``, clips that gave no window.
        average: what the mean over motions or people is taken of.
    """

    frequency: Float[np.ndarray, "F"]
    density: Float[np.ndarray, "n F"]
    table: pd.DataFrame
    counts: pd.DataFrame
    average: Literal["decibel", "power"] = "decibel"

    def rows(self, label: str, site: str) -> np.ndarray:
        """Row numbers of one class at one site."""
        here = (self.table["label"] == label) & (self.table["site"] == site)
        return np.flatnonzero(here)

    def mean(self, rows: np.ndarray, times: Float[np.ndarray, "D n"]) -> Float[np.ndarray, "D F"]:
        """Mean of some rows, in each sample so many times; NaN where a sample has none."""
        total = times.sum(1, keepdims=True)
        with np.errstate(invalid="ignore"):
            if self.average == "power":
                return times @ self.density[rows] / total
            return np.exp(times @ np.log(self.density[rows] + DECIBEL_FLOOR) / total)


def window_spectra(
    x: Float[np.ndarray, "n T 3"], rate: float
) -> tuple[Float[np.ndarray, "F"], Float[np.ndarray, "n F"]]:
    """Power spectral density of each window of an accelerometer, summed over its axes.

    Hann window, mean taken off. Averaged over half overlapping windows of one signal this is the
    estimate of Welch (1967).

    Args:
        x: m/s², finite.
        rate: Hz.

    Returns:
        Frequencies (Hz) and densities ((m/s²)²/Hz), whose integral is the variance of the vector.
    """
    x = np.asarray(x, dtype=np.float64)
    broken = x.size - np.isfinite(x).sum()
    if x.ndim != 3 or x.shape[2] != 3 or x.shape[1] < 4 or not rate > 0 or broken:
        raise InputError(
            "windows", f"shape {x.shape} at {rate:g} Hz, {broken} values NaN or infinite",
            "(n, T, 3) with T >= 4 at a positive rate, all finite",
            "Pick the three axes of one accelerometer; leave out windows in which it is missing.",
        )  # fmt: skip
    frequency, density = welch(x, fs=rate, nperseg=x.shape[1], detrend="constant", axis=1)
    return frequency, density.sum(-1)


def accelerometer_spectra(
    clips: Clips,
    section: RecordingsSection,
    sites: Sequence[str] | None = None,
    size: int = SEGMENT,
    average: Literal["decibel", "power"] = "decibel",
) -> Spectra:
    """Mean spectrum of each motion or person, in each class and at each site of a track.

    Args:
        clips: virtual sensors or recordings: array ``acc``, column ``activity``, and of
            `UNITS` the first that there is; without any each clip counts.
        section: classes, labels and sites of the track.
        sites: other sites than the track's.
        size: frames a window, half of which the next one repeats.
        average: of `Spectra`; within a motion or person, powers are averaged.

    Raises:
        InputError: nothing at all to make a spectrum of, or unknown sites.
    """
    labels = clips.table["activity"]
    if section.labels == "categories":
        labels = labels.map(category_of)
    rate = clips.meta["rate"]
    density, rows, counts = [], [], []
    for label in section.classes:
        own = clips.select((labels == label).to_numpy())
        for site in sites or section.sites:
            x, unit, lost, without = _whole_windows(own, site, size)
            codes, units = pd.factorize(unit)
            counts.append((label, site, len(units), len(x), lost, without))
            if not len(x):
                continue
            each = window_spectra(x, rate)[1]
            number = np.bincount(codes)
            total = np.zeros((len(units), each.shape[1]))
            np.add.at(total, codes, each)
            density.append(total / number[:, None])
            rows += [(label, site, *pair) for pair in zip(units, number, strict=True)]
    if not density:
        raise InputError(
            "clips: acc", f"no window of {size} frames of {', '.join(section.classes)}",
            "some with the sensor", "Check activities, sites and the lengths of the clips.",
        )  # fmt: skip
    return Spectra(
        np.fft.rfftfreq(size, 1 / rate),
        np.concatenate(density),
        pd.DataFrame(rows, columns=["label", "site", "unit", "windows"]),
        pd.DataFrame(counts, columns=["label", "site", "units", "windows", "dropped", "without"]),
        average,
    )


def _whole_windows(
    clips: Clips, site: str, size: int
) -> tuple[Float[np.ndarray, "n T 3"], pd.Series, int, int]:
    """Windows without a gap, whose they are, how many had one, how many clips are without any."""
    at = [index for index, name in enumerate(clips.meta["sites"]) if name == site]
    if at and not np.isfinite(clips.arrays["acc"][:, at]).any():
        fitting = clips.table["frames"][clips.table["frames"] >= size]
        lost = ((fitting - size) // round(size * 0.5) + 1).sum()
        return np.empty((0, size, 3)), pd.Series(dtype=object), int(lost), len(clips)
    x, table = windows(clips, size, channels=("acc",), sites=[site])
    unit = next((name for name in UNITS if name in table), "clip")
    return x, table[unit], table.attrs["dropped"], len(table.attrs["without"])


def drawn(units: Sequence, draws: int, seed: int, name: str) -> pd.DataFrame:
    """How often each unit (row) is in each bootstrap sample (column); all once in the first."""
    units = sorted(set(units))
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    times = rng.multinomial(len(units), np.full(len(units), 1 / len(units)), size=draws)
    return pd.DataFrame(np.concatenate([np.ones((1, len(units))), times]).T, index=units)


def means(spectra: Spectra, label: str, site: str, samples: pd.DataFrame) -> np.ndarray:
    """(D, F) mean spectrum of one class at one site in every sample."""
    rows = spectra.rows(label, site)
    return spectra.mean(rows, samples.loc[spectra.table["unit"].iloc[rows]].to_numpy().T)


def mean_spectra(spectra: Spectra, seed: int, draws: int = 1000) -> pd.DataFrame:
    """Spectrum of every class at every site with a pointwise interval of 95 %.

    Columns ``label``, ``site``, ``frequency`` (Hz), ``density``, ``low``, ``high`` ((m/s²)²/Hz)
    and ``units``, motions or people: fewer than `FEWEST` have no interval.
    """
    parts = []
    for row in spectra.counts[spectra.counts["units"] > 0].itertuples(index=False):
        units = spectra.table["unit"].iloc[spectra.rows(row.label, row.site)]
        found = means(spectra, row.label, row.site, drawn(units, draws, seed, row.label))
        low, high = _tails(found[1:], row.units)
        columns = {"frequency": spectra.frequency, "density": found[0], "low": low, "high": high}
        parts.append(pd.DataFrame(columns).assign(label=row.label, site=row.site, units=row.units))
    return pd.concat(parts, ignore_index=True)


def _tails(samples: Float[np.ndarray, "D F"], units: int) -> Float[np.ndarray, "2 F"]:
    if units < FEWEST:
        return np.full((2, samples.shape[1]), np.nan)
    return np.percentile(samples, TAILS, axis=0)


def gains(before: Spectra, after: Spectra, seed: int, draws: int = 1000) -> pd.DataFrame:
    """By how much one model's spectra lie above another's at each frequency, in dB.

    Each motion is compared with the one that the other model made for the same prompt, so what
    differs between motions does not blur it; its sites are averaged.

    Returns:
        Columns ``label`` (`ALL`: every motion), ``frequency`` (Hz), ``value``, ``low``, ``high``
        (dB, 95 % of a bootstrap over motions) and ``units``.
    """
    keys = ["label", "site", "unit"]
    first = before.table[keys].assign(before=range(len(before.table)))
    pairs = first.merge(after.table[keys].assign(after=range(len(after.table))), on=keys)
    if pairs.empty or not np.array_equal(before.frequency, after.frequency):
        raise InputError(
            "spectra", f"{len(pairs)} motions in common", "the same motions, sites and frequencies",
            "Compare models that were asked for the same motions.",
        )  # fmt: skip
    first, second = (
        10 * np.log10(s.density[pairs[name]] + DECIBEL_FLOOR)
        for name, s in (("before", before), ("after", after))
    )
    decibel = pd.DataFrame(second - first).groupby([pairs["label"], pairs["unit"]]).mean()
    parts = []
    for label in [*dict.fromkeys(pairs["label"]), ALL]:
        own = (decibel if label == ALL else decibel.loc[[label]]).to_numpy()
        times = drawn(range(len(own)), draws, seed, label).to_numpy().T
        found = times @ own / times.sum(1, keepdims=True)
        low, high = _tails(found[1:], len(own))
        columns = {"frequency": before.frequency, "value": found[0], "low": low, "high": high}
        parts.append(pd.DataFrame(columns).assign(label=label, units=len(own)))
    return pd.concat(parts, ignore_index=True)
