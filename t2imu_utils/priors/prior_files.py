"""What the files of all generators have in common: this project's own, and official PyTorch ones.

An own file is one safetensors file of float32 tensors, the statistics of the features among them,
with the rest as JSON in its metadata. Official checkpoints are read weights-only, and normalised
by the statistics that were published with them.
"""

import json
import pickle
import re
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.motion.features import WIDTH
from t2imu_utils.priors.text import TextEncoder, load_text_encoder

REMEDY = "Use the file that the training wrote, or train the prior again."
STATISTICS = ("mean", "std")
COMMON = {"config", "text_encoder", "history"}


class Trained(Protocol):
    """What every prior has beside its networks."""

    normaliser: Normaliser
    text_encoder: TextEncoder
    history: list[dict[str, Any]]
    velocity_weight: float | list[float]


def write_own(
    path: Path, kind: str, state: Mapping[str, Tensor], prior: Trained, about: dict[str, Any]
) -> Path:
    """Write a prior atomically.

    Args:
        kind: the format's name, such as ``"t2imu-momask-1"``.
        state: parameters of all its networks by name.
        about: what else is to be kept, ``config`` among it; must be JSON-able.
    """
    tensors = {key: x.detach().float().cpu().contiguous() for key, x in state.items()}
    for name in STATISTICS:
        values = np.asarray(getattr(prior.normaliser, name), dtype=np.float32)
        tensors[f"normaliser.{name}"] = torch.from_numpy(values.copy())
    encoder = prior.text_encoder
    whole = about | {
        "format": kind,
        "text_encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint},
        "history": prior.history,
        "velocity_weight": prior.velocity_weight,
    }
    with atomic_write(Path(path)) as temporary:
        save_file(tensors, temporary, {"t2imu": json.dumps(whole, sort_keys=True)})
    return Path(path)


