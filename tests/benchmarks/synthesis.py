"""What a million motions cost: seconds, bytes and hours of each stage, from a run of a thousand.

    python tests/benchmarks/synthesis.py [--track open --model mdm] [--motions 1000] [--workers 1]
    python tests/benchmarks/synthesis.py --untrained --motions 16 --shard-size 8

Whole shards are made, in a folder that is deleted afterwards, with the prompts of notebook 01. What
is measured is said to be so: seconds of one process with one thread on this machine (of sampling on
its GPU, where it has one), bytes, and the peak of resident memory. The rest is arithmetic. Without
a GPU the seconds of sampling on one are *extrapolated*: floating-point operations of the matrix
products, counted, over the operations a second that --gpu-tflops assumes (float32, sustained), more
than small batches reach; or they are --gpu-seconds, measured elsewhere. Fitting, sensors and
writing stay on processors.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from t2imu_utils import data
from t2imu_utils.activities import ACTIVITIES
from t2imu_utils.body.smpl import load_bodies
from t2imu_utils.models.generator import generator_of, sizes_of
from t2imu_utils.models.prompts import load_prompts
from t2imu_utils.models.text import load_text_encoder
from t2imu_utils.runs import cache_dir
from t2imu_utils.synthesis import (
    STAGES,
    Plan,
    Store,
    Tools,
    load_store,
    run_shards,
    tools_of,
    with_bodies,
)
from t2imu_utils.tracks import Track, load_track
from tests.gait import gait_corpus

MANY = 1_000_000
COUNTED = 8  # motions whose operations are counted


def untrained(track: Track, model: str) -> Tools:
    """Tools with random weights of the track's sizes, and statistics of made-up clips."""
    generator = generator_of(track, model)
    clips, _ = gait_corpus(27)
    encoder = load_text_encoder(track.text_encoder, cache_dir("text"))
    prior = generator.untrained(sizes_of(track, model), clips, encoder, 0)
    return with_bodies(
        generator, prior, load_bodies() if track.body == "open" else data.bodies(track)
    )


