"""Recordings of your own: any CSV files, by a layout in the track (book/own_recordings.md)."""

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import Field, model_validator
from tqdm import tqdm

from t2imu_utils.activities import ACTIVITIES, SITES
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.motion.skeleton import RATE
from t2imu_utils.recordings import streams
from t2imu_utils.tracks import Section

TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
CLOCK_TOLERANCE = 0.1  # between a rate that the layout states and the one of the stamps
FACTS = ("subject", "site", "activity")
PART = re.compile(r"(\{\w+\}|\*|\?)")  # of a pattern of names

Column = str | int  # its name, or its place from 0 in files without a header
Axes = Annotated[list[Column], Field(min_length=3, max_length=3)]
Key = str | int
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Columns(Section):
    """Where the numbers are. With several sites in one line, `acc` and `gyro` name each one's."""

    acc: Axes | dict[str, Axes]
    gyro: Axes | dict[str, Axes] | None = None
    time: Column | None = None
    subject: Column | None = None  # these three where the file's name does not tell
    site: Column | None = None
    activity: Column | None = None


class Units(Section):
    """Of the files; clips are in m/s^2 and rad/s."""

    acc: Literal["m/s^2", "g", "mg"]
    gyro: Literal["rad/s", "deg/s"] = "rad/s"
    time: Literal["s", "ms", "us", "ns"] = "s"


class Layout(Section):
    """How a folder of CSV files is read; `Columns` and `Units` are of the files."""

    folder: str  # below T2IMU_DATA, or an absolute path; zips in it are read too
    # Pattern of the names: {subject}, {site}, {activity} and any other {part} stand for one part,
    # * for anything. Files that agree in all parts but the site were recorded at the same time.
    files: str
    columns: Columns
    units: Units
    # Samples per second; needed where there is no column of time.
    rate: Annotated[float, Field(ge=streams.RATES[0], le=streams.RATES[1])] | None = None
    activities: dict[Key, Literal[ACTIVITIES]] = {}  # by the files' names of them, as are sites
    sites: dict[Key, Literal[SITES]] = {}
    fixed: dict[Literal[FACTS], Key] = {}  # of all files
    # For a sensor or a site, what x, y and z of the site are in the file: [-y, x, z]. A sensor's
    # are applied before a site's.
    axes: dict[Literal["acc", "gyro", *SITES], list[Literal["x", "y", "z", "-x", "-y", "-z"]]] = {}
    range: dict[Literal["acc", "gyro"], Positive] = {}  # where readings end, in the files' unit
    where: dict[Column, Key] = {}  # only lines with these values in these columns are read
    separator: Annotated[str, Field(min_length=1)] = ","
    decimal: Literal[".", ","] = "."
    comment: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    shortest: Positive = 2.0  # seconds; shorter stretches are left out

    @model_validator(mode="after")
    def _complete(self) -> "Layout":
        parts = [part[1:-1] for part in PART.findall(self.files) if part[0] == "{"]
        if strange := [part for part in parts if not part.isidentifier()]:
            raise ValueError(f"files: a part {strange[0]}, not a word that begins with a letter")
        told = {*parts, *self.fixed, *(f for f in FACTS if getattr(self.columns, f) is not None)}
        told |= {"site"} if isinstance(self.columns.acc, dict) else set()
        if untold := [fact for fact in FACTS if fact not in told]:
            raise ValueError(f"{untold[0]}: in files as {{{untold[0]}}}, in columns, or in fixed")
        if self.rate is None and self.columns.time is None:
            raise ValueError("rate: needed without columns.time")
        if isinstance(self.columns.gyro, dict) and not isinstance(self.columns.acc, dict):
            raise ValueError("columns.gyro: by site, so columns.acc too")
        for key, axes in self.axes.items():
            if sorted(axis.lstrip("-") for axis in axes) != ["x", "y", "z"]:
                raise ValueError(f"axes.{key}: x, y and z in some order, each with or without -")
        return self


def read_csv(layout: Layout, root: Path) -> tuple[Clips, list[Skipped]]:
    """Read CSV files by a layout.

    Args:
        layout: how.
        root: the folder (`layout.folder`), or a zip.

    Returns:
        Clips: arrays ``acc`` (m/s^2) and, if the layout has one, ``gyro`` (rad/s), (F, S, 3)
        float32, S being the sites that were found; NaN where one is missing. The table has
        ``subject``, the other parts of the files' names, ``clipped`` (share of samples at the end
        of the range, worst stream), ``bridged`` and ``lost`` (`streams.Timing`) and the columns of
        `streams.cut_clips`. And what was left out: files, lines, activities without a name here.

    Raises:
        InputError: no file is named as the layout says, two files are the same recording and site,
            a unit is not the files', or nothing can be used.
    """
    skipped: list[Skipped] = []
    parts: list[Clips] = []
    name = _pattern(layout)
    with streams.open_tree(root, streams.ZIPS, skipped) as entries:
        named = [(e, m.groupdict()) for e in entries if (m := name.search(e.name))]
        if not named:
            raise InputError(
                root, f"{len(entries)} files, such as {', '.join(e.name for e in entries[:3])}",
                f"names like {layout.files}", "Mend layout.files or layout.folder.",
            )  # fmt: skip
        groups: dict[tuple, list[tuple[streams.Entry, dict[str, str]]]] = defaultdict(list)
        for entry, facts in named:
            groups[tuple(v for k, v in facts.items() if k != "site")].append((entry, facts))
        for group in tqdm(groups.values(), "CSV", mininterval=2):
            parts += _recordings(group, layout, skipped)
    clips = streams.joined(parts, root, skipped)
    seen = np.isfinite(clips.arrays["acc"]).any((0, 2))
    meta = {**clips.meta, "sites": [site for site, has in zip(SITES, seen, strict=True) if has]}
    subject = clips.table["subject"]
    if subject.str.fullmatch(r"\d+").all():
        subject = subject.astype(int)
    arrays = {name: array[:, seen] for name, array in clips.arrays.items()}
    return Clips(clips.table.assign(subject=subject), arrays, meta), skipped


