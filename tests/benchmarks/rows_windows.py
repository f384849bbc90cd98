"""Rows from sentence to sensors: motions of the shipped prior on eight bodies, as Parquet.

    python -m tests.benchmarks.rows_windows [--motions 1000] [--workers 2]

tells what a million motions cost, from a run of a thousand: on this machine, and as 32 jobs of a
cluster, each of one core, which start Python and read prior and bodies on their own. The run is
measured; what is multiplied from it is said to be so.
"""

import tempfile
import time
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch

from t2imu_utils.activities import SITES
from t2imu_utils.body.smpl import load_bodies
from t2imu_utils.files import sha256
from t2imu_utils.imu.sites import site_vertices
from t2imu_utils.models.diffusion import Solver
from t2imu_utils.models.mdm import MDMGenerator, load_prior
from t2imu_utils.models.prompts import load_prompts
from t2imu_utils.motion.features import RATE
from t2imu_utils.synthesis import (
    OVERLAP,
    SIZE,
    STAGES,
    Plan,
    Tools,
    processors,
    run_shards,
    with_bodies,
)
from t2imu_utils.text_to_imu import GUIDANCE, SOLVER
from t2imu_utils.tracks import OPEN_PRIOR, Precision
from tests.benchmarks.comparison import Comparison, within
from tests.benchmarks.machine import Machine
from tests.benchmarks.operations import mdm_guided
from tests.benchmarks.rows_body import fitted_bytes, skinning
from tests.benchmarks.sizes import Sizes

MANY, JOBS = 1_000_000, 32
SECONDS = 4.0  # of a motion
EIGHTH = 8  # the reference makes one of so many shards
INGREDIENTS = {"prior": OPEN_PRIOR.name}


def shipped(precision: Precision = "float32") -> Tools:
    """The shipped prior as `t2imu generate` samples it, and the bodies of Table I."""
    generator = MDMGenerator(Solver(SOLVER, precision=precision))
    return with_bodies(generator, load_prior(OPEN_PRIOR), load_bodies())


def plan_for(motions: int, seconds: float = SECONDS, shard_size: int = 25) -> Plan:
    """At least so many motions in whole shards of that size, activities taking turns."""
    lines = load_prompts()
    turns = [(a, own[i]) for i in range(min(map(len, lines.values()))) for a, own in lines.items()]
    size = min(shard_size, motions)
    chosen = turns[: -(-motions // size)]
    prompts = {a: [text for name, text in chosen if name == a] for a, _ in chosen}
    repetitions = size * -(-motions // (size * len(chosen)))
    length = seconds, seconds
    return Plan("open", "mdm", prompts, repetitions, length, size, guidance=GUIDANCE)


def windows_row(sizes: Sizes, machine: Machine, folder: Path) -> Comparison:
    """One process makes some of the shards, and one process for each core makes all."""
    tools, plan, workers = shipped(machine.precision), plan_for(sizes.motions), processors()
    parts = min(EIGHTH, len(plan.shards))
    share = sum(map(len, plan.part(1, parts)))
    calls = iter(range(1000))

    def made(workers: int, parts: int) -> tuple[dict[str, str], pd.DataFrame]:
        place = folder / f"{next(calls)}"
        table = run_shards(tools, plan, place, INGREDIENTS, workers, (1, parts), progress=False)
        return {path.name: sha256(path) for path in place.rglob("*.parquet")}, table

    def agree(one: tuple, all_: tuple) -> str:
        differ = sum(all_[0].get(name) != found for name, found in one[0].items())
        told = within(differ, 0, "{} files differ")
        spent = all_[1][list(STAGES)].sum()
        shares = ", ".join(f"{name} {x:.0%}" for name, x in (spent / spent.sum()).items())
        peak, size = all_[1]["peak_mb"], all_[1]["bytes"].sum() / 1e6
        return f"{told}; {shares}; {size:.0f} MB; {peak.iloc[0]:.0f} to {peak.max():.0f} MB held"

    frames, config = round(SECONDS * RATE), tools.prior.config
    tokens = max(tools.prior.text_encoder.count_tokens([text for _, text in plan.sentences]))
    evaluations = Solver(SOLVER).count(config.diffusion_steps)
    sampled = evaluations * mdm_guided(config, 1, frames, tokens)
    sensed = skinning(frames * len(tools.shapes), len(site_vertices(tools.sites)), tools.body)
    cut = (frames - SIZE) // round(SIZE * (1 - OVERLAP)) + 1
    written = 4 * 6 * SIZE * cut * len(SITES) * len(tools.shapes)
    moved = frames * fitted_bytes() + 2 * written
    return Comparison(
        name="windows",
        title=f"text to windows: {plan.motions} motions of {SECONDS:g} s x "
        f"{len(tools.shapes)} bodies x {len(SITES)} sensors, {evaluations} evaluations, "
        f"{machine.precision}, {workers} processes against one",
        unit="motion",
        reference=lambda: made(1, parts),
        ours=lambda: made(workers, 1),
        agree=agree,
        reach="1,000 motions in 45 s on two cores, flat memory, the same bytes",
        floor=machine.operations(sampled) + machine.operations(sensed)
        + machine.moves(moved),
        floor_is=f"{sampled:.2g} operations of sampling, {sensed:.2g} of skinning, and "
        f"{moved / 1e6:.1f} MB moved: normal equations of the fit, and windows read and written",
        reference_units=share,
        our_units=plan.motions,
        warm=False,
    )  # fmt: skip


def cost_table(made: pd.DataFrame, start: float, workers: int) -> pd.DataFrame:
    """Seconds a motion of each stage, and hours for a million here and on a cluster.

    start: seconds that a process takes before its first motion.
    """
    each = made[list(STAGES)].sum() / made["motions"].sum()
    each["all"] = each.sum()
    table = pd.DataFrame({"s a motion, measured": each})
    table["core hours for 10⁶"] = each * MANY / 3600
    here = made.attrs["wall"] * MANY / made["motions"].sum() / 3600
    table.loc["all", f"hours here, {workers} processes"] = here
    table.loc["all", f"hours as {JOBS} jobs"] = (each["all"] * MANY / JOBS + start) / 3600
    table.loc["all", "GB"] = made["bytes"].sum() / made["motions"].sum() * MANY / 1e9
    return table


@click.command(help=__doc__)
@click.option("--motions", default=1000, show_default=True)
@click.option("--workers", default=processors(), show_default=True)
def main(motions: int, workers: int) -> None:
    tools, plan = shipped(), plan_for(motions)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        made = run_shards(tools, plan, Path(folder), INGREDIENTS, workers)
    click.echo(f"{plan.motions} motions of {SECONDS:g} s on {tools.device}")
    click.echo(f"{made.attrs['wall']:.1f} s; a process starts in {start:.1f} s")
    gpu = torch.cuda.get_device_name() if tools.device == "cuda" else "not measured"
    click.echo(f"GPU: {gpu}")
    click.echo(cost_table(made, start, workers).to_string(float_format="{:.4g}".format, na_rep=""))
    peak = made["peak_mb"].to_numpy()
    click.echo(f"memory of a process: {peak[0]:.0f} MB at first, {np.max(peak):.0f} MB at most")


if __name__ == "__main__":
    main()
