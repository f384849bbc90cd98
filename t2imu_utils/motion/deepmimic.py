"""Motion in DeepMimic's format: CMU trials of the Jump project, and DeepMimic's two get-ups.

A file is JSON; a row of ``Frames`` holds the frame's duration (s), the root's position (3, metres)
and quaternion (4), and the local rotation of every joint: a quaternion (w, x, y, z), or one angle
about z (rad) for knees and elbows (Peng et al., "DeepMimic", 2018). Its humanoid looks along +X, Y
is up, Z to its right.
"""

import json
import re
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.motion.cmu import subject_of, trial_order
from t2imu_utils.motion.skeleton import JOINTS, PARENTS
from t2imu_utils.motion.takes import Take, read_files

# Joint: (parent, offset in metres in the parent's frame, numbers a frame), in the order of a row.
# Offsets are those of DeepMimic's humanoid3d.txt.
HUMANOID = {
    "root": (None, (0, 0, 0), 4),
    "chest": ("root", (0, 0.236151, 0), 4),
    "neck": ("chest", (0, 0.223894, 0), 4),
    "right_hip": ("root", (0, 0, 0.084887), 4),
    "right_knee": ("right_hip", (0, -0.421546, 0), 1),
    "right_ankle": ("right_knee", (0, -0.40987, 0), 4),
    "right_shoulder": ("chest", (-0.02405, 0.2435, 0.18311), 4),
    "right_elbow": ("right_shoulder", (0, -0.274788, 0), 1),
    "left_hip": ("root", (0, 0, -0.084887), 4),
    "left_knee": ("left_hip", (0, -0.421546, 0), 1),
    "left_ankle": ("left_knee", (0, -0.40987, 0), 4),
    "left_shoulder": ("chest", (-0.02405, 0.2435, -0.18311), 4),
    "left_elbow": ("left_shoulder", (0, -0.274788, 0), 1),
}
WIDTH = 1 + 3 + sum(count for _, _, count in HUMANOID.values())
# SMPL joints that are no joints of the humanoid: (its joint, offset in metres in that frame). The
# root lies on the line of the hips, SMPL's pelvis 8 cm above it; the chest joint lies below spine3.
FIXED = {
    "pelvis": ("root", (0, 0.08, 0)),
    "spine1": ("root", (0, 0.18, 0)),
    "spine2": ("chest", (0, 0.06, 0)),
    "spine3": ("chest", (0, 0.12, 0)),
    "left_collar": ("chest", (0, 0.22, -0.05)),
    "right_collar": ("chest", (0, 0.22, 0.05)),
    "head": ("neck", (0, 0.1, 0)),
    "left_foot": ("left_ankle", (0.13, -0.06, 0)),
    "right_foot": ("right_ankle", (0.13, -0.06, 0)),
    "left_wrist": ("left_elbow", (0, -0.258947, 0)),
    "right_wrist": ("right_elbow", (0, -0.258947, 0)),
}

ARMS = [
    JOINTS.index(f"{side}_{joint}") for side in ("left", "right") for joint in ("elbow", "wrist")
]
ON_THE_FLOOR = 0.02  # m: half of a forearm's thickness

_FILE = re.compile(r"(?:^|/)(\d+_\d+|\w+_getup_\w+)\.txt$")


def read_deepmimic(folder: Path) -> tuple[list[Take], list[Skipped]]:
    """Read what lies in `folder`/deepmimic, zipped or not, CMU trials before the get-ups."""
    takes: list[Take] = []
    skipped: list[Skipped] = []
    for match, motion in read_files(folder / "deepmimic", _FILE, parse_deepmimic, skipped):
        trial = match[1]
        told = "CMU (free)", subject_of(trial), trial, ""
        if not trial[0].isdigit():
            told = "MIT", "humanoid3d", trial, trial.removeprefix("humanoid3d_").replace("_", " ")
        takes.append(Take("deepmimic", *told, "", *motion))
    cmu = [take for take in takes if take.subject != "humanoid3d"]
    getups = [take for take in takes if take.subject == "humanoid3d"]
    return sorted(cmu, key=lambda take: trial_order(take.trial)) + getups, skipped


def parse_deepmimic(text: str, where: str) -> tuple[Float[np.ndarray, "T 22 3"], float]:
    """Joints in metres, Y up, +Z ahead where the humanoid has +X, and frames a second.

    Raises:
        InputError: no JSON of at least two rows of 44 finite numbers, or an uneven rate.
    """
    try:
        rows = np.array(json.loads(text)["Frames"], np.float64)
        if rows.ndim != 2 or rows.shape[1] != WIDTH or len(rows) < 2 or not np.isfinite(rows).all():
            raise ValueError(f"Frames of shape {rows.shape}, or not finite")
        durations = rows[:-1, 0]  # the last frame lasts 0 s
        if durations.min() <= 0 or np.ptp(durations) > 1e-3 * durations.mean():
            raise ValueError("uneven durations")
    except (ValueError, KeyError, TypeError) as error:
        expected = f"JSON with rows of {WIDTH} finite numbers at one rate"
        raise InputError(where, str(error), expected, "Leave it out.") from error
    turns, places = _forward(rows)
    for joint, (parent, offset) in FIXED.items():
        places[joint] = places[parent] + turns[parent].apply(offset)
    joints = np.stack([places[joint] for joint in JOINTS], axis=1)
    # The retargeting puts the arms of who lies up to 19 cm into the floor.
    floor = np.delete(joints[..., 1], ARMS, axis=1).min() + ON_THE_FLOOR
    bones = joints - joints[:, [0, *PARENTS[1:]]]
    for joint in ARMS:  # elbows before wrists
        parent = joints[:, PARENTS[joint]]
        joints[:, joint] = parent + _raised(bones[:, joint], floor - parent[:, 1])
    return joints[..., [2, 1, 0]] * [-1, 1, 1], round(1 / durations.mean(), 1)


def _raised(
    bones: Float[np.ndarray, "T 3"], lowest: Float[np.ndarray, "T"]
) -> Float[np.ndarray, "T 3"]:
    """Bones turned up, in the vertical plane that they lie in, until they end at `lowest`."""
    lengths = np.linalg.norm(bones, axis=1)
    rise = np.minimum(np.maximum(bones[:, 1], lowest), lengths)
    level = np.hypot(bones[:, 0], bones[:, 2])
    reach = np.sqrt(lengths**2 - rise**2) / np.maximum(level, 1e-9)
    return np.stack([bones[:, 0] * reach, rise, bones[:, 2] * reach], axis=1)


def _forward(
    rows: Float[np.ndarray, "T 44"],
) -> tuple[dict[str, Rotation], dict[str, Float[np.ndarray, "T 3"]]]:
    """Global rotation and position of the humanoid's joints."""
    turns: dict[str, Rotation] = {}
    places = {}
    column = 4
    for joint, (parent, offset, count) in HUMANOID.items():
        values = rows[:, column : column + count]
        column += count
        if count == 4:
            local = Rotation.from_quat(np.roll(values, -1, axis=1))
        else:
            local = Rotation.from_rotvec(values * [0, 0, 1])
        if parent is None:
            turns[joint], places[joint] = local, rows[:, 1:4]
        else:
            turns[joint] = turns[parent] * local
            places[joint] = places[parent] + turns[parent].apply(offset)
    return turns, places
