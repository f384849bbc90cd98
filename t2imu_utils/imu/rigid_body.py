"""The virtual sensor against a real one on the same rigid board: BROAD (Laidig et al. 2021).

Optical pose and readings are synchronised and at one rate (285.7 Hz). The authors' world is
east-north-up; here it is turned to Y up (x east, z south) as everywhere in this project.

From the optical pose alone `virtual_imu` says what the IMU on the board must read. Five numbers are
estimated besides, and never on the trial that they are used for (`left_out`): where the
accelerometer sits in the board, and how late the two sensors' readings are. Nothing else is fitted:
no orientation, no bias, no scale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from t2imu_utils.errors import InputError
from t2imu_utils.imu.sensors import DEFAULT, SCHEMES, virtual_imu
from t2imu_utils.motion.rotations import quat_to_matrix
from t2imu_utils.motion.skeleton import RATE, resample
from t2imu_utils.recordings.streams import check_gravity

COLUMNS = {"imu_acc": 3, "imu_gyr": 3, "opt_pos": 3, "opt_quat": 4}
EAST_NORTH_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # to x east, y up, z south
SHORTEST = 1.0  # seconds of a piece
REMEDY = "Get the file again from https://github.com/dlaidig/broad."
BAND = 10.0  # Hz, what a motion at 20 Hz can hold
EDGE = 0.25  # s at the ends of a piece that the filters of the comparison spoil
CLIP = 6.0  # s, about the length of a generated motion
END = 5  # frames of a clip that do not count as its inside
# Spreads of real readings (m/s^2, rad/s) under which a correlation would be one of noise.
AT_REST = {"acc": 0.3, "gyro": 0.05}
NATIVE = "pose at its own rate"

Readings = dict[str, Float[np.ndarray, "T 3"]]


@dataclass(frozen=True)
class Piece:
    """A run of samples without a gap: `start` is its first sample in the trial.

    `positions` of the tracked point are in metres in a world with Y up, `rotations` turn IMU to
    world, `acc` (m/s^2) and `gyro` (rad/s) are the real readings in the IMU's axes, and `moving` is
    the authors' mark of the phases of movement.
    """

    start: int
    positions: Float[np.ndarray, "T 3"]
    rotations: Float[np.ndarray, "T 3 3"]
    acc: Float[np.ndarray, "T 3"]
    gyro: Float[np.ndarray, "T 3"]
    moving: Bool[np.ndarray, "T"]


@dataclass(frozen=True)
class Trial:
    """One recording of the board: its file's name, what was done, Hz, and pieces in order."""

    name: str
    kind: str  # as in the name: "fast rotation"
    rate: float
    pieces: tuple[Piece, ...]


def read_broad(path: Path) -> Trial:
    """Read a trial (hdf5). A sample without pose or reading ends a piece, uninterpolated."""
    path = Path(path)
    try:
        with h5py.File(path) as file:
            arrays = {name: np.asarray(file[name][:], np.float64) for name in COLUMNS}
            moving = np.asarray(file["movement"][:]).astype(bool)
            rate = float(file.attrs["sampling_rate"])
        shapes = {name: array.shape for name, array in arrays.items()}
        if shapes != {name: (len(moving), width) for name, width in COLUMNS.items()}:
            raise ValueError(f"shapes {shapes} with {len(moving)} of movement")
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise InputError(path, f"no trial ({error})", "hdf5 as BROAD has it", REMEDY) from error
    valid = np.all([np.isfinite(values).all(1) for values in arrays.values()], axis=0)
    runs = np.flatnonzero(np.diff(np.r_[False, valid, False])).reshape(-1, 2)
    runs = runs[runs[:, 1] - runs[:, 0] >= max(SHORTEST * rate, 3)]
    if not len(runs):
        found = f"{valid.sum()} of {len(valid)} samples whole"
        raise InputError(path, found, f"a run of {SHORTEST:g} s", "Take another trial.")
    check_gravity(arrays["imu_acc"][valid], "m/s^2", str(path), REMEDY)
    pieces = []
    for start, stop in runs.tolist():
        acc, gyro, positions, quats = (values[start:stop] for values in arrays.values())
        rotations = EAST_NORTH_UP @ quat_to_matrix(torch.from_numpy(quats)).numpy()
        positions = positions @ EAST_NORTH_UP.T
        pieces.append(Piece(start, positions, rotations, acc, gyro, moving[start:stop]))
    words = [w for w in path.stem.split("_") if not w.isdigit() and w != "undisturbed"]
    return Trial(path.stem, " ".join(w for w in words if not w.isupper()), rate, tuple(pieces))


def read_broad_folder(root: Path) -> list[Trial]:
    """All trials of a folder, by name; errors as in `read_broad`, or none is there."""
    paths = sorted(Path(root).glob("*.hdf5"))
    if not paths:
        raise InputError(root, "no *.hdf5", "trials of BROAD", REMEDY)
    return [read_broad(path) for path in paths]


