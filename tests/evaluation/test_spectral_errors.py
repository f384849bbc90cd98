from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from t2imu_utils.errors import InputError
from t2imu_utils.evaluation import spectral_errors
from t2imu_utils.evaluation.kinematics import spectral_distance
from t2imu_utils.evaluation.spectra import ALL, Spectra
from t2imu_utils.evaluation.spectral_errors import TOP, as_metrics, changes, compare, in_words

FREQUENCY = np.arange(21) / 2
SLOPE = 10 ** (-FREQUENCY / 10)
CELLS = [("running", "shin"), ("running", "chest"), ("walking", "shin"), ("walking", "chest")]


def spectra(units, gain=1.0, tilt=0.0, spread=0.3, seed=0, cells=CELLS):
    """A slope that `gain` scales and `tilt` bends, of people who differ in size."""
    rng = np.random.default_rng(seed)
    size = 10 ** rng.normal(0, spread, units)
    density = size[:, None] * SLOPE * gain * 10 ** (tilt * FREQUENCY)
    density = density * 10 ** rng.normal(0, 0.02, density.shape)
    rows = [(*cell, unit, 3) for cell in cells for unit in range(units)]
    counts = [(*cell, units, 3 * units, 0, 0) for cell in cells]
    return Spectra(
        FREQUENCY,
        np.concatenate([density] * len(cells)),
        pd.DataFrame(rows, columns=["label", "site", "unit", "windows"]),
        pd.DataFrame(counts, columns=["label", "site", "units", "windows", "dropped", "without"]),
    )


def test_level_and_shape_are_told_apart():
    for gain, told in ((1, [0, 0, 0]), (10, [10, 0, 10]), (0.01, [20, 0, -20])):
        found = spectral_errors.spectral_errors(gain * SLOPE, SLOPE, FREQUENCY)
        assert_allclose(found, told, atol=1e-6)
    # As much power, elsewhere.
    used = (FREQUENCY > 0) & (FREQUENCY <= TOP)
    bent = SLOPE * 10 ** (0.1 * FREQUENCY)
    bent *= SLOPE[used].sum() / bent[used].sum()
    distance, shape, level = spectral_errors.spectral_errors(bent, SLOPE, FREQUENCY)
    assert level == pytest.approx(0, abs=1e-9) and shape == pytest.approx(FREQUENCY[used].std())
    ratio = 10 * np.log10(bent / SLOPE)[used]
    assert distance**2 == pytest.approx(shape**2 + ratio.mean() ** 2)


def test_the_distance_is_the_packages_own_up_to_the_resamplings_pass_band():
    rng = np.random.default_rng(0)
    p, q = rng.gamma(2, size=(2, 5, 21))
    found = spectral_errors.spectral_errors(p, q, FREQUENCY)
    assert found.shape == (5, 3)
    for row, a, b in zip(found, p, q, strict=True):
        assert row[0] == pytest.approx(spectral_distance(a[:17], b[:17]))
    # What lies at 0 Hz or above the band does not count.
    p[:, [0, 17, 18, 19, 20]] = 1e9
    assert_allclose(spectral_errors.spectral_errors(p, q, FREQUENCY), found)


def test_a_sensor_that_does_not_move_is_infinitely_far_in_finite_numbers():
    found = spectral_errors.spectral_errors(np.zeros(21), SLOPE, FREQUENCY)
    assert np.isfinite(found).all() and found[2] < -100


def value(table, **where):
    for name, wanted in where.items():
        table = table[table[name] == wanted]
    assert len(table) == 1
    return table.iloc[0]


def test_models_are_compared_with_real():
    real = spectra(12)
    made = {"near": spectra(9, seed=1), "loud": spectra(9, gain=10.0, seed=1),
            "bent": spectra(9, tilt=0.1, seed=1)}  # fmt: skip
    numbers = compare(real, made, 0)
    whole = numbers[(numbers["label"] == ALL) & (numbers["site"] == ALL)]
    loud, near = (value(whole, model=m, measure="level") for m in ("loud", "near"))
    assert loud["value"] - near["value"] == pytest.approx(10)
    assert loud["low"] < loud["value"] < loud["high"] and loud["low"] > 5
    shape = whole[whole["measure"] == "shape"].set_index("model")["value"]
    assert shape["loud"] == pytest.approx(shape["near"]) and shape["bent"] > 2 > 0.2 > shape["near"]
    assert (whole["people"] == 12).all()
    assert whole.set_index("model")["motions"].drop("real").eq(9).all()
    # Every class at every site, each site, and everything; real among the models.
    assert len(numbers) == 4 * 3 * (len(CELLS) + 2 + 1)
    found = as_metrics(numbers)
    assert found["loud"][ALL]["level"]["value"] == loud["value"] and "shin" in found["loud"]
    text = spectral_errors.table(numbers, "level")
    assert list(text.columns) == ["real", "near", "loud", "bent"]
    expected = f"{loud['value']:.1f} [{loud['low']:.1f}, {loud['high']:.1f}]"
    assert text.loc[(ALL, ALL), "loud"] == expected


