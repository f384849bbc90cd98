"""What the staged trainings share, on tiny networks of both generators."""

from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType

import numpy as np
import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.models import momask as momask_training
from t2imu_utils.models import t2mgpt as t2mgpt_training
from t2imu_utils.models import trainer as loop
from t2imu_utils.models.losses import LossWeights
from t2imu_utils.models.momask import MoMaskConfig, MoMaskPrior, TokenTransformerConfig, new_momask
from t2imu_utils.models.t2mgpt import GPTConfig, T2MGPTConfig, T2MGPTPrior, new_t2mgpt
from t2imu_utils.models.tokeniser import (
    RVQConfig,
    Stage,
    StagedTrainConfig,
    TokenData,
    normalised_motions,
    rvq_validation,
    short_stage,
)
from t2imu_utils.motion.corpus import Normaliser

RVQ = RVQConfig(width=16, code_width=8, codes=12, levels=3, dropout=0.1)
MOMASK = MoMaskConfig(
    rvq=RVQ,
    transformer=TokenTransformerConfig(
        token_width=16, width=16, layers=1, heads=2, feedforward=32, max_tokens=4
    ),
)
T2MGPT = T2MGPTConfig(
    rvq=replace(RVQ, levels=1, dropout=0.0, temperature=0.0),
    transformer=GPTConfig(width=16, layers=1, heads=2, feedforward=32, max_tokens=4),
)


@dataclass
class Case:
    module: ModuleType
    prior: MoMaskPrior | T2MGPTPrior

    @property
    def stages(self) -> tuple[str, ...]:
        return self.module.STAGES

    def train(self, config, clips, folder, prior=None, validation=()):
        config = replace(config, window=8)
        return self.module.train(
            prior or self.prior, clips, config, folder, validation, progress=False
        )


@pytest.fixture(params=["momask", "t2mgpt"])
def case(request, clips, encoder) -> Case:
    everything = np.concatenate([clip.features for clip in clips])
    normaliser = Normaliser(everything.mean(0), everything.std(0) + 0.05)
    if request.param == "momask":
        return Case(momask_training, new_momask(MOMASK, normaliser, encoder, 3))
    return Case(t2mgpt_training, new_t2mgpt(T2MGPT, normaliser, encoder, 3))


