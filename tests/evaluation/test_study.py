import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from t2imu_utils.errors import InputError
from t2imu_utils.evaluation import lacc, study
from t2imu_utils.evaluation.lacc import bootstrap_means


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


def groups(count, per_trial=1):
    kinds = ["jumping", "walking", "sitting"]
    trial = np.arange(count) // per_trial
    return pd.DataFrame(
        {
            "clip": [f"c{i:02d}" for i in range(count)],
            "split": np.where(trial % 2, "test_trials", "test"),
            "category": [kinds[i % 3] for i in trial],
            "unit": [f"t{i}" for i in trial],
        }
    )


def row(change, arm, reference="control", split="all", group="all"):
    keys = {"arm": arm, "reference": reference, "split": split, "group": group}
    found = change[(change[list(keys)] == pd.Series(keys)).all(axis=1)]
    assert len(found) == 1
    return found.iloc[0]


@pytest.fixture(scope="module")
def known():
    """Base; controls 10 % below it; arms 20 % below the controls of their own seed, 40 % for
    jumping. Seeds shift control and arm together."""
    base = np.linspace(1, 2, 24)
    share = np.where(groups(24)["category"] == "jumping", 0.6, 0.8)
    losses = {"mdm": table(base)}
    for seed, level in ((0, 1.0), (1, 1.3), (2, 0.7)):
        ending = f"-s{seed}" if seed else ""
        losses[f"mdm-ft{ending}"] = table(0.9 * level * base)
        losses[f"mdm-acc0.1{ending}"] = table(0.9 * level * base * share)
    return losses


@pytest.fixture(scope="module")
def change(known):
    return study.change_over_seeds(known, groups(24), draws=200)


def test_an_arm_is_held_against_the_control_of_its_own_seed(change):
    for group, expected in (("jumping", -0.4), ("high-dynamic", -0.4), ("low-dynamic", -0.2)):
        found = row(change, "mdm-acc0.1", group=group)
        columns = ["relative", "low", "high", "median"]
        assert_allclose(found[columns].astype(float), expected, atol=1e-12)
        assert found["sd"] == pytest.approx(0, abs=1e-12)
    every = row(change, "mdm-acc0.1")
    assert tuple(every[["clips", "units", "seeds"]]) == (24, 24, 3)
    assert -0.4 < every["relative"] < -0.2
    # Against the base the seeds differ: levels 1, 1.3 and 0.7 of nine tenths.
    control = row(change, "mdm-ft", "base")
    assert control["relative"] == pytest.approx(-0.1)
    assert control["sd"] == pytest.approx(np.std([0.9, 1.17, 0.63], ddof=1))
    assert control["low"] < -0.1 - 0.2 and control["high"] > -0.1 + 0.2
    low_dynamic = row(change, "mdm-acc0.1", "base", group="low-dynamic")
    assert low_dynamic["relative"] == pytest.approx(0.8 * 0.9 - 1)
    assert set(change["split"]) == {"all", "test", "test_trials"}
    assert row(change, "mdm-acc0.1", split="test")["clips"] == 12


def test_a_variant_is_held_against_the_control_with_its_other_losses(known):
    """L_vel alone halves the loss; what L_acc adds to it is a tenth."""
    base = np.linspace(1, 2, 24)
    more = {"mdm-ft-vel0.2": table(0.5 * base), "mdm-acc0.1-vel0.2": table(0.45 * base)}
    change = study.change_over_seeds(known | more, groups(24), draws=50)
    assert row(change, "mdm-acc0.1-vel0.2")["relative"] == pytest.approx(-0.1)
    assert row(change, "gaussian")["seeds"] == 3
    assert "mdm-ft-vel0.2" not in set(change.loc[change["reference"] == "control", "arm"])
    levels = study.by_timestep(known | more).groupby("arm")["relative"].mean()
    assert levels["mdm-acc0.1-vel0.2"] == pytest.approx(-0.1)


def test_high_is_held_against_low_dynamic(change):
    contrast = row(change, "mdm-acc0.1", group=study.CONTRAST)
    assert_allclose(contrast[["relative", "low", "high"]].astype(float), -0.2, atol=1e-12)
    assert contrast["clips"] == 24 and np.isnan(contrast["effect_size"])
    assert "It falls more in high-dynamic motion." in study.in_words(change, study.CONTRAST)


def test_trivial_changes_are_those_of_the_reference(change):
    for reference, seeds in (("control", 3), ("base", 1)):
        for name, expected in (("gaussian", -0.5), ("constant", -0.75)):
            found = row(change, name, reference)
            assert found["relative"] == pytest.approx(expected) and found["seeds"] == seeds
    text = study.in_words(change)
    assert "A Gaussian over its own x̂₀ against the control of the same seed: -50.0%" in text


