"""Acclaim ASF (skeleton) and AMC (motion): readers and forward kinematics to the bone ends.

Follows the Acclaim format as described by Lander, "Working with motion capture file formats"
(Game Developer, 1998). With C the rotation of a bone's `axis` and R that of its degrees of freedom
(both about fixed axes, in the listed order), a bone turns its children by C R C^-1, and its end
lies `length` along `direction`, which is given in the global frame of the rest pose.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from t2imu_utils.errors import InputError

REMEDY = "Fetch the file again, or leave it out."
METRES_PER_INCH = 0.0254
ROOT = "root"
ROTATIONS = ("rx", "ry", "rz")
TRANSLATIONS = ("tx", "ty", "tz")

Line = tuple[int, list[str]]  # its number, from 1, and its words
Field = tuple[list[str], int]  # the words of a line that starts with a keyword, and its number


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
        InputError: missing section or field, unknown bone, bad number; names line and field.
    """
    sections = _split_sections(text, where)
    units = {words[0].lower(): (words, n) for n, words in sections["units"]}
    length = _field_numbers(units, "length", 1, where)[0] if "length" in units else 1.0
    if length <= 0:
        raise InputError(f"{where}: units, length", str(length), "a number above 0", REMEDY)
    angle = units["angle"][0][1:2] if "angle" in units else ["deg"]
    degrees = not "".join(angle).lower().startswith("rad")

    root = {words[0].lower(): (words, n) for n, words in sections["root"]}
    for field in ("order", "axis"):
        if field not in root:
            raise InputError(f"{where}: root", f"no {field}", "order and axis of the root", REMEDY)
    order = tuple(word.lower() for word in root["order"][0][1:])
    if not set(order) <= {*TRANSLATIONS, *ROTATIONS} or len(set(order)) != len(order):
        raise InputError(
            f"{where}: root, order, line {root['order'][1]}", " ".join(order), "TX … RZ", REMEDY
        )
    axis = _axis_order(root["axis"], where)
    orientation = (
        _field_numbers(root, "orientation", 3, where) if "orientation" in root else [0.0] * 3
    )
    position = _field_numbers(root, "position", 3, where) if "position" in root else [0.0] * 3
    bones = {
        ROOT: {
            "end": np.array(position),
            "axis": Rotation.from_euler(axis, orientation, degrees).as_matrix(),
            "order": order,
            "turn": "".join(letter for letter in axis if f"r{letter}" in order),
        }
    }
    for block in _split_blocks(sections["bonedata"], where):
        name, bone = _bone(block, degrees, where)
        if name in bones:
            raise InputError(f"{where}: bonedata", f"bone {name} twice", "each bone once", REMEDY)
        bones[name] = bone
    parent = _parents(sections["hierarchy"], bones, where)
    names = [ROOT]
    for name in names:
        names.extend(child for child in bones if parent.get(child) == name)
    if lost := sorted(set(bones) - set(names)):
        raise InputError(
            f"{where}: hierarchy", f"{', '.join(lost)} not below the root", "one tree", REMEDY
        )
    return Asf(
        tuple(names),
        tuple(names.index(parent[n]) if n in parent else -1 for n in names),
        np.array([bones[n]["end"] for n in names]),
        np.array([bones[n]["axis"] for n in names]),
        tuple(bones[n]["order"] for n in names),
        tuple(bones[n]["turn"] for n in names),
        METRES_PER_INCH / length,
    )


def parse_amc(text: str, skeleton: Asf, where: str | Path) -> dict[str, Float[np.ndarray, "T D"]]:
    """Parse the text of an AMC file: the channels of each bone, one row a frame.

    Lengths are in the skeleton's unit, angles in degrees whatever the file uses: without a line
    ``:RADIANS`` its own are degrees, whatever the unit of the skeleton file.

    Raises:
        InputError: a bone that the skeleton does not have, a frame that misses one (a truncated
            file), a wrong number of values or a value that is no finite number; names the line.
    """
    width = dict(zip(skeleton.bones, map(len, skeleton.order), strict=True))
    moving = {name for name in skeleton.bones if width[name]}
    rows: dict[str, list[list[str]]] = {name: [] for name in moving}
    numbers: dict[str, list[int]] = {name: [] for name in moving}
    radians, frames, number = False, 0, 0
    expected = None
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        words = line.split()
        if not words or words[0][0] in "#:":
            radians |= bool(words) and words[0].lower() == ":radians"
        elif len(words) == 1 and words[0].isdigit():
            _check_whole(rows, frames, f"{where}: frame before line {number}")
            if expected is not None and int(words[0]) != expected:
                raise InputError(
                    f"{where}: line {number}", f"frame {words[0]}", f"frame {expected}", REMEDY
                )
            expected = int(words[0]) + 1
            frames += 1
        elif words[0] not in moving or not frames:
            raise InputError(
                f"{where}: line {number}",
                repr(line.strip()[:40]),
                "a frame number, then a line for each moving bone of the skeleton",
                "Check that the ASF belongs to this AMC; else: " + REMEDY,
            )
        else:
            bone = rows[words[0]]
            if len(words) - 1 != width[words[0]] or len(bone) != frames - 1:
                raise InputError(
                    f"{where}: {words[0]}, line {number}",
                    f"{len(words) - 1} values"
                    + (" a second time in this frame" if len(bone) == frames else ""),
                    f"{width[words[0]]} values, once a frame",
                    "The file is truncated or damaged. " + REMEDY,
                )
            bone.append(words[1:])
            numbers[words[0]].append(number)
    _check_whole(rows, frames, f"{where}: last frame, line {number}")
    if not frames:
        raise InputError(where, "no frame", "at least one frame", REMEDY)
    values = {}
    for name, order in zip(skeleton.bones, skeleton.order, strict=True):
        if not order:
            continue
        values[name] = _as_floats(rows[name], numbers[name], f"{where}: {name}")
        if radians:
            turning = [channel in ROTATIONS for channel in order]
            values[name][:, turning] = np.rad2deg(values[name][:, turning])
    return values


