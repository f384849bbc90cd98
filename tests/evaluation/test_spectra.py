import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.spectra import (
    ALL,
    accelerometer_spectra,
    gains,
    mean_spectra,
    window_spectra,
)
from t2imu_utils.motion.rotations import axis_angle_to_matrix
from t2imu_utils.tracks import RecordingsSection

RATE, BIN = 20.0, 0.5
TIME = np.arange(120) / RATE


def section(classes=("walking",), sites=("shin",), labels="activities"):
    return RecordingsSection(
        reader="umafall", labels=labels, classes=list(classes), channels=["acc"], sites=list(sites)
    )


def sine(amplitude, hertz=3.0, frames=120):
    """On one axis, beside gravity."""
    wave = amplitude * np.sin(2 * np.pi * hertz * np.arange(frames) / RATE)
    return np.stack([wave, np.full(frames, 9.81), np.zeros(frames)], 1)


def recorded(*rows, sites=("shin",)):
    """Clips of (table row, one signal (T, 3) for each site)."""
    arrays = [np.stack(signals, 1) for _, *signals in rows]
    table = [{"activity": "walking"} | row for row, *_ in rows]
    return Clips.from_list(table, {"acc": arrays}, {"rate": RATE, "sites": list(sites)})


def test_a_sine_has_its_power_at_its_frequency():
    frequency, density = window_spectra(sine(4.0, frames=40)[None], RATE)
    assert_allclose(frequency, np.arange(21) * BIN)
    assert frequency[density[0].argmax()] == 3.0
    assert density[0].sum() * BIN == pytest.approx(4.0**2 / 2, rel=1e-6)
    # Hann: a sine on a bin is in that bin and its neighbours.
    assert density[0, 5:8].sum() * BIN == pytest.approx(8.0, rel=1e-6)
    # Gravity is a mean, and leaves no trace.
    assert density[0, 0] == pytest.approx(0, abs=1e-9)


def test_the_level_of_noise_is_its_variance_over_the_band():
    noise = np.random.default_rng(0).normal(scale=2.0, size=(3000, 40, 3))
    _, density = window_spectra(noise + 9.81, RATE)
    # The ends, 0 Hz and the Nyquist frequency, are one-sided; the first bins miss the mean.
    assert_allclose(density.mean(0)[2:-1], 3 * 4.0 / (RATE / 2), rtol=0.06)
    assert density[:, 2:-1].mean() == pytest.approx(1.2, rel=0.01)


def test_the_rate_sets_the_axis():
    frequency, density = window_spectra(sine(1.0)[None], 2 * RATE)
    assert frequency[density[0].argmax()] == 6.0 and frequency[-1] == RATE


def test_the_sensors_axes_do_not_matter():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(5, 40, 3)).cumsum(1)
    turn = axis_angle_to_matrix(torch.tensor([0.4, -1.1, 2.0], dtype=torch.float64)).numpy()
    assert_allclose(window_spectra(noise @ turn.T, RATE)[1], window_spectra(noise, RATE)[1])


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (np.zeros((40, 3)), r"shape \(40, 3\)"),
        (np.zeros((2, 40, 6)), r"\(2, 40, 6\)"),
        (np.zeros((2, 3, 3)), r"\(2, 3, 3\)"),
        (np.full((1, 40, 3), np.nan), "120 values NaN"),
    ],
)
def test_what_is_no_window_is_refused(x, told):
    with pytest.raises(InputError, match=told):
        window_spectra(x, RATE)
    with pytest.raises(InputError, match="0 Hz"):
        window_spectra(np.zeros((1, 40, 3)), 0.0)


def power(spectra, rows):
    return spectra.density[rows].sum(1) * BIN


def test_people_count_once_whatever_they_recorded():
    # One person with three recordings, two with one, of which one is long.
    rows = [({"subject": 1, "recording": f"a{i}"}, sine(2.0)) for i in range(3)]
    rows += [({"subject": 2, "recording": "b"}, sine(4.0, frames=60))]
    rows += [({"subject": 3, "recording": "c"}, sine(6.0, frames=400))]
    found = accelerometer_spectra(recorded(*rows), section(), average="power")
    assert found.table["unit"].tolist() == [1, 2, 3]
    assert found.table["windows"].tolist() == [15, 2, 19]
    assert_allclose(power(found, found.rows("walking", "shin")), [2, 8, 18])
    mean = mean_spectra(found, 0)
    assert mean["density"].sum() * BIN == pytest.approx(28 / 3)
    assert (mean["units"] == 3).all() and mean["low"].isna().all()


def test_one_motion_on_many_bodies_is_one():
    rows = [
        ({"motion": m, "body": b, "subject": b}, sine(a))
        for m, a in ((7, 1.0), (9, 3.0))
        for b in ("short", "tall")
    ]
    found = accelerometer_spectra(recorded(*rows), section())
    assert found.table["unit"].tolist() == [7, 9] and found.table["windows"].tolist() == [10, 10]
    lone = accelerometer_spectra(recorded(({}, sine(1.0)), ({}, sine(2.0))), section())
    assert lone.table["unit"].tolist() == [0, 1]


