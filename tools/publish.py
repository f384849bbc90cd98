"""Give the outputs of a run to the committed notebooks, whose sources stay as they are.

python -m tools.publish data/runs/open/compare/05_lacc_analysis ...
"""

import os
import sys
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def publish(executed: Path, notebooks: Path = NOTEBOOKS) -> Path:
    """Copy outputs from `executed` (written by `t2imu_utils.execute`), cell by cell.

    What was written to stderr, such as progress bars, is left out. The notebook keeps its time,
    since nothing changed that a run depends on.
    """
    run = nbformat.read(executed, as_version=4)
    path = notebooks / run.metadata["t2imu"]["notebook"]
    committed, times = nbformat.read(path, as_version=4), path.stat()
    cells = [c for c in run.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    if [c.source for c in cells] != [c.source for c in committed.cells]:
        sys.exit(f"{executed}: run {path.name} as it is now, then publish.")
    for cell, done in zip(committed.cells, cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs = [o for o in done.outputs if o.get("name") != "stderr"]
            cell.execution_count = done.execution_count
        if "parameters" in cell.metadata.get("tags", []):  # the cell shows the defaults
            values = run.metadata["t2imu"]["parameters"].items()
            text = ", ".join(f"`{name} = {value!r}`" for name, value in values)
            data = {"text/markdown": f"The outputs in this notebook are of a run with {text}."}
            cell.outputs = [nbformat.v4.new_output("display_data", data)]
    nbformat.write(committed, path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return path


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        sys.stdout.write(f"{publish(Path(folder, 'notebook.ipynb'))}\n")
