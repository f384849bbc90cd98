import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from t2imu_utils.body.fitting import pose_body
from t2imu_utils.body.smpl import Shape
from t2imu_utils.clips import Clips
from t2imu_utils.imu import sensors
from t2imu_utils.imu.sensors import (
    DEFAULT,
    SCHEMES,
    gain_table,
    quintic_basis,
    quintic_operators,
    synthesise,
    turned,
    virtual_imu,
)
from t2imu_utils.imu.sites import sensor_frames, sensor_sites
from t2imu_utils.motion.rotations import axis_angle_to_matrix

RATE, SLOW = 50.0, 20.0
TIME = torch.arange(200, dtype=torch.float64) / RATE


def turning(axis, angle):
    """Orientation by `angle` (T,) about a fixed axis."""
    axis = torch.tensor(axis, dtype=torch.float64)
    return axis_angle_to_matrix(angle[:, None] * axis / axis.norm())


@pytest.mark.parametrize(
    ("axis", "angle", "expected"),
    [
        ((1, 0, 0), 0, (0, 9.81, 0)),
        ((1, 0, 0), 30, (0, 8.4957, -4.905)),
        ((0, 0, 1), 30, (4.905, 8.4957, 0)),
    ],
)
def test_at_rest_it_reads_gravity_upwards(axis, angle, expected):
    tilt = turning(axis, torch.full((10,), np.radians(angle), dtype=torch.float64))
    acc, gyro = virtual_imu(torch.ones(10, 3, dtype=torch.float64), tilt, RATE)
    torch.testing.assert_close(acc[4], torch.tensor(expected).double(), atol=1e-3, rtol=0)
    assert gyro.abs().max() < 1e-9


def test_free_fall_reads_zero_however_it_tumbles():
    fall = torch.stack([2 * TIME, 5 - 0.5 * 9.81 * TIME**2, 0 * TIME], 1)
    for scheme, most in (("central", 1e-9), (DEFAULT, 1e-6)):
        acc, _ = virtual_imu(fall, turning((1, 2, 3), 4 * TIME), RATE, scheme=scheme)
        assert acc.abs().max() < most


def test_on_a_carousel_it_reads_the_centripetal_term_and_a_constant_rate():
    radius, omega = 0.7, 3.0
    path = radius * torch.stack([torch.sin(omega * TIME), 0 * TIME, torch.cos(omega * TIME)], 1)
    attitude = turning((0, 1, 0), omega * TIME)
    acc, gyro = virtual_imu(path, attitude, RATE, scheme="central")
    # z looks outward, so the centre pulls along -z; the chord of a step is a little short.
    pull = 2 * radius * (1 - np.cos(omega / RATE)) * RATE**2
    expected = torch.tensor([0, 9.81, -pull], dtype=torch.float64).expand(198, 3)
    torch.testing.assert_close(acc[1:-1], expected, atol=1e-9, rtol=0)
    assert pull == pytest.approx(radius * omega**2, rel=1e-3)
    torch.testing.assert_close(gyro, torch.tensor([0, omega, 0]).double().expand(200, 3))
    acc, gyro = virtual_imu(path, attitude, RATE)
    true = torch.tensor([0, 9.81, -radius * omega**2]).double().expand(180, 3)
    torch.testing.assert_close(acc[10:-10], true, atol=1e-3, rtol=0)
    torch.testing.assert_close(gyro, torch.tensor([0, omega, 0]).double().expand(200, 3))


def fits(lengths=(12, 30), seed=0):
    rng = np.random.default_rng(seed)
    arrays = {"global_orient": [], "body_pose": [], "transl": []}
    for frames in lengths:
        for name, shape in (("global_orient", (3,)), ("body_pose", (23, 3)), ("transl", (3,))):
            walk = 0.02 * rng.normal(size=(frames, *shape)).cumsum(0)
            arrays[name].append(walk.astype(np.float32))
    shape = {f"beta_{i}": 0.0 for i in range(10)}
    rows = [{"prompt": f"p{i}", "activity": "walking", **shape} for i in range(len(lengths))]
    return Clips.from_list(rows, arrays, {"rate": 20.0})


def assert_equals_whole_mesh(got, clips, row, body, shape, sites):
    """One recording against smplx's own forward pass on the person's model."""
    motion = {name: torch.as_tensor(array) for name, array in clips[row].items()}
    frames = slice(clips.bounds[row], clips.bounds[row + 1])
    betas = torch.tensor(shape.betas)[None].float()
    mesh = shape.body.model(
        betas=betas.expand(len(motion["transl"]), -1),
        body_pose=motion["body_pose"].flatten(1),
        global_orient=motion["global_orient"],
        transl=torch.from_numpy(pose_body(clips, body, shape)[frames]),
    ).vertices
    rings = [v for site in sites for v in (site.vertex, *site.ring)]
    positions, rotations = sensor_frames(mesh[:, rings], sites)
    acc, gyro = virtual_imu(positions.movedim(1, 0), rotations.movedim(1, 0), 20.0)
    np.testing.assert_allclose(got["acc"], acc.movedim(1, 0), atol=2e-2)
    np.testing.assert_allclose(got["gyro"], gyro.movedim(1, 0), atol=2e-3)


