"""What models are called, what their records say they are, and the plan of a study."""

from dataclasses import asdict

import pytest

from t2imu_utils import arms, runs
from t2imu_utils.arms import Arm
from t2imu_utils.errors import InputError
from t2imu_utils.tracks import load_track


@pytest.fixture
def study():
    update = {"weights": [0.1, 1.0], "seeds": [0, 1, 2], "variants": ["gravity"]}
    update |= {"classifiers": 2, "variant_classifiers": 3}
    return load_track("open").study.model_copy(update=update)


@pytest.mark.parametrize(
    ("one", "name"),
    [
        (Arm("momask"), "momask"),
        (Arm("mdm", 0.0), "mdm-ft"),
        (Arm("momask", 0.0, seed=3), "momask-ft-s3"),
        (Arm("mdm", 0.1), "mdm-acc0.1"),
        (Arm("mdm", 0.0, lambda_pos=0.5), "mdm-ft-pos0.5"),
        (Arm("t2mgpt", 1, 0, 2e-5, 2, "joints", 1), "t2mgpt-acc1-foot2e-05-vel2-joints-s1"),
    ],
)
def test_names_tell_all_that_is_not_a_default(one, name):
    assert one.name == name and arms.arm(name) == one
    assert Arm(**one.parameters) == one


def test_a_model_is_what_its_record_says(runs_folder):
    """Whatever its folder is called."""
    one = Arm("remodiffuse", 0.25, seed=4)
    made = {"arm": asdict(one)}
    with runs.record("mine", "my-model-s9", arms.TRAINING, made, {}):
        pass
    assert arms.arm("my-model-s9") == one and arms.base_of("my-model-s9") == "remodiffuse"
    assert arms.is_refined("my-model-s9") and not arms.is_base("my-model-s9")
    assert arms.control_of("my-model-s9") == "remodiffuse-ft-s4"
    assert arms.arm("unheard-of") == Arm("unheard-of")


def test_a_control_has_the_same_other_losses():
    one = Arm("mdm", 0.1, lambda_vel=0.5, acc_variant="joints", seed=2)
    assert one.control == Arm("mdm", 0.0, lambda_vel=0.5, seed=2) == one.control.control


def test_models_are_found_in_the_order_of_the_paper(runs_folder):
    track = load_track("demo")
    names = [Arm("momask").name, Arm("mdm").name]
    names += [one.name for one in arms.grid(["mdm"], [10, 0.3], [1, 0])]
    for model in names:
        with runs.record("demo", model, "03_smpl_fitting", {}, {}):
            pass
    found = arms.choose_models(track, "03_smpl_fitting")
    expected = [f"mdm-{part}" for part in ("ft", "acc0.3", "acc10")]
    expected = [name for plain in expected for name in (plain, f"{plain}-s1")]
    assert found == ["mdm", *expected, "momask"]
    with pytest.raises(InputError, match="mdm-acc7"):
        arms.choose_models(track, "03_smpl_fitting", ["mdm-acc7"])


def test_a_study_is_repeated_with_every_seed_and_shown_with_one(study):
    repeated = [one.name for one in arms.repeated(study)]
    plain = ("mdm-ft", "mdm-acc0.1", "mdm-acc1")
    assert set(repeated) == {f"{name}{seed}" for name in plain for seed in ("", "-s1", "-s2")}
    assert arms.repeated(None) == []
    models = ["mdm", "momask", *[name for name in repeated if name != "mdm-acc1"]]
    shown = arms.side_by_side(models, study)
    assert sorted(shown) == ["mdm", "mdm-acc0.1", "mdm-acc1-s1", "mdm-ft", "momask"]
    assert arms.side_by_side(models, None) == models


def test_one_model_stands_for_the_papers_refined_one(study):
    models = [one.name for one in (Arm("mdm"), *arms.repeated(study), Arm("momask", 9))]
    assert arms.papers_refined(models, study) == "mdm-acc0.1"
    assert arms.papers_refined(models) == "mdm-acc1-s2"
    assert arms.papers_refined(["momask"]) == "momask"


def test_other_seeds_and_ways_get_fewer_classifiers(study):
    track = load_track("open")
    har = track.har.model_copy(update={"seeds": list(range(10))})
    track = track.model_copy(update={"har": har, "study": study})
    counts = {
        ("mdm", ""): 10, ("mdm-acc0.1", ""): 10, ("mdm-acc0.1-s1", ""): 2, ("real", ""): 10,
        ("mdm-acc0.1", "gravity"): 3, ("real", "gravity"): 3, ("mdm-acc0.1-s1", "gravity"): 2,
    }  # fmt: skip
    found = {pair: len(arms.classifier_seeds(track, *pair)) for pair in counts}
    assert found == counts


def test_of_the_weights_the_first_is_recognised_in_other_ways(study):
    study = study.model_copy(update={"variants": ["gravity", "gravity-placement"]})
    models = ["mdm", "mdm-ft", "mdm-acc0.1", "mdm-acc1"]
    named = [Arm("mdm"), *arms.repeated(study)]
    found = arms.varied(study, [one.name for one in named if one.name in models])
    expected = [(m, f"07_har-gravity{also}") for m in models[:3] for also in ("", "-placement")]
    assert found == [*expected, ("real", "07_har-gravity")]
    assert arms.varied(None, ["mdm"]) == []
