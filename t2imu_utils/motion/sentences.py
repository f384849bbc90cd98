"""Sentences for recordings that come with a content and a style, from small grammars.

`data/prompts/templates.yaml` holds the grammars: a sentence is a subject and a predicate, and half
of the sentences of a styled recording name the style. What can be measured is: the pace, and the
side that a walk turns to. The prompts that evaluate a prior are never among the sentences.
"""

import random
import re
from functools import cache
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float

from t2imu_utils.errors import InputError
from t2imu_utils.motion.skeleton import JOINTS, Joints
from t2imu_utils.motion.takes import Take, turned_left

PROMPTS = Path(__file__).parents[2] / "data" / "prompts"
# A take's activity is one of `activities.ACTIVITIES` or of these.
OTHER_ACTIVITIES = (
    "sit down", "stand up", "lie down", "get up", "gesture", "dance", "turning", "other",
)  # fmt: skip
MOST_WORDS = 14
_CMU_TRIAL = re.compile(r"(?<!\d)(\d{2,3}_\d{2})(?!\d)")
_CLIMBS = r"\b(climb|stair|step|upstair|downstair|ascend|descend)"
_STAIRS = _CLIMBS + r"|\bladder"
_LADDERS = frozenset("13_33 13_34 14_33 14_34 14_35".split())
_ON_THE_GROUND = "13_10"  # "jump up to grab", but its feet stay down
_TURN = 30.0  # degrees; a walk that turns less does not turn
_RISE = 0.25  # m; who ends no higher has come down again


def sentences(take: Take, count: int = 12, seed: int = 0) -> tuple[str, ...]:
    """`count` different sentences that hold for the whole take, the same for a trial and a seed.

    A mirrored take keeps the content of its original: left and right are swapped here.
    """
    content = _content(take)
    if content is None:
        return ()
    texts = _drawn(content, take.style, _speeds(take.joints, take.rate), take.trial, count, seed)
    trial = _CMU_TRIAL.search(take.trial)
    return tuple(text for text in texts if not trial or allowed(trial[0], text))


def cmu_sentences(trial: str, description: str, count: int = 12, seed: int = 0) -> tuple[str, ...]:
    """Sentences for a trial of the CMU database; none where no grammar fits its description."""
    content = _cmu_content(description)
    if content is None:
        return ()
    texts = _drawn(content, "", np.zeros(0), trial, count, seed)
    return tuple(text for text in texts if allowed(trial, text))


def allowed(trial: str, text: str) -> bool:
    """Whether a sentence, the database's own and the crowd's too, may stand on a CMU trial.

    "Climb" and "steps" mean stairs: not the playground of subject 01, and no ladder. Nothing that
    evaluates a prior is allowed anywhere.
    """
    if _predicate(text) in _reserved():
        return False
    if trial.startswith("01_") or trial in _LADDERS:
        return not re.search(_STAIRS if trial.startswith("01_") else _CLIMBS, text.lower())
    return trial != _ON_THE_GROUND or not re.search("jump|leap", text.lower())


