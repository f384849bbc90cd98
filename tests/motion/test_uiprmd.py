"""UI-PRMD: a made-up person of markers for directions and gaps, the recorded episodes for facts."""

import numpy as np
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.motion.skeleton import JOINTS, bone_lengths
from t2imu_utils.motion.takes import Take
from t2imu_utils.motion.uiprmd import MARKERS, parse_markers, read_uiprmd

# mm, the laboratory's x ahead, y to the left, z up: markers of the middle, and of the left side.
MIDDLE = {
    "C7": (-90, 0, 1420),
    "T10": (-130, 0, 1200),
    "CLAV": (60, 0, 1380),
    "STRN": (90, 0, 1200),
}
LEFT = {
    "FHD": (90, 70, 1650), "BHD": (-90, 70, 1650), "SHO": (0, 170, 1440), "ELB": (50, 300, 1300),
    "WRA": (80, 200, 1520), "WRB": (60, 220, 1520), "ASI": (90, 125, 980), "PSI": (-90, 45, 980),
    "KNE": (10, 160, 500), "ANK": (0, 150, 80), "HEE": (-60, 110, 50), "TOE": (140, 110, 50),
}  # fmt: skip


def episode(frames: int = 120) -> np.ndarray:
    """Somebody who stands still: (frames, 39, 3)."""
    places = MIDDLE | {f"L{name}": place for name, place in LEFT.items()}
    places |= {f"R{name}": (x, -y, z) for name, (x, y, z) in LEFT.items()}
    return np.tile([places.get(name, (1, 1, 1)) for name in MARKERS], (frames, 1, 1)).astype(float)


def text(markers: np.ndarray) -> str:
    return "\n".join(",".join(map(str, row)) for row in markers.reshape(len(markers), -1))


@pytest.fixture(scope="module")
def still_arms() -> Take:
    joints = np.zeros((50, 22, 3))
    for name, place in {
        "spine3": (0, 1.2, 0), "neck": (0, 1.4, 0), "left_shoulder": (0.2, 1.35, 0),
        "left_elbow": (0.2, 1.07, 0), "left_wrist": (0.2, 0.82, 0.05),
    }.items():  # fmt: skip
        joints[:, JOINTS.index(name)] = place
        if name.startswith("left"):
            joints[:, JOINTS.index(name.replace("left", "right"))] = place * np.array([-1, 1, 1])
    return Take("cmu", "CMU (free)", "01", "01_01", "", "", joints, 20)


def test_joints_of_a_made_up_person(tmp_path, still_arms):
    (tmp_path / "uiprmd").mkdir()
    gap = episode()
    gap[30, MARKERS.index("LKNE")] = np.nan
    for name, markers in (("m05_s01_e01", episode()), ("m05_s02_e01", gap)):
        (tmp_path / "uiprmd" / f"{name}_positions.txt").write_text(text(markers))
    (take,), (skipped,) = read_uiprmd(tmp_path, still_arms)
    assert (take.subject, take.trial, skipped.name) == ("s01", "m05_s01_e01", "m05_s02_e01")
    assert "LKNE at frame 30" in skipped.reason
    at = dict(zip(JOINTS, take.joints[60], strict=True))
    # Hara et al. for a leg of 0.905 m, in the plane of ASIS and PSIS, here level.
    leg = np.linalg.norm(np.subtract(LEFT["ASI"], LEFT["ANK"])) / 1000
    hip = [0.008 + 0.086 * leg, 0.98 - 0.009 - 0.078 * leg, 0.09 + 0.011 - 0.063 * leg]
    np.testing.assert_allclose(at["left_hip"], hip, atol=1e-6)
    for left in (name for name in JOINTS if name.startswith("left")):
        mirrored = at[left.replace("left", "right")] * [-1, 1, 1]
        np.testing.assert_allclose(at[left], mirrored, atol=1e-6)
        assert at[left][0] > 0.05
    assert 0.1 < at["left_ankle"][0] < LEFT["ANK"][1] / 1000 - 0.03
    assert at["left_foot"][2] > at["left_ankle"][2] + 0.1
    np.testing.assert_allclose(at["spine1"][[0, 2]], at["pelvis"][[0, 2]], atol=1e-6)
    assert at["left_wrist"][1] < at["left_elbow"][1] < at["left_shoulder"][1] < at["neck"][1]


@pytest.mark.parametrize("damaged", [text(episode(20)), text(episode()[:, :38]), "1,2\n3", "a,b\n"])
def test_damaged_files_are_refused(damaged):
    with pytest.raises(InputError, match="made up"):
        parse_markers(damaged, "made up")


@pytest.fixture(scope="module")
def episodes(real_data, still_arms):
    takes, skipped = read_uiprmd(real_data, still_arms)
    assert not skipped
    return takes


def test_recorded_bodies_are_whole(episodes):
    assert len(episodes) == 60
    assert len({take.subject for take in episodes}) == 10
    for take in episodes:
        joints = take.joints
        legs = bone_lengths(joints)[:, [4, 5, 7, 8]]
        assert np.ptp(legs, axis=0).max() < 1e-6
        assert legs.min() > 0.36
        assert legs.max() < 0.48
        assert joints[:, [7, 8]].std(0).max() < 0.02  # feet stay where they are
        assert joints[0, 1, 0] > joints[0, 2, 0]
        for hip, knee, ankle in ((1, 4, 7), (2, 5, 8)):
            assert (joints[:, knee, 2] > joints[:, [hip, ankle], 2].min(1)).all()
        assert 0 < joints[..., 1].min() < 0.05


def test_recorded_people_stand_upright_and_sit_once(episodes):
    for take in episodes:
        joints = take.joints
        seated = joints[:, 0, 1].argmin()
        assert joints[[0, -1], 0, 1].min() > joints[seated, 0, 1] + 0.3
        for frame, bounds in ((0, (0, 40)), (seated, (85, 130)), (-1, (0, 40))):
            assert all(bounds[0] < angle < bounds[1] for angle in _knees(joints[frame]))
        upright = joints[[0, -1], 3] - joints[[0, -1], 0]
        assert np.degrees(np.arctan2(np.abs(upright[:, 2]), upright[:, 1])).max() < 12


def _knees(joints: np.ndarray) -> list[float]:
    """Degrees of flexion, left and right."""
    thighs, shins = joints[[4, 5]] - joints[[1, 2]], joints[[7, 8]] - joints[[4, 5]]
    lengths = np.linalg.norm(thighs, axis=-1) * np.linalg.norm(shins, axis=-1)
    return list(np.degrees(np.arccos((thighs * shins).sum(-1) / lengths)))
