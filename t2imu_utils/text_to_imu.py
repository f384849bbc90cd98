"""One sentence to one motion, and to what nine inertial sensors on a body would measure.

What notebooks 03 and 04 do for many, for one, with the prior that the project ships: on one thread
of a CPU, in seconds, without a network. The same request gives the same motion.
"""

import json
import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from t2imu_utils import palette, pictures, plots
from t2imu_utils.body.fitting import fit, pose_body
from t2imu_utils.body.smpl import Body, Shape, load_body
from t2imu_utils.body.smpl_files import BETAS
from t2imu_utils.body.table1 import BODIES, solve_betas
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write, output_file, sha256
from t2imu_utils.imu.differentiation import DEFAULT
from t2imu_utils.imu.sensors import GRAVITY, synthesise
from t2imu_utils.imu.sites import sensor_sites
from t2imu_utils.models.diffusion import Solver
from t2imu_utils.models.generator import check_requests
from t2imu_utils.models.mdm import GUIDANCE, Prior, generate, load_prior, longest_frames
from t2imu_utils.motion.features import MIN_FRAMES, RATE, features_to_joints
from t2imu_utils.runs import provenance
from t2imu_utils.synthesis import one_thread
from t2imu_utils.tracks import OPEN_PRIOR

MEAN = "mean"
PEOPLE = (MEAN, *(target.name for target in BODIES))
SOLVER = "sde-dpm++2m"
SEEDS = 2**63
# What the last axis of acc and gyro is: the frame of `imu.sites`.
CHANNELS = (
    "x: completes a right-handed frame",
    "y: along the bone, towards the head end",
    "z: out of the skin",
)
PICTURE_LIMIT = 600_000  # bytes


@dataclass(frozen=True)
class GeneratedMotion:
    """A motion of a sentence, on a body, with its virtual sensors.

    World frame: metres, Y up, starting with the face to +Z; T frames, `fps` a second.

    Attributes:
        features: HumanML3D's, raw.
        joints: the 22 joints that the features hold, in metres.
        global_orient, body_pose: rotation vectors (rad) of the open body in SMPL's format.
        transl: of the person with the shape `betas`, in metres.
        acc: specific force in m/s², +9.81 along the upward axis at rest; gyro: angular velocity in
            rad/s; both in the sensor's own frame (`CHANNELS`), None where no sensors were asked
            for.
        sites: names of the S sensors.
        meta: what it was made with; JSON-able.
    """

    prompt: str
    seed: int
    features: Float[np.ndarray, "T 263"]
    joints: Float[np.ndarray, "T 22 3"]
    global_orient: Float[np.ndarray, "T 3"]
    body_pose: Float[np.ndarray, "T 69"]
    transl: Float[np.ndarray, "T 3"]
    betas: Float[np.ndarray, "10"]
    acc: Float[np.ndarray, "T S 3"] | None
    gyro: Float[np.ndarray, "T S 3"] | None
    sites: tuple[str, ...]
    meta: dict[str, Any]
    fps: float = RATE

    def save(self, path: Path) -> Path:
        """Write an ``.npz`` without pickles: a field an array, ``meta`` as JSON in a string.

        Raises:
            InputError: the path has another ending or is a folder.
        """
        fields = {name: value for name, value in vars(self).items() if value is not None}
        fields |= {"meta": json.dumps(self.meta, sort_keys=True)}
        if self.acc is None:
            del fields["sites"]
        else:
            fields["channels"] = CHANNELS
        with atomic_write(output_file(path, ".npz")) as temporary, open(temporary, "wb") as stream:
            np.savez_compressed(stream, **{name: np.asarray(x) for name, x in fields.items()})
        return Path(path)

    def picture(self) -> Figure:
        """A film strip of the motion, over the signals of its sensors if it has any."""
        title = textwrap.fill(self.prompt, 110).replace("$", r"\$")  # no formula
        with plt.rc_context():
            palette.style()
            if self.acc is None:
                return pictures.film_strip({title: self.joints}, fps=self.fps)
            signals = {"acceleration (m/s²)": self.acc, "angular velocity (rad/s)": self.gyro}
            return pictures.motion_with_signals(title, self.joints, signals, self.sites, self.fps)

    def draw(self, path: Path) -> Path:
        """Write `picture` as a PNG.

        Raises:
            InputError: the path has another ending or is a folder.
        """
        return plots.save(self.picture(), output_file(path, ".png"), PICTURE_LIMIT)


