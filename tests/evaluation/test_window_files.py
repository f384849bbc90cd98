"""Windows read from shards against the same windows cut from clips in memory."""

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal

from t2imu_utils.activities import SITES
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation import window_files
from t2imu_utils.evaluation.window_files import read_windows
from t2imu_utils.evaluation.window_sets import labelled_windows
from t2imu_utils.imu.windows import windows
from t2imu_utils.shards import Plan, open_store
from t2imu_utils.synthesis import write_windows
from t2imu_utils.tracks import RecordingsSection

PROMPTS = {
    "climbing down": ["a person walks down"],
    "climbing up": ["a person walks up"],
    "walking": ["a person walks", "a person strolls"],
}
PLAN = Plan("demo", "mdm", PROMPTS, 5, (2.0, 6.0), shard_size=2)
BODIES = ("male tall", "female short")


def section(
    classes=("climbing up", "walking"), labels="activities", sites=("shin", "head"), **more
):
    return RecordingsSection(
        reader="realworld", labels=labels, classes=list(classes), sites=list(sites),
        channels=more.get("channels", ["acc"]),
    )  # fmt: skip


def noise(plan, shard):
    """Virtual sensors of a shard: noise that follows from the seed of each motion."""
    rows, acc = [], []
    for row in plan.requests(shard).to_dict("records"):
        rng = np.random.default_rng(row["seed"])
        for body in BODIES:
            rows.append({**row, "body": body})
            acc.append(rng.standard_normal((row["frames"], len(SITES), 3)).astype(np.float32))
    gyro = [-2 * each for each in acc]
    return Clips.from_list(rows, {"acc": acc, "gyro": gyro}, {"rate": 20.0, "sites": list(SITES)})


def write(folder, plan=PLAN):
    store = open_store(folder, plan, {"prior": "a" * 64}, {})
    for shard in plan.shards:
        x, table = windows(noise(plan, shard), sites=SITES)
        write_windows(store.path(shard), x, table)
        store.close(shard, {"motions": len(shard), "windows": len(x), "dropped": 0})
    return store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("windows")).folder


@pytest.fixture(scope="module")
def clips():
    return Clips.concat([noise(PLAN, shard) for shard in PLAN.shards])


def same(found, expected):
    assert_array_equal(found.x, expected.x)
    assert found.x.dtype == expected.x.dtype == np.float32
    for name in ("labels", "groups", "subjects"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()
    assert found.dropped == expected.dropped
    return len(found)


@pytest.mark.parametrize("channels", [["acc"], ["gyro"], ["gyro", "acc"]])
def test_all_windows_are_read(folder, clips, channels):
    chosen = section(channels=channels)
    assert (
        same(read_windows(folder, chosen, None, 0), labelled_windows(clips, chosen, None, 0)) > 40
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "chosen",
    [section(), section(["walking", "stair climbing"], "categories"), section(sites=["waist"])],
)
def test_the_same_windows_are_drawn_as_from_memory(folder, clips, seed, chosen):
    count = same(read_windows(folder, chosen, 7, seed), labelled_windows(clips, chosen, 7, seed))
    assert count == 14


def test_another_seed_draws_others(folder):
    draws = [read_windows(folder, section(), 7, seed) for seed in (0, 1)]
    assert (draws[0].x != draws[1].x).any()
    # Of every prompt and body, not the first that come.
    many = [read_windows(folder, section(["walking"]), 3, seed) for seed in range(30)]
    assert {body for found in many for body in found.subjects} == set(BODIES)
    assert {motion for found in many for motion in found.groups} == {
        motion for shard in PLAN.shards[6:] for motion in PLAN.requests(shard)["motion"]
    }


def test_other_sites_than_the_tracks(folder, clips):
    chosen = section()
    found = read_windows(folder, chosen, None, 0, sites=["chest"])
    same(found, labelled_windows(clips, chosen, None, 0, sites=["chest"]))


def test_only_what_was_drawn_is_read(folder, monkeypatch):
    read, open_dataset = [], ds.dataset

    def dataset(path, **others):
        read.append(path)
        return open_dataset(path, **others)

    monkeypatch.setattr(ds, "dataset", dataset)
    read_windows(folder, section(["walking"]), 1, 0)
    assert len(read) == 1 and read[0].parent.name == "activity=walking"


@pytest.fixture
def own(tmp_path):
    """A folder that may be damaged."""
    return write(tmp_path)


def test_missing_shards_are_named(own):
    own.path(own.plan.shards[4]).unlink()
    own.record_path(own.plan.shards[7]).unlink()
    with pytest.raises(InputError) as caught:
        read_windows(own.folder, section(), 3, 0)
    assert "activity=climbing up/p001-r000002, activity=walking/p002-r000002" in str(caught.value)
    assert "found 7 of 9 shards whole" in str(caught.value)
    # What other classes lack does not matter.
    assert len(read_windows(own.folder, section(["climbing down"]), 3, 0)) == 3


def test_a_cut_or_exchanged_shard_is_missing(own):
    path = own.path(own.plan.shards[3])
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"p001-r000000: found 8 of 9 shards whole"):
        read_windows(own.folder, section(), 3, 0)


@pytest.mark.parametrize("part", [0.05, 0.45, 0.999])
def test_a_flipped_byte_is_found_where_it_is_read(own, part):
    path = own.path(own.plan.shards[0])
    content = bytearray(path.read_bytes())
    content[int(part * len(content))] ^= 1
    path.write_bytes(content)
    every = section(["climbing down"], sites=SITES, channels=["acc", "gyro"])
    with pytest.raises(InputError, match=r"p000-r000000.parquet: found a damaged file \("):
        read_windows(own.folder, every, None, 0)


def test_sites_that_do_not_fit_together_are_found(own):
    path = own.path(own.plan.shards[0])
    table = pq.read_table(path)
    head = np.flatnonzero(np.array(table["site"]) == "head")
    rest = np.setdiff1d(np.arange(len(table)), head)
    pq.write_table(table.take(np.concatenate([head[::-1], rest])), path)
    with pytest.raises(InputError, match="other windows at the head than at the shin"):
        window_files._read_shard(path, np.arange(2), ["acc"], ["shin", "head"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"section": section(["running", "walking"])}, "activity: found no running"),
        ({"section": section(sites=["ankle"])}, "sites: found no ankle; expected some of head"),
        ({"model": "momask"}, "generator momask: found mdm"),
        ({"folder": "nowhere"}, "nowhere: generator: found nothing"),
    ],
)
def test_what_there_is_not_is_told(folder, asked, said):
    given = {"folder": folder, "section": section(), "per_class": 3, "seed": 0, **asked}
    with pytest.raises(InputError, match=said):
        read_windows(**given)
