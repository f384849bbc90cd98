"""The workflow on a copy of the repository whose notebooks are stubs and whose runner is too."""

import ast
import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from t2imu_utils.parameters import resolve_parameters
from t2imu_utils.runs import ROOT, STAGES

# Stands in for `t2imu_utils.execute`: writes down its arguments, then what a stage would leave.
RUNNER = """
import json, sys
from pathlib import Path

notebook, log, *rest = sys.argv[1:]
given = dict(zip(rest[1::3], rest[2::3]))
stage, out = Path(notebook).stem, Path(log)
with open("calls.jsonl", "a") as stream:
    stream.write(json.dumps({"stage": stage, "log": log, **given}) + "\\n")
if Path("fail").exists() and Path("fail").read_text() == stage:
    sys.exit(1)
model = out.parent.parent.name
for each in {model, "mdm"} if model == "mdm-ft" else {model}:
    record = Path("data/runs", given["track"], each, stage, "run.json")
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(given))
out.write_text("executed")
"""
IMPORTS = {
    "02_finetuning": "from t2imu_utils.priors import losses",
    "07_har": "%matplotlib inline\nfrom t2imu_utils.evaluation.har import DeepConvLSTM",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "workflow", folder / "workflow")
    package = folder / "t2imu_utils"
    for name in ("__init__", "dependencies", "errors", "runs"):
        package.mkdir(exist_ok=True)
        shutil.copy(ROOT / "t2imu_utils" / f"{name}.py", package)
    for name in ("priors/losses", "evaluation/har"):
        (package / name).parent.mkdir()
        (package / f"{name}.py").write_text("from t2imu_utils import runs\n")
        (package / name).with_name("__init__.py").touch()
    (package / "execute.py").write_text(RUNNER)
    (folder / "environment").touch()
    (folder / "notebooks").mkdir()
    for stage in STAGES:
        cell = nbformat.v4.new_code_cell(IMPORTS.get(stage, "from t2imu_utils import runs"))
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / f"notebooks/{stage}.ipynb")
    return folder


