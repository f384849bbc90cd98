"""What all readers of recordings share: archives, columns of numbers, clocks, one grid, clips.

A phone stamps a sample when it is *delivered*. When the phone is busy the stamps stop, and the
samples that waited arrive in a burst a moment later: nothing is lost, yet interpolation on such
stamps first stretches and then squashes the signal. So samples are counted, not clocked: a line
is fitted through the stamps of a stream, and the stream is cut only where a gap is *not* repaid,
that is, where all later stamps stay above the line.

The streams of a recording then share one grid, and a recording is cut where no sensor recorded.
Nothing is allocated by a length that a file states before that length is checked.
"""

import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from zipfile import BadZipFile, LargeZipFile, ZipFile

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import minimum_filter1d

from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError, Skipped

MAX_BYTES = 256 * 2**20  # one member, unpacked; real ones have some megabytes
MAX_DEPTH = 3  # of archives in archives
UNREADABLE_SHARE = 0.01  # of a file's lines: more, and the file is left out
DAMAGE = (BadZipFile, LargeZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)

GRAVITY = 9.80665  # m/s^2 in one standard g
ACC_UNITS = {"m/s^2": 1.0, "g": GRAVITY, "mg": GRAVITY / 1000}  # in m/s^2
AT_GRAVITY, LIKELY = (0.25, 4.0), (0.7, 1.4)  # of gravity: medians of any activity; of a mere unit
GYRO_UNITS = {"rad/s": 1.0, "deg/s": np.pi / 180}  # in rad/s
LARGEST = 100.0  # g; worn sensors end at 16 to 32
FASTEST_TURN = 60.0  # rad/s; sensors end at 35

LONGEST = 86400.0  # seconds of a recording
# Hz, of any sensor that is worn. What is slower lacks what 20 frames a second can hold, and the
# missing band would pass for smooth motion.
RATES = 18.0, 2000.0
MANY = 100  # samples; fewer may be a burst whose stamps tell no rate
CLOCK_WENT_BACK = 0.2  # seconds; smaller steps back are jitter
BRIDGE = 0.15  # seconds; losses up to this long are interpolated
SHORTEST = 1.0  # seconds of a piece
LATE = 0.3  # seconds
CLOCK_TOLERANCE = 0.01
TAIL = 16  # samples
SURE = 120  # samples on either side of a loss
STEP = 0.1  # of a period: smaller rises are jitter
BLOCKS = 150  # of stamps for the median-of-slopes line: enough for any clock, quick for any stream
LOBES = 12  # zero crossings of the resampling kernel on either side
KAISER_BETA = 6.0
PASS_BAND = 0.9  # of the Nyquist frequency of the slower side
SLACK = 1e-6  # frames: rounding must not cost the frame on which a stream begins or ends

ZIPS = re.compile(r"\.zip$", re.IGNORECASE)


class Refused(Exception):
    """A file or stream that must not be used, and why."""


@contextmanager
def listed(skipped: list[Skipped], name: str) -> Iterator[None]:
    """What is refused within is added to `skipped`, and the work goes on after it."""
    try:
        yield
    except Refused as error:
        skipped.append(Skipped(name, str(error)))


@contextmanager
def _undamaged() -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise Refused(f"damaged ({error or 'truncated'})") from error


class Entry(NamedTuple):
    """One file of a folder or archive: its name below the root, and how to get its bytes.

    `read` raises `Refused` for a member that is damaged or too large.
    """

    name: str
    read: Callable[[], bytes]


@contextmanager
def open_tree(root: Path, outer: re.Pattern, skipped: list[Skipped]) -> Iterator[list[Entry]]:
    """Entries of a folder (any depth) or of a zip, in order of name. Nothing is extracted.

    Args:
        root: a folder, or one zip archive.
        outer: zips in the folder whose names match are opened too, in place of being listed.
        skipped: members that are refused are added here.

    Raises:
        InputError: the root is missing or is neither folder nor zip.
    """
    root = Path(root)
    if not root.exists():
        raise InputError(root, "nothing", "a folder or a zip archive", "Check the path.")
    folder = root.is_dir()
    found: list[Entry] = []
    with ExitStack() as stack:
        for path in sorted(p for p in root.rglob("*") if p.is_file()) if folder else [root]:
            name = path.relative_to(root).as_posix() if folder else ""
            if folder and not outer.search(path.name):
                found.append(Entry(name, _undamaged()(path.read_bytes)))
                continue
            try:
                archive = stack.enter_context(ZipFile(path))
            except DAMAGE as error:
                if not folder:
                    what = f"no whole zip archive ({error})"
                    raise InputError(root, what, "the dataset's zip", "Get it again.") from error
                skipped.append(Skipped(name, f"not a whole zip archive ({error})"))
                continue
            found += _members(archive, f"{name}/" if folder else "", skipped)
        yield sorted(found, key=lambda entry: natural(entry.name))


