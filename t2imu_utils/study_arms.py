"""The arms of a track's study (`tracks.StudySection`): their names, and their parameters."""

from collections.abc import Sequence
from typing import Any

from t2imu_utils import runs
from t2imu_utils.arm_names import BASE, base_of, control_of, model_name, model_order, parse
from t2imu_utils.runs import REAL, stage_name
from t2imu_utils.tracks import StudySection, Track, Variant

RECOGNITION = "07_har"
# By name: parameters of notebook 02 that are not its defaults.
Arms = dict[str, dict[str, Any]]


def model_of(variant: Variant | None, seed: int) -> tuple[str, dict[str, Any]]:
    """Name and parameters of the model with these losses and a seed; None is the control."""
    told = variant.model_dump(exclude_defaults=True) if variant else {"lambda_acc": 0.0}
    return model_name(**told, seed=seed), {"generator": BASE, **told, "seed": seed}


def repeated(study: StudySection | None) -> Arms:
    """With every seed: the control, and the paper's loss with each weight."""
    if study is None:
        return {}
    printed = [Variant(lambda_acc=weight) for weight in study.weights]
    return dict(model_of(each, seed) for each in (None, *printed) for seed in study.seeds)


def combined(study: StudySection | None) -> Arms:
    """The combinations of losses, each with its own control (the same losses without L_acc)."""
    if study is None:
        return {}
    arms: Arms = {}
    for combination in study.combinations:
        name, settings = model_of(combination, study.seeds[0])
        others = {key: value for key, value in settings.items() if key != "acc_variant"}
        arms |= {control_of(name): others | {"lambda_acc": 0.0}, name: settings}
    # A combination of nothing but L_acc has the control that is repeated.
    return {name: settings for name, settings in arms.items() if name not in repeated(study)}


def side_by_side(models: Sequence[str], study: StudySection | None) -> list[str]:
    """Of models those that notebooks 03 to 07 show: of a study each arm with one seed, the lowest.

    Combinations are shown by notebook 08 alone.
    """
    if study is None:
        return list(models)
    first: dict[tuple, tuple[int, str]] = {}
    for model in models:
        if model in combined(study):
            continue
        name = parse(model)
        arm = (name.generator, name.weight, name.options) if name else (model,)
        seed = name.seed if name else 0
        first[arm] = min(first.get(arm, (seed, model)), (seed, model))
    kept = {model for _, model in first.values()}
    return [model for model in models if model in kept]


def choose_models(track: Track, stage: str, wanted: list[str] | None) -> list[str]:
    """Models that a notebook compares: those asked for, or all that have finished `stage` and stand
    side by side. Errors as of `runs.choose_models`."""
    found = runs.choose_models(track.name, stage, wanted)
    return found if wanted else side_by_side(found, track.study)


def refined(study: StudySection) -> str:
    """The model that stands for the paper's: the first weight, the first seed."""
    return model_name(study.weights[0], seed=study.seeds[0])


def papers_refined(models: Sequence[str], study: StudySection | None = None) -> str:
    """The model that stands for the paper's refined MDM: the study's where it is among them, else
    the last of MDM's."""
    if study is not None and refined(study) in models:
        return refined(study)
    own = sorted((m for m in models if base_of(m) == BASE), key=model_order)
    return (own or list(models))[-1]


def varied(study: StudySection | None, compared: Sequence[str]) -> list[tuple[str, str]]:
    """Models whose recognition is done otherwise than in the paper, and the name of the stage."""
    if study is None:
        return []
    everywhere = [
        (model, stage_name(RECOGNITION, slug))
        for model in (*compared, REAL)
        for slug in study.variants
    ]
    own = [(refined(study), stage_name(RECOGNITION, slug)) for slug in study.refined_variants]
    return everywhere + own


def classifier_seeds(track: Track, model: str, variant: str = "") -> list[int]:
    """Seeds of the classifiers that are trained on a model's windows: the track's, or some of them
    for an arm that the study repeats, for combinations, and for recognition in other ways than the
    paper's.

    variant: the name of how it is done, "" for as in the paper.
    """
    name, study = parse(model), track.study
    if study is None:
        return track.har.seeds
    again = name is not None and name.seed != study.seeds[0]
    count = study.classifiers if again else len(track.har.seeds)
    if variant or model in combined(study):
        count = min(count, study.variant_classifiers)
    return track.har.seeds[:count]
