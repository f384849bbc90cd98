from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from t2imu_utils.models.momask import (
    FILES,
    GENERATOR,
    MaskTransformer,
    MoMaskConfig,
    ResidualTransformer,
    TokenTransformerConfig,
    draw_levels,
    mask_losses,
    masked_counts,
)
from t2imu_utils.models.tokeniser import RVQConfig, initialised
from t2imu_utils.models.tokens import drawn_codes
from tests.models.layouts import Clip, read_shapes, rule, shapes_of, write_by_rule

SIZES = TokenTransformerConfig(
    codes=10, levels=4, token_width=12, text_width=6, width=16, layers=2, heads=2, feedforward=24,
    max_tokens=8,
)  # fmt: skip


TEXT = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
VALID = torch.arange(8)[None] < torch.tensor([8, 5, 1])[:, None]
CODES = torch.randint(10, (3, 8, 4), generator=torch.Generator().manual_seed(1))
LEVELS = torch.tensor([1, 2, 3])


def transformer(kind):
    new = {"mask": MaskTransformer, "residual": ResidualTransformer}[kind]
    model = initialised(partial(new, SIZES), 0)
    # Larger weights, so that what is read shows.
    for p in model.parameters():
        p.data.mul_(5)
    return model


def logits_of(model, codes, text=TEXT, valid=VALID, drop=None):
    if hasattr(model, "mask_id"):
        return model(codes[..., 0], text, valid, drop)
    return model(codes, LEVELS, text, valid, drop)


@pytest.mark.parametrize("kind", ["mask", "residual"])
def test_padding_does_not_matter(kind):
    model = transformer(kind)
    soiled = torch.where(VALID[..., None], CODES, (CODES + 3) % 10)
    out = logits_of(model, CODES)
    assert torch.equal(out[VALID], logits_of(model, soiled)[VALID])
    alone = logits_of(model, CODES, valid=VALID)[1, :5]
    if kind == "mask":
        cut = model(CODES[1:2, :5, 0], TEXT[1:2], VALID[1:2, :5])[0]
    else:
        cut = model(CODES[1:2, :5], LEVELS[1:2], TEXT[1:2], VALID[1:2, :5])[0]
    torch.testing.assert_close(alone, cut, atol=1e-4, rtol=1e-4)


def test_a_level_reads_those_below_it_alone():
    model = transformer("residual")
    out = logits_of(model, CODES)
    for item, level in enumerate(LEVELS.tolist()):
        for changed in range(4):
            other = CODES.clone()
            other[..., changed] = (other[..., changed] + 1) % 10
            same = torch.allclose(logits_of(model, other)[item], out[item], atol=1e-4)
            assert same == (changed >= level)
    # What is not read need not be there.
    unknown = CODES.clone()
    unknown[torch.arange(4) >= LEVELS[:, None, None].expand(3, 8, 1)] = -1
    assert torch.equal(logits_of(model, unknown), out)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_as_many_tokens_are_masked_as_published():
    assert masked_counts(49, 10) == [49, 48, 46, 42, 38, 31, 25, 17, 9, 1]
    assert masked_counts(49, 18) == [
        49, 49, 48, 47, 46, 44, 42, 39, 36, 33, 30, 26, 22, 18, 13, 9, 5, 1,
    ]  # fmt: skip
    assert masked_counts(1, 10) == [1] * 10
    assert masked_counts(7, 1) == [7]


def test_codes_are_drawn_from_the_best_by_their_probability():
    logits = torch.tensor([2.0, -1.0, 1.0, 0.0]).expand(1, 20000, 4)
    drawn = drawn_codes(logits, [20000], generators(0), 0.5)
    shares = torch.bincount(drawn[0], minlength=4) / 20000
    best = torch.tensor([2.0, 1.0]).softmax(0)
    torch.testing.assert_close(shares, torch.tensor([best[0], 0, best[1], 0]), atol=0.01, rtol=0)
    # 52 of 512, as published.
    many = drawn_codes(torch.zeros(1, 4000, 512), [4000], generators(0), 0.1)
    assert len(many.unique()) == 52


WHOLE = MoMaskConfig(
    rvq=RVQConfig(width=16, code_width=8, codes=12, levels=3, dropout=0.1),
    transformer=TokenTransformerConfig(
        token_width=16, width=16, layers=1, heads=2, feedforward=32, dropout=0.1, max_tokens=4
    ),
)


class Echo(torch.nn.Module):
    """Writes down what a mask transformer is shown, and is sure of code 3 everywhere."""

    mask_id = 12
    config = WHOLE.transformer

    def forward(self, tokens, text, valid, drop_text=None):
        self.shown = tokens
        return torch.nn.functional.one_hot(torch.full(tokens.shape, 3), 12) * 9.0