def generate_motion(
    prompt: str,
    seconds: float = 6.0,
    seed: int = 0,
    prior: Path = OPEN_PRIOR,
    person: str = MEAN,
    imu: bool = True,
    guidance: float = GUIDANCE,
    solver: Solver | None = None,
) -> GeneratedMotion:
    """A motion of a sentence, the pose of a body in it, and the readings of nine virtual IMUs.

    Args:
        seconds: length, at 20 frames a second.
        prior: a file of `models.mdm`.
        person: one of `PEOPLE`: the open body's mean shape, or a body of Table I.
        imu: whether to make the sensors.
        guidance: scale of the text; 1 is none, 2.5 is that of MDM's authors.
        solver: None takes 10 evaluations of `SOLVER`.

    Raises:
        InputError: an empty prompt or one that the text encoder would cut, a length that the prior
            was not trained on, an unknown person, a negative seed, more evaluations than the prior
            has steps, or a file that is no such prior.
    """
    if not 0 <= seed < SEEDS:
        raise InputError("seed", str(seed), "0 or more, below 2⁶³", "Choose another.")
    if not math.isfinite(guidance):
        raise InputError("guidance", str(guidance), "a finite number", f"{GUIDANCE} is usual.")
    if person not in PEOPLE:
        raise InputError("person", repr(person), f"one of {', '.join(PEOPLE)}", "Choose one.")
    if not prompt.strip():
        raise InputError("prompt", repr(prompt), "a sentence", 'Say "a person walks".')
    solver = solver or Solver(SOLVER)
    with one_thread():
        model = load_prior(prior)
        frames = _frames(model, seconds)
        check_requests(model, [prompt], [frames], [seed], 1)
        features = generate(
            model, [prompt], [frames], [seed], guidance, 1, "cpu", False, solver, "float32"
        )[0]
        joints = features_to_joints(features, model.velocity_weight)
        body = load_body()
        shape = _shape(person, body)
        clip = Clips.from_list([{"name": prompt}], {"joints": [joints]}, {"rate": RATE})
        fits = fit(clip, body, progress=False)
        readings: dict[str, Any] = {"acc": None, "gyro": None, "sites": ()}
        if imu:
            sites = sensor_sites(body)
            virtual = synthesise(fits, body, {person: shape}, sites, progress=False)
            readings = virtual[0] | {"sites": tuple(virtual.meta["sites"])}
        transl = pose_body(fits, body, shape)
    used = {"name": solver.name, "evaluations": solver.count(model.config.diffusion_steps)}
    meta = {
        "prior": Path(prior).name,
        "prior_sha256": sha256(Path(prior)),
        "text_encoder": model.text_encoder.name,
        "guidance": guidance,
        "solver": used,
        "person": person,
        "body": body.path.name,
        "joint_error_mm": round(1000 * float(fits.arrays["joint_error"].mean()), 2),
        "gravity": GRAVITY,
        "differentiation": DEFAULT,
        "world": "metres, Y up, starting with the face to +Z",
        "versions": provenance()["versions"],
    }
    return GeneratedMotion(
        prompt,
        seed,
        features,
        np.asarray(joints, dtype=np.float32),
        fits.arrays["global_orient"],
        fits.arrays["body_pose"],
        transl,
        np.asarray(shape.betas, dtype=np.float32),
        meta=meta,
        **readings,
    )


def _frames(prior: Prior, seconds: float) -> int:
    most = longest_frames(prior)
    frames = round(seconds * RATE) if math.isfinite(seconds) else 0
    if not MIN_FRAMES <= frames <= most:
        raise InputError(
            "seconds", f"{seconds:g}", f"{MIN_FRAMES / RATE:g} to {most / RATE:g}",
            "The prior has seen no other lengths; make several motions.",
        )  # fmt: skip
    return frames


def _shape(person: str, body: Body) -> Shape:
    """The mean shape, or that of a row of Table I."""
    if person == MEAN:
        return Shape(body, np.zeros(BETAS))
    target = next(target for target in BODIES if target.name == person)
    height, weight = target.height_cm / 100, target.weight_kg
    return Shape(body, solve_betas(body, target.gender, height, weight))
