"""Text prompts (Section III-A): the sentences that the priors are asked for, and who writes them.

The paper asked ChatGPT for ten descriptions of each activity, giving it a general structure, bounds
on the length and a few examples; the wording is not in the paper, the one below is this project's.
Any server that speaks OpenAI's chat-completions protocol will do. A transcript holds every request
and answer, so that a run without a key replays it, and an interrupted one goes on.
"""

import json
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import yaml

from t2imu_utils.activities import ACTIVITIES
from t2imu_utils.errors import InputError
from t2imu_utils.files import read_json, sha256, write_json
from t2imu_utils.tracks import PROMPTS

PER_ACTIVITY = 10
WORDS = (4, 20)
FORMAT = "t2imu prompts 1"
KEY = "OPENAI_API_KEY"  # variable of the environment
# The first two are the paper's own.
EXAMPLES = (
    "The person is walking on a track, following the oval path.",
    "The person is walking slowly with multiple strides.",
    "The person is sitting on a chair and looks around.",
)
# Activities whose bare name may be read otherwise.
MEANING = {
    "climbing down": "going down stairs",
    "climbing up": "going up stairs",
    "lying": "lying down on a surface",
}
# HumanML3D's text files part fields with '#' and captions by lines, so a prompt holds neither;
# nor does it hold what is left over from markup or JSON.
_FOREIGN = re.compile(r"[^A-Za-z0-9 ,.;:'\"()/!?%&+-]")
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_LISTED = re.compile(r"^[ \t]*(?:\d{1,3}[.):]|[-*•])[ \t]+(.+)$", re.MULTILINE)


def load_prompts(path: Path | str = PROMPTS) -> dict[str, list[str]]:
    """The prompts of each activity, in the paper's order of activities, from YAML with a list of
    sentences for each, or from a transcript (``.json``) of `write_prompts`."""
    path = Path(path)
    try:
        whole = path.suffix == ".json"
        text = path.read_text(encoding="utf-8")
        prompts: Any = read_json(path).get("prompts") if whole else yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        expected = "a list for each activity (YAML), or a transcript (.json)"
        raise InputError(path, f"nothing readable ({error})", expected, "Check it.") from error
    if not isinstance(prompts, dict) or set(prompts) != set(ACTIVITIES):
        found = ", ".join(map(str, prompts)) if isinstance(prompts, dict) else "no mapping"
        raise InputError(path, found, f"the activities {', '.join(ACTIVITIES)}", "Mend its keys.")
    seen: set[str] = set()
    for activity in ACTIVITIES:
        sentences, where = prompts[activity], f"{path}: {activity}"
        if not isinstance(sentences, list) or len(sentences) < PER_ACTIVITY:
            raise InputError(
                where, repr(sentences)[:80], f"{PER_ACTIVITY} sentences or more", "Write more."
            )
        for sentence in sentences:
            fault = fault_of(sentence) or (key_of(sentence) in seen and f"{sentence!r} twice")
            if fault:
                expected = f"one line of {WORDS[0]} to {WORDS[1]} plain words, once"
                raise InputError(where, fault, expected, "Rephrase it.")
            seen.add(key_of(sentence))
    return {activity: prompts[activity] for activity in ACTIVITIES}


def fault_of(sentence: Any) -> str | None:
    """Why a sentence cannot be a prompt: one line of `WORDS` words in ASCII letters, digits and
    common punctuation; None where it can."""
    shown = repr(sentence)[:80]
    if not isinstance(sentence, str):
        return f"no sentence: {shown}"
    foreign = _FOREIGN.search(sentence)
    if foreign:
        return f"the sign {foreign[0]!r} in {shown}"
    words = len(sentence.split())
    return None if WORDS[0] <= words <= WORDS[1] else f"{words} words in {shown}"


def key_of(sentence: str) -> str:
    """A sentence without capitals, spare blanks and its closing mark: equal keys, one prompt."""
    return " ".join(sentence.casefold().split()).rstrip(" .!")


