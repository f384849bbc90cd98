import numpy as np
import pytest
from numpy.testing import assert_allclose

from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.kinematics import (
    acceleration,
    foot_skate,
    mean_abs_acceleration,
    mean_abs_jerk,
    mean_spectrum,
    power_spectrum,
    spectral_distance,
    summarise,
)

FPS = 20.0
TIME = np.arange(201) / FPS


def moving(path):
    """22 joints that follow one path (T, 3), spread out in space."""
    spread = np.random.default_rng(0).normal(size=(22, 3))
    return path[:, None] + spread


def test_constant_acceleration_is_recovered():
    path = np.outer(TIME**2 / 2, [1.0, 2.0, -2.0])
    assert_allclose(
        acceleration(moving(path)), np.broadcast_to([1, 2, -2], (199, 22, 3)), atol=1e-8
    )
    assert mean_abs_acceleration(moving(path)) == pytest.approx(3.0)
    assert mean_abs_jerk(moving(path)) == pytest.approx(0.0, abs=1e-6)


def test_constant_jerk_is_recovered():
    path = np.outer(TIME**3 / 6, [0.0, 3.0, 4.0])
    assert mean_abs_jerk(moving(path)) == pytest.approx(5.0)


def test_uniform_motion_has_neither():
    path = np.outer(TIME, [1.0, 0.0, 2.0])
    assert mean_abs_acceleration(moving(path)) == pytest.approx(0, abs=1e-9)


def test_the_rate_sets_the_unit():
    path = np.outer(TIME**2 / 2, [1.0, 0.0, 0.0])
    assert mean_abs_acceleration(moving(path), fps=2 * FPS) == pytest.approx(4.0)
    assert mean_abs_jerk(moving(np.outer(TIME**3 / 6, [1.0, 0, 0])), 2 * FPS) == pytest.approx(8.0)


def test_skate_counts_only_grounded_feet():
    joints = np.zeros((40, 22, 3))
    joints[:, [7, 8, 10, 11], 1] = 0.5
    # The left toe rests at first, then slides at 0.6 m/s; later it is lifted and flies at 2 m/s.
    joints[:, 10, 1] = np.where(np.arange(40) < 20, 0.0, 0.5)
    joints[:20, 10, 0] = np.concatenate([np.zeros(10), 0.03 * np.arange(1, 11)])
    joints[20:, 10, 0] = 0.3 + 0.1 * np.arange(20)
    joints[:, [7, 8, 11], 1] += np.linspace(0, 5, 40)[:, None] + 0.2
    toe_only = 10 * 0.6 / 19
    # The other three rise from their lowest point and are grounded in no two frames.
    assert foot_skate(joints) == pytest.approx(toe_only)


def test_vertical_motion_is_no_skate_and_flight_is_undefined():
    joints = moving(np.outer(0.01 * np.sin(20 * TIME), [0, 1, 0]))
    assert foot_skate(joints) == pytest.approx(0)
    rising = moving(np.outer(TIME, [0, 2.0, 0]))
    assert np.isnan(foot_skate(rising))


def test_spectrum_of_a_sine_peaks_at_its_frequency():
    amplitude, hertz = 0.05, 3.0
    path = np.outer(amplitude * np.sin(2 * np.pi * hertz * TIME), [1.0, 0, 0])
    frequency, density = power_spectrum(moving(path))
    assert frequency[density.argmax()] == pytest.approx(hertz)
    assert frequency[-1] == FPS / 2
    # Second differences pass sinc² of the sine's true acceleration.
    true = amplitude * (2 * np.pi * hertz) ** 2
    passed = true * np.sinc(hertz / FPS) ** 2
    power = density.sum() * frequency[1]
    assert power == pytest.approx(passed**2 / 2, rel=0.02)


def test_parseval_for_noise():
    joints = np.random.default_rng(1).normal(scale=0.01, size=(2001, 22, 3))
    frequency, density = power_spectrum(joints)
    assert density.sum() * frequency[1] == pytest.approx(
        acceleration(joints).var(0).sum(-1).mean(), rel=0.02
    )


def test_short_motions_share_the_grid():
    rng = np.random.default_rng(2)
    long, short = rng.normal(size=(100, 22, 3)), rng.normal(size=(20, 22, 3))
    frequency, mean = mean_spectrum([long, short])
    assert_allclose(power_spectrum(short)[0], frequency)
    parts = [power_spectrum(joints)[1] for joints in (long, short)]
    assert_allclose(mean, (100 * parts[0] + 20 * parts[1]) / 120)


def test_spectral_distance_is_in_decibels():
    flat = np.full(21, 3.0)
    assert spectral_distance(flat, flat) == 0
    assert spectral_distance(10 * flat, flat) == pytest.approx(10)
    assert spectral_distance(flat, 100 * flat) == pytest.approx(20)
    other_mean = flat.copy()
    other_mean[0] = 1e6
    assert spectral_distance(other_mean, flat) == 0
    with pytest.raises(InputError, match="one grid"):
        spectral_distance(flat, flat[:5])


def test_summary_has_a_row_a_motion():
    motions = [moving(np.outer(TIME**2 / 2, [a, 0, 0])) for a in (1.0, 4.0)]
    table = summarise(motions, ["slow", "fast"])
    assert table["clip"].tolist() == ["slow", "fast"]
    assert_allclose(table["mean_abs_acceleration"], [1, 4])
    assert table["frames"].tolist() == [201, 201]
    with pytest.raises(InputError, match="names"):
        summarise(motions, ["one"])


@pytest.mark.parametrize(
    "joints", [np.zeros((3, 22, 3)), np.zeros((9, 22)), np.full((9, 22, 3), np.nan)]
)
def test_what_is_no_motion_is_refused(joints):
    with pytest.raises(InputError, match="joints"):
        mean_abs_acceleration(joints)


def test_a_real_clip_moves_like_one(real_data):
    joints = np.load(real_data / "humanml3d/new_joints/012314.npy")
    assert 1 < mean_abs_acceleration(joints) < 10
    assert 0.01 < foot_skate(joints) < 1
