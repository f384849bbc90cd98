"""Text prompts: the sentences that the priors are asked for (Section III-A)."""

import json
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from urllib.parse import quote, urlsplit

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from t2imu_utils.activities import ACTIVITIES
from t2imu_utils.errors import InputError
from t2imu_utils.files import read_json, sha256, write_json
from t2imu_utils.tracks import PROMPTS

if TYPE_CHECKING:
    import openai


PER_ACTIVITY = 10
WORDS = (4, 20)
# HumanML3D's text files part fields with '#' and captions by lines, so a prompt holds neither;
# nor does it hold what is left over from markup or JSON.
_FOREIGN = re.compile(r"[^A-Za-z0-9 ,.;:'\"()/!?%&+-]")


def load_prompts(path: Path | str = PROMPTS) -> dict[str, list[str]]:
    """Read the prompts of each activity, in the paper's order of activities.

    Args:
        path: YAML with a list of sentences for each activity, or a transcript (``.json``) that
            `prompt_writer.write_prompts` left; the latter needs neither key nor network.

    Raises:
        InputError: no such file, damaged or not UTF-8; an activity missing or unknown, fewer than
            ten prompts, a prompt that stands twice or has a fault (see `fault_of`).
    """
    path = Path(path)
    prompts = _read(path)
    if not isinstance(prompts, dict) or set(prompts) != set(ACTIVITIES):
        found = ", ".join(map(str, prompts)) if isinstance(prompts, dict) else "no mapping"
        raise InputError(path, found, f"the activities {', '.join(ACTIVITIES)}", "Mend its keys.")
    seen: set[str] = set()
    for activity in ACTIVITIES:
        _check(f"{path}: {activity}", prompts[activity])
        for sentence in prompts[activity]:
            if key_of(sentence) in seen:
                raise InputError(path, f"{sentence!r} twice", "every prompt once", "Rephrase one.")
            seen.add(key_of(sentence))
    return {activity: prompts[activity] for activity in ACTIVITIES}


def _read(path: Path) -> object:
    if not path.is_file():
        raise InputError(path, "no file", "prompts (.yaml) or a transcript (.json)", "Check it.")
    if path.suffix == ".json":
        # Here and not above: the writer takes its rules from this module.
        pass

        return replay(path)
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            path, f"no valid YAML in UTF-8 ({error})", "a list for each activity", "Mend it."
        ) from error


def _check(where: str, sentences: object) -> None:
    if not isinstance(sentences, list) or not all(isinstance(s, str) for s in sentences):
        raise InputError(where, "no list of sentences", "a list of sentences", "Write '- …' lines.")
    if len(sentences) < PER_ACTIVITY:
        raise InputError(
            where, f"{len(sentences)} prompts", f"{PER_ACTIVITY} or more", "Write more of them."
        )
    for sentence in sentences:
        fault = fault_of(sentence)
        if fault is not None:
            raise InputError(
                where, fault, f"one line of {WORDS[0]} to {WORDS[1]} plain words", "Rephrase it."
            )


def fault_of(sentence: str) -> str | None:
    """Why a sentence cannot be a prompt, or None where it can.

    A prompt is one line of `WORDS` words in ASCII letters, digits and common punctuation.
    """
    shown = repr(sentence if len(sentence) <= 80 else f"{sentence[:77]}...")
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

    Length and noise seed follow from the prompt, the repetition and, where it is not 0, `seed`, so
    every model is asked for the same lengths from the same noise, and adding a prompt changes no
    other motion.

    Args:
        repetitions: how many of each prompt, or which.
        seconds: shortest and longest motion.
        rate: frames per second.
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


# Seconds before a request is sent again, one for each repetition.
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
LONGEST_WAIT = 600.0  # a server that asks for more is not waited for
NO_KEY = "none"  # what a server without keys is sent
_KEYED_HOST = "api.openai.com"
_PROTOCOL = "an answer of the chat-completions protocol"


class Answer(NamedTuple):
    """The text of an answer (empty where there was none), who wrote it, and why it ended."""

    text: str
    model: str
    finish_reason: str | None


def checked_address(base_url: str) -> str:
    """A server's address, without a closing slash.

    Raises:
        InputError: no web address, or one that carries a password or a query: addresses are
            written down, and these may be secrets.
    """
    try:
        parts = urlsplit(base_url)
        web = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, TypeError, AttributeError):
        web = False
    if not web or "@" in base_url or "?" in base_url or "#" in base_url:
        raise InputError(
            "base_url",
            "an address with a user, a password, a query or '#'" if web else "no web address",
            "an address like https://api.openai.com/v1 or http://localhost:8000/v1",
            "Write it without them, since it is stored; a key belongs into the environment.",
        )
    return base_url.rstrip("/")


def ask(
    base_url: str,
    request: dict[str, Any],
    timeout: float = 120.0,
    waits: Sequence[float] = WAITS,
    api_key_variable: str = "OPENAI_API_KEY",
) -> Answer:
    """Ask a server for one chat completion.

    Args:
        base_url: see `checked_address`.
        request: fields of the request: model, messages, and what else the server understands.
        timeout: seconds without a sign of the server.
        waits: seconds before the request is repeated after a rate limit, a time-out or an error
            of the server, one for each repetition. A time that the server names (Retry-After)
            counts instead.
        api_key_variable: environment variable that holds the key. Only OpenAI's own address
            needs one; a server without keys needs no variable, or any value in it.

    Raises:
        InputError: no key; the server refuses, cannot be reached or speaks another protocol.
    """
    import openai

    with _client(checked_address(base_url), timeout, api_key_variable) as client:
        for wait in (*waits, None):
            try:
                raw = client.chat.completions.with_raw_response.create(**request)
                return _read_answer(raw.text, client, request["model"])
            except openai.OpenAIError as error:
                pause, refusal = _pause(error, wait), _refusal(error, client, api_key_variable)
            if pause is None:
                break
            sleep(pause)
        # Outside of `except`: what the client raised may quote the key, so it is not chained.
        raise refusal


def _client(address: str, timeout: float, variable: str) -> "openai.OpenAI":
    """The client. It alone holds the key: a traceback that shows variables does not show it."""
    import openai

    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise InputError(
            "api_key_variable", "no name of a variable", "a name such as OPENAI_API_KEY",
            "Give the name of the environment variable, never the key.",
        )  # fmt: skip
    if not re.fullmatch(r"[!-~]*", os.environ.get(variable, "").strip()):
        raise InputError(
            f"environment variable {variable}", "blanks or signs outside ASCII in the key",
            "a key in one word", "Set it again: it may have been copied with what stood beside it.",
        )  # fmt: skip
    if not os.environ.get(variable, "").strip() and urlsplit(address).hostname == _KEYED_HOST:
        raise InputError(
            f"environment variable {variable}", "nothing", f"a key for {address}",
            f"Set it (`export {variable}=...`), or replay a transcript, which needs none.",
        )  # fmt: skip
    return openai.OpenAI(
        api_key=os.environ.get(variable, "").strip() or NO_KEY,
        base_url=address,
        timeout=timeout,
        max_retries=0,  # `ask` repeats
    )


def _pause(error: Exception, wait: float | None) -> float | None:
    """Seconds after which to ask again; None where that is of no use."""
    import openai

    if wait is None or getattr(error, "code", None) == "insufficient_quota":
        return None
    if isinstance(error, openai.APIStatusError):
        if error.status_code not in (408, 409, 429) and error.status_code < 500:
            return None
        pause = _retry_after(error.response.headers.get("retry-after")) or wait
        return pause if pause <= LONGEST_WAIT else None
    refused = type(error.__cause__).__name__ == "ConnectError"  # nobody listens there
    return wait if isinstance(error, openai.APIConnectionError) and not refused else None


def _retry_after(header: str | None) -> float:
    """Seconds in a Retry-After header, which gives seconds or a date; 0 where it says nothing."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def _refusal(error: Exception, client: "openai.OpenAI", variable: str) -> InputError:
    import openai

    status = getattr(error, "status_code", None)
    found = str(error)
    remedy = "Run it again: it goes on where it was."
    if isinstance(error, openai.APITimeoutError):
        found = f"no answer within {client.timeout:g} s"
        remedy = f"{remedy} A slow server needs a longer timeout."
    elif isinstance(error, openai.APIConnectionError):
        found = f"no connection ({error.__cause__})"
        remedy = "Check the address, and that the server runs."
    elif status in (401, 403):
        remedy = f"Set the environment variable {variable} to a key that this server accepts."
    elif status == 404:
        remedy = "Check the address, which mostly ends with /v1, and the model's name."
    elif status == 429:
        found += f" (Retry-After: {error.response.headers.get('retry-after', 'none')})"
        remedy = f"Wait, and see to the account's limits. {remedy}"
    elif status is not None and status < 500:
        remedy = "Check the model's name; a server may know no seed or temperature: set it to None."
    return InputError(_where(client), shortened(without_key(found, client)), _PROTOCOL, remedy)


def _read_answer(body: str, client: "openai.OpenAI", asked: str) -> Answer:
    try:
        completion = json.loads(body)
        choice = completion["choices"][0]
        content = choice["message"].get("content")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        kind = "a web page" if body.lstrip().startswith("<") else "no choices"
        raise InputError(
            _where(client),
            f"{kind} in {shortened(without_key(body, client))!r}",
            _PROTOCOL,
            "Check the address, which mostly ends with /v1, the model's name and the server's log.",
        ) from None
    if isinstance(content, list):  # some servers send parts
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    said = (content, completion.get("model"), choice.get("finish_reason"))
    # The model never sees the key, and a short one may be a placeholder and a word of the answer.
    text, model, reason = (
        without_key(part, client, shortest=8) if isinstance(part, str) else None for part in said
    )
    return Answer(text or "", model or asked, reason)


def _where(client: "openai.OpenAI") -> str:
    return str(client.base_url).rstrip("/")


def without_key(text: str, client: "openai.OpenAI", shortest: int = 1) -> str:
    """A server's text, with a mark where it repeats a key of `shortest` or more characters."""
    if client.api_key != NO_KEY and len(client.api_key) >= shortest:
        for key in (client.api_key, json.dumps(client.api_key)[1:-1], quote(client.api_key, "")):
            text = text.replace(key, "[key]")
    # A lone surrogate can be neither printed nor stored.
    return text.encode("utf-8", "replace").decode("utf-8")


def shortened(text: str, most: int = 160) -> str:
    """Text in one line, cut to `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


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
    record = _read_transcript(Path(transcript))
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
            "the fields and types of t2imu_utils/models/prompts.py",
            remedy,
        ) from error


def _read_transcript(path: Path) -> Transcript:
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
    old = _read_transcript(out)
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
