"""Where results go and what made them: run folders, atomic writes, `run.json`.

Every stage of every model writes into ``data/runs/<track>/<model>/<stage>/``. A `run.json` there
says that the stage is whole and what it was made from; a stage whose parameters, inputs and code
have not changed is not run again.
"""

import ast
import hashlib
import json
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

import t2imu_utils
from t2imu_utils.errors import InputError

PACKAGE = Path(t2imu_utils.__file__).parent
ROOT = PACKAGE.parent
STAGES = (
    "00_data",
    "01_prompt_generation",
    "02_finetuning",
    "03_smpl_fitting",
    "04_imu_synthesis",
    "05_lacc_analysis",
    "06_tsne",
    "07_har",
)
# Folders beside those of the models: what all share, what compares them, and real data.
SHARED, COMPARE, REAL = "shared", "compare", "real"
BASE, CONTROL = "mdm", "mdm-ft"
RECORDED_VERSIONS = ("torch", "numpy", "scipy", "diffusers", "smplx", "transformers")


def model_name(
    lambda_acc: float,
    lambda_pos: float = 0.0,
    lambda_foot: float = 0.0,
    lambda_vel: float = 0.0,
    acc_space: str = "features",
    acc_contacts: bool = True,
    seed: int = 0,
) -> str:
    """The name of a fine-tuned arm, so that no two settings ever share a folder.

    ``mdm-ft`` is the control; ``mdm-acc0.1`` has L_acc with weight 0.1. Whatever else differs
    from the defaults is appended: ``mdm-acc0.1-vel0.5-joints-nocontacts-s1``.
    """
    parts = [CONTROL if lambda_acc == 0 else f"{BASE}-acc{lambda_acc:g}"]
    weights = {"pos": lambda_pos, "foot": lambda_foot, "vel": lambda_vel}
    parts += [f"{name}{weight:g}" for name, weight in weights.items() if weight]
    if lambda_acc:
        parts += [acc_space] * (acc_space != "features") + ["nocontacts"] * (not acc_contacts)
    return "-".join(parts + [f"s{seed}"] * (seed != 0))


def runs_root() -> Path:
    """``data/runs`` of the repository, or the folder named by ``T2IMU_RUNS``."""
    return Path(os.environ.get("T2IMU_RUNS", ROOT / "data" / "runs"))


def figures_dir(track: str) -> Path:
    """``figures/<track>``, beside the runs when ``T2IMU_RUNS`` moves them; made when missing."""
    moved = os.environ.get("T2IMU_RUNS")
    folder = (Path(moved) / "figures" if moved else ROOT / "figures") / track
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cache_dir(name: str) -> Path:
    """A folder for what can always be computed again, such as encoded texts."""
    return runs_root() / ".cache" / name


def run_dir(track: str, model: str, stage: str) -> Path:
    """The folder of one stage of one model; made when missing."""
    if stage not in STAGES:
        raise InputError("stage", repr(stage), f"one of {', '.join(STAGES)}", "Check its spelling.")
    folder = runs_root() / track / model / stage
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it on success, remove it on any error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(source: Path | bytes) -> str:
    """Hex digest of a file's content, of a folder's files in order, or of bytes."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    source = Path(source)
    if source.is_dir():
        files = sorted(p for p in source.rglob("*") if p.is_file())
        parts = [f"{p.relative_to(source)}:{sha256(p)}" for p in files]
        return sha256("\n".join(parts).encode())
    with open(source, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _code_only(tree: ast.AST) -> str:
    """The code of a syntax tree without docstrings (comments and layout are not in it anyway)."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    # Not `ast.dump`, whose text changed with Python 3.13.
    return ast.unparse(tree)


