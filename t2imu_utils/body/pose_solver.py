"""The pose of a skeleton from its joints: an analytic start and Levenberg-Marquardt steps.

The start swings every bone onto its joint. The steps refine all frames together; their normal
equations are written down from the kinematic tree, so neither a graph nor a Jacobian is built.
Where joints alone leave a rotation open (twist about a straight limb) a mild prior decides: knees
and elbows are hinges, everything else prefers rest, and neighbouring frames prefer each other.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from t2imu_utils.body.smpl import forward_kinematics
from t2imu_utils.motion.rotations import (
    axis_angle_to_matrix,
    axis_angle_to_quat,
    matrix_to_axis_angle,
    matrix_to_quat,
    quat_between,
    quat_inverse,
    quat_multiply,
    quat_rotate,
    quat_to_matrix,
)
from t2imu_utils.motion.skeleton import JOINTS, PARENTS

N = len(JOINTS)
# Bones that move a joint; toes, head and wrists end a chain and keep their rest rotation.
ACTIVE = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 16, 17, 18, 19)
CHILD = {1: 4, 2: 5, 3: 6, 4: 7, 5: 8, 6: 9, 7: 10, 8: 11, 12: 15, 13: 16, 14: 17}
CHILD |= {16: 18, 17: 19, 18: 20, 19: 21}
# Upper bone of a hinged limb -> (end of the limb, direction its lower bone swings to when bent).
LIMBS = {1: (7, (0, 0, -1)), 2: (8, (0, 0, -1)), 16: (20, (0, 0, 1)), 17: (21, (0, 0, 1))}

POSITION_SPREAD = 0.0015  # m: what one radian of prior spread is weighed against
TIME_SPREAD = 0.15  # rad between a frame and the mean of its neighbours
# Prior spread (rad) of each rotation vector's x, y, z around rest; axes are SMPL's, X to the left.
SPREAD = {
    "hip": (2.0, 0.5, 2.0),  # y: twist
    "knee": (4.0, 0.3, 0.15),  # x: the hinge
    "ankle": (1.0, 0.4, 0.4),
    "spine": (0.5, 0.3, 0.5),
    "neck": (0.6, 0.2, 0.6),
    "collar": (0.2, 0.3, 0.3),
    "shoulder": (0.5, 2.0, 2.0),  # x: twist
    "elbow": (0.4, 4.0, 0.15),  # y: the hinge
}


def solve_pose(
    target: Float[Tensor, "F 22 3"],
    rest: Float[Tensor, "F 22 3"],
    clip: Int[Tensor, "F"],
    iterations: int,
) -> tuple[Float[Tensor, "F 22 3 3"], Float[Tensor, "F 3"], Float[Tensor, "F"]]:
    """Local rotations, SMPL translation (m) and mean joint error (m) of every frame.

    Args:
        target: joints to reach, in metres.
        rest: rest joints of the body that each frame shows.
        clip: number of the clip of each frame; frames of one clip follow each other.
        iterations: steps at most; a step that does not lower a frame's cost is not taken.
    """
    frames, device = len(target), target.device
    active = torch.tensor(ACTIVE, device=device)
    parent = torch.tensor([PARENTS[j] for j in ACTIVE], device=device)
    toward_rest, between_frames = _spreads(target)
    below = _subtrees(target)
    index = torch.arange(frames, device=device)
    before, after = (index - 1).clamp(min=0), (index + 1).clamp(max=frames - 1)
    before = torch.where(clip[before] == clip, before, index)
    after = torch.where(clip[after] == clip, after, index)

    centre = target[:, :1]  # sums of squares lose digits far from the origin
    target = target - centre
    local = _analytic_start(target, rest)
    root = target[:, 0] - rest[:, 0]
    damping = torch.full((frames,), 1e-6).to(target)
    eye = torch.eye(3).to(target)

    def state(local: Tensor, root: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rotations, joints = forward_kinematics(local, rest, PARENTS)
        return rotations, joints + root[:, None], matrix_to_axis_angle(local[:, active])

    def cost(joints: Tensor, vectors: Tensor, mean: Tensor, toward_mean: Tensor) -> Tensor:
        prior = toward_rest * vectors**2 + toward_mean * (vectors - mean) ** 2
        return ((target - joints) ** 2).sum((1, 2)) + prior.sum((1, 2))

    rotations, joints, vectors = state(local, root)
    for count in range(iterations):
        # Neighbours hold each other back from what the prior prefers, so they join in half way.
        toward_mean = between_frames if 2 * count >= iterations else 0 * between_frames
        # Half way to the neighbours' mean, at twice the weight: all frames move at once, and
        # aiming at the mean itself would let odd and even frames swap places for ever.
        mean = 0.5 * vectors + 0.25 * (vectors[before] + vectors[after])
        frame = rotations[:, parent]
        frame[:, 0] = eye
        normal, gradient = _normal_equations(joints, target, below)
        # A small turn d of the world turns the rotation vector by inverse_jacobian @ frame^T d.
        slope = _inverse_jacobian(vectors) @ frame.mT
        weight = toward_rest + toward_mean
        blocks = slope.mT @ (weight[..., None] * slope)
        pull = toward_mean * (mean - vectors) - toward_rest * vectors
        gradient[:, 3:] += (slope.mT @ pull[..., None]).flatten(1)
        rows = 3 + torch.arange(3 * len(ACTIVE), device=device).view(-1, 3)
        normal[:, rows[:, :, None], rows[:, None, :]] += blocks
        diagonal = torch.diagonal(normal, dim1=1, dim2=2)
        diagonal += damping[:, None] * diagonal + 1e-7
        factor, failed = torch.linalg.cholesky_ex(normal)
        step = torch.cholesky_solve(gradient[..., None], factor)[..., 0]
        step = torch.where((failed == 0)[:, None], step, torch.zeros_like(step))
        turn = step[:, 3:].view(frames, -1, 3)
        turn = turn / (turn.norm(dim=-1, keepdim=True) / 0.8).clamp(min=1)
        new_local = local.clone()
        turn = (frame.mT @ turn[..., None])[..., 0]
        new_local[:, active] = axis_angle_to_matrix(turn) @ local[:, active]
        new_root = root + step[:, :3]
        new = state(new_local, new_root)
        before_step = cost(joints, vectors, mean, toward_mean)
        better = cost(new[1], new[2], mean, toward_mean) <= before_step
        damping = torch.where(better, damping / 10, damping * 30)
        root = torch.where(better[:, None], new_root, root)
        local = torch.where(better[:, None, None, None], new_local, local)
        rotations = torch.where(better[:, None, None, None], new[0], rotations)
        joints = torch.where(better[:, None, None], new[1], joints)
        vectors = torch.where(better[:, None, None], new[2], vectors)
    error = (joints - target).norm(dim=-1).mean(1)
    return quat_to_matrix(matrix_to_quat(local)), root + centre[:, 0], error


def _spreads(like: Tensor) -> tuple[Tensor, Tensor]:
    """Prior weights (17, 3) toward rest, and (17, 1) between neighbouring frames; 0 for pelvis."""
    rows = [(float("inf"),) * 3]
    for bone in ACTIVE[1:]:
        rows.append(SPREAD[JOINTS[bone].split("_")[-1].rstrip("123")])
    rest = (POSITION_SPREAD / torch.tensor(rows).to(like)) ** 2
    time = torch.full((len(ACTIVE), 1), 2 * (POSITION_SPREAD / TIME_SPREAD) ** 2).to(like)
    time[0] = 0
    return rest, time


def _subtrees(like: Tensor) -> Float[Tensor, "17 22"]:
    """1 where a joint hangs below an active bone (or is its own)."""
    below = torch.zeros(len(ACTIVE), N).to(like)
    for joint in range(N):
        ancestor = joint
        while ancestor >= 0:
            if ancestor in ACTIVE:
                below[ACTIVE.index(ancestor), joint] = 1
            ancestor = PARENTS[ancestor]
    return below


def _normal_equations(
    joints: Float[Tensor, "F 22 3"], target: Float[Tensor, "F 22 3"], below: Tensor
) -> tuple[Float[Tensor, "F 54 54"], Float[Tensor, "F 54"]]:
    """J^T J (lower half) and J^T r of the joint positions, without forming J.

    Unknowns: translation, then for each active bone a small rotation of all below it about its
    joint, in world axes. With v = joint - pivot the block of pivots a above b is the sum below b of
    (v_a . v_b) 1 - v_a v_b^T, which follows from three moments of the subtree: count, sum, and
    sum of outer products.
    """
    frames, device = len(joints), joints.device
    pivots = joints[:, ACTIVE]
    residual = target - joints
    count = below.sum(1)
    first = torch.einsum("ak,fkx->fax", below, joints)
    outer = (joints[..., None] * joints[..., None, :]).flatten(2)
    second = torch.einsum("ak,fkm->fam", below, outer).unflatten(-1, (3, 3))

    pairs = [(a, b) for b in range(len(ACTIVE)) for a in range(b + 1) if below[a, ACTIVE[b]]]
    a, b = torch.tensor(pairs, device=device).T
    pa, pb, sb = pivots[:, a], pivots[:, b], first[:, b]
    reach = count[b][:, None] * pb - sb
    moment = second[:, b] - sb[..., None] * pb[..., None, :] + pa[..., None] * reach[..., None, :]
    blocks = -moment
    torch.diagonal(blocks, dim1=-2, dim2=-1).add_(
        torch.diagonal(moment, dim1=-2, dim2=-1).sum(-1, keepdim=True)
    )
    size = 3 + 3 * len(ACTIVE)
    normal = torch.zeros(frames, size, size, dtype=joints.dtype, device=device)
    axis = torch.arange(3, device=device)
    normal[:, (3 + 3 * b)[:, None, None] + axis[:, None], (3 + 3 * a)[:, None, None] + axis] = (
        blocks
    )
    arm = first - count[:, None] * pivots
    normal[:, 3:, :3] = _cross_matrix(arm).flatten(1, 2)
    torch.diagonal(normal, dim1=1, dim2=2)[:, :3] = N

    force = torch.einsum("ak,fkx->fax", below, residual)
    torque = torch.einsum("ak,fkx->fax", below, torch.linalg.cross(joints, residual))
    torque = torque - torch.linalg.cross(pivots, force)
    return normal, torch.cat((residual.sum(1), torque.flatten(1)), dim=1)


def _cross_matrix(v: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack((o, -z, y, z, o, -x, -y, x, o), dim=-1).unflatten(-1, (3, 3))


def _inverse_jacobian(v: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """d log(exp(d) exp(v)) / d d at d = 0, the inverse left Jacobian of SO(3)."""
    square = (v * v).sum(-1)[..., None, None]
    small = square < 1e-4
    angle = torch.where(small, torch.ones_like(square), square).sqrt()
    exact = 1 / angle**2 - (1 + torch.cos(angle)) / (2 * angle * torch.sin(angle))
    k = _cross_matrix(v)
    eye = torch.eye(3, device=v.device, dtype=v.dtype)
    return eye - 0.5 * k + torch.where(small, 1 / 12 + square / 720, exact) * (k @ k)


def _frame(lateral: Float[Tensor, "F 3"], up: Float[Tensor, "F 3"]) -> Float[Tensor, "F 3 3"]:
    """Right-handed frame with X along `lateral` and Y as near to `up` as it can be."""
    x = torch.nn.functional.normalize(lateral, dim=-1)
    z = torch.nn.functional.normalize(torch.linalg.cross(x, up), dim=-1)
    return torch.stack((x, torch.linalg.cross(z, x), z), dim=-1)


def _analytic_start(
    target: Float[Tensor, "F 22 3"], rest: Float[Tensor, "F 22 3"]
) -> Float[Tensor, "F 22 3 3"]:
    """Local rotations that point every bone at its joint.

    Pelvis and chest from three points; every other bone by the shortest swing from its parent's
    frame. Thigh and upper arm then turn about themselves toward the plane in which the lower bone
    is bent, more so the more it is bent, so that the turn fades out smoothly at a straight limb.
    """

    def ends(joints: Tensor, left: int, right: int, top: int, base: Tensor) -> Tensor:
        return _frame(joints[:, left] - joints[:, right], joints[:, top] - base)

    turned: dict[int, Tensor] = {}
    for bone in ACTIVE:
        if bone in (0, 9):
            left, right, top = (1, 2, 3) if bone == 0 else (16, 17, 12)
            bases = [x[:, (1, 2)].mean(1) if bone == 0 else x[:, 9] for x in (target, rest)]
            now = ends(target, left, right, top, bases[0])
            turned[bone] = matrix_to_quat(now @ ends(rest, left, right, top, bases[1]).mT)
            continue
        child, above = CHILD[bone], turned[PARENTS[bone]]
        own = rest[:, child] - rest[:, bone]
        swing = quat_between(quat_rotate(above, own), target[:, child] - target[:, bone])
        turned[bone] = quat_multiply(swing, above)
        if bone in LIMBS:
            end, bent = LIMBS[bone]
            along = torch.nn.functional.normalize(own, dim=-1)
            flex = torch.tensor(bent, dtype=own.dtype, device=own.device)
            flex = flex - (along * flex).sum(-1, keepdim=True) * along
            lower = quat_rotate(quat_inverse(turned[bone]), target[:, end] - target[:, child])
            lower = torch.nn.functional.normalize(lower, dim=-1)
            flex = torch.nn.functional.normalize(flex, dim=-1)
            side = (lower * torch.linalg.cross(along, flex)).sum(-1)
            angle = torch.atan2(side, (lower * flex).sum(-1))
            bend = 1 - (lower * along).sum(-1)
            # Bent the wrong way (a straight limb, and noise) there is no side to turn to.
            fade = ((math.pi - angle.abs()) / (math.pi - 2)).clamp(max=1)
            twist = angle * fade * bend / (bend + 0.1)
            turned[bone] = quat_multiply(turned[bone], axis_angle_to_quat(twist[:, None] * along))
    local = torch.eye(3, dtype=rest.dtype, device=rest.device).repeat(len(rest), N, 1, 1)
    for bone in ACTIVE:
        q = turned[bone]
        if bone:
            q = quat_multiply(quat_inverse(turned[PARENTS[bone]]), q)
        local[:, bone] = quat_to_matrix(q)
    return local
