"""A sweep that is killed and started again, against one that is left alone, file by file.

    python tests/sweeps/interruption.py --folder /tmp/sweeps [--weights "0 0.1 1"] [--seeds "0 1"]

Real trainings, so this takes as long as two sweeps and is run by hand; what tests run has the same
workflow with stand-ins (`tests/test_workflow.py`, `tests/slurm`). The first sweep is undisturbed.
The second is killed with all its processes (SIGKILL) at random moments, unlocked and called again.
Then every output of every run, and every metric, must be the same.
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import click
import psutil

from t2imu_utils.files import read_json, sha256
from t2imu_utils.tracks import load_track


def start(command: list[str], runs: Path, log: Path) -> subprocess.Popen:
    """A call of make whose runs and figures go to a folder."""
    environment = {**os.environ, "T2IMU_RUNS": str(runs)}
    with open(log, "a") as stream:
        return subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)


def kill(process: subprocess.Popen) -> int:
    """SIGKILL to a process and all that it has begun; returns how many they were."""
    everyone = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for one in everyone:
        if one.is_running():
            one.kill()
    process.wait()
    psutil.wait_procs(everyone, timeout=30)
    return len(everyone)


def results(runs: Path, track: str) -> dict[str, str]:
    """By name: the hash of every output of every run, and of its metrics."""
    found = {}
    for record in sorted((runs / track).glob("*/*/run.json")):
        content, name = read_json(record), record.parent.relative_to(runs).as_posix()
        metrics = json.dumps(content["metrics"], sort_keys=True)
        found[f"{name}: metrics"] = sha256(metrics.encode())
        for output in content["outputs"]:
            whole = record.parent / output
            for path in sorted(whole.rglob("*")) if whole.is_dir() else [whole]:
                if path.is_file():
                    found[path.relative_to(runs).as_posix()] = sha256(path.read_bytes())
    return found


@click.command(help=__doc__)
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="For both sweeps.")
@click.option("--track", default="demo", show_default=True)
@click.option("--weights", default="0 0.1 1", show_default=True)
@click.option("--seeds", default="0 1", show_default=True)
@click.option("--generators", default="mdm", show_default=True)
@click.option("--set", "more", multiple=True, help="Another variable of make, NAME=VALUE.")
@click.option("--kills", default=2, show_default=True)
@click.option("--chance", default=0, show_default=True, help="Seed of the moments.")
def main(
    folder: Path, track: str, weights: str, seeds: str, generators: str, more: tuple[str, ...],
    kills: int, chance: int,
) -> None:  # fmt: skip
    # Jobs work in other folders than this one.
    folder, name = folder.resolve(), load_track(track).name
    grid = [f"LAMBDA_ACC={weights}", f"SEEDS={seeds}", f"GENERATORS={generators}", *more]
    sweep, unlock = (["make", what, f"TRACK={track}", *grid] for what in ("sweep", "unlock"))
    left_alone, killed = folder / "left_alone", folder / "killed"
    for runs in (left_alone, killed):
        runs.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    if start(sweep, left_alone, folder / "left_alone.log").wait():
        sys.exit(f"The undisturbed sweep failed: see {folder / 'left_alone.log'}.")
    whole = time.monotonic() - began
    click.echo(f"left alone: {whole:.0f} s")
    moments = random.Random(chance)
    for turn in range(kills):
        process = start(sweep, killed, folder / "killed.log")
        wait = moments.uniform(0.05, 0.95) * whole / (kills + 1)
        try:
            process.wait(wait)
            click.echo(f"call {turn + 1} had ended before it was to be killed, after {wait:.0f} s")
        except subprocess.TimeoutExpired:
            click.echo(f"call {turn + 1}: {kill(process)} processes killed after {wait:.0f} s")
            start(unlock, killed, folder / "killed.log").wait()
    began = time.monotonic()
    if start(sweep, killed, folder / "killed.log").wait():
        sys.exit(f"The killed sweep did not recover: see {folder / 'killed.log'}.")
    click.echo(f"the last call: {time.monotonic() - began:.0f} s")
    one, other = results(left_alone, name), results(killed, name)
    different = sorted(
        name for name in one.keys() | other.keys() if one.get(name) != other.get(name)
    )
    click.echo(f"{len(one)} outputs and metrics; different: {', '.join(different) or 'none'}")
    sys.exit(bool(different) or not one)


if __name__ == "__main__":
    main()
