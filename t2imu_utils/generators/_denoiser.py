"""What the denoisers of diffusions have in common."""

from dataclasses import dataclass
from typing import Any

import torch

from t2imu_utils.motion.corpus import Normaliser


@dataclass(frozen=True)
class DiffusionDenoiser:
    """A prior that is shown motions through its own noise (`generators.Denoiser`)."""

    prior: Any
    device: torch.device | str
    stride: int = 1

    @property
    def normaliser(self) -> Normaliser:
        """Statistics of its features."""
        return self.prior.normaliser

    @property
    def max_frames(self) -> int:
        """The longest motion it takes."""
        return self.prior.config.max_frames

    @property
    def levels(self) -> int:
        """Diffusion steps."""
        return self.prior.config.diffusion_steps
