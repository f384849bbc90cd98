"""The corpus on disk, its faults, its statistics, its mirror."""

import numpy as np
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import (
    MotionClip,
    mirror_caption,
    read_corpus,
    read_split,
    read_statistics,
    statistics,
    write_corpus,
)
from t2imu_utils.motion.features import features_to_joints

SPLITS = {"train": ["a", "b"], "val": [], "test": ["c"], "test_trials": ["d"]}


def noise(frames: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, 263)).astype(np.float32)


def clips() -> list[MotionClip]:
    return [
        MotionClip(name, noise(60 + 10 * k, k), [f"A person walks {k} steps.", "Él corre."], "07")
        for k, name in enumerate("abcd")
    ]


@pytest.fixture
def corpus(tmp_path):
    write_corpus(tmp_path / "corpus", clips(), SPLITS)
    return tmp_path / "corpus"


def test_what_is_written_is_read_back(corpus):
    for split, names in SPLITS.items():
        read = read_corpus(corpus, split)
        assert [clip.name for clip in read] == names == read_split(corpus, split)
    assert read_split(corpus, "all") == list("abcd")
    original = clips()[2]
    (read,) = read_corpus(corpus, "test")
    np.testing.assert_array_equal(read.features, original.features)
    assert read.captions == original.captions
    assert (read.subject, read.activity, read.source) == ("07", "", "")
    mean, std = statistics([clip.features for clip in clips()[:2]])
    np.testing.assert_array_equal(read_statistics(corpus).mean, mean)
    np.testing.assert_array_equal(read_statistics(corpus).std, std)
    joints = np.load(corpus / "new_joints" / "c.npy")
    np.testing.assert_array_equal(joints, features_to_joints(original.features))
    line = (corpus / "texts" / "a.txt").read_text(encoding="utf-8").splitlines()[0]
    assert (
        line
        == "A person walks 0 steps.#a/OTHER person/OTHER walks/OTHER 0/OTHER steps/OTHER#0.0#0.0"
    )


def test_writing_again_replaces_and_failing_keeps(corpus, monkeypatch):
    write_corpus(corpus, clips()[:2], {"train": ["a", "b"]})
    assert sorted(p.name for p in (corpus / "texts").iterdir()) == ["a.txt", "b.txt"]
    monkeypatch.setattr(np, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_corpus(corpus, clips(), SPLITS)
    monkeypatch.undo()
    assert [clip.name for clip in read_corpus(corpus, "train")] == ["a", "b"]
    assert [p.name for p in corpus.parent.iterdir()] == ["corpus"]


def test_other_folders_are_not_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="other content"):
        write_corpus(tmp_path, clips(), SPLITS)
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("splits", "word"),
    [
        ({"train": ["a", "a"]}, "train: found a twin"),
        ({"val": ["x"]}, "val: found x"),
        ({"test": ["a"]}, "test: found a"),
        ({"test_trials": ["b"]}, "test_trials: found b"),
    ],
)
def test_splits_that_leak_or_name_no_clip_are_not_written(tmp_path, splits, word):
    with pytest.raises(InputError, match=word):
        write_corpus(tmp_path / "corpus", clips(), SPLITS | splits)
    assert not list(tmp_path.iterdir())


def damage(path, kind):
    if isinstance(kind, np.ndarray):
        np.save(path, kind)
    elif kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(kind)


