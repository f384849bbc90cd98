"""Recordings of your own: any CSV files, by a layout in the track (book/own_recordings.md)."""

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import Field, model_validator
from tqdm import tqdm

from t2imu_utils.activities import ACTIVITIES, SITES
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.recordings.streams import (
    ACC_UNITS,
    RATES,
    Entry,
    Piece,
    Refused,
    Timing,
    check_gravity,
    cut_clips,
    lay_on_grid,
    leaves,
    listed,
    none_usable,
    open_tree,
    read_columns,
    sample_period,
    uniform_pieces,
)
from t2imu_utils.tracks import Section

GYRO_UNITS = {"rad/s": 1.0, "deg/s": np.pi / 180}
TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
FASTEST_TURN = 60.0  # rad/s; sensors end at 35
OUTER = re.compile(r"\.zip$", re.IGNORECASE)
FACTS = ("subject", "site", "activity")

Column = str | int  # its name, or its place from 0 in files without a header
Axes = Annotated[list[Column], Field(min_length=3, max_length=3)]
Key = str | int


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
    rate: Annotated[float, Field(ge=RATES[0], le=RATES[1])] | None = None
    activities: dict[Key, Literal[ACTIVITIES]] = {}  # by the files' names of them, as are sites
    sites: dict[Key, Literal[SITES]] = {}
    fixed: dict[Literal[FACTS], Key] = {}  # of all files
    # For a sensor or a site, what x, y and z of the site are in the file: [-y, x, z]. A sensor's
    # are applied before a site's.
    axes: dict[Literal["acc", "gyro", *SITES], list[str]] = {}
    range: dict[Literal["acc", "gyro"], float] = {}  # where readings end, in the files' unit
    where: dict[Column, Key] = {}  # only lines with these values in these columns are read
    separator: str = ","
    decimal: Literal[".", ","] = "."
    comment: Annotated[str, Field(max_length=1)] | None = None
    shortest: float = 2.0  # seconds; shorter stretches are left out

    @model_validator(mode="after")
    def _complete(self) -> "Layout":
        for fact in FACTS:
            told = f"{{{fact}}}" in self.files, fact in self.fixed, getattr(self.columns, fact)
            several = fact == "site" and isinstance(self.columns.acc, dict)
            if not (told[0] or told[1] or told[2] is not None or several):
                raise ValueError(f"{fact}: in files as {{{fact}}}, in columns, or in fixed")
        if self.rate is None and self.columns.time is None:
            raise ValueError("rate: needed without columns.time")
        if isinstance(self.columns.gyro, dict) and not isinstance(self.columns.acc, dict):
            raise ValueError("columns.gyro: by site, so columns.acc too")
        for key, axes in self.axes.items():
            if sorted(axis.lstrip("-") for axis in axes) != ["x", "y", "z"]:
                raise ValueError(f"axes.{key}: x, y and z in some order, each with or without -")
        return self


