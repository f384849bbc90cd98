"""What an inertial sensor on a moving surface would measure (Section III-C, eqs. 7 and 8)."""

import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from t2imu_utils.body.fitting import pose_bodies
from t2imu_utils.body.smpl import Body, Shape, same_mesh
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.imu.differentiation import DEFAULT, SCHEMES, Kinematics
from t2imu_utils.imu.sites import Site, sensor_frames, site_vertices

GRAVITY = 9.81  # m/s^2, as below eq. (7)
UP = (0.0, 1.0, 0.0)
POSE = ("global_orient", "body_pose", "transl")
BATCH = 8192  # frames skinned at once: some 100 MB


def virtual_imu(
    positions: Float[Tensor, "*b T 3"],
    rotations: Float[Tensor, "*b T 3 3"],
    rate: float,
    gravity: float = GRAVITY,
    scheme: str = DEFAULT,
) -> Kinematics:
    """Accelerometer and gyroscope readings of a sensor that moves along a path.

    Eq. (7): the accelerometer reads the specific force, the second derivative of its position plus
    `gravity` along the upward axis, both turned into the sensor frame by the inverse of its
    orientation. At rest it reads +9.81 m/s^2 along its upward axis, in free fall zero. (The paper
    turns the gravity term only and leaves the axes of a_d unsaid; a sensor measures both in its own
    axes.)

    Eq. (8) prints the angular velocity as dq/dt, which has four components and depends on the sign
    of q. It is shorthand for the vector part of 2 q* (x) dq/dt, the angular velocity in the sensor
    frame in rad/s, which is what is computed here. Turns of more than pi a step are ambiguous.

    Args:
        positions: in metres, world frame with Y up.
        rotations: sensor to world.
        rate: frames per second.
        gravity: m/s^2.
        scheme: of differentiation, a key of `SCHEMES`; the paper's is ``central``.

    Returns:
        acc in m/s^2 and gyro in rad/s, both in the sensor frame.

    Raises:
        InputError: fewer than three frames, shapes that do not belong together, unknown scheme.
    """
    if rotations.shape != (*positions.shape, 3) or positions.shape[-1] != 3:
        raise InputError(
            "virtual_imu: rotations",
            f"shape {tuple(rotations.shape)} with positions {tuple(positions.shape)}",
            "(..., T, 3, 3) with (..., T, 3)",
            "Give one orientation for each position.",
        )
    if positions.shape[-2] < 3:
        raise InputError(
            "virtual_imu: positions",
            f"{positions.shape[-2]} frames",
            "at least 3, which a second derivative needs",
            "Leave out clips that are so short.",
        )
    if scheme not in SCHEMES:
        raise InputError(
            "virtual_imu: scheme", repr(scheme), f"one of {', '.join(SCHEMES)}", "Check the name."
        )
    acceleration, gyro = SCHEMES[scheme](positions, rotations, rate)
    up = torch.tensor(UP, dtype=positions.dtype, device=positions.device)
    force = acceleration + gravity * up
    return torch.einsum("...ji,...j->...i", rotations, force), gyro


