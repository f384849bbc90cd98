"""CMU's trials and sentences: a made-up database for rules and faults, the real one for facts."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.motion.cmu import (
    TARGET_OFFSETS,
    find_sources,
    read_texts,
    read_trial,
    sentence,
    why_spam,
)
from t2imu_utils.motion.features import process_joints
from t2imu_utils.motion.open_corpus import read_cmu
from t2imu_utils.motion.skeleton import bone_lengths, resample
from t2imu_utils.motion.takes import clean, glitches

# Offsets in cm of a body with hanging arms: name, parent, offset.
BODY = (
    ("hip", None, (0, 0, 0)),
    ("abdomen", "hip", (0, 20, 0)),
    ("chest", "abdomen", (0, 12, 0)),
    ("neck", "chest", (0, 22, 0)),
    ("head", "neck", (0, 7, 1)),
    *(
        (
            f"{side}{name}",
            parent if parent in ("hip", "chest") else f"{side}{parent}",
            (x * s, y, z),
        )
        for side, s in (("l", 1), ("r", -1))
        for name, parent, (x, y, z) in (
            ("Thigh", "hip", (9, 3, 0)),
            ("Shin", "Thigh", (0, -37, 0)),
            ("Foot", "Shin", (0, -45, 0)),
            ("Collar", "chest", (3, 19, 0)),
            ("Shldr", "Collar", (9, -2, 0)),
            ("ForeArm", "Shldr", (0, -28, 0)),
            ("Hand", "ForeArm", (0, -23, 0)),
        )
    ),
)


def bvh_text(frames: int, speed: float = 1.2, seed: int = 0, jump: int | None = None) -> str:
    """A body that glides along +X at `speed` m/s; `jump`: a frame with a jump of 0.5 m."""

    def joint(name: str, parent: str | None, offset: tuple[float, ...]) -> str:
        head = f"{'JOINT' if parent else 'ROOT'} {name}\n{{\nOFFSET {' '.join(map(str, offset))}\n"
        places = "" if parent else "Xposition Yposition Zposition "
        head += f"CHANNELS {3 if parent else 6} {places}Zrotation Xrotation Yrotation\n"
        below = "".join(joint(*row) for row in BODY if row[1] == name)
        return head + (below or "End Site\n{\nOFFSET 0 -4 12\n}\n") + "}\n"

    rng = np.random.default_rng(seed)
    values = np.zeros((frames, 6 + 3 * (len(BODY) - 1)))
    values[:, 0] = np.arange(frames) * speed / 1.2
    values[:, 1] = 90 + rng.uniform()
    values[:, 5] = 90.0  # Y rotation: facing +X
    if jump is not None:
        values[jump:, 0] += 50
    header = f"HIERARCHY\n{joint(*BODY[0])}MOTION\nFrames: {frames}\nFrame Time: .00833333\n"
    return header + "\n".join(" ".join(f"{v:.5f}" for v in row) for row in values)


def database(folder, trials: dict[str, str], descriptions: dict[str, str], sentences=()):
    """Write BVH texts into a zip and the tables beside it."""
    root = folder / "cmu"
    root.mkdir()
    with zipfile.ZipFile(root / "bvh.zip", "w") as archive:
        for trial, text in trials.items():
            archive.writestr(f"{trial[:2]}/{trial}.bvh", text)
    rows = "".join(f'{trial},"{text}"\n' for trial, text in descriptions.items())
    (root / "descriptions.csv").write_text("trial,description\n" + rows)
    (root / "kitml_sentences.json").write_text(json.dumps(list(sentences)))
    return folder


def test_trials_are_read_in_metres_and_cut_where_the_tracking_jumps(tmp_path):
    root = database(tmp_path, {"03_01": bvh_text(907, jump=502)}, {"03_01": "walk"})
    trial = read_trial(find_sources(root / "cmu"), "03_01", "bvh")
    assert (trial.subject, trial.style, trial.joints.shape) == ("03", "bvh", (907, 22, 3))
    path = trial.joints[501, 0] - trial.joints[0, 0]
    np.testing.assert_allclose(path, [1.2 * 501 / 120, 0, 0], atol=1e-3)
    takes, skipped = read_cmu(root)
    assert [take.trial for take in takes] == ["03_01_f00001", "03_01_f00085"]
    # 907 frames less 7 at the start and 14 around the jump.
    assert [len(take.joints) for take in takes] == [488, 398] and skipped == []
    assert {take.content for take in takes} == {"walk"}


def test_sentences_go_to_the_seconds_that_they_overlap(tmp_path):
    told = [
        {"trial": "03_01", "start_s": 0.0, "end_s": 8.0, "text": "First # part."},
        {"trial": "03_01", "start_s": 9.0, "end_s": 16.0, "text": "Second part."},
    ]
    texts = read_texts(database(tmp_path, {}, {"03_01": "walk"}, told) / "cmu")
    assert texts.captions("03_01", 0, 8) == ["a person walks.", "walk", "First part."]
    assert texts.captions("03_01", 8, 16)[2:] == ["Second part."]
    assert texts.has("03_01") and not texts.has("03_02")


def test_what_is_left_out_is_listed(tmp_path):
    trials = {
        "03_01": bvh_text(400),
        "03_03": bvh_text(400, seed=3)[:-2000],
        "03_04": bvh_text(400, seed=4),
        "03_05": bvh_text(400, seed=5).replace("neck", "throat"),
    }
    spam = {"trial": "03_01", "start_s": 0, "end_s": 9, "text": "buy at http://example.org"}
    descriptions = dict.fromkeys(trials, "walk") | {"03_04": "unknown"}
    root = database(tmp_path, trials, descriptions, [spam])
    (rejected,) = read_texts(root / "cmu").rejected
    assert "03_01" in rejected.name and "link" in rejected.reason
    assert "example.org" not in rejected.reason
    takes, skipped = read_cmu(root)
    assert [take.trial for take in takes] == ["03_01_f00001"]
    reasons = {s.name: s.reason for s in skipped}
    assert "03_03.bvh" in reasons["03_03 (bvh)"] and "line" in reasons["03_03 (bvh)"]
    assert "nothing tells its motion" in reasons["03_04"]
    assert "'neck'" in reasons["03_05 (bvh)"]


def test_faults_of_the_folder_are_named(tmp_path):
    with pytest.raises(InputError, match="no motion capture file"):
        find_sources(tmp_path)
    folder = database(tmp_path, {"03_01": bvh_text(100)}, {"03_01": "walk"}) / "cmu"
    with pytest.raises(InputError, match="no amc file"):
        read_trial(find_sources(folder), "03_01", "amc")
    (folder / "descriptions.csv").write_text("number,text\n1,walk\n")
    with pytest.raises(InputError, match="columns trial, description"):
        read_texts(folder)
    archive = folder / "bvh.zip"
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(InputError, match=r"bvh\.zip.*no zip archive"):
        find_sources(folder)


def test_descriptions_are_read_from_the_index_of_the_database(tmp_path):
    index = (
        "Carnegie-Mellon Graphics Lab Motion Capture Database\n  v1.00 last update\n\n"
        "Subject #5 (modern dance)\n\n05_01\twalk\n05_02\tdance - arms, pirouette\r\n"
        "CMU says: \u201cWhen browsing\u201d\n144_34\tWalking001\n"
    )
    (tmp_path / "cmu-mocap-index-text.txt").write_bytes(index.encode("cp1252"))
    found = read_texts(tmp_path).descriptions
    assert found == {"05_01": "walk", "05_02": "dance - arms, pirouette", "144_34": "Walking001"}


# --- the real database ---


@pytest.fixture(scope="module")
def folder(real_data):
    if not (real_data / "cmu").is_dir():
        pytest.skip(f"{real_data / 'cmu'} is absent")
    return real_data / "cmu"


@pytest.fixture(scope="module")
def sources(folder):
    return find_sources(folder)


@pytest.mark.parametrize("trial", ["06_01", "08_01", "08_03", "10_04"])
def test_real_bvh_and_amc_agree(sources, trial):
    amc = read_trial(sources, trial, "amc")
    bvh = read_trial(sources, trial, "bvh")
    # BVH has one frame more, a T-pose in front.
    assert len(bvh.joints) == len(amc.joints) + 1 and amc.rate == bvh.rate == 120.0
    for recording in (replace(bvh, joints=bvh.joints[6:]), replace(amc, joints=amc.joints[5:])):
        lengths = bone_lengths(recording.joints)
        lengths = lengths[:, [1, 2, 4, 5, 7, 8, 10, 11, 16, 17, 18, 19, 20, 21]]
        assert np.ptp(lengths, axis=0).max() < 1e-4
    one, two = (
        process_joints(resample(joints, 120, 20), TARGET_OFFSETS, convention="clean")
        for joints in (amc.joints[5:], bvh.joints[6:])
    )
    # The BVH release retargeted everyone onto one skeleton: 4 to 5 cm on average, and no better
    # than 3 degrees in direction.
    error = np.linalg.norm((one - one[:, :1]) - (two - two[:, :1]), axis=-1)
    assert error.mean() < 0.06 and error.max() < 0.25
    paths = [np.linalg.norm(np.diff(j[:, 0], axis=0), axis=-1).sum() for j in (one, two)]
    assert abs(paths[0] / paths[1] - 1) < 0.06
    # One frame of shift between the two would show.
    late = np.linalg.norm((one - one[:, :1])[1:] - (two - two[:, :1])[:-1], axis=-1)
    assert late.mean() > error.mean()


def test_real_blends_out_of_a_t_pose_and_jumps_are_cut(sources):
    # Accelerations of the first frames that are kept and of the half second after them; two frames
    # sooner they have a ratio of 2.7.
    ratios = []
    trials = "02_05 05_03 05_04 06_01 07_12 08_01 08_03 09_01 09_03 10_04 13_07 13_35 13_36 14_31"
    for trial in trials.split():
        joints = read_trial(sources, trial, "bvh").joints
        (start, _), *_ = clean(joints, 120.0, 0.5)
        second = np.linalg.norm(np.diff(joints[start : start + 62], n=2, axis=0), axis=-1).mean(1)
        ratios.append(second[:2].mean() / np.median(second[2:]))
    assert np.median(ratios) < 1.5
    # The dancer's right leg jumps by up to 0.7 m a frame between 2.6 and 7.2 s.
    joints = read_trial(sources, "05_05", "bvh").joints
    assert np.linalg.norm(np.diff(joints[6:], axis=0), axis=-1).max() > 0.5
    kept = clean(joints, 120.0, 0.5)
    assert len(joints) - sum(end - start for start, end in kept) > 100
    assert not any(glitches(joints[start:end], 120.0).any() for start, end in kept)


def test_real_texts(folder):
    texts = read_texts(folder)
    assert len(texts.descriptions) > 2000
    told = sum(map(len, texts.sentences.values()))
    everything = json.loads((folder / "kitml_sentences.json").read_text())
    assert told + len(texts.rejected) == len(everything) and len(texts.rejected) < 10
    assert any("13_07" in s.name and "link" in s.reason for s in texts.rejected)


# Captions: descriptions become sentences, and comment spam is found.


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("walk", "a person walks."),
        ("Slow walk", "a person walks slowly."),
        ("run/jog, veer left", "a person runs or jogs and veers left."),
        ("sit on stool, stand up, carry box", "a person sits on stool, stands up and carries box."),
        ("catch and throw", "a person catches and throws."),
        ("putting on a hat", "a person puts on a hat."),
        ("dance - small jetes, turn", "a person dances: small jetes, turn."),
        ("jumping jacks, jog", "a person performs jumping jacks, jog."),
        ("sit on stool, chin in hand", "a person sits on stool: chin in hand."),
        ("ZombieWalk", "a person performs zombie walk."),
        ("shake hands (2 subjects - subject A)", "a person shakes hands."),
    ],
)
def test_sentences(description, expected):
    assert sentence(description) == expected


@pytest.mark.parametrize(
    "description", ["", "Unknown", "T-Pose", "subject calibration", "90_10.amc", "180", "12.5 lbs"]
)
def test_what_tells_no_motion_gives_none(description):
    assert sentence(description) is None


@pytest.mark.parametrize(
    "text",
    [
        "Cheap tickets at <a href=x>our shop</a>",
        "visit https://example.org today",
        "write to me@example.net",
        "The person first",
        "word " * 100,
    ],
)
def test_spam_is_told(text):
    assert why_spam(text)
    assert why_spam("A person steps with the right foot first") is None
