import numpy as np
import pytest
from numpy.testing import assert_allclose

from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.similarity import (
    Scaling,
    catch22_features,
    nearest_neighbour_mixing,
    tsne,
    two_sample_distance,
)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_catch22_of_three_axes(rng):
    windows = rng.normal(size=(5, 40, 3)).cumsum(1)
    features = catch22_features(windows)
    assert features.values.shape == (5, 66) and features.usable.all()
    swapped = catch22_features(windows[..., [2, 1, 0]])
    assert_allclose(swapped.values[:, :22], features.values[:, 44:])
    assert features.masked.index[0].startswith("x: ") and len(features.masked) == 66


def test_catch22_does_not_see_amplitude_but_moments_do(rng):
    windows = rng.normal(size=(4, 40, 3)).cumsum(1)
    assert_allclose(
        catch22_features(3 * windows + 9.81).values, catch22_features(windows).values, atol=1e-6
    )
    plain, large = (catch22_features(w, moments=True).values for w in (windows, 3 * windows))
    assert plain.shape == (4, 72)
    assert_allclose(large[:, 22:24], 3 * plain[:, 22:24])


def test_windows_without_features_are_told(rng):
    windows = rng.normal(size=(4, 40, 3))
    windows[1, :, 2] = 9.81
    windows[2, 5, 0] = np.nan
    features = catch22_features(windows)
    assert features.usable.tolist() == [True, False, False, True]
    assert np.isnan(features.values[~features.usable]).all()
    assert np.isfinite(features.values[features.usable]).all()
    with pytest.raises(InputError, match="2 rows with NaN"):
        Scaling.fit(features.values)


def test_scaling_is_robust_and_fitted_once(rng):
    pooled = rng.normal(5, 2, size=(1000, 3))
    pooled[:, 1] = 4
    pooled[:600, 2] = 0
    scaling = Scaling.fit(pooled)
    scaled = scaling(pooled)
    assert_allclose(np.median(scaled[:, 0]), 0.5)
    assert_allclose(scaling.spread[0], 2, rtol=0.1)
    assert_allclose(scaled[:, 1], 0.5)
    assert scaled[:, 2].std() > 0
    spoiled = pooled.copy()
    spoiled[0, 0] = 1e9
    assert_allclose(Scaling.fit(spoiled)(pooled), scaled, atol=0.01)


def test_tsne_keeps_clusters_apart_and_repeats(rng):
    points = np.concatenate([rng.normal(size=(60, 6)), rng.normal(8, 1, size=(60, 6))])
    plane = tsne(points, seed=0, perplexity=15)
    assert plane.shape == (120, 2)
    first, second = plane[:60], plane[60:]
    gap = np.linalg.norm(first.mean(0) - second.mean(0))
    assert gap > 2 * max(first.std(), second.std())
    assert_allclose(tsne(points, seed=0, perplexity=15), plane)
    with pytest.raises(InputError, match="perplexity"):
        tsne(points[:40], seed=0)


@pytest.mark.parametrize("kind", ["energy", "mmd"])
def test_distance_is_zero_for_one_distribution_and_grows_with_the_shift(kind, rng):
    x = rng.normal(size=(150, 4))
    values = [
        two_sample_distance(x, rng.normal(shift, 1, size=(120, 4)), 0, kind, draws=200)
        for shift in (0.0, 0.5, 1.5)
    ]
    assert values[0].low < 0 < values[0].high and values[0].p > 0.05
    assert 0 < values[1].low and values[1].p < 0.02
    assert values[0].value < values[1].value < values[2].value
    assert (values[0].n_x, values[0].n_y) == (150, 120)


def test_energy_distance_of_two_points_apart(rng):
    x, y = np.zeros((20, 1)), np.full((20, 1), 3.0)
    assert two_sample_distance(x, y, 0, draws=20).value == pytest.approx(6.0)


def test_intervals_of_the_distance_cover_its_true_value():
    # |x - y| of two normals with unit variance and means 1 apart, by a large sample.
    big = np.random.default_rng(0)
    a, b, c, d = (big.normal(m, 1, 400_000) for m in (0, 0, 1, 1))
    true = 2 * np.abs(a - c).mean() - np.abs(a - b).mean() - np.abs(c - d).mean()
    hits = 0
    for trial in range(60):
        r = np.random.default_rng(trial)
        found = two_sample_distance(
            r.normal(0, 1, (60, 1)), r.normal(1, 1, (60, 1)), trial, draws=150
        )
        hits += found.low <= true <= found.high
    assert hits >= 51


def test_groups_widen_the_interval_and_remove_their_likeness(rng):
    # Ten recordings a side; windows of a recording are copies but for a little noise.
    centres = rng.normal(size=(20, 4))
    windows = np.repeat(centres, 15, axis=0) + 0.01 * rng.normal(size=(300, 4))
    groups = np.repeat(np.arange(20), 15)
    x, y, gx, gy = windows[:150], windows[150:], groups[:150], groups[150:]
    naive = two_sample_distance(x, y, 0, draws=200)
    honest = two_sample_distance(x, y, 0, x_groups=gx, y_groups=gy, draws=200)
    assert naive.p < 0.05 < honest.p
    assert honest.high - honest.low > 2 * (naive.high - naive.low)
    assert (honest.n_x, honest.n_y) == (10, 10)


def test_mixing_is_one_for_one_distribution_and_zero_apart(rng):
    x = rng.normal(size=(300, 3))
    same = nearest_neighbour_mixing(x, rng.normal(size=(300, 3)), 0, draws=30)
    assert same.value == pytest.approx(1, abs=0.06) and same.low < 1 < same.high
    apart = nearest_neighbour_mixing(x, rng.normal(20, 1, size=(300, 3)), 0, draws=5)
    assert apart.value == 0
    between = nearest_neighbour_mixing(x, rng.normal(1, 1, size=(300, 3)), 0, draws=10)
    assert 0.2 < between.value < 0.9


def test_mixing_does_not_depend_on_unequal_sizes(rng):
    x, y = rng.normal(size=(900, 3)), rng.normal(size=(100, 3))
    assert nearest_neighbour_mixing(x, y, 0, draws=30).value == pytest.approx(1, abs=0.1)


def test_mixing_leaves_out_the_own_recording(rng):
    centres = rng.normal(size=(60, 3))
    windows = np.repeat(centres, 10, axis=0) + 1e-4 * rng.normal(size=(600, 3))
    groups = np.repeat(np.arange(60), 10)
    naive = nearest_neighbour_mixing(windows[:300], windows[300:], 0, k=5, draws=20)
    honest = nearest_neighbour_mixing(
        windows[:300], windows[300:], 0, 5, groups[:300], groups[300:], draws=20
    )
    assert naive.value < 0.4 and honest.value == pytest.approx(1, abs=0.25)


def test_too_few_are_refused(rng):
    x = rng.normal(size=(8, 2))
    with pytest.raises(InputError, match="groups"):
        two_sample_distance(x, x, 0, x_groups=np.zeros(8))
    with pytest.raises(InputError, match="k = 10"):
        nearest_neighbour_mixing(x, x, 0)
    with pytest.raises(InputError, match="one a window"):
        two_sample_distance(x, x, 0, x_groups=np.zeros(3))
