"""Acclaim ASF (skeleton) and AMC (motion): readers and forward kinematics to the bone ends.

Follows the Acclaim format as described by Lander, "Working with motion capture file formats"
(Game Developer, 1998). With C the rotation of a bone's `axis` and R that of its degrees of freedom
(both about fixed axes, in the listed order), a bone turns its children by C R C^-1, and its end
lies `length` along `direction`, which is given in the global frame of the rest pose.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from t2imu_utils.errors import InputError

REMEDY = "Fetch the file again, or leave it out."
METRES_PER_INCH = 0.0254
ROOT = "root"
ROTATIONS = ("rx", "ry", "rz")
TRANSLATIONS = ("tx", "ty", "tz")
DAMAGED = (ValueError, KeyError, IndexError, TypeError)  # what a file of another form raises


@dataclass(frozen=True)
class Asf:
    """A parsed ASF skeleton.

    `bones` start with ``"root"``, a parent before its children; `parents` index into them, -1 for
    the root. `ends` is direction times length in the file's unit (of the root: its `position`),
    `axes` the rotation matrix C of each bone, `order` the channels of each bone as its AMC lines
    list them, `turn_order` the order in which the rotations apply. `metres` converts the unit.
    """

    bones: tuple[str, ...]
    parents: tuple[int, ...]
    ends: Float[np.ndarray, "B 3"]
    axes: Float[np.ndarray, "B 3 3"]
    order: tuple[tuple[str, ...], ...]
    turn_order: tuple[str, ...]
    metres: float


def parse_asf(text: str, where: str | Path) -> Asf:
    """Parse the text of an ASF file; angles are degrees unless ``:units`` says ``angle rad``.

    Raises:
        InputError: missing section or field, unknown bone, bad number; names the line or section.
    """
    section, here, block = "", "sections", None
    fields: dict[str, dict[str, list[str]]] = {"units": {}, "root": {}}
    blocks: list[dict[str, Any]] = []
    parent: dict[str, str] = {}
    try:
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            # Parentheses stand around limits only, which are not used.
            word, *words = line.replace("(", " ").split() or ["#"]
            here, key = f"line {number}", word.lower()
            if key.startswith("#"):
                continue
            if key.startswith(":"):
                section = key[1:]
            elif section in fields:
                fields[section][key] = words
            elif section == "bonedata" and key == "begin":
                block = {"line": number}
                blocks.append(block)
            elif section == "bonedata" and key != "end":
                block.setdefault(key, words)
            elif section == "hierarchy" and key not in ("begin", "end"):
                for child in words:
                    if parent.setdefault(child, word) != word or child == ROOT:
                        raise ValueError(f"a second parent of {child}")
        here, units, root = "units", fields["units"], fields["root"]
        length = _numbers(units.get("length", ["1"]), 1)[0]
        degrees = not units.get("angle", ["deg"])[0].lower().startswith("rad")
        here = "root"
        bones = {ROOT: _bone(root, root["axis"][0], root["order"], degrees)}
        bones[ROOT]["end"] = _numbers(root.get("position", ["0"] * 3), 3)
        for block in blocks:
            here = f"bone of line {block['line']}"
            bone = _bone(block, block["axis"][3], block.get("dof", []), degrees)
            end = _numbers(block["length"], 1)[0] * np.array(_numbers(block["direction"], 3))
            if bones.setdefault(block["name"][0], bone | {"end": end})["end"] is not end:
                raise ValueError("two bones of one name")
        here, names = "hierarchy", [ROOT]
        for name in names:
            names.extend(child for child in bones if parent.get(child) == name)
        if lost := (set(bones) | set(parent)) ^ set(names):
            raise ValueError(f"{', '.join(sorted(lost))} not described, or not below the root")
    except DAMAGED as error:
        raise InputError(f"{where}: {here}", _told(error), "an ASF skeleton", REMEDY) from error
    return Asf(
        tuple(names),
        tuple(names.index(parent[n]) if n in parent else -1 for n in names),
        np.array([bones[n]["end"] for n in names]),
        np.array([bones[n]["axis"] for n in names]),
        tuple(bones[n]["order"] for n in names),
        tuple(bones[n]["turn"] for n in names),
        METRES_PER_INCH / length,
    )


def _bone(fields: dict[str, Any], axis: str, channels: list[str], degrees: bool) -> dict[str, Any]:
    """Rotation and channels of a bone; `axis` is the order of its angles."""
    order, axis = tuple(word.lower() for word in channels), axis.lower()
    if sorted(axis) != ["x", "y", "z"]:
        raise ValueError(f"axis {axis!r}, not an order of XYZ")
    # Bones that stretch or slide are not supported.
    known = (*TRANSLATIONS, *ROTATIONS) if "order" in fields else ROTATIONS
    if not set(order) <= set(known) or len(set(order)) != len(order):
        raise ValueError(f"channels {' '.join(order)!r}, not different ones of {' '.join(known)}")
    angles = fields.get("orientation", ["0"] * 3) if "order" in fields else fields["axis"]
    turns = axis if "order" in fields else "".join(channel[1] for channel in order)
    return {
        # Lower case is SciPy's fixed axes.
        "axis": Rotation.from_euler(axis, _numbers(angles, 3), degrees).as_matrix(),
        "order": order,
        "turn": "".join(letter for letter in turns if f"r{letter}" in order),
    }


def _told(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def _numbers(words: list[str], count: int) -> list[float]:
    values = [float(word) for word in words[:count]]
    if len(values) < count or not math.isfinite(sum(values)):
        raise ValueError(f"{' '.join(words)!r}, not {count} finite numbers")
    return values


def parse_amc(text: str, skeleton: Asf, where: str | Path) -> dict[str, Float[np.ndarray, "T D"]]:
    """Parse the text of an AMC file: the channels of each bone, one row a frame.

    Lengths are in the skeleton's unit, angles in degrees whatever the file uses: without a line
    ``:RADIANS`` its own are degrees, whatever the unit of the skeleton file.

    Raises:
        InputError: a bone that the skeleton does not have, a frame that misses one (a truncated
            file), a wrong number of values or a value that is no finite number; names the line.
    """
    order = {name: o for name, o in zip(skeleton.bones, skeleton.order, strict=True) if o}
    rows: dict[str, list[list[float]]] = {name: [] for name in order}
    radians, frames, frame, here = False, 0, 0, "line 1"

    def check_whole() -> None:
        if missing := [name for name, values in rows.items() if len(values) != frames]:
            raise ValueError(f"no line for {', '.join(missing)} in the frame before")

    try:
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            word, *words = line.split() or ["#"]
            here = f"line {number}"
            if word[0] in "#:":
                radians |= word.lower() == ":radians"
            elif not words and word.isdigit():
                check_whole()
                if frames and int(word) != frame + 1:
                    raise ValueError(f"frame {word} after {frame}")
                frames, frame = frames + 1, int(word)
            else:
                rows[word].append(_numbers(words, len(order[word])))
                if len(words) > len(order[word]) or len(rows[word]) != frames:
                    raise ValueError(f"{len(words)} values, or a second line of {word}")
        check_whole()
        if not frames:
            raise ValueError("no frame")
    except DAMAGED as error:
        raise InputError(
            f"{where}: {here}", _told(error), "each frame's number and its moving bones",
            "Check that the ASF belongs to this AMC; else: " + REMEDY,
        ) from error  # fmt: skip
    values = {name: np.array(rows[name]) for name in rows}
    for name in values if radians else ():
        turning = [channel in ROTATIONS for channel in order[name]]
        values[name][:, turning] = np.rad2deg(values[name][:, turning])
    return values


def bone_positions(
    skeleton: Asf, motion: dict[str, Float[np.ndarray, "T D"]]
) -> dict[str, Float[np.ndarray, "T 3"]]:
    """Global positions in metres of the bone ends by name (of ``"root"``: its own position)."""
    frames = len(motion[ROOT])
    rotations: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    for name, parent, end, c, order, turning in zip(
        skeleton.bones, skeleton.parents, skeleton.ends, skeleton.axes, skeleton.order,
        skeleton.turn_order, strict=True,
    ):  # fmt: skip
        above = np.tile(np.eye(3), (frames, 1, 1)) if parent < 0 else rotations[parent]
        if turning:
            columns = [order.index(f"r{letter}") for letter in turning]
            turn = Rotation.from_euler(turning, motion[name][:, columns], degrees=True)
            above = above @ (c @ turn.as_matrix() @ c.T)
        rotations.append(above)
        if parent < 0:
            position = np.tile(end, (frames, 1))
            for axis, channel in enumerate(TRANSLATIONS):
                if channel in order:
                    position[:, axis] += motion[name][:, order.index(channel)]
        else:
            position = positions[parent] + above @ end
        positions.append(position)
    return dict(zip(skeleton.bones, skeleton.metres * np.array(positions), strict=True))
