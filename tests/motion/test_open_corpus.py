"""The open corpus: how takes become clips, and which are refused."""

from dataclasses import replace

import numpy as np
import pytest

from t2imu_utils.motion.cmu import TARGET_OFFSETS
from t2imu_utils.motion.features import RATE, features_to_joints, joints_to_features
from t2imu_utils.motion.open_corpus import MAX_FRAMES, _halves, broken, cut, split_of, to_clips
from t2imu_utils.motion.skeleton import PARENTS
from t2imu_utils.motion.takes import Take


def standing(seconds: float, rate: float = 30.0) -> Take:
    """A person who sways to and fro, of the standard body."""
    pose = np.zeros((22, 3))
    for joint in range(1, 22):
        pose[joint] = pose[PARENTS[joint]] + TARGET_OFFSETS[joint]
    pose[..., 1] -= pose[..., 1].min()
    t = np.arange(round(seconds * rate)) / rate
    sway = 0.02 * np.sin(2 * np.pi * 0.5 * t)[:, None, None] * pose[None, :, 1:2]
    joints = pose + sway * [0.0, 0.0, 1.0]
    return Take("bandai", "CC", "bandai-2", "t_011", "walk", "normal", joints, rate, texts=("a",))


@pytest.mark.parametrize("seconds", [3.0, 9.7, 25.0, 61.0])
def test_pieces_cover_a_take_without_overlap(seconds):
    take = standing(seconds)
    pieces = cut(take)
    joined = np.concatenate([piece.joints for piece in pieces])
    assert max(len(p.joints) for p in pieces) <= np.ceil(MAX_FRAMES / RATE * take.rate)
    assert len({p.trial for p in pieces}) == len(pieces)
    np.testing.assert_array_equal(joined, take.joints[: len(joined)])
    assert len(take.joints) - len(joined) < take.rate  # less than the shortest clip


def test_speed_shortens_and_accelerates_by_its_square():
    def acceleration(clip):
        joints = features_to_joints(clip.features)[5:-5]
        return np.linalg.norm(np.diff(joints, 2, axis=0), axis=-1).mean()

    take = standing(8.0)
    usual, mirror = to_clips(take)
    fast, _ = to_clips(take, 1.25)
    assert len(usual.features) == pytest.approx(160, abs=2) == len(mirror.features)
    assert len(fast.features) == pytest.approx(128, abs=2)
    assert acceleration(fast) == pytest.approx(1.25**2 * acceleration(usual), rel=0.05)


def test_clips_that_float_or_jump_are_refused():
    joints = standing(4.0, RATE).joints
    assert broken(joints_to_features(joints)) == ""
    floating = joints.copy()
    floating[3:, :, 1] += 0.2  # one glitch of the floor and all else hovers
    assert "cm up" in broken(joints_to_features(floating))
    assert broken(joints_to_features(floating), on_floor=False) == ""
    jumping = joints.copy()
    jumping[40] += 0.5
    assert "m/s²" in broken(joints_to_features(jumping))


def test_stairs_are_cut_where_they_turn():
    take = replace(
        standing(10.0), source="cmu", subject="13", trial="13_35_f00020", content="climb 3 steps"
    )
    t = np.linspace(0, 1, len(take.joints))
    climbing = take.joints + np.minimum(t, 0.6 * (1 - t) / 0.4)[:, None, None] * [0, 1, 0]
    up, down = _halves(replace(take, joints=climbing))
    assert len(up.joints) == pytest.approx(0.6 * len(t), abs=2)
    assert len(up.joints) + len(down.joints) == len(t)
    assert up.trial == "13_35_f00020"
    assert int(down.trial[-5:]) == pytest.approx(140, abs=2)


def test_splits_share_no_person_and_no_take():
    take = standing(2.0)
    assert split_of(replace(take, trial="walk_010")) == "test"
    assert split_of(replace(take, trial="walk_015")) == "val"
    assert split_of(take) == "train"
    cmu = replace(take, source="cmu", subject="14", trial="14_22_f00001")
    assert split_of(cmu) == "test"
    assert split_of(replace(cmu, trial="14_27_f00001")) == "train"  # sitting is scarce
