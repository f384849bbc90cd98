"""Files of priors: this project's own, in safetensors, and the authors' PyTorch checkpoints.

An own file holds the parameters, the statistics of the features and, as JSON in its metadata, all
else that is needed to use the prior again. Official checkpoints are read weights-only, by a map of
keys for each family, and normalised by the statistics that were published with them.
"""

import json
import pickle
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write
from t2imu_utils.models.text import TextEncoder, load_text_encoder
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.motion.features import WIDTH

REMEDY = "Use the file that the training wrote, or train the prior again."
STATISTICS = ("mean", "std")
MEAN_STD = ("mean.npy", "std.npy")
# What no official file has: sums that our codebooks are trained on with.
OWN = ("code_sum", "code_count")


def save(
    path: Path,
    kind: str,
    networks: Mapping[str, nn.Module],
    prior: Any,
    about: Mapping[str, Any] | None = None,
    half: bool = False,
) -> Path:
    """Write a prior atomically, as of a format such as ``"t2imu-momask-1"`` (`kind`).

    networks: by name, which their parameters' names begin with ("" for the only one). about: what
    else is to be kept; must be JSON-able. half: whether weights are float16: off by a relative
    2^-11 at most (below 6e-5 by 2^-25).
    """
    dtype = torch.float16 if half else torch.float32
    tensors = {
        key: x.detach().to("cpu", dtype).contiguous() for key, x in _states(networks).items()
    }
    for name in STATISTICS:
        values = np.array(getattr(prior.normaliser, name), dtype=np.float32)
        tensors[f"normaliser.{name}"] = torch.from_numpy(values)
    encoder = prior.text_encoder
    whole = {
        **(about or {}),
        "format": kind,
        "config": asdict(prior.config),
        "text_encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint},
        "history": prior.history,
        "velocity_weight": prior.velocity_weight,
    }
    with atomic_write(Path(path)) as temporary:
        save_file(tensors, temporary, {"t2imu": json.dumps(whole, sort_keys=True)})
    return Path(path)


def _states(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}".removeprefix("."): x
        for name, network in networks.items()
        for key, x in network.state_dict().items()
    }


