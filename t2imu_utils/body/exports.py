"""Pose parameters that other projects wrote, read as a fit: where a pose is given, none is needed.

AMASS's ``.npz`` in all its kinds, and what is written in its layout, such as by Kimodo's SMPL-X
model (nv-tlabs/kimodo): ``trans`` (T, 3), and ``poses`` (T, 72, 156 or 165: SMPL, SMPL+H, SMPL-X)
or ``root_orient`` (T, 3) with ``pose_body`` (T, 63); ``betas``, ``gender``, and the rate as
``mocap_framerate`` or ``mocap_frame_rate``. In all of them the first 22 joints are those of SMPL;
jaw, eyes and hands are dropped, as `fitting.fit` leaves SMPL's two hand joints at rest.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from t2imu_utils.body.fitting import N, without_jumps
from t2imu_utils.body.smpl import BETAS, BONES, Body
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.motion.exports import (
    NOT_KNOWN,
    Z_UP_TO_Y_UP,
    Up,
    at_rate,
    export_files,
    native_rate,
    nothing_usable,
    read_npz,
    read_number,
)
from t2imu_utils.motion.features import MIN_FRAMES
from t2imu_utils.motion.rotations import (
    axis_angle_to_quat,
    matrix_to_quat,
    quat_multiply,
    quat_to_axis_angle,
)
from t2imu_utils.motion.skeleton import RATE

WIDTHS = (72, 156, 165)  # of ``poses``: SMPL, SMPL+H, SMPL-X

_RATES = ("mocap_framerate", "mocap_frame_rate")
_FIELDS = ("poses", "root_orient", "pose_body", "trans", "betas", *_RATES)
_JOINTS = "Joints are read with motion.exports.read_exports."
_AGAIN = "Download or write it again, or leave it out."


def read_poses(
    source: Path | Sequence[Path],
    body: Body,
    rate: float | None = None,
    up: Up = "z",
    shape: Literal["mean", "file"] = "mean",
    made_by: str = "amass",
    to: float | None = RATE,
) -> tuple[Clips, list[Skipped]]:
    """Read pose parameters as `fitting.fit` leaves its own, with Y up.

    Rotations are resampled without aliasing as quaternions of one sign, which are then brought to
    length 1. (x, y, z) with Z up becomes (-x, z, y). Motions below 20 fps are left out.

    Betas belong to the model that they were made with, so they seldom mean anything on `body`.
    `shape` says what becomes of them, and the column ``shape`` what did:

    - "mean": none are used. The pose is the same, on bones of the mean body.
    - "file": the first ten as they stand, for a `body` that is the model of the files.

    The pelvis may be off by a constant of some centimetres, the distance of the models' origins; a
    constant adds no acceleration.

    Args:
        source: files, or a folder of which all ``.npy`` and ``.npz`` are read, in subfolders too.
        body: the body that the result is for.
        rate: frames a second of files that state none.
        up: up axis of the files; AMASS has Z.
        shape: see above.
        made_by: what to call the project.
        to: frames a second of the result; None keeps the rate of the file.

    Returns:
        Clips with the arrays of `fitting.fit` (``joint_error`` is 0: nothing was fitted), meta
        ``rate``, ``smoothed`` and ``body``, and in the table the columns of
        `motion.exports.read_exports`, ``shape`` and ``beta_0`` to ``beta_9``; and what
        was left out. `fitting.fitted_joints` gives its joints.

    Raises:
        InputError: a folder or file that does not exist, an unknown `up` or `shape`, or nothing
            that can be used.
    """
    if up not in ("y", "z"):
        raise InputError("up", repr(up), '"y" or "z"', "Pass the up axis of the files.")
    if shape not in ("mean", "file"):
        raise InputError("shape", repr(shape), '"mean" or "file"', "Pass one of these.")
    rows, parts, skipped = [], [], []
    for path, file in export_files(source):
        try:
            row, arrays = _read(path, file, body, rate, up, shape, to)
        except InputError as error:
            skipped.append(Skipped(file, str(error)))
            continue
        facts = {"name": file, "project": made_by, "file": file, "prompt": ""}
        rows.append(facts | {"sample": 0, "repetition": 0} | row)
        parts.append(arrays)
    if not rows:
        raise nothing_usable(source, skipped)
    arrays = {name: [part[name] for part in parts] for name in parts[0]}
    meta = {
        "rate": to or rows[0]["native_rate"],
        "smoothed": {made_by: NOT_KNOWN},
        "body": body.path.name,
    }
    return Clips.from_list(rows, arrays, meta), skipped


def _read(
    path: Path,
    file: str,
    body: Body,
    rate: float | None,
    up: Up,
    shape: Literal["mean", "file"],
    to: float | None,
) -> tuple[dict, dict[str, np.ndarray]]:
    """The row and the arrays of one file."""
    if path.suffix.lower() != ".npz":
        raise InputError(path, f"a file {path.suffix}", "an .npz of pose parameters", _JOINTS)
    stored = read_npz(path, _FIELDS)
    vectors, trans = _pose(path, stored)
    known = next((r for key in _RATES if (r := read_number(stored, key, path)) is not None), None)
    native = native_rate(known, rate, None, file)
    betas = np.zeros(BETAS) if shape == "mean" else _betas(path, stored)
    rest = body.rest_joints(torch.from_numpy(betas))[0].numpy()
    root = trans + rest
    quats = axis_angle_to_quat(torch.from_numpy(vectors))
    if up == "z":
        turn = torch.tensor(Z_UP_TO_Y_UP)
        quats[:, 0] = quat_multiply(matrix_to_quat(turn).expand(len(quats), 4), quats[:, 0])
        root = root @ Z_UP_TO_Y_UP.T
    quats = _one_sign(quats.numpy())
    both = at_rate(np.concatenate([quats.reshape(len(quats), -1), root], axis=1), native, file, to)
    _check_length(path, both, f" at {to or native:g} frames a second")
    quats = both[:, :-3].reshape(-1, N, 4)
    quats = quats / np.linalg.norm(quats, axis=-1, keepdims=True)
    rotations = np.zeros((len(both), BONES, 3), np.float32)
    rotations[:, :N] = without_jumps(quat_to_axis_angle(torch.from_numpy(quats)).numpy())
    row = {"native_rate": native, "resampled": native != (to or native), "smoothed": NOT_KNOWN}
    row |= {"shape": shape, **{f"beta_{i}": betas[i] for i in range(BETAS)}}
    return row, {
        "global_orient": rotations[:, 0],
        "body_pose": rotations[:, 1:].reshape(len(both), -1),
        "transl": (both[:, -3:] - rest).astype(np.float32),
        "joint_error": np.zeros(len(both), np.float32),
    }


def _pose(
    path: Path, stored: Mapping[str, np.ndarray]
) -> tuple[Float[np.ndarray, "T 22 3"], Float[np.ndarray, "T 3"]]:
    """Rotation vectors of the body's joints, and translation."""
    if "poses" in stored:
        poses = stored["poses"]
        width = poses.shape[-1] if poses.ndim == 2 else 0
        if width not in WIDTHS:
            wanted = f"(frames, {', '.join(map(str, WIDTHS))})"
            raise InputError(f"{path}: poses", f"shape {poses.shape}", wanted, _AGAIN)
        fields = {"poses": (poses, width)}
    elif {"root_orient", "pose_body"} <= stored.keys():
        fields = {"root_orient": (stored["root_orient"], 3)}
        fields |= {"pose_body": (stored["pose_body"], 3 * (N - 1))}
    else:
        found = "neither poses nor root_orient and pose_body"
        raise InputError(path, found, "pose parameters in AMASS's layout", _JOINTS)
    if "trans" not in stored:
        raise InputError(f"{path}: trans", "no such field", "(frames, 3)", _AGAIN)
    frames = len(next(iter(fields.values()))[0])
    for name, (array, wide) in (fields | {"trans": (stored["trans"], 3)}).items():
        if array.shape != (frames, wide) or array.dtype.kind not in "fiu":
            found = f"shape {array.shape} of {array.dtype}"
            raise InputError(f"{path}: {name}", found, f"({frames}, {wide}) of numbers", _AGAIN)
        if not np.isfinite(array).all():
            bad = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            found = f"NaN or infinity in frame {bad}"
            raise InputError(f"{path}: {name}", found, "finite numbers", "Cut these frames out.")
    _check_length(path, stored["trans"])
    vectors = np.concatenate([array for array, _ in fields.values()], axis=1)[:, : 3 * N]
    trans = stored["trans"].astype(np.float64)
    return vectors.astype(np.float64).reshape(frames, N, 3), trans


