from dataclasses import replace

import numpy as np
import pytest
import torch

from t2imu_utils.demo.corpus import build_corpus
from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.motion.features import statistics
from t2imu_utils.priors import loop
from t2imu_utils.priors.losses import LossWeights
from t2imu_utils.priors.rvq import RVQConfig
from t2imu_utils.priors.rvq_training import RVQTrainConfig, normalised_motions, rvq_validation
from t2imu_utils.priors.stages import Stage
from t2imu_utils.priors.t2mgpt import GPTConfig, T2MGPTConfig, generate, new_t2mgpt
from t2imu_utils.priors.t2mgpt_training import (
    STAGES,
    T2MGPTTrainConfig,
    _losses,
    corrupted,
    gpt_losses,
    gpt_validation,
    plain_training,
    refinement,
    train,
)
from t2imu_utils.priors.token_data import TokenData

SIZES = T2MGPTConfig(
    rvq=RVQConfig(width=16, code_width=8, codes=12, levels=1, dropout=0.0, temperature=0.0),
    transformer=GPTConfig(width=16, layers=1, heads=2, feedforward=32, max_tokens=4),
)
PLAIN = replace(plain_training(14, 4, 1e-3), window=8, checkpoint_every=3)
GPT_ALONE = replace(PLAIN, rvq=Stage(0.0), gpt=Stage(1.0, 4, 1e-3))


@pytest.fixture
def untrained(clips, encoder):
    everything = np.concatenate([clip.features for clip in clips])
    normaliser = Normaliser(everything.mean(0), everything.std(0) + 0.05)
    return new_t2mgpt(SIZES, normaliser, encoder, 3)


def run(prior, clips, folder, config=PLAIN, validation=()):
    return train(prior, clips, config, folder, validation, progress=False)


def state(prior):
    networks = [getattr(prior, name) for name in STAGES]
    return torch.cat([x.flatten() for n in networks for x in n.state_dict().values()])


def give_codes(prior):
    torch.manual_seed(0)
    prior.rvq.train()(torch.randn(3, 16, 263))
    prior.rvq.eval()


def test_an_interrupted_training_ends_bit_for_bit_where_a_whole_one_ends(
    untrained, clips, tmp_path, monkeypatch
):
    whole, curves = run(untrained, clips, tmp_path / "whole", validation=clips[:3])
    real, calls = loop._State.update, []

    def interrupt(*arguments):
        calls.append(1)
        # 7 steps of each network.
        if len(calls) in (5, 14):
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop._State, "update", interrupt)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                run(untrained, clips, tmp_path / "parts", validation=clips[:3])
            torch.randn(20)
        resumed, again = run(untrained, clips, tmp_path / "parts", validation=clips[:3])
    assert torch.equal(state(whole), state(resumed))
    assert curves.equals(again)
    assert whole.history == resumed.history


def test_the_curves_and_the_history(untrained, clips, tmp_path):
    before = state(untrained).clone()
    config = replace(PLAIN, weights=LossWeights(acc=0.1))
    trained, curves = run(untrained, clips, tmp_path, config, clips[:3])
    rows = curves[curves.split == "train"]
    assert rows["step"].tolist() == list(range(1, 15))
    assert rows["stage"].tolist() == ["rvq"] * 7 + ["gpt"] * 7
    assert rows[rows.stage == "rvq"][["reconstruction", "commit", "acc"]].notna().all(axis=None)
    assert rows[rows.stage == "gpt"]["accuracy"].between(0, 1).all()
    checks = curves[curves.split == "validation"]
    assert checks["step"].tolist() == [7, 14]
    (entry,) = trained.history
    assert entry["config"]["weights"]["acc"] == 0.1 and entry["clips"] == len(clips)
    assert set(entry["validation"]) == set(STAGES)
    assert entry["validation"]["gpt"]["accuracy"] == checks["accuracy"].iloc[1]
    assert torch.equal(state(untrained), before) and untrained.history == []
    assert not trained.rvq.training and not trained.gpt.training
    assert len(list(tmp_path.iterdir())) == 2


