import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from t2imu_utils.analysis import signals, stats
from t2imu_utils.analysis.signals import SHAPE, catch24
from t2imu_utils.clips import Clips
from t2imu_utils.tracks import load_track


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def described(labels, shift=0.0, scale=1.0, seed=0, per_group=1, people=6):
    """Features that know no size, and those that do; the first tells the row."""
    rng, n = np.random.default_rng(seed), len(labels)
    x = rng.normal(shift, 1, (n, 72))
    x[:, ~SHAPE] = scale * rng.normal(3, 0.2, (n, 6))
    groups = np.arange(n) // per_group
    return pd.DataFrame(x).assign(label=labels, group=groups, subject=groups % people)


def test_catch22_does_not_see_amplitude_but_the_moments_do(rng):
    windows = rng.normal(size=(4, 40, 3)).cumsum(1)
    plain, large = catch24(windows), catch24(3 * windows)
    assert plain.shape == (4, 72) and SHAPE.sum() == 66
    assert_allclose(large[:, SHAPE], plain[:, SHAPE], atol=1e-6)
    assert_allclose(large[:, ~SHAPE], 3 * plain[:, ~SHAPE])
    assert_allclose(plain[:, 22], windows[..., 0].mean(1))
    assert_allclose(plain[:, 23], windows[..., 0].std(1, ddof=1))
    swapped = catch24(windows[..., [2, 1, 0]])
    assert_allclose(swapped[:, :24], plain[:, 48:])


@pytest.mark.parametrize("count", [3, 9, 12, 40])
def test_thinning_is_as_even_over_classes_as_they_allow(count):
    whole, full = described(list("a" * 10 + "b" * 2 + "c" * 5)), {"a": 10, "b": 2, "c": 5}
    part = signals.thinned(whole, count, 0)
    assert part.index.is_unique and len(part) == min(count, 17)
    counts = {name: int((part["label"] == name).sum()) for name in "abc"}
    most = max(counts.values())
    # Whoever has windows left has at most one less than any other class.
    assert all(counts[n] >= most - 1 or counts[n] == full[n] for n in "abc")


def test_models_are_compared_on_one_scale():
    real, models = described(list("ab" * 30), per_group=2), {"near": {}, "far": {"shift": 1.5}}
    made = {
        name: described(list("ab" * 24), seed=1 + i, per_group=3, **settings)
        for i, (name, settings) in enumerate((models | {"large": {"scale": 2.0}}).items())
    }
    table = signals.compare(real, made, 0)
    assert (table["recordings"] == 30).all() and set(table["measure"]) == set(signals.MEASURES)
    value = table.pivot(index="model", columns="measure", values="value")
    assert value.loc["far", "distance"] > value.loc["near", "distance"] + 0.1
    # Of a wrong size: not seen without the moments, plain with them.
    assert value.loc["large", "distance"] == pytest.approx(value.loc["near", "distance"], abs=0.1)
    assert value.loc["large", "distance_sized"] > value.loc["near", "distance_sized"] + 0.1
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    found = stats.nested(table, "model", "classes", "measure")
    assert found["far"]["all"]["distance"]["value"] == value.loc["far", "distance"]
    # The split-half reference is of subjects.
    assert value.loc["real", "distance"] == pytest.approx(0, abs=0.1)
    # Every other person is another kind of person: some halves lie far apart.
    real.loc[real["subject"].isin([0, 2, 4]), 0:71] += 3
    apart = signals.compare(real, {}, 0).set_index("measure").loc["distance"]
    assert apart["low"] > 0.1 < apart["value"] <= apart["high"]
    few = signals.compare(described(list("ab" * 5), per_group=2, people=2), {}, 0)
    assert few["value"].isna().all()


def test_windows_of_a_source_are_described(rng):
    activities = ["walking"] * 3 + ["lying", "running"]
    section = load_track("demo").recordings.model_copy(
        update={"classes": ["running", "walking"], "sites": ["head"]}
    )
    table = [{"activity": a, "motion": i, "body": "tall"} for i, a in enumerate(activities)]
    acc = [rng.normal(size=(100, 2, 3)) for _ in activities]
    acc[0][40:, 1] = 9.81  # a constant has no features
    clips = Clips.from_list(table, {"acc": acc}, {"sites": ["shin", "head"], "rate": 20.0})
    # 100 frames hold four windows of 40, half overlapping.
    found = signals.describe(clips, section, 20, 0)
    assert found["label"].value_counts().to_dict() == {"walking": 10, "running": 4}
    assert set(found["group"]) == {0, 1, 2, 4} and np.isfinite(found[range(72)]).all(axis=None)
