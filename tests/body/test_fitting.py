"""Fitting: motions made by posing the body itself, then real and golden ones."""

import numpy as np
import pytest
import torch

from t2imu_utils.body import fitting
from t2imu_utils.body.fitting import (
    ACTIVE,
    RIGID,
    added_acceleration,
    fit,
    fitted_joints,
    pose_bodies,
    pose_body,
    posed_skin,
    solve_shape,
    without_jumps,
)
from t2imu_utils.body.smpl import Shape
from t2imu_utils.body.table1 import betas_of, solve_betas
from t2imu_utils.clips import Clips
from t2imu_utils.imu.sensors import synthesise
from t2imu_utils.imu.sites import sensor_sites
from t2imu_utils.motion.skeleton import FEET, PARENTS

RATE = 20.0
LEFT_HIP, LEFT_KNEE, LEFT_SHOULDER, RIGHT_SHOULDER = 1, 4, 16, 17


def clips_of(*joints):
    rows = [{"name": f"clip {i}"} for i in range(len(joints))]
    return Clips.from_list(rows, {"joints": [np.asarray(j) for j in joints]}, {"rate": RATE})


def run(body, clips, **options):
    return fit(clips, body, progress=False, **options)


def posed(body, vectors, betas=None, transl=None):
    """The 22 joints of local rotation vectors (T, 24, 3)."""
    vectors = torch.as_tensor(vectors, dtype=torch.float32)
    betas = torch.zeros(10) if betas is None else torch.as_tensor(betas, dtype=torch.float32)
    transl = torch.zeros(len(vectors), 3) if transl is None else torch.as_tensor(transl).float()
    return body.joints(betas, vectors[:, 0], vectors[:, 1:], transl)[:, :22].numpy()