def natural(name: str) -> list[str | int]:
    """Sorting key that counts numbers: proband2 before proband10."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _members(archive: ZipFile, prefix: str, skipped: list[Skipped]) -> Iterator[Entry]:
    """Files of an open archive; names that point outside are refused."""

    @_undamaged()
    def read(info):
        if info.file_size > MAX_BYTES:
            raise Refused(f"{info.file_size} bytes unpacked, over the limit of {MAX_BYTES}")
        return archive.read(info)

    for info in archive.infolist():
        path = PurePosixPath(info.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            skipped.append(Skipped(prefix + info.filename, "its path points outside the archive"))
        elif not info.is_dir():
            yield Entry(prefix + info.filename, lambda info=info: read(info))


def leaves(entry: Entry, skipped: list[Skipped], depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file in an entry, through archives in archives.

    Damaged and refused members are added to `skipped`; the others are still read.
    """
    inside: list[Entry] = []
    with listed(skipped, entry.name):
        content = entry.read()
        if not ZIPS.search(entry.name):
            yield entry.name, content
            return
        if depth >= MAX_DEPTH:
            raise Refused(f"archives in archives, more than {MAX_DEPTH} deep")
        with _undamaged():
            archive = ZipFile(io.BytesIO(content))
        inside = sorted(_members(archive, f"{entry.name}/", skipped), key=lambda m: m.name)
    for member in inside:
        yield from leaves(member, skipped, depth + 1)


def joined(parts: Sequence[Clips], root: Path, skipped: Sequence[Skipped]) -> Clips:
    """All that was read as one.

    Raises:
        InputError: nothing was, with the first reasons.
    """
    if parts:
        return Clips.concat(parts)
    reasons = "; ".join(f"{s.name}: {s.reason}" for s in skipped[:3])
    raise InputError(root, f"nothing usable ({reasons})", "at least one recording", "See there.")


def read_columns(
    content: bytes,
    columns: Sequence[str | int],
    sep: str = ",",
    decimal: str = ".",
    comment: str | None = None,
    text: Sequence[str | int] = (),
) -> tuple[Float[np.ndarray, "n c"], pd.DataFrame, str]:
    """Columns of a CSV file as numbers; lines that hold anything else are left out and told.

    Args:
        content: the file, in UTF-8 with or without a byte order mark.
        columns: names (the file has a header) or places from 0 (it has none).
        sep: between columns; a space stands for any white space.
        decimal: of the numbers.
        comment: begins lines, or ends of lines, that say nothing.
        text: columns to be returned as text.

    Returns:
        The numbers; the text columns of the same lines, whose index counts all lines from 0; and
        what was left out ("" for nothing).

    Raises:
        Refused: missing columns, no line, or more than 1 % of the lines unreadable.
    """
    if b"\0" in content[:1000]:
        raise Refused("not plain text: it holds zero bytes, as UTF-16 does")
    every = [*columns, *text]
    options = {
        "sep": r"\s+" if sep == " " else sep, "decimal": decimal, "comment": comment,
        "header": None if all(isinstance(c, int) for c in every) else 0, "skipinitialspace": True,
        "encoding": "utf-8-sig", "encoding_errors": "replace", "dtype": dict.fromkeys(text, str),
    }  # fmt: skip
    try:
        table = pd.read_csv(io.BytesIO(content), low_memory=False, **options)
    except pd.errors.EmptyDataError:
        raise Refused("it is empty") from None
    except ValueError:  # lines of unequal width: the longer ones are blanked and so unreadable
        options |= {"engine": "python", "on_bad_lines": lambda fields: [""]}
        table = pd.read_csv(io.BytesIO(content), **options)
    if not isinstance(table.index, pd.RangeIndex):
        raise Refused("its lines have more fields than its header, as decimal commas make them")
    if absent := [str(c) for c in every if c not in table.columns]:
        raise Refused(f"no column {', '.join(absent)}; found {', '.join(map(str, table.columns))}")
    raw = table[list(columns)]
    numeric = all(kind.kind in "iuf" for kind in raw.dtypes)
    numbers = raw if numeric else raw.apply(pd.to_numeric, errors="coerce")
    values = numbers.to_numpy(np.float64)
    good = np.isfinite(values).all(1)
    bad = int((~good).sum())
    told = ""
    if bad:
        line = ", ".join(map(str, raw[~good].iloc[0]))
        told = f"{bad} of its {len(values)} lines are unreadable, the first with {line[:60]}"
    if not good.any() or bad > max(1, UNREADABLE_SHARE * len(values)):
        raise Refused(told or "no line")
    return values[good], table.loc[good, list(text)], told


