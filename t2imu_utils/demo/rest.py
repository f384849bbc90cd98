"""Standing, sitting and lying: a body at rest that sways, breathes, gestures and shifts."""

import numpy as np
from jaxtyping import Float

from t2imu_utils.demo.curves import drift, ease, pulse
from t2imu_utils.demo.figure import Feet, Figure, Pose, about, articulate
from t2imu_utils.demo.gait import Take, pick_style, supported_height
from t2imu_utils.demo.steps import Contact, foot_track

# Arm poses (flexion, abduction, inward twist, elbow) for left and right, None: as at rest; and an
# oscillation (size of the four angles, Hz) while the gesture lasts.
_WAVE = (None, (1.1, 1.0, -0.9, 1.6), (0.0, 0.12, 0.45, 0.15), 1.9)
_GESTURES = {
    "wave": ("waving with one hand", *_WAVE),
    "talk": (
        "gesturing with both hands while talking",
        (0.45, 0.2, 0.3, 1.35),
        (0.5, 0.25, 0.3, 1.25),
        (0.15, 0.1, 0.2, 0.28),
        0.9,
    ),
    "head": ("scratching the head", None, (1.35, 0.75, 0.3, 2.3), (0.0, 0.03, 0.12, 0.08), 2.6),
    "phone": (
        "looking at a phone",
        (0.1, 0.2, 0.2, 0.3),
        (0.6, 0.15, 0.6, 1.75),
        (0, 0, 0, 0.02),
        1,
    ),
    "drink": ("drinking from a cup", None, (0.95, 0.3, 0.5, 2.2), (0.05, 0.02, 0.0, 0.06), 0.5),
    "stretch": (
        "stretching both arms overhead",
        (2.8, 0.2, 0, 0.3),
        (2.8, 0.2, 0, 0.3),
        (0.05,) * 4,
        0.4,
    ),
    "cross": (
        "with the arms crossed",
        (0.55, 0.0, 0.95, 1.6),
        (0.6, 0.0, 1.0, 1.65),
        (0,) * 4,
        0.3,
    ),
    "hips": (
        "with hands on the hips",
        (-0.35, 0.75, 0.9, 1.7),
        (-0.35, 0.75, 0.9, 1.7),
        (0,) * 4,
        0.3,
    ),
    "clap": (
        "clapping the hands",
        (0.75, 0.05, 0.5, 1.3),
        (0.75, 0.05, 0.5, 1.3),
        (0.02, 0.03, 0.22, 0.0),
        2.2,
    ),
    "write": (
        "typing on a keyboard",
        (0.4, 0.1, 0.3, 1.45),
        (0.4, 0.1, 0.3, 1.45),
        (0.0, 0.0, 0.03, 0.05),
        3.0,
    ),
}
_HELD = ("cross", "hips", "phone", "write", "talk")


def _gesture(
    rng: np.random.Generator,
    name: str,
    times: Float[np.ndarray, " T"],
    base: Float[np.ndarray, "2 4"],
    vigour: float = 1.0,
) -> Float[np.ndarray, "2 T 4"]:
    """Arms at `base` that take up a gesture once (or for the whole clip) and drift a little."""
    seconds = float(times[-1])
    arms = np.empty((2, len(times), 4))
    span = None
    if name in _GESTURES:
        _, left, right, size, rate = _GESTURES[name]
        start = rng.uniform(0.3, 0.3 * seconds)
        end = max(start + 1.5, rng.uniform(0.7, 0.95) * seconds)
        held = name in _HELD and rng.random() < 0.75
        span = np.ones_like(times) if held else pulse(times, start, end, rng.uniform(0.6, 0.9))
        targets = [left, right] if rng.random() < 0.6 else [right, left]
        rate = rate * rng.uniform(0.85, 1.15) * vigour
        beat = np.sin(2 * np.pi * rate * times + rng.uniform(0, 6))
    for side in (0, 1):
        wander = np.stack([drift(rng, s, 0.08, 0.6)(times) for s in (0.025, 0.015, 0.02, 0.035)])
        arms[side] = base[side] + wander.T
        if span is not None and targets[side] is not None:
            aim = np.array(targets[side]) * rng.uniform(0.93, 1.07, 4)
            arms[side] += span[:, None] * (aim - base[side])
            arms[side] += np.outer(span * beat, size)
    return arms


def _look(
    rng: np.random.Generator, times: Float[np.ndarray, " T"], about_: bool
) -> Float[np.ndarray, "T 3"]:
    """The head: small drift, and glances to the sides where asked for."""
    head = np.stack([drift(rng, s, 0.1, 0.7)(times) for s in (0.05, 0.03, 0.02)], axis=-1)
    if about_:
        knots = np.arange(-1.0, times[-1] + 3.0, rng.uniform(1.0, 1.6))
        head[:, 0] += ease(times, knots, rng.uniform(-0.9, 0.9, len(knots)))
    return head


