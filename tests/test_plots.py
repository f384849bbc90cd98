"""Figures hold the numbers that they are given; names, legends and captions stay readable."""

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgb
from numpy.testing import assert_allclose
from PIL import Image

from t2imu_utils import plots, style
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.imu import sensors
from t2imu_utils.imu.sensors import gain_table, virtual_imu
from t2imu_utils.models.diffusion import SCHEMES

matplotlib.use("Agg")
MODELS = [
    f"{name}{arm}" for name in ("mdm", "momask", "remodiffuse") for arm in ("", "-ft", "-acc0.1")
] + ["t2mgpt", "mdm-acc0.3-s1", "remodiffuse-acc0.3-joints"]


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


def title(ax):
    return ax.get_title("left") or ax.get_title()


def drawn_in(ax, model):
    return [line for line in ax.lines if to_hex(line.get_color()) == style.colour(model)]


def noisy():
    figure, ax = plt.subplots(figsize=(4, 3))
    ax.imshow(np.random.default_rng(0).random((300, 300, 3)))
    return figure


def test_a_figure_repeats_stays_small_and_has_its_caption(tmp_path):
    first = plots.save(noisy(), tmp_path / "a.png", limit=60_000).read_bytes()
    assert plots.save(noisy(), tmp_path / "b.png", limit=60_000).read_bytes() == first
    assert len(first) <= 60_000 and "Software" not in Image.open(io.BytesIO(first)).info
    with pytest.raises(InputError, match="at most 1000"):
        plots.save(noisy(), tmp_path / "c.png", limit=1000)
    figure = noisy()
    shown = plots.show(figure, "demo corpus", "n = 3 seeds.")
    assert "demo corpus. n = 3 seeds." in texts(figure) and not plt.get_fignums()
    # The file holds what the notebook shows.
    path = tmp_path / "figures" / "a.png"
    assert plots.show(noisy(), "demo corpus", "n = 3 seeds.", path).data == path.read_bytes()
    assert shown.data == path.read_bytes() and len(shown.data) <= plots.LIMIT


@pytest.mark.parametrize(("count", "slanted"), [(3, False), (6, False), (7, True), (12, True)])
def test_many_models_stay_readable(count, slanted):
    accuracy = {model: [0.3, 0.5] for model in MODELS[:count]}
    figure = plots.fig3_har(accuracy, real=[0.55], chance=0.125)
    plots.caption(figure, "demo corpus", "n = 2 seeds, and many words more. " * 5)
    ax = figure.axes[0]
    names = ax.get_xticklabels()
    assert ticks(names) == [style.label(model) for model in accuracy]
    assert {name.get_rotation() > 0 for name in names} == {slanted}
    figure.canvas.draw()
    boxes = [name.get_window_extent() for name in names]
    assert min(box.y0 for box in boxes) > figure._supxlabel.get_window_extent().y1
    inside = [t.get_window_extent() for t in (*ax.texts, *names)]
    assert min(box.x0 for box in inside) >= 0
    assert max(box.x1 for box in inside) <= figure.bbox.width


@pytest.mark.parametrize(("count", "columns"), [(2, 2), (6, 3), (12, 4)])
def test_a_legend_of_many_models_has_equal_columns(count, columns):
    values = pd.DataFrame(dict.fromkeys(MODELS[:count], [1.0, 2.0]), index=["walking", "jumping"])
    figure = plots.bars(values, "m/s²")
    assert ticks(figure.axes[0].get_xticklabels()) == ["jumping", "walking"]
    legend = figure.legends[0]
    assert legend._ncols == columns
    figure.canvas.draw()
    assert legend.get_window_extent().y0 > figure.axes[0].get_window_extent().y1


