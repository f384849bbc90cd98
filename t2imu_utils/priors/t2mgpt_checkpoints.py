"""T2M-GPT on disk: this project's own file, and the files of the official release, in and out.

What the official scripts leave below their folder, of which `read_t2mgpt` is given the one above::

    pretrained/VQVAE/net_last.pth                               net: vqvae.encoder.*, .decoder.*,
                                                                     vqvae.quantizer.codebook
    pretrained/VQTransformer_corruption05/net_best_fid.pth      trans: trans_base.*, trans_head.*
    checkpoints/t2m/VQVAEV3_CB1024_CMT_H1024_NRES3/meta/        mean.npy, std.npy  (263,)

The statistics come with the evaluator that the scripts fetch; T2M-GPT was trained with them. Code:
Apache License 2.0 (Mael-zys/T2M-GPT); the data that the weights were trained on keep their own
terms.
"""

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.priors.checkpoints import check_parameters
from t2imu_utils.priors.rvq import RVQ, RVQConfig
from t2imu_utils.priors.t2mgpt import GPTConfig, T2MGPTConfig, T2MGPTPrior, TokenGPT, fitted
from t2imu_utils.priors.text import TextEncoder, load_text_encoder
from t2imu_utils.runs import atomic_write, sha256

FORMAT = "t2imu-t2mgpt-1"
REMEDY = "Use the file that the training wrote, or train the prior again."
OFFICIAL = "Take the files that the official download scripts fetch, as they are."
# Network: its file below the official folder, and the key that its weights stand under.
FILES = {
    "rvq": ("pretrained/VQVAE/net_last.pth", "net"),
    "gpt": ("pretrained/VQTransformer_corruption05/net_best_fid.pth", "trans"),
}
META = "checkpoints/t2m/VQVAEV3_CB1024_CMT_H1024_NRES3/meta"
PREFIX = "vqvae."
# Our name of the codebook, and the official one.
CODEBOOK = ("quantizer.layers.0.codebook", "quantizer.codebook")
UNUSED = "trans_base.pos_embedding.weight"


def save_t2mgpt(path: Path, prior: T2MGPTPrior) -> Path:
    """Write a prior atomically: float32 tensors, the rest as JSON in the file's metadata."""
    tensors = {
        f"{name}.{key}": x.detach().float().cpu().contiguous()
        for name in FILES
        for key, x in getattr(prior, name).state_dict().items()
    }
    for name in ("mean", "std"):
        values = np.asarray(getattr(prior.normaliser, name), dtype=np.float32)
        tensors[f"normaliser.{name}"] = torch.from_numpy(values.copy())
    encoder = prior.text_encoder
    about = {
        "format": FORMAT,
        "config": asdict(prior.config),
        "text_encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint},
        "history": prior.history,
    }
    with atomic_write(Path(path)) as temporary:
        save_file(tensors, temporary, {"t2imu": json.dumps(about, sort_keys=True)})
    return Path(path)


