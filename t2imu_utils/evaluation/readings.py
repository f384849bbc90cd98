"""Readings of L_acc, judged by what they do to sampled motion on validation subjects (notebook 08).

The paper's loss compares accelerations frame by frame at every noise level. Others are tried with
the same budget, seeds and start, each with a weight that gives it the same share of the loss at the
start as the paper's has. Judged are motions sampled for the captions of validation clips, beside
those clips: how far the spectrum of their acceleration is from the real one, and whether features
and kinetics suffer. Nothing of the test subjects and no recording takes part.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from t2imu_utils import arms, data
from t2imu_utils.analysis.motions import mean_abs_acceleration
from t2imu_utils.analysis.solvers import MEASURES, distances_to_real
from t2imu_utils.analysis.spectra import mean_spectrum, spectral_distance
from t2imu_utils.analysis.sweep import arm_of
from t2imu_utils.arm_names import BASE, model_name, parse
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.generators.mdm import GUIDANCE
from t2imu_utils.motion.features import features_to_joints
from t2imu_utils.priors.losses import LossWeights
from t2imu_utils.runs import compute_device, finished_dir, finished_models
from t2imu_utils.study_arms import VALIDATION, refined, tried, validated, validation_stage
from t2imu_utils.tracks import Reading, StudySection, Track

# By which the best reading is chosen, and what it must not lose.
CRITERION, KEPT = "spectrum", ("features", "kinetics")


def sampled_for_validation(
    track: Track, model: str, guidance: float | None = None
) -> list[np.ndarray]:
    """Raw features that `cells.validation` sampled from a model."""
    folder = finished_dir(track.name, model, validation_stage(guidance))
    return list(Clips.load(folder / "motions").each("features"))


def judge(
    track: Track, models: Mapping[str, Sequence[str]], against: str, draws: int = 400
) -> pd.DataFrame:
    """Distances to the validation clips (`distances_to_real`), the seeds of an arm together.

    Args:
        models: by arm, its models: one for each seed.
        against: the arm that others are held against, with the same seeds.

    Returns:
        Columns of `distances_to_real` with ``arm`` in place of ``model``; ``seeds``, how many; and
        ``of_seeds``, the value of each seed alone.
    """
    real = data.load_motions(track, track.corpus.validation)
    sets = {
        arm: [sampled_for_validation(track, model) for model in names]
        for arm, names in models.items()
    }
    return judge_sets(sets, against, real, arms.load_model(track, BASE).normaliser, draws)


def judge_sets(sets, against, real, normaliser, draws=400) -> pd.DataFrame:
    """`judge` on raw features: by arm a list of sets, each ``len(motions) / len(real)`` a clip."""
    features, sources = [clip.features for clip in real], [clip.source for clip in real]
    names = [clip.name for clip in real]
    counts = sorted({len(motions) / len(real) for alike in sets.values() for motions in alike})
    if len(counts) != 1 or not (again := counts[0]).is_integer():
        raise InputError(
            "readings: motions", f"{counts} for each clip", "equally many of each arm",
            "Sample all arms with the same repetitions.",
        )  # fmt: skip
    prompts = np.repeat(names, int(again))
    tables, by_seed = [], {}
    seeds = {arm: len(alike) for arm, alike in sets.items()}
    for arm, alike in sets.items():
        # The same number of seeds on both sides, so that the same halves of the clips are drawn.
        beside = [sets[against][i % seeds[against]] for i in range(seeds[arm])]
        pooled = {arm: sum(alike, []), against: sum(beside, [])}
        groups = np.tile(prompts, seeds[arm])
        table = distances_to_real(
            pooled, groups, features, sources, normaliser, against, draws=draws
        )
        tables.append(table[table["model"] == arm])
        single = [
            distances_to_real({arm: x}, prompts, features, sources, normaliser, arm, draws=1)
            for x in alike
        ]
        by_seed[arm] = {m: [float(t.loc[t["measure"] == m, "value"].iloc[0]) for t in single]
                        for m in MEASURES}  # fmt: skip
    found = pd.concat(tables, ignore_index=True).rename(columns={"model": "arm"})
    of_seeds = [by_seed[row.arm][row.measure] for row in found.itertuples()]
    return found.assign(seeds=found["arm"].map(seeds), of_seeds=of_seeds)


def accelerations(sets: Mapping[str, Sequence[Sequence[np.ndarray]]]) -> pd.Series:
    """Mean length of the joints' acceleration of each arm's motions, m/s²."""
    return pd.Series(
        {
            arm: np.mean([mean_abs_acceleration(features_to_joints(x)) for x in sum(alike, [])])
            for arm, alike in sets.items()
        }
    )


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each arm, the best spectrum first.

    Args:
        table: of `judge`.

    Returns:
        By arm: the value of each measure; ``change``, ``low``, ``high`` of the spectrum's distance
        against the control, dB; ``keeps``, whether `KEPT` are no worse than the control's.
    """
    wide = table.pivot(index="arm", columns="measure", values="value")
    worse = table.pivot(index="arm", columns="measure", values="no_worse")
    change = table[table["measure"] == CRITERION].set_index("arm")[["excess", "low", "high"]]
    wide = wide.join(change.rename(columns={"excess": "change"}))
    wide["keeps"] = worse[list(KEPT)].astype(bool).all(axis=1)
    return wide.sort_values(CRITERION)


