"""Motion made from recordings: treads, jumps that join, postures that keep still."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest

from t2imu_utils.motion import composed
from t2imu_utils.motion.bvh import read_bandai
from t2imu_utils.motion.composed import (
    FINE,
    climb,
    make_jumps,
    make_postures,
    make_runs,
    make_stairs,
)
from t2imu_utils.motion.quality import measures
from t2imu_utils.motion.skeleton import MIRROR, RATE, bone_lengths
from t2imu_utils.motion.takes import Take

STEP, STRIDE = 33, 0.6  # frames and metres
RISE, DEPTH = 0.17, 0.28
LEGS = ((1, 4, 7, 10), (2, 5, 8, 11))


def posed(body, pelvis, ankles):
    """The body upright, moved to pelvis (T, 3), its knees bent towards its ankles (2, T, 3)."""
    lengths, rest = body
    joints = rest + (pelvis - rest[0])[:, None]
    for (hip, knee, ankle, ball), place in zip(LEGS, ankles, strict=True):
        joints[:, ankle] = place
        joints[:, ball] = place + rest[ball] - rest[ankle]
        ahead = np.broadcast_to([0.0, 0.0, 1.0], place.shape)
        joints[:, knee] = composed._bent(
            joints[:, hip], place, lengths[knee], lengths[ankle], ahead
        )
    return joints


@pytest.fixture
def walk(body):
    """Eight even steps of 0.55 s; every foot stands for 1.2 of them."""
    rest = body[1]
    time = np.arange(8 * STEP) / STEP
    pelvis = np.stack([0 * time, rest[0, 1] - 0.12 + 0 * time, STRIDE * (time - 0.6)], axis=1)
    ankles = []
    for leg, (_, _, ankle, _) in enumerate(LEGS):
        turn = (time - leg) / 2
        u = ((turn % 1) * 2 - 1.2) / 0.8
        place = np.tile(rest[ankle], (len(time), 1))
        place[:, 1] += 0.08 * np.sin(np.pi * u.clip(0, 1)) ** 2
        place[:, 2] += STRIDE * (2 * np.floor(turn) + leg + 2 * composed._smooth(u))
        ankles.append(place)
    return posed(body, pelvis, ankles)


def take(joints, content, rate=FINE):
    return Take("cmu", "", "1", "1_01", content, "", joints, rate)


@pytest.mark.parametrize("rise", [RISE, -RISE])
def test_feet_stand_on_treads_and_the_body_follows(walk, rise):
    plants = composed._plants(walk)
    joints = climb(walk, plants, rise, DEPTH, 0.1)
    first = plants[1].start
    stands = {}
    for n, plant in enumerate(plants[1:-1], 1):
        still = joints[max(0, plant.start - first) :][: plant.stop - plant.start][8:-8]
        ball = still[:, LEGS[plant.leg][3]]
        assert np.ptp(ball, axis=0).max() < 0.002
        stands[n] = ball.mean(axis=0)
    steps = np.diff([stands[n] for n in sorted(stands)], axis=0)
    np.testing.assert_allclose(steps[:, 1:], [[rise, DEPTH]] * len(steps), atol=0.002)
    level, origin = stands[2][1] - 2 * rise, stands[2][2] - 2 * DEPTH
    balls = joints[:, [10, 11]]
    tread = np.floor((balls[..., 2] - origin) / DEPTH + 0.6)  # 0.6 of a tread lies behind the ball
    assert (balls[..., 1] - level - rise * tread).min() > -0.01

    # The body follows without falling, on legs of one length with knees that bend forwards.
    pelvis = joints[::3, 0, 1]
    assert (np.diff(pelvis, 2) * RATE**2).min() > -4
    spare = 2 * abs(rise)  # a step at either end
    assert abs(pelvis[-1] - pelvis[0] - (len(plants) - 1) * rise) < spare
    lengths = bone_lengths(joints)[:, [4, 5, 7, 8]]
    np.testing.assert_allclose(lengths, np.broadcast_to(lengths[0], lengths.shape), atol=0.005)
    for hip, knee, ankle, _ in LEGS:
        assert (joints[:, knee, 2] > (joints[:, hip, 2] + joints[:, ankle, 2]) / 2 - 0.02).all()


def test_mirrored_walk_climbs_mirrored(walk):
    def mirrored(joints):
        return joints[:, list(MIRROR)] * [-1, 1, 1]

    plants = composed._plants(walk)
    swapped = [replace(plant, leg=1 - plant.leg) for plant in plants]
    image = climb(mirrored(walk), swapped, RISE, DEPTH, 0.1)
    np.testing.assert_allclose(mirrored(image), climb(walk, plants, RISE, DEPTH, 0.1), atol=1e-9)


def test_jumps_join_without_a_jerk(body):
    high, ground = body[1][0, 1] - 0.02, body[1][[7, 8]]
    t = np.arange(round(3.2 * FINE)) / FINE
    flight = (t - 1.2).clip(0, 0.5)  # off the ground from 1.2 to 1.7 s
    lift = 4.905 * flight * (0.5 - flight)
    dip = np.exp(-(((t - 0.95) / 0.15) ** 2)) + np.exp(-(((t - 1.95) / 0.15) ** 2))
    forward = 0.8 * composed._smooth((t - 1.1) / 0.7)
    pelvis = np.stack([0 * t, high - 0.25 * dip + lift, forward], axis=1)
    feet = ground[:, None] + np.stack([0 * t, lift, forward], axis=1)
    once = take(posed(body, pelvis, feet), "forward jump")
    made = make_jumps([once, replace(once, content="walk")])
    assert [clip.trial[-1] for clip in made] == ["2", "3", "4", "5"]
    reference = np.abs(np.diff(once.joints[::3], 2, axis=0)).max()
    for times, clip in enumerate(made, 2):
        pelvis = clip.joints[:, 0]
        above = pelvis[:, 1] > high + 0.1
        assert np.sum(above[1:] & ~above[:-1]) == times
        assert pelvis[-1, 2] == pytest.approx(0.8 * times, abs=0.05)
        assert np.abs(np.diff(clip.joints, 2, axis=0)).max() < 1.1 * reference


def test_postures_are_held_reversed_and_end_as_told(body):
    rest = body[1]
    t = np.arange(8 * FINE) / FINE
    seat = composed._smooth((t - 2) / 1.5) - composed._smooth((t - 6) / 1.2)
    sway = 0.004 * np.sin(2 * np.pi * 0.4 * t)
    pelvis = np.stack([sway, rest[0, 1] - 0.02 - 0.4 * seat, -0.35 * seat + sway], axis=1)
    sitter = posed(body, pelvis, rest[[7, 8], None] + 0 * pelvis)
    made = make_postures([take(sitter, "sit")], 0, sitting=0.5)
    downs, ups, holds = (
        [clip for clip in made if clip.content == content]
        for content in ("sits down", "stands up", "is sitting")
    )
    assert len(downs) == len(ups) == 4 and len(downs) + len(ups) + len(holds) == len(made)
    for clip in (*downs, *ups):
        start, end = clip.joints[[0, -1], 0, 1]
        assert (start - end if clip in downs else end - start) == pytest.approx(0.4, abs=0.02)
    assert sum(len(clip.joints) for clip in holds) >= 0.5 * 60 * RATE
    for clip in holds:
        assert np.abs(clip.joints - sitter[5 * FINE]).max() < 0.02


@pytest.mark.parametrize("direction", ["up", "down"])
def test_stairs_of_recorded_walks_are_calm(real_data, tmp_path, direction):
    archives = list((real_data / "bandai").glob("*.zip"))
    if not archives:
        pytest.skip("no recordings of Bandai-Namco")
    with zipfile.ZipFile(archives[0]) as archive:
        names = [n for n in archive.namelist() if "walk_normal" in n or "walk_feminine_00" in n]
        archive.extractall(tmp_path / "bandai", names[:8])
    walks, _ = read_bandai(tmp_path)
    stairs = make_stairs(walks, direction, 0.3, 0)
    assert stairs
    for clip in stairs:
        found = measures(clip.joints - [0, clip.joints[..., 1].min(), 0])
        assert found["acceleration"] <= composed.CALM and found["flight_s"] < 0.2
        assert (found["rise"] > 0.5) if direction == "up" else (found["rise"] < -0.5)


def test_a_run_goes_on_for_as_long_as_is_asked_at_its_own_pace(walk):
    (run,) = make_runs([take(walk, "run", 2 * FINE)], 0.05, 0)  # twice as fast
    assert 4.0 * RATE <= len(run.joints) <= 9.8 * RATE and run.made == "composed"
    speed = np.diff(run.joints[:, 0, 2]) * RATE
    np.testing.assert_allclose(speed, STRIDE / STEP * 2 * FINE, rtol=0.05)
    swing = run.joints[:, 7, 2] - run.joints[:, 0, 2]
    assert np.abs(swing[11:] - swing[:-11]).max() < 0.1 and np.ptp(swing) > 0.5  # 0.55 s later
