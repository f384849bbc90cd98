"""Files: written whole or not at all, told apart by their hashes; JSON, tables, others' pickles."""

import errno
import hashlib
import json
import math
import os
import pickle
import platform
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from t2imu_utils.errors import InputError


def beside(path: Path, ending: str) -> Path:
    """A hidden name beside `path` for what only this process writes.

    It holds the machine's name too: on a cluster many share a folder and some a process number.
    """
    path = Path(path)
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.{ending}")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it on success, remove it on any error.

    Raises:
        InputError: the disk is full. What stood at `path` before is still there, whole.
    """
    path = Path(path)
    temporary = beside(path, "tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except Exception as error:
        there = next(folder for folder in path.parents if folder.exists())
        if isinstance(error, InputError) or not _full(there):
            raise
        if temporary.exists():
            os.truncate(temporary, 0)  # torch may still hold it open
        free = f"{shutil.disk_usage(there).free / 1e6:.1f} MB free"
        raise InputError(
            path, f"a full disk, or a spent quota ({free})", "room for the whole file",
            "Nothing was written over: earlier results are whole. Make room on this disk, or name "
            "another with T2IMU_RUNS if they are runs, and start the same again.",
        ) from error  # fmt: skip
    finally:
        temporary.unlink(missing_ok=True)


def _full(folder: Path) -> bool:
    """Whether a disk is full, or a quota spent: numpy and torch keep that reason to themselves."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(1 << 20))
    except OSError as refused:
        return refused.errno in (errno.ENOSPC, errno.EDQUOT)
    return False


def sha256(source: Path | bytes) -> str:
    """Hex digest of a file's content, of a folder's files in order, or of bytes."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    source = Path(source)
    if source.is_dir():
        files = sorted(p for p in source.rglob("*") if p.is_file())
        parts = [f"{p.relative_to(source)}:{sha256(p)}" for p in files]
        return sha256("\n".join(parts).encode())
    with open(source, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def output_file(path: Path, suffix: str, force: bool = False, source: Path | None = None) -> Path:
    """A path that a person chose for a file, before anything is computed for it; makes its folder.

    It must end with `suffix`, be free or `force`d, and not be the file `source` that is read.

    Raises:
        InputError: it does not, is a folder, or is a place or name that the system refuses.
    """
    path = Path(path)
    if path.suffix.lower() != suffix:
        found = f"the ending {path.suffix}" if path.suffix else "no ending"
        raise InputError(path, found, suffix, f"Name it {path.stem or 'motion'}{suffix}.")
    try:
        if path.is_dir():
            raise InputError(path, "a folder", "the name of a file", "Choose a name that is free.")
        if path.exists() and source is not None and path.samefile(source):
            raise InputError(path, "the file that is read", "another", "Choose another name.")
        if path.exists() and not force:
            remedy = "Choose another, or write over it with --force."
            raise InputError(path, "a file that is there already", "a free name", remedy)
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = beside(path, "tmp")
        probe.touch()
        probe.unlink()
    except OSError as error:
        remedy = "Choose another folder, or a shorter name."
        found = (error.strerror or str(error)).lower()
        raise InputError(path, found, "a place that can be written", remedy) from error
    return path


def write_table(path: Path, table: pd.DataFrame) -> Path:
    """Write a table atomically as Parquet, without its index."""
    with atomic_write(path) as temporary:
        table.to_parquet(temporary, index=False)
    return Path(path)


def write_json(path: Path, content: dict[str, Any]) -> Path:
    """Write JSON atomically, sorted and indented; what is not a number (NaN) becomes null."""
    text = json.dumps(plain(content), indent=1, sort_keys=True, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return path


def plain(value: Any) -> Any:
    """A value as it stands in JSON: keys are text, numpy's numbers plain, NaN is None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """Read JSON; a damaged file is an `InputError` that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            path, f"no valid JSON ({error})", "a JSON object", "Delete it and run its stage again."
        ) from error


# ---------------------------------------------------------------- pickles that others wrote
# Read without running anything in them: whatever a pickle names becomes an `Inert` object that
# keeps the arguments and the state it was given. Arrays are decoded from their bytes afterwards.

# What a pickle of arrays names, by package: NumPy's modules were renamed over the years.
NUMPY = {
    "numpy": {"_reconstruct", "_frombuffer", "dtype", "ndarray", "scalar"},
    "_codecs": {"encode"},
}
# Kinds of objects that `decode_array` knows.
ARRAYS = {"numpy._reconstruct", "numpy._frombuffer", "numpy.scalar"}


class Inert:
    """What a pickle wanted to make: by which name, from which arguments, with which state.

    kind: package and name, such as ``"numpy._reconstruct"``.
    """

    kind = ""
    args: tuple
    state: Any

    def __new__(cls, *args: Any) -> "Inert":
        made = super().__new__(cls)
        made.args, made.state = args, None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_pickle(
    stream: IO[bytes],
    named: Mapping[str, Collection[str]] = NUMPY,
    whole: Collection[str] = (),
    encoding: str = "ASCII",
) -> Any:
    """Containers, numbers, strings and `Inert` objects of a pickle.

    Args:
        named: the names it may have, by package.
        whole: packages of which it may have any name.
        encoding: of the strings of Python 2; ``"latin1"`` where they hold the bytes of arrays.

    Raises:
        pickle.UnpicklingError: it names something else.
        Exception: a damaged pickle fails in many ways.
    """
    return _Unpickler(stream, named, whole, encoding).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream, named, whole, encoding):
        super().__init__(stream, encoding=encoding)
        self.named, self.whole = named, whole

    def find_class(self, module: str, name: str) -> type:
        package = module.split(".")[0]
        if package not in self.whole and name not in self.named.get(package, ()):
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}")
        return type(name, (Inert,), {"kind": f"{package}.{name}"})


def decode_array(value: Inert) -> np.ndarray | np.generic:
    """An array or a scalar of NumPy from its bytes: of booleans, whole numbers or floats.

    Raises:
        ValueError: another object, or elements of another type.
        Exception: arguments and states that do not belong together fail in many ways.
    """
    if value.kind == "numpy._reconstruct":
        _, shape, dtype, columns_first, data = value.state
        flat = np.frombuffer(_bytes(data), _dtype(dtype))
        return flat.reshape(shape, order="F" if columns_first else "C")
    if value.kind == "numpy._frombuffer":  # pickle protocol 5
        data, dtype, shape, order = value.args
        return np.frombuffer(_bytes(data), _dtype(dtype)).reshape(shape, order=order)
    if value.kind == "numpy.scalar":
        return np.frombuffer(_bytes(value.args[1]), _dtype(value.args[0]))[0]
    raise ValueError(f"an object {type(value).__name__} without values")


def _dtype(value: Any) -> np.dtype:
    code, order = value.args[0], value.state[1]
    if value.kind != "numpy.dtype" or not re.fullmatch("[<>|=][biuf][1248]", order + code):
        raise ValueError(f"elements of type {order}{code}")
    return np.dtype(order + code)


def _bytes(value: Any) -> bytes:
    """Raw bytes; strings of Python 2 and of protocols below 3 carry them as Latin-1."""
    if isinstance(value, Inert) and value.kind == "_codecs.encode":
        value = value.args[0]
    if isinstance(value, str):
        return value.encode("latin1")
    if not isinstance(value, bytes | bytearray):
        raise ValueError(f"{type(value).__name__} instead of bytes")
    return bytes(value)
