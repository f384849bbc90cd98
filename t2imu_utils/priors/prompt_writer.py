"""Prompts from a language model, and the transcript that replays them (Section III-A).

The paper asked ChatGPT for ten descriptions of each activity, giving it a general structure, bounds
on the length and a few examples; the wording is not in the paper, the one below is this project's.
Any server that speaks OpenAI's chat-completions protocol will do. The transcript holds every
request and answer, so that a run without a key replays it, and an interrupted one goes on.
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from t2imu_utils.activities import ACTIVITIES
from t2imu_utils.errors import InputError
from t2imu_utils.files import read_json, write_json
from t2imu_utils.priors.chat import WAITS, ask, checked_address, shortened
from t2imu_utils.priors.prompts import PER_ACTIVITY, WORDS, fault_of, key_of

FORMAT = "t2imu prompts 1"
# The first two are the paper's own.
EXAMPLES = (
    "The person is walking on a track, following the oval path.",
    "The person is walking slowly with multiple strides.",
    "The person is sitting on a chair and looks around.",
)
# Activities whose bare name may be read otherwise.
_MEANING = {
    "climbing down": "going down stairs",
    "climbing up": "going up stairs",
    "lying": "lying down on a surface",
}
_OPENING = re.compile(r"(the|a) person\b", re.IGNORECASE)
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_FENCED = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)
_LISTED = re.compile(r"^[ \t]*(?:\d{1,3}[.):]|[-*•])[ \t]+(.+)$", re.MULTILINE)
_CONFIG = ConfigDict(extra="forbid", strict=True, frozen=True)


class Parameters(BaseModel):
    """What prompts were asked for; a generation goes on only with the same ones."""

    model_config = _CONFIG
    activities: Annotated[list[str], Field(min_length=1)]
    per_activity: Annotated[int, Field(ge=1)]
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    seed: int | None
    examples: list[str]


class Exchange(BaseModel):
    """One request and its answer. `model` is what the server called it, `date` is in UTC."""

    model_config = _CONFIG
    activity: str
    date: str
    base_url: str
    model: str
    messages: list[dict[str, str]]
    answer: str
    finish_reason: str | None


class Transcript(BaseModel):
    """A generation of prompts, whole or interrupted. `model` is the one asked for."""

    model_config = _CONFIG
    format: Literal["t2imu prompts 1"]
    date: str
    model: Annotated[str, Field(min_length=1)]
    parameters: Parameters
    exchanges: list[Exchange]
    prompts: dict[str, list[str]]


def instructions(activity: str, count: int, examples: Sequence[str]) -> list[dict[str, str]]:
    """The messages that ask for `count` descriptions of an activity.

    One message of the user's: many local models refuse a system message, or two in a row.
    """
    meaning = f" ({_MEANING[activity]})" if activity in _MEANING else ""
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
{_bullets(examples)}

Answer with nothing but a JSON object whose list holds {count} strings: {{"prompts": [...]}}"""
    return [{"role": "user", "content": text}]


