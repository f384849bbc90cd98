import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.priors.lengths import (
    LengthEstimator,
    estimate_frames,
    token_counts,
    train_lengths,
)
from t2imu_utils.priors.loop import LoopConfig

TEXT = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def estimator():
    torch.manual_seed(0)
    return LengthEstimator(6)


def test_lengths_are_drawn_and_never_too_short(estimator):
    with torch.no_grad():
        estimator.output[-1].bias.zero_()
        estimator.output[-1].bias[:10] = 50.0
    frames = estimate_frames(estimator, TEXT[:1].expand(300, -1), range(300))
    assert all(40 <= n <= 196 and n % 4 == 0 for n in frames)
    assert len(set(frames)) > 20


def test_a_length_follows_from_text_and_seed_alone(estimator):
    frames = estimate_frames(estimator, TEXT, [3, 4])
    assert frames == estimate_frames(estimator, TEXT.flip(0), [4, 3])[::-1]
    assert frames[1:] == estimate_frames(estimator, TEXT[1:], [4])


def test_a_sure_estimate_is_met(estimator):
    with torch.no_grad():
        estimator.output[-1].bias[30] = 1000.0
    assert estimate_frames(estimator, TEXT, [0, 1]) == [120, 120]


def test_classes_of_lengths():
    assert token_counts([0, 39, 40, 43, 195, 196, 300]).tolist() == [10, 10, 10, 10, 48, 49, 49]


def test_lengths_are_learnt(estimator, tmp_path):
    config = LoopConfig(80, learning_rate=3e-3, grad_clip=0.5)
    texts = [TEXT[:1], TEXT[1:].repeat(3, 1)]
    trained, rows = train_lengths(
        estimator, texts, [60, 121], config, tmp_path / "lengths.pt", "data", progress=False
    )
    assert rows[-1]["total"] < 0.2 * rows[0]["total"]
    drawn = [estimate_frames(trained, TEXT, [seed, seed]) for seed in range(20)]
    assert drawn.count([60, 120]) > 15


def test_too_few_classes_are_refused():
    with pytest.raises(InputError, match="classes: found 10; expected more than 10"):
        LengthEstimator(6, 10)