def make(project: Path, **config: str) -> subprocess.CompletedProcess:
    """`make paper` as the Makefile of the repository has it, in another folder."""
    # The environment is the one under test: its recipe must not run.
    command = ["make", "--file", str(ROOT / "Makefile"), "--old-file=environment", "paper"]
    binaries = [f"BIN={Path(sys.executable).parent}", "STAMP=environment"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("T2IMU_", "MAKE"))}
    return subprocess.run(
        [*command, *binaries, *(f"{name}={value}" for name, value in config.items())],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def calls(project: Path, **config: str) -> list[dict]:
    """What the runner was called with by one `make paper`, in order."""
    journal = project / "calls.jsonl"
    journal.unlink(missing_ok=True)
    done = make(project, **config)
    assert done.returncode == 0, done.stderr
    lines = journal.read_text().splitlines() if journal.exists() else []
    return [json.loads(line) for line in lines]


def stages(made: list[dict]) -> list[str]:
    return sorted(call["stage"] for call in made)


COMPARISONS = list(STAGES[3:])


def test_order_reruns_and_arms(project):
    """One story, since each step starts where the last one ended."""
    first = calls(project)
    order = [call["stage"] for call in first]
    assert stages(first) == sorted([*STAGES, "02_finetuning"])
    for before, after in (
        ("00_data", "02_finetuning"),
        ("01_prompt_generation", "03_smpl_fitting"),
        ("02_finetuning", "03_smpl_fitting"),
        ("03_smpl_fitting", "04_imu_synthesis"),
        ("03_smpl_fitting", "05_lacc_analysis"),
        ("04_imu_synthesis", "06_tsne"),
        ("05_lacc_analysis", "07_har"),
        ("06_tsne", "07_har"),
    ):
        assert order.index(before) < order.index(after)
    control, refined = (call for call in first if call["stage"] == "02_finetuning")
    assert (control["lambda_acc"], refined["lambda_acc"]) == ("0", "0.1")
    assert control["log"] == "data/runs/demo/mdm-ft/02_finetuning/notebook.ipynb"
    assert refined["log"] == "data/runs/demo/mdm-acc0.1/02_finetuning/notebook.ipynb"
    assert {call["track"] for call in first} == {"demo"}
    assert json.loads(first[-1]["models"]) == ["mdm", "mdm-ft", "mdm-acc0.1"]
    assert first[-1]["log"] == "data/runs/demo/compare/07_har/notebook.ipynb"

    assert calls(project) == []

    second = calls(project, LAMBDA_ACC="0.3")
    assert stages(second) == ["02_finetuning", *COMPARISONS]
    assert second[0]["lambda_acc"] == "0.3"
    assert json.loads(second[-1]["models"]) == ["mdm", "mdm-ft", "mdm-acc0.1", "mdm-acc0.3"]

    assert calls(project, LAMBDA_ACC="0 3e-1 0.10") == []

    # Only what reaches a file by its imports is executed again, and what follows from it.
    (project / "t2imu_utils/evaluation/har.py").write_text("from t2imu_utils import runs  # new\n")
    assert stages(calls(project)) == ["07_har"]
    (project / "t2imu_utils/priors/losses.py").write_text("from t2imu_utils import runs  # new\n")
    trained = calls(project)
    assert stages(trained) == ["02_finetuning"] * 3 + COMPARISONS

    # A run by hand with other settings is overtaken again, and its arms are shown with the others.
    runs = project / "data/runs/demo"
    (runs / "compare/06_tsne/run.json").write_text("{}")
    assert stages(calls(project)) == ["06_tsne", "07_har"]
    by_hand = runs / "mdm-acc0.1-joints/02_finetuning/run.json"
    by_hand.parent.mkdir(parents=True)
    by_hand.write_text("{}")
    shown = calls(project)
    assert stages(shown) == COMPARISONS
    assert "mdm-acc0.1-joints" in json.loads(shown[0]["models"])

    seeded = calls(project, SEED="1")
    assert stages(seeded) == ["02_finetuning", "02_finetuning", *COMPARISONS]
    assert seeded[0]["log"] == "data/runs/demo/mdm-ft-s1/02_finetuning/notebook.ipynb"
    assert {call["seed"] for call in seeded if "seed" in call} == {"1"}


def test_failure_stops_and_is_taken_up_again(project):
    (project / "fail").write_text("04_imu_synthesis")
    journal = project / "calls.jsonl"
    journal.unlink(missing_ok=True)
    assert make(project, TRACK="cmu").returncode != 0
    made = {json.loads(line)["stage"] for line in journal.read_text().splitlines()}
    assert "04_imu_synthesis" in made and "07_har" not in made
    # What was whole before the failure still is: nothing of it was deleted.
    assert (project / "data/runs/cmu/mdm/02_finetuning/run.json").exists()
    (project / "fail").unlink()
    rest = calls(project, TRACK="cmu")
    assert {"04_imu_synthesis", "06_tsne", "07_har"} <= set(stages(rest))
    assert "03_smpl_fitting" not in stages(rest)
    junk = {p.name for p in project.iterdir()} - {"calls.jsonl", "data", "environment"}
    assert junk == {"workflow", "t2imu_utils", "notebooks", ".snakemake"}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"TRACK": "nowhere"}, "expected one of cmu, demo"),
        ({"LAMBDA_ACC": "much"}, "expected weights"),
        ({"LAMBDA_ACC": "-1"}, "expected weights"),
    ],
)
def test_bad_requests_are_told(project, config, said):
    done = make(project, **config)
    assert done.returncode != 0
    assert said in done.stderr


def test_every_command_fits_its_notebook(tmp_path):
    """What the workflow passes to the real notebooks is what they declare."""
    for name in ("workflow", "notebooks", "t2imu_utils"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "environment").touch()
    printed = make(tmp_path, SHOW="--dry-run --printshellcmds").stdout
    commands = [line for line in printed.splitlines() if "t2imu_utils.execute" in line]
    assert len(commands) == len(STAGES) + 1
    for words in map(shlex.split, commands):
        words = words[words.index("t2imu_utils.execute") + 1 : words.index("&&")]
        given = dict(zip(words[3::3], words[4::3], strict=True))
        path = tmp_path / words[0]
        resolve_parameters(nbformat.read(path, as_version=4), given, path)


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [Requirement(text) for text in [*project["dependencies"], *extras["dev"]]]


def test_lock_holds_every_dependency():
    """Every name of pyproject.toml is pinned, and torch without the tag of one machine."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {canonicalize_name(r.name): str(r.specifier) for r in pinned}
    assert all(v.startswith("==") and "+" not in v for v in versions.values())
    for requirement in declared():
        version = versions[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(version), requirement


def test_package_imports_only_what_is_declared():
    """A module that is there by chance today may be gone with the next version of another."""
    names = {canonicalize_name(requirement.name) for requirement in declared()}
    modules = {"sklearn": "scikit-learn", "yaml": "pyyaml", "PIL": "pillow"}
    for path in (ROOT / "t2imu_utils").rglob("*.py"):
        imports = []
        for node in ast.walk(ast.parse(path.read_bytes())):
            imports += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            imports += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        tops = {name.split(".")[0] for name in imports} - {"t2imu_utils", *sys.stdlib_module_names}
        if path.name == "build_open_body.py":
            tops -= {"anny", "roma"}  # the extra `body`
        assert {canonicalize_name(modules.get(top, top)) for top in tops} <= names, path


def test_conda_installs_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-r requirements.lock", "-e ."]
