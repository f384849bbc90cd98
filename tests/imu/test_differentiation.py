import numpy as np
import pytest
import torch

from t2imu_utils.imu import differentiation
from t2imu_utils.imu.sensors import (
    DEFAULT,
    SCHEMES,
    gain_table,
    quintic_operators,
    savgol_operators,
    spectral_operators,
    turned,
)
from t2imu_utils.motion.rotations import axis_angle_to_matrix

RATE = 20.0
# How the error of the inside falls with the step: acceleration, angular velocity.
ORDERS = {"central": (2, 2), "savgol": (4, 4), "cubic": (2, 4), "quintic": (4, 4)}


def known_motion(rate, seconds=3.0):
    """Path, attitude, acceleration and angular velocity of a motion about two axes at once."""
    t = torch.arange(int(seconds * rate), dtype=torch.float64) / rate
    path = torch.stack([torch.sin(3 * t), torch.cos(2 * t), t**3], 1)
    acceleration = torch.stack([-9 * torch.sin(3 * t), -4 * torch.cos(2 * t), 6 * t], 1)
    a, b = 0.8 * torch.sin(2 * t), 1.5 * t**2
    about_y = torch.stack([0 * a, a, 0 * a], 1)
    about_x = torch.stack([b, 0 * b, 0 * b], 1)
    attitude = axis_angle_to_matrix(about_y) @ axis_angle_to_matrix(about_x)
    swing = 1.6 * torch.cos(2 * t)
    gyro = torch.stack([3 * t, swing * torch.cos(b), -swing * torch.sin(b)], 1)
    return path, attitude, acceleration, gyro


def inside_errors(scheme, rate):
    path, attitude, *true = known_motion(rate)
    found = SCHEMES[scheme](path, attitude, rate)
    inside = slice(int(rate), -int(rate))
    return [float((f - t)[inside].abs().max()) for f, t in zip(found, true, strict=True)]


def random_motion(frames, *lead, dtype=torch.float64):
    rng = torch.Generator().manual_seed(frames)
    path = torch.randn(*lead, frames, 3, generator=rng, dtype=dtype).cumsum(-2) / 10
    steps = torch.randn(*lead, frames, 3, generator=rng, dtype=dtype).cumsum(-2) / 10
    return path, axis_angle_to_matrix(steps)


@pytest.mark.parametrize("scheme", ORDERS)
def test_errors_fall_with_the_order_of_the_scheme(scheme):
    coarse, fine = inside_errors(scheme, 20.0), inside_errors(scheme, 40.0)
    for slow, fast, order in zip(coarse, fine, ORDERS[scheme], strict=True):
        assert order - 0.4 < np.log2(slow / fast) < order + 0.4


@pytest.mark.parametrize("scheme", ["smoothing", "spectral"])
def test_what_is_slow_is_differentiated_all_but_exactly(scheme):
    acc, gyro = inside_errors(scheme, 20.0)
    assert acc < 3e-4 and gyro < 3e-4
    assert acc < inside_errors("central", 20.0)[0] / 50


@pytest.mark.parametrize("scheme", SCHEMES)
def test_parabolas_and_constant_spins_are_exact_up_to_the_ends(scheme):
    t = torch.arange(50, dtype=torch.float64) / RATE
    path = torch.stack([2 + 3 * t, t**2 / 2, -(t**2)], 1)
    spin = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    start = axis_angle_to_matrix(torch.tensor([0.3, 1.0, -0.4], dtype=torch.float64))
    # At 40 rad/s a step turns by 2.3 rad: less than half a turn, and not aliased.
    for factor in (1.0, 17.0):
        attitude = start @ axis_angle_to_matrix(factor * t[:, None] * spin)
        acc, gyro = SCHEMES[scheme](path, attitude, RATE)
        torch.testing.assert_close(gyro, factor * spin.expand(50, 3))
    expected = torch.tensor([0, 1.0, -2.0], dtype=torch.float64).expand(50, 3)
    torch.testing.assert_close(acc, expected, atol=1e-6, rtol=0)


def test_central_differences_are_the_papers_number_by_number():
    path, attitude = random_motion(30, dtype=torch.float32)
    acc, gyro = SCHEMES["central"](path, attitude, RATE)
    second = (path[2:] - path[1:-1]) - (path[1:-1] - path[:-2])
    assert torch.equal(acc[1:-1], second * RATE**2)
    assert torch.equal(acc[0], acc[1]) and torch.equal(acc[-1], acc[-2])
    steps = differentiation._steps(attitude) * RATE
    assert torch.equal(gyro[1:-1], (steps[1:] + steps[:-1]) / 2)
    assert torch.equal(gyro[0], steps[0]) and torch.equal(gyro[-1], steps[-1])


