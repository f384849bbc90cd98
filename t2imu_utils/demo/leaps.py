"""Jumping: crouch, ballistic flight under gravity, landing, again and again."""

import numpy as np
from jaxtyping import Float

from t2imu_utils.demo.curves import drift, ease, spline_through
from t2imu_utils.demo.figure import Figure, Pose, pelvis_ceiling
from t2imu_utils.demo.gait import GRAVITY, Take, pick_style
from t2imu_utils.demo.locomotion import bounce
from t2imu_utils.demo.steps import Contact, foot_track

_KINDS = {
    # kind: (words, weight)
    "hops": ("on the spot", 4),
    "high": ("high up from a crouch", 4),
    "forward": ("forward", 4),
    "jacks": ("doing jumping jacks", 3),
    "rope": ("as if skipping rope", 2),
    "turns": ("turning in the air", 2),
    "sideways": ("from side to side", 2),
}


# Time to push off or to absorb, times speed over depth of the crouch: near 2 for a steady force.
_PUSH, _ABSORB = 2.1, 1.9


def _schedule(
    rng: np.random.Generator, kind: str, seconds: float, clock: float, effort: float, depth: float
) -> tuple[list[tuple[float, float]], float]:
    """(take-off, landing) of every jump from before time 0 on, and the time on the ground between
    jumps where the body bounces (0: it stands still in between). `depth` of the crouch in m."""
    if kind in ("hops", "jacks", "rope", "sideways"):
        flight = clock * effort * rng.uniform(0.24, 0.36) * (0.75 if kind == "rope" else 1.0)
        contact = clock * rng.uniform(0.26, 0.36) * (1.15 if kind == "sideways" else 1.0)
        start = -3.0 + rng.uniform(0, flight + contact)
        offs = np.arange(start, seconds + 3.0, flight + contact)
        return [(t, t + flight) for t in offs], contact
    flight = clock * effort * rng.uniform(0.34, 0.5)
    rest = (_PUSH + 0.8 * _ABSORB) * depth / (GRAVITY * flight / 2) + rng.uniform(0.95, 1.5)
    offs = np.arange(rng.uniform(0.8, 1.4) - 4 * (flight + rest), seconds + 3.0, flight + rest)
    return [(t, t + flight) for t in offs], 0.0


def _standing_jumps(
    jumps: list[tuple[float, float]],
    times: Float[np.ndarray, " T"],
    heights: tuple[float, float, float],
) -> Float[np.ndarray, " T"]:
    """Height of the pelvis for jumps from a stand: (standing, crouched, at take-off), m."""
    stand, low, leave = heights
    knots, states = [jumps[0][0] - 3.0], [(stand, 0, 0)]
    for off, on in jumps:
        speed = GRAVITY * (on - off) / 2
        push = _PUSH * (leave - low) / speed
        absorb = _ABSORB * 0.8 * (leave - low) / speed
        knots += [off - push - 0.42, off - push, off, on, on + absorb, on + absorb + 0.5]
        states += [
            (stand, 0, 0),
            (low, 0, 1.1 * speed / push),
            (leave, speed, -GRAVITY),
            (leave, -speed, -GRAVITY),
            (leave - 0.8 * (leave - low), 0, 1.3 * speed / absorb),
            (stand, 0, 0),
        ]
    return spline_through([*knots, times[-1] + 9.0], [*states, (stand, 0, 0)])(times)


