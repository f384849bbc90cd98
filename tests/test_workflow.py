"""The workflow on a copy of the repository whose notebooks and their runner are stubs."""

import ast
import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from t2imu_utils import arms
from t2imu_utils.arms import Arm
from t2imu_utils.execute import resolve_parameters
from t2imu_utils.runs import PARTS, ROOT, STAGES
from t2imu_utils.tracks import load_track

DATA, PROMPTS, TRAINING, MOTIONS, SENSORS, LOSSES, TSNE, HAR, SWEEP = STAGES
(SOLVERS,) = PARTS
# Stands in for `t2imu_utils.execute`: it writes down what it was asked for, then what a stage would
# leave, or fails where the file "fail" says so.
EXECUTE = """
import json, sys, time
from pathlib import Path
from t2imu_utils.runs import OUTPUTS

notebook, log, *rest = sys.argv[1:]
given = dict(zip(rest[1::3], rest[2::3]))
model, stage = Path(log).parts[-3:-1]
call = {"folder": model, "stage": stage, "notebook": Path(notebook).stem, **given}
with open("calls.jsonl", "a") as stream:
    stream.write(json.dumps(call) + "\\n")
if Path("fail").exists() and Path("fail").read_text() == f"{model} {stage}":
    sys.exit(1)
for name in ("run.json", *(() if model == "compare" else OUTPUTS.get(stage, ()))):
    (Path(log).parent / name).write_text(
        json.dumps({"params": {}, "made": [model, stage, time.time_ns()]})
    )
Path(log).write_text("executed")
"""
COMPARISONS = [(stage, "compare") for stage in STAGES[3:]]
# What follows from any other comparison, and once for all.
LAST = [(HAR, "compare"), (SWEEP, "compare")]
TESTED = [MOTIONS, SENSORS, LOSSES, HAR]


@pytest.fixture(scope="module")
def stubs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stubs")
    shutil.copytree(ROOT / "workflow", folder / "workflow")
    package = folder / "t2imu_utils"
    shutil.copytree(ROOT / "t2imu_utils", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "execute.py").write_text(EXECUTE)
    (folder / "environment").touch()
    (folder / "notebooks").mkdir()
    for stage in STAGES:
        nbformat.write(nbformat.v4.new_notebook(), folder / f"notebooks/{stage}.ipynb")
    return folder


def make(project: Path, target: str = "paper", **config: str) -> subprocess.CompletedProcess:
    """`make paper` as the Makefile of the repository has it, in another folder."""
    # The environment is the one under test: its recipe must not run.
    command = ["make", "--file", str(ROOT / "Makefile"), "--old-file=environment", target]
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


def journal(project: Path) -> list[dict]:
    """What the runners were called with since the last look, in order."""
    path = project / "calls.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [json.loads(line) for line in lines]


def calls(project: Path, target: str = "paper", **config: str) -> list[dict]:
    """What one `make` executed."""
    done = make(project, target, **({"GENERATORS": "mdm"} | config))
    assert done.returncode == 0, done.stderr
    return journal(project)


def work(made: list[dict]) -> list[tuple[str, str]]:
    return sorted((call["stage"], call["folder"]) for call in made)


def of(stage: str, *models: str) -> list[tuple[str, str]]:
    return [(stage, model) for model in models]


def everything(*models: str) -> list[tuple[str, str]]:
    """The whole paper for these models: each stage of each, and what compares them."""
    each = [pair for stage in (TRAINING, *TESTED) for pair in of(stage, *models)]
    once = [(DATA, "shared"), (PROMPTS, "shared"), (SOLVERS, "mdm"), (HAR, "real")]
    return sorted([*once, *each, *COMPARISONS])


MODELS = ("mdm", "mdm-ft", "mdm-acc0.1")


@pytest.fixture(scope="module")
def paper(stubs, tmp_path_factory) -> tuple[Path, list[dict]]:
    """A project after its first `make`, and what that executed."""
    folder = tmp_path_factory.mktemp("paper") / "project"
    shutil.copytree(stubs, folder)
    return folder, calls(folder)


@pytest.fixture
def made(paper, tmp_path) -> Path:
    """A copy of that project, with its times, to be changed."""
    return Path(shutil.copytree(paper[0], tmp_path / "project"))


@pytest.fixture
def project(stubs, tmp_path) -> Path:
    """A project in which nothing has been run yet."""
    return Path(shutil.copytree(stubs, tmp_path / "project"))


