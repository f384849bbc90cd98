"""Build HumanML3D's features from AMASS (Mahmood et al. 2019), SMPL+H and HumanAct12.

    python -m tools.build_humanml3d [--target-clip FILE]

Reads ``amass/``, ``smplh/`` and ``pose_data/humanact12/`` below T2IMU_DATA, and in ``humanml3d/``
what `t2imu data fetch humanml3d_texts` put there; fills ``humanml3d/``. What is there already
stays, so an interrupted build goes on, and one with more of AMASS adds to the last. What could not
be built is told by reason, and clip by clip in ``not_built.csv``.

The archives must be AMASS's "SMPL+H G": ``poses`` (N, 156), ``trans`` (N, 3), ``betas`` (16,),
``gender``, ``mocap_framerate``. Joints need neither the mesh nor the hands: rest joints are linear
in the shape, and the skeleton is walked from there. Dynamic shapes (DMPLs) move no joint.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from tqdm import tqdm

from t2imu_utils.body.smpl import forward_kinematics
from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.files import atomic_write
from t2imu_utils.motion.corpus import read_array
from t2imu_utils.motion.exports import read_npy, read_npz
from t2imu_utils.motion.features import (
    RATE,
    Convention,
    check_features,
    features_to_joints,
    joints_to_features,
    mirror_joints,
)
from t2imu_utils.motion.humanml3d import HUMANACT12, integrity, read_index
from t2imu_utils.motion.rotations import axis_angle_to_matrix
from t2imu_utils.motion.skeleton import JOINTS, PARENTS, bone_offsets
from t2imu_utils.tracks import data_root

BODY, BONES, BETAS, POSE = len(JOINTS), 52, 10, 156  # the hands' joints come after the body's
GENDERS = ("male", "female")
TARGET_CLIP = "000021"  # the first frame of this clip gives the body of all others
# Seconds at the start that HumanML3D leaves out before its frames count: T-poses.
LEAD_IN = {
    "Eyes_Japan_Dataset": 3.0, "MPI_HDM05": 3.0, "MPI_Limits": 1.0, "TotalCapture": 1.0,
    "Transitions_mocap": 0.5,
}  # fmt: skip
# What AMASS calls some of its parts today.
RENAMED = {
    "BioMotionLab_NTroje": "BMLrub", "DFaust_67": "DFaust", "MPI_HDM05": "HDM05",
    "MPI_Limits": "PosePrior", "MPI_mosh": "MoSh", "SSM_synced": "SSM",
    "TCD_handMocap": "TCDHands", "Transitions_mocap": "Transitions",
}  # fmt: skip

_FIELDS = ("poses", "trans", "betas", "gender", "mocap_framerate")
_MODEL = ("v_template", "shapedirs", "J_regressor", "kintree_table")
_NEEDED = ("new_joints", "new_joint_vecs")  # what makes a clip whole; joints are there to look at
_AMASS = "Download it from amass.is.tue.mpg.de as SMPL+H G."
_SMPLH = "Download the extended SMPL+H model that goes with AMASS from mano.is.tue.mpg.de."


@dataclass(frozen=True, eq=False)
class SmplH:
    """The skeleton of an SMPL+H model, metres: rest joints = template + directions @ betas."""

    template: Float[np.ndarray, "52 3"]
    directions: Float[np.ndarray, "52 3 10"]


@dataclass(frozen=True)
class Build:
    """What one call of `build_humanml3d` did, by clip (twins go with their clips).

    `built` are clips that it wrote, `kept` those that were whole before, `skipped` what is left out
    and why, `short` clips whose recording ends before they do.
    """

    built: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    short: list[Skipped] = field(default_factory=list)

    @property
    def reasons(self) -> dict[str, int]:
        """How often each kind of reason stands in `skipped`, the most frequent first."""
        return dict(Counter(s.reason.partition(":")[0] for s in self.skipped).most_common())


def load_smplh(path: Path) -> SmplH:
    """Read the skeleton of an SMPL+H ``model.npz``."""
    stored = read_npz(path, _MODEL, _SMPLH, whole=True)
    count, width = stored["v_template"].shape[:1], stored["shapedirs"].shape[-1:]
    shapes = {
        "v_template": (*count, 3),
        "shapedirs": (*count, 3, max(width + (BETAS,))),
        "J_regressor": (BONES, *count),
        "kintree_table": (2, BONES),
    }
    _check_arrays(path, stored, shapes, _SMPLH)
    if not all(np.isfinite(stored[key]).all() for key in shapes):
        raise InputError(path, "NaN or infinity", "finite numbers", _SMPLH)
    parents = stored["kintree_table"][0, 1:BODY].tolist()
    if parents != list(PARENTS[1:]):
        expected = f"parents {list(PARENTS[1:])}"
        raise InputError(f"{path}: kintree_table", f"parents {parents}", expected, _SMPLH)
    regressor = stored["J_regressor"].astype(np.float64)
    directions = stored["shapedirs"][..., :BETAS].astype(np.float64)
    return SmplH(
        regressor @ stored["v_template"].astype(np.float64),
        np.einsum("jv,vxb->jxb", regressor, directions),
    )


def amass_joints(path: Path, models: Mapping[str, SmplH]) -> Float[np.ndarray, "F 22 3"]:
    """Joints in metres of an AMASS motion, every int(rate / 20)-th frame, Y up, left-handed.

    As HumanML3D makes them: y and z change places, which mirrors the world; `clip_joints` mirrors
    it back. 59 frames a second become 29.5, and count as 20. What is not stored as the text "male"
    is female: that takes in genders stored as bytes, of which some archives are full.

    Args:
        path: an ``.npz`` of AMASS's SMPL+H G.
        models: the skeleton of either gender.

    Returns:
        float64; frames of the recording that are NaN stay so.
    """
    stored = read_npz(path, _FIELDS, _AMASS, whole=True)
    frames, betas, gender = stored["poses"].shape[:1], stored["betas"], stored["gender"]
    stored["mocap_framerate"] = stored["mocap_framerate"].squeeze()
    shapes = {
        "poses": (*frames, POSE),
        "trans": (*frames, 3),
        "betas": (max(betas.shape[:1] + (BETAS,)),),
        "mocap_framerate": (),
    }
    _check_arrays(path, stored, shapes, _AMASS)
    rate = float(stored["mocap_framerate"])
    if not RATE <= rate < np.inf or not np.isfinite(betas).all():
        found = f"{rate:g} frames a second, betas {betas[:3].round(2)} …"
        expected = f"at least {RATE:g}, finite betas"
        raise InputError(f"{path}: mocap_framerate, betas", found, expected, _AMASS)
    step = int(rate / RATE)
    poses, trans = (stored[key][::step].astype(np.float64) for key in ("poses", "trans"))
    male = gender.dtype.kind == "U" and gender.size == 1 and gender.item() == "male"
    model = models["male" if male else "female"]
    rest = (model.template + model.directions @ betas[:BETAS])[:BODY]
    local = axis_angle_to_matrix(torch.from_numpy(poses[:, : 3 * BODY]).unflatten(1, (BODY, 3)))
    rest = torch.from_numpy(rest).expand(len(local), -1, -1)
    _, joints = forward_kinematics(local, rest, PARENTS)
    return (joints.numpy() + trans[:, None])[..., [0, 2, 1]]


def clip_joints(
    recording: Float[np.ndarray, "F 22 3"], subset: str, start: int, end: int
) -> Float[np.ndarray, "T 22 3"]:
    """What HumanML3D takes of a recording as one clip: right-handed, Y up.

    AMASS recordings lose their source's lead-in, are cut to frames `start` to `end` (which may lie
    behind the last) and mirrored in x. Those of HumanAct12 are clips already.
    """
    if subset == HUMANACT12:
        return recording
    recording = recording[int(LEAD_IN.get(subset, 0.0) * RATE) :]
    remedy = "Compare the row with HumanML3D's index, and the recording with AMASS."
    if not 0 <= start < end:
        found = f"reversed frame range: {start} to {end}"
        raise InputError("index.csv", found, "0 <= start < end", remedy)
    if start >= len(recording):
        found = f"range past the end: {start} to {end} of {len(recording)} frames"
        raise InputError("index.csv", found, "a range that the recording holds", remedy)
    return recording[start:end] * [-1.0, 1.0, 1.0]


def build_humanml3d(
    root: Path,
    target_offsets: Float[np.ndarray, "22 3"] | None = None,
    convention: Convention = "dataset",
) -> Build:
    """Build the clips of ``humanml3d/index.csv``: all that the inputs below `root` allow.

    Every file is written at once or not at all. ``joints`` holds what the features were made from.

    Args:
        target_offsets: rest offsets in metres of the body that all take (`skeleton.bone_offsets` of
            a frame of any published clip in ``new_joints``); from the first frame of clip 000021
            when None.
        convention: of the features; the default equals the published files.
    """
    root, out, build = Path(root), Path(root) / "humanml3d", Build()
    if not (root / "amass").is_dir():
        raise InputError(root / "amass", "no folder", "AMASS, a folder for each source", _AMASS)
    models = {g: load_smplh(root / "smplh" / g / "model.npz") for g in GENDERS}
    index = read_index(out / "index.csv", build.skipped)
    offsets = target_offsets
    if offsets is None:
        offsets = _target_offsets(index, root, models)
    needed = [(folder, twin) for folder in _NEEDED for twin in ("", "M")]
    whole = np.array(
        [all((out / f / f"{t}{name}.npy").exists() for f, t in needed) for name in index["name"]],
        dtype=bool,
    )
    build.kept.extend(index["name"][whole])
    recordings = index[~whole].groupby("path", sort=False)
    for _, rows in tqdm(recordings, "recordings", mininterval=2, disable=None):
        try:
            recording = _read_recording(rows.iloc[0], root, models)
        except InputError as error:
            kind = "file absent" if error.found == "no file" else "file unreadable"
            build.skipped.extend(Skipped(name, f"{kind}: {error}") for name in rows["name"])
            continue
        for row in rows.itertuples(index=False):
            try:
                arrays = _make_clip(recording, row, offsets, convention)
            except InputError as error:
                build.skipped.append(Skipped(row.name, error.found))
                continue
            for name, array in arrays.items():
                if not (out / name).exists():
                    write_array(out / name, array)
            build.built.append(row.name)
            frames = len(arrays[f"joints/{row.name}.npy"])
            if row.subset != HUMANACT12 and row.end - row.start > frames:
                told = f"range past the end: {row.start} to {row.end}, {frames} frames built"
                build.short.append(Skipped(row.name, told))
    return build


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a ``.npy``, whole or not at all."""
    with atomic_write(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, array)


