"""What a lower L_acc costs elsewhere, over seeds: sampled motion, sensors, variety (nb. 08).

Sampled motions are compared with recorded ones in the categories of both; in every number of them
each category counts the same (`sampled`). Real motion has a row of its own. Its spectral
distances are those of one half of its trials (or people) to the other half, mean of several ways to
halve them: nearer than that no model can be expected to come.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t

from t2imu_utils import data
from t2imu_utils.arm_names import control_of, is_base, model_order, parse
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation import diversity, sampled
from t2imu_utils.evaluation.kinematics import (
    SHORTEST,
    mean_spectrum,
    power_spectrum,
    spectral_distance,
    summarise,
)
from t2imu_utils.evaluation.lacc import MODEL
from t2imu_utils.evaluation.motion_distance import PARTS
from t2imu_utils.evaluation.sampled import REAL, Motions
from t2imu_utils.evaluation.similarity_runs import SPLITS
from t2imu_utils.evaluation.spectra import ALL, FEWEST, TAILS
from t2imu_utils.evaluation.study import Losses, arm_of
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from t2imu_utils.motion.features import features_to_joints, statistics
from t2imu_utils.palette import label
from t2imu_utils.tracks import Track

VARIETY = {
    "diversity": "diversity, all categories",
    "within_category": "diversity within a category",
    "multimodality": "multimodality, one prompt",
}
POWER = {part: f"power, {part} (dB, real = 0)" for part in PARTS}
COSTS = {
    "simple": "L_simple, held-out clips",
    "acc": "L_acc, held-out clips",
    "mean_abs_acceleration": "acceleration of joints (m/s²)",
    "mean_abs_jerk": "jerk of joints (m/s³)",
    "foot_skate": "foot skate (m/s)",
    "spectral_distance": "joint spectra, distance to real (dB)",
    "sensor_distance": "sensor spectra, distance to real (dB)",
    **VARIETY,
    **POWER,
}


@dataclass(frozen=True)
class StudyMotions:
    """Sampled and recorded motions, and what needs more than their joints.

    sets: joints by "real" or model, and category (`sampled.shared`). variety: columns `VARIETY`, by
    the same names. floor: dB, spectral distance of one half of the recorded trials to the other.
    """

    sets: dict[str, Motions]
    variety: pd.DataFrame
    floor: float


def read_motions(track: Track, models: Sequence[str], seed: int = 0) -> StudyMotions:
    """Motions of models as stage 03 left them, and the recorded ones of a track's corpus but for
    those of the validation subjects. Whoever has no features (motions made elsewhere) has no
    variety either.
    """
    category = data.load_categories(track)
    train = data.recorded(data.load_motions(track, track.corpus.train))
    tested = [c for split in track.corpus.test for c in data.load_motions(track, split)]
    clips = train + data.recorded(tested)
    normaliser = Normaliser(*statistics([clip.features for clip in train]))
    sets, described = {REAL: sampled.real_motions(clips, category)}, {}
    of_real = [category[clip.name] for clip in clips], None
    described[REAL] = ([clip.features for clip in clips], *of_real)
    for model in models:
        motions = data.load_sampled(track, model)
        sets[model] = sampled.sampled_motions(motions)
        if "features" in motions.arrays:
            kinds = [sampled.category_of(name) for name in motions.table["activity"]]
            each = list(motions.each("features"))
            described[model] = (each, kinds, motions.table["prompt"].tolist())
    sets = sampled.shared(sets)
    rows = {
        name: _variety(*parts, normaliser, list(sets[REAL])) for name, parts in described.items()
    }
    floor = real_floor(clips, category, list(sets[REAL]), seed)
    return StudyMotions(sets, pd.DataFrame(rows).T.reindex(list(sets)), floor)


def _variety(features, kinds, prompts, normaliser, categories) -> dict[str, float]:
    rows = [at for at, kind in enumerate(kinds) if kind in categories]
    if not rows:
        return dict.fromkeys(VARIETY, np.nan)
    x = diversity.describe([features[at] for at in rows], normaliser)
    kinds = [kinds[at] for at in rows]
    return {
        "diversity": diversity.diversity(x, kinds),
        "within_category": diversity.within(x, kinds),
        "multimodality": diversity.within(x, [prompts[at] for at in rows]) if prompts else np.nan,
    }


def real_floor(
    clips: Sequence[MotionClip], category: pd.Series, categories: Sequence[str], seed: int
) -> float:
    """Spectral distance (dB) of one half of the trials to the other: mean over categories with at
    least `spectra.FEWEST` trials and over `similarity_runs.SPLITS` ways to halve them."""
    rng, found = np.random.default_rng(seed), []
    for name in categories:
        own = [clip for clip in clips if category[clip.name] == name]
        own = [clip for clip in own if len(clip.features) >= SHORTEST]
        trial = np.array([clip.source or clip.name for clip in own])
        trials = np.unique(trial)
        if len(trials) < FEWEST:
            continue
        density = np.stack([power_spectrum(features_to_joints(c.features))[1] for c in own])
        length = np.array([len(clip.features) for clip in own], dtype=float)
        for _ in range(SPLITS):
            first = np.isin(trial, rng.permutation(trials)[: len(trials) // 2])
            halves = (np.average(density[s], 0, length[s]) for s in (first, ~first))
            found.append((name, spectral_distance(*halves)))
    if not found:
        return float("nan")
    return float(pd.DataFrame(found).groupby(0)[1].mean().mean())


def motion_spectra(sets: Mapping[str, Motions]) -> pd.DataFrame:
    """Power of the joints' acceleration by frequency, for all joints and for `PARTS` of them.

    Returns:
        Columns ``model``, ``category``, ``part`` ("all" or one of `PARTS`), ``frequency`` (Hz,
        without 0) and ``density`` ((m/s²)²/Hz).
    """
    rows = []
    total = sum(len(joints) for joints in PARTS.values())
    for model, motions in sets.items():
        for category, own in motions.items():
            whole = 0.0
            for part, joints in PARTS.items():
                frequency, density = mean_spectrum([x[:, list(joints)] for x in own])
                whole = whole + density * len(joints) / total
                rows.append((model, category, part, frequency[1:], density[1:]))
            rows.append((model, category, ALL, frequency[1:], whole[1:]))
    table = pd.DataFrame(rows, columns=["model", "category", "part", "frequency", "density"])
    return table.explode(["frequency", "density"], ignore_index=True).astype(
        {"frequency": float, "density": float}
    )


def power_by_part(spectra: pd.DataFrame) -> pd.DataFrame:
    """Power of the acceleration of each part of the body against real, dB.

    Below zero a model moves less than people do. Columns ``model``, ``category`` ("all": their
    mean), ``part`` and ``decibel``.
    """
    power = spectra.groupby(["model", "category", "part"], sort=False)["density"].sum()
    decibel = 10 * np.log10(power / power.loc[REAL].reindex(power.index.droplevel(0)).to_numpy())
    table = decibel.rename("decibel").reset_index()
    mean = table.groupby(["model", "part"], sort=False)["decibel"].mean().reset_index()
    return pd.concat([table, mean.assign(category=ALL)], ignore_index=True)


def costs(
    losses: Losses, motions: StudyMotions, spectra: pd.DataFrame, sensors: pd.DataFrame
) -> pd.DataFrame:
    """A row for real motion and for each model that has been sampled, a column for each of `COSTS`.

    Args:
        losses: `study.load_losses`.
        spectra: `motion_spectra` of `motions`.
        sensors: `spectral_errors.compare`, as notebook 06 left it (``spectra.parquet``).

    Returns:
        Columns ``model``, ``generator``, ``arm`` (the model without its seed), ``seed`` and those
        of `COSTS`; NaN where a stage has not been run for a model, or its motions lack a category.
    """
    power = power_by_part(spectra)
    power = power[power["category"] == ALL].pivot(index="model", columns="part", values="decibel")
    apart = sensors[(sensors["label"] == ALL) & (sensors["site"] == ALL)]
    apart = apart[apart["measure"] == "distance"].set_index("model")["value"]
    distance, partial = _distances(spectra), sampled.lacking(motions.sets)
    rows = []
    for model, own in motions.sets.items():
        name = parse(model) if model != REAL else None
        if name is None and model != REAL:
            continue
        row = {"model": model, "generator": REAL, "arm": REAL, "seed": 0}
        if name:
            row |= {"generator": name.generator, "arm": arm_of(model), "seed": name.seed}
        if model in losses:
            table = losses[model]
            clips = table[table["estimate"] == MODEL].groupby("clip")[["simple", "acc"]].mean()
            row |= clips.mean().to_dict()
        row["sensor_distance"] = apart.get(model, np.nan)
        if model not in partial:
            parts = [summarise(joints)[list(sampled.MEASURES)].mean() for joints in own.values()]
            row |= pd.DataFrame(parts).mean().to_dict()
            row["spectral_distance"] = motions.floor if model == REAL else distance[model]
            row |= motions.variety.loc[model].to_dict() | power.loc[model].to_dict()
        rows.append(row)
    columns = ["model", "generator", "arm", "seed", *COSTS]
    return pd.DataFrame(rows).reindex(columns=columns).astype(dict.fromkeys(COSTS, float))


def _distances(spectra: pd.DataFrame) -> pd.Series:
    """Log-spectral distance (dB) of each model's joints to real ones, mean over categories."""
    whole = spectra[spectra["part"] == ALL]
    wide = whole.pivot(index=["model", "category"], columns="frequency", values="density")
    found = {}
    for (model, category), row in wide.iterrows():
        # `spectral_distance` leaves out the first bin, which these have no more.
        pair = (np.r_[1.0, x.to_numpy()] for x in (row, wide.loc[(REAL, category)]))
        found.setdefault(model, []).append(spectral_distance(*pair))
    return pd.Series({model: float(np.mean(values)) for model, values in found.items()})


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """`costs` as mean, standard deviation over seeds and number of seeds, a row for each arm.

    Columns are pairs of a cost and "mean", "std" or "count".
    """
    order = sorted(dict.fromkeys(table["arm"]), key=lambda arm: (arm != REAL, model_order(arm)))
    return table.groupby("arm")[list(COSTS)].agg(["mean", "std", "count"]).loc[order]


