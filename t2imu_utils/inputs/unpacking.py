"""What becomes of downloaded files: archives unpacked member by member, tables written."""

import csv
import os
import re
import shutil
import stat
from pathlib import Path, PurePosixPath
from zipfile import ZipFile, ZipInfo

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write
from t2imu_utils.imu.archives import DAMAGE, MAX_RATIO

MAX_UNPACKED = 4 * 2**30  # bytes of one archive; the largest holds a model of 1 GB
MAX_MEMBERS = 200_000
SMALL = 2**20  # under this size the packing ratio means nothing
LEFT_OUT = {"__MACOSX", ".DS_Store"}  # what an operating system adds to archives
TRIAL = re.compile(r"^(\d+_\d+)\s+(\S.*)$")


class Unsafe(ValueError):
    """A member that must not be unpacked, and why."""


def unzip(archive: Path, folder: Path, limit: int = MAX_UNPACKED) -> Path:
    """Unpack a zip into `folder`, which appears only when all of it is there.

    Folders that hold all members are left away, so that ``texts/a.txt`` becomes ``a.txt``. Nothing
    is unpacked by its own path: a name that points outside refuses the archive. Members that macOS
    adds (``__MACOSX``) are left out.

    Args:
        limit: bytes that the members may have in all.

    Raises:
        InputError: `folder` holds files already, or the archive is damaged or unsafe.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    if folder.exists():
        raise InputError(folder, "files already", "a new folder", "Move it away, then fetch again.")
    staging = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with ZipFile(archive) as source:
            for info, parts in _members(source, limit):
                path = staging.joinpath(*parts)
                path.parent.mkdir(parents=True, exist_ok=True)
                with source.open(info) as packed, open(path, "xb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 2**20)
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging, folder)
    except Unsafe as error:
        raise InputError(
            archive, str(error), "files to unpack", "Do not use it; get it from its page."
        ) from error
    except OSError as error:
        raise InputError(
            folder, f"not writable ({error})", "room for the files", "Make room, then fetch again."
        ) from error
    except DAMAGE as error:
        raise InputError(
            archive, f"a damaged archive ({error})", "a whole zip", "Delete it and fetch again."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def _members(source: ZipFile, limit: int) -> list[tuple[ZipInfo, tuple[str, ...]]]:
    """Files of an archive and their places below the folder; all are looked at beforehand."""
    found, total = [], 0
    for info in source.infolist():
        path = PurePosixPath(info.filename.replace("\\", "/"))
        if info.is_dir() or LEFT_OUT & set(path.parts):
            continue
        if path.is_absolute() or ".." in path.parts or ":" in info.filename:
            raise Unsafe(f"the member {info.filename!r}, which points outside the folder")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise Unsafe(f"the member {info.filename!r}, which is a link")
        if info.file_size > SMALL and info.file_size > MAX_RATIO * max(info.compress_size, 1):
            raise Unsafe(f"the member {info.filename!r}, packed too well: a zip bomb")
        total += info.file_size
        found.append((info, path.parts))
    if total > limit or len(found) > MAX_MEMBERS:
        raise Unsafe(f"{len(found):,} members with {total:,} bytes, over the limit of {limit:,}")
    if not found:
        raise Unsafe("no file")
    while len({parts[0] for _, parts in found}) == 1 and all(len(p) > 1 for _, p in found):
        found = [(info, parts[1:]) for info, parts in found]
    return found


def write_descriptions(index: Path, table: Path) -> Path:
    """Write ``trial,description`` from the index that comes with the CMU database's BVH release.

    Its lines are a trial and its description, such as ``05_02<tab>dance - expressive arms``; the
    other lines are headings.

    Raises:
        InputError: no line is a trial with its description.
    """
    content = index.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    rows = [match.groups() for line in text.splitlines() if (match := TRIAL.match(line.strip()))]
    if not rows:
        raise InputError(
            index, "no line that names a trial", "lines such as 01_02<tab>walk", "Fetch it again."
        )
    with atomic_write(table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as to:
        writer = csv.writer(to, lineterminator="\n")
        writer.writerow(["trial", "description"])
        writer.writerows(rows)
    return table
