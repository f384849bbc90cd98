"""How much motions differ from each other: diversity and multimodality (Guo et al. 2020).

Action2Motion (doi:10.1145/3394171.3413635) takes the mean distance of random pairs of motions, in
features of a network that was trained to recognise actions. Here all pairs are taken, which leaves
nothing to chance, and a motion is described without a network: by mean and standard deviation over
frames of its normalised features. So values compare with each other, not with those of papers.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist, pdist

from t2imu_utils.motion.features import Normaliser


def describe(
    motions: Sequence[Float[np.ndarray, "T 263"]], normaliser: Normaliser
) -> Float[np.ndarray, "n 526"]:
    """Mean and standard deviation over frames of each motion's normalised features."""
    scaled = [normaliser.normalise(np.asarray(x, dtype=np.float64)) for x in motions]
    return np.stack([np.concatenate([x.mean(0), x.std(0)]) for x in scaled])


def diversity(x: Float[np.ndarray, "n D"], category: Sequence[str]) -> float:
    """Mean distance between two different motions, their categories drawn evenly.

    Prompts and recordings hold different shares of each category; drawn evenly, they compare.
    A category with one motion has no pair of its own, and counts with those of others only.
    """
    parts = _parts(x, category)
    means = [_within(part) for part in parts]
    means += [
        cdist(first, second).mean()
        for at, first in enumerate(parts)
        for second in parts[:at]
        for _ in range(2)  # either may be drawn first
    ]
    return _mean(means)


def within(x: Float[np.ndarray, "n D"], label: Sequence) -> float:
    """Mean distance between two motions of one label, all labels with two or more alike.

    With prompts for labels it is multimodality as for texts (Guo et al. 2022), with categories as
    Action2Motion has it. NaN where no label has two motions.
    """
    return _mean([_within(part) for part in _parts(x, label)])


def _parts(x: Float[np.ndarray, "n D"], label: Sequence) -> list[np.ndarray]:
    label = np.asarray(label)
    return [x[label == name] for name in dict.fromkeys(label.tolist())]


def _within(part: np.ndarray) -> float:
    return float(pdist(part).mean()) if len(part) > 1 else np.nan


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
