"""The container of ragged time series."""

import numpy as np
import pytest

from t2imu_utils.clips import Clips
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
