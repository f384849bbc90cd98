import numpy as np
import pytest

from t2imu_utils import palette
from t2imu_utils.evaluation.similarity_runs import Described, embed
from t2imu_utils.similarity_plots import fig2_panels, panel_sizes

MODELS = ["mdm", "mdm-acc0.1"]


def described(labels, seed):
    n = len(labels)
    plain = np.random.default_rng(seed).normal(size=(n, 4))
    return Described(plain, plain, np.asarray(labels), np.arange(n), np.arange(n) % 4, 0)


@pytest.fixture
def sets():
    real = described(["walking", "running", "jumping"] * 8, 0)
    labels = ["walking", "running", "jumping", "jumping"] * 8
    return real, {model: described(labels, seed) for seed, model in enumerate(MODELS, 1)}


def test_figure_2_has_a_row_of_all_classes_and_one_of_jumping_and_running(sets):
    real, models = sets
    panels = fig2_panels(real, models, MODELS, perplexity=5, seed=0)
    base, refined = map(palette.label, MODELS)
    assert [panel.title for panel in panels] == [
        f"{base}, all activities", f"{refined}, all activities",
        f"{base}, jumping + running", f"{refined}, jumping + running",
    ]  # fmt: skip
    assert [panel.model for panel in panels] == MODELS * 2
    # As many real windows as synthetic ones, of the classes of the row.
    assert panel_sizes(panels) == "A: n = 48, B: n = 48, C: n = 32, D: n = 32"
    assert all(panel.real.sum() == len(panel.points) / 2 for panel in panels)
    dynamic = ("jumping", "running")
    points, _ = embed(real.only(dynamic), models["mdm"].only(dynamic), 5, 0)
    np.testing.assert_allclose(panels[2].points, points)
    assert not np.allclose(panels[3].points, panels[2].points)
