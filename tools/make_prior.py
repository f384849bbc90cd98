"""Make an open prior from raw recordings: corpus, training, export. Some hours on two cores.

    python -m tools.make_prior [FAMILY] [FOLDER]        # by default mdm, data/runs/open_prior

An interrupted call goes on when it is repeated. Beside the weights of MDM in data/prior stand
embeddings of sentences of our own grammars, by which `t2imu generate` knows a prompt unlike all
that the prior was trained on.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2imu_utils.files import write_table
from t2imu_utils.models.generator import Denoiser, family
from t2imu_utils.models.text import TextEncoder, load_text_encoder
from t2imu_utils.models.trainer import TrainConfig
from t2imu_utils.motion.corpus import MotionClip, read_corpus, write_corpus
from t2imu_utils.motion.features import velocity_weights
from t2imu_utils.motion.open_corpus import build_open
from t2imu_utils.motion.sentences import grammar_sentences
from t2imu_utils.tracks import BASE, data_root, shipped_prior

HEAVIEST = 10.0  # weight of velocities: beyond, joints of sampled jumps drift (validation prompts)
SIZES: dict[str, dict[str, Any]] = {
    "mdm": {
        "width": 256, "layers": 4, "heads": 4, "feedforward": 512, "dropout": 0.0,
        "diffusion_steps": 50,
    },
    "momask": {
        "width": 256, "layers": 4, "heads": 4, "feedforward": 512, "dropout": 0.1,
        "tokeniser_width": 192, "codes": 256, "levels": 4, "iterations": 10,
    },
    "t2mgpt": {
        "width": 256, "layers": 3, "heads": 4, "feedforward": 768, "dropout": 0.1,
        "tokeniser_width": 192, "codes": 512,
    },
}  # fmt: skip
COMMON = {"ema_decay": 0.999, "max_frames": 196, "validate_every": 2000}
OF_MDM = COMMON | {"learning_rate": 5e-4, "batch_size": 32}
OF_TOKENS = COMMON | {"batch_size": 48}
# One after the other, with the learning rate constant or falling to zero.
TRAININGS = {
    "mdm": {
        "constant": TrainConfig(18_000, warmup=500, **OF_MDM),
        "annealed": TrainConfig(3_000, warmup=100, anneal=True, seed=1, **OF_MDM),
    },
    "momask": {"momask": TrainConfig(12_000, learning_rate=5e-4, **OF_TOKENS)},
    "t2mgpt": {"t2mgpt": TrainConfig(10_000, learning_rate=4e-4, **OF_TOKENS)},
}
ORIGIN = {
    "licence": "CC BY-NC 4.0, as that of the Bandai-Namco motion dataset that it was trained on",
    "data": "CMU Graphics Lab Motion Capture Database; Bandai-Namco Research Motiondataset 1 and 2;"
    " ReActIdle; UI-PRMD; recordings of CMU in the format of DeepMimic",
}


def main(name: str, folder: Path) -> None:
    encoder = load_text_encoder("minilm", folder / "states")
    if not (folder / "corpus").is_dir():
        built = build_open(data_root())
        write_table(folder / "census.parquet", built.census)
        write_corpus(folder / "corpus", built.clips, built.splits)
    clips, held_out = (read_corpus(folder / "corpus", split) for split in ("train", "val"))
    generator = family(name)
    prior = generator.untrained(generator.Sizes(**SIZES[name]), clips, encoder, seed=0)
    for part, config in TRAININGS[name].items():
        prior, curves = generator.train(prior, clips, config, folder / part, held_out, "cpu")
        write_table(folder / f"{part}.parquet", curves)
    fitted = fitted_velocity_weight(generator.denoiser(prior, "cpu"), held_out)
    prior.velocity_weight = np.minimum(fitted, HEAVIEST).tolist()
    provenance = ORIGIN | {"device": "cpu", "torch": torch.__version__}
    generator.save(shipped_prior(name), prior, {"provenance": provenance}, half=True)
    if name == BASE:
        write_known_prompts(shipped_prior(name).with_suffix(".prompts.npz"), encoder)


@torch.inference_mode()
def fitted_velocity_weight(denoise: Denoiser, clips: Sequence[MotionClip]) -> list[float]:
    """The weight of each joint's velocities that suits a model (`motion.features`).

    From its guesses of held-out clips at a tenth of its noise levels, where what it adds itself
    outweighs what the noise has hidden; the ratio is the same within 15 % up to two fifths of them.
    """
    predicted, true = [], []
    for number, clip in enumerate(clips):
        frames = min(len(clip.features), denoise.max_frames) // denoise.stride * denoise.stride
        raw = torch.from_numpy(clip.features[:frames])
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
    given = sys.argv[1:]
    main(given[0] if given else BASE, Path(given[1] if given[1:] else "data/runs/open_prior"))
