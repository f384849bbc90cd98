import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.priors import t2mgpt
from t2imu_utils.priors.rvq import RVQConfig
from t2imu_utils.priors.t2mgpt import (
    GPTConfig,
    T2MGPTConfig,
    generate,
    new_gpt,
    new_t2mgpt,
    sample_tokens,
)

SIZES = GPTConfig(codes=10, text_width=6, width=16, layers=2, heads=4, feedforward=24, max_tokens=8)
CONFIG = T2MGPTConfig(
    rvq=RVQConfig(width=16, code_width=8, codes=20, levels=1, dropout=0.0, temperature=0.0),
    transformer=replace(SIZES, max_tokens=12),
)
TEXT = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(10, (3, 8), generator=torch.Generator().manual_seed(1))


def shaken(gpt, scale=0.3):
    """Weights as large as matter, biases and norms not at 0 and 1."""
    generator = torch.Generator().manual_seed(2)
    for p in gpt.parameters():
        p.data += scale * torch.randn(p.shape, generator=generator)
    return gpt.eval()


@pytest.fixture
def gpt():
    return shaken(new_gpt(SIZES, 0))


def make(encoder):
    rng = np.random.default_rng(0)
    normaliser = Normaliser(
        rng.standard_normal(263).astype(np.float32), rng.random(263).astype(np.float32)
    )
    made = new_t2mgpt(CONFIG, normaliser, encoder, 0)
    torch.manual_seed(1)
    made.rvq.quantizer.layers[0].codebook.normal_()
    shaken(made.gpt)
    return made


@pytest.fixture
def made(encoder):
    return make(encoder)


def run(made, prompts, frames, seeds, **more):
    return generate(made, prompts, frames, seeds, progress=False, **more)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def by_hand(state, tokens, text, heads, layers):
    """Logits of one motion, written out: no batch, no cache, one head and one place at a time."""

    def linear(name, x):
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(name, x):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    x = torch.stack(
        [linear("trans_base.cond_emb", text)]
        + [state["trans_base.tok_emb.weight"][token] for token in tokens]
    )
    width = x.shape[1]
    for place in range(len(x)):
        for i in range(0, width, 2):
            angle = place / 10000 ** (i / width)
            x[place, i] += math.sin(angle)
            x[place, i + 1] += math.cos(angle)
    size = width // heads
    for half in ("trans_base", "trans_head"):
        for layer in range(layers):
            name = f"{half}.blocks.{layer}"
            y = norm(f"{name}.ln1", x)
            query, key, value = (linear(f"{name}.attn.{k}", y) for k in ("query", "key", "value"))
            mixed = torch.zeros_like(x)
            for place in range(len(x)):
                for head in range(heads):
                    part = slice(head * size, (head + 1) * size)
                    scores = key[: place + 1, part] @ query[place, part] / math.sqrt(size)
                    weights = scores.exp() / scores.exp().sum()
                    mixed[place, part] = weights @ value[: place + 1, part]
            x = x + linear(f"{name}.attn.proj", mixed)
            y = linear(f"{name}.mlp.0", norm(f"{name}.ln2", x))
            y = y * 0.5 * (1 + torch.erf(y / math.sqrt(2)))
            x = x + linear(f"{name}.mlp.2", y)
    return linear("trans_head.head", norm("trans_head.ln_f", x))


@torch.no_grad()
def test_logits_are_those_of_the_transformer_written_out(gpt):
    logits = gpt(TOKENS, TEXT)
    assert logits.shape == (3, 9, 11)
    for row, tokens, text in zip(logits, TOKENS, TEXT, strict=True):
        expected = by_hand(gpt.state_dict(), tokens, text, SIZES.heads, SIZES.layers)
        torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_keys_and_values_that_are_kept_give_the_same_logits(gpt):
    whole = gpt(TOKENS, TEXT)
    step, past = gpt.start(TEXT)
    for place in range(9):
        torch.testing.assert_close(step, whole[:, place], atol=1e-4, rtol=1e-4)
        if place < 8:
            step, past = gpt.follow(TOKENS[:, place], past)


