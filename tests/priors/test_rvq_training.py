from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from t2imu_utils.priors import rvq_training
from t2imu_utils.priors.loop import LoopConfig
from t2imu_utils.priors.losses import LossWeights, motion_losses
from t2imu_utils.priors.rvq import RVQConfig, new_rvq
from t2imu_utils.priors.rvq_training import (
    RVQTrainConfig,
    draw_windows,
    normalised_motions,
    reconstruct,
    reconstruction_losses,
    rvq_validation,
    train_rvq,
)

PLAIN = Normaliser(np.zeros(263, np.float32), np.ones(263, np.float32))
SIZES = RVQConfig(width=16, code_width=8, codes=12, levels=3, dropout=0.1)
CONFIG = RVQTrainConfig(batch_size=4, window=8)
LOOP = LoopConfig(12, learning_rate=1e-3, checkpoint_every=5, validate_every=4)


@pytest.fixture
def motions(clips):
    return normalised_motions(PLAIN, clips)


def train(motions, folder, config=CONFIG, loop=LOOP):
    model = new_rvq(SIZES, 0)
    return train_rvq(
        model, PLAIN, motions, config, loop, folder / "rvq.pt", motions[:4], progress=False
    )


def state(model):
    return torch.cat([x.flatten().float() for x in model.state_dict().values()])


def test_an_interrupted_training_ends_where_a_whole_one_ends_with_its_codebooks(
    motions, tmp_path, monkeypatch
):
    whole, rows, checks = train(motions, tmp_path / "whole")
    real, calls = rvq_training.reconstruction_losses, []

    def interrupt(*arguments, **named):
        calls.append(1)
        # Nine steps and two validations, of lengths that are counted here as they come.
        if len(calls) == 14:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rvq_training, "reconstruction_losses", interrupt)
        train(motions, tmp_path / "parts")
    assert len(list((tmp_path / "parts").iterdir())) == 1
    torch.randn(50)
    resumed, rows_again, checks_again = train(motions, tmp_path / "parts")
    assert torch.equal(state(whole), state(resumed))
    assert rows == rows_again and checks == checks_again
    sums = [key for key in resumed.state_dict() if key.endswith(("code_sum", "code_count"))]
    assert len(sums) == 6


def test_the_loss_is_the_published_one():
    torch.manual_seed(0)
    x, x_hat, commit = torch.randn(2, 8, 263), torch.randn(2, 8, 263), torch.tensor(3.0)
    terms = reconstruction_losses(x, x_hat, commit, RVQTrainConfig(), PLAIN)
    expected = F.smooth_l1_loss(x, x_hat) + 0.02 * 3.0
    expected = expected + 0.5 * F.smooth_l1_loss(x[..., 4:67], x_hat[..., 4:67])
    torch.testing.assert_close(terms["total"], expected)
    assert set(terms) == {"reconstruction", "positions", "commit", "total"}


@pytest.mark.parametrize("variant", ["features", "joints"])
def test_l_acc_is_that_of_the_paper_on_the_decoders_output(variant):
    torch.manual_seed(0)
    x, x_hat, commit = torch.randn(2, 8, 263), torch.randn(2, 8, 263), torch.tensor(3.0)
    weights = LossWeights(acc=0.7, acc_variant=variant)
    plain = reconstruction_losses(x, x_hat, commit, CONFIG, PLAIN)
    terms = reconstruction_losses(x, x_hat, commit, replace(CONFIG, weights=weights), PLAIN)
    mask = torch.ones(2, 8, dtype=torch.bool)
    acc = motion_losses(x, x_hat, mask, weights, PLAIN)["acc"].mean()
    torch.testing.assert_close(terms["acc"], acc)
    torch.testing.assert_close(terms["total"], plain["total"] + 0.7 * acc)


def test_lambda_acc_changes_the_weights_and_lowers_l_acc(motions, tmp_path):
    loop = replace(LOOP, steps=40, checkpoint_every=40, validate_every=40, learning_rate=3e-3)
    ends, accs = [], []
    for acc in (0.0, 2.0):
        config = replace(CONFIG, weights=LossWeights(acc=acc))
        model, _, checks = train(motions, tmp_path, config, loop)
        ends.append(state(model))
        accs.append(checks[-1]["acc"])
    assert not torch.equal(*ends)
    assert accs[1] < accs[0]


