import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation

from t2imu_utils.analysis import signals, stats
from t2imu_utils.analysis.signals import SHAPE, axes, catch24, labelled_windows, random_placement
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.tracks import RecordingsSection, load_track

# Whole periods in a window of 2 s, so that the movement has no mean.
TIME = np.arange(40) / 20
BOTH, G, SITES = ("acc", "gyro"), 9.81, ["head", "waist"]


def turned(signal, seed=0):
    """A signal (..., 3) as a sensor reads it that sits on the body at some angle."""
    return signal @ Rotation.random(random_state=seed).as_matrix().T


def wave(amplitude, hertz, phase=0.0):
    return amplitude * np.sin(2 * np.pi * hertz * TIME + phase)


@pytest.mark.parametrize("frame", ["gravity", "person"])
@pytest.mark.parametrize("seed", range(3))
def test_a_movement_is_found_again_however_the_sensor_sits(frame, seed):
    """Z is up: a strong bounce, as in running, and a circle in the plane."""
    bounce, circle = wave(15, 3), np.stack([wave(4, 1), wave(4, 1, np.pi / 2)], axis=1)
    acc = turned(np.column_stack([circle, G + bounce]), seed)
    turn, tilt = wave(2, 0.5), wave(3, 1)
    gyro = turned(np.column_stack([tilt, 0 * tilt, turn]), seed)
    found = axes(np.concatenate([acc, gyro], axis=1)[None], frame, BOTH, ["somebody"])[0]
    assert found.dtype == np.float32
    expected = np.stack([G + bounce, np.full(40, 4.0), turn, np.abs(tilt)], axis=1)
    assert_allclose(found, expected, atol=1e-4)


def test_no_fixed_rotation_of_a_sensor_changes_anything():
    """Of noise, in which nothing is vertical; each site and window is turned in its own way."""
    rng = np.random.default_rng(0)
    x = 6 * rng.standard_normal((5, 40, 3, 2, 3)) + 3 * rng.standard_normal((5, 1, 3, 2, 3))
    turns = Rotation.random(15, random_state=1).as_matrix().reshape(5, 3, 3, 3)
    other = np.einsum("nsij,ntskj->ntski", turns, x).reshape(5, 40, 18)
    found = axes(x.reshape(5, 40, 18), "gravity", BOTH)
    assert_allclose(axes(other, "gravity", BOTH), found, atol=2e-5)
    # Nothing is lost but the direction in the plane.
    length = np.linalg.norm(found.reshape(5, 40, 3, 2, 2), axis=-1)
    assert_allclose(length, np.linalg.norm(x, axis=-1), rtol=1e-5)
    # Each window and each site is judged by itself.
    assert_allclose(axes(x.reshape(5, 40, 18)[2:3, :, 6:], "gravity", BOTH)[0], found[2][:, 4:])


def test_posture_is_kept_in_the_persons_frame():
    """Two people, each with a sensor of their own turn, walk, stand, and lie on the back."""
    steps = np.column_stack([wave(2, 1), 0 * TIME, G + wave(4, 2)])
    still, lying = np.tile([0, 0, G], (40, 1)), np.tile([G, 0, 0], (40, 1))
    x = np.stack([turned(w, seed) for seed in (1, 2) for w in (steps, still, lying)])
    persons = np.repeat(["a", "b"], 3)
    vertical, horizontal = np.moveaxis(axes(x, "person", persons=persons).mean(1), -1, 0)
    assert_allclose(vertical, [G, G, 0] * 2, atol=1e-4)
    assert_allclose(horizontal[[1, 2, 4, 5]], [0, G] * 2, atol=1e-4)
    # One window at a time, nothing tells lying from standing.
    assert_allclose(axes(x, "gravity")[[1, 2]].mean(1)[:, 0], G, atol=1e-4)
    # Windows of rest weigh nothing, and another person's do not count.
    more = np.concatenate([x[:3], np.repeat(x[2:3], 50, 0)])
    found = axes(more, "person", persons=["a"] * 53)
    assert_allclose(found[:3], axes(x, "person", persons=persons)[:3])
    # Of somebody who never moves all windows count.
    assert_allclose(axes(x[1:2], "person", persons=["a"])[0].mean(0), [G, 0], atol=1e-4)