def load(
    path: Path,
    kinds: Collection[str],
    sizes: type,
    build: Callable[[Any], dict[str, nn.Module]],
    text_encoder: TextEncoder | None = None,
    cache: Path | None = None,
) -> tuple[dict[str, nn.Module], dict[str, Any], dict[str, Any]]:
    """Read what `save` wrote, in evaluation mode on the CPU.

    Args:
        sizes: class of the configuration. build: it -> networks by name.
        text_encoder: the encoder to use, which must be that of the training; None loads the one
            that the file names, with token states kept in `cache`.

    Returns:
        The networks; what all priors have (``normaliser``, ``text_encoder``, ``history``,
        ``velocity_weight``); and all metadata, of which ``config`` is a `sizes`.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["t2imu"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if about["format"] not in kinds:
            raise ValueError(f"the format {about['format']!r}")
        about["config"] = config_of(sizes, about["config"])
        networks = build(about["config"])
        named, history = about["text_encoder"], about["history"]
    # Wrong sizes may raise anything where a network is built of them.
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
        expected = f"a prior: {' or '.join(kinds)}"
        raise InputError(path, f"nothing readable ({error!r})", expected, REMEDY) from error
    # Statistics are not widened: float16 would have lost some of them.
    for key, x in tensors.items():
        if x.dtype == torch.float16 and not key.startswith("normaliser."):
            tensors[key] = x.float()
    wanted = {f"normaliser.{name}": (WIDTH,) for name in STATISTICS}
    wanted |= {key: tuple(x.shape) for key, x in _states(networks).items()}
    check_parameters(path, tensors, wanted, "those of the file's own configuration", REMEDY)
    text_encoder = text_encoder or load_text_encoder(named["name"], cache)
    if text_encoder.fingerprint != named["fingerprint"]:
        raise InputError(
            f"{path}: text_encoder", f"{text_encoder.name} {text_encoder.fingerprint[:12]}",
            f"{named['name']} {named['fingerprint'][:12]}, which the prior was trained with",
            "Pass that encoder; another one's vectors mean nothing to this prior.",
        )  # fmt: skip
    for name, network in networks.items():
        state = {key: tensors[f"{name}.{key}".removeprefix(".")] for key in network.state_dict()}
        network.load_state_dict(state, assign=True)
        network.eval()
    common = {
        "normaliser": Normaliser(*(tensors[f"normaliser.{name}"].numpy() for name in STATISTICS)),
        "text_encoder": text_encoder,
        "history": history,
        "velocity_weight": about.get("velocity_weight", 0.0),  # older files have none
    }
    return networks, common, about


def config_of(kind: type, values: dict[str, Any]) -> Any:
    """A dataclass of sizes from what a file says of it."""
    parts = {f.name: f.type for f in fields(kind) if is_dataclass(f.type)}
    read = {name: tuple(x) if isinstance(x, list) else x for name, x in values.items()}
    return kind(**read | {name: config_of(part, values[name]) for name, part in parts.items()})


def check_parameters(
    path: Path,
    tensors: Mapping[str, Any],
    wanted: Mapping[str, tuple[int, ...]],
    expected: str,
    remedy: str,
) -> None:
    """Compare parameters with the names and shapes wanted; all must be float32 and finite."""
    problems = [f"{key} is missing" for key in wanted if key not in tensors]
    problems += [f"{key} is unknown" for key in tensors if key not in wanted]
    for key in wanted.keys() & tensors.keys():
        x = tensors[key]
        if not isinstance(x, Tensor) or (tuple(x.shape), x.dtype) != (wanted[key], torch.float32):
            kind = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else "no tensor"
            problems.append(f"{key} is {kind.removeprefix('torch.')}, not float32 {wanted[key]}")
        elif not x.isfinite().all():
            problems.append(f"{key} holds values that are not finite")
    if problems:
        raise InputError(f"{path}: parameters", "; ".join(sorted(problems)), expected, remedy)


def read_checkpoint(path: Path, remedy: str) -> Any:
    """The content of a PyTorch checkpoint: tensors, plain values, lists and dicts of them."""
    if not path.is_file():
        raise InputError(path, "no such file", "a checkpoint of the official release", remedy)
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    # A damaged file may raise anything; none of it can have run code.
    except Exception as error:
        page = path.read_bytes()[:64].lstrip().startswith(b"<")
        found = "a web page (HTML), not weights" if page else f"a damaged file ({error!r:.80})"
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked and isinstance(error, pickle.UnpicklingError):
            found = f"a pickle that holds code: it asks for {asked[1]}, which is not run"
            remedy = (
                "Downloading it again does not help. If you trust its authors, read it in a "
                "container without network (torch.load with weights_only=False), and put what "
                "torch.save writes of its dicts of tensors in its place."
            )
        expected = "a PyTorch checkpoint of tensors alone"
        raise InputError(path, found, expected, remedy) from error


def load_official(
    path: Path,
    network: nn.Module,
    keys: Collection[str],
    what: str,
    remedy: str,
    official: Callable[[str], str] = lambda key: key,
    ignored: Callable[[str], bool] = lambda key: False,
) -> tuple[dict[str, Any], str | None]:
    """Fill a network from an official checkpoint, in evaluation mode.

    keys: under the first of these the weights stand; "" is under none. official: our name of a
    parameter -> the official one. ignored: official names to pass over. Returned are all of the
    checkpoint, and the key that the weights stood under.
    """
    content = read_checkpoint(path, remedy)
    held = dict(content) if isinstance(content, Mapping) else {}
    held[""] = content if held else None
    key = next((key for key in keys if isinstance(held.get(key), Mapping)), None)
    if key is None:
        found = f"{list(held)[:8]}" if content else f"a {type(content).__name__}"
        raise InputError(path, found, f"weights under {' or '.join(keys)}", remedy)
    weights = held[key]
    weights = {str(name).removeprefix("module."): x for name, x in weights.items()}
    weights = {name: x for name, x in weights.items() if not ignored(name)}
    state = {k: x for k, x in network.state_dict().items() if not k.endswith(OWN)}
    wanted = {official(k): tuple(x.shape) for k, x in state.items()}
    check_parameters(path, weights, wanted, what, remedy)
    network.load_state_dict({k: weights[official(k)] for k in state}, assign=True)
    network.eval()
    return content, key


def official_encoder(
    where: Path, text_encoder: TextEncoder | None, name: str = "clip"
) -> TextEncoder:
    """The encoder that official weights were trained with; CLIP of all but MDM's."""
    text_encoder = text_encoder or load_text_encoder(name)
    if text_encoder.name != name:
        raise InputError(
            where, f"text encoder {text_encoder.name}", f"{name}, which it was trained with",
            "Pass that encoder; another one's vectors mean nothing to these weights.",
        )  # fmt: skip
    return text_encoder


def read_statistics(folder: Path, remedy: str, names: tuple[str, str] = MEAN_STD) -> Normaliser:
    """Mean and standard deviation as published with official weights; never computed."""
    values = []
    for path in (folder / name for name in names):
        try:
            array = np.asarray(np.load(path, allow_pickle=False), dtype=np.float32)
            if array.shape != (WIDTH,) or not np.isfinite(array).all():
                raise ValueError(f"shape {array.shape}, or values that are not finite")
        except (OSError, ValueError, EOFError) as error:
            expected = f"the statistics that the weights were trained with, {WIDTH} finite numbers"
            raise InputError(path, str(error), expected, remedy) from error
        values.append(array)
    return Normaliser(*values)