def test_a_stage_without_a_share_keeps_its_network(untrained, clips, tmp_path):
    trained, curves = run(untrained, clips, tmp_path, GPT_ALONE)
    pairs = zip(trained.rvq.state_dict().values(), untrained.rvq.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(trained.gpt.trans_head.head.weight, untrained.gpt.trans_head.head.weight)
    assert set(curves["stage"]) == {"gpt"} and len(curves) == 14


def test_another_corruption_is_another_training(untrained, clips, tmp_path):
    half, _ = run(untrained, clips, tmp_path, GPT_ALONE)
    none, _ = run(untrained, clips, tmp_path, replace(GPT_ALONE, keep=1.0))
    assert not torch.equal(state(half), state(none))


def test_the_recipe_is_the_published_one():
    config = T2MGPTTrainConfig(600_000)
    rvq, gpt = config.loop("rvq"), config.loop("gpt")
    assert (rvq.steps, rvq.learning_rate, rvq.betas, rvq.decay) == (
        300_000,
        2e-4,
        (0.9, 0.99),
        0.05,
    )
    assert rvq.warmup == pytest.approx(1000, rel=0.02) and rvq.weight_decay == 0
    assert rvq.milestones[0] == pytest.approx(200_000, rel=0.02)
    assert (gpt.steps, gpt.learning_rate, gpt.betas, gpt.decay) == (300_000, 1e-4, (0.5, 0.9), 0.05)
    assert (gpt.warmup, gpt.milestones, gpt.weight_decay) == (0, (150_000,), 1e-6)
    assert (config.rvq.batch_size, config.gpt.batch_size, config.keep) == (256, 128, 0.5)
    assert config.tokeniser().level_dropout == 0
    averaged = T2MGPTTrainConfig(1001, ema_decay=0.9)
    assert averaged.stage_steps() == {"rvq": 500, "gpt": 501}
    assert averaged.loop("rvq").ema_decay == 0 and averaged.loop("gpt").ema_decay == 0.9


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rvq": Stage(0.7)}, "shares: found .0.7, 0.5.*add up to 1"),
        ({"rvq": Stage(1.5), "gpt": Stage(-0.5)}, "shares"),
        ({"steps": 1}, "steps: found 1; expected a step or more for each stage"),
        ({"keep": 1.1}, "keep: found 1.1; expected a share of 0 to 1"),
        ({"gpt": Stage(0.5, text_dropout=0.1)}, "text_dropout: found more than 0.*no guidance"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(InputError, match=f"T2MGPTTrainConfig: {message}"):
        replace(PLAIN, **change)


def test_every_token_and_the_end_are_predicted_from_what_is_shown(untrained):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(12, (3, 4), generator=generator)
    shown = torch.randint(12, (3, 4), generator=generator)
    lengths = [3, 1, 4]
    valid = torch.arange(4) < torch.tensor(lengths)[:, None]
    text = torch.randn(3, 16, generator=generator)
    model = untrained.gpt
    for p in model.parameters():
        p.data.mul_(5)
    with torch.no_grad():
        loss, right, counted = gpt_losses(model, tokens, valid, text, shown)
        assert counted.sum(1).tolist() == [4, 2, 4]
        for i, length in enumerate(lengths):
            targets = [*tokens[i, :length].tolist(), model.end_id]
            # The longest motion may have been cut: that it ends is not learnt.
            for place, target in enumerate(targets[:4]):
                logits = model(shown[i : i + 1, :place], text[i : i + 1])[0, -1]
                expected = -logits.log_softmax(0)[target]
                torch.testing.assert_close(loss[i, place], expected, atol=1e-5, rtol=1e-5)
                assert bool(right[i, place]) == (int(logits.argmax()) == target)
                assert counted[i, place]


def test_some_tokens_are_replaced_by_any_code():
    tokens = torch.full((200, 50), 5)
    rng = np.random.default_rng(0)
    shown = corrupted(tokens, 12, 0.5, rng)
    kept = float((shown == 5).float().mean())
    assert kept == pytest.approx(0.5 + 0.5 / 12, abs=0.02)
    shares = torch.bincount(shown[shown != 5], minlength=12) / int((shown != 5).sum())
    torch.testing.assert_close(shares[shares > 0], torch.full((11,), 1 / 11), atol=0.02, rtol=0)
    assert torch.equal(corrupted(tokens, 12, 1.0, rng), tokens)
    assert not torch.equal(corrupted(tokens, 12, 0.5, rng), shown)


@pytest.fixture
def data(untrained, clips):
    give_codes(untrained)
    motions = normalised_motions(untrained.normaliser, clips)
    return TokenData(untrained.rvq, untrained.text_encoder, 4, motions, clips)


def test_the_loss_of_a_step_weighs_motions_alike_and_shows_corrupted_tokens(
    untrained, data, monkeypatch
):
    model, seen = untrained.gpt, []
    batch = data.batch([0, 1, 2, 3], [0] * 4, [4, 1, 2, 3], [0] * 4)
    monkeypatch.setattr(data, "step", lambda batch_size, seed, step: batch)
    tokens, valid, text = batch
    tokens, real = tokens[..., 0], model.forward

    def spy(shown, text):
        seen.append(shown)
        return real(shown, text)

    monkeypatch.setattr(model, "forward", spy)
    losses = _losses(data, 4, 0.5, 0)
    with torch.no_grad():
        terms, again, _ = (losses(model, step) for step in (3, 3, 4))
        loss, right, counted = gpt_losses(model, tokens, valid, text, seen[0])
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0][valid], tokens[valid])
    expected = np.mean([float(row[keep].mean()) for row, keep in zip(loss, counted, strict=True)])
    assert float(terms["total"]) == float(again["total"]) == pytest.approx(expected, rel=1e-5)
    assert abs(expected - float(loss[counted].mean())) > 1e-4
    assert float(terms["accuracy"]) == pytest.approx(float(right[counted].float().mean()))


