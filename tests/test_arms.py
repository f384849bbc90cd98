"""Base and arms of a study: what they are made from, when they are made again, what is kept."""

import json
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch

from t2imu_utils import arms, runs
from t2imu_utils.arms import Study
from t2imu_utils.errors import InputError
from t2imu_utils.models.generator import family
from t2imu_utils.models.losses import TERMS, LossWeights
from t2imu_utils.motion.corpus import statistics

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


def test_a_base_begins_with_the_sizes_of_the_track_and_the_statistics_of_its_clips(study, sizes):
    prior = study.start(seed=1)
    config = asdict(prior.config)
    assert {name: config[name] for name in sizes["mdm"]} == sizes["mdm"]
    assert config["arch"] == "trans_dec" and config["text_width"] == study.encoder.width
    assert prior.history == [] and config["max_frames"] >= study.track.training.max_frames
    mean, std = statistics([clip.features for clip in study.clips])
    np.testing.assert_array_equal(prior.normaliser.mean, mean)
    np.testing.assert_array_equal(prior.normaliser.std, std)
    assert states_equal(prior, study.start(seed=1)) and not states_equal(prior, study.start(2))


def test_a_generator_may_have_a_text_encoder_of_its_own(study):
    assert study.encoder.name == study.track.text_encoder == "words"
    section = study.track.generators["mdm"].model_copy(update={"text_encoder": "minilm"})
    generators = {**study.track.generators, "mdm": section}
    own = replace(study, track=study.track.model_copy(update={"generators": generators}))
    assert own.encoder.name == "minilm"
    assert replace(own, name="momask").encoder.name == "words"


def test_the_base_knows_no_other_loss_than_its_own(tiny):
    settings = arms.pretraining(tiny, "mdm", seed=5)
    assert settings.weights == LossWeights() and settings.seed == 5
    assert settings.steps == tiny.training.pretrain_steps
    assert settings.learning_rate == tiny.training.pretrain_learning_rate
    for name in ("batch_size", "ema_decay", "condition_dropout", "max_frames", "checkpoint_every"):
        assert getattr(settings, name) == getattr(tiny.training, name)
    assert not settings.early_stopping


def test_a_base_may_have_steps_of_its_own(tiny):
    section = tiny.generators["mdm"].model_copy(update={"pretrain_steps": 40})
    track = tiny.model_copy(update={"generators": {**tiny.generators, "mdm": section}})
    own, others = (arms.pretraining(track, name) for name in ("mdm", "momask"))
    assert (own.steps, own.validate_every) == (40, 8)
    assert others == arms.pretraining(tiny, "mdm") == arms.pretraining(tiny, "momask")
    # Arms have the track's.
    assert arms.finetuning(track, REFINED, None, 0) == arms.finetuning(tiny, REFINED, None, 0)


@pytest.mark.parametrize(("steps", "every"), [(4000, 200), (25, 1), (7, 1)])
def test_a_base_that_stops_early_is_looked_at_twenty_times(tiny, steps, every):
    more = {"early_stopping": True, "pretrain_steps": steps}
    track = tiny.model_copy(update={"training": tiny.training.model_copy(update=more)})
    settings = arms.pretraining(track, "mdm")
    assert settings.early_stopping and (settings.steps, settings.validate_every) == (steps, every)
    # Arms of equal budget are compared as they end.
    assert not arms.finetuning(track, REFINED, None, 0).early_stopping


def test_a_base_that_stops_early_tells_the_losses_of_the_weights_kept(study):
    # Held-out motions that are the less like what is predicted the more is learnt.
    held_out = [replace(clip, features=-clip.features) for clip in study.clips[:3]]
    rate = {"pretrain_learning_rate": 0.1, "ema_decay": 0.0}
    stopping = with_training(study, early_stopping=True, **rate)
    stopping = replace(stopping, held_out=held_out)
    run = stopping.make_base(stopping.start())
    curves = pd.read_parquet(run.path(arms.HISTORY))
    checks = curves[curves["split"] == "validation"].set_index("step")
    best = checks["simple"].idxmin()
    assert checks.index.tolist() == list(range(1, 11)) and best < 10
    told = run.metrics["validation"]
    assert told["step"] == best and told["simple"] == pytest.approx(checks["simple"][best])
    settings = arms.pretraining(stopping.track, "mdm")
    kept = arms.load_model(study.track, "mdm")
    found = study.generator.validation(kept, held_out, settings, "cpu")
    assert found["simple"] == pytest.approx(told["simple"], rel=1e-5)
    record = runs.require_run(study.track.name, "mdm", arms.STAGE)
    assert record["params"]["training"]["early_stopping"] is True


