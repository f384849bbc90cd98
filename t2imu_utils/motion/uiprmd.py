"""UI-PRMD's movement 5, standing up from a chair and sitting down: markers to SMPL's joints.

A file holds the 39 Plug-in-Gait markers of one episode at 100 Hz, x, y, z in mm, z up, comma
separated (Vakanski et al., "A data set of human body movements for physical rehabilitation
exercises", Data 2018). Legs, trunk and head come from the markers. Both hands are held beside the
head throughout, so shoulders, elbows and wrists come from other people's idling.
"""

import io
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.signal import butter, sosfiltfilt

from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.motion.skeleton import JOINTS, Joints, bone_lengths, resample
from t2imu_utils.motion.takes import Take, read_files

RATE = 100.0
MARKERS = tuple(
    "LFHD RFHD LBHD RBHD C7 T10 CLAV STRN RBAC LSHO LUPA LELB LFRM LWRA LWRB LFIN RSHO RUPA RELB "
    "RFRM RWRA RWRB RFIN LASI RASI LPSI RPSI LTHI LKNE LTIB LANK LHEE LTOE RTHI RKNE RTIB RANK "
    "RHEE RTOE".split()
)
CUTOFF = 6.0  # Hz, the usual low-pass of marker trajectories (Winter 2009)
REST = 5  # frames at both ends of an episode, in which the person stands
# Metres from the middle of a marker to the joint's centre: half a joint and half a marker.
KNEE, ANKLE, TOE = 0.05, 0.042, 0.025
# In legs (ASIS to ankle): the pelvis above the hips, and the first joint of the spine above it.
PELVIS, SPINE = 0.09, 0.11
STRAIGHT = 1.002  # of the farthest reach: a knee that straightens fully jumps on its way back
ARMS = tuple(f"{s}_{j}" for s in ("left", "right") for j in ("shoulder", "elbow", "wrist"))

_MEMBER = re.compile(r"(m05_(s\d+)_e\d+)_positions\.txt$")

Markers = dict[str, Float[np.ndarray, "T 3"]]


def read_uiprmd(folder: Path, arms: Take) -> tuple[list[Take], list[Skipped]]:
    """Read the episodes in `folder`/uiprmd, zipped or not: stand, sit down, stand up.

    Args:
        folder: of all data.
        arms: somebody who stands with hanging arms. They follow the chest of whoever sits, scaled
            to the length of that person's; each episode goes on where the one before it ended, back
            and forth.

    """
    people: dict[str, dict[str, Markers]] = defaultdict(dict)
    skipped: list[Skipped] = []
    for match, markers in read_files(folder / "uiprmd", _MEMBER, parse_markers, skipped):
        people[match[2]][match[1]] = markers
    hanging = _in_chest(arms)
    takes, used = [], 0
    for subject, episodes in people.items():
        for trial, joints in _person(episodes, hanging, used).items():
            told = "ODC PDDL 1.0", subject, trial, "sit-stand", ""
            takes.append(Take("uiprmd", *told, joints, RATE))
            used += len(joints)
    return takes, skipped


def parse_markers(text: str, where: str) -> Markers:
    """Markers in metres, Y up, +Z where the laboratory has +x, low-passed.

    Raises:
        InputError: not 39 markers a frame, too few frames for the filter, or a gap.
    """
    try:
        rows = np.genfromtxt(io.StringIO(text), delimiter=",", ndmin=2)
        if rows.shape[1] != 3 * len(MARKERS) or len(rows) < RATE:
            raise ValueError(f"{rows.shape} numbers")
        places = rows.reshape(len(rows), -1, 3)
        gaps = ~np.isfinite(places).all(-1) | (places == 0).all(-1)
        if gaps.any():
            frame, marker = np.argwhere(gaps)[0]
            raise ValueError(f"no {MARKERS[marker]} at frame {frame}")
    except ValueError as error:
        expected = "a second or more of 39 markers, comma separated, without a gap"
        raise InputError(where, str(error), expected, "Leave it out.") from error
    places = sosfiltfilt(butter(2, CUTOFF, fs=RATE, output="sos"), places, axis=0)
    return dict(zip(MARKERS, 0.001 * places[..., [1, 2, 0]].transpose(1, 0, 2), strict=True))


