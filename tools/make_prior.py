"""Make the open prior from raw recordings: corpus, training, export. Some hours on two cores.

    python -m tools.make_prior [FOLDER]        # by default data/runs/open_prior

An interrupted call goes on when it is repeated. The learning rate is constant for `STEPS` steps and
falls to zero over `ANNEAL` more. Beside the weights in data/prior stand embeddings of sentences of
our own grammars, by which `t2imu generate` knows a prompt unlike all that the prior was trained on.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from t2imu_utils.files import write_table
from t2imu_utils.models.generator import Denoiser
from t2imu_utils.models.mdm import GENERATOR, MDMConfig, new_prior, write_open_prior
from t2imu_utils.models.text import TextEncoder, load_text_encoder
from t2imu_utils.models.trainer import TrainConfig
from t2imu_utils.motion.corpus import MotionClip, read_corpus, read_statistics, write_corpus
from t2imu_utils.motion.features import velocity_weights
from t2imu_utils.motion.open_corpus import build_open
from t2imu_utils.motion.sentences import grammar_sentences
from t2imu_utils.tracks import OPEN_PRIOR, data_root

STEPS, ANNEAL = 18_000, 3_000
HEAVIEST = 10.0  # weight of velocities: beyond, joints of sampled jumps drift (validation prompts)
NETWORK = MDMConfig(layers=4, width=256, heads=4, feedforward=512, dropout=0.0, max_frames=196)
SETTINGS = {"learning_rate": 5e-4, "batch_size": 32, "ema_decay": 0.999, "max_frames": 196}
ORIGIN = {
    "licence": "CC BY-NC 4.0, as that of the Bandai-Namco motion dataset that it was trained on",
    "data": "CMU Graphics Lab Motion Capture Database; Bandai-Namco Research Motiondataset 1 and 2;"
    " ReActIdle; UI-PRMD; recordings of CMU in the format of DeepMimic",
}


def main(folder: Path) -> None:
    encoder = load_text_encoder("minilm", folder / "states")
    if not (folder / "corpus").is_dir():
        built = build_open(data_root())
        write_table(folder / "census.parquet", built.census)
        write_corpus(folder / "corpus", built.clips, built.splits)
    clips, held_out = (read_corpus(folder / "corpus", split) for split in ("train", "val"))
    prior = new_prior(NETWORK, read_statistics(folder / "corpus"), encoder, seed=0)
    for name, config in (
        ("constant", TrainConfig(STEPS, warmup=500, validate_every=2000, **SETTINGS)),
        (
            "annealed",
            TrainConfig(ANNEAL, warmup=100, anneal=True, validate_every=ANNEAL, seed=1, **SETTINGS),
        ),
    ):
        prior, curves = GENERATOR.train(prior, clips, config, folder / name, held_out, "cpu")
        write_table(folder / f"{name}.parquet", curves)
    fitted = fitted_velocity_weight(GENERATOR.denoiser(prior, "cpu"), held_out)
    prior.velocity_weight = np.minimum(fitted, HEAVIEST).tolist()
    write_open_prior(OPEN_PRIOR, prior, ORIGIN | {"device": "cpu", "torch": torch.__version__})
    write_known_prompts(OPEN_PRIOR.with_suffix(".prompts.npz"), encoder)


@torch.inference_mode()
def fitted_velocity_weight(denoise: Denoiser, clips: Sequence[MotionClip]) -> list[float]:
    """The weight of each joint's velocities that suits a model (`motion.features`).

    From its guesses of held-out clips at a tenth of its noise levels, where what it adds itself
    outweighs what the noise has hidden; the ratio is the same within 15 % up to two fifths of them.
    """
    predicted, true = [], []
    for number, clip in enumerate(clips):
        raw = torch.from_numpy(clip.features[: denoise.max_frames])
        x0 = denoise.normaliser.normalise(raw)[None]
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(number))
        level, mask = torch.tensor([denoise.levels // 10]), torch.ones(x0.shape[:2]).bool()
        guess = denoise.normaliser.denormalise(denoise([clip], x0, mask, level, noise))
        predicted.append(guess[0].numpy())
        true.append(raw.numpy())
    return velocity_weights(predicted, true).tolist()


def write_known_prompts(path: Path, encoder: TextEncoder) -> None:
    """Unit embeddings in half precision of sentences of the grammars, and their activities."""
    activities, sentences = zip(*grammar_sentences(), strict=True)
    vectors = encoder.encode_pooled(sentences).numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.savez_compressed(path, embeddings=vectors.astype(np.float16), activities=list(activities))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "data/runs/open_prior"))
