"""Motion made from recordings: postures held or reversed, jumps again and again, and stairs.

Few recordings under open terms sit, none lies for long, and hardly any jumps or climbs stairs. But
a slow transition played backwards is the opposite transition, a still posture can be wandered
through for as long as wished, who crouches after a jump may jump again, and a walk whose plants are
moved onto treads climbs. Everything here takes and
returns `Take`s; what is made has 20 frames a second, and its `made` says how it came about.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d, minimum_filter1d

from t2imu_utils.motion.skeleton import RATE, Joints, bone_lengths, resample
from t2imu_utils.motion.takes import Take, runs

FINE = 60  # Hz at which motion is cut and composed
LONGEST = 9.5  # s of a transition: no crop of training cuts its start or its end off
HELD = (3.0, 9.8)  # s of a hold, and of a clip of stairs
AGAIN = {"jump": "jumps in place", "forward jump": "hops forward"}
ALIKE = 0.08  # m on average over joints, and over what they move in 0.1 s
# m/s² on average over joints: recorded stairs have 2.1, acted walks up to 11. What is faster
# is slowed when played backwards: a body that fell would rise.
CALM = 4.0
CADENCE = (70.0, 95.0)  # steps a minute on stairs
RUNNING = (1.9, 7.0)  # m/s
STRIDE = (0.5, 1.3)  # s of two steps
STILL = 0.5  # s of standing, sitting or lying at least on either side of a transition
BRIEF = 0.1  # s of lying still, where there is no more
PERIOD = 2.6  # times the length of a still part: once there and back through it

_LEGS = ((1, 4, 7, 10), (2, 5, 8, 11))  # hip, knee, ankle and ball of the foot
_LEVEL = np.array([1.0, 0.0, 1.0])
_UP = np.array([0.0, 1.0, 0.0])


@dataclass(frozen=True)
class _Low:
    """A time spent sitting or lying: its still parts, and where it stands before and after."""

    stills: list[slice]
    before: slice | None
    after: slice | None


def make_postures(
    takes: Sequence[Take], seed: int, sitting: float = 18.0, lying: float = 12.0
) -> list[Take]:
    """Sitting and lying: transitions as recorded, reversed and with a hold, and holds.

    Args:
        takes: recordings that sit down and stand up, or get up from lying, and little else.
        seed: draws lengths, still parts and periods.
        sitting, lying: minutes of holds; lying on the back, front and side have equal shares.
    """
    rng = np.random.default_rng(seed)
    made: list[Take] = []
    stills: dict[str, list[tuple[Take, slice]]] = defaultdict(list)
    for take in takes:
        fine = replace(take, joints=resample(take.joints, take.rate, FINE), rate=FINE)
        for low in _lows(fine.joints):
            made += _transitions(fine, low, rng)
            for still in low.stills:
                stills[_posture(fine.joints[still])].append((fine, still))
    ways = len(stills.keys() - {"sitting"})
    for posture, parts in stills.items():
        made += _holds(parts, sitting if posture == "sitting" else lying / ways, rng)
    return [
        replace(take, trial=f"{take.trial}_p{n:03d}", joints=resample(take.joints, FINE, RATE))
        for n, take in enumerate(replace(take, rate=RATE) for take in made)
    ]


def _lows(joints: Joints) -> list[_Low]:
    """The times spent low, told by the height of the pelvis between its lowest and highest."""
    height = gaussian_filter1d(joints[:, 0, 1], 0.1 * FINE)
    share = (height - height.min()) / np.ptp(height)
    speed = np.linalg.norm(np.gradient(joints, axis=0), axis=-1) * FINE
    speed = gaussian_filter1d(speed, 0.1 * FINE, axis=0)
    still = (speed[:, 0] < 0.15) & (speed.mean(axis=1) < 0.4)
    highs = runs(share > 0.85, 1)
    edges = [slice(0, 0), *highs, slice(len(joints), len(joints))]
    lows = []
    for before, after in zip(edges[:-1], edges[1:], strict=True):
        between = np.zeros(len(joints), bool)
        between[before.stop : after.start] = True
        rest = between & still & (share < 0.25)
        # Who lies on the back is recorded only where he is about to get up.
        brief = runs(rest, BRIEF * FINE)
        stills = runs(rest, STILL * FINE) or [r for r in brief if _posture(joints[r]) != "sitting"]
        if stills:
            stands = [edge if edge.stop > edge.start else None for edge in (before, after)]
            lows.append(_Low(stills, *stands))
    return lows


def _posture(joints: Joints) -> str:
    """ "sitting", or "lying on the back", "front" or "side" by where the chest faces."""
    trunk = (joints[:, 12] - joints[:, 0]).mean(axis=0)
    across = (joints[:, 16] - joints[:, 17] + joints[:, 1] - joints[:, 2]).mean(axis=0)
    chest = np.cross(across, trunk)
    up = chest[1] / np.linalg.norm(chest)
    if trunk[1] > 0.6 * np.linalg.norm(trunk):
        return "sitting"
    return "lying on the " + ("back" if up > 0.6 else "front" if up < -0.6 else "side")


def _transitions(take: Take, low: _Low, rng: np.random.Generator) -> list[Take]:
    """Into the posture and out of it: recorded, backwards, and both with the posture held on."""
    made = []
    for stand, still, forwards in (
        (low.before, low.stills[0], True),
        (low.after, low.stills[-1], False),
    ):
        if stand is None:
            continue
        posture = _posture(take.joints[still])
        down = "sits down" if posture == "sitting" else posture.replace("lying", "lies down")
        up = "stands up" if posture == "sitting" else "gets up from lying"
        # The index path runs from standing to low; frames of a transition upwards count back.
        edge, rest = (stand.stop, still.start) if forwards else (stand.start - 1, still.stop - 1)
        sign = 1 if forwards else -1
        moves = np.arange(edge, rest, sign, dtype=float)
        fast = _acceleration(resample(_played(take.joints, moves), FINE, RATE)) / CALM
        gently = np.arange(edge, rest, sign / max(1.0, fast**0.5))
        for held in (False, True):
            standing = _onwards(stand, edge - sign, rng.uniform(STILL, 1.0))[::-1]
            resting = _wander(still, rest, rng.uniform(2, 4) if held else rng.uniform(0.5, 1.0))
            for content, heading in ((down, 1), (up, -1)):
                backwards = heading != sign
                course = gently if backwards else moves
                route = np.concatenate([standing, course, resting])[::heading]
                if len(route) > LONGEST * FINE:
                    continue
                how = "composed" if held else "reversed" if backwards else "recorded"
                joints = _played(take.joints, route)
                made.append(replace(take, content=content, joints=joints, made=how))
    return made


def _onwards(window: slice, start: float, seconds: float) -> np.ndarray:
    """Frame indices from `start`, an end of the window, as recorded and slower towards the other.

    Who has got up to where standing begins is still moving.
    """
    end = max(window.start, window.stop - 1, key=lambda edge: abs(edge - start))
    length = max(abs(end - start), 1)
    done = np.sin(np.minimum(np.arange(round(seconds * FINE)) / length, np.pi / 2))
    return start + (end - start) * done


def _wander(window: slice, start: float, seconds: float, period: float = PERIOD) -> np.ndarray:
    """Frame indices that leave `start`, an end of the window, go through it and come back."""
    lo, hi = (window.start, window.stop - 1)
    if abs(start - lo) > abs(start - hi):
        lo, hi = hi, lo
    k = np.arange(round(seconds * FINE))
    length = max(abs(hi - lo) + 1, STILL * FINE)
    return lo + (hi - lo) * (1 - np.cos(2 * np.pi * k / (period * length))) / 2


def _played(joints: Joints, path: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N 22 3"]:
    """The frames at fractional indices."""
    first = np.minimum(path.astype(int), len(joints) - 2)
    part = (path - first)[:, None, None]
    return joints[first] * (1 - part) + joints[first + 1] * part


def _holds(
    stills: Sequence[tuple[Take, slice]], minutes: float, rng: np.random.Generator
) -> list[Take]:
    """Clips that stay in a posture, each still part in turn, until `minutes` are made."""
    made: list[Take] = []
    frames = 0
    while stills and frames < minutes * 60 * FINE:
        take, still = stills[len(made) % len(stills)]
        length = still.stop - still.start
        part = min(length, max(STILL * FINE, rng.uniform(0.4, 1.0) * length))
        start = still.start + int(rng.uniform(0, length - part + 1))
        window = slice(start, min(still.stop, start + int(part)))
        path = _wander(window, start, rng.uniform(*HELD), PERIOD * rng.uniform(0.85, 1.3))
        content = "is " + _posture(take.joints[still])
        made.append(replace(take, content=content, joints=_played(take.joints, path), made="held"))
        frames += len(path)
    return made


# --- jumps ----------------------------------------------------------------------------------------
def make_jumps(takes: Sequence[Take]) -> list[Take]:
    """Two to five jumps one after the other out of recordings of one ("jump", "forward jump").

    Between the crouch before the jump and that after it the body is once in nearly the same
    posture at nearly the same velocity; there the recording runs back, and the rest of the
    difference is spread over the landing. Recordings where it differs too much are left out.
    """
    made: list[Take] = []
    for take in takes:
        if take.content not in AGAIN:
            continue
        joints = resample(take.joints, take.rate, FINE)
        top = int(joints[:, 0, 1].argmax())
        state = _state(joints)
        near, far = round(0.25 * FINE), round(1.2 * FINE)
        before = np.arange(max(0, top - far), top - near)
        after = np.arange(top + near, min(len(joints), top + far))
        if not (before.size and after.size):
            continue
        apart = np.linalg.norm(state[before][:, None] - state[after], axis=-1).mean(axis=-1)
        k, n = np.unravel_index(apart.argmin(), apart.shape)
        if apart[k, n] > ALIKE:
            continue
        first, last = before[k], after[n]
        landing = _smooth((np.arange(first, last) - top - near) / (last - top - near))
        for times in range(2, 6):
            joined = _repeated(joints, first, last, landing, times - 1)
            if len(joined) <= HELD[1] * FINE:
                trial, joined = f"{take.trial}_t{times}", resample(joined, FINE, RATE)
                clip = replace(take, trial=trial, content=AGAIN[take.content], joints=joined)
                made.append(replace(clip, rate=RATE, made="composed"))
    return made


def make_runs(takes: Sequence[Take], minutes: float, seed: int) -> list[Take]:
    """Long straight runs: recordings of running last two or three seconds, in which one stride is
    repeated. Without them a prior learns that what lasts longer is slower.

    A stride lies between the two frames that are most alike, as in `make_jumps`; the rest of the
    difference is spread over it. The length is drawn from 4 s to the end of `HELD`.
    """
    rng = np.random.default_rng(seed)
    parts = straight_walks(takes, 1.0, RUNNING)
    made: list[Take] = []
    frames = 0
    for number, i in enumerate(np.tile(rng.permutation(len(parts)), 3)):
        if frames >= minutes * 60 * RATE:
            break
        joints, longest = parts[i].joints, rng.uniform(4.0, HELD[1]) * FINE
        state = _state(joints)
        lag = np.arange(len(joints)) - np.arange(len(joints))[:, None]
        apart = np.linalg.norm(state[:, None] - state, axis=-1).mean(axis=-1)
        apart[(lag < STRIDE[0] * FINE) | (lag > STRIDE[1] * FINE)] = np.inf
        first, last = np.unravel_index(apart.argmin(), apart.shape)
        if apart[first, last] > ALIKE:
            continue
        times = max(0, round((longest - len(joints)) / (last - first)))
        share = np.linspace(0, 1, last - first, endpoint=False)
        joined = _repeated(joints, first, last, share, times)
        joined = resample(joined, FINE, RATE)[: round(HELD[1] * RATE)]
        trial = f"{parts[i].trial}_r{number:03d}"
        made.append(replace(parts[i], trial=trial, joints=joined, rate=RATE, made="composed"))
        frames += len(joined)
    return made


def _state(joints: Joints) -> Float[np.ndarray, "T 44 3"]:
    """Posture wherever it stands, m, and what joints move in 0.1 s, m."""
    posed = joints - joints[:, :1] * _LEVEL
    return np.concatenate([posed, 0.1 * FINE * np.gradient(joints, axis=0)], axis=1)


def _repeated(
    joints: Joints, first: int, last: int, share: Float[np.ndarray, "C"], times: int
) -> Float[np.ndarray, "T2 22 3"]:
    """The frames from `first` to `last` so many times more, onwards; `share`, from 0 to 1, spreads
    what their ends differ by."""
    step = (joints[last, 0] - joints[first, 0]) * _LEVEL
    rest = joints[first] + step - joints[last]
    cycle = joints[first:last] + share[:, None, None] * rest
    cycles = [cycle + k * step for k in range(times)]
    return np.concatenate([joints[:first], *cycles, joints[first:] + times * step])


# --- stairs ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Plant:
    """A foot's stand: leg 0 (left) or 1 (right), and frames."""

    leg: int
    start: int
    stop: int


