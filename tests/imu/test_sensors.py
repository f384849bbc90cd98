import numpy as np
import pytest
import torch

from t2imu_utils.body.fitting import pose_body
from t2imu_utils.body.smpl import Shape, load_bodies, load_body
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.imu import sensors
from t2imu_utils.imu.differentiation import DEFAULT
from t2imu_utils.imu.sensors import synthesise, virtual_imu
from t2imu_utils.imu.sites import sensor_frames, sensor_sites
from t2imu_utils.motion.rotations import axis_angle_to_matrix
from tests.body.layouts import write_fake_smpl

RATE = 50.0
TIME = torch.arange(200, dtype=torch.float64) / RATE


def turning(axis, angle):
    """Orientation by `angle` (T,) about a fixed axis."""
    axis = torch.tensor(axis, dtype=torch.float64)
    return axis_angle_to_matrix(angle[:, None] * axis / axis.norm())


def still(frames=200):
    return torch.eye(3, dtype=torch.float64).expand(frames, 3, 3)


def test_at_rest_it_reads_gravity_upwards():
    acc, gyro = virtual_imu(torch.ones(200, 3, dtype=torch.float64), still(), RATE)
    torch.testing.assert_close(acc, torch.tensor([0, 9.81, 0.0]).double().expand(200, 3))
    assert gyro.abs().max() == 0


@pytest.mark.parametrize(
    ("axis", "expected"), [((1, 0, 0), (0, 8.4957, -4.905)), ((0, 0, 1), (4.905, 8.4957, 0))]
)
def test_tilted_by_30_degrees_gravity_moves_to_the_other_axes(axis, expected):
    tilt = turning(axis, torch.full((10,), np.pi / 6, dtype=torch.float64))
    acc, _ = virtual_imu(torch.zeros(10, 3, dtype=torch.float64), tilt, RATE)
    torch.testing.assert_close(acc[4], torch.tensor(expected).double(), atol=1e-3, rtol=0)


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


def test_a_constant_spin_about_a_body_axis_gives_a_constant_gyro_in_every_attitude():
    spin = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    start = turning((3, 1, 2), torch.full((200,), 1.1, dtype=torch.float64))
    rotations = start @ axis_angle_to_matrix(TIME[:, None] * spin)
    _, gyro = virtual_imu(torch.zeros(200, 3, dtype=torch.float64), rotations, RATE)
    torch.testing.assert_close(gyro, spin.expand(200, 3))


def test_fast_turns_up_to_half_a_turn_a_step_are_not_aliased():
    _, gyro = virtual_imu(torch.zeros(200, 3).double(), turning((0, 0, 1), 150 * TIME), RATE)
    torch.testing.assert_close(gyro[:, 2], torch.full((200,), 150.0).double())


def test_leading_dimensions_are_batched():
    rng = torch.Generator().manual_seed(0)
    path = torch.randn(2, 3, 20, 3, generator=rng)
    rotations = axis_angle_to_matrix(torch.randn(2, 3, 20, 3, generator=rng))
    acc, gyro = virtual_imu(path, rotations, RATE)
    one = virtual_imu(path[1, 2], rotations[1, 2], RATE)
    torch.testing.assert_close((acc[1, 2], gyro[1, 2]), one)


@pytest.mark.parametrize(
    ("positions", "rotations", "scheme", "word"),
    [
        ((2, 3), (2, 3, 3), "central", "at least 3"),
        ((9, 3), (8, 3, 3), "central", "orientation"),
        ((9, 3), (9, 3, 3), "magic", "central"),
    ],
)
def test_bad_input_is_told(positions, rotations, scheme, word):
    with pytest.raises(InputError, match=word):
        virtual_imu(torch.zeros(positions), torch.zeros(rotations), RATE, scheme=scheme)


@pytest.fixture(scope="module")
def body():
    return load_body()


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


@pytest.fixture(scope="module")
def shapes(body):
    return {"mean": Shape(body, np.zeros(10)), "other": Shape(body, np.linspace(1, -1, 10))}


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


