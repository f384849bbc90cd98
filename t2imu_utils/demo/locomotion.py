"""Running on ballistic arcs, and stairs up and down with every foot on its tread."""

import numpy as np
from jaxtyping import Float

from t2imu_utils.demo.curves import drift
from t2imu_utils.demo.figure import Figure, Pose, pelvis_ceiling
from t2imu_utils.demo.gait import (
    GRAVITY,
    Manner,
    Take,
    accompany,
    beside,
    footfalls,
    pick_style,
    supported_height,
)
from t2imu_utils.demo.steps import foot_track, travel, turning_rate


def bounce(
    times: Float[np.ndarray, " T"], contact: float, flight: float
) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    """Height of a body that bounces for ever, m, and whether it is in flight.

    In flight it falls freely; on the ground (from time 0, for `contact` seconds) the force is
    F sin^2(pi t / contact), with F such that it carries the weight over the whole period. Height 0
    is that of take-off and landing.
    """
    period = contact + flight
    t = np.mod(times, period)
    peak = 2 * GRAVITY * period / contact
    down = GRAVITY * flight / 2
    wave = 2 * np.pi / contact
    on_ground = (
        -down * t - GRAVITY * t**2 / 2 + peak * (t**2 / 4 + (np.cos(wave * t) - 1) / (2 * wave**2))
    )
    in_air = down * (t - contact) - GRAVITY * (t - contact) ** 2 / 2
    return np.where(t < contact, on_ground, in_air), t > contact


_RUNS = {
    "plain": ("", 8, {}),
    "knees": ("lifting the knees high", 2, {"arm_swing": 0.75}),
    "arms": ("pumping the arms", 2, {"arm_swing": 0.9, "elbow": 1.75}),
    "tired": ("with tired, hanging arms", 1, {"arm_swing": 0.3, "elbow": 0.8, "bend": 0.2}),
}


def running(
    rng: np.random.Generator,
    figure: Figure,
    times: Float[np.ndarray, " T"],
    vigour: float = 1.0,
    plain: bool = False,
) -> Take:
    """Jog, run or sprint: straight, curved, in a circle, in a zigzag or on the spot."""
    seconds = float(times[-1])
    style = "plain" if plain else pick_style(rng, _RUNS)
    words, _, changes = _RUNS[style]
    course = str(
        rng.choice(
            ("straight", "curve", "circle", "slalom", "spot"),
            p=(0.6, 0.4, 0, 0, 0) if plain else (0.3, 0.3, 0.2, 0.1, 0.1),
        )
    )
    speed = vigour * figure.pace**0.5 * float(rng.uniform(1.9, 3.8))
    if course in ("circle", "slalom"):
        speed = min(speed, 2.6)
    effort = speed / figure.pace**0.5
    how = "slowly" if effort < 2.4 else "fast" if effort > 3.2 else ""
    # Who runs faster runs wider circles than a walker.
    rate, course_words = turning_rate(course, rng, min(speed, 1.8), seconds)
    if course == "spot":
        course_words = "in place"
    going = 0.0 if course == "spot" else speed
    pace = drift(rng, 0.03, 0.1, 0.3)
    path = travel(
        lambda t: going * (1 + pace(t)), rate, rng.uniform(-np.pi, np.pi), 0.0, seconds + 4.0
    )
    clock = figure.pace**0.5 / (0.5 + 0.5 * vigour)
    contact = (0.345 - 0.036 * effort) * clock
    flight = (0.055 + 0.024 * effort) * clock
    step = contact + flight
    first = -3.0 + rng.uniform(0, 2 * step)
    middles = first + step * np.arange(int((seconds + 5.5) / step))
    knees = style == "knees" or course == "spot"
    feet = foot_track(
        figure,
        footfalls(
            figure,
            path,
            middles,
            contact,
            rng.uniform(0.05, 0.12) * figure.pace,
            0.36,
            lambda k, side: {
                "strike": -0.15 if course != "spot" else 0.3,
                "push": 0.5 + 0.12 * min(effort, 3.5),
                "settled": 0.25,
                "leaving": 0.35,
                "brake": (20.0 * going, 32.0 + 6.0 * effort),
                "lift": (0.06 + (0.16 if knees else 0.025 * effort)) * figure.pace,
            },
        ),
        times,
    )
    brisk = effort / 3.0
    manner = Manner(
        **{
            "sway": 0.008,
            "arm_swing": 0.35 + 0.22 * brisk,
            "arm_rest": -0.12,
            "abduction": rng.uniform(0.15, 0.3),
            "twist": 0.45,
            "elbow": rng.uniform(1.3, 1.65),
            "elbow_swing": 0.25,
            "pelvis_turn": 0.1,
            "pelvis_list": 0.05,
            "counter": 2.2,
            "lean": 0.05 + 0.04 * brisk,
            "bend": rng.uniform(0.02, 0.1),
            **changes,
        }
    )
    where = path(times)
    phase = np.pi * (times - first) / step
    pelvis, spine, head, arms = accompany(
        rng, times, phase, np.ones_like(times), where[:, 2], rate(times), manner
    )
    root = beside(where, manner.sway * np.cos(phase))
    height, airborne = bounce(times - first + contact / 2, contact, flight)
    planted = feet.ankle_planted | feet.toe_planted
    ceiling = np.where(planted, pelvis_ceiling(figure, root, pelvis, feet), np.inf)
    # One offset for the whole run, so that every flight stays on its parabola.
    root[:, 1] = height + min(np.min(ceiling - height), figure.stand) - 0.035 * figure.leg
    return Take(
        Pose(root, pelvis, spine, head, arms, feet=feet),
        airborne & ~planted.any(axis=0),
        {"speed": how, "course": course_words, "style": words},
    )


