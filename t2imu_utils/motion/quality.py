"""Whether a motion can be one of a person, and whether it shows what was asked for.

Everything rests on the numbers of `measures`, which need no model: `faults` holds them against
ranges of recorded motion, `shows` is a judge of eight activities by plain rules, and
`fit_activity_classifier` learns the same activities from clips, as a second opinion.

Joints are (T, 22, 3) in metres, Y up, floor at y = 0, 20 frames a second. Heights of the pelvis are
counted from the lower foot in lengths of a leg, so that stairs and people of any size are judged
alike. `calibrate` measures a corpus; the limits below are from CMU, Bandai-Namco, ReActIdle and
UI-PRMD, and for stairs and lying from what was composed of them.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from t2imu_utils.motion.skeleton import FEET, RATE, bone_lengths, check_joints

ACTIVITIES = (
    "walking",
    "running",
    "jumping",
    "standing",
    "sitting",
    "lying",
    "climbing up",
    "climbing down",
)
MIN_FRAMES = 10
WINDOW, HOP = 40, 20  # frames that the classifier sees at a time: two seconds, like a sensor's

_HIPS, _KNEES, _ANKLES, _NECK = [1, 2], [4, 5], [7, 8], 12
_PARTS = {"pelvis": [0], "ankles": _ANKLES, "wrists": [20, 21], "head": [15]}
_LEVEL = [0, 2]
_UP = np.array([0.0, 1.0, 0.0])
_BANDS = (0.4, 1.2, 2.2, 3.6, 7.0)  # Hz; above, resampling has cut the spectrum off

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


def measures(joints: Float[np.ndarray, "T 22 3"]) -> dict[str, float]:
    """What the judges look at, of a whole motion or of a part of it.

    Returns:
        ``height``, ``lowest``, ``highest`` of the pelvis above the lower foot, in legs; ``speed``
        and ``top_speed``, the median and largest horizontal speed of the pelvis over a second, m/s;
        ``rise`` of the lower ankle from start to end, m; ``upright``, ``seated``, ``lying``:
        shares of frames; ``seated_s``, ``lying_s``: longest time of it, s; ``flight``: share of
        frames, ``flight_s`` the longest, ``clearance`` of both feet in it, m; ``steps``: how often
        the other foot goes ahead, ``step_rate`` a second, ``cadence`` a minute (from the spectrum
        of the ankles' heights); ``slip``: speed of the stillest foot joint outside flight, m/s;
        ``air``: longest time without a joint on the floor, s; ``depth``: lowest point, m;
        ``stretch``: largest deviation of a bone's length; ``knee``, ``knee_max``, ``knee_sd``:
        flexion, degrees; ``lean``, ``thigh``: from the vertical, degrees, and their ``_sd``;
        ``bounce``: deviation of the pelvis's vertical speed, m/s; ``acceleration``, of all joints
        and by part, and ``acceleration_max``, m/s²; ``pelvis 0.4 Hz`` …, ``ankles 0.4 Hz`` …:
        power of the pelvis's vertical acceleration and of the difference of the ankles', in bands.
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
    knees, thighs = _angle(thigh, shank), _angle(thigh, _UP)
    knee, lean = knees.mean(axis=1), _angle(joints[:, _NECK] - joints[:, 0], _UP)

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
        "height": np.median(height),
        "lowest": height.min(),
        "highest": height.max(),
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
        "knee": knee.mean(),
        "knee_max": knee.max(),
        "knee_sd": knees.std(axis=0).mean(),
        "lean": lean.mean(),
        "lean_sd": lean.std(),
        "thigh": thighs.mean(),
        "thigh_sd": thighs.std(axis=0).mean(),
        "bounce": velocity[:, 0, 1].std(),
        "acceleration": size.mean(),
        "acceleration_max": size.max(),
    }
    found |= {f"acceleration {part}": size[:, own].mean() for part, own in _PARTS.items()}
    vertical = acceleration[..., 1]
    found |= _band_powers("pelvis", vertical[:, 0])
    found |= _band_powers("ankles", vertical[:, _ANKLES[0]] - vertical[:, _ANKLES[1]])
    return {name: float(value) for name, value in found.items()}


def _angle(a: Float[np.ndarray, "*b 3"], b: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b"]:
    cosine = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1) + 1e-12)
    return np.degrees(np.arccos(cosine.clip(-1, 1)))


def _longest(flags: Bool[np.ndarray, "T"]) -> float:
    """Seconds of the longest run of True."""
    ends = np.flatnonzero(np.diff(flags.astype(int), prepend=0, append=0))
    return (ends[1::2] - ends[::2]).max(initial=0) / RATE


def _power(x: Float[np.ndarray, "T"], size: int) -> tuple[np.ndarray, np.ndarray]:
    x = (x - x.mean()) * np.hanning(len(x))
    return np.fft.rfftfreq(size, 1 / RATE), np.abs(np.fft.rfft(x, max(size, len(x)))) ** 2 / len(x)


def _cadence(height: Float[np.ndarray, "T"]) -> float:
    """Steps a minute: twice the strides, in which the difference of the ankles' heights repeats."""
    frequency, power = _power(height, 2048)
    stride = (frequency > 0.4) & (frequency < 2.5)
    return 120 * frequency[stride][power[stride].argmax()]