def test_data_and_training():
    minutes = pd.DataFrame(
        {"test": [1.0, 2.0], "train": [10.0, 20.0], "val": [np.nan, 4.0]},
        index=pd.CategoricalIndex(["stair climbing", "dancing"]),
    )
    ax = plots.minutes_by_category(minutes).axes[0]
    assert ticks(ax.get_xticklabels()) == ["dancing", "stair\nclimbing"]
    stacked = {c.get_label(): [(b.get_y(), b.get_height()) for b in c] for c in ax.containers}
    assert stacked["val"] == [(20, 4), (10, 0)] and stacked["test"] == [(24, 2), (10, 1)]

    scores = pd.DataFrame(np.arange(10).reshape(5, 2) / 10, columns=["sitting", "walking"])
    ax = plots.prompt_similarity(scores, pd.Series(list("aaabc"), index=[9, 8, 7, 6, 5])).axes[0]
    assert_allclose(ax.images[0].get_array(), scores)
    assert_allclose(ax.get_yticks(), [1, 3, 4])

    signal, noise = plots.noise_schedule(np.array([1.0, 0.64, 0.0])).axes[0].lines
    assert_allclose([signal.get_ydata(), noise.get_ydata()], [[1, 0.8, 0], [0, 0.6, 1]])

    steps = pd.DataFrame({"step": [0, 1, 2, 2], "split": ["train"] * 3 + ["validation"],
                          "simple": [3.0, 2.0, 1.0, 1.5], "acc": [np.nan] * 3 + [0.1]})  # fmt: skip
    simple, acc = plots.loss_curves({"mdm-ft": steps}, terms=("simple", "acc")).axes
    assert simple.lines[0].get_ydata().tolist() == [3, 2, 1]
    assert acc.lines[1].get_ydata().tolist() == [0.1]


def test_examples_are_of_one_position_in_the_first_recording_that_has_it():
    rows = [("walking", 200), ("sitting", 50), ("walking", 300), ("sitting", 200)]
    acc = [np.tile(100.0 * i + np.arange(2)[:, None], (n, 1, 3)) for i, (_, n) in enumerate(rows)]
    clips = Clips.from_list([{"activity": a} for a, _ in rows], {"acc": acc},
                            {"rate": 20.0, "sites": ["head", "waist"]})  # fmt: skip
    clips[0]["acc"][:, 1] = np.nan
    clips[1]["acc"][:31, 1] = np.nan
    figure = plots.recording_examples(clips, ["sitting", "walking", "lying"], "waist", 5.0)
    values = [[(line.get_ydata()[0], len(line.get_ydata())) for line in ax.lines]
              for ax in figure.axes]  # fmt: skip
    assert values == [[(301, 100)] * 3, [(201, 100)] * 3, []]
    # The lowest panel of each column says what the axis is, also beside a gap.
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "time (s)", "time (s)"]


def test_fit_errors_are_medians_of_motions_in_millimetres():
    errors = [("walking", 2.0), ("walking", 4.0), ("walking", 90.0), ("running", 10.0)]
    # Two frames, one above and one below, so that only their mean is the motion's.
    frames = [np.array([0.5, 1.5]) * error / 1000 for _, error in errors]
    fit = Clips.from_list([{"activity": a} for a, _ in errors], {"joint_error": frames})
    ax = plots.fit_error({"mdm": fit}).axes[0]
    assert ticks(ax.get_xticklabels()) == ["running", "walking"] and ticks(ax.texts) == ["10", "4"]


def test_known_motions_are_read_rightly_and_errors_found():
    _, table = plots.known_motions(virtual_imu)
    assert table.loc[["free fall", "spin, 2 rad/s"]].max(axis=None) < 1e-6
    # No scheme at 20 Hz is exact on a circle, but all come within a few parts of a thousand.
    wheel = table.loc["wheel, r = 0.5 m, 2 rad/s"]
    assert 1e-4 < wheel["acc (m/s²)"] < 5e-3 and wheel["gyro (rad/s)"] < 1e-6

    def upside_down(positions, rotations, rate):
        acc, gyro = virtual_imu(positions, rotations, rate)
        return acc - 2 * 9.81 * rotations[:, 1], -gyro

    _, wrong = plots.known_motions(upside_down)
    assert_allclose(wrong["acc (m/s²)"], 2 * 9.81, rtol=1e-3)
    assert_allclose(wrong["gyro (rad/s)"], [0, 4, 4], atol=1e-6)


