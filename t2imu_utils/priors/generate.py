"""Sampling motions from a prior: prompts, lengths and seeds in, raw features out.

Every generator of the project has this interface: `generate(prior, prompts, frames, seeds, ...)`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from t2imu_utils.priors.checkpoints import Prior
from t2imu_utils.priors.diffusion import item_noise, schedule
from t2imu_utils.priors.mdm_inference import Precision, guided
from t2imu_utils.priors.requests import check_requests
from t2imu_utils.priors.solvers import Solver, sample


def generate(
    prior: Prior,
    prompts: Sequence[str],
    frames: Sequence[int],
    seeds: Sequence[int],
    guidance: float = 2.5,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    progress: bool = True,
    solver: Solver | None = None,
    precision: Precision = "float32",
) -> list[Float[np.ndarray, "T 263"]]:
    """One motion for each prompt, as raw (de-normalised) features at 20 fps, in order.

    frames: length of each motion. seeds: one an item; an item's motion is made by its prompt,
    length and seed alone, whatever it is sampled with (up to rounding). Items are batched by
    length, so that little padding is computed.

    solver: None is ancestral sampling over all steps. precision: of matrix products; with
    "bfloat16" a motion differs by about one percent.

    Raises:
        InputError: what `check_requests` refuses, or more evaluations than the prior has steps.
    """
    check_requests(prior, prompts, frames, seeds, batch_size)
    solver = solver or Solver()
    solver.count(prior.config.diffusion_steps)
    tokens, valid = prior.condition(prompts)
    scheduler = schedule(prior.config.diffusion_steps)
    model = prior.model.to(device).eval()
    order = sorted(range(len(prompts)), key=lambda i: frames[i])
    motions: list[np.ndarray] = [np.empty(0)] * len(prompts)
    with tqdm(total=len(prompts), unit="motion", mininterval=2, disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            items = order[start : start + batch_size]
            lengths = [int(frames[i]) for i in items]
            mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
            generators = [torch.Generator().manual_seed(int(seeds[i])) for i in items]
            longest = int(valid[items].sum(1).max())
            predict = guided(
                model,
                tokens[items, :longest].to(device),
                valid[items, :longest].to(device),
                mask.to(device),
                guidance,
                precision,
            )
            noise = item_noise(lengths, generators, prior.config.channels, device)
            x = sample(predict, noise, scheduler, solver).cpu().numpy()
            for i, length, row in zip(items, lengths, x, strict=True):
                raw = prior.normaliser.denormalise(row[:length])
                motions[i] = np.asarray(raw, dtype=np.float32)
            bar.update(len(items))
    return motions
