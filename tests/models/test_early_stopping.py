"""What is kept of a training: the weights with the lowest held-out loss."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from t2imu_utils.errors import InputError
from t2imu_utils.models.trainer import Best, check_early_stopping, kept_row


class Numbered(nn.Module):
    """A weight and a buffer that say which they are."""

    def __init__(self, number: float):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), float(number)))
        self.register_buffer("sums", torch.full((2,), 10.0 * number))

    @property
    def number(self) -> float:
        assert torch.equal(self.sums, torch.full((2,), 10 * float(self.weight[0].detach())))
        return float(self.weight[0].detach())


def best_of(losses):
    """What is kept of one model that changes in place from offer to offer."""
    model, best = Numbered(0), Best()
    for step, loss in enumerate(losses, start=1):
        model.load_state_dict(Numbered(step).state_dict())
        best.offer(model, step, loss)
    return best


def restored(best) -> float:
    model = Numbered(-1)
    best.restore(model)
    return model.number


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([3.0, 1.0, 2.0], 2),
        ([1.0, 2.0, 3.0], 1),
        ([3.0, 2.0, 1.0], 3),
        ([2.0, 1.0, 1.0], 2),  # of equals the first
        ([math.inf, 1.0, math.nan], 2),
        ([2.0, math.nan, 1.0, math.nan], 3),
    ],
)
def test_the_weights_of_the_lowest_loss_are_kept(losses, step):
    best = best_of(losses)
    assert (best.step, best.loss) == (step, losses[step - 1])
    assert restored(best) == step


def test_what_is_kept_does_not_change_with_the_model_that_it_is_given_to():
    best, model = best_of([2.0, 1.0, 3.0]), Numbered(-1)
    best.restore(model)
    with torch.no_grad():
        model.weight.fill_(7.0)
        model.sums.fill_(7.0)
    assert restored(best) == 2


def test_it_goes_on_from_a_state_file(tmp_path):
    torch.save({"best": best_of([2.0, 1.0]).state()}, tmp_path / "state.pt")
    again = Best()
    again.load(torch.load(tmp_path / "state.pt", weights_only=True)["best"])
    assert (again.step, again.loss, restored(again)) == (2, 1.0, 2)
    again.offer(Numbered(3), 3, 1.5)
    assert restored(again) == 2
    again.offer(Numbered(4), 4, 0.5)
    assert restored(again) == 4


def test_before_the_first_offer_it_can_be_written_too(tmp_path):
    torch.save(Best().state(), tmp_path / "state.pt")
    again = Best()
    again.load(torch.load(tmp_path / "state.pt", weights_only=True))
    again.offer(Numbered(1), 1, 1e9)
    assert restored(again) == 1
    with pytest.raises(KeyError):
        again.load({"step": 1, "loss": 0.5})


def test_the_validation_that_is_told_is_that_of_the_weights_kept():
    rows = [{"step": i, "simple": x, "total": -x} for i, x in enumerate([3.0, 1.0, 1.0, 2.0])]
    assert kept_row(rows, "simple", True) is rows[1]
    assert kept_row(rows, "total", True) is rows[0]
    assert kept_row(rows, "simple", False) is rows[3]
    best = best_of([row["simple"] for row in rows])
    assert best.step - 1 == kept_row(rows, "simple", True)["step"]


@dataclass
class Settings:
    early_stopping: bool


def test_there_must_be_held_out_clips_to_stop_by():
    check_early_stopping(Settings(True), ["a clip"])
    check_early_stopping(Settings(False), [])
    with pytest.raises(InputError, match="early_stopping: found no held-out clips.*validation"):
        check_early_stopping(Settings(True), [])
