"""Files of priors: this project's own, in safetensors, and the authors' PyTorch checkpoints.

An own file holds the parameters, the statistics of the features and, as JSON in its metadata, all
else that is needed to use the prior again. Official checkpoints are read weights-only, by a map of
keys for each family, and normalised by the statistics that were published with them.
"""

import json
import pickle
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass
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
from t2imu_utils.motion.features import (
    CONTACTS,
    POSITIONS,
    ROOT_HEIGHT,
    ROOT_ROTATION,
    ROOT_VELOCITY,
    ROTATIONS,
    VELOCITIES,
    WIDTH,
)

REMEDY = "Use the file that the training wrote, or train the prior again."
STATISTICS = ("mean", "std")
COMMON = {"config": dict, "text_encoder": dict, "history": list}
# What no official file has: sums that our codebooks are trained on with.
OWN = ("code_sum", "code_count")
# Std.npy of HumanML3D: half-angle a frame, m a frame, m, share of frames; m, -, m a frame.
SCALED = (
    (ROOT_ROTATION, 0.0129), (ROOT_VELOCITY, 0.0169), (ROOT_HEIGHT, 0.153), (CONTACTS, 0.352)
)  # fmt: skip
OTHERS = ((POSITIONS, 0.123), (ROTATIONS, 0.300), (VELOCITIES, 0.0195))
SCALES = {
    1: "HumanML3D's own",
    5: "divided by HumanML3D's feature bias, once",
    25: "the evaluators', divided by the feature bias twice",
}


def save(
    path: Path,
    kind: str,
    networks: Mapping[str, nn.Module],
    prior: Any,
    about: dict[str, Any],
    half: bool = False,
) -> Path:
    """Write a prior atomically.

    Args:
        kind: the format's name, such as ``"t2imu-momask-1"``.
        networks: by the prefix of their parameters' names.
        about: what else is to be kept, ``config`` among it; must be JSON-able.
        half: whether weights are float16: off by a relative 2^-11 at most (below 6e-5 by 2^-25).
    """
    dtype = torch.float16 if half else torch.float32
    tensors = {
        prefix + key: x.detach().to("cpu", dtype).contiguous()
        for prefix, network in networks.items()
        for key, x in network.state_dict().items()
    }
    if broken := [name for name, x in tensors.items() if half and not x.isfinite().all()]:
        raise InputError(
            f"{path}: parameters", f"{', '.join(broken)}: not finite in half precision",
            "weights below 65504", "Look at the training: weights of this size are not healthy.",
        )  # fmt: skip
    for name in STATISTICS:
        values = np.array(getattr(prior.normaliser, name), dtype=np.float32)
        tensors[f"normaliser.{name}"] = torch.from_numpy(values)
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


