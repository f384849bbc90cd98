"""Files: what stands on the disk after a write that went wrong, and what hashes see."""

import errno
import math
import os
import platform
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch

from t2imu_utils import files
from t2imu_utils.errors import InputError


def write_arrays(path):
    path.mkdir()
    for name in ("000001", "000002"):
        np.save(path / f"{name}.npy", np.zeros((20, 263), np.float32))
    return path / "000002.npy"


def write_weights(path):
    safetensors.numpy.save_file({"weights": np.zeros(1000, np.float32)}, path)
    return path


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.fixture
def read(monkeypatch):
    """Names of the files whose content is hashed."""
    names, digest = [], files.hashlib.file_digest

    def noted(stream, kind):
        names.append(Path(stream.name).name)
        return digest(stream, kind)

    monkeypatch.setattr(files.hashlib, "file_digest", noted)
    return names


def test_a_file_is_read_once_as_long_as_it_is_the_same(tmp_path, monkeypatch, read):
    monkeypatch.setattr(files, "COARSEST_CLOCK", 0)
    write_arrays(tmp_path / "corpus")
    time.sleep(0.05)  # the clock of the file system has coarse ticks
    first = files.sha256(tmp_path / "corpus", remember=True)
    assert read == ["000001.npy", "000002.npy"]
    assert files.sha256(tmp_path / "corpus", remember=True) == first
    assert files.sha256(tmp_path / "corpus" / "000001.npy", remember=True) and len(read) == 2
    changed = tmp_path / "corpus" / "000002.npy"
    times = changed.stat()
    flip(changed)
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert files.sha256(tmp_path / "corpus", remember=True) != first
    assert read[2:] == ["000002.npy"]


def test_a_file_just_written_is_read_again(tmp_path, read):
    """It may change once more without a change of its times."""
    file = write_weights(tmp_path / "weights")
    digests = {files.sha256(file, remember=True) for _ in range(2)}
    assert len(digests) == 1 and len(read) == 2


def test_atomic_write_leaves_nothing_behind_on_error(tmp_path):
    with pytest.raises(RuntimeError), files.atomic_write(tmp_path / "x") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_two_machines_never_write_to_one_temporary_name(tmp_path, monkeypatch):
    """Nodes of a cluster share folders, and the numbers of their processes may be the same."""
    path, names = tmp_path / "prior.safetensors", set()
    for node in ("node01", "node02"):
        monkeypatch.setattr(platform, "node", lambda node=node: node)
        with files.atomic_write(path) as temporary:
            temporary.write_text(node)
            names.add(temporary.name)
        assert path.read_text() == node
    assert len(names) == 2 and all(str(os.getpid()) in name for name in names)


def test_a_table_is_written_whole_and_without_its_index(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "losses.parquet"
    table = pd.DataFrame({"acc": [0.5, 0.25], "model": ["mdm", "mdm-ft"]}, index=[7, 7])
    assert files.write_table(path, table) == path
    pd.testing.assert_frame_equal(pd.read_parquet(path), table.reset_index(drop=True))
    before = path.read_bytes()

    def broken_off(self, path, **_):
        Path(path).write_bytes(b"PAR1")
        raise RuntimeError

    monkeypatch.setattr(pd.DataFrame, "to_parquet", broken_off)
    with pytest.raises(RuntimeError):
        files.write_table(path, table)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def over_quota(*_, **__):
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def no_space_in_words(*_, **__):
    raise Exception("Error while serializing: I/O error: No space left on device (os error 28)")


def no_space_before(*_, **__):
    try:
        no_space()
    finally:
        raise AttributeError("'_idat' object has no attribute 'fileno'")


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (no_space, "no space left on device"),
        (over_quota, "disk quota exceeded"),
        (no_space_in_words, "no space left on device"),
        (no_space_before, "no space left on device"),
    ],
)
def test_a_full_disk_is_told_and_the_old_file_stays(tmp_path, write, said):
    path = tmp_path / "prior.safetensors"
    path.write_text("earlier")
    with pytest.raises(InputError) as told, files.atomic_write(path) as temporary:
        temporary.write_text("half")
        write()
    assert told.value.where == str(path) and "Make room" in told.value.remedy
    assert told.value.found.startswith(said) and told.value.found.endswith(" MB free)")
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error",
    [PermissionError(errno.EACCES, "no"), RuntimeError("no"), InputError("a", "b", "c", "d")],
)
def test_other_errors_pass_as_they_are(tmp_path, error):
    with pytest.raises(type(error)) as raised, files.atomic_write(tmp_path / "x") as temporary:
        temporary.write_text("half")
        raise error
    assert raised.value is error and list(tmp_path.iterdir()) == []


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
    with pytest.raises(InputError, match="found no space left on device") as told:
        with files.atomic_write(path) as temporary:
            WRITERS[kind](temporary)
    assert told.value.found.endswith("(0.3 MB free)")
    assert path.read_text() == "earlier" and list(small_disk.iterdir()) == [path]


def test_json_holds_plain_numbers(tmp_path):
    content = {
        "nan": math.nan,
        "infinite": [-math.inf, np.float32("inf")],
        "numpy": {"whole": np.int64(3), "part": np.float64(0.5), "single": np.float32(0.25)},
        "flags": (np.bool_(True), False),
        "missing": [None, np.float64("nan"), np.array(np.nan)],
        4: "key",
        "text": "°",
    }
    path = files.write_json(tmp_path / "a.json", content)
    text = path.read_text(encoding="utf-8")
    assert not any(word in text for word in ("NaN", "Infinity"))
    assert files.read_json(path) == {
        "nan": None,
        "infinite": [None, None],
        "numpy": {"whole": 3, "part": 0.5, "single": 0.25},
        "flags": [True, False],
        "missing": [None, None, None],
        "4": "key",
        "text": "°",
    }
    shuffled = dict(reversed(list(content.items())))
    assert files.write_json(tmp_path / "b.json", shuffled).read_text() == path.read_text()


def test_json_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = files.write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    assert files.read_json(path) == {"a": 1} and list(tmp_path.iterdir()) == [path]


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
