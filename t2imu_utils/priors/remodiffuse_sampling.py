"""Sampling from a ReMoDiffuse prior: respaced DDIM over mixed branches, raw features out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from tqdm import tqdm

from t2imu_utils.errors import InputError
from t2imu_utils.priors.diffusion import item_noise
from t2imu_utils.priors.remodiffuse import Condition, Mixture, ReMoDiffuse
from t2imu_utils.priors.remodiffuse_checkpoints import ReMoDiffusePrior
from t2imu_utils.priors.requests import check_requests
from t2imu_utils.priors.retrieval import gather, retrieve

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, DDPMScheduler

# Sampling steps in each fifth of the timesteps, from the clean end on.
SECTIONS = (15, 15, 8, 6, 6)
# Standard deviation, in frames, of the filter on the joints that the authors publish.
PUBLISHED_SIGMA = 2.5
# Text and retrieval of each branch.
BOTH, TEXT, RETRIEVAL, NONE = (True, True), (True, False), (False, True), (False, False)


def linear_schedule(steps: int = 1000) -> "DDPMScheduler":
    """Betas from 1e-4 to 0.02 (Ho et al. 2020), for a model that predicts x_0."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=steps,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="sample",
        clip_sample=False,
    )


def timestep_map(steps: int = 1000, sections: Sequence[int] = SECTIONS) -> Int[np.ndarray, "S"]:
    """The timesteps that are sampled, ascending: evenly spread within equal sections.

    A section of n timesteps from a on with k kept ones: a + round(i (n - 1) / (k - 1)), the
    products made by repeated addition as in the official code, which decides about halves.

    Raises:
        InputError: a section with fewer timesteps than are to be kept.
    """
    size, extra = divmod(steps, len(sections))
    kept, start = [], 0
    for i, count in enumerate(sections):
        length = size + (i < extra)
        if not 1 <= count <= length:
            raise InputError(
                "timestep_map", f"{count} of {length} timesteps in section {i}",
                f"1 to {length}", "Use more diffusion steps or fewer sampling steps.",
            )  # fmt: skip
        stride = (length - 1) / max(count - 1, 1)
        places = accumulate([stride] * (count - 1), initial=0.0)
        kept += [start + round(place) for place in places]
        start += length
    return np.array(kept)


