from dataclasses import replace

import numpy as np
import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.models.remodiffuse import (
    NEUTRAL,
    Condition,
    Mixture,
    ReMoDiffuseConfig,
    generate,
    linear_schedule,
    mixed,
    published_joints,
    respaced_ddim,
    sample,
    timestep_map,
)

PROMPTS = ["a person runs", "someone walks slowly", "sits down"]


def test_the_fifty_timesteps_are_the_official_ones(arrays):
    assert np.array_equal(timestep_map(), arrays["timestep_map"].numpy())


def test_timesteps_are_spread_within_sections():
    assert timestep_map(20, (3, 2)).tolist() == [0, 4, 9, 10, 19]
    assert timestep_map(5, (1,)).tolist() == [0]
    assert (timestep_map()[:8] <= 100).all() and timestep_map()[8] > 100
    with pytest.raises(InputError, match="found 15 of 2 timesteps in section 0"):
        timestep_map(10)


def test_the_solver_keeps_the_signal_of_the_kept_timesteps():
    kept = timestep_map()
    signal = linear_schedule().alphas_cumprod.double()[kept]
    solver = respaced_ddim(kept)
    torch.testing.assert_close(solver.alphas_cumprod.double(), signal, rtol=1e-4, atol=0)
    x, x0 = torch.randn(2, 1, 4, 3, dtype=torch.float64)
    for i, before in ((49, signal[48]), (7, signal[6]), (0, torch.tensor(1.0))):
        noise = (x - signal[i].sqrt() * x0) / (1 - signal[i]).sqrt()
        expected = before.sqrt() * x0 + (1 - before).sqrt() * noise
        found = solver.step(x0, i, x, eta=0.0).prev_sample
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


class Labels(torch.nn.Module):
    """Predicts a constant for each branch, and counts how many it was asked for."""

    VALUES = {(True, True): 1.0, (True, False): 20.0, (False, True): 300.0, (False, False): 4000.0}

    def __init__(self):
        super().__init__()
        self.config, self.asked = ReMoDiffuseConfig(), []

    def forward(self, x_t, t, mask, condition, text_on, retrieval_on):
        assert len(x_t) == len(t) == len(mask) == len(condition.text_valid)
        rows = list(zip(text_on.tolist(), retrieval_on.tolist(), strict=True))
        self.asked.append(len(rows))
        values = torch.tensor([self.VALUES[row] for row in rows])
        return values[:, None, None].expand(x_t.shape)


def labelled(mixture, items=2):
    condition = Condition((), (), torch.ones(items, 3).bool(), torch.ones(items, 5).bool())
    model = Labels()
    return model, mixed(model, condition, torch.ones(items, 4).bool(), mixture)


def values(predict, t, coins):
    return predict(torch.zeros(2, 4, 1), t, torch.tensor(coins))[:, 0, 0].tolist()


def test_coarse_steps_toss_a_coin_for_each_item():
    model, predict = labelled(Mixture())
    w = 1 + 6.5 * 0.4
    heads, tails = w * 1 + (1 - w) * 300, w * 20 + (1 - w) * 4000
    assert values(predict, 400, [True, False]) == pytest.approx([heads, tails])
    assert values(predict, 400, [False, False]) == pytest.approx([tails, tails])
    assert model.asked == [4, 4]


def test_fine_steps_take_the_tuned_weights():
    model, predict = labelled(Mixture())
    expected = 0.52351 * 1 - 0.28419 * 20 + 2.39872 * 300 - 1.63804 * 4000
    assert values(predict, 100, [True, False]) == pytest.approx([expected] * 2, rel=1e-5)
    assert model.asked == [8]


def test_averaging_is_the_mean_of_both_sides_of_the_coin():
    _, tossed = labelled(Mixture())
    _, averaged = labelled(Mixture(average=True))
    mean = np.mean(values(tossed, 500, [True, False]))
    assert values(averaged, 500, [True, False]) == pytest.approx([mean] * 2, rel=1e-5)


def test_a_neutral_mixture_ends_with_both_conditions():
    _, predict = labelled(NEUTRAL)
    assert values(predict, 57, [True, False]) == pytest.approx([1.0, 1.0])


def test_sampling_takes_116_branch_passes_and_ends_at_the_last_prediction():
    model, predict = labelled(Mixture(fine=(1.0, 0.0, 0.0)))
    found = sample(predict, torch.randn(2, 4, 1), torch.rand(2, 50) < 0.5, timestep_map())
    assert sum(model.asked) == 2 * 116
    torch.testing.assert_close(found, torch.ones(2, 4, 1))


def run(prior, prompts=PROMPTS, frames=(9, 20, 14), seeds=(1, 2, 3), **named):
    return generate(prior, prompts, frames, seeds, progress=False, **named)


def test_motions_have_the_lengths_asked_for_and_are_not_normalised(shaken):
    motions = run(shaken)
    assert [len(motion) for motion in motions] == [9, 20, 14]
    assert all(motion.dtype == np.float32 and motion.shape[1] == 263 for motion in motions)
    still = replace(shaken, model=type(shaken.model)(shaken.config))  # its last layer is zero
    np.testing.assert_allclose(run(still)[0], np.tile(shaken.normaliser.mean, (9, 1)), atol=1e-5)


def test_a_motion_does_not_depend_on_its_batch(shaken):
    together = run(shaken)
    for i in range(3):
        (alone,) = run(shaken, PROMPTS[i : i + 1], [(9, 20, 14)[i]], [i + 1])
        np.testing.assert_allclose(alone, together[i], atol=2e-3)
    for one, other in zip(run(shaken, batch_size=2), together, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


def test_seed_prompt_length_guidance_and_coin_decide(shaken):
    def first(prompt="a person runs", frames=12, seed=1, mixture=shaken.mixture, **named):
        prior = replace(shaken, mixture=mixture)
        return run(prior, [prompt], [frames], [seed], **named)[0]

    same = first()
    assert np.array_equal(first(), same)
    assert np.array_equal(first(guidance=1.5), same)
    for other in (
        first(seed=2),
        first("sits down"),
        first(guidance=4.0),
        first(mixture=replace(NEUTRAL, average=True)),
        first(frames=13)[:12],
    ):
        assert not np.allclose(other, same, atol=1e-3)


def test_the_global_generators_are_left_alone(shaken):
    before = torch.get_rng_state()
    run(shaken)
    assert torch.equal(torch.get_rng_state(), before)


def test_published_joints_are_smoothed_along_time_alone():
    joints = np.zeros((41, 22, 3))
    joints[20, 4, 1] = 1.0
    found = published_joints(joints)
    times = np.arange(-10, 11)
    bell = np.exp(-0.5 * (times / 2.5) ** 2)
    np.testing.assert_allclose(found[10:31, 4, 1], bell / bell.sum(), atol=1e-4)
    found[:, 4, 1] = 0
    assert not found.any()
    steady = np.random.default_rng(0).random((1, 22, 3)).repeat(9, axis=0)
    np.testing.assert_allclose(published_joints(steady), steady)
