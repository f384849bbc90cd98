import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from t2imu_utils import palette, plots, spectra_plots
from t2imu_utils.errors import InputError

matplotlib.use("Agg")
FREQUENCY = np.arange(21) / 2


@pytest.fixture(autouse=True)
def styled():
    with matplotlib.rc_context():
        palette.style()
        yield
    plt.close("all")


def means(level, classes=("walking", "jumping"), sites=("chest", "shin")):
    parts = []
    for i, label in enumerate(classes):
        for j, site in enumerate(sites):
            density = level * 10.0 ** (i + 2 * j) * np.ones(21)
            density[17:] = 1e-9  # above what is compared
            found = {"frequency": FREQUENCY, "density": density, "low": density / 2,
                     "high": 2 * density}  # fmt: skip
            parts.append(pd.DataFrame(found).assign(label=label, site=site, units=5))
    return pd.concat(parts, ignore_index=True)


def test_spectra_stand_by_site_and_class(tmp_path):
    arms = {"mdm": 3.0, "mdm-ft": 4.0, "mdm-acc0.1": 5.0}
    given = {"real": means(1.0)} | {name: means(level) for name, level in arms.items()}
    rows = [(m, "jumping", "shin", "distance", 1.25 + v) for m, v in arms.items() if m != "mdm-ft"]
    numbers = pd.DataFrame(rows, columns=["model", "label", "site", "measure", "value"])
    figure = spectra_plots.by_site_and_class(given, numbers=numbers)
    grid = np.array(figure.axes).reshape(2, 2)
    assert [ax.get_title("left") for ax in grid[0]] == ["jumping", "walking"]
    assert [grid[i, 0].texts[-1].get_text() for i in (0, 1)] == ["chest", "shin"]
    # Shin, jumping: 10 ** (1 + 2); the real line is drawn last, over the others.
    drawn = {to_hex(line.get_color()): line for line in grid[1, 0].lines}
    assert list(drawn) == [palette.colour(n) for n in (*arms, "real")]
    for name, level in ({"real": 1.0} | arms).items():
        line = drawn[palette.colour(name)]
        assert line.get_ydata()[0] == 1000 * level and line.get_xdata()[0] == 0.5
    assert len(grid[1, 0].collections) == 4
    texts = [(t.get_text(), to_hex(t.get_color())) for t in grid[1, 0].texts[:3]]
    expected = [("6.2", "mdm-acc0.1"), ("–", "mdm-ft"), ("4.2", "mdm")]
    assert texts == [(text, palette.colour(name)) for text, name in expected]
    low, high = grid[0, 0].get_ylim()
    assert grid[0, 0].get_yscale() == "log" and 0.5 < low < 1 and 5000 < high < 10_000
    assert grid[0, 0].get_xlim() == (0, 8)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "real", "MDM", "MDM, control", "MDM, λ = 0.1"
    ]  # fmt: skip
    assert "(m/s²)²/Hz" in figure.get_supylabel() and grid[1, 0].get_xlabel() == "Hz"
    assert plots.save(figure, tmp_path / "a.png").stat().st_size < plots.LIMIT
    one = spectra_plots.by_site_and_class(given, sites=["shin"])
    assert len(one.axes) == 2
    with pytest.raises(InputError, match="'real' among them"):
        spectra_plots.by_site_and_class({"mdm": means(1.0)})


def test_gains_stand_by_class():
    rows = [
        {"label": label, "frequency": f, "value": -f, "low": -f - 1, "high": -f + 1, "units": n}
        for label, n in (("walking", 4), ("jumping", 5), ("all", 9))
        for f in FREQUENCY
    ]
    figure = spectra_plots.gains_by_class({"mdm-acc0.1": pd.DataFrame(rows)}, "mdm-ft")
    assert [ax.get_title("left") for ax in figure.axes] == [
        "jumping\nn = 5", "walking\nn = 4", "all\nn = 9"
    ]  # fmt: skip
    zero, line = figure.axes[2].lines
    assert to_hex(zero.get_color()) == palette.colour("mdm-ft") and zero.get_ydata()[0] == 0
    assert to_hex(line.get_color()) == palette.colour("mdm-acc0.1")
    assert line.get_ydata().tolist() == (-FREQUENCY[1:]).tolist()
    assert "dB" in figure.axes[0].get_ylabel()