def test_sensors_are_worn_at_random_and_alike_during_a_wearing():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 5, 12)).astype(np.float32)
    wearing = np.arange(400) // 2
    found = random_placement(x, wearing, 3, BOTH)
    assert found.dtype == np.float32
    parts, before = (v.reshape(400, 5, 2, 2, 3) for v in (found, x))
    assert_allclose(np.linalg.norm(parts, axis=-1), np.linalg.norm(before, axis=-1), rtol=1e-4)
    # The rotation of each wearing and site, from all of its samples, acc and gyro alike.
    turns = np.empty((200, 2, 3, 3))
    for at, site in np.ndindex(200, 2):
        rows = [v[wearing == at][:, :, site].reshape(-1, 3) for v in (parts, before)]
        turns[at, site], left = Rotation.align_vectors(*rows)[0].as_matrix(), rows
        assert_allclose(left[0], left[1] @ turns[at, site].T, atol=1e-4)
    # The segment's axis, y, is tilted by 20° at most; about it, every angle occurs.
    tilt = np.degrees(np.arccos(turns[..., 1, 1].clip(-1, 1)))
    assert 15 < tilt.max() <= 20.01
    about = np.degrees(np.arctan2(turns[..., 0, 2], turns[..., 2, 2])).ravel()
    assert (np.histogram(about, 6, (-180, 180))[0] > 30).all()
    assert (random_placement(x, wearing, 3, BOTH) == found).all()
    assert (random_placement(x, wearing, 4, BOTH) != found).any()
    assert_allclose(random_placement(x, wearing, 0, BOTH, about=0, tilt=0), x, rtol=1e-6)


def section(classes, labels="activities", sites=("waist",), channels=("acc",)):
    return RecordingsSection(
        reader="realworld", labels=labels, classes=list(classes), channels=list(channels),
        sites=list(sites),
    )  # fmt: skip


def recordings(activities, frames, **columns):
    """Clips that tell where a value is from: 1000 clip + frame, 0.5 more at the waist."""
    frames = [frames] * len(activities) if np.isscalar(frames) else frames
    acc = [
        np.repeat((1000 * i + np.arange(n))[:, None, None] + [[0.0], [0.5]], 3, axis=2)
        for i, n in enumerate(frames)
    ]
    rows = pd.DataFrame({"activity": activities, **columns}).to_dict("records")
    arrays = {"acc": acc, "gyro": [-a for a in acc]}
    return Clips.from_list(rows, arrays, {"rate": 20.0, "sites": SITES})


def origin(windows):
    """Clip and first frame of each window."""
    clip, frame = np.divmod(windows.x[:, 0, 0].astype(int), 1000)
    return list(zip(clip.tolist(), frame.tolist(), strict=True))


def test_every_window_has_the_class_of_its_clip():
    activities = ["walking", "lying", "sitting", "walking"]
    # 39 frames hold no window; 40 hold one, 60 two, 80 three.
    clips = recordings(activities, [40, 60, 80, 39], subject=[1, 2, 2, 3], recording=list("abcd"))
    found = labelled_windows(clips, section(["sitting", "walking"]), None, 0)
    assert origin(found) == [(0, 0), (2, 0), (2, 20), (2, 40)]
    assert found.labels.tolist() == ["walking"] + 3 * ["sitting"]
    assert found.groups.tolist() == list("accc") and found.subjects.tolist() == [1, 2, 2, 2]
    assert found.counts().to_dict() == {"sitting": 3, "walking": 1}
    with pytest.raises(InputError, match="windows of running"):
        labelled_windows(clips, section(["walking", "running"]), None, 0)


def test_large_classes_are_thinned_at_random_and_small_ones_kept():
    clips = recordings(
        ["walking", "sitting", "walking"], [100, 60, 80], subject=[5, 6, 7], recording=list("abc")
    )
    draws = [labelled_windows(clips, section(["sitting", "walking"]), 3, s) for s in range(20)]
    for found in draws:
        assert found.counts().to_dict() == {"sitting": 2, "walking": 3}
        at = origin(found)
        assert sorted(set(at)) == at  # in their order, and none of them twice
        assert found.subjects.tolist() == [clip + 5 for clip, _ in at]
    every = {(0, 0), (0, 20), (0, 40), (0, 60), (1, 0), (1, 20), (2, 0), (2, 20), (2, 40)}
    assert {pair for found in draws for pair in origin(found)} == every


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def described(labels, shift=0.0, scale=1.0, seed=0, per_group=1, people=6):
    """Features that know no size, and those that do; the first tells the row."""
    rng, n = np.random.default_rng(seed), len(labels)
    x = rng.normal(shift, 1, (n, 72))
    x[:, ~SHAPE] = scale * rng.normal(3, 0.2, (n, 6))
    groups = np.arange(n) // per_group
    return pd.DataFrame(x).assign(label=labels, group=groups, subject=groups % people)


