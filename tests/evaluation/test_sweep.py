"""Every number of the table of the grid is read from where stages write it."""

import json

import numpy as np
import pandas as pd
import pytest

from t2imu_utils import data, runs
from t2imu_utils.arms import Study
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation import har_runs, lacc_tables, similarity_runs, sweep
from t2imu_utils.files import write_json, write_table
from t2imu_utils.tracks import load_track

CATEGORY = pd.Series({"a": "walking", "b": "jumping", "c": "sitting"})


def finish(track, model, stage, metrics, outputs=()):
    return runs.open_run(track.name, model, stage, {}, {}).finish(metrics, outputs)


def losses(scale):
    """acc of clips a, b, c: 1, 2 and 6 times the scale; of a filter much more."""
    acc = scale * np.array([1.0, 2.0, 6.0, 99.0])
    estimate = ["model"] * 3 + ["gaussian"]
    table = pd.DataFrame({"clip": ["a", "b", "c", "c"], "estimate": estimate, "acc": acc})
    return table.assign(simple=acc, acc_joints=acc)


def compared(models):
    """What notebooks 05 and 06 keep of models, by the functions that they call."""
    table = pd.DataFrame({"model": models, "category": "all", "n": 3})
    table["mean_abs_acceleration"] = [3.5 + at for at in range(len(models))]
    numbers = [
        {"model": m, "classes": classes, "measure": measure, "value": value, "low": 0, "high": 1}
        for at, m in enumerate(models)
        for classes, measure, value in (
            ("all", "distance", 0.6 + at), ("all", "mixing", 77), ("dynamic", "distance", 88),
        )
    ]  # fmt: skip
    own = {m: losses(1.0).assign(estimate="model") for m in models}
    frame = pd.DataFrame({m: x[lacc_tables.READINGS].mean() for m, x in own.items()}).T
    return (
        lacc_tables.as_metrics(frame, {}, {}, table),
        {"similarity": similarity_runs.as_metrics(pd.DataFrame(numbers)), "spectra": {}},
    )


@pytest.fixture
def grid(tiny, runs_folder, monkeypatch):
    """A base with all stages, its control with its training alone, motions from elsewhere."""
    monkeypatch.setattr(data, "load_categories", lambda track: CATEGORY)
    for model, level in (("mdm", 1.0), ("mdm-ft-s1", 2.0)):
        validation = {"acc": level, "simple": 10 * level}
        finish(tiny, model, "02_finetuning", {"validation": validation})
    staged = {"rvq": {"acc": 4.0, "simple": 5.0}, "transformer": {"accuracy": 6.0}}
    finish(tiny, "momask", "02_finetuning", {"validation": staged})
    finish(tiny, "elsewhere", "02_finetuning", {"validation": {}})
    finish(tiny, "elsewhere", "05_lacc_analysis", {})
    run = runs.open_run(tiny.name, "mdm", "05_lacc_analysis", {}, {})
    run.finish({"acc": 3.0}, [write_table(run.path("losses.parquet"), losses(0.5))])
    for stage, metrics in zip(("05_lacc_analysis", "06_tsne"), compared(["mdm"]), strict=True):
        finish(tiny, runs.COMPARE, stage, metrics)
    counts = pd.DataFrame(
        [(seed, "p", truth, found, n) for seed in (0, 1) for truth, found, n in
         (("walking", "walking", 3), ("walking", "running", 1), ("running", "running", 4))],
        columns=[*har_runs.COLUMNS, "windows"],
    )  # fmt: skip
    finish(tiny, "mdm", "07_har", har_runs.metrics(counts))
    return tiny


def test_every_measure_is_filled(grid):
    table = sweep.finished_cells(grid).set_index("model")
    expected = {
        "validation_acc": 1.0,
        "validation_simple": 10.0,
        "acc": 1.5,
        "acc_high": 1.0,
        "acc_low": 1.75,
        "sampled_acceleration": 3.5,
        "energy_distance": 0.6,
        "balanced_accuracy": 87.5,
    }
    assert list(expected) == list(sweep.MEASURES)
    assert table.loc["mdm", list(expected)].to_dict() == pytest.approx(expected)


def test_what_a_training_writes_is_read(tiny, words, clips, runs_folder, monkeypatch):
    monkeypatch.setattr(data, "load_categories", lambda track: CATEGORY)
    study = Study(tiny, "mdm", clips[:3], clips[3:], {"corpus": "a" * 64})
    curves = pd.read_parquet(study.make_base(study.start()).path("history.parquet"))
    last = curves[curves["split"] == "validation"].iloc[-1]
    row = sweep.finished_cells(tiny).iloc[0]
    assert row["validation_acc"] == pytest.approx(last["acc"]) and last["acc"] > 0
    assert row["validation_simple"] == pytest.approx(last["simple"])


def test_what_was_not_run_is_empty(grid):
    table = sweep.finished_cells(grid).set_index("model")
    arm = table.loc["mdm-ft-s1"]
    assert arm[list(sweep.CHOOSABLE)].notna().all()
    assert arm[[m for m in sweep.MEASURES if m not in sweep.CHOOSABLE]].isna().all()
    assert (arm["lambda_acc"], arm["seed"]) == (0, 1) and np.isnan(table.loc["mdm", "lambda_acc"])
    assert table.loc["momask", list(sweep.CHOOSABLE)].tolist() == [4, 5]
    assert table.loc["elsewhere", list(sweep.MEASURES)].isna().all()


