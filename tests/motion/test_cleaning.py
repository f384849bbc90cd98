"""Cleaning: a made-up body that stands, jumps and strikes T-poses at known frames."""

import numpy as np
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.motion.skeleton import JOINTS, PARENTS, RAW_OFFSETS
from t2imu_utils.motion.takes import RULES, clean, glitches, t_poses

RATE = 120.0


def standing(frames: int) -> np.ndarray:
    """A body with hanging arms that drifts forward at 1.2 m/s."""
    joints = np.zeros((22, 3))
    for joint, parent in enumerate(PARENTS[1:], start=1):
        joints[joint] = joints[parent] + 0.2 * RAW_OFFSETS[joint]
    side = np.array([[0.2, 0, 0], [-0.2, 0, 0]])
    joints[[16, 17]] = joints[[13, 14]] + side
    joints[[18, 19]] = joints[[16, 17]] - [0, 0.3, 0]
    joints[[20, 21]] = joints[[18, 19]] - [0, 0.3, 0]
    drift = np.arange(frames)[:, None, None] * [0, 0, 0.01]
    return joints + drift


def arms_out(joints: np.ndarray) -> np.ndarray:
    raised = joints.copy()
    side = np.array([[0.3, 0, 0], [-0.3, 0, 0]])
    raised[..., [18, 19], :] = raised[..., [16, 17], :] + side
    raised[..., [20, 21], :] = raised[..., [18, 19], :] + side
    return raised


def test_a_good_trial_loses_only_its_lead_in():
    cleaned = clean(standing(300), RATE, min_seconds=1.0)
    assert cleaned.segments == [(7, 300)]
    assert cleaned.dropped == {"T-pose": 0, "lead-in": 7, "glitch": 0, "too short": 0}


def test_t_poses_are_told_from_other_poses():
    joints = standing(4)
    joints[1:3] = arms_out(joints[1:3])
    # One arm raised, or knees bent under level arms, is no T-pose.
    joints[2, [18, 20]] = standing(4)[2, [18, 20]]
    assert t_poses(joints).tolist() == [False, True, False, False]
    bent = arms_out(standing(1))
    bent[:, [7, 8]] += [0, 0.1, -0.2]
    assert not t_poses(bent).any()


def test_t_poses_turn_with_the_body():
    turn = np.array([[0.6, 0, 0.8], [0, 1, 0], [-0.8, 0, 0.6]])
    assert t_poses(arms_out(standing(2)) @ turn.T).all()


def test_t_poses_at_both_ends_go_and_one_inside_stays():
    joints = standing(400)
    for part in (slice(0, 3), slice(200, 203), slice(398, 400)):
        joints[part] = arms_out(joints[part])
    # Raise and lower the arms slowly around frame 200, so that the pose is no jump.
    mix = np.clip(1 - np.abs(np.arange(400) - 201) / 60, 0, 1)[:, None, None]
    slow = (1 - mix) * standing(400) + mix * arms_out(standing(400))
    joints[100:300] = slow[100:300]
    cleaned = clean(joints, RATE, min_seconds=0.5)
    assert t_poses(joints)[201]
    assert cleaned.dropped["T-pose"] == 5
    # The jump into the last T-pose counts as a glitch: both its frames and 6 before it.
    assert cleaned.segments == [(10, 391)]
    assert cleaned.dropped["glitch"] == 7


@pytest.mark.parametrize(("metres", "cut"), [(0.115, False), (0.125, True)])
def test_only_steps_over_12_cm_are_glitches(metres, cut):
    joints = standing(300)
    joints[150:, 21] += [metres, 0, 0]
    joints[..., 2] = 0.0
    marked = glitches(joints, RATE)
    assert marked.any() == cut
    if cut:
        assert np.flatnonzero(marked).tolist() == list(range(149 - 6, 150 + 7))


def test_glitch_speed_does_not_depend_on_the_rate():
    joints = standing(100)
    joints[50:, 21] += [0.2, 0, 0]
    assert glitches(joints, 120.0).any() and not glitches(joints, 60.0).any()


def test_every_frame_is_accounted_for_once():
    joints = standing(600)
    joints[0] = arms_out(joints[0])
    for frame in (3, 100, 110, 400):
        joints[frame:, 20] += [0, 0, 0.5]
    cleaned = clean(joints, RATE, min_seconds=1.0)
    assert cleaned.segments == [(117, 393), (407, 600)]
    kept = sum(end - start for start, end in cleaned.segments)
    assert kept + sum(cleaned.dropped.values()) == 600
    # Between lead-in and the first jump 85 frames remain: less than a second.
    assert cleaned.dropped == {"T-pose": 1, "lead-in": 7, "glitch": 24 + 14, "too short": 85}
    assert tuple(cleaned.dropped) == RULES


def test_shortest_segment_spans_its_seconds_from_first_to_last_frame():
    assert clean(standing(7 + 121), RATE, min_seconds=1.0).segments == [(7, 128)]
    assert clean(standing(7 + 120), RATE, min_seconds=1.0).segments == []


def test_broken_joints_are_refused():
    joints = standing(20)
    joints[3, JOINTS.index("head")] = np.nan
    with pytest.raises(InputError, match="head"):
        clean(joints, RATE, 1.0)
