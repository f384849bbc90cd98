"""Stage 00: put a track's motion corpus and its real recordings in place, in one form each."""

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from t2imu_utils.activities import ACTIVITIES, CATEGORIES, HIGH_DYNAMIC, category_of
from t2imu_utils.analysis.motions import categorise, mean_abs_acceleration
from t2imu_utils.body.smpl import Bodies, load_bodies
from t2imu_utils.clips import Clips
from t2imu_utils.errors import Skipped
from t2imu_utils.motion.corpus import MotionClip, read_corpus, write_corpus
from t2imu_utils.motion.features import RATE, features_to_joints
from t2imu_utils.motion.humanml3d import integrity, read_humanml3d
from t2imu_utils.recordings import folder_of, read_recordings
from t2imu_utils.recordings.realworld import read_realworld
from t2imu_utils.runs import SHARED, Run, finished_dir, record
from t2imu_utils.tracks import OPEN_BODY, OPEN_PRIOR, Track, data_root, data_set

STAGE = "00_data"
OPEN_SOURCES = ("bandai", "cmu", "deepmimic", "reactidle", "uiprmd")  # folders of the reader open
SPLITS = ("train", "val", "test")
SEED = 0
# m/s²: joints of a whole clip that accelerate by more on average are no person's. A sprint has 15,
# the wildest other clip of CMU 32.
IMPLAUSIBLE = 40.0
_COPY = re.compile(r"(?<=\d)x\d+(\.\d+)?$")
OPEN, LICENSED = "Open SMPL-format body", "SMPL, licensed"
# Clips, names by split, census, and what was left out.
Corpus = tuple[list[MotionClip], dict[str, list[str]], pd.DataFrame, list[Skipped]]


def prepare(track: Track) -> Run:
    """Build corpus and recordings of a track, each in one form."""
    raw = {}
    if track.corpus.made_up is None:
        sources = OPEN_SOURCES if track.corpus.reader == "open" else [track.corpus.reader]
        raw |= {name: data_set(name) for name in sources}
    if track.recordings.made_up is None:
        raw[track.recordings.reader] = folder_of(track)
    others = {
        name: track.model_copy(update={"recordings": section})
        for name, section in track.more_recordings.items()
    }
    raw |= {name: folder_of(other) for name, other in others.items()}
    params = {
        "corpus": [track.corpus.reader, track.corpus.made_up],
        "recordings": [track.recordings.reader, track.recordings.made_up, track.recordings.layout],
        "more recordings": list(track.more_recordings),
        "seed": SEED,
    }
    if track.corpus.made_up:
        raw["prior"] = OPEN_PRIOR
    with record(track.name, SHARED, STAGE, params, raw) as run:
        # Neither needs the other: two processes.
        jobs = delayed(_motions)(track), delayed(_recordings)(track, run.path("archive"))
        (motions, splits, census, skipped), (recordings, unusable) = Parallel(n_jobs=2)(jobs)
        run.save("recordings", recordings)
        for name, other in others.items():
            more, lost = read_recordings(other)
            run.save(f"recordings_{name}", more)
            unusable += lost
        if track.corpus.reader != "humanml3d":  # gigabytes that are in that form already
            write_corpus(run.path("corpus"), motions, splits)
            run.outputs.append(run.path("corpus"))
        left_out = [asdict(s) for s in (*skipped, *unusable)]
        run.save("categories", _categories(motions))
        run.save("census", census)
        run.save("skipped", pd.DataFrame(left_out, columns=["name", "reason"]))
        run.metrics = {
            "clips": {name: len(names) for name, names in splits.items()},
            "recordings": len(recordings),
            "skipped": len(left_out),
        }
    return run