def read(
    path: Path, kinds: Collection[str], extra: Collection[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a file of `save`, widened to float32, and what it says about them."""
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such file", f"a prior: {' or '.join(kinds)}", REMEDY)
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("t2imu", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise InputError(
            path, f"unreadable ({error})", "a whole safetensors file", REMEDY
        ) from error
    found = about.get("format") if isinstance(about, dict) else None
    if found not in kinds:
        raise InputError(f"{path}: format", repr(found), " or ".join(kinds), REMEDY)
    wrong = [name for name, kind in COMMON.items() if not isinstance(about.get(name), kind)]
    wrong += [name for name in extra if name not in about]
    weight = about.setdefault("velocity_weight", 0.0)
    number = isinstance(weight, float | int)
    each = [weight] if number else weight if isinstance(weight, list) and len(weight) == 22 else []
    if not each or not all(isinstance(w, float | int) and 0 <= w < np.inf for w in each):
        wrong.append("velocity_weight")
    if wrong or not {"name", "fingerprint"} <= about["text_encoder"].keys():
        what = ", ".join(wrong or ["text_encoder"])
        raise InputError(f"{path}: metadata", f"no {what}, or a wrong one", "all of it", REMEDY)
    # Statistics are not widened: float16 would have lost some of them.
    half = {
        k: x for k, x in tensors.items() if x.dtype == torch.float16 and k[:11] != "normaliser."
    }
    return tensors | {key: x.float() for key, x in half.items()}, about


def load(
    path: Path,
    kinds: Collection[str],
    build: Callable[[dict[str, Any]], dict[str, nn.Module]],
    text_encoder: TextEncoder | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    extra: Collection[str] = (),
) -> tuple[list[nn.Module], dict[str, Any], dict[str, Any]]:
    """Read what `save` wrote, in evaluation mode.

    Args:
        build: metadata -> networks by prefix.
        text_encoder: the encoder to use, which must be that of the training; None loads the one
            that the file names, with token states kept in `cache`.

    Returns:
        The networks; what all priors have (``normaliser``, ``text_encoder``, ``history``,
        ``velocity_weight``); and all metadata.
    """
    path = Path(path)
    tensors, about = read(path, kinds, extra)
    try:
        networks = build(about)
    # What torch makes of sizes that no network has.
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"{path}: config", str(error), "sizes of a network", REMEDY) from error
    wanted = {f"normaliser.{name}": (WIDTH,) for name in STATISTICS}
    for prefix, network in networks.items():
        wanted |= {prefix + key: tuple(x.shape) for key, x in network.state_dict().items()}
    check_parameters(path, tensors, wanted, "those of the file's own configuration", REMEDY)
    named = about["text_encoder"]
    text_encoder = text_encoder or load_text_encoder(named["name"], cache)
    if text_encoder.fingerprint != named["fingerprint"]:
        raise InputError(
            f"{path}: text_encoder",
            f"{text_encoder.name} {text_encoder.fingerprint[:12]}",
            f"{named['name']} {named['fingerprint'][:12]}, which the prior was trained with",
            "Pass that encoder; another one's vectors mean nothing to this prior.",
        )
    for prefix, network in networks.items():
        state = {key: tensors[prefix + key] for key in network.state_dict()}
        network.load_state_dict(state, assign=True)
        network.to(device).eval()
    common = {
        "normaliser": Normaliser(*(tensors[f"normaliser.{name}"].numpy() for name in STATISTICS)),
        "text_encoder": text_encoder,
        "history": about["history"],
        "velocity_weight": about["velocity_weight"],
    }
    return list(networks.values()), common, about


def config_of(kind: type, values: Any) -> Any:
    """A dataclass of sizes from what a file says of it: all of its fields and no others."""
    known = {f.name: f.type for f in fields(kind)}
    if not isinstance(values, dict) or set(values) != set(known):
        wrong = ", ".join(sorted(set(known) ^ set(values if isinstance(values, dict) else ())))
        raise InputError(f"prior: {kind.__name__}", f"missing or unknown: {wrong}", "all", REMEDY)
    built = {
        name: config_of(part, values[name]) for name, part in known.items() if is_dataclass(part)
    }
    lists = {name: tuple(x) for name, x in values.items() if isinstance(x, list)}
    return kind(**values | lists | built)


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


def read_checkpoint(path: Path, remedy: str) -> Any:
    """The content of a PyTorch checkpoint: tensors, plain values, lists and dicts of them."""
    if not path.is_file():
        raise InputError(path, "no such file", "a checkpoint of the official release", remedy)
    expected = "a PyTorch checkpoint of tensors alone"
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    # A damaged file may raise anything; none of it can have run code.
    except Exception as error:
        with open(path, "rb") as stream:
            page = stream.read(64).lstrip().startswith(b"<")
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked and isinstance(error, pickle.UnpicklingError):
            raise InputError(
                path, f"a pickle that holds code: it asks for {asked[1]}, which is not run",
                expected,
                "Downloading it again does not help. If you trust its authors, convert it once "
                "where nothing can be lost, such as a container without network: "
                f'`python -c "import torch; x = torch.load(\'{path.name}\', weights_only=False); '
                "torch.save({k: v for k, v in x.items() if isinstance(v, dict)}, 'clean.pt')\"`, "
                "then put clean.pt in its place.",
            ) from error  # fmt: skip
        damage = f"a truncated or damaged file ({type(error).__name__})"
        found = "a web page (HTML), not weights" if page else damage
        raise InputError(path, found, expected, remedy) from error


def load_official(
    path: Path,
    network: nn.Module,
    keys: Collection[str],
    what: str,
    remedy: str,
    official: Callable[[str], str] = lambda key: key,
    ignored: Callable[[str], bool] = lambda key: False,
    bare: bool = False,
) -> tuple[dict[str, Any], str | None]:
    """Fill a network from an official checkpoint.

    Args:
        keys: under the first of these the weights stand; `bare`: or under none.
        official: our name of a parameter -> the official one. ignored: official names to pass over.

    Returns:
        All of the checkpoint, and the key that the weights stood under.
    """
    content = read_checkpoint(path, remedy)
    held = content if isinstance(content, Mapping) else {}
    key = next((key for key in keys if isinstance(held.get(key), Mapping)), None)
    if key is None and not (bare and held):
        found = f"{list(held)[:8]}" if held is content else f"a {type(content).__name__}"
        raise InputError(path, found, f"weights under {' or '.join(keys)}", remedy)
    weights = held if key is None else held[key]
    weights = {str(name).removeprefix("module."): x for name, x in weights.items()}
    weights = {name: x for name, x in weights.items() if not ignored(name)}
    state = {k: x for k, x in network.state_dict().items() if not k.endswith(OWN)}
    wanted = {official(k): tuple(x.shape) for k, x in state.items()}
    check_parameters(path, weights, wanted, what, remedy)
    network.load_state_dict({k: weights[official(k)] for k in state}, assign=True)
    network.eval()
    return content, key


def official_state(
    network: nn.Module, official: Callable[[str], str] = lambda key: key
) -> dict[str, Tensor]:
    """Parameters of a network by their official names, for a file of the authors' layout."""
    state = network.state_dict().items()
    return {
        official(k): x.detach().float().cpu().clone() for k, x in state if not k.endswith(OWN)
    }  # fmt: skip


def write_checkpoint(path: Path, content: Any) -> Path:
    """Write a PyTorch checkpoint atomically."""
    with atomic_write(path) as temporary, open(temporary, "wb") as stream:
        torch.save(content, stream)
    return path


def official_encoder(
    where: Path, text_encoder: TextEncoder | None, cache: Path | None = None, name: str = "clip"
) -> TextEncoder:
    """The encoder that official weights were trained with; CLIP of all but MDM's."""
    text_encoder = text_encoder or load_text_encoder(name, cache)
    if text_encoder.name != name:
        raise InputError(
            where, f"text encoder {text_encoder.name}", f"{name}, which it was trained with",
            "Pass that encoder; another one's vectors mean nothing to these weights.",
        )  # fmt: skip
    return text_encoder


def read_statistics(
    folder: Path, remedy: str, names: tuple[str, str] = ("mean.npy", "std.npy")
) -> Normaliser:
    """Mean and standard deviation as published with official weights; never computed."""
    expected = f"the statistics that the weights were trained with, {WIDTH} finite numbers"
    values = []
    for path in (folder / name for name in names):
        try:
            array = np.asarray(np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            absent = isinstance(error, FileNotFoundError)
            found = "no such file" if absent else f"no array ({error})"
            raise InputError(path, found, expected, remedy) from error
        if array.shape != (WIDTH,) or array.dtype.kind != "f" or not np.isfinite(array).all():
            found = f"shape {array.shape} of {array.dtype}, or values that are not finite"
            raise InputError(path, found, expected, remedy)
        values.append(array.astype(np.float32))
    return Normaliser(*values)


def write_statistics(
    folder: Path, normaliser: Normaliser, names: tuple[str, str] = ("mean.npy", "std.npy")
) -> None:
    """Write both statistics as float32."""
    for name, values in zip(names, (normaliser.mean, normaliser.std), strict=True):
        with atomic_write(folder / name) as temporary, open(temporary, "wb") as stream:
            np.save(stream, np.asarray(values, dtype=np.float32))


def refuse_overwriting(folder: Path, files: Iterable[str]) -> None:
    """Raise `InputError` if any of the files is in the folder."""
    present = [file for file in files if (folder / file).exists()]
    if present:
        raise InputError(
            folder, ", ".join(present), "a folder without checkpoints",
            "Choose an empty folder: checkpoints are not overwritten.",
        )  # fmt: skip


def feature_scale(normaliser: Normaliser) -> int:
    """By what the spread of root and contact channels was divided: 1, 5 or 25 (see `SCALES`).

    Official MDM is trained with HumanML3D's ``Std.npy`` (1); the evaluators of HumanML3D and models
    trained by its code divide these channels twice by 5. The spread of both kinds of channels is
    compared with that of HumanML3D; a corpus would have to be stranger than by a factor 2 to be
    taken for another scale.
    """

    def below(groups: tuple[tuple[slice, float], ...]) -> float:
        found = [max(float(np.mean(normaliser.std[group])), 1e-9) for group, _ in groups]
        return float(np.mean(np.log([typical for _, typical in groups]) - np.log(found)))

    scale = np.exp(below(SCALED) - below(OTHERS))
    nearest = min(SCALES, key=lambda known: abs(np.log(scale / known)))
    if abs(np.log(scale / nearest)) > np.log(5) / 2:
        raise InputError(
            "normaliser: std of channels 0:4 and 259:263",
            f"{scale:.3g} times smaller than the others, against HumanML3D",
            f"about {', '.join(map(str, SCALES))}",
            "Use the statistics that belong to the weights.",
        )
    return nearest
