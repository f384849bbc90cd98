import json
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch

from t2imu_utils import runs
from t2imu_utils.motion.corpus import statistics
from t2imu_utils.priors import arms
from t2imu_utils.priors.checkpoints import load_prior
from t2imu_utils.priors.losses import TERMS, LossWeights
from t2imu_utils.priors.training import TrainConfig, train
from t2imu_utils.tracks import load_track

CONFIG = TrainConfig(
    steps=4, batch_size=4, max_frames=16, checkpoint_every=1, validate_every=2,
    weights=LossWeights(acc=0.5),
)  # fmt: skip


@pytest.fixture(scope="module")
def track():
    track = load_track("demo")
    small = {"layers": 1, "width": 24, "heads": 3, "feedforward": 40, "diffusion_steps": 7}
    return track.model_copy(update={"prior": track.prior.model_copy(update=small)})


def test_an_untrained_prior_has_the_sizes_of_the_track(track, clips, encoder):
    prior = arms.starting_prior(track, clips, encoder, seed=1)
    config = asdict(prior.config)
    assert {name: config[name] for name in track.prior.model_dump()} == track.prior.model_dump()
    assert config["arch"] == "trans_dec" and config["text_width"] == encoder.width
    assert prior.history == [] and config["max_frames"] >= track.training.max_frames
    mean, std = statistics([clip.features for clip in clips])
    np.testing.assert_array_equal(prior.normaliser.mean, mean)
    np.testing.assert_array_equal(prior.normaliser.std, std)

    def weights(seed):
        return arms.starting_prior(track, clips, encoder, seed).model.state_dict()

    own = prior.model.state_dict()
    assert all(torch.equal(own[key], x) for key, x in weights(1).items())
    assert not all(torch.equal(own[key], x) for key, x in weights(2).items())


def test_the_base_knows_no_other_loss_than_the_simple_one(track):
    settings = arms.pretraining(track, seed=5)
    assert settings.weights == LossWeights() and settings.seed == 5
    assert settings.steps == track.training.pretrain_steps
    assert settings.learning_rate == track.training.pretrain_learning_rate
    for name in ("batch_size", "ema_decay", "condition_dropout", "max_frames", "checkpoint_every"):
        assert getattr(settings, name) == getattr(track.training, name)


def test_arms_differ_in_the_weights_of_their_losses_alone(track):
    control = arms.finetuning(track, LossWeights(), None, 2)
    refined = arms.finetuning(track, LossWeights(acc=0.1, vel=0.2), None, 2)
    assert refined != control == replace(refined, weights=LossWeights())
    assert control.steps == track.training.finetune_steps
    assert control.learning_rate == track.training.finetune_learning_rate
    own = {"steps", "learning_rate", "validate_every"}
    base = asdict(arms.pretraining(track, 2))
    assert {k: v for k, v in asdict(control).items() if k not in own} == {
        k: v for k, v in base.items() if k not in own
    }


@pytest.mark.parametrize(("steps", "every"), [(100, 20), (7, 1), (3, 1)])
def test_steps_may_be_set_and_are_validated_five_times(track, steps, every):
    settings = arms.finetuning(track, LossWeights(), steps, 0)
    assert (settings.steps, settings.validate_every) == (steps, every)


@pytest.mark.parametrize(
    ("weights", "seed", "name"),
    [
        (LossWeights(), 0, "mdm-ft"),
        (LossWeights(), 3, "mdm-ft-s3"),
        (LossWeights(acc=0.1), 0, "mdm-acc0.1"),
        (LossWeights(pos=0.5), 0, "mdm-ft-pos0.5"),
        (LossWeights(foot=0.5), 0, "mdm-ft-foot0.5"),
        (LossWeights(acc=1, vel=2, acc_space="joints"), 1, "mdm-acc1-vel2-joints-s1"),
        (LossWeights(acc=1, acc_contacts=False), 0, "mdm-acc1-nocontacts"),
    ],
)
def test_an_arm_is_named_by_its_weights(weights, seed, name):
    assert arms.arm_name(weights, seed) == name


