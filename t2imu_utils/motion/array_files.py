"""Arrays in files that others wrote: ``.npz`` and ``.npy``, those with pickled objects too.

Nothing in a pickle is run (see `pickles`).
"""

import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from t2imu_utils.errors import InputError
from t2imu_utils.pickles import Inert, decode_array, read_pickle

_MAX_BYTES = 2**31  # of one array: a guard against archives that explode
_AGAIN = "Write it again, or leave it out."


def read_npz(
    path: Path, keys: Collection[str], remedy: str = _AGAIN, whole: bool = False
) -> dict[str, np.ndarray]:
    """Those of some arrays that an archive has, as far as they are plain ones of a sane size.

    Raises:
        InputError: no file, a damaged one, or with `whole` one that lacks some of the arrays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {member.filename: member.file_size for member in archive.infolist()}
        there = [key for key in keys if f"{key}.npy" in sizes]
        if whole and (missing := [key for key in keys if key not in there]):
            held = ", ".join(name.removesuffix(".npy") for name in sizes)
            raise InputError(f"{path}: {', '.join(missing)}", f"only {held}", "more fields", remedy)
        if (largest := max((sizes[f"{key}.npy"] for key in there), default=0)) > _MAX_BYTES:
            raise ValueError(f"{largest} bytes in one array")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in there}
        if bare := [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{bare[0]} is none")  # NumPy gives what it cannot read as bytes
        return arrays
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(path, "no file", "an .npz", remedy) from error
    except Exception as error:  # a damaged archive fails in many ways inside zipfile and numpy
        raise InputError(path, f"no readable arrays ({error})", "an .npz", remedy) from error


def read_number(stored: Mapping[str, np.ndarray], key: str, path: Path) -> float | None:
    """The one number of an array, None where there is no such array."""
    if key not in stored:
        return None
    value = stored[key]
    if value.size != 1 or value.dtype.kind not in "fiu":
        found = f"shape {value.shape} of {value.dtype}"
        raise InputError(f"{path}: {key}", found, "one number", _AGAIN)
    return float(value.item())


def read_npy(path: Path, remedy: str = _AGAIN) -> np.ndarray | list[Any]:
    """A plain array, or the flat list that an array of objects holds. Nothing in it is run."""
    try:
        with open(path, "rb") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            *_, dtype = read(stream)
            if dtype.hasobject:
                return _decoded(read_pickle(stream))
        # Mapped first: a header that promises more than the file holds is refused, not allocated.
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except FileNotFoundError as error:
        raise InputError(path, "no file", "a .npy", remedy) from error
    except Exception as error:  # a damaged file or pickle fails in many ways
        raise InputError(path, f"no readable array ({error})", "a .npy", remedy) from error


def _decoded(value: Any) -> Any:
    """Arrays from their bytes; arrays of objects become flat lists, tuples become lists."""
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_decoded(item) for item in value]
    if not isinstance(value, Inert):
        return value
    if value.kind == "numpy._reconstruct" and isinstance(items := value.state[-1], list):
        return _decoded(items)
    return decode_array(value)