def jumping(
    rng: np.random.Generator,
    figure: Figure,
    times: Float[np.ndarray, " T"],
    vigour: float = 1.0,
    plain: bool = False,
) -> Take:
    """Jump on the spot, high, forward, sideways, with a turn, as jumping jacks or over a rope."""
    seconds = float(times[-1])
    kind = str(rng.choice(("hops", "high"))) if plain else pick_style(rng, _KINDS)
    clock, effort = figure.pace**0.5, float(vigour * rng.uniform(0.85, 1.15))
    stand = figure.stand * 0.985
    leave = figure.stand - 0.01 * figure.pace
    low = leave - rng.uniform(0.22, 0.34) * figure.pace
    jumps, contact = _schedule(rng, kind, seconds, clock, effort, leave - low)
    offs, ons = np.array(jumps).T
    flight = ons[0] - offs[0]
    offs, ons = np.array(jumps).T
    flight = ons[0] - offs[0]
    # A fast take-off leaves the knees bent: there is no time to straighten them.
    leave -= 0.13 * max(0.0, flight - 0.32) * figure.pace
    if contact:
        height, _ = bounce(times - ons[0], contact, flight)
        height = leave + height
    else:
        height = _standing_jumps(jumps, times, (stand, low, leave))
    moves, yaws, spread = _landings(rng, kind, len(jumps) + 1, effort)
    heading = rng.uniform(-np.pi, np.pi)
    yaws = yaws + heading
    places = np.cumsum(moves[:, None] * _direction(kind, heading), axis=0)
    feet = foot_track(figure, _feet(figure, kind, jumps, places, yaws, spread), times)
    root, yaw = _flight_path(times, jumps, places, yaws)
    depth = np.logaddexp(0.0, (stand - height) / figure.leg * 14) / 14
    depth = depth - np.log(2) / 14 * np.exp(-(depth**2))
    back = 0.28 * depth * figure.leg - 0.035
    root = root + np.stack((-np.sin(yaw) * back, height, -np.cos(yaw) * back), axis=-1)
    wander = [drift(rng, s, 0.15, 0.9)(times) for s in (0.02, 0.03, 0.02, 0.05)]
    pelvis = np.stack((yaw, 0.03 + depth, 0.3 * wander[0]), axis=-1)
    planted = feet.ankle_planted | feet.toe_planted
    room = np.where(planted, pelvis_ceiling(figure, root, pelvis, feet) - root[:, 1], 0.0)
    # One shift for the whole clip, so that every flight stays on its parabola.
    root[:, 1] += min(0.0, float(room.min()))
    spine = np.stack((wander[1], 0.04 + 0.55 * depth + wander[0], wander[2]), axis=-1)
    head = np.stack((wander[3], -0.9 * depth - 0.05 + wander[0], 0 * yaw), axis=-1)
    how = "high" if flight > 0.42 else "low" if flight < 0.29 else ""
    count = int(np.sum((offs > 0) & (ons < seconds)))
    arms = _arms(rng, kind, times, jumps, effort) + wander[0][:, None] * (1, 0.5, 0, 0.5)
    return Take(
        Pose(root, pelvis, spine, head, arms, feet=feet),
        ~planted.any(axis=0),
        {
            "style": _KINDS[kind][0],
            "height": how,
            "count": str(count),
            "series": str(bool(contact)),
        },
    )


def _direction(kind: str, heading: float) -> Float[np.ndarray, " 3"]:
    angle = heading + (np.pi / 2 if kind == "sideways" else 0.0)
    return np.array((np.sin(angle), 0.0, np.cos(angle)))


