"""Base and arms of a study: what they are made from, when they are made again, what is kept."""

import json
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch

from t2imu_utils import finetuning, runs
from t2imu_utils.errors import InputError
from t2imu_utils.finetuning import Study
from t2imu_utils.models.losses import LossWeights

REFINED = LossWeights(acc=0.5)


@pytest.fixture
def study(tiny, words, clips, runs_folder) -> Study:
    """MDM of the smallest size on nine clips, with three others to validate it on."""
    return Study(tiny, "mdm", clips[:9], clips[9:], {"corpus": "a" * 64})


@pytest.fixture
def base(study) -> runs.Run:
    return study.make_base(study.start())


def with_training(study, **changes):
    training = study.track.training.model_copy(update=changes)
    return replace(study, track=study.track.model_copy(update={"training": training}))


def stamp(run):
    return run.path("run.json").stat().st_mtime_ns


def states_equal(a, b):
    a, b = a.model.state_dict(), b.model.state_dict()
    return all(torch.equal(a[key], b[key]) for key in a)


def test_arms_differ_in_the_weights_of_their_losses_alone(tiny):
    control = finetuning.finetuning(tiny, LossWeights(), None, 2)
    refined = finetuning.finetuning(tiny, LossWeights(acc=0.1, vel=0.2), None, 2)
    assert refined != control == replace(refined, weights=LossWeights())
    assert control.steps == tiny.training.finetune_steps
    assert control.learning_rate == tiny.training.finetune_learning_rate
    own = {"steps", "learning_rate", "validate_every"}
    base = asdict(finetuning.pretraining(tiny, "mdm", 2))
    assert {k: v for k, v in asdict(control).items() if k not in own} == {
        k: v for k, v in base.items() if k not in own
    }


def test_a_base_is_whole_and_can_be_read_again(study, base, words):
    names = {path.name for path in base.dir.iterdir()}
    assert names == {finetuning.PRIOR, finetuning.HISTORY, "run.json"}
    record = runs.require_run(study.track.name, "mdm", finetuning.STAGE)
    assert set(record["outputs"]) == {finetuning.PRIOR, finetuning.HISTORY}
    loaded = finetuning.load_model(study.track, "mdm")
    expected, curves = study.generator.train(
        study.start(), study.clips, finetuning.pretraining(study.track, "mdm"), base.dir,
        study.held_out, "cpu",
    )  # fmt: skip
    assert states_equal(loaded, expected) and len(loaded.history) == 1
    assert loaded.history == json.loads(json.dumps(expected.history))
    pd.testing.assert_frame_equal(pd.read_parquet(base.path(finetuning.HISTORY)), curves)
    last = curves[curves["split"] == "validation"].iloc[-1]
    assert record["metrics"]["clips"] == 9 and last["step"] == study.track.training.pretrain_steps
    assert record["metrics"]["validation"]["acc"] == pytest.approx(last["acc"])
    assert record["metrics"]["parameters"] == study.generator.parameters(expected) > 0


def test_what_others_are_trained_after_is_taken_as_it_is(study, base):
    refined = study.make_arm(base, finetuning.finetuning(study.track, REFINED, None, 0))
    before = stamp(base), stamp(refined)
    again = study.make_base(study.start(), again=False)
    arm = study.make_arm(again, finetuning.finetuning(study.track, REFINED, None, 0), again=False)
    assert (stamp(again), stamp(arm)) == before and arm.metrics == refined.metrics
    # How often a training is kept on the way changes nothing.
    same = with_training(study, checkpoint_every=3)
    assert stamp(same.make_base(same.start(), again=False)) == before[0]


@pytest.mark.parametrize(
    "change",
    [
        {"pretrain_steps": 11},
        {"pretrain_learning_rate": 2e-3},
        {"batch_size": 3},
        {"condition_dropout": 0.2},
    ],
)
def test_other_settings_are_another_training(study, base, change):
    before = stamp(base)
    other = with_training(study, **change)
    assert stamp(other.make_base(other.start(), again=False)) != before


def test_an_arm_goes_on_from_its_base(study, base):
    control = study.make_arm(base, finetuning.finetuning(study.track, LossWeights(), None, 0))
    refined = study.make_arm(base, finetuning.finetuning(study.track, REFINED, None, 0))
    assert [run.dir.parts[-2] for run in (control, refined)] == ["mdm-ft", "mdm-acc0.5"]
    record = runs.require_run(study.track.name, "mdm-acc0.5", finetuning.STAGE)
    trained_on = runs.input_hash(study.track.name, "mdm", finetuning.STAGE)
    assert record["inputs"] == study.inputs | {"base": trained_on}
    assert record["params"]["training"]["weights"]["acc"] == 0.5
    prior = study.generator.load(base.path(finetuning.PRIOR))
    settings = finetuning.finetuning(study.track, REFINED, None, 0)
    expected, _ = study.generator.refine(
        prior, study.clips, settings, refined.dir, study.held_out, "cpu"
    )
    loaded = finetuning.load_model(study.track, "mdm-acc0.5")
    assert states_equal(loaded, expected) and not states_equal(loaded, prior)
    assert len(loaded.history) == 2
    assert not states_equal(loaded, finetuning.load_model(study.track, "mdm-ft"))
    np.testing.assert_array_equal(loaded.normaliser.mean, prior.normaliser.mean)


def test_a_model_that_was_not_trained_is_told(study):
    with pytest.raises(InputError, match="the finished stage 02_finetuning of mdm-acc9"):
        finetuning.load_model(study.track, "mdm-acc9")
    with pytest.raises(InputError, match="generator 'kimodo': found track demo has mdm, momask"):
        finetuning.has_losses(study.track, "kimodo")
    assert finetuning.has_losses(study.track, "momask-acc0.1")
