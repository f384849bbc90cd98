"""MDM (Tevet et al., ICLR 2023), the generator that the paper refines."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from t2imu_utils.generators import Generator
from t2imu_utils.generators._denoiser import DiffusionDenoiser
from t2imu_utils.motion.corpus import MotionClip, Normaliser, statistics
from t2imu_utils.priors import checkpoints
from t2imu_utils.priors.batches import Dataset
from t2imu_utils.priors.checkpoints import Prior, load_prior, save_prior
from t2imu_utils.priors.diffusion import add_noise, schedule
from t2imu_utils.priors.generate import generate
from t2imu_utils.priors.mdm import MDMConfig
from t2imu_utils.priors.mdm_checkpoints import SCALES, feature_scale, read_mdm
from t2imu_utils.priors.mdm_inference import Precision
from t2imu_utils.priors.solvers import SCHEMES, Solver
from t2imu_utils.priors.text import TextEncoder
from t2imu_utils.priors.training import TrainConfig, train, validation_losses
from t2imu_utils.tracks import Count, Fraction, Section

# The scale of the official examples.
GUIDANCE = 2.5


class Sizes(Section):
    """Sizes of the transformer (decoder) and of its diffusion."""

    layers: Count
    width: Count
    heads: Count
    feedforward: Count
    dropout: Fraction
    diffusion_steps: Count


@dataclass(frozen=True)
class MDMDenoiser(DiffusionDenoiser):
    """x̂_0 from a noisy motion and the clip's first caption, without guidance."""

    prior: Prior

    def __call__(
        self,
        clips: Sequence[MotionClip],
        x0: Float[Tensor, "B T C"],
        mask: Bool[Tensor, "B T"],
        level: Int[Tensor, "B"],
        noise: Float[Tensor, "B T C"],
    ) -> Float[Tensor, "B T C"]:
        """Its guess of the clean motions."""
        text, valid = (
            x.to(self.device) for x in self.prior.condition([c.captions[0] for c in clips])
        )
        model = self.prior.model.to(self.device).eval()
        x_t = add_noise(x0, noise, level, schedule(self.levels))
        return model(x_t, level, text, valid, mask)


class MDMGenerator(Generator):
    """See the module."""

    Sizes = Sizes
    solvers = tuple(SCHEMES)

    def __init__(self, solver: Solver | None = None, precision: Precision = "float32"):
        self.solver, self.precision = solver or Solver(), precision

    @property
    def sampler(self) -> dict[str, Any]:
        return {"solver": asdict(self.solver), "precision": self.precision}

    def with_solver(self, solver: Solver, precision: Precision = "float32") -> "MDMGenerator":
        return MDMGenerator(solver, precision)

    def untrained(self, sizes, clips, encoder, seed):
        config = MDMConfig(arch="trans_dec", **sizes.model_dump())
        normaliser = Normaliser(*statistics([clip.features for clip in clips]))
        return checkpoints.new_prior(config, normaliser, encoder, seed)

    def published(self, folder: Path, sizes, encoder: TextEncoder) -> Prior:
        return read_mdm(folder, encoder=encoder)

    def train(self, prior, clips, settings, folder, held_out, device, processes=1):
        return train(
            prior, clips, settings, folder, held_out, device=device, processes=processes
        )  # fmt: skip

    refine = train

    def validation(self, prior, held_out, settings: TrainConfig, device) -> dict[str, float]:
        model, data = prior.model.to(device).eval(), Dataset(prior, held_out)
        return validation_losses(model, data, prior.normaliser, settings, device)

    def save(self, path: Path, prior: Prior) -> list[Path]:
        return [save_prior(path, prior)]

    def load(self, path: Path, encoder: TextEncoder | None = None) -> Prior:
        return load_prior(path, encoder)

    def generate(
        self, prior, prompts, frames, seeds, guidance, batch_size, device, progress=True
    ):  # fmt: skip
        scale = GUIDANCE if guidance is None else guidance
        return generate(
            prior, prompts, frames, seeds, scale, batch_size, device, progress, self.solver,
            self.precision,
        )  # fmt: skip

    def denoiser(self, prior: Prior, device) -> MDMDenoiser:
        return MDMDenoiser(prior, device)

    def parameters(self, prior: Prior) -> int:
        return sum(p.numel() for p in prior.model.parameters())

    def network(self, prior: Prior) -> dict:
        config = prior.config
        table = {
            "layers × width": f"{config.layers} × {config.width}",
            "dropout": config.dropout,
            "mask_frames": config.mask_frames,
            "diffusion steps": config.diffusion_steps,
        }
        if prior.history:
            scale = feature_scale(prior.normaliser)
            table["scale of root and contact features"] = f"{scale} ({SCALES[scale]})"
        return table


GENERATOR = MDMGenerator()