def _planted(figure: Figure, times, places, yaws) -> Feet:
    rows = tuple(
        [Contact(-9.0, times[-1] + 9.0, np.array((x, figure.ankle_height, z)), yaw)]
        for (x, z), yaw in zip(places, yaws, strict=True)
    )
    return foot_track(figure, rows, times)


def standing(
    rng: np.random.Generator,
    figure: Figure,
    times: Float[np.ndarray, " T"],
    vigour: float = 1.0,
    plain: bool = False,
) -> Take:
    """Stand with natural sway; look around, shift the weight, gesture with the arms."""
    seconds = float(times[-1])
    kinds = ("still", "look", "shift", "phone", "cross")
    if not plain:
        kinds += ("wave", "talk", "head", "drink", "stretch", "hips", "clap")
    kind = str(rng.choice(kinds))
    heading = rng.uniform(-np.pi, np.pi)
    c, s = np.cos(heading), np.sin(heading)
    width = rng.uniform(0.16, 0.34) * figure.pace
    stagger = rng.normal(0, 0.03)
    places = [(w * c + z * s, -w * s + z * c) for w, z in ((width / 2, stagger), (-width / 2, 0))]
    feet = _planted(figure, times, places, (heading + rng.uniform(0, 0.25), heading - 0.15))
    aside = drift(rng, 0.008, 0.15, 0.8)(times)
    roll = np.zeros_like(times)
    if kind == "shift" or rng.random() < 0.3:
        knots = np.arange(-2.0, seconds + 4.0, rng.uniform(1.8, 3.0))
        lean = (-1.0) ** np.arange(len(knots)) * rng.uniform(0.5, 1.0, len(knots))
        shift = ease(times, knots, lean)
        aside, roll = aside + 0.28 * width * shift, roll + 0.06 * shift
    along = drift(rng, 0.008, 0.15, 0.8)(times) + 0.035 * figure.pace
    root = np.stack((aside * c + along * s, 0 * times, -aside * s + along * c), axis=-1)
    wander = [drift(rng, size, 0.1, 0.8)(times) for size in (0.02, 0.012, 0.02, 0.015)]
    pelvis = np.stack((heading + wander[0], 0.02 + 0.5 * wander[1], roll), axis=-1)
    breath = 0.008 * np.sin(2 * np.pi * rng.uniform(0.22, 0.35) * times + rng.uniform(0, 6))
    slump = rng.uniform(-0.02, 0.12)
    spine = np.stack((wander[2], slump + wander[3] + breath, -1.2 * roll + wander[1]), axis=-1)
    head = _look(rng, times, kind in ("look", "talk"))
    head[:, 1] += 0.45 if kind == "phone" else -0.8 * slump
    if kind == "stretch":
        spine[:, 1] -= 0.1
    root[:, 1] = supported_height(figure, root, pelvis, feet, times, 0.3, rng.uniform(1.0, 1.02))
    base = np.array([(0.03, 0.14, 0.15, 0.25)] * 2) + rng.uniform(-0.05, 0.05, (2, 4))
    arms = _gesture(rng, kind, times, base, vigour)
    words = {
        "still": "still",
        "look": "looking around",
        "shift": "shifting the weight from one leg to the other",
    }.get(kind) or _GESTURES[kind][0]
    return Take(
        Pose(root, pelvis, spine, head, arms, feet=feet),
        np.zeros(len(times), dtype=bool),
        {"style": words},
    )


