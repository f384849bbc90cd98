"""Tracks: the files in the repository are valid, and a wrong one is told where it is wrong."""

import pytest

from t2imu_utils.activities import ACTIVITIES, CATEGORIES, SITES
from t2imu_utils.errors import InputError
from t2imu_utils.tracks import TRACKS, data_set, load_track


@pytest.mark.parametrize("path", sorted(TRACKS.glob("*.yaml")), ids=lambda path: path.stem)
def test_tracks_of_the_repository(path):
    track = load_track(path.stem)
    labels = ACTIVITIES if track.recordings.labels == "activities" else CATEGORIES
    assert set(track.recordings.classes) <= set(labels)
    assert set(track.recordings.sites) <= set(SITES)
    assert track.synthetic == ("synthetic" in track.title)


def changed(tmp_path, old, new):
    path = tmp_path / "mine.yaml"
    text = (TRACKS / "demo.yaml").read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return str(path)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("  layers: 2", "  layers: four", "prior.layers"),
        ("  layers: 2", "  layers: 2\n  depth: 4", "prior.depth"),
        ("  layers: 2\n", "", "prior.layers"),
        ("reader: demo", "reader: amass", "corpus.reader"),
    ],
)
def test_wrong_field_is_named(tmp_path, old, new, field):
    with pytest.raises(InputError, match=rf"mine.yaml: {field}"):
        load_track(changed(tmp_path, old, new))


def test_unknown_track_lists_the_known():
    with pytest.raises(InputError, match="cmu, demo"):
        load_track("nowhere")


def test_missing_data_set_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setenv("T2IMU_DATA", str(tmp_path))
    with pytest.raises(InputError, match="T2IMU_DATA"):
        data_set("cmu")
