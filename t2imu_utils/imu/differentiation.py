"""From a sampled pose to acceleration and angular velocity: schemes of differentiation.

A scheme takes positions and orientations and gives the world acceleration and the angular velocity
in the sensor's axes. `central_differences` is the paper's. The others are linear operators: the
second derivative of the path, and the first of the turned angle (`turned`). Each is one matrix for
each length of clip, applied on whatever device the samples are.

Differentiation amplifies what is fast, noise above all. So all schemes but the three that pass
through every sample (`central`, `cubic`, `quintic`) let pass what is slower than `CUTOFF` and take
away what is much faster. At 20 Hz, where 10 Hz is the fastest frequency there is, that is hardly
anything; at the rate of a motion capture system it is its jitter. At the ends of a clip no scheme
is worth much: in the first and the last frame errors are several times those of the inside. Three
frames suffice for all, which then differentiate one parabola.

`DEFAULT` is what came closest to a real IMU (`imu.rigid_body.scheme_table`).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.interpolate import BSpline, CubicSpline
from torch import Tensor

from t2imu_utils.motion.rotations import axis_angle_to_matrix, matrix_to_axis_angle

CUTOFF = 20.0  # Hz
SAVGOL_ORDER, SAVGOL_END_ORDER = 4, 3  # of its polynomials within and at the ends of a clip
# Its window lasts so long, and 5 frames at least. Its gain then halves at about CUTOFF.
SAVGOL_SECONDS = 0.09
FADE = 0.7  # of where the spectral scheme ends it begins to take away, as `motion.resample` does
# Seconds and frames after which a sample has no influence any more. (In long clips the slowest to
# vanish, that of the spectral scheme on a random walk, is under a thousandth of what it gives.)
REACH, REACH_FRAMES = 1.0, 64

Kinematics = tuple[Float[Tensor, "*b T 3"], Float[Tensor, "*b T 3"]]
Scheme = Callable[[Tensor, Tensor, float], Kinematics]
# Matrices that give the first and the second derivative of T samples at a rate (Hz).
Operators = tuple[Float[np.ndarray, "T T"], Float[np.ndarray, "T T"]]


def central_differences(
    positions: Float[Tensor, "*b T 3"], rotations: Float[Tensor, "*b T 3 3"], rate: float
) -> Kinematics:
    """World acceleration and sensor-frame angular velocity by central differences (the paper's).

    The acceleration is k(t-1) - 2 k(t) + k(t+1) over the squared step; a sinusoid of f Hz comes out
    smaller by (sin(pi f / rate) / (pi f / rate))^2. The angular velocity is the mean of the
    rotation vectors of the step before and of the step after, over the step: the logarithm of
    q(t)* q(t+1), that is 2 q* (x) dq/dt for a finite step. Both are of second order. The first and
    the last frame have one side only: they take the neighbour's acceleration (the one-sided second
    difference) and the rotation of their one step.
    """
    inner = torch.diff(positions, n=2, dim=-2) * rate**2
    acceleration = torch.cat((inner[..., :1, :], inner, inner[..., -1:, :]), -2)
    turn = _steps(rotations) * rate
    middle = (turn[..., 1:, :] + turn[..., :-1, :]) / 2
    return acceleration, torch.cat((turn[..., :1, :], middle, turn[..., -1:, :]), -2)


def _steps(rotations: Float[Tensor, "*b T 3 3"]) -> Float[Tensor, "*b T-1 3"]:
    """Rotation vectors from each frame to the next, in the axes of the earlier (or the later)."""
    turns = rotations[..., :-1, :, :].transpose(-1, -2) @ rotations[..., 1:, :, :]
    return matrix_to_axis_angle(turns)


def turned(rotations: Float[Tensor, "*b T 3 3"]) -> Float[Tensor, "*b T-1 3"]:
    """The integral of the angular velocity in body axes over each step, in rad.

    The rotation vector v of a step is that integral only while the axis stands still. Where the
    axis turns, it differs by the coning term, which is v x dv / 12 for a rate that changes linearly
    within the step, dv being the change of v from step to step (it follows from the equation of
    Bortz 1971, A new mathematical formulation for strapdown inertial navigation). What is left is
    of fourth order. A step may turn by up to pi.
    """
    steps = _steps(rotations)
    if steps.shape[-2] < 2:
        return steps
    change = torch.diff(steps, dim=-2)
    first, last = change[..., :1, :], change[..., -1:, :]
    change = torch.cat((first, (change[..., 1:, :] + change[..., :-1, :]) / 2, last), -2)
    return steps - torch.linalg.cross(steps, change) / 12


def linear_scheme(
    operators: Callable[[int, float], Operators],
    positions: Float[Tensor, "*b T 3"],
    rotations: Float[Tensor, "*b T 3 3"],
    rate: float,
) -> Kinematics:
    """Differentiate by the matrices of `operators`, a function of the length and the rate.

    Long clips are differentiated in overlapping blocks, so that memory grows with their length and
    not with its square.
    """
    bends = torch.diff(positions, n=2, dim=-2)
    return (
        _weigh(operators, 2, bends, positions.shape[-2], rate),
        _weigh(operators, 1, turned(rotations), positions.shape[-2], rate),
    )


def _weigh(
    operators: Callable[[int, float], Operators],
    order: int,
    differences: Float[Tensor, "*b D 3"],
    frames: int,
    rate: float,
) -> Float[Tensor, "*b T 3"]:
    """A derivative as weighted sums of the differences of the same order."""
    margin = max(REACH_FRAMES, int(np.ceil(REACH * rate)))
    block = min(frames, 4 * margin)
    weights = torch.as_tensor(
        _weights(operators, order, block, float(rate)),
        dtype=differences.dtype,
        device=differences.device,
    )
    parts, done = [], 0
    while done < frames:
        start = min(max(done - margin, 0), frames - block)
        stop = frames if start + block == frames else start + block - margin
        rows = weights[done - start : stop - start]
        parts.append(rows @ differences[..., start : start + block - order, :])
        done = stop
    return torch.cat(parts, -2)


@lru_cache(maxsize=256)
def _weights(
    operators: Callable[[int, float], Operators], order: int, frames: int, rate: float
) -> Float[np.ndarray, "T D"]:
    """What a matrix for samples is for their differences.

    A derivative does not depend on where the path lies nor, the second, on how fast it goes. On
    differences rounding errors do not grow with either.
    """
    weights = operators(frames, rate)[order - 1]
    for _ in range(order):
        weights = -np.cumsum(weights, axis=1)[:, :-1]
    return weights


def _polynomial(frames: int, rate: float, degree: int) -> Operators:
    """The least-squares polynomial of a degree, or of the highest that the frames determine."""
    at = np.arange(frames) - (frames - 1) / 2
    powers = np.vander(at, min(degree + 1, frames), increasing=True)
    fit = np.linalg.pinv(powers)
    order = np.arange(powers.shape[1])
    first = np.zeros_like(powers)
    first[:, 1:] = powers[:, :-1] * order[1:]
    second = np.zeros_like(powers)
    second[:, 2:] = powers[:, :-2] * (order[2:] * order[1:-1])
    return rate * first @ fit, rate**2 * second @ fit


def savgol_operators(frames: int, rate: float) -> Operators:
    """Least-squares polynomials in a sliding window (Savitzky and Golay 1964).

    The window is `SAVGOL_SECONDS` long, at least 5 frames; at 20 Hz the polynomial of degree 4 then
    goes through all five. At the ends of a clip one of degree 3 is read off its centre. A clip that
    is shorter than the window is one window; of 3 frames this is the central difference.
    """
    reach = max(2, round((SAVGOL_SECONDS * rate - 1) / 2))
    width = 2 * reach + 1
    if frames < width:
        return _polynomial(frames, rate, SAVGOL_END_ORDER)
    inner = _polynomial(width, rate, SAVGOL_ORDER)
    ends = _polynomial(width, rate, SAVGOL_END_ORDER)
    found = np.zeros((2, frames, frames))
    for matrix, centre, end in zip(found, inner, ends, strict=True):
        for row in range(reach, frames - reach):
            matrix[row, row - reach : row + reach + 1] = centre[reach]
        matrix[:reach, :width] = end[:reach]
        matrix[-reach:, -width:] = end[-reach:]
    return found[0], found[1]


def cubic_operators(frames: int, rate: float) -> Operators:
    """The cubic spline through all samples, not-a-knot at the ends."""
    spline = CubicSpline(np.arange(frames) / rate, np.eye(frames))
    return tuple(spline(spline.x, order) for order in (1, 2))


def quintic_operators(frames: int, rate: float, cutoff: float | None = None) -> Operators:
    """The natural quintic spline: through all samples, or smoothing them.

    Of all curves it has the least sum of squared misses plus lambda times the integral of the
    squared third derivative (jerk). Away from the ends that passes a sinusoid of f Hz by
    1 / (1 + (f / cutoff)^6), where lambda = (2 pi cutoff)^-6 for a time step of one sample.
    Third and fourth derivative vanish at both ends, so quadratics are exact throughout, and noise
    in the acceleration is hardly larger at the ends than elsewhere. (Not-a-knot ends make it ten
    times larger.)

    Args:
        cutoff: in Hz; None goes through the samples.
    """
    return _natural_quintic(frames, rate, cutoff)[1:]


def _natural_quintic(
    frames: int, rate: float, cutoff: float | None
) -> tuple[Float[np.ndarray, "T T"], ...]:
    """Values and derivatives of `quintic_operators`."""
    knots = np.arange(-5, frames + 5, dtype=float)
    basis = BSpline(knots, np.eye(len(knots) - 6), 5)
    at = np.arange(frames, dtype=float)
    ends = np.concatenate([basis(at[[0, -1]], order) for order in (3, 4)])
    free = np.linalg.qr(ends.T, mode="complete")[0][:, len(ends) :]
    value, first, second = (basis(at, order) @ free for order in (0, 1, 2))
    if cutoff is None:
        fit = np.linalg.inv(value)
    else:
        # Three nodes integrate the squared third derivative, of degree 4, exactly.
        nodes, weights = np.polynomial.legendre.leggauss(3)
        jerk = basis((at[:-1, None] + 0.5 + nodes / 2).ravel(), 3) @ free
        rough = jerk.T @ (jerk * np.tile(weights / 2, frames - 1)[:, None])
        strength = (2 * np.pi * cutoff / rate) ** -6
        fit = np.linalg.solve(value.T @ value + strength * rough, value.T)
    return value @ fit, rate * first @ fit, rate**2 * second @ fit


def spectral_operators(frames: int, rate: float) -> Operators:
    """Sine series of what is left beside a cubic, each sine differentiated exactly.

    The cubic takes the value and the second derivative of both ends (of the smoothing spline), so
    that the rest goes on through them by point reflection with four continuous derivatives; else
    every frequency would ring at the ends. The series fades out by a cosine up to
    `CUTOFF` or half the rate, whichever is less, from `FADE` of that on.
    """
    last = frames - 1
    at = np.arange(frames) / last
    near = min(frames, max(REACH_FRAMES, int(np.ceil(REACH / 2 * rate))))
    value, _, bend = _natural_quintic(near, rate, CUTOFF)
    # Values at both ends, then second derivatives with the clip as the unit of time.
    ends = np.zeros((4, frames))
    ends[[0, 2], :near] = value[0], bend[0] * (last / rate) ** 2
    ends[[1, 3], -near:] = value[-1], bend[-1] * (last / rate) ** 2
    # Lidstone's cubics: value 1, or second derivative 1, at one end, and zeros at the other.
    cubics = np.stack([1 - at, at, -at * (1 - at) * (2 - at) / 6, -at * (1 - at) * (1 + at) / 6], 1)
    slopes = np.stack(
        [-1 + 0 * at, 1 + 0 * at, -(3 * at**2 - 6 * at + 2) / 6, (3 * at**2 - 1) / 6], 1
    )
    bends = np.stack([0 * at, 0 * at, 1 - at, at], 1)
    waves = np.arange(1, last)
    phase = np.pi * at[:, None] * waves
    series = 2 / last * np.sin(phase).T @ (np.eye(frames) - cubics @ ends)
    stop = min(2 * last * CUTOFF / rate, last)  # the sine of this number fades out
    fade = np.clip((waves / stop - FADE) / (1 - FADE), 0, 1)
    series *= ((1 + np.cos(np.pi * fade)) / 2)[:, None]
    omega = np.pi * waves
    first = slopes @ ends + (np.cos(phase) * omega) @ series
    second = bends @ ends - (np.sin(phase) * omega**2) @ series
    return first * (rate / last), second * (rate / last) ** 2


SCHEMES: dict[str, Scheme] = {
    "central": central_differences,
    "savgol": partial(linear_scheme, savgol_operators),
    "cubic": partial(linear_scheme, cubic_operators),
    "quintic": partial(linear_scheme, quintic_operators),
    "smoothing": partial(linear_scheme, partial(quintic_operators, cutoff=CUTOFF)),
    "spectral": partial(linear_scheme, spectral_operators),
}
DEFAULT = "spectral"


def gain_table(
    rate: float = 20.0,
    frequencies: Sequence[float] = tuple(np.arange(0.5, 10, 0.25)),
    schemes: Sequence[str] = tuple(SCHEMES),
) -> pd.DataFrame:
    """How much of a small sinusoidal movement each scheme gives, away from the ends of a clip.

    Returns:
        One row for each scheme and frequency (Hz): ``acc``, the amplitude of the acceleration as a
        share of the true one, ``gyro``, the same of the angular velocity, and ``noise``, the
        scheme's own and the same on all its rows: standard deviation in m/s² of the acceleration
        along an axis where positions have independent errors of 1 mm.
    """
    frames, reach = 241, 60
    time = torch.arange(frames, dtype=torch.float64) / rate
    omega = 2 * np.pi * torch.tensor(frequencies, dtype=torch.float64)
    phase = omega[:, None] * time
    angle = 0.01 * torch.stack((phase.sin(), *[torch.zeros_like(phase)] * 2), -1)
    impulses = 1e-3 * torch.eye(frames, dtype=torch.float64)[..., None].expand(-1, -1, 3)
    still = torch.eye(3, dtype=torch.float64).expand(frames, frames, 3, 3)
    inner = slice(reach, frames - reach)
    waves = torch.stack((phase.sin(), phase.cos()), -1)[:, inner]
    rows = []
    for name in schemes:
        acc, gyro = SCHEMES[name](angle, axis_angle_to_matrix(angle), rate)
        noise = SCHEMES[name](impulses, still, rate)[0][:, frames // 2, 0].norm()
        found = torch.stack((acc[:, inner, 0], gyro[:, inner, 0]), -1)
        size = torch.linalg.lstsq(waves, found).solution.norm(dim=1) / 0.01
        share = size / torch.stack((omega**2, omega), -1)
        rows += [
            {"scheme": name, "frequency": f, "acc": a, "gyro": g, "noise": float(noise)}
            for f, (a, g) in zip(frequencies, share.tolist(), strict=True)
        ]
    return pd.DataFrame(rows)
