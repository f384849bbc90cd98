"""The command ``t2imu``: reads arguments, which have the types of their options, calls the package,
prints.

An `InputError` is shown as its message, with exit code 2.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import click
import pandas as pd
import yaml

from t2imu_utils import inputs, runs
from t2imu_utils.errors import InputError
from t2imu_utils.files import output_file
from t2imu_utils.tracks import data_root

WIDEST = 110  # columns; longer lines are hard to read
PATH = click.Path(path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
SOME = click.IntRange(min=1)
# Options of several commands.
TRACK = click.option(
    "--track", default="demo", show_default=True, help="Its name, or its YAML file."
)
QUIET = click.option("--quiet", is_flag=True, help="No progress.")
NPZ = click.option("--out", type=PATH, required=True, help="The .npz file.")
FORCE = click.option("--force", is_flag=True, help="Write over files that are there.")


class Told(click.Group):
    """A group of commands whose `InputError` is a message, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            told = click.ClickException(str(error))
            told.exit_code = 2
            raise told from error


@click.group(cls=Told)
def main() -> None:
    """From text prompts to virtual IMU data: what the notebooks need."""


@main.group()
def data() -> None:
    """The inputs of a track: what is missing, and how to get it."""


@data.command("status")
@TRACK
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def show_status(track, as_json):
    """List every input of a track: present, missing, incomplete or wrong, and what to do.

    Exits with 0 only if everything that the track requires is there and right.
    """
    table, root = inputs.status(track), data_root()
    absent = inputs.lacking(table)
    if as_json:
        content = {"track": track, "data_root": str(root), "complete": not absent}
        content |= {"lacking": absent, "inputs": table.to_dict("records")}
        click.echo(json.dumps(content, indent=1))
    else:
        width = min(shutil.get_terminal_size().columns, WIDEST)
        click.echo(inputs.as_text(table, track, root, width))
    raise SystemExit(bool(absent))


@data.command("fetch")
@click.argument("names", nargs=-1)
@click.option("--track", help="Fetch what this track requires and lacks.")
@click.option("--optional", is_flag=True, help="With --track: what is optional as well.")
@click.option("--dry-run", is_flag=True, help="Only say what would be downloaded, and to where.")
@QUIET
def fetch(names, track, optional, dry_run, quiet):
    """Download inputs that need no login, and say how to get the others.

    What is there is never written over.
    """
    registry = inputs.load_registry()
    wanted = list(names)
    if track:
        table = inputs.status(track)
        kept = table if optional else table[table["needed"] != "optional"]
        wanted += [name for name in inputs.chosen(kept)["input"] if name not in wanted]
        if table.empty:
            click.echo(inputs.as_text(table, track, data_root()))
    elif not names:
        raise click.UsageError("Name inputs, or a track with --track.")
    entries = {name: inputs.find_input(registry, name) for name in wanted}
    failed = [name for name, entry in entries.items() if not _get(entry, dry_run, not quiet)]
    if failed:
        click.echo(f"Not fetched: {', '.join(failed)}", err=True)
        raise SystemExit(2)


# Of parameters and metrics those that a list of runs shows.
LISTED = {
    "λ": "params.arm.lambda_acc", "seed": "params.arm.seed", "L_acc": "metrics.acc",
    "held-out L_acc": "metrics.validation.acc", "accuracy": "metrics.balanced_accuracy.mean",
}  # fmt: skip


@main.group("runs", invoke_without_command=True)
@click.option("--track", default="*", help="Only this track's.")
@click.option("--stage", default="", help="Only of this stage: how its name begins, such as 02.")
@click.option("--json", "as_json", is_flag=True, help="For machines, with all that is recorded.")
@click.pass_context
def list_runs(ctx, track, stage, as_json):
    """List the finished runs: when, how long, key parameters and metrics.

    A run is named by track/model/stage, which may be cut short as long as only one run fits
    (mdm-ft/02), or by the beginning of its hash.
    """
    if ctx.invoked_subcommand is not None:
        return
    records, damaged = runs.load_records(track, stage)
    if as_json:
        click.echo(json.dumps(records, indent=1))
    elif not records:
        click.echo("No finished run fits. `make paper` makes them.")
    else:
        rows = [
            {"hash": r["hash"][:8], "run": r["run"], "finished (UTC)": r["finished"]}
            | {"seconds": r["wall_seconds"]}
            | {name: runs.leaves(r).get(path) for name, path in LISTED.items()}
            for r in records
        ]
        table = pd.DataFrame(rows).dropna(axis="columns", how="all")
        click.echo(table.to_string(index=False, na_rep="", float_format="{:.5g}".format))
    for each in damaged:
        click.echo(f"Left out: {each}", err=True)