def whole_shards(track: Track, model: str, motions: int, shard_size: int) -> Plan:
    """At least so many motions in whole shards, each of another prompt as long as they last."""
    size = min(shard_size, motions)
    count = -(-motions // size)
    lines = load_prompts()
    turns = [(a, lines[a][i]) for i in range(len(lines[ACTIVITIES[0]])) for a in ACTIVITIES]
    chosen: dict[str, list[str]] = {}
    for activity, line in sorted(turns[:count]):
        chosen.setdefault(activity, []).append(line)
    rounds = -(-count // min(count, len(turns)))
    seconds = track.sampling.seconds
    return Plan(
        track.name, model, chosen, size * rounds, (seconds[0], seconds[1]), size,
        batch_size=track.sampling.batch_size,
    )  # fmt: skip


def operations(tools: Tools, plan: Plan) -> float:
    """Floating-point operations of sampling one motion."""
    requests = plan.requests(plan.shards[0]).head(COUNTED)
    with FlopCounterMode(display=False) as counter:
        tools.generator.sample(
            tools.prior, requests, plan.guidance, len(requests), tools.device, progress=False
        )
    return counter.get_total_flops() / len(requests)


def cost_table(
    made: pd.DataFrame, gpu_seconds: float, on: str, gpus: int, cores: int
) -> pd.DataFrame:
    """A row for each stage, and their sum: what a motion took here, and what a million take."""
    rows = {}
    for stage in STAGES:
        here = made[stage].sum() / made["motions"].sum()
        sampled = stage == "sampling"
        row = {"s a motion, measured": here}
        row["processor hours"] = 0.0 if sampled else here * MANY / 3600
        row[f"GPU hours ({on})"] = gpu_seconds * MANY / 3600 if sampled else 0.0
        # Sampling on the GPUs and the rest on processors beside them: the slower of the two counts.
        row["hours"] = row[f"GPU hours ({on})"] / gpus + row["processor hours"] / cores
        row["GB"] = (
            made["bytes"].sum() / made["motions"].sum() * MANY / 1e9 if stage == "writing" else 0.0
        )
        rows[stage] = row
    table = pd.DataFrame(rows).T
    table.loc["all"] = table.sum()
    both = table.loc["sampling", "hours"], table.loc[list(STAGES[1:]), "hours"].sum()
    table.loc["all", "hours"] = max(both)
    return table.rename(columns={"hours": f"hours, {gpus} GPUs and {cores} processors"})


def memory(store: Store) -> str:
    """The peak of resident memory after a tenth of the shards and after all."""
    peaks = [store.record(shard)["peak_mb"] for shard in store.plan.shards]
    early, size = -(-len(peaks) // 10), store.plan.shard_size
    first, last = max(peaks[:early]), max(peaks)
    return (
        f"peak memory of the process, measured: {first:.0f} MB after {early * size} motions, "
        f"{last:.0f} MB after {len(peaks) * size} ({100 * (last / first - 1):+.1f} %)"
    )


@click.command(help=__doc__)
@click.option("--track", "name", default="cmu", show_default=True)
@click.option("--model", default="mdm", show_default=True, help="That notebook 02 has finished.")
@click.option("--untrained", "random", is_flag=True, help="Random weights of the track's sizes.")
@click.option("--motions", default=1000, show_default=True, help="At least; whole shards.")
@click.option("--shard-size", default=64, show_default=True)
@click.option("--workers", default=1, show_default=True, help="1 tells the memory's course.")
@click.option("--gpus", default=6, show_default=True, help="The paper's.")
@click.option("--cores", default=96, show_default=True, help="Processors beside them, assumed.")
@click.option("--gpu-tflops", default=5.0, show_default=True, help="Of one GPU, assumed.")
@click.option("--gpu-seconds", type=float, help="Of sampling a motion on a GPU, measured.")
def main(
    name: str, model: str, random: bool, motions: int, shard_size: int, workers: int, gpus: int,
    cores: int, gpu_tflops: float, gpu_seconds: float | None,
) -> None:  # fmt: skip
    track = load_track(name)
    tools = untrained(track, model) if random else tools_of(track, model)
    plan = whole_shards(track, model, motions, shard_size)
    with tempfile.TemporaryDirectory() as folder:
        made = run_shards(tools, plan, Path(folder), {"prior": "a" * 64}, workers)
        told = memory(load_store(Path(folder))) if workers == 1 else ""
    operated = operations(tools, plan)
    if tools.device == "cuda":
        on, each = (
            f"measured, {torch.cuda.get_device_name()}",
            made["sampling"].sum() / made["motions"].sum(),
        )
    elif gpu_seconds is not None:
        on, each = "given, measured elsewhere", gpu_seconds
    else:
        on = f"EXTRAPOLATED at {gpu_tflops:g} TFLOP/s, not measured"
        each = operated / (gpu_tflops * 1e12)
    weights = "untrained" if random else "trained"
    total = made.select_dtypes("number").sum()
    per_motion = total / total["motions"]
    lines = [
        f"{model} on {name}, {weights}: {total['motions']:.0f} motions of {plan.seconds[0]:g} to "
        f"{plan.seconds[1]:g} s, {len(plan.shards)} shards of {plan.shard_size}, 8 bodies, 9 sites",
        f"device {tools.device}, {workers} processes of one thread, {made.attrs['wall']:.0f} s",
        f"{per_motion['windows']:.1f} windows a motion (of 9 sensors each), "
        f"{per_motion['bytes'] / 1e3:.0f} kB a motion, "
        f"{operated / 1e9:.1f} GFLOP a motion (counted, sampling)",
        told,
        f"\nFor {MANY:,} motions:",
        cost_table(made, each, on, gpus, cores).to_string(float_format="{:.4g}".format),
    ]
    click.echo("\n".join(_filled(lines)))


def _filled(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if line]


if __name__ == "__main__":
    main()
