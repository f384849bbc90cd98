"""What is published of the study on real data: one cheap cell of it computed again, and its words.

The cell is the L_acc of the shipped prior on the held-out clips of two activities, from raw motion
capture to the number in ``results.json``.
"""

import itertools
import re
from collections.abc import Mapping

import pandas as pd
import pytest

from t2imu_utils.analysis import lacc
from t2imu_utils.analysis.motions import categorise
from t2imu_utils.arms import BASE, model_order
from t2imu_utils.files import read_json
from t2imu_utils.models.mdm import GENERATOR, load_prior
from t2imu_utils.motion.cmu import build_cmu
from t2imu_utils.runs import ROOT
from t2imu_utils.tracks import SHIPPED, load_track

FIGURES = ROOT / "figures" / "cmu"
README, STUDY_PAGE = ROOT / "README.md", ROOT / "book" / "first_study.md"
# Of the held-out trials those in which somebody sits, and those in which somebody stands.
TRIALS = {"sitting": ["14_27", "14_28"], "standing": ["14_31", "14_32"]}


@pytest.fixture(scope="module")
def track():
    return load_track("cmu")


@pytest.fixture(scope="module")
def published() -> Mapping:
    return read_json(FIGURES / "results.json")["models"]


@pytest.fixture(scope="module")
def study() -> Mapping:
    return read_json(FIGURES / "study.json")


def test_losses_of_the_shipped_prior_are_those_that_were_published(track, published, real_data):
    corpus = build_cmu(real_data, sum(TRIALS.values(), []), progress=False)
    clips = [clip for clip in corpus.clips if clip.name in corpus.splits["test"]]
    kinds = categorise([clip.captions for clip in clips])["category"]
    prior = load_prior(SHIPPED[track.generators["mdm"].checkpoint])
    times = track.analysis.timesteps
    denoise = GENERATOR.denoiser(prior, "cpu")
    table = lacc.clip_losses(denoise, clips, times, seed=0, progress=False)
    of_clip = table.groupby("clip")["acc"].mean()
    told = published["compare"]["05_lacc_analysis"]["metrics"]["from_base"]["mdm-ft"]
    for category, trials in TRIALS.items():
        own = [clip for clip, kind in zip(clips, kinds, strict=True) if kind == category]
        assert {clip.source for clip in own} == set(trials)
        assert len(own) == told[category]["clips"]
        found = of_clip[[clip.name for clip in own]].mean()
        assert found == pytest.approx(told[category]["before"], rel=1e-3)


def test_all_seeds_of_the_study_are_reported(track, study, published):
    section = track.study
    for weight in (0, *section.weights):
        seeds = [
            row["seed"]
            for row in study["cells"]
            if row["generator"] == BASE and row["lambda_acc"] == weight and not row["options"]
        ]
        assert sorted(seeds) == section.seeds
    whole = [row for row in study["change"] if row["group"] == row["split"] == "all"]
    told = {row["arm"]: row["seeds"] for row in whole if row["reference"] == "control"}
    for weight in section.weights:
        assert told[f"mdm-acc{weight:g}"] == len(section.seeds)
    for model, stages in published.items():
        if model != "compare":
            assert stages["07_har"]["metrics"]["seeds"] == track.har.seeds


def percent(mean: float, sd: float) -> str:
    return f"{100 * mean:.1f} ± {100 * sd:.1f}"


def rows_under(text: str, heading: str) -> list[list[str]]:
    """Cells of the rows of the Markdown table whose heading starts so."""
    lines = text.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith(heading))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_table_of_models_is_what_was_measured(published):
    text = STUDY_PAGE.read_text(encoding="utf-8")
    compared = {stage: found["metrics"] for stage, found in published["compare"].items()}
    sampled, numbers = compared["05_lacc_analysis"]["sampled"], compared["07_har"]
    expected = []
    for model in sorted(sampled, key=lambda name: (name == "real", model_order(name))):
        moved, ours = sampled[model], published[model]["07_har"]["metrics"]["balanced_accuracy"]
        signal = compared["06_tsne"]["similarity"][model]["all"]["distance"]
        others = (numbers["without rarest"]["accuracy"], numbers["in other ways"]["gravity"])
        expected.append([
            f"{moved['mean_abs_acceleration']:.2f}",
            "" if model == "real" else f"{moved['spectral_distance']:.1f}",
            "{value:.2f} [{low:.2f}, {high:.2f}]".format(**signal),
            percent(ours["mean"], ours["sd"]),
            *(percent(table[model]["mean"], table[model]["std"]) for table in others),
        ])  # fmt: skip
    assert [row[1:] for row in rows_under(text, "| | acceleration of sampled")] == expected


