"""Real recordings: RealWorld, UMAFall, HAPT, CSV files of your own."""

from pathlib import Path

from t2imu_utils.clips import Clips
from t2imu_utils.errors import Skipped
from t2imu_utils.recordings.csv import Layout, read_csv
from t2imu_utils.recordings.hapt import read_hapt
from t2imu_utils.recordings.realworld import read_realworld
from t2imu_utils.recordings.umafall import read_umafall
from t2imu_utils.tracks import Track, checked, data_set

READERS = {"realworld": read_realworld, "umafall": read_umafall, "hapt": read_hapt}


def layout_of(track: Track) -> Layout:
    """The layout of a track's CSV files; `InputError` where it or a field of it is missing."""
    return checked(Layout, track.recordings.layout or {}, track.file, "recordings", "layout")


def folder_of(track: Track) -> Path:
    """Where a track's recordings are read from; `InputError` where nothing is there."""
    reader = track.recordings.reader
    return data_set(layout_of(track).folder if reader == "csv" else reader)


def read_recordings(track: Track) -> tuple[Clips, list[Skipped]]:
    """A track's real recordings at 20 Hz, and what was left out of them."""
    if track.recordings.reader == "csv":
        return read_csv(layout_of(track), folder_of(track))
    return READERS[track.recordings.reader](folder_of(track))
