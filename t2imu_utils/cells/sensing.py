"""Stage 04 of one model: the virtual sensors of its motions."""

from typing import Any

from t2imu_utils import data, runs
from t2imu_utils.body.table1 import shapes_of, solve_table
from t2imu_utils.clips import Clips
from t2imu_utils.imu.differentiation import DEFAULT
from t2imu_utils.imu.sensor_model import measured, read_sensor_model, sensor_parameters
from t2imu_utils.imu.sensors import GRAVITY, synthesise
from t2imu_utils.imu.sites import sensor_sites
from t2imu_utils.tracks import Track

FITS, STAGE = "03_smpl_fitting", "04_imu_synthesis"


def sense(
    track: Track,
    model: str,
    gravity: float = GRAVITY,
    scheme: str = DEFAULT,
    sensor_model: str | None = None,
) -> runs.Run:
    """The virtual sensors of a model's motions on all eight bodies: ``imu``.

    scheme: of differentiation. sensor_model: whose errors are added
    (`imu.sensor_model.read_sensor_model`); None is the paper's ideal sensor.
    """
    inputs = {
        "fits": runs.input_hash(track.name, model, FITS),
        "body": data.body_files(track),
    }
    phone = read_sensor_model(sensor_model) if sensor_model else None
    params: dict[str, Any] = {"gravity": gravity, "scheme": scheme, "sensor_model": None}
    if sensor_model:
        numbers = sensor_parameters(sensor_model)
        params["sensor_model"] = {name: number.value for name, number in numbers.items()}
    run = runs.open_run(track.name, model, STAGE, params, inputs)
    bodies = data.bodies(track)
    shapes = shapes_of(solve_table(bodies), bodies)
    fits = Clips.load(runs.run_dir(track.name, model, FITS) / "fits")
    sites = sensor_sites(bodies.neutral)
    virtual = synthesise(fits, bodies.neutral, shapes, sites, gravity=gravity, scheme=scheme)
    virtual = measured(virtual, phone)
    return run.finish({"clips": len(virtual)}, virtual.save(run.path("imu")))
