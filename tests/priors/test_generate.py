from dataclasses import replace

import numpy as np
import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.priors.checkpoints import Prior
from t2imu_utils.priors.diffusion import guided, item_noise, sample, schedule
from t2imu_utils.priors.generate import generate
from t2imu_utils.priors.solvers import Solver

PROMPTS = ["a person walks", "a person runs fast in a circle", "sits", "jumps", "a person walks"]
FRAMES = [20, 9, 24, 9, 20]
SEEDS = [1, 2, 3, 4, 5]
FAST = Solver("dpm++2m", 4)


def make(
    prior, prompts=PROMPTS, frames=FRAMES, seeds=SEEDS, batch_size=3, guidance=2.5, solver=None
):
    return generate(
        prior, prompts, frames, seeds, guidance, batch_size, progress=False, solver=solver
    )


def test_motions_come_in_order_and_in_the_length_asked_for(prior):
    motions = make(prior)
    assert [m.shape for m in motions] == [(n, 263) for n in FRAMES]
    assert all(m.dtype == np.float32 and np.isfinite(m).all() for m in motions)


def test_the_same_call_gives_the_same_motions(prior):
    for a, b in zip(make(prior), make(prior), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("arch", ["trans_dec", "trans_enc"])
def test_a_motion_does_not_depend_on_what_it_is_sampled_with(prior, encoder, arch):
    from t2imu_utils.priors.checkpoints import new_prior

    prior = new_prior(replace(prior.config, arch=arch), prior.normaliser, encoder, 3)
    together = make(prior)
    order = [4, 2, 0, 3, 1]
    shuffled = make(prior, *([x[i] for i in order] for x in (PROMPTS, FRAMES, SEEDS)), batch_size=5)
    alone = make(prior, batch_size=1)
    for i in range(5):
        np.testing.assert_allclose(together[i], shuffled[order.index(i)], atol=1e-4)
        np.testing.assert_allclose(together[i], alone[i], atol=1e-4)


def test_seed_prompt_and_guidance_decide_the_motion(prior):
    base = make(prior)
    assert np.abs(base[0] - base[4]).max() > 0.05
    other_text = make(prior, prompts=["a person falls", *PROMPTS[1:]])
    assert np.abs(base[0] - other_text[0]).max() > 1e-3
    np.testing.assert_allclose(base[1], other_text[1], atol=1e-4)
    assert np.abs(base[0] - make(prior, guidance=1.0)[0]).max() > 1e-3


def test_without_a_solver_motions_are_those_of_the_plain_guided_pass(prior):
    """Item by item, from the definitions in `diffusion`."""
    for i, motion in enumerate(make(prior)):
        text, valid = prior.condition([PROMPTS[i]])
        mask = torch.ones(1, FRAMES[i], dtype=torch.bool)
        noise = item_noise([FRAMES[i]], [torch.Generator().manual_seed(SEEDS[i])])
        x = sample(guided(prior.model.eval(), text, valid, mask, 2.5), noise, schedule(10))
        np.testing.assert_allclose(motion, prior.normaliser.denormalise(x[0].numpy()), atol=1e-4)


@pytest.mark.parametrize("name", ["dpm++2m", "sde-dpm++2m"])
def test_a_solver_makes_other_motions_of_the_same_seeds_whatever_the_batch(prior, name):
    fast = {"guidance": 2.5, "progress": False, "solver": Solver(name, 5)}
    together = generate(prior, PROMPTS, FRAMES, SEEDS, batch_size=3, **fast)
    for i, alone in enumerate(generate(prior, PROMPTS, FRAMES, SEEDS, batch_size=1, **fast)):
        np.testing.assert_allclose(together[i], alone, atol=1e-4)
    assert np.abs(together[0] - make(prior)[0]).max() > 0.01
    assert np.abs(together[0] - together[4]).max() > 0.05


def test_what_no_solver_does_is_refused_before_sampling(prior, monkeypatch):
    monkeypatch.setattr(prior.model, "forward", None)
    monkeypatch.setattr(prior.text_encoder, "encode", None)
    with pytest.raises(InputError, match="at most 10, the diffusion steps"):
        generate(prior, PROMPTS, FRAMES, SEEDS, solver=Solver("ddim", 11))


def test_features_are_denormalised(prior):
    mean, std = np.full(263, 3.0, np.float32), np.full(263, 2.0, np.float32)
    plain = Prior(prior.model, Normaliser(0 * mean, 0 * std + 1), prior.text_encoder)
    scaled = Prior(prior.model, Normaliser(mean, std), prior.text_encoder)
    for a, b in zip(make(plain), make(scaled), strict=True):
        np.testing.assert_allclose(2 * a + 3, b, atol=1e-4)


def test_another_solver_makes_another_motion_from_the_same_noise(prior):
    full, fast, again = (make(prior, solver=s) for s in (None, FAST, FAST))
    for one, other, same in zip(full, fast, again, strict=True):
        assert one.shape == other.shape and not np.allclose(one, other, atol=1e-3)
        np.testing.assert_array_equal(other, same)
