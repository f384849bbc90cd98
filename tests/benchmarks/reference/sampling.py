"""Sampling from MDM the plain way: nothing is kept from one step to the next.

At every step the model is run twice, with the text and without it, each on a deep copy of the
conditions, and projects the text anew.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from t2imu_utils.models.mdm import Prior
from tests.benchmarks.reference.mdm import PlainMDM, frame_padding


def cosine_schedule(steps: int) -> Float[np.ndarray, "steps"]:
    """The betas of Nichol & Dhariwal (2021), eq. 17, at most 0.999."""

    def share(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    return np.array(
        [min(1 - share((i + 1) / steps) / share(i / steps), 0.999) for i in range(steps)]
    )


@dataclass(frozen=True)
class Task:
    """Motions that are wanted, all in one batch; `seeds` decide the noise of each."""

    prompts: Sequence[str]
    frames: Sequence[int]
    seeds: Sequence[int]
    guidance: float = 2.5
    device: str = "cpu"


def ancestral(
    prior: Prior, model: PlainMDM, task: Task, last: int = 0
) -> list[Float[np.ndarray, "T 263"]]:
    """Raw features of each motion by the steps of Ho et al. (2020), algorithm 2, down to `last`."""
    betas = cosine_schedule(prior.config.diffusion_steps)
    kept = np.cumprod(1 - betas)
    before = np.append(1.0, kept[:-1])
    predict, noise = _predictor(prior, model, task), _noise(prior, task)
    x = next(noise)
    for step in reversed(range(last, len(betas))):
        towards = betas[step] * math.sqrt(before[step]) / (1 - kept[step])
        stays = (1 - before[step]) * math.sqrt(1 - betas[step]) / (1 - kept[step])
        x = towards * predict(x, step) + stays * x
        if step:
            spread = math.sqrt(betas[step] * (1 - before[step]) / (1 - kept[step]))
            x = x + spread * next(noise)
    return _raw(prior, task, x)


def second_order(
    prior: Prior, model: PlainMDM, task: Task, evaluations: int
) -> list[Float[np.ndarray, "T 263"]]:
    """Raw features by DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), the last step of order 1."""
    kept = np.cumprod(1 - cosine_schedule(prior.config.diffusion_steps))
    steps = np.linspace(len(kept) - 1, 0, evaluations).round().astype(int)
    alpha, sigma = np.sqrt(kept[steps]), np.sqrt(1 - kept[steps])
    half_snr = np.log(alpha / sigma)
    predict = _predictor(prior, model, task)
    x, last = next(_noise(prior, task)), None
    for i, step in enumerate(steps):
        clean = predict(x, int(step))
        if i == evaluations - 1:
            x = clean
            break
        h = half_snr[i + 1] - half_snr[i]
        aim = clean
        if last is not None:
            share = h / (2 * (half_snr[i] - half_snr[i - 1]))
            aim = (1 + share) * clean - share * last
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * math.expm1(-h) * aim
        last = clean
    return _raw(prior, task, x)


def _predictor(prior: Prior, model: PlainMDM, task: Task) -> Callable[[Tensor, int], Tensor]:
    """(x (T, B, 263), step) to the guided clean motion."""
    model = model.to(task.device).eval()
    tokens, valid = prior.condition(task.prompts)
    conditions = {
        "text": tokens.transpose(0, 1).to(task.device),
        "text_padding": ~valid.to(task.device),
        "frame_padding": frame_padding(list(task.frames), max(task.frames)).to(task.device),
    }

    @torch.no_grad()
    def predict(x: Tensor, step: int) -> Tensor:
        t = torch.full((x.shape[1],), step, device=x.device)
        with_text = model(x, t, copy.deepcopy(conditions))
        without = model(x, t, {**copy.deepcopy(conditions), "unconditional": True})
        return without + task.guidance * (with_text - without)

    return predict


def _noise(prior: Prior, task: Task) -> Iterator[Float[Tensor, "T B 263"]]:
    generators = [torch.Generator().manual_seed(int(seed)) for seed in task.seeds]
    while True:
        x = torch.zeros(max(task.frames), len(task.frames), prior.config.channels)
        for i, (length, generator) in enumerate(zip(task.frames, generators, strict=True)):
            x[:length, i] = torch.randn(length, prior.config.channels, generator=generator)
        yield x.to(task.device)


def _raw(prior: Prior, task: Task, x: Tensor) -> list[Float[np.ndarray, "T 263"]]:
    rows = zip(x.transpose(0, 1).cpu().numpy(), task.frames, strict=True)
    return [np.asarray(prior.normaliser.denormalise(row[:n]), np.float32) for row, n in rows]
