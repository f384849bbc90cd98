"""MoMask on disk: this project's own file, and the folders of the official release, in and out.

The official folder, of which `read_momask` is given the one above::

    rvq_nq6_dc512_nc512_noshare_qdp0.2/model/net_best_fid.tar      vq_model, ep
    rvq_nq6_dc512_nc512_noshare_qdp0.2/meta/mean.npy, std.npy      (263,)
    t2m_nlayer8_nhead6_ld384_ff1024_cdp0.1_rvq6ns/model/latest.tar t2m_transformer, ep
    tres_nlayer8_ld384_ff1024_rvq6ns_cdp0.2_sw/model/net_best_fid.tar  res_transformer, ep
    length_estimator/model/finest.tar                              estimator (may be absent)

The ``.tar`` files are PyTorch checkpoints, not archives. Code: MIT licence (Chuan Guo, 2023); the
data that the weights were trained on keep their own terms.
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
from t2imu_utils.priors.lengths import LengthEstimator
from t2imu_utils.priors.masked_transformer import (
    MaskTransformer,
    ResidualTransformer,
    TokenTransformerConfig,
)
from t2imu_utils.priors.mdm import sinusoids
from t2imu_utils.priors.momask import MoMaskConfig, MoMaskPrior, fitted
from t2imu_utils.priors.rvq import RVQ, RVQConfig
from t2imu_utils.priors.text import TextEncoder, load_text_encoder
from t2imu_utils.runs import atomic_write, sha256

FORMAT = "t2imu-momask-1"
REMEDY = "Use the file that the training wrote, or train the prior again."
OFFICIAL = "Take the files of the official release (checkpoints/t2m) as they are."
RVQ_FOLDER = "rvq_nq6_dc512_nc512_noshare_qdp0.2"
# Network: its file below the official folder, and the keys its weights may stand under.
FILES = {
    "rvq": (f"{RVQ_FOLDER}/model/net_best_fid.tar", ("vq_model", "net")),
    "mask": (
        "t2m_nlayer8_nhead6_ld384_ff1024_cdp0.1_rvq6ns/model/latest.tar",
        ("t2m_transformer", "trans"),
    ),
    "residual": (
        "tres_nlayer8_ld384_ff1024_rvq6ns_cdp0.2_sw/model/net_best_fid.tar",
        ("res_transformer",),
    ),
    "lengths": ("length_estimator/model/finest.tar", ("estimator",)),
}
# Rows of the table of sinusoids in an official file.
POSITIONS = 5000


def save_momask(path: Path, prior: MoMaskPrior) -> Path:
    """Write a prior atomically: float32 tensors, the rest as JSON in the file's metadata."""
    tensors = {
        f"{name}.{key}": x.detach().float().cpu()
        for name, network in _networks(prior).items()
        for key, x in network.state_dict().items()
    }
    for name in ("mean", "std"):
        values = np.asarray(getattr(prior.normaliser, name), dtype=np.float32)
        tensors[f"normaliser.{name}"] = torch.from_numpy(values.copy())
    encoder = prior.text_encoder
    about = {
        "format": FORMAT,
        "config": asdict(prior.config),
        "lengths": None if prior.lengths is None else prior.lengths.classes,
        "text_encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint},
        "history": prior.history,
    }
    metadata = {"t2imu": json.dumps(about, sort_keys=True)}
    with atomic_write(Path(path)) as temporary:
        save_file({key: x.contiguous() for key, x in tensors.items()}, temporary, metadata)
    return Path(path)


