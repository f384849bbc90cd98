"""Every number that the README tells of the study is the one in the published files."""

import itertools

import pandas as pd
import pytest

from t2imu_utils.files import read_json
from t2imu_utils.runs import ROOT
from t2imu_utils.tracks import load_track

REFINED = "mdm-acc1"
WAYS = {
    "UMAFall, five activities, axes as in the paper": "raw axes",
    "UMAFall, in the person's frame": "person",
    "HAPT, six activities, in the person's frame": "hapt-person",
}


@pytest.fixture(scope="module")
def study() -> dict:
    return read_json(ROOT / "figures" / "open" / "study.json")


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    """The cells of the README's table by the name of their row."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("| | control"))
    table = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in table)
    return {name: values for name, *values in cells}


def test_losses_and_costs(study, rows):
    section, cells = load_track("open").study, pd.DataFrame(study["cells"])
    trained = cells[cells["lambda_acc"].notna()].groupby("lambda_acc")["seed"].agg(sorted)
    assert trained.to_dict() == {weight: section.seeds for weight in (0, *section.weights)}
    whole = {
        row["arm"]: row
        for row in study["change"]
        if row["reference"] == "control" and row["group"] == "all"
    }
    values = [100 * whole[REFINED][key] for key in ("relative", "low", "high")]
    values.append(100 * whole["gaussian"]["relative"])
    *changed, filtered = (f"{value:.1f}".replace("-", "−") for value in values)
    told = rows["L_acc on held-out clips, change from the control"]
    assert told[1] == "{} % [{}, {}]".format(*changed)
    told = rows["the same for a Gaussian filter over the control's predictions"]
    assert told[0] == f"{filtered} %"
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
    base, recorded, real = (
        study["sources"]["gravity"][m]["mean"] for m in ("mdm", "recorded", "real")
    )
    page = " ".join(page.split())
    told = f"motion to {base:.1f} %, recorded motion to {recorded:.1f} % and real sensors"
    told += f" to {real:.1f} %"
    assert told in page
    told = f"recorded motion reaches {100 * recorded / real:.0f} % of what real sensors do"
    assert f"{told}, and sampled motion {100 * base / recorded:.0f} % of recorded" in page
    # What is said of the claims: L_acc falls; all else is not supported.
    verdicts = {row["claim"]: row["verdict"] for row in study["claims"]}
    assert verdicts.pop("L_acc, held-out clips") == "supported"
    assert len(verdicts) == 4 and set(verdicts.values()) == {"not supported"}