def draw_requests(
    prompts: dict[str, list[str]],
    repetitions: int | range,
    seconds: tuple[float, float],
    rate: float,
    seed: int = 0,
) -> pd.DataFrame:
    """One row for every motion to be generated: activity, prompt, repetition, frames, seed.

    Length (between two `seconds`, at `rate` frames a second) and noise seed follow from the prompt,
    the repetition and, where it is not 0, `seed`: every model is asked for the same lengths from
    the same noise, and adding a prompt changes no other motion. repetitions: how many of each
    prompt, or which.
    """
    numbers = range(repetitions) if isinstance(repetitions, int) else repetitions
    extra = f"|{seed}" if seed else ""
    rows = []
    for activity, sentences in prompts.items():
        for prompt in sentences:
            for repetition in numbers:
                noise = int(sha256(f"{prompt}|{repetition}{extra}".encode())[:12], 16)
                length = np.random.default_rng(noise).uniform(*seconds)
                rows.append((activity, prompt, repetition, round(length * rate), noise))
    return pd.DataFrame(rows, columns=["activity", "prompt", "repetition", "frames", "seed"])


def write_prompts(
    base_url: str,
    model: str,
    out: Path | str,
    activities: Sequence[str] = ACTIVITIES,
    per_activity: int = PER_ACTIVITY,
    seed: int | None = 0,
    attempts: int = 5,
) -> dict[str, list[str]]:
    """Have a language model write prompts, activity by activity, and keep the transcript.

    Good sentences of an answer are kept; for what lacks, the model is asked again and told what
    was wrong. The transcript is written after every answer: called again with the same model and
    parameters, the generation goes on where it was, or returns at once where it was whole.

    Args:
        base_url: of the server, such as ``https://api.openai.com/v1``, without password or query,
            since it is stored. A key is taken from the environment (`KEY`), and written nowhere.
        model: the name by which the server knows the model.
        out: the transcript, a ``.json`` file.
        seed: of the sampling; None leaves it to the server.
        attempts: answers that are asked for, at most, for each activity by this call.
    """
    import openai

    parts, out = urlsplit(base_url), Path(out)
    if parts.scheme not in ("http", "https") or not parts.hostname or set("@?#") & set(base_url):
        raise InputError(
            "base_url", "no web address, or one with a user, a password, a query or '#'",
            "an address like https://api.openai.com/v1 or http://localhost:8000/v1",
            "Write it without them, since it is stored; a key belongs into the environment.",
        )  # fmt: skip
    asked = {"activities": list(activities), "per_activity": per_activity, "seed": seed}
    asked |= {"examples": list(EXAMPLES)}
    record = {"format": FORMAT, "date": _now(), "model": model, "parameters": asked}
    record |= {"exchanges": [], "prompts": {activity: [] for activity in activities}}
    if out.exists():
        record, begun = read_json(out), record
        if any(record.get(name) != begun[name] for name in ("format", "model", "parameters")):
            raise InputError(
                out, f"begun with {record.get('model')}, {record.get('parameters')}",
                f"{model}, {asked}, as is asked for now",
                "Ask for the same to go on with it, or name another file.",
            )  # fmt: skip
    key = os.environ.get(KEY, "").strip() or "none"
    client = openai.OpenAI(api_key=key, base_url=base_url, timeout=120.0)
    sampling = {} if seed is None else {"seed": seed}
    prompts: dict[str, list[str]] = record["prompts"]
    for activity in activities:
        faults: list[str] = []
        for _ in range(attempts):
            lacking = per_activity - len(prompts[activity])
            if lacking <= 0:
                break
            text = instructions(activity, lacking, prompts[activity], faults)
            # One message of the user's: many local models refuse a system message.
            messages = [{"role": "user", "content": text}]
            try:
                answer = client.chat.completions.create(model=model, messages=messages, **sampling)
                choice = answer.choices[0]
            # What the client raises may quote the key, so it is neither shown nor chained.
            except (openai.OpenAIError, TypeError, IndexError, AttributeError, ValueError) as error:
                status = getattr(error, "status_code", None)
                found = f"{type(error).__name__}" + (f", status {status}" if status else "")
                raise InputError(
                    base_url, found, "an answer of the chat-completions protocol",
                    f"Check the address, the model's name and the key in {KEY}; a server may know "
                    "no seed (None). Run it again: it goes on.",
                ) from None  # fmt: skip
            exchange = {"activity": activity, "date": _now(), "base_url": base_url}
            exchange |= {"model": answer.model or model, "messages": messages}
            exchange |= {"answer": (choice.message.content or "").replace(key, "[key]")}
            record["exchanges"].append(exchange)
            faults = _take(exchange["answer"], activity, prompts, per_activity)
            write_json(out, record)
        if len(prompts[activity]) < per_activity:
            raise InputError(
                f"{base_url}: {activity}",
                f"{len(prompts[activity])} usable prompts after {attempts} answers of {model} "
                f"(the last: {'; '.join(faults[:3])})",
                f"{per_activity} different ones of {WORDS[0]} to {WORDS[1]} words",
                f"The answers are in {out}. Run it again to go on, or take another model.",
            )  # fmt: skip
    return prompts


