"""The last table: what the paper reports, what was reproduced, and what differs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from t2imu_utils.analysis.stats import summary_of
from t2imu_utils.arms import BASE, model_order
from t2imu_utils.files import read_json
from t2imu_utils.style import label
from t2imu_utils.tracks import PAPER_VALUES, SHIPPED, Track

OTHERS = ("remodiffuse", "momask")
NOT_RUN = "not run"
KEPT = ("params", "metrics", "git", "versions", "device", "wall_seconds", "finished")


def measured_values(
    lacc: Mapping[str, float],
    accuracy: Mapping[str, Sequence[float]],
    refined: str,
) -> dict[str, list[float]]:
    """What this run has for each quantity of the paper, by its id; percentages as the paper's.

    Args:
        lacc: mean L_acc by model.
        accuracy: balanced accuracies (0..1) by model, one for each seed.
        refined: the model that stands for the paper's refined one.
    """
    found: dict[str, list[float]] = {}
    if BASE in lacc and refined in lacc:
        found["lacc_mdm"], found["lacc_refined"] = [lacc[BASE]], [lacc[refined]]
        found["lacc_change"] = [100 * (lacc[refined] / lacc[BASE] - 1)]
    mean = {model: float(np.mean(values)) for model, values in accuracy.items()}
    for model in (BASE, *OTHERS):
        if model in accuracy:
            found[f"har_{model}"] = [100 * v for v in accuracy[model]]
    if refined in accuracy:
        found["har_refined"] = [100 * v for v in accuracy[refined]]
        if BASE in mean:
            found["gain_mdm"] = [100 * (mean[refined] / mean[BASE] - 1)]
        # "The best other model" is among those of other people, as in the paper.
        if any(model in mean for model in OTHERS):
            best = max(mean[model] for model in OTHERS if model in mean)
            found["gain_best"] = [100 * (mean[refined] / best - 1)]
    return found


def what_differs(track: Track, refined: str) -> dict[str, str]:
    """In a sentence for each kind of quantity: how this run differs from the paper's.

    refined: the model that stands for the paper's refined one.
    """
    base, training, har, real = (
        track.generators[BASE], track.training, track.har, track.recordings
    )  # fmt: skip
    splits = ", ".join(track.corpus.test)
    differences = [f"held-out clips ({splits}) instead of the training clips of HumanML3D"]
    if base.checkpoint == SHIPPED:
        differences.append(
            f"the project's own small prior + {training.finetune_steps} steps instead of the "
            "official checkpoint"
        )
    if base.checkpoint is None:
        sizes = base.model_extra or {}
        differences.append(
            f"{sizes.get('layers')} layers of width {sizes.get('width')}, trained here for "
            f"{training.pretrain_steps} + {training.finetune_steps} steps instead of the official "
            f"checkpoint"
        )
    differences.append("L_acc of z-scored features, its scale is not stated in the paper")
    differences.append(f"refined: {label(refined)}, where the paper states no λ")
    lacc = f"{track.title}: {'; '.join(differences)}"
    theirs = real.reader == "realworld" and not track.synthetic
    data = "" if theirs else ", instead of RealWorld's 8 classes"
    seeds = f"{len(har.seeds)} seeds" + ("" if len(har.seeds) == 10 else " instead of 10")
    recognition = (
        f"{track.title}: {len(real.classes)} classes, {'+'.join(real.channels)} at "
        f"{len(real.sites)} sites{data}; DeepConvLSTM with "
        f"{har.filters} filters, {har.units} units, {har.epochs} epochs; {seeds}"
    )
    return {"lacc": lacc, "har": recognition, "gain": "ratio of the mean accuracies above"}


def comparison_table(
    measured: Mapping[str, Sequence[float]], differs: Mapping[str, str]
) -> pd.DataFrame:
    """One row for each quantity of the paper: *paper | reproduced mean ± sd (n) | what differs*.

    Args:
        measured: `measured_values`; a quantity that is missing is shown as not run.
        differs: text by id or by the part of the id before its underscore (`what_differs`).
    """
    rows = []
    for row in read_json(PAPER_VALUES)["quantities"]:
        values = measured.get(row["id"])
        difference = differs.get(row["id"], differs.get(row["id"].split("_")[0], ""))
        rows.append(
            {
                "quantity": row["label"],
                "paper": _number(row["value"], row),
                "reproduced": _reproduced(values, row) if values else NOT_RUN,
                "what differs": difference if values else "",
            }
        )
    return pd.DataFrame(rows)


def _number(value: float, row: Mapping[str, Any]) -> str:
    unit = f" {row['unit']}" if row["unit"] else ""
    return f"{value:.{row['digits']}f}{unit}"


def _reproduced(values: Sequence[float], row: Mapping[str, Any]) -> str:
    found, digits = summary_of(values), row["digits"]
    if found["sd"] is None:
        return f"{_number(found['mean'], row)} (n = 1)"
    unit = f" {row['unit']}" if row["unit"] else ""
    return f"{found['mean']:.{digits}f} ± {found['sd']:.{digits}f}{unit} (n = {found['n']})"


def collect_results(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge `run.json` records of one track into what `results.json` holds.

    Returns:
        ``track`` and ``models``: by model and stage the parameters, metrics and provenance.
    """
    models: dict[str, dict[str, Any]] = {}
    for record in sorted(records, key=lambda r: (model_order(r["model"]), r["stage"])):
        stages = models.setdefault(record["model"], {})
        stages[record["stage"]] = {name: record[name] for name in KEPT}
    return {"track": records[0]["track"], "models": models}
