import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation import quality
from t2imu_utils.motion.features import features_to_joints
from tests.gait import gait_corpus


@pytest.fixture(scope="module")
def real():
    """Made-up clips of nine kinds, by kind; "lying" is left out of what is learned from."""
    clips, _ = gait_corpus(54)
    return clips, pd.Series({clip.name: clip.activity for clip in clips})


@pytest.fixture(scope="module")
def reference(real):
    clips, category = real
    return quality.fit_reference([c for c in clips if c.activity != "lying"], category)


def as_motions(clips, change=lambda joints: joints):
    joints = [change(features_to_joints(clip.features).astype(float)) for clip in clips]
    return Clips.from_list([{"activity": c.activity} for c in clips], {"joints": joints})


def shaken(size):
    rng = np.random.default_rng(0)
    return lambda joints: joints + size * rng.standard_normal(joints.shape)


def test_a_motion_is_the_logarithms_that_are_named():
    """A body that swings as a whole 2 cm up and down, twice a second."""
    time = np.arange(80) / 20
    height = 0.02 * np.sin(2 * np.pi * 2 * time)
    joints = np.random.default_rng(0).normal(size=(22, 3)) + height[:, None, None] * [0, 1, 0]
    found = pd.Series(quality.motion_features(joints), quality.FEATURES)
    assert len(found) == 14
    speed = np.abs(np.diff(height)).mean() * 20
    assert_allclose(np.exp(found.filter(like="speed")), speed)
    acceleration = np.abs(np.diff(height, n=2)).mean() * 400
    assert_allclose(np.exp(found.filter(like="acceleration")), acceleration)
    assert found["1.5-2.5 Hz"] > 5 + found["5.5-10 Hz"] and found["foot skate"] == np.log(1e-3)
    # Standing quite still is told by finite numbers.
    still = quality.motion_features(np.broadcast_to(joints[0], joints.shape))
    assert_allclose(still, np.log([1e-3] * 10 + [1e-4] * 4))


def test_shaken_sliding_and_sluggish_motions_are_farther_from_real_ones(real, reference):
    clips = [clip for clip in real[0] if clip.activity == "walking"]
    glide = np.array([0.5, 0, 0.5]) / 20
    changes = {
        "real": lambda joints: joints,
        "shaken a little": shaken(0.005),
        "shaken": shaken(0.02),
        "sliding": lambda joints: joints + np.arange(len(joints))[:, None, None] * glide,
        "slow": lambda joints: np.repeat(joints, 4, axis=0),
    }
    found = {
        name: quality.score_motions(as_motions(clips, change), reference)["score"].median()
        for name, change in changes.items()
    }
    assert 0.3 < found["real"] < 1.5
    assert found["real"] < found["shaken a little"] < found["shaken"]
    assert min(found["sliding"], found["slow"], found["shaken"]) > 2 * found["real"]


def test_a_motion_is_held_against_its_own_category(real, reference):
    running = as_motions([clip for clip in real[0] if clip.activity == "running"])
    as_asked = quality.score_motions(running, reference)
    lazy = Clips(running.table.assign(activity="sitting"), running.arrays)
    assert (quality.score_motions(lazy, reference)["score"] > 2 * as_asked["score"]).all()
    stairs = Clips(running.table.assign(activity="climbing up"), running.arrays)
    assert set(quality.score_motions(stairs, reference)["category"]) == {"stair climbing"}


def test_a_category_that_training_lacks_is_held_against_the_nearest(real, reference):
    assert "lying" not in reference.centre
    motions = as_motions([clip for clip in real[0] if clip.activity == "running"])
    unknown = Clips(motions.table.assign(activity="lying"), motions.arrays)
    found, known = (quality.score_motions(m, reference)["score"] for m in (unknown, motions))
    assert (found <= known + 1e-12).all() and np.isfinite(found).all()
    table = quality.by_activity(quality.score_motions(unknown, reference), reference)
    assert table.loc["lying", "real"] == 0 and np.isnan(table.loc["lying", "outside (%)"])


def scores(values, activity="walking"):
    return pd.DataFrame(
        {"motion": range(len(values)), "activity": activity, "category": activity, "score": values}
    )


def test_the_best_share_of_each_activity_is_kept():
    table = pd.concat([scores([5.0, 1, 4, 2], "running"), scores([90.0, 70, 80], "walking")])
    assert quality.best(table, 1.0).all()
    assert quality.best(table, 0.75).tolist() == [False, True, True, True, True, True, True]
    assert quality.best(table, 0.5).tolist() == [False, True, False, True, False, True, True]
    assert quality.best(table, 0.25).tolist() == [False, True, False, False, False, True, False]
    shuffled = table.sample(frac=1, random_state=0)
    assert set(shuffled[quality.best(shuffled, 0.5)]["score"]) == {1, 2, 70, 80}


def test_equal_scores_are_kept_by_number_and_shares_are_whole():
    assert quality.best(scores([1.0] * 30), 0.1).tolist() == [True] * 3 + [False] * 27
    table = scores([1.0] * 30).sample(frac=1, random_state=1)
    assert sorted(table[quality.best(table, 0.1)]["motion"]) == [0, 1, 2]
    for share in (0, 1.01, -0.5):
        with pytest.raises(InputError, match="more than 0 and at most 1"):
            quality.best(table, share)


def test_scores_are_listed_by_activity(real, reference):
    clips = [clip for clip in real[0] if clip.activity in ("walking", "running")]
    motions = as_motions(clips, shaken(0.05))
    numbered = Clips(motions.table.assign(motion=range(70, 70 + len(clips))), motions.arrays)
    found = quality.score_motions(numbered, reference)
    assert found["motion"].tolist() == list(range(70, 70 + len(clips)))
    table = quality.by_activity(found, reference)
    assert table.index.tolist() == ["running", "walking"] and (table["outside (%)"] == 100).all()
    assert (table["motions"] == 6).all() and (table["real"] >= 6).all()
    assert (table["median"] > 2 * table["real median"]).all()
    assert (table["worst"] >= table["median"]).all()


def test_too_few_clips_are_no_reference(real):
    with pytest.raises(InputError, match="2 pieces of motion"):
        quality.fit_reference([c for c in real[0] if len(c.features) < 100][:2], real[1])
