"""Loss curves for TensorBoard, as local event files; only where the environment asks for them.

``T2IMU_TENSORBOARD=folder`` makes finished curves be written below that folder, to be looked at
with ``tensorboard --logdir folder``. Writing needs the extra ``tracking`` (tensorboardX, which
brings protobuf alone); TensorBoard itself may live in any other environment.
"""

import importlib
import math
import os
import shutil
import tempfile
import time
from pathlib import Path
from types import ModuleType

import pandas as pd
from pandas.api.types import is_numeric_dtype

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write

VARIABLE = "T2IMU_TENSORBOARD"
FILE = "events.out.tfevents.{}.t2imu"  # TensorBoard reads whatever has its second and third word


def asked_folder() -> Path | None:
    """The folder that ``T2IMU_TENSORBOARD`` names, or None; ask before hours of training.

    Raises:
        InputError: the variable is set, and the package that writes event files is missing.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    _writer_package()
    return Path(folder)


def log_if_asked(name: str, curves: pd.DataFrame) -> list[Path]:
    """`log_curves` into `asked_folder`; writes nothing where the environment does not ask."""
    folder = asked_folder()
    return [] if folder is None else log_curves(folder, name, curves)


def log_curves(folder: Path, name: str, curves: pd.DataFrame) -> list[Path]:
    """Write the loss curves of a training, in place of what was written under its name before.

    Args:
        folder: what TensorBoard is given as ``--logdir``.
        name: of the training, such as ``cmu/mdm-ft``; may have slashes.
        curves: one row for a step of a split: ``step``, ``split``, further columns of text such
            as ``stage``, and a column for each term; NaN where a term was not computed.

    Returns:
        The event files ``<folder>/<name>/<split>/events.out.tfevents.*``, or ``<stage>/<split>``
        and the like with further columns of text. All use the tags ``curves/<term>``, so that
        TensorBoard draws them into one plot.

    Raises:
        InputError: no ``step`` or ``split``, the package is missing, or the disk is full.
    """
    package = _writer_package()
    missing = {"step", "split"} - set(curves)
    if missing:
        raise InputError(
            f"curves of {name}", f"no {', '.join(sorted(missing))}", "step, split and terms",
            "Take them from the history.parquet of stage 02.",
        )  # fmt: skip
    written = []
    others = curves.columns.drop(["step", "split"])
    texts = [*(c for c in others if not is_numeric_dtype(curves[c])), "split"]
    for labels, rows in curves.groupby(texts, sort=False):
        target = Path(folder, name, *map(str, labels), FILE.format(int(time.time())))
        # Not there at once: TensorBoard would begin to read a file that is not whole.
        with tempfile.TemporaryDirectory() as scratch:
            with package.SummaryWriter(scratch) as writer:
                _add(writer, rows.drop(columns=texts))
            (events,) = Path(scratch).iterdir()
            with atomic_write(target) as temporary:
                shutil.copyfile(events, temporary)
        for earlier in target.parent.glob(FILE.format("*")):
            if earlier != target:
                earlier.unlink()
        written.append(target)
    return written


def _add(writer, rows: pd.DataFrame) -> None:
    for term in rows.columns.drop("step"):
        for step, value in zip(rows["step"], rows[term], strict=True):
            if math.isfinite(value):
                writer.add_scalar(f"curves/{term}", float(value), int(step))


def _writer_package() -> ModuleType:
    try:
        return importlib.import_module("tensorboardX")
    except ImportError as error:
        raise InputError(
            "tensorboardX",
            "no such package",
            "what writes event files for TensorBoard",
            f"`pip install tensorboardX`, or unset {VARIABLE} to go on without them.",
        ) from error
