"""Motions that other projects wrote, as a generator of their own: joints or poses at 20 fps, Y up.

What is read, as each project writes it:

- MDM (GuyTevet/motion-diffusion-model): ``results.npy``, a pickled dict with ``motion``
  (N, 22, 3, T), ``text``, ``lengths`` and ``num_samples``; one repetition after the other.
- MoMask (EricGuo5513/momask-codes): ``sample<k>_repeat<r>_len<L>.npy``, (L, 22, 3), joints after
  inverse kinematics onto a template skeleton. ``…_ik.npy`` is the same motion with its feet locked.
- ReMoDiffuse (mingyuan-zhang/ReMoDiffuse): what ``--pose_npy`` wrote, (T, 22, 3), smoothed in time
  by a Gaussian of 2.5 frames. Nothing in the file tells it from other joints, so the caller does.
- Kimodo (nv-tlabs/kimodo): ``.npz`` with ``posed_joints`` (T, J, 3), on 77 joints of its SOMA
  skeleton (30 in older files) or on the 22 of SMPL-X. The files hold no rate; the models make 30
  frames a second. SOMA's joints are taken by their names and lie near those of SMPL, not on them.
- BVH, whose skeleton is told by the names of its joints (`BVH_JOINTS`); the format states neither
  unit nor up axis.
- any other (T, 22, 3) ``.npy`` whose rate and up axis the caller states.

Pose parameters need no fit: AMASS's ``.npz`` in all its kinds, and what is written in its layout,
such as by Kimodo's SMPL-X model: ``trans`` (T, 3), and ``poses`` (T, 72, 156 or 165: SMPL, SMPL+H,
SMPL-X) or ``root_orient`` (T, 3) with ``pose_body`` (T, 63); ``betas``, ``gender``, and the rate as
``mocap_framerate`` or ``mocap_frame_rate``. In all of them the first 22 joints are those of SMPL;
jaw, eyes and hands are dropped, as `fitting.fit` leaves SMPL's two hand joints at rest.
"""

import re
import zipfile
from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from t2imu_utils.body.fitting import N, without_jumps
from t2imu_utils.body.smpl import BETAS, BONES, Body
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.files import Inert, decode_array, read_json, read_pickle
from t2imu_utils.motion.bvh import (
    JOINTS_FROM_BANDAI,
    JOINTS_FROM_REACTIDLE,
    MAX_RATE,
    joint_positions,
    parse_bvh,
)
from t2imu_utils.motion.cmu import JOINTS_FROM_BVH
from t2imu_utils.motion.features import MIN_FRAMES
from t2imu_utils.motion.rotations import (
    axis_angle_to_quat,
    matrix_to_quat,
    quat_multiply,
    quat_to_axis_angle,
)
from t2imu_utils.motion.skeleton import RATE, check_joints, joint_weights, resample, weighted_joints
from t2imu_utils.motion.takes import HEIGHT, implausible

Up = Literal["y", "z"]

MDM, MOMASK, REMODIFFUSE, KIMODO = "mdm", "momask", "remodiffuse", "kimodo"
KIMODO_RATE = 30.0
SMOOTHED = {
    MDM: "no",
    MOMASK: "no; inverse kinematics onto a template skeleton",
    REMODIFFUSE: "Gaussian, sigma 2.5 frames",
    KIMODO: "not told by the file; feet are post-processed by default",
}
NOT_KNOWN = "not known"

# Turns Z up into Y up, and a body that looks along +Y into one that looks along +Z. HumanML3D
# turns AMASS like this, and Kimodo turns its motions back like this.
Z_UP_TO_Y_UP: Float[np.ndarray, "3 3"] = np.array([[-1.0, 0, 0], [0, 0, 1], [0, 1, 0]])
Z_UP_TO_Y_UP.setflags(write=False)

# Where Kimodo has the joints of `skeleton.JOINTS`, by how many a file holds. SOMA calls them Hips,
# LeftLeg, RightLeg, Spine1, LeftShin, RightShin, Spine2, LeftFoot, RightFoot, Chest, LeftToeBase,
# RightToeBase, Neck1, LeftShoulder, RightShoulder, Head, LeftArm, RightArm, LeftForeArm,
# RightForeArm, LeftHand and RightHand.
KIMODO_JOINTS = {
    77: (0, 67, 72, 1, 68, 73, 2, 69, 74, 3, 70, 75, 4, 11, 39, 6, 12, 40, 13, 41, 14, 42),
    30: (0, 22, 26, 1, 23, 27, 2, 24, 28, 3, 25, 29, 4, 10, 16, 6, 11, 17, 12, 18, 13, 19),
    22: tuple(range(22)),
}

