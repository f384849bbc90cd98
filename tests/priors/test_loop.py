from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from t2imu_utils.errors import InputError
from t2imu_utils.priors.loop import LoopConfig, learning_rate_at, run_loop
from t2imu_utils.priors.training import ema_decay_at

CONFIG = LoopConfig(steps=12, learning_rate=1e-2, checkpoint_every=5)


class Counter(nn.Module):
    """A line with dropout, a frozen parameter, and a buffer that each training pass changes."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 1)
        self.fixed = nn.Parameter(torch.ones(2), requires_grad=False)
        self.drop = nn.Dropout(0.3)
        self.register_buffer("sums", torch.zeros(3))

    def forward(self, x):
        if self.training:
            self.sums.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return self.line(self.drop(x) + self.sums) * self.fixed.sum()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Counter()


def losses(model, step):
    x = torch.from_numpy(np.random.default_rng([7, step]).standard_normal((16, 3))).float()
    fit = (model(x)[:, 0] - x @ torch.tensor([1.0, -2.0, 0.5])).square().mean()
    return {"fit": fit, "total": 2 * fit}


def check(model):
    assert not model.training
    x = torch.eye(3)
    return {"fit": float((model(x)[:, 0] - torch.tensor([1.0, -2.0, 0.5])).square().mean())}


def run(model, folder, config=CONFIG, terms=losses, key="data", validate=check):
    return run_loop(model, terms, config, folder / "toy.pt", key, validate, progress=False)


def state(model):
    return torch.cat([x.flatten() for x in model.state_dict().values()])


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_an_interrupted_training_ends_bit_for_bit_where_a_whole_one_ends(
    model, tmp_path, ema_decay
):
    config = replace(CONFIG, ema_decay=ema_decay, validate_every=3)
    whole, rows, checks = run(model, tmp_path / "whole", config)
    calls = []

    def interrupted(model, step):
        calls.append(step)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return losses(model, step)

    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "parts", config, interrupted)
    torch.randn(100)
    resumed, rows_again, checks_again = run(model, tmp_path / "parts", config, interrupted)
    assert calls == [*range(9), *range(5, 12)]
    assert torch.equal(state(whole), state(resumed))
    assert rows == rows_again and checks == checks_again
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["step"] for row in checks] == [3, 6, 9, 12]
    assert set(rows[0]) == {"step", "fit", "total"}


TOTALS = {3: 2.0, 6: 1.0, 9: 4.0, 12: 3.0}


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_the_weights_of_the_lowest_validation_are_returned(model, tmp_path, ema_decay):
    """Validation says what `TOTALS` has, and notes the weights that it was shown."""
    config = replace(CONFIG, ema_decay=ema_decay, validate_every=3, early_stopping=True)
    step_now, shown = [], {}

    def counting(model, step):
        step_now.append(step + 1)
        if len(step_now) == stop_at:
            raise KeyboardInterrupt
        return losses(model, step)

    def scripted(averaged):
        shown[step_now[-1]] = state(averaged).clone()
        return {"total": TOTALS[step_now[-1]], "other": -TOTALS[step_now[-1]]}

    stop_at = 0
    whole, rows, checks = run(model, tmp_path / "whole", config, counting, validate=scripted)
    assert {row["step"]: row["total"] for row in checks} == TOTALS and len(rows) == 12
    assert torch.equal(state(whole), shown[6]) and not whole.training
    assert not torch.equal(shown[6], shown[12]) and not torch.equal(shown[6], shown[9])
    # A finished training gives the same, and one without early stopping its last weights.
    again, _, _ = run(model, tmp_path / "whole", config, None, validate=scripted)
    assert torch.equal(state(again), state(whole))
    last = replace(config, early_stopping=False)
    plain, _, _ = run(model, tmp_path / "whole", last, counting, validate=scripted)
    assert torch.equal(state(plain), shown[12])
    # The best is found before the interruption, and only the state file has it.
    step_now, stop_at = [], 12
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "parts", config, counting, validate=scripted)
    shown.clear()
    resumed, rows_again, checks_again = run(
        model, tmp_path / "parts", config, counting, validate=scripted
    )
    assert step_now == [*range(1, 13), 11, 12] and set(shown) == {12}
    assert torch.equal(state(resumed), state(whole))
    assert rows == rows_again and checks == checks_again


def test_a_finished_training_is_not_run_again(model, tmp_path):
    first, rows, checks = run(model, tmp_path)
    second, rows_again, checks_again = run(model, tmp_path, terms=None, validate=None)
    assert torch.equal(state(first), state(second))
    assert rows == rows_again and checks == checks_again and len(checks) == 1
    assert not second.training


def test_the_model_is_left_alone_and_frozen_parameters_stay(model, tmp_path):
    before, generator = state(model).clone(), torch.get_rng_state()
    trained, _, _ = run(model, tmp_path, replace(CONFIG, weight_decay=0.5))
    assert torch.equal(state(model), before)
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(trained.fixed, torch.ones(2))
    assert not torch.equal(trained.line.weight, model.line.weight)
    assert trained.line.weight.requires_grad and not trained.fixed.requires_grad


def test_the_loss_falls(model, tmp_path):
    config = replace(CONFIG, steps=200, checkpoint_every=200, validate_every=100)
    _, rows, checks = run(model, tmp_path, config)
    assert np.mean([row["fit"] for row in rows[-20:]]) < 0.5 * rows[0]["fit"]
    assert checks[1]["fit"] < checks[0]["fit"]


def test_the_moving_average(model, tmp_path):
    seen = []

    def spying(model, step):
        seen.append(model.line.weight.detach().clone())
        return losses(model, step)

    averaged, _, _ = run(model, tmp_path, replace(CONFIG, ema_decay=0.9), spying)
    last, _, _ = run(model, tmp_path)
    seen = [*seen[1:], last.line.weight.detach()]
    expected = model.line.weight.detach()
    for n, now in enumerate(seen):
        expected = torch.lerp(expected, now, 1 - ema_decay_at(0.9, n))
    torch.testing.assert_close(averaged.line.weight.detach(), expected, atol=1e-6, rtol=0)
    # What the model keeps beside its weights is not averaged a second time.
    assert torch.equal(averaged.sums, last.sums)


def test_the_learning_rate_rises_and_falls_in_steps():
    config = LoopConfig(10, learning_rate=1.0, warmup=3, milestones=(2, 4), decay=0.1)
    rates = [learning_rate_at(config, step) for step in range(9)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_learning_rate_reaches_the_optimiser(model, tmp_path):
    config = replace(CONFIG, steps=3, milestones=(2,), decay=1e-9)
    seen = []

    def spying(model, step):
        seen.append(model.line.weight.detach().clone())
        return losses(model, step)

    trained, _, _ = run(model, tmp_path, config, spying)
    assert (seen[2] - seen[1]).abs().min() > 1e-3
    torch.testing.assert_close(trained.line.weight.detach(), seen[2], atol=1e-8, rtol=0)


def test_the_gradient_is_clipped(model, tmp_path):
    """Adam divides the scale of gradients out, except where it is that of its epsilon."""
    free, _, _ = run(model, tmp_path, replace(CONFIG, steps=1))
    clipped, _, _ = run(model, tmp_path, replace(CONFIG, steps=1, grad_clip=1e-12))
    moved = (free.line.weight - model.line.weight).abs().min()
    assert moved > 5e-3
    assert (clipped.line.weight - model.line.weight).abs().max() < 1e-5


def test_trainings_of_other_ingredients_do_not_mix(model, tmp_path):
    first, _, _ = run(model, tmp_path)
    run(model, tmp_path, replace(CONFIG, seed=1))
    run(model, tmp_path, key="other data")
    run(first, tmp_path)
    assert len(list(tmp_path.glob("toy-*.pt"))) == 4
    # How often the state is written is no part of what is trained.
    again, _, _ = run(model, tmp_path, replace(CONFIG, checkpoint_every=3), terms=None)
    assert torch.equal(state(first), state(again))
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[: len(b) // 2],
        lambda b: b"",
        lambda b: b"x" * 99,
    ],
)
def test_a_damaged_state_file_is_named(model, tmp_path, damage):
    run(model, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=f"{path.name}.*Delete the file"):
        run(model, tmp_path)


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, steps=1)])
def test_a_training_that_diverges_says_so_and_keeps_no_broken_state(model, tmp_path, config):
    def infinite(model, step):
        return {"total": losses(model, step)["total"] * float("inf")}

    with pytest.raises(InputError, match="step 1.*a finite loss.*learning_rate"):
        run(model, tmp_path, config, infinite)
    assert list(tmp_path.iterdir()) == []