def grammar_sentences(most: int = 48) -> list[tuple[str, str]]:
    """Activity and sentence of every content, at most so many of each, evenly from its readings."""
    marks = {"<side>": ("left", "right"), "<posture>": ("back", "front", "side")}
    found = []
    for general in _templates()["contents"]:
        mark = next((mark for mark in marks if mark in general), "")
        for word in marks.get(mark, ("",)):
            content = general.replace(mark, word) if mark else general
            says = {p: None for pace in ("slow", "fast") for p in _predicates(content, pace)[1]}
            says = [predicate for predicate in says if predicate not in _reserved()]
            kept = says[:: max(1, len(says) // most)][:most]
            found += [(_grammar(content)["activity"], f"a person {says}") for says in kept]
    return list(dict.fromkeys(found))


def activity_of(take: Take) -> str:
    """What the take shows: one of `activities.ACTIVITIES` or of `OTHER_ACTIVITIES`."""
    content = _content(take)
    return _grammar(content)["activity"] if content else "other"


@cache
def _templates() -> dict[str, Any]:
    return yaml.safe_load((PROMPTS / "templates.yaml").read_text(encoding="utf-8"))


def _content(take: Take) -> str | None:
    """The grammar of a take; None for a description of the CMU database that has none.

    Left and right are swapped where the take is mirrored. The side of a turn and the way on stairs
    are those of the joints: some recordings of Bandai-Namco turn the other way than named, and
    those of the CMU database go up and down.
    """
    content = take.content
    if take.made == "mirrored":
        swap = {"left": "right", "right": "left"}
        content = re.sub(r"(?i)left|right", lambda side: swap[side[0].lower()], content)
    if take.source in ("cmu", "deepmimic"):
        rise = take.joints[-1, 0, 1] - take.joints[0, 0, 1]
        return _cmu_content(content, rise) or (content if _key(content) else None)
    if "turn" in content:
        turn = turned_left(take.joints)
        if abs(turn) < _TURN:
            return "walk anywhere"
        return re.sub("left|right", "left" if turn > 0 else "right", content)
    return content


def _cmu_content(description: str, rise: float = 0.0) -> str | None:
    """The grammar of a description; `rise` is how much higher the pelvis ends, m."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", description).lower().strip()
    found = (content for pattern, content in _templates()["cmu"] if re.search(pattern, words))
    content = next(found, None)
    if content in ("steps", "ladder"):
        way = "up and down" if abs(rise) < _RISE else "up" if rise > 0 else "down"
        return f"{content} {way}"
    return content


def _key(content: str) -> tuple[str, str, str] | None:
    """The name of a content's grammar, the mark in it, and what the mark stands for."""
    contents = _templates()["contents"]
    if content in contents:
        return content, "", ""
    for mark, words in (("<side>", "left|right"), ("<posture>", "back|front|side")):
        general = re.sub(rf"\b({words})\b", mark, content)
        if general in contents:
            return general, mark, re.search(rf"\b({words})\b", content)[0]
    return None


@cache
def _grammar(content: str) -> dict[str, Any]:
    """The grammar of a content, with its side or posture filled in."""
    key = _key(content)
    if key is None:
        raise InputError(
            PROMPTS / "templates.yaml", f"no content {content!r}", "a grammar for it", "Write one."
        )
    general, mark, word = key
    grammar = _templates()["contents"][general]
    if not mark:
        return grammar
    words = _templates()["synonyms"].get(word, [word])
    filled = [yaml.safe_load(yaml.safe_dump(grammar).replace(mark, said)) for said in words]
    return filled[0] | {"says": [pattern for each in filled for pattern in each["says"]]}


def _expanded(patterns: list[str]) -> list[str]:
    """Every reading of patterns such as ``"walks {forward|ahead|}"``."""
    readings = []
    for pattern in patterns:
        parts = [part.split("|") for part in re.split(r"[{}]", pattern)]
        readings += [re.sub(" +(?=,|$| )", "", "".join(chosen)) for chosen in product(*parts)]
    return list(dict.fromkeys(readings))


@cache
def _predicates(content: str, pace: str) -> tuple[list[str], list[str]]:
    """Predicates that take a manner, and all that hold at a pace."""
    grammar = _grammar(content)
    says = _expanded(grammar["says"])
    return says, [*says, *_expanded(grammar.get(pace, []))]


@cache
def _reserved() -> frozenset[str]:
    """The predicates of the evaluation prompts, which no sentence has."""
    activities = yaml.safe_load((PROMPTS / "activities.yaml").read_text(encoding="utf-8"))
    held_out = yaml.safe_load((PROMPTS / "held_out.yaml").read_text(encoding="utf-8"))
    files = (activities, *held_out.values())
    prompts = [text for file in files for texts in file.values() for text in texts]
    return frozenset(_predicate(text) for text in prompts)


def _predicate(text: str) -> str:
    """A sentence without its subject and full stop."""
    templates = _templates()
    groups = [*templates["subjects"].values()]
    groups += [style.get("subjects", {}) for style in templates["styles"].values()]
    text = text.lower().rstrip(". ")
    starts = [subject for group in groups for subject in group if text.startswith(subject + " ")]
    return text[len(max(starts, key=len, default="")) :].strip()


def _drawn(
    content: str, style: str, speeds: Float[np.ndarray, "N"], trial: str, count: int, seed: int
) -> list[str]:
    """Different sentences, every other one with the style; fewer where the grammar has fewer."""
    rng = random.Random(f"{trial} {seed}")
    grammar, subjects = _grammar(content), _templates()["subjects"]
    manner = _templates()["styles"].get(style, {})
    own = manner.get("subjects", {})
    anyone = subjects["anyone"] if own else subjects["anyone"] | subjects["gendered"]
    says, at_pace = _predicates(content, _pace(grammar, speeds))
    manners = manner.get("manners", []) + manner.get("gaits", []) * grammar.get("gait", False)
    plain = [(anyone, predicate) for predicate in at_pace]
    by_manner = [(anyone, f"{what} {how}") for what in says for how in _expanded(manners)]
    by_subject = [(own, predicate) for predicate in at_pace if own] or by_manner
    for deck in (plain, by_manner, by_subject):
        rng.shuffle(deck)
    decks = cycle([plain, by_manner, plain, by_subject])
    texts, seen = [], set(_reserved())
    while plain and len(texts) < count:
        subject, predicate = (next(decks) or plain).pop()
        (who,) = rng.choices(list(subject), list(subject.values()))
        text = f"{who} {predicate}{rng.choice(['', '.'])}"
        if predicate not in seen and len(text.split()) <= MOST_WORDS:
            seen.add(predicate)
            texts.append(text)
    return texts


def _pace(grammar: dict[str, Any], speeds: Float[np.ndarray, "N"]) -> str:
    """ "slow", "steady" or "fast"; "" where unknown or uneven."""
    if "paces" not in grammar or not len(speeds):
        return ""
    least, most = np.quantile(speeds, [0.1, 0.9])
    if most > 2 * least:
        return ""
    slow, fast = grammar["paces"]
    speed = speeds.mean()
    return "slow" if speed < slow else "fast" if speed > fast else "steady"


def _speeds(joints: Joints, rate: float) -> Float[np.ndarray, "N"]:
    """Speeds of the pelvis over one second, or the whole of a shorter take, m/s."""
    pelvis = joints[:, JOINTS.index("pelvis")]
    window = max(1, min(round(rate), len(pelvis) - 1))
    return np.linalg.norm(pelvis[window:] - pelvis[:-window], axis=1) * rate / window
