"""The Bandai-Namco Research Motiondataset (Kobayashi et al. 2023): acted motion in many styles."""

import re
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from t2imu_utils.errors import Skipped
from t2imu_utils.motion.bvh import joint_positions, read_bvhs
from t2imu_utils.motion.skeleton import JOINTS, both_sides, weighted_joints
from t2imu_utils.motion.takes import Take

METRES_PER_UNIT = 0.01
TURNS = (45.0, 135.0)  # degrees; "walk-turn-left" means a quarter
_FILE = re.compile(r"(?:^|/)(dataset-([12])_([\w-]+)_([\w-]+)_\d+)\.bvh$")

# Each of the 22 joints as a weighted mean of the set's own. All recordings have one skeleton, whose
# Hips lie 2 cm above the thighs and whose Chest lies between SMPL's two upper spine joints.
JOINTS_FROM_BANDAI = both_sides(
    {
        "pelvis": {"Hips": 0.7, "Spine": 0.3},
        "spine1": {"Spine": 1},
        "spine2": {"Chest": 1},
        "spine3": {"Chest": 0.8, "Neck": 0.2},
        "neck": {"Neck": 1},
        "head": {"Head": 1},
    },
    {
        "hip": {"UpperLeg_<>": 1},
        "knee": {"LowerLeg_<>": 1},
        "ankle": {"Foot_<>": 1},
        "foot": {"Toes_<>": 1},
        "collar": {"Shoulder_<>": 1},
        "shoulder": {"UpperArm_<>": 1},
        "elbow": {"LowerArm_<>": 1},
        "wrist": {"Hand_<>": 1},
    },
    "LR",
)


def read_bandai(folder: Path) -> tuple[list[Take], list[Skipped]]:
    """Read both data sets, from the archive in place or unpacked, as recorded (30 frames a second).

    Content and style are those of the file's name. The actors are not told apart: the subject is
    "bandai-1" (data set 1) or "bandai-2" (three actors).

    Args:
        folder: ``bandai``, or the data root that holds it.

    Raises:
        InputError: nothing to read.
    """
    takes: list[Take] = []
    skipped: list[Skipped] = []
    root = folder / "bandai" if (folder / "bandai").is_dir() else folder
    for path, bvh in read_bvhs(root, _FILE, skipped):
        trial, number, content, style = _FILE.search(path).groups()
        joints = weighted_joints(JOINTS_FROM_BANDAI, partial(joint_positions, bvh))
        # A few names say the wrong side, and a few walkers turn again.
        side = {"left": 1, "right": -1}.get(content.removeprefix("walk-turn-"))
        if side and not TURNS[0] < side * turned_left(joints) < TURNS[1]:
            skipped.append(
                Skipped(path, f"{content}, but turns left by {turned_left(joints):.0f} degrees")
            )
            continue
        takes.append(
            Take(
                source="bandai",
                licence="CC BY-NC 4.0",
                subject=f"bandai-{number}",
                trial=trial,
                content=content,
                style=style,
                joints=METRES_PER_UNIT * joints,
                rate=bvh.rate,
            )
        )
    return takes, skipped


def turned_left(joints: Float[np.ndarray, "T 22 3"]) -> float:
    """By how many degrees the hips turn to the left from the first to the last frame."""
    across = joints[:, JOINTS.index("left_hip")] - joints[:, JOINTS.index("right_hip")]
    heading = np.unwrap(np.arctan2(-across[:, 2], across[:, 0]))
    return float(np.degrees(heading[-1] - heading[0]))
