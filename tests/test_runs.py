"""Run folders: what counts as finished, what its record says, and what two runs differ in."""

import json

import pandas as pd
import pytest

from t2imu_utils import runs
from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256

STAGE = "02_finetuning"


def finished(content=b"weights", model="mdm", metrics=None, **params):
    with runs.record("demo", model, STAGE, params, {"corpus": "1" * 64}) as run:
        run.path("weights.bin").write_bytes(content)
        run.outputs.append(run.path("weights.bin"))
        run.metrics = metrics or {"loss": 1.0}
    return run


def test_a_finished_run_is_read_back(runs_folder):
    run = finished(lambda_acc=0.1)
    again = runs.load_run("demo", "mdm", STAGE)
    assert (again.dir, again.params, again.inputs) == (run.dir, run.params, run.inputs)
    assert again.metrics == {"loss": 1.0}
    record = json.loads(run.path("run.json").read_text())
    assert (record["track"], record["model"], record["stage"]) == ("demo", "mdm", STAGE)
    assert record["outputs"] == {"weights.bin": sha256(b"weights")}
    assert {"versions", "git", "device", "threads", "wall_seconds"} <= set(record)


def test_a_recorded_stage_has_its_outputs_and_inputs(runs_folder):
    finished()
    reads = {"prior": ("mdm", STAGE), "text": "2" * 64}
    with runs.record("demo", "mdm", "03_smpl_fitting", {"s": 2.5}, reads) as run:
        run.save("table", pd.DataFrame({"a": [1]}))
        run.metrics["motions"] = 1
    found = runs.load_run("demo", "mdm", "03_smpl_fitting")
    assert found.inputs == {"prior": runs.input_hash("demo", "mdm", STAGE), "text": "2" * 64}
    assert run.written()["file"].tolist() == ["demo/mdm/03_smpl_fitting/table.parquet"]
    with pytest.raises(ZeroDivisionError):
        with runs.record("demo", "mdm", "03_smpl_fitting", {}, {}) as again:
            _ = 1 / 0
    assert again.before == {"motions": 1} and not again.path("run.json").exists()
    assert again.path("table.parquet").exists()


def test_records_are_found_by_name_or_hash(runs_folder):
    for model in ("mdm-ft", "mdm", "momask"):
        finished(model.encode(), model)
    (runs_folder / "demo" / "mdm" / "03_smpl_fitting").mkdir()
    (runs_folder / "demo" / "mdm" / "03_smpl_fitting" / "run.json").write_text("{")
    records, damaged = runs.load_records()
    assert [r["model"] for r in records] == ["mdm", "mdm-ft", "momask"] and len(damaged) == 1
    assert runs.load_records("other") == ([], []) and not runs.load_records(stage="07")[0]
    for text in ("mdm/02", "demo/mdm/02_finetuning", records[0]["hash"][:9]):
        assert runs.find_record(text, records)["model"] == "mdm"
    for text in ("demo", "nothing"):
        with pytest.raises(InputError, match="Give more of its name"):
            runs.find_record(text, records)


def test_two_runs_differ_in_what_was_changed(runs_folder):
    finished(lambda_acc=0.1, metrics={"acc": {"mean": 0.5}})
    finished(b"other", "mdm-ft", lambda_acc=0, metrics={"acc": {"mean": 0.75}})
    first, second = runs.load_records()[0]
    table = runs.differences(first, second)
    assert table.index.tolist() == ["params.lambda_acc", "outputs.weights.bin", "metrics.acc.mean"]
    assert table.loc["metrics.acc.mean", "b - a"] == 0.25
    assert len(runs.differences(first, second, everything=True)) > len(table)
