import ast
from dataclasses import replace

import numpy as np
import pytest
import torch

from t2imu_utils.models import momask
from t2imu_utils.models.momask import (
    FILES,
    GENERATOR,
    RVQ_FOLDER,
    LengthEstimator,
    MaskTransformer,
    MoMaskConfig,
    ResidualTransformer,
    TokenTransformerConfig,
    draw_levels,
    estimate_frames,
    fill_masked,
    generate,
    load_momask,
    mask_losses,
    masked_counts,
    new_momask,
    read_momask,
    residual_losses,
    sample_codes,
    save_momask,
    write_momask,
)
from t2imu_utils.models.tokeniser import (
    RVQ,
    RVQConfig,
)
from t2imu_utils.motion.corpus import Normaliser

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
    model = momask._new(new, SIZES, 0)
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


@pytest.mark.parametrize("kind", ["mask", "residual"])
def test_dropped_texts_are_zeros(kind):
    model = transformer(kind)
    drop = torch.tensor([False, True, False])
    out = logits_of(model, CODES, drop=drop)
    zeroed = logits_of(model, CODES, text=TEXT * ~drop[:, None])
    assert torch.equal(out, zeroed)
    assert not torch.allclose(out[1], logits_of(model, CODES)[1], atol=1e-3)


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


def test_levels_share_their_tables_except_at_the_ends():
    model = transformer("residual")
    before = logits_of(model, CODES)

    def changed(name, row):
        table = getattr(model, name).data
        kept = table[row].clone()
        table[row] += 1
        out = logits_of(model, CODES)
        table[row] = kept
        return [not torch.allclose(a, b, atol=1e-3) for a, b in zip(out, before, strict=True)]

    # Items ask for levels 1, 2, 3. Read by all, predicted by none:
    assert changed("token_embed_weight_", 0) == [True, True, True]
    # Predicted at level 1, read from level 2 on; predicted at level 2, read at level 3:
    assert changed("embed_proj_shared_weight", 0) == [True, True, True]
    assert changed("embed_proj_shared_weight", 1) == [False, True, True]
    assert changed("output_proj_weight_", 0) == [False, False, True]


CONFIG = MoMaskConfig(
    rvq=RVQConfig(width=16, code_width=8, codes=20, levels=3),
    transformer=TokenTransformerConfig(
        token_width=16, width=16, layers=2, heads=2, feedforward=32, max_tokens=12
    ),
    iterations=5,
    top=0.5,
)


def make(encoder):
    rng = np.random.default_rng(0)
    normaliser = Normaliser(
        rng.standard_normal(263).astype(np.float32), rng.random(263).astype(np.float32)
    )
    made = new_momask(CONFIG, normaliser, encoder, 0)
    torch.manual_seed(1)
    for book in made.rvq.quantizer.layers:
        book.codebook.normal_()
    # Larger weights, so that texts and tokens matter.
    for network in (made.mask, made.residual):
        for p in network.parameters():
            p.data.mul_(4)
    return made


@pytest.fixture
def made(encoder):
    return make(encoder)


def run(made, prompts, frames, seeds, **more):
    return generate(made, prompts, frames, seeds, progress=False, **more)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_as_many_tokens_are_masked_as_published():
    assert masked_counts(49, 10) == [49, 48, 46, 42, 38, 31, 25, 17, 9, 1]
    assert masked_counts(49, 18) == [
        49, 49, 48, 47, 46, 44, 42, 39, 36, 33, 30, 26, 22, 18, 13, 9, 5, 1,
    ]  # fmt: skip
    assert masked_counts(1, 10) == [1] * 10
    assert masked_counts(7, 1) == [7]


