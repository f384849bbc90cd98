"""Motions of other projects: their official layouts built here, and what cannot be used told."""

import io
import json
import pickle

import numpy as np
import pandas as pd
import pytest

from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.motion import exports
from t2imu_utils.motion.exports import (
    KIMODO_JOINTS,
    as_sampled,
    read_exports,
    read_npy,
    read_npz,
    read_number,
)
from t2imu_utils.motion.skeleton import JOINTS

# SOMA's joints as Kimodo's skeleton of 77 lists them; that of 30 leaves out what it does not move.
FINGERS = [
    f"{finger}{part}"
    for finger, parts in [("Thumb", "123"), *((f, "1234") for f in ("Index", "Middle"))]
    + [(f, "1234") for f in ("Ring", "Pinky")]
    for part in [*parts, "End"]
]
SPINE = ["Hips", "Spine1", "Spine2", "Chest", "Neck1", "Neck2", "Head"]
ARM = ["Shoulder", "Arm", "ForeArm", "Hand"]
LEG = ["Leg", "Shin", "Foot", "ToeBase"]
SOMA = {
    77: [*SPINE, "HeadEnd", "Jaw", "LeftEye", "RightEye"]
    + [f"{side}{x}" for side in ("Left", "Right") for x in [*ARM, *(f"Hand{f}" for f in FINGERS)]]
    + [f"{side}{x}" for side in ("Left", "Right") for x in [*LEG, "ToeEnd"]],
    30: [*SPINE, "Jaw", "LeftEye", "RightEye"]
    + [f"{s}{x}" for s in ("Left", "Right") for x in [*ARM, "HandThumbEnd", "HandMiddleEnd"]]
    + [f"{side}{x}" for side in ("Left", "Right") for x in LEG],
}
NAMES = {"pelvis": "Hips", "spine1": "Spine1", "spine2": "Spine2", "spine3": "Chest"}
NAMES |= {"neck": "Neck1", "head": "Head"}
PARTS = {"hip": "Leg", "knee": "Shin", "ankle": "Foot", "foot": "ToeBase"}
PARTS |= {"collar": "Shoulder", "shoulder": "Arm", "elbow": "ForeArm", "wrist": "Hand"}
NAMES |= {f"{s}_{a}": f"{s.title()}{b}" for s in ("left", "right") for a, b in PARTS.items()}


def write_mdm(path, motions, texts, each, **change):
    """``results.npy`` as MDM's sample/generate.py leaves it: padded to the longest motion."""
    longest = max(map(len, motions))
    padded = np.stack([np.pad(m, [(0, longest - len(m)), (0, 0), (0, 0)]) for m in motions])
    content = {
        "motion": padded.transpose(0, 2, 3, 1).astype(np.float32),
        "text": list(texts),
        "lengths": np.array([len(m) for m in motions]),
        "num_samples": each,
        "num_repetitions": len(motions) // each,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, content | change)


def write_kimodo(path, joints, count=77, **more):
    """``.npz`` of Kimodo: joints of SOMA placed by name, all others somewhere else."""
    posed = np.full((*joints.shape[:-2], count, 3), 99.0)
    for j, name in enumerate(JOINTS):
        posed[..., SOMA[count].index(NAMES[name]), :] = joints[..., j, :]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, posed_joints=posed, root_positions=joints[..., 0, :], **more)


def wave(body, rate, frequency, seconds=10.0):
    """The body at rest, carried to and fro along X by 0.1 m."""
    time = np.arange(int(seconds * rate) + 1) / rate
    joints = np.repeat(body[1][None], len(time), axis=0)
    joints[..., 0] += 0.1 * np.sin(2 * np.pi * frequency * time)[:, None]
    return joints


def one(source, **options):
    """The only motion of some source, and its row."""
    clips, skipped = read_exports(source, **options)
    assert len(clips) == 1 and skipped == []
    return clips.arrays["joints"], clips.table.iloc[0], clips


def refusal(source, **options):
    with pytest.raises(InputError, match="found no motion that can be used") as caught:
        read_exports(source, **options)
    return str(caught.value)


