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
from jupyter_core.utils import run_sync

from t2imu_utils import arms, runs
from t2imu_utils import execute as runner
from t2imu_utils.tracks import TRACKS

PER_MODEL = ("03_smpl_fitting", "04_imu_synthesis", "05_lacc_analysis", "07_har")


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
    manager = runner.OwnKernel(kernel_name=runner.KERNEL)
    shutdown, cleanup = manager.shutdown_kernel, manager.cleanup_resources

    async def kept(**_) -> None:
        """A notebook's end is not the kernel's."""

    class Emptied(runner.OwnKernel):
        def __new__(cls, **_):
            run_sync(_empty)(manager.client())
            return manager

    manager.shutdown_kernel = manager.cleanup_resources = kept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "OwnKernel", Emptied)
        run_sync(manager.start_kernel)(cwd=str(runs.ROOT))
        try:
            yield
        finally:
            run_sync(shutdown)()
            run_sync(cleanup)()


async def _empty(client: AsyncKernelClient) -> None:
    client.start_channels()
    await client.wait_for_ready(timeout=120)
    answer = await client.execute_interactive("get_ipython().reset()", timeout=120)
    client.stop_channels()
    assert answer["content"]["status"] == "ok"


def execute_all(track: Path, out: Path, trained: list[dict]) -> dict:
    """The executed notebooks: of a stage by its name, of one model's by stage and model.

    trained: parameters of notebook 02, the first of them for what is kept under the stage's name.
    """
    executed = {}

    def execute(stage: str, name: str, **given) -> None:
        path, given = out / f"{name}.ipynb", {"track": str(track), **given}
        runner.execute(runs.ROOT / "notebooks" / f"{stage}.ipynb", path, given, progress=False)
        executed[name] = nbformat.read(path, as_version=4)

    with one_kernel():
        for stage in runs.STAGES:
            if stage == arms.TRAINING:
                for i, own in enumerate(trained):
                    execute(stage, f"{stage}, {own['generator']}" if i else stage, **own)
                continue
            if stage in PER_MODEL:
                models = arms.finished_models(track.stem, arms.TRAINING)
                for model in [*models, *[runs.REAL] * (stage == arms.RECOGNITION)]:
                    execute(stage, f"{stage}, {model}", model=model)
            if stage == PER_MODEL[0]:
                execute(stage, "03_solvers", model=arms.BASE, compare_solvers=True)
            execute(stage, stage)
    return executed


@pytest.fixture(scope="package")
def tools():
    """`write_track` and `execute_all`."""
    return write_track, execute_all
