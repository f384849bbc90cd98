import itertools
import math

import numpy as np
import pytest
import torch

from t2imu_utils.models.losses import (
    BANDS,
    VARIANTS,
    LossWeights,
    motion_losses,
    spectral_difference,
)
from t2imu_utils.motion.corpus import Normaliser

N, T = 12, 15


PLAIN = Normaliser(np.zeros(263, np.float32), np.ones(263, np.float32))
MASK = torch.arange(T)[None] < torch.tensor([[N], [T]])
FRAMES = torch.arange(T, dtype=torch.float32)


def motion(seed=0):
    return torch.randn(2, T, 263, generator=torch.Generator().manual_seed(seed))


def error(per_frame):
    """A pair of motions that differ by `per_frame` (T,) in every channel."""
    x0 = motion()
    return x0, x0 + per_frame[:, None]


def all_terms(x0, x0_hat, normaliser=PLAIN, **weights):
    return motion_losses(x0, x0_hat, MASK, LossWeights(**weights), normaliser, all_terms=True)


def test_simple_equals_the_official_loss(golden):
    mask = golden.mask("lengths", 40)
    with torch.no_grad():
        x0_hat = golden.model(
            golden.motion("x_t"), golden.tensor("t"), golden.text, golden.text_valid, mask
        )
    terms = motion_losses(golden.motion("x0"), x0_hat, mask, LossWeights(), PLAIN)
    torch.testing.assert_close(terms["simple"], golden.tensor("loss"), atol=1e-4, rtol=0)


def test_a_constant_error_is_seen_by_simple_alone():
    terms = all_terms(*error(torch.full((T,), 0.3)))
    torch.testing.assert_close(terms["simple"], torch.full((2,), 0.09))
    for name in ("vel", "acc"):
        torch.testing.assert_close(terms[name], torch.zeros(2), atol=1e-10, rtol=0)


def test_an_error_of_constant_velocity_is_seen_by_vel_and_not_by_acc():
    terms = all_terms(*error(0.2 * FRAMES))
    torch.testing.assert_close(terms["vel"], torch.full((2,), 0.04), rtol=1e-4, atol=0)
    torch.testing.assert_close(terms["acc"], torch.zeros(2), atol=1e-9, rtol=0)


def test_an_error_of_constant_acceleration_is_divided_by_n_minus_one_as_printed():
    terms = all_terms(*error(0.5 * 0.1 * FRAMES**2))
    n = torch.tensor([N, T])
    torch.testing.assert_close(terms["acc"], 0.1**2 * (n - 2) / (n - 1), rtol=1e-4, atol=0)


def still_body() -> torch.Tensor:
    x = torch.zeros(2, T, 263)
    x[..., 3] = 0.9
    x[..., 4:67] = torch.linspace(-0.5, 0.5, 63)
    return x


def test_pos_is_metres_squared_after_denormalising():
    scale = Normaliser(np.full(263, 0.7, np.float32), np.full(263, 2.0, np.float32))
    raised = still_body()
    raised[..., 3] += 0.1
    raised[..., 5:67:3] += 0.1
    x0, x0_hat = ((x - 0.7) / 2.0 for x in (still_body(), raised))
    terms = all_terms(x0, x0_hat, scale)
    torch.testing.assert_close(terms["pos"], torch.full((2,), 0.01), rtol=1e-3, atol=0)


def test_foot_counts_predicted_steps_in_frames_of_true_contact():
    x0, sliding = still_body(), still_body()
    sliding[..., 2] = 0.05
    x0[:, ::2, 259:] = 1.0
    terms = all_terms(x0, sliding)
    steps = torch.tensor([[N - 1], [T - 1]])
    frames = torch.arange(T)[None]
    share = ((frames < steps) & (frames % 2 == 0)).sum(1) / steps[:, 0]
    torch.testing.assert_close(terms["foot"], 0.05**2 * share, rtol=1e-4, atol=0)
    x0[:, ::2, 260:] = 0.0
    quarter = all_terms(x0, sliding)["foot"]
    torch.testing.assert_close(quarter, 0.05**2 * share / 4, rtol=1e-4, atol=0)
    # What the model predicts for the contact channels plays no part.
    sliding[..., 259:] = 1.0
    assert torch.equal(all_terms(x0, sliding)["foot"], quarter)


