"""Data sets in which every row carries its own label: from their files to clips.

PAMAP2 and MHEALTH are such: one file holds all that a subject did, sensors were sampled together
at one rate, and a column says what was being done. A stretch of one label is a recording of its
own; nothing is joined across a change of label or across missing rows.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.imu.archives import Entry, Refused, leaves, open_tree
from t2imu_utils.imu.streams import (
    Piece,
    lay_on_grid,
    recorded_sites,
    recorded_stretches,
    uniform_pieces,
)

ROWS_MISSING = 1.0  # seconds without a row: what follows is another stretch
SENSORS = ("acc", "gyro")


@dataclass(frozen=True)
class Rows:
    """What one file holds.

    Attributes:
        numbers: of the rows' samples; a hole is a lost sample.
        labels: the data set's own codes.
        signals: for each sensor and site, m/s^2 and rad/s, NaN where it lost the sample.
        told: lines that were left out ("" for none).
    """

    numbers: Int[np.ndarray, "n"]
    labels: Float[np.ndarray, "n"]
    signals: dict[tuple[str, str], Float[np.ndarray, "n 3"]]
    told: str


@dataclass(frozen=True)
class LabelledSet:
    """How a data set is read.

    Attributes:
        source: its name.
        example: a name of its files, for messages.
        outer: names of its zips.
        name: names of its files.
        identify: name and facts (columns of the table) of a file, from its match with `name`.
        read: the rows of a file's content; raises `Refused`.
        rate: samples per second.
        sites: of the clips, in order.
        movements: the data set's name of each label.
        activities: activity and detail of each movement that is used.
    """

    source: str
    example: str
    outer: re.Pattern
    name: re.Pattern
    identify: Callable[[re.Match], tuple[str, dict[str, int]]]
    read: Callable[[bytes], Rows]
    rate: float
    sites: tuple[str, ...]
    movements: Mapping[int, str]
    activities: Mapping[str, tuple[str, str]]


def read_labelled(
    root: Path,
    data_set: LabelledSet,
    rate: float,
    trim: tuple[float, float],
    shortest: float,
    progress: bool,
) -> tuple[Clips, list[Skipped]]:
    """Read every usable file of a folder or zip.

    Each sensor's samples are bridged over short losses and split at longer ones (see `streams`),
    low-passed and sampled on one grid: frames lie at multiples of 1 / `rate` of the file's time.

    Args:
        root: a folder or a zip; zips in it whose names match are read too.
        data_set: how.
        rate: of the clips, frames per second.
        trim: seconds to leave out at the start and the end of each stretch of one label.
        shortest: stretches under this many seconds are left out, and told.
        progress: show a bar.

    Returns:
        Clips: arrays ``acc`` (m/s^2) and ``gyro`` (rad/s), (F, S, 3) float32, NaN where there is
        no sample; table: the file's facts, ``activity``, ``detail``, ``movement`` (the data set's
        name), ``recording`` (a stretch of one label), ``part`` (a recording is cut where no sensor
        recorded), ``start`` (seconds from the file's sample 0), ``positions`` (how many recorded),
        ``bridged`` (lost samples that were interpolated) and ``lost`` (seconds of longer losses),
        the last two summed over the recording's streams; meta ``rate``, ``sites``, ``source``. And
        what was left out: files, lines, stretches, and each other movement once a file.

    Raises:
        InputError: no file is named as the data set names them, or none can be used.
    """
    skipped: list[Skipped] = []
    parts: list[Clips] = []
    done: set[str] = set()
    with open_tree(root, data_set.outer, skipped) as entries:
        named = [(entry, data_set.name.search(entry.name)) for entry in entries]
        if not any(match for _, match in named):
            raise InputError(
                root,
                f"{len(named)} files, none named as {data_set.source} names them",
                f"{data_set.example} and others",
                f"Point to the folder of {data_set.source} or to its zip.",
            )
        for entry, match in tqdm(named, data_set.source, mininterval=2, disable=not progress):
            if match is None:
                reason = f"not named like a recording of {data_set.source}"
                skipped.append(Skipped(entry.name, reason))
                continue
            name, facts = data_set.identify(match)
            if name in done:
                skipped.append(Skipped(entry.name, "the same recording was read from another file"))
                continue
            rows = _rows(entry, data_set, skipped)
            if rows is not None:
                done.add(name)
                parts += _stretches(rows, name, facts, data_set, rate, trim, shortest, skipped)
    if not parts:
        reasons = "; ".join(f"{s.name}: {s.reason}" for s in skipped[:3])
        raise InputError(root, f"no usable recording ({reasons})", "at least one", "Get it again.")
    return Clips.concat(parts), skipped


def _rows(entry: Entry, data_set: LabelledSet, skipped: list[Skipped]) -> Rows | None:
    """What a file holds; its text, of some 200 MB, goes when this returns."""
    content = next((data for _, data in leaves(entry, skipped)), None)
    if content is None:
        return None
    try:
        rows = data_set.read(content)
    except Refused as error:
        skipped.append(Skipped(entry.name, str(error)))
        return None
    if rows.told:
        skipped.append(Skipped(f"{entry.name}: lines", rows.told))
    return rows


def _stretches(
    rows: Rows,
    name: str,
    facts: dict[str, int],
    data_set: LabelledSet,
    rate: float,
    trim: tuple[float, float],
    shortest: float,
    skipped: list[Skipped],
) -> list[Clips]:
    """Clips of one file."""
    steps = np.diff(rows.numbers)
    new = (np.diff(rows.labels) != 0) | (steps <= 0) | (steps > ROWS_MISSING * data_set.rate)
    bounds = [0, *(np.flatnonzero(new) + 1).tolist(), len(rows.labels)]
    seen: Counter[str] = Counter()
    other: defaultdict[float, list[float]] = defaultdict(list)
    clips: list[Clips] = []
    for first, stop in zip(bounds[:-1], bounds[1:], strict=True):
        label = float(rows.labels[first])
        movement = _movement(label, data_set.movements)
        low, high = rows.numbers[first] / data_set.rate, rows.numbers[stop - 1] / data_set.rate
        seconds = high - low + 1 / data_set.rate
        if movement not in data_set.activities:
            other[label].append(seconds)
            continue
        seen[movement] += 1
        title = f"{name} {movement} {seen[movement]}"
        if seconds - sum(trim) < shortest:
            reason = f"{seconds:.2f} s, under {shortest + sum(trim):g}"
            skipped.append(Skipped(title, reason))
            continue
        activity, detail = data_set.activities[movement]
        row = {
            **facts, "activity": activity, "detail": detail, "movement": movement,
            "recording": title,
        }  # fmt: skip
        span = low + trim[0], high - trim[1]
        clips += _stretch(rows, slice(first, stop), span, row, data_set, rate, shortest, skipped)
    for label, found in sorted(other.items()):
        movement = _movement(label, data_set.movements)
        why = "none of this project's activities" if movement else "an unknown label"
        reason = f"{why} ({sum(found):.1f} s, {len(found)} times)"
        skipped.append(Skipped(f"{name}: {movement or f'label {label:g}'}", reason))
    return clips


def _movement(label: float, movements: Mapping[int, str]) -> str:
    return movements.get(int(label), "") if label.is_integer() else ""


def _stretch(
    rows: Rows,
    cut: slice,
    span: tuple[float, float],
    row: dict,
    data_set: LabelledSet,
    rate: float,
    shortest: float,
    skipped: list[Skipped],
) -> list[Clips]:
    """Clips of one stretch of a label."""
    fitted: dict[tuple[str, str], list[Piece]] = {}
    bridged, lost = 0, 0.0
    for (sensor, site), signal in rows.signals.items():
        there = cut.start + np.flatnonzero(np.isfinite(signal[cut]).all(1))
        pieces: list[Piece] = []
        if len(there):
            numbers = rows.numbers[there]
            stamps = numbers / data_set.rate
            pieces, timing = uniform_pieces(stamps, signal[there], numbers, nominal=data_set.rate)
            bridged, lost = bridged + timing.bridged, lost + timing.lost
            if timing.short:
                reason = f"{timing.short} pieces of under a second"
                skipped.append(Skipped(f"{row['recording']} {site} {sensor}", reason))
        if pieces:
            fitted[sensor, site] = pieces
        else:
            skipped.append(Skipped(f"{row['recording']} {site}", f"no usable {sensor}"))
    spans = {
        key: (max(pieces[0].start, span[0]), min(pieces[-1].stop, span[1]))
        for key, pieces in fitted.items()
    }
    spans = {key: (start, stop) for key, (start, stop) in spans.items() if start < stop}
    if not spans:
        return []
    first, arrays = lay_on_grid(fitted, spans, SENSORS, data_set.sites, rate)
    table: list[dict] = []
    parts: list[dict[str, np.ndarray]] = []
    for low, high in recorded_stretches(arrays):
        if (high - low) / rate < shortest:
            reason = f"{(high - low) / rate:.2f} s between gaps, under {shortest:g}"
            skipped.append(Skipped(row["recording"], reason))
            continue
        part = {sensor: array[low:high] for sensor, array in arrays.items()}
        table.append({
            **row, "part": len(table), "start": (first + low) / rate,
            "positions": recorded_sites(part), "bridged": bridged, "lost": lost,
        })  # fmt: skip
        parts.append(part)
    if not table:
        return []
    signals: dict[str, Sequence[np.ndarray]]
    signals = {sensor: [part[sensor] for part in parts] for sensor in SENSORS}
    meta = {"rate": float(rate), "sites": list(data_set.sites), "source": data_set.source}
    return [Clips.from_list(table, signals, meta)]
