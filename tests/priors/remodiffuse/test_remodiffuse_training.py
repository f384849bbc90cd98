from dataclasses import replace

import numpy as np
import pytest
import torch

from t2imu_utils.demo.corpus import build_corpus
from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import Normaliser, statistics
from t2imu_utils.priors import remodiffuse_training as training
from t2imu_utils.priors.batches import Dataset
from t2imu_utils.priors.losses import LossWeights
from t2imu_utils.priors.remodiffuse import Mixture
from t2imu_utils.priors.remodiffuse_checkpoints import new_remodiffuse_prior
from t2imu_utils.priors.remodiffuse_training import (
    draw_batch,
    fit_mixture,
    neighbours,
    official_training,
    train,
    validation_losses,
)
from t2imu_utils.priors.retrieval import build_database
from t2imu_utils.priors.training import TrainConfig

CONFIG = TrainConfig(
    steps=8, batch_size=4, learning_rate=1e-3, max_frames=16, checkpoint_every=3, ema_decay=0.9
)


def run(prior, clips, folder, config=CONFIG, validation=()):
    return train(prior, clips, config, folder, validation, progress=False)


def weights(prior):
    return torch.cat([p.detach().flatten() for p in prior.model.state_dict().values()])


@pytest.fixture(scope="module")
def corpus():
    clips, splits = build_corpus(seed=0, clips=63)
    named = {clip.name: clip for clip in clips}
    return [[named[name] for name in splits[split]] for split in ("train", "val")]


def test_on_the_made_up_corpus_held_out_losses_fall(corpus, prior, encoder, tmp_path):
    seen, held_out = corpus
    normaliser = Normaliser(*statistics([clip.features for clip in seen]))
    database = build_database(seen, normaliser, encoder)
    config = replace(prior.config, width=32, feedforward=48, time_width=32, max_frames=196)
    new = new_remodiffuse_prior(config, normaliser, encoder, database, seed=0)
    settings = TrainConfig(
        steps=40, batch_size=6, learning_rate=1e-2, max_frames=40, ema_decay=0.9,
        checkpoint_every=40, validate_every=20,
    )  # fmt: skip
    data, near = Dataset(new, held_out), neighbours(new, held_out, settings.max_frames)
    before = validation_losses(new.model, new, data, near, settings)
    trained, curves = run(new, seen, tmp_path, settings, held_out)
    checks = curves[curves.split == "validation"]
    assert checks["step"].tolist() == [20, 40]
    assert checks["simple"].iloc[-1] < 0.8 * before["simple"]
    assert checks["simple"].is_monotonic_decreasing
    assert checks.drop(columns="split").notna().all(axis=None)
    assert not trained.model.training and new.history == []
    (entry,) = trained.history
    assert entry["clips"] == len(seen) and entry["config"]["steps"] == 40


def test_an_interrupted_training_ends_bit_for_bit_where_a_whole_one_ends(
    prior, clips, tmp_path, monkeypatch
):
    whole, curves = run(prior, clips, tmp_path / "whole", validation=clips[:3])
    real, calls = training.draw_batch, []

    def interrupt(*arguments):
        calls.append(arguments[-1])
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training, "draw_batch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(prior, clips, tmp_path / "parts", validation=clips[:3])
    torch.randn(100)
    resumed, again = run(prior, clips, tmp_path / "parts", validation=clips[:3])
    assert calls == [*range(6), *range(3, 8)]
    assert torch.equal(weights(whole), weights(resumed))
    assert curves.equals(again)
    finished, _ = run(prior, clips, tmp_path / "parts", validation=clips[:3])
    assert len(calls) == 11 and torch.equal(weights(finished), weights(whole))


def test_the_prior_given_and_the_global_generator_are_left_alone(prior, clips, tmp_path):
    before, state = weights(prior).clone(), torch.get_rng_state()
    trained, _ = run(prior, clips, tmp_path)
    assert torch.equal(weights(prior), before) and torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(weights(trained), before)


def test_l_acc_is_a_term_of_the_loss(prior, clips, tmp_path):
    config = replace(CONFIG, steps=20, checkpoint_every=20, learning_rate=3e-3)
    accs = []
    for acc in (0.0, 1.0):
        chosen = replace(config, weights=LossWeights(acc=acc))
        _, curves = run(prior, clips, tmp_path, chosen, clips[:6])
        accs.append(curves[curves.split == "validation"]["acc"].iloc[-1])
    assert accs[1] < accs[0]


