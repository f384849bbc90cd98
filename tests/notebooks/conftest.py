"""Runs of all nine notebooks, headless and in order, on tracks of the smallest size."""

from pathlib import Path

import nbformat
import pytest
import yaml

from t2imu_utils import runs
from t2imu_utils.execute import execute
from t2imu_utils.tracks import TRACKS


def write_track(folder: Path, name: str, like: str, changes: dict) -> Path:
    """A track file: that of the track `like` with some sections changed."""
    values = yaml.safe_load((TRACKS / f"{like}.yaml").read_text())
    for section, own in changes.items():
        values[section] |= own
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def execute_all(track: Path, out: Path, parameters: dict[str, dict | list[dict]]) -> dict:
    """The executed notebooks by stage.

    parameters: by stage, beside the track. Of a list each is executed, and the names of the others
    are those of the stage and the generator.
    """
    executed = {}
    for stage in runs.STAGES:
        wanted = parameters.get(stage, {})
        for i, own in enumerate(wanted if isinstance(wanted, list) else [wanted]):
            name = f"{stage}, {own['generator']}" if i else stage
            path, given = out / f"{name}.ipynb", {"track": str(track), **own}
            execute(runs.ROOT / "notebooks" / f"{stage}.ipynb", path, given, progress=False)
            executed[name] = nbformat.read(path, as_version=4)
    return executed


@pytest.fixture(scope="package")
def tools():
    """`write_track` and `execute_all`."""
    return write_track, execute_all
