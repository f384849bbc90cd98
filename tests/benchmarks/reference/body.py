"""A body's motion through its whole mesh, as tools that know only `smplx` do it."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from t2imu_utils.body.smpl import Body, Shape
from t2imu_utils.body.table1 import betas_of
from t2imu_utils.clips import Clips
from t2imu_utils.imu.sites import Site

GRAVITY = 9.81
FEET = (7, 8, 10, 11)
LEGS = ((1, 4), (4, 7), (2, 5), (5, 8))


def whole_mesh(
    body: Body, betas: Tensor, orient: Tensor, pose: Tensor, transl: Tensor
) -> tuple[Float[Tensor, "F V 3"], Float[Tensor, "F 24 3"]]:
    """All vertices, and the joints that come with them, in metres."""
    out = body.model(
        betas=betas.expand(len(pose), -1), global_orient=orient, body_pose=pose, transl=transl
    )
    return out.vertices, out.joints[:, :24]


@torch.no_grad()
def virtual_imu(
    fit: Clips, body: Body, shapes: Mapping[str, Shape], sites: Sequence[Site], rate: float
) -> tuple[Float[np.ndarray, "N F S 3"], Float[np.ndarray, "N F S 3"]]:
    """acc (m/s²) and gyro (rad/s) of the first clip of a fit on every person.

    People stand and stride as in `t2imu_utils.body.fitting.pose_body`.
    """
    device = body.model.v_template.device
    clip = {name: torch.as_tensor(x, device=device) for name, x in fit[0].items()}
    orient, pose, transl = (clip[n] for n in ("global_orient", "body_pose", "transl"))
    own = torch.tensor(betas_of(fit.table)[:1], dtype=torch.float32, device=device)
    _, joints = whole_mesh(body, own, orient, pose, transl)
    lowest = joints[:, FEET, 1].min()
    pelvis, leg = _rest(body, own)
    readings = []
    for shape in shapes.values():
        betas = torch.tensor(shape.betas, dtype=torch.float32, device=device)[None]
        new_pelvis, new_leg = _rest(shape.body, betas)
        ratio = new_leg / leg
        path = ratio * (transl + pelvis) - new_pelvis
        mesh, joints = whole_mesh(shape.body, betas, orient, pose, path)
        # To the height above the floor that the feet had.
        mesh[..., 1] += ratio * lowest - joints[:, FEET, 1].min()
        each = [_reading(mesh.cpu().numpy(), site, rate) for site in sites]
        readings.append([np.stack(signals, axis=1) for signals in zip(*each, strict=True)])
    acc, gyro = zip(*readings, strict=True)
    return np.stack(acc), np.stack(gyro)


def _rest(body: Body, betas: Tensor) -> tuple[Tensor, Tensor]:
    """Pelvis of the unposed body, and the mean length of its legs down to the ball of the foot."""
    zero = betas.new_zeros(1, 3)
    joints = whole_mesh(body, betas, zero, betas.new_zeros(1, 69), zero)[1][0]
    bones = sum((joints[a] - joints[b]).norm() for a, b in LEGS)
    drop = joints[7, 1] - joints[10, 1] + joints[8, 1] - joints[11, 1]
    return joints[0], (bones + drop) / 2


def _reading(
    mesh: Float[np.ndarray, "F V 3"], site: Site, rate: float
) -> tuple[Float[np.ndarray, "F 3"], Float[np.ndarray, "F 3"]]:
    """Readings of a sensor: central differences of its position and of its orientation."""
    position = mesh[:, site.vertex]
    edges = [mesh[:, vertex] - position for vertex in site.ring]
    z = sum(np.cross(a, b) for a, b in zip(edges, edges[1:] + edges[:1], strict=True))
    along = sum(weight * edge for weight, edge in zip(site.along, edges, strict=True))
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    x = np.cross(along, z)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    axes = Rotation.from_matrix(np.stack((x, np.cross(z, x), z), axis=-1))
    force = np.empty_like(position)
    force[1:-1] = (position[:-2] - 2 * position[1:-1] + position[2:]) * rate**2
    force[0], force[-1] = force[1], force[-2]
    acc = axes.inv().apply(force + (0, GRAVITY, 0))
    step = (axes[:-1].inv() * axes[1:]).as_rotvec() * rate
    gyro = np.empty_like(position)
    gyro[1:-1] = (step[:-1] + step[1:]) / 2
    gyro[0], gyro[-1] = step[0], step[-1]
    return acc, gyro
