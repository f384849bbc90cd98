import io
import zipfile

import numpy as np
import pytest

from t2imu_utils.activities import ACTIVITIES, category_of
from t2imu_utils.errors import InputError
from t2imu_utils.imu.pamap2 import read_pamap2
from t2imu_utils.imu.windows import windows

UNITS = {"forearm": 3, "chest": 20, "shin": 37}  # first of the 17 columns of hand, chest, ankle
GRAVITY = {"forearm": (2.5, 8.6, 3.5), "chest": (0.25, 9.8, -1.5), "shin": (9.7, -1.5, -0.1)}
RATE = 100


def acc(times, site):
    """Gravity on the unit's axes, steps at 1.8 Hz on y."""
    steps = np.stack([0 * times, np.sin(2 * np.pi * 1.8 * times), 0 * times], 1)
    return np.array(GRAVITY[site]) + (1 + list(UNITS).index(site)) * steps


def gyro(times, site):
    turn = np.cos(2 * np.pi * 0.9 * times)
    return (1 + list(UNITS).index(site)) * np.stack([turn, 0 * times, -0.5 * turn], 1)


def table(labels, start=8.38, hum=0.0):
    """All 54 columns at 100 Hz; `labels` are pairs of a code and its seconds.

    The hum is a tone of 30 Hz on all axes, which 20 frames a second would fold to 10 Hz.
    """
    codes = np.concatenate([np.full(round(s * RATE), code) for code, s in labels])
    times = np.round(start + np.arange(len(codes)) / RATE, 2)
    rows = np.full((len(codes), 54), np.nan)
    rows[:, 0], rows[:, 1] = times, codes
    rows[::11, 2] = 104  # the heart rate comes at some 9 Hz
    for site, at in UNITS.items():
        rows[:, at] = 30.375  # degrees Celsius
        tone = hum * np.sin(2 * np.pi * 30 * times)[:, None]
        rows[:, at + 1 : at + 4] = acc(times, site) + tone
        rows[:, at + 4 : at + 7] = np.clip(acc(times, site) * 9, -58.8, 58.8)
        rows[:, at + 7 : at + 10] = gyro(times, site)
        rows[:, at + 10 : at + 13] = (14.7, -69.2, -5.6)  # microtesla
        rows[:, at + 13 : at + 17] = (1, 0, 0, 0)
    return rows


def text(rows):
    lines = (" ".join("NaN" if v != v else f"{v:.6g}" for v in row) for row in rows.tolist())
    return ("\n".join(lines) + "\n").encode()


