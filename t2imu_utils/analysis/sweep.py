"""A grid of weights and seeds: what was finished, what L_acc changes, what it costs (notebook 08).

Every fine-tuned model is compared with its control, clip by clip: the same seed and the same other
losses without L_acc. So the effect of longer training is not counted. An ``arm`` is a model without
its seed (`arms`). "gaussian" and "constant" are no models: they are what a simple filter and a
frozen pose make of the reference's own x̂_0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from t2imu_utils import data, runs
from t2imu_utils.activities import HIGH_DYNAMIC, category_of
from t2imu_utils.analysis import motions as moving
from t2imu_utils.analysis.har import PAPER, RecognitionVariant, balanced_accuracy
from t2imu_utils.analysis.lacc import ALL, CONSTANT, CONTRAST, GAUSSIAN, MODEL, paired_difference
from t2imu_utils.analysis.motions import PARTS
from t2imu_utils.analysis.stats import FEWEST, resampled
from t2imu_utils.analysis.stats import over_seeds as over_trained
from t2imu_utils.arms import (
    Arm,
    base_of,
    control_of,
    finished_models,
    is_base,
    is_refined,
    model_order,
)
from t2imu_utils.arms import arm as model_of
from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import Normaliser, statistics
from t2imu_utils.motion.features import features_to_joints
from t2imu_utils.runs import REAL
from t2imu_utils.tracks import BASE as MDM
from t2imu_utils.tracks import Track

LOSSES = "05_lacc_analysis"
CONTROL, BASE = "control", "base"  # what a model may be compared with
TRIVIAL = (GAUSSIAN, CONSTANT)
KEYS = ["generator", "reference", "arm", "group"]
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
COSTS = {
    "simple": "L_simple, held-out clips",
    "acc": "L_acc, held-out clips",
    "mean_abs_acceleration": "acceleration of joints (m/s²)",
    "mean_abs_jerk": "jerk of joints (m/s³)",
    "foot_skate": "foot skate (m/s)",
    "spectral_distance": "joint spectra, distance to real (dB)",
    "sensor_distance": "sensor spectra, distance to real (dB)",
    "diversity": "diversity, all categories",
    "multimodality": "multimodality, one prompt",
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

    def metrics(model: str, stage: str) -> dict:
        record = runs.read_run(runs.runs_root() / track.name / model / stage)
        return record["metrics"] if record else {}

    category, losses, rows = data.load_categories(track), load_losses(track), []
    moved = metrics(runs.COMPARE, LOSSES).get("sampled", {})
    signals = metrics(runs.COMPARE, "06_tsne").get("similarity", {})
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
            parts = {"acc": clips, "acc_high": clips[high], "acc_low": clips[~high]}
            row |= {name: part.mean() for name, part in parts.items()}
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
    return own.groupby("clip")[["simple", "acc"]].mean()


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


# ---------------------------------------------------------------- changes of L_acc over seeds
def _comparisons(losses: Losses) -> dict[tuple[str, str, str], dict[int, tuple]]:
    """By generator, reference and arm: for each seed the losses of the reference and of the arm."""
    found: dict[tuple[str, str, str], dict[int, tuple]] = {}
    own = {
        (model, estimate): part
        for model, table in losses.items()
        for estimate, part in table.groupby("estimate", observed=True)
    }
    for model in sorted(losses, key=model_order):
        base, seed, compared = base_of(model), model_of(model).seed, []
        if not is_base(model):
            references = {BASE: base, CONTROL: control_of(model)}
            compared = [(kind, x, arm_of(model), MODEL) for kind, x in references.items()]
        # The base and the plain control are references, of which trivial estimates are made.
        if model in (base, Arm(base, 0.0, seed=seed).name):
            kind = BASE if is_base(model) else CONTROL
            compared += [(kind, model, estimate, estimate) for estimate in TRIVIAL]
        for kind, reference, arm, estimate in compared:
            pair = own.get((reference, MODEL)), own.get((model, estimate))
            if pair[0] is not None and pair[1] is not pair[0] and pair[1] is not None:
                found.setdefault((base, kind, arm), {})[seed] = pair
    return found


def change_over_seeds(
    losses: Losses, groups: pd.DataFrame, draws: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Relative change of L_acc from a reference to each arm: mean over seeds, interval, size.

    The reference "control" is the one of the same seed; "base" is the generator before it was
    trained on, the same for all seeds. An arm without a control of its seed is not compared with
    one in that seed.

    Args:
        losses: tables of `lacc.clip_losses` by model, at least base or control of each generator.
        groups: ``clip``, ``category``, ``unit`` (`data.test_clips`).

    Returns:
        Columns `KEYS` and those of `lacc.paired_difference`.
    """
    parts = []
    for (generator, reference, arm), pairs in _comparisons(losses).items():
        part = paired_difference(*zip(*pairs.values(), strict=True), groups, draws, seed)
        parts.append(part.assign(generator=generator, reference=reference, arm=arm))
    table = pd.concat(parts, ignore_index=True)
    return table[[*KEYS, *table.columns.drop(KEYS)]]


