"""Pickles that others wrote, read without running anything in them; NumPy's arrays out of them.

Whatever a pickle names becomes an `Inert` object that keeps the arguments and the state it was
given. Nothing is imported or called. Arrays are decoded from their bytes afterwards.
"""

import pickle
import re
from collections.abc import Collection, Mapping
from typing import IO, Any

import numpy as np

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
