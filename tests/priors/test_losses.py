import numpy as np
import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.priors.losses import LossWeights, motion_losses, second_difference

N, T = 12, 15
PLAIN = Normaliser(np.zeros(263, np.float32), np.ones(263, np.float32))
MASK = torch.arange(T)[None] < torch.tensor([[N], [T]])
FRAMES = torch.arange(T, dtype=torch.float32)


def motion(seed=0):
    return torch.randn(2, T, 263, generator=torch.Generator().manual_seed(seed))


def error(per_frame):
    """A pair of motions that differ by `per_frame` (T,) in every channel."""
    x0 = motion()
    return x0, x0 + per_frame[:, None]


def all_terms(x0, x0_hat, normaliser=PLAIN, **weights):
    return motion_losses(x0, x0_hat, MASK, LossWeights(**weights), normaliser, all_terms=True)


def test_simple_equals_the_official_loss(golden):
    mask = golden.mask("lengths", 40)
    with torch.no_grad():
        x0_hat = golden.model(
            golden.motion("x_t"), golden.tensor("t"), golden.text, golden.text_valid, mask
        )
    terms = motion_losses(golden.motion("x0"), x0_hat, mask, LossWeights(), PLAIN)
    torch.testing.assert_close(terms["simple"], golden.tensor("loss"), atol=1e-4, rtol=0)


def test_no_error_no_loss_but_that_of_sliding_feet():
    x0 = motion()
    terms = all_terms(x0, x0.clone())
    for name in ("simple", "pos", "vel", "acc"):
        assert not terms[name].any()
    assert (terms["foot"] > 0).all()


def test_a_constant_error_is_seen_by_simple_alone():
    terms = all_terms(*error(torch.full((T,), 0.3)))
    torch.testing.assert_close(terms["simple"], torch.full((2,), 0.09))
    for name in ("vel", "acc"):
        torch.testing.assert_close(terms[name], torch.zeros(2), atol=1e-10, rtol=0)


def test_an_error_of_constant_velocity_is_seen_by_vel_and_not_by_acc():
    terms = all_terms(*error(0.2 * FRAMES))
    torch.testing.assert_close(terms["vel"], torch.full((2,), 0.04), rtol=1e-4, atol=0)
    torch.testing.assert_close(terms["acc"], torch.zeros(2), atol=1e-9, rtol=0)


def test_an_error_of_constant_acceleration_is_divided_by_n_minus_one_as_printed():
    terms = all_terms(*error(0.5 * 0.1 * FRAMES**2))
    n = torch.tensor([N, T])
    torch.testing.assert_close(terms["acc"], 0.1**2 * (n - 2) / (n - 1), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["simple", "vel", "acc", "pos"])
def test_terms_are_quadratic_in_the_error(name):
    x0, wobble = motion(), motion(1)
    # Positions only: recovered joints are linear in these channels.
    wobble[..., :3] = 0
    small, large = all_terms(x0, x0 + 0.1 * wobble), all_terms(x0, x0 + 0.3 * wobble)
    torch.testing.assert_close(large[name], 9 * small[name], rtol=1e-3, atol=0)


def test_second_difference():
    x = (3 * FRAMES**2 + FRAMES)[None, :, None]
    torch.testing.assert_close(second_difference(x), torch.full((1, T - 2, 1), 6.0))


def still_body() -> torch.Tensor:
    x = torch.zeros(2, T, 263)
    x[..., 3] = 0.9
    x[..., 4:67] = torch.linspace(-0.5, 0.5, 63)
    return x


def test_pos_is_metres_squared_after_denormalising():
    scale = Normaliser(np.full(263, 0.7, np.float32), np.full(263, 2.0, np.float32))
    raised = still_body()
    raised[..., 3] += 0.1
    raised[..., 5:67:3] += 0.1
    x0, x0_hat = ((x - 0.7) / 2.0 for x in (still_body(), raised))
    terms = all_terms(x0, x0_hat, scale)
    torch.testing.assert_close(terms["pos"], torch.full((2,), 0.01), rtol=1e-3, atol=0)


