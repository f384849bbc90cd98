"""Synthesis of all shards of a plan, or of one job's part, by one process or several."""

import json
import os
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from t2imu_utils import data, runs
from t2imu_utils.arm_names import base_of
from t2imu_utils.arms import STAGE as TRAINING
from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.files import sha256
from t2imu_utils.models.generator import section_of
from t2imu_utils.models.prompts import load_prompts
from t2imu_utils.runs import provenance
from t2imu_utils.shards import NOTHING, Plan, Shard, Store, open_store, remove_leftovers
from t2imu_utils.synthesis import STAGES, Tools, check_plan, make_shard, tools_of
from t2imu_utils.tracks import PROMPTS, Track

# What a worker process makes its shards with, and where: each is handed them once.
_handed: tuple[Tools, Store, dict[str, Any]] | None = None


@dataclass(frozen=True)
class Summary:
    """What a call made and found.

    made, kept: shards. remade: those of the made that were there, but not whole, and why. motions,
    windows, rows, bytes: of all these shards. seconds: that they took, in each of
    `synthesis.STAGES`. wall: seconds of this call. peak_mb: most memory of one process.
    """

    made: int = 0
    kept: int = 0
    remade: tuple[Skipped, ...] = ()
    motions: int = 0
    windows: int = 0
    rows: int = 0
    bytes: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    wall: float = 0.0
    peak_mb: float = 0.0

    def with_shard(self, shard: Shard, fault: str | None, record: Mapping[str, Any]) -> "Summary":
        """The same with one shard more (see `_ensure`)."""
        again = fault not in (None, NOTHING)
        sums = {n: getattr(self, n) + record[n] for n in ("motions", "windows", "rows", "bytes")}
        return replace(
            self,
            made=self.made + (fault is not None),
            kept=self.kept + (fault is None),
            remade=(*self.remade, *([Skipped(shard.name, fault)] if again else [])),
            seconds={name: self.seconds[name] + record["seconds"][name] for name in STAGES},
            peak_mb=max(self.peak_mb, record["peak_mb"]),
            **sums,
        )

    @property
    def per_motion(self) -> dict[str, float]:
        """Seconds of each stage for a motion."""
        return {name: spent / max(self.motions, 1) for name, spent in self.seconds.items()}


