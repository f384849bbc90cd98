"""Every number that the README tells of the study is the one in the published files."""

import itertools

import pandas as pd
import pytest

from t2imu_utils.files import read_json
from t2imu_utils.runs import ROOT
from t2imu_utils.tracks import load_track

FIGURES = ROOT / "figures" / "open"
REFINED = "mdm-acc1"
WAYS = {
    "UMAFall, five activities, axes as in the paper": "raw axes",
    "UMAFall, in the person's frame": "person",
    "HAPT, six activities, in the person's frame": "hapt-person",
}


@pytest.fixture(scope="module")
def study() -> dict:
    return read_json(FIGURES / "study.json")


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    """The cells of the README's table by the name of their row."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("| | control"))
    table = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in table)
    return {name: values for name, *values in cells}


def test_all_seeds_of_the_study_are_reported(study):
    section = load_track("open").study
    for weight in (0, *section.weights):
        seeds = [
            row["seed"]
            for row in study["cells"]
            if row["generator"] == "mdm" and row["lambda_acc"] == weight and not row["options"]
        ]
        assert sorted(seeds) == section.seeds


def test_changes_of_l_acc(study, rows):
    whole = {
        row["arm"]: row
        for row in study["change"]
        if row["reference"] == "control" and row["group"] == row["split"] == "all"
    }
    values = [
        f"{100 * whole[REFINED][key]:.1f}".replace("-", "−") for key in ("relative", "low", "high")
    ]
    told = rows["L_acc on held-out clips, change from the control"]
    assert told[1] == "{} % [{}, {}]".format(*values)
    filtered = f"{100 * whole['gaussian']['relative']:.1f} %".replace("-", "−")
    assert rows["the same for a Gaussian filter over the control's predictions"][0] == filtered


def test_costs(study, rows):
    means = pd.DataFrame(study["costs"]).groupby("arm").mean(numeric_only=True)
    for name, cost, places in (
        ("acceleration of sampled motion (m/s²)", "mean_abs_acceleration", 2),
        ("distance of its spectrum to real motion (dB)", "spectral_distance", 1),
    ):
        order = ("mdm-ft", REFINED, "recorded", "real")
        expected = [f"{means.loc[arm, cost]:.{places}f}" for arm in order]
        assert [cell.split(" ")[0] for cell in rows[name]] == expected


def test_recognition(study, rows):
    for name, way in WAYS.items():
        source = study["sources"][way]
        order = ("mdm-ft", REFINED, "recorded", "real")
        assert rows[name] == [f"{source[arm]['mean']:.1f} %" for arm in order]
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    person = study["sources"]["person"]
    official, own = (person[model]["mean"] for model in ("official", "mdm"))
    assert f"({official:.1f} against {own:.1f} % on UMAFall, four trainings each)" in page
    # What is said of the claims.
    verdicts = {row["claim"]: row["verdict"] for row in study["claims"]}
    assert [verdict for claim, verdict in verdicts.items() if "accuracy" in claim] == [
        "not supported"
    ] * 3
    assert verdicts["L_acc, held-out clips"] == "supported"
    assert verdicts["L_acc, high minus low"] == "not supported"
