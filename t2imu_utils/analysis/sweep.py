"""A grid of weights and seeds: what was finished, what L_acc changes, what it costs (notebook 08).

Every arm is held against its control, clip by clip: the same seed and the same other losses
without L_acc. So what training on does without L_acc is not counted as the doing of L_acc.
Arms are named as models are (`arms`), without the seed. "gaussian" and "constant" are no arms: they
are what a filter of one line and a frozen pose make of the reference's own x̂_0.

Seeds and trials are crossed: each seed is evaluated on the same trials. Both are resampled, and
one sample of trials serves all seeds (the pigeonhole bootstrap, Owen 2007, doi:10.1214/07-AOAS122).
A bootstrap over few seeds is too narrow; what the drawn seeds deviate by is stretched until it
would alone give Student's interval (`stretch`; Hesterberg 2015, doi:10.1080/00031305.2015.1089789).
With one seed that part is absent: the interval then says nothing of other seeds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import norm, t

from t2imu_utils import data, runs
from t2imu_utils.activities import CATEGORIES, HIGH_DYNAMIC, category_of
from t2imu_utils.analysis import motions as motion_sets
from t2imu_utils.analysis.lacc import ALL, CONSTANT, GAUSSIAN, HIGH, LOW, MODEL, groups_of
from t2imu_utils.analysis.motions import PARTS, SHORTEST, Motions
from t2imu_utils.analysis.spectra import power_spectrum, spectral_distance
from t2imu_utils.analysis.stats import (
    FEWEST,
    SPLITS,
    TAILS,
    bootstrap_means,
    codes,
    interval,
    resampled,
    stream,
)  # fmt: skip
from t2imu_utils.arms import arm as model_of
from t2imu_utils.arms import base_of, control_of, finished_models, is_base, model_order
from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from t2imu_utils.motion.features import features_to_joints
from t2imu_utils.motion.normalise import statistics
from t2imu_utils.runs import REAL
from t2imu_utils.tracks import Track

LOSSES = "05_lacc_analysis"
CONTROL, BASE = "control", "base"  # what a model may be held against
CONTRAST = f"{HIGH} minus {LOW}"
TRIVIAL = (GAUSSIAN, CONSTANT)
KEYS = ["generator", "reference", "arm", "split", "group"]
# Columns of numbers, and what they are called. Only the first two may be chosen by.
MEASURES = {
    "validation_acc": "L_acc, validation subjects",
    "validation_simple": "L_simple, validation subjects",
    "acc": "L_acc, held-out clips",
    "acc_high": "L_acc, high-dynamic",
    "acc_low": "L_acc, low-dynamic",
    "sampled_acceleration": "acceleration of sampled motion (m/s²)",
    "energy_distance": "energy distance to real signals",
    "balanced_accuracy": "balanced accuracy (%)",
}
CHOOSABLE = ("validation_acc", "validation_simple")
VARIETY = {
    "diversity": "diversity, all categories",
    "within_category": "diversity within a category",
    "multimodality": "multimodality, one prompt",
}
COSTS = {
    "simple": "L_simple, held-out clips",
    "acc": "L_acc, held-out clips",
    "mean_abs_acceleration": "acceleration of joints (m/s²)",
    "mean_abs_jerk": "jerk of joints (m/s³)",
    "foot_skate": "foot skate (m/s)",
    "spectral_distance": "joint spectra, distance to real (dB)",
    "sensor_distance": "sensor spectra, distance to real (dB)",
    **VARIETY,
    **{part: f"power, {part} (dB, real = 0)" for part in PARTS},
}

Losses = Mapping[str, pd.DataFrame]


def arm_of(model: str) -> str:
    """The name of a model without its seed: what it shares with those of other seeds."""
    return replace(model_of(model), seed=0).name


# ---------------------------------------------------------------- the grid
def finished_cells(track: Track) -> pd.DataFrame:
    """A row for each model that has been trained: its place in the grid, and its numbers.

    Returns:
        Columns ``model``, ``generator``, ``lambda_acc`` (NaN for a generator as it is, 0 for its
        control), ``seed``, ``options`` and those of `MEASURES`; NaN where a stage has not been run.
    """

    def metrics(model: str, stage: str) -> dict | None:
        record = runs.read_run(runs.runs_root() / track.name / model / stage)
        return record and record["metrics"]

    category, losses = data.load_categories(track), load_losses(track)
    moved = (metrics(runs.COMPARE, LOSSES) or {}).get("sampled", {})
    signals = (metrics(runs.COMPARE, "06_tsne") or {}).get("similarity", {})
    rows = []
    for model in finished_models(track.name, "02_finetuning"):
        name = model_of(model)
        row = {"model": model, "generator": name.generator, "lambda_acc": name.lambda_acc}
        row |= {"seed": name.seed, "options": "-".join(name.others)}
        held_out = metrics(model, "02_finetuning")["validation"]
        # Of a generator that is trained in stages: those of its tokeniser.
        held_out = held_out.get("rvq", held_out)
        row |= {f"validation_{term}": held_out.get(term) for term in ("acc", "simple")}
        if model in losses:
            clips = _clip_losses(losses[model])["acc"]
            high = clips.index.map(category).isin(HIGH_DYNAMIC)
            row |= {"acc": clips.mean(), "acc_high": clips[high].mean()}
            row["acc_low"] = clips[~high].mean()
        if model in moved:
            row["sampled_acceleration"] = moved[model]["mean_abs_acceleration"]
        if model in signals:
            row["energy_distance"] = signals[model][ALL]["distance"]["value"]
        if recognised := metrics(model, "07_har"):
            row["balanced_accuracy"] = 100 * recognised["balanced_accuracy"]["mean"]
        rows.append(row)
    columns = ["model", "generator", "lambda_acc", "seed", "options", *MEASURES]
    table = pd.DataFrame(rows).reindex(columns=columns)
    return table.astype({"lambda_acc": float, **dict.fromkeys(MEASURES, float)})


def load_losses(track: Track) -> dict[str, pd.DataFrame]:
    """Losses of every model of the grid that has them (`lacc.clip_losses`), by name."""
    found = {}
    for model in finished_models(track.name, LOSSES):
        # Motions that were made elsewhere have no losses.
        if runs.require_run(track.name, model, LOSSES)["outputs"]:
            folder = runs.finished_dir(track.name, model, LOSSES)
            found[model] = pd.read_parquet(folder / "losses.parquet")
    return found


def _clip_losses(table: pd.DataFrame) -> pd.DataFrame:
    own = table[table["estimate"] == MODEL]
    return own.groupby("clip")[[c for c in ("simple", "acc") if c in own]].mean()


def plain_arms(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of controls and refined models without options of their own."""
    return table[table["lambda_acc"].notna() & (table["options"] == "")]


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation and number of seeds of every measure, for each weight."""
    grouped = plain_arms(table).groupby(["generator", "lambda_acc"], sort=False)
    return grouped[list(MEASURES)].agg(["mean", "std", "count"])


def best_weight(table: pd.DataFrame, generator: str, by: str = "validation_acc") -> float:
    """The weight above 0 whose mean over seeds on the validation subjects is lowest."""
    if by not in CHOOSABLE:
        raise InputError(
            "by", repr(by), f"one of {', '.join(CHOOSABLE)}",
            "A weight is never chosen on what is reported.",
        )  # fmt: skip
    arms = plain_arms(table[(table["generator"] == generator) & (table["lambda_acc"] > 0)])
    return float(arms.groupby("lambda_acc")[by].mean().idxmin())


# ---------------------------------------------------------------- changes of a loss over seeds
@cache
def stretch(seeds: int) -> float:
    """Factor by which the bootstrap's deviations of a mean of so few values are too small."""
    if seeds < 2:
        return 0.0
    tails = t.ppf(TAILS[1] / 100, seeds - 1) / norm.ppf(TAILS[1] / 100)
    return float(tails * np.sqrt(seeds / (seeds - 1)))


