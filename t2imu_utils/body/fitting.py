"""Joints to SMPL pose, for many clips at once, and one motion on other bodies (Section III-B).

The paper uses joints2smpl (reference [27]), which optimises through the mesh, frame by frame. Here
the mesh is never touched: the shape follows from the bone lengths, once per skeleton, and the pose
of all frames from one batched least-squares problem (`pose_solver`).
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from t2imu_utils.body.pose_solver import calibrate, solve_pose
from t2imu_utils.body.smpl import Body, Shape
from t2imu_utils.body.smpl_files import BETAS, BONES
from t2imu_utils.body.table1 import BETA_LIMIT, betas_of
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.motion.rotations import matrix_to_axis_angle
from t2imu_utils.motion.skeleton import FEET, JOINTS, PARENTS, RATE

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


def fit(
    clips: Clips,
    body: Body,
    skeleton: str | None = None,
    iterations: int = 4,
    chunk_frames: int = 2048,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Clips:
    """Fit shape, pose and translation to the joints of all clips.

    Args:
        clips: array ``joints`` (F, 22, 3) in metres, Y up.
        body: the body whose bones are to follow; its mesh is not used.
        skeleton: column of the table that says which clips show the same skeleton and share one
            shape; None gives every clip its own, as a generated motion has its own bone lengths.
        iterations: Levenberg-Marquardt steps at most.
        chunk_frames: frames solved together; each thread works on one such
            chunk, which bounds the memory (about 120 kB a frame).

    Returns:
        The clips' table with ``beta_0`` to ``beta_9``, and arrays ``global_orient`` (F, 3),
        ``body_pose`` (F, 69), ``transl`` (F, 3), ``joint_error`` (F,) in metres, the mean over the
        22 joints. Rotation vectors follow each other without jumps of a whole turn.

    Raises `InputError`, naming the clip, on joints of a wrong shape or that are not finite.
    """
    joints = _checked(clips)
    bounds = clips.bounds
    betas, skeletons = (x.to(device) for x in _skeletons(clips, joints, body, skeleton))
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

    chunks = _chunks(bounds, chunk_frames)
    bar = tqdm(total=len(joints), desc="fit", unit="frame", mininterval=2, disable=not progress)
    with bar, _one_thread_each() as workers, ThreadPoolExecutor(workers) as pool:
        for done in as_completed([pool.submit(solve, *chunk) for chunk in chunks]):
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
    for start, stop in zip(clips.bounds[:-1], clips.bounds[1:], strict=True):
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

    `body` is the model that was fitted. Raises `InputError` for a frame that the clip has not.
    """
    frames = int(fit.table["frames"].iloc[0])
    if not 0 <= frame < frames:
        raise InputError(
            f"posed_skin: {_name(fit, 0)}, frame",
            f"{frame}",
            f"0 to {frames - 1}",
            "Choose a frame of the clip, or select a longer clip.",
        )
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
    steps: int = 15,
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
    for _ in range(steps):
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


def _checked(clips: Clips) -> Float[np.ndarray, "F 22 3"]:
    joints = clips.arrays.get("joints")
    if joints is None or joints.shape[1:] != (N, 3):
        found = "no such array" if joints is None else str(joints.shape)
        raise InputError("clips: joints", found, f"(F, {N}, 3)", "Give HumanML3D's 22 joints.")
    broken = ~np.isfinite(joints).all((1, 2))
    for i in np.flatnonzero(clips.table["frames"].to_numpy() == 0):
        raise InputError(_name(clips, i), "no frames", "at least one", "Leave the clip out.")
    if broken.any():
        frame = int(np.flatnonzero(broken)[0])
        clip = int(np.searchsorted(clips.bounds, frame, side="right")) - 1
        raise InputError(
            f"{_name(clips, clip)}: joints",
            f"NaN or infinity in frame {frame - clips.bounds[clip]}",
            "finite positions",
            "Leave the clip out or repair it.",
        )
    return joints.astype(np.float32, copy=False)


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Lend torch's threads to the chunks: thousands of 3 x 3 products do not share well."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def _name(clips: Clips, index: int) -> str:
    row = clips.table.iloc[index]
    return f"clip {row['name'] if 'name' in clips.table else index}"


def _skeletons(
    clips: Clips, joints: np.ndarray, body: Body, skeleton: str | None
) -> tuple[Float[Tensor, "n 10"], Float[Tensor, "n 3 22 3"]]:
    """Betas and skeleton (`pose_solver.solve_pose`) of every clip, from all frames of its skeleton.

    Betas follow median distances between joints. Where no shape has them, the joints are another
    skeleton's: the shape follows as far as people differ, and offsets are estimated.
    """
    groups = np.arange(len(clips))
    if skeleton is not None:
        groups = clips.table[skeleton].factorize()[0]
    per_frame = np.repeat(groups, clips.table["frames"])
    frames = np.split(np.argsort(per_frame, kind="stable"), np.cumsum(np.bincount(per_frame))[:-1])
    lengths = np.stack([np.median(_distances(joints[f], PAIRS), axis=0) for f in frames])
    betas = solve_shape(lengths, PAIRS, body)
    rest = body.rest_joints(torch.from_numpy(betas))[:, :N].numpy()
    misfit = np.sqrt(((_distances(rest, PAIRS) - lengths) ** 2).mean(1))
    foreign = np.flatnonzero(misfit > STANDARD)
    betas[foreign] = solve_shape(lengths[foreign], PAIRS, body, FOREIGN_SPREAD)
    rest = body.rest_joints(torch.from_numpy(betas))[:, :N].float()
    found = torch.stack((rest, 0 * rest, 0 * rest), dim=1)
    for group in foreign:
        own = frames[group]
        count = min(max(len(own) // 4, MOST // 4), MOST, len(own))
        own = own[np.linspace(0, len(own) - 1, count).astype(int)]
        found[group] = calibrate(torch.from_numpy(joints[own]), rest[group])
    return torch.from_numpy(betas)[groups], found[groups]


def _distances(joints: Float[np.ndarray, "F 22 3"], pairs: np.ndarray) -> np.ndarray:
    return np.linalg.norm(joints[:, pairs[:, 0]] - joints[:, pairs[:, 1]], axis=-1)


def _chunks(bounds: np.ndarray, frames: int) -> list[tuple[int, int]]:
    """Frame ranges of whole clips, of about `frames` each."""
    cuts = [0]
    for stop in bounds[1:]:
        if stop - cuts[-1] >= frames or stop == bounds[-1]:
            cuts.append(int(stop))
    return list(zip(cuts[:-1], cuts[1:], strict=True))


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