def test_early_stopping_returns_what_did_best(prior, clips, tmp_path):
    held_out = [replace(clip, features=-clip.features) for clip in clips[:4]]
    config = replace(CONFIG, early_stopping=True, validate_every=1, learning_rate=0.05)
    stopped, curves = run(prior, clips, tmp_path / "whole", config, held_out)
    checks = curves[curves.split == "validation"].drop(columns="split").reset_index(drop=True)
    best = checks.loc[checks["total"].idxmin()]
    assert best["step"] < 8 and stopped.history[-1]["validation"] == best.to_dict()
    # The weights are those of a training that ends there.
    plain = replace(config, early_stopping=False)
    short, _ = run(prior, clips, tmp_path, replace(plain, steps=int(best["step"])))
    last, _ = run(prior, clips, tmp_path, plain, held_out)
    assert torch.equal(weights(stopped), weights(short))
    assert not torch.equal(weights(stopped), weights(last))
    with pytest.raises(InputError, match="early_stopping: found no held-out clips"):
        run(prior, clips, tmp_path, config)


def test_l_acc_can_be_taken_of_joints(prior, clips, tmp_path):
    chosen = LossWeights(acc=1e-5, acc_variant="joints")
    plain, _ = run(prior, clips, tmp_path)
    refined, curves = run(prior, clips, tmp_path, replace(CONFIG, weights=chosen))
    np.testing.assert_allclose(curves["total"], curves["simple"] + 1e-5 * curves["acc"], rtol=1e-5)
    assert not torch.equal(weights(plain), weights(refined))


def test_other_ingredients_do_not_mix(prior, clips, normaliser, encoder, tmp_path):
    once = replace(CONFIG, steps=1)
    run(prior, clips, tmp_path, once)
    run(prior, clips[:-1], tmp_path, once)
    run(prior, clips, tmp_path, replace(once, weights=LossWeights(acc=0.1)))
    smaller = build_database(clips[:-1], normaliser, encoder, max_frames=24)
    run(replace(prior, database=smaller), clips, tmp_path, once)
    assert len(list(tmp_path.glob("training-*.pt"))) == 4


def test_a_clip_never_sees_its_own_recording(prior, clips):
    """Half of the clips are twins of the others, which would be the best motions to retrieve."""
    pairs = [replace(c, name=f"M{clips[i % 6].name}", source="") for i, c in enumerate(clips)]
    pairs = [*clips[:6], *pairs[6:]]
    database = build_database(pairs, prior.normaliser, prior.text_encoder, max_frames=24)
    prior = replace(prior, database=database)
    near = neighbours(prior, pairs, max_frames=24)
    assert [rows.shape for rows in near] == [(2, 2)] * 12
    for i, rows in enumerate(near):
        assert not {i % 6, i % 6 + 6} & set(rows.ravel().tolist())
    batch = draw_batch(prior, Dataset(prior, pairs), near, replace(CONFIG, max_frames=24), 0)
    for clip, length, shown in zip(
        batch.clips.x0, batch.clips.mask.sum(1), batch.motion, strict=True
    ):
        for motion in shown:
            assert not torch.equal(motion[:length], clip[: len(motion)][:length])


def test_held_out_clips_need_no_names_in_the_database(prior, clips):
    """As the official one, which does not say whose clips it holds."""
    strangers = [replace(c, name=f"x{i}", source=f"x{i}") for i, c in enumerate(clips)]
    nameless = replace(prior, database=replace(prior.database, names=None, sources=None))
    found = neighbours(nameless, strangers, max_frames=24, held_out=True)
    expected = neighbours(prior, strangers, max_frames=24)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    # Where there are names they count for these clips too.
    own = neighbours(prior, clips, max_frames=24, held_out=True)
    assert all(np.array_equal(a, b) for a, b in zip(own, neighbours(prior, clips, 24), strict=True))
    with pytest.raises(InputError, match="database: names"):
        neighbours(nameless, strangers, max_frames=24)


