"""Prompts: the shipped file is what the paper describes, and a bad one is told where it is bad."""

import pytest
import yaml

from t2imu_utils.activities import ACTIVITIES
from t2imu_utils.errors import InputError
from t2imu_utils.priors.prompts import draw_requests, load_prompts
from t2imu_utils.tracks import PROMPTS


def test_shipped_prompts_hold_the_papers_examples():
    prompts = load_prompts()
    assert tuple(prompts) == ACTIVITIES
    assert all(len(sentences) >= 10 for sentences in prompts.values())
    assert {
        "The person is walking on a track, following the oval path.",
        "The person is walking slowly with multiple strides.",
    } <= set(prompts["walking"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("lying"), "activities"),
        (lambda p: p["lying"].pop(), "lying: found 9 prompts"),
        (lambda p: p["lying"].append("The person lies."), "3 words"),
        (lambda p: p["lying"].append(" ".join(["very"] * 300)), "300 words"),
        (lambda p: p["lying"].append(p["sitting"][0]), "twice"),
        (lambda p: p["lying"].append(p["sitting"][0].upper().rstrip(".")), "twice"),
        (lambda p: p["lying"].append(""), "0 words"),
        (lambda p: p["lying"].append("The person lies on bed #2."), "the sign '#'"),
        (lambda p: p["lying"].append("The person lies\non a bed."), r"the sign '.n'"),
        (lambda p: p["lying"].append("The person lies on a café's floor."), "the sign 'é'"),
        (lambda p: p.update(lying="lying"), "no list"),
    ],
)
def test_bad_prompts_are_named(tmp_path, change, message):
    prompts = yaml.safe_load(PROMPTS.read_text())
    change(prompts)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(prompts))
    with pytest.raises(InputError, match=message) as error:
        load_prompts(path)
    assert "mine.yaml" in str(error.value)


def test_requests_do_not_depend_on_one_another():
    prompts = load_prompts()
    all_of_them = draw_requests(prompts, 2, (4.0, 6.0), 20.0)
    only_walking = draw_requests({"walking": prompts["walking"][3:]}, 2, (4.0, 6.0), 20.0)
    merged = only_walking.merge(all_of_them)
    assert len(all_of_them) == 160 and len(merged) == len(only_walking) == 14
    assert all_of_them["frames"].between(80, 120).all()
    assert all_of_them["seed"].is_unique
