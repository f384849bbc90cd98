"""What a generator is asked for, and the one check of it that all generators make."""

from collections.abc import Sequence
from typing import Any, Protocol

from t2imu_utils.errors import InputError
from t2imu_utils.motion.features import MIN_FRAMES as MIN_FRAMES
from t2imu_utils.priors.text import TextEncoder


class Generator(Protocol):
    """What the check needs of a prior; its config has `max_frames`."""

    config: Any
    text_encoder: TextEncoder


def check_requests(
    prior: Generator,
    prompts: Sequence[str],
    frames: Sequence[int] | None,
    seeds: Sequence[int],
    batch_size: int,
) -> None:
    """Refuse what a prior cannot make, before anything is computed.

    frames: length of each motion at 20 fps; None where the prior chooses lengths itself.

    Raises:
        InputError: no prompts, an empty one, one that the text encoder would cut (the motion would
            not be what was asked for), lists of unequal length, a length that the prior cannot
            make, or a batch size below 1.
    """
    _check_counts(prompts, frames, seeds)
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError(
                f"prompts[{i}]", repr(prompt), "a sentence", "Fill it in or leave it out."
            )
    longest = prior.config.max_frames
    for i, count in enumerate(() if frames is None else frames):
        if not MIN_FRAMES <= count <= longest or count != int(count):
            raise InputError(
                f"frames[{i}]", str(count), f"{MIN_FRAMES} to {longest} frames (20 a second)",
                "Ask for a length that the prior can make.",
            )  # fmt: skip
    if batch_size < 1:
        raise InputError("batch_size", str(batch_size), "at least 1", "32 is a good size.")
    _check_tokens(prior.text_encoder, prompts)


def _check_counts(
    prompts: Sequence[str], frames: Sequence[int] | None, seeds: Sequence[int]
) -> None:
    if isinstance(prompts, str):
        raise InputError("prompts", "one text", "a list of prompts", "Put it into a list.")
    if len(prompts) == 0:
        raise InputError("prompts", "an empty list", "at least one prompt", "Pass some prompts.")
    counts = [len(prompts), *([] if frames is None else [len(frames)]), len(seeds)]
    if len(set(counts)) > 1:
        raise InputError(
            "prompts, seeds" if frames is None else "prompts, frames, seeds",
            f"{', '.join(map(str, counts[:-1]))} and {counts[-1]} of them",
            "one seed for each prompt" if frames is None
            else "one length and one seed for each prompt",
            "Repeat a prompt to sample it again with another seed.",
        )  # fmt: skip


def _check_tokens(encoder: TextEncoder, prompts: Sequence[str]) -> None:
    for i, count in enumerate(encoder.count_tokens(prompts)):
        if count > encoder.max_tokens:
            raise InputError(
                f"prompts[{i}]", f"{len(prompts[i].split())} words, {count} tokens",
                f"at most {encoder.max_tokens} tokens, the most that {encoder.name} reads",
                "Shorten the prompt.",
            )  # fmt: skip
