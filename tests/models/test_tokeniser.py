from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from t2imu_utils.models.losses import LossWeights
from t2imu_utils.models.momask import GENERATOR, MoMaskConfig, TokenTransformerConfig
from t2imu_utils.models.tokeniser import (
    RVQ,
    Codebook,
    RVQConfig,
    detokenise,
    draw_windows,
    initialised,
    reconstruction_losses,
    tokenise,
)
from t2imu_utils.models.tokens import TokenData
from t2imu_utils.models.trainer import normalised
from t2imu_utils.motion.corpus import Normaliser

CONFIG = RVQConfig(channels=5, width=8, code_width=4, codes=6, levels=3, dropout=0.0)


@pytest.fixture
def model():
    model = initialised(partial(RVQ, CONFIG), 1)
    torch.manual_seed(0)
    for book in model.quantizer.layers:
        book.codebook.normal_()
    return model.eval()


def book(codes, temperature=0.0, ema_decay=0.5):
    config = RVQConfig(code_width=1, codes=len(codes), temperature=temperature, ema_decay=ema_decay)
    made = Codebook(config)
    made.load_state_dict({"codebook": torch.tensor(codes)[:, None]})
    return made


def test_each_level_takes_the_code_nearest_to_what_is_left(model):
    x = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(1))
    codes = model.encode(x)
    left = model.encoder(x.transpose(1, 2)).transpose(1, 2)
    for level, layer in enumerate(model.quantizer.layers):
        distances = (left[:, :, None] - layer.codebook).norm(dim=-1)
        assert torch.equal(codes[..., level], distances.argmin(-1))
        left = left - layer.codebook[codes[..., level]]
    x_hat, again, commit = model(x)
    assert torch.equal(again, codes)
    torch.testing.assert_close(model.decode(codes), x_hat)
    assert commit > 0


def test_the_encoder_gets_the_gradient_of_the_decoder_once(model):
    """Whatever the number of levels: a step in each would multiply it by their number."""
    x = torch.randn(1, 8, 5, generator=torch.Generator().manual_seed(3))
    z = model.encoder(x.transpose(1, 2)).transpose(1, 2).detach().requires_grad_()
    for active in (1, 3):
        quantised, _, _ = model.quantizer(z, active)
        direct = quantised.detach().requires_grad_()
        weights = torch.arange(40.0).view(1, 8, 5)
        (at_z,) = torch.autograd.grad((model._motion(quantised) * weights).sum(), z)
        (at_decoder,) = torch.autograd.grad((model._motion(direct) * weights).sum(), direct)
        torch.testing.assert_close(at_z, at_decoder)
        assert not torch.equal(quantised, z)


def test_codes_are_the_means_of_their_vectors():
    made = book([0.0, 10.0])
    x = torch.tensor([[1.0], [3.0], [9.0], [11.0], [13.0]])
    for _ in range(40):
        made.follow(x, made.choose(x))
    torch.testing.assert_close(made.codebook, torch.tensor([[2.0], [11.0]]))
    torch.testing.assert_close(made.code_count, torch.tensor([2.0, 3.0]))


def test_a_code_that_is_hardly_met_is_replaced_by_a_vector_of_the_batch():
    torch.manual_seed(0)
    made = book([0.0, 500.0])
    x = torch.tensor([[1.0], [2.0], [3.0]])
    made.follow(x, made.choose(x))
    assert made.code_count[1] < 1
    assert made.codebook[1] in x
    # Between two vectors of a small batch, where there are more codes than vectors.
    many = book([0.0, 500.0, 600.0, 700.0])
    many.follow(x[:1], many.choose(x[:1]))
    torch.testing.assert_close(many.codebook[1:], torch.ones(3, 1), atol=0.1, rtol=0)
    assert len(many.codebook.unique()) == 4


def test_official_codes_get_running_sums_and_are_trained_on_from(model):
    state = {
        key: x for key, x in model.state_dict().items() if not key.endswith(("_sum", "_count"))
    }
    again = RVQ(CONFIG)
    again.load_state_dict(state)
    x = torch.randn(4, 16, 5)
    before = again.quantizer.layers[0].codebook.clone()
    again.train()
    again.quantizer.layers[0].start(torch.randn(20, 4))
    assert torch.equal(again.quantizer.layers[0].codebook, before)
    assert again(x)[0].isfinite().all()


