"""The open corpus: CMU, Bandai-Namco, ReActIdle and UI-PRMD as one set of clips with sentences.

Every source becomes `Take`s on the 22 joints, stands upright by its own constant offsets, is
checked (height, bones, floor), resampled to 20 frames a second, retargeted onto one body and cut
into clips of at most `MAX_FRAMES`. Sitting, lying, stairs and more jumps are made from recordings
(`composed`). A sentence holds for the whole of its clip. The rare is played at several speeds, the
frequent is capped, all of training is mirrored.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm import tqdm

from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.motion.bvh import read_bandai, read_reactidle
from t2imu_utils.motion.cmu import (
    TARGET_OFFSETS,
    Texts,
    find_sources,
    read_deepmimic,
    read_texts,
    read_trial,
    subject_of,
    trial_order,
)
from t2imu_utils.motion.composed import make_jumps, make_postures, make_runs, make_stairs
from t2imu_utils.motion.corpus import MotionClip, mirror_caption
from t2imu_utils.motion.features import (
    RATE,
    features_to_joints,
    joints_to_features,
    mirror_joints,
    process_joints,
    processed_to_features,
)
from t2imu_utils.motion.sentences import activity_of, allowed, cmu_sentences, sentences
from t2imu_utils.motion.skeleton import resample
from t2imu_utils.motion.takes import Take, clean, implausible, upright
from t2imu_utils.motion.uiprmd import read_uiprmd

SPLITS = ("train", "val", "test")
MAX_FRAMES = 196  # HumanML3D's own maximum at 20 frames a second
MIN_FRAMES = 20  # running trials of CMU are that short
# Lengths that long takes are cut into, so that every length is trained that can be asked for.
CUTS = (196, 120, 160, 80, 140, 196, 100, 60)

# Nobody of these is trained on. Of Bandai-Namco, whose few actors are not told apart, two styles of
# the first set and every tenth take of the second; of ReActIdle and UI-PRMD the last people.
HELD_OUT = {
    "cmu": {"test": ("01", "02", "07", "14", "35"), "val": ("10", "16", "29")},
    "bandai-1": {"test": ("proud",), "val": ("sad",)},
    "reactidle": {"test": ("014", "015"), "val": ("012",)},
    "uiprmd": {"test": (), "val": ("s10",)},
}
# Sitting is recorded for too few: these trials of a test subject are trained on.
SITTING = ("14_27", "14_28", "14_29", "14_30", "14_31", "14_32")
# Of DeepMimic: what lies on the ground and gets up.
GET_UPS = (
    "139_16", "139_17", "140_01", "140_02", "140_03",
    "humanoid3d_getup_facedown", "humanoid3d_getup_faceup",
)  # fmt: skip
DUPLICATES = ("14_36",)  # the same recording as 14_31

CAPPED = {"gesture": 25.0, "standing": 25.0}  # minutes of recorded motion in training
STAIRS_MINUTES = 15.0
RUNS_MINUTES = 15.0
# Minutes of training that an activity is brought to by playing it at other speeds as well.
WANTED = {"jumping": 10.0, "sit down": 8.0, "stand up": 8.0, "lie down": 8.0, "get up": 8.0}
SPEEDS = (1.0, 0.9, 1.1, 0.95, 1.05, 0.85, 1.15, 0.925, 1.075)

FLOOR = 0.08  # m: in half of a clip's frames the lowest joint is below that; ankles roll over toes
PEAK = 150.0  # m/s²: recorded runs reach 127
OFF_THE_FLOOR = ("climbing up", "climbing down")  # what leaves it by right


@dataclass(frozen=True)
class OpenCorpus:
    """`splits` maps train, val and test to names; `census` has a row for every clip of the corpus;
    `skipped` names what was left out and why."""

    clips: list[MotionClip]
    splits: dict[str, list[str]]
    census: pd.DataFrame
    skipped: list[Skipped]


def build_open(root: Path, seed: int = 0) -> OpenCorpus:
    """Build the corpus from the data root that holds ``cmu/``, ``bandai/``, ``deepmimic/``,
    ``reactidle/`` and ``uiprmd/``. Deterministic by `seed`."""
    takes, skipped = open_takes(root, seed)
    texts = read_texts(root / "cmu")
    rows, clips, splits = [], [], {split: [] for split in SPLITS}
    rng = np.random.default_rng([seed, 1])
    pieces = [
        (split_of(take), _described(piece, texts, seed)) for take in takes for piece in cut(take)
    ]
    silent = [take for _, take in pieces if not take.texts]
    skipped += [
        Skipped(f"{take.source} {take.trial}", "no sentence tells of it") for take in silent
    ]
    pieces = _capped([piece for piece in pieces if piece[1].texts], rng)
    copies = _copies(pieces)
    for split, take in tqdm(pieces, "clips", mininterval=5):
        activity = activity_of(take)
        for speed in SPEEDS[: copies[activity] if split == "train" else 1]:
            try:
                made = to_clips(take, speed)
            except InputError as error:
                skipped.append(Skipped(f"{take.source} {take.trial}", str(error)))
                break
            if fault := broken(made[0].features, on_floor=activity not in OFF_THE_FLOOR):
                skipped.append(Skipped(f"{take.source} {take.trial}", fault))
                break
            for clip in made if split == "train" else made[:1]:
                clips.append(replace(clip, activity=activity))
                splits[split].append(clip.name)
                made_how = take.made
                if take.made == "recorded" and clip is not made[0]:
                    made_how = "mirrored"
                rows.append({
                    "name": clip.name, "split": split, "source": take.source,
                    "licence": take.licence, "subject": take.subject, "trial": take.trial,
                    "style": take.style, "activity": activity, "made": made_how, "speed": speed,
                    "minutes": len(clip.features) / RATE / 60,
                })  # fmt: skip
    return OpenCorpus(clips, splits, pd.DataFrame(rows), skipped)


def open_takes(root: Path, seed: int = 0) -> tuple[list[Take], list[Skipped]]:
    """All takes of all sources, upright and checked, with what is made from them."""
    idle, left_idle = read_reactidle(root)
    sources = [
        (idle, left_idle), read_cmu(root), read_deepmimic(root), read_bandai(root),
        read_uiprmd(root, arms=idle[0]),
    ]  # fmt: skip
    skipped = [reason for _, left in sources for reason in left]
    descriptions = read_texts(root / "cmu").descriptions
    seen: set[str] = set()
    groups: dict[tuple[str, str], list[Take]] = defaultdict(list)
    for take in (take for found, _ in sources for take in found):
        number = _trial_number(take)
        if take.source == "deepmimic":
            take = replace(take, content=descriptions.get(number, take.content))
        # Trials of CMU that are there in two forms: its own files have the subject's own bones.
        if take.source == "deepmimic" and number in seen:
            skipped.append(Skipped(f"deepmimic {take.trial}", "read from CMU's own files"))
        elif fault := implausible(take.joints):
            skipped.append(Skipped(f"{take.source} {take.trial}", fault))
        else:
            # The skeletons of CMU's two forms differ.
            groups[take.source, take.style if take.source == "cmu" else ""].append(take)
            if take.source == "cmu":
                seen.add(number)
    takes = []
    for (source, form), group in groups.items():
        try:
            takes += upright(group)
        except InputError as error:
            skipped.append(Skipped(f"{source} {form}: upright", str(error)))
            takes += group
    takes = [half for take in takes for half in _halves(take)]
    low = (*SITTING, "13_01", *GET_UPS)
    postures = [t for t in takes if t.source == "uiprmd" or _trial_number(t) in low]
    made = make_postures(postures, seed)
    training = [take for take in takes if split_of(take) == "train"]
    made += make_jumps(training)
    running = [take for take in training if activity_of(take) == "running"]
    made += make_runs(running, RUNS_MINUTES, seed)
    for split, minutes in (("train", STAIRS_MINUTES), ("val", 1.0)):
        walks = [take for take in takes if split_of(take) == split]
        for direction in ("up", "down"):
            made += make_stairs(walks, direction, minutes, seed)
    sitting = {_trial_number(take) for take in postures if take.source != "uiprmd"}
    return [t for t in takes if _trial_number(t) not in sitting] + made, skipped


def _halves(take: Take) -> list[Take]:
    """CMU's stairs go up three steps and down again: a take each. Others as they are."""
    if take.content != "climb 3 steps":
        return [take]
    top = int(take.joints[:, 0, 1].argmax())
    number = _trial_number(take)
    first = int(re.search(r"_f(\d+)$", take.trial)[1]) / RATE if "_f" in take.trial else 0.0
    return [
        replace(take, trial=f"{number}_{_frame(first + start / take.rate)}", joints=part)
        for start, part in ((0, take.joints[:top]), (top, take.joints[top:]))
        if len(part) > MIN_FRAMES / RATE * take.rate
    ]