def test_sensors():
    assert set(plots.SCHEMES) == set(sensors.SCHEMES)
    gains = gain_table(20.0, (1.0, 5.0), ("central", "spectral"))
    for ax, sensor in zip(plots.scheme_gains(gains).axes, ("acc", "gyro"), strict=True):
        lines = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
        own = gains.loc[gains["scheme"] == "spectral", sensor].tolist()
        assert lines[plots.SCHEMES["spectral"][1]] == own

    rows = [
        {"trial": f"{n}_{kind}", "kind": kind, "scheme": scheme, "sensor": sensor,
         "rmse": n + i + (sensor == "gyro") / 2, "spread": 2.0}
        for n, kind in ((1, "slow rotation"), (2, "fast translation with breaks"))
        for i, scheme in enumerate(("own rate", "central"))
        for sensor in ("acc", "gyro")
    ]  # fmt: skip
    acc, gyro = plots.scheme_errors(pd.DataFrame(rows)).axes
    assert [bar.get_width() for bar in acc.patches] == [1, 2, 2, 3]
    assert [bar.get_width() for bar in gyro.patches] == [1.5, 2.5, 2.5, 3.5]

    rows = [("walking", "head", 1), ("walking", "head", 2), ("walking", "head", 9)]
    rows += [("running", "head", 5), ("walking", "shin", 7), ("lying", "shin", 3)]
    spread = pd.DataFrame(rows, columns=["activity", "site", "spread"])
    sources = {"real": spread, "mdm": spread.assign(spread=10 * spread["spread"])}
    head, shin = plots.dynamics_by_activity(sources, ["head", "shin"], ["walking", "running"]).axes
    assert ticks(head.get_yticklabels()) == ["running", "walking"]
    assert_allclose([line.get_xdata() for line in head.lines], [[5, 2], [50, 20]])
    assert_allclose(shin.lines[0].get_xdata(), [np.nan, 7])


def test_every_solver_is_a_line_over_evaluations_with_its_interval():
    assert set(plots.SOLVERS) == set(SCHEMES)
    rows = []
    for place, (solver, count, seeds) in enumerate(
        [("ancestral", 50, "same"), ("ancestral", 50, "other"), ("ddim", 10, "same")]
        + [("sde-dpm++2m", n, "same") for n in (20, 10, 5)]
    ):
        row = {"solver": solver, "evaluations": count, "seeds": seeds, "measure": "kinetics"}
        row |= {"value": place, "excess": place}
        rows.append(row | {"low": place - 0.5, "high": place + 0.25})
    (ax,) = plots.solver_trade_off(pd.DataFrame(rows)).axes
    lines = {c.get_label(): c for c in ax.containers}
    line, _, (bars,) = lines[plots.SOLVERS["sde-dpm++2m"][1]].lines
    assert_allclose(line.get_xydata()[:, 1], [5, 4, 3])
    assert_allclose(bars.get_segments()[0][:, 1], [4.5, 5.25])
    level = next(x for x in ax.lines if x.get_label() == "full sampling")
    assert_allclose(level.get_ydata(), 0)


def test_figure_1_shows_every_model_and_count():
    groups = ["walking", "running", "high-dynamic", "low-dynamic", "all", plots.CONTRAST]
    table = pd.DataFrame({"group": groups, "clips": [7, 5, 5, 7, 12, 12]})
    table = table.assign(
        delta=[-0.01, -0.03, -0.03, -0.01, -0.02, np.nan], delta_low=-0.1, delta_high=0.1
    )
    figure = plots.fig1_lacc({"mdm-ft": table, "mdm-acc0.1": table})
    left, right = figure.axes
    assert [bar.get_height() for bar in left.containers[0]] == [-0.03, -0.01]
    assert ticks(left.get_xticklabels()) == ["running\nn = 5", "walking\nn = 7"]
    assert len(right.get_xticklabels()) == 3 and "MDM, λ = 0.1" in texts(figure)


def test_figure_2_has_lettered_panels():
    points = np.random.default_rng(0).normal(size=(40, 2))
    panels = [(f"title {i}", "mdm", points, np.arange(40) < 15) for i in range(3)]
    figure = plots.fig2_tsne(panels)
    assert [title(ax) for ax in figure.axes] == ["A  title 0", "B  title 1", "C  title 2"]
    assert "real (n = 15)" in texts(figure) and "MDM (n = 25)" in texts(figure)
    shown = figure.axes[0].collections[0]
    assert_allclose(np.sort(shown.get_offsets(), 0), np.sort(points, 0))
    own = shown.get_facecolors()[:, :3]
    assert (np.abs(own - to_rgb(style.colour("real"))).max(1) < 0.01).sum() == 15


