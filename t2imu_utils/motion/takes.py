"""One form for recorded motion of every source: upright, and without what is no motion."""

import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import find_objects, label
from scipy.spatial.transform import Rotation

from t2imu_utils.body.smpl import load_body
from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.motion.skeleton import JOINTS, MIRROR, Joints, bone_lengths, check_joints

# Who stands quietly: nothing but the arms moves faster, legs and trunk lie this close to the
# vertical (cosine), which leaves out acted stoops.
STILL_SPEED = 0.3  # m/s
UPRIGHT = 0.95
WALKING_SPEEDS = (0.6, 1.8)  # m/s
MAX_BYTES = 2**28  # of a member of an archive: a guard against those that explode
MIN_STANDING = 20.0  # s of quiet standing that a source is judged by alone
HEIGHT = (1.4, 2.1)  # m
BONE_CHANGE = 0.03  # largest standard deviation of a recorded bone's length, as a share of it

_HIPS, _SHOULDERS, _KNEES, _ANKLES, _TOES, _COLLARS = (
    [JOINTS.index(f"{side}_{name}") for side in ("left", "right")]
    for name in ("hip", "shoulder", "knee", "ankle", "foot", "collar")
)
_MIDDLE = [JOINTS.index(n) for n in ("pelvis", "spine1", "spine2", "spine3", "neck", "head")]
_ARMS = [
    JOINTS.index(f"{side}_{name}") for name in ("elbow", "wrist") for side in ("left", "right")
]
_LIMBS = [*_KNEES, *_ANKLES, *_ARMS[:2]]


@dataclass(frozen=True, eq=False)
class Take:
    """A recording on the 22 joints of SMPL.

    Attributes:
        source: "bandai", "reactidle", "deepmimic", "cmu" or "uiprmd".
        licence: short name of the source's terms.
        subject: who moves, unique within the source.
        trial: the recording, unique within the source; letters, digits, "_" and "-".
        content, style: the source's own words for what is done and how; "" where it has none.
        joints: (T, 22, 3) metres, Y up, in the order of `skeleton.JOINTS`, at `rate`.
        rate: frames a second.
        made: how it came about: "recorded", or "mirrored", "reversed", "held" or "composed".
        texts: sentences that hold for the whole take; may be empty until `sentences` writes them.
    """

    source: str
    licence: str
    subject: str
    trial: str
    content: str
    style: str
    joints: Joints
    rate: float
    made: str = "recorded"
    texts: tuple[str, ...] = ()


class Source(NamedTuple):
    """A file: its path, or its name inside an archive; what errors call it; how to get its text,
    which of a member of an archive is never written to disk."""

    name: str
    where: str
    read: Callable[[], str]


