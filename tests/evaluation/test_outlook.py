import numpy as np
import pytest
from numpy.testing import assert_allclose

from t2imu_utils import runs
from t2imu_utils.analysis.har import RecognitionVariant
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.outlook import Change, outlook_seeds, outlook_table, weight_changes
from t2imu_utils.tracks import load_track

GRAVITY = RecognitionVariant(axes="gravity")
HALF = RecognitionVariant(keep=0.5)
FEWER = RecognitionVariant(without=("walking",))
CLASSES = ["running", "standing", "walking"]


@pytest.fixture
def track(tiny, runs_folder):
    recordings = tiny.recordings.model_copy(update={"classes": CLASSES})
    track = tiny.model_copy(update={"name": "small", "recordings": recordings})
    made = [
        ("mdm-acc1", "", {0: 0.5, 1: 0.6, 2: 0.7}, CLASSES),
        ("mdm-acc1", "-gravity", {2: 0.8, 1: 0.4}, CLASSES),
        ("mdm-acc1", "-without_walking", {0: 0.9}, CLASSES[:2]),
        ("mdm", "", {0: 0.4, 1: 0.5, 2: 0.6}, CLASSES),
        (runs.REAL, "", {0: 1.0}, CLASSES),
    ]
    for model, slug, values, classes in made:
        run = runs.open_run("small", model, f"07_har{slug}", {}, {})
        accuracy = {"balanced_accuracy": {"values": list(values.values())}, "seeds": list(values)}
        recall = {name: 0.1 * place for place, name in enumerate(classes)}
        run.finish(accuracy | {"recall": recall, "windows": dict.fromkeys(classes, 12)}, [])
    return track


def test_each_row_is_held_against_the_first_by_equal_seeds(track):
    changes = [
        Change("as the paper", "mdm-acc1"),
        Change("gravity", "mdm-acc1", GRAVITY),
        Change("not refined", "mdm"),
        Change("two classes", "mdm-acc1", FEWER),
        Change("real data", runs.REAL, HALF),
    ]
    table = outlook_table(track, changes)
    assert table.index.tolist() == [change.label for change in changes]
    assert table["variant"].tolist() == ["", "gravity", "", "without_walking", ""]
    assert_allclose(table["mean"], [0.6, 0.6, 0.5, 0.9, 1.0])
    assert_allclose(table["sd"], [0.1, np.std([0.8, 0.4], ddof=1), 0.1, np.nan, np.nan])
    assert table["n"].tolist() == [3, 2, 3, 1, 1] and table["pairs"].tolist() == [0, 2, 3, 0, 1]
    # Seeds 1 and 2: -0.2 and +0.1; of three seeds that all lose 0.1 the difference does not spread.
    assert_allclose(table["difference"], [np.nan, -0.05, -0.1, np.nan, 0.5])
    assert_allclose(table["difference sd"][1:3], [np.std([-0.2, 0.1], ddof=1), 0], atol=1e-12)
    assert_allclose(table["chance"], [1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 3])
    assert_allclose(
        table.loc["gravity", [f"recall {c}" for c in CLASSES]].astype(float), [0, 0.1, 0.2]
    )
    assert table["windows running"].tolist() == [12] * 5
    assert np.isnan(table.loc["two classes", "windows walking"])


def test_all_seeds_are_told(track):
    changes = [Change("paper", "mdm-acc1"), Change("turned", "mdm-acc1", GRAVITY)]
    table = outlook_seeds(track, changes)
    assert table.columns.tolist() == ["change", "model", "seed", "accuracy"]
    found = table[table["change"] == "turned"].set_index("seed")["accuracy"].to_dict()
    assert found == {2: 0.8, 1: 0.4} and len(table) == 5


def test_what_has_not_been_run_or_named_is_told(track):
    with pytest.raises(InputError, match=r"07_har-keep0\.5 of mdm-acc1.*notebooks/07_har\.ipynb"):
        outlook_table(track, [Change("half", "mdm-acc1", HALF)])
    with pytest.raises(InputError, match="same twice"):
        outlook_table(track, [Change("same", "mdm"), Change("same", "mdm", GRAVITY)])
    with pytest.raises(InputError, match="found none"):
        outlook_seeds(track, [])


def test_weights_stand_beside_the_control_in_another_way_of_recognition():
    study = load_track("cmu").study
    rows = weight_changes(study, "gravity")
    assert [row.label for row in rows] == ["control", *(f"λ = {w:g}" for w in study.weights)]
    assert rows[0].model == "mdm-ft" and rows[-1].model == "mdm-acc1"
    assert {row.variant.slug for row in rows} == {"gravity"}
