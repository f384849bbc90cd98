"""The made-up RealWorld archive: layout, physics of the signals, anomalies, reading back."""

import io
import re
import zipfile

import numpy as np
import pandas as pd
import pytest

from t2imu_utils.activities import ACTIVITIES, POSITIONS
from t2imu_utils.demo.recordings import (
    FINE_RATE,
    RANGE,
    _delivery_times,
    _on_tissue,
    write_recordings,
)
from t2imu_utils.errors import InputError
from t2imu_utils.recordings.realworld import read_realworld

SECONDS = 20.0
STREAM = re.compile(r"^(acc|Gyroscope)_([a-z]+)(?:_(\d+))?_([a-z]+)\.csv$")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("demo"), seed=0, subjects=4, seconds=SECONDS)


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def stream(archive, number, activity, position, kind="acc"):
    files = members(archive / f"proband{number}" / "data" / f"{kind}_{activity}_csv.zip")
    prefix = "acc" if kind == "acc" else "Gyroscope"
    return pd.read_csv(io.BytesIO(files[f"{prefix}_{activity}_{position}.csv"]))


def test_layout_of_files_and_columns(archive):
    assert archive.name == "realworld2016_dataset"
    assert sorted(p.name for p in archive.iterdir()) == [f"proband{i}" for i in (1, 2, 3, 4)]
    data = archive / "proband1" / "data"
    expected = {
        f"{kind}_{activity.replace(' ', '')}_csv.zip"
        for kind in ("acc", "gyr")
        for activity in ACTIVITIES
    }
    assert {path.name for path in data.iterdir()} == expected
    for path in data.iterdir():
        files = members(path)
        assert "readMe" in files
        found = {STREAM.match(name)[4] for name in files if name != "readMe"}
        assert found == set(POSITIONS)
    content = members(data / "gyr_walking_csv.zip")["Gyroscope_walking_shin.csv"]
    assert content.startswith(b"id,attr_time,attr_x,attr_y,attr_z\n1,14")
    assert not content.endswith(b"\n")


def test_streams_are_about_fifty_hertz_with_bursts(archive):
    bursts = 0
    for activity in ("walking", "sitting", "running", "lying"):
        for position in POSITIONS:
            table = stream(archive, 1, activity, position)
            stamps = table.attr_time.to_numpy()
            assert (np.diff(stamps) >= 0).all() and np.array_equal(
                table.id, np.arange(1, len(table) + 1)
            )
            assert abs((stamps[-1] - stamps[0]) / (len(table) - 1) - 20.02) < 0.1
            bursts += int((np.diff(stamps) > 300).any())
            assert np.abs(table[["attr_x", "attr_y", "attr_z"]].to_numpy()).max() <= RANGE
    assert bursts > 3


def test_late_samples_are_repaid():
    for seed in range(10):
        stamps = _delivery_times(np.random.default_rng(seed), 1500, 0.02)
        lag = stamps - 0.02 * np.arange(1500)
        assert lag.min() >= 0 and np.median(lag) < 0.005
        assert lag[-1] < 0.02


def test_signals_are_those_of_the_activity(archive):
    """Gravity at rest, along +y of a thigh that stands; more motion the faster one goes."""
    calm = slice(7 * 50, 12 * 50)

    def signal(activity, position, kind="acc"):
        table = stream(archive, 1, activity, position, kind)
        return table[["attr_x", "attr_y", "attr_z"]].to_numpy()[calm]

    for activity in ("standing", "lying", "sitting"):
        size = np.linalg.norm(signal(activity, "thigh"), axis=1)
        assert np.abs(size - 9.81).mean() < 0.7
    assert signal("standing", "thigh")[:, 1].mean() > 8
    assert abs(signal("sitting", "thigh")[:, 1].mean()) < 6
    assert abs(signal("lying", "waist")[:, 1].mean()) < 6
    energy = [signal(a, "waist").std(axis=0).max() for a in ("standing", "walking", "running")]
    assert energy[0] < 1 < energy[1] < energy[2]
    turning = [np.abs(signal(a, "shin", "gyr")).mean() for a in ("standing", "walking")]
    assert turning[0] < 0.2 < 0.5 < turning[1]


