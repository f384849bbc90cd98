"""Windows by the thousand: plans, shards, folders; any number of workers, interrupted, damaged."""

import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from pandas.testing import assert_frame_equal

from t2imu_utils import synthesis
from t2imu_utils.analysis.signals import labelled_windows
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.files import read_json, sha256
from t2imu_utils.imu.sensors import synthesise
from t2imu_utils.models.prompts import draw_requests
from t2imu_utils.synthesis import (
    NOTHING,
    OTHER,
    SIZE,
    STAGES,
    Plan,
    Store,
    make_shard,
    open_store,
    run_shards,
    summary_text,
)
from t2imu_utils.tracks import RecordingsSection

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


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"seconds": (1.9, 3.0)}, "seconds: found 1.9 to 3 s; expected 2 s, the length of a w"),
        ({"seconds": (4.0, 3.0)}, "seconds: found 4 to 3 s"),
        ({"seconds": (float("nan"), 3.0)}, "seconds: found nan to 3 s"),
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


def test_more_repetitions_keep_what_is_there(tmp_path):
    filled(tmp_path)
    store = opened(tmp_path, plan(repetitions=8))
    kept = [shard.name for shard in store.plan.shards if store.fault(shard) is None]
    assert len(kept) == 6 and all(name.endswith(("r000000", "r000002")) for name in kept)
    assert opened(tmp_path, plan(repetitions=8)).fault(store.plan.shards[0]) is None


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"repetitions": 4}, "repetitions"),
        ({"seed": 3}, "seed"),
        ({"shard_size": 5, "prompts": {"walking": ["a person walks"]}}, "prompts, shard_size"),
    ],
)
def test_another_plan_does_not_share_the_folder(tmp_path, other, said):
    store = filled(tmp_path)
    with pytest.raises(InputError, match=f"manifest.json: found windows of other {said};"):
        opened(tmp_path, replace(plan(), **other))
    assert faults(store) == {}


def test_models_share_a_folder(tmp_path):
    stores = [filled(tmp_path, replace(plan(), model=name)) for name in ("mdm", "mdm-acc0.1")]
    assert [faults(store) for store in stores] == [{}, {}]


SMALL = Plan("demo", "mdm", PROMPTS, 2, (2.5, 4.5), shard_size=2, batch_size=3)


@pytest.fixture(scope="module")
def written(windows_tools, tmp_path_factory):
    """All shards of `SMALL`, laid out as a store does: folder and facts."""
    folder = tmp_path_factory.mktemp("windows") / "windows"
    facts = {}
    for shard in SMALL.shards:
        path = folder / "generator=mdm" / f"{shard.name}.parquet"
        facts[path] = make_shard(windows_tools, SMALL, shard, path)
    return folder, facts


def as_notebooks(tools, requests):
    """Virtual sensors of requests as notebooks 03 and 04 make them."""
    prior, batch_size = tools.prior, SMALL.batch_size
    motions = tools.generator.sample(prior, requests, None, batch_size, progress=False)
    fits = tools.generator.fits(prior, motions, tools.body)
    return synthesise(fits, tools.body, tools.shapes, tools.sites, progress=False)


@pytest.fixture(scope="module")
def virtual(windows_tools):
    """The same motions in the order of notebook 01, made with those of their shard."""
    requests = draw_requests(PROMPTS, 2, SMALL.seconds, 20.0)
    parts = [as_notebooks(windows_tools, part) for _, part in requests.groupby("prompt")]
    order = requests["prompt"].drop_duplicates().rank().astype(int) - 1
    return Clips.concat([parts[i] for i in order])


def signals(table, channel, site):
    rows = table[table["site"] == site]
    return np.stack(rows[channel].to_list()).reshape(-1, SIZE, 3)


@pytest.mark.parametrize("site", ["head", "shin_other"])
def test_windows_are_those_of_the_notebooks(written, virtual, site):
    section = RecordingsSection(
        reader="realworld", labels="activities", classes=list(PROMPTS),
        channels=["acc", "gyro"], sites=[site],
    )  # fmt: skip
    expected = labelled_windows(virtual, section, None, 0)
    table = pd.concat(map(pd.read_parquet, written[1]), ignore_index=True)
    found = np.concatenate([signals(table, name, site) for name in ("acc", "gyro")], axis=-1)
    assert len(found) == len(table) // 9 > 12
    assert_array_equal(found, expected.x)
    rows = table[table["site"] == site]
    assert rows["body"].tolist() == expected.subjects.tolist()