def test_parameters_of_a_run_are_all_that_matters(prior, runs_folder):
    params = arms.run_params(prior, CONFIG)
    assert params == json.loads(json.dumps(params))
    assert params["prior"] == asdict(prior.config)
    assert params["training"]["weights"]["acc"] == 0.5
    assert params == arms.run_params(prior, replace(CONFIG, checkpoint_every=3))
    for change in (
        {"steps": 5}, {"seed": 1}, {"learning_rate": 1e-3}, {"weights": LossWeights(acc=0.4)},
        {"condition_dropout": 0.2},
    ):  # fmt: skip
        assert params != arms.run_params(prior, replace(CONFIG, **change))


@pytest.fixture
def finished(prior, clips, tmp_path, runs_folder):
    """An arm, trained and closed, with what went in."""
    run = runs.open_run(
        "demo", "mdm-acc0.5", "02_finetuning", arms.run_params(prior, CONFIG), {}, arms.CODE
    )
    trained, curves = train(prior, clips, CONFIG, run.dir, clips[:3], progress=False)
    assert list(run.dir.glob("training-*.pt"))
    return arms.finish(run, trained, curves), trained, curves


def test_a_finished_arm_can_be_read_again(prior, encoder, finished):
    run, trained, curves = finished
    assert {path.name for path in run.dir.iterdir()} == {arms.PRIOR, arms.HISTORY, "run.json"}
    loaded = load_prior(run.path(arms.PRIOR), encoder)
    stored = loaded.model.state_dict()
    assert all(torch.equal(stored[k], x) for k, x in trained.model.state_dict().items())
    assert loaded.history == json.loads(json.dumps(trained.history)) and len(loaded.history) == 1
    pd.testing.assert_frame_equal(pd.read_parquet(run.path(arms.HISTORY)), curves)
    again = runs.open_run(
        "demo", "mdm-acc0.5", "02_finetuning", arms.run_params(prior, CONFIG), {}, arms.CODE
    )
    assert again.done and again.metrics["clips"] == 12
    last = curves[curves["split"] == "validation"].iloc[-1]
    assert again.metrics["validation"]["step"] == 4 == last["step"]
    assert again.metrics["validation"]["acc"] == pytest.approx(last["acc"])


def test_final_losses_are_the_last_on_held_out_clips(finished):
    run, _, curves = finished
    table = arms.final_losses({"mdm-acc0.5": curves})
    assert list(table.columns) == list(TERMS)
    for term in TERMS:
        assert table.loc["mdm-acc0.5", term] == pytest.approx(run.metrics["validation"][term])


def test_final_losses_by_hand():
    def curves(last):
        rows = [
            (1, "train", 9.0), (2, "train", 8.0), (1, "validation", 7.0), (2, "validation", last)
        ]  # fmt: skip
        table = pd.DataFrame(rows, columns=["step", "split", "simple"])
        return table.assign(**{term: table["simple"] + i for i, term in enumerate(TERMS)})

    table = arms.final_losses({"mdm": curves(1.0), "mdm-ft": curves(0.5)})
    assert table.index.tolist() == ["mdm", "mdm-ft"]
    np.testing.assert_allclose(table, [[1, 2, 3, 4, 5], [0.5, 1.5, 2.5, 3.5, 4.5]])
    assert set(table.dtypes) == {np.dtype(float)}


def test_an_arm_without_held_out_clips_is_finished_too(prior, clips, runs_folder):
    run = runs.open_run("demo", "mdm-ft", "02_finetuning", {}, {}, arms.CODE)
    config = replace(CONFIG, steps=1)
    done = arms.finish(run, *train(prior, clips, config, run.dir, progress=False))
    assert done.metrics == {"validation": {}, "clips": 12}