def test_foot_counts_predicted_steps_in_frames_of_true_contact():
    x0, sliding = still_body(), still_body()
    sliding[..., 2] = 0.05
    x0[:, ::2, 259:] = 1.0
    terms = all_terms(x0, sliding)
    steps = torch.tensor([[N - 1], [T - 1]])
    frames = torch.arange(T)[None]
    share = ((frames < steps) & (frames % 2 == 0)).sum(1) / steps[:, 0]
    torch.testing.assert_close(terms["foot"], 0.05**2 * share, rtol=1e-4, atol=0)
    x0[:, ::2, 260:] = 0.0
    quarter = all_terms(x0, sliding)["foot"]
    torch.testing.assert_close(quarter, 0.05**2 * share / 4, rtol=1e-4, atol=0)
    # What the model predicts for the contact channels plays no part.
    sliding[..., 259:] = 1.0
    assert torch.equal(all_terms(x0, sliding)["foot"], quarter)


def test_acc_on_joints_is_in_metres_per_second_squared():
    x0, speeding = still_body(), still_body()
    speeding[..., 2] = 0.004 * FRAMES
    terms = all_terms(x0, speeding, acc_space="joints")
    n = torch.tensor([N, T])
    expected = (0.004 * 20**2) ** 2 * (n - 2) / (n - 1)
    torch.testing.assert_close(terms["acc"], expected, rtol=1e-3, atol=0)


def test_contacts_can_be_left_out_of_acc():
    x0 = motion()
    x0_hat = x0.clone()
    x0_hat[..., 259:] += motion(2)[..., 259:]
    assert (all_terms(x0, x0_hat)["acc"] > 0).all()
    assert not all_terms(x0, x0_hat, acc_contacts=False)["acc"].any()
    # What is left is a mean over the channels that are left.
    terms = all_terms(*error(0.05 * FRAMES**2), acc_contacts=False)
    n = torch.tensor([N, T])
    torch.testing.assert_close(terms["acc"], 0.01 * (n - 2) / (n - 1), rtol=1e-4, atol=0)


@pytest.mark.parametrize("space", ["features", "joints"])
def test_padding_changes_neither_losses_nor_gradients(space):
    weights = LossWeights(1, 1, 1, 1, acc_space=space)
    x0, x0_hat = motion(), motion(1).requires_grad_()
    clean = motion_losses(x0, x0_hat, MASK, weights, PLAIN)
    clean["total"].sum().backward()
    soiled = motion(1)
    soiled[0, N:] = torch.nan
    soiled.requires_grad_()
    dirty = motion_losses(x0.masked_fill(~MASK[..., None], torch.inf), soiled, MASK, weights, PLAIN)
    dirty["total"].sum().backward()
    for name in clean:
        assert torch.equal(clean[name], dirty[name]), name
    assert torch.equal(x0_hat.grad, soiled.grad)
    assert x0_hat.grad[0, :N].any() and not x0_hat.grad[0, N:].any()
    short = motion_losses(x0[:1, :N], motion(1)[:1, :N], MASK[:1, :N], weights, PLAIN)
    for name in clean:
        torch.testing.assert_close(short[name], clean[name][:1], rtol=1e-5, atol=0)


def test_total_is_the_weighted_sum():
    weights = LossWeights(pos=0.5, foot=2.0, vel=3.0, acc=0.1)
    terms = motion_losses(motion(), motion(1), MASK, weights, PLAIN)
    expected = terms["simple"] + 0.5 * terms["pos"] + 2 * terms["foot"]
    expected = expected + 3 * terms["vel"] + 0.1 * terms["acc"]
    torch.testing.assert_close(terms["total"], expected)


def test_terms_of_weight_zero_are_neither_computed_nor_added():
    terms = motion_losses(motion(), motion(1), MASK, LossWeights(vel=1.0), PLAIN)
    assert set(terms) == {"simple", "vel", "total"}
    everything = all_terms(motion(), motion(1))
    assert set(everything) == {"simple", "pos", "foot", "vel", "acc", "total"}
    assert torch.equal(everything["total"], everything["simple"])


def test_one_frame_is_no_trouble():
    mask = torch.arange(T)[None] < torch.tensor([[1], [2]])
    terms = motion_losses(motion(), motion(1), mask, LossWeights(), PLAIN, all_terms=True)
    assert all(term.isfinite().all() for term in terms.values())
    assert not terms["acc"].any()


@pytest.mark.parametrize("given", [{"acc": -1.0}, {"pos": float("nan")}, {"acc_space": "angles"}])
def test_impossible_weights_are_refused(given):
    with pytest.raises(InputError):
        LossWeights(**given)