# Skeletons of BVH files; the last is that of Mixamo, LaFAN1 and many game engines.
BVH_JOINTS = {
    "CMU": JOINTS_FROM_BVH,
    "Bandai-Namco": JOINTS_FROM_BANDAI,
    "ReActIdle": JOINTS_FROM_REACTIDLE,
    "Mixamo": joint_weights(
        ("Left", "Right"),
        pelvis="Hips", spine1="Spine", spine2="Spine1", spine3="Spine2", neck="Neck", head="Head",
        hip="<>UpLeg", knee="<>Leg", ankle="<>Foot", foot="<>ToeBase", collar="<>Shoulder",
        shoulder="<>Arm", elbow="<>ForeArm", wrist="<>Hand",
    ),
}  # fmt: skip

# As `takes.BONE_CHANGE`, of motions that are made: bones of good samples change by up to 6 %.
BONE_CHANGE = 0.1
UNITS = {"metres": 1.0, "centimetres": 0.01, "millimetres": 0.001}

_MOMASK_NAME = re.compile(r"sample(\d+)_repeat(\d+)_len(\d+)(_ik)?\.npy")
_MAX_BYTES = 2**31  # of one array: a guard against archives that explode
_AGAIN = "Write it again, or leave it out."


@dataclass(frozen=True)
class _Motion:
    """One motion as it stands in a file. `rate` is certain, `usual` is taken if none is stated."""

    joints: np.ndarray
    project: str
    smoothed: str
    rate: float | None
    up: Up | None
    prompt: str = ""
    sample: int = 0
    repetition: int = 0
    usual: float | None = None


def read_exports(
    source: Path | Sequence[Path],
    rate: float | None = None,
    up: Up | None = None,
    made_by: str = "joints",
    scale: float = 1.0,
    foot_locked: bool = False,
    to: float | None = RATE,
) -> tuple[Clips, list[Skipped]]:
    """Read motions that other projects wrote as joints; the module names the formats.

    Motions at a higher rate than `to` are resampled without aliasing (`resample`). Those
    below 20 fps are left out: what they lack above half their rate is what accelerations are
    made of, so they cannot be compared. Left out, too, is who is not 1.4 to 2.1 m tall or has limbs
    that change their length. No motion is smoothed, cut or set on the floor.

    Args:
        source: files, or a folder of which all ``.npy`` and ``.npz`` are read, in subfolders too.
        rate: frames a second of plain joints, and of Kimodo's where they are not 30.
        up: up axis of plain joints. Those with Z up are turned: (x, y, z) becomes (-x, z, y).
        made_by: what to call the project of plain joints; "remodiffuse" is known, any other is a
            name only.
        scale: metres a unit of the files.
        foot_locked: of MoMask's two files for a motion take that with locked feet.
        to: frames a second of the result; None keeps the rate of the file.

    Returns:
        Clips with one array ``joints`` (F, 22, 3), float32, meta ``rate`` and ``smoothed``,
        what is known by project; and all files and motions that were left out. The table has:
        ``name``; ``project``; ``file``; ``prompt``, empty where the format carries none; ``sample``
        and ``repetition``, the project's own numbers; ``native_rate`` (Hz); ``resampled``;
        ``smoothed``, what the authors' code did to the joints.
    """
    rows, arrays, skipped = [], [], []
    for path, file in export_files(source):
        try:
            motions = _read(path, made_by, foot_locked)
        except InputError as error:
            skipped.append(Skipped(file, str(error)))
            continue
        for i, motion in enumerate(motions):
            name = f"{file}#{i}" if len(motions) > 1 else file
            try:
                native = native_rate(motion.rate, rate, motion.usual, name)
                joints = _checked(motion, up, scale, name)
                joints = at_rate(joints, native, name, to).astype(np.float32)
                check_joints(joints, f"{name}, at {to or native:g} frames a second", MIN_FRAMES)
            except InputError as error:
                skipped.append(Skipped(name, str(error)))
                continue
            arrays.append(joints)
            facts = {"name": name, "project": motion.project, "file": file}
            facts |= {"prompt": motion.prompt, "sample": motion.sample}
            facts |= {"repetition": motion.repetition, "native_rate": native}
            rows.append(
                facts | {"resampled": native != (to or native), "smoothed": motion.smoothed}
            )
    if not rows:
        raise nothing_usable(source, skipped)
    smoothed = {row["project"]: row["smoothed"] for row in rows}
    meta = {"rate": to or rows[0]["native_rate"], "smoothed": smoothed}
    return Clips.from_list(rows, {"joints": arrays}, meta), skipped