def sitting(
    rng: np.random.Generator,
    figure: Figure,
    times: Float[np.ndarray, " T"],
    vigour: float = 1.0,
    plain: bool = False,
) -> Take:
    """Sit on a chair: upright, slouched or leaning forward; sit down, or get up again."""
    seconds = float(times[-1])
    change = "" if plain else str(rng.choice(("", "down", "up"), p=(0.7, 0.17, 0.13)))
    kinds = ("still", "look", "sway", "talk", "phone", "write")
    if not plain:
        kinds += ("wave", "drink", "head", "clap")
    kind = str(rng.choice(kinds))
    posture = str(rng.choice(("upright", "leaning back", "leaning forward", "slouched")))
    pitch, bend = {
        "upright": (-0.05, 0.1),
        "leaning back": (-0.38, 0.15),
        "leaning forward": (0.2, 0.45),
        "slouched": (-0.3, 0.6),
    }[posture]
    pitch, bend = pitch + rng.normal(0, 0.03), bend + rng.normal(0, 0.04)
    heading = rng.uniform(-np.pi, np.pi)
    c, s = np.cos(heading), np.sin(heading)
    thigh = -figure.offsets[4, 1]
    seat = rng.uniform(0.5, 0.57) * figure.pace
    reach = thigh * rng.uniform(0.85, 1.2)
    width = rng.uniform(0.18, 0.36) * figure.pace
    places = [(w * c, -w * s) for w in (width / 2, -width / 2)]
    feet = _planted(figure, times, places, (heading + 0.1, heading - 0.1))
    sat, lean = np.ones_like(times), np.zeros_like(times)
    if change:
        length = rng.uniform(1.3, 1.9)
        begin = (
            rng.uniform(0.5, 1.0) if change == "down" else seconds - length - rng.uniform(0.4, 0.9)
        )
        order = (0.0, 1.0) if change == "down" else (1.0, 0.0)
        sat = ease(times, (begin, begin + length), order)
        lean = pulse(times, begin + 0.35 * length, begin + 0.65 * length, 0.5 * length)
    wander = [drift(rng, size, 0.08, 0.7)(times) for size in (0.02, 0.015, 0.02, 0.025, 0.004)]
    rocking = 0.06 * np.sin(2 * np.pi * rng.uniform(0.25, 0.45) * times) if kind == "sway" else 0.0
    along = 0.035 - (reach + 0.035) * sat + 0.06 * lean + wander[4]
    root = np.stack((along * s, 0 * times, along * c), axis=-1)
    upright = figure.stand * 0.985
    pelvis = np.stack(
        (heading + 0.3 * wander[0], (pitch + 0.5 * rocking) * sat + 0.5 * lean, 0.3 * wander[1]),
        axis=-1,
    )
    planned = seat * sat + upright * (1 - sat)
    root[:, 1] = supported_height(
        figure, root, pelvis, feet, times, 0.2, 1.0, planned - 0.98 * figure.stand
    )
    breath = 0.01 * np.sin(2 * np.pi * rng.uniform(0.22, 0.35) * times + rng.uniform(0, 6))
    spine = np.stack(
        (wander[0], (bend + rocking) * sat + 0.35 * lean + wander[3] + breath, wander[2]), axis=-1
    )
    head = _look(rng, times, kind in ("look", "talk"))
    head[:, 1] += 0.35 if kind in ("phone", "write") else 0.0
    head[:, 1] -= 0.7 * (pitch + bend) * sat + 0.4 * lean
    lap = np.array([(0.5 - 0.5 * (pitch + bend), 0.12, 0.35, 0.75)] * 2)
    hang = np.array((0.05, 0.14, 0.15, 0.3))
    arms = _gesture(rng, kind, times, lap + rng.uniform(-0.08, 0.08, (2, 4)), vigour)
    arms = hang + sat[:, None] * (arms - hang) + lean[:, None] * (0.35, 0.0, 0.0, 0.1)
    words = {"still": "", "look": "looking around", "sway": "rocking back and forth"}.get(kind)
    return Take(
        Pose(root, pelvis, spine, head, arms, feet=feet),
        np.zeros(len(times), dtype=bool),
        {
            "style": _GESTURES[kind][0] if words is None else words,
            "posture": posture,
            "change": change,
        },
    )


_SIDES = {
    "on the back": (0.0, 5),
    "on the left side": (1.12, 2),
    "on the right side": (-1.12, 2),
    "on the stomach": (np.pi, 2),
}


