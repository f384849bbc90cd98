"""Put the outputs of a run into the committed notebooks, and check that they belong together.

``python -m t2imu_utils.publish EXECUTED_DIR ...`` takes executed notebooks (``notebook.ipynb`` of a
run folder) and gives their outputs to the notebooks of the same name; sources stay as committed.
`check` is what the tests hold the committed notebooks to.
"""

import base64
import copy
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import nbformat

from t2imu_utils.dependencies import package_files
from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write, sha256
from t2imu_utils.parameters import TAG, declared_parameters, parameters_cell, read_notebook
from t2imu_utils.runs import ROOT, code_hash

NOTEBOOKS = ROOT / "notebooks"
INJECTED = "injected-parameters"
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
KEPT = ("image/png", "text/html", "text/latex", "text/markdown", "text/plain")
LARGEST_IMAGE, LARGEST_NOTEBOOK, LONGEST_CELL = 150_000, 1_000_000, 20

WIDGET = "application/vnd.jupyter.widget-view+json"
PROGRESS_BAR = re.compile(r"\d+%\||\d+it \[|\[\d\d:\d\d[<,]")
# At least two parts, at the start of a word: neither 20 m/s nor </td> nor https://.
ABSOLUTE_PATH = re.compile(
    r"(?:^|[\s\"'`(=\[,])((?:/[A-Za-z0-9_.~-]+){2,}|[A-Z]:\\[\w\\.-]+|~/[\w./-]+)", re.MULTILINE
)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The code cells that a person wrote, without the one that papermill adds."""
    return [
        c
        for c in notebook.cells
        if c.cell_type == "code" and INJECTED not in c.metadata.get("tags", [])
    ]


def cells_hash(notebook: nbformat.NotebookNode) -> str:
    """Hash of the written code cells' text, blanks at line ends aside; prose does not count."""
    sources = [
        "\n".join(line.rstrip() for line in cell.source.strip().splitlines())
        for cell in code_cells(notebook)
    ]
    return sha256(json.dumps(sources).encode())


def _text(bundle: str | list[str]) -> str:
    return bundle if isinstance(bundle, str) else "".join(bundle)


def clean_output(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """An output as a code host can show it, or None where nothing is left of it.

    Widgets and the progress bars on stderr go; of several renderings PNG and text stay.
    """
    if output.output_type == "stream":
        lines = _text(output.text).splitlines(keepends=True)
        if output.name == "stderr":
            lines = [x for x in lines if not PROGRESS_BAR.search(x)]
        text = "".join(lines)
        kept = nbformat.v4.new_output("stream", name=output.name, text=text)
        return kept if text.strip() else None
    if output.output_type in ("display_data", "execute_result"):
        if WIDGET in output.data:
            return None
        data = {kind: output.data[kind] for kind in KEPT if kind in output.data}
        if not data:
            return None
        # The number of the execution is set with that of the cell.
        return nbformat.v4.new_output("display_data", data=data)
    return copy.deepcopy(output)


def run_record(executed: nbformat.NotebookNode, where: Path) -> dict[str, Any]:
    """What `t2imu_utils.execute` wrote about a run into the executed notebook."""
    record = executed.metadata.get("t2imu", {})
    if not {"notebook", "parameters", "package"} <= set(record):
        raise InputError(
            f"{where}: metadata.t2imu",
            "no record of the run",
            "a notebook executed by `python -m t2imu_utils.execute`",
            "Run it so, or with `make paper`.",
        )
    return record


def _run_note(names: Iterable[str], parameters: dict[str, Any]) -> nbformat.NotebookNode:
    """What the reader sees below the parameters cell: it shows the defaults, not this run."""
    values = ", ".join(f"`{name} = {parameters[name]!r}`" for name in names)
    text = f"The outputs in this notebook are of a run with {values}."
    return nbformat.v4.new_output("display_data", data={"text/markdown": text, "text/plain": text})


def published(
    committed: nbformat.NotebookNode, executed: nbformat.NotebookNode, where: Path
) -> nbformat.NotebookNode:
    """The committed notebook with the outputs of an executed one.

    Raises:
        InputError: it was not run by `t2imu_utils.execute`, or its code is not the committed one.
    """
    record = run_record(executed, where)
    if cells_hash(committed) != cells_hash(executed):
        raise InputError(
            where,
            "code cells that differ from the committed notebook",
            "a run of the notebook as it is now",
            "Run it again, then publish.",
        )
    new = copy.deepcopy(committed)
    for count, (cell, run) in enumerate(zip(code_cells(new), code_cells(executed), strict=True), 1):
        cell.outputs = [kept for kept in map(clean_output, run.outputs) if kept is not None]
        cell.execution_count = count if run.execution_count is not None else None
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if TAG in tags:
            names = declared_parameters(cell.source, where)
            cell.outputs = [_run_note(names, record["parameters"])]
    stamp = {
        "track": record["parameters"].get("track"),
        "code": cells_hash(new),
        "package": record["package"],
    }
    new.metadata = nbformat.from_dict(
        {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}, "t2imu": stamp}
    )
    return new


