"""Motions whose pose is known at every instant: the truth that `evaluation.chain_error` needs."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from t2imu_utils.activities import ACTIVITIES
from t2imu_utils.body.fitting import fit
from t2imu_utils.body.smpl import Body
from t2imu_utils.body.smpl_files import BONES
from t2imu_utils.body.table1 import betas_of
from t2imu_utils.clips import Clips
from t2imu_utils.demo.corpus import KINDS
from t2imu_utils.demo.figure import Figure, articulate, make_figures
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.chain_error import TrueMotion, margin
from t2imu_utils.motion.features import RATE
from t2imu_utils.motion.rotations import matrix_to_axis_angle, quat_between, quat_to_matrix
from t2imu_utils.motion.skeleton import JOINTS, PARENTS

# Central differences lose 0.2 % of 9 Hz at this rate, and 0.02 % of 3 Hz.
FINE_RATE = 400.0
SECONDS = 4.0
# Limb bones and the joint at their other end: in the body's rest pose they point elsewhere than
# in the figure's.
_LIMBS = {1: 4, 2: 5, 4: 7, 5: 8, 16: 18, 17: 19, 18: 20, 19: 21}
_HANDS = {20: 18, 21: 19, 22: 18, 23: 19}  # these go on as the forearm does
_N = len(JOINTS)


def demo_motions(
    body: Body,
    seed: int = 0,
    activities: Sequence[str] = ACTIVITIES,
    seconds: float = SECONDS,
    rate: float = FINE_RATE,
    takes: int = 1,
) -> list[TrueMotion]:
    """Made-up performances as known motions of a body.

    The performer's frames of bones are put on the body, whose shape is the one nearest to the
    performer's bone lengths. In the body's rest pose the arms are out and the legs aslant, so limb
    bones are first swung, the shortest way, to where they point in the performer's; then both turn
    as one. Trunk, neck, head and feet are upright in both and need no such turn. The joints that
    the chain is given are the performer's.

    Args:
        body: a body model.
        seed: of performers and performances.
        activities: keys of `demo.corpus.KINDS`.
        seconds: of each motion that will count; `margin` is added at both ends.
        rate: frames per second.
        takes: performances of each activity, each by a performer of its own.
    """
    unknown = [name for name in activities if name not in KINDS]
    if unknown or not activities or seconds <= 0 or takes < 1:
        raise InputError(
            "demo_motions: activities, seconds, takes",
            f"{', '.join(unknown) or len(activities)}, {seconds}, {takes}",
            f"some of {', '.join(KINDS)}, more than 0, at least 1",
            "Check them.",
        )
    figures = make_figures([str(i) for i in range(takes)], seed)
    edge = margin(RATE)
    times = np.arange(round((seconds + 2 * edge) * rate) + 1) / rate - edge
    made = []
    for activity in activities:
        for take, figure in enumerate(figures):
            # Its own stream, so that a motion does not depend on which others there are.
            rng = np.random.default_rng((seed, take, list(KINDS).index(activity)))
            pose = KINDS[activity](rng, figure, times).pose
            made.append(_embodied(activity, figure, *articulate(figure, pose), rate, body))
    return made


def _embodied(
    activity: str,
    figure: Figure,
    joints: Float[np.ndarray, "F 22 3"],
    frames: Float[np.ndarray, "F 22 3 3"],
    rate: float,
    body: Body,
) -> TrueMotion:
    upright = np.zeros((1, _N, 3))
    for joint in range(1, _N):
        upright[:, joint] = upright[:, PARENTS[joint]] + figure.offsets[joint]
    shown = Clips.from_list([{"name": figure.name}], {"joints": [upright]})
    betas = betas_of(fit(shown, body, progress=False).table)[0]
    rest = body.rest_joints(torch.from_numpy(betas))
    swing = torch.eye(3, dtype=torch.float64).repeat(BONES, 1, 1)
    for bone, end in _LIMBS.items():
        way = torch.from_numpy(figure.offsets[end])
        swing[bone] = quat_to_matrix(quat_between(rest[end] - rest[bone], way))
    for bone, forearm in _HANDS.items():
        swing[bone] = swing[forearm]
    turned = torch.from_numpy(frames[:, [_HANDS.get(bone, bone) for bone in range(BONES)]]) @ swing
    pose = _local(turned, body)
    return TrueMotion(
        activity,
        rate,
        betas,
        pose[:, 0],
        pose[:, 1:].reshape(len(pose), -1),
        joints[:, 0] - rest[0].numpy(),
        _local(swing[None], body)[0],
        joints,
    )


def _local(turned: Float[Tensor, "F 24 3 3"], body: Body) -> Float[np.ndarray, "F 24 3"]:
    """Rotation vectors against the parent bone, from rotations against the world."""
    above = turned[:, list(body.parents[1:])]
    local = torch.cat((turned[:, :1], above.mT @ turned[:, 1:]), 1)
    return matrix_to_axis_angle(local).numpy()