def test_a_motion_depends_on_prompt_length_and_seed_alone(made):
    prompts, frames, seeds = (
        ["walks slowly", "runs", "runs", "jumps twice"],
        [48, 9, 9, 17],
        [4, 5, 6, 7],
    )
    before = torch.get_rng_state()
    together = run(made, prompts, frames, seeds)
    assert torch.equal(torch.get_rng_state(), before)
    small = run(made, prompts, frames, seeds, batch_size=1)
    turned = run(made, prompts[::-1], frames[::-1], seeds[::-1], batch_size=3)[::-1]
    for i, motion in enumerate(together):
        for other in (small[i], turned[i], run(made, [prompts[i]], [frames[i]], [seeds[i]])[0]):
            np.testing.assert_allclose(motion, other, atol=1e-5)
    assert not np.allclose(together[1], together[2])
    assert not np.allclose(together[1], run(made, ["walks"], [9], [5])[0])


def test_a_shorter_motion_of_the_same_tokens_is_the_longer_one_cut(made):
    seven, eight = (run(made, ["runs"], [n], [3])[0] for n in (7, 8))
    assert np.array_equal(seven, eight[:7])


def test_features_are_those_of_the_codes_decoded_and_denormalised(made):
    (motion,) = run(made, ["runs"], [20], [3])
    text = made.text_encoder.encode_pooled(["runs"])
    codes = sample_codes(made, text, [5], generators(3))
    with torch.no_grad():
        x = made.rvq.decode(codes)[0].numpy()
    np.testing.assert_allclose(motion, x * made.normaliser.std + made.normaliser.mean, atol=1e-5)


def test_neither_mask_nor_padding_is_ever_a_code(made, encoder):
    with torch.no_grad():
        # All of the residual transformer's logits of the pad class are far above the others.
        for table in (made.residual.embed_proj_shared_weight, made.residual.output_proj_weight_):
            table[:, :-1] *= 0.01
            table[:, -1] = 0
        made.residual.output_process.poseFinal.bias.fill_(1.0)
        for table in (made.residual.embed_proj_shared_weight, made.residual.output_proj_weight_):
            table[:, -1] = 5.0
    text = encoder.encode_pooled(["walks", "runs"])
    codes = sample_codes(made, text, [12, 5], generators(0, 1), guidance=1.0)
    valid = torch.ones(2, 12, dtype=torch.bool)
    logits = made.residual(codes, torch.tensor([1, 2]), text, valid)
    assert (logits.argmax(-1) == 20).all()
    assert codes.min() >= 0 and codes.max() < 20
    assert not codes[1, 5:].any() and len(codes[0].unique()) > 5


class Surest:
    """Logits of token 7, the surer the further right; writes down what it is shown."""

    mask_id = 99

    def __init__(self):
        self.shown = []

    def __call__(self, tokens, text, valid, drop_text=None):
        self.shown.append(tokens.clone())
        logits = torch.zeros(*tokens.shape, 10)
        logits[..., 7] = 1.0 + torch.arange(tokens.shape[1])
        return logits


def test_the_least_sure_tokens_are_masked_again():
    model = Surest()
    out = fill_masked(model, torch.zeros(2, 3), [8, 3], generators(0, 1), 1.0, 4, 0.1)
    assert out.tolist() == [[7] * 8, [7] * 3 + [0] * 5]
    for counts, row in ((masked_counts(8, 4), 0), (masked_counts(3, 4), 1)):
        for shown, count in zip(model.shown, counts, strict=True):
            length = (8, 3)[row]
            expected = torch.arange(length) < count
            assert torch.equal(shown[row, :length] == 99, expected)


def test_guidance_goes_from_the_prediction_without_text_through_that_with_it():
    text, valid = torch.randn(2, 4), torch.ones(2, 3, dtype=torch.bool)

    def model(tokens, text, valid, drop=None):
        with_text = text.sum(1) if drop is None else text.sum(1) * ~drop
        return (with_text + 1)[:, None, None].expand(-1, 3, 5)

    tokens = torch.zeros(2, 3)
    out = momask._guided(model, (tokens,), text, valid, 4.0)
    torch.testing.assert_close(out[:, 0, 0], 1 + 4 * text.sum(1))
    one = momask._guided(model, (tokens,), text, valid, 1.0)
    torch.testing.assert_close(one[:, 0, 0], 1 + text.sum(1))


