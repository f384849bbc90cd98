"""Pickles of others: what they name is taken down, arrays are decoded, nothing is run."""

import io
import os
import pickle

import numpy as np
import pytest

from t2imu_utils.files import ARRAYS, Inert, decode_array, read_pickle


def read(value, protocol=4, **options):
    return read_pickle(io.BytesIO(pickle.dumps(value, protocol)), **options)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">i2").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([True, False]),
        np.array(2.5, np.float16),
        np.float32(2.5),
        np.uint8(7),
    ],
)
def test_arrays_and_scalars_come_back_in_each_protocol(array, protocol):
    value = read(array, protocol)
    assert isinstance(value, Inert) and value.kind in ARRAYS
    decoded = decode_array(value)
    np.testing.assert_array_equal(decoded, array)
    assert decoded.dtype == array.dtype and decoded.shape == array.shape


def test_strings_of_python_2_carry_bytes_as_latin_1():
    # cPickle of Python 2 wrote the bytes of an array as a string; here of one float, -0.0.
    written = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08\0\0\0\0\0\0\0\x80tb."
    )
    array = decode_array(read_pickle(io.BytesIO(written), encoding="latin1"))
    assert array.tolist() == [0.0] and np.signbit(array[0])
    with pytest.raises(UnicodeDecodeError):
        read_pickle(io.BytesIO(written))


class Calls:
    """What makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("called",)


def test_other_names_are_refused_before_anything_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match=r"wants to run (posix|nt)\.mkdir"):
        read(Calls())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("allowed", [{"named": {os.mkdir.__module__: {"mkdir"}}}, {"whole": True}])
def test_names_that_are_allowed_are_not_called_either(tmp_path, monkeypatch, allowed):
    monkeypatch.chdir(tmp_path)
    allowed = {"whole": {os.mkdir.__module__}} if "whole" in allowed else allowed
    value = read(Calls(), **allowed)
    assert value.kind == f"{os.mkdir.__module__}.mkdir" and value.args == ("called",)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="an object mkdir without values"):
        decode_array(value)


def test_arrays_of_objects_and_too_few_bytes_are_refused():
    with pytest.raises(ValueError, match="list instead of bytes"):
        decode_array(read(np.array(["a", None], dtype=object)))
    value = read(np.arange(6.0))
    value.state = (*value.state[:-1], value.state[-1][:-8])
    with pytest.raises(ValueError, match="cannot reshape"):
        decode_array(value)
