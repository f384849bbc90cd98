"""Stage 04 of one model: the virtual sensors of its motions."""

from t2imu_utils import data, runs
from t2imu_utils.body.table1 import shapes_of, solve_table
from t2imu_utils.clips import Clips
from t2imu_utils.imu.sensors import synthesise
from t2imu_utils.imu.sites import sensor_sites
from t2imu_utils.tracks import Track

FITS, STAGE = "03_smpl_fitting", "04_imu_synthesis"
GRAVITY = 9.81  # m/s²
CODE = ("motion/rotations.py", "body", "imu/sensors.py", "imu/sites.py")


def sense(track: Track, model: str, gravity: float = GRAVITY) -> runs.Run:
    """The virtual sensors of a model's motions on all eight bodies: ``imu``."""
    inputs = {
        "fits": runs.input_hash(track.name, model, FITS),
        "body": data.body_files(track),
    }
    params = {"gravity": gravity}
    run = runs.open_run(track.name, model, STAGE, params, inputs, CODE)
    if run.done:
        return run
    bodies = data.bodies(track)
    shapes = shapes_of(solve_table(bodies), bodies)
    fits = Clips.load(runs.run_dir(track.name, model, FITS) / "fits")
    virtual = synthesise(
        fits, bodies.neutral, shapes, sensor_sites(bodies.neutral), gravity=gravity
    )
    return run.finish({"clips": len(virtual)}, virtual.save(run.path("imu")))
