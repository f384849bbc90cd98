"""What an inertial sensor on a moving surface would measure (Section III-C, eqs. 7 and 8).

Eq. (7) needs the second derivative of a path and eq. (8) the first of an orientation. The paper
takes central differences. The other schemes here are linear operators, one matrix for each length
of clip, on the path and on the angle turned (`turned`). Differentiation amplifies what is fast,
noise above all, so ``smoothing`` and ``spectral`` let pass what is slower than `CUTOFF` and take
away what is much faster. At 20 Hz, where 10 Hz is the fastest frequency there is, that is hardly
anything; at the rate of a motion capture system it is its jitter. In the first and the last frame
of a clip the errors of all schemes are several times those of the inside.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from t2imu_utils.body.fitting import pose_bodies
from t2imu_utils.body.smpl import Body, Shape
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write
from t2imu_utils.imu.sites import Site, sensor_frames, site_vertices
from t2imu_utils.motion.rotations import axis_angle_to_matrix, matrix_to_axis_angle

GRAVITY = 9.81  # m/s^2, as below eq. (7)
UP = (0.0, 1.0, 0.0)
# What the last axis of acc and gyro is: the frame of `imu.sites`.
CHANNELS = (
    "x: completes a right-handed frame",
    "y: along the bone, towards the head end",
    "z: out of the skin",
)
UNITS = ("acc: m/s²", "gyro: rad/s")
POSE = ("global_orient", "body_pose")
CUTOFF = 20.0  # Hz
FADE = 0.7  # of where the spectral scheme ends it begins to take away, as resampling does
# Seconds and frames after which a sample has no influence any more. (In long clips the slowest to
# vanish, that of the spectral scheme on a random walk, is under a thousandth of what it gives.)
REACH, REACH_FRAMES = 1.0, 64

Kinematics = tuple[Float[Tensor, "*b T 3"], Float[Tensor, "*b T 3"]]
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
    weights = torch.as_tensor(_weights(operators, order, block, float(rate))).to(differences)
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
    basis = partial(quintic_basis, frames)
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


def quintic_basis(
    frames: int, at: Float[np.ndarray, "n"], order: int
) -> Float[np.ndarray, "n frames+4"]:
    """Derivatives of the quintic B-splines whose knots are the whole numbers, at times in frames.

    The recursion of de Boor (1972), as in `scipy.interpolate.BSpline`, which is slow to import. In
    a cell between two knots six of them are not zero.
    """
    cell = np.minimum(at.astype(int), frames - 2)
    inside = at - cell
    parts = np.ones((1, len(at)))
    for degree in range(1, 6):
        if degree <= 5 - order:
            ahead = np.arange(1, degree + 1)[:, None]
            share = parts / degree
            rising, falling = share * (inside + (degree - ahead)), share * (ahead - inside)
        else:
            rising, falling = parts, -parts
        parts = np.pad(rising, ((1, 0), (0, 0)))
        parts[:-1] += falling
    basis = np.zeros((len(at), frames + 4))
    basis[np.arange(len(at))[:, None], cell[:, None] + np.arange(6)] = parts.T
    return basis


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


SCHEMES: dict[str, Callable[[Tensor, Tensor, float], Kinematics]] = {
    "central": central_differences,  # the paper's
    "quintic": partial(linear_scheme, quintic_operators),
    "smoothing": partial(linear_scheme, partial(quintic_operators, cutoff=CUTOFF)),
    "spectral": partial(linear_scheme, spectral_operators),
}
DEFAULT = "spectral"  # came closest to a real IMU (`imu.rigid_body.scheme_table`)


def virtual_imu(
    positions: Float[Tensor, "*b T 3"],
    rotations: Float[Tensor, "*b T 3 3"],
    rate: float,
    gravity: float = GRAVITY,
    scheme: str = DEFAULT,
) -> Kinematics:
    """Accelerometer and gyroscope readings of a sensor that moves along a path.

    Eq. (7): the accelerometer reads the specific force, the second derivative of its position plus
    `gravity` along the upward axis, both turned into the sensor frame by the inverse of its
    orientation. At rest it reads +9.81 m/s^2 along its upward axis, in free fall zero. (The paper
    turns the gravity term only and leaves the axes of a_d unsaid; a sensor measures both in its own
    axes.)

    Eq. (8) prints the angular velocity as dq/dt, which has four components and depends on the sign
    of q. It is shorthand for the vector part of 2 q* (x) dq/dt, the angular velocity in the sensor
    frame in rad/s, which is what is computed here. Turns of more than pi a step are ambiguous.

    Args:
        positions: in metres, world frame with Y up, of at least three frames.
        rotations: sensor to world.
        rate: frames per second.
        gravity: m/s^2.
        scheme: of differentiation, a key of `SCHEMES`; the paper's is ``central``.

    Returns:
        acc in m/s^2 and gyro in rad/s, both in the sensor frame.
    """
    if scheme not in SCHEMES:
        raise InputError(
            "virtual_imu: scheme", repr(scheme), f"one of {', '.join(SCHEMES)}", "Check the name."
        )
    acceleration, gyro = SCHEMES[scheme](positions, rotations, rate)
    up = torch.tensor(UP, dtype=positions.dtype, device=positions.device)
    force = acceleration + gravity * up
    return torch.einsum("...ji,...j->...i", rotations, force), gyro


@torch.no_grad()
def synthesise(
    fits: Clips,
    body: Body,
    shapes: Mapping[str, Shape],
    sites: Sequence[Site],
    gravity: float = GRAVITY,
    scheme: str = DEFAULT,
    progress: bool = True,
) -> Clips:
    """Virtual recordings of every fitted motion on every person.

    All strike the same poses, each on the model of the own gender; the path of the pelvis grows
    with the length of the legs (`body.fitting.pose_bodies`), so that feet that stood still go on
    standing still. Only the vertices in `sites` and their neighbours are skinned, one motion at a
    time on the device of each model, so memory does not grow with the number of clips.

    Args:
        fits: arrays ``global_orient`` (F, 3), ``body_pose`` (F, 69) and ``transl`` (F, 3); columns
            ``beta_0`` to ``beta_9``, meta ``rate``, as `body.fitting.fit` leaves them.
        body: the model that was fitted and that the sites were found on.
        shapes: people by name, from `body.table1.shapes_of`, on models of one mesh.
        sites: from `sensor_sites`.
        gravity: g of eq. (7), m/s^2.
        scheme: of differentiation, a key of `SCHEMES`; the paper's is ``central``.
        progress: show a bar.

    Returns:
        One clip for each motion and person, motions in the order of `fits` and people within them;
        the table is that of `fits` with the columns ``body`` and, unless `fits` has one,
        ``motion`` (row in `fits`); arrays ``acc`` and ``gyro`` (F, S, 3) float32; meta ``rate``
        and ``sites``.
    """
    rate, people, vertices_of = fits.meta["rate"], list(shapes.values()), site_vertices(sites)
    paths = pose_bodies(fits, body, people)
    betas = torch.tensor(np.stack([shape.betas for shape in people]), dtype=torch.float32)
    rows: list[dict] = []
    readings: dict[str, list[np.ndarray]] = {"acc": [], "gyro": []}
    for index in tqdm(range(len(fits)), "IMU", mininterval=2, disable=not progress):
        motion = fits[index]
        path = torch.from_numpy(paths[:, fits.bounds[index] : fits.bounds[index + 1]])
        # Neighbours of one model together.
        for _, own in groupby(range(len(people)), key=lambda i: id(people[i].body)):
            who = list(own)
            model = people[who[0]].body
            put = {"dtype": torch.float32, "device": model.model.v_template.device}
            pose = (torch.as_tensor(motion[name], **put) for name in POSE)
            skin = model.vertices(
                vertices_of, betas[who][:, None].to(**put), *pose, path[who].to(**put)
            )
            place = (x.movedim(1, 2) for x in sensor_frames(skin, sites))
            signals = virtual_imu(*place, rate, gravity, scheme)
            for kept, signal in zip(readings.values(), signals, strict=True):
                kept += list(signal.movedim(1, 2).cpu().numpy())
        facts = {k: v for k, v in fits.table.iloc[index].items() if k != "frames"}
        rows += [{"motion": index, **facts, "body": name} for name in shapes]
    meta = {"rate": float(rate), "sites": [site.name for site in sites]}
    return Clips.from_list(rows, readings, meta)


def write_readings(path: Path, readings: Mapping[str, np.ndarray]) -> Path:
    """Write arrays as an ``.npz`` without pickles."""
    with atomic_write(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **readings)
    return Path(path)


def acceleration_spread(clips: Clips, sites: Sequence[str]) -> pd.DataFrame:
    """How much the length of the acceleration varies in each clip at each site.

    Returns:
        Columns ``activity``, ``site``, ``spread``: standard deviation of ‖acc‖ in m/s², NaN where
        a site was not recorded.
    """
    at = [clips.meta["sites"].index(site) for site in sites]
    lengths = (np.linalg.norm(acc[:, at], axis=-1) for acc in clips.each("acc"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of sites that are NaN throughout
        spread = np.stack([np.nanstd(length, axis=0) for length in lengths])
    table = pd.DataFrame(spread, columns=list(sites)).assign(activity=clips.table["activity"])
    return table.melt("activity", var_name="site", value_name="spread")


def gain_table(
    rate: float = 20.0, frequencies: Sequence[float] = tuple(np.arange(0.5, 10, 0.25))
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
    for name, scheme in SCHEMES.items():
        acc, gyro = scheme(angle, axis_angle_to_matrix(angle), rate)
        noise = scheme(impulses, still, rate)[0][:, frames // 2, 0].norm()
        found = torch.stack((acc[:, inner, 0], gyro[:, inner, 0]), -1)
        size = torch.linalg.lstsq(waves, found).solution.norm(dim=1) / 0.01
        share = size / torch.stack((omega**2, omega), -1)
        rows += [
            {"scheme": name, "frequency": f, "acc": a, "gyro": g, "noise": float(noise)}
            for f, (a, g) in zip(frequencies, share.tolist(), strict=True)
        ]
    return pd.DataFrame(rows)
