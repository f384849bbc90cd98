"""The split of the error: parts that must vanish do, and the whole is the package's own chain."""

from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from t2imu_utils import chain_plots, plots
from t2imu_utils.body.fitting import fit
from t2imu_utils.body.smpl import Shape, load_body
from t2imu_utils.body.table1 import betas_of
from t2imu_utils.clips import Clips
from t2imu_utils.demo.true_motions import demo_motions
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.chain_error import (
    BAND,
    PARTS,
    TOTAL,
    TrueMotion,
    largest_part,
    pooled,
    split_error,
)
from t2imu_utils.imu.sensors import synthesise, virtual_imu
from t2imu_utils.imu.sites import sensor_frames, sensor_sites, site_vertices
from t2imu_utils.motion.resample import resample
from t2imu_utils.motion.skeleton import JOINTS

matplotlib.use("Agg")
FINE, RATE, SECONDS = 100.0, 20.0, 2.2
TIME = np.arange(round(SECONDS * FINE) + 1) / FINE
NAMES = ("chest", "forearm", "shin")


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture(scope="module")
def sites(body):
    return sensor_sites(body, NAMES)


def motion(**turns):
    """Upright in SMPL's rest pose, bones turned about one axis: name=(axis, angle (F,))."""
    pose = np.zeros((len(TIME), 24, 3))
    for name, (axis, angle) in turns.items():
        pose[:, JOINTS.index(name), axis] = angle
    return TrueMotion(
        "exercise", FINE, np.zeros(10), pose[:, 0], pose[:, 1:].reshape(len(TIME), -1),
        np.tile((3.0, 1.0, 0.0), (len(TIME), 1)), np.zeros((24, 3)),
    )  # fmt: skip


def part(table, name):
    return table[table["part"] == name].set_index("site")


def wheel(speed):
    """The whole body turns about the world's upright axis, 3 m away from it."""
    turning = motion(pelvis=(1, speed * TIME))
    path = 3 * np.stack((np.cos(speed * TIME), 0 * TIME, -np.sin(speed * TIME)), -1)
    return replace(turning, transl=path)


def reading_at_the_skin(body, sites, true, rate):
    """acc (T, S, 3) of sensors glued to the true skin."""
    pose = (true.betas, true.global_orient, true.body_pose, true.transl)
    ids = torch.from_numpy(site_vertices(sites))
    skin = body.vertices(ids, *map(torch.from_numpy, pose))
    places, axes = (x.movedim(0, 1) for x in sensor_frames(skin, sites))
    return virtual_imu(places, axes, rate, scheme="central")[0].movedim(1, 0).numpy()


def test_a_statue_has_no_error_but_how_its_sensors_are_turned(body, sites):
    table = split_error([motion()], body, sites)
    for name in (BAND, "differentiation", "surface", "frame", "skeleton"):
        assert part(table, name)[["acc_rms", "gyro_rms"]].max().max() < 1e-3, name
    total = part(table, TOTAL)
    assert total["gyro_rms"].max() < 1e-3
    np.testing.assert_allclose(total["acc_rms"], total["acc_offset"], atol=1e-3)
    shares = pooled(table, ("site",))
    assert shares["acc_share"].isna().all() and (shares["gyro_share"].isna()).all()


