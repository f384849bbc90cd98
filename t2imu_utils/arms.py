"""The models of the study: generators as they are, controls, fine-tuned models, and their names.

``mdm`` is a generator as it was trained or published; ``mdm-ft`` its control, trained on without
L_acc; ``mdm-acc0.1`` has L_acc with weight 0.1. Whatever else differs from the defaults is
appended: ``mdm-acc0.1-vel0.5-joints-s1``. Names are made, never read: what a model is stands in
the `run.json` of its stage 02.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from t2imu_utils import runs
from t2imu_utils.errors import InputError
from t2imu_utils.runs import COMPARE, REAL, SHARED, stage_name
from t2imu_utils.tracks import BASE, StudySection, Track

TRAINING, RECOGNITION = "02_finetuning", "07_har"
LOSSES = ("pos", "foot", "vel")
_OF_VIRTUAL = re.compile("keep|phone|placement")  # words in the names of variants


@dataclass(frozen=True)
class Arm:
    """A model, by the parameters of notebook 02 that made it.

    lambda_acc: None for a generator as it is, 0 for a control. seed: of the fine-tuning.
    """

    generator: str
    lambda_acc: float | None = None
    lambda_pos: float = 0.0
    lambda_foot: float = 0.0
    lambda_vel: float = 0.0
    acc_variant: str = "features"
    seed: int = 0

    @property
    def name(self) -> str:
        """Its name, and that of its run folder: no two settings share one."""
        parts = [self.generator]
        if self.lambda_acc is not None:
            parts.append(f"acc{self.lambda_acc:g}" if self.lambda_acc else "ft")
        name = "-".join([*parts, *self.others, *[f"s{self.seed}"] * bool(self.seed)])
        _KNOWN[name] = self
        return name

    @property
    def others(self) -> list[str]:
        """Its other losses, as they stand in its name."""
        weights = {loss: getattr(self, f"lambda_{loss}") for loss in LOSSES}
        parts = [f"{loss}{weight:g}" for loss, weight in weights.items() if weight]
        return parts + [self.acc_variant] * (self.acc_variant != "features")

    @property
    def refined(self) -> bool:
        return bool(self.lambda_acc)

    @property
    def control(self) -> "Arm":
        """The same seed and the same other losses, without L_acc."""
        return replace(self, lambda_acc=0.0, acc_variant="features")

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of notebook 02 that are not its defaults."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        usual = {f.name: f.default for f in fields(self)[2:]}
        return {name: x for name, x in given.items() if name not in usual or x != usual[name]}


# By name, the models that this process has named or read.
_KNOWN: dict[str, Arm] = {}


def arm(model: str) -> Arm:
    """What a model is; one that has no record and was never named is a generator as it is."""
    if model not in _KNOWN:
        for path in sorted(runs.runs_root().glob(f"*/{model}/{TRAINING}/run.json")):
            if settings := runs.read_json(path)["params"].get("arm"):
                _KNOWN[model] = Arm(**settings)
    return _KNOWN.get(model) or Arm(model)


def base_of(model: str) -> str:
    return arm(model).generator


def control_of(model: str) -> str:
    return arm(model).control.name


def is_base(model: str) -> bool:
    """Whether a model is a generator as it was trained or published."""
    return arm(model).lambda_acc is None


def is_refined(model: str) -> bool:
    """Whether a model was trained with L_acc."""
    return arm(model).refined


def model_order(model: str) -> tuple:
    """Sorting key: MDM first, then the others by name; of each the generator, control, weights."""
    one = arm(model)
    weight = -1.0 if one.lambda_acc is None else one.lambda_acc
    return one.generator != BASE, one.generator, weight, one.seed, model


# ---------------------------------------------------------------- which there are
def finished_models(track: str, stage: str) -> list[str]:
    """Models that have finished a stage, in the order of `model_order`."""
    found = {p.parent.parent.name for p in (runs.runs_root() / track).glob(f"*/{stage}/run.json")}
    return sorted(found - {SHARED, COMPARE, REAL}, key=model_order)


def choose_models(track: Track, stage: str, wanted: Sequence[str] | None = None) -> list[str]:
    """Models that a notebook compares: those asked for, which must have finished `stage`, or all
    that have and stand side by side (`side_by_side`)."""
    found = finished_models(track.name, stage)
    absent = [model for model in wanted or [] if model not in found]
    if absent or not found:
        raise InputError(
            f"models: {', '.join(absent) or 'none'}",
            f"finished on track {track.name}: {', '.join(found) or 'none'}",
            f"models that have finished {stage}",
            f"Run notebooks/{stage}.ipynb for them first, or `make paper TRACK={track.name}`.",
        )
    return sorted(wanted, key=model_order) if wanted else side_by_side(found, track.study)


def grid(generators: Iterable[str], weights: Iterable[float], seeds: Sequence[int]) -> list[Arm]:
    """Of each generator, seed by seed, its control and a model with each weight of L_acc."""
    every = sorted({0.0, *weights})
    return [Arm(g, weight, seed=seed) for g in generators for weight in every for seed in seeds]


# ---------------------------------------------------------------- the study of a track
def repeated(study: StudySection | None) -> list[Arm]:
    """With every seed: the control, and the paper's loss with each weight."""
    return grid([BASE], study.weights, study.seeds) if study else []


def side_by_side(models: Sequence[str], study: StudySection | None) -> list[str]:
    """Of models those that notebooks 03 to 07 show: of a study each with one seed, the lowest."""
    if study is None:
        return list(models)
    first: dict[Arm, int] = {}
    for one in map(arm, models):
        plain = replace(one, seed=0)
        first[plain] = min(first.get(plain, one.seed), one.seed)
    return [model for model in models if first[replace(arm(model), seed=0)] == arm(model).seed]


def papers_refined(models: Sequence[str], study: StudySection | None = None) -> str:
    """The model that stands for the paper's refined MDM: the study's first weight and seed where it
    is among them, else the last of MDM's."""
    if study and (own := Arm(BASE, study.weights[0], seed=study.seeds[0]).name) in models:
        return own
    own = sorted((m for m in models if base_of(m) == BASE), key=model_order)
    return (own or list(models))[-1]


def varied(study: StudySection | None, models: Sequence[str]) -> list[tuple[str, str]]:
    """Models, and real recordings, whose recognition is done otherwise than in the paper, and the
    name of the stage.

    Of models with L_acc those with the study's first weight. Real recordings are taken as they are:
    what only virtual sensors can have is not theirs.
    """
    if study is None:
        return []
    kept = [m for m in models if arm(m).lambda_acc in (None, 0.0, study.weights[0])]
    pairs = [(m, slug) for m in kept for slug in study.variants]
    pairs += [(REAL, slug) for slug in study.variants if not _OF_VIRTUAL.search(slug)]
    return [(model, stage_name(RECOGNITION, slug)) for model, slug in pairs]


def classifier_seeds(track: Track, model: str, variant: str = "") -> list[int]:
    """Seeds of the classifiers that are trained on a model's windows: the track's, or some of them
    for a model that the study repeats, and for recognition as of a `variant`."""
    one, study = arm(model), track.study
    if study is None:
        return track.har.seeds
    again = one.lambda_acc is not None and one.seed != study.seeds[0]
    count = study.classifiers if again else len(track.har.seeds)
    if variant:
        count = min(count, study.variant_classifiers)
    return track.har.seeds[:count]
