"""Members of archives and folders, read one at a time in memory: nothing is extracted by name."""

import csv
import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import IO
from zipfile import BadZipFile, LargeZipFile, ZipFile, ZipInfo

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from t2imu_utils.errors import InputError, Skipped

MAX_BYTES = 256 * 2**20  # one member; the largest real one is a PAMAP2 recording of 207 MB
MAX_TOTAL = 2**30  # everything inside one inner archive
MAX_INNER = 4 * 2**30  # a data set's zip inside another; PAMAP2's has some 0.7 GB
MAX_RATIO = 200  # of a member's size to its packed size; number columns pack 5 to 15 times
MAX_DEPTH = 3
UNREADABLE_SHARE = 0.01  # of a file's lines: more, and the file is left out
BLOCK = 4 * 2**20  # bytes of text that are parsed at a time

DAMAGE = (BadZipFile, LargeZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)


class Refused(ValueError):
    """A member that must not be read, and why."""


@dataclass(frozen=True)
class Entry:
    """One file of a folder or archive: its name below the root, and how to get its bytes."""

    name: str
    read: Callable[[], bytes]


@contextmanager
def open_tree(root: Path, outer: re.Pattern, skipped: list[Skipped]) -> Iterator[list[Entry]]:
    """Entries of a folder (any depth) or of a zip, in order of name.

    Args:
        root: a folder, or one zip archive.
        outer: zips in the folder, or in such a zip, whose names match are opened too, in place of
            being listed. One inside another is copied to an unnamed temporary file, because a zip
            is read from its end.
        skipped: members that are refused are added here.

    Raises:
        InputError: the root is missing or is neither folder nor zip.
    """
    root = Path(root)
    if not root.exists():
        raise InputError(root, "nothing", "a folder or a zip archive", "Check the path.")
    with ExitStack() as stack:
        found: list[Entry] = []
        files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
        for path in files:
            name = path.relative_to(root).as_posix() if root.is_dir() else path.name
            if root.is_dir() and not outer.search(path.name):
                found.append(Entry(name, lambda path=path: _read_file(path)))
                continue
            try:
                archive = stack.enter_context(ZipFile(path))
            except DAMAGE as error:
                if root.is_dir():
                    skipped.append(Skipped(name, f"not a whole zip archive ({error})"))
                    continue
                raise InputError(
                    root, f"no whole zip archive ({error})", "the dataset's zip", "Get it again."
                ) from error
            prefix = "" if path == root else f"{name}/"
            found += _entries(archive, prefix, outer, skipped, stack)
        yield sorted(found, key=lambda entry: natural(entry.name))


def _entries(
    archive: ZipFile,
    prefix: str,
    outer: re.Pattern,
    skipped: list[Skipped],
    stack: ExitStack,
    depth: int = 1,
) -> Iterator[Entry]:
    """Files of an open archive, and of the archives in it whose names match `outer`."""
    for entry, info in _members(archive, prefix, skipped):
        if depth >= MAX_DEPTH or not outer.search(PurePosixPath(entry.name).name):
            yield entry
            continue
        try:
            copy = stack.enter_context(TemporaryFile())
            _unpack(archive, info, copy, MAX_INNER)
            inner = stack.enter_context(ZipFile(copy))
        except DAMAGE as error:
            skipped.append(Skipped(entry.name, _reason(error)))
            continue
        yield from _entries(inner, f"{entry.name}/", outer, skipped, stack, depth + 1)


