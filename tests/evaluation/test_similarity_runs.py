import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from t2imu_utils.clips import Clips
from t2imu_utils.evaluation import similarity_runs
from t2imu_utils.evaluation.similarity import catch22_features
from t2imu_utils.evaluation.similarity_runs import Described
from t2imu_utils.evaluation.window_sets import WindowSet, labelled_windows
from t2imu_utils.tracks import load_track


def described(labels, shift=0.0, scale=1.0, seed=0, per_group=1, people=6):
    """Four features that know no size, two more that do; the first tells the row."""
    n = len(labels)
    rng = np.random.default_rng(seed)
    plain = rng.normal(shift, 1, (n, 4))
    sized = np.concatenate([plain, scale * rng.normal(3, 0.2, (n, 2))], axis=1)
    groups = np.arange(n) // per_group
    return Described(plain, sized, np.asarray(labels), groups, groups % people, 0)


def rows_of(part, whole):
    """Which windows of `whole` those of `part` are."""
    order = [int(np.flatnonzero(whole.catch22[:, 0] == value)[0]) for value in part.catch22[:, 0]]
    assert (part.catch24 == whole.catch24[order]).all()
    assert (part.labels == whole.labels[order]).all() and (part.groups == whole.groups[order]).all()
    return order


def test_windows_of_some_classes():
    whole = described(list("abcabc"))
    part = whole.only(["c", "a"])
    assert rows_of(part, whole) == [0, 2, 3, 5] and part.constant == whole.constant


@pytest.mark.parametrize("count", [3, 6, 9, 12, 17, 40])
def test_thinning_is_as_even_over_classes_as_they_allow(count):
    whole = described(list("a" * 10 + "b" * 2 + "c" * 5))
    for seed in range(5):
        part = whole.thinned(count, np.random.default_rng(seed))
        rows = rows_of(part, whole)
        assert len(set(rows)) == len(rows) == min(count, 17)
        counts = {name: int((part.labels == name).sum()) for name in "abc"}
        # Whoever has windows left has at most one less than any other class.
        full = {"a": 10, "b": 2, "c": 5}
        most = max(counts.values())
        assert all(counts[n] in (full[n], most, most - 1) for n in "abc")
        assert all(counts[n] >= most - 1 or counts[n] == full[n] for n in "abc")


def test_thinning_draws_at_random():
    whole = described(list("a" * 10 + "b" * 10))
    draws = [
        rows_of(whole.thinned(4, np.random.default_rng(seed)), whole) for seed in (*range(30), 0)
    ]
    assert set(np.concatenate(draws)) == set(range(20))
    assert draws[0] == draws[-1]


def test_windows_are_described_with_and_without_their_size():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 40, 3)).cumsum(1)
    x[2, :, 1] = 9.81
    windows = WindowSet(x, np.array(list("abcdef")), np.arange(6), np.arange(6), 0)
    found = similarity_runs.describe(windows)
    kept = [0, 1, 3, 4, 5]
    assert found.constant == 1 and "".join(found.labels) == "abdef"
    assert found.groups.tolist() == kept
    assert_allclose(found.catch22, catch22_features(x[kept]).values)
    assert_allclose(found.catch24, catch22_features(x[kept], moments=True).values)
    assert_allclose(found.catch24[:, 22], x[kept][..., 0].mean(1))


def test_as_many_real_as_synthetic_points():
    real, synthetic = described(list("ab" * 20)), described(list("ab" * 35), shift=12.0, seed=1)
    points, is_real = similarity_runs.embed(real, synthetic, perplexity=30, seed=0)
    assert points.shape == (80, 2) and is_real.tolist() == [True] * 40 + [False] * 40
    # Whichever is real stands together, apart from the synthetic ones.
    centres = points[is_real].mean(0), points[~is_real].mean(0)
    nearer = np.linalg.norm(points[:, None] - centres, axis=-1).argmin(1)
    assert (nearer == ~is_real).all()
    again, _ = similarity_runs.embed(real, synthetic, perplexity=30, seed=0)
    assert_allclose(again, points)


def numbers(**models):
    real = described(list("ab" * 30), per_group=2)
    synthetic = {
        name: described(list("ab" * 24), seed=1 + i, per_group=3, **settings)
        for i, (name, settings) in enumerate(models.items())
    }
    return similarity_runs.compare(real, synthetic, 0, "all of them")


def test_models_are_compared_on_one_scale():
    table = numbers(near={}, far={"shift": 1.5}, large={"scale": 2.0})
    assert len(table) == 16 and set(table["classes"]) == {"all of them"}
    synthetic = table[table["model"] != "real"]
    assert (table["recordings"] == 30).all() and (synthetic["motions"] == 16).all()
    keys = similarity_runs.MEASURES | similarity_runs.WITH_SIZE
    value = table.pivot(index="model", columns="measure", values="value")
    assert set(value.columns) == set(keys)
    assert value.loc["far", "distance"] > value.loc["near", "distance"] + 0.1
    assert value.loc["far", "mixing"] < 0.8 < value.loc["near", "mixing"]
    # Of a wrong size: not seen without the moments, plain with them.
    assert value.loc["large", "distance"] == pytest.approx(value.loc["near", "distance"], abs=0.1)
    assert value.loc["large", "distance_sized"] > value.loc["near", "distance_sized"] + 0.1
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    # All models' windows make the scale, so another model changes it for everyone.
    alone = numbers(near={}).set_index(["model", "measure"])["value"]["near"]
    assert alone["distance"] != pytest.approx(value.loc["near", "distance"], rel=1e-6)