def load_t2mgpt(
    path: Path,
    text_encoder: TextEncoder | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> T2MGPTPrior:
    """Read a prior that `save_t2mgpt` wrote, in evaluation mode.

    text_encoder: the encoder to use; None loads the one that the prior names, with what it computes
    kept in `cache`.

    Raises:
        InputError: no such file, a damaged one, parameters that do not fit the file's own
            configuration (all are listed), or another text encoder than that of the training.
    """
    path = Path(path)
    tensors, about = _read_own(path)
    config = _config(path, about["config"])
    named = about["text_encoder"]
    if text_encoder is None:
        text_encoder = load_text_encoder(named["name"], cache)
    if text_encoder.fingerprint != named["fingerprint"]:
        raise InputError(
            f"{path}: text_encoder",
            f"{text_encoder.name} {text_encoder.fingerprint[:12]}",
            f"{named['name']} {named['fingerprint'][:12]}, which the prior was trained with",
            "Pass that encoder; another one's vectors mean nothing to this prior.",
        )
    networks = _empty(config)
    wanted = {
        f"{name}.{key}": tuple(x.shape)
        for name, network in networks.items()
        for key, x in network.state_dict().items()
    } | {f"normaliser.{name}": (config.channels,) for name in ("mean", "std")}
    check_parameters(path, tensors, wanted, f"those of {config}", REMEDY)
    normaliser = Normaliser(*(tensors[f"normaliser.{name}"].numpy() for name in ("mean", "std")))
    for name, network in networks.items():
        _fill(network, {key: tensors[f"{name}.{key}"] for key in network.state_dict()}, device)
    return T2MGPTPrior(
        config,
        normaliser=normaliser,
        text_encoder=text_encoder,
        history=about["history"],
        **networks,
    )


def read_t2mgpt(
    folder: Path,
    text_encoder: TextEncoder | None = None,
    config: T2MGPTConfig | None = None,
    device: torch.device | str = "cpu",
) -> T2MGPTPrior:
    """Read the official checkpoints of a folder (see above), in evaluation mode.

    text_encoder: CLIP; None loads the one below the data root. config: sizes, None for the official
    ones. Mean and standard deviation are read, never computed. Causal masks and a table of
    positions that the original does not use are passed over; the table that it uses is read.
    `history` names the files by their hashes.

    Raises:
        InputError: a file that is missing, damaged, or would run code, or parameters of other
            names and shapes (all are listed, by file).
    """
    folder = Path(folder)
    text_encoder = text_encoder or load_text_encoder("clip")
    if text_encoder.name != "clip":
        raise InputError(
            folder, f"text encoder {text_encoder.name}", "clip, which it was trained with",
            "Pass that encoder; another one's vectors mean nothing to these weights.",
        )  # fmt: skip
    config = fitted(config or T2MGPTConfig(), text_encoder.pooled_width)
    networks, entry = _empty(config), {"official": "T2M-GPT", "files": {}}
    for name, network in networks.items():
        path = folder / FILES[name][0]
        weights = _read_official(path, FILES[name][1])
        names = _official_names(network)
        state = network.state_dict()
        wanted = {official: tuple(state[key].shape) for key, official in names.items()}
        check_parameters(path, weights, wanted, f"{name} of T2M-GPT", OFFICIAL)
        _fill(network, {key: weights[official] for key, official in names.items()}, device)
        entry["files"][name] = {"sha256": sha256(path)}
    statistics = [_statistic(folder / META / f"{name}.npy") for name in ("mean", "std")]
    return T2MGPTPrior(
        config,
        normaliser=Normaliser(*statistics),
        text_encoder=text_encoder,
        history=[entry],
        **networks,
    )


def write_t2mgpt(folder: Path, prior: T2MGPTPrior) -> Path:
    """Write weights and statistics in the official layout; returns the folder.

    Running sums of the codebook have no place in it.

    Raises:
        InputError: the folder already holds such files.
    """
    folder = Path(folder)
    present = [file for file, _ in FILES.values() if (folder / file).exists()]
    if present:
        raise InputError(
            folder, ", ".join(present), "a folder without checkpoints",
            "Choose an empty folder: checkpoints are not overwritten.",
        )  # fmt: skip
    for name, (file, key) in FILES.items():
        state = official_state(getattr(prior, name))
        with atomic_write(folder / file) as temporary:
            torch.save({key: {k: x.float().cpu().clone() for k, x in state.items()}}, temporary)
    for name in ("mean", "std"):
        path = folder / META / f"{name}.npy"
        with atomic_write(path) as temporary, open(temporary, "wb") as stream:
            np.save(stream, np.asarray(getattr(prior.normaliser, name), dtype=np.float32))
    return folder


def official_state(network: RVQ | TokenGPT) -> dict[str, Tensor]:
    """All that the official file of a network holds, by its names there.

    Of the transformer also what is the same in every file (causal masks), and zeros for the table
    of positions that the original does not use: it asks for them all the same.
    """
    state = network.state_dict()
    official = {name: state[key].detach() for key, name in _official_names(network).items()}
    if isinstance(network, TokenGPT):
        table = state["trans_base.pos_embed.embed"]
        mask = table.new_ones(len(table), len(table)).tril()[None, None]
        names = [name for name, _ in network.named_modules() if name.endswith(".attn")]
        official |= {f"{name}.mask": mask for name in names}
        official[UNUSED] = torch.zeros_like(table[:, 0])
    return official


def _official_names(network: RVQ | TokenGPT) -> dict[str, str]:
    """Our key to the official one, of what is read from official files."""
    keys = [k for k in network.state_dict() if not k.endswith(("code_sum", "code_count"))]
    if isinstance(network, TokenGPT):
        return {key: key for key in keys}
    return {key: PREFIX + key.replace(*CODEBOOK) for key in keys}


def _empty(config: T2MGPTConfig) -> dict[str, Any]:
    """Networks without weights, which `_fill` puts there: drawing 228 million would take long."""
    with torch.device("meta"):
        return {"rvq": RVQ(config.rvq), "gpt": TokenGPT(config.transformer)}


def _fill(network: nn.Module, state: Mapping[str, Tensor], device: torch.device | str) -> None:
    network.load_state_dict(dict(state), assign=True)
    network.to(device).eval()


def _read_official(path: Path, key: str) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(path, "no such file", "a checkpoint of the official release", OFFICIAL)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged file may raise anything; none of it can have run code.
    except Exception as error:
        refused = isinstance(error, pickle.UnpicklingError)
        found = "more than tensors, or no checkpoint" if refused else type(error).__name__
        raise InputError(
            path, f"unreadable ({found})", "a PyTorch checkpoint of tensors alone", OFFICIAL
        ) from error
    weights = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping):
        held = list(content) if isinstance(content, Mapping) else type(content).__name__
        raise InputError(path, f"{held}", f"weights under {key}", OFFICIAL)
    ignored = (".attn.mask", UNUSED)
    return {str(k): x for k, x in weights.items() if not str(k).endswith(ignored)}


def _statistic(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False).astype(np.float32)
    except (OSError, ValueError, EOFError) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else f"no array ({error})"
        raise InputError(
            path, found, "the statistics that the weights were trained with", OFFICIAL
        ) from error


def _read_own(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise InputError(path, "no such file", "a prior written by save_t2mgpt", REMEDY)
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("t2imu", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise InputError(
            path, f"unreadable ({error})", "a whole safetensors file", REMEDY
        ) from error
    if about.get("format") != FORMAT:
        raise InputError(f"{path}: format", repr(about.get("format")), repr(FORMAT), REMEDY)
    missing = {"config", "text_encoder", "history"} - set(about)
    if missing:
        raise InputError(
            f"{path}: metadata", f"no {', '.join(sorted(missing))}", "all of it", REMEDY
        )
    return tensors, about


def _config(path: Path, values: dict[str, Any]) -> T2MGPTConfig:
    parts = {"rvq": RVQConfig, "transformer": GPTConfig}
    for name, kind in ({"config": T2MGPTConfig} | parts).items():
        found = values if name == "config" else values[name]
        known = {f.name for f in fields(kind)}
        if not isinstance(found, dict) or set(found) != known:
            wrong = ", ".join(sorted(known ^ set(found)))
            raise InputError(
                f"{path}: {name}", f"missing or unknown: {wrong}", kind.__name__, REMEDY
            )
    return T2MGPTConfig(**{name: kind(**values[name]) for name, kind in parts.items()})
