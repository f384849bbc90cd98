"""Forward and reverse diffusion around a model that predicts x_0: schedule, guidance, solvers.

Ancestral sampling (DDPM; Ho et al. 2020) is the Euler scheme of a stochastic differential equation,
DDIM (Song et al. 2021) that of the ordinary one of the same marginals. Schemes of second order use
the last two predictions instead of one (DPM-Solver++ 2M; Lu et al. 2022, arXiv:2211.01095).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from t2imu_utils.errors import InputError
from t2imu_utils.tracks import Precision

ANCESTRAL = "ancestral"
# Whether the equation is stochastic, and the order. First order is DDIM or its stochastic form,
# which over all steps is ancestral sampling.
SCHEMES = {
    ANCESTRAL: (True, 1),
    "ddim": (False, 1),
    "dpm++2m": (False, 2),
    "sde-dpm++2m": (True, 2),
}
# Evaluations: the fewest that are allowed, and what the second order takes by default (notebook 03
# shows what they cost).
FEWEST, FAST = 2, 10


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Where matrix products are computed in `precision`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


class Schedule(NamedTuple):
    """Noise of each of S steps: beta_t, and the signal that is left, ᾱ_t = Π (1 - beta)."""

    betas: Float[Tensor, "S"]
    alphas_cumprod: Float[Tensor, "S"]


def schedule_of(betas: Float[Tensor, "S"]) -> Schedule:
    return Schedule(betas, torch.cumprod(1.0 - betas, dim=0))


def schedule(steps: int = 50) -> Schedule:
    """The cosine schedule of MDM (Nichol & Dhariwal 2021, eq. 17)."""
    if steps < 2:
        raise InputError("schedule: steps", str(steps), "at least 2", "MDM uses 50.")

    def signal(share: float) -> float:
        return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - signal((i + 1) / steps) / signal(i / steps), 0.999) for i in range(steps)]
    return schedule_of(torch.tensor(betas, dtype=torch.float32))


def add_noise(
    x0: Float[Tensor, "B T C"],
    noise: Float[Tensor, "B T C"],
    t: Int[Tensor, "B"],
    schedule: Schedule,
) -> Float[Tensor, "B T C"]:
    """x_t ~ q(x_t | x_0): the closed form of t steps of the paper's eq. (1)."""
    level = schedule.alphas_cumprod.to(x0)[t][:, None, None]
    return level**0.5 * x0 + (1 - level) ** 0.5 * noise


def item_noise(
    lengths: Sequence[int],
    generators: Sequence[torch.Generator],
    channels: int = 263,
    device: torch.device | str = "cpu",
) -> Iterator[Float[Tensor, "B T C"]]:
    """Standard normal noise without end, drawn for each item from its own generator.

    An item draws as many numbers as it has frames, whatever it is batched with, and padding is
    zero: so its sample does not depend on its neighbours. Drawn on the CPU, so that a seed means
    the same noise on every device.
    """
    while True:
        batch = torch.zeros(len(lengths), max(lengths), channels)
        for row, length, generator in zip(batch, lengths, generators, strict=True):
            row[:length] = torch.randn(length, channels, generator=generator)
        yield batch.to(device)


