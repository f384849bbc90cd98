"""Recordings of two BVH sets on the 22 joints, and every source set upright by constants."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from t2imu_utils.body.smpl import load_body
from t2imu_utils.errors import InputError
from t2imu_utils.motion.bvh import read_bandai, read_reactidle
from t2imu_utils.motion.cmu import find_sources, read_trial, subject_of
from t2imu_utils.motion.skeleton import JOINTS, MIRROR, PARENTS, RAW_OFFSETS, bone_lengths
from t2imu_utils.motion.takes import (
    Take,
    clean,
    implausible,
    standing,
    straight_walking,
    t_poses,
    upright,
)

REST = load_body().rest_joints(np.zeros(10)).double().numpy()[:22]
TRUNK = [(3, 0), (6, 3), (9, 6), (12, 9), (15, 12), (13, 9), (14, 9)]  # bones: joint, parent
LIMBS = [4, 5, 7, 8, 18, 19, 20, 21]  # joints whose bone must not change


def some(real_data: Path, name: str, every: int, folder: Path) -> Path:
    """A few files of a set, unpacked."""
    with zipfile.ZipFile(next((real_data / name).glob("*.zip"))) as archive:
        files = sorted(n for n in archive.namelist() if n.endswith(".bvh"))
        archive.extractall(folder / name, files[::every])
    return folder


@pytest.fixture(scope="module")
def bandai(real_data, tmp_path_factory) -> list[Take]:
    return read_bandai(some(real_data, "bandai", 21, tmp_path_factory.mktemp("data")))[0]


@pytest.fixture(scope="module")
def reactidle(real_data, tmp_path_factory) -> list[Take]:
    return read_reactidle(some(real_data, "reactidle", 3, tmp_path_factory.mktemp("data")))[0]


@pytest.fixture(scope="module")
def cmu(real_data) -> list[Take]:
    sources = find_sources(real_data / "cmu")
    trials = ("07_01", "08_01", "16_15", "35_01", "39_01")
    read = [(trial, read_trial(sources, trial, "amc")) for trial in trials]
    return [Take("cmu", "", subject_of(t), t, "walk", "", r.joints[10:], r.rate) for t, r in read]


def ahead(joints: np.ndarray) -> np.ndarray:
    """(T, 3) unit vectors to where the hips face, on the ground."""
    facing = np.cross((joints[:, 1] - joints[:, 2]) * [1, 0, 1], [0, 1, 0])
    return facing / np.linalg.norm(facing, axis=1, keepdims=True)


def standing_body(lean: float = 0.0, frames: int = 700) -> np.ndarray:
    """The rest pose with hanging arms; what is above the hips leans backwards by `lean` degrees."""
    joints = REST - REST[[7, 8]].mean(axis=0)
    arms = joints[[18, 20, 19, 21]] - joints[[16, 16, 17, 17]]
    joints[[18, 20, 19, 21]] = joints[[16, 16, 17, 17]] + [0, -1, 0] * abs(arms[:, :1])
    upper = [i for i in range(22) if joints[i, 1] > joints[1, 1] + 0.01]
    turn = Rotation.from_euler("x", -lean, degrees=True)
    joints[upper] = turn.apply(joints[upper] - joints[1] * [0, 1, 1]) + joints[1] * [0, 1, 1]
    return np.tile(joints, (frames, 1, 1))


def made(joints: np.ndarray, source: str = "made") -> Take:
    return Take(source, "", "1", "t", "", "", joints, 30.0)


def test_a_leaning_skeleton_and_misplaced_joints_stand_as_the_rest_pose_does():
    joints = standing_body(lean=9.0)
    joints[:, [3, 12, 15]] += [0, 0.03, -0.04]
    turned = Rotation.from_euler("y", 70, degrees=True).apply(joints.reshape(-1, 3))
    (take,) = upright([made(turned.reshape(joints.shape))])
    got = Rotation.from_euler("y", -70, degrees=True).apply(take.joints[0])
    for joint, parent in TRUNK:
        bone, rest = got[joint] - got[parent], REST[joint] - REST[parent]
        np.testing.assert_allclose(bone, rest, atol=0.003)
    # A source already at rest is not moved by another that is not.
    straight, _ = upright([made(standing_body(), "a"), made(joints, "b")])
    np.testing.assert_allclose(straight.joints, standing_body(), atol=0.004)


def test_offsets_are_constant_in_the_trunk():
    # What was learnt on standing moves with the trunk: bowed by 50°, offsets bow by 50°.
    still, bowed = standing_body(lean=6.0), standing_body(lean=-44.0, frames=5)
    both = upright([made(still), made(bowed)])
    moved = [take.joints[0] - joints[0] for take, joints in zip(both, (still, bowed), strict=True)]
    turn = Rotation.from_euler("x", 50, degrees=True)
    upper = [i for i in range(22) if i not in (1, 2, 4, 5, 7, 8, 10, 11)]
    np.testing.assert_allclose(moved[1][upper], turn.apply(moved[0][upper]), atol=1e-9)
    np.testing.assert_array_equal(moved[1][[1, 2, 4, 5, 7, 8]], 0)


def test_nobody_who_stands_or_walks_is_refused():
    lying = Rotation.from_euler("x", 90, degrees=True).apply(standing_body().reshape(-1, 3))
    with pytest.raises(InputError, match="takes of made"):
        upright([made(lying.reshape(-1, 22, 3))])


@pytest.mark.parametrize("name", ["bandai", "reactidle", "cmu"])
def test_every_real_source_stands_upright(name, request):
    takes = request.getfixturevalue(name)
    placed = upright(takes)
    subjects: dict[str, list[np.ndarray]] = {}
    for before, after in zip(takes, placed, strict=True):
        frames = standing(before.joints, before.rate)
        if name == "cmu":
            frames |= straight_walking(before.joints, before.rate)
        joints, forward = after.joints[frames], ahead(before.joints[frames])
        axes = np.stack([np.cross([0, 1, 0], forward), 0 * forward + [0, 1, 0], forward], axis=2)
        if frames.any():
            subjects.setdefault(before.subject, []).append((joints - joints[:, :1]) @ axes)
        for joint in LIMBS:
            bones = [t.joints[:, joint] - t.joints[:, PARENTS[joint]] for t in (before, after)]
            np.testing.assert_allclose(*bones, atol=1e-9)
        np.testing.assert_array_equal(before.joints[:, [1, 2]], after.joints[:, [1, 2]])
    mean = np.mean([np.concatenate(s).mean(axis=0) for s in subjects.values()], axis=0)
    mean = (mean + mean[list(MIRROR)] * [-1, 1, 1]) / 2
    for joint, parent in TRUNK:
        bone, rest = mean[joint] - mean[parent], REST[joint] - REST[parent]
        cosine = bone @ rest / np.linalg.norm(bone) / np.linalg.norm(rest)
        assert np.degrees(np.arccos(cosine)) < 2, JOINTS[joint]


def test_bandai_is_read_in_metres_and_faces_where_it_walks(bandai):
    assert {t.subject for t in bandai} == {"bandai-1", "bandai-2"}
    assert {t.content for t in bandai} >= {"walk", "run", "walk-turn-left", "raise-up-left-hand"}
    assert {t.rate for t in bandai} == {30.0}
    for take in bandai:
        joints = take.joints
        assert bone_lengths(joints).std(axis=0).max() < 1e-4
        assert 1.2 < np.percentile(joints[:, 15, 1], 95) < 1.6 and joints[..., 1].min() > -0.05
        if take.content in ("walk", "run", "dash"):
            velocity = np.diff(joints[:, 0], axis=0) * 30
            assert (velocity * ahead(joints)[1:]).sum(axis=1).mean() > 0.4
        if take.content.startswith("walk-turn"):
            turn = np.cross(ahead(joints)[:15].mean(axis=0), ahead(joints)[-15:].mean(axis=0))[1]
            assert (turn if take.content.endswith("left") else -turn) > 0.5
        if take.content == "raise-up-left-hand":
            assert joints[:, 20, 1].max() > joints[:, 21, 1].max() + 0.3


def test_reactidle_stands_on_the_floor_at_one_height(reactidle):
    assert {(t.rate, t.content) for t in reactidle} == {(24.0, "idle")}
    assert {t.style for t in reactidle} == {"acted", "genuine"}
    for take in reactidle:
        lowest = take.joints[..., 1].min(axis=1)
        assert abs(np.median(lowest)) < 1e-6 and lowest.min() > -0.05
        assert np.median(take.joints[:, 15, 1]) == pytest.approx(1.58)
        toes = (take.joints[:, [10, 11]] - take.joints[:, [7, 8]]).mean(axis=1)
        assert ((toes * ahead(take.joints)).sum(axis=1) > 0).mean() > 0.99


def test_archives_are_read_in_place_and_damage_is_told(real_data, tmp_path, reactidle):
    folder = some(real_data, "reactidle", 3, tmp_path) / "reactidle"
    files = sorted(folder.rglob("*.bvh"))
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        archive.write(files[0], files[0].name)
        archive.writestr("999_acted.bvh", files[0].read_text()[:5000])
    for file in files:
        file.unlink()
    takes, skipped = read_reactidle(tmp_path)
    assert [t.trial for t in takes] == [files[0].stem] and "999_acted" in skipped[0].name
    same = next(t for t in reactidle if t.trial == takes[0].trial)
    np.testing.assert_array_equal(takes[0].joints, same.joints)
    with pytest.raises(InputError, match="bandai"):
        (tmp_path / "bandai").mkdir()
        read_bandai(tmp_path)


# Cleaning: a made-up body that stands, jumps and strikes T-poses at known frames.


HERTZ = 120.0


def drifting(frames: int) -> np.ndarray:
    """A body with hanging arms that drifts forward at 1.2 m/s."""
    joints = np.zeros((22, 3))
    for joint, parent in enumerate(PARENTS[1:], start=1):
        joints[joint] = joints[parent] + 0.2 * RAW_OFFSETS[joint]
    side = np.array([[0.2, 0, 0], [-0.2, 0, 0]])
    joints[[16, 17]] = joints[[13, 14]] + side
    joints[[18, 19]] = joints[[16, 17]] - [0, 0.3, 0]
    joints[[20, 21]] = joints[[18, 19]] - [0, 0.3, 0]
    drift = np.arange(frames)[:, None, None] * [0, 0, 0.01]
    return joints + drift


def arms_out(joints: np.ndarray) -> np.ndarray:
    raised = joints.copy()
    side = np.array([[0.3, 0, 0], [-0.3, 0, 0]])
    raised[..., [18, 19], :] = raised[..., [16, 17], :] + side
    raised[..., [20, 21], :] = raised[..., [18, 19], :] + side
    return raised


def test_t_poses_at_both_ends_go_and_one_inside_stays():
    joints = drifting(400)
    for part in (slice(0, 3), slice(200, 203), slice(398, 400)):
        joints[part] = arms_out(joints[part])
    # Raise and lower the arms slowly around frame 200, so that the pose is no jump.
    mix = np.clip(1 - np.abs(np.arange(400) - 201) / 60, 0, 1)[:, None, None]
    slow = (1 - mix) * drifting(400) + mix * arms_out(drifting(400))
    joints[100:300] = slow[100:300]
    assert t_poses(joints)[201]
    # The jump into the last T-pose counts as a glitch: both its frames and 6 before it.
    assert clean(joints, HERTZ, min_seconds=0.5) == [(10, 391)]


def test_jumps_split_a_trial_and_short_remnants_go():
    joints = drifting(600)
    joints[0] = arms_out(joints[0])
    for frame in (3, 100, 110, 400):
        joints[frame:, 20] += [0, 0, 0.5]
    # Between lead-in and the first jump 85 frames remain: less than a second.
    assert clean(joints, HERTZ, min_seconds=1.0) == [(117, 393), (407, 600)]
    assert clean(joints, HERTZ, min_seconds=0.5)[0] == (8, 93)


def test_bodies_of_no_person_are_refused(body):
    joints = np.repeat(body[1][None], 40, axis=0)
    assert implausible(joints) == ""
    assert implausible(2 * joints).endswith(" m")
    joints[::2, [7, 10], 1] -= 0.05
    assert "bones" in implausible(joints) and implausible(joints, 0.1) == ""
