"""Statistics and z-scores."""

import numpy as np
import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.motion.features import (
    CONTACTS,
    GROUPS,
    POSITIONS,
    Normaliser,
    check_features,
    statistics,
)


def noise(frames: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, 263)).astype(np.float32)


def test_statistics_are_numpys_averaged_by_group():
    parts = [noise(40, 0) * np.arange(263) + 5, noise(90, 1)]
    mean, std = statistics(parts)
    together = np.concatenate(parts).astype(np.float64)
    np.testing.assert_allclose(mean, together.mean(axis=0), rtol=1e-5, atol=1e-5)
    for group in GROUPS:
        np.testing.assert_allclose(std[group], together.std(axis=0)[group].mean(), rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32
    with pytest.raises(InputError, match="no clip"):
        statistics([])


def test_normaliser_on_both_kinds_of_arrays():
    x = noise(50, 0) * 3 + 1
    x[:, CONTACTS] = 1.0
    normaliser = Normaliser(*statistics([x]))
    z = normaliser.normalise(x)
    np.testing.assert_allclose(z[:, POSITIONS].mean(axis=0), 0, atol=1e-5)
    assert z[:, POSITIONS].std() == pytest.approx(1, abs=0.02)
    np.testing.assert_array_equal(z[:, CONTACTS], 0)
    np.testing.assert_allclose(normaliser.denormalise(z), x, atol=1e-5)
    tensor = torch.from_numpy(x)[None].requires_grad_()
    out = normaliser.normalise(tensor)
    torch.testing.assert_close(out[0].detach(), torch.from_numpy(z))
    torch.testing.assert_close(normaliser.denormalise(out), tensor, atol=1e-5, rtol=0)
    assert out.requires_grad and out.dtype == torch.float32 and z.dtype == np.float32
    with pytest.raises(InputError, match="std"):
        Normaliser(np.zeros(263), -np.ones(263))


def test_features_are_checked():
    check_features(noise(3, 0), "clip")
    with pytest.raises(InputError, match="clip: features"):
        check_features([[1.0]], "clip")
