"""The 22-joint skeleton of SMPL and HumanML3D: names, tree, rest directions, left and right; and
how its motion changes its rate without aliasing."""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Float

from t2imu_utils.errors import InputError

JOINTS = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle",
    "right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar",
    "head", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist",
    "right_wrist",
)  # fmt: skip

RATE = 20.0  # frames a second of every motion in this project

Joints = Float[np.ndarray, "T 22 3"]  # metres, Y up

CHAINS = (
    (0, 2, 5, 8, 11), (0, 1, 4, 7, 10), (0, 3, 6, 9, 12, 15), (9, 14, 17, 19, 21),
    (9, 13, 16, 18, 20),
)  # fmt: skip

PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19)

# Direction from parent to joint in HumanML3D's rest pose; lengths are those of a body.
_LEFT, _UP, _AHEAD = [1, 0, 0], [0, 1, 0], [0, 0, 1]
_RIGHT, _DOWN = [-1, 0, 0], [0, -1, 0]
RAW_OFFSETS: Float[np.ndarray, "22 3"] = np.array(
    [
        [0, 0, 0], _LEFT, _RIGHT, _UP, _DOWN, _DOWN, _UP, _DOWN, _DOWN, _UP, _AHEAD, _AHEAD,
        _UP, _LEFT, _RIGHT, _AHEAD, *[_DOWN] * 6,
    ],
    dtype=np.float64,
)  # fmt: skip
RAW_OFFSETS.setflags(write=False)

# Joint i of a mirrored body is joint MIRROR[i] of the original.
MIRROR = (0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20)

# Left ankle, left toe, right ankle, right toe: the order of the contact channels.
FEET = (7, 10, 8, 11)


def check_joints(joints: Joints, where: str, min_frames: int = 1) -> None:
    """Raise InputError unless `joints` is a finite (T >= min_frames, 22, 3) array."""
    if not isinstance(joints, np.ndarray) or joints.ndim != 3 or joints.shape[1:] != (22, 3):
        raise InputError(
            f"{where}: joints", f"{getattr(joints, 'shape', type(joints).__name__)}",
            "a NumPy array of shape (frames, 22, 3), metres, Y up",
            "Map the recording onto the 22 joints of motion.skeleton.JOINTS first.",
        )  # fmt: skip
    if len(joints) < min_frames:
        found, expected = f"{len(joints)} frame(s)", f"at least {min_frames} frames"
        raise InputError(f"{where}: joints", found, expected, "Leave it out or cut it longer.")
    if not np.isfinite(joints).all():
        bad = np.argwhere(~np.isfinite(joints))[0]
        raise InputError(
            f"{where}: joints", f"NaN or infinity at frame {bad[0]}, joint {JOINTS[bad[1]]}",
            "finite coordinates", "Clean the recording (cut or fill the gap) first.",
        )  # fmt: skip


def bone_lengths(joints: Float[np.ndarray, "*batch 22 3"]) -> Float[np.ndarray, "*batch 22"]:
    """Distance in metres of every joint from its parent; 0 for the pelvis."""
    joints = np.asarray(joints)
    parents = np.array((0, *PARENTS[1:]))
    return np.linalg.norm(joints - joints[..., parents, :], axis=-1)


def bone_offsets(joints: Float[np.ndarray, "22 3"]) -> Float[np.ndarray, "22 3"]:
    """Rest-pose offsets in metres of the body seen in one frame.

    HumanML3D's target skeleton: rest direction times bone length. Pass the result as
    `target_offsets` to retarget other people's motion onto this body.
    """
    return RAW_OFFSETS * bone_lengths(joints)[:, None]


def joint_weights(letters: Sequence[str], **sums: str) -> dict[str, dict[str, float]]:
    """Joint → weights of a source's joints, from sums such as ``spine3="0.8 Chest + 0.2 Neck"``.

    ``hip`` stands for both hips; ``<>`` for what the source calls left and right, the `letters`.
    """
    mapping = {}
    for joint in JOINTS:
        side, _, name = joint.rpartition("_")
        terms = [term.split() for term in sums[name].split(" + ")]
        mapping[joint] = {
            source.replace("<>", letters[side == "right"]): float(*weight or [1.0])
            for *weight, source in terms
        }
    return mapping


def weighted_joints(
    mapping: Mapping[str, Mapping[str, float]], positions: Mapping[str, Float[np.ndarray, "T 3"]]
) -> Joints:
    """The 22 joints as weighted means of the source's own.

    Raises:
        InputError: the source has not all the joints of `mapping`.
    """
    names = sorted({name for weights in mapping.values() for name in weights})
    if lost := [name for name in names if name not in positions]:
        remedy = "The file follows another naming of joints."
        found = f"no joint {', '.join(map(repr, lost))}"
        raise InputError("skeleton", found, f"joints among {', '.join(positions)}", remedy)
    weights = np.array([[mapping[joint].get(name, 0.0) for name in names] for joint in JOINTS])
    return np.einsum("jn,tnc->tjc", weights, np.stack([positions[n] for n in names], axis=1))


# The filter of `resample`.
CUTOFF = 0.9  # of the lower of the two Nyquist frequencies
LOBES = 10  # half length of the filter, in samples of the lower rate: 121 taps for 120 -> 20 Hz
KAISER = 5.65  # ripple and stop band of -60 dB
MAX_DENOMINATOR = 2000


def resample(
    x: Float[np.ndarray, "T ..."], rate_in: float, rate_out: float
) -> Float[np.ndarray, "N ..."]:
    """Resample along the first axis from one uniform rate to another (Hz), polyphase.

    Zero phase: sample k of the result lies at k / rate_out seconds, sample 0 on sample 0. Beyond
    both ends the filter meets the point reflection of the samples, so velocity runs on through an
    end in mid-motion; if it dropped to zero there, the end would show accelerations of 10 m/s² and
    more that are not there. Straight lines and the first sample stay exact. N = floor((T - 1) *
    rate_out / rate_in) + 1: nothing beyond the last sample. More than 10 samples of the lower rate
    away from the ends, sines up to 0.7 of the lower of the two Nyquist frequencies are kept to 1e-3
    and those from 1.06 on are 40 dB down. Float64, or float32 if given.

    At least 2 finite samples. The ratio of the rates is taken as the nearest fraction of whole
    numbers up to 2000 (rates are written rounded, such as 33.33), which is off by less than 3e-4
    where neither rate is 500 times the other.
    """
    from scipy.signal import firwin, resample_poly  # slow to import, and few need it

    x = np.asarray(x)
    x = x if x.dtype == np.float32 else x.astype(np.float64)
    ratio = Fraction(rate_out / rate_in).limit_denominator(MAX_DENOMINATOR)
    up, down = ratio.numerator, ratio.denominator
    if up == down:
        return x.copy()
    count = (len(x) - 1) * up // down + 1
    factor = max(up, down)
    taps = firwin(2 * LOBES * factor + 1, CUTOFF / factor, window=("kaiser", KAISER))
    # The phases of the filter do not each sum to one, so a line stays exact only where it is taken
    # out. Point reflection continues the line through both ends.
    rest = x - _line(x, np.arange(len(x)))
    smooth = resample_poly(rest, up, down, axis=0, window=taps, padtype="antireflect")[:count]
    return (smooth + _line(x, np.arange(count) * (down / up))).astype(x.dtype)


def _line(x: Float[np.ndarray, "T ..."], at: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N ..."]:
    """The line through the first and the last sample, at sample positions `at`."""
    at = (at / (len(x) - 1)).reshape(-1, *[1] * (x.ndim - 1))
    return x[0] + at * (x[-1] - x[0])
