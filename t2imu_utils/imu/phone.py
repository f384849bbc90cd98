"""What a phone adds to an ideal sensor: an optional, seeded model of its errors.

The paper's virtual sensors are ideal. A phone is worn a little off its place, turned a little, and
its chip has noise, bias, an error of scale, an end of range and a smallest step. `measured` adds
these in the order in which they arise: motion, misplacement, misorientation, sampling jitter,
scale, bias, noise, clipping, quantisation. Each is off where its parameter is zero or None.

A *wearing* is one motion on one body at one site. Its random numbers are a function of the seed and
of the names of these three, and of nothing else: neither of the other clips nor of the effects that
are on. So two arms whose motions have the same numbers are measured by the same phones.
"""

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import yaml
from jaxtyping import Float
from pydantic import Field, model_validator

from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.runs import ROOT
from t2imu_utils.tracks import Section, checked

FOLDER, SUFFIX = ROOT / "data", "_sensor.yaml"
REMEDY = "Compare with data/phone_sensor.yaml."

Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Range = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Readings = Float[np.ndarray, "F S 3"]


class SensorModel(Section):
    """Sizes of a phone's errors; by default there are none. SD is over wearings, of each axis."""

    # Density of white noise, m/s²/√Hz and rad/s/√Hz, one-sided: at r samples a second the standard
    # deviation is noise * sqrt(r / 2).
    acc_noise: Size = 0.0
    gyro_noise: Size = 0.0
    acc_bias: Size = 0.0  # SD of what is added to all readings, m/s²
    gyro_bias: Size = 0.0  # rad/s
    acc_scale: Size = 0.0  # SD of the relative error of scale: 0.01 reads 1 % too much or little
    gyro_scale: Size = 0.0
    acc_range: Range | None = None  # readings end at plus and minus this, m/s²; None: nowhere
    gyro_range: Range | None = None  # rad/s
    acc_step: Size = 0.0  # the smallest difference between two readings, m/s²
    gyro_step: Size = 0.0  # rad/s
    misplacement: Size = 0.0  # SD of the distance from the site, mm
    misorientation: Size = 0.0  # SD of the turn, degrees (as a rotation vector)
    # SD of the time at which a sample is really taken, ms; cut off at half a frame, so that
    # samples keep their order.
    jitter: Size = 0.0

    @model_validator(mode="after")
    def _steps_within_range(self) -> "SensorModel":
        for sensor in ("acc", "gyro"):
            step, end = getattr(self, f"{sensor}_step"), getattr(self, f"{sensor}_range")
            if end is not None and step >= end:
                raise ValueError(f"{sensor}_step {step} does not fit into {sensor}_range {end}")
        return self


class Parameter(Section):
    """One number of a sensor model's file, and where it comes from."""

    value: float
    origin: Literal["fitted", "stated"]  # to a recording, or by somebody else
    source: Annotated[str, Field(min_length=1)]


def sensor_parameters(name: str) -> dict[str, Parameter]:
    """The numbers of a sensor model with their sources, by field of `SensorModel`.

    Args:
        name: ``phone`` (``data/phone_sensor.yaml``), or the path of a YAML file of one's own with
            ``value``, ``origin`` and ``source`` for each field; a field that it lacks is off.
    """
    path = _file(name)
    if not path.is_file():
        known = ", ".join(sorted(p.name.removesuffix(SUFFIX) for p in FOLDER.glob(f"*{SUFFIX}")))
        raise InputError(
            f"sensor model {name!r}", "no such file", f"one of {known}, or a path", f"Write {path}."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeError) as error:
        raise InputError(path, f"no valid YAML ({error})", "a mapping", REMEDY) from error
    if not isinstance(content, dict):
        raise InputError(path, f"a {type(content).__name__}", "a mapping of parameters", REMEDY)
    return {field: checked(Parameter, entry, path, field) for field, entry in content.items()}


def read_sensor_model(name: str) -> SensorModel:
    """The sensor model of a file; `name` and errors as in `sensor_parameters`."""
    values = {field: each.value for field, each in sensor_parameters(name).items()}
    return checked(SensorModel, values, _file(name))


def _file(name: str) -> Path:
    return Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}{SUFFIX}"


class _Draws(NamedTuple):
    """Standard normal numbers of the wearings of one motion on one body."""

    place: Float[np.ndarray, "S 3"]
    turn: Float[np.ndarray, "S 3"]
    scale: Float[np.ndarray, "S 2 3"]
    bias: Float[np.ndarray, "S 2 3"]
    time: Float[np.ndarray, "F S"]
    noise: Float[np.ndarray, "F S 2 3"]