def check_gravity(
    acc: Float[np.ndarray, "n 3"], unit: str, where: str, remedy: str, largest: float = LARGEST
) -> Bool[np.ndarray, "n"]:
    """The median magnitude of a recording is near gravity, whatever the person does.

    Args:
        acc: as the file has it, read as `unit`.
        unit: a key of `ACC_UNITS`.
        where: the file.
        remedy: what to do about another unit, after its name.
        largest: where the sensors end on an axis, in g.

    Returns:
        Which samples are within that.

    Raises:
        InputError: the median is gravity in another unit.
        Refused: it is gravity in none, or more than 1 % of the samples are beyond `largest`.
    """
    with np.errstate(over="ignore"):
        median = float(np.median(np.linalg.norm(acc, axis=-1)))
    if not AT_GRAVITY[0] <= median * ACC_UNITS[unit] / GRAVITY <= AT_GRAVITY[1]:
        found = f"a median magnitude of {median:.4g} {unit}"
        for other, size in ACC_UNITS.items():
            if LIKELY[0] <= median * size / GRAVITY <= LIKELY[1]:
                expected = f"gravity, {GRAVITY / ACC_UNITS[unit]:.4g} {unit}"
                raise InputError(where, found, expected, f"It is likely in {other}. {remedy}")
        raise Refused(
            f"{found}: gravity in no known unit, so it was taken out or the scale is wrong"
        )
    within = (np.abs(acc) * ACC_UNITS[unit] <= largest * GRAVITY).all(-1)
    if (beyond := int((~within).sum())) > UNREADABLE_SHARE * len(acc):
        raise Refused(f"{beyond} of its {len(acc)} accelerations are over {largest:g} g")
    return within


def check_turns(
    gyro: Float[np.ndarray, "n 3"], unit: str, where: str, remedy: str
) -> Bool[np.ndarray, "n"]:
    """Which samples turn no faster than a sensor can tell; arguments of `check_gravity`.

    Raises:
        InputError: more than 1 % of the values are beyond that.
    """
    size = np.abs(gyro) * GYRO_UNITS[unit]
    if (fast := np.quantile(size, 1 - UNREADABLE_SHARE)) > FASTEST_TURN:
        found, expected = f"turns of {fast:.4g} rad/s", f"less than {FASTEST_TURN:g}"
        raise InputError(where, found, expected, f"It is likely in deg/s. {remedy}")
    return (size <= FASTEST_TURN).all(-1)


@dataclass(frozen=True)
class Piece:
    """A stretch without losses: sample i was taken at ``start + i * period`` (seconds)."""

    start: float
    period: float
    values: Float[np.ndarray, "n d"]

    @property
    def stop(self) -> float:
        return self.start + self.period * (len(self.values) - 1)


class Timing(NamedTuple):
    """What the fit of one stream found."""

    late: int  # gaps of over `LATE` seconds that a burst repaid
    bridged: int  # lost samples that were interpolated
    lost: float  # seconds in unrepaid gaps between the pieces
    short: int  # pieces of under `SHORTEST` seconds, which were left out


