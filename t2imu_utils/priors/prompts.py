"""Text prompts: the sentences that the priors are asked for (Section III-A)."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from t2imu_utils.activities import ACTIVITIES
from t2imu_utils.errors import InputError
from t2imu_utils.runs import sha256
from t2imu_utils.tracks import PROMPTS

PER_ACTIVITY = 10
WORDS = (4, 20)


def load_prompts(path: Path = PROMPTS) -> dict[str, list[str]]:
    """Read the prompts of each activity, in the paper's order of activities.

    Raises:
        InputError: an activity missing or unknown, fewer than ten prompts, a prompt that stands
            twice or is shorter or longer than `WORDS`.
    """
    prompts = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(prompts, dict) or set(prompts) != set(ACTIVITIES):
        found = ", ".join(map(str, prompts)) if isinstance(prompts, dict) else "no mapping"
        raise InputError(path, found, f"the activities {', '.join(ACTIVITIES)}", "Mend its keys.")
    for activity, sentences in prompts.items():
        _check(path, activity, sentences)
    repeated = [s for s, n in Counter(sum(prompts.values(), [])).items() if n > 1]
    if repeated:
        raise InputError(path, f"{repeated[0]!r} twice", "every prompt once", "Rephrase one.")
    return {activity: prompts[activity] for activity in ACTIVITIES}


def _check(path: Path, activity: str, sentences: list[str]) -> None:
    where = f"{path}: {activity}"
    if not isinstance(sentences, list) or not all(isinstance(s, str) for s in sentences):
        raise InputError(where, "no list of sentences", "a list of sentences", "Write '- …' lines.")
    if len(sentences) < PER_ACTIVITY:
        raise InputError(
            where, f"{len(sentences)} prompts", f"{PER_ACTIVITY} or more", "Write more of them."
        )
    for sentence in sentences:
        words = len(sentence.split())
        if not WORDS[0] <= words <= WORDS[1]:
            raise InputError(
                where, f"{words} words in {sentence!r}", f"{WORDS[0]} to {WORDS[1]}", "Rephrase it."
            )


def draw_requests(
    prompts: dict[str, list[str]], repetitions: int, seconds: tuple[float, float], rate: float
) -> pd.DataFrame:
    """One row for every motion to be generated: activity, prompt, repetition, frames, seed.

    Length and noise seed follow from the prompt and the repetition alone, so every model is asked
    for the same lengths from the same noise, and adding a prompt changes no other motion.
    """
    rows = []
    for activity, sentences in prompts.items():
        for prompt in sentences:
            for repetition in range(repetitions):
                seed = int(sha256(f"{prompt}|{repetition}".encode())[:12], 16)
                length = np.random.default_rng(seed).uniform(*seconds)
                rows.append((activity, prompt, repetition, round(length * rate), seed))
    return pd.DataFrame(rows, columns=["activity", "prompt", "repetition", "frames", "seed"])
