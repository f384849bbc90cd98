"""Plans, their shards, and what is known of the files of a folder."""

import os
import time
from dataclasses import replace

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from t2imu_utils.errors import InputError
from t2imu_utils.models.prompts import draw_requests
from t2imu_utils.shards import (
    NOTHING,
    STALE,
    Plan,
    Store,
    load_store,
    open_store,
    remove_leftovers,
)

PROMPTS = {
    "climbing down": ["a person walks down the stairs"],
    "walking": ["a person walks", "a person strolls along slowly"],
}
ASKED = ["activity", "prompt", "repetition", "frames", "seed"]


def plan(repetitions=5, **others):
    return Plan("demo", "mdm", PROMPTS, repetitions, (2.5, 4.0), **{"shard_size": 2, **others})


def requests(some):
    return pd.concat([some.requests(shard) for shard in some.shards], ignore_index=True)


def test_shards_ask_for_what_notebook_01_asks_for():
    expected = draw_requests(PROMPTS, 5, (2.5, 4.0), 20.0)
    for size in (1, 2, 5, 64):
        assert_frame_equal(requests(plan(shard_size=size))[ASKED], expected)


def test_a_motion_is_the_same_in_every_plan_that_has_it():
    few, many = requests(plan()), requests(plan(repetitions=11, shard_size=4))
    kept = many[many["repetition"] < 5].reset_index(drop=True)
    assert_frame_equal(few, kept)
    assert sorted(many["motion"]) == list(range(33))
    other = requests(plan(seed=1))
    assert not set(other["seed"]) & set(few["seed"])
    assert (other["frames"] != few["frames"]).any() and (other["motion"] == few["motion"]).all()


def test_shards_are_repetitions_of_one_prompt():
    names = [shard.name for shard in plan(repetitions=3).shards]
    assert names == [
        f"activity={activity}/p{number:03d}-r{first:06d}"
        for number, activity in enumerate(["climbing down", "walking", "walking"])
        for first in (0, 2)
    ]
    assert [len(shard) for shard in plan(repetitions=3).shards] == [2, 1] * 3
    assert plan(repetitions=3).motions == 9


@pytest.mark.parametrize("jobs", [1, 2, 4, 9, 20])
def test_jobs_share_all_shards(jobs):
    parts = [plan().part(job, jobs) for job in range(1, jobs + 1)]
    together = [shard for part in parts for shard in part]
    assert sorted(together, key=plan().shards.index) == plan().shards
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"repetitions": 0}, "repetitions: found 0"),
        ({"shard_size": 0}, "shard_size: found 0"),
        ({"batch_size": -1}, "batch_size: found -1"),
        ({"seconds": (1.9, 3.0)}, "seconds: found 1.9 to 3 s; expected 2 s, the length of a w"),
        ({"seconds": (4.0, 3.0)}, "seconds: found 4 to 3 s"),
        ({"prompts": {}}, "prompts: found those of no activity"),
        ({"prompts": {"walkin": ["a person walks"]}}, "prompts: found those of walkin"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        replace(plan(), **wrong)


# ---------------------------------------------------------------- folders
def opened(folder, some=None, **ingredients):
    return open_store(folder, some or plan(), {"prior": "a" * 64, **ingredients}, {})


def filled(folder, some=None):
    """A folder in which every shard is a file of its name."""
    store = opened(folder, some)
    for shard in store.plan.shards:
        store.path(shard).parent.mkdir(parents=True, exist_ok=True)
        store.path(shard).write_text(shard.name)
        store.close(shard, {"motions": len(shard)})
    return store


def faults(store):
    found = {shard.name: store.fault(shard) for shard in store.plan.shards}
    return {name: fault for name, fault in found.items() if fault is not None}


def test_whole_shards_have_no_fault(tmp_path):
    store = opened(tmp_path)
    assert set(faults(store).values()) == {NOTHING} and len(faults(store)) == 9
    filled(tmp_path)
    assert faults(store) == {} and faults(load_store(tmp_path)) == {}


def flip(path):
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)


