"""Checksums of downloaded files: known ones, and those recorded at the first download.

The record is ``checksums.json`` in the data folder. It also holds the size and time of each file,
so that a file that nobody has touched need not be read again.
"""

import time
from pathlib import Path
from typing import Any

import pooch

from t2imu_utils.files import read_json, sha256, write_json
from t2imu_utils.inputs.registry import Download, Input, target

RECORD = "checksums.json"


def known(entry: Input, file: Download, root: Path) -> str | None:
    """``"sha256:…"`` or ``"md5:…"`` of a file, by the registry or as recorded before."""
    for algorithm in ("sha256", "md5"):
        if digest := getattr(file, algorithm):
            return f"{algorithm}:{digest}"
    recorded = _recorded(entry, file, root)
    return f"sha256:{recorded['sha256']}" if recorded else None


def record(entry: Input, file: Download, root: Path) -> None:
    """Write down the checksum of a file that has just been downloaded."""
    path = target(entry, file, root)
    content = {
        "sha256": sha256(path),
        "url": entry.url(file),
        "fetched": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **_stamp(path),
    }
    write_json(Path(root) / RECORD, {**_read(root), _key(path, root): content})


def differs(entry: Input, root: Path, thorough: bool = False) -> str:
    """Which downloaded files of an input have changed since, in words; "" for none.

    Args:
        thorough: read every file that has a known checksum; otherwise only those whose size or
            time is no longer the recorded one.
    """
    changed = []
    for file in entry.files:
        path, recorded = target(entry, file, root), _recorded(entry, file, root)
        if not path.is_file() or not (thorough or recorded):
            continue
        if not thorough and _stamp(path) == {key: recorded[key] for key in ("bytes", "modified")}:
            continue
        digest = known(entry, file, root)
        if digest and not pooch.hashes.hash_matches(str(path), digest):
            changed.append(f"{path.name} has another checksum than {digest}")
    return "; ".join(changed)


def _recorded(entry: Input, file: Download, root: Path) -> dict[str, Any] | None:
    return _read(root).get(_key(target(entry, file, root), root))


def _read(root: Path) -> dict[str, Any]:
    path = Path(root) / RECORD
    return read_json(path) if path.exists() else {}


def _key(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _stamp(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"bytes": stat.st_size, "modified": stat.st_mtime_ns}
