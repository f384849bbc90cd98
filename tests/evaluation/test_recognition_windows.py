"""Windows of variants, of runs that were written by hand: noise for sensors, known motions."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from t2imu_utils import data, runs
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.recognition_variants import RecognitionVariant
from t2imu_utils.evaluation.recognition_windows import (
    SENSORS,
    real_windows,
    recordings_section,
    scored_motions,
    synthetic_windows,
    what_was_used,
)
from t2imu_utils.files import write_table
from t2imu_utils.imu.phone import measured, read_sensor_model
from t2imu_utils.motion.corpus import MotionClip, write_corpus
from t2imu_utils.motion.features import features_to_joints

CLASSES = ["stair climbing", "walking"]
ASKED = ["climbing up", "lying", "climbing down", "walking", "walking", "walking", "walking"]
# Numbers of the motions: 2 was asked for and not made.
NUMBERS = [0, 1, 3, 4, 5, 6, 7]
# The smaller, the calmer; training motions have 0.01.
SHAKEN = [0.01, 0.01, 0.05, 0.08, 0.01, 0.02, 0.04]
BODIES = ("short", "tall")
SITES = ["waist", "head"]


def shaking(size, seed):
    rng = np.random.default_rng(seed)
    features = np.zeros((60, 263), np.float32)
    features[:, 4:67] = rng.standard_normal(63) + size * rng.standard_normal((60, 63))
    return features


def readings(numbers, asked):
    rng = np.random.default_rng(3)
    rows = [
        {"motion": n, "activity": a, "prompt": f"{a} {n % 2}", "body": body}
        for n, a in zip(numbers, asked, strict=True)
        for body in BODIES
    ]
    signal = [(rng.standard_normal((60, 2, 3)) + [0, 9.8, 0]).astype(np.float32) for _ in rows]
    arrays = {"acc": signal, "gyro": [0.1 * x for x in signal]}
    return Clips.from_list(rows, arrays, {"rate": 20.0, "sites": SITES})


@pytest.fixture
def track(tiny, runs_folder):
    section = {"classes": CLASSES, "labels": "categories", "sites": SITES, "channels": ["acc"]}
    track = tiny.model_copy(
        update={"name": "small", "recordings": tiny.recordings.model_copy(update=section)}
    )
    clips = [
        MotionClip(f"{split}{i}", shaking(0.01, i), ["a person moves"], "1")
        for split, count in (("train", 32), ("val", 2))
        for i in range(count)
    ]
    names = [clip.name for clip in clips]
    run = runs.open_run("small", runs.SHARED, data.STAGE, {}, {})
    splits = {s: [n for n in names if n.startswith(s)] for s in ("train", "val")}
    write_corpus(run.path("corpus"), clips, splits)
    kinds = [CLASSES[i % 2] for i in range(len(names))]
    categories = pd.DataFrame({"name": names, "category": kinds})
    written = [write_table(run.path("categories.parquet"), categories)]
    real = readings(range(4), ["climbing up", "walking"] * 2)
    real = Clips(real.table.rename(columns={"body": "subject"}), real.arrays, real.meta)
    run.finish({}, [run.path("corpus"), *written, *real.save(run.path("recordings"))])
    run = runs.open_run("small", "mdm", SENSORS, {"sensor_model": None}, {})
    run.finish({}, readings(NUMBERS, ASKED).save(run.path("imu")))
    rows = [{"activity": a, "motion": n} for a, n in zip(ASKED, NUMBERS, strict=True)]
    joints = [
        features_to_joints(shaking(size, 50 + n)) for n, size in zip(NUMBERS, SHAKEN, strict=True)
    ]
    run = runs.open_run("small", "mdm", "03_smpl_fitting", {}, {})
    run.finish({}, Clips.from_list(rows, {"joints": joints}).save(run.path("motions")))
    return track


def test_by_default_all_motions_count_with_their_ideal_sensors(track):
    found = synthetic_windows(track, "mdm")
    # Two windows of each of 6 motions on 2 bodies.
    assert found.counts().to_dict() == {"stair climbing": 8, "walking": 16}
    assert (found.x[0] == data.load_imu(track, "mdm")[0]["acc"][:40].reshape(40, 6)).all()
    assert real_windows(track).x.shape == (16, 40, 6)


def test_only_the_best_of_each_activity_are_kept(track):
    table, reference = scored_motions(track, "mdm")
    assert table["motion"].tolist() == [0, 3, 4, 5, 6, 7]  # no class of the track is lying
    assert set(reference.centre) == set(CLASSES)
    walking = table[table["activity"] == "walking"].set_index("motion")["score"]
    assert walking.sort_values().index.tolist() == [5, 6, 7, 4]
    for keep, motions in ((0.5, {0, 3, 5, 6}), (0.25, {0, 3, 5}), (0.75, {0, 3, 5, 6, 7})):
        found = synthetic_windows(track, "mdm", RecognitionVariant(keep=keep))
        assert set(found.groups) == motions
        assert set(found.subjects) == set(BODIES)


def test_both_sides_have_the_same_axes_and_classes(track):
    variant = RecognitionVariant(axes="gravity")
    train, test = synthetic_windows(track, "mdm", variant), real_windows(track, variant)
    assert train.x.shape[2] == test.x.shape[2] == 4
    assert_allclose(train.x[..., 0].mean(), 9.8, atol=0.3)
    classes = [*CLASSES, "lying"]
    more = track.recordings.model_copy(update={"classes": classes})
    wider = track.model_copy(update={"recordings": more})
    fewer = RecognitionVariant(without=("lying",))
    assert recordings_section(wider, fewer) == track.recordings
    assert (synthetic_windows(wider, "mdm", fewer).x == synthetic_windows(track, "mdm").x).all()
    assert set(real_windows(wider, fewer).labels) == set(CLASSES)


def test_errors_of_a_phone_are_added_once(track):
    phone = RecognitionVariant(sensor_model="phone")
    found = synthetic_windows(track, "mdm", phone)
    worn = measured(data.load_imu(track, "mdm"), read_sensor_model("phone"))
    assert (found.x[0] == worn[0]["acc"][:40].reshape(40, 6)).all()
    assert (found.x != synthetic_windows(track, "mdm").x).mean() > 0.9
    run = runs.open_run("small", "mdm", SENSORS, {"sensor_model": {"acc_noise": 1}}, {})
    run.finish({}, readings(NUMBERS, ASKED).save(run.path("imu")))
    with pytest.raises(InputError, match="those of a sensor model"):
        synthetic_windows(track, "mdm", phone)


def test_what_was_used_is_counted(track):
    table = what_was_used(track, ["mdm"])
    assert table.index.names == ["class", "model"]
    assert table.loc[("stair climbing", "mdm")].to_dict() == {
        "prompts": 2, "motions": 2, "bodies": 2, "windows": 8
    }  # fmt: skip
    walking = {"prompts": 2, "motions": 4, "bodies": 2, "windows": 16}
    assert table.loc[("walking", "mdm")].to_dict() == walking
    half = what_was_used(track, ["mdm"], RecognitionVariant(keep=0.5))
    assert half["motions"].tolist() == [2, 2] and half["windows"].tolist() == [8, 8]
