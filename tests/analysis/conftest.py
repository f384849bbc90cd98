"""A small prior that needs no text model, and clips for it."""

import numpy as np
import pytest
import torch

from t2imu_utils.models.mdm import MDMConfig, new_prior
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from tests.conftest import WordEncoder

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def clips() -> list[MotionClip]:
    rng = np.random.default_rng(7)
    made = []
    for i, frames in enumerate((24, 9, 17, 12, 30)):
        phase = np.linspace(0, 4, frames)[:, None] + 6 * rng.random(263)
        features = (0.2 * np.sin(phase)).astype(np.float32)
        features[:, 259:] = rng.integers(0, 2, (frames, 4))
        made.append(MotionClip(f"clip{i}", features, ["a person moves " + "on " * i, "other"]))
    return made


@pytest.fixture(scope="session")
def prior(clips):
    everything = np.concatenate([clip.features for clip in clips])
    normaliser = Normaliser(everything.mean(0), everything.std(0) + 0.05)
    config = MDMConfig(
        layers=1, width=16, heads=2, feedforward=32, dropout=0.0, max_frames=24, diffusion_steps=20
    )
    return new_prior(config, normaliser, WordEncoder(), seed=1)
