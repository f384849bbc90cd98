import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from numpy.testing import assert_allclose

from t2imu_utils import palette, study_plots
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.motion_distance import PARTS
from t2imu_utils.evaluation.study_costs import COSTS

matplotlib.use("Agg")
ARMS = {"mdm-acc0.1": -0.1, "mdm-acc1": -0.4}
GROUPS = ["jumping", "walking", "high-dynamic", "low-dynamic", "all"]


@pytest.fixture(autouse=True)
def styled():
    with matplotlib.rc_context():
        palette.style()
        yield
    plt.close("all")


@pytest.fixture
def change():
    places = [("all", group) for group in GROUPS] + [("test", "all"), ("test_trials", "all")]
    rows = [
        {"generator": "mdm", "reference": "control", "arm": arm, "split": split, "group": group,
         "clips": 9, "units": 5, "relative": value, "low": value - 0.02, "high": value + 0.03}
        for arm, value in (ARMS | {"gaussian": -0.6, "constant": -0.7}).items()
        for split, group in places
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    return pd.concat([table, table.assign(reference="base", relative=9.0)], ignore_index=True)


@pytest.fixture
def by_seed(change):
    parts = [change.assign(seed=s, relative=change["relative"] + 0.01 * (s - 1)) for s in range(3)]
    control = change[change["arm"] == "mdm-acc1"].query("reference == 'base'").assign(arm="mdm-ft")
    parts += [control.assign(seed=s, relative=0.25) for s in range(3)]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def costs():
    rows = [("real", "real", 0, 4.0), ("mdm", "mdm", 0, 8.0)]
    rows += [
        (f"{arm}{f'-s{s}' * (s > 0)}", arm, s, level + 0.1 * s)
        for arm, level in (("mdm-ft", 6.0), ("mdm-acc0.1", 5.0), ("mdm-acc1", 3.0))
        for s in range(3)
    ]
    table = pd.DataFrame(rows, columns=["model", "arm", "seed", "value"])
    table = table.assign(**{name: table["value"] for name in COSTS})
    return table.assign(sensor_distance=np.nan)


def texts(figure):
    return " ".join(t.get_text() for t in figure.findobj(matplotlib.text.Text))


def lines(ax, arm):
    return [line for line in ax.lines if to_hex(line.get_color()) == palette.colour(arm)]


def test_changes_stand_by_category_and_split(change, by_seed):
    figure = study_plots.change_by_category(change, by_seed, "mdm")
    left, right = figure.axes
    names = [t.get_text().replace("\n", " ") for t in left.get_xticklabels()]
    assert names == ["jumping 9 / 5", "walking 9 / 5"]
    names = [t.get_text().replace("\n", " ") for t in right.get_xticklabels()]
    assert [n.removesuffix(" 9 / 5") for n in names] == [
        "high- dynamic", "low- dynamic", "all", "unseen subjects", "unseen trials"
    ]  # fmt: skip
    for arm, value in ARMS.items():
        bar, mean = lines(left, arm)[:2]
        assert_allclose(bar.get_ydata(), [100 * value - 2, 100 * value + 3])
        assert_allclose(mean.get_ydata(), 100 * value)
    # A dot for each seed of each arm, and the trivial references across each group.
    dots = [c for c in left.collections if isinstance(c, matplotlib.collections.PathCollection)]
    assert len(dots) == 4
    assert_allclose(dots[0].get_offsets()[:, 1], [-11, -10, -9])
    heights = {round(path.vertices[0, 1]) for c in left.collections if c not in dots
               for path in c.get_paths()}  # fmt: skip
    assert {-60, -70} <= heights
    assert "against the control (%)" in left.get_ylabel() and "one seed" in texts(figure)
    single = study_plots.change_by_category(change, by_seed[by_seed["seed"] == 0], "mdm")
    assert "one seed" not in texts(single)
    with pytest.raises(InputError, match="no arm of momask"):
        study_plots.change_by_category(change, by_seed, "momask")


def test_arms_with_options_are_shown_when_asked_for(change, by_seed):
    more = [pd.concat([t, t[t["arm"] == "mdm-acc1"].assign(arm="mdm-acc1-joints")])
            for t in (change, by_seed)]  # fmt: skip
    assert "joints" not in texts(study_plots.change_by_category(*more, "mdm"))
    asked = study_plots.change_by_category(*more, "mdm", arms=["mdm-acc1-joints"])
    assert "joints" in texts(asked) and "λ = 0.1" not in texts(asked)


def test_losses_by_timestep_and_their_change():
    rows = [
        {"generator": "mdm", "arm": arm, "timestep": t, "mean": level * t, "sd": 0.1,
         "relative": -0.1 * t if arm in ARMS else np.nan, "relative_sd": 0.01}
        for arm, level in (("mdm", 3), ("mdm-ft", 2), ("mdm-acc1", 1), ("gaussian", 0.5))
        for t in (1, 2, 4)
    ]  # fmt: skip
    figure = study_plots.by_timestep(pd.DataFrame(rows), "mdm")
    loss, change = figure.axes
    assert_allclose(lines(loss, "mdm-acc1")[0].get_ydata(), [1, 2, 4])
    assert_allclose(lines(change, "mdm-acc1")[0].get_ydata(), [-10, -20, -40])
    assert len(loss.lines) == 4 and len(change.lines) == 2
    assert loss.get_yscale() == "log" and "timestep" in loss.get_xlabel()


def test_trade_off_has_a_dot_a_seed(by_seed, costs):
    figure = study_plots.trade_off(by_seed, costs, "mdm")
    # Sensors that no model has get no panel.
    assert [ax.get_ylabel() for ax in figure.axes] == ["m/s²", "dB"]
    ax = figure.axes[0]
    dots = {to_hex(c.get_facecolor()[0]): c.get_offsets() for c in ax.collections}
    assert_allclose(dots[palette.colour("mdm-acc1")], [[-41, 3], [-40, 3.1], [-39, 3.2]])
    assert_allclose(dots[palette.colour("mdm-ft")][:, 0], 0)
    # The control is a quarter above the base, so the base a fifth below the control.
    assert_allclose(dots[palette.colour("mdm")], [[-20, 8]])
    assert any(np.allclose(line.get_ydata(), 4.0) for line in lines(ax, "real"))


def test_spectra_with_real_on_top():
    frequency = np.arange(1, 21) / 2
    parts = [
        pd.DataFrame({"frequency": frequency, "density": level, "low": level / 2,
                      "high": 2 * level, "arm": arm, "category": category})
        for arm, level in (("real", 1.0), ("mdm", 2.0), ("mdm-ft", 3.0), ("mdm-acc1", 4.0))
        for category in ("walking", "running", "sitting", "standing")
    ]  # fmt: skip
    figure = study_plots.spectra(pd.concat(parts), "mdm")
    assert [ax.get_title("left") for ax in figure.axes] == [
        "running", "walking", "standing", "sitting"
    ]  # fmt: skip
    ax = figure.axes[0]
    assert to_hex(ax.lines[-1].get_color()) == palette.colour("real")
    assert_allclose([line.get_ydata()[0] for line in ax.lines], [2, 3, 4, 1])
    assert len(ax.collections) == 4 and "(m/s²)²/Hz" in figure.get_supylabel()


def test_power_by_part(costs):
    figure = study_plots.power_by_part(costs, "mdm")
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == list(PARTS)
    heights = sorted(round(p.get_height(), 6) for p in ax.patches)
    assert heights == sorted([8.0, 6.1, 5.1, 3.1] * 3)
    assert "dB" in ax.get_ylabel()
