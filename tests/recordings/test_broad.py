import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from t2imu_utils.errors import InputError
from t2imu_utils.imu.rigid_body import read_broad, read_broad_folder

RATE = 100.0


def write(path, spoil=None, samples=600):
    """A board that lies still, turned by 90 degrees about the vertical."""
    x, y, z, w = Rotation.from_euler("z", 90, degrees=True).as_quat()
    arrays = {
        "imu_acc": np.tile([0.0, 0.0, 9.81], (samples, 1)),
        "imu_gyr": np.zeros((samples, 3)),
        "opt_pos": np.tile([1.0, 2.0, 3.0], (samples, 1)),
        "opt_quat": np.tile([w, x, y, z], (samples, 1)),
        "movement": np.arange(samples) >= 100,
    }
    if spoil:
        spoil(arrays)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        file.attrs["sampling_rate"] = RATE
    return path


def test_world_is_turned_from_east_north_up_to_y_up(tmp_path):
    trial = read_broad(write(tmp_path / "07_undisturbed_fast_rotation_B.hdf5"))
    assert (trial.kind, trial.rate) == ("fast rotation", RATE)
    (piece,) = trial.pieces
    np.testing.assert_allclose(piece.positions[0], [1, 3, -2])  # east, up, south
    # The board's x points north, its z up.
    np.testing.assert_allclose(piece.rotations[0][:, 0], [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(piece.rotations[0] @ piece.acc[0], [0, 9.81, 0], atol=1e-12)
    assert not piece.moving[99] and piece.moving[100]


def test_a_sample_that_is_missing_ends_a_piece(tmp_path):
    def spoil(arrays):
        arrays["opt_pos"][:, 0] = np.arange(600)  # tells where a sample comes from
        arrays["opt_pos"][:20] = np.nan
        arrays["opt_quat"][150:160, 2] = np.nan
        arrays["imu_gyr"][200] = np.inf

    trial = read_broad(write(tmp_path / "x.hdf5", spoil))
    assert [(p.start, len(p.acc)) for p in trial.pieces] == [(20, 130), (201, 399)]
    for piece in trial.pieces:
        np.testing.assert_array_equal(
            piece.positions[:, 0], piece.start + np.arange(len(piece.acc))
        )


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda a: a.pop("opt_quat"), "opt_quat"),
        (lambda a: a.update(imu_acc=a["imu_acc"] / 9.81), "likely in g"),
    ],
)
def test_a_wrong_file_is_told(tmp_path, spoil, word):
    with pytest.raises(InputError, match=word):
        read_broad(write(tmp_path / "x.hdf5", spoil))


def test_the_real_trials_are_whole_and_feel_gravity(real_data):
    for trial in read_broad_folder(real_data / "broad"):
        assert sum(len(p.acc) for p in trial.pieces) > 60 * trial.rate
        assert trial.rate == pytest.approx(2000 / 7)
        # Whatever it does, in the long run the board is accelerated by gravity only.
        piece = max(trial.pieces, key=lambda piece: len(piece.acc))
        up = np.einsum("tij,tj->ti", piece.rotations, piece.acc).mean(0)
        np.testing.assert_allclose(up, [0, 9.81, 0], atol=0.2)