def test_retrieval_follows_caption_and_shown_length(prior, clips):
    near = neighbours(prior, clips, max_frames=24)
    cropped = neighbours(prior, clips, max_frames=8)
    assert any(not np.array_equal(a, b) for a, b in zip(near, cropped, strict=True))
    again = neighbours(prior, clips[::-1], max_frames=24)[::-1]
    assert all(np.array_equal(a, b) for a, b in zip(near, again, strict=True))


def test_text_and_retrieval_are_dropped_independently(prior, clips):
    data, near = Dataset(prior, clips), neighbours(prior, clips, 16)
    config = replace(CONFIG, batch_size=500, condition_dropout=0.3)
    batches = [draw_batch(prior, data, near, config, step) for step in range(3)]
    text = torch.cat([batch.clips.drop_text for batch in batches]).double()
    retrieval = torch.cat([batch.drop_retrieval for batch in batches]).double()
    assert float(text.mean()) == pytest.approx(0.3, abs=0.05)
    assert float(retrieval.mean()) == pytest.approx(0.3, abs=0.05)
    assert float((text * retrieval).mean()) == pytest.approx(0.09, abs=0.03)


def test_dropped_conditions_do_not_reach_the_loss(shaken, clips):
    data, near = Dataset(shaken, clips), neighbours(shaken, clips, 16)
    batch = draw_batch(shaken, data, near, replace(CONFIG, condition_dropout=1.0), 0)
    other = replace(
        batch,
        clips=replace(batch.clips, text=batch.clips.text + 1.0 * torch.arange(16)),
        motion=batch.motion.flip(2),
    )
    schedule = training.linear_schedule()

    def losses(batch):
        return training.batch_losses(
            shaken.model, batch, shaken.normaliser, CONFIG.weights, schedule
        )["total"]

    assert torch.equal(losses(batch), losses(other))
    free = torch.zeros(4, dtype=torch.bool)
    kept, kept_other = (
        losses(replace(b, drop_retrieval=free, clips=replace(b.clips, drop_text=free)))
        for b in (batch, other)
    )
    assert not torch.equal(kept, kept_other)


class Known(torch.nn.Module):
    """Branches of which a known mixture is the clean motion: 0.4 both + 0.9 text - 0.3 none."""

    def __init__(self, config):
        super().__init__()
        self.config = config

    def database(self, *_):
        return None

    def condition(self, *_):
        return None

    def forward(self, x0, t, mask, condition, text_on, retrieval_on):
        fixed = torch.randn(3, *x0.shape, generator=torch.Generator().manual_seed(x0.shape[1]))
        text, retrieval, none = fixed
        outputs = {
            (True, True): (x0 - 0.9 * text + 0.3 * none) / 0.4,
            (True, False): text,
            (False, True): retrieval,
            (False, False): none,
        }
        return outputs[bool(text_on[0]), bool(retrieval_on[0])]


def test_a_mixture_is_fitted_to_held_out_motions(prior, clips, monkeypatch):
    monkeypatch.setattr(training, "add_noise", lambda x0, *_: x0)
    known = replace(prior, model=Known(prior.config), mixture=Mixture(coarse_scale=2.5))
    found = fit_mixture(known, clips, CONFIG)
    assert found.fine == pytest.approx((0.4, 0.9, 0.0), abs=0.01)
    assert found.coarse_scale == 2.5


def test_official_settings():
    config = official_training(1000, seed=4)
    assert (config.batch_size, config.learning_rate, config.ema_decay) == (128, 2e-4, 0.0)
    assert (config.condition_dropout, config.max_frames, config.seed) == (0.1, 196, 4)


def test_too_few_motions_to_retrieve_from_are_told(prior, clips, encoder, tmp_path):
    one_take = [replace(clip, source="one take") for clip in clips]
    database = build_database(one_take, prior.normaliser, encoder, max_frames=24)
    with pytest.raises(InputError, match="found 0 of 12 motions left after leaving out 12"):
        run(replace(prior, database=database), one_take, tmp_path)


def test_training_needs_to_know_whose_clips_a_database_holds(prior, clips, tmp_path):
    nameless = replace(prior.database, names=None, sources=None)
    with pytest.raises(InputError, match="database: names: found none"):
        run(replace(prior, database=nameless), clips, tmp_path)
