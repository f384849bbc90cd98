import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from t2imu_utils import palette, plots
from t2imu_utils.errors import InputError

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def styled():
    with matplotlib.rc_context():
        palette.style()
        yield
    plt.close("all")


def texts(figure):
    return " ".join(t.get_text() for t in figure.findobj(matplotlib.text.Text))


def test_a_saved_figure_repeats_and_stays_small(tmp_path):
    def noisy():
        figure, ax = plt.subplots(figsize=(4, 3))
        ax.imshow(np.random.default_rng(0).random((300, 300, 3)))
        return figure

    first = plots.save(noisy(), tmp_path / "a.png", limit=60_000).read_bytes()
    assert plots.save(noisy(), tmp_path / "b.png", limit=60_000).read_bytes() == first
    assert len(first) <= 60_000 < len(plots.save(noisy(), tmp_path / "d.png").read_bytes())
    assert not plt.get_fignums()
    info = Image.open(io.BytesIO(first)).info
    assert "Software" not in info and not any("time" in key.lower() for key in info)
    with pytest.raises(InputError, match="at most 1000"):
        plots.save(noisy(), tmp_path / "c.png", limit=1000)
    assert not (tmp_path / "c.png").exists()


def test_a_small_figure_is_saved_as_drawn(tmp_path):
    figure, ax = plt.subplots(figsize=(3, 2))
    ax.plot([0, 1])
    image = Image.open(plots.save(figure, tmp_path / "a.png"))
    assert image.size == (330, 220) and image.mode == "RGBA"


def test_the_caption_tells_the_corpus():
    figure, _ = plt.subplots()
    plots.caption(figure, "demo corpus (synthetic stand-in)", "n = 3 seeds.")
    assert "demo corpus (synthetic stand-in). n = 3 seeds." in texts(figure).replace("\n", " ")


def differences(shift):
    groups = ["walking", "running", "high-dynamic", "low-dynamic", "all"]
    delta = np.array([-0.01, -0.03, -0.03, -0.01, -0.02]) * shift
    return pd.DataFrame(
        {
            "group": groups, "clips": [7, 5, 5, 7, 12], "delta": delta, "delta_low": delta - 0.001,
            "delta_high": delta + 0.002, "relative": 10 * delta, "relative_low": 9 * delta,
            "relative_high": 11 * delta,
        }
    )  # fmt: skip


def test_figure_1_shows_every_model_and_count():
    figure = plots.fig1_lacc({"mdm-ft": differences(0.2), "mdm-acc0.1": differences(1)})
    left, right = figure.axes
    heights = [bar.get_height() for bars in left.containers for bar in bars]
    assert {-0.03, -0.01} <= {round(h, 6) for h in heights}
    assert [t.get_text() for t in left.get_xticklabels()] == ["running\nn = 5", "walking\nn = 7"]
    assert len(right.get_xticklabels()) == 3
    assert "MDM, control" in texts(figure) and "MDM, λ = 0.1" in texts(figure)
    relative = plots.fig1_lacc({"mdm-ft": differences(1)}, relative=True)
    assert "%" in relative.axes[0].get_ylabel()
    assert [round(bar.get_height(), 6) for bar in relative.axes[0].containers[0]] == [-30, -10]


def test_figure_2_has_lettered_panels():
    points = np.random.default_rng(0).normal(size=(40, 2))
    real = np.arange(40) < 15
    panels = [plots.Panel(f"title {i}", points, real, "mdm", "energy 0.3") for i in range(3)]
    figure = plots.fig2_tsne(panels)
    assert [ax.get_title("left") for ax in figure.axes] == [
        "A  title 0", "B  title 1", "C  title 2",
    ]  # fmt: skip
    assert "energy 0.3" in texts(figure)
    assert "real (n = 15)" in texts(figure) and "MDM (n = 25)" in texts(figure)
    shown = figure.axes[0].collections[0]
    np.testing.assert_allclose(np.sort(shown.get_offsets(), 0), np.sort(points, 0))
    own = shown.get_facecolors()[:, :3]
    assert (np.abs(own - to_rgb(palette.colour("real"))).max(1) < 0.01).sum() == 15


def test_figure_3_shows_means_and_every_seed():
    figure = plots.fig3_har(
        {"mdm": [0.5, 0.6], "mdm-acc1": [0.7]}, real=[0.9], chance=0.125, paper={"mdm": 0.526}
    )
    ax = figure.axes[0]
    assert [bar.get_height() for bars in ax.containers for bar in bars] == pytest.approx([55, 70])
    points = np.concatenate([c.get_offsets()[:, 1] for c in ax.collections if len(c.get_offsets())])
    assert {50.0, 60.0, 70.0} <= set(np.round(points, 6))
    for text in ("55.0", "70.0", "chance: 12.5", "real: 90.0", "paper"):
        assert text in texts(figure)
    assert len(plots.fig3_har({"momask": [0.4]}).axes[0].containers) == 1