def read_csv(
    layout: Layout, root: Path, rate: float = 20.0, progress: bool = True
) -> tuple[Clips, list[Skipped]]:
    """Read CSV files by a layout.

    Args:
        layout: how.
        root: the folder (`layout.folder`), or a zip.
        rate: of the clips, frames per second.
        progress: show a bar.

    Returns:
        Clips: arrays ``acc`` (m/s^2) and, if the layout has one, ``gyro`` (rad/s), (F, S, 3)
        float32, S being the sites that were found, NaN where one is missing; table ``subject``,
        ``activity``, the other parts of the files' names, ``recording``, ``part``, ``start`` (s),
        ``positions``, ``clipped`` (share of samples at the end of the range, worst stream), and
        ``bridged`` and ``lost`` (see `uniform_pieces`); meta ``rate``, ``sites``, ``source``. And
        what was left out: files, lines, activities that the layout does not name.

    Raises:
        InputError: no file is named as the layout says, two files are the same recording and site,
            a unit is not the files', or nothing can be used.
    """
    skipped: list[Skipped] = []
    parts: list[Clips] = []
    name = _pattern(layout)
    with open_tree(root, OUTER, skipped) as entries:
        named = [(e, m.groupdict()) for e in entries if (m := name.search(e.name))]
        if not named:
            raise InputError(
                root, f"{len(entries)} files, such as {', '.join(e.name for e in entries[:3])}",
                f"names like {layout.files}", "Mend layout.files or layout.folder.",
            )  # fmt: skip
        groups: dict[tuple, list[tuple[Entry, dict[str, str]]]] = defaultdict(list)
        for entry, facts in named:
            groups[tuple(v for k, v in facts.items() if k != "site")].append((entry, facts))
        for group in tqdm(groups.values(), "CSV", mininterval=2, disable=not progress):
            parts += _recordings(group, layout, rate, skipped)
    if not parts:
        raise none_usable(root, skipped)
    clips = Clips.concat(parts)
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
    for part in re.split(r"(\{\w+\}|\*|\?)", layout.files):
        if part.startswith("{"):
            name = part[1:-1]
            names = sorted(map(str, known.get(name, ())), key=len, reverse=True)
            either = "|".join([*map(re.escape, names), "[^/]+?"])
            out += f"(?P={name})" if name in seen else f"(?P<{name}>{either})"
            seen.add(name)
        else:
            out += {"*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
    return re.compile(f"(?:^|/){out}$")


def _recordings(
    group: list[tuple[Entry, dict[str, str]]], layout: Layout, rate: float, skipped: list[Skipped]
) -> list[Clips]:
    """Clips of the files that were recorded together, by subject."""
    streams: dict[str, dict[str, tuple[str, pd.DataFrame]]] = defaultdict(dict)
    for entry, facts in group:
        for subject, site, table in _streams(entry, facts, layout, skipped):
            if site in streams[subject]:
                raise InputError(
                    entry.name, f"the subject, site and other parts of {streams[subject][site][0]}",
                    "names whose parts tell recordings apart",
                    "Put a part such as {trial} into layout.files.",
                )  # fmt: skip
            streams[subject][site] = entry.name, table
    facts = {k: v for k, v in group[0][1].items() if k not in FACTS}
    clips: list[Clips] = []
    for subject, sites in streams.items():
        clips += _recording(sites, {"subject": subject, **facts}, layout, rate, skipped)
    return clips


def _streams(
    entry: Entry, facts: dict[str, str], layout: Layout, skipped: list[Skipped]
) -> list[tuple[str, str, pd.DataFrame]]:
    """Subject, site and samples in a file; columns ``time``, (sensor, axis), ``activity``."""
    columns, content = layout.columns, next((c for _, c in leaves(entry, skipped)), None)
    if content is None:
        return []
    facts = {**layout.fixed, **facts}
    text = {fact: getattr(columns, fact) for fact in FACTS if getattr(columns, fact) is not None}
    sensors = {"acc": columns.acc} | ({"gyro": columns.gyro} if columns.gyro else {})
    by_site = {s: c if isinstance(c, dict) else {"": c} for s, c in sensors.items()}
    numbers = [c for sites in by_site.values() for axes in sites.values() for c in axes]
    numbers += [] if columns.time is None else [columns.time]
    asked = list(dict.fromkeys([*text.values(), *layout.where]))
    values = None
    with listed(skipped, entry.name):
        values, told_by, told = read_columns(
            content, numbers, layout.separator, layout.decimal, layout.comment, asked
        )
        skipped += [Skipped(f"{entry.name}: lines", told)] if told else []
    if values is None:
        return []
    lines = told_by.index.to_numpy()
    keep = np.ones(len(lines), bool)
    for column, value in layout.where.items():
        keep &= (told_by[column].str.strip() == str(value)).to_numpy()
    for fact, column in text.items():
        facts[fact] = told_by[column].str.strip().to_numpy()
    frame = pd.DataFrame({k: facts[k] for k in FACTS if k in facts}, index=range(len(lines)))
    frame["time"] = values[:, -1] * TIME_UNITS[layout.units.time] if columns.time is not None else (
        lines / layout.rate
    )  # fmt: skip
    frame["line"] = lines
    found = []
    for site in by_site["acc"]:
        part = frame.assign(site=site) if site else frame.copy()
        place = 0
        for sensor, sites in by_site.items():
            if site in sites:
                first = place + 3 * list(sites).index(site)
                part[[f"{sensor} {axis}" for axis in "xyz"]] = values[:, first : first + 3]
            place += 3 * len(sites)
        for (subject, name), rows in part[keep].groupby(["subject", "site"], sort=False):
            known = _known(name, layout.sites, SITES)
            if known is None:
                skipped.append(Skipped(f"{entry.name}: {name}", "no site of layout.sites"))
            else:
                found.append((str(subject), known, rows))
    return found


def _known(name: object, mapping: dict[Key, str], names: tuple[str, ...]) -> str | None:
    """The project's name: by the mapping, or because it is one already."""
    by_text = {str(key): value for key, value in mapping.items()}
    return by_text.get(str(name), str(name) if str(name) in names else None)


def _recording(
    sites: dict[str, tuple[str, pd.DataFrame]],
    facts: dict[str, str],
    layout: Layout,
    rate: float,
    skipped: list[Skipped],
) -> list[Clips]:
    """Clips of one recording: all sites on one grid, cut where the activity changes."""
    fitted: dict[tuple[str, str], list[Piece]] = {}
    seen = {"clipped": 0.0, "bridged": 0, "lost": 0.0}
    label = next(iter(sites.values()))[0]
    for site, (name, rows) in sites.items():
        own = [sensor for sensor in ("acc", "gyro") if f"{sensor} x" in rows]
        with listed(skipped, f"{name}: {site}"):
            values = [_checked(rows, sensor, site, name, layout, seen) for sensor in own]
            pieces, timing = _clocked(rows, np.hstack(values), name, layout)
            if not pieces:
                raise Refused("no second without a gap")
            seen["bridged"] += timing.bridged
            seen["lost"] += timing.lost
            for i, sensor in enumerate(own):
                fitted[sensor, site] = [
                    replace(piece, values=piece.values[:, 3 * i : 3 * i + 3]) for piece in pieces
                ]
    if not fitted:
        return []
    spans = {key: (pieces[0].start, pieces[-1].stop) for key, pieces in fitted.items()}
    sensors = ("acc", "gyro") if layout.columns.gyro else ("acc",)
    with listed(skipped, label):
        first, arrays = lay_on_grid(fitted, spans, sensors, SITES, rate)
        times = (first + np.arange(len(arrays["acc"]))) / rate
        activity = _activity(sites, layout, times, skipped)
        meta = {"rate": float(rate), "sites": list(SITES), "source": "CSV"}
        row = {**facts, "recording": label, **seen}
        return cut_clips(first, arrays, row, meta, layout.shortest, skipped, activity)
    return []


def _checked(
    rows: pd.DataFrame, sensor: str, site: str, name: str, layout: Layout, seen: dict
) -> Float[np.ndarray, "n 3"]:
    """Readings in SI units and the axes of the site; how many were clipped goes to `seen`."""
    values = rows[[f"{sensor} {axis}" for axis in "xyz"]].to_numpy()
    unit = getattr(layout.units, sensor)
    size = ACC_UNITS[unit] if sensor == "acc" else GYRO_UNITS[unit]
    if sensor == "acc":
        check_gravity(values, unit, f"{name}: {site}", "Write that as layout.units.acc.")
    elif np.quantile(np.abs(values), 0.99) * size > FASTEST_TURN:
        raise InputError(
            f"{name}: {site}", f"turns of {np.quantile(np.abs(values), 0.99):.4g} {unit}",
            f"less than {FASTEST_TURN / size:.4g}", "Write deg/s as layout.units.gyro.",
        )  # fmt: skip
    if sensor in layout.range:
        ends = (np.abs(values) >= 0.999 * layout.range[sensor]).any(1)
        seen["clipped"] = max(seen["clipped"], float(ends.mean()))
    for axes in (layout.axes.get(sensor), layout.axes.get(site)):
        if axes:
            signs = [-1.0 if axis.startswith("-") else 1.0 for axis in axes]
            values = values[:, ["xyz".index(axis[-1]) for axis in axes]] * signs
    return values * size


def _clocked(
    rows: pd.DataFrame, values: Float[np.ndarray, "n d"], name: str, layout: Layout
) -> tuple[list[Piece], Timing]:
    """Uniform pieces of a stream, and what was found of its timing."""
    time, lines = rows["time"].to_numpy(), rows["line"].to_numpy()
    if len(time) < 8:
        raise Refused(f"only {len(time)} samples")
    if layout.columns.time is None:
        return uniform_pieces(time, values, lines, nominal=layout.rate)
    unit, rate = layout.units.time, 1 / sample_period(time, np.arange(len(time)))
    if not RATES[0] <= rate <= RATES[1]:
        for other, size in TIME_UNITS.items():
            if RATES[0] <= rate * TIME_UNITS[unit] / size <= RATES[1]:
                raise InputError(
                    f"{name}: time", f"{rate:.4g} samples a second, taken as {unit}",
                    f"{RATES[0]:g} to {RATES[1]:g}",
                    f"It is likely in {other}. Write that as layout.units.time.",
                )  # fmt: skip
    return uniform_pieces(time, values, nominal=layout.rate)


def _activity(
    sites: dict[str, tuple[str, pd.DataFrame]],
    layout: Layout,
    times: Float[np.ndarray, "F"],
    skipped: list[Skipped],
) -> np.ndarray:
    """The activity in each frame, None where there is none or sites differ."""
    found = np.full((len(times), len(sites)), None, object)
    unknown: dict[Skipped, None] = {}  # a set that keeps its order
    for column, (name, rows) in enumerate(sites.values()):
        labels = rows["activity"].astype(str)
        known = {label: _known(label, layout.activities, ACTIVITIES) for label in labels.unique()}
        for label, activity in known.items():
            if activity is None:
                unknown[Skipped(f"{name}: {label}", "no activity of layout.activities")] = None
        stamps = np.maximum.accumulate(rows["time"].to_numpy())
        at = np.clip(np.searchsorted(stamps, times, side="right") - 1, 0, len(stamps) - 1)
        inside = (times >= stamps[0]) & (times <= stamps[-1])
        found[inside, column] = labels.map(known).to_numpy()[at[inside]]
    skipped += unknown
    present = found != None  # noqa: E711  (of each element)
    first = np.take_along_axis(found, present.argmax(1)[:, None], 1)
    same = ((found == first) | ~present).all(1)
    return np.where(same, first[:, 0], None)
