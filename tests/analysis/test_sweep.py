"""Changes over seeds, what they cost, and every number of the grid from where stages write it."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from t2imu_utils import arms, data, runs
from t2imu_utils.analysis import har, lacc, motions, stats, sweep
from t2imu_utils.analysis.motions import PARTS
from t2imu_utils.errors import InputError

CATEGORY = pd.Series({"a": "walking", "b": "jumping", "c": "sitting"})


def finish(track, model, stage, metrics, **outputs):
    with runs.record(track.name, model, stage, {}, {}) as run:
        run.metrics = metrics
        for name, content in outputs.items():
            run.save(name, content)


@pytest.fixture
def grid(tiny, runs_folder, monkeypatch):
    """A base with all stages, its control with its training alone, motions from elsewhere; metrics
    are made by the functions that the notebooks call."""
    monkeypatch.setattr(data, "load_categories", lambda track: CATEGORY)
    for model, level in (("mdm", 1.0), ("mdm-ft-s1", 2.0)):
        validation = {"acc": level, "simple": 10 * level}
        finish(tiny, model, "02_finetuning", {"validation": validation})
    staged = {"rvq": {"acc": 4.0, "simple": 5.0}, "transformer": {"accuracy": 6.0}}
    finish(tiny, "momask", "02_finetuning", {"validation": staged})
    finish(tiny, "elsewhere", "02_finetuning", {"validation": {}})
    acc = np.array([0.5, 1.0, 3.0, 99.0])
    table = pd.DataFrame({"clip": list("abcc"), "estimate": ["model"] * 3 + ["gaussian"]})
    table = table.assign(acc=acc, simple=acc, acc_joints=acc)
    finish(tiny, "mdm", sweep.LOSSES, {"acc": 3.0}, losses=table)
    moved = pd.DataFrame({"model": ["mdm"], "category": "all", "mean_abs_acceleration": 3.5})
    metrics = lacc.as_metrics(pd.DataFrame(), {}, {}, moved)
    finish(tiny, runs.COMPARE, sweep.LOSSES, metrics)
    row = {"model": "mdm", "classes": "all", "measure": "distance", "low": 0, "high": 1}
    found = stats.nested(pd.DataFrame([row | {"value": 0.6}]), "model", "classes", "measure")
    finish(tiny, runs.COMPARE, "06_tsne", {"similarity": found})
    rows = [(0, "p", "walking", "walking", 3), (0, "p", "walking", "running", 1),
            (0, "p", "running", "running", 4)]  # fmt: skip
    counts = pd.DataFrame(rows, columns=[*har.COLUMNS, "windows"])
    finish(tiny, "mdm", "07_har", har.metrics(counts))
    return tiny


def test_gains_are_paired_by_both_seeds_and_claims_go_by_their_intervals():
    rng = np.random.default_rng(0)
    rows = {}
    for seed in range(3):
        level = 50 + rng.normal(0, 5, 6)  # of a seed of the classifier, which both share
        rows[arms.Arm("mdm", 0.0, seed=seed).name] = level
        rows[arms.Arm("mdm", 0.1, seed=seed).name] = level + 3 + 0.1 * seed
    accuracy = pd.DataFrame(rows).T
    found = sweep.gains(accuracy).loc["mdm-acc0.1"]
    assert (found["seeds"], found["classifiers"]) == (3, 6)
    assert found["gain"] == pytest.approx(3.1) and 2.8 < found["low"] < 3.1 < found["high"] < 3.4
    assert np.isnan(sweep.gains(accuracy[[0, 1, 2]]).loc["mdm-acc0.1", "low"])  # too few

    change = pd.DataFrame(
        {"generator": "mdm", "reference": "control", "arm": "mdm-acc0.1",
         "group": ["all", lacc.CONTRAST], "seeds": 3, "relative": [-0.1, -0.05],
         "low": [-0.2, -0.1], "high": [-0.05, 0.02]}
    )  # fmt: skip
    verdicts = sweep.claims(change, {"": accuracy, "person": -accuracy})["verdict"]
    assert verdicts.tolist() == ["supported", "not supported", "supported", "contradicted"]
    # L_acc is claimed to fall, and to fall more where motion is highly dynamic.
    for low, high, told in ((-0.2, -0.01, "supported"), (0.01, 0.2, "contradicted"),
                            (np.nan, np.nan, "not testable here")):  # fmt: skip
        verdicts = sweep.claims(change.assign(low=low, high=high), {})["verdict"]
        assert verdicts.tolist() == [told] * 2
    sources = sweep.by_source({"": accuracy})
    assert sources.loc["mdm-ft", ("raw axes", "n")] == 18
    assert list(sources.index) == ["mdm-ft", "mdm-acc0.1"]


def test_every_measure_is_filled_and_what_was_not_run_is_empty(grid):
    table = sweep.finished_cells(grid).set_index("model")
    expected = (1.0, 10.0, 1.5, 1.0, 1.75, 3.5, 0.6, 87.5)
    assert_allclose(table.loc["mdm", list(sweep.MEASURES)].astype(float), expected)
    arm = table.loc["mdm-ft-s1"]
    assert arm[list(sweep.MEASURES)].notna().tolist() == [True] * 2 + [False] * 6
    assert (arm["lambda_acc"], arm["seed"]) == (0, 1) and np.isnan(table.loc["mdm", "lambda_acc"])
    assert table.loc["momask", list(sweep.CHOOSABLE)].tolist() == [4, 5]
    assert table.loc["elsewhere", list(sweep.MEASURES)].isna().all()


def test_the_best_weight_is_chosen_on_validation_subjects():
    values = {(0, 0): 0.1, (0.1, 0): 0.9, (0.1, 1): 0.7, (1, 0): 0.75, (1, 1): 0.95}
    rows = [
        {"generator": "mdm", "lambda_acc": weight, "options": "", "validation_acc": value}
        for (weight, _), value in values.items()
    ]
    table = pd.DataFrame([*rows, rows[1] | {"options": "joints", "validation_acc": 0.01}])
    # λ = 0.1 has the lower mean, λ = 0 is no choice, and options stand apart.
    assert sweep.best_weight(table, "mdm") == 0.1
    with pytest.raises(InputError):
        sweep.best_weight(table, "mdm", "balanced_accuracy")


def table(acc, smoothed=0.5):
    """Losses of clips 0, 1, … at two timesteps, 10 % below and above their mean; a filter and a
    frozen pose take shares of them."""
    acc = np.asarray(acc, dtype=float)
    shares = {"model": 1.0, "gaussian": smoothed, "constant": 0.25}
    clips = [f"c{i:02d}" for i in range(len(acc))]
    parts = [
        pd.DataFrame({"clip": clips, "timestep": t, "estimate": name, "acc": level * share * acc})
        for name, share in shares.items()
        for t, level in ((2, 0.9), (7, 1.1))
    ]
    return pd.concat(parts, ignore_index=True)


NAMES = [f"c{i:02d}" for i in range(24)]
GROUPS = pd.DataFrame(
    {"clip": NAMES, "category": ["jumping", "walking", "sitting"] * 8, "unit": NAMES}
)


def row(change, arm, reference="control", group="all"):
    keys = {"arm": arm, "reference": reference, "group": group}
    found = change[(change[list(keys)] == pd.Series(keys)).all(axis=1)]
    assert len(found) == 1
    return found.iloc[0]


@pytest.fixture(scope="module")
def known():
    """Base; controls 10 % below it; arms 20 % below the controls of their own seed, 40 % for
    jumping. Seeds shift control and arm together."""
    base = np.linspace(1, 2, 24)
    share = np.where(GROUPS["category"] == "jumping", 0.6, 0.8)
    losses = {"mdm": table(base)}
    for seed, level in ((0, 1.0), (1, 1.3), (2, 0.7)):
        ending = f"-s{seed}" if seed else ""
        losses[f"mdm-ft{ending}"] = table(0.9 * level * base)
        losses[f"mdm-acc0.1{ending}"] = table(0.9 * level * base * share)
    return losses


@pytest.fixture(scope="module")
def change(known):
    return sweep.change_over_seeds(known, GROUPS, draws=200)


def test_an_arm_is_held_against_the_control_of_its_own_seed(change):
    for group, expected in (("jumping", -0.4), ("high-dynamic", -0.4), ("low-dynamic", -0.2),
                            (lacc.CONTRAST, -0.2)):  # fmt: skip
        found = row(change, "mdm-acc0.1", group=group)
        assert_allclose(found[["relative", "low", "high"]].astype(float), expected, atol=1e-12)
    assert tuple(row(change, "mdm-acc0.1")[["clips", "units", "seeds"]]) == (24, 24, 3)
    # Against the base the seeds differ: levels 1, 1.3 and 0.7 of nine tenths.
    control = row(change, "mdm-ft", "base")
    assert control["relative"] == pytest.approx(-0.1)
    assert control["sd"] == pytest.approx(np.std([0.9, 1.17, 0.63], ddof=1))
    assert control["low"] < -0.1 - 0.2 and control["high"] > -0.1 + 0.2
    # Trivial changes are those of the reference.
    for reference, seeds in (("control", 3), ("base", 1)):
        for name, expected in (("gaussian", -0.5), ("constant", -0.75)):
            found = row(change, name, reference)
            assert found["relative"] == pytest.approx(expected) and found["seeds"] == seeds


def test_a_variant_is_held_against_the_control_with_its_other_losses(known):
    """L_vel alone halves the loss; what L_acc adds to it is a tenth."""
    base = np.linspace(1, 2, 24)
    more = {"mdm-ft-vel0.2": table(0.5 * base), "mdm-acc0.1-vel0.2": table(0.45 * base)}
    change = sweep.change_over_seeds(known | more, GROUPS, draws=50)
    assert row(change, "mdm-acc0.1-vel0.2")["relative"] == pytest.approx(-0.1)
    assert row(change, "gaussian")["seeds"] == 3
    assert "mdm-ft-vel0.2" not in set(change.loc[change["reference"] == "control", "arm"])
    levels = sweep.by_timestep(known | more).groupby("arm")["relative"].mean()
    assert levels["mdm-acc0.1-vel0.2"] == pytest.approx(-0.1)


def test_each_seed_by_itself(known):
    found = sweep.changes_by_seed(known, GROUPS)
    found = found[found["group"] == "all"].set_index(["arm", "reference", "seed"]).sort_index()
    assert_allclose(found.loc[("mdm-ft", "base"), "relative"], [-0.1, 0.17, -0.37])


def test_arms_without_a_control_and_of_other_generators_stand_apart(known):
    losses = {name: part for name, part in known.items() if name != "mdm-ft-s1"}
    losses |= {"mdm-acc0.1-joints-s2": table(np.ones(24)), "momask": table(np.ones(24))}
    losses |= {"momask-ft-s2": table(np.full(24, 0.5))}
    change = sweep.change_over_seeds(losses, GROUPS, draws=20)
    assert row(change, "mdm-acc0.1")["seeds"] == 2
    assert row(change, "mdm-acc0.1", "base")["seeds"] == 3
    assert row(change, "mdm-acc0.1-joints")["seeds"] == 1
    other = change[change["generator"] == "momask"]
    assert set(other["arm"]) == {"momask-ft", "gaussian", "constant"}


def test_losses_by_timestep(known):
    found = sweep.by_timestep(known).set_index(["arm", "timestep"])
    assert found.loc[("mdm", 2), "mean"] == pytest.approx(0.9 * 1.5)
    assert found.loc[("gaussian", 7), "mean"] == pytest.approx(0.55 * 1.5)
    control, arm = found.loc[("mdm-ft", 7)], found.loc[("mdm-acc0.1", 7)]
    assert control["sd"] == pytest.approx(1.1 * 0.9 * 1.5 * 0.3) and control["seeds"] == 3
    assert arm["relative_sd"] == pytest.approx(0, abs=1e-12) and -0.4 < arm["relative"] < -0.2
    assert np.isnan(control["relative"])


SCALE = {"mdm": 1.0, "mdm-ft": 0.5, "mdm-ft-s1": 0.5, "mdm-acc1": 0.25, "mdm-acc1-s1": 0.2}


@pytest.fixture(scope="module")
def moved():
    """Real motion of two categories, models whose whole motion is a share of it, and one that
    lacks a category."""
    rng = np.random.default_rng(0)
    own = [(0.05 * rng.normal(size=(60 + i, 22, 3))).cumsum(0) for i in range(4)]
    kinds, units = ["running"] + 3 * ["walking"], list("abcd")
    parts = [
        motions.measure(name, [share * x for x in own], kinds, units)
        for name, share in ({"real": 1.0} | SCALE).items()
    ]
    return pd.concat([*parts, motions.measure("momask", own[1:], kinds[1:], units[1:])])


@pytest.fixture(scope="module")
def costs(moved):
    losses = {
        name: pd.DataFrame(
            {"clip": ["a", "b", "b"], "estimate": ["model", "model", "gaussian"],
             "simple": [s, 3 * s, 99], "acc": [2 * s, 4 * s, 99]}
        )
        for name, s in SCALE.items()
    }  # fmt: skip
    rows = [
        (m, label, site, measure, v)
        for m, v in (("real", 2.0), ("mdm", 7.0))
        for label, site, measure in (("all", "all", "distance"), ("all", "all", "level"))
    ]
    sensors = pd.DataFrame(rows, columns=["model", "label", "site", "measure", "value"])
    return sweep.costs(losses, moved, sensors)


def test_costs_of_a_share_of_the_motion(costs):
    own = costs.set_index("model")
    for model, share in SCALE.items():
        assert_allclose(own.loc[model, list(PARTS)].astype(float), 20 * np.log10(share), atol=1e-6)
        ratio = own.loc[model, "mean_abs_jerk"] / own.loc["real", "mean_abs_jerk"]
        assert ratio == pytest.approx(share)
        assert own.loc[model, "spectral_distance"] == pytest.approx(-20 * np.log10(share), abs=1e-6)
    # Four trials are too few for halves of both categories.
    assert np.isnan(own.loc["real", "spectral_distance"])
    assert own.loc["mdm-acc1", ["simple", "acc"]].tolist() == [0.5, 0.75]
    assert own["sensor_distance"].dropna().to_dict() == {"real": 2, "mdm": 7}
    assert list(own.loc["mdm-acc1-s1", ["arm", "seed"]]) == ["mdm-acc1", 1]
    assert own.loc["momask", list(sweep.COSTS)].isna().all()


def test_changes_are_from_the_control_of_the_same_seed(costs):
    change = sweep.against_control(costs).set_index(["arm", "cost"])
    assert set(change.index.get_level_values("arm")) == {"mdm-acc1"}
    found = change.loc[("mdm-acc1", "acc")]
    # 3 × (0.25 - 0.5) and 3 × (0.2 - 0.5); Student's quantile of one degree of freedom: 12.706.
    assert found["change"] == pytest.approx(-0.825) and found["seeds"] == 2
    assert found["high"] - found["change"] == pytest.approx(12.706 * 0.075, rel=1e-3)
    assert ("mdm-acc1", "sensor_distance") not in change.index  # notebook 06 has not seen them
    alone = sweep.against_control(costs[costs["seed"] == 0]).set_index(["arm", "cost"])
    assert alone.loc[("mdm-acc1", "acc"), ["sd", "low", "high"]].isna().all()
    spread = sweep.over_seeds(costs)
    assert spread.index[0] == "real"
    assert_allclose(spread.loc["mdm-acc1", "acc"], [0.675, 0.15 / np.sqrt(2), 2])


def test_spectra_of_arms_have_a_band(moved):
    found = sweep.spectra_over_seeds(motions.motion_spectra(moved))
    walking = found[found["category"] == "walking"].set_index("arm")
    real, arm = walking.loc["real"], walking.loc["mdm-acc1"]
    assert_allclose(arm["density"] / real["density"].to_numpy(), 0.25 * 0.2, rtol=1e-6)
    spread = np.exp(np.std(np.log([0.25**2, 0.2**2]), ddof=1))
    assert_allclose(arm["high"] / arm["density"], spread, rtol=1e-6)
    assert real["low"].isna().all() and set(arm["seeds"]) == {2}
