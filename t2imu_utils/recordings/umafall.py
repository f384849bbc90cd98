"""Reader of UMAFall (Casilari et al. 2017): real accelerations at five positions.

Each recording of 15 seconds is one CSV file. Accelerations only: over half of the gyroscope
streams are clipped at 256 deg/s.
"""

import re
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float
from scipy.ndimage import uniform_filter1d
from tqdm import tqdm

from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.motion.skeleton import RATE
from t2imu_utils.recordings import streams

RANGES = (2, 4, 8, 16)  # g
REMEDY = "UMAFall's are in g: convert the file, or get the data set again."
LARGEST = 16.5  # g: the widest range of any of the sensors, and a little
SITES = ("chest", "forearm", "waist", "thigh", "shin")
POSITION_SITE = {
    "RIGHTPOCKET": "thigh", "LEFTPOCKET": "thigh", "POCKET": "thigh",
    "CHEST": "chest", "WAIST": "waist", "WRIST": "forearm", "ANKLE": "shin",
}  # fmt: skip
ACTIVITY = {  # with the direction on stairs
    "Walking": ("walking", "walking"), "Jogging": ("running", "running"),
    "Hopping": ("jumping", "jumping"), "GoUpstairs": ("stair climbing", "climbing up"),
    "GoDownstairs": ("stair climbing", "climbing down"), "HandsUp": ("standing", "standing"),
    "Aplausing": ("standing", "standing"), "MakingACall": ("standing", "standing"),
}  # fmt: skip
NAME = re.compile(
    r"(?:^|/)UMAFall_Subject_(\d+)_(ADL|Fall)_(.+?)_(\d+)_(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)\.csv$",
    re.IGNORECASE,
)
SHORTEST = 4.0  # seconds of a recording, and of a stream
SENSOR_LINE = re.compile(r"^%\s*[0-9A-Fa-f:]{17}\s*;\s*(\d+)\s*;\s*(\w+)\s*;", re.MULTILINE)
TAG_RATE = 20.0  # Hz, which the tags keep to 0.2 %; phones differ by up to 1.5 % and are fitted
TIME, NUMBER, X, Y, Z, KIND, SENSOR = range(7)
ACCELEROMETER = 0

# SensorTags were worn with their x axis up: walking, gravity is 9.3 to 10.8 m/s^2 on x at chest,
# waist and ankle, and under 0.6 on the mean of the others. A quarter turn about z makes that y.
TAG_TO_SITE = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
MOVES = 1.0  # m/s^2: rest deviates by 0.3, the slowest walkers by 1.5 from the second's mean

# A SensorTag counts 1/4096 g at its range of 8 g and 1/16384 g at 2 g.
COARSE_STEP = 4
FINE_COUNTS = 16384
CLIP_COUNTS = (32511, 32767, 32768)  # readings at the end of the range, not on the coarse grid


