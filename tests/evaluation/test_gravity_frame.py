import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation

from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.gravity_frame import GRAVITY, gravity_aligned, mean_table

# Whole periods in a window of 2 s, so that the movement has no mean.
TIME = np.arange(40) / 20
BOTH = ("acc", "gyro")


def turned(signal, seed=0):
    """A signal (T, 3) as a sensor reads it that sits on the body at some angle."""
    return signal @ Rotation.random(random_state=seed).as_matrix().T


def wave(amplitude, hertz, phase=0.0):
    return amplitude * np.sin(2 * np.pi * hertz * TIME + phase)


@pytest.mark.parametrize("seed", range(4))
def test_a_movement_is_found_again_however_the_sensor_sits(seed):
    """Z is up: a strong bounce, as in running, and a circle in the plane."""
    bounce, circle = wave(15, 3), np.stack([wave(4, 1), wave(4, 1, np.pi / 2)], axis=1)
    acc = turned(np.column_stack([circle, GRAVITY + bounce]), seed)
    turn, tilt = wave(2, 0.5), wave(3, 1)
    gyro = turned(np.column_stack([tilt, 0 * tilt, turn]), seed)
    found = gravity_aligned(np.concatenate([acc, gyro], axis=1)[None], BOTH)[0]
    assert found.dtype == np.float32 and found.shape == (40, 4)
    expected = np.stack([GRAVITY + bounce, np.full(40, 4.0), turn, np.abs(tilt)], axis=1)
    assert_allclose(found, expected, atol=1e-4)


def test_no_fixed_rotation_of_a_sensor_changes_anything():
    """Of noise, in which nothing is vertical; each site and window is turned in its own way."""
    rng = np.random.default_rng(0)
    x = 6 * rng.standard_normal((5, 40, 3, 2, 3)) + 3 * rng.standard_normal((5, 1, 3, 2, 3))
    turns = Rotation.random(15, random_state=1).as_matrix().reshape(5, 3, 3, 3)
    other = np.einsum("nsij,ntskj->ntski", turns, x)
    found = gravity_aligned(x.reshape(5, 40, 18), BOTH)
    assert_allclose(gravity_aligned(other.reshape(5, 40, 18), BOTH), found, atol=2e-5)
    # Nothing is lost but the direction in the plane.
    length = np.linalg.norm(x, axis=-1)
    assert_allclose(np.linalg.norm(found.reshape(5, 40, 3, 2, 2), axis=-1), length, rtol=1e-5)


def test_a_window_is_judged_by_itself_and_each_site_too():
    x = np.random.default_rng(1).standard_normal((4, 40, 6)) + [0, 0, 9.8, 9.8, 0, 0]
    found = gravity_aligned(x)
    assert found.shape == (4, 40, 4)
    assert_allclose(gravity_aligned(x[2:3])[0], found[2])
    assert_allclose(gravity_aligned(x[..., 3:]), found[..., 2:])
    assert_allclose(found[..., [0, 2]], x[..., [2, 3]], atol=1.5)


def test_gaining_speed_tilts_the_vertical_by_no_more_than_told():
    """1 m/s faster after a window of 2 s, all of it in one push."""
    push = np.where(np.arange(40) == 12, 1.0 * 20, 0.0)
    acc = turned(np.column_stack([push, 0 * push, np.full(40, GRAVITY)]))
    vertical, horizontal = gravity_aligned(acc[None])[0, 0]
    assert 2.5 < np.degrees(np.arctan2(horizontal, vertical)) < 3.0


def test_a_mean_that_points_nowhere_gives_no_vertical():
    shaken = np.column_stack([wave(9, 2), wave(5, 3), 0 * TIME])
    for signal in (shaken, np.zeros((40, 3))):  # shaken without gravity, and free fall
        vertical, horizontal = gravity_aligned(signal[None])[0].T
        assert_allclose(vertical, 0)
        assert_allclose(horizontal, np.linalg.norm(signal, axis=1), rtol=1e-6)


def test_without_an_accelerometer_there_is_no_vertical():
    with pytest.raises(InputError, match="acc among the channels"):
        gravity_aligned(np.zeros((2, 40, 3)), ("gyro",))
    with pytest.raises(InputError, match="three axes"):
        gravity_aligned(np.zeros((2, 40, 3)), BOTH)


def test_how_well_the_vertical_is_told():
    still, fall = np.tile([0, GRAVITY, 0], (40, 1)), np.tile([0.2 * GRAVITY, 0, 0], (40, 1))
    x = np.stack([np.hstack([still, still]), np.hstack([still, fall]), np.hstack([fall, fall])])
    table = mean_table(x, ["standing", "jumping", "jumping"], ["chest", "shin"])
    assert_allclose(table.loc["standing"], [1, 1, 0])
    assert_allclose(table.loc["jumping"], [0.6, 0.2, 75])
    assert table.columns.tolist() == ["chest", "shin", "under g/2 (%)"]
