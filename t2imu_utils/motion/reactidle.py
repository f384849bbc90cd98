"""ReActIdle: people who stand and idle, as they happened to and as they were asked to act it."""

import re
from functools import partial
from pathlib import Path

import numpy as np

from t2imu_utils.errors import Skipped
from t2imu_utils.motion.bvh import joint_positions, read_bvhs
from t2imu_utils.motion.skeleton import JOINTS, both_sides, weighted_joints
from t2imu_utils.motion.takes import Take

# Height of the head joint above the floor that every recording is scaled to, that of the open body.
HEAD_HEIGHT = 1.58  # m
_FILE = re.compile(r"(?:^|/)((\d+)_(acted|genuine))\.bvh$")

JOINTS_FROM_REACTIDLE = both_sides(
    {
        "pelvis": {"pelvis": 0.7, "spine.001": 0.3},
        "spine1": {"pelvis": 0.2, "spine.001": 0.8},
        "spine2": {"spine.001": 0.7, "neck": 0.3},
        "spine3": {"spine.001": 0.5, "neck": 0.5},
        "neck": {"neck": 0.5, "face": 0.5},
        "head": {"face": 1},
    },
    {
        "hip": {"thigh.<>": 1},
        "knee": {"shin.<>": 1},
        "ankle": {"foot.<>": 1},
        "foot": {"foot.<>.end": 1},
        "collar": {"neck": 0.64, "upper_arm.<>": 0.36},
        "shoulder": {"upper_arm.<>": 1},
        "elbow": {"forearm.<>": 1},
        "wrist": {"forearm.<>.end": 1},
    },
    "LR",
)


def read_reactidle(folder: Path) -> tuple[list[Take], list[Skipped]]:
    """Read all recordings, from the archive in place or unpacked (24 frames a second).

    The set's 19 joints have neither wrists nor toes: they are the end sites of forearms and feet,
    so hands and toes do not bend. The motion was tracked in video, which does not tell scale (as
    written, grown-ups' heads are at 1.2 to 1.8 m), so each recording is scaled to one height. The
    root counts from where it stood; all stand throughout, so the median of the lowest joint is the
    floor.

    Args:
        folder: ``reactidle``, or the data root that holds it.

    Raises:
        InputError: nothing to read.
    """
    takes: list[Take] = []
    skipped: list[Skipped] = []
    root = folder / "reactidle" if (folder / "reactidle").is_dir() else folder
    for path, bvh in read_bvhs(root, _FILE, skipped):
        trial, subject, kind = _FILE.search(path).groups()
        joints = weighted_joints(JOINTS_FROM_REACTIDLE, partial(joint_positions, bvh))
        floor = np.median(joints[..., 1].min(axis=1))
        scale = HEAD_HEIGHT / (np.median(joints[:, JOINTS.index("head"), 1]) - floor)
        joints = scale * (joints - [0, floor, 0])
        takes.append(Take("reactidle", "MIT", subject, trial, "idle", kind, joints, bvh.rate))
    return takes, skipped
