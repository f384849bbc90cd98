"""What has been finished of a grid of weights and seeds, in one table (notebook 08)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from t2imu_utils import data, runs
from t2imu_utils.activities import HIGH_DYNAMIC
from t2imu_utils.arm_names import is_base, parse
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.lacc import MODEL
from t2imu_utils.study_arms import side_by_side
from t2imu_utils.tracks import StudySection, Track

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
KEYS = ["generator", "lambda_acc", "seed"]


def finished_cells(track: Track) -> pd.DataFrame:
    """A row for each model that has been trained: its place in the grid, and its numbers.

    Returns:
        Columns ``model``, ``generator``, ``lambda_acc`` (NaN for a generator as it is, 0 for its
        control), ``seed``, ``options`` and those of `MEASURES`; NaN where a stage has not been run.

    Raises:
        InputError: a finished stage lacks a number that it writes.
    """
    names = {name: parse(name) for name in runs.finished_models(track.name, "02_finetuning")}
    category = data.load_categories(track)
    compared = {stage: _metrics(track, runs.COMPARE, stage) for stage, *_ in COMPARED.values()}
    rows = []
    for model, name in names.items():
        if name is None:
            continue
        place = {"model": model, "generator": name.generator, "lambda_acc": name.weight}
        place |= {"seed": name.seed, "options": name.options}
        numbers = _validation(track, model) | _losses(track, model, category)
        numbers |= _compared(compared, model) | _recognition(track, model)
        rows.append(place | numbers)
    columns = ["model", *KEYS, "options", *MEASURES]
    table = pd.DataFrame(rows).reindex(columns=columns)
    return table.astype({"lambda_acc": float, **dict.fromkeys(MEASURES, float)})


def _metrics(track: Track, model: str, stage: str) -> dict[str, Any] | None:
    """What a stage measured; None where it has not been run."""
    record = runs.read_run(_folder(track, model, stage))
    return record["metrics"] if record else None


def _folder(track: Track, model: str, stage: str) -> Path:
    """Where a stage of a model is or would be."""
    return runs.runs_root() / track.name / model / stage


def _at(metrics: Mapping[str, Any], where: str, *keys: str) -> Any:
    """What stands under nested keys of the metrics of a finished run."""
    for at, key in enumerate(keys):
        if key not in metrics:
            raise InputError(
                f"run.json of {where}: metrics: {'.'.join(keys[: at + 1])}", "nothing",
                f"one of {', '.join(metrics) or 'none'}",
                "Run this stage again; if that changes nothing, it writes under another name than "
                "evaluation/sweep.py reads.",
            )  # fmt: skip
        metrics = metrics[key]
    return metrics


def _validation(track: Track, model: str) -> dict[str, float]:
    stage = "02_finetuning"
    metrics, where = _metrics(track, model, stage), f"{model}/{stage}"
    found = _at(metrics, where, "validation") if metrics is not None else {}
    # Of a generator that is trained in stages: those of its tokeniser.
    found = found.get("rvq", found)
    if not found:  # motions that were made elsewhere have no losses
        return {}
    return {f"validation_{term}": _at(found, where, term) for term in ("acc", "simple")}


def _losses(track: Track, model: str, category: Mapping[str, str]) -> dict[str, float]:
    stage = "05_lacc_analysis"
    record = runs.read_run(_folder(track, model, stage))
    if record is None or not record["outputs"]:  # as above
        return {}
    table = pd.read_parquet(runs.finished_dir(track.name, model, stage) / "losses.parquet")
    clips = table[table["estimate"] == MODEL].groupby("clip")["acc"].mean()
    high = clips.index.map(category).isin(HIGH_DYNAMIC)
    parts = {"acc": clips, "acc_high": clips[high], "acc_low": clips[~high]}
    return {name: part.mean() for name, part in parts.items() if len(part)}


# Where the notebooks that compare models write a number: stage, what is held by model, and the keys
# below it. A model that was made after the comparison is not in it.
COMPARED = {
    "sampled_acceleration": ("05_lacc_analysis", "sampled", ["mean_abs_acceleration"]),
    "energy_distance": ("06_tsne", "similarity", ["all", "distance", "value"]),
}


def _compared(compared: Mapping[str, Any], model: str) -> dict[str, float]:
    found = {}
    for name, (stage, table, keys) in COMPARED.items():
        if compared[stage] is None:
            continue
        where = f"{runs.COMPARE}/{stage}"
        models = _at(compared[stage], where, table)
        if model in models:
            found[name] = _at(models[model], f"{where}, {model}", *keys)
    return found


def _recognition(track: Track, model: str) -> dict[str, float]:
    metrics = _metrics(track, model, "07_har")
    if metrics is None:
        return {}
    return {"balanced_accuracy": 100 * _at(metrics, f"{model}/07_har", "balanced_accuracy", "mean")}


def lacking(table: pd.DataFrame, study: StudySection | None = None) -> list[str]:
    """What the grid has not: cells of the full grid that were not trained, then missing numbers.

    The full grid of a generator is every weight with every seed that any of its arms has. Numbers
    of the notebooks that compare one seed of each arm are not missing for the others.
    """
    arms = table[table["lambda_acc"].notna() & (table["options"] == "")]
    lines = []
    for generator, part in arms.groupby("generator", sort=False):
        there = set(zip(part["lambda_acc"], part["seed"], strict=True))
        for weight in sorted(part["lambda_acc"].unique()):
            for seed in sorted(part["seed"].unique()):
                if (weight, seed) not in there:
                    lines.append(f"{generator}, λ = {weight:g}, seed {seed}: not trained")
    shown = set(side_by_side(list(table["model"]), study))
    for row in table.to_dict("records"):
        wanted = [name for name in MEASURES if row["model"] in shown or name not in COMPARED]
        empty = [MEASURES[name] for name in wanted if pd.isna(row[name])]
        if empty:
            lines.append(f"{row['model']}: no {', no '.join(empty)}")
    return lines


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation and number of seeds of every measure, for each weight."""
    arms = table[table["lambda_acc"].notna() & (table["options"] == "")]
    grouped = arms.groupby(["generator", "lambda_acc"], sort=False)[list(MEASURES)]
    return grouped.agg(["mean", "std", "count"])


