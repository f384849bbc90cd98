"""Lists and comparisons of finished runs, from the run.json that real runs leave."""

import json

import pytest

from t2imu_utils import runs
from t2imu_utils.errors import InputError
from t2imu_utils.run_records import (
    compare_text,
    cost_by_stage,
    differences,
    find_record,
    leaves,
    list_text,
    load_records,
    show_text,
)

TRAINED, SAMPLED = "02_finetuning", "03_smpl_fitting"


def make(model, stage, params, metrics, inputs=None, track="demo", content=b"weights"):
    run = runs.open_run(track, model, stage, params, inputs or {})
    run.path("out.bin").write_bytes(content)
    return run.finish(metrics, [run.path("out.bin")])


def training(weight, seed=0):
    weights = {"acc": weight, "vel": 0.0}
    return {"prior": {"width": 64}, "training": {"weights": weights, "steps": 300, "seed": seed}}


@pytest.fixture
def made(runs_folder):
    """A corpus, three models, and a stage that reads one of them."""
    make("shared", "00_data", {"corpus": ["demo", 27]}, {"clips": {"train": 9, "val": 9}})
    corpus = {"corpus": runs.input_hash("demo", "shared", "00_data")}
    for model, weight in (("mdm", 0.0), ("mdm-ft", 0.0), ("mdm-acc0.1", 0.1)):
        metrics = {"clips": 9, "validation": {"acc": 0.2 - weight, "total": 0.5}}
        make(model, TRAINED, training(weight), metrics, corpus, content=model.encode())
    inputs = {"prior": runs.input_hash("demo", "mdm", TRAINED)}
    make("mdm", SAMPLED, {"guidance": 2.5}, {"motions": 8}, inputs)
    return load_records()[0]


def named(records, name):
    return next(record for record in records if record.name == name)


def test_runs_are_listed_by_track_stage_and_model(made):
    make("compare", SAMPLED, {}, {})
    make("mdm", TRAINED, {}, {}, track="cmu")
    assert [record.name for record in load_records()[0]] == [
        f"cmu/mdm/{TRAINED}", "demo/shared/00_data", f"demo/mdm/{TRAINED}",
        f"demo/mdm-ft/{TRAINED}", f"demo/mdm-acc0.1/{TRAINED}", f"demo/mdm/{SAMPLED}",
        f"demo/compare/{SAMPLED}",
    ]  # fmt: skip


def test_a_list_is_of_one_track_or_stage(made):
    make("mdm", TRAINED, training(0.0), {}, track="cmu")
    assert [r.name for r in load_records(track="cmu")[0]] == [f"cmu/mdm/{TRAINED}"]
    for stage in ("02", "finetuning", TRAINED):
        assert len(load_records(stage=stage)[0]) == 4
    assert load_records("demo", "03")[0][0].name == f"demo/mdm/{SAMPLED}"
    assert load_records("nowhere") == ([], []) and load_records(stage="2") == ([], [])


def test_a_line_has_the_parameters_and_metrics_that_matter(made):
    lines = list_text(made).splitlines()
    line = next(line for line in lines if "mdm-acc0.1" in line)
    assert "weights.acc=0.1 seed=0 steps=300" in line and "width" not in line
    assert "validation.acc=0.1 validation.total=0.5 clips=9" in line
    assert made[0].content["finished"].replace("T", " ")[:-1] in lines[1] and "0.0 s" in lines[1]
    # Aligned: the paths begin and the dates begin in one column each.
    assert len({line.index("demo/") for line in lines[1:]}) == 1
    assert len({line.index(" 20") for line in lines[1:]}) == 1


def test_values_of_several_models_keep_their_names(runs_folder):
    metrics = {model: {"clips": n} for model, n in (("mdm", 3), ("mdm-ft", 4))}
    make("compare", "04_imu_synthesis", {"models": ["mdm", "mdm-ft"]}, metrics)
    text = list_text(load_records()[0])
    assert "models=mdm,mdm-ft" in text and "mdm.clips=3 mdm-ft.clips=4" in text


def test_nothing_to_list(runs_folder):
    assert load_records() == ([], [])
    assert f"below {runs_folder}. `make paper` makes them." in list_text([])


