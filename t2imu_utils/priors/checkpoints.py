"""A trained prior and everything needed to use it again, in one safetensors file."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.priors.mdm import MDM, MDMConfig, new_mdm
from t2imu_utils.priors.prior_files import (
    REMEDY,
    check_parameters,
    checked_fields,
    read_own,
    same_encoder,
    statistics_shapes,
    take_statistics,
    write_own,
)
from t2imu_utils.priors.text import TextEncoder

FORMAT = "t2imu-prior-1"


@dataclass
class Prior:
    """A text-to-motion prior: network, statistics of its features, its text encoder.

    history: one entry for each training that led here (its settings and what it ended with).
    velocity_weight: with which `features_to_joints` reads its motions, one or one a joint.
    """

    model: MDM
    normaliser: Normaliser
    text_encoder: TextEncoder
    history: list[dict[str, Any]] = field(default_factory=list)
    velocity_weight: float | list[float] = 0.0

    @property
    def config(self) -> MDMConfig:
        """Sizes of the network."""
        return self.model.config

    @property
    def text_encoder_name(self) -> str:
        """Name of the text encoder, as `load_text_encoder` knows it."""
        return self.text_encoder.name

    def condition(self, texts: Sequence[str]) -> tuple[Float[Tensor, "B L W"], Bool[Tensor, "B L"]]:
        """What the network is told of texts, and which of it is no padding.

        `trans_dec` attends to the token states; `trans_enc` gets the pooled vector as one token.
        """
        if self.config.arch == "trans_dec":
            return self.text_encoder.encode(texts)
        pooled = self.text_encoder.encode_pooled(texts)[:, None]
        return pooled, torch.ones(pooled.shape[:2], dtype=torch.bool)


def new_prior(
    config: MDMConfig, normaliser: Normaliser, text_encoder: TextEncoder, seed: int
) -> Prior:
    """An untrained prior; `text_width` of `config` is set to what the encoder gives it."""
    width = condition_width(config.arch, text_encoder)
    return Prior(new_mdm(replace(config, text_width=width), seed), normaliser, text_encoder)


def condition_width(arch: str, text_encoder: TextEncoder) -> int:
    """Size of what `Prior.condition` gives: of a token state, or of the pooled vector."""
    return text_encoder.width if arch == "trans_dec" else text_encoder.pooled_width


def save_prior(path: Path, prior: Prior) -> Path:
    """Write a prior into one file (see `prior_files`)."""
    about = {"config": asdict(prior.config)}
    return write_own(path, FORMAT, prior.model.state_dict(), prior, about)


def load_prior(
    path: Path,
    text_encoder: TextEncoder | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> Prior:
    """Read a prior that `save_prior` wrote, in evaluation mode.

    text_encoder: the encoder to use; None loads the one that the prior names, with token states
    kept in `cache`.

    Raises:
        InputError: no such file, a damaged one, parameters that do not fit the file's own
            configuration (all are listed), or another text encoder than that of the training.
    """
    path = Path(path)
    tensors, about = read_own(path, FORMAT)
    config = MDMConfig(**checked_fields(path, "config", about["config"], MDMConfig))
    text_encoder = same_encoder(path, about, text_encoder, cache)
    model = MDM(config)
    wanted = {key: tuple(x.shape) for key, x in model.state_dict().items()}
    wanted |= statistics_shapes(config.channels)
    check_parameters(path, tensors, wanted, f"those of {config}", REMEDY)
    normaliser = take_statistics(tensors)
    model.load_state_dict(tensors)
    model.to(device).eval()
    return Prior(model, normaliser, text_encoder, about["history"], about["velocity_weight"])
