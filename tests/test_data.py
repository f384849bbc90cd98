"""Stage 00 on a made-up track of the smallest size, built once for all tests here."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.testing import assert_array_equal

from t2imu_utils import data, demo, runs
from t2imu_utils.activities import CATEGORIES
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.tracks import TRACKS, load_track
from tests.gait import Gaits

# Clips of each split, of nine activities; the second person who wears phones is the one of whom a
# stream is missing.
SPLITS = {"train": 18, "val": 9, "test": 9}
PEOPLE = 2
CLASSES = ["lying", "running", "walking"]


@pytest.fixture(scope="module")
def track(tmp_path_factory):
    """The track, prepared of closed-form gaits; its runs folder stays set for this module."""
    folder = tmp_path_factory.mktemp("data")
    values = yaml.safe_load((TRACKS / "demo.yaml").read_text())
    values["corpus"]["made_up"], values["recordings"]["made_up"] = 1, PEOPLE
    values["recordings"]["classes"] = CLASSES
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    written = yaml.safe_load(demo.SENTENCES.read_text())
    few = {
        split: {activity: pairs[: count // 9] for activity, pairs in written[split].items()}
        for split, count in SPLITS.items()
    }
    sentences = folder / "sentences.yaml"
    sentences.write_text(yaml.safe_dump(written | few))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2IMU_RUNS", str(folder / "runs"))
        patch.setattr(demo, "SENTENCES", sentences)
        patch.setattr(demo, "MDMGenerator", lambda solver: Gaits())
        # In this process, which knows of the gaits.
        patch.setattr(data, "Parallel", lambda n_jobs: lambda jobs: [f(*a) for f, a, _ in jobs])
        track = load_track(str(path))
        data.prepare(track)
        yield track


@pytest.fixture
def run(track):
    return runs.load_run(track.name, runs.SHARED, data.STAGE)


def test_what_was_prepared_is_counted(run):
    # Who wears phones does everything three times.
    assert run.metrics == {"clips": SPLITS, "recordings": PEOPLE * len(CLASSES) * 3, "skipped": 1}
    for name in ("corpus", "recordings.npz", "categories.parquet", "census.parquet"):
        assert run.path(name).exists()


def test_no_clip_and_no_sentence_is_in_two_splits(track):
    parts = {split: data.load_motions(track, split) for split in SPLITS}
    names = [clip.name for part in parts.values() for clip in part]
    assert len(names) == len(set(names)) == sum(SPLITS.values())
    captions = [{text for clip in part for text in clip.captions} for part in parts.values()]
    assert len(set.union(*captions)) == sum(map(len, captions))
    for part in parts.values():
        assert len({clip.activity for clip in part}) == 9
        assert all(clip.captions and np.isfinite(clip.features).all() for clip in part)
    with pytest.raises(InputError, match="nosplit"):
        data.load_motions(track, "nosplit")


def test_the_corpus_as_a_table(track, run):
    table = data.corpus_table(track, run).set_index("name")
    assert table["split"].value_counts().to_dict() == SPLITS
    category = data.load_categories(track)
    assert table["category"].astype(str).to_dict() == category.to_dict()
    assert tuple(table["category"].cat.categories) == CATEGORIES
    for split in SPLITS:
        for clip in data.load_motions(track, split):
            row = table.loc[clip.name]
            assert (row["split"], row["subject"]) == (split, clip.subject)
            assert row["minutes"] == pytest.approx(len(clip.features) / 1200)
    assert table["minutes"].between(2.9 / 60, 6 / 60).all()


def test_minutes_by_hand():
    acc = [np.zeros((n, 2, 3)) for n in (1200, 600, 2400)]
    acc[0][:600, 1, 2] = np.nan
    rows = [{"activity": a} for a in ("walking", "lying", "walking")]
    clips = Clips.from_list(rows, {"acc": acc}, {"rate": 20.0, "sites": ["head", "shin"]})
    table = data.minutes_recorded(clips)
    assert table.loc["walking"].to_dict() == {"head": 3.0, "shin": 2.5}
    assert table.loc["lying"].to_dict() == {"head": 0.5, "shin": 0.5}


def test_the_census_counts_minutes_by_how_they_were_made(tmp_path):
    rows = [
        ("train", "walking", "cmu", made, n) for made, n in (("recorded", 2.04), ("mirrored", 2.0))
    ]
    rows += [
        ("train", "walking", "cmu", "recorded", 1.0),
        ("test", "lying", "deepmimic", "held", 0.5),
    ]
    columns = ["split", "activity", "source", "made", "minutes"]
    pd.DataFrame(rows, columns=columns).to_parquet(tmp_path / "census.parquet")
    made = runs.Run(tmp_path, {}, {}, "")
    table = data.census_table(made)
    walking = {"held": 0.0, "mirrored": 2.0, "recorded": 3.0}
    assert table.loc["train", "walking", "cmu"].to_dict() == walking
    assert table.loc["test", "lying", "deepmimic"]["held"] == 0.5 and len(table) == 2
    pd.DataFrame({"name": ["a"]}).to_parquet(tmp_path / "census.parquet")
    assert data.census_table(made).empty


def limited(track, count):
    analysis = track.analysis.model_copy(update={"max_clips": count})
    return track.model_copy(update={"analysis": analysis})


def test_test_clips_are_at_most_as_many_as_the_track_says(track):
    clips, table = data.test_clips(limited(track, 4))
    assert len(clips) == len(table) == 4 == table["clip"].nunique()
    again, same = data.test_clips(limited(track, 4))
    pd.testing.assert_frame_equal(table, same)
    for one, other in zip(clips, again, strict=True):
        assert_array_equal(one.features, other.features)
    # In the order of the corpus, but not its first clips.
    assert table["clip"].is_monotonic_increasing
    everything = [clip.name for clip in data.load_motions(track, "test")]
    assert set(table["clip"]) < set(everything) and table["clip"].tolist() != everything[:4]
    more = data.test_clips(limited(track, 6))[1]
    assert set(table["clip"]) < set(more["clip"])


def test_clips_of_one_trial_are_one_unit(track, monkeypatch):
    clip = data.load_motions(track, "test")[0]
    cut = [
        replace(clip, source="trial 7"),
        replace(clip, source="trial 7"),
        replace(clip, source=""),
    ]
    monkeypatch.setattr(data, "load_motions", lambda track, split: cut)
    table = data.test_clips(track)[1]
    assert table["unit"].tolist() == ["trial 7", "trial 7", clip.name]


def test_copies_of_recordings_are_no_recordings(track):
    clip = data.load_motions(track, "train")[0]
    names = ["01_01_00", "M01_01_00", "01_01_00x1.1", "M01_01_00x0.9", "Max", "take x", "x1"]
    given = [replace(clip, name=name) for name in names]
    assert [c.name for c in data.recorded(given)] == ["01_01_00", "Max", "take x", "x1"]


def test_a_broken_recording_is_left_out_and_named(track, monkeypatch):
    whole, _ = data.test_clips(limited(track, 100))
    clip = whole[0]
    shaken = clip.features.copy()
    shaken[::2, 4:67] += 0.3  # all joints but the pelvis jump at 10 Hz
    splits = {"test": [clip, replace(clip, name="shaken", features=shaken)]}
    monkeypatch.setattr(data, "load_motions", lambda _, split: splits.get(split, []))
    category = pd.Series("standing", [clip.name, "shaken"])
    monkeypatch.setattr(data, "load_categories", lambda _: category)
    kept, table = data.test_clips(limited(track, 100))
    assert [c.name for c in kept] == [clip.name] == table["clip"].tolist()
    assert table.attrs["broken"] == ["shaken"]
    assert [c.name for c in data.recorded(splits["test"])] == [clip.name]