def as_sampled(clips: Clips, requests: pd.DataFrame) -> tuple[Clips, list[Skipped]]:
    """Give exported motions the rows of the requests that they answer: sampled motions of a prior.

    Each request takes the next motion of its prompt; upper case, outer spaces and a last full stop
    do not count. Where a format carries no prompts, fill the column ``prompt`` before; MoMask's
    ``sample`` is the line of its prompt file.

    Args:
        clips: of `read_exports` or `motion.exports.read_poses`.
        requests: at least the columns ``activity`` and ``prompt``.

    Returns:
        The answered requests in order, without ``seed`` and with each motion's own length, a
        column ``motion`` (row number) and the columns of the export; and the requests without a
        motion and motions without a request.
    """
    waiting = defaultdict(deque)
    for i, prompt in enumerate(clips.table["prompt"]):
        waiting[_plain_text(prompt)].append(i)
    rows, chosen, skipped = [], [], []
    for number, row in enumerate(requests.to_dict("records")):
        line = waiting[_plain_text(row["prompt"])]
        if line:
            chosen.append(line.popleft())
            rows.append(row)
        else:
            skipped.append(Skipped(f"request {number}", f"no motion left of “{row['prompt']}”"))
    for i in sorted(i for line in waiting.values() for i in line):
        prompt = clips.table["prompt"].iloc[i]
        reason = f"no request left for “{prompt}”" if prompt else "its prompt is not known"
        skipped.append(Skipped(clips.table["name"].iloc[i], reason))
    if not chosen:
        raise InputError(
            "exported motions: prompt",
            f"none of the {len(requests)} requested prompts among {len(clips)} motions",
            "motions made from the prompts of notebook 01",
            "Generate from those prompts, or fill the column prompt of the motions' table.",
        )
    picked = clips.select(chosen)
    asked = pd.DataFrame(rows).drop(columns=["frames", "seed"], errors="ignore")
    own = picked.table.drop(columns=[c for c in asked if c in picked.table])
    table = pd.concat([asked.assign(motion=np.arange(len(asked))), own], axis=1)
    return Clips(table, picked.arrays, picked.meta), skipped


def export_files(source: Path | Sequence[Path]) -> list[tuple[Path, str]]:
    """The files to read and what to call them, numbers in names in order of their size.

    Raises `InputError` for a folder or file that does not exist, or a folder without any.
    """
    if not isinstance(source, str | Path):
        return [pair for path in source for pair in export_files(path)]
    source = Path(source)
    if source.is_file():
        return [(source, source.as_posix())]
    if not source.is_dir():
        raise InputError(source, "nothing", "exported motions", "Check the path.")
    found = [p for p in source.rglob("*") if p.suffix.lower() in (".npy", ".npz") and p.is_file()]
    if not found:
        raise InputError(source, "no .npy and no .npz", "exported motions", "Check the path.")
    named = [(path, path.relative_to(source).as_posix()) for path in found]

    def in_order(pair: tuple[Path, str]) -> list[str | int]:
        return [int(p) if p.isdecimal() else p for p in re.split(r"([0-9]+)", pair[1])]

    return sorted(named, key=in_order)


def nothing_usable(source: Path | Sequence[Path], skipped: Sequence[Skipped]) -> InputError:
    """The error for a source of which every file was left out; it tells the first reason."""
    where = source if isinstance(source, str | Path) else "files"
    first = skipped[0].reason if skipped else "no file was given"
    return InputError(where, "no motion that can be used", "at least one", f"First, {first}")