def read_umafall(root: Path) -> tuple[Clips, list[Skipped]]:
    """Read every usable recording of a folder or zip of UMAFall.

    Positions come from each file's header; all streams of a file are put on one grid. SensorTag
    samples that were written at a quarter of their size are mended (`repair_scale`) and counted.
    Tags' axes are turned so that y points up as in `imu.sites`; the phone lay in the pocket either
    way up and keeps its own.

    Recordings last 15 s whatever happens: on stairs half of one is standing. The rest before and
    after the movement is cut off (activities other than standing): frames before the first and
    after the last second in which the magnitude of acceleration, at the median position, deviates
    by more than `MOVES`.

    Args:
        root: the folder or `UMAFall_Dataset.zip`.

    Returns:
        Clips: array ``acc`` (F, 5, 3) float32 in m/s^2, NaN where a position is missing; table
        ``subject``, ``activity``, ``detail`` (the direction on stairs), ``movement`` (the
        dataset's name), ``trial``, ``recorded``, ``rescaled`` (share of samples mended) and
        ``clipped`` (share at the end of the range), both of the worst position, ``bridged`` and
        ``lost`` (`streams.Timing`), ``rest`` (seconds cut off), ``recording`` (the file's name);
        meta ``rate`` and ``sites``. And what was left out: files, positions of files, lines.
    """
    skipped: list[Skipped] = []
    parts: list[Clips] = []
    meta = {"rate": RATE, "sites": list(SITES), "source": "UMAFall"}
    with streams.open_tree(root, streams.ZIPS, skipped) as entries:
        named = [(entry, NAME.search(entry.name)) for entry in entries]
        if not any(match for _, match in named):
            raise InputError(
                root, f"{len(named)} files, none named as UMAFall names them",
                "UMAFall_Subject_01_ADL_Walking_1_<date>.csv and others",
                "Point to the folder of UMAFall or to its zip.",
            )  # fmt: skip
        for entry, match in tqdm(named, "UMAFall", mininterval=2):
            with streams.listed(skipped, entry.name):
                if match is None:
                    raise streams.Refused("not named like a recording of UMAFall")
                if match[2].upper() == "FALL":
                    raise streams.Refused("a fall: none of this project's activities")
                if match[3] in ("Sitting_GettingUpOnAChair", "LyingDown_OnABed"):
                    raise streams.Refused("a transition between postures, not one activity")
                if match[3] not in ACTIVITY:
                    raise streams.Refused(
                        f"the movement {match[3]} is none of this project's activities"
                    )
                row, frames = _recording(entry, match, skipped)
                parts.append(Clips.from_list([row], {"acc": [frames]}, meta))
    return streams.joined(parts, root, skipped), skipped


def _recording(
    entry: streams.Entry, match: re.Match, skipped: list[Skipped]
) -> tuple[dict, Float[np.ndarray, "F 5 3"]]:
    """A row of the table, and frames in m/s^2."""
    name, content = entry.name, entry.read()
    head, sensors = _header(content)
    values, _, told = streams.read_columns(content[head:], list(range(7)), sep=";")
    acc = values[values[:, KIND] == ACCELEROMETER]
    if not len(acc):
        raise streams.Refused("no line of an accelerometer")
    sane = streams.check_gravity(acc[:, X : Z + 1], "g", name, REMEDY, LARGEST)
    over = "" if sane.all() else f"{(~sane).sum()} accelerations over {LARGEST} g"
    if told or over:
        skipped.append(Skipped(f"{name}: lines", "; ".join(filter(None, (told, over)))))
    fitted, facts = _streams(acc[sane], sensors, name, skipped)
    if not fitted:
        raise streams.Refused("no position has enough samples")
    stop = max(piece.stop for pieces in fitted.values() for piece in pieces)
    # From 0: what a phone delivers first was measured before the recording began.
    spans = dict.fromkeys(fitted, (0.0, stop))
    frames = streams.lay_on_grid(fitted, spans, ("acc",), SITES, RATE)[1]["acc"] * np.float32(
        streams.GRAVITY
    )
    activity, detail = ACTIVITY[match[3]]
    there = np.flatnonzero(np.isfinite(frames).any((1, 2)))
    whole = first, last = int(there[0]), int(there[-1]) + 1
    if activity != "standing":
        first, last = _moving(frames, first, last)
    if (last - first) / RATE < SHORTEST:
        raise streams.Refused(f"{(last - first) / RATE:.1f} s of movement, under {SHORTEST:g}")
    row = {
        "subject": int(match[1]), "activity": activity, "detail": detail, "movement": match[3],
        "trial": int(match[4]), "recorded": match[5], **facts,
        "rest": (whole[1] - whole[0] - (last - first)) / RATE,
        "recording": PurePosixPath(name).stem,
    }  # fmt: skip
    return row, frames[first:last]


