"""ReMoDiffuse (Zhang et al., ICCV 2023): diffusion that looks at retrieved motions.

The authors' code and weights are under the S-Lab License 1.0, for non-commercial use; neither is
part of this project.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from t2imu_utils.generators import Generator, refuse_processes
from t2imu_utils.generators._denoiser import DiffusionDenoiser
from t2imu_utils.motion.corpus import MotionClip, Normaliser, statistics
from t2imu_utils.priors.batches import Dataset
from t2imu_utils.priors.diffusion import add_noise
from t2imu_utils.priors.prior_files import read_own
from t2imu_utils.priors.remodiffuse import ReMoDiffuseConfig
from t2imu_utils.priors.remodiffuse_checkpoints import (
    FORMAT,
    ReMoDiffusePrior,
    load_remodiffuse,
    new_remodiffuse_prior,
    read_remodiffuse,
    save_remodiffuse,
)
from t2imu_utils.priors.remodiffuse_sampling import generate, linear_schedule
from t2imu_utils.priors.remodiffuse_training import neighbours, train, validation_losses
from t2imu_utils.priors.retrieval import build_database, gather
from t2imu_utils.priors.retrieval_files import read_database, save_database
from t2imu_utils.priors.text import TextEncoder, load_text_encoder
from t2imu_utils.priors.training import TrainConfig
from t2imu_utils.runs import cache_dir
from t2imu_utils.tracks import Count, Section

WEIGHTS, OFFICIAL_DATABASE = "latest.pth", "t2m_text_train.npz"


class Sizes(Section):
    """Sizes of the network and of its diffusion."""

    layers: Count
    width: Count
    heads: Count
    feedforward: Count
    retrieval_layers: Count
    time_width: Count
    text_latent: Count
    text_layers: Count
    text_feedforward: Count
    max_frames: Count  # of a motion, and of those that are retrieved
    diffusion_steps: Count


@dataclass(frozen=True)
class ReMoDiffuseDenoiser(DiffusionDenoiser):
    """x̂_0 from a noisy motion, the clip's first caption and what is retrieved for it.

    As in training, nothing is retrieved of the clip's own recording, where the database tells it.
    """

    prior: ReMoDiffusePrior

    def __call__(
        self,
        clips: Sequence[MotionClip],
        x0: Float[Tensor, "B T C"],
        mask: Bool[Tensor, "B T"],
        level: Int[Tensor, "B"],
        noise: Float[Tensor, "B T C"],
    ) -> Float[Tensor, "B T C"]:
        """Its guess of the clean motions."""
        model = self.prior.model.to(self.device).eval()
        rows = neighbours(self.prior, clips, self.max_frames, held_out=True)
        near = torch.stack([torch.as_tensor(first[0]) for first in rows])
        found = (x.to(self.device) for x in gather(self.prior.database, near.numpy()))
        text, valid = (
            x.to(self.device) for x in self.prior.condition([c.captions[0] for c in clips])
        )
        condition = model.condition(text, valid, model.database(*found))
        x_t = add_noise(x0, noise, level, linear_schedule(self.levels))
        given = torch.ones(len(clips), dtype=torch.bool, device=x0.device)
        return model(x_t, level, mask, condition, given, given)


class ReMoDiffuseGenerator(Generator):
    """See the module."""

    Sizes = Sizes

    def untrained(self, sizes, clips, encoder, seed):
        config = ReMoDiffuseConfig(**sizes.model_dump())
        normaliser = Normaliser(*statistics([clip.features for clip in clips]))
        database = build_database(clips, normaliser, encoder, config.max_frames)
        return new_remodiffuse_prior(config, normaliser, encoder, database, seed)

    def published(self, folder: Path, sizes, encoder: TextEncoder) -> ReMoDiffusePrior:
        database = read_database(folder / OFFICIAL_DATABASE, encoder)
        config = None if sizes is None else ReMoDiffuseConfig(**sizes.model_dump())
        return read_remodiffuse(folder / WEIGHTS, database, encoder=encoder, config=config)

    def train(self, prior, clips, settings: TrainConfig, folder, held_out, device, processes=1):
        refuse_processes("ReMoDiffuse", processes)
        return train(prior, clips, settings, folder, held_out, device=device)

    refine = train

    def validation(self, prior, held_out, settings: TrainConfig, device) -> dict[str, float]:
        data = Dataset(prior, held_out)
        near = neighbours(prior, held_out, settings.max_frames, held_out=True)
        model = prior.model.to(device).eval()
        return validation_losses(model, prior, data, near, settings, device)

    def save(self, path: Path, prior: ReMoDiffusePrior) -> list[Path]:
        # What is retrieved from belongs to the prior, and all arms have the same: kept once.
        database = path.with_name("database.npz")
        kept = cache_dir("retrieval") / f"{prior.database.version}.npz"
        if not _holds(kept, prior):
            kept.parent.mkdir(parents=True, exist_ok=True)
            save_database(kept, prior.database)
        database.unlink(missing_ok=True)
        try:
            os.link(kept, database)
        except OSError:  # a file system without links
            shutil.copyfile(kept, database)
        return [save_remodiffuse(path, prior), database]

    def load(self, path: Path, encoder: TextEncoder | None = None) -> ReMoDiffusePrior:
        if encoder is None:
            name = read_own(path, FORMAT)[1]["text_encoder"]["name"]
            encoder = load_text_encoder(name, cache_dir("text"))
        database = read_database(path.with_name("database.npz"), encoder)
        return load_remodiffuse(path, database, encoder)

    def generate(
        self, prior, prompts, frames, seeds, guidance, batch_size, device, progress=True
    ):  # fmt: skip
        return generate(prior, prompts, frames, seeds, guidance, batch_size, device, progress)

    def denoiser(self, prior: ReMoDiffusePrior, device) -> ReMoDiffuseDenoiser:
        return ReMoDiffuseDenoiser(prior, device)

    def parameters(self, prior: ReMoDiffusePrior) -> int:
        return sum(p.numel() for p in prior.model.parameters())

    def network(self, prior: ReMoDiffusePrior) -> dict:
        table = {k: v for k, v in asdict(prior.config).items() if k not in ("channels",)}
        return table | {"motions to retrieve from": len(prior.database)}


def _holds(path: Path, prior: ReMoDiffusePrior) -> bool:
    """Whether a file has the prior's database, whole."""
    try:
        return read_database(path, prior.text_encoder).version == prior.database.version
    except Exception:  # whatever damage makes of a file: it is written again
        return False


GENERATOR = ReMoDiffuseGenerator()
