import ast
from dataclasses import replace

import numpy as np
import pytest
import torch

from t2imu_utils.models.remodiffuse import (
    GENERATOR,
    Condition,
    Mixture,
    ReMoDiffuse,
    ReMoDiffuseConfig,
    generate,
    linear_attention,
    mixed,
    neighbours,
    new_remodiffuse_prior,
    sample,
    timestep_map,
)
from t2imu_utils.models.retrieval import build_database
from t2imu_utils.models.trainer import Dataset, TrainConfig, batch_losses, draw_batch

SMALL = ReMoDiffuseConfig(
    layers=2, width=16, heads=2, feedforward=24, time_width=20, text_width=16, text_latent=12,
    text_heads=2, text_layers=1, text_feedforward=20, retrieval_layers=1, max_frames=24,
)  # fmt: skip


@pytest.fixture(scope="session")
def official_shapes(reference):
    """Names and shapes of an official checkpoint, without CLIP."""
    lines = (reference / "remodiffuse_state_dict.txt").read_text().splitlines()
    rows = [line.split("\t")[:2] for line in lines if not line.startswith("#")]
    return {k: ast.literal_eval(s) for k, s in rows if not k.startswith("model.clip.")}


@pytest.fixture(scope="session")
def official_state(official_shapes, layouts):
    """Its parameters by rule, 47 million."""
    return {key: layouts.rule(key, shape) for key, shape in official_shapes.items()}


@pytest.fixture(scope="session")
def official_model(official_state):
    with torch.device("meta"):
        model = ReMoDiffuse(ReMoDiffuseConfig())
    state = {key.removeprefix("model."): x for key, x in official_state.items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


@pytest.fixture(scope="session")
def arrays(reference):
    with np.load(reference / "remodiffuse_golden.npz", allow_pickle=False) as file:
        return {name: torch.from_numpy(x) for name, x in file.items()}


@pytest.fixture
def prior(normaliser, encoder, database):
    return new_remodiffuse_prior(SMALL, normaliser, encoder, database, seed=3)


@pytest.fixture
def shaken(prior):
    """The small prior with no weight at zero, so that everything reaches the output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in prior.model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    prior.model.eval()
    return prior


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


def inputs(frames=10, tokens=6, shown=12):
    def noise(*shape):
        return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))

    motion = noise(1, frames, 263), torch.tensor([300]), torch.ones(1, frames).bool()
    text = noise(1, tokens, 16), torch.ones(1, tokens).bool()
    shown_motion = noise(1, 2, shown, 263), torch.ones(1, 2, shown).bool()
    said = noise(1, 2, tokens, 16), torch.ones(1, 2, tokens).bool()
    return motion, text, (*shown_motion, *said)


def run_model(model, motion, text, shown, on=(True, True)):
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
    plain = run_model(shaken.model, motion, text, shown)
    x, mask = padded(motion[0], motion[2], 1)
    found = run_model(
        shaken.model,
        (x, motion[1], mask),
        padded(*text, 1),
        (*padded(*shown[:2], 2, by=7), *padded(*shown[2:], 2)),
    )
    torch.testing.assert_close(found[:, :10], plain, atol=1e-4, rtol=1e-4)


def test_the_fifty_timesteps_are_the_official_ones(arrays):
    assert np.array_equal(timestep_map(), arrays["timestep_map"].numpy())


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


def test_sampling_takes_116_branch_passes_and_ends_at_the_last_prediction():
    model, predict = labelled(Mixture(fine=(1.0, 0.0, 0.0)))
    found = sample(predict, torch.randn(2, 4, 1), torch.rand(2, 50) < 0.5, timestep_map())
    assert sum(model.asked) == 2 * 116
    torch.testing.assert_close(found, torch.ones(2, 4, 1))


CONFIG = TrainConfig(
    steps=8, batch_size=4, learning_rate=1e-3, max_frames=16, checkpoint_every=3, ema_decay=0.9
)


def test_a_clip_never_sees_its_own_recording(prior, clips):
    """Half of the clips are twins of the others, which would be the best motions to retrieve."""
    pairs = [replace(c, name=f"M{clips[i % 6].name}", source="") for i, c in enumerate(clips)]
    pairs = [*clips[:6], *pairs[6:]]
    database = build_database(pairs, prior.normaliser, prior.text_encoder, max_frames=24)
    prior = replace(prior, database=database)
    near = neighbours(prior, pairs, max_frames=24)
    assert [rows.shape for rows in near] == [(2, 2)] * 12
    for i, rows in enumerate(near):
        assert not {i % 6, i % 6 + 6} & set(rows.ravel().tolist())
    data = Dataset(prior, pairs, GENERATOR.retrieval(prior, pairs, 24))
    batch = draw_batch(data, replace(CONFIG, max_frames=24), 1000, 0)
    for clip, length, shown in zip(batch.x0, batch.mask.sum(1), batch.retrieved[0], strict=True):
        for motion in shown:
            assert not torch.equal(motion[:length], clip[: len(motion)][:length])


def test_dropped_conditions_do_not_reach_the_loss(shaken, clips):
    data = Dataset(shaken, clips, GENERATOR.retrieval(shaken, clips, 16))
    batch = draw_batch(data, replace(CONFIG, condition_dropout=1.0), 1000, 0)
    shown = batch.retrieved[0].flip(2), *batch.retrieved[1:]
    other = replace(batch, text=batch.text + 1.0 * torch.arange(16), retrieved=shown)

    def losses(batch):
        how = GENERATOR.how(shaken)
        return batch_losses(shaken.model, batch, how, CONFIG.weights)["total"]

    assert torch.equal(losses(batch), losses(other))
    free = torch.zeros(4, dtype=torch.bool)
    kept, kept_other = (
        losses(replace(b, drop_retrieval=free, drop_text=free)) for b in (batch, other)
    )
    assert not torch.equal(kept, kept_other)


def write_statistics(folder, bias=25):
    """Shaped like the published ones: root and contact channels divided by `bias`."""
    std = np.full(263, 0.2, np.float32)
    std[:1], std[1:3], std[3], std[4:67], std[67:193] = 0.0129, 0.0169, 0.153, 0.123, 0.3
    std[193:259], std[259:] = 0.0195, 0.352
    std[[0, 1, 2, 3, *range(259, 263)]] /= bias
    np.save(folder / "mean.npy", np.linspace(-1, 1, 263, dtype=np.float32))
    np.save(folder / "std.npy", std)


def test_an_official_checkpoint_is_read_and_sampled(
    official_state, official_database, clip_encoder, tmp_path
):
    """Full size, with the container, the prefix of several GPUs and the CLIP that it has."""
    published = {f"module.{key}": x for key, x in official_state.items()}
    published["module.model.clip.logit_scale"] = torch.tensor(4.6)
    path = tmp_path / "latest.pth"
    torch.save({"meta": {"epoch": 40}, "state_dict": published, "optimizer": {}}, path)
    write_statistics(tmp_path)
    prior = GENERATOR.published(tmp_path, None, clip_encoder)
    path.unlink()  # 200 MB
    assert prior.mixture == Mixture() and not prior.model.training
    assert prior.history[0]["licence"].endswith("non-commercial use only")
    motions = generate(prior, ["a person walks", "a man runs"], [4, 6], [1, 2], progress=False)
    assert [motion.shape for motion in motions] == [(4, 263), (6, 263)]
    assert all(np.isfinite(motion).all() for motion in motions)
