"""Snakemake's plugin on a real Slurm: a miniature sweep whose jobs are killed half-way."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import yaml

from tests.slurm.one_node import SlurmUnavailable, one_node_cluster, wait_until

WORKFLOW = Path(__file__).parents[2] / "workflow"
PROFILE = WORKFLOW / "profiles" / "slurm" / "config.yaml"
# Stands in for a training: three steps, a checkpoint after each, and a note of every attempt.
# While there are deaths left in the file of that name, it waits half-way to be killed.
TRAINING = """
import json, os, sys, time
from pathlib import Path

weight, seed, out = float(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
state, deaths = out.with_name("state.json"), out.with_name("deaths")
step, value = json.loads(state.read_text()) if state.exists() else (0, 0.0)
job = os.environ["SLURM_JOB_ID"]
with out.with_name("attempts.jsonl").open("a") as stream:
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    print(json.dumps({"job": job, "from": step, "gpu": gpu}), file=stream)
for step in range(step, 3):
    left = int(deaths.read_text()) if deaths.exists() else 0
    if step == 1 and left:
        deaths.write_text(str(left - 1))
        Path(out.parents[1], f"waits-{job}").touch()
        time.sleep(600)
    value += weight * step + seed
    state.with_suffix(".new").write_text(json.dumps([step + 1, value]))
    state.with_suffix(".new").rename(state)
out.write_text(json.dumps({"weight": weight, "seed": seed, "value": value}))
"""
SNAKEFILE = """
import sys
from pathlib import Path

CELLS = [
    f"acc{weight}-s{seed}/run.json"
    for weight in config["lambda_acc"].split()
    for seed in config["seeds"].split()
]

rule table:
    input: CELLS
    output: "table.json"
    shell: "cat {input} > {output}"

rule RULE:
    output: "acc{weight}-s{seed}/run.json"
    shell: PYTHON + " training.py {wildcards.weight} {wildcards.seed} {output}"
"""
WEIGHTS, SEEDS = (0.0, 0.1), (1, 2)
# Two of the four cells are killed: one as often as there are tries, the other once.
STUBBORN, KILLED = "acc0.1-s2", "acc0.0-s2"


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """A running cluster of one node: the environment in which `sbatch` and its kin reach it."""
    try:
        with one_node_cluster() as environment:
            yield environment
            folder = Path(environment["SLURM_CONF"]).parent
            endless = f"echo $$ > {folder}/new && mv {folder}/new {folder}/pid; exec sleep 600"
            command = ["sbatch", "--output=/dev/null", "--wrap", endless]
            subprocess.run(command, env=environment, check=True)
            assert wait_until((folder / "pid").exists, seconds=60)
            process = Path("/proc", (folder / "pid").read_text().strip())
            assert process.exists()
    except SlurmUnavailable as error:
        pytest.skip(str(error))
    # The cluster and whatever runs on it end with the tests.
    assert not folder.exists() and not process.exists()


@pytest.fixture
def profile(tmp_path) -> Path:
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
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "config.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "profile"


@pytest.fixture
def sweep(tmp_path, profile) -> Path:
    limits = yaml.safe_load((profile / "config.yaml").read_text())["set-resources"]
    with_gpu = next(rule for rule, resources in limits.items() if "gres" in resources)
    (tmp_path / "training.py").write_text(TRAINING)
    rules = SNAKEFILE.replace("RULE", with_gpu).replace("PYTHON", repr(shlex.quote(sys.executable)))
    (tmp_path / "Snakefile").write_text(rules)
    for cell, deaths in ((STUBBORN, 2), (KILLED, 1)):
        (tmp_path / cell).mkdir()
        (tmp_path / cell / "deaths").write_text(str(deaths))
    return tmp_path


def call(sweep: Path, profile: Path, cluster: dict[str, str]) -> tuple[int, str]:
    """One call of Snakemake, while jobs that wait for it are cancelled; status and what it said."""
    command = [sys.executable, "-m", "snakemake", "--profile", str(profile), "--config"]
    command += [f"lambda_acc={' '.join(map(str, WEIGHTS))}", f"seeds={' '.join(map(str, SEEDS))}"]
    log = sweep / "snakemake.log"
    with open(log, "w") as stream:
        process = subprocess.Popen(
            command, cwd=sweep, env=cluster, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        end = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < end:
            for waits in sweep.glob("waits-*"):
                subprocess.run(["scancel", waits.name.removeprefix("waits-")], env=cluster)
                waits.unlink()
            time.sleep(0.5)
        assert process.poll() is not None, log.read_text()
    finally:
        if process.poll() is None:
            # It then cancels its jobs.
            process.send_signal(signal.SIGINT)
            process.wait(30)
    return process.returncode, log.read_text()


def attempts(sweep: Path) -> dict[str, list[dict]]:
    return {
        path.parent.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sweep.glob("*/attempts.jsonl")
    }


def test_killed_jobs_are_taken_up_again(sweep, profile, cluster):
    status, said = call(sweep, profile, cluster)
    assert status != 0
    # The others went on without the one that failed twice, and one try more was enough for the
    # other; what depends on all was left.
    made = {path.parent.name for path in sweep.glob("*/run.json")}
    assert made == {f"acc{w}-s{s}" for w, s in product(WEIGHTS, SEEDS)} - {STUBBORN}, said
    assert not (sweep / "table.json").exists()
    starts = {cell: [a["from"] for a in tries] for cell, tries in attempts(sweep).items()}
    assert starts == {"acc0.0-s1": [0], "acc0.1-s1": [0], KILLED: [0, 1], STUBBORN: [0, 1]}
    assert said.count("SLURM status is: 'CANCELLED'") == 3
    # Every try was a job of its own, with the GPU that the profile asks for.
    submitted = set(re.findall(r"SLURM jobid (\d+)", said))
    tries = [a for cell in attempts(sweep).values() for a in cell]
    assert len(tries) == len(submitted) == 6 and {a["job"] for a in tries} == submitted
    assert all(a["gpu"] in ("0", "1") for a in tries)

    status, said = call(sweep, profile, cluster)
    assert status == 0, said
    # Only the missing cell, from where it had been killed, and then the table.
    assert len(re.findall(r"SLURM jobid (\d+)", said)) == 2
    starts = {cell: [a["from"] for a in tries] for cell, tries in attempts(sweep).items()}
    assert starts == {"acc0.0-s1": [0], "acc0.1-s1": [0], KILLED: [0, 1], STUBBORN: [0, 1, 1]}
    table = re.findall(r"\{.*?\}", (sweep / "table.json").read_text())
    values = {(row["weight"], row["seed"]): row["value"] for row in map(json.loads, table)}
    # As without any interruption.
    assert values == {
        (w, s): sum((w * k + s for k in range(3)), 0.0) for w, s in product(WEIGHTS, SEEDS)
    }


def test_profile_names_the_rules_of_the_workflow():
    """Snakemake says nothing about limits for a rule that does not exist."""
    profile = yaml.safe_load(PROFILE.read_text())
    rules = set(re.findall(r"^rule (\w+):", (WORKFLOW / "Snakefile").read_text(), re.MULTILINE))
    assert {*profile["set-threads"], *profile["set-resources"]} <= rules
