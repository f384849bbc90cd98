"""Poses of other projects: files made from motions of the body itself, read back as its fit."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from t2imu_utils.body.fitting import fitted_joints
from t2imu_utils.body.smpl import load_body
from t2imu_utils.body.table1 import betas_of
from t2imu_utils.errors import InputError
from t2imu_utils.motion.exports import read_poses

# Y up, looking along +Z, as Kimodo turns it into AMASS's Z up, looking along +Y.
Z_UP = np.array([[-1.0, 0, 0], [0, 0, 1], [0, 1, 0]])


@pytest.fixture(scope="module")
def body():
    return load_body()


def moving(rate, seconds=6.0):
    """Local rotation vectors (T, 22, 3) and pelvis (T, 3), Y up: slow waves of every joint."""
    rng = np.random.default_rng(5)
    time = np.arange(int(seconds * rate) + 1)[:, None, None] / rate
    vectors = np.zeros((len(time), 22, 3))
    for frequency in (0.3, 0.7, 1.5):
        phase, amount = rng.uniform(0, 6, (22, 3)), rng.normal(0, 0.15, (22, 3))
        vectors += amount * np.sin(2 * np.pi * frequency * time + phase)
    time = time[:, 0, 0]
    pelvis = np.stack([0.3 * np.sin(time), 0.9 + 0.02 * np.sin(9 * time), 0.8 * time], axis=1)
    return vectors, pelvis


def spinning(rate, turns, seconds=6.0):
    """A body at rest that turns about Y at an even rate."""
    time = np.arange(int(seconds * rate) + 1) / rate
    vectors = np.zeros((len(time), 22, 3))
    vectors[:, 0, 1] = 2 * np.pi * turns * time / seconds
    return vectors, np.tile([0, 0.9, 0], (len(time), 1))


def rest_pelvis(body, betas=None):
    betas = np.zeros(10) if betas is None else betas
    return body.rest_joints(torch.tensor(betas))[0].numpy()


def amass(motion, rate, pelvis_at, kind="smplh", up=Z_UP, **change):
    """Arrays of a file; `pelvis_at` is the rest pelvis of the model it is for."""
    vectors, pelvis = motion
    root = (Rotation.from_matrix(up) * Rotation.from_rotvec(vectors[:, 0])).as_rotvec()
    trans = pelvis @ up.T - pelvis_at
    poses = np.concatenate([root, vectors[:, 1:].reshape(len(root), -1)], axis=1)
    hands = np.random.default_rng(0).normal(size=(len(root), 99))
    arrays = {"trans": trans, "betas": np.linspace(-1, 1, 16), "gender": np.array("male")}
    if kind in ("smpl", "smplh"):
        width = {"smpl": 72, "smplh": 156}[kind]
        arrays |= {"poses": np.concatenate([poses, hands], axis=1)[:, :width]}
        arrays |= {"mocap_framerate": np.array(rate), "dmpls": np.zeros((len(root), 8))}
    else:
        arrays |= {"surface_model_type": np.array("smplx"), "mocap_frame_rate": np.array(rate)}
        if kind == "smplx":
            arrays["poses"] = np.concatenate([poses, hands], axis=1)
        arrays |= {"root_orient": root, "pose_body": poses[:, 3:], "pose_hand": hands[:, :90]}
    return {key: value for key, value in (arrays | change).items() if value is not None}


def joints_of(body, motion, betas=None):
    """The joints that a file should give, at the motion's own rate."""
    vectors, pelvis = (torch.from_numpy(x) for x in motion)
    betas = torch.zeros(10) if betas is None else torch.tensor(betas)
    pose = torch.cat([vectors[:, 1:], torch.zeros(len(vectors), 2, 3)], dim=1)
    transl = pelvis - body.rest_joints(betas.double())[0]
    return body.joints(betas.double(), vectors[:, 0], pose, transl)[:, :22].numpy()


def read(path, body, **options):
    clips, skipped = read_poses(path, body, **options)
    assert skipped == []
    return clips


