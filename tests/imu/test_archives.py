import io
import re
import zipfile

import numpy as np
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.imu import archives
from t2imu_utils.imu.archives import Entry, Refused, leaves, open_tree, read_columns

NEVER = re.compile(r"(?!)")


def packed(members, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def unpack(content, name="x.zip"):
    skipped = []
    return dict(leaves(Entry(name, lambda: content), skipped)), skipped


def test_archives_in_archives_are_read_in_memory():
    inner = packed({"a.csv": b"1"})
    found, skipped = unpack(packed({"one.zip": inner, "b.csv": b"2", "folder/": b""}))
    assert found == {"x.zip/one.zip/a.csv": b"1", "x.zip/b.csv": b"2"} and not skipped


def test_a_path_that_points_outside_is_refused(tmp_path):
    names = ["../evil.csv", "/etc/evil.csv", "a/../../evil.csv", "C:\\evil.csv", "..\\evil.csv"]
    content = packed({**dict.fromkeys(names, b"1"), "good.csv": b"2"})
    found, skipped = unpack(content)
    assert list(found.values()) == [b"2"]
    assert len(skipped) == 5 and all("outside" in s.reason for s in skipped)
    (tmp_path / "outer.zip").write_bytes(content)
    skipped = []
    with open_tree(tmp_path / "outer.zip", NEVER, skipped) as entries:
        assert [e.name for e in entries] == ["good.csv"] and len(skipped) == 5
    assert [p.name for p in tmp_path.rglob("*")] == ["outer.zip"]


def test_bombs_are_refused_before_they_unpack(monkeypatch):
    found, skipped = unpack(packed({"bomb.csv": bytes(5 * 2**20), "good.csv": b"2"}))
    assert list(found) == ["x.zip/good.csv"] and "bomb" in skipped[0].reason
    monkeypatch.setattr(archives, "MAX_BYTES", 1000)
    found, skipped = unpack(packed({"big.csv": bytes(2000), "good.csv": b"2"}))
    assert list(found) == ["x.zip/good.csv"] and "limit of 1000" in skipped[0].reason
    monkeypatch.setattr(archives, "MAX_TOTAL", 1500)
    found, skipped = unpack(packed({f"{i}.csv": bytes(900) for i in range(3)}))
    assert len(found) == 1 and all("1500 bytes" in s.reason for s in skipped)


def test_archives_nested_without_end_are_refused():
    content = packed({"a.csv": b"1"})
    for depth in range(6):
        content = packed({f"{depth}.zip": content})
    found, skipped = unpack(content)
    assert not found and "deep" in skipped[0].reason


def test_damaged_archives_are_told_and_the_rest_is_read():
    rng = np.random.default_rng(0)
    good = packed({"a.csv": rng.bytes(5000)})
    flipped = bytearray(good)
    flipped[2000] ^= 0xFF
    whole = packed({"cut.zip": good[:3000], "flipped.zip": bytes(flipped), "good.zip": good})
    found, skipped = unpack(whole)
    assert list(found) == ["x.zip/good.zip/a.csv"]
    assert {s.name for s in skipped} == {"x.zip/cut.zip", "x.zip/flipped.zip/a.csv"}
    assert all("damaged" in s.reason for s in skipped)


def test_a_root_that_is_no_archive_is_an_input_error(tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 not really")
    for root, word in ((tmp_path / "gone", "nothing"), (tmp_path / "bad.zip", "zip archive")):
        with pytest.raises(InputError, match=word), open_tree(root, NEVER, []):
            pass


TABLE = b"id,t,x\n" + b"".join(b"%d,%d,0.5\n" % (i, i) for i in range(400))


def test_columns_come_in_the_order_asked_for():
    values, told = read_columns(TABLE, ["x", "t"])
    assert values.shape == (400, 2) and told == ""
    np.testing.assert_array_equal(values[7], [0.5, 7])


@pytest.mark.parametrize(
    "line", [b"9,999\n", b"9,999,what\n", b"9,999,1.0,4\n", b"9,999,nan\n", b"\xff\xfe,999,inf\n"]
)
def test_single_bad_lines_are_left_out_and_told(line):
    content = TABLE.replace(b"200,200,0.5\n", line)
    values, told = read_columns(content, ["t", "x"])
    assert len(values) == 399 and not np.isin([200, 999], values[:, 0]).any()
    assert told == "1 of its 400 lines are unreadable"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no column"),
        (b"id,t,x\n", "unreadable"),
        (b"id,time,x\n1,2,3\n", "no column t"),
        (TABLE.replace(b"0.5", b"1.012.598.156"), "400 of its 400"),
        (b"\x00\x01\x02" * 100, "no column"),
    ],
)
def test_unreadable_files_are_refused_with_the_reason(content, reason):
    with pytest.raises(Refused, match=reason):
        read_columns(content, ["t", "x"])