def bone_positions(
    skeleton: Asf, motion: dict[str, Float[np.ndarray, "T D"]], names: Sequence[str] | None = None
) -> Float[np.ndarray, "T B 3"]:
    """Global positions in metres of the bone ends (of ``"root"``: its own position).

    Args:
        skeleton: from `parse_asf`.
        motion: from `parse_amc`.
        names: which bones, in the order wanted; all when None.

    Raises:
        InputError: a name that the skeleton does not have.
    """
    wanted = skeleton.bones if names is None else tuple(names)
    if unknown := [name for name in wanted if name not in skeleton.bones]:
        raise InputError(
            "ASF skeleton",
            f"no bone {', '.join(map(repr, unknown))}",
            f"bones among {', '.join(skeleton.bones)}",
            "The file follows another naming of bones.",
        )
    needed: set[int] = set()
    for name in wanted:
        bone = skeleton.bones.index(name)
        while bone >= 0:
            needed.add(bone)
            bone = skeleton.parents[bone]
    frames = len(motion[ROOT])
    rotations: dict[int, np.ndarray] = {}
    positions: dict[int, np.ndarray] = {}
    for bone in sorted(needed):
        name, order, c = skeleton.bones[bone], skeleton.order[bone], skeleton.axes[bone]
        if turning := skeleton.turn_order[bone]:
            columns = [order.index(f"r{letter}") for letter in turning]
            turn = Rotation.from_euler(turning, motion[name][:, columns], degrees=True)
            turn = c @ turn.as_matrix() @ c.T
        else:
            turn = None
        end, parent = skeleton.ends[bone], skeleton.parents[bone]
        if parent < 0:
            position = np.tile(end, (frames, 1))
            for axis, channel in enumerate(TRANSLATIONS):
                if channel in order:
                    position[:, axis] += motion[name][:, order.index(channel)]
            rotations[bone] = np.tile(np.eye(3), (frames, 1, 1)) if turn is None else turn
            positions[bone] = position
        else:
            above = rotations[parent]
            rotations[bone] = above if turn is None else above @ turn
            positions[bone] = positions[parent] + rotations[bone] @ end
    ends = [positions[skeleton.bones.index(name)] for name in wanted]
    return skeleton.metres * np.stack(ends, axis=1)


def _axis_order(field: Field, where: str | Path) -> str:
    """``xyz`` from the last word of an ``axis`` field; lower case is SciPy's fixed-axes order."""
    words, line = field
    if sorted(words[-1].lower()) != ["x", "y", "z"]:
        raise InputError(f"{where}: axis, line {line}", " ".join(words), "an order of XYZ", REMEDY)
    return words[-1].lower()


def _bone(block: list[Line], degrees: bool, where: str | Path) -> tuple[str, dict[str, object]]:
    """Name and fields of one ``begin … end`` block of ``:bonedata``."""
    fields: dict[str, Field] = {}
    for number, words in block:
        fields.setdefault(words[0].lower(), (words, number))
    first = block[0][0] if block else 0
    for field in ("name", "direction", "length", "axis"):
        if field not in fields:
            raise InputError(
                f"{where}: bonedata, line {first}", f"a bone without {field}", field, REMEDY
            )
    name = fields["name"][0][-1]
    here = f"{where}: {name}"
    direction = np.array(_field_numbers(fields, "direction", 3, here))
    length = _field_numbers(fields, "length", 1, here)[0]
    axis = _axis_order(fields["axis"], here)
    angles = _field_numbers(fields, "axis", 3, here)
    dof = tuple(word.lower() for word in fields["dof"][0][1:]) if "dof" in fields else ()
    if not set(dof) <= set(ROTATIONS) or len(set(dof)) != len(dof):
        raise InputError(
            f"{here}: dof, line {fields['dof'][1]}",
            " ".join(dof),
            f"different ones of {' '.join(ROTATIONS)}",
            "Bones that stretch or slide are not supported; leave the trial out.",
        )
    return name, {
        "end": length * direction,
        "axis": Rotation.from_euler(axis, angles, degrees).as_matrix(),
        "order": dof,
        "turn": "".join(channel[1] for channel in dof),
    }


