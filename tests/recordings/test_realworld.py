"""One archive that holds every anomaly that RealWorld is known for, and what spoils others."""

import io
import re
import zipfile
from collections import Counter

import numpy as np
import pytest

from t2imu_utils.activities import ACTIVITIES, POSITIONS
from t2imu_utils.clips import windows
from t2imu_utils.errors import InputError
from t2imu_utils.recordings.realworld import read_realworld
from t2imu_utils.recordings.streams import GRAVITY
from tests.recordings.test_streams import packed

EPOCH = 1_435_993_000.0
PERIOD = 0.02
PREFIX = {"acc": "acc", "gyr": "Gyroscope", "mag": "MagneticField"}
HEADER = "id,attr_time,attr_x,attr_y,attr_z"


def signature(subject, activity, session, position):
    """What a stream reads throughout: gravity (m/s^2) in a direction of its own; negated, rad/s."""
    x, y = POSITIONS.index(position) + session / 10, (subject + activity / 10) / 3
    return x, y, (GRAVITY**2 - x**2 - y**2) ** 0.5


def csv(values, seconds=12.0, start=EPOCH, keep=slice(None), deliver=None, clipped=0):
    """A stream as the archive has it: milliseconds, no newline at its end."""
    times = start + PERIOD * np.arange(round(seconds / PERIOD))
    stamps = np.round((times if deliver is None else deliver(times)) * 1000).astype(int)[keep]
    x, y, z = values
    end = f",{x:.6f},{y:.6f}"
    lines = [f"{i + 1},{t}{end},{-19.61 if i < clipped else z}" for i, t in enumerate(stamps)]
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
    members["acc_lying_thigh.csv"] = bytes(300)
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
    return read_realworld(archive, trim=(1.0, 1.0))


def counted(clips):
    counts = Counter()
    for position in POSITIONS:
        x, table = windows(clips, sites=[position])
        for window, row in zip(x, table.itertuples(), strict=True):
            key = row.subject, row.activity, row.session, position
            counts[key] += 1
            x, y, _ = signature(*key[:1], ACTIVITIES.index(row.activity), row.session, position)
            np.testing.assert_allclose(window[:, :2], [[x, y]] * 40, atol=1e-4)
            np.testing.assert_allclose(window[:, 3:5], [[-x, -y]] * 40, atol=1e-4)
    return dict(counts)


def test_every_stream_gives_exactly_its_windows(read):
    assert counted(read[0]) == expected()


def test_an_unpacked_archive_gives_the_same(archive, read, tmp_path):
    with zipfile.ZipFile(archive) as outer:
        names = [n for n in outer.namelist() if re.match("proband[27]/", n)]
        outer.extractall(tmp_path / "some folder", names)
    clips, _ = read_realworld(tmp_path, trim=(1.0, 1.0))
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
        "proband5/data/acc_lying_csv.zip/acc_lying_thigh.csv": "not plain text",
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


TRIM = {"trim": (1.0, 1.0)}
UPRIGHT = (0.5, 9.7, 1.2)


def walking(root, members, subject=1, other=True):
    """An unpacked tree with loose files of walking, and another subject who is fine."""
    files = {f"proband{subject}/data/acc_walking_csv/{n}": c for n, c in members.items()}
    files |= {"proband9/data/acc_lying_chest.csv": csv(UPRIGHT)} if other else {}
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def lines_of(content):
    header, *lines = content.decode().split("\n")
    return header, [line.split(",") for line in lines]


def joined(header, lines, sep=","):
    return "\n".join([header, *(sep.join(line) for line in lines)]).encode()


def in_g(content):
    header, lines = lines_of(content)
    return joined(header, [r[:2] + [str(float(v) / GRAVITY) for v in r[2:]] for r in lines])


def boot_clock(content):
    """The first half counts milliseconds from the phone's start, the rest in Unix time."""
    header, lines = lines_of(content)
    lines = [[r[0], str(20 * i) if i < 300 else r[1], *r[2:]] for i, r in enumerate(lines)]
    return joined(header, lines)


def in_seconds(content):
    header, lines = lines_of(content)
    return joined(header, [[row[0], str(int(row[1]) * 1e-3), *row[2:]] for row in lines])


