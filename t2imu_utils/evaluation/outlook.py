"""The paper's outlook as a table: each row changes one thing, and what recognition makes of it.

All is read from finished runs (`cells.recognition.recognise`); nothing is trained here.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from t2imu_utils import runs
from t2imu_utils.analysis.har import RecognitionVariant, parse_variant
from t2imu_utils.arm_names import BASE, model_name
from t2imu_utils.errors import InputError
from t2imu_utils.study_arms import model_of, refined
from t2imu_utils.tracks import Reading, StudySection, Track

RECALL, WINDOWS = "recall", "windows"  # first words of the columns of classes
SCORES = ["mean", "sd", "n", "chance", "difference", "difference sd", "pairs"]


class Change(NamedTuple):
    """A row: what it is called, and the model and the variant of recognition that it is of."""

    label: str
    model: str
    variant: RecognitionVariant = RecognitionVariant()


def outlook_table(track: Track, changes: Sequence[Change]) -> pd.DataFrame:
    """What each change makes of recognition; the first row is what the others are held against.

    The difference to the first row is that of equal seeds of the classifier, which begin with the
    same weights and so scatter together. A row with other classes has none: to tell four classes
    apart is another task than to tell five, as the column ``chance`` says.

    Returns:
        A row a change (index: its label): ``model``, ``variant`` (its name, "" of the default),
        balanced accuracy over seeds as ``mean``, ``sd`` and ``n``; ``chance``; ``difference`` with
        ``difference sd`` over its ``pairs`` of seeds; "recall <class>", a mean over seeds; "windows
        <class>", how many there are to train on. Accuracies and recalls are shares (0..1), NaN
        where there is nothing to say.

    Raises:
        InputError: no change, a label twice, or a run that is not finished.
    """
    metrics = _metrics(track, changes)
    accuracy = {label: _by_seed(found) for label, found in metrics.items()}
    first, classes = changes[0].label, track.recordings.classes
    rows = {}
    for label, model, variant in changes:
        own, found = variant.of(model), metrics[label]
        told_apart = own.classes(classes)
        pairs = pd.Series(dtype=float)
        if label != first and set(found[RECALL]) == set(metrics[first][RECALL]):
            pairs = (accuracy[label] - accuracy[first]).dropna()
        values = accuracy[label]
        scores = (values.mean(), values.std(), len(values), 1 / len(told_apart))
        scores += (pairs.mean(), pairs.std(), len(pairs))
        rows[label] = {"model": model, "variant": own.slug}
        rows[label] |= dict(zip(SCORES, scores, strict=True))
        for what in (RECALL, WINDOWS):
            known = found.get(what, {})  # runs of earlier versions say nothing of windows
            rows[label] |= {f"{what} {name}": known.get(name, np.nan) for name in classes}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("change")
    return table.astype({"n": int, "pairs": int})


def outlook_seeds(track: Track, changes: Sequence[Change]) -> pd.DataFrame:
    """Every training behind `outlook_table`: ``change``, ``model``, ``seed``, ``accuracy``."""
    parts = [
        _by_seed(found).rename("accuracy").reset_index().assign(change=label)
        for label, found in _metrics(track, changes).items()
    ]
    models = {label: model for label, model, _ in changes}
    table = pd.concat(parts, ignore_index=True)
    return table.assign(model=table["change"].map(models))[["change", "model", "seed", "accuracy"]]


def _metrics(track: Track, changes: Sequence[Change]) -> dict[str, dict[str, Any]]:
    labels = [change.label for change in changes]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice or not labels:
        raise InputError(
            "outlook: labels", f"{', '.join(twice)} twice" if twice else "none",
            "one of its own for each change", "Rename them.",
        )  # fmt: skip
    return {
        label: runs.require_run(track.name, model, variant.of(model).stage)["metrics"]
        for label, model, variant in changes
    }


def _by_seed(found: dict[str, Any]) -> pd.Series:
    values = found["balanced_accuracy"]["values"]
    return pd.Series(values, pd.Index(found["seeds"], name="seed"), dtype=float)


def study_changes(study: StudySection) -> list[Change]:
    """The rows of a track's study: the paper's setting, then one change of it a row."""
    first, seed = refined(study), study.seeds[0]
    rows = [Change(f"L_acc, λ = {study.weights[0]:g}, all as in the paper", first)]
    rows += [Change("no L_acc, trained on for as long", model_of(None, seed)[0])]
    rows += [Change("no L_acc, not trained on", BASE)]
    rows += [Change(f"λ = {w:g}", model_name(w, seed=seed)) for w in study.weights[1:]]
    for reading in [*study.combinations, *([study.chosen] if study.chosen else [])]:
        rows.append(Change(in_words(reading), model_of(reading, seed)[0]))
    for slug in (*study.variants, *study.refined_variants):
        rows.append(Change(slug.replace("_", " "), first, parse_variant(slug)))
    return rows


def weight_changes(study: StudySection, slug: str) -> list[Change]:
    """With recognition done in another way: the control, then each weight of L_acc."""
    seed, variant = study.seeds[0], parse_variant(slug)
    rows = [Change("control", model_of(None, seed)[0], variant)]
    return rows + [Change(f"λ = {w:g}", model_name(w, seed=seed), variant) for w in study.weights]


def in_words(reading: Reading) -> str:
    """What a reading of L_acc has of its own, such as "λ = 0.1, λ_vel = 0.2"."""
    told = reading.model_dump(exclude_defaults=True)
    weights = [
        f"λ{name.removeprefix('lambda').replace('_acc', '')} = {value:g}"
        for name, value in told.items()
        if name.startswith("lambda")
    ]
    words = [told[name] for name in ("acc_space", "acc_target", "acc_levels") if name in told]
    words += ["no contacts"] * (not reading.acc_contacts)
    return ", ".join(weights + words)


def finished(track: Track, changes: Sequence[Change]) -> list[Change]:
    """Those whose runs are there."""
    return [
        change
        for change in changes
        if change.model in runs.finished_models(track.name, change.variant.of(change.model).stage)
    ]