def test_the_paper_in_its_order(paper):
    made = paper[1]
    order = [(call["stage"], call["folder"]) for call in made]
    assert sorted(order) == everything(*MODELS)
    for before, after in (
        ((DATA, "shared"), (TRAINING, "mdm")),
        ((TRAINING, "mdm"), (TRAINING, "mdm-ft")),
        ((TRAINING, "mdm-ft"), (TRAINING, "mdm-acc0.1")),
        ((PROMPTS, "shared"), (MOTIONS, "mdm")),
        *(((TRAINING, model), (MOTIONS, model)) for model in MODELS),
        *(((TRAINING, model), (LOSSES, model)) for model in MODELS),
        *(((MOTIONS, model), (SENSORS, model)) for model in MODELS),
        *(((SENSORS, model), (HAR, model)) for model in MODELS),
        *(((stage, model), (stage, "compare")) for stage in TESTED for model in MODELS),
        *(((MOTIONS, model), (LOSSES, "compare")) for model in MODELS),
        *(((SENSORS, model), (TSNE, "compare")) for model in MODELS),
        ((HAR, "real"), (HAR, "compare")),
        ((LOSSES, "compare"), (HAR, "compare")),
        ((TSNE, "compare"), (HAR, "compare")),
        ((HAR, "compare"), (SWEEP, "compare")),
    ):
        assert order.index(before) < order.index(after)


def test_a_second_call_does_nothing(made):
    assert calls(made, LAMBDA_ACC="0 1e-1 0.10", SEEDS="0 0") == []


def test_another_weight_and_another_seed_join_the_others(made):
    new = [pair for stage in (TRAINING, *TESTED) for pair in of(stage, "mdm-acc0.3")]
    assert work(calls(made, LAMBDA_ACC="0.3")) == sorted([*new, *COMPARISONS])
    seeded = calls(made, LAMBDA_ACC="0", SEEDS="1")
    assert work(seeded)[0] == (TRAINING, "mdm-ft-s1")
    assert [call["seed"] for call in seeded if "seed" in call] == ["1"]


def test_only_the_asked_generators_beside_mdm(project):
    momask = ("momask",)
    executed = calls(project, GENERATORS="momask")
    assert work(executed) == everything(*MODELS, *momask)
    generators = {call["folder"]: call["generator"] for call in executed if "generator" in call}
    assert generators == {model: model.split("-")[0] for model in (*MODELS, *momask)}
    # What is not refined has no arms.
    more = calls(project, GENERATORS="mdm t2mgpt")
    assert of(TRAINING, "t2mgpt") == [pair for pair in work(more) if pair[0] == TRAINING]


GRID = {"LAMBDA_ACC": "0.1 0.3", "SEEDS": "0 1"}
CELLS_OF_GRID = (
    "mdm", "mdm-ft", "mdm-ft-s1", "mdm-acc0.1", "mdm-acc0.1-s1", "mdm-acc0.3", "mdm-acc0.3-s1",
)  # fmt: skip


def test_a_failed_cell_of_a_sweep_is_made_again_alone(project):
    """Two weights and two seeds: each cell is built once, but for the one that failed."""
    broken = "mdm-acc0.3-s1"
    (project / "fail").write_text(f"{broken} {SENSORS}")
    assert make(project, "sweep", GENERATORS="mdm", **GRID).returncode != 0
    first = work(journal(project))
    kept_from = {(HAR, broken), (SENSORS, "compare"), (TSNE, "compare"), *LAST}
    shown = (SWEEP, "compare")  # at once what there is, and again in the end
    assert first == sorted({*everything(*CELLS_OF_GRID)} - kept_from | {shown})
    (project / "fail").unlink()
    assert work(calls(project, "sweep", **GRID)) == sorted({(SENSORS, broken), *kept_from})


CHANGED = {
    f"notebooks/{LOSSES}.ipynb": [*((LOSSES, m) for m in (*MODELS, "compare")), *LAST],
    f"notebooks/{TRAINING}.ipynb": sorted(
        set(everything(*MODELS)) - {(DATA, "shared"), (PROMPTS, "shared"), (HAR, "real")}
    ),
    "workflow/tracks/demo.yaml": everything(*MODELS),
    "t2imu_utils/models/losses.py": [],
}


@pytest.mark.parametrize("file", CHANGED)
def test_what_reads_a_file_is_executed_again_and_nothing_else(made, file):
    path = made / file
    # One more line, which changes no text that is read.
    path.write_text(path.read_text().rstrip("\n") + "\n\n")
    assert work(calls(made)) == sorted(CHANGED[file])


def test_after_a_change_of_the_package_rules_are_named(made):
    forced = work(calls(made, FORCE="losses"))
    assert forced == sorted([*of(LOSSES, *MODELS, "compare"), *LAST])


BY_HAND = {
    ("made again", "compare", LOSSES, "run.json"): LAST,
    ("made again", "mdm", SENSORS, "run.json"): [
        (SENSORS, "compare"), (TSNE, "compare"), (HAR, "mdm"), *LAST,
    ],
    ("broken off", "mdm-ft", LOSSES, "run.json"): [*of(LOSSES, "mdm-ft", "compare"), *LAST],
    ("deleted", "mdm", SENSORS, "imu.npz"): [
        *of(SENSORS, "mdm", "compare"), (TSNE, "compare"), (HAR, "mdm"), *LAST,
    ],
    # A changed control is followed by its arm, whose notebook shows both.
    ("deleted", "mdm-ft", TRAINING, "history.parquet"): [
        *(pair for stage in (TRAINING, *TESTED) for pair in of(stage, "mdm-ft", "mdm-acc0.1")),
        *COMPARISONS,
    ],
}  # fmt: skip


