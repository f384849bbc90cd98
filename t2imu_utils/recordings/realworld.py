"""Reader of the raw RealWorld2016 archive (Sztyler and Stuckenschmidt 2016, reference [32]).

The archive is a zip of zips of CSV files, three deep for the subjects who climbed stairs in three
sessions. Nothing is extracted: members are read one at a time in memory. No subject is hard-coded;
sessions come from the names of the CSV files (none in the name is session 1) and are never joined.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from tqdm import tqdm

from t2imu_utils.activities import ACTIVITIES, POSITIONS, REALWORLD_ACTIVITY
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.motion.skeleton import RATE
from t2imu_utils.recordings import streams

SENSOR = {"acc": "acc", "Gyroscope": "gyro"}
PROBAND = re.compile(r"(?:^|/)proband(\d+)/", re.IGNORECASE)
PACKED = re.compile(r"^(acc|gyr)_([a-z]+)(?:_\d+)?_csv\.zip$")
STREAM = re.compile(r"^(acc|Gyroscope|MagneticField)_([a-z]+)(?:_(\d+))?_([a-z]+)\.csv$")
OUTER = re.compile(r"realworld.*\.zip$", re.IGNORECASE)
COLUMNS = ["attr_time", "attr_x", "attr_y", "attr_z", "id"]
CONSEQUENCES = "no usable", "the archive has none"  # told after their causes
REMEDY = "RealWorld's are in m/s^2 and rad/s: convert the file, or get the archive again."
RANGE = 19.6  # m/s^2: the accelerometers end at 2 g
SHORTEST = 2.0  # seconds of a clip; less holds no window

# What the data set's description says; minutes are approximate, for one subject.
SUBJECTS = 15
MINUTES = {activity: 1.7 if activity == "jumping" else 10.0 for activity in ACTIVITIES}


def read_realworld(
    root: Path,
    activities: Collection[str] = ACTIVITIES,
    trim: tuple[float, float] = (6.0, 7.0),
) -> tuple[Clips, list[Skipped]]:
    """Read accelerometers and gyroscopes of RealWorld.

    Every stream is put on its fitted clock (`streams.uniform_pieces`), trimmed at its own ends,
    low-passed and sampled on one grid for all positions of a session: frames lie at multiples of
    1 / 20 s of Unix time.

    Args:
        root: the outer zip, a folder that holds it, or an unpacked tree down to any level with
            folders ``proband<n>`` (with or without ``data/``; zips or loose CSV files).
        activities: to read, of `ACTIVITIES`.
        trim: seconds to leave out at the start and the end of each stream, where the phones are
            still in the hands.

    Returns:
        Clips: arrays ``acc`` (m/s^2) and ``gyro`` (rad/s), (F, 7, 3) float32 in the phones' axes,
        NaN where a position is missing; table ``subject``, ``activity``, ``session``, the columns
        of `streams.cut_clips`, ``clipped`` (share of raw accelerations at the end of the range,
        worst position), ``late``, ``bridged`` and ``lost`` (`streams.Timing`, summed over the
        session's streams); meta ``rate`` and ``sites``. And everything that was left out.
    """
    skipped: list[Skipped] = []
    parts: list[Clips] = []
    with streams.open_tree(root, OUTER, skipped) as entries:
        groups, found = _groups(Path(root).resolve().name, entries, skipped)
        if not found:
            raise InputError(
                root, f"{len(entries)} files, no acc_*_csv.zip or acc_*.csv in a folder proband<n>",
                "the RealWorld2016 archive or its unpacked tree",
                "Point to realworld2016_dataset.zip or to the folder with proband1 to proband15.",
            )  # fmt: skip
        pairs = [(s, a) for s in sorted(found) for a in ACTIVITIES if a in activities]
        for subject, activity in tqdm(pairs, "RealWorld", mininterval=2):
            members = groups.get((subject, activity), [])
            if not members:
                skipped.append(Skipped(f"proband{subject} {activity}", "the archive has none"))
            for session, signals in sorted(_sessions(members, activity, skipped).items()):
                facts = {"subject": subject, "activity": activity, "session": session}
                parts += _session(signals, facts, trim, skipped)
    skipped.sort(key=lambda one: one.reason.startswith(CONSEQUENCES))
    return streams.joined(parts, root, skipped), skipped


Streams = dict[tuple[str, str], np.ndarray]  # (sensor, position) -> time, x, y, z, id


def _groups(
    root: str, entries: Sequence[streams.Entry], skipped: list[Skipped]
) -> tuple[dict[tuple[int, str], list[streams.Entry]], set[int]]:
    """Entries that may hold wanted streams, by subject and activity; and the subjects present."""
    groups: dict[tuple[int, str], list[streams.Entry]] = defaultdict(list)
    found: set[int] = set()
    for entry in entries:
        proband = PROBAND.search(f"{root}/{entry.name}")
        name = PurePosixPath(entry.name).name
        match = PACKED.match(name) or STREAM.match(name)
        if not match or match[1] == "MagneticField":
            continue
        if not proband:
            skipped.append(Skipped(entry.name, "not in a folder proband<n>: whose is it?"))
        elif match[2] not in REALWORLD_ACTIVITY:
            skipped.append(Skipped(entry.name, f"unknown activity {match[2]}"))
        else:
            found.add(int(proband[1]))
            groups[int(proband[1]), REALWORLD_ACTIVITY[match[2]]].append(entry)
    return groups, found


def _sessions(
    members: Sequence[streams.Entry], activity: str, skipped: list[Skipped]
) -> dict[int, Streams]:
    """All readable acceleration and gyroscope streams of one subject and activity."""
    sessions: dict[int, Streams] = defaultdict(dict)
    for member in sorted(members, key=lambda entry: streams.natural(entry.name)):
        for name, content in streams.leaves(member, skipped):
            base = PurePosixPath(name).name
            if base.lower().startswith("readme"):
                continue
            with streams.listed(skipped, name):
                match = STREAM.match(base)
                if not match or match[1] not in SENSOR:
                    raise streams.Refused("not an acceleration or gyroscope stream")
                if REALWORLD_ACTIVITY.get(match[2]) != activity:
                    raise streams.Refused(f"activity {match[2]} in an archive of {activity}")
                if match[4] not in POSITIONS:
                    raise streams.Refused(f"unknown position {match[4]}")
                session, key = int(match[3] or 1), (SENSOR[match[1]], match[4])
                if key in sessions.get(session, ()):
                    raise streams.Refused("the same stream was read from another file")
                stream, told = _read_stream(content, name, key[0])
                sessions[session][key] = stream
                skipped += [Skipped(f"{name}: lines", told)] if told else []
    return sessions


def _read_stream(content: bytes, name: str, sensor: str) -> tuple[np.ndarray, str]:
    """Time (s), three axes and sample number of a CSV file, and which lines were left out."""
    values, _, told = streams.read_columns(content, COLUMNS)
    if len(values) < 100:
        raise streams.Refused(f"only {len(values)} samples")
    left_out = [told] if told else []
    check, unit = streams.check_gravity, "m/s^2"
    if sensor == "gyro":
        check, unit = streams.check_turns, "rad/s"
    within = check(values[:, 1:4], unit, name, REMEDY)
    left_out += [] if within.all() else [f"{(~within).sum()} readings that no sensor gives"]
    values = values[within]
    values[:, 0] /= 1000
    repeated = np.concatenate([[False], (np.diff(values, axis=0) == 0).all(1)])
    left_out += [f"{repeated.sum()} lines stand twice"] if repeated.any() else []
    return values[~repeated], "; ".join(left_out)


def _session(
    signals: Streams, facts: dict, trim: tuple[float, float], skipped: list[Skipped]
) -> list[Clips]:
    """Clips of one session: all positions on one grid, cut where none was recorded."""
    label = f"proband{facts['subject']} {facts['activity']} session {facts['session']}"
    fitted: dict[tuple[str, str], list[streams.Piece]] = {}
    timings: list[streams.Timing] = []
    clipped = [0.0]
    for (sensor, position), values in signals.items():
        name = f"{label} {position} {sensor}"
        with streams.listed(skipped, name):
            pieces, timing = streams.uniform_pieces(
                values[:, 0], values[:, 1:4], values[:, 4].astype(int)
            )
            if timing.short:
                skipped.append(Skipped(name, f"{timing.short} pieces of under a second"))
            if pieces:
                fitted[sensor, position] = pieces
                timings.append(timing)
                ends = (np.abs(values[:, 1:4]) >= RANGE).any(1).mean()
                clipped += [float(ends)] if sensor == "acc" else []
    fitted = _one_time(fitted, label, skipped)
    for position in POSITIONS:
        missing = [s for s in SENSOR.values() if (s, position) not in fitted]
        if missing:
            skipped.append(Skipped(f"{label} {position}", f"no usable {' and no '.join(missing)}"))
    spans = {}
    for (sensor, position), pieces in fitted.items():
        start, stop = min(p.start for p in pieces) + trim[0], max(p.stop for p in pieces) - trim[1]
        if stop - start >= SHORTEST:
            spans[sensor, position] = start, stop
        else:
            name = f"{label} {position} {sensor}"
            skipped.append(Skipped(name, "nothing is left after trimming"))
    if spans:
        row = {**facts, "recording": label, "clipped": max(clipped)}
        row |= {n: sum(getattr(t, n) for t in timings) for n in ("late", "bridged", "lost")}
        meta = {"rate": RATE, "sites": list(POSITIONS), "source": "RealWorld2016"}
        with streams.listed(skipped, label):
            first, arrays = streams.lay_on_grid(
                fitted, spans, tuple(SENSOR.values()), POSITIONS, RATE
            )
            return streams.cut_clips(first, arrays, row, meta, SHORTEST, skipped)
    return []


def _one_time(
    fitted: dict[tuple[str, str], list[streams.Piece]], label: str, skipped: list[Skipped]
) -> dict[tuple[str, str], list[streams.Piece]]:
    """Streams without the pieces that a wrong clock puts wholly outside the others' session."""
    if not fitted:
        return {}
    start = np.median([pieces[0].start for pieces in fitted.values()])
    stop = np.median([max(p.stop for p in pieces) for pieces in fitted.values()])
    kept = {}
    for (sensor, position), pieces in fitted.items():
        inside = [piece for piece in pieces if piece.start < stop and piece.stop > start]
        if outside := len(pieces) - len(inside):
            told = f"{outside} of its {len(pieces)} pieces lie at another time than the session"
            skipped.append(Skipped(f"{label} {position} {sensor}", told))
        if inside:
            kept[sensor, position] = inside
    return kept


def expected_census(clips: Clips) -> pd.DataFrame:
    """What the data set's description says beside what was read: rows of facts, two columns.

    Minutes are medians over the subjects who did the activity. They fall short of the description
    by the seconds that were trimmed from each session.
    """
    every = SUBJECTS * len(ACTIVITIES)
    seen = np.stack([np.isfinite(acc).all(2).any(0) for acc in clips.each("acc")])
    minutes = clips.table["frames"] / clips.meta["rate"] / 60
    keys = [clips.table["subject"], clips.table["activity"]]
    done = minutes.groupby(keys).sum().unstack()
    positions = pd.DataFrame(seen).groupby(keys).any().sum(axis=1)
    rows = {
        "subjects": (SUBJECTS, len(done)),
        "activities": (len(ACTIVITIES), done.shape[1]),
        "positions": (len(POSITIONS), positions.max()),
        "subjects with every activity": (SUBJECTS, (done.notna().sum(axis=1) == 8).sum()),
        "subject and activity, with every position": (every, (positions == len(POSITIONS)).sum()),
        "minutes in all": (SUBJECTS * sum(MINUTES.values()), minutes.sum()),
    }
    for activity in ACTIVITIES:
        found = done[activity].median() if activity in done else 0.0
        rows[f"minutes of {activity} for a subject"] = MINUTES[activity], found
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["description", "here"])
    return table.astype(float).round(1)
