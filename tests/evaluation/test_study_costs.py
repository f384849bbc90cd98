from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from t2imu_utils import data
from t2imu_utils.clips import Clips
from t2imu_utils.evaluation import sampled
from t2imu_utils.evaluation import study_costs as costs
from t2imu_utils.evaluation.motion_distance import PARTS
from t2imu_utils.tracks import load_track

SCALE = {"mdm": 1.0, "mdm-ft": 0.5, "mdm-ft-s1": 0.5, "mdm-acc1": 0.25, "mdm-acc1-s1": 0.2}


@pytest.fixture(scope="module")
def motions():
    """Real motion of two categories, and models whose whole motion is a share of it."""
    rng = np.random.default_rng(0)
    own = [(0.05 * rng.normal(size=(60 + i, 22, 3))).cumsum(0) for i in range(4)]
    real = {"running": own[:1], "walking": own[1:]}
    sets = {name: {c: [s * x for x in m] for c, m in real.items()} for name, s in SCALE.items()}
    sets = {"real": real} | sets
    variety = pd.DataFrame({name: 3.0 for name in costs.VARIETY}, index=list(sets))
    return costs.StudyMotions(sets, variety, floor=1.5)


@pytest.fixture(scope="module")
def table(motions):
    losses = {
        name: pd.DataFrame(
            {"clip": ["a", "b", "b"], "estimate": ["model", "model", "gaussian"],
             "simple": [s, 3 * s, 99], "acc": [2 * s, 4 * s, 99]}
        )
        for name, s in SCALE.items()
    }  # fmt: skip
    sensors = pd.DataFrame(
        [(m, label, site, measure, v) for m, v in (("real", 2.0), ("mdm", 7.0), ("mdm-ft", 6.0))
         for label, site, measure, v in (("all", "all", "distance", v), ("all", "all", "level", 77),
                                         ("walking", "all", "distance", 88),
                                         ("all", "shin", "distance", 99))],
        columns=["model", "label", "site", "measure", "value"],
    )  # fmt: skip
    return costs.costs(losses, motions, costs.motion_spectra(motions.sets), sensors)


def test_costs_are_those_of_notebook_05(table, motions):
    theirs = sampled.compare(motions.sets)
    theirs = theirs[theirs["category"] == "all"].set_index("model")
    own = table.set_index("model")
    for measure in sampled.MEASURES:
        assert_allclose(own[measure], theirs.loc[own.index, measure], rtol=1e-9)
    models = list(SCALE)
    assert_allclose(own.loc[models, "spectral_distance"], theirs.loc[models, "spectral_distance"],
                    atol=1e-6)  # fmt: skip
    assert own.loc["real", "spectral_distance"] == 1.5


def test_power_of_a_share_of_the_motion(table, motions):
    own = table.set_index("model")
    for part in PARTS:
        for model, share in SCALE.items():
            assert own.loc[model, part] == pytest.approx(20 * np.log10(share), abs=1e-6)
        assert own.loc["real", part] == pytest.approx(0, abs=1e-9)
    # One leg that does not move lowers legs and nothing else.
    still = {c: [x.copy() for x in m] for c, m in motions.sets["real"].items()}
    for x in (x for m in still.values() for x in m):
        x[:, [1, 4, 7, 10]] = 0
    spectra = costs.motion_spectra({"real": motions.sets["real"], "mdm": still})
    found = costs.power_by_part(spectra).set_index(["model", "category", "part"])["decibel"]
    found = found.sort_index()
    assert -6 < found["mdm", "all", "legs"] < -1.5
    assert_allclose(found["mdm", "walking"][["trunk", "arms"]], 0, atol=1e-9)


