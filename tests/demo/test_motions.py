"""Physics of the made-up motions: planted feet, free fall, plausible accelerations."""

import numpy as np
import pytest

from t2imu_utils.demo.corpus import KINDS
from t2imu_utils.demo.figure import articulate, make_figures
from t2imu_utils.demo.locomotion import bounce
from t2imu_utils.motion.skeleton import bone_lengths

RATE = 120.0
TIMES = np.arange(round(4.0 * RATE)) / RATE
TAKES = 4
# Mean over joints and frames of the size of the acceleration, m/s^2.
PLAUSIBLE = {
    "walking": (1, 10),
    "running": (8, 28),
    "jumping": (4, 30),
    "dancing": (1, 14),
    "sitting": (0.005, 2),
    "standing": (0.01, 3),
    "lying": (0.003, 1.5),
    "climbing up": (0.8, 8),
    "climbing down": (0.8, 10),
}


def take(activity: str, seed: int, times=TIMES):
    figure = make_figures(["a", "b", "c", "d"], seed=1)[seed % 4]
    made = KINDS[activity](np.random.default_rng(seed), figure, times)
    return figure, made, articulate(figure, made.pose)[0]


@pytest.fixture(scope="module")
def takes():
    return {activity: [take(activity, seed) for seed in range(TAKES)] for activity in KINDS}


def second_difference(x):
    return np.diff(x, 2, axis=0) * RATE**2


def stretches(mask):
    """(first, end) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(int), [0]))))
    return zip(edges[::2], edges[1::2], strict=True)


@pytest.mark.parametrize("activity", KINDS)
def test_bones_are_constant_and_all_is_finite(takes, activity):
    for figure, _, joints in takes[activity]:
        assert np.isfinite(joints).all()
        lengths = bone_lengths(joints)
        assert np.abs(lengths - np.linalg.norm(figure.offsets, axis=-1)).max() < 1e-9


@pytest.mark.parametrize("activity", [kind for kind in KINDS if kind != "lying"])
def test_planted_feet_do_not_slide(takes, activity):
    for _, made, joints in takes[activity]:
        feet = made.pose.feet
        planted = 0
        for side in (0, 1):
            for joint, mask in ((7, feet.ankle_planted), (10, feet.toe_planted)):
                for first, end in stretches(mask[side]):
                    place = joints[first:end, joint + side]
                    assert np.linalg.norm(place - place[0], axis=-1).max() < 0.005
                    planted += end - first
        # The test must have had something to look at.
        assert planted > 0.2 * len(TIMES)


@pytest.mark.parametrize("activity", ("running", "jumping"))
def test_flight_is_free_fall(takes, activity):
    for _, made, joints in takes[activity]:
        inside = made.airborne[:-2] & made.airborne[1:-1] & made.airborne[2:]
        assert inside.any()
        fall = second_difference(joints[:, 0])[inside]
        assert np.abs(fall[:, 1] + 9.81).max() < 1e-3


@pytest.mark.parametrize("activity", ("walking", "dancing", "climbing up", "climbing down"))
def test_someone_who_walks_has_a_foot_on_the_ground(takes, activity):
    for _, made, _ in takes[activity]:
        feet = made.pose.feet
        assert (feet.ankle_planted | feet.toe_planted).any(axis=0).all()


def test_standing_and_sitting_keep_both_feet_down(takes):
    for activity in ("standing", "sitting"):
        for _, made, _ in takes[activity]:
            assert made.pose.feet.ankle_planted.all()


@pytest.mark.parametrize("activity", KINDS)
def test_accelerations_are_those_of_people(takes, activity):
    low, high = PLAUSIBLE[activity]
    for _, _, joints in takes[activity]:
        size = np.linalg.norm(second_difference(joints), axis=-1)
        assert low < size.mean() < high
        # No jump in position or velocity hides between two frames.
        assert size.max() < 450


@pytest.mark.parametrize("activity", KINDS)
def test_motion_does_not_depend_on_the_rate(activity):
    _, _, fine = take(activity, 1, np.arange(481) / 240.0)
    _, _, coarse = take(activity, 1, np.arange(241) / 120.0)
    # The pelvis of a walker rides on a smoothed limit, which knows the rate a little.
    assert np.abs(fine[::2] - coarse).max() < 0.02


def test_stairs_rise_by_whole_steps(takes):
    for activity, sign in (("climbing up", 1), ("climbing down", -1)):
        for _, made, _ in takes[activity]:
            feet = made.pose.feet
            levels = [
                feet.ankle[side, first, 1]
                for side in (0, 1)
                for first, end in stretches(feet.ankle_planted[side] & feet.toe_planted[side])
                if end - first > 5
            ]
            treads = np.unique(np.round(levels, 6))
            steps = np.diff(treads)
            assert len(steps) >= 2 and np.allclose(steps, steps[0])
            assert 0.16 <= steps[0] <= 0.18
            assert np.sign(made.pose.root[-1, 1] - made.pose.root[0, 1]) == sign


def test_postures(takes):
    for _, made, joints in takes["lying"]:
        assert joints[:, [0, 12, 15], 1].max() < 0.5
        assert joints[..., 1].min() > 0
        assert made.words["side"].startswith("on the")
    for figure, made, joints in takes["sitting"]:
        seated = joints[:, 0, 1] < 0.75 * figure.stand
        assert seated.any() and (made.words["change"] or seated.all())
    for figure, _, joints in takes["standing"]:
        assert joints[:, 0, 1].min() > 0.93 * figure.stand
    for activity in ("walking", "running", "jumping", "standing"):
        for _, _, joints in takes[activity]:
            assert joints[..., 1].min() > 0.0


def test_arms_swing_against_the_legs():
    """In plain walking the left wrist is ahead of the pelvis when the right ankle is."""
    rng = np.random.default_rng(5)
    figure = make_figures(["a"], seed=2)[0]
    made = KINDS["walking"](rng, figure, TIMES, plain=True)
    joints, frames = articulate(figure, made.pose)
    ahead = np.einsum("tjx,tx->tj", joints - joints[:, :1], frames[:, 0, :, 2])
    assert np.corrcoef(ahead[:, 20], ahead[:, 8])[0, 1] > 0.6
    assert np.corrcoef(ahead[:, 21], ahead[:, 7])[0, 1] > 0.6
    assert np.corrcoef(ahead[:, 20], ahead[:, 7])[0, 1] < -0.6


def test_bounce_carries_the_weight():
    contact, flight = 0.25, 0.12
    times = np.linspace(0, 3 * (contact + flight), 30001)
    height, airborne = bounce(times, contact, flight)
    step = times[1]
    pull = np.gradient(np.gradient(height, step), step)[2:-2]
    assert np.abs(pull[airborne[2:-2]][5:200] + 9.81).max() < 1e-3
    # Over whole periods the ground's push equals the weight.
    assert np.mean(pull + 9.81) == pytest.approx(9.81, rel=5e-3)
    assert np.abs(height[::10000]).max() < 1e-9


def test_vigour_makes_it_faster():
    figure = make_figures(["a"], seed=2)[0]

    def covered(vigour: float) -> float:
        made = KINDS["running"](np.random.default_rng(3), figure, TIMES, vigour=vigour, plain=True)
        return float(np.linalg.norm(np.diff(made.pose.root[:, [0, 2]], axis=0), axis=-1).sum())

    assert covered(1.2) > 1.1 * covered(0.9)