@list_runs.command("show")
@click.argument("run")
def show_run(run):
    """Show one run in full, and which runs its inputs come from."""
    records, _ = runs.load_records()
    found = runs.find_record(run, records)
    origin = {runs.output_hash(r): r["run"] for r in records}
    made_from = {name: origin.get(x, x) for name, x in found["inputs"].items()}
    click.echo(yaml.safe_dump(found | {"inputs": made_from}, sort_keys=False, allow_unicode=True))


@list_runs.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--all", "everything", is_flag=True, help="Also what is equal.")
def compare_runs(a, b, everything):
    """Show what two runs differ in: parameters, inputs, versions, outputs, numbers."""
    records, _ = runs.load_records()
    table = runs.differences(runs.find_record(a, records), runs.find_record(b, records), everything)
    click.echo(table.to_string(na_rep="", max_colwidth=24) if len(table) else "No difference.")


def _job(ctx: click.Context, option: click.Parameter, text: str) -> tuple[int, int]:
    """``3/20`` as numbers."""
    job, _, jobs = text.partition("/")
    if not (job.isdecimal() and jobs.isdecimal() and 1 <= int(job) <= int(jobs)):
        raise click.BadParameter(f"{text!r} is no job such as 3/20")
    return int(job), int(jobs)


@main.command("synthesise")
@TRACK
@click.option("--model", required=True, help="That notebook 02 has finished: mdm, momask-acc0.1.")
@click.option("--repetitions", type=SOME, help="Of every prompt; by default the track's.")
@click.option("--motions", type=SOME, help="At least so many, in place of --repetitions.")
@click.option("--seconds", type=float, nargs=2, help="Shortest and longest; or the track's.")
@click.option("--prompts", type=PATH, help="YAML or transcript; or ours.")
@click.option("--seed", default=0, show_default=True, help="0: the motions of notebook 01.")
@click.option("--shard-size", type=SOME, default=64, show_default=True, help="Motions of a file.")
@click.option("--workers", type=SOME, help="Processes; by default one for each processor.")
@click.option("--only", default="1/1", callback=_job, help="Of n jobs the i-th (from 1): 3/20.")
@click.option("--out", type=PATH, required=True, help="The folder.")
@QUIET
def synthesise(
    track, model, repetitions, motions, seconds, prompts, seed, shard_size, workers, only, out,
    quiet,
):  # fmt: skip
    """Make windows of virtual sensors by the thousand, as partitioned Parquet files.

    Every prompt is sampled so many times, fitted to the eight bodies, sensed at nine places and
    cut into windows. What is in the folder already, whole, is not made again: an interrupted call
    goes on when it is repeated, and more repetitions are added to those that are there. The files
    are the same for any number of workers and jobs.

    Read OUT/windows with pandas, polars, DuckDB or pyarrow; OUT/records says what it was made
    from. On Slurm: --only $SLURM_ARRAY_TASK_ID/20 in a job array 1-20.
    """
    # Reads networks and body models: too slow a start for the other commands.
    from t2imu_utils.synthesis import plan_of, processors, summary_text, synthesise_windows
    from t2imu_utils.tracks import PROMPTS, load_track

    if repetitions is not None and motions is not None:
        raise click.UsageError("--repetitions or --motions, not both.")
    config = load_track(track)
    budget = repetitions, motions, seconds, shard_size, seed
    asked = plan_of(config, model, *budget, prompts or PROMPTS)
    workers = processors() if workers is None else workers
    summary = synthesise_windows(config, asked, out, workers, only, progress=not quiet)
    click.echo(summary_text(summary, asked, out))


