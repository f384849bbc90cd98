import ast
import json
import math

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.priors.rvq import RVQ, RVQConfig
from t2imu_utils.priors.t2mgpt import GPTConfig, T2MGPTConfig, TokenGPT, generate, new_t2mgpt
from t2imu_utils.priors.t2mgpt_checkpoints import (
    FILES,
    META,
    UNUSED,
    load_t2mgpt,
    official_state,
    read_t2mgpt,
    save_t2mgpt,
    write_t2mgpt,
)

SMALL = T2MGPTConfig(
    rvq=RVQConfig(width=16, code_width=8, codes=20, levels=1, dropout=0.0, temperature=0.0),
    transformer=GPTConfig(width=16, layers=2, heads=4, feedforward=24, max_tokens=12),
)
TITLES = {"HumanVQVAE": "rvq", "Text2Motion_Transformer": "gpt"}


class Clip:
    """Stands in for the text encoder of the official checkpoints: its name, and made-up vectors."""

    name, fingerprint, max_tokens = "clip", "c" * 64, 77

    def __init__(self, pooled_width):
        self.pooled_width = pooled_width

    def count_tokens(self, texts):
        return [len(text.split()) for text in texts]

    def encode_pooled(self, texts):
        seeds = [torch.Generator().manual_seed(sum(text.encode())) for text in texts]
        return torch.stack([torch.randn(self.pooled_width, generator=seed) for seed in seeds])


def official_shapes(config, text_width):
    """Names and shapes of all that the two official files hold."""
    sizes, width = config.rvq, config.rvq.width
    rvq = {"quantizer.codebook": (sizes.codes, sizes.code_width)}

    def conv(name, out, inner, kernel):
        rvq.update({f"{name}.weight": (out, inner, kernel), f"{name}.bias": (out,)})

    def residual(name):
        for i in range(3):
            conv(f"{name}.model.{i}.conv1", width, width, 3)
            conv(f"{name}.model.{i}.conv2", width, width, 1)

    conv("encoder.model.0", width, sizes.channels, 3)
    conv("encoder.model.4", sizes.code_width, width, 3)
    conv("decoder.model.0", width, sizes.code_width, 3)
    conv("decoder.model.4", width, width, 3)
    conv("decoder.model.6", sizes.channels, width, 3)
    for i in (2, 3):
        conv(f"encoder.model.{i}.0", width, width, 4)
        residual(f"encoder.model.{i}.1")
        residual(f"decoder.model.{i}.0")
        conv(f"decoder.model.{i}.2", width, width, 3)

    sizes, width = config.transformer, config.transformer.width
    places = sizes.max_tokens + 1
    gpt = {
        "trans_base.tok_emb.weight": (config.rvq.codes + 2, width),
        "trans_base.pos_embedding.weight": (places, width),
        "trans_base.pos_embed.embed": (places, 1, width),
        "trans_head.head.weight": (config.rvq.codes + 1, width),
    }

    def linear(name, out, inner):
        gpt.update({f"{name}.weight": (out, inner), f"{name}.bias": (out,)})

    linear("trans_base.cond_emb", width, text_width)
    gpt.update(dict.fromkeys(("trans_head.ln_f.weight", "trans_head.ln_f.bias"), (width,)))
    for half in ("trans_base", "trans_head"):
        for i in range(sizes.layers):
            block = f"{half}.blocks.{i}"
            norms = [f"{block}.{norm}.{kind}" for norm in ("ln1", "ln2") for kind in
                     ("weight", "bias")]  # fmt: skip
            gpt.update(dict.fromkeys(norms, (width,)))
            gpt[f"{block}.attn.mask"] = (1, 1, places, places)
            for name in ("key", "query", "value", "proj"):
                linear(f"{block}.attn.{name}", width, width)
            linear(f"{block}.mlp.0", sizes.feedforward, width)
            linear(f"{block}.mlp.2", width, sizes.feedforward)
    return {"rvq": {f"vqvae.{key}": shape for key, shape in rvq.items()}, "gpt": gpt}


def write_official(folder, layouts, config, text_width):
    """Weights by rule in the official layout, with causal masks."""
    for name, shapes in official_shapes(config, text_width).items():
        state = {key: layouts.rule(key, shape) for key, shape in shapes.items()}
        for key in [key for key in state if key.endswith(".mask")]:
            state[key] = torch.ones(shapes[key]).tril()
        file, key = FILES[name]
        (folder / file).parent.mkdir(parents=True)
        torch.save({key: state}, folder / file)
    (folder / META).mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(folder / META / "mean.npy", rng.standard_normal(263).astype(np.float32))
    np.save(folder / META / "std.npy", rng.random(263).astype(np.float32) + 0.1)
    return folder


