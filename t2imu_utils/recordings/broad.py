"""Reader of BROAD (Laidig et al. 2021): a board with a real IMU under optical motion capture.

Optical pose and readings are synchronised and at one rate (285.7 Hz). The authors' world is
east-north-up; here it is turned to Y up (x east, z south) as everywhere in this project.
"""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from jaxtyping import Bool, Float

from t2imu_utils.errors import InputError
from t2imu_utils.motion.rotations import quat_to_matrix
from t2imu_utils.recordings.streams import check_gravity

COLUMNS = {"imu_acc": 3, "imu_gyr": 3, "opt_pos": 3, "opt_quat": 4}
EAST_NORTH_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # to x east, y up, z south
SHORTEST = 1.0  # seconds of a piece
REMEDY = "Get the file again from https://github.com/dlaidig/broad."


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
    """Read a trial (hdf5). A sample without pose or reading ends a piece: nothing is interpolated.

    Raises:
        InputError: no such hdf5 file, accelerations in another unit, or no run of a second.
    """
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