@torch.no_grad()
def test_a_token_matters_to_what_follows_alone(gpt):
    before = gpt(TOKENS, TEXT)
    for place in range(8):
        other = TOKENS.clone()
        other[:, place] = (other[:, place] + 1) % 10
        after = gpt(other, TEXT)
        torch.testing.assert_close(after[:, : place + 1], before[:, : place + 1])
        assert ((after - before)[:, place + 1 :].abs().amax(-1) > 1e-4).all()
    assert ((gpt(TOKENS, TEXT + 1) - before).abs().amax(-1) > 1e-3).all()


def test_more_tokens_than_the_model_has_places_for_are_refused(gpt):
    with pytest.raises(InputError, match="tokens: found 9; expected at most 8"):
        gpt(torch.zeros(1, 9, dtype=torch.long), TEXT[:1])
    _, past = gpt.start(TEXT)
    for _ in range(8):
        _, past = gpt.follow(TOKENS[:, 0], past)
    with pytest.raises(InputError, match="tokens: found 9"):
        gpt.follow(TOKENS[:, 0], past)


def test_dropout_is_for_training_alone():
    gpt = shaken(new_gpt(replace(SIZES, dropout=0.5), 0))
    assert torch.equal(gpt(TOKENS, TEXT), gpt(TOKENS, TEXT))
    gpt.train()
    assert not torch.allclose(gpt(TOKENS, TEXT), gpt(TOKENS, TEXT))


def test_initial_weights_are_small_and_follow_the_seed():
    sizes = replace(SIZES, width=128)
    first, again, other = (new_gpt(sizes, seed) for seed in (0, 0, 1))
    block = first.trans_head.blocks[0]
    for weight in (first.trans_base.tok_emb.weight, block.attn.key.weight, block.mlp[0].weight):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert not block.attn.proj.bias.any() and (block.ln1.weight == 1).all()
    assert torch.equal(first.trans_head.head.weight, again.trans_head.head.weight)
    assert not torch.equal(first.trans_head.head.weight, other.trans_head.head.weight)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [[8, 3, 1], None])
def test_tokens_are_drawn_as_without_kept_keys_and_values(gpt, lengths):
    made = sample_tokens(gpt, TEXT, generators(4, 5, 6), lengths)
    for item, generator in enumerate(generators(4, 5, 6)):
        tokens = []
        while len(tokens) < (lengths[item] if lengths else 8):
            shown = torch.tensor(tokens, dtype=torch.long)[None]
            logits = gpt(shown, TEXT[item : item + 1])[0, -1]
            if lengths or not tokens:
                logits[10] = -torch.inf
            noise = torch.empty(11).exponential_(generator=generator)
            token = int((logits.softmax(0) / noise).argmax())
            if token == 10:
                break
            tokens.append(token)
        assert made[item].tolist() == tokens


def test_classes_are_drawn_by_their_probability():
    logits = torch.tensor([2.0, -torch.inf, 1.0, 0.0])
    # Rows of one item each, all from one generator.
    drawn = t2mgpt._draw(logits.expand(20000, 4), generators(0) * 20000)
    shares = torch.bincount(drawn, minlength=4) / 20000
    torch.testing.assert_close(shares, logits.softmax(0), atol=0.01, rtol=0)


def test_a_shorter_motion_has_the_first_tokens_of_a_longer_one(gpt):
    long = sample_tokens(gpt, TEXT, generators(1, 2, 3), [8, 8, 8])
    short = sample_tokens(gpt, TEXT, generators(1, 2, 3), [5, 1, 7])
    for a, b, length in zip(long, short, [5, 1, 7], strict=True):
        assert torch.equal(a[:length], b)
    assert max(int(tokens.max()) for tokens in long) < 10


def test_a_motion_ends_where_its_end_is_drawn_unless_a_length_is_asked_for(gpt):
    text, seeds = TEXT[:1].expand(40, 6), range(40)
    own = sample_tokens(gpt, text, generators(*seeds))
    asked = sample_tokens(gpt, text, generators(*seeds), [8] * 40)
    lengths = [len(tokens) for tokens in own]
    assert min(lengths) >= 1 and max(lengths) <= 8 and len(set(lengths)) > 2
    for a, b in zip(own, asked, strict=True):
        assert torch.equal(a, b[: len(a)]) and len(b) == 8


@pytest.fixture
def ending(made):
    """A prior that would end every motion at once."""
    made.gpt.trans_head.ln_f.weight.data.zero_()
    made.gpt.trans_head.ln_f.bias.data.fill_(1.0)
    made.gpt.trans_head.head.weight.data[-1] = 10.0
    return made


