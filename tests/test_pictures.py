import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from t2imu_utils import pictures
from t2imu_utils.motion.skeleton import CHAINS

matplotlib.use("Agg")

CUBE = np.array([[x, y, z] for x in (0, 1.0) for y in (0, 1.0) for z in (0, 1.0)])
# The side that looks to +Z and the one that looks to -Z, both wound outwards.
SIDES = np.array([[1, 5, 7], [1, 7, 3], [0, 2, 6], [0, 6, 4]])


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


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


def test_only_faces_towards_the_viewer_are_drawn():
    figure, ax = plt.subplots()
    pictures.mesh(ax, CUBE, SIDES, azimuth=0.0)
    assert len(ax.collections[0].get_paths()) == 2
    seen = ax.collections[0].get_paths()[0].vertices
    assert seen[:, 0].min() >= -1e-9
    figure, ax = plt.subplots()
    pictures.mesh(ax, CUBE, SIDES, azimuth=180.0)
    assert ax.collections[0].get_paths()[0].vertices[:, 0].max() <= 1e-9
