"""Run folders: what counts as finished, and what its record says."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from t2imu_utils import runs
from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256


def finished(content=b"weights", model="mdm"):
    run = runs.open_run("demo", model, "02_finetuning", {"lambda_acc": 0.1}, {"corpus": "1" * 64})
    run.path("weights.bin").write_bytes(content)
    return run.finish({"loss": 1.0}, [run.path("weights.bin")])


def test_a_finished_run_is_read_back(runs_folder):
    run = finished()
    again = runs.load_run("demo", "mdm", "02_finetuning")
    assert (again.dir, again.params, again.inputs) == (run.dir, run.params, run.inputs)
    assert again.metrics == {"loss": 1.0} and runs.finished_dir(*run.dir.parts[-3:]) == run.dir


def test_what_is_begun_again_counts_no_longer(runs_folder):
    run = finished()
    runs.open_run("demo", "mdm", "02_finetuning", {}, {})
    assert not run.path("run.json").exists() and run.path("weights.bin").exists()
    assert runs.finished_models("demo", "02_finetuning") == []


def test_an_input_is_named_by_what_its_stage_wrote(runs_folder):
    names = {runs.input_hash(*finished(content).dir.parts[-3:]) for content in (b"a", b"b", b"a")}
    assert len(names) == 2


def test_a_variant_of_a_stage_has_a_folder_and_a_record_of_its_own(runs_folder):
    name = runs.stage_name("07_har", "gravity-keep0.5")
    assert runs.plain_stage(name) == "07_har" == runs.stage_name("07_har")
    runs.open_run("demo", "mdm", name, {"axes": "gravity"}, {}).finish({"acc": 0.5}, [])
    assert (runs_folder / "demo" / "mdm" / "07_har-gravity-keep0.5" / "run.json").exists()
    assert runs.require_run("demo", "mdm", name)["stage"] == name
    assert runs.finished_models("demo", name) == ["mdm"]
    assert runs.finished_models("demo", "07_har") == []
    with pytest.raises(InputError, match=r"notebooks/07_har\.ipynb"):
        runs.require_run("demo", "mdm", "07_har-phone")


@pytest.mark.parametrize(
    "stage",
    [
        "07_har-",
        "07_har-gravity-",
        "07_har-../mdm",
        "07_har-Gravity",
        "07_har gravity",
        "7-gravity",
    ],
)
def test_no_other_name_is_a_stage(runs_folder, stage):
    with pytest.raises(InputError, match="stage: found"):
        runs.run_dir("demo", "mdm", stage)
    assert not (runs_folder / "demo").exists()


def test_record_says_what_made_it(runs_folder):
    record = json.loads(finished().path("run.json").read_text())
    assert (record["track"], record["model"], record["stage"]) == ("demo", "mdm", "02_finetuning")
    assert record["outputs"] == {"weights.bin": sha256(b"weights")}
    assert {"versions", "git", "device", "threads", "wall_seconds"} <= set(record)


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_at_the_end_of_a_run_leaves_the_earlier_record(runs_folder, monkeypatch):
    run = finished()
    before = run.path("run.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", no_space)
        with pytest.raises(InputError, match=r"run\.json: found no space left on device"):
            run.finish({"acc": 0.5}, [run.path("weights.bin")])
    assert run.path("run.json").read_bytes() == before


def test_models_are_found_in_the_order_of_the_paper(runs_folder):
    for model in ("mdm-acc10", "mdm-acc0.3-s1", "mdm-acc0.3", "mdm-ft", "mdm", "momask"):
        runs.open_run("demo", model, "02_finetuning", {}, {}).finish({}, [])
    expected = ["mdm", "mdm-ft", "mdm-acc0.3", "mdm-acc0.3-s1", "mdm-acc10", "momask"]
    assert runs.choose_models("demo", "02_finetuning", None) == expected
    with pytest.raises(InputError, match="mdm-acc7"):
        runs.choose_models("demo", "02_finetuning", ["mdm-acc7"])


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="run.json"):
        runs.read_run(tmp_path)


def test_what_a_stage_left_is_listed_with_sizes(runs_folder):
    for model, size in (("mdm", 1_250_000), ("mdm-ft", 2_500_000)):
        run = runs.open_run("demo", model, "04_imu_synthesis", {}, {})
        (run.path("corpus") / "deep").mkdir(parents=True)
        run.path("imu.npz").write_bytes(bytes(size))
        # A folder counts with all that is in it.
        (run.path("corpus") / "a.npy").write_bytes(bytes(400_000))
        (run.path("corpus") / "deep" / "b.npy").write_bytes(bytes(300_000))
        run.path("scratch.pt").write_bytes(bytes(10))
        run.finish({}, [run.path("imu.npz"), run.path("corpus")])
    table = runs.written("demo", ["mdm-ft", "mdm"], "04_imu_synthesis")
    assert dict(zip(table["file"], table["MB"], strict=True)) == {
        "demo/mdm-ft/04_imu_synthesis/imu.npz": 2.5,
        "demo/mdm-ft/04_imu_synthesis/corpus": 0.7,
        "demo/mdm/04_imu_synthesis/imu.npz": 1.25,
        "demo/mdm/04_imu_synthesis/corpus": 0.7,
    }
    own = table[table["file"].str.startswith("demo/mdm/")].reset_index(drop=True)
    assert run.written()["file"].str.startswith("demo/mdm-ft/").all()
    assert runs.load_run("demo", "mdm", "04_imu_synthesis").written().equals(own)
    with pytest.raises(InputError, match="finished stage 04_imu_synthesis of mdm-acc1"):
        runs.written("demo", ["mdm", "mdm-acc1"], "04_imu_synthesis")


def test_metrics_that_are_no_number_can_be_read_again(runs_folder):
    run = runs.open_run("demo", "mdm", "02_finetuning", {}, {})
    run.finish({"loss": np.float32("nan"), "clips": np.int64(5)}, [])
    found = runs.load_run("demo", "mdm", "02_finetuning")
    assert found.metrics == {"loss": None, "clips": 5}


def test_a_cache_lies_below_the_runs_and_is_not_made_by_asking(runs_folder):
    assert runs.cache_dir("text") == runs_folder / ".cache" / "text"
    assert runs.cache_dir("text") != runs.cache_dir("other")
    assert not runs_folder.exists()
