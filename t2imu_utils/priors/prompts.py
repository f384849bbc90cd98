"""Text prompts: the sentences that the priors are asked for (Section III-A)."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from t2imu_utils.activities import ACTIVITIES
from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256
from t2imu_utils.tracks import PROMPTS

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
        from t2imu_utils.priors.prompt_writer import replay

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
