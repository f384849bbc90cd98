"""Fixtures for what is not in the repository: real data and golden vectors."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"


def outside(variable: str, default: Path) -> Path:
    path = Path(os.environ.get(variable, default))
    if not path.is_dir():
        pytest.skip(f"{path} is absent: set {variable} to the folder that holds it")
    return path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real recordings, laid out as the README's section on tracks says."""
    return outside("T2IMU_DATA", SHARED / "data")


@pytest.fixture(scope="session")
def reference() -> Path:
    """Golden vectors of the official models."""
    return outside("T2IMU_REFERENCE", SHARED / "reference")


@pytest.fixture
def runs_folder(tmp_path, monkeypatch) -> Path:
    """Run folders of a test, away from the repository's own."""
    monkeypatch.setenv("T2IMU_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"
