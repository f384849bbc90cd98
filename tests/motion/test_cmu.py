"""The CMU corpus: a made-up database for rules and faults, and the real one for facts."""

import json
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.motion import cmu
from t2imu_utils.motion.cmu import (
    MAX_FRAMES,
    TARGET_OFFSETS,
    TEST_SUBJECTS,
    VAL_SUBJECTS,
    build_cmu,
    find_sources,
    read_texts,
    read_trial,
    sentence,
    why_spam,
)
from t2imu_utils.motion.features import features_to_joints, mirror_joints, process_joints
from t2imu_utils.motion.resample import resample
from t2imu_utils.motion.skeleton import FEET, bone_lengths
from t2imu_utils.motion.takes import GLITCH_SPEED, clean

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


def bvh_text(
    frames: int, speed: float = 1.2, seed: int = 0, jump: int | None = None, bob: float = 0.0
) -> str:
    """A body that glides along +X at `speed` m/s, nodding; `jump`: a frame with a jump of 0.5 m;
    bob: metres that it goes up and down with, once a second."""

    def joint(name: str, parent: str | None, offset: tuple[float, ...]) -> str:
        head = f"{'JOINT' if parent else 'ROOT'} {name}\n{{\nOFFSET {' '.join(map(str, offset))}\n"
        places = "" if parent else "Xposition Yposition Zposition "
        head += f"CHANNELS {3 if parent else 6} {places}Zrotation Xrotation Yrotation\n"
        below = "".join(joint(*row) for row in BODY if row[1] == name)
        return head + (below or "End Site\n{\nOFFSET 0 -4 12\n}\n") + "}\n"

    rng = np.random.default_rng(seed)
    values = np.zeros((frames, 6 + 3 * (len(BODY) - 1)))
    values[:, 0] = np.arange(frames) * speed / 1.2
    values[:, 1] = 90 + rng.uniform() + 100 * bob * np.sin(2 * np.pi * np.arange(frames) / 120)
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


def build(root, **options):
    return build_cmu(root, progress=False, **options)


def test_a_made_up_trial_comes_out_as_it_went_in(tmp_path):
    told = {"trial": "03_01", "start_s": 0.0, "end_s": 5.0, "text": "Someone glides to the left."}
    corpus = build(database(tmp_path, {"03_01": bvh_text(608)}, {"03_01": "walk"}, [told]))
    assert corpus.splits == {
        "train": ["03_01_00", "M03_01_00"],
        "val": [],
        "test": [],
        "test_trials": [],
    }
    clip, mirror = corpus.clips
    assert (clip.subject, clip.source) == ("03", "03_01")
    assert clip.captions == ["a person walks.", "walk", "Someone glides to the left."]
    assert mirror.captions[-1] == "Someone glides to the right."
    # 608 frames less 7 at the start are 5 s at 20 Hz.
    assert clip.features.shape == (100, 263) and clip.features.dtype == np.float32
    joints = features_to_joints(clip.features)
    np.testing.assert_allclose(
        bone_lengths(joints), np.tile(np.linalg.norm(TARGET_OFFSETS, axis=1), (100, 1)), atol=1e-4
    )
    assert abs(joints[:, FEET, 1].min()) < 1e-4
    # The path is scaled with the legs: 0.82 m on the source, 0.815 m on the target.
    path = joints[-1, 0] - joints[0, 0]
    np.testing.assert_allclose(path, [0, 0, 1.2 * 99 / 20 * 0.815 / 0.82], atol=0.01)
    row = corpus.census.iloc[0]
    assert (row["frames"], row["dropped: lead-in"], row["clips"]) == (608, 7, 1)
    assert row["seconds"] == 5.0


def test_a_body_of_no_persons_size_is_left_out(tmp_path, monkeypatch):
    root = database(tmp_path, {"03_01": bvh_text(608)}, {"03_01": "walk"})
    monkeypatch.setattr(cmu, "METRES_PER_BVH_UNIT", 0.0254)
    with pytest.raises(InputError, match="a body of [34].\\d\\d m"):
        build(root)


def test_long_trials_are_cut_evenly_and_share_one_heading(tmp_path):
    corpus = build(database(tmp_path, {"03_01": bvh_text(3005)}, {"03_01": "walk"}))
    lengths = [len(clip.features) for clip in corpus.clips if clip.name[0] != "M"]
    assert sum(lengths) == 499 and len(lengths) == 3 and max(lengths) <= MAX_FRAMES
    assert max(lengths) - min(lengths) <= 1