def measured(clips: Clips, model: SensorModel | None, seed: int = 0) -> Clips:
    """Virtual recordings as a phone would have made them.

    Args:
        clips: arrays ``acc`` (m/s²) and ``gyro`` (rad/s) (F, S, 3), columns ``motion`` and
            ``body``, meta ``rate`` and ``sites``, as `imu.sensors.synthesise` leaves them. The
            bias, scale and place of a sensor are drawn once for each motion, body and site;
            noise and jitter for each frame.
        model: None or one without errors gives back `clips` itself.
        seed: of all random numbers.

    Returns:
        The same table and meta; arrays of the same shapes and types.

    Note:
        Noise, clipping and quantisation act at the rate of `clips`. A phone clips at its own,
        higher rate, before its signal is brought to 20 Hz: fewer peaks are clipped here.
    """
    if model is None or model == SensorModel():
        return clips
    rate, sites = float(clips.meta["rate"]), clips.meta["sites"]
    out = {**clips.arrays, **{n: np.empty_like(clips.arrays[n]) for n in ("acc", "gyro")}}
    keys = zip(clips.table["motion"], clips.table["body"], strict=True)
    for (motion, body), (low, high) in zip(keys, pairwise(clips.bounds), strict=True):
        acc, gyro = (clips.arrays[n][low:high].astype(np.float64) for n in ("acc", "gyro"))
        draws = _draw(seed, str(motion), str(body), sites, high - low)
        out["acc"][low:high], out["gyro"][low:high] = _sense(acc, gyro, model, draws, rate)
    return Clips(clips.table, out, clips.meta)


def _draw(seed: int, motion: str, body: str, sites: list[str], frames: int) -> _Draws:
    """All numbers at all times, so that an effect that is on or off leaves the others alone."""
    fixed = np.empty((len(sites), 6, 3))
    moving = np.empty((frames, len(sites), 7))
    for index, site in enumerate(sites):
        key = json.dumps([int(seed), motion, body, site]).encode()
        entropy = int.from_bytes(hashlib.blake2b(key, digest_size=16).digest(), "big")
        generator = np.random.default_rng(entropy)
        fixed[index] = generator.standard_normal((6, 3))
        moving[:, index] = generator.standard_normal((frames, 7))
    return _Draws(
        fixed[:, 0], fixed[:, 1], fixed[:, 2:4], fixed[:, 4:6],
        moving[..., 0], moving[..., 1:].reshape(frames, -1, 2, 3),
    )  # fmt: skip


def _sense(
    acc: Readings, gyro: Readings, model: SensorModel, draws: _Draws, rate: float
) -> tuple[Readings, Readings]:
    """What phones give out during one motion on one body, in float64."""
    from scipy.spatial.transform import Rotation  # slow to import, as is CubicSpline

    if model.misplacement:
        acc = lever_arm(acc, gyro, model.misplacement / 1000 * draws.place, rate)
    if model.misorientation:
        axes = Rotation.from_rotvec(np.radians(model.misorientation) * draws.turn).as_matrix()
        acc, gyro = (np.einsum("sji,fsj->fsi", axes, values) for values in (acc, gyro))
    if model.jitter:
        late = np.clip(model.jitter / 1000 * rate * draws.time, -0.5, 0.5)
        acc, gyro = np.split(_resampled(np.concatenate((acc, gyro), -1), late), 2, -1)
    sizes = (
        (model.acc_scale, model.acc_bias, model.acc_noise, model.acc_range, model.acc_step),
        (model.gyro_scale, model.gyro_bias, model.gyro_noise, model.gyro_range, model.gyro_step),
    )
    out = []
    for index, (values, size) in enumerate(zip((acc, gyro), sizes, strict=True)):
        scale, bias, density, end, step = size
        values = values * (1 + scale * draws.scale[:, index]) + bias * draws.bias[:, index]
        values = values + density * np.sqrt(rate / 2) * draws.noise[:, :, index]
        values = values if end is None else np.clip(values, -end, end)
        out.append(np.round(values / step) * step if step else values)
    return out[0], out[1]


def lever_arm(
    acc: Readings, gyro: Readings, offset: Float[np.ndarray, "S 3"], rate: float
) -> Readings:
    """Acceleration that a sensor reads when it sits `offset` away on the same rigid body.

    a' = a + dω/dt x r + ω x (ω x r), all in the sensor's axes, in which the derivative of ω is that
    of its components. The gyroscope reads the same everywhere on a rigid body.

    The skin is taken to be rigid over the offset, as it is over millimetres. dω/dt is that of a
    cubic spline: at 20 Hz the added part of a swing of 2 Hz is 6 % too small, of 5 Hz 39 %.

    Args:
        acc: m/s².
        gyro: rad/s.
        offset: of each sensor in its own axes, metres.
        rate: frames per second.
    """
    from scipy.interpolate import CubicSpline

    times = np.arange(len(gyro)) / rate
    turn = CubicSpline(times, gyro)(times, 1)
    return acc + np.cross(turn, offset) + np.cross(gyro, np.cross(gyro, offset))


def _resampled(
    values: Float[np.ndarray, "F S d"], late: Float[np.ndarray, "F S"]
) -> Float[np.ndarray, "F S d"]:
    """Values of a cubic spline at times that are `late` frames off, each site at its own."""
    from scipy.interpolate import CubicSpline

    frames, sites = late.shape
    when = np.clip(np.arange(frames)[:, None] + late, 0, frames - 1)
    before = np.minimum(when.astype(int), frames - 2)
    rest = (when - before)[..., None]
    powers = CubicSpline(np.arange(frames), values).c[:, before, np.arange(sites)]
    return ((powers[0] * rest + powers[1]) * rest + powers[2]) * rest + powers[3]
