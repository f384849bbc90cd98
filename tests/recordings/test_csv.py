"""Recordings of one's own: layouts of real data sets, each value checked against a known signal."""

import re

import numpy as np
import pytest
import yaml

from t2imu_utils.errors import InputError
from t2imu_utils.recordings import read_recordings
from t2imu_utils.recordings.csv import Layout, read_csv
from t2imu_utils.runs import ROOT
from t2imu_utils.tracks import load_track

G = 9.80665
PDIOT = {
    "folder": "pdiot",
    "files": "{site}_{subject}_{activity}_clean_*.csv",
    "columns": {
        "time": "timestamp",
        "acc": ["accel_x", "accel_y", "accel_z"],
        "gyro": ["gyro_x", "gyro_y", "gyro_z"],
    },
    "units": {"time": "ms", "acc": "g", "gyro": "deg/s"},
    "comment": "#",
    "activities": {"Walking at normal speed": "walking", "Sitting": "sitting"},
    "sites": {"Respeck": "chest", "Thingy": "thigh"},
    "axes": {"thigh": ["-y", "x", "z"]},
    "range": {"acc": 1.25},
}
UMAFALL = {
    "folder": "umafall",
    "files": "UMAFall_Subject_{subject}_ADL_{activity}_{trial}_*.csv",
    "columns": {"time": 0, "acc": [2, 3, 4], "site": 6},
    "units": {"time": "ms", "acc": "g"},
    "separator": ";",
    "comment": "%",
    "where": {5: 0},
    "activities": {"Walking": "walking"},
    "sites": {1: "chest", 3: "forearm"},
}


def wave(times, size=0.3):
    """x, y, z of an accelerometer in g: gravity along y, a slow wave on it and on z."""
    sine = np.sin(2 * np.pi * 0.5 * times)
    return np.stack([0 * times, 1 + size * sine, size * sine], 1)


def pdiot(times, acc, start=0.0, unit=1e3):
    lines = ["# Sensor type: Respeck", "timestamp, accel_x,accel_y,accel_z,gyro_x,gyro_y,gyro_z"]
    for t, (x, y, z) in zip(times + start, acc, strict=True):
        lines.append(f"{round(t * unit)},{x:.6f},{y:.6f},{z:.6f},90,0,{10 * z:.6f}")
    return "\n".join(lines)


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    return root


def read(root, layout=PDIOT, **changes):
    return read_csv(Layout(**{**layout, **changes}), root)


TIMES = np.arange(400) / 25
EPOCH = 1.7e9


def test_files_of_two_sites_become_one_recording_in_si_units(tmp_path):
    name = "{}_s12_{}_clean_{}.csv"
    files = {
        name.format("Respeck", "Walking at normal speed", "09-10"): pdiot(
            TIMES, wave(TIMES), EPOCH
        ),
        # Worn a quarter turn about z: the site's y is the file's x, its x the file's -y.
        name.format("Thingy", "Walking at normal speed", "09-11"): pdiot(
            TIMES, wave(TIMES)[:, [1, 0, 2]], EPOCH + 2
        ),
        name.format("Respeck", "Sitting", "09-12"): "\ufeff"
        + pdiot(TIMES, wave(TIMES), EPOCH + 99),
        name.format("Respeck", "Dancing", "09-13"): pdiot(TIMES, wave(TIMES), EPOCH + 99),
    }
    clips, skipped = read(write(tmp_path, files))
    assert clips.meta == {"rate": 20.0, "sites": ["chest", "thigh"], "source": "CSV"}
    assert clips.table[["subject", "activity", "positions"]].to_numpy().tolist() == [
        ["s12", "sitting", 1], ["s12", "walking", 2],
    ]  # fmt: skip
    walk = clips[1]
    times = clips.table["start"][1] - EPOCH + np.arange(clips.table["frames"][1]) / 20
    seen = np.isfinite(walk["acc"][..., 0])
    assert abs(times[seen[:, 1]][0] - 2) < 0.06 and abs(times[seen[:, 0]][-1] - 15.96) < 0.06
    for site, late in enumerate((0, 2)):
        at = seen[:, site]
        expected = wave(times[at] - late) * G
        np.testing.assert_allclose(walk["acc"][at, site], expected, atol=0.03)
    np.testing.assert_allclose(walk["gyro"][seen[:, 0], 0, 0], np.pi / 2, atol=1e-3)
    assert clips.table["clipped"][1] == pytest.approx((wave(TIMES) > 1.249).mean() * 3, abs=0.01)
    assert [(s.name.split(": ")[1], s.reason) for s in skipped] == [
        ("Dancing", "no activity of layout.activities")
    ]


