"""Members of archives and folders, read one at a time in memory: nothing is ever extracted."""

import io
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, LargeZipFile, ZipFile, ZipInfo

import numpy as np
import pandas as pd
from jaxtyping import Float

from t2imu_utils.errors import InputError, Skipped

MAX_BYTES = 256 * 2**20  # one member; the largest real one is an inner archive of some 15 MB
MAX_TOTAL = 2**30  # everything inside one inner archive
MAX_RATIO = 200  # of a member's size to its packed size; number columns pack 5 to 15 times
MAX_DEPTH = 3
UNREADABLE_SHARE = 0.01  # of a file's lines: more, and the file is left out

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
        outer: zips in the folder whose names match are opened too, in place of being listed.
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
            found += list(_members(archive, "" if path == root else f"{name}/", skipped))
        yield sorted(found, key=lambda entry: natural(entry.name))


def natural(name: str) -> list[str | int]:
    """Sorting key that counts numbers: proband2 before proband10."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _read_file(path: Path) -> bytes:
    if path.stat().st_size > MAX_BYTES:
        raise Refused(f"{path.stat().st_size} bytes, over the limit of {MAX_BYTES}")
    return path.read_bytes()


def _members(archive: ZipFile, prefix: str, skipped: list[Skipped]) -> Iterator[Entry]:
    """Files of an open archive; names that point outside are refused."""
    for info in archive.infolist():
        if info.is_dir():
            continue
        name = f"{prefix}{info.filename}"
        path = PurePosixPath(info.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            skipped.append(Skipped(name, "its path points outside the archive"))
            continue
        yield Entry(name, lambda info=info: _read_member(archive, info))


def _read_member(archive: ZipFile, info: ZipInfo) -> bytes:
    if info.file_size > MAX_BYTES:
        raise Refused(f"{info.file_size} bytes unpacked, over the limit of {MAX_BYTES}")
    if info.file_size > 2**20 and info.file_size > MAX_RATIO * max(info.compress_size, 1):
        raise Refused(f"packed {info.file_size / max(info.compress_size, 1):.0f} times: a zip bomb")
    with archive.open(info) as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise Refused(f"more than {MAX_BYTES} bytes unpacked")
    return content


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
        reason = str(error) if isinstance(error, Refused) else f"damaged ({error or 'truncated'})"
        skipped.append(Skipped(entry.name, reason))
        return
    with archive:
        for member in sorted(_members(archive, f"{entry.name}/", skipped), key=lambda m: m.name):
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