def read_cmu(root: Path) -> tuple[list[Take], list[Skipped]]:
    """CMU's own files as takes, one for every whole segment; its style is the file's form."""
    folder = root / "cmu"
    sources, texts = find_sources(folder), read_texts(folder)
    takes, skipped = [], list(sources.skipped)
    for trial in sorted(sources.trials, key=trial_order):
        # Less foot skating, and the subject's own bones.
        form = "amc" if "amc" in sources.trials[trial] else "bvh"
        if trial in DUPLICATES or not texts.has(trial):
            skipped.append(Skipped(trial, "twice in the database, or nothing tells its motion"))
            continue
        try:
            recording = read_trial(sources, trial, form)
        except InputError as error:
            skipped.append(Skipped(f"{trial} ({form})", str(error)))
            continue
        rate = recording.rate
        for start, end in clean(recording.joints, rate, MIN_FRAMES / RATE):
            takes.append(
                Take(
                    "cmu", "CMU (free)", subject_of(trial), f"{trial}_{_frame(start / rate)}",
                    texts.descriptions.get(trial, ""), form, recording.joints[start:end], rate,
                )
            )  # fmt: skip
    return takes, skipped


def _described(take: Take, texts: Texts, seed: int) -> Take:
    """With its sentences: the sources' own on CMU, ours everywhere."""
    if take.source not in ("cmu", "deepmimic") or take.made != "recorded":
        return replace(take, texts=sentences(take, seed=seed))
    number = _trial_number(take)
    start = int(match[1]) / RATE if (match := re.search(r"_f(\d+)$", take.trial)) else 0.0
    told = texts.captions(number, start, start + len(take.joints) / take.rate)
    told += cmu_sentences(number, take.content, seed=seed)
    told += sentences(take, seed=seed)
    return replace(take, texts=tuple(t for t in dict.fromkeys(told) if allowed(number, t)))