def test_synthesis_equals_sensors_on_the_whole_mesh_of_the_own_gender(licensed):
    clips, betas = fits(), np.linspace(1, -1, 10)
    people = {
        "man": Shape(licensed.male, betas),
        "woman": Shape(licensed.female, betas),
        "other woman": Shape(licensed.female, -betas),
        "other man": Shape(licensed.male, -betas),
    }
    sites = sensor_sites(licensed.neutral)
    out = synthesise(clips, licensed.neutral, people, sites, progress=False)
    assert out.meta == {"rate": 20.0, "sites": [site.name for site in sites]}
    assert out.table["body"].tolist() == list(people) * 2
    assert out.table["prompt"].tolist() == ["p0"] * 4 + ["p1"] * 4
    for row, (name, motion) in enumerate(zip(out.table["body"], out.table["motion"], strict=True)):
        assert_equals_whole_mesh(out[row], clips, motion, licensed.neutral, people[name], sites)
    man, woman = (out[row]["acc"] for row in (4, 5))
    assert np.abs(man - woman).max() > 0.05


def test_spread_is_that_of_the_length_and_tells_missing_sites():
    acc = np.zeros((40, 2, 3), np.float32)
    acc[:, 0] = [3.0, 4.0, 0.0]
    acc[::2, 0] *= 2
    acc[:, 1] = np.nan
    clips = Clips.from_list([{"activity": "walking"}], {"acc": [acc]}, {"sites": ["a", "b"]})
    table = sensors.acceleration_spread(clips, ["a", "b"]).set_index("site")["spread"]
    assert table["a"] == pytest.approx(2.5) and np.isnan(table["b"])


# How the error of the inside falls with the step: acceleration, angular velocity.
ORDERS = {"central": (2, 2), "quintic": (4, 4)}


def known_motion(rate, seconds=3.0):
    """Path, attitude, acceleration and angular velocity of a motion about two axes at once."""
    t = torch.arange(int(seconds * rate), dtype=torch.float64) / rate
    path = torch.stack([torch.sin(3 * t), torch.cos(2 * t), t**3], 1)
    acceleration = torch.stack([-9 * torch.sin(3 * t), -4 * torch.cos(2 * t), 6 * t], 1)
    a, b = 0.8 * torch.sin(2 * t), 1.5 * t**2
    about_y = torch.stack([0 * a, a, 0 * a], 1)
    about_x = torch.stack([b, 0 * b, 0 * b], 1)
    attitude = axis_angle_to_matrix(about_y) @ axis_angle_to_matrix(about_x)
    swing = 1.6 * torch.cos(2 * t)
    gyro = torch.stack([3 * t, swing * torch.cos(b), -swing * torch.sin(b)], 1)
    return path, attitude, acceleration, gyro


def inside_errors(scheme, rate):
    path, attitude, *true = known_motion(rate)
    found = SCHEMES[scheme](path, attitude, rate)
    inside = slice(int(rate), -int(rate))
    return [float((f - t)[inside].abs().max()) for f, t in zip(found, true, strict=True)]


def random_motion(frames, *lead, dtype=torch.float64):
    rng = torch.Generator().manual_seed(frames)
    path = torch.randn(*lead, frames, 3, generator=rng, dtype=dtype).cumsum(-2) / 10
    steps = torch.randn(*lead, frames, 3, generator=rng, dtype=dtype).cumsum(-2) / 10
    return path, axis_angle_to_matrix(steps)


@pytest.mark.parametrize("scheme", ORDERS)
def test_errors_fall_with_the_order_of_the_scheme(scheme):
    coarse, fine = inside_errors(scheme, 20.0), inside_errors(scheme, 40.0)
    for slow, fast, order in zip(coarse, fine, ORDERS[scheme], strict=True):
        assert order - 0.4 < np.log2(slow / fast) < order + 0.4


@pytest.mark.parametrize("scheme", ["smoothing", "spectral"])
def test_what_is_slow_is_differentiated_all_but_exactly(scheme):
    acc, gyro = inside_errors(scheme, 20.0)
    assert acc < 3e-4 and gyro < 3e-4
    assert acc < inside_errors("central", 20.0)[0] / 50


