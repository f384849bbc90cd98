"""Windows of virtual sensors by the thousand: from text to partitioned Parquet, shard by shard.

The work is that of notebooks 03 and 04 and of the windows of 06 and 07, without what lies between
them on disk. A shard is some repetitions of one prompt, one file, and the smallest piece of work.
What it holds follows from the plan alone, not from who makes it or when: it is sampled, fitted,
sensed, cut and written, then forgotten. One thread computes it on the CPU, so that its bits do not
depend on how many there are. A folder of windows looks like this::

    windows/generator=mdm/activity=walking/p070-r000064.parquet    prompt 70, repetitions from 64
    records/generator=mdm/activity=walking/p070-r000064.json       its checksum, and what made it
    records/generator=mdm/manifest.json                            the plan, and where it came from

``windows`` holds nothing but Parquet files, so that any reader of partitioned data takes it as a
whole. Every row is one window of one sensor (`COLUMNS`).
"""

import json
import os
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from tqdm import tqdm

from t2imu_utils import data, runs
from t2imu_utils.activities import SITES
from t2imu_utils.arms import TRAINING, base_of
from t2imu_utils.body.fitting import fit
from t2imu_utils.body.smpl import Bodies, Body, Shape
from t2imu_utils.body.table1 import shapes_of, solve_table
from t2imu_utils.clips import Clips, windows
from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write, plain, read_json, sha256, write_json
from t2imu_utils.finetuning import load_model
from t2imu_utils.imu.sensors import synthesise
from t2imu_utils.imu.sites import Site, sensor_sites
from t2imu_utils.models.generator import Generator, check_requests, generator_of, section_of
from t2imu_utils.models.prompts import draw_requests, load_prompts
from t2imu_utils.motion.features import RATE
from t2imu_utils.runs import compute_device, one_thread, provenance
from t2imu_utils.tracks import PROMPTS, Track

# ---------------------------------------------------------------- what is asked for, and where
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
NOTHING, OTHER = "nothing", "half-written, damaged, or made from something else"


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
        shortest, longest = self.seconds
        if not SIZE / RATE <= shortest <= longest < float("inf"):
            raise InputError(
                "synthesis: seconds", f"{shortest:g} to {longest:g} s",
                f"{SIZE / RATE:g} s, the length of a window, or more, the shorter first",
                "Change it.",
            )  # fmt: skip

    @cached_property
    def sentences(self) -> list[tuple[str, str]]:
        return [(activity, text) for activity, lines in self.prompts.items() for text in lines]

    @property
    def motions(self) -> int:
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
        return self.shards[job - 1 :: jobs]

    def requests(self, shard: Shard) -> pd.DataFrame:
        """One row for every motion of a shard: `models.prompts.draw_requests`, and its number."""
        own = range(shard.first, shard.stop)
        table = draw_requests({shard.activity: [shard.prompt]}, own, self.seconds, RATE, self.seed)
        return table.assign(motion=table["repetition"] * len(self.sentences) + shard.number)


@dataclass(frozen=True)
class Store:
    """A folder of windows of one model. ingredients: hashes of what its motions are made from."""

    folder: Path
    plan: Plan
    ingredients: dict[str, str]

    def place(self, part: str) -> Path:
        """The model's own folder of `WINDOWS` or of `RECORDS`."""
        return Path(self.folder) / part / f"generator={self.plan.model}"

    def path(self, shard: Shard) -> Path:
        return self.place(WINDOWS) / f"{shard.name}.parquet"

    def record_path(self, shard: Shard) -> Path:
        return self.place(RECORDS) / f"{shard.name}.json"

    def key(self, shard: Shard) -> str:
        """Hash of all that a shard is made from: two with equal keys are equal."""
        chosen = {n: getattr(self.plan, n) for n in ("model", "batch_size", "guidance", "gravity")}
        made_from = chosen | {
            "ingredients": self.ingredients, "requests": self.plan.requests(shard).to_json()
        }  # fmt: skip
        return sha256(json.dumps(made_from, sort_keys=True).encode())

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
        write_json(self.record_path(shard), record)
        return record

    def fault(self, shard: Shard) -> str | None:
        """What is found in place of a whole shard, `NOTHING` or `OTHER`; None if it is whole."""
        path, kept = self.path(shard), self.record_path(shard)
        if not path.exists() and not kept.exists():
            return NOTHING
        try:
            record = read_json(kept)
            whole = (record["key"], record["sha256"]) == (self.key(shard), sha256(path))
        except (InputError, OSError):
            whole = False
        return None if whole else OTHER