def test_sites_and_sensors_in_columns_of_a_file_without_header(tmp_path):
    lines = ["% Universidad", "%; 1; CHEST", "% TimeStamp; Sample No; X; Y; Z; Type; ID"]
    for k, t in enumerate(np.arange(0, 15, 0.05)):
        _, y, z = wave(t[None])[0]
        for sensor in (1, 3, 4):
            lines.append(
                f"{1000 * t:.0f};{k};0.0;{y * (1 if sensor == 1 else 0.8):.6f};{z};0;{sensor}"
            )
        lines.append(f"{1000 * t:.0f};{k};200.0;1;1;1;1")
    name = "UMAFall_Subject_07_ADL_Walking_2_2016-06-06_16-51-39.csv"
    clips, skipped = read(write(tmp_path, {f"deep/{name}": "\n".join(lines)}), UMAFALL)
    row = clips.table.iloc[0]
    assert (row.subject, row.activity, row.trial) == (7, "walking", "2")
    assert clips.meta["sites"] == ["chest", "forearm"] and set(clips.arrays) == {"acc"}
    expected = wave(np.arange(len(clips.arrays["acc"])) / 20)[10:-10, 1] * G
    np.testing.assert_allclose(clips.arrays["acc"][10:-10, 0, 1], expected, atol=0.02)
    np.testing.assert_allclose(clips.arrays["acc"][10:-10, 1, 1], 0.8 * expected, atol=0.02)
    assert [s.reason for s in skipped] == ["no site of layout.sites"]


def test_labels_in_a_column_cut_and_sites_stand_side_by_side(tmp_path):
    """As in MHEALTH: no stamps, a sensor's columns after another's, a label for each line."""
    times = np.arange(1000) / 50
    acc = wave(times) * G
    label = np.where(times < 8, "4", np.where(times < 12, "0", "1"))
    rows = [
        "\t".join(map(str, [*a.round(5), *(-a).round(5), 1, 2, 3, c]))
        for a, c in zip(acc, label, strict=True)
    ]
    rows[100] = rows[100].replace("0.0", "?", 1)
    rows[120] = rows[120].replace("0.0", "1e300", 1)
    rows[:50] = [row + ".0" for row in rows[:50]]  # of the label
    layout = {
        "folder": "mhealth", "files": "mHealth_subject{subject}.log", "rate": 50.0,
        "separator": "\t", "units": {"acc": "m/s^2"}, "activities": {4: "walking", 1: "standing"},
        "columns": {
            "acc": {"chest": [0, 1, 2], "shin": [3, 4, 5]}, "gyro": {"shin": [6, 7, 8]},
            "activity": 9,
        },
    }  # fmt: skip
    clips, skipped = read(write(tmp_path, {"mHealth_subject3.log": "\n".join(rows)}), layout)
    assert clips.table[["activity", "part", "bridged"]].to_numpy().tolist() == [
        ["walking", 0, 3], ["standing", 1, 3],
    ]  # fmt: skip
    assert clips.table["frames"].tolist() == [160, 160] and clips.table["start"][1] == 12.0
    np.testing.assert_allclose(
        clips[1]["acc"][:-10, 1], -wave(12 + np.arange(160) / 20)[:-10] * G, atol=0.02
    )
    assert np.isnan(clips.arrays["gyro"][:, 0]).all()
    np.testing.assert_allclose(clips.arrays["gyro"][:, 1], [[1, 2, 3]] * 320, atol=1e-4)
    assert sorted(s.name.split(": ")[1] for s in skipped) == ["0", "chest", "lines"]