def files_below(folder: Path) -> list[Source]:
    """The files below a folder, and the members of the zip archives that lie in it."""
    found = [
        Source(path.as_posix(), str(path), partial(path.read_text, "utf-8", "replace"))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    for path in sorted(folder.glob("*.zip")):
        try:
            archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            told = f"no zip archive ({error})"
            raise InputError(path, told, "a zip", "Fetch it again.") from error
        for name in sorted(archive.namelist()):
            where = f"{path}:{name}"
            found.append(Source(name, where, partial(_unpacked, archive, name, where)))
    return found


def _unpacked(archive: zipfile.ZipFile, name: str, where: str) -> str:
    try:
        if archive.getinfo(name).file_size > MAX_BYTES:
            raise InputError(where, "more than 256 MB", "a motion capture file", "Leave it out.")
        return archive.read(name).decode("utf-8", errors="replace")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        told = f"a damaged archive ({error})"
        raise InputError(where, told, "a whole zip", "Fetch it again.") from error


def read_files(
    folder: Path, name: re.Pattern[str], parse: Callable[[str, str], Any], skipped: list[Skipped]
) -> Iterator[tuple[re.Match[str], Any]]:
    """Match and content of every file below a folder or in its zips whose path `name` finds.

    Args:
        name: its first group is the recording; of one that is there twice the first is taken.
        parse: makes the content of a file's text and of its path, which errors name.
        skipped: files that cannot be parsed are added here.
    """
    read = set()
    for source in files_below(folder):
        match = name.search(source.name)
        if match is None or match[1] in read:
            continue
        try:
            content = parse(source.read(), source.where)
        except InputError as error:
            skipped.append(Skipped(match[1], str(error)))
            continue
        read.add(match[1])
        yield match, content
    if not read:
        expected, remedy = "a file that can be read", "Fetch the set, or set T2IMU_DATA."
        raise InputError(folder, f"none of {name.pattern}", expected, remedy)


@dataclass(frozen=True)
class _Placement:
    """What sets a source upright; see `upright`."""

    tilt: Float[np.ndarray, "3 3"]
    shift: Float[np.ndarray, "22 3"]
    pitch: float


def upright(takes: Sequence[Take]) -> list[Take]:
    """Takes whose people, source by source, stand as the rest pose of the open body stands.

    Sources differ in where they put the joints of the trunk, so that one and the same posture leans
    in one and not in another. A frame of the trunk (across from the right to the left hip, up from
    mid-hip to mid-shoulder, made orthogonal to it) is tilted by the constant angle that makes its
    up vertical in the source's quiet standing. In it pelvis, spine, neck, head and collars are
    shifted by constants, in units of the take's own trunk length, so that on average over that
    standing, each subject counting once, they lie as in the rest pose. The shoulders are shifted
    forwards or backwards and up or down, and the arm with them, unturned, so that collar to
    shoulder has the direction of the rest pose.
    Feet are turned by a constant about the axis across the ankle, so that a foot on the ground has
    the pitch of the rest pose. Hips, knees and ankles stay where they are.

    A source with less than 20 s of quiet standing is judged by its straight walking too; where two
    forms of one source have other skeletons (AMC and BVH), call this for each.
    """
    rest = load_body().rest_joints(np.zeros(10)).double().numpy()[: len(JOINTS)]
    rest = rest - rest[_HIPS].mean(axis=0)
    rest = (rest + rest[list(MIRROR)] * [-1, 1, 1]) / 2
    placements = {
        source: _placement([take for take in takes if take.source == source], rest)
        for source in dict.fromkeys(take.source for take in takes)
    }
    return [replace(take, joints=_placed(take.joints, placements[take.source])) for take in takes]


def standing(joints: Joints, rate: float) -> Bool[np.ndarray, " T"]:
    """Frames of quiet upright standing on straight legs."""
    still = _speeds(joints, rate)[:, [*_MIDDLE, *_HIPS, *_KNEES, *_ANKLES]].max(axis=1)
    bones = [(_HIPS, _KNEES), (_KNEES, _ANKLES), (_SHOULDERS, _HIPS)]
    steep = np.min([_steepness(joints, *bone) for bone in bones], axis=0)
    return (still < STILL_SPEED) & (steep > UPRIGHT)


def straight_walking(joints: Joints, rate: float) -> Bool[np.ndarray, " T"]:
    """Frames in the middle of a second of walking straight ahead, about a cycle."""
    half = round(rate / 2)
    ahead = _steepness(joints, _SHOULDERS, _HIPS) > UPRIGHT
    ahead[:half] = ahead[len(joints) - half :] = False
    if ahead.any():
        ground = joints[:, _HIPS].mean(axis=1) * [1, 0, 1]
        before = ground[half:-half] - ground[: -2 * half]
        after = ground[2 * half :] - ground[half:-half]
        across = joints[half:-half, _HIPS[0]] - joints[half:-half, _HIPS[1]]
        speed = np.linalg.norm(before + after, axis=1)
        ahead[half:-half] &= (
            (speed > WALKING_SPEEDS[0])
            & (speed < WALKING_SPEEDS[1])
            & (_cosine(before, after) > 0.98)
            & (_cosine(before + after, np.cross(across, [0, 1, 0])) > 0.95)
        )
    return ahead


def _placement(takes: Sequence[Take], rest: Float[np.ndarray, "22 3"]) -> _Placement:
    chosen = [standing(take.joints, take.rate) for take in takes]
    if sum(mask.sum() / t.rate for mask, t in zip(chosen, takes, strict=True)) < MIN_STANDING:
        walks = [straight_walking(take.joints, take.rate) for take in takes]
        chosen = [mask | walk for mask, walk in zip(chosen, walks, strict=True)]
    # By subject: joints in the frame of the trunk in units of its length, the vertical in it, and
    # the pitch of the feet that stand.
    local, vertical, pitch = defaultdict(list), defaultdict(list), []
    for take, mask in zip(takes, chosen, strict=True):
        if mask.any():
            middle, frame, length = _trunk(take.joints)
            inside = (take.joints - middle[:, None]) @ frame / length
            local[take.subject].append(inside[mask])
            vertical[take.subject].append(frame[mask, 1])
            planted = _speeds(take.joints, take.rate)[:, _ANKLES] < STILL_SPEED
            pitch.append(_pitch(take.joints)[planted & mask[:, None]])
    if not local:
        raise InputError(
            f"takes of {takes[0].source}", "neither quiet standing nor straight walking",
            "some of either, to tell how its people stand",
            "Add takes of it, or leave the source out.",
        )  # fmt: skip
    mean, up = (
        np.mean([np.concatenate(parts).mean(axis=0) for parts in subjects.values()], axis=0)
        for subjects in (local, vertical)
    )
    mean = (mean + mean[list(MIRROR)] * [-1, 1, 1]) / 2
    up = up * [0, 1, 1] / np.linalg.norm(up[1:])
    tilt = np.column_stack([[1, 0, 0], up, np.cross([1, 0, 0], up)])
    mean = mean @ tilt
    goal = rest / np.linalg.norm(rest[_SHOULDERS].mean(axis=0))
    shift = np.zeros_like(goal)
    moved = [*_MIDDLE, *_COLLARS]
    shift[moved] = goal[moved] - mean[moved]
    bones = goal[_SHOULDERS] - goal[_COLLARS]
    reach = (mean[_SHOULDERS, :1] - goal[_COLLARS, :1]) / bones[:, :1]
    shift[_SHOULDERS] = goal[_COLLARS] + reach * bones - mean[_SHOULDERS]
    shift[_ARMS] = np.tile(shift[_SHOULDERS], (2, 1))
    flat = np.median(np.concatenate(pitch))
    return _Placement(tilt, shift, float(_pitch(rest[None]).mean() - flat))


def _placed(joints: Joints, placement: _Placement) -> Joints:
    _, frame, length = _trunk(joints)
    placed = joints + length * (placement.shift @ (frame @ placement.tilt).swapaxes(1, 2))
    feet = joints[:, _TOES] - joints[:, _ANKLES]
    across = np.cross(joints[:, _ANKLES] - joints[:, _KNEES], feet)
    across *= placement.pitch / np.linalg.norm(across, axis=-1, keepdims=True)
    turned = Rotation.from_rotvec(across.reshape(-1, 3)).apply(feet.reshape(-1, 3))
    placed[:, _TOES] = joints[:, _ANKLES] + turned.reshape(feet.shape)
    return placed


def _trunk(joints: Joints) -> tuple[Float[np.ndarray, "T 3"], Float[np.ndarray, "T 3 3"], float]:
    """Mid-hip; axes across, up and forward as columns; the length of the trunk in metres."""
    middle = joints[:, _HIPS].mean(axis=1)
    up = joints[:, _SHOULDERS].mean(axis=1) - middle
    lengths = np.linalg.norm(up, axis=1, keepdims=True)
    up = up / lengths
    forward = np.cross(joints[:, _HIPS[0]] - joints[:, _HIPS[1]], up)
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    return middle, np.stack([np.cross(up, forward), up, forward], axis=2), float(np.median(lengths))


def _speeds(joints: Joints, rate: float) -> Float[np.ndarray, "T 22"]:
    """Speed of each joint in m/s over 0.2 s, which the trembling of a tracker does not reach."""
    frames = np.arange(len(joints))
    first = np.maximum(frames - round(0.1 * rate), 0)
    last = np.minimum(frames + round(0.1 * rate), len(joints) - 1)
    seconds = np.maximum(last - first, 1) / rate
    return np.linalg.norm(joints[last] - joints[first], axis=-1) / seconds[:, None]


def _pitch(joints: Joints) -> Float[np.ndarray, "T 2"]:
    """Angle of both feet, ankle to toe, above the horizontal, in radians."""
    feet = joints[:, _TOES] - joints[:, _ANKLES]
    return np.arcsin(feet[..., 1] / np.linalg.norm(feet, axis=-1))


def _steepness(joints: Joints, upper: list[int], lower: list[int]) -> Float[np.ndarray, " T"]:
    """Cosine to the vertical of the bone of either side that is further from it."""
    bones = joints[:, upper] - joints[:, lower]
    return (bones[..., 1] / np.linalg.norm(bones, axis=-1)).min(axis=1)


def _cosine(a: Float[np.ndarray, "T 3"], b: Float[np.ndarray, "T 3"]) -> Float[np.ndarray, " T"]:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.maximum(lengths, 1e-9)


def turned_left(joints: Joints) -> float:
    """By how many degrees the hips turn to the left from the first to the last frame."""
    across = joints[:, _HIPS[0]] - joints[:, _HIPS[1]]
    heading = np.unwrap(np.arctan2(-across[:, 2], across[:, 0]))
    return float(np.degrees(heading[-1] - heading[0]))


def body_height(joints: Joints) -> float:
    """Height in the joints' unit, metres, from the sole to the top of the head along the bones."""
    # Ankles are 8 cm up and heads 18 cm high where the bones between them are 1.45 m long.
    along = bone_lengths(joints).mean(axis=0)[[4, 7, 3, 6, 9, 12, 15]].sum()
    return float(along + 0.08 + 0.18)


def implausible(joints: Joints, most: float = BONE_CHANGE) -> str:
    """Why joints in metres are no person's: their height, or bones that change; "" if they may be.

    most: standard deviation of a limb's length, as a share of it.
    """
    lengths = bone_lengths(joints)
    change = (lengths.std(0) / np.maximum(lengths.mean(0), 1e-6))[_LIMBS].max()
    if change > most:
        return f"bones whose length changes by {change:.0%}"
    height = body_height(joints)
    return "" if HEIGHT[0] <= height <= HEIGHT[1] else f"a body of {height:.2f} m"


# A joint that moves faster is a tracking error: 0.12 m per frame at 120 Hz. Kicks and punches of
# the CMU database reach 0.10 to 0.13 m, so no lower.
GLITCH_SPEED = 14.4  # m/s
GLITCH_MARGIN = 0.05  # s cut on either side of a jump (6 frames at 120 Hz)
# The CMU BVH release puts a T-pose before each trial and blends out of it; both forms also start
# with tracking that has not settled. The blend is over with the eighth frame of a file, T-pose
# included: up to there the accelerations are 3 times those of the trial and more.
LEAD_IN = 7 / 120  # s

# Cosines to the line through the shoulders, and to the vertical, that make a T-pose. The added
# T-poses of the CMU release reach 0.95 and 0.98; no other frame of it reaches both bounds.
ARMS_LEVEL = 0.9
LEGS_UPRIGHT = 0.97

_ARM_BONES = ((16, 18), (18, 20), (19, 17), (21, 19))  # each pointing right to left in a T-pose
_LEG_BONES = ((4, 1), (7, 4), (5, 2), (8, 5))  # upwards
_ACROSS = (17, 16)


def clean(joints: Joints, rate: float, min_seconds: float) -> list[tuple[int, int]]:
    """Ranges [start, end) of a trial's frames that are worth keeping.

    Left out are a T-pose at either end, the blend out of it, and jumps of the tracking.

    Args:
        joints: metres, Y up, as recorded.
        rate: frames a second.
        min_seconds: remnants that take less, from first to last frame, are left out.
    """
    check_joints(joints, "clean")
    moving = np.flatnonzero(~t_poses(joints))
    settled, ended = (moving[0], moving[-1] + 1) if len(moving) else (len(joints), 0)
    lead = settled + round(LEAD_IN * rate)
    kept = np.ones(len(joints), dtype=bool)
    # The blend out of a T-pose is all jumps: what the lead-in holds must not cut what follows it.
    kept[lead:] = ~glitches(joints[lead:], rate)
    kept[:lead] = kept[ended:] = False
    kept_runs = ((run.start, run.stop) for run in runs(kept))
    return [(a, b) for a, b in kept_runs if (b - a - 1) / rate >= min_seconds]


def t_poses(joints: Joints) -> Bool[np.ndarray, " T"]:
    """Frames with both arms stretched out along the line of the shoulders and upright legs."""
    shoulders = _direction(joints, [_ACROSS])
    arms = (_direction(joints, _ARM_BONES) * shoulders).sum(-1).min(axis=1)
    legs = _direction(joints, _LEG_BONES)[..., 1].min(axis=1)
    return (arms > ARMS_LEVEL) & (legs > LEGS_UPRIGHT)


def glitches(joints: Joints, rate: float) -> Bool[np.ndarray, " T"]:
    """Frames around a step of any joint that is faster than `GLITCH_SPEED`.

    Both frames of such a step are marked, and `GLITCH_MARGIN` before and after it.
    """
    steps = np.linalg.norm(np.diff(joints, axis=0), axis=-1).max(axis=1, initial=0.0)
    margin = round(GLITCH_MARGIN * rate)
    marked = np.zeros(len(joints), dtype=bool)
    for step in np.flatnonzero(steps * rate > GLITCH_SPEED):
        marked[max(0, step - margin) : step + 2 + margin] = True
    return marked


def _direction(joints: Joints, bones: Sequence[tuple[int, int]]) -> Float[np.ndarray, "T N 3"]:
    """Unit vectors from the first to the second joint of each pair; zero where they coincide."""
    first, second = np.transpose(bones)
    vectors = joints[:, second] - joints[:, first]
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def runs(mask: Bool[np.ndarray, " T"], least: float = 1) -> list[slice]:
    """Ranges of at least `least` consecutive frames that are True."""
    found = (run for (run,) in find_objects(label(mask)[0]))
    return [run for run in found if run.stop - run.start >= least]