def publish(executed: Sequence[Path], notebooks: Path = NOTEBOOKS) -> list[Path]:
    """Give the outputs of executed notebooks to the committed notebooks of the same name.

    All are checked before the first is written. A notebook keeps its modification time, since
    nothing changed that a run depends on.

    Args:
        executed: folders that hold a ``notebook.ipynb``, one for each committed notebook.
        notebooks: folder of the committed notebooks.

    Returns:
        The notebooks that were written.

    Raises:
        InputError: see `published`; or two runs of the same notebook.
    """
    pending: dict[Path, nbformat.NotebookNode] = {}
    for folder in map(Path, executed):
        source = folder / "notebook.ipynb" if folder.is_dir() else folder
        run = read_notebook(source)
        name = run_record(run, source)["notebook"]
        target = notebooks / name
        if target in pending:
            raise InputError(
                source, f"a second run of {name}", "one run of each notebook", "Choose one."
            )
        pending[target] = published(read_committed(target), run, source)
    for target, notebook in pending.items():
        times = target.stat()
        with atomic_write(target) as temporary:
            nbformat.write(notebook, temporary)
        os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
    return list(pending)


def read_committed(path: Path) -> nbformat.NotebookNode:
    """A notebook as it stands in the repository, without what papermill adds on reading."""
    read_notebook(path)
    return nbformat.read(path, as_version=4)


def _output_texts(output: nbformat.NotebookNode) -> Iterator[str]:
    if output.output_type == "stream":
        yield _text(output.text)
    elif output.output_type == "error":
        yield "\n".join(output.traceback)
    else:
        yield from (_text(v) for kind, v in output.data.items() if kind.startswith("text/"))


def _output_problems(output: nbformat.NotebookNode) -> Iterator[str]:
    if output.output_type == "error":
        yield f"an error: {output.ename}: {output.evalue}"
    for kind, content in output.get("data", {}).items():
        if kind not in KEPT:
            yield f"an output of type {kind}, which a code host does not show"
        elif kind == "image/png":
            size = len(base64.b64decode(_text(content)))
            if size > LARGEST_IMAGE:
                yield f"an image of {size / 1000:.0f} kB, at most {LARGEST_IMAGE // 1000}"
    for text in _output_texts(output):
        for path in sorted(set(ABSOLUTE_PATH.findall(text))):
            yield f"the absolute path {path} in an output"


def _cell_problems(cell: nbformat.NotebookNode) -> Iterator[str]:
    if cell.cell_type != "code":
        return
    for path in sorted(set(ABSOLUTE_PATH.findall(cell.source))):
        yield f"the absolute path {path}"
    lines = len(cell.source.strip().splitlines())
    if lines > LONGEST_CELL:
        yield f"{lines} lines of code, at most {LONGEST_CELL}"
    if cell.source.strip() and cell.execution_count is None:
        yield "never run"
    for output in cell.outputs:
        yield from _output_problems(output)


def check(notebooks: Sequence[Path], package: str | None = None) -> list[str]:
    """What is wrong with committed notebooks; an empty list when they can be read as they are.

    Args:
        notebooks: paths of notebooks.
        package: hash of the package's code to compare with, by default of what the notebook's
            imports reach.

    Returns:
        One line per problem: notebook, cell, what was found. Outputs must belong to the code
        cells and to the package's code that they reach (comments and docstrings aside), be there,
        hold no error, no absolute path and no image over 150 kB; a notebook stays below 1 MB, a
        cell below 21 lines.
    """
    problems = []
    for path in map(Path, notebooks):
        notebook = read_committed(path)
        parameters_cell(notebook, path)
        stamp = notebook.metadata.get("t2imu", {})
        found = []
        if "code" not in stamp:
            found.append("never published: `make publish`")
        elif stamp["code"] != cells_hash(notebook):
            found.append("code cells have changed since its outputs were made: run and publish")
        elif stamp["package"] != (package or code_hash(*package_files(path, ROOT))):
            found.append("t2imu_utils has changed since its outputs were made: run and publish")
        if not any(cell.outputs for cell in code_cells(notebook)):
            found.append("no outputs")
        if notebook.metadata.get("kernelspec", {}).get("name") != KERNELSPEC["name"]:
            found.append(f"kernelspec is not {KERNELSPEC['name']}")
        extra = sorted(set(notebook.metadata) & {"papermill", "widgets"})
        found += [f"metadata of {name}" for name in extra]
        if path.stat().st_size > LARGEST_NOTEBOOK:
            found.append(f"{path.stat().st_size / 1e6:.1f} MB, at most 1")
        for number, cell in enumerate(notebook.cells, 1):
            found += [f"cell {number}: {problem}" for problem in _cell_problems(cell)]
        problems += [f"{path.name}: {problem}" for problem in found]
    return problems


@click.command(help="Put the outputs of executed notebooks into notebooks/*.ipynb, and check them.")
@click.argument("executed", nargs=-1, required=True, type=click.Path(path_type=Path))
def main(executed: tuple[Path, ...]) -> None:
    try:
        written = publish(executed)
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    problems = check(written)
    for line in [f"{path.name}: published" for path in written] + problems:
        click.echo(line, err=line in problems)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
