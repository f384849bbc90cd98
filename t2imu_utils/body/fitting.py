"""Joints to SMPL pose, for many clips at once, and one motion on other bodies (Section III-B).

The paper uses joints2smpl (reference [27]), which optimises through the mesh, frame by frame. Here
the mesh is never touched: the shape follows from the bone lengths, once per skeleton, and the pose
of all frames from one batched least-squares problem.

`solve_pose` takes Gauss-Newton steps on rotations, damped (Levenberg-Marquardt). What joints leave
open (twist about a straight limb) a mild prior decides: knees and elbows are hinges, everything
else prefers rest and what it does shortly before and after. `calibrate` estimates with the poses
what stays constant: bones, and how far each given joint lies from the centre about which the body
turns, as biomechanics does for markers (Reinbolt et al. 2005, doi:10.1016/j.jbiomech.2004.05.040).
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from t2imu_utils.body.smpl import BETAS, BONES, Body, Shape, forward_kinematics
from t2imu_utils.body.table1 import BETA_LIMIT, betas_of
from t2imu_utils.clips import Clips
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
from t2imu_utils.motion.skeleton import FEET, JOINTS, PARENTS, RATE, check_joints
from t2imu_utils.runs import one_thread

N = len(JOINTS)
# Distances that a skeleton keeps although no bone spans them: pelvis and chest are rigid.
RIGID = ((1, 2), (1, 3), (2, 3), (13, 14), (12, 13), (12, 14))
PAIRS = np.array([(j, PARENTS[j]) for j in range(1, N)] + list(RIGID))
LEGS = (1, 2, 4, 5, 7, 8, 10, 11)  # joints from the hips to the feet, parents first
BETA_SPREAD = 0.003  # m of bone length that one unit of beta must earn
FOREIGN_SPREAD = 0.03  # m: the same for a skeleton that no shape has
STANDARD = 0.008  # m: a skeleton whose distances some shape has so closely needs no offsets
MOST = 96  # frames from which a skeleton is estimated
NO_TURN = 1e-6  # rad: a smaller rotation of float32 has no axis of its own but noise

# Bones that move a joint; toes, head and wrists end a chain and keep their rest rotation.
ACTIVE = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 16, 17, 18, 19)
CHILD = {1: 4, 2: 5, 3: 6, 4: 7, 5: 8, 6: 9, 7: 10, 8: 11, 12: 15, 13: 16, 14: 17}
CHILD |= {16: 18, 17: 19, 18: 20, 19: 21}
# Upper bone of a hinged limb -> (end of the limb, direction its lower bone swings to when bent).
LIMBS = {1: (7, (0, 0, -1)), 2: (8, (0, 0, -1)), 16: (20, (0, 0, 1)), 17: (21, (0, 0, 1))}

POSITION_SPREAD = 0.0015  # m: what one radian of prior spread is weighed against
TIME_SPREAD = 0.3  # rad between a frame and the mean of the SMOOTHING around it
SMOOTHING = 0.08  # s: standard deviation of that mean's Gaussian weights
OFFSET_SPREAD = 0.06  # m: how far joints of another skeleton may lie from ours
UPRIGHT = 0.03  # share of the height by which a person who stands may be lower than stretched out
STANDING_SPREAD = 0.15  # rad around rest of trunk, neck and legs in a person who stands
LOOSE = 2.0  # times their spread: what others may be while the skeleton is not known
CONVERGED = 0.003  # of the cost: a step that lowers it by less is the last
DOUBTFUL = 3.0  # times the median error of its clip: a frame that is tried again
CHUNK = 2048  # frames that a thread works on; they bound the memory (some 10 kB a frame)
BLOCK = 256  # frames solved together: some 30 MB
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
UP = [max(parent, 0) for parent in PARENTS]


def _constants() -> tuple[list[int], Float[Tensor, "54 3 22"]]:
    """What may differ in a skeleton: in which bone's frame each vector is, and what it shifts.

    First the bones, each of which shifts all joints after it. Then, of joints inside a chain, how
    far the given joint lies from the centre: in the frame of the bone above, and of the own bone.
    """
    single = torch.eye(N)
    after = single.clone()
    for joint in range(N - 1, 0, -1):
        after[PARENTS[joint]] += after[joint]
    parts = [(0, UP[joint], after[joint]) for joint in range(1, N)]
    parts += [(1, UP[joint], single[joint]) for joint in ACTIVE[1:]]
    parts += [(2, joint, single[joint]) for joint in ACTIVE]
    shifts = torch.zeros(len(parts), 3, N)
    for row, (kind, _, joints) in enumerate(parts):
        shifts[row, kind] = joints
    return [bone for _, bone, _ in parts], shifts


FRAME_OF, SHIFTS = _constants()
# (22, 17, 1): 1 where a joint hangs below an active bone; all hang below the pelvis.
BELOW = torch.cat((torch.ones(1, N), SHIFTS[: N - 1, 0]))[list(ACTIVE)].T[:, None].clone()
BELOW[ACTIVE, 0, range(len(ACTIVE))] = 0


def fit(
    clips: Clips,
    body: Body,
    foreign: bool = False,
    iterations: int = 4,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Clips:
    """Fit shape, pose and translation to the joints of all clips; each has bones of its own.

    Args:
        clips: array ``joints`` (F, 22, 3) in metres, Y up.
        body: the body whose bones are to follow; its mesh is not used.
        foreign: whether joints may be centimetres off the body's own, as other projects' are; their
            constant offsets are then estimated. Those of sampled motion are not: bones that stretch
            would be taken for offsets, and the posture lost.
        iterations: Levenberg-Marquardt steps at most.

    Returns:
        The clips' table with ``beta_0`` to ``beta_9``, and arrays ``global_orient`` (F, 3),
        ``body_pose`` (F, 69), ``transl`` (F, 3), ``joint_error`` (F,) in metres, the mean over the
        22 joints. Rotation vectors follow each other without jumps of a whole turn.
    """
    names = clips.table["name"] if "name" in clips.table else range(len(clips))
    for name, own in zip(names, clips.each("joints"), strict=True):
        check_joints(own, f"clip {name}", min_frames=1)
    joints = clips.arrays["joints"].astype(np.float32, copy=False)
    bounds = clips.bounds
    betas, skeletons = (x.to(device) for x in _skeletons(clips, body, foreign))
    rest = body.rest_joints(betas)[:, 0].float().to(device)
    betas, rate = betas.cpu().numpy(), clips.meta.get("rate", RATE)
    owner = np.repeat(np.arange(len(clips)), np.diff(bounds))
    rotations = np.zeros((len(joints), BONES, 3), np.float32)
    transl = np.zeros((len(joints), 3), np.float32)
    error = np.zeros(len(joints), np.float32)

    def solve(start: int, stop: int) -> int:
        clip = torch.from_numpy(owner[start:stop]).to(device)
        target = torch.from_numpy(joints[start:stop]).to(device)
        local, pelvis, distance = solve_pose(target, skeletons[clip], clip, rate, iterations)
        vectors = matrix_to_axis_angle(local).cpu().numpy()
        first = np.flatnonzero(np.diff(owner[start:stop], prepend=-1))
        rotations[start:stop, :N] = without_jumps(vectors, first)
        transl[start:stop] = (pelvis - rest[clip]).cpu().numpy()
        error[start:stop] = distance.cpu().numpy()
        return stop - start

    cuts = [0]  # of whole clips
    for stop in bounds[1:].tolist():
        if stop - cuts[-1] >= CHUNK or stop == bounds[-1]:
            cuts.append(stop)
    bar = tqdm(total=len(joints), desc="fit", unit="frame", mininterval=2, disable=not progress)
    # Torch's threads go to the chunks: thousands of 3 x 3 products do not share well.
    workers = torch.get_num_threads()
    with bar, one_thread(), ThreadPoolExecutor(workers) as pool:
        for done in as_completed([pool.submit(solve, *chunk) for chunk in pairwise(cuts)]):
            bar.update(done.result())
    table = clips.table.assign(**{f"beta_{i}": betas[:, i] for i in range(BETAS)})
    arrays = {
        "global_orient": rotations[:, 0],
        "body_pose": rotations[:, 1:].reshape(len(joints), -1),
        "transl": transl,
        "joint_error": error,
    }
    return Clips(table, arrays, {**clips.meta, "body": body.path.name})


def fitted_joints(fit: Clips, body: Body) -> Float[np.ndarray, "F 22 3"]:
    """The 22 joints in metres of a fit, each clip with its own shape."""
    betas = np.repeat(betas_of(fit.table), fit.table["frames"], axis=0)
    names = ("global_orient", "body_pose", "transl")
    return body.joints(betas, *(fit.arrays[name] for name in names))[:, :N].numpy()


def added_acceleration(
    fit: Clips, clips: Clips, body: Body, rate: float
) -> Float[np.ndarray, "clips"]:
    """RMS in m/s² over a clip's joints of the acceleration the fit adds to the given joints.

    Second difference of (fitted - given) times rate². A constant offset of a joint adds nothing.
    Clips of fewer than three frames give NaN.
    """
    difference = fitted_joints(fit, body) - clips.arrays["joints"]
    values = []
    for start, stop in pairwise(clips.bounds):
        second = np.diff(difference[start:stop], n=2, axis=0) * rate**2
        values.append(np.sqrt((second**2).sum(-1).mean()) if len(second) else np.nan)
    return np.array(values)


def fit_summary(fit: Clips, clips: Clips, body: Body) -> dict[str, float]:
    """How closely a fit follows the given joints: mean and worst clip, and what it adds."""
    error = np.array([1000 * e.mean() for e in fit.each("joint_error")])
    added = added_acceleration(fit, clips, body, clips.meta["rate"])
    return {
        "motions": len(fit),
        "frames": int(fit.table["frames"].sum()),
        "joint error (mm)": float(1000 * fit.arrays["joint_error"].mean()),
        "worst motion (mm)": float(error.max()),
        "added acceleration (m/s²)": float(np.nanmean(added)),
    }


def posed_skin(fit: Clips, body: Body, shape: Shape, frame: int) -> Float[np.ndarray, "V 3"]:
    """The whole mesh in metres of another person at one frame of the first clip of a fit.

    `body` is the model that was fitted.
    """
    pose = [fit.arrays[name][frame : frame + 1] for name in ("global_orient", "body_pose")]
    transl = pose_body(fit.select([0]), body, shape)[frame : frame + 1]
    every = np.arange(len(shape.body.model.v_template))
    return shape.body.vertices(every, shape.betas, *pose, transl)[0].numpy()


def pose_body(fit: Clips, body: Body, shape: Shape) -> Float[np.ndarray, "F 3"]:
    """Translation (F, 3) in metres that puts one other person through the motions of a fit.

    See `pose_bodies`, which is several times faster for several people.
    """
    return pose_bodies(fit, body, [shape])[0]


def pose_bodies(fit: Clips, body: Body, shapes: Sequence[Shape]) -> Float[np.ndarray, "N F 3"]:
    """Translations in metres that put other people through the same motions.

    `body` is the model that was fitted; a person may have another, as women and men have in
    SMPL. Pose stays as it is: rotations of the same bones. The pelvis path is scaled by the ratio
    of leg lengths (hip, knee, ankle, foot), so that strides fit the legs and planted feet stay
    planted; then each clip is shifted in height, by one constant, so that the lowest foot joint is
    as far above the floor (y = 0) as it was, scaled. A constant adds no acceleration.
    """
    frames = fit.table["frames"].to_numpy()
    betas = torch.tensor(betas_of(fit.table))
    rest_own = body.rest_joints(betas)
    shift = torch.as_tensor(fit.arrays["transl"], dtype=torch.float64)
    pelvis = shift + rest_own[:, 0].repeat_interleave(torch.tensor(frames), 0)
    # Rotations are those of every person: the feet follow from the lengths of the bones.
    rotations, joints = body.bone_transforms(
        betas.repeat_interleave(torch.tensor(frames), 0),
        *(fit.arrays[name] for name in ("global_orient", "body_pose", "transl")),
    )
    starts = fit.bounds[:-1][frames > 0]
    old = np.minimum.reduceat(joints[:, list(FEET), 1].numpy().min(1), starts)
    paths = np.empty((len(shapes), len(joints), 3), np.float32)
    for path, shape in zip(paths, shapes, strict=True):
        rest_new = shape.body.rest_joints(torch.tensor(np.asarray(shape.betas, float)))
        ratio = (_leg_length(rest_new) / _leg_length(rest_own)).numpy()
        moved = pelvis.numpy() * np.repeat(ratio, frames)[:, None]
        feet = _lowest_foot(rotations, rest_new.to(rotations)).numpy()
        lift = np.zeros(len(fit))
        lift[frames > 0] = ratio[frames > 0] * old - np.minimum.reduceat(moved[:, 1] + feet, starts)
        moved[:, 1] += np.repeat(lift, frames)
        path[:] = moved - rest_new[0].numpy()
    return paths


def solve_shape(
    lengths: Float[np.ndarray, "n P"],
    pairs: Int[np.ndarray, "P 2"],
    body: Body,
    spread: float = BETA_SPREAD,
) -> Float[np.ndarray, "n 10"]:
    """Betas whose distances in metres between pairs of rest joints come nearest to the given ones.

    Gauss-Newton on all skeletons at once, kept within |beta_i| < 5 and drawn mildly to zero.
    """
    goal = torch.as_tensor(lengths, dtype=torch.float64)
    zero = torch.zeros(1, BETAS, dtype=torch.float64)
    mean = body.rest_joints(zero)[0]
    change = body.rest_joints(torch.eye(BETAS, dtype=torch.float64)) - mean
    a, b = torch.as_tensor(pairs).T
    bone, slope = mean[a] - mean[b], (change[:, a] - change[:, b]).permute(1, 2, 0)
    betas = zero.repeat(len(goal), 1)
    damping = spread**2 * torch.eye(BETAS, dtype=torch.float64)
    for _ in range(15):
        vector = bone + torch.einsum("pxb,nb->npx", slope, betas)
        length = vector.norm(dim=-1)
        jacobian = torch.einsum("npx,pxb->npb", vector / length[..., None], slope)
        normal = jacobian.mT @ jacobian + damping
        gradient = (jacobian.mT @ (goal - length)[..., None])[..., 0] - spread**2 * betas
        betas = betas + torch.linalg.solve(normal, gradient)
        betas = betas.clamp(-BETA_LIMIT + 1e-3, BETA_LIMIT - 1e-3)
    return betas.numpy()


def without_jumps(
    vectors: Float[np.ndarray, "F J 3"], first: Sequence[int] | Int[np.ndarray, "clips"] = (0,)
) -> Float[np.ndarray, "F J 3"]:
    """Add whole turns so that rotation vectors (rad) follow each other within a clip.

    A vector v of angle a stands for the same rotation as v (1 + 2 pi k / a). One of no length has
    no axis of its own and takes that of the frame before, as a body that spins comes past it.

    Args:
        vectors: rotation vectors of all clips, one clip after the other.
        first: the first frame of each clip, in order, from 0.
    """
    vectors, first = vectors.copy(), np.asarray(first)
    last = np.append(first[1:], len(vectors))
    for step in range(1, int((last - first).max())):
        rows = (first + step)[first + step < last]
        now, previous = vectors[rows], vectors[rows - 1]
        angle = np.linalg.norm(now, axis=-1, keepdims=True)
        axis = np.where(angle > NO_TURN, now, previous)
        axis = axis / np.maximum(np.linalg.norm(axis, axis=-1, keepdims=True), NO_TURN)
        turns = np.round(((previous * axis).sum(-1, keepdims=True) - angle) / (2 * np.pi))
        vectors[rows] = now + 2 * np.pi * turns * axis
    return vectors


def _skeletons(
    clips: Clips, body: Body, foreign: bool
) -> tuple[Float[Tensor, "n 10"], Float[Tensor, "n 3 22 3"]]:
    """Betas and skeleton (`solve_pose`) of every clip, from all its frames.

    Betas follow median distances between joints. Where no shape has them, the joints are another
    skeleton's: the shape follows as far as people differ, and offsets are estimated.
    """
    joints = [own.astype(np.float32, copy=False) for own in clips.each("joints")]
    lengths = np.stack([np.median(_distances(own, PAIRS), axis=0) for own in joints])
    betas = solve_shape(lengths, PAIRS, body)
    rest = body.rest_joints(torch.from_numpy(betas))[:, :N].numpy()
    misfit = np.sqrt(((_distances(rest, PAIRS) - lengths) ** 2).mean(1))
    others = np.flatnonzero(misfit > STANDARD) if foreign else np.arange(0)
    betas[others] = solve_shape(lengths[others], PAIRS, body, FOREIGN_SPREAD)
    rest = body.rest_joints(torch.from_numpy(betas))[:, :N].float()
    found = torch.stack((rest, 0 * rest, 0 * rest), dim=1)
    for clip in others:
        own = joints[clip]
        count = min(max(len(own) // 4, MOST // 4), MOST, len(own))
        own = own[np.linspace(0, len(own) - 1, count).astype(int)]
        found[clip] = calibrate(torch.from_numpy(own), rest[clip])
    return torch.from_numpy(betas), found


def _distances(joints: Float[np.ndarray, "F 22 3"], pairs: np.ndarray) -> np.ndarray:
    return np.linalg.norm(joints[:, pairs[:, 0]] - joints[:, pairs[:, 1]], axis=-1)


def _leg_length(rest: Float[Tensor, "*B 24 3"]) -> Float[Tensor, "*B"]:
    chain = ((1, 4), (4, 7), (2, 5), (5, 8))
    bones = sum((rest[..., a, :] - rest[..., b, :]).norm(dim=-1) for a, b in chain)
    drop = rest[..., (7, 8), 1] - rest[..., (10, 11), 1]
    return (bones + drop.sum(-1)) / 2


def _lowest_foot(
    rotations: Float[Tensor, "F 24 3 3"], rest: Float[Tensor, "24 3"]
) -> Float[Tensor, "F"]:
    """Height in metres of the lowest foot joint, measured from the pelvis."""
    heights = {0: torch.zeros(len(rotations)).to(rest)}
    for joint in LEGS:
        parent = PARENTS[joint]
        heights[joint] = heights[parent] + rotations[:, parent, 1] @ (rest[joint] - rest[parent])
    return torch.stack([heights[joint] for joint in FEET]).amin(0)


def calibrate(
    target: Float[Tensor, "F 22 3"], rest: Float[Tensor, "22 3"]
) -> Float[Tensor, "3 22 3"]:
    """The skeleton behind frames of one person, as `solve_pose` takes it.

    Gauss-Newton on its constants and all poses at once, the poses eliminated frame by frame (Schur
    complement). Joints alone cannot tell a constant lean from another place of the joints. So
    constants are drawn to zero, and trunk and legs to rest in the frames that show a person who
    stands, as the static trial of a gait laboratory does.

    Args:
        target: joints in metres, Y up.
        rest: rest joints of the body, in metres.
    """
    frames, shifts = len(target), SHIFTS.to(target)
    base = torch.stack((rest, 0 * rest, 0 * rest))
    centre = target[:, :1]
    target = target - centre
    alone = torch.arange(frames, device=target.device)
    local, root, _ = solve_pose(target, base.expand(frames, -1, -1, -1), alone, 1.0, 3)
    root = root - rest[0]
    constants = torch.zeros(len(shifts), 3).to(target)
    weight = frames * (POSITION_SPREAD / OFFSET_SPREAD) ** 2
    stands = _standing(target)
    stands = stands / stands.mean().clamp(min=0.05)
    toward_rest, time = _weights(target)
    toward_rest = (toward_rest / LOOSE**2).repeat(frames, 1, 1)
    toward_rest[:, 1:11] += stands[:, None, None] * (POSITION_SPREAD / STANDING_SPREAD) ** 2
    damping, priors = 1e-3, (toward_rest, 0 * time, local[:, ACTIVE])

    def posed(local: Tensor, root: Tensor, constants: Tensor) -> tuple[tuple[Tensor, ...], float]:
        skeleton = base + torch.einsum("uks,ux->ksx", shifts, constants)
        state = _state(local, root, skeleton.expand(frames, -1, -1, -1))
        cost = _cost(target, local, state, *priors).sum() + weight * (constants**2).sum()
        return state, float(cost)

    state, cost = posed(local, root, constants)
    for _ in range(30):
        jacobian, residual, normal, gradient, _ = _equations(target, local, state, *priors)
        diagonal = torch.diagonal(normal, dim1=1, dim2=2)
        diagonal += damping * diagonal + 1e-6
        turned = state[0][:, FRAME_OF]
        effect = torch.einsum("us,fuxy->fsxuy", shifts.sum(1), turned).flatten(3).flatten(1, 2)
        factor = torch.linalg.cholesky(normal)
        cross = torch.linalg.solve_triangular(factor, jacobian.mT @ effect, upper=False)
        force = torch.linalg.solve_triangular(factor, gradient[..., None], upper=False)
        flat, through = effect.flatten(0, 1), cross.flatten(0, 1)
        normal = flat.mT @ flat
        diagonal = torch.diagonal(normal)
        diagonal += damping * diagonal + weight
        gradient = flat.mT @ residual.flatten() - through.mT @ force.flatten()
        normal -= through.mT @ through
        change = torch.linalg.solve(normal, gradient - weight * constants.flatten())
        step = torch.linalg.solve_triangular(factor.mT, force - cross @ change[:, None], upper=True)
        new = (*_moved(local, root, state[0], step[..., 0]), constants + change.view_as(constants))
        there, less = posed(*new)
        damping *= 0.3 if less < cost else 10
        if less < cost:
            ended = cost - less < CONVERGED * cost
            (local, root, constants), state, cost = new, there, less
            if ended:
                break
    return base + torch.einsum("uks,ux->ksx", shifts, constants)


def solve_pose(
    target: Float[Tensor, "F 22 3"],
    skeleton: Float[Tensor, "F 3 22 3"],
    clip: Int[Tensor, "F"],
    rate: float,
    iterations: int,
) -> tuple[Float[Tensor, "F 22 3 3"], Float[Tensor, "F 3"], Float[Tensor, "F"]]:
    """Local rotations, position of the pelvis (m) and mean joint error (m) of every frame.

    Args:
        target: joints to reach, in metres.
        skeleton: for each frame rest joints, and offsets (m) of the given joints from them in the
            frame of the bone above and of the joint's own bone.
        clip: number of the clip of each frame; frames of one clip follow each other.
        rate: frames per second.
        iterations: steps at most; a step that does not lower a frame's cost is not taken.
    """
    centre = target[:, :1]  # sums of squares lose digits far from the origin
    target = target - centre
    local = _analytic_start(target, skeleton[:, 0])
    root = target[:, 0] - skeleton[:, 0, 0]
    if skeleton[:, 1:].any():  # start again from where that pose puts the centres
        _, centres, given, *_ = _state(local, root, skeleton)
        local = _analytic_start(target - given + centres, skeleton[:, 0])
    else:
        skeleton = skeleton[:, :1]
    damping = torch.full((len(target),), 1e-6).to(target)
    rest, time = _weights(target)
    state = _state(local, root, skeleton)

    def keep(rows: Tensor | slice, better: Tensor, now: Sequence[Tensor | None]) -> None:
        for held, new in zip((local, root, *state), now, strict=True):
            if new is not None:
                chosen = better.view(-1, *[1] * (new.dim() - 1))
                held[rows] = torch.where(chosen, new, held[rows])

    def step(rows: Tensor | slice, mean: Tensor, time: Tensor) -> None:
        goal, bones, near = target[rows], skeleton[rows], (rest, time, mean[rows])
        turned, place = local[rows], root[rows]
        here = [x if x is None else x[rows] for x in state]
        _, _, normal, gradient, before = _equations(goal, turned, here, *near)
        diagonal = torch.diagonal(normal, dim1=1, dim2=2)
        diagonal += damping[rows, None] * diagonal + 1e-7
        factor, failed = torch.linalg.cholesky_ex(normal)
        change = torch.cholesky_solve(gradient[..., None], factor)[..., 0]
        change = torch.where((failed == 0)[:, None], change, torch.zeros_like(change))
        new = _moved(turned, place, here[0], change)
        there = _state(*new, bones)
        better = _cost(goal, new[0], there, *near) <= before
        damping[rows] *= torch.where(better, 0.1, 30.0)
        keep(rows, better, (*new, *there))

    def errors() -> Tensor:
        return (state[2] - target).norm(dim=-1).mean(1)

    every = [slice(start, start + BLOCK) for start in range(0, len(target), BLOCK)]
    for count in range(iterations):
        # Neighbours hold each other back from what the prior prefers, so they join in half way.
        joined = 2 * count >= iterations
        mean = _smooth(local[:, ACTIVE], clip, rate) if joined else local[:, ACTIVE]
        close = time if joined else 0 * time
        for rows in every:
            step(rows, mean, close)
    error = errors()
    lengths = torch.unique_consecutive(clip, return_counts=True)[1].tolist()
    usual = torch.cat([own.median().expand(len(own)) for own in error.split(lengths)])
    doubtful = torch.nonzero(error > DOUBTFUL * usual)[:, 0]
    if len(doubtful):
        mean = _smooth(local[:, ACTIVE], clip, rate, error)
        kept = [x if x is None else x[doubtful] for x in (local, root, *state)]
        again = local[doubtful]
        again[:, ACTIVE] = mean[doubtful]
        tried = again, root[doubtful]
        always = torch.ones(len(doubtful), dtype=torch.bool, device=target.device)
        keep(doubtful, always, (*tried, *_state(*tried, skeleton[doubtful])))
        damping[doubtful] = 1e-6
        for _ in range(iterations):
            for rows in doubtful.split(BLOCK):
                step(rows, mean, time)
        keep(doubtful, errors()[doubtful] > error[doubtful], kept)
        error = errors()
    pelvis = root + skeleton[:, 0, 0] + centre[:, 0]
    return quat_to_matrix(matrix_to_quat(local)), pelvis, error


def _smooth(
    local: Float[Tensor, "F 17 3 3"],
    clip: Int[Tensor, "F"],
    rate: float,
    error: Float[Tensor, "F"] | None = None,
) -> Float[Tensor, "F 17 3 3"]:
    """Mean rotations over the frames around, of the same clip, with Gaussian weights.

    error: weigh frames by its inverse square as well.
    """
    width = SMOOTHING * rate
    quats = matrix_to_quat(local)
    if error is not None:
        quats = quats / (error[:, None, None] + 1e-6) ** 2
    total = quats.clone()
    for lag in range(1, min(math.ceil(3 * width), len(clip) - 1) + 1):
        weight = math.exp(-0.5 * (lag / width) ** 2) * (clip[lag:] == clip[:-lag])
        early, late = quats[:-lag], quats[lag:]
        weight = weight[:, None, None] * (early * late).sum(-1, keepdim=True).sign()
        total[lag:] += weight * early
        total[:-lag] += weight * late
    return quat_to_matrix(total)


def _state(
    local: Float[Tensor, "F 22 3 3"],
    root: Float[Tensor, "F 3"],
    skeleton: Float[Tensor, "F 1|3 22 3"],
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """Rotations of the bones, their centres, the given joints, their offset by the own bone, and
    the rotation vectors of the active bones."""
    rotations, centres = forward_kinematics(local, skeleton[:, 0], PARENTS)
    centres, vectors = centres + root[:, None], matrix_to_axis_angle(local[:, ACTIVE])
    if skeleton.shape[1] == 1:  # the joints are the centres
        return rotations, centres, centres, None, vectors
    above, own = skeleton[:, 1:].unbind(1)
    own = (rotations @ own[..., None])[..., 0]
    given = centres + (rotations[:, UP] @ above[..., None])[..., 0] + own
    return rotations, centres, given, own, vectors


def _moved(
    local: Tensor, root: Tensor, rotations: Tensor, step: Float[Tensor, "F 54"]
) -> tuple[Tensor, Tensor]:
    """Pose after a step: translation, then a small rotation of each active bone in world axes."""
    step = step.unflatten(1, (3, -1))
    turn = step[..., 1:].mT
    turn = turn / (turn.norm(dim=-1, keepdim=True) / 0.8).clamp(min=1)
    turn = (_frames(rotations).mT @ turn[..., None])[..., 0]
    local = local.clone()
    local[:, ACTIVE] = axis_angle_to_matrix(turn) @ local[:, ACTIVE]
    return local, root + step[..., 0]


def _frames(rotations: Tensor) -> Float[Tensor, "F 17 3 3"]:
    """The frame that each active bone turns in: that of the bone above, and the world."""
    frames = rotations[:, [UP[bone] for bone in ACTIVE]]
    frames[:, 0] = torch.eye(3).to(frames)
    return frames


def _weights(like: Tensor) -> tuple[Tensor, Tensor]:
    """Prior weights (17, 3) toward rest and (17, 1) toward the frames around; 0 of the pelvis."""
    rows = [SPREAD[JOINTS[bone].split("_")[-1].rstrip("123")] for bone in ACTIVE[1:]]
    rest = (POSITION_SPREAD / torch.tensor([(math.inf,) * 3, *rows]).to(like)) ** 2
    time = torch.full((len(ACTIVE), 1), 2 * (POSITION_SPREAD / TIME_SPREAD) ** 2).to(like)
    time[0] = 0
    return rest, time


def _standing(joints: Float[Tensor, "F 22 3"]) -> Float[Tensor, "F"]:
    """How nearly each frame, 0 to 1, shows a person as high as trunk and legs are long."""
    legs = (joints[:, (4, 5, 7, 8)] - joints[:, (1, 2, 4, 5)]).norm(dim=-1).sum(1) / 2
    trunk = (joints[:, 12] - joints[:, (1, 2)].mean(1)).norm(dim=-1)
    height = joints[:, 12, 1] - joints[:, (7, 8), 1].mean(1)
    return torch.exp(-(((1 - height / (trunk + legs)) / UPRIGHT) ** 2))


def _cost(
    target: Tensor,
    local: Tensor,
    state: Sequence[Tensor | None],
    rest: Tensor,
    time: Tensor,
    mean: Tensor,
) -> Float[Tensor, "F"]:
    _, _, given, _, vectors = state
    away = _small_turn(mean @ local[:, ACTIVE].mT)
    prior = rest * vectors**2 + time * away**2
    return ((target - given) ** 2).sum((1, 2)) + prior.sum((1, 2))


def _equations(
    target: Tensor,
    local: Tensor,
    state: Sequence[Tensor | None],
    rest: Tensor,
    time: Tensor,
    mean: Tensor,
) -> tuple[Tensor, ...]:
    """Jacobian (F, 66, 54), residual (F, 66), J^T J and J^T r with the priors, and the cost (F,).

    Unknowns, for each of the world's axes: translation along it, then for each active bone a small
    rotation about it, around the bone's centre.
    """
    rotations, centres, given, own, vectors = state
    arm = BELOW.to(target) * (given[..., None] - centres[:, ACTIVE].mT[:, None])
    if own is not None:
        arm[:, ACTIVE, :, range(len(ACTIVE))] = own[:, ACTIVE].movedim(1, 0)
    system = target.new_zeros(len(target), N, 3, 3 * (1 + len(ACTIVE)) + 1)
    columns = system[..., :-1].unflatten(-1, (3, -1))
    columns[..., 0] = torch.eye(3).to(target)
    for x, y, z in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):  # turns cross arms
        columns[:, :, x, y, 1:] = arm[:, :, z]
        columns[:, :, y, x, 1:] = -arm[:, :, z]
    system[..., -1] = target - given
    system = system.flatten(1, 2)
    jacobian, residual = system[..., :-1], system[..., -1]
    products = jacobian.mT @ system
    normal, gradient = products[..., :-1], products[..., -1]

    # A small turn d of the world turns the rotation vector by inverse_jacobian @ frame^T d.
    frames = _frames(rotations).mT
    slope = _inverse_jacobian(vectors) @ frames
    away = _small_turn(mean @ local[:, ACTIVE].mT)
    blocks = slope.mT @ (rest[..., None] * slope) + torch.diag_embed(time.expand(-1, 3))
    pull = frames.mT @ (time * away)[..., None] - slope.mT @ (rest * vectors)[..., None]
    gradient.unflatten(1, (3, -1))[..., 1:] += pull[..., 0].mT
    tiles = normal.unflatten(2, (3, -1)).unflatten(1, (3, -1))
    torch.diagonal(tiles, dim1=2, dim2=4)[..., 1:] += blocks.movedim(1, -1)
    cost = (residual**2).sum(1) + (rest * vectors**2 + time * away**2).sum((1, 2))
    return jacobian, residual, normal, gradient, cost


def _small_turn(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3"]:
    """The rotation vector of a small rotation (of any, its axis times the sine of its angle)."""
    odd = 0.5 * (matrix - matrix.mT)
    return torch.stack((odd[..., 2, 1], odd[..., 0, 2], odd[..., 1, 0]), dim=-1)


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