@dataclass(frozen=True, eq=False)
class _Comparison:
    """An arm held against its reference: for each seed the columns before and after."""

    generator: str
    reference: str
    arm: str
    seeds: list[int]
    before: list[int]
    after: list[int]

    def key(self, split: str, group: str) -> dict[str, str]:
        names = (self.generator, self.reference, self.arm, split, group)
        return dict(zip(KEYS, names, strict=True))


def changes_by_seed(losses: Losses, groups: pd.DataFrame, value: str = "acc") -> pd.DataFrame:
    """Relative change of a loss in each seed: columns `KEYS`, ``seed`` and ``relative``.
    Arguments as of `change_over_seeds`.
    """
    rows = []
    for means, comparisons in _by_generator(losses, value):
        for split, group, chosen in _selections(means, groups):
            mean = means.loc[chosen.index].to_numpy().mean(0)
            for c in comparisons:
                relative = mean[c.after] / mean[c.before] - 1
                for seed, change in zip(c.seeds, relative, strict=True):
                    rows.append(c.key(split, group) | {"seed": seed, "relative": change})
    return pd.DataFrame(rows, columns=[*KEYS, "seed", "relative"])


def change_over_seeds(
    losses: Losses, groups: pd.DataFrame, draws: int = 2000, seed: int = 0, value: str = "acc"
) -> pd.DataFrame:
    """Relative change of a loss from a reference to each arm: mean over seeds, interval, size.

    A clip's loss is its mean over timesteps, a group's the mean over its clips; a seed's change is
    that of the group's mean. The reference "control" is the one of the same seed; "base" is the
    generator before it was trained on, the same for all seeds. An arm without a control of its
    seed is not compared with one in that seed.

    Args:
        losses: tables of `lacc.clip_losses` by model, at least base or control of each generator.
        groups: ``clip``, ``split``, ``category``, ``unit`` (`data.test_clips`): the trial that a
            clip was cut from.
        value: the loss.

    Returns:
        Columns `KEYS`, with ``split`` "all" or one of the test splits and ``group`` one of
        `lacc.groups_of` or `CONTRAST`; ``clips``, ``units`` and ``seeds`` (numbers); ``before`` and
        ``after`` (means over seeds); ``relative``; ``sd`` over seeds (NaN for one); ``low``,
        ``high`` (95 %); ``median``, over trials, of a trial's own relative change, which one wild
        trial cannot sway as it does the mean; and ``effect_size``, Cohen's d_z (Lakens 2013,
        doi:10.3389/fpsyg.2013.00863): over trials, mean of the differences averaged over seeds,
        divided by their standard deviation. Fewer than `FEWEST` trials have no interval and no
        effect size. Of the contrast ``relative`` is a difference of shares, and the last two are
        NaN.

    Raises:
        InputError: models of a generator were not evaluated on the same clips.
    """
    rows = []
    for means, comparisons in _by_generator(losses, value):
        ends: dict[tuple, dict[str, np.ndarray]] = {}
        counts: dict[tuple, tuple[int, int]] = {}
        for split, group, chosen in _selections(means, groups):
            values, units = means.loc[chosen.index].to_numpy(), chosen["unit"].to_numpy()
            count = {"clips": len(values), "units": len(set(units))}
            drawn = bootstrap_means(values, units, draws, stream(seed, group))
            drawn = drawn if count["units"] >= FEWEST else drawn[:1]
            for c in comparisons:
                relative = drawn[:, c.after] / drawn[:, c.before] - 1
                ends.setdefault((split, c), {})[group] = relative
                counts[split, c, group] = count
                row = c.key(split, group) | count | {"seeds": len(c.seeds)}
                row |= {"before": drawn[0, c.before].mean(), "after": drawn[0, c.after].mean()}
                row |= _estimate(relative, seed)
                rows.append(row | _of_trials(values[:, c.before], values[:, c.after], units))
        # How much more, in shares, a loss changed in high- than in low-dynamic clips.
        for (split, c), parts in ends.items():
            if HIGH in parts and LOW in parts:
                high, low = (counts[split, c, group] for group in (HIGH, LOW))
                length = min(len(parts[HIGH]), len(parts[LOW]))  # 1 where either has few trials
                row = c.key(split, CONTRAST) | {name: high[name] + low[name] for name in high}
                row["seeds"] = len(c.seeds)
                rows.append(row | _estimate(parts[HIGH][:length] - parts[LOW][:length], seed))
    columns = ["clips", "units", "seeds", "before", "after", "relative", "sd", "low", "high"]
    table = pd.DataFrame(rows, columns=[*KEYS, *columns, "median", "effect_size"])
    order = list(dict.fromkeys([*CATEGORIES, HIGH, LOW, CONTRAST, ALL]))
    ranks = {"arm": _rank, "group": order.index}
    return table.sort_values(
        ["generator", "reference", "arm", "split", "group"], kind="stable", ignore_index=True,
        key=lambda column: column.map(ranks.get(column.name, str)),
    )  # fmt: skip