def open_store(
    folder: Path, plan: Plan, ingredients: dict[str, str], origin: dict[str, Any]
) -> Store:
    """The folder of a plan, with its manifest; more repetitions of the same are welcome, windows of
    another plan or made from other things an `InputError`."""
    store = Store(Path(folder), plan, ingredients)
    path, asked = store.place(RECORDS) / MANIFEST, plain(asdict(plan))
    if path.exists():
        old = read_json(path)
        before, now = old["plan"] | old["ingredients"], asked | ingredients
        grown = {"repetitions"} if before["repetitions"] <= plan.repetitions else set()
        differs = {name for name in now if now[name] != before.get(name)} - grown
        if differs:
            raise InputError(
                path, f"windows of other {', '.join(sorted(differs))}",
                "those of the same plan and ingredients, or of fewer repetitions",
                "Name another folder, or delete the windows and records of this model.",
            )  # fmt: skip
        if old["plan"] == asked:
            return store
    content = {
        "plan": asked,
        "ingredients": ingredients,
        "motions": plan.motions,
        "shards": len(plan.shards),
        "columns": COLUMNS,
        "window": {"frames": SIZE, "overlap": OVERLAP, "rate": RATE, "sites": list(SITES)},
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_json(path, content | origin)
    return store


# ---------------------------------------------------------------- one shard
STAGES = ("sampling", "fitting", "sensors", "writing")
CHANNELS = ("acc", "gyro")
_SIGNAL = pa.list_(pa.field("element", pa.float32()), SIZE * 3)
SCHEMA = pa.schema(
    {
        "prompt": pa.string(), "repetition": pa.int32(), "motion": pa.int64(), "seed": pa.int64(),
        "body": pa.string(), "site": pa.string(), "start_frame": pa.int32(),
        "acc": _SIGNAL, "gyro": _SIGNAL,
    },
    {"t2imu": json.dumps({"columns": COLUMNS, "rate": RATE, "overlap": OVERLAP})},
)  # fmt: skip


@dataclass(frozen=True)
class Tools:
    """What every shard is made with: a trained prior, the bodies of Table I, and their sensors.

    body: that is fitted to the motions. device: where the prior is sampled.
    """

    generator: Generator
    prior: Any
    body: Body
    shapes: dict[str, Shape]
    sites: list[Site]
    device: str = "cpu"


def with_bodies(generator: Generator, prior: Any, bodies: Bodies) -> Tools:
    """The tools of any prior."""
    with one_thread():
        shapes = shapes_of(solve_table(bodies), bodies)
        sites = sensor_sites(bodies.neutral)
    return Tools(generator, prior, bodies.neutral, shapes, sites, compute_device())


def make_shard(tools: Tools, plan: Plan, shard: Shard, path: Path) -> dict[str, Any]:
    """Make the windows of a shard and write them to `path`, whole or not at all.

    Returns:
        Facts for its record: numbers of ``motions``, ``windows`` (all sensors are one) and
        ``rows``; windows ``dropped`` because a value is missing; the fit's mean ``joint error
        (mm)``; ``seconds`` of each of `STAGES`.
    """
    seconds: dict[str, float] = {}
    with one_thread():
        requests = plan.requests(shard)
        with _clock(seconds, "sampling"):
            motions = tools.generator.sample(
                tools.prior, requests, plan.guidance, plan.batch_size, tools.device, progress=False
            )
        numbered = motions.table.assign(motion=requests["motion"].to_numpy())
        with _clock(seconds, "fitting"):
            motions = Clips(numbered, motions.arrays, motions.meta)
            fits = fit(motions, tools.body, progress=False)
        with _clock(seconds, "sensors"):
            virtual = synthesise(
                fits, tools.body, tools.shapes, tools.sites, gravity=plan.gravity, progress=False
            )
        with _clock(seconds, "writing"):
            x, table = windows(virtual, SIZE, OVERLAP, CHANNELS, SITES)
            write_windows(path, x, table)
    return {
        "motions": len(motions),
        "windows": len(x),
        "rows": len(x) * len(SITES),
        "dropped": table.attrs["dropped"],
        "joint error (mm)": round(1000 * float(fits.arrays["joint_error"].mean()), 3),
        "seconds": {name: round(spent, 4) for name, spent in seconds.items()},
    }


@contextmanager
def _clock(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started


def write_windows(path: Path, x: Float[np.ndarray, "n 40 C"], table: pd.DataFrame) -> None:
    """Write what `windows` gives, of all sites acc and gyro, as rows of `SCHEMA`.

    A row group for each site, so that a reader that wants some of them reads no others. The bytes
    of floats are sorted by their place in the number, which halves the size of smooth signals.
    """
    signals = x.reshape(len(x), SIZE, len(SITES), len(CHANNELS), 3)
    shared = {f.name: pa.array(table[f.name], f.type) for f in SCHEMA if f.name in table}
    floats = [f"{name}.list.element" for name in CHANNELS]
    texts = [field.name for field in SCHEMA if field.type == pa.string()]
    with (
        atomic_write(path) as temporary,
        pq.ParquetWriter(
            temporary, SCHEMA, compression="zstd", use_dictionary=texts,
            use_byte_stream_split=floats, write_page_checksum=True,
        ) as writer,
    ):  # fmt: skip
        for place, site in enumerate(SITES):
            rows = shared | {"site": pa.repeat(site, len(x))}
            for number, name in enumerate(CHANNELS):
                flat = pa.array(np.ascontiguousarray(signals[:, :, place, number]).reshape(-1))
                rows[name] = pa.FixedSizeListArray.from_arrays(flat, type=_SIGNAL)
            writer.write_table(pa.table(rows, SCHEMA))


# ---------------------------------------------------------------- all shards
# Of a worker process: what it makes its shards with, and where; it is handed them once.
_handed: tuple[Tools, Store, dict[str, Any]] | None = None


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
    by_activity, usual = load_prompts(prompts), track.sampling
    if motions is not None:
        repetitions = -(-motions // sum(map(len, by_activity.values())))
    return Plan(
        track.name,
        model,
        by_activity,
        usual.repetitions if repetitions is None else repetitions,
        tuple(seconds or usual.seconds),
        shard_size,
        seed,
        usual.batch_size,
        section_of(track, base_of(model)).guidance,
    )


def synthesise_windows(
    track: Track,
    plan: Plan,
    folder: Path,
    workers: int = 1,
    only: tuple[int, int] = (1, 1),
    progress: bool = True,
) -> pd.DataFrame:
    """Make the windows of a plan with a model that has finished stage 02 (see `run_shards`)."""
    generator = generator_of(track, base_of(plan.model))
    if generator.ready_made:
        raise InputError(
            f"synthesis: {plan.model}", "motions that were made elsewhere",
            "a model that makes motions", "Choose one that is trained here or published.",
        )  # fmt: skip
    tools = with_bodies(generator, load_model(track, plan.model), data.bodies(track))
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
) -> pd.DataFrame:
    """Make the shards of a plan that are not there whole; those that are stay as they are.

    The shards are the same, byte for byte on one kind of machine, for any number of workers and
    jobs and in any order.

    Args:
        folder: as above; other models may have their windows in it.
        ingredients: hashes of what the motions are made from, by name.
        workers: processes side by side, each with one thread and its own copy of the tools; they
            share the GPU where there is one.
        only: job i of n makes every n-th shard, from the i-th on.

    Returns:
        A row for each shard by its name: ``fault`` (`Store.fault`), and of its record ``motions``,
        ``windows``, ``rows``, ``bytes``, ``peak_mb`` and the seconds of each of `STAGES`;
        ``attrs["wall"]`` has the seconds of this call.

    Raises:
        InputError: a prompt or a length that the prior cannot make; another plan's folder; a worker
            that was ended from outside.
    """
    chosen, texts = plan.part(*only), [text for _, text in plan.sentences]
    longest = [round(plan.seconds[1] * RATE)] * len(texts)
    check_requests(tools.prior, texts, longest, range(len(texts)), plan.batch_size)
    started, origin = time.time(), provenance()
    store = open_store(folder, plan, ingredients, origin)
    handed = tools, store, {name: origin[name] for name in ("git", "versions", "device")}
    columns = ["fault", "motions", "windows", "rows", "bytes", *STAGES, "peak_mb"]
    rows = {}
    with tqdm(
        total=sum(map(len, chosen)), unit="motion", mininterval=2, disable=not progress
    ) as bar:
        for shard, fault, record in _each(chosen, handed, min(workers, len(chosen))):
            found = {"fault": fault} | record | record["seconds"]
            rows[shard.name] = {name: found[name] for name in columns}
            bar.update(len(shard))
    table = pd.DataFrame.from_dict(rows, "index", columns=columns).astype({"fault": object})
    table.attrs["wall"] = time.time() - started
    return table


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
        return None, read_json(store.record_path(shard))
    facts = make_shard(tools, store.plan, shard, store.path(shard))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # of resident memory
    return fault, store.close(shard, {**facts, "peak_mb": peak, **origin})


def processors() -> int:
    """Processors that this machine, or a cluster's job on it, has room for."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def summary_text(made: pd.DataFrame, plan: Plan, folder: Path) -> str:
    """What `run_shards` made, in lines for a terminal."""
    again = made["fault"][made["fault"].notna() & (made["fault"] != NOTHING)]
    total = made.select_dtypes("number").sum()
    each = total[list(STAGES)] / max(total["motions"], 1)
    lines = [f"Remade: {name}: {fault}" for name, fault in again.items()]
    lines += [
        f"{plan.model} on {plan.track}: {total['motions']:.0f} motions in {len(made)} shards, of "
        f"which {made['fault'].isna().sum()} were there already; the whole plan has "
        f"{plan.motions} in {len(plan.shards)}",
        f"{total['windows']:.0f} windows, {total['rows']:.0f} rows, {total['bytes'] / 1e6:.1f} MB "
        f"in {folder}",
        "seconds a motion: " + ", ".join(f"{n} {x:.3f}" for n, x in each.items()),
        f"{made.attrs['wall']:.0f} s; at most {made['peak_mb'].max():.0f} MB a process",
    ]
    return "\n".join(lines)
