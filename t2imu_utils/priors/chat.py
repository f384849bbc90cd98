"""One request to a server that speaks OpenAI's chat-completions protocol.

What may pass (rate limits, time-outs, errors of the server) is asked again; all else is told as an
`InputError`. The key is read from the environment, goes to the server and nowhere else.
"""

import json
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import sleep
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlsplit

from t2imu_utils.errors import InputError

if TYPE_CHECKING:
    import openai

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
                return _read(raw.text, client, request["model"])
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


def _read(body: str, client: "openai.OpenAI", asked: str) -> Answer:
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
