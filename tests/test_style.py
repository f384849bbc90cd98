"""One colour and one name for each model, one order of activities."""

import pytest

from t2imu_utils import style
from t2imu_utils.style import colour, label
from t2imu_utils.tracks import TRACKS, load_track

GENERATORS = ("mdm", "momask", "remodiffuse", "t2mgpt")


def test_every_model_has_its_colour():
    arms = ("-ft", "-acc0.1", "-acc1")
    models = ["real", "gaussian", "constant"]
    models += [name + arm for name in GENERATORS for arm in ("", *arms)]
    assert len({colour(model) for model in models}) == len(models)
    # Options and seeds change no colour.
    assert colour("mdm-acc0.1-vel0.5-joints-s2") == colour("mdm-acc0.1")
    assert colour("momask-ft-s1") == colour("momask-ft") != colour("momask")


def test_every_generator_of_every_track_has_a_colour_and_a_name():
    names = {name for path in TRACKS.glob("*.yaml") for name in load_track(path.stem).generators}
    assert names >= set(GENERATORS)
    assert names <= set(style.COLOURS) and names <= set(style.LABELS)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("mdm-ft-s1", "MDM, control, seed 1"),
        ("mdm-acc1e-05-joints", "MDM, λ = 1e-05, joints"),
        ("momask-acc0.3-s2", "MoMask, λ = 0.3, seed 2"),
        ("male tall", "male tall"),
    ],
)
def test_labels_are_for_readers(model, text):
    assert label(model) == text
