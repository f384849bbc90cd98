import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from t2imu_utils.analysis import solvers
from t2imu_utils.analysis.motions import statistics
from t2imu_utils.analysis.solvers import FULL, REAL, Sampled, trade_off
from t2imu_utils.analysis.spectra import mean_spectrum, spectral_distance
from t2imu_utils.analysis.stats import two_sample_distance
from t2imu_utils.errors import InputError
from t2imu_utils.motion.features import features_to_joints
from t2imu_utils.motion.normalise import Normaliser
from t2imu_utils.priors.solvers import Solver

NORMALISER = Normaliser(np.full(263, 0.1, np.float32), np.full(263, 0.7, np.float32))
GOOD, SHAKY = Solver("sde-dpm++2m", 10), Solver("ddim", 6)
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
    made = {GOOD: motions(3, prompts), SHAKY: motions(4, prompts, shake=0.05)}
    return Sampled(motions(1, prompts), motions(2, prompts), made, PROMPTS, 50)


@pytest.fixture(scope="module")
def table(sampled, real):
    return trade_off(sampled, real, range(len(real)), NORMALISER, draws=100)


def rows(table, solver, seeds="same"):
    found = table[(table["solver"] == solver.name) & (table["evaluations"] == solver.count(50))]
    return found[found["seeds"] == seeds].set_index(["measure", "to"])


def test_every_sample_is_measured_against_real_motion_and_full_sampling(table):
    assert len(table) == 3 * (4 + 3)
    assert set(rows(table, Solver()).index) == {(m, REAL) for m in solvers.MEASURES}
    assert (rows(table, Solver())["excess"] == 0).all()
    again = rows(table, Solver(), "other")
    assert (again.xs(FULL, level="to")["excess"] == 0).all()
    assert (table["low"] <= table["high"]).all()


def test_a_solver_that_shakes_is_told_from_one_that_does_not(table):
    assert rows(table, GOOD)["no_worse"].all()
    shaky = rows(table, SHAKY)["no_worse"]
    assert not shaky[[("kinetics", REAL), ("spectrum", REAL), ("kinetics", FULL)]].any()
    verdict = solvers.no_worse(table)
    assert verdict.index.tolist() == [("ddim", 6), ("sde-dpm++2m", 10), ("ancestral", 50)]
    for column in ("all, to real", "all"):
        assert verdict[column].tolist() == [False, True, True]


def test_distances_are_those_of_their_definition(table, sampled, real):
    given = PROMPTS, range(len(real)), 0
    views = [statistics(x, NORMALISER) for x in (sampled.by_solver[GOOD], real)]
    expected = two_sample_distance(*views, *given)[0] / np.sqrt(526)
    assert_allclose(rows(table, GOOD).loc[("features", REAL), "value"], expected, rtol=1e-6)
    made = sampled.by_solver[SHAKY]
    spectra = [mean_spectrum([features_to_joints(x) for x in own])[1] for own in (made, real)]
    found = rows(table, SHAKY).loc[("spectrum", REAL), "value"]
    assert_allclose(found, spectral_distance(*spectra), rtol=1e-9)


def test_intervals_hold_the_difference_of_two_equal_samplers_mostly(real):
    prompts, held = [i // 2 for i in range(20)], []
    for seed in range(100, 106):
        full, again, other = (motions(1000 * k + seed, prompts, 0.02) for k in range(3))
        made = Sampled(full, again, {GOOD: other}, PROMPTS, 50)
        row = rows(trade_off(made, real, range(24), NORMALISER, draws=40), GOOD)
        row = row.loc[("features", REAL)]
        held.append(row["low"] <= 0 <= row["high"])
    assert sum(held) >= 4


def test_all_solvers_get_the_same_requests_and_full_sampling_comes_twice(monkeypatch, prior):
    requests = pd.DataFrame({"prompt": ["walks", "runs"], "frames": [20, 24], "seed": [3, 5]})
    calls = {}

    def generate(prior, prompts, frames, seeds, guidance, batch_size, device, progress, solver):
        assert (prompts, frames, guidance) == (["walks", "runs"], [20, 24], 2.5)
        calls.setdefault(solver, []).append(seeds)

    monkeypatch.setattr(solvers, "generate", generate)
    solvers.sample_solvers(prior, requests, [GOOD, SHAKY], 2.5)
    first, second = calls.pop(None)
    assert calls == {GOOD: [[3, 5]], SHAKY: [[3, 5]]}
    assert first == [3, 5] and not set(second) & {3, 5}


def test_too_few_prompts_are_refused(sampled, real):
    few = Sampled(sampled.full, sampled.again, {}, ["a", "b", "c", "c"] * 5, 50)
    with pytest.raises(InputError, match="found 3 groups; expected at least 4"):
        trade_off(few, real, range(24), NORMALISER)
