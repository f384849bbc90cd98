"""Downloads from a small server on this machine that behaves well or badly, as told."""

import hashlib
import http.server
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import dataclass, field

import numpy as np
import pytest
from filelock import FileLock

from t2imu_utils.errors import InputError
from t2imu_utils.files import read_json, sha256
from t2imu_utils.inputs import downloads
from t2imu_utils.inputs.downloads import fetch, plan
from t2imu_utils.inputs.registry import Download, Input
from t2imu_utils.inputs.status import look
from t2imu_utils.inputs.unpacking import unzip, write_descriptions

SIZE = 1_500_000
BYTES = np.random.default_rng(0).bytes(SIZE)
OTHER = np.random.default_rng(1).bytes(SIZE)
QUOTA = (
    b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>"
    b"Too many users have viewed or downloaded this file recently.</body></html>"
)


@dataclass
class Served:
    """A file of the server, and how it is served."""

    content: bytes = BYTES
    etag: str | None = '"v1"'
    changed: str | None = None
    breaks: list[int] = field(default_factory=list)  # bytes after which each answer breaks off
    stalls: bool = False  # after half of the bytes, for good
    statuses: list[int] = field(default_factory=list)  # of the first answers
    ranges: bool = True
    honest: bool = True  # heeds If-Range
    kind: str = "application/octet-stream"
    asked: list[dict[str, str]] = field(default_factory=list)  # headers of all requests


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        served = self.server.files.get(self.path)
        if served is None:
            return self.send_error(404)
        served.asked.append(dict(self.headers))
        if served.statuses:
            return self.send_error(served.statuses.pop(0))
        start = self._start(served)
        if start is not None and start >= len(served.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(served.content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        body = served.content[start or 0 :]
        self.send_response(200 if start is None else 206)
        if start is not None:
            end = len(served.content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", served.kind)
        for name, value in (("ETag", served.etag), ("Last-Modified", served.changed)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        if served.stalls:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            time.sleep(20)
        if served.breaks:
            self.wfile.write(body[: served.breaks.pop(0)])
            self.close_connection = True
            return None
        return self.wfile.write(body)

    def _start(self, served):
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not match or not served.ranges:
            return None
        mark = self.headers.get("If-Range")
        if served.honest and mark and mark not in (served.etag, served.changed):
            return None
        return int(match[1])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """A server whose `files` map paths to `Served`, at `url`."""
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads, made.block_on_close = True, False
    made.handle_error = lambda *_: None
    made.files = {"/a.bin": Served()}
    made.url = f"http://127.0.0.1:{made.server_address[1]}"
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def entry(server, name="a.bin", kind="binary", check="members", **facts) -> Input:
    files = [Download(name=name, url=f"{server.url}/{name}", kind=kind, **facts)]
    members = [{"what": "files", "pattern": r"^(a\.bin)$", "least": 1}]
    return Input(
        name="thing", what="a thing", licence="none", page="http://home.page", size="1.5 MB",
        path="set", check=check, facts={"members": members}, files=files,
    )  # fmt: skip


def get(thing, root, waits=None):
    return fetch(thing, root, progress=False, wait=(waits if waits is not None else []).append)


def refused(thing, root) -> str:
    with pytest.raises(InputError) as caught:
        get(thing, root)
    return str(caught.value)


def names(root) -> list[str]:
    """What lies in the data folder, apart from the lock."""
    found = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]
    return sorted(name for name in found if name != ".fetch.lock")


def test_a_file_comes_whole_with_its_checksum_on_record(server, tmp_path):
    thing = entry(server)
    assert plan(thing, tmp_path)[0].path == tmp_path / "set" / "a.bin"
    assert get(thing, tmp_path) == [tmp_path / "set" / "a.bin"]
    assert (tmp_path / "set" / "a.bin").read_bytes() == BYTES
    assert names(tmp_path) == ["checksums.json", "set/a.bin"]
    record = read_json(tmp_path / "checksums.json")["set/a.bin"]
    assert record["sha256"] == sha256(BYTES) and record["bytes"] == SIZE
    assert record["url"] == f"{server.url}/a.bin"
    assert look(thing, tmp_path).state == "present"
    # What is there is not asked for again.
    assert get(thing, tmp_path) == [] and plan(thing, tmp_path) == []
    assert len(server.files["/a.bin"].asked) == 1
    assert server.files["/a.bin"].asked[0]["Accept-Encoding"] == "identity"


def test_a_broken_connection_is_taken_up_where_it_broke(server, tmp_path):
    served, waits = server.files["/a.bin"], []
    served.breaks = [SIZE // 2, SIZE // 4]
    get(entry(server), tmp_path, waits)
    assert (tmp_path / "set" / "a.bin").read_bytes() == BYTES
    starts = [int(asked.get("Range", "=0-")[:-1].partition("=")[2]) for asked in served.asked]
    assert starts[0] == 0 < SIZE // 4 < starts[1] <= SIZE // 2 < starts[2] <= SIZE * 3 // 4
    assert [asked.get("If-Range") for asked in served.asked] == [None, '"v1"', '"v1"']
    assert waits == [1.0, 1.0]


class Stopping(downloads.tqdm):
    """A bar at which the user loses patience."""

    seen = 0

    def update(self, n=1):
        self.seen += n
        if self.seen > SIZE // 3:
            raise KeyboardInterrupt


def test_an_interrupted_download_is_not_there_and_goes_on_later(server, tmp_path, monkeypatch):
    thing, served = entry(server), server.files["/a.bin"]
    with monkeypatch.context() as patch:
        patch.setattr(downloads, "tqdm", Stopping)
        with pytest.raises(KeyboardInterrupt):
            get(thing, tmp_path)
    assert names(tmp_path) == ["set/a.bin.part", "set/a.bin.part.json"]
    held = (tmp_path / "set" / "a.bin.part").stat().st_size
    assert SIZE // 3 < held < SIZE
    found = look(thing, tmp_path)
    assert found.state == "missing"
    assert f"a download stopped after {held / 1e6:.1f} MB of a.bin: fetch goes on" in found.why
    assert plan(thing, tmp_path)[0].held == held
    get(thing, tmp_path)
    assert served.asked[-1]["Range"] == f"bytes={held}-"
    assert (tmp_path / "set" / "a.bin").read_bytes() == BYTES
    assert look(thing, tmp_path).state == "present"
    assert names(tmp_path) == ["checksums.json", "set/a.bin"]


def test_a_killed_download_is_not_there_and_goes_on_later(server, tmp_path):
    thing, served = entry(server), server.files["/a.bin"]
    served.stalls = True
    code = (
        "import sys; from pathlib import Path\n"
        "from t2imu_utils.inputs.downloads import fetch\n"
        "from t2imu_utils.inputs.registry import Input\n"
        "fetch(Input.model_validate_json(sys.argv[1]), Path(sys.argv[2]), progress=False)"
    )
    arguments = [sys.executable, "-c", code, thing.model_dump_json(), str(tmp_path)]
    process = subprocess.Popen(arguments)
    part = tmp_path / "set" / "a.bin.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size >= SIZE // 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert look(thing, tmp_path).state == "missing"
    served.stalls = False
    get(thing, tmp_path)
    assert "Range" in served.asked[-1]
    assert (tmp_path / "set" / "a.bin").read_bytes() == BYTES


def test_a_server_that_ignores_ranges_sends_all_again(server, tmp_path):
    served = server.files["/a.bin"]
    served.ranges, served.breaks = False, [SIZE // 2]
    get(entry(server), tmp_path)
    assert "Range" in served.asked[1]
    assert (tmp_path / "set" / "a.bin").read_bytes() == BYTES


@pytest.mark.parametrize("honest", [True, False])
def test_two_versions_of_a_file_are_never_mixed(server, tmp_path, honest, monkeypatch):
    thing, served = entry(server), server.files["/a.bin"]
    with monkeypatch.context() as patch:
        patch.setattr(downloads, "tqdm", Stopping)
        with pytest.raises(KeyboardInterrupt):
            get(thing, tmp_path)
    served.content, served.etag, served.honest = OTHER, '"v2"', honest
    get(thing, tmp_path)
    assert (tmp_path / "set" / "a.bin").read_bytes() == OTHER


@pytest.mark.parametrize("etag", [None, 'W/"v1"'])
def test_without_a_mark_of_its_version_a_file_is_loaded_anew(server, tmp_path, etag):
    served = server.files["/a.bin"]
    served.etag, served.breaks = etag, [SIZE // 2]
    get(entry(server), tmp_path)
    assert [asked.get("Range") for asked in served.asked] == [None, None]
    assert (tmp_path / "set" / "a.bin").read_bytes() == BYTES


def test_the_time_of_the_last_change_is_a_mark_as_well(server, tmp_path):
    served = server.files["/a.bin"]
    served.etag, served.changed = None, "Wed, 21 Oct 2015 07:28:00 GMT"
    served.breaks = [SIZE // 2]
    get(entry(server), tmp_path)
    assert served.asked[1]["If-Range"] == served.changed
    assert (tmp_path / "set" / "a.bin").read_bytes() == BYTES


def test_a_part_that_is_too_long_is_thrown_away(server, tmp_path):
    served = server.files["/a.bin"]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.bin.part").write_bytes(bytes(SIZE + 5))
    note = {"url": f"{server.url}/a.bin", "etag": '"v1"', "changed": None, "total": None}
    (tmp_path / "set" / "a.bin.part.json").write_text(json.dumps(note))
    get(entry(server), tmp_path)
    assert len(served.asked) == 2
    assert (tmp_path / "set" / "a.bin").read_bytes() == BYTES


def test_a_part_of_another_address_is_not_gone_on_with(server, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.bin.part").write_bytes(OTHER[:1000])
    note = {"url": "http://elsewhere/a.bin", "etag": '"v1"', "changed": None, "total": SIZE}
    (tmp_path / "set" / "a.bin.part.json").write_text(json.dumps(note))
    get(entry(server), tmp_path)
    assert (tmp_path / "set" / "a.bin").read_bytes() == BYTES


def test_a_part_that_has_all_bytes_needs_no_server(server, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.bin.part").write_bytes(BYTES)
    note = {"url": f"{server.url}/a.bin", "etag": '"v1"', "changed": None, "total": SIZE}
    (tmp_path / "set" / "a.bin.part.json").write_text(json.dumps(note))
    get(entry(server), tmp_path)
    assert not server.files["/a.bin"].asked
    assert names(tmp_path) == ["checksums.json", "set/a.bin"]


def test_a_busy_server_is_asked_again_with_longer_pauses(server, tmp_path):
    waits = []
    server.files["/a.bin"].statuses = [503, 429, 500]
    get(entry(server), tmp_path, waits)
    assert waits == [1.0, 2.0, 4.0]
    assert (tmp_path / "set" / "a.bin").read_bytes() == BYTES


def test_a_server_that_stays_busy_or_away_is_told(server, tmp_path):
    server.files["/a.bin"].statuses = [503] * 9
    said = refused(entry(server), tmp_path)
    assert "no whole answer in 5 tries (status 503" in said and "goes on where it stopped" in said
    assert len(server.files["/a.bin"].asked) == 5
    away = entry(server)
    away = away.model_copy(update={"files": [
        Download(name="a.bin", url="http://127.0.0.1:9/a.bin", kind="binary")
    ]})  # fmt: skip
    assert "no whole answer in 5 tries" in refused(away, tmp_path)


def test_a_server_that_never_gets_further_is_given_up(server, tmp_path):
    served = server.files["/a.bin"]
    served.ranges, served.breaks = False, [SIZE // 2] * 9
    assert "no whole answer in 5 tries (the connection broke)" in refused(entry(server), tmp_path)
    assert len(served.asked) == 5
    assert look(entry(server), tmp_path).state == "missing"


def test_a_file_that_is_gone_is_told_with_its_page(server, tmp_path):
    said = refused(entry(server, "b.bin"), tmp_path)
    assert "status 404" in said and "http://home.page" in said
    assert f"save it as {tmp_path / 'set' / 'b.bin'}" in said
    server.files["/a.bin"].statuses = [403]
    assert "status 403" in refused(entry(server), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["zip", "binary", "npy", "json"])
def test_a_web_page_is_never_taken_for_the_file(server, tmp_path, kind):
    server.files["/a.bin"] = Served(QUOTA, kind="text/html; charset=utf-8")
    said = refused(entry(server, kind=kind), tmp_path)
    assert "a web page (Google Drive - Quota exceeded) in place of the file" in said
    assert "try again in a day, or download it in a browser and save it as" in said
    assert "http://home.page" in said and names(tmp_path) == []


def test_a_web_page_is_known_by_its_bytes_alone(server, tmp_path):
    server.files["/a.bin"] = Served(b"\n<html><title>Sign in</title></html>")
    said = refused(entry(server, kind="text"), tmp_path)
    assert "a web page (Sign in)" in said and "quota" not in said


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        ("zip", None),
        ("npy", b"\x93NUMPY\x01\x00"),
        ("json", b' {"a": 1}'),
        ("safetensors", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"),
    ],
)
def test_first_bytes_must_be_those_of_the_kind(server, tmp_path, kind, good):
    server.files["/a.bin"] = Served(b"RIFF and so on")
    assert f"begins with b'RIFF and so on'; expected a {kind} file" in refused(
        entry(server, kind=kind), tmp_path
    )
    server.files["/a.bin"] = Served(good or packed({"x": b"1"}))
    get(entry(server, kind=kind), tmp_path)
    assert names(tmp_path) == ["checksums.json", "set/a.bin"]


def test_an_archive_without_its_end_is_refused(server, tmp_path):
    server.files["/a.bin"] = Served(packed({"x": BYTES})[:-100])
    assert "no whole zip archive" in refused(entry(server, kind="zip"), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_wrong_checksum_is_refused_and_nothing_kept(server, tmp_path, algorithm):
    thing = entry(server, **{algorithm: "0" * 32})
    said = refused(thing, tmp_path)
    assert "a file with checksum " in said and f"expected {algorithm}:{'0' * 32}" in said
    assert "data/inputs.yaml" in said and names(tmp_path) == []
    right = {"sha256": sha256(BYTES), "md5": hashlib.md5(BYTES).hexdigest()}
    get(entry(server, **{algorithm: right[algorithm]}), tmp_path)
    assert (tmp_path / "set" / "a.bin").read_bytes() == BYTES


def test_a_recorded_checksum_holds_for_later_downloads(server, tmp_path):
    get(entry(server), tmp_path)
    (tmp_path / "set" / "a.bin").unlink()
    server.files["/a.bin"] = Served(OTHER, etag='"v2"')
    said = refused(entry(server), tmp_path)
    assert f"expected sha256:{sha256(BYTES)}" in said and "checksums.json" in said


def test_a_changed_file_is_wrong_and_an_untouched_one_is_not_read(server, tmp_path, monkeypatch):
    thing, path = entry(server), tmp_path / "set" / "a.bin"
    get(thing, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(downloads.pooch.hashes, "file_hash", lambda *_, **__: pytest.fail("was read"))
        assert look(thing, tmp_path).state == "present"
    path.write_bytes(OTHER)
    found = look(thing, tmp_path)
    assert found.state == "wrong"
    assert found.why == f"a.bin has another checksum than sha256:{sha256(BYTES)}"
    # The same bytes at another time are right; a change that keeps size and time needs `checksums`.
    path.write_bytes(BYTES)
    assert look(thing, tmp_path).state == "present"
    stamp = read_json(tmp_path / "checksums.json")["set/a.bin"]["modified"]
    path.write_bytes(OTHER)
    os.utime(path, ns=(stamp, stamp))
    assert look(thing, tmp_path).state == "present"
    assert look(thing, tmp_path, checksums=True).state == "wrong"


def test_a_full_disk_is_told_before_the_first_byte(server, tmp_path, monkeypatch):
    usage = downloads.shutil.disk_usage(tmp_path)._replace(free=SIZE)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage)
    said = refused(entry(server), tmp_path)
    assert "0.00 GB to come and 0.00 GB free" in said and "T2IMU_DATA" in said
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_told(server, tmp_path):
    (tmp_path / "set").write_text("a file, not a folder")
    assert "expected a folder with room, to write into" in refused(entry(server), tmp_path)


def test_two_downloads_do_not_write_into_one_file(server, tmp_path):
    with FileLock(tmp_path / ".fetch.lock"):
        assert "another download under way" in refused(entry(server), tmp_path)


def test_a_file_that_is_there_is_never_written_over(server, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.bin").write_bytes(b"mine")
    assert get(entry(server), tmp_path) == [] and not server.files["/a.bin"].asked
    assert (tmp_path / "set" / "a.bin").read_bytes() == b"mine"


def packed(members, compression=zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_an_archive_is_unpacked_without_its_outer_folder(server, tmp_path):
    content = {"model_x/args.json": b"{}", "model_x/deep/model1.pt": b"2", "__MACOSX/._args": b""}
    server.files["/m.zip"] = Served(packed(content))
    thing = entry(server, "../m.zip", kind="zip", turn="unzip", into=".")
    file = thing.files[0].model_copy(update={"url": f"{server.url}/m.zip"})
    thing = thing.model_copy(update={"files": [file], "path": "models/mine"})
    new = get(thing, tmp_path)
    assert new == [tmp_path / "models" / "m.zip", tmp_path / "models" / "mine"]
    assert names(tmp_path) == [
        "checksums.json", "models/m.zip", "models/mine/args.json", "models/mine/deep/model1.pt",
    ]  # fmt: skip
    assert get(thing, tmp_path) == [] and len(server.files["/m.zip"].asked) == 1


def test_an_archive_that_was_put_there_by_hand_is_unpacked(server, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "t.zip").write_bytes(packed({"texts/1.txt": b"a", "texts/2.txt": b"b"}))
    thing = entry(server, "t.zip", kind="zip", turn="unzip", into="texts")
    assert get(thing, tmp_path) == [tmp_path / "set" / "texts"]
    assert names(tmp_path) == ["set/t.zip", "set/texts/1.txt", "set/texts/2.txt"]


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({"../evil": b"1", "good": b"2"}, "'../evil', which points outside"),
        ({"/etc/evil": b"1"}, "points outside"),
        ({"a/../../evil": b"1"}, "points outside"),
        ({"C:\\evil": b"1"}, "points outside"),
        ({"bomb": bytes(3_000_000)}, "a zip bomb"),
        ({"folder/": b""}, "no file"),
    ],
)
def test_unsafe_archives_are_refused_whole(tmp_path, members, word):
    (tmp_path / "x.zip").write_bytes(packed(members, zipfile.ZIP_DEFLATED))
    with pytest.raises(InputError, match=re.escape(word)):
        unzip(tmp_path / "x.zip", tmp_path / "deep" / "x")
    assert names(tmp_path) == ["x.zip"] and not (tmp_path / "deep" / "x").exists()


def test_links_and_archives_over_the_limit_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "l.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="'link', which is a link"):
        unzip(tmp_path / "l.zip", tmp_path / "x")
    (tmp_path / "b.zip").write_bytes(packed({"a": bytes(600), "b": bytes(600)}))
    with pytest.raises(InputError, match="2 members with 1,200 bytes, over the limit of 1,000"):
        unzip(tmp_path / "b.zip", tmp_path / "x", limit=1000)


def test_a_damaged_member_leaves_nothing_behind(tmp_path):
    content = bytearray(packed({"a": b"first", "b": BYTES}))
    content[1000] ^= 0xFF
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(InputError, match="damaged archive .*Delete it and fetch again"):
        unzip(tmp_path / "x.zip", tmp_path / "x")
    assert names(tmp_path) == ["x.zip"] and not list(tmp_path.glob(".x*"))


def test_unpacking_leaves_what_is_there_alone_and_clears_its_own_remains(tmp_path):
    (tmp_path / "x.zip").write_bytes(packed({"a": b"1"}))
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_bytes(b"")
    with pytest.raises(InputError, match="files already.*Move it away"):
        unzip(tmp_path / "x.zip", tmp_path / "x")
    (tmp_path / "x" / "mine").unlink()
    (tmp_path / ".x.unpacking").mkdir()
    (tmp_path / ".x.unpacking" / "half").write_bytes(b"of an unpacking that was killed")
    unzip(tmp_path / "x.zip", tmp_path / "x")
    assert names(tmp_path) == ["x.zip", "x/a"]


def test_descriptions_are_written_from_the_index_of_the_database(server, tmp_path):
    index = (
        "Carnegie-Mellon Graphics Lab Motion Capture Database\n  v1.00 last update\n\n"
        "Subject #5 (modern dance)\n\n05_01\twalk\n05_02\tdance - expressive arms, pirouette\r\n"
        "CMU says: \u201cWhen browsing\u201d\n144_34\tWalking001\n"
    )
    server.files["/i.txt"] = Served(index.encode("cp1252"), kind="text/plain")
    thing = entry(server, "i.txt", kind="text", turn="descriptions", into="descriptions.csv")
    assert get(thing, tmp_path)[1] == tmp_path / "set" / "descriptions.csv"
    assert (tmp_path / "set" / "descriptions.csv").read_text().splitlines() == [
        "trial,description", "05_01,walk", '05_02,"dance - expressive arms, pirouette"',
        "144_34,Walking001",
    ]  # fmt: skip
    assert get(thing, tmp_path) == []
    (tmp_path / "empty.txt").write_text("nothing of use")
    with pytest.raises(InputError, match="no line that names a trial"):
        write_descriptions(tmp_path / "empty.txt", tmp_path / "e.csv")
