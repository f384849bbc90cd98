from dataclasses import replace

import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.priors.masked_transformer import (
    TokenTransformerConfig,
    new_mask_transformer,
    new_residual_transformer,
)

CONFIG = TokenTransformerConfig(
    codes=10, levels=4, token_width=12, text_width=6, width=16, layers=2, heads=2, feedforward=24,
    max_tokens=8,
)  # fmt: skip
TEXT = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
VALID = torch.arange(8)[None] < torch.tensor([8, 5, 1])[:, None]
CODES = torch.randint(10, (3, 8, 4), generator=torch.Generator().manual_seed(1))
LEVELS = torch.tensor([1, 2, 3])


def make(kind):
    new = {"mask": new_mask_transformer, "residual": new_residual_transformer}[kind]
    model = new(CONFIG, 0).eval()
    # Larger weights, so that what is read shows.
    for p in model.parameters():
        p.data.mul_(5)
    return model


def run(model, codes, text=TEXT, valid=VALID, drop=None):
    if hasattr(model, "mask_id"):
        return model(codes[..., 0], text, valid, drop)
    return model(codes, LEVELS, text, valid, drop)


@pytest.mark.parametrize("kind, classes", [("mask", 10), ("residual", 11)])
def test_a_logit_for_each_class(kind, classes):
    assert run(make(kind), CODES).shape == (3, 8, classes)


@pytest.mark.parametrize("kind", ["mask", "residual"])
def test_padding_does_not_matter(kind):
    model = make(kind)
    soiled = torch.where(VALID[..., None], CODES, (CODES + 3) % 10)
    out = run(model, CODES)
    assert torch.equal(out[VALID], run(model, soiled)[VALID])
    alone = run(model, CODES, valid=VALID)[1, :5]
    if kind == "mask":
        cut = model(CODES[1:2, :5, 0], TEXT[1:2], VALID[1:2, :5])[0]
    else:
        cut = model(CODES[1:2, :5], LEVELS[1:2], TEXT[1:2], VALID[1:2, :5])[0]
    torch.testing.assert_close(alone, cut, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["mask", "residual"])
def test_dropped_texts_are_zeros(kind):
    model = make(kind)
    drop = torch.tensor([False, True, False])
    out = run(model, CODES, drop=drop)
    zeroed = run(model, CODES, text=TEXT * ~drop[:, None])
    assert torch.equal(out, zeroed)
    assert not torch.allclose(out[1], run(model, CODES)[1], atol=1e-3)


@pytest.mark.parametrize("kind", ["mask", "residual"])
def test_the_order_of_tokens_matters(kind):
    model = make(kind)
    same = torch.full_like(CODES, 3)
    out = run(model, same)[0]
    assert not torch.allclose(out[0], out[1], atol=1e-3)


def test_a_level_reads_those_below_it_alone():
    model = make("residual")
    out = run(model, CODES)
    for item, level in enumerate(LEVELS.tolist()):
        for changed in range(4):
            other = CODES.clone()
            other[..., changed] = (other[..., changed] + 1) % 10
            same = torch.allclose(run(model, other)[item], out[item], atol=1e-4)
            assert same == (changed >= level)
    # What is not read need not be there.
    unknown = CODES.clone()
    unknown[torch.arange(4) >= LEVELS[:, None, None].expand(3, 8, 1)] = -1
    assert torch.equal(run(model, unknown), out)


def test_levels_share_their_tables_except_at_the_ends():
    model = make("residual")
    before = run(model, CODES)

    def changed(name, row):
        table = getattr(model, name).data
        kept = table[row].clone()
        table[row] += 1
        out = run(model, CODES)
        table[row] = kept
        return [not torch.allclose(a, b, atol=1e-3) for a, b in zip(out, before, strict=True)]

    # Items ask for levels 1, 2, 3. Read by all, predicted by none:
    assert changed("token_embed_weight_", 0) == [True, True, True]
    # Predicted at level 1, read from level 2 on; predicted at level 2, read at level 3:
    assert changed("embed_proj_shared_weight", 0) == [True, True, True]
    assert changed("embed_proj_shared_weight", 1) == [False, True, True]
    assert changed("output_proj_weight_", 0) == [False, False, True]


def test_files_may_carry_the_position_table_and_the_text_encoder():
    model = new_mask_transformer(CONFIG, 0)
    state = model.state_dict()
    state["position_enc.pe"] = torch.full((5000, 1, 16), 7.0)
    state["clip_model.logit_scale"] = torch.tensor(7.0)
    again = new_mask_transformer(CONFIG, 1).eval()
    again.load_state_dict(state)
    assert torch.equal(run(again, CODES), run(model.eval(), CODES))


def test_two_levels_need_no_shared_table():
    model = new_residual_transformer(replace(CONFIG, levels=2), 0)
    assert model.embed_proj_shared_weight.shape == (0, 11, 12)
    out = model(CODES[..., :1], torch.ones(3, dtype=torch.long), TEXT, VALID)
    assert out.isfinite().all()


def test_initial_weights_are_small_and_follow_the_seed():
    model = new_mask_transformer(TokenTransformerConfig(layers=1), 0)
    assert float(model.token_emb.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert not model.cond_emb.bias.any()
    again = new_mask_transformer(TokenTransformerConfig(layers=1), 0)
    assert torch.equal(model.token_emb.weight, again.token_emb.weight)
    other = new_mask_transformer(TokenTransformerConfig(layers=1), 1)
    assert not torch.equal(model.token_emb.weight, other.token_emb.weight)


def test_impossible_sizes_are_refused():
    with pytest.raises(InputError, match="levels: found 1; expected 2 to 6"):
        replace(CONFIG, levels=1)
    with pytest.raises(InputError, match="number of heads"):
        replace(CONFIG, heads=3)
