import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from t2imu_utils.clips import Clips
from t2imu_utils.evaluation import sampled
from t2imu_utils.evaluation.kinematics import mean_spectrum, summarise
from t2imu_utils.motion.features import features_to_joints


@pytest.fixture(scope="module")
def motion():
    """A body that is shaken within its plane: feet stay on the ground and slide."""
    rng = np.random.default_rng(0)
    return (0.05 * rng.normal(size=(81, 22, 3)) * [1, 0, 1]).cumsum(0)


def test_sampled_motions_go_by_the_category_of_their_activity(motion):
    activities = ["climbing up", "walking", "running", "climbing down", "walking"]
    joints = [(i + 1) * motion[: 10 + i] for i in range(5)]
    clips = Clips.from_list([{"activity": a} for a in activities], {"joints": joints})
    found = sampled.sampled_motions(clips)
    assert list(found) == ["running", "stair climbing", "walking"]
    expected = {"running": [2], "stair climbing": [0, 3], "walking": [1, 4]}
    for name, places in expected.items():
        for given, index in zip(found[name], places, strict=True):
            assert_allclose(given, joints[index])


def test_corpus_clips_go_by_their_category(clips):
    names = ["walking", "other", "jumping", "walking", "jumping"]
    category = pd.Series(names, index=[c.name for c in clips])
    found = sampled.real_motions(clips, category[::-1])
    assert list(found) == ["jumping", "walking", "other"]
    assert [len(joints) for joints in found["walking"]] == [24, 12]
    assert_allclose(found["other"][0], features_to_joints(clips[1].features))


@pytest.fixture
def uneven(motion):
    """Real motion of what was asked for and more; a model without some of it; one with none."""
    return {
        "real": {name: [motion] for name in ("other", "walking", "jumping", "sitting")},
        "mdm": {"jumping": [motion], "walking": [2 * motion], "lying": [motion]},
        "kimodo": {"walking": [3 * motion, motion]},
        "acc": {"walking": [3 * motion], "jumping": [motion], "lying": [motion]},
        "strange": {"lying": [motion]},
    }


def test_a_set_that_lacks_a_category_takes_it_from_no_other(uneven, motion):
    found = sampled.shared(uneven)
    # Nobody was asked for sitting, and of lying there is nothing to compare with.
    expected = {
        "real": ["jumping", "walking"], "mdm": ["jumping", "walking"], "kimodo": ["walking"],
        "acc": ["jumping", "walking"], "strange": [],
    }  # fmt: skip
    assert {name: list(motions) for name, motions in found.items()} == expected
    assert_allclose(found["mdm"]["walking"][0], 2 * motion)
    assert sampled.lacking(found) == {"kimodo": ["jumping"], "strange": ["jumping", "walking"]}


def test_what_is_lacking_is_said(uneven):
    found = sampled.shared(uneven)
    assert sampled.lacking_in_words(found).splitlines() == [
        "kimodo: 1 of 2 categories, no jumping; no mean over all.",
        "strange: 0 of 2 categories, no jumping, walking; no mean over all.",
    ]
    assert sampled.lacking_in_words({name: found[name] for name in ("real", "mdm")}) == ""


def test_a_mean_over_all_is_of_all_or_there_is_none(uneven):
    found = sampled.shared(uneven)
    table = sampled.compare(found).set_index(["model", "category"])
    whole = sampled.compare({name: found[name] for name in ("real", "mdm", "acc")})
    whole = whole.set_index(["model", "category"])
    # The others' numbers are what they are without the incomplete sets.
    pd.testing.assert_frame_equal(table.loc[whole.index], whole)
    measures = [*sampled.MEASURES, "spectral_distance"]
    for model, n in (("kimodo", 2), ("strange", 0)):
        assert table.loc[(model, "all"), "n"] == n
        assert table.loc[(model, "all"), measures].isna().all()
    assert table.loc[("kimodo", "walking"), "n"] == 2
    assert table.loc[("kimodo", "walking"), measures].notna().all()
    assert table["n"].dtype == int and ("strange", "walking") not in table.index


def test_spectra_are_of_the_sets_that_have_the_category(uneven):
    found = sampled.spectra(sampled.shared(uneven))
    assert {category: list(own) for category, own in found.items()} == {
        "jumping": ["real", "mdm", "acc"], "walking": ["real", "mdm", "kimodo", "acc"],
    }  # fmt: skip


def test_spectra_by_category_and_set(motion):
    sets = {
        "real": {"walking": [motion] * 3, "running": [3 * motion]},
        "mdm": {"walking": [2 * motion], "running": [motion, motion]},
    }
    found = sampled.spectra(sets)
    frequency, power = mean_spectrum([motion])
    factor = {"walking": {"real": 1, "mdm": 4}, "running": {"real": 9, "mdm": 1}}
    assert list(found) == ["walking", "running"]
    for category, own in found.items():
        assert list(own) == ["real", "mdm"]
        for name, (x, density) in own.items():
            assert_allclose(x, frequency[1:])
            assert_allclose(density, factor[category][name] * power[1:])
    # The mean acceleration of a motion that stays in place is no frequency of it.
    assert found["walking"]["real"][0][[0, -1]].tolist() == [0.5, 10]


def test_measures_of_scaled_motion(motion):
    real = {"walking": [motion] * 3, "running": [3 * motion]}
    twice = {name: [2 * joints for joints in motions[:2]] for name, motions in real.items()}
    table = sampled.compare({"real": real, "mdm": twice}).set_index(["model", "category"])
    assert len(table) == 6
    assert table["n"].tolist() == [3, 1, 2, 1, 4, 3]
    own = summarise([motion]).iloc[0]
    assert own["foot_skate"] > 0.1
    for measure in sampled.MEASURES:
        values = table[measure]
        assert values["real", "walking"] == pytest.approx(own[measure])
        assert values["real", "running"] == pytest.approx(3 * own[measure])
        assert values["mdm", "running"] == pytest.approx(6 * own[measure])
        # Categories weigh the same in "all", though one has three motions and the other one.
        assert values["real", "all"] == pytest.approx(2 * own[measure])
        assert values["mdm", "all"] == pytest.approx(4 * own[measure])
    distance = table["spectral_distance"]
    assert_allclose(distance["real"], 0, atol=1e-9)
    # Twice the acceleration is four times the power in every category.
    assert_allclose(distance["mdm"], 10 * np.log10(4), rtol=1e-6)


def test_a_spectrum_is_compared_with_that_of_its_own_category(motion):
    sets = {
        "real": {"walking": [motion], "running": [10 * motion]},
        "mdm": {"walking": [motion], "running": [motion]},
    }
    table = sampled.compare(sets).set_index(["model", "category"])["spectral_distance"]
    assert_allclose(table["mdm"][["walking", "running", "all"]], [0, 20, 10], atol=1e-6)
