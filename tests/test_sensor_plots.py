import pandas as pd
import pytest

from t2imu_utils import sensor_plots
from t2imu_utils.imu.rigid_body import NATIVE
from t2imu_utils.imu.sensors import SCHEMES, gain_table


def texts(labels):
    return [label.get_text() for label in labels]


def test_every_scheme_has_a_colour_and_a_name_of_its_own():
    assert set(sensor_plots.SCHEME_COLOURS) == set(sensor_plots.SCHEME_LABELS) == set(SCHEMES)
    assert len(set(sensor_plots.SCHEME_COLOURS.values())) == len(SCHEMES)


def test_gains_are_drawn_for_both_sensors():
    gains = gain_table(20.0, (1.0, 5.0), ("central", "spectral"))
    figure = sensor_plots.scheme_gains(gains)
    for ax, sensor in zip(figure.axes, ("acc", "gyro"), strict=True):
        drawn = {line.get_label(): line.get_ydata() for line in ax.lines}
        for name in ("central", "spectral"):
            expected = gains.loc[gains["scheme"] == name, sensor].tolist()
            assert list(drawn[sensor_plots.SCHEME_LABELS[name]]) == expected


def test_errors_are_bars_by_trial_and_scheme():
    rows = [
        {"trial": f"{n}_{kind}", "kind": kind, "scheme": scheme, "sensor": sensor,
         "rmse": n + i + (sensor == "gyro") / 2, "rmse_ends": float("nan") if i == 0 else n,
         "spread": 2.0}
        for n, kind in ((1, "slow rotation"), (2, "fast translation with breaks"))
        for i, scheme in enumerate((NATIVE, "central", "spectral"))
        for sensor in ("acc", "gyro")
    ]  # fmt: skip
    figure = sensor_plots.scheme_errors(pd.DataFrame(rows))
    acc, gyro = figure.axes
    assert [bar.get_width() for bar in acc.patches] == [1, 2, 2, 3, 3, 4]
    assert [bar.get_width() for bar in gyro.patches] == pytest.approx(
        [1.5, 2.5, 2.5, 3.5, 3.5, 4.5]
    )
    assert texts(acc.get_yticklabels())[0].startswith("1_  slow rotation")
    assert texts(figure.legends[0].get_texts()) == [
        NATIVE, "second difference (the paper's)", "spectral",
    ]  # fmt: skip
    ends = sensor_plots.scheme_errors(pd.DataFrame(rows), "rmse_ends")
    assert [bar.get_width() for bar in ends.axes[0].patches] == [1, 2, 1, 2]
