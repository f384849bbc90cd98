"""The prior that the project ships: an MDM in half precision, in one safetensors file.

Weights are float16, statistics of the features float32; the rest is JSON in the metadata, as in the
files of `checkpoints`, with the provenance of the weights beside it. Half precision keeps eleven
binary digits: a weight is off by a relative 2^-11 at most (below 6e-5 by an absolute 2^-25).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write
from t2imu_utils.priors.checkpoints import Prior
from t2imu_utils.priors.mdm import MDM, MDMConfig
from t2imu_utils.priors.prior_files import (
    STATISTICS,
    check_parameters,
    checked_fields,
    read_own,
    same_encoder,
    statistics_shapes,
    take_statistics,
)
from t2imu_utils.priors.text import TextEncoder

FORMAT = "t2imu-open-prior-1"
SUFFIX = ".safetensors"
LIMIT = 16_000_000  # bytes: what a repository bears
REMEDY = "Take the file in data/prior again, or write one with `make prior`."


def write_open_prior(
    path: Path, prior: Prior, provenance: dict[str, Any], limit: int = LIMIT
) -> Path:
    """Write a trained prior in half precision, whole or not at all.

    Args:
        provenance: where the weights come from and under which terms; must be JSON-able.
        limit: bytes that the file may have.

    Raises:
        InputError: a weight that half precision does not hold, or too large a file.
    """
    path = Path(path)
    tensors = {k: x.detach().cpu().half().contiguous() for k, x in prior.model.state_dict().items()}
    if broken := [name for name, x in tensors.items() if not x.isfinite().all()]:
        raise InputError(
            f"{path}: parameters", f"{', '.join(broken)}: not finite in half precision",
            "weights below 65504", "Look at the training: weights of this size are not healthy.",
        )  # fmt: skip
    for name in STATISTICS:
        values = np.array(getattr(prior.normaliser, name), dtype=np.float32)
        tensors[f"normaliser.{name}"] = torch.from_numpy(values)
    encoder = prior.text_encoder
    about = {
        "format": FORMAT,
        "config": asdict(prior.config),
        "text_encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint},
        "history": prior.history,
        "velocity_weight": prior.velocity_weight,
        "provenance": provenance,
    }
    content = save(tensors, {"t2imu": json.dumps(about, sort_keys=True)})
    if len(content) > limit:
        raise InputError(
            path, f"{len(content) / 1e6:.1f} MB", f"at most {limit / 1e6:g} MB",
            "Train a smaller network: fewer layers, or less width.",
        )  # fmt: skip
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return path


def read_open_prior(
    path: Path,
    text_encoder: TextEncoder | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> Prior:
    """Read what `write_open_prior` wrote, in float32 (in which it computes) and evaluation mode.

    text_encoder: the encoder to use; None loads the one that the prior names, with token states
    kept in `cache`.

    Raises:
        InputError: no such file, a damaged one, one of another format, parameters that do not fit
            the file's own configuration, or another text encoder than that of the training.
    """
    path = Path(path)
    with _told_of(path):
        tensors, about = _read(path)
        config = MDMConfig(**checked_fields(path, "config", about["config"], MDMConfig))
        model = MDM(config)
        wanted = {key: tuple(x.shape) for key, x in model.state_dict().items()}
        # Statistics are not widened: float16 would have lost some of them.
        half = {k: x for k, x in tensors.items() if k in wanted and x.dtype == torch.float16}
        tensors |= {key: x.float() for key, x in half.items()}
        wanted |= statistics_shapes(config.channels)
        check_parameters(path, tensors, wanted, f"those of {config}", REMEDY)
        normaliser = take_statistics(tensors)
    text_encoder = same_encoder(path, about, text_encoder, cache)
    model.load_state_dict(tensors)
    model.to(device).eval()
    return Prior(model, normaliser, text_encoder, about["history"], about["velocity_weight"])


def read_provenance(path: Path) -> dict[str, Any]:
    """Where the weights of a file of `write_open_prior` come from, and under which terms.

    Raises:
        InputError: no such file, a damaged one, or one of another format.
    """
    with _told_of(Path(path)):
        return _read(Path(path))[1]["provenance"]


def longest_frames(prior: Prior) -> int:
    """Frames of the longest motion that a prior was trained on, as far as its history tells it."""
    told = [entry.get("config", {}).get("max_frames", 0) for entry in prior.history]
    return min(max(told, default=0) or prior.config.max_frames, prior.config.max_frames)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata, whose fields are of the right kinds."""
    tensors, about = read_own(path, FORMAT, {"provenance"})
    kinds = {"config": dict, "text_encoder": dict, "history": list, "provenance": dict}
    for name, kind in kinds.items():
        if not isinstance(about[name], kind):
            found = type(about[name]).__name__
            raise InputError(f"{path}: {name}", f"a {found}", f"a {kind.__name__}", REMEDY)
    if lacking := {"name", "fingerprint"} - about["text_encoder"].keys():
        found = f"no {', '.join(sorted(lacking))}"
        raise InputError(f"{path}: text_encoder", found, "both", REMEDY)
    return tensors, about


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Errors name the file and what to do about one of the repository, not of a training."""
    try:
        yield
    except InputError as error:
        where = error.where if str(path) in error.where else f"{path}: {error.where}"
        raise InputError(where, error.found, error.expected, REMEDY) from error
    # What torch makes of sizes that no network has.
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"{path}: config", str(error), "sizes of an MDM", REMEDY) from error
