"""Biovision BVH: any hierarchy and order of channels, forward kinematics, and two sets in it.

The format has no official text. Rotation channels apply in the order in which they are listed, each
about the axes already turned (Meredith & Maddock, "Motion capture file formats explained", 2001).
Position channels hold the joint's whole place in its parent and take the place of OFFSET, which is
what programs that write them on every joint mean; where all OFFSETs of positioned joints are 0, as
in most files, this is the same as adding them.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.motion.skeleton import JOINTS, joint_weights, weighted_joints
from t2imu_utils.motion.takes import Take, read_files, turned_left

CHANNELS = tuple(f"{axis}{kind}" for kind in ("position", "rotation") for axis in "XYZ")
REMEDY = "Fetch the file again, or leave it out."
# Frame times are rounded (0.041667 s), so a rate this close to a common one is that one.
COMMON_RATES = (20, 24, 25, 29.97, 30, 48, 50, 59.94, 60, 72, 90, 100, 120, 144, 200, 240, 250, 300)
RATE_TOLERANCE = 0.005
MIN_RATE, MAX_RATE = 20.0, 1000.0

WORD = re.compile(r"[{}]|[^\s{}]+")
MOST_WORDS = 20  # of a name


@dataclass(frozen=True)
class Bvh:
    """A parsed BVH file. Lengths are in the file's own unit, angles in degrees.

    `names` lists joints and end sites (``"<joint>.end"``) in file order, a parent before its
    children; `parents` holds -1 for a root; `channels` of an end site are empty; `values` has the
    channels of all joints side by side, one row a frame; `frame_time` is in seconds, as written.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: Float[np.ndarray, "N 3"]
    channels: tuple[tuple[str, ...], ...]
    frame_time: float
    values: Float[np.ndarray, "T C"]

    @property
    def rate(self) -> float:
        """Frames a second: the common rate that `frame_time` rounds, or its inverse."""
        rate = 1 / self.frame_time
        nearest = min(COMMON_RATES, key=lambda common: abs(common - rate))
        return float(nearest if abs(rate / nearest - 1) <= RATE_TOLERANCE else rate)


def parse_bvh(text: str, where: str | Path) -> Bvh:
    """Parse the text of a BVH file; keywords in any case, ``#`` begins a line of comment.

    Args:
        text: the whole file.
        where: what to call it in errors.
    """
    numbered = enumerate(text.removeprefix("\ufeff").split("\n"), 1)
    lines = [(n, line) for n, line in numbered if line.strip() and line.strip()[0] != "#"]
    here, rows = 0, []
    try:
        keywords = [line.strip().upper() for _, line in lines]
        motion = keywords.index("MOTION") if "MOTION" in keywords else len(lines)
        hierarchy = ((n, w) for n, line in lines[:motion] for w in WORD.findall(line))

        def take() -> str:
            nonlocal here
            here, word = next(hierarchy, (here, "the end of HIERARCHY"))
            return word

        joints = _hierarchy(take)
        header, width = {}, sum(map(len, joints[3]))
        for number, line in lines[motion + 1 : motion + 3]:
            here, (field, _, value) = number, line.partition(":")
            header[" ".join(field.split()).upper()] = float(value)
        frames, frame_time = int(header["FRAMES"]), header["FRAME TIME"]
        for number, line in lines[motion + 3 :]:
            here = number
            rows.append([float(word) for word in line.split()])
            if len(rows[-1]) != width or not math.isfinite(sum(rows[-1])):
                raise ValueError(f"{len(rows[-1])} values, or one that is not finite")
        if len(rows) != frames:
            raise ValueError(f"{len(rows)} frames, not the {frames} that 'Frames:' promises")
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise InputError(
            f"{where}: line {here}", str(error), "a whole file: HIERARCHY, then MOTION", REMEDY
        ) from error
    values = np.array(rows).reshape(frames, width)
    bvh = Bvh(*map(tuple, joints[:2]), np.array(joints[2]), tuple(joints[3]), frame_time, values)
    if not (frame_time > 0 and MIN_RATE <= bvh.rate <= MAX_RATE):
        rate = f"{bvh.rate:.4g} frames/s" if frame_time > 0 else f"{frame_time:g} s"
        raise InputError(
            f"{where}: Frame Time", rate, f"{MIN_RATE:g} to {MAX_RATE:g} frames/s",
            "Frame Time counts seconds. " + REMEDY,
        )  # fmt: skip
    return bvh