def wander(seed, frames=80):
    """Smooth random local rotations with hinged knees and elbows, turning and walking off."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames) / RATE
    vectors = np.zeros((frames, 24, 3))
    for frequency in (0.3, 0.6, 1.1):
        phase = rng.uniform(0, 2 * np.pi, (24, 3))
        amount = rng.normal(0, 0.17, (24, 3))
        vectors += amount * np.sin(2 * np.pi * frequency * t[:, None, None] + phase)
    vectors[:, [j for j in range(24) if j not in ACTIVE]] = 0
    for knee in (4, 5):
        vectors[:, knee] = np.stack([0.8 + 0.6 * np.sin(3 * t + knee), 0 * t, 0 * t], 1)
    for elbow, sign in ((18, -1), (19, 1)):
        bend = 0.8 + 0.5 * np.sin(2 * t + elbow)
        vectors[:, elbow] = np.stack([0 * t, sign * bend, 0 * t], 1)
    vectors[:, 0, 1] += 1.5 * t
    transl = np.stack([np.sin(t), 1 + 0.05 * np.sin(5 * t), t], 1)
    return vectors, transl


def test_recovers_motions_of_the_body_itself(body):
    rng = np.random.default_rng(0)
    motions = [wander(seed) for seed in range(6)]
    joints = [posed(body, v, rng.normal(size=10), shift) for v, shift in motions]
    clips = clips_of(*joints)
    fitted = run(body, clips)
    assert fitted.arrays["joint_error"].max() < 2e-3
    error = np.linalg.norm(fitted_joints(fitted, body) - clips.arrays["joints"], axis=-1).mean(1)
    np.testing.assert_allclose(error, fitted.arrays["joint_error"], atol=1e-5)
    assert added_acceleration(fitted, clips, body, RATE).max() < 0.1
    assert fitted.arrays["body_pose"].shape == (480, 69)
    assert not fitted.arrays["body_pose"].reshape(-1, 23, 3)[:, [9, 10, 14, 19, 20, 21, 22]].any()


@pytest.mark.parametrize("frame", ["bone above", "own bone"])
def test_sensors_read_the_same_on_a_foreign_skeleton(body, frame):
    """Joints 2 to 4 cm off the centres, in frames of bones, and everything 5 % smaller."""
    rng = np.random.default_rng(0)
    offsets = rng.normal(size=(22, 3))
    offsets *= rng.uniform(0.02, 0.04, (22, 1)) / np.linalg.norm(offsets, axis=1, keepdims=True)
    truth = fits_of(body, wander(0, 1280))
    turned, centres = body.bone_transforms(
        np.zeros(10), *(truth.arrays[name] for name in ("global_orient", "body_pose", "transl"))
    )
    frames = [max(p, 0) for p in PARENTS] if frame == "bone above" else list(range(22))
    shift = np.einsum("fjxy,jy->fjx", turned[:, frames].numpy(), offsets)
    joints = 0.95 * (centres[:, :22].numpy() + shift)
    fitted = run(body, clips_of(joints), foreign=True)
    assert fitted.arrays["joint_error"].mean() < 1e-3
    sites = sensor_sites(body)
    own = Shape(body, betas_of(fitted.table)[0])
    expected = synthesise(truth, body, {"": Shape(body, np.zeros(10))}, sites, progress=False)
    got = synthesise(fitted, body, {"": own}, sites, progress=False)
    for site in range(len(sites)):
        pairs = [
            [np.linalg.norm(x.arrays["acc"][:, site], axis=-1) for x in (expected, got)],
            [x.arrays["gyro"][:, site].ravel() for x in (expected, got)],
        ]
        acc, gyro = (np.corrcoef(*pair)[0, 1] for pair in pairs)
        assert acc > 0.96 and gyro > 0.9, (sites[site].name, acc, gyro)


def test_shape_follows_the_bones(body):
    betas = np.random.default_rng(1).normal(size=(5, 10))
    pairs = np.array([(j, PARENTS[j]) for j in range(1, 22)] + list(RIGID))
    rest = body.rest_joints(torch.tensor(betas))
    lengths = (rest[:, pairs[:, 0]] - rest[:, pairs[:, 1]]).norm(dim=-1).numpy()
    found = body.rest_joints(torch.tensor(solve_shape(lengths, pairs, body)))
    again = (found[:, pairs[:, 0]] - found[:, pairs[:, 1]]).norm(dim=-1).numpy()
    np.testing.assert_allclose(again, lengths, atol=2e-3)
    giant = solve_shape(1.6 * lengths, pairs, body)
    assert np.abs(giant).max() < 5


@pytest.mark.parametrize("iterations", [4, 30])
def test_a_bent_knee_tells_the_twist_of_the_thigh(body, iterations):
    vectors = np.zeros((40, 24, 3))
    vectors[:, LEFT_HIP] = (-0.9, 0, 0)
    vectors[:, LEFT_KNEE, 0] = 1.4
    vectors[:, RIGHT_SHOULDER, 2] = 1.2
    vectors[:, 19, 1] = 1.4
    twisted = vectors.copy()
    twisted[:, LEFT_HIP, 1] = 0.5
    twisted[:, RIGHT_SHOULDER, 0] = 0.5
    for truth in (vectors, twisted):
        fitted = run(body, clips_of(posed(body, truth)), iterations=iterations)
        pose = fitted.arrays["body_pose"].reshape(-1, 23, 3)
        for bone in (LEFT_HIP, LEFT_KNEE, RIGHT_SHOULDER, 19):
            np.testing.assert_allclose(pose[:, bone - 1], truth[:, bone], atol=0.15)


def test_noise_does_not_make_limbs_spin(body):
    """2 mm of noise on nearly straight legs and arms: rotations may follow, not flip."""
    vectors = np.zeros((100, 24, 3))
    vectors[:, [4, 5], 0] = 0.1
    vectors[:, LEFT_SHOULDER, 2], vectors[:, RIGHT_SHOULDER, 2] = -1.2, 1.2
    joints = posed(body, vectors)
    noise = np.random.default_rng(0).normal(0, 0.002, joints.shape)
    pose = run(body, clips_of(joints + noise)).arrays["body_pose"].reshape(-1, 23, 3)
    limbs = np.array([1, 2, 4, 5, 16, 17, 18, 19]) - 1
    assert np.abs(np.diff(pose[:, limbs], axis=0)).max() < 0.15


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_vectors_spin_on_past_no_rotation_at_all(kind, noise):
    # Ten steps a turn about X, three turns, so that every tenth frame has no axis, or that of noise
    # (Y); the second joint rocks through zero, and the second clip spins the other way.
    angle = 2 * np.pi * np.arange(31) / 10
    truth = np.zeros((31, 2, 3))
    truth[:, 0, 0], truth[:, 1, 2] = angle, 0.5 * np.sin(angle)
    truth = np.concatenate([truth, -truth])
    wrapped = truth.copy()
    wrapped[:, 0, 0] = (truth[:, 0, 0] + np.pi - 1e-9) % (2 * np.pi) - np.pi + 1e-9
    wrapped[np.abs(wrapped) < 1e-8] = 0
    wrapped[(wrapped[:, 0] == 0).all(-1), 0, 1] = noise
    kept = wrapped.copy()
    got = without_jumps(wrapped.astype(kind), np.array([0, 31]))
    np.testing.assert_allclose(got, truth, atol=1e-5)
    assert got.dtype == kind and (wrapped == kept).all()
    np.testing.assert_array_equal(without_jumps(wrapped[:31].astype(kind)), got[:31])


def test_clips_and_chunks_do_not_touch_each_other(body, monkeypatch):
    joints = [posed(body, *wander(seed)[:1], transl=wander(seed)[1]) for seed in range(4)]
    together = run(body, clips_of(*joints))
    monkeypatch.setattr(fitting, "CHUNK", 1)
    chunked = run(body, clips_of(*joints))
    alone = Clips.concat([run(body, clips_of(j)) for j in joints])
    for name, array in together.arrays.items():
        np.testing.assert_allclose(chunked.arrays[name], array, atol=2e-3)
        np.testing.assert_allclose(alone.arrays[name], array, atol=2e-3)


def test_other_bodies_stride_with_their_legs(body):
    vectors, transl = wander(2)
    joints = posed(body, vectors, transl=transl)
    clips = clips_of(joints - [0, joints[:, list(FEET), 1].min(), 0])
    fitted = run(body, clips)
    same = pose_body(fitted, body, Shape(body, betas_of(fitted.table)[0]))
    np.testing.assert_allclose(same, fitted.arrays["transl"], atol=1e-5)

    tall = solve_betas(body, "male", 2.0, 100.0)
    moved = pose_body(fitted, body, Shape(body, tall))
    pose = (fitted.arrays["global_orient"], fitted.arrays["body_pose"])
    joints = body.joints(tall, *pose, moved)[:, :22].numpy()
    own = fitted_joints(fitted, body)

    def leg(j):
        return np.linalg.norm(j[0, 1] - j[0, 4]) + np.linalg.norm(j[0, 4] - j[0, 7])

    ratio = leg(joints) / leg(own)
    assert ratio > 1.1
    path = np.diff(joints[:, 0], axis=0)
    np.testing.assert_allclose(path, ratio * np.diff(own[:, 0], axis=0), rtol=0.05, atol=1e-3)
    assert joints[:, list(FEET), 1].min() == pytest.approx(0, abs=2e-3)
    short = solve_betas(body, "female", 1.5, 50.0)
    moved = pose_body(fitted, body, Shape(body, short))
    joints = body.joints(short, *pose, moved)[:, list(FEET), 1]
    assert float(joints.min()) == pytest.approx(0, abs=2e-3)
    both = pose_bodies(fitted, body, [Shape(body, tall), Shape(body, short)])
    np.testing.assert_array_equal(both[1], moved)


def test_a_humanml3d_clip(body, real_data):
    joints = np.load(real_data / "humanml3d" / "new_joints" / "012314.npy")
    clips = clips_of(joints)
    fitted = run(body, clips)
    assert fitted.arrays["joint_error"].mean() < 0.006
    own = np.sqrt(((np.diff(joints, n=2, axis=0) * RATE**2) ** 2).sum(-1).mean())
    assert added_acceleration(fitted, clips, body, RATE)[0] < 0.03 * own
    assert np.abs(betas_of(fitted.table)).max() < 5


def fits_of(body, *poses, betas=None, **arrays):
    """A fit that is given, not solved: (vectors (T, 24, 3), transl (T, 3)) for each clip."""
    betas = np.zeros(10) if betas is None else betas
    rows = [{f"beta_{i}": b for i, b in enumerate(betas)} for _ in poses]
    parts = {
        "global_orient": [np.asarray(v[:, 0], np.float32) for v, _ in poses],
        "body_pose": [np.asarray(v[:, 1:], np.float32).reshape(len(v), -1) for v, _ in poses],
        "transl": [np.asarray(t, np.float32) for _, t in poses],
    }
    return Clips.from_list(rows, {**parts, **arrays}, {"rate": RATE, "body": body.path.name})


def test_the_pose_goes_to_the_model_of_another_gender(body, licensed):
    """The stand-in's men are the open body with the mean betas of men: joints must agree."""
    motions = [wander(seed, frames=30) for seed in (6, 7)]
    own = fits_of(body, *motions)
    moved = [(v, shift - np.array([0.0, -0.22, 0.03])) for v, shift in motions]
    theirs = fits_of(licensed.neutral, *moved)
    np.testing.assert_allclose(
        fitted_joints(theirs, licensed.neutral), fitted_joints(own, body), atol=1e-5
    )
    betas = np.linspace(-1, 1, 10)
    for gender in ("male", "female"):
        man = Shape(licensed.of(gender), betas)
        same = Shape(body, body.betas_mean[gender] + betas)
        pose = (own.arrays["global_orient"], own.arrays["body_pose"])
        got = man.body.joints(betas, *pose, pose_body(theirs, licensed.neutral, man)).numpy()
        expected = body.joints(same.betas, *pose, pose_body(own, body, same))
        np.testing.assert_allclose(got, expected.numpy(), atol=2e-5)
        assert np.abs(got[:, :22] - fitted_joints(own, body)).max() > 0.05
    skin = posed_skin(theirs, licensed.neutral, man, frame=9)
    ends = skin[:, 1].min(), skin[:, 1].max()
    assert ends[0] < got[9, :, 1].min() < got[9, :, 1].max() < ends[1]