def same(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("change", [{"batch_size": 0}, {"warmup": 2.0}, {"text_dropout": -0.1}])
def test_impossible_stages_are_refused(change):
    with pytest.raises(InputError, match="Stage: .*shares of 0 to 1"):
        Stage(0.5, **change)


def test_the_rate_of_a_short_stage_rises_and_stays(case):
    assert short_stage(0.25, 8, 1e-3, 0.1) == Stage(
        0.25, 8, 1e-3, warmup=0.02, milestones=(), text_dropout=0.1
    )
    for config in (
        case.module.plain_training(400, 8, 1e-3, 7),
        case.module.refinement(400, 8, 1e-3, LossWeights(), 7),
    ):
        for name, steps in config.stage_steps().items():
            if steps:
                settings = config.loop(name)
                assert settings.warmup == round(0.02 * steps) and settings.seed == 7
                rates = [loop.learning_rate_at(settings, step) for step in (0, steps // 2, steps)]
                assert rates[0] < rates[1] == rates[2] == 1e-3


def test_averaging_checkpoints_and_validation_are_those_that_were_asked_for(case):
    asked = {"ema_decay": 0.9, "checkpoint_every": 30, "validate_every": 7, "early_stopping": True}
    plain = case.module.plain_training(100, 8, 1e-3, **asked)
    refined = case.module.refinement(100, 8, 1e-3, LossWeights(acc=0.1), 0, **asked)
    for config in (plain, refined):
        for name in case.stages:
            if config.stage_steps()[name]:
                settings = config.loop(name)
                assert (settings.checkpoint_every, settings.validate_every) == (30, 7)
                assert settings.early_stopping
    # Codebooks follow the encoder of each step, unless both stay as they are.
    averaged = [plain.loop(name).ema_decay for name in case.stages]
    assert averaged == [0.0, *[0.9] * (len(case.stages) - 1)]
    assert refined.loop("rvq").ema_decay == 0.9
    assert isinstance(plain, StagedTrainConfig) and not plain.decoder_only
    assert refined.decoder_only and refined.weights.acc == 0.1


def test_each_stage_is_validated_at_the_same_counts_of_its_own_steps(case, clips, tmp_path):
    config = case.module.plain_training(20, 4, 1e-3, validate_every=2)
    _, curves = case.train(config, clips, tmp_path, validation=clips[:3])
    checks, done = curves[curves.split == "validation"], 0
    for name, steps in config.stage_steps().items():
        own = sorted({*range(2, steps + 1, 2), steps})
        assert (checks[checks.stage == name]["step"] - done).tolist() == own
        done += steps
    assert done == 20


def test_of_each_stage_the_weights_that_did_best_are_kept(case, clips, tmp_path):
    """Others than the last, since steps are far too long."""
    recipe = partial(case.module.plain_training, 24, 4, 3e-2, validate_every=2)
    held_out = [replace(clip, features=-clip.features) for clip in clips[:4]]
    prior, curves = case.train(recipe(early_stopping=True), clips, tmp_path, validation=held_out)
    checks = curves[curves.split == "validation"]
    best = {n: rows.loc[rows["total"].idxmin()] for n, rows in checks.groupby("stage", sort=False)}
    kept = prior.history[-1]["validation"]
    assert list(kept) == list(case.stages) and prior.history[-1]["config"]["early_stopping"]
    for name, row in best.items():
        assert row.drop(["split", "stage"]).dropna().to_dict() == kept[name]
    ends = np.cumsum(list(recipe().stage_steps().values()))
    assert any(row["step"] < end for row, end in zip(best.values(), ends, strict=True))
    motions = normalised_motions(prior.normaliser, held_out)
    config = replace(recipe(), window=8).tokeniser()
    found = rvq_validation(prior.rvq, motions, config, prior.normaliser)
    assert found["total"] == pytest.approx(best["rvq"]["total"], rel=1e-5)
    # The transformers learn the tokens of the tokeniser that is kept.
    tokens = TokenData(prior.rvq, prior.text_encoder, 4, motions, held_out)
    for name in case.stages[1:]:
        if case.module is t2mgpt_training:
            found = t2mgpt_training.gpt_validation(prior.gpt, tokens, 4)
        else:
            found = momask_training.transformer_validation(getattr(prior, name), tokens, 4, seed=0)
        assert found["total"] == pytest.approx(best[name]["total"], rel=1e-4)


def test_without_held_out_clips_there_is_no_early_stopping(case, clips, tmp_path):
    for config in (
        case.module.plain_training(20, 4, 1e-3, validate_every=2, early_stopping=True),
        case.module.refinement(20, 4, 1e-3, LossWeights(), validate_every=2, early_stopping=True),
    ):
        with pytest.raises(InputError, match="early_stopping: found no held-out clips"):
            case.train(config, clips, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_transformers_are_averaged_and_a_whole_tokeniser_is_not(case, clips, tmp_path):
    plain, averaged = (
        case.train(case.module.plain_training(24, 4, 3e-3, ema_decay=x), clips, tmp_path)[0]
        for x in (0.0, 0.9)
    )
    first, *others = case.stages
    assert same(getattr(plain, first), getattr(averaged, first))
    for name in others:
        assert not same(getattr(plain, name), getattr(averaged, name))


def test_refinement_averages_the_decoder_and_nothing_else(case, clips, tmp_path):
    base, _ = case.train(case.module.plain_training(12, 4, 1e-3), clips, tmp_path)
    plain, averaged = (
        case.train(
            case.module.refinement(20, 4, 3e-3, LossWeights(acc=1.0), ema_decay=x),
            clips, tmp_path, base,
        )[0]
        for x in (0.0, 0.9)
    )  # fmt: skip
    for name in ("encoder", "quantizer"):
        assert same(getattr(base.rvq, name), getattr(averaged.rvq, name))
    decoders = [p.rvq.decoder.model[0].weight.detach() for p in (base, plain, averaged)]
    moved = [float((x - decoders[0]).norm()) for x in decoders]
    assert 0 < moved[2] < moved[1]
    for name in case.stages[1:]:
        assert same(getattr(base, name), getattr(averaged, name))


def test_how_often_a_state_is_written_changes_nothing(case, clips, tmp_path):
    rare, often = (
        case.train(
            case.module.plain_training(12, 4, 1e-3, checkpoint_every=x), clips, tmp_path / str(x)
        )[0]
        for x in (100, 1)
    )
    assert all(same(getattr(rare, name), getattr(often, name)) for name in case.stages)
    names = [sorted(p.name for p in (tmp_path / x).iterdir()) for x in ("100", "1")]
    assert names[0] == names[1] and len(names[0]) == len(case.stages)