def respaced_ddim(timesteps: Int[np.ndarray, "S"], steps: int = 1000) -> "DDIMScheduler":
    """A DDIM solver whose timestep i is `timesteps[i]` of the linear schedule.

    Betas are computed again so that the kept timesteps keep their signal: beta_i = 1 - ᾱ_i /
    ᾱ_(i-1) (Nichol & Dhariwal 2021, section 4).
    """
    signal = np.cumprod(1 - np.linspace(1e-4, 0.02, steps))[timesteps]
    betas = 1 - signal / np.concatenate([[1.0], signal[:-1]])
    from diffusers import DDIMScheduler

    solver = DDIMScheduler(
        num_train_timesteps=len(timesteps),
        trained_betas=betas.tolist(),
        prediction_type="sample",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    solver.set_timesteps(len(timesteps))
    return solver


def mixed(
    model: ReMoDiffuse, condition: Condition, mask: Bool[Tensor, "B T"], mixture: Mixture
) -> Callable[[Tensor, int, Tensor], Tensor]:
    """The mixture of the four branches as a function of (x_t, t, coins (B,)) -> x̂_0.

    Only branches of weight other than zero are run: two of four above `fine_until`, unless both
    sides of the coin are averaged.
    """
    items = len(mask)
    repeated = {times: (condition.repeat(times), torch.cat([mask] * times)) for times in (2, 4)}

    def branches(x_t: Tensor, t: int, text: Tensor, retrieval: Tensor) -> Tensor:
        times = len(text) // items
        given, valid = repeated[times]
        at = torch.full((len(text),), t, device=x_t.device)
        out = model(torch.cat([x_t] * times), at, valid, given, text, retrieval)
        return out.unflatten(0, (times, items))

    def predict(x_t: Tensor, t: int, coins: Bool[Tensor, "B"]) -> Tensor:
        coarse = t > mixture.fine_until
        scale = 1 + mixture.coarse_scale * t / model.config.diffusion_steps
        on = torch.ones(items, dtype=torch.bool, device=x_t.device)
        if coarse and not mixture.average:
            # Heads: both and retrieval; tails: text and none. Either is a guidance by the text.
            seen, unseen = branches(x_t, t, torch.cat([on, ~on]), torch.cat([coins, coins]))
            return scale * seen + (1 - scale) * unseen
        text = torch.cat([on, on, ~on, ~on])
        out = branches(x_t, t, text, torch.cat([on, ~on, on, ~on]))
        if coarse:
            weights = [scale / 2, scale / 2, (1 - scale) / 2, (1 - scale) / 2]
        else:
            weights = [*mixture.fine, 1 - sum(mixture.fine)]
        return torch.einsum("k,kbtc->btc", out.new_tensor(weights), out)

    return predict


@torch.inference_mode()
def sample(
    predict: Callable[[Tensor, int, Tensor], Tensor],
    noise: Float[Tensor, "B T C"],
    coins: Bool[Tensor, "B S"],
    timesteps: Int[np.ndarray, "S"],
    steps: int = 1000,
) -> Float[Tensor, "B T C"]:
    """DDIM (Song et al. 2021, eta 0) from pure noise, over `timesteps` from the last one down.

    predict: what `mixed` makes. coins: one for each item and sampling step, in order of sampling.
    """
    solver = respaced_ddim(timesteps, steps)
    x = noise
    for toss, i in zip(coins.T, solver.timesteps.tolist(), strict=True):
        x0_hat = predict(x, int(timesteps[i]), toss)
        x = solver.step(x0_hat, i, x, eta=0.0).prev_sample
    return x


def generate(
    prior: ReMoDiffusePrior,
    prompts: Sequence[str],
    frames: Sequence[int],
    seeds: Sequence[int],
    guidance: float | None = None,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> list[Float[np.ndarray, "T 263"]]:
    """One motion for each prompt, as raw (de-normalised) features at 20 fps, in order.

    They are as the model makes them: the joints that the authors publish are smoothed, which
    `published_joints` does. frames: length of each motion. seeds: one an item; an item's motion is
    made by its prompt, length and seed alone, whatever it is sampled with (up to rounding).
    guidance: the mixture's `coarse_scale`; None keeps that of the prior.

    Raises:
        InputError: what `check_requests` refuses.
    """
    check_requests(prior, prompts, frames, seeds, batch_size)
    mixture = prior.mixture
    if guidance is not None:
        mixture = replace(mixture, coarse_scale=float(guidance))
    tokens, valid = prior.condition(prompts)
    pooled = prior.text_encoder.encode_pooled(prompts).numpy()
    config = prior.config
    rows = retrieve(prior.database, pooled, frames, None, config.retrieved, config.length_weight)
    model = prior.model.to(device).eval()
    timesteps = timestep_map(config.diffusion_steps)
    order = sorted(range(len(prompts)), key=lambda i: frames[i])
    motions: list[np.ndarray] = [np.empty(0)] * len(prompts)
    with tqdm(total=len(prompts), unit="motion", mininterval=2, disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            items = order[start : start + batch_size]
            lengths = [int(frames[i]) for i in items]
            mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
            longest = int(valid[items].sum(1).max())
            text = tokens[items, :longest].to(device), valid[items, :longest].to(device)
            with torch.inference_mode():
                found = (part.to(device) for part in gather(prior.database, rows[items]))
                condition = model.condition(*text, model.database(*found))
            generators = [torch.Generator().manual_seed(int(seeds[i])) for i in items]
            noise = next(item_noise(lengths, generators, config.channels, device))
            coins = torch.stack(
                [torch.randint(0, 2, (len(timesteps),), generator=g) for g in generators]
            )
            predict = mixed(model, condition, mask.to(device), mixture)
            x = sample(predict, noise, coins.bool().to(device), timesteps, config.diffusion_steps)
            for i, length, row in zip(items, lengths, x.cpu().numpy(), strict=True):
                raw = prior.normaliser.denormalise(row[:length])
                motions[i] = np.asarray(raw, dtype=np.float32)
            bar.update(len(items))
    return motions


def published_joints(
    joints: Float[np.ndarray, "T 22 3"], sigma: float = PUBLISHED_SIGMA
) -> Float[np.ndarray, "T 22 3"]:
    """Joints smoothed along time as in the files that the official demo writes.

    A Gaussian of `sigma` frames on each coordinate, the ends continued as they are. It hides jitter
    of the raw motion; whatever measures acceleration must not be given these.
    """
    return gaussian_filter1d(joints, sigma, axis=0, mode="nearest")
