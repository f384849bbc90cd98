"""How far sets of motions lie apart: three views of a motion, and a distance in each.

``features``: energy distance (Székely & Rizzo 2013) of the means and standard deviations over
frames of the normalised features. ``kinetics``: energy distance of the logarithms of `kinetics`, in
standard deviations of real motions. Both per root number of dimensions, and without pairs in one
group, so unbiased: they may fall slightly below zero. ``spectrum``: log-spectral distance of the
mean acceleration spectra, dB; it is what sensors feel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist

from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.kinematics import FPS, power_spectrum, spectral_distance
from t2imu_utils.motion.features import Normaliser, features_to_joints

PARTS = {
    "legs": (1, 2, 4, 5, 7, 8, 10, 11),
    "trunk": (0, 3, 6, 9, 12, 13, 14, 15),
    "arms": (16, 17, 18, 19, 20, 21),
}
RATES = ("speed (m/s)", "acceleration (m/s²)", "jerk (m/s³)")
# Below this a body stands still; a logarithm would make much of what is nothing.
STILL = 1e-3
MEASURES = ("features", "kinetics", "spectrum")
TAILS = [2.5, 97.5]
FEWEST = 4

Features = Sequence[Float[np.ndarray, "T 263"]]


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
class Described:
    """Numbers of each motion, and which motions are not independent of each other.

    `Described.of` makes it of raw features, the group of each motion (its prompt or recording) and
    statistics for scaling.
    """

    features: Float[np.ndarray, "n 526"]
    kinetics: Float[np.ndarray, "n 9"]
    spectra: Float[np.ndarray, "n F"]
    frames: Int[np.ndarray, "n"]
    code: Int[np.ndarray, "n"] = field(repr=False)

    @classmethod
    def of(cls, motions: Features, groups: Sequence, normaliser: Normaliser) -> "Described":
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

    def halves(self, draws: int, rng: np.random.Generator) -> Float[np.ndarray, "1+D n"]:
        """Which motions count, 0 or 1: all of them, then random halves of the groups."""
        groups = self.code.max() + 1
        chosen = np.zeros((1 + draws, groups))
        chosen[0] = 1
        for row in chosen[1:]:
            row[rng.permutation(groups)[: groups // 2]] = 1
        return chosen[:, self.code]


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
    """How far each set is from real motion, and by how much farther than the set `against`.

    Args:
        sets: raw features by name, all of the same requests. groups: prompt of each request.
        real: raw features of held-out motions. real_groups: recordings that they were cut from.
        normaliser: statistics for scaling, the same for all sets.
        draws: random halves of the groups, the same for all sets, of which intervals (95 %) are
            made as `similarity` does.

    Returns:
        A row for each set and measure: ``model``, ``measure``, ``value``; ``excess`` over
        `against`, with ``low`` and ``high``; ``no_worse``, whether the interval reaches down to 0.

    Raises:
        InputError: fewer than four groups, or groups of another number.
    """
    rng = np.random.default_rng(seed)
    found = {name: Described.of(motions, groups, normaliser) for name, motions in sets.items()}
    truth = Described.of(real, real_groups, normaliser)
    chosen, clips = found[against].halves(draws, rng), truth.halves(draws, rng)
    rows = []
    for measure in MEASURES:
        distance = DISTANCES[measure](truth)
        values = {name: distance(x, truth, chosen, clips, False) for name, x in found.items()}
        for name, value in values.items():
            row = {"model": name, "measure": measure, "value": value[0]}
            rows.append(row | excess(value - values[against]))
    return pd.DataFrame(rows)


def excess(drawn: Float[np.ndarray, "D"]) -> dict[str, float | bool]:
    """The first value, the interval that the others give, and whether that reaches down to 0."""
    # Halves drawn without replacement spread as the whole sample does (`similarity`).
    low, high = np.percentile(drawn[1:] - drawn[1:].mean(), TAILS) + drawn[0]
    return {"excess": drawn[0], "low": low, "high": high, "no_worse": bool(low <= 0)}


def _mean(pairs, apart, left, right) -> Float[np.ndarray, "D"]:
    """Mean over pairs of different groups, of the motions that rows of left and right choose."""
    total = ((left @ (pairs * apart)) * right).sum(1)
    return total / ((left @ apart) * right).sum(1)


def _energy(view):
    """Energy distance of what `view` makes of a set."""

    def distance(x: Described, y: Described, of_x, of_y, paired: bool):
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


def _of_features(truth: Described):
    return _energy(lambda x: x.features)


def _of_kinetics(truth: Described):
    def log(x: Described):
        return np.log(np.maximum(x.kinetics, STILL))

    scale = log(truth).std(0)
    scale = np.where(scale > 0, scale, 1.0)
    return _energy(lambda x: log(x) / scale)


def _of_spectra(truth: Described):
    def mean(x: Described, chosen):
        weights = chosen * x.frames
        return (weights @ x.spectra) / weights.sum(1, keepdims=True)

    def distance(x: Described, y: Described, of_x, of_y, paired: bool):
        pairs = zip(mean(x, of_x), mean(y, of_y), strict=True)
        return np.array([spectral_distance(p, q) for p, q in pairs])

    return distance


DISTANCES = {"features": _of_features, "kinetics": _of_kinetics, "spectrum": _of_spectra}
