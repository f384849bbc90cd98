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


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("body: open\n", "body: open\ncheckpoint: mdm/some\n"),
        ("  pretrain_steps: 700\n", ""),
        ("  pretrain_learning_rate: 7.0e-4\n", ""),
    ],
)
def test_a_base_is_trained_or_published(tmp_path, old, new):
    with pytest.raises(InputError, match="either trained here .* or published"):
        load_track(changed(tmp_path, old, new))


def test_the_paper_track_keeps_the_published_settings():
    track = load_track("paper")
    training = track.training
    assert track.checkpoint and track.prior is None and training.pretrain_steps is None
    assert (training.finetune_learning_rate, training.batch_size) == (1e-4, 64)
    assert (training.ema_decay, training.condition_dropout) == (0.9999, 0.1)
    assert len(track.recordings.sites) == 7 and len(track.har.seeds) == 10


def test_unknown_track_lists_the_known():
    with pytest.raises(InputError, match="cmu, demo, paper"):
        load_track("nowhere")


def test_missing_data_set_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setenv("T2IMU_DATA", str(tmp_path))
    with pytest.raises(InputError, match="T2IMU_DATA"):
        data_set("cmu")
