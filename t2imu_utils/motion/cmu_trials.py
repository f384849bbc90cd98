"""Trials of the CMU Graphics Lab motion capture database: where their files are, and their joints.

Finds ``NN/NN_TT.bvh`` (B. Hahne's BVH release) and ``NN/NN.asf`` with ``NN_TT.amc`` (the original)
in zip archives, read in place, or in unpacked folders, and maps both forms onto the 22 joints.
"""

import re
import zipfile
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.motion.asfamc import bone_positions, parse_amc, parse_asf
from t2imu_utils.motion.bvh import joint_positions, parse_bvh
from t2imu_utils.motion.skeleton import both_sides, weighted_joints

FORMS = ("amc", "bvh")  # the first is preferred: less foot skating, the subject's own bones
AMC_RATE = 120.0  # Hz; AMC files do not tell
METRES_PER_BVH_UNIT = 0.01

_MEMBER = re.compile(r"(?:^|/)(?:(?P<trial>\d+_\d+)\.(?P<form>bvh|amc)|(?P<subject>\d+)\.asf)$")
MAX_BYTES = 2**28  # of one member: a guard against archives that explode


# Each of the 22 joints as a weighted mean of joints (BVH) or bone ends (ASF). The BVH hip lies
# below the thighs, so the pelvis is set 0.45 of the way from their middle to the abdomen.
JOINTS_FROM_BVH = both_sides(
    {
        "pelvis": {"lThigh": 0.275, "rThigh": 0.275, "abdomen": 0.45},
        "spine1": {"abdomen": 1},
        "spine2": {"abdomen": 0.5, "chest": 0.5},
        "spine3": {"chest": 1},
        "neck": {"neck": 1},
        "head": {"head": 1},
    },
    {
        "hip": {"<>Thigh": 1},
        "knee": {"<>Shin": 1},
        "ankle": {"<>Foot": 1},
        "foot": {"<>Foot.end": 1},
        "collar": {"<>Collar": 1},
        "shoulder": {"<>Shldr": 1},
        "elbow": {"<>ForeArm": 1},
        "wrist": {"<>Hand": 1},
    },
)
JOINTS_FROM_ASF = both_sides(
    {
        "pelvis": {"root": 1},
        "spine1": {"lowerback": 1},
        "spine2": {"lowerback": 0.5, "upperback": 0.5},
        "spine3": {"upperback": 1},
        "neck": {"lowerneck": 1},
        "head": {"upperneck": 1},
    },
    {
        "hip": {"<>hipjoint": 1},
        "knee": {"<>femur": 1},
        "ankle": {"<>tibia": 1},
        "foot": {"<>foot": 1},
        "collar": {"thorax": 0.7, "<>clavicle": 0.3},
        "shoulder": {"<>clavicle": 1},
        "elbow": {"<>humerus": 1},
        "wrist": {"<>radius": 1},
    },
)


@dataclass(frozen=True)
class Source:
    """A file of the database: `member` of the archive `path`, or the file `path` itself."""

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    def read(self) -> str:
        """The text of the file, never written to disk."""
        if self.member is None:
            return self.path.read_text(encoding="utf-8", errors="replace")
        try:
            with zipfile.ZipFile(self.path) as archive:
                if archive.getinfo(self.member).file_size > MAX_BYTES:
                    raise InputError(
                        self, "more than 256 MB", "a motion capture file", "Leave it out."
                    )
                return archive.read(self.member).decode("utf-8", errors="replace")
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise InputError(
                self, f"a damaged archive ({error})", "a whole zip", "Fetch it again."
            ) from error


@dataclass
class Sources:
    """What a folder holds: trial → form → file, and subject → skeleton file."""

    trials: dict[str, dict[str, Source]] = field(default_factory=lambda: defaultdict(dict))
    skeletons: dict[str, Source] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)


def find_sources(folder: Path) -> Sources:
    """List BVH, AMC and ASF files below a folder and in its zip archives.

    Names are matched by pattern and never used as paths. Of a file that is there twice the first is
    taken (unpacked before zipped); the others are listed as skipped.
    """
    found = [Source(path) for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in sorted(folder.glob("*.zip")):
        try:
            with zipfile.ZipFile(path) as archive:
                found += [Source(path, name) for name in sorted(archive.namelist())]
        except zipfile.BadZipFile as error:
            raise InputError(
                path, f"no zip archive ({error})", "a zip", "Fetch it again."
            ) from error
    sources = Sources()
    for source in found:
        match = _MEMBER.search(source.member or source.path.as_posix())
        if not match:
            continue
        if match["subject"]:
            place, key = sources.skeletons, match["subject"]
        else:
            place, key = sources.trials[match["trial"]], match["form"]
        if key in place:
            sources.skipped.append(Skipped(str(source), f"already read from {place[key]}"))
        else:
            place[key] = source
    if not sources.trials:
        raise InputError(
            folder,
            "no motion capture file",
            "archives or folders with NN/NN_TT.bvh or NN/NN.asf and NN/NN_TT.amc",
            "Set T2IMU_DATA to the folder that holds cmu/.",
        )
    return sources


@dataclass(frozen=True)
class Recording:
    """A trial as recorded: joints in metres, Y up, and frames a second."""

    trial: str
    form: str
    joints: Float[np.ndarray, "T 22 3"]
    rate: float


def read_trial(sources: Sources, trial: str, form: str) -> Recording:
    """Read one trial in one form and map it onto the 22 joints.

    Raises:
        InputError: the file, or for AMC the subject's skeleton, is missing or damaged.
    """
    source = sources.trials.get(trial, {}).get(form)
    if source is None:
        raise InputError(f"CMU trial {trial}", f"no {form} file", "one", "Check the archives.")
    if form == "bvh":
        bvh = parse_bvh(source.read(), str(source))
        joints = weighted_joints(JOINTS_FROM_BVH, lambda names: joint_positions(bvh, names))
        return Recording(trial, form, METRES_PER_BVH_UNIT * joints, bvh.rate)
    subject = subject_of(trial)
    if subject not in sources.skeletons:
        raise InputError(str(source), f"no {subject}.asf", "the subject's skeleton", "Fetch it.")
    skeleton_source = sources.skeletons[subject]
    skeleton = parse_asf(skeleton_source.read(), str(skeleton_source))
    motion = parse_amc(source.read(), skeleton, str(source))
    joints = weighted_joints(JOINTS_FROM_ASF, lambda names: bone_positions(skeleton, motion, names))
    return Recording(trial, form, joints, AMC_RATE)


def subject_of(trial: str) -> str:
    """``"05"`` of ``"05_16"``."""
    return trial.partition("_")[0]


def trial_order(trial: str) -> tuple[int, int]:
    """Sorting key: by subject, then by number."""
    subject, _, number = trial.partition("_")
    return int(subject), int(number)
