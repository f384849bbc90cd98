import io
import zipfile

import numpy as np
import pytest

from t2imu_utils.activities import CATEGORIES, category_of
from t2imu_utils.errors import InputError
from t2imu_utils.imu.mhealth import read_mhealth
from t2imu_utils.imu.windows import windows

# First column of each sensor, and where it was worn.
ACC = {"chest": 0, "forearm": 14, "shin_other": 5}
GYRO = {"forearm": 17, "shin_other": 8}
GRAVITY = {"chest": (-9.8, 0.1, 0.3), "forearm": (-3.0, -9.3, 0.5), "shin_other": (2.2, -9.5, 0.6)}
RATE = 50


def acc(times, site):
    steps = np.stack([np.sin(2 * np.pi * 1.8 * times), 0 * times, 0 * times], 1)
    return np.array(GRAVITY[site]) + (1 + list(ACC).index(site)) * steps


def gyro(times, site):
    """deg/s, as in the files."""
    turn = 100 * np.cos(2 * np.pi * 0.9 * times)
    return (1 + list(ACC).index(site)) * np.stack([0 * times, turn, -0.5 * turn], 1)


def table(labels, hum=0.0):
    """All 24 columns at 50 Hz; `labels` are pairs of a code and its seconds.

    The hum is a tone of 15 Hz on all axes, which 20 frames a second would fold to 5 Hz.
    """
    codes = np.concatenate([np.full(round(s * RATE), code) for code, s in labels])
    times = np.arange(len(codes)) / RATE
    rows = np.zeros((len(codes), 24))
    rows[:, 3:5] = 0.0041863  # ECG, mV
    rows[:, 11:14], rows[:, 20:23] = (-0.37, -0.36, 0.3), (-2.35, -1.6, -0.03)  # magnetometers
    for site, at in ACC.items():
        tone = hum * np.sin(2 * np.pi * 15 * times)[:, None]
        rows[:, at : at + 3] = acc(times, site) + tone
    for site, at in GYRO.items():
        rows[:, at : at + 3] = gyro(times, site)
    rows[:, 23] = codes
    return rows


def text(rows):
    lines = ("\t".join([*(f"{v:.5g}" for v in row[:-1]), f"{row[-1]:g}"]) for row in rows.tolist())
    return ("\n".join(lines) + "\n").encode()


