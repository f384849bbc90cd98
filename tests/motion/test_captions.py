"""Captions: descriptions become sentences, and comment spam is found."""

import pytest

from t2imu_utils.motion.cmu import sentence, why_spam


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("walk", "a person walks."),
        ("Slow walk", "a person walks slowly."),
        ("run/jog, veer left", "a person runs or jogs and veers left."),
        ("walking up stairs", "a person walks up stairs."),
        ("sit on stool, stand up, carry box", "a person sits on stool, stands up and carries box."),
        ("catch and throw", "a person catches and throws."),
        ("putting on a hat", "a person puts on a hat."),
        ("dance - small jetes, turn", "a person dances: small jetes, turn."),
        ("soccer - kick ball", "a person plays soccer: kick ball."),
        ("jumping jacks, jog", "a person performs jumping jacks, jog."),
        ("sit on stool, chin in hand", "a person sits on stool: chin in hand."),
        ("ZombieWalk", "a person performs zombie walk."),
        ("shake hands (2 subjects - subject A)", "a person shakes hands."),
        ("swordplay", "a person performs swordplay."),
    ],
)
def test_sentences(description, expected):
    assert sentence(description) == expected


@pytest.mark.parametrize(
    "description", ["", "Unknown", "T-Pose", "subject calibration", "90_10.amc", "180", "12.5 lbs"]
)
def test_what_tells_no_motion_gives_none(description):
    assert sentence(description) is None


@pytest.mark.parametrize(
    "text",
    [
        "Cheap tickets at <a href=x>our shop</a>",
        "visit https://example.org today",
        "see www.example now",
        "the best shoes on example.com",
        "write to me@example.net",
        "The person first",
        "word",
        "word " * 100,
    ],
)
def test_spam_is_told(text):
    assert why_spam(text)


@pytest.mark.parametrize(
    "text",
    [
        "A human runs.",
        "running to the front",
        "A person steps with the right foot first",
        "He walks",
    ],
)
def test_sentences_are_kept(text):
    assert why_spam(text) is None
