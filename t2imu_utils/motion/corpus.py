"""A text-motion corpus in HumanML3D's own layout on disk, and its statistics.

    new_joint_vecs/<name>.npy   (T, 263) features, float32
    new_joints/<name>.npy       (T, 22, 3) joints recovered from them, metres
    texts/<name>.txt            one sentence a line: ``sentence#word/TAG word/TAG#start#end``
    Mean.npy  Std.npy           (263,) of the train split
    train.txt val.txt test.txt  names of clips, one a line; all.txt and any other split likewise
    clips.csv                   name, subject, activity, source: this project's own, may be absent

`start` and `end` are seconds; ``0.0#0.0`` is the whole clip.
"""

import math
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.files import beside
from t2imu_utils.motion.features import (
    MIN_FRAMES,
    RATE,
    Normaliser,
    check_features,
    features_to_joints,
    statistics,
)

COLUMNS = ("name", "subject", "activity", "source")
_SWAPPED_WORD = re.compile(
    r"\b(left|right)(?=\b|ward|hand|side|most|foot)"
    r"|\b((?:counter|anti)[- ]?clockwise|clockwise)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, eq=False)
class MotionClip:
    """A motion with its sentences.

    Attributes:
        features: (T, 263) HumanML3D features, float32, not normalised, 20 frames a second.
        captions: one or more sentences, all of them on the whole clip.
        subject: who moves; "" where unknown, as are `activity` and `source` (the recording).
    """

    name: str
    features: Float[np.ndarray, "T 263"]
    captions: list[str]
    subject: str = ""
    activity: str = ""
    source: str = ""


def mirror_caption(caption: str) -> str:
    """Swap left and right, clockwise and counterclockwise, as HumanML3D does (word by word)."""
    twins = {"left": "right", "right": "left", "clockwise": "counterclockwise"}

    def swap(match: re.Match[str]) -> str:
        word = match[0]
        twin = twins.get(word.lower(), "clockwise")
        if word.isupper():
            return twin.upper()
        return twin.capitalize() if word[0].isupper() else twin

    return _SWAPPED_WORD.sub(swap, caption)


def write_corpus(
    root: Path, clips: Sequence[MotionClip], splits: dict[str, list[str]]
) -> Normaliser:
    """Write a corpus, all of it or nothing; return its statistics.

    The folder is built beside `root` and renamed at the end. A corpus that this function wrote
    before is replaced; any other folder with something in it is not.

    Args:
        splits: names of clips by split; needs "train". "all" is added where it is missing.

    Raises:
        InputError: a name twice, a split that names no clip, or a clip of "train" in "val" or a
            "test…" split as well.
    """
    root = Path(root)
    splits = {"all": [clip.name for clip in clips], **splits}
    _check(splits)
    if root.exists() and not (root / "clips.csv").exists() and any(root.iterdir()):
        expected = "no folder, or a corpus written by this project"
        raise InputError(root, "a folder with other content", expected, "Choose another folder.")
    train = set(splits["train"])
    mean, std = statistics([clip.features for clip in clips if clip.name in train])
    root.parent.mkdir(parents=True, exist_ok=True)
    building, old = beside(root, "tmp"), beside(root, "old")
    try:
        for folder in ("new_joint_vecs", "new_joints", "texts"):
            (building / folder).mkdir(parents=True)
        for clip in clips:
            features = clip.features.astype(np.float32)
            np.save(building / "new_joint_vecs" / f"{clip.name}.npy", features)
            np.save(building / "new_joints" / f"{clip.name}.npy", features_to_joints(features))
            lines = []
            for caption in clip.captions:
                # HumanML3D's readers know the tag OTHER, so no tagger is needed for them.
                tagged = " ".join(f"{w}/OTHER" for w in re.findall(r"\w+", caption.lower()))
                lines.append(f"{caption}#{tagged}#0.0#0.0\n")
            (building / "texts" / f"{clip.name}.txt").write_text("".join(lines), encoding="utf-8")
        for split, names in splits.items():
            (building / f"{split}.txt").write_text("".join(f"{n}\n" for n in names), "utf-8")
        np.save(building / "Mean.npy", mean)
        np.save(building / "Std.npy", std)
        rows = [[getattr(clip, column) for column in COLUMNS] for clip in clips]
        pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(building / "clips.csv", index=False)
        if root.exists():
            os.replace(root, old)
        os.replace(building, root)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        if root.exists():
            shutil.rmtree(old, ignore_errors=True)
    return Normaliser(mean, std)


def read_corpus(
    root: Path,
    split: str,
    skipped: list[Skipped] | None = None,
    lengths: tuple[int, float] = (MIN_FRAMES, math.inf),
    facts: Mapping[str, tuple[str, str, str]] | None = None,
) -> list[MotionClip]:
    """Clips of one split, checked, in the order of its list.

    A sentence with times cuts a clip of its own (HumanML3D's rule: seconds times 20, end not
    included), named ``<name>_<first frame>_<end frame>``; sentences on the same cut stay together.
    A clip all of whose sentences have times is not returned whole.

    Args:
        skipped: without it the first fault raises; with it faulty clips and sentences are left out
            and appended here, for published corpora that are known to hold some.
        lengths: fewest and most frames of a clip, and of what is cut from it; others are faulty.
        facts: subject, activity and source of clips by listed name, instead of ``clips.csv``.

    Raises:
        InputError: names file and field of a missing, unreadable or faulty file.
    """
    root = Path(root)

    def report(error: InputError) -> None:
        if skipped is None:
            raise error
        skipped.append(Skipped(error.where, f"found {error.found}; expected {error.expected}"))

    facts = _read_facts(root / "clips.csv") if facts is None else facts
    clips = []
    for name in read_split(root, split):
        try:
            clips += _read_clip(root, name, facts.get(name, ("", "", "")), lengths, report)
        except InputError as error:
            report(error)
    return clips


def read_split(root: Path, split: str) -> list[str]:
    """Names listed in ``<split>.txt``."""
    path = Path(root) / f"{split}.txt"
    if not path.exists():
        found = ", ".join(sorted(p.stem for p in Path(root).glob("*.txt"))) or "no split"
        raise InputError(path, found, "a list of clips", "Check the split's name and the folder.")
    names = [line.strip() for line in _read_text(path).split("\n") if line.strip()]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(path, f"{twice} twice", "every clip once", "Remove the second line.")
    return names


def read_statistics(root: Path) -> Normaliser:
    """``Mean.npy`` and ``Std.npy`` of a corpus."""
    mean, std = (read_array(Path(root) / name) for name in ("Mean.npy", "Std.npy"))
    return Normaliser(mean.astype(np.float32), std.astype(np.float32))


def _check(splits: dict[str, list[str]]) -> None:
    """Raise `InputError` for a clip that stands twice or is unknown, and for a split that leaks."""
    for split, names in splits.items():
        held_out = split == "val" or split.startswith("test")
        shared = set(names) & set(splits["train"]) if held_out else set()
        wrong = (set(names) - set(splits["all"])) | shared
        if wrong or len(set(names)) < len(names):
            expected = "clips that are written, each once, and none of train where it is held out"
            remedy = "Mend the clips or splits that are written."
            raise InputError(f"splits: {split}", min(wrong, default="a twin"), expected, remedy)


def _read_facts(path: Path) -> dict[str, tuple[str, str, str]]:
    if not path.exists():
        return {}
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(path, str(error), "a table", "Write the corpus again.") from error
    if not set(COLUMNS) <= set(table.columns):
        raise InputError(
            path, f"columns {', '.join(table.columns)}", ", ".join(COLUMNS), "Write it again."
        )
    return {row.name: tuple(row[1:]) for row in table[list(COLUMNS)].itertuples(index=False)}


def _read_clip(
    root: Path,
    name: str,
    facts: tuple[str, str, str],
    lengths: tuple[int, float],
    report: Callable[[InputError], None],
) -> list[MotionClip]:
    path = root / "new_joint_vecs" / f"{name}.npy"
    features = read_array(path)
    check_features(features, path)
    if not lengths[0] <= len(features) <= lengths[1]:
        remedy = "Take this clip out of the corpus and its splits."
        raise InputError(f"{path}: features", f"{len(features)} frames", _frames(lengths), remedy)
    features = features.astype(np.float32)
    text = root / "texts" / f"{name}.txt"
    cuts: dict[tuple[int, int], list[str]] = {}
    for number, line in enumerate(_read_text(text).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            caption, start, end = _read_line(line, f"{text}: line {number}", len(features), lengths)
        except InputError as error:
            report(error)
            continue
        cuts.setdefault((start, end), []).append(caption)
    if not cuts:
        raise InputError(text, "no usable sentence", "one a line", "Write the sentences again.")
    names = {(0, len(features)): name}
    return [
        MotionClip(names.get(cut, f"{name}_{cut[0]}_{cut[1]}"), features[slice(*cut)], said, *facts)
        for cut, said in cuts.items()
    ]


def _frames(lengths: tuple[int, float]) -> str:
    fewest, most = lengths
    return f"at least {fewest} frames" if math.isinf(most) else f"{fewest} to {most} frames"


def _read_line(
    line: str, where: str, frames: int, lengths: tuple[int, float]
) -> tuple[str, int, int]:
    """Sentence, first frame and end frame of one line of a text file."""
    expected = "sentence#word/TAG …#start#end with times in seconds"
    fields = line.strip().split("#")
    try:
        times = [float(field) for field in fields[2:]]
    except ValueError:
        times = []
    if len(fields) != 4 or len(times) != 2 or not fields[0].strip():
        raise InputError(where, repr(line.strip()[:80]), expected, "Correct the line.")
    # The published files write nan for "no time".
    start, end = (0.0 if math.isnan(time) else time for time in times)
    if start == end == 0.0:
        return fields[0].strip(), 0, frames
    if start < 0 or end <= start or math.isinf(end):
        raise InputError(
            f"{where}: times", f"{start} to {end} s", "0 <= start < end", "Correct it."
        )
    first, last = int(start * RATE), min(int(end * RATE), frames)
    if not lengths[0] <= last - first <= lengths[1]:
        found = f"{start} to {end} s, {max(last - first, 0)} frame(s) of a clip of {frames}"
        raise InputError(f"{where}: times", found, _frames(lengths), "Correct the times.")
    return fields[0].strip(), first, last


def _read_text(path: Path) -> str:
    """Lines end with a line feed only: str.splitlines would cut at U+2028 or a vertical tab too."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(path, "no file", "a text file", "Restore it.") from error
    except UnicodeDecodeError as error:
        found = f"byte {error.start} that is no UTF-8"
        raise InputError(path, found, "UTF-8 text", "Convert the file.") from error


def read_array(path: Path) -> np.ndarray:
    """A ``.npy`` file of a corpus; `InputError` where it is missing or damaged."""
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        remedy = "Restore it, or take the clip out of its splits."
        raise InputError(path, "no file", "a .npy array", remedy) from error
    except (ValueError, EOFError, OSError) as error:
        found = f"no readable array ({error})"
        raise InputError(path, found, "a .npy array", "Restore it from its source.") from error
