"""Rotations in torch, batched and differentiable: quaternions, matrices, axis-angle and 6D.

Quaternions are (w, x, y, z). Quaternions and matrices rotate column vectors,
v' = R v. Angles are radians.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def quat_multiply(p: Float[Tensor, "*b 4"], q: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Hamilton product p q: first q rotates, then p."""
    pw, px, py, pz = p.unbind(-1)
    qw, qx, qy, qz = q.unbind(-1)
    return torch.stack(
        (
            pw * qw - px * qx - py * qy - pz * qz,
            pw * qx + px * qw + py * qz - pz * qy,
            pw * qy - px * qz + py * qw + pz * qx,
            pw * qz + px * qy - py * qx + pz * qw,
        ),
        dim=-1,
    )


def quat_inverse(q: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Conjugate: the inverse of a unit quaternion."""
    return torch.cat((q[..., :1], -q[..., 1:]), dim=-1)


def quat_rotate(q: Float[Tensor, "*b 4"], v: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
    """Rotate vectors by unit quaternions; leading dimensions broadcast."""
    w, u = q[..., :1], q[..., 1:]
    u, v = torch.broadcast_tensors(u, v)
    t = 2.0 * torch.linalg.cross(u, v)
    return v + w * t + torch.linalg.cross(u, t)


def quat_between(u: Float[Tensor, "*b 3"], v: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4"]:
    """Shortest rotation that takes the direction of u to that of v; neither may be zero.

    Of the many half turns between opposite directions the one about Y is taken where u is level,
    about X where u is upright.
    """
    u = torch.nn.functional.normalize(u, dim=-1)
    v = torch.nn.functional.normalize(v, dim=-1)
    u, v = torch.broadcast_tensors(u, v)
    w = 1.0 + (u * v).sum(-1, keepdim=True)
    opposite = w < 8 * torch.finfo(u.dtype).eps
    y = torch.zeros_like(u)
    y[..., 1] = 1.0
    x = torch.zeros_like(u)
    x[..., 0] = 1.0
    axis = torch.where(u[..., 1:2].abs() > 0.9, x, y)
    axis = axis - (axis * u).sum(-1, keepdim=True) * u
    q = torch.cat((w, torch.linalg.cross(u, v)), dim=-1)
    half_turn = torch.cat((torch.zeros_like(w), axis), dim=-1)
    return torch.nn.functional.normalize(torch.where(opposite, half_turn, q), dim=-1)


def quat_to_matrix(q: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation matrix of a quaternion of any non-zero length."""
    w, x, y, z = q.unbind(-1)
    s = 2.0 / (q * q).sum(-1)
    rows = (
        1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w),
        s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w),
        s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def matrix_to_quat(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4"]:
    """Unit quaternion with w >= 0 of a rotation matrix, stable at every angle."""
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = matrix.flatten(-2).unbind(-1)
    # Row k is 4 q_k q: the row of the largest component divides by nothing small.
    rows = (
        1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01,
        m21 - m12, 1 + m00 - m11 - m22, m10 + m01, m02 + m20,
        m02 - m20, m10 + m01, 1 - m00 + m11 - m22, m21 + m12,
        m10 - m01, m02 + m20, m21 + m12, 1 - m00 - m11 + m22,
    )  # fmt: skip
    rows = torch.stack(rows, dim=-1).unflatten(-1, (4, 4))
    best = torch.diagonal(rows, dim1=-2, dim2=-1).argmax(dim=-1)
    index = best[..., None, None].expand(*best.shape, 1, 4)
    q = torch.nn.functional.normalize(rows.gather(-2, index).squeeze(-2), dim=-1)
    return torch.where(q[..., :1] < 0, -q, q)


def axis_angle_to_quat(axis_angle: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4"]:
    """Unit quaternion of a rotation vector; smooth, with finite gradients, at zero."""
    half = 0.5 * axis_angle
    square = (half * half).sum(-1, keepdim=True)
    small = square < 1e-6
    angle = torch.where(small, torch.ones_like(square), square).sqrt()
    w = torch.where(small, 1 - square / 2, torch.cos(angle))
    sinc = torch.where(small, 1 - square / 6, torch.sin(angle) / angle)
    return torch.cat((w, sinc * half), dim=-1)


def quat_to_axis_angle(q: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3"]:
    """Rotation vector of length at most pi of a unit quaternion; finite gradients at zero."""
    q = torch.where(q[..., :1] < 0, -q, q)
    w, u = q[..., :1], q[..., 1:]
    square = (u * u).sum(-1, keepdim=True)
    small = square < 1e-8
    sine = torch.where(small, torch.ones_like(square), square).sqrt()
    scale = torch.where(small, 2 + square / 3, 2 * torch.atan2(sine, w) / sine)
    return scale * u


def axis_angle_to_matrix(axis_angle: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation matrix of a rotation vector (SMPL's pose parameters)."""
    return quat_to_matrix(axis_angle_to_quat(axis_angle))


def matrix_to_axis_angle(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3"]:
    """Rotation vector of length at most pi of a rotation matrix."""
    return quat_to_axis_angle(matrix_to_quat(matrix))


def matrix_to_rot6d(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 6"]:
    """First two columns, one after the other (Zhou et al. 2019, in HumanML3D's order)."""
    return torch.cat((matrix[..., 0], matrix[..., 1]), dim=-1)