def _streams(
    acc: Float[np.ndarray, "n 7"], sensors: dict[int, str], name: str, skipped: list[Skipped]
) -> tuple[dict[tuple[str, str], list[streams.Piece]], dict[str, float]]:
    """Pieces of every position in g, and what the table tells of them."""
    fitted: dict[tuple[str, str], list[streams.Piece]] = {}
    facts = {"rescaled": 0.0, "clipped": 0.0, "bridged": 0, "lost": 0.0}
    for sensor, site in sensors.items():
        rows, phone = acc[acc[:, SENSOR] == sensor], site == "thigh"
        if len(rows) < 2 or rows[-1, TIME] - rows[0, TIME] < 1000 * SHORTEST:
            skipped.append(Skipped(f"{name}: {site}", f"only {len(rows)} samples"))
            continue
        signal, scaled = repair_scale(rows[:, X : Z + 1])
        facts["rescaled"] = max(facts["rescaled"], scaled / len(rows))
        facts["clipped"] = max(facts["clipped"], _clipped(signal))
        pieces, timing = streams.uniform_pieces(
            rows[:, TIME] / 1000, signal if phone else signal @ TAG_TO_SITE.T,
            rows[:, NUMBER].astype(int), None if phone else TAG_RATE,
        )  # fmt: skip
        facts["bridged"] += timing.bridged
        facts["lost"] += timing.lost
        if pieces:
            fitted["acc", site] = pieces
    absent = [site for site in SITES if site not in sensors.values()]
    skipped += [Skipped(f"{name}: {site}", "its header names no such sensor") for site in absent]
    return fitted, facts


def _clipped(signal: np.ndarray) -> float:
    """Share of samples at the end of the range, where the stream reaches one (2, 4, 8 or 16 g)."""
    size = np.abs(signal).max(1)
    if not any(abs(size.max() / end - 1) < 0.02 for end in RANGES):
        return 0.0
    return float((size > size.max() - 0.02).mean())


def _moving(frames: np.ndarray, first: int, last: int) -> tuple[int, int]:
    """The span from the first to the last second in which most positions are shaken."""
    size = np.linalg.norm(frames[first:last], axis=2)
    size = size[:, np.isfinite(size).mean(0) > 0.5]
    size = np.where(np.isfinite(size), size, np.nanmean(size, 0))
    second = round(RATE)
    mean = uniform_filter1d(size, second, axis=0)
    spread = np.maximum(uniform_filter1d(size**2, second, axis=0) - mean**2, 0) ** 0.5
    shaken = np.flatnonzero(np.median(spread, axis=1) > MOVES)
    return (first + int(shaken[0]), first + int(shaken[-1]) + 1) if len(shaken) else (first, first)


def _header(content: bytes) -> tuple[int, dict[int, str]]:
    """Where the samples begin, and the site of each sensor id, from a file's header."""
    mark = content.find(b"% TimeStamp")
    head = content.find(b"\n", mark) + 1
    if mark < 0 or head < 1:
        raise streams.Refused("no header line that names the columns (% TimeStamp; …)")
    named = SENSOR_LINE.findall(content[:head].decode("latin-1"))
    sensors = {
        int(sensor): POSITION_SITE[position.upper()]
        for sensor, position in named
        if position.upper() in POSITION_SITE
    }
    if not sensors:
        found = ", ".join(position for _, position in named) or "none"
        raise streams.Refused(f"its header names no known position (found {found})")
    return head, sensors


def repair_scale(signal: Float[np.ndarray, "n 3"]) -> tuple[Float[np.ndarray, "n 3"], int]:
    """Undo the wrong scale of SensorTag samples, in g; return also how many there were.

    Some stretches of some streams lie on a grid of 1/16384 g, while the rest of the stream lies on
    one of 1/4096 g; there a body at rest reads 0.25 g and the range ends at 2 g. They were counted
    at 8 g and written with the step of 2 g. One or two samples between such ones, on the coarse
    grid by chance, belong to them. Streams on no such grid (phones) are returned as they are.
    """
    counts = signal * FINE_COUNTS
    if np.abs(counts - np.round(counts)).max() > 0.02:
        return signal, 0
    counts = np.abs(np.round(counts)).astype(int)
    fine = ((counts % COARSE_STEP != 0) & ~np.isin(counts, CLIP_COUNTS)).any(1)
    for gap in (1, 2):
        near = np.zeros(len(fine), bool)
        near[1 : -gap or None] = fine[: -gap - 1] & fine[gap + 1 :]
        for shift in range(gap):
            fine[shift:] |= near[: len(fine) - shift]
    return np.where(fine[:, None], signal * COARSE_STEP, signal), int(fine.sum())
