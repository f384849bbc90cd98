"""Sentences for the made-up motions, from what was varied in them."""

import numpy as np

_WHO = ("a person", "someone", "the person", "somebody", "one person")
_SPEED = {
    "slowly": ("slowly", "at a slow pace", "unhurriedly"),
    "quickly": ("quickly", "briskly", "at a fast pace"),
    "fast": ("fast", "at high speed", "quickly"),
    "": ("", "at a normal pace", ""),
}
_NUMBERS = ("", "once", "twice", "three times", "four times", "five times")

# A verb in two forms: third person, and -ing.
Phrase = tuple[str, str]

_LYING = (("lies", "lying"), ("lies still", "lying still"), ("lies flat", "lying flat"))


def describe(
    rng: np.random.Generator, activity: str, words: dict[str, str], count: int = 3
) -> list[str]:
    """`count` different sentences on one motion.

    Args:
        activity: one of the nine kinds of motion ("dancing" and the eight activities).
        words: what there is to say, as the motion's maker wrote it down; empty entries are passed
            over.
    """
    sentences: list[str] = []
    while len(sentences) < count:
        # The first sentence tells all; later ones may leave details out.
        whole = not sentences
        sentence = _FORMS[activity](rng, words, whole)
        sentence = " ".join(sentence.replace(" ,", ",").split()).rstrip(",")
        if sentence not in sentences:
            sentences.append(sentence)
    return sentences


def _say(
    rng: np.random.Generator, verb: Phrase, *details: str, forms: tuple[int, ...] = (0, 1, 2, 3, 3)
) -> str:
    """Subject, verb and details in one of four forms; what one does besides goes after a comma."""
    who = str(rng.choice(_WHO))
    rest = " ".join(f", {d}" if d.split()[0].endswith("ing") else d for d in details if d)
    going = rest
    form = int(_pick(rng, forms))
    if form < 3:
        for finite in ("turns", "rolls", "comes", "then stands", "then gets"):
            going = going.replace(f"and {finite}", f"and {finite[:-1]}ing")
        going = going.replace("geting", "getting").replace("comeing", "coming")
        opening = (f"{who} is ", f"there is {who.replace('the ', 'a ')} ", "")[form]
        return f"{opening}{verb[1]} {going}"
    return f"{who} {verb[0]} {rest}"


def _maybe(rng: np.random.Generator, whole: bool, text: str, chance: float = 0.6) -> str:
    return text if whole or rng.random() < chance else ""


def _pick(rng: np.random.Generator, options) -> str | Phrase:
    return options[int(rng.integers(len(options)))]


def _walking(rng: np.random.Generator, words: dict[str, str], whole: bool) -> str:
    speed = _pick(rng, _SPEED[words["speed"]])
    course = words["course"] or _pick(rng, ("", "forward", "straight ahead"))
    style = _maybe(rng, whole, words["style"])
    if words["start"] == "starts":
        verb = ("starts to walk", "starting to walk")
    else:
        verb = _pick(
            rng, (("walks", "walking"), ("walks", "walking"), ("walks around", "walking around"))
        )
    if "around" in course:
        verb = ("walks", "walking")
    stop = _pick(rng, (", then stops", "and comes to a halt", "and then stands still"))
    end = _maybe(rng, whole, stop, 0.7) if words["start"] == "stops" else ""
    return _say(
        rng, verb, _maybe(rng, whole, speed, 0.8), _maybe(rng, whole, course, 0.8), style, end
    )


def _running(rng: np.random.Generator, words: dict[str, str], whole: bool) -> str:
    verbs = {
        "slowly": (("jogs", "jogging"), ("runs slowly", "running slowly"), ("jogs", "jogging")),
        "fast": (
            ("runs fast", "running fast"),
            ("sprints", "sprinting"),
            ("runs at full speed", "running at full speed"),
        ),
        "": (("runs", "running"), ("runs", "running"), ("goes running", "running")),
    }[words["speed"]]
    course = words["course"] or _pick(rng, ("forward", "straight ahead", "in a straight line"))
    return _say(
        rng,
        _pick(rng, verbs),
        _maybe(rng, whole, course, 0.75),
        _maybe(rng, whole, words["style"]),
    )