def test_soft_tissue_follows_slow_motion_and_rings_after_fast():
    times = np.arange(2000) / FINE_RATE
    slow = np.stack([0.1 * np.sin(2 * np.pi * 0.5 * times)] * 3, axis=-1)
    assert np.abs(_on_tissue(slow, 12.0, 0.4) - slow)[100:].max() < 0.01
    step = np.repeat((times > 1).astype(float)[:, None], 3, axis=1)
    assert _on_tissue(step, 12.0, 0.4).max() > 1.1
    assert np.abs(_on_tissue(step, 12.0, 0.4)[-1] - 1).max() < 1e-6


def test_planted_anomalies(archive):
    missing = members(archive / "proband2" / "data" / "acc_climbingup_csv.zip")
    assert not any("forearm" in name for name in missing) and len(missing) == 7
    acc = members(archive / "proband4" / "data" / "acc_climbingup_csv.zip")
    gyr = members(archive / "proband4" / "data" / "gyr_climbingup_csv.zip")
    assert list(acc) == [f"acc_climbingup_{i}_csv.zip" for i in (1, 2, 3)]
    assert list(gyr) == [f"gyr_climbingup{i}_csv.zip" for i in ("", "_2", "_3")]
    inner = zipfile.ZipFile(io.BytesIO(acc["acc_climbingup_2_csv.zip"])).namelist()
    assert "acc_climbingup_2_chest.csv" in inner
    walking = members(archive / "proband4" / "data" / "acc_walking_csv.zip")
    assert "acc_walking_2_head.csv" in walking


def test_reader_finds_all_but_the_missing_stream(archive):
    clips, skipped = read_realworld(archive, progress=False)
    table = clips.table
    assert set(table.subject) == {1, 2, 3, 4}
    for number in (1, 2, 3, 4):
        assert set(table.activity[table.subject == number]) == set(ACTIVITIES)
    assert len(table) == 4 * 8 + 2 * 2
    assert (table.late > 0).any() and (table.lost == 0).all()
    for i in range(len(clips)):
        row = table.iloc[i]
        bare = np.isnan(clips[i]["acc"]).all(axis=(0, 2))
        planted = row.subject == 2 and row.activity == "climbing up"
        assert [p for p, b in zip(POSITIONS, bare, strict=True) if b] == ["forearm"][: int(planted)]
    assert len(skipped) == 1 and "forearm" in skipped[0].name


def test_seed_decides_every_byte(tmp_path):
    one, two, other = (
        write_recordings(tmp_path / name, seed, 1, SECONDS, ("walking", "lying"))
        for name, seed in (("one", 0), ("two", 0), ("other", 1))
    )
    for path in sorted(one.rglob("*.zip")):
        relative = path.relative_to(one)
        assert path.read_bytes() == (two / relative).read_bytes()
        assert path.read_bytes() != (other / relative).read_bytes()


def test_writing_again_replaces_and_leaves_nothing_behind(tmp_path):
    first = write_recordings(tmp_path, 0, 2, SECONDS, ("sitting",))
    write_recordings(tmp_path, 0, 1, SECONDS, ("sitting",))
    assert [path.name for path in tmp_path.iterdir()] == [first.name]
    assert [path.name for path in first.iterdir()] == ["proband1"]


def test_bad_requests_are_refused(tmp_path):
    with pytest.raises(InputError, match="swimming"):
        write_recordings(tmp_path, activities=("swimming",))
    with pytest.raises(InputError, match="at least 20"):
        write_recordings(tmp_path, seconds=5.0)
    assert not list(tmp_path.iterdir())