def _frame(seconds: float) -> str:
    return f"f{round(seconds * RATE):05d}"


def _trial_number(take: Take) -> str:
    """CMU's number of a take: ``"13_01"`` of ``"13_01_f00120"``."""
    match = re.match(r"\d+_\d+", take.trial)
    return match[0] if match else take.trial


def split_of(take: Take) -> str:
    """train, val or test: by person, where people are known, else by style or take."""
    source, by = take.source, take.subject
    if source in ("cmu", "deepmimic"):
        if _trial_number(take) in SITTING:
            return "train"
        source = "cmu"
    elif source == "bandai" and take.subject != "bandai-1":
        number = int(re.search(r"(\d+)(?!.*\d)", take.trial)[1])
        return {0: "test", 5: "val"}.get(number % 10, "train")
    elif source == "bandai":
        source, by = "bandai-1", take.style
    return next((split for split, held in HELD_OUT[source].items() if by in held), "train")


def broken(features: Float[np.ndarray, "T 263"], on_floor: bool = True) -> str:
    """Why a clip is no person's: jumps of the tracking, or a body that floats; "" for a sound one.

    Its lowest joint is at 0 m.
    """
    joints = features_to_joints(features)
    peak = float(np.linalg.norm(np.diff(joints, 2, axis=0), axis=-1).max()) * RATE**2
    if peak > PEAK:
        return f"a joint that accelerates by {peak:.0f} m/s²"
    middle = float(np.median(joints[..., 1].min(axis=1)))
    if on_floor and middle > FLOOR:
        return f"lowest joint {100 * middle:.0f} cm up in half of the frames"
    return ""