def against_control(table: pd.DataFrame) -> pd.DataFrame:
    """Change of each cost from the control of the same seed to each arm.

    Returns:
        Columns ``arm``, ``cost``, ``control``, ``mean`` (of the arm), ``real``, ``change``, its
        ``sd`` over seeds, ``low`` and ``high`` (Student's 95 % over seeds, NaN for one) and
        ``seeds``.
    """
    if table["model"].duplicated().any():
        raise InputError("costs: model", "a model twice", "a row for each", "Give `costs` once.")
    models = table.set_index("model")
    rows = []
    for arm, own in table.groupby("arm", sort=False):
        pairs = [(m, control_of(m)) for m in own["model"] if m != REAL and not is_base(m)]
        pairs = [(m, c) for m, c in pairs if c in models.index and c != m]
        if not pairs:
            continue
        after, before = (models.loc[list(names), list(COSTS)] for names in zip(*pairs, strict=True))
        change = after - before.to_numpy()
        for cost in COSTS:
            values = change[cost].dropna()
            if not len(values):
                continue
            sd = values.std()
            # NaN for one seed, as the deviation is.
            reach = t.ppf(TAILS[1] / 100, max(len(values) - 1, 1)) * sd / np.sqrt(len(values))
            rows.append(
                {"arm": arm, "cost": cost, "control": before[cost].mean()}
                | {"mean": after[cost].mean(), "real": models[cost].get(REAL, np.nan)}
                | {"change": values.mean(), "sd": sd, "low": values.mean() - reach}
                | {"high": values.mean() + reach, "seeds": len(values)}
            )
    columns = ["arm", "cost", "control", "mean", "real", "change", "sd", "low", "high", "seeds"]
    return pd.DataFrame(rows, columns=columns)


