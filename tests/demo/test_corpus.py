"""The made-up corpus: counts, lengths, sentences, splits, seeds."""

import re

import numpy as np
import pytest

from t2imu_utils.demo.corpus import KINDS, SECONDS, SUBJECTS, build_corpus
from t2imu_utils.demo.sentences import describe
from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import read_corpus, write_corpus
from t2imu_utils.motion.features import CONTACTS, features_to_joints

SIZE = 54


@pytest.fixture(scope="module")
def corpus():
    return build_corpus(seed=0, clips=SIZE)


def test_counts_lengths_and_captions(corpus):
    clips, splits = corpus
    assert len(clips) == len({clip.name for clip in clips}) == SIZE
    for clip in clips:
        assert SECONDS[0] * 20 <= len(clip.features) <= SECONDS[1] * 20
        assert clip.features.shape[1] == 263 and clip.features.dtype == np.float32
        assert np.isfinite(clip.features).all()
        assert len(set(clip.captions)) == 3
        assert all(4 < len(c) < 160 and c == c.strip() and "  " not in c for c in clip.captions)
        assert "synthetic" in clip.source
    activities = [clip.activity for clip in clips]
    assert all(activities.count(kind) == SIZE // len(KINDS) for kind in KINDS)


def test_splits_share_no_subject_and_hold_every_kind(corpus):
    clips, splits = corpus
    by_name = {clip.name: clip for clip in clips}
    subjects = {split: {by_name[n].subject for n in names} for split, names in splits.items()}
    assert set(splits) == set(SUBJECTS)
    assert sorted(n for names in splits.values() for n in names) == sorted(by_name)
    for one in subjects:
        for other in subjects:
            assert one == other or not subjects[one] & subjects[other]
    for names in splits.values():
        assert {by_name[name].activity for name in names} == set(KINDS)


def test_feet_are_at_rest_in_the_features_too(corpus):
    clips, _ = corpus
    contact = {
        kind: np.mean([c.features[:, CONTACTS].mean() for c in clips if c.activity == kind])
        for kind in KINDS
    }
    assert contact["standing"] == 1 and contact["sitting"] == 1
    assert 0.5 < contact["walking"] < 0.9
    assert 0.1 < contact["running"] < 0.5


def test_seed_decides_everything(corpus):
    clips, _ = corpus
    again, _ = build_corpus(seed=0, clips=27)
    other, _ = build_corpus(seed=1, clips=27)
    for first, second in zip(clips, again, strict=False):
        assert np.array_equal(first.features, second.features)
        assert first.captions == second.captions and first.subject == second.subject
    same = [
        a.features.shape == b.features.shape and np.allclose(a.features, b.features)
        for a, b in zip(clips, other, strict=False)
    ]
    assert not any(same)


def test_round_trip_on_disk(corpus, tmp_path):
    clips, splits = corpus
    write_corpus(tmp_path / "corpus", clips, splits)
    back = read_corpus(tmp_path / "corpus", "test")
    assert [clip.name for clip in back] == splits["test"]
    by_name = {clip.name: clip for clip in clips}
    for clip in back:
        assert np.allclose(clip.features, by_name[clip.name].features)
        assert clip.captions == by_name[clip.name].captions
        assert clip.activity == by_name[clip.name].activity


def test_sentences_name_their_motion(corpus):
    """The words of one kind do not turn up in another's: no sentence could stand for two kinds."""
    stems = {
        "walking": ("walk",),
        "running": ("run", "jog", "sprint"),
        "jumping": ("jump", "hop"),
        "dancing": ("danc",),
        "sitting": ("sit",),
        "standing": ("stand",),
        "lying": ("lies", "lying"),
        "climbing up": (" up ", "ascend"),
        "climbing down": (" down ", "descend"),
    }
    clips, _ = corpus
    for clip in clips:
        for caption in clip.captions:
            assert any(stem in f" {caption} " for stem in stems[clip.activity]), caption
            if clip.activity.startswith("climbing"):
                assert "stair" in caption
                wrong = "(down|descend)" if clip.activity == "climbing up" else "(up|ascend)"
                assert not re.search(rf"{wrong}\w* (the|a) (spiral )?stair", caption), caption


def test_sentences_tell_speed_and_direction():
    words = {"speed": "slowly", "course": "in a circle", "style": "", "start": ""}
    for seed in range(20):
        first = describe(np.random.default_rng(seed), "walking", words)[0]
        assert "in a circle" in first
        assert any(word in first for word in ("slowly", "slow pace", "unhurriedly"))


def test_too_small_a_corpus_is_refused():
    with pytest.raises(InputError, match="at least 27"):
        build_corpus(clips=10)


def test_features_hold_no_jump(corpus):
    """Turning by half a turn against the first frame, for one, must not flip the recovered body."""
    clips, _ = corpus
    for clip in clips:
        joints = features_to_joints(clip.features)
        acceleration = np.linalg.norm(np.diff(joints, 2, axis=0), axis=-1) * 20.0**2
        assert acceleration.max() < 180, clip.name