def test_jumps_split_a_trial_and_are_counted(tmp_path):
    corpus = build(database(tmp_path, {"03_01": bvh_text(907, jump=502)}, {"03_01": "walk"}))
    assert corpus.census.iloc[0]["dropped: glitch"] == 14
    assert [clip.name for clip in corpus.clips] == [
        "03_01_00",
        "03_01_01",
        "M03_01_00",
        "M03_01_01",
    ]
    # 907 - 7 - 14 = 886 frames in two segments of 488 and 398.
    assert [len(clip.features) for clip in corpus.clips[:2]] == [81, 66]
    speeds = [np.abs(np.diff(features_to_joints(c.features)[:, 0, 2])).max() for c in corpus.clips]
    assert max(speeds) < 0.07


def test_sentences_go_to_the_clips_that_they_overlap(tmp_path):
    told = [
        {"trial": "03_01", "start_s": 0.0, "end_s": 8.0, "text": "First part."},
        {"trial": "03_01", "start_s": 9.0, "end_s": 16.0, "text": "Second part."},
    ]
    corpus = build(database(tmp_path, {"03_01": bvh_text(2000)}, {"03_01": "walk"}, told))
    assert [clip.captions[2:] for clip in corpus.clips[:2]] == [["First part."], ["Second part."]]


# ---------------------------------------------------------------- other speeds
def test_training_trials_are_played_again_at_other_speeds(tmp_path):
    root = database(tmp_path, {"03_01": bvh_text(608, bob=0.1)}, {"03_01": "walk"})
    plain, corpus = build(root), build(root, speeds=[0.9, 1.1])
    names = ["03_01_00", "M03_01_00"]
    names += [f"{name}x{speed}" for speed in (0.9, 1.1) for name in names]
    assert corpus.splits == plain.splits | {"train": names}
    assert [clip.name for clip in corpus.clips] == names
    assert {(clip.subject, clip.source) for clip in corpus.clips} == {("03", "03_01")}
    for clip, same in zip(corpus.clips, plain.clips, strict=False):
        np.testing.assert_array_equal(clip.features, same.features)
    # Mirror images are those of what they are named after.
    assert [clip.captions for clip in corpus.clips] == 3 * [clip.captions for clip in plain.clips]
    by_name = {clip.name: features_to_joints(clip.features) for clip in corpus.clips}
    for name in names[::2]:
        np.testing.assert_allclose(by_name[f"M{name}"], mirror_joints(by_name[name]), atol=0.01)
    # The census tells of what was recorded.
    assert corpus.census.equals(plain.census) and corpus.skipped == plain.skipped


@pytest.mark.parametrize("speed", [0.9, 1.1, 2.0])
def test_what_is_played_faster_is_shorter_and_accelerates_with_the_square(tmp_path, speed):
    root = database(tmp_path, {"03_01": bvh_text(1208, bob=0.1)}, {"03_01": "walk"})
    clips = {clip.name: clip for clip in build(root, speeds=[speed]).clips}
    plain, played = clips["03_01_00"], clips[f"03_01_00x{speed:g}"]
    # What is played slowly may take more clips than before.
    lengths = [
        sum(len(clip.features) for name, clip in clips.items() if re.fullmatch(pattern, name))
        for pattern in (r"03_01_\d\d", rf"03_01_\d\dx{speed:g}")
    ]
    assert lengths[1] == pytest.approx(lengths[0] / speed, abs=1.5)
    one, other = (features_to_joints(clip.features)[:, 0] for clip in (plain, played))
    walked = [np.diff(joints[:, 2]).mean() for joints in (one, other)]
    assert walked[1] / walked[0] == pytest.approx(speed, rel=0.01)
    rise = [np.diff(joints[5:-5, 1], 2).std() for joints in (one, other)]
    # Second differences of a sine of f Hz at 20 Hz: 2 (1 - cos(2 pi f / 20)), about f squared.
    exact = (1 - np.cos(2 * np.pi * speed / 20)) / (1 - np.cos(2 * np.pi / 20))
    assert exact == pytest.approx(speed**2, rel=0.03)
    assert rise[1] / rise[0] == pytest.approx(exact, rel=0.03)


def test_what_is_left_out_is_listed(tmp_path):
    trials = {
        "03_01": bvh_text(400),
        "03_02": bvh_text(400),
        "03_03": bvh_text(400, seed=3)[:-2000],
        "03_04": bvh_text(400, seed=4),
        "03_05": bvh_text(400, seed=5).replace("neck", "throat"),
    }
    spam = {"trial": "03_01", "start_s": 0, "end_s": 9, "text": "buy at http://example.org"}
    descriptions = dict.fromkeys(trials, "walk") | {"03_04": "unknown"}
    corpus = build(database(tmp_path, trials, descriptions, [spam]))
    assert [clip.name for clip in corpus.clips] == ["03_01_00", "M03_01_00"]
    reasons = {s.name: s.reason for s in corpus.skipped}
    assert "link" in reasons["KIT-ML sentence on 03_01"]
    assert not any("example.org" in reason for reason in reasons.values())
    assert "same recording as 03_01" in reasons["03_02"]
    assert "03_03.bvh" in reasons["03_03 (bvh)"] and "line" in reasons["03_03 (bvh)"]
    assert "nothing tells its motion" in reasons["03_04"]
    assert "'neck'" in reasons["03_05 (bvh)"]
    assert len(corpus.census) == 5 and corpus.census["clips"].tolist() == [1, 0, 0, 0, 0]