def test_synthesis_equals_sensors_on_the_whole_mesh(body, shapes):
    clips, sites = fits(), sensor_sites(body)
    out = synthesise(clips, body, shapes, sites, progress=False)
    assert out.meta == {"rate": 20.0, "sites": [site.name for site in sites]}
    assert out.table["body"].tolist() == ["mean", "other"] * 2
    assert out.table["motion"].tolist() == [0, 0, 1, 1]
    assert out.table["frames"].tolist() == [12, 12, 30, 30]
    assert out.table["prompt"].tolist() == ["p0", "p0", "p1", "p1"]
    assert_equals_whole_mesh(out[3], clips, 1, body, shapes["other"], sites)
    assert out.arrays["acc"].dtype == np.float32


@pytest.fixture(scope="module")
def licensed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("licensed")
    write_fake_smpl(folder)
    return load_bodies(folder)


def test_everybody_is_recorded_on_the_model_of_the_own_gender(licensed):
    clips, betas = fits(), np.linspace(1, -1, 10)
    people = {
        "man": Shape(licensed.male, betas),
        "woman": Shape(licensed.female, betas),
        "other woman": Shape(licensed.female, -betas),
        "other man": Shape(licensed.male, -betas),
    }
    sites = sensor_sites(licensed.neutral)
    out = synthesise(clips, licensed.neutral, people, sites, progress=False)
    assert out.table["body"].tolist() == list(people) * 2
    for row, (name, motion) in enumerate(zip(out.table["body"], out.table["motion"], strict=True)):
        assert_equals_whole_mesh(out[row], clips, motion, licensed.neutral, people[name], sites)
    man, woman = (out[row]["acc"] for row in (4, 5))
    assert np.abs(man - woman).max() > 0.05


def test_a_standing_body_feels_gravity_and_no_turn_at_every_site(body, shapes):
    still = {
        "global_orient": [np.zeros((5, 3), np.float32)],
        "body_pose": [np.zeros((5, 23, 3), np.float32)],
        "transl": [np.zeros((5, 3), np.float32)],
    }
    sites = sensor_sites(body)
    shape = {f"beta_{i}": 0.0 for i in range(10)}
    fit = Clips.from_list([shape], still)
    out = synthesise(fit, body, shapes, sites, rate=20.0, progress=False)
    np.testing.assert_allclose(np.linalg.norm(out.arrays["acc"], axis=-1), 9.81, atol=1e-3)
    assert np.abs(out.arrays["gyro"]).max() < 1e-3
    trunk_and_legs = [s.name in ("head", "chest", "waist", "thigh", "shin") for s in sites]
    assert out.arrays["acc"][:, trunk_and_legs, 1].min() > 9.0


def test_frames_skinned_at_once_do_not_matter(body, shapes, monkeypatch):
    sites = sensor_sites(body)
    whole = synthesise(fits(), body, shapes, sites, progress=False)
    monkeypatch.setattr(sensors, "BATCH", 1)
    parts = synthesise(fits(), body, shapes, sites, progress=False)
    np.testing.assert_allclose(parts.arrays["acc"], whole.arrays["acc"], atol=5e-3)
    assert parts.table.equals(whole.table)


def test_gravity_is_the_one_that_was_asked_for(body, shapes):
    sites = sensor_sites(body)
    moon = synthesise(fits(), body, shapes, sites, gravity=1.62, progress=False)
    earth = synthesise(fits(), body, shapes, sites, progress=False)
    added = np.linalg.norm(earth.arrays["acc"] - moon.arrays["acc"], axis=-1)
    np.testing.assert_allclose(added, 9.81 - 1.62, atol=1e-3)


def test_spread_is_that_of_the_length_and_tells_missing_sites():
    acc = np.zeros((40, 2, 3), np.float32)
    acc[:, 0] = [3.0, 4.0, 0.0]
    acc[::2, 0] *= 2
    acc[:, 1] = np.nan
    clips = Clips.from_list([{"activity": "walking"}], {"acc": [acc]}, {"sites": ["a", "b"]})
    table = sensors.acceleration_spread(clips, ["a", "b"]).set_index("site")["spread"]
    assert table["a"] == pytest.approx(2.5) and np.isnan(table["b"])