@dataclass(frozen=True)
class Alignment:
    """What the optical pose does not tell of an IMU."""

    lever_arm: tuple[float, float, float]  # tracked point to accelerometer, m, IMU axes
    acc_delay: float  # how late readings are, in seconds
    gyro_delay: float


def left_out(trials: Sequence[Trial]) -> dict[str, Alignment]:
    """For each trial's name the alignment that all others give.

    To first order in the delay d and exactly in the lever arm r, the accelerometer reads

        a - d da/dt + dw/dt x r + w x (w x r),

    a and w being what the virtual sensor reads at the tracked point, and the gyroscope w - d dw/dt.
    Both are fitted by least squares to the readings in movement, all filtered to `BAND`.
    """
    if len(trials) < 2:
        raise InputError(
            "rigid_body: trials", f"{len(trials)}", "at least two, one to be aligned by the others",
            "Read more trials, or give an alignment.",
        )  # fmt: skip
    terms = [_normal_equations(trial) for trial in trials]
    total = [sum(part) for part in zip(*terms, strict=True)]
    found = {}
    for trial, term in zip(trials, terms, strict=True):
        acc, gyro = (whole - own for whole, own in zip(total, term, strict=True))
        *lever, delay = np.linalg.solve(acc[:4, :4], acc[:4, 4]).tolist()
        found[trial.name] = Alignment(tuple(lever), delay, float(gyro[0, 1] / gyro[0, 0]))
    return found


def _normal_equations(trial: Trial) -> tuple[Float[np.ndarray, "5 5"], Float[np.ndarray, "2 2"]]:
    """Products of the columns and of what they shall explain, for acc and for gyro."""
    acc_sum, gyro_sum = np.zeros((5, 5)), np.zeros((2, 2))
    for piece in trial.pieces:
        read = _virtual(piece.positions, piece.rotations, trial.rate)
        acc, gyro = read["acc"], read["gyro"]
        slope, change = (np.gradient(x, axis=0) * trial.rate for x in (acc, gyro))
        lever = [np.cross(change, e) + np.cross(gyro, np.cross(gyro, e)) for e in np.eye(3)]
        inside = _inside(piece, trial.rate)
        for total, columns in (
            (acc_sum, [*lever, -slope, piece.acc - acc]),
            (gyro_sum, [-change, piece.gyro - gyro]),
        ):
            found = _lowpass(np.stack(columns, -1), trial.rate)[inside]
            # Without their means, a bias of the sensor has no part in it.
            found = (found - found.mean(0)).reshape(-1, found.shape[-1])
            total += found.T @ found
    return acc_sum, gyro_sum


def native_table(trials: Sequence[Trial], alignments: Mapping[str, Alignment]) -> pd.DataFrame:
    """Virtual against real readings at the rate of the data set, during movement.

    Both are filtered to `BAND` (zero phase). Above 10 to 15 Hz the optical system's jitter and the
    IMU's noise and vibration are larger than the movement, whatever the scheme.

    Args:
        alignments: by name of trial, from `left_out`.

    Returns:
        One row for each trial, sensor ("acc" in m/s², "gyro" in rad/s) and axis: ``samples``;
        ``spread``, the standard deviation of the real reading; ``above``, the root mean square of
        what it holds above the band; ``rmse``; ``correlation``, NaN where the sensor was at rest
        (`AT_REST`).
    """
    rows = []
    for trial in trials:
        pairs = [_native_pair(p, trial.rate, alignments[trial.name]) for p in trial.pieces]
        inside = [_inside(piece, trial.rate) for piece in trial.pieces]
        for sensor in ("acc", "gyro"):
            whole = [(virtual[sensor], real[sensor]) for virtual, real in pairs]
            low = [[_lowpass(x, trial.rate) for x in pair] for pair in whole]
            virtual, real = _joined(low, inside)
            above = _joined(whole, inside)[1] - _joined(low, inside)[1]
            spread, rmse = real.std(0), np.sqrt(((virtual - real) ** 2).mean(0))
            for column, axis in enumerate("xyz"):
                pair = virtual[:, column], real[:, column]
                still = spread[column] < AT_REST[sensor]
                correlation = np.nan if still else float(np.corrcoef(*pair)[0, 1])
                rows.append({
                    "trial": trial.name, "kind": trial.kind, "sensor": sensor, "axis": axis,
                    "samples": len(real),
                    "spread": float(spread[column]), "rmse": float(rmse[column]),
                    "correlation": correlation,
                    "above": float(np.sqrt((above[:, column] ** 2).mean())),
                })  # fmt: skip
    return pd.DataFrame(rows)


