"""A ReMoDiffuse prior: what belongs to it, its own file, and official mmcv checkpoints.

An official checkpoint (``logs/remodiffuse/remodiffuse_t2m/latest.pth``) holds ``state_dict``, whose
keys begin with ``model.``, beside ``meta`` and ``optimizer``. It contains CLIP (``model.clip.*``),
but neither the statistics of the features nor the retrieval database.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write, sha256
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.priors.mdm_checkpoints import feature_scale
from t2imu_utils.priors.prior_files import (
    REMEDY,
    check_parameters,
    checked_fields,
    official_encoder,
    read_official,
    read_own,
    read_statistics,
    same_encoder,
    statistics_shapes,
    take_statistics,
    write_own,
    write_statistics,
)
from t2imu_utils.priors.remodiffuse import (
    NEUTRAL,
    Mixture,
    ReMoDiffuse,
    ReMoDiffuseConfig,
    new_remodiffuse,
)
from t2imu_utils.priors.retrieval import Database, check_encoder, statistics_hash, token_states
from t2imu_utils.priors.text import TextEncoder

FORMAT = "t2imu-remodiffuse-1"
OFFICIAL = "Take latest.pth of the HumanML3D configuration as published, whole."
PUBLISHED = "Copy mean.npy and std.npy from data/datasets/human_ml3d of the official data."
PREFIX, CLIP = "model.", "model.clip."
# The official statistics: root and contact channels divided twice by the feature bias of 5.
OFFICIAL_SCALE = 25


@dataclass
class ReMoDiffusePrior:
    """A trained network, statistics of its features, its text encoder, what it retrieves from.

    history: one entry for each training that led here (its settings and what it ended with).
    velocity_weight: with which `features_to_joints` reads its motions, one or one a joint.

    Raises:
        InputError: a database of other statistics, or encoded by another text encoder.
    """

    model: ReMoDiffuse
    normaliser: Normaliser
    text_encoder: TextEncoder
    database: Database
    mixture: Mixture = NEUTRAL
    history: list[dict[str, Any]] = field(default_factory=list)
    velocity_weight: float | list[float] = 0.0

    def __post_init__(self):
        check_encoder(self.database, self.text_encoder, "retrieval database")
        found, own = self.database.statistics, statistics_hash(self.normaliser)
        if found not in (None, own):
            raise InputError(
                "retrieval database: statistics", found[:12], f"{own[:12]}, those of the prior",
                "Build the database with the prior's normaliser.",
            )  # fmt: skip
        longest, most = int(self.database.lengths.max()), self.config.max_frames
        if longest > most:
            raise InputError(
                "retrieval database: motions", f"{longest} frames", f"at most the model's {most}",
                "Build the database with max_frames of the model.",
            )  # fmt: skip

    @property
    def config(self) -> ReMoDiffuseConfig:
        """Sizes of the network."""
        return self.model.config

    @property
    def text_encoder_name(self) -> str:
        """Name of the text encoder, as `load_text_encoder` knows it."""
        return self.text_encoder.name

    def condition(self, texts: Sequence[str]) -> tuple[Float[Tensor, "B L W"], Bool[Tensor, "B L"]]:
        """What the network is told of texts, and which of it is no padding."""
        return token_states(self.text_encoder, texts)


def new_remodiffuse_prior(
    config: ReMoDiffuseConfig,
    normaliser: Normaliser,
    text_encoder: TextEncoder,
    database: Database,
    seed: int,
    mixture: Mixture = NEUTRAL,
) -> ReMoDiffusePrior:
    """An untrained prior; `text_width` of `config` is set to that of the encoder."""
    model = new_remodiffuse(replace(config, text_width=text_encoder.width), seed)
    return ReMoDiffusePrior(model, normaliser, text_encoder, database, mixture)


def save_remodiffuse(path: Path, prior: ReMoDiffusePrior) -> Path:
    """Write a prior into one file (see `prior_files`).

    Of the database only the version is written: `retrieval_files.save_database` keeps it, and the
    arms of a study share one.
    """
    about = {
        "config": asdict(prior.config),
        "mixture": asdict(prior.mixture),
        "database": prior.database.version,
    }
    return write_own(path, FORMAT, prior.model.state_dict(), prior, about)


def load_remodiffuse(
    path: Path,
    database: Database,
    text_encoder: TextEncoder | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> ReMoDiffusePrior:
    """Read a prior that `save_remodiffuse` wrote, in evaluation mode.

    database: the one the prior was saved with. (To retrieve from another, load with this one and
    `dataclasses.replace` it.) text_encoder: None loads the one that the prior names, with token
    states kept in `cache`.

    Raises:
        InputError: no such file, a damaged one, parameters that do not fit the file's own
            configuration (all are listed), or another text encoder or database.
    """
    path = Path(path)
    tensors, about = read_own(path, FORMAT, {"mixture", "database"})
    config = ReMoDiffuseConfig(**checked_fields(path, "config", about["config"], ReMoDiffuseConfig))
    mixture = checked_fields(path, "mixture", about["mixture"], Mixture)
    text_encoder = same_encoder(path, about, text_encoder, cache)
    found, wanted = database.version[:12], about["database"][:12]
    if found != wanted:
        raise InputError(
            f"{path}: database", found, f"{wanted}, which the prior was trained with",
            "Pass that one; another means nothing to this prior.",
        )  # fmt: skip
    model = ReMoDiffuse(config)
    shapes = {key: tuple(x.shape) for key, x in model.state_dict().items()}
    shapes |= statistics_shapes(config.channels)
    check_parameters(path, tensors, shapes, f"those of {config}", REMEDY)
    normaliser = take_statistics(tensors)
    model.load_state_dict(tensors)
    model.to(device).eval()
    mixture = Mixture(**mixture | {"fine": tuple(mixture["fine"])})
    kept = about["history"], about["velocity_weight"]
    return ReMoDiffusePrior(model, normaliser, text_encoder, database, mixture, *kept)


def read_remodiffuse(
    path: Path,
    database: Database,
    normaliser: Normaliser | None = None,
    encoder: TextEncoder | None = None,
    cache: Path | None = None,
    config: ReMoDiffuseConfig | None = None,
) -> ReMoDiffusePrior:
    """Read a prior from an official HumanML3D checkpoint, in evaluation mode on the CPU.

    The CLIP inside is passed over; `encoder` must be `clip` (None loads it). The mixture is the
    official one. Licence of the published weights: S-Lab License 1.0, non-commercial use only.

    Args:
        database: from ``t2m_text_train.npz`` (`retrieval_files.read_database`).
        normaliser: the statistics the weights were trained with; None takes ``mean.npy`` and
            ``std.npy`` beside the weights. They are never computed from data.
        config: sizes, None for the official ones; `text_width` is set to that of the encoder.

    Raises:
        InputError: no or an unsafe or damaged file, parameters that do not match (all are
            listed), no statistics or those of another scale, or another text encoder.
    """
    path = Path(path)
    encoder = official_encoder(path, encoder, cache)
    normaliser = normaliser or read_statistics(path.parent, PUBLISHED)
    if (scale := feature_scale(normaliser)) != OFFICIAL_SCALE:
        raise InputError(
            "statistics", f"root and contact channels divided by {scale}",
            f"divided by {OFFICIAL_SCALE}, as the official weights were trained",
            "Take mean.npy and std.npy that were published with ReMoDiffuse.",
        )  # fmt: skip
    config = replace(config or ReMoDiffuseConfig(), text_width=encoder.width)
    _, weights = read_official(path, ("state_dict",), OFFICIAL)
    named = {str(key).removeprefix("module."): x for key, x in weights.items()}
    tensors = {key: x for key, x in named.items() if not key.startswith(CLIP)}
    with torch.device("meta"):
        model = ReMoDiffuse(config)
    shapes = {f"{PREFIX}{key}": tuple(x.shape) for key, x in model.state_dict().items()}
    check_parameters(path, tensors, shapes, f"those of {config}", OFFICIAL)
    model.load_state_dict({k.removeprefix(PREFIX): x for k, x in tensors.items()}, assign=True)
    origin = {
        "folder": path.resolve().parent.name,
        "file": path.name,
        "sha256": sha256(path),
        "licence": "S-Lab License 1.0: non-commercial use only",
    }
    return ReMoDiffusePrior(model.eval(), normaliser, encoder, database, Mixture(), [origin])


def write_remodiffuse(path: Path, prior: ReMoDiffusePrior) -> Path:
    """Write the weights in the official layout, with ``mean.npy`` and ``std.npy`` beside them.

    CLIP is not in the file: official code needs ``model.clip.*`` merged in, or a loader that is not
    strict; it builds the network with its own default sizes alone.
    """
    path = Path(path)
    state = {
        f"{PREFIX}{key}": x.detach().float().cpu().contiguous()
        for key, x in prior.model.state_dict().items()
    }
    write_statistics(path.parent, prior.normaliser)
    with atomic_write(path) as temporary, open(temporary, "wb") as stream:
        torch.save({"meta": {}, "state_dict": state}, stream)
    return path