def straight_walks(
    takes: Sequence[Take], least: float = 2.0, speeds: tuple[float, float] = (0.5, 1.9)
) -> list[Take]:
    """The parts of takes that go straight on for `least` s at `speeds` m/s, at 60 Hz, along +Z."""
    walks = []
    for take in takes:
        joints = resample(take.joints, take.rate, FINE)
        velocity = np.gradient(gaussian_filter1d(joints[:, 0], 0.3 * FINE, axis=0), axis=0) * FINE
        speed = np.linalg.norm(velocity[:, [0, 2]], axis=1)
        turning = np.gradient(np.unwrap(np.arctan2(velocity[:, 0], velocity[:, 2]))) * FINE
        onwards = (speed > speeds[0]) & (speed < speeds[1]) & (np.abs(turning) < 0.5)
        for number, run in enumerate(runs(onwards, least * FINE)):
            part = joints[run]
            way = (part[-1, 0] - part[0, 0]) * _LEVEL
            ahead = way / np.linalg.norm(way)
            aside = np.cross(_UP, ahead)
            part = (part - part[0, 0] * _LEVEL) @ np.stack([aside, _UP, ahead], axis=1)
            faces = np.cross(_UP, part[:, 2] - part[:, 1])[:, 2]
            if np.ptp(part[:, 0, 0]) < 0.25 and (faces > 0).all():
                trial = f"{take.trial}_s{number}"
                walks.append(replace(take, trial=trial, joints=part, rate=FINE))
    return walks


