"""Tokens of clips in memory, and batches of them as a function of seed and step."""

import json
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from t2imu_utils.files import sha256
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.priors.batches import SENTENCES, step_items
from t2imu_utils.priors.loop import weights_hash
from t2imu_utils.priors.rvq import RVQ, STRIDE, tokenise
from t2imu_utils.priors.rvq_training import motions_hash
from t2imu_utils.priors.text import TextEncoder

SHORTER = 1 / 3
# Which of the random streams of a seed.
TOKENS = 11

# Tokens of items, which of them are no padding, and pooled texts.
TokenBatch = tuple[Int[Tensor, "B N Q"], Bool[Tensor, "B N"], Float[Tensor, "B W"]]


class TokenData:
    """Tokens of clips and pooled vectors of their captions, in memory.

    A clip is cut into tokens from each of its first four frames on, so that a crop may begin at
    any frame. Tokens are those of the whole clip, not of the crop. max_tokens: longer clips are
    cropped. motions: of `clips`, normalised.
    """

    def __init__(
        self,
        rvq: RVQ,
        text_encoder: TextEncoder,
        max_tokens: int,
        motions: Sequence[Float[Tensor, "T 263"]],
        clips: Sequence[MotionClip],
    ):
        self.frames = np.array([len(motion) for motion in motions], dtype=int)
        self.max_tokens = max_tokens
        self.tokens = [
            tokenise(rvq, [x[phase:] if len(x) >= phase + STRIDE else x for x in motions])
            for phase in range(STRIDE)
        ]
        sentences = list(dict.fromkeys(text for clip in clips for text in clip.captions))
        number = {text: i for i, text in enumerate(sentences)}
        self.captions = [[number[text] for text in clip.captions] for clip in clips]
        encode = text_encoder.encode_pooled
        self.pooled = [
            row
            for start in range(0, len(sentences), SENTENCES)
            for row in encode(sentences[start : start + SENTENCES])
        ]
        ingredients = [motions_hash(motions), weights_hash(rvq), sentences, self.captions]
        ingredients.append(text_encoder.fingerprint)
        self.fingerprint = sha256(json.dumps(ingredients).encode())

    def __len__(self) -> int:
        return len(self.frames)

    def batch(
        self,
        items: Sequence[int],
        starts: Sequence[int],
        counts: Sequence[int],
        captions: Sequence[int],
    ) -> TokenBatch:
        """Tokens of items from a frame on, which of them are no padding, and pooled texts."""
        rows = []
        for item, start, count in zip(items, starts, counts, strict=True):
            first, phase = divmod(int(start), STRIDE)
            rows.append(self.tokens[phase][item][first : first + int(count)])
        valid = torch.arange(int(max(counts))) < torch.as_tensor(counts)[:, None]
        text = [self.pooled[self.captions[i][c]] for i, c in zip(items, captions, strict=True)]
        return pad_sequence(rows, batch_first=True), valid, torch.stack(text)

    def step(self, batch_size: int, seed: int, step: int) -> TokenBatch:
        """The batch of a step: random crops, one in three a token shorter, random captions."""
        rng = np.random.default_rng([seed, TOKENS, step])
        items = step_items(self.frames, batch_size, seed, step)
        counts = self.frames[items] // STRIDE
        counts = np.maximum(counts - (rng.random(len(items)) < SHORTER), 1)
        counts = np.minimum(counts, self.max_tokens)
        starts = rng.integers(0, self.frames[items] - STRIDE * counts + 1)
        captions = rng.integers(0, [len(self.captions[i]) for i in items])
        return self.batch(items, starts, counts, captions)

    def whole(self, batch_size: int) -> Iterator[tuple[Int[np.ndarray, "B"], TokenBatch]]:
        """Every clip once, shortest first, from its first frame on and with its first caption.

        Items and their batch; longer clips end at `max_tokens`.
        """
        counts = np.minimum(self.frames // STRIDE, self.max_tokens)
        order = np.argsort(counts, kind="stable")
        for start in range(0, len(order), batch_size):
            items = order[start : start + batch_size]
            zeros = np.zeros(len(items), dtype=int)
            yield items, self.batch(items, zeros, counts[items], zeros)