def test_nothing_beside_a_motion_reaches_it(model):
    generator = torch.Generator().manual_seed(4)
    motions = [torch.randn(frames, 5, generator=generator) for frames in (8, 14, 9, 40)]
    codes = tokenise(model, motions)
    assert [x.shape for x in codes] == [(2, 3), (3, 3), (2, 3), (10, 3)]
    decoded = detokenise(model, codes)
    for motion, rows, back in zip(motions, codes, decoded, strict=True):
        alone = motion[None, : len(motion) // 4 * 4]
        assert torch.equal(model.encode(alone)[0], rows)
        torch.testing.assert_close(back, model.decode(rows[None])[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(back, model(alone)[0][0], atol=1e-5, rtol=0)


PLAIN = Normaliser(np.zeros(263, np.float32), np.ones(263, np.float32))
SIZES = RVQConfig(width=16, code_width=8, codes=12, levels=3, dropout=0.1)


def test_the_loss_is_the_published_one():
    torch.manual_seed(0)
    x, x_hat, commit = torch.randn(2, 8, 263), torch.randn(2, 8, 263), torch.tensor(3.0)
    terms = reconstruction_losses(x, x_hat, commit, LossWeights(), PLAIN)
    expected = F.smooth_l1_loss(x, x_hat) + 0.02 * 3.0
    expected = expected + 0.5 * F.smooth_l1_loss(x[..., 4:67], x_hat[..., 4:67])
    torch.testing.assert_close(terms["total"], expected)
    assert set(terms) == {"reconstruction", "positions", "commit", "total"}


def test_windows_follow_from_seed_and_step_and_leave_nothing_out():
    motions = [torch.full((n, 263), float(n)) + torch.arange(n)[:, None] / 1000 for n in
               (5, 9, 64, 70, 100, 133)]  # fmt: skip
    seen, starts = set(), set()
    for step in range(60):
        windows = draw_windows(motions, 2, 3, step)
        assert torch.equal(windows, draw_windows(motions, 2, 3, step))
        assert windows.shape[1] % 4 == 0 and 4 <= windows.shape[1] <= 64
        seen |= set(windows[:, 0, 0].floor().int().tolist())
        for row in windows:
            torch.testing.assert_close(row[1:, 0] - row[:-1, 0], torch.full((len(row) - 1,), 1e-3))
            if row[0, 0].floor() == 133:
                starts.add(round(1000 * float(row[0, 0] - 133)))
    assert seen == {5, 9, 64, 70, 100, 133}
    assert len(starts) > 5 and max(starts) <= 133 - 64


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
    return GENERATOR.new(WHOLE, normaliser, encoder, 3)


@pytest.fixture
def data(untrained, clips):
    untrained.rvq.train()(torch.randn(3, 16, 263))
    motions = normalised(untrained.normaliser, clips, 4)
    return TokenData(untrained.rvq.eval(), untrained.text_encoder, 4, motions, clips), motions


def test_crops_begin_at_any_frame_and_hold_the_clips_tokens(untrained, clips, data):
    data, motions = data
    tokens, valid, text = data.batch([0, 1], [0, 5], [1, 2], [0, 1])
    first = tokenise(untrained.rvq, [motions[0], motions[1][1:]])
    assert torch.equal(tokens[0, :1], first[0][:1])
    assert torch.equal(tokens[1], first[1][1:3])
    assert valid.tolist() == [[True, False], [True, True]]
    expected = untrained.text_encoder.encode_pooled([clips[0].captions[0], clips[1].captions[1]])
    assert torch.equal(text, expected)
    counts, again = [], []
    for step in range(40):
        tokens, valid, _ = data.step(4, 0, step)
        assert tokens.shape[1] <= 4
        counts += valid.sum(1).tolist()
        again.append(torch.equal(tokens, data.step(4, 0, step)[0]))
    assert all(again) and min(counts) >= 1 and max(counts) == 4
