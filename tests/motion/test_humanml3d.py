"""HumanML3D's official folder: what is used, what is told of the rest, what is missing."""

import numpy as np
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.motion.humanml3d import CLIPS, integrity, read_humanml3d, read_index, subject_of

SENTENCE = "a man walks.#a/DET man/NOUN walk/VERB#0.0#0.0\n"
HEADER = "source_path,start_frame,end_frame,new_name\n"
# Clip: frames and text.
CLIPS_MADE = {
    "000001": (39, SENTENCE),
    "000002": (40, SENTENCE),
    "000003": (199, SENTENCE),
    "000004": (200, SENTENCE),
    "M000005": (120, "turns left.#turn/VERB left/ADV#1.0#4.5\nspins.#spin/VERB#1.0#4.5\n"),
    "000006": (150, SENTENCE + "hops.#hop/VERB#0.0#1.9\nruns.#run/VERB#5.0#60.0\n"),
    "000007": (250, "sits.#sit/VERB#1.0#4.5\n"),
    "000008": (60, SENTENCE),
    "000009": (60, SENTENCE),
    "000010": (60, "un café.#café/NOUN#0.0#0.0\n"),
    "000011": (60, "no fields at all\n"),
}
INDEX = (
    HEADER
    + "./pose_data/CMU/80/80_63_poses.npy,516,716,000002.npy\n"
    + "./pose_data/CMU/80/80_63_poses.npy,0,200,000003.npy\n"
    + "./pose_data/KIT/3/jump_left02_poses.npy,0,121,000005.npy\n"
    + "./pose_data/humanact12/humanact12/P11G01R02F1812T1847A0402.npy,0,-1,000006.npy\n"
    + "./pose_data/TCD_handMocap/ExperimentDatabase/typing_2_poses.npy,0,60,000012.npy\n"
)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "new_joint_vecs").mkdir()
    (tmp_path / "texts").mkdir()
    for seed, (name, (frames, text)) in enumerate(CLIPS_MADE.items()):
        features = np.random.default_rng(seed).normal(size=(frames, 263)).astype(np.float32)
        if name == "000008":
            features[33, 7] = np.nan
        if name != "000009":
            np.save(tmp_path / "new_joint_vecs" / f"{name}.npy", features)
        encoding = "latin-1" if name == "000010" else "utf-8"
        (tmp_path / "texts" / f"{name}.txt").write_bytes(text.encode(encoding))
    (tmp_path / "train.txt").write_text("".join(f"{name}\n" for name in CLIPS_MADE))
    (tmp_path / "index.csv").write_text(INDEX)
    return tmp_path


def test_clips_are_used_as_the_official_readers_do(root):
    skipped = []
    clips = read_humanml3d(root, "train", skipped)
    lengths = {clip.name: len(clip.features) for clip in clips}
    assert lengths == {
        "000002": 40,
        "000003": 199,
        "M000005_20_90": 70,
        "000006": 150,
        "000006_100_150": 50,
    }
    assert len(skipped) == 9  # clips too short and too long, damaged, absent, and sentences
    cut = next(clip for clip in clips if clip.name == "M000005_20_90")
    assert cut.captions == ["turns left.", "spins."]
    stored = np.load(root / "new_joint_vecs" / "M000005.npy")
    np.testing.assert_array_equal(cut.features, stored[20:90])


def test_source_and_subject_come_from_the_index(root):
    clips = {clip.name: clip for clip in read_humanml3d(root, "train", [])}
    assert clips["000002"].source == clips["000003"].source == "./pose_data/CMU/80/80_63_poses.npy"
    assert clips["000002"].subject == "CMU/80"
    assert clips["M000005_20_90"].source == "./pose_data/KIT/3/jump_left02_poses.npy"
    assert clips["M000005_20_90"].subject == "KIT/3"
    assert clips["000006_100_150"].subject == "humanact12/P11"


def test_a_folder_without_index_is_read(root):
    (root / "index.csv").unlink()
    skipped = []
    clips = read_humanml3d(root, "train", skipped) + read_humanml3d(root, "train", skipped)
    assert {(clip.source, clip.subject) for clip in clips} == {("", "")}
    assert [s.reason for s in skipped].count("no file: nothing tells source and subject") == 1


