"""The strict papermill runner: a notebook is executed as asked, whole, or not at all.

``python -m t2imu_utils.execute NOTEBOOK OUT -p name value ...`` rejects what papermill lets pass
(unknown parameters, a missing parameters cell, values of another type), gives every notebook a
kernel of its own, and leaves OUT only when the last cell has run. While it runs, OUT's neighbour
``*.partial.ipynb`` holds what is there so far; after a failure that is kept as ``*.failed.ipynb``.
"""

import ast
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import nbformat
import yaml
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from papermill.engines import papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.execute import raise_for_execution_errors
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from pydantic import ConfigDict, TypeAdapter, ValidationError

import t2imu_utils
from t2imu_utils.errors import InputError
from t2imu_utils.files import output_file
from t2imu_utils.runs import ROOT

log = logging.getLogger(__name__)


# ---------------------------------------------------------------- the parameters cell
# papermill's own inspection drops a parameter whose type is a union, such as ``int | None``.
TAG = "parameters"
TYPES = {t.__name__: t for t in (str, int, float, bool, list, tuple, dict)}


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """Read a notebook; an `InputError` names the file that is missing or damaged."""
    try:
        return load_notebook_node(str(path))
    except Exception as error:  # nbformat lets json, schema and key errors through
        raise InputError(
            path, f"no notebook ({error})", "a notebook of format 4", "Check the path."
        ) from error


