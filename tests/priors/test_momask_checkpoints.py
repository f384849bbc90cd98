import ast
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.priors.lengths import LengthEstimator
from t2imu_utils.priors.masked_transformer import (
    MaskTransformer,
    ResidualTransformer,
    TokenTransformerConfig,
)
from t2imu_utils.priors.momask import MoMaskConfig, generate, new_momask
from t2imu_utils.priors.momask_checkpoints import (
    FILES,
    RVQ_FOLDER,
    load_momask,
    read_momask,
    save_momask,
    write_momask,
)
from t2imu_utils.priors.rvq import RVQ, RVQConfig

SMALL = MoMaskConfig(
    rvq=RVQConfig(width=16, code_width=8, codes=20, levels=3),
    transformer=TokenTransformerConfig(
        token_width=16, width=16, layers=2, heads=2, feedforward=32, max_tokens=12
    ),
    iterations=3,
)
TITLES = {
    "RVQVAE": "rvq",
    "MaskTransformer": "mask",
    "ResidualTransformer": "residual",
    "LengthEstimator": "lengths",
}


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
    """Names and shapes of the parameters of the four official files, and their table."""
    sizes = replace(config.transformer, text_width=text_width, codes=config.rvq.codes)
    sizes = replace(sizes, levels=config.rvq.levels)
    with torch.device("meta"):
        networks = {
            "rvq": RVQ(config.rvq),
            "mask": MaskTransformer(sizes),
            "residual": ResidualTransformer(sizes),
            "lengths": LengthEstimator(text_width, sizes.max_tokens + 1),
        }
    shapes = {
        name: {
            key: tuple(x.shape)
            for key, x in network.state_dict().items()
            if not key.endswith(("code_sum", "code_count"))
        }
        for name, network in networks.items()
    }
    for name in ("mask", "residual"):
        shapes[name]["position_enc.pe"] = (5000, 1, sizes.width)
    return shapes


def write_official(folder, layouts, config, text_width):
    """Weights by rule in the official layout; the table of sinusoids is nonsense."""
    for name, shapes in official_shapes(config, text_width).items():
        state = {}
        for key, shape in shapes.items():
            scale = shape[-1] ** 0.5 if key.endswith("codebook") else 1.0
            state[key] = layouts.rule(key, shape) * np.float32(scale)
            if key.endswith(".pe"):
                state[key] = torch.full(shape, 7.0)
        file, keys = FILES[name]
        (folder / file).parent.mkdir(parents=True)
        torch.save({keys[0]: state, "epoch" if name == "lengths" else "ep": 12}, folder / file)
    meta = folder / RVQ_FOLDER / "meta"
    meta.mkdir()
    rng = np.random.default_rng(0)
    np.save(meta / "mean.npy", rng.standard_normal(263).astype(np.float32))
    np.save(meta / "std.npy", rng.random(263).astype(np.float32) + 0.1)
    return folder


@pytest.fixture(scope="module")
def full(layouts, tmp_path_factory):
    """A checkpoint of full size, and the prior that was read from it."""
    folder = write_official(tmp_path_factory.mktemp("t2m"), layouts, MoMaskConfig(), 512)
    return folder, read_momask(folder, Clip(512))


@pytest.fixture
def small(layouts, tmp_path):
    return write_official(tmp_path / "t2m", layouts, SMALL, 6)


def states(prior):
    return {
        f"{name}.{key}": x
        for name in FILES
        if getattr(prior, name) is not None
        for key, x in getattr(prior, name).state_dict().items()
    }


def same(a, b):
    a, b = states(a), states(b)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_full_size_official_checkpoint_is_read_sampled_and_written_again(full, tmp_path):
    folder, prior = full
    sizes = [sum(p.numel() for p in getattr(prior, name).parameters()) for name in FILES]
    assert sizes == [19_436_807, 12_048_768, 13_364_224, 435_122]
    assert prior.parameters == sum(sizes[:3])
    assert prior.history[0]["files"]["rvq"]["epoch"] == 12
    (motion,) = generate(prior, ["a person walks"], [18], [1], progress=False)
    assert motion.shape == (18, 263) and np.isfinite(motion).all()

    written = write_momask(tmp_path / "again", prior)
    for name, (file, keys) in FILES.items():
        first, second = (
            torch.load(path / file, weights_only=True)[keys[0]] for path in (folder, written)
        )
        assert {k: x.shape for k, x in first.items()} == {k: x.shape for k, x in second.items()}
        assert all(torch.equal(first[k], second[k]) for k in first if not k.endswith(".pe")), name
        (written / file).unlink()  # 84 MB
    for name in ("mean", "std"):
        paths = [path / RVQ_FOLDER / "meta" / f"{name}.npy" for path in (folder, written)]
        assert np.array_equal(*(np.load(path) for path in paths))


