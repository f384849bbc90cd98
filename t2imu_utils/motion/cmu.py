"""The CMU Graphics Lab motion capture database: its trials on the 22 joints, and their sentences.

Files are ``NN/NN.asf`` with ``NN_TT.amc`` (the original) and ``NN/NN_TT.bvh`` (B. Hahne's release),
in zip archives, read in place, or in folders. The database tells a trial in a few words ("walk",
"dance - small jetes, pirouette"), of which a sentence is made by rule; KIT-ML has those of people.
"""

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.motion.asfamc import bone_positions, parse_amc, parse_asf
from t2imu_utils.motion.bvh import joint_positions, parse_bvh
from t2imu_utils.motion.skeleton import JOINTS, RAW_OFFSETS, joint_weights, weighted_joints
from t2imu_utils.motion.takes import Source, Take, files_below

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


_INDEX = re.compile(r"(\d+_\d+)\s+(\S.*)")
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
