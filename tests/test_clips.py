"""The container of ragged time series, and windows of them."""

import numpy as np
import pytest

from t2imu_utils.clips import Clips, windows
from t2imu_utils.errors import InputError


@pytest.fixture
def clips():
    arrays = [np.full((frames, 2), i, np.float32) for i, frames in enumerate((3, 5, 1))]
    rows = [{"name": n} for n in "abc"]
    return Clips.from_list(rows, {"x": arrays}, {"rate": 20.0})


def test_clip_is_a_view_of_its_own_frames(clips):
    assert clips[1]["x"].shape == (5, 2)
    assert np.all(clips[1]["x"] == 1)
    assert np.shares_memory(clips[1]["x"], clips.arrays["x"])
    assert [len(x) for x in clips.each("x")] == [3, 5, 1]


def test_select_keeps_table_and_frames_together(clips):
    by_mask = clips.select(clips.table["name"] != "b")
    by_index = clips.select([2, 0])
    assert list(by_mask.table["name"]) == ["a", "c"] and len(by_mask.arrays["x"]) == 4
    assert list(by_index.arrays["x"][:, 0]) == [2, 0, 0, 0]


def test_round_trip_and_concat(clips, tmp_path):
    clips.save(tmp_path / "clips")
    loaded = Clips.load(tmp_path / "clips")
    assert loaded.meta == clips.meta and loaded.table.equals(clips.table)
    np.testing.assert_array_equal(loaded.arrays["x"], clips.arrays["x"])
    assert len(Clips.concat([clips, loaded])) == 6


def test_damaged_and_missing_files_are_named(clips, tmp_path):
    with pytest.raises(InputError, match="none.npz"):
        Clips.load(tmp_path / "none")
    clips.save(tmp_path / "clips")
    whole = (tmp_path / "clips.npz").read_bytes()
    (tmp_path / "clips.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        Clips.load(tmp_path / "clips")


# Windows


def recordings(*lengths):
    """Every value says where it comes from: clip, frame, site, axis; gyro is negative."""
    arrays = {"acc": [], "gyro": []}
    for clip, frames in enumerate(lengths):
        f, s, a = np.meshgrid(np.arange(frames), np.arange(3), np.arange(3), indexing="ij")
        values = (10000 * clip + 10 * f + 3 * s + a).astype(np.float32)
        arrays["acc"].append(values)
        arrays["gyro"].append(-values)
    rows = [{"activity": f"a{i}", "subject": i} for i in range(len(lengths))]
    return Clips.from_list(rows, arrays, {"rate": 20.0, "sites": ["head", "chest", "shin"]})


def test_half_overlapping_windows_stay_inside_their_recordings():
    x, table = windows(recordings(100, 40, 39, 61))
    assert x.shape == (4 + 1 + 0 + 2, 40, 18) and x.dtype == np.float32
    assert table["clip"].tolist() == [0, 0, 0, 0, 1, 3, 3]
    assert table["start_frame"].tolist() == [0, 20, 40, 60, 0, 0, 20]
    assert table["activity"].tolist() == ["a0"] * 4 + ["a1"] + ["a3"] * 2
    assert "frames" not in table
    assert table.attrs["dropped"] == 0
    for window, row in zip(x, table.itertuples(), strict=True):
        np.testing.assert_array_equal(
            window[:, 0], 10000 * row.clip + 10 * (row.start_frame + np.arange(40))
        )


def test_channels_are_named_in_their_order():
    x, table = windows(recordings(40), sites=["shin", "head"], channels=("acc", "gyro"))
    np.testing.assert_array_equal(x[0, 0], [6, 7, 8, -6, -7, -8, 0, 1, 2, 0, -1, -2])
    x, table = windows(recordings(40), channels=("acc",))
    assert x.shape == (1, 40, 9)


def test_windows_with_missing_values_are_dropped_and_counted():
    broken = recordings(100, 60)
    broken.arrays["acc"][45, 1, 2] = np.nan
    x, table = windows(broken)
    assert np.isfinite(x).all()
    assert table[["clip", "start_frame"]].to_numpy().tolist() == [[0, 0], [0, 60], [1, 0], [1, 20]]
    assert table.attrs["dropped"] == 2
    assert len(windows(broken, sites=["head"])[0]) == 6


def test_a_sensor_that_no_clip_recorded_is_an_error_and_not_an_empty_set():
    broken = recordings(100, 60)
    broken.arrays["gyro"][:, 1] = np.nan
    with pytest.raises(InputError, match=r"no value of gyro chest in any clip.*Leave out") as error:
        windows(broken)
    assert error.value.found == "no value of gyro chest in any clip"
    assert len(windows(broken, sites=["head", "shin"])[0]) == 6
    assert len(windows(broken, channels=("acc",))[0]) == 6


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"channels": ("mag",)}, "mag"),
        ({"sites": ["tail"]}, "tail"),
        ({"sites": []}, "none"),
        ({"overlap": 1.0}, "overlap"),
        ({"size": 0}, "overlap"),
    ],
)
def test_bad_requests_are_told(options, word):
    with pytest.raises(InputError, match=word):
        windows(recordings(100), **options)