_STAIRS = {
    "plain": ("", 6, {}),
    "rail": ("holding the handrail", 3, {"fixed_arms": (None, (0.75, 0.45, 0.0, 0.7))}),
    "carry": ("carrying something in both hands", 2, {"fixed_arms": ((0.45, 0.1, 0.25, 1.4),) * 2}),
    "look": ("looking down at the feet", 2, {"gaze": 0.45}),
}


def stairs(
    rng: np.random.Generator,
    figure: Figure,
    times: Float[np.ndarray, " T"],
    vigour: float = 1.0,
    plain: bool = False,
    up: bool = True,
) -> Take:
    """Climb a staircase with steps of 16-18 cm, straight or winding, one tread at a time."""
    seconds = float(times[-1])
    style = "plain" if plain else pick_style(rng, _STAIRS)
    words, _, changes = _STAIRS[style]
    rise, tread = rng.uniform(0.16, 0.18), rng.uniform(0.26, 0.31)
    step = float(rng.uniform(0.48, 0.85)) * figure.pace**0.5 / vigour
    how = "slowly" if step > 0.72 else "quickly" if step < 0.57 else ""
    winding = not plain and rng.random() < 0.25
    sign = rng.choice((-1.0, 1.0))
    bending = sign * rng.uniform(0.25, 0.5) if winding else 0.0
    speed = tread / step
    path = travel(
        lambda t: speed + 0.0 * t,
        lambda t: bending + 0.0 * t,
        rng.uniform(-np.pi, np.pi),
        0.0,
        seconds + 4.0,
    )
    first = -3.0 + rng.uniform(0, 2 * step)
    middles = first + step * np.arange(int((seconds + 5.5) / step))
    slope = rise if up else -rise
    duty = rng.uniform(0.62, 0.66)
    anchor = 0.36 if up else 0.45
    feet = foot_track(
        figure,
        footfalls(
            figure,
            path,
            middles,
            2 * step * duty,
            rng.uniform(0.12, 0.2) * figure.pace,
            anchor,
            lambda k, side: {
                "rise": slope * k,
                "strike": 0.1 if up else 0.4,
                "push": 0.6 if up else 0.55,
                "settled": 0.2,
                "leaving": 0.6 if up else 0.45,
                "lift": 0.12 if up else 0.1,
                "out": 0.12,
            },
        ),
        times,
    )
    manner = Manner(
        **{
            "sway": rng.uniform(0.02, 0.035),
            "pelvis_turn": 0.05,
            "pelvis_list": 0.06 if up else 0.04,
            "lean": 0.14 if up else 0.02,
            "bend": rng.uniform(0.05, 0.18) if up else rng.uniform(-0.02, 0.06),
            "gaze": -0.05 if up else 0.3,
            "arm_swing": rng.uniform(0.12, 0.3),
            "arm_rest": 0.08 if up else 0.0,
            "elbow": rng.uniform(0.3, 0.6),
            **changes,
        }
    )
    where = path(times)
    phase = np.pi * (times - first) / step
    pelvis, spine, head, arms = accompany(
        rng, times, phase, np.ones_like(times), where[:, 2], bending + 0 * times, manner
    )
    root = beside(where, manner.sway * np.cos(phase))
    # The line through the treads, where the body would be if the stairs were a ramp.
    ramp = slope * ((times - first) / step - (0.15 if up else -0.1))
    root[:, 1] = supported_height(figure, root, pelvis, feet, times, 0.3 * step, 0.985, ramp)
    direction = "up" if up else "down"
    course = "a spiral staircase" if winding else str(rng.choice(("the stairs", "a staircase")))
    return Take(
        Pose(root, pelvis, spine, head, arms, feet=feet),
        np.zeros(len(times), dtype=bool),
        {"speed": how, "direction": direction, "course": course, "style": words},
    )
