"""The strict papermill runner: a notebook is executed as asked, whole, or not at all.

``python -m t2imu_utils.execute NOTEBOOK OUT -p name value ...`` rejects what papermill lets pass
(unknown parameters, a missing parameters cell, values of another type), gives every notebook a
kernel of its own, and leaves OUT only when the last cell has run. While it runs, OUT's neighbour
``*.partial.ipynb`` holds what is there so far; after a failure that is kept as ``*.failed.ipynb``.
"""

import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import nbformat
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient.exceptions import DeadKernelError
from papermill.engines import papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.execute import raise_for_execution_errors
from papermill.parameterize import parameterize_notebook
from tqdm import tqdm

import t2imu_utils
from t2imu_utils.errors import InputError
from t2imu_utils.files import output_file
from t2imu_utils.parameters import read_notebook, resolve_parameters
from t2imu_utils.runs import ROOT

log = logging.getLogger(__name__)

KERNEL = "python3"
# Tag of cells that look at all models: left out where the notebook is run for one of them.
COMPARE = "compare"
# A Unix socket's path may have 107 bytes, and the kernel appends a number to ours.
LONGEST_SOCKET_FOLDER = 80
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


def _socket_folder() -> Path:
    """A new folder on this node for one kernel's sockets, with a path that fits into a socket."""
    base = tempfile.gettempdir()
    base = base if len(base) < LONGEST_SOCKET_FOLDER else "/tmp"
    return Path(tempfile.mkdtemp(prefix="t2imu-", dir=base))


def start_kernel(folder: Path, cwd: Path, timeout: float) -> AsyncKernelManager:
    """Start a kernel of this very interpreter whose sockets lie in `folder`, and await its answer.

    Sockets are files in a folder that nobody else uses, since kernels that start together over
    TCP take one another's ports; installed kernelspecs are not consulted, since one called
    ``python3`` may belong to another environment.

    Raises:
        RuntimeError, OSError: the kernel died or did not answer within `timeout` seconds.
    """
    manager = AsyncKernelManager(
        kernel_name=KERNEL,
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        transport="ipc",
        ip=str(folder / "kernel"),
        connection_file=str(folder / "connection.json"),
    )
    environment = {**os.environ, **KERNEL_ENVIRONMENT, "IPYTHONDIR": str(folder / "ipython")}

    async def start() -> None:
        await manager.start_kernel(
            cwd=str(cwd),
            env=environment,
            extra_arguments=["--HistoryManager.hist_file=:memory:"],
        )
        client = manager.client()
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=timeout)
        finally:
            client.stop_channels()

    try:
        run_sync(start)()
    except BaseException:
        stop_kernel(manager)
        raise
    return manager


def stop_kernel(manager: AsyncKernelManager) -> None:
    """Ask a kernel to end, kill it where it does not, and clean up; a dead one is no error."""

    async def stop() -> None:
        # Not `shutdown_kernel`: that interrupts first, which an idle kernel reports as an error.
        if manager.has_kernel and await manager.is_alive():
            await manager.request_shutdown()
            await manager.finish_shutdown()
        await manager.cleanup_resources()

    run_sync(stop)()


@contextmanager
def isolated_kernel(cwd: Path, timeout: float = 120.0) -> Iterator[AsyncKernelManager]:
    """A kernel of its own for one notebook; a failed start is tried once more.

    Raises:
        NotebookError: it did not start twice.
    """
    folders = [_socket_folder()]
    try:
        try:
            manager = start_kernel(folders[-1], cwd, timeout)
        except (RuntimeError, OSError) as error:
            log.warning("The kernel did not start (%s); trying once more.", error)
            folders.append(_socket_folder())
            try:
                manager = start_kernel(folders[-1], cwd, timeout)
            except (RuntimeError, OSError) as second:
                raise NotebookError(f"The kernel did not start, twice: {second}") from second
        clients, client_of = [], manager.client

        def client(**options: Any) -> AsyncKernelClient:
            clients.append(client_of(**options))
            return clients[-1]

        # papermill leaves the channels of a kernel open that it has not started itself.
        manager.client = client
        try:
            yield manager
        finally:
            for each in clients:
                each.stop_channels()
            stop_kernel(manager)
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def headings(notebook: nbformat.NotebookNode) -> list[str]:
    """For each cell, the heading that it stands under."""
    current, found = "", []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            lines = re.findall(r"^#+\s+(.+?)\s*$", cell.source, re.MULTILINE)
            current = lines[-1] if lines else current
        found.append(current)
    return found


@contextmanager
def _progress(
    notebook: nbformat.NotebookNode, name: str, shown: bool
) -> Iterator[Callable[..., None]]:
    """Yield the hook that is called as each cell starts: a bar on a terminal, else a short log."""
    titles = headings(notebook)
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    started, last = time.monotonic(), [""]
    bar = tqdm(total=len(code), desc=name, unit="cell", disable=not (shown and sys.stderr.isatty()))

    def cell_starts(cell: nbformat.NotebookNode, cell_index: int) -> None:
        if cell.cell_type != "code":
            return
        position = code.index(cell_index)
        bar.n = position
        bar.set_postfix_str(titles[cell_index])
        if shown and bar.disable and titles[cell_index] != last[0]:
            last[0] = titles[cell_index]
            seconds = time.monotonic() - started
            log.info("%s %5.0f s  cell %d/%d  %s", name, seconds, position + 1, len(code), last[0])

    with bar:
        yield cell_starts


def _unfinished(notebook: nbformat.NotebookNode) -> int | None:
    """Index of the first code cell that did not run (after an early exit), or None."""
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            return index
    return None


def execute(
    notebook: Path,
    out: Path,
    parameters: dict[str, Any],
    progress: bool = True,
    cwd: Path = ROOT,
) -> Path:
    """Execute a notebook with checked parameters; `out` appears only when all of it has run.

    With a parameter ``model`` the cells tagged ``compare`` are left out: it does the work of that
    model, and what compares models is left to the execution without one.

    The executed notebook carries, under ``metadata.t2imu``, its own name and all parameters with
    their resolved values.

    Args:
        notebook: with exactly one code cell tagged ``parameters``.
        out: where the executed notebook goes; ``<out>.partial.ipynb`` while it runs and
            ``<out>.failed.ipynb`` after a failure lie beside it.
        parameters: name → value; text is cast to the declared types.
        cwd: working folder of the kernel, by default the repository.

    Returns:
        `out`.

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
        with isolated_kernel(cwd) as manager, _progress(node, notebook.stem, progress) as hook:
            papermill_engines.execute_notebook_with_engine(
                None,
                node,
                KERNEL,
                output_path=str(partial),
                progress_bar=False,
                km=manager,
                on_cell_start=hook,
                # The default of 4 s is too short on a machine whose cores are all at work.
                iopub_timeout=120,
            )
        raise_for_execution_errors(node, str(partial))
        stopped = _unfinished(node)
        if stopped is not None:
            raise NotebookError(f"{place(stopped)} was never reached: a cell before it ended early")
    except PapermillExecutionError as error:
        trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
        raise NotebookError(
            f"{trace}\n\n{place(error.cell_index)}: {error.ename}: {error.evalue}\n"
            f"What had run until then: {failed}"
        ) from None
    except DeadKernelError as error:
        raise NotebookError(
            f"{notebook.name}: the kernel died (out of memory?). What had run until then: {failed}"
        ) from error
    else:
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
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError("-p", f"{', '.join(twice)} twice", "each name once", "Drop one.")
        execute(notebook, out, dict(pairs), progress=not quiet)
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except NotebookError as error:
        click.echo(f"{error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
