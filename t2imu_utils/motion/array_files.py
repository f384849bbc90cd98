"""Arrays in files that others wrote: ``.npz`` and ``.npy``, those with pickled objects too.

Nothing in a pickle is run: whatever it names becomes an `_Inert` object that keeps the arguments
and the state it was given, and arrays are decoded from their bytes afterwards.
"""

import pickle
import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from t2imu_utils.errors import InputError

_MAX_BYTES = 2**31  # of one array: a guard against archives that explode
_AGAIN = "Write it again, or leave it out."

# What a pickle of arrays names, by package: NumPy's modules were renamed over the years.
_NAMED = {
    "numpy": {"_reconstruct", "_frombuffer", "dtype", "ndarray", "scalar"},
    "_codecs": {"encode"},
}


def read_npz(path: Path, keys: Collection[str]) -> dict[str, np.ndarray]:
    """Those of some arrays that an archive has, as far as they are plain ones of a sane size."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {member.filename: member.file_size for member in archive.infolist()}
        there = [key for key in keys if f"{key}.npy" in sizes]
        if (largest := max((sizes[f"{key}.npy"] for key in there), default=0)) > _MAX_BYTES:
            raise ValueError(f"{largest} bytes in one array")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in there}
        if bare := [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{bare[0]} is none")  # NumPy gives what it cannot read as bytes
        return arrays
    except Exception as error:  # a damaged archive fails in many ways inside zipfile and numpy
        raise InputError(path, f"no readable arrays ({error})", "an .npz", _AGAIN) from error


def read_number(stored: Mapping[str, np.ndarray], key: str, path: Path) -> float | None:
    """The one number of an array, None where there is no such array."""
    if key not in stored:
        return None
    value = stored[key]
    if value.size != 1 or value.dtype.kind not in "fiu":
        found = f"shape {value.shape} of {value.dtype}"
        raise InputError(f"{path}: {key}", found, "one number", _AGAIN)
    return float(value.item())


def read_npy(path: Path) -> np.ndarray | list[Any]:
    """A plain array, or the flat list that an array of objects holds. Nothing in it is run."""
    try:
        with open(path, "rb") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            *_, dtype = read(stream)
            if dtype.hasobject:
                return _decoded(_InertUnpickler(stream).load())
        # Mapped first: a header that promises more than the file holds is refused, not allocated.
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception as error:  # a damaged file or pickle fails in many ways
        raise InputError(path, f"no readable array ({error})", "a .npy", _AGAIN) from error


class _Inert:
    """What a pickle wanted to make: by which name, from which arguments, with which state."""

    kind = ""
    args: tuple
    state: Any

    def __new__(cls, *args: Any) -> "_Inert":
        made = super().__new__(cls)
        made.args, made.state = args, None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _InertUnpickler(pickle.Unpickler):
    """Builds containers, numbers, strings and `_Inert` objects; any other name is refused."""

    def find_class(self, module: str, name: str) -> type:
        if name not in _NAMED.get(module.split(".")[0], ()):
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}")
        return type(name, (_Inert,), {"kind": name})


def _decoded(value: Any) -> Any:
    """Arrays from their bytes; arrays of objects become flat lists, tuples become lists."""
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_decoded(item) for item in value]
    if not isinstance(value, _Inert):
        return value
    if value.kind == "_reconstruct":
        _, shape, dtype, columns_first, data = value.state
        if isinstance(data, list):
            return _decoded(data)
        flat = np.frombuffer(_bytes(data), _dtype(dtype))
        return flat.reshape(shape, order="F" if columns_first else "C")
    if value.kind == "_frombuffer":  # pickle protocol 5
        data, dtype, shape, order = value.args
        return np.frombuffer(_bytes(data), _dtype(dtype)).reshape(shape, order=order)
    if value.kind == "scalar":
        return np.frombuffer(_bytes(value.args[1]), _dtype(value.args[0]))[0]
    raise ValueError(f"an object {value.kind} without values")


def _dtype(value: Any) -> np.dtype:
    code, order = value.args[0], value.state[1]
    if value.kind != "dtype" or not re.fullmatch("[<>|=][biuf][1248]", order + code):
        raise ValueError(f"elements of type {order}{code}")
    return np.dtype(order + code)


def _bytes(value: Any) -> bytes:
    """Raw bytes; pickle protocols below 3 carry them as Latin-1."""
    if isinstance(value, _Inert) and value.kind == "encode":
        value = value.args[0].encode("latin1")
    if not isinstance(value, bytes | bytearray):
        raise ValueError(f"{type(value).__name__} instead of bytes")
    return bytes(value)