def _hierarchy(take: Callable[[], str]) -> tuple[list, list, list, list]:
    """Names, parents, offsets and channels of the joints, from the section's words in turn."""
    if (word := take()).upper() != "HIERARCHY":
        raise ValueError(f"{word}, not HIERARCHY")
    names: list[str] = []
    parents: list[int] = []
    offsets: list[list[float] | None] = []
    channels: list[tuple[str, ...] | None] = []
    stack: list[int] = []
    while (word := take()) != "the end of HIERARCHY" or stack:
        keyword = word.upper()
        if keyword == "ROOT" and not stack or keyword in ("JOINT", "END") and stack:
            label = []
            while len(label) < MOST_WORDS and (part := take()) != "{":
                label.append(part)
            name = f"{names[stack[-1]]}.end" if keyword == "END" else " ".join(label)
            if not name or name in names:
                raise ValueError(f"{name!r} is no name, or that of two joints")
            parents.append(stack[-1] if stack else -1)
            stack.append(len(names))
            names.append(name)
            offsets.append(None)
            channels.append(() if keyword == "END" else None)
        elif keyword == "OFFSET" and stack:
            offsets[stack[-1]] = [float(take()) for _ in "xyz"]
            if not np.isfinite(offsets[stack[-1]]).all():
                raise ValueError("an offset that is not finite")
        elif keyword == "CHANNELS" and stack:
            listed = tuple(take().capitalize() for _ in range(int(take())))
            if len(set(listed)) != len(listed) or not set(listed) <= set(CHANNELS):
                raise ValueError(f"{' '.join(listed)}: not different ones of {' '.join(CHANNELS)}")
            channels[stack[-1]] = listed
        elif keyword == "}" and stack:
            joint = stack.pop()
            if offsets[joint] is None or channels[joint] is None:
                raise ValueError(f"{names[joint]} without OFFSET or CHANNELS")
        else:
            raise ValueError(f"{word}, not ROOT, JOINT, End Site, OFFSET, CHANNELS or a brace")
    if not names:
        raise ValueError("no joint")
    return names, parents, offsets, channels


def joint_positions(bvh: Bvh) -> dict[str, Float[np.ndarray, "T 3"]]:
    """Global positions of all joints and end sites by name, in the file's unit."""
    columns = iter(bvh.values.T)
    positions, rotations = [], []
    for parent, offset, channels in zip(bvh.parents, bvh.offsets, bvh.channels, strict=True):
        position = np.tile(offset, (len(bvh.values), 1))
        order, angles = "", []
        for channel, column in zip(channels, columns, strict=False):
            if channel.endswith("position"):
                position[:, "XYZ".index(channel[0])] = column
            else:
                order, angles = order + channel[0], [*angles, column]
        turn = Rotation.identity(len(position))
        if order:
            turn = Rotation.from_euler(order, np.transpose(angles), degrees=True)
        if parent >= 0:
            position = positions[parent] + rotations[parent].apply(position)
            turn = rotations[parent] * turn
        positions.append(position)
        rotations.append(turn)
    return dict(zip(bvh.names, positions, strict=True))


# Each of the 22 joints as a weighted mean of the set's own. All recordings have one skeleton, whose
# Hips lie 2 cm above the thighs and whose Chest lies between SMPL's two upper spine joints.
JOINTS_FROM_BANDAI = joint_weights(
    "LR",
    pelvis="0.7 Hips + 0.3 Spine", spine1="Spine", spine2="Chest", spine3="0.8 Chest + 0.2 Neck",
    neck="Neck", head="Head", hip="UpperLeg_<>", knee="LowerLeg_<>", ankle="Foot_<>",
    foot="Toes_<>", collar="Shoulder_<>", shoulder="UpperArm_<>", elbow="LowerArm_<>",
    wrist="Hand_<>",
)  # fmt: skip
METRES_PER_BANDAI_UNIT = 0.01
TURNS = (45.0, 135.0)  # degrees; "walk-turn-left" means a quarter
_BANDAI_FILE = re.compile(r"(?:^|/)(dataset-([12])_([\w-]+)_([\w-]+)_\d+)\.bvh$")


