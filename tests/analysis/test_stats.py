import numpy as np
import pytest

from t2imu_utils.analysis import stats


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_bootstrap_means_have_the_standard_error_of_units(rng):
    # Rows of a unit are copies: as if there were fifty values, not 250.
    value, unit = rng.normal(5, 2, 50), np.repeat(np.arange(50), 5)
    drawn = stats.bootstrap_means(value[unit][:, None], unit, 4000, 0)[:, 0]
    assert drawn[0] == pytest.approx(value.mean())
    assert drawn[1:].std() == pytest.approx(value.std() / np.sqrt(50), rel=0.06)
    uneven = stats.bootstrap_means(np.array([[1.0], [4.0], [4.0]]), ["a", "b", "b"], 500, 0)
    assert set(uneven[:, 0].round(9)) == {1.0, 3.0, 4.0}


def test_halves_are_of_groups():
    code = np.array([0, 0, 1, 2, 2, 2, 3])
    rows = stats.halves(np.random.default_rng(0), 50, code)
    assert (rows[0] == 1).all() and rows.shape == (51, 7)
    for row in rows[1:]:
        assert len({*code[row == 1]}) == 2 and not {*code[row == 1]} & {*code[row == 0]}


def distance(x, y, **given):
    groups = {"x_groups": range(len(x)), "y_groups": range(len(y)), "seed": 0, **given}
    return stats.two_sample_distance(x, y, **groups)


def test_intervals_of_the_energy_distance_cover_its_true_value():
    assert distance(np.zeros((20, 1)), np.full((20, 1), 3.0), draws=20)[0] == pytest.approx(6.0)
    # |x - y| of two normals with unit variance and means 1 apart, by a large sample.
    big = np.random.default_rng(0)
    a, b, c, d = (big.normal(m, 1, 400_000) for m in (0, 0, 1, 1))
    true = 2 * np.abs(a - c).mean() - np.abs(a - b).mean() - np.abs(c - d).mean()
    hits = 0
    for trial in range(60):
        r = np.random.default_rng(trial)
        x, y = r.normal(0, 1, (60, 1)), r.normal(1, 1, (60, 1))
        _, low, high = distance(x, y, seed=trial, draws=150)
        hits += low <= true <= high
    assert hits >= 51


def test_groups_widen_the_interval_and_remove_their_likeness(rng):
    # Ten recordings a side; windows of a recording are copies but for a little noise.
    windows = np.repeat(rng.normal(size=(20, 4)), 15, axis=0) + 0.01 * rng.normal(size=(300, 4))
    group = np.repeat(np.arange(20), 15)
    x, y = windows[:150], windows[150:]
    naive = distance(x, y, draws=200)
    honest = distance(x, y, x_groups=group[:150], y_groups=group[150:], draws=200)
    assert naive[1] > 0 > honest[1]
    assert honest[2] - honest[1] > 2 * (naive[2] - naive[1])


def test_the_spread_of_seeds_enters_the_interval():
    # All trials alike: Student's interval for five values, 0.3 ± 2.776 * 0.0791 / sqrt(5).
    samples = np.tile([0.2, 0.25, 0.3, 0.35, 0.4], (2001, 1))
    mean, sd, low, high = stats.over_seeds(samples, 0)
    assert (mean, sd) == pytest.approx((0.3, 0.0791), abs=1e-4)
    assert (low, high) == pytest.approx((0.202, 0.398), abs=0.012)
    assert stats.stretch(1) == 0
    assert stats.stretch(2) == pytest.approx(12.706 / 1.95996 * np.sqrt(2), rel=1e-4)
    assert stats.stretch(2000) == pytest.approx(1, abs=2e-3)
    assert np.isnan(stats.over_seeds(samples[:1], 0)[2:]).all()


def test_intervals_over_seeds_and_trials_cover_the_true_change():
    """Seeds, trials and chance in each pair of both all move the change about its true value."""
    hits, count, seeds, unit = 0, 300, 4, np.repeat(range(20), 2)
    for repeat in range(count):
        r = np.random.default_rng(repeat)
        of_seed, of_trial = r.normal(0, 0.04, seeds), r.normal(0, 0.15, 20)[unit]
        before = r.uniform(1, 2, (40, 1)) * np.ones(seeds)
        share = 0.7 + of_seed + of_trial[:, None] + r.normal(0, 0.05, (40, seeds))
        drawn = stats.bootstrap_means(np.hstack([before, before * share]), unit, 300, repeat)
        *_, low, high = stats.over_seeds(drawn[:, seeds:] / drawn[:, :seeds] - 1, repeat)
        hits += low <= -0.3 <= high
    assert 0.90 <= hits / count <= 0.995