def test_the_table_beside_the_paper_is_what_was_measured(track, published):
    text = STUDY_PAGE.read_text(encoding="utf-8")
    turned = published["compare"]["07_har"]["metrics"]["in other ways"]["gravity"]
    rows = {row[0]: row[2] for row in rows_under(text, "| | paper | here")}
    refined = [f"mdm-acc{weight:g}" for weight in track.study.weights]
    for name, models in (
        ("balanced accuracy, MDM", ["mdm"]), ("MoMask", ["momask"]),
        ("ReMoDiffuse", ["remodiffuse"]), ("fine-tuned MDM", refined),
    ):  # fmt: skip
        told = re.findall(r"\d+\.\d ± \d+\.\d", rows[name])
        expected = []
        for model in models:
            ours = published[model]["07_har"]["metrics"]["balanced_accuracy"]
            expected += [percent(ours["mean"], ours["sd"])]
            expected += [percent(turned[model]["mean"], turned[model]["std"])]
        assert told == expected


def test_what_the_readme_says_of_recognition_is_what_was_measured(track, study, published):
    page = README.read_text(encoding="utf-8")
    rows = {row[0]: row[1:] for row in rows_under(page, "| | control")}
    weights = [0, *track.study.weights]
    cells = pd.DataFrame(study["cells"])
    own = cells[(cells["generator"] == BASE) & (cells["options"] == "")]
    trainings = own.groupby("lambda_acc")["balanced_accuracy"].mean()
    turned = published["compare"]["07_har"]["metrics"]["in other ways"]["gravity"]
    first = ["mdm-ft", *(f"mdm-acc{weight:g}" for weight in weights[1:])]
    ours = published["real"]["07_har"]["metrics"]["balanced_accuracy"]["mean"]
    assert rows["balanced accuracy of five activities, axes as in the paper"] == [
        f"{value:.1f} %" for value in (*trainings[weights], 100 * ours)
    ]
    assert rows["the same, axes turned by gravity (first training alone)"] == [
        f"{100 * turned[model]['mean']:.1f} %" for model in (*first, "real")
    ]
    filtered = next(
        row["relative"]
        for row in study["change"]
        if row["arm"] == "gaussian" and row["generator"] == BASE and row["reference"] == "control"
        and row["group"] == row["split"] == "all"
    )  # fmt: skip
    name = "the same for a Gaussian filter over the control's predictions"
    assert rows[name][0] == f"−{-100 * filtered:.0f} %"


def test_what_is_said_of_l_acc_is_what_was_measured(track, study):
    refined = [f"mdm-acc{weight:g}" for weight in track.study.weights]
    pages = [path.read_text(encoding="utf-8") for path in (README, STUDY_PAGE)]
    whole = {
        row["arm"]: row
        for row in study["change"]
        if row["reference"] == "control" and row["group"] == row["split"] == "all"
    }
    for arm in refined:
        told = [
            f"{100 * whole[arm][key]:.1f}".replace("-", "−") for key in ("relative", "low", "high")
        ]
        for page in pages:
            assert "{} % [{}, {}]".format(*told) in page
    rows = {row[0]: row[1:] for row in rows_under(pages[0], "| | control")}
    costs = pd.DataFrame(study["costs"]).groupby("arm").mean(numeric_only=True)
    arms = ["mdm-ft", *refined]
    for name, column, places in (
        ("acceleration of sampled motion (m/s²)", "mean_abs_acceleration", 2),
        ("distance of its spectrum to real motion (dB)", "spectral_distance", 1),
    ):
        assert rows[name][:-1] == [f"{costs.loc[arm, column]:.{places}f}" for arm in arms]
        assert rows[name][-1].startswith(f"{costs.loc['real', column]:.{places}f}")