def test_an_end_never_shortens_what_is_asked_for_and_never_leaves_nothing(ending):
    asked = run(ending, ["walks"] * 3, [3, 30, 48], [1, 2, 3])
    assert [len(x) for x in asked] == [3, 30, 48]
    own = run(ending, ["walks"] * 3, None, [1, 2, 3])
    assert [len(x) for x in own] == [4, 4, 4]


def test_a_motion_without_an_end_has_the_longest_length(ending):
    ending.gpt.trans_head.head.weight.data[-1] = -10.0
    assert [len(x) for x in run(ending, ["walks", "runs"], None, [1, 2])] == [48, 48]


def test_motions_have_the_length_that_was_asked_for(made):
    frames = [3, 4, 5, 31, 40, 48]
    motions = run(made, ["walks"] * 6, frames, range(6))
    assert [x.shape for x in motions] == [(n, 263) for n in frames]
    assert all(x.dtype == np.float32 and np.isfinite(x).all() for x in motions)


@pytest.mark.parametrize("frames", [[48, 9, 9, 17], None])
def test_a_motion_depends_on_prompt_length_and_seed_alone(made, frames):
    prompts, seeds = ["walks slowly", "runs", "runs", "jumps twice"], [4, 5, 6, 7]
    before = torch.get_rng_state()
    together = run(made, prompts, frames, seeds)
    assert torch.equal(torch.get_rng_state(), before)
    small = run(made, prompts, frames, seeds, batch_size=1)
    turned = run(made, prompts[::-1], frames and frames[::-1], seeds[::-1], batch_size=3)[::-1]
    for i, motion in enumerate(together):
        alone = run(made, [prompts[i]], frames and [frames[i]], [seeds[i]])[0]
        for other in (small[i], turned[i], alone):
            np.testing.assert_allclose(motion, other, atol=1e-5)
    one, two = (run(made, ["runs"], [40], [seed])[0] for seed in (5, 6))
    assert not np.allclose(one, two)
    assert not np.allclose(one, run(made, ["walks"], [40], [5])[0])


def test_a_shorter_motion_of_the_same_tokens_is_the_longer_one_cut(made):
    seven, eight = (run(made, ["runs"], [n], [3])[0] for n in (7, 8))
    assert np.array_equal(seven, eight[:7])


def test_features_are_those_of_the_tokens_decoded_and_denormalised(made):
    (motion,) = run(made, ["runs"], [20], [3])
    text = made.text_encoder.encode_pooled(["runs"])
    (tokens,) = sample_tokens(made.gpt, text, generators(3), [5])
    with torch.no_grad():
        x = made.rvq.decode(tokens[None, :, None])[0].numpy()
    np.testing.assert_allclose(motion, x * made.normaliser.std + made.normaliser.mean, atol=1e-5)


def test_new_priors_follow_their_seed_and_fit_their_encoder(encoder):
    a, b = make(encoder), make(encoder)
    other = new_t2mgpt(CONFIG, a.normaliser, encoder, 1)
    assert torch.equal(a.gpt.trans_base.tok_emb.weight, b.gpt.trans_base.tok_emb.weight)
    assert not torch.equal(a.rvq.encoder.model[0].weight, other.rvq.encoder.model[0].weight)
    assert (a.config.transformer.text_width, a.config.transformer.codes) == (16, 20)
    assert a.config.max_frames == 48 and a.config.channels == 263
    assert a.parameters == sum(p.numel() for n in (a.rvq, a.gpt) for p in n.parameters())
    assert a.text_encoder_name == "words"


def test_the_official_sizes_are_the_default():
    config = T2MGPTConfig()
    assert config.max_frames == 200
    assert (config.rvq.levels, config.rvq.dropout, config.rvq.temperature) == (1, 0, 0)


def test_guidance_is_refused(made):
    plain, one = (run(made, ["runs"], [20], [1], guidance=g)[0] for g in (None, 1.0))
    assert np.array_equal(plain, one)
    with pytest.raises(InputError, match="guidance: found 2.5; expected None or 1. T2M-GPT has no"):
        run(made, ["runs"], [20], [1], guidance=2.5)
