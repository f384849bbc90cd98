"""One sentence to one motion, and to what nine inertial sensors on a body would measure.

What notebooks 03 and 04 do for many, for one, with the prior that the project ships: on one thread
of a CPU, in seconds, without a network. The same request gives the same motion.
"""

import json
import math
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from t2imu_utils.body.fitting import fit, pose_body
from t2imu_utils.body.smpl import load_body
from t2imu_utils.body.table1 import MEAN, PEOPLE, shape_of
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.files import output_file, sha256
from t2imu_utils.imu.sensors import CHANNELS, DEFAULT, GRAVITY, UNITS, synthesise, write_readings
from t2imu_utils.imu.sites import sensor_sites
from t2imu_utils.models.diffusion import Solver
from t2imu_utils.models.generator import check_requests
from t2imu_utils.models.mdm import generate, load_prior, longest_frames
from t2imu_utils.models.text import TextEncoder
from t2imu_utils.motion.features import MIN_FRAMES, RATE, features_to_joints
from t2imu_utils.motion.quality import ACTIVITIES, faults, shows
from t2imu_utils.runs import one_thread, provenance
from t2imu_utils.tracks import OPEN_PRIOR

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOLVER = "sde-dpm++2m"
SEEDS = 2**32  # torch's generator on a CPU reads no more bits
GUIDANCE = 1.5  # of the shipped prior, by the validation prompts of held_out.yaml
GUIDANCES = (0.0, 25.0)  # beyond, a motion is nothing but its overshoot
PICTURE_LIMIT = 600_000  # bytes
# Cosine to the nearest training sentence below which a prompt is far from all. Of 200 prompts of
# held_out.yaml 193 lie above; French, German, swimming, eating and cycling below; but crawling and
# climbing a rope, never seen either, above.
FAR = 0.5
SAMPLES = 4  # a motion with faults is sampled again three times,
STRIDE = 1_000_003  # with seeds this far apart
SHOWN_BY = {"sit down": "sitting", "stand up": "sitting", "lie down": "lying", "get up": "lying"}


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
        meta: what it was made with; JSON-able. `activity` is what the sentence asks for, as far as
            the prior's training sentences tell; `rejected` how many samples had faults before.
        warnings: what is wrong with the motion or the prompt, in words; none if all is well.
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
    warnings: tuple[str, ...] = ()
    fps: float = RATE

    def save(self, path: Path) -> Path:
        """Write an ``.npz`` without pickles: a field an array, ``meta`` as JSON in a string."""
        fields = {name: value for name, value in vars(self).items() if value is not None}
        fields["meta"] = json.dumps(
            self.meta | {"warnings": fields.pop("warnings")}, sort_keys=True
        )
        if self.acc is None:
            del fields["sites"]
        else:
            fields |= {"channels": CHANNELS, "units": UNITS}
        fields = {name: np.asarray(value) for name, value in fields.items()}
        return write_readings(output_file(path, ".npz", force=True), fields)

    def picture(self) -> "Figure":
        """A film strip of the motion, over the signals of its sensors if it has any."""
        import matplotlib.pyplot as plt  # slower to import than a motion is made

        from t2imu_utils import pictures, style

        title = textwrap.fill(self.prompt, 110).replace("$", r"\$")  # no formula
        with plt.rc_context():
            style.use()
            if self.acc is None:
                return pictures.film_strip({title: self.joints}, fps=self.fps)
            signals = {"acceleration (m/s²)": self.acc, "angular velocity (rad/s)": self.gyro}
            return pictures.motion_with_signals(title, self.joints, signals, self.sites, self.fps)

    def draw(self, path: Path) -> Path:
        from t2imu_utils import plots

        return plots.save(self.picture(), output_file(path, ".png", force=True), PICTURE_LIMIT)