def test_validation_counts_predictions_alike_and_shows_the_tokens_as_they_are(untrained, data):
    for p in untrained.gpt.parameters():
        p.data.mul_(5)
    together = gpt_validation(untrained.gpt.train(), data, 5)
    untrained.gpt.eval()
    total = hits = count = 0.0
    for i, frames in enumerate(data.frames):
        tokens, valid, text = data.batch([i], [0], [min(frames // 4, 4)], [0])
        tokens = tokens[..., 0]
        with torch.no_grad():
            loss, right, counted = gpt_losses(untrained.gpt, tokens, valid, text, tokens)
        total, hits = total + float(loss[counted].sum()), hits + int(right[counted].sum())
        count += int(counted.sum())
    assert together["total"] == pytest.approx(total / count, rel=1e-4)
    assert together["accuracy"] == pytest.approx(hits / count)


def test_refinement_moves_the_decoder_alone(untrained, clips, tmp_path):
    base, _ = run(untrained, clips, tmp_path)
    config = replace(refinement(25, 4, 5e-3, LossWeights()), window=8)
    control, _ = run(base, clips, tmp_path, config, clips)
    arm, curves = run(base, clips, tmp_path, replace(config, weights=LossWeights(acc=3.0)), clips)
    for trained in (control, arm):
        parts = [(p.rvq.encoder, p.rvq.quantizer, p.gpt, p.rvq.decoder) for p in (base, trained)]
        same = [
            all(
                torch.equal(a, b)
                for a, b in zip(
                    before.state_dict().values(), after.state_dict().values(), strict=True
                )
            )
            for before, after in zip(*parts, strict=True)
        ]
        assert same == [True, True, True, False]
    accs = [p.history[-1]["validation"]["rvq"]["acc"] for p in (control, arm)]
    assert accs[1] < accs[0]
    assert set(curves["stage"]) == {"rvq"}


def test_when_a_motion_ends_is_learnt(untrained, clips, tmp_path):
    """One clip of three tokens, now and then a token shorter: most are made as long as it is."""
    give_codes(untrained)
    clip = replace(clips[0], features=clips[0].features[:1].repeat(12, 0), captions=["stands"])
    config = replace(GPT_ALONE, steps=250, gpt=Stage(1.0, 8, 1e-2), checkpoint_every=250)
    trained, _ = run(untrained, [clip], tmp_path, config)
    lengths = [len(x) for x in generate(trained, ["stands"] * 30, None, range(30), progress=False)]
    assert lengths.count(12) > 12 and lengths.count(8) > 3
    assert lengths.count(12) + lengths.count(8) >= 27


def test_what_is_learnt_holds_for_people_who_were_not_trained_on(encoder, tmp_path):
    """Demo corpus, unseen subjects: reconstruction and the loss of tokens fall."""
    clips, splits = build_corpus(seed=0, clips=54)
    clips = {clip.name: replace(clip, captions=clip.captions[:1]) for clip in clips}
    training, held_out = ([clips[name] for name in splits[s]] for s in ("train", "val"))
    normaliser = Normaliser(*statistics([clip.features for clip in training]))
    config = T2MGPTConfig(
        rvq=RVQConfig(width=32, code_width=16, codes=16, levels=1, dropout=0.0, temperature=0.0),
        transformer=GPTConfig(width=32, layers=1, heads=2, feedforward=64, dropout=0.0),
    )
    prior = new_t2mgpt(config, normaliser, encoder, 0)
    settings = replace(plain_training(120, 8, 2e-3), window=32)
    trained, curves = run(prior, training, tmp_path, settings, held_out)

    motions = normalised_motions(normaliser, held_out)
    terms = [rvq_validation(p.rvq, motions, RVQTrainConfig(), normaliser) for p in (prior, trained)]
    for name in ("reconstruction", "positions", "simple"):
        assert terms[1][name] < terms[0][name]
    data = TokenData(trained.rvq, trained.text_encoder, 50, motions, held_out)
    before, after = (gpt_validation(p.gpt, data, 8) for p in (prior, trained))
    assert after["total"] < before["total"] and after["accuracy"] > before["accuracy"]
    last = curves[(curves.split == "validation") & (curves.stage == "gpt")].iloc[-1]
    assert last["total"] == pytest.approx(after["total"], rel=1e-4)
    prompts = ["a person walks", "a person jumps"]
    motions = generate(trained, prompts, [61, 100], [0, 1], progress=False)
    assert [len(x) for x in motions] == [61, 100]
