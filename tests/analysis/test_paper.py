import pytest

from t2imu_utils.analysis.paper import (
    measured_values,
    what_differs,
)
from t2imu_utils.files import read_json
from t2imu_utils.tracks import PAPER_VALUES, load_track

PRINTED = {
    "lacc_mdm": 0.056, "lacc_refined": 0.049, "lacc_change": -12.7, "har_mdm": 52.6,
    "har_remodiffuse": 38.9, "har_momask": 53.1, "har_refined": 57.2, "gain_mdm": 8.7,
    "gain_best": 7.6,
}  # fmt: skip


def test_the_papers_numbers_stand_as_printed_and_give_its_derived_ones():
    paper = read_json(PAPER_VALUES)
    assert {row["id"]: row["value"] for row in paper["quantities"]} == PRINTED
    assert {b["weight_kg"] for b in paper["bodies"] if "adipose" in b["name"]} == {111.0, 97.0}
    accuracy = {m: [PRINTED[f"har_{m}"] / 100] for m in ("mdm", "momask", "remodiffuse")}
    losses = {"mdm": PRINTED["lacc_mdm"], "ours": PRINTED["lacc_refined"]}
    own = measured_values(losses, accuracy | {"ours": [0.572]}, "ours")
    assert set(own) == set(PRINTED)
    assert own["lacc_change"][0] == pytest.approx(-12.5)
    assert own["gain_mdm"][0] == pytest.approx(8.7, abs=0.05)
    # The paper prints 7.6; its printed accuracies give 7.72.
    assert own["gain_best"][0] == pytest.approx(7.72, abs=0.01)


def test_control_and_arms_of_other_generators_stand_for_none_of_the_papers_values():
    own = measured_values({"mdm": 0.1, "mdm-ft": 0.09}, {"mdm": [0.5], "mdm-ft": [0.9]}, "mdm-acc1")
    assert own == {"har_mdm": [50.0]}
    accuracy = {"mdm": [0.5], "mdm-acc1": [0.6], "momask": [0.55], "momask-acc1": [0.9]}
    own = measured_values({}, accuracy, "mdm-acc1")
    assert own["gain_best"] == pytest.approx([100 * (0.6 / 0.55 - 1)])


@pytest.mark.parametrize("name", ["demo", "open", "paper"])
def test_what_differs_follows_from_the_track(name):
    track = load_track(name)
    texts = what_differs(track, "mdm-acc0.3")
    assert track.title in texts["lacc"] and "refined: MDM, λ = 0.3" in texts["lacc"]
    ours = track.generators["mdm"].checkpoint in (None, "open")
    assert ("instead of the official checkpoint" in texts["lacc"]) == ours
    assert f"{len(track.har.seeds)} seeds" in texts["har"]
