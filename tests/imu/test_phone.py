import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.imu.phone import SensorModel, lever_arm, measured, read_sensor_model

RATE = 20.0
SITES = ["chest", "shin"]
PEOPLE = ["f1", "m1"]
PHONE = read_sensor_model("phone")


def recordings(frames=(40, 60), motions=None, bodies=PEOPLE, sites=SITES, seed=0, quiet=False):
    """Recordings of smooth motions; each depends on its motion, body and site only."""
    rows, arrays = [], {"acc": [], "gyro": []}
    for index, count in enumerate(frames):
        motion = index if motions is None else motions[index]
        for body in bodies:
            time = np.arange(count)[:, None, None] / RATE
            phase = np.array([[motion + len(site) + 7 * (body == "m1")] for site in sites])
            wave = np.sin(2 * np.pi * 1.5 * time + phase + np.arange(3))
            size = 0 if quiet else 1
            rows.append({"motion": motion, "activity": "walking", "body": body})
            arrays["acc"].append((size * 8 * wave + [0, 9.81, 0]).astype(np.float32))
            arrays["gyro"].append((size * 3 * wave).astype(np.float32))
    return Clips.from_list(rows, arrays, {"rate": RATE, "sites": list(sites)})


def change(model, clips=None, name="acc", seed=0):
    """What the model adds to the recordings, (F, S, 3)."""
    clips = recordings() if clips is None else clips
    return measured(clips, model, seed).arrays[name].astype(float) - clips.arrays[name]


