"""The demo's data: what is asked for, what is kept, how phones and archives are made of it.

Sampling takes a minute, so all but the last test put closed-form gaits in its place.
"""

import io
import re
import zipfile

import numpy as np
import pandas as pd
import pytest
import yaml

from t2imu_utils import demo
from t2imu_utils.activities import ACTIVITIES, POSITIONS
from t2imu_utils.models.prompts import draw_requests, key_of
from t2imu_utils.motion import quality
from t2imu_utils.motion.corpus import read_corpus, write_corpus
from t2imu_utils.motion.features import process_joints
from t2imu_utils.recordings.realworld import read_realworld
from tests.gait import Gaits

PROMPTS = {
    name: yaml.safe_load((demo.ROOT / f"data/prompts/{name}.yaml").read_text())
    for name in ("demo", "activities", "held_out")
}


def leaves(tree) -> list[str]:
    if isinstance(tree, str):
        return [key_of(tree)]
    return [leaf for branch in (tree.values() if isinstance(tree, dict) else tree)
            for leaf in leaves(branch)]  # fmt: skip


@pytest.fixture
def gaits(monkeypatch):
    """The prior makes gaits, and nobody jumps."""
    monkeypatch.setattr(demo, "MDMGenerator", lambda solver: Gaits(("jumping",)))
    monkeypatch.setattr(demo, "load_prior", lambda path: None)


def test_no_sentence_stands_twice_nor_among_the_prompts_of_the_study():
    own = leaves(PROMPTS["demo"])
    assert len(own) == len(set(own))
    assert not set(own) & set(leaves(PROMPTS["activities"]) + leaves(PROMPTS["held_out"]))
    assert set(PROMPTS["demo"]["recordings"]) == set(ACTIVITIES)
    for split in demo.SPLITS:
        assert set(PROMPTS["demo"][split]) == {*ACTIVITIES, "dancing"}


def test_corpus_has_what_shows_its_activity_by_split(gaits, tmp_path):
    clips, splits, skipped = demo.build_corpus(seed=0, takes=1)
    sentences = sum(len(PROMPTS["demo"][s][a]) for s in demo.SPLITS for a in PROMPTS["demo"][s])
    assert len(clips) + len(skipped) == sentences
    assert {clip.activity for clip in clips} == {*ACTIVITIES, "dancing"} - {"jumping"}
    assert all("does not show jumping" in s.reason for s in skipped) and len(skipped) == 9
    by_name = {clip.name: clip for clip in clips}
    for split, names in splits.items():
        written = [pair for pairs in PROMPTS["demo"][split].values() for pair in pairs]
        assert {tuple(by_name[name].captions) for name in names} <= set(map(tuple, written))
        assert {by_name[name].activity for name in names} == {c.activity for c in clips}
    write_corpus(tmp_path / "corpus", clips, splits)
    for split, names in splits.items():
        for name, clip in zip(names, read_corpus(tmp_path / "corpus", split), strict=True):
            np.testing.assert_array_equal(clip.features, by_name[name].features)
            assert (clip.name, clip.captions) == (name, by_name[name].captions)


def test_seed_decides_lengths_and_noise(gaits):
    first, again, other = (demo.build_corpus(seed, 1)[0] for seed in (0, 0, 1))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.features, two.features)
    assert [len(c.features) for c in first] != [len(c.features) for c in other]
    corpus, recordings = (
        set(draw_requests(asked, 2, demo.BOUT, quality.RATE, seed)["seed"])
        for asked, seed in (
            ({a: [p[0] for p in two] for a, two in PROMPTS["demo"]["train"].items()}, 0),
            (PROMPTS["demo"]["recordings"], 1),
        )
    )
    assert not corpus & recordings


CLASSES = ("walking", "lying", "jumping", "standing")


@pytest.fixture
def archive(gaits, tmp_path):
    return demo.write_recordings(tmp_path, 0, 2, CLASSES)


