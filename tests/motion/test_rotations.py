"""Rotations against SciPy's, at ordinary and at awkward angles."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from t2imu_utils.motion.rotations import (
    axis_angle_to_matrix,
    axis_angle_to_quat,
    matrix_to_axis_angle,
    matrix_to_quat,
    matrix_to_rot6d,
    quat_between,
    quat_inverse,
    quat_multiply,
    quat_rotate,
    quat_to_axis_angle,
    quat_to_matrix,
)

RANDOM = Rotation.random(200, random_state=np.random.default_rng(0))
HALF_TURNS = Rotation.from_rotvec(np.pi * np.eye(3))
TINY = Rotation.from_rotvec(np.outer([0.0, 1e-9, 1e-5, 1e-3, 3e-3], [0.6, 0.0, 0.8]))
ALL = Rotation.concatenate([RANDOM, HALF_TURNS, TINY])
QUATS = torch.from_numpy(ALL.as_quat(scalar_first=True, canonical=True))
MATRICES = torch.from_numpy(ALL.as_matrix())


def close(a, b, atol=1e-12):
    torch.testing.assert_close(a, torch.as_tensor(b), atol=atol, rtol=0)


def test_product_inverse_and_rotation_of_vectors():
    p, q = QUATS, QUATS.flip(0)
    close(quat_to_matrix(quat_multiply(p, q)), quat_to_matrix(p) @ quat_to_matrix(q))
    close(quat_multiply(p, quat_inverse(p)), torch.eye(4).double()[0].expand_as(p))
    v = np.random.default_rng(1).normal(size=(len(ALL), 3))
    close(quat_rotate(p, torch.from_numpy(v)), ALL.apply(v))
    one = torch.tensor([0.0, 0.0, 1.0]).double()
    close(quat_rotate(p, one), ALL.apply([0.0, 0.0, 1.0]))


def test_quaternions_matrices_and_axis_angles_agree_with_scipy():
    close(quat_to_matrix(QUATS), MATRICES)
    close(quat_to_matrix(3.0 * QUATS), MATRICES)
    close(quat_to_matrix(matrix_to_quat(MATRICES)), MATRICES)
    assert (matrix_to_quat(MATRICES)[:, 0] >= 0).all()
    vectors = torch.from_numpy(Rotation.concatenate([RANDOM, TINY]).as_rotvec())
    close(axis_angle_to_matrix(vectors), Rotation.from_rotvec(vectors.numpy()).as_matrix())
    close(matrix_to_axis_angle(axis_angle_to_matrix(vectors)), vectors, atol=1e-9)
    close(quat_to_axis_angle(-axis_angle_to_quat(vectors)), vectors, atol=1e-9)
    half = matrix_to_axis_angle(torch.from_numpy(HALF_TURNS.as_matrix()))
    close(half.abs(), np.pi * np.eye(3))


def test_shortest_arc():
    rng = np.random.default_rng(2)
    u, v = (torch.from_numpy(rng.normal(size=(50, 3))) for _ in range(2))
    q = quat_between(u, v)
    unit = torch.nn.functional.normalize
    close(quat_rotate(q, unit(u, dim=-1)), unit(v, dim=-1))
    close((q[:, 1:] * u).sum(-1), torch.zeros(50).double(), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shortest_arc_between_opposite_directions(dtype):
    u = torch.cat((torch.eye(3), -torch.eye(3), torch.tensor([[0.6, 0.0, -0.8]]))).to(dtype)
    q = quat_between(u, -u)
    close(quat_rotate(q, u), -u, atol=1e-6)
    close(q.norm(dim=-1), torch.ones(7, dtype=dtype), atol=1e-6)
    ahead = torch.tensor([0.0, 0.0, 1.0], dtype=dtype)
    close(quat_rotate(quat_between(-ahead, ahead), ahead.roll(-1)), ahead.roll(-1), atol=1e-6)


def test_gradients_are_finite_and_right_where_formulas_divide_by_zero():
    zero = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    axis_angle_to_matrix(zero).sum().backward()
    assert zero.grad.isfinite().all()
    vectors = torch.from_numpy(np.vstack([TINY.as_rotvec()[1:], RANDOM.as_rotvec()[:5]]))
    vectors.requires_grad_()
    assert torch.autograd.gradcheck(axis_angle_to_matrix, vectors, atol=1e-5)
    identity = torch.eye(3, dtype=torch.float64).requires_grad_()
    matrix_to_axis_angle(identity).sum().backward()
    assert identity.grad.isfinite().all()


def test_kind_and_leading_dimensions_are_kept():
    vectors = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    matrices = axis_angle_to_matrix(vectors)
    assert matrices.shape == (2, 5, 3, 3) and matrices.dtype == torch.float32
    assert matrix_to_rot6d(matrices).shape == (2, 5, 6)
    close(matrix_to_axis_angle(matrices), vectors, atol=1e-5)