def make_stairs(takes: Sequence[Take], direction: str, minutes: float, seed: int) -> list[Take]:
    """Stairs out of straight walking, every plant of a foot moved onto its tread.

    Args:
        takes: recorded walking; `straight_walks` finds what is straight.
        direction: "up" or "down".
        minutes: to make; walks are used again with other stairs until they are.
        seed: draws rise (0.15 to 0.18 m), depth (0.26 to 0.32 m), lean and cadence of each clip.
    """
    rng = np.random.default_rng(seed)
    walks = [(walk, plants) for walk in straight_walks(takes) if (plants := _plants(walk.joints))]
    made: list[Take] = []
    frames, turn = 0, 0
    while walks and frames < minutes * 60 * RATE and turn < 100 * len(walks):
        walk, plants = walks[turn % len(walks)]
        turn += 1
        rise, depth = rng.uniform(0.15, 0.18), rng.uniform(0.26, 0.32)
        lean = rng.uniform(0.0, 1.0)
        cadence = 60 * FINE / np.median(np.diff([plant.start for plant in plants]))
        # In steps of 0.05, which `resample` takes.
        slower = round(20 * max(1.0, cadence / rng.uniform(*CADENCE))) / 20
        up = direction == "up"
        leaning = np.radians(4 + 6 * lean if up else 1 + 3 * lean)
        joints = climb(walk.joints, plants, rise if up else -rise, depth, leaning)
        joints = resample(joints, FINE, RATE * slower)
        most = round(HELD[1] * RATE)
        joints = joints[int(rng.uniform(0, max(1, len(joints) - most))) :][:most]
        if len(joints) < HELD[0] * RATE or _acceleration(joints) > CALM:
            continue
        trial, content = f"{walk.trial}_{direction}{turn:04d}", f"stairs {direction}"
        clip = replace(walk, trial=trial, content=content, joints=joints)
        made.append(replace(clip, rate=RATE, made="composed"))
        frames += len(joints)
    return made