def test_all_classes_are_compared_and_the_dynamic_ones_by_themselves():
    labels = ["jumping", "running", "walking", "standing"] * 15
    real, near, far = (described(labels, shift=shift, seed=seed)
                       for seed, shift in enumerate((0, 0.1, 3)))  # fmt: skip
    # Whatever moves little lies far away: what is dynamic alone does not know of it.
    near.catch22[~np.isin(near.labels, similarity_runs.DYNAMIC)] += 3
    table = similarity_runs.compare_all(real, {"near": near, "far": far}, 0)
    whole = similarity_runs.compare(real, {"near": near, "far": far}, 0)
    assert list(dict.fromkeys(table["classes"])) == ["all", "jumping + running"]
    pd.testing.assert_frame_equal(table[table["classes"] == "all"], whole)
    value = table[table["measure"] == "distance"].set_index(["classes", "model"])["value"]
    assert value["all", "near"] > 3 * value["jumping + running", "near"]
    assert value["jumping + running", "far"] > 0.5
    recordings = table.groupby("classes")["recordings"].agg(set)
    assert recordings["all"] == {60} and recordings["jumping + running"] == {30}


def test_every_source_is_cut_and_described_alike():
    rng = np.random.default_rng(0)
    section = load_track("demo").recordings.model_copy(
        update={"classes": ["running", "walking"], "sites": ["head"]}
    )
    activities = ["walking"] * 3 + ["lying", "running"]

    def clips(key):
        table = [{"activity": a, key: i, "subject": i} for i, a in enumerate(activities)]
        arrays = {"acc": [rng.normal(size=(100, 2, 3)) for _ in activities]}
        return Clips.from_list(table, arrays, {"sites": ["shin", "head"], "rate": 20.0})

    sources = {"real": clips("recording"), "mdm": clips("motion")}
    found = similarity_runs.describe_all(sources, section, 5, 0)
    # 100 frames hold four windows of 40, half overlapping.
    table = similarity_runs.counts(found)
    assert table.loc[["running", "walking"]].to_numpy().tolist() == [[4, 4], [5, 5]]
    assert list(table.columns) == ["real", "mdm"] and len(table) == 2
    for name, part in found.items():
        alone = similarity_runs.describe(labelled_windows(sources[name], section, 5, 0))
        assert_allclose(part.catch24, alone.catch24)


def test_real_against_real_is_the_floor():
    value = numbers(near={}).set_index(["model", "measure"])["value"]
    # Six people who are alike: halves of them are mixed, and no distance is between them.
    assert value["real", "distance"] == pytest.approx(0, abs=0.03)
    assert value["real", "mixing"] > 0.9
    # Every other person is another kind of person: some halves lie far apart, by subject and not
    # by recording.
    real = described(list("ab" * 30), per_group=2)
    real.catch22[np.isin(real.subjects, [0, 2, 4])] += 3
    floor = similarity_runs.compare(real, {}, 0).set_index("measure")
    assert floor.loc["distance", "value"] > 0.1 and floor.loc["distance", "high"] > 0.5


def test_too_few_recordings_have_no_floor():
    real = described(list("ab" * 5), per_group=2, people=2)
    floor = similarity_runs.compare(real, {}, 0)
    assert floor["value"].isna().all()
    assert (similarity_runs.table(floor) == "–").all(axis=None)


def row(model, measure, value, low, high, classes="all"):
    return {
        "model": model, "classes": classes, "measure": measure, "value": value, "low": low,
        "high": high, "recordings": 5, "motions": 6,
    }  # fmt: skip


@pytest.fixture
def hand():
    return pd.DataFrame(
        [
            row("mdm", "distance", 0.5, 0.4, 0.6),
            row("mdm", "mixing", 0.5, 0.4, 0.6),
            row("mdm", "distance_sized", 0.5, 0.4, 0.6),
            row("mdm", "mixing_sized", 0.5, 0.4, 0.6),
            row("acc", "distance", 0.3, 0.2, 0.39),
            row("acc", "mixing", 0.3, 0.2, 0.41),
            row("acc", "distance_sized", 0.7, 0.61, 0.8),
            row("acc", "mixing_sized", 0.7, 0.59, 0.8),
        ]
    )


def test_numbers_in_words(hand):
    assert similarity_runs.in_words(hand, "mdm", "acc").splitlines() == [
        "energy distance, catch22 (all): 0.500 → 0.300, nearer to real; "
        "the intervals do not overlap.",
        "nearest-neighbour mixing, catch22 (all): 0.500 → 0.300, farther from real; "
        "the intervals overlap.",
        "energy distance, catch22 + mean, sd (all): 0.500 → 0.700, farther from real; "
        "the intervals do not overlap.",
        "nearest-neighbour mixing, catch22 + mean, sd (all): 0.500 → 0.700, nearer to real; "
        "the intervals overlap.",
    ]
    back = similarity_runs.in_words(hand, "acc", "mdm").splitlines()
    assert "0.300 → 0.500, farther from real; the intervals do not overlap" in back[0]


def test_every_selection_of_classes_has_its_own_line(hand):
    both = pd.concat([hand, hand.assign(classes="jumping + running", value=0.9)])
    lines = similarity_runs.in_words(both, "mdm", "acc").splitlines()
    assert len(lines) == 8
    assert lines[4].startswith("energy distance, catch22 (jumping + running): 0.900 → 0.900")


def test_table_and_metrics_hold_the_same_numbers(hand):
    table = similarity_runs.table(hand)
    assert table.index.tolist() == ["mdm", "acc"]
    assert table.loc["acc", ("all", "energy distance, catch22")] == "0.300 [0.200, 0.390]"
    assert table.shape == (2, 4)
    found = similarity_runs.as_metrics(hand)
    assert list(found) == ["mdm", "acc"] and set(found["acc"]["all"]) == set(hand["measure"])
    assert found["acc"]["all"]["mixing_sized"] == {"value": 0.7, "low": 0.59, "high": 0.8}
