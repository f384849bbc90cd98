import matplotlib.pyplot as plt
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from t2imu_utils.evaluation.solvers import FULL, MEASURES, REAL
from t2imu_utils.models.diffusion import SCHEMES
from t2imu_utils.solver_plots import COLOURS, LABELS, trade_off


@pytest.fixture
def table():
    samples = [("ancestral", 50, "same"), ("ancestral", 50, "other"), ("ddim", 10, "same")]
    samples += [("sde-dpm++2m", n, "same") for n in (20, 10, 5)]
    found = []
    for place, sample in enumerate(samples):
        for measure in MEASURES:
            for to in (REAL, FULL) if place else (REAL,):
                value = place + 10 * MEASURES.index(measure) + (100 if to == FULL else 0)
                row = dict(zip(("solver", "evaluations", "seeds"), sample, strict=True))
                row |= {"measure": measure, "to": to, "value": value, "excess": place}
                found.append(row | {"low": place - 0.5, "high": place + 0.25, "no_worse": False})
    return pd.DataFrame(found)


def test_every_solver_is_a_line_over_evaluations_with_its_interval(table):
    figure = trade_off(table)
    try:
        panels = figure.axes
        assert len(panels) == 6
        for ax, to, measure in zip(panels, [REAL] * 3 + [FULL] * 3, MEASURES * 2, strict=True):
            assert (ax.get_title("left") or ax.get_title()) == f"{measure}, to {to}"
            lines = {c.get_label(): c for c in ax.containers}
            wanted = {LABELS["ddim"], LABELS["sde-dpm++2m"]}
            assert set(lines) == wanted | ({LABELS["ancestral"]} if to == REAL else set())
            line, _, (bars,) = lines[LABELS["sde-dpm++2m"]].lines
            base = 10 * MEASURES.index(measure) + (100 if to == FULL else 0)
            assert_allclose(line.get_xydata()[:, 0], [5, 10, 20], rtol=0.04)
            assert_allclose(line.get_xydata()[:, 1], [base + 5, base + 4, base + 3])
            assert_allclose(bars.get_segments()[0][:, 1], [base + 4.5, base + 5.25])
            floor = next(x for x in ax.lines if x.get_label() == "full sampling")
            assert_allclose(floor.get_ydata(), base + (0 if to == REAL else 1))
    finally:
        plt.close(figure)


def test_every_solver_has_a_colour_and_a_name():
    assert set(COLOURS) == set(LABELS) == set(SCHEMES)
    assert len(set(COLOURS.values())) == len(SCHEMES)