def _target_offsets(
    index: pd.DataFrame, root: Path, models: Mapping[str, SmplH]
) -> Float[np.ndarray, "22 3"]:
    """The body that all clips take: built before, published, or from AMASS."""
    try:
        for folder in ("joints", "new_joints"):
            path = root / "humanml3d" / folder / f"{TARGET_CLIP}.npy"
            if path.exists():
                return bone_offsets(_read_joints(path)[0])
        rows = index[index["name"] == TARGET_CLIP]
        if rows.empty:
            raise InputError("index.csv", f"no row {TARGET_CLIP}", "the whole index", "")
        row = rows.iloc[0]
        recording = _read_recording(row, root, models)
        joints = clip_joints(recording, row["subset"], row["start"], row["end"])
        # As stored, so that a build that goes on later takes the same body to the last bit.
        return bone_offsets(joints[0].astype(np.float32).astype(np.float64))
    except InputError as error:
        raise InputError(
            f"clip {TARGET_CLIP}", f"{error.found} ({error.where})",
            "the clip whose first frame gives the body of all others",
            "Add its recording (KIT of AMASS), or pass --target-clip: any published clip of "
            "new_joints.",
        ) from error  # fmt: skip


def _read_recording(
    row: pd.Series, root: Path, models: Mapping[str, SmplH]
) -> Float[np.ndarray, "F 22 3"]:
    """The recording of a row of the index, at 20 frames a second, under any of its names."""
    source, inner = row["subset"], Path(row["path"])
    pose_data, amass = root / "pose_data", root / "amass"
    if source == HUMANACT12:
        found = [p for p in (pose_data / inner, pose_data / source / inner.name) if p.is_file()]
        return _read_joints(found[0] if found else pose_data / inner)
    path = amass / inner.with_suffix(".npz")
    renamed = amass / RENAMED.get(source, source) / path.relative_to(amass / source)
    return amass_joints(renamed if renamed.is_file() and not path.is_file() else path, models)