@pytest.mark.parametrize("corrupt", [True, False])
def test_a_cosine_share_of_the_valid_tokens_is_masked(corrupt):
    model = Echo()
    model.config = replace(WHOLE.transformer, codes=12)
    valid = torch.arange(40)[None] < torch.tensor([[40], [20]])
    valid = valid.repeat(300, 1)
    tokens = torch.full((600, 40), 5)
    times, rng = np.full(600, 0.5), np.random.default_rng(0)
    drop = torch.zeros(600, dtype=torch.bool)
    loss, right = mask_losses(model, tokens, valid, torch.zeros(600, 4), drop, times, rng, corrupt)
    assert not right.any()
    expected = -torch.tensor([9.0, *[0.0] * 11]).log_softmax(0)[1]
    torch.testing.assert_close(loss, expected.expand(len(loss)))
    masked = [round(40 * 0.5**0.5), round(20 * 0.5**0.5)]
    assert len(loss) == 300 * sum(masked)
    hidden = model.shown == model.mask_id
    assert not hidden[~valid].any()
    if corrupt:
        # 79.2 % are hidden, a tenth are random codes, of which some are right by chance.
        assert float(hidden.sum()) / len(loss) == pytest.approx(0.792, abs=0.02)
        random = (model.shown != 5) & ~hidden
        assert float(random.sum()) / len(loss) == pytest.approx(0.1 * 11 / 12, abs=0.01)
    else:
        assert hidden.sum(1).tolist() == masked * 300


def test_low_levels_are_trained_more_often():
    levels = draw_levels(np.linspace(0, 1, 10001), 6)
    shares = np.bincount(levels, minlength=6)[1:] / 10001
    edges = np.arccos(1 - np.array([0.5, 1.5, 2.5, 3.5]) / 4) / (np.pi / 2)
    np.testing.assert_allclose(shares, np.diff([0, *edges, 1]), atol=1e-3)
    assert shares[0] == max(shares)
    assert set(draw_levels(np.linspace(0, 1, 5), 2)) == {1}


TITLES = {
    "RVQVAE": "rvq",
    "MaskTransformer": "mask",
    "ResidualTransformer": "residual",
}


def official_shapes(config, text_width):
    """Names and shapes of the parameters of the three official files, and their table."""
    sizes = GENERATOR.fitted(config, text_width)
    with torch.device("meta"):
        shapes = {name: shapes_of(make()) for name, make in GENERATOR.parts(sizes).items()}
    for name in ("mask", "residual"):
        shapes[name]["position_enc.pe"] = (5000, 1, sizes.transformer.width)
    return shapes


def by_rule(name, shape):
    """The table of sinusoids is nonsense."""
    scale = shape[-1] ** 0.5 if name.endswith("codebook") else 1.0
    return torch.full(shape, 7.0) if name.endswith(".pe") else rule(name, shape) * np.float32(scale)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A prior that was read from a checkpoint of full size."""
    states = {
        name: {key: by_rule(key, shape) for key, shape in shapes.items()}
        for name, shapes in official_shapes(MoMaskConfig(), 512).items()
    }
    folder = write_by_rule(tmp_path_factory.mktemp("t2m"), states, FILES, GENERATOR.meta)
    return GENERATOR.published(folder, None, Clip(512))


def test_a_full_size_official_checkpoint_is_read_sampled(full):
    prior = full
    sizes = [sum(p.numel() for p in prior.networks[name].parameters()) for name in FILES]
    assert sizes == [19_436_807, 12_048_768, 13_364_224]
    assert GENERATOR.parameters(prior) == sum(sizes)
    assert prior.history[0]["files"]["rvq"]["epoch"] == 12
    (motion,) = GENERATOR.generate(prior, ["a person walks"], [18], [1], progress=False)
    assert motion.shape == (18, 263) and np.isfinite(motion).all()


def test_names_and_shapes_are_the_official_ones(reference):
    official = read_shapes(reference / "momask_state_dict.txt")
    ours = official_shapes(MoMaskConfig(), 512)
    for title, name in TITLES.items():
        assert ours[name] == official[title]


@pytest.fixture(scope="module")
def golden(reference):
    with np.load(reference / "momask_golden.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file}


@torch.no_grad()
def test_codes_and_motions_are_the_official_ones(full, golden):
    rvq = full.rvq
    assert torch.equal(rvq.encode(golden["features"]), golden["codes"])
    torch.testing.assert_close(
        rvq.decode(golden["decode_ids"]), golden["decoded"], atol=1e-4, rtol=0
    )


@torch.no_grad()
def test_logits_of_both_transformers_are_the_official_ones(full, golden):
    mask, residual = full.networks["mask"], full.networks["residual"]
    valid = torch.arange(14)[None] < golden["token_lengths"][:, None]
    for name, drop in (("cond", None), ("uncond", torch.ones(2, dtype=torch.bool))):
        logits = mask(golden["token_ids"], golden["text"], valid, drop).transpose(1, 2)
        torch.testing.assert_close(logits, golden[f"mask_logits_{name}"], atol=1e-4, rtol=0)
    for level in (1, 3, 5):
        which = torch.full((2,), level)
        logits = residual(golden["res_token_ids"], which, golden["text"], valid)
        expected = golden[f"res_logits_q{level}"]
        torch.testing.assert_close(logits.transpose(1, 2), expected, atol=1e-4, rtol=0)
