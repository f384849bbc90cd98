"""The sweep itself on a real Slurm: two weights by two seeds, one job killed in its training.

Six notebooks, one after the other on a small machine, take some minutes, so this runs only where
`T2IMU_SLURM_WHOLE` is set; `test_plugin.py` has the same sweep with stand-ins for trainings.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from t2imu_utils import runs
from t2imu_utils.execute import execute
from t2imu_utils.files import read_json
from t2imu_utils.tracks import TRACKS

pytest.importorskip("snakemake_executor_plugin_slurm")
pytestmark = pytest.mark.skipif(
    "T2IMU_SLURM_WHOLE" not in os.environ, reason="some minutes: set T2IMU_SLURM_WHOLE=1 to run it"
)

STAGE = "02_finetuning"
ARMS = ("mdm-ft", "mdm-ft-s1", "mdm-acc0.5", "mdm-acc0.5-s1")
VICTIM = "mdm-acc0.5-s1"
SIZES = {
    "refined": True, "layers": 1, "width": 32, "heads": 2, "feedforward": 32, "dropout": 0.0,
    "diffusion_steps": 5,
}  # fmt: skip
# Long enough to be caught half-way, with a checkpoint every moment.
TRAINING = {"pretrain_steps": 20, "finetune_steps": 600, "batch_size": 8, "checkpoint_every": 20}


@pytest.fixture
def track(tmp_path) -> Path:
    values = yaml.safe_load((TRACKS / "demo.yaml").read_text())
    values["corpus"]["made_up"] = 1
    values["recordings"]["made_up"] = 3
    values["generators"] = {"mdm": SIZES}
    values["training"] |= TRAINING
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def kill_once(process: subprocess.Popen, folder: Path, environment: dict[str, str]) -> bool:
    """Cancel the victim's job as soon as it has a checkpoint; whether that came to pass."""
    end = time.monotonic() + 900
    while process.poll() is None and time.monotonic() < end:
        if list((folder / VICTIM / STAGE).glob("**/*.pt")):
            queue = ["squeue", "--noheader", "--states=R", "--Format=JobID:20,Comment:200"]
            said = subprocess.run(queue, env=environment, capture_output=True, text=True).stdout
            jobs = [line.split()[0] for line in said.splitlines() if VICTIM in line]
            if jobs:
                subprocess.run(["scancel", *jobs], env=environment, check=True)
                return True
        time.sleep(0.2)
    return False


def results(folder: Path, arm: str) -> tuple[dict, dict]:
    """Metrics of an arm, and the hashes of its weights and curves."""
    record = read_json(folder / arm / STAGE / "run.json")
    return record["metrics"], record["outputs"]


def test_a_killed_training_of_the_sweep_ends_as_if_nothing_had_been(
    track, tmp_path, profile, cluster, monkeypatch
):
    environment = {**cluster, "T2IMU_RUNS": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"}
    folder, log = tmp_path / "runs" / "mini", tmp_path / "snakemake.log"
    targets = [str(folder / arm / STAGE / "run.json") for arm in ARMS]
    command = [sys.executable, "-m", "snakemake", *targets, "--profile", str(profile), "--nolock"]
    command += ["--snakefile", "workflow/Snakefile", "--rerun-triggers", "mtime"]
    command += ["--config", f"track={track}", "lambda_acc=0 0.5", "seeds=0 1"]
    with open(log, "w") as stream:
        process = subprocess.Popen(
            command, cwd=runs.ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        killed = kill_once(process, folder, environment)
        process.wait(900)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
    said = log.read_text()
    assert process.returncode == 0, said
    assert killed and said.count("SLURM status is: 'CANCELLED'") == 1, said
    swept = {arm: results(folder, arm) for arm in ARMS}
    assert len({str(made) for made in swept.values()}) == len(ARMS)

    # The same arm once more, here, without Slurm or interruption.
    (folder / VICTIM).rename(tmp_path / "swept")
    monkeypatch.setenv("T2IMU_RUNS", environment["T2IMU_RUNS"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    given = {"track": str(track), "lambda_acc": 0.5, "seed": 1}
    execute(runs.ROOT / "notebooks" / f"{STAGE}.ipynb", tmp_path / "again.ipynb", given, False)
    assert results(folder, VICTIM) == swept[VICTIM]