def natural(name: str) -> list[str | int]:
    """Sorting key that counts numbers: proband2 before proband10."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _read_file(path: Path) -> bytes:
    if path.stat().st_size > MAX_BYTES:
        raise Refused(f"{path.stat().st_size} bytes, over the limit of {MAX_BYTES}")
    return path.read_bytes()


def _members(
    archive: ZipFile, prefix: str, skipped: list[Skipped]
) -> Iterator[tuple[Entry, ZipInfo]]:
    """Files of an open archive; names that point outside are refused."""
    for info in archive.infolist():
        if info.is_dir():
            continue
        name = f"{prefix}{info.filename}"
        path = PurePosixPath(info.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            skipped.append(Skipped(name, "its path points outside the archive"))
            continue
        yield Entry(name, lambda info=info: _read_member(archive, info)), info


def _read_member(archive: ZipFile, info: ZipInfo) -> bytes:
    content = io.BytesIO()
    _unpack(archive, info, content, MAX_BYTES)
    return content.getvalue()


def _unpack(archive: ZipFile, info: ZipInfo, target: IO[bytes], limit: int) -> None:
    """Write a member into an open file, a megabyte at a time."""
    if info.file_size > limit:
        raise Refused(f"{info.file_size} bytes unpacked, over the limit of {limit}")
    if info.file_size > 2**20 and info.file_size > MAX_RATIO * max(info.compress_size, 1):
        raise Refused(f"packed {info.file_size / max(info.compress_size, 1):.0f} times: a zip bomb")
    with archive.open(info) as stream:
        while chunk := stream.read(2**20):
            target.write(chunk)
            if target.tell() > limit:
                raise Refused(f"more than {limit} bytes unpacked")


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, Refused) else f"damaged ({error or 'truncated'})"


def leaves(
    entry: Entry, skipped: list[Skipped], depth: int = 0, budget: list[int] | None = None
) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file in an entry, through archives in archives.

    Damaged and refused members are added to `skipped`; the others are still read.
    """
    budget = [MAX_TOTAL] if budget is None else budget
    try:
        content = entry.read()
        budget[0] -= len(content)
        if budget[0] < 0:
            raise Refused(f"the archive holds more than {MAX_TOTAL} bytes")
        if not entry.name.lower().endswith(".zip"):
            yield entry.name, content
            return
        if depth >= MAX_DEPTH:
            raise Refused(f"archives in archives, more than {MAX_DEPTH} deep")
        archive = ZipFile(io.BytesIO(content))
    except DAMAGE as error:
        skipped.append(Skipped(entry.name, _reason(error)))
        return
    with archive:
        inside = [member for member, _ in _members(archive, f"{entry.name}/", skipped)]
        for member in sorted(inside, key=lambda member: member.name):
            yield from leaves(member, skipped, depth + 1, budget)


def read_columns(
    content: bytes, columns: list[str] | list[int], sep: str = ","
) -> tuple[Float[np.ndarray, "n c"], str]:
    """Columns of a CSV file as numbers; lines that hold anything else are left out and told.

    Args:
        content: the file.
        columns: names (the file has a header) or places (it has none).
        sep: between columns.

    Returns:
        The numbers, and what was left out ("" for nothing).

    Raises:
        Refused: missing columns, no line, or more than 1 % of the lines unreadable.
    """
    header = 0 if isinstance(columns[0], str) else None
    options = {"sep": sep, "header": header, "encoding": "latin-1"}
    try:
        table = pd.read_csv(io.BytesIO(content), low_memory=False, **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError, ValueError):
        table = _ragged(content, sep, header)
    absent = [str(c) for c in columns if c not in table.columns]
    if absent:
        raise Refused(f"no column {', '.join(absent)}; found {', '.join(map(str, table.columns))}")
    table = table[columns]
    if not all(pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes):
        table = table.apply(pd.to_numeric, errors="coerce")
    values = table.to_numpy(np.float64)
    good = np.isfinite(values).all(1)
    bad = int((~good).sum())
    if not good.any() or bad > max(1, UNREADABLE_SHARE * len(values)):
        raise Refused(f"{bad} of its {len(values)} lines are unreadable")
    return values[good], f"{bad} of its {len(values)} lines are unreadable" if bad else ""


