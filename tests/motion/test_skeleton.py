"""The skeleton: the tree, left and right, lengths."""

import numpy as np
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.motion.skeleton import (
    CHAINS,
    JOINTS,
    MIRROR,
    PARENTS,
    RAW_OFFSETS,
    bone_lengths,
    bone_offsets,
    check_joints,
)


def test_chains_and_parents_are_one_tree():
    links = {(a, b) for chain in CHAINS for a, b in zip(chain[:-1], chain[1:], strict=True)}
    assert links == {(parent, joint) for joint, parent in enumerate(PARENTS) if joint}
    assert all(parent < joint for joint, parent in enumerate(PARENTS))


def test_mirror_swaps_names_and_keeps_the_tree():
    for joint, twin in enumerate(MIRROR):
        assert MIRROR[twin] == joint
        side = {"left": "right", "right": "left"}
        assert JOINTS[twin] == "_".join(side.get(word, word) for word in JOINTS[joint].split("_"))
        if joint:
            assert PARENTS[twin] == MIRROR[PARENTS[joint]]
            np.testing.assert_array_equal(RAW_OFFSETS[twin], RAW_OFFSETS[joint] * [-1, 1, 1])


def test_lengths_of_a_known_body(body):
    lengths, joints = body
    turned = joints @ np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]) + [3.0, 1.0, 2.0]
    np.testing.assert_allclose(bone_lengths(turned[None])[0], lengths, atol=1e-12)
    np.testing.assert_allclose(bone_offsets(turned), RAW_OFFSETS * lengths[:, None], atol=1e-12)


@pytest.mark.parametrize(
    ("joints", "word"),
    [
        (np.zeros((5, 21, 3)), "22"),
        (np.zeros((5, 22)), "22"),
        (np.zeros((2, 22, 3)), "2 frame"),
        (np.full((5, 22, 3), np.nan), "frame 0, joint pelvis"),
        ([[0.0]], "list"),
    ],
)
def test_bad_joints_are_named(joints, word):
    with pytest.raises(InputError, match=word):
        check_joints(joints, "clip", min_frames=3)