def test_arms_differ_in_the_weights_of_their_losses_alone(tiny):
    control = arms.finetuning(tiny, LossWeights(), None, 2)
    refined = arms.finetuning(tiny, LossWeights(acc=0.1, vel=0.2), None, 2)
    assert refined != control == replace(refined, weights=LossWeights())
    assert control.steps == tiny.training.finetune_steps
    assert control.learning_rate == tiny.training.finetune_learning_rate
    own = {"steps", "learning_rate", "validate_every"}
    base = asdict(arms.pretraining(tiny, "mdm", 2))
    assert {k: v for k, v in asdict(control).items() if k not in own} == {
        k: v for k, v in base.items() if k not in own
    }


@pytest.mark.parametrize(("steps", "every"), [(100, 20), (7, 1), (3, 1)])
def test_steps_may_be_set_and_are_validated_five_times(tiny, steps, every):
    settings = arms.finetuning(tiny, LossWeights(), steps, 0)
    assert (settings.steps, settings.validate_every) == (steps, every)


@pytest.mark.parametrize(
    ("weights", "seed", "generator", "name"),
    [
        (LossWeights(), 0, "mdm", "mdm-ft"),
        (LossWeights(), 3, "momask", "momask-ft-s3"),
        (LossWeights(acc=0.1), 0, "mdm", "mdm-acc0.1"),
        (LossWeights(pos=0.5), 0, "mdm", "mdm-ft-pos0.5"),
        (LossWeights(foot=0.5), 0, "mdm", "mdm-ft-foot0.5"),
        (
            LossWeights(acc=1, vel=2, acc_variant="joints"),
            1,
            "t2mgpt",
            "t2mgpt-acc1-vel2-joints-s1",
        ),
        (LossWeights(acc=0.2, acc_variant="spectrum"), 0, "mdm", "mdm-acc0.2-spectrum"),
    ],  # fmt: skip
)
def test_an_arm_is_named_by_its_generator_and_weights(weights, seed, generator, name):
    assert arms.arm_name(weights, seed, generator) == name


def test_a_base_is_whole_and_can_be_read_again(study, base, words):
    names = {path.name for path in base.dir.iterdir()}
    assert names == {arms.PRIOR, arms.HISTORY, "run.json"}
    record = runs.require_run(study.track.name, "mdm", arms.STAGE)
    assert set(record["outputs"]) == {arms.PRIOR, arms.HISTORY}
    loaded = arms.load_model(study.track, "mdm")
    expected, curves = study.generator.train(
        study.start(), study.clips, arms.pretraining(study.track, "mdm"), base.dir,
        study.held_out, "cpu",
    )  # fmt: skip
    assert states_equal(loaded, expected) and len(loaded.history) == 1
    assert loaded.history == json.loads(json.dumps(expected.history))
    pd.testing.assert_frame_equal(pd.read_parquet(base.path(arms.HISTORY)), curves)
    last = curves[curves["split"] == "validation"].iloc[-1]
    assert record["metrics"]["clips"] == 9 and last["step"] == study.track.training.pretrain_steps
    assert record["metrics"]["validation"]["acc"] == pytest.approx(last["acc"])
    assert record["metrics"]["parameters"] == study.generator.parameters(expected) > 0


def test_what_a_run_depends_on_stands_in_its_record(study, base, sizes):
    record = runs.require_run(study.track.name, "mdm", arms.STAGE)
    assert record["params"]["sizes"] == sizes["mdm"]
    training = record["params"]["training"]
    settings = asdict(arms.pretraining(study.track, "mdm"))
    assert training.items() <= settings.items() and "checkpoint_every" not in training
    named = {"steps", "batch_size", "learning_rate", "ema_decay", "condition_dropout", "seed"}
    assert {*named, "max_frames", "weight_decay", "weights", "validate_every"} <= set(training)
    assert record["inputs"] == study.inputs