def test_mdm(tmp_path, turning_motion):
    motions = [turning_motion[:n] for n in (120, 60, 120, 40)]
    texts = ["a person walks", "läuft", "a person walks", "läuft"]
    write_mdm(tmp_path / "results.npy", motions, texts, each=2)
    clips, skipped = read_exports(tmp_path)
    assert skipped == [] and clips.meta == {"rate": 20.0, "smoothed": {"mdm": "no"}}
    assert clips.table["frames"].tolist() == [120, 60, 120, 40]
    for read, motion in zip(clips.each("joints"), motions, strict=True):
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, motion.astype(np.float32))
    assert clips.table["prompt"].tolist() == texts
    assert clips.table["sample"].tolist() == [0, 1, 0, 1]
    assert clips.table["repetition"].tolist() == [0, 0, 1, 1]
    assert clips.table["name"].tolist() == [f"results.npy#{i}" for i in range(4)]
    assert (clips.table["file"] == "results.npy").all()
    assert (clips.table["native_rate"] == 20).all() and not clips.table["resampled"].any()
    again = Clips.load(clips.save(tmp_path / "motions")[0].with_suffix(""))
    pd.testing.assert_frame_equal(again.table, clips.table)


def test_one_bad_motion_is_told_and_the_others_read(tmp_path, turning_motion):
    motions = [turning_motion.copy() for _ in range(3)]
    motions[1][7, 20] = np.nan
    write_mdm(tmp_path / "a" / "results.npy", motions, "xyz", each=3)
    write_mdm(tmp_path / "b" / "results.npy", motions[:1], "x", 1, motion=np.zeros((1, 21, 3, 9)))
    clips, skipped = read_exports(tmp_path)
    assert clips.table["prompt"].tolist() == ["x", "z"]
    assert [s.name for s in skipped] == ["a/results.npy#1", "b/results.npy"]
    assert "NaN or infinity at frame 7, joint left_wrist" in skipped[0].reason
    assert "(1, 21, 3, 9); expected (motions, 22, 3, frames)" in skipped[1].reason


def test_objects_that_are_not_mdm_and_pickles_that_run(tmp_path, turning_motion):
    class Calls:
        def __reduce__(self):
            return print, ("called",)

    np.save(tmp_path / "results.npy", {"line": turning_motion})
    assert "found objects: line; expected MDM's dict" in refusal(tmp_path)
    np.save(tmp_path / "results.npy", np.array([turning_motion, 1], dtype=object))
    assert "found objects: no dict" in refusal(tmp_path)
    write_mdm(tmp_path / "results.npy", [turning_motion], ["a"], 1, num_samples=Calls())
    assert "it wants to run builtins.print" in refusal(tmp_path)


def test_momask(tmp_path, turning_motion):
    for k, r, length in [(0, 0, 60), (2, 0, 100), (10, 0, 40), (10, 1, 44)]:
        folder = tmp_path / "joints" / str(k)
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"sample{k}_repeat{r}_len{length}"
        np.save(folder / f"{stem}.npy", turning_motion[:length].astype(np.float32))
        np.save(folder / f"{stem}_ik.npy", 1.001 * turning_motion[:length].astype(np.float32))
    clips, skipped = read_exports(tmp_path)
    assert clips.table["sample"].tolist() == [0, 2, 10, 10]
    assert clips.table["repetition"].tolist() == [0, 0, 0, 1]
    assert clips.table["frames"].tolist() == [60, 100, 40, 44]
    assert (clips.table["prompt"] == "").all() and (clips.table["native_rate"] == 20).all()
    assert clips.meta["smoothed"]["momask"] == "no; inverse kinematics onto a template skeleton"
    np.testing.assert_array_equal(clips[1]["joints"], turning_motion[:100].astype(np.float32))
    assert [s.name.endswith("_ik.npy") for s in skipped] == [True] * 4
    assert "Pass foot_locked=True" in skipped[0].reason
    locked, skipped = read_exports(tmp_path, foot_locked=True)
    assert locked.table["smoothed"].str.endswith(", feet locked").all() and len(skipped) == 4
    np.testing.assert_allclose(locked.arrays["joints"], 1.001 * clips.arrays["joints"], rtol=1e-6)


