"""Sentences for mocap trials: the CMU database's descriptions, and the KIT-ML sentences.

The database describes a trial in a few words ("walk", "dance - small jetes, pirouette"). A text
encoder trained on sentences wants a sentence, so each description also becomes one, by rule.
"""

import re

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