def test_intervals_are_of_people_and_motions():
    one = {"model": spectra(30, spread=0.5, seed=1)}
    wide, narrow = (
        value(compare(spectra(n, spread=0.5), one, 0), label="running", site="shin",
              model="model", measure="level") for n in (5, 60)
    )  # fmt: skip
    spread = 10 * 0.5
    expected = 2 * 1.96 * spread * np.sqrt(1 / 60 + 1 / 30)
    assert narrow["high"] - narrow["low"] == pytest.approx(expected, rel=0.3)
    assert wide["high"] - wide["low"] > 1.1 * (narrow["high"] - narrow["low"])
    # Of one distribution: samples of it, which are noisier, lie farther apart than it does.
    alike = compare(spectra(8), {"model": spectra(8)}, 0)
    distance = alike[(alike["model"] == "model") & (alike["measure"] == "distance")]
    assert (distance["low"] == 0).all() and (distance["value"] < 1e-9).all()
    few = compare(spectra(3), one, 0)
    assert few["value"][few["model"] == "model"].notna().all() and few["low"].isna().all()
    # Three people have no halves.
    assert few["value"][few["model"] == "real"].isna().all()
    assert (spectral_errors.table(few)["real"] == "–").all()


def test_real_against_real_is_by_halves_of_the_people():
    alike, apart = (compare(spectra(12, spread=s), {}, 0) for s in (0.01, 0.6))
    floor = [value(t, label=ALL, site=ALL, measure="distance")["value"] for t in (alike, apart)]
    assert floor[0] < 0.5
    level = value(apart, label="running", site="shin", measure="level")
    assert level["low"] < 0 < level["high"]
    # Six against six: one against eleven would differ nearly twice as much.
    size = 10 * np.log10(spectra(12, spread=0.6).density[:12]).mean(1).std(ddof=1)
    expected = np.sqrt(2 / np.pi) * size * np.sqrt(1 / 6 + 1 / 6)
    assert floor[1] == pytest.approx(expected, rel=0.3)


def test_a_change_is_paired_over_motions_and_people():
    real, base = spectra(8, spread=0.5), spectra(8, gain=10.0, spread=0.5, seed=1)
    nearer = replace(base, density=base.density / 10**0.2)
    change = changes(real, {"a": base, "b": nearer}, "a", "b", 0)
    level = value(change, label=ALL, site=ALL, measure="level")
    assert [level["value"], level["after"] - level["before"]] == pytest.approx([-2, -2])
    assert level["high"] - level["low"] < 0.5
    alone = value(compare(real, {"a": base}, 0), model="a", label=ALL, site=ALL, measure="level")
    assert alone["high"] - alone["low"] > 3
    back = changes(real, {"a": base, "b": nearer}, "b", "a", 0)
    assert_allclose(back["value"], -change["value"])
    words = in_words(change).splitlines()
    assert len(words) == 3 and "of 4 classes at sites" in words[0]
    assert "nearer to real in 4, farther in 0" in words[2]
    assert "nearer to real in 0, farther in 4" in in_words(back).splitlines()[2]
    # Too weak is an error as too strong is.
    weak = replace(real, density=real.density / 100)
    found = changes(real, {"a": weak, "b": real}, "a", "b", 0)
    assert value(found, label=ALL, site=ALL, measure="level")["value"] < -15


def test_what_one_side_lacks_is_left_out_of_the_means():
    real = spectra(8, cells=CELLS[:3])
    lacking = spectra(8, gain=10.0, cells=CELLS[:2], seed=0)
    numbers = compare(real, {"model": lacking}, 0)
    level = numbers[(numbers["model"] == "model") & (numbers["measure"] == "level")]
    assert np.isnan(value(level, label="walking", site="shin")["value"])
    assert value(level, label=ALL, site=ALL)["value"] == pytest.approx(10, abs=0.1)
    change = changes(real, {"whole": real, "model": lacking}, "whole", "model", 0)
    shin = value(change, label=ALL, site="shin", measure="level")
    assert [shin["before"], shin["value"]] == pytest.approx([0, 10], abs=0.1)
    other = replace(real, frequency=FREQUENCY / 2)
    with pytest.raises(InputError, match="spectra of model"):
        compare(real, {"model": other}, 0)
