"""The 263-d representation: analytic motions, golden vectors, a published clip."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from t2imu_utils.errors import InputError
from t2imu_utils.motion.features import (
    CONTACTS,
    GROUPS,
    POSITIONS,
    ROOT_HEIGHT,
    ROOT_ROTATION,
    ROOT_VELOCITY,
    ROTATIONS,
    VELOCITIES,
    Normaliser,
    features_to_joints,
    joints_to_features,
    mirror_joints,
    process_joints,
    processed_to_features,
    statistics,
    uniform_skeleton,
    velocity_weights,
)
from t2imu_utils.motion.skeleton import MIRROR, bone_lengths, bone_offsets

CONVENTIONS = ("reference", "dataset", "clean")
QUARTER = Rotation.from_rotvec([0, 2.0, 0])


def still(body: np.ndarray, frames: int, step=(0.0, 0.0, 0.0)) -> np.ndarray:
    return body + np.arange(frames)[:, None, None] * np.asarray(step)


def aligned_error(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance of joints after the best turn about Y and shift of the whole clip."""
    a, b = a - a.mean(axis=(0, 1)), b - b.mean(axis=(0, 1))
    flat_a, flat_b = a[..., 0] + 1j * a[..., 2], b[..., 0] + 1j * b[..., 2]
    turn = np.vdot(flat_a, flat_b)
    flat = np.abs(flat_a * turn / abs(turn) - flat_b)
    return float(np.hypot(flat, a[..., 1] - b[..., 1]).max())


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_body_that_glides_ahead(body, convention):
    turned = QUARTER.apply(body[1]) + [3.0, 5.0, -2.0]
    ahead = QUARTER.apply([0.0, 0.0, 0.05])
    features = joints_to_features(still(turned, 30, ahead), convention=convention)
    assert features.shape == (29, 263) and features.dtype == np.float32
    tilt = 3e-4 if convention == "reference" else 1e-6
    np.testing.assert_allclose(features[:, ROOT_ROTATION], 0, atol=1e-6)
    np.testing.assert_allclose(features[:, ROOT_VELOCITY], [[0, 0.05]] * 29, atol=tilt)
    np.testing.assert_allclose(features[:, ROOT_HEIGHT], 0.96 - body[1][:, 1].min(), atol=tilt)
    positions = (body[1][1:] - [0, body[1][:, 1].min(), 0]).ravel()
    np.testing.assert_allclose(features[:, POSITIONS], [positions] * 29, atol=tilt * 2)
    np.testing.assert_allclose(features[:, VELOCITIES], [[0, 0, 0.05] * 22] * 29, atol=tilt)
    np.testing.assert_array_equal(features[:, CONTACTS], 0)
    if convention == "clean":
        np.testing.assert_allclose(
            features[:, ROTATIONS], [[1, 0, 0, 0, 1, 0] * 21] * 29, atol=1e-6
        )


def test_contacts_follow_the_squared_step(body):
    joints = still(body[1], 10)
    joints[5:, 7] += [0.0, 0.0, 0.044]  # left ankle: 0.00194, at rest
    joints[5:, 10] += [0.0, 0.0, 0.046]  # left toe: 0.00212, moves
    joints[8:, 11] += [0.03, 0.03, 0.03]  # right toe: 0.0027, moves
    expected = np.ones((9, 4))
    expected[4, 1] = expected[7, 3] = 0
    contacts = joints_to_features(joints)[:, CONTACTS]
    np.testing.assert_array_equal(contacts, expected)


def test_round_trip_recovers_the_motion_through_whole_turns(turning_motion):
    processed = process_joints(turning_motion, convention="clean")
    features = processed_to_features(processed, convention="clean")
    assert aligned_error(features_to_joints(features), processed[:-1]) < 1e-4
    kinked = processed_to_features(processed, convention="reference")
    assert aligned_error(features_to_joints(kinked), processed[:-1]) > 0.05


def test_rotations_and_velocities_describe_the_same_motion(turning_motion):
    features = joints_to_features(turning_motion, convention="clean").astype(np.float64)
    joints = features_to_joints(features)
    turn = -2 * np.cumsum(np.concatenate([[0], features[:-1, 0]]))
    steps = Rotation.from_rotvec(np.outer(turn, [0, 1, 0]))
    local = features[:, VELOCITIES].reshape(-1, 22, 3)
    world = np.stack([steps[t].apply(local[t]) for t in range(len(local))])
    np.testing.assert_allclose(np.diff(joints, axis=0), world[:-1], atol=1e-5)
    # The second column of a rotation turns the rest direction of legs, -Y, against their parent's.
    six = features[:, ROTATIONS].reshape(-1, 21, 2, 3)
    bones = np.diff(joints[:, [0, 1, 4, 7]], axis=1)
    hip, thigh, shank = (bones / np.linalg.norm(bones, axis=-1, keepdims=True)).swapaxes(0, 1)
    np.testing.assert_allclose(-six[:, 3, 1, 0], (hip * thigh).sum(axis=1), atol=1e-5)
    np.testing.assert_allclose(six[:, 6, 1, 1], (thigh * shank).sum(axis=1), atol=1e-5)


