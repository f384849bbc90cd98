"""The demo's text-motion corpus: made up, seeded, a stand-in for HumanML3D."""

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float

from t2imu_utils.demo.dance import dancing
from t2imu_utils.demo.figure import Figure, articulate, make_figures
from t2imu_utils.demo.gait import Take, walking
from t2imu_utils.demo.leaps import jumping
from t2imu_utils.demo.locomotion import running, stairs
from t2imu_utils.demo.rest import lying, sitting, standing
from t2imu_utils.demo.sentences import describe
from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.motion.features import RATE, joints_to_features
from t2imu_utils.motion.resample import resample

# Called with (rng, figure, times, vigour, plain).
KINDS: dict[str, Callable[..., Take]] = {
    "walking": walking,
    "running": running,
    "jumping": jumping,
    "dancing": dancing,
    "sitting": sitting,
    "standing": standing,
    "lying": lying,
    "climbing up": partial(stairs, up=True),
    "climbing down": partial(stairs, up=False),
}
FINE_RATE = 120.0
SECONDS = (3.0, 8.0)
SUBJECTS = {"train": 14, "val": 3, "test": 3}
SOURCE = "synthetic take"
_MARGIN = 0.5


def perform(
    rng: np.random.Generator, figure: Figure, activity: str, seconds: float
) -> tuple[Float[np.ndarray, "T 22 3"], dict[str, str]]:
    """One motion at 20 frames a second, joints in metres, and the words on it.

    It is made at 120 Hz with half a second more at both ends, so that the low-pass filter of the
    resampling never meets an end that is kept.
    """
    margin = round(_MARGIN * FINE_RATE)
    times = (np.arange(round(seconds * FINE_RATE) + 1 + 2 * margin) - margin) / FINE_RATE
    take = KINDS[activity](rng, figure, times)
    joints = resample(articulate(figure, take.pose)[0], FINE_RATE, RATE)
    cut = round(_MARGIN * RATE)
    return joints[cut:-cut], take.words


def build_corpus(seed: int = 0, clips: int = 450) -> tuple[list[MotionClip], dict[str, list[str]]]:
    """Made-up clips of nine kinds of motion by 20 subjects, and their split by subject.

    Every kind appears equally often, and in every split. Each clip has its own random stream, so a
    clip does not depend on how many others there are.

    Args:
        seed: of everything: subjects, motions, sentences.
        clips: at least 27: three of each kind, for one subject of each split.

    Returns:
        clips of 3-8 s at 20 frames a second with three sentences each; names of clips by split
        ("train", "val", "test").
    """
    if clips < 3 * len(KINDS):
        raise InputError(
            "build_corpus: clips",
            str(clips),
            f"at least {3 * len(KINDS)}, three of each kind of motion",
            "Ask for more clips.",
        )
    names = [f"demo{i:02d}" for i in range(sum(SUBJECTS.values()))]
    figures = dict(zip(names, make_figures(names, seed), strict=True))
    owner = dict(zip(names, _interleaved(SUBJECTS), strict=True))
    made: list[MotionClip] = []
    splits: dict[str, list[str]] = {split: [] for split in SUBJECTS}
    for index in range(clips):
        kind, turn = index % len(KINDS), index // len(KINDS)
        activity = list(KINDS)[kind]
        subject = names[turn % len(names)]
        rng = np.random.default_rng((seed, index))
        seconds = float(rng.uniform(*SECONDS))
        # Features of n frames take n + 1 frames of joints.
        frames = round(seconds * RATE)
        joints, words = perform(rng, figures[subject], activity, frames / RATE)
        clip = MotionClip(
            f"{index:06d}",
            joints_to_features(joints, convention="clean"),
            describe(rng, activity, words),
            subject,
            activity,
            f"{SOURCE} {index}",
        )
        made.append(clip)
        splits[owner[subject]].append(clip.name)
    return made, splits


def _interleaved(shares: dict[str, int]) -> list[str]:
    """Split of each subject: one of each first, then the rest, so that few clips meet all."""
    first = list(shares)
    return first + [split for split, count in shares.items() for _ in range(count - 1)]