def lying(
    rng: np.random.Generator,
    figure: Figure,
    times: Float[np.ndarray, " T"],
    vigour: float = 1.0,
    plain: bool = False,
) -> Take:
    """Lie on the floor: on the back, a side or the stomach; shift a leg or an arm, roll over."""
    seconds = float(times[-1])
    side = pick_style(rng, _SIDES)
    roll, back = _SIDES[side][0] + drift(rng, 0.015, 0.08, 0.4)(times), side == "on the back"
    rolls = back and not plain and rng.random() < 0.35
    if rolls:
        way = float(rng.choice((-1, 1)))
        begin = rng.uniform(0.5, max(0.6, 0.4 * seconds - 0.8))
        there = ease(times, (begin, begin + rng.uniform(1.3, 1.9)), (0.0, way * 1.1))
        returns = rng.random() < 0.5 and seconds > 5.0
        leave = seconds - 2.2
        roll = roll + there * (1 - ease(times, (leave, leave + 1.6), (0.0, float(returns))))
    # Legs: how far each knee is drawn up, with the foot on the floor on one's back.
    drawn = np.zeros((2, len(times)))
    legs_words = ""
    choice = rng.random()
    if back and not rolls:
        if choice < 0.3:
            drawn[int(rng.integers(2))] = rng.uniform(0.6, 0.95)
            legs_words = "with one knee bent"
        elif choice < 0.5:
            drawn[:] = rng.uniform(0.6, 0.95)
            legs_words = "with both knees bent"
        elif choice < 0.7 and not plain:
            knots = np.arange(rng.uniform(0.4, 1.0) - 2 * 1.7, seconds + 3, 1.7 / vigour)
            height = rng.uniform(0.6, 0.95)
            drawn[int(rng.integers(2))] = height * ease(times, knots, np.arange(len(knots)) % 2)
            legs_words = "drawing up one knee and stretching it again"
    thigh, shin = -figure.offsets[4, 1], -figure.offsets[7, 1]
    legs = np.zeros((2, len(times), 4))
    on_side = np.sin(roll) ** 2
    fetal = rng.uniform(0.3, 1.0)
    for leg in (0, 1):
        hip = drawn[leg] + drift(rng, 0.008, 0.08, 0.5)(times) + 0.01
        bent = hip + np.arcsin(np.clip((0.03 + thigh * np.sin(hip)) / shin, -1, 1))
        curled = fetal * (0.75 + 0.25 * leg) * on_side
        legs[leg, :, 0] = hip + curled
        legs[leg, :, 1] = 0.12 * (1 - on_side)
        legs[leg, :, 2] = bent + 1.3 * curled
        legs[leg, :, 3] = 0.45 + 0.1 * drawn[leg]
        if side == "on the stomach":
            legs[leg, :, 3] = 1.1
    arms, arm_words = _lying_arms(rng, times, side, plain or rolls, rolls, vigour)
    for arm, sign in enumerate((1.0, -1.0)):
        above = np.clip(-sign * np.sin(roll), 0.0, 1.0) ** 3
        aim = np.array((0.9, 0.1, 0.3, 1.2)) - np.multiply.outer(above, (0, 0.6, 0, 0))
        arms[arm] += 1.2 * on_side[:, None] * (aim - arms[arm])
    lay = about(
        "YXY",
        np.full_like(times, rng.uniform(-np.pi, np.pi)),
        np.full_like(times, -np.pi / 2),
        roll,
    )
    breath = np.sin(2 * np.pi * rng.uniform(0.18, 0.3) * times + rng.uniform(0, 6))
    wander = [drift(rng, size, 0.08, 0.5)(times) for size in (0.01, 0.012, 0.008)]
    still = np.zeros_like(times)
    height = figure.pace * (0.11 + 0.05 * on_side + 0.002 * breath)
    root = np.stack((still, height, still), axis=-1)
    pelvis = np.stack((still, 0.3 * wander[0], still), axis=-1)
    # On a side the shoulder props up the trunk: the spine bends away from the floor.
    aside = 0.24 * np.sin(roll) + wander[1]
    spine = np.stack((wander[0], 0.008 * breath + 0.25 * on_side * fetal, aside), axis=-1)
    head = _look(rng, times, rng.random() < 0.25)
    head[:, 1] += 0.15 * np.cos(roll) + 0.1
    pose = Pose(root, pelvis, spine, head, arms, legs=legs, lay=lay)
    root[:, 1] += max(0.0, 0.03 - float(articulate(figure, pose)[0][..., 1].min()))
    return Take(
        pose,
        np.zeros(len(times), dtype=bool),
        {
            "side": side,
            "style": "and rolls onto the side" if rolls else legs_words or arm_words,
            "rolls": str(rolls),
        },
    )


def _lying_arms(
    rng: np.random.Generator,
    times: Float[np.ndarray, " T"],
    side: str,
    plain: bool,
    rolls: bool,
    vigour: float,
) -> tuple[Float[np.ndarray, "2 T 4"], str]:
    """Arms that suit the side one lies on, and the words for them."""
    sides, belly = (0.0, 0.25, 0.1, 0.12), (0.3, 0.2, 0.8, 1.35)
    pillow, spread = (0.15, 1.75, -1.5, 2.0), (0.0, 1.3, 0.0, 0.15)
    base, words = (
        (sides, "with the arms at the sides"),
        (belly, "with the hands on the belly"),
        (pillow, "with the hands behind the head"),
        (spread, "with the arms spread out"),
    )[int(rng.integers(2 if rolls else 4))]
    if side == "on the stomach":
        base, words = (0.0, 1.6, -1.5, 1.5), "with the arms bent beside the head"
    elif side != "on the back":
        words = "with bent knees"
    arms = _gesture(rng, "", times, np.array((base, base)))
    if side == "on the back" and not plain and rng.random() < 0.4:
        begin = rng.uniform(0.4, 1.2)
        up = pulse(times, begin + 0.7, begin + rng.uniform(1.3, 2.2), 0.7 / vigour)
        which = int(rng.integers(2))
        arms[which] += up[:, None] * (np.array((1.5, 0.15, 0, 0.2)) - np.array(base))
        words = "raising one arm"
    return arms, words
