import io
import re
import zipfile

import numpy as np
import pytest

from t2imu_utils.imu import archives
from t2imu_utils.imu.archives import Entry, Refused, leaves, open_tree, read_columns, read_rows

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


def tree(root, outer, skipped):
    with open_tree(root, re.compile(outer), skipped) as entries:
        return {entry.name: entry.read() for entry in entries}


def test_a_data_set_zipped_in_a_zip_is_opened_wherever_it_stands(tmp_path):
    inner = packed({"Set/b.dat": b"2", "Set/a.dat": b"1", "../evil.dat": b"3"})
    outer = packed({"Set.zip": inner, "readme.pdf": b"?", "other.zip": packed({"c": b"4"})})
    (tmp_path / "set+name.zip").write_bytes(outer)
    for root, prefix in ((tmp_path, "set+name.zip/"), (tmp_path / "set+name.zip", "")):
        skipped = []
        found = tree(root, r"(?i)set.*\.zip$", skipped)
        assert list(found) == [f"{prefix}Set.zip/Set/a.dat", f"{prefix}Set.zip/Set/b.dat",
                               f"{prefix}other.zip", f"{prefix}readme.pdf"]  # fmt: skip
        assert found[f"{prefix}Set.zip/Set/b.dat"] == b"2"
        assert [s.name for s in skipped] == [f"{prefix}Set.zip/../evil.dat"]
    assert [p.name for p in tmp_path.rglob("*")] == ["set+name.zip"]


def test_an_inner_data_set_that_is_damaged_or_a_bomb_is_told(tmp_path, monkeypatch):
    inner = packed({"a.dat": np.random.default_rng(0).bytes(5000)})
    bomb = bytes(3 * 2**20)
    members = {"set1.zip": inner[:3000], "set2.zip": bomb, "set3.zip": inner}
    (tmp_path / "all.zip").write_bytes(packed(members))
    skipped = []
    assert list(tree(tmp_path / "all.zip", r"set\d\.zip$", skipped)) == ["set3.zip/a.dat"]
    reasons = {s.name: s.reason for s in skipped}
    assert "damaged" in reasons["set1.zip"] and "bomb" in reasons["set2.zip"]
    monkeypatch.setattr(archives, "MAX_INNER", 1000)
    skipped = []
    assert not tree(tmp_path / "all.zip", r"set\d\.zip$", skipped)
    assert all("limit of 1000" in s.reason for s in skipped) and len(skipped) == 3


def test_data_sets_nested_without_end_are_not_opened_for_ever(tmp_path):
    content = packed({"a.dat": b"1"})
    for _ in range(6):
        content = packed({"set.zip": content})
    (tmp_path / "set.zip").write_bytes(content)
    assert list(tree(tmp_path / "set.zip", r"set\.zip$", [])) == ["set.zip/set.zip/set.zip"]


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


ROWS = b"".join(b"%.2f 4 NaN -1.5 3.6825E-4\n" % (i / 100) for i in range(400))


def test_rows_keep_missing_values_and_the_order_asked_for():
    places, values, told = read_rows(ROWS, 5, [3, 0, 2])
    assert values.shape == (400, 3) and told == "" and places.tolist() == list(range(400))
    np.testing.assert_array_equal(values[7], [-1.5, 0.07, np.nan])
    tabs = ROWS.replace(b" ", b"\t").replace(b"\n", b"\r\n").removesuffix(b"\r\n")
    again = read_rows(tabs, 5, [4, 0], sep="\t")
    np.testing.assert_array_equal(again[1][:, 0], 3.6825e-4)
    assert again[2] == ""


@pytest.mark.parametrize(
    "line",
    [b"2.00 4 NaN -1.5", b"2.00 4 NaN -1.5 1 2", b"2.00 4 NaN -1.5 0,1", b"2.00 4 NaN inf inf",
     b"2.00 4 NaN -1.5 what", b"\xff\xfe 4 NaN -1.5 1", b'2.00 4 NaN -1.5 "1'],
)  # fmt: skip
def test_a_bad_row_leaves_its_place_empty_and_is_told(line):
    content = ROWS.replace(b"2.00 4 NaN -1.5 3.6825E-4", line)
    places, values, told = read_rows(content, 5, [0, 3, 4])
    assert 200 not in places and len(values) == 399 and not np.isin(2.0, values[:, 0])
    assert told == "1 of its 400 lines are unreadable"


def test_rows_are_parsed_a_block_at_a_time(monkeypatch):
    content = ROWS.replace(b"2.00 4 NaN", b"2.00 four NaN").replace(b"\n1.00", b"\n\n1.00")
    whole = read_rows(content, 5, [0, 1])
    monkeypatch.setattr(archives, "BLOCK", 100)
    pieces = read_rows(content, 5, [0, 1])
    np.testing.assert_array_equal(whole[0], np.delete(np.arange(400), 200))
    for one, two in zip(whole, pieces, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_truncated_file_is_told_as_such():
    _, values, told = read_rows(ROWS[:-12], 5, [0, 3])
    assert len(values) == 399
    assert told == "1 of its 400 lines are unreadable; the last one is cut short, as in a " \
        "truncated file"  # fmt: skip


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 of its 0"),
        (b"\n \n", "0 of its 0"),
        (ROWS.replace(b" 4 ", b" "), "lines of 4 columns, not 5"),
        (ROWS.replace(b".", b","), "400 of its 400"),
        (ROWS.decode().encode("utf-16"), "UTF-16"),
        (b"\x00\x01\x02" * 100, "not plain text"),
        (b"<html><body>404</body></html>\n", "lines of 1 columns, not 5"),
    ],
)
def test_files_without_the_right_rows_are_refused(content, reason):
    with pytest.raises(Refused, match=reason):
        read_rows(content, 5, [0, 3])
