"""What each stage between a motion and a virtual sensor adds to its signal (Sections III-B and C).

The chain is joints at 20 Hz -> fit of the body -> skin -> sensor frame -> differences at 20 Hz.
Its error is known only where the true signal is, so the truth is made here: a body whose every
rotation is given as a function of time, sampled finely (`demo.true_motions`: the rotations are
those of the demo's made-up performers, and no fit is in them). The true sensor is **rigid on the
true bone**: put on in an upright stance, at the place and with the axes that the body's surface
has there, and from then on carried by that bone alone. That is what "the acceleration of the
forearm" means, it is known to the accuracy of the fine sampling, and none of the stages is in it.
The true signal is its reading at the fine rate, brought to the rate of the chain with the filter
that real recordings pass (`motion.resample`). What a recording of that rate cannot hold either is
no error of the chain; it is told apart as ``band``.

Then one thing after another is replaced by what the chain does, and a part is the difference of
two readings, in m/s² and rad/s:

- ``differentiation``: path and orientation are sampled at the chain's rate and differentiated
  there, by the scheme that the chain uses;
- ``surface``: the sensor's place is that of a vertex of the skin;
- ``frame``: its axes are those of the triangles around that vertex;
- ``fitting``: the pose, and the shape, are fitted to the 22 joints of the true body;
- ``skeleton``: they are fitted to the joints that the chain is given, whose bones may have other
  proportions than any shape of the body.

The parts add up to ``total``, vector by vector; their RMS values do not, as parts may cancel. What
a part is depends on what was replaced before it, so the order is an argument. Joints, skin and
sensor paths are all brought to the chain's rate by the same filter, as the corpora are.

A genuine sensor on soft tissue is neither rigid on a bone nor glued to a vertex of this mesh:
surface and frame say how far apart these two ideals are. Noise, bias and misplacement of a sensor,
and what a corpus does to its joints beyond the change of rate, are other matters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from t2imu_utils.body.fitting import fit
from t2imu_utils.body.smpl import Body
from t2imu_utils.body.table1 import betas_of
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.imu.differentiation import DEFAULT
from t2imu_utils.imu.sensors import POSE, virtual_imu
from t2imu_utils.imu.sites import RULES, Site, sensor_frames, sensor_sites, site_vertices
from t2imu_utils.motion.features import RATE
from t2imu_utils.motion.resample import LOBES, resample
from t2imu_utils.motion.skeleton import JOINTS

PARTS = ("differentiation", "surface", "frame", "fitting", "skeleton")
BAND, TOTAL = "band", "total"
NO_SIGNAL = 1e-6  # m/s² or rad/s: what rounding leaves of a statue
_N = len(JOINTS)

Rigid = tuple[Float[Tensor, "F S 3"], Float[Tensor, "F S 3 3"]]  # places and axes of sensors


def margin(rate: float) -> float:
    """Seconds that the filter of a change to `rate` reaches over."""
    return LOBES / rate


@dataclass(frozen=True)
class TrueMotion:
    """A body whose pose is known at a high rate.

    Attributes:
        activity: what it does.
        rate: frames per second.
        betas: the true shape.
        global_orient, body_pose, transl: as in SMPL; rotation vectors in rad, metres, Y up.
        stance: rotation vectors of the 24 bones in which the sensors were put on.
        joints: what the chain is given, in metres; None gives it the true body's own joints.
    """

    activity: str
    rate: float
    betas: Float[np.ndarray, "10"]
    global_orient: Float[np.ndarray, "F 3"]
    body_pose: Float[np.ndarray, "F 69"]
    transl: Float[np.ndarray, "F 3"]
    stance: Float[np.ndarray, "24 3"]
    joints: Float[np.ndarray, "F 22 3"] | None = None


def split_error(
    motions: Sequence[TrueMotion],
    body: Body,
    sites: Sequence[Site] | None = None,
    rate: float = RATE,
    scheme: str = DEFAULT,
    order: Sequence[str] = PARTS,
) -> pd.DataFrame:
    """The error of the virtual sensors, split into what each stage adds.

    Ten frames (`margin`) are left out at both ends of a motion, where the filter meets
    the end and differences have one side only.

    Args:
        motions: with that margin at both ends, at a rate no lower than `rate`.
        body: the model that the motions are of, and that is fitted.
        sites: from `sensor_sites`; None takes all nine.
        rate: frames per second at which the chain works.
        scheme: a key of `imu.sensors.SCHEMES`, the chain's; the truth is differentiated by central
            differences at the motions' own rate.
        order: `PARTS` as they are to be replaced, one after the other. The fit is of what 20 Hz
            shows, so ``differentiation`` stands before ``fitting``, and that before ``skeleton``.

    Returns:
        One row for each motion, site and part, with ``motion`` (index), ``activity``, ``site``,
        ``part`` (`BAND`, the parts in order, `TOTAL`), ``frames``; the RMS length of the error
        vector in ``acc_rms`` (m/s²) and ``gyro_rms`` (rad/s); ``acc_offset``, the length of its
        mean, most of it gravity on axes that are tilted; and ``acc_signal`` and ``gyro_signal``,
        the RMS deviation of the true signal from its mean.

    Raises:
        InputError: no motions, one that is too short, slower than `rate` or not finite, an
            unknown scheme, an order that cannot be.
    """
    order = _order(order)
    for number, motion in enumerate(motions):
        _check(motion, f"split_error: motion {number}", rate)
    if not len(motions):
        raise InputError("split_error: motions", "none", "at least one", "Use demo_motions.")
    sites = sensor_sites(body) if sites is None else list(sites)
    fitted, given = _refitted(motions, body, rate)
    cut = slice(LOBES, -LOBES)
    rows = []
    for number, motion in enumerate(motions):
        fine = _paths(_pose_of(motion), motion, body, sites)
        paths = {
            "fine": fine,
            "true": _slower(*fine, motion.rate, rate),
            "fitted": _paths(fitted[number], motion, body, sites),
            "given": _paths(given[number], motion, body, sites),
        }
        sensors = {
            name: {"bone": rigid, "skin": sensor_frames(skin, sites)}
            for name, (rigid, skin) in paths.items()
        }
        at_once, *read = _readings(sensors, motion.rate, rate, scheme, order)
        errors = {BAND: read[0] - at_once}
        errors |= {part: b - a for part, (a, b) in zip(order, pairwise(read), strict=True)}
        errors[TOTAL] = read[-1] - read[0]
        for part, error in errors.items():
            rows += _rows(part, error[cut], read[0][cut], sites, number, motion.activity)
    return pd.DataFrame(rows)


def pooled(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """RMS over all rows of `split_error` that agree in `by` and in the part, weighted by frames.

    Args:
        table: from `split_error`.
        by: columns such as ``("site",)`` or ``("activity", "site")``.

    Returns:
        Columns `by`, ``part``, those of `split_error` that are RMS values, and ``acc_share`` and
        ``gyro_share``: the error's RMS over the signal's, NaN where that is constant.
    """
    keys = [*by, "part"]
    values = ["acc_rms", "acc_offset", "gyro_rms", "acc_signal", "gyro_signal"]
    squares = table[values].pow(2).mul(table["frames"], axis=0)
    sums = pd.concat((table[[*keys, "frames"]], squares), axis=1).groupby(keys, sort=False).sum()
    result = sums[values].div(sums["frames"], axis=0).pow(0.5)
    for kind in ("acc", "gyro"):
        signal = result[f"{kind}_signal"]
        result[f"{kind}_share"] = result[f"{kind}_rms"] / signal.where(signal > NO_SIGNAL)
    return result.reset_index()


def largest_part(table: pd.DataFrame, measure: str = "acc_rms") -> pd.DataFrame:
    """Which stage adds most: the name of the part, activities by row and sites by column.

    Args:
        table: from `split_error`.
        measure: ``acc_rms``, ``acc_offset`` or ``gyro_rms``.
    """
    parts = pooled(table[table["part"].isin(PARTS)], ("activity", "site"))
    winner = parts.loc[parts.groupby(["activity", "site"], sort=False)[measure].idxmax()]
    grid = winner.pivot(index="activity", columns="site", values="part")
    return grid.loc[list(dict.fromkeys(table["activity"])), list(dict.fromkeys(table["site"]))]


def _order(order: Sequence[str]) -> tuple[str, ...]:
    order = tuple(order)
    late = [part for part in order if part in ("differentiation", "fitting", "skeleton")]
    if sorted(order) != sorted(PARTS) or late != ["differentiation", "fitting", "skeleton"]:
        raise InputError(
            "split_error: order",
            ", ".join(order) or "nothing",
            f"{', '.join(PARTS)}, each once; differentiation before fitting before skeleton",
            "Give all parts: the fit has only what the chain's rate shows.",
        )
    return order


def _check(motion: TrueMotion, where: str, rate: float) -> None:
    if not 0 < rate <= motion.rate:
        raise InputError(
            f"{where}, rate",
            f"{rate} Hz, and the motion has {motion.rate} Hz",
            "more than 0, and no more than the motion has",
            "Sample the motion more finely.",
        )
    parts = [*_pose_of(motion).values()][1:] + [motion.joints] * (motion.joints is not None)
    lengths = [len(part) for part in parts]
    if len(set(lengths)) > 1 or not all(np.isfinite(part).all() for part in parts):
        raise InputError(
            where,
            f"{lengths} frames" if len(set(lengths)) > 1 else "NaN or infinity",
            "finite arrays, as long as each other",
            "Cut or repair the motion.",
        )
    needed = 2 * margin(rate) + 3 / rate
    if (lengths[0] - 1) / motion.rate < needed:
        raise InputError(
            where,
            f"{(lengths[0] - 1) / motion.rate:.2f} s",
            f"at least {needed:.2f} s: {margin(rate):.2f} s at both ends do not count",
            "Make the motion longer.",
        )


def _pose_of(motion: TrueMotion) -> dict[str, np.ndarray]:
    return {"betas": motion.betas, **{name: getattr(motion, name) for name in POSE}}


def _paths(
    pose: Mapping[str, np.ndarray], motion: TrueMotion, body: Body, sites: Sequence[Site]
) -> tuple[Rigid, Float[Tensor, "F V 3"]]:
    """Places and axes of sensors that are rigid on the bones, and the skin around them.

    The mount on the bone is that of the true body, whatever the pose is.
    """
    ids = torch.from_numpy(site_vertices(sites))
    bones = [_bone(site) for site in sites]
    stance = torch.from_numpy(motion.stance).double()[None]
    betas = torch.from_numpy(motion.betas).double()
    put_on = (betas, stance[:, 0], stance[:, 1:].flatten(1), torch.zeros(1, 3).double())
    turns, origins = (part[:, bones] for part in body.bone_transforms(*put_on))
    places, axes = sensor_frames(body.vertices(ids, *put_on), sites)
    mount = turns.mT @ (places - origins)[..., None], turns.mT @ axes
    # A second difference at the fine rate needs all digits.
    precise = {name: torch.from_numpy(part).double() for name, part in pose.items()}
    turns, origins = (part[:, bones] for part in body.bone_transforms(**precise))
    rigid = origins + (turns @ mount[0])[..., 0], turns @ mount[1]
    return rigid, body.vertices(ids, **precise)


def _bone(site: Site) -> int:
    """The bone under a site: the one that starts at the joint nearer to the pelvis, unless the
    sensor lies beyond its other end."""
    rule = RULES[site.name]
    near, far = sorted((JOINTS.index(rule.low), JOINTS.index(rule.high)))
    return far if rule.along > 1 else near


def _slower(
    rigid: Rigid, skin: Float[Tensor, "F V 3"], fine: float, rate: float
) -> tuple[Rigid, Float[Tensor, "T V 3"]]:
    """The same at the chain's rate: all pass the filter, and axes are made orthonormal again."""
    places, axes, skin = (_resampled(x, fine, rate) for x in (*rigid, skin))
    u, _, vh = torch.linalg.svd(axes)
    u = torch.cat((u[..., :2], u[..., 2:] * torch.linalg.det(u @ vh)[..., None, None]), -1)
    return (places, u @ vh), skin


