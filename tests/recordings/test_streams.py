import io
import re
import zipfile
from contextlib import nullcontext

import numpy as np
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.recordings import streams
from t2imu_utils.recordings.streams import (
    Entry,
    Piece,
    Refused,
    check_gravity,
    cut_clips,
    lay_on_grid,
    leaves,
    open_tree,
    read_columns,
    sample_pieces,
    uniform_pieces,
)

PERIOD = 0.02002
EPOCH = 1.4359e9


def recorded(count, period=PERIOD, seed=0):
    """True times, delivery stamps in whole milliseconds with a little delay, and a slow signal."""
    rng = np.random.default_rng(seed)
    times = EPOCH + period * np.arange(count)
    stamps = np.round((times + rng.uniform(0, 0.006, count)) * 1000) / 1000
    return times, stamps, np.stack([np.sin(2 * np.pi * 0.7 * (times - EPOCH))] * 3, 1)


def deliver_late(stamps, first, gap):
    """Hold back what was sampled in `gap` seconds, then deliver it at 3 ms a sample."""
    stamps = stamps.copy()
    free = stamps[first] + gap
    for i in range(first + 1, len(stamps)):
        free += 0.003
        if stamps[i] >= free:
            break
        stamps[i] = free
    return stamps


def true_signal(times):
    return np.sin(2 * np.pi * 0.7 * (times - EPOCH))


def test_a_gap_that_a_burst_repays_moves_nothing():
    times, stamps, values = recorded(6000)
    stamps = deliver_late(deliver_late(stamps, 2000, 1.5), 4000, 0.9)
    assert np.diff(stamps).max() > 1.4
    pieces, timing = uniform_pieces(stamps, values)
    assert len(pieces) == 1 and timing.late == 2 and timing.lost == 0 and timing.bridged == 0
    assert pieces[0].period == pytest.approx(PERIOD, rel=1e-5)
    assert abs(pieces[0].start - times[0]) < 0.005 and abs(pieces[0].stop - times[-1]) < 0.005
    grid = EPOCH + 35 + np.arange(400) / 20
    clean = sample_pieces(pieces, grid[0], 400, 20.0)[:, 0]
    naive = np.interp(grid, stamps, values[:, 0])
    assert np.abs(clean - true_signal(grid)).max() < 0.03
    assert np.abs(naive - true_signal(grid)).max() > 0.5


def test_a_gap_that_nothing_repays_cuts_the_stream():
    times, stamps, values = recorded(6000)
    kept = np.r_[0:2000, 2150:6000]
    pieces, timing = uniform_pieces(stamps[kept], values[kept])
    assert [len(piece.values) for piece in pieces] == [2000, 3850]
    assert timing.lost == pytest.approx(150 * PERIOD, abs=0.03) and timing.late == 0
    assert abs(pieces[1].start - times[2150]) < 0.005
    out = sample_pieces(pieces, np.ceil(times[50] * 20) / 20, 2200, 20.0)
    missing = np.flatnonzero(np.isnan(out[:, 0]))
    assert len(missing) in (60, 61, 62) and np.all(np.diff(missing) == 1)


@pytest.mark.parametrize(("size", "seed"), [(1, 16), (2, 0), (50, 48)])
def test_losses_among_late_samples_are_counted_exactly(size, seed):
    rng = np.random.default_rng(seed)
    times = EPOCH + PERIOD * np.arange(30000)
    late = np.where(rng.random(30000) < 0.08, rng.exponential(0.02, 30000), 0)
    stamps = times + rng.uniform(0, 0.006, 30000) + late
    kept = np.ones(30000, bool)
    for at in rng.choice(np.arange(500, 29500), 3, replace=False):
        kept[at : at + size] = False
    for at in rng.choice(29800, 13, replace=False):
        held = times[at] + rng.uniform(0.4, 1.4) + 0.003 * np.arange(70)
        stamps[at : at + 70] = np.maximum(stamps[at : at + 70], held)
    stamps = np.round(np.maximum.accumulate(stamps) * 1000) / 1000
    _, timing = uniform_pieces(stamps[kept], np.zeros((kept.sum(), 1)))
    assert timing.bridged + round(timing.lost / PERIOD) == 3 * size


