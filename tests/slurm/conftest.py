"""A cluster for the tests of this folder, and the repository's Slurm profile cut down to fit it."""

import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest
import yaml

PROFILE = Path(__file__).parents[2] / "workflow" / "profiles" / "slurm" / "config.yaml"


@pytest.fixture(scope="session")
def one_node() -> ModuleType:
    """The script of that name."""
    path = Path(__file__).with_name("one_node.py")
    spec = importlib.util.spec_from_file_location("one_node", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def cluster(one_node) -> Iterator[dict[str, str]]:
    """A running cluster of one node: the environment in which `sbatch` and its kin reach it."""
    with ExitStack() as stack:
        try:
            environment = stack.enter_context(one_node.one_node_cluster())
        except one_node.SlurmUnavailable as error:
            pytest.skip(str(error))
        yield environment


@pytest.fixture(scope="session")
def profile(tmp_path_factory) -> Path:
    """The folder of a profile that asks what the repository's asks, in sizes for any machine."""
    settings = yaml.safe_load(PROFILE.read_text())
    settings["set-threads"] = dict.fromkeys(settings["set-threads"], 1)
    for resources in (settings["default-resources"], *settings["set-resources"].values()):
        resources["mem_mb"] = "100 * attempt"
    settings |= {
        "retries": 1,
        "latency-wait": 20,
        # The node has no database of past jobs.
        "slurm-status-command": "squeue",
        # About as long as a job takes: after each look that finds none done, the plugin waits 10 s
        # longer.
        "slurm-init-seconds-before-status-checks": 11,
    }
    folder = tmp_path_factory.mktemp("profile")
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder
