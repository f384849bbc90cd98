"""Downloads from a small server on this machine, and what becomes of them."""

import hashlib
import http.server
import io
import threading
import zipfile

import numpy as np
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256
from t2imu_utils.inputs.checks import examine
from t2imu_utils.inputs.downloads import fetch, plan, unzip, write_descriptions
from t2imu_utils.inputs.registry import Download, Input

BYTES = np.random.default_rng(0).bytes(100_000)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        content = self.server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """A server whose `files` map paths to contents, at `url`; `asked` are the paths sent."""
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.files, made.asked = {"/a.bin": BYTES}, []
    made.url = f"http://127.0.0.1:{made.server_address[1]}"
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def entry(server, name="a.bin", kind="binary", path="set", **facts) -> Input:
    file = Download(name=name, url=f"{server.url}/{name.split('/')[-1]}", kind=kind, **facts)
    members = [{"what": "files", "pattern": r"^(a\.bin)$", "least": 1}]
    return Input(
        name="thing", what="a thing", licence="none", page="http://home.page", size="0.1 MB",
        path=path, check="members", facts={"members": members}, files=[file],
    )  # fmt: skip


def names(root) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def packed(members) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_a_file_comes_once_and_is_never_written_over(server, tmp_path):
    thing = entry(server)
    assert [p.path for p in plan(thing, tmp_path)] == [tmp_path / "set" / "a.bin"]
    assert examine(thing, tmp_path).state == "missing"
    assert fetch(thing, tmp_path, progress=False) == [tmp_path / "set" / "a.bin"]
    assert (tmp_path / "set" / "a.bin").read_bytes() == BYTES and names(tmp_path) == ["set/a.bin"]
    assert examine(thing, tmp_path).state == "present" and plan(thing, tmp_path) == []
    (tmp_path / "set" / "a.bin").write_bytes(b"mine")
    assert fetch(thing, tmp_path, progress=False) == [] and server.asked == ["/a.bin"]
    assert (tmp_path / "set" / "a.bin").read_bytes() == b"mine"


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_wrong_checksum_is_refused_and_nothing_kept(server, tmp_path, algorithm):
    with pytest.raises(InputError, match="http://home.page"):
        fetch(entry(server, **{algorithm: "0" * 32}), tmp_path, progress=False)
    assert names(tmp_path) == []
    right = {"sha256": sha256(BYTES), "md5": hashlib.md5(BYTES).hexdigest()}
    fetch(entry(server, **{algorithm: right[algorithm]}), tmp_path, progress=False)
    assert (tmp_path / "set" / "a.bin").read_bytes() == BYTES


@pytest.mark.parametrize(
    ("kind", "content"),
    [("npy", b"<!DOCTYPE html><html>Quota exceeded"), ("zip", packed({"x": BYTES})[:-100])],
)
def test_what_is_not_the_file_is_not_kept(server, tmp_path, kind, content):
    server.files["/a.bin"] = content
    with pytest.raises(InputError, match=f"expected a {kind} file"):
        fetch(entry(server, kind=kind), tmp_path, progress=False)
    with pytest.raises(InputError, match="404"):
        fetch(entry(server, "gone.bin"), tmp_path, progress=False)
    assert names(tmp_path) == []


def test_an_archive_is_unpacked_without_its_outer_folder(server, tmp_path):
    content = {"model_x/args.json": b"{}", "model_x/deep/model1.pt": b"2", "__MACOSX/._args": b""}
    server.files["/m.zip"] = packed(content)
    thing = entry(server, "../m.zip", kind="zip", path="models/mine", turn="unzip", into=".")
    assert fetch(thing, tmp_path, progress=False) == [
        tmp_path / "models" / "m.zip", tmp_path / "models" / "mine",
    ]  # fmt: skip
    whole = ["models/m.zip", "models/mine/args.json", "models/mine/deep/model1.pt"]
    assert names(tmp_path) == whole and fetch(thing, tmp_path, progress=False) == []


def test_an_archive_that_is_unsafe_or_damaged_leaves_nothing_behind(tmp_path):
    damaged = bytearray(packed({"a": b"first", "b": BYTES}))
    damaged[1000] ^= 0xFF
    for content in (packed({"../evil": b"1", "good": b"2"}), bytes(damaged)):
        (tmp_path / "x.zip").write_bytes(content)
        with pytest.raises(InputError, match="damaged archive"):
            unzip(tmp_path / "x.zip", tmp_path / "deep" / "x")
        assert not (tmp_path / "deep" / "x").exists() and not (tmp_path / "evil").exists()


def test_descriptions_are_written_from_the_index_of_the_database(server, tmp_path):
    index = (
        "Carnegie-Mellon Graphics Lab Motion Capture Database\n  v1.00 last update\n\n"
        "Subject #5 (modern dance)\n\n05_01\twalk\n05_02\tdance - expressive arms, pirouette\r\n"
        "CMU says: \u201cWhen browsing\u201d\n144_34\tWalking001\n"
    )
    server.files["/i.txt"] = index.encode("cp1252")
    thing = entry(server, "i.txt", kind="text", turn="descriptions", into="descriptions.csv")
    assert fetch(thing, tmp_path, progress=False)[1] == tmp_path / "set" / "descriptions.csv"
    assert (tmp_path / "set" / "descriptions.csv").read_text().splitlines() == [
        "trial,description", "05_01,walk", '05_02,"dance - expressive arms, pirouette"',
        "144_34,Walking001",
    ]  # fmt: skip
    (tmp_path / "empty.txt").write_text("nothing of use")
    with pytest.raises(InputError, match="no line that names a trial"):
        write_descriptions(tmp_path / "empty.txt", tmp_path / "e.csv")
