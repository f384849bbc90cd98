"""One colour and one name for each model."""

from t2imu_utils import style
from t2imu_utils.style import colour, label
from t2imu_utils.tracks import TRACKS, load_track


def test_every_model_has_a_colour_and_a_name():
    names = {name for path in TRACKS.glob("*.yaml") for name in load_track(path.stem).generators}
    assert names <= set(style.COLOURS) and names <= set(style.LABELS)
    models = ["real", "gaussian", "constant"]
    models += [
        name + ending
        for name in ("mdm", "momask", "remodiffuse", "t2mgpt")
        for ending in ("", "-ft", "-acc0.1", "-acc1")
    ]
    assert len({colour(model) for model in models}) == len(models)
    # Options and seeds change no colour.
    assert colour("mdm-acc0.1-vel0.5-joints-s2") == colour("mdm-acc0.1")
    assert colour("momask-ft-s1") == colour("momask-ft") != colour("momask")
    assert label("mdm-ft-s1") == "MDM, control, seed 1"
    assert label("mdm-acc1e-05-joints") == "MDM, λ = 1e-05, joints"
    assert label("male tall") == "male tall"