@pytest.mark.parametrize("scheme", SCHEMES)
def test_parabolas_and_constant_spins_are_exact_up_to_the_ends(scheme):
    t = torch.arange(50, dtype=torch.float64) / SLOW
    path = torch.stack([2 + 3 * t, t**2 / 2, -(t**2)], 1)
    spin = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    start = axis_angle_to_matrix(torch.tensor([0.3, 1.0, -0.4], dtype=torch.float64))
    # At 40 rad/s a step turns by 2.3 rad: less than half a turn, and not aliased.
    for factor in (1.0, 17.0):
        attitude = start @ axis_angle_to_matrix(factor * t[:, None] * spin)
        acc, gyro = SCHEMES[scheme](path, attitude, SLOW)
        torch.testing.assert_close(gyro, factor * spin.expand(50, 3))
    expected = torch.tensor([0, 1.0, -2.0], dtype=torch.float64).expand(50, 3)
    torch.testing.assert_close(acc, expected, atol=1e-6, rtol=0)


def test_turned_angle_holds_the_coning_term():
    """A cone: the axis of rotation itself turns, so that the steps' vectors fall short."""
    path, attitude, _, gyro = known_motion(200.0)
    fine = gyro.cumsum(0) / 200.0
    whole = fine[10::10] - fine[:-10:10] + (gyro[:-10:10] - gyro[10::10]) / 400  # trapezoids
    coarse = attitude[::10]
    plain = sensors._steps(coarse)
    inner = slice(1, -1)
    error = (turned(coarse) - whole)[inner].abs().max()
    assert error < 2e-4 < 0.2 * (plain - whole)[inner].abs().max()


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s != "central"])
def test_long_clips_are_the_same_in_blocks(scheme):
    """300 frames are more than one block; against a matrix for all of them."""
    path, attitude = random_motion(300)
    operators = SCHEMES[scheme].args[0]
    first, second = (torch.from_numpy(matrix) for matrix in operators(300, SLOW))
    acc, gyro = SCHEMES[scheme](path, attitude, SLOW)
    close = 1e-3 if scheme == "spectral" else 1e-9
    whole = second @ path
    torch.testing.assert_close(acc, whole, atol=close * float(whole.std()), rtol=0)
    angle = torch.cat((torch.zeros(1, 3, dtype=torch.float64), turned(attitude).cumsum(0)))
    torch.testing.assert_close(gyro, first @ angle, atol=close, rtol=0)


def test_gains_are_those_of_the_formulas():
    frequencies = (1.0, 4.0, 7.0, 9.0)
    table = gain_table(SLOW, frequencies).set_index(["scheme", "frequency"])
    for f in frequencies:
        x = np.pi * f / SLOW
        central = table.loc[("central", f)]
        assert central["acc"] == pytest.approx((np.sin(x) / x) ** 2, rel=1e-3)
        assert central["gyro"] == pytest.approx(np.sin(2 * x) / (2 * x), rel=1e-3)
    # The spectral scheme passes all up to 7 of 10 Hz and fades out by half a cosine.
    spectral = table.loc["spectral"]
    np.testing.assert_allclose(spectral.loc[[1.0, 4.0, 7.0], ["acc", "gyro"]], 1, atol=1e-3)
    fading = (1 + np.cos(np.pi * 2 / 3)) / 2
    np.testing.assert_allclose(spectral.loc[9.0, ["acc", "gyro"]], fading, atol=2e-3)
    # Noise of 1 mm through weights 1, -2, 1 over the squared step.
    assert table.loc["central", "noise"].iloc[0] == pytest.approx(0.001 * 6**0.5 * SLOW**2)
    assert spectral["noise"].iloc[0] < 1.2 * table.loc["central", "noise"].iloc[0]


def test_smoothing_halves_at_its_cutoff_and_interpolation_does_not():
    t, rate = np.arange(400) / 200.0, 200.0
    wave = np.sin(2 * np.pi * 10 * t)
    for cutoff, gain in ((10.0, 0.5), (20.0, 1 / (1 + 0.5**6)), (None, 1.0)):
        found = quintic_operators(400, rate, cutoff)[1] @ wave / -((2 * np.pi * 10) ** 2)
        np.testing.assert_allclose(found[150:250], gain * wave[150:250], atol=2e-3)


@pytest.mark.parametrize("order", range(5))
def test_the_spline_basis_is_scipys(order):
    at = np.concatenate([np.arange(30.0), np.random.default_rng(0).uniform(0, 29, 50)])
    expected = BSpline(np.arange(-5.0, 35), np.eye(34), 5)(at, order)
    np.testing.assert_allclose(quintic_basis(30, at, order), expected, rtol=0, atol=1e-14)
