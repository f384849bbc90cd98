"""Solvers for sampling: how a motion is led from noise to x_0, and in how many evaluations.

Ancestral sampling is the Euler scheme of a stochastic differential equation. Schemes of second
order use the last two predictions instead of one (DPM-Solver++ 2M; Lu et al. 2022,
arXiv:2211.01095), on that equation or on the ordinary one of the same marginals. Steps: diffusers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from t2imu_utils.errors import InputError
from t2imu_utils.priors import diffusion

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

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
            level = diffusion.schedule(steps).alphas_cumprod.double().numpy()
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
        return diffusion.sample(predict_x0, noise, scheduler)
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