def write_prompts(
    base_url: str,
    model: str,
    out: Path | str,
    activities: Sequence[str] = ACTIVITIES,
    per_activity: int = PER_ACTIVITY,
    temperature: float | None = 1.0,
    seed: int | None = 0,
    attempts: int = 5,
    timeout: float = 120.0,
    waits: Sequence[float] = WAITS,
    api_key_variable: str = "OPENAI_API_KEY",
) -> dict[str, list[str]]:
    """Have a language model write prompts, activity by activity, and keep the transcript.

    Good sentences of an answer are kept; for what lacks, the model is asked again and told what
    was wrong. The transcript is written after every answer: called again with the same model and
    parameters, the generation goes on where it was, or returns at once where it was whole.

    Args:
        base_url: address of the server, such as ``https://api.openai.com/v1`` or
            ``http://localhost:8000/v1``; without password or query, since it is stored.
        model: the name by which the server knows the model.
        out: the transcript, a ``.json`` file.
        temperature: of the sampling; None leaves it to the server.
        seed: for servers that know one; None sends none. No promise of equal answers.
        attempts: answers that are asked for, at most, for each activity by this call.
        timeout, waits, api_key_variable: see `chat.ask`. The key is read from that environment
            variable, goes to `base_url` and is written nowhere; a server of one's own that wants
            no key needs no variable, or any value in it.

    Raises:
        InputError: bad arguments; `out` is another file, or was begun with another model or other
            parameters; no key; the server refuses, cannot be reached or speaks another protocol;
            too few good sentences after all attempts.
    """
    out, address = Path(out), checked_address(base_url)
    if out.suffix != ".json" or attempts < 1 or timeout <= 0 or any(w < 0 for w in waits):
        raise InputError(
            "write_prompts",
            f"out {out.name}, attempts {attempts}, timeout {timeout}, waits {list(waits)}",
            "a .json file, one attempt or more, a time-out above zero, no wait below",
            "Mend the argument.",
        )
    record = _begin_or_resume(out, model, activities, per_activity, temperature, seed)
    sampling = {"temperature": temperature, "seed": seed}
    sampling = {name: value for name, value in sampling.items() if value is not None}
    prompts, faults = _follow(record)
    for activity in record.parameters.activities:
        left = attempts
        while (lacking := per_activity - len(prompts[activity])) > 0:
            if left == 0:
                raise InputError(
                    f"{address}: {activity}",
                    f"{per_activity - lacking} usable prompts after {attempts} answers of {model} "
                    f"(the last: {'; '.join(faults[activity][:3])})",
                    f"{per_activity} different ones of {WORDS[0]} to {WORDS[1]} words",
                    f"The answers are in {out}. Run it again to go on, or take another model.",
                )
            messages = instructions(activity, lacking, record.parameters.examples)
            messages[0]["content"] += _correction(prompts[activity], faults[activity])
            request = {"model": model, "messages": messages, **sampling}
            answer = ask(address, request, timeout, waits, api_key_variable)
            left -= 1
            record.exchanges.append(
                Exchange(
                    activity=activity,
                    date=_now(),
                    base_url=address,
                    model=answer.model,
                    messages=messages,
                    answer=answer.text,
                    finish_reason=answer.finish_reason,
                )
            )
            prompts, faults = _follow(record)
            write_json(out, record.model_dump() | {"prompts": prompts})
    return prompts


def replay(transcript: Path | str) -> dict[str, list[str]]:
    """The prompts of a finished transcript, by activity; needs neither network nor key.

    The stored answers are read again, and the prompts must follow from them.

    Raises:
        InputError: no transcript, damaged, edited by hand, or of an unfinished generation.
    """
    record = _read(Path(transcript))
    prompts = _follow(record)[0]
    for activity, sentences in prompts.items():
        if len(sentences) < record.parameters.per_activity:
            raise InputError(
                f"{transcript}: {activity}",
                f"{len(sentences)} prompts",
                f"the {record.parameters.per_activity} that were asked for",
                "Run its generation again with the same model and parameters: it goes on.",
            )
    return prompts


def parse_answer(text: str) -> list[str]:
    """The sentences in a model's answer; empty where there is no list of any kind.

    Read are a JSON object or list, bare, in a code fence or amid words, and a numbered or bulleted
    list. Thoughts that stand between ``<think>`` tags are no part of the answer.
    """
    text = _THOUGHT.sub("", text)
    amid = [text[text.find(a) : text.rfind(b) + 1] for a, b in ("{}", "[]")]
    for candidate in [*_FENCED.findall(text), text, *amid]:
        try:
            found = _list_in(json.loads(candidate))
        except (ValueError, RecursionError):
            continue
        if found is not None:
            return found
    return [line.strip(" \t\r*`").rstrip(",").strip('"“”') for line in _LISTED.findall(text)]


def _list_in(value: Any) -> list[str] | None:
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list)]
        value = value.get("prompts", lists[0] if len(lists) == 1 else None)
    if not isinstance(value, list):
        return None
    # Some models wrap every sentence: {"prompt": "..."}.
    items = [next(iter(v.values())) if isinstance(v, dict) and len(v) == 1 else v for v in value]
    return [item.strip() if isinstance(item, str) else "" for item in items]


