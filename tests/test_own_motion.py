"""A motion of one's own through the command `t2imu sense`, and the one check of output files."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from t2imu_utils.body.smpl import load_body
from t2imu_utils.cli import main
from t2imu_utils.motion.exports import BVH_JOINTS
from t2imu_utils.motion.skeleton import JOINTS, PARENTS
from t2imu_utils.own_motion import sense_motion
from tests.body.test_fitting import posed, wander

FRAMES = 50


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture
def motion(body, tmp_path):
    vectors, shift = wander(1, FRAMES)
    np.save(tmp_path / "motion.npy", posed(body, vectors, transl=shift))
    return tmp_path / "motion.npy"


def run(*arguments, code=0):
    answer = CliRunner().invoke(main, ["sense", *map(str, arguments)])
    assert answer.exit_code == code, answer.output
    return answer.output


def test_a_motion_is_sensed_at_its_own_rate_and_at_that_of_the_paper(motion, tmp_path):
    out = tmp_path / "new" / "imu.npz"
    told = run(motion, "--rate", 33.33, "--out", out)
    assert f"{FRAMES} readings at 33.33 a second of 9 sensors" in told
    with np.load(out) as read:
        assert read["acc"].shape == read["gyro"].shape == (FRAMES, 9, 3)
        assert read["fps"] == 33.33 and "m/s²" in read["units"][0] and len(read["channels"]) == 3
        assert json.loads(str(read["meta"]))["joint_error_mm"] < 1
    options = ("--resample", 20, "--sites", "head,chest", "--person", "male tall", "--force")
    run(motion, "--rate", 33.33, "--out", out, *options)
    with np.load(out) as read:
        assert read["acc"].shape == (int((FRAMES - 1) * 20 / 33.33) + 1, 2, 3)
        assert read["sites"].tolist() == ["head", "chest"] and read["fps"] == 20


def test_who_stands_still_reads_gravity(body, tmp_path):
    np.save(
        tmp_path / "a.npy",
        posed(body, np.zeros((FRAMES, 24, 3))) @ [[1, 0, 0], [0, 0, 1], [0, 1, 0]],
    )
    for up, turned in (("z", 0.0), ("y", 9.81)):
        got = sense_motion(tmp_path / "a.npy", rate=60.0, up=up)
        np.testing.assert_allclose(np.linalg.norm(got["acc"], axis=-1), 9.81, atol=0.01)
        np.testing.assert_allclose(got["gyro"], 0, atol=0.01)
        # The sensor on the chest looks out of the skin: level in those who stand.
        chest = got["acc"][:, got["sites"].tolist().index("chest")]
        assert abs(abs(chest[:, 2].mean()) - turned) < 4


def test_a_pose_is_taken_as_it_is(body, tmp_path):
    """AMASS's layout, with Z up."""
    vectors, shift = wander(2, FRAMES)
    np.savez(
        tmp_path / "a_poses.npz", poses=np.pad(vectors.reshape(FRAMES, -1), ((0, 0), (0, 84))),
        trans=shift, mocap_framerate=60.0, betas=np.zeros(16), gender="female",
    )  # fmt: skip
    np.save(tmp_path / "a.npy", posed(body, vectors, transl=shift))
    one = sense_motion(tmp_path / "a_poses.npz", up="y")
    other = sense_motion(tmp_path / "a.npy", rate=60.0)
    assert one["fps"] == other["fps"] == 60
    a, b = (np.linalg.norm(x["acc"], axis=-1).ravel() for x in (one, other))
    assert np.corrcoef(a, b)[0, 1] > 0.99


def test_a_skeleton_of_bvh_is_told_by_its_names(body, tmp_path):
    """A standing body, written in centimetres under Mixamo's names, which turns about Y."""
    rest = 100 * body.rest_joints(torch.zeros(10))[:22].numpy()
    names = [next(iter(BVH_JOINTS["Mixamo"][joint])) for joint in JOINTS]

    def node(joint, depth=0):
        offset = rest[joint] - (rest[PARENTS[joint]] if joint else 0)
        kind = "JOINT" if joint else "ROOT"
        lines = [f"{kind} mixamorig:{names[joint]}", "{", "OFFSET " + " ".join(map(str, offset))]
        lines.append("CHANNELS 1 Yrotation" if joint == 0 else "CHANNELS 0")
        for child in (j for j in range(22) if PARENTS[j] == joint):
            lines += node(child)
        return [*lines, "}"]

    turns = [f"{angle}" for angle in np.linspace(0, 90, FRAMES)]
    text = ["HIERARCHY", *node(0), "MOTION", f"Frames: {FRAMES}", "Frame Time: 0.016667", *turns]
    (tmp_path / "turn.bvh").write_text("\n".join(text))
    got = sense_motion(tmp_path / "turn.bvh", scale=0.01)
    speed = np.pi / 2 / (FRAMES - 1) * 60
    np.testing.assert_allclose(np.linalg.norm(got["gyro"], axis=-1)[5:-5], speed, rtol=0.05)


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        (1.0, ("--rate", 5000), "found 5000 frames a second"),
        (1.0, (), "none in the file"),
        (100.0, ("--rate", 20), "as in centimetres"),
        (1.35, ("--rate", 20), "a body of 2."),
        (np.linspace(1, 1.4, FRAMES)[:, None, None], ("--rate", 20), "length changes by 1"),
        (
            np.where(np.arange(FRAMES) == 7, 9.0, 1)[:, None, None],
            ("--rate", 20),
            "bones whose length changes by",
        ),
        ([[1, 0, 0], [0, 0, 1], [0, -1, 0]], ("--rate", 20), "--up z"),
        (1.0, ("--rate", 20, "--sites", "nose"), "found nose"),
        (1.0, ("--rate", 20, "--sites", ""), "found none"),
        (1.0, ("--rate", 20, "--person", "nobody"), "found 'nobody'"),
        (1.0, ("--rate", 20, "--number", 1), "expected 0 to 0"),
        (1.0, ("--rate", 20, "--resample", 30), "found 30"),
        (1.0, ("--rate", 20, "--resample", 0), "x>=20"),
    ],
)
def test_what_cannot_be_sensed_is_refused(motion, tmp_path, change, options, told):
    joints = np.load(motion)
    np.save(motion, joints @ change if np.ndim(change) == 2 else joints * change)
    assert told in run(motion, "--out", tmp_path / "imu.npz", *options, code=2)
    assert not (tmp_path / "imu.npz").exists()


def test_a_place_that_cannot_be_written_is_found_before_the_work(motion, tmp_path, monkeypatch):
    monkeypatch.setattr("t2imu_utils.own_motion.sense_motion", None)  # would fail if it were called
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "there.npz").write_text("")
    for place, told in (
        ("folder.npz", "a folder"), ("motion.npy/a.npz", "a place"), ("there.npz", "--force"),
        ("/proc/a.npz", "no such file"), ("a" * 250 + ".npz", "name too long"),
        ("a.csv", "Name it a.npz"), ("", "Name it motion.npz"),
    ):  # fmt: skip
        assert told in run(motion, "--rate", 20, "--out", place and tmp_path / place, code=2)
    there = tmp_path / "there.npz"
    assert "that is read" in run(there, "--rate", 20, "--out", there, "--force", code=2)
