import numpy as np
import pytest
from numpy.testing import assert_allclose

from t2imu_utils.evaluation import diversity
from t2imu_utils.motion.features import Normaliser


def test_identical_motions_have_no_diversity():
    x = np.ones((6, 4))
    kinds = ["walking"] * 3 + ["running"] * 3
    assert diversity.diversity(x, kinds) == 0 and diversity.within(x, kinds) == 0


def test_two_heaps_apart():
    """Within a heap all is the same, and the heaps are 5 apart: half of even draws meet the other
    heap, however many motions it has."""
    x = np.concatenate([np.zeros((2, 2)), np.tile([3.0, 4.0], (7, 1))])
    kinds = ["running"] * 2 + ["walking"] * 7
    assert diversity.diversity(x, kinds) == pytest.approx(2.5)
    assert diversity.within(x, kinds) == 0
    # Labels that do not follow the heaps: of three motions two pairs in three are 5 apart.
    assert diversity.within(x[[0, 2, 3]], ["a"] * 3) == pytest.approx(10 / 3)


def test_a_motion_is_not_paired_with_itself():
    x = np.array([[0.0], [1.0], [7.0]])
    assert diversity.diversity(x, ["walking"] * 3) == pytest.approx((1 + 6 + 7) / 3)
    # Alone in its category, 7 is met twice as often as walking meets walking.
    alone = diversity.diversity(x, ["walking", "walking", "running"])
    assert alone == pytest.approx((1 + 2 * 6.5) / 3)


def test_one_motion_a_prompt_has_no_multimodality():
    x = np.random.default_rng(0).normal(size=(4, 3))
    assert np.isnan(diversity.within(x, ["a", "b", "c", "d"]))
    assert diversity.within(x, ["a", "b", "b", "d"]) == pytest.approx(np.linalg.norm(x[1] - x[2]))


def test_a_motion_is_described_by_means_and_deviations_of_normalised_features():
    mean, std = np.full(263, 2.0), np.full(263, 0.5)
    motion = np.full((10, 263), 3.0)
    motion[::2, 7] = 1.0
    found = diversity.describe([motion, motion[:2]], Normaliser(mean, std))
    assert found.shape == (2, 526)
    expected = np.r_[np.full(263, 2.0), np.zeros(263)]
    expected[[7, 263 + 7]] = 0, 2
    assert_allclose(found, [expected, expected])