def refusal(path, body, **options):
    with pytest.raises(InputError, match="found no motion that can be used") as caught:
        read_poses(path, body, **options)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["smpl", "smplh", "smplx", "kimodo"])
@pytest.mark.parametrize("rate", [20, 30, 59.94, 120])
def test_poses_of_all_kinds_come_back(tmp_path, body, kind, rate):
    np.savez(tmp_path / "x_poses.npz", **amass(moving(rate), rate, rest_pelvis(body), kind))
    clips = read(tmp_path, body)
    joints = fitted_joints(clips, body)
    # 6 s hold a frame more or less where the rate is no whole number.
    wanted = joints_of(body, moving(20))[: len(joints)]
    assert len(joints) in (120, 121)
    assert np.linalg.norm(joints - wanted, axis=-1).max() < 1e-3
    row = clips.table.iloc[0]
    assert row["native_rate"] == rate and row["resampled"] == (rate != 20)
    assert (row["shape"], row["smoothed"], row["prompt"]) == ("mean", "not known", "")
    assert clips.meta["rate"] == 20.0 and clips.meta["body"] == body.path.name


def test_y_up_stays(tmp_path, body):
    arrays = amass(moving(20), 20, rest_pelvis(body), up=np.eye(3))
    np.savez(tmp_path / "x.npz", **arrays)
    joints = fitted_joints(read(tmp_path, body, up="y"), body)
    np.testing.assert_allclose(joints, joints_of(body, moving(20)), atol=1e-4)


def test_rotation_vectors_do_not_jump(tmp_path, body):
    np.savez(tmp_path / "x.npz", **amass(spinning(120, 5), 120, rest_pelvis(body)))
    orient = read(tmp_path, body).arrays["global_orient"]
    assert np.abs(np.diff(orient, axis=0)).max() < 0.5
    np.testing.assert_allclose(orient[-1] - orient[0], [0, 10 * np.pi, 0], atol=1e-3)


def test_betas_as_they_stand(tmp_path, body):
    betas = np.linspace(-1, 1, 16)[:10]
    file = amass(moving(20), 20, rest_pelvis(body, betas))
    np.savez(tmp_path / "x.npz", **file)
    clips = read(tmp_path, body, shape="file")
    np.testing.assert_allclose(betas_of(clips.table)[0], betas)
    assert clips.table["shape"].tolist() == ["file"]
    wanted = joints_of(body, moving(20), betas)
    np.testing.assert_allclose(fitted_joints(clips, body), wanted, atol=1e-4)
    np.savez(tmp_path / "x.npz", **(file | {"betas": np.tile(betas, (len(wanted), 1))}))
    np.testing.assert_allclose(betas_of(read(tmp_path, body, shape="file").table)[0], betas)
    for change, found in [
        ({"betas": np.zeros(8)}, "betas: found shape (8,)"),
        ({"betas": np.full(16, np.nan)}, "betas: found NaN"),
        ({"betas": None}, "betas: found shape (0,)"),
    ]:
        np.savez(tmp_path / "x.npz", **amass(moving(20), 20, np.zeros(3), **change))
        assert found in (message := refusal(tmp_path, body, shape="file"))
        assert 'Pass shape="mean".' in message and len(read(tmp_path, body)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"poses": np.zeros((121, 66))}, "poses: found shape (121, 66); expected (frames, 72, 156"),
        ({"poses": None}, "neither poses nor root_orient and pose_body"),
        ({"poses": np.full((121, 156), np.nan)}, "poses: found NaN or infinity in frame 0"),
        ({"trans": np.zeros((120, 3))}, "trans: found shape (120, 3) of float64"),
        ({"mocap_framerate": None}, "rate: found none in the file"),
        ({"mocap_framerate": np.array(15.0)}, "15 frames a second"),
        ({"trans": np.zeros((2, 3)), "poses": np.zeros((2, 156))}, "found 2 frame(s); expected"),
        ({"poses": np.zeros((121, 156)).astype(object)}, "no readable arrays"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path, body, change, message):
    np.savez(tmp_path / "x.npz", **amass(moving(20), 20, np.zeros(3), **change))
    assert message in refusal(tmp_path, body)