@pytest.mark.parametrize(
    ("run", "keys", "named"),
    [
        ("mdm/02_finetuning", ["validation"], "mdm/02_finetuning"),
        ("mdm/02_finetuning", ["validation", "simple"], "mdm/02_finetuning"),
        ("momask/02_finetuning", ["validation", "rvq", "acc"], "momask/02_finetuning"),
        ("compare/05_lacc_analysis", ["sampled"], "compare/05_lacc_analysis"),
        ("compare/05_lacc_analysis", ["sampled", "mdm", "mean_abs_acceleration"], "05.*, mdm"),
        ("compare/06_tsne", ["similarity"], "compare/06_tsne"),
        ("compare/06_tsne", ["similarity", "mdm", "all", "distance"], "06_tsne, mdm"),
        ("mdm/07_har", ["balanced_accuracy", "mean"], "mdm/07_har"),
    ],
)
def test_a_number_under_another_name_is_refused(grid, runs_folder, run, keys, named):
    path = runs_folder / grid.name / run / "run.json"
    record = json.loads(path.read_text())
    inner = record["metrics"]
    for key in keys[:-1]:
        inner = inner[key]
    inner[f"{keys[-1]}_renamed"] = inner.pop(keys[-1])
    write_json(path, record)
    with pytest.raises(InputError, match=f"{named}: metrics: {'.'.join(keys[-1:])}|{named}"):
        sweep.finished_cells(grid)


def test_a_model_made_after_the_comparison_has_no_number_of_it(grid):
    finish(grid, "mdm-acc1", "02_finetuning", {"validation": {"acc": 1.0, "simple": 2.0}})
    row = sweep.finished_cells(grid).set_index("model").loc["mdm-acc1"]
    assert row["validation_acc"] == 1 and np.isnan(row["sampled_acceleration"])


def cells(values):
    """Arms of one generator: (λ, seed) -> validation_acc; other measures are ten times that."""
    rows = [
        {"model": f"m{at}", "generator": "mdm", "lambda_acc": weight, "seed": seed, "options": ""}
        | {name: 10 * value for name in sweep.MEASURES} | {"validation_acc": value}
        for at, ((weight, seed), value) in enumerate(values.items())
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_holes_of_the_grid_are_told():
    table = cells({(0, 0): 1.0, (0, 1): 1.0, (0.1, 0): 0.9, (1, 1): 0.8})
    table.loc[0, "energy_distance"] = np.nan
    assert sweep.lacking(table) == [
        "mdm, λ = 0.1, seed 1: not trained",
        "mdm, λ = 1, seed 0: not trained",
        "m0: no energy distance to real signals",
    ]


def test_what_a_study_leaves_out_by_design_is_not_lacking():
    table = cells({(0, 0): 1.0, (0, 1): 1.0, (0.1, 0): 0.9, (0.1, 1): 0.9})
    table["model"] = ["mdm-ft", "mdm-ft-s1", "mdm-acc0.1", "mdm-acc0.1-s1"]
    # Only one seed of an arm stands in notebooks 05 and 06; L_acc is wanted of every seed.
    table.loc[[1, 2], "energy_distance"] = np.nan
    table.loc[3, "acc"] = np.nan
    assert sweep.lacking(table, load_track("cmu").study) == [
        "mdm-acc0.1: no energy distance to real signals",
        "mdm-acc0.1-s1: no L_acc, held-out clips",
    ]
    assert len(sweep.lacking(table)) == 3


def test_the_best_weight_is_chosen_on_validation_subjects():
    table = cells({(0, 0): 0.1, (0.1, 0): 0.9, (0.1, 1): 0.7, (1, 0): 0.75, (1, 1): 0.95})
    # λ = 0.1 has the lower mean, λ = 0 is no choice, and options stand apart.
    table = pd.concat([table, table.iloc[[1]].assign(options="joints", validation_acc=0.01)])
    assert sweep.best_weight(table, "mdm") == 0.1
    with pytest.raises(InputError, match="never chosen on what is reported"):
        sweep.best_weight(table, "mdm", "balanced_accuracy")
    with pytest.raises(InputError, match="no refined arm"):
        sweep.best_weight(table, "momask")


def test_words_weigh_the_step_against_the_spread():
    values = {(0, 0): 1.0, (0, 1): 1.1, (1, 0): 0.5, (1, 1): 0.6}
    text = sweep.in_words(cells(values), "mdm").splitlines()[0]
    assert text.startswith("L_acc, validation subjects: 1.05 at λ = 0, 0.55 at λ = 1")
    assert text.endswith("more than twice the spread over seeds)")
    near = sweep.in_words(cells({**values, (1, 0): 0.9, (1, 1): 1.1}), "mdm")
    assert "within twice the spread over seeds" in near
    assert "its spread is not known" in sweep.in_words(cells({(0, 0): 1.0, (1, 0): 0.5}), "mdm")