def _landings(
    rng: np.random.Generator, kind: str, count: int, effort: float
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """How far each landing is from the last, m; yaw, rad; distance between the feet, m."""
    alternate = (-1.0) ** np.arange(count)
    width = rng.uniform(0.14, 0.24)
    moves = rng.normal(0, 0.01, count)
    yaws = rng.normal(0, 0.02, count)
    spread = np.full(count, width)
    if kind == "forward":
        moves = np.full(count, effort * rng.uniform(0.4, 0.85))
    elif kind == "sideways":
        moves = alternate * rng.uniform(0.25, 0.45)
    elif kind == "turns":
        yaws = rng.choice((-1, 1)) * np.arange(count) * rng.choice((np.pi / 2, np.pi))
    elif kind == "jacks":
        spread = width + (1 + alternate) / 2 * rng.uniform(0.4, 0.6)
    return moves, yaws, spread


def _feet(
    figure: Figure,
    kind: str,
    jumps: list[tuple[float, float]],
    places: Float[np.ndarray, "N 3"],
    yaws: Float[np.ndarray, " N"],
    spread: Float[np.ndarray, " N"],
) -> tuple[list[Contact], list[Contact]]:
    """Both feet on the ground between the jumps."""
    rise = GRAVITY * (jumps[0][1] - jumps[0][0]) ** 2 / 8
    lift = (0.55 if kind in ("rope", "jacks") else 0.8) * rise + (0.08 if kind == "high" else 0.0)
    ons = [jumps[0][0] - 5.0, *(on for _, on in jumps)]
    offs = [*(off for off, _ in jumps), jumps[-1][1] + 9.0]
    rows = ([], [])
    for side, sign in enumerate((1.0, -1.0)):
        for on, off, place, yaw, width in zip(ons, offs, places, yaws, spread, strict=True):
            beside = sign * width / 2 * np.array((np.cos(yaw), 0, -np.sin(yaw)))
            rows[side].append(
                Contact(
                    on,
                    off,
                    place + beside + (0, figure.ankle_height, 0),
                    yaw + sign * 0.12,
                    strike=0.5,
                    push=0.95,
                    settled=min(0.3, 0.16 / (off - on)),
                    leaving=max(0.5, 1 - 0.24 / (off - on)),
                    lift=lift,
                    kick=(0.0, 0.001, 0.0),
                    brake=(4.0, 35.0),
                )
            )
    return rows


def _flight_path(
    times: Float[np.ndarray, " T"],
    jumps: list[tuple[float, float]],
    places: Float[np.ndarray, "N 3"],
    yaws: Float[np.ndarray, " N"],
) -> tuple[Float[np.ndarray, "T 3"], Float[np.ndarray, " T"]]:
    """Where the body is on the ground plan (y = 0), in uniform motion in flight, and its yaw."""
    knots, states, turns, values = [jumps[0][0] - 5.0], [(places[0], 0 * places[0])], [], []
    for (off, on), start, end in zip(jumps, places[:-1], places[1:], strict=True):
        way = end - start
        speed = 0.64 * way / (on - off)
        if off - knots[-1] > 1.0:
            knots += [knots[-1] + 0.45, off - 0.45]
            states += [(start, 0 * way)] * 2
        knots += [off, on]
        states += [(start + 0.18 * way, speed), (end - 0.18 * way, speed)]
    knots += [knots[-1] + 0.45, times[-1] + 9.0]
    states += [(places[-1], 0 * places[0])] * 2
    table = np.array([(p, v, 0 * v) for p, v in states])
    for (off, on), start, end in zip(jumps, yaws[:-1], yaws[1:], strict=True):
        turns += [off - 0.06, on + 0.06]
        values += [start, end]
    return spline_through(knots, table)(times), ease(times, turns, values)


def _arms(
    rng: np.random.Generator,
    kind: str,
    times: Float[np.ndarray, " T"],
    jumps: list[tuple[float, float]],
    effort: float,
) -> Float[np.ndarray, "2 T 4"]:
    """Arms that swing up into the jump, or do what a jumping jack or a rope asks for."""
    high = rng.uniform(1.2, 2.5) * effort
    ready, back = np.array((0.1, 0.2, 0.2, 0.5)), np.array((-0.7, 0.2, 0.1, 0.35))
    up, down = np.array((high, 0.25, 0.1, 0.4)), np.array((0.45, 0.4, 0.3, 0.7))
    knots, values = [], []
    if kind == "jacks":
        wide, closed = np.array((0.1, 2.55, 0, 0.25)), np.array((0.05, 0.2, 0, 0.25))
        for i, (off, on) in enumerate(jumps):
            knots += [off - 0.06, on + 0.04]
            values += [closed, wide] if i % 2 else [wide, closed]
    elif kind in ("hops", "rope", "sideways"):
        share = 0.25 if kind != "rope" else 0.05
        bent = np.array((0.15, 0.3, 0.3, 1.35 if kind == "rope" else 0.9))
        for off, on in jumps:
            knots += [off, on]
            values += [bent + share * (up - ready), bent]
    else:
        for off, on in jumps:
            knots += [off - 0.75, off - 0.33, off + 0.1, on + 0.12, on + 0.6]
            values += [ready, back, up, down, ready]
    arms = np.stack([ease(times, knots, values)] * 2)
    if kind == "rope":
        period = jumps[1][0] - jumps[0][0]
        spin = 2 * np.pi * (times - jumps[0][0]) / period
        arms[..., 1] += 0.12 * np.sin(spin)
        arms[..., 3] += 0.25 * np.cos(spin)
    return arms
