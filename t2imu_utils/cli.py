"""The command ``t2imu``: reads arguments, calls the package, prints.

An `InputError` is shown as its message, with exit code 2.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import pandas as pd
import yaml

from t2imu_utils.errors import InputError
from t2imu_utils.inputs import (
    Input,
    as_text,
    examine,
    find_input,
    lacking,
    load_registry,
    plan,
    status,
    to_fetch,
)
from t2imu_utils.inputs import fetch as fetch_input
from t2imu_utils.runs import differences, find_record, leaves, load_records, output_hash
from t2imu_utils.tracks import data_root

WIDEST = 110  # columns; longer lines are hard to read


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
@click.option("--track", default="demo", show_default=True, help="Its name, or its YAML file.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def show_status(track: str, as_json: bool) -> None:
    """List every input of a track: present, missing, incomplete or wrong, and what to do.

    Exits with 0 only if everything that the track requires is there and right.
    """
    table, root = status(track), data_root()
    absent = lacking(table)
    if as_json:
        content = {
            "track": track,
            "data_root": str(root),
            "complete": not absent,
            "lacking": absent,
            "inputs": table.to_dict("records"),
        }
        click.echo(json.dumps(content, indent=1))
    else:
        click.echo(as_text(table, track, root, min(shutil.get_terminal_size().columns, WIDEST)))
    raise SystemExit(bool(absent))


@data.command("fetch")
@click.argument("names", nargs=-1)
@click.option("--track", help="Fetch what this track requires and lacks.")
@click.option("--optional", is_flag=True, help="With --track: what is optional as well.")
@click.option("--dry-run", is_flag=True, help="Only say what would be downloaded, and to where.")
@click.option("--quiet", is_flag=True, help="No progress.")
def fetch(
    names: tuple[str, ...], track: str | None, optional: bool, dry_run: bool, quiet: bool
) -> None:
    """Download inputs that need no login, and say how to get the others.

    What is there is never written over.
    """
    registry = load_registry()
    wanted = list(names)
    if track:
        table = status(track)
        kept = table if optional else table[table["needed"] != "optional"]
        wanted += [name for name in to_fetch(kept) if name not in wanted]
        if table.empty:
            click.echo(as_text(table, track, data_root()))
    elif not names:
        raise click.UsageError("Name inputs, or a track with --track.")
    failed = [n for n in wanted if not _get(find_input(registry, n), dry_run, progress=not quiet)]
    if failed:
        click.echo(f"Not fetched: {', '.join(failed)}", err=True)
        raise SystemExit(2)


@data.command("build-humanml3d")
@click.option(
    "--target-clip",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A published clip of new_joints, whose body all motions get if 000021 is not to be built.",
)
def build(target_clip: Path | None) -> None:
    """Build HumanML3D's features from AMASS, SMPL+H and HumanAct12.

    What is there already stays, so an interrupted build goes on. What could not be built is told
    by reason, and clip by clip in not_built.csv.
    """
    # Reads body models: too slow a start for the other commands.
    from t2imu_utils.body.amass import build_humanml3d
    from t2imu_utils.motion.corpus import read_array
    from t2imu_utils.motion.humanml3d import integrity
    from t2imu_utils.motion.skeleton import bone_offsets

    root = data_root()
    folder = root / "humanml3d"
    offsets = bone_offsets(read_array(target_clip)[0]) if target_clip else None
    done = build_humanml3d(
        root / "amass",
        root / "smplh",
        folder / "index.csv",
        folder / "texts",
        folder,
        target_offsets=offsets,
    )
    table = pd.DataFrame([asdict(s) for s in done.skipped], columns=["name", "reason"])
    table.to_csv(folder / "not_built.csv", index=False)
    for remark in done.remarks:
        click.echo(f"{remark.name}: {remark.reason}")
    for reason, count in done.reasons.items():
        click.echo(f"not built: {count} × {reason}")
    click.echo(f"{len(done.built)} clips built, {len(done.kept)} there already, in {folder}")
    click.echo(integrity(folder).to_string(index=False))
    raise SystemExit(bool(len(table)))


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
def list_runs(ctx: click.Context, track: str, stage: str, as_json: bool) -> None:
    """List the finished runs: when, how long, key parameters and metrics.

    A run is named by track/model/stage, which may be cut short as long as only one run fits
    (mdm-ft/02), or by the beginning of its hash.
    """
    if ctx.invoked_subcommand is not None:
        return
    records, damaged = load_records(track, stage)
    if as_json:
        click.echo(json.dumps(records, indent=1))
    elif not records:
        click.echo("No finished run fits. `make paper` makes them.")
    else:
        rows = [
            {"hash": r["hash"][:8], "run": r["run"], "finished (UTC)": r["finished"]}
            | {"seconds": r["wall_seconds"]}
            | {name: leaves(r).get(path) for name, path in LISTED.items()}
            for r in records
        ]
        table = pd.DataFrame(rows).dropna(axis="columns", how="all")
        click.echo(table.to_string(index=False, na_rep="", float_format="{:.5g}".format))
    for each in damaged:
        click.echo(f"Left out: {each}", err=True)


@list_runs.command("show")
@click.argument("run")
def show_run(run: str) -> None:
    """Show one run in full, and which runs its inputs come from."""
    records, _ = load_records()
    found = find_record(run, records)
    origin = {output_hash(r): r["run"] for r in records}
    inputs = {name: origin.get(x, x) for name, x in found["inputs"].items()}
    click.echo(yaml.safe_dump(found | {"inputs": inputs}, sort_keys=False, allow_unicode=True))


@list_runs.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--all", "everything", is_flag=True, help="Also what is equal.")
def compare_runs(a: str, b: str, everything: bool) -> None:
    """Show what two runs differ in: parameters, inputs, versions, outputs, numbers."""
    records, _ = load_records()
    table = differences(find_record(a, records), find_record(b, records), everything)
    click.echo(table.to_string(na_rep="", max_colwidth=24) if len(table) else "No difference.")


def _job(ctx: click.Context, option: click.Parameter, text: str) -> tuple[int, int]:
    """``3/20`` as numbers."""
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise click.BadParameter(f"{text!r} is no job such as 3/20")
    return int(parts[0]), int(parts[1])


@main.command("synthesise")
@click.option("--track", default="demo", show_default=True, help="Its name, or its YAML file.")
@click.option("--model", required=True, help="That notebook 02 has finished: mdm, momask-acc0.1.")
@click.option("--repetitions", type=int, help="Of every prompt; by default the track's.")
@click.option("--motions", type=int, help="At least so many, in place of --repetitions.")
@click.option("--seconds", type=float, nargs=2, help="Shortest and longest; or the track's.")
@click.option("--prompts", type=click.Path(path_type=Path), help="YAML or transcript; or ours.")
@click.option("--seed", default=0, show_default=True, help="0: the motions of notebook 01.")
@click.option("--shard-size", default=64, show_default=True, help="Motions of a file at most.")
@click.option("--workers", type=int, help="Processes; by default one for each processor.")
@click.option("--only", default="1/1", callback=_job, help="Of n jobs the i-th (from 1): 3/20.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder.")
@click.option("--quiet", is_flag=True, help="No progress.")
def synthesise(
    track: str,
    model: str,
    repetitions: int | None,
    motions: int | None,
    seconds: tuple[float, float] | None,
    prompts: Path | None,
    seed: int,
    shard_size: int,
    workers: int | None,
    only: tuple[int, int],
    out: Path,
    quiet: bool,
) -> None:
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
    asked = plan_of(
        config, model, repetitions, motions, seconds, shard_size, seed, prompts or PROMPTS
    )
    workers = processors() if workers is None else workers
    summary = synthesise_windows(config, asked, out, workers, only, progress=not quiet)
    click.echo(summary_text(summary, asked, out))


@main.command("generate")
@click.argument("prompt")
@click.option("--seconds", default=6.0, show_default=True, help="How long the motion is.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .npz file.")
@click.option("--imu", is_flag=True, help="With the nine virtual sensors.")
@click.option("--picture", type=click.Path(path_type=Path), help="A film strip, as .png.")
@click.option("--seed", default=0, show_default=True, help="Another one, another motion.")
@click.option("--prior", type=click.Path(path_type=Path), help="By default the one in data/prior.")
@click.option("--person", default="mean", show_default=True, help='Of Table I: "male tall", ...')
@click.option("--guidance", default=1.5, show_default=True, help="Scale of the text.")
@click.option("--solver", default="sde-dpm++2m", show_default=True, help="Or ancestral, ddim, ...")
@click.option("--evaluations", type=int, help="By default 10; of ancestral all steps.")
@click.option("--strict", is_flag=True, help="Fail where it would warn.")
@click.option("--force", is_flag=True, help="Write over files that are there.")
def generate(
    prompt: str,
    seconds: float,
    out: Path,
    imu: bool,
    picture: Path | None,
    seed: int,
    prior: Path | None,
    person: str,
    guidance: float,
    solver: str,
    evaluations: int | None,
    strict: bool,
    force: bool,
) -> None:
    """Make a motion of one English sentence, on the CPU and without a network.

    Read OUT with numpy.load: joints (T, 22, 3) in metres with Y up, at fps frames a second;
    features (T, 263), HumanML3D's; global_orient, body_pose, transl and betas of a body in SMPL's
    format; with --imu acc (m/s²) and gyro (rad/s), (T, 9, 3), of sites, in the sensors' own axes,
    which channels tells. meta is JSON: what it was made with.
    """
    # Reads networks and body models: too slow a start for the other commands.
    from t2imu_utils.files import output_file
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
@click.argument("motion", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .npz file.")
@click.option("--rate", type=float, help="Frames a second of files that state none.")
@click.option("--person", default="own", show_default=True, help='Or mean, "male tall", ...')
@click.option("--sites", help="Names with commas between them; by default all nine.")
@click.option("--resample", type=float, help="Sense at so many frames a second: 20 as the paper.")
@click.option("--up", type=click.Choice(["y", "z"]), help="Up axis of joints (y), AMASS (z).")
@click.option("--scale", default=1.0, show_default=True, help="Metres a unit of the file.")
@click.option("--number", default=0, show_default=True, help="Of a file with many motions, which.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def sense(
    motion: Path,
    out: Path,
    rate: float | None,
    person: str,
    sites: str | None,
    resample: float | None,
    up: str | None,
    scale: float,
    number: int,
    force: bool,
) -> None:
    """Tell what sensors on a body would read that moves as in the file MOTION.

    MOTION is a .npy of joints (T, 22, 3) in metres, an .npz of AMASS or Kimodo, a .bvh, or what MDM
    or MoMask wrote. Read OUT with numpy.load: acc (m/s²) and gyro (rad/s), (T, S, 3), of sites, at
    fps readings a second, in the sensors' own axes, which channels tells. meta is JSON.
    """
    # Reads body models: too slow a start for the other commands.
    from t2imu_utils.files import output_file
    from t2imu_utils.imu.sensors import write_readings
    from t2imu_utils.own_motion import sense_motion

    output_file(out, ".npz", force, motion)
    names = sites.split(",") if sites else None
    readings = sense_motion(motion, rate, person, names, resample, up, scale, number)
    write_readings(out, readings)
    meta = json.loads(str(readings["meta"]))
    frames, sensors = readings["acc"].shape[:2]
    click.echo(f"{frames} readings at {readings['fps']:g} a second of {sensors} sensors")
    click.echo(f"a body of {meta['height_m']:.2f} m, joints met to {meta['joint_error_mm']:g} mm")
    click.echo(f"{out}: {out.stat().st_size / 1e3:.0f} kB")


def _get(entry: Input, dry_run: bool, progress: bool) -> bool:
    """Fetch one input or say how to get it; whether nothing went wrong."""
    root = data_root()
    click.echo(f"{entry.name}: {entry.what} ({entry.size})")
    click.echo(f"  terms: {entry.licence}\n  from:  {entry.page}")
    state, why = examine(entry, root)
    if state == "present":
        click.echo(f"  there already: {why}")
        return True
    if not entry.files:
        for number, step in enumerate(entry.steps, 1):
            click.echo(f"  {number}. {step}")
        click.echo(f"  Its place: {root / entry.path}")
        return True
    if dry_run:
        for url, path in plan(entry, root):
            click.echo(f"  would download {url}\n    to {path}")
        return True
    try:
        fetch_input(entry, root, progress)
    except InputError as error:
        click.echo(f"  Error: {error}", err=True)
        return False
    state, why = examine(entry, root)
    click.echo(f"  {state}: {why}")
    if state != "present":
        click.echo(f"  Move what is in {root / entry.path} away and fetch again.", err=True)
    return state == "present"


if __name__ == "__main__":
    main()