def native_rate(
    known: float | None, stated: float | None, usual: float | None, where: str
) -> float:
    """Frames a second: what a file or its format says, else what the caller states, else `usual`.

    Raises `InputError` where none is known, or where file and caller disagree.
    """
    if known is not None and stated not in (None, known):
        raise InputError(
            f"{where}: rate", f"{known:g} frames a second", f"{stated:g}, as stated",
            "Leave out rate=: this file needs none.",
        )  # fmt: skip
    found = next((r for r in (known, stated, usual) if r is not None), None)
    if found is None:
        raise InputError(
            f"{where}: rate", "none in the file", "frames a second", "Pass rate= for such files."
        )
    return float(found)


def at_rate(
    x: Float[np.ndarray, "T ..."], native: float, where: str, to: float | None = RATE
) -> Float[np.ndarray, "N ..."]:
    """`x` at `to` fps, resampled without aliasing; None leaves it."""
    to = to or native
    if not RATE <= native <= MAX_RATE:
        remedy = "Left out, not stretched: the missing band would pass for smooth motion."
        found = f"{native:g} frames a second"
        raise InputError(f"{where}: rate", found, f"{RATE:g} to {MAX_RATE:g}", remedy)
    if not RATE <= to <= native:
        expected = f"{RATE:g} to the {native:g} of the motion"
        raise InputError(f"{where}: rate asked for", f"{to:g}", expected, "Ask for another.")
    return resample(x, native, to)


def _plain_text(prompt: str) -> str:
    return prompt.strip().casefold().rstrip(".").rstrip()


def _checked(motion: _Motion, up: Up | None, scale: float, where: str) -> np.ndarray:
    """Joints in metres, Y up, float64, after what can be wrong with them was looked for."""
    joints = motion.joints
    if joints.dtype.kind not in "fiu":
        found = f"elements of type {joints.dtype}"
        raise InputError(f"{where}: joints", found, "numbers", _AGAIN)
    check_joints(joints, where, MIN_FRAMES)
    axis = up or motion.up
    if axis not in ("y", "z") or motion.up not in (None, axis):
        found = "none stated" if axis is None else f"{axis!r}, as stated"
        remedy = "Leave out up=." if motion.up else 'Pass up="y" or up="z".'
        raise InputError(f"{where}: up axis", found, motion.up or '"y" or "z"', remedy)
    joints = joints.astype(np.float64)
    if fault := implausible(joints * scale, BONE_CHANGE):
        sound = (u for u, size in UNITS.items() if not implausible(joints * size, BONE_CHANGE))
        unit = next(sound, None)
        raise InputError(
            f"{where}: joints", fault + (f", as in {unit}" if unit else ""),
            f"one person, {HEIGHT[0]:g} to {HEIGHT[1]:g} m tall, of rigid bones",
            f"Pass scale={UNITS[unit]:g}." if unit else "Check the order of joints and the unit.",
        )  # fmt: skip
    joints = joints * scale
    return joints @ Z_UP_TO_Y_UP.T if axis == "z" else joints


def _read(path: Path, made_by: str, foot_locked: bool) -> list[_Motion]:
    """All motions of one file; `InputError` where it is none of the known formats."""
    if path.suffix.lower() == ".npz":
        return _read_kimodo(path)
    if path.suffix.lower() == ".bvh":
        return [_read_bvh(path)]
    if path.suffix.lower() != ".npy":
        raise InputError(path, f"a file {path.suffix}", "a .npy, .npz or .bvh", "Leave it out.")
    array = read_npy(path)
    if isinstance(array, list):
        return _read_mdm(path, array)
    if match := _MOMASK_NAME.fullmatch(path.name):
        return [_read_momask(path, array, match, foot_locked)]
    if made_by == REMODIFFUSE:
        return [_Motion(array, made_by, SMOOTHED[made_by], RATE, "y")]
    return [_Motion(array, made_by, NOT_KNOWN, None, None)]


