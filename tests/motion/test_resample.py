"""Resampling: sines kept below the new Nyquist frequency and gone above it, lines exact."""

import numpy as np
import pytest

from t2imu_utils.motion.skeleton import resample

RATES = [(120, 20), (100, 20), (50, 20), (200, 20), (30, 20), (49.95, 20), (20, 50)]


@pytest.mark.parametrize(("rate_in", "rate_out"), RATES)
def test_sines_below_are_kept_and_above_are_gone(rate_in, rate_out):
    time = np.arange(int(20 * rate_in)) / rate_in
    nyquist = min(rate_in, rate_out) / 2
    kept = np.array([0.03, 0.1, 0.3, 0.5, 0.7]) * nyquist
    new = resample(np.sin(2 * np.pi * time[:, None] * kept), rate_in, rate_out)
    expected = np.sin(2 * np.pi * np.arange(len(new))[:, None] / rate_out * kept)
    inner = slice(2 * rate_out, -2 * rate_out)
    assert np.abs(new - expected)[inner].max() < 1e-3
    gone = np.array([f for f in (1.06, 1.1, 1.15, 1.3, 1.9) if f * nyquist < rate_in / 2])
    if len(gone):
        rest = resample(np.sin(2 * np.pi * time[:, None] * gone * nyquist), rate_in, rate_out)
        assert np.abs(rest)[inner].max() < 1e-2  # -40 dB


@pytest.mark.parametrize(("rate_in", "rate_out"), RATES)
def test_lines_are_exact_up_to_the_ends(rate_in, rate_out):
    frames = 301
    line = np.array([[1.0, -2.0]]) + np.outer(np.arange(frames) / rate_in, [3.0, 0.5])
    new = resample(line, rate_in, rate_out)
    assert len(new) == int((frames - 1) * rate_out / rate_in + 1e-9) + 1
    time = np.arange(len(new)) / rate_out
    np.testing.assert_allclose(new, [[1.0, -2.0]] + np.outer(time, [3.0, 0.5]), atol=1e-10)


def test_a_rate_that_is_written_rounded_is_its_neighbour():
    new = resample(np.sin(2 * np.pi * np.arange(400) * 0.03), 33.33, 20)
    expected = np.sin(2 * np.pi * np.arange(len(new)) / 20)
    assert len(new) == 240 and np.abs(new - expected)[20:-20].max() < 0.02


def test_short_clips_shapes_and_kinds():
    x = np.random.default_rng(0).normal(size=(7, 22, 3))
    assert resample(x, 120, 20).shape == (2, 22, 3)
    assert resample(x.astype(np.float32), 120, 20).dtype == np.float32
    assert resample(np.arange(13), 120, 20).tolist() == pytest.approx([0, 6, 12])
    same = resample(x, 20, 20.0)
    np.testing.assert_array_equal(same, x)
    assert not np.shares_memory(same, x)


MOTIONS = {
    "even acceleration": lambda t: 1.0 - 3.0 * t + 2.0 * t**2,
    "sines": lambda t: (
        0.1 * np.sin(2 * np.pi * t + 0.7)
        + 0.03 * np.sin(2 * np.pi * 2.3 * t + 1)
        + 0.01 * np.sin(2 * np.pi * 4 * t + 2)
    ),
}


@pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS)
@pytest.mark.parametrize("rate", [120, 100, 30, 59.94])
@pytest.mark.parametrize("start", [0.0, 0.13, 0.31, 0.52])
def test_a_cut_in_mid_motion_adds_no_acceleration(motion, rate, start):
    # In m; with rest beyond the cuts, the outermost triples are off by twice and more.
    time = start + np.arange(int(2.5 * rate) + 1) / rate
    new = start + np.arange(int(2.5 * 20)) / 20
    wanted = np.diff(motion(new), n=2) * 20**2
    even = resample(motion(time), rate, 20)[: len(new)]
    assert even[0] == pytest.approx(motion(start), abs=1e-12)
    error = np.abs(np.diff(even, n=2) * 20**2 - wanted) / np.abs(wanted).max()
    assert error[[0, 1, 2, -3, -2, -1]].max() < 0.05