def _make_clip(
    recording: Float[np.ndarray, "F 22 3"],
    row: tuple,
    offsets: Float[np.ndarray, "22 3"],
    convention: Convention,
) -> dict[str, np.ndarray]:
    """Arrays of a clip and of its twin by file, needed ones last."""
    joints = clip_joints(recording, row.subset, row.start, row.end).astype(np.float32)
    if not np.isfinite(joints).all():
        frame, joint, _ = np.argwhere(~np.isfinite(joints))[0]
        found = f"NaN: frame {frame} of the clip, {JOINTS[joint]}"
        raise InputError(row.path, found, "finite joints", _AMASS)
    arrays = {}
    for name, seen in ((row.name, joints), (f"M{row.name}", mirror_joints(joints))):
        try:
            features = joints_to_features(seen, offsets, convention)
            check_features(features, row.path, min_frames=1)
        except InputError as error:
            found = f"no features: {error.found} ({error.where})"
            raise InputError(row.path, found, error.expected, "Leave the clip out.") from error
        arrays[f"joints/{name}.npy"] = seen
        arrays[f"new_joints/{name}.npy"] = features_to_joints(features)
        arrays[f"new_joint_vecs/{name}.npy"] = features
    return arrays


def _read_joints(path: Path) -> Float[np.ndarray, "F 22 3"]:
    """Body joints of a ``.npy`` of joints, metres."""
    remedy = "Take it from pose_data/humanact12.zip of HumanML3D's repository."
    joints = read_npy(path, remedy)
    good = isinstance(joints, np.ndarray) and joints.ndim == 3 and joints.dtype.kind == "f"
    if not good or joints.shape[1] < BODY or joints.shape[2] != 3 or not len(joints):
        found = f"shape {getattr(joints, 'shape', 'of objects')}"
        raise InputError(path, found, f"(frames, at least {BODY}, 3) of floats", remedy)
    return joints[:, :BODY].astype(np.float64)