def _read_bvh(path: Path) -> _Motion:
    bvh = parse_bvh(path.read_text(encoding="utf-8", errors="replace"), path)
    # "mixamorig:LeftToeBase", and "LeftToe" of LaFAN1
    names = [re.sub(r"Toe$", "ToeBase", name.rpartition(":")[2]) for name in bvh.names]
    bvh = replace(bvh, names=tuple(names))
    for mapping in BVH_JOINTS.values():
        if all(name in names for weights in mapping.values() for name in weights):
            joints = weighted_joints(mapping, joint_positions(bvh))
            return _Motion(joints, "bvh", NOT_KNOWN, bvh.rate, None)
    raise InputError(
        f"{path}: HIERARCHY", f"joints {', '.join(bvh.names)}",
        f"the names of {', '.join(BVH_JOINTS)}", "Map it onto the 22 joints and save a .npy.",
    )  # fmt: skip


def _read_kimodo(path: Path) -> list[_Motion]:
    stored = read_npz(path, ("posed_joints", "fps", "poses", "pose_body"))
    if "posed_joints" not in stored:
        known = "poses" in stored or "pose_body" in stored
        raise InputError(
            path, "pose parameters" if known else "no posed_joints", "joints of Kimodo",
            "They need no fit: take motion.exports.read_poses." if known else "Leave it out.",
        )  # fmt: skip
    joints = stored["posed_joints"]
    if joints.ndim not in (3, 4) or joints.shape[-1] != 3 or joints.shape[-2] not in KIMODO_JOINTS:
        robot = joints.ndim in (3, 4) and joints.shape[-2] == 34
        raise InputError(
            f"{path}: posed_joints", f"shape {joints.shape}" + ", a G1 robot" * robot,
            "(frames, 77, 30 or 22, 3)", "Generate with one of Kimodo's SOMA or SMPL-X models.",
        )  # fmt: skip
    joints = joints[..., KIMODO_JOINTS[joints.shape[-2]], :]
    rate = read_number(stored, "fps", path)  # only some of its forks write it
    prompt = _kimodo_prompt(path)
    return [
        _Motion(one, KIMODO, SMOOTHED[KIMODO], rate, "y", prompt, i, usual=KIMODO_RATE)
        for i, one in enumerate(joints if joints.ndim == 4 else joints[None])
    ]


def _kimodo_prompt(path: Path) -> str:
    """The text of the ``meta.json`` that lies beside the ``motion.npz`` of an example folder."""
    about = path.with_name("meta.json")
    told = read_json(about) if path.name == "motion.npz" and about.is_file() else {}
    texts = told.get("texts", told.get("text", "")) if isinstance(told, dict) else ""
    return " ".join(map(str, texts)) if isinstance(texts, list) else str(texts)


def _read_momask(
    path: Path, joints: np.ndarray, match: re.Match[str], foot_locked: bool
) -> _Motion:
    sample, repetition, length, locked = match.groups()
    if bool(locked) != foot_locked:
        raise InputError(
            path, "the twin with locked feet" if locked else "the twin with free feet",
            f"one file a motion, that with {'locked' if foot_locked else 'free'} feet",
            f"Pass foot_locked={not foot_locked} to take this one instead.",
        )  # fmt: skip
    # Its decoder makes four frames at a time, so the last motion of a batch may lack some.
    if not 0 <= int(length) - len(joints) < 4:
        raise InputError(path, f"{len(joints)} frames", f"{length}, as its name says", _AGAIN)
    smoothed = SMOOTHED[MOMASK] + ", feet locked" * bool(locked)
    return _Motion(
        joints, MOMASK, smoothed, RATE, "y", sample=int(sample), repetition=int(repetition)
    )


