import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from t2imu_utils.errors import InputError
from t2imu_utils.imu.broad import read_broad, read_broad_folder

RATE = 100.0


def whole(samples=600, rate=RATE):
    """Data sets of a board that lies still, turned by 90 degrees about the vertical."""
    x, y, z, w = Rotation.from_euler("z", 90, degrees=True).as_quat()
    return {
        "imu_acc": np.tile([0.0, 0.0, 9.81], (samples, 1)),
        "imu_gyr": np.zeros((samples, 3)),
        "imu_mag": np.zeros((samples, 3)),
        "opt_pos": np.tile([1.0, 2.0, 3.0], (samples, 1)),
        "opt_quat": np.tile([w, x, y, z], (samples, 1)),
        "movement": np.arange(samples) >= 100,
    }


def write(path, arrays, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        if rate is not None:
            file.attrs["sampling_rate"] = rate
    return path


def test_world_is_turned_from_east_north_up_to_y_up(tmp_path):
    trial = read_broad(write(tmp_path / "07_undisturbed_fast_rotation_B.hdf5", whole()))
    assert (trial.number, trial.kind, trial.rate) == ("07", "fast rotation", RATE)
    (piece,) = trial.pieces
    np.testing.assert_allclose(piece.positions[0], [1, 3, -2])  # east, up, south
    # The board's x points north, its z up.
    np.testing.assert_allclose(piece.rotations[0][:, 0], [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(piece.rotations[0] @ piece.acc[0], [0, 9.81, 0], atol=1e-12)
    assert not piece.moving[99] and piece.moving[100]


def test_names_are_told_apart(tmp_path):
    names = {
        "19_undisturbed_slow_combined_240s": ("19", "slow combined 240s"),
        "30_disturbed_stationary_magnet_C": ("30", "disturbed stationary magnet"),
        "own": ("", "own"),
    }
    for name, told in names.items():
        trial = read_broad(write(tmp_path / f"{name}.hdf5", whole()))
        assert (trial.number, trial.kind) == told
    assert [t.name for t in read_broad_folder(tmp_path)] == sorted(names)


def test_gaps_end_pieces_and_short_ones_are_counted(tmp_path):
    arrays = whole()
    arrays["opt_pos"][:20] = np.nan
    arrays["opt_quat"][150:160, 2] = np.nan
    arrays["imu_gyr"][200] = np.inf
    arrays["opt_pos"][:, 0] = np.arange(600)  # tells where a sample comes from
    arrays["opt_pos"][:20] = np.nan
    trial = read_broad(write(tmp_path / "x.hdf5", arrays), shortest=1.0)
    assert [(p.start, len(p.acc)) for p in trial.pieces] == [(20, 130), (201, 399)]
    assert trial.dropped == (40,)
    assert trial.masked == 31 and trial.samples == 600
    for piece in trial.pieces:
        np.testing.assert_array_equal(
            piece.positions[:, 0], piece.start + np.arange(len(piece.acc))
        )
        assert np.isfinite(piece.rotations).all() and np.isfinite(piece.gyro).all()


def change(name, values):
    def made(arrays):
        arrays[name] = values(arrays[name])

    return made


@pytest.mark.parametrize(
    ("spoil", "rate", "word"),
    [
        (lambda a: a.pop("opt_quat"), RATE, "no data set opt_quat"),
        (lambda a: None, None, "sampling_rate: found nan"),
        (lambda a: None, -1.0, "sampling_rate: found -1.0"),
        (change("imu_acc", lambda x: x[:-1]), RATE, r"imu_acc: found shape \(599, 3\)"),
        (change("opt_quat", lambda x: x[:, :3]), RATE, r"opt_quat: found shape \(600, 3\)"),
        (change("opt_quat", lambda x: 2 * x), RATE, "opt_quat: found length 2; expected unit"),
        (change("imu_acc", lambda x: x / 9.81), RATE, "in m/s.2. Multiply a file that is in g"),
        (change("opt_pos", lambda x: np.nan * x), RATE, "0 of 600 samples whole, in 0 runs"),
        (change("opt_pos", lambda x: x.astype("S8")), RATE, "no readable hdf5"),
    ],
)
def test_wrong_files_are_told(tmp_path, spoil, rate, word):
    arrays = whole()
    spoil(arrays)
    if arrays.get("opt_pos", np.zeros(1)).dtype.kind == "S":
        arrays["opt_pos"] = np.full((600, 3), b"a")
    with pytest.raises(InputError, match=word):
        read_broad(write(tmp_path / "x.hdf5", arrays, rate))


def test_every_sample_of_the_real_trials_is_used_or_counted(real_data):
    for trial in read_broad_folder(real_data / "broad"):
        used = sum(len(piece.acc) for piece in trial.pieces)
        assert used + trial.masked + sum(trial.dropped) == trial.samples
        assert used > 0.9 * trial.samples and trial.rate == pytest.approx(2000 / 7)
        # Whatever it does, in the long run the board is accelerated by gravity only.
        piece = max(trial.pieces, key=lambda piece: len(piece.acc))
        up = np.einsum("tij,tj->ti", piece.rotations, piece.acc).mean(0)
        np.testing.assert_allclose(up, [0, 9.81, 0], atol=0.2)
