import numpy as np
import pandas as pd
import pytest

from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.gravity_frame import gravity_aligned
from t2imu_utils.evaluation.window_sets import labelled_windows
from t2imu_utils.tracks import RecordingsSection

SITES = ["head", "waist"]


def section(classes, labels="activities", sites=("waist",), channels=("acc",)):
    return RecordingsSection(
        reader="realworld",
        labels=labels,
        classes=list(classes),
        channels=list(channels),
        sites=list(sites),
    )


def recordings(activities, frames, **columns):
    """Clips that tell where a value is from: 1000 clip + frame, 0.5 more at the waist."""
    if np.isscalar(frames):
        frames = [frames] * len(activities)
    acc = [
        np.broadcast_to(
            (1000 * i + np.arange(n))[:, None, None] + [[0.0], [0.5]], (n, len(SITES), 3)
        ).copy()
        for i, n in enumerate(frames)
    ]
    rows = pd.DataFrame({"activity": activities, **columns}).to_dict("records")
    arrays = {"acc": acc, "gyro": [-a for a in acc]}
    return Clips.from_list(rows, arrays, {"rate": 20.0, "sites": SITES})


def origin(windows):
    """Clip and first frame of each window."""
    return np.divmod(windows.x[:, 0, 0].astype(int), 1000)


def test_every_window_has_the_class_of_its_clip():
    activities = ["walking", "lying", "sitting", "walking"]
    # 39 frames hold no window; 40 hold one, 60 two, 80 three.
    clips = recordings(activities, [40, 60, 80, 39], subject=[1, 2, 2, 3], recording=list("abcd"))
    found = labelled_windows(clips, section(["sitting", "walking"]), None, 0)
    clip, start = origin(found)
    assert clip.tolist() == [0, 2, 2, 2] and start.tolist() == [0, 0, 20, 40]
    assert found.labels.tolist() == ["walking"] + 3 * ["sitting"]
    assert found.groups.tolist() == list("accc") and found.subjects.tolist() == [1, 2, 2, 2]
    assert found.x.shape == (4, 40, 3) and (found.x[0, :, 0] == np.arange(40) + 0.5).all()
    assert len(found) == 4 and found.counts().to_dict() == {"sitting": 3, "walking": 1}


def test_both_ways_on_stairs_are_one_category():
    activities = ["climbing up", "walking", "climbing down", "running"]
    clips = recordings(activities, 60, subject=1)
    found = labelled_windows(clips, section(["stair climbing", "walking"], "categories"), None, 0)
    assert origin(found)[0].tolist() == [0, 0, 1, 1, 2, 2]
    assert found.labels.tolist() == 2 * ["stair climbing"] + 2 * ["walking"] + 2 * [
        "stair climbing"
    ]
    with pytest.raises(InputError, match="no stair climbing"):
        labelled_windows(clips, section(["stair climbing", "walking"]), None, 0)
    apart = labelled_windows(clips, section(["climbing down", "climbing up"]), None, 0)
    assert apart.labels.tolist() == 2 * ["climbing up"] + 2 * ["climbing down"]


def test_large_classes_are_thinned_at_random_and_small_ones_kept():
    clips = recordings(
        ["walking", "sitting", "walking"], [100, 60, 80], subject=[5, 6, 7], recording=list("abc")
    )
    draws = [labelled_windows(clips, section(["sitting", "walking"]), 3, s) for s in range(20)]
    for found in draws:
        assert found.counts().to_dict() == {"sitting": 2, "walking": 3}
        at = list(zip(*origin(found), strict=True))
        # In their order, so that a set is read like an unthinned one, and none of them twice.
        assert sorted(set(at)) == at
        clip = origin(found)[0]
        assert (found.labels == np.where(clip == 1, "sitting", "walking")).all()
        assert (found.groups == np.array(list("abc"))[clip]).all()
        assert (found.subjects == clip + 5).all()
    every = {(0, 0), (0, 20), (0, 40), (0, 60), (1, 0), (1, 20), (2, 0), (2, 20), (2, 40)}
    assert {pair for found in draws for pair in zip(*origin(found), strict=True)} == every
    again = labelled_windows(clips, section(["sitting", "walking"]), 3, 7)
    assert (again.x == draws[7].x).all()
    assert len(labelled_windows(clips, section(["sitting", "walking"]), None, 0)) == 9