def scheme_table(trials: Sequence[Trial], alignments: Mapping[str, Alignment]) -> pd.DataFrame:
    """What each scheme makes of a pose at 20 Hz, against the real readings at 20 Hz.

    The pose is read at the frames' times without any filter, as motion data sets keep every n-th
    frame, and cut into clips of `CLIP`; the real readings are resampled. The rows
    `NATIVE` differentiate the pose at its own rate and then resample like the real readings:
    the rest that no scheme at 20 Hz could mend.

    Args:
        alignments: by name of trial, from `left_out`.

    Returns:
        One row for each trial, scheme and sensor, in movement: ``frames``, ``rmse`` inside of the
        clips (all axes), ``rmse_ends`` of their first and last `END` frames (NaN for `NATIVE`),
        ``spread`` of the real reading.
    """
    rows = []
    for trial in trials:
        clips = [_clips_at(p, trial.rate, alignments[trial.name]) for p in trial.pieces]
        clips = [piece for piece in clips if len(piece["moving"])]
        if not clips:
            continue
        clip = {name: np.concatenate([piece[name] for piece in clips]) for name in clips[0]}
        size = clip["positions"].shape
        inside = np.zeros(size[:2], bool)
        inside[:, END:-END] = True
        inside, ends = inside & clip["moving"], ~inside & clip["moving"]
        for name in (NATIVE, *SCHEMES):
            if name == NATIVE:
                found = {sensor: clip[f"native {sensor}"] for sensor in ("acc", "gyro")}
            else:
                found = _virtual(clip["positions"], clip["rotations"], RATE, name)
            for sensor, virtual in found.items():
                square = (virtual - clip[sensor]) ** 2
                ends_rmse = np.nan if name == NATIVE else np.sqrt(square[ends].mean())
                rows.append({
                    "trial": trial.name, "kind": trial.kind, "scheme": name, "sensor": sensor,
                    "frames": int(inside.sum()), "rmse": float(np.sqrt(square[inside].mean())),
                    "rmse_ends": float(ends_rmse),
                    "spread": float(clip[sensor][inside].std(0).mean()),
                })  # fmt: skip
    return pd.DataFrame(rows)


def _clips_at(piece: Piece, rate: float, alignment: Alignment) -> dict[str, np.ndarray]:
    """Clips of pose and readings at 20 Hz, each (clips, frames, …)."""
    from scipy.interpolate import CubicSpline  # slow to import, here and below
    from scipy.spatial.transform import Rotation, Slerp

    virtual, real = _native_pair(piece, rate, alignment)
    at_sensor = piece.positions + piece.rotations @ np.array(alignment.lever_arm)
    slow = {sensor: resample(real[sensor], rate, RATE) for sensor in real}
    slow |= {f"native {s}": resample(virtual[s], rate, RATE) for s in virtual}
    times, at = np.arange(len(piece.acc)) / rate, np.arange(len(slow["acc"])) / RATE
    at = at.clip(max=times[-1])
    slow["positions"] = CubicSpline(times, at_sensor)(at)
    slow["rotations"] = Slerp(times, Rotation.from_matrix(piece.rotations))(at).as_matrix()
    slow["moving"] = piece.moving[np.rint(at * rate).astype(int)]
    frames = round(CLIP * RATE)
    count = len(at) // frames
    return {
        name: values[: count * frames].reshape(count, frames, *values.shape[1:])
        for name, values in slow.items()
    }


def _native_pair(piece: Piece, rate: float, alignment: Alignment) -> tuple[Readings, Readings]:
    """Virtual readings, and the real ones without their delay."""
    from scipy.ndimage import shift

    at_sensor = piece.positions + piece.rotations @ np.array(alignment.lever_arm)
    delays = {"acc": alignment.acc_delay, "gyro": alignment.gyro_delay}
    return _virtual(at_sensor, piece.rotations, rate), {
        sensor: shift(getattr(piece, sensor), (-delay * rate, 0), order=3, mode="nearest")
        for sensor, delay in delays.items()
    }


def _virtual(
    positions: Float[np.ndarray, "*b T 3"],
    rotations: Float[np.ndarray, "*b T 3 3"],
    rate: float,
    scheme: str = DEFAULT,
) -> Readings:
    acc, gyro = virtual_imu(
        torch.from_numpy(positions), torch.from_numpy(rotations), rate, scheme=scheme
    )
    return {"acc": acc.numpy(), "gyro": gyro.numpy()}


def _lowpass(x: Float[np.ndarray, "T ..."], rate: float) -> Float[np.ndarray, "T ..."]:
    from scipy.signal import butter, sosfiltfilt

    return sosfiltfilt(butter(4, BAND, fs=rate, output="sos"), x, axis=0)


def _inside(piece: Piece, rate: float) -> np.ndarray:
    """In movement, and not where filters meet the end of the piece."""
    inside, edge = piece.moving.copy(), round(EDGE * rate)
    inside[:edge] = inside[len(inside) - edge :] = False
    return inside


def _joined(
    pairs: Sequence[Sequence[np.ndarray]], inside: Sequence[np.ndarray]
) -> list[Float[np.ndarray, "n 3"]]:
    kept = [[x[keep] for x in pair] for pair, keep in zip(pairs, inside, strict=True)]
    return [np.concatenate(side) for side in zip(*kept, strict=True)]