def candidates(study: StudySection) -> list[str]:
    """Arms that may be chosen: the study's readings, beside the control and the printed loss."""
    return [arm_of(model_name(**reading.model_dump())) for reading in study.readings]


def choose(table: pd.DataFrame, readings: Sequence[str]) -> str | None:
    """Of the readings the one with the nearest spectrum, if it keeps the rest and its distance is
    surely below the control's; None where there is none."""
    ordered = verdicts(table[table["arm"].isin(readings)])
    good = ordered[ordered["keeps"] & (ordered["high"] < 0)]
    return good.index[0] if len(good) else None


def weights_of(reading: Reading) -> LossWeights:
    """A reading as the losses take it."""
    given = reading.model_dump()
    terms = {name: given.pop(f"lambda_{name}") for name in ("acc", "pos", "foot", "vel")}
    return LossWeights(**terms, **given)


def shares(track: Track, readings: Sequence[Reading]) -> pd.DataFrame:
    """What share of L_simple each reading has on the base, on the validation clips, and the weight
    with which that would be the share of the paper's loss with λ = 0.1.

    Returns:
        By arm: ``acc``, the term without its weight; ``share``, weight times term over L_simple;
        ``equal``, that weight.
    """
    generator = arms.generator_of(track, BASE)
    prior, held_out = arms.load_model(track, BASE), data.load_motions(
        track, track.corpus.validation
    )  # fmt: skip

    def terms(reading: Reading) -> dict[str, float]:
        settings = arms.finetuning(track, weights_of(reading), None, 0)
        return generator.validation(prior, held_out, settings, compute_device())

    printed = terms(Reading(lambda_acc=0.1))
    rows = {}
    for reading in readings:
        found = terms(reading)
        rows[model_name(**reading.model_dump())] = {
            "acc": found["acc"],
            "share": reading.lambda_acc * found["acc"] / found["simple"],
            "equal": 0.1 * printed["acc"] / found["acc"],
        }
    return pd.DataFrame(rows).T


def by_arm(models: Sequence[str]) -> dict[str, list[str]]:
    """Models by arm, in the order of their seeds."""
    found: dict[str, list[str]] = {}
    for model in sorted(models, key=lambda name: parse(name).seed):
        found.setdefault(arm_of(model), []).append(model)
    return found


def finished(track: Track) -> dict[str, list[str]]:
    """By arm the models of a track's study that were sampled for validation subjects; nothing of a
    track without a study."""
    done = finished_models(track.name, VALIDATION)
    return by_arm([model for model in tried(track.study) if model in done])


def guided(track: Track) -> pd.DataFrame:
    """Acceleration (m/s²) and spectral distance (dB) of motions sampled with each guidance.

    Returns:
        Columns ``model``, ``guidance`` (the generator's own first) and ``acceleration``,
        `CRITERION`; no rows where none has been sampled.
    """
    columns = ["model", "guidance", "acceleration", CRITERION]
    cells = [
        (model, stage)
        for model, stage in validated(track.study)
        if model in (BASE, refined(track.study)) and model in finished_models(track.name, stage)
    ]
    if not cells:
        return pd.DataFrame(columns=columns)
    rows, real = [], data.load_motions(track, track.corpus.validation)
    truth = mean_spectrum([features_to_joints(clip.features) for clip in real])[1]
    for model, stage in cells:
        told = stage.partition("-g")[2]
        features = sampled_for_validation(track, model, float(told) if told else None)
        spectrum = mean_spectrum([features_to_joints(x) for x in features])[1]
        rows.append(
            {
                "model": model,
                "guidance": float(told) if told else GUIDANCE,
                "acceleration": accelerations({model: [features]})[model],
                CRITERION: spectral_distance(spectrum, truth),
            }
        )
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(["model", "guidance"], ignore_index=True)