@pytest.mark.parametrize(
    ("path", "subject"),
    [
        ("./pose_data/CMU/18_19_rory/18_03_poses.npy", "CMU/18"),
        ("BMLmovi/Subject_52_F_MoSh/Subject_52_F_6_poses.npy", "BMLmovi/Subject_52"),
        ("KIT/3/jump_left02_poses.npy", "KIT/3"),
        ("ACCAD/Male2MartialArtsPunches_c3d/E12 - backfist right_poses.npy", "ACCAD/Male2"),
        ("SSM_synced/20161014_50033/ATUSquat_sync_poses.npy", "SSM_synced/50033"),
        ("Transitions_mocap/mazen_c3d/airkick_running_poses.npy", "Transitions_mocap/mazen"),
        ("humanact12/humanact12/P11G01R02F1812T1847A0402.npy", "humanact12/P11"),
        ("TCD_handMocap/ExperimentDatabase/typing_2_poses.npy", ""),
        ("Somewhere/else.npy", ""),
    ],
)
def test_subjects_of_recordings(path, subject):
    assert subject_of(path) == subject


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ("./pose_data/../../etc/passwd.npy,0,9,000001.npy", "not below pose_data"),
        ("./pose_data/CMU\\..\\..\\1_poses.npy,0,9,000001.npy", "not below pose_data"),
        ("./pose_data/CMU/1_poses.npz,0,9,000001.npy", "is no .npy"),
        ("./pose_data/CMU/1_poses.npy,0,9,../000001.npy", "not six digits"),
        ("./pose_data/CMU/1_poses.npy,0,nine,000001.npy", "no whole numbers"),
        ("./pose_data/CMU/1_poses.npy,0,9,000000.npy", "stands twice"),
    ],
)
def test_faulty_rows_of_the_index_are_told(tmp_path, row, word):
    path = tmp_path / "index.csv"
    path.write_text(f"{HEADER}./pose_data/KIT/3/a b_poses.npy,0,-1,000000.npy\n{row}\n")
    skipped = []
    table = read_index(path, skipped)
    assert table.values.tolist() == [
        ["000000", "./pose_data/KIT/3/a b_poses.npy", "KIT/3/a b_poses.npy", "KIT", 0, -1]
    ]
    (fault,) = skipped
    assert fault.name == f"{path}: line 3" and word in fault.reason
    assert integrity(tmp_path).set_index("source")["missing"].to_dict() == {
        "KIT": 1,
        "faulty rows of the index": 1,
        "all": 2,
    }


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, "no file"),
        (b"", "no table"),
        (b"source_path,new_name\n", "no column start_frame, end_frame"),
        (HEADER.encode() + "./pose_data/CMU/é.npy,0,9,000001.npy\n".encode("latin-1"), "no table"),
        (HEADER.encode() + b"a,b,c,d,e,f\na,b,c,d,e,f,g\n", "no table"),
    ],
)
def test_an_unreadable_index_is_refused(tmp_path, content, word):
    if content is not None:
        (tmp_path / "index.csv").write_bytes(content)
    with pytest.raises(InputError, match=word) as caught:
        read_index(tmp_path / "index.csv", [])
    assert "HumanML3D's repository" in str(caught.value)


def test_integrity_counts_by_source(root):
    (root / "new_joint_vecs" / "000012.npy").touch()  # an empty file is no clip
    (root / "texts" / "M000002.txt").write_text(SENTENCE)
    table = integrity(root).set_index("source")
    assert table.loc["CMU"].tolist() == [2, 2, 2, 0, 1, 0, 2]
    assert table.loc["KIT"].tolist() == [1, 0, 0, 1, 1, 1, 0]
    assert table.loc["humanact12"].tolist() == [1, 1, 1, 0, 0, 0, 1]
    assert table.loc["TCD_handMocap"].tolist() == [1, 0, 0, 1, 0, 0, 1]
    stray = table.loc["not in the index"]
    assert stray[["clips", "texts", "features"]].tolist() == [7, 7, 6]
    assert table.loc["all", "clips"] == 12


def test_the_genuine_index_of_cmu(real_data):
    path, skipped = real_data / "cmu" / "humanml3d_cmu_index.csv", []
    table = read_index(path, skipped)
    assert (len(table), skipped) == (2913, [])
    assert set(table["subset"]) == {"CMU"} and table["path"].nunique() == 2082
    assert (table["start"] < table["end"]).all() and (table["end"] - table["start"]).max() == 200
    assert all(subject_of(path).startswith("CMU/") for path in table["source_path"])
    lists = {
        split: (real_data / "humanml3d" / "splits" / f"{split}.txt").read_text().split()
        for split in ("train", "val", "test")
    }
    assert {split: len(names) for split, names in lists.items()} == {
        "train": 23384,
        "val": 1460,
        "test": 4384,
    }
    listed = set().union(*lists.values())
    assert {t + name for name in table["name"] for t in ("", "M")} <= listed
    # Two clips of the set are in no list.
    assert len(listed) == 2 * (CLIPS - 2)


def test_a_genuine_part_of_the_folder(real_data, tmp_path):
    (tmp_path / "index.csv").symlink_to(real_data / "cmu" / "humanml3d_cmu_index.csv")
    (tmp_path / "new_joint_vecs").symlink_to(real_data / "humanml3d" / "new_joint_vecs")
    counted = integrity(tmp_path).set_index("source")
    assert counted.loc["CMU", ["clips", "features", "missing"]].tolist() == [2913, 0, 2913]
    assert counted.loc["not in the index", "features"] == 1
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "012314.txt").write_text(SENTENCE)
    (tmp_path / "train.txt").symlink_to(real_data / "humanml3d" / "splits" / "train.txt")
    skipped = []
    (clip,) = read_humanml3d(tmp_path, "train", skipped)
    assert (clip.name, clip.features.shape) == ("012314", (170, 263))
    absent = [s for s in skipped if s.reason == "found no file; expected a .npy array"]
    assert len(absent) == 23383
