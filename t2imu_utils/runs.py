"""Where results go and what made them: run folders, and the `run.json` in each.

Every stage of every model writes into ``data/runs/<track>/<model>/<stage>/``. A `run.json` there
says that the stage is whole and what it was made from. Whether a stage is run again is decided by
the workflow alone (`workflow/Snakefile`); who runs one by hand overwrites what it wrote.
"""

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

import t2imu_utils
from t2imu_utils.errors import InputError
from t2imu_utils.files import plain, read_json, sha256, write_json, write_table

ROOT = Path(t2imu_utils.__file__).parents[1]
STAGES = (
    "00_data", "01_prompt_generation", "02_finetuning", "03_smpl_fitting", "04_imu_synthesis",
    "05_lacc_analysis", "06_tsne", "07_har", "08_sweep",
)  # fmt: skip
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
# Folders beside those of the models: what all share, what compares them, and real data.
SHARED, COMPARE, REAL = "shared", "compare", "real"
RECORDED_VERSIONS = ("torch", "numpy", "scipy", "smplx", "transformers")


# ---------------------------------------------------------------- places
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
    folder = runs_root() / track / model / stage
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# ---------------------------------------------------------------- what made it
def compute_device() -> str:
    """Where networks are trained and sampled: "cuda" if there is such a device, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


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


# ---------------------------------------------------------------- one run
@dataclass
class Run:
    """One stage of one model, in its folder `dir`.

    params: resolved, seeds among them. inputs: hash of each, by name. metrics: what it measured.
    outputs: the files that it wrote. before: the metrics of the run that it writes over.
    """

    dir: Path
    params: dict[str, Any]
    inputs: dict[str, str]
    metrics: dict[str, Any] = field(default_factory=dict)
    outputs: list[Path] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        return self.dir / name

    def save(self, name: str, content: Any) -> None:
        """Write an output: a table (``name.parquet``), or what has a `save` of its own."""
        if isinstance(content, pd.DataFrame):
            self.outputs.append(write_table(self.path(f"{name}.parquet"), content))
        else:
            self.outputs += content.save(self.path(name))

    def written(self) -> pd.DataFrame:
        """What the finished run left, with sizes: the closing table of a notebook."""
        rows = []
        for path in (self.path(name) for name in read_json(self.path("run.json"))["outputs"]):
            size = sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())
            rows.append((path.relative_to(self.dir.parents[2]).as_posix(), size / 1e6))
        return pd.DataFrame(rows, columns=["file", "MB"]).round(2)


@contextmanager
def record(
    track: str, model: str, stage: str, params: dict[str, Any], inputs: Mapping[str, Any]
) -> Iterator[Run]:
    """A stage of a model, from its beginning to its `run.json`; after an error there is none.

    params: everything that a person may set, resolved; must be JSON-able. inputs: what the stage
    reads: hashes, files and folders, or finished stages as pairs of a model and a stage.
    """
    started, folder = time.time(), run_dir(track, model, stage)
    params, hashes = _resolved(track, params, inputs)
    before = (read_run(folder) or {}).get("metrics", {})
    (folder / "run.json").unlink(missing_ok=True)
    run = Run(folder, params, hashes, before=before)
    yield run
    content = {
        "track": track,
        "model": model,
        "stage": stage,
        "params": params,
        "inputs": hashes,
        "outputs": {Path(p).name: sha256(Path(p)) for p in run.outputs},
        "metrics": run.metrics,
        "wall_seconds": round(time.time() - started, 2),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **provenance(),
    }
    write_json(folder / "run.json", content)


def same_run(
    track: str, model: str, stage: str, params: dict[str, Any], inputs: Mapping[str, Any]
) -> Run | None:
    """The finished stage of a model, if it was made of the same with the same settings."""
    found = read_run(run_dir(track, model, stage))
    same = found and (found["params"], found["inputs"]) == _resolved(track, params, inputs)
    return load_run(track, model, stage) if same else None


def _resolved(
    track: str, params: dict[str, Any], inputs: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Parameters as they stand in JSON, and the hash of each input."""

    def digest(read: str | Path | tuple[str, str]) -> str:
        if isinstance(read, tuple):
            return input_hash(track, *read)
        return sha256(read) if isinstance(read, Path) else read

    return json.loads(json.dumps(params)), {name: digest(read) for name, read in inputs.items()}


def read_run(folder: Path) -> dict[str, Any] | None:
    """The `run.json` of a folder, or None where there is none."""
    path = Path(folder) / "run.json"
    return read_json(path) if path.exists() else None


def require_run(track: str, model: str, stage: str) -> dict[str, Any]:
    """The `run.json` of a finished stage; an `InputError` says how to run one that is not."""
    found = read_run(run_dir(track, model, stage))
    if found is None:
        raise InputError(
            run_dir(track, model, stage) / "run.json", "nothing",
            f"the finished stage {stage} of {model}",
            f"Run notebooks/{plain_stage(stage)}.ipynb on track {track} first, or `make paper "
            f"TRACK={track}`.",
        )  # fmt: skip
    return found


