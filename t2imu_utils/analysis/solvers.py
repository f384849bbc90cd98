"""What fewer evaluations cost: motions of each solver beside real ones and beside full sampling.

All solvers get the same prompts, lengths and seeds, so differences between them are paired by
prompt. The reference is a second full sample with other seeds: no solver can be told from full
sampling better than that one. Three views of a motion, and a distance in each:

``features``: energy distance of the means and standard deviations over frames of the normalised
features. ``kinetics``: energy distance of the logarithms of `motions.kinetics`, in standard
deviations of real motions. Both per root number of dimensions. ``spectrum``: log-spectral distance
of the mean acceleration spectra, dB; it is what sensors feel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from t2imu_utils.analysis.motions import STILL, kinetics, statistics
from t2imu_utils.analysis.spectra import power_spectrum, spectral_distance
from t2imu_utils.analysis.stats import FEWEST, codes, energy_distance, halves, interval
from t2imu_utils.errors import InputError
from t2imu_utils.motion.features import features_to_joints
from t2imu_utils.motion.normalise import Normaliser
from t2imu_utils.priors.checkpoints import Prior
from t2imu_utils.priors.generate import generate
from t2imu_utils.priors.solvers import Solver

MEASURES = ("features", "kinetics", "spectrum")
REAL, FULL = "real", "full sampling"
# Added to the seeds for the second full sample; requests number theirs from 0.
OTHER_SEEDS = 1_000_003

Features = Sequence[Float[np.ndarray, "T 263"]]


@dataclass(frozen=True, eq=False)
class Sampled:
    """Raw features of the same requests by full sampling, by it with other seeds, and by others.

    groups: the prompt of each motion. steps: evaluations of full sampling.
    """

    full: Features
    again: Features
    by_solver: Mapping[Solver, Features]
    groups: Sequence[str]
    steps: int


def sample_solvers(
    prior: Prior,
    requests: pd.DataFrame,
    solvers: Sequence[Solver],
    guidance: float,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Sampled:
    """Every request (columns ``prompt``, ``frames``, ``seed``) by each solver, twice in full."""
    prompts, frames, seeds = (requests[name].tolist() for name in ("prompt", "frames", "seed"))
    steps = prior.config.diffusion_steps
    for solver in solvers:
        solver.count(steps)

    def made(solver: Solver | None, shift: int = 0) -> list[np.ndarray]:
        moved = [seed + shift for seed in seeds]
        return generate(
            prior, prompts, frames, moved, guidance, batch_size, device, progress, solver
        )

    by_solver = {solver: made(solver) for solver in solvers}
    return Sampled(made(None), made(None, OTHER_SEEDS), by_solver, prompts, steps)


def _views(motions: Features, groups: Sequence, normaliser: Normaliser) -> dict[str, np.ndarray]:
    """What each measure compares; spectra weighted by the frames behind them."""
    code = codes(groups)
    if code.max() + 1 < FEWEST:
        raise InputError(
            "groups", f"{code.max() + 1} groups", f"at least {FEWEST}",
            "Compare more prompts, and more real recordings.",
        )  # fmt: skip
    joints = [features_to_joints(x).astype(np.float64) for x in motions]
    frames = np.array([len(x) for x in motions])[:, None]
    return {
        "code": code,
        "features": statistics(motions, normaliser) / np.sqrt(2 * len(normaliser.mean)),
        "kinetics": np.log(np.maximum([kinetics(x) for x in joints], STILL)),
        "spectrum": np.array([power_spectrum(x)[1] for x in joints]) * frames,
        "frames": frames,
    }


def _scaled(truth: dict, *others: dict) -> None:
    """Kinetics in standard deviations of real motions, per root number of dimensions."""
    spread = truth["kinetics"].std(0)
    for views in (truth, *others):
        views["kinetics"] = views["kinetics"] / np.where(spread > 0, spread, 1.0) / np.sqrt(9)


def _distance(measure: str, x, y, x_rows, y_rows, same_groups: bool) -> Float[np.ndarray, "D"]:
    if measure != "spectrum":
        pair = x[measure], y[measure], x["code"], y["code"]
        return energy_distance(*pair, x_rows, y_rows, same_groups)
    means = (rows @ v[measure] / (rows @ v["frames"]) for v, rows in ((x, x_rows), (y, y_rows)))
    return spectral_distance(*means)


def _excesses(found: dict, against, to: dict, rows, to_rows, same_groups: bool) -> pd.DataFrame:
    """A row for each set and measure: its distance, and by how much it is more than `against`'s."""
    table = []
    for measure in MEASURES:
        values = {
            k: _distance(measure, x, to, rows, to_rows, same_groups) for k, x in found.items()
        }
        for key, value in values.items():
            excess = value - values[against]
            low, high = interval(excess, centred=True)
            row = {"model": key, "measure": measure, "value": value[0], "excess": excess[0]}
            table.append(row | {"low": low, "high": high, "no_worse": bool(low <= 0)})
    return pd.DataFrame(table)


