"""A synthesis at scale: what is asked for, in which shards, and which of them are there, whole.

A shard is some repetitions of one prompt, one file, and the smallest piece of work. What it holds
follows from the plan alone, not from who makes it or when. A folder of windows looks like this::

    windows/generator=mdm/activity=walking/p070-r000064.parquet    prompt 70, repetitions from 64
    records/generator=mdm/activity=walking/p070-r000064.json       its checksum, and what made it
    records/generator=mdm/manifest.json                            the plan, and where it came from

``windows`` holds nothing but Parquet files, so that any reader of partitioned data takes it as a
whole. Every row is one window of one sensor (`COLUMNS`).
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from t2imu_utils.activities import ACTIVITIES, SITES
from t2imu_utils.errors import InputError
from t2imu_utils.files import plain, read_json, sha256, write_json
from t2imu_utils.models.prompts import draw_requests
from t2imu_utils.motion.features import RATE
from t2imu_utils.runs import record_hash

SIZE, OVERLAP = 40, 0.5  # of a window: frames, and the share that the next one repeats
WINDOWS, RECORDS, MANIFEST = "windows", "records", "manifest.json"
COLUMNS = {
    "generator": "model that made the motion; a folder, not stored in the file",
    "activity": "of the prompt; a folder, not stored in the file",
    "prompt": "the sentence",
    "repetition": "of the prompt, from 0",
    "motion": "number of the motion, the same for all models: repetition × prompts + prompt",
    "seed": "of the motion's noise",
    "body": "of Table I",
    "site": "where the sensor is; a row group each",
    "start_frame": "of the window in the motion",
    "acc": f"{SIZE} × 3 float32 in m/s², the axes of a frame together: x0 y0 z0 x1 y1 z1 …",
    "gyro": f"{SIZE} × 3 float32 in rad/s, in the same order",
}
NOTHING = "nothing"
STALE = 3600  # s: what has been half-written for so long belongs to a process that is gone


@dataclass(frozen=True)
class Shard:
    """The repetitions from `first` to before `stop` of one prompt, the `number`-th of its plan."""

    activity: str
    prompt: str
    number: int
    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first

    @property
    def name(self) -> str:
        """Its place below the folder of its model, without an ending."""
        return f"activity={self.activity}/p{self.number:03d}-r{self.first:06d}"


@dataclass(frozen=True)
class Plan:
    """What is asked for: of every prompt so many repetitions.

    seconds: shortest and longest motion. shard_size: motions of a shard at most. seed: 0 asks for
    the motions of notebook 01, any other number for others. batch_size: motions sampled at once.
    guidance: scale of the text, None for the generator's own. gravity: m/s².

    Raises:
        InputError: no prompts, a number below 1, motions too short for a window.
    """

    track: str
    model: str
    prompts: Mapping[str, Sequence[str]]
    repetitions: int
    seconds: tuple[float, float]
    shard_size: int = 64
    seed: int = 0
    batch_size: int = 32
    guidance: float | None = None
    gravity: float = 9.81

    def __post_init__(self) -> None:
        for name in ("repetitions", "shard_size", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"synthesis: {name}", str(getattr(self, name)), "at least 1", "Change it."
                )
        unknown = [name for name in self.prompts if name not in ACTIVITIES]
        if unknown or not self.sentences:
            raise InputError(
                "synthesis: prompts", f"those of {', '.join(unknown) or 'no activity'}",
                f"sentences for some of {', '.join(ACTIVITIES)}", "Check their keys.",
            )  # fmt: skip
        shortest, longest = self.seconds
        if not SIZE - 0.5 <= shortest * RATE <= longest * RATE < float("inf"):
            raise InputError(
                "synthesis: seconds", f"{shortest:g} to {longest:g} s",
                f"{SIZE / RATE:g} s, the length of a window, or more, the shorter first",
                "Ask for longer motions.",
            )  # fmt: skip

    @cached_property
    def sentences(self) -> list[tuple[str, str]]:
        """Activity and prompt, in order."""
        return [(activity, text) for activity, lines in self.prompts.items() for text in lines]

    @property
    def motions(self) -> int:
        """How many there will be."""
        return len(self.sentences) * self.repetitions

    @cached_property
    def shards(self) -> list[Shard]:
        """All shards in order: by prompt, then by repetition."""
        return [
            Shard(*sentence, number, first, min(first + self.shard_size, self.repetitions))
            for number, sentence in enumerate(self.sentences)
            for first in range(0, self.repetitions, self.shard_size)
        ]

    def part(self, job: int, jobs: int) -> list[Shard]:
        """The shards of one of several jobs, counted from 1: every `jobs`-th."""
        if not 1 <= job <= jobs:
            raise InputError(
                "synthesis: only", f"{job}/{jobs}", "a job from 1 to their number, such as 3/20",
                "Count jobs from 1 (sbatch --array=1-20).",
            )  # fmt: skip
        return self.shards[job - 1 :: jobs]

    def requests(self, shard: Shard) -> pd.DataFrame:
        """One row for every motion of a shard: `models.prompts.draw_requests`, and its number."""
        own = range(shard.first, shard.stop)
        prompts = {shard.activity: [shard.prompt]}
        table = draw_requests(prompts, own, self.seconds, RATE, self.seed)
        motion = table["repetition"] * len(self.sentences) + shard.number
        return table.assign(motion=motion)

    def as_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return plain(asdict(self))


@dataclass(frozen=True)
class Store:
    """A folder of windows of one model. ingredients: hashes of what its motions are made from."""

    folder: Path
    plan: Plan
    ingredients: dict[str, str]

    def path(self, shard: Shard) -> Path:
        """The Parquet file of a shard."""
        return self._place(WINDOWS) / f"{shard.name}.parquet"

    def record_path(self, shard: Shard) -> Path:
        """The record of a shard."""
        return self._place(RECORDS) / f"{shard.name}.json"

    def _place(self, part: str) -> Path:
        return self.folder / part / f"generator={self.plan.model}"

    def key(self, shard: Shard) -> str:
        """Hash of all that a shard is made from: two with equal keys are equal."""
        chosen = {n: getattr(self.plan, n) for n in ("model", "batch_size", "guidance", "gravity")}
        asked = sha256(self.plan.requests(shard).to_json().encode())
        made_from = {"ingredients": self.ingredients, "requests": asked, **chosen}
        return sha256(json.dumps(made_from, sort_keys=True).encode())

    def record(self, shard: Shard) -> dict[str, Any]:
        """What was recorded of a shard.

        Raises:
            InputError: nothing, or it is damaged.
        """
        return _read_checked(self.record_path(shard))

    def close(self, shard: Shard, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write the record of a shard, whose file is in its place now."""
        path = self.path(shard)
        record = {
            **asdict(shard),
            "file": path.relative_to(self.folder).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
            "key": self.key(shard),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **facts,
        }
        _write_checked(self.record_path(shard), record)
        return record

    def fault(self, shard: Shard) -> str | None:
        """What is found in place of a whole shard: `NOTHING`, or what is wrong; None if whole."""
        path, kept = self.path(shard), self.record_path(shard)
        if not kept.exists():
            return "a file without a record" if path.exists() else NOTHING
        try:
            record = _read_checked(kept)
        except InputError as error:
            return f"a damaged record ({error.found})"
        if record["stop"] < shard.stop:
            return f"{record['motions']} motions of {len(shard)}"
        if record["key"] != self.key(shard):
            return "a shard that was made from something else"
        if not path.exists():
            return "no file, only its record"
        if path.stat().st_size != record["bytes"]:
            return f"{path.stat().st_size} bytes of {record['bytes']}"
        found = sha256(path)
        expected = f"{record['sha256'][:12]} was recorded"
        return None if found == record["sha256"] else f"sha256 {found[:12]}, {expected}"


