"""Biovision BVH: any hierarchy and order of channels, forward kinematics, and two sets in it.

The format has no official text. Rotation channels apply in the order in which they are listed, each
about the axes already turned (Meredith & Maddock, "Motion capture file formats explained", 2001).
Position channels hold the joint's whole place in its parent and take the place of OFFSET, which is
what programs that write them on every joint mean; where all OFFSETs of positioned joints are 0, as
in most files, this is the same as adding them.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.motion.skeleton import JOINTS, both_sides, weighted_joints
from t2imu_utils.motion.takes import Take, files_below

CHANNELS = tuple(f"{axis}{kind}" for kind in ("position", "rotation") for axis in "XYZ")
REMEDY = "Fetch the file again, or leave it out."
# Frame times are rounded (0.041667 s), so a rate this close to a common one is that one.
COMMON_RATES = (20, 24, 25, 29.97, 30, 48, 50, 59.94, 60, 72, 90, 100, 120, 144, 200, 240, 250, 300)
RATE_TOLERANCE = 0.005
MIN_RATE, MAX_RATE = 20.0, 1000.0

Line = tuple[int, str]  # its number in the file, and its text


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


def read_bvhs(root: Path, name: re.Pattern, skipped: list[Skipped]) -> Iterator[tuple[str, Bvh]]:
    """Name and content of each BVH file in a folder and in its zips, read in place.

    Args:
        name: of the files to read.
        skipped: files that cannot be read are added here.

    Raises:
        InputError: `root` has no file whose path matches `name`.
    """
    sources = [source for source in files_below(root) if name.search(source.name)]
    if not sources:
        raise InputError(
            root, f"no file named like {name.pattern}", "the set's BVH files", "Fetch the set."
        )
    for source in sources:
        try:
            yield source.name, parse_bvh(source.read(), str(source))
        except InputError as error:
            skipped.append(Skipped(source.name, str(error)))


def parse_bvh(text: str, where: str | Path) -> Bvh:
    """Parse the text of a BVH file; keywords in any case, ``#`` begins a line of comment.

    Args:
        text: the whole file.
        where: what to call it in errors.

    Raises:
        InputError: missing section, bad hierarchy, truncated file, wrong number of values, a
            value that is no finite number, or a rate out of bounds; names the line.
    """
    lines = [
        (number, line.strip())
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    motion = next((i for i, (_, line) in enumerate(lines) if line.upper() == "MOTION"), None)
    if motion is None:
        raise InputError(
            f"{where}: MOTION", f"no such section in {len(lines)} lines", "a MOTION line", REMEDY
        )
    names, parents, offsets, channels = _hierarchy(lines[:motion], where)
    frames = int(_header(lines, motion + 1, "Frames", where))
    frame_time = _header(lines, motion + 2, "Frame Time", where)
    values = _values(lines[motion + 3 :], frames, sum(map(len, channels)), where)
    bvh = Bvh(names, parents, offsets, channels, frame_time, values)
    if frame_time <= 0 or not MIN_RATE <= bvh.rate <= MAX_RATE:
        raise InputError(
            f"{where}: Frame Time, line {lines[motion + 2][0]}",
            f"{bvh.rate:.4g} frames/s" if frame_time > 0 else f"{frame_time:g} s",
            f"{MIN_RATE:g} to {MAX_RATE:g} frames/s",
            "Frame Time counts seconds. " + REMEDY,
        )
    return bvh


def joint_positions(bvh: Bvh, names: Sequence[str] | None = None) -> Float[np.ndarray, "T N 3"]:
    """Global positions of joints and end sites by forward kinematics, in the file's unit.

    Args:
        names: which of ``bvh.names``, in the order wanted; all when None.

    Raises:
        InputError: a name that the hierarchy does not have.
    """
    wanted = bvh.names if names is None else tuple(names)
    if unknown := [name for name in wanted if name not in bvh.names]:
        raise InputError(
            "BVH hierarchy",
            f"no joint {', '.join(map(repr, unknown))}",
            f"joints among {', '.join(bvh.names)}",
            "The file follows another naming of joints.",
        )
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
    return np.stack([positions[bvh.names.index(name)] for name in wanted], axis=1)


def _hierarchy(
    lines: list[Line], where: str | Path
) -> tuple[tuple[str, ...], tuple[int, ...], np.ndarray, tuple[tuple[str, ...], ...]]:
    """Names, parents, offsets and channels of the HIERARCHY section."""
    tokens = [(t, n) for n, line in lines for t in re.findall(r"[{}]|[^\s{}]+", line)]
    position = 0

    def fail(found: str, expected: str) -> InputError:
        line = tokens[min(position, len(tokens)) - 1][1] if tokens else 1
        return InputError(f"{where}: HIERARCHY, line {line}", found, expected, REMEDY)

    def take(expected: str) -> str:
        nonlocal position
        position += 1
        if position > len(tokens):
            raise fail("the end of the section", expected)
        return tokens[position - 1][0]

    def number(expected: str) -> float:
        token = take(expected)
        if not np.isfinite(value := _number(token)):
            raise fail(repr(token), expected)
        return value

    if (first := take("HIERARCHY")).upper() != "HIERARCHY":
        raise fail(repr(first), "HIERARCHY")
    names: list[str] = []
    parents: list[int] = []
    offsets: list[list[float] | None] = []
    channels: list[tuple[str, ...] | None] = []
    stack: list[int] = []
    while position < len(tokens) or stack:
        token = take("ROOT, JOINT, End Site, OFFSET, CHANNELS or }")
        keyword = token.upper()
        if keyword in ("ROOT", "JOINT", "END"):
            if (keyword == "ROOT") != (not stack):
                raise fail(token, "ROOT outside of all braces, JOINT and End Site inside")
            label = []
            while (part := take("{")) != "{":
                label.append(part)
            name = f"{names[stack[-1]]}.end" if keyword == "END" else " ".join(label)
            if not name or name in names:
                raise fail(f"joint name {name!r}", "a name that no other joint has")
            parents.append(stack[-1] if stack else -1)
            stack.append(len(names))
            names.append(name)
            offsets.append(None)
            channels.append(() if keyword == "END" else None)
        elif not stack:
            raise fail(repr(token), "ROOT")
        elif keyword == "OFFSET":
            offsets[stack[-1]] = [
                number(f"three numbers of OFFSET of {names[stack[-1]]}") for _ in "xyz"
            ]
        elif keyword == "CHANNELS":
            count = number("the number of channels")
            listed = tuple(take("a channel").capitalize() for _ in range(int(count)))
            if len(set(listed)) != len(listed) or not set(listed) <= set(CHANNELS):
                raise fail(
                    f"channels {' '.join(listed)}", f"different ones of {' '.join(CHANNELS)}"
                )
            channels[stack[-1]] = listed
        elif keyword == "}":
            joint = stack.pop()
            if offsets[joint] is None or channels[joint] is None:
                missing = "OFFSET" if offsets[joint] is None else "CHANNELS"
                raise fail(f"joint {names[joint]} without {missing}", "OFFSET and CHANNELS")
        else:
            raise fail(repr(token), "ROOT, JOINT, End Site, OFFSET, CHANNELS or }")
    if not names:
        raise fail("no joint", "at least one ROOT")
    return tuple(names), tuple(parents), np.array(offsets), tuple(channels)


def _header(lines: list[Line], at: int, field: str, where: str | Path) -> float:
    """The number behind ``Frames:`` or ``Frame Time:``."""
    number, line = lines[min(at, len(lines) - 1)]
    name, _, rest = line.partition(":")
    value = _number(rest) if " ".join(name.split()).upper() == field.upper() else np.nan
    if not np.isfinite(value) or value < 0:
        raise InputError(
            f"{where}: {field}, line {number}", repr(line), f"'{field}: number'", REMEDY
        )
    return value


def _values(
    lines: list[Line], frames: int, width: int, where: str | Path
) -> Float[np.ndarray, "T C"]:
    """The rows of the MOTION section."""
    if len(lines) != frames:
        raise InputError(
            f"{where}: MOTION, line {lines[-1][0] if lines else 'last'}",
            f"{len(lines)} frames",
            f"the {frames} frames that 'Frames:' promises",
            "The file is truncated or damaged. " + REMEDY,
        )
    values = np.empty((frames, width))
    for frame, (number, line) in enumerate(lines):
        tokens = line.split()
        if len(tokens) != width:
            raise InputError(
                f"{where}: frame {frame}, line {number}",
                f"{len(tokens)} values",
                f"{width} values, one a channel",
                "The file is truncated or damaged. " + REMEDY,
            )
        try:
            values[frame] = [float(token) for token in tokens]
        except ValueError:
            values[frame] = np.nan
        if not np.isfinite(values[frame]).all():
            bad = next(token for token in tokens if not np.isfinite(_number(token)))
            raise InputError(
                f"{where}: frame {frame}, line {number}", repr(bad), "finite numbers", REMEDY
            )
    return values


def _number(token: str) -> float:
    """What a token says, NaN if that is no number."""
    try:
        return float(token)
    except ValueError:
        return np.nan


METRES_PER_BANDAI_UNIT = 0.01
TURNS = (45.0, 135.0)  # degrees; "walk-turn-left" means a quarter
_BANDAI_FILE = re.compile(r"(?:^|/)(dataset-([12])_([\w-]+)_([\w-]+)_\d+)\.bvh$")

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
    """Read the Bandai-Namco Research Motiondataset (Kobayashi et al. 2023): acted, in many styles.

    Both data sets, from the archive in place or unpacked, as recorded (30 frames a second).

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
    for path, bvh in read_bvhs(root, _BANDAI_FILE, skipped):
        trial, number, content, style = _BANDAI_FILE.search(path).groups()
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
                joints=METRES_PER_BANDAI_UNIT * joints,
                rate=bvh.rate,
            )
        )
    return takes, skipped


