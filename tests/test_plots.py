"""Figures and pictures hold the numbers that they are given; each model has its colour."""

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from numpy.testing import assert_allclose
from PIL import Image

from t2imu_utils import pictures, plots, style
from t2imu_utils.errors import InputError
from t2imu_utils.motion.skeleton import CHAINS
from t2imu_utils.tracks import TRACKS, load_track

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def styled():
    with matplotlib.rc_context():
        style.use()
        yield
    plt.close("all")


def texts(figure):
    return " ".join(t.get_text() for t in figure.findobj(matplotlib.text.Text))


def ticks(labels):
    return [text.get_text() for text in labels]


def drawn_in(ax, model):
    return [line for line in ax.lines if to_hex(line.get_color()) == style.colour(model)]


def test_a_figure_repeats_stays_small_and_has_its_caption(tmp_path):
    def noisy():
        figure, ax = plt.subplots(figsize=(4, 3))
        ax.imshow(np.random.default_rng(0).random((300, 300, 3)))
        return figure

    first = plots.save(noisy(), tmp_path / "a.png", limit=140_000).read_bytes()
    assert plots.save(noisy(), tmp_path / "b.png", limit=140_000).read_bytes() == first
    assert len(first) <= 140_000 and "Software" not in Image.open(io.BytesIO(first)).info
    with pytest.raises(InputError, match="at most 1000"):
        plots.save(noisy(), tmp_path / "c.png", limit=1000)
    # The file holds what the notebook shows.
    figure, path = noisy(), tmp_path / "figures" / "a.png"
    shown = plots.show(figure, "demo corpus", "n = 3 seeds.", path)
    assert "demo corpus. n = 3 seeds." in texts(figure) and not plt.get_fignums()
    assert shown.data == path.read_bytes() and len(shown.data) <= plots.LIMIT


def test_values_are_multiples_of_the_recorded_ones():
    table = pd.DataFrame({"real": [2.0, 5.0], "mdm": [4.0, 5.0], "momask": [2.0, 500.0]},
                         index=["walking", "running"])  # fmt: skip
    ax, _ = plots.against_recorded({"head": table, "shin": table}).axes
    assert ticks(ax.get_yticklabels()) == ["running", "walking"]
    dots = {line.get_marker(): line for line in drawn_in(ax, "momask") if len(line.get_xdata())}
    # What is beyond the scale is an arrow at its edge.
    assert dots["o"].get_xdata().tolist() == [1] and dots[">"].get_xdata().tolist() == [plots.FAR]
    assert [x for line in drawn_in(ax, "mdm") for x in line.get_xdata()] == [1, 2]


ARMS = {"mdm-acc0.1": -0.1, "mdm-acc1": -0.4}


def test_changes_stand_by_category():
    groups = ["jumping", "walking", "high-dynamic", "low-dynamic", "all", plots.CONTRAST]
    changes = ARMS | {"gaussian": -0.6, "constant": -0.7, "mdm-acc1-joints": -0.5}
    rows = [
        {"generator": "mdm", "reference": "control", "arm": arm, "group": group, "clips": 9,
         "units": 5, "relative": value, "low": value - 0.02, "high": value + 0.03}
        for arm, value in changes.items() for group in groups
    ]  # fmt: skip
    change = pd.DataFrame(rows)
    by_seed = [change.assign(seed=s, relative=change["relative"] + (s - 1) / 100) for s in range(3)]
    figure = plots.change_by_category(change, pd.concat(by_seed), "mdm")
    left, right = figure.axes
    names = [name.replace("\n", " ") for name in ticks(left.get_xticklabels())]
    assert names == ["jumping 9 / 5", "walking 9 / 5"] and len(right.get_xticklabels()) == 3
    for arm, value in ARMS.items():
        bar, mean = drawn_in(left, arm)[:2]
        assert_allclose(bar.get_ydata(), [100 * value - 2, 100 * value + 3])
        assert_allclose(mean.get_ydata(), 100 * value)
    # A dot for each seed of each plain model, and the trivial references across each group.
    dots = [c for c in left.collections if isinstance(c, PathCollection)]
    assert_allclose(dots[0].get_offsets()[:, 1], [-11, -10, -9])
    heights = {round(path.vertices[0, 1]) for c in left.collections if c not in dots
               for path in c.get_paths()}  # fmt: skip
    assert len(dots) == 4 and {-60, -70} <= heights and "joints" not in texts(figure)
    with pytest.raises(InputError):
        plots.change_by_category(change, change, "momask")


