"""The registry of inputs, the checks on small files in official layouts, tracks, and downloads."""

import hashlib
import http.server
import io
import json
import pickle
import re
import threading
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256
from t2imu_utils.inputs import (
    Download,
    Input,
    chosen,
    examine,
    fetch,
    lacking,
    load_registry,
    needs_of,
    plan,
    status,
    unpack,
)
from t2imu_utils.tracks import load_track

REGISTRY = load_registry()


def write(path: Path, content: bytes | str = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def packed(members: dict[str, bytes] | list[str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in members:
            content = members[name] if isinstance(members, dict) else b"1"
            archive.writestr(zipfile.ZipInfo(name), content)  # of no date: the same bytes again
    return buffer.getvalue()


def make(root: Path, name: str) -> Path:
    """An input in its official layout, as its entry in the registry says, with tiny arrays."""
    entry = REGISTRY.inputs[name]
    folder = root / entry.path
    for glob in entry.names:
        file = glob.split(" | ")[0].replace("**/", "deep/").replace("*", "1")
        file = file.replace("[Bb]", "b").replace("[Mm]", "M")
        shapes = {k.partition(":")[2]: s for k, s in entry.shapes.items()}
        path = write(folder / file)
        if file.endswith(".npy"):
            np.save(path, np.zeros([n or 9 for n in list(entry.shapes.values())[0]]))
        elif file.endswith(".npz"):
            arrays = {k: np.zeros([n or 9 for n in s or [2]]) for k, s in shapes.items() if k}
            np.savez(path, **arrays)
        elif file.endswith(".json"):
            says = entry.says.get(file, {})
            write(path, json.dumps({key: allowed[0] for key, allowed in says.items()}))
        elif file.endswith((".pt", ".pth", ".tar")):
            write(path, packed(["archive/data.pkl"]))
        elif file.endswith(".zip"):
            write(path, packed(["notes.txt"]))
        elif not file.endswith((".txt", ".csv", ".safetensors")):
            write(path.with_suffix(".pkl"), pickle.dumps({}, protocol=2))
            path.unlink()
    return folder


# The registry


def test_needs_follow_from_the_track():
    assert needs_of(load_track("demo"), REGISTRY).required == []
    paper = needs_of(load_track("paper"), REGISTRY)
    assert paper.required == [
        "humanml3d_texts", "mdm_distilbert", "distilbert", "momask", "clip", "remodiffuse", "smpl",
        "realworld",
    ]  # fmt: skip
    assert paper.either == [["humanml3d"], ["amass", "smplh", "humanact12"]]


# The checks


@pytest.mark.parametrize("name", REGISTRY.inputs)
def test_what_is_missing_whole_and_in_part(tmp_path, name):
    entry = REGISTRY.inputs[name]
    assert examine(entry, tmp_path / "absent")[0] == "missing"
    (tmp_path / entry.path).mkdir(parents=True)
    assert examine(entry, tmp_path)[0] == "missing"
    if not entry.names:
        return
    folder = make(tmp_path, name)
    state, why = examine(entry, tmp_path)
    assert state == ("incomplete" if entry.members else "present"), why
    if len(entry.names) > 1:
        next(p for p in sorted(folder.rglob("*")) if p.is_file()).unlink()
        assert examine(entry, tmp_path)[0] == "incomplete"


@pytest.mark.parametrize(
    ("name", "file", "damage", "why"),
    [
        ("humanml3d_texts", "Mean.npy", "cut", "Mean.npy|unreadable"),
        ("humanml3d_texts", "index.csv", "html", "index.csv is a web page"),
        ("humanml3d", "new_joint_vecs/1.npy", np.zeros((9, 251)), "not .None, 263"),
        ("smplh", "male/model.npz", {"v_template": (10475, 3)}, "not .6890, 3"),
        ("smplh", "male/model.npz", "cut", "no whole archive"),
        ("mdm_distilbert", "args.json", {"arch": "trans_enc"}, "'trans_enc', not 'trans_dec'"),
    ],
)
def test_what_is_damaged_or_another_is_told(tmp_path, name, file, damage, why):
    path = make(tmp_path, name) / file
    assert path.exists()
    if isinstance(damage, np.ndarray):
        np.save(path, damage)
    elif damage == "html":
        path.write_text("<!DOCTYPE html><title>Sign in</title>")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif path.suffix == ".json":
        path.write_text(json.dumps(damage))
    else:
        np.savez(path, **{key: np.zeros(shape) for key, shape in damage.items()})
    state, told = examine(REGISTRY.inputs[name], tmp_path)
    assert state == "wrong" and re.search(why, told), told


def test_nothing_is_unpickled(tmp_path):
    evil = b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    write(tmp_path / "smpl" / "SMPL_MALE.pkl", evil)
    examine(REGISTRY.inputs["smpl"], tmp_path)
    assert not (tmp_path / "ran").exists()


def test_unpacked_and_packed_recordings_are_counted(tmp_path):
    for subject in range(1, 16):
        for name in ("acc_walking_chest.csv", "Gyroscope_walking_chest.csv"):
            write(tmp_path / "realworld" / f"proband{subject}" / "data" / name, "id,attr_time")
    assert examine(REGISTRY.inputs["realworld"], tmp_path)[0] == "present"
    write(tmp_path / "pamap2" / "outer.zip", packed(["PAMAP2_Dataset.zip", "readme.pdf"]))
    assert examine(REGISTRY.inputs["pamap2"], tmp_path)[0] == "present"
    protocol = packed([f"PAMAP2_Dataset/Protocol/subject10{n}.dat" for n in range(1, 9)])
    write(tmp_path / "pamap2" / "outer.zip", protocol)
    assert examine(REGISTRY.inputs["pamap2"], tmp_path) == ("incomplete", "8 of 9 subjects")
    write(tmp_path / "pamap2" / "outer.zip", protocol[:-9])
    assert examine(REGISTRY.inputs["pamap2"], tmp_path)[0] == "wrong"


# Tracks


def test_one_choice_suffices_but_must_be_whole(tmp_path):
    table = status("paper", tmp_path)
    assert (table["state"] == "missing").all() and lacking(table)[-1] == "humanml3d"
    assert not {"amass", "smplh", "humanact12"} & set(chosen(table)["input"])
    for name in ("amass", "smplh"):
        make(tmp_path, name)
        assert "humanml3d" in lacking(status("paper", tmp_path))
    make(tmp_path, "humanact12")
    assert "humanml3d" not in lacking(status("paper", tmp_path))
    first = set(chosen(status("open", tmp_path))["input"])
    assert "cmu_asfamc" in first and "cmu_bvh" not in first
    assert status("demo", tmp_path).empty and lacking(status("demo", tmp_path)) == []


def test_real_recordings_and_motions_are_present(real_data):
    table = status("open", real_data).set_index("input")
    needed = ["cmu_descriptions", "cmu_asfamc", "cmu_bvh", "kitml_sentences", "bandai", "reactidle"]
    needed += ["deepmimic", "uiprmd", "umafall", "hapt"]
    assert (table.loc[needed, "state"] == "present").all()
    assert lacking(table.reset_index()) == []


# Downloads

BYTES = np.random.default_rng(0).bytes(100_000)


@pytest.fixture
def server(tmp_path_factory):
    """A server of a folder, `served`, on this machine."""
    served = tmp_path_factory.mktemp("served")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=served)
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    made.served = served
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    write(served / "a.bin", packed({"x": BYTES}))
    yield made
    made.shutdown()
    made.server_close()


def thing(server, name="a.bin", path="set", **facts) -> Input:
    url = f"http://127.0.0.1:{server.server_address[1]}/{name.split('/')[-1]}"
    return Input(
        name="thing", what="a thing", licence="none", page="http://home.page", size="0.1 MB",
        path=path, names=["a.bin"], files=[Download(name=name, url=url, **facts)],
    )  # fmt: skip


def test_a_file_comes_once_and_is_never_written_over(server, tmp_path):
    entry, path = thing(server), tmp_path / "set" / "a.bin"
    assert [place for _, place in plan(entry, tmp_path)] == [path]
    fetch(entry, tmp_path, progress=False)
    assert (
        path.read_bytes() == (server.served / "a.bin").read_bytes() and plan(entry, tmp_path) == []
    )
    assert examine(entry, tmp_path) == ("present", "a.bin")
    path.write_bytes(packed({"mine": b""}))
    fetch(entry, tmp_path, progress=False)
    assert path.read_bytes() == packed({"mine": b""})
    told = examine(thing(server, sha256=sha256(server.served / "a.bin")), tmp_path)
    assert told == ("present", "a.bin, a.bin differs from the published file")


@pytest.mark.parametrize(
    ("facts", "content"),
    [
        ({"sha256": "0" * 64}, packed({"x": BYTES})),
        ({"md5": hashlib.md5(BYTES).hexdigest()}, packed({"x": BYTES})),
        ({}, b"<!DOCTYPE html><html>Quota exceeded"),
        ({}, packed({"x": BYTES})[:-100]),
        ({}, None),
    ],
)
def test_what_is_not_the_file_is_not_kept(server, tmp_path, facts, content):
    (server.served / "a.bin").unlink()
    if content is not None:
        write(server.served / "a.bin", content)
    with pytest.raises(InputError, match="http://home.page"):
        fetch(thing(server, **facts), tmp_path, progress=False)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_an_archive_is_unpacked_without_its_outer_folder(server, tmp_path):
    content = {"x/args.json": b"{}", "x/deep/model1.pt": b"2", "__MACOSX/._args": b""}
    entry = thing(server, "../m.zip", path="models/mine", unpack=".")
    write(server.served / "m.zip", packed(content))
    write(tmp_path / "models" / "mine" / "args.json", "mine")
    fetch(entry, tmp_path, progress=False)
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert found == ["models/m.zip", "models/mine/args.json", "models/mine/deep/model1.pt"]
    assert (tmp_path / "models" / "mine" / "args.json").read_text() == "mine"
    write(tmp_path / "deep" / "e.zip", packed({"../../evil": b""}))
    unpack(tmp_path / "deep" / "e.zip", tmp_path / "deep" / "into")
    assert not (tmp_path / "evil").exists()
