"""One colour and one name for each model, one order of activities."""

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from t2imu_utils import style
from t2imu_utils.activities import ACTIVITIES, CATEGORIES
from t2imu_utils.style import colour, label
from t2imu_utils.tracks import TRACKS, load_track

GENERATORS = ("mdm", "momask", "remodiffuse", "t2mgpt")


def lightness(hue):
    return np.dot(to_rgb(hue), [0.3, 0.6, 0.1])


def test_every_model_has_its_colour():
    arms = ("-ft", "-acc0.1", "-acc1")
    models = ["real", "gaussian", "constant"]
    models += [name + arm for name in GENERATORS for arm in ("", *arms)]
    assert len({colour(model) for model in models}) == len(models)
    # Options and seeds change no colour.
    assert colour("mdm-acc0.1-vel0.5-joints-s2") == colour("mdm-acc0.1")
    assert colour("momask-ft-s1") == colour("momask-ft") != colour("momask")


@pytest.mark.parametrize("generator", GENERATORS)
def test_a_larger_weight_is_darker(generator):
    shades = [colour(f"{generator}-acc{weight}") for weight in ("0.03", "0.1", "0.3", "1", "3")]
    assert len(set(shades)) == 5
    assert sorted(shades, key=lightness, reverse=True) == shades
    # Beyond the scale a shade stays at its end.
    assert colour(f"{generator}-acc100") == colour(f"{generator}-acc10")


@pytest.mark.parametrize("generator", GENERATORS[1:])
def test_arms_of_another_generator_are_shades_of_its_colour(generator):
    control, own, refined = (colour(generator + arm) for arm in ("-ft", "", "-acc0.1"))
    assert lightness(control) > lightness(own) > lightness(refined)
    hues = [matplotlib.colors.rgb_to_hsv(to_rgb(hue))[0] for hue in (control, own, refined)]
    assert np.ptp(hues) < 0.02


def test_an_unknown_name_keeps_one_spare_colour():
    assert colour("someone") == colour("someone") in style.OTHER_MODELS
    assert not style.is_known("someone") and not style.is_known("male tall")
    known = ("real", "gaussian", "mdm", "mdm-acc0.1-s1", "momask-ft", "t2mgpt")
    assert all(style.is_known(name) for name in known)


def test_every_generator_of_every_track_has_a_colour_and_a_name():
    names = {name for path in TRACKS.glob("*.yaml") for name in load_track(path.stem).generators}
    assert names >= set(GENERATORS)
    assert names <= set(style.COLOURS) and names <= set(style.LABELS)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("mdm", "MDM"),
        ("mdm-ft", "MDM, control"),
        ("mdm-ft-s1", "MDM, control, seed 1"),
        ("mdm-acc0.1", "MDM, λ = 0.1"),
        ("mdm-acc1e-05-joints", "MDM, λ = 1e-05, joints"),
        ("momask-acc0.3-s2", "MoMask, λ = 0.3, seed 2"),
        ("t2mgpt", "T2M-GPT"),
        ("remodiffuse-ft", "ReMoDiffuse, control"),
        ("real", "real"),
        ("someone", "someone"),
        ("male tall", "male tall"),
        ("corpus, held out", "corpus, held out"),
    ],
)
def test_labels_are_for_readers(model, text):
    assert label(model) == text


def test_one_order_holds_all_names():
    assert set(ACTIVITIES) | set(CATEGORIES) == set(style.CLASSES)
    assert style.ordered(["walking", "zzz", "running", "walking"]) == [
        "running", "walking", "zzz",
    ]  # fmt: skip
