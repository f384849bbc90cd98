from dataclasses import replace

import numpy as np
import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.priors.remodiffuse import (
    ReMoDiffuseConfig,
    Retrieved,
    linear_attention,
    new_remodiffuse,
    timestep_sinusoids,
)

BRANCHES = {
    "both": (True, True),
    "text": (True, False),
    "retr": (False, True),
    "none": (False, False),
}


def flags(text, retrieval, items=2):
    return torch.full((items,), text), torch.full((items,), retrieval)


@pytest.fixture(scope="module")
def retrieved(official_model, arrays):
    frames = torch.arange(196)[None] < arrays["retrieved_length"][:, None]
    with torch.no_grad():
        return official_model.database(
            arrays["retrieved_motion"].unflatten(0, (2, 2)),
            frames.unflatten(0, (2, 2)),
            arrays["retrieved_clip_tokens"].unflatten(0, (2, 2)),
            torch.ones(2, 2, 77, dtype=torch.bool),
        )


@pytest.fixture(scope="module")
def condition(official_model, arrays, retrieved):
    with torch.no_grad():
        valid = torch.ones(2, 77, dtype=torch.bool)
        return official_model.condition(arrays["clip_tokens"], valid, retrieved)


def test_parameters_are_those_of_the_official_checkpoint(official_model, official_shapes):
    found = {f"model.{k}": tuple(x.shape) for k, x in official_model.state_dict().items()}
    assert found == official_shapes
    assert sum(p.numel() for p in official_model.parameters()) == 46_966_791


def test_retrieved_items_are_encoded_as_officially(retrieved, arrays):
    torch.testing.assert_close(retrieved.motion, arrays["re_motion"], atol=1e-4, rtol=0)
    torch.testing.assert_close(retrieved.text, arrays["re_text"], atol=1e-4, rtol=0)
    assert torch.equal(retrieved.mask, arrays["re_mask"].bool())


def test_prompts_are_encoded_as_officially(official_model, arrays):
    with torch.no_grad():
        found = official_model.encode_text(arrays["clip_tokens"], torch.ones(2, 77).bool())
    torch.testing.assert_close(found, arrays["text_features"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("t", [85, 400])
def test_branches_are_the_official_ones(official_model, arrays, condition, branch, t):
    mask = arrays["mask"].bool()
    at = torch.full((2,), t)
    with torch.no_grad():
        found = official_model(arrays["motion"], at, mask, condition, *flags(*BRANCHES[branch]))
    torch.testing.assert_close(found, arrays[f"{branch}_t{t}"], atol=1e-4, rtol=0)


def test_linear_attention_is_its_formula():
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((1, n, 4)) for n in (3, 5, 5))
    valid = np.array([True, True, False, True, False])
    expected = np.zeros((3, 4))
    for head in (slice(0, 2), slice(2, 4)):
        k, v = key[0, valid, head], value[0, valid, head]
        over_tokens = np.exp(k) / np.exp(k).sum(axis=0)
        for i, q in enumerate(query[0, :, head]):
            expected[i, head] = (np.exp(q) / np.exp(q).sum()) @ (over_tokens.T @ v)
    key[0, ~valid], value[0, ~valid] = 50.0, np.nan
    tensors = [torch.from_numpy(x) for x in (query, key, value)]
    found = linear_attention(*tensors, torch.from_numpy(valid)[None], heads=2)
    np.testing.assert_allclose(found[0], expected, atol=1e-12)


def test_sinusoids_are_cosines_first():
    found = timestep_sinusoids(torch.tensor([0, 3]), 4)
    expected = [[1, 1, 0, 0], [np.cos(3), np.cos(0.03), np.sin(3), np.sin(0.03)]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def inputs(frames=10, tokens=6, shown=12):
    def noise(*shape):
        return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))

    motion = noise(1, frames, 263), torch.tensor([300]), torch.ones(1, frames).bool()
    text = noise(1, tokens, 16), torch.ones(1, tokens).bool()
    shown_motion = noise(1, 2, shown, 263), torch.ones(1, 2, shown).bool()
    said = noise(1, 2, tokens, 16), torch.ones(1, 2, tokens).bool()
    return motion, text, (*shown_motion, *said)