def test_what_others_are_trained_after_is_taken_as_it_is(study, base):
    refined = study.make_arm(base, REFINED, None, 0)
    before = stamp(base), stamp(refined)
    again = study.make_base(study.start(), again=False)
    arm = study.make_arm(again, REFINED, None, 0, again=False)
    assert (stamp(again), stamp(arm)) == before and arm.metrics == refined.metrics
    # How often a training is kept on the way changes nothing.
    same = with_training(study, checkpoint_every=3)
    assert stamp(same.make_base(same.start(), again=False)) == before[0]


def test_a_training_that_is_asked_for_is_done_again(study, base):
    before, weights = stamp(base), base.path(arms.PRIOR).read_bytes()
    assert stamp(study.make_base(study.start())) != before
    assert base.path(arms.PRIOR).read_bytes() == weights


@pytest.mark.parametrize(
    "change",
    [
        {"pretrain_steps": 11},
        {"pretrain_learning_rate": 1e-3},
        {"batch_size": 3},
        {"condition_dropout": 0.2},
    ],
)
def test_other_settings_are_another_training(study, base, change):
    before = stamp(base)
    other = with_training(study, **change)
    assert stamp(other.make_base(other.start(), again=False)) != before


def test_other_sizes_or_data_are_another_training(study, base, sizes):
    before = stamp(base)
    other = replace(study, inputs={"corpus": "b" * 64})
    second = stamp(other.make_base(other.start(), again=False))
    assert second != before
    section = type(study.track.generators["mdm"])(**sizes["mdm"] | {"width": 24, "heads": 3})
    generators = {**study.track.generators, "mdm": section}
    other = replace(other, track=study.track.model_copy(update={"generators": generators}))
    run = other.make_base(other.start(), again=False)
    assert stamp(run) != second and other.generator.load(run.path(arms.PRIOR)).config.width == 24


def test_an_arm_goes_on_from_its_base(study, base):
    control = study.make_arm(base, LossWeights(), None, 0)
    refined = study.make_arm(base, REFINED, None, 0)
    assert [run.dir.parts[-2] for run in (control, refined)] == ["mdm-ft", "mdm-acc0.5"]
    record = runs.require_run(study.track.name, "mdm-acc0.5", arms.STAGE)
    trained_on = runs.input_hash(study.track.name, "mdm", arms.STAGE)
    assert record["inputs"] == study.inputs | {"base": trained_on}
    assert record["params"]["training"]["weights"]["acc"] == 0.5
    prior = study.generator.load(base.path(arms.PRIOR))
    settings = arms.finetuning(study.track, REFINED, None, 0)
    expected, _ = study.generator.refine(
        prior, study.clips, settings, refined.dir, study.held_out, "cpu"
    )
    loaded = arms.load_model(study.track, "mdm-acc0.5")
    assert states_equal(loaded, expected) and not states_equal(loaded, prior)
    assert len(loaded.history) == 2
    assert not states_equal(loaded, arms.load_model(study.track, "mdm-ft"))
    np.testing.assert_array_equal(loaded.normaliser.mean, prior.normaliser.mean)


def test_another_base_means_another_arm(study, base):
    before = stamp(study.make_arm(base, REFINED, None, 0))
    other = with_training(study, pretrain_steps=11)
    arm = other.make_arm(other.make_base(other.start()), REFINED, None, 0, again=False)
    assert stamp(arm) != before


def test_seed_and_steps_of_an_arm_are_its_own(study, base):
    runs_made = [study.make_arm(base, REFINED, 3, seed) for seed in (0, 1)]
    assert [run.dir.parts[-2] for run in runs_made] == ["mdm-acc0.5", "mdm-acc0.5-s1"]
    first, second = (arms.load_model(study.track, run.dir.parts[-2]) for run in runs_made)
    assert not states_equal(first, second)
    assert first.history[-1]["config"]["steps"] == 3


def test_what_an_interruption_left_is_cleared_away_at_the_end(study):
    folder = runs.run_dir(study.track.name, "mdm", arms.STAGE)
    (folder / "training-0123456789ab.pt").write_bytes(b"of an earlier training")
    study.make_base(study.start())
    assert not list(folder.glob("*.pt"))


