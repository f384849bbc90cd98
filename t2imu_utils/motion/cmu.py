"""The CMU Graphics Lab motion capture database as a text-motion corpus.

Every trial is mapped onto the 22 joints, cleaned, resampled from 120 to 20 frames a second,
retargeted onto one body, turned into features and cut into clips; its text comes from the
database's own description and the KIT-ML sentences.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm import tqdm

from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.motion.captions import sentence, why_spam
from t2imu_utils.motion.cleaning import RULES, clean
from t2imu_utils.motion.cmu_trials import (
    FORMS,
    Recording,
    Sources,
    find_sources,
    read_trial,
    subject_of,
    trial_order,
)
from t2imu_utils.motion.corpus import MotionClip, mirror_caption
from t2imu_utils.motion.features import (
    RATE,
    joints_to_features,
    mirror_joints,
    process_joints,
    processed_to_features,
)
from t2imu_utils.motion.resample import resample
from t2imu_utils.motion.skeleton import JOINTS, RAW_OFFSETS

# Nobody of these is trained on. Validation subjects hold no activity that others lack.
TEST_SUBJECTS = ("01", "02", "07", "14", "35")
VAL_SUBJECTS = ("10", "16", "29")
SPLITS = ("train", "val", "test", "test_trials")
# Of every kind of trial that a training subject has three or more of (kind: the first word of the
# description), the third, eighth, … is held out: running and dance exist for one subject each.
HELD_OUT_FIRST, HELD_OUT_EVERY = 2, 5

MAX_FRAMES = 196  # HumanML3D's own maximum at 20 frames a second
MIN_FRAMES = 40
MIN_RUNNING_FRAMES = 20  # the database's running trials are that short
DROPPED = (*(f"dropped: {rule}" for rule in RULES), "dropped: unusable")
_INDEX = re.compile(r"(\d+_\d+)\s+(\S.*)")
_RUNNING = re.compile(r"\b(run|jog|sprint)")
# A sentence describes a clip if its time range holds at least this share of it.
MIN_OVERLAP = 0.5

# The body that all clips are retargeted onto, bone lengths in metres: the mean of the open body in
# data/body, rounded to 5 mm, so that fitting it to the clips need not change its shape.
_BONES = {
    "hip": 0.110,
    "knee": 0.375,
    "ankle": 0.440,
    "foot": 0.150,
    "spine1": 0.125,
    "spine2": 0.130,
    "spine3": 0.060,
    "neck": 0.220,
    "head": 0.095,
    "collar": 0.140,
    "shoulder": 0.115,
    "elbow": 0.270,
    "wrist": 0.240,
}
_LENGTHS = np.array([_BONES.get(name.split("_")[-1], 0.0) for name in JOINTS])
TARGET_OFFSETS: Float[np.ndarray, "22 3"] = RAW_OFFSETS * _LENGTHS[:, None]


@dataclass(frozen=True)
class CmuCorpus:
    """The corpus and its account.

    `splits` maps train, val, test (unseen subjects) and test_trials (unseen trials of training
    subjects) to clip names; `census` has a row for each trial; `skipped` lists what was left out:
    trials, files, segments, sentences.
    """

    clips: list[MotionClip]
    splits: dict[str, list[str]]
    census: pd.DataFrame
    skipped: list[Skipped]


@dataclass(frozen=True)
class Texts:
    """Descriptions by trial, and KIT-ML sentences by trial as (start s, end s, text)."""

    descriptions: dict[str, str]
    sentences: dict[str, list[tuple[float, float, str]]]
    rejected: list[Skipped]

    def has(self, trial: str) -> bool:
        """Whether anything tells what the trial shows."""
        return bool(sentence(self.descriptions.get(trial, "")) or self.sentences.get(trial))

    def captions(self, trial: str, start: float, end: float) -> list[str]:
        """What describes seconds `start` to `end`: our sentence, the database's words, KIT-ML."""
        description = self.descriptions.get(trial, "")
        plain = sentence(description)
        told = [
            text
            for first, last, text in self.sentences.get(trial, [])
            if min(end, last) - max(start, first) >= MIN_OVERLAP * (end - start)
        ]
        return list(dict.fromkeys(([plain, description] if plain else []) + told))