def test_names_and_shapes_are_the_official_ones(reference):
    official = {}
    for line in (reference / "momask_state_dict.txt").read_text().splitlines():
        if line.startswith("#"):
            part = official.setdefault(line.split()[1], {})
        elif line:
            key, shape, _ = line.split("\t")
            part[key] = ast.literal_eval(shape)
    ours = official_shapes(MoMaskConfig(), 512)
    for title, name in TITLES.items():
        assert ours[name] == official[title]


@pytest.fixture(scope="module")
def golden(reference):
    with np.load(reference / "momask_golden.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file}


@torch.no_grad()
def test_codes_and_motions_are_the_official_ones(full, golden):
    rvq = full[1].rvq
    assert torch.equal(rvq.encode(golden["features"]), golden["codes"])
    torch.testing.assert_close(
        rvq.decode(golden["decode_ids"]), golden["decoded"], atol=1e-4, rtol=0
    )


@torch.no_grad()
def test_logits_of_both_transformers_are_the_official_ones(full, golden):
    prior = full[1]
    valid = torch.arange(14)[None] < golden["token_lengths"][:, None]
    for name, drop in (("cond", None), ("uncond", torch.ones(2, dtype=torch.bool))):
        logits = prior.mask(golden["token_ids"], golden["text"], valid, drop).transpose(1, 2)
        torch.testing.assert_close(logits, golden[f"mask_logits_{name}"], atol=1e-4, rtol=0)
    for level in (1, 3, 5):
        which = torch.full((2,), level)
        logits = prior.residual(golden["res_token_ids"], which, golden["text"], valid)
        expected = golden[f"res_logits_q{level}"]
        torch.testing.assert_close(logits.transpose(1, 2), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_logits_of_lengths_are_the_official_ones(full, golden):
    logits = full[1].lengths(golden["text"])
    torch.testing.assert_close(logits, golden["length_logits"], atol=1e-4, rtol=0)


def test_a_length_estimator_may_be_absent(small):
    (small / FILES["lengths"][0]).unlink()
    prior = read_momask(small, Clip(6), SMALL)
    assert prior.lengths is None
    assert not (write_momask(small.parent / "b", prior) / FILES["lengths"][0]).exists()


def test_other_names_of_the_weights_and_the_text_encoder_among_them(small):
    path = small / FILES["mask"][0]
    state = torch.load(path, weights_only=True)["t2m_transformer"]
    before = states(read_momask(small, Clip(6), SMALL))
    torch.save({"trans": state | {"clip_model.logit_scale": torch.tensor(1.0)}}, path)
    after = states(read_momask(small, Clip(6), SMALL))
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_everything_that_does_not_fit_is_listed(small):
    path = small / FILES["rvq"][0]
    content = torch.load(path, weights_only=True)
    state = content["vq_model"]
    del state["encoder.model.0.bias"]
    state["quantizer.layers.2.codebook"] = torch.zeros(3, 8)
    state["quantizer.layers.3.codebook"] = torch.zeros(20, 8)
    torch.save(content, path)
    with pytest.raises(InputError) as error:
        read_momask(small, Clip(6), SMALL)
    message = str(error.value)
    assert message.startswith(f"{path}: parameters: found encoder.model.0.bias is missing; ")
    assert "layers.2.codebook is float32 (3, 8), not float32 (20, 8)" in message
    assert "layers.3.codebook is unknown" in message


def test_checkpoints_are_not_overwritten(small):
    prior = read_momask(small, Clip(6), SMALL)
    with pytest.raises(InputError, match="a folder without checkpoints"):
        write_momask(small, prior)


@pytest.fixture
def saved(encoder, tmp_path):
    normaliser = Normaliser(np.full(263, 2, np.float32), np.full(263, 3, np.float32))
    prior = new_momask(SMALL, normaliser, encoder, 1)
    prior.rvq.train()(torch.randn(2, 16, 263))
    prior.history.append({"config": {"steps": 3}})
    return prior, save_momask(tmp_path / "momask.safetensors", prior)


@pytest.mark.parametrize("estimator", [False, True])
def test_a_saved_prior_is_the_same_prior(saved, encoder, estimator):
    prior, path = saved
    if estimator:
        prior.lengths = LengthEstimator(16, 13)
        save_momask(path, prior)
    again = load_momask(path, encoder)
    assert same(prior, again) and (again.lengths is None) is not estimator
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
        (lambda t, a: t["mask.cond_emb.bias"].fill_(np.nan), "mask.cond_emb.bias.*not finite"),
        (lambda t, a: a.update(format="t2imu-prior-1"), "found 't2imu-prior-1'; expected 't2imu-m"),
        (lambda t, a: a.pop("lengths"), "metadata: found no lengths"),
        (lambda t, a: a["config"]["rvq"].pop("codes"), "rvq: found missing or unknown: codes"),
        (lambda t, a: a["config"].update(x=1), "config: found missing or unknown: x"),
    ],
)
def test_files_that_do_not_fit_are_refused(saved, encoder, change, message):
    rewrite(saved[1], change)
    with pytest.raises(InputError, match=message):
        load_momask(saved[1], encoder)