def test_mirror_is_its_own_inverse_and_turns_the_other_way(turning_motion):
    mirrored = mirror_joints(turning_motion)
    np.testing.assert_array_equal(mirror_joints(mirrored), turning_motion)
    np.testing.assert_array_equal(mirror_joints(torch.from_numpy(turning_motion)), mirrored)
    a, b = (joints_to_features(j, convention="clean") for j in (turning_motion, mirrored))
    np.testing.assert_allclose(b[:, ROOT_ROTATION], -a[:, ROOT_ROTATION], atol=1e-5)
    np.testing.assert_allclose(b[:, ROOT_VELOCITY], a[:, ROOT_VELOCITY] * [-1, 1], atol=1e-5)
    swapped = a[:, VELOCITIES].reshape(-1, 22, 3)[:, list(MIRROR)] * [-1, 1, 1]
    np.testing.assert_allclose(b[:, VELOCITIES].reshape(-1, 22, 3), swapped, atol=1e-5)
    np.testing.assert_array_equal(b[:, CONTACTS], a[:, CONTACTS][:, [2, 3, 0, 1]])


@pytest.mark.parametrize("convention", ["reference", "clean"])
def test_retargeting_keeps_directions_and_scales_the_path(turning_motion, convention):
    target = bone_offsets(turning_motion[0]) * np.linspace(0.8, 1.2, 22)[:, None]
    moved = uniform_skeleton(turning_motion, target, convention)
    np.testing.assert_allclose(
        bone_lengths(moved), [np.linalg.norm(target, axis=1)] * 200, atol=1e-9
    )
    lengths = bone_lengths(turning_motion[0])
    legs = np.linalg.norm(target, axis=1)[[5, 8]].sum() / lengths[[5, 8]].sum()
    np.testing.assert_allclose(moved[:, 0], turning_motion[:, 0] * legs, atol=1e-12)
    same = uniform_skeleton(turning_motion, bone_offsets(turning_motion[0]), "clean")
    np.testing.assert_allclose(same, turning_motion, atol=1e-9)


def test_body_that_faces_backwards_stays_upright(body):
    backwards = Rotation.from_rotvec([0, np.pi, 0]).apply(body[1])
    for convention in CONVENTIONS:
        processed = process_joints(still(backwards, 5), convention=convention)
        np.testing.assert_allclose(processed[0], body[1] - [0, body[1][:, 1].min(), 0], atol=1e-6)


def test_golden_features(reference):
    with np.load(reference / "humanml3d_golden.npz") as golden:
        raw, offsets = golden["raw_joints"], golden["target_offsets"]
        processed = process_joints(raw, offsets)
        np.testing.assert_allclose(processed, golden["global_joints"], atol=1e-5, rtol=0)
        features = joints_to_features(raw, offsets)
        np.testing.assert_allclose(features, golden["features"], atol=3e-5, rtol=0)
        np.testing.assert_array_equal(features[:, CONTACTS], golden["features"][:, CONTACTS])
        recovered = features_to_joints(golden["features"])
        np.testing.assert_allclose(recovered, golden["recovered_joints"], atol=2e-6, rtol=0)


def test_published_clip(real_data):
    folder = real_data / "humanml3d"
    features = np.load(folder / "new_joint_vecs" / "012314.npy")
    joints = np.load(folder / "new_joints" / "012314.npy")
    np.testing.assert_allclose(features_to_joints(features), joints, atol=2e-6, rtol=0)
    again = joints_to_features(joints, convention="dataset")
    assert len(again) == len(features) - 1
    # The frame after the last row is not in the file: it moves the heading, smoothed over 4 x 20
    # frames to either side, at the end only.
    untouched = len(again) - 80
    np.testing.assert_allclose(again[:untouched], features[:untouched], atol=2e-5, rtol=0)
    np.testing.assert_allclose(again, features[:-1], atol=0.02, rtol=0)
    np.testing.assert_array_equal(again[:, CONTACTS], features[:-1, CONTACTS])


def test_joints_are_differentiable_and_batched(turning_motion):
    features = torch.from_numpy(joints_to_features(turning_motion[:8])).double()
    features = features[:6].clone().requires_grad_()
    batch = torch.stack([features.detach(), features.detach().flip(0)])
    for weight in (0.0, np.linspace(0, 20, 22)):
        read = partial(features_to_joints, velocity_weight=weight)
        assert torch.autograd.gradcheck(read, features, fast_mode=True)
        joints = read(batch[:, None])
        assert joints.shape == (2, 1, 6, 22, 3)
        torch.testing.assert_close(joints[1, 0], read(batch[1]))
    assert features_to_joints(batch.float()).dtype == torch.float32