def test_a_body_that_turns_as_a_whole_has_no_error_of_surface_or_frame(body, sites):
    speed = 6.0
    true = wheel(speed)
    table = split_error([true], body, sites, scheme="central")
    for name in ("surface", "frame"):
        # Of some 100 m/s²: what the filter's ripple does to axes that turn.
        assert part(table, name)[["acc_rms", "gyro_rms"]].max().max() < 0.01, name
    # The chord of a step is shorter than the arc: the centripetal term is too small.
    pull = np.linalg.norm(reading_at_the_skin(body, sites, true, FINE)[len(TIME) // 2], axis=-1)
    pull = np.sqrt(pull**2 - 9.81**2)
    half = speed / RATE / 2
    expected = pull * (1 - (np.sin(half) / half) ** 2)
    found = part(table, "differentiation").loc[list(NAMES)]
    np.testing.assert_allclose(found["acc_rms"], expected, rtol=0.08)  # ripple is 0.05 % of pull
    assert found["gyro_rms"].max() < 1e-3


def test_differentiation_falls_with_the_square_of_the_step_and_ends_at_the_fine_rate(body, sites):
    swing = motion(right_elbow=(1, 0.6 * np.sin(2 * np.pi * 0.9 * TIME)))
    error = {
        rate: part(split_error([swing], body, sites, rate, "central"), "differentiation").loc[
            "forearm"
        ]
        for rate in (20.0, 50.0, FINE)
    }
    for measure in ("acc_rms", "gyro_rms"):
        # The truth itself is differentiated at 100 Hz.
        ratio = (1 / 20**2 - 1 / FINE**2) / (1 / 50**2 - 1 / FINE**2)
        assert error[20.0][measure] / error[50.0][measure] == pytest.approx(ratio, rel=0.12)
        assert error[20.0][measure] > 0.02 and error[FINE][measure] < 1e-6


def test_skin_that_stretches_shows_in_surface_and_frame(body, sites):
    bow = motion(spine2=(0, 0.5 + 0.5 * np.sin(5 * TIME)), spine3=(0, 0.3 * np.sin(5 * TIME)))
    table = split_error([bow], body, sites)
    for name, measure in (("surface", "acc_rms"), ("frame", "gyro_rms")):
        values = part(table, name)[measure]
        assert values["chest"] > 0.02 and values["shin"] < 1e-6
    assert part(table, "surface")["gyro_rms"].max() < 1e-6  # another place has the same turning


def test_what_the_joints_do_not_show_is_an_error_of_fitting(body):
    sites = sensor_sites(body, ("head", "chest"))
    nod = motion(head=(0, 0.4 * np.sin(6 * TIME)))
    table = split_error([nod], body, sites)
    fitting, signal = part(table, "fitting")["gyro_rms"], part(table, TOTAL)["gyro_signal"]
    assert fitting["head"] == pytest.approx(signal["head"], rel=0.03) and signal["head"] > 1
    assert fitting["chest"] < 0.05


def test_own_joints_leave_nothing_to_another_skeleton(body, sites):
    step = motion(right_hip=(0, -0.5 + 0.3 * np.sin(5 * TIME)), right_knee=(0, 0.8 + 0 * TIME))
    pose = (step.betas, step.global_orient, step.body_pose, step.transl)
    own = body.joints(*pose)[:, :22].double().numpy()
    wider = own.copy()
    wider[:, 5] += (-0.03, 0.02, 0.0)
    table = split_error([step, replace(step, joints=wider)], body, sites)
    none, some = (part(table[table["motion"] == i], "skeleton") for i in (0, 1))
    assert none["acc_rms"].max() < 1e-3 < 0.05 < some["acc_rms"]["shin"]


def test_the_whole_is_what_the_packages_chain_does(body, sites):
    true = wheel(5.0)
    pose = (true.betas, true.global_orient, true.body_pose, true.transl)
    joints = body.joints(*map(torch.from_numpy, pose))[:, :22].numpy()
    clips = Clips.from_list([{"name": "a"}], {"joints": [resample(joints, FINE, RATE)]})
    fits = fit(clips, body, progress=False)
    shape = Shape(body, betas_of(fits.table)[0])
    made = synthesise(fits, body, {"a": shape}, sites, rate=RATE, scheme="central", progress=False)
    truth = reading_at_the_skin(body, sites, true, FINE)[:: round(FINE / RATE)]
    error = (made.arrays["acc"] - truth)[10:-10]
    found = part(split_error([true], body, sites, scheme="central"), TOTAL).loc[
        list(NAMES), "acc_rms"
    ]
    np.testing.assert_allclose(found, np.sqrt((error**2).sum(-1).mean(0)), rtol=0.02)


@pytest.fixture(scope="module")
def demo(body):
    return demo_motions(body, activities=("running", "sitting"), seconds=1.2, rate=200.0)


@pytest.fixture(scope="module")
def table(body, demo):
    return split_error(demo, body)


def test_another_order_gives_other_parts_and_the_same_whole(body, demo, table):
    order = ("frame", "surface", "differentiation", "fitting", "skeleton")
    other = split_error(demo, body, order=order)
    for name in (BAND, "fitting", "skeleton", TOTAL):
        one, two = (part(t, name)[["acc_rms", "gyro_rms"]] for t in (table, other))
        np.testing.assert_allclose(one, two, atol=1e-9)
    one, two = (part(t, "differentiation")["acc_rms"] for t in (table, other))
    assert (one != two).any()
    # Vectors that add up are no longer than their lengths together.
    lengths = table.pivot(index=["activity", "site"], columns="part", values="acc_rms")
    assert (lengths[TOTAL] <= lengths[list(PARTS)].sum(axis=1) + 1e-9).all()
    assert (lengths[TOTAL] > 0).all()


def test_made_up_motions_put_the_performer_into_the_body(body, demo):
    for true in demo:
        pose = (true.betas, true.global_orient, true.body_pose, true.transl)
        own = body.joints(*map(torch.from_numpy, pose))[:, :22].numpy()
        assert np.linalg.norm(own - true.joints, axis=-1).mean() < 0.05
        for bone, end in ((1, 4), (5, 8), (17, 19), (18, 20)):  # limbs point the same way
            ways = [x[:, end] - x[:, bone] for x in (own, true.joints)]
            ways = [way / np.linalg.norm(way, axis=-1, keepdims=True) for way in ways]
            np.testing.assert_allclose(*ways, atol=1e-5)
    alone = demo_motions(body, activities=("sitting",), seconds=1.2, rate=200.0)[0]
    np.testing.assert_array_equal(alone.body_pose, demo[1].body_pose)


def test_pools_weigh_squares_by_frames():
    rows = pd.DataFrame(
        {"activity": ["a", "b"], "site": "chest", "part": "frame", "frames": [3, 1],
         "acc_rms": [1.0, 3.0], "acc_offset": 0.0, "gyro_rms": [0.0, 2.0],
         "acc_signal": 2.0, "gyro_signal": 0.0}
    )  # fmt: skip
    (row,) = pooled(rows, ("site",)).to_dict("records")
    assert row["acc_rms"] == pytest.approx(3**0.5) and row["gyro_rms"] == pytest.approx(1.0)
    assert row["acc_share"] == pytest.approx(3**0.5 / 2) and np.isnan(row["gyro_share"])


def test_the_largest_part_is_named_for_each_activity_and_site(table):
    grid = largest_part(table, "gyro_rms")
    assert list(grid.index) == ["running", "sitting"] and len(grid.columns) == 9
    for (activity, site), name in grid.stack().items():
        rows = table[(table["activity"] == activity) & (table["site"] == site)]
        rows = rows[rows["part"].isin(PARTS)].set_index("part")["gyro_rms"]
        assert rows[name] == rows.max()


def test_the_figure_has_units_numbers_and_a_small_file(table, tmp_path):
    values = pooled(table, ("site",))
    figure = chain_plots.part_heatmaps(values)
    words = [t.get_text() for t in figure.findobj(matplotlib.text.Text)]
    assert {"Accelerometer: RMS (m/s²)", "Gyroscope: RMS (rad/s)", "whole chain"} < set(words)
    worst = values[values["part"] == TOTAL]["acc_rms"].max()
    assert f"{worst:.2f}" in words
    assert plots.save(figure, tmp_path / "a.png").stat().st_size < 150_000
    figure = chain_plots.part_heatmaps(pooled(table, ("activity",)), "activity")
    ticks = [t.get_text() for t in figure.axes[1].get_xticklabels()]
    assert ticks == ["running", "sitting"]
    plt.close(figure)
    with pytest.raises(InputError, match="pooled"):
        chain_plots.part_heatmaps(pooled(table, ("activity", "site")), "site")
    assert not plt.get_fignums()


def broken(**changes):
    return [replace(motion(), **changes)]


@pytest.mark.parametrize(
    ("motions", "options", "word"),
    [
        ([], {}, "at least one"),
        (broken(rate=10.0), {}, "10.0 Hz"),
        (broken(), {"rate": 0.0}, "more than 0"),
        (broken(rate=220.0), {}, "both ends"),
        (broken(transl=np.zeros((5, 3))), {}, "as long as"),
        (broken(transl=np.full((len(TIME), 3), np.nan)), {}, "finite"),
        (broken(), {"scheme": "magic"}, "magic"),
        (broken(), {"order": ("fitting", *PARTS[:3], "skeleton")}, "differentiation before"),
        (broken(), {"order": PARTS[:3]}, "each once"),
    ],
)
def test_bad_input_is_refused(body, sites, motions, options, word):
    with pytest.raises(InputError, match=word):
        split_error(motions, body, sites, **options)


@pytest.mark.parametrize("wrong", [{"activities": ("flying",)}, {"seconds": 0.0}, {"takes": 0}])
def test_bad_performances_are_refused(body, wrong):
    with pytest.raises(InputError, match="demo_motions"):
        demo_motions(body, **wrong)
