"""HumanML3D's 263-d representation of a motion, both ways, and its z-scores (Guo et al. 2022).

Frames are 20 a second. N + 1 frames of joints give N rows of features: row t holds the pose of
frame t and what happens on the way to frame t + 1, seen in the *facing frame*, in which the heading
(smoothed over about a second) points along +Z.

HumanML3D's code exists in two versions that differ in blemishes; `convention` chooses:

- ``"reference"`` equals the golden vectors: 1e-4 is added to the third vector component of every
  shortest-arc quaternion. That tilts poses by about 1e-4 rad, more between opposite directions.
- ``"dataset"`` equals the published feature files: no such tilt, but the heading of frame 0 is left
  unturned while all others are turned, so row 0 holds a jump of heading.
- ``"clean"`` has neither, and mends what both share: where the heading passes -Z its quaternion
  changes sign and one frame turns the wrong way, so that the recovered path has a kink. Take it for
  a corpus of one's own; away from those frames it equals the other two.

One more is kept always, because it defines the heading that pre-trained models know: the axes of
hips and shoulders are subtracted, not added, when the heading is smoothed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.fft import dct
from torch import Tensor

from t2imu_utils.errors import InputError
from t2imu_utils.motion.rotations import (
    matrix_to_rot6d,
    quat_between,
    quat_inverse,
    quat_multiply,
    quat_rotate,
    quat_to_matrix,
)
from t2imu_utils.motion.skeleton import (
    FEET,
    JOINTS,
    MIRROR,
    PARENTS,
    RAW_OFFSETS,
    Joints,
    bone_lengths,
    check_joints,
)
from t2imu_utils.motion.skeleton import RATE as RATE

WIDTH = 263
MIN_FRAMES = 3

ROOT_ROTATION = slice(0, 1)  # half of the turn about Y to the next frame, rad
ROOT_VELOCITY = slice(1, 3)  # X and Z step to the next frame, m per frame
ROOT_HEIGHT = slice(3, 4)  # m above the floor
POSITIONS = slice(4, 67)  # 21 joints, X and Z from the root, Y from the floor, m
ROTATIONS = slice(67, 193)  # 21 local rotations, 6D
VELOCITIES = slice(193, 259)  # 22 joints, m per frame
CONTACTS = slice(259, 263)  # left ankle, left toe, right ankle, right toe: 1 = at rest
GROUPS = ROOT_ROTATION, ROOT_VELOCITY, ROOT_HEIGHT, POSITIONS, ROTATIONS, VELOCITIES, CONTACTS

CONTACT_THRESHOLD = 0.002  # squared step of a resting foot, m^2 per frame^2
HEADING_SMOOTHING = 20.0  # standard deviation, frames
NUDGE = 1e-4  # the tilt of the "reference" convention

_LEFT_HIP, _RIGHT_HIP, _LEFT_SHOULDER, _RIGHT_SHOULDER = 1, 2, 16, 17
# HumanML3D starts both arm chains from the root: a collar's rotation is relative to the heading.
_ROTATION_PARENTS = [0 if joint in (13, 14) else PARENTS[joint] for joint in range(1, 22)]
_UP = np.array([0.0, 1.0, 0.0])
_AHEAD = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)

Array = TypeVar("Array", np.ndarray, Tensor)
Convention = Literal["reference", "dataset", "clean"]


def mirror_joints(joints: Array) -> Array:
    """Swap left and right of joints (..., 22, 3): x to -x and each joint to its twin."""
    swapped = joints[..., list(MIRROR), :]
    sign = [-1.0, 1.0, 1.0]
    if isinstance(joints, Tensor):
        return swapped * joints.new_tensor(sign)
    return swapped * np.asarray(sign, dtype=joints.dtype)


def uniform_skeleton(
    joints: Joints, target_offsets: Float[np.ndarray, "22 3"], convention: Convention = "reference"
) -> Joints:
    """Retarget onto another body: every bone keeps its direction and takes the target's length.

    The path of the root is scaled by the ratio of leg lengths (thigh and shank of frame 0), so that
    a stride suits the legs. `target_offsets` are rest-pose offsets in metres
    (`skeleton.bone_offsets`). Returns float64.
    """
    joints = joints.astype(np.float64)
    target = np.asarray(target_offsets, dtype=np.float64)
    leg = bone_lengths(joints[0])[[5, 8]].sum()
    target_leg = np.abs(target[[5, 8]]).max(axis=-1).sum()
    root = joints[:, 0] * (target_leg / leg)
    bones = quat_rotate(_bone_rotations(joints, convention), torch.from_numpy(target[1:])).numpy()
    moved = np.empty_like(joints)
    moved[:, 0] = root
    for joint in range(1, 22):
        moved[:, joint] = moved[:, PARENTS[joint]] + bones[:, joint - 1]
    return moved


def process_joints(
    joints: Joints,
    target_offsets: Float[np.ndarray, "22 3"] | None = None,
    convention: Convention = "reference",
) -> Joints:
    """Bring a motion into HumanML3D's frame: metres, float64.

    Retargeted (unless `target_offsets` is None: then the body stays its own), lowest point of the
    clip at y = 0, root of frame 0 at x = z = 0, body of frame 0 facing +Z.

    Raises:
        InputError: not (T >= 3, 22, 3), not finite, or no facing direction at frame 0.
    """
    check_joints(joints, "process_joints", MIN_FRAMES)
    joints = joints.astype(np.float64)
    if target_offsets is not None:
        joints = uniform_skeleton(joints, target_offsets, convention)
    origin = joints[0, 0] * [1.0, 0.0, 1.0]
    origin[1] = joints[..., 1].min()
    joints = joints - origin
    forward = _forward(joints[:1], hips=1.0)
    if np.linalg.norm(forward) < 1e-6:
        raise InputError(
            "process_joints: joints", "hips and shoulders one above the other at frame 0",
            "a body whose facing direction is defined at frame 0",
            "Start the clip a few frames earlier or later.",
        )  # fmt: skip
    turn = _shortest_arc(torch.from_numpy(forward), _AHEAD, convention)
    return quat_rotate(turn[:, None], torch.from_numpy(joints)).numpy()


def joints_to_features(
    joints: Float[np.ndarray, "T+1 22 3"],
    target_offsets: Float[np.ndarray, "22 3"] | None = None,
    convention: Convention = "reference",
) -> Float[np.ndarray, "T 263"]:
    """Features (float32, not normalised) of joints in metres, Y up, 20 frames a second.

    With `target_offsets` the motion is first retargeted onto that body, as HumanML3D does; with
    None the body keeps its own bone lengths.

    Raises:
        InputError: not (T + 1 >= 3, 22, 3), not finite, two joints of a bone in one place, or no
            facing direction at frame 0.
    """
    return processed_to_features(process_joints(joints, target_offsets, convention), convention)


def processed_to_features(
    processed: Float[np.ndarray, "T+1 22 3"], convention: Convention = "reference"
) -> Float[np.ndarray, "T 263"]:
    """The second half of `joints_to_features`, for joints that `process_joints` returned."""
    joints = torch.from_numpy(processed.astype(np.float64))
    bones = _bone_rotations(processed, convention)
    heading = _heading(processed, convention)
    inverse = quat_inverse(torch.cat((heading[:, None], bones), dim=1)[:, _ROTATION_PARENTS])
    rotations = matrix_to_rot6d(quat_to_matrix(quat_multiply(inverse, bones)))

    step = joints[1:] - joints[:-1]
    turn = quat_multiply(heading[1:], quat_inverse(heading[:-1]))
    if convention == "clean":
        turn = torch.where(turn[:, :1] < 0, -turn, turn)
    level = joints.new_tensor([1.0, 0.0, 1.0])
    local = quat_rotate(heading[:, None], joints - joints[:, :1] * level)
    features = (
        torch.asin(turn[:, 2:3].clamp(-1.0, 1.0)),
        quat_rotate(heading[1:], step[:, 0])[:, [0, 2]],
        local[:-1, 0, 1:2],
        local[:-1, 1:].flatten(1),
        rotations[:-1].flatten(1),
        quat_rotate(heading[:-1, None], step).flatten(1),
        (step[:, FEET].square().sum(-1) < CONTACT_THRESHOLD).to(step),
    )
    return torch.cat(features, dim=1).numpy().astype(np.float32)


def features_to_joints(features: Array, velocity_weight: ArrayLike = 0.0) -> Array:
    """Joints (..., T, 22, 3) in metres of features (..., T, 263), not normalised.

    Differentiable; NumPy in, NumPy out. The path is integrated from the root's velocities and
    starts at x = z = 0 with the *smoothed* heading along +Z, so it differs from the processed
    joints by a constant turn about Y. Rotations and contacts are not used.

    Features hold every joint twice: where it is, q_t, and its step to the next frame, v_t. In a
    recording the two agree; in a sampled motion they do not, and independent errors of the
    positions of neighbouring frames are large accelerations. Joints are the p_t that minimise

        Σ |p_t - q_t|² + w Σ |p_t+1 - p_t - v_t|²

    Args:
        velocity_weight: w, one number or one a joint (22,), not negative. 0 reads the positions
            alone, as HumanML3D's code does; the best for a model is the ratio of the error
            variances of its positions and velocities (`velocity_weights`).
    """
    if isinstance(features, np.ndarray):
        rows = torch.from_numpy(np.ascontiguousarray(features))
        return features_to_joints(rows, velocity_weight).numpy()
    # A row describes the way to the next frame, so a frame has what the rows before it sum up to.
    before = torch.nn.functional.pad(features[..., :-1, :3], (0, 0, 1, 0))
    angle = 2.0 * torch.cumsum(before[..., ROOT_ROTATION], dim=-2)
    cos, sin = angle.cos(), angle.sin()

    x, z = before[..., 1:2], before[..., 2:]
    root_x = torch.cumsum(cos * x - sin * z, dim=-2)
    root_z = torch.cumsum(sin * x + cos * z, dim=-2)

    local = features[..., POSITIONS].unflatten(-1, (21, 3))
    x, y, z = local.unbind(-1)
    body = torch.stack((cos * x - sin * z + root_x, y, sin * x + cos * z + root_z), dim=-1)
    root = torch.stack((root_x, features[..., ROOT_HEIGHT], root_z), dim=-1)
    positions = torch.cat((root, body), dim=-2)
    if not np.any(velocity_weight):
        return positions
    x, y, z = features[..., VELOCITIES].unflatten(-1, (22, 3)).unbind(-1)
    steps = torch.stack((cos * x - sin * z, y, sin * x + cos * z), dim=-1)
    return _agreeing(positions, steps, velocity_weight)


def _agreeing(
    positions: Float[Tensor, "*b T 22 3"], steps: Float[Tensor, "*b T 22 3"], weight: ArrayLike
) -> Float[Tensor, "*b T 22 3"]:
    """The minimum in `features_to_joints`: p = q + (1 + w DᵀD)⁻¹ w Dᵀ (v - Dq), D the difference
    of neighbouring frames. Cosines (the DCT-II) are the eigenvectors of DᵀD."""
    basis, stiffness = _cosines(positions.shape[-3])
    weight = np.broadcast_to(np.asarray(weight, dtype=np.float64), 22)
    gain = weight / (1 + weight * stiffness[:, None])
    gain[0] = 0.0  # steps say nothing of the mean
    cosines = positions.new_tensor(basis)
    apart = steps[..., :-1, :, :] - positions.diff(dim=-3)
    pull = -torch.nn.functional.pad(apart, (0, 0, 0, 0, 1, 1)).diff(dim=-3)
    change = torch.einsum("kt,...tjc->...kjc", cosines, pull)
    change = change * positions.new_tensor(gain)[..., None]
    return positions + torch.einsum("kt,...kjc->...tjc", cosines, change)


@lru_cache(maxsize=32)
def _cosines(frames: int) -> tuple[Float[np.ndarray, "T T"], Float[np.ndarray, "T"]]:
    """Eigenvectors (rows) and eigenvalues of DᵀD (Strang 1999, The discrete cosine transform)."""
    return dct(np.eye(frames), axis=0, norm="ortho"), 2 - 2 * np.cos(
        np.pi * np.arange(frames) / frames
    )


def velocity_weights(
    predicted: Sequence[Float[np.ndarray, "T 263"]], true: Sequence[Float[np.ndarray, "T 263"]]
) -> Float[np.ndarray, "22"]:
    """Error variance of positions by that of velocities, for each joint (`features_to_joints`).

    Both in the facing frame; of the root's position only the height is read, since its path is
    integrated.

    Args:
        predicted: a model's guesses of motions, raw features. true: these motions.
    """
    square = sum(
        ((a - b).astype(np.float64) ** 2).sum(0) for a, b in zip(predicted, true, strict=True)
    )
    body, steps = square[POSITIONS].reshape(21, 3), square[VELOCITIES].reshape(22, 3)
    position = np.concatenate((square[ROOT_HEIGHT], body.mean(1)))
    return position / steps.mean(1)


def _forward(joints: Joints, hips: float) -> Float[np.ndarray, "T 3"]:
    """Level direction in front of the body, not normalised; `hips` weighs the hip axis by +-1."""
    across = hips * (joints[:, _RIGHT_HIP] - joints[:, _LEFT_HIP])
    across = across + joints[:, _RIGHT_SHOULDER] - joints[:, _LEFT_SHOULDER]
    length = np.linalg.norm(across, axis=-1, keepdims=True)
    return np.cross(_UP, across / np.maximum(length, 1e-12))


def _heading(joints: Joints, convention: Convention) -> Float[Tensor, "T 4"]:
    """Turn of each frame that brings the smoothed heading to +Z."""
    from scipy.ndimage import gaussian_filter1d  # slow to import; sampling needs no headings

    forward = _forward(joints, hips=-1.0)
    smooth = gaussian_filter1d(forward, HEADING_SMOOTHING, axis=0, mode="nearest")
    length = np.linalg.norm(smooth, axis=-1, keepdims=True)
    if (length < 1e-9).any():
        raise InputError(
            "joints_to_features: joints",
            f"no heading at frame {int(length.argmin())}: directions around it cancel",
            "a heading that survives a smoothing of about a second",
            "Cut the clip before the spin, or leave it out.",
        )
    heading = _shortest_arc(torch.from_numpy(smooth / length), _AHEAD, convention)
    if convention == "dataset":
        heading[0] = heading.new_tensor([1.0, 0.0, 0.0, 0.0])
    return heading


def _bone_rotations(joints: Joints, convention: Convention) -> Float[Tensor, "T 21 4"]:
    """Shortest turn of every bone from its rest direction, in the world's frame."""
    bones = joints[:, 1:] - joints[:, list(PARENTS[1:])]
    lengths = np.linalg.norm(bones, axis=-1, keepdims=True)
    if (lengths < 1e-8).any():
        frame, bone, _ = np.argwhere(lengths < 1e-8)[0]
        raise InputError(
            "joints_to_features: joints",
            f"{JOINTS[bone + 1]} in the place of {JOINTS[PARENTS[bone + 1]]} at frame {frame}",
            "bones of some length", "Check the map from the recording's skeleton to the 22 joints.",
        )  # fmt: skip
    return _shortest_arc(
        torch.tensor(RAW_OFFSETS[1:]), torch.from_numpy(bones / lengths), convention
    )