FAULTS = [
    ("new_joint_vecs/b.npy", "missing", "no file"),
    ("new_joint_vecs/b.npy", "truncated", "no readable array"),
    ("new_joint_vecs/b.npy", np.array([{}], dtype=object), "no readable array"),
    ("new_joint_vecs/b.npy", np.zeros((50, 251), np.float32), "251"),
    ("new_joint_vecs/b.npy", np.zeros((2, 263), np.float32), "2 frame"),
    ("new_joint_vecs/b.npy", np.full((9, 263), np.inf, np.float32), "NaN or infinity"),
    ("texts/b.txt", "missing", "no file"),
    ("texts/b.txt", "empty", "no usable sentence"),
    ("texts/b.txt", b"caf\xe9#a/X#0.0#0.0\n", "byte 3 that is no UTF-8"),
    ("texts/b.txt", b"a man walks\n", "line 1"),
    ("texts/b.txt", b"a man#a/X#0.0#soon\n", "line 1"),
    ("texts/b.txt", b"a man#a/X#2.0#1.0\n", "line 1: times"),
    ("texts/b.txt", b"a man#a/X#9.0#10.0\n", "line 1: times"),
]


@pytest.mark.parametrize(("file", "kind", "word"), FAULTS)
def test_faults_name_the_file_and_can_be_listed(corpus, file, kind, word):
    damage(corpus / file, kind)
    with pytest.raises(InputError, match=word) as caught:
        read_corpus(corpus, "train")
    assert str(corpus / file) in str(caught.value)
    skipped = []
    assert [clip.name for clip in read_corpus(corpus, "train", skipped)] == ["a"]
    assert file in skipped[0].name and word.split(": ")[-1] in skipped[0].name + skipped[0].reason


def test_faults_of_the_whole_corpus(corpus, tmp_path):
    with pytest.raises(InputError, match="train"):
        read_corpus(corpus, "dev")
    with pytest.raises(InputError, match="no split"):
        read_corpus(tmp_path / "nowhere", "train")
    (corpus / "train.txt").write_text("a\na\n")
    with pytest.raises(InputError, match="a twice"):
        read_corpus(corpus, "train")
    np.save(corpus / "Std.npy", np.ones(251))
    with pytest.raises(InputError, match="251"):
        read_statistics(corpus)
    (corpus / "clips.csv").write_text("name,subject\na,1\n")
    with pytest.raises(InputError, match="clips.csv"):
        read_corpus(corpus, "test")


def test_times_cut_clips_of_their_own(corpus):
    (corpus / "texts" / "b.txt").write_text(
        "walks#walks/VERB#0.0#0.0\nturns#turns/VERB#0.5#1.59\n\n"
        "spins#spins/VERB#0.5#1.59\nsits#sits/VERB#3.0#60.0\nall#all/X#nan#nan\n"
    )
    whole, turn, sit = read_corpus(corpus, "train")[1:]
    b = clips()[1].features
    assert (whole.name, whole.captions) == ("b", ["walks", "all"])
    assert (turn.name, turn.captions, turn.subject) == ("b_10_31", ["turns", "spins"], "07")
    np.testing.assert_array_equal(turn.features, b[10:31])
    assert sit.name == "b_60_70"
    np.testing.assert_array_equal(sit.features, b[60:])


@pytest.mark.parametrize("sign", ["\u2028", "\x85", "\x0b", "\x0c"])
def test_only_a_line_feed_ends_a_line(corpus, sign):
    for split, name in (("train", "a"), ("test", "c")):
        (corpus / f"{split}.txt").write_text(f"\ufeff{name}\r\n", encoding="utf-8")
    text = f"\ufeffturns{sign}left#a/X#0.0#0.0\r\nruns#b/X#0.0#0.0\n"
    (corpus / "texts" / "a.txt").write_text(text, encoding="utf-8")
    (clip,) = read_corpus(corpus, "train")
    assert clip.captions == [f"turns{sign}left", "runs"]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Left, then RIGHT; left-handed.", "Right, then LEFT; right-handed."),
        ("stands upright on his leftmost foot", "stands upright on his rightmost foot"),
        ("Clockwise, then counter-clockwise", "Counterclockwise, then clockwise"),
        ("turns anticlockwise", "turns clockwise"),
        ("walks on", "walks on"),
    ],
)
def test_mirrored_captions(caption, expected):
    assert mirror_caption(caption) == expected