def test_what_is_no_whole_record_is_left_out_by_name(made):
    (made[0].folder / "run.json").write_text('{"track": ')
    (made[1].folder / "run.json").write_text("{}")
    found, skipped = load_records()
    assert len(found) == 3
    reasons = {each.name: each.reason for each in skipped}
    assert "no valid JSON" in reasons[str(made[0].folder / "run.json")]
    assert "no inputs, metrics" in reasons[str(made[1].folder / "run.json")]
    # A cache is no track.
    hidden = runs.cache_dir("text") / "a" / "b" / "run.json"
    hidden.parent.mkdir(parents=True)
    hidden.write_text("{}")
    assert len(load_records()[1]) == 2


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"demo/mdm-ft/{TRAINED}", f"demo/mdm-ft/{TRAINED}"),
        ("demo/mdm-ft/02", f"demo/mdm-ft/{TRAINED}"),
        ("mdm-ft/fine", f"demo/mdm-ft/{TRAINED}"),
        ("mdm-a", f"demo/mdm-acc0.1/{TRAINED}"),
        ("d/shared", "demo/shared/00_data"),
        ("03", f"demo/mdm/{SAMPLED}"),
        # In full before cut short.
        ("mdm/02", f"demo/mdm/{TRAINED}"),
    ],
)
def test_a_run_is_found_by_part_of_its_name(made, text, name):
    assert find_record(text, made).name == name


def test_a_stage_goes_before_its_variants(made):
    for stage in ("07_har", "07_har-gravity"):
        make("mdm", stage, {}, {})
    records = load_records()[0]
    assert find_record("mdm/07_har", records).name == "demo/mdm/07_har"
    assert find_record("mdm/har-gravity", records).name == "demo/mdm/07_har-gravity"
    assert len(load_records(stage="07")[0]) == 2


def test_a_run_is_found_by_the_beginning_of_its_hash(made):
    for record in made:
        assert find_record(record.hash, made) == record
        assert find_record(record.hash[:16].upper(), made) == record


def test_candidates_are_named_where_several_fit(made):
    with pytest.raises(InputError) as told:
        find_record("mdm-", made)
    assert told.value.found == "2 runs that fit"
    for model in ("mdm-ft", "mdm-acc0.1"):
        record = named(made, f"demo/{model}/{TRAINED}")
        assert f"{record.name} ({record.hash[:12]})" in told.value.expected
    assert "demo/mdm/" not in told.value.expected
    with pytest.raises(InputError, match="found no such run; expected one of .*demo/mdm-ft"):
        find_record("mdn", made)
    # Too short for a hash, even if one begins so.
    with pytest.raises(InputError, match="no such run"):
        find_record("f", [made[0]])
    with pytest.raises(InputError, match="nothing has been run"):
        find_record("mdm", [])


def test_leaves_have_dotted_names():
    nested = {"a": {"b": 1, "c": {}}, "seeds": [0, 1], "rows": [{"x": 1}, {"x": 2}], "none": None}
    flat = {"a.b": 1, "a.c": {}, "seeds": [0, 1], "rows.0.x": 1, "rows.1.x": 2, "none": None}
    assert leaves(nested) == flat
    assert leaves({"seeds": [0, 1]}, split_lists=True) == {"seeds.0": 0, "seeds.1": 1}
    assert leaves({}) == {}


def test_one_run_in_full(made):
    record = named(made, f"demo/mdm/{SAMPLED}")
    text = show_text(record, made)
    assert text.startswith(f"{record.name}\n") and record.hash in text
    lines = [line.split() for line in text.splitlines()]
    assert ["guidance", "2.5"] in lines and ["motions", "8"] in lines
    prior = named(made, f"demo/mdm/{TRAINED}")
    assert ["prior", runs.output_hash(prior.content)[:12], prior.name] in lines
    assert ["out.bin", record.content["outputs"]["out.bin"][:12]] in lines
    assert ["torch", record.content["versions"]["torch"]] in lines


def rows(table):
    return {(r.section, r.name): (r.a, r.b) for r in table.itertuples(index=False)}


