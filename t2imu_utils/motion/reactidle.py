"""ReActIdle: people who stand and idle, as they happened to and as they were asked to act it."""

import re
from pathlib import Path

from t2imu_utils.errors import Skipped
from t2imu_utils.motion.bvh import joint_positions, read_bvhs
from t2imu_utils.motion.skeleton import both_sides, weighted_joints
from t2imu_utils.motion.takes import Take

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
    """Read all recordings, from the archive in place or unpacked (24 frames a second)."""
    takes: list[Take] = []
    skipped: list[Skipped] = []
    root = folder / "reactidle" if (folder / "reactidle").is_dir() else folder
    for path, bvh in read_bvhs(root, _FILE, skipped):
        trial, subject, kind = _FILE.search(path).groups()
        joints = weighted_joints(
            JOINTS_FROM_REACTIDLE, lambda names, bvh=bvh: joint_positions(bvh, names)
        )
        takes.append(Take("reactidle", "MIT", subject, trial, "idle", kind, joints, bvh.rate))
    return takes, skipped
