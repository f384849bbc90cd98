"""A recorded or generated motion of one's own, and what sensors on a body that moves so would read.

Joints are fitted (`body.fitting`), pose parameters taken as they are; the body that moves so wears
the sensors of notebook 04, which are read once a frame.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from t2imu_utils.activities import SITES
from t2imu_utils.body.fitting import fit
from t2imu_utils.body.smpl import BETAS, Body, Shape, load_body
from t2imu_utils.body.table1 import PEOPLE, betas_of, measure, shape_of
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256
from t2imu_utils.imu.sensors import CHANNELS, DEFAULT, GRAVITY, UNITS, synthesise
from t2imu_utils.imu.sites import sensor_sites
from t2imu_utils.motion.exports import Up, read_exports, read_npz, read_poses
from t2imu_utils.motion.skeleton import Joints, bone_lengths
from t2imu_utils.motion.takes import implausible
from t2imu_utils.runs import provenance

OWN = "own"
LIMBS = [4, 5, 7, 8, 18, 19, 20, 21]  # knees, ankles, elbows, wrists
MOST = 2.0  # of a limb's median length, in any frame
BONE_CHANGE = 0.08  # as `takes.BONE_CHANGE`


def read_motion(
    path: Path,
    body: Body,
    rate: float | None = None,
    resample: float | None = None,
    up: Up | None = None,
    scale: float = 1.0,
    number: int = 0,
) -> tuple[Clips, float]:
    """One motion of a file, fitted to a body, and the height in metres of who moves.

    Args:
        path: what `motion.exports` reads.
        rate: frames a second of files that state none.
        resample: frames a second of the result; None keeps the rate of the file.
        up: up axis; by default Y for joints and Z for pose parameters.
        scale: metres a unit of the file.
        number: of a file with many motions, which one, from 0.

    Raises:
        InputError: nothing that can be read; a rate below 20 or above 1000 frames a second; joints
            of a body that is not 1.4 to 2.1 m tall, whose bones change their length or that lies
            on one axis throughout.
    """
    path = Path(path)
    keys = ("poses", "root_orient")
    if path.suffix.lower() == ".npz" and read_npz(path, keys):
        fits, _ = read_poses(path, body, rate, up or "z", to=resample)
        return fits, measure(body, np.zeros(BETAS))[0]
    motions, _ = read_exports(path, rate, up or "y", scale=scale, to=resample)
    if not 0 <= number < len(motions):
        remedy = "Numbers count from 0."
        raise InputError(f"{path}: number", f"{number}", f"0 to {len(motions) - 1}", remedy)
    motion = motions.select([number])
    joints = motion.arrays["joints"]
    lengths = bone_lengths(joints)[:, LIMBS]
    longest = (lengths / np.median(lengths, axis=0)).max(axis=1)
    fault = implausible(joints, BONE_CHANGE)
    if longest.max() > MOST:
        fault = f"a limb {longest.max():.3g} times its length in frame {longest.argmax()}"
    if fault:
        remedy = "Check joints and axes, or cut the jumps out."
        raise InputError(f"{path}: bones", fault, "those of one body", remedy)
    trunk = np.abs((joints[:, 12] - joints[:, 0]).mean(0))
    if up is None and trunk[2] > 3 * trunk[1]:
        raise InputError(
            f"{path}: up axis", "trunks along Z", "Y up", "Pass --up z, or --up y if they lie."
        )
    return fit(motion, body, foreign=True, progress=False), _height(joints, body)


def _height(joints: Joints, body: Body) -> float:
    """The height (m) of a body with such bones: both legs, and twice the trunk up to the head."""
    upright = [4, 5, 7, 8, *2 * (3, 6, 9, 12, 15)]
    mean = bone_lengths(body.rest_joints(torch.zeros(BETAS))[:22].numpy())[upright].sum()
    size = np.median(bone_lengths(joints), axis=0)[upright].sum() / mean
    return float(size * measure(body, np.zeros(BETAS))[0])


def sense_motion(
    path: Path,
    rate: float | None = None,
    person: str = OWN,
    sites: Sequence[str] | None = None,
    resample: float | None = None,
    up: Up | None = None,
    scale: float = 1.0,
    number: int = 0,
) -> dict[str, np.ndarray]:
    """Readings of virtual sensors on a person who moves as in a file; arguments of `read_motion`.

    Args:
        person: "own", the open body in the shape that the joints tell, or one of
            `body.table1.PEOPLE`.
        sites: names of sensors; None takes all nine.

    Returns:
        ``acc`` (T, S, 3) in m/s², +9.81 along the upward axis at rest, and ``gyro`` (T, S, 3) in
        rad/s, in the sensors' own axes (``channels``); ``sites`` (S,), ``fps``, ``units``, and
        ``meta``, JSON.
    """
    if person not in (OWN, *PEOPLE):
        expected = f"one of {', '.join((OWN, *PEOPLE))}"
        raise InputError("person", repr(person), expected, "Choose one.")
    body = load_body()
    names = list(SITES if sites is None else dict.fromkeys(name.strip() for name in sites))
    worn = sensor_sites(body, names)
    fits, height = read_motion(path, body, rate, resample, up, scale, number)
    own = Shape(body, betas_of(fits.table)[0])
    shape = own if person == OWN else shape_of(person, body)
    virtual = synthesise(fits, body, {person: shape}, worn, progress=False)
    facts = fits.table.iloc[0]
    meta = {
        "file": Path(path).name,
        "sha256": sha256(Path(path)),
        "native_rate": float(facts["native_rate"]),
        "person": person,
        "height_m": round(height, 3),
        "body": body.path.name,
        "joint_error_mm": round(1000 * float(fits.arrays["joint_error"].mean()), 2),
        "gravity": GRAVITY,
        "differentiation": DEFAULT,
        "versions": provenance()["versions"],
    }
    fields = {"sites": names, "fps": virtual.meta["rate"], "channels": CHANNELS, "units": UNITS}
    fields |= {"meta": json.dumps(meta, sort_keys=True)}
    return virtual[0] | {name: np.asarray(value) for name, value in fields.items()}
