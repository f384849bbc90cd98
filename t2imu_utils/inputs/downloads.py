"""Downloads of what needs no login: whole and with the right checksum, or not there at all.

`pooch` writes to a temporary name, compares the checksum and moves the file to its place.
"""

import csv
import os
import re
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile, is_zipfile

import pooch

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write
from t2imu_utils.inputs.registry import Download, Input, target

TIMEOUT = 60  # seconds without an answer
HTML = re.compile(rb"\s*(<!doctype html|<html|<head)", re.IGNORECASE)
LEFT_OUT = {"__MACOSX", ".DS_Store"}  # what an operating system adds to archives
TRIAL = re.compile(r"^(\d+_\d+)\s+(\S.*)$")


@dataclass(frozen=True)
class Planned:
    """A file that would be downloaded."""

    input: str
    url: str
    path: Path


def plan(entry: Input, root: Path) -> list[Planned]:
    """What `fetch` would download for an input; asks no server."""
    files = ((file, target(entry, file, root)) for file in entry.files)
    return [
        Planned(entry.name, entry.url(file), path)
        for file, path in files
        if not _made(entry, file, root) and not path.exists()
    ]


def fetch(entry: Input, root: Path, progress: bool = True) -> list[Path]:
    """Download the files of an input that are not there, and unpack what needs unpacking.

    What is there is never written over.

    Args:
        entry: the input; one without files gives an empty list.
        root: the data folder; made when missing.
        progress: show a bar.

    Returns:
        The files and folders that are new.

    Raises:
        InputError: no answer, or a file that is not what it should be; with what to do.
    """
    new = []
    for file in entry.files:
        if _made(entry, file, root):
            continue
        path = target(entry, file, root)
        if not path.exists():
            _retrieve(entry, file, path, progress)
            new.append(path)
        if file.turn:
            into = root / entry.path / file.into
            new.append({"unzip": unzip, "descriptions": write_descriptions}[file.turn](path, into))
    return new


def _made(entry: Input, file: Download, root: Path) -> bool:
    """Whether what a file is for is there: the file itself, or what it is turned into."""
    if not file.turn:
        return target(entry, file, root).exists()
    into = root / entry.path / file.into
    return any(into.iterdir()) if into.is_dir() else into.exists()


def _retrieve(entry: Input, file: Download, path: Path, progress: bool) -> None:
    url = entry.url(file)
    digest = file.sha256 or (f"md5:{file.md5}" if file.md5 else None)
    remedy = f"Fetch again, or download it in a browser and save it as {path}. Page: {entry.page}"
    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(progressbar=progress, timeout=TIMEOUT)
    try:
        pooch.retrieve(url, digest, fname=path.name, path=path.parent, downloader=downloader)
    except (OSError, ValueError) as error:
        raise InputError(f"{entry.name}: {url}", str(error), "the file", remedy) from error
    with open(path, "rb") as stream:
        page = file.kind != "text" and HTML.match(stream.read(512))
    if page or (file.kind == "zip" and not is_zipfile(path)):
        path.unlink()  # a notice in place of the file
        found = "a web page" if page else "no whole zip archive"
        raise InputError(f"{entry.name}: {url}", found, f"a {file.kind} file", remedy)


def unzip(archive: Path, folder: Path) -> Path:
    """Unpack a zip into `folder`, which appears only when all of it is there.

    Folders that hold all members are left away, so that ``texts/a.txt`` becomes ``a.txt``.

    Raises:
        InputError: the archive is damaged, or a member points outside.
    """
    staging = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with ZipFile(archive) as source:
            for name in source.namelist():
                parts = PurePosixPath(name).parts
                if ".." in parts or name.startswith("/"):
                    raise BadZipFile(f"{name!r} points outside")
                if not LEFT_OUT & set(parts):
                    source.extract(name, staging)
    except (BadZipFile, OSError, zlib.error) as error:
        raise InputError(
            archive, f"a damaged archive ({error})", "a whole zip", "Delete it and fetch again."
        ) from error
    inner = staging
    while len(held := list(inner.iterdir())) == 1 and held[0].is_dir():
        inner = held[0]
    if folder.is_dir():  # empty, since `fetch` leaves what is there
        folder.rmdir()
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.replace(inner, folder)
    shutil.rmtree(staging, ignore_errors=True)
    return folder


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
