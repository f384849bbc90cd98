import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from numpy.testing import assert_allclose

from t2imu_utils.outlook_plots import changes


def test_every_change_is_a_row_with_its_seeds_mean_and_spread():
    table = pd.DataFrame(
        {
            "model": ["mdm-acc1", "mdm", "mdm-acc1"],
            "mean": [0.6, 0.5, 0.9], "sd": [0.1, 0.05, np.nan], "n": [2, 2, 1],
            "chance": [0.2, 0.2, 0.25],
        },
        index=["as the paper", "not refined", "fewer classes"],
    )  # fmt: skip
    seeds = pd.DataFrame(
        {
            "change": ["as the paper", "not refined"] * 2 + ["fewer classes"],
            "accuracy": [0.5, 0.45, 0.7, 0.55, 0.9],
        }
    )
    figure = changes(table, seeds)
    try:
        (ax,) = figure.axes
        labels = [text.get_text() for text in ax.get_yticklabels()]
        assert labels == [
            "as the paper (n = 2)", "not refined (n = 2)", "fewer classes (n = 1)"
        ]  # fmt: skip
        assert ax.get_ylim()[0] > ax.get_ylim()[1]  # read from the top
        first = ax.lines[0].get_xdata()
        assert_allclose(first, [60, 60])
        dots = [line for line in ax.lines if line.get_marker() == "o"]
        assert [sorted(line.get_xdata().round(6)) for line in dots] == [[50, 70], [45, 55], [90]]
        bars = [bar.get_segments()[0][:, 0] for c in ax.containers for bar in c.lines[2]]
        assert_allclose(bars, [[50, 70], [45, 55]])
        chance = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"]
        assert_allclose(chance, [20, 20, 25])
        assert "balanced accuracy" in ax.get_xlabel()
    finally:
        plt.close(figure)
