from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.priors.batches import CHUNK, Dataset, step_items
from t2imu_utils.priors.training import TrainConfig, draw_batch

LENGTHS = np.random.default_rng(0).integers(20, 200, 700)


def test_epochs_visit_every_clip_once():
    steps = 32
    seen = np.concatenate([step_items(LENGTHS[:512], 32, 7, step) for step in range(steps)])
    assert sorted(seen[:512]) == list(range(512))
    assert set(Counter(seen).values()) == {2}
    # Chunks that do not end with an epoch lose nothing either.
    per_epoch = Counter(np.concatenate([step_items(LENGTHS, 32, 7, s) for s in range(175)]))
    assert min(per_epoch.values()) >= 7 and max(per_epoch.values()) <= 9


def test_the_items_of_a_step_follow_from_seed_and_step_alone():
    a = [step_items(LENGTHS, 16, 1, step) for step in range(40)]
    b = [step_items(LENGTHS, 16, 1, step) for step in reversed(range(40))][::-1]
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not np.array_equal(a[0], step_items(LENGTHS, 16, 2, 0))


def test_batches_hold_clips_of_similar_length_in_no_order():
    batches = [LENGTHS[step_items(LENGTHS, 32, 0, step)] for step in range(5 * CHUNK)]
    padding = np.mean([1 - x.mean() / x.max() for x in batches])
    assert padding < 0.15
    longest = [x.max() for x in batches]
    assert longest != sorted(longest)


def test_fewer_clips_than_a_batch_holds():
    items = step_items(np.array([30, 40, 50]), 32, 0, 5)
    assert len(items) == 32 and set(items) == {0, 1, 2}


def test_batch_content(prior, clips):
    data = Dataset(prior, clips)
    config = TrainConfig(steps=1, batch_size=8, max_frames=12, condition_dropout=0.5, seed=4)
    batch = draw_batch(data, config, 10, 3)
    items = step_items(np.minimum(data.lengths, 12), 8, 4, 3)
    sentences, sizes = set(), []
    for row, i in enumerate(items):
        size = int(batch.mask[row].sum())
        sizes.append(size)
        assert size == min(len(clips[i].features), 12)
        found = prior.normaliser.denormalise(batch.x0[row, :size].numpy())
        windows = np.lib.stride_tricks.sliding_window_view(clips[i].features, size, axis=0)
        distance = np.abs(windows - found.T).max((1, 2))
        assert distance.min() < 1e-5
        states = batch.text[row, batch.text_valid[row]]
        known = [prior.text_encoder.encode([text])[0][0] for text in clips[i].captions]
        (match,) = [k for k, x in enumerate(known) if x.shape == states.shape and x.equal(states)]
        sentences.add(match)
    assert not batch.x0[~batch.mask].any()
    assert batch.x0.shape[1] == max(sizes)
    assert sentences == {0, 1}
    assert batch.noise.shape == batch.x0.shape and 0 <= batch.t.min() <= batch.t.max() < 10


def test_draws_follow_from_seed_and_step_and_not_from_the_losses(prior, clips):
    data = Dataset(prior, clips)
    config = TrainConfig(steps=1, batch_size=4, seed=2)
    same = [draw_batch(data, c, 10, 8) for c in (config, replace(config, learning_rate=0.1))]
    for name, value in vars(same[0]).items():
        assert torch.equal(value, getattr(same[1], name)), name
    others = (draw_batch(data, config, 10, 9), draw_batch(data, replace(config, seed=3), 10, 8))
    for other in others:
        assert other.noise.flatten()[0] != same[0].noise.flatten()[0]


def test_dropped_share_timesteps_and_crops_are_spread(prior, clips):
    data = Dataset(prior, clips)
    config = TrainConfig(steps=1, batch_size=12, condition_dropout=0.3)
    batches = [draw_batch(data, config, 10, step) for step in range(100)]
    dropped = torch.cat([b.drop_text for b in batches]).float().mean().item()
    assert dropped == pytest.approx(0.3, abs=0.05)
    counts = torch.bincount(torch.cat([b.t for b in batches]), minlength=10)
    assert counts.min() > 80 and counts.max() < 160


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros((9, 262), np.float32)}, "clip3: features.*263"),
        ({"features": np.full((9, 263), np.nan, np.float32)}, "clip3: features.*finite"),
        ({"features": np.zeros((2, 263), np.float32)}, "clip3: features"),
        ({"captions": []}, "clip3: captions"),
    ],
)
def test_unusable_clips_are_named(prior, clips, change, message):
    clips[3] = replace(clips[3], **change)
    with pytest.raises(InputError, match=message):
        Dataset(prior, clips)