def generate_motion(
    prompt: str,
    seconds: float = 6.0,
    seed: int = 0,
    prior: Path = OPEN_PRIOR,
    person: str = MEAN,
    imu: bool = True,
    guidance: float = GUIDANCE,
    solver: Solver | None = None,
    strict: bool = False,
) -> GeneratedMotion:
    """A motion of a sentence, the pose of a body in it, and the readings of nine virtual IMUs.

    Args:
        seconds: length, at 20 frames a second.
        prior: a file of `models.mdm`.
        person: one of `PEOPLE`: the open body's mean shape, or a body of Table I.
        imu: whether to make the sensors.
        guidance: scale of the text; 1 is none, 2.5 is that of MDM's authors for theirs.
        solver: None takes 10 evaluations of `SOLVER`.
        strict: whether a warning is an error.

    A motion with `faults`, or one that does not show the activity, is sampled again with another
    seed, `SAMPLES` times in all; the best is returned, with a warning if it has faults still.

    Raises:
        InputError: what cannot be asked for; a motion that is not finite; with `strict`, any
            warning.
    """
    # Bytes of a command line that are no UTF-8 arrive as lone surrogates.
    sentence = bool(prompt.strip()) and prompt == prompt.encode("utf-8", "ignore").decode()
    low, high = GUIDANCES
    for field, right, found, expected in (
        ("seed", 0 <= seed < SEEDS, str(seed), "0 or more, below 2³²"),
        ("seconds", math.isfinite(seconds), str(seconds), "a number"),
        ("guidance", low <= guidance <= high, f"{guidance:g}", f"{low:g} to {high:g}"),
        ("person", person in PEOPLE, repr(person), f"one of {', '.join(PEOPLE)}"),
        ("prompt", sentence, ascii(prompt), 'a sentence, such as "a person walks"'),
    ):
        if not right:
            raise InputError(field, found, expected, "Choose another.")
    prior, solver, warnings = Path(prior), solver or Solver(SOLVER), []

    def warn(field: str, words: str, expected: str, remedy: str) -> None:
        if strict:
            raise InputError(field, words, expected, remedy)
        warnings.append(words)

    with one_thread():
        model = load_prior(prior)
        frames, most = round(seconds * RATE), longest_frames(model)
        if not MIN_FRAMES <= frames <= most:
            raise InputError(
                "seconds", f"{seconds:g}", f"{MIN_FRAMES / RATE:g} to {most / RATE:g}",
                "The prior has seen no other lengths; make several motions.",
            )  # fmt: skip
        check_requests(model, [prompt], [frames], [seed], 1)
        activity, similarity = asked_for(prompt, model.text_encoder, prior)
        if similarity < FAR:
            told = f"{prompt!r} is unlike every sentence that the prior was trained on"
            told += f" (similarity {similarity:.2f}): the motion may be anything"
            warn("prompt", told, f"at least {FAR}", "Say it otherwise.")
        samples = []
        for number in [(seed + k * STRIDE) % SEEDS for k in range(SAMPLES)]:
            features = generate(
                model, [prompt], [frames], [number], guidance, 1, "cpu", False, solver
            )[0]
            joints = features_to_joints(features, model.velocity_weight)
            wrong = wrong_with(joints, activity)
            samples.append((number, features, joints, wrong))
            if not wrong:
                break
        used_seed, features, joints, wrong = min(
            samples, key=lambda sample: math.inf if "not finite" in sample[3] else len(sample[3])
        )
        if "not finite" in wrong:
            raise InputError(
                "motion", "values that are no motion's", "finite joints", "Lower the guidance."
            )
        if wrong:
            told = f"the best of {len(samples)} samples is implausible: {wrong}"
            warn("motion", told, "none of it", "Try another seed.")
        body = load_body()
        shape = shape_of(person, body)
        fits = fit(
            Clips.from_list([{"name": prompt}], {"joints": [joints]}, {"rate": RATE}), body,
            progress=False,
        )  # fmt: skip
        readings: dict[str, Any] = {"acc": None, "gyro": None, "sites": ()}
        if imu:
            virtual = synthesise(fits, body, {person: shape}, sensor_sites(body), progress=False)
            readings = virtual[0] | {"sites": tuple(virtual.meta["sites"])}
        transl = pose_body(fits, body, shape)
    meta = {
        "prior": prior.name,
        "prior_sha256": sha256(prior),
        "text_encoder": model.text_encoder.name,
        "guidance": guidance,
        "solver": {"name": solver.name, "evaluations": solver.count(model.config.diffusion_steps)},
        "activity": activity,
        "similarity": round(similarity, 3),
        "seed": used_seed,
        "rejected": len(samples) - (not wrong),
        "person": person,
        "body": body.path.name,
        "joint_error_mm": round(1000 * float(fits.arrays["joint_error"].mean()), 2),
        "gravity": GRAVITY,
        "differentiation": DEFAULT,
        "world": "metres, Y up, starting with the face to +Z",
        "versions": provenance()["versions"],
    }
    pose = (fits.arrays["global_orient"], fits.arrays["body_pose"], transl)
    arrays = features, joints.astype(np.float32), *pose, shape.betas.astype(np.float32)
    return GeneratedMotion(prompt, seed, *arrays, meta=meta, warnings=tuple(warnings), **readings)


def asked_for(prompt: str, encoder: TextEncoder, prior: Path) -> tuple[str | None, float]:
    """What a prompt asks for: the activity of its nearest training sentences (None for one that
    `motion.quality` has no rules for), and the cosine to the nearest of them.

    The file ``….prompts.npz`` beside a prior holds unit embeddings of sentences that it was trained
    on, and their activities; three of five neighbours must agree on one. Without it: (None, 1).
    """
    known = prior.with_suffix(".prompts.npz")
    if not known.is_file():
        return None, 1.0
    with np.load(known) as arrays:
        embeddings, activities = arrays["embeddings"].astype(np.float32), arrays["activities"]
    vector = encoder.encode_pooled([prompt])[0].numpy()
    cosines = embeddings @ (vector / np.linalg.norm(vector))
    nearest = np.argsort(-cosines)[:5]
    shown = [SHOWN_BY.get(name, name) for name in activities[nearest].tolist()]
    activity, count = Counter(shown).most_common(1)[0]
    sure = count >= 3 and activity in ACTIVITIES
    return activity if sure else None, float(cosines[nearest[0]])


def wrong_with(joints: Float[np.ndarray, "T 22 3"], activity: str | None) -> dict[str, Any]:
    """`faults` of a motion, and whether it shows its activity; empty for a good one."""
    wrong = {name: round(value, 3) for name, value in faults(joints, activity).items()}
    if not wrong and activity and not shows(joints, activity):
        wrong["does not show"] = activity
    return wrong