@pytest.mark.parametrize(("how", "model", "stage", "name"), BY_HAND)
def test_what_was_done_by_hand_is_followed(made, how, model, stage, name):
    path = made / "data/runs/demo" / model / stage / name
    if how == "made again":
        path.write_text("other numbers")
    else:
        path.unlink()
    assert work(calls(made)) == sorted(BY_HAND[how, model, stage, name])


def test_a_model_made_by_hand_is_shown_with_the_others(made):
    folder = made / "data/runs/demo"
    joints = {"params": {"arm": Arm("mdm", 0.1, acc_variant="joints").parameters}}
    for name, content in (("mine", joints), ("gone", {"params": {}})):  # of no generator here
        (folder / name / TRAINING).mkdir(parents=True)
        for file in ("run.json", "history.parquet"):
            (folder / name / TRAINING / file).write_text(json.dumps(content))
    new = [pair for stage in TESTED for pair in of(stage, "mine")]
    assert work(calls(made)) == sorted([*new, *COMPARISONS])


def standing(project: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file with its time and content, but for Snakemake's own."""
    files = (p for p in project.rglob("*") if p.is_file() and ".snakemake" not in p.parts)
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in files if p.suffix != ".pyc"}


def test_a_dry_run_says_much_and_changes_nothing(made):
    (made / f"data/runs/demo/mdm/{SENSORS}/run.json").unlink()
    (made / f"data/runs/demo/compare/{LOSSES}/run.json").unlink()
    before = standing(made)
    done = make(made, "sweep", GENERATORS="mdm", LAMBDA_ACC="0.1 0.3", SHOW="-n")
    assert done.returncode == 0 and standing(made) == before
    for rule, count in {
        "training": 1,
        "motions": 1,
        "sensors": 2,
        "recognition": 2,
        "compare": 6,
    }.items():
        assert [rule, str(count)] in [line.split() for line in done.stdout.splitlines()]


def test_a_track_of_ones_own_is_given_as_a_file(made, tmp_path):
    mine = tmp_path / "mine.yaml"
    shutil.copy(made / "workflow/tracks/demo.yaml", mine)
    done = make(made, TRACK=str(mine), GENERATORS="mdm", SHOW="-n --printshellcmds")
    assert done.returncode == 0, done.stderr
    # Its runs go to a folder of their own, and each job is given the file.
    assert "data/runs/mine/mdm/02_finetuning/notebook.ipynb" in done.stdout
    jobs = [line for line in done.stdout.splitlines() if " -m t2imu_utils." in line]
    assert len(jobs) > 20 and all(str(mine) in line for line in jobs)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"TRACK": "nowhere"}, "expected one of demo, open"),
        ({"LAMBDA_ACC": "0.1 inf"}, "expected numbers of at least 0"),
        ({"SEEDS": "0 -1"}, "expected numbers of at least 0"),
        ({"GENERATORS": "mdm gan"}, "generators=gan: not on track demo"),
    ],
)
def test_bad_requests_are_told(stubs, config, said):
    done = make(stubs, **config)
    assert done.returncode != 0
    assert said in done.stderr and "Traceback" not in done.stderr
    assert journal(stubs) == []


@pytest.mark.parametrize(("track", "study"), [("demo", "1"), ("open", "1"), ("open", "0")])
def test_every_command_fits_its_notebook(tmp_path, track, study):
    """What the workflow passes to the real notebooks is what they declare, and names its folder."""
    for name in ("workflow", "notebooks", "t2imu_utils"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "environment").touch()
    asked = {"TRACK": track, "GENERATORS": "mdm", "STUDY": study}
    printed = make(tmp_path, **asked, SHOW="--dry-run --printshellcmds").stdout
    trained = set()
    for line in printed.splitlines():
        if " -m t2imu_utils." in line:
            words = shlex.split(line)
            notebook, log, *rest = words[words.index("t2imu_utils.execute") + 1 :]
            given = dict(zip(rest[1::3], rest[2::3], strict=True))
            path, (model, stage) = tmp_path / notebook, Path(log).parts[-3:-1]
            node = nbformat.read(path, as_version=4)
            _, found = resolve_parameters(node, given, path)
            if stage == TRAINING:
                names = {field.name for field in fields(Arm)}
                assert Arm(**{n: x for n, x in found.items() if n in names}).name == model
                trained.add(model)
            else:
                assert found.get("model") in (model, None)
    plan = load_track(track).study if study == "1" else None
    assert trained == {*MODELS, *(one.name for one in arms.repeated(plan))}


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
        assert {canonicalize_name(modules.get(top, top)) for top in tops} <= names, path


def test_conda_installs_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-r requirements.lock", "-e ."]