def changes_by_seed(losses: Losses, groups: pd.DataFrame) -> pd.DataFrame:
    """`change_over_seeds` in each seed by itself: columns `KEYS`, ``seed`` and ``relative``."""
    parts = []
    for seed in sorted({model_of(model).seed for model in losses}):
        own = {m: x for m, x in losses.items() if is_base(m) or model_of(m).seed == seed}
        parts.append(change_over_seeds(own, groups, draws=1).assign(seed=seed))
    return pd.concat(parts, ignore_index=True)[[*KEYS, "seed", "relative"]]


def by_timestep(losses: Losses) -> pd.DataFrame:
    """L_acc at each noise level, and its relative change from the control of the same seed.

    Returns:
        Columns ``generator``, ``arm`` (models without their seed, and "gaussian", "constant" of the
        base), ``timestep``, ``mean`` over clips and seeds, ``sd`` over seeds, ``seeds``, and
        ``relative``, ``relative_sd`` (NaN for base and control).
    """
    keys, parts = ["estimate", "timestep"], []
    means = {m: x.groupby(keys, observed=True)["acc"].mean() for m, x in losses.items()}
    for model, mean in means.items():
        control = control_of(model)
        of_control = means.get(control) if not is_base(model) and model != control else None
        for estimate in (MODEL, *TRIVIAL) if is_base(model) else (MODEL,):
            if estimate in mean.index:
                own = mean[estimate]
                relative = np.nan if of_control is None else own / of_control[estimate] - 1
                part = pd.DataFrame({"mean": own, "relative": relative}).reset_index()
                arm = arm_of(model) if estimate == MODEL else estimate
                parts.append(part.assign(generator=base_of(model), arm=arm))
    keys = ["generator", "arm", "timestep"]
    return pd.concat(parts).groupby(keys, sort=False).agg(
        mean=("mean", "mean"), sd=("mean", "std"), seeds=("mean", "count"),
        relative=("relative", "mean"), relative_sd=("relative", "std"),
    ).reset_index()  # fmt: skip


# ---------------------------------------------------------------- whether anything notices
def accuracies(track: Track, variant: RecognitionVariant = PAPER) -> pd.DataFrame:
    """Balanced accuracy in percent, a row for each model and real recordings, a column for each
    seed of the classifier."""
    rows = {}
    for model in finished_models(track.name, variant.stage):
        folder = runs.finished_dir(track.name, model, variant.stage)
        rows[model] = 100 * balanced_accuracy(pd.read_parquet(folder / "counts.parquet"))
    reference = runs.finished_dir(track.name, REAL, variant.of(REAL).stage)
    rows[REAL] = 100 * balanced_accuracy(pd.read_parquet(reference / "counts.parquet"))
    return pd.DataFrame(rows).T


