import zipfile
from collections import Counter

import numpy as np
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.recordings.hapt import read_hapt
from tests.recordings.test_streams import packed


def lines(values):
    return "\n".join(" ".join(f"{x:.7f}" for x in row) for row in values)


def test_labelled_stretches_become_clips_with_y_up(tmp_path):
    acc = np.tile([1.0, -0.2, 0.1], (1000, 1))  # x up, as the phone lay
    gyro = np.tile([0.1, 0.2, 0.3], (1000, 1))
    files = {
        "acc_exp04_user02.txt": lines(acc),
        "gyro_exp04_user02.txt": lines(gyro),
        "acc_exp05_user03.txt": lines(acc),
        "labels.txt": "4 2 5 101 400\n4 2 8 401 500\n4 2 2 501 900\n5 3 1 1 300",
    }
    files = {f"RawData/{name}": content for name, content in files.items()}
    (tmp_path / "HAPT.zip").write_bytes(packed(files))
    clips, skipped = read_hapt(tmp_path)
    assert clips.table[
        ["subject", "session", "activity", "frames", "start"]
    ].to_numpy().tolist() == [[2, 4, "standing", 120, 2.0], [2, 4, "climbing up", 160, 10.0]]
    np.testing.assert_allclose(
        clips.arrays["acc"][:, 0], [np.array([0.2, 1.0, 0.1]) * 9.80665] * 280, rtol=1e-4
    )
    np.testing.assert_allclose(clips.arrays["gyro"][:, 0], [[-0.2, 0.1, 0.3]] * 280, rtol=1e-4)
    assert [s.reason for s in skipped] == ["between postures", "no gyro file"]
    with zipfile.ZipFile(tmp_path / "HAPT.zip") as archive:
        archive.extractall(tmp_path / "si")
    path = tmp_path / "si" / "RawData" / "acc_exp04_user02.txt"
    path.write_text(lines(acc * 9.80665))
    with pytest.raises(InputError, match="exp04_user02.*likely in m/s"):
        read_hapt(tmp_path / "si")
    (tmp_path / "si" / "RawData" / "labels.txt").write_text("")
    with pytest.raises(InputError, match="RawData/labels.txt: found it is empty"):
        read_hapt(tmp_path / "si")


def test_the_real_dataset(real_data):
    clips, skipped = read_hapt(real_data / "hapt")
    minutes = clips.table.groupby("activity")["frames"].sum() / 20 / 60
    assert minutes.round().to_dict() == {
        "climbing down": 30, "climbing up": 33, "lying": 38, "sitting": 35, "standing": 38,
        "walking": 34,
    }  # fmt: skip
    assert clips.table["subject"].nunique() == 25 and clips.meta["sites"] == ["waist"]
    assert Counter(s.reason for s in skipped) == {"between postures": 301}
    activity = np.repeat(clips.table["activity"].to_numpy(), clips.table["frames"])
    upright = np.isin(activity, ("standing", "walking", "climbing up", "climbing down"))
    mean = clips.arrays["acc"][upright, 0].mean(0)
    assert mean[1] > 9.0 and np.abs(mean[[0, 2]]).max() < 2.5
    turn = np.abs(clips.arrays["gyro"][:, 0]).mean(1)
    assert turn[activity == "walking"].mean() > 10 * turn[activity == "lying"].mean()
