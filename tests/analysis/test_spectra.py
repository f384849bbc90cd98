import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation

from t2imu_utils.analysis.spectra import (
    ALL,
    TOP,
    accelerometer_spectra,
    changes,
    compare,
    gains,
    mean_spectra,
    power_spectrum,
    spectral_distance,
    spectral_errors,
    window_spectra,
)
from t2imu_utils.clips import Clips
from t2imu_utils.tracks import RecordingsSection

RATE, BIN = 20.0, 0.5
FREQUENCY = np.arange(21) / 2
SLOPE = -FREQUENCY  # dB
CELLS = [("running", "shin"), ("running", "chest"), ("walking", "shin"), ("walking", "chest")]


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


def test_spectrum_of_moving_joints_peaks_at_their_frequency():
    amplitude, hertz, time = 0.05, 3.0, np.arange(201) / RATE
    path = np.outer(amplitude * np.sin(2 * np.pi * hertz * time), [1.0, 0, 0])
    joints = path[:, None] + np.random.default_rng(0).normal(size=(22, 3))
    frequency, density = power_spectrum(joints)
    assert frequency[density.argmax()] == hertz and frequency[-1] == RATE / 2
    # Second differences pass sinc² of the sine's true acceleration.
    passed = amplitude * (2 * np.pi * hertz) ** 2 * np.sinc(hertz / RATE) ** 2
    assert density.sum() * frequency[1] == pytest.approx(passed**2 / 2, rel=0.02)


def test_a_sine_has_its_power_at_its_frequency():
    frequency, density = window_spectra(sine(4.0, frames=40)[None], RATE)
    assert_allclose(frequency, FREQUENCY)
    assert density[0].sum() * BIN == pytest.approx(4.0**2 / 2, rel=1e-6)
    # Hann: a sine on a bin is in that bin and its neighbours.
    assert density[0, 5:8].sum() * BIN == pytest.approx(8.0, rel=1e-6)
    # Gravity is a mean, and leaves no trace; the sensor's axes do not matter.
    assert density[0, 0] == pytest.approx(0, abs=1e-9)
    noise = np.random.default_rng(1).normal(size=(5, 40, 3)).cumsum(1)
    turn = Rotation.from_rotvec([0.4, -1.1, 2.0]).as_matrix()
    assert_allclose(window_spectra(noise @ turn.T, RATE)[1], window_spectra(noise, RATE)[1])


def power(spectra):
    """Of each row over the band, (m/s²)²."""
    return ((10 ** (spectra / 10)).sum(axis=1) * BIN).round(6).tolist()


def units(spectra):
    return spectra.index.get_level_values("unit").tolist()


def test_people_and_motions_count_once_whatever_they_recorded():
    # One person with three recordings, two with one, of which one is long.
    rows = [({"subject": 1, "recording": f"a{i}"}, sine(2.0)) for i in range(3)]
    rows += [({"subject": 2, "recording": "b"}, sine(4.0, frames=60))]
    rows += [({"subject": 3, "recording": "c"}, sine(6.0, frames=400))]
    found = accelerometer_spectra(recorded(*rows), section())
    assert units(found) == [1, 2, 3] and power(found) == [2, 8, 18]
    mean = mean_spectra(found, 0)
    assert (mean["units"] == 3).all() and mean["low"].isna().all()
    # Decibels are averaged.
    at = mean["frequency"] == 3.0
    assert 10 * np.log10(mean.loc[at, "density"].item()) == pytest.approx(found[3.0].mean())
    rows = [
        ({"motion": m, "body": b, "subject": b}, sine(a))
        for m, a in ((9, 1.0), (7, 3.0))
        for b in ("short", "tall")
    ]
    assert units(accelerometer_spectra(recorded(*rows), section())) == [7, 9]


def test_what_is_missing_is_left_out():
    gap, blank = sine(1.0), np.full((120, 3), np.nan)
    gap[10] = np.nan
    clips = recorded(
        ({"subject": 1}, sine(1.0), sine(2.0), blank),
        ({"subject": 2}, gap, sine(2.0), blank),
        ({"subject": 3}, blank, sine(2.0), blank),
        sites=("shin", "chest", "waist"),
    )
    found = accelerometer_spectra(clips, section(sites=("shin", "chest", "waist")))
    assert units(found) == [1, 2, 1, 2, 3] and np.isfinite(found).all(axis=None)
    assert set(mean_spectra(found, 0)["site"]) == {"shin", "chest"}