def test_remodiffuse_is_told_and_its_smoothing_stated(tmp_path, turning_motion):
    np.save(tmp_path / "walk.npy", turning_motion.astype(np.float32))
    joints, row, clips = one(tmp_path, made_by="remodiffuse")
    np.testing.assert_array_equal(joints, turning_motion.astype(np.float32))
    assert row["smoothed"] == "Gaussian, sigma 2.5 frames" and row["native_rate"] == 20
    assert clips.meta["smoothed"] == {"remodiffuse": "Gaussian, sigma 2.5 frames"}
    # Its rate is known, so another is a mistake.
    message = refusal(tmp_path, made_by="remodiffuse", rate=30)
    assert "rate: found 20 frames a second; expected 30, as stated" in message
    message = refusal(tmp_path, made_by="remodiffuse", up="z")
    assert "up axis: found 'z', as stated; expected y. Leave out up=." in message


@pytest.mark.parametrize("count", [77, 30])
def test_kimodo_joints_by_name(tmp_path, body, count):
    assert len(SOMA[count]) == count
    assert [SOMA[count][i] for i in KIMODO_JOINTS[count]] == [NAMES[name] for name in JOINTS]
    write_kimodo(tmp_path / "test.npz", wave(body, 30, 2.0), count)
    joints, row, clips = one(tmp_path)
    assert joints.shape == (201, 22, 3) and row["native_rate"] == 30 and row["resampled"]
    np.testing.assert_allclose(joints[20:-20], wave(body, 20, 2.0)[20:-20], atol=2e-4)
    assert row["project"] == "kimodo" and "by default" in row["smoothed"]
    assert clips.meta["rate"] == 20.0


def test_kimodo_rates(tmp_path, body):
    write_kimodo(tmp_path / "stated.npz", wave(body, 60, 2.0), fps=np.float32(60))
    write_kimodo(tmp_path / "usual.npz", wave(body, 30, 2.0))
    clips, skipped = read_exports(tmp_path)
    assert clips.table["native_rate"].tolist() == [60, 30] and skipped == []
    clips, skipped = read_exports(tmp_path, rate=25)
    assert clips.table["native_rate"].tolist() == [25]
    assert "60 frames a second; expected 25, as stated" in skipped[0].reason
    write_kimodo(tmp_path / "stated.npz", wave(body, 60, 2.0), fps=np.zeros(2))
    assert "fps: found shape (2,) of float64" in refusal(tmp_path / "stated.npz")


def test_kimodo_of_smplx_samples_and_prompts(tmp_path, body):
    moving = wave(body, 30, 1.0, 3.0)
    folder = tmp_path / "out_example"
    folder.mkdir()
    np.savez(folder / "motion.npz", posed_joints=np.stack([moving, moving + 1]))
    about = {"texts": ["A person walks.", "A person runs."], "durations": [1, 2]}
    (folder / "meta.json").write_text(json.dumps(about))
    clips, _ = read_exports(tmp_path)
    assert clips.table["sample"].tolist() == [0, 1]
    assert clips.table["prompt"].tolist() == ["A person walks. A person runs."] * 2
    np.testing.assert_allclose(clips[1]["joints"] - 1, clips[0]["joints"], atol=1e-6)


def test_plain_joints_need_their_rate_and_up_axis(tmp_path, body):
    upright = wave(body, 100, 2.0)
    np.save(tmp_path / "x.npy", upright)
    assert "x.npy: rate: found none in the file" in refusal(tmp_path, up="y")
    assert 'up axis: found none stated; expected "y" or "z"' in refusal(tmp_path, rate=100)
    assert 'up axis: found \'x\', as stated; expected "y" or "z"' in refusal(
        tmp_path, rate=100, up="x"
    )
    joints, row, clips = one(tmp_path, rate=100, up="y", made_by="my prior")
    np.testing.assert_allclose(joints[20:-20], wave(body, 20, 2.0)[20:-20], atol=2e-4)
    assert row["project"] == "my prior" and row["smoothed"] == "not known" and row["resampled"]
    assert clips.meta["smoothed"] == {"my prior": "not known"}
    # With Z up the same body looks along +Y; it is turned, not mirrored.
    np.save(tmp_path / "x.npy", upright[..., [0, 2, 1]] * [-1, 1, 1])
    np.testing.assert_allclose(one(tmp_path, rate=100, up="z")[0], joints, atol=1e-6)