def build_cmu(
    root: Path,
    trials: Collection[str] | None = None,
    target_offsets: Float[np.ndarray, "22 3"] = TARGET_OFFSETS,
    progress: bool = True,
    speeds: Sequence[float] = (),
) -> CmuCorpus:
    """Build the corpus. Deterministic; which split a trial falls into does not depend on `trials`.

    Where a trial is there as AMC and as BVH, AMC is taken. Files that cannot be read are skipped
    and listed. Heights count from the lowest point of a segment, not of a clip or of a trial: some
    trials climb.

    Args:
        root: the folder ``cmu`` (or the one that holds it) with archives or unpacked folders,
            ``descriptions.csv`` and, if wanted, ``kitml_sentences.json``.
        trials: only these, for example ``["05_16"]``; all when None.
        target_offsets: rest-pose offsets in metres of the body that all motion is retargeted onto.
        progress: show a progress bar.
        speeds: at which training trials are played once more: 1.1 makes a motion a tenth shorter
            and its accelerations a fifth larger. (Another heading would change nothing: features
            do not hold it.)

    Raises:
        InputError: nothing to read, an unknown trial, a damaged archive or table, or not a single
            clip.
    """
    folder = root / "cmu" if (root / "cmu").is_dir() else root
    sources = find_sources(folder)
    texts = read_texts(folder)
    skipped = sources.skipped + texts.rejected
    if unknown := sorted(set(trials or ()) - set(sources.trials)):
        raise InputError(
            f"{folder}: trials", ", ".join(unknown), "trials that it holds", "Mend the list."
        )
    split_of = assign_splits(sources.trials, texts.descriptions)
    clips: list[MotionClip] = []
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    census: list[dict[str, object]] = []
    seen: dict[str, str] = {}
    chosen = sorted(sources.trials if trials is None else set(trials), key=trial_order)
    for trial in tqdm(chosen, "CMU trials", mininterval=2, disable=not progress):
        split, description = split_of[trial], texts.descriptions.get(trial, "")
        account = {"trial": trial, "subject": subject_of(trial), "description": description}
        account |= {"split": split, "form": "", "frames": 0, **dict.fromkeys(DROPPED, 0)}
        account |= {"clips": 0, "seconds": 0.0}
        census.append(account)
        if not texts.has(trial):
            skipped.append(Skipped(trial, f"nothing tells its motion ({description!r})"))
        elif recording := _load(sources, trial, seen, skipped):
            shortest = MIN_RUNNING_FRAMES if _RUNNING.search(description.lower()) else MIN_FRAMES
            # N rows of features describe N steps.
            cleaned = clean(recording.joints, recording.rate, shortest / RATE)
            made, unusable = _cut(recording, cleaned.segments, texts, target_offsets, skipped)
            if not made:
                skipped.append(Skipped(trial, "nothing long enough is left after cleaning"))
            originals = [clip for clip, _ in made]
            taken = list(originals)
            if split == "train":
                taken += [image for _, image in made]
                for speed in speeds:
                    again, _ = _cut(recording, cleaned.segments, texts, target_offsets, [], speed)
                    taken += [clip for pair in again for clip in pair]
            clips += taken
            splits[split] += [clip.name for clip in taken]
            dropped = {f"dropped: {rule}": n for rule, n in cleaned.dropped.items()}
            account |= {"form": recording.form, "frames": len(recording.joints), **dropped}
            account |= {"dropped: unusable": unusable, "clips": len(made)}
            account["seconds"] = sum(len(clip.features) for clip in originals) / RATE
    if not clips:
        raise InputError(
            folder,
            f"no usable clip in {len(chosen)} trials",
            "at least one",
            f"Left out: {'; '.join(f'{s.name} ({s.reason})' for s in skipped[:3]) or 'too short'}.",
        )
    return CmuCorpus(clips, splits, pd.DataFrame(census), skipped)


def assign_splits(trials: Iterable[str], descriptions: Mapping[str, str]) -> dict[str, str]:
    """The split of every trial, from its subject and the kind of trial."""
    split_of, kinds = {}, defaultdict(list)
    for trial in sorted(trials, key=trial_order):
        subject = subject_of(trial)
        if subject in TEST_SUBJECTS:
            split_of[trial] = "test"
        elif subject in VAL_SUBJECTS:
            split_of[trial] = "val"
        else:
            split_of[trial] = "train"
            kinds[subject, *descriptions.get(trial, "").split()[:1]].append(trial)
    for kind in kinds.values():
        for trial in kind[HELD_OUT_FIRST::HELD_OUT_EVERY]:
            split_of[trial] = "test_trials"
    return split_of