def test_layout_is_realworlds(archive):
    root, skipped = archive
    assert root.name == "realworld2016_dataset" and len(skipped) == 6
    assert sorted(p.name for p in root.iterdir()) == ["proband1", "proband2"]
    data = root / "proband1" / "data"
    assert {p.name for p in data.iterdir()} == {
        f"{kind}_{a}_csv.zip" for kind in ("acc", "gyr") for a in ("walking", "lying", "standing")
    }
    with zipfile.ZipFile(data / "gyr_walking_csv.zip") as outer:
        names = ["gyr_walking_csv.zip", "gyr_walking_2_csv.zip", "gyr_walking_3_csv.zip"]
        assert outer.namelist() == names
        with outer.open(names[1]) as inner, zipfile.ZipFile(inner) as session:
            files = [f"Gyroscope_walking_2_{position}.csv" for position in POSITIONS]
            assert session.namelist() == [*files, "readMe"]
            content = session.read(files[0])
    assert content.startswith(b"id,attr_time,attr_x,attr_y,attr_z\n1,14")
    table = pd.read_csv(io.BytesIO(content))
    assert (np.diff(table["attr_time"]) >= 0).all()
    period = np.polyfit(np.arange(len(table)), table["attr_time"], 1)[0]
    assert period == pytest.approx(1000 * demo.PERIOD, rel=0.01)


def test_reader_finds_the_motions_between_what_it_cuts(archive):
    clips, skipped = read_realworld(archive[0], progress=False)
    table = clips.table
    assert table.groupby(["subject", "activity"]).size().eq(3).all() and len(table) == 18
    seconds = table["frames"] / clips.meta["rate"]
    assert seconds.between(demo.BOUT[0] - 0.5, demo.BOUT[1] + 1.5).all()
    bare = [np.isnan(acc).all((0, 2)) for acc in clips.each("acc")]
    told = [s.name for s in skipped if "forearm" in s.name]
    assert np.sum(bare) == 1 and told == ["proband2 walking session 2 forearm"]


def test_signals_are_those_of_the_motions(archive):
    """Gravity where nobody moves, up the bones of who stands and across those of who lies."""
    clips, _ = read_realworld(archive[0], progress=False)
    thigh = POSITIONS.index("thigh")

    def acc(activity):
        own = clips.select((clips.table["activity"] == activity).to_numpy())
        return [a[10:-10, thigh] for a in own.each("acc")]

    for still in ("standing", "lying"):
        assert all(abs(np.linalg.norm(a, axis=1).mean() - 9.81) < 1.5 for a in acc(still))
    assert min(a[:, 1].mean() for a in acc("standing")) > 8
    assert max(abs(a[:, 1].mean()) for a in acc("lying")) < 5
    quiet, busy = (np.median([a.std() for a in acc(name)]) for name in ("lying", "walking"))
    assert not np.isclose(quiet, busy)
    # Worn askew, each session by itself: the same pose has other readings.
    means = np.array([a.mean(0) for a in acc("lying")])
    assert np.abs(np.diff(means, axis=0)).max(1).min() > 0.01


def test_seed_decides_every_byte_and_writing_again_replaces(gaits, tmp_path):
    one, two, other = (
        demo.write_recordings(tmp_path / name, seed, 1, ("walking", "lying"))[0]
        for name, seed in (("one", 0), ("two", 0), ("other", 1))
    )
    for path in sorted(one.rglob("*.zip")):
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()
        assert path.read_bytes() != (other / path.relative_to(one)).read_bytes()
    again, _ = demo.write_recordings(tmp_path / "one", 0, 1, ("lying",))
    assert again == one and [p.name for p in (tmp_path / "one").iterdir()] == [one.name]
    assert not list(one.rglob("*walking*"))


def test_shipped_prior_walks_the_same_way_twice():
    """What is kept of real samples shows its activity, and comes out again to the last bit."""
    asked = {"walking": ["a person walks forward", "a person walks slowly"], "lying": []}
    (first, left), (again, _) = (demo.sample(asked, 2, (3.0, 3.5), 0) for _ in range(2))
    assert len(first) + len(left) == 4 and len(first) >= 2
    np.testing.assert_array_equal(first.arrays["joints"], again.arrays["joints"])
    for joints in first.each("joints"):
        assert quality.shows(joints, "walking") and joints[..., 1].min() == pytest.approx(0)
        np.testing.assert_allclose(process_joints(joints, convention="clean"), joints, atol=1e-5)
    assert all(re.fullmatch(r"sample \d", s.name) for s in left)