def test_rates_below_twenty_are_left_out(tmp_path, body):
    np.save(tmp_path / "x.npy", wave(body, 12.5, 1.0))
    for rate in (12.5, 0, -20, np.nan, np.inf):
        assert "expected 20 to 1000" in refusal(tmp_path, rate=rate, up="y")


@pytest.mark.parametrize(("unit", "size"), [("centimetres", 100), ("millimetres", 1000)])
def test_units_that_are_not_metres(tmp_path, body, unit, size):
    np.save(tmp_path / "x.npy", size * wave(body, 20, 1.0))
    message = refusal(tmp_path, rate=20, up="y")
    assert "a body of 1" in message and f"as in {unit}" in message
    assert f"Pass scale={1 / size:g}." in message
    joints, _, _ = one(tmp_path, rate=20, up="y", scale=1 / size)
    np.testing.assert_allclose(joints, wave(body, 20, 1.0), atol=1e-6)
    # From a wrong scale the remedy leads to the right one.
    assert f"Pass scale={1 / size:g}." in refusal(tmp_path, rate=20, up="y", scale=10.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((60, 21, 3)), "(60, 21, 3); expected a NumPy array of shape (frames, 22, 3)"),
        (np.zeros((2, 22, 3)), "2 frame(s); expected at least 3 frames"),
        (np.zeros((60, 22, 3)), "a body of 0.26 m"),
        (np.full((60, 22, 3), np.inf), "NaN or infinity at frame 0, joint pelvis"),
        (np.zeros((60, 22, 3), "U4"), "elements of type <U4"),
    ],
)
def test_bad_arrays(tmp_path, content, message):
    np.save(tmp_path / "x.npy", content)
    assert message in refusal(tmp_path, rate=20, up="y")


def test_files_and_folders_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="absent: found nothing"):
        read_exports(tmp_path / "absent")
    with pytest.raises(InputError, match="found no .npy and no .npz"):
        read_exports(tmp_path)
    (tmp_path / "sample00.mp4").touch()
    assert "found a file .mp4" in refusal([tmp_path / "sample00.mp4"])
    assert "no file was given" in refusal([])


def test_as_sampled(tmp_path, turning_motion):
    motions = [turning_motion[:n] for n in (60, 70, 80, 90, 100)]
    texts = ["A person walks.", "a man sits", "a person walks", "not asked for", ""]
    write_mdm(tmp_path / "results.npy", motions, texts, each=5)
    clips, _ = read_exports(tmp_path)
    rows = [
        ("sitting", "a man sits", 0),
        ("walking", "a person walks", 0),
        ("running", "a man runs", 0),
        ("walking", "a person walks", 1),
        ("walking", "a person walks", 2),
    ]
    requests = pd.DataFrame(rows, columns=["activity", "prompt", "repetition"])
    sampled, skipped = as_sampled(clips, requests.assign(frames=120, seed=7))
    assert sampled.table["activity"].tolist() == ["sitting", "walking", "walking"]
    assert sampled.table["prompt"].tolist() == ["a man sits"] + ["a person walks"] * 2
    assert sampled.table["repetition"].tolist() == [0, 0, 1]
    assert sampled.table["frames"].tolist() == [70, 60, 80]
    assert sampled.table["motion"].tolist() == [0, 1, 2] and "seed" not in sampled.table
    assert sampled.table["name"].tolist() == [f"results.npy#{i}" for i in (1, 0, 2)]
    assert sampled.meta == clips.meta and sampled.table.columns.is_unique
    np.testing.assert_array_equal(sampled[1]["joints"], clips[0]["joints"])
    assert {s.name: s.reason for s in skipped} == {
        "request 2": "no motion left of “a man runs”",
        "request 4": "no motion left of “a person walks”",
        "results.npy#3": "no request left for “not asked for”",
        "results.npy#4": "its prompt is not known",
    }
    with pytest.raises(InputError, match="none of the 1 requested prompts among 5 motions"):
        as_sampled(clips, requests[2:3])


