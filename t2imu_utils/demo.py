"""The demo track's data, sampled by the shipped prior: stand-ins for HumanML3D and RealWorld.

Nothing here is a recording. The corpus is what the prior (`tracks.OPEN_PRIOR`) makes of the
sentences of ``data/prompts/demo.yaml``. The recordings are other samples, of other sentences: on
bodies drawn from the body model's own distribution, under virtual sensors and the model of a phone
that is worn askew, in RealWorld's layout. A prior does not do all that it is asked for, so a motion
is kept only where plain rules find the activity in it (`motion.quality.shows`): classes have fewer
motions then, rather than false ones.
"""

import io
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import yaml
from jaxtyping import Float

from t2imu_utils.activities import ACTIVITIES, POSITIONS
from t2imu_utils.body.fitting import fit
from t2imu_utils.body.smpl import Shape, load_body
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.files import beside
from t2imu_utils.imu.phone import measured, read_sensor_model
from t2imu_utils.imu.sensors import synthesise
from t2imu_utils.imu.sites import sensor_sites
from t2imu_utils.models.diffusion import Solver
from t2imu_utils.models.mdm import MDMGenerator, load_prior
from t2imu_utils.models.prompts import draw_requests
from t2imu_utils.motion import quality
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.motion.features import process_joints, processed_to_features
from t2imu_utils.motion.skeleton import resample
from t2imu_utils.runs import ROOT, one_thread
from t2imu_utils.tracks import OPEN_PRIOR

SENTENCES = ROOT / "data" / "prompts" / "demo.yaml"
SPLITS = ("train", "val", "test")
SOLVER, BATCH = Solver("sde-dpm++2m", 10), 32
SECONDS, BOUT = (3.0, 6.0), (6.0, 6.0)  # of a clip of the corpus, of a recording

FOLDER = "realworld2016_dataset"
PHONE_RATE = 50.0
PERIOD = 0.02002  # seconds a sample in RealWorld's streams
EPOCH = 1_435_993_159_000  # ms
HANDLED = (6.0, 7.0)  # seconds at both ends in which RealWorld's phones are still in the hands
# As in the original, one phone of one session is missing.
MISSING = ("proband2", "walking", 2, "forearm")


def build_corpus(
    seed: int = 0, takes: int = 3
) -> tuple[list[MotionClip], dict[str, list[str]], list[Skipped]]:
    """Sampled clips of 3 to 6 s with two sentences each, every sentence asked for `takes` motions.

    Features are those of the joints as they are read from the sample, so that positions and
    velocities agree as in a recording.

    Returns:
        the clips; names of clips by split, each with sentences of its own; motions that were left
        out because they do not show their activity.
    """
    written = yaml.safe_load(SENTENCES.read_text(encoding="utf-8"))
    pairs = [(s, a, pair) for s in SPLITS for a, two in written[s].items() for pair in two]
    asked: dict[str, list[str]] = {}
    for _, activity, (sentence, _) in pairs:
        asked.setdefault(activity, []).append(sentence)
    found = {pair[0]: (split, pair) for split, _, pair in pairs}
    motions, skipped = sample(asked, takes, SECONDS, seed)
    clips: list[MotionClip] = []
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    for row, joints in zip(motions.table.itertuples(), motions.each("joints"), strict=True):
        split, captions = found[row.prompt]
        features = processed_to_features(joints, convention="clean")
        name, source = f"{row.motion:06d}", f"sample {row.motion}"
        clips.append(MotionClip(name, features, list(captions), "prior", row.activity, source))
        splits[split].append(name)
    return clips, splits, skipped


def sample(
    sentences: dict[str, list[str]], takes: int, seconds: tuple[float, float], seed: int
) -> tuple[Clips, list[Skipped]]:
    """Motions of the shipped prior that show the activity of their sentence.

    Returns:
        ``joints`` (F, 22, 3) in HumanML3D's frame (lowest point at y = 0), 20 frames a second, with
        the columns of `draw_requests` and ``motion``; and a reason for each that was left out.
    """
    requests = draw_requests(sentences, takes, seconds, quality.RATE, seed)
    with one_thread():  # the same numbers however many cores there are
        prior = load_prior(OPEN_PRIOR)
        motions = MDMGenerator(SOLVER).sample(prior, requests, None, BATCH, progress=False)
    joints = [process_joints(each, convention="clean") for each in motions.each("joints")]
    activities = motions.table["activity"]
    shown = [
        activity not in quality.ACTIVITIES or quality.shows(motion, activity)
        for motion, activity in zip(joints, activities, strict=True)
    ]
    skipped = [
        Skipped(f"sample {row.motion}", f"{row.prompt!r} does not show {row.activity}")
        for row, good in zip(motions.table.itertuples(), shown, strict=True)
        if not good
    ]
    rows = motions.table.drop(columns="frames").to_dict("records")
    return Clips.from_list(rows, {"joints": joints}, motions.meta).select(np.array(shown)), skipped


def write_recordings(
    root: Path, seed: int = 0, subjects: int = 5, activities: Sequence[str] = ACTIVITIES
) -> tuple[Path, list[Skipped]]:
    """Write simulated recordings of people whom the corpus does not have: the folder
    ``root / realworld2016_dataset``, and the motions that were left out.

    Every motion is a session of its own, of 6 s between what readers cut away at both ends. The
    folder is written whole or not at all, and replaces an earlier one; the same bytes for the same
    seed.
    """
    written = yaml.safe_load(SENTENCES.read_text(encoding="utf-8"))["recordings"]
    if unknown := sorted(set(activities) - set(written)):
        raise InputError(
            "write_recordings: activities", ", ".join(unknown), ", ".join(written), "Check them."
        )
    asked = {activity: written[activity] for activity in activities}
    motions, skipped = sample(asked, subjects, BOUT, seed + 1)
    folder = Path(root) / FOLDER
    building = beside(folder, "tmp")
    try:
        for recording in _recorded(motions, seed).items():
            _write_sessions(building, *recording, seed)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder, skipped