def uniform_pieces(
    stamps: Float[np.ndarray, "n"],
    values: Float[np.ndarray, "n d"],
    numbers: Int[np.ndarray, "n"] | None = None,
    nominal: float | None = None,
) -> tuple[list[Piece], Timing]:
    """Undo delivery times: uniform pieces of a stream, on a line fitted through its stamps.

    Args:
        stamps: delivery times in seconds, in order of arrival.
        values: the samples.
        numbers: sample numbers of the recorder; a hole in them is a lost sample. Ignored when
            they do not count in ones.
        nominal: the sensor's rate, where it is known; a fit more than 1 % off gives way to it, as
            it must where the stamps of a short recording are wild.

    Returns:
        Pieces in order of arrival, losses of up to `BRIDGE` seconds interpolated, and what was
        found. Where the clock was set back, later pieces may overlap earlier ones in time.

    Raises:
        Refused: a rate that no worn sensor has.
    """
    stamps, values = np.asarray(stamps, np.float64), np.asarray(values, np.float64)
    steps = np.diff(stamps if numbers is None else numbers)
    if numbers is None or not len(steps) or steps.min() <= 0 or np.median(steps) != 1:
        numbers = np.arange(len(stamps))
    pieces: list[Piece] = []
    parts: list[Timing] = []
    cuts = np.flatnonzero(np.diff(stamps) < -CLOCK_WENT_BACK) + 1
    for rows in np.split(np.arange(len(stamps)), cuts):
        if len(rows) < 8:
            parts.append(Timing(0, 0, 0.0, 1))
            continue
        found, timing = _one_clock(stamps[rows], values[rows], numbers[rows], nominal)
        pieces += found
        parts.append(timing)
    return pieces, Timing(*map(sum, zip(*parts, strict=True)))


def _one_clock(
    stamps: np.ndarray, values: np.ndarray, numbers: np.ndarray, nominal: float | None
) -> tuple[list[Piece], Timing]:
    """`uniform_pieces` for a stretch in which the clock only runs forward."""
    index = numbers - numbers[0]
    period = 1 / nominal if nominal else sample_period(stamps, index)
    ahead = int(min(len(stamps), np.ceil((2.5 + 1.5 * np.diff(stamps).max()) / period)))
    for _ in range(3):
        index, holes = _count_losses(stamps, numbers, period, ahead)
        fitted = _slope(stamps, index)
        wild = nominal is not None and abs(fitted * nominal - 1) > CLOCK_TOLERANCE
        period = 1 / nominal if nominal and wild else fitted
    lost = np.diff(index) - 1
    over = lost * period > BRIDGE
    on_time = stamps - period * index
    pieces, short = [], 0
    for rows in np.split(np.arange(len(stamps)), np.flatnonzero(over) + 1):
        long = (index[rows[-1]] - index[rows[0]]) * period >= SHORTEST
        if (long or len(rows) >= MANY) and not RATES[0] <= 1 / period <= RATES[1]:
            raise Refused(f"its clock gives {1 / period:.4g} samples a second")
        if not long:
            short += 1
            continue
        start = np.median(on_time[rows])
        whole = np.arange(index[rows[0]], index[rows[-1]] + 1)
        filled = np.stack([np.interp(whole, index[rows], column) for column in values[rows].T], 1)
        pieces.append(Piece(float(start + period * whole[0]), float(period), filled))
    repaid = (np.diff(stamps) > LATE) & (np.diff(stamps) - holes * period > LATE)
    away = float(lost[over].sum() * period)
    return pieces, Timing(int(repaid.sum()), int(lost[~over].sum()), away, short)


