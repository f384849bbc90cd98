"""Training MDM the plain way: float32, and a loader that builds every batch from files.

Every clip is read from its own files when it is wanted, and padded to the longest length there may
be, whatever the batch holds.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from t2imu_utils.models.mdm import Prior
from t2imu_utils.models.trainer import Batch
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from tests.benchmarks.reference.mdm import PlainMDM, frame_padding
from tests.benchmarks.reference.sampling import cosine_schedule


@dataclass(frozen=True)
class Draw:
    """What chance decides at a step: the clips, and of a batch t, noise, and texts left out."""

    items: Sequence[int]
    batch: Batch


def write_files(folder: Path, prior: Prior, clips: Sequence[MotionClip]) -> None:
    """Two files a clip: features, and token states of its first caption."""
    tokens, valid = prior.condition([clip.captions[0] for clip in clips])
    for i, clip in enumerate(clips):
        np.save(folder / f"{i}.npy", clip.features)
        np.save(folder / f"{i}_text.npy", tokens[i][valid[i]].numpy())


class MotionFiles(Dataset):
    """Clips in files; each is normalised and padded to `longest` frames as it is read."""

    def __init__(self, folder: Path, count: int, normaliser: Normaliser, longest: int, tokens: int):
        self.folder, self.count, self.normaliser = folder, count, normaliser
        self.longest, self.tokens = longest, tokens

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, np.ndarray | int]:
        features = self.normaliser.normalise(np.load(self.folder / f"{index}.npy"))
        text = np.load(self.folder / f"{index}_text.npy")
        motion = np.zeros((self.longest, features.shape[1]), np.float32)
        motion[: len(features)] = features
        padded = np.zeros((self.tokens, text.shape[1]), np.float32)
        padded[: len(text)] = text
        return {"motion": motion, "frames": len(features), "text": padded, "words": len(text)}


class Trainer:
    """Weights, their moving average and the optimiser."""

    def __init__(
        self, model: PlainMDM, learning_rate: float, acc: float, diffusion_steps: int, device: str
    ):
        self.model = copy.deepcopy(model).to(device).train()
        self.average = copy.deepcopy(self.model).eval()
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=learning_rate, weight_decay=0.0
        )
        self.acc, self.device, self.step = acc, device, 0
        kept = np.cumprod(1 - cosine_schedule(diffusion_steps))
        self.signal = torch.tensor(np.sqrt(kept), dtype=torch.float32)
        self.spread = torch.tensor(np.sqrt(1 - kept), dtype=torch.float32)

    def run(self, data: MotionFiles, draws: Sequence[Draw]) -> list[float]:
        """The loss of eq. (6), with L_simple and L_acc, of one step a draw."""
        loader = DataLoader(data, batch_sampler=[draw.items.tolist() for draw in draws])
        return [self._update(*both, data) for both in zip(draws, loader, strict=True)]

    def _update(self, draw: Draw, read: dict[str, Tensor], data: MotionFiles) -> float:
        x0, t = read["motion"], draw.batch.t
        noise = torch.zeros_like(x0)
        noise[:, : draw.batch.noise.shape[1]] = draw.batch.noise
        x_t = self.signal[t][:, None, None] * x0 + self.spread[t][:, None, None] * noise
        padding = frame_padding(read["frames"].tolist(), data.longest).to(self.device)
        conditions = {
            "text": read["text"].transpose(0, 1).to(self.device),
            "text_padding": frame_padding(read["words"].tolist(), data.tokens).to(self.device),
            "frame_padding": padding,
            "dropped": draw.batch.drop_text.to(self.device),
        }
        x0, x_t = x0.to(self.device), x_t.to(self.device)
        x0_hat = self.model(x_t.transpose(0, 1), t.to(self.device), conditions).transpose(0, 1)
        loss = _loss(x0 - x0_hat, ~padding, self.acc)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        decay = min(0.999, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
            for old, new in pairs:
                old.mul_(decay).add_(new, alpha=1 - decay)
        self.step += 1
        return loss.item()


def _loss(error: Tensor, valid: Tensor, acc_weight: float) -> Tensor:
    error = error * valid[..., None]
    frames = valid.sum(1)
    simple = (error**2).mean(-1).sum(1) / frames
    second = error[:, 2:] - 2 * error[:, 1:-1] + error[:, :-2]
    acc = ((second**2).mean(-1) * valid[:, 2:]).sum(1) / (frames - 1)
    return (simple + acc_weight * acc).mean()
