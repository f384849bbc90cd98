"""A made-up person: bone lengths of their own, and a pose turned into joints and bone frames.

The figure stands upright in its rest pose, arms hanging, facing +Z with its left side at +X.
Angles are in radians. A triple is (yaw, pitch, roll) about the figure's Y, X and Z, applied in
that order: positive yaw turns left, pitch leans forward, roll tips to the right.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from t2imu_utils.motion.skeleton import PARENTS

# Rest offsets in metres of an adult of 1.72 m; round numbers, left side (the right is mirrored).
_ADULT = {
    1: (0.065, -0.085, -0.01),
    3: (0.0, 0.115, -0.03),
    4: (0.0, -0.385, 0.0),
    6: (0.0, 0.135, 0.015),
    7: (0.0, -0.415, 0.0),
    9: (0.0, 0.055, 0.005),
    10: (0.02, -0.055, 0.125),
    12: (0.0, 0.21, -0.03),
    13: (0.075, 0.115, -0.02),
    15: (0.0, 0.09, 0.045),
    16: (0.115, 0.035, -0.01),
    18: (0.0, -0.26, 0.0),
    20: (0.0, -0.255, 0.0),
}
_TWIN = {1: 2, 4: 5, 7: 8, 10: 11, 13: 14, 16: 17, 18: 19, 20: 21}
_LEG, _TRUNK, _ARM = (4, 7, 10), (3, 6, 9, 12, 15), (18, 20)
_TOE_HEIGHT = 0.02

# Share of the leg's length up to which inverse kinematics is exact, and that it never passes.
REACH = 0.985
_STRAIGHT = 0.996
_FOLDED = 0.42


@dataclass(frozen=True)
class Figure:
    """One person: rest offsets of the 22 joints from their parents, metres."""

    name: str
    offsets: Float[np.ndarray, "22 3"]

    @property
    def ankle_height(self) -> float:
        """Height of the ankle above the ground when the foot is flat, m."""
        return float(_TOE_HEIGHT - self.offsets[10, 1])

    @property
    def leg(self) -> float:
        """Hip to ankle with a straight knee, m."""
        return float(-self.offsets[4, 1] - self.offsets[7, 1])

    @property
    def stand(self) -> float:
        """Height of the pelvis above the ground, standing with straight legs, m."""
        return float(self.ankle_height + self.leg - self.offsets[1, 1])

    @property
    def pace(self) -> float:
        """Leg length over that of the 1.72-m adult: lengths of steps scale with it."""
        return self.leg / 0.8


def make_figures(
    names: list[str], seed: int, height: tuple[float, float] = (1.52, 1.92), spread: float = 1.0
) -> list[Figure]:
    """People of random height (m) and proportions; `spread` scales how much proportions differ."""
    rng = np.random.default_rng(seed)
    figures = []
    for name in names:
        scale = rng.uniform(*height) / 1.72
        leg, trunk, arm, shoulder, hip = 1 + spread * rng.uniform(-1, 1, 5) * (
            0.05,
            0.05,
            0.06,
            0.08,
            0.08,
        )
        offsets = np.zeros((22, 3))
        for joint, offset in _ADULT.items():
            share = leg if joint in _LEG else trunk if joint in _TRUNK else 1.0
            share = arm if joint in _ARM else shoulder if joint == 16 else share
            offsets[joint] = np.array(offset) * share * scale
        offsets[1, 0] *= hip
        for left, right in _TWIN.items():
            offsets[right] = offsets[left] * (-1, 1, 1)
        figures.append(Figure(name, offsets))
    return figures


@dataclass(frozen=True)
class Feet:
    """Where both feet are: left, then right. Pitch is positive with the heel up."""

    ankle: Float[np.ndarray, "2 T 3"]
    yaw: Float[np.ndarray, "2 T"]
    pitch: Float[np.ndarray, "2 T"]
    ankle_planted: Bool[np.ndarray, "2 T"]
    toe_planted: Bool[np.ndarray, "2 T"]
    swing: Float[np.ndarray, "2 T"]  # 0 on the ground, 1 in mid-swing


@dataclass(frozen=True)
class Pose:
    """Everything that moves, at T instants.

    Arms are (left, right) x (flexion, abduction, inward twist, elbow flexion). Legs are either
    `feet` in the world, reached by inverse kinematics, or `legs` x (flexion, abduction, knee
    flexion, foot pitch).
    """

    root: Float[np.ndarray, "T 3"]
    pelvis: Float[np.ndarray, "T 3"]
    spine: Float[np.ndarray, "T 3"]
    head: Float[np.ndarray, "T 3"]
    arms: Float[np.ndarray, "2 T 4"]
    feet: Feet | None = None
    legs: Float[np.ndarray, "2 T 4"] | None = None
    # Rotation of the whole figure, applied before `pelvis`: how a lying body is laid down.
    lay: Float[np.ndarray, "T 3 3"] | None = None


def about(axes: str, *angles: Float[np.ndarray, " T"]) -> Float[np.ndarray, "T 3 3"]:
    """Rotation matrices of successive turns about the moving axes named."""
    total = None
    for axis, angle in zip(axes, angles, strict=True):
        i, j = {"X": (1, 2), "Y": (2, 0), "Z": (0, 1)}[axis]
        matrix = np.zeros((len(angle), 3, 3))
        matrix[:, 3 - i - j, 3 - i - j] = 1.0
        matrix[:, i, i] = matrix[:, j, j] = np.cos(angle)
        matrix[:, j, i] = np.sin(angle)
        matrix[:, i, j] = -matrix[:, j, i]
        total = matrix if total is None else total @ matrix
    return total


def turn(angles: Float[np.ndarray, "T 3"]) -> Float[np.ndarray, "T 3 3"]:
    """Rotation matrices of (yaw, pitch, roll)."""
    return about("YXZ", *angles.T)


def soft_limit(
    distance: Float[np.ndarray, " T"], exact: Float[np.ndarray, " T"] | float, limit: float
) -> Float[np.ndarray, " T"]:
    """`distance` up to `exact`, then bent smoothly so that it never passes `limit`.

    With limit < exact the bend is at the lower end.
    """
    over = (distance - exact) / (limit - exact)
    return np.where(over <= 0, distance, exact + (limit - exact) * np.tanh(np.maximum(over, 0)))


def reach_leg(
    hip: Float[np.ndarray, "T 3"],
    ankle: Float[np.ndarray, "T 3"],
    side: Float[np.ndarray, "T 3"],
    upper: float,
    lower: float,
    exact: Float[np.ndarray, " T"] | float = REACH + 0.001,
) -> tuple[Float[np.ndarray, "T 3 3"], Float[np.ndarray, "T 3 3"]]:
    """Frames of thigh and shin that bring the ankle to its place, knee bending forward.

    `side` is the axis of the knee's hinge (towards the left), made perpendicular to the line from
    hip to ankle; forward is then what is perpendicular to both. An ankle out of reach is pulled
    in, smoothly from the share `exact` of the leg's length on.
    """
    line = ankle - hip
    distance = np.linalg.norm(line, axis=-1)
    line = line / distance[:, None]
    length = upper + lower
    distance = soft_limit(distance, exact * length, _STRAIGHT * length)
    distance = soft_limit(distance, _FOLDED * length, (_FOLDED - 0.1) * length)
    hinge = side - np.sum(side * line, axis=-1, keepdims=True) * line
    hinge /= np.linalg.norm(hinge, axis=-1, keepdims=True)
    forward = np.cross(line, hinge)
    along = (upper**2 - lower**2 + distance**2) / (2 * distance)
    out = np.sqrt(np.maximum(upper**2 - along**2, 0.0))
    knee = along[:, None] * line + out[:, None] * forward
    bones = (knee / upper, (distance[:, None] * line - knee) / lower)
    return tuple(np.stack((hinge, -b, np.cross(hinge, -b)), axis=-1) for b in bones)


def articulate(
    figure: Figure, pose: Pose
) -> tuple[Float[np.ndarray, "T 22 3"], Float[np.ndarray, "T 22 3 3"]]:
    """Joints in metres (Y up) and the frame of the bone that starts at each joint.

    A bone's frame is the identity in the rest pose; a bone without a child (toe, head, wrist) keeps
    the frame of the last segment.
    """
    frames = np.empty((len(pose.root), 22, 3, 3))
    pelvis = turn(pose.pelvis) if pose.lay is None else pose.lay @ turn(pose.pelvis)
    frames[:, 0] = pelvis
    bend = turn(pose.spine / 3)
    for joint in (3, 6, 9):
        frames[:, joint] = frames[:, PARENTS[joint]] @ bend
    frames[:, 12] = frames[:, 9] @ turn(pose.head * 0.4)
    frames[:, 15] = frames[:, 12] @ turn(pose.head * 0.6)
    for side, (flexion, abduction, twist, elbow) in enumerate(np.moveaxis(pose.arms, -1, 1)):
        sign = 1 - 2 * side
        collar, shoulder, forearm, hand = (13, 16, 18, 20) if side == 0 else (14, 17, 19, 21)
        # A raised arm lifts its collar with it.
        raised = 0.06 * soft_limit(flexion**2 + abduction**2, 1.5, 4.5)
        frames[:, collar] = frames[:, 9] @ about("Z", sign * raised)
        frames[:, shoulder] = frames[:, 9] @ about("XZY", -flexion, sign * abduction, -sign * twist)
        frames[:, forearm] = frames[:, shoulder] @ about("X", -elbow)
        frames[:, hand] = frames[:, forearm]
    for side in (0, 1):
        hip, knee, ankle, toe = (1, 4, 7, 10) if side == 0 else (2, 5, 8, 11)
        if pose.feet is not None:
            foot = about("YX", pose.feet.yaw[side], pose.feet.pitch[side])
            start = pose.root + pelvis @ figure.offsets[hip]
            hinge = pelvis[:, :, 0] + 0.5 * foot[:, :, 0]
            frames[:, hip], frames[:, knee] = reach_leg(
                start,
                pose.feet.ankle[side],
                hinge,
                -figure.offsets[knee, 1],
                -figure.offsets[ankle, 1],
                REACH + 0.001 - 0.12 * pose.feet.swing[side],
            )
        else:
            flexion, abduction, bent, pitch = np.moveaxis(pose.legs[side], -1, 0)
            frames[:, hip] = pelvis @ about("XZ", -flexion, (1 - 2 * side) * abduction)
            frames[:, knee] = frames[:, hip] @ about("X", bent)
            foot = frames[:, knee] @ about("X", pitch)
        frames[:, ankle] = frames[:, toe] = foot
    joints = np.empty((len(pose.root), 22, 3))
    joints[:, 0] = pose.root
    for joint in range(1, 22):
        parent = PARENTS[joint]
        joints[:, joint] = joints[:, parent] + frames[:, parent] @ figure.offsets[joint]
    return joints, frames


def pelvis_ceiling(
    figure: Figure, root: Float[np.ndarray, "T 3"], pelvis: Float[np.ndarray, "T 3"], feet: Feet
) -> Float[np.ndarray, "2 T"]:
    """How high the pelvis may be for each foot to stay where it is, m; the height of `root` is
    ignored."""
    rotation = turn(pelvis)
    heights = []
    for side, hip in enumerate((1, 2)):
        socket = rotation @ figure.offsets[hip]
        gap = (feet.ankle[side] - root - socket)[:, [0, 2]]
        leg = REACH * figure.leg
        vertical = np.sqrt(np.maximum(leg**2 - np.sum(gap**2, axis=-1), (0.3 * leg) ** 2))
        heights.append(feet.ankle[side, :, 1] + vertical - socket[:, 1])
    return np.stack(heights)