def test_each_seed_by_itself(known):
    table = study.changes_by_seed(known, groups(24)).set_index(["reference", "arm", "group"])
    own = table[table["split"] == "all"].sort_index().loc[("base", "mdm-ft", "all")]
    assert dict(zip(own["seed"], own["relative"].round(9), strict=True)) == {
        0: -0.1, 1: 0.17, 2: -0.37,
    }  # fmt: skip


def test_one_seed_gives_what_notebook_05_gives():
    rng = np.random.default_rng(0)
    before, after = rng.uniform(1, 2, 30), rng.uniform(0.8, 1.8, 30)
    losses = {"mdm-ft": table(before), "mdm-acc1": table(after)}
    where = groups(30, per_trial=2)
    found = study.change_over_seeds(losses, where, draws=300, seed=4).set_index("group")
    found = found[(found["arm"] == "mdm-acc1") & (found["split"] == "all")]
    model = [x[x["estimate"] == "model"] for x in losses.values()]
    expected = lacc.paired_difference(*model, where, draws=300, seed=4).set_index("group")
    columns = {"relative": "relative", "low": "relative_low", "high": "relative_high"}
    columns |= {"before": "before", "after": "after", "effect_size": "effect_size"}
    for own, theirs in columns.items():
        assert_allclose(found[own].drop(study.CONTRAST), expected[theirs].loc[found.index.drop(
            study.CONTRAST)], rtol=1e-12)  # fmt: skip
    assert found["sd"].isna().all() and (found["seeds"] == 1).all()


def test_the_spread_of_seeds_enters_the_interval():
    before = np.linspace(1, 2, 20)
    change = {}
    for spread in (0.0, 0.1):
        losses = {}
        for seed, deviation in enumerate((-1.0, -0.5, 0.0, 0.5, 1.0)):
            ending = f"-s{seed}" if seed else ""
            losses[f"mdm-ft{ending}"] = table(before)
            losses[f"mdm-acc1{ending}"] = table(before * (0.7 + spread * deviation))
        change[spread] = row(study.change_over_seeds(losses, groups(20), draws=2000), "mdm-acc1")
    assert_allclose(change[0.0][["relative", "low", "high"]].astype(float), -0.3, atol=1e-12)
    wide = change[0.1]
    assert wide["relative"] == pytest.approx(-0.3) and wide["sd"] == pytest.approx(0.0790569)
    # Student's interval for five values, 0.3 ± 2.776 * 0.0791 / sqrt(5).
    assert wide["low"] == pytest.approx(-0.398, abs=0.012)
    assert wide["high"] == pytest.approx(-0.202, abs=0.012)


def test_intervals_cover_the_true_change():
    """Seeds, trials and chance in each pair of both all move the change about its true value."""
    hits, count, seeds, unit = 0, 300, 4, np.repeat(range(20), 2)
    for repeat in range(count):
        rng = np.random.default_rng(repeat)
        of_seed, of_trial = rng.normal(0, 0.04, seeds), rng.normal(0, 0.15, 20)[unit]
        before = rng.uniform(1, 2, (40, 1)) * np.ones(seeds)
        share = 0.7 + of_seed + of_trial[:, None] + rng.normal(0, 0.05, (40, seeds))
        values = np.concatenate([before, before * share], 1)
        drawn = np.concatenate([values.mean(0)[None], bootstrap_means(values, unit, 300, repeat)])
        found = study._estimate(drawn[:, seeds:] / drawn[:, :seeds] - 1, repeat)
        hits += found["low"] <= -0.3 <= found["high"]
    assert 0.90 <= hits / count <= 0.995


def test_effect_size_is_that_of_trials_averaged_over_seeds():
    rng = np.random.default_rng(1)
    by_trial = rng.normal(-0.2, 0.1, 12)
    # Two clips a trial and two seeds, whose deviations cancel.
    clips = np.repeat(by_trial, 2) + np.tile([0.05, -0.05], 12)
    losses = {"mdm-ft": table(np.ones(24)), "mdm-ft-s1": table(np.ones(24))}
    losses |= {"mdm-acc1": table(1 + clips + 0.03), "mdm-acc1-s1": table(1 + clips - 0.03)}
    change = study.change_over_seeds(losses, groups(24, per_trial=2), draws=20)
    found = row(change, "mdm-acc1")
    assert found["effect_size"] == pytest.approx(by_trial.mean() / by_trial.std(ddof=1))
    assert found["median"] == pytest.approx(np.median(by_trial))


