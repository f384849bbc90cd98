"""The CMU Graphics Lab motion capture database in three forms, and its sentences.

Files are ``NN/NN.asf`` with ``NN_TT.amc`` (the original) and ``NN/NN_TT.bvh`` (B. Hahne's release),
in zip archives, read in place, or in folders; and trials in DeepMimic's format, of the Jump project
and with DeepMimic's two get-ups. The database tells a trial in a few words ("walk", "dance - small
jetes, pirouette"), of which a sentence is made by rule; KIT-ML has those of people.

ASF (skeleton) and AMC (motion) follow the Acclaim format as described by Lander, "Working with
motion capture file formats" (Game Developer, 1998). With C the rotation of a bone's `axis` and R
that of its degrees of freedom (both about fixed axes, in the listed order), a bone turns its
children by C R C^-1, and its end lies `length` along `direction`, which is given in the global
frame of the rest pose.
"""

import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.motion.bvh import joint_positions, parse_bvh
from t2imu_utils.motion.skeleton import (
    JOINTS,
    PARENTS,
    RAW_OFFSETS,
    Joints,
    joint_weights,
    weighted_joints,
)
from t2imu_utils.motion.takes import Source, Take, files_below, read_files

AMC_RATE = 120.0  # Hz; AMC files do not tell
METRES_PER_BVH_UNIT = 0.01

_MEMBER = re.compile(r"(?:^|/)(?:(?P<trial>\d+_\d+)\.(?P<form>bvh|amc)|(?P<subject>\d+)\.asf)$")


# Each of the 22 joints as a weighted mean of joints (BVH) or bone ends (ASF). The BVH hip lies
# below the thighs, so the pelvis is set 0.45 of the way from their middle to the abdomen.
JOINTS_FROM_BVH = joint_weights(
    "lr",
    pelvis="0.275 lThigh + 0.275 rThigh + 0.45 abdomen", spine1="abdomen",
    spine2="0.5 abdomen + 0.5 chest", spine3="chest", neck="neck", head="head", hip="<>Thigh",
    knee="<>Shin", ankle="<>Foot", foot="<>Foot.end", collar="<>Collar", shoulder="<>Shldr",
    elbow="<>ForeArm", wrist="<>Hand",
)  # fmt: skip
JOINTS_FROM_ASF = joint_weights(
    "lr",
    pelvis="root", spine1="lowerback", spine2="0.5 lowerback + 0.5 upperback", spine3="upperback",
    neck="lowerneck", head="upperneck", hip="<>hipjoint", knee="<>femur", ankle="<>tibia",
    foot="<>foot", collar="0.7 thorax + 0.3 <>clavicle", shoulder="<>clavicle",
    elbow="<>humerus", wrist="<>radius",
)  # fmt: skip


@dataclass
class Sources:
    """What a folder holds: trial → form → file, and subject → skeleton file."""

    trials: dict[str, dict[str, Source]] = field(default_factory=lambda: defaultdict(dict))
    skeletons: dict[str, Source] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)


def find_sources(folder: Path) -> Sources:
    """List BVH, AMC and ASF files below a folder and in its zip archives.

    Names are matched by pattern and never used as paths. Of a file that is there twice the first is
    taken (unpacked before zipped); the others are listed as skipped.
    """
    sources = Sources()
    for source in files_below(folder):
        match = _MEMBER.search(source.name)
        if not match:
            continue
        if match["subject"]:
            place, key = sources.skeletons, match["subject"]
        else:
            place, key = sources.trials[match["trial"]], match["form"]
        if key in place:
            sources.skipped.append(Skipped(source.where, f"already read from {place[key].where}"))
        else:
            place[key] = source
    if not sources.trials:
        expected = "archives or folders with NN/NN_TT.bvh or NN/NN.asf and NN/NN_TT.amc"
        remedy = "Set T2IMU_DATA to the folder that holds cmu/."
        raise InputError(folder, "no motion capture file", expected, remedy)
    return sources


