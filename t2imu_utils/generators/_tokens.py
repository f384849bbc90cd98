"""What MoMask and T2M-GPT share as generators: a tokeniser whose decoder can be refined."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from t2imu_utils.generators import Generator, refuse_processes
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from t2imu_utils.priors.losses import TERMS
from t2imu_utils.priors.rvq import RVQ, STRIDE, detokenise, tokenise
from t2imu_utils.priors.rvq_training import RVQTrainConfig, normalised_motions, rvq_validation
from t2imu_utils.priors.training import TrainConfig
from t2imu_utils.tracks import Count, Fraction, Section


class TokenSizes(Section):
    """Sizes of the tokeniser and of the transformers over its tokens."""

    tokeniser_width: Count
    codes: Count
    width: Count
    layers: Count
    heads: Count
    feedforward: Count
    dropout: Fraction


@dataclass(frozen=True)
class TokenDenoiser:
    """What the tokeniser leaves of a motion: encoded, replaced by codes, decoded. It adds no noise.

    normaliser: statistics of its features. max_frames: the longest motion that is asked for.
    """

    rvq: RVQ
    normaliser: Normaliser
    max_frames: int
    device: torch.device | str
    levels: int = 1
    stride: int = STRIDE

    def __call__(
        self,
        clips: Sequence[MotionClip],
        x0: Float[Tensor, "B T C"],
        mask: Bool[Tensor, "B T"],
        level: Int[Tensor, "B"],
        noise: Float[Tensor, "B T C"],
    ) -> Float[Tensor, "B T C"]:
        """The motions decoded again; each by itself, since convolutions would see padding."""
        rows = [row[:n].cpu() for row, n in zip(x0, mask.sum(1).tolist(), strict=True)]
        rvq = self.rvq.to(self.device).eval()
        return pad_sequence(detokenise(rvq, tokenise(rvq, rows)), batch_first=True).to(x0.device)


class TokenGenerator(Generator):
    """Training, refinement and examination of a family whose motions are made of tokens."""

    curves = ("reconstruction", "accuracy")
    # Of the family: recipes of its trainings, and the training itself.
    plain: ClassVar[Callable[..., Any]]
    decoder_alone: ClassVar[Callable[..., Any]]
    run: ClassVar[Callable[..., Any]]

    def train(self, prior, clips, settings: TrainConfig, folder, held_out, device, processes=1):
        refuse_processes(type(self).__name__, processes)
        recipe = type(self).plain(
            settings.steps, settings.batch_size, settings.learning_rate, **_bookkeeping(settings)
        )
        return type(self).run(prior, clips, recipe, folder, held_out, device=device)

    def refine(self, prior, clips, settings: TrainConfig, folder, held_out, device, processes=1):
        refuse_processes(type(self).__name__, processes)
        recipe = type(self).decoder_alone(
            settings.steps, settings.batch_size, settings.learning_rate, settings.weights,
            **_bookkeeping(settings),
        )  # fmt: skip
        return type(self).run(prior, clips, recipe, folder, held_out, device=device)

    def validation(self, prior, held_out, settings: TrainConfig, device) -> dict[str, float]:
        motions = normalised_motions(prior.normaliser, held_out)
        recipe = RVQTrainConfig(settings.batch_size)
        found = rvq_validation(prior.rvq.to(device), motions, recipe, prior.normaliser)
        return {name: found[name] for name in ("reconstruction", *TERMS)}

    def denoiser(self, prior, device) -> TokenDenoiser:
        return TokenDenoiser(prior.rvq, prior.normaliser, prior.config.max_frames, device)

    def parameters(self, prior) -> int:
        return prior.parameters

    def network(self, prior) -> dict[str, Any]:
        parts = {"tokeniser": prior.config.rvq, "transformer": prior.config.transformer}
        return {
            f"{part}: {name}": value
            for part, sizes in parts.items()
            for name, value in asdict(sizes).items()
            if name not in ("channels", "text_width", "ema_decay", "max_tokens")
        }


def _bookkeeping(settings: TrainConfig) -> dict[str, Any]:
    names = ("seed", "ema_decay", "checkpoint_every", "validate_every", "early_stopping")
    return {name: getattr(settings, name) for name in names}
