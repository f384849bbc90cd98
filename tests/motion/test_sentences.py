"""Sentences: true for a content, different, styled in half of the cases, never an evaluation."""

import csv
import re
import zipfile
from dataclasses import replace
from itertools import product

import numpy as np
import yaml

from t2imu_utils.activities import ACTIVITIES
from t2imu_utils.motion import sentences as module
from t2imu_utils.motion.sentences import OTHER_ACTIVITIES, activity_of, allowed, cmu_sentences
from t2imu_utils.motion.takes import Take

TEMPLATES = yaml.safe_load((module.PROMPTS / "templates.yaml").read_text())
HELD_OUT = yaml.safe_load((module.PROMPTS / "held_out.yaml").read_text())
CONTENTS = sorted(
    {
        content.replace("<side>", side).replace("<posture>", posture)
        for content in TEMPLATES["contents"]
        for side, posture in [("left", "back"), ("right", "front")]
    }
)


def _take(content, style="normal", speed=1.0, **changes):
    joints = np.zeros((60, 22, 3))
    joints[..., 2] = speed / 20 * np.arange(60)[:, None]
    take = Take("bandai", "", "", f"{content}_{style}_001", content, style, joints, 20.0)
    return replace(take, **changes)


def test_eight_different_sentences_of_at_most_fourteen_words_for_every_content_and_style():
    for content, style, speed in product(CONTENTS, TEMPLATES["styles"], (0.3, 1.0, 4.0)):
        texts = module.sentences(_take(content, style, speed))
        assert len({text.rstrip(".") for text in texts}) >= 8, (content, style)
        assert all(2 <= len(text.split()) <= 14 for text in texts), (content, style)
        assert not any(mark in text for text in texts for mark in "{}|<>"), texts


def test_half_of_the_sentences_name_a_style():
    plain = set(map(module._predicate, module.sentences(_take("walk"), count=10_000)))
    for style in ("sad", "giant"):  # by a manner alone; by a subject as well
        texts = module.sentences(_take("walk", style), count=40)
        named = sum(module._predicate(text) not in plain or "giant" in text for text in texts)
        assert 15 <= named <= 25


def test_pace_is_measured():
    said = [" ".join(module.sentences(_take("walk", speed=s), count=300)) for s in (0.5, 1.1, 1.8)]
    assert ["slow" in text for text in said] == [True, False, False]
    assert ["quick" in text for text in said] == [False, False, True]


def test_the_side_is_that_of_the_motion():
    take = _take("wave-left-hand", made="mirrored")
    assert all("right" in text for text in module.sentences(take))
    turn = _take("walk-turn-right")
    angle = np.linspace(0, np.pi / 2, 60)  # to the left, whatever the name says
    turn.joints[:, 1] += np.stack([np.cos(angle), 0 * angle, -np.sin(angle)], axis=1)
    assert all("left" in text for text in module.sentences(turn))


def test_no_evaluation_prompt_is_ever_said():
    for content in CONTENTS:
        for speed in (0.3, 1.0, 4.0):
            texts = module.sentences(_take(content, speed=speed), count=10_000)
            assert not {module._predicate(text) for text in texts} & module._reserved()


def test_held_out_prompts_are_new_and_as_many_as_promised():
    lists = {part: HELD_OUT[part] for part in ("test", "validation")}
    assert {part: {a: len(p) for a, p in of.items()} for part, of in lists.items()} == {
        "test": dict.fromkeys(ACTIVITIES, 10),
        "validation": dict.fromkeys(ACTIVITIES, 5),
    }
    activities = yaml.safe_load((module.PROMPTS / "activities.yaml").read_text())
    prompts = [p for of in (*lists.values(), activities) for texts in of.values() for p in texts]
    assert len({p.lower().rstrip(".") for p in prompts}) == len(prompts)


def test_every_activity_is_known_and_all_eight_have_a_content():
    activities = {activity_of(_take(content)) for content in CONTENTS}
    assert set(ACTIVITIES) <= activities <= {*ACTIVITIES, *OTHER_ACTIVITIES}
    assert activity_of(_take("walk-turn-left")) == "walking"


def test_descriptions_of_the_cmu_database():
    for text in cmu_sentences("13_13", "forward jump"):
        assert any(
            word in text for word in ("forward", "ahead", "long jump", "far", "over", "across")
        )
    assert cmu_sentences("85_05", "HandStandKicks") == ()
    take = _take("Run Turn Left", source="cmu", trial="127_15")
    assert activity_of(take) == "running"
    assert all("right" in text for text in module.sentences(replace(take, made="mirrored")))


def test_climbing_is_kept_for_stairs():
    assert not allowed("01_02", "a person plays on a playground: climb.")
    assert allowed("01_02", "a person plays on a playground")
    assert not allowed("13_33", "a person climbs a ladder.")
    assert allowed("13_33", "a person goes up a ladder.")
    assert allowed("13_35", "a person climbs 3 steps.")
    assert not allowed("13_35", "A human " + HELD_OUT["test"]["climbing up"][0][9:])
    assert cmu_sentences("01_02", "playground - climb")
    take = _take("climb 3 steps", source="cmu", trial="13_35")
    assert activity_of(take) == "other"  # up, and down again
    take.joints[..., 1] = np.linspace(0, -0.5, 60)[:, None]
    assert activity_of(take) == "climbing down"


def test_every_content_and_description_at_hand_has_a_grammar(real_data):
    archive = zipfile.ZipFile(next(real_data.glob("bandai/*.zip")))
    names = [re.search(r"dataset-\d_(.+)_([a-z-]+)_\d+\.bvh", n) for n in archive.namelist()]
    named = {name.groups() for name in names if name}
    assert len(named) > 100
    assert all(len(module.sentences(_take(*what))) >= 8 for what in named)
    assert {style for _, style in named} <= {*TEMPLATES["styles"], "normal"}
    told = dict(csv.reader((real_data / "cmu" / "descriptions.csv").open()))
    archive = zipfile.ZipFile(real_data / "deepmimic" / "cmu_deepmimic.zip")
    trials = re.findall(r"(\d+_\d+)\.txt", " ".join(archive.namelist()))
    silent = [trial for trial in trials if len(cmu_sentences(trial, told[trial])) < 8]
    assert len(silent) < len(trials) / 10, silent


def test_the_sentences_of_the_grammars_show_every_activity_and_are_no_evaluation_prompts():
    found = module.grammar_sentences(8)
    assert set(ACTIVITIES) | {"sit down", "get up"} <= {activity for activity, _ in found}
    assert len(set(found)) == len(found)
    prompts = {text.rstrip(".").lower() for each in HELD_OUT["test"].values() for text in each}
    assert not prompts & {sentence.rstrip(".") for _, sentence in found}