# Files of arrays that others wrote: pickled ones in each protocol, and those that are none.


CONTENT = {
    "motion": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "text": ["a person walks", "jemand läuft"],
    "lengths": np.array([3, 4]),
    "mixed": np.array(["a", None], dtype=object),
    "number": np.float64(2.5),
    "deep": ({"x": [1, 2.5, True, None]},),
}


def write_objects(path, content, protocol):
    """A ``.npy`` as `numpy.save` lays it out, with a protocol of one's own."""
    array = np.asanyarray(content, dtype=object)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "|O", "fortran_order": False, "shape": array.shape}
    )
    path.write_bytes(head.getvalue() + pickle.dumps(array, protocol))
    return path


def assert_content(read):
    assert list(read) == list(CONTENT)
    for key in ("motion", "turned", "lengths", "number"):
        np.testing.assert_array_equal(read[key], CONTENT[key])
        assert read[key].dtype == CONTENT[key].dtype
    assert read["text"] == CONTENT["text"] and read["mixed"] == ["a", None]
    assert read["deep"] == [{"x": [1, 2.5, True, None]}]


def test_what_numpy_saves_is_read(tmp_path):
    np.save(tmp_path / "x.npy", CONTENT)
    assert_content(*read_npy(tmp_path / "x.npy"))
    # Version 1 had its functions in modules of other names, and wrote protocol 3.
    path = write_objects(tmp_path / "x.npy", CONTENT, 3)
    new, old = b"cnumpy._core.", b"cnumpy.core."
    assert new in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(new, old))
    assert_content(*read_npy(path))


def test_plain_arrays_are_read_and_damaged_ones_refused(tmp_path):
    path = tmp_path / "x.npy"
    for array in (np.arange(6.0).reshape(2, 3), np.asfortranarray(np.ones((3, 2), np.int16))):
        np.save(path, array)
        read = read_npy(path)
        np.testing.assert_array_equal(read, array)
        assert read.dtype == array.dtype and not isinstance(read, np.memmap)
    whole = path.read_bytes()
    np.save(path, CONTENT)
    objects = path.read_bytes()
    huge = whole.replace(b"(3, 2)", b"(3000000000000, 2)").replace(b" " * 13, b"", 1)
    for content in (whole[:-1], objects[:-20], b"", b"<!DOCTYPE html><html>", b"PK\3\4", huge):
        path.write_bytes(content)
        with pytest.raises(InputError, match="x.npy: found no readable array"):
            read_npy(path)


def test_archives_give_what_they_have(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.arange(3), b=np.array(20.0), c=np.array([{}], dtype=object))
    read = read_npz(path, ("b", "a", "absent"))
    assert sorted(read) == ["a", "b"] and read["a"].tolist() == [0, 1, 2]
    assert read_number(read, "b", path) == 20.0 and read_number(read, "absent", path) is None
    with pytest.raises(InputError, match=r"x.npz: a: found shape \(3,\) of int64; expected one"):
        read_number(read, "a", path)
    with pytest.raises(InputError, match="found no readable arrays.*allow_pickle"):
        read_npz(path, ("a", "c"))
    assert sorted(read_npz(path, ("b", "a"), whole=True)) == ["a", "b"]
    with pytest.raises(InputError, match="x.npz: d, e: found only a, b, c; .*Take another"):
        read_npz(path, ("a", "d", "e"), "Take another.", whole=True)
    monkeypatch.setattr(exports, "_MAX_BYTES", 100)
    with pytest.raises(InputError, match="152 bytes in one array"):
        read_npz(path, ("a",))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="no readable arrays"):
        read_npz(path, ("a",))