def test_turned_angle_holds_the_coning_term():
    """A cone: the axis of rotation itself turns, so that the steps' vectors fall short."""
    path, attitude, _, gyro = known_motion(200.0)
    fine = gyro.cumsum(0) / 200.0
    whole = fine[10::10] - fine[:-10:10] + (gyro[:-10:10] - gyro[10::10]) / 400  # trapezoids
    coarse = attitude[::10]
    plain = differentiation._steps(coarse)
    inner = slice(1, -1)
    error = (turned(coarse) - whole)[inner].abs().max()
    assert error < 2e-4 < 0.2 * (plain - whole)[inner].abs().max()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_leading_dimensions_are_batched(scheme):
    path, attitude = random_motion(30, 2, 3)
    acc, gyro = SCHEMES[scheme](path, attitude, RATE)
    one = SCHEMES[scheme](path[1, 2], attitude[1, 2], RATE)
    assert acc.shape == gyro.shape == path.shape
    torch.testing.assert_close((acc[1, 2], gyro[1, 2]), one)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_single_precision_suffices_far_from_the_origin(scheme):
    path, attitude, _, _ = known_motion(RATE)
    far = path + torch.tensor([8.0, 1.0, -3.0])
    acc, gyro = SCHEMES[scheme](far.float(), attitude.float(), RATE)
    exact = SCHEMES[scheme](path, attitude, RATE)
    assert acc.dtype == gyro.dtype == torch.float32
    # Of positions, which are rounded to half a micrometre here, not of the operator.
    torch.testing.assert_close(acc.double(), exact[0], atol=5e-3, rtol=0)
    torch.testing.assert_close(gyro.double(), exact[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("frames", [3, 4, 5, 9])
def test_short_clips_are_differentiated(scheme, frames):
    path, attitude = random_motion(frames)
    acc, gyro = SCHEMES[scheme](path, attitude, RATE)
    assert acc.shape == gyro.shape == (frames, 3)
    assert torch.isfinite(acc).all() and torch.isfinite(gyro).all()
    if frames == 3:
        torch.testing.assert_close(acc, SCHEMES["central"](path, attitude, RATE)[0])


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s != "central"])
def test_long_clips_are_the_same_in_blocks(scheme):
    """300 frames are more than one block; against a matrix for all of them."""
    path, attitude = random_motion(300)
    operators = SCHEMES[scheme].args[0]
    first, second = (torch.from_numpy(matrix) for matrix in operators(300, RATE))
    acc, gyro = SCHEMES[scheme](path, attitude, RATE)
    close = 1e-3 if scheme == "spectral" else 1e-9
    whole = second @ path
    torch.testing.assert_close(acc, whole, atol=close * float(whole.std()), rtol=0)
    angle = torch.cat((torch.zeros(1, 3, dtype=torch.float64), turned(attitude).cumsum(0)))
    torch.testing.assert_close(gyro, first @ angle, atol=close, rtol=0)


def test_gains_are_those_of_the_formulas():
    frequencies = (1.0, 4.0, 7.0, 9.0)
    table = gain_table(RATE, frequencies).set_index(["scheme", "frequency"])
    for f in frequencies:
        x = np.pi * f / RATE
        central = table.loc[("central", f)]
        assert central["acc"] == pytest.approx((np.sin(x) / x) ** 2, rel=1e-3)
        assert central["gyro"] == pytest.approx(np.sin(2 * x) / (2 * x), rel=1e-3)
    # The spectral scheme passes all up to 7 of 10 Hz and fades out by half a cosine.
    spectral = table.loc["spectral"]
    np.testing.assert_allclose(spectral.loc[[1.0, 4.0, 7.0], ["acc", "gyro"]], 1, atol=1e-3)
    fading = (1 + np.cos(np.pi * 2 / 3)) / 2
    np.testing.assert_allclose(spectral.loc[9.0, ["acc", "gyro"]], fading, atol=2e-3)
    # Noise of 1 mm through weights 1, -2, 1 over the squared step.
    assert table.loc["central", "noise"].iloc[0] == pytest.approx(0.001 * 6**0.5 * RATE**2)
    assert spectral["noise"].iloc[0] < 1.2 * table.loc["central", "noise"].iloc[0]


def test_smoothing_halves_at_its_cutoff_and_interpolation_does_not():
    t, rate = np.arange(400) / 200.0, 200.0
    wave = np.sin(2 * np.pi * 10 * t)
    for cutoff, gain in ((10.0, 0.5), (20.0, 1 / (1 + 0.5**6)), (None, 1.0)):
        found = quintic_operators(400, rate, cutoff)[1] @ wave / -((2 * np.pi * 10) ** 2)
        np.testing.assert_allclose(found[150:250], gain * wave[150:250], atol=2e-3)


def test_jitter_of_motion_capture_is_taken_away_at_its_rate():
    rng = np.random.default_rng(0)
    jitter = 1e-4 * rng.normal(size=(600, 3))
    still = torch.eye(3, dtype=torch.float64).expand(600, 3, 3)
    noise = {
        name: float(scheme(torch.from_numpy(jitter), still, 285.0)[0].std())
        for name, scheme in SCHEMES.items()
    }
    for name in ("savgol", "smoothing", "spectral"):
        assert noise[name] < noise["central"] / 20
    assert noise["quintic"] > noise["central"]


def test_ends_do_not_blow_noise_up():
    for operators in (quintic_operators, spectral_operators, savgol_operators):
        size = np.linalg.norm(operators(120, RATE)[1], axis=1)
        assert size[[0, 1, -2, -1]].max() < 2.1 * size[60]


def test_the_default_is_one_of_them():
    assert DEFAULT in SCHEMES and "central" in SCHEMES
