"""The cluster of the tests: when there is one, what it leaves behind, and why there is none."""

import subprocess
import time
from pathlib import Path

import pytest


def test_cluster_runs_jobs_and_leaves_nothing(one_node):
    try:
        with one_node.one_node_cluster() as environment:
            folder = Path(environment["SLURM_CONF"]).parent
            job = ["sbatch", "--output=/dev/null", "--wrap"]
            asked = f"srun env > {folder}/new && mv {folder}/new {folder}/said"
            subprocess.run([*job, asked, "--gres=gpu:1"], env=environment, check=True)
            # One that never ends by itself.
            endless = f"echo $$ > {folder}/pid; exec sleep 600"
            subprocess.run([*job, endless], env=environment, check=True)
            assert one_node.wait_until((folder / "said").exists, seconds=60)
            assert "\nCUDA_VISIBLE_DEVICES=" in (folder / "said").read_text()
            assert one_node.wait_until((folder / "pid").exists, seconds=60)
            time.sleep(0.2)
            process = Path("/proc", (folder / "pid").read_text().strip())
            assert process.exists()
    except one_node.SlurmUnavailable as error:
        pytest.skip(str(error))
    assert not folder.exists() and not process.exists()


def test_nothing_is_installed_unasked(one_node, tmp_path, monkeypatch):
    monkeypatch.setattr(one_node, "SEARCHED", str(tmp_path))
    monkeypatch.setattr(one_node.subprocess, "run", lambda *_, **__: pytest.fail("installs"))
    monkeypatch.delenv("T2IMU_SLURM_TESTS", raising=False)
    with pytest.raises(one_node.SlurmUnavailable, match="slurmctld.*T2IMU_SLURM_TESTS=install"):
        one_node.find_programs()
    monkeypatch.setenv("T2IMU_SLURM_TESTS", "install")
    monkeypatch.setattr(one_node.os, "geteuid", lambda: 1000)
    with pytest.raises(one_node.SlurmUnavailable, match="needs root"):
        one_node.find_programs()


def test_a_daemon_that_does_not_start_is_told(one_node, monkeypatch):
    monkeypatch.setattr(
        one_node, "find_programs", lambda: dict.fromkeys(one_node.PROGRAMS, "false")
    )
    with pytest.raises(one_node.SlurmUnavailable, match="false ended with 1"):
        with one_node.one_node_cluster():
            pytest.fail("there is no cluster")
