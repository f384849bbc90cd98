"""Power spectra of accelerations: of moving joints, and of accelerometers, synthetic and real.

L_acc is the mean square of a second difference over time. By Parseval's theorem that is the squared
error at each frequency times ``(2 sin(pi f / rate))**4``, a weight that at 20 Hz grows by 32 dB
from 1 to 10 Hz: what the loss teaches, it teaches the upper end of the spectrum.

A sensor's spectrum here is the sum of those of its three axes, the trace of the spectral matrix,
which no rotation of the sensor changes. Each window's mean is taken off first, and gravity's
constant with it. Every person and every motion counts once, whatever its number of windows, and in
decibels: motions for one prompt may differ by 40 dB, and a mean of powers is that of the wildest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.signal import welch

from t2imu_utils.activities import category_of
from t2imu_utils.analysis.stats import FEWEST, SPLITS, TAILS, interval, resampled, stream
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.imu.windows import windows
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
ALL = "all"
MEASURES = {
    "distance": "log-spectral distance (dB)",
    "shape": "… that no gain removes (dB)",
    "level": "power, as a ratio to real (dB)",
}


def power_spectrum(
    joints: Float[np.ndarray, "T J 3"],
) -> tuple[Float[np.ndarray, "F"], Float[np.ndarray, "F"]]:
    """Power spectral density of joint acceleration at 20 fps, summed over axes, mean over joints.

    Welch's method with Hann windows of `SEGMENT` frames; a motion shorter than that is one window,
    zero-padded, so that all motions share one frequency grid.

    Returns:
        Frequencies (Hz) and density ((m/s²)²/Hz); its integral is the mean variance of the
        acceleration vector.
    """
    signal = np.diff(np.asarray(joints, dtype=np.float64), n=2, axis=0) * FPS**2
    size = min(SEGMENT, len(signal))
    frequency, density = welch(signal, FPS, nperseg=size, nfft=SEGMENT, detrend="constant", axis=0)
    return frequency, density.sum(-1).mean(-1)


def mean_spectrum(
    motions: Sequence[Float[np.ndarray, "T J 3"]],
) -> tuple[Float[np.ndarray, "F"], Float[np.ndarray, "F"]]:
    """`power_spectrum` averaged over motions, each counting by its length."""
    parts = [power_spectrum(joints) for joints in motions]
    density = [density for _, density in parts]
    return parts[0][0], np.average(density, axis=0, weights=[len(joints) for joints in motions])


def decibels(p: Float[np.ndarray, "*D F"], q: Float[np.ndarray, "*D F"]):
    """Ratio of two densities at each frequency, dB."""
    return 10 * np.log10((p + DECIBEL_FLOOR) / (q + DECIBEL_FLOOR))


def spectral_distance(
    p: Float[np.ndarray, "*D F"], q: Float[np.ndarray, "*D F"]
) -> Float[np.ndarray, "*D"]:
    """Log-spectral distance of densities on one grid, dB (Rabiner & Juang 1993, sec. 4.5).

    Root mean square over frequencies of ``10 log10(p / q)``. The first bin is left out: the mean
    acceleration of a bounded motion is close to zero and its logarithm means nothing.
    """
    return np.sqrt(np.mean(decibels(p[..., 1:], q[..., 1:]) ** 2, -1))


@dataclass(frozen=True)
class Spectra:
    """Accelerometer spectra of one source.

    Attributes:
        frequency: Hz, from 0 to half the rate.
        density: (n, F) (m/s²)²/Hz, one row for each motion or person, class and site.
        table: n rows: ``label``, ``site``, ``unit`` (the motion or person).
        cells: classes and sites of the track, with or without spectra.
    """

    frequency: Float[np.ndarray, "F"]
    density: Float[np.ndarray, "n F"]
    table: pd.DataFrame
    cells: list[tuple[str, str]]

    def rows(self, label: str, site: str) -> np.ndarray:
        """Row numbers of one class at one site."""
        here = (self.table["label"] == label) & (self.table["site"] == site)
        return np.flatnonzero(here)

    def mean(self, rows: np.ndarray, times: Float[np.ndarray, "D n"]) -> Float[np.ndarray, "D F"]:
        """Mean of some rows, in each sample so many times; NaN where a sample has none."""
        with np.errstate(invalid="ignore"):
            logs = times @ np.log(self.density[rows] + DECIBEL_FLOOR)
            return np.exp(logs / times.sum(1, keepdims=True))

    def samples(self, cell: tuple[str, str], units: list, times: np.ndarray) -> np.ndarray:
        """(D, F) mean spectrum of a cell for each row of `times`, whose columns are `units`."""
        rows = self.rows(*cell)
        place = {unit: at for at, unit in enumerate(units)}
        return self.mean(rows, times[:, [place[u] for u in self.table["unit"].iloc[rows]]])

    def numbers(self) -> dict[tuple[str, str], int]:
        """Motions or people of each cell; of several cells the fewest of any that has some."""
        counts = self.table.groupby(["label", "site"]).size()
        found = counts.to_dict()
        found |= {(ALL, site): n for site, n in counts.groupby("site").min().items()}
        return found | {(ALL, ALL): int(counts.min())}


def window_spectra(
    x: Float[np.ndarray, "n T 3"], rate: float
) -> tuple[Float[np.ndarray, "F"], Float[np.ndarray, "n F"]]:
    """Power spectral density of each window (m/s²) of an accelerometer, summed over its axes.

    Hann window, mean taken off. Averaged over half overlapping windows of one signal this is the
    estimate of Welch (1967). Returns Hz and (m/s²)²/Hz; the integral is the vector's variance.
    """
    x = np.asarray(x, dtype=np.float64)
    frequency, density = welch(x, fs=rate, nperseg=x.shape[1], detrend="constant", axis=1)
    return frequency, density.sum(-1)


def accelerometer_spectra(clips: Clips, section: RecordingsSection) -> Spectra:
    """Mean spectrum of each motion or person, in each class and at each site of a track.

    Args:
        clips: virtual sensors or recordings: array ``acc``, column ``activity``, and of
            `UNITS` the first that there is; without any each clip counts.

    Raises:
        InputError: nothing at all to make a spectrum of, or unknown sites.
    """
    labels = clips.table["activity"]
    if section.labels == "categories":
        labels = labels.map(category_of)
    rate = clips.meta["rate"]
    cells = [(label, site) for label in section.classes for site in section.sites]
    density, rows = [], []
    for label, site in cells:
        own = clips.select((labels == label).to_numpy())
        at = [index for index, name in enumerate(clips.meta["sites"]) if name == site]
        if at and not np.isfinite(own.arrays["acc"][:, at]).any():
            continue
        x, table = windows(own, SEGMENT, channels=("acc",), sites=[site])
        code, units = pd.factorize(table[next((u for u in UNITS if u in table), "clip")])
        if len(x):
            total = np.zeros((len(units), SEGMENT // 2 + 1))
            np.add.at(total, code, window_spectra(x, rate)[1])
            density.append(total / np.bincount(code)[:, None])
            rows += [(label, site, unit) for unit in units]
    if not rows:
        raise InputError(
            "clips: acc", f"no window of {SEGMENT} frames of {', '.join(section.classes)}",
            "some with the sensor", "Check activities, sites and the lengths of the clips.",
        )  # fmt: skip
    table = pd.DataFrame(rows, columns=["label", "site", "unit"])
    return Spectra(np.fft.rfftfreq(SEGMENT, 1 / rate), np.concatenate(density), table, cells)


def mean_spectra(spectra: Spectra, seed: int, draws: int = 1000) -> pd.DataFrame:
    """Spectrum of every class at every site with a pointwise interval of 95 %.

    Columns ``label``, ``site``, ``frequency`` (Hz), ``density``, ``low``, ``high`` ((m/s²)²/Hz)
    and ``units``, motions or people: fewer than `FEWEST` have no interval.
    """
    parts = []
    for label, site in spectra.cells:
        units = sorted(spectra.table["unit"].iloc[spectra.rows(label, site)])
        if units:
            times = resampled(len(units), draws, stream(seed, label))
            found = spectra.samples((label, site), units, times)
            part = _bands(spectra.frequency, found, "density", len(units))
            parts.append(part.assign(label=label, site=site))
    return pd.concat(parts, ignore_index=True)


def _bands(frequency: np.ndarray, samples: np.ndarray, name: str, units: int) -> pd.DataFrame:
    low, high = interval(samples) if units >= FEWEST else np.full((2, len(frequency)), np.nan)
    columns = {"frequency": frequency, name: samples[0], "low": low, "high": high}
    return pd.DataFrame(columns).assign(units=units)


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
    gain = decibels(after.density[pairs["after"]], before.density[pairs["before"]])
    gain = pd.DataFrame(gain).groupby([pairs["label"], pairs["unit"]]).mean()
    parts = []
    for label in [*dict.fromkeys(pairs["label"]), ALL]:
        own = (gain if label == ALL else gain.loc[[label]]).to_numpy()
        times = resampled(len(own), draws, stream(seed, label))
        found = times @ own / times.sum(1, keepdims=True)
        parts.append(_bands(before.frequency, found, "value", len(own)).assign(label=label))
    return pd.concat(parts, ignore_index=True)


def spectral_errors(
    p: Float[np.ndarray, "*D F"], q: Float[np.ndarray, "*D F"], frequency: Float[np.ndarray, "F"]
) -> Float[np.ndarray, "*D 3"]:
    """How spectra `p` differ from true ones `q` up to `TOP`, without 0 Hz, in dB.

    Returns:
        In the order of `MEASURES`: the log-spectral distance; what is left of it after the best
        gain, so that its square is the distance's less that of the mean difference; and the ratio
        of the powers, negative where `p` moves too little.
    """
    used = (frequency <= TOP) & (frequency > 0)
    p, q = p[..., used] + DECIBEL_FLOOR, q[..., used] + DECIBEL_FLOOR
    ratio = 10 * np.log10(p / q)
    level = 10 * np.log10(p.sum(-1) / q.sum(-1))
    return np.stack([np.sqrt(np.mean(ratio**2, -1)), ratio.std(-1), level], -1)


def _samples(
    real: Spectra, synthetic: Mapping[str, Spectra], seed: int, draws: int
) -> dict[str, Float[np.ndarray, "C 1+D 3"]]:
    """Errors of each model in each class and site (cell): of all, then of bootstrap samples.

    One sample of people serves all models and sites, and one sample of motions too, since all
    models were asked for the same motions: differences between models are paired. NaN in cells
    that a model or the recordings lack.
    """
    found = {model: np.full((len(real.cells), draws + 1, 3), np.nan) for model in synthetic}
    for label in dict.fromkeys(label for label, _ in real.cells):
        people = _units([real], label)
        motions = _units(synthetic.values(), label)
        if not people or not motions:
            continue
        of_people = resampled(len(people), draws, stream(seed, f"{REAL}, {label}"))
        of_motions = resampled(len(motions), draws, stream(seed, label))
        for at in (i for i, cell in enumerate(real.cells) if cell[0] == label):
            true = real.samples(real.cells[at], people, of_people)
            for model, own in synthetic.items():
                made = own.samples(real.cells[at], motions, of_motions)
                found[model][at] = spectral_errors(made, true, real.frequency)
    return found


def _units(sources, label: str) -> list:
    return sorted({u for s in sources for u in s.table.loc[s.table["label"] == label, "unit"]})


def _pooled(cells: list[tuple[str, str]]) -> dict[tuple[str, str], np.ndarray]:
    """The cells themselves, each site over all classes, and everything: rows to average over."""
    sites = np.array([site for _, site in cells])
    groups = {cell: np.array([at]) for at, cell in enumerate(cells)}
    groups |= {(ALL, site): np.flatnonzero(sites == site) for site in dict.fromkeys(sites.tolist())}
    return groups | {(ALL, ALL): np.arange(len(cells))}


def _over(values: Float[np.ndarray, "C *D 3"], rows: np.ndarray) -> Float[np.ndarray, "*D 3"]:
    """Mean over the cells that have a value (of each model); NaN where none has."""
    chosen = values[rows]
    chosen = chosen[np.isfinite(chosen[..., 0, :]).reshape(len(rows), -1).all(1)]
    return chosen.mean(0) if len(chosen) else np.full(values.shape[1:], np.nan)


def _estimate(samples: Float[np.ndarray, "1+D"], fewest: int) -> tuple[float, float, float]:
    if fewest < FEWEST or not np.isfinite(samples[1:]).any():
        return float(samples[0]), np.nan, np.nan
    whole = samples[np.isfinite(samples)]  # a sample may have drawn nobody of a cell
    return float(samples[0]), *map(float, interval(whole, centred=True))


def compare(
    real: Spectra, synthetic: Mapping[str, Spectra], seed: int, draws: int = 1000
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
    people, rows = real.numbers(), []
    found = {REAL: _between_halves(real, seed)} | _samples(real, synthetic, seed, draws)
    for model, samples in found.items():
        motions = people if model == REAL else synthetic[model].numbers()
        for cell, at in _pooled(real.cells).items():
            numbers = people.get(cell, 0), motions.get(cell, 0)
            for measure, own in zip(MEASURES, _over(samples, at).T, strict=True):
                if model == REAL:
                    value = own.mean(), *np.percentile(own, TAILS)
                else:
                    value, low, high = _estimate(own, min(numbers))
                    value = value, low if measure == "level" else max(low, 0.0), high
                rows.append((model, *cell, measure, *value, *numbers))
    names = ("model", "label", "site", "measure", "value", "low", "high", "people", "motions")
    return pd.DataFrame(rows, columns=names)


def _between_halves(real: Spectra, seed: int) -> np.ndarray:
    """(C, D, 3) errors of half of the people to the others; NaN for fewer than `FEWEST`."""
    rng = np.random.default_rng(seed)
    found = np.full((len(real.cells), SPLITS, 3), np.nan)
    for at, cell in enumerate(real.cells):
        rows = real.rows(*cell)
        if len(rows) >= FEWEST:
            orders = np.stack([rng.permutation(len(rows)) for _ in range(SPLITS)])
            first = (orders < len(rows) // 2).astype(float)
            pair = real.mean(rows, first), real.mean(rows, 1 - first)
            found[at] = spectral_errors(*pair, real.frequency)
    return found


def changes(
    real: Spectra, before: Spectra, after: Spectra, seed: int, draws: int = 1000
) -> pd.DataFrame:
    """How much nearer to real one model's spectra are than another's: below zero is nearer.

    The same people and motions are drawn for both models (see `compare`), so the interval of the
    change is much narrower than those of the two errors. Of the level the size counts, either way.

    Columns as of `compare`, with ``before`` and ``after`` in place of ``model``.
    """
    found = _samples(real, {"before": before, "after": after}, seed, draws)
    both = np.abs(np.stack([found["before"], found["after"]], 1))
    people, motions, rows = real.numbers(), after.numbers(), []
    for cell, at in _pooled(real.cells).items():
        numbers = people.get(cell, 0), motions.get(cell, 0)
        first, second = _over(both, at)
        for column, measure in enumerate(MEASURES):
            ends = first[0, column], second[0, column]
            change = _estimate(second[:, column] - first[:, column], min(numbers))
            rows.append((*cell, measure, *ends, *change, *numbers))
    names = ("label", "site", "measure", "before", "after", "value", "low", "high")
    return pd.DataFrame(rows, columns=[*names, "people", "motions"])


def table(numbers: pd.DataFrame, measure: str = "distance") -> pd.DataFrame:
    """`compare` for reading: a row for each site and class, models beside each other.

    Without an interval, for which there were too few people, a value stands alone.
    """
    own = numbers[numbers["measure"] == measure]
    between = own["low"].map(" [{:.1f}, ".format) + own["high"].map("{:.1f}]".format)
    text = own["value"].map("{:.1f}".format) + between.where(own["low"].notna(), "")
    text = text.where(own["value"].notna(), "–")
    wide = own.assign(text=text).pivot(index=["site", "label"], columns="model", values="text")
    order = pd.MultiIndex.from_frame(own[["site", "label"]].drop_duplicates())
    return wide.loc[order, list(dict.fromkeys(own["model"]))]


def as_metrics(numbers: pd.DataFrame) -> dict:
    """What is pooled over classes, nested by model, site and measure, for `run.json`."""
    found: dict = {}
    for row in numbers[numbers["label"] == ALL].itertuples(index=False):
        at = found.setdefault(row.model, {}).setdefault(row.site, {})
        at[row.measure] = {"value": row.value, "low": row.low, "high": row.high}
    return found