def _band_powers(name: str, x: Float[np.ndarray, "T"]) -> dict[str, float]:
    frequency, power = _power(x, 256)
    edges = zip(_BANDS[:-1], _BANDS[1:], strict=True)
    bands = {low: (frequency >= low) & (frequency < high) for low, high in edges}
    return {f"{name} {low} Hz": power[inside].mean() for low, inside in bands.items()}


def faults(joints: Float[np.ndarray, "T 22 3"], activity: str | None = None) -> dict[str, float]:
    """What no recorded motion does: measures outside `LIMITS`, with their values; empty is good.

    activity: one of `ACTIVITIES` that the motion is meant to show; None asks only what holds of
    every motion. Crops of a recording must stand on y = 0, their own lowest point.
    """
    if not np.isfinite(joints).all() or np.abs(joints).max() > 1e3:
        return {"not finite": float((~(np.abs(joints) < 1e3)).any((1, 2)).sum())}
    found, limits = measures(joints), LIMITS[activity]
    return {k: found[k] for k, (low, high) in limits.items() if not low <= found[k] <= high}


def shows(joints: Float[np.ndarray, "T 22 3"], activity: str) -> bool:
    """Whether a motion shows an activity, by plain rules.

    Sitting down and standing up are sitting, lying down and getting up lying. A shuffle that always
    has a foot on the ground is walking, however fast: running has flights or 2.3 m/s. Climbing has
    steps, and both feet end 0.3 m (two treads) higher or lower.
    """
    return _judged(measures(joints), activity)


def _judged(m: Mapping[str, float], activity: str) -> bool:
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


def as_asked(
    motions: Iterable[Float[np.ndarray, "T 22 3"]], activities: Iterable[str]
) -> pd.DataFrame:
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


def calibrate(motions: Mapping[str, Sequence[Float[np.ndarray, "T 22 3"]]]) -> pd.DataFrame:
    """How recorded motion lies to `LIMITS` and to the rules of `shows`.

    Args:
        motions: clips by activity, each from its own lowest point.

    Returns:
        A row for each activity and measure: the limits ``low`` and ``high`` (NaN where there is
        none), quantiles, and ``outside``, the share of clips; and for each rule of `shows` a row
        whose ``outside`` is the share of clips that the rule does not take for its activity.
    """
    rows = []
    for activity, clips in motions.items():
        found = [measures(clip) for clip in clips]
        table = pd.DataFrame(found)
        for name in table:
            low, high = LIMITS.get(activity, LIMITS[None]).get(name, (np.nan, np.nan))
            outside = ((table[name] < low) | (table[name] > high)).mean()
            quantiles = table[name].quantile([0, 0.01, 0.5, 0.99, 1]).tolist()
            rows.append([activity, name, low, high, *quantiles, outside])
        for other in ACTIVITIES:
            share = np.mean([not _judged(m, other) for m in found])
            rows.append([activity, f"shows {other}", *[np.nan] * 7, share])
    columns = ["activity", "measure", "low", "high", "min", "1 %", "median", "99 %", "max"]
    return pd.DataFrame(rows, columns=[*columns, "outside"])


def fit_activity_classifier(
    clips: Sequence[Float[np.ndarray, "T 22 3"]], labels: Sequence[str]
) -> dict[str, np.ndarray]:
    """Multinomial logistic regression on the measures of windows of two seconds.

    Returns:
        Plain arrays ``classes``, ``mean``, ``scale``, ``weights`` and ``bias``: keep them with
        `numpy.savez` and read them with `numpy.load`.
    """
    from sklearn.linear_model import LogisticRegression  # not for those who only look at faults

    windows = [_described(clip) for clip in clips]
    x = np.concatenate(windows)
    y = np.repeat(np.asarray(labels, dtype=str), [len(w) for w in windows])
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    model = LogisticRegression(class_weight="balanced", max_iter=5000)
    model.fit((x - mean) / scale, y)
    weights, bias = model.coef_.T, model.intercept_
    if len(model.classes_) == 2:  # of which scikit-learn keeps the logit of the second alone
        weights, bias = np.hstack((0 * weights, weights)), np.append(0, bias)
    return {
        "classes": model.classes_,
        "mean": mean,
        "scale": scale,
        "weights": weights,
        "bias": bias,
    }


def classify(
    joints: Float[np.ndarray, "T 22 3"], classifier: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Probability of each class of `fit_activity_classifier`, averaged over windows."""
    x = (_described(joints) - classifier["mean"]) / classifier["scale"]
    logits = x @ classifier["weights"] + classifier["bias"]
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    mean = (share / share.sum(axis=1, keepdims=True)).mean(axis=0)
    return dict(zip(classifier["classes"].tolist(), mean.tolist(), strict=True))


# Of a window the classifier does not see what grows with its length, nor what is a fault.
_UNSEEN = ("steps", "seated_s", "lying_s", "air", "depth", "stretch", "acceleration_max", "slip")


def _described(joints: Float[np.ndarray, "T 22 3"]) -> Float[np.ndarray, "N M"]:
    starts = range(0, max(1, len(joints) - WINDOW + 1), HOP)
    rows = [measures(joints[start : start + WINDOW]) for start in starts]
    logs = ("acceleration", "pelvis", "ankles")
    return np.array(
        [
            [np.log10(x + 1e-2) if name.startswith(logs) else x for name, x in row.items()
             if name not in _UNSEEN]
            for row in rows
        ]
    )  # fmt: skip
