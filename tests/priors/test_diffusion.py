from itertools import count

import numpy as np
import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.priors.diffusion import add_noise, guided, item_noise, sample, schedule


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_schedule_equals_the_official_one(reference):
    scheduler = schedule(50)
    with np.load(reference / "diffusion_schedule_cosine50.npz", allow_pickle=False) as golden:
        np.testing.assert_allclose(scheduler.betas, golden["betas"], atol=1e-7)
        np.testing.assert_allclose(scheduler.alphas_cumprod, golden["alphas_cumprod"], atol=1e-6)


def test_every_step_has_the_official_posterior(reference):
    x_t, x0, z = torch.randn(3, 1, 4, 263, generator=generators(0)[0])
    with np.load(reference / "diffusion_schedule_cosine50.npz", allow_pickle=False) as golden:
        posterior = {k: torch.from_numpy(golden[k]) for k in golden.files}
    expected = x_t.double()
    for t in range(49, -1, -1):
        mean = posterior["posterior_mean_coef1"][t] * x0 * np.cos(t)
        mean = mean + posterior["posterior_mean_coef2"][t] * expected
        expected = mean + (t > 0) * posterior["posterior_variance"][t].sqrt() * z
    noise = (x_t if i == 0 else z for i in count())
    got = sample(lambda x, t: x0 * torch.cos(t.float())[:, None, None], noise, schedule(50))
    torch.testing.assert_close(got.double(), expected, atol=1e-4, rtol=0)


def test_noising_equals_the_official_one(golden):
    x_t = add_noise(golden.motion("x0"), golden.motion("noise"), golden.tensor("t"), schedule(50))
    torch.testing.assert_close(x_t, golden.motion("x_t"), atol=1e-5, rtol=0)


def test_fifty_guided_steps_equal_the_official_sample(golden):
    mask = golden.mask("sample_lengths", 16)
    guidance = float(golden.arrays["guidance"])
    predict = guided(golden.model, golden.text, golden.text_valid, mask, guidance)
    recorded = iter([golden.motion("x_T"), *golden.motion("step_noise")])
    x = sample(predict, recorded, schedule(50))
    torch.testing.assert_close(x, golden.motion("sample"), atol=1e-3, rtol=0)


def test_noising_keeps_variance_and_ends_in_noise():
    scheduler = schedule(50)
    x0, noise = torch.randn(2, 4, 500, 20, generator=generators(1)[0])
    for t in (0, 20, 49):
        x_t = add_noise(x0, noise, torch.full((4,), t), scheduler)
        assert abs(x_t.var().item() - 1) < 0.03
    assert (x_t - noise).abs().max() < 0.02


def test_samples_of_a_gaussian_have_the_mean_and_spread_of_theory():
    """For N(mean, spread²) data the best predictor is linear and the chain's variance is known."""
    mean, spread = 2.0, 0.5
    level = np.cos((np.arange(51) / 50 + 0.008) / 1.008 * np.pi / 2) ** 2
    beta = np.minimum(1 - level[1:] / level[:-1], 0.999)
    alpha = np.cumprod(1 - beta)
    before = np.append(1.0, alpha[:-1])
    gain = np.sqrt(alpha) * spread**2 / (alpha * spread**2 + 1 - alpha)

    def best(x, t):
        g, a = (torch.tensor(y, dtype=torch.float32)[t][:, None, None] for y in (gain, alpha))
        return mean + g * (x - a.sqrt() * mean)

    variance = 1.0
    for t in range(49, -1, -1):
        of_x0 = np.sqrt(before[t]) * beta[t] / (1 - alpha[t])
        of_x_t = np.sqrt(1 - beta[t]) * (1 - before[t]) / (1 - alpha[t])
        variance *= (of_x0 * gain[t] + of_x_t) ** 2
        variance += (1 - before[t]) / (1 - alpha[t]) * beta[t]

    x = sample(best, item_noise([200] * 8, generators(*range(8)), 30), schedule(50))
    assert x.mean().item() == pytest.approx(mean, abs=0.01)
    assert x.std().item() == pytest.approx(np.sqrt(variance), rel=0.01)
    assert np.sqrt(variance) == pytest.approx(spread, rel=0.1)


def test_guidance_extrapolates_from_without_to_with_text_in_one_batch():
    calls = []

    def model(x, t, text, text_valid, mask, drop=None):
        calls.append(len(x))
        shown = text.sum((1, 2)) if drop is None else text.sum((1, 2)) * ~drop
        return x + shown[:, None, None]

    x, t = torch.zeros(2, 3, 1), torch.zeros(2, dtype=torch.long)
    text, ones = torch.tensor([[[1.0]], [[2.0]]]), torch.ones(2, 1, dtype=torch.bool)
    predict = guided(model, text, ones, torch.ones(2, 3, dtype=torch.bool), 2.5)
    assert torch.equal(predict(x, t)[:, 0, 0], torch.tensor([2.5, 5.0]))
    plain = guided(model, text, ones, torch.ones(2, 3, dtype=torch.bool), 1.0)
    assert torch.equal(plain(x, t)[:, 0, 0], torch.tensor([1.0, 2.0]))
    assert calls == [4, 2]


def test_noise_of_an_item_does_not_depend_on_its_neighbours():
    together = item_noise([5, 9, 7], generators(1, 2, 3), 4)
    alone = item_noise([5], generators(1), 4)
    for _ in range(3):
        both, one = next(together), next(alone)
        assert torch.equal(both[0, :5], one[0])
        assert not both[0, 5:].any() and both[1].all()
    assert not torch.equal(next(alone), one)


def test_a_schedule_needs_steps():
    with pytest.raises(InputError):
        schedule(1)
