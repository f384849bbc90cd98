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

from t2imu_utils.errors import InputError
from t2imu_utils.inputs.downloads import fetch as fetch_input
from t2imu_utils.inputs.downloads import plan
from t2imu_utils.inputs.registry import Input, find_input, load_registry
from t2imu_utils.inputs.status import as_text, lacking, look, status, to_fetch
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
@click.option("--checksums", is_flag=True, help="Read all files that have a known checksum.")
def show_status(track: str, as_json: bool, checksums: bool) -> None:
    """List every input of a track: present, missing, incomplete or wrong, and what to do.

    Exits with 0 only if everything that the track requires is there and right.
    """
    table, root = status(track, checksums=checksums), data_root()
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

    What is there is never written over. An interrupted download goes on where it stopped when the
    same command is run again.
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


def _get(entry: Input, dry_run: bool, progress: bool) -> bool:
    """Fetch one input or say how to get it; whether nothing went wrong."""
    root = data_root()
    click.echo(f"{entry.name}: {entry.what} ({entry.size})")
    click.echo(f"  terms: {entry.licence}\n  from:  {entry.page}")
    found = look(entry, root)
    if found.state == "present":
        click.echo(f"  there already: {found.why}")
        return True
    if not entry.files:
        for number, step in enumerate(entry.steps, 1):
            click.echo(f"  {number}. {step}")
        click.echo(f"  Its place: {root / entry.path}")
        return True
    if dry_run:
        for file in plan(entry, root):
            held = f", {file.held / 1e6:.1f} MB are there" if file.held else ""
            click.echo(f"  would download {file.url}\n    to {file.path}{held}")
        return True
    try:
        fetch_input(entry, root, progress)
    except InputError as error:
        click.echo(f"  Error: {error}", err=True)
        return False
    except KeyboardInterrupt:
        click.echo("  Stopped. The same command goes on where it stopped.", err=True)
        raise
    found = look(entry, root)
    click.echo(f"  {found.state}: {found.why}")
    if found.state != "present":
        click.echo(f"  Move what is in {root / entry.path} away and fetch again.", err=True)
    return found.state == "present"


if __name__ == "__main__":
    main()
