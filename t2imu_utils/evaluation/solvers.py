"""What fewer evaluations cost: motions of each solver beside real ones and beside full sampling.

All solvers get the same prompts, lengths and seeds, so differences between them are paired by
prompt. The floor is a second full sample with other seeds: no solver can be told from full
sampling better than that one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from t2imu_utils.evaluation.motion_distance import (
    DISTANCES,
    MEASURES,
    PARTS,
    RATES,
    Described,
    Features,
    excess,
    kinetics,
)
from t2imu_utils.motion.features import Normaliser, features_to_joints
from t2imu_utils.priors.checkpoints import Prior
from t2imu_utils.priors.generate import generate
from t2imu_utils.priors.solvers import Solver

REAL, FULL = "real", "full sampling"
# Added to the seeds for the second full sample; requests number theirs from 0.
OTHER_SEEDS = 1_000_003


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
    """Every request (columns ``prompt``, ``frames``, ``seed``) by each solver, and twice in full.

    Raises:
        InputError: what `generate` refuses.
    """
    prompts, frames, seeds = (requests[name].tolist() for name in ("prompt", "frames", "seed"))
    steps = prior.config.diffusion_steps
    for solver in solvers:
        solver.count(steps)

    def made(solver: Solver | None, shift: int = 0) -> list[np.ndarray]:
        moved = [seed + shift for seed in seeds]
        return generate(
            prior, prompts, frames, moved, guidance, batch_size, device, progress, solver
        )

    return Sampled(
        made(None), made(None, OTHER_SEEDS), {solver: made(solver) for solver in solvers},
        prompts, steps,
    )  # fmt: skip


def trade_off(
    sampled: Sampled,
    real: Features,
    real_groups: Sequence,
    normaliser: Normaliser,
    seed: int = 0,
    draws: int = 400,
) -> pd.DataFrame:
    """Distances of each solver's motions to real motion and to full sampling (`motion_distance`).

    Intervals (95 %) re-estimate on random halves of the groups, as `similarity` does and for the
    same reason; the halves are the same for all solvers.

    Args:
        real: raw features of held-out motions. real_groups: recordings that they were cut from.
        normaliser: statistics of the prior. draws: halves.

    Returns:
        A row for each sample, measure and ``to`` ("real", "full sampling"): ``solver``,
        ``evaluations``, ``seeds`` ("same", "other"), ``value``; ``excess``, the value less that of
        full sampling ("real") or of the second full sample ("full sampling"), with ``low`` and
        ``high``; ``no_worse``, whether the interval of the excess reaches down to 0.

    Raises:
        InputError: fewer than four prompts or recordings, or groups of another number.
    """
    rng = np.random.default_rng(seed)
    rows = {(Solver().name, sampled.steps, "same"): sampled.full}
    rows |= {(Solver().name, sampled.steps, "other"): sampled.again}
    rows |= {(s.name, s.count(sampled.steps), "same"): x for s, x in sampled.by_solver.items()}
    full, again, *_ = rows
    found = {k: Described.of(x, sampled.groups, normaliser) for k, x in rows.items()}
    truth = Described.of(real, real_groups, normaliser)
    motions, clips = found[full].halves(draws, rng), truth.halves(draws, rng)
    table = []
    for measure in MEASURES:
        distance = DISTANCES[measure](truth)
        to_real = {k: distance(x, truth, motions, clips, False) for k, x in found.items()}
        to_full = {
            k: distance(x, found[full], motions, motions, True)
            for k, x in found.items()
            if k != full
        }
        for to, values, floor in ((REAL, to_real, full), (FULL, to_full, again)):
            for key, value in values.items():
                names = dict(zip(("solver", "evaluations", "seeds"), key, strict=True))
                row = names | {"measure": measure, "to": to, "value": value[0]}
                table.append(row | excess(value - values[floor]))
    return pd.DataFrame(table)


def kinetic_means(sampled: Sampled, real: Features) -> pd.DataFrame:
    """Mean speed, acceleration and jerk of each part of the body, a row for each sample."""
    sets = {("real", 0): real, (Solver().name, sampled.steps): sampled.full}
    sets |= {(s.name, s.count(sampled.steps)): x for s, x in sampled.by_solver.items()}
    columns = pd.MultiIndex.from_product([RATES, PARTS], names=["rate", "part"])
    rows = [np.mean([kinetics(features_to_joints(m)) for m in x], axis=0) for x in sets.values()]
    index = pd.MultiIndex.from_tuples(sets, names=["solver", "evaluations"])
    return pd.DataFrame(rows, index, columns)


def no_worse(table: pd.DataFrame) -> pd.DataFrame:
    """By solver and evaluations, fewest first: in which measures it is no worse than full sampling.

    Args:
        table: of `trade_off`.

    Returns:
        True or False; columns "<measure>, to <to>", "all, to real" and "all".
    """
    same = table[table["seeds"] == "same"]
    same = same.assign(what=same["measure"] + ", to " + same["to"])
    wide = same.pivot(index=["solver", "evaluations"], columns="what", values="no_worse")
    wide = wide.fillna(True).astype(bool)  # full sampling is not compared with itself
    wide[f"all, to {REAL}"] = wide[[f"{measure}, to {REAL}" for measure in MEASURES]].all(axis=1)
    wide["all"] = wide.all(axis=1)
    return wide.sort_index(level="evaluations", sort_remaining=False, kind="stable")
