"""Judges of motion: analytic motions, and recordings whose words say what they show."""

from dataclasses import replace

import numpy as np
import pytest

from t2imu_utils.motion.cmu import find_sources, read_trial
from t2imu_utils.motion.features import features_to_joints
from t2imu_utils.motion.open_corpus import cut, to_clips
from t2imu_utils.motion.quality import ACTIVITIES, as_asked, faults, measures, shows
from t2imu_utils.motion.takes import clean
from tests.motion.conftest import posed

LEFT_HIP, RIGHT_HIP, LEFT_KNEE, RIGHT_KNEE = 4, 5, 7, 8  # joints whose bone turns about it


def standing(frames: int = 80) -> np.ndarray:
    """A body that sways by 8 mm, feet included."""
    body = posed(np.zeros((1, 22, 3)), np.array([[0.0, 0.96, 0.0]]))[0]
    sway = 0.008 * np.sin(2 * np.pi * 0.7 * np.arange(frames) / 20)
    return body - [0, body[:, 1].min(), 0] + sway[:, None, None] * [1.0, 0.0, 0.0]


def sitting() -> np.ndarray:
    """Thighs level, shanks upright; the upper body sways."""
    rotations = np.zeros((80, 22, 3))
    rotations[:, [LEFT_HIP, RIGHT_HIP], 0] = -np.pi / 2
    rotations[:, 12, 0] = 0.3 * np.sin(2 * np.pi * 0.7 * np.arange(80) / 20)
    joints = posed(rotations, np.zeros((80, 3)))
    return joints - [0, joints[..., 1].min(), 0]


def lying() -> np.ndarray:
    joints = standing()[..., [0, 2, 1]] * [1.0, 1.0, -1.0]
    return joints - [0, joints[..., 1].min(), 0]


def jump(flight: float = 0.5) -> np.ndarray:
    """Up and down again as things fall, from frame 30 on."""
    time = (np.arange(80) - 30) / 20
    height = np.where((time > 0) & (time < flight), 9.81 / 2 * time * (flight - time), 0.0)
    return standing() + height[:, None, None] * [0.0, 1.0, 0.0]


def strides(speed: float = 1.0, rate: float = 0.9) -> np.ndarray:
    """Legs that swing `rate` times a second, the one ahead lifted: steps, if sliding ones."""
    phase = 2 * np.pi * rate * np.arange(100) / 20
    rotations = np.zeros((100, 22, 3))
    for hip, knee, ahead in ((LEFT_HIP, LEFT_KNEE, 0.0), (RIGHT_HIP, RIGHT_KNEE, np.pi)):
        rotations[:, hip, 0] = -0.4 * np.sin(phase + ahead)
        rotations[:, knee, 0] = rotations[:, hip, 0] + 0.5 * (1 + np.cos(phase + ahead))
    joints = posed(rotations, np.outer(np.arange(100) / 20 * speed, [0.0, 0.0, 1.0]))
    return joints - joints[..., 1].min(axis=1)[:, None, None] * [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("joints", "activity"),
    [
        (standing(), "standing"),
        (sitting(), "sitting"),
        (lying(), "lying"),
        (jump(), "jumping"),
        (strides(), "walking"),
        (strides(2.5, 1.4), "running"),
        (strides() + np.linspace(0, 0.8, 100)[:, None, None] * [0, 1, 0], "climbing up"),
        (strides() - np.linspace(0, 0.8, 100)[:, None, None] * [0, 1, 0], "climbing down"),
    ],
)
def test_a_motion_shows_its_activity_alone(joints, activity):
    joints = joints - [0, joints[..., 1].min(), 0]
    assert [name for name in ACTIVITIES if shows(joints, name)] == [activity]
    assert [name for name in ACTIVITIES if shows(1.3 * joints, name)] == [activity]


@pytest.mark.parametrize(
    ("joints", "activity"),
    [(standing(), "standing"), (sitting(), "sitting"), (lying(), "lying"), (jump(), "jumping")],
)
def test_possible_motion_has_no_fault(joints, activity):
    assert faults(joints, activity) == {} == faults(joints)


def test_what_is_measured_is_what_was_made():
    found = measures(jump(0.5))
    assert found["air"] == pytest.approx(0.5, abs=0.11)
    assert found["acceleration_max"] == pytest.approx(9.81 / 2 * 0.5 * 20, rel=0.2)  # take-off
    assert found["clearance"] == pytest.approx(9.81 / 8 * 0.5**2, abs=0.01)
    walk = measures(strides(1.0, 0.9))
    assert walk["speed"] == pytest.approx(1.0, abs=0.01)
    assert walk["cadence"] == pytest.approx(108, abs=3)
    assert walk["step_rate"] == pytest.approx(1.8, abs=0.3)
    seat = measures(sitting())
    assert seat["knee_max"] == pytest.approx(90, abs=1)


@pytest.mark.parametrize(
    ("change", "activity", "fault", "value"),
    [
        (lambda j: j + [0, 0.2, 0], "standing", "air", 4.0),
        (lambda j: j - [0, 0.05, 0], None, "depth", -0.05),
        (lambda j: j + np.arange(80)[:, None, None] * [0, 0, 0.05], "walking", "slip", 1.0),
        (lambda j: j + (np.arange(80) == 9)[:, None, None] * 0.2, None, "acceleration_max", 277.0),
        (lambda j: j[:1].repeat(80, axis=0), "standing", "acceleration", 0.0),
        (lambda j: j * np.linspace(0.4, 1.6, 80)[:, None, None], None, "stretch", 0.6),
        (lambda j: np.where(np.arange(80)[:, None, None] == 7, np.nan, j), None, "not finite", 1.0),
        (lambda j: np.where(np.arange(80)[:, None, None] == 7, 1e6, j), None, "not finite", 1.0),
    ],
)
def test_impossible_motion_is_named(change, activity, fault, value):
    found = faults(change(standing()), activity)
    assert found[fault] == pytest.approx(value, rel=0.05)


RECORDED = {
    "35_01": "walking",
    "39_04": "walking",
    "09_01": "running",
    "13_40": "jumping",
    "14_32": "sitting",
    "13_36": "climbing up",
}


def test_recordings_show_what_their_words_say(real_data):
    sources = find_sources(real_data / "cmu")
    for trial, activity in RECORDED.items():
        take = read_trial(sources, trial, "amc" if "amc" in sources.trials[trial] else "bvh")
        (start, end), *_ = clean(take.joints, take.rate, 1.0)
        first, *_ = cut(replace(take, joints=take.joints[start:end]))
        joints = features_to_joints(to_clips(first)[0].features)
        joints -= [0, joints[..., 1].min(), 0]
        shown = [name for name in ACTIVITIES if shows(joints, name)]
        assert shown == [activity] and not faults(joints, activity), trial


def test_shares_of_what_was_asked():
    made = [standing(), sitting(), lying(), standing()]
    table = as_asked(made, ["standing", "standing", "lying", "dancing"])
    assert table.loc["standing", ["n", "shown"]].tolist() == [2, 0.5]
    assert table.loc["lying", "shown"] == 1 and list(table.index) == ["lying", "standing"]