def read_own(
    path: Path, kind: str, extra: Collection[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a file of `write_own`, and what it says about them.

    Raises:
        InputError: no such file, a damaged one, one of another format, or one without a field of
            `COMMON` or `extra`.
    """
    if not path.is_file():
        raise InputError(path, "no such file", f"a prior of the format {kind}", REMEDY)
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("t2imu", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise InputError(
            path, f"unreadable ({error})", "a whole safetensors file", REMEDY
        ) from error
    found = about.get("format") if isinstance(about, dict) else None
    if found != kind:
        raise InputError(f"{path}: format", repr(found), repr(kind), REMEDY)
    if missing := COMMON.union(extra) - set(about):
        raise InputError(
            f"{path}: metadata", f"no {', '.join(sorted(missing))}", "all of it", REMEDY
        )
    weight = about.setdefault("velocity_weight", 0.0)
    try:
        good = (
            np.shape(weight) in ((), (22,))
            and (np.isfinite(weight) & (np.array(weight) >= 0)).all()
        )
    except (TypeError, ValueError):
        good = False
    if not good:
        expected = "one number or 22, none negative"
        raise InputError(f"{path}: velocity_weight", repr(weight)[:80], expected, REMEDY)
    return tensors, about


def same_encoder(
    path: Path, about: Mapping[str, Any], text_encoder: TextEncoder | None, cache: Path | None
) -> TextEncoder:
    """The encoder that a file names, or the given one, which must be the same."""
    named = about["text_encoder"]
    text_encoder = text_encoder or load_text_encoder(named["name"], cache)
    if text_encoder.fingerprint != named["fingerprint"]:
        raise InputError(
            f"{path}: text_encoder",
            f"{text_encoder.name} {text_encoder.fingerprint[:12]}",
            f"{named['name']} {named['fingerprint'][:12]}, which the prior was trained with",
            "Pass that encoder; another one's vectors mean nothing to this prior.",
        )
    return text_encoder


def checked_fields(path: Path, name: str, values: Any, kind: type) -> dict[str, Any]:
    """The values of a dataclass as a file has them: all of its fields and no others."""
    known = {f.name for f in fields(kind)}
    found = set(values) if isinstance(values, dict) else set()
    if found != known:
        wrong = ", ".join(sorted(known ^ found))
        raise InputError(f"{path}: {name}", f"missing or unknown: {wrong}", kind.__name__, REMEDY)
    return values


def check_parameters(
    path: Path,
    tensors: Mapping[str, Any],
    wanted: Mapping[str, tuple[int, ...]],
    expected: str,
    remedy: str,
) -> None:
    """Compare parameters with the names and shapes wanted; all must be float32 and finite.

    Raises:
        InputError: lists everything that is missing, unknown, of another shape or type, or not
            finite, as what was found where `expected` was.
    """
    problems = [f"{key} is missing" for key in wanted if key not in tensors]
    problems += [f"{key} is unknown" for key in tensors if key not in wanted]
    for key in wanted.keys() & tensors.keys():
        found = tensors[key]
        if not isinstance(found, Tensor):
            problems.append(f"{key} is no tensor")
        elif tuple(found.shape) != wanted[key] or found.dtype != torch.float32:
            kind = str(found.dtype).removeprefix("torch.")
            problems.append(f"{key} is {kind} {tuple(found.shape)}, not float32 {wanted[key]}")
        elif not found.isfinite().all():
            problems.append(f"{key} holds values that are not finite")
    if problems:
        raise InputError(f"{path}: parameters", "; ".join(sorted(problems)), expected, remedy)


def statistics_shapes(channels: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the statistics in a file of `write_own`."""
    return {f"normaliser.{name}": (channels,) for name in STATISTICS}


def take_statistics(tensors: dict[str, Tensor]) -> Normaliser:
    """The statistics, taken out of the tensors of a file."""
    return Normaliser(*(tensors.pop(f"normaliser.{name}").numpy() for name in STATISTICS))


def official_encoder(
    where: Path, text_encoder: TextEncoder | None, cache: Path | None = None
) -> TextEncoder:
    """CLIP, which all official checkpoints but MDM's were trained with."""
    text_encoder = text_encoder or load_text_encoder("clip", cache)
    if text_encoder.name != "clip":
        raise InputError(
            where, f"text encoder {text_encoder.name}", "clip, which it was trained with",
            "Pass that encoder; another one's vectors mean nothing to these weights.",
        )  # fmt: skip
    return text_encoder


def read_checkpoint(path: Path, remedy: str) -> Any:
    """The content of a PyTorch checkpoint: tensors, plain values, lists and dicts of them.

    Raises:
        InputError: no such file, a damaged one, or one that holds more (it could run code and is
            not opened).
    """
    if not path.is_file():
        raise InputError(path, "no such file", "a checkpoint of the official release", remedy)
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    # A damaged file may raise anything; none of it can have run code.
    except Exception as error:
        raise InputError(
            path, _damage(path, error), "a PyTorch checkpoint of tensors alone", remedy
        ) from error


def _damage(path: Path, error: Exception) -> str:
    """What is wrong with a file that does not load (torch's own advice is unsafe)."""
    with open(path, "rb") as stream:
        if stream.read(64).lstrip().startswith(b"<"):
            return "a web page (HTML), not weights"
    if isinstance(error, pickle.UnpicklingError):
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"asks for {asked[1]}" if asked else "holds more than tensors"
        return f"a pickle that {what}: it could run code and is not opened"
    return f"a truncated or damaged file ({type(error).__name__})"


def read_official(
    path: Path, keys: tuple[str, ...], remedy: str
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Everything in a PyTorch checkpoint, and the weights under the first of `keys` it has.

    Raises:
        InputError: what `read_checkpoint` refuses, or none of the keys.
    """
    content = read_checkpoint(path, remedy)
    held = content if isinstance(content, Mapping) else {}
    key = next((key for key in keys if isinstance(held.get(key), Mapping)), None)
    if key is None:
        found = f"{list(held)[:8]}" if held is content else type(content).__name__
        raise InputError(path, found, f"weights under {' or '.join(keys)}", remedy)
    return content, content[key]


def read_statistics(
    folder: Path, remedy: str, names: tuple[str, str] = ("mean.npy", "std.npy")
) -> Normaliser:
    """Mean and standard deviation as published with official weights; never computed.

    Raises:
        InputError: no such file, a damaged one, or other than 263 finite numbers.
    """
    expected = f"the statistics that the weights were trained with, {WIDTH} finite numbers"
    values = []
    for path in (folder / name for name in names):
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            absent = isinstance(error, FileNotFoundError)
            found = "no such file" if absent else f"no array ({error})"
            raise InputError(path, found, expected, remedy) from error
        shape, kind = getattr(array, "shape", None), getattr(array, "dtype", None)
        if shape != (WIDTH,) or kind.kind != "f" or not np.isfinite(array).all():
            found = f"shape {shape} of {kind}, or values that are not finite"
            raise InputError(path, found, expected, remedy)
        values.append(array.astype(np.float32))
    return Normaliser(*values)


def write_statistics(folder: Path, normaliser: Normaliser) -> None:
    """Write ``mean.npy`` and ``std.npy``."""
    for name in STATISTICS:
        with (
            atomic_write(folder / f"{name}.npy") as temporary,
            open(temporary, "wb") as stream,
        ):
            np.save(stream, np.asarray(getattr(normaliser, name), dtype=np.float32))


def refuse_overwriting(folder: Path, files: Iterable[str]) -> None:
    """Raise `InputError` if any of the files is in the folder."""
    present = [file for file in files if (folder / file).exists()]
    if present:
        raise InputError(
            folder, ", ".join(present), "a folder without checkpoints",
            "Choose an empty folder: checkpoints are not overwritten.",
        )  # fmt: skip
