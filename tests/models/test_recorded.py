"""Recorded motion in the place of sampled motion, and ways to read or smooth what was sampled."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter1d

from t2imu_utils.models.exported import RECORDED as GENERATOR
from t2imu_utils.models.generator import Generator
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.motion.features import features_to_joints


def test_each_request_gets_a_clip_of_its_activity(tmp_path):
    clips = [
        MotionClip(name, np.zeros((frames, 263), np.float32), ["-"], "", activity)
        for name, frames, activity in (
            ("a", 50, "walking"), ("b", 90, "walking"), ("c", 30, "walking"), ("d", 60, "gesture"),
            ("e", 45, "running"),
        )
    ]  # fmt: skip
    read = GENERATOR.read(None, None, clips)
    assert read.clips.table["name"].tolist() == ["a", "b", "e"] and read.skipped[0].name == "c"
    requests = pd.DataFrame(
        {"activity": ["walking", "walking", "running", "lying"], "prompt": "-", "frames": 60,
         "seed": range(4)}
    )  # fmt: skip
    found = GENERATOR.sample(read, requests, None, 1)
    # Different clips as long as there are any, whole or cut to what was asked for.
    assert sorted(found.table["frames"][:2]) == [50, 60] and found.table["frames"][2] == 45
    assert found.table["motion"].tolist() == [0, 1, 2]
    assert [left["name"] for left in found.meta["left_out"]] == ["lying"]
    path = tmp_path / "prior.safetensors"
    GENERATOR.save(path, read)
    again = GENERATOR.sample(GENERATOR.load(path), requests, None, 1)
    assert_array_equal(again.arrays["joints"], found.arrays["joints"])


def test_a_readout_and_a_gaussian_may_be_asked_for():
    features = np.random.default_rng(0).normal(0, 0.1, (30, 263)).astype(np.float32)

    class Fixed(Generator):
        def generate(self, *_):
            return [features]

    prior = SimpleNamespace(velocity_weight=3.0)
    requests = pd.DataFrame({"prompt": ["-"], "frames": [30], "seed": [0]})
    sample = Fixed().sample
    for given, weight in ((None, 3.0), (0.0, 0.0)):
        joints = sample(prior, requests, None, 1, velocity_weight=given).arrays["joints"]
        assert_allclose(joints, features_to_joints(features, weight), atol=1e-6)
    smooth = sample(prior, requests, None, 1, smooth=1.0).arrays["features"]
    assert_allclose(smooth, gaussian_filter1d(features, 1.0, axis=0, mode="nearest"), atol=1e-6)
    assert smooth.std() == pytest.approx(
        0.53 * features.std(), rel=0.1
    )  # 1 / (2 sqrt(pi)) of power
