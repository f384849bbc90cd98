"""AMASS to joints, and HumanML3D built from it, on small archives in the official layout."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from t2imu_utils.errors import InputError
from t2imu_utils.inputs import load_registry
from t2imu_utils.motion.features import features_to_joints, joints_to_features
from t2imu_utils.motion.skeleton import PARENTS, RAW_OFFSETS, bone_lengths, bone_offsets
from tests.motion.conftest import LENGTHS, posed
from tools import build_humanml3d as tool
from tools.build_humanml3d import amass_joints, build_humanml3d, load_smplh

# Three joints a finger, five fingers a hand, left before right.
FINGERS = [
    (20 if f < 5 else 21) if k == 0 else 22 + 3 * f + k - 1 for f in range(10) for k in range(3)
]
TREE = [*PARENTS, *FINGERS]
LEFT, RIGHT = [1, 4, 7, 10, 13, 16, 18, 20], [2, 5, 8, 11, 14, 17, 19, 21]
KIT = "KIT/4/WalkInCounterClockwiseCircle02_poses"
CMU = "CMU/80/80_63_poses"
MIX = "Transitions_mocap/mazen_c3d/airkick_running_poses"
TOTAL = "TotalCapture/s3/walking2_poses"
HDM = "MPI_HDM05/bk/HDM_bk_04-01_02_120_poses"
ACT = "humanact12/humanact12/P11G01R02F1812T1847A0402"
# Clip: recording, first and end frame.
INDEX = {
    "000021": (KIT, 0, 60),
    "000004": (CMU, 10, 60),
    "000005": (CMU, 50, 20),
    "000006": (CMU, 70, 90),
    "000007": (CMU, 20, 200),
    "000008": (MIX, 4, 50),
    "000009": (TOTAL, 3, 48),
    "000010": (HDM, 0, 45),
    "000011": (ACT, 0, -1),
    "000012": ("SFU/0018/0018_Walking001_poses", 0, 60),
    "000013": ("EKUT/300/PushBK_25_poses", 0, 46),
    "000014": ("SSM_synced/20161014_50033/ATUSquat_sync_poses", 0, 43),
    "000015": ("ACCAD/Male1General_c3d/General A9 -   Lie (forward)_poses", 0, 45),
    "000016": ("ACCAD/Male1General_c3d/General A9 -   Lie (forward)_poses", 30, 75),
    "000017": (CMU, 30, 32),
}
BUILT = ["000021", "000004", "000007", "000008", "000009", "000010", "000011", "000015"]
REASONS = {
    "000005": "reversed frame range: 50 to 20",
    "000006": "range past the end: 70 to 90 of 70 frames",
    "000012": "file absent: ",
    "000013": "file unreadable: ",
    "000014": "file unreadable: ",
    "000016": "NaN: frame 25 of the clip, pelvis",
    "000017": "no features: 2 frame(s)",
}


def fake_smplh(seed: int) -> dict[str, np.ndarray]:
    """Arrays of an SMPL+H model of 80 vertices with a sane skeleton."""
    rng = np.random.default_rng(seed)
    rest = np.zeros((52, 3))
    offsets = RAW_OFFSETS * LENGTHS[:, None]
    for joint in range(1, 52):
        step = offsets[joint] if joint < 22 else rng.normal(scale=0.02, size=3)
        rest[joint] = rest[TREE[joint]] + step
    weights = np.eye(52, 80) + 0.01 * rng.random((52, 80))
    return {
        "v_template": np.concatenate([rest, rng.normal(scale=0.3, size=(28, 3))]),
        "shapedirs": rng.normal(scale=0.01, size=(80, 3, 16)),
        "posedirs": rng.normal(scale=0.01, size=(80, 3, 459)),
        "J_regressor": weights / weights.sum(1, keepdims=True),
        "weights": np.full((80, 52), 1 / 52),
        "kintree_table": np.array([[2**32 - 1, *TREE[1:]], range(52)]).astype(np.uint32),
        "f": np.zeros((10, 3), dtype=np.uint32),
    }


def fake_motion(frames: int, rate: float, gender: str | bytes, seed: int) -> dict[str, np.ndarray]:
    """Arrays of an AMASS motion: somebody upright, Z up, who moves all limbs."""
    rng = np.random.default_rng(seed)
    wave = gaussian_filter1d(rng.normal(size=(frames, 52, 3)), 12, axis=0, mode="wrap")
    upright = Rotation.from_rotvec([np.pi / 2, 0, 0])
    turn = Rotation.from_rotvec(np.outer(np.linspace(0, 1, frames), [0, 0, 1.0]))
    wave[:, 0] = (turn * upright * Rotation.from_rotvec(0.2 * wave[:, 0])).as_rotvec()
    time = np.arange(frames) / rate
    return {
        "trans": np.stack([0.5 * time, np.sin(time), 0.9 + 0.02 * np.sin(5 * time)], axis=1),
        "gender": np.array(gender),
        "mocap_framerate": np.array(rate),
        "betas": rng.normal(size=16),
        "dmpls": rng.normal(size=(frames, 8)),
        "poses": wave.reshape(frames, 156),
    }


MOTIONS = {
    KIT: (300, 100.0, "male"),
    CMU: (420, 120.0, "female"),
    MIX: (400, 120.0, "male"),
    TOTAL: (160, 59.94, "female"),
    HDM: (650, 120.0, b"male"),
    INDEX["000015"][0]: (450, 120.0, "male"),
}


def write_inputs(root: Path) -> Path:
    for seed, gender in enumerate(tool.GENDERS):
        (root / "smplh" / gender).mkdir(parents=True)
        np.savez(root / "smplh" / gender / "model.npz", **fake_smplh(seed))
    for seed, (name, (frames, rate, gender)) in enumerate(MOTIONS.items()):
        motion = fake_motion(frames, rate, gender, seed)
        if name.startswith("ACCAD"):
            motion["trans"][330:] = np.nan
        # Some parts of AMASS have got other names since.
        save(root / "amass" / f"{name.replace('MPI_HDM05', 'HDM05')}.npz", motion)
    whole = root / "amass" / f"{INDEX['000013'][0]}.npz"
    save(whole, fake_motion(300, 120.0, "male", 9))
    whole.write_bytes(whole.read_bytes()[:5000])
    objects = fake_motion(300, 120.0, "female", 9)
    objects["poses"] = objects["poses"].astype(object)
    save(root / "amass" / f"{INDEX['000014'][0]}.npz", objects)
    joints = np.random.default_rng(5).normal(scale=0.01, size=(48, 24, 3))
    joints[:, :22] += posed(np.zeros((1, 22, 3)), np.zeros((1, 3)))
    (root / "pose_data" / ACT).parent.mkdir(parents=True)
    np.save(root / "pose_data" / f"{ACT}.npy", joints.astype(np.float32))
    rows = [f"./pose_data/{r}.npy,{a},{b},{name}.npy" for name, (r, a, b) in INDEX.items()]
    write_index(root / "humanml3d" / "index.csv", rows)
    return root


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def write_index(path: Path, rows: list[str]) -> None:
    lines = ["source_path,start_frame,end_frame,new_name", *rows]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def load_models(root: Path):
    return {g: load_smplh(root / "smplh" / g / "model.npz") for g in tool.GENDERS}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def built(inputs):
    report = build_humanml3d(inputs)
    return inputs / "humanml3d", report


def plain_joints(root: Path, name: str) -> np.ndarray:
    """Joints of a motion in HumanML3D's axes, frame by frame, with all 52 joints of the model."""
    frames, rate, gender = MOTIONS[name]
    with np.load(root / "amass" / f"{name.replace('MPI_HDM05', 'HDM05')}.npz") as stored:
        poses, trans, betas = (stored[key] for key in ("poses", "trans", "betas"))
    model = fake_smplh(0 if gender == "male" else 1)
    vertices = model["v_template"] + (model["shapedirs"][..., :10] * betas[:10]).sum(-1)
    rest = model["J_regressor"] @ vertices
    step, rows = {100.0: 5, 120.0: 6, 59.94: 2}[rate], []
    for frame in range(0, frames, step):
        local = Rotation.from_rotvec(poses[frame].reshape(52, 3)).as_matrix()
        turned, placed = [local[0]], [rest[0]]
        for joint in range(1, 52):
            parent = TREE[joint]
            placed.append(placed[parent] + turned[parent] @ (rest[joint] - rest[parent]))
            turned.append(turned[parent] @ local[joint])
        rows.append(np.array(placed) + trans[frame])
    axes = np.array([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]])
    return np.array(rows)[:, :22] @ axes


