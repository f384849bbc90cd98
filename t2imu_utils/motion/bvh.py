"""Biovision BVH: a reader for any hierarchy and any channel order, and forward kinematics.

The format has no official text. Rotation channels apply in the order in which they are listed, each
about the axes already turned (Meredith & Maddock, "Motion capture file formats explained", 2001).
Position channels hold the joint's whole place in its parent and take the place of OFFSET, which is
what programs that write them on every joint mean; where all OFFSETs of positioned joints are 0, as
in most files, this is the same as adding them.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.imu.archives import leaves, open_tree

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


def read_bvh(path: str | Path) -> Bvh:
    """Read a BVH file; see `parse_bvh`."""
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such file", "a BVH file", "Check the path.")
    return parse_bvh(path.read_text(encoding="utf-8", errors="replace"), path)


def read_bvhs(root: Path, name: re.Pattern, skipped: list[Skipped]) -> Iterator[tuple[str, Bvh]]:
    """Path and content of each BVH file in a folder and in its zips, read in place.

    Args:
        root: the folder, or one zip.
        name: of the files to read, searched for in their paths below `root`.
        skipped: files that cannot be read are added here.

    Raises:
        InputError: `root` is missing, or has no file whose path matches `name`.
    """
    matched = 0
    with open_tree(root, re.compile(r"\.zip$", re.IGNORECASE), skipped) as entries:
        for entry in entries:
            if not name.search(entry.name):
                continue
            matched += 1
            for path, content in leaves(entry, skipped):
                try:
                    yield path, parse_bvh(content.decode("utf-8", errors="replace"), path)
                except InputError as error:
                    skipped.append(Skipped(path, str(error)))
    if not matched:
        raise InputError(
            root, f"no file named like {name.pattern}", "the set's BVH files", "Fetch the set."
        )


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
        for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1)
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
