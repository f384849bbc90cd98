"""Tracks: the files in the repository are valid, and a wrong one is told where it is wrong."""

import pytest

from t2imu_utils.activities import ACTIVITIES, CATEGORIES, SITES
from t2imu_utils.errors import InputError
from t2imu_utils.models.generator import family, sizes_of
from t2imu_utils.tracks import TRACKS, load_track


@pytest.mark.parametrize("path", sorted(TRACKS.glob("*.yaml")), ids=lambda path: path.stem)
def test_tracks_of_the_repository(path):
    track = load_track(path.stem)
    labels = ACTIVITIES if track.recordings.labels == "activities" else CATEGORIES
    assert set(track.recordings.classes) <= set(labels)
    assert set(track.recordings.sites) <= set(SITES)
    assert track.synthetic == ("synthetic" in track.title)
    for name, section in track.generators.items():
        sizes = sizes_of(track, name)
        assert sizes is None if section.checkpoint else isinstance(sizes, family(name).Sizes)


def changed(tmp_path, old, new):
    path = tmp_path / "mine.yaml"
    text = (TRACKS / "demo.yaml").read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return str(path)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("reader: demo", "reader: amass", "corpus.reader"),
        ("  train: train\n", "", "corpus.train"),
        ("body: open\n", "body: open\nprior: {}\n", "prior"),
        ("  batch_size: 16", "  batch_size: 16.5", "training.batch_size"),
        ("  t2mgpt:\n", "  t2m-gpt:\n", "generators.t2m-gpt"),
        ("  mdm:\n    refined: true", "  mdm:\n    refined: often", "generators.mdm.refined"),
        ("    guidance: 1.5", "    guidance: 0.0", "generators.mdm.guidance"),
        ("  mdm:\n", "  mdm:\n    pretrain_steps: 0\n", "generators.mdm.pretrain_steps"),
    ],
)
def test_wrong_field_is_named(tmp_path, old, new, field):
    with pytest.raises(InputError, match=rf"mine.yaml: {field}"):
        load_track(changed(tmp_path, old, new))


def test_a_track_lies_over_the_one_that_it_extends_and_null_leaves_out(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: open\nmore_recordings: null\nstudy: null\nhar: {epochs: 2}\n")
    mine, below = load_track(str(path)), load_track("open")
    assert mine.more_recordings == {} and mine.study is None and mine.har.epochs == 2
    assert below.more_recordings and mine.har.units == below.har.units


def test_a_track_that_is_no_text_is_told(tmp_path):
    (tmp_path / "mine.yaml").write_bytes("title: Läufe".encode("latin-1"))
    with pytest.raises(InputError, match="mine.yaml: found no valid YAML"):
        load_track(str(tmp_path / "mine.yaml"))


def test_what_is_published_needs_no_budget_and_no_sizes(tmp_path):
    text = (TRACKS / "demo.yaml").read_text()
    before, rest = text.split("generators:\n")
    after = rest.split("\ntraining:\n")[1]
    for line in ("  pretrain_steps: 200\n", "  pretrain_learning_rate: 1.0e-3\n"):
        after = after.replace(line, "")
    path = tmp_path / "mine.yaml"
    path.write_text(f"{before}generators:\n  mdm:\n    checkpoint: some\ntraining:\n{after}")
    track = load_track(str(path))
    assert track.training.pretrain_steps is None and sizes_of(track, "mdm") is None
    assert track.generators["mdm"].checkpoint == "some" and not track.generators["mdm"].refined


def test_a_generator_may_have_steps_of_its_own(tmp_path):
    track = load_track(changed(tmp_path, "  mdm:\n", "  mdm:\n    pretrain_steps: 4000\n"))
    assert track.generators["mdm"].pretrain_steps == 4000
    assert track.generators["momask"].pretrain_steps is None
    assert sizes_of(track, "mdm") == sizes_of(load_track("demo"), "mdm")
    exported = "  exported:\n    pretrain_steps: 9\n  mdm:\n"
    with pytest.raises(InputError, match="motions that others made take no pretrain_steps"):
        load_track(changed(tmp_path, "  mdm:\n", exported))


def test_the_paper_track_keeps_the_published_settings():
    track = load_track("paper")
    training = track.training
    assert all(section.checkpoint for section in track.generators.values())
    assert training.pretrain_steps is None and track.generators["mdm"].refined
    assert (training.finetune_learning_rate, training.batch_size) == (1e-4, 64)
    assert (training.ema_decay, training.condition_dropout) == (0.9999, 0.1)
    assert len(track.recordings.sites) == 7 and len(track.har.seeds) == 10