def load_run(track: str, model: str, stage: str) -> Run:
    """A finished stage of a model."""
    found = require_run(track, model, stage)
    return Run(run_dir(track, model, stage), found["params"], found["inputs"], found["metrics"])


def finished_dir(track: str, model: str, stage: str) -> Path:
    """The folder of a finished stage."""
    require_run(track, model, stage)
    return run_dir(track, model, stage)


def input_hash(track: str, model: str, stage: str) -> str:
    """One hash of everything a finished stage wrote: what a later stage names as its input."""
    return output_hash(require_run(track, model, stage))


def output_hash(content: dict[str, Any]) -> str:
    """The hash by which a later stage names what the run of a `run.json` wrote."""
    return sha256(json.dumps(content["outputs"], sort_keys=True).encode())


# ---------------------------------------------------------------- all runs
def load_records(track: str = "*", stage: str = "") -> tuple[list[dict[str, Any]], list[str]]:
    """All finished runs by track, stage and model: the content of each `run.json`, its ``hash`` and
    its name (``run``); and what is wrong with files that are no whole `run.json`.

    track: only this one's. stage: only of stages whose name begins so, such as "02".
    """
    found, damaged = [], []
    for path in sorted(runs_root().glob(f"{track}/*/{stage}*/run.json")):
        try:
            content = read_json(path)
            name = "/".join(content[part] for part in ("track", "model", "stage"))
            digest = sha256(json.dumps(plain(content), sort_keys=True).encode())
            found.append({"hash": digest, "run": name, **content})
        except (InputError, KeyError) as error:
            damaged.append(f"{path}: {error}")
    return sorted(found, key=lambda r: (r["track"], r["stage"], r["model"])), damaged


def find_record(text: str, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The one run that `text` names: by ``track/model/stage``, where any part may be left out at
    the front and the stage cut short (``mdm-ft/02``), or by the beginning of its hash."""
    fits = [r for r in records if f"/{text}" in f"/{r['run']}"]
    fits = fits or [r for r in records if r["hash"].startswith(text)]
    if len(fits) != 1:
        listed = ", ".join(f"{r['run']} ({r['hash'][:12]})" for r in (fits or records)[:12])
        raise InputError(
            f"run {text!r}", f"{len(fits)} runs that fit", f"one of {listed or 'none'}",
            "Give more of its name or hash; `t2imu runs` lists all.",
        )  # fmt: skip
    return fits[0]


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Nested values by dotted name: ``{"a": {"b": [1]}}`` becomes ``{"a.b.0": 1}``."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {name: value}
    parts = (leaves(item, f"{name}.{key}".lstrip(".")) for key, item in value.items())
    return {below: leaf for part in parts for below, leaf in part.items()}


def differences(
    first: dict[str, Any], second: dict[str, Any], everything: bool = False
) -> pd.DataFrame:
    """What two runs differ in, or (`everything`) all that they have: a row for each value, by its
    dotted name in `run.json`; columns ``a``, ``b``, and ``b - a`` of numbers."""
    kept = ("params", "inputs", "outputs", "metrics", "versions", "git", "device", "threads")
    a, b = (leaves({part: r.get(part) for part in kept}) for r in (first, second))
    rows = {}
    for name in dict.fromkeys([*a, *b]):
        old, new = a.get(name), b.get(name)
        if everything or old != new:
            numbers = all(type(x) in (int, float) for x in (old, new))
            rows[name] = {"a": old, "b": new, "b - a": new - old if numbers else None}
    return pd.DataFrame.from_dict(rows, "index", columns=["a", "b", "b - a"], dtype=object)


def cost_by_stage(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """What finished runs took, variants counted with their stage: a row for each stage in their
    order, then ``all``; columns ``runs``, ``hours`` (sum), ``longest`` (minutes) and ``device``.

    A run's time is that of the wall, from its beginning to its `run.json`: without the start of
    its process, and with whatever else the machine did meanwhile.
    """
    rows = [(plain_stage(r["stage"]), r["wall_seconds"], r["device"]) for r in records]
    table = pd.DataFrame(rows, columns=["stage", "seconds", "device"]).sort_values("stage")
    grouped = pd.concat([table, table.assign(stage="all")]).groupby("stage", sort=False)
    return grouped.agg(
        runs=("seconds", "count"),
        hours=("seconds", lambda seconds: seconds.sum() / 3600),
        longest=("seconds", lambda seconds: seconds.max() / 60),
        device=("device", lambda names: ", ".join(sorted(set(names)))),
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums of floating-point numbers come out the same however many cores there are."""
    import torch
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)