def synthesise(
    fits: Clips,
    body: Body,
    shapes: Mapping[str, Shape],
    sites: Sequence[Site],
    rate: float | None = None,
    gravity: float = GRAVITY,
    scheme: str = DEFAULT,
    progress: bool = True,
) -> Clips:
    """Virtual recordings of every fitted motion on every person.

    All strike the same poses, each on the model of the own gender; the path of the pelvis grows
    with the length of the legs (`body.fitting.pose_bodies`), so that feet that stood still go on
    standing still. Only the vertices in `sites` and their neighbours are skinned, one motion at a
    time on the device of each model, so memory does not grow with the number of clips.

    Args:
        fits: arrays ``global_orient`` (F, 3), ``body_pose`` (F, 69) and ``transl`` (F, 3); columns
            ``beta_0`` to ``beta_9``, as `body.fitting.fit` leaves them.
        body: the model that was fitted and that the sites were found on.
        shapes: people by name, from `body.table1.shapes_of`.
        sites: from `sensor_sites`.
        rate: frames per second; None takes that of `fits`.
        gravity: g of eq. (7), m/s^2.
        scheme: of differentiation, a key of `SCHEMES`; the paper's is ``central``.
        progress: show a bar.

    Returns:
        One clip for each motion and person, motions in the order of `fits` and people within them;
        the table is that of `fits` with the columns ``body`` and, unless `fits` has one,
        ``motion`` (row in `fits`); arrays ``acc`` and ``gyro`` (F, S, 3) float32; meta ``rate``
        and ``sites``.

    Raises:
        InputError: a motion of fewer than three frames, missing arrays, no rate, a model with
            another mesh than `body`.
    """
    rate = fits.meta.get("rate") if rate is None else rate
    missing = [name for name in POSE if name not in fits.arrays]
    if missing or not rate or not shapes or not sites:
        raise InputError(
            "synthesise",
            f"no {', '.join(missing) or ('rate' if not rate else 'people or sites')}",
            "fitted poses with a rate, at least one person and one site",
            "Fit the body to the motions first (notebook 03).",
        )
    if fits.table["frames"].min() < 3:
        row = int(fits.table["frames"].argmin())
        raise InputError(
            f"synthesise: clip {row}",
            f"{fits.table['frames'].iloc[row]} frames",
            "at least 3, which a second derivative needs",
            "Leave it out with Clips.select.",
        )
    for name, shape in shapes.items():
        if not same_mesh(shape.body, body):
            raise InputError(
                f"synthesise: {name}",
                f"other triangles in {shape.body.path.name} than in {body.path.name}",
                "one mesh, so that a site is the same place on all",
                "Load all models with load_bodies.",
            )
    people = list(shapes.values())
    paths = pose_bodies(fits, body, people)
    betas = torch.tensor(np.stack([shape.betas for shape in people]), dtype=torch.float32)
    bounds = fits.bounds
    rows: list[dict] = []
    acc: list[np.ndarray] = []
    gyro: list[np.ndarray] = []
    for index in tqdm(range(len(fits)), "IMU", mininterval=2, disable=not progress):
        motion = fits[index]
        pose = {n: torch.as_tensor(motion[n], dtype=torch.float32) for n in POSE[:2]}
        path = torch.from_numpy(paths[:, bounds[index] : bounds[index + 1]])
        for who in _together(people, max(1, BATCH // path.shape[1])):
            model = people[who.start].body
            a, w = _recordings(model, sites, betas[who], pose, path[who], rate, gravity, scheme)
            acc += list(a.cpu().numpy())
            gyro += list(w.cpu().numpy())
        facts = {k: v for k, v in fits.table.iloc[index].items() if k != "frames"}
        rows += [{"motion": index, **facts, "body": name} for name in shapes]
    meta = {"rate": float(rate), "sites": [site.name for site in sites]}
    return Clips.from_list(rows, {"acc": acc, "gyro": gyro}, meta)


def _together(people: Sequence[Shape], most: int) -> Iterator[slice]:
    """Runs of at most `most` people who follow each other and have one model."""
    start = 0
    for stop in range(1, len(people) + 1):
        full = stop == len(people) or stop - start == most
        if full or people[stop].body is not people[start].body:
            yield slice(start, stop)
            start = stop


@torch.no_grad()
def _recordings(
    body: Body,
    sites: Sequence[Site],
    betas: Float[Tensor, "N B"],
    pose: Mapping[str, Tensor],
    transl: Float[Tensor, "N T 3"],
    rate: float,
    gravity: float,
    scheme: str,
) -> tuple[Float[Tensor, "N T S 3"], Float[Tensor, "N T S 3"]]:
    """Readings of all sensors during one motion of several people of one model at once."""
    device = body.model.v_template.device
    betas, transl = betas.to(device), transl.to(device)
    pose = {name: values.to(device) for name, values in pose.items()}
    ids = torch.as_tensor(site_vertices(sites), device=device)
    vertices = body.vertices(ids, betas[:, None], **pose, transl=transl)
    positions, rotations = sensor_frames(vertices, sites)
    signals = virtual_imu(positions.movedim(1, 2), rotations.movedim(1, 2), rate, gravity, scheme)
    acc, gyro = (signal.movedim(1, 2) for signal in signals)
    return acc, gyro


def acceleration_spread(clips: Clips, sites: Sequence[str]) -> pd.DataFrame:
    """How much the length of the acceleration varies in each clip at each site.

    Returns:
        Columns ``activity``, ``site``, ``spread``: standard deviation of ‖acc‖ in m/s², NaN where
        a site was not recorded.
    """
    at = [clips.meta["sites"].index(site) for site in sites]
    lengths = (np.linalg.norm(acc[:, at], axis=-1) for acc in clips.each("acc"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of sites that are NaN throughout
        spread = np.stack([np.nanstd(length, axis=0) for length in lengths])
    table = pd.DataFrame(spread, columns=list(sites)).assign(activity=clips.table["activity"])
    return table.melt("activity", var_name="site", value_name="spread")