def run(model, motion, text, shown, on=(True, True)):
    with torch.no_grad():
        condition = model.condition(*text, model.database(*shown))
        return model(*motion, condition, *flags(*on, items=1))


def padded(x, valid, axis, by=3):
    """More of it along an axis, not valid."""
    junk = torch.full_like(x.narrow(axis, 0, 1), 40.0).repeat_interleave(by, axis)
    off = torch.zeros_like(valid.narrow(axis, 0, 1)).repeat_interleave(by, axis)
    return torch.cat([x, junk], axis), torch.cat([valid, off], axis)


def test_padding_of_anything_changes_nothing(shaken):
    motion, text, shown = inputs()
    plain = run(shaken.model, motion, text, shown)
    x, mask = padded(motion[0], motion[2], 1)
    found = run(
        shaken.model,
        (x, motion[1], mask),
        padded(*text, 1),
        (*padded(*shown[:2], 2, by=7), *padded(*shown[2:], 2)),
    )
    torch.testing.assert_close(found[:, :10], plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("text_on", [True, False])
@pytest.mark.parametrize("retrieval_on", [True, False])
def test_a_condition_counts_only_where_it_is_on(shaken, text_on, retrieval_on):
    motion, text, shown = inputs()
    on = (text_on, retrieval_on)
    plain = run(shaken.model, motion, text, shown, on)
    other_text = run(shaken.model, motion, (text[0] + 1.0 * torch.arange(16), text[1]), shown, on)
    other_motion = run(shaken.model, motion, text, (shown[0].flip(2), *shown[1:]), on)
    assert torch.equal(plain, other_text) != text_on
    assert torch.equal(plain, other_motion) != retrieval_on


def test_the_last_valid_state_of_a_retrieved_caption_is_kept(shaken):
    motion, _, shown = inputs()
    database = shaken.model.database
    with torch.no_grad():
        short = shown[2].clone(), shown[3].clone()
        short[1][0, 1, 4:] = False
        found = database(*shown[:2], *short).text
        alone = database(*shown[:2], shown[2][:, :, :4], shown[3][:, :, :4]).text
    torch.testing.assert_close(found[0, 1], alone[0, 1])
    assert not torch.allclose(found[0, 0], alone[0, 0])


def test_a_new_network_follows_from_its_seed_and_predicts_the_mean(prior):
    a, b, c = (new_remodiffuse(prior.config, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["joint_embed.weight"], c["joint_embed.weight"])
    assert not run(prior.model, *inputs()).any()


def test_conditions_are_repeated_item_after_item():
    seen = Retrieved(torch.zeros(2, 2, 3, 16), torch.zeros(2, 2, 1, 16), torch.ones(2, 2, 3).bool())
    config = ReMoDiffuseConfig(
        layers=1, width=16, heads=2, text_width=16, text_latent=12, text_heads=2
    )
    text = torch.randn(2, 4, 16), torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    with torch.no_grad():
        once = new_remodiffuse(config, 0).condition(*text, seen)
    twice = once.repeat(2)
    assert torch.equal(twice.keys[0], torch.cat([once.keys[0]] * 2))
    assert torch.equal(twice.text_valid[2:], text[1])


@pytest.mark.parametrize(
    "change",
    [{"width": 15}, {"text_width": 17}, {"text_latent": 13}, {"layers": 0}, {"diffusion_steps": 1},
     {"length_weight": -1.0}],
)  # fmt: skip
def test_impossible_sizes_are_refused(prior, change):
    with pytest.raises(InputError, match=next(iter(change))):
        replace(prior.config, **change)
