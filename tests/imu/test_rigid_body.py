import h5py
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from t2imu_utils.errors import InputError
from t2imu_utils.imu.rigid_body import (
    Alignment,
    Piece,
    Trial,
    left_out,
    native_table,
    read_broad,
    read_broad_folder,
    scheme_table,
)
from t2imu_utils.motion.rotations import axis_angle_to_matrix

RATE = 200.0
NONE = Alignment((0.0, 0.0, 0.0), 0.0, 0.0)
TRUE = Alignment((0.03, -0.02, 0.05), 0.004, 0.006)


def board(seed, alignment=TRUE, seconds=30.0, still=False):
    """A trial whose readings are known: swings about three axes on a swinging path."""
    rng = np.random.default_rng(seed)
    size, tone, phase = rng.uniform(0.5, 1.5, (3, 6)) * np.array([[0.0 if still else 1], [5], [4]])
    size[3:] *= 0.3

    def pose(time):
        waves = size * np.sin(time[:, None] * tone + phase)
        return waves[:, 3:], axis_angle_to_matrix(torch.from_numpy(waves[:, :3])).numpy()

    def readings(time, lever):
        # By differences over 0.1 ms: as good as exact.
        step = 1e-4
        (_, past), (_, now), (_, later) = (pose(time + k * step) for k in (-1, 0, 1))
        turn = np.einsum("tji,tjk->tik", now, later - past) / (2 * step)
        gyro = np.stack([turn[:, 2, 1], turn[:, 0, 2], turn[:, 1, 0]], 1)
        k = 1e-3
        before, here, after = (p + r @ lever for p, r in (pose(time + n * k) for n in (-1, 0, 1)))
        force = (before - 2 * here + after) / k**2 + [0, 9.81, 0]
        return np.einsum("tji,tj->ti", now, force), gyro

    time = np.arange(int(seconds * RATE)) / RATE
    positions, rotations = pose(time)
    acc, _ = readings(time - alignment.acc_delay, np.array(alignment.lever_arm))
    _, gyro = readings(time - alignment.gyro_delay, np.zeros(3))
    moving = np.ones(len(time), bool)
    piece = Piece(0, positions, rotations, acc, gyro, moving)
    return Trial(f"{seed:02d}_made_up", "made up", RATE, (piece,))


@pytest.fixture(scope="module")
def made_up():
    return [board(seed) for seed in range(3)]


def test_lever_arm_and_delays_are_found_from_the_other_trials(made_up):
    for alignment in left_out(made_up).values():
        np.testing.assert_allclose(alignment.lever_arm, TRUE.lever_arm, atol=1e-3)
        assert alignment.acc_delay == pytest.approx(TRUE.acc_delay, abs=1e-4)
        assert alignment.gyro_delay == pytest.approx(TRUE.gyro_delay, abs=1e-4)


def test_made_up_readings_are_met_once_they_are_aligned(made_up):
    table = native_table(made_up, left_out(made_up))
    assert len(table) == 18 and table["samples"].eq(len(made_up[0].pieces[0].acc) - 100).all()
    assert table["correlation"].min() > 0.9999
    assert (table["rmse"] < 0.01 * table["spread"]).all()
    plain = native_table(made_up, {trial.name: NONE for trial in made_up})
    assert (plain["rmse"] > 3 * table["rmse"]).all()


@pytest.fixture(scope="module")
def trials(real_data):
    """Rotations and translations, slow and fast."""
    return [read_broad(path) for path in sorted((real_data / "broad").glob("*.hdf5"))[:4]]


@pytest.fixture(scope="module")
def alignments(trials):
    return left_out(trials)


def test_alignments_of_the_real_board_agree(alignments):
    """Where the accelerometer sits and how late it is does not depend on the trials asked."""
    levers = np.array([a.lever_arm for a in alignments.values()])
    delays = np.array([(a.acc_delay, a.gyro_delay) for a in alignments.values()])
    assert np.ptp(levers, axis=0).max() < 2e-3 and np.linalg.norm(levers, axis=1).max() < 0.015
    assert np.ptp(delays, axis=0).max() < 2e-4
    assert (delays > 0.001).all() and (delays < 0.008).all()


def test_a_real_imu_reads_what_the_optical_pose_says(trials, alignments):
    table = native_table(trials, alignments)
    assert set(table["trial"]) == {trial.name for trial in trials}
    seen = table.dropna(subset=["correlation"])
    least = seen.groupby("sensor")["correlation"].min()
    assert least["acc"] >= 0.99 and least["gyro"] >= 0.97
    assert (table["rmse"] < np.maximum(0.15 * table["spread"], 0.1)).all()


def test_the_default_loses_least_of_a_real_imu_at_20_hz(trials, alignments):
    table = scheme_table(trials, alignments)
    found = table.pivot_table(index="trial", columns=["sensor", "scheme"], values="rmse")
    assert (found["gyro"]["spectral"] < 0.6 * found["gyro"]["central"]).all()
    fast = [name for name in found.index if "fast" in name]
    assert fast and (found["acc"]["spectral"] < 0.85 * found["acc"]["central"])[fast].all()
    assert (found["acc"]["spectral"] < found["acc"]["quintic"]).all()


# BROAD as it is read


SAMPLING = 100.0


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
        file.attrs["sampling_rate"] = SAMPLING
    return path


def test_world_is_turned_from_east_north_up_to_y_up(tmp_path):
    trial = read_broad(write(tmp_path / "07_undisturbed_fast_rotation_B.hdf5"))
    assert (trial.kind, trial.rate) == ("fast rotation", SAMPLING)
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