def change(path):
    path.write_text(path.read_text().replace('"first": 0', '"first": 1'))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path, record: flip(path), "sha256 "),
        (lambda path, record: os.truncate(path, 7), "7 bytes of 35"),
        (lambda path, record: path.unlink(), "no file, only its record"),
        (lambda path, record: record.unlink(), "a file without a record"),
        (lambda path, record: os.truncate(record, 40), "a damaged record (no valid JSON"),
        (lambda path, record: change(record), "a damaged record (content that is not what was"),
    ],
)
def test_damage_is_told(tmp_path, damage, said):
    store = filled(tmp_path)
    shard = store.plan.shards[0]
    damage(store.path(shard), store.record_path(shard))
    found = faults(store)
    assert list(found) == [shard.name] and found[shard.name].startswith(said)


def test_what_was_made_from_something_else_is_told(tmp_path):
    store = filled(tmp_path)
    for other in (
        replace(store, ingredients={"prior": "b" * 64}),
        replace(store, plan=plan(seed=1)),
        replace(store, plan=plan(guidance=3.0)),
        replace(store, plan=plan(batch_size=8)),
    ):
        assert set(faults(other).values()) == {"a shard that was made from something else"}


def test_more_repetitions_keep_what_is_there(tmp_path):
    filled(tmp_path)
    store = opened(tmp_path, plan(repetitions=8))
    assert load_store(tmp_path) == store
    kept = [shard.name for shard in store.plan.shards if store.fault(shard) is None]
    assert len(kept) == 6 and all(name.endswith(("r000000", "r000002")) for name in kept)
    grown = [fault for name, fault in faults(store).items() if name.endswith("r000004")]
    assert grown == ["1 motions of 2"] * 3


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"repetitions": 4}, "repetitions 5, now 4"),
        ({"seed": 3}, "seed 0, now 3"),
        ({"shard_size": 5}, "shard_size 2, now 5"),
        ({"prompts": {"walking": ["a person walks"]}}, "other prompts"),
        ({"seconds": (2.5, 3.0)}, r"seconds \[2.5, 4.0\], now \[2.5, 3.0\]"),
    ],
)
def test_another_plan_does_not_share_the_folder(tmp_path, other, said):
    filled(tmp_path)
    with pytest.raises(InputError, match=f"manifest.json: found {said}; .*Name another folder"):
        opened(tmp_path, replace(plan(), **other))
    assert faults(load_store(tmp_path)) == {}


def test_other_ingredients_do_not_share_the_folder(tmp_path):
    filled(tmp_path)
    with pytest.raises(InputError, match="manifest.json: found other body; other prior;"):
        opened(tmp_path, prior="b" * 64, body="c" * 64)


def test_models_share_a_folder(tmp_path):
    filled(tmp_path)
    filled(tmp_path, replace(plan(), model="mdm-acc0.1"))
    assert load_store(tmp_path, "mdm-acc0.1").plan.model == "mdm-acc0.1"
    assert faults(load_store(tmp_path, "mdm")) == {}
    with pytest.raises(InputError, match="found mdm, mdm-acc0.1; expected windows of one model"):
        load_store(tmp_path)
    with pytest.raises(InputError, match="generator momask: found mdm, mdm-acc0.1"):
        load_store(tmp_path, "momask")
    with pytest.raises(InputError, match="found nothing; .*t2imu synthesise"):
        load_store(tmp_path / "nowhere")


def test_only_old_leftovers_are_removed(tmp_path):
    store = filled(tmp_path)
    folder = store.path(store.plan.shards[0]).parent
    old, young = folder / ".p000.parquet.node.1.tmp", folder / ".p001.parquet.node.2.tmp"
    for path in (old, young):
        path.write_text("half")
    os.utime(old, (0, time.time() - STALE - 1))
    remove_leftovers(store)
    assert not old.exists() and young.exists() and faults(store) == {}


def test_a_store_needs_no_more_than_its_folder(tmp_path):
    assert load_store(filled(tmp_path).folder) == Store(tmp_path, plan(), {"prior": "a" * 64})
