import numpy as np
import pytest
from numpy.testing import assert_allclose

from t2imu_utils.analysis.motions import statistics
from t2imu_utils.analysis.solvers import trade_off
from t2imu_utils.analysis.spectra import power_spectrum, spectral_distance
from t2imu_utils.analysis.stats import two_sample_distance
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.motion.features import features_to_joints

NORMALISER = Normaliser(np.full(263, 0.1, np.float32), np.full(263, 0.7, np.float32))
FULL, AGAIN = ("ancestral", 50, "same"), ("ancestral", 50, "other")
GOOD, SHAKY = ("sde-dpm++2m", 10, "same"), ("ddim", 6, "same")
PROMPTS = [f"prompt {i // 2}" for i in range(20)]


def motions(seed, prompts, shake=0.01):
    """Smooth motions, of the prompt's own frequency and size, shaken by white noise."""
    rng, made = np.random.default_rng(seed), []
    for i in prompts:
        frames = int(rng.integers(30, 50))
        time = np.arange(frames)[:, None] / 20
        phases = 2 * np.pi * np.linspace(0, 1, 263)
        wave = np.sin(2 * np.pi * (0.5 + 0.05 * i) * time + phases + rng.random())
        made.append(0.3 * wave + shake * rng.normal(size=(frames, 263)))
    return made


@pytest.fixture(scope="module")
def real():
    return motions(9, np.linspace(0, 9, 24))


@pytest.fixture(scope="module")
def sampled():
    prompts = [i // 2 for i in range(20)]
    shaken = motions(4, prompts, shake=0.05)
    seeds = {FULL: 1, AGAIN: 2, GOOD: 3}
    return {key: motions(seed, prompts) for key, seed in seeds.items()} | {SHAKY: shaken}


@pytest.fixture(scope="module")
def table(sampled, real):
    found = trade_off(sampled, PROMPTS, real, range(len(real)), NORMALISER, draws=100)
    return found.set_index(["solver", "evaluations", "seeds", "measure"]).sort_index()


def test_a_solver_that_shakes_is_told_from_one_that_does_not(table):
    assert len(table) == 4 * 3 and (table["low"] <= table["high"]).all()
    assert (table.loc[FULL, "excess"] == 0).all()
    assert table.loc[GOOD, "no_worse"].all() and table.loc[AGAIN, "no_worse"].all()
    assert not table.loc[SHAKY, "no_worse"][["kinetics", "spectrum"]].any()


def test_distances_are_those_of_their_definition(table, sampled, real):
    views = [statistics(x, NORMALISER) for x in (sampled[GOOD], real)]
    expected = two_sample_distance(*views, PROMPTS, range(len(real)), 0)[0] / np.sqrt(526)
    assert_allclose(table.loc[(*GOOD, "features"), "value"], expected, rtol=1e-6)
    means = []
    for own in (sampled[SHAKY], real):
        power = [power_spectrum(features_to_joints(x))[1] for x in own]
        means.append(np.average(power, axis=0, weights=[len(x) for x in own]))
    found = table.loc[(*SHAKY, "spectrum"), "value"]
    assert_allclose(found, spectral_distance(*means), rtol=1e-9)
