"""Where results go and what made them: run folders, `run.json`, which runs there are.

Every stage of every model writes into ``data/runs/<track>/<model>/<stage>/``. A `run.json` there
says that the stage is whole and what it was made from. Whether a stage is run again is decided by
the workflow alone (`workflow/Snakefile`); who runs one by hand overwrites what it wrote.
"""

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

import t2imu_utils
from t2imu_utils.arm_names import model_order
from t2imu_utils.errors import InputError
from t2imu_utils.files import plain, read_json, sha256, write_json

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
    "08_sweep",
)
# Parts of a stage that have a record of their own: of notebook 03 the comparison of solvers.
PARTS = ("03_solvers",)
# What each leaves beside `run.json`, at least: with that the outputs of its job in the workflow.
OUTPUTS = {
    "00_data": ("recordings.npz", "categories.parquet"),
    "01_prompt_generation": ("requests.parquet",),
    "02_finetuning": ("history.parquet",),
    "03_smpl_fitting": ("motions.npz", "fits.npz"),
    "03_solvers": ("trade_off.parquet",),
    "04_imu_synthesis": ("imu.npz",),
    "07_har": ("counts.parquet",),
}
# What follows the dash where one stage is done in another way: "gravity-keep0.5" of notebook 07.
VARIANT = re.compile(r"[a-z][a-z0-9._]*(-[a-z][a-z0-9._]*)*")
# Folders beside those of the models: what all share, what compares them, and real data.
SHARED, COMPARE, REAL = "shared", "compare", "real"
RECORDED_VERSIONS = ("torch", "numpy", "scipy", "diffusers", "smplx", "transformers")


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


def stage_name(stage: str, variant: str = "") -> str:
    """The name of a stage that is done in another way, such as ``07_har-gravity``."""
    return f"{stage}-{variant}" if variant else stage


def plain_stage(stage: str) -> str:
    """The stage that a name of `stage_name` is a variant of: whose notebook it belongs to."""
    return stage.partition("-")[0]


def run_dir(track: str, model: str, stage: str) -> Path:
    """The folder of one stage of one model, or of a variant of it; made when missing."""
    plain = plain_stage(stage)
    known = plain in (*STAGES, *PARTS)
    if not known or (stage != plain and not VARIANT.fullmatch(stage[len(plain) + 1 :])):
        raise InputError("stage", repr(stage), f"one of {', '.join(STAGES)}", "Check its spelling.")
    folder = runs_root() / track / model / stage
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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
    """One stage of one model.

    Attributes:
        dir: the run's folder.
        params: resolved parameters, seeds among them.
        inputs: hash of each input, by name.
        metrics: what the finished run measured, empty before.
    """

    dir: Path
    params: dict[str, Any]
    inputs: dict[str, str]
    metrics: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.time)

    def path(self, name: str) -> Path:
        """A file of this run."""
        return self.dir / name

    def written(self) -> pd.DataFrame:
        """What the finished run left, with sizes: the closing table of a notebook."""
        return written(*self.dir.parts[-3:-2], [self.dir.parts[-2]], self.dir.parts[-1])

    def finish(self, metrics: dict[str, Any], outputs: Sequence[Path]) -> "Run":
        """Write `run.json` last, so that it stands only beside whole outputs."""
        self.metrics = metrics
        record = {
            "track": self.dir.parts[-3],
            "model": self.dir.parts[-2],
            "stage": self.dir.parts[-1],
            "params": self.params,
            "inputs": self.inputs,
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
) -> Run:
    """Begin a stage of a model; what it left before counts as finished no longer.

    Args:
        params: everything that a person may set, resolved; must be JSON-able.
        inputs: hashes, or files and folders to hash, that the stage reads.
    """
    folder = run_dir(track, model, stage)
    hashes = {name: sha256(v) if isinstance(v, Path) else v for name, v in inputs.items()}
    (folder / "run.json").unlink(missing_ok=True)
    return Run(folder, json.loads(json.dumps(params)), hashes)


def load_run(track: str, model: str, stage: str) -> Run:
    """A finished stage of a model. Errors as of `require_run`."""
    record = require_run(track, model, stage)
    return Run(run_dir(track, model, stage), record["params"], record["inputs"], record["metrics"])


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


def record_hash(record: dict[str, Any]) -> str:
    """Hash of all that stands in a record but this hash itself: it names the run."""
    content = {name: value for name, value in record.items() if name != "checksum"}
    return sha256(json.dumps(plain(content), sort_keys=True).encode())


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
            f"Run notebooks/{plain_stage(stage)}.ipynb on track {track} first, or `make paper "
            f"TRACK={track}`.",
        )
    return record


def finished_dir(track: str, model: str, stage: str) -> Path:
    """The folder of a finished stage. Errors as of `require_run`."""
    require_run(track, model, stage)
    return run_dir(track, model, stage)


def input_hash(track: str, model: str, stage: str) -> str:
    """One hash of everything a finished stage wrote: what a later stage names as its input."""
    return output_hash(require_run(track, model, stage))


def output_hash(record: dict[str, Any]) -> str:
    """The hash by which a later stage names what the run of a `run.json` wrote."""
    return sha256(json.dumps(record["outputs"], sort_keys=True).encode())


def finished_models(track: str, stage: str) -> list[str]:
    """Models that have finished a stage, in the order of `arm_names.model_order`."""
    found = {p.parent.parent.name for p in (runs_root() / track).glob(f"*/{stage}/run.json")}
    return sorted(found - {SHARED, COMPARE, REAL}, key=model_order)


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
