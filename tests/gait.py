"""A figure that swings by closed-form angles: clips of nine kinds of motion for tests."""

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from t2imu_utils.body.smpl import load_body
from t2imu_utils.clips import Clips
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.motion.features import RATE, joints_to_features
from t2imu_utils.motion.skeleton import PARENTS

# Strides a second; swing of thighs and bend of knees, rad; thighs forward at rest, rad; speed
# ahead and up, m/s; bounce, m; pitch of the trunk, rad.
KINDS = {
    "walking": (0.9, 0.4, 0.35, 0.0, 1.2, 0.0, 0.02, 0.05),
    "running": (1.2, 0.6, 0.7, 0.1, 2.5, 0.0, 0.06, 0.2),
    "jumping": (0.8, 0.0, 0.5, 0.2, 0.0, 0.0, 0.2, 0.1),
    "dancing": (1.1, 0.2, 0.5, 0.1, 0.2, 0.0, 0.05, 0.1),
    "sitting": (0.2, 0.01, 1.5, 1.5, 0.0, 0.0, 0.0, 0.1),
    "standing": (0.2, 0.02, 0.02, 0.0, 0.0, 0.0, 0.005, 0.0),
    "lying": (0.15, 0.01, 0.1, 0.0, 0.0, 0.0, 0.0, -1.55),
    "climbing up": (0.8, 0.45, 0.9, 0.5, 0.5, 0.15, 0.03, 0.15),
    "climbing down": (0.85, 0.35, 0.8, 0.3, 0.5, -0.15, 0.03, 0.0),
}
SPLITS = ("train", "val", "test", "train", "train", "train")


def figure(kind: str, frames: int, seed: int = 0, size: float = 1.0) -> np.ndarray:
    """Joints (frames, 22, 3) in metres, Y up, 20 frames a second."""
    rate, swing, bend, seat, ahead, up, bounce, pitch = KINDS[kind]
    rng = np.random.default_rng(seed)
    rate, swing = rate * rng.uniform(0.95, 1.05), swing * rng.uniform(0.9, 1.1)
    time, phase = np.arange(frames) / RATE, rng.uniform(0, 2 * np.pi)
    stride = 2 * np.pi * rate * time + phase
    angles = np.zeros((frames, 22, 3))  # about x, y and z of the parent
    angles[:, 0] = np.stack((pitch + 0.02 * np.sin(stride), 0.05 * np.sin(stride), 0 * time), -1)
    for side, hip, knee, shoulder, elbow in ((1, 1, 4, 16, 18), (-1, 2, 5, 17, 19)):
        leg = stride + (0 if side == 1 or not swing else np.pi)
        angles[:, hip, 0] = -seat - swing * np.sin(leg)
        angles[:, knee, 0] = bend * (1 if seat > 1 else 0.5 - 0.5 * np.cos(leg + 0.6))
        angles[:, shoulder, 2] = -1.2 * side  # from the T of the rest pose to the thighs
        angles[:, shoulder, 0] = 0.5 * swing * np.sin(leg)
        angles[:, elbow, 1] = -side * min(0.2 + swing, 1.2)
    rest = load_body().rest_joints(torch.zeros(10))[:22].numpy() * size
    local = Rotation.from_euler("zyx", angles[..., ::-1].reshape(-1, 3)).as_matrix()
    local = local.reshape(frames, 22, 3, 3)
    joints, turned = np.zeros((frames, 22, 3)), local.copy()
    hop = bounce * np.abs(np.cos(stride)) if kind == "jumping" else bounce * np.cos(2 * stride)
    joints[:, 0] = np.stack((0 * time, hop + up * time, ahead * time), -1)
    for joint, parent in list(enumerate(PARENTS))[1:]:
        turned[:, joint] = turned[:, parent] @ local[:, joint]
        joints[:, joint] = joints[:, parent] + turned[:, parent] @ (rest[joint] - rest[parent])
    return joints


def gait_corpus(clips: int) -> tuple[list[MotionClip], dict[str, list[str]]]:
    """Clips of 3 to 5 s, the kinds in turn, by people of one split each; names by split."""
    made, splits = [], {split: [] for split in SPLITS}
    for index in range(clips):
        kind, person = list(KINDS)[index % len(KINDS)], index // len(KINDS) % len(SPLITS)
        frames = 61 + int(np.random.default_rng(index).integers(40))
        joints = figure(kind, frames, index, 0.97 + 0.015 * person)
        captions = [f"a person is {kind}", f"someone is {kind}"]
        features = joints_to_features(joints, convention="clean")
        made.append(MotionClip(f"{index:06d}", features, captions, f"p{person}", kind, f"{index}"))
        splits[SPLITS[person]].append(made[-1].name)
    return made, splits


class Gaits:
    """In the place of a generator: figures of the activity that a motion is asked for.

    undone: activities in which they only stand.
    """

    def __init__(self, undone: tuple[str, ...] = ()):
        self.undone = undone

    def sample(self, prior, requests, guidance, batch_size, progress) -> Clips:
        kinds = ["standing" if a in self.undone else a for a in requests["activity"]]
        drawn = zip(kinds, requests["frames"], requests["seed"], strict=True)
        rows = requests.assign(motion=range(len(requests))).to_dict("records")
        return Clips.from_list(rows, {"joints": [figure(*each) for each in drawn]}, {"rate": RATE})
