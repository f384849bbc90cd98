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
from t2imu_utils.priors.masked_transformer import TokenTransformerConfig
from t2imu_utils.priors.momask import MoMaskConfig, generate, new_momask
from t2imu_utils.priors.momask_training import (
    STAGES,
    MoMaskTrainConfig,
    draw_levels,
    mask_losses,
    plain_training,
    refinement,
    residual_losses,
    train,
    transformer_validation,
)
from t2imu_utils.priors.rvq import RVQConfig, tokenise
from t2imu_utils.priors.rvq_training import RVQTrainConfig, normalised_motions, rvq_validation
from t2imu_utils.priors.stages import Stage
from t2imu_utils.priors.text import load_text_encoder
from t2imu_utils.priors.token_data import TokenData

SIZES = MoMaskConfig(
    rvq=RVQConfig(width=16, code_width=8, codes=12, levels=3, dropout=0.1),
    transformer=TokenTransformerConfig(
        token_width=16, width=16, layers=1, heads=2, feedforward=32, dropout=0.1, max_tokens=4
    ),
)
PLAIN = replace(plain_training(16, 4, 1e-3), window=8, checkpoint_every=3)


@pytest.fixture
def untrained(clips, encoder):
    everything = np.concatenate([clip.features for clip in clips])
    normaliser = Normaliser(everything.mean(0), everything.std(0) + 0.05)
    return new_momask(SIZES, normaliser, encoder, 3)


def run(prior, clips, folder, config=PLAIN, validation=()):
    return train(prior, clips, config, folder, validation, progress=False)


def state(prior):
    networks = [getattr(prior, name) for name in STAGES]
    return torch.cat([x.flatten() for n in networks for x in n.state_dict().values()])


def test_an_interrupted_training_ends_bit_for_bit_where_a_whole_one_ends(
    untrained, clips, tmp_path, monkeypatch
):
    whole, curves = run(untrained, clips, tmp_path / "whole", validation=clips[:3])
    real, calls = loop._State.update, []

    def interrupt(*arguments):
        calls.append(1)
        # 8 steps of the tokeniser, 4 of each transformer.
        if len(calls) in (7, 17):
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
    assert rows["step"].tolist() == list(range(1, 17))
    assert rows["stage"].value_counts(sort=False).to_dict() == dict(
        zip(STAGES, (8, 4, 4), strict=True)
    )
    assert rows[rows.stage == "rvq"][["reconstruction", "commit", "acc"]].notna().all(axis=None)
    assert rows[rows.stage != "rvq"]["accuracy"].between(0, 1).all()
    checks = curves[curves.split == "validation"]
    assert checks["step"].tolist() == [8, 12, 16]
    (entry,) = trained.history
    assert entry["config"]["weights"]["acc"] == 0.1 and entry["clips"] == len(clips)
    assert set(entry["validation"]) == set(STAGES)
    assert entry["validation"]["mask"]["accuracy"] == checks["accuracy"].iloc[1]
    assert torch.equal(state(untrained), before) and untrained.history == []
    for name in STAGES:
        assert not getattr(trained, name).training
    assert len(list(tmp_path.iterdir())) == 3


def test_a_weight_of_zero_is_the_control_bit_for_bit(untrained, clips, tmp_path):
    control, _ = run(untrained, clips, tmp_path)
    zero = LossWeights(acc=0.0, acc_variant="joints")
    arm, curves = run(untrained, clips, tmp_path, replace(PLAIN, weights=zero))
    assert torch.equal(state(control), state(arm))
    assert curves["acc"].isna().all()
    other, _ = run(untrained, clips, tmp_path, replace(PLAIN, weights=LossWeights(acc=1.0)))
    assert not torch.equal(state(control), state(other))


def test_a_stage_without_a_share_keeps_its_network(untrained, clips, tmp_path):
    config = replace(PLAIN, steps=8, rvq=Stage(0.0), mask=Stage(1.0, 4), residual=Stage(0.0))
    trained, curves = run(untrained, clips, tmp_path, config)
    kept = [
        all(
            torch.equal(a, b)
            for a, b in zip(
                getattr(trained, name).state_dict().values(),
                getattr(untrained, name).state_dict().values(),
                strict=True,
            )
        )
        for name in STAGES
    ]
    assert kept == [True, False, True]
    assert set(curves["stage"]) == {"mask"} and len(curves) == 8


