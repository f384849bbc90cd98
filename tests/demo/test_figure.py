"""The puppet: bone lengths, inverse kinematics, and curves that stay below a limit."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from t2imu_utils.demo.curves import ease, smooth_below, spline_through
from t2imu_utils.demo.figure import (
    REACH,
    Pose,
    about,
    articulate,
    make_figures,
    reach_leg,
    soft_limit,
    turn,
)
from t2imu_utils.motion.skeleton import JOINTS, bone_lengths


def upright(count: int, arms=(0.0, 0.0, 0.0, 0.0), legs=(0.0, 0.0, 0.0, 0.0)) -> Pose:
    zero = np.zeros((count, 3))
    return Pose(
        zero,
        zero,
        zero,
        zero,
        np.broadcast_to(arms, (2, count, 4)),
        legs=np.broadcast_to(legs, (2, count, 4)),
    )


def test_rest_pose_stands_straight_and_faces_z():
    figure = make_figures(["a"], seed=0)[0]
    joints, frames = articulate(figure, upright(2))
    at = {name: joints[0, i] for i, name in enumerate(JOINTS)}
    assert np.allclose(frames, np.eye(3))
    assert at["left_hip"][0] > 0 > at["right_hip"][0]
    assert at["left_foot"][2] > at["left_ankle"][2]
    # Standing, the toes are just above the ground and the head above all.
    assert figure.stand + at["left_foot"][1] == pytest.approx(0.02, abs=1e-9)
    assert joints[0, :, 1].argmax() == JOINTS.index("head")


def test_angles_bend_the_body_the_way_their_names_say():
    figure = make_figures(["a"], seed=0)[0]
    rest = articulate(figure, upright(1))[0][0]

    def moved(joint: str, **angles) -> np.ndarray:
        return articulate(figure, upright(1, **angles))[0][0, JOINTS.index(joint)]

    left, right = JOINTS.index("left_elbow"), JOINTS.index("right_elbow")
    assert moved("left_elbow", arms=(0.5, 0, 0, 0))[2] > rest[left, 2] + 0.1
    assert moved("left_elbow", arms=(0, 0.5, 0, 0))[0] > rest[left, 0] + 0.1
    assert moved("right_elbow", arms=(0, 0.5, 0, 0))[0] < rest[right, 0] - 0.1
    assert moved("left_wrist", arms=(0, 0, 0, 1))[2] > rest[left, 2] + 0.1
    inward = moved("left_wrist", arms=(0, 0, 0.5, 1.5))[0]
    assert inward < moved("left_wrist", arms=(0, 0, 0, 1.5))[0] - 0.05
    assert moved("left_knee", legs=(0.5, 0, 0, 0))[2] > 0.1
    assert moved("left_ankle", legs=(0, 0, 1, 0))[2] < -0.2


def test_turns_agree_with_scipy():
    angles = np.random.default_rng(0).normal(size=(7, 3))
    assert np.allclose(turn(angles), Rotation.from_euler("YXZ", angles).as_matrix())
    assert np.allclose(about("XZY", *angles.T), Rotation.from_euler("XZY", angles).as_matrix())


def test_bones_keep_their_length_in_any_pose():
    figure = make_figures(["a"], seed=3)[0]
    rng = np.random.default_rng(0)
    pose = Pose(
        rng.normal(size=(50, 3)),
        rng.normal(size=(50, 3)),
        rng.normal(size=(50, 3)),
        rng.normal(size=(50, 3)),
        rng.normal(size=(2, 50, 4)),
        legs=rng.normal(size=(2, 50, 4)),
    )
    joints, frames = articulate(figure, pose)
    assert np.allclose(bone_lengths(joints), np.linalg.norm(figure.offsets, axis=-1))
    assert np.allclose(frames @ frames.swapaxes(-1, -2), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(frames), 1)


def test_leg_reaches_its_target_with_the_knee_in_front():
    rng = np.random.default_rng(1)
    upper, lower = 0.4, 0.43
    ankle = rng.uniform((-0.2, -0.75, -0.2), (0.2, -0.5, 0.2), (200, 3))
    side = np.broadcast_to((1.0, 0.0, 0.0), ankle.shape)
    thigh, shin = reach_leg(np.zeros_like(ankle), ankle, side, upper, lower)
    knee = thigh @ (0, -upper, 0)
    reached = knee + shin @ (0, -lower, 0)
    assert np.abs(reached - ankle).max() < 1e-12
    line = ankle * (np.sum(knee * ankle, -1) / np.sum(ankle**2, -1))[:, None]
    assert (knee - line)[:, 2].min() > 0


def test_leg_out_of_reach_is_pulled_in_and_never_straight():
    ankle = np.array([[0.0, -2.0, 0.3], [0.0, -0.84, 0.0]])
    thigh, shin = reach_leg(0 * ankle, ankle, ankle * 0 + (1, 0, 0), 0.4, 0.43)
    reached = thigh @ (0, -0.4, 0) + shin @ (0, -0.43, 0)
    length = np.linalg.norm(reached, axis=-1)
    assert (length < 0.83).all() and (length > REACH * 0.83).all()
    # Still on the line from hip to target.
    assert np.allclose(np.cross(reached[0], ankle[0]), 0, atol=1e-12)


def test_soft_limit_is_exact_up_to_its_bend():
    x = np.linspace(0, 3, 301)
    y = soft_limit(x, 1.0, 1.2)
    assert (y[x <= 1] == x[x <= 1]).all()
    assert (np.diff(y) >= 0).all() and y.max() <= 1.2


def test_figures_differ_and_repeat():
    first, again, other = (make_figures(["a", "b"], seed=s) for s in (0, 0, 1))
    assert np.array_equal(first[0].offsets, again[0].offsets)
    assert not np.allclose(first[0].offsets, first[1].offsets)
    assert not np.allclose(first[0].offsets, other[0].offsets)
    left, right = first[0].offsets[[1, 4, 7, 16, 18, 20]], first[0].offsets[[2, 5, 8, 17, 19, 21]]
    assert np.allclose(left * (-1, 1, 1), right)


def test_smooth_below_never_exceeds_its_limit():
    limit = np.random.default_rng(0).normal(size=400).cumsum()
    low = smooth_below(limit, 12)
    assert (low <= limit + 1e-12).all()
    assert np.abs(np.diff(low, 2)).max() < np.abs(np.diff(limit, 2)).max()


def test_ease_arrives_at_its_knots_at_rest():
    times = np.linspace(0, 3, 3001)
    out = ease(times, (0.5, 1.5, 2.0), ((0.0, 1.0), (2.0, -1.0), (1.0, 0.0)))
    assert np.allclose(out[[0, 500, 1500, 2000, 3000]][:, 0], (0, 0, 2, 1, 1))
    assert np.abs(np.gradient(out, times, axis=0)[[500, 1500, 2000]]).max() < 1e-3


def test_spline_through_a_ballistic_arc_is_the_arc():
    speed, g, flight = 2.0, 9.81, 2 * 2.0 / 9.81
    spline = spline_through((0.0, flight), ((1.0, speed, -g), (1.0, -speed, -g)))
    times = np.linspace(0, flight, 50)
    assert np.allclose(spline(times), 1 + speed * times - g * times**2 / 2, atol=1e-12)