def _resampled(x: Tensor, fine: float, rate: float) -> Tensor:
    return torch.from_numpy(resample(x.numpy(), fine, rate))


def _refitted(
    motions: Sequence[TrueMotion], body: Body, rate: float
) -> tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
    """Poses by motion from the fit to the body's own joints, and to those that the chain has."""
    joints = [
        body.joints(*(torch.from_numpy(part).double() for part in _pose_of(motion).values()))
        for motion in motions
    ]
    joints = [every[:, :_N].numpy() for every in joints]
    joints += [
        own if m.joints is None else m.joints for own, m in zip(joints, motions, strict=True)
    ]
    rates = [motion.rate for motion in motions] * 2
    shown = [resample(fine, own, rate) for fine, own in zip(joints, rates, strict=True)]
    clips = Clips.from_list([{"name": i} for i in range(len(shown))], {"joints": shown})
    fits = fit(clips, body, chunk_frames=sum(map(len, shown)) // 2, progress=False)
    betas = betas_of(fits.table)
    poses = [{"betas": betas[i], **{n: fits[i][n] for n in POSE}} for i in range(len(fits))]
    return poses[: len(motions)], poses[len(motions) :]


def _readings(
    sensors: Mapping[str, Mapping[str, Rigid]],
    fine: float,
    rate: float,
    scheme: str,
    order: Sequence[str],
) -> list[Float[Tensor, "T S 6"]]:
    """acc and gyro at the chain's rate: instants of the truth, the truth, then as parts come in."""
    pose, place, axes = "fine", "bone", "bone"

    def read() -> Tensor:
        now = (fine, "central") if pose == "fine" else (rate, scheme)
        path = sensors[pose][place][0].movedim(0, 1), sensors[pose][axes][1].movedim(0, 1)
        return torch.cat(virtual_imu(*path, now[0], scheme=now[1]), -1).movedim(1, 0)

    def slow(signal: Tensor) -> Tensor:
        return _resampled(signal, fine, rate) if pose == "fine" else signal

    exact = read()
    found = [slow(exact)]
    for part in order:
        place = "skin" if part == "surface" else place
        axes = "skin" if part == "frame" else axes
        pose = {"differentiation": "true", "fitting": "fitted", "skeleton": "given"}.get(part, pose)
        found.append(slow(read()))
    instants = np.round(np.arange(len(found[0])) * fine / rate).astype(int)
    return [exact[instants], *found]


def _rows(
    part: str,
    error: Float[Tensor, "T S 6"],
    signal: Float[Tensor, "T S 6"],
    sites: Sequence[Site],
    motion: int,
    activity: str,
) -> list[dict]:
    def rms(x: Tensor) -> list[float]:
        return x.pow(2).sum(-1).mean(0).sqrt().tolist()

    columns = {
        "acc_rms": rms(error[..., :3]),
        "acc_offset": error[..., :3].mean(0).norm(dim=-1).tolist(),
        "gyro_rms": rms(error[..., 3:]),
        "acc_signal": rms((signal - signal.mean(0))[..., :3]),
        "gyro_signal": rms((signal - signal.mean(0))[..., 3:]),
    }
    facts = {"motion": motion, "activity": activity, "part": part, "frames": len(error)}
    return [
        {**facts, "site": site.name, **{name: values[i] for name, values in columns.items()}}
        for i, site in enumerate(sites)
    ]
