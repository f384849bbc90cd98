"""A body of known lengths, and motions of it."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from t2imu_utils.motion.skeleton import PARENTS, RAW_OFFSETS

LENGTHS = np.array(
    [0, 0.1, 0.1, 0.13, 0.39, 0.39, 0.14, 0.43, 0.43, 0.06, 0.14, 0.14]
    + [0.22, 0.14, 0.14, 0.1, 0.13, 0.13, 0.26, 0.26, 0.27, 0.27]
)


def posed(rotations: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Joints (T, 22, 3) of the body with every bone turned by its own rotation vector."""
    offsets = RAW_OFFSETS * LENGTHS[:, None]
    joints = np.zeros((len(root), 22, 3))
    joints[:, 0] = root
    for joint in range(1, 22):
        turned = Rotation.from_rotvec(rotations[:, joint]).apply(offsets[joint])
        joints[:, joint] = joints[:, PARENTS[joint]] + turned
    return joints


@pytest.fixture
def body():
    """Bone lengths (22,) and the joints (22, 3) of the body at rest, facing +Z."""
    return LENGTHS, posed(np.zeros((1, 22, 3)), np.array([[0.0, 0.96, 0.0]]))[0]


@pytest.fixture
def turning_motion():
    """Two whole turns in ten seconds with limbs that wave: (200, 22, 3)."""
    rng = np.random.default_rng(3)
    frames = 200
    wave = gaussian_filter1d(rng.normal(size=(frames, 22, 3)), 6, axis=0, mode="wrap") * 1.5
    wave[:, [1, 2, 3, 6, 9, 13, 14]] *= 0.2
    time = np.arange(frames) / 20
    root = np.stack([np.sin(time), 0.95 + 0.03 * np.sin(5 * time), 0.4 * time], axis=1)
    joints = posed(wave, np.zeros((frames, 3)))
    spin = Rotation.from_rotvec(np.outer(4 * np.pi * time / 10, [0, 1, 0]))
    return np.stack([spin[t].apply(joints[t]) for t in range(frames)]) + root[:, None]
