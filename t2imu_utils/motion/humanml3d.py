"""HumanML3D's official folder (Guo et al. 2022): its clips, its index, its texts, what it lacks.

    new_joint_vecs/  new_joints/  texts/  Mean.npy  Std.npy  train.txt val.txt test.txt all.txt
    index.csv        source_path, start_frame, end_frame, new_name: what each clip was cut from

Every clip has a twin, seen in a mirror, whose name has an "M" in front.
"""

import re
from pathlib import Path, PurePosixPath

import pandas as pd

from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.motion.corpus import MotionClip, read_corpus

CLIPS = 14616  # of the whole set, without their twins
LENGTHS = (40, 199)  # fewest and most frames of what the official readers use
HUMANACT12 = "humanact12"  # the one source that is no part of AMASS
NO_INDEX = "not told: no index.csv"

_COLUMNS = ("source_path", "start_frame", "end_frame", "new_name")
_CLIP = re.compile(r"[0-9]{6}")
_LEAVES = re.compile(r"(^|/)\.\.(/|$)|[\\:\0]")  # what leads out of a folder, on any system
_FOLDERS = (
    "BioMotionLab_NTroje DFaust_67 EKUT Eyes_Japan_Dataset HumanEva KIT MPI_HDM05 MPI_Limits "
    "MPI_mosh SFU TotalCapture".split()
)
# Who moves, in the part of the path below the source's folder. Other sources do not tell.
_SUBJECTS = dict.fromkeys(_FOLDERS, r"([^/]+)/") | {
    "ACCAD": r"((?:Female|Male)\d+)",
    "BMLhandball": r"(S\d+)_",
    "BMLmovi": r"(Subject_\d+)_",
    "CMU": r"[^/]+/(\d+)_\d",  # folders such as 18_19_rory hold two people
    "SSM_synced": r"\d+_(\d+)/",
    "Transitions_mocap": r"([^/]+)_c3d/",
    HUMANACT12: r"(?:.*/)?(P\d+)G\d",
}


def read_humanml3d(root: Path, split: str, skipped: list[Skipped]) -> list[MotionClip]:
    """The clips of one split as the official readers use them: 40 to 199 frames, also when cut.

    `source` is the recording's path in ``index.csv``, shared by all that is cut from it and by the
    twins; `subject` is its source and person, such as ``"CMU/80"``, where the path tells.

    Args:
        root: the official folder, or one that `tools.build_humanml3d` built.
        skipped: clips and sentences that are left out are appended here, with the reason.
    """
    root = Path(root)
    facts: dict[str, tuple[str, str, str]] = {}
    faults: list[Skipped] = []
    if (root / "index.csv").exists():
        for row in read_index(root / "index.csv", faults).itertuples(index=False):
            facts[row.name] = facts[f"M{row.name}"] = (subject_of(row.path), "", row.source_path)
    else:
        faults.append(Skipped(str(root / "index.csv"), "no file: nothing tells source and subject"))
    # The same index serves every split.
    skipped += [fault for fault in faults if fault not in skipped]
    return read_corpus(root, split, skipped, LENGTHS, facts or None)


def read_index(path: Path, skipped: list[Skipped]) -> pd.DataFrame:
    """The rows of ``index.csv``: name, source_path, path, subset, start, end.

    `path` is the recording's below ``pose_data``, checked to stay there; `subset` its first folder;
    `start` and `end` are frames at 20 a second. Rows at fault are left out and told.
    """
    path = Path(path)
    remedy = "Take index.csv from HumanML3D's repository."
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(path, "no file", "HumanML3D's index", remedy) from error
    except (OSError, ValueError) as error:  # of decoding and of parsing as well
        raise InputError(path, f"no table ({error})", "HumanML3D's index", remedy) from error
    if missing := [column for column in _COLUMNS if column not in table.columns]:
        found = f"no column {', '.join(missing)}"
        raise InputError(path, found, f"columns {', '.join(_COLUMNS)}", remedy)
    rows, seen = [], set()
    for number, row in enumerate(table[list(_COLUMNS)].itertuples(index=False), start=2):
        name = row.new_name.removesuffix(".npy")
        inner = PurePosixPath(row.source_path.removeprefix("./")).parts
        reason = ""
        if not _CLIP.fullmatch(name):
            reason = f"new_name {row.new_name!r} is not six digits and .npy"
        elif name in seen:
            reason = f"new_name {row.new_name!r} stands twice"
        elif inner[:1] != ("pose_data",) or len(inner) < 3 or _LEAVES.search(row.source_path):
            reason = f"source_path {row.source_path!r} is not below pose_data"
        elif not inner[-1].endswith(".npy"):
            reason = f"source_path {row.source_path!r} is no .npy"
        elif not all(re.fullmatch(r"-?\d{1,9}", f) for f in (row.start_frame, row.end_frame)):
            reason = f"frames {row.start_frame!r} to {row.end_frame!r} are no whole numbers"
        if reason:
            skipped.append(Skipped(f"{path}: line {number}", f"faulty index row: {reason}"))
            continue
        seen.add(name)
        frames = (int(row.start_frame), int(row.end_frame))
        rows.append((name, row.source_path, "/".join(inner[1:]), inner[1], *frames))
    return pd.DataFrame(rows, columns=["name", "source_path", "path", "subset", "start", "end"])


def subject_of(path: str) -> str:
    """Source and person of a path in the index, such as ``"CMU/80"``; "" where it does not tell."""
    subset, _, rest = path.removeprefix("./").removeprefix("pose_data/").partition("/")
    match = re.match(_SUBJECTS.get(subset, r"(?!)"), rest)
    return f"{subset}/{match[1]}" if match else ""


def integrity(root: Path) -> pd.DataFrame:
    """What of HumanML3D is in a folder: a row for each source, and one for all.

    Columns: source; clips (listed in the index), texts and features (there, not empty), missing
    (clips without one of the two), and the same for the twins. Files are counted, not read:
    `read_humanml3d` tells which of them cannot be used. Without an index there is one row, for the
    14,616 clips of the whole set.
    """
    path = root / "index.csv"
    texts, features = _names(root / "texts", ".txt"), _names(root / "new_joint_vecs", ".npy")
    there = {name.removeprefix("M") for name in texts | features}
    counts = [(NO_INDEX, max(CLIPS, len(there)), there)]
    if path.exists():
        faults: list[Skipped] = []
        listed = read_index(path, faults)
        counts = [(s, len(names), set(names)) for s, names in listed.groupby("subset")["name"]]
        counts += [("faulty rows of the index", len(faults), set())] if faults else []
        stray = there - set(listed["name"])
        counts += [("not in the index", len(stray), stray)] if stray else []
    rows = []
    for source, clips, names in counts:
        row: list[str | int] = [source, clips]
        for twin in ("", "M"):
            both = [({f"{twin}{name}" for name in names} & have) for have in (texts, features)]
            row += [len(both[0]), len(both[1]), clips - len(both[0] & both[1])]
        rows.append(row)
    columns = ["source", "clips", "texts", "features", "missing"]
    columns += ["mirrored texts", "mirrored features", "mirrored missing"]
    table = pd.DataFrame(rows, columns=columns)
    total = pd.DataFrame([{"source": "all", **table.drop(columns="source").sum()}])
    return pd.concat([table, total], ignore_index=True)


def _names(folder: Path, suffix: str) -> set[str]:
    """Names of the files of one kind that hold anything."""
    return {p.stem for p in folder.glob(f"*{suffix}") if p.stat().st_size}
