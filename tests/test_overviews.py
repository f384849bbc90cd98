import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection
from numpy.testing import assert_allclose

from t2imu_utils import overviews, palette, plots
from t2imu_utils.clips import Clips
from t2imu_utils.imu.sensors import virtual_imu

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def styled():
    with matplotlib.rc_context():
        palette.style()
        yield
    plt.close("all")


MODELS = [
    f"{name}{arm}" for name in ("mdm", "momask", "remodiffuse") for arm in ("", "-ft", "-acc0.1")
] + ["t2mgpt"]


def ticks(labels):
    return [text.get_text() for text in labels]


def title(ax):
    return ax.get_title("left") or ax.get_title()


def test_minutes_are_stacked_by_split():
    minutes = pd.DataFrame(
        {"test": [1.0, 2.0], "train": [10.0, 20.0], "val": [np.nan, 4.0]},
        index=pd.CategoricalIndex(["stair climbing", "dancing"]),
    )
    ax = overviews.minutes_by_category(minutes).axes[0]
    assert ticks(ax.get_xticklabels()) == ["dancing", "stair\nclimbing"]
    drawn = {c.get_label(): [(b.get_y(), b.get_height()) for b in c] for c in ax.containers}
    assert drawn == {
        "train": [(0, 20), (0, 10)],
        "val": [(20, 4), (10, 0)],
        "test": [(24, 2), (10, 1)],
    }
    assert ticks(ax.get_legend().get_texts()) == ["train", "val", "test"]


def recorded(*rows, sites=("head", "waist")):
    """Clips of (activity, frames): 100 clip + 10 site + axis, at 20 Hz."""
    acc = [
        np.tile(100.0 * i + np.array([[0, 1, 2], [10, 11, 12]]), (frames, 1, 1))
        for i, (_, frames) in enumerate(rows)
    ]
    table = [{"activity": activity} for activity, _ in rows]
    return Clips.from_list(table, {"acc": acc}, {"rate": 20.0, "sites": list(sites)})


def test_examples_are_of_one_position_in_the_first_recording_that_has_it():
    clips = recorded(("walking", 200), ("sitting", 50), ("walking", 300), ("sitting", 200))
    clips[0]["acc"][:, 1] = np.nan
    clips[1]["acc"][:10, 1] = np.nan
    figure = overviews.recording_examples(clips, ["sitting", "walking", "lying"], "waist", 5.0)
    axes = figure.axes
    assert [title(ax) for ax in axes] == ["sitting", "walking", "lying"]
    expected = [(110, 40), (210, 100)]
    for ax, (value, frames) in zip(axes, expected, strict=False):
        assert len(ax.lines) == 3
        for axis, line in enumerate(ax.lines):
            assert_allclose(line.get_ydata(), np.full(frames, value + axis))
            assert line.get_xdata()[[0, -1]] == pytest.approx([0, (frames - 1) / 20])
            assert line.get_color() == list(overviews.AXES.values())[axis]
    assert not axes[2].lines
    # The lowest panel of each column says what the axis is, also beside a gap.
    assert [ax.get_xlabel() for ax in axes] == ["", "time (s)", "time (s)"]
    figure.canvas.draw()
    shown = [any(t.get_visible() and t.get_text() for t in ax.get_xticklabels()) for ax in axes]
    assert shown == [False, True, True]


@pytest.mark.parametrize("activities", [["walking"], ["walking", "sitting"]])
def test_few_activities_have_examples_too(activities):
    clips = recorded(("walking", 200), ("sitting", 200))
    figure = overviews.recording_examples(clips, activities, "head")
    assert [title(ax) for ax in figure.axes] == activities


def test_prompts_are_shown_by_activity():
    scores = pd.DataFrame(np.arange(10).reshape(5, 2) / 10, columns=["stair climbing", "walking"])
    activities = pd.Series(["a", "a", "a", "b", "c"], index=[9, 8, 7, 6, 5])
    ax = overviews.prompt_similarity(scores, activities).axes[0]
    assert_allclose(ax.images[0].get_array(), scores)
    assert ticks(ax.get_xticklabels()) == ["stair\nclimbing", "walking"]
    assert_allclose(ax.get_yticks(), [1, 3, 4])
    assert ticks(ax.get_yticklabels()) == ["a", "b", "c"]
    assert [line.get_ydata()[0] for line in ax.lines] == [2.5, 3.5]


def test_signal_and_noise_of_the_schedule():
    ax = overviews.noise_schedule(np.array([1.0, 0.64, 0.0])).axes[0]
    signal, noise = (line.get_ydata() for line in ax.lines)
    assert_allclose(signal, [1, 0.8, 0])
    assert_allclose(noise, [0, 0.6, 1])