def _rank(arm: str) -> tuple:
    return (1, arm) if arm in TRIVIAL else (0, model_order(arm))


def _by_generator(losses: Losses, value: str) -> Iterator[tuple[pd.DataFrame, list[_Comparison]]]:
    """Of each generator the mean loss of each clip (row) by model and estimate (column), and which
    columns are to be compared."""
    for generator in dict.fromkeys(base_of(model) for model in losses):
        own = {m: losses[m] for m in losses if base_of(m) == generator}
        means = _clip_means(own, value)
        place = {column: at for at, column in enumerate(means.columns)}
        pairs: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
        for model in own:
            name, control = model_of(model), control_of(model)
            found = []
            # The base and the plain control are references, of which trivial estimates are made.
            if is_base(model) or model == control and not name.others:
                kind = BASE if is_base(model) else CONTROL
                found += [(kind, e, model, (model, e)) for e in TRIVIAL if (model, e) in place]
            if not is_base(model):
                references = {BASE: generator, CONTROL: control}.items()
                found += [
                    (k, arm_of(model), r, (model, MODEL)) for k, r in references if r != model
                ]
            for kind, arm, reference, after in found:
                if (reference, MODEL) in place:
                    columns = place[reference, MODEL], place[after]
                    pairs.setdefault((kind, arm), []).append((name.seed, *columns))
        yield (
            means,
            [
                _Comparison(generator, *names, *map(list, zip(*sorted(found), strict=True)))
                for names, found in pairs.items()
            ],
        )