def load_momask(
    path: Path,
    text_encoder: TextEncoder | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> MoMaskPrior:
    """Read a prior that `save_momask` wrote, in evaluation mode.

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
    empty = _empty(config, about["lengths"])
    wanted = {
        f"{name}.{key}": tuple(x.shape)
        for name, network in empty.items()
        for key, x in network.state_dict().items()
    } | {f"normaliser.{name}": (config.channels,) for name in ("mean", "std")}
    check_parameters(path, tensors, wanted, f"those of {config}", REMEDY)
    normaliser = Normaliser(*(tensors[f"normaliser.{name}"].numpy() for name in ("mean", "std")))
    for name, network in empty.items():
        own = {key: tensors[f"{name}.{key}"] for key in network.state_dict()}
        network.load_state_dict(own)
        network.to(device).eval()
    return MoMaskPrior(
        config,
        normaliser=normaliser,
        text_encoder=text_encoder,
        history=about["history"],
        **empty,
    )


def read_momask(
    folder: Path,
    text_encoder: TextEncoder | None = None,
    config: MoMaskConfig | None = None,
    device: torch.device | str = "cpu",
) -> MoMaskPrior:
    """Read the official checkpoints of a folder (see above), in evaluation mode.

    text_encoder: CLIP; None loads the one below the data root. config: sizes, None for the official
    ones. Mean and standard deviation are those beside the weights. `history` names the files by
    their hashes and epochs.

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
    config = fitted(config or MoMaskConfig(), text_encoder.pooled_width)
    lengths = folder / FILES["lengths"][0]
    classes = config.transformer.max_tokens + 1 if lengths.exists() else None
    empty, entry = _empty(config, classes), {"official": "MoMask", "files": {}}
    for name, network in empty.items():
        path = folder / FILES[name][0]
        content, weights = _read_official(path, FILES[name][1])
        check_parameters(
            path, weights, _official_shapes(name, network), f"{name} of MoMask", OFFICIAL
        )
        network.load_state_dict(weights)
        network.to(device).eval()
        epoch = content.get("ep", content.get("epoch"))
        entry["files"][name] = {
            "sha256": sha256(path),
            "epoch": epoch if isinstance(epoch, int) else None,
        }
    statistics = [_statistic(folder / RVQ_FOLDER / "meta" / f"{x}.npy") for x in ("mean", "std")]
    return MoMaskPrior(
        config,
        normaliser=Normaliser(*statistics),
        text_encoder=text_encoder,
        history=[entry],
        **empty,
    )


def write_momask(folder: Path, prior: MoMaskPrior) -> Path:
    """Write weights and statistics in the official layout; returns the folder.

    Running sums of the codebooks have no place in it. The options (``opt.txt``) that the official
    code asks for beside them are not written.

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
    for name, network in _networks(prior).items():
        file, (key, *_) = FILES[name]
        state = {
            key: x.detach().float().cpu().clone()
            for key, x in network.state_dict().items()
            if key in _official_shapes(name, network)
        }
        if name in ("mask", "residual"):
            table = sinusoids(POSITIONS, prior.config.transformer.width)
            state["position_enc.pe"] = table[:, None]
        with atomic_write(folder / file) as temporary:
            torch.save({key: state, "epoch" if name == "lengths" else "ep": 0}, temporary)
    for name in ("mean", "std"):
        path = folder / RVQ_FOLDER / "meta" / f"{name}.npy"
        with atomic_write(path) as temporary, open(temporary, "wb") as stream:
            np.save(stream, np.asarray(getattr(prior.normaliser, name), dtype=np.float32))
    return folder


def _networks(prior: MoMaskPrior) -> dict[str, nn.Module]:
    networks = {name: getattr(prior, name) for name in FILES}
    return {name: network for name, network in networks.items() if network is not None}


def _empty(config: MoMaskConfig, classes: int | None) -> dict[str, Any]:
    """Networks without meaningful weights; no length estimator where there are no classes."""
    networks: dict[str, Any] = {
        "rvq": RVQ(config.rvq),
        "mask": MaskTransformer(config.transformer),
        "residual": ResidualTransformer(config.transformer),
    }
    if classes is not None:
        networks["lengths"] = LengthEstimator(config.transformer.text_width, classes)
    return networks


def _official_shapes(name: str, network: nn.Module) -> dict[str, tuple[int, ...]]:
    shapes = {key: tuple(x.shape) for key, x in network.state_dict().items()}
    own = ("code_sum", "code_count") if name == "rvq" else ()
    return {key: shape for key, shape in shapes.items() if not key.endswith(own)} if own else shapes


def _read_official(path: Path, keys: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Everything in a file, and its weights without what is not read from it."""
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
    held = list(content) if isinstance(content, Mapping) else type(content).__name__
    key = next((key for key in keys if key in held), None)
    if key is None or not isinstance(content[key], Mapping):
        raise InputError(path, f"{held}", f"weights under {' or '.join(keys)}", OFFICIAL)
    ignored = ("position_enc.", "clip_model.")
    weights = {k: x for k, x in content[key].items() if not str(k).startswith(ignored)}
    return content, weights


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
        raise InputError(path, "no such file", "a prior written by save_momask", REMEDY)
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
    missing = {"config", "lengths", "text_encoder", "history"} - set(about)
    if missing:
        raise InputError(
            f"{path}: metadata", f"no {', '.join(sorted(missing))}", "all of it", REMEDY
        )
    return tensors, about


def _config(path: Path, values: dict[str, Any]) -> MoMaskConfig:
    parts = {"rvq": RVQConfig, "transformer": TokenTransformerConfig}
    for name, kind in ({"config": MoMaskConfig} | parts).items():
        found = values if name == "config" else values[name]
        known = {f.name for f in fields(kind)}
        if not isinstance(found, dict) or set(found) != known:
            wrong = ", ".join(sorted(known ^ set(found)))
            raise InputError(
                f"{path}: {name}", f"missing or unknown: {wrong}", kind.__name__, REMEDY
            )
    return MoMaskConfig(**values | {name: kind(**values[name]) for name, kind in parts.items()})
