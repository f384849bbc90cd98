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
from t2imu_utils.models.prompts import key_of
from t2imu_utils.motion import quality
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


@pytest.fixture(scope="module")
def gaits():
    """The prior makes gaits, and nobody jumps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "MDMGenerator", lambda solver: Gaits(("jumping",)))
        patch.setattr(demo, "load_prior", lambda path: None)
        yield


def test_no_sentence_stands_twice_nor_among_the_prompts_of_the_study():
    own = leaves(PROMPTS["demo"])
    assert len(own) == len(set(own))
    assert not set(own) & set(leaves(PROMPTS["activities"]) + leaves(PROMPTS["held_out"]))
    assert set(PROMPTS["demo"]["recordings"]) == set(ACTIVITIES)
    for split in demo.SPLITS:
        assert set(PROMPTS["demo"][split]) == {*ACTIVITIES, "dancing"}


@pytest.fixture
def few(gaits, tmp_path, monkeypatch):
    """The sentences of two activities alone."""
    kept = {
        split: {a: PROMPTS["demo"][split][a] for a in ("walking", "jumping")}
        for split in demo.SPLITS
    }
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(kept))
    monkeypatch.setattr(demo, "SENTENCES", tmp_path / "few.yaml")
    return kept


def test_corpus_has_what_shows_its_activity_by_split(few):
    clips, splits, skipped = demo.build_corpus(seed=0, takes=1)
    for split, names in splits.items():
        captions = [tuple(clip.captions) for clip in clips if clip.name in names]
        assert captions == [tuple(pair) for pair in few[split]["walking"]]
    assert len(skipped) == sum(len(few[split]["jumping"]) for split in few)
    assert all("does not show jumping" in s.reason for s in skipped)
    again, other = (demo.build_corpus(seed, 1)[0] for seed in (0, 1))
    for one, two in zip(clips, again, strict=True):
        np.testing.assert_array_equal(one.features, two.features)
    assert [len(c.features) for c in clips] != [len(c.features) for c in other]


CLASSES = ("walking", "lying", "jumping", "standing")


@pytest.fixture(scope="module")
def archive(gaits, tmp_path_factory):
    return demo.write_recordings(tmp_path_factory.mktemp("archive"), 0, 2, CLASSES)


@pytest.fixture(scope="module")
def read(archive):
    return read_realworld(archive[0])


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


def test_reader_finds_the_motions_between_what_it_cuts(read):
    clips, skipped = read
    table = clips.table
    assert table.groupby(["subject", "activity"]).size().eq(3).all() and len(table) == 18
    seconds = table["frames"] / clips.meta["rate"]
    assert seconds.between(demo.BOUT[0] - 0.5, demo.BOUT[1] + 1.5).all()
    bare = [np.isnan(acc).all((0, 2)) for acc in clips.each("acc")]
    told = [s.name for s in skipped if "forearm" in s.name]
    assert np.sum(bare) == 1 and told == ["proband2 walking session 2 forearm"]


def test_signals_are_those_of_the_motions(read):
    """Gravity where nobody moves, up the bones of who stands and across those of who lies."""
    clips, _ = read
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
        demo.write_recordings(tmp_path / name, seed, 1, ("walking",))[0]
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
