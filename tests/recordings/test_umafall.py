from collections import Counter

import numpy as np
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.recordings.streams import GRAVITY
from t2imu_utils.recordings.umafall import SITES, read_umafall

HEADER = """% Universidad de Malaga - ETSI de Telecomunicacion (Spain)
% ID: made for a test

% MAC Address; Sensor_ID; Position; Device Model
%f8:95:c7:f3:ba:82; 0; RIGHTPOCKET; phone
%C4:BE:84:71:A5:02; 2; ANKLE; SensorTag
%C4:BE:84:70:0E:80; 3; WRIST; SensorTag
%C4:BE:84:70:64:8A; 1; CHEST; SensorTag

% TimeStamp; Sample No; X-Axis; Y-Axis; Z-Axis; Sensor Type; Sensor ID;
"""
NAME = "UMAFall_Subject_{:02d}_ADL_{}_1_2017-04-14_23-25-52.csv"


def on_grid(values, step=1 / 4096):
    return np.round(values / step) * step


def wave(times, shake):
    """Gravity on x and a 2 Hz shake of `shake` g; whole counts of 1/4096 g."""
    x = 1 + shake * np.sin(2 * np.pi * 2 * times)
    return on_grid(np.stack([x, 0 * times, 0.1 + 0 * times], 1))


def recording(shake=0.5, rest_after=20.0, spoil=None, header=HEADER):
    """A file as the dataset has it: phone at 200 Hz, three tags at 20 Hz, other sensor types."""
    lines = []
    for sensor, rate in ((0, 200.0), (1, 20.0), (2, 20.0), (3, 20.0)):
        times = np.arange(int(15 * rate)) / rate
        values = wave(times, shake * (times < rest_after))
        if spoil:
            values = spoil(sensor, values)
        for n, (t, (x, y, z)) in enumerate(zip(times, values.tolist(), strict=True)):
            lines.append(f"{round(1000 * t)};{n};{x!r};{y!r};{z!r};0;{sensor}")
            if sensor and n % 5 == 0:
                lines.append(f"{round(1000 * t)};{n};200.5;-100.0;3.0;1;{sensor}")
    return header + "\n".join(lines)


def write(folder, files):
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def test_positions_come_from_the_header_units_are_si_and_y_points_up(tmp_path):
    write(tmp_path, {NAME.format(7, "Walking"): recording()})
    clips, skipped = read_umafall(tmp_path)
    row = clips.table.iloc[0]
    assert (row.subject, row.activity, row.detail, row.movement, row.trial) == (
        7, "walking", "walking", "Walking", 1,
    )  # fmt: skip
    assert clips.meta == {"rate": 20.0, "sites": list(SITES), "source": "UMAFall"}
    assert row.frames == 300 and row.rescaled == 0 and row.lost == 0 and row.rest == 0
    acc = clips.arrays["acc"]
    assert acc.dtype == np.float32 and set(clips.arrays) == {"acc"}
    assert np.isnan(acc[:, SITES.index("waist")]).all()
    expected = wave(np.arange(300) / 20, 0.5) * GRAVITY
    thigh = acc[10:-10, SITES.index("thigh")]
    np.testing.assert_allclose(thigh, expected[10:-10], atol=0.02)
    for site in ("chest", "forearm", "shin"):
        tag = acc[10:-10, SITES.index(site)]
        np.testing.assert_allclose(tag[:, 1], expected[10:-10, 0], atol=0.02)
        np.testing.assert_allclose(tag[:, 2], expected[10:-10, 2], atol=0.02)
        assert np.abs(tag[:, 0]).max() < 0.02
    assert [(s.name.split(": ")[1], s.reason) for s in skipped] == [
        ("waist", "its header names no such sensor")
    ]


def test_rest_at_the_ends_is_cut_from_movements_only(tmp_path):
    files = {NAME.format(1, m): recording(rest_after=8.0) for m in ("Walking", "HandsUp")}
    clips, _ = read_umafall(write(tmp_path, files))
    frames = dict(zip(clips.table.movement, clips.table.frames, strict=True))
    assert frames["HandsUp"] == 300 and 155 <= frames["Walking"] <= 172
    assert clips.table.rest.max() == pytest.approx(15 - frames["Walking"] / 20)


def test_corrupt_lines_are_counted_and_corrupt_files_told(tmp_path):
    good = recording()
    lines = good.splitlines()
    lines[500] = "1.012.598.156.929.010;9;1;2;3;0;0"
    lines[700] = "2.5;9;75.0;0.1;0.1;0;0"
    thousands = good.replace(";0.1", ";-10.302.734.375")
    files = {
        NAME.format(1, "Walking"): "\n".join(lines),
        NAME.format(2, "Walking"): thousands,
        NAME.format(3, "Walking"): good[: len(HEADER) - 100],
        NAME.format(4, "Walking"): good.replace("CHEST", "HAT").replace("WRIST", "SHOE"),
        NAME.format(5, "Walking"): "",
        NAME.format(6, "Walking"): good.replace("% TimeStamp", "TimeStamp"),
    }
    clips, skipped = read_umafall(write(tmp_path, files))
    assert clips.table.subject.tolist() == [1, 4]
    reasons = {s.name: s.reason for s in skipped}
    told = reasons[NAME.format(1, "Walking") + ": lines"]
    assert told.startswith("1 of its") and "1 accelerations over" in told
    assert "lines are unreadable" in reasons[NAME.format(2, "Walking")]
    for number in (3, 5, 6):
        assert "TimeStamp" in reasons[NAME.format(number, "Walking")]
    assert np.isnan(clips[1]["acc"][:, SITES.index("chest")]).all()


def test_a_recording_in_si_units_is_an_error_that_names_it_and_its_unit(tmp_path):
    files = {NAME.format(2, "Walking"): recording(spoil=lambda sensor, values: values * GRAVITY)}
    with pytest.raises(InputError, match=r"Subject_02.*likely in m/s\^2\."):
        read_umafall(write(tmp_path, files))


def test_the_real_dataset(real_data):
    clips, skipped = read_umafall(real_data / "umafall" / "UMAFall_Dataset.zip")
    files = {s.name for s in skipped if ": " not in s.name}
    assert len(clips) + len(files) == 323 and len(clips) >= 295
    assert clips.table.subject.nunique() == 18 and 13 not in set(clips.table.subject)
    reasons = [s.reason for s in skipped if s.name in files]
    assert sum("unreadable" in reason for reason in reasons) == 10
    assert sum("not one activity" in reason for reason in reasons) == 8
    assert Counter(clips.table.activity) == {
        "standing": 131, "walking": 59, "jumping": 50, "stair climbing": 34, "running": 28,
    }  # fmt: skip
    size = np.linalg.norm(clips.arrays["acc"], axis=2)
    standing = np.repeat(clips.table.activity == "standing", clips.table.frames)
    medians = np.nanmedian(size[standing], axis=0)
    np.testing.assert_allclose(medians, GRAVITY, rtol=0.04)
    # A quarter of gravity is what unrepaired samples of a resting tag read.
    chest = size[standing, SITES.index("chest")]
    assert np.nanmean(chest < 0.5 * GRAVITY) < 0.003
    assert (clips.table.rescaled > 0).sum() > 80
    for site in ("chest", "waist", "shin"):
        mean = np.nanmean(clips.arrays["acc"][standing, SITES.index(site)], axis=0)
        assert mean[1] > 8.5 and np.argmax(np.abs(mean)) == 1