def test_losses_and_sensors_stand_beside_them(table):
    own = table.set_index("model")
    assert own.loc["mdm-acc1", "simple"] == pytest.approx(0.5)
    assert own.loc["mdm-acc1", "acc"] == pytest.approx(0.75)
    assert own["sensor_distance"].dropna().to_dict() == {"real": 2, "mdm": 7, "mdm-ft": 6}
    assert np.isnan(own.loc["real", "simple"])
    assert list(own.loc["mdm-acc1-s1", ["arm", "seed"]]) == ["mdm-acc1", 1]


def test_motions_that_lack_a_category_have_no_mean_over_all(motions):
    sets = motions.sets | {"elsewhere": {"walking": motions.sets["mdm"]["walking"]}}
    variety = motions.variety.reindex(list(sets))
    sensors = pd.DataFrame(columns=["model", "label", "site", "measure", "value"])
    given = costs.StudyMotions(sets, variety, 1.5)
    own = costs.costs({}, given, costs.motion_spectra(sets), sensors).set_index("model")
    assert own.loc["elsewhere", list(costs.COSTS)].isna().all()
    assert own.loc["mdm", "spectral_distance"] < 1e-6


def test_mean_and_spread_over_seeds(table):
    found = costs.over_seeds(table)
    assert list(found.index) == ["real", "mdm", "mdm-ft", "mdm-acc1"]
    arm = found.loc["mdm-acc1", "acc"]
    assert tuple(arm) == pytest.approx((0.675, 0.15 / np.sqrt(2), 2))
    assert found.loc["mdm", ("acc", "count")] == 1 and np.isnan(found.loc["mdm", ("acc", "std")])


def test_changes_are_from_the_control_of_the_same_seed(table):
    change = costs.against_control(table).set_index(["arm", "cost"])
    assert set(change.index.get_level_values("arm")) == {"mdm-acc1"}
    row = change.loc[("mdm-acc1", "acc")]
    # 3 × (0.25 - 0.5) and 3 × (0.2 - 0.5); Student's quantile of one degree of freedom: 12.706.
    assert row["change"] == pytest.approx(-0.825) and row["seeds"] == 2
    assert row["high"] - row["change"] == pytest.approx(12.706 * 0.075, rel=1e-3)
    sensor = ("mdm-acc1", "sensor_distance")
    assert sensor not in change.index  # notebook 06 has not seen these arms
    alone = costs.against_control(table[table["seed"] == 0]).set_index(["arm", "cost"])
    assert alone.loc[("mdm-acc1", "acc"), "change"] == pytest.approx(-0.75)
    assert alone.loc[("mdm-acc1", "acc"), ["sd", "low", "high"]].isna().all()


def test_power_rolls_off_by_what_it_falls_between_two_frequencies():
    frequency = np.arange(1, 11.0)
    table = pd.concat(
        pd.DataFrame({"arm": arm, "category": "walking", "frequency": frequency,
                      "density": frequency**-slope})
        for arm, slope in (("mdm-acc1", 1.0), ("mdm", 0.0), ("real", 2.0))
    )  # fmt: skip
    found = costs.roll_off(table, low=1.2, high=9.9)
    assert list(found.index) == ["real", "mdm", "mdm-acc1"]
    assert_allclose(found["walking"], [-20, 0, -10], atol=1e-9)


def test_words_tell_what_is_nearer_to_real():
    row = {"arm": "mdm-acc1", "control": 4.0, "mean": 3.0, "real": 3.2, "change": -1.0, "sd": 0.1,
           "low": -1.2, "high": -0.8, "seeds": 5}  # fmt: skip
    rows = [
        row | {"cost": "mean_abs_acceleration"},
        row | {"cost": "mean_abs_jerk", "real": 9.0},
        row | {"cost": "spectral_distance", "real": 3.5},
        row | {"cost": "simple", "real": np.nan},
        row | {"cost": "foot_skate", "high": 0.1},
        row | {"cost": "diversity", "seeds": 1},
    ]
    lines = costs.in_words(pd.DataFrame(rows)).splitlines()
    ends = ["Nearer to real.", "Farther from real.", "Nearer to real.", "Lower."]
    assert all(line.endswith(end) for line, end in zip(lines, ends, strict=False))
    assert lines[4].endswith("no difference is shown.") and "One seed" in lines[5]
    assert "4 → 3 (real 3.2), -1 [-1.2, -0.8], 5 seeds" in lines[0] and "nan" not in lines[3]