@cache
def code_hash(*rooms: str) -> str:
    """Hash of what some rooms of the package *do*: their code without comments and docstrings.

    Args:
        rooms: names below the package, such as ``"priors"`` or ``"imu/sensors.py"``; none = all.
    """
    files: set[Path] = set()
    for room in rooms or (".",):
        path = PACKAGE / room
        files |= set(path.rglob("*.py")) if path.is_dir() else {path}
    parts = [
        f"{p.relative_to(PACKAGE)}:{_code_only(ast.parse(p.read_bytes()))}" for p in sorted(files)
    ]
    return sha256("\n".join(parts).encode())


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(ROOT), *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def compute_device() -> str:
    """Where networks are trained and sampled: "cuda" if there is such a device, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def provenance() -> dict[str, Any]:
    """Versions, code revision and machine, for `run.json`."""
    import torch

    status = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "versions": {
            "t2imu": t2imu_utils.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in RECORDED_VERSIONS},
        },
        "git": {
            "revision": _git("rev-parse", "HEAD"),
            "dirty": None if status is None else bool(status),
        },
        "device": torch.cuda.get_device_name() if compute_device() == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


@dataclass
class Run:
    """One stage of one model: its folder, what it depends on, and whether that is done already.

    Attributes:
        dir: the run's folder.
        params: resolved parameters, seeds among them.
        inputs: hash of each input, by name.
        metrics: what the finished run measured, empty before.
    """

    dir: Path
    params: dict[str, Any]
    inputs: dict[str, str]
    code: str
    metrics: dict[str, Any] = field(default_factory=dict)
    done: bool = False
    started: float = field(default_factory=time.time)

    def path(self, name: str) -> Path:
        """A file of this run."""
        return self.dir / name

    def written(self) -> pd.DataFrame:
        """What the finished run left, with sizes: the closing table of a notebook."""
        return written(*self.dir.parts[-3:-2], [self.dir.parts[-2]], self.dir.parts[-1])

    def finish(self, metrics: dict[str, Any], outputs: Sequence[Path]) -> "Run":
        """Write `run.json` last, so that it stands only beside whole outputs."""
        self.metrics, self.done = metrics, True
        record = {
            "track": self.dir.parts[-3],
            "model": self.dir.parts[-2],
            "stage": self.dir.parts[-1],
            "params": self.params,
            "inputs": self.inputs,
            "code": self.code,
            "outputs": {Path(p).name: sha256(Path(p)) for p in outputs},
            "metrics": metrics,
            "wall_seconds": round(time.time() - self.started, 2),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **provenance(),
        }
        write_json(self.dir / "run.json", record)
        return self


def open_run(
    track: str,
    model: str,
    stage: str,
    params: dict[str, Any],
    inputs: dict[str, str | Path],
    code: Sequence[str] = (),
) -> Run:
    """Open a stage of a model, and see whether it has been done with just these ingredients.

    Args:
        params: everything that a person may set, resolved; must be JSON-able.
        inputs: hashes, or files and folders to hash, that the stage reads.
        code: rooms of the package whose code the result depends on (see `code_hash`).
    """
    folder = run_dir(track, model, stage)
    hashes = {name: sha256(v) if isinstance(v, Path) else v for name, v in inputs.items()}
    run = Run(folder, json.loads(json.dumps(params)), hashes, code_hash(*code))
    record = read_run(folder)
    if record is None:
        return run
    same = (record["params"], record["inputs"], record["code"]) == (run.params, hashes, run.code)
    if same and outputs_whole(folder, record):
        run.metrics, run.done = record["metrics"], True
    else:
        # The old results stop counting before anything is written over them.
        (folder / "run.json").unlink()
    return run


def outputs_whole(folder: Path, record: dict[str, Any]) -> bool:
    """Whether every output named in a `run.json` is there with its recorded content."""
    return all(
        (folder / name).exists() and sha256(folder / name) == digest
        for name, digest in record["outputs"].items()
    )


def written(track: str, models: Sequence[str], stage: str) -> pd.DataFrame:
    """What a finished stage left for each model, with sizes: the closing table of a notebook."""
    rows = []
    for model in models:
        folder = run_dir(track, model, stage)
        for name in require_run(track, model, stage)["outputs"]:
            rows.append((f"{track}/{model}/{stage}/{name}", _size(folder / name) / 1e6))
    return pd.DataFrame(rows, columns=["file", "MB"]).round(2)


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())


def read_run(folder: Path) -> dict[str, Any] | None:
    """The `run.json` of a folder, or None where there is none."""
    path = Path(folder) / "run.json"
    return read_json(path) if path.exists() else None


def require_run(track: str, model: str, stage: str) -> dict[str, Any]:
    """The `run.json` of a finished stage.

    Raises:
        InputError: the stage has not been run, with the command that runs it.
    """
    record = read_run(run_dir(track, model, stage))
    if record is None:
        raise InputError(
            run_dir(track, model, stage) / "run.json",
            "nothing",
            f"the finished stage {stage} of {model}",
            f"Run notebooks/{stage}.ipynb on track {track} first, or `make paper TRACK={track}`.",
        )
    return record


def input_hash(track: str, model: str, stage: str) -> str:
    """One hash of everything a finished stage wrote: what a later stage names as its input."""
    return sha256(json.dumps(require_run(track, model, stage)["outputs"], sort_keys=True).encode())


def finished_models(track: str, stage: str) -> list[str]:
    """Models that have finished a stage: base, control, then the arms by weight of L_acc."""
    found = {p.parent.parent.name for p in (runs_root() / track).glob(f"*/{stage}/run.json")}
    return sorted(found - {SHARED, COMPARE, REAL}, key=model_order)


def model_order(model: str) -> tuple[int, float, str]:
    """Sorting key: base, controls, then ``mdm-acc<weight>`` by weight, then anything else."""
    weight = re.match(rf"{BASE}-acc([0-9.e+-]+?)(-[a-z]|$)", model)
    if weight:
        return 2, float(weight[1]), model
    return (0 if model == BASE else 1 if model.startswith(CONTROL) else 3), 0.0, model


def choose_models(track: str, stage: str, wanted: list[str] | None) -> list[str]:
    """The models to compare: those asked for, or all that have finished `stage`.

    Raises:
        InputError: a model asked for has not finished `stage`, or none has.
    """
    found = finished_models(track, stage)
    missing = [model for model in wanted or [] if model not in found]
    if missing or not found:
        raise InputError(
            f"models: {', '.join(missing) or 'none'}",
            f"finished on track {track}: {', '.join(found) or 'none'}",
            f"models that have finished {stage}",
            f"Run notebooks/{stage}.ipynb for them first, or `make paper TRACK={track}`.",
        )
    return sorted(wanted, key=model_order) if wanted else found


def write_json(path: Path, content: dict[str, Any]) -> Path:
    """Write JSON atomically, sorted and indented; what is not a number (NaN) becomes null."""
    text = json.dumps(_plain(content), indent=1, sort_keys=True, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    number = value.item() if hasattr(value, "item") else value
    return None if isinstance(number, float) and not math.isfinite(number) else number


def read_json(path: Path) -> dict[str, Any]:
    """Read JSON; a damaged file is an `InputError` that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            path, f"no valid JSON ({error})", "a JSON object", "Delete it and run its stage again."
        ) from error