def test_an_arm_without_held_out_clips_is_finished_too(study):
    alone = replace(study, held_out=[])
    run = alone.make_base(alone.start())
    assert run.metrics["validation"] == {} and run.metrics["clips"] == 9


def test_a_model_that_was_not_trained_is_told(study):
    with pytest.raises(InputError, match="the finished stage 02_finetuning of mdm-acc9"):
        arms.load_model(study.track, "mdm-acc9")
    with pytest.raises(InputError, match="generator 'kimodo': found track demo has mdm, momask"):
        arms.has_losses(study.track, "kimodo-ft")
    assert arms.has_losses(study.track, "momask-acc0.1")


def test_final_losses_are_the_last_on_held_out_clips(study, base):
    table = arms.final_losses({"mdm": pd.read_parquet(base.path(arms.HISTORY))})
    assert list(table.columns) == list(TERMS)
    for term in TERMS:
        assert table.loc["mdm", term] == pytest.approx(base.metrics["validation"][term])


def test_final_losses_by_hand():
    def curves(last):
        rows = [
            (1, "train", 9.0), (2, "train", 8.0), (1, "validation", 7.0), (2, "validation", last)
        ]  # fmt: skip
        table = pd.DataFrame(rows, columns=["step", "split", "simple"])
        return table.assign(**{term: table["simple"] + i for i, term in enumerate(TERMS)})

    # A term that a stage does not have keeps what it was last.
    later = pd.DataFrame([(3, "validation", 0.4)], columns=["step", "split", "accuracy"])
    staged = pd.concat([curves(0.5), later])
    table = arms.final_losses({"mdm": curves(1.0), "momask": staged, "kimodo": curves(1.0)[:0]})
    assert table.index.tolist() == ["mdm", "momask"]
    np.testing.assert_allclose(table, [[1, 2, 3, 4, 5], [0.5, 1.5, 2.5, 3.5, 4.5]])
    assert set(table.dtypes) == {np.dtype(float)}


def finished(track, model, steps=0, parameters=0, clips=0):
    run = runs.open_run(track.name, model, arms.STAGE, {}, {})
    run.finish({"parameters": parameters, "clips": clips, "steps": steps}, [])


def test_the_budget_tells_what_each_run_was_trained_for(tiny, runs_folder):
    finished(tiny, "mdm", 700, 1_234_567, 90)
    finished(tiny, "mdm-acc0.1", 150, 1_234_567, 90)
    finished(tiny, "momask", 700, 980_000, 90)
    table = arms.budget_table(tiny, ["mdm", "mdm-acc0.1", "momask"])
    assert table["steps"].tolist() == [700, 850, 700]
    assert table["parameters (M)"].tolist() == [1.23, 1.23, 0.98]
    assert table["clips"].tolist() == [90] * 3 and set(table["clips a step"]) == {4}
    expected = "Parameters (M): MDM 1.2 (700 steps), MoMask 1.0 (700 steps); 4 clips a step."
    assert arms.budget(tiny, ["mdm", "mdm-acc0.1", "momask"]) == expected
    # The generators' are told of arms alone as well.
    assert arms.budget(tiny, ["mdm-acc0.1", "momask"]) == expected
    with pytest.raises(InputError, match="finished stage 02_finetuning of t2mgpt"):
        arms.budget_table(tiny, ["t2mgpt"])


def test_settings_are_shown_as_they_will_be_used(study):
    settings = arms.finetuning(study.track, REFINED, None, 0)
    table = arms.settings_table(study, study.start(), settings)["value"]
    assert table["text encoder"] == "words" and table["layers × width"] == "1 × 16"
    assert (table["steps"], table["batch_size"]) == (5, 4) and "base" not in table
    published = study.start()
    published.history.append({"folder": "official", "file": "model000600000.pt"})
    table = arms.settings_table(study, published, settings)["value"]
    assert table["base"] == "official, model000600000.pt"


def test_only_what_the_track_refines_has_arms(tiny, clips):
    section = tiny.generators["momask"].model_copy(update={"refined": False})
    track = tiny.model_copy(update={"generators": {**tiny.generators, "momask": section}})
    studies = [Study(track, name, clips, [], {}) for name in ("mdm", "momask")]
    assert [study.refined for study in studies] == [True, False]
    assert [study.generator for study in studies] == [family("mdm"), family("momask")]
