"""The CMU Graphics Lab motion capture database: its trials, and a text-motion corpus of them.

Files are ``NN/NN.asf`` with ``NN_TT.amc`` (the original) and ``NN/NN_TT.bvh`` (B. Hahne's release),
in zip archives, read in place, or in folders. Every trial is mapped onto the 22 joints, cleaned,
resampled from 120 to 20 frames a second, retargeted onto one body, turned into features and cut
into clips. The database tells a trial in a few words ("walk", "dance - small jetes, pirouette"),
of which a sentence is made by rule; KIT-ML has sentences of people.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm import tqdm

from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.motion.asfamc import bone_positions, parse_amc, parse_asf
from t2imu_utils.motion.bvh import joint_positions, parse_bvh
from t2imu_utils.motion.corpus import MotionClip, mirror_caption
from t2imu_utils.motion.features import (
    RATE,
    joints_to_features,
    mirror_joints,
    process_joints,
    processed_to_features,
)
from t2imu_utils.motion.resample import resample
from t2imu_utils.motion.skeleton import JOINTS, RAW_OFFSETS, joint_weights, weighted_joints
from t2imu_utils.motion.takes import RULES, Source, Take, clean, files_below, implausible

FORMS = ("amc", "bvh")  # the first is preferred: less foot skating, the subject's own bones
AMC_RATE = 120.0  # Hz; AMC files do not tell
METRES_PER_BVH_UNIT = 0.01

_MEMBER = re.compile(r"(?:^|/)(?:(?P<trial>\d+_\d+)\.(?P<form>bvh|amc)|(?P<subject>\d+)\.asf)$")


# Each of the 22 joints as a weighted mean of joints (BVH) or bone ends (ASF). The BVH hip lies
# below the thighs, so the pelvis is set 0.45 of the way from their middle to the abdomen.
JOINTS_FROM_BVH = joint_weights(
    "lr",
    pelvis="0.275 lThigh + 0.275 rThigh + 0.45 abdomen", spine1="abdomen",
    spine2="0.5 abdomen + 0.5 chest", spine3="chest", neck="neck", head="head", hip="<>Thigh",
    knee="<>Shin", ankle="<>Foot", foot="<>Foot.end", collar="<>Collar", shoulder="<>Shldr",
    elbow="<>ForeArm", wrist="<>Hand",
)  # fmt: skip
JOINTS_FROM_ASF = joint_weights(
    "lr",
    pelvis="root", spine1="lowerback", spine2="0.5 lowerback + 0.5 upperback", spine3="upperback",
    neck="lowerneck", head="upperneck", hip="<>hipjoint", knee="<>femur", ankle="<>tibia",
    foot="<>foot", collar="0.7 thorax + 0.3 <>clavicle", shoulder="<>clavicle",
    elbow="<>humerus", wrist="<>radius",
)  # fmt: skip


@dataclass
class Sources:
    """What a folder holds: trial → form → file, and subject → skeleton file."""

    trials: dict[str, dict[str, Source]] = field(default_factory=lambda: defaultdict(dict))
    skeletons: dict[str, Source] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)


def find_sources(folder: Path) -> Sources:
    """List BVH, AMC and ASF files below a folder and in its zip archives.

    Names are matched by pattern and never used as paths. Of a file that is there twice the first is
    taken (unpacked before zipped); the others are listed as skipped.
    """
    sources = Sources()
    for source in files_below(folder):
        match = _MEMBER.search(source.name)
        if not match:
            continue
        if match["subject"]:
            place, key = sources.skeletons, match["subject"]
        else:
            place, key = sources.trials[match["trial"]], match["form"]
        if key in place:
            sources.skipped.append(Skipped(str(source), f"already read from {place[key]}"))
        else:
            place[key] = source
    if not sources.trials:
        expected = "archives or folders with NN/NN_TT.bvh or NN/NN.asf and NN/NN_TT.amc"
        remedy = "Set T2IMU_DATA to the folder that holds cmu/."
        raise InputError(folder, "no motion capture file", expected, remedy)
    return sources


def read_trial(sources: Sources, trial: str, form: str) -> Take:
    """One trial in one form, which is the take's style, on the 22 joints.

    Raises:
        InputError: the file, or for AMC the subject's skeleton, is missing or damaged.
    """
    subject = subject_of(trial)
    source = sources.trials.get(trial, {}).get(form)
    if source is None:
        raise InputError(f"CMU trial {trial}", f"no {form} file", "one", "Check the archives.")
    if form == "bvh":
        bvh = parse_bvh(source.read(), str(source))
        joints = METRES_PER_BVH_UNIT * weighted_joints(JOINTS_FROM_BVH, joint_positions(bvh))
        rate = bvh.rate
    elif subject in sources.skeletons:
        asf = sources.skeletons[subject]
        skeleton = parse_asf(asf.read(), str(asf))
        motion = parse_amc(source.read(), skeleton, str(source))
        joints = weighted_joints(JOINTS_FROM_ASF, bone_positions(skeleton, motion))
        rate = AMC_RATE
    else:
        raise InputError(str(source), f"no {subject}.asf", "the subject's skeleton", "Fetch it.")
    return Take("cmu", "CMU (free)", subject, trial, "", form, joints, rate)


def subject_of(trial: str) -> str:
    """``"05"`` of ``"05_16"``."""
    return trial.partition("_")[0]


def trial_order(trial: str) -> tuple[int, int]:
    """Sorting key: by subject, then by number."""
    subject, _, number = trial.partition("_")
    return int(subject), int(number)


_NOTES = re.compile(r"\((2 )?subjects? - subject [ab]\)|\(human subject\)|\s+cleaned ?grs|\d{3}$")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
# Descriptions that tell about the recording, not about the motion.
_SAYS_NOTHING = re.compile(
    r"unknown|cleaned|clean|no movie|movie and trial dont match|bad amc|lost marker|story|"
    r"(subject |dynamic )?calibration|range ?of ?motion( \d+)?|t-?pose|\d+( \d+)?(\.amc)?|"
    r"[\d.]+ ?lbs?|start|forward|sequesnce"
)
_TOPICS = {
    "basketball": "plays basketball",
    "soccer": "plays soccer",
    "football": "plays football",
    "playground": "plays on a playground",
    "navigate": "moves around",
    "acrobatics": "does acrobatics",
    "conversation": "talks",
    "quarrel": "quarrels",
    "hand signals": "makes hand signals",
    "vignettes": "acts",
}
_VERBS = frozenset(
    "adjust answer avoid balance bend bounce bow box brush carry catch chop chug clap climb "
    "close crawl creep crouch curtsey dance dig direct dive drag drink drive dribble duck eat "
    "fall fish fix flip follow get go grab hammer hang hit hold hop jog jump kick kneel laugh "
    "lay lean leap lie lift limp link look lower march mix mop mope move navigate open paint "
    "pick place play point poke pull punch push put putt raise rake reach rise roll row run saw "
    "scoop screw search sew shake shave shoot shrug sing sip sit skip slap sneak spin sprint "
    "squat stand step stop stride strike stretch stroll stumble swat sweep swim swing teach "
    "throw tiptoe toss turn twirl twist unscrew vacuum veer wait walk wander wash wave whirl "
    "whistle wipe write yawn".split()
)
_MANNERS = {
    "slow": "slowly",
    "brisk": "briskly",
    "fast": "fast",
    "quick": "quickly",
    "careful": "carefully",
    "casual": "casually",
    "normal": "normally",
    "forward": "forward",
    "backward": "backward",
    "high": "high",
    "long": "far",
}
_NOUNS = ("jumping jacks", "jumping twists")

# Comment spam in the crowd-sourced sentences carries links, mark-up or addresses.
_SPAM = re.compile(
    r"<[^>]*>|\[/?url|https?:|www\.|\b[\w-]+\.(com|net|org|info|ru)\b|\S+@\S+", re.IGNORECASE
)
_DANGLING = frozenset("a an the and then first to with of his her".split())
_LONGEST = 80  # words


def sentence(description: str) -> str | None:
    """A plain sentence from a description: ``"run/jog, veer left"`` gives
    ``"a person runs or jogs and veers left."``, what starts with no known verb
    ``"a person performs …"``.

    None where the description says nothing about the motion ("unknown", "calibration").
    """
    text = _NOTES.sub("", _CAMEL.sub(" ", description.replace("_", " ")).lower())
    text = " ".join(text.split()).rstrip(" .")
    if not text or _SAYS_NOTHING.fullmatch(text):
        return None
    topic, _, rest = text.partition(" - ")
    if rest:
        return f"a person {_TOPICS.get(topic) or _clause(topic) or f'performs {topic}'}: {rest}."
    parts = [part.strip() for part in re.split(r"[,;]", text) if part.strip()]
    clauses = [clause for part in parts if (clause := _clause(part))]
    if not _clause(parts[0]):
        return f"a person performs {text}."
    if len(clauses) < len(parts):
        return f"a person {clauses[0]}: {', '.join(parts[1:])}."
    return f"a person {' and '.join(filter(None, [', '.join(clauses[:-1]), clauses[-1]]))}."


def why_spam(text: str) -> str | None:
    """Why a crowd-sourced sentence is not used; None for one that is."""
    words = text.split()
    if _SPAM.search(text):  # not quoted: the list of what was left out is published
        return "a link or mark-up"
    if len(words) < 2:
        return "fewer than two words"
    if len(words) > _LONGEST:
        return f"more than {_LONGEST} words"
    if words[-1].lower().strip(".,") in _DANGLING and len(words) < 4:
        return f"breaks off after {words[-1]!r}"
    return None


def _clause(text: str) -> str | None:
    """Third person of a phrase that starts with a verb, or with a manner and a verb."""
    words = text.split()
    if text.startswith(_NOUNS):
        return None
    if len(words) > 1 and words[0] in _MANNERS and (verbs := _verbs(words[1])):
        words[:2] = [verbs, _MANNERS[words[0]]]
    elif verbs := _verbs(words[0]):
        words[0] = verbs
    else:
        return None
    # "walk and turn": the second verb is in the third person as well.
    for i in range(2, len(words)):
        if words[i - 1] == "and":
            words[i] = _verbs(words[i]) or words[i]
    return " ".join(words).replace(" self", " themselves")


def _verbs(word: str) -> str | None:
    """``"run/jog"`` → ``"runs or jogs"``; None unless every part is a known verb."""
    bases = [_base(part) for part in word.split("/")]
    if None in bases:
        return None
    return " or ".join(_third_person(base) for base in bases)


def _base(word: str) -> str | None:
    """The verb of a word in its base form or its -ing form."""
    if word in _VERBS:
        return word
    if word.endswith("ing"):
        stem = word[:-3]
        for base in (stem[:-1], stem, stem + "e"):
            if base in _VERBS:
                return base
    return None


def _third_person(verb: str) -> str:
    if verb.endswith(("s", "sh", "ch", "x", "z", "o")):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


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
    "hip": 0.110, "knee": 0.375, "ankle": 0.440, "foot": 0.150, "spine1": 0.125, "spine2": 0.130,
    "spine3": 0.060, "neck": 0.220, "head": 0.095, "collar": 0.140, "shoulder": 0.115,
    "elbow": 0.270, "wrist": 0.240,
}  # fmt: skip
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
        progress: show a progress bar.
        speeds: at which training trials are played once more: 1.1 makes a motion a tenth shorter
            and its accelerations a fifth larger. (Another heading would change nothing: features
            do not hold it.)

    Raises:
        InputError: nothing to read, an unknown trial, a damaged archive or table, or not a single
            clip.
    """
    folder = root / "cmu" if (root / "cmu").is_dir() else root
    sources, texts = find_sources(folder), read_texts(folder)
    skipped = sources.skipped + texts.rejected
    if unknown := sorted(set(trials or ()) - set(sources.trials)):
        expected = "trials that it holds"
        raise InputError(f"{folder}: trials", ", ".join(unknown), expected, "Mend the list.")
    split_of = assign_splits(sources.trials, texts.descriptions)
    clips: list[MotionClip] = []
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    census: list[dict[str, object]] = []
    seen: dict[str, str] = {}
    chosen = sorted(sources.trials if trials is None else set(trials), key=trial_order)
    for trial in tqdm(chosen, "CMU trials", mininterval=2, disable=not progress):
        split, description = split_of[trial], texts.descriptions.get(trial, "")
        census.append(
            {"trial": trial, "subject": subject_of(trial), "description": description,
             "split": split, "form": "", "frames": 0, **dict.fromkeys(DROPPED, 0), "clips": 0,
             "seconds": 0.0}
        )  # fmt: skip
        if not texts.has(trial):
            skipped.append(Skipped(trial, f"nothing tells its motion ({description!r})"))
            continue
        recording = _load(sources, trial, seen, skipped)
        if recording is None:
            continue
        shortest = MIN_RUNNING_FRAMES if _RUNNING.search(description.lower()) else MIN_FRAMES
        # N rows of features describe N steps.
        cleaned = clean(recording.joints, recording.rate, shortest / RATE)
        made, unusable = _cut(recording, cleaned.segments, texts, skipped)
        if not made:
            skipped.append(Skipped(trial, "nothing long enough is left after cleaning"))
        taken = [clip for clip, _ in made]
        census[-1] |= {f"dropped: {rule}": n for rule, n in cleaned.dropped.items()}
        census[-1] |= {"form": recording.style, "frames": len(recording.joints)}
        census[-1] |= {"dropped: unusable": unusable, "clips": len(made)}
        census[-1]["seconds"] = sum(len(clip.features) for clip in taken) / RATE
        if split == "train":
            taken += [image for _, image in made]
            for speed in speeds:
                again, _ = _cut(recording, cleaned.segments, texts, [], speed)
                taken += [clip for pair in again for clip in pair]
        clips += taken
        splits[split] += [clip.name for clip in taken]
    if not clips:
        first = "; ".join(f"{s.name} ({s.reason})" for s in skipped[:3]) or "too short"
        found = f"no usable clip in {len(chosen)} trials"
        raise InputError(folder, found, "at least one", f"Left out: {first}.")
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
        found = f"{type(error).__name__}: {error}"
        raise InputError(path, found, "columns trial, description", "Fetch it again.") from error
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
        found = f"{type(error).__name__}: {error}"
        expected = "a list of {trial, start_s, end_s, text}"
        raise InputError(path, found, expected, "Fetch it again.") from error
    return Texts(descriptions, sentences, rejected)


def _load(
    sources: Sources, trial: str, seen: dict[str, str], skipped: list[Skipped]
) -> Take | None:
    """A trial in the best form that can be read; None where none can, or where it was `seen`."""
    for form in FORMS:
        if form not in sources.trials[trial]:
            continue
        try:
            recording = read_trial(sources, trial, form)
        except InputError as error:
            skipped.append(Skipped(f"{trial} ({form})", str(error)))
            continue
        if fault := implausible(recording.joints):
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
    recording: Take,
    segments: Sequence[tuple[int, int]],
    texts: Texts,
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
            joints = process_joints(joints, TARGET_OFFSETS, convention="clean")
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
            own = features[first:last]
            clip = MotionClip(name, own, captions, subject_of(trial), source=trial)
            reflected = [mirror_caption(caption) for caption in captions]
            image = replace(clip, name=f"M{name}", features=mirror[first:last], captions=reflected)
            made.append((clip, image))
    return made, unusable
