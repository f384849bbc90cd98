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

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from t2imu_utils.files import atomic_write, sha256
from t2imu_utils.priors.lengths import LengthEstimator
from t2imu_utils.priors.masked_transformer import (
    MaskTransformer,
    ResidualTransformer,
    TokenTransformerConfig,
)
from t2imu_utils.priors.mdm import sinusoids
from t2imu_utils.priors.momask import MoMaskConfig, MoMaskPrior, fitted
from t2imu_utils.priors.prior_files import (
    REMEDY,
    check_parameters,
    checked_fields,
    official_encoder,
    read_official,
    read_own,
    read_statistics,
    refuse_overwriting,
    same_encoder,
    statistics_shapes,
    take_statistics,
    write_own,
    write_statistics,
)
from t2imu_utils.priors.rvq import RVQ, RVQConfig
from t2imu_utils.priors.text import TextEncoder

FORMAT = "t2imu-momask-1"
OFFICIAL = "Take the files of the official release (checkpoints/t2m) as they are."
RVQ_FOLDER = "rvq_nq6_dc512_nc512_noshare_qdp0.2"
META = f"{RVQ_FOLDER}/meta"
# What else stands among the weights: tables of sinusoids, and CLIP.
IGNORED = ("position_enc.", "clip_model.")
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
    """Write a prior into one file (see `prior_files`)."""
    state = {
        f"{name}.{key}": x
        for name, network in _networks(prior).items()
        for key, x in network.state_dict().items()
    }
    classes = None if prior.lengths is None else prior.lengths.classes
    return write_own(
        path, FORMAT, state, prior, {"config": asdict(prior.config), "lengths": classes}
    )


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
    tensors, about = read_own(path, FORMAT, {"lengths"})
    config = _config(path, about["config"])
    text_encoder = same_encoder(path, about, text_encoder, cache)
    empty = _empty(config, about["lengths"])
    wanted = {
        f"{name}.{key}": tuple(x.shape)
        for name, network in empty.items()
        for key, x in network.state_dict().items()
    } | statistics_shapes(config.channels)
    check_parameters(path, tensors, wanted, f"those of {config}", REMEDY)
    normaliser = take_statistics(tensors)
    for name, network in empty.items():
        own = {key: tensors[f"{name}.{key}"] for key in network.state_dict()}
        network.load_state_dict(own)
        network.to(device).eval()
    return MoMaskPrior(
        config,
        normaliser=normaliser,
        text_encoder=text_encoder,
        history=about["history"],
        velocity_weight=about["velocity_weight"],
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
    text_encoder = official_encoder(folder, text_encoder)
    config = fitted(config or MoMaskConfig(), text_encoder.pooled_width)
    lengths = folder / FILES["lengths"][0]
    classes = config.transformer.max_tokens + 1 if lengths.exists() else None
    empty, entry = _empty(config, classes), {"official": "MoMask", "files": {}}
    for name, network in empty.items():
        path = folder / FILES[name][0]
        content, weights = read_official(path, FILES[name][1], OFFICIAL)
        weights = {k: x for k, x in weights.items() if not str(k).startswith(IGNORED)}
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
    return MoMaskPrior(
        config,
        normaliser=read_statistics(folder / META, OFFICIAL),
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
    refuse_overwriting(folder, (file for file, _ in FILES.values()))
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
    write_statistics(folder / META, prior.normaliser)
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


def _config(path: Path, values: dict[str, Any]) -> MoMaskConfig:
    checked_fields(path, "config", values, MoMaskConfig)
    parts = {"rvq": RVQConfig, "transformer": TokenTransformerConfig}
    built = {n: kind(**checked_fields(path, n, values[n], kind)) for n, kind in parts.items()}
    return MoMaskConfig(**values | built)