@main.command("generate")
@click.argument("prompt")
@click.option("--seconds", default=6.0, show_default=True, help="How long the motion is.")
@NPZ
@click.option("--imu", is_flag=True, help="With the nine virtual sensors.")
@click.option("--picture", type=PATH, help="A film strip, as .png.")
@click.option("--seed", default=0, show_default=True, help="Another one, another motion.")
@click.option("--prior", type=PATH, help="By default the one in data/prior.")
@click.option("--person", default="mean", show_default=True, help='Of Table I: "male tall", ...')
@click.option("--guidance", default=1.5, show_default=True, help="Scale of the text.")
@click.option("--solver", default="sde-dpm++2m", show_default=True, help="Or ancestral, ddim, ...")
@click.option("--evaluations", type=int, help="By default 10; of ancestral all steps.")
@click.option("--strict", is_flag=True, help="Fail where it would warn.")
@FORCE
def generate(
    prompt, seconds, out, imu, picture, seed, prior, person, guidance, solver, evaluations, strict,
    force,
):  # fmt: skip
    """Make a motion of one English sentence, on the CPU and without a network.

    Read OUT with numpy.load: joints (T, 22, 3) in metres with Y up, at fps frames a second;
    features (T, 263), HumanML3D's; global_orient, body_pose, transl and betas of a body in SMPL's
    format; with --imu acc (m/s²) and gyro (rad/s), (T, 9, 3), of sites, in the sensors' own axes,
    which channels tells. meta is JSON: what it was made with.
    """
    # Reads networks and body models: too slow a start for the other commands.
    from t2imu_utils.models.diffusion import Solver
    from t2imu_utils.text_to_imu import generate_motion
    from t2imu_utils.tracks import OPEN_PRIOR

    files = [output_file(out, ".npz", force)]
    files += [output_file(picture, ".png", force)] if picture else []
    motion = generate_motion(
        prompt, seconds, seed, prior or OPEN_PRIOR, person, imu, guidance,
        Solver(solver, evaluations), strict,
    )  # fmt: skip
    for warning in motion.warnings:
        click.echo(f"Warning: {warning}", err=True)
    motion.save(out)
    if picture:
        motion.draw(picture)
    sensors = f", {len(motion.sites)} sensors" if imu else ""
    click.echo(f"{len(motion.joints)} frames at {motion.fps:g} a second{sensors}")
    for file in files:
        click.echo(f"{file}: {file.stat().st_size / 1e3:.0f} kB")


@main.command("sense")
@click.argument("motion", type=FILE)
@NPZ
@click.option("--rate", type=float, help="Frames a second of files that state none.")
@click.option("--person", default="own", show_default=True, help='Or mean, "male tall", ...')
@click.option("--sites", help="Names with commas between them; by default all nine.")
@click.option("--resample", type=click.FloatRange(20), help="Frames a second; the paper has 20.")
@click.option("--up", type=click.Choice(["y", "z"]), help="Up axis of joints (y), AMASS (z).")
@click.option("--scale", default=1.0, show_default=True, help="Metres a unit of the file.")
@click.option("--number", default=0, show_default=True, help="Of a file with many motions, which.")
@FORCE
def sense(motion, out, rate, person, sites, resample, up, scale, number, force):
    """Tell what sensors on a body would read that moves as in the file MOTION.

    MOTION is a .npy of joints (T, 22, 3) in metres, an .npz of AMASS or Kimodo, a .bvh, or what MDM
    or MoMask wrote. Read OUT with numpy.load: acc (m/s²) and gyro (rad/s), (T, S, 3), of sites, at
    fps readings a second, in the sensors' own axes, which channels tells. meta is JSON.
    """
    # Reads body models: too slow a start for the other commands.
    from t2imu_utils.imu.sensors import write_readings
    from t2imu_utils.own_motion import sense_motion

    output_file(out, ".npz", force, motion)
    names = None if sites is None else sites.split(",")
    readings = sense_motion(motion, rate, person, names, resample, up, scale, number)
    write_readings(out, readings)
    meta = json.loads(str(readings["meta"]))
    frames, sensors = readings["acc"].shape[:2]
    click.echo(f"{frames} readings at {readings['fps']:g} a second of {sensors} sensors")
    click.echo(f"a body of {meta['height_m']:.2f} m, joints met to {meta['joint_error_mm']:g} mm")
    click.echo(f"{out}: {out.stat().st_size / 1e3:.0f} kB")


def _get(entry: inputs.Input, dry_run: bool, progress: bool) -> bool:
    """Fetch one input or say how to get it; whether nothing went wrong."""
    root = data_root()
    click.echo(f"{entry.name}: {entry.what} ({entry.size})")
    click.echo(f"  terms: {entry.licence}\n  from:  {entry.page}")
    state, why = inputs.examine(entry, root)
    if state == "present":
        click.echo(f"  there already: {why}")
    elif not entry.files:
        for number, step in enumerate(entry.steps, 1):
            click.echo(f"  {number}. {step}")
        click.echo(f"  Its place: {root / entry.path}")
    elif dry_run:
        for url, path in inputs.plan(entry, root):
            click.echo(f"  would download {url}\n    to {path}")
    else:
        try:
            inputs.fetch(entry, root, progress)
        except InputError as error:
            click.echo(f"  Error: {error}", err=True)
            return False
        state, why = inputs.examine(entry, root)
        click.echo(f"  {state}: {why}")
        if state != "present":
            click.echo(f"  Move what is in {root / entry.path} away and fetch again.", err=True)
            return False
    return True


if __name__ == "__main__":
    main()
