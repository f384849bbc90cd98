"""Prompts from a language model: asked of a small server that speaks the protocol."""

import json
import logging
import socket
import sys
import threading
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep

import pytest

from t2imu_utils.activities import ACTIVITIES
from t2imu_utils.errors import InputError
from t2imu_utils.priors import chat
from t2imu_utils.priors.prompt_writer import (
    EXAMPLES,
    instructions,
    parse_answer,
    replay,
    write_prompts,
)
from t2imu_utils.priors.prompts import PER_ACTIVITY, WORDS, fault_of, load_prompts

KEY = "sk-proj-9f8e7d6c5b4a"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers, body))
        status, headers, reply, delay = self.server.replies.pop(0)
        sleep(delay)
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.encode("utf-8"))

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    """Gives the replies it was told, in order, and remembers what it was asked."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies, self.requests = [], []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *arguments):
        """A client that went away is part of some tests."""

    def will(self, status, reply, headers=None, delay=0.0):
        reply = reply if isinstance(reply, str) else json.dumps(reply)
        self.replies.append((status, headers or {}, reply, delay))

    def says(self, *answers, model="tiny-7b-0612", finish="stop", delay=0.0):
        for text in answers:
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": finish}
            self.will(200, {"model": model, "choices": [choice]}, delay=delay)

    def asked(self, i=-1):
        return self.requests[i][2]["messages"][0]["content"]


@pytest.fixture
def server(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "transcript.json"


def sentences(activity, count, first=0):
    return [f"The person is {activity} in manner {i}." for i in range(first, first + count)]


def as_json(lines):
    return json.dumps({"prompts": lines})


def walk(server, out, count=3, **changes):
    """Ask for walking only."""
    values = {"activities": ["walking"], "per_activity": count, "waits": (0.001, 0.001)}
    return write_prompts(server.url, "tiny", out, **values | changes)["walking"]


# What is asked


def test_instructions_give_structure_length_examples_and_number():
    (message,) = instructions("climbing up", 10, EXAMPLES)
    assert message["role"] == "user"  # the only role that every chat template knows
    for part in ("10", f"{WORDS[0]} to {WORDS[1]}", "present tense", "third person", "stairs",
                 '"climbing up"', "how fast", "where", '{"prompts": [', *EXAMPLES):  # fmt: skip
        assert part in message["content"]


def test_examples_are_the_papers_and_keep_the_rules():
    assert 2 <= len(EXAMPLES) <= 3 and all(fault_of(example) is None for example in EXAMPLES)
    assert set(EXAMPLES[:2]) <= set(load_prompts()["walking"])


def test_every_activity_is_asked_for_ten(server, out, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.says(*(as_json(sentences(activity, 10)) for activity in ACTIVITIES))
    prompts = write_prompts(server.url, "tiny", out, temperature=0.7, seed=5)
    assert prompts == {activity: sentences(activity, PER_ACTIVITY) for activity in ACTIVITIES}
    assert list(prompts) == list(ACTIVITIES)
    for activity, (path, headers, body) in zip(ACTIVITIES, server.requests, strict=True):
        assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
        assert (body["model"], body["temperature"], body["seed"]) == ("tiny", 0.7, 5)
        assert body["messages"] == instructions(activity, 10, EXAMPLES)
    assert load_prompts(out) == prompts


def test_sampling_may_be_left_to_the_server(server, out):
    server.says(as_json(sentences("walking", 3)))
    walk(server, out, temperature=None, seed=None)
    assert set(server.requests[0][2]) == {"model", "messages"}


# What is read


@pytest.mark.parametrize(
    "answer",
    [
        '{"prompts": ["The person walks.", "The person runs."]}',
        'Sure!\n```json\n{"prompts": ["The person walks.",\n "The person runs."]}\n```\nEnjoy.',
        '```\n["The person walks.", "The person runs."]\n```',
        'Here they are: {"walking": ["The person walks.", "The person runs."]} Have fun.',
        '{"prompts": [{"text": "The person walks."}, {"text": "The person runs."}]}',
        "Here you go:\n1. The person walks.\n2. The person runs.\n\nAnything else?",
        '  1) "The person walks.",\n  2) "The person runs.",',
        "- The person walks.\r\n* **The person runs.**\r\n",
        "<think>\n1. A draft?\n</think>\n1. The person walks.\n2. The person runs.",
    ],
)
def test_answers_are_read_in_any_of_these_shapes(answer):
    assert parse_answer(answer) == ["The person walks.", "The person runs."]


@pytest.mark.parametrize(
    "answer", ["", "I cannot do that.", '{"prompts": "none"}', '{"prompts": ["The per', "[" * 99999]
)
def test_rubbish_holds_no_sentence(answer):
    assert parse_answer(answer) == []


def test_rubbish_then_good(server, out):
    server.says("As a language model, I would rather sing.", as_json(sentences("walking", 3)))
    assert walk(server, out) == sentences("walking", 3)
    assert "no list of sentences in 'As a language model" in server.asked()


def test_answer_without_text_is_asked_again(server, out):
    server.says(None, as_json(sentences("walking", 3)))
    assert walk(server, out) == sentences("walking", 3)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("The person walks.", "3 words in 'The person walks.'"),
        (f"The person walks {'very ' * 30}slowly.", "34 words in"),
        ("The person walks\nalong a street.", r"the sign '\n'"),
        ("The person walks to gate #7 slowly.", "the sign '#'"),
        ("The person walks – slowly and tired.", "the sign '–'"),
        ("", "0 words"),
        ("Walking slowly along a street.", "does not start with 'The person'"),
        ("The person is walking in manner 1", "stands already under walking"),
        (EXAMPLES[1], "is one of the examples"),
    ],
)
def test_bad_sentence_is_told_and_only_what_lacks_is_asked_again(server, out, bad, said):
    server.says(as_json([*sentences("walking", 2), bad]), as_json(sentences("walking", 1, 7)))
    assert walk(server, out) == [*sentences("walking", 2), *sentences("walking", 1, 7)]
    again = server.asked()
    assert said in again and "Write 1 different" in again
    assert all(kept in again for kept in sentences("walking", 2))


def test_wrong_numbers(server, out):
    server.says(as_json(sentences("walking", 1)), as_json(sentences("walking", 9, 1)))
    assert walk(server, out) == sentences("walking", 3)
    assert "it held 1 sentences" in server.asked() and "Write 2 different" in server.asked()


def test_repeated_across_activities(server, out):
    same = "The person is moving about quietly."
    server.says(as_json([same]), as_json([same]), as_json(sentences("lying", 1)))
    asked = {"activities": ["sitting", "lying"], "per_activity": 1}
    prompts = write_prompts(server.url, "tiny", out, **asked)
    assert prompts == {"sitting": [same], "lying": sentences("lying", 1)}
    assert "stands already under sitting" in server.asked()


def test_model_that_never_learns(server, out):
    server.says(as_json(sentences("walking", 2)))
    server.says(as_json(["Walk!"]), as_json(["Walk!"]), finish="length")
    with pytest.raises(InputError) as error:
        walk(server, out, attempts=3)
    for part in ("walking", server.url, "2 usable prompts after 3 answers of tiny", "cut off",
                 "1 words in 'Walk!'", "expected 3 different ones", str(out)):  # fmt: skip
        assert part in str(error.value)
    # The same call goes on with the third sentence.
    server.says(as_json(sentences("walking", 1, 2)))
    assert walk(server, out, attempts=3) == sentences("walking", 3)
    assert "1 words in 'Walk!'" in server.asked()


# What the server may do


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_what_may_pass_is_asked_again(server, out, status):
    server.will(status, {"error": {"message": "busy"}})
    server.will(status, "busy", {"Content-Type": "text/plain"})
    server.says(as_json(sentences("walking", 3)))
    assert walk(server, out) == sentences("walking", 3)
    assert len(json.loads(out.read_text())["exchanges"]) == 1


def test_retry_after_counts_instead_of_the_own_waits(server, out, monkeypatch):
    slept = []
    monkeypatch.setattr(chat, "sleep", slept.append)
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    for header in ("7", "0.25", date, "soon", "-3", "nan"):
        server.will(429, {"error": {"message": "slow down"}}, {"Retry-After": header})
    server.says(as_json(sentences("walking", 3)))
    walk(server, out, waits=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
    assert slept[:2] == [7.0, 0.25] and 90 < slept[2] <= 100 and slept[3:] == [4.0, 5.0, 6.0]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"error": {"message": "tomorrow"}}, {"Retry-After": "86400"}),
        ({"error": {"message": "pay", "code": "insufficient_quota"}}, {}),
    ],
)
def test_rate_limits_that_do_not_pass_soon(server, out, monkeypatch, body, headers):
    monkeypatch.setattr(chat, "sleep", lambda _: pytest.fail("it waited"))
    server.will(429, body, headers)
    with pytest.raises(InputError, match="429.*account's limits"):
        walk(server, out)
    assert len(server.requests) == 1


def test_time_out_then_good(server, out):
    server.says("too late", delay=0.3)
    server.says(as_json(sentences("walking", 3)))
    assert walk(server, out, timeout=0.1) == sentences("walking", 3)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, "<!doctype html><title>Welcome</title>", "a web page.*Welcome.*ends with /v1"),
        (200, "ready", "no choices in 'ready'"),
        (200, {"choices": []}, "no choices.*model's name"),
        (200, {"error": {"message": "no such model"}}, "no choices.*no such model"),
        (200, {"choices": [{"message": "hello"}]}, "no choices"),
        (200, [1, 2], "no choices"),
        (200, "[" * 99999, "no choices"),
        (400, {"error": {"message": "unknown field seed"}}, "400.*unknown field seed.*to None"),
        (404, "<html>not here</html>", "404.*ends with /v1"),
        (403, {"error": "no"}, "403.*OPENAI_API_KEY"),
    ],
)
def test_other_answers_are_told_at_once(server, out, status, body, said):
    server.will(status, body)
    with pytest.raises(InputError, match=said) as error:
        walk(server, out)
    assert error.value.where == server.url and len(server.requests) == 1 and not out.exists()


# The key


def test_refused_key_is_not_shown(server, out, monkeypatch, caplog, capfd):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    server.will(401, {"error": {"message": f"Incorrect API key provided: {KEY}", "code": KEY}})
    with pytest.raises(InputError, match=r"401.*\[key\].*variable OPENAI_API_KEY") as error:
        walk(server, out)
    shown = (
        "".join(traceback.format_exception(error.value)) + caplog.text + "".join(capfd.readouterr())
    )
    assert KEY not in shown and error.value.__context__ is None


def test_echoed_key_is_not_stored(server, out, monkeypatch, caplog):
    monkeypatch.setenv("MINE", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)
    server.says(f"Your key is {KEY}.", model=f"tiny {KEY}", finish=KEY)
    server.will(500, f"<html>{KEY}</html>")
    server.says(as_json(sentences("walking", 3)))
    walk(server, out, api_key_variable="MINE")
    assert server.requests[0][1]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in out.read_text() + caplog.text and out.read_text().count("[key]") == 4
    assert len(replay(out)["walking"]) == 3


@pytest.mark.parametrize("value", [None, "", "x"])
def test_server_of_ones_own_needs_no_key(server, out, monkeypatch, value):
    if value is not None:
        monkeypatch.setenv("OPENAI_API_KEY", value)
    server.says(as_json(["The person extends an axe next to a box."]))
    assert walk(server, out, count=1) == ["The person extends an axe next to a box."]


@pytest.mark.parametrize(
    ("variable", "value"), [(KEY, "unset"), ("MINE", f"MINE: {KEY}"), ("MINE", f"“{KEY}”")]
)
def test_mistaken_keys_are_not_shown(server, out, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match="key") as error:
        walk(server, out, api_key_variable=variable)
    assert KEY not in "".join(traceback.format_exception(error.value)) and not server.requests


@pytest.mark.parametrize(
    "address",
    ["http://me:hush@host/v1", "https://host/v1?token=hush", "host:80/hush", None, "http://["],
)
def test_addresses_without_secrets_only(out, address):
    with pytest.raises(InputError, match="base_url.*localhost:8000/v1") as error:
        write_prompts(address, "tiny", out)
    assert "hush" not in str(error.value)


# The transcript


def test_transcript_says_who_when_and_what(server, out):
    server.says("rubbish", as_json(sentences("walking", 3)))
    walk(server, out)
    record = json.loads(out.read_text())
    assert record["format"] == "t2imu prompts 1" and record["model"] == "tiny"
    assert record["prompts"] == {"walking": sentences("walking", 3)}
    assert record["parameters"] == {
        "activities": ["walking"],
        "per_activity": 3,
        "temperature": 1.0,
        "seed": 0,
        "examples": list(EXAMPLES),
    }
    assert [e["answer"] for e in record["exchanges"]] == [
        "rubbish",
        as_json(sentences("walking", 3)),
    ]
    for exchange, (_, _, body) in zip(record["exchanges"], server.requests, strict=True):
        assert exchange["messages"] == body["messages"] and exchange["base_url"] == server.url
        assert exchange["model"] == "tiny-7b-0612" and exchange["finish_reason"] == "stop"
        assert datetime.fromisoformat(exchange["date"]).utcoffset().total_seconds() == 0


def test_interrupted_generation_goes_on(server, out):
    asked = {"activities": ["running", "sitting"], "per_activity": 2, "waits": ()}
    server.says(as_json(sentences("running", 2)), as_json(sentences("sitting", 1)))
    server.will(500, "down")
    with pytest.raises(InputError, match="500"):
        write_prompts(server.url, "tiny", out, **asked)
    with pytest.raises(InputError, match="sitting: found 1 prompts; expected the 2"):
        replay(out)
    server.says(as_json(sentences("sitting", 1, 1)))
    prompts = write_prompts(server.url, "tiny", out, **asked)
    assert prompts == {a: sentences(a, 2) for a in asked["activities"]} == replay(out)
    assert len(server.requests) == 4 and "Write 1 different" in server.asked()
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    # Whole now: nobody is asked, and the file stays as it is.
    before = out.read_bytes()
    assert write_prompts(server.url, "tiny", out, **asked) == prompts
    assert len(server.requests) == 4 and out.read_bytes() == before


def test_replay_needs_neither_network_nor_key_nor_client(server, out, monkeypatch):
    server.says(*(as_json(sentences(activity, 10)) for activity in ACTIVITIES))
    prompts = write_prompts(server.url, "tiny", out)
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("it asked"))
    monkeypatch.setitem(sys.modules, "openai", None)
    assert replay(out) == load_prompts(out) == load_prompts(str(out)) == prompts


def test_nothing_else_is_overwritten(server, out):
    out.write_text('{"mine": 1}')
    with pytest.raises(InputError, match="no transcript"):
        walk(server, out)
    assert out.read_text() == '{"mine": 1}' and not server.requests


@pytest.mark.parametrize(
    "change",
    [{"out": "prompts.yaml"}, {"attempts": 0}, {"timeout": 0}, {"waits": [-1]}, {"model": None},
     {"model": ""}, {"per_activity": 0}, {"activities": []}, {"activities": ["lying", "lying"]},
     {"temperature": float("nan")}],
)  # fmt: skip
def test_bad_arguments(tmp_path, change):
    values = {"model": "tiny", "out": "t.json"} | change
    values["out"] = tmp_path / values["out"]
    with pytest.raises(InputError, match=next(iter(change))):
        write_prompts("http://127.0.0.1:9/v1", **values)
    assert not list(tmp_path.iterdir())
