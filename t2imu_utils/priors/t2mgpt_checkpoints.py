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

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from t2imu_utils.files import atomic_write, sha256
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
from t2imu_utils.priors.t2mgpt import GPTConfig, T2MGPTConfig, T2MGPTPrior, TokenGPT, fitted
from t2imu_utils.priors.text import TextEncoder

FORMAT = "t2imu-t2mgpt-1"
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
IGNORED = (".attn.mask", UNUSED)


def save_t2mgpt(path: Path, prior: T2MGPTPrior) -> Path:
    """Write a prior into one file (see `prior_files`)."""
    state = {
        f"{name}.{key}": x for name in FILES for key, x in getattr(prior, name).state_dict().items()
    }
    return write_own(path, FORMAT, state, prior, {"config": asdict(prior.config)})


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
    tensors, about = read_own(path, FORMAT)
    config = _config(path, about["config"])
    text_encoder = same_encoder(path, about, text_encoder, cache)
    networks = _empty(config)
    wanted = {
        f"{name}.{key}": tuple(x.shape)
        for name, network in networks.items()
        for key, x in network.state_dict().items()
    } | statistics_shapes(config.channels)
    check_parameters(path, tensors, wanted, f"those of {config}", REMEDY)
    normaliser = take_statistics(tensors)
    for name, network in networks.items():
        _fill(network, {key: tensors[f"{name}.{key}"] for key in network.state_dict()}, device)
    return T2MGPTPrior(
        config,
        normaliser=normaliser,
        text_encoder=text_encoder,
        history=about["history"],
        velocity_weight=about["velocity_weight"],
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
    text_encoder = official_encoder(folder, text_encoder)
    config = fitted(config or T2MGPTConfig(), text_encoder.pooled_width)
    networks, entry = _empty(config), {"official": "T2M-GPT", "files": {}}
    for name, network in networks.items():
        path = folder / FILES[name][0]
        _, weights = read_official(path, (FILES[name][1],), OFFICIAL)
        weights = {str(k): x for k, x in weights.items() if not str(k).endswith(IGNORED)}
        names = _official_names(network)
        state = network.state_dict()
        wanted = {official: tuple(state[key].shape) for key, official in names.items()}
        check_parameters(path, weights, wanted, f"{name} of T2M-GPT", OFFICIAL)
        _fill(network, {key: weights[official] for key, official in names.items()}, device)
        entry["files"][name] = {"sha256": sha256(path)}
    return T2MGPTPrior(
        config,
        normaliser=read_statistics(folder / META, OFFICIAL),
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
    refuse_overwriting(folder, (file for file, _ in FILES.values()))
    for name, (file, key) in FILES.items():
        state = official_state(getattr(prior, name))
        with atomic_write(folder / file) as temporary:
            torch.save({key: {k: x.float().cpu().clone() for k, x in state.items()}}, temporary)
    write_statistics(folder / META, prior.normaliser)
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


def _config(path: Path, values: dict[str, Any]) -> T2MGPTConfig:
    checked_fields(path, "config", values, T2MGPTConfig)
    parts = {"rvq": RVQConfig, "transformer": GPTConfig}
    built = {n: kind(**checked_fields(path, n, values[n], kind)) for n, kind in parts.items()}
    return T2MGPTConfig(**built)