def test_fit_errors_are_medians_of_motions_in_millimetres():
    def fit(walking, running):
        errors = [*walking, *running]
        rows = [{"activity": "walking"}] * len(walking) + [{"activity": "running"}] * len(running)
        # Two frames, one above and one below, so that only their mean is the motion's.
        frames = [np.array([0.5, 1.5]) * e / 1000 for e in errors]
        return Clips.from_list(rows, {"joint_error": frames}, {"rate": 20.0})

    fits = {"mdm": fit([2.0, 4.0, 90.0], [10.0]), "mdm-ft": fit([6.0, 7.4, 8.0], [20.0])}
    ax = overviews.fit_error(fits).axes[0]
    assert ticks(ax.get_xticklabels()) == ["running", "walking"]
    assert ticks(ax.get_yticklabels()) == ["MDM", "MDM, control"]
    shown = np.asarray(ax.collections[0].get_array()).reshape(2, 2)
    assert_allclose(shown, [[10, 4], [20, 7.4]])
    assert ticks(ax.texts) == ["10", "4", "20", "7"]


def test_known_motions_are_read_rightly_and_errors_found():
    figure, table = overviews.known_motions(virtual_imu)
    assert table.shape == (3, 2) and table.loc["free fall"].max() < 1e-6
    assert table.loc["spin, 2 rad/s"].max() < 1e-6
    # No scheme at 20 Hz is exact on a circle, but all come within a few parts of a thousand.
    wheel = table.loc["wheel, r = 0.5 m, 2 rad/s"]
    assert 1e-4 < wheel["acc (m/s²)"] < 5e-3 and wheel["gyro (rad/s)"] < 1e-6
    assert [title(ax) for ax in figure.axes[:3]] == table.index.tolist()

    def upside_down(positions, rotations, rate):
        acc, gyro = virtual_imu(positions, rotations, rate)
        return acc - 2 * 9.81 * rotations[:, 1], -gyro

    _, wrong = overviews.known_motions(upside_down)
    assert_allclose(wrong["acc (m/s²)"], 2 * 9.81, rtol=1e-3)
    assert_allclose(wrong["gyro (rad/s)"], [0, 4, 4], atol=1e-6)


def test_dynamics_are_medians_by_activity_and_position():
    def spread(factor):
        rows = [("walking", "head", 1), ("walking", "head", 2), ("walking", "head", 9)]
        rows += [("running", "head", 5), ("walking", "shin", 7), ("lying", "shin", 3)]
        table = pd.DataFrame(rows, columns=["activity", "site", "spread"])
        return table.assign(spread=factor * table["spread"])

    activities = ["walking", "running"]
    figure = overviews.dynamics_by_activity(
        {"real": spread(1), "mdm": spread(10)}, ["head", "shin"], activities
    )
    head, shin = figure.axes
    assert (title(head), title(shin)) == ("head", "shin")
    assert ticks(head.get_yticklabels()) == ["running", "walking"]
    for line, factor, shift in zip(head.lines, (1, 10), (-0.08, 0.08), strict=True):
        assert_allclose(line.get_xdata(), [5 * factor, 2 * factor])
        assert_allclose(line.get_ydata(), [shift, 1 + shift])
    assert_allclose(shin.lines[0].get_xdata(), [np.nan, 7])
    assert head.lines[1].get_color() == palette.colour("mdm")


@pytest.mark.parametrize("count", [2, 6, 10])
def test_dots_of_many_sources_stay_in_their_row(count):
    rows = [(activity, "head", 1.0) for activity in ("walking", "running")]
    table = pd.DataFrame(rows, columns=["activity", "site", "spread"])
    figure = overviews.dynamics_by_activity(
        dict.fromkeys(MODELS[:count], table), ["head", "shin"], ["walking", "running"]
    )
    ax = figure.axes[0]
    first = np.sort([line.get_ydata()[0] for line in ax.lines])
    assert -0.5 < first[0] < first[-1] < 0.5 and first.mean() == pytest.approx(0)
    # No dot hides more than half of the one above it.
    figure.canvas.draw()
    pixels = np.abs(np.diff(ax.transData.transform([(1, y) for y in first])[:, 1]))
    assert pixels.min() > ax.lines[0].get_markersize() * figure.dpi / 72 / 2


def test_spectra_have_a_panel_for_each_category():
    x = np.array([0.5, 1.0, 1.5])
    found = {
        name: {"real": (x, x * factor), "mdm": (x, x * factor * 2)}
        for factor, name in enumerate(("walking", "jumping", "sitting", "running"), start=1)
    }
    axes = overviews.spectra(found).axes
    assert [title(ax) for ax in axes] == ["jumping", "running", "walking", "sitting"]
    for ax, factor in zip(axes, (2, 4, 1, 3), strict=True):
        assert ax.get_yscale() == "log"
        for line, own in zip(ax.lines, (factor, 2 * factor), strict=True):
            assert_allclose(line.get_xydata(), np.stack([x, x * own], 1))
    assert [ax.get_xlabel() != "" for ax in axes] == [False, True, True, True]