def packed(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def one(tmp_path, content, **options):
    (tmp_path / "mHealth_subject1.log").write_bytes(content)
    return read_mhealth(tmp_path, progress=False, **options)


def check_signal(clips, index=0, rows=slice(15, -15)):
    times = (clips.table.start[index] + np.arange(clips.table.frames[index]) / 20)[rows]
    for place, site in enumerate(("chest", "forearm", "shin_other")):
        found = clips[index]["acc"][rows, place]
        np.testing.assert_allclose(found, acc(times, site), atol=0.05)
        found = clips[index]["gyro"][rows, place]
        if site == "chest":
            assert np.isnan(found).all()
        else:
            np.testing.assert_allclose(found, np.pi / 180 * gyro(times, site), atol=0.05)


def test_sensors_sites_units_and_rate_are_the_data_sets(tmp_path):
    rows = table([(0, 1), (4, 8), (0, 1)], hum=0.5)
    # Whatever lies outside the label must not reach into it.
    rows[:RATE, :23] = rows[9 * RATE :, :23] = 99
    clips, skipped = one(tmp_path, text(rows))
    assert clips.meta == {
        "rate": 20.0, "sites": ["chest", "forearm", "shin_other"], "source": "MHEALTH",
    }  # fmt: skip
    assert clips.arrays["acc"].shape == clips.arrays["gyro"].shape == (160, 3, 3)
    assert clips.arrays["acc"].dtype == clips.arrays["gyro"].dtype == np.float32
    assert clips.table.to_dict("records") == [{
        "subject": 1, "session": 1, "activity": "walking", "detail": "walking",
        "movement": "walking", "recording": "subject1 walking 1", "part": 0, "start": 1.0,
        "positions": 3, "bridged": 0, "lost": 0.0, "frames": 160,
    }]  # fmt: skip
    check_signal(clips)
    assert np.abs(clips.arrays["acc"]).max() < 20
    step = np.abs(np.fft.rfft(clips.arrays["acc"][:100, 0, 0] + 9.8))
    assert np.argmax(step) / 5 == 1.8
    assert [(s.name, s.reason) for s in skipped] == [
        ("subject1: null class", "none of this project's activities (2.0 s, 2 times)")
    ]


def test_movements_map_to_activities_and_all_others_are_told(tmp_path):
    labels = [(code, 2.5) for code in (*range(13), 13, 4)]
    clips, skipped = one(tmp_path, text(table(labels)))
    assert clips.table[["movement", "activity", "detail"]].to_numpy().tolist() == [
        ["standing still", "standing", "standing"],
        ["sitting and relaxing", "sitting", "sitting"],
        ["lying down", "lying", "lying"],
        ["walking", "walking", "walking"],
        ["climbing stairs", "stair climbing", "stair climbing"],
        ["jogging", "running", "jogging"],
        ["running", "running", "running"],
        ["jump front and back", "jumping", "jumping front and back"],
        ["walking", "walking", "walking"],
    ]
    assert {category_of(activity) for activity in clips.table.activity} <= set(CATEGORIES)
    assert clips.table.recording.tolist()[-1] == "subject1 walking 2"
    told = {s.name.removeprefix("subject1: "): s.reason for s in skipped}
    other = ("null class", "waist bends forward", "frontal elevation of arms", "knees bending",
             "cycling")  # fmt: skip
    assert told == {
        **dict.fromkeys(other, "none of this project's activities (2.5 s, 1 times)"),
        "label 13": "an unknown label (2.5 s, 1 times)",
    }


def test_the_chest_has_no_gyroscope_and_a_track_that_asks_for_it_is_told(tmp_path):
    clips, _ = one(tmp_path, text(table([(4, 6), (11, 4)])))
    assert windows(clips, channels=("acc",))[0].shape == (5 + 3, 40, 9)
    assert windows(clips, sites=["forearm", "shin_other"])[0].shape == (8, 40, 12)
    with pytest.raises(InputError, match="no value of gyro chest in any clip"):
        windows(clips)


def test_a_line_that_cannot_be_read_is_a_lost_sample_and_moves_nothing(tmp_path):
    lines = text(table([(4, 12)])).splitlines(keepends=True)
    lines[100] = lines[100].replace(b"\t", b",")
    lines[200:202] = [b"\n", b"half a line\n", b"1\t2\n"]
    clips, skipped = one(tmp_path, b"".join(lines))
    # Every sensor lost them: three accelerometers and two gyroscopes.
    assert len(clips) == 1 and clips.table.bridged.tolist() == [5 * 3]
    for rows in (slice(15, 38), slice(43, 78), slice(84, -15)):
        check_signal(clips, rows=rows)
    assert [s.reason for s in skipped] == ["3 of its 600 lines are unreadable"]


def test_values_that_are_missing_are_bridged_or_left_missing(tmp_path):
    rows = table([(4, 12)])
    rows[100, 5:8] = np.nan
    rows[300:350, 14:17] = np.nan
    clips, _ = one(tmp_path, text(rows).replace(b"nan", b"NaN"))
    assert clips.table.bridged.tolist() == [1] and clips.table.lost.tolist() == [1.0]
    assert np.isnan(clips.arrays["acc"][:, 1, 0]).sum() == 20
    assert np.isfinite(clips.arrays["gyro"][:, 1:]).all()


def test_ends_can_be_trimmed_and_the_shortest_chosen(tmp_path):
    content = text(table([(4, 8), (11, 5)]))
    clips, skipped = one(tmp_path, content, trim=(1.0, 2.0), shortest=3.0)
    assert clips.table[["start", "frames"]].to_numpy().tolist() == [[1.0, 100]]
    assert skipped[0].reason == "5.00 s, under 6"


def test_a_zip_and_a_folder_read_the_same_in_order_of_subjects(tmp_path):
    files = {
        f"MHEALTHDATASET/mHealth_subject{n}.log": text(table([(4, 2 + n)])) for n in (1, 2, 10)
    }
    files["MHEALTHDATASET/README.txt"] = b"?"
    zipped = tmp_path / "mhealth+dataset.zip"
    zipped.write_bytes(packed(files))
    loose = tmp_path / "loose"
    for name, content in files.items():
        (loose / name).parent.mkdir(parents=True, exist_ok=True)
        (loose / name).write_bytes(content)
    first, skipped = read_mhealth(zipped, progress=False)
    assert first.table.subject.tolist() == [1, 2, 10]
    assert first.table.frames.tolist() == [60, 80, 240]
    assert [s.reason for s in skipped] == ["not named like a recording of MHEALTH"]
    for root in (loose, tmp_path):
        again, told = read_mhealth(root, progress=False)
        assert again.table.equals(first.table)
        np.testing.assert_array_equal(again.arrays["gyro"], first.arrays["gyro"])
    assert sum("from another file" in s.reason for s in told) == 3


def test_files_that_cannot_be_used_are_told_and_the_rest_is_read(tmp_path):
    rows = table([(4, 3)])
    content = text(rows)
    files = {
        1: content,
        2: text(np.delete(rows, 3, axis=1)),
        3: content.decode().encode("utf-16"),
        4: content[: len(content) * 9 // 10 - 20],
        5: content.replace(b"\t", b" "),
        6: content.replace(b".", b","),
        7: b"",
        8: text(table([(0, 3)])),
        9: b"<html>not found</html>",
    }
    members = {f"MHEALTHDATASET/mHealth_subject{n}.log": data for n, data in files.items()}
    members["../mHealth_subject10.log"] = content
    (tmp_path / "mhealth.zip").write_bytes(packed(members))
    clips, skipped = read_mhealth(tmp_path / "mhealth.zip", progress=False)
    assert clips.table.subject.tolist() == [1, 4]
    told = {s.name.removeprefix("MHEALTHDATASET/mHealth_"): s.reason for s in skipped}
    expected = {
        "subject2.log": "lines of 23 columns, not 24",
        "subject3.log": "not plain text: it holds zero bytes, as UTF-16 does",
        "subject4.log: lines": "the last one is cut short, as in a truncated file",
        "subject5.log": "lines of 1 columns, not 24",
        "subject6.log": "150 of its 150 lines are unreadable",
        "subject7.log": "0 of its 0 lines are unreadable",
        "subject8: null class": "none of this project's activities",
        "subject9.log": "lines of 1 columns, not 24",
        "../mHealth_subject10.log": "its path points outside the archive",
    }
    assert told.keys() == expected.keys()
    for name, part in expected.items():
        assert part in told[name], name


def test_a_root_without_mhealth_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / "some.txt").write_text("x")
    with pytest.raises(InputError) as error:
        read_mhealth(tmp_path, progress=False)
    assert str(error.value) == (
        f"{tmp_path}: found 1 files, none named as MHEALTH names them; expected "
        "mHealth_subject1.log and others. Point to the folder of MHEALTH or to its zip."
    )
    with pytest.raises(InputError, match="nothing"):
        read_mhealth(tmp_path / "gone", progress=False)
    (tmp_path / "mHealth_subject1.log").write_bytes(text(table([(9, 3)])))
    with pytest.raises(InputError, match=r"no usable recording.*cycling"):
        read_mhealth(tmp_path, progress=False)