def each(clips, array):
    bounds = clips.bounds
    return [array[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def test_without_a_model_or_without_errors_nothing_changes():
    clips = recordings()
    before = {name: array.copy() for name, array in clips.arrays.items()}
    for model in (None, SensorModel()):
        after = measured(clips, model)
        for name, array in before.items():
            assert np.array_equal(after.arrays[name], array)
            assert after.arrays[name].dtype == array.dtype
        assert after.table.equals(clips.table) and after.meta == clips.meta


@pytest.mark.parametrize(("name", "density"), [("acc", 0.02), ("gyro", 0.003)])
def test_noise_has_the_variance_of_its_density_at_the_rate(name, density):
    clips = recordings(frames=(20000,), bodies=["f1"])
    noise = change(SensorModel(**{f"{name}_noise": density}), clips, name)
    np.testing.assert_allclose(noise.std(0), density * np.sqrt(RATE / 2), rtol=0.03)
    assert np.abs(noise.mean(0)).max() < 5 * density * np.sqrt(RATE / 2) / np.sqrt(20000)
    lag = (noise[1:] * noise[:-1]).mean(0) / noise.var(0)
    assert np.abs(lag).max() < 0.04  # white
    across = np.corrcoef(noise.reshape(len(noise), -1).T) - np.eye(6)
    assert np.abs(across).max() < 0.04  # each axis of each sensor has its own


def test_bias_and_scale_are_constant_in_a_wearing_and_spread_over_wearings():
    clips = recordings(frames=(6,) * 300, quiet=True)
    bias = change(SensorModel(acc_bias=0.4), clips)
    constants = np.stack([part[0] for part in each(clips, bias)])
    for part, constant in zip(each(clips, bias), constants, strict=True):
        np.testing.assert_allclose(part, np.broadcast_to(constant, part.shape), atol=2e-6)
    assert constants.std() == pytest.approx(0.4, rel=0.05)
    assert abs(constants.mean()) < 0.03

    lively = recordings()
    scaled = change(SensorModel(gyro_scale=0.05), lively, "gyro")
    for added, clip in zip(each(lively, scaled), each(lively, lively.arrays["gyro"]), strict=True):
        factor = (added * clip).sum(0) / (clip**2).sum(0)  # of each axis
        np.testing.assert_allclose(added, factor * clip, atol=1e-6)
        assert 0.001 < np.abs(factor).max() < 0.25


def test_readings_end_at_the_range_and_only_there():
    clips = recordings()
    clips.arrays["acc"] *= 2
    acc = clips.arrays["acc"]
    clipped = measured(clips, SensorModel(acc_range=19.61)).arrays["acc"]
    beyond = np.abs(acc) > 19.61
    assert beyond.any() and not beyond.all()
    np.testing.assert_allclose(clipped[beyond], 19.61 * np.sign(acc[beyond]), rtol=1e-6)
    assert np.array_equal(clipped[~beyond], acc[~beyond])
    # Noise and bias come before the end of the range, so nothing is past it afterwards.
    noisy = measured(clips, SensorModel(acc_range=19.61, acc_noise=1.0, acc_bias=5.0))
    assert np.abs(noisy.arrays["acc"]).max() <= np.float32(19.61)


def test_a_turned_sensor_reads_the_same_vectors_in_other_axes():
    clips = recordings()
    turned = measured(clips, SensorModel(misorientation=10.0))
    for name in ("acc", "gyro"):
        was, now = clips.arrays[name].astype(float), turned.arrays[name]
        np.testing.assert_allclose(
            np.linalg.norm(now, axis=-1), np.linalg.norm(was, axis=-1), rtol=1e-5
        )
    angles = []
    for index in range(len(clips)):
        for site in range(len(SITES)):
            was = np.concatenate([clips[index][n][:, site] for n in ("acc", "gyro")])
            now = np.concatenate([turned[index][n][:, site] for n in ("acc", "gyro")])
            rotation, residual = Rotation.align_vectors(now, was)
            assert residual < 1e-3  # one rotation for both sensors and all frames
            angles.append(np.degrees(rotation.magnitude()))
    assert len(set(np.round(angles, 3))) == len(angles)
    assert 2 < np.mean(angles) < 40


def test_a_lever_on_a_spinning_body_reads_the_centripetal_and_the_tangential_part():
    rate, frames, spin, faster = 100.0, 200, 4.0, 3.0
    time = np.arange(frames) / rate
    omega = spin + faster * time  # about y, steadily faster
    gyro = np.stack([0 * time, omega, 0 * time], 1)[:, None]
    acc = np.broadcast_to([0, 9.81, 0], gyro.shape)
    offset = np.array([[0.0, 0.03, 0.02]])
    moved = lever_arm(acc, gyro, offset, rate)[:, 0]
    expected = np.stack([faster * 0.02 + 0 * time, 9.81 + 0 * time, -0.02 * omega**2], 1)
    np.testing.assert_allclose(moved, expected, atol=1e-9)
    assert not (lever_arm(acc, gyro, 0 * offset, rate) - acc).any()


def test_jitter_takes_samples_at_other_times_and_spares_what_stands_still():
    assert np.abs(change(SensorModel(jitter=5.0), recordings(quiet=True))).max() < 1e-5
    clips = recordings(frames=(4000,), bodies=["f1"])
    added = change(SensorModel(jitter=2.0), clips)
    slope = np.gradient(clips.arrays["acc"].astype(float), 1 / RATE, axis=0)
    times = (added * slope).sum(2) / (slope**2).sum(2)  # one for the three axes of a sensor
    middle = added[5:-5] - (times[..., None] * slope)[5:-5]
    assert middle.std() < 0.12 * added.std()
    np.testing.assert_allclose(times[5:-5].std(0), 0.002, rtol=0.1)
    assert abs(np.corrcoef(times[5:-5].T)[0, 1]) < 0.06  # each site has its own clock


def test_a_wearing_does_not_depend_on_order_neighbours_or_length():
    clips = recordings(frames=(40, 60, 50))
    whole = measured(clips, PHONE, seed=3)
    shuffled = [4, 1, 5, 0]
    some = measured(clips.select(shuffled), PHONE, seed=3)
    for name in ("acc", "gyro"):
        assert np.array_equal(some.arrays[name], whole.select(shuffled).arrays[name])
    one_site = measured(recordings(frames=(40, 60, 50), sites=["shin"]), PHONE, seed=3)
    assert np.array_equal(one_site.arrays["acc"][:, 0], whole.arrays["acc"][:, 1])
    noise = SensorModel(acc_noise=0.1, acc_bias=0.5)
    long, short = change(noise, recordings(frames=(60,))), change(noise, recordings(frames=(40,)))
    np.testing.assert_allclose(long[:40], short[:40], atol=2e-6)


def test_seed_motion_body_and_site_each_make_another_wearing():
    model = SensorModel(acc_bias=0.4)

    def bias(seed=0, motion=0, body="f1", site="shin"):
        one = recordings(frames=(3,), motions=[motion], bodies=[body], sites=[site], quiet=True)
        return tuple(change(model, one, seed=seed)[0, 0])

    assert bias() == bias()
    others = [bias(seed=1), bias(motion=1), bias(body="m1"), bias(site="chest")]
    assert len({bias(), *others}) == 5


def entry(value, origin="stated", source="a data sheet"):
    return f"{{value: {value}, origin: {origin}, source: {source}}}"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (f"acc_noise: {entry(-0.1)}", "acc_noise"),
        (f"acc_noise: {entry(0.1, origin='guessed')}", "acc_noise.origin"),
        (f"accnoise: {entry(0.1)}", "accnoise"),
        (f"acc_step: {entry(3.0)}\nacc_range: {entry(2.0)}", "acc_step"),
        ("acc_noise: {", "YAML"),
    ],
)
def test_a_wrong_file_is_told_with_file_and_field(tmp_path, text, field):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_sensor_model(str(path))
    assert str(path) in str(caught.value) and field in str(caught.value)
