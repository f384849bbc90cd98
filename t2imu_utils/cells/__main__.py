"""One cell from the command line."""

import importlib
import sys

import click

from t2imu_utils.errors import InputError
from t2imu_utils.tracks import load_track

# By stage: its module here, and the function in it.
CELLS = {
    "03_smpl_fitting": ("sampling", "sample_and_fit"),
    "04_imu_synthesis": ("sensing", "sense"),
    "05_lacc_analysis": ("losses", "measure_losses"),
    "07_har": ("recognition", "recognise"),
}


@click.command(help="Do what one model has to do in one stage.")
@click.argument("stage", type=click.Choice(list(CELLS)))
@click.option("--track", default="demo", show_default=True, help="Its name, or its YAML file.")
@click.option("--model", required=True, help="Such as mdm, mdm-ft, momask-acc0.1.")
def main(stage: str, track: str, model: str) -> None:
    module, function = CELLS[stage]
    work = getattr(importlib.import_module(f"t2imu_utils.cells.{module}"), function)
    try:
        work(load_track(track), model)
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    click.echo(f"{model}, {stage}: done")


if __name__ == "__main__":
    main()