def _categories(motions: Sequence[MotionClip]) -> pd.DataFrame:
    """The category of each clip: that of its activity where the corpus knows it, else what its
    sentences are nearest to, as in the paper."""
    table = categorise([motion.captions for motion in motions])
    names = {"dance": "dancing"} | {name: category_of(name) for name in ACTIVITIES}
    known = pd.Series([names.get(m.activity, "other" if m.activity else None) for m in motions])
    category = known.fillna(table["category"])
    return table.assign(
        name=[motion.name for motion in motions], category=category,
        high_dynamic=category.isin(HIGH_DYNAMIC),
    )  # fmt: skip


def _motions(track: Track) -> Corpus:
    if track.corpus.reader == "humanml3d":
        root, section, skipped = data_set("humanml3d"), track.corpus, []
        names, motions = {}, []
        for split in (section.train, section.validation, *section.test):
            clips = read_humanml3d(root, split, skipped)
            names[split] = [clip.name for clip in clips]
            # Read again where they are needed: gigabytes of features need not pass on.
            motions += [replace(clip, features=clip.features[:0]) for clip in clips]
        return motions, names, integrity(root), skipped
    if track.corpus.reader == "demo":
        # Only the made-up corpus needs the generator, so only it loads one.
        from t2imu_utils.demo import build_corpus

        motions, splits, skipped = build_corpus(SEED, track.corpus.made_up)
        return motions, splits, pd.DataFrame({"name": [m.name for m in motions]}), skipped
    from t2imu_utils.motion.open_corpus import build_open

    built = build_open(data_root())
    return built.clips, built.splits, built.census, built.skipped


def _recordings(track: Track, archive: Path) -> tuple[Clips, list[Skipped]]:
    if track.recordings.made_up is None:
        return read_recordings(track)
    from t2imu_utils.demo import write_recordings

    people, classes = track.recordings.made_up, track.recordings.classes
    root, left_out = write_recordings(archive, SEED, people, classes)
    recordings, skipped = read_realworld(root, activities=classes)
    return recordings, [*left_out, *skipped]


def corpus_table(track: Track, run: Run) -> pd.DataFrame:
    """A row for every clip of the corpus: split, subject, minutes, category."""
    rows = [
        (split, clip.name, clip.subject, len(clip.features) / RATE / 60)
        for split in sorted(run.metrics["clips"], key=SPLITS.index)
        for clip in load_motions(track, split)
    ]
    table = pd.DataFrame(rows, columns=["split", "name", "subject", "minutes"])
    ordered = pd.Categorical(table["name"].map(load_categories(track)), CATEGORIES, ordered=True)
    return table.assign(category=ordered)


def census_table(run: Run) -> pd.DataFrame:
    """Minutes of motion by split, activity and source, a column for each way it was made; no rows
    for a corpus that knows none of them."""
    census = pd.read_parquet(run.path("census.parquet"))
    if "made" not in census:
        return pd.DataFrame()
    keys = ["split", "activity", "source"]
    return census.pivot_table("minutes", keys, "made", "sum", fill_value=0.0).round(1)


def load_motions(track: Track, split: str) -> list[MotionClip]:
    """The clips of one split of a track's corpus, as stage 00 left or found them."""
    if track.corpus.reader == "humanml3d":
        return read_humanml3d(data_set("humanml3d"), split, skipped=[])  # told by stage 00
    return read_corpus(finished_dir(track.name, SHARED, STAGE) / "corpus", split)


def load_categories(track: Track) -> pd.Series:
    """Category of every clip of a track's corpus, by name."""
    table = pd.read_parquet(finished_dir(track.name, SHARED, STAGE) / "categories.parquet")
    return table.set_index("name")["category"]


def recorded(clips: Sequence[MotionClip]) -> list[MotionClip]:
    """Clips as people moved: neither seen in a mirror nor played at another speed, which a corpus
    names "M…" and "…x1.1", nor a recording that is broken (`IMPLAUSIBLE`)."""
    names = {clip.name for clip in clips}
    return [
        clip
        for clip in clips
        if not (clip.name[:1] == "M" and clip.name[1:] in names)
        and not _COPY.search(clip.name)
        and not _broken(clip)
    ]