def test_acc_on_joints_is_in_metres_per_second_squared():
    x0, speeding = still_body(), still_body()
    speeding[..., 2] = 0.004 * FRAMES
    terms = all_terms(x0, speeding, acc_variant="joints")
    n = torch.tensor([N, T])
    expected = (0.004 * 20**2) ** 2 * (n - 2) / (n - 1)
    torch.testing.assert_close(terms["acc"], expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_changes_neither_losses_nor_gradients(variant):
    weights = LossWeights(1, 1, 1, 1, acc_variant=variant)
    x0, x0_hat = motion(), motion(1).requires_grad_()
    clean = motion_losses(x0, x0_hat, MASK, weights, PLAIN)
    clean["total"].sum().backward()
    soiled = motion(1)
    soiled[0, N:] = torch.nan
    soiled.requires_grad_()
    dirty = motion_losses(x0.masked_fill(~MASK[..., None], torch.inf), soiled, MASK, weights, PLAIN)
    dirty["total"].sum().backward()
    for name in clean:
        assert torch.equal(clean[name], dirty[name]), name
    assert torch.equal(x0_hat.grad, soiled.grad)
    assert x0_hat.grad[0, :N].any() and not x0_hat.grad[0, N:].any()
    short = motion_losses(x0[:1, :N], motion(1)[:1, :N], MASK[:1, :N], weights, PLAIN)
    for name in clean:
        torch.testing.assert_close(short[name], clean[name][:1], rtol=1e-5, atol=0)


def noise(frames, channels, seed=0):
    return torch.randn(1, frames, channels, generator=torch.Generator().manual_seed(seed))


def test_white_noise_has_its_mean_square_in_each_band():
    frames, channels, floor = 4096, 40, 0.02
    valid = torch.ones(1, frames, dtype=torch.bool)
    white = 0.3 * noise(frames, channels)
    lines = torch.fft.rfft(white, dim=1)
    quiet = torch.zeros_like(white)
    for band in range(BANDS):
        # What is left of it in one band has that power there, and nothing elsewhere.
        first, last = (round(i * lines.shape[1] / BANDS) for i in (band, band + 1))
        kept = torch.zeros_like(lines)
        kept[:, first:last] = lines[:, first:last]
        own = torch.fft.irfft(kept, n=frames, dim=1)
        found = spectral_difference(quiet, own, valid, floor).item()
        assert found == pytest.approx(math.log(1 + 0.3**2 / floor) ** 2 / BANDS, rel=0.03)
    found = spectral_difference(quiet, white, valid, floor).item()
    assert found == pytest.approx(math.log(1 + 0.3**2 / floor) ** 2, rel=0.02)


def test_a_motion_at_rest_has_a_finite_gradient():
    weights = LossWeights(acc=1.0, acc_variant="spectrum")
    resting, wobbling = still_body(), still_body() + 0.01 * motion()
    for x0, guess in itertools.product((resting, wobbling), repeat=2):
        x0_hat = guess.clone().requires_grad_()
        terms = motion_losses(x0, x0_hat, MASK, weights, PLAIN)
        terms["acc"].sum().backward()
        assert terms["acc"].isfinite().all() and x0_hat.grad.isfinite().all()
        assert bool(terms["acc"].any()) == (x0 is not guess)
        if x0 is resting and guess is wobbling:  # it is told to move less
            calmer = guess - 1e-4 * torch.sign(x0_hat.grad)
            after = motion_losses(x0, calmer, MASK, weights, PLAIN)["acc"]
            assert (after < terms["acc"]).all()