def with_guidance(
    model: Callable[..., Tensor], inputs: Sequence[Tensor], guidance: float
) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022): y(∅) + guidance · (y(c) - y(∅)).

    Both halves are run in one batch of double size, whose last input says which items lose their
    condition; at guidance 1 only the conditional half is run.
    """
    if guidance == 1:
        return model(*inputs)
    items = len(inputs[0])
    drop = torch.arange(2 * items, device=inputs[0].device) >= items
    with_text, without = model(*(torch.cat([x, x]) for x in inputs), drop).chunk(2)
    return without + guidance * (with_text - without)


def guided(
    model: Callable[..., Tensor],
    text: Float[Tensor, "B L W"],
    text_valid: Bool[Tensor, "B L"],
    mask: Bool[Tensor, "B T"],
    guidance: float,
) -> Callable[[Tensor, Tensor], Tensor]:
    """x̂_0 with guidance as a function of (x_t, t)."""
    return lambda x_t, t: with_guidance(model, (x_t, t, text, text_valid, mask), guidance)


@dataclass(frozen=True)
class Solver:
    """How to sample.

    name: "ancestral", as MDM does; "ddim", the Euler scheme of the ordinary equation; "dpm++2m"
    and "sde-dpm++2m", second order on the ordinary and on the stochastic one. evaluations: of the
    model for one motion; None takes all steps of the training for "ancestral", else `FAST`.
    precision: in which the network multiplies. bfloat16 moves features by less than a tenth of
    their spread; where the processor has no units for it, it is slow.
    """

    name: str = ANCESTRAL
    evaluations: int | None = None
    precision: Precision = "float32"

    def __post_init__(self):
        if self.name not in SCHEMES:
            raise InputError(
                "solver", repr(self.name), f"one of {', '.join(SCHEMES)}", "Check its spelling."
            )
        count = self.evaluations
        if count is not None and (not isinstance(count, int | np.integer) or count < FEWEST):
            raise InputError(
                "solver: evaluations", str(count), f"a whole number, at least {FEWEST}",
                f"{FAST} are enough for the second order.",
            )  # fmt: skip

    def count(self, steps: int) -> int:
        """Evaluations for a model with so many diffusion steps."""
        if self.evaluations is None:
            return steps if self.name == ANCESTRAL else min(FAST, steps)
        if self.evaluations > steps:
            raise InputError(
                "solver: evaluations", str(self.evaluations),
                f"at most {steps}, the diffusion steps of the model", "Take fewer.",
            )  # fmt: skip
        return self.evaluations

    def timesteps(self, steps: int) -> list[int]:
        """Where the model is evaluated: distinct steps from the noisiest to the cleanest.

        Evenly spaced in time for the ordinary equation, and for the stochastic one in the
        logarithm of the signal-to-noise ratio: what was nearest to full sampling on motion. The
        noisiest step stands aside, since there the cosine schedule is clipped.
        """
        count = self.count(steps)
        if SCHEMES[self.name][0]:
            level = schedule(steps).alphas_cumprod.double().numpy()
            ratio = np.log(level / (1 - level))
            wanted = np.linspace(ratio[max(steps - 2, 0)], ratio[0], count)
            found = np.abs(ratio - wanted[:, None]).argmin(1)
            found[0] = steps - 1
        else:
            found = np.linspace(steps - 1, 0, count).round().astype(int)
        # Each at least one step from the next, within the range.
        apart = np.arange(count)[::-1]
        moved = np.clip(found - apart, 0, steps - count)
        return (np.maximum.accumulate(moved[::-1])[::-1] + apart).tolist()


@torch.inference_mode()
def sample(
    predict_x0: Callable[[Tensor, Tensor], Tensor],
    noise: Iterator[Float[Tensor, "B T C"]],
    schedule: Schedule,
    solver: Solver | None = None,
) -> Float[Tensor, "B T C"]:
    """From noise to a motion.

    predict_x0: (x_t (B, T, C), t (B,)) -> x̂_0, such as `guided` makes. noise: yields x_T, then, for
    a solver of the stochastic equation, the noise of each step but the last (`item_noise`, or a
    recording). solver: None is ancestral sampling over all steps.
    """
    solver, steps = solver or Solver(), len(schedule.betas)

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        with autocast(x_t.device, solver.precision):
            return predict_x0(x_t, t).float()

    if solver.name == ANCESTRAL and solver.count(steps) == steps:
        return ancestral(predict, noise, schedule)
    stochastic, order = SCHEMES[solver.name]
    return dpm_solver(predict, noise, schedule, solver.timesteps(steps), order, stochastic)


def ddim_step(
    x: Float[Tensor, "B T C"],
    x0_hat: Float[Tensor, "B T C"],
    schedule: Schedule,
    t: int,
    noise: Float[Tensor, "B T C"] | None = None,
) -> Float[Tensor, "B T C"]:
    """x_{t-1} from x_t and x̂_0 (Song et al. 2021, eq. 12): eta 0, or with noise 1 (DDPM)."""
    level = schedule.alphas_cumprod[t]
    before = schedule.alphas_cumprod[t - 1] if t > 0 else torch.tensor(1.0)
    variance = (1 - before) / (1 - level) * (1 - level / before)
    spread = variance**0.5 if noise is not None else torch.tensor(0.0)
    direction = (x - level**0.5 * x0_hat) / (1 - level) ** 0.5
    x = before**0.5 * x0_hat + (1 - before - spread**2) ** 0.5 * direction
    return x if noise is None else x + spread * noise


@torch.inference_mode()
def ancestral(
    predict_x0: Callable[[Tensor, Tensor], Tensor],
    noise: Iterator[Float[Tensor, "B T C"]],
    schedule: Schedule,
) -> Float[Tensor, "B T C"]:
    """Ancestral sampling over all steps (Ho et al. 2020, algorithm 2)."""
    x = next(noise)
    silence = torch.zeros_like(x)
    for t in reversed(range(len(schedule.betas))):
        x0_hat = predict_x0(x, torch.full((len(x),), t, device=x.device))
        x = ddim_step(x, x0_hat, schedule, t, next(noise) if t > 0 else silence)
    return x


@torch.inference_mode()
def dpm_solver(
    predict_x0: Callable[[Tensor, Tensor], Tensor],
    noise: Iterator[Float[Tensor, "B T C"]],
    schedule: Schedule,
    timesteps: Sequence[int],
    order: int,
    stochastic: bool,
) -> Float[Tensor, "B T C"]:
    """DPM-Solver++ of first or second order (2M) over descending timesteps, then to x_0.

    With alpha² = ᾱ, sigma² = 1 - ᾱ, lambda = log(alpha / sigma) and h its step, x_t = (sigma_t /
    sigma_s) x_s + alpha_t (1 - e^-h) D, where D is x̂_0, at second order led on by its last change
    (the paper's algorithm 2); of the stochastic equation the first factor has e^-h more, the second
    is 1 - e^-2h, and noise of sigma_t sqrt(1 - e^-2h) is added (its eq. 33).
    """
    ratio = ((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod) ** 0.5
    ratio = torch.cat([ratio[list(timesteps)], torch.zeros(1)])
    alpha = 1 / (ratio**2 + 1) ** 0.5
    sigma = ratio * alpha
    lam = torch.log(alpha) - torch.log(sigma)
    x, last = next(noise), None
    for i, t in enumerate(timesteps):
        x0_hat = predict_x0(x, torch.full((len(x),), t, device=x.device))
        h, ends = lam[i + 1] - lam[i], i + 1 == len(timesteps)
        keep = sigma[i + 1] / sigma[i] * (torch.exp(-h) if stochastic else 1)
        take = alpha[i + 1] * (1 - torch.exp(-2.0 * h if stochastic else -h))
        x = keep * x + take * x0_hat
        if order == 2 and last is not None and not ends:
            r = (lam[i] - lam[i - 1]) / h
            x = x + 0.5 * take * (1.0 / r * (x0_hat - last))
        if stochastic and not ends:
            x = x + sigma[i + 1] * torch.sqrt(1.0 - torch.exp(-2 * h)) * next(noise)
        last = x0_hat
    return x
