"""Seconds of every hot path beside a plain reference, in one table.

    make bench                                    # the table, about twelve minutes on two cores
    make bench BENCH_ARGS="--only fitting --only imu --repeats 5"
    make bench BENCH_ARGS="--out bench.json --out bench.md"

Reference and ours take turns, several times; medians are printed with the range, and how far ours
is from a floor that is derived from what this machine multiplies and copies in the same run. Before
times are told, both are checked to have made the same: a row whose results differ is left out,
and the command ends as an error.
Nothing is judged: on another machine, or on a busy one, times are others.

The references (`tests/benchmarks/reference`) are written as the original tools work. On a machine
with CUDA the paths that have a device run there. --quick takes miniature sizes: it tells whether
the benchmark works, and nothing about speed.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import torch

from t2imu_utils.tracks import Precision
from tests.benchmarks import rows_body, rows_priors, rows_signals, rows_windows
from tests.benchmarks.comparison import Comparison, Disagreement, Row, header, measure, table
from tests.benchmarks.machine import Machine, measure_machine
from tests.benchmarks.sizes import FULL, QUICK, Sizes

ROWS: dict[str, Callable[[Sizes, Machine, Path], Comparison]] = {
    "sampling": rows_priors.sampling_row,
    "solver": rows_priors.second_order_row,
    "training": rows_priors.training_row,
    "fitting": rows_body.fitting_row,
    "imu": rows_body.imu_row,
    "features": rows_signals.features_row,
    "reading": rows_signals.reading_row,
    "recognition": rows_signals.recognition_row,
    "notebook": rows_signals.notebook_row,
    "windows": rows_windows.windows_row,
}


def run_row(name: str, sizes: Sizes, machine: Machine, repeats: int) -> Row:
    """Set up one row in a folder of its own, and measure it."""
    with tempfile.TemporaryDirectory() as folder:
        return measure(ROWS[name](sizes, machine, Path(folder)), repeats, machine.device)


def write(path: Path, machine: Machine, repeats: int, rows: Sequence[Row]) -> None:
    """The table as JSON (all numbers) or as Markdown, by the name's ending."""
    head = header(machine, repeats)
    if path.suffix == ".json":
        content = {"machine": head, "rate": machine.rate, "copied": machine.copied}
        text = json.dumps(content | {"rows": [row.record() for row in rows]}, indent=1)
    else:
        text = "\n".join([*(f"- {line}" for line in head), "", *table(rows)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


@click.command(help=__doc__)
@click.option("--only", multiple=True, type=click.Choice(list(ROWS)), help="Rows; all if not told.")
@click.option("--repeats", default=3, show_default=True, help="Of each way.")
@click.option(
    "--precision",
    default="float32",
    type=click.Choice(["float32", "bfloat16"]),
    help="Of our networks; bfloat16 concerns sampling, solver, training and windows.",
)
@click.option("--quick", is_flag=True, help="Miniature sizes.")
@click.option("--out", multiple=True, type=click.Path(path_type=Path), help=".json or .md")
def main(
    only: Sequence[str], repeats: int, precision: Precision, quick: bool, out: Sequence[Path]
) -> None:
    sizes = QUICK if quick else FULL
    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine = measure_machine(device, sizes.machine, precision)
    rows, wrong = [], []
    for name in only or ROWS:
        click.echo(f"{name} ...", err=True)
        try:
            rows.append(run_row(name, sizes, machine, repeats))
        except Disagreement as error:
            wrong.append(f"{name}: reference and ours did not make the same: {error}")
            continue
        # What is there is kept, should a later row break off.
        for path in out:
            write(path, machine, repeats, rows)
    click.echo("\n".join([*header(machine, repeats), "", *table(rows)]))
    if wrong:
        raise click.ClickException("\n".join(wrong))


if __name__ == "__main__":
    main()