@pytest.fixture
def small(layouts, tmp_path):
    return write_official(tmp_path / "official", layouts, SMALL, 6)


def contents(folder):
    return {
        name: torch.load(folder / file, weights_only=True)[key]
        for name, (file, key) in FILES.items()
    }


def states(prior):
    return {
        f"{name}.{key}": x for name in FILES for key, x in getattr(prior, name).state_dict().items()
    }


def test_names_and_shapes_are_the_official_ones(reference):
    official = {}
    for line in (reference / "t2mgpt_state_dict.txt").read_text().splitlines():
        if line.startswith("#"):
            part = official.setdefault(TITLES[line.split()[1]], {})
        elif line:
            key, shape, _ = line.split("\t")
            part[key] = ast.literal_eval(shape)
    assert official_shapes(T2MGPTConfig(), 512) == official


def test_the_default_networks_are_of_full_size():
    with torch.device("meta"):
        networks = {"rvq": RVQ(T2MGPTConfig().rvq), "gpt": TokenGPT(GPTConfig())}
    shapes = official_shapes(T2MGPTConfig(), 512)
    for name, network in networks.items():
        found = {key: tuple(x.shape) for key, x in official_state(network).items()}
        assert found == shapes[name]
    sizes = [sum(p.numel() for p in network.parameters()) for network in networks.values()]
    # The published count has two tables of positions in it: one is fixed, one is not used.
    assert sizes == [19_436_807, 228_415_488 - 2 * 51 * 1024]


def test_an_official_checkpoint_is_read_sampled_and_written_again(small, tmp_path):
    prior = read_t2mgpt(small, Clip(6), SMALL)
    before = contents(small)
    book = before["rvq"]["vqvae.quantizer.codebook"]
    assert torch.equal(prior.rvq.quantizer.layers[0].codebook, book)
    assert (prior.config.transformer.text_width, prior.config.transformer.codes) == (6, 20)
    assert set(prior.history[0]["files"]) == {"rvq", "gpt"}
    assert not prior.gpt.training and all(p.requires_grad for p in prior.gpt.parameters())
    (motion,) = generate(prior, ["a person walks"], [18], [1], progress=False)
    assert motion.shape == (18, 263) and np.isfinite(motion).all()

    written = write_t2mgpt(tmp_path / "again", prior)
    for name, state in contents(written).items():
        assert {k: x.shape for k, x in state.items()} == {
            k: x.shape for k, x in before[name].items()
        }
        assert all(torch.equal(x, before[name][k]) for k, x in state.items() if k != UNUSED)
    for name in ("mean", "std"):
        paths = [path / META / f"{name}.npy" for path in (small, written)]
        assert np.array_equal(*(np.load(path) for path in paths))