def open_store(
    folder: Path, plan: Plan, ingredients: dict[str, str], provenance: dict[str, Any]
) -> Store:
    """The folder of a plan, with its manifest; more repetitions of the same are welcome.

    Raises:
        InputError: it holds windows of another plan, or made from other things.
    """
    store = Store(Path(folder), plan, ingredients)
    path = store._place(RECORDS) / MANIFEST
    if path.exists():
        old = _read_checked(path)
        _refuse_other(path, old, {"plan": plan.as_json(), "ingredients": ingredients})
        if old["plan"]["repetitions"] == plan.repetitions:
            return store
    _refuse_strangers(store)
    content = {
        "plan": plan.as_json(),
        "ingredients": ingredients,
        "motions": plan.motions,
        "shards": len(plan.shards),
        "columns": COLUMNS,
        "window": {"frames": SIZE, "overlap": OVERLAP, "rate": RATE, "sites": list(SITES)},
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **provenance,
    }
    _write_checked(path, content)
    return store


def load_store(folder: Path, model: str | None = None) -> Store:
    """A folder of windows as its manifest describes it.

    Args:
        model: whose windows; None where the folder has those of one only.

    Raises:
        InputError: no manifest, a damaged one, or several models and none named.
    """
    found = {path.parent.name.split("=", 1)[1]: path for path in _manifests(Path(folder))}
    if model not in found and (model or len(found) != 1):
        raise InputError(
            f"{folder}: generator {model or ''}".rstrip(), ", ".join(found) or NOTHING,
            "windows of the model that is asked for" if model else "windows of one model",
            "Name one of them, or make its windows with `t2imu synthesise`.",
        )  # fmt: skip
    content = _read_checked(found[model or next(iter(found))])
    plan = content["plan"]
    plan["seconds"] = tuple(plan["seconds"])
    return Store(Path(folder), Plan(**plan), content["ingredients"])