def _read_mdm(path: Path, content: list[Any]) -> list[_Motion]:
    stored = content[0] if len(content) == 1 and isinstance(content[0], dict) else {}
    if not {"motion", "lengths"} <= stored.keys():
        found = f"objects: {', '.join(map(str, stored)) or 'no dict'}"
        raise InputError(path, found, "MDM's dict of motion, text and lengths", _AGAIN)
    motion, lengths = stored["motion"], stored["lengths"]
    if not isinstance(motion, np.ndarray) or motion.ndim != 4 or motion.shape[1:3] != (22, 3):
        raise InputError(
            f"{path}: motion", f"shape {getattr(motion, 'shape', 'of no array')}",
            "(motions, 22, 3, frames)",
            "Generate with a model of HumanML3D: KIT has 21 joints, action models others.",
        )  # fmt: skip
    count, frames = len(motion), motion.shape[-1]
    good = isinstance(lengths, np.ndarray) and lengths.shape == (count,)
    if not good or lengths.dtype.kind not in "iu" or ((lengths < 1) | (lengths > frames)).any():
        found = str(lengths.tolist()[:5] if good else type(lengths).__name__)
        raise InputError(f"{path}: lengths", found, f"{count} of 1 to {frames}", _AGAIN)
    texts = stored.get("text", [""] * count)
    if not isinstance(texts, list) or len(texts) != count:
        raise InputError(f"{path}: text", "no list, or of another length", f"{count}", _AGAIN)
    each = stored.get("num_samples", count)
    each = int(each) if isinstance(each, int | np.integer) and each > 0 else count
    cut = [
        one[..., :length].transpose(2, 0, 1) for one, length in zip(motion, lengths, strict=True)
    ]
    return [
        _Motion(joints, MDM, SMOOTHED[MDM], RATE, "y", str(text), i % each, i // each)
        for i, (joints, text) in enumerate(zip(cut, texts, strict=True))
    ]


def read_npz(
    path: Path, keys: Collection[str], remedy: str = _AGAIN, whole: bool = False
) -> dict[str, np.ndarray]:
    """Those of some arrays that an archive has, as far as they are plain ones of a sane size."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {member.filename: member.file_size for member in archive.infolist()}
        there = [key for key in keys if f"{key}.npy" in sizes]
        if whole and (missing := [key for key in keys if key not in there]):
            held = ", ".join(name.removesuffix(".npy") for name in sizes)
            raise InputError(f"{path}: {', '.join(missing)}", f"only {held}", "more fields", remedy)
        if (largest := max((sizes[f"{key}.npy"] for key in there), default=0)) > _MAX_BYTES:
            raise ValueError(f"{largest} bytes in one array")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in there}
        if bare := [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{bare[0]} is none")  # NumPy gives what it cannot read as bytes
        return arrays
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(path, "no file", "an .npz", remedy) from error
    except Exception as error:  # a damaged archive fails in many ways inside zipfile and numpy
        raise InputError(path, f"no readable arrays ({error})", "an .npz", remedy) from error


def read_number(stored: Mapping[str, np.ndarray], key: str, path: Path) -> float | None:
    """The one number of an array, None where there is no such array."""
    if key not in stored:
        return None
    value = stored[key]
    if value.size != 1 or value.dtype.kind not in "fiu":
        found = f"shape {value.shape} of {value.dtype}"
        raise InputError(f"{path}: {key}", found, "one number", _AGAIN)
    return float(value.item())


def read_npy(path: Path, remedy: str = _AGAIN) -> np.ndarray | list[Any]:
    """A plain array, or the flat list that an array of objects holds. Nothing in it is run."""
    try:
        with open(path, "rb") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            *_, dtype = read(stream)
            if dtype.hasobject:
                return _decoded(read_pickle(stream))
        # Mapped first: a header that promises more than the file holds is refused, not allocated.
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except FileNotFoundError as error:
        raise InputError(path, "no file", "a .npy", remedy) from error
    except Exception as error:  # a damaged file or pickle fails in many ways
        raise InputError(path, f"no readable array ({error})", "a .npy", remedy) from error


def _decoded(value: Any) -> Any:
    """Arrays from their bytes; arrays of objects become flat lists, tuples become lists."""
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_decoded(item) for item in value]
    if not isinstance(value, Inert):
        return value
    if value.kind == "numpy._reconstruct" and isinstance(items := value.state[-1], list):
        return _decoded(items)
    return decode_array(value)


# --- pose parameters ------------------------------------------------------------------------------
WIDTHS = (72, 156, 165)  # of ``poses``: SMPL, SMPL+H, SMPL-X

_RATES = ("mocap_framerate", "mocap_frame_rate")
_FIELDS = ("poses", "root_orient", "pose_body", "trans", "betas", *_RATES)
_JOINTS = "Joints are read with motion.exports.read_exports."


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
        `read_exports`, ``shape`` and ``beta_0`` to ``beta_9``; and what
        was left out. `fitting.fitted_joints` gives its joints.
    """
    rows, parts, skipped = [], [], []
    for path, file in export_files(source):
        try:
            row, arrays = _read_pose(path, file, body, rate, up, shape, to)
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


def _read_pose(
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
    vectors, trans = _pose_of(path, stored)
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


def _pose_of(
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