def _ragged(content: bytes, sep: str, header: int | None) -> pd.DataFrame:
    """A table of text from lines of unequal width; surplus fields make the line unreadable."""
    lines = [line.split(sep) for line in content.decode("latin-1").splitlines() if line.strip()]
    if not lines:
        return pd.DataFrame()
    names = lines.pop(0) if header == 0 else list(range(max(map(len, lines))))
    if header == 0:
        lines = [line if len(line) <= len(names) else [""] * len(names) for line in lines]
    rows = [dict(zip(names, line, strict=False)) for line in lines]
    return pd.DataFrame(rows, columns=names)


def read_rows(
    content: bytes, width: int, columns: list[int], sep: str | None = None
) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n c"], str]:
    """Columns of a large file without header, in which NaN stands for a missing value.

    A block of lines is parsed at a time; only lines of exactly `width` numbers count.

    Args:
        content: the file.
        width: columns that a line must have.
        columns: places of the columns to return.
        sep: between columns; None is any white space.

    Returns:
        Places in the file of the readable lines (the first line is 0), their numbers, NaN where
        the file says NaN, and what was left out ("" for nothing).

    Raises:
        Refused: no line, lines of another width, or more than 1 % of the lines unreadable.
    """
    if b"\0" in content[:BLOCK]:
        raise Refused("not plain text: it holds zero bytes, as UTF-16 does")
    places: list[np.ndarray] = []
    parts: list[np.ndarray] = []
    widths: Counter[int] = Counter()
    count, whole = 0, True
    for lines in _blocks(content):
        found = np.array([len(_fields(line, sep)) for line in lines])
        widths.update(found.tolist())
        good = np.flatnonzero(found == width)
        values = _numbers([lines[i] for i in good], columns, sep)
        readable = ~(np.isinf(values).any(1) | np.isnan(values).all(1))
        places.append(count + good[readable])
        parts.append(values[readable])
        count += len(lines)
        whole = count - 1 in places[-1][-1:]
    bad = count - sum(map(len, places))
    if bad == count or bad > max(1, UNREADABLE_SHARE * count):
        usual = widths.most_common(1)[0][0] if widths else width
        if usual != width:
            raise Refused(f"lines of {usual} columns, not {width}")
        raise Refused(f"{bad} of its {count} lines are unreadable")
    told = f"{bad} of its {count} lines are unreadable" if bad else ""
    if not whole and not content.endswith(b"\n"):
        told += "; the last one is cut short, as in a truncated file"
    return np.concatenate(places), np.concatenate(parts), told


def _blocks(content: bytes) -> Iterator[list[bytes]]:
    """Lines of a file without the blank ones, some megabytes at a time."""
    start = 0
    while start < len(content):
        stop = content.find(b"\n", start + BLOCK) + 1 or len(content)
        lines = [line for line in content[start:stop].splitlines() if line.strip()]
        if lines:
            yield lines
        start = stop


def _numbers(lines: list[bytes], columns: list[int], sep: str | None) -> np.ndarray:
    """Columns of lines of equal width; a line that holds anything but numbers is all NaN."""
    if not lines:
        return np.empty((0, len(columns)))
    options = {
        "sep": sep or r"\s+", "header": None, "usecols": columns, "dtype": np.float64,
        "na_values": ["NaN"], "keep_default_na": False, "quoting": csv.QUOTE_NONE,
        "encoding": "latin-1",
    }  # fmt: skip
    try:
        return pd.read_csv(io.BytesIO(b"\n".join(lines)), **options)[columns].to_numpy()
    except ValueError:
        return np.array([_floats(_fields(line, sep), columns) for line in lines])


def _fields(line: bytes, sep: str | None) -> list[bytes]:
    return line.split(sep.encode() if sep else None)


def _floats(fields: list[bytes], columns: list[int]) -> list[float]:
    try:
        return [float(fields[column]) for column in columns]
    except ValueError:
        return [np.nan] * len(columns)
