"""Reader of PAMAP2 (Reiss and Stricker 2012): nine subjects, three inertial units, 18 activities.

One file holds all that a subject did in a session, 54 columns at 100 Hz. Each unit sent its samples
by radio and lost 0.1 to 0.4 % of them, which the files spell NaN.
"""

import re
from pathlib import Path

import numpy as np

from t2imu_utils.clips import Clips
from t2imu_utils.errors import Skipped
from t2imu_utils.imu.archives import Refused, read_rows
from t2imu_utils.imu.labelled import LabelledSet, Rows, read_labelled

RATE = 100.0  # Hz, of the stamps
WIDTH = 54
TIME, LABEL = 0, 1  # columns, as all that follow
LONGEST = 1e6  # seconds; no recording takes days
UNIT = {"forearm": 3, "chest": 20, "shin": 37}  # first column: hand, chest, ankle
# Of a unit's 17 columns. The 6 g accelerometer beside the one of 16 g saturates when running.
OFFSET = {"acc": 1, "gyro": 7}
MOVEMENTS = {
    0: "transient", 1: "lying", 2: "sitting", 3: "standing", 4: "walking", 5: "running",
    6: "cycling", 7: "Nordic walking", 9: "watching TV", 10: "computer work", 11: "car driving",
    12: "ascending stairs", 13: "descending stairs", 16: "vacuum cleaning", 17: "ironing",
    18: "folding laundry", 19: "house cleaning", 20: "playing soccer", 24: "rope jumping",
}  # fmt: skip
ACTIVITY = {
    "lying": ("lying", "lying"),
    "sitting": ("sitting", "sitting"),
    "standing": ("standing", "standing"),
    "walking": ("walking", "walking"),
    "running": ("running", "running"),
    "ascending stairs": ("climbing up", "climbing up"),
    "descending stairs": ("climbing down", "climbing down"),
    "rope jumping": ("jumping", "rope jumping"),
}


def read_pamap2(
    root: Path,
    rate: float = 20.0,
    trim: tuple[float, float] = (0.0, 0.0),
    shortest: float = 2.0,
    progress: bool = True,
) -> tuple[Clips, list[Skipped]]:
    """Read accelerometers (16 g) and gyroscopes of PAMAP2.

    The hand's unit was worn over the wrist of the dominant arm and the ankle's on the same side:
    they are given as ``forearm`` and ``shin``, whichever side that is. The description does not say
    how the units' axes lie on the body, so they are left as they are.

    Each stretch of one label is a recording. Samples that a unit lost are interpolated up to
    0.15 s and counted; longer losses stay missing.

    Args:
        root: the data set's zip (also as a zip in a zip, as it is distributed), or a folder.
        rate: of the clips, frames per second.
        trim: seconds to leave out at the start and the end of each stretch.
        shortest: stretches under this many seconds are left out.
        progress: show a bar.

    Returns:
        Clips: arrays ``acc`` (m/s^2) and ``gyro`` (rad/s), (F, 3, 3) float32 in the units' axes,
        NaN where a unit lost its samples; table ``subject`` (101 to 109), ``session`` (1 protocol,
        2 optional) and the columns of `read_labelled`; meta ``rate``, ``sites``, ``source``. And
        what was left out: files, lines, movements that are none of this project's activities.

    Raises:
        InputError: the root holds no recording of PAMAP2, or none that can be used.
    """
    return read_labelled(root, PAMAP2, rate, trim, shortest, progress)


def _identify(match: re.Match) -> tuple[str, dict[str, int]]:
    session = (match[1] or "protocol").lower()
    facts = {"subject": int(match[2]), "session": 2 if session == "optional" else 1}
    return f"subject{match[2]} {session}", facts


def _read(content: bytes) -> Rows:
    first = {(sensor, site): UNIT[site] + OFFSET[sensor] for sensor in OFFSET for site in UNIT}
    columns = [TIME, LABEL, *(at + axis for at in first.values() for axis in range(3))]
    _, values, told = read_rows(content, WIDTH, columns)
    known = np.isfinite(values[:, LABEL]) & (np.abs(values[:, TIME]) < LONGEST)
    numbers = np.round(values[known, TIME] * RATE).astype(np.int64)
    fresh = np.diff(numbers, prepend=numbers[:1] - 1) != 0
    values, numbers = values[np.flatnonzero(known)[fresh]], numbers[fresh]
    for left_out, what in ((~known, "lack a stamp or a label"), (~fresh, "repeat a stamp")):
        if left_out.any():
            told = "; ".join(filter(None, (told, f"{left_out.sum()} lines {what}")))
    step = np.median(np.diff(numbers)) if len(numbers) > 1 else 0
    if step != 1:
        raise Refused(f"stamps that step by {step / RATE:g} s, not {1 / RATE:g}")
    signals = {key: values[:, 2 + 3 * i : 5 + 3 * i] for i, key in enumerate(first)}
    return Rows(numbers, values[:, 1], signals, told)


PAMAP2 = LabelledSet(
    source="PAMAP2",
    example="Protocol/subject101.dat",
    outer=re.compile(r"pamap2.*\.zip$", re.IGNORECASE),
    name=re.compile(r"(?:^|/)(?:(Protocol|Optional)/)?subject(\d+)\.dat$", re.IGNORECASE),
    identify=_identify,
    read=_read,
    rate=RATE,
    sites=tuple(UNIT),
    movements=MOVEMENTS,
    activities=ACTIVITY,
)
