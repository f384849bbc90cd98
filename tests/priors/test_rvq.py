from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from t2imu_utils.errors import InputError
from t2imu_utils.priors.rvq import (
    RVQ,
    Codebook,
    RVQConfig,
    detokenise,
    equal_lengths,
    new_rvq,
    tokenise,
)

CONFIG = RVQConfig(channels=5, width=8, code_width=4, codes=6, levels=3, dropout=0.0)


@pytest.fixture
def model():
    model = new_rvq(CONFIG, 1)
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


def test_the_commitment_is_the_mean_over_levels_of_what_each_leaves(model):
    x = torch.randn(1, 8, 5, generator=torch.Generator().manual_seed(2))
    _, codes, commit = model(x, 2)
    left = model.encoder(x.transpose(1, 2)).transpose(1, 2)
    errors = []
    for level in range(2):
        left = left - model.quantizer.layers[level].codebook[codes[..., level]]
        errors.append(left.square().mean())
    torch.testing.assert_close(commit, sum(errors) / 2)
    assert (codes[..., 2] == -1).all()


def test_a_level_that_is_off_adds_nothing(model):
    codes = torch.tensor([[[1, -1, -1], [2, -1, -1]]])
    assert torch.equal(model.decode(codes), model.decode(codes[..., :1]))
    assert not torch.equal(model.decode(codes), model.decode(codes.clamp(min=0)))


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


def test_running_sums_weigh_batches_by_the_decay():
    made = book([0.0, 10.0])
    made.follow(torch.tensor([[2.0], [4.0], [9.0]]), torch.tensor([0, 0, 1]))
    # Half of one vector of the old code, half of the sum of the new ones.
    torch.testing.assert_close(made.code_sum, torch.tensor([[3.0], [9.5]]))
    torch.testing.assert_close(made.codebook, torch.tensor([[2.0], [9.5]]))


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


def test_the_first_batch_makes_the_codes(model):
    fresh = new_rvq(CONFIG, 1).train()
    x = torch.randn(4, 16, 5, generator=torch.Generator().manual_seed(3))
    vectors = fresh.encoder(x.transpose(1, 2)).transpose(1, 2).flatten(0, 1)
    first = fresh.quantizer.layers[0]
    assert not first.codebook.any()
    first.start(vectors)
    assert all((vectors == code).all(1).any() for code in first.codebook)
    kept = first.codebook.clone()
    first.start(vectors + 1)
    assert torch.equal(first.codebook, kept)


def test_codes_move_in_training_alone(model):
    x = torch.randn(2, 12, 5)
    before = [layer.codebook.clone() for layer in model.quantizer.layers]
    model(x)
    assert all(
        torch.equal(a, layer.codebook)
        for a, layer in zip(before, model.quantizer.layers, strict=True)
    )
    model.train()(x, 2)
    moved = [
        not torch.equal(a, layer.codebook)
        for a, layer in zip(before, model.quantizer.layers, strict=True)
    ]
    assert moved == [True, True, False]


def test_in_training_codes_are_drawn_by_their_distance():
    made = book([0.0, 1.0], temperature=0.5)
    torch.manual_seed(0)
    x = torch.zeros(20000, 1)
    assert not made.eval().choose(x).any()
    share = made.train().choose(x).float().mean()
    expected = torch.tensor([0.0, -1 / 0.5]).softmax(0)[1]
    torch.testing.assert_close(share, expected, atol=0.01, rtol=0)


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


def test_batches_of_one_length():
    assert list(equal_lengths([3, 1, 3, 1, 3], 2)) == [[1, 3], [0, 2], [4]]


def test_one_level_without_dropout_is_a_plain_vector_quantiser():
    model = new_rvq(replace(CONFIG, levels=1, temperature=0.0), 0).train()
    torch.manual_seed(0)
    x = torch.randn(2, 8, 5)
    x_hat, codes, commit = model(x)
    assert codes.shape == (2, 2, 1)
    (F.mse_loss(x_hat, x) + commit).backward()
    assert all(p.grad is not None for p in model.parameters())
    again, _, _ = model.eval()(x)
    torch.testing.assert_close(model.decode(model.encode(x)), again)


@pytest.mark.parametrize(
    "change", [{"levels": 0}, {"levels": 7}, {"codes": 0}, {"dropout": 1.0}, {"ema_decay": 1.0}]
)
def test_impossible_sizes_are_refused(change):
    with pytest.raises(InputError, match=f"RVQConfig: {next(iter(change))}"):
        replace(CONFIG, **change)
