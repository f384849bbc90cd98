import io
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest

from t2imu_utils.activities import ACTIVITIES, POSITIONS
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.imu.realworld import census, expected_census, read_realworld
from t2imu_utils.imu.streams import uniform_pieces

EPOCH = 1_435_993_000.0
PERIOD = 0.02
PREFIX = {"acc": "acc", "gyr": "Gyroscope", "mag": "MagneticField"}
TRIM = {"trim": (1.0, 1.0), "progress": False}


def signal(times, sensor, position):
    """What a sensor measures at Unix times: its own offset and a slow wave."""
    offset = POSITIONS.index(position) + (0 if sensor == "acc" else 100)
    wave = np.sin(2 * np.pi * 0.5 * (times - EPOCH))
    return np.stack([offset + wave, offset - wave, np.full(len(times), offset)], 1)


def stream(sensor, position, seconds=12.0, start=EPOCH, keep=slice(None), stamps=None):
    """A CSV file as the archive has it: no newline at its end."""
    times = start + PERIOD * np.arange(round(seconds / PERIOD))
    written = np.round((times if stamps is None else stamps(times)) * 1000).astype(np.int64)
    rows = np.arange(len(times))[keep]
    values = signal(times, sensor, position)
    lines = [f"{n + 1},{written[i]},{x:.7g},{y:.7g},{z:.7g}" for n, (i, (x, y, z)) in
             enumerate(zip(rows, values[rows], strict=True))]  # fmt: skip
    return "\n".join(["id,attr_time,attr_x,attr_y,attr_z", *lines]).encode()


