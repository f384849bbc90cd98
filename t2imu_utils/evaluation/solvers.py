"""What fewer evaluations cost: motions of each solver beside real ones and beside full sampling.

All solvers get the same prompts, lengths and seeds, so differences between them are paired by
prompt. The floor is a second full sample with other seeds: no solver can be told from full
sampling better than that one. Three views of a motion: its 263 features, its kinetics, and the
spectrum of its acceleration, which is what sensors feel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist

from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.kinematics import FPS, power_spectrum, spectral_distance
from t2imu_utils.motion.features import features_to_joints
from t2imu_utils.motion.normalise import Normaliser
from t2imu_utils.priors.checkpoints import Prior
from t2imu_utils.priors.generate import generate
from t2imu_utils.priors.solvers import Solver

PARTS = {
    "legs": (1, 2, 4, 5, 7, 8, 10, 11),
    "trunk": (0, 3, 6, 9, 12, 13, 14, 15),
    "arms": (16, 17, 18, 19, 20, 21),
}
RATES = ("speed (m/s)", "acceleration (m/s²)", "jerk (m/s³)")
# Below this a body stands still; a logarithm would make much of what is nothing.
STILL = 1e-3
MEASURES = ("features", "kinetics", "spectrum")
REAL, FULL = "real", "full sampling"
# Added to the seeds for the second full sample; requests number theirs from 0.
OTHER_SEEDS = 1_000_003
TAILS = [2.5, 97.5]
FEWEST = 4

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


def kinetics(joints: Float[np.ndarray, "T 22 3"], fps: float = FPS) -> Float[np.ndarray, "9"]:
    """Mean length of velocity, acceleration and jerk (rows) of legs, trunk and arms (columns).

    Central differences over single frames, in m/s, m/s², m/s³; joints in metres.
    """
    rates = []
    for order in (1, 2, 3):
        length = np.linalg.norm(np.diff(joints, n=order, axis=0), axis=-1) * fps**order
        rates += [length[:, list(part)].mean() for part in PARTS.values()]
    return np.array(rates)


@dataclass(frozen=True, eq=False)
class _Described:
    """Numbers of each motion, and which motions are not independent of each other."""

    features: Float[np.ndarray, "n 526"]
    kinetics: Float[np.ndarray, "n 9"]
    spectra: Float[np.ndarray, "n F"]
    frames: Int[np.ndarray, "n"]
    code: Int[np.ndarray, "n"] = field(repr=False)

    @classmethod
    def of(cls, motions: Features, groups: Sequence, normaliser: Normaliser) -> "_Described":
        if len(groups) != len(motions):
            raise InputError(
                "groups", f"{len(groups)} for {len(motions)} motions", "one for each", "Name each."
            )
        code = np.unique(np.asarray(groups), return_inverse=True)[1]
        if not len(code) or code.max() + 1 < FEWEST:
            raise InputError(
                "groups", f"{len(set(groups))} groups", f"at least {FEWEST}",
                "Compare more prompts, and more real recordings.",
            )  # fmt: skip
        scaled = [normaliser.normalise(np.asarray(x, dtype=np.float64)) for x in motions]
        joints = [features_to_joints(x).astype(np.float64) for x in motions]
        return cls(
            np.stack([np.concatenate([x.mean(0), x.std(0)]) for x in scaled]),
            np.stack([kinetics(x) for x in joints]),
            np.stack([power_spectrum(x)[1] for x in joints]),
            np.array([len(x) for x in motions]),
            code,
        )

    def halves(self, draws: int, rng: np.random.Generator) -> Float[np.ndarray, "D n"]:
        """All motions, then random halves of the groups."""
        groups = self.code.max() + 1
        chosen = np.zeros((1 + draws, groups))
        chosen[0] = 1
        for row in chosen[1:]:
            row[rng.permutation(groups)[: groups // 2]] = 1
        return chosen[:, self.code]


def trade_off(
    sampled: Sampled,
    real: Features,
    real_groups: Sequence,
    normaliser: Normaliser,
    seed: int = 0,
    draws: int = 400,
) -> pd.DataFrame:
    """Distances of each solver's motions to real motion and to full sampling, in three views.

    ``features``: energy distance (Székely & Rizzo 2013) of the means and standard deviations over
    frames of the normalised features. ``kinetics``: energy distance of the logarithms of
    `kinetics`, in standard deviations of real motions. Both per root number of dimensions, and
    without pairs in one group, so unbiased: they may fall slightly below zero. ``spectrum``:
    log-spectral distance of the mean acceleration spectra, dB.

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
    found = {k: _Described.of(x, sampled.groups, normaliser) for k, x in rows.items()}
    truth = _Described.of(real, real_groups, normaliser)
    motions, clips = found[full].halves(draws, rng), truth.halves(draws, rng)
    table = []
    for measure in MEASURES:
        distance = _MEASURES[measure](truth)
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
                table.append(row | _excess(value - values[floor]))
    return pd.DataFrame(table)


def _excess(drawn: Float[np.ndarray, "D"]) -> dict[str, float | bool]:
    # Halves drawn without replacement spread as the whole sample does (`similarity`).
    low, high = np.percentile(drawn[1:] - drawn[1:].mean(), TAILS) + drawn[0]
    return {"excess": drawn[0], "low": low, "high": high, "no_worse": bool(low <= 0)}


def _mean(pairs, apart, left, right) -> Float[np.ndarray, "D"]:
    """Mean over pairs of different groups, of the motions that rows of left and right choose."""
    total = ((left @ (pairs * apart)) * right).sum(1)
    return total / ((left @ apart) * right).sum(1)


def _energy(view):
    """Energy distance of what `view` makes of a set."""

    def distance(x: _Described, y: _Described, of_x, of_y, paired: bool):
        a, b = view(x), view(y)
        apart = {
            "x": x.code[:, None] != x.code,
            "y": y.code[:, None] != y.code,
            # Motions of one prompt resemble each other whatever made them.
            "xy": x.code[:, None] != y.code if paired else np.ones((len(a), len(b))),
        }
        between = _mean(cdist(a, b), apart["xy"], of_x, of_y)
        within = (
            _mean(cdist(a, a), apart["x"], of_x, of_x),
            _mean(cdist(b, b), apart["y"], of_y, of_y),
        )
        return (2 * between - sum(within)) / np.sqrt(a.shape[1])

    return distance


def _of_features(truth: _Described):
    return _energy(lambda x: x.features)


def _of_kinetics(truth: _Described):
    def log(x: _Described):
        return np.log(np.maximum(x.kinetics, STILL))

    scale = log(truth).std(0)
    scale = np.where(scale > 0, scale, 1.0)
    return _energy(lambda x: log(x) / scale)


def _of_spectra(truth: _Described):
    def mean(x: _Described, chosen):
        weights = chosen * x.frames
        return (weights @ x.spectra) / weights.sum(1, keepdims=True)

    def distance(x: _Described, y: _Described, of_x, of_y, paired: bool):
        pairs = zip(mean(x, of_x), mean(y, of_y), strict=True)
        return np.array([spectral_distance(p, q) for p, q in pairs])

    return distance


_MEASURES = {"features": _of_features, "kinetics": _of_kinetics, "spectrum": _of_spectra}


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
