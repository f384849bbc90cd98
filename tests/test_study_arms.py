"""The arms of a study: names that notebook 02 gives them, and what is shown where."""

import pytest

from t2imu_utils import study_arms
from t2imu_utils.analysis.har import parse_variant
from t2imu_utils.arm_names import parse
from t2imu_utils.arms import arm_name
from t2imu_utils.errors import InputError
from t2imu_utils.models.losses import LossWeights
from t2imu_utils.tracks import Variant, load_track


@pytest.fixture(scope="module")
def track():
    return load_track("cmu")


@pytest.fixture
def study(track):
    pairs = [
        Variant(lambda_acc=0.1, lambda_vel=0.2),
        Variant(lambda_acc=0.02, acc_variant="spectrum"),
    ]
    update = {"weights": [0.1, 1.0], "seeds": [0, 1, 2], "combinations": pairs}
    return track.study.model_copy(update=update)


def test_names_are_those_that_notebook_02_gives_to_the_same_settings(study):
    for variant in study.combinations:
        name, told = study_arms.model_of(variant, 1)
        weights = LossWeights(
            acc=variant.lambda_acc, vel=variant.lambda_vel, acc_variant=variant.acc_variant
        )
        assert name == arm_name(weights, 1, "mdm")
        assert told["lambda_acc"] == variant.lambda_acc and told["seed"] == 1
        assert parse(name) is not None and parse(name).seed == 1
    assert study_arms.model_of(study.combinations[1], 0) == (
        "mdm-acc0.02-spectrum",
        {"generator": "mdm", "lambda_acc": 0.02, "acc_variant": "spectrum", "seed": 0},
    )
    assert study_arms.model_of(None, 2)[0] == "mdm-ft-s2"


def test_what_is_repeated_and_combined(study):
    assert set(study_arms.repeated(study)) == {
        *("mdm-ft", "mdm-ft-s1", "mdm-ft-s2", "mdm-acc0.1", "mdm-acc0.1-s1", "mdm-acc0.1-s2"),
        *("mdm-acc1", "mdm-acc1-s1", "mdm-acc1-s2"),
    }
    combined = study_arms.combined(study)
    assert set(combined) == {"mdm-acc0.1-vel0.2", "mdm-ft-vel0.2", "mdm-acc0.02-spectrum"}
    assert combined["mdm-ft-vel0.2"] == {
        "generator": "mdm", "lambda_acc": 0.0, "lambda_vel": 0.2, "seed": 0,
    }  # fmt: skip
    assert study_arms.repeated(None) == study_arms.combined(None) == {}


def test_side_by_side_shows_one_seed_of_an_arm(study):
    models = ["mdm", "mdm-ft-s1", "mdm-ft", "mdm-acc0.1-s2", "mdm-acc0.1-s1", "momask"]
    models += ["mdm-acc0.1-vel0.2", "mdm-ft-vel0.2"]
    shown = study_arms.side_by_side(models, study)
    assert shown == ["mdm", "mdm-ft", "mdm-acc0.1-s1", "momask"]
    assert study_arms.side_by_side(models, None) == models


@pytest.mark.parametrize(
    ("models", "refined"),
    [
        (["mdm", "mdm-ft", "mdm-acc0.1"], "mdm-acc0.1"),
        # Of several weights and seeds the last, whatever the other generators have.
        (["momask-acc9", "mdm-acc2", "mdm-acc10", "mdm", "t2mgpt"], "mdm-acc10"),
        (["mdm-acc1-s1", "mdm-acc1", "mdm-ft-s3"], "mdm-acc1-s1"),
        (["mdm", "momask", "momask-acc1"], "mdm"),
        (["momask", "momask-acc1"], "momask-acc1"),
    ],
)
def test_one_model_stands_for_the_papers_refined_one(models, refined):
    assert study_arms.papers_refined(models) == refined


def test_of_a_study_its_own_model_stands_for_the_papers(study):
    models = ["mdm", "mdm-ft", "mdm-acc0.1", "mdm-acc1", "mdm-acc1-s1"]
    assert study_arms.papers_refined(models, study) == "mdm-acc0.1"
    assert study_arms.papers_refined(models) == "mdm-acc1-s1"
    assert study_arms.papers_refined(["mdm", "mdm-acc1"], study) == "mdm-acc1"


def test_notebooks_take_what_they_are_asked_for(track, study, monkeypatch):
    finished = ["mdm", "mdm-ft", "mdm-ft-s1"]
    monkeypatch.setattr(study_arms.runs, "finished_models", lambda *_: finished)
    assert study_arms.choose_models(track, "03_smpl_fitting", None) == ["mdm", "mdm-ft"]
    assert study_arms.choose_models(track, "03_smpl_fitting", ["mdm-ft-s1"]) == ["mdm-ft-s1"]
    with pytest.raises(InputError, match="mdm-acc7"):
        study_arms.choose_models(track, "03_smpl_fitting", ["mdm-acc7"])


def test_variants_of_recognition_are_for_all_or_for_the_refined_model(track, study):
    found = study_arms.varied(study, ["mdm", "momask"])
    assert {("mdm", "07_har-gravity"), ("real", "07_har-gravity")} <= set(found)
    assert ("mdm-acc0.1", "07_har-phone") in found and ("momask", "07_har-phone") not in found
    for slug in (*track.study.variants, *track.study.refined_variants):
        assert parse_variant(slug).slug == slug


def test_arms_of_other_seeds_get_fewer_classifiers(track):
    har = track.har.model_copy(update={"seeds": list(range(10))})
    track = track.model_copy(update={"har": har})
    assert study_arms.classifier_seeds(track, "mdm-acc0.1") == track.har.seeds
    assert study_arms.classifier_seeds(track, "momask") == track.har.seeds
    few = study_arms.classifier_seeds(track, "mdm-acc0.1-s3")
    assert few == track.har.seeds[: track.study.classifiers] and len(few) < len(track.har.seeds)
    demo = load_track("demo")
    assert study_arms.classifier_seeds(demo, "mdm-acc0.1-s3") == demo.har.seeds


def test_recognition_in_other_ways_gets_fewer_classifiers_too(track):
    har = track.har.model_copy(update={"seeds": list(range(10))})
    study = track.study.model_copy(update={"classifiers": 2, "variant_classifiers": 3})
    track = track.model_copy(update={"har": har, "study": study})
    for model in ("mdm-acc0.1", "real", "momask"):
        assert study_arms.classifier_seeds(track, model, "gravity") == [0, 1, 2]
    combo, _ = study_arms.model_of(study.combinations[0], 0)
    assert study_arms.classifier_seeds(track, combo) == [0, 1, 2]
    assert study_arms.classifier_seeds(track, "mdm-ft") == har.seeds
    assert study_arms.classifier_seeds(track, "mdm-acc0.1-s3", "gravity") == [0, 1]
    demo = load_track("demo")
    assert study_arms.classifier_seeds(demo, "mdm", "gravity") == demo.har.seeds
