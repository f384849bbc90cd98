"""Downloads of what needs no login: resumed where they stopped, whole or not there at all.

A file grows under ``<name>.part`` beside its place, with the server's marks of its version in
``<name>.part.json``; it gets its name when its length, first bytes and checksum are right. `pooch`
compares the checksum and moves it.
"""

import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import pooch
import requests
from filelock import FileLock, Timeout
from tqdm import tqdm

import t2imu_utils
from t2imu_utils.errors import InputError
from t2imu_utils.files import read_json, write_json
from t2imu_utils.inputs.checksums import known, record
from t2imu_utils.inputs.registry import Download, Input, Kind, target
from t2imu_utils.inputs.unpacking import unzip, write_descriptions

TRIES = 5  # in a row without a byte
PAUSE = 1.0  # seconds before the second try; doubled for each further one
LONGEST_PAUSE = 60.0
CHUNK = 2**18
RESERVE = 2**26  # bytes that stay free on the disk
TIMEOUT = (15, 60)  # seconds: to connect, between bytes
BUSY = {408, 425, 429, 500, 502, 503, 504}
AGENT = f"t2imu/{t2imu_utils.__version__} (python-requests)"
# How files of a kind begin.
HEADS: dict[Kind, re.Pattern[bytes]] = {
    "zip": re.compile(rb"PK\x03\x04"),
    "npy": re.compile(rb"\x93NUMPY"),
    "json": re.compile(rb"\s*[{\[]"),
    "safetensors": re.compile(rb"(?s).{8}\s*\{"),
    "text": re.compile(rb"[^\x00]"),
    "binary": re.compile(rb""),
}
HTML = re.compile(rb"\s*(<!doctype html|<html|<head|<\?xml)", re.IGNORECASE)
TITLE = re.compile(rb"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
Pause = Callable[[float], None]


class Interrupted(Exception):
    """The connection ended early, or the server was busy: worth another try."""


@dataclass(frozen=True)
class Planned:
    """A file that would be downloaded, and how much of it is there."""

    input: str
    url: str
    path: Path
    held: int  # bytes in the partial file


def plan(entry: Input, root: Path) -> list[Planned]:
    """What `fetch` would download for an input; asks no server."""
    waiting = []
    for file in entry.files:
        path = target(entry, file, root)
        if not _made(entry, file, root) and not path.exists():
            held = _part(path).stat().st_size if _part(path).exists() else 0
            waiting.append(Planned(entry.name, entry.url(file), path, held))
    return waiting


def fetch(entry: Input, root: Path, progress: bool = True, wait: Pause = time.sleep) -> list[Path]:
    """Download the files of an input that are not there, and unpack what needs unpacking.

    What is there is never written over. After an interruption of any kind the next call goes on
    where the last one stopped, if the server still has the same file.

    Args:
        entry: the input; one without files gives an empty list.
        root: the data folder; made when missing.
        progress: show a bar.
        wait: called with seconds between two tries.

    Returns:
        The files and folders that are new.

    Raises:
        InputError: the server refuses, the file is not what it should be, the disk is full, or
            another download into the same folder is under way; with what to do.
    """
    root, new = Path(root), []
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".fetch.lock", timeout=0):
            for file in entry.files:
                new += _fetch_file(entry, file, root, progress, wait)
    except Timeout as error:
        raise InputError(
            root, "another download under way", "one at a time", "Wait until it has ended."
        ) from error
    except OSError as error:
        raise InputError(
            root, str(error), "a folder with room, to write into", "Set T2IMU_DATA to one."
        ) from error
    return new


def _fetch_file(
    entry: Input, file: Download, root: Path, progress: bool, wait: Pause
) -> list[Path]:
    if _made(entry, file, root):
        return []
    path, new = target(entry, file, root), []
    if not path.exists():
        _retrieve(entry, file, path, root, progress, wait)
        record(entry, file, root)
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


def _retrieve(
    entry: Input, file: Download, path: Path, root: Path, progress: bool, wait: Pause
) -> None:
    url, digest = entry.url(file), known(entry, file, root)

    def downloader(_: str, output: str, __: Any) -> None:
        os.replace(download(url, path, file.kind, entry.page, progress, wait), output)

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # the checksum is written to a file, not to the screen
    try:
        pooch.retrieve(url, digest, fname=path.name, path=path.parent, downloader=downloader)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        _discard(path)
        got = re.search(r"got ([0-9a-f]+)", str(error))
        raise InputError(
            f"{entry.name}: {url}",
            f"a file with checksum {got[1] if got else 'unknown'}",
            str(digest),
            f"It was not kept. Fetch again; if that does not help, see {entry.page} for a new "
            "version; the checksum stands in data/inputs.yaml, or in the data folder's "
            "checksums.json.",
        ) from error
    finally:
        logger.setLevel(level)
    _discard(path)


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.part.json")


def download(
    url: str,
    path: Path,
    kind: Kind = "binary",
    page: str = "",
    progress: bool = True,
    wait: Pause = time.sleep,
) -> Path:
    """Download `url` into ``<path>.part``, going on with what is there, and return that file.

    A part is only gone on with if the server gave a mark of the file's version (a strong ETag, or
    the time of its last change) and confirms that it still holds; otherwise all is loaded anew.

    Raises:
        InputError: as `fetch`.
    """
    part = _part(path)
    part.parent.mkdir(parents=True, exist_ok=True)
    failures, most = 0, _held(part)
    while not _complete(path, url):
        try:
            _receive(url, path, kind, page, progress)
            break
        except (requests.ConnectionError, requests.Timeout, Interrupted) as error:
            # A try that brought the file further starts the count anew.
            failures = 1 if _held(part) > most else failures + 1
            most = max(most, _held(part))
            if failures >= TRIES:
                raise InputError(
                    url,
                    f"no whole answer in {TRIES} tries ({error})",
                    "a working connection",
                    "Run the same command again later: it goes on where it stopped."
                    + (f" Page: {page}" if page else ""),
                ) from error
            wait(min(PAUSE * 2 ** (failures - 1), LONGEST_PAUSE))
        except requests.RequestException as error:
            raise InputError(
                url, f"no answer ({error})", "the file", f"See {page or url}."
            ) from error
    if kind == "zip" and not is_zipfile(part):
        _discard(path)
        raise InputError(url, "no whole zip archive", "a zip archive", f"See {page or url}.")
    return part


