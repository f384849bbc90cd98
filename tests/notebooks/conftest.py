"""Runs of all nine notebooks, headless and in order, on tracks of the smallest size.

They share one kernel, emptied before each, since importing the libraries takes longer than most
notebooks of this size. That each notebook has a kernel of its own is `tests/test_execute.py`'s.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
import yaml
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync

from t2imu_utils import execute as runner
from t2imu_utils import runs
from t2imu_utils.tracks import TRACKS


def write_track(folder: Path, name: str, like: str, changes: dict) -> Path:
    """A track file: that of the track `like` with some sections changed."""
    values = yaml.safe_load((TRACKS / f"{like}.yaml").read_text())
    for section, own in changes.items():
        values[section] |= own
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@contextmanager
def one_kernel() -> Iterator[None]:
    """All notebooks within run in one kernel, each in an empty namespace."""
    isolated = runner.isolated_kernel
    with isolated(runs.ROOT) as manager, pytest.MonkeyPatch.context() as patch:
        # `isolated` closes the channels of all clients at the end; a notebook's close with it.
        made = manager.client

        @contextmanager
        def emptied(cwd: Path, timeout: float = 120.0) -> Iterator[AsyncKernelManager]:
            clients: list[AsyncKernelClient] = []

            def client(**options) -> AsyncKernelClient:
                clients.append(made(**options))
                return clients[-1]

            manager.client = client
            run_sync(_empty)(made())
            yield manager
            for each in clients:
                each.stop_channels()

        patch.setattr(runner, "isolated_kernel", emptied)
        yield


async def _empty(client: AsyncKernelClient) -> None:
    client.start_channels()
    await client.wait_for_ready(timeout=120)
    answer = await client.execute_interactive("get_ipython().reset()", timeout=120)
    client.stop_channels()
    assert answer["content"]["status"] == "ok"


def execute_all(track: Path, out: Path, parameters: dict[str, dict | list[dict]]) -> dict:
    """The executed notebooks by stage.

    parameters: by stage, beside the track. Of a list each is executed, and the names of the others
    are those of the stage and the generator.
    """
    executed = {}
    with one_kernel():
        for stage in runs.STAGES:
            wanted = parameters.get(stage, {})
            for i, own in enumerate(wanted if isinstance(wanted, list) else [wanted]):
                name = f"{stage}, {own['generator']}" if i else stage
                path, given = out / f"{name}.ipynb", {"track": str(track), **own}
                notebook = runs.ROOT / "notebooks" / f"{stage}.ipynb"
                runner.execute(notebook, path, given, progress=False)
                executed[name] = nbformat.read(path, as_version=4)
    return executed


@pytest.fixture(scope="package")
def tools():
    """`write_track` and `execute_all`."""
    return write_track, execute_all
