from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from t2imu_utils.errors import InputError
from t2imu_utils.models import trainer as training
from t2imu_utils.models.losses import LossWeights
from t2imu_utils.models.mdm import GENERATOR
from t2imu_utils.models.trainer import TrainConfig, ema_decay_at, step_items, train

LENGTHS = np.random.default_rng(0).integers(20, 200, 700)
CONFIG = TrainConfig(steps=12, learning_rate=1e-2, checkpoint_every=5, ema_decay=0.0)


class Counting(nn.Module):
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
    return Counting()


def losses(model, step, part=0, parts=1):
    x = torch.from_numpy(np.random.default_rng([7, step]).standard_normal((16, 3))).float()
    fit = (model(x)[:, 0] - x @ torch.tensor([1.0, -2.0, 0.5])).square().mean()
    return {"fit": fit, "total": 2 * fit}


def run(model, folder, config=CONFIG, terms=losses, key="data", validate=None):
    return train(model, terms, config, folder / "toy.pt", key, validate)


def state(model):
    return torch.cat([x.flatten() for x in model.state_dict().values()])


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_an_interrupted_training_ends_bit_for_bit_where_a_whole_one_ends(
    model, tmp_path, ema_decay
):
    config = replace(CONFIG, ema_decay=ema_decay, validate_every=3)
    steps, stop_at = [], 0

    def counting(model, step, part, parts):
        steps.append(step + 1)
        if len(steps) == stop_at:
            raise KeyboardInterrupt
        return losses(model, step)

    def validate(averaged):
        assert not averaged.training
        return {"total": float(state(averaged).sum())}

    whole, rows, checks = run(model, tmp_path / "whole", config, counting, validate=validate)
    assert [row["step"] for row in checks] == [3, 6, 9, 12]
    assert [row["step"] for row in rows] == list(range(1, 13)) and set(rows[0]) > {"fit", "total"}
    again, _, _ = run(model, tmp_path / "whole", config, None, validate=validate)
    assert torch.equal(state(again), state(whole))  # ended, so it is not run again
    steps, stop_at = [], 12
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "parts", config, counting, validate=validate)
    torch.randn(100)
    resumed, *curves = run(model, tmp_path / "parts", config, counting, validate=validate)
    assert steps == [*range(1, 13), 11, 12]
    assert torch.equal(state(resumed), state(whole)) and curves == [rows, checks]


def test_the_model_is_left_alone_and_frozen_parameters_stay(model, tmp_path):
    before, generator = state(model).clone(), torch.get_rng_state()
    trained, rows, _ = run(model, tmp_path, replace(CONFIG, steps=100, weight_decay=0.5))
    assert torch.equal(state(model), before) and torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(trained.fixed, torch.ones(2)) and not trained.fixed.requires_grad
    assert np.mean([row["fit"] for row in rows[-20:]]) < 0.7 * rows[0]["fit"]


def test_the_moving_average(model, tmp_path):
    seen = []

    def spying(model, step, part, parts):
        seen.append(model.line.weight.detach().clone())
        return losses(model, step)

    averaged, _, _ = run(model, tmp_path, replace(CONFIG, ema_decay=0.9), spying)
    last, _, _ = run(model, tmp_path)
    expected = model.line.weight.detach()
    for n, now in enumerate([*seen[1:], last.line.weight.detach()]):
        expected = torch.lerp(expected, now, 1 - ema_decay_at(0.9, n))
    torch.testing.assert_close(averaged.line.weight.detach(), expected, atol=1e-6, rtol=0)
    # What the model keeps beside its weights is not averaged a second time.
    assert torch.equal(averaged.sums, last.sums)
    assert [ema_decay_at(0.999, n) for n in (0, 90, 10**6)] == [0.1, 0.91, 0.999]


def test_learning_rate_rises_then_falls_to_zero():
    config = TrainConfig(steps=100, learning_rate=1e-3, warmup=9, anneal=True)
    rates = [config.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4) and rates[99] == pytest.approx(1e-5)
    assert np.argmax(rates) == 9
    assert TrainConfig(steps=5).learning_rate_at(4) == TrainConfig(steps=5).learning_rate


def test_trainings_of_other_ingredients_do_not_mix(model, tmp_path):
    first, _, _ = run(model, tmp_path)
    run(model, tmp_path, replace(CONFIG, seed=1))
    run(model, tmp_path, key="other data")
    run(first, tmp_path)
    assert len(list(tmp_path.glob("toy-*.pt"))) == 4
    # How often the state is written is no part of what is trained.
    again, _, _ = run(model, tmp_path, replace(CONFIG, checkpoint_every=3), terms=None)
    assert torch.equal(state(first), state(again))
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:99])
    with pytest.raises(InputError, match="Delete the file"):
        run(model, tmp_path)


def test_a_training_that_diverges_says_so_and_keeps_no_broken_state(model, tmp_path):
    def infinite(model, step, part, parts):
        return {"total": losses(model, step)["total"] * float("inf")}

    with pytest.raises(InputError, match="step 1.*a finite loss.*learning_rate"):
        run(model, tmp_path, CONFIG, infinite)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- the order of the data
def test_epochs_visit_every_clip_once():
    seen = np.concatenate([step_items(LENGTHS[:512], 32, 7, step) for step in range(32)])
    assert sorted(seen[:512]) == list(range(512)) and set(Counter(seen).values()) == {2}
    # Chunks that do not end with an epoch lose nothing either.
    per_epoch = Counter(np.concatenate([step_items(LENGTHS, 32, 7, s) for s in range(175)]))
    assert min(per_epoch.values()) >= 7 and max(per_epoch.values()) <= 9
    few = step_items(np.array([30, 40, 50]), 32, 0, 5)
    assert len(few) == 32 and set(few) == {0, 1, 2}


# ---------------------------------------------------------------- MDM
# Five clips do not divide by two.
SETTINGS = TrainConfig(
    steps=8, batch_size=5, learning_rate=1e-3, max_frames=16, checkpoint_every=3, validate_every=4,
    ema_decay=0.9,
)  # fmt: skip


def train_mdm(prior, clips, folder, config=SETTINGS, processes=1):
    return GENERATOR.train(prior, clips, config, folder, clips[:3], "cpu", processes)


def weights(prior):
    return state(prior.model)


def assert_same(one, other):
    """Curves and weights are equal but for rounding."""
    (trained, curves), (again, others) = one, other
    assert curves["split"].equals(others["split"])
    numbers = [x.drop(columns="split").to_numpy(dtype=float) for x in (curves, others)]
    np.testing.assert_allclose(*numbers, rtol=2e-5, equal_nan=True)
    kept = again.model.state_dict()
    for name, x in trained.model.state_dict().items():
        # The bias of keys has no gradient but rounding, which Adam scales up to whole steps.
        atol = 8e-3 if name.endswith("in_proj_bias") else 1e-6
        torch.testing.assert_close(kept[name], x, rtol=1e-4, atol=atol)


def test_two_processes_train_as_one_does_and_go_on_with_its_state(prior, clips, tmp_path):
    whole = train_mdm(prior, clips, tmp_path / "whole")
    folder = tmp_path / "two"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        save = training._Training.save

        def stop(self):
            save(self)
            raise KeyboardInterrupt

        patch.setattr(training._Training, "save", stop)
        train_mdm(prior, clips, folder)
    two = train_mdm(prior, clips, folder, processes=2)
    assert_same(whole, two)
    assert not torch.equal(*(p.model.embed_text.weight for p in (prior, two[0])))
    # The steps before the interruption are those that were saved.
    assert two[1].iloc[:3].equals(whole[1].iloc[:3])
    _, curves = train_mdm(prior, clips, folder)
    assert curves.equals(two[1])


def test_a_weight_of_zero_is_the_control_bit_for_bit(prior, clips, tmp_path):
    control, curves = train_mdm(prior, clips, tmp_path)
    zero = replace(SETTINGS, weights=LossWeights(acc_variant="spectrum"))
    other, _ = train_mdm(prior, clips, tmp_path, zero)
    assert torch.equal(weights(control), weights(other))
    assert curves[curves.split == "train"]["acc"].isna().all()


def test_bfloat16_is_a_choice_and_trains_nearly_alike(prior, clips, tmp_path):
    half = replace(SETTINGS, precision="bfloat16")
    whole, other = (train_mdm(prior, clips, tmp_path, x)[1]["total"] for x in (SETTINGS, half))
    assert 0 < abs(whole[0] - other[0]) < 0.02 * whole[0]


def test_lambda_acc_lowers_l_acc(prior, clips, tmp_path):
    config = replace(SETTINGS, steps=40, checkpoint_every=40, validate_every=0)
    accs, firsts = [], []
    for acc in (0.0, 1.0):
        chosen = replace(config, weights=LossWeights(acc=acc))
        _, curves = train_mdm(prior, clips, tmp_path, chosen)
        accs.append(curves[curves.split == "validation"]["acc"].iloc[-1])
        firsts.append(curves["simple"].iloc[0])
    assert accs[1] < accs[0] and firsts[0] == firsts[1]