def test_the_legend_of_spectra_names_who_is_not_in_the_first_panel():
    x = np.array([0.5, 1.0])
    found = {"running": {"real": (x, x)}, "walking": {"real": (x, x), "momask": (x, 2 * x)}}
    figure = overviews.spectra(found)
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == [palette.label("real"), palette.label("momask")]
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [2, 0]
    assert_allclose(figure.axes[1].lines[1].get_ydata(), 2 * x)


def test_intervals_have_a_row_for_each_model():
    rows = [
        ("mdm", "distance", 0.4, 0.3, 0.6), ("mdm", "mixing", 0.9, 0.8, 1.0),
        ("acc", "distance", 0.1, 0.0, 0.2), ("acc", "mixing", 0.7, 0.6, 0.75),
    ]  # fmt: skip
    numbers = pd.DataFrame(rows, columns=["model", "measure", "value", "low", "high"])
    figure = overviews.intervals(numbers, {"mixing": "mixed", "distance": "far"})
    mixing, distance = figure.axes
    assert (mixing.get_xlabel(), distance.get_xlabel()) == ("mixed", "far")
    # Read from above: the first model is the highest.
    assert ticks(mixing.get_yticklabels()) == [palette.label("acc"), palette.label("mdm")]
    drawn = {
        int(line.get_ydata()[0]): list(line.get_xdata())
        for line in mixing.lines
        if len(line.get_xdata()) == 2
    }
    assert drawn == {0: [0.6, 0.75], 1: [0.8, 1.0]}
    points = {
        int(line.get_ydata()[0]): line.get_xdata()[0]
        for line in distance.lines
        if len(line.get_xdata()) == 1
    }
    assert points == {0: 0.1, 1: 0.4}


def test_ten_models_fill_their_panels():
    rows = [(model, "far", 0.5, 0.4, 0.6) for model in MODELS]
    numbers = pd.DataFrame(rows, columns=["model", "measure", "value", "low", "high"])
    figure = overviews.intervals(numbers, {"far": "distance"})
    low, high = figure.axes[0].get_ylim()
    assert -1 < low < 0 and 9 < high < 10
    assert figure.get_figheight() < 6


@pytest.mark.parametrize("count", [1, 2, 3])
def test_confusions_of_every_generator(count):
    names = ["walking", "running"]
    models = ["real", "mdm", "mdm-ft"][:count]
    shares = {
        model: pd.DataFrame(
            [[1 - i / 4, i / 4], [0.004, 0.996]], index=names, columns=names
        ).rename_axis(index="truth", columns="found")
        for i, model in enumerate(models)
    }
    figure = overviews.confusions(shares)
    axes = figure.axes
    assert figure.get_supylabel() == "true class"
    assert figure.get_supxlabel() == "recognised as (%)"
    assert [title(ax) for ax in axes] == [palette.label(model) for model in models]
    assert ticks(axes[0].get_yticklabels()) == ["running", "walking"]
    for i, ax in enumerate(axes):
        assert ticks(ax.get_xticklabels()) == ["running", "walking"]
        # Rows have the same names all along.
        assert not i or ticks(ax.get_yticklabels()) == []
        shown = np.asarray(ax.collections[0].get_array()).ravel()
        assert_allclose(shown, [99.6, 0.4, 25 * i, 100 - 25 * i])
        assert (ax.get_ylabel(), ax.get_xlabel()) == ("", "")
        # Less than half a percent is left blank.
        texts = [text.get_text() for text in ax.texts]
        assert texts == ["100", "", f"{25 * i}" if i else "", f"{100 - 25 * i}"]


def test_every_subject_is_a_dot():
    accuracy = {"mdm": pd.Series([0.5, 0.7], index=[1, 2]), "real": pd.Series([0.9], index=[1])}
    ax = overviews.by_subject(accuracy).axes[0]
    dots = [c.get_offsets() for c in ax.collections if isinstance(c, PathCollection)]
    assert_allclose(dots[0], [[-0.2, 50], [0.2, 70]])
    assert_allclose(dots[1], [[1, 90]])
    means = [c.get_segments()[0][:, 1] for c in ax.collections if isinstance(c, LineCollection)]
    assert_allclose(means, [[60, 60], [90, 90]])
    assert ticks(ax.get_xticklabels()) == ["MDM", "real"]


@pytest.mark.parametrize(("count", "slanted"), [(6, False), (7, True), (10, True)])
def test_many_names_are_aslant_and_the_caption_below_them(count, slanted):
    accuracy = {model: pd.Series([0.5, 0.7]) for model in MODELS[:count]}
    figure = plots.caption(overviews.by_subject(accuracy), "demo corpus", "A dot a subject.")
    names = figure.axes[0].get_xticklabels()
    assert figure.get_figwidth() <= 11
    assert {name.get_rotation() > 0 for name in names} == {slanted}
    figure.canvas.draw()
    boxes = [name.get_window_extent() for name in names]
    assert min(box.y0 for box in boxes) > figure._supxlabel.get_window_extent().y1
    assert min(box.x0 for box in boxes) > 0
