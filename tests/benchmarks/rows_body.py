"""Rows of the body: fitting it to joints, and sensors on its skin."""

from functools import cache
from pathlib import Path

import numpy as np
import torch

from t2imu_utils.body.fitting import ACTIVE, fit, fitted_joints
from t2imu_utils.body.smpl import BONES, Bodies, Body, Shape, load_bodies
from t2imu_utils.body.table1 import BODIES
from t2imu_utils.clips import Clips
from t2imu_utils.imu.sensors import synthesise
from t2imu_utils.imu.sites import sensor_sites, site_vertices
from t2imu_utils.motion.features import RATE, features_to_joints
from tests.benchmarks.comparison import Comparison, within
from tests.benchmarks.machine import Machine
from tests.benchmarks.reference import body as plain_body
from tests.benchmarks.reference import fitting as plain_fitting
from tests.benchmarks.sizes import Sizes
from tests.gait import figure, gait_corpus

ITERATIONS = 4  # of our fit, its default
SCHEME = "central"
FLOAT = 4  # bytes


@cache
def motions() -> Clips:
    """Joints of 27 made-up motions of 3 to 8 s."""
    clips, _ = gait_corpus(27)
    rows = [{"name": clip.name, "activity": clip.activity} for clip in clips]
    joints = [features_to_joints(clip.features) for clip in clips]
    return Clips.from_list(rows, {"joints": joints}, {"rate": RATE})


def on_device(bodies: Bodies, device: str) -> Bodies:
    """The same models on another device."""
    for body in {id(b): b for b in (bodies.neutral, bodies.male, bodies.female)}.values():
        body.model.to(device)
    return bodies


def people(bodies: Bodies) -> dict[str, Shape]:
    """Eight people of different builds, one for each of Table I; what they weigh costs no time."""
    rng = np.random.default_rng(0)
    return {row.name: Shape(bodies.of(row.gender), rng.normal(0, 1, 10)) for row in BODIES}


def fitting_row(sizes: Sizes, machine: Machine, folder: Path) -> Comparison:
    """Joints to SMPL: frame by frame through the mesh, and all frames at once without it."""
    device = machine.device
    clips, body = motions().select(range(sizes.clips)), load_bodies().neutral
    plain = on_device(load_bodies(), device).neutral
    target = clips[0]["joints"]
    frames = int(clips.table["frames"].sum())

    @cache
    def start() -> plain_fitting.State:
        placing = min(sizes.outer, plain_fitting.PLACING)
        return plain_fitting.fit(plain, target[:1], None, sizes.outer, placing)[1]

    def reference() -> np.ndarray:
        return plain_fitting.fit(plain, target[1 : 1 + sizes.fitted], start(), sizes.outer)[0]

    def agree(joints: np.ndarray, fitted: Clips) -> str:
        here = slice(1, 1 + sizes.fitted)
        goal, own = target[here], fitted_joints(fitted.select([0]), body)[here]
        error, own_error = (1000 * np.linalg.norm(x - goal, axis=-1).mean() for x in (joints, own))
        apart = 1000 * float(np.linalg.norm(joints - own, axis=-1).mean())
        every = 1000 * float(fitted.arrays["joint_error"].mean())
        told = within(apart, 60.0, "joints {:.1f} mm apart")
        return f"{told}; error {error:.1f} mm and {own_error:.1f} mm (all frames {every:.1f} mm)"

    moved = fitted_bytes()
    start()
    return Comparison(
        name="fitting",
        title=f"SMPL fitting, {sizes.outer} calls of L-BFGS a frame in the reference, "
        f"{len(clips)} clips at once in ours",
        unit="frame",
        reference=reference,
        ours=lambda: fit(clips, body, iterations=ITERATIONS, device=device, progress=False),
        agree=agree,
        reach=">= 1,500x, at a lower joint error",
        floor=machine.moves(moved),
        floor_is=f"{moved / 1e3:.0f} kB a frame: its normal equations and their factor written and "
        f"read once in each of {ITERATIONS} steps, at the rate of a copy",
        reference_units=sizes.fitted,
        our_units=frames,
        warm=False,
        note=f"The reference fits {sizes.fitted} frames of a clip, from where the one before them "
        "ended.",
    )


def fitted_bytes() -> float:
    """Bytes that a frame's fit moves: in each step its normal equations, and their factor, are
    written and read at least once."""
    return ITERATIONS * 4 * FLOAT * (3 * len(ACTIVE) + 3) ** 2


def imu_row(sizes: Sizes, machine: Machine, folder: Path) -> Comparison:
    """Eight people with nine sensors each strike the poses of a fitted motion."""
    device = machine.device
    joints = figure("walking", sizes.sensed)
    one = Clips.from_list([{"name": "motion"}], {"joints": [joints]}, {"rate": RATE})
    fitted = fit(one, load_bodies().neutral, progress=False)
    bodies = on_device(load_bodies(), device)
    body, shapes = bodies.neutral, people(bodies)
    sites = sensor_sites(load_bodies().neutral)

    def ours() -> tuple[np.ndarray, np.ndarray]:
        made = synthesise(fitted, body, shapes, sites, scheme=SCHEME, progress=False)
        return tuple(np.stack(list(made.each(name))) for name in ("acc", "gyro"))

    def agree(reference: tuple[np.ndarray, ...], ours: tuple[np.ndarray, ...]) -> str:
        apart = [float((a - b).std() / b.std()) for a, b in zip(reference, ours, strict=True)]
        return within(max(apart), 5e-3, "signals differ by {:.1e} of their spread")

    vertices = len(site_vertices(sites))
    return Comparison(
        name="imu",
        title=f"virtual IMU, {len(shapes)} bodies x {len(sites)} sites, {len(joints)} frames",
        unit="clip",
        reference=lambda: plain_body.virtual_imu(fitted, body, shapes, sites, RATE),
        ours=ours,
        agree=agree,
        reach=">= 50x, flat memory",
        floor=machine.operations(skinning(len(joints) * len(shapes), vertices, body)),
        floor_is=f"the blending of bones for {vertices} vertices in float32",
        memory=True,
    )


def skinning(frames: int, vertices: int, body: Body) -> float:
    """Operations of skinning some vertices: rotations and shifts blended, then applied."""
    blend_shapes = 3 * 9 * (BONES - 1) if bool(torch.any(body.model.posedirs)) else 0
    return 2.0 * frames * (vertices * (BONES * 12 + 9 + blend_shapes) + BONES * (27 + 9))
