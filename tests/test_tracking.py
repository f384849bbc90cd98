"""Loss curves as event files: what is asked for, what is written, and what is read back."""

import struct
import sys

import numpy as np
import pandas as pd
import pytest

from t2imu_utils import tracking
from t2imu_utils.errors import InputError

CURVES = pd.DataFrame(
    {
        "step": [1, 2, 3, 2],
        "split": ["train", "train", "train", "validation"],
        "simple": [3.0, 2.0, 1.5, 2.5],
        "acc": [np.nan, np.nan, np.nan, 0.25],
    }
)


@pytest.fixture
def package():
    return pytest.importorskip(
        "tensorboardX", reason="tensorboardX, the extra `tracking`, is not installed"
    )


def read_back(path):
    """(tag, step) -> value of an event file: records of a length, its check, content, its check."""
    from tensorboardX.proto.event_pb2 import Event

    content, found, place = path.read_bytes(), {}, 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        event = Event.FromString(content[place + 12 : place + 12 + length])
        for value in event.summary.value:
            found[value.tag, event.step] = value.simple_value
        place += 16 + length
    return found


def test_curves_come_back(package, tmp_path):
    train, validation = tracking.log_curves(tmp_path, "demo/mdm-ft", CURVES)
    assert train.parent == tmp_path / "demo" / "mdm-ft" / "train"
    assert validation.parent == tmp_path / "demo" / "mdm-ft" / "validation"
    # What TensorBoard takes for an event file.
    assert "tfevents" in train.name
    expected = {("curves/simple", 1): 3.0, ("curves/simple", 2): 2.0, ("curves/simple", 3): 1.5}
    assert read_back(train) == expected  # without the term that was not computed
    assert read_back(validation) == {("curves/simple", 2): 2.5, ("curves/acc", 2): 0.25}


def test_networks_of_one_training_are_kept_apart(package, tmp_path):
    staged = CURVES.assign(stage=["rvq", "rvq", "mask", "mask"])
    written = tracking.log_curves(tmp_path, "demo/momask", staged)
    places = [path.parent.relative_to(tmp_path / "demo" / "momask").as_posix() for path in written]
    assert places == ["rvq/train", "mask/train", "mask/validation"]
    assert read_back(written[1]) == {("curves/simple", 3): 1.5}


def test_a_second_training_replaces_the_first(package, tmp_path, monkeypatch):
    earlier = tracking.log_curves(tmp_path, "demo/mdm", CURVES)
    now = tracking.time.time() + 60
    monkeypatch.setattr(tracking.time, "time", lambda: now)
    later = tracking.log_curves(tmp_path, "demo/mdm", CURVES.assign(simple=9.0))
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert files == sorted(later) and not set(earlier) & set(later)
    assert set(read_back(later[0]).values()) == {9.0}


def test_the_environment_decides(package, tmp_path, monkeypatch):
    monkeypatch.delenv(tracking.VARIABLE, raising=False)
    assert tracking.asked_folder() is None and tracking.log_if_asked("demo/mdm", CURVES) == []
    monkeypatch.setenv(tracking.VARIABLE, str(tmp_path / "board"))
    written = tracking.log_if_asked("demo/mdm", CURVES)
    assert [path.is_file() for path in written] == [True, True]
    assert all(tmp_path / "board" in path.parents for path in written)


def test_other_tables_are_refused(package, tmp_path):
    with pytest.raises(InputError, match="no split; expected step, split and terms"):
        tracking.log_curves(tmp_path, "demo/mdm", CURVES.drop(columns="split"))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setenv(tracking.VARIABLE, str(tmp_path / "board"))
    with pytest.raises(InputError, match="pip install tensorboardX"):
        tracking.asked_folder()
    monkeypatch.delenv(tracking.VARIABLE)
    assert tracking.asked_folder() is None