def _betas(path: Path, stored: Mapping[str, np.ndarray]) -> Float[np.ndarray, "10"]:
    # Some projects repeat one person's betas for every frame.
    betas = stored.get("betas", np.empty(0))
    betas = betas[0] if betas.ndim == 2 and len(betas) else betas
    if betas.ndim != 1 or len(betas) < BETAS or betas.dtype.kind not in "fiu":
        found = f"shape {betas.shape} of {betas.dtype}"
        raise InputError(f"{path}: betas", found, f"at least {BETAS}", 'Pass shape="mean".')
    if not np.isfinite(betas[:BETAS]).all():
        raise InputError(f"{path}: betas", "NaN or infinity", "finite", 'Pass shape="mean".')
    return betas[:BETAS].astype(np.float64)


def _one_sign(quats: Float[np.ndarray, "T J 4"]) -> Float[np.ndarray, "T J 4"]:
    """Each quaternion or its negative, the same rotation, whichever is nearer to the last."""
    dots = (quats[1:] * quats[:-1]).sum(-1)
    signs = np.cumprod(np.where(dots < 0, -1.0, 1.0), axis=0)
    return np.concatenate([quats[:1], quats[1:] * signs[..., None]])


def _check_length(path: Path, frames: np.ndarray, when: str = "") -> None:
    if len(frames) < MIN_FRAMES:
        found = f"{len(frames)} frame(s){when}"
        raise InputError(path, found, f"at least {MIN_FRAMES}", "Leave it out.")
