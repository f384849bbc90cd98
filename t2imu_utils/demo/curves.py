"""Smooth functions of time from which the made-up motions are drawn.

Everything here is a function of continuous time with two continuous derivatives, so that one
motion can be sampled at any rate and its second differences stay clean.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy.interpolate import BPoly
from scipy.ndimage import convolve1d, minimum_filter1d

Curve = Callable[[Float[np.ndarray, " T"]], Float[np.ndarray, " T"]]


def smoothstep(u: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """0 before u = 0, 1 after u = 1, minimum-jerk quintic between."""
    u = np.clip(u, 0.0, 1.0)
    return u**3 * (10.0 - 15.0 * u + 6.0 * u**2)


def ease(
    times: Float[np.ndarray, " T"], knots: Sequence[float], values: Sequence
) -> Float[np.ndarray, "T *shape"]:
    """Go from value to value, arriving at each knot (s) at rest; constant outside the knots."""
    knots, values = np.asarray(knots, dtype=float), np.asarray(values, dtype=float)
    out = np.broadcast_to(values[0], (len(times), *values.shape[1:])).copy()
    for start, end, step in zip(knots[:-1], knots[1:], np.diff(values, axis=0), strict=True):
        out += np.multiply.outer(smoothstep((times - start) / (end - start)), step)
    return out


def pulse(
    times: Float[np.ndarray, " T"], start: float, end: float, ramp: float
) -> Float[np.ndarray, " T"]:
    """1 between `start` and `end` (s), 0 outside, with minimum-jerk flanks of `ramp` seconds."""
    return smoothstep((times - start + ramp) / ramp) - smoothstep((times - end) / ramp)


def drift(rng: np.random.Generator, scale: float, slowest: float, fastest: float) -> Curve:
    """A slow random wander of standard deviation `scale`: five sines between two frequencies, Hz.

    What a person at rest does: sway, breathing, small corrections.
    """
    frequency = np.geomspace(slowest, fastest, 5) * rng.uniform(0.8, 1.2, 5)
    phase = rng.uniform(0, 2 * np.pi, 5)
    size = rng.uniform(0.5, 1.0, 5) / np.sqrt(frequency)
    size *= scale * np.sqrt(2.0 / np.sum(size**2))

    def wander(times: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
        return np.sin(2 * np.pi * np.multiply.outer(times, frequency) + phase) @ size

    return wander


def spline_through(knots: Sequence[float], states: Sequence[Sequence]) -> BPoly:
    """Quintics through (value, velocity, acceleration) at each knot.

    Between two states on one ballistic arc this is that arc, exactly: a quintic is determined by
    its six end conditions.
    """
    return BPoly.from_derivatives(np.asarray(knots, float), np.asarray(states, float))


def smooth_below(
    limit: Float[np.ndarray, " T"], half_width: int, rounds: int = 1
) -> Float[np.ndarray, " T"]:
    """A smooth curve that nowhere exceeds `limit`.

    The running minimum over +-`half_width` samples, averaged with a window of the same support:
    each average then sees only values that are at most the limit at its centre.
    """
    for _ in range(rounds):
        lowest = minimum_filter1d(limit, 2 * half_width + 1, mode="nearest")
        window = np.cos(np.linspace(-np.pi / 2, np.pi / 2, 2 * half_width + 3)[1:-1]) ** 4
        limit = convolve1d(lowest, window / window.sum(), mode="nearest")
    return limit