def test_one_number_of_steps_is_divided_by_shares():
    config = MoMaskTrainConfig(1001)
    assert config.stage_steps() == {"rvq": 500, "mask": 251, "residual": 250}
    loop = MoMaskTrainConfig(20000).loop("rvq")
    assert (loop.steps, loop.warmup, loop.milestones) == (10000, 55, (4145, 6845))
    assert loop.betas == (0.9, 0.99) and loop.weight_decay == 0
    assert MoMaskTrainConfig(20000, ema_decay=0.9).loop("rvq").ema_decay == 0
    assert MoMaskTrainConfig(20000, ema_decay=0.9).loop("mask").ema_decay == 0.9
    assert config.tokeniser() == RVQTrainConfig()
    assert replace(config, level_dropout=0.5).tokeniser().level_dropout == 0.5


def test_a_short_training_keeps_shares_and_text_dropout_of_the_recipe():
    recipe, plain = MoMaskTrainConfig(100), plain_training(100, 8, 1e-3)
    for name in STAGES:
        stage, original = plain.stage(name), recipe.stage(name)
        assert stage.share == original.share and stage.text_dropout == original.text_dropout
        assert (stage.batch_size, stage.learning_rate, stage.milestones) == (8, 1e-3, ())
    assert [plain.stage(name).text_dropout for name in STAGES] == [0.0, 0.1, 0.2]
    assert list(plain.stage_steps().values()) == [50, 25, 25]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rvq": Stage(0.7)}, "shares: found .0.7, 0.25, 0.25.*add up to 1"),
        ({"rvq": Stage(1.5), "mask": Stage(-0.75)}, "shares"),
        ({"steps": 1}, "steps: found 1; expected a step or more for each stage"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        replace(PLAIN, **change)


def test_refinement_moves_the_decoder_alone(untrained, clips, tmp_path):
    base, _ = run(untrained, clips, tmp_path)
    config = replace(refinement(25, 4, 5e-3, LossWeights()), window=8)
    control, _ = run(base, clips, tmp_path, config, clips)
    arm, curves = run(base, clips, tmp_path, replace(config, weights=LossWeights(acc=3.0)), clips)
    for trained in (control, arm):
        kept = {"rvq.encoder", "rvq.quantizer", "mask", "residual"}
        for name in kept:
            part, _, inner = name.partition(".")
            before, after = (
                getattr(getattr(p, part), inner) if inner else getattr(p, part)
                for p in (base, trained)
            )
            pairs = zip(before.state_dict().values(), after.state_dict().values(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs), name
        assert not torch.equal(
            base.rvq.decoder.model[0].weight, trained.rvq.decoder.model[0].weight
        )
        assert all(p.requires_grad for p in trained.rvq.parameters())
    accs = [p.history[-1]["validation"]["rvq"]["acc"] for p in (control, arm)]
    assert accs[1] < accs[0]
    assert set(curves["stage"]) == {"rvq"}


@pytest.fixture
def data(untrained, clips):
    untrained.rvq.train()(torch.randn(3, 16, 263))
    motions = normalised_motions(untrained.normaliser, clips)
    return TokenData(untrained.rvq.eval(), untrained.text_encoder, 4, motions, clips), motions


def test_crops_begin_at_any_frame_and_hold_the_clips_tokens(untrained, clips, data):
    data, motions = data
    tokens, valid, text = data.batch([0, 1], [0, 5], [1, 2], [0, 1])
    first = tokenise(untrained.rvq, [motions[0], motions[1][1:]])
    assert torch.equal(tokens[0, :1], first[0][:1])
    assert torch.equal(tokens[1], first[1][1:3])
    assert valid.tolist() == [[True, False], [True, True]]
    expected = untrained.text_encoder.encode_pooled([clips[0].captions[0], clips[1].captions[1]])
    assert torch.equal(text, expected)
    counts, again = [], []
    for step in range(40):
        tokens, valid, _ = data.step(4, 0, step)
        assert tokens.shape[1] <= 4
        counts += valid.sum(1).tolist()
        again.append(torch.equal(tokens, data.step(4, 0, step)[0]))
    assert all(again) and min(counts) >= 1 and max(counts) == 4


class Echo(torch.nn.Module):
    """Writes down what a mask transformer is shown, and is sure of code 3 everywhere."""

    mask_id = 12
    config = SIZES.transformer

    def forward(self, tokens, text, valid, drop_text=None):
        self.shown = tokens
        return torch.nn.functional.one_hot(torch.full(tokens.shape, 3), 12) * 9.0


@pytest.mark.parametrize("corrupt", [True, False])
def test_a_cosine_share_of_the_valid_tokens_is_masked(corrupt):
    model = Echo()
    model.config = replace(SIZES.transformer, codes=12)
    valid = torch.arange(40)[None] < torch.tensor([[40], [20]])
    valid = valid.repeat(300, 1)
    tokens = torch.full((600, 40), 5)
    times, rng = np.full(600, 0.5), np.random.default_rng(0)
    drop = torch.zeros(600, dtype=torch.bool)
    loss, right = mask_losses(model, tokens, valid, torch.zeros(600, 4), drop, times, rng, corrupt)
    assert not right.any()
    expected = -torch.tensor([9.0, *[0.0] * 11]).log_softmax(0)[1]
    torch.testing.assert_close(loss, expected.expand(len(loss)))
    masked = [round(40 * 0.5**0.5), round(20 * 0.5**0.5)]
    assert len(loss) == 300 * sum(masked)
    hidden = model.shown == model.mask_id
    assert not hidden[~valid].any()
    if corrupt:
        # 79.2 % are hidden, a tenth are random codes, of which some are right by chance.
        assert float(hidden.sum()) / len(loss) == pytest.approx(0.792, abs=0.02)
        random = (model.shown != 5) & ~hidden
        assert float(random.sum()) / len(loss) == pytest.approx(0.1 * 11 / 12, abs=0.01)
    else:
        assert hidden.sum(1).tolist() == masked * 300


def test_one_token_at_least_is_masked():
    model = Echo()
    valid = torch.ones(5, 3, dtype=torch.bool)
    drop = torch.zeros(5, dtype=torch.bool)
    loss, right = mask_losses(
        model, torch.full((5, 3), 3), valid, torch.zeros(5, 4), drop, np.ones(5),
        np.random.default_rng(0),
    )  # fmt: skip
    assert len(loss) == 5 and right.all()


def test_low_levels_are_trained_more_often():
    levels = draw_levels(np.linspace(0, 1, 10001), 6)
    shares = np.bincount(levels, minlength=6)[1:] / 10001
    edges = np.arccos(1 - np.array([0.5, 1.5, 2.5, 3.5]) / 4) / (np.pi / 2)
    np.testing.assert_allclose(shares, np.diff([0, *edges, 1]), atol=1e-3)
    assert shares[0] == max(shares)
    assert set(draw_levels(np.linspace(0, 1, 5), 2)) == {1}


def test_the_target_of_a_level_is_its_own_tokens(untrained):
    tokens = torch.randint(12, (2, 4, 3), generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    text, drop = torch.randn(2, 16), torch.zeros(2, dtype=torch.bool)
    levels = np.array([2, 1])
    loss, _ = residual_losses(untrained.residual, tokens, valid, text, drop, levels)
    logits = untrained.residual(tokens, torch.from_numpy(levels), text, valid).log_softmax(-1)
    expected = [-logits[0, i, tokens[0, i, 2]] for i in range(4)]
    expected += [-logits[1, i, tokens[1, i, 1]] for i in range(2)]
    torch.testing.assert_close(loss, torch.stack(expected))


def test_what_is_learnt_holds_for_people_who_were_not_trained_on(tmp_path):
    """Demo corpus, unseen subjects: reconstruction and both token losses fall."""
    clips, splits = build_corpus(seed=0, clips=54)
    clips = {clip.name: replace(clip, captions=clip.captions[:1]) for clip in clips}
    training, held_out = ([clips[name] for name in splits[s]] for s in ("train", "val"))
    normaliser = Normaliser(*statistics([clip.features for clip in training]))
    config = MoMaskConfig(
        rvq=RVQConfig(width=32, code_width=16, codes=16, levels=3, dropout=0.0),
        transformer=TokenTransformerConfig(
            token_width=32, width=32, layers=1, heads=2, feedforward=64, dropout=0.0
        ),
    )
    prior = new_momask(config, normaliser, load_text_encoder("minilm"), 0)
    settings = replace(plain_training(120, 8, 2e-3), window=32)
    trained, curves = run(prior, training, tmp_path, settings, held_out)

    motions = normalised_motions(normaliser, held_out)
    terms = [rvq_validation(p.rvq, motions, RVQTrainConfig(), normaliser) for p in (prior, trained)]
    for name in ("reconstruction", "positions", "simple"):
        assert terms[1][name] < terms[0][name]
    data = TokenData(trained.rvq, trained.text_encoder, 49, motions, held_out)
    for name in ("mask", "residual"):
        before, after = (
            transformer_validation(getattr(p, name), data, 8, 0) for p in (prior, trained)
        )
        assert after["total"] < before["total"]
        # A guess at random may be right as often as the little that is learnt of the finer levels.
        assert name == "residual" or after["accuracy"] > before["accuracy"]
        last = curves[(curves.split == "validation") & (curves.stage == name)].iloc[-1]
        assert last["total"] == pytest.approx(after["total"], rel=1e-4)
    motions = generate(
        trained, ["a person walks", "a person jumps"], [61, 100], [0, 1], progress=False
    )
    assert [len(x) for x in motions] == [61, 100]