def remove_leftovers(store: Store) -> None:
    """Delete what was half-written by processes that were killed."""
    for part in (WINDOWS, RECORDS):
        for path in store._place(part).glob("**/.*.tmp"):
            try:
                if time.time() - path.stat().st_mtime > STALE:
                    path.unlink()
            except FileNotFoundError:  # its process is alive, and done with it
                continue


def _manifests(folder: Path) -> Iterator[Path]:
    yield from sorted((folder / RECORDS).glob(f"generator=*/{MANIFEST}"))


def _refuse_other(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Whatever differs but a larger number of repetitions would leave a mixture."""
    differs = []
    for part, values in new.items():
        before = old[part]
        for name in sorted({*before, *values}):
            a, b = before.get(name), values.get(name)
            grown = name == "repetitions" and a <= b
            if a != b and not grown:
                shown = part == "plan" and name != "prompts"
                differs.append(f"{name} {a}, now {b}" if shown else f"other {name}")
    if differs:
        raise InputError(
            path, "; ".join(differs), "the same plan and ingredients, or more repetitions",
            "Name another folder, or delete the windows and records of this model and start anew.",
        )  # fmt: skip


def _refuse_strangers(store: Store) -> None:
    """Files that are not of the plan would be read as if they were."""
    folder = store._place(WINDOWS)
    known = {store.path(shard) for shard in store.plan.shards}
    for path in sorted(folder.glob("**/*.parquet")):
        if path not in known:
            raise InputError(
                path, "a file that is not of this plan", "its shards only",
                f"Move it away, or delete {folder} and start anew.",
            )  # fmt: skip


def _write_checked(path: Path, content: dict[str, Any]) -> Path:
    return write_json(path, content | {"checksum": record_hash(content)})


def _read_checked(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if content.get("checksum") != record_hash(content):
        raise InputError(
            path, "content that is not what was written", "its recorded checksum",
            "Delete it and run the same `t2imu synthesise` again.",
        )  # fmt: skip
    return content