def test_a_clock_set_back_starts_a_new_piece():
    times, stamps, values = recorded(4000)
    stamps = stamps.copy()
    stamps[2000:] -= 5.0
    pieces, _ = uniform_pieces(stamps, values)
    assert [len(piece.values) for piece in pieces] == [2000, 2000]
    assert pieces[1].start == pytest.approx(times[2000] - 5.0, abs=0.005)


def test_pass_band_is_kept_stop_band_removed_and_trends_exact():
    t = np.arange(3000) * 0.02
    tone = [np.sin(2 * np.pi * f * t) for f in (1.0, 5.0, 7.0, 11.5, 14.0, 23.0)]
    piece = Piece(10.0, 0.02, np.stack([*tone, 3 * t - 4], 1))
    out = sample_pieces([piece], 10.0, 1000, 20.0)[30:-30]
    grid = (np.arange(1000) / 20)[30:-30]
    for column, f in enumerate((1.0, 5.0, 7.0)):
        np.testing.assert_allclose(out[:, column], np.sin(2 * np.pi * f * grid), atol=2e-3)
    assert np.abs(out[:, 3:6]).max() < 2e-3
    whole = sample_pieces([piece], 10.0, 1000, 20.0)[:, 6]
    np.testing.assert_allclose(whole, 3 * np.arange(1000) / 20 - 4, atol=1e-3)


def test_streams_of_one_recording_share_a_grid_and_show_where_nothing_was_recorded():
    def piece(start, seconds, value):
        return Piece(start, 0.02, np.full((round(seconds / 0.02) + 1, 3), value))

    streams = {
        ("acc", "head"): [piece(10.0, 3.0, 1.0), piece(16.0, 4.0, 2.0)],
        ("gyro", "shin"): [piece(10.49, 3.0, 3.0)],
        ("acc", "shin"): [piece(0.0, 100.0, 4.0)],
    }
    spans = {("acc", "head"): (10.0, 20.0), ("gyro", "shin"): (10.49, 13.49)}
    first, arrays = lay_on_grid(streams, spans, ("acc", "gyro"), ("head", "shin"), 20.0)
    assert first == 200 and arrays["acc"].shape == (201, 2, 3)
    assert arrays["acc"].dtype == np.float32 and np.isnan(arrays["acc"][:, 1]).all()
    head = np.isfinite(arrays["acc"][:, 0, 0])
    assert np.flatnonzero(head).tolist() == [*range(61), *range(120, 201)]
    shin = np.flatnonzero(np.isfinite(arrays["gyro"][:, 1, 0]))
    assert (shin[0], shin[-1]) == (10, 69)
    meta = {"rate": 20.0, "sites": ["head", "shin"]}
    skipped = []
    (clips,) = cut_clips(first, arrays, {"recording": "r"}, meta, 2.0, skipped)
    assert clips.table[["frames", "start", "positions", "part"]].to_numpy().tolist() == [
        [70, 10.0, 2, 0], [81, 16.0, 1, 1],
    ]  # fmt: skip
    done = np.array(["walking"] * 60 + [None] * 5 + ["sitting"] * 136, object)
    (clips,) = cut_clips(first, arrays, {"recording": "r"}, meta, 2.0, skipped, done)
    assert clips.table[["activity", "frames"]].to_numpy().tolist() == [
        ["walking", 60], ["sitting", 81],
    ]  # fmt: skip
    assert [s.reason for s in skipped] == ["a stretch of 0.25 s"]


def test_nothing_is_allocated_for_a_clock_that_runs_over_days():
    pieces = {("acc", "head"): [Piece(start, 0.02, np.zeros((100, 3))) for start in (0.0, EPOCH)]}
    with pytest.raises(Refused, match="over a day"):
        lay_on_grid(pieces, {("acc", "head"): (0.0, EPOCH)}, ("acc",), ("head",), 20.0)
    for step in (2e-5, 20.0):
        with pytest.raises(Refused, match="samples a second"):
            uniform_pieces(step * np.arange(1000), np.zeros((1000, 3)))


@pytest.mark.parametrize(
    ("size", "unit", "error", "told"),
    [
        (1.7, "g", None, ""), (6.0, "m/s^2", None, ""),
        (9.81, "g", InputError, "likely in m/s^2."), (1.0, "m/s^2", InputError, "likely in g."),
        (1000, "m/s^2", InputError, "likely in mg."), (0.02, "m/s^2", Refused, "no known unit"),
    ],
)  # fmt: skip
def test_the_unit_is_the_one_in_which_the_median_is_gravity(size, unit, error, told):
    acc = np.random.default_rng(0).normal([0, size, 0], size / 10, (500, 3))
    acc[:100] *= 5  # steps do not move a median
    with pytest.raises(error, match=re.escape(told)) if error else nullcontext():
        check_gravity(acc, unit, "a.csv", "")