def read_texts(folder: Path) -> Texts:
    """Read ``descriptions.csv`` or the database's own index, and ``kitml_sentences.json`` if any.

    Lines of the index ``cmu-mocap-index-text.txt`` are a trial and its description, such as
    ``05_02<tab>dance - expressive arms``; the other lines are headings.

    Raises:
        InputError: the table is missing, or one of the two has other columns or is damaged.
    """
    path, index = folder / "descriptions.csv", folder / "cmu-mocap-index-text.txt"
    try:
        if path.exists() or not index.exists():
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
            descriptions = dict(zip(table["trial"], table["description"], strict=True))
        else:
            lines = index.read_text("utf-8-sig", errors="replace").split("\n")
            descriptions = dict(m.groups() for line in lines if (m := _INDEX.match(line.strip())))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            path,
            f"{type(error).__name__}: {error}",
            "columns trial, description",
            "Fetch it again.",
        ) from error
    path = folder / "kitml_sentences.json"
    sentences, rejected = defaultdict(list), []
    if not path.exists():
        rejected.append(Skipped(str(path), "no such file: captions are the descriptions alone"))
        return Texts(descriptions, sentences, rejected)
    try:
        for row in json.loads(path.read_text(encoding="utf-8")):
            if reason := why_spam(row["text"]):
                rejected.append(Skipped(f"KIT-ML sentence on {row['trial']}", reason))
                continue
            # '#' separates the fields of HumanML3D's text files.
            text = " ".join(row["text"].replace("#", " ").split())
            sentences[row["trial"]].append((float(row["start_s"]), float(row["end_s"]), text))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            path,
            f"{type(error).__name__}: {error}",
            "a list of {trial, start_s, end_s, text}",
            "Fetch it again.",
        ) from error
    return Texts(descriptions, sentences, rejected)


def _load(
    sources: Sources, trial: str, seen: dict[str, str], skipped: list[Skipped]
) -> Recording | None:
    """A trial in the best form that can be read; None where none can, or where it was `seen`."""
    from t2imu_utils.motion.open_corpus import implausible  # which imports this module

    for form in FORMS:
        if form not in sources.trials[trial]:
            continue
        try:
            recording = read_trial(sources, trial, form)
        except InputError as error:
            skipped.append(Skipped(f"{trial} ({form})", str(error)))
            continue
        if fault := implausible(recording):
            skipped.append(Skipped(f"{trial} ({form})", fault))
            continue
        # Some trials of the database are the same recording under two numbers.
        same = seen.setdefault(sha256(recording.joints.round(4).tobytes()).hexdigest(), trial)
        if same != trial:
            skipped.append(Skipped(trial, f"the same recording as {same}"))
            return None
        return recording
    return None


def _cut(
    recording: Recording,
    segments: Sequence[tuple[int, int]],
    texts: Texts,
    target_offsets: Float[np.ndarray, "22 3"],
    skipped: list[Skipped],
    speed: float = 1.0,
) -> tuple[list[tuple[MotionClip, MotionClip]], int]:
    """Clips of the segments of a trial, each with its mirror image, and frames without features.

    Features are computed on whole segments and then cut, so that clips share floor and heading.
    Each segment is resampled alone: what `clean` left beyond its ends is never the same motion, but
    jumps, T-poses and tracking that has not settled. speed: at which the motion is played; others
    than 1 stand in the clips' names.
    """
    trial, rate = recording.trial, recording.rate
    mark = "" if speed == 1 else f"x{speed:g}"
    made: list[tuple[MotionClip, MotionClip]] = []
    unusable = 0
    for start, end in segments:
        try:
            joints = resample(recording.joints[start:end], rate * speed, RATE)
            joints = process_joints(joints, target_offsets, convention="clean")
            features = processed_to_features(joints, convention="clean")
            mirror = joints_to_features(mirror_joints(joints), convention="clean")
        except InputError as error:
            skipped.append(Skipped(f"{trial}, frames {start} to {end}", str(error)))
            unusable += end - start
            continue
        count = math.ceil(len(features) / MAX_FRAMES)
        edges = np.linspace(0, len(features), count + 1).round().astype(int)
        for first, last in zip(edges[:-1], edges[1:], strict=True):
            seconds = start / rate + np.array([first, last]) / RATE * speed
            name, captions = f"{trial}_{len(made):02d}{mark}", texts.captions(trial, *seconds)
            if not captions:
                skipped.append(Skipped(f"{trial}, {seconds.round(1)} s", "no sentence tells of it"))
                continue
            clip = MotionClip(
                name=name,
                features=features[first:last],
                captions=captions,
                subject=subject_of(trial),
                source=trial,
            )
            reflected = [mirror_caption(caption) for caption in captions]
            image = replace(clip, name=f"M{name}", features=mirror[first:last], captions=reflected)
            made.append((clip, image))
    return made, unusable