def _plants(joints: Joints) -> list[_Plant]:
    """Stands of both feet in turn; none where steps are irregular or do not alternate."""
    plants = []
    for leg, (_, _, ankle, ball) in enumerate(_LEGS):
        speed = np.linalg.norm(np.diff(joints[:, [ankle, ball]], axis=0)[..., [0, 2]], axis=-1)
        slow = gaussian_filter1d(speed.min(axis=1), 0.02 * FINE) * FINE
        for run in runs(slow < 0.2 * np.percentile(slow, 95), 0.2 * FINE):
            plants.append(_Plant(leg, run.start, run.stop))
    plants.sort(key=lambda plant: plant.start)
    # The first and the last may be cut by the ends of the recording.
    plants = [p for p in plants if p.start > 2 and p.stop < len(joints) - 3]
    if len(plants) < 4 or any(a.leg == b.leg for a, b in zip(plants, plants[1:], strict=False)):
        return []
    steps = np.diff([plant.start for plant in plants])
    ways = np.diff([_place(joints, plant) for plant in plants])
    regular = np.ptp(steps) < 0.4 * np.median(steps) and np.ptp(ways) < 0.4 * np.median(ways)
    cadence = 60 * FINE / np.median(steps)
    return plants if regular and ways.min() > 0.3 and 80 < cadence < 140 else []


