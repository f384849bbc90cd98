import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from t2imu_utils.models.t2mgpt import (
    FILES,
    GENERATOR,
    META,
    UNUSED,
    GPTConfig,
    T2MGPTConfig,
    TokenGPT,
    gpt_losses,
    sample_tokens,
)
from t2imu_utils.models.tokeniser import RVQConfig, initialised
from t2imu_utils.motion.corpus import Normaliser
from tests.models.layouts import Clip, read_shapes, rule, shapes_of, write_by_rule

SIZES = GPTConfig(codes=10, text_width=6, width=16, layers=2, heads=4, feedforward=24, max_tokens=8)


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
    return shaken(initialised(partial(TokenGPT, SIZES), 0))


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
def test_tokens_are_drawn_as_without_kept_keys_and_values(gpt):
    lengths = [8, 3, 1]
    made = sample_tokens(gpt, TEXT, generators(4, 5, 6), lengths)
    for item, generator in enumerate(generators(4, 5, 6)):
        tokens = []
        while len(tokens) < lengths[item]:
            shown = torch.tensor(tokens, dtype=torch.long)[None]
            logits = gpt(shown, TEXT[item : item + 1])[0, -1]
            logits[10] = -torch.inf
            noise = torch.empty(11).exponential_(generator=generator)
            tokens.append(int((logits.softmax(0) / noise).argmax()))
        assert made[item].tolist() == tokens


WHOLE = T2MGPTConfig(
    rvq=RVQConfig(width=16, code_width=8, codes=12, levels=1, dropout=0.0, temperature=0.0),
    transformer=GPTConfig(width=16, layers=1, heads=2, feedforward=32, max_tokens=4),
)


@pytest.fixture
def untrained(clips, encoder):
    everything = np.concatenate([clip.features for clip in clips])
    normaliser = Normaliser(everything.mean(0), everything.std(0) + 0.05)
    return GENERATOR.new(WHOLE, normaliser, encoder, 3)


def test_every_token_and_the_end_are_predicted_from_what_is_shown(untrained):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(12, (3, 4), generator=generator)
    shown = torch.randint(12, (3, 4), generator=generator)
    lengths = [3, 1, 4]
    valid = torch.arange(4) < torch.tensor(lengths)[:, None]
    text = torch.randn(3, 16, generator=generator)
    model = untrained.networks["gpt"]
    for p in model.parameters():
        p.data.mul_(5)
    with torch.no_grad():
        loss, right, counted = gpt_losses(model, tokens, valid, text, shown)
        assert counted.sum(1).tolist() == [4, 2, 4]
        for i, length in enumerate(lengths):
            targets = [*tokens[i, :length].tolist(), model.end_id]
            # The longest motion may have been cut: that it ends is not learnt.
            for place, target in enumerate(targets[:4]):
                logits = model(shown[i : i + 1, :place], text[i : i + 1])[0, -1]
                expected = -logits.log_softmax(0)[target]
                torch.testing.assert_close(loss[i, place], expected, atol=1e-5, rtol=1e-5)
                assert bool(right[i, place]) == (int(logits.argmax()) == target)
                assert counted[i, place]


SMALL = GENERATOR.Sizes(
    tokeniser_width=16, codes=20, width=16, layers=2, heads=4, feedforward=24, dropout=0.1
)


TITLES = {"HumanVQVAE": "rvq", "Text2Motion_Transformer": "gpt"}


def official_shapes(config, text_width):
    """Names and shapes of all that the two official files hold."""
    config = GENERATOR.fitted(config, text_width)
    places, width = config.transformer.max_tokens + 1, config.transformer.width
    with torch.device("meta"):
        found = {
            name: shapes_of(make(), partial(GENERATOR.official, name))
            for name, make in GENERATOR.parts(config).items()
        }
    masks = [key.replace("key.weight", "mask") for key in found["gpt"] if "key.weight" in key]
    found["gpt"] |= dict.fromkeys(masks, (1, 1, places, places)) | {UNUSED: (places, width)}
    return found


@pytest.fixture
def small(tmp_path):
    """Weights by rule, with causal masks."""
    states = {
        name: {
            key: torch.ones(shape).tril() if key.endswith(".mask") else rule(key, shape)
            for key, shape in shapes.items()
        }
        for name, shapes in official_shapes(GENERATOR.configuration(SMALL), 6).items()
    }
    return write_by_rule(tmp_path / "official", states, FILES, META)


def contents(folder):
    return {
        name: torch.load(folder / file, weights_only=True)[key]
        for name, (file, (key,)) in FILES.items()
    }


def test_names_and_shapes_are_the_official_ones(reference):
    official = read_shapes(reference / "t2mgpt_state_dict.txt")
    ours = official_shapes(T2MGPTConfig(), 512)
    assert {title: ours[name] for title, name in TITLES.items()} == official


def test_an_official_checkpoint_is_read_sampled(small):
    prior = GENERATOR.published(small, SMALL, Clip(6))
    before = contents(small)
    book = before["rvq"]["vqvae.quantizer.codebook"]
    assert torch.equal(prior.rvq.quantizer.layers[0].codebook, book)
    assert (prior.config.transformer.text_width, prior.config.transformer.codes) == (6, 20)
    assert set(prior.history[0]["files"]) == {"rvq", "gpt"}
    assert not prior.networks["gpt"].training
    (motion,) = GENERATOR.generate(prior, ["a person walks"], [18], [1], progress=False)
    assert motion.shape == (18, 263) and np.isfinite(motion).all()


def test_tokens_and_logits_come_from_the_weights_of_the_file(small):
    prior = GENERATOR.published(small, SMALL, Clip(6))
    x = torch.randn(1, 32, 263, generator=torch.Generator().manual_seed(0))

    def first():
        return GENERATOR.published(small, SMALL, Clip(6)).networks["gpt"].start(torch.ones(1, 6))[0]

    with torch.no_grad():
        vectors = prior.rvq.encoder(x.transpose(1, 2))[0].T
        distances = torch.cdist(vectors, contents(small)["rvq"]["vqvae.quantizer.codebook"])
        assert torch.equal(prior.rvq.encode(x)[0, :, 0], distances.argmin(1))
        before, state = first(), contents(small)["gpt"]
        # The table of positions that is read is the file's; the other one does not matter.
        for name, changes in ((UNUSED, False), ("trans_base.pos_embed.embed", True)):
            state[name] += torch.linspace(0, 1, 16)
            torch.save({"trans": state}, small / FILES["gpt"][0])
            assert torch.allclose(first(), before) != changes