def test_codes_are_drawn_from_the_best_by_their_probability():
    logits = torch.tensor([2.0, -1.0, 1.0, 0.0]).expand(1, 20000, 4)
    drawn = momask._draw(logits, [20000], generators(0), 0.5)
    shares = torch.bincount(drawn[0], minlength=4) / 20000
    best = torch.tensor([2.0, 1.0]).softmax(0)
    torch.testing.assert_close(shares, torch.tensor([best[0], 0, best[1], 0]), atol=0.01, rtol=0)
    # 52 of 512, as published.
    many = momask._draw(torch.zeros(1, 4000, 512), [4000], generators(0), 0.1)
    assert len(many.unique()) == 52


WHOLE = MoMaskConfig(
    rvq=RVQConfig(width=16, code_width=8, codes=12, levels=3, dropout=0.1),
    transformer=TokenTransformerConfig(
        token_width=16, width=16, layers=1, heads=2, feedforward=32, dropout=0.1, max_tokens=4
    ),
)


@pytest.fixture
def untrained(clips, encoder):
    everything = np.concatenate([clip.features for clip in clips])
    normaliser = Normaliser(everything.mean(0), everything.std(0) + 0.05)
    return new_momask(WHOLE, normaliser, encoder, 3)


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


def test_one_token_at_least_is_masked():
    model = Echo()
    valid = torch.ones(5, 3, dtype=torch.bool)
    drop = torch.zeros(5, dtype=torch.bool)
    loss, right = mask_losses(
        model, torch.full((5, 3), 3), valid, torch.zeros(5, 4), drop, np.ones(5),
        np.random.default_rng(0),
    )  # fmt: skip
    assert len(loss) == 5 and right.all()


def test_low_levels_are_trained_more_often():
    levels = draw_levels(np.linspace(0, 1, 10001), 6)
    shares = np.bincount(levels, minlength=6)[1:] / 10001
    edges = np.arccos(1 - np.array([0.5, 1.5, 2.5, 3.5]) / 4) / (np.pi / 2)
    np.testing.assert_allclose(shares, np.diff([0, *edges, 1]), atol=1e-3)
    assert shares[0] == max(shares)
    assert set(draw_levels(np.linspace(0, 1, 5), 2)) == {1}


def test_the_target_of_a_level_is_its_own_tokens(untrained):
    tokens = torch.randint(12, (2, 4, 3), generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    text, drop = torch.randn(2, 16), torch.zeros(2, dtype=torch.bool)
    levels = np.array([2, 1])
    loss, _ = residual_losses(untrained.residual, tokens, valid, text, drop, levels)
    logits = untrained.residual(tokens, torch.from_numpy(levels), text, valid).log_softmax(-1)
    expected = [-logits[0, i, tokens[0, i, 2]] for i in range(4)]
    expected += [-logits[1, i, tokens[1, i, 1]] for i in range(2)]
    torch.testing.assert_close(loss, torch.stack(expected))


LENGTH_TEXT = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def estimator():
    torch.manual_seed(0)
    return LengthEstimator(6)


def test_lengths_are_drawn_and_never_too_short(estimator):
    with torch.no_grad():
        estimator.output[-1].bias.zero_()
        estimator.output[-1].bias[:10] = 50.0
    frames = estimate_frames(estimator, LENGTH_TEXT[:1].expand(300, -1), range(300))
    assert all(40 <= n <= 196 and n % 4 == 0 for n in frames)
    assert len(set(frames)) > 20


def test_a_length_follows_from_text_and_seed_alone(estimator):
    frames = estimate_frames(estimator, LENGTH_TEXT, [3, 4])
    assert frames == estimate_frames(estimator, LENGTH_TEXT.flip(0), [4, 3])[::-1]
    assert frames[1:] == estimate_frames(estimator, LENGTH_TEXT[1:], [4])


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
    assert GENERATOR.parameters(prior) == sum(sizes[:3])
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
