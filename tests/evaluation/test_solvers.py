import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist

from t2imu_utils.errors import InputError
from t2imu_utils.evaluation import solvers
from t2imu_utils.evaluation.kinematics import mean_spectrum, spectral_distance
from t2imu_utils.evaluation.similarity import two_sample_distance
from t2imu_utils.evaluation.solvers import FULL, REAL, Sampled, kinetics, trade_off
from t2imu_utils.motion.features import Normaliser, features_to_joints
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
    steps = solver.count(50)
    found = table[(table["solver"] == solver.name) & (table["evaluations"] == steps)]
    return found[found["seeds"] == seeds].set_index(["measure", "to"])


def test_every_sample_is_measured_against_real_motion_and_full_sampling(table):
    assert len(table) == 3 * (4 + 3)
    assert not table.duplicated(["solver", "evaluations", "seeds", "measure", "to"]).any()
    assert set(rows(table, Solver()).index) == {(m, REAL) for m in solvers.MEASURES}
    assert (rows(table, Solver())["excess"] == 0).all()
    again = rows(table, Solver(), "other")
    assert (again.xs(FULL, level="to")["excess"] == 0).all()
    assert (table["low"] <= table["high"]).all()


def test_a_solver_that_shakes_is_told_from_one_that_does_not(table):
    good, shaky = rows(table, GOOD), rows(table, SHAKY)
    assert good["no_worse"].all()
    assert not shaky.loc[("kinetics", REAL), "no_worse"]
    assert not shaky.loc[("spectrum", REAL), "no_worse"]
    assert not shaky.loc[("kinetics", FULL), "no_worse"]
    for measure in ("kinetics", "spectrum"):
        assert (shaky.loc[measure, "value"] > good.loc[measure, "value"]).all()
    verdict = solvers.no_worse(table)
    assert verdict.index.tolist() == [("ddim", 6), ("sde-dpm++2m", 10), ("ancestral", 50)]
    for column in ("all, to real", "all"):
        assert verdict[column].tolist() == [False, True, True]
    assert len(verdict.columns) == 3 + 3 + 2


def statistics(features):
    scaled = [NORMALISER.normalise(x) for x in features]
    return np.stack([np.concatenate([x.mean(0), x.std(0)]) for x in scaled])


def test_distance_of_features_to_real_motion_is_the_energy_distance(table, sampled, real):
    made = statistics(sampled.by_solver[GOOD])
    expected = two_sample_distance(made, statistics(real), 0, x_groups=np.array(PROMPTS)).value
    found = rows(table, GOOD).loc[("features", REAL), "value"]
    assert_allclose(found, expected / np.sqrt(526), rtol=1e-6)


def test_pairs_of_one_prompt_are_left_out(table, sampled):
    a, b = statistics(sampled.by_solver[SHAKY]), statistics(sampled.full)
    apart = np.array([[p != q for q in PROMPTS] for p in PROMPTS])
    ab, aa, bb = (cdist(x, y)[apart].mean() for x, y in ((a, b), (a, a), (b, b)))
    found = rows(table, SHAKY).loc[("features", FULL), "value"]
    assert_allclose(found, (2 * ab - aa - bb) / np.sqrt(526), rtol=1e-9)


def test_distance_of_spectra_is_that_of_the_mean_spectra(table, sampled, real):
    spectra = [
        mean_spectrum([features_to_joints(x) for x in made])[1]
        for made in (sampled.by_solver[SHAKY], real)
    ]
    found = rows(table, SHAKY).loc[("spectrum", REAL), "value"]
    assert_allclose(found, spectral_distance(*spectra), rtol=1e-9)


def test_the_same_seed_gives_the_same_intervals(sampled, real):
    first, second = (trade_off(sampled, real, range(24), NORMALISER, draws=20) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


def test_intervals_hold_the_difference_of_two_equal_samplers_mostly(real):
    prompts = [i // 2 for i in range(20)]
    held = []
    for seed in range(100, 106):
        full, again, other = (motions(1000 * k + seed, prompts, 0.02) for k in range(3))
        found = trade_off(
            Sampled(full, again, {GOOD: other}, PROMPTS, 50), real, range(24), NORMALISER, draws=40
        )
        row = rows(found, GOOD).loc[("features", REAL)]
        held.append(row["low"] <= 0 <= row["high"])
    assert sum(held) >= 4


def test_kinetics_of_a_body_that_speeds_up():
    time = np.arange(41)[:, None, None] / 20
    joints = np.zeros((41, 22, 3)) + [0, 1, 0]
    parts = solvers.PARTS
    joints[:, list(parts["legs"])] += 0.5 * time**2 * [3, 0, 4]  # 5 m/s² along one line
    joints[:, list(parts["arms"])] += time**3 * [0, 0, 2]  # jerk of 12 m/s³
    speed, acceleration, jerk = kinetics(joints).reshape(3, 3)
    assert_allclose(speed[:2], [5 * 1, 0], atol=1e-9)
    assert_allclose(acceleration[:2], [5, 0], atol=1e-9)
    assert_allclose(acceleration[2], 12 * 1, rtol=1e-9)
    assert_allclose(jerk, [0, 0, 12], atol=1e-6)
    assert sorted(sum(parts.values(), ())) == list(range(22))


def test_kinetic_means_stand_in_one_table(sampled, real):
    table = solvers.kinetic_means(sampled, real)
    assert table.index.tolist() == [
        ("real", 0),
        ("ancestral", 50),
        ("sde-dpm++2m", 10),
        ("ddim", 6),
    ]
    expected = np.mean([kinetics(features_to_joints(x)) for x in sampled.full], axis=0)
    assert_allclose(table.loc[("ancestral", 50)], expected)
    jerk = table["jerk (m/s³)"]
    assert (jerk.loc[("ddim", 6)] > 2 * jerk.loc[("ancestral", 50)]).all()


def test_all_solvers_get_the_same_requests_and_full_sampling_comes_twice(monkeypatch, prior):
    requests = pd.DataFrame({"prompt": ["walks", "runs"], "frames": [20, 24], "seed": [3, 5]})
    calls = []

    def generate(prior, prompts, frames, seeds, guidance, batch_size, device, progress, solver):
        calls.append((prompts, frames, seeds, guidance, solver))
        return [len(calls)]

    monkeypatch.setattr(solvers, "generate", generate)
    found = solvers.sample_solvers(prior, requests, [GOOD, SHAKY], 2.5)
    assert found.full == [1] and found.again == [2] and found.steps == 20
    assert found.by_solver == {GOOD: [3], SHAKY: [4]} and found.groups == ["walks", "runs"]
    assert all(c[:2] == (["walks", "runs"], [20, 24]) and c[3] == 2.5 for c in calls)
    assert [c[4] for c in calls] == [None, None, GOOD, SHAKY]
    assert calls[0][2] == calls[2][2] == calls[3][2] == [3, 5]
    assert not set(calls[1][2]) & {3, 5}
    with pytest.raises(InputError, match="at most 20"):
        solvers.sample_solvers(prior, requests, [GOOD, Solver("ddim", 21)], 2.5)
    assert len(calls) == 4


def test_too_few_prompts_and_groups_of_another_number_are_refused(sampled, real):
    few = Sampled(sampled.full, sampled.again, {}, ["a", "b", "c", "c"] * 5, 50)
    with pytest.raises(InputError, match="found 3 groups; expected at least 4"):
        trade_off(few, real, range(24), NORMALISER)
    with pytest.raises(InputError, match="found 23 for 24 motions"):
        trade_off(sampled, real, range(23), NORMALISER)
