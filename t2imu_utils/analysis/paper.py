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
    """How this run differs from the paper's, for each kind of quantity.

    refined: the model that stands for the paper's refined one.
    """
    base, har, real = track.generators[BASE], track.har, track.recordings
    lacc = [f"held-out clips ({', '.join(track.corpus.test)}) instead of the training clips"]
    if base.checkpoint in (SHIPPED, None):
        lacc.append("a prior of this project's own instead of the official checkpoint")
    lacc.append(f"L_acc of z-scored features; refined: {label(refined)}, where no λ is printed")
    recognition = [f"{len(real.classes)} classes, {'+'.join(real.channels)} at {len(real.sites)} "
                   f"sites of {real.reader}", f"{len(har.seeds)} seeds (10 in the paper)",
                   f"{har.filters} filters, {har.units} units, {har.epochs} epochs"]  # fmt: skip
    return {
        "lacc": f"{track.title}: {'; '.join(lacc)}",
        "har": f"{track.title}: {'; '.join(recognition)}",
        "gain": "ratio of the mean accuracies above",
    }


def comparison_table(
    measured: Mapping[str, Sequence[float]], differs: Mapping[str, str]
) -> pd.DataFrame:
    """One row for each quantity of the paper: *paper | reproduced mean ± sd (n) | what differs*.

    Args:
        measured: `measured_values`; a quantity that is missing is shown as not run.
        differs: text by the part of the id before its underscore (`what_differs`).
    """
    rows = []
    for row in read_json(PAPER_VALUES)["quantities"]:
        values, unit = measured.get(row["id"]), f" {row['unit']}".rstrip()
        text, difference = NOT_RUN, ""
        if values:
            found, number = summary_of(values), f"{{:.{row['digits']}f}}".format
            spread = "" if found["sd"] is None else f" ± {number(found['sd'])}"
            text = f"{number(found['mean'])}{spread}{unit} (n = {found['n']})"
            difference = differs.get(row["id"].split("_")[0], "")
        printed = f"{row['value']:.{row['digits']}f}{unit}"
        rows.append((row["label"], printed, text, difference))
    return pd.DataFrame(rows, columns=["quantity", "paper", "reproduced", "what differs"])


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