def test_unpacked_folders_are_read_like_archives(tmp_path):
    root = database(tmp_path, {"03_01": bvh_text(400)}, {"03_01": "walk"})
    zipped = build(root)
    archive = root / "cmu" / "bvh.zip"
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(root / "cmu")
    both = build(root)
    assert "already read from" in both.skipped[0].reason
    archive.unlink()
    unpacked = build(root / "cmu")
    for corpus in (both, unpacked):
        np.testing.assert_array_equal(corpus.clips[0].features, zipped.clips[0].features)


def test_faults_of_the_folder_are_named(tmp_path):
    with pytest.raises(InputError, match="no motion capture file"):
        build(tmp_path)
    root = database(tmp_path, {"03_01": bvh_text(100)}, {"03_01": "walk"})
    with pytest.raises(InputError, match="no usable clip in 1 trials.*nothing long enough"):
        build(root)
    with pytest.raises(InputError, match="found 99_01"):
        build(root, trials=["99_01"])
    (root / "cmu" / "descriptions.csv").write_text("number,text\n1,walk\n")
    with pytest.raises(InputError, match="columns trial, description"):
        build(root)
    (root / "cmu" / "descriptions.csv").unlink()
    with pytest.raises(InputError, match=r"descriptions\.csv"):
        build(root)
    archive = root / "cmu" / "bvh.zip"
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(InputError, match=r"bvh\.zip.*no zip archive"):
        build(root)


def test_a_damaged_table_of_sentences_is_named(tmp_path):
    root = database(tmp_path, {"03_01": bvh_text(400)}, {"03_01": "walk"}, [{"trial": "03_01"}])
    with pytest.raises(InputError, match=r"kitml_sentences\.json.*'text'"):
        build(root)
    (root / "cmu" / "kitml_sentences.json").unlink()
    assert "descriptions alone" in build(root).skipped[0].reason


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

TRIALS = (
    "02_05 05_03 05_04 05_05 05_08 06_01 07_12 08_01 08_03 09_01 09_03 09_10 10_04 13_07 13_35 "
    "13_36 14_31 14_36 16_15 35_01"
).split()


@pytest.fixture(scope="module")
def folder(real_data):
    if not (real_data / "cmu").is_dir():
        pytest.skip(f"{real_data / 'cmu'} is absent")
    return real_data / "cmu"


@pytest.fixture(scope="module")
def real(folder):
    return build(folder, trials=TRIALS)


@pytest.fixture(scope="module")
def sources(folder):
    return find_sources(folder)


def source_of(corpus):
    return {clip.name: clip.source for clip in corpus.clips}


def test_real_splits_are_disjoint(real):
    source = source_of(real)
    trials = {split: {source[name] for name in names} for split, names in real.splits.items()}
    assert sorted(name for names in real.splits.values() for name in names) == sorted(source)
    for split, members in trials.items():
        for other, others in trials.items():
            assert split == other or not members & others
    subjects = {split: {trial[:2] for trial in members} for split, members in trials.items()}
    assert not subjects["train"] & (subjects["test"] | subjects["val"])
    assert subjects["test_trials"] <= subjects["train"]
    assert subjects["test"] <= set(TEST_SUBJECTS) and subjects["val"] <= set(VAL_SUBJECTS)
    # Running and dance exist for one subject each: both must be trained on and tested.
    for subject in ("05", "09"):
        assert subject in subjects["train"] & subjects["test_trials"]
    mirrors = {name for names in real.splits.values() for name in names if name[0] == "M"}
    assert mirrors == {f"M{n}" for n in real.splits["train"] if n[0] != "M"}


def test_real_census_accounts_for_every_frame(real):
    table = real.census.set_index("trial")
    assert sorted(table.index) == sorted(TRIALS)
    dropped = table.filter(like="dropped").sum(axis=1)
    kept = table["frames"] - dropped
    # Each segment gives one row of features less than its length at 20 Hz, rounded up.
    assert ((kept / 120 - table["seconds"]).abs() <= 0.06 * table["clips"].clip(1)).all()
    bvh = table[table["form"] == "bvh"]
    assert (bvh["dropped: T-pose"] == 1).all() and (bvh["dropped: lead-in"] == 7).all()
    assert set(table.loc[["06_01", "08_01", "35_01"], "form"]) == {"amc"}


