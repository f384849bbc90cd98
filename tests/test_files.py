"""Files: what stands on the disk after a write that went wrong, what hashes see, and pickles."""

import io
import math
import os
import pickle
import subprocess

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch

from t2imu_utils import files
from t2imu_utils.errors import InputError


def test_a_folder_is_told_by_its_files(tmp_path):
    digests = set()
    for name, content in (("a", b"1"), ("b", b"1"), ("b", b"2")):
        (tmp_path / name).write_bytes(content)
        digests.add(files.sha256(tmp_path))
    assert len(digests) == 3 and files.sha256(tmp_path / "b") == files.sha256(b"2")


def test_atomic_write_leaves_nothing_behind_on_error(tmp_path):
    with pytest.raises(RuntimeError), files.atomic_write(tmp_path / "x") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A disk of 256 kB."""
    folder = tmp_path_factory.mktemp("disk")
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no command `mount`")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield folder
    # Lazily: torch keeps a file open that it could not write.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


BIG = np.random.default_rng(0).random(100_000)
WRITERS = {
    "parquet": lambda path: pd.DataFrame({"a": BIG}).to_parquet(path),
    "safetensors": lambda path: safetensors.numpy.save_file({"a": BIG}, path),
    "text": lambda path: path.write_text("x" * 10**6),
    # These do not say why they failed.
    "numpy": lambda path: BIG.tofile(path),
    "torch": lambda path: torch.save({"a": torch.from_numpy(BIG)}, path),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_disk_that_is_really_full(small_disk, kind):
    path = small_disk / "state"
    path.write_text("earlier")
    with pytest.raises(InputError, match="found a full disk"):
        with files.atomic_write(path) as temporary:
            WRITERS[kind](temporary)
    assert path.read_text() == "earlier" and list(small_disk.iterdir()) == [path]


def test_json_holds_plain_numbers(tmp_path):
    content = {
        "nan": [math.nan, -math.inf, np.float32("inf"), np.array(np.nan)],
        "numpy": {"whole": np.int64(3), "single": np.float32(0.25), "flag": np.bool_(True)},
        4: "key",
        "text": "°",
    }
    path = files.write_json(tmp_path / "a.json", content)
    assert files.read_json(path) == {
        "nan": [None] * 4, "numpy": {"whole": 3, "single": 0.25, "flag": True}, "4": "key",
        "text": "°",
    }  # fmt: skip
    shuffled = dict(reversed(list(content.items())))
    assert files.write_json(tmp_path / "b.json", shuffled).read_text() == path.read_text()


def test_a_path_for_an_output_is_checked_before_the_work(tmp_path):
    (tmp_path / "file.npz").write_text("")
    (tmp_path / "folder.npz").mkdir()
    assert files.output_file(tmp_path / "new" / "A.NPZ", ".npz") == tmp_path / "new" / "A.NPZ"
    assert not list((tmp_path / "new").iterdir())
    for name, found in {
        "a": "no ending", "a.txt": "the ending .txt", "folder.npz": "a folder",
        "file.npz/a.npz": "", "file.npz": "a file that is there", "a" * 250 + ".npz": "file name",
        "/proc/a.npz": "",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=f"found {found}"):
            files.output_file(tmp_path / name, ".npz")
    there = tmp_path / "file.npz"
    assert files.output_file(there, ".npz", force=True) == there
    with pytest.raises(InputError, match="that is read"):
        files.output_file(there, ".npz", force=True, source=there)


# ---------------------------------------------------------------- pickles that others wrote
def read(value, protocol=4, **options):
    return files.read_pickle(io.BytesIO(pickle.dumps(value, protocol)), **options)


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
    assert isinstance(value, files.Inert) and value.kind in files.ARRAYS
    decoded = files.decode_array(value)
    np.testing.assert_array_equal(decoded, array)
    assert decoded.dtype == array.dtype and decoded.shape == array.shape


def test_strings_of_python_2_carry_bytes_as_latin_1():
    # cPickle of Python 2 wrote the bytes of an array as a string; here of one float, -0.0.
    written = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08\0\0\0\0\0\0\0\x80tb."
    )
    array = files.decode_array(files.read_pickle(io.BytesIO(written), encoding="latin1"))
    assert array.tolist() == [0.0] and np.signbit(array[0])
    with pytest.raises(UnicodeDecodeError):
        files.read_pickle(io.BytesIO(written))


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
        files.decode_array(value)


def test_arrays_of_objects_and_too_few_bytes_are_refused():
    with pytest.raises(ValueError, match="list instead of bytes"):
        files.decode_array(read(np.array(["a", None], dtype=object)))
    value = read(np.arange(6.0))
    value.state = (*value.state[:-1], value.state[-1][:-8])
    with pytest.raises(ValueError, match="cannot reshape"):
        files.decode_array(value)