def test_gains_are_of_the_same_motions():
    rng = np.random.default_rng(4)
    rows = [({"motion": i}, rng.normal(scale=10**i, size=(120, 3))) for i in rng.normal(0, 1, 8)]
    before = accelerometer_spectra(recorded(*rows), section())
    louder = [(row, 2 * signal) for row, signal in rows]
    # Another order, and one motion that only one model made.
    after = accelerometer_spectra(recorded(*louder[::-1], ({"motion": 99}, sine(1.0))), section())
    found = gains(before, after, 0)
    assert set(found["label"]) == {"walking", ALL} and (found["units"] == 8).all()
    assert_allclose(found[["value", "low", "high"]], 20 * np.log10(2))


def spectra(units, gain=1.0, tilt=0.0, spread=0.3, seed=0, cells=CELLS):
    """A slope that `gain` scales and `tilt` bends, of people who differ in size."""
    rng = np.random.default_rng(seed)
    size = 10 * rng.normal(0, spread, units)
    level = size[:, None] + SLOPE + 10 * np.log10(gain) + 10 * tilt * FREQUENCY
    level = pd.DataFrame(level + 10 * rng.normal(0, 0.02, level.shape), columns=FREQUENCY)
    return pd.concat(dict.fromkeys(cells, level), names=["label", "site", "unit"])


def test_level_and_shape_are_told_apart():
    for gain, told in ((0, [0, 0, 0]), (10, [10, 0, 10]), (-20, [20, 0, -20])):
        assert_allclose(spectral_errors(gain + SLOPE, SLOPE, FREQUENCY), told, atol=1e-6)
    used = (FREQUENCY > 0) & (FREQUENCY <= TOP)
    distance, shape, level = spectral_errors(SLOPE + FREQUENCY, SLOPE, FREQUENCY)
    assert shape == pytest.approx(FREQUENCY[used].std())
    assert level == pytest.approx(FREQUENCY[used].mean())
    assert distance**2 == pytest.approx(shape**2 + level**2)
    densities = (10 ** (x[:17] / 10) for x in (SLOPE + FREQUENCY, SLOPE))
    assert distance == pytest.approx(spectral_distance(*densities))


def value(table, **where):
    for name, wanted in where.items():
        table = table[table[name] == wanted]
    assert len(table) == 1
    return table.iloc[0]


def test_models_are_compared_with_real():
    made = {"near": spectra(9, seed=1), "loud": spectra(9, gain=10.0, seed=1),
            "bent": spectra(9, tilt=0.1, seed=1)}  # fmt: skip
    numbers = compare(spectra(12), made, 0)
    whole = numbers[(numbers["label"] == ALL) & (numbers["site"] == ALL)]
    loud, near = (value(whole, model=m, measure="level") for m in ("loud", "near"))
    assert loud["value"] - near["value"] == pytest.approx(10)
    assert 5 < loud["low"] < loud["value"] < loud["high"]
    shape = whole[whole["measure"] == "shape"].set_index("model")["value"]
    assert shape["loud"] == pytest.approx(shape["near"]) and shape["bent"] > 2 > 0.2 > shape["near"]
    # Every class at every site, each site, and everything; real among the models.
    assert len(numbers) == 4 * 3 * (len(CELLS) + 2 + 1)


def test_the_split_half_reference_is_of_people():
    alike, apart = (compare(spectra(12, spread=s), {}, 0) for s in (0.01, 0.6))
    found = [value(t, label=ALL, site=ALL, measure="distance")["value"] for t in (alike, apart)]
    # Six against six: one against eleven would differ nearly twice as much.
    size = spectra(12, spread=0.6)[:12].mean(axis=1).std()
    expected = np.sqrt(2 / np.pi) * size * np.sqrt(1 / 6 + 1 / 6)
    assert found[0] < 0.5 and found[1] == pytest.approx(expected, rel=0.3)


def test_a_change_is_paired_over_motions_and_people():
    real, base = spectra(8, spread=0.5), spectra(8, gain=10.0, spread=0.5, seed=1)
    nearer = base - 2
    change = changes(real, base, nearer, 0)
    level = value(change, label=ALL, site=ALL, measure="level")
    assert level["value"] == pytest.approx(-2) and level["high"] - level["low"] < 0.5
    alone = value(compare(real, {"a": base}, 0), model="a", label=ALL, site=ALL, measure="level")
    assert alone["high"] - alone["low"] > 3
    assert_allclose(changes(real, nearer, base, 0)["value"], -change["value"])
    # Too weak is an error as too strong is.
    found = changes(real, real - 20, real, 0)
    assert value(found, label=ALL, site=ALL, measure="level")["value"] < -15
