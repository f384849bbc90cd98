"""Rows of signals and notebooks: features, reading recordings, recognition, start-up."""

import ast
import subprocess
import sys
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import nbformat
import numpy as np
import pyarrow.csv
import pycatch22
import torch
from nbformat.v4 import new_code_cell, new_notebook

from t2imu_utils.activities import POSITIONS
from t2imu_utils.analysis import har
from t2imu_utils.analysis.har import DeepConvLSTM
from t2imu_utils.analysis.signals import SHAPE, catch24
from t2imu_utils.demo import write_recordings
from t2imu_utils.execute import KERNEL, TAG
from t2imu_utils.recordings.realworld import read_realworld
from t2imu_utils.runs import ROOT
from tests.benchmarks.comparison import Comparison, within
from tests.benchmarks.machine import Machine, seconds
from tests.benchmarks.operations import deepconvlstm
from tests.benchmarks.reference import signals
from tests.benchmarks.sizes import Sizes

RATE, TRIM = 20.0, (6.0, 7.0)
SAMPLES, CHANNELS, CLASSES = 40, 42, 8  # two seconds of seven sites with six axes
NEAR = "within 1.5x of the floor"


def _fastest(run, times: int = 3) -> float:
    return min(seconds(run, "cpu")[0] for _ in range(times))


def features_row(sizes: Sizes, machine: Machine, folder: Path) -> Comparison:
    """catch22 of windows of one sensor."""
    rng = np.random.default_rng(0)
    windows = rng.standard_normal((sizes.windows, SAMPLES, 3)).cumsum(1)
    series = [axis.tolist() for window in windows for axis in window.T]

    def agree(reference, ours: np.ndarray) -> str:
        apart = np.abs(reference.to_numpy() - ours[:, SHAPE]).max()
        return within(float(apart), 1e-9, "features differ by {:.1e}")

    return Comparison(
        name="features",
        title="catch22, windows of three axes",
        unit="window",
        reference=lambda: signals.catch22_table(windows),
        ours=lambda: catch24(windows),
        agree=agree,
        reach=NEAR,
        floor=_fastest(lambda: [pycatch22.catch22_all(one) for one in series]) / sizes.windows,
        floor_is="the library alone on the same series, one process",
        reference_units=sizes.windows,
        our_units=sizes.windows,
    )


def reading_row(sizes: Sizes, machine: Machine, folder: Path) -> Comparison:
    """RealWorld's archive, made up, to uniform signals."""
    root, _ = write_recordings(folder / "made", 0, sizes.people, sizes.activities)
    calls = iter(range(1000))

    def reference() -> dict:
        return signals.read_recordings(root, folder / f"{next(calls)}", POSITIONS, RATE, TRIM)

    def agree(sessions: dict, read: tuple) -> str:
        clips = read[0]
        apart, compared = 0.0, 0
        for i, row in clips.table.iterrows():
            name = row["activity"].replace(" ", "")
            theirs = sessions[f"proband{row['subject']}", name, row["session"]]
            for sensor, array in clips[i].items():
                both = array, theirs[sensor]
                kept = np.isfinite(both[0]) & np.isfinite(both[1])
                apart = max(apart, float(np.abs(both[0] - both[1])[kept].max()))
                compared += int(kept.sum())
        if not compared:
            apart = np.nan
        return within(apart, 1e-6, "signals differ by {:.1e}")

    members = list(_members(root))
    return Comparison(
        name="reading",
        title=f"RealWorld reading, {sizes.people} people, {len(sizes.activities)} activities",
        unit="archive",
        reference=reference,
        ours=lambda: read_realworld(root, trim=TRIM),
        agree=agree,
        reach=NEAR,
        floor=_fastest(lambda: [_decoded(*member) for member in members]),
        floor_is="inflating the members and parsing their numbers, by zlib and Arrow on one core; "
        "the clock and the change of rate are not in it",
    )


def _members(root: Path):
    """Packed bytes of every CSV file below a folder, and whether they are deflated."""
    for path in sorted(root.rglob("*.zip")):
        yield from _packed(path.read_bytes())


def _packed(content: bytes):
    with zipfile.ZipFile(BytesIO(content)) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".zip"):
                yield from _packed(archive.read(info))
            elif info.filename.endswith(".csv"):
                # Name and extra field of a member's own header precede its bytes.
                start = info.header_offset
                skip = 30 + sum(content[start + 26 + 2 * k] for k in (0, 1))
                deflated = info.compress_type == zipfile.ZIP_DEFLATED
                yield content[start + skip : start + skip + info.compress_size], deflated


def _decoded(packed: bytes, deflated: bool):
    plain = zlib.decompress(packed, wbits=-15) if deflated else packed
    return pyarrow.csv.read_csv(BytesIO(plain), pyarrow.csv.ReadOptions(use_threads=False))


