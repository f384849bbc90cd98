"""Forward and reverse diffusion around a model that predicts x_0; schedule and solver: diffusers.

Other solvers of that library take the place of the ancestral one by another `step` in `sample`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from t2imu_utils.errors import InputError

if TYPE_CHECKING:
    from diffusers import DDPMScheduler


def schedule(steps: int = 50) -> "DDPMScheduler":
    """The cosine schedule of MDM (Nichol & Dhariwal 2021, eq. 17) for a model that predicts x_0."""
    if steps < 2:
        raise InputError("schedule: steps", str(steps), "at least 2", "MDM uses 50.")
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=steps,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        variance_type="fixed_small",
        clip_sample=False,
    )


def add_noise(
    x0: Float[Tensor, "B T C"],
    noise: Float[Tensor, "B T C"],
    t: Int[Tensor, "B"],
    scheduler: "DDPMScheduler",
) -> Float[Tensor, "B T C"]:
    """x_t ~ q(x_t | x_0): the closed form of t steps of the paper's eq. (1)."""
    return scheduler.add_noise(x0, noise, t)


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
    if len(lengths) != len(generators):
        raise InputError(
            "item_noise: generators", str(len(generators)), f"one for each of {len(lengths)} items",
            "Pass one generator per item.",
        )  # fmt: skip
    while True:
        batch = torch.zeros(len(lengths), max(lengths), channels)
        for row, length, generator in zip(batch, lengths, generators, strict=True):
            row[:length] = torch.randn(length, channels, generator=generator)
        yield batch.to(device)


def guided(
    model: Callable[..., Tensor],
    text: Float[Tensor, "B L W"],
    text_valid: Bool[Tensor, "B L"],
    mask: Bool[Tensor, "B T"],
    guidance: float,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Classifier-free guidance (Ho & Salimans 2022) as a function of (x_t, t).

    x̂_0 = x̂_0(∅) + guidance · (x̂_0(c) - x̂_0(∅)); both come from one batch of double size. At
    guidance 1 only the conditional half is run.
    """
    items = len(text)
    if guidance == 1:
        return lambda x_t, t: model(x_t, t, text, text_valid, mask)
    drop = torch.arange(2 * items, device=text.device) >= items
    text, text_valid, mask = (torch.cat([y, y]) for y in (text, text_valid, mask))

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        both = model(torch.cat([x_t, x_t]), torch.cat([t, t]), text, text_valid, mask, drop)
        with_text, without = both.chunk(2)
        return without + guidance * (with_text - without)

    return predict


@torch.inference_mode()
def ancestral(
    predict_x0: Callable[[Tensor, Tensor], Tensor],
    noise: Iterator[Float[Tensor, "B T C"]],
    scheduler: "DDPMScheduler",
) -> Float[Tensor, "B T C"]:
    """Ancestral sampling over all steps of `scheduler` (Ho et al. 2020, algorithm 2).

    predict_x0: (x_t (B, T, C), t (B,)) -> x̂_0, such as `guided` makes. noise: yields x_T, then the
    noise of each step down to t = 1 (`item_noise`, or a recording). The solver is DDIM with
    eta = 1, which is the same step (Song et al. 2021, section 4.1) but, unlike
    `DDPMScheduler.step`, takes its noise as an argument.
    """
    from diffusers import DDIMScheduler

    solver = DDIMScheduler.from_config(scheduler.config, set_alpha_to_one=True)
    solver.set_timesteps(scheduler.config.num_train_timesteps)
    x = next(noise)
    silence = torch.zeros_like(x)
    for t in solver.timesteps.tolist():
        x0_hat = predict_x0(x, torch.full((len(x),), t, device=x.device))
        fresh = next(noise) if t > 0 else silence
        x = solver.step(x0_hat, t, x, eta=1.0, variance_noise=fresh).prev_sample
    return x


Precision = Literal["float32", "bfloat16"]
ANCESTRAL = "ancestral"
# Equation and order of each. First order is DDIM (ordinary) or its stochastic form, which over
# all steps is ancestral sampling.
SCHEMES = {
    ANCESTRAL: ("sde-dpmsolver++", 1),
    "ddim": ("dpmsolver++", 1),
    "dpm++2m": ("dpmsolver++", 2),
    "sde-dpm++2m": ("sde-dpmsolver++", 2),
}
# Evaluations: the fewest that are allowed, and what the second order takes by default (notebook 03
# shows what they cost).
FEWEST, FAST = 2, 10


@dataclass(frozen=True)
class Solver:
    """How to sample.

    name: "ancestral", as MDM does; "ddim", the Euler scheme of the ordinary equation; "dpm++2m"
    and "sde-dpm++2m", second order on the ordinary and on the stochastic one. evaluations: of the
    model for one motion; None takes all steps of the training for "ancestral", else `FAST`.

    Raises:
        InputError: an unknown name, or fewer than `FEWEST` evaluations.
    """

    name: str = ANCESTRAL
    evaluations: int | None = None

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
        """Evaluations for a model with so many diffusion steps.

        Raises:
            InputError: more than there are steps.
        """
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
        if _stochastic(self.name):
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


def _stochastic(name: str) -> bool:
    return SCHEMES[name][0].startswith("sde")


@torch.inference_mode()
def sample(
    predict_x0: Callable[[Tensor, Tensor], Tensor],
    noise: Iterator[Float[Tensor, "B T C"]],
    scheduler: "DDPMScheduler",
    solver: Solver | None = None,
) -> Float[Tensor, "B T C"]:
    """`diffusion.sample` with a choice of solver.

    noise: x_T, then, for a solver of the stochastic equation, the noise of each step but the last.
    solver: None is ancestral sampling over all steps.

    Raises:
        InputError: more evaluations than the schedule has steps.
    """
    solver = solver or Solver()
    steps = scheduler.config.num_train_timesteps
    if solver.name == ANCESTRAL and solver.count(steps) == steps:
        return ancestral(predict_x0, noise, scheduler)
    from diffusers import DPMSolverMultistepScheduler

    equation, order = SCHEMES[solver.name]
    scheme = DPMSolverMultistepScheduler(
        num_train_timesteps=steps,
        trained_betas=scheduler.betas.tolist(),
        prediction_type="sample",
        algorithm_type=equation,
        solver_order=order,
        final_sigmas_type="zero",
    )
    timesteps = solver.timesteps(steps)
    scheme.set_timesteps(timesteps=timesteps)
    x = next(noise)
    silence = torch.zeros_like(x)
    for t in timesteps:
        x0_hat = predict_x0(x, torch.full((len(x),), t, device=x.device))
        drawn = _stochastic(solver.name) and t != timesteps[-1]
        fresh = next(noise) if drawn else silence
        x = scheme.step(x0_hat, t, x, variance_noise=fresh).prev_sample
    return x