def test_signals():
    rows = [("mdm", "far", 0.4, 0.3, 0.6), ("acc", "far", 0.1, 0.0, 0.2)]
    numbers = pd.DataFrame(rows, columns=["model", "measure", "value", "low", "high"])
    ax = plots.intervals(numbers, {"far": "distance"}).axes[0]
    # Read from above: the first model is the highest.
    assert ticks(ax.get_yticklabels()) == [style.label("acc"), style.label("mdm")]
    assert [list(line.get_xdata()) for line in ax.lines] == [[0.0, 0.2], [0.1], [0.3, 0.6], [0.4]]

    frequency = np.arange(0, 10.5, 0.5)

    def means(level):
        parts = [
            pd.DataFrame({"frequency": frequency, "density": level, "low": level / 2,
                          "high": 2 * level, "label": kind, "site": site})
            for kind in ("walking", "running") for site in ("shin", "head")
        ]  # fmt: skip
        return pd.concat(parts)

    told = pd.DataFrame([("shin", "running", "mdm", "distance", 3.21)],
                        columns=["site", "label", "model", "measure", "value"])  # fmt: skip
    figure = plots.spectra_by_site({"real": means(1.0), "mdm": means(2.0)}, told)
    assert [title(ax) for ax in figure.axes[:2]] == ["running", "walking"]
    assert [line.get_ydata()[0] for line in figure.axes[0].lines] == [2, 1]  # real on top
    assert "3.2" in ticks(figure.axes[0].texts) and "–" in ticks(figure.axes[1].texts)

    gain = means(1.0).rename(columns={"density": "value"}).query("site == 'shin'")
    gain = pd.concat([gain, gain[gain["label"] == "walking"].assign(label="all")]).assign(units=8)
    axes = plots.gains_by_class({"mdm-acc0.1": gain}, "mdm-ft").axes
    assert [title(ax) for ax in axes] == ["running\nn = 8", "walking\nn = 8", "all\nn = 8"]
    assert drawn_in(axes[0], "mdm-ft")[0].get_ydata()[0] == 0


def test_recognition():
    figure = plots.fig3_har({"mdm": [0.5, 0.6], "mdm-acc1": [0.7]}, real=[0.9], chance=0.125)
    ax = figure.axes[0]
    assert [bar.get_height() for c in ax.containers for bar in c] == pytest.approx([55, 70])
    points = np.concatenate([c.get_offsets()[:, 1] for c in ax.collections if len(c.get_offsets())])
    assert {50.0, 60.0, 70.0} <= set(np.round(points, 6))
    for text in ("55.0", "70.0", "chance: 12.5", "real: 90.0"):
        assert text in texts(figure)

    names = ["walking", "running"]
    shares = pd.DataFrame([[0.75, 0.25], [0.004, 0.996]], index=names, columns=names)
    first, second = plots.confusions({"real": shares, "mdm": shares}).axes
    assert ticks(first.get_yticklabels()) == ["running", "walking"]
    assert ticks(second.get_yticklabels()) == []
    # Less than half a percent is left blank.
    assert ticks(first.texts) == ["100", "", "25", "75"]


ARMS = {"mdm-acc0.1": -0.1, "mdm-acc1": -0.4}