def read_trial(sources: Sources, trial: str, form: str) -> Take:
    """One trial in one form, which is the take's style, on the 22 joints."""
    subject = subject_of(trial)
    source = sources.trials.get(trial, {}).get(form)
    if source is None:
        raise InputError(f"CMU trial {trial}", f"no {form} file", "one", "Check the archives.")
    if form == "bvh":
        bvh = parse_bvh(source.read(), source.where)
        joints = METRES_PER_BVH_UNIT * weighted_joints(JOINTS_FROM_BVH, joint_positions(bvh))
        rate = bvh.rate
    elif subject in sources.skeletons:
        asf = sources.skeletons[subject]
        skeleton = parse_asf(asf.read(), asf.where)
        motion = parse_amc(source.read(), skeleton, source.where)
        joints = weighted_joints(JOINTS_FROM_ASF, bone_positions(skeleton, motion))
        rate = AMC_RATE
    else:
        raise InputError(source.where, f"no {subject}.asf", "the subject's skeleton", "Fetch it.")
    return Take("cmu", "CMU (free)", subject, trial, "", form, joints, rate)


def subject_of(trial: str) -> str:
    """``"05"`` of ``"05_16"``."""
    return trial.partition("_")[0]


def trial_order(trial: str) -> tuple[int, ...]:
    """Sorting key: by subject, then by number."""
    return tuple(map(int, trial.split("_")))


# --- Acclaim: ASF and AMC -------------------------------------------------------------------------
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
    """Parse the text of an ASF file; angles are degrees unless ``:units`` says ``angle rad``."""
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


# --- DeepMimic ------------------------------------------------------------------------------------
# A file is JSON; a row of ``Frames`` holds the frame's duration (s), the root's position (3, m) and
# quaternion (4), and the local rotation of every joint: a quaternion (w, x, y, z), or one angle
# about z (rad) for knees and elbows (Peng et al., "DeepMimic", 2018). Its humanoid looks along +X,
# Y is up, Z to its right.

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
    trials: list[Take] = []
    getups: list[Take] = []
    skipped: list[Skipped] = []
    for match, motion in read_files(folder / "deepmimic", _FILE, parse_deepmimic, skipped):
        trial = match[1]
        if trial[0].isdigit():
            told = "CMU (free)", subject_of(trial), trial, "", ""
            trials.append(Take("deepmimic", *told, *motion))
        else:
            content = trial.removeprefix("humanoid3d_").replace("_", " ")
            getups.append(Take("deepmimic", "MIT", "humanoid3d", trial, content, "", *motion))
    return sorted(trials, key=lambda take: trial_order(take.trial)) + getups, skipped


def parse_deepmimic(text: str, where: str) -> tuple[Joints, float]:
    """Joints in metres, Y up, +Z ahead where the humanoid has +X, and frames a second."""
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


# --- sentences ------------------------------------------------------------------------------------
_NOTES = re.compile(r"\((2 )?subjects? - subject [ab]\)|\(human subject\)|\s+cleaned ?grs|\d{3}$")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
# Descriptions that tell about the recording, not about the motion.
_SAYS_NOTHING = re.compile(
    r"unknown|cleaned|clean|no movie|movie and trial dont match|bad amc|lost marker|story|"
    r"(subject |dynamic )?calibration|range ?of ?motion( \d+)?|t-?pose|\d+( \d+)?(\.amc)?|"
    r"[\d.]+ ?lbs?|start|forward|sequesnce"
)
_TOPICS = {
    "basketball": "plays basketball", "soccer": "plays soccer", "football": "plays football",
    "playground": "plays on a playground", "navigate": "moves around", "vignettes": "acts",
    "acrobatics": "does acrobatics", "conversation": "talks", "quarrel": "quarrels",
    "hand signals": "makes hand signals",
}  # fmt: skip
_VERBS = frozenset(
    "adjust answer avoid balance bend bounce bow box brush carry catch chop chug clap climb "
    "close crawl creep crouch curtsey dance dig direct dive drag drink drive dribble duck eat "
    "fall fish fix flip follow get go grab hammer hang hit hold hop jog jump kick kneel laugh "
    "lay lean leap lie lift limp link look lower march mix mop mope move navigate open paint "
    "pick place play point poke pull punch push put putt raise rake reach rise roll row run saw "
    "scoop screw search sew shake shave shoot shrug sing sip sit skip slap sneak spin sprint "
    "squat stand step stop stride strike stretch stroll stumble swat sweep swim swing teach "
    "throw tiptoe toss turn twirl twist unscrew vacuum veer wait walk wander wash wave whirl "
    "whistle wipe write yawn".split()
)
_MANNERS = {
    "slow": "slowly", "brisk": "briskly", "fast": "fast", "quick": "quickly", "high": "high",
    "careful": "carefully", "casual": "casually", "normal": "normally", "forward": "forward",
    "backward": "backward", "long": "far",
}  # fmt: skip
_NOUNS = ("jumping jacks", "jumping twists")

