"""Stage 00 on a made-up track of the smallest size, built once for all tests here."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.testing import assert_allclose, assert_array_equal

from t2imu_utils import data, demo, runs
from t2imu_utils.activities import CATEGORIES, POSITIONS
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.files import write_table
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.motion.features import features_to_joints
from t2imu_utils.tracks import TRACKS, load_track
from tests.gait import Gaits

# One clip of each sentence, each for one split; the second person who wears phones is the one of
# whom a stream is missing.
SPLITS = {"train": 54, "val": 9, "test": 18}
CLIPS, PEOPLE = 81, 2
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2IMU_RUNS", str(folder / "runs"))
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
    assert run.metrics == {
        "clips": SPLITS,
        "recordings": PEOPLE * len(CLASSES) * 3,
        "skipped": 1,
    }
    names = {file.rsplit("/", 1)[1] for file in run.written()["file"]}
    assert names == {
        "corpus", "recordings.npz", "recordings.parquet", "categories.parquet", "census.parquet",
        "skipped.parquet",
    }  # fmt: skip


def test_the_corpus_is_built_at_the_speeds_of_the_track(track, tmp_path, monkeypatch):
    corpus = track.corpus.model_copy(update={"reader": "cmu", "made_up": None})
    plain, faster = (
        track.model_copy(update={"corpus": corpus.model_copy(update={"speeds": speeds})})
        for speeds in ([], [0.9, 1.1])
    )
    monkeypatch.setenv("T2IMU_DATA", str(tmp_path))
    (tmp_path / "cmu").mkdir()
    asked = []

    def build(root, **options):
        asked.append(options["speeds"])
        raise KeyboardInterrupt

    monkeypatch.setattr("t2imu_utils.motion.cmu.build_cmu", build)
    for chosen in (plain, faster):
        with pytest.raises(KeyboardInterrupt):
            data._motions(chosen)  # `prepare` calls it in a process of its own
    assert asked == [[], [0.9, 1.1]]


def test_no_clip_and_no_sentence_is_in_two_splits(track):
    parts = {split: data.load_motions(track, split) for split in SPLITS}
    names = [clip.name for part in parts.values() for clip in part]
    assert len(names) == len(set(names)) == CLIPS
    captions = [{text for clip in part for text in clip.captions} for part in parts.values()]
    assert len(set.union(*captions)) == sum(map(len, captions))
    for part in parts.values():
        assert len({clip.activity for clip in part}) == 9
        assert all(clip.captions and np.isfinite(clip.features).all() for clip in part)
    with pytest.raises(InputError, match="nosplit"):
        data.load_motions(track, "nosplit")


def test_every_clip_has_a_category(track):
    category = data.load_categories(track)
    clips = [clip for split in SPLITS for clip in data.load_motions(track, split)]
    assert set(category.index) == {clip.name for clip in clips} and category.index.is_unique
    assert set(category) <= set(CATEGORIES)
    # Categories belong to their clips: whoever runs is never dancing or sitting.
    for clip in clips:
        kind = "stair climbing" if clip.activity.startswith("climbing") else clip.activity
        assert category[clip.name] in (kind, "other")
    assert (category != "other").sum() > CLIPS / 2


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


def test_the_longest_clip_of_each_category(track, run):
    table = data.corpus_table(track, run)
    motions = data.load_motions(track, "train")
    found = data.one_per_category(motions, table)
    assert list(found) == [c for c in CATEGORIES if c in found]
    category = data.load_categories(track)
    assert set(found) == {category[clip.name] for clip in motions}
    for name, clip in found.items():
        own = [len(m.features) for m in motions if category[m.name] == name]
        assert category[clip.name] == name and len(clip.features) == max(own)


def test_people_do_everything_and_the_missing_stream_is_told(track, run):
    recordings = data.load_recordings(track)
    pairs = set(zip(recordings.table["subject"], recordings.table["activity"], strict=True))
    assert pairs == {(who, what) for who in (1, 2) for what in CLASSES}
    assert recordings.meta["rate"] == 20.0 and recordings.meta["sites"] == list(POSITIONS)
    skipped = pd.read_parquet(run.path("skipped.parquet"))
    assert len(skipped) == 1
    name, reason = skipped.iloc[0][["name", "reason"]]
    assert all(word in name for word in ("proband2", "walking session 2", "forearm"))
    assert "no usable acc" in reason
    missing = recordings.table.query(
        "subject == 2 and session == 2 and activity == 'walking'"
    ).index
    at = POSITIONS.index("forearm")
    for index in range(len(recordings)):
        assert np.isnan(recordings[index]["acc"][:, at]).all() == (index in missing)


def test_minutes_that_were_recorded(track):
    recordings = data.load_recordings(track)
    table = data.minutes_recorded(recordings)
    assert table.index.tolist() == CLASSES and table.columns.tolist() == list(POSITIONS)
    # Three sessions of 6 s of two people; one forearm was not recorded in one of them.
    assert table.loc["walking", "forearm"] == 0.5
    assert (table.drop(columns="forearm") == 0.6).all(axis=None)


def test_minutes_by_hand():
    acc = [np.zeros((n, 2, 3)) for n in (1200, 600, 2400)]
    acc[0][:600, 1, 2] = np.nan
    rows = [{"activity": a} for a in ("walking", "lying", "walking")]
    clips = Clips.from_list(rows, {"acc": acc}, {"rate": 20.0, "sites": ["head", "shin"]})
    table = data.minutes_recorded(clips)
    assert table.loc["walking"].to_dict() == {"head": 3.0, "shin": 2.5}
    assert table.loc["lying"].to_dict() == {"head": 0.5, "shin": 0.5}


def test_nothing_was_cut_from_made_up_motion(run):
    assert len(data.dropped(run)) == 0


def test_frames_cut_by_rule(tmp_path):
    census = pd.DataFrame(
        {"name": ["a", "b"], "dropped: jumps": [120, 60], "dropped: floor": [0, 12], "kept": [5, 6]}
    )
    census.to_parquet(tmp_path / "census.parquet")
    table = data.dropped(runs.Run(tmp_path, {}, {}, ""))
    assert table.to_dict("index") == {
        "jumps": {"frames": 180, "seconds": 1.5},
        "floor": {"frames": 12, "seconds": 0.1},
    }


def limited(track, count):
    analysis = track.analysis.model_copy(update={"max_clips": count})
    return track.model_copy(update={"analysis": analysis})


def test_test_clips_are_those_of_the_test_splits(track):
    clips, table = data.test_clips(limited(track, 100))
    held_out = data.load_motions(track, "test")
    assert [clip.name for clip in clips] == [clip.name for clip in held_out]
    assert table["clip"].tolist() == [clip.name for clip in clips]
    assert set(table["split"]) == {"test"}
    assert table["unit"].tolist() == [clip.source for clip in held_out]
    assert table["unit"].nunique() == SPLITS["test"]
    category = data.load_categories(track)
    assert table["category"].tolist() == [category[clip.name] for clip in clips]


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


def test_corpus_clips_as_joints(track):
    motions = data.load_motions(track, "val")
    clips = data.as_clips(motions)
    assert clips.table["frames"].tolist() == [len(motion.features) for motion in motions]
    assert clips.table["name"].tolist() == [motion.name for motion in motions]
    assert set(clips.table["subject"]) == {motions[0].subject}
    assert clips.meta == {"rate": 20.0}
    for index, motion in enumerate(motions):
        assert_allclose(clips[index]["joints"], features_to_joints(motion.features))
    assert isinstance(motions[0], MotionClip) and clips.arrays["joints"].shape[1:] == (22, 3)


@pytest.mark.parametrize(
    ("load", "stage", "name"),
    [(data.load_imu, "04_imu_synthesis", "imu"), (data.load_sampled, "03_smpl_fitting", "motions")],
)
def test_results_of_a_model_are_read_from_its_own_stage(track, load, stage, name):
    for value, model in enumerate(("mdm", "mdm-ft")):
        run = runs.open_run(track.name, model, stage, {}, {})
        clips = Clips.from_list([{"activity": "walking"}], {"acc": [np.full((3, 1), value)]})
        run.finish({}, clips.save(run.path(name)))
    assert load(track, "mdm-ft").arrays["acc"].tolist() == [[1]] * 3
    with pytest.raises(InputError, match=f"mdm-acc9.*{stage}"):
        load(track, "mdm-acc9")


def test_requests_are_those_of_stage_01(track):
    table = pd.DataFrame({"prompt": ["walks"], "frames": [60], "seed": [1]})
    run = runs.open_run(track.name, runs.SHARED, "01_prompt_generation", {}, {})
    with pytest.raises(InputError, match="01_prompt_generation of shared"):
        data.load_requests(track)
    path = write_table(run.path("requests.parquet"), table)
    run.finish({}, [path])
    pd.testing.assert_frame_equal(data.load_requests(track), table)
