"""The demo's IMU recordings: made-up people who wear seven phones, in RealWorld's archive layout.

They stand in for real recordings of held-out subjects, so they are made by another chain than the
virtual sensors that are tested on them: no body mesh and no fitting. Each phone sits on a bone of
the skeleton, a little off its place, on soft tissue; its signals have noise, bias and clipping, its
stamps are delivery times, and the archive has the original's oddities.
"""

import io
import os
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import torch
from jaxtyping import Float, Int
from scipy.signal import bilinear, lfilter
from scipy.spatial.transform import Rotation

from t2imu_utils.activities import ACTIVITIES
from t2imu_utils.demo.corpus import KINDS
from t2imu_utils.demo.curves import drift, smoothstep
from t2imu_utils.demo.figure import Figure, about, articulate, make_figures
from t2imu_utils.errors import InputError
from t2imu_utils.files import beside
from t2imu_utils.imu.sensors import virtual_imu
from t2imu_utils.motion.resample import resample

FOLDER = "realworld2016_dataset"
FINE_RATE, PHONE_RATE = 150.0, 50.0
RANGE = 19.61  # m/s^2, where the original's accelerometers clip
HANDLED = (5.0, 6.0)  # seconds at both ends in which the phones are still, or again, in the hands
SHORTEST = 20.0
_MARGIN = 1.0
_PERIOD = 0.02002  # seconds a sample in the original's stream
_EPOCH = 1_435_993_159_000  # ms

# What the original archive is known for: (subject, activity) by kind of anomaly.
MISSING_STREAMS = ((2, "climbing up", "forearm"),)
THREE_SESSIONS = ((4, "climbing up"), (4, "climbing down"))
SECOND_IN_NAME = ((4, "walking"), (3, "standing"))


@dataclass(frozen=True)
class _Mount:
    """Where a phone sits: bone frame, share of the way to `end`, and the way outwards.

    The phone's y axis points up the bone and its z axis outwards, as in `imu.sites`.
    """

    frame: int
    end: int | None
    share: float
    outward: tuple[float, float, float]
    depth: float  # from the bone to the phone, m
    lift: float = 0.0  # m
    hertz: float = 14.0  # resonance of the tissue under it


_FRONT, _OUTER = (0.0, 0.0, 1.0), (-1.0, 0.0, 0.0)
_MOUNTS = {
    "head": _Mount(15, None, 0.0, _FRONT, 0.10, lift=0.09, hertz=22.0),
    "chest": _Mount(9, 12, 0.3, _FRONT, 0.13, hertz=15.0),
    "upperarm": _Mount(17, 19, 0.5, _OUTER, 0.05, hertz=12.0),
    "forearm": _Mount(19, 21, 0.5, _OUTER, 0.035, hertz=16.0),
    "waist": _Mount(0, 3, 0.6, _FRONT, 0.13, hertz=11.0),
    "thigh": _Mount(2, 5, 0.5, _FRONT, 0.08, hertz=11.0),
    "shin": _Mount(5, 8, 0.5, _FRONT, 0.05, hertz=18.0),
}