MODELS = [
    f"{name}{arm}" for name in ("mdm", "momask", "remodiffuse") for arm in ("", "-ft", "-acc0.1")
] + ["t2mgpt", "mdm-acc0.3-s1", "remodiffuse-acc0.3-joints"]


@pytest.mark.parametrize(("count", "slanted"), [(3, False), (6, False), (7, True), (12, True)])
def test_figure_3_stays_readable_with_many_models(count, slanted):
    accuracy = {model: [0.3, 0.5] for model in MODELS[:count]}
    figure = plots.fig3_har(accuracy, real=[0.55], chance=0.125)
    plots.caption(figure, "demo corpus", "n = 2 seeds, and many words more. " * 5)
    assert figure.get_figwidth() <= 11
    ax = figure.axes[0]
    names = ax.get_xticklabels()
    assert [name.get_text() for name in names] == [palette.label(model) for model in accuracy]
    assert {name.get_rotation() > 0 for name in names} == {slanted}
    figure.canvas.draw()
    boxes = [name.get_window_extent() for name in names]
    assert min(box.y0 for box in boxes) > figure._supxlabel.get_window_extent().y1
    if not slanted:
        assert all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:], strict=False))
    inside = [t.get_window_extent() for t in (*ax.texts, *names)]
    assert min(box.x0 for box in inside) >= 0
    assert max(box.x1 for box in inside) <= figure.bbox.width


def test_a_number_stands_over_what_the_paper_reports():
    figure = plots.fig3_har({"mdm": [0.5]}, paper={"mdm": 0.55})
    number = next(text for text in figure.axes[0].texts if text.get_text() == "50.0")
    assert number.xy == pytest.approx((0, 55))
    far = plots.fig3_har({"mdm": [0.5]}, paper={"mdm": 0.75})
    assert next(t for t in far.axes[0].texts if t.get_text() == "50.0").xy == pytest.approx((0, 50))


@pytest.mark.parametrize(("count", "columns"), [(2, 2), (5, 5), (6, 3), (10, 5), (12, 4)])
def test_a_legend_of_many_models_has_equal_columns(count, columns):
    values = pd.DataFrame(dict.fromkeys(MODELS[:count], [1.0, 2.0]), index=["walking", "jumping"])
    figure = plots.bars(values, "m/s²")
    legend = figure.legends[0]
    assert [t.get_text() for t in legend.get_texts()] == [palette.label(m) for m in MODELS[:count]]
    assert legend._ncols == columns
    figure.canvas.draw()
    assert legend.get_window_extent().x0 > 0
    assert legend.get_window_extent().y0 > figure.axes[0].get_window_extent().y1


def test_a_legend_of_many_lines_hides_none():
    x = np.arange(5.0)
    figure = plots.lines({model: (x, x) for model in MODELS}, "timestep", "loss")
    figure.canvas.draw()
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 > figure.axes[0].get_window_extent().x1
    assert legend.y0 > 0 and legend.x1 <= figure.bbox.width


def test_the_other_plots_hold_what_they_were_given():
    steps = pd.DataFrame({"step": [0, 1, 2, 2], "split": ["train"] * 3 + ["validation"],
                          "simple": [3.0, 2.0, 1.0, 1.5], "acc": [np.nan] * 3 + [0.1]})  # fmt: skip
    figure = plots.loss_curves({"mdm-ft": steps}, terms=("simple", "acc"))
    assert figure.axes[0].lines[0].get_ydata().tolist() == [3, 2, 1]
    assert figure.axes[1].lines[1].get_ydata().tolist() == [0.1]

    x = np.arange(5.0)
    figure = plots.lines({"real": (x, x + 1), "gaussian": (x, x + 2)}, "Hz", "power", log=True)
    assert figure.axes[0].get_yscale() == "log"
    assert figure.axes[0].lines[1].get_linestyle() == "--"

    values = pd.DataFrame({"real": [1.0, 2], "mdm": [3.0, 4]}, index=["walking", "jumping"])
    figure = plots.bars(values, "m/s²", values - 0.1, values + 0.1)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["jumping", "walking"]


def test_a_shown_figure_is_a_small_captioned_picture(tmp_path):
    def drawn():
        figure, ax = plt.subplots(figsize=(4, 3))
        ax.imshow(np.random.default_rng(0).random((300, 300, 3)))
        return figure

    figure = drawn()
    shown = plots.show(figure, "demo corpus", "n = 3 seeds.")
    assert "demo corpus. n = 3 seeds." in texts(figure)
    assert shown.format == "png" and len(shown.data) <= plots.LIMIT
    assert Image.open(io.BytesIO(shown.data)).format == "PNG"
    assert not plt.get_fignums()
    # The file holds what the notebook shows; without a caption it would be another picture.
    path = tmp_path / "figures" / "a.png"
    assert plots.show(drawn(), "demo corpus", "n = 3 seeds.", path).data == path.read_bytes()
    assert shown.data == path.read_bytes() != plots.save(drawn(), tmp_path / "b.png").read_bytes()
