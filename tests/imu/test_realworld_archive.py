"""One archive that holds every anomaly that RealWorld is known for, and what comes of it."""

import gc
import io
import tracemalloc
import zipfile
from collections import Counter

import numpy as np
import pytest

from t2imu_utils.activities import ACTIVITIES, POSITIONS
from t2imu_utils.errors import InputError
from t2imu_utils.imu.realworld import read_realworld
from t2imu_utils.imu.windows import windows

EPOCH = 1_435_993_000.0
PERIOD = 0.02
PREFIX = {"acc": "acc", "gyr": "Gyroscope", "mag": "MagneticField"}
HEADER = "id,attr_time,attr_x,attr_y,attr_z"


def signature(subject, activity, session, position):
    """x and y of every acceleration of a stream; its gyroscope has their negatives."""
    return POSITIONS.index(position) + session / 10, subject + activity / 10


def packed(members, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def csv(values, seconds=12.0, start=EPOCH, keep=slice(None), deliver=None, clipped=0):
    """A stream as the archive has it: milliseconds, no newline at its end."""
    times = start + PERIOD * np.arange(round(seconds / PERIOD))
    stamps = np.round((times if deliver is None else deliver(times)) * 1000).astype(int)[keep]
    x, y = values
    end = f",{x:g},{y:g}"
    lines = [f"{i + 1},{t}{end},{-19.61 if i < clipped else 1}" for i, t in enumerate(stamps)]
    return "\n".join([HEADER, *lines]).encode()


def sensor_zip(sensor, key, positions=POSITIONS, marked=True, changes=None, **options):
    """The zip of one sensor; `changes` holds other options for some positions."""
    subject, activity, session = key
    mark = f"_{session}" if session > 1 and marked else ""
    sign = -1 if sensor == "gyr" else 1
    name = ACTIVITIES[activity].replace(" ", "")
    members = {"readMe": b"entries: 600"}
    for position in positions:
        values = [sign * value for value in signature(*key, position)]
        own = options | (changes or {}).get(position, {})
        members[f"{PREFIX[sensor]}_{name}{mark}_{position}.csv"] = csv(values, **own)
    return packed(members)


def plain(subject, activity, where="data/", session=1, sensors=("acc", "gyr"), **options):
    """Zips of one activity under the plain names."""
    key = subject, ACTIVITIES.index(activity), session
    name = activity.replace(" ", "")
    return {
        f"proband{subject}/{where}{s}_{name}_csv.zip": sensor_zip(s, key, **options)
        for s in sensors
    }


def nested(subject, activity, seconds):
    """Zips of zips: a part for each session; the first gyroscope part has no number."""
    key = subject, ACTIVITIES.index(activity)
    name = activity.replace(" ", "")
    outer = {}
    for sensor in ("acc", "gyr"):
        parts = {}
        for session, duration in enumerate(seconds, start=1):
            part = "" if session == 1 and sensor == "gyr" else f"_{session}"
            parts[f"{sensor}_{name}{part}_csv.zip"] = sensor_zip(
                sensor, (*key, session), seconds=duration, start=EPOCH + 100 * session
            )
        outer[f"proband{subject}/data/{sensor}_{name}_csv.zip"] = packed(parts)
    return outer


def held_back(times):
    """Samples of 1.5 s are delivered 3 ms apart when they are over: late, none lost."""
    late = (times > EPOCH + 5) & (times < EPOCH + 6.5)
    return np.maximum.accumulate(
        np.where(late, EPOCH + 6.5 + 0.003 * np.cumsum(late), times)
    )  # fmt: skip


def without(*positions):
    return [position for position in POSITIONS if position not in positions]


IN_PARTS = {  # subject and activity: seconds of each session
    (4, "climbing up"): (12.0, 8.0, 16.0),
    (4, "climbing down"): (8.0, 8.0, 8.0),
    (7, "climbing down"): (16.0, 12.0, 12.0),
    (14, "climbing up"): (12.0, 12.0, 8.0),
}
MARKED = ((4, "walking"), (13, "walking"), (6, "sitting"), (7, "sitting"), (8, "standing"))
LOST, ALL_LOST = np.r_[0:1200, 1400:2000], np.r_[0:800, 1000:2000]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    files = {"readme.txt": b"RealWorld2016"}
    files |= {"proband1/images/front.jpg": b"jpg", "proband1/videos/walking.mp4": b"mp4"}
    files |= {f"proband1/data/{s}_walking_csv.zip": b"?" for s in ("gps", "lig", "mic")}
    files |= {f"proband1/data/{s}_walking_sqlite.zip": b"?" for s in ("acc", "gyr", "mag")}
    files |= plain(1, "walking", sensors=("acc", "gyr", "mag"), deliver=held_back)
    files |= plain(1, "sitting", changes={"shin": {"clipped": 60}})
    files |= plain(2, "climbing up", where="", positions=without("forearm"))
    few = {"where": "", "seconds": 40, "positions": ["chest", "shin"]}
    files |= plain(2, "running", changes={"shin": {"keep": LOST}}, **few)
    files |= plain(2, "standing", keep=ALL_LOST, **few)
    late = {"shin": {"seconds": 9.0, "start": EPOCH + 2.013}}
    files |= plain(3, "sitting", sensors=("acc",), positions=["chest", "shin"], changes=late)
    files |= plain(3, "sitting", sensors=("gyr",), positions=["chest", "shin"], start=EPOCH + 0.5)
    for key, seconds in IN_PARTS.items():
        files |= nested(*key, seconds)
    for key in MARKED:
        files |= plain(*key, session=2)
    files |= plain(6, "jumping", positions=without("thigh"))
    bad = plain(5, "lying") | plain(5, "running")
    name = "proband5/data/acc_lying_csv.zip"
    with zipfile.ZipFile(io.BytesIO(bad[name])) as inner:
        members = {n: inner.read(n) for n in inner.namelist()}
    members["../acc_lying_head.csv"] = members.pop("acc_lying_head.csv")
    members["acc_lying_thigh.csv"] = b"0" * 3 * 2**20
    bad[name] = packed(members)
    bad["proband5/data/acc_running_csv.zip"] = bad["proband5/data/acc_running_csv.zip"][:900]
    files |= bad
    files["proband9/../../proband1/data/acc_lying_csv.zip"] = b"PK"
    path = tmp_path_factory.mktemp("archive") / "realworld2016_dataset.zip"
    path.write_bytes(packed(files))
    return path


def expected():
    """Windows of 40 frames, half overlapping, after a second was cut from either end.

    12 s of samples leave 200 frames and so 9 windows, 8 s 5, 16 s 13, 40 s 37.
    """
    counts = {}

    def add(subject, activity, session, number, positions=POSITIONS):
        counts.update({(subject, activity, session, p): number for p in positions})

    add(1, "walking", 1, 9)
    add(1, "sitting", 1, 9)
    add(2, "climbing up", 1, 9, without("forearm"))
    add(2, "running", 1, 37, ["chest"])
    # Without the frames from 23.95 to 28 s: 460 frames hold 22 windows, 220 hold 10.
    add(2, "running", 1, 32, ["shin"])
    # Two parts, of 300 and 380 frames, each cut into windows from its own start.
    add(2, "standing", 1, 14 + 18, ["chest", "shin"])
    # Both sensors have frames 10 to 199 of the chest, 41 to 179 of the shin.
    add(3, "sitting", 1, 8, ["chest"])
    add(3, "sitting", 1, 5, ["shin"])
    number = {8.0: 5, 12.0: 9, 16.0: 13}
    for key, parts in IN_PARTS.items():
        for session, seconds in enumerate(parts, start=1):
            add(*key, session, number[seconds])
    for key in MARKED:
        add(*key, 2, 9)
    add(6, "jumping", 1, 9, without("thigh"))
    add(5, "lying", 1, 9, without("head", "thigh"))
    return counts


@pytest.fixture(scope="module")
def read(archive):
    return read_realworld(archive, trim=(1.0, 1.0), progress=False)


def counted(clips):
    counts = Counter()
    for position in POSITIONS:
        x, table = windows(clips, sites=[position])
        for window, row in zip(x, table.itertuples(), strict=True):
            key = row.subject, row.activity, row.session, position
            counts[key] += 1
            x_acc, y_acc = signature(row.subject, ACTIVITIES.index(row.activity), row.session,
                                     position)  # fmt: skip
            np.testing.assert_allclose(window[:, :2], [[x_acc, y_acc]] * 40, atol=1e-4)
            np.testing.assert_allclose(window[:, 3:5], [[-x_acc, -y_acc]] * 40, atol=1e-4)
    return dict(counts)


def test_every_stream_gives_exactly_its_windows(read):
    assert counted(read[0]) == expected()


def test_an_unpacked_archive_gives_the_same(archive, read, tmp_path):
    with zipfile.ZipFile(archive) as outer:
        names = [n for n in outer.namelist() if ".." not in n]
        outer.extractall(tmp_path / "some folder", names)
    clips, _ = read_realworld(tmp_path, subjects=[2, 7], trim=(1.0, 1.0), progress=False)
    same = read[0].select(read[0].table["subject"].isin([2, 7]))
    assert len(clips) == 8 and clips.table.equals(same.table)
    for name in ("acc", "gyro"):
        np.testing.assert_array_equal(clips.arrays[name], same.arrays[name])


def test_what_happened_to_the_streams_stands_in_the_table(read):
    rows = read[0].table.set_index(["subject", "activity", "session", "part"])
    assert rows.loc[(1, "walking", 1, 0), "late"] == 14 and rows["late"].sum() == 14
    assert rows.loc[(1, "sitting", 1, 0), "clipped"] == pytest.approx(0.1)
    assert rows["clipped"].gt(0).sum() == 1
    assert rows.loc[(2, "running", 1, 0), "lost"] == pytest.approx(2 * 4.0, abs=0.01)
    assert rows.loc[(2, "standing", 1), "lost"].tolist() == pytest.approx([4 * 4.0] * 2, abs=0.04)
    assert rows.loc[(2, "standing", 1), "start"].tolist() == [EPOCH + 1, EPOCH + 20]
    assert rows.loc[(2, "standing", 1), "frames"].tolist() == [300, 380]
    assert rows.loc[(2, "climbing up", 1, 0), "positions"] == 6
    starts = rows.loc[4].loc["climbing up", "start"]
    assert starts.tolist() == [EPOCH + 100 * session + 1 for session in (1, 2, 3)]
    assert rows["bridged"].sum() == 0


def test_everything_that_was_left_out_is_told_and_nothing_else(read):
    known = "the archive has none"
    told = {s.name: s.reason for s in read[1] if s.reason != known}
    assert sum(s.reason == known for s in read[1]) == 10 * 8 - 18
    broken = {
        "proband9/../../proband1/data/acc_lying_csv.zip": "outside",
        "proband5/data/acc_lying_csv.zip/../acc_lying_head.csv": "outside",
        "proband5/data/acc_lying_csv.zip/acc_lying_thigh.csv": "zip bomb",
        "proband5/data/acc_running_csv.zip": "damaged",
    }
    for name, part in broken.items():
        assert part in told.pop(name), name
    lacking = {
        "proband2 climbing up session 1 forearm": "no usable acc and no gyro",
        "proband6 jumping session 1 thigh": "no usable acc and no gyro",
        "proband5 lying session 1 head": "no usable acc",
        "proband5 lying session 1 thigh": "no usable acc",
        **{f"proband5 running session 1 {p}": "no usable acc" for p in POSITIONS},
        **{
            f"{name} session 1 {p}": "no usable acc and no gyro"
            for p in without("chest", "shin")
            for name in ("proband2 running", "proband2 standing", "proband3 sitting")
        },
    }
    assert told == lacking


def test_a_truncated_archive_is_an_error_that_says_what_to_do(archive, tmp_path):
    cut = tmp_path / "realworld2016_dataset.zip"
    cut.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(InputError, match="no whole zip archive") as error:
        read_realworld(cut, progress=False)
    assert error.value.remedy == "Get it again." and str(cut) in str(error.value)


def test_an_archive_is_read_in_much_less_memory_than_it_takes(tmp_path):
    stream = csv((1.0, 2.0), seconds=40.0)
    files = {"proband1/videos/all.mp4": bytes(24 * 2**20)}
    for name in ("walking", "sitting", "lying"):
        for sensor in ("acc", "gyr"):
            members = {f"{PREFIX[sensor]}_{name}_{p}.csv": stream for p in POSITIONS}
            content = packed(members, zipfile.ZIP_STORED)
            for subject in (1, 2):
                files[f"proband{subject}/data/{sensor}_{name}_csv.zip"] = content
    path = tmp_path / "realworld2016_dataset.zip"
    path.write_bytes(packed(files, zipfile.ZIP_STORED))
    member = len(content)
    del files, members, content

    def peak(**chosen):
        gc.collect()
        tracemalloc.start()
        clips, _ = read_realworld(path, progress=False, **chosen)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used, len(clips), sum(array.nbytes for array in clips.arrays.values())

    read_realworld(path, subjects=[1], activities=["lying"], progress=False)
    one, count, _ = peak(subjects=[1], activities=["lying"])
    assert count == 1 and one < 15 * member
    everything, count, result = peak()
    assert count == 6
    # Only what was read stays: its parts, at the end beside the whole that they are joined to.
    assert everything < one + 2 * result + member