def test_windows_follow_from_seed_and_step_and_leave_nothing_out():
    motions = [torch.full((n, 263), float(n)) + torch.arange(n)[:, None] / 1000 for n in
               (5, 9, 64, 70, 100, 133)]  # fmt: skip
    config = RVQTrainConfig(batch_size=2, window=64)
    seen, starts = set(), set()
    for step in range(60):
        windows = draw_windows(motions, config, 3, step)
        assert torch.equal(windows, draw_windows(motions, config, 3, step))
        assert windows.shape[1] % 4 == 0 and 4 <= windows.shape[1] <= 64
        seen |= set(windows[:, 0, 0].floor().int().tolist())
        for row in windows:
            torch.testing.assert_close(row[1:, 0] - row[:-1, 0], torch.full((len(row) - 1,), 1e-3))
            if row[0, 0].floor() == 133:
                starts.add(round(1000 * float(row[0, 0] - 133)))
    assert seen == {5, 9, 64, 70, 100, 133}
    assert len(starts) > 5 and max(starts) <= 133 - 64


def test_levels_are_dropped_in_some_steps(motions, monkeypatch):
    seen = []

    def spy(x, active):
        seen.append(active)
        return x, None, torch.tensor(0.0)

    model = new_rvq(SIZES, 0)
    monkeypatch.setattr(model, "forward", spy)
    losses = rvq_training._losses(PLAIN, motions, replace(CONFIG, level_dropout=0.5), 0)
    for step in range(200):
        losses(model, step)
    shares = [seen.count(levels) / 200 for levels in (1, 2, 3)]
    assert shares == pytest.approx([1 / 6, 1 / 6, 4 / 6], abs=0.1)


def test_validation_reads_each_motion_at_its_own_length(motions):
    model = new_rvq(SIZES, 0)
    together = rvq_validation(model, motions, CONFIG, PLAIN)
    alone = [rvq_validation(model, [motion], CONFIG, PLAIN) for motion in motions]
    for name, value in together.items():
        assert value == pytest.approx(np.mean([terms[name] for terms in alone]), rel=1e-4)
    assert {"reconstruction", "simple", "acc"} < set(together)


def test_whole_clips_are_reconstructed_each_at_its_own_length(motions, clips):
    normaliser = Normaliser(np.full(263, 0.5, np.float32), np.full(263, 2.0, np.float32))
    model = new_rvq(SIZES, 0).train()
    model(torch.stack([x[:8] for x in motions]))
    found = reconstruct(model, normaliser, clips)
    config = replace(CONFIG, batch_size=5)
    terms = {"reconstruction": 0.0, "acc": 0.0}
    for clip, decoded in zip(clips, found, strict=True):
        frames = len(clip.features) // 4 * 4
        assert decoded.shape == (frames, 263) and decoded.dtype == torch.float32
        x = torch.from_numpy((clip.features[:frames] - 0.5) / 2)[None]
        with torch.no_grad():
            alone, codes, commit = model.eval()(x)
        assert (codes >= 0).all()
        torch.testing.assert_close(decoded, alone[0], atol=1e-5, rtol=1e-4)
        losses = reconstruction_losses(x, decoded[None], commit, config, normaliser, True)
        terms = {name: total + float(losses[name]) for name, total in terms.items()}
    whole = rvq_validation(model, normalised_motions(normaliser, clips), config, normaliser)
    for name, total in terms.items():
        assert total / len(clips) == pytest.approx(whole[name], rel=1e-4)


def test_clips_that_cannot_be_used_are_named(clips):
    with pytest.raises(InputError, match="clips: found none"):
        normalised_motions(PLAIN, [])
    short = MotionClip("brief", np.zeros((3, 263), np.float32), ["sits"])
    with pytest.raises(InputError, match="brief: features.*3 frame.*at least 4"):
        normalised_motions(PLAIN, [*clips, short])
