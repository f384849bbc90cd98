"""Whether a motion can be one of a person, and whether it shows what was asked for.

Everything rests on the numbers of `measures`, which need no model: `faults` holds them against
ranges of recorded motion, `shows` judges eight activities by plain rules.

Joints are (T, 22, 3) in metres, Y up, floor at y = 0, 20 frames a second. Heights of the pelvis are
counted from the lower foot in lengths of a leg, so that stairs and people of any size are judged
alike. The limits are from CMU, Bandai-Namco, ReActIdle and UI-PRMD, and for stairs and lying from
what was composed of them.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from t2imu_utils.motion.skeleton import FEET, RATE, Joints, bone_lengths, check_joints

ACTIVITIES = (
    "walking", "running", "jumping", "standing", "sitting", "lying", "climbing up", "climbing down",
)  # fmt: skip
MIN_FRAMES = 10

_HIPS, _KNEES, _ANKLES, _NECK = [1, 2], [4, 5], [7, 8], 12
_LEVEL = [0, 2]
_UP = np.array([0.0, 1.0, 0.0])

GROUND = 0.05  # m: in walking some joint is always lower; knees, hips and backs are thicker
LOW_GROUND = 0.15
FALLING = -4.0  # m/s²: of the pelvis in flight, -9.8 smoothed by the difference over three frames
STEP = 0.4  # m/s by which one ankle is faster than the other in a step

# Recorded runs reach 127 m/s², heel strikes and claps less; noise of 2 cm in one frame exceeds 150.
# Bones of recordings are rigid and their lowest point is the floor: beyond these, poses are absurd.
_ALWAYS = {"acceleration_max": (0.0, 150.0), "depth": (-0.03, np.inf), "stretch": (0.0, 0.5)}
# Recorded feet that stand move by 0.04 m/s in the median; 0.13 in 99 % of walks. Nobody who walks,
# stands, sits or lies leaves the floor, but for the 0.25 s of a run.
_ON_FLOOR = {"air": (0.0, 0.3), "slip": (0.0, 0.15)}
LIMITS: dict[str | None, dict[str, tuple[float, float]]] = {
    None: _ALWAYS | {"slip": (0.0, 1.0)},  # dancers and wrestlers slide
    "walking": _ALWAYS | _ON_FLOOR | {"cadence": (60.0, 155.0)},  # recorded 1-99 %: 75-143
    # Recorded 133-208. A foot stands for two or three frames, and the first of them still lands.
    "running": _ALWAYS | _ON_FLOOR | {"slip": (0.0, 0.75), "cadence": (125.0, 225.0)},
    "jumping": _ALWAYS | {"air": (0.0, 1.0), "slip": (0.0, 0.3)},  # 1 s in the air is 1.2 m high
    # Nobody is a statue: joints of idling people have 0.02 to 1 m/s² on average.
    "standing": _ALWAYS | _ON_FLOOR | {"acceleration": (0.015, 1.5)},
    # The seat of a low stool to that of a bar; sitting down and standing up are sitting too.
    "sitting": _ALWAYS
    | _ON_FLOOR
    | {"lowest": (0.4, 0.95), "knee_max": (60.0, 150.0), "acceleration": (0.05, 3.0)},
    "lying": _ALWAYS | _ON_FLOOR | {"acceleration": (0.05, 6.0)},
    # Of stairs the treads are unknown, so that nothing tells floating but feet that never stand.
    "climbing up": _ALWAYS | {"slip": (0.0, 0.15)},
    "climbing down": _ALWAYS | {"slip": (0.0, 0.15)},
}


def measures(joints: Joints) -> dict[str, float]:
    """What the judges look at, of a whole motion or of a part of it.

    Returns:
        ``lowest`` of the pelvis above the lower foot, in legs; ``speed`` and ``top_speed``, the
        median and largest horizontal speed of the pelvis over a second, m/s; ``rise`` of the lower
        ankle from start to end, m; ``upright``, ``seated``, ``lying``: shares of frames;
        ``seated_s``, ``lying_s``: longest time of it, s; ``flight``: share of frames, ``flight_s``
        the longest, ``clearance`` of both feet in it, m; ``steps``: how often the other foot goes
        ahead, ``step_rate`` a second, ``cadence`` a minute (from the spectrum of the ankles'
        heights); ``slip``: speed of the stillest foot joint outside flight, m/s; ``air``: longest
        time without a joint on the floor, s; ``depth``: lowest point, m; ``stretch``: largest
        deviation of a bone's length; ``knee_max``: flexion, degrees; ``acceleration``, that of the
        ankles, and ``acceleration_max``, m/s².
    """
    check_joints(joints, "motion quality", MIN_FRAMES)
    joints = joints.astype(np.float64)
    seconds = len(joints) / RATE
    feet, ankles = joints[:, list(FEET)], joints[:, _ANKLES]
    thigh, shank = joints[:, _HIPS] - joints[:, _KNEES], joints[:, _KNEES] - ankles
    bones = bone_lengths(joints)[:, 1:]
    leg = np.median(np.linalg.norm(thigh, axis=-1) + np.linalg.norm(shank, axis=-1))
    low, lowest = feet[..., 1].min(axis=1), joints[..., 1].min(axis=1)
    height = (joints[:, 0, 1] - low) / leg
    knee = _angle(thigh, shank).mean(axis=1)
    lean = _angle(joints[:, _NECK] - joints[:, 0], _UP)

    velocity = np.diff(joints, axis=0) * RATE
    acceleration = np.diff(velocity, axis=0) * RATE
    size = np.linalg.norm(acceleration, axis=-1)
    second = min(int(RATE), len(joints) - 1)
    pelvis = joints[:, 0, _LEVEL]
    speed = np.linalg.norm(pelvis[second:] - pelvis[:-second], axis=-1) * RATE / second

    upright = (height > 0.9) & (lean < 45)
    seated = (height > 0.35) & (height < 0.95) & (knee > 50) & (knee < 140) & (lean < 50)
    lying = (lean > 55) & (joints[:, 0, 1] < 0.5 * leg)
    clear = low - np.quantile(low, 0.1)
    flight = np.zeros(len(joints), dtype=bool)
    flight[1:-1] = (acceleration[:, 0, 1] < FALLING) & (clear[1:-1] > GROUND)
    landed = ~(flight[1:] | flight[:-1])
    still = np.linalg.norm(velocity[:, list(FEET)][..., _LEVEL], axis=-1).min(axis=1)
    off = lowest > np.where(upright, GROUND, LOW_GROUND)

    pace = np.linalg.norm(velocity[:, _ANKLES], axis=-1)
    ahead = pace[:, 0] - pace[:, 1]
    steps = np.diff(np.sign(ahead[np.abs(ahead) > STEP])).astype(bool).sum()
    support = ankles[..., 1].min(axis=1)
    end = max(3, min(10, len(joints) // 4))

    found = {
        "lowest": height.min(),
        "speed": np.median(speed),
        "top_speed": speed.max(),
        "rise": np.median(support[-end:]) - np.median(support[:end]),
        "upright": upright.mean(),
        "seated": seated.mean(),
        "lying": lying.mean(),
        "seated_s": _longest(seated),
        "lying_s": _longest(lying),
        "flight": flight.mean(),
        "flight_s": _longest(flight),
        "clearance": clear[flight].max(initial=0.0),
        "steps": steps,
        "step_rate": steps / seconds,
        "cadence": _cadence(ankles[:, 0, 1] - ankles[:, 1, 1]),
        "slip": still[landed].mean() if landed.any() else still.mean(),
        "air": _longest(off),
        "depth": lowest.min(),
        "stretch": np.abs(bones / np.median(bones, axis=0) - 1).max(),
        "knee_max": knee.max(),
        "acceleration": size.mean(),
        "acceleration ankles": size[:, _ANKLES].mean(),
        "acceleration_max": size.max(),
    }
    return {name: float(value) for name, value in found.items()}


def _angle(a: Float[np.ndarray, "*b 3"], b: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b"]:
    cosine = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1) + 1e-12)
    return np.degrees(np.arccos(cosine.clip(-1, 1)))


def _longest(flags: Bool[np.ndarray, "T"]) -> float:
    """Seconds of the longest run of True."""
    ends = np.flatnonzero(np.diff(flags.astype(int), prepend=0, append=0))
    return (ends[1::2] - ends[::2]).max(initial=0) / RATE


def _cadence(height: Float[np.ndarray, "T"]) -> float:
    """Steps a minute: twice the strides, in which the difference of the ankles' heights repeats."""
    x = (height - height.mean()) * np.hanning(len(height))
    size = max(2048, len(x))
    frequency, power = np.fft.rfftfreq(size, 1 / RATE), np.abs(np.fft.rfft(x, size))
    stride = (frequency > 0.4) & (frequency < 2.5)
    return 120 * frequency[stride][power[stride].argmax()]


