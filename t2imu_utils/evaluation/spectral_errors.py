"""How far the spectra of synthetic accelerometers lie from real ones, and from each other."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float

from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.kinematics import DECIBEL_FLOOR
from t2imu_utils.evaluation.similarity_runs import SPLITS
from t2imu_utils.evaluation.spectra import ALL, FEWEST, TAILS, Spectra, drawn, means
from t2imu_utils.runs import REAL

# The resampling of recordings (`imu.streams`) passes 0.9 of the Nyquist frequency: at 20 Hz it
# takes 0.5 dB at 8 Hz, 5 dB at 9 Hz and 20 dB at 10 Hz. (Central differences in a virtual sensor
# take 2 dB at 5 Hz, 5 dB at 8 Hz and 8 dB at 10 Hz.)
TOP = 8.0
MEASURES = {
    "distance": "log-spectral distance (dB)",
    "shape": "… that no gain removes (dB)",
    "level": "power, as a ratio to real (dB)",
}


def spectral_errors(
    p: Float[np.ndarray, "*D F"], q: Float[np.ndarray, "*D F"], frequency: Float[np.ndarray, "F"]
) -> Float[np.ndarray, "*D 3"]:
    """How spectra `p` differ from true ones `q` up to `TOP`, without 0 Hz, in dB.

    Returns:
        In the order of `MEASURES`: the log-spectral distance (`kinematics.spectral_distance`); what
        is left of it after the best gain, so that its square is the distance's less that of the
        mean difference; and the ratio of the powers, negative where `p` moves too little.
    """
    used = (np.asarray(frequency) <= TOP) & (np.asarray(frequency) > 0)
    p, q = (np.asarray(each, dtype=float)[..., used] + DECIBEL_FLOOR for each in (p, q))
    decibel = 10 * np.log10(p / q)
    distance = np.sqrt(np.mean(decibel**2, -1))
    level = 10 * np.log10(p.sum(-1) / q.sum(-1))
    return np.stack([distance, decibel.std(-1), level], -1)


def _samples(
    real: Spectra, synthetic: Mapping[str, Spectra], seed: int, draws: int
) -> tuple[list[tuple[str, str]], dict[str, Float[np.ndarray, "C D 3"]]]:
    """Errors of each model in each class and site (cell): of all, then of bootstrap samples.

    One sample of people serves all models and sites, and one sample of motions too, since all
    models were asked for the same motions: differences between models are paired. NaN in cells
    that a model or the recordings lack.
    """
    for model, own in synthetic.items():
        if not np.array_equal(own.frequency, real.frequency):
            raise InputError(
                f"spectra of {model}", f"frequencies {own.frequency}", f"{real.frequency}, as real",
                "Use one rate and one `size` for all.",
            )  # fmt: skip
    cells = [tuple(row) for row in real.counts[["label", "site"]].to_numpy()]
    found = {model: np.full((len(cells), draws + 1, 3), np.nan) for model in synthetic}
    for label in dict.fromkeys(label for label, _ in cells):
        sources = {REAL: real} | dict(synthetic)
        units = {n: s.table.loc[s.table["label"] == label, "unit"] for n, s in sources.items()}
        people, moved = units.pop(REAL), pd.concat([pd.Series(dtype=object), *units.values()])
        if not len(people) or not len(moved):
            continue
        people = drawn(people, draws, seed, f"{REAL}, {label}")
        motions = drawn(moved, draws, seed, label)
        for at in (i for i, cell in enumerate(cells) if cell[0] == label):
            true = means(real, *cells[at], people)
            for model, own in synthetic.items():
                made = means(own, *cells[at], motions)
                found[model][at] = spectral_errors(made, true, real.frequency)
    return cells, found


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


def _interval(samples: Float[np.ndarray, "D"], enough: bool) -> tuple[float, float, float]:
    """The first value and 95 %, spread about it as the others are about their mean.

    (Samples with repetitions are noisier, so their distances lie too high.)
    """
    value, others = samples[0], samples[1:]
    if not enough or not np.isfinite(others).any():
        return float(value), np.nan, np.nan
    low, high = np.nanpercentile(others - np.nanmean(others), TAILS) + value
    return float(value), float(low), float(high)


def _units(spectra: Spectra) -> dict[tuple[str, str], int]:
    """Motions or people of each cell; of several cells the fewest of any that has some."""
    counts = spectra.counts[spectra.counts["units"] > 0]
    found = {(row.label, row.site): row.units for row in counts.itertuples(index=False)}
    found |= {(ALL, site): n for site, n in counts.groupby("site")["units"].min().items()}
    return found | {(ALL, ALL): int(counts["units"].min())}


def compare(
    real: Spectra, synthetic: Mapping[str, Spectra], seed: int, draws: int = 1000
) -> pd.DataFrame:
    """Errors of each model's spectra, with 95 % of a bootstrap over people and over motions.

    The row `REAL` compares real with real: one half of the people with the other half, the mean
    and the range of 95 % over `SPLITS` ways to halve them. Half as many people are noisier than
    all of them, so it lies rather too high: a model below it is as near as people are.

    Returns:
        Columns ``model``, ``label``, ``site``, ``measure`` (keys of `MEASURES`), ``value``,
        ``low``, ``high`` (dB), and ``people`` and ``motions`` behind it. The label `ALL` is the
        mean over classes, the site `ALL` over sites too, and their numbers the smallest of any.
        Fewer than `FEWEST` have no interval. Classes are drawn each for itself.
    """
    cells, found = _samples(real, synthetic, seed, draws)
    people = _units(real)
    rows = []
    for model, samples in ({REAL: _between_halves(real, cells, seed)} | found).items():
        motions = people if model == REAL else _units(synthetic[model])
        for (label, site), at in _pooled(cells).items():
            numbers = (people.get((label, site), 0), motions.get((label, site), 0))
            values = _over(samples, at)
            for measure, own in zip(MEASURES, values.T, strict=True):
                if model == REAL:
                    estimate = (own.mean(), *np.percentile(own, TAILS))
                else:
                    value, low, high = _interval(own, min(numbers) >= FEWEST)
                    estimate = (value, low if measure == "level" else max(low, 0.0), high)
                rows.append((model, label, site, measure, *estimate, *numbers))
    names = ("model", "label", "site", "measure", "value", "low", "high", "people", "motions")
    return pd.DataFrame(rows, columns=names)


def _between_halves(real: Spectra, cells: list[tuple[str, str]], seed: int) -> np.ndarray:
    """(C, D, 3) errors of half of the people to the others; NaN for fewer than `FEWEST`."""
    rng = np.random.default_rng(seed)
    found = np.full((len(cells), SPLITS, 3), np.nan)
    for at, cell in enumerate(cells):
        rows = real.rows(*cell)
        if len(rows) >= FEWEST:
            orders = np.stack([rng.permutation(len(rows)) for _ in range(SPLITS)])
            first = (orders < len(rows) // 2).astype(float)
            found[at] = spectral_errors(
                real.mean(rows, first), real.mean(rows, 1 - first), real.frequency
            )
    return found


def changes(
    real: Spectra,
    synthetic: Mapping[str, Spectra],
    before: str,
    after: str,
    seed: int,
    draws: int = 1000,
) -> pd.DataFrame:
    """How much nearer to real one model's spectra are than another's: below zero is nearer.

    The same people and motions are drawn for both models (see `compare`), so the interval of the
    change is much narrower than those of the two errors. Of the level the size counts, either way.

    Columns as of `compare`, with ``before`` and ``after`` in place of ``model``.
    """
    pair = {model: synthetic[model] for model in (before, after)}
    cells, found = _samples(real, pair, seed, draws)
    both = np.abs(np.stack([found[before], found[after]], 1))
    people, motions = _units(real), _units(synthetic[after])
    rows = []
    for (label, site), at in _pooled(cells).items():
        numbers = (people.get((label, site), 0), motions.get((label, site), 0))
        first, second = _over(both, at)
        for column, measure in enumerate(MEASURES):
            ends = first[0, column], second[0, column]
            change = _interval(second[:, column] - first[:, column], min(numbers) >= FEWEST)
            rows.append((label, site, measure, *ends, *change, *numbers))
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


def in_words(change: pd.DataFrame) -> str:
    """Whether a model is nearer to real than another: in all, and in how many classes and sites.

    The latter where there were people enough for intervals.
    """
    lines = []
    for measure, part in change.groupby("measure", sort=False):
        whole = part[(part["label"] == ALL) & (part["site"] == ALL)].iloc[0]
        single = part[(part["label"] != ALL) & part["low"].notna()]
        nearer, farther = int((single["high"] < 0).sum()), int((single["low"] > 0).sum())
        line = f"{MEASURES[measure]}: {whole.before:.1f} → {whole.after:.1f}, by {whole.value:+.1f}"
        if len(single):
            line += (
                f" [{whole.low:+.1f}, {whole.high:+.1f}]; of {len(single)} classes at sites, the "
                f"interval says nearer to real in {nearer}, farther in {farther}"
            )
        lines.append(f"{line}.")
    return "\n".join(lines)


def as_metrics(numbers: pd.DataFrame) -> dict:
    """What is pooled over classes, nested by model, site and measure, for `run.json`."""
    found: dict = {}
    for row in numbers[numbers["label"] == ALL].itertuples(index=False):
        at = found.setdefault(row.model, {}).setdefault(row.site, {})
        at[row.measure] = {"value": row.value, "low": row.low, "high": row.high}
    return found