def packed(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def sensor_zip(sensor, activity, positions=("chest", "shin"), mark="", start=EPOCH, **options):
    name = f"{PREFIX[sensor]}_{activity}{mark}_"
    members = {f"{name}{p}.csv": stream(sensor, p, start=start, **options) for p in positions}
    return packed({"readMe": b"entries: 600", **members})


def activity_zips(activity, where="data/", mark="", **options):
    return {
        f"{where}{s}_{activity}_csv.zip": sensor_zip(s, activity, mark=mark, **options)
        for s in ("acc", "gyr")
    }


def archive(tmp_path, probands, name="realworld2016_dataset.zip"):
    members = {"proband1/images/front.jpg": b"jpg", "proband1/data/acc_walking_sqlite.zip": b"PK"}
    for number, files in probands.items():
        members |= {f"proband{number}/{file}": content for file, content in files.items()}
    path = tmp_path / name
    path.write_bytes(packed(members))
    return path


def check_signal(clips, index=0, sensors=("acc", "gyro"), positions=("chest", "shin")):
    row, arrays = clips.table.iloc[index], clips[index]
    times = row.start + np.arange(row.frames) / 20
    for sensor in sensors:
        for position in positions:
            got = arrays[sensor][:, POSITIONS.index(position)]
            expected = signal(times, "acc" if sensor == "acc" else "gyr", position)
            np.testing.assert_allclose(got, expected, atol=5e-3)


def lacking(skipped):
    """Messages other than those on positions and activities that the fixture leaves out."""
    known = ("no usable acc and no gyro", "the archive has none")
    return [s for s in skipped if s.reason not in known]


def test_an_outer_zip_a_folder_with_it_and_an_unpacked_tree_read_the_same(tmp_path):
    path = archive(tmp_path, {1: activity_zips("walking"), 12: activity_zips("lying", where="")})
    loose = tmp_path / "loose"
    with zipfile.ZipFile(path) as outer:
        outer.extractall(loose / "realworld2016")
    inner = loose / "realworld2016/proband1/data"
    for name in ("acc_walking_csv.zip", "gyr_walking_csv.zip"):
        with zipfile.ZipFile(inner / name) as part:
            part.extractall(inner / name.removesuffix(".zip"))
        (inner / name).unlink()
    holder = tmp_path / "holder"
    holder.mkdir()
    shutil.copy(path, holder)
    first, skipped = read_realworld(path, **TRIM)
    assert first.table[["subject", "activity", "session", "part"]].to_numpy().tolist() == [
        [1, "walking", 1, 0],
        [12, "lying", 1, 0],
    ]
    assert first.meta["rate"] == 20.0 and first.meta["sites"] == list(POSITIONS)
    assert first.arrays["acc"].shape == (sum(first.table.frames), 7, 3)
    assert first.arrays["acc"].dtype == first.arrays["gyro"].dtype == np.float32
    # 12 s of samples end at 11.98; a second is cut at either end; frames at multiples of 50 ms.
    assert first.table.start[0] == EPOCH + 1 and first.table.frames[0] == 200
    check_signal(first, 0)
    check_signal(first, 1)
    absent = [POSITIONS.index(p) for p in POSITIONS if p not in ("chest", "shin")]
    assert np.isnan(first.arrays["acc"][:, absent]).all()
    assert sum("no usable acc and no gyro" in s.reason for s in skipped) == 10
    assert sum("the archive has none" in s.reason for s in skipped) == 14
    assert not lacking(skipped)
    for root in (loose, holder, loose / "realworld2016"):
        again, _ = read_realworld(root, **TRIM)
        assert again.table.equals(first.table)
        np.testing.assert_array_equal(again.arrays["acc"], first.arrays["acc"])
    only, _ = read_realworld(loose / "realworld2016" / "proband1", **TRIM)
    assert only.table.subject.tolist() == [1]


def test_three_nested_sessions_are_kept_apart_and_paired(tmp_path):
    inner = {"acc": {}, "gyr": {}}
    for session in (1, 2, 3):
        mark = "" if session == 1 else f"_{session}"
        for sensor in inner:
            # The first gyroscope part has no number in its name, the first acceleration part has.
            part = "" if session == 1 and sensor == "gyr" else f"_{session}"
            inner[sensor][f"{sensor}_climbingup{part}_csv.zip"] = sensor_zip(
                sensor, "climbingup", mark=mark, start=EPOCH + 100 * session
            )
    files = {f"data/{s}_climbingup_csv.zip": packed(members) for s, members in inner.items()}
    clips, skipped = read_realworld(archive(tmp_path, {4: files}), **TRIM)
    assert clips.table.session.tolist() == [1, 2, 3]
    assert clips.table.start.tolist() == [EPOCH + 100 * s + 1 for s in (1, 2, 3)]
    assert set(clips.table.activity) == {"climbing up"}
    for index in range(3):
        check_signal(clips, index)
    assert not lacking(skipped)


def test_a_number_in_the_names_of_a_plain_zip_is_that_session(tmp_path):
    files = activity_zips("walking", mark="_2")
    clips, _ = read_realworld(archive(tmp_path, {13: files}), **TRIM)
    assert clips.table.session.tolist() == [2] and len(clips) == 1
    check_signal(clips)


def test_a_missing_stream_costs_that_stream_only_and_is_told(tmp_path):
    files = activity_zips("jumping", positions=("chest", "shin", "thigh"))
    files["data/gyr_jumping_csv.zip"] = sensor_zip("gyr", "jumping", positions=("chest", "shin"))
    clips, skipped = read_realworld(archive(tmp_path, {6: files}), **TRIM)
    check_signal(clips)
    thigh = POSITIONS.index("thigh")
    assert np.isfinite(clips.arrays["acc"][:, thigh]).all()
    assert np.isnan(clips.arrays["gyro"][:, thigh]).all()
    assert [(s.name, s.reason) for s in lacking(skipped)] == [
        ("proband6 jumping session 1 thigh", "no usable gyro")
    ]


def test_unequal_starts_and_counts_share_one_absolute_grid(tmp_path):
    late = sensor_zip("acc", "sitting", positions=("chest",))
    members = {"acc_sitting_shin.csv": stream("acc", "shin", seconds=9.0, start=EPOCH + 2.013)}
    with zipfile.ZipFile(io.BytesIO(late)) as one:
        members["acc_sitting_chest.csv"] = one.read("acc_sitting_chest.csv")
    files = {
        "data/acc_sitting_csv.zip": packed(members),
        "data/gyr_sitting_csv.zip": sensor_zip("gyr", "sitting", start=EPOCH + 0.5),
    }
    clips, _ = read_realworld(archive(tmp_path, {3: files}), **TRIM)
    assert len(clips) == 1 and clips.table.start[0] == EPOCH + 1
    acc, gyro = clips[0]["acc"], clips[0]["gyro"]
    shin, chest = POSITIONS.index("shin"), POSITIONS.index("chest")
    times = clips.table.start[0] + np.arange(clips.table.frames[0]) / 20
    seen = np.isfinite(acc[:, shin, 0])
    assert times[seen][0] == pytest.approx(EPOCH + 3.05) and np.all(
        np.diff(np.flatnonzero(seen)) == 1
    )
    expected = signal(times[seen], "acc", "shin")
    np.testing.assert_allclose(acc[seen, shin], expected, atol=5e-3)
    assert np.isnan(gyro[:10, chest]).all() and np.isfinite(gyro[10, chest]).all()


def test_late_delivery_does_not_stretch_and_a_real_gap_is_not_filled(tmp_path):
    def burst(times):
        held = (times > EPOCH + 8) & (times < EPOCH + 9.5)
        return np.where(held, EPOCH + 9.5 + 0.003 * np.cumsum(held), times)

    def in_order(times):
        return np.maximum.accumulate(burst(times))

    kept = np.r_[0:1200, 1400:2000]
    members = {
        "acc_running_chest.csv": stream("acc", "chest", seconds=40, stamps=in_order),
        "acc_running_shin.csv": stream("acc", "shin", seconds=40, keep=kept),
    }
    files = {"data/acc_running_csv.zip": packed(members)}
    clips, skipped = read_realworld(archive(tmp_path, {2: files}), **TRIM)
    assert len(clips) == 1 and clips.table.late[0] == 1
    assert clips.table.lost[0] == pytest.approx(4.0, abs=0.05)
    check_signal(clips, sensors=("acc",), positions=("chest",))
    shin = clips[0]["acc"][:, POSITIONS.index("shin")]
    times = clips.table.start[0] + np.arange(clips.table.frames[0]) / 20
    gap = np.isnan(shin[:, 0])
    assert 78 <= gap.sum() <= 82 and abs(times[gap][0] - (EPOCH + 24)) < 0.1
    np.testing.assert_allclose(shin[~gap], signal(times[~gap], "acc", "shin"), atol=5e-3)
    assert {s.reason for s in lacking(skipped)} == {"no usable gyro"}


def test_a_gap_of_all_positions_cuts_the_session_in_parts(tmp_path):
    kept = np.r_[0:800, 1000:2000]
    files = activity_zips("standing", seconds=40, keep=kept)
    clips, _ = read_realworld(archive(tmp_path, {2: files}), **TRIM)
    assert clips.table.part.tolist() == [0, 1] and set(clips.table.session) == {1}
    assert clips.table.start[1] == pytest.approx(EPOCH + 20.0, abs=0.051)
    for index in (0, 1):
        check_signal(clips, index)


def test_clipping_is_noted(tmp_path):
    content = stream("acc", "shin").decode().split("\n")
    for row in range(1, 61):
        content[row] = ",".join([*content[row].split(",")[:3], "-19.61", "0"])
    files = {"data/acc_walking_csv.zip": packed({"acc_walking_shin.csv": "\n".join(content)})}
    clips, _ = read_realworld(archive(tmp_path, {1: files}), **TRIM)
    assert clips.table.clipped[0] == pytest.approx(0.1)


def test_frames_are_trimmed_six_and_seven_seconds_by_default(tmp_path):
    files = activity_zips("walking", seconds=20)
    clips, _ = read_realworld(archive(tmp_path, {1: files}), progress=False)
    assert clips.table.start[0] == EPOCH + 6 and clips.table.frames[0] == 140


def test_whatever_cannot_be_used_is_told_and_the_rest_is_read(tmp_path):
    good = activity_zips("walking")
    members = {
        "acc_walking_chest.csv": stream("acc", "chest"),
        "acc_walking_shin.csv": stream("acc", "shin") + b"\n601,14359930",
        "acc_walking_head.csv": stream("acc", "head").replace(b"attr_y", b"attr_x"),
        "acc_walking_waist.csv": b"id,attr_time,attr_x,attr_y,attr_z\n" + b"1,1.2.3,x,y,z\n" * 200,
        "acc_walking_thigh.csv": stream("acc", "thigh", seconds=1),
        "acc_walking_tail.csv": stream("acc", "head"),
        "acc_running_chest.csv": stream("acc", "chest"),
        "MagneticField_walking_chest.csv": b"",
        "notes.txt": b"hello",
        "../acc_walking_forearm.csv": stream("acc", "forearm"),
        "acc_walking_upperarm.csv": b"0" * 3 * 2**20,
    }
    good["data/acc_walking_csv.zip"] = packed(members)
    good["data/acc_lying_csv.zip"] = sensor_zip("acc", "lying")[:500]
    good["data/acc_flying_csv.zip"] = b"?"
    clips, skipped = read_realworld(archive(tmp_path, {1: good}), **TRIM)
    check_signal(clips)
    reasons = {s.name.split("/")[-1]: s.reason for s in lacking(skipped)}
    expected = {
        "acc_walking_shin.csv: lines": "1 of its 601 lines are unreadable",
        "acc_walking_head.csv": "no column attr_y",
        "acc_walking_waist.csv": "200 of its 200 lines",
        "acc_walking_thigh.csv": "only 50 samples",
        "acc_walking_tail.csv": "unknown position tail",
        "acc_running_chest.csv": "activity running in an archive of walking",
        "MagneticField_walking_chest.csv": "not an acceleration or gyroscope stream",
        "notes.txt": "not an acceleration or gyroscope stream",
        "acc_walking_forearm.csv": "outside",
        "acc_walking_upperarm.csv": "bomb",
        "acc_lying_csv.zip": "damaged",
        "acc_flying_csv.zip": "unknown activity flying",
    }
    assert set(reasons) == set(expected)
    for name, part in expected.items():
        assert part in reasons[name], name


def test_the_same_stream_twice_and_lines_twice_are_told(tmp_path):
    files = activity_zips("walking")
    content = stream("acc", "chest").split(b"\n")
    files["data/extra/acc_walking_chest.csv"] = b"\n".join([*content[:50], *content[49:]])
    files["data/extra/acc_lying_chest.csv"] = b"\n".join([*content[:50], *content[49:]])
    clips, skipped = read_realworld(archive(tmp_path, {1: files}), **TRIM)
    reasons = [s.reason for s in lacking(skipped)]
    assert "the same stream was read from another file" in reasons
    assert "1 lines stand twice" in reasons


def test_a_clock_of_another_day_is_told_and_left_out(tmp_path):
    members = {f"acc_walking_{p}.csv": stream("acc", p) for p in ("chest", "shin", "head")}
    members["acc_walking_waist.csv"] = stream("acc", "waist", start=EPOCH + 86400)
    files = {"data/acc_walking_csv.zip": packed(members)}
    clips, skipped = read_realworld(archive(tmp_path, {1: files}), **TRIM)
    assert clips.table.frames.tolist() == [200] and clips.table.positions.tolist() == [3]
    assert any("another time" in s.reason and "waist" in s.name for s in skipped)


def test_subjects_and_activities_can_be_chosen(tmp_path):
    path = archive(tmp_path, {n: activity_zips("walking") | activity_zips("lying") for n in (1, 2)})
    clips, _ = read_realworld(path, subjects=[2], activities=["lying"], **TRIM)
    assert clips.table[["subject", "activity"]].to_numpy().tolist() == [[2, "lying"]]
    with pytest.raises(InputError, match="subject 9"):
        read_realworld(path, subjects=[9], **TRIM)
    with pytest.raises(InputError, match="swimming"):
        read_realworld(path, activities=["swimming"], **TRIM)


def test_a_root_without_realworld_is_an_input_error(tmp_path):
    (tmp_path / "some.txt").write_text("x")
    with pytest.raises(InputError, match="proband"):
        read_realworld(tmp_path, **TRIM)
    with pytest.raises(InputError, match="nothing"):
        read_realworld(tmp_path / "gone", **TRIM)
    broken = archive(tmp_path, {1: {"data/acc_walking_csv.zip": b"PK broken"}})
    with pytest.raises(InputError, match="no usable stream"):
        read_realworld(broken, **TRIM)


def test_the_genuine_stream_is_whole_and_unstretched(real_data):
    clips, skipped = read_realworld(real_data / "realworld", progress=False)
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


def raw(real_data, name):
    table = pd.read_csv(real_data / "realworld" / "proband1" / f"{name}_walking_shin.csv")
    return table["attr_time"].to_numpy() / 1000, table.filter(regex="attr_[xyz]").to_numpy()


@pytest.mark.parametrize("name", ["acc", "Gyroscope"])
def test_the_genuine_stamps_lie_on_the_fitted_line(real_data, name):
    times, values = raw(real_data, name)
    pieces, timing = uniform_pieces(times, values)
    assert len(pieces) == 1 and timing.lost == 0 and timing.rate == pytest.approx(49.952, abs=5e-4)
    # Every sample stands in the piece, in order, with the few that were lost between two of them.
    piece = pieces[0]
    assert len(piece.values) == len(times) + timing.bridged and timing.bridged <= 2
    first = np.flatnonzero((piece.values[: len(values)] != values).any(1))[0]
    np.testing.assert_array_equal(piece.values[first + timing.bridged :], values[first:])
    number = np.arange(len(times)) + timing.bridged * (np.arange(len(times)) >= first)
    error = times - (piece.start + piece.period * number)
    on_time = np.abs(error) < piece.period
    assert on_time.mean() > 0.92 and np.sqrt((error[on_time] ** 2).mean()) < 0.005
    # No drift and no step: the line fits the first minute as it fits the last.
    minutes = [np.median(part) for part in np.array_split(error, 11)]
    assert np.abs(minutes).max() < 0.002 and error.min() > -0.006


def cadence(times, signal):
    """Strongest frequency of strides, from a Fourier sum at the times given."""
    tried = np.arange(0.7, 1.1, 0.002)
    signal = (signal - signal.mean()) * np.hanning(len(signal))
    waves = np.exp(-2j * np.pi * np.outer(tried, times - times[0]))
    return tried[np.argmax(np.abs(waves @ signal))]


def test_the_genuine_cadence_is_the_same_after_as_before(real_data):
    times, values = raw(real_data, "Gyroscope")
    clips, _ = read_realworld(real_data / "realworld", progress=False)
    gyro = clips[0]["gyro"][:, POSITIONS.index("shin")]
    frames = clips.table.start[0] + np.arange(len(gyro)) / 20
    late = np.flatnonzero(np.diff(times) > 0.3)
    assert len(late) == 13
    # Between late deliveries the raw stamps can be trusted: the same seconds, before and after.
    spans = [s for s in zip(late[:-1] + 150, late[1:] - 10, strict=True) if s[1] - s[0] > 500]
    assert len(spans) >= 4
    for low, high in spans:
        inside = (frames >= times[low]) & (frames <= times[high])
        before = cadence(times[low:high], values[low:high, 2])
        after = cadence(frames[inside], gyro[inside, 2])
        assert after == pytest.approx(before, rel=0.01)
    # The whole, counted in samples of the recorder, which knows no lateness.
    count = np.arange(len(values)) * 0.02002
    whole = slice(400, len(values) - 400)
    assert cadence(frames, gyro[:, 2]) == pytest.approx(
        cadence(count[whole], values[whole, 2]), rel=0.01
    )


def recordings(subjects=15, jumping=1.7, leave_out=()):
    """Clips as read: two positions missing for subject 2 climbing up, three sessions of 4."""
    rows, acc = [], []
    for subject in range(1, subjects + 1):
        for activity in ACTIVITIES:
            if (subject, activity) in leave_out:
                continue
            sessions = 3 if (subject, activity) == (4, "climbing up") else 1
            minutes = jumping if activity == "jumping" else 10
            for session in range(1, sessions + 1):
                frames = np.zeros((round(minutes * 60 / sessions), 7, 3), np.float32)
                if (subject, activity) == (2, "climbing up"):
                    frames[:, [2, 3], 1] = np.nan
                acc.append(frames)
                rows.append({"subject": subject, "activity": activity, "session": session})
    return Clips.from_list(rows, {"acc": acc}, {"rate": 1.0, "sites": list(POSITIONS)})


def test_census_counts_minutes_positions_and_sessions_of_each_subject():
    table = census(recordings(leave_out=[(3, "lying")]))
    assert len(table) == 15 * 8
    rows = table.set_index(["subject", "activity"])
    assert rows.loc[(1, "walking")].tolist() == [10, 7, 1]
    assert rows.loc[(2, "climbing up")].tolist() == [10, 5, 1]
    assert rows.loc[(4, "climbing up"), "sessions"] == 3
    assert rows.loc[(4, "climbing up"), "minutes"] == pytest.approx(10)
    assert rows.loc[(5, "jumping"), "minutes"] == pytest.approx(1.7)
    assert rows.loc[(3, "lying")].tolist() == [0, 0, 0]


def test_a_complete_archive_agrees_with_the_description_but_for_missing_streams():
    table = expected_census(recordings())
    differing = table[table["description"] != table["here"]]
    assert differing.T.to_dict("list") == {"subject and activity, with every position": [120, 119]}


def test_what_an_archive_lacks_stands_beside_the_description():
    few = expected_census(recordings(subjects=5, jumping=1.0, leave_out=[(3, "lying")]))
    assert few.loc["subjects"].tolist() == [15, 5]
    assert few.loc["activities"].tolist() == [8, 8]
    assert few.loc["positions"].tolist() == [7, 7]
    assert few.loc["subjects with every activity"].tolist() == [15, 4]
    assert few.loc["subject and activity, with every position"].tolist() == [120, 38]
    assert few.loc["minutes of jumping for a subject"].tolist() == [1.7, 1.0]
    assert few.loc["minutes of lying for a subject"].tolist() == [10, 10]
    none = expected_census(recordings(subjects=1, leave_out=[(1, "lying")]))
    assert none.loc["minutes of lying for a subject"].tolist() == [10, 0]
