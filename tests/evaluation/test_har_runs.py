import dataclasses

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics import balanced_accuracy_score

from t2imu_utils.evaluation import har_runs
from t2imu_utils.evaluation.window_sets import WindowSet
from t2imu_utils.tracks import HarSection

CLASSES = ("running", "still", "walking")
SECTION = HarSection(
    epochs=12, batch_size=16, learning_rate=3e-3, filters=8, units=16, windows_per_class=50,
    test_windows_per_class=9, tsne_windows=9, folds=2, seeds=[0],
)  # fmt: skip


@pytest.fixture
def counts():
    """Two seeds, two subjects with 4 windows of walking and 2 or 4 of running."""
    rows = [
        (0, "a", "walking", "walking", 3), (0, "a", "walking", "running", 1),
        (0, "a", "running", "running", 2),
        (0, "b", "walking", "walking", 1), (0, "b", "walking", "running", 3),
        (0, "b", "running", "walking", 4),
        (1, "a", "walking", "walking", 4),
        (1, "a", "running", "running", 1), (1, "a", "running", "walking", 1),
        (1, "b", "walking", "walking", 4),
        (1, "b", "running", "running", 2), (1, "b", "running", "walking", 2),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=[*har_runs.COLUMNS, "windows"])


def test_recalls_of_a_table_written_by_hand(counts):
    found = har_runs.recalls(counts)
    assert found.columns.tolist() == ["running", "walking"] and found.index.tolist() == [0, 1]
    assert_allclose(found, [[2 / 6, 4 / 8], [3 / 6, 8 / 8]])
    by_subject = har_runs.recalls(counts, ["subject"])
    assert_allclose(by_subject.loc[["a", "b"]], [[3 / 4, 7 / 8], [2 / 8, 5 / 8]])
    both = har_runs.recalls(counts, ["seed", "subject"])
    # Never recognised is 0, not unknown.
    assert both.loc[(0, "b"), "running"] == 0


def test_balanced_accuracy_weighs_classes_not_windows(counts):
    assert_allclose(har_runs.balanced_accuracy(counts), [(2 / 6 + 4 / 8) / 2, 0.75])
    assert_allclose(har_runs.balanced_accuracy(counts, ["subject"]), [13 / 16, 7 / 16])
    for seed, part in counts.groupby("seed"):
        windows = part.loc[part.index.repeat(part["windows"])]
        expected = balanced_accuracy_score(windows["truth"], windows["found"])
        assert har_runs.balanced_accuracy(counts)[seed] == pytest.approx(expected)


def test_a_class_that_a_subject_lacks_does_not_count(counts):
    alone = pd.DataFrame([(0, "c", "walking", "walking", 1), (0, "c", "walking", "running", 3)])
    alone.columns = counts.columns
    found = har_runs.balanced_accuracy(pd.concat([counts, alone]), ["subject"])
    assert found["c"] == 0.25 and found["a"] == 13 / 16


def test_confusion_is_of_all_seeds_in_the_order_asked_for(counts):
    table = har_runs.confusion(counts, ["walking", "still", "running"])
    assert table.index.tolist() == table.columns.tolist() == ["walking", "still", "running"]
    # "Still" was never shown: a row of zeros, not of NaN.
    assert_allclose(table, [[12 / 16, 0, 4 / 16], [0, 0, 0], [7 / 12, 0, 5 / 12]])


def test_summary_and_metrics(counts):
    table = har_runs.summary({"mdm": counts, "one": counts[counts["seed"] == 1]})
    values = np.array([(2 / 6 + 4 / 8) / 2, 0.75])
    assert_allclose(table.loc["mdm"], [values.mean(), values.std(ddof=1), 2])
    assert table.loc["one", "mean"] == 0.75 and np.isnan(table.loc["one", "std"])
    found = har_runs.metrics(counts)
    assert found["seeds"] == [0, 1]
    assert found["recall"] == pytest.approx({"running": (1 / 3 + 1 / 2) / 2, "walking": 0.75})
    assert found["balanced_accuracy"]["values"] == pytest.approx(values.tolist())
    assert found["balanced_accuracy"]["n"] == 2