def best_weight(table: pd.DataFrame, generator: str, by: str = "validation_acc") -> float:
    """The weight above 0 whose mean over seeds on the validation subjects is lowest.

    Raises:
        InputError: `by` is no measure of validation subjects, or there is no refined arm.
    """
    if by not in CHOOSABLE:
        raise InputError(
            "by", repr(by), f"one of {', '.join(CHOOSABLE)}",
            "A weight is never chosen on what is reported.",
        )  # fmt: skip
    arms = table[(table["generator"] == generator) & (table["lambda_acc"] > 0)]
    means = arms[arms["options"] == ""].groupby("lambda_acc")[by].mean().dropna()
    if means.empty:
        raise InputError(
            f"generator {generator}", "no refined arm", "arms with a weight above 0",
            "Train some: `make sweep LAMBDA_ACC=\"0.1 1\"`.",
        )  # fmt: skip
    return float(means.idxmin())


def in_words(table: pd.DataFrame, generator: str) -> str:
    """A plain sentence for each measure: what happens from the control to the largest weight."""
    means = summary(table).loc[generator]
    if len(means) < 2:
        return f"{generator}: one weight alone says nothing about λ."
    first, last = means.index.min(), means.index.max()
    lines = []
    for name, text in MEASURES.items():
        start, end = means.loc[first, (name, "mean")], means.loc[last, (name, "mean")]
        if np.isnan(start) or np.isnan(end):
            continue
        spread = np.nanmax([means.loc[at, (name, "std")] for at in (first, last)] + [0.0])
        count = int(min(means.loc[at, (name, "count")] for at in (first, last)))
        change = end - start
        if count < 2:
            verdict = "one seed: its spread is not known"
        elif abs(change) > 2 * spread:
            verdict = "more than twice the spread over seeds"
        else:
            verdict = "within twice the spread over seeds"
        steps = f"{start:.3g} at λ = {first:g}, {end:.3g} at λ = {last:g}"
        lines.append(f"{text}: {steps} ({change:+.2g}; {verdict})")
    return "\n".join(lines)


def complete(table: pd.DataFrame) -> Sequence[str]:
    """Generators that have a refined arm."""
    arms = table[table["lambda_acc"] > 0]
    return [name for name in dict.fromkeys(table["generator"]) if name in set(arms["generator"])]


def bases(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of generators as they are, by generator."""
    return table[table["model"].map(is_base)].set_index("generator")
