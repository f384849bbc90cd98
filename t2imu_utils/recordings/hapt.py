"""Reader of HAPT (Reyes-Ortiz et al. 2015): a smartphone on the waist of 30 people.

Each experiment has one file an accelerometer and one a gyroscope, sampled at 50 Hz without stamps;
``labels.txt`` says from which sample to which a person did what.
"""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.motion.skeleton import RATE
from t2imu_utils.recordings import streams

SAMPLING = 50.0  # Hz
SITE = "waist"
SHORTEST = 2.0  # seconds of a clip
FILE = re.compile(r"(?:^|/)(acc|gyro)_exp(\d+)_user(\d+)\.txt$")
LABELS = re.compile(r"(?:^|/)RawData/labels\.txt$")
# The others, 7 to 12, are transitions between postures.
ACTIVITY = {
    1: "walking", 2: "climbing up", 3: "climbing down", 4: "sitting", 5: "standing", 6: "lying",
}  # fmt: skip
# The phone lay on its side with x up and z away from the body: standing reads (1, -0.2, 0) g.
TO_SITE = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
REMEDY = "Get the data set again."


def read_hapt(root: Path) -> tuple[Clips, list[Skipped]]:
    """Read the six activities of HAPT; transitions between postures are left out.

    Args:
        root: the data set's zip, or a folder with the zip or with ``RawData``.

    Returns:
        Clips: arrays ``acc`` (m/s^2) and ``gyro`` (rad/s), (F, 1, 3) float32, turned so that y
        points up and z away from the body as in `imu.sites`; table ``subject``, ``activity``,
        ``session`` (the experiment), ``recording``, ``part``, ``start`` (s), ``positions``; meta
        ``rate``, ``sites``, ``source``. And what was left out.
    """
    skipped: list[Skipped] = []
    parts: list[Clips] = []
    with streams.open_tree(root, streams.ZIPS, skipped) as entries:
        named = ((m, e) for e in entries if (m := FILE.search(e.name)))
        found = {(m[1], int(m[2]), int(m[3])): entry for m, entry in named}
        labels = next((e for e in entries if LABELS.search(e.name)), None)
        if not found or labels is None:
            raise InputError(
                root, f"{len(entries)} files, no RawData/labels.txt with acc_exp01_user01.txt",
                "HAPT or its zip", "Point to the folder of HAPT or to its zip.",
            )  # fmt: skip
        try:
            table = streams.read_columns(labels.read(), list(range(5)), sep=" ")[0].astype(int)
        except streams.Refused as error:
            raise InputError(labels.name, str(error), "the list of labels", REMEDY) from error
        people = np.unique(table[:, :2], axis=0)
        for experiment, user in tqdm(people, "HAPT", mininterval=2):
            rows = table[(table[:, :2] == (experiment, user)).all(1)]
            name = f"experiment {experiment} user {user}"
            with streams.listed(skipped, name):
                signals = {s: _signal(found, s, experiment, user) for s in ("acc", "gyro")}
                for label, first, last in rows[:, 2:].tolist():
                    if label not in ACTIVITY:
                        skipped.append(Skipped(f"{name} from {first}", "between postures"))
                        continue
                    facts = {
                        "subject": user, "activity": ACTIVITY[label], "session": experiment,
                        "recording": f"{name} {ACTIVITY[label]} from {first}",
                    }  # fmt: skip
                    with streams.listed(skipped, facts["recording"]):
                        parts += _stretch(signals, facts, first - 1, last, skipped)
    return streams.joined(parts, root, skipped), skipped


def _signal(
    found: dict[tuple[str, int, int], streams.Entry], sensor: str, experiment: int, user: int
) -> Float[np.ndarray, "n 3"]:
    """The samples of one experiment in SI units and the axes of the site."""
    entry = found.get((sensor, experiment, user))
    if entry is None:
        raise streams.Refused(f"no {sensor} file")
    values, _, told = streams.read_columns(entry.read(), [0, 1, 2], sep=" ")
    if told:
        raise streams.Refused(f"{entry.name}: {told}: which sample is which?")
    check, unit, size = streams.check_gravity, "g", streams.GRAVITY
    if sensor == "gyro":
        check, unit, size = streams.check_turns, "rad/s", 1.0
    if not check(values, unit, entry.name, f"HAPT's are in {unit}. {REMEDY}").all():
        raise streams.Refused(f"{entry.name}: readings that no phone gives")
    return values @ TO_SITE.T * size


def _stretch(
    signals: dict[str, Float[np.ndarray, "n 3"]],
    facts: dict,
    first: int,
    stop: int,
    skipped: list[Skipped],
) -> list[Clips]:
    pieces = {
        (sensor, SITE): [streams.Piece(first / SAMPLING, 1 / SAMPLING, signal[first:stop])]
        for sensor, signal in signals.items()
    }
    if any(not len(piece.values) for (piece,) in pieces.values()):
        raise streams.Refused("its file ends before")
    spans = {key: (piece.start, piece.stop) for key, (piece,) in pieces.items()}
    begin, arrays = streams.lay_on_grid(pieces, spans, tuple(signals), (SITE,), RATE)
    meta = {"rate": RATE, "sites": [SITE], "source": "HAPT"}
    return streams.cut_clips(begin, arrays, facts, meta, SHORTEST, skipped)