def test_the_example_of_the_book_reads_what_it_says(tmp_path, monkeypatch):
    page = (ROOT / "book" / "own_recordings.md").read_text()
    track, mhealth = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "pocket.yaml").write_text(track)
    Layout(folder="mhealth", **yaml.safe_load(mhealth))
    header, *first = re.search(r"```\n(time_ms.*?)```", page, re.DOTALL)[1].strip().split("\n")
    lines = [header, *first]
    for k in range(2, 200):
        lines.append(f"{1740000000000 + 20 * k},0.01,1.0,-0.02,7.46,0.10,0.00")
    name = re.search(r"`(anna_.*?csv)`", page)[1]
    files = dict.fromkeys((name, name.replace("pocket", "chest")), "\n".join(lines))
    write(tmp_path / "pocket_study", files)
    monkeypatch.setenv("T2IMU_DATA", str(tmp_path))
    clips, skipped = read_recordings(load_track(str(tmp_path / "pocket.yaml")))
    assert clips.table[["subject", "activity", "positions"]].to_numpy().tolist() == [
        ["anna", "climbing up", 2]
    ]
    assert not skipped and clips.table["frames"][0] == 80
    (tmp_path / "pocket.yaml").write_text(track.replace("acc: g", "acc: lb"))
    with pytest.raises(InputError, match="pocket.yaml: recordings.layout.units.acc"):
        read_recordings(load_track(str(tmp_path / "pocket.yaml")))


NAME = "Respeck_1_Sitting_clean_x.csv"


@pytest.mark.parametrize(
    ("content", "changes", "words"),
    [
        (pdiot(TIMES, wave(TIMES) * G), {}, (NAME, "likely in m/s^2")),
        (pdiot(TIMES, wave(TIMES)), {"units": {**PDIOT["units"], "acc": "m/s^2"}}, ("in g",)),
        (pdiot(TIMES, wave(TIMES), unit=1e6), {}, (NAME, "likely in us")),
        (pdiot(TIMES, wave(TIMES)), {"units": {**PDIOT["units"], "gyro": "rad/s"}}, ("deg/s",)),
        (pdiot(TIMES, wave(TIMES)).replace(",90,", ',"90,5",'), {}, (NAME, "90,5")),
        (pdiot(TIMES, wave(TIMES)).replace("accel_y", "ay"), {}, (NAME, "accel_y")),
        (pdiot(np.r_[TIMES[:200], EPOCH + TIMES], np.r_[wave(TIMES)[:200], wave(TIMES)]), {},
         (NAME, "clock")),
        (pdiot(TIMES, wave(TIMES), unit=1e4), {}, (NAME, "2.5 samples a second", "18 to")),
        (pdiot(TIMES, wave(TIMES)), {"rate": 50.0}, (NAME, "25 samples a second", "45 to 55")),
        (pdiot(TIMES, wave(TIMES)), {"where": {"gyro_y": 7}}, (NAME, "no line with {'gyro_y': 7}")),
        (pdiot(TIMES, wave(TIMES)), {"files": "{site}-{subject}-{activity}.csv"}, ("names like",)),
    ],
)  # fmt: skip
def test_what_is_wrong_names_the_file_and_what_it_likely_is(tmp_path, content, changes, words):
    with pytest.raises(InputError) as error:
        read(write(tmp_path, {NAME: content}), **changes)
    assert all(word in str(error.value) for word in words)


def test_two_files_of_one_recording_and_site_are_not_joined(tmp_path):
    files = dict.fromkeys((NAME, NAME.replace("_x", "_y")), pdiot(TIMES, wave(TIMES)))
    with pytest.raises(InputError, match="trial"):
        read(write(tmp_path, files))
    clips, _ = read(tmp_path, files="{site}_{subject}_{activity}_clean_{trial}.csv")
    assert clips.table["trial"].tolist() == ["x", "y"]


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("files", "{site}_{activity}.csv", "subject"),
        ("columns", {"acc": ["x", "y", "z"]}, "rate"),
        ("axes", {"chest": ["x", "x", "z"]}, "axes.chest"),
        ("axes", {"chest": ["--x", "y", "z"]}, "axes.chest"),
        ("activities", {"Walk": "strolling"}, "walking"),
        ("files", "{subject}_{site}_{activity}_{2nd}.csv", "2nd"),
        ("comment", "", "comment"),
        ("shortest", float("nan"), "shortest"),
        ("range", {"acc": 0}, "range.acc"),
    ],
)
def test_an_incomplete_layout_is_told(field, value, word):
    with pytest.raises(ValueError, match=word):
        Layout(**{**PDIOT, field: value})
