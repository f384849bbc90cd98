"""Walking, running and climbing stairs, from foot placement upwards.

The feet come first (`steps`), then the pelvis as high as the legs allow (walking, stairs) or on
ballistic arcs (running), then trunk and arms against the legs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from t2imu_utils.demo.curves import drift, smooth_below
from t2imu_utils.demo.figure import Feet, Figure, Pose, pelvis_ceiling
from t2imu_utils.demo.steps import Contact, Path, foot_track, ramp, travel, turning_rate

GRAVITY = 9.81


@dataclass(frozen=True)
class Take:
    """One performance: the pose, when both feet are in the air, and what there is to say of it."""

    pose: Pose
    airborne: Bool[np.ndarray, " T"]
    words: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Manner:
    """How trunk and arms accompany the steps; angles in rad, distances in m."""

    sway: float = 0.02
    pelvis_turn: float = 0.08
    pelvis_list: float = 0.04
    counter: float = 1.7
    lean: float = 0.04
    bend: float = 0.04
    gaze: float = 0.0
    arm_swing: float = 0.42
    arm_rest: float = 0.02
    abduction: float = 0.13
    twist: float = 0.15
    elbow: float = 0.35
    elbow_swing: float = 0.22
    fixed_arms: tuple[tuple[float, ...] | None, tuple[float, ...] | None] = (None, None)


def accompany(
    rng: np.random.Generator,
    times: Float[np.ndarray, " T"],
    phase: Float[np.ndarray, " T"],
    level: Float[np.ndarray, " T"],
    yaw: Float[np.ndarray, " T"],
    rate: Float[np.ndarray, " T"],
    manner: Manner,
) -> tuple[Float[np.ndarray, "T 3"], ...]:
    """Pelvis, spine, head and arms for steps at `phase` (pi a step, 0 at left mid-stance).

    `level` (0-1) scales all swinging; `rate` is the turning of the path: one looks into the turn.
    """
    swing, list_ = np.sin(phase) * level, np.cos(phase) * level
    wander = [drift(rng, size, 0.1, 0.9)(times) for size in (0.025, 0.02, 0.012, 0.06, 0.04)]
    turned = manner.pelvis_turn * swing
    pelvis = np.stack(
        (yaw + turned, manner.lean + wander[1] * 0.3, manner.pelvis_list * list_), axis=-1
    )
    into = np.clip(rate, -2, 2)
    spine = np.stack(
        (
            -manner.counter * turned + wander[0] + 0.06 * into,
            manner.bend + wander[1] + 0.015 * np.cos(2 * phase + 0.6) * level,
            -1.1 * manner.pelvis_list * list_ + wander[2],
        ),
        axis=-1,
    )
    head = np.stack(
        (
            (manner.counter - 1) * turned + wander[3] + 0.18 * into,
            manner.gaze - 0.6 * (manner.lean + manner.bend) + wander[4],
            -wander[2],
        ),
        axis=-1,
    )
    arms = np.empty((2, len(times), 4))
    for side, sign in enumerate((1.0, -1.0)):
        forward = sign * np.sin(phase - 0.15) * level
        size = manner.arm_swing * rng.uniform(0.9, 1.1)
        arms[side, :, 0] = manner.arm_rest + size * (forward + 0.12 * (1 - forward**2) * level)
        arms[side, :, 1] = manner.abduction + 0.02 * np.cos(2 * phase) * level + wander[2]
        arms[side, :, 2] = manner.twist + 0.1 * forward
        arms[side, :, 3] = manner.elbow + manner.elbow_swing * sign * np.sin(phase - 0.5) * level
        fixed = manner.fixed_arms[side]
        if fixed is not None:
            arms[side] = np.array(fixed) + arms[side] * (0.06, 0.1, 0, 0.06) - (0, 0, 0, 0.02)
            arms[side, :, 0] += 0.3 * wander[0]
    return pelvis, spine, head, arms


def footfalls(
    figure: Figure,
    path: Path,
    middles: Float[np.ndarray, " N"],
    contact_time: float,
    width: float,
    anchor: float,
    shape: Callable[[int, int], dict],
) -> tuple[list[Contact], list[Contact]]:
    """Contacts of both feet around the times `middles` (left at even steps), beside the path."""
    rows = ([], [])
    for k, middle in enumerate(middles):
        side = k % 2
        sign = 1 - 2 * side
        on = middle - contact_time / 2
        x, z, yaw, _, _ = path(np.array([on + anchor * contact_time]))[0]
        place = np.array(
            (
                x + sign * width / 2 * np.cos(yaw),
                figure.ankle_height,
                z - sign * width / 2 * np.sin(yaw),
            )
        )
        extra = shape(k, side)
        place[1] += extra.pop("rise", 0.0)
        yaw += sign * extra.pop("out", 0.09)
        rows[side].append(Contact(on, on + contact_time, place, yaw, **extra))
    return rows


def _phase(times: Float[np.ndarray, " T"], first: float, step: float) -> Float[np.ndarray, " T"]:
    return np.pi * (times - first) / step


def pick_style(rng: np.random.Generator, styles: dict[str, tuple]) -> str:
    """One of `styles`, at random by weight, which stands second in each entry."""
    weights = np.array([entry[1] for entry in styles.values()], dtype=float)
    return str(rng.choice(list(styles), p=weights / weights.sum()))


_WALKS = {
    # style: (words, weight, speed range, changes)
    "plain": ("", 9, (0.7, 1.65), {}),
    "arms": ("swinging the arms widely", 2, (1.0, 1.6), {"arm_swing": 0.75, "elbow_swing": 0.4}),
    "tired": ("with drooping shoulders", 2, (0.55, 0.85), {"bend": 0.3, "gaze": 0.25}),
    "march": ("like a soldier, lifting the knees", 1, (0.9, 1.2), {"arm_swing": 0.7, "bend": 0.0}),
    "carry": (
        "carrying a box in front of the chest",
        2,
        (0.7, 1.2),
        {"fixed_arms": ((0.5, 0.1, 0.25, 1.35),) * 2},
    ),
    "sneak": ("in a crouch, sneaking", 1, (0.5, 0.8), {"bend": 0.4, "lean": 0.15, "elbow": 1.0}),
    "phone": (
        "holding a phone to the ear",
        1,
        (0.8, 1.3),
        {"fixed_arms": (None, (0.6, 0.5, 0.2, 2.25))},
    ),
}


def walking(
    rng: np.random.Generator,
    figure: Figure,
    times: Float[np.ndarray, " T"],
    vigour: float = 1.0,
    plain: bool = False,
) -> Take:
    """Walk: straight, in curves and circles, slaloms, about turns, backwards; starts and stops."""
    seconds = float(times[-1])
    style = "plain" if plain else pick_style(rng, _WALKS)
    words, _, speeds, changes = _WALKS[style]
    speed = vigour * figure.pace**0.5 * rng.uniform(*((0.85, 1.3) if plain else speeds))
    course = str(
        rng.choice(
            ("straight", "curve", "circle", "slalom", "about", "backwards"),
            p=(0.5, 0.3, 0.2, 0, 0, 0) if plain else (0.28, 0.22, 0.2, 0.1, 0.14, 0.06),
        )
    )
    if course == "backwards":
        speed *= 0.6
    manner_of_going = "slowly" if speed < 0.9 else "quickly" if speed > 1.4 else ""
    rate, course_words = turning_rate(course, rng, speed, seconds)
    if course == "backwards":
        course_words = "backwards"
    start = rng.uniform(0.3, 0.9) if not plain and rng.random() < 0.15 else None
    stop = (
        seconds - rng.uniform(1.2, 1.8)
        if not plain and start is None and rng.random() < 0.15
        else None
    )
    share = ramp(start, stop, 1.1)
    pace = drift(rng, 0.04, 0.1, 0.4)

    def going(t):
        slowed = 1 - 0.55 * np.abs(rate(t)) / 2.2 if course == "about" else 1.0
        return speed * share(t) * (1 + pace(t)) * slowed

    path = travel(
        going,
        lambda t: rate(t) * share(t),
        rng.uniform(-np.pi, np.pi),
        np.pi if course == "backwards" else rng.normal(0, 0.03),
        seconds + 4.0,
    )
    length = 0.6 * figure.pace * (speed / figure.pace**0.5) ** 0.5
    step = float(np.clip(speed and length / speed, 0.38, 0.85))
    first = -3.0 + rng.uniform(0, 2 * step)
    middles = first + step * np.arange(int((seconds + 5.5) / step))
    middles = middles + rng.normal(0, 0.008, len(middles))
    march, sneak = style == "march", style == "sneak"
    lift = (0.22 if march else 0.1 if sneak else rng.uniform(0.0, 0.02)) * figure.pace
    brisk = float(np.clip(speed / 1.3, 0.5, 1.3))
    back = course == "backwards"
    feet = foot_track(
        figure,
        footfalls(
            figure,
            path,
            middles,
            2 * step * (0.625 - 0.04 * brisk),
            rng.uniform(0.09, 0.17) * figure.pace,
            0.57 if back else 0.41,
            lambda k, side: {
                "strike": 0.3 if back else -0.32 * brisk,
                "push": 0.25 if back else 0.82 * brisk**0.5,
                "lift": lift,
                "settled": 0.15,
                "brake": (8.0 * speed, 6.0 * speed),
                "leaving": 0.7 if back else 0.4,
            },
        ),
        times,
    )
    manner = Manner(
        **{
            "sway": rng.uniform(0.012, 0.03),
            "arm_swing": rng.uniform(0.2, 0.4) * brisk,
            "pelvis_turn": 0.1 * brisk,
            "elbow": rng.uniform(0.2, 0.45),
            "bend": rng.uniform(0.0, 0.08),
            **changes,
        }
    )
    where = path(times)
    level = where[:, 4] / speed
    phase = _phase(times, first, step)
    pelvis, spine, head, arms = accompany(
        rng, times, phase, level, where[:, 2], rate(times) * share(times), manner
    )
    root = beside(where, manner.sway * np.cos(phase) * level)
    crouch = 0.8 if sneak else 1.0
    root[:, 1] = supported_height(figure, root, pelvis, feet, times, 0.31 * step, crouch)
    return Take(
        Pose(root, pelvis, spine, head, arms, feet=feet),
        np.zeros(len(times), dtype=bool),
        {
            "speed": manner_of_going,
            "course": course_words,
            "style": words,
            "start": "starts" if start is not None else "stops" if stop is not None else "",
        },
    )


def beside(
    where: Float[np.ndarray, "T 5"], aside: Float[np.ndarray, " T"]
) -> Float[np.ndarray, "T 3"]:
    yaw = where[:, 2]
    return np.stack(
        (where[:, 0] + aside * np.cos(yaw), 0 * yaw, where[:, 1] - aside * np.sin(yaw)), axis=-1
    )


def supported_height(
    figure: Figure,
    root: Float[np.ndarray, "T 3"],
    pelvis: Float[np.ndarray, "T 3"],
    feet: Feet,
    times: Float[np.ndarray, " T"],
    window: float,
    crouch: float = 1.0,
    ground: Float[np.ndarray, " T"] | float = 0.0,
) -> Float[np.ndarray, " T"]:
    """The pelvis as high as both legs allow, and no higher than standing: the arcs of a gait."""
    ceiling = pelvis_ceiling(figure, root, pelvis, feet).min(axis=0)
    limit = np.minimum(ceiling, ground + crouch * figure.stand * 0.98)
    return smooth_below(limit, max(2, round(window / (times[1] - times[0]))))