def test_recalls_of_each_class_with_their_spread_over_seeds(counts):
    found = {"mdm": counts, "one": counts[counts["seed"] == 1]}
    table = har_runs.recall_spread(found, ["walking", "running"])
    assert table.index.tolist() == ["mdm", "one"]
    classes = table.columns.get_level_values(0)
    assert list(dict.fromkeys(classes)) == ["walking", "running"]
    assert_allclose(table.loc["mdm", "running"], [5 / 12, np.std([1 / 3, 1 / 2], ddof=1), 2])
    assert_allclose(table.loc["one", "walking"], [1, np.nan, 1])


def test_the_track_sets_every_size(counts):
    section = SECTION.model_copy(update={"filters": 5, "units": 6})
    found = dataclasses.asdict(har_runs.har_config(section, 9))
    assert found["seed"] == 9 and (found["filters"], found["units"]) == (5, 6)
    shared = set(found) & set(HarSection.model_fields)
    assert {"epochs", "batch_size", "learning_rate", "windows_per_class"} <= shared
    assert all(found[name] == getattr(section, name) for name in shared)


def window_set(n, seed, amplitude=3.0):
    """Fast, slow and no swinging of three channels; two windows a motion, three subjects."""
    rng = np.random.default_rng(seed)
    labels = np.array(CLASSES)[np.arange(n) % 3]
    rate = np.select([labels == "running", labels == "walking"], [4.0, 1.0], 0.0)
    phase = 2 * np.pi * (rate[:, None] * np.arange(40) / 20 + rng.random((n, 1)))
    wave = amplitude * np.where(rate[:, None] > 0, np.sin(phase), 0)[..., None]
    x = (wave + 0.2 * rng.normal(size=(n, 40, 3))).astype(np.float32)
    return WindowSet(x, labels, np.arange(n) // 2, np.arange(n) // 3 % 3, 0)


def test_one_training_for_each_seed_with_motions_kept_together(monkeypatch):
    train, test = window_set(24, 0), window_set(9, 1)
    asked = []

    def classifier(x, labels, classes, config, groups, device, progress):
        asked.append(config.seed)
        assert device == "cpu"
        assert x is train.x and labels is train.labels and groups is train.groups
        assert tuple(classes) == CLASSES and config == har_runs.har_config(SECTION, config.seed)
        return config.seed

    def predicted(seed, x):
        assert x is test.x
        return test.labels if seed == 4 else np.full(9, "still")

    monkeypatch.setattr(har_runs, "train_classifier", classifier)
    monkeypatch.setattr(har_runs, "predict", predicted)
    table = har_runs.repeat(train, test, CLASSES, SECTION, [4, 2], progress=False)
    assert asked == [4, 2] and table["windows"].sum() == 18
    # Three subjects with one window of each class.
    assert (table.groupby(["seed", "subject", "truth"])["windows"].sum() == 1).all()
    assert har_runs.balanced_accuracy(table).to_dict() == {2: pytest.approx(1 / 3), 4: 1.0}
    assert set(table.loc[table["seed"] == 2, "found"]) == {"still"}


def test_training_on_synthetic_windows_recognises_real_ones():
    train, test = window_set(150, 0), window_set(18, 1)
    table = har_runs.repeat(train, test, CLASSES, SECTION, [0, 1], progress=False)
    assert table.columns.tolist() == ["seed", "subject", "truth", "found", "windows"]
    assert (har_runs.balanced_accuracy(table) > 0.8).all()
    assert (table.groupby(["seed", "truth"])["windows"].sum() == 6).all()
    alone = har_runs.repeat(train, test, CLASSES, SECTION, [1], progress=False)
    pd.testing.assert_frame_equal(
        alone, table[table["seed"] == 1].reset_index(drop=True), check_dtype=False
    )


def test_the_reference_never_knows_the_subject(monkeypatch):
    test = window_set(18, 1)

    def folds(x, labels, subjects, classes, config, folds, device, progress):
        assert x is test.x and subjects is test.subjects and folds == 2 and device == "cpu"
        return np.where(np.asarray(subjects) == 0, labels, "still")

    monkeypatch.setattr(har_runs, "train_on_real", folds)
    table = har_runs.repeat_on_real(test, CLASSES, SECTION, [3], progress=False)
    found = har_runs.balanced_accuracy(table, ["subject"])
    assert found.to_dict() == pytest.approx({0: 1.0, 1: 1 / 3, 2: 1 / 3})
