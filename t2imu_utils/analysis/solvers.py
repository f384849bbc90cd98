"""What fewer evaluations cost: motions of each solver beside real ones and beside full sampling.

All solvers get the same prompts, lengths and seeds, so differences between them are paired by
prompt. The reference is a second full sample with other seeds: no solver can be told from full
sampling better than that one.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from t2imu_utils.analysis.motions import STILL, Features, kinetics, statistics
from t2imu_utils.analysis.spectra import power_spectrum, spectral_distance
from t2imu_utils.analysis.stats import FEWEST, codes, energy_distance, halves, interval
from t2imu_utils.errors import InputError
from t2imu_utils.models.diffusion import ANCESTRAL, Solver
from t2imu_utils.models.mdm import Prior, generate
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.motion.features import features_to_joints

OTHER_SEEDS = 1_000_003  # added for the second full sample; requests number theirs from 0

Samples = Mapping[tuple[str, int, str], Features]


def sample_solvers(
    prior: Prior,
    requests: pd.DataFrame,
    solvers: Sequence[Solver],
    guidance: float,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Samples:
    """Raw features of every request (columns ``prompt``, ``frames``, ``seed``): twice by full
    sampling, then by each solver; by its name, evaluations of the model, and seeds ("same" or
    "other")."""
    prompts, frames, seeds = (requests[name].tolist() for name in ("prompt", "frames", "seed"))
    steps = prior.config.diffusion_steps
    wanted = {(ANCESTRAL, steps, "same"): (None, 0), (ANCESTRAL, steps, "other"): (None, 1)}
    wanted |= {(solver.name, solver.count(steps), "same"): (solver, 0) for solver in solvers}
    return {
        key: generate(
            prior, prompts, frames, [seed + other * OTHER_SEEDS for seed in seeds],
            guidance, batch_size, device, progress, solver,
        )
        for key, (solver, other) in wanted.items()
    }  # fmt: skip


def trade_off(
    sampled: Samples,
    prompts: Sequence[str],
    real: Features,
    real_units: Sequence,
    normaliser: Normaliser,
    seed: int = 0,
    draws: int = 400,
) -> pd.DataFrame:
    """How far each solver's motions are from real ones, and how much farther than full sampling's.

    Three measures: "features", energy distance of `statistics`; "kinetics", energy distance of the
    logarithms of `kinetics`, in standard deviations of real motions, both per root number of
    dimensions; and "spectrum", log-spectral distance of the mean acceleration spectra, dB, which is
    what sensors feel.

    Args:
        sampled: of `sample_solvers`, full sampling first. prompts: of the requests.
        real: raw features of held-out motions. real_units: trials that they were cut from.
        normaliser: of the prior. draws: random halves of prompts and trials, the same for all
            solvers, whose spread gives the intervals (`stats.halves`).

    Returns:
        A row for each sample and measure: ``solver``, ``evaluations``, ``seeds``, ``measure``,
        ``value``; ``excess``, the value less that of full sampling, with ``low`` and ``high``
        (95 %); ``no_worse``, whether that interval reaches down to 0.
    """
    rng, code, real_code = np.random.default_rng(seed), codes(prompts), codes(real_units)
    if min(code.max(), real_code.max()) + 1 < FEWEST:
        raise InputError(
            "trade_off: prompts, real_units", f"{code.max() + 1} and {real_code.max() + 1}",
            f"at least {FEWEST} of each", "Compare more prompts, and more real recordings.",
        )  # fmt: skip
    rows, real_rows = halves(rng, draws, code), halves(rng, draws, real_code)
    truth = _views(real, normaliser)
    spread = truth["kinetics"].std(0)
    size = {
        "features": np.sqrt(truth["features"].shape[1]),
        "kinetics": np.where(spread > 0, spread, 1.0) * np.sqrt(len(spread)),
    }
    values = {}
    for key, motions in sampled.items():
        own = _views(motions, normaliser)
        for measure, unit in size.items():
            pair = own[measure] / unit, truth[measure] / unit, code, real_code
            values[*key, measure] = energy_distance(*pair, rows, real_rows)
        means = ((r @ x["spectrum"]) / (r @ x["frames"])[:, None]
                 for x, r in ((own, rows), (truth, real_rows)))  # fmt: skip
        values[*key, "spectrum"] = spectral_distance(*means)
    full, table = next(iter(sampled)), []
    for (*key, measure), value in values.items():
        excess = value - values[*full, measure]
        low, high = interval(excess, centred=True)
        table.append((*key, measure, value[0], excess[0], low, high, bool(low <= 0)))
    names = ["solver", "evaluations", "seeds", "measure", "value", "excess", "low", "high"]
    return pd.DataFrame(table, columns=[*names, "no_worse"])


def _views(motions: Features, normaliser: Normaliser) -> dict[str, np.ndarray]:
    """What each measure compares; spectra weighted by the frames behind them."""
    joints = [features_to_joints(x).astype(np.float64) for x in motions]
    frames = np.array([len(x) for x in motions])
    return {
        "features": statistics(motions, normaliser),
        "kinetics": np.log(np.maximum([kinetics(x) for x in joints], STILL)),
        "spectrum": np.array([power_spectrum(x)[1] for x in joints]) * frames[:, None],
        "frames": frames,
    }