def instructions(activity: str, count: int, kept: Sequence[str], faults: Sequence[str]) -> str:
    """What asks for `count` descriptions of an activity beside those that are kept already."""

    def bullets(lines: Sequence[str]) -> str:
        return "\n".join(f"- {line}" for line in lines)

    meaning = f" ({MEANING[activity]})" if activity in MEANING else ""
    text = f"""\
Write {count} different English descriptions of the activity "{activity}"{meaning}.
A motion model turns each of them into the movement of one person.

Every description
- is a single sentence in the present tense and the third person, and starts with "The person";
- has this structure: the person, what the person does, then how, how fast or where;
- has {WORDS[0]} to {WORDS[1]} words and ends with a full stop;
- is about one person who does this activity, and names no other people, feelings or reasons;
- uses plain letters and punctuation: no line break, no numbering, no markup.

Vary how the activity is done, how fast, and where, as it varies between people.
Write no description twice, and none of these examples of the form:
{bullets(EXAMPLES)}

Answer with nothing but a JSON object whose list holds {count} strings: {{"prompts": [...]}}"""
    if kept:
        text += f"\n\nThese are written already; write others:\n{bullets(kept)}"
    if faults:
        text += f"\n\nThis was wrong with your last answer:\n{bullets(faults[:12])}"
    return text


def parse_answer(text: str) -> list[str]:
    """The sentences in a model's answer; empty where there is no list of any kind.

    Read are a JSON object or list, bare or amid words, and a numbered or bulleted list. Thoughts
    that stand between ``<think>`` tags are no part of the answer.
    """
    text = _THOUGHT.sub("", text)
    for first, last in ("{}", "[]"):
        try:
            value = json.loads(text[text.find(first) : text.rfind(last) + 1])
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            lists = [v for v in value.values() if isinstance(v, list)]
            value = value.get("prompts", lists[0] if len(lists) == 1 else None)
        if isinstance(value, list):
            return [item.strip() if isinstance(item, str) else "" for item in value]
    return [line.strip(" \t\r*`").rstrip(",").strip('"“”') for line in _LISTED.findall(text)]


def _take(answer: str, activity: str, prompts: dict[str, list[str]], most: int) -> list[str]:
    """Add an answer's good sentences to the prompts of an activity; what was wrong with others."""
    taken = {key_of(example): "is one of the examples" for example in EXAMPLES}
    for name, kept in prompts.items():
        taken |= {key_of(sentence): f"stands already under {name}" for sentence in kept}
    sentences, wrong = parse_answer(answer), []
    for sentence in sentences:
        fault = fault_of(sentence)
        if fault is None and not re.match(r"(the|a) person\b", sentence, re.IGNORECASE):
            fault = f"{sentence!r} does not start with 'The person'"
        if fault is None and key_of(sentence) in taken:
            fault = f"{sentence!r} {taken[key_of(sentence)]}"
        if fault is not None:
            wrong.append(fault)
        elif len(prompts[activity]) < most:
            prompts[activity].append(sentence)
            taken[key_of(sentence)] = f"stands already under {activity}"
    if not sentences:
        return [f"no list of sentences in {answer[:160]!r}"]
    return wrong or [f"it held {len(sentences)} sentences"]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