def resolve_parameters(
    notebook: nbformat.NotebookNode, given: dict[str, Any], where: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The given parameters cast, and all that a notebook declares, with the defaults of the others.

    Every statement of its one cell tagged ``parameters`` reads ``name: type = literal``: a value
    derived there would keep what followed from the default when another value is injected.

    Args:
        given: name to value; text is read as the declared type.
        where: the notebook's path, for messages.

    Raises:
        InputError: no such cell, an unknown name, or a value that is not of the declared type.
    """
    cells = [c.source for c in notebook.cells if TAG in c.metadata.get("tags", [])]
    form = "one cell of lines `name: type = literal`"
    declared, resolved = {}, {}
    try:
        (source,) = cells
        for line in ast.parse(source).body:
            if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
                continue
            name, kind = line.target.id, ast.unparse(line.annotation)
            reader = TypeAdapter(
                eval(kind, {"__builtins__": {}}, TYPES), config=ConfigDict(allow_inf_nan=False)
            )
            declared[name] = (reader, kind, f"{where}: parameter {name}")
            resolved[name] = _cast(ast.literal_eval(line.value), *declared[name])
    except InputError:
        raise
    except Exception as error:  # no such cell, another statement, an unknown type
        raise InputError(f"{where}: cells tagged {TAG}", str(error), form, "Mend them.") from error
    if unknown := sorted(set(given) - set(declared)):
        known = ", ".join(declared)
        raise InputError(
            where, f"unknown parameter {', '.join(unknown)}", f"one of {known}", "Check it."
        )
    cast = {name: _cast(value, *declared[name]) for name, value in given.items()}
    return cast, resolved | cast


def _cast(value: Any, reader: TypeAdapter, kind: str, field: str) -> Any:
    """`value` as the declared type; of the text of a list the items are read as theirs.

    A YAML reader that guesses would make 90 of ``1:30`` and 1 of the tag ``001``.
    """
    readings = [value]
    if isinstance(value, str):
        readings = [None, value] if value in ("None", "null", "") else [value]
        if value[:1] in ("[", "{"):
            try:
                readings.append(yaml.load(value, yaml.BaseLoader))
            except yaml.YAMLError:
                pass
        if value != value.encode("utf-8", "ignore").decode():  # bytes that are no UTF-8
            readings = []
    for reading in readings:
        try:
            return reader.validate_python(reading)
        except ValidationError:
            continue
    raise InputError(field, ascii(value), f"a value of type {kind}", "Pass such a value.")


# ---------------------------------------------------------------- running
KERNEL = "python3"
# Tag of cells that look at all models: left out where the notebook is run for one of them.
COMPARE = "compare"
# A Unix socket's path may have 107 bytes, and the kernel appends a number to ours.
LONGEST_SOCKET_FOLDER = 80
# Seconds; a kernel's imports take long on a cluster whose file system is busy.
START_TIMEOUT = 300
KERNEL_ENVIRONMENT = {
    # Nothing may be fetched behind the reader's back: models come from files or packages.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # A backend set for a batch machine would leave the notebook without pictures.
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}


class NotebookError(RuntimeError):
    """A notebook that could not be run to its end; the message says where and why."""


class OwnKernel(AsyncKernelManager):
    """A kernel of this very interpreter for one notebook, with a folder on this node.

    Its sockets are files there, since kernels that start together over TCP take one another's
    ports. Installed kernelspecs are not consulted, since one called ``python3`` may belong to
    another environment.
    """

    def __init__(self, **options: Any):
        base = tempfile.gettempdir()
        base = base if len(base) < LONGEST_SOCKET_FOLDER else "/tmp"
        self.folder = tempfile.mkdtemp(prefix="t2imu-", dir=base)
        super().__init__(
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
            transport="ipc",
            ip=f"{self.folder}/kernel",
            connection_file=f"{self.folder}/connection.json",
            **options,
        )
        self.kernel_spec.env.update(KERNEL_ENVIRONMENT, IPYTHONDIR=f"{self.folder}/ipython")

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
        """End the kernel without an interrupt, which an idle one would report as an error."""
        await self.request_shutdown()
        await self.finish_shutdown()

    async def cleanup_resources(self, restart: bool = False) -> None:
        """Leave nothing behind."""
        await super().cleanup_resources(restart)
        shutil.rmtree(self.folder, ignore_errors=True)


def headings(notebook: nbformat.NotebookNode) -> list[str]:
    """For each cell, the heading that it stands under."""
    current, found = "", []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            current = ([current] + re.findall(r"^#+\s+(.+?)\s*$", cell.source, re.MULTILINE))[-1]
        found.append(current)
    return found


def _progress(name: str, titles: list[str]) -> Callable[..., None]:
    """The hook that is called as each cell starts: it logs the first code cell of each heading."""
    started, told = time.monotonic(), [""]

    def cell_starts(cell: nbformat.NotebookNode, cell_index: int) -> None:
        title, seconds = titles[cell_index], time.monotonic() - started
        if cell.cell_type == "code" and title != told[0]:
            log.info(
                "%s %5.0f s  cell %d/%d  %s", name, seconds, cell_index + 1, len(titles), title
            )
            told[0] = title

    return cell_starts


def execute(
    notebook: Path, out: Path, parameters: dict[str, Any], progress: bool = True, cwd: Path = ROOT
) -> Path:
    """Execute a notebook with checked parameters; `out` appears only when all of it has run.

    With a parameter ``model`` the cells tagged ``compare`` are left out: it does the work of that
    model, and what compares models is left to the execution without one. The executed notebook
    carries its name and all resolved parameters under ``metadata.t2imu``.

    Args:
        out: ``<out>.partial.ipynb`` while it runs and ``<out>.failed.ipynb`` after a failure lie
            beside it.
        parameters: name → value; text is cast to the declared types.
        cwd: working folder of the kernel, by default the repository.

    Raises:
        InputError: notebook or parameters cannot be used; nothing was run.
        NotebookError: a cell failed, or the kernel died or never started.
    """
    notebook, out = Path(notebook), Path(out).resolve()
    node = read_notebook(notebook)
    output_file(out, ".ipynb", force=True, source=notebook)
    given, resolved = resolve_parameters(node, parameters, notebook)
    if resolved.get("model"):
        node.cells = [c for c in node.cells if COMPARE not in c.metadata.get("tags", [])]
    if given:
        node = parameterize_notebook(node, given, kernel_name=KERNEL, language="python")
    node.metadata["t2imu"] = {
        "notebook": notebook.name,
        "parameters": resolved,
        "version": t2imu_utils.__version__,
    }
    partial, failed = out.with_suffix(".partial.ipynb"), out.with_suffix(".failed.ipynb")
    titles = headings(node)

    def place(index: int) -> str:
        return f"{notebook.name}, cell {index + 1} (under {titles[index]!r})"

    try:
        papermill_engines.execute_notebook_with_engine(
            None,
            node,
            KERNEL,
            output_path=str(partial),
            progress_bar=False,
            kernel_manager_class=OwnKernel,
            resources={"metadata": {"path": str(cwd)}},
            start_timeout=START_TIMEOUT,
            on_cell_start=_progress(notebook.stem, titles) if progress else None,
            # The default of 4 s is too short on a machine whose cores are all at work.
            iopub_timeout=120,
        )
        raise_for_execution_errors(node, str(partial))
    except PapermillExecutionError as error:
        trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
        raise NotebookError(
            f"{trace}\n\n{place(error.cell_index)}: {error.ename}: {error.evalue}\n"
            f"What had run until then: {failed}"
        ) from None
    except RuntimeError as error:  # nbclient's, where the kernel does not answer (any more)
        raise NotebookError(
            f"{notebook.name}: {error} (out of memory?). What had run until then: {failed}"
        ) from error
    else:
        for i, cell in enumerate(node.cells):
            if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
                raise NotebookError(f"{place(i)} was never reached: a cell before it ended early")
        os.replace(partial, out)
        failed.unlink(missing_ok=True)
        if progress:
            log.info("%s %5.0f s  done", notebook.stem, node.metadata.papermill.duration)
        return out
    finally:
        if partial.exists():
            os.replace(partial, failed)


@click.command(help=__doc__.split("\n\n")[1].replace("``", ""))
@click.argument("notebook", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("-p", "pairs", type=(str, str), multiple=True, help="A parameter: its name, value.")
@click.option("--quiet", is_flag=True, help="No progress.")
def main(notebook: Path, out: Path, pairs: tuple[tuple[str, str], ...], quiet: bool) -> None:
    # A cancelled job keeps what it has, like a failed one, and takes its kernel along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        execute(notebook, out, dict(pairs), progress=not quiet)
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except NotebookError as error:
        click.echo(f"{error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