def test_catch22_does_not_see_amplitude_but_the_moments_do(rng):
    windows = rng.normal(size=(4, 40, 3)).cumsum(1)
    plain, large = catch24(windows), catch24(3 * windows)
    assert plain.shape == (4, 72) and SHAPE.sum() == 66
    assert_allclose(large[:, SHAPE], plain[:, SHAPE], atol=1e-6)
    assert_allclose(large[:, ~SHAPE], 3 * plain[:, ~SHAPE])
    assert_allclose(plain[:, 22], windows[..., 0].mean(1))
    assert_allclose(plain[:, 23], windows[..., 0].std(1, ddof=1))
    swapped = catch24(windows[..., [2, 1, 0]])
    assert_allclose(swapped[:, :24], plain[:, 48:])


@pytest.mark.parametrize("count", [3, 9, 12, 40])
def test_thinning_is_as_even_over_classes_as_they_allow(count):
    whole, full = described(list("a" * 10 + "b" * 2 + "c" * 5)), {"a": 10, "b": 2, "c": 5}
    part = signals.thinned(whole, count, 0)
    assert part.index.is_unique and len(part) == min(count, 17)
    counts = {name: int((part["label"] == name).sum()) for name in "abc"}
    most = max(counts.values())
    # Whoever has windows left has at most one less than any other class.
    assert all(counts[n] >= most - 1 or counts[n] == full[n] for n in "abc")


def test_models_are_compared_on_one_scale():
    real, models = described(list("ab" * 30), per_group=2), {"near": {}, "far": {"shift": 1.5}}
    made = {
        name: described(list("ab" * 24), seed=1 + i, per_group=3, **settings)
        for i, (name, settings) in enumerate((models | {"large": {"scale": 2.0}}).items())
    }
    table = signals.compare(real, made, 0)
    assert (table["recordings"] == 30).all() and set(table["measure"]) == set(signals.MEASURES)
    value = table.pivot(index="model", columns="measure", values="value")
    assert value.loc["far", "distance"] > value.loc["near", "distance"] + 0.1
    # Of a wrong size: not seen without the moments, plain with them.
    assert value.loc["large", "distance"] == pytest.approx(value.loc["near", "distance"], abs=0.1)
    assert value.loc["large", "distance_sized"] > value.loc["near", "distance_sized"] + 0.1
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    found = stats.nested(table, "model", "classes", "measure")
    assert found["far"]["all"]["distance"]["value"] == value.loc["far", "distance"]
    # The split-half reference is of subjects.
    assert value.loc["real", "distance"] == pytest.approx(0, abs=0.1)
    # Every other person is another kind of person: some halves lie far apart.
    real.loc[real["subject"].isin([0, 2, 4]), 0:71] += 3
    apart = signals.compare(real, {}, 0).set_index("measure").loc["distance"]
    assert apart["low"] > 0.1 < apart["value"] <= apart["high"]
    few = signals.compare(described(list("ab" * 5), per_group=2, people=2), {}, 0)
    assert few["value"].isna().all()


def test_windows_of_a_source_are_described(rng):
    activities = ["walking"] * 3 + ["lying", "running"]
    section = load_track("demo").recordings.model_copy(
        update={"classes": ["running", "walking"], "sites": ["head"]}
    )
    table = [{"activity": a, "motion": i, "body": "tall"} for i, a in enumerate(activities)]
    acc = [rng.normal(size=(100, 2, 3)) for _ in activities]
    acc[0][40:, 1] = 9.81  # a constant has no features
    clips = Clips.from_list(table, {"acc": acc}, {"sites": ["shin", "head"], "rate": 20.0})
    # 100 frames hold four windows of 40, half overlapping.
    found = signals.describe(clips, section, 20, 0)
    assert found["label"].value_counts().to_dict() == {"walking": 10, "running": 4}
    assert set(found["group"]) == {0, 1, 2, 4} and np.isfinite(found[range(72)]).all(axis=None)