def _recorded(motions: Clips, seed: int) -> dict[tuple[str, str], list[np.ndarray]]:
    """What a person's phones measure: (T, 7, 6) of each session, m/s² and rad/s at 50 Hz, by
    person and activity. Every session has its own errors of the sensors and of how they sit."""
    body = load_body()
    sites = sensor_sites(body, POSITIONS)
    phone = read_sensor_model("phone")
    rng = np.random.default_rng((seed, 2))
    with one_thread():
        fits = fit(motions, body, progress=False)
    sessions: dict[tuple[str, str], list[np.ndarray]] = {}
    for turn in range(motions.table["repetition"].max() + 1):
        gender = ("female", "male")[turn % 2]
        betas = rng.multivariate_normal(body.betas_mean[gender], body.betas_cov[gender])
        person = {f"proband{turn + 1}": Shape(body, betas.clip(-2, 2))}
        own = fits.select((motions.table["repetition"] == turn).to_numpy())
        with one_thread():
            ideal = synthesise(own, body, person, sites, progress=False)
        fine = {
            name: [resample(x, ideal.meta["rate"], PHONE_RATE) for x in ideal.each(name)]
            for name in ("acc", "gyro")
        }
        rows = ideal.table.drop(columns="frames").to_dict("records")
        real = measured(Clips.from_list(rows, fine, {**ideal.meta, "rate": PHONE_RATE}), phone)
        for row, acc, gyro in zip(rows, real.each("acc"), real.each("gyro"), strict=True):
            both = np.concatenate((acc, gyro), axis=-1)
            sessions.setdefault((row["body"], row["activity"]), []).append(both)
    return sessions


def _write_sessions(
    root: Path, who: tuple[str, str], sessions: Sequence[np.ndarray], seed: int
) -> None:
    """Both archives of one person and activity; of several sessions each is an archive within."""
    person, activity = who
    name, target = activity.replace(" ", ""), root / person / "data"
    target.mkdir(parents=True, exist_ok=True)
    number = int(person.removeprefix("proband"))
    day = EPOCH + number * 86_400_000 + ACTIVITIES.index(activity) * 1_200_000
    rng = np.random.default_rng((seed, 3, number, ACTIVITIES.index(activity)))
    # Filler for what is cut away: the session runs backwards before it begins and after its end.
    ends = [round(seconds * PHONE_RATE) for seconds in HANDLED]
    for kind, prefix, channels in (("acc", "acc", slice(0, 3)), ("gyr", "Gyroscope", slice(3, 6))):
        packed = {}
        for index, signals in enumerate(sessions, start=1):
            label = name if index == 1 else f"{name}_{index}"
            whole = np.pad(signals[..., channels], (ends, (0, 0), (0, 0)), mode="symmetric")
            members = {
                f"{prefix}_{label}_{position}.csv": _stream(
                    rng, whole[:, site], day + index * 100_000
                )
                for site, position in enumerate(POSITIONS)
                if (person, activity, index, position) != MISSING
            }
            counts = [f"{file}: {len(whole)} entries" for file in members]
            packed[f"{kind}_{label}_csv.zip"] = _zipped(members | {"readMe": "\n".join(counts)})
        path = target / f"{kind}_{name}_csv.zip"
        path.write_bytes(packed[path.name] if len(packed) == 1 else _zipped(packed))


def _stream(rng: np.random.Generator, signal: Float[np.ndarray, "T 3"], start: int) -> bytes:
    """A sensor's CSV as RealWorld's recorder wrote it: the time of delivery in ms, six digits.

    Samples arrive with jitter, and now and then none does: those that wait come in a burst, 3 ms
    apart, until the stream has caught up.
    """
    count = len(signal)
    stamps = rng.uniform(0, 0.25) + np.arange(count) * PERIOD
    stamps += np.abs(rng.normal(0, 0.0015, count))
    for _ in range(int(rng.integers(0, 3))):
        begin = int(rng.integers(count // 5, 4 * count // 5))
        release = stamps[begin] + rng.uniform(0.35, 1.3)
        stamps[begin:] = np.maximum(stamps[begin:], release + 0.003 * np.arange(count - begin))
    stamps = np.round(start + 1000 * np.maximum.accumulate(stamps)).astype(np.int64)
    columns = {"id": np.arange(1, count + 1), "attr_time": stamps}
    columns |= {f"attr_{axis}": np.round(signal[:, i], 6) for i, axis in enumerate("xyz")}
    sink = io.BytesIO()
    pyarrow.csv.write_csv(pa.table(columns), sink, pyarrow.csv.WriteOptions(include_header=False))
    return ",".join(columns).encode() + b"\n" + sink.getvalue().rstrip(b"\n")


def _zipped(members: dict[str, bytes | str]) -> bytes:
    """A zip archive whose bytes depend on nothing but its members."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name, (2016, 1, 1, 0, 0, 0))
            archive.writestr(info, content, zipfile.ZIP_DEFLATED, compresslevel=6)
    return sink.getvalue()
