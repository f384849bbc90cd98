"""T2M-GPT (Zhang et al., CVPR 2023): tokens of one codebook, one after the other."""

from pathlib import Path

from t2imu_utils.generators._tokens import TokenGenerator, TokenSizes
from t2imu_utils.motion.corpus import Normaliser, statistics
from t2imu_utils.priors import t2mgpt_training
from t2imu_utils.priors.rvq import RVQConfig
from t2imu_utils.priors.t2mgpt import GPTConfig, T2MGPTConfig, T2MGPTPrior, generate, new_t2mgpt
from t2imu_utils.priors.t2mgpt_checkpoints import load_t2mgpt, read_t2mgpt, save_t2mgpt
from t2imu_utils.priors.text import TextEncoder


def configuration(sizes: TokenSizes) -> T2MGPTConfig:
    """The sizes as T2M-GPT has them."""
    names = ("width", "layers", "heads", "feedforward", "dropout")
    chosen = {name: getattr(sizes, name) for name in names}
    width = sizes.tokeniser_width
    rvq = RVQConfig(
        width=width, code_width=width, codes=sizes.codes, levels=1, dropout=0.0, temperature=0.0
    )
    return T2MGPTConfig(rvq, GPTConfig(**chosen))


class T2MGPTGenerator(TokenGenerator):
    """See the module."""

    Sizes = TokenSizes
    plain = staticmethod(t2mgpt_training.plain_training)
    decoder_alone = staticmethod(t2mgpt_training.refinement)
    run = staticmethod(t2mgpt_training.train)

    def untrained(self, sizes, clips, encoder, seed):
        normaliser = Normaliser(*statistics([clip.features for clip in clips]))
        return new_t2mgpt(configuration(sizes), normaliser, encoder, seed)

    def published(self, folder: Path, sizes, encoder: TextEncoder) -> T2MGPTPrior:
        return read_t2mgpt(folder, encoder, None if sizes is None else configuration(sizes))

    def save(self, path: Path, prior: T2MGPTPrior) -> list[Path]:
        return [save_t2mgpt(path, prior)]

    def load(self, path: Path, encoder: TextEncoder | None = None) -> T2MGPTPrior:
        return load_t2mgpt(path, encoder)

    def generate(
        self, prior, prompts, frames, seeds, guidance, batch_size, device, progress=True
    ):  # fmt: skip
        return generate(prior, prompts, frames, seeds, guidance, batch_size, device, progress)


GENERATOR = T2MGPTGenerator()
