"""Readings of L_acc judged on motions whose distances to real motion are known by construction."""

import numpy as np
import pandas as pd
import pytest

from t2imu_utils.analysis.solvers import distances_to_real
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation import readings
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.motion.normalise import Normaliser
from t2imu_utils.priors.losses import LossWeights
from t2imu_utils.tracks import Reading, load_track

NORMALISER = Normaliser(np.full(263, 0.1, np.float32), np.full(263, 0.7, np.float32))
CLIPS, AGAIN = 8, 2


def motions(seed, shake, moved=0):
    """Smooth motions, `AGAIN` for each clip, shaken by white noise."""
    rng, made = np.random.default_rng(seed), []
    for i in np.repeat(np.arange(CLIPS), AGAIN):
        time = np.arange(40)[:, None] / 20
        phases = 2 * np.pi * np.linspace(0, 1, 263)
        wave = np.sin(2 * np.pi * (0.5 + 0.05 * i) * time + phases + rng.random())
        made.append(0.3 * wave + shake * rng.normal(size=(40, 263)))
        made[-1][:, 4:67] += moved
    return made


@pytest.fixture(scope="module")
def real():
    shown = motions(9, 0.02)[::AGAIN]
    return [MotionClip(f"c{i}", x, ["walks"], source=f"t{i}") for i, x in enumerate(shown)]


@pytest.fixture(scope="module")
def sets():
    return {
        "mdm-ft": [motions(1, 0.08), motions(2, 0.08)],
        "near": [motions(3, 0.02), motions(4, 0.02)],
        "shaky": [motions(5, 0.3), motions(6, 0.3)],
        # The right spectrum at the price of the pose: all joints a metre away.
        "another": [motions(7, 0.02, moved=1.0), motions(8, 0.02, moved=1.0)],
    }


@pytest.fixture(scope="module")
def table(sets, real):
    return readings.judge_sets(sets, "mdm-ft", real, NORMALISER, draws=100)


def test_seeds_are_judged_together_and_told_apart(table, sets, real):
    assert len(table) == len(sets) * 3 and (table["seeds"] == 2).all()
    row = table[(table["arm"] == "near") & (table["measure"] == "kinetics")].iloc[0]
    prompts = np.repeat([clip.name for clip in real], AGAIN)
    features, sources = [c.features for c in real], [c.source for c in real]
    alone = distances_to_real(
        {"x": sets["near"][1]}, prompts, features, sources, NORMALISER, "x", draws=1
    ).set_index("measure")["value"]
    assert row["of_seeds"][1] == pytest.approx(alone["kinetics"])
    control = table[table["arm"] == "mdm-ft"]
    assert (control["excess"] == 0).all() and control["no_worse"].all()


def test_the_nearest_spectrum_wins_only_if_motion_is_kept(table):
    ordered = readings.verdicts(table)
    assert ordered.index[-1] == "shaky" and not ordered.loc["shaky", "keeps"]
    assert ordered.loc["near", "high"] < 0 < ordered.loc["shaky", "low"]
    assert ordered.loc["near", "keeps"] and not ordered.loc["another", "keeps"]
    assert readings.choose(table, ["shaky", "near", "another"]) == "near"
    assert readings.choose(table, ["shaky", "another"]) is None


def test_a_gain_that_chance_explains_is_none(sets, real):
    alike = {"mdm-ft": sets["mdm-ft"], "same": [motions(11, 0.08), motions(12, 0.08)]}
    judged = readings.judge_sets(alike, "mdm-ft", real, NORMALISER, draws=100)
    assert readings.choose(judged, ["same"]) is None


def test_arms_with_other_repetitions_are_refused(sets, real):
    wrong = {**sets, "near": [sets["near"][0][:-1]]}
    with pytest.raises(InputError, match="for each clip"):
        readings.judge_sets(wrong, "mdm-ft", real, NORMALISER, draws=4)


def test_accelerations_are_means_over_all_seeds(sets):
    found = readings.accelerations({name: sets[name] for name in ("near", "shaky")})
    assert isinstance(found, pd.Series) and found["shaky"] > 2 * found["near"]


def test_names_of_arms_and_their_losses():
    names = ["mdm-ft-s1", "mdm-ft", "mdm-acc0.1-joints-low-s10", "mdm"]
    assert readings.by_arm(names) == {
        "mdm-ft": ["mdm-ft", "mdm-ft-s1"],
        "mdm": ["mdm"],
        "mdm-acc0.1-joints-low": ["mdm-acc0.1-joints-low-s10"],
    }
    reading = Reading(lambda_acc=0.2, lambda_vel=0.3, acc_space="joints", acc_levels="low")
    expected = LossWeights(vel=0.3, acc=0.2, acc_space="joints", acc_levels="low")
    assert readings.weights_of(reading) == expected


def test_the_printed_loss_is_no_candidate():
    study = load_track("cmu").study
    names = readings.candidates(study)
    assert len(names) == len(set(names)) == len(study.readings)
    assert "mdm-acc0.13-low" in names and not {"mdm-ft", "mdm-acc0.1", "mdm-acc1"} & set(names)


def test_guidance_of_a_track_without_a_study_reads_no_motion(monkeypatch):
    monkeypatch.setattr(readings.data, "load_motions", lambda *_: pytest.fail("motions were read"))
    assert readings.guided(load_track("demo")).empty
