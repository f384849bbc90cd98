"""From text to windows of virtual sensors, one shard at a time: Sections III-A to III-D in a row.

The work is that of notebooks 03 and 04 and of the windows of 06 and 07, without what lies between
them on disk. A shard is sampled, fitted, sensed, cut and written, then forgotten: memory does not
grow with the number of motions. One thread computes it on the CPU, so that its bits do not depend
on how many there are; several processes work side by side (`synthesis_runs`).
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from t2imu_utils import arms, data
from t2imu_utils.activities import SITES
from t2imu_utils.arm_names import base_of
from t2imu_utils.body.fitting import fit
from t2imu_utils.body.smpl import Bodies, Body, Shape
from t2imu_utils.body.table1 import shapes_of, solve_table
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write
from t2imu_utils.imu.sensors import synthesise
from t2imu_utils.imu.sites import Site, sensor_sites
from t2imu_utils.imu.windows import windows
from t2imu_utils.models.generator import Generator, check_requests, generator_of
from t2imu_utils.motion.features import RATE
from t2imu_utils.runs import compute_device
from t2imu_utils.shards import COLUMNS, OVERLAP, SIZE, Plan, Shard
from t2imu_utils.tracks import Track

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


def tools_of(track: Track, model: str) -> Tools:
    """The tools of a model that has finished stage 02.

    Raises:
        InputError: it has not; or its motions were made elsewhere, so that there are no others.
    """
    generator = generator_of(track, base_of(model))
    if generator.ready_made:
        raise InputError(
            f"synthesis: {model}", "motions that were made elsewhere", "a model that makes motions",
            "Choose one that is trained here or published.",
        )  # fmt: skip
    return with_bodies(generator, arms.load_model(track, model), data.bodies(track))


def with_bodies(generator: Generator, prior: Any, bodies: Bodies) -> Tools:
    """The tools of any prior."""
    with one_thread():
        shapes = shapes_of(solve_table(bodies), bodies)
        sites = sensor_sites(bodies.neutral)
    return Tools(generator, prior, bodies.neutral, shapes, sites, compute_device())


def check_plan(tools: Tools, plan: Plan) -> None:
    """Refuse what the prior cannot make, before anything is computed.

    Raises:
        InputError: see `models.generator.check_requests`.
    """
    texts = [text for _, text in plan.sentences]
    longest = [round(plan.seconds[1] * RATE)] * len(texts)
    check_requests(tools.prior, texts, longest, range(len(texts)), plan.batch_size)


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums of floating-point numbers come out the same however many cores there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)


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
        motions = Clips(numbered, motions.arrays, motions.meta)
        with _clock(seconds, "fitting"):
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
    """Write windows of all sites as rows of `SCHEMA`, a row group for each site.

    So a reader that wants some sites or one of the two sensors reads no others. Pages have
    checksums, and the bytes of the floats are sorted by their place in the number, which halves
    the size of smooth signals.

    Args:
        x: of `windows`, sites in the order of `SITES`, of each acc and gyro.
        table: of `windows`.
    """
    signals = x.reshape(len(x), SIZE, len(SITES), len(CHANNELS), 3)
    shared = {
        name: pa.array(table[name], SCHEMA.field(name).type)
        for name in SCHEMA.names
        if name in table
    }
    floats = [f"{name}.list.element" for name in CHANNELS]
    texts = [field.name for field in SCHEMA if field.type == pa.string()]
    with (
        atomic_write(path) as temporary,
        pq.ParquetWriter(
            temporary, SCHEMA, compression="zstd", use_dictionary=texts,
            use_byte_stream_split=floats, write_page_checksum=True,
        ) as writer,
    ):  # fmt: skip
        for number, site in enumerate(SITES):
            writer.write_table(_rows(signals[:, :, number], site, shared))


def _rows(
    signals: Float[np.ndarray, "n 40 2 3"], site: str, shared: Mapping[str, pa.Array]
) -> pa.Table:
    own: dict[str, pa.Array] = {"site": pa.repeat(site, len(signals))}
    for number, name in enumerate(CHANNELS):
        flat = pa.array(np.ascontiguousarray(signals[:, :, number]).reshape(-1))
        own[name] = pa.FixedSizeListArray.from_arrays(flat, type=_SIGNAL)
    return pa.table({**shared, **own}, SCHEMA)
