"""How long a motion should last, from its text: the length estimator of MoMask."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from t2imu_utils.errors import InputError
from t2imu_utils.priors.loop import LoopConfig, run_loop
from t2imu_utils.priors.rvq import STRIDE

WIDTHS = (512, 256, 128)
# Classes are numbers of tokens, four frames each; 0 to 49 in the official checkpoint.
CLASSES = 50
# Half a second is never asked for: the shortest motions that MoMask is trained on have 40 frames.
MIN_TOKENS = 10
BATCH = 64
# Which of the random streams of a seed.
ITEMS = 20


class LengthEstimator(nn.Module):
    """Pooled text to logits of the number of tokens; names of the official checkpoint."""

    def __init__(self, text_width: int = 512, classes: int = CLASSES):
        super().__init__()
        if classes <= MIN_TOKENS:
            raise InputError(
                "LengthEstimator: classes", str(classes), f"more than {MIN_TOKENS}",
                "Shorter motions are not estimated; the official checkpoint has 50.",
            )  # fmt: skip
        first, second, third = WIDTHS
        self.text_width, self.classes = text_width, classes
        self.output = nn.Sequential(
            *(nn.Linear(text_width, first), nn.LayerNorm(first), nn.LeakyReLU(0.2)),
            *(nn.Dropout(0.2), nn.Linear(first, second), nn.LayerNorm(second), nn.LeakyReLU(0.2)),
            *(nn.Dropout(0.2), nn.Linear(second, third), nn.LayerNorm(third), nn.LeakyReLU(0.2)),
            nn.Linear(third, classes),
        )

    def forward(self, text: Float[Tensor, "B W"]) -> Float[Tensor, "B classes"]:
        return self.output(text)


@torch.inference_mode()
def estimate_frames(
    estimator: LengthEstimator, text: Float[Tensor, "B W"], seeds: Sequence[int]
) -> list[int]:
    """A length for each pooled text, in frames at 20 fps: drawn, not the most likely one.

    Of 40 to 196 frames with the official number of classes: the shortest, among them length 0,
    are left out of the draw. Each item draws from its own seed.
    """
    device = next(estimator.parameters()).device
    logits = estimator.eval()(text.to(device))[:, MIN_TOKENS:].double()
    frames = []
    for row, seed in zip(logits, seeds, strict=True):
        generator = torch.Generator().manual_seed(int(seed))
        token = torch.multinomial(row.softmax(0).cpu(), 1, generator=generator)
        frames.append((int(token) + MIN_TOKENS) * STRIDE)
    return frames


def token_counts(frames: Sequence[int], classes: int = CLASSES) -> Int[Tensor, "n"]:
    """Classes of lengths in frames; those above the last class, and below the shortest, are cut."""
    return (torch.as_tensor(frames) // STRIDE).clamp(MIN_TOKENS, classes - 1)


def train_lengths(
    estimator: LengthEstimator,
    texts: Sequence[Float[Tensor, "k W"]],
    frames: Sequence[int],
    config: LoopConfig,
    path: Path,
    key: str,
    progress: bool = True,
) -> tuple[LengthEstimator, list[dict[str, float]]]:
    """Cross-entropy of the token counts of clips, each with one of its texts at random.

    texts: pooled vectors of each clip's captions. The original trains with learning rate 1e-4 and
    grad_clip 0.5. Returns the estimator and the loss rows of `run_loop`.

    Raises:
        InputError: no clips, or lists of unequal length.
    """
    if not texts or len(texts) != len(frames):
        raise InputError(
            "train_lengths: texts, frames", f"{len(texts)} and {len(frames)} of them",
            "at least one clip, a length for each", "Pass the clips of the train split.",
        )  # fmt: skip
    counts = token_counts(frames, estimator.classes)
    losses = _losses(texts, counts, config.seed)
    trained, rows, _ = run_loop(estimator, losses, config, path, key, None, progress)
    return trained, rows


def _losses(texts, counts, seed) -> Callable[[nn.Module, int], dict[str, Tensor]]:
    def losses(model: nn.Module, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([seed, ITEMS, step])
        items = rng.integers(0, len(texts), BATCH)
        text = torch.stack([texts[i][rng.integers(0, len(texts[i]))] for i in items])
        device = next(model.parameters()).device
        loss = F.cross_entropy(model(text.to(device)), counts[items].to(device))
        return {"total": loss}

    return losses
