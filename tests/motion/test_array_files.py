"""Files of arrays that others wrote: pickled ones in each protocol, and those that are none."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.motion import exports
from t2imu_utils.motion.exports import read_npy, read_npz, read_number

CONTENT = {
    "motion": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "text": ["a person walks", "jemand läuft"],
    "lengths": np.array([3, 4]),
    "mixed": np.array(["a", None], dtype=object),
    "number": np.float64(2.5),
    "deep": ({"x": [1, 2.5, True, None]},),
}


class Calls:
    """What runs a command when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write_objects(path, content, protocol):
    """A ``.npy`` as `numpy.save` lays it out, with a protocol of one's own."""
    array = np.asanyarray(content, dtype=object)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "|O", "fortran_order": False, "shape": array.shape}
    )
    path.write_bytes(head.getvalue() + pickle.dumps(array, protocol))
    return path


def assert_content(read):
    assert list(read) == list(CONTENT)
    for key in ("motion", "turned", "lengths", "number"):
        np.testing.assert_array_equal(read[key], CONTENT[key])
        assert read[key].dtype == CONTENT[key].dtype
    assert read["text"] == CONTENT["text"] and read["mixed"] == ["a", None]
    assert read["deep"] == [{"x": [1, 2.5, True, None]}]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_arrays_are_read_in_each_protocol(tmp_path, protocol):
    (read,) = read_npy(write_objects(tmp_path / "x.npy", CONTENT, protocol))
    assert_content(read)


def test_what_numpy_saves_is_read(tmp_path):
    np.save(tmp_path / "x.npy", CONTENT)
    (read,) = read_npy(tmp_path / "x.npy")
    assert_content(read)


def test_what_numpy_1_saved_is_read(tmp_path):
    # It had its functions in modules of other names, and wrote protocol 3.
    path = write_objects(tmp_path / "x.npy", CONTENT, 3)
    new, old = b"cnumpy._core.", b"cnumpy.core."
    assert new in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(new, old))
    (read,) = read_npy(path)
    assert_content(read)


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.mkdir, ("called",), f"{os.mkdir.__module__}.mkdir"),
        (eval, ("__import__('os').mkdir('called')",), "builtins.eval"),
        (np.savetxt, ("called", [1.0]), "numpy.savetxt"),
        (getattr, ("text", "upper"), "builtins.getattr"),
    ],
)
def test_a_pickle_that_calls_something_is_refused(tmp_path, monkeypatch, function, arguments, name):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", {"motion": Calls(function, *arguments)})
    with pytest.raises(InputError, match=f"x.npy: found .*it wants to run {name}"):
        read_npy(tmp_path / "x.npy")
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]


def test_arrays_of_odd_elements_are_refused(tmp_path):
    for odd in (np.array("2020-01-01", "M8[D]"), np.zeros(2, [("x", "f4")]), np.array(["text"])):
        np.save(tmp_path / "x.npy", {"motion": odd})
        with pytest.raises(InputError, match="elements of type"):
            read_npy(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", {"motion": np.dtype("f4")})
    with pytest.raises(InputError, match="an object dtype without values"):
        read_npy(tmp_path / "x.npy")


def test_plain_arrays_are_read_and_damaged_ones_refused(tmp_path):
    path = tmp_path / "x.npy"
    for array in (np.arange(6.0).reshape(2, 3), np.asfortranarray(np.ones((3, 2), np.int16))):
        np.save(path, array)
        read = read_npy(path)
        np.testing.assert_array_equal(read, array)
        assert read.dtype == array.dtype and not isinstance(read, np.memmap)
    whole = path.read_bytes()
    np.save(path, CONTENT)
    objects = path.read_bytes()
    huge = whole.replace(b"(3, 2)", b"(3000000000000, 2)").replace(b" " * 13, b"", 1)
    for content in (whole[:-1], objects[:-20], b"", b"<!DOCTYPE html><html>", b"PK\3\4", huge):
        path.write_bytes(content)
        with pytest.raises(InputError, match="x.npy: found no readable array"):
            read_npy(path)
    with pytest.raises(InputError, match="absent.npy: found no file.*Take another"):
        read_npy(tmp_path / "absent.npy", "Take another.")


def test_archives_give_what_they_have(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.arange(3), b=np.array(20.0), c=np.array([{}], dtype=object))
    read = read_npz(path, ("b", "a", "absent"))
    assert sorted(read) == ["a", "b"] and read["a"].tolist() == [0, 1, 2]
    assert read_number(read, "b", path) == 20.0 and read_number(read, "absent", path) is None
    with pytest.raises(InputError, match=r"x.npz: a: found shape \(3,\) of int64; expected one"):
        read_number(read, "a", path)
    with pytest.raises(InputError, match="found no readable arrays.*allow_pickle"):
        read_npz(path, ("a", "c"))
    assert sorted(read_npz(path, ("b", "a"), whole=True)) == ["a", "b"]
    with pytest.raises(InputError, match="x.npz: d, e: found only a, b, c; .*Take another"):
        read_npz(path, ("a", "d", "e"), "Take another.", whole=True)
    with pytest.raises(InputError, match="absent.npz: found no file; .*Take another"):
        read_npz(tmp_path / "absent.npz", ("a",), "Take another.")
    monkeypatch.setattr(exports, "_MAX_BYTES", 100)
    with pytest.raises(InputError, match="152 bytes in one array"):
        read_npz(path, ("a",))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="no readable arrays"):
        read_npz(path, ("a",))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"no array")
    with pytest.raises(InputError, match="no readable arrays"):
        read_npz(path, ("a",))