def plan_of(
    track: Track,
    model: str,
    repetitions: int | None = None,
    motions: int | None = None,
    seconds: tuple[float, float] | None = None,
    shard_size: int = 64,
    seed: int = 0,
    prompts: Path = PROMPTS,
) -> Plan:
    """What is asked for, where nothing else is said as the track's notebooks ask it.

    motions: at least so many, in place of `repetitions`.
    """
    by_activity = load_prompts(prompts)
    if motions is not None:
        repetitions = -(-motions // sum(map(len, by_activity.values())))
    shortest, longest = seconds or track.sampling.seconds
    return Plan(
        track.name,
        model,
        by_activity,
        track.sampling.repetitions if repetitions is None else repetitions,
        (shortest, longest),
        shard_size,
        seed,
        track.sampling.batch_size,
        section_of(track, base_of(model)).guidance,
    )


def synthesise_windows(
    track: Track,
    plan: Plan,
    folder: Path,
    workers: int = 1,
    only: tuple[int, int] = (1, 1),
    progress: bool = True,
) -> Summary:
    """Make the windows of a plan with a model that has finished stage 02 (see `run_shards`)."""
    tools = tools_of(track, plan.model)
    ingredients = {
        "prior": runs.input_hash(track.name, plan.model, TRAINING),
        "body": sha256(data.body_files(track)),
    }
    if tools.generator.sampler:
        ingredients["sampler"] = sha256(json.dumps(tools.generator.sampler).encode())
    return run_shards(tools, plan, folder, ingredients, workers, only, progress)


def run_shards(
    tools: Tools,
    plan: Plan,
    folder: Path,
    ingredients: dict[str, str],
    workers: int = 1,
    only: tuple[int, int] = (1, 1),
    progress: bool = True,
) -> Summary:
    """Make the shards of a plan that are not there whole; those that are stay as they are.

    What is asked for again goes on where it stopped. The shards are the same, byte for byte on
    one kind of machine, for any number of workers and jobs and in any order.

    Args:
        folder: see `shards`; other models may have theirs in it.
        ingredients: hashes of what the motions are made from, by name.
        workers: processes side by side, each with one thread and its own copy of the tools; they
            share the GPU where there is one.
        only: job i of n makes every n-th shard, from the i-th on.

    Raises:
        InputError: see `check_plan` and `open_store`; less than one worker, or one that was ended
            from outside.
    """
    if workers < 1:
        raise InputError(
            "synthesis: workers", str(workers), "at least 1", "One for each processor is good."
        )
    chosen = plan.part(*only)
    check_plan(tools, plan)
    started, origin = time.time(), provenance()
    store = open_store(folder, plan, ingredients, origin)
    remove_leftovers(store)
    handed = tools, store, {name: origin[name] for name in ("git", "versions", "device")}
    found = Summary()
    with tqdm(
        total=sum(map(len, chosen)), unit="motion", mininterval=2, disable=not progress
    ) as bar:
        for shard, fault, record in _each(chosen, handed, min(workers, len(chosen))):
            found = found.with_shard(shard, fault, record)
            bar.update(len(shard))
    return replace(found, wall=time.time() - started)


def _each(
    shards: Sequence[Shard], handed: tuple[Tools, Store, dict[str, Any]], workers: int
) -> Iterator[tuple[Shard, str | None, dict[str, Any]]]:
    """Shards as they are finished, each with what was found in its place and its record."""
    if workers <= 1:
        for shard in shards:
            yield shard, *_ensure(shard, handed)
        return
    # Not forked: a process that has computed on a GPU, or with threads, cannot be.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _take, (handed,))
    try:
        jobs = {pool.submit(_ensure, shard): shard for shard in shards}
        for job in as_completed(jobs):
            yield jobs.pop(job), *job.result()
    except BrokenProcessPool as error:
        raise InputError(
            "synthesis: workers", "a process that was ended from outside", "all to finish",
            "If memory ran out, take fewer workers or smaller shards. What is finished stays: the "
            "same command goes on from there.",
        ) from error  # fmt: skip
    finally:
        pool.shutdown(cancel_futures=True)


def _take(handed: tuple[Tools, Store, dict[str, Any]]) -> None:
    global _handed
    _handed = handed


def _ensure(
    shard: Shard, handed: tuple[Tools, Store, dict[str, Any]] | None = None
) -> tuple[str | None, dict[str, Any]]:
    """What was found in place of a shard (`Store.fault`), and its record once it is whole."""
    tools, store, origin = handed or _handed
    fault = store.fault(shard)
    if fault is None:
        return None, store.record(shard)
    facts = make_shard(tools, store.plan, shard, store.path(shard))
    return fault, store.close(shard, {**facts, "peak_mb": peak_mb(), **origin})


def peak_mb() -> float:
    """The most memory (resident set) that this process has held, in MB."""
    try:
        with open("/proc/self/status", encoding="ascii") as stream:
            lines = dict(line.split(":", 1) for line in stream)
        return int(lines["VmHWM"].split()[0]) / 1024
    except (OSError, KeyError):  # where there is no /proc
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def processors() -> int:
    """Processors that this machine, or a cluster's job on it, has room for."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def summary_text(summary: Summary, plan: Plan, folder: Path) -> str:
    """A summary in lines for a terminal."""
    lines = [f"Remade: {each.name}: {each.reason}" for each in summary.remade]
    count = summary.made + summary.kept
    lines.append(
        f"{plan.model} on {plan.track}: {summary.motions} motions in {count} shards, of which "
        f"{summary.kept} were there already; the whole plan has {plan.motions} in "
        f"{len(plan.shards)}"
    )
    lines.append(
        f"{summary.windows} windows, {summary.rows} rows, {summary.bytes / 1e6:.1f} MB in {folder}"
    )
    each = ", ".join(f"{stage} {spent:.3f}" for stage, spent in summary.per_motion.items())
    lines.append(f"seconds a motion: {each}; together {sum(summary.per_motion.values()):.3f}")
    lines.append(f"{summary.wall:.0f} s; at most {summary.peak_mb:.0f} MB a process")
    return "\n".join(lines)