def sample_period(stamps: np.ndarray, index: np.ndarray) -> float:
    """Median duration of a sample over lags of about one second: blind to few gaps and losses."""
    span = max(stamps[-1] - stamps[0], 1e-6)
    lag = int(np.clip(round(len(stamps) / span), 1, len(stamps) // 2))
    slopes = (stamps[lag:] - stamps[:-lag]) / (index[lag:] - index[:-lag])
    return max(float(np.median(slopes)), 1e-6)


def _count_losses(
    stamps: np.ndarray, numbers: np.ndarray, period: float, ahead: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sample counts that include the lost ones, and how many were lost before each next sample.

    A late sample leaves later stamps on the line; a lost one lifts all of them. So the smallest
    offset from here on (looking `ahead` past the longest burst) jumps only at losses, and at
    stamps that are early by chance: those leave the lower quartiles on either side alike. Where the
    last samples before a loss are late themselves it rises in steps, which count together; in few
    samples only a jump of its own counts. The last samples cannot tell, and count as late.
    """
    offset = stamps - period * (numbers - numbers[0])
    padded = np.concatenate([offset, np.full(ahead, np.inf)])
    floor = minimum_filter1d(padded, ahead, origin=-(ahead // 2))[: len(offset)]
    jumps = np.diff(floor) / period
    holes = np.zeros(len(jumps), np.int64)
    steps = np.flatnonzero(jumps > STEP)
    for near in np.split(steps, np.flatnonzero(np.diff(steps) > TAIL) + 1):
        sure = len(near) and min(near[0] + 1, len(offset) - 1 - near[-1], ahead) >= SURE
        for group in [near] if sure else near[jumps[near] > 0.6][:, None]:
            rise = (floor[group + 1] - floor[group[0]]) / period
            total = round(rise[-1]) if rise[-1] > 0.6 else 0
            before = np.quantile(offset[max(0, group[0] + 1 - ahead) : group[0] + 1], 0.25)
            after = np.quantile(offset[group[-1] + 1 : group[-1] + 1 + ahead], 0.25)
            tail = len(offset) - 1 - group[-1] < TAIL and total < TAIL
            if total and not tail and after - before >= 0.5 * total * period:
                level = np.minimum(np.maximum.accumulate(np.round(rise)), total)
                holes[group] = np.diff(level, prepend=0)
    index = numbers - numbers[0]
    index[1:] += np.cumsum(holes)
    return index, holes


def _slope(stamps: np.ndarray, index: np.ndarray) -> float:
    """Seconds a sample: the median of all slopes between block medians (Theil and Sen)."""
    size = max(8, len(stamps) // BLOCKS)
    count = max(2, len(stamps) // size)
    size = len(stamps) // count
    x, y = (np.median(v[: count * size].reshape(count, size), axis=1) for v in (index, stamps))
    first, later = np.triu_indices(count, 1)
    return max(float(np.median((y[later] - y[first]) / (x[later] - x[first]))), 1e-6)


def sample_pieces(
    pieces: Sequence[Piece], start: float, count: int, rate: float
) -> Float[np.ndarray, "count d"]:
    """Anti-aliased samples of pieces at ``start + k / rate``; NaN where no piece covers the time.

    Each value is a Kaiser-windowed sinc average of the piece around its own time, so the change of
    rate and the shift onto the common grid are one step. Pieces are laid in order: where two
    overlap the first stays.
    """
    out = np.full((count, pieces[0].values.shape[1] if pieces else 3), np.nan)
    for piece in pieces:
        # A stamp's rounding must not cost the frame that falls on a piece's first sample.
        slack = 1e-3 * piece.period
        first = max(0, int(np.ceil((piece.start - slack - start) * rate)))
        last = min(count - 1, int(np.floor((piece.stop + slack - start) * rate)))
        rows = np.arange(first, last + 1)
        rows = rows[np.isnan(out[rows, 0])]
        if len(rows):
            out[rows] = _windowed_sinc(piece, start + rows / rate, rate)
    return out


def _windowed_sinc(piece: Piece, times: np.ndarray, rate: float) -> np.ndarray:
    """Values of a piece at times inside it, free of what the new rate cannot carry."""
    cutoff = PASS_BAND * min(rate * piece.period, 1.0)  # of the piece's own Nyquist frequency
    half = int(np.ceil(LOBES / cutoff))
    edge = min(half, len(piece.values) - 1)
    # Odd reflection continues a trend, so that the ends are neither pulled nor flattened.
    padded = np.pad(piece.values, ((edge, edge), (0, 0)), mode="reflect", reflect_type="odd")
    padded = np.pad(padded, ((half - edge + 1, half - edge + 1), (0, 0)), mode="edge")
    reach, step = np.linspace(0.0, half + 1, 200 * (half + 1), retstep=True)
    window = np.i0(KAISER_BETA * np.sqrt(1 - (reach / (half + 1)) ** 2))
    kernel = np.sinc(cutoff * reach) * window
    kernel = np.append(kernel, kernel[-1])
    slope = np.diff(kernel)  # none past the end
    place = (times - piece.start) / piece.period
    centre = np.clip(np.floor(place).astype(int), -1, len(piece.values) - 1)
    taps = np.arange(-half, half + 2)
    windows = sliding_window_view(np.ascontiguousarray(padded.T), len(taps), axis=1)
    out = np.empty((len(times), padded.shape[1]))
    for rows in np.array_split(np.arange(len(times)), max(1, len(times) // 512)):
        # Linear interpolation in a table of even steps, where there is nothing to search.
        at = np.abs((centre[rows] - place[rows])[:, None] + taps) / step
        below = at.astype(np.int32)
        at -= below
        weights = slope[below]
        weights *= at
        weights += kernel[below]
        weights /= weights.sum(1, keepdims=True)
        out[rows] = np.einsum("tk,dtk->td", weights, windows[:, centre[rows] + 1])
    return out


def lay_on_grid(
    streams: Mapping[tuple[str, str], Sequence[Piece]],
    spans: Mapping[tuple[str, str], tuple[float, float]],
    sensors: Sequence[str],
    sites: Sequence[str],
    rate: float,
) -> tuple[int, dict[str, Float[np.ndarray, "F S 3"]]]:
    """Streams of one recording on one grid, whose frames lie at multiples of 1 / `rate` seconds.

    Args:
        streams: pieces by sensor and site.
        spans: seconds to take, from and to, of each stream that is to be laid.
        sensors, sites: order of the arrays and of their second axis.
        rate: frames per second.

    Returns:
        Number of the first frame, and one float32 array a sensor, NaN where a stream is missing.

    Raises:
        Refused: the spans reach over more than a day, so a clock is wrong.
    """
    low, high = min(start for start, _ in spans.values()), max(stop for _, stop in spans.values())
    if high - low > LONGEST:
        raise Refused(f"its clock runs from {low:.3f} to {high:.3f} s: over a day")
    first, last = int(np.ceil(low * rate - SLACK)), int(np.floor(high * rate + SLACK))
    shape = (last - first + 1, len(sites), 3)
    arrays = {sensor: np.full(shape, np.nan, np.float32) for sensor in sensors}
    for (sensor, site), (start, stop) in spans.items():
        low = max(0, int(np.ceil(start * rate - SLACK)) - first)
        high = int(np.floor(stop * rate + SLACK)) - first + 1
        signal = sample_pieces(streams[sensor, site], (first + low) / rate, high - low, rate)
        arrays[sensor][low:high, sites.index(site)] = signal
    return first, arrays


def cut_clips(
    first: int,
    arrays: Mapping[str, Float[np.ndarray, "F S 3"]],
    row: Mapping,
    meta: Mapping,
    shortest: float,
    skipped: list[Skipped],
    activity: np.ndarray | None = None,
) -> list[Clips]:
    """Clips of a recording on its grid: every stretch in which at least one site recorded.

    Args:
        first, arrays: as `lay_on_grid` leaves them.
        row: facts for the table; ``recording`` is its name.
        meta: ``rate``, ``sites`` and ``source``.
        shortest: stretches under this many seconds are left out, and told.
        activity: (F,) names that cut it too, None where there is none; by default that of `row`.

    Returns:
        One `Clips`, or none. Its table has `row`, ``part`` (number of the stretch), ``start`` (s)
        and ``positions`` (how many sites recorded).
    """
    present = np.isfinite(np.concatenate(list(arrays.values()), 1)).any((1, 2))
    what = np.where(present, "" if activity is None else activity, None)
    edges = np.flatnonzero(np.r_[True, what[1:] != what[:-1], True])
    rows, cut = [], []
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if what[low] is None:
            continue
        seconds = (high - low) / meta["rate"]
        if seconds < shortest:
            skipped.append(Skipped(row["recording"], f"a stretch of {seconds:.2f} s"))
            continue
        seen = [np.isfinite(array[low:high]).any((0, 2)) for array in arrays.values()]
        rows.append({
            **row, **({"activity": what[low]} if what[low] else {}), "part": len(rows),
            "start": (first + low) / meta["rate"], "positions": int(np.any(seen, axis=0).sum()),
        })  # fmt: skip
        cut.append(slice(low, high))
    if not rows:
        return []
    return [Clips.from_list(rows, {n: [a[s] for s in cut] for n, a in arrays.items()}, dict(meta))]