def turned_left(joints: Float[np.ndarray, "T 22 3"]) -> float:
    """By how many degrees the hips turn to the left from the first to the last frame."""
    across = joints[:, JOINTS.index("left_hip")] - joints[:, JOINTS.index("right_hip")]
    heading = np.unwrap(np.arctan2(-across[:, 2], across[:, 0]))
    return float(np.degrees(heading[-1] - heading[0]))


# Height of the head joint above the floor that every recording is scaled to, that of the open body.
HEAD_HEIGHT = 1.58  # m
_REACTIDLE_FILE = re.compile(r"(?:^|/)((\d+)_(acted|genuine))\.bvh$")

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
    """Read ReActIdle: people who stand and idle, unaware and as they were asked to act it.

    All recordings, from the archive in place or unpacked (24 frames a second).

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
    for path, bvh in read_bvhs(root, _REACTIDLE_FILE, skipped):
        trial, subject, kind = _REACTIDLE_FILE.search(path).groups()
        joints = weighted_joints(JOINTS_FROM_REACTIDLE, partial(joint_positions, bvh))
        floor = np.median(joints[..., 1].min(axis=1))
        scale = HEAD_HEIGHT / (np.median(joints[:, JOINTS.index("head"), 1]) - floor)
        joints = scale * (joints - [0, floor, 0])
        takes.append(Take("reactidle", "MIT", subject, trial, "idle", kind, joints, bvh.rate))
    return takes, skipped
