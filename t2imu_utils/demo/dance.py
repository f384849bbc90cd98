"""Dancing: a score of steps, weight shifts and arm poses on a beat."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from t2imu_utils.demo.curves import drift, ease
from t2imu_utils.demo.figure import Figure, Pose
from t2imu_utils.demo.gait import Take, pick_style, supported_height
from t2imu_utils.demo.steps import Contact, foot_track

_ARMS = {
    # (flexion, abduction, inward twist, elbow)
    "low": (0.1, 0.25, 0.2, 0.5),
    "up": (2.7, 0.35, 0.0, 0.35),
    "side": (0.2, 1.45, 0.0, 0.3),
    "bent": (0.55, 0.45, 0.5, 1.75),
    "front": (1.45, 0.15, 0.0, 0.3),
    "hip": (-0.35, 0.75, 0.9, 1.7),
    "across": (0.7, 0.15, 1.0, 1.3),
    "back": (-0.5, 0.35, 0.0, 0.2),
}
_STYLES = {
    # style: (words, weight, arm poses, (bounce, hip sway, trunk twist))
    "side": ("stepping from side to side", 4, ("low", "bent", "side", "up"), (0.03, 0.03, 0.12)),
    "spin": ("spinning around", 3, ("side", "up", "front", "low"), (0.015, 0.02, 0.05)),
    "sway": ("swaying the hips", 3, ("up", "bent", "hip", "side"), (0.02, 0.09, 0.1)),
    "twist": ("doing the twist", 2, ("bent", "low", "across"), (0.03, 0.04, 0.45)),
    "kick": ("kicking the legs to the beat", 3, ("hip", "bent", "side", "up"), (0.03, 0.02, 0.1)),
    "waltz": ("a waltz with gliding steps", 3, ("side", "front", "across"), (0.025, 0.015, 0.08)),
    "march": ("stamping to the music", 2, ("bent", "up", "low", "front"), (0.04, 0.02, 0.2)),
}
# A waltz box: (foot, sideways, forward) on each beat, 0 = left.
_BOX = ((0, 0, 1), (1, 1, 1), (0, 1, 0), (1, 0, -1), (0, -1, -1), (1, -1, 0))


@dataclass
class _Dancer:
    """Where a foot has stood since when, and what follows; filled beat by beat."""

    places: list[list[tuple[float, float, float]]] = field(default_factory=lambda: [[], []])
    since: list[list[float]] = field(default_factory=lambda: [[], []])
    kicks: list[list[tuple[float, float, float]]] = field(default_factory=lambda: [[], []])

    def step(self, foot: int, time: float, place, kick=(0.0, 0.0, 0.0)) -> None:
        """Land `foot` at `time` on (x, z, yaw), having kicked on the way."""
        if self.kicks[foot]:
            self.kicks[foot][-1] = kick
        self.places[foot].append(tuple(place))
        self.since[foot].append(time)
        self.kicks[foot].append((0.0, 0.0, 0.0))


def dancing(
    rng: np.random.Generator,
    figure: Figure,
    times: Float[np.ndarray, " T"],
    vigour: float = 1.0,
    plain: bool = False,
) -> Take:
    """Dance in one of seven styles, in tempo, with arm poses that change every two beats."""
    seconds = float(times[-1])
    style = "side" if plain else pick_style(rng, _STYLES)
    words, _, poses, (bounce, sway, twist) = _STYLES[style]
    beat = float(rng.uniform(0.42, 0.68)) / vigour
    energy = float(rng.uniform(0.75, 1.25))
    beats = np.arange(-4, int((seconds + 3) / beat)) * beat + rng.uniform(0, beat)
    heading = rng.uniform(-np.pi, np.pi)
    width = rng.uniform(0.2, 0.34) * figure.pace
    dancer, middles, yaws = _score(rng, style, beats, width, heading, figure.pace, energy)
    feet = foot_track(figure, _contacts(figure, dancer, beat, style), times)
    phase = np.pi * (times - beats[0]) / beat
    sharpness = 1.0 if style in ("sway", "twist", "waltz") else 0.5
    side = np.cos(phase) * sharpness + (1 - sharpness) * np.sin(2 * phase) * 0.6
    yaw = ease(times, beats, yaws)
    plan = ease(times, beats, middles)
    aside = sway * energy * side
    root = np.stack(
        (plan[:, 0] + aside * np.cos(yaw), 0 * yaw, plan[:, 1] - aside * np.sin(yaw)), axis=-1
    )
    wander = [drift(rng, s, 0.15, 1.0)(times) for s in (0.03, 0.05, 0.04, 0.1)]
    turned = twist * energy * np.sin(phase)
    roll = (0.05 + 1.2 * sway) * energy * side
    pelvis = np.stack((yaw + turned, 0.05 + wander[0] * 0.5, roll), axis=-1)
    nod = 0.06 * energy * np.cos(2 * phase)
    spine = np.stack((-1.8 * turned + wander[1], 0.05 + nod + wander[0], -1.5 * roll), axis=-1)
    head = np.stack((0.6 * turned + wander[3], -nod + wander[2], 0.5 * roll), axis=-1)
    dip = bounce * energy * (1 + np.cos(2 * phase)) * figure.pace
    bent = 0.93 if style in ("twist", "march") else 0.97
    root[:, 1] = supported_height(figure, root, pelvis, feet, times, 0.2, bent) - dip
    arms, arm_words = _arms(rng, poses, times, beats, phase, energy)
    how = "slowly" if beat > 0.6 else "fast" if beat < 0.48 else ""
    return Take(
        Pose(root, pelvis, spine, head, arms, feet=feet),
        np.zeros(len(times), dtype=bool),
        {
            "style": words,
            "speed": how,
            "arms": arm_words,
            "mood": "lively" if energy > 1.05 else "",
        },
    )


def _score(
    rng: np.random.Generator,
    style: str,
    beats: Float[np.ndarray, " N"],
    width: float,
    heading: float,
    pace: float,
    energy: float,
) -> tuple[_Dancer, Float[np.ndarray, "N 2"], Float[np.ndarray, " N"]]:
    """Who steps where on each beat; middle of the body (x, z) and yaw at each beat."""
    dancer = _Dancer()
    stance = np.array([[width / 2, 0.0], [-width / 2, 0.0]])
    centre, yaw = np.zeros(2), heading
    size = rng.uniform(0.28, 0.42) * pace
    spin = rng.choice((-1, 1)) * rng.uniform(0.5, 0.95)

    def stand(foot: int, offset) -> tuple[float, float, float]:
        x, z = np.add(stance[foot], offset)
        return (
            centre[0] + x * np.cos(yaw) + z * np.sin(yaw),
            centre[1] - x * np.sin(yaw) + z * np.cos(yaw),
            yaw + (0.15, -0.15)[foot],
        )

    offsets = np.zeros((2, 2))
    for foot in (0, 1):
        dancer.step(foot, beats[0] - 3.0, stand(foot, offsets[foot]))
    middles, yaws = [], []
    for i, beat in enumerate(beats):
        foot = i % 2
        kick = (0.0, 0.0, 0.0)
        if style == "side":
            goes_left = (i // 2) % 2 == 0
            foot = (i + (0 if goes_left else 1)) % 2
            offsets[foot] = (size / 2 if goes_left else -size / 2, 0.0)
        elif style == "spin":
            yaw += spin
        elif style == "waltz":
            foot, dx, dz = _BOX[i % 6]
            offsets[foot] = (dx * size * 0.45, dz * size * 0.45)
        elif style == "kick":
            reach = energy * rng.uniform(0.35, 0.5)
            aside = (1 - 2 * foot) * rng.uniform(0.0, 0.25)
            kick = (
                reach * np.sin(yaw) + aside * np.cos(yaw),
                0.28 * energy,
                reach * np.cos(yaw) - aside * np.sin(yaw),
            )
        elif style == "march":
            kick = (0.08 * np.sin(yaw), 0.18 * energy, 0.08 * np.cos(yaw))
        if style not in ("sway", "twist"):
            dancer.step(foot, beat, stand(foot, offsets[foot]), kick)
        here = np.array([dancer.places[f][-1][:2] for f in (0, 1)])
        # The weight is on the foot that does not move next.
        on_left = 0.5 if style in ("sway", "twist", "side") else (0.62, 0.38)[foot]
        middles.append(on_left * here[0] + (1 - on_left) * here[1])
        yaws.append(yaw)
    return dancer, np.array(middles), np.array(yaws)


def _contacts(
    figure: Figure, dancer: _Dancer, beat: float, style: str
) -> tuple[list[Contact], list[Contact]]:
    # In a step-touch the foot that closes moves on with the next beat.
    swing = {"kick": min(0.8 * beat, 0.46), "march": min(0.8 * beat, 0.46), "side": 0.6 * beat}
    rows = ([], [])
    for foot in (0, 1):
        since = dancer.since[foot]
        for i, ((x, z, yaw), kick) in enumerate(
            zip(dancer.places[foot], dancer.kicks[foot], strict=True)
        ):
            off = (
                since[i + 1] - swing.get(style, 0.75 * beat)
                if i + 1 < len(since)
                else since[i] + 20.0
            )
            gently = min(1.0, (off - since[i]) / 0.6)
            rows[foot].append(
                Contact(
                    since[i],
                    off,
                    np.array((x, figure.ankle_height, z)),
                    yaw,
                    strike=0.3 * gently,
                    push=0.35 * gently,
                    settled=min(0.3, 0.15 / (off - since[i])),
                    leaving=max(0.5, 1 - 0.2 / (off - since[i])),
                    lift=0.05,
                    kick=kick,
                    brake=(3.0, 8.0),
                )
            )
    return rows


def _arms(
    rng: np.random.Generator,
    poses: tuple[str, ...],
    times: Float[np.ndarray, " T"],
    beats: Float[np.ndarray, " N"],
    phase: Float[np.ndarray, " T"],
    energy: float,
) -> tuple[Float[np.ndarray, "2 T 4"], str]:
    """Arm poses that change every two beats, and the words for them."""
    together = rng.random() < 0.6
    favourite = str(rng.choice(poses))
    arms, chosen = np.empty((2, len(times), 4)), []
    draws = [
        [favourite if rng.random() < 0.45 else str(rng.choice(poses)) for _ in beats[::2]]
        for _ in (0, 1)
    ]
    for side in (0, 1):
        chosen = draws[0] if together else draws[side]
        values = [np.array(_ARMS[name]) * rng.uniform(0.92, 1.08, 4) for name in chosen]
        arms[side] = ease(times, beats[::2] - 0.05, values)
        swing = 0.14 * energy * np.sin(phase + (0 if together else np.pi * side))
        arms[side, :, 0] += swing
        arms[side, :, 3] += 0.15 * energy * (1 + np.sin(2 * phase + 1.0))
    words = {
        "up": "with the arms raised overhead",
        "side": "with the arms stretched out to the sides",
        "hip": "with hands on the hips",
        "bent": "pumping bent arms",
        "front": "reaching the arms forward",
    }
    return arms, words.get(favourite, "moving the arms")