@pytest.mark.parametrize(
    ("columns", "groups", "subjects"),
    [
        ({"subject": [7, 8]}, [7, 8], [7, 8]),
        ({"subject": [7, 7], "recording": ["a", "b"]}, ["a", "b"], [7, 7]),
        # One motion on two bodies is one sample: its windows must not fall on two sides.
        ({"motion": [4, 4], "body": ["tall", "short"]}, [4, 4], ["tall", "short"]),
        ({"motion": [4, 5], "body": ["m", "m"], "subject": [1, 2]}, [4, 5], ["m", "m"]),
    ],
)
def test_what_windows_have_in_common(columns, groups, subjects):
    clips = recordings(["walking", "walking"], 40, **columns)
    found = labelled_windows(clips, section(["walking"]), None, 0)
    assert found.groups.tolist() == groups and found.subjects.tolist() == subjects


def test_only_the_sensors_of_the_track_count():
    clips = recordings(["walking", "lying", "walking"], 80, subject=1)
    clips.arrays["acc"][5, SITES.index("head")] = np.nan
    clips.arrays["acc"][85] = np.nan
    waist = labelled_windows(clips, section(["walking"]), None, 0)
    assert waist.dropped == 0 and len(waist) == 6
    # Frame 5 is in the first window only; what is missing while lying is nobody's loss.
    both = labelled_windows(clips, section(["walking"], sites=["waist", "head"]), None, 0)
    assert both.dropped == 1 and list(zip(*origin(both), strict=True))[0] == (0, 20)
    assert (both.x[0, 0] == [20.5] * 3 + [20.0] * 3).all()
    other = labelled_windows(clips, section(["walking"]), None, 0, sites=["head"])
    assert other.dropped == 1 and (other.x[0, 0] == 20.0).all()
    gyro = labelled_windows(clips, section(["walking"], channels=["acc", "gyro"]), None, 0)
    assert (gyro.x[0, 1] == [1.5] * 3 + [-1.5] * 3).all()


def test_missing_classes_are_named():
    clips = recordings(["walking"], 60, subject=1)
    with pytest.raises(InputError, match="no lying, running.*walking, running, lying"):
        labelled_windows(clips, section(["walking", "running", "lying"]), None, 0)


def test_a_class_whose_windows_all_lack_a_sensor_is_named():
    clips = recordings(["walking", "lying"], 60, subject=1)
    clips.arrays["acc"][60:, SITES.index("head")] = np.nan
    assert len(labelled_windows(clips, section(["walking", "lying"]), None, 0)) == 4
    with pytest.raises(InputError, match="windows of lying.*waist, head"):
        labelled_windows(clips, section(["walking", "lying"], sites=["waist", "head"]), None, 0)


def test_axes_may_be_those_of_gravity():
    clips = recordings(["walking", "lying", "walking"], 80, subject=1)
    clips.arrays["acc"] += np.random.default_rng(0).standard_normal(clips.arrays["acc"].shape)
    chosen = section(["walking"], sites=["waist", "head"], channels=["acc", "gyro"])
    raw, turned = (labelled_windows(clips, chosen, 4, 3, axes=a) for a in ("raw", "gravity"))
    assert (raw.x == labelled_windows(clips, chosen, 4, 3).x).all()
    assert raw.x.shape == (4, 40, 12) and turned.x.shape == (4, 40, 8)
    assert (turned.x == gravity_aligned(raw.x, ["acc", "gyro"])).all()
    # The same windows: only their channels are others.
    assert (turned.labels == raw.labels).all() and (turned.groups == raw.groups).all()
    with pytest.raises(InputError, match="axes: found 'north'; expected one of raw, gravity"):
        labelled_windows(clips, chosen, None, 0, axes="north")
    with pytest.raises(InputError, match="acc among the channels"):
        labelled_windows(clips, section(["walking"], channels=["gyro"]), None, 0, axes="gravity")
