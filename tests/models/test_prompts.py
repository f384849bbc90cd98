"""Prompts: the shipped ones, what is asked for, and a language model's, of a small server."""

import json
import traceback
from types import SimpleNamespace

import pytest
import yaml

from t2imu_utils.activities import ACTIVITIES
from t2imu_utils.errors import InputError
from t2imu_utils.models.prompts import (
    EXAMPLES,
    draw_requests,
    load_prompts,
    parse_answer,
    write_prompts,
)
from t2imu_utils.tracks import PROMPTS

URL, KEY = "http://127.0.0.1:9/v1", "sk-proj-9f8e7d6c5b4a"


def test_shipped_prompts_hold_the_papers_examples():
    prompts = load_prompts()
    assert tuple(prompts) == ACTIVITIES and set(EXAMPLES[:2]) <= set(prompts["walking"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("lying"), "activities"),
        (lambda p: p["lying"].pop(), "10 sentences or more"),
        (lambda p: p["lying"].append("The person lies."), "3 words"),
        (lambda p: p["lying"].append(p["sitting"][0].upper().rstrip(".")), "twice"),
        (lambda p: p["lying"].append("The person lies on bed #2."), "the sign '#'"),
        (lambda p: p["lying"].append(3), "no sentence"),
        (lambda p: p.update(lying="lying"), "lying"),
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
    assert all_of_them["frames"].between(80, 120).all() and all_of_them["seed"].is_unique


# ---------------------------------------------------------------- a language model
@pytest.fixture
def server(monkeypatch):
    """A language model that gives the replies it was told, in order, and remembers what it was
    asked; in place of the client of the protocol."""
    told = SimpleNamespace(replies=[], asked=[], keys=[], seeds=[])

    def create(model, messages, seed):
        told.asked.append(messages[0]["content"])
        told.seeds.append(seed)
        reply = told.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        choice = SimpleNamespace(message=SimpleNamespace(content=reply))
        return SimpleNamespace(model="tiny-7b-0612", choices=[choice])

    def client(api_key, **_):
        told.keys.append(api_key)
        return SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("openai.OpenAI", client)
    return told


def sentences(activity, count, first=0):
    return [f"The person is {activity} in manner {i}." for i in range(first, first + count)]


def as_json(lines):
    return json.dumps({"prompts": lines})


def walk(server, out, count=3, **changes):
    values = {"activities": ["walking"], "per_activity": count}
    return write_prompts(URL, "tiny", out, **values | changes)["walking"]


@pytest.mark.parametrize(
    "answer",
    [
        'Sure!\n```json\n{"prompts": ["The person walks.",\n "The person runs."]}\n```\nEnjoy.',
        '```\n["The person walks.", "The person runs."]\n```',
        "Here you go:\n1. The person walks.\n2. The person runs.\n\nAnything else?",
        "- The person walks.\r\n* **The person runs.**\r\n",
        "<think>\n1. A draft?\n</think>\n1. The person walks.\n2. The person runs.",
    ],
)
def test_answers_are_read_in_any_of_these_shapes(answer):
    assert parse_answer(answer) == ["The person walks.", "The person runs."]
    assert parse_answer("I cannot do that.") == parse_answer("[" * 99999) == []


def test_every_activity_is_asked_for_ten_and_replayed(server, tmp_path):
    for activity in ACTIVITIES:
        server.replies.extend([as_json(sentences(activity, 10))])
    out = tmp_path / "transcript.json"
    prompts = write_prompts(URL, "tiny", out, seed=5)
    assert prompts == {activity: sentences(activity, 10) for activity in ACTIVITIES}
    assert server.seeds[0] == 5
    record = json.loads(out.read_text())
    assert record["exchanges"][0]["model"] == "tiny-7b-0612"
    # Neither needs the server again.
    assert load_prompts(out) == prompts == write_prompts(URL, "tiny", out, seed=5)
    with pytest.raises(InputError, match="begun with"):
        write_prompts(URL, "other", out, seed=5)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("The person walks.", "3 words in 'The person walks.'"),
        ("The person walks to gate #7 slowly.", "the sign '#'"),
        ("Walking slowly along a street.", "does not start with 'The person'"),
        ("The person is walking in manner 1", "stands already under walking"),
        (EXAMPLES[1], "is one of the examples"),
    ],
)
def test_bad_sentence_is_told_and_only_what_lacks_is_asked_again(server, tmp_path, bad, said):
    server.replies.extend(
        [as_json([*sentences("walking", 2), bad]), as_json(sentences("walking", 1, 7))]
    )
    found = walk(server, tmp_path / "t.json")
    assert found == [*sentences("walking", 2), *sentences("walking", 1, 7)]
    assert said in server.asked[-1] and "Write 1 different" in server.asked[-1]


def test_an_interrupted_generation_goes_on(server, tmp_path):
    out = tmp_path / "t.json"
    server.replies.extend([as_json(sentences("walking", 2)), "I would rather sing."])
    with pytest.raises(InputError, match="2 usable prompts after 2 answers.*no list of sentences"):
        walk(server, out, attempts=2)
    server.replies.extend([as_json(sentences("walking", 1, 2))])
    assert walk(server, out) == sentences("walking", 3)


def test_a_key_is_neither_shown_nor_stored(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.replies.append(ValueError(f"Incorrect API key provided: {KEY}"))
    with pytest.raises(InputError, match="ValueError.*OPENAI_API_KEY") as error:
        walk(server, tmp_path / "t.json")
    assert KEY not in "".join(traceback.format_exception(error.value))
    server.replies.extend([f"Your key is {KEY}.", as_json(sentences("walking", 3))])
    walk(server, tmp_path / "t.json")
    assert server.keys == [KEY, KEY]
    assert KEY not in (tmp_path / "t.json").read_text()


@pytest.mark.parametrize(
    "address", ["localhost", "ftp://x/v1", "http://me:secret@x/v1", "http://x/v1?k=1"]
)
def test_addresses_without_secrets_only(tmp_path, address):
    with pytest.raises(InputError, match="base_url") as error:
        write_prompts(address, "tiny", tmp_path / "t.json")
    assert "secret" not in str(error.value)
