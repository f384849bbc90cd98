"""Training data in memory, and batches of it as a function of the seed and the step's number."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.priors.checkpoints import Prior

# Batches are cut from at most this many batches' worth of shuffled clips, sorted by length. Most of
# the padding goes, while clips of one length (often of one activity) still meet others.
CHUNK = 8
# Captions encoded at a time: padding all of a large corpus to its longest would not fit in memory.
SENTENCES = 1024
# Which of the random streams of a seed.
ORDER = 0


@dataclass(frozen=True)
class Batch:
    """What one step trains on; x0 is normalised, noise is N(0, 1), on the CPU until `to`."""

    x0: Float[Tensor, "B T 263"]
    mask: Bool[Tensor, "B T"]
    text: Float[Tensor, "B L W"]
    text_valid: Bool[Tensor, "B L"]
    t: Int[Tensor, "B"]
    noise: Float[Tensor, "B T 263"]
    drop_text: Bool[Tensor, "B"]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(**{name: x.to(device) for name, x in vars(self).items()})


class Dataset:
    """Clips in memory: normalised features, and what conditions on each caption, encoded once."""

    def __init__(self, prior: Prior, clips: Sequence[MotionClip]):
        _check_clips(clips, prior.config.channels)
        normalise = prior.normaliser.normalise
        self.motions = [
            torch.from_numpy(np.asarray(normalise(clip.features), dtype=np.float32))
            for clip in clips
        ]
        self.lengths = np.array([len(x) for x in self.motions])
        sentences = list(dict.fromkeys(text for clip in clips for text in clip.captions))
        number = {text: i for i, text in enumerate(sentences)}
        self.captions = [[number[text] for text in clip.captions] for clip in clips]
        self.tokens: list[Tensor] = []
        for start in range(0, len(sentences), SENTENCES):
            tokens, valid = prior.condition(sentences[start : start + SENTENCES])
            self.tokens += [row[keep] for row, keep in zip(tokens, valid, strict=True)]
        self.fingerprint = sha256(
            json.dumps(
                [
                    [clip.captions, sha256(x.numpy().tobytes())]
                    for clip, x in zip(clips, self.motions, strict=True)
                ]
            ).encode()
        )

    def __len__(self) -> int:
        return len(self.motions)

    def batch(
        self,
        items: Sequence[int],
        starts: Sequence[int],
        captions: Sequence[int],
        max_frames: int,
        t: Int[Tensor, "B"],
        drop_text: Bool[Tensor, "B"],
        noise: torch.Generator,
    ) -> Batch:
        """Assemble items, each from its start on, with its chosen caption."""
        crops = [self.motions[i][s : s + max_frames] for i, s in zip(items, starts, strict=True)]
        x0 = pad_sequence(crops, batch_first=True)
        texts = [self.tokens[self.captions[i][c]] for i, c in zip(items, captions, strict=True)]
        return Batch(
            x0=x0,
            mask=_prefix([len(x) for x in crops]),
            text=pad_sequence(texts, batch_first=True),
            text_valid=_prefix([len(x) for x in texts]),
            t=t,
            noise=torch.randn(x0.shape, generator=noise),
            drop_text=drop_text,
        )


def _prefix(lengths: list[int]) -> Bool[Tensor, "B L"]:
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def _check_clips(clips: Sequence[MotionClip], channels: int) -> None:
    if not clips:
        raise InputError("clips", "none", "at least one clip to train on", "Check the split.")
    for clip in clips:
        features = np.asarray(clip.features)
        if features.ndim != 2 or features.shape[1] != channels or len(features) < 3:
            raise InputError(
                f"{clip.name}: features", f"shape {features.shape}", f"(3 or more, {channels})",
                "Remove the clip or make it again.",
            )  # fmt: skip
        if not np.isfinite(features).all():
            raise InputError(
                f"{clip.name}: features", "values that are not finite", "finite values",
                "Remove the clip or make it again.",
            )  # fmt: skip
        if not clip.captions:
            raise InputError(
                f"{clip.name}: captions", "none", "at least one sentence", "Describe the clip."
            )


def step_items(
    lengths: Int[np.ndarray, "n"], batch_size: int, seed: int, step: int
) -> Int[np.ndarray, "B"]:
    """The clips of a step: shuffled epochs, end to end, sorted by length within chunks."""
    n = len(lengths)
    # No larger than the data, or a batch would hold the same clips many times.
    batches = min(CHUNK, max(n // batch_size, 1))
    per_chunk = batches * batch_size
    chunk, place = divmod(step, batches)
    first, last = chunk * per_chunk, (chunk + 1) * per_chunk
    epochs = range(first // n, (last - 1) // n + 1)
    stream = np.concatenate(
        [np.random.default_rng([seed, ORDER, 0, epoch]).permutation(n) for epoch in epochs]
    )
    items = stream[first - epochs[0] * n :][:per_chunk]
    items = items[np.argsort(lengths[items], kind="stable")].reshape(batches, batch_size)
    return items[np.random.default_rng([seed, ORDER, 1, chunk]).permutation(batches)[place]]