def cut(take: Take) -> list[Take]:
    """Pieces of at most `MAX_FRAMES` at 20 Hz, of varied lengths; whole where that is enough."""
    frames = int(len(take.joints) / take.rate * RATE)
    if frames < MIN_FRAMES:
        return []
    if frames <= MAX_FRAMES:
        return [take]
    offset = sum(map(ord, take.trial))
    lengths, total = [], 0
    while frames - total > MAX_FRAMES:
        lengths.append(CUTS[(offset + len(lengths)) % len(CUTS)])
        total += lengths[-1]
    lengths.append(frames - total)
    edges = np.r_[0, np.cumsum(lengths)] / RATE * take.rate
    pieces = []
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        if last - first < MIN_FRAMES / RATE * take.rate:
            continue
        start, name = first / take.rate, take.trial
        if match := re.search(r"_f(\d+)$", name):
            start, name = start + int(match[1]) / RATE, name[: match.start()]
        part = take.joints[int(first) : int(last)]
        pieces.append(replace(take, trial=f"{name}_{_frame(start)}", joints=part))
    return pieces


def to_clips(take: Take, speed: float = 1.0) -> tuple[MotionClip, MotionClip]:
    """A take as a clip of features, and its mirror image; `speed` stands in the names."""
    joints = resample(take.joints, take.rate * speed, RATE)[: MAX_FRAMES + 1]
    joints = process_joints(joints, TARGET_OFFSETS, convention="clean")
    name = f"{take.source}_{take.trial}".replace(" ", "-") + ("" if speed == 1 else f"x{speed:g}")
    clip = MotionClip(
        name, processed_to_features(joints, convention="clean"), list(take.texts), take.subject,
        "", f"{take.source} {take.trial}",
    )  # fmt: skip
    mirror = joints_to_features(mirror_joints(joints), convention="clean")
    captions = [mirror_caption(text) for text in clip.captions]
    return clip, replace(clip, name=f"M{name}", features=mirror, captions=captions)


def _minutes(take: Take) -> float:
    return len(take.joints) / take.rate / 60


def _capped(pieces: Sequence[tuple[str, Take]], rng: np.random.Generator) -> list[tuple[str, Take]]:
    """Without what is recorded in training more often than `CAPPED` allows; drawn evenly."""
    total: dict[str, float] = defaultdict(float)
    kept = set()
    for i in rng.permutation(len(pieces)):
        split, take = pieces[i]
        activity = activity_of(take)
        if split == "train" and total[activity] + _minutes(take) > CAPPED.get(activity, np.inf):
            continue
        if split == "train":
            total[activity] += _minutes(take)
        kept.add(i)
    return [piece for i, piece in enumerate(pieces) if i in kept]


def _copies(pieces: Sequence[tuple[str, Take]]) -> dict[str, int]:
    """At how many speeds each activity is trained on."""
    total: dict[str, float] = defaultdict(float)
    for split, take in pieces:
        if split == "train":
            total[activity_of(take)] += _minutes(take)
    return {
        activity: int(np.clip(round(WANTED.get(activity, 0.0) / minutes), 1, len(SPEEDS)))
        for activity, minutes in total.items()
    }