def test_every_clip_and_twin_equals_a_plain_computation(inputs, built):
    out, report = built
    assert report.built == BUILT and report.kept == []
    lead = {MIX: 10, TOTAL: 20, HDM: 60}
    for name in BUILT:
        recording, start, end = INDEX[name]
        if recording == ACT:
            expected = np.load(inputs / "pose_data" / f"{ACT}.npy")[:, :22]
        else:
            expected = plain_joints(inputs, recording)[lead.get(recording, 0) :][start:end].copy()
            expected[..., 0] *= -1
        twin = expected.copy()
        twin[:, LEFT], twin[:, RIGHT] = expected[:, RIGHT], expected[:, LEFT]
        twin[..., 0] *= -1
        for label, joints in ((name, expected), (f"M{name}", twin)):
            stored = np.load(out / "joints" / f"{label}.npy")
            np.testing.assert_allclose(stored, joints, atol=1e-6)
            features = np.load(out / "new_joint_vecs" / f"{label}.npy")
            assert features.shape == (len(joints) - 1, 263) and features.dtype == np.float32
            recovered = np.load(out / "new_joints" / f"{label}.npy")
            np.testing.assert_array_equal(recovered, features_to_joints(features))


def test_all_take_the_body_of_clip_000021(inputs, built):
    out, _ = built
    first = plain_joints(inputs, KIT)[0] * [-1, 1, 1]
    target = bone_lengths(first)
    for name in BUILT:
        joints = np.load(out / "new_joints" / f"{name}.npy")
        np.testing.assert_allclose(
            bone_lengths(joints[::9]), [target] * len(joints[::9]), atol=1e-5
        )
    joints = np.load(out / "joints" / "M000009.npy")
    again = joints_to_features(joints, bone_offsets(first), "dataset")
    np.testing.assert_allclose(np.load(out / "new_joint_vecs" / "M000009.npy"), again, atol=1e-5)


