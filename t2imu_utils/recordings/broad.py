"""Reader of BROAD (Laidig et al. 2021): a board with a real IMU under optical motion capture.

Optical pose and readings are synchronised and at one rate (285.7 Hz). The authors' world is
east-north-up; here it is turned to Y up (x east, z south) as everywhere in this project.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from jaxtyping import Bool, Float

from t2imu_utils.errors import InputError
from t2imu_utils.motion.rotations import quat_to_matrix

COLUMNS = {"imu_acc": 3, "imu_gyr": 3, "opt_pos": 3, "opt_quat": 4}
EAST_NORTH_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # to x east, y up, z south
NAME = re.compile(r"^(\d+)_(?:undisturbed_)?(.+?)(?:_[A-Z])?$")
UNIT = 1e-3  # how far a quaternion's length may be from one
AT_REST = (8.0, 12.0)  # m/s^2, the median reading of any board that is moved by hand
REMEDY = "Get the file again from https://github.com/dlaidig/broad."


@dataclass(frozen=True)
class Piece:
    """A run of samples without a gap.

    Attributes:
        start: its first sample in the trial.
        positions: of the tracked point, in metres, world with Y up.
        rotations: IMU to world.
        acc: the real accelerometer's reading in m/s^2, IMU axes.
        gyro: the real gyroscope's reading in rad/s, IMU axes.
        moving: the authors' mark of the phases of movement.
    """

    start: int
    positions: Float[np.ndarray, "T 3"]
    rotations: Float[np.ndarray, "T 3 3"]
    acc: Float[np.ndarray, "T 3"]
    gyro: Float[np.ndarray, "T 3"]
    moving: Bool[np.ndarray, "T"]


@dataclass(frozen=True)
class Trial:
    """One recording of the board.

    Attributes:
        name: of the file.
        number: the authors' number of the trial.
        kind: what was done, as in the name ("fast rotation").
        rate: in Hz.
        pieces: in the order of time.
        samples: of the file.
        masked: samples that lack the optical pose or a reading.
        dropped: lengths of the runs that were too short to be used, in samples.
    """

    name: str
    number: str
    kind: str
    rate: float
    pieces: tuple[Piece, ...]
    samples: int
    masked: int
    dropped: tuple[int, ...]


def read_broad(path: Path, shortest: float = 1.0) -> Trial:
    """Read a trial of BROAD (hdf5).

    A sample without position, orientation or reading ends a piece: nothing is interpolated.

    Args:
        path: the file.
        shortest: runs of under so many seconds are dropped and counted.

    Raises:
        InputError: no hdf5 file, a data set or the rate missing, other shapes, quaternions that are
            not of length one, accelerations in another unit, or no run that is long enough.
    """
    path = Path(path)
    try:
        with h5py.File(path) as file:
            lacking = [
                n for n in (*COLUMNS, "movement") if not isinstance(file.get(n), h5py.Dataset)
            ]
            if lacking:
                raise InputError(path, f"no data set {', '.join(lacking)}", "a BROAD trial", REMEDY)
            arrays = {name: np.asarray(file[name][:], np.float64) for name in COLUMNS}
            moving = np.asarray(file["movement"][:]).astype(bool)
            rate = float(file.attrs.get("sampling_rate", np.nan))
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise InputError(path, f"no readable hdf5 ({error})", "a BROAD trial", REMEDY) from error
    _check(path, arrays, moving, rate)
    quats = arrays["opt_quat"]
    valid = np.all([np.isfinite(values).all(1) for values in arrays.values()], axis=0)
    length = np.linalg.norm(quats[valid], axis=1)
    if len(length) and np.abs(length - 1).max() > UNIT:
        raise InputError(
            f"{path}: opt_quat", f"length {length[np.abs(length - 1).argmax()]:.3g}",
            "unit quaternions (w, x, y, z)", REMEDY,
        )  # fmt: skip
    runs = np.flatnonzero(np.diff(np.r_[False, valid, False])).reshape(-1, 2)
    long = runs[:, 1] - runs[:, 0] >= max(shortest * rate, 3)
    if not long.any():
        raise InputError(
            path, f"{valid.sum()} of {len(valid)} samples whole, in {len(runs)} runs",
            f"a run of at least {shortest:g} s", "Take another trial, or a smaller `shortest`.",
        )  # fmt: skip
    size = np.median(np.linalg.norm(arrays["imu_acc"][valid], axis=1))
    if not AT_REST[0] <= size <= AT_REST[1]:
        raise InputError(
            f"{path}: imu_acc", f"a median length of {size:.3g}", "about 9.81, in m/s^2",
            "Multiply a file that is in g by 9.81.",
        )  # fmt: skip
    return Trial(
        name=path.stem,
        number=match[1] if (match := NAME.match(path.stem)) else "",
        kind=match[2].replace("_", " ") if match else path.stem,
        rate=rate,
        pieces=tuple(_piece(arrays, moving, *run) for run in runs[long]),
        samples=len(valid),
        masked=int((~valid).sum()),
        dropped=tuple(int(stop - start) for start, stop in runs[~long]),
    )


def read_broad_folder(root: Path, shortest: float = 1.0) -> list[Trial]:
    """All trials of a folder, by name.

    Raises:
        InputError: there is none, or one cannot be read (`read_broad`).
    """
    paths = sorted(Path(root).glob("*.hdf5"))
    if not paths:
        raise InputError(root, "no *.hdf5", "trials of BROAD", REMEDY)
    return [read_broad(path, shortest) for path in paths]


def _check(path: Path, arrays: dict[str, np.ndarray], moving: np.ndarray, rate: float) -> None:
    frames = len(moving)
    for name, width in COLUMNS.items():
        if arrays[name].shape != (frames, width):
            raise InputError(
                f"{path}: {name}", f"shape {arrays[name].shape}",
                f"({frames}, {width}), one row for each of `movement`", REMEDY,
            )  # fmt: skip
    if not (np.isfinite(rate) and rate > 0):
        raise InputError(
            f"{path}: sampling_rate", repr(rate), "an attribute, a positive rate in Hz", REMEDY
        )


def _piece(arrays: dict[str, np.ndarray], moving: np.ndarray, start: int, stop: int) -> Piece:
    span = slice(start, stop)
    rotations = quat_to_matrix(torch.from_numpy(arrays["opt_quat"][span])).numpy()
    return Piece(
        start=int(start),
        positions=arrays["opt_pos"][span] @ EAST_NORTH_UP.T,
        rotations=EAST_NORTH_UP @ rotations,
        acc=arrays["imu_acc"][span],
        gyro=arrays["imu_gyr"][span],
        moving=moving[span],
    )
