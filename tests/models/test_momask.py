from dataclasses import replace

import numpy as np
import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.models import momask
from t2imu_utils.models.momask import (
    MoMaskConfig,
    TokenTransformerConfig,
    fill_masked,
    generate,
    masked_counts,
    new_momask,
    sample_codes,
)
from t2imu_utils.models.tokeniser import RVQConfig
from t2imu_utils.motion.corpus import Normaliser

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


def test_motions_have_the_length_that_was_asked_for(made):
    frames = [3, 4, 5, 31, 40, 48]
    motions = run(made, ["walks"] * 6, frames, range(6))
    assert [x.shape for x in motions] == [(n, 263) for n in frames]
    assert all(x.dtype == np.float32 and np.isfinite(x).all() for x in motions)


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


def test_a_token_that_stays_is_never_drawn_again(made, encoder):
    seen = []
    real = made.mask.forward

    def spy(tokens, *rest):
        seen.append(tokens[0].clone())
        return real(tokens, *rest)

    made.mask.forward = spy
    text = encoder.encode_pooled(["walks"])
    out = fill_masked(made.mask, text, [12], generators(0), 1.0, 6, 0.5)[0]
    for shown, later in zip(seen, [*seen[1:], out], strict=True):
        kept = shown != made.mask.mask_id
        assert torch.equal(shown[kept], later[kept])


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


def test_text_and_guidance_matter(made, encoder):
    text = encoder.encode_pooled(["walks", "jumps"])
    same = [sample_codes(made, row[None], [12], generators(5), 4.0) for row in text]
    assert not torch.equal(*same)
    weak, strong = (sample_codes(made, text[:1], [12], generators(5), g) for g in (1.0, 9.0))
    assert not torch.equal(weak, strong)
    own = sample_codes(made, text[:1], [12], generators(5))
    config = replace(CONFIG, guidance=9.0, residual_guidance=9.0)
    assert not torch.equal(own, strong)
    made.config = momask.fitted(config, 16)
    assert torch.equal(sample_codes(made, text[:1], [12], generators(5)), strong)


def test_new_priors_follow_their_seed_and_fit_their_encoder(encoder):
    a, b = make(encoder), make(encoder)
    other = new_momask(CONFIG, a.normaliser, encoder, 1)
    assert torch.equal(a.mask.token_emb.weight, b.mask.token_emb.weight)
    assert not torch.equal(a.rvq.encoder.model[0].weight, other.rvq.encoder.model[0].weight)
    sizes = a.config.transformer
    assert (sizes.text_width, sizes.codes, sizes.levels) == (16, 20, 3)
    assert a.config.max_frames == 48 and a.config.channels == 263
    networks = (a.rvq, a.mask, a.residual)
    assert a.parameters == sum(p.numel() for n in networks for p in n.parameters())


def test_impossible_settings_are_refused():
    with pytest.raises(InputError, match="MoMaskConfig: iterations, top: found 0, 0.5"):
        replace(CONFIG, iterations=0)