def spectra_over_seeds(spectra: pd.DataFrame) -> pd.DataFrame:
    """`motion_spectra` of all joints by arm: mean and band of one standard deviation over seeds.

    Both are taken of decibels. Columns ``category``, ``arm``, ``frequency``, ``density``, ``low``,
    ``high`` (NaN for one seed) and ``seeds``.
    """
    whole = spectra[spectra["part"] == ALL]
    whole = whole.assign(arm=whole["model"].map(arm_of), log=np.log(whole["density"]))
    keys = ["category", "arm", "frequency"]
    found = whole.groupby(keys, sort=False)["log"].agg(["mean", "std", "count"]).reset_index()
    table = found[keys].assign(density=np.exp(found["mean"]), seeds=found["count"])
    table["low"], table["high"] = (np.exp(found["mean"] + s * found["std"]) for s in (-1, 1))
    return table


def roll_off(spectra: pd.DataFrame, low: float = 1.0, high: float = 9.0) -> pd.DataFrame:
    """By how much the power of acceleration changes from a low to a high frequency, dB.

    Args:
        spectra: `spectra_over_seeds`. low, high: Hz; the frequencies nearest to them are taken.

    Returns:
        A row for each arm, real motion first, a column for each category.
    """
    there = spectra["frequency"].unique()
    at = [there[np.abs(there - wanted).argmin()] for wanted in (low, high)]
    power = spectra.pivot(index=["arm", "category"], columns="frequency", values="density")
    table = (10 * np.log10(power[at[1]] / power[at[0]])).unstack("category")
    return table.loc[sorted(table.index, key=lambda arm: (arm != REAL, model_order(arm)))]


def in_words(change: pd.DataFrame, costs: Sequence[str] = tuple(COSTS)) -> str:
    """A plain sentence for each arm and cost of `against_control`: nearer to real, or farther?

    Of losses there is no real value: they are lower or higher. A change is claimed only where its
    interval excludes zero.
    """
    lines = []
    for row in change[change["cost"].isin(costs)].itertuples(index=False):
        text = f"{label(row.arm)}, {COSTS[row.cost]}: {row.control:.3g} → {row.mean:.3g}"
        text += f" (real {row.real:.3g})" if np.isfinite(row.real) else ""
        if row.seeds < 2:
            lines.append(f"{text}. One seed: what chance does is not known.")
            continue
        text += f", {row.change:+.2g} [{row.low:+.2g}, {row.high:+.2g}], {row.seeds} seeds"
        lines.append(f"{text}. {_verdict(row)}")
    return "\n".join(lines)


def _verdict(row) -> str:
    if row.low <= 0 <= row.high:
        return "The interval includes zero: no difference is shown."
    if not np.isfinite(row.real):
        return "Lower." if row.change < 0 else "Higher."
    if row.cost.endswith("distance"):
        return "Nearer to real." if row.change < 0 else "Farther from real."
    nearer = abs(row.mean - row.real) < abs(row.control - row.real)
    return "Nearer to real." if nearer else "Farther from real."