def _receive(url: str, path: Path, kind: Kind, page: str, progress: bool) -> None:
    """One request, from where the part ends; an incomplete answer is `Interrupted`."""
    part = _part(path)
    with requests.get(url, headers=_headers(path, url), stream=True, timeout=TIMEOUT) as response:
        start = _start(response, path, url, page)
        length = response.headers.get("Content-Length")
        plain = "Content-Encoding" not in response.headers
        total = start + int(length) if length and plain else None
        _check_space(path, url, total, start)
        chunks = response.iter_content(CHUNK)
        first = _next(chunks)
        if start == 0:
            _check_head(first, response, kind, url, path, page)
        # Before the first byte is written, so that a part never stands beside another's marks.
        write_json(_note(path), {"url": url, "total": total, **_marks(response)})
        bar = tqdm(
            total=total, initial=start, desc=path.name, unit="B", unit_scale=True,
            mininterval=1, disable=not progress,
        )  # fmt: skip
        with bar, open(part, "ab" if start else "wb") as stream:
            while first:
                stream.write(first)
                bar.update(len(first))
                first = _next(chunks)
    if total is not None and _held(part) != total:
        if _held(part) > total:
            _discard(path)
        raise Interrupted(f"{_held(part)} of {total} bytes came")


def _next(chunks: Any) -> bytes:
    """The next bytes of an answer, b"" at its end."""
    try:
        return next(chunks, b"")
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
        raise Interrupted("the connection broke") from error


def _headers(path: Path, url: str) -> dict[str, str]:
    # Packed answers have no known length, and their ranges are of the packed bytes.
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    marks = _read_note(path, url)
    mark = marks.get("etag") or marks.get("changed")
    if _held(_part(path)) and mark:
        headers |= {"Range": f"bytes={_held(_part(path))}-", "If-Range": mark}
    return headers


def _start(response: requests.Response, path: Path, url: str, page: str) -> int:
    """Where the bytes of an answer belong, or what its status means."""
    status = response.status_code
    if status == 200:
        return 0
    if status == 206:
        held = _held(_part(path))
        match = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        noted, marks = _read_note(path, url), _marks(response)
        same = all(marks[key] in (None, noted.get(key)) for key in marks)
        whole = match and match[2] in ("*", str(noted.get("total") or match[2]))
        if same and whole and int(match[1]) == held:
            return held
        _discard(path)
        raise Interrupted("the server sent a part of another file, or another part")
    if status == 416:
        _discard(path)
        raise Interrupted("the server's file is shorter than the part that was there")
    if status in BUSY:
        raise Interrupted(f"status {status}, {response.reason}")
    by_hand = f" Page: {page}" if page else ""
    raise InputError(
        url,
        f"status {status}, {response.reason}",
        "the file",
        ("It has moved or is gone." if status in (404, 410) else "The server refuses it.")
        + f" Download it in a browser and save it as {path}.{by_hand}",
    )


def _check_space(path: Path, url: str, total: int | None, start: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if total is not None and total - start + RESERVE > free:
        raise InputError(
            url,
            f"{(total - start) / 1e9:.2f} GB to come and {free / 1e9:.2f} GB free",
            "room for it",
            f"Make room below {path.parent}, or set T2IMU_DATA to a larger disk.",
        )


def _check_head(
    first: bytes, response: requests.Response, kind: Kind, url: str, path: Path, page: str
) -> None:
    """Refuse a web page that comes in place of the file, and any other kind of file."""
    declared = response.headers.get("Content-Type", "").startswith("text/html")
    if HTML.match(first) or (declared and kind != "text"):
        title = TITLE.search(first)
        told = title[1].decode("utf-8", "replace").strip() if title else "no title"
        quota = b"quota" in first.lower() or b"too many users" in first.lower()
        raise InputError(
            url,
            f"a web page ({told}) in place of the file",
            f"a {kind} file",
            ("The quota of this file is used up: try again in a day, or download" if quota
             else "Download")
            + f" it in a browser and save it as {path}. Page: {page or url}",
        )  # fmt: skip
    if not first or not HEADS[kind].match(first):
        raise InputError(
            url,
            f"a file that begins with {first[:16]!r}",
            f"a {kind} file",
            f"See {page or url} for what has changed.",
        )


def _marks(response: requests.Response) -> dict[str, str | None]:
    """ETag and time of last change of the server's file; weak ETags do not promise equal bytes."""
    etag = response.headers.get("ETag", "")
    return {
        "etag": etag if etag.startswith('"') else None,
        "changed": response.headers.get("Last-Modified"),
    }


def _read_note(path: Path, url: str) -> dict[str, Any]:
    if not _note(path).exists():
        return {}
    try:
        marks = read_json(_note(path))
    except InputError:
        return {}
    return marks if marks.get("url") == url else {}


def _complete(path: Path, url: str) -> bool:
    """Whether the part has all bytes: it was stopped between the last one and its renaming."""
    total = _read_note(path, url).get("total")
    return total is not None and 0 < total == _held(_part(path))


def _held(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _discard(path: Path) -> None:
    _part(path).unlink(missing_ok=True)
    _note(path).unlink(missing_ok=True)