# Comment spam in the crowd-sourced sentences carries links, mark-up or addresses.
_SPAM = re.compile(
    r"<[^>]*>|\[/?url|https?:|www\.|\b[\w-]+\.(com|net|org|info|ru)\b|\S+@\S+", re.IGNORECASE
)
_DANGLING = frozenset("a an the and then first to with of his her".split())
_LONGEST = 80  # words


def sentence(description: str) -> str | None:
    """A plain sentence from a description: ``"run/jog, veer left"`` gives
    ``"a person runs or jogs and veers left."``, what starts with no known verb
    ``"a person performs …"``.

    None where the description says nothing about the motion ("unknown", "calibration").
    """
    text = _NOTES.sub("", _CAMEL.sub(" ", description.replace("_", " ")).lower())
    text = " ".join(text.split()).rstrip(" .")
    if not text or _SAYS_NOTHING.fullmatch(text):
        return None
    topic, _, rest = text.partition(" - ")
    if rest:
        return f"a person {_TOPICS.get(topic) or _clause(topic) or f'performs {topic}'}: {rest}."
    parts = [part.strip() for part in re.split(r"[,;]", text) if part.strip()]
    clauses = [clause for part in parts if (clause := _clause(part))]
    if not _clause(parts[0]):
        return f"a person performs {text}."
    if len(clauses) < len(parts):
        return f"a person {clauses[0]}: {', '.join(parts[1:])}."
    return f"a person {' and '.join(filter(None, [', '.join(clauses[:-1]), clauses[-1]]))}."


def why_spam(text: str) -> str | None:
    """Why a crowd-sourced sentence is not used; None for one that is."""
    words = text.split()
    if _SPAM.search(text):  # not quoted: the list of what was left out is published
        return "a link or mark-up"
    if len(words) < 2:
        return "fewer than two words"
    if len(words) > _LONGEST:
        return f"more than {_LONGEST} words"
    if words[-1].lower().strip(".,") in _DANGLING and len(words) < 4:
        return f"breaks off after {words[-1]!r}"
    return None


def _clause(text: str) -> str | None:
    """Third person of a phrase that starts with a verb, or with a manner and a verb."""
    words = text.split()
    if text.startswith(_NOUNS):
        return None
    if len(words) > 1 and words[0] in _MANNERS and (verbs := _verbs(words[1])):
        words[:2] = [verbs, _MANNERS[words[0]]]
    elif verbs := _verbs(words[0]):
        words[0] = verbs
    else:
        return None
    # "walk and turn": the second verb is in the third person as well.
    for i in range(2, len(words)):
        if words[i - 1] == "and":
            words[i] = _verbs(words[i]) or words[i]
    return " ".join(words).replace(" self", " themselves")


def _verbs(word: str) -> str | None:
    """``"run/jog"`` → ``"runs or jogs"``; None unless every part is a known verb."""
    bases = [_base(part) for part in word.split("/")]
    if None in bases:
        return None
    return " or ".join(_third_person(base) for base in bases)