def read_bandai(folder: Path) -> tuple[list[Take], list[Skipped]]:
    """Read the Bandai-Namco Research Motiondataset (Kobayashi et al. 2023): acted, in many styles.

    Both data sets below `folder`/bandai, zipped or not, as recorded (30 frames a second). Content
    and style are those of the file's name. The actors are not told apart: the subject is "bandai-1"
    (data set 1) or "bandai-2" (three actors).
    """
    takes: list[Take] = []
    skipped: list[Skipped] = []
    for match, bvh in read_files(folder / "bandai", _BANDAI_FILE, parse_bvh, skipped):
        trial, number, content, style = match.groups()
        joints = weighted_joints(JOINTS_FROM_BANDAI, joint_positions(bvh))
        # A few names say the wrong side, and a few walkers turn again.
        side = {"left": 1, "right": -1}.get(content.removeprefix("walk-turn-"))
        if side and not TURNS[0] < side * (turned := turned_left(joints)) < TURNS[1]:
            skipped.append(Skipped(trial, f"{content}, but turns left by {turned:.0f} degrees"))
            continue
        joints = METRES_PER_BANDAI_UNIT * joints
        told = "CC BY-NC 4.0", f"bandai-{number}", trial, content, style
        takes.append(Take("bandai", *told, joints, bvh.rate))
    return takes, skipped


JOINTS_FROM_REACTIDLE = joint_weights(
    "LR",
    pelvis="0.7 pelvis + 0.3 spine.001", spine1="0.2 pelvis + 0.8 spine.001",
    spine2="0.7 spine.001 + 0.3 neck", spine3="0.5 spine.001 + 0.5 neck",
    neck="0.5 neck + 0.5 face", head="face", hip="thigh.<>", knee="shin.<>", ankle="foot.<>",
    foot="foot.<>.end", collar="0.64 neck + 0.36 upper_arm.<>", shoulder="upper_arm.<>",
    elbow="forearm.<>", wrist="forearm.<>.end",
)  # fmt: skip
# Height of the head joint above the floor that every recording is scaled to, that of the open body.
HEAD_HEIGHT = 1.58  # m
_REACTIDLE_FILE = re.compile(r"(?:^|/)((\d+)_(acted|genuine))\.bvh$")


def read_reactidle(folder: Path) -> tuple[list[Take], list[Skipped]]:
    """Read ReActIdle: people who stand and idle, unaware and as they were asked to act it.

    All recordings below `folder`/reactidle, zipped or not (24 frames a second). The set's 19 joints
    have neither wrists nor toes: they are the end sites of forearms and feet, so hands and toes do
    not bend. The motion was tracked in video, which does not tell scale (as written, grown-ups'
    heads are at 1.2 to 1.8 m), so each recording is scaled to one height. The root counts from
    where it stood; all stand throughout, so the median of the lowest joint is the floor.
    """
    takes: list[Take] = []
    skipped: list[Skipped] = []
    for match, bvh in read_files(folder / "reactidle", _REACTIDLE_FILE, parse_bvh, skipped):
        trial, subject, kind = match.groups()
        joints = weighted_joints(JOINTS_FROM_REACTIDLE, joint_positions(bvh))
        floor = np.median(joints[..., 1].min(axis=1))
        scale = HEAD_HEIGHT / (np.median(joints[:, JOINTS.index("head"), 1]) - floor)
        joints = scale * (joints - [0, floor, 0])
        takes.append(Take("reactidle", "MIT", subject, trial, "idle", kind, joints, bvh.rate))
    return takes, skipped