@pytest.fixture
def change():
    places = [("all", g) for g in ("jumping", "walking", "high-dynamic", "low-dynamic", "all")]
    places += [("test", "all"), ("test_trials", "all"), ("all", "high-dynamic minus low-dynamic")]
    arms = ARMS | {"gaussian": -0.6, "constant": -0.7, "mdm-acc1-joints": -0.5}
    rows = [
        {"generator": "mdm", "reference": "control", "arm": arm, "split": split, "group": group,
         "clips": 9, "units": 5, "relative": value, "low": value - 0.02, "high": value + 0.03}
        for arm, value in arms.items() for split, group in places
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def by_seed(change):
    parts = [change.assign(seed=s, relative=change["relative"] + 0.01 * (s - 1)) for s in range(3)]
    control = change[change["arm"] == "mdm-acc1"].assign(arm="mdm-ft", reference="base")
    parts += [control.assign(seed=s, relative=0.25) for s in range(3)]
    return pd.concat(parts, ignore_index=True)


def test_changes_stand_by_category_and_split(change, by_seed):
    figure = plots.change_by_category(change, by_seed, "mdm")
    left, right = figure.axes
    names = [name.replace("\n", " ") for name in ticks(left.get_xticklabels())]
    assert names == ["jumping 9 / 5", "walking 9 / 5"] and len(right.get_xticklabels()) == 5
    for arm, value in ARMS.items():
        bar, mean = drawn_in(left, arm)[:2]
        assert_allclose(bar.get_ydata(), [100 * value - 2, 100 * value + 3])
        assert_allclose(mean.get_ydata(), 100 * value)
    # A dot for each seed of each plain arm, and the trivial references across each group.
    dots = [c for c in left.collections if isinstance(c, PathCollection)]
    assert len(dots) == 4
    assert_allclose(dots[0].get_offsets()[:, 1], [-11, -10, -9])
    heights = {round(path.vertices[0, 1]) for c in left.collections if c not in dots
               for path in c.get_paths()}  # fmt: skip
    assert {-60, -70} <= heights and "joints" not in texts(figure)
    with pytest.raises(InputError, match="no arm of momask"):
        plots.change_by_category(change, by_seed, "momask")


def test_the_grid():
    rows = [
        {"generator": "mdm", "arm": arm, "timestep": t, "mean": level * t, "sd": 0.1,
         "relative": -0.1 * t if arm in ARMS else np.nan, "relative_sd": 0.01}
        for arm, level in (("mdm", 3), ("mdm-ft", 2), ("mdm-acc1", 1), ("gaussian", 0.5))
        for t in (1, 2, 4)
    ]  # fmt: skip
    loss, relative = plots.by_timestep(pd.DataFrame(rows), "mdm").axes
    assert_allclose(drawn_in(loss, "mdm-acc1")[0].get_ydata(), [1, 2, 4])
    assert_allclose(drawn_in(relative, "mdm-acc1")[0].get_ydata(), [-10, -20, -40])
    assert len(loss.lines) == 4 and len(relative.lines) == 2

    rows = [("real", "real", 0, 4.0), ("mdm", "mdm", 0, 8.0)]
    rows += [
        (f"{arm}{f'-s{s}' * (s > 0)}", arm, s, level + 0.1 * s)
        for arm, level in (("mdm-ft", 6.0), ("mdm-acc0.1", 5.0), ("mdm-acc1", 3.0))
        for s in range(3)
    ]
    costs = pd.DataFrame(rows, columns=["model", "arm", "seed", "a"])
    costs = costs.assign(b=np.nan, distance=1, acc=costs["a"] / 10)
    measures = {"a": "acceleration (m/s²)", "b": "of none (dB)", "distance": "far (dB)"}
    figure = plots.cost_trade_off(costs, "mdm", measures)
    assert [ax.get_ylabel() for ax in figure.axes] == ["m/s²", "dB"]
    ax = figure.axes[0]
    dots = {to_hex(c.get_facecolor()[0]): c.get_offsets() for c in ax.collections}
    assert_allclose(dots[style.colour("mdm-acc1")], [[0.3, 3], [0.31, 3.1], [0.32, 3.2]])
    assert any(np.allclose(line.get_ydata(), 4.0) for line in drawn_in(ax, "real"))

    frequency = np.arange(1, 21) / 2
    parts = [
        pd.DataFrame({"frequency": frequency, "density": level, "low": level / 2,
                      "high": 2 * level, "arm": arm, "category": category})
        for arm, level in (("real", 1.0), ("mdm", 2.0), ("mdm-ft", 3.0), ("momask", 4.0))
        for category in ("walking", "running", "sitting", "standing")
    ]  # fmt: skip
    figure = plots.joint_spectra(pd.concat(parts), "mdm")
    assert [title(ax) for ax in figure.axes] == ["running", "walking", "standing", "sitting"]
    assert [line.get_ydata()[0] for line in figure.axes[0].lines] == [2, 3, 1]
    assert len(plots.joint_spectra(pd.concat(parts)).axes[0].lines) == 4

    cells = pd.DataFrame(
        [("mdm", np.nan, 0, 9.0), ("mdm-ft", 0.0, 0, 5.0), ("mdm-ft-s1", 0.0, 1, 7.0),
         ("mdm-acc1", 1.0, 0, 3.0)], columns=["model", "lambda_acc", "seed", "acc"],
    ).assign(generator="mdm", options="")  # fmt: skip
    ax = plots.against_weight(cells, {"acc": "L_acc"}).axes[0]
    line, _, _ = ax.containers[0].lines
    assert_allclose(line.get_xydata(), [[0, 6], [1, 3]])
    assert ticks(ax.get_xticklabels()) == ["0", "1"]
    assert any(np.allclose(line.get_ydata(), 9.0) for line in ax.lines)