def _clip_means(own: Losses, value: str) -> pd.DataFrame:
    parts = {}
    for model, table in own.items():
        means = table.groupby(["clip", "estimate"], observed=True)[value].mean().unstack()
        parts |= {(model, estimate): means[estimate] for estimate in means}
    found = pd.DataFrame(parts)
    if wrong := [model for model, _ in found.columns[found.isna().any()]]:
        raise InputError(
            f"losses of {wrong[0]}", "other clips than of other models", "the same clips",
            "Evaluate all models of a generator alike: run notebook 05 for them again.",
        )  # fmt: skip
    return found


def _selections(
    means: pd.DataFrame, groups: pd.DataFrame
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Split, group, and the rows of `groups` in both, by clip."""
    table = groups.set_index("clip").loc[means.index]
    for split in (ALL, *dict.fromkeys(groups["split"])):
        own = table if split == ALL else table[table["split"] == split]
        for group, rows in groups_of(own["category"]).items():
            yield split, group, own[rows]


def _estimate(relative: Float[np.ndarray, "1+D S"], seed: int) -> dict[str, float]:
    """Mean over seeds and its interval; the first row is the whole sample."""
    count = relative.shape[1]
    low, high = np.nan, np.nan
    if len(relative) > 1:
        of_trials = relative.mean(1)
        # The same samples of seeds for all groups, so that groups can be held against each other.
        picks = resampled(count, len(relative) - 1, [seed, count])
        of_both = (relative * picks).sum(1) / count
        low, high = interval(of_trials + stretch(count) * (of_both - of_trials))
    sd = relative[0].std(ddof=1) if count > 1 else np.nan
    return {"relative": relative[0].mean(), "sd": sd, "low": low, "high": high}


def _of_trials(
    before: Float[np.ndarray, "n S"], after: Float[np.ndarray, "n S"], units: np.ndarray
) -> dict[str, float]:
    first, second = (pd.DataFrame(x).groupby(codes(units)).mean() for x in (before, after))
    delta = (second - first).mean(axis=1)
    spread = delta.std() if len(delta) >= FEWEST else 0.0
    return {
        "median": float((second / first - 1).mean(axis=1).median()),
        "effect_size": delta.mean() / spread if spread > 0 else np.nan,
    }


def by_timestep(losses: Losses, value: str = "acc") -> pd.DataFrame:
    """A loss at each noise level, and its relative change from the control of the same seed.

    Returns:
        Columns ``generator``, ``arm`` (models without their seed, and "gaussian", "constant" of the
        base), ``timestep``, ``mean`` over clips and seeds, ``sd`` over seeds, ``seeds``, and
        ``relative``, ``relative_sd`` (NaN for base and control).
    """
    means, rows = {}, []
    for model, table in losses.items():
        for estimate in (MODEL, *TRIVIAL) if is_base(model) else (MODEL,):
            own = table[table["estimate"] == estimate]
            if len(own):
                name = model if estimate == MODEL else estimate
                means[base_of(model), name] = own.groupby("timestep")[value].mean()
    for (generator, model), mean in means.items():
        control = means.get((generator, control_of(model)))
        compared = control is not None and model != control_of(model) and not is_base(model)
        relative = mean / control - 1 if compared else mean * np.nan
        arm = model if model in TRIVIAL else arm_of(model)
        part = pd.DataFrame({"mean": mean, "relative": relative})
        rows.append(part.assign(arm=arm, generator=generator))
    keys = ["generator", "arm", "timestep"]
    return pd.concat(rows).reset_index().groupby(keys, sort=False).agg(
        mean=("mean", "mean"), sd=("mean", "std"), seeds=("mean", "count"),
        relative=("relative", "mean"), relative_sd=("relative", "std"),
    ).reset_index()  # fmt: skip


# ---------------------------------------------------------------- what a lower L_acc costs
@dataclass(frozen=True)
class StudyMotions:
    """Sampled and recorded motions, and what needs more than their joints.

    sets: joints by "real" or model, and category (`motions.shared`). variety: columns `VARIETY`, by
    the same names. halves: dB, spectral distance of one half of the recorded trials to the other,
    nearer than which no model can be expected to come.
    """

    sets: dict[str, Motions]
    variety: pd.DataFrame
    halves: float


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
    sets = {REAL: motion_sets.real_motions(clips, category)}
    kinds = [category[clip.name] for clip in clips]
    described = {REAL: ([clip.features for clip in clips], kinds, None)}
    for model in models:
        made = data.load_sampled(track, model)
        sets[model] = motion_sets.sampled_motions(made)
        if "features" in made.arrays:
            kinds = made.table["activity"].map(category_of).tolist()
            described[model] = (list(made.each("features")), kinds, made.table["prompt"].tolist())
    sets = motion_sets.shared(sets)
    categories = list(sets[REAL])
    rows = {name: _variety(*own, normaliser, categories) for name, own in described.items()}
    between = distance_between_halves(clips, category, categories, seed)
    return StudyMotions(sets, pd.DataFrame(rows).T.reindex(list(sets)), between)


def _variety(features, kinds, prompts, normaliser, categories) -> dict[str, float]:
    rows = [at for at, kind in enumerate(kinds) if kind in categories]
    if not rows:
        return dict.fromkeys(VARIETY, np.nan)
    x = motion_sets.statistics([features[at] for at in rows], normaliser)
    kinds = [kinds[at] for at in rows]
    prompts = [prompts[at] for at in rows] if prompts else range(len(rows))
    return {
        "diversity": motion_sets.diversity(x, kinds),
        "within_category": motion_sets.diversity_within(x, kinds),
        "multimodality": motion_sets.diversity_within(x, prompts),
    }


def distance_between_halves(
    clips: Sequence[MotionClip], category: pd.Series, categories: Sequence[str], seed: int
) -> float:
    """Spectral distance (dB) of one half of the trials to the other: mean over categories with at
    least `FEWEST` trials and over `SPLITS` ways to halve them."""
    rng, found = np.random.default_rng(seed), []
    for name in categories:
        own = [c for c in clips if category[c.name] == name and len(c.features) >= SHORTEST]
        trial = np.array([clip.source or clip.name for clip in own])
        trials = np.unique(trial)
        if len(trials) < FEWEST:
            continue
        density = np.stack([power_spectrum(features_to_joints(c.features))[1] for c in own])
        length = np.array([len(clip.features) for clip in own], dtype=float)
        for _ in range(SPLITS):
            first = np.isin(trial, rng.permutation(trials)[: len(trials) // 2])
            halves = (np.average(density[s], 0, length[s]) for s in (first, ~first))
            found.append((name, float(spectral_distance(*halves))))
    return float(pd.DataFrame(found, columns=["name", "dB"]).groupby("name")["dB"].mean().mean())


def power_by_part(spectra: pd.DataFrame) -> pd.DataFrame:
    """Power of the acceleration of each part of the body (column) against real, dB, by model.

    Below zero a model moves less than people do. Mean over categories of `motions.motion_spectra`.
    """
    power = spectra.groupby(["model", "category", "part"], sort=False)["density"].sum()
    decibel = 10 * np.log10(power / power.loc[REAL].reindex(power.index.droplevel(0)).to_numpy())
    return decibel.groupby(["model", "part"], sort=False).mean().unstack("part")[list(PARTS)]


def costs(
    losses: Losses, motions: StudyMotions, spectra: pd.DataFrame, sensors: pd.DataFrame
) -> pd.DataFrame:
    """A row for real motion and for each model that has been sampled, a column for each of `COSTS`.

    Args:
        losses: `load_losses`.
        spectra: `motions.motion_spectra` of these motions.
        sensors: `spectra.compare`, as notebook 06 left it (``spectra.parquet``).

    Returns:
        Columns ``model``, ``generator``, ``arm`` (the model without its seed), ``seed`` and those
        of `COSTS`; NaN where a stage has not been run for a model, or its motions lack a category.
    """
    whole = sensors[(sensors["label"] == ALL) & (sensors["site"] == ALL)]
    apart = whole[whole["measure"] == "distance"].set_index("model")["value"]
    moved = motion_sets.compare(motions.sets)
    moved = moved[moved["category"] == ALL].set_index("model").drop(columns=["category", "n"])
    moved = moved.join(motions.variety).join(power_by_part(spectra))
    moved.loc[REAL, "spectral_distance"] = motions.halves
    moved.loc[list(motion_sets.missing(motions.sets))] = np.nan
    rows = []
    for model in motions.sets:
        name = model_of(model)
        row = {"model": model, "generator": REAL, "arm": REAL, "seed": 0}
        if model != REAL:
            row |= {"generator": name.generator, "arm": arm_of(model), "seed": name.seed}
        row |= _clip_losses(losses[model]).mean().to_dict() if model in losses else {}
        rows.append(
            row | {"sensor_distance": apart.get(model, np.nan)} | moved.loc[model].to_dict()
        )
    columns = ["model", "generator", "arm", "seed", *COSTS]
    return pd.DataFrame(rows).reindex(columns=columns).astype(dict.fromkeys(COSTS, float))


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """`costs` as mean, standard deviation over seeds and number of seeds, a row for each arm.

    Columns are pairs of a cost and "mean", "std" or "count".
    """
    found = table.groupby("arm")[list(COSTS)].agg(["mean", "std", "count"])
    return found.loc[_real_first(found.index)]


def _real_first(arms: Sequence[str]) -> list[str]:
    return sorted(arms, key=lambda arm: (arm != REAL, model_order(arm)))


def against_control(table: pd.DataFrame) -> pd.DataFrame:
    """Change of each cost from the control of the same seed to each arm.

    Returns:
        Columns ``arm``, ``cost``, ``control``, ``mean`` (of the arm), ``real``, ``change``, its
        ``sd`` over seeds, ``low`` and ``high`` (Student's 95 % over seeds, NaN for one) and
        ``seeds``.
    """
    models, rows = table.set_index("model"), []
    for arm, own in table.groupby("arm", sort=False):
        pairs = [(m, control_of(m)) for m in own["model"] if m != REAL and not is_base(m)]
        pairs = [(m, c) for m, c in pairs if c in models.index and c != m]
        if not pairs:
            continue
        after, before = (models.loc[list(names), list(COSTS)] for names in zip(*pairs, strict=True))
        change = after - before.to_numpy()
        for cost in (name for name in COSTS if change[name].notna().any()):
            values = change[cost].dropna()
            sd = values.std()  # NaN for one seed
            reach = t.ppf(TAILS[1] / 100, max(len(values) - 1, 1)) * sd / np.sqrt(len(values))
            row = {"arm": arm, "cost": cost, "control": before[cost].mean()}
            row |= {"mean": after[cost].mean(), "real": models[cost].get(REAL, np.nan)}
            row |= {"change": values.mean(), "sd": sd, "low": values.mean() - reach}
            rows.append(row | {"high": values.mean() + reach, "seeds": len(values)})
    columns = ["arm", "cost", "control", "mean", "real", "change", "sd", "low", "high", "seeds"]
    return pd.DataFrame(rows, columns=columns)


def spectra_over_seeds(spectra: pd.DataFrame) -> pd.DataFrame:
    """`motions.motion_spectra` of all joints by arm: mean and band of one standard deviation.

    Both over seeds and of decibels. Columns ``category``, ``arm``, ``frequency``, ``density``,
    ``low``, ``high`` (NaN for one seed) and ``seeds``.
    """
    whole = spectra[spectra["part"] == ALL]
    whole = whole.assign(arm=whole["model"].map(arm_of), log=np.log(whole["density"]))
    keys = ["category", "arm", "frequency"]
    found = whole.groupby(keys, sort=False)["log"].agg(["mean", "std", "count"]).reset_index()
    table = found[keys].assign(density=np.exp(found["mean"]), seeds=found["count"])
    table["low"], table["high"] = (np.exp(found["mean"] + s * found["std"]) for s in (-1, 1))
    return table


def roll_off(spectra: pd.DataFrame, low: float = 1.0, high: float = 9.0) -> pd.DataFrame:
    """By how much the power of acceleration changes from a low to a high frequency (Hz), dB.

    spectra: `spectra_over_seeds`. A row for each arm, real motion first; a column a category.
    """
    there = spectra["frequency"].unique()
    at = [there[np.abs(there - wanted).argmin()] for wanted in (low, high)]
    power = spectra.pivot(index=["arm", "category"], columns="frequency", values="density")
    table = (10 * np.log10(power[at[1]] / power[at[0]])).unstack("category")
    return table.loc[_real_first(table.index)]