@pytest.mark.parametrize("weight", [0.3, 10.0, 1e6, np.geomspace(0.01, 1e4, 22)])
def test_positions_and_velocities_of_a_recording_agree(turning_motion, real_data, weight):
    published = np.load(real_data / "humanml3d" / "new_joint_vecs" / "012314.npy")
    for features in (joints_to_features(turning_motion, convention="clean"), published):
        joints = features_to_joints(features, weight)
        np.testing.assert_allclose(joints, features_to_joints(features), atol=1e-5)


def test_joints_are_the_least_squares_solution(turning_motion):
    rng = np.random.default_rng(0)
    features = joints_to_features(turning_motion[:31], convention="clean").astype(np.float64)
    true = features_to_joints(features)
    features[:, POSITIONS] += rng.normal(0, 0.01, (30, 63))
    weight = np.where(np.arange(22) == 5, 0.0, 4.0)
    found, noisy = features_to_joints(features, weight), features_to_joints(features)
    np.testing.assert_array_equal(found[:, 5], noisy[:, 5])
    np.testing.assert_allclose(found[:, 0], true[:, 0], atol=1e-5)  # its readings have no noise
    difference = np.diff(np.eye(30), axis=0)
    pull = 4.0 * difference.T @ np.diff(true[:, 8], axis=0)
    solved = np.linalg.solve(np.eye(30) + 4.0 * difference.T @ difference, noisy[:, 8] + pull)
    np.testing.assert_allclose(found[:, 8], solved, atol=1e-5)
    # Velocities alone: their sum, with the mean of the positions.
    stiff = features_to_joints(features, 1e9)
    expected = true + (noisy - true).mean(0)
    np.testing.assert_allclose(stiff, expected, atol=1e-5)


def test_weight_of_velocities_is_the_ratio_of_error_variances():
    rng = np.random.default_rng(0)
    true = [rng.normal(size=(1000, 263)) for _ in range(4)]
    scale = np.ones(263)
    scale[VELOCITIES] = np.repeat(np.linspace(0.1, 1.0, 22), 3)
    predicted = [x + scale * rng.normal(size=x.shape) for x in true]
    ratio = velocity_weights(predicted, true)
    np.testing.assert_allclose(ratio, np.linspace(0.1, 1.0, 22) ** -2.0, rtol=0.1)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda j: j[:2], "2 frame"),
        (lambda j: j[:, :21], "22"),
        (lambda j: np.where(np.arange(22)[:, None] == 4, np.nan, j), "left_knee"),
        (lambda j: j * (np.arange(22)[:, None] < 20), "left_wrist|left_elbow"),
        (
            lambda j: np.where(np.isin(np.arange(22), (1, 2, 16, 17))[:, None], j[:, :1], j),
            "facing",
        ),
    ],
)
def test_bad_joints_are_refused(turning_motion, change, word):
    joints = change(turning_motion)
    if word.startswith("left_wrist"):
        joints[:, 20] = joints[:, 18]
    with pytest.raises(InputError, match=word):
        joints_to_features(joints)


# Statistics and z-scores.


def noise(frames: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, 263)).astype(np.float32)


def test_statistics_are_numpys_averaged_by_group():
    parts = [noise(40, 0) * np.arange(263) + 5, noise(90, 1)]
    mean, std = statistics(parts)
    together = np.concatenate(parts).astype(np.float64)
    np.testing.assert_allclose(mean, together.mean(axis=0), rtol=1e-5, atol=1e-5)
    for group in GROUPS:
        np.testing.assert_allclose(std[group], together.std(axis=0)[group].mean(), rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32


def test_normaliser_on_both_kinds_of_arrays():
    x = noise(50, 0) * 3 + 1
    x[:, CONTACTS] = 1.0
    normaliser = Normaliser(*statistics([x]))
    z = normaliser.normalise(x)
    np.testing.assert_allclose(z[:, POSITIONS].mean(axis=0), 0, atol=1e-5)
    assert z[:, POSITIONS].std() == pytest.approx(1, abs=0.02)
    np.testing.assert_array_equal(z[:, CONTACTS], 0)
    np.testing.assert_allclose(normaliser.denormalise(z), x, atol=1e-5)
    tensor = torch.from_numpy(x)[None].requires_grad_()
    out = normaliser.normalise(tensor)
    torch.testing.assert_close(out[0].detach(), torch.from_numpy(z))
    torch.testing.assert_close(normaliser.denormalise(out), tensor, atol=1e-5, rtol=0)
    assert out.requires_grad and out.dtype == torch.float32 and z.dtype == np.float32
    with pytest.raises(InputError, match="std"):
        Normaliser(np.zeros(263), -np.ones(263))