def test_only_what_differs_is_compared(made):
    plain, refined = (named(made, f"demo/{m}/{TRAINED}") for m in ("mdm-ft", "mdm-acc0.1"))
    table = differences(plain, refined)
    written = tuple(record.content["outputs"]["out.bin"][:12] for record in (plain, refined))
    assert rows(table) == {
        ("parameters", "training.weights.acc"): (0.0, 0.1),
        ("outputs", "out.bin"): written,
        ("numbers", "validation.acc"): (0.2, 0.1),
    }
    measured = table[table["section"] == "numbers"].iloc[0]
    assert measured["difference"] == pytest.approx(-0.1) and measured["ratio"] == pytest.approx(0.5)
    text = compare_text(plain, refined, table)
    assert text.startswith(f"a  {plain.name}") and "steps" not in text and "versions" not in text
    assert ["validation.acc", "0.2", "0.1", "-0.1", "0.5"] in [t.split() for t in text.splitlines()]

    everything = rows(differences(plain, refined, everything=True))
    assert everything["parameters", "training.steps"] == (300, 300)
    assert everything["numbers", "clips"] == (9, 9) and len(everything) > 15
    assert "torch" in compare_text(plain, refined, differences(plain, refined, everything=True))


def test_inputs_and_versions_are_compared(runs_folder, monkeypatch):
    make("mdm", TRAINED, {}, {"balanced_accuracy": [0.0, 0.5], "note": "a"}, {"corpus": "1" * 64})
    monkeypatch.setattr(runs, "provenance", lambda: {"versions": {"torch": "9"}, "threads": 7})
    metrics = {"balanced_accuracy": [0.1, 0.5], "note": "b", "clips": True}
    make("mdm-ft", TRAINED, {}, metrics, {"corpus": "1" * 64, "base": "2" * 64})
    first, second = (find_record(text, load_records()[0]) for text in ("mdm/02", "mdm-ft/02"))
    table = differences(first, second)
    found = rows(table)
    assert found["inputs", "base"] == (None, "2" * 12) and ("inputs", "corpus") not in found
    assert found["versions", "torch"][1] == "9" and found["versions", "threads"][1] == 7
    numbers = table[table["section"] == "numbers"].set_index("name")
    assert list(numbers.index) == ["balanced_accuracy.0", "note", "clips"]
    # No ratio to zero, and none of what is no number.
    assert numbers.loc["balanced_accuracy.0", ["difference", "ratio"]].tolist() == [0.1, None]
    assert numbers.loc["clips", ["difference", "ratio"]].tolist() == [None, None]
    assert "base  -  222222222222" in compare_text(first, second, table)


def test_a_run_differs_in_nothing_from_itself(made):
    table = differences(made[1], made[1])
    assert table.empty and "They differ in nothing." in compare_text(made[1], made[1], table)


def test_rows_for_machines_are_json(made):
    row = json.loads(json.dumps(made[1].as_row()))
    assert row["run"] == made[1].name and row["metrics"] == made[1].content["metrics"]
    assert row["params"]["training"]["steps"] == 300 and row["hash"] == made[1].hash


def test_what_runs_took_is_added_up_by_stage(made, runs_folder):
    make("mdm-ft", f"{SAMPLED}-slow", {}, {})
    seconds = {"mdm": 10, "mdm-ft": 30, "mdm-acc0.1": 20, "shared": 5}
    for path in runs_folder.glob("demo/*/*/run.json"):
        content = json.loads(path.read_text())
        content["wall_seconds"] = seconds[content["model"]]
        content["device"] = "H200" if content["model"] == "mdm-ft" else "cpu"
        path.write_text(json.dumps(content))
    table = cost_by_stage(load_records("demo")[0])
    assert list(table.index) == ["00_data", TRAINED, SAMPLED, "all"]
    assert table["runs"].tolist() == [1, 3, 2, 6]
    assert (table["hours"] * 3600).round().tolist() == [5, 60, 40, 105]
    assert (table["longest"] * 60).round().tolist() == [5, 30, 30, 30]
    assert table["device"].tolist() == ["cpu", "H200, cpu", "H200, cpu", "H200, cpu"]
    assert cost_by_stage([]).empty