def test_what_is_left_out_is_told_by_reason(built):
    _, report = built
    motions = {s.name: s.reason for s in report.skipped}
    assert set(motions) == set(REASONS)
    for name, reason in REASONS.items():
        assert motions[name].startswith(reason)
    assert "0018_Walking001_poses.npz: found no file" in motions["000012"]
    assert "PushBK_25_poses.npz: found no readable arrays" in motions["000013"]
    assert "allow_pickle" in motions["000014"]
    assert report.reasons["file unreadable"] == 2 and sum(report.reasons.values()) == 7
    (short,) = report.short
    assert short.name == "000007" and "20 to 200, 50 frames built" in short.reason


def test_an_interrupted_build_goes_on_where_it_stopped(inputs, built, tmp_path, monkeypatch):
    for name in ("amass", "smplh", "pose_data"):
        (tmp_path / name).symlink_to(inputs / name)
    out, full = built[0], tmp_path / "humanml3d"
    full.mkdir()
    (full / "index.csv").write_bytes((out / "index.csv").read_bytes())
    write, left = tool.write_array, iter(range(15))

    def fails(path, array):
        if next(left, None) is None:
            raise OSError("disk full")
        write(path, array)

    monkeypatch.setattr(tool, "write_array", fails)
    with pytest.raises(OSError, match="disk full"):
        build_humanml3d(tmp_path)
    monkeypatch.undo()
    first = {p: p.stat().st_mtime_ns for p in full.rglob("*.npy")}
    assert len(first) == 15 and not list(full.rglob("*.tmp"))
    report = build_humanml3d(tmp_path)
    assert report.kept == ["000021", "000004"] and report.built == BUILT[2:]
    assert all(path.stat().st_mtime_ns == time for path, time in first.items())
    for path in out.rglob("*.npy"):
        assert path.read_bytes() == (full / path.relative_to(out)).read_bytes()
    monkeypatch.setenv("T2IMU_DATA", str(tmp_path))
    answer = CliRunner().invoke(tool.main, [])
    assert f"0 clips built, {len(BUILT)} there already" in answer.output and answer.exit_code == 1
    assert "not built: 1 × reversed frame range" in answer.output
    told = (full / "not_built.csv").read_text()
    assert all(name in told for name in REASONS)


def test_names_of_subsets_are_those_of_the_list_of_inputs():
    alternatives = [name.split(" | ") for name in load_registry().inputs["amass"].names]
    folders = [[path.split("/")[0] for path in paths] for paths in alternatives]
    assert len(folders) == 18 and {f[0]: f[1] for f in folders if len(f) > 1} == tool.RENAMED


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"J_regressor": None}, "J_regressor: found only v_template, "),
        ({"shapedirs": np.zeros((80, 3, 8))}, r"shapedirs: found shape \(80, 3, 8\)"),
        ({"kintree_table": np.zeros((2, 52), dtype=int)}, "kintree_table: found parents"),
    ],
)
def test_bad_models_are_refused(tmp_path, change, word):
    arrays = {key: value for key, value in (fake_smplh(0) | change).items() if value is not None}
    np.savez(tmp_path / "model.npz", **arrays)
    with pytest.raises(InputError, match=word) as caught:
        load_smplh(tmp_path / "model.npz")
    assert str(tmp_path / "model.npz") in str(caught.value)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"poses": np.zeros((120, 165))}, r"poses: found shape \(120, 165\).*SMPL\+H G"),
        ({"mocap_framerate": np.array(15.0)}, "15 frames a second"),
        ({"poses": np.zeros((120, 156)).astype(object)}, "no readable arrays"),
    ],
)
def test_bad_motions_are_refused(inputs, tmp_path, change, word):
    arrays = fake_motion(120, 120.0, "male", 0) | change
    save(tmp_path / "x_poses.npz", {k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(InputError, match=word) as caught:
        amass_joints(tmp_path / "x_poses.npz", load_models(inputs))
    assert str(tmp_path / "x_poses.npz") in str(caught.value)