def test_spectra_of_arms_have_a_band(motions):
    found = costs.spectra_over_seeds(costs.motion_spectra(motions.sets))
    walking = found[found["category"] == "walking"].set_index("arm")
    real, arm = walking.loc["real"], walking.loc["mdm-acc1"]
    assert_allclose(arm["frequency"], np.arange(1, 21) / 2)
    assert_allclose(arm["density"] / real["density"].to_numpy(), 0.25 * 0.2, rtol=1e-6)
    spread = np.exp(np.std(np.log([0.25**2, 0.2**2]), ddof=1))
    assert_allclose(arm["high"] / arm["density"], spread, rtol=1e-6)
    assert_allclose(arm["density"] / arm["low"], spread, rtol=1e-6)
    assert real["low"].isna().all() and set(arm["seeds"]) == {2}


def test_the_floor_is_between_halves_of_trials(clips):
    """Eight trials of a motion each twice: alike, or one half of the trials twice as fast."""
    one = clips[0]
    alike = [replace(one, name=f"{i}", source=f"t{i // 2}") for i in range(16)]
    category = pd.Series("walking", index=[c.name for c in alike])
    assert costs.real_floor(alike, category, ["walking"], 0) == pytest.approx(0, abs=1e-9)
    other = clips[3]
    mixed = [replace(c, features=other.features) if int(c.source[1]) < 4 else c for c in alike]
    floor = costs.real_floor(mixed, category, ["walking"], 0)
    # Halves by clip would nearly always hold some of both; by trial they differ.
    assert floor > 0.1
    assert np.isnan(costs.real_floor(alike[:6], category, ["walking"], 0))


def test_motions_are_read_with_their_variety(clips, monkeypatch):
    track = load_track("demo")
    kinds = ["walking", "running"]
    category = pd.Series({c.name: kinds[i % 2] for i, c in enumerate(clips)})
    splits = {track.corpus.train: clips[:6], **{s: clips[6:] for s in track.corpus.test}}
    monkeypatch.setattr(data, "load_motions", lambda track, split: splits[split])
    monkeypatch.setattr(data, "load_categories", lambda track: category)
    monkeypatch.setattr(data, "IMPLAUSIBLE", np.inf)  # these are noise
    same = {"activity": "walking", "prompt": "a person walks"}
    rows = [same, same, same | {"activity": "running", "prompt": "a person runs"}]
    joints = [np.random.default_rng(i).normal(size=(12, 22, 3)) for i in range(3)]
    arrays = {"joints": joints, "features": [clips[0].features[:8]] * 2 + [clips[1].features[:8]]}
    arrays["joints"] = [x[:8] for x in joints]
    made = Clips.from_list(rows, arrays)
    bare = Clips(made.table, {"joints": made.arrays["joints"]})
    monkeypatch.setattr(data, "load_sampled", lambda track, m: made if m == "mdm" else bare)
    found = costs.read_motions(track, ["mdm", "elsewhere"])
    assert list(found.sets) == ["real", "mdm", "elsewhere"] == list(found.variety.index)
    assert [len(found.sets["mdm"][c]) for c in ("running", "walking")] == [1, 2]
    variety = found.variety
    # The two of one prompt are the same motion; real motions have no prompt.
    assert variety.loc["mdm", "multimodality"] == variety.loc["mdm", "within_category"] == 0
    assert variety.loc["mdm", "diversity"] > 0 and variety.loc["real", "diversity"] > 0
    assert np.isnan(variety.loc["real", "multimodality"])
    assert variety.loc["elsewhere"].isna().all()
