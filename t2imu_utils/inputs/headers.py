"""What names and headers of files tell: shapes, whole or cut off, of which format.

No array is read, and nothing is unpickled.
"""

import json
import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

# How a pickle begins: protocol 2 and later, or the text protocols of old Python.
PICKLE = (b"\x80", b"(d", b"(i", b"}q", b"ccopy_reg")
TORCH = b"\x80\x02\x8a"  # a file of PyTorch before 1.6; later ones are zip archives


class Broken(ValueError):
    """A file that is there and cannot be what it should be."""


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip archive; a damaged one is `Broken`."""
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise Broken(f"{path.name} is no whole zip archive ({error})") from error


def load_json(path: Path) -> Any:
    """Read JSON; damaged text is `Broken`."""
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise Broken(f"{path.name} is no valid JSON ({error})") from error


def npy_shape(path: Path) -> tuple[int, ...]:
    """Shape of the array in a ``.npy``; a file of another length is `Broken`."""
    with open(path, "rb") as stream:
        try:
            shape, dtype = _read_header(stream)
        except ValueError as error:
            raise Broken(f"{path.name} is no NumPy array ({error})") from error
        expected = stream.tell() + math.prod(shape) * dtype.itemsize
    if path.stat().st_size != expected:
        raise Broken(f"{path.name} is cut off: {path.stat().st_size:,} of {expected:,} bytes")
    return shape


def member_shape(archive: zipfile.ZipFile, key: str) -> tuple[int, ...]:
    """Shape of an array in a ``.npz``; only its header is read."""
    try:
        with archive.open(f"{key}.npy") as stream:
            return _read_header(stream)[0]
    except KeyError as error:
        raise Broken(f"{Path(archive.filename).name} has no array {key}") from error


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"unknown version {version} of the format")
    shape, _, dtype = read[version](stream)
    return shape, dtype


def check_pickle(path: Path) -> None:
    """Begin and end of a pickle."""
    with open(path, "rb") as stream:
        head = stream.read(16)
        stream.seek(max(path.stat().st_size - 1, 0))
        end = stream.read(1)
    if not head.startswith(PICKLE):
        raise Broken(f"{path.name} is no pickle (it begins with {head!r})")
    if end != b".":
        raise Broken(f"{path.name} is cut off: a pickle ends with a full stop")


def check_torch_file(path: Path) -> None:
    """A zip archive with its end, or the older format."""
    with open(path, "rb") as stream:
        head = stream.read(4)
    if not zipfile.is_zipfile(path) and not head.startswith(TORCH):
        raise Broken(f"{path.name} is no whole PyTorch file (it begins with {head!r})")


def check_safetensors(path: Path) -> None:
    """The header says where the last tensor ends: a shorter file is cut off."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= size - 8:
            raise Broken(f"{path.name} is no safetensors file")
        header = json.loads(stream.read(length))
    ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise Broken(f"{path.name} is cut off: {size:,} of {expected:,} bytes")