def test_one_wild_motion_does_not_speak_for_all():
    rows = [({"motion": i}, sine(100.0 if i == 0 else 1.0)) for i in range(10)]
    clips = recorded(*rows)
    decibel, powers = (
        mean_spectra(accelerometer_spectra(clips, section(), average=a), 0)
        for a in ("decibel", "power")
    )
    at = decibel["frequency"] == 3.0
    # 40 dB more, one in ten: 4 dB on average, a thousandfold in the mean of powers.
    ratio = powers.loc[at, "density"].item() / decibel.loc[at, "density"].item()
    assert ratio == pytest.approx((10_000 + 9) / 10 / 10**0.4, rel=1e-6)


def test_what_is_missing_is_left_out_and_counted():
    gap, blank = sine(1.0), np.full((120, 3), np.nan)
    gap[10] = np.nan
    clips = recorded(
        ({"subject": 1}, sine(1.0), sine(2.0), blank),
        ({"subject": 2}, gap, sine(2.0), blank),
        ({"subject": 3}, blank, sine(2.0), blank),
        ({"subject": 4}, sine(1.0, frames=30), sine(2.0, frames=30), blank[:30]),
        sites=("shin", "chest", "waist"),
    )
    found = accelerometer_spectra(clips, section(sites=("shin", "chest", "waist")))
    counts = found.counts.set_index("site")
    assert counts.loc["shin"].tolist() == ["walking", 2, 9, 6, 2]
    assert counts.loc["chest"].tolist() == ["walking", 3, 15, 0, 1]
    assert counts.loc["waist"].tolist() == ["walking", 0, 0, 15, 4]
    assert found.table["unit"].tolist() == [1, 2, 1, 2, 3] and np.isfinite(found.density).all()
    assert set(mean_spectra(found, 0)["site"]) == {"shin", "chest"}
    with pytest.raises(InputError, match="no window of 40 frames of walking"):
        accelerometer_spectra(clips, section(sites=("waist",)))
    with pytest.raises(InputError, match="head"):
        accelerometer_spectra(clips, section(sites=("head",)))


def test_classes_and_sites_are_kept_apart():
    clips = recorded(
        ({"activity": "climbing up", "subject": 1}, sine(1.0), sine(2.0)),
        ({"activity": "climbing down", "subject": 1}, sine(3.0), sine(4.0)),
        ({"activity": "running", "subject": 1}, sine(5.0), sine(6.0)),
        sites=("shin", "chest"),
    )
    both = section(("stair climbing", "running"), ("shin", "chest"), "categories")
    found = accelerometer_spectra(clips, both)
    got = {key: power(found, found.rows(*key)).round(6).tolist() for key in (
        ("stair climbing", "shin"), ("stair climbing", "chest"), ("running", "shin"),
        ("running", "chest"),
    )}  # fmt: skip
    assert list(got.values()) == [[2.5], [5.0], [12.5], [18.0]]
    one = accelerometer_spectra(clips, both, sites=["chest"], size=20)
    assert set(one.table["site"]) == {"chest"} and len(one.frequency) == 11


def test_the_interval_is_of_people_and_not_of_windows():
    rng = np.random.default_rng(3)
    levels = 10 ** rng.normal(0, 0.5, 16)
    rows = [({"subject": i}, sine(a)) for i, a in enumerate(levels)]
    few = mean_spectra(accelerometer_spectra(recorded(*rows), section()), 0)
    many = mean_spectra(accelerometer_spectra(recorded(*(5 * rows)), section()), 0)
    assert_allclose(many[["low", "high"]], few[["low", "high"]])
    at = few["frequency"] == 3.0
    width = 10 * np.log10(few.loc[at, "high"].item() / few.loc[at, "low"].item())
    expected = 2 * 1.96 * (20 * np.log10(levels)).std() / 4
    assert width == pytest.approx(expected, rel=0.12)


def test_gains_are_of_the_same_motions():
    rng = np.random.default_rng(4)
    size = 10 ** rng.normal(0, 1, 8)
    rows = [({"motion": i}, rng.normal(scale=a, size=(120, 3))) for i, a in enumerate(size)]
    before = accelerometer_spectra(recorded(*rows), section())
    louder = [(row, 2 * signal) for row, signal in rows]
    # Another order, another length, and one motion that only one model made.
    after = accelerometer_spectra(recorded(*louder[::-1], ({"motion": 99}, sine(1.0))), section())
    found = gains(before, after, 0)
    assert set(found["label"]) == {"walking", ALL} and (found["units"] == 8).all()
    for column in ("value", "low", "high"):
        assert_allclose(found[column], 20 * np.log10(2))
    # Without pairing, motions that differ by 20 dB would hide it.
    mean = mean_spectra(before, 0)
    assert (10 * np.log10(mean["high"] / mean["low"]) > 10).all()
    with pytest.raises(InputError, match="0 motions in common"):
        gains(before, accelerometer_spectra(recorded(({"motion": 99}, sine(1.0))), section()), 0)
    with pytest.raises(InputError, match="frequencies"):
        gains(before, accelerometer_spectra(recorded(*rows), section(), size=20), 0)
