"""DeepMimic's format: a made-up pose for directions, CMU trials read from their AMC for facts."""

import json

import numpy as np
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.motion.cmu import WIDTH, find_sources, parse_deepmimic, read_deepmimic, read_trial
from t2imu_utils.motion.skeleton import JOINTS, PARENTS, bone_lengths


def pose(knee: float, elbow: float) -> list[float]:
    """A row of the humanoid upright, one angle at both knees and one at both elbows."""
    quat = [1.0, 0.0, 0.0, 0.0]
    arm_and_leg = [*quat, knee, *quat, *quat, elbow]
    return [0.02, 1.0, 0.9, 2.0, *quat * 3, *arm_and_leg * 2]


def test_bent_knees_point_ahead_and_bent_elbows_lift_hands_ahead():
    text = json.dumps({"Frames": [pose(-1.0, 1.0)] * 3})
    joints, rate = parse_deepmimic(text, "made up")
    at = dict(zip(JOINTS, joints[1], strict=True))
    assert rate == 50
    np.testing.assert_allclose(at["pelvis"], [-2, 0.98, 1])
    assert at["left_hip"][0] > at["right_hip"][0]
    assert at["left_shoulder"][0] > at["neck"][0] > at["right_shoulder"][0]
    for side in ("left", "right"):
        assert at[f"{side}_ankle"][2] < at[f"{side}_knee"][2] - 0.3
        assert at[f"{side}_wrist"][2] > at[f"{side}_elbow"][2] + 0.2


def test_a_gap_is_skipped_with_its_reason(tmp_path):
    good = [pose(0, 0)] * 3
    bad = [*good, [float("nan")] * WIDTH]
    (tmp_path / "deepmimic").mkdir()
    for trial, rows in (("01_01", good), ("01_02", bad)):
        (tmp_path / "deepmimic" / f"{trial}.txt").write_text(json.dumps({"Frames": rows}))
    takes, skipped = read_deepmimic(tmp_path)
    assert [take.trial for take in takes] == ["01_01"]
    assert [left.name for left in skipped] == ["01_02"]
    with pytest.raises(InputError):
        read_deepmimic(tmp_path / "deepmimic")


@pytest.fixture(scope="module")
def takes(real_data):
    return {take.trial: take for take in read_deepmimic(real_data)[0]}


def test_recorded_trials_agree_with_the_originals_legs(takes, real_data):
    """Directions of thighs and shins after the database's own AMC, a frame later."""
    sources = find_sources(real_data / "cmu")
    legs = [JOINTS.index(f"{side}_{j}") for side in ("left", "right") for j in ("knee", "ankle")]
    for trial in ("02_02", "07_03"):
        ours, theirs = takes[trial].joints, read_trial(sources, trial, "amc").joints[4::4]
        bones = [_directions(joints[: len(ours)])[:, legs] for joints in (ours, theirs)]
        assert (bones[0] * bones[1]).sum(-1).min() > np.cos(np.radians(6))


def test_recorded_bodies_have_one_size_and_fall_at_g(takes):
    for take in takes.values():
        change = np.ptp(bone_lengths(take.joints), axis=0)
        assert change[[1, 2, 4, 5, 7, 8, 18, 19, 20, 21]].max() < 1e-6
    heights = takes["127_26"].joints[:, 0, 1]
    top = heights.argmax()
    flight = slice(top - 6, top + 7)  # 0.43 s of jumping over something
    fall = -2 * np.polyfit(np.arange(13) / takes["127_26"].rate, heights[flight], 2)[0]
    assert fall == pytest.approx(9.81, rel=0.15)


def test_get_ups_end_on_their_feet(takes):
    for trial in ("139_16", "140_01", "humanoid3d_getup_facedown", "humanoid3d_getup_faceup"):
        joints = takes[trial].joints
        assert joints[0, 0, 1] < 0.3
        assert joints[-1, 0, 1] > 0.8
        assert abs(joints[-1, [7, 8], 1].mean()) < 0.15
    assert takes["humanoid3d_getup_faceup"].rate == 60


def _directions(joints: np.ndarray) -> np.ndarray:
    bones = joints - joints[:, [0, *PARENTS[1:]]]
    return bones / np.maximum(np.linalg.norm(bones, axis=-1, keepdims=True), 1e-9)