THREE = {
    "lying": ["a person lies on a bed"],
    "running": ["a person runs"],
    "walking": ["a person walks"],
}
PLAN = Plan("demo", "mdm", THREE, 3, (2.5, 3.0), shard_size=2)
MADE_FROM = {"prior": "a" * 64}


def run(tools, folder, plan=PLAN, **others):
    return run_shards(tools, plan, folder, MADE_FROM, progress=False, **others)


def files(folder):
    """Hash of every file of windows, by its place."""
    paths = sorted((folder / "windows").rglob("*.parquet"))
    return {path.relative_to(folder).as_posix(): sha256(path) for path in paths}


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*.parquet"))}


@pytest.fixture(scope="module")
def whole(windows_tools, tmp_path_factory):
    """All shards, made one after the other, and the summary."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(windows_tools, folder)


def test_all_shards_are_made_and_summed_up(whole):
    folder, summary = whole
    store = Store(folder, PLAN, MADE_FROM)
    assert len(files(folder)) == 6
    assert {store.fault(shard) for shard in PLAN.shards} == {None}
    records = [read_json(store.record_path(shard)) for shard in PLAN.shards]
    assert set(summary["fault"]) == {NOTHING} and len(summary) == 6
    assert summary["motions"].sum() == 9 == sum(record["motions"] for record in records)
    assert summary["bytes"].sum() == sum(path.stat().st_size for path in stamps(folder))
    rows = len(pd.read_parquet(folder / "windows"))
    assert rows == summary["rows"].sum() == 9 * summary["windows"].sum()
    assert summary[list(STAGES)].min(axis=None) > 0 and 100 < summary["peak_mb"].max() < 100_000
    assert {"git", "versions", "device", "sha256", "key", "finished"} <= set(records[0])


def test_workers_do_not_change_a_bit(windows_tools, whole, tmp_path):
    summary = run(windows_tools, tmp_path, workers=2)
    assert files(tmp_path) == files(whole[0])
    assert len(summary) == 6 and summary["motions"].sum() == 9


def test_jobs_in_any_order_make_the_same_whole(windows_tools, whole, tmp_path):
    made = [run(windows_tools, tmp_path, only=(job, 4)) for job in (3, 1, 4, 2)]
    assert [len(table) for table in made] == [1, 2, 1, 2]
    assert files(tmp_path) == files(whole[0])
    assert run(windows_tools, tmp_path, only=(7, 7)).empty


def test_an_interrupted_run_goes_on(windows_tools, whole, tmp_path, monkeypatch):
    def stop(tools, plan, shard, path):
        if shard == PLAN.shards[3]:
            raise KeyboardInterrupt
        return make_shard(tools, plan, shard, path)

    monkeypatch.setattr(synthesis, "make_shard", stop)
    with pytest.raises(KeyboardInterrupt):
        run(windows_tools, tmp_path)
    monkeypatch.undo()
    assert len(files(tmp_path)) == 3
    # What a killed process leaves: a half-written file that no reader looks at.
    leftover = next(iter(stamps(tmp_path))).with_name(".p009.parquet.node.1.tmp")
    leftover.write_bytes(b"PAR1")
    summary = run(windows_tools, tmp_path)
    assert summary["fault"].isna().sum() == 3 == (summary["fault"] == NOTHING).sum()
    assert files(tmp_path) == files(whole[0])
    assert len(pd.read_parquet(tmp_path / "windows")) == summary["rows"].sum()


def test_damaged_shards_are_named_and_made_again(windows_tools, whole, tmp_path):
    run(windows_tools, tmp_path)
    paths, store = list(stamps(tmp_path)), Store(tmp_path, PLAN, MADE_FROM)
    content = bytearray(paths[0].read_bytes())
    content[len(content) // 2] ^= 1
    paths[0].write_bytes(content)
    os.truncate(paths[1], paths[1].stat().st_size // 2)  # as a failing disk leaves it
    store.record_path(PLAN.shards[2]).unlink()  # killed between the file and its record
    then = stamps(tmp_path)
    summary = run(windows_tools, tmp_path)
    told = summary_text(summary, PLAN, tmp_path)
    assert summary.index[summary["fault"].notna()].tolist() == [s.name for s in PLAN.shards[:3]]
    assert f"Remade: activity=lying/p000-r000000: {OTHER}" in told
    assert files(tmp_path) == files(whole[0])
    changed = [path for path, stamp in stamps(tmp_path).items() if stamp != then[path]]
    assert changed == paths[:3]