def test_costs_and_weights_over_seeds():
    rows = [("real", "real", 0, 4.0), ("mdm", "mdm", 0, 8.0)]
    rows += [(f"mdm-acc1{f'-s{s}' * (s > 0)}", "mdm-acc1", s, 3.0 + 0.1 * s) for s in range(3)]
    costs = pd.DataFrame(rows, columns=["model", "arm", "seed", "a"])
    costs = costs.assign(b=np.nan, acc=costs["a"] / 10)
    measures = {"a": "acceleration (m/s²)", "b": "of none (dB)"}
    (ax,) = plots.cost_trade_off(costs, "mdm", measures).axes
    dots = {to_hex(c.get_facecolor()[0]): c.get_offsets() for c in ax.collections}
    assert_allclose(dots[style.colour("mdm-acc1")], [[0.3, 3], [0.31, 3.1], [0.32, 3.2]])
    assert any(np.allclose(line.get_ydata(), 4.0) for line in drawn_in(ax, "real"))

    cells = pd.DataFrame(
        [("mdm", np.nan, 0, 9.0), ("mdm-ft", 0.0, 0, 5.0), ("mdm-ft-s1", 0.0, 1, 7.0),
         ("mdm-acc1", 1.0, 0, 3.0)], columns=["model", "lambda_acc", "seed", "acc"],
    ).assign(generator="mdm", options="")  # fmt: skip
    ax = plots.against_weight(cells, {"acc": "L_acc"}).axes[0]
    line, _, _ = ax.containers[0].lines
    assert_allclose(line.get_xydata(), [[0, 6], [1, 3]])
    assert any(np.allclose(line.get_ydata(), 9.0) for line in ax.lines)


def test_every_model_has_a_colour_and_a_name():
    names = {name for path in TRACKS.glob("*.yaml") for name in load_track(path.stem).generators}
    assert names <= set(style.COLOURS) and names <= set(style.LABELS)
    models = ["real", "gaussian", "constant"]
    models += [
        name + ending
        for name in ("mdm", "momask", "remodiffuse", "t2mgpt")
        for ending in ("", "-ft", "-acc0.1", "-acc1")
    ]
    assert len({style.colour(model) for model in models}) == len(models)
    # Options and seeds change no colour.
    assert style.colour("mdm-acc0.1-vel0.5-joints-s2") == style.colour("mdm-acc0.1")
    assert style.colour("momask-ft-s1") == style.colour("momask-ft") != style.colour("momask")
    assert style.label("mdm-ft-s1") == "MDM, control, seed 1"
    assert style.label("mdm-acc1e-05-joints") == "MDM, λ = 1e-05, joints"


def test_a_film_strip_keeps_heights_and_drops_travel():
    joints = np.random.default_rng(0).random((41, 22, 3))
    joints[..., 0] += np.linspace(0, 50, 41)[:, None]
    figure = pictures.film_strip({"one": joints, "two": joints[:2]}, frames=5)
    first, second = figure.axes
    assert (len(first.collections), len(second.collections)) == (5, 2)
    assert ticks(first.texts) == ["0.0 s", "0.5 s", "1.0 s", "1.5 s", "2.0 s"]
    drawn = np.concatenate(first.collections[-1].get_segments())
    own = joints[-1][[i for chain in CHAINS for i in chain]]
    assert_allclose(sorted(drawn[:, 1]), sorted(own[:, 1]))
    assert drawn[:, 0].max() < 8


@pytest.mark.parametrize(("azimuth", "sign"), [(0.0, 1), (180.0, -1)])
def test_only_faces_towards_the_viewer_are_drawn(azimuth, sign):
    cube = np.array([[x, y, z] for x in (0, 1.0) for y in (0, 1.0) for z in (0, 1.0)])
    # The side that looks to +Z and the one that looks to -Z, both wound outwards.
    sides = np.array([[1, 5, 7], [1, 7, 3], [0, 2, 6], [0, 6, 4]])
    _, ax = plt.subplots()
    pictures.mesh(ax, cube, sides, azimuth)
    paths = ax.collections[0].get_paths()
    assert len(paths) == 2 and (sign * paths[0].vertices[:, 0]).min() >= -1e-9
