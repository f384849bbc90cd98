"""Biovision BVH: a reader for any hierarchy and any channel order, and forward kinematics.

The format has no official text; the reading here is that of Meredith & Maddock, "Motion capture
file formats explained" (2001): rotation channels apply in the order in which they are listed, each
about the axes already turned, and position channels are added to the joint's OFFSET.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from t2imu_utils.errors import InputError

CHANNELS = tuple(f"{axis}{kind}" for kind in ("position", "rotation") for axis in "XYZ")
REMEDY = "Fetch the file again, or leave it out."
TOKEN = re.compile(r"[{}]|[^\s{}]+")
FRAMES = re.compile(r"Frames\s*:\s*(\S+)$", re.IGNORECASE)
FRAME_TIME = re.compile(r"Frame\s+Time\s*:\s*(\S+)$", re.IGNORECASE)


@dataclass(frozen=True)
class Bvh:
    """A parsed BVH file. Lengths are in the file's own unit, angles in degrees.

    `names` lists joints and end sites (``"<joint>.end"``) in file order, a parent before its
    children; `parents` holds -1 for a root; `channels` of an end site are empty; `values` has the
    channels of all joints side by side, one row a frame; `frame_time` is in seconds.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: Float[np.ndarray, "N 3"]
    channels: tuple[tuple[str, ...], ...]
    frame_time: float
    values: Float[np.ndarray, "T C"]


def read_bvh(path: str | Path) -> Bvh:
    """Read a BVH file; see `parse_bvh`."""
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such file", "a BVH file", "Check the path.")
    return parse_bvh(path.read_text(encoding="utf-8", errors="replace"), path)


def parse_bvh(text: str, where: str | Path) -> Bvh:
    """Parse the text of a BVH file.

    Args:
        text: the whole file.
        where: what to call it in errors.

    Raises:
        InputError: missing section, bad hierarchy, truncated file, wrong number of values or a
            value that is no finite number; names the line.
    """
    lines = text.splitlines()
    motion = next((i for i, line in enumerate(lines) if line.strip().upper() == "MOTION"), None)
    if motion is None:
        raise InputError(
            f"{where}: MOTION", f"no such section in {len(lines)} lines", "a MOTION line", REMEDY
        )
    names, parents, offsets, channels = _hierarchy(lines[:motion], where)
    frames = int(_header(lines, motion + 1, "Frames", FRAMES, where))
    frame_time = _header(lines, motion + 2, "Frame Time", FRAME_TIME, where)
    if frame_time <= 0:
        raise InputError(
            f"{where}: Frame Time, line {motion + 3}", str(frame_time), "seconds above 0", REMEDY
        )
    values = _values(lines, motion + 3, frames, sum(map(len, channels)), where)
    return Bvh(names, parents, offsets, channels, frame_time, values)


def joint_positions(bvh: Bvh, names: Sequence[str] | None = None) -> Float[np.ndarray, "T N 3"]:
    """Global positions of joints and end sites by forward kinematics, in the file's unit.

    Args:
        names: which of ``bvh.names``, in the order wanted; all when None.

    Raises:
        InputError: a name that the hierarchy does not have.
    """
    wanted = bvh.names if names is None else tuple(names)
    unknown = [name for name in wanted if name not in bvh.names]
    if unknown:
        raise InputError(
            "BVH hierarchy",
            f"no joint {', '.join(map(repr, unknown))}",
            f"joints among {', '.join(bvh.names)}",
            "The file follows another naming of joints.",
        )
    index = {name: i for i, name in enumerate(bvh.names)}
    needed: set[int] = set()
    for name in wanted:
        joint = index[name]
        while joint >= 0 and joint not in needed:
            needed.add(joint)
            joint = bvh.parents[joint]
    first = np.concatenate([[0], np.cumsum([len(c) for c in bvh.channels])]).astype(int)
    rotations: dict[int, np.ndarray] = {}
    positions: dict[int, np.ndarray] = {}
    for joint in sorted(needed):
        channels = bvh.channels[joint]
        columns = bvh.values[:, first[joint] : first[joint + 1]]
        position = np.broadcast_to(bvh.offsets[joint], (len(bvh.values), 3)).copy()
        for column, channel in zip(columns.T, channels, strict=True):
            if channel.endswith("position"):
                position[:, "XYZ".index(channel[0])] += column
        turning = [i for i, channel in enumerate(channels) if channel.endswith("rotation")]
        turn = None
        if turning:
            order = "".join(channels[i][0] for i in turning)
            turn = Rotation.from_euler(order, columns[:, turning], degrees=True).as_matrix()
        parent = bvh.parents[joint]
        if parent >= 0:
            above = rotations[parent]
            position = positions[parent] + (above @ position[..., None])[..., 0]
            turn = above if turn is None else above @ turn
        elif turn is None:
            turn = np.broadcast_to(np.eye(3), (len(bvh.values), 3, 3))
        positions[joint], rotations[joint] = position, turn
    return np.stack([positions[index[name]] for name in wanted], axis=1)


