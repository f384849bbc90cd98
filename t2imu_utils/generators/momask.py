"""MoMask (Guo et al., CVPR 2024): masked tokens of a residual tokeniser, filled in from a text."""

from pathlib import Path

from t2imu_utils.generators._tokens import TokenGenerator, TokenSizes
from t2imu_utils.motion.corpus import Normaliser, statistics
from t2imu_utils.priors import momask_training
from t2imu_utils.priors.masked_transformer import TokenTransformerConfig
from t2imu_utils.priors.momask import MoMaskConfig, MoMaskPrior, fitted, generate, new_momask
from t2imu_utils.priors.momask_checkpoints import load_momask, read_momask, save_momask
from t2imu_utils.priors.rvq import RVQConfig
from t2imu_utils.priors.text import TextEncoder
from t2imu_utils.tracks import Count


class Sizes(TokenSizes):
    """Sizes of the tokeniser and of both transformers."""

    levels: Count
    iterations: Count  # passes that fill in the first level


def configuration(sizes: Sizes) -> MoMaskConfig:
    """The sizes as MoMask has them."""
    names = ("width", "layers", "heads", "feedforward", "dropout")
    chosen = {name: getattr(sizes, name) for name in names}
    width = sizes.tokeniser_width
    return MoMaskConfig(
        RVQConfig(width=width, code_width=width, codes=sizes.codes, levels=sizes.levels),
        TokenTransformerConfig(token_width=width, **chosen),
        iterations=sizes.iterations,
    )


class MoMaskGenerator(TokenGenerator):
    """See the module."""

    Sizes = Sizes
    plain = staticmethod(momask_training.plain_training)
    decoder_alone = staticmethod(momask_training.refinement)
    run = staticmethod(momask_training.train)

    def untrained(self, sizes, clips, encoder, seed):
        normaliser = Normaliser(*statistics([clip.features for clip in clips]))
        return new_momask(configuration(sizes), normaliser, encoder, seed)

    def published(self, folder: Path, sizes, encoder: TextEncoder) -> MoMaskPrior:
        config = None if sizes is None else fitted(configuration(sizes), encoder.pooled_width)
        return read_momask(folder, encoder, config)

    def save(self, path: Path, prior: MoMaskPrior) -> list[Path]:
        return [save_momask(path, prior)]

    def load(self, path: Path, encoder: TextEncoder | None = None) -> MoMaskPrior:
        return load_momask(path, encoder)

    def generate(
        self, prior, prompts, frames, seeds, guidance, batch_size, device, progress=True
    ):  # fmt: skip
        return generate(prior, prompts, frames, seeds, guidance, batch_size, device, progress)


GENERATOR = MoMaskGenerator()