def _broken(clip: MotionClip) -> bool:
    return mean_abs_acceleration(features_to_joints(clip.features)) > IMPLAUSIBLE


def test_clips(track: Track) -> tuple[list[MotionClip], pd.DataFrame]:
    """Clips that no choice was made on, at most as many as the track says, drawn evenly.

    Returns:
        The clips, and a table with ``clip``, ``split``, ``category`` and ``unit``: the trial that a
        clip was cut from, the smallest thing that is independent of the others. Its ``attrs`` name
        under "broken" the clips that were left out (`IMPLAUSIBLE`).
    """
    found = [(split, clip) for split in track.corpus.test for clip in load_motions(track, split)]
    broken = [clip.name for _, clip in found if _broken(clip)]
    found = [(split, clip) for split, clip in found if clip.name not in broken]
    order = np.random.default_rng(SEED).permutation(len(found))[: track.analysis.max_clips]
    chosen = [found[i] for i in np.sort(order)]
    category = load_categories(track)
    rows = [(c.name, split, category[c.name], c.source or c.name) for split, c in chosen]
    table = pd.DataFrame(rows, columns=["clip", "split", "category", "unit"])
    table.attrs["broken"] = broken
    return [clip for _, clip in chosen], table


def as_clips(motions: Sequence[MotionClip]) -> Clips:
    """Corpus clips as joints (F, 22, 3), to be fitted like sampled motions."""
    rows = [{"name": motion.name, "subject": motion.subject} for motion in motions]
    joints = [features_to_joints(motion.features) for motion in motions]
    return Clips.from_list(rows, {"joints": joints}, {"rate": RATE})


def body_files(track: Track) -> Path:
    """The file or folder that a track's bodies are read from."""
    return OPEN_BODY if track.body == "open" else data_set("smpl")


def body_name(track: Track) -> str:
    """What captions call a track's bodies."""
    return OPEN if track.body == "open" else LICENSED


def bodies(track: Track) -> Bodies:
    """The body models of a track: the committed one for all, or licensed SMPL by gender."""
    return load_bodies(None if track.body == "open" else body_files(track))


def load_recordings(track: Track, on: str = "") -> Clips:
    """The real recordings of a track at 20 Hz. on: the name of others of it."""
    name = f"recordings_{on}" if on else "recordings"
    return Clips.load(finished_dir(track.name, SHARED, STAGE) / name)


def load_imu(track: Track, model: str) -> Clips:
    """The virtual sensors of a model's motions, as stage 04 left them."""
    return Clips.load(finished_dir(track.name, model, "04_imu_synthesis") / "imu")


def load_sampled(track: Track, model: str) -> Clips:
    """The motions sampled from a model, as stage 03 left them."""
    return Clips.load(finished_dir(track.name, model, "03_smpl_fitting") / "motions")


def load_requests(track: Track) -> pd.DataFrame:
    """The motions that every prior is asked for, as stage 01 left them."""
    folder = finished_dir(track.name, SHARED, "01_prompt_generation")
    return pd.read_parquet(folder / "requests.parquet")


def one_per_category(motions: list[MotionClip], table: pd.DataFrame) -> dict[str, MotionClip]:
    """The longest clip of each category among `motions`."""
    by_name = {motion.name: motion for motion in motions}
    held = table[table["name"].isin(by_name)].sort_values("minutes", ascending=False)
    first = held.drop_duplicates("category").sort_values("category")
    return {row.category: by_name[row.name] for row in first.itertuples(index=False)}


def minutes_recorded(recordings: Clips) -> pd.DataFrame:
    """Minutes of real recording with a usable accelerometer, per activity and position."""
    present = [~np.isnan(acc).any(axis=-1) for acc in recordings.each("acc")]
    minutes = np.array([p.sum(0) for p in present]) / recordings.meta["rate"] / 60
    table = pd.DataFrame(minutes, columns=recordings.meta["sites"])
    return table.groupby(recordings.table["activity"].to_numpy()).sum().round(1)