def _person(
    episodes: dict[str, Markers], hanging: Float[np.ndarray, "N 6 3"], used: int
) -> dict[str, Joints]:
    """Joints of all episodes of one person, after `used` frames of the hanging arms."""
    stand = {
        name: np.concatenate([np.r_[m[name][:REST], m[name][-REST:]] for m in episodes.values()])
        for name in MARKERS
    }
    leg = np.mean([_length(stand[f"{s}ASI"] - stand[f"{s}ANK"]).mean() for s in "LR"])
    arm = np.mean(
        [
            _length(np.diff([stand[f"{s}SHO"], stand[f"{s}ELB"], wrist], axis=0)).sum(0).mean()
            for s in "LR"
            for wrist in [(stand[f"{s}WRA"] + stand[f"{s}WRB"]) / 2]
        ]
    )
    # Which way the plane of the pelvis' markers points when its owner stands depends on who stuck
    # them on, so it is level then; from there on it turns as they do.
    tilt = np.arcsin(_pelvis(stand)[:, 1, 2].mean())
    still = _centres(stand, leg, tilt)
    moving = {trial: _centres(m, leg, tilt) for trial, m in episodes.items()}
    for side in ("left", "right"):
        _fix_legs(still, list(moving.values()), side)
    joints = {}
    for trial, at in moving.items():
        m = episodes[trial]
        chest = _chest(at["neck"] - at["spine3"], m["LSHO"] - m["RSHO"])
        count = len(hanging) - 1
        frame = count - abs((used + np.arange(len(chest))) % (2 * count) - count)  # back and forth
        follow = at["neck"][:, None] + arm * np.einsum("tij,tnj->tni", chest, hanging[frame])
        at |= dict(zip(ARMS, follow.swapaxes(0, 1), strict=True))
        for side in ("left", "right"):
            at[f"{side}_collar"] = _mix(
                _mix(at["spine3"], at["neck"], 0.55), at[f"{side}_shoulder"], 0.4
            )
        joints[trial] = np.stack([at[name] for name in JOINTS], axis=1)
        used += len(chest)
    return joints


def _centres(m: Markers, leg: float, tilt: float) -> dict[str, Float[np.ndarray, "T 3"]]:
    """Joints other than collars and arms, knees where skin and markers carry them."""
    pelvis = _pelvis(m)
    left, up, ahead = np.moveaxis(pelvis, -1, 0)
    front = _mix(m["LASI"], m["RASI"])
    at = {}
    for side, s, out in (("left", "L", left), ("right", "R", -left)):
        # Hip centres from the length of the leg: Hara et al., Scientific Reports 6:37707 (2016).
        # Regressions on the pelvis' width fail where soft tissue puts the ASIS 43 cm apart.
        offset = np.array([0.008 + 0.086 * leg, -0.009 - 0.078 * leg, 0.011 - 0.063 * leg])
        hip = front + offset[0] * out + offset[1] * up + offset[2] * ahead
        toe, heel, knee, ankle = (m[f"{s}{name}"] for name in ("TOE", "HEE", "KNE", "ANK"))
        knee = knee - KNEE * _unit(_across(out, knee - hip))
        outwards = np.cross(knee - ankle, toe - heel) * (1 if s == "L" else -1)
        at |= {
            f"{side}_hip": hip,
            f"{side}_knee": knee,
            f"{side}_ankle": ankle - ANKLE * _unit(outwards),
            f"{side}_foot": toe - TOE * _unit(_across(knee - ankle, toe - heel)),
        }
    upright = np.cos(tilt) * up + np.sin(tilt) * ahead
    at["pelvis"] = _mix(at["left_hip"], at["right_hip"]) + PELVIS * leg * upright
    at["spine1"] = at["pelvis"] + SPINE * leg * upright
    at["spine3"] = _mix(m["T10"], m["STRN"])
    at["spine2"] = _mix(at["spine1"], at["spine3"], 0.7)
    at["neck"] = _mix(m["C7"], m["CLAV"])
    skull = np.mean([m[name] for name in ("LFHD", "RFHD", "LBHD", "RBHD")], axis=0)
    at["head"] = _mix(at["neck"], skull)
    return at