def _pattern(layout: Layout) -> re.Pattern:
    """`Layout.files` as a regular expression on the end of a path.

    A part is as short as it can be, but for names that the layout knows: in
    ``{activity}_*`` it may be ``stairs_up``.
    """
    known = {"activity": [*layout.activities, *ACTIVITIES], "site": [*layout.sites, *SITES]}
    out, seen = "", set()
    for part in PART.split(layout.files):
        if part.startswith("{"):
            name = part[1:-1]
            names = sorted(map(str, known.get(name, ())), key=len, reverse=True)
            either = "|".join([*map(re.escape, names), "[^/]+?"])
            out += f"(?P={name})" if name in seen else f"(?P<{name}>{either})"
            seen.add(name)
        else:
            out += {"*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
    return re.compile(f"(?:^|/){out}$")


class _Stream(NamedTuple):
    """What was recorded at one site: a row a sample."""

    file: str
    lines: np.ndarray  # of the file, from 0
    time: Float[np.ndarray, "n"]  # s
    activity: pd.Series  # as the file has it
    sensors: dict[str, Float[np.ndarray, "n 3"]]  # as the file has them


def _recordings(
    group: list[tuple[streams.Entry, dict[str, str]]], layout: Layout, skipped: list[Skipped]
) -> list[Clips]:
    """Clips of the files that were recorded together, by subject."""
    recorded: dict[str, dict[str, _Stream]] = defaultdict(dict)
    for entry, facts in group:
        with streams.listed(skipped, entry.name):
            for subject, site, stream in _streams(entry, facts, layout, skipped):
                if site in recorded[subject]:
                    found = f"the subject, site and other parts of {recorded[subject][site].file}"
                    expected = "names whose parts tell recordings apart"
                    remedy = "Put a part such as {trial} into layout.files."
                    raise InputError(entry.name, found, expected, remedy)
                recorded[subject][site] = stream
    facts = {k: v for k, v in group[0][1].items() if k not in FACTS}
    clips: list[Clips] = []
    for subject, sites in recorded.items():
        label = next(iter(sites.values())).file
        with streams.listed(skipped, label):
            row = {"subject": subject, **facts, "recording": label}
            clips += _recording(sites, row, layout, skipped)
    return clips


def _streams(
    entry: streams.Entry, named: dict[str, str], layout: Layout, skipped: list[Skipped]
) -> list[tuple[str, str, _Stream]]:
    """Subject, site and samples in a file; `named` is what its name tells."""
    columns = layout.columns
    axes = {
        (sensor, site): places
        for sensor in ("acc", "gyro")
        if (given := getattr(columns, sensor))
        for site, places in (given if isinstance(given, dict) else {"": given}).items()
    }
    numbers = [place for places in axes.values() for place in places]
    numbers += [] if columns.time is None else [columns.time]
    told_by = {f: c for f in FACTS if (c := getattr(columns, f)) is not None}
    values, text, told = streams.read_columns(
        entry.read(), numbers, layout.separator, layout.decimal, layout.comment,
        list(dict.fromkeys([*told_by.values(), *layout.where])),
    )  # fmt: skip
    skipped += [Skipped(f"{entry.name}: lines", told)] if told else []
    # Some programs write the number 1 of a label as 1.0.
    text = text.apply(lambda column: column.str.strip().str.removesuffix(".0"))
    lines, second = text.index.to_numpy(), TIME_UNITS[layout.units.time]
    time = lines / layout.rate if columns.time is None else values[:, -1] * second
    facts = pd.DataFrame({**layout.fixed, **named}, index=text.index)
    facts[list(told_by)] = text[list(told_by.values())]
    wanted = [text[column] == str(value) for column, value in layout.where.items()]
    keep = np.logical_and.reduce([np.ones(len(text), bool), *wanted])
    if not keep.any():
        raise streams.Refused(f"no line with {layout.where}")
    found = []
    for name in dict.fromkeys(site for _, site in axes):
        own = facts.assign(site=name) if name else facts
        sensors = {
            sensor: values[:, 3 * place : 3 * place + 3]
            for place, (sensor, site) in enumerate(axes)
            if site == name
        }
        for (subject, at), rows in own.reset_index()[keep].groupby(["subject", "site"], sort=False):
            site = _known(at, layout.sites, SITES)
            if site is None:
                skipped.append(Skipped(f"{entry.name}: {at}", "no site of layout.sites"))
                continue
            i = rows.index.to_numpy()
            cut = {sensor: readings[i] for sensor, readings in sensors.items()}
            stream = _Stream(entry.name, lines[i], time[i], rows["activity"].astype(str), cut)
            found.append((str(subject), site, stream))
    return found


def _known(name: object, mapping: dict[Key, str], names: tuple[str, ...]) -> str | None:
    """The project's name: by the mapping, or because it is one already."""
    by_text = {str(key): value for key, value in mapping.items()}
    return by_text.get(str(name), str(name) if str(name) in names else None)


def _recording(
    sites: dict[str, _Stream], row: dict, layout: Layout, skipped: list[Skipped]
) -> list[Clips]:
    """Clips of one recording: all sites on one grid, cut where the activity changes."""
    fitted: dict[tuple[str, str], list[streams.Piece]] = {}
    row |= {"clipped": 0.0, "bridged": 0, "lost": 0.0}
    for site, stream in sites.items():
        where = f"{stream.file}: {site}"
        with streams.listed(skipped, where):
            values, clipped, within = _in_si(stream, site, layout)
            if not within.all():
                skipped.append(Skipped(where, f"{(~within).sum()} readings that no sensor gives"))
            pieces, timing = _clocked(stream, values, within, layout)
            if not pieces:
                raise streams.Refused("no second without a gap")
            row["clipped"] = max(row["clipped"], clipped)
            row["bridged"] += timing.bridged
            row["lost"] += timing.lost
            for i, sensor in enumerate(stream.sensors):
                fitted[sensor, site] = [
                    replace(piece, values=piece.values[:, 3 * i : 3 * i + 3]) for piece in pieces
                ]
    if not fitted:
        return []
    spans = {key: (pieces[0].start, pieces[-1].stop) for key, pieces in fitted.items()}
    sensors = ("acc", "gyro") if layout.columns.gyro else ("acc",)
    first, arrays = streams.lay_on_grid(fitted, spans, sensors, SITES, RATE)
    times = (first + np.arange(len(arrays["acc"]))) / RATE
    activity = _activity(sites, layout, times, skipped)
    meta = {"rate": RATE, "sites": list(SITES), "source": "CSV"}
    return streams.cut_clips(first, arrays, row, meta, layout.shortest, skipped, activity)


def _in_si(
    stream: _Stream, site: str, layout: Layout
) -> tuple[Float[np.ndarray, "n d"], float, np.ndarray]:
    """Readings of all sensors side by side, in SI units and the axes of the site; the share that
    was clipped; and which a sensor can have read."""
    parts, clipped, where = [], 0.0, f"{stream.file}: {site}"
    within = np.ones(len(stream.time), bool)
    for sensor, values in stream.sensors.items():
        unit = getattr(layout.units, sensor)
        check, sizes = streams.check_gravity, streams.ACC_UNITS
        if sensor == "gyro":
            check, sizes = streams.check_turns, streams.GYRO_UNITS
        within &= check(values, unit, where, f"Write that as layout.units.{sensor}.")
        if sensor in layout.range:
            ends = (np.abs(values) >= 0.999 * layout.range[sensor]).any(1)
            clipped = max(clipped, float(ends.mean()))
        for axes in (layout.axes.get(sensor), layout.axes.get(site)):
            if axes:
                signs = [-1.0 if axis.startswith("-") else 1.0 for axis in axes]
                values = values[:, ["xyz".index(axis[-1]) for axis in axes]] * signs
        parts.append(values * sizes[unit])
    return np.hstack(parts), clipped, within


def _clocked(
    stream: _Stream, values: Float[np.ndarray, "n d"], within: np.ndarray, layout: Layout
) -> tuple[list[streams.Piece], streams.Timing]:
    """Uniform pieces of a stream, and what was found of its timing."""
    time, values, stated = stream.time[within], values[within], layout.rate
    if len(time) < 8:
        raise streams.Refused(f"only {len(time)} samples")
    if layout.columns.time is None:
        return streams.uniform_pieces(time, values, stream.lines[within], stated)
    low, high = streams.RATES
    if stated:
        low, high = stated * (1 - CLOCK_TOLERANCE), stated * (1 + CLOCK_TOLERANCE)
    rate = 1 / streams.sample_period(time, np.arange(len(time)))
    if not low <= rate <= high:
        found = f"{rate:.4g} samples a second, taken as {layout.units.time}"
        for other, size in TIME_UNITS.items():
            if low <= rate * TIME_UNITS[layout.units.time] / size <= high:
                raise InputError(
                    f"{stream.file}: time", found, f"{low:g} to {high:g}",
                    f"It is likely in {other}. Write that as layout.units.time.",
                )  # fmt: skip
        raise streams.Refused(f"{found}, not {low:g} to {high:g}")
    return streams.uniform_pieces(time, values, nominal=stated)


def _activity(
    sites: dict[str, _Stream], layout: Layout, times: Float[np.ndarray, "F"], skipped: list[Skipped]
) -> np.ndarray:
    """The activity in each frame, None where there is none or sites differ."""
    found = np.full((len(times), len(sites)), None, object)
    unknown: dict[Skipped, None] = {}  # a set that keeps its order
    for column, stream in enumerate(sites.values()):
        labels = stream.activity
        known = {label: _known(label, layout.activities, ACTIVITIES) for label in labels.unique()}
        for label in (label for label, activity in known.items() if activity is None):
            unknown[Skipped(f"{stream.file}: {label}", "no activity of layout.activities")] = None
        stamps = np.maximum.accumulate(stream.time)
        at = np.clip(np.searchsorted(stamps, times, side="right") - 1, 0, len(stamps) - 1)
        inside = (times >= stamps[0]) & (times <= stamps[-1])
        found[inside, column] = labels.map(known).to_numpy()[at[inside]]
    skipped += unknown
    present = found != None  # noqa: E711  (of each element)
    first = np.take_along_axis(found, present.argmax(1)[:, None], 1)
    same = ((found == first) | ~present).all(1)
    return np.where(same, first[:, 0], None)