def _shortest_arc(
    u: Float[Tensor, "*b 3"], v: Float[Tensor, "*b 3"], convention: Convention
) -> Float[Tensor, "*b 4"]:
    """Rotation from direction u to direction v, both of length 1 or about it."""
    clean = quat_between(u, v)
    if convention != "reference":
        return clean
    u, v = torch.broadcast_tensors(u, v)
    u, v = torch.nn.functional.normalize(u, dim=-1), torch.nn.functional.normalize(v, dim=-1)
    raw = torch.cat((1.0 + (u * v).sum(-1, keepdim=True), torch.linalg.cross(u, v)), dim=-1)
    nudged = raw + raw.new_tensor([0.0, 0.0, 0.0, NUDGE])
    # Closer to opposite than this the nudge outweighs the arc and turns the body on its head.
    lost = raw.norm(dim=-1, keepdim=True) < 10 * NUDGE
    return torch.where(lost, clean, torch.nn.functional.normalize(nudged, dim=-1))


@dataclass(frozen=True, eq=False)
class Normaliser:
    """z-score by channel; channels without spread are only centred."""

    mean: Float[np.ndarray, "263"]
    std: Float[np.ndarray, "263"]

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            good = np.shape(values) == (WIDTH,) and np.isfinite(values).all()
            if not good or (name == "std" and (np.asarray(values) < 0).any()):
                raise InputError(
                    f"normaliser: {name}", f"shape {np.shape(values)}, or values out of range",
                    f"{WIDTH} finite numbers, none negative in std",
                    "Take both from `statistics` or from the files beside the weights.",
                )  # fmt: skip

    def normalise(self, x: Array) -> Array:
        """(..., 263) raw features to z-scores, of the same kind, type and device."""
        mean, scale = self._like(x)
        return (x - mean) / scale

    def denormalise(self, x: Array) -> Array:
        """(..., 263) z-scores to raw features, of the same kind, type and device."""
        mean, scale = self._like(x)
        return x * scale + mean

    def _like(self, x: Array) -> tuple[Array, Array]:
        scale = np.where(self.std < 1e-6, 1.0, self.std)
        if isinstance(x, Tensor):
            return x.new_tensor(self.mean), x.new_tensor(scale)
        return self.mean.astype(x.dtype), scale.astype(x.dtype)