def _fix_legs(still: dict[str, np.ndarray], moving: list[dict[str, np.ndarray]], side: str) -> None:
    """Give thigh and shin the lengths of standing, hip and ankle as they are.

    On a chair skin carries the markers of hip and knee towards each other by up to 7 cm.
    """
    names = [f"{side}_{joint}" for joint in ("hip", "knee", "ankle")]
    hip, knee, ankle = (still[name] for name in names)
    lengths = np.array([_length(knee - hip).mean(), _length(ankle - knee).mean()])
    reach = max(_length(at[names[2]] - at[names[0]]).max() for at in moving)
    thigh, shin = lengths * max(1.0, STRAIGHT * reach / lengths.sum())
    for at in moving:
        hip, knee, ankle = (at[name] for name in names)
        line = ankle - hip
        far = _length(line)[:, None]
        along = (far**2 + thigh**2 - shin**2) / (2 * far)
        # A straight leg does not tell where its knee points, and where the hip lies too far ahead
        # the markers bend it backwards: 15 cm towards the toes decide then.
        ahead = _across(at[f"{side}_foot"] - ankle, line)
        bend = _unit(_across(knee - hip, line) + 0.15 * _unit(ahead))
        at[names[1]] = hip + along * line / far + np.sqrt(thigh**2 - along**2) * bend


def _in_chest(arms: Take) -> Float[np.ndarray, "N 6 3"]:
    """Shoulders, elbows and wrists from the neck in the chest's frame, in lengths of an arm."""
    joints = resample(arms.joints, arms.rate, RATE)
    at = dict(zip(JOINTS, joints.swapaxes(0, 1), strict=True))
    chest = _chest(at["neck"] - at["spine3"], at["left_shoulder"] - at["right_shoulder"])
    length = bone_lengths(joints)[:, [JOINTS.index(n) for n in ARMS if "shoulder" not in n]]
    places = np.stack([at[name] - at["neck"] for name in ARMS], axis=1)
    return np.einsum("tji,tnj->tni", chest, places) * 2 / length.sum(1).mean()


def _chest(
    up: Float[np.ndarray, "T 3"], left: Float[np.ndarray, "T 3"]
) -> Float[np.ndarray, "T 3 3"]:
    """Columns: to the left, up and ahead."""
    up, left = _unit(up), _unit(_across(left, up))
    return np.stack([left, up, np.cross(left, up)], axis=-1)


def _pelvis(m: Markers) -> Float[np.ndarray, "T 3 3"]:
    """Columns: to the left, up and ahead in the plane of ASIS and PSIS."""
    left = _unit(m["LASI"] - m["RASI"])
    ahead = _unit(_across(m["LASI"] + m["RASI"] - m["LPSI"] - m["RPSI"], left))
    return np.stack([left, np.cross(ahead, left), ahead], axis=-1)


def _across(v: Float[np.ndarray, "T 3"], line: Float[np.ndarray, "T 3"]) -> np.ndarray:
    """The part of v that is perpendicular to a line."""
    line = _unit(line)
    return v - (v * line).sum(-1, keepdims=True) * line


def _mix(a: np.ndarray, b: np.ndarray, share: float = 0.5) -> np.ndarray:
    return a + share * (b - a)


def _length(v: np.ndarray) -> np.ndarray:
    return np.linalg.norm(v, axis=-1)


def _unit(v: np.ndarray) -> np.ndarray:
    return v / _length(v)[..., None]