def _base(word: str) -> str | None:
    """The verb of a word in its base form or its -ing form."""
    if word in _VERBS:
        return word
    if word.endswith("ing"):
        stem = word[:-3]
        for base in (stem[:-1], stem, stem + "e"):
            if base in _VERBS:
                return base
    return None


def _third_person(verb: str) -> str:
    if verb.endswith(("s", "sh", "ch", "x", "z", "o")):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


_INDEX = re.compile(r"(\d+_\d+)\s+(\S.*)")
# A sentence describes a clip if its time range holds at least this share of it.
MIN_OVERLAP = 0.5

# The body that all clips are retargeted onto, bone lengths in metres: the mean of the open body in
# data/body, rounded to 5 mm, so that fitting it to the clips need not change its shape.
_BONES = {
    "hip": 0.110, "knee": 0.375, "ankle": 0.440, "foot": 0.150, "spine1": 0.125, "spine2": 0.130,
    "spine3": 0.060, "neck": 0.220, "head": 0.095, "collar": 0.140, "shoulder": 0.115,
    "elbow": 0.270, "wrist": 0.240,
}  # fmt: skip
_LENGTHS = np.array([_BONES.get(name.split("_")[-1], 0.0) for name in JOINTS])
TARGET_OFFSETS: Float[np.ndarray, "22 3"] = RAW_OFFSETS * _LENGTHS[:, None]


@dataclass(frozen=True)
class Texts:
    """Descriptions by trial, and KIT-ML sentences by trial as (start s, end s, text)."""

    descriptions: dict[str, str]
    sentences: dict[str, list[tuple[float, float, str]]]
    rejected: list[Skipped]

    def has(self, trial: str) -> bool:
        """Whether anything tells what the trial shows."""
        return bool(sentence(self.descriptions.get(trial, "")) or self.sentences.get(trial))

    def captions(self, trial: str, start: float, end: float) -> list[str]:
        """What describes seconds `start` to `end`: our sentence, the database's words, KIT-ML."""
        description = self.descriptions.get(trial, "")
        plain = sentence(description)
        told = [
            text
            for first, last, text in self.sentences.get(trial, [])
            if min(end, last) - max(start, first) >= MIN_OVERLAP * (end - start)
        ]
        return list(dict.fromkeys(([plain, description] if plain else []) + told))


def read_texts(folder: Path) -> Texts:
    """Read ``descriptions.csv`` or the database's own index, and ``kitml_sentences.json`` if any.

    Lines of the index ``cmu-mocap-index-text.txt`` are a trial and its description, such as
    ``05_02<tab>dance - expressive arms``; the other lines are headings.
    """
    path, index = folder / "descriptions.csv", folder / "cmu-mocap-index-text.txt"
    try:
        if path.exists() or not index.exists():
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
            descriptions = dict(zip(table["trial"], table["description"], strict=True))
        else:
            lines = index.read_text("utf-8-sig", errors="replace").split("\n")
            descriptions = dict(m.groups() for line in lines if (m := _INDEX.match(line.strip())))
    except (OSError, ValueError, KeyError) as error:
        found = f"{type(error).__name__}: {error}"
        raise InputError(path, found, "columns trial, description", "Fetch it again.") from error
    path = folder / "kitml_sentences.json"
    sentences, rejected = defaultdict(list), []
    if not path.exists():
        rejected.append(Skipped(str(path), "no such file: captions are the descriptions alone"))
        return Texts(descriptions, sentences, rejected)
    try:
        for row in json.loads(path.read_text(encoding="utf-8")):
            if reason := why_spam(row["text"]):
                rejected.append(Skipped(f"KIT-ML sentence on {row['trial']}", reason))
                continue
            # '#' separates the fields of HumanML3D's text files.
            text = " ".join(row["text"].replace("#", " ").split())
            sentences[row["trial"]].append((float(row["start_s"]), float(row["end_s"]), text))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        found = f"{type(error).__name__}: {error}"
        expected = "a list of {trial, start_s, end_s, text}"
        raise InputError(path, found, expected, "Fetch it again.") from error
    return Texts(descriptions, sentences, rejected)