def _jumping(rng: np.random.Generator, words: dict[str, str], whole: bool) -> str:
    style = words["style"]
    number = int(words["count"])
    often = _NUMBERS[number] if number < len(_NUMBERS) else "many times"
    if words["series"] == "True":
        often = _pick(rng, ("again and again", "repeatedly", "several times", "up and down"))
    verb = ("jumps", "jumping")
    if style.startswith("doing"):
        verb = _pick(rng, (("does jumping jacks", "doing jumping jacks"), ("jumps", "jumping")))
        style = (
            ""
            if "jacks" in verb[0]
            else _pick(rng, ("opening and closing arms and legs", "in jumping jacks"))
        )
    elif style == "on the spot":
        style = _pick(rng, ("on the spot", "in place", "up and down"))
        often = "again and again" if often == "up and down" else often
        verb = _pick(rng, (verb, ("hops", "hopping"))) if words["height"] == "low" else verb
    low = _pick(rng, ("with small jumps", "low above the ground"))
    height = {"high": "high into the air", "low": low, "": ""}[words["height"]]
    if "high" in style:
        height = ""
    return _say(
        rng,
        verb,
        _maybe(rng, whole, style, 0.75),
        _maybe(rng, whole, height, 0.4),
        _maybe(rng, whole, often, 0.6),
    )


def _dancing(rng: np.random.Generator, words: dict[str, str], whole: bool) -> str:
    mood = {"lively": "with energy", "": ""}[words["mood"]]
    speed = {
        "slowly": _pick(rng, ("slowly", "to slow music")),
        "fast": _pick(rng, ("to fast music", "to a fast beat")),
        "": _pick(rng, ("to the music", "")),
    }[words["speed"]]
    verb = ("dances", "dancing")
    return _say(
        rng,
        verb,
        _maybe(rng, whole, speed, 0.6),
        _maybe(rng, whole, words["style"], 0.75),
        _maybe(rng, whole, words["arms"], 0.4),
        _maybe(rng, False, mood, 0.5),
    )


def _sitting(rng: np.random.Generator, words: dict[str, str], whole: bool) -> str:
    seat = _pick(rng, ("on a chair", "on a chair", ""))
    posture = {"upright": _pick(rng, ("upright", "with a straight back"))}.get(
        words["posture"], words["posture"]
    )
    style = _maybe(rng, whole, words["style"] or _pick(rng, ("without moving much", "quietly", "")))
    if words["change"] == "down":
        return _say(rng, ("sits down", "sitting down"), seat, "and stays sitting", style)
    if words["change"] == "up":
        up = _pick(rng, ("and then gets up", ", then rises from it"))
        return _say(rng, ("sits", "sitting"), seat, style, up)
    return _say(rng, ("sits", "sitting"), seat, _maybe(rng, whole, posture, 0.5), style)


def _standing(rng: np.random.Generator, words: dict[str, str], whole: bool) -> str:
    style = words["style"]
    if style == "still":
        style = _pick(rng, ("still", "still without moving", "in place", "upright, hardly moving"))
    place = (
        ""
        if style.startswith(("still", "in place", "upright"))
        else _pick(rng, ("", "in place", "upright"))
    )
    return _say(rng, ("stands", "standing"), place, _maybe(rng, whole, style, 0.75))


def _lying(rng: np.random.Generator, words: dict[str, str], whole: bool) -> str:
    # Plain wording: to a sentence encoder "lying" is first of all not telling the truth.
    rolls = words["rolls"] == "True"
    ground = _pick(rng, ("", "", "", "on the floor")) if whole else ""
    style = _pick(rng, (words["style"], "and turns over")) if rolls else words["style"]
    details = (
        ground,
        _maybe(rng, whole, words["side"], 0.45),
        _maybe(rng, whole, style, 0.8 if rolls else 0.15),
    )
    verb = ("lies", "lying") if rolls else _pick(rng, _LYING)
    return _say(rng, verb, *details, forms=(0, 2, 2, 2, 3))


def _climbing(rng: np.random.Generator, words: dict[str, str], whole: bool) -> str:
    way = words["direction"]
    stairs = words["course"]
    verbs = [(f"climbs {way} {stairs}", f"climbing {way} {stairs}")]
    verbs += [(f"walks {way} {stairs}", f"walking {way} {stairs}")]
    if "spiral" not in stairs:
        single = "ascends" if way == "up" else "descends"
        verbs += [(f"goes {way} {stairs} step by step", f"going {way} {stairs} step by step")]
        verbs += [(f"{single} {stairs}", f"{single[:-1]}ing {stairs}")]
    speed = _pick(rng, _SPEED[words["speed"]])
    return _say(
        rng, _pick(rng, verbs), _maybe(rng, whole, speed, 0.7), _maybe(rng, whole, words["style"])
    )


_FORMS = {
    "walking": _walking,
    "running": _running,
    "jumping": _jumping,
    "dancing": _dancing,
    "sitting": _sitting,
    "standing": _standing,
    "lying": _lying,
    "climbing up": _climbing,
    "climbing down": _climbing,
}