def test_tokens_and_logits_come_from_the_weights_of_the_file(small):
    prior = read_t2mgpt(small, Clip(6), SMALL)
    x = torch.randn(1, 32, 263, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        vectors = prior.rvq.encoder(x.transpose(1, 2))[0].T
        distances = torch.cdist(vectors, contents(small)["rvq"]["vqvae.quantizer.codebook"])
        assert torch.equal(prior.rvq.encode(x)[0, :, 0], distances.argmin(1))
        before = prior.gpt.start(torch.ones(1, 6))[0]
        path = small / FILES["gpt"][0]
        state = contents(small)["gpt"]
        # The table of positions that is read is the file's; the other one does not matter.
        state[UNUSED] += 1
        torch.save({"trans": state}, path)
        same = read_t2mgpt(small, Clip(6), SMALL).gpt.start(torch.ones(1, 6))[0]
        assert torch.equal(same, before)
        state["trans_base.pos_embed.embed"] += torch.linspace(0, 1, 16)
        torch.save({"trans": state}, path)
        other = read_t2mgpt(small, Clip(6), SMALL).gpt.start(torch.ones(1, 6))[0]
        assert not torch.allclose(other, before)


def test_what_is_the_same_in_every_file_is_written(encoder, tmp_path):
    prior = new_t2mgpt(SMALL, Normaliser(np.zeros(263), np.ones(263)), encoder, 0)
    state = contents(write_t2mgpt(tmp_path / "t2mgpt", prior))["gpt"]
    mask = state["trans_head.blocks.1.attn.mask"][0, 0]
    assert all(bool(mask[i, j]) == (j <= i) for i in range(13) for j in range(13))
    table = state["trans_base.pos_embed.embed"]
    assert float(table[5, 0, 2]) == pytest.approx(math.sin(5 / 10000 ** (2 / 16)), abs=1e-6)
    assert not state[UNUSED].any()


def test_a_codebook_that_was_read_is_where_a_training_goes_on_from(small):
    prior = read_t2mgpt(small, Clip(6), SMALL)
    book, x = prior.rvq.quantizer.layers[0], torch.randn(8, 32, 263)
    before = book.codebook.clone()
    with torch.no_grad():
        vectors = prior.rvq.encoder(x.transpose(1, 2)).transpose(1, 2).flatten(0, 1)
        codes = prior.rvq.train()(x)[1].flatten()
    most = int(codes.mode().values)
    mine = vectors[codes == most]
    expected = (0.99 * before[most] + 0.01 * mine.sum(0)) / (0.99 + 0.01 * len(mine))
    torch.testing.assert_close(book.codebook[most], expected, atol=1e-4, rtol=1e-4)


def test_masks_may_be_absent(small):
    path = small / FILES["gpt"][0]
    state = contents(small)["gpt"]
    kept = {key: x for key, x in state.items() if not key.endswith(".mask") and key != UNUSED}
    before = states(read_t2mgpt(small, Clip(6), SMALL))
    torch.save({"trans": kept}, path)
    after = states(read_t2mgpt(small, Clip(6), SMALL))
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_everything_that_does_not_fit_is_listed(small):
    path = small / FILES["rvq"][0]
    state = contents(small)["rvq"]
    del state["vqvae.encoder.model.0.bias"]
    state["vqvae.quantizer.codebook"] = torch.zeros(3, 8)
    state["vqvae.quantizer.layers.0.codebook"] = torch.zeros(20, 8)
    torch.save({"net": state}, path)
    with pytest.raises(InputError) as error:
        read_t2mgpt(small, Clip(6), SMALL)
    message = str(error.value)
    start = f"{path}: parameters: found vqvae.encoder.model.0.bias is missing; "
    assert message.startswith(start)
    assert "vqvae.quantizer.codebook is float32 (3, 8), not float32 (20, 8)" in message
    assert "vqvae.quantizer.layers.0.codebook is unknown" in message


def test_checkpoints_are_not_overwritten(small):
    prior = read_t2mgpt(small, Clip(6), SMALL)
    with pytest.raises(InputError, match="a folder without checkpoints"):
        write_t2mgpt(small, prior)


@pytest.fixture
def saved(encoder, tmp_path):
    normaliser = Normaliser(np.full(263, 2, np.float32), np.full(263, 3, np.float32))
    prior = new_t2mgpt(SMALL, normaliser, encoder, 1)
    prior.rvq.train()(torch.randn(2, 16, 263))
    prior.history.append({"config": {"steps": 3}})
    return prior, save_t2mgpt(tmp_path / "t2mgpt.safetensors", prior)


def test_a_saved_prior_is_the_same_prior(saved, encoder):
    prior, path = saved
    again = load_t2mgpt(path, encoder)
    before, after = states(prior), states(again)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert again.config == prior.config and again.history == prior.history
    assert np.array_equal(again.normaliser.std, prior.normaliser.std)
    assert not again.rvq.training
    motions = [generate(p, ["runs"], [20], [1], progress=False)[0] for p in (prior, again)]
    assert np.array_equal(*motions)


def rewrite(path, change):
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["t2imu"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(tensors, about)
    save_file(tensors, path, {"t2imu": json.dumps(about)})


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t, a: t.pop("rvq.encoder.model.0.bias"), "encoder.model.0.bias is missing"),
        (lambda t, a: t["gpt.trans_head.ln_f.bias"].fill_(np.nan), "ln_f.bias.*not finite"),
        (lambda t, a: a.update(format="t2imu-momask-1"), "found 't2imu-momask-1'; expected 't2imu"),
        (lambda t, a: a.pop("history"), "metadata: found no history"),
        (lambda t, a: a["config"]["rvq"].pop("codes"), "rvq: found missing or unknown: codes"),
        (lambda t, a: a["config"].update(x=1), "config: found missing or unknown: x"),
    ],
)
def test_files_that_do_not_fit_are_refused(saved, encoder, change, message):
    rewrite(saved[1], change)
    with pytest.raises(InputError, match=message):
        load_t2mgpt(saved[1], encoder)
