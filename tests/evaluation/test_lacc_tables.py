import json

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from t2imu_utils.evaluation import lacc_tables
from t2imu_utils.evaluation.lacc import ESTIMATES
from t2imu_utils.files import write_json


def losses(scale):
    """Two clips; an estimate's acc is `scale` times 1, 2 (model), 3, 4 (gaussian), 5, 6."""
    table = pd.DataFrame({"clip": ["a", "b"] * 3, "estimate": np.repeat(ESTIMATES, 2)})
    acc = scale * np.arange(1.0, 7.0)
    return table.assign(simple=10 * acc, acc=acc, acc_joints=acc + 1)


def test_references_are_those_of_the_base():
    table = lacc_tables.with_references({"mdm": losses(1.0), "mdm-acc1": losses(0.8)}, "mdm")
    gaussian, constant = (name.format("mdm") for name in lacc_tables.REFERENCES.values())
    assert table.index.tolist() == ["mdm", "mdm-acc1", gaussian, constant]
    assert_allclose(table["acc"], [1.5, 1.2, 3.5, 5.5])
    assert_allclose(table["simple"], [15, 12, 35, 55])
    assert_allclose(table["acc_joints"], [2.5, 2.2, 4.5, 6.5])
    assert_allclose(table["acc_against_base"], [0, -0.2, 2 / 1.5, 4 / 1.5], atol=1e-12)
    assert "Gaussian" in gaussian and "frozen" in constant
    other = lacc_tables.with_references({"mdm": losses(1.0), "mdm-acc1": losses(0.8)}, "mdm-acc1")
    assert_allclose(other["acc"], [1.5, 1.2, 2.8, 4.4])
    assert_allclose(other["acc_against_base"][["mdm", "mdm-acc1"]], [0.25, 0])


def change(relative, low, high):
    """A paired difference; its first group says the opposite of "all"."""
    groups = pd.DataFrame(
        {
            "group": ["high-dynamic", "all"],
            "clips": [3, 12],
            "units": [2, 7],
            "before": [1.0, 2.0],
            "after": [1.0 - relative, 2.0 * (1 + relative)],
            "relative": [-relative, relative],
            "relative_low": [-high, low],
            "relative_high": [-low, high],
            "effect_size": [np.nan, 0.5],
        }
    )
    return groups


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((-0.1, -0.15, -0.05), "-10.0% [-15.0%, -5.0%], 12 clips of 7 trials. Lower, and the 95 %"),
        ((0.1, 0.05, 0.154), "+10.0% [+5.0%, +15.4%], 12 clips of 7 trials. Higher, and the 95 %"),
        ((-0.1, -0.25, 0.05), "The 95 % interval includes zero: no difference is shown."),
        ((0.1, -0.05, 0.25), "The 95 % interval includes zero: no difference is shown."),
        ((-0.1, -0.2, 0.0), "The 95 % interval includes zero: no difference is shown."),
    ],
)
def test_a_difference_is_claimed_only_outside_the_interval(numbers, words):
    text = lacc_tables.in_words("mdm-acc1", "mdm-ft", change(*numbers))
    assert text.startswith("L_acc of mdm-acc1 against mdm-ft: ") and words in text
    claims = ("Lower" in text) + ("Higher" in text) + ("no difference" in text)
    assert claims == 1 and ("excludes zero" in text) == ("no difference" not in text)


def test_one_trial_alone_has_no_interval():
    text = lacc_tables.in_words("mdm-acc1", "mdm-ft", change(-0.1, np.nan, np.nan))
    assert "-10.0%" in text and "no interval" in text
    assert not any(word in text for word in ("nan", "zero", "Lower"))


def test_metrics_hold_everything_and_can_be_written(tmp_path):
    compared = lacc_tables.with_references({"mdm": losses(1.0), "mdm-acc1": losses(0.8)}, "mdm")
    moving = pd.DataFrame(
        {
            "model": ["real", "mdm", "mdm"],
            "category": ["all", "walking", "all"],
            "n": [4, 2, 5],
            "mean_abs_jerk": [1.0, 7.0, 3.0],
            "foot_skate": [0.1, 0.2, np.nan],
        }
    )
    step = change(-0.2, -0.3, -0.1)
    found = lacc_tables.as_metrics(compared, {"mdm-acc1": step}, {"mdm-acc1": step}, moving)
    stored = json.loads(write_json(tmp_path / "m.json", found).read_text())
    assert stored["losses"]["mdm-acc1"]["acc_against_base"] == pytest.approx(-0.2)
    assert stored["from_base"]["mdm-acc1"]["all"]["relative_low"] == -0.3
    assert stored["from_control"]["mdm-acc1"]["high-dynamic"]["effect_size"] is None
    # Of sampled motion the summary over categories is kept, not a single category.
    assert stored["sampled"] == {
        "real": {"n": 4.0, "mean_abs_jerk": 1.0, "foot_skate": 0.1},
        "mdm": {"n": 5.0, "mean_abs_jerk": 3.0, "foot_skate": None},
    }


def test_splits_are_compared_by_themselves():
    clips = ["a", "b", "c", "d"]
    before = pd.DataFrame({"clip": clips, "timestep": 1, "acc": [1.0, 1.0, 2.0, 2.0]})
    after = before.assign(acc=[0.5, 0.5, 3.0, 3.0])
    groups = pd.DataFrame(
        {"clip": clips, "split": ["test"] * 2 + ["test_trials"] * 2, "category": "walking"}
    )
    found = lacc_tables.by_split(before, after, groups, draws=20)
    relative = {
        name: table.set_index("group").loc["all", "relative"] for name, table in found.items()
    }
    assert relative == {"test": -0.5, "test_trials": 0.5}
