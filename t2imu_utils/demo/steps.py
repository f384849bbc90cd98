"""Foot placement: where each foot stands, from when to when, and how it travels between.

A foot strikes (heel or toe first), lies flat, and leaves over the toe. While it is on the ground
one point of it, ankle or toe, never moves; swings are quintics that take over position, velocity
and acceleration at both ends.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from scipy.interpolate import BPoly, CubicSpline

from t2imu_utils.demo.curves import smoothstep
from t2imu_utils.demo.figure import Feet, Figure


@dataclass(frozen=True)
class Contact:
    """One foot on the ground.

    Args:
        on, off: first and last instant, s.
        place: where the ankle is when the foot is flat, m.
        yaw: heading of the foot, rad.
        strike: pitch at `on`: negative lands on the heel, positive on the toe, rad.
        push: pitch at `off` (heel up), rad.
        settled, leaving: fractions of the contact between which the foot is flat.
        lift: extra height of the swing that follows, m.
        kick: extra (x, y, z) of the swing that follows at its highest point, m.
        brake: deceleration at landing, against the way it came and upwards, m/s^2: how hard the
            foot is put down.
    """

    on: float
    off: float
    place: Float[np.ndarray, " 3"]
    yaw: float
    strike: float = 0.0
    push: float = 0.0
    settled: float = 0.12
    leaving: float = 0.5
    lift: float = 0.05
    kick: tuple[float, float, float] = (0.0, 0.0, 0.0)
    brake: tuple[float, float] = (0.0, 0.0)


def _turned(
    offset: Float[np.ndarray, " 3"], yaw: float, pitch: Float[np.ndarray, " T"]
) -> Float[np.ndarray, "T 3"]:
    """`offset` after a turn by `pitch` about X, then by `yaw` about Y."""
    x, y, z = offset
    forward = y * np.sin(pitch) + z * np.cos(pitch)
    return np.stack(
        (
            x * np.cos(yaw) + forward * np.sin(yaw),
            y * np.cos(pitch) - z * np.sin(pitch),
            forward * np.cos(yaw) - x * np.sin(yaw),
        ),
        axis=-1,
    )


def _standing(
    contact: Contact, toe: Float[np.ndarray, " 3"], times: Float[np.ndarray, " T"]
) -> tuple[Float[np.ndarray, "T 5"], Bool[np.ndarray, " T"], Bool[np.ndarray, " T"]]:
    """(ankle x, y, z, yaw, pitch), and whether ankle and toe are planted, during a contact."""
    u = (times - contact.on) / (contact.off - contact.on)
    landing = np.clip(1 - u / contact.settled, 0, 1)
    leaving = np.clip((u - contact.leaving) / (1 - contact.leaving), 0, 1)
    pitch = contact.strike * landing**3 + contact.push * leaving**3
    on_toe = pitch > 0
    pivot = contact.place + _turned(toe, contact.yaw, np.zeros(1))
    ankle = np.where(
        on_toe[:, None], pivot - _turned(toe, contact.yaw, pitch), contact.place + 0 * pivot
    )
    state = np.column_stack((ankle, np.full_like(u, contact.yaw), pitch))
    return state, ~on_toe, pitch >= 0


def _edge(
    contact: Contact, toe: Float[np.ndarray, " 3"], leaving: bool
) -> Float[np.ndarray, "3 5"]:
    """Position, velocity and acceleration of the foot as it leaves or reaches the ground."""
    h = 1e-4
    times = contact.off - h * np.arange(3) if leaving else contact.on + h * np.arange(3)
    p0, p1, p2 = _standing(contact, toe, times)[0]
    sign = -1.0 if leaving else 1.0
    return np.stack((p0, sign * (4 * p1 - 3 * p0 - p2) / (2 * h), (p0 - 2 * p1 + p2) / h**2))


def foot_track(
    figure: Figure, contacts: tuple[list[Contact], list[Contact]], times: Float[np.ndarray, " T"]
) -> Feet:
    """Both feet over time, from the contacts of the left and of the right foot.

    Contacts of a foot are in order and do not overlap; before the first and after the last the foot
    stays where it is.
    """
    states, ankle_planted, toe_planted, swings = [], [], [], []
    for side, row in enumerate(contacts):
        row = merge_contacts(row)
        toe = figure.offsets[10 + side]
        row[0] = replace(row[0], strike=0.0, on=min(row[0].on, times[0] - 1.0))
        row[-1] = replace(row[-1], push=0.0, off=max(row[-1].off, times[-1] + 1.0))
        state = np.zeros((len(times), 5))
        free = np.zeros(len(times))
        on_ankle, on_toe = np.zeros((2, len(times)), dtype=bool)
        for i, contact in enumerate(row):
            inside = (times >= contact.on) & (times <= contact.off)
            state[inside], on_ankle[inside], on_toe[inside] = _standing(contact, toe, times[inside])
            if i + 1 == len(row):
                continue
            following = row[i + 1]
            swing = (times > contact.off) & (times < following.on)
            ends = [_edge(contact, toe, True), _edge(following, toe, False)]
            way = (following.place - contact.place) * (1, 0, 1)
            way /= np.linalg.norm(way) + 0.05
            ends[1][2, :3] += (0, following.brake[1], 0) - following.brake[0] * way
            knots = [contact.off, following.on]
            state[swing] = BPoly.from_derivatives(knots, ends)(times[swing])
            u = (times[swing] - contact.off) / (following.on - contact.off)
            arc = u**3 * (1 - u) ** 4 / 0.008393
            free[swing] = 64 * u**3 * (1 - u) ** 3
            state[swing, :3] += np.multiply.outer(arc, np.add(contact.kick, (0, contact.lift, 0)))
        states.append(state)
        ankle_planted.append(on_ankle)
        toe_planted.append(on_toe)
        swings.append(free)
    state = np.stack(states)
    return Feet(
        state[..., :3],
        state[..., 3],
        state[..., 4],
        np.stack(ankle_planted),
        np.stack(toe_planted),
        np.stack(swings),
    )


def merge_contacts(row: list[Contact], distance: float = 0.03, angle: float = 0.06):
    """Leave out steps that lead nowhere: a foot that would land where it stands stays down."""
    merged = row[:1]
    for contact in row[1:]:
        last = merged[-1]
        near = np.linalg.norm(contact.place - last.place) < distance
        if near and abs(contact.yaw - last.yaw) < angle and not any(last.kick) and last.lift < 0.1:
            merged[-1] = replace(last, off=contact.off, push=contact.push, leaving=0.9)
        else:
            merged.append(contact)
    return merged


Path = Callable[[Float[np.ndarray, " T"]], Float[np.ndarray, "T 5"]]


def travel(
    speed: Callable[[Float[np.ndarray, " T"]], Float[np.ndarray, " T"]],
    turning: Callable[[Float[np.ndarray, " T"]], Float[np.ndarray, " T"]],
    heading: float,
    drifting: float,
    until: float,
) -> Path:
    """The path of a body: t -> (x, z, yaw, distance covered, speed).

    Args:
        speed: along the direction of travel, m/s.
        turning: rate of the heading, rad/s.
        heading: yaw at time 0, rad.
        drifting: direction of travel against the heading: 0 forwards, pi backwards, rad.
        until: the path is defined from 4 s before time 0 to this time, s.
    """
    grid = np.linspace(-4.0, until, int(50 * (until + 4.0)) + 1)
    velocity = speed(grid)
    yaw = CubicSpline(grid, turning(grid)).antiderivative()
    yaw_at = yaw(grid) - yaw(0.0) + heading
    way = np.column_stack(
        (
            velocity * np.sin(yaw_at + drifting),
            velocity * np.cos(yaw_at + drifting),
            turning(grid),
            velocity,
        )
    )
    integral = CubicSpline(grid, way).antiderivative()
    start = integral(0.0) - (0.0, 0.0, heading, 0.0)

    def path(times: Float[np.ndarray, " T"]) -> Float[np.ndarray, "T 5"]:
        times = np.asarray(times, dtype=float)
        return np.concatenate((integral(times) - start, speed(times)[..., None]), axis=-1)

    return path


def turning_rate(kind: str, rng: np.random.Generator, speed: float, seconds: float):
    """Rate of turn (rad/s) of a named path, and the words that describe it.

    Kinds: straight, curve, circle, slalom, about (turns around midway).
    """
    sign = rng.choice((-1.0, 1.0))
    hand = "left" if sign > 0 else "right"
    if kind == "curve":
        rate = sign * np.deg2rad(rng.uniform(50, 110)) / seconds
        return (lambda t: rate + 0.0 * t), f"in a curve to the {hand}"
    if kind == "circle":
        rate = sign * max(speed, 0.4) / (rng.uniform(0.7, 1.2) * max(speed, 0.9) ** 1.2)
        way = "counterclockwise" if sign > 0 else "clockwise"
        return (lambda t: rate + 0.0 * t), str(rng.choice(["in a circle", f"in a {way} circle"]))
    if kind == "slalom":
        period = rng.uniform(3.0, 4.5)
        return (lambda t: sign * 0.9 * np.sin(2 * np.pi * t / period)), "in a zigzag"
    if kind == "about":
        middle, length = seconds * rng.uniform(0.4, 0.6), rng.uniform(1.3, 1.8)

        def rate_about(t):
            u = np.clip((t - middle) / length + 0.5, 0, 1)
            return sign * np.pi / length * 30 * u**2 * (1 - u) ** 2

        return rate_about, f"and turns around to the {hand}"
    return (lambda t: 0.0 * t), ""


def ramp(start: float | None, stop: float | None, length: float):
    """1 in full course; from 0 at `start` or to 0 at `stop` (s; None: never), over `length` s."""

    def share(times):
        times = np.asarray(times, dtype=float)
        up = 1.0 if start is None else smoothstep((times - start) / length)
        return up * (1.0 if stop is None else 1 - smoothstep((times - stop) / length)) + 0 * times

    return share