def faults(joints: Joints, activity: str | None = None) -> dict[str, float]:
    """What no recorded motion does: measures outside `LIMITS`, with their values; empty is good.

    activity: one of `ACTIVITIES` that the motion is meant to show; None asks only what holds of
    every motion. Crops of a recording must stand on y = 0, their own lowest point.
    """
    if not np.isfinite(joints).all() or np.abs(joints).max() > 1e3:
        return {"not finite": float((~(np.abs(joints) < 1e3)).any((1, 2)).sum())}
    found, limits = measures(joints), LIMITS[activity]
    return {k: found[k] for k, (low, high) in limits.items() if not low <= found[k] <= high}


def shows(joints: Joints, activity: str) -> bool:
    """Whether a motion shows an activity, by plain rules.

    Sitting down and standing up are sitting, lying down and getting up lying. A shuffle that always
    has a foot on the ground is walking, however fast: running has flights or 2.3 m/s. Climbing has
    steps, and both feet end 0.3 m (two treads) higher or lower.
    """
    m = measures(joints)
    level = abs(m["rise"]) < 0.25
    strides = m["upright"] > 0.8 and m["steps"] >= 2
    runs = strides and m["step_rate"] >= 1.5 and m["speed"] >= 1.0
    runs = runs and (m["flight"] >= 0.08 or m["speed"] >= 2.3)
    match activity:
        case "walking":
            walks = strides and m["step_rate"] >= 0.7 and m["upright"] > 0.9
            return walks and not runs and level and m["speed"] >= 0.3 and m["flight"] < 0.08
        case "running":
            return runs and level
        case "jumping":
            leaps = m["flight_s"] >= 0.2 and m["clearance"] > 0.06
            return leaps and not runs and m["step_rate"] < 2.5 and abs(m["rise"]) < 0.3
        case "standing":
            rests = m["top_speed"] < 0.4 and m["acceleration ankles"] < 1.5
            return m["upright"] > 0.95 and rests and m["step_rate"] < 0.6 and level
        case "sitting":
            return m["seated_s"] >= 1 and m["seated"] >= 0.3 and level
        case "lying":
            return m["lying_s"] >= 1 and m["lying"] >= 0.3
        case "climbing up":
            return strides and m["rise"] >= 0.3
        case "climbing down":
            return strides and m["rise"] <= -0.3
    raise KeyError(activity)


def as_asked(motions: Iterable[Joints], activities: Iterable[str]) -> pd.DataFrame:
    """How many motions show the activity that was asked for, and have no `faults`.

    Returns:
        A row for each of `ACTIVITIES` that was asked for: ``n``, and the shares ``shown`` and
        ``plausible``.
    """
    asked = [(a, joints) for joints, a in zip(motions, activities, strict=True) if a in ACTIVITIES]
    rows = [(a, shows(joints, a), not faults(joints, a)) for a, joints in asked]
    table = pd.DataFrame(rows, columns=["activity", "shown", "plausible"])
    return table.groupby("activity").agg(
        n=("shown", "size"), shown=("shown", "mean"), plausible=("plausible", "mean")
    )