def distances_to_real(
    sets: Mapping[str, Features],
    groups: Sequence,
    real: Features,
    real_groups: Sequence,
    normaliser: Normaliser,
    against: str,
    seed: int = 0,
    draws: int = 400,
) -> pd.DataFrame:
    """How far each set of motions is from real ones, and how much farther than the set `against`.

    Arguments and columns as of `trade_off`, with ``model`` for the set's name; all sets are of the
    same requests, whose prompts are `groups`.
    """
    rng, truth = np.random.default_rng(seed), _views(real, real_groups, normaliser)
    found = {name: _views(motions, groups, normaliser) for name, motions in sets.items()}
    _scaled(truth, *found.values())
    (rows,), (real_rows,) = (halves(rng, draws, v["code"]) for v in (found[against], truth))
    return _excesses(found, against, truth, rows, real_rows, False)


def trade_off(
    sampled: Sampled,
    real: Features,
    real_groups: Sequence,
    normaliser: Normaliser,
    seed: int = 0,
    draws: int = 400,
) -> pd.DataFrame:
    """Distances of each solver's motions to real motion and to full sampling.

    Intervals (95 %) re-estimate on random halves of the groups (`stats.halves`), which are the
    same for all solvers.

    Args:
        real: raw features of held-out motions. real_groups: recordings that they were cut from.
        normaliser: statistics of the prior. draws: halves.

    Returns:
        A row for each sample, measure and ``to`` ("real", "full sampling"): ``solver``,
        ``evaluations``, ``seeds`` ("same", "other"), ``value``; ``excess``, the value less that of
        full sampling ("real") or of the second full sample ("full sampling"), with ``low`` and
        ``high``; ``no_worse``, whether the interval of the excess reaches down to 0.
    """
    ancestral = Solver().name
    sets = {(ancestral, sampled.steps, "same"): sampled.full}
    sets |= {(ancestral, sampled.steps, "other"): sampled.again}
    sets |= {(s.name, s.count(sampled.steps), "same"): x for s, x in sampled.by_solver.items()}
    full, again, *_ = sets
    found = {key: _views(x, sampled.groups, normaliser) for key, x in sets.items()}
    truth = _views(real, real_groups, normaliser)
    _scaled(truth, *found.values())
    rng = np.random.default_rng(seed)
    (rows,), (real_rows,) = (halves(rng, draws, v["code"]) for v in (found[full], truth))
    others = {key: x for key, x in found.items() if key != full}
    parts = [
        _excesses(found, full, truth, rows, real_rows, False).assign(to=REAL),
        _excesses(others, again, found[full], rows, rows, True).assign(to=FULL),
    ]
    table = pd.concat(parts, ignore_index=True)
    keys = pd.DataFrame(table.pop("model").tolist(), columns=["solver", "evaluations", "seeds"])
    return pd.concat([keys, table], axis=1)


def no_worse(table: pd.DataFrame) -> pd.DataFrame:
    """By solver and evaluations, fewest first: in which measures it is no worse than full sampling.

    Columns "<measure>, to <to>" of `trade_off`, "all, to real" and "all": True or False.
    """
    same = table[table["seeds"] == "same"]
    same = same.assign(what=same["measure"] + ", to " + same["to"])
    wide = same.pivot(index=["solver", "evaluations"], columns="what", values="no_worse")
    wide = wide.fillna(True).astype(bool)  # full sampling is not compared with itself
    wide[f"all, to {REAL}"] = wide[[f"{measure}, to {REAL}" for measure in MEASURES]].all(axis=1)
    wide["all"] = wide.all(axis=1)
    return wide.sort_index(level="evaluations", sort_remaining=False, kind="stable")
