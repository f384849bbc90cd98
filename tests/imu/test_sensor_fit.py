from functools import cache

import numpy as np
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.imu.sensor_fit import QUIET, fit_phone, fit_quiet, fitted_parameters
from t2imu_utils.imu.sensor_model import sensor_parameters

RATE, STEP, NOISE, LIMIT = 50.0, 0.0006, 0.003, 12.0
OFFSET = np.array([0.1, -0.2, 0.3])


@cache
def stream(sampling=0.0, delivery=0.0, burst=False, step=STEP, limit=None):
    """Stamps and values of a phone: at rest for 10 s, then moving for 190 s.

    Args:
        sampling: standard deviation of the time at which a sample is taken, seconds; the stamp
            tells it.
        delivery: of what the stamp adds to it.
    """
    generator = np.random.default_rng(5)
    times = np.arange(10000) / RATE
    taken = times + sampling * generator.standard_normal(len(times))
    waves = [6 * np.sin(2 * np.pi * f * taken + f) for f in (0.9, 1.7, 3.1)]
    moving = np.clip(taken - 10, 0, 1)[:, None] * np.stack(waves, 1)
    noise = NOISE * np.sqrt(RATE / 2) * generator.standard_normal((len(times), 3))
    values = moving + OFFSET + noise
    if limit:
        values = np.clip(3 * values, -limit, limit)
    if step:
        values = np.round(values / step) * step
    stamps = taken + np.abs(delivery * generator.standard_normal(len(times)))
    if burst:
        stamps[3000:3050] = stamps[3050] - 0.001 * np.arange(50, 0, -1)
    return 1.4e9 + stamps, values


def test_noise_offset_step_and_rate_of_a_stream_that_is_known():
    fit = fit_quiet(*stream(delivery=0.002, burst=True), quiet=0.1)
    assert fit.rate == pytest.approx(RATE, rel=1e-4)
    assert 9 <= fit.seconds <= 11
    assert fit.noise == pytest.approx(NOISE, rel=0.15)
    np.testing.assert_allclose(fit.offset, OFFSET, atol=0.01)
    assert fit.step == pytest.approx(STEP, rel=1e-4)
    assert fit.limit is None and fit.clipped == 0


def test_the_end_of_the_range_is_where_readings_pile_up():
    _, values = stream(limit=LIMIT)
    fit = fit_quiet(*stream(limit=LIMIT), quiet=0.2)
    assert fit.limit == pytest.approx(LIMIT, abs=STEP)
    assert fit.clipped == pytest.approx((np.abs(values) >= LIMIT - STEP).any(1).mean(), abs=1e-3)


def test_values_on_no_grid_have_no_step():
    assert fit_quiet(*stream(step=0.0), quiet=0.1).step == 0


def test_late_delivery_is_no_sampling_jitter():
    fit = fit_quiet(*stream(delivery=0.003, burst=True), quiet=0.1)
    assert fit.stamps > 1.5
    assert abs(fit.share) < 4 * fit.share_error + 0.01
    assert fit.share_error < 0.05
    assert fit.jitter < 0.1 * fit.stamps


def test_uneven_sampling_is_told_by_the_values():
    fit = fit_quiet(*stream(sampling=0.003), quiet=0.1)
    assert fit.share == pytest.approx(1, abs=0.05)
    assert fit.jitter == pytest.approx(3, rel=0.1)


def test_both_at_once_are_told_apart():
    fit = fit_quiet(*stream(sampling=0.002, delivery=0.004), quiet=0.1)
    # The share of the variance that is sampling; the absolute normal's is 1 - 2 / pi.
    expected = 0.002**2 / (0.002**2 + 0.004**2 * (1 - 2 / np.pi))
    assert fit.share == pytest.approx(expected, abs=0.06)


def test_a_stream_that_is_never_quiet_is_told():
    stamps, values = stream()
    with pytest.raises(InputError, match="quiet seconds"):
        fit_quiet(stamps[1000:], values[1000:], quiet=0.1)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(InputError, match="acc_walking_shin"):
        fit_phone(tmp_path / "acc_walking_shin.csv", tmp_path / "Gyroscope_walking_shin.csv")


@pytest.fixture(scope="module")
def genuine(real_data):
    folder = real_data / "realworld" / "proband1"
    files = [folder / f"{sensor}_walking_shin.csv" for sensor in ("acc", "Gyroscope")]
    if not all(path.is_file() for path in files):
        pytest.skip(f"{folder} has no unpacked stream of the shin, walking")
    return fit_phone(*files)


def test_the_committed_numbers_are_those_of_the_genuine_stream(genuine):
    parameters = sensor_parameters("phone")
    fitted = fitted_parameters(genuine)
    committed = {n: each.value for n, each in parameters.items() if each.origin == "fitted"}
    assert set(committed) == set(fitted)
    tight = {"acc_step": 1e-5, "gyro_step": 1e-5, "acc_range": 1e-5}
    for name, value in committed.items():
        assert fitted[name] == pytest.approx(value, rel=tight.get(name, 0.05)), name


def test_the_genuine_phone_is_a_two_g_chip_whose_stamps_are_delivery_times(genuine):
    acc, gyro = genuine["acc"], genuine["gyro"]
    assert acc.step == pytest.approx(4 * 9.80665 / 2**16, rel=1e-6)
    assert gyro.step == pytest.approx(np.radians(0.0175), rel=1e-6)
    assert acc.limit == pytest.approx(32760 * acc.step, rel=1e-6) and gyro.limit is None
    assert acc.clipped == pytest.approx(0.0155, abs=1e-4)
    assert (acc.seconds, gyro.seconds) == (8, 9)
    for fit in (acc, gyro):
        assert fit.stamps > 2  # the stamps scatter by milliseconds ...
        assert fit.share + 3 * fit.share_error < 0.3  # ... and the samples do not
    excess = np.linalg.norm(acc.offset) - 9.81
    assert abs(excess) < 2 * sensor_parameters("phone")["acc_bias"].value
    assert QUIET.keys() == genuine.keys()