def _follow(record: Transcript) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """What follows from the answers: the prompts, and the faults of each activity's last answer."""
    wanted = record.parameters
    prompts: dict[str, list[str]] = {activity: [] for activity in wanted.activities}
    faults: dict[str, list[str]] = {activity: [] for activity in wanted.activities}
    taken = {key_of(example): "is one of the examples" for example in wanted.examples}
    for exchange in record.exchanges:
        kept, wrong = prompts[exchange.activity], []
        sentences = parse_answer(exchange.answer)
        for sentence in sentences:
            fault = fault_of(sentence)
            if fault is None and not _OPENING.match(sentence):
                fault = f"{sentence!r} does not start with 'The person'"
            if fault is None and key_of(sentence) in taken:
                fault = f"{sentence!r} {taken[key_of(sentence)]}"
            if fault is not None:
                wrong.append(fault)
            elif len(kept) < wanted.per_activity:
                kept.append(sentence)
                taken[key_of(sentence)] = f"stands already under {exchange.activity}"
        if not sentences:
            wrong = [f"no list of sentences in {shortened(exchange.answer)!r}"]
        elif not wrong:
            wrong = [f"it held {len(sentences)} sentences"]
        if exchange.finish_reason == "length":
            wrong.insert(0, "it was cut off by the server's limit on tokens")
        faults[exchange.activity] = wrong
    return prompts, faults


def _correction(kept: list[str], faults: list[str]) -> str:
    """What is added when a model is asked again: what it wrote already, and what was wrong."""
    text = f"\n\nThese are written already; write others:\n{_bullets(kept)}" if kept else ""
    if faults:
        text += f"\n\nThis was wrong with your last answer:\n{_bullets(faults[:12])}"
    return text


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _checked(where: str | Path, values: object, remedy: str) -> Transcript:
    try:
        return Transcript.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{where}: {field}" if field else where,
            f"{first['msg'].lower()} (value {shortened(repr(first['input']))})",
            "the fields and types of t2imu_utils/priors/prompt_writer.py",
            remedy,
        ) from error


def _read(path: Path) -> Transcript:
    """A transcript whose prompts follow from its answers."""
    if not path.is_file():
        raise InputError(path, "no file", "a transcript of prompts", "Check the path.")
    record = _checked(path, read_json(path), "It is no transcript, or a damaged one.")
    unknown = {e.activity for e in record.exchanges} - set(record.parameters.activities)
    if unknown or record.prompts != _follow(record)[0]:
        raise InputError(
            f"{path}: prompts",
            "other prompts than follow from the answers",
            "the prompts that the model wrote",
            "It was edited: restore it. Prompts of one's own belong into a YAML file.",
        )
    return record


def _begin_or_resume(
    out: Path,
    model: str,
    activities: Sequence[str],
    per_activity: int,
    temperature: float | None,
    seed: int | None,
) -> Transcript:
    """A new transcript, or the one in `out` where it was begun with the same ingredients."""
    asked = {
        "activities": list(activities),
        "per_activity": per_activity,
        "temperature": temperature,
        "seed": seed,
        "examples": list(EXAMPLES),
    }
    empty = {"format": FORMAT, "date": _now(), "model": model, "parameters": asked}
    empty |= {"exchanges": [], "prompts": {activity: [] for activity in activities}}
    new = _checked("write_prompts", empty, "Mend the argument.")
    if len(set(activities)) < len(activities):
        raise InputError("activities", "one of them twice", "each once", "Name each one once.")
    if not out.exists():
        return new
    old = _read(out)
    begun = {"model": old.model, **old.parameters.model_dump()}
    now = {"model": model, **new.parameters.model_dump()}
    other = [name for name in now if now[name] != begun[name]]
    if other:
        raise InputError(
            out,
            "begun with " + ", ".join(f"{name} {begun[name]!r}" for name in other),
            ", ".join(f"{name} {now[name]!r}" for name in other) + ", as is asked for now",
            "Ask for the same to go on with it, or name another file.",
        )
    return old