def folder(tmp_path, files):
    for name, content in files.items():
        path = tmp_path / "PAMAP2_Dataset" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def packed(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def one(tmp_path, rows, **options):
    root = folder(tmp_path, {"Protocol/subject101.dat": text(rows)})
    return read_pamap2(root, progress=False, **options)


def times_of(clips, index):
    return clips.table.start[index] + np.arange(clips.table.frames[index]) / 20


def check_signal(clips, index=0, rows=slice(None)):
    times = times_of(clips, index)[rows]
    for place, site in enumerate(UNITS):
        for name, true in (("acc", acc), ("gyro", gyro)):
            found = clips[index][name][rows, place]
            np.testing.assert_allclose(found, true(times, site), atol=0.03)


def test_units_sites_axes_and_rate_are_the_data_sets(tmp_path):
    rows = table([(0, 1), (4, 8), (0, 1)], hum=0.5)
    # Whatever lies outside the label must not reach into it.
    rows[: 1 * RATE, 3:] = rows[9 * RATE :, 3:] = 99
    clips, skipped = one(tmp_path, rows)
    assert clips.meta == {"rate": 20.0, "sites": ["forearm", "chest", "shin"], "source": "PAMAP2"}
    assert clips.arrays["acc"].shape == clips.arrays["gyro"].shape == (160, 3, 3)
    assert clips.arrays["acc"].dtype == clips.arrays["gyro"].dtype == np.float32
    assert clips.table.to_dict("records") == [{
        "subject": 101, "session": 1, "activity": "walking", "detail": "walking",
        "movement": "walking", "recording": "subject101 protocol walking 1", "part": 0,
        "start": pytest.approx(9.40), "positions": 3, "bridged": 0, "lost": 0.0, "frames": 160,
    }]  # fmt: skip
    check_signal(clips, rows=slice(15, -15))
    assert np.abs(clips.arrays["acc"]).max() < 14
    step = np.abs(np.fft.rfft(clips.arrays["acc"][:100, 1, 1] - 9.8))
    assert np.argmax(step) / 5 == 1.8
    assert [(s.name.removeprefix("PAMAP2_Dataset/"), s.reason) for s in skipped] == [
        ("subject101 protocol: transient", "none of this project's activities (2.0 s, 2 times)")
    ]


def test_movements_map_to_activities_and_all_others_are_told(tmp_path):
    codes = [1, 2, 3, 4, 5, 6, 7, 0, 9, 10, 11, 12, 13, 16, 17, 18, 19, 20, 24, 99, 4]
    clips, skipped = one(tmp_path, table([(code, 2.5) for code in codes] + [(5, 1.5)]))
    found = clips.table[["movement", "activity", "detail"]].to_numpy().tolist()
    assert found == [
        ["lying", "lying", "lying"],
        ["sitting", "sitting", "sitting"],
        ["standing", "standing", "standing"],
        ["walking", "walking", "walking"],
        ["running", "running", "running"],
        ["ascending stairs", "climbing up", "climbing up"],
        ["descending stairs", "climbing down", "climbing down"],
        ["rope jumping", "jumping", "rope jumping"],
        ["walking", "walking", "walking"],
    ]
    assert set(clips.table.activity) == set(ACTIVITIES)
    assert {category_of(a) for a in clips.table.activity} >= {"stair climbing", "jumping"}
    assert clips.table.recording.tolist()[3::5] == [
        "subject101 protocol walking 1",
        "subject101 protocol walking 2",
    ]
    assert clips.table.frames.tolist() == [50] * 9
    told = {s.name.removeprefix("subject101 protocol").strip(": "): s.reason for s in skipped}
    other = ("transient", "cycling", "Nordic walking", "watching TV", "computer work",
             "car driving", "vacuum cleaning", "ironing", "folding laundry", "house cleaning",
             "playing soccer")  # fmt: skip
    assert told == {
        **dict.fromkeys(other, "none of this project's activities (2.5 s, 1 times)"),
        "label 99": "an unknown label (2.5 s, 1 times)",
        "running 2": "1.50 s, under 2",
    }


def test_windows_come_from_single_stretches(tmp_path):
    clips, _ = one(tmp_path, table([(4, 6), (5, 5), (4, 2), (0, 1), (1, 4)]))
    x, found = windows(clips)
    assert x.shape == (5 + 4 + 1 + 3, 40, 18)
    assert found.groupby("recording", sort=False).size().tolist() == [5, 4, 1, 3]
    assert np.isfinite(x).all() and found.attrs["dropped"] == 0


def test_samples_that_the_radio_lost_are_bridged_counted_or_left_missing(tmp_path):
    rows = table([(4, 12)])
    rows[100:1100:250, 3:20] = np.nan  # single samples of the hand
    rows[300:310, 20:37] = np.nan  # 0.1 s of the chest
    rows[500:560, 37:54] = np.nan  # 0.6 s of the ankle
    clips, skipped = one(tmp_path, rows)
    assert clips.table.bridged.tolist() == [2 * (4 + 10)]
    assert clips.table.lost.tolist() == [pytest.approx(2 * 0.6)]
    times = times_of(clips, 0)
    gone = np.isnan(clips[0]["acc"][:, 2, 0])
    np.testing.assert_array_equal(gone, np.isnan(clips[0]["gyro"][:, 2, 0]))
    assert gone.sum() == 12 and times[gone][0] == pytest.approx(8.38 + 5.02)
    assert np.isfinite(clips.arrays["acc"][:, :2]).all()
    for rows in (slice(0, 58), slice(64, 99), slice(113, None)):
        check_signal(clips, rows=rows)
    bridge = clips[0]["acc"][58:64, 1] - acc(times[58:64], "chest")
    assert np.abs(bridge).max() < 0.15
    assert not skipped
    assert windows(clips)[1].attrs["dropped"] > 0
    assert windows(clips, sites=["forearm", "chest"])[1].attrs["dropped"] == 0


def test_a_stretch_is_cut_where_no_unit_recorded_and_where_rows_are_missing(tmp_path):
    rows = table([(4, 20)])
    rows[400:450, 3:] = np.nan
    rows = np.delete(rows, np.r_[900:920, 1200:1400], axis=0)
    clips, skipped = one(tmp_path, rows)
    assert clips.table[["recording", "part"]].to_numpy().tolist() == [
        ["subject101 protocol walking 1", 0],
        ["subject101 protocol walking 1", 1],
        ["subject101 protocol walking 1", 2],
        ["subject101 protocol walking 2", 0],
    ]
    starts = [8.40, 8.38 + 4.52, 8.38 + 9.22, 8.38 + 14.02]
    assert clips.table.start.tolist() == pytest.approx(starts, abs=1e-6)
    assert clips.table.lost.tolist() == pytest.approx([6 * 0.7] * 3 + [0])
    for index in range(4):
        check_signal(clips, index)
    assert not skipped


def test_a_unit_that_is_lost_for_a_whole_stretch_is_told(tmp_path):
    rows = table([(4, 3), (5, 3)])
    rows[300:, 3:20] = np.nan
    clips, skipped = one(tmp_path, rows)
    assert clips.table.positions.tolist() == [3, 2]
    assert [(s.name, s.reason) for s in skipped] == [
        ("subject101 protocol running 1 forearm", "no usable acc"),
        ("subject101 protocol running 1 forearm", "no usable gyro"),
    ]


def test_parts_that_were_put_together_are_not_joined(tmp_path):
    """A clock that goes back, or on by minutes, under one label; a stamp twice, wild or missing."""
    rows = table([(4, 9)])
    rows[300:, 0] -= 2.0
    rows[600:, 0] += 500.0
    rows = np.insert(rows, 100, rows[100], axis=0)
    rows = np.insert(rows, [200] * 3, rows[200], axis=0)
    rows[200, 0], rows[201, 1], rows[202, 0] = np.nan, np.nan, 1e300
    clips, skipped = one(tmp_path, rows)
    assert clips.table.recording.str[-1].tolist() == ["1", "2", "3"]
    assert clips.table.frames.tolist() == [60, 60, 60]
    told = "3 lines lack a stamp or a label; 1 lines repeat a stamp"
    assert [s.reason for s in skipped] == [told]


def test_ends_can_be_trimmed_and_the_shortest_chosen(tmp_path):
    clips, skipped = one(tmp_path, table([(4, 8), (5, 5)]), trim=(1.0, 2.0), shortest=3.0)
    assert clips.table.activity.tolist() == ["walking"]
    assert times_of(clips, 0)[[0, -1]] == pytest.approx([9.40, 8.37 + 6.0], abs=0.03)
    assert skipped[0].reason == "5.00 s, under 6"


def test_a_zip_in_a_zip_a_zip_and_a_folder_read_the_same(tmp_path):
    content = text(table([(4, 3)]))
    files = {"Protocol/subject101.dat": content, "Optional/subject101.dat": text(table([(9, 3)])),
             "Protocol/subject109.dat": text(table([(24, 3)])), "readme.pdf": b"?"}  # fmt: skip
    inner = packed({f"PAMAP2_Dataset/{name}": data for name, data in files.items()})
    outer = tmp_path / "pamap2+physical+activity+monitoring.zip"
    outer.write_bytes(packed({"PAMAP2_Dataset.zip": inner, "readme.pdf": b"?"}))
    loose = tmp_path / "loose"
    folder(loose, files)
    first, skipped = read_pamap2(outer, progress=False)
    assert first.table[["subject", "session"]].to_numpy().tolist() == [[101, 1], [109, 1]]
    assert any(s.name == "subject101 optional: watching TV" for s in skipped)
    assert sum("not named" in s.reason for s in skipped) == 2
    (loose / "PAMAP2_Dataset.zip").write_bytes(inner)
    for root in (loose / "PAMAP2_Dataset", loose, tmp_path):
        again, told = read_pamap2(root, progress=False)
        assert again.table.equals(first.table)
        np.testing.assert_array_equal(again.arrays["acc"], first.arrays["acc"])
    # The last root holds every recording three times.
    assert sum("from another file" in s.reason for s in told) == 6
    bare, _ = read_pamap2(loose / "PAMAP2_Dataset" / "Protocol", progress=False)
    assert bare.table.session.tolist() == [1, 1]


def test_files_that_cannot_be_used_are_told_and_the_rest_is_read(tmp_path):
    good = table([(4, 3)])
    content = text(good)
    lines = content.splitlines(keepends=True)
    slow = good[::2].copy()
    members = {
        "Protocol/subject101.dat": content,
        "Protocol/subject102.dat": text(good[:, :53]),
        "Protocol/subject103.dat": content.decode().encode("utf-16"),
        "Protocol/subject104.dat": content[: len(content) * 9 // 10],
        "Protocol/subject105.dat": b"".join([*lines[:100], b"8.5 4 what\n", *lines[101:]]),
        "Protocol/subject106.dat": content.replace(b".", b","),
        "Protocol/subject107.dat": text(slow),
        "Protocol/subject108.dat": b"",
        "../Protocol/subject109.dat": content,
        "Optional/subject101.dat": b"0" * 3 * 2**20,
        "Optional/subject102.dat": text(table([(0, 3)])),
    }
    (tmp_path / "pamap2.zip").write_bytes(packed(members))
    clips, skipped = read_pamap2(tmp_path / "pamap2.zip", progress=False)
    assert clips.table.subject.tolist() == [101, 104, 105]
    assert clips.table.frames.tolist()[0] == 60 and 50 < clips.table.frames.tolist()[1] < 56
    assert clips.table.bridged.tolist() == [0, 0, 6]
    for index in range(3):
        check_signal(clips, index)
    told = {s.name: s.reason for s in skipped}
    expected = {
        "Protocol/subject102.dat": "lines of 53 columns, not 54",
        "Protocol/subject103.dat": "not plain text: it holds zero bytes, as UTF-16 does",
        "Protocol/subject104.dat: lines": "the last one is cut short, as in a truncated file",
        "Protocol/subject105.dat: lines": "1 of its 300 lines are unreadable",
        "Protocol/subject106.dat": "300 of its 300 lines are unreadable",
        "Protocol/subject107.dat": "stamps that step by 0.02 s, not 0.01",
        "Protocol/subject108.dat": "0 of its 0 lines are unreadable",
        "../Protocol/subject109.dat": "its path points outside the archive",
        "Optional/subject101.dat": "a zip bomb",
        "subject102 optional: transient": "none of this project's activities",
    }
    assert told.keys() == expected.keys()
    for name, part in expected.items():
        assert part in told[name], name


def test_a_root_without_pamap2_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / "some.txt").write_text("x")
    with pytest.raises(InputError) as error:
        read_pamap2(tmp_path, progress=False)
    assert str(error.value) == (
        f"{tmp_path}: found 1 files, none named as PAMAP2 names them; expected "
        "Protocol/subject101.dat and others. Point to the folder of PAMAP2 or to its zip."
    )
    with pytest.raises(InputError, match="nothing"):
        read_pamap2(tmp_path / "gone", progress=False)
    folder(tmp_path, {"Protocol/subject101.dat": text(table([(0, 3)]))})
    with pytest.raises(InputError, match=r"no usable recording.*transient"):
        read_pamap2(tmp_path, progress=False)
    cut = packed({"PAMAP2_Dataset/Protocol/subject101.dat": text(table([(4, 3)]))})[:-100]
    (tmp_path / "PAMAP2_Dataset.zip").write_bytes(cut)
    with pytest.raises(InputError, match="no whole zip archive"):
        read_pamap2(tmp_path / "PAMAP2_Dataset.zip", progress=False)
