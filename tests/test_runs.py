"""Run folders: what counts as done, and what makes it count no longer."""

import json
import math

import numpy as np
import pytest

from t2imu_utils import runs
from t2imu_utils.errors import InputError


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


def test_record_says_what_made_it(runs_folder):
    record = json.loads(finished().path("run.json").read_text())
    assert (record["track"], record["model"], record["stage"]) == ("demo", "mdm", "02_finetuning")
    assert {"versions", "git", "device", "wall_seconds", "outputs", "code"} <= set(record)


def test_atomic_write_leaves_nothing_behind_on_error(tmp_path):
    with pytest.raises(RuntimeError), runs.atomic_write(tmp_path / "x") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_models_are_found_in_the_order_of_the_paper(runs_folder):
    for model in ("mdm-acc10", "mdm-acc0.3-s1", "mdm-acc0.3", "mdm-ft", "mdm", "momask"):
        runs.open_run("demo", model, "02_finetuning", {}, {}).finish({}, [])
    expected = ["mdm", "mdm-ft", "mdm-acc0.3", "mdm-acc0.3-s1", "mdm-acc10", "momask"]
    assert runs.choose_models("demo", "02_finetuning", None) == expected
    with pytest.raises(InputError, match="mdm-acc7"):
        runs.choose_models("demo", "02_finetuning", ["mdm-acc7"])


def test_every_setting_has_a_name_of_its_own():
    assert runs.model_name(0.0) == "mdm-ft"
    assert runs.model_name(0.1) == "mdm-acc0.1" and runs.model_name(1) == "mdm-acc1"
    assert runs.model_name(0.1, lambda_vel=0.5, acc_space="joints", seed=1) == (
        "mdm-acc0.1-vel0.5-joints-s1"
    )
    # Without L_acc its space changes nothing, so it is the same control.
    assert runs.model_name(0.0, acc_space="joints", acc_contacts=False) == "mdm-ft"


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


def test_json_holds_plain_numbers(tmp_path):
    content = {
        "nan": math.nan,
        "infinite": [-math.inf, np.float32("inf")],
        "numpy": {"whole": np.int64(3), "part": np.float64(0.5), "single": np.float32(0.25)},
        "flags": (np.bool_(True), False),
        "missing": [None, np.float64("nan"), np.array(np.nan)],
        4: "key",
        "text": "°",
    }
    path = runs.write_json(tmp_path / "a.json", content)
    text = path.read_text(encoding="utf-8")
    assert not any(word in text for word in ("NaN", "Infinity"))
    assert runs.read_json(path) == {
        "nan": None,
        "infinite": [None, None],
        "numpy": {"whole": 3, "part": 0.5, "single": 0.25},
        "flags": [True, False],
        "missing": [None, None, None],
        "4": "key",
        "text": "°",
    }
    shuffled = dict(reversed(list(content.items())))
    assert runs.write_json(tmp_path / "b.json", shuffled).read_text() == path.read_text()


def test_json_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = runs.write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        runs.write_json(path, {"a": object()})
    assert runs.read_json(path) == {"a": 1} and list(tmp_path.iterdir()) == [path]


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