def decimal_commas(content):
    header, lines = lines_of(content)
    return joined(header, [[v.replace(".", ",") for v in row] for row in lines])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (boot_clock, "its clock runs from 1.000 to 143599301"),
        (in_seconds, "samples a second"),
        (decimal_commas, "more fields than its header"),
        (lambda c: c.decode().encode("utf-16"), "UTF-16"),
        (lambda c: c.replace(b"attr_y", b"attr_x"), "no column attr_y"),
    ],
)
def test_a_recording_that_is_spoilt_is_listed_and_the_rest_is_read(tmp_path, spoil, reason):
    content = spoil(csv(UPRIGHT))
    clips, skipped = read_realworld(walking(tmp_path, {"acc_walking_shin.csv": content}), **TRIM)
    assert clips.table[["subject", "activity"]].to_numpy().tolist() == [[9, "lying"]]
    about = [s for s in skipped if s.name.startswith("proband1")]
    assert reason in about[0].reason and "walking" in about[0].name
    # What was wrong comes before what follows from it.
    assert about[-1].reason.startswith(("no usable", "the archive has none"))
    alone = walking(tmp_path / "alone", {"acc_walking_shin.csv": content}, other=False)
    with pytest.raises(InputError) as error:
        read_realworld(alone, **TRIM)
    assert reason in str(error.value).split(";")[0]


@pytest.mark.parametrize(("sensor", "unit"), [("acc", "g"), ("Gyroscope", "deg/s")])
def test_another_unit_is_an_error_that_names_it_and_the_file(tmp_path, sensor, unit):
    content = in_g(csv(UPRIGHT)) if unit == "g" else csv((90.0, 20.0, 5.0))
    root = walking(tmp_path, {f"{sensor}_walking_shin.csv": content})
    with pytest.raises(InputError, match=rf"proband1.*_walking_shin.csv.*likely in {unit}\."):
        read_realworld(root, **TRIM)


def test_a_byte_order_mark_and_single_bad_or_repeated_lines_do_not_matter(tmp_path):
    header, lines = lines_of(csv(UPRIGHT))
    lines[200], lines[300] = ["201", "1435993"], lines[299]
    lines[400][2] = "1e300"
    content = b"\xef\xbb\xbf" + joined(header, lines)
    clips, skipped = read_realworld(walking(tmp_path, {"acc_walking_shin.csv": content}), **TRIM)
    np.testing.assert_allclose(
        clips[0]["acc"][:, POSITIONS.index("shin")], [UPRIGHT] * 200, rtol=1e-5
    )
    told = next(s.reason for s in skipped if s.name.endswith("lines"))
    assert told.startswith("1 of its 600 lines") and told.endswith("1 lines stand twice")
    assert "1 readings that no sensor gives" in told


def test_the_genuine_stream_is_whole_and_unstretched(real_data):
    clips, skipped = read_realworld(real_data / "realworld")
    assert clips.table[["subject", "activity", "positions"]].to_numpy().tolist() == [
        [1, "walking", 1]
    ]
    shin = POSITIONS.index("shin")
    acc, gyro = clips[0]["acc"][:, shin], clips[0]["gyro"][:, shin]
    # 639.57 s between the first and the last stamp, less 6 and 7 s, at 20 Hz.
    assert abs(clips.table.frames[0] - 626.57 * 20) <= 2
    assert np.isfinite(acc).all() and np.isfinite(gyro).all()
    assert clips.table.late[0] >= 24 and clips.table.lost[0] == 0
    assert 0.01 < clips.table.clipped[0] < 0.03
    # Steps keep their rhythm through the late gaps; on raw stamps the burst squeezes them.
    assert 9 < np.abs(acc[:, 1]).mean() < 12
    rhythm = [np.abs(np.fft.rfft(part - part.mean())) for part in np.split(gyro[:12500, 2], 50)]
    peaks = np.array([np.argmax(spectrum[8:15]) + 8 for spectrum in rhythm]) / 12.5
    assert np.std(peaks) < 0.06 and 0.75 < np.mean(peaks) < 0.95