def check_features(
    features: Float[np.ndarray, "T 263"], where: str | Path, min_frames: int = MIN_FRAMES
) -> None:
    """Raise InputError unless `features` is a finite float array (T >= min_frames, 263)."""
    remedy = "Write this clip again, or take it out of the corpus and its splits."
    shape = getattr(features, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] != WIDTH or features.dtype.kind != "f":
        found = f"shape {shape} of {getattr(features, 'dtype', type(features).__name__)}"
        raise InputError(f"{where}: features", found, f"(frames, {WIDTH}) of float32", remedy)
    if len(features) < min_frames:
        raise InputError(
            f"{where}: features", f"{len(features)} frame(s)", f"at least {min_frames}", remedy
        )
    if not np.isfinite(features).all():
        frame, channel = np.argwhere(~np.isfinite(features))[0]
        raise InputError(
            f"{where}: features", f"NaN or infinity at frame {frame}, channel {channel}",
            "finite numbers", remedy,
        )  # fmt: skip


def statistics(
    features: Sequence[Float[np.ndarray, "T 263"]],
) -> tuple[Float[np.ndarray, "263"], Float[np.ndarray, "263"]]:
    """Mean and standard deviation (float32) over all frames of all clips.

    As HumanML3D does, the deviation is averaged within each group of channels: root rotation, root
    velocity, height, positions, rotations, velocities, contacts.
    """
    frames = sum(len(clip) for clip in features)
    mean = sum(clip.sum(axis=0, dtype=np.float64) for clip in features) / frames
    square = sum(((clip - mean) ** 2).sum(axis=0) for clip in features) / frames
    std = np.sqrt(square)
    for group in GROUPS:
        std[group] = std[group].mean()
    return mean.astype(np.float32), std.astype(np.float32)
