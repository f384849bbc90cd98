"""One sentence, one motion: with a prior of no training, and with the one that is shipped."""

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from t2imu_utils.activities import SITES
from t2imu_utils.body.smpl import load_body
from t2imu_utils.errors import InputError
from t2imu_utils.models.mdm import GENERATOR, MDMConfig, new_prior
from t2imu_utils.models.text import TEXT_ENCODERS
from t2imu_utils.motion.cmu import TARGET_OFFSETS
from t2imu_utils.motion.features import Normaliser, joints_to_features
from t2imu_utils.motion.skeleton import PARENTS, bone_lengths
from t2imu_utils.text_to_imu import CHANNELS, asked_for, generate_motion
from t2imu_utils.tracks import OPEN_PRIOR
from tests.conftest import WordEncoder

PROMPT = "a person walks"


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """The file of a tiny prior that has learned nothing but how one stands, for up to 1.2 s."""
    joints = np.zeros((22, 3))
    for joint, parent in enumerate(PARENTS[1:], 1):
        joints[joint] = joints[parent] + TARGET_OFFSETS[joint]
    turns = np.linspace(0, 2, 30)[:, None, None]
    features = joints_to_features(joints - [0, joints[:, 1].min(), 0] + 0.1 * np.sin(turns))
    config = MDMConfig(
        layers=1, width=16, heads=2, feedforward=24, dropout=0.0, max_frames=24, diffusion_steps=12
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TEXT_ENCODERS, WordEncoder.name, lambda cache: WordEncoder())
        new = new_prior(config, Normaliser(features.mean(0), np.full(263, 0.02)), WordEncoder(), 3)
        path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
        yield GENERATOR.save(path, new, half=True)[0]


@pytest.fixture(scope="module")
def motion(prior):
    return generate_motion(PROMPT, 1.0, 7, prior, "female short")


def test_the_same_request_is_the_same_motion_and_another_seed_another(motion, prior):
    again = generate_motion(PROMPT, 1.0, 7, prior, "female short")
    for name in ("features", "transl", "acc"):
        assert_array_equal(getattr(again, name), getattr(motion, name))
    other = generate_motion(PROMPT, 1.0, 8, prior, imu=False)
    assert other.acc is None and other.sites == ()
    assert np.abs(other.features - motion.features).max() > 0.005


def test_the_person_changes_the_body_and_not_the_motion(prior, monkeypatch):
    # The first sample, not that with the fewest faults: it is near the posture that was learned.
    monkeypatch.setattr("t2imu_utils.text_to_imu.wrong_with", lambda *_: {})
    mean, motion = (generate_motion(PROMPT, 1.0, 7, prior, p) for p in ("mean", "female short"))
    assert not mean.betas.any()
    assert_array_equal(mean.features, motion.features)
    assert_array_equal(mean.body_pose, motion.body_pose)
    body = load_body()
    short, usual = (np.ptp(body.rest_vertices(m.betas)[:, 1].numpy()) for m in (motion, mean))
    assert_allclose(short, 1.5, atol=0.01)
    assert usual > 1.6 and np.abs(mean.acc - motion.acc).max() > 0.01
    posed = body.joints(mean.betas, mean.global_orient, mean.body_pose, mean.transl).numpy()
    assert np.linalg.norm(posed[:, :22] - mean.joints, axis=-1).mean() < 0.1


def test_the_file_holds_no_pickles_and_says_what_it_is(motion, tmp_path):
    path = motion.save(tmp_path / "new" / "walk.npz")
    with np.load(path, allow_pickle=False) as file:
        stored = dict(file)
    for name, value in vars(motion).items():
        if isinstance(value, np.ndarray):
            assert_array_equal(stored[name], value)
    assert stored["prompt"] == PROMPT and stored["seed"] == 7 and stored["fps"] == 20
    assert tuple(stored["sites"]) == SITES and tuple(stored["channels"]) == CHANNELS
    told = json.loads(str(stored["meta"]))
    assert tuple(told.pop("warnings")) == motion.warnings and told == motion.meta
    assert [p.name for p in path.parent.iterdir()] == ["walk.npz"]
    bare = replace(motion, acc=None, gyro=None, sites=())
    with np.load(bare.save(tmp_path / "bare.npz"), allow_pickle=False) as file:
        assert not {"acc", "gyro", "sites", "channels"} & set(file.files)


def test_a_motion_with_faults_is_sampled_again_and_never_returned_in_silence(prior, monkeypatch):
    kept = []

    def judged(joints, activity):  # the third is good
        kept.append(joints)
        return {} if len(kept) == 3 else {"slip": 1.0}

    monkeypatch.setattr("t2imu_utils.text_to_imu.wrong_with", judged)
    good = generate_motion(PROMPT, 1.0, 7, prior, imu=False)
    assert not good.warnings and good.meta["rejected"] == 2
    assert_array_equal(good.joints, kept[2].astype(np.float32))
    bad = generate_motion(PROMPT, 1.0, 7, prior, imu=False)
    assert len(kept) == 7 and bad.meta["rejected"] == 4 and "slip" in bad.warnings[0]
    assert_array_equal(bad.joints, kept[0].astype(np.float32))
    with pytest.raises(InputError, match="slip"):
        generate_motion(PROMPT, 1.0, 7, prior, imu=False, strict=True)
    monkeypatch.setattr("t2imu_utils.text_to_imu.wrong_with", lambda *_: {"not finite": 3.0})
    with pytest.raises(InputError, match="finite"):
        generate_motion(PROMPT, 1.0, 7, prior, imu=False)


def test_a_prompt_far_from_all_training_sentences_warns_or_fails(tmp_path, prior):
    own = tmp_path / prior.name
    own.write_bytes(prior.read_bytes())
    encoder = WordEncoder()
    known = ["a person walks", "a man walks", "a person walks slowly", "a person sits down"]
    vectors = encoder.encode_pooled(known).numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.savez(
        own.with_suffix(".prompts.npz"), embeddings=vectors, activities=[*["walking"] * 3, "other"]
    )
    assert asked_for("a person walks", encoder, own) == ("walking", pytest.approx(1))
    np.savez(own.with_suffix(".prompts.npz"), embeddings=-vectors, activities=["other"] * 4)
    assert "unlike" in generate_motion(PROMPT, 1.0, 7, own, imu=False).warnings[0]
    with pytest.raises(InputError, match="prompt"):
        generate_motion(PROMPT, 1.0, 7, own, imu=False, strict=True)


def test_the_shipped_prior_makes_bodies_that_hold_together():
    asked = ("a person walks forward", 2.0, 1)
    motion = generate_motion(*asked)
    assert_array_equal(generate_motion(*asked, imu=False).features, motion.features)
    assert OPEN_PRIOR.stat().st_size <= 16e6
    for name in ("joints", "body_pose", "transl", "acc", "gyro"):
        assert np.isfinite(getattr(motion, name)).all()
    bones = np.median(bone_lengths(motion.joints), axis=0)[1:]
    assert_allclose(bones, np.linalg.norm(TARGET_OFFSETS, axis=1)[1:], rtol=0.25, atol=0.02)
    # It stands on its feet, and its sensors feel gravity.
    assert 0.7 < np.median(motion.joints[:, 0, 1]) < 1.3
    assert 8 < np.linalg.norm(motion.acc.mean(0), axis=-1).mean() < 11
    assert motion.meta["joint_error_mm"] < 40
