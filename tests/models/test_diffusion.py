from itertools import count

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from t2imu_utils.errors import InputError
from t2imu_utils.models.diffusion import (
    SCHEMES,
    Solver,
    add_noise,
    ancestral,
    ddim_step,
    item_noise,
    sample,
    schedule,
)


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
    got = ancestral(lambda x, t: x0 * torch.cos(t.float())[:, None, None], noise, schedule(50))
    torch.testing.assert_close(got.double(), expected, atol=1e-4, rtol=0)


def test_noising_equals_the_official_one(golden):
    x_t = add_noise(golden.motion("x0"), golden.motion("noise"), golden.tensor("t"), schedule(50))
    torch.testing.assert_close(x_t, golden.motion("x_t"), atol=1e-5, rtol=0)


MEAN, SPREAD = 2.0, 0.5


def best(scheduler):
    """The predictor of least error for N(MEAN, SPREAD²) data, in double precision."""
    level = scheduler.alphas_cumprod.double()

    def predict(x, t):
        a = level[t][:, None, None]
        gain = a.sqrt() * SPREAD**2 / (a * SPREAD**2 + 1 - a)
        return (MEAN + gain * (x.double() - a.sqrt() * MEAN)).float()

    return predict


KINDS = {
    "ancestral": ("sde-dpmsolver++", 1),
    "ddim": ("dpmsolver++", 1),
    "dpm++2m": ("dpmsolver++", 2),
    "sde-dpm++2m": ("sde-dpmsolver++", 2),
}


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("evaluations", [3, 8])
def test_solvers_are_those_of_diffusers(name, evaluations):
    own, solver = schedule(50), Solver(name, evaluations)
    theirs = DDPMScheduler(50, beta_schedule="squaredcos_cap_v2", prediction_type="sample")
    assert torch.equal(own.alphas_cumprod, theirs.alphas_cumprod)
    x0, noise, t = torch.randn(2, 5, 3), torch.randn(2, 5, 3), torch.tensor([0, 31])
    assert torch.equal(add_noise(x0, noise, t, own), theirs.add_noise(x0, noise, t))
    kind, order = KINDS[name]
    scheme = DPMSolverMultistepScheduler(
        50, trained_betas=own.betas.tolist(), prediction_type="sample", algorithm_type=kind,
        solver_order=order, final_sigmas_type="zero",
    )  # fmt: skip
    scheme.set_timesteps(timesteps=solver.timesteps(50))
    draws = item_noise([9, 7], generators(1, 2), 3)
    x = next(draws)
    for t in solver.timesteps(50):
        fresh = next(draws) if kind.startswith("sde") and t else torch.zeros_like(x)
        x0_hat = best(own)(x, torch.full((2,), t))
        x = scheme.step(x0_hat, t, x, variance_noise=fresh).prev_sample
    found = sample(best(own), item_noise([9, 7], generators(1, 2), 3), own, solver)
    torch.testing.assert_close(found, x, atol=1e-5, rtol=1e-5)


def test_steps_are_those_of_ddim_in_diffusers():
    own, x, x0 = schedule(20), torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    theirs = DDIMScheduler(
        20, trained_betas=own.betas.tolist(), prediction_type="sample", clip_sample=False,
        set_alpha_to_one=True,
    )  # fmt: skip
    theirs.set_timesteps(20)
    for t in (19, 7, 0):
        assert torch.equal(ddim_step(x, x0, own, t), theirs.step(x0, t, x).prev_sample)
        noisy = theirs.step(x0, t, x, eta=1.0, variance_noise=x0 + 1).prev_sample
        assert torch.equal(ddim_step(x, x0, own, t, x0 + 1), noisy)


@pytest.mark.parametrize("arguments", [("euler",), ("ddim", 1), ("ddim", 2.5)])
def test_what_is_no_solver_is_refused(arguments):
    with pytest.raises(InputError):
        Solver(*arguments)
    with pytest.raises(InputError, match="at most 10"):
        Solver("ddim", 11).count(10)