def recognition_row(sizes: Sizes, machine: Machine, folder: Path) -> Comparison:
    """Epochs of DeepConvLSTM."""
    device, rng = machine.device, np.random.default_rng(0)
    classes = [f"activity {i}" for i in range(CLASSES)]
    target = np.arange(sizes.har_windows) % CLASSES
    x = rng.standard_normal((sizes.har_windows, SAMPLES, CHANNELS)).astype(np.float32)
    labels, groups = np.array(classes)[target], np.arange(sizes.har_windows) // CLASSES
    config = har.HarConfig(
        epochs=sizes.har_epochs, patience=sizes.har_epochs, filters=sizes.filters,
        units=sizes.units,
    )  # fmt: skip
    shape = CHANNELS, CLASSES, config.filters, config.units
    fit, held = har._hold_out(target, groups, config)
    data = signals.Windows(x, target, x[fit].mean((0, 1)), x[fit].std((0, 1)))
    per_class = max(1, len(fit) // CLASSES)
    drawn = np.random.default_rng(config.seed)
    epochs = []
    for _ in range(config.epochs):
        order = fit[har.balanced_rows(target[fit], per_class, drawn)]
        epochs.append(np.array_split(order, -(-len(order) // config.batch_size)))

    def reference() -> list[float]:
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            weights = DeepConvLSTM(*shape, config.dropout).state_dict()
            state = torch.get_rng_state()
            network = signals.PlainNetwork(*shape, config.dropout)
            network.load_state_dict(weights)
            torch.set_rng_state(state)
            return signals.train_network(network, data, epochs, held, config.learning_rate, device)

    def agree(losses: list[float], trained: har.Classifier) -> str:
        # The first epoch: later ones carry on what rounding made of it.
        apart = abs(losses[0] / trained.history["train_loss"][0] - 1)
        return within(apart, 1e-3 if device == "cpu" else 5e-2, "losses differ by {:.1e}")

    count = CLASSES * per_class
    forward = deepconvlstm(SAMPLES, *shape)
    needed = forward * (3 * count + len(held))
    return Comparison(
        name="recognition",
        title=f"DeepConvLSTM training, {count} windows of {CHANNELS} channels, "
        f"{config.filters} filters",
        unit="epoch",
        reference=reference,
        ours=lambda: har.train_classifier(x, labels, classes, config, groups, device),
        agree=agree,
        reach=NEAR,
        floor=machine.operations(needed),
        floor_is=f"{needed:.2g} operations, forward and twice that backward, in float32",
        reference_units=config.epochs,
        our_units=config.epochs,
    )


def notebook_row(sizes: Sizes, machine: Machine, folder: Path) -> Comparison:
    """A notebook that imports what one of the paper's does and ends."""
    source = imports_of(ROOT / "notebooks" / sizes.notebook) if sizes.notebook else "import json"
    parameters = new_code_cell("number: int = 3", metadata={"tags": [TAG]})
    book = new_notebook(cells=[parameters, new_code_cell(f"{source}\nprint(number)")])
    book.metadata["kernelspec"] = {"name": KERNEL, "display_name": KERNEL, "language": "python"}
    path = folder / "start.ipynb"
    nbformat.write(book, path)
    code = f"import ipykernel.kernelapp, IPython\n{source}"

    def printed(out: Path) -> str:
        return "".join(x["text"] for x in nbformat.read(out, 4).cells[-1].outputs)

    def run(*arguments: str | Path) -> None:
        command = [sys.executable, *map(str, arguments)]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)

    def reference() -> str:
        out = folder / "reference.ipynb"
        plain = ["-k", KERNEL, "--no-progress-bar", "--cwd", ROOT, "-p", "number", "4"]
        run("-m", "papermill", path, out, *plain)
        return printed(out)

    def ours() -> str:
        out = folder / "ours.ipynb"
        run("-m", "t2imu_utils.execute", path, out, "-p", "number", "4", "--quiet")
        return printed(out)

    def agree(one: str, other: str) -> str:
        return within(float(one != other or not one), 0.5, "the same output")

    return Comparison(
        name="notebook",
        title=f"notebook start-up, imports of {sizes.notebook or 'nothing'}",
        unit="notebook",
        reference=reference,
        ours=ours,
        agree=agree,
        reach=NEAR,
        floor=_fastest(lambda: run("-c", code)),
        floor_is="a Python that imports the same and the kernel, and ends",
        warm=False,
    )


def imports_of(notebook: Path) -> str:
    """The import statements of a notebook's first cells."""
    cells = [cell.source for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]
    nodes = [node for source in cells[:2] for node in ast.parse(source).body]
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(map(ast.unparse, imports))