TABLE = b"id,t,x\n" + b"".join(b"%d,%d,0.5\n" % (i, i) for i in range(400))


def test_columns_come_in_the_order_asked_for_with_or_without_a_byte_order_mark():
    for content in (TABLE, b"\xef\xbb\xbf" + TABLE, TABLE.replace(b"\n", b"\r\n")):
        values, text, told = read_columns(content, ["x", "t"], text=["id"])
        assert values.shape == (400, 2) and told == ""
        np.testing.assert_array_equal(values[7], [0.5, 7])
        assert text["id"].tolist()[:3] == ["0", "1", "2"]
    german = TABLE.replace(b",", b";").replace(b".", b",")
    assert read_columns(german, ["x"], sep=";", decimal=",")[0].mean() == 0.5
    plain = b"% said\n" + TABLE.split(b"\n", 1)[1].replace(b",", b"  ")
    np.testing.assert_array_equal(read_columns(plain, [2, 0], " ", ".", "%")[0][7], [0.5, 7])


@pytest.mark.parametrize(
    "line", [b"9,999\n", b"9,999,what\n", b"9,999,1.0,4\n", b"9,999,nan\n", b"\xff\xfe,999,inf\n"]
)
def test_single_bad_lines_are_left_out_and_told(line):
    content = TABLE.replace(b"200,200,0.5\n", line)
    values, text, told = read_columns(content, ["t", "x"])
    assert len(values) == 399 and not np.isin([200, 999], values[:, 0]).any()
    assert told.startswith("1 of its 400 lines are unreadable") and 200 not in text.index


def packed(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def unpack(content, name="x.zip"):
    skipped = []
    return dict(leaves(Entry(name, lambda: content), skipped)), skipped


def test_archives_in_archives_are_read_in_memory_and_paths_to_outside_are_not(tmp_path):
    inside = packed({"one.zip": packed({"a.csv": b"1"}), "b.csv": b"2", "folder/": b""})
    found, skipped = unpack(inside)
    assert found == {"x.zip/one.zip/a.csv": b"1", "x.zip/b.csv": b"2"} and not skipped
    names = ["../evil.csv", "/etc/evil.csv", "a/../../evil.csv", "C:\\evil.csv", "..\\evil.csv"]
    content = packed({**dict.fromkeys(names, b"1"), "good.csv": b"2"})
    found, skipped = unpack(content)
    assert list(found.values()) == [b"2"]
    assert len(skipped) == 5 and all("outside" in s.reason for s in skipped)
    (tmp_path / "set 1.zip").write_bytes(content)
    (tmp_path / "other.zip").write_bytes(content)
    with open_tree(tmp_path, re.compile(r"^set.*\.zip$"), []) as entries:
        assert [e.name for e in entries] == ["other.zip", "set 1.zip/good.csv"]
    with open_tree(tmp_path / "set 1.zip", re.compile("(?!)"), []) as entries:
        assert [(e.name, e.read()) for e in entries] == [("good.csv", b"2")]
    assert len(list(tmp_path.rglob("*"))) == 2


def test_what_is_too_large_too_deep_or_damaged_is_told_and_the_rest_is_read(monkeypatch):
    monkeypatch.setattr(streams, "MAX_BYTES", 10000)
    good = packed({"a.csv": np.random.default_rng(0).bytes(5000)})
    flipped = bytearray(good)
    flipped[2000] ^= 0xFF
    deep = packed({"a.csv": b"1"})
    for _ in range(4):
        deep = packed({"in.zip": deep})
    members = {"big.csv": bytes(20000), "cut.zip": good[:3000], "deep.zip": deep,
               "flip.zip": bytes(flipped)}  # fmt: skip
    found, skipped = unpack(packed({**members, "good.zip": good}))
    assert list(found) == ["x.zip/good.zip/a.csv"]
    words = ("limit of 10000", "damaged", "deep", "damaged")
    for (name, one), word in zip(zip(members, skipped, strict=True), words, strict=True):
        assert name in one.name and word in one.reason