def _parents(
    lines: list[Line], bones: dict[str, dict[str, object]], where: str | Path
) -> dict[str, str]:
    """Child → parent from the lines ``parent child child …`` of ``:hierarchy``."""
    parent: dict[str, str] = {}
    for block in _split_blocks(lines, where):
        for number, words in block:
            for name in words:
                if name not in bones:
                    raise InputError(
                        f"{where}: hierarchy, line {number}",
                        f"bone {name!r}",
                        "bones that :bonedata describes",
                        REMEDY,
                    )
            for child in words[1:]:
                if child in parent or child == ROOT:
                    raise InputError(
                        f"{where}: hierarchy, line {number}",
                        f"a second parent of {child}",
                        "one parent a bone",
                        REMEDY,
                    )
                parent[child] = words[0]
    return parent


def _check_whole(rows: dict[str, list[list[str]]], frames: int, where: str) -> None:
    """Every moving bone must have had its line in each of the frames so far."""
    missing = sorted(name for name, lines in rows.items() if len(lines) != frames)
    if missing:
        raise InputError(
            where,
            f"no line for {', '.join(missing)}",
            "a line for each moving bone in every frame",
            "The file is truncated or damaged. " + REMEDY,
        )


def _split_sections(text: str, where: str | Path) -> dict[str, list[Line]]:
    """Lines of each ``:section`` of an ASF file; parentheses of limits count as space.

    Raises:
        InputError: no ``:units``, ``:root``, ``:bonedata`` or ``:hierarchy``.
    """
    sections: dict[str, list[Line]] = {}
    lines: list[Line] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        words = line.replace("(", " ").replace(")", " ").split()
        if not words or words[0].startswith("#"):
            continue
        if words[0].startswith(":"):
            lines = sections.setdefault(words[0][1:].lower(), [])
        else:
            lines.append((number, words))
    for section in ("units", "root", "bonedata", "hierarchy"):
        if section not in sections:
            raise InputError(where, f"no section :{section}", f"a section :{section}", REMEDY)
    return sections


def _split_blocks(lines: list[Line], where: str | Path) -> list[list[Line]]:
    """The ``begin … end`` blocks of a section.

    Raises:
        InputError: a line outside of them, or ``begin`` and ``end`` not in turns.
    """
    blocks: list[list[Line]] = []
    inside = False
    for number, words in lines:
        if words[0].lower() in ("begin", "end"):
            if (words[0].lower() == "begin") == inside:
                raise InputError(
                    f"{where}: line {number}", words[0], "begin and end in turns", REMEDY
                )
            inside = not inside
            if inside:
                blocks.append([])
        elif not inside:
            raise InputError(f"{where}: line {number}", words[0], "begin", REMEDY)
        else:
            blocks[-1].append((number, words))
    if inside:
        raise InputError(f"{where}: line {number}", "the end of the section", "end", REMEDY)
    return blocks


def _field_numbers(
    fields: dict[str, Field], field: str, count: int, where: str | Path
) -> list[float]:
    """The first `count` numbers of a field; raises `InputError` where they are not."""
    words, line = fields[field]
    return _as_floats([words[1 : count + 1]], [line], f"{where}: {field}", count)[0].tolist()


def _as_floats(
    rows: list[list[str]], lines: list[int], where: str, width: int | None = None
) -> Float[np.ndarray, "T D"]:
    """Rows of words as finite numbers.

    Args:
        rows: words of each row.
        lines: line number of each row.
        where: what the error names, beside the line of the first bad row.
        width: numbers a row; not looked at when None, where all rows must have as many.

    Raises:
        InputError: a word that is no finite number, or a row of another width.
    """
    try:
        values = np.array(rows, dtype=float)
        if np.isfinite(values).all() and width in (None, values.shape[1]):
            return values
    except ValueError:
        pass
    words, line = next(
        (words, line)
        for words, line in zip(rows, lines, strict=True)
        if width not in (None, len(words)) or not all(map(_is_finite, words))
    )
    expected = "finite numbers" if width is None else f"{width} finite number(s)"
    raise InputError(f"{where}, line {line}", repr(" ".join(words)), expected, REMEDY)


def _is_finite(word: str) -> bool:
    try:
        return bool(np.isfinite(float(word)))
    except ValueError:
        return False