def _place(joints: Joints, plant: _Plant) -> float:
    """How far on (Z) the ball of the foot stands."""
    return float(np.median(joints[plant.start : plant.stop, _LEGS[plant.leg][3], 2]))


def climb(
    joints: Joints, plants: Sequence[_Plant], rise: float, depth: float, lean: float
) -> Float[np.ndarray, "N 22 3"]:
    """Walk up (rise > 0, m) or down (rise < 0) stairs of a depth (m), leaning by radians."""
    up = rise > 0
    first = {leg: next(p for p in plants if p.leg == leg) for leg in (0, 1)}
    last = {leg: next(p for p in reversed(plants) if p.leg == leg) for leg in (0, 1)}
    start = max(first[0].start, first[1].start)
    stop = min(last[0].stop, last[1].stop)

    moved = joints.copy()
    shifts = np.zeros((2, len(joints), 3))
    for leg, (_, _, ankle, ball) in enumerate(_LEGS):
        foot = _pitched(joints, ankle, ball, up)
        treads = [
            (p, np.array([0, n * rise, n * depth - _place(joints, p)]))
            for n, p in enumerate(plants)
            if p.leg == leg
        ]
        shift = shifts[leg]
        for (plant, here), (following, there) in zip(treads, treads[1:], strict=False):
            shift[plant.start : plant.stop] = here
            swing = slice(plant.stop, following.start)
            way = joints[plant.stop - 1 : following.start + 1, ankle, 2]
            u = np.linspace(0, 1, len(way))
            # The foot goes forwards after it rises and before it falls, and so clears the edges.
            late = u**1.4 if up else 1 - (1 - u) ** 1.4
            goal = (
                here[2]
                + way[0]
                + (there[2] + way[-1] - here[2] - way[0])
                * np.interp(late, u, (way - way[0]) / (way[-1] - way[0]))
            )
            rising = _smooth(u / 0.8) if up else _smooth((u - 0.2) / 0.8)
            height = here[1] + (there[1] - here[1]) * rising + 0.05 * np.sin(np.pi * u) ** 2
            shift[swing, 1], shift[swing, 2] = height[1:-1], (goal - way)[1:-1]
        shift[: treads[0][0].start], shift[treads[-1][0].start :] = treads[0][1], treads[-1][1]
        shift[:] = gaussian_filter1d(shift, 0.04 * FINE, axis=0, mode="nearest")
        moved[:, [ankle, ball]] = foot + shift[:, None]
    moved, shifts = moved[start:stop], shifts[:, start:stop]
    old = joints[start:stop]

    # The body follows the feet; Z keeps the sway of walking only in proportion to the steps.
    mean = gaussian_filter1d(shifts.mean(axis=0), 0.2 * FINE, axis=0, mode="nearest")
    body = [joint for joint in range(22) if joint not in (4, 5, 7, 8, 10, 11)]
    moved[:, body] = old[:, body] + mean[:, None]
    upper = [joint for joint in body if joint > 2]
    moved[:, upper] = _leant(moved[:, upper], moved[:, :1], lean)
    lengths = np.median(bone_lengths(old), axis=0)
    room = [
        _room(moved[:, hip], moved[:, ankle], 0.995 * (lengths[knee] + lengths[ankle]))
        for hip, knee, ankle, _ in _LEGS
    ]
    width = round(0.15 * FINE)
    low = minimum_filter1d(np.minimum(np.min(room, axis=0), 0), 2 * width + 1, mode="nearest")
    lowered = gaussian_filter1d(low, width / 2, mode="nearest")
    moved[:, body, 1] += lowered[:, None]
    for hip, knee, ankle, _ in _LEGS:
        towards = old[:, knee] - (old[:, hip] + old[:, ankle]) / 2 + [0, 0, 0.1]
        ends = moved[:, hip], moved[:, ankle], lengths[knee], lengths[ankle]
        moved[:, knee] = _bent(*ends, towards)
    return moved


