"""Where the sensors sit: nine vertices found by an anatomical rule on any SMPL-format body.

The paper names nine vertices and lists none, and RealWorld has seven positions: this project takes
those seven and the other side's forearm and shin. RealWorld's single sensors are put on the right
side, which is a choice; "other" is the left. A vertex is found by casting a ray from a point of
the skeleton of the rest pose (arms out, palms down, facing +Z) to the skin, so the same rule works
for the open body and for licensed SMPL.

Each sensor has a frame that its surroundings carry along: z points out of the skin, y along the
bone and towards the head end as far as the skin allows (upwards in a person who stands with the
arms hanging), x completes a right-handed frame. These are the axes of a phone with its screen
outward and its top up, which is how the gravity of RealWorld's recordings lies (+y at the shin).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from t2imu_utils.activities import SITES
from t2imu_utils.body.smpl import Body
from t2imu_utils.errors import InputError
from t2imu_utils.motion.skeleton import JOINTS

FORWARD, UPWARD = (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Rule:
    """A ray from a point on a bone to the skin.

    Attributes:
        low: the joint that the sensor's y axis points away from.
        high: the joint that it points to.
        along: where the ray starts, from `low` (0) to `high` (1); beyond 1 lies above `high`.
        toward: direction of the ray in the rest pose.
    """

    low: str
    high: str
    along: float
    toward: tuple[float, float, float]


# In the rest pose the arms' outer and dorsal sides look up.
RULES = {
    "head": Rule("neck", "head", 2.0, FORWARD),
    "chest": Rule("spine3", "neck", 0.3, FORWARD),
    "upperarm": Rule("right_elbow", "right_shoulder", 0.5, UPWARD),
    "forearm": Rule("right_wrist", "right_elbow", 0.5, UPWARD),
    "waist": Rule("pelvis", "spine1", 0.6, FORWARD),
    "thigh": Rule("right_knee", "right_hip", 0.5, FORWARD),
    "shin": Rule("right_ankle", "right_knee", 0.5, FORWARD),
    "forearm_other": Rule("left_wrist", "left_elbow", 0.5, UPWARD),
    "shin_other": Rule("left_ankle", "left_knee", 0.5, FORWARD),
}


@dataclass(frozen=True)
class Site:
    """One sensor: its vertex, the ring of neighbours that carries its frame, and how.

    Attributes:
        name: one of `SITES`.
        vertex: index of the vertex.
        ring: its neighbours in order, counter-clockwise seen from outside.
        along: weights of the edges to the ring whose sum points along the bone.
    """

    name: str
    vertex: int
    ring: tuple[int, ...]
    along: tuple[float, ...]


def sensor_sites(body: Body, names: Sequence[str] = SITES) -> list[Site]:
    """The sensors on a body's mean shape, to be used for all its shapes."""
    unknown = [name for name in names if name not in RULES]
    if unknown or not names:
        raise InputError(
            "sites", ", ".join(unknown) or "none", f"some of {', '.join(RULES)}", "Check the names."
        )
    betas = torch.zeros(10, dtype=torch.float64)
    skin = body.rest_vertices(betas).numpy()
    joints = dict(zip(JOINTS, body.rest_joints(betas).numpy()[: len(JOINTS)], strict=True))
    sites = []
    for name in names:
        rule = RULES[name]
        bone = joints[rule.high] - joints[rule.low]
        hit = _last_hit(skin, body.faces, joints[rule.low] + rule.along * bone, rule.toward)
        ring = None if hit is None else _ring(body.faces, hit)
        if ring is None:
            raise InputError(
                f"{body.path}: site {name}", "no closed surface where its ray leaves the body",
                "a closed body in SMPL's rest pose, Y up, facing +Z, in metres",
                "Check the model's units and pose, or weld the mesh's seams.",
            )  # fmt: skip
        edges = skin[list(ring)] - skin[hit]
        weights = np.linalg.pinv(edges.T) @ (bone / np.linalg.norm(bone))
        sites.append(Site(name, hit, ring, tuple(weights.tolist())))
    return sites


def site_vertices(sites: Sequence[Site]) -> Int[np.ndarray, "V"]:
    """The vertices to skin: for each site its own and its ring, in order."""
    return np.concatenate([[site.vertex, *site.ring] for site in sites])


def sensor_frames(
    vertices: Float[Tensor, "*b V 3"], sites: Sequence[Site]
) -> tuple[Float[Tensor, "*b S 3"], Float[Tensor, "*b S 3 3"]]:
    """Positions and orientations (sensor to world) of the sensors on a deformed surface.

    Args:
        vertices: those of `site_vertices`, in their order, in metres.
        sites: the sensors.
    """
    # Rings differ in length: the last neighbour is repeated, whose edge spans no area with itself.
    longest = max(len(site.ring) for site in sites)
    own, around, weights, first = [], [], [], 0
    for site in sites:
        count = len(site.ring)
        own.append(first)
        around.append([first + 1 + min(k, count - 1) for k in range(longest)])
        weights.append([*site.along, *[0.0] * (longest - count)])
        first += 1 + count
    positions = vertices[..., own, :]
    edges = vertices[..., around, :] - positions[..., None, :]
    normal = torch.linalg.cross(edges, edges.roll(-1, dims=-2)).sum(-2)
    along = torch.einsum("sk,...skx->...sx", edges.new_tensor(weights), edges)
    z = torch.nn.functional.normalize(normal, dim=-1, eps=0.0)
    x = torch.nn.functional.normalize(torch.linalg.cross(along, z), dim=-1, eps=0.0)
    return positions, torch.stack((x, torch.linalg.cross(z, x), z), dim=-1)


def _last_hit(
    skin: np.ndarray, faces: np.ndarray, origin: np.ndarray, toward: tuple[float, float, float]
) -> int | None:
    """The vertex nearest to where a ray leaves the mesh for good (Möller and Trumbore 1997).

    The last crossing, not the first: inside the head and the mouth there may be other surfaces.
    """
    direction = np.asarray(toward)
    a, b, c = (skin[faces[:, k]] for k in range(3))
    p = np.cross(direction, c - a)
    scale = np.einsum("fx,fx->f", b - a, p)
    scale = np.where(np.abs(scale) < 1e-14, np.nan, scale)
    u = np.einsum("fx,fx->f", origin - a, p) / scale
    q = np.cross(origin - a, b - a)
    v = q @ direction / scale
    t = np.einsum("fx,fx->f", c - a, q) / scale
    crossed = (u >= -1e-9) & (v >= -1e-9) & (u + v <= 1 + 1e-9) & (t > 0)
    if not crossed.any():
        return None
    face = int(np.argmax(np.where(crossed, t, -np.inf)))
    corner = int(np.argmax([1 - u[face] - v[face], u[face], v[face]]))
    return int(faces[face, corner])


def _ring(faces: np.ndarray, vertex: int) -> tuple[int, ...] | None:
    """Neighbours of a vertex in the faces' own order, or None where they form no closed ring."""
    follows = {}
    for face in faces[(faces == vertex).any(1)].tolist():
        at = face.index(vertex)
        follows[face[(at + 1) % 3]] = face[(at + 2) % 3]
    ring = [next(iter(follows))]
    while follows.get(ring[-1]) not in (None, ring[0]) and len(ring) <= len(follows):
        ring.append(follows[ring[-1]])
    return tuple(ring) if len(ring) == len(follows) and follows[ring[-1]] == ring[0] else None