def test_real_faults_are_cut_or_left_out(real, sources):
    reasons = {s.name: s.reason for s in real.skipped}
    assert "same recording as 14_31" in reasons["14_36"]
    assert "long enough" in reasons["09_10"]
    assert "link" in reasons["KIT-ML sentence on 13_07"]
    captions = {clip.source: clip.captions for clip in real.clips}
    assert captions["13_07"] == [sentence(c := captions["13_07"][1]), c]
    # The dancer's right leg jumps by up to 0.7 m a frame between 2.6 and 7.2 s.
    raw = read_trial(sources, "05_05", "bvh").joints
    assert np.linalg.norm(np.diff(raw[6:], axis=0), axis=-1).max() > 0.5
    assert real.census.set_index("trial").loc["05_05", "dropped: glitch"] > 100
    for clip in real.clips:
        steps = np.linalg.norm(np.diff(features_to_joints(clip.features), axis=0), axis=-1)
        assert steps.max() * 20 < GLITCH_SPEED


def test_real_clips_are_upright_bodies_of_one_size_on_the_floor(real):
    lengths = np.linalg.norm(TARGET_OFFSETS, axis=1)
    for clip in real.clips:
        joints = features_to_joints(clip.features)
        assert len(joints) <= MAX_FRAMES and len(joints) >= (20 if clip.subject == "09" else 40)
        assert np.abs(bone_lengths(joints) - lengths).max() < 2e-3
        assert joints[..., 1].min() > -1e-3
        if clip.source not in ("13_35", "13_36", "14_31"):  # stairs; a stool
            assert joints[:, FEET, 1].min() < 0.06
            assert 0.75 < np.median(joints[:, 0, 1]) < 1.05
            assert 1.3 < np.median(joints[:, 15, 1]) < 1.75
    walks = [c for c in real.clips if c.captions[1] in ("walk", "run") and c.name[0] != "M"]
    for clip in walks:
        path = features_to_joints(clip.features)[:, 0]
        ahead, aside = path[-1, 2] - path[0, 2], path[-1, 0] - path[0, 0]
        # A second of running holds half a stride, so the smoothed heading is off by up to 25 deg.
        assert ahead > 2.0 and abs(aside) < 0.5 * ahead
    speed = {
        c.source: np.linalg.norm(np.diff(features_to_joints(c.features)[:, 0], axis=0), axis=-1)
        * 20
        for c in walks
    }
    assert 2.7 < speed["09_01"].mean() < 4.5 and 0.8 < speed["35_01"].mean() < 1.7


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


def test_real_blends_out_of_a_t_pose_are_cut(sources):
    # Accelerations of the first frames that are kept and of the half second after them; two frames
    # sooner they have a ratio of 2.7.
    ratios = []
    # Of the others the first frames are jumps.
    for trial in (
        t for t in TRIALS if "bvh" in sources.trials[t] and t not in ("05_05", "05_08", "09_10")
    ):
        joints = read_trial(sources, trial, "bvh").joints
        (start, _), *_ = clean(joints, 120.0, 0.5).segments
        second = np.linalg.norm(np.diff(joints[start : start + 62], n=2, axis=0), axis=-1).mean(1)
        ratios.append(second[:2].mean() / np.median(second[2:]))
    assert np.median(ratios) < 1.5


def test_real_texts(folder):
    texts = read_texts(folder)
    assert len(texts.descriptions) > 2000
    told = sum(map(len, texts.sentences.values()))
    assert told + len(texts.rejected) == len(
        json.loads((folder / "kitml_sentences.json").read_text())
    )
    assert len(texts.rejected) < 10


# Captions: descriptions become sentences, and comment spam is found.


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("walk", "a person walks."),
        ("Slow walk", "a person walks slowly."),
        ("run/jog, veer left", "a person runs or jogs and veers left."),
        ("walking up stairs", "a person walks up stairs."),
        ("sit on stool, stand up, carry box", "a person sits on stool, stands up and carries box."),
        ("catch and throw", "a person catches and throws."),
        ("putting on a hat", "a person puts on a hat."),
        ("dance - small jetes, turn", "a person dances: small jetes, turn."),
        ("soccer - kick ball", "a person plays soccer: kick ball."),
        ("jumping jacks, jog", "a person performs jumping jacks, jog."),
        ("sit on stool, chin in hand", "a person sits on stool: chin in hand."),
        ("ZombieWalk", "a person performs zombie walk."),
        ("shake hands (2 subjects - subject A)", "a person shakes hands."),
        ("swordplay", "a person performs swordplay."),
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
        "see www.example now",
        "the best shoes on example.com",
        "write to me@example.net",
        "The person first",
        "word",
        "word " * 100,
    ],
)
def test_spam_is_told(text):
    assert why_spam(text)


@pytest.mark.parametrize(
    "text",
    [
        "A human runs.",
        "running to the front",
        "A person steps with the right foot first",
        "He walks",
    ],
)
def test_sentences_are_kept(text):
    assert why_spam(text) is None
