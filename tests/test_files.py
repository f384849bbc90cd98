"""Files: what stands on the disk after a write that went wrong, and what hashes see."""

import math
import os
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
