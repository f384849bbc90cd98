"""What is published of the study on real data: one cheap cell of it computed again, and its words.

The cell is the L_acc of the shipped prior on the held-out clips of two activities, from raw motion
capture to the number in ``results.json``.
"""

import re
from collections.abc import Mapping

import pytest

from t2imu_utils.arm_names import BASE
from t2imu_utils.evaluation import lacc
from t2imu_utils.evaluation.categories import categorise
from t2imu_utils.evaluation.readings import candidates
from t2imu_utils.evaluation.study import arm_of
from t2imu_utils.files import read_json
from t2imu_utils.generators.mdm import MDMDenoiser
from t2imu_utils.motion.cmu import build_cmu
from t2imu_utils.priors.open_prior import read_open_prior
from t2imu_utils.runs import ROOT
from t2imu_utils.study_arms import arm_of as arm_of_reading
from t2imu_utils.tracks import OPEN_PRIOR, load_track

FIGURES = ROOT / "figures" / "cmu"
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
    prior = read_open_prior(OPEN_PRIOR)
    times = track.analysis.timesteps
    table = lacc.clip_losses(MDMDenoiser(prior, "cpu"), clips, times, seed=0, progress=False)
    of_clip = table.groupby("clip")["acc"].mean()
    told = published["compare"]["05_lacc_analysis"]["metrics"]["from_base"]["mdm-ft"]
    for category, trials in TRIALS.items():
        own = [clip for clip, kind in zip(clips, kinds, strict=True) if kind == category]
        assert {clip.source for clip in own} == set(trials)
        assert len(own) == told[category]["clips"]
        found = of_clip[[clip.name for clip in own]].mean()
        assert found == pytest.approx(told[category]["before"], rel=1e-3)


def test_what_was_chosen_on_validation_subjects_is_what_was_tested(track, study):
    chosen = track.study.chosen
    assert study["chosen reading"] == (chosen and arm_of(arm_of_reading(chosen, 0)[0]))
    judged = {row["arm"] for row in study["readings"]}
    assert judged >= set(candidates(track.study)) | {"mdm-ft"}


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


def test_the_readme_says_what_was_measured(study, published):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for model, stages in published.items():
        if model == "compare":
            continue
        accuracy = stages["07_har"]["metrics"]["balanced_accuracy"]
        assert f"{100 * accuracy['mean']:.1f} ± {100 * accuracy['sd']:.1f}" in text, model
    row = next(
        row
        for row in study["change"]
        if row["arm"] == "mdm-acc0.1" and row["reference"] == "control"
        and row["group"] == row["split"] == "all"
    )  # fmt: skip
    numbers = [f"{100 * row[key]:.1f}".replace("-", "−") for key in ("relative", "low", "high")]
    assert re.search(rf"{numbers[0]} % \[{numbers[1]}, {numbers[2]}\]", text)