def _smooth(u: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """From 0 to 1 with speed and acceleration 0 at both ends."""
    u = u.clip(0, 1)
    return u**3 * (10 - 15 * u + 6 * u**2)


def _pitched(joints: Joints, ankle: int, ball: int, up: bool) -> Float[np.ndarray, "T 2 3"]:
    """Ankle and ball of a foot that lands flat (up) or toes first (down) instead of on the heel.

    On stairs the heel rises less behind the body, and the foot swings half as high.
    """
    foot = joints[:, ball] - joints[:, ankle]
    pitch = np.arctan2(foot[:, 1], foot[:, 2])
    clear = joints[:, [ankle, ball], 1]
    flat = np.percentile(clear, 5, axis=0)
    rest = np.median(pitch[(clear - flat).max(axis=1) < 0.03])
    new = pitch - rest
    new = rest + np.where(new > 0, 0.3 if up else -0.6, 0.7) * new
    length = np.hypot(foot[:, 1], foot[:, 2])
    foot = np.stack([foot[:, 0], length * np.sin(new), length * np.cos(new)], axis=1)
    feet = np.stack([joints[:, ankle], joints[:, ankle] + foot], axis=1)
    # Turned about the ankle the foot clears the ground by something else than before.
    lost = 0.5 * (clear - flat).min(axis=1) - (feet[..., 1] - flat).min(axis=1)
    feet[..., 1] += lost[:, None]
    return feet


def _leant(
    joints: Float[np.ndarray, "T N 3"], about: Float[np.ndarray, "T 1 3"], angle: float
) -> Float[np.ndarray, "T N 3"]:
    """Turned forwards (towards +Z) about a point."""
    x, y, z = np.moveaxis(joints - about, -1, 0)
    cos, sin = np.cos(angle), np.sin(angle)
    return about + np.stack([x, cos * y - sin * z, sin * y + cos * z], axis=-1)


def _room(
    hip: Float[np.ndarray, "T 3"], ankle: Float[np.ndarray, "T 3"], reach: float
) -> Float[np.ndarray, "T"]:
    """How far a hip may rise (> 0) or must sink (< 0) for its leg to just reach the ankle."""
    level = ((hip - ankle)[:, [0, 2]] ** 2).sum(axis=1)
    return ankle[:, 1] + np.sqrt(np.maximum(reach**2 - level, 0)) - hip[:, 1]


def _bent(
    hip: Float[np.ndarray, "T 3"],
    ankle: Float[np.ndarray, "T 3"],
    thigh: float,
    shank: float,
    towards: Float[np.ndarray, "T 3"],
) -> Float[np.ndarray, "T 3"]:
    """The knee of a leg between hip and ankle that bends towards a direction (two-bone IK)."""
    line = ankle - hip
    far = np.linalg.norm(line, axis=1, keepdims=True)
    line = line / far
    reach = np.minimum(far, thigh + shank)
    along = (reach**2 + thigh**2 - shank**2) / (2 * reach)
    out = towards - (towards * line).sum(axis=1, keepdims=True) * line
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    return hip + along * line + np.sqrt(np.maximum(thigh**2 - along**2, 0)) * out


def _acceleration(joints: Joints) -> float:
    """Mean over joints and frames of 20 Hz, m/s²."""
    return float(np.linalg.norm(np.diff(joints, 2, axis=0), axis=-1).mean()) * RATE**2
