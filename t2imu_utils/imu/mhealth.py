"""Reader of MHEALTH (Banos et al. 2014): ten subjects, three sensors, 12 activities.

One file holds all that a subject did, 24 columns at 50 Hz without stamps. The chest's sensor has an
accelerometer only.
"""

import re
from pathlib import Path

import numpy as np

from t2imu_utils.clips import Clips
from t2imu_utils.errors import Skipped
from t2imu_utils.imu.archives import read_rows
from t2imu_utils.imu.labelled import LabelledSet, Rows, read_labelled

RATE = 50.0  # Hz
WIDTH = 24
LABEL = 23
SITES = ("chest", "forearm", "shin_other")  # the right lower arm and the left ankle
FIRST = {  # of a sensor's three columns
    ("acc", "chest"): 0, ("acc", "shin_other"): 5, ("gyro", "shin_other"): 8,
    ("acc", "forearm"): 14, ("gyro", "forearm"): 17,
}  # fmt: skip
MOVEMENTS = {
    0: "null class", 1: "standing still", 2: "sitting and relaxing", 3: "lying down",
    4: "walking", 5: "climbing stairs", 6: "waist bends forward", 7: "frontal elevation of arms",
    8: "knees bending", 9: "cycling", 10: "jogging", 11: "running", 12: "jump front and back",
}  # fmt: skip
ACTIVITY = {
    "standing still": ("standing", "standing"),
    "sitting and relaxing": ("sitting", "sitting"),
    "lying down": ("lying", "lying"),
    "walking": ("walking", "walking"),
    # The data set does not say which way: only the category is known.
    "climbing stairs": ("stair climbing", "stair climbing"),
    "jogging": ("running", "jogging"),
    "running": ("running", "running"),
    "jump front and back": ("jumping", "jumping front and back"),
}


def read_mhealth(
    root: Path,
    rate: float = 20.0,
    trim: tuple[float, float] = (0.0, 0.0),
    shortest: float = 2.0,
    progress: bool = True,
) -> tuple[Clips, list[Skipped]]:
    """Read accelerometers and gyroscopes of MHEALTH.

    The sensors were worn on the chest, the right wrist (``forearm``) and the left ankle
    (``shin_other``). How their axes lie on the body is not told, so they are left as they are.
    Jogging and running are both ``running``; ``detail`` keeps them apart. Climbing stairs has no
    direction: its activity is the category "stair climbing", so tracks that use this set are
    labelled by categories.

    The gyroscopes' unit is deg/s by the data set's description. Published lines of a body at rest
    hold up to 1 on an axis: look at the size of the signal before using it.

    Args:
        root: the data set's zip, or a folder.
        rate: of the clips, frames per second.
        trim: seconds to leave out at the start and the end of each stretch.
        shortest: stretches under this many seconds are left out.
        progress: show a bar.

    Returns:
        Clips: arrays ``acc`` (m/s^2) and ``gyro`` (rad/s), (F, 3, 3) float32 in the sensors' axes,
        NaN where there is no sample: always so in the chest's gyroscope; table ``subject`` (1 to
        10), ``session`` (always 1) and the columns of `read_labelled`; meta ``rate``, ``sites``,
        ``source``. And what was left out: files, lines, movements that are none of this project's
        activities.

    Raises:
        InputError: the root holds no recording of MHEALTH, or none that can be used.
    """
    return read_labelled(root, MHEALTH, rate, trim, shortest, progress)


def _identify(match: re.Match) -> tuple[str, dict[str, int]]:
    return f"subject{match[1]}", {"subject": int(match[1]), "session": 1}


def _read(content: bytes) -> Rows:
    """A line that cannot be read is a lost sample of all sensors: the file has no stamps."""
    columns = [LABEL, *(at + axis for at in FIRST.values() for axis in range(3))]
    numbers, values, told = read_rows(content, WIDTH, columns, sep="\t")
    known = np.isfinite(values[:, 0])
    if not known.all():
        told = "; ".join(filter(None, (told, f"{(~known).sum()} lines lack a label")))
    numbers, values = numbers[known], values[known]
    signals = {key: values[:, 1 + 3 * i : 4 + 3 * i] for i, key in enumerate(FIRST)}
    signals |= {key: np.radians(signal) for key, signal in signals.items() if key[0] == "gyro"}
    return Rows(numbers, values[:, 0], signals, told)


MHEALTH = LabelledSet(
    source="MHEALTH",
    example="mHealth_subject1.log",
    outer=re.compile(r"mhealth.*\.zip$", re.IGNORECASE),
    name=re.compile(r"(?:^|/)mHealth_subject(\d+)\.log$", re.IGNORECASE),
    identify=_identify,
    read=_read,
    rate=RATE,
    sites=SITES,
    movements=MOVEMENTS,
    activities=ACTIVITY,
)