def write_recordings(
    root: Path,
    seed: int = 0,
    subjects: int = 5,
    seconds: float = 33.0,
    activities: Sequence[str] = ACTIVITIES,
) -> Path:
    """Write recordings of eight activities by people whom the motion corpus does not know.

    Args:
        root: folder that will hold ``realworld2016_dataset/proband<n>/data/…``; that folder is
            written whole or not at all, and replaces one of an earlier call.
        seed: of everything.
        subjects: number of people; anomalies are planted for subjects 2, 3 and 4.
        seconds: of every recording, of which about the first 5 and the last 6 are handling.
        activities: which of the eight to write; each is the same whatever the others are.

    Returns:
        The folder ``root / realworld2016_dataset``.
    """
    unknown = sorted(set(activities) - set(ACTIVITIES))
    if unknown:
        raise InputError(
            "write_recordings: activities", ", ".join(unknown), ", ".join(ACTIVITIES), "Check them."
        )
    if subjects < 1 or seconds < SHORTEST:
        raise InputError(
            "write_recordings: subjects, seconds",
            f"{subjects}, {seconds}",
            f"at least 1, at least {SHORTEST}: readers cut off both ends",
            "Ask for longer recordings.",
        )
    folder = Path(root) / FOLDER
    building, old = beside(folder, "tmp"), beside(folder, "old")
    # Other bodies than the corpus's: another stream, a wider range of heights and proportions.
    names = [f"proband{number}" for number in range(1, subjects + 1)]
    figures = make_figures(names, seed + 10_007, (1.5, 1.97), 1.7)
    try:
        for number, figure in enumerate(figures, start=1):
            target = building / figure.name / "data"
            target.mkdir(parents=True)
            phones = _phones(np.random.default_rng((seed, 31, number)))
            for activity in activities:
                rng = np.random.default_rng((seed, 37, number, ACTIVITIES.index(activity)))
                _write_activity(target, rng, figure, phones, number, activity, seconds)
        if folder.exists():
            os.replace(folder, old)
        os.replace(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
    return folder


@dataclass(frozen=True)
class _Phone:
    """One person's phone: how it is mounted and what its sensors do wrong."""

    place: Float[np.ndarray, " 3"]  # from the bone's start in the bone's frame, without the share
    share: float
    turn: Float[np.ndarray, "3 3"]
    damping: float
    acc_bias: Float[np.ndarray, " 3"]
    gyro_bias: Float[np.ndarray, " 3"]
    noise: tuple[float, float]  # m/s^2, rad/s
    gain: float


def _phones(rng: np.random.Generator) -> dict[str, _Phone]:
    phones = {}
    for position, mount in _MOUNTS.items():
        z = np.array(mount.outward)
        y = np.array((0.0, 1.0, 0.0))
        straight = np.stack((np.cross(y, z), y, z), axis=-1)
        askew = Rotation.from_rotvec(np.clip(rng.normal(0, 0.14, 3), -0.35, 0.35)).as_matrix()
        phones[position] = _Phone(
            mount.depth * z + (0, mount.lift, 0) + np.clip(rng.normal(0, 0.012, 3), -0.03, 0.03),
            mount.share + float(rng.uniform(-0.1, 0.1)),
            straight @ askew,
            float(rng.uniform(0.3, 0.5)),
            rng.normal(0, 0.12, 3),
            rng.normal(0, 0.015, 3),
            (float(rng.uniform(0.02, 0.06)), float(rng.uniform(0.004, 0.015))),
            float(rng.normal(1, 0.008)),
        )
    return phones


def _signals(
    rng: np.random.Generator,
    figure: Figure,
    phones: dict[str, _Phone],
    activity: str,
    seconds: float,
) -> dict[str, tuple[Float[np.ndarray, "T 3"], Float[np.ndarray, "T 3"]]]:
    """acc and gyro of every phone at 50 Hz, before noise."""
    margin = round(_MARGIN * FINE_RATE)
    times = (np.arange(round(seconds * FINE_RATE) + 1 + 2 * margin) - margin) / FINE_RATE
    vigour = float(rng.uniform(0.86, 1.2))
    take = KINDS[activity](rng, figure, times, vigour=vigour, plain=True)
    joints, frames = articulate(figure, take.pose)
    begin, end = HANDLED
    held = 1 - smoothstep((times - begin + 1.5) / 1.5) + smoothstep((times - seconds + end) / 1.5)
    wander = np.stack([drift(rng, 1.0, 0.2, 1.5)(times) for _ in range(6)], axis=-1)
    positions, rotations = [], []
    for position, mount in _MOUNTS.items():
        phone, bone = phones[position], frames[:, mount.frame]
        reach = 0.0 if mount.end is None else phone.share * figure.offsets[mount.end]
        where = joints[:, mount.frame] + bone @ (phone.place + reach)
        hand = held[:, None] * (wander @ rng.normal(0, 0.4, (6, 6)))
        positions.append(_on_tissue(where, mount.hertz, phone.damping) + 0.03 * hand[:, :3])
        rotations.append(bone @ phone.turn @ about("XYZ", *(0.4 * hand[:, 3:].T)))
    # Differences, which keep all that is fast: the paths are exact, and a phone's own filter lies
    # higher than what the default scheme lets pass.
    acc, gyro = virtual_imu(
        torch.from_numpy(np.stack(positions)),
        torch.from_numpy(np.stack(rotations)),
        FINE_RATE,
        scheme="central",
    )
    cut = round(_MARGIN * PHONE_RATE)
    both = torch.cat((acc, gyro), dim=-1).numpy().transpose(1, 0, 2)
    slow = resample(both, FINE_RATE, PHONE_RATE)[cut:-cut]
    return {p: (slow[:, i, :3], slow[:, i, 3:]) for i, p in enumerate(_MOUNTS)}


def _on_tissue(
    path: Float[np.ndarray, "T 3"], hertz: float, damping: float
) -> Float[np.ndarray, "T 3"]:
    """A phone that follows its bone through a spring and a damper: it rings after impacts."""
    omega = 2 * np.pi * hertz
    b, a = bilinear([2 * damping * omega, omega**2], [1, 2 * damping * omega, omega**2], FINE_RATE)
    return lfilter(b, a, path - path[0], axis=0) + path[0]


def _write_activity(
    target: Path,
    rng: np.random.Generator,
    figure: Figure,
    phones: dict[str, _Phone],
    number: int,
    activity: str,
    seconds: float,
) -> None:
    """Both archives of one activity, with the original's anomalies."""
    name = activity.replace(" ", "")
    nested = (number, activity) in THREE_SESSIONS
    start = _EPOCH + number * 86_400_000 + ACTIVITIES.index(activity) * 1_200_000
    parts = {"acc": [], "gyr": []}
    for session in (1, 2, 3) if nested else (1,):
        long = max(SHORTEST, 0.62 * seconds) if nested else seconds
        files = _session(rng, figure, phones, activity, long, start + (session - 1) * 240_000)
        index = 2 if (number, activity) in SECOND_IN_NAME else session
        label = f"{name}_{index}" if index > 1 else name
        for kind, prefix in (("acc", "acc"), ("gyr", "Gyroscope")):
            members = {
                f"{prefix}_{label}_{position}.csv": table[kind]
                for position, table in files.items()
                if (number, activity, position) not in MISSING_STREAMS
            }
            parts[kind].append(_packed(members))
    for kind, packed in parts.items():
        path = target / f"{kind}_{name}_csv.zip"
        if not nested:
            path.write_bytes(packed[0])
            continue
        # The original's first inner archive has an index for acc and none for the others.
        first = f"{kind}_{name}_1_csv.zip" if kind == "acc" else f"{kind}_{name}_csv.zip"
        inner = [first, *(f"{kind}_{name}_{i}_csv.zip" for i in (2, 3))]
        path.write_bytes(_zipped(dict(zip(inner, packed, strict=True))))


def _session(
    rng: np.random.Generator,
    figure: Figure,
    phones: dict[str, _Phone],
    activity: str,
    seconds: float,
    start: int,
) -> dict[str, dict[str, bytes]]:
    """CSV files of one session by position and kind of sensor."""
    files = {}
    for position, (acc, gyro) in _signals(rng, figure, phones, activity, seconds).items():
        phone = phones[position]
        acc = phone.gain * acc + phone.acc_bias + rng.normal(0, phone.noise[0], acc.shape)
        gyro = gyro + phone.gyro_bias + rng.normal(0, phone.noise[1], gyro.shape)
        period = _PERIOD * (1 + rng.normal(0, 2e-4))
        offset = rng.uniform(0, 0.25)
        tables = {}
        for kind, signal in (("acc", np.clip(acc, -RANGE, RANGE)), ("gyr", gyro)):
            early, late = rng.integers(0, 8, 2)
            kept = signal[early : len(signal) - late]
            first = start + 1000 * (offset + early * period)
            stamps = _delivery_times(rng, len(kept), period)
            tables[kind] = _csv(np.round(first + 1000 * stamps).astype(np.int64), kept)
        files[position] = tables
    return files


def _delivery_times(
    rng: np.random.Generator, count: int, period: float
) -> Float[np.ndarray, " count"]:
    """When samples taken every `period` seconds arrive: with jitter, and now and then stalled.

    After a stall the waiting samples come in a burst, 3 ms apart, until the stream has caught up.
    """
    stamps = np.arange(count) * period + np.abs(rng.normal(0, 0.0015, count))
    for _ in range(int(rng.integers(0, 3))):
        begin = int(rng.integers(count // 5, 4 * count // 5))
        release = stamps[begin] + rng.uniform(0.35, 1.3)
        waiting = np.arange(count - begin)
        stamps[begin:] = np.maximum(stamps[begin:], release + 0.003 * waiting)
    return np.maximum.accumulate(stamps)


def _csv(stamps: Int[np.ndarray, " T"], signal: Float[np.ndarray, "T 3"]) -> bytes:
    """A stream as the recorder wrote it: milliseconds, no newline at the end."""
    columns = {"id": np.arange(1, len(stamps) + 1), "attr_time": stamps}
    columns |= {f"attr_{axis}": np.round(signal[:, i], 4) for i, axis in enumerate("xyz")}
    sink = io.BytesIO()
    pyarrow.csv.write_csv(pa.table(columns), sink, pyarrow.csv.WriteOptions(include_header=False))
    return ",".join(columns).encode() + b"\n" + sink.getvalue().rstrip(b"\n")


def _packed(members: dict[str, bytes]) -> bytes:
    """CSV files and the list of their numbers of entries that lies beside them."""
    newline = b"\n"
    lines = [f"{name}: {content.count(newline)} entries" for name, content in members.items()]
    return _zipped({**members, "readMe": "\n".join(lines).encode()})


def _zipped(members: dict[str, bytes]) -> bytes:
    """A zip archive whose bytes depend on nothing but its members."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, content in members.items():
            archive.writestr(
                zipfile.ZipInfo(name, (2016, 1, 1, 0, 0, 0)),
                content,
                zipfile.ZIP_STORED if name.endswith(".zip") else zipfile.ZIP_DEFLATED,
                compresslevel=6,
            )
    return sink.getvalue()
