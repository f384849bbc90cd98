"""Run folders: what counts as done, and what makes it count no longer."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy

from t2imu_utils import runs
from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256


def finished(lambda_acc=0.1, inputs=None):
    run = runs.open_run("demo", "mdm", "02_finetuning", {"lambda_acc": lambda_acc}, inputs or {})
    if not run.done:
        run.path("weights.bin").write_bytes(b"weights")
        run.finish({"loss": 1.0}, [run.path("weights.bin")])
    return run


def reopened(**changes):
    values = {"params": {"lambda_acc": 0.1}, "inputs": {}} | changes
    return runs.open_run("demo", "mdm", "02_finetuning", **values)


def test_done_only_with_the_same_ingredients(runs_folder):
    finished()
    assert reopened().done and reopened().metrics == {"loss": 1.0}
    assert not reopened(params={"lambda_acc": 0.3}).done


@pytest.mark.parametrize("change", [{"inputs": {"corpus": "other"}}, {"code": ["clips.py"]}])
def test_other_inputs_or_code_are_another_run(runs_folder, change):
    finished()
    assert not reopened(**change).done


def test_flipped_byte_in_an_output_is_seen(runs_folder):
    run = finished()
    run.path("weights.bin").write_bytes(b"weighty")
    assert not reopened().done


def write_table(path):
    pd.DataFrame({"acc": np.linspace(0, 1, 500)}).to_parquet(path)
    return path


def write_arrays(path):
    path.mkdir()
    for name in ("000001", "000002"):
        np.save(path / f"{name}.npy", np.zeros((20, 263), np.float32))
    return path / "000002.npy"


def write_weights(path):
    safetensors.numpy.save_file({"weights": np.zeros(1000, np.float32)}, path)
    return path


OUTPUTS = {
    "history.parquet": (write_table, pd.read_parquet),
    "new_joint_vecs": (write_arrays, np.load),
    "prior.safetensors": (write_weights, safetensors.numpy.load_file),
}


def written_run(name, model="mdm", stage="02_finetuning"):
    """A finished run with one output; the file in it that is to be damaged."""
    run = runs.open_run("demo", model, stage, {}, {})
    file = OUTPUTS[name][0](run.path(name))
    run.finish({"acc": 0.25}, [run.path(name)])
    return run, file


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_flipped_byte_in_an_earlier_stage_is_named(runs_folder, name):
    run, file = written_run(name)
    recorded = runs.require_run("demo", "mdm", "02_finetuning")["outputs"][name]
    before = runs.input_hash("demo", "mdm", "02_finetuning")
    assert runs.finished_dir("demo", "mdm", "02_finetuning") == run.dir
    flip(file)
    if name != "history.parquet":
        OUTPUTS[name][1](file)  # whoever reads it sees nothing
    with pytest.raises(InputError) as told:
        runs.input_hash("demo", "mdm", "02_finetuning")
    assert told.value.where == str(run.dir / name)
    assert told.value.found == f"sha256 {sha256(run.dir / name)[:12]}"
    assert told.value.expected == f"sha256 {recorded[:12]}, as run.json recorded"
    assert told.value.remedy.startswith(f"Delete {run.dir}, then run notebooks/02_finetuning.ipynb")
    flip(file)
    assert runs.input_hash("demo", "mdm", "02_finetuning") == before


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_cut_off_or_missing_output_is_named(runs_folder, name):
    run, file = written_run(name)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"{name}: found sha256"):
        runs.finished_dir("demo", "mdm", "02_finetuning")
    path = run.path(name)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=f"{name}: found nothing; expected sha256"):
        runs.finished_dir("demo", "mdm", "02_finetuning")


def test_the_remedy_for_a_damaged_output_makes_the_workflow_look_again(runs_folder):
    run, file = written_run("prior.safetensors", stage="03_smpl_fitting")
    flip(file)
    with pytest.raises(InputError) as told:
        runs.input_hash("demo", "mdm", "03_smpl_fitting")
    # What the workflow takes for the proof that the work is done lies there too.
    assert f"Delete {run.dir}, then" in told.value.remedy
    assert "`make paper TRACK=demo`" in told.value.remedy
    shutil.rmtree(run.dir)
    written_run("prior.safetensors", stage="03_smpl_fitting")
    assert runs.input_hash("demo", "mdm", "03_smpl_fitting")


def test_a_flipped_byte_in_a_record_is_seen(runs_folder):
    run, _ = written_run("prior.safetensors")
    path = run.path("run.json")
    whole = path.read_text()
    path.write_text(whole.replace('"acc": 0.25', '"acc": 0.24'))
    with pytest.raises(InputError, match=r"run\.json: found content with the checksum"):
        runs.require_run("demo", "mdm", "02_finetuning")
    # A record of an earlier version has no checksum.
    record = json.loads(whole)
    assert record.pop("checksum") == runs.record_hash(record)
    path.write_text(json.dumps(record))
    assert runs.require_run("demo", "mdm", "02_finetuning")["metrics"] == {"acc": 0.25}


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
    assert {"versions", "git", "device", "wall_seconds", "outputs", "code"} <= set(record)


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_at_the_end_of_a_run_leaves_the_earlier_record(runs_folder, monkeypatch):
    run, _ = written_run("prior.safetensors")
    before = run.path("run.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", no_space)
        with pytest.raises(InputError, match=r"run\.json: found no space left on device"):
            run.finish({"acc": 0.5}, [run.path("prior.safetensors")])
    assert run.path("run.json").read_bytes() == before
    assert runs.input_hash("demo", "mdm", "02_finetuning")


def test_models_are_found_in_the_order_of_the_paper(runs_folder):
    for model in ("mdm-acc10", "mdm-acc0.3-s1", "mdm-acc0.3", "mdm-ft", "mdm", "momask"):
        runs.open_run("demo", model, "02_finetuning", {}, {}).finish({}, [])
    expected = ["mdm", "mdm-ft", "mdm-acc0.3", "mdm-acc0.3-s1", "mdm-acc10", "momask"]
    assert runs.choose_models("demo", "02_finetuning", None) == expected
    with pytest.raises(InputError, match="mdm-acc7"):
        runs.choose_models("demo", "02_finetuning", ["mdm-acc7"])


def test_code_hash_ignores_words_but_not_deeds(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "PACKAGE", tmp_path)

    def hash_of(source):
        (tmp_path / "room.py").write_text(source)
        runs.code_hash.cache_clear()
        return runs.code_hash("room.py")

    plain = hash_of('def f():\n    "Doc."\n    return 1\n')
    assert hash_of('def f():\n    "Other."\n    # why\n    return 1\n') == plain
    assert hash_of('def f():\n    "Doc."\n    return 2\n') != plain
    runs.code_hash.cache_clear()


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="run.json"):
        runs.read_run(tmp_path)


def test_missing_stage_says_what_to_run(runs_folder):
    with pytest.raises(InputError, match="make paper TRACK=demo"):
        runs.require_run("demo", "mdm", "02_finetuning")


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
    reopened = runs.open_run("demo", "mdm", "04_imu_synthesis", {}, {})
    assert reopened.done and reopened.written().equals(own)
    with pytest.raises(InputError, match="finished stage 04_imu_synthesis of mdm-acc1"):
        runs.written("demo", ["mdm", "mdm-acc1"], "04_imu_synthesis")


def test_metrics_that_are_no_number_can_be_read_again(runs_folder):
    run = runs.open_run("demo", "mdm", "02_finetuning", {}, {})
    run.finish({"loss": np.float32("nan"), "clips": np.int64(5)}, [])
    assert runs.open_run("demo", "mdm", "02_finetuning", {}, {}).metrics == {
        "loss": None,
        "clips": 5,
    }


def test_a_cache_lies_below_the_runs_and_is_not_made_by_asking(runs_folder):
    assert runs.cache_dir("text") == runs_folder / ".cache" / "text"
    assert runs.cache_dir("text") != runs.cache_dir("other")
    assert not runs_folder.exists()