def _check_arrays(
    path: Path, stored: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], remedy: str
) -> None:
    for key, shape in shapes.items():
        found = stored[key]
        if found.shape != shape or found.dtype.kind not in "fiu":
            told = f"shape {found.shape} of {found.dtype}"
            raise InputError(f"{path}: {key}", told, f"numbers of shape {shape}", remedy)


@click.command()
@click.option(
    "--target-clip",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A published clip of new_joints, whose body all motions get if 000021 is not to be built.",
)
def main(target_clip: Path | None) -> None:
    """Build HumanML3D's features below T2IMU_DATA."""
    folder = data_root() / "humanml3d"
    offsets = bone_offsets(read_array(target_clip)[0]) if target_clip else None
    done = build_humanml3d(data_root(), offsets)
    table = pd.DataFrame([asdict(s) for s in done.skipped], columns=["name", "reason"])
    table.to_csv(folder / "not_built.csv", index=False)
    for remark in done.short:
        click.echo(f"{remark.name}: {remark.reason}")
    for reason, count in done.reasons.items():
        click.echo(f"not built: {count} × {reason}")
    click.echo(f"{len(done.built)} clips built, {len(done.kept)} there already, in {folder}")
    click.echo(integrity(folder).to_string(index=False))
    raise SystemExit(bool(len(table)))


if __name__ == "__main__":
    main()