def _hierarchy(
    lines: list[str], where: str | Path
) -> tuple[tuple[str, ...], tuple[int, ...], np.ndarray, tuple[tuple[str, ...], ...]]:
    """Names, parents, offsets and channels of the HIERARCHY section."""
    tokens = [(t, n) for n, line in enumerate(lines, 1) for t in TOKEN.findall(line)]
    position = 0

    def fail(found: str, expected: str) -> InputError:
        line = tokens[min(position, len(tokens)) - 1][1] if tokens else 1
        return InputError(f"{where}: HIERARCHY, line {line}", found, expected, REMEDY)

    def take(expected: str) -> str:
        nonlocal position
        if position >= len(tokens):
            position += 1
            raise fail("the end of the section", expected)
        position += 1
        return tokens[position - 1][0]

    def number(expected: str) -> float:
        token = take(expected)
        try:
            value = float(token)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            raise fail(repr(token), expected)
        return value

    if take("HIERARCHY").upper() != "HIERARCHY":
        raise fail(repr(tokens[0][0]), "HIERARCHY")
    names: list[str] = []
    parents: list[int] = []
    offsets: list[list[float] | None] = []
    channels: list[tuple[str, ...] | None] = []
    stack: list[int] = []
    while position < len(tokens) or stack:
        keyword = take("ROOT, JOINT, End Site, OFFSET, CHANNELS or }")
        if keyword in ("ROOT", "JOINT", "End"):
            if (keyword == "ROOT") != (not stack):
                raise fail(keyword, "ROOT outside of all braces, JOINT and End Site inside")
            label = []
            while (token := take("{")) != "{":
                label.append(token)
            name = f"{names[stack[-1]]}.end" if keyword == "End" else " ".join(label)
            if not name or name in names:
                raise fail(f"joint name {name!r}", "a name that no other joint has")
            stack.append(len(names))
            parents.append(stack[-2] if len(stack) > 1 else -1)
            names.append(name)
            offsets.append(None)
            channels.append(() if keyword == "End" else None)
        elif not stack:
            raise fail(repr(keyword), "ROOT")
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
            raise fail(repr(keyword), "ROOT, JOINT, End Site, OFFSET, CHANNELS or }")
    if not names:
        raise fail("no joint", "at least one ROOT")
    return tuple(names), tuple(parents), np.array(offsets), tuple(channels)


def _header(
    lines: list[str], at: int, field: str, pattern: re.Pattern[str], where: str | Path
) -> float:
    """The number behind ``Frames:`` or ``Frame Time:``."""
    line = lines[at].strip() if at < len(lines) else ""
    match = pattern.match(line)
    try:
        value = float(match[1]) if match else np.nan
    except ValueError:
        value = np.nan
    if not np.isfinite(value) or value < 0:
        raise InputError(
            f"{where}: {field}, line {at + 1}", repr(line), f"'{field}: number'", REMEDY
        )
    return value


def _values(
    lines: list[str], start: int, frames: int, width: int, where: str | Path
) -> Float[np.ndarray, "T C"]:
    """The rows of the MOTION section."""
    rows = [(n, line) for n, line in enumerate(lines[start:], start + 1) if line.strip()]
    if len(rows) != frames:
        raise InputError(
            f"{where}: MOTION, line {len(lines)}",
            f"{len(rows)} frames",
            f"the {frames} frames that 'Frames:' promises",
            "The file is truncated or damaged. " + REMEDY,
        )
    values = np.empty((frames, width))
    for frame, (number, line) in enumerate(rows):
        tokens = line.split()
        if len(tokens) != width:
            raise InputError(
                f"{where}: frame {frame}, line {number}",
                f"{len(tokens)} values",
                f"{width} values, one a channel",
                "The file is truncated or damaged. " + REMEDY,
            )
        try:
            values[frame] = tokens
        except ValueError:
            values[frame] = np.nan
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        number, line = rows[bad[0]]
        token = next(t for t in line.split() if not _finite(t))
        raise InputError(
            f"{where}: frame {bad[0]}, line {number}", repr(token), "finite numbers", REMEDY
        )
    return values


def _finite(token: str) -> bool:
    try:
        return bool(np.isfinite(float(token)))
    except ValueError:
        return False