def test_few_trials_have_no_interval():
    losses = {"mdm-ft": table(np.linspace(1, 2, 6)), "mdm-acc1": table(np.ones(6))}
    change = study.change_over_seeds(losses, groups(6, per_trial=2), draws=20)
    found = row(change, "mdm-acc1")
    assert found["units"] == 3 and found["relative"] < 0
    assert found[["low", "high", "effect_size"]].isna().all()
    assert "too few trials for an interval" in study.in_words(change)


def test_an_arm_without_its_control_is_left_out(known):
    losses = {name: part for name, part in known.items() if name != "mdm-ft-s1"}
    change = study.change_over_seeds(losses, groups(24), draws=20)
    assert row(change, "mdm-acc0.1")["seeds"] == 2
    assert row(change, "mdm-acc0.1", "base")["seeds"] == 3


def test_arms_of_other_options_and_generators_stand_apart(known):
    losses = known | {"mdm-acc0.1-joints-s1": table(np.ones(24)), "momask": table(np.ones(24))}
    losses |= {"momask-ft-s2": table(np.full(24, 0.5))}
    change = study.change_over_seeds(losses, groups(24), draws=20)
    assert row(change, "mdm-acc0.1")["seeds"] == 3
    assert row(change, "mdm-acc0.1-joints")["seeds"] == 1
    other = change[change["generator"] == "momask"]
    assert set(other["arm"]) == {"momask-ft", "gaussian", "constant"}
    assert row(other, "momask-ft", "base")["relative"] == pytest.approx(-0.5)


def test_tables_that_do_not_match_are_refused(known):
    shorter = known | {"mdm-acc0.1-s2": known["mdm-acc0.1-s2"].query("clip != 'c03'")}
    with pytest.raises(InputError, match="mdm-acc0.1-s2"):
        study.change_over_seeds(shorter, groups(24))
    with pytest.raises(InputError, match="no row for c23"):
        study.change_over_seeds(known, groups(23))
    twice = pd.concat([groups(24), groups(24)])
    with pytest.raises(InputError, match="a clip twice"):
        study.changes_by_seed(known, twice)


def test_losses_by_timestep(known):
    table = study.by_timestep(known).set_index(["arm", "timestep"])
    mean = 1.5
    assert table.loc[("mdm", 2), "mean"] == pytest.approx(0.9 * mean)
    assert table.loc[("mdm", 7), "mean"] == pytest.approx(1.1 * mean)
    assert table.loc[("gaussian", 7), "mean"] == pytest.approx(0.55 * mean)
    control, arm = table.loc[("mdm-ft", 7)], table.loc[("mdm-acc0.1", 7)]
    assert control["mean"] == pytest.approx(1.1 * 0.9 * mean) and control["seeds"] == 3
    assert control["sd"] == pytest.approx(1.1 * 0.9 * mean * 0.3)
    assert arm["relative_sd"] == pytest.approx(0, abs=1e-12)
    assert -0.4 < arm["relative"] < -0.2
    assert np.isnan(control["relative"]) and np.isnan(table.loc[("mdm", 2), "relative"])


def test_words_claim_only_what_the_interval_excludes(change):
    rng = np.random.default_rng(2)
    losses = {"mdm-ft": table(np.ones(30)), "mdm-acc1": table(1 + rng.normal(0, 0.1, 30))}
    own = study.change_over_seeds(losses, groups(30), draws=200)
    own = own[own["arm"] == "mdm-acc1"]
    assert study.in_words(own).endswith("includes zero: no difference is shown.")
    text = study.in_words(change)
    line = next(x for x in text.splitlines() if x.startswith("MDM, λ = 0.1 against the control"))
    assert "3 seeds, sd 0.0; 24 clips of 24 trials" in line and line.endswith("L_acc is lower.")


def test_stretch_makes_up_for_few_seeds():
    assert study.stretch(1) == 0
    # Two seeds say next to nothing, many as much as the bootstrap has it.
    assert study.stretch(2) == pytest.approx(12.706 / 1.95996 * np.sqrt(2), rel=1e-4)
    assert study.stretch(5) == pytest.approx(2.7764 / 1.95996 * np.sqrt(1.25), rel=1e-4)
    assert study.stretch(2000) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(
    ("model", "arm"),
    [("mdm", "mdm"), ("mdm-ft-s12", "mdm-ft"), ("mdm-acc0.1-joints-s1", "mdm-acc0.1-joints")],
)
def test_names_without_their_seed(model, arm):
    assert study.arm_of(model) == arm
