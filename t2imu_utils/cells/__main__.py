"""One cell from the command line."""

import importlib
import sys
from collections.abc import Callable
from typing import Any

import click

from t2imu_utils import runs
from t2imu_utils.errors import InputError
from t2imu_utils.tracks import load_track


def _recognition(slug: str) -> dict[str, Any]:
    # Reads body models and sensors: too slow a start for the other cells.
    from t2imu_utils.analysis.har import parse_variant

    return {"variant": parse_variant(slug)}


# By stage: its module here, the function in it, and what a variant's name means to that.
CELLS: dict[str, tuple[str, str, Callable[[str], dict[str, Any]] | None]] = {
    "03_smpl_fitting": ("sampling", "sample_and_fit", None),
    "03_solvers": ("solvers", "compare_solvers", None),
    "04_imu_synthesis": ("sensing", "sense", None),
    "05_lacc_analysis": ("losses", "measure_losses", None),
    "07_har": ("recognition", "recognise", _recognition),
}


@click.command()
@click.argument("stage")
@click.option("--track", default="demo", show_default=True, help="Its name, or its YAML file.")
@click.option("--model", required=True, help="Such as mdm, mdm-ft, momask-acc0.1.")
def main(stage: str, track: str, model: str) -> None:
    """Do what one model has to do in one stage.

    STAGE may end with how it is done otherwise: 07_har-gravity-keep0.5.
    """
    plain = runs.plain_stage(stage)
    slug = stage.removeprefix(plain).removeprefix("-")
    if plain not in CELLS or (slug and CELLS[plain][2] is None):
        known = [f"{name}[-…]" if cell[2] else name for name, cell in CELLS.items()]
        raise click.BadParameter(f"{stage!r} is none of {', '.join(known)}", param_hint="STAGE")
    module, function, parse = CELLS[plain]
    work = getattr(importlib.import_module(f"t2imu_utils.cells.{module}"), function)
    try:
        work(load_track(track), model, **(parse(slug) if slug else {}))
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    click.echo(f"{model}, {stage}: done")


if __name__ == "__main__":
    main()