def gains(accuracy: pd.DataFrame, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """What L_acc changes of balanced accuracy, in points: each arm minus its control, paired by
    the seed of fine-tuning and that of the classifier, which are crossed (`stats.over_seeds`).

    accuracy: `accuracies`.

    Returns:
        A row for each arm: ``seeds`` of fine-tuning, ``classifiers``, ``gain``, its ``sd`` over
        seeds, ``low`` and ``high``.
    """
    differences: dict[str, list[pd.Series]] = {}
    for model in accuracy.index:
        if is_refined(model) and control_of(model) in accuracy.index:
            found = accuracy.loc[model] - accuracy.loc[control_of(model)]
            differences.setdefault(arm_of(model), []).append(found)
    rows = {}
    for arm, by_seed in differences.items():
        points = pd.DataFrame(by_seed).dropna(axis=1).to_numpy()
        count = points.shape[1]
        samples = resampled(count, draws, seed) @ points.T / count
        samples = samples if count >= FEWEST else samples[:1]
        rows[arm] = (len(points), count, *over_trained(samples, seed))
    columns = ["seeds", "classifiers", "gain", "sd", "low", "high"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def claims(change: pd.DataFrame, accuracy: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The paper's claims for each fine-tuned MDM: what changed from its control, and a verdict.

    change: `change_over_seeds`. accuracy: `accuracies` by the name of the variant, "" as the paper.

    Returns:
        Columns ``claim``, ``arm``, ``seeds``, ``change`` (percent of L_acc, or points of balanced
        accuracy), ``low``, ``high`` (95 %), ``least`` (the smallest effect that could have been
        seen: the larger distance to an end of the interval) and ``verdict``.
    """
    own = change[(change["generator"] == MDM) & (change["reference"] == CONTROL)]
    own, rows = own[~own["arm"].isin(TRIVIAL)], []
    # A loss is claimed to fall, and to fall more where motion is highly dynamic.
    for claim, group in (("L_acc, held-out clips", ALL), ("L_acc, high minus low", CONTRAST)):
        for _, row in own[own["group"] == group].iterrows():
            change, low, high = 100 * row[["relative", "low", "high"]].astype(float)
            rows.append((claim, row["arm"], row["seeds"], change, low, high, _verdict(-high, -low)))
    for slug, table in accuracy.items():
        for arm, (seeds, _, gain, _, low, high) in gains(table).iterrows():
            claim = f"accuracy, {slug or 'raw axes'}"
            rows.append((claim, arm, seeds, gain, low, high, _verdict(low, high)))
    columns = ["claim", "arm", "seeds", "change", "low", "high", "verdict"]
    table = pd.DataFrame(rows, columns=columns).astype({"seeds": int})
    least = np.fmax(table["change"] - table["low"], table["high"] - table["change"])
    table.insert(len(columns) - 1, "least", least)
    return table


def _verdict(low: float, high: float) -> str:
    """What the 95 % interval of an effect says of the claim that it is positive."""
    if np.isnan(low):
        return "not testable here"
    return "supported" if low > 0 else "contradicted" if high < 0 else "not supported"


def by_source(accuracy: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Mean, standard deviation and number of trainings of `accuracies`, seeds of fine-tuning
    together: a row for each arm, real recordings last; columns (variant, "mean", "sd" or "n")."""
    parts = {}
    for slug, table in accuracy.items():
        long = table.rename(index=lambda m: m if m == REAL else arm_of(m)).stack().groupby(level=0)
        parts[slug or "raw axes"] = long.agg(mean="mean", sd="std", n="count")
    whole = pd.concat(parts, axis=1)
    return whole.loc[sorted(whole.index, key=lambda arm: (arm == REAL, model_order(arm)))]


# ---------------------------------------------------------------- what a lower L_acc costs
def read_motions(track: Track, models: Sequence[str]) -> pd.DataFrame:
    """Motions of models as stage 03 left them, and the recorded ones of a track's corpus but for
    those of the validation subjects: `motions.measure`, of the categories that both have."""
    category = data.load_categories(track)
    train = data.recorded(data.load_motions(track, track.corpus.train))
    tested = [c for split in track.corpus.test for c in data.load_motions(track, split)]
    clips = train + data.recorded(tested)
    features = [clip.features for clip in clips]
    normaliser = Normaliser(*statistics(features[: len(train)]))
    kinds, trials = zip(*((category[c.name], c.source or c.name) for c in clips), strict=True)
    joints = (features_to_joints(x) for x in features)
    parts = [moving.measure(REAL, joints, kinds, trials, features, normaliser)]
    for model in models:
        made = data.load_sampled(track, model)
        kinds, prompts = made.table["activity"].map(category_of), made.table["prompt"]
        own = list(made.each("features")) if "features" in made.arrays else None
        parts.append(moving.measure(model, made.each("joints"), kinds, prompts, own, normaliser))
    return moving.shared(pd.concat(parts, ignore_index=True))


def power_by_part(spectra: pd.DataFrame) -> pd.DataFrame:
    """Power of the acceleration of each part of the body (column) against real, dB, by model.

    Below zero a model moves less than people do. Mean over categories of `motions.motion_spectra`.
    """
    power = spectra.groupby(["model", "category", "part"], sort=False)["density"].sum()
    decibel = 10 * np.log10(power / power.loc[REAL].reindex(power.index.droplevel(0)).to_numpy())
    return decibel.groupby(["model", "part"], sort=False).mean().unstack("part")[list(PARTS)]


def costs(losses: Losses, motions: pd.DataFrame, sensors: pd.DataFrame) -> pd.DataFrame:
    """A row for real motion and for each model that has been sampled, a column for each of `COSTS`.

    Args:
        losses: `load_losses`. motions: `read_motions`.
        sensors: `spectra.compare`, as notebook 06 left it (``spectra.parquet``).

    Returns:
        Columns ``model``, ``generator``, ``arm`` (the model without its seed), ``seed`` and those
        of `COSTS`; NaN where a stage has not been run for a model, or its motions lack a category.
        The distances of real motion are those of one half of it to the other.
    """
    table = moving.compare(motions)
    table = table[table["category"] == ALL].set_index("model").drop(columns=["category", "n"])
    table = table.join(moving.variety(motions)).join(power_by_part(moving.motion_spectra(motions)))
    table.loc[REAL, "spectral_distance"] = moving.distance_between_halves(motions)
    table = table.where(table["mean_abs_acceleration"].notna(), axis=0)
    whole = sensors[(sensors[["label", "site", "measure"]] == [ALL, ALL, "distance"]).all(axis=1)]
    table["sensor_distance"] = whole.set_index("model")["value"]
    table = table.join(pd.DataFrame({m: _clip_losses(x).mean() for m, x in losses.items()}).T)
    table = table.reset_index()
    real = table["model"] == REAL
    table["generator"] = table["model"].map(base_of).where(~real, REAL)
    table["seed"] = [0 if m == REAL else model_of(m).seed for m in table["model"]]
    columns = ["model", "generator", "arm", "seed", *COSTS]
    table = table.assign(arm=table["model"].map(arm_of)).reindex(columns=columns)
    return table.astype(dict.fromkeys(COSTS, float))


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """`costs` as mean, standard deviation over seeds and number of seeds, a row for each arm, real
    motion first. Columns are pairs of a cost and "mean", "std" or "count"."""
    found = table.groupby("arm")[list(COSTS)].agg(["mean", "std", "count"])
    return found.loc[sorted(found.index, key=lambda arm: (arm != REAL, model_order(arm)))]


def against_control(table: pd.DataFrame) -> pd.DataFrame:
    """Change of each cost (`costs`) from the control of the same seed to each arm.

    Returns:
        Columns ``arm``, ``cost``, ``control``, ``mean`` (of the arm), ``real``, ``change``, its
        ``sd`` over seeds, ``low`` and ``high`` (Student's 95 % over seeds, NaN for one) and
        ``seeds``.
    """
    long = table.melt(["model", "arm"], list(COSTS), "cost").dropna()
    real = long[long["model"] == REAL].set_index("cost")["value"]
    own = long[long["model"] != REAL]
    own = own.assign(control=own["model"].map(control_of))
    own = own[(own["model"] != own["control"]) & ~own["model"].map(is_base)]
    before = long[["model", "cost", "value"]].set_axis(["control", "cost", "before"], axis=1)
    pairs = own.merge(before, on=["control", "cost"])
    pairs["change"] = pairs["value"] - pairs["before"]
    found = pairs.groupby(["arm", "cost"], sort=False).agg(
        control=("before", "mean"), mean=("value", "mean"),
        change=("change", "mean"), sd=("change", "std"), seeds=("change", "count"),
    ).reset_index()  # fmt: skip
    reach = stdtrit((found["seeds"] - 1).clip(lower=1), 0.975) * found["sd"]
    reach = reach / np.sqrt(found["seeds"])
    found["real"] = found["cost"].map(real)
    return found.assign(low=found["change"] - reach, high=found["change"] + reach)


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
