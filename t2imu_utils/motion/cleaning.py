"""Which frames of a mocap trial to keep: T-poses, what follows them, and jumps of the tracking."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from t2imu_utils.motion.skeleton import check_joints

# A joint that moves faster is a tracking error: 0.12 m per frame at 120 Hz. Kicks and punches of
# the CMU database reach 0.10 to 0.13 m, so no lower.
GLITCH_SPEED = 14.4  # m/s
GLITCH_MARGIN = 0.05  # s cut on either side of a jump (6 frames at 120 Hz)
# The CMU BVH release puts a T-pose before each trial and blends out of it; both forms also start
# with tracking that has not settled. The blend is over with the eighth frame of a file, T-pose
# included: up to there the accelerations are 3 times those of the trial and more.
LEAD_IN = 7 / 120  # s

# Cosines to the line through the shoulders, and to the vertical, that make a T-pose. The added
# T-poses of the CMU release reach 0.95 and 0.98; no other frame of it reaches both bounds.
ARMS_LEVEL = 0.9
LEGS_UPRIGHT = 0.97

_ARM_BONES = ((16, 18), (18, 20), (19, 17), (21, 19))  # each pointing right to left in a T-pose
_LEG_BONES = ((4, 1), (7, 4), (5, 2), (8, 5))  # upwards
_SHOULDERS = (17, 16)

RULES = ("T-pose", "lead-in", "glitch", "too short")


@dataclass(frozen=True)
class Cleaned:
    """`segments` are kept ranges [start, end) of frames; `dropped` counts frames for each rule.

    Each dropped frame counts once, under the first of `RULES` that applies, so that
    kept + dropped = frames read.
    """

    segments: list[tuple[int, int]]
    dropped: dict[str, int]


def clean(joints: Float[np.ndarray, "T 22 3"], rate: float, min_seconds: float) -> Cleaned:
    """Find what is worth keeping of a trial.

    Args:
        joints: metres, Y up, as recorded.
        rate: frames a second.
        min_seconds: remnants that take less, from first to last frame, are dropped as "too short".

    Raises:
        InputError: `joints` are not finite or not (T, 22, 3).
    """
    check_joints(joints, "clean")
    rule = np.full(len(joints), -1)
    settled = _leading(t_poses(joints))
    ended = len(joints) - _leading(t_poses(joints)[::-1])
    lead = settled + round(LEAD_IN * rate)
    # Later rules overwrite earlier ones, so they are applied from the last of RULES to the first.
    # The blend out of a T-pose is all jumps: what the lead-in holds must not cut what follows it.
    rule[lead:][glitches(joints[lead:], rate)] = RULES.index("glitch")
    rule[:lead] = RULES.index("lead-in")
    rule[:settled] = rule[ended:] = RULES.index("T-pose")
    segments = []
    for start, end in _runs(rule < 0):
        if (end - start - 1) / rate < min_seconds:
            rule[start:end] = RULES.index("too short")
        else:
            segments.append((start, end))
    return Cleaned(segments, {name: int((rule == i).sum()) for i, name in enumerate(RULES)})


def t_poses(joints: Float[np.ndarray, "T 22 3"]) -> Bool[np.ndarray, " T"]:
    """Frames with both arms stretched out along the line of the shoulders and upright legs."""
    shoulders = _direction(joints, [_SHOULDERS])
    arms = (_direction(joints, _ARM_BONES) * shoulders).sum(-1).min(axis=1)
    legs = _direction(joints, _LEG_BONES)[..., 1].min(axis=1)
    return (arms > ARMS_LEVEL) & (legs > LEGS_UPRIGHT)


def glitches(joints: Float[np.ndarray, "T 22 3"], rate: float) -> Bool[np.ndarray, " T"]:
    """Frames around a step of any joint that is faster than `GLITCH_SPEED`.

    Both frames of such a step are marked, and `GLITCH_MARGIN` before and after it.
    """
    steps = np.linalg.norm(np.diff(joints, axis=0), axis=-1).max(axis=1, initial=0.0)
    margin = round(GLITCH_MARGIN * rate)
    marked = np.zeros(len(joints), dtype=bool)
    for step in np.flatnonzero(steps * rate > GLITCH_SPEED):
        marked[max(0, step - margin) : step + 2 + margin] = True
    return marked


def _direction(
    joints: Float[np.ndarray, "T 22 3"], bones: tuple[tuple[int, int], ...] | list[tuple[int, int]]
) -> Float[np.ndarray, "T N 3"]:
    """Unit vectors from the first to the second joint of each pair; zero where they coincide."""
    first, second = np.transpose(bones)
    vectors = joints[:, second] - joints[:, first]
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _leading(marked: Bool[np.ndarray, " T"]) -> int:
    """Number of marked frames before the first that is not."""
    return len(marked) if marked.all() else int(marked.argmin())


def _runs(kept: Bool[np.ndarray, " T"]) -> list[tuple[int, int]]:
    """Ranges [start, end) of consecutive True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], kept, [False]]).astype(int)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
