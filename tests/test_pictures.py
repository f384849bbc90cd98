import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from t2imu_utils import pictures, style
from t2imu_utils.errors import InputError
from t2imu_utils.motion.skeleton import CHAINS

matplotlib.use("Agg")

CUBE = np.array([[x, y, z] for x in (0, 1.0) for y in (0, 1.0) for z in (0, 1.0)])
# The side that looks to +Z and the one that looks to -Z, both wound outwards.
SIDES = np.array([[1, 5, 7], [1, 7, 3], [0, 2, 6], [0, 6, 4]])


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_the_view_is_a_rotation():
    plane, depth = pictures._view(np.eye(3), 35.0, 12.0)
    whole = np.concatenate([plane, depth[:, None]], 1)
    np.testing.assert_allclose(whole @ whole.T, np.eye(3), atol=1e-12)
    plane, depth = pictures._view(np.eye(3), 0.0, 0.0)
    np.testing.assert_allclose(plane, [[1, 0], [0, 1], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(depth, [0, 0, 1], atol=1e-12)
    # At 90 degrees one looks along the body's left side (-X in view is its front).
    plane, depth = pictures._view(np.eye(3), 90.0, 0.0)
    np.testing.assert_allclose(depth, [1, 0, 0], atol=1e-12)


def test_a_film_strip_keeps_heights_and_drops_travel():
    joints = np.random.default_rng(0).random((41, 22, 3))
    joints[..., 0] += np.linspace(0, 50, 41)[:, None]
    figure = pictures.film_strip({"one": joints, "two": joints[:2]}, frames=5)
    first, second = figure.axes
    assert (len(first.collections), len(second.collections)) == (5, 2)
    assert [t.get_text() for t in first.texts] == ["0.0 s", "0.5 s", "1.0 s", "1.5 s", "2.0 s"]
    drawn = np.concatenate(first.collections[-1].get_segments())
    own = joints[-1][[i for chain in CHAINS for i in chain]]
    np.testing.assert_allclose(sorted(drawn[:, 1]), sorted(own[:, 1]))
    assert drawn[:, 0].max() < 8
    with pytest.raises(InputError, match="bad"):
        pictures.film_strip({"bad": joints[:, :21]})


def test_only_faces_towards_the_viewer_are_drawn():
    figure, ax = plt.subplots()
    pictures.mesh(ax, CUBE, SIDES, azimuth=0.0)
    assert len(ax.collections[0].get_paths()) == 2
    seen = ax.collections[0].get_paths()[0].vertices
    assert seen[:, 0].min() >= -1e-9
    figure, ax = plt.subplots()
    pictures.mesh(ax, CUBE, SIDES, azimuth=180.0)
    assert ax.collections[0].get_paths()[0].vertices[:, 0].max() <= 1e-9


def test_bodies_stand_on_one_floor_side_by_side():
    figure = pictures.bodies({"low": CUBE - [0, 5, 0], "tall": 2 * CUBE}, SIDES, azimuth=0.0)
    first, second = (np.concatenate([p.vertices for p in c.get_paths()]) for c in
                     figure.axes[0].collections)  # fmt: skip
    assert first[:, 0].max() < second[:, 0].min()
    # Seen from ten degrees above, the front's lower edge lies sin(10°) of half its depth below.
    low = -np.sin(np.radians(10.0))
    assert first[:, 1].min() == pytest.approx(low / 2) and second[:, 1].min() == pytest.approx(low)
    assert {"low", "tall"} <= {t.get_text() for t in figure.axes[0].texts}


def test_sites_show_where_they_are_in_sight():
    sites = {"chest": CUBE[7], "shin_other": CUBE[0], "spine": CUBE[4]}
    normals = {name: np.array([0, 0, 1.0 if name == "chest" else -1.0]) for name in sites}
    figure = pictures.sensor_sites(CUBE, SIDES, sites, normals)
    named = [{t.get_text() for t in ax.texts} for ax in figure.axes]
    assert named == [{"chest"}, {"shin other", "spine"}]
    everywhere = pictures.sensor_sites(CUBE, SIDES, sites)
    assert all(len(ax.texts) == 3 for ax in everywhere.axes)


def test_names_are_never_over_one_another():
    sites = {f"s{i}": np.array([0.9, 0.5 + 0.001 * i, 1.0]) for i in range(5)}
    figure = pictures.sensor_sites(CUBE, SIDES, sites)
    heights = sorted(t.get_position()[1] for t in figure.axes[0].texts)
    assert np.diff(heights).min() > 0.12


def test_traces_are_in_seconds():
    signal = np.arange(30.0).reshape(10, 3)
    figure = pictures.imu_traces({"mdm": signal, "male tall": signal + 1}, rate=20.0)
    assert len(figure.axes) == 3 and figure.axes[0].get_ylabel() == "m/s²"
    line = figure.axes[2].lines[0]
    np.testing.assert_allclose(line.get_xdata(), np.arange(10) / 20)
    np.testing.assert_allclose(line.get_ydata(), signal[:, 2])
    hues = [to_hex(line.get_color()) for line in figure.axes[2].lines]
    assert hues[0] == style.colour("mdm") != hues[1]


def test_signals_stand_under_the_strip_one_row_a_site():
    joints = np.random.default_rng(0).random((21, 22, 3))
    signals = {"acceleration (m/s²)": np.arange(21 * 2 * 3.0).reshape(21, 2, 3)}
    figure = pictures.motion_with_signals(
        "walks", joints, signals, ["shin", "shin_other"], frames=3
    )
    strip, first, second = figure.axes
    titles = ["".join(map(ax.get_title, ("left", "center"))) for ax in (strip, first, second)]
    assert titles == ["walks", "acceleration (m/s²)", ""]
    assert [ax.get_ylabel() for ax in (first, second)] == ["shin", "shin\nother"]
    for index, line in enumerate(second.lines):
        np.testing.assert_array_equal(line.get_ydata(), signals["acceleration (m/s²)"][:, 1, index])
        np.testing.assert_allclose(line.get_xdata()[[0, -1]], [0, 1.0])
    with pytest.raises(InputError, match="motions: walks"):
        pictures.motion_with_signals("walks", joints[:, :21], signals, ["shin", "shin_other"])
