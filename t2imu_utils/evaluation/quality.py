"""How unusual a generated motion moves, to leave the worst out before a classifier is trained.

The paper's outlook asks for quality control of generated motions. The score here is of the motion
alone and of *training* motions of its category: no recording of a real sensor takes part, so the
filter cannot be fitted to what a classifier is tested on.

A motion is 14 numbers: the logarithms of its speed, acceleration and jerk in legs, trunk and arms
(`motion_distance.kinetics`), of its sliding feet (`kinematics.foot_skate`) and of the power of its
acceleration in four bands. Its score is the Mahalanobis distance to the median of real motions of
the category, with one covariance for all categories, as for the detection of what a network has not
been trained on (Lee et al., NeurIPS 2018): some categories have too few clips for one of their own.
Of a category without any training clip it is, as there, the distance to the nearest category. The
covariance is that of Ledoit & Wolf (2004), of deviations that are cut off at `FARTHEST`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from sklearn.covariance import LedoitWolf

from t2imu_utils.activities import category_of
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.kinematics import FPS, SHORTEST, foot_skate, power_spectrum
from t2imu_utils.evaluation.motion_distance import PARTS, STILL, kinetics
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.motion.features import features_to_joints

BANDS = ((0.5, 1.0), (1.5, 2.5), (3.0, 5.0), (5.5, 10.0))  # Hz, of bins that are 0.5 Hz apart
QUIET = 1e-4  # (m/s²)²/Hz: below what motion capture resolves
FEATURES = (
    *(f"{rate} {part}" for rate in ("speed", "acceleration", "jerk") for part in PARTS),
    "foot skate",
    *(f"{low:g}-{high:g} Hz" for low, high in BANDS),
)
# Real clips are cut to pieces of about this many frames: a mean over a longer time scatters less.
PIECE = 100
MOST = 300  # clips of a category; the rest adds time and no knowledge
FARTHEST = 4.0  # robust standard deviations
FEWEST = 4  # pieces, of all categories together; shrinkage does with few
TO_SD = 1.4826  # from the median absolute deviation of a normal variable
TAIL = 0.95


def motion_features(
    joints: Float[np.ndarray, "T 22 3"], fps: float = FPS
) -> Float[np.ndarray, "P"]:
    """The numbers named in `FEATURES`, natural logarithms; NaN for feet that are never grounded.

    Args:
        joints: metres, Y up, at least four frames.
    """
    joints = np.asarray(joints, dtype=np.float64)
    frequency, power = power_spectrum(joints, fps)
    bands = [power[(frequency >= low) & (frequency <= high)].mean() for low, high in BANDS]
    rates = np.maximum([*kinetics(joints, fps), foot_skate(joints, fps)], STILL)
    return np.log(np.concatenate([rates, np.maximum(bands, QUIET)]))


@dataclass(frozen=True, eq=False)
class Reference:
    """Where real training motions lie.

    Attributes:
        centre: by category, the median of its motions, (P,).
        scale: robust standard deviation of each feature within a category.
        precision: inverse covariance of scaled deviations.
        real: by category, the scores of its own motions.
    """

    centre: dict[str, Float[np.ndarray, "P"]]
    scale: Float[np.ndarray, "P"]
    precision: Float[np.ndarray, "P P"]
    real: dict[str, Float[np.ndarray, "n"]]

    def score(self, features: Float[np.ndarray, "n P"], category: str) -> Float[np.ndarray, "n"]:
        """Distances of motions to a category, about 1 for real ones; to the nearest one where
        training has no such category."""
        names = [category] if category in self.centre else list(self.centre)
        apart = [
            _distance((features - self.centre[name]) / self.scale, self.precision) for name in names
        ]
        return np.min(apart, axis=0)


def _distance(deviations, precision) -> Float[np.ndarray, "n"]:
    # An unknown number says neither good nor bad.
    known = np.nan_to_num(deviations)
    squared = np.einsum("np,pq,nq->n", known, precision, known)
    return np.sqrt(squared / len(precision))


def fit_reference(clips: Sequence[MotionClip], category: pd.Series, seed: int = 0) -> Reference:
    """Learn where real motions lie.

    Args:
        clips: of the training split, and of nothing else. category: by clip name.
        seed: of the choice of clips in categories that have more than `MOST`.

    Raises:
        InputError: fewer than `FEWEST` pieces of motion.
    """
    found: dict[str, list[np.ndarray]] = {}
    rng = np.random.default_rng(seed)
    for index in rng.permutation(len(clips)):
        found.setdefault(category[clips[index].name], []).append(clips[index].features)
    described = {
        name: np.stack(
            [motion_features(p) for features in motions[:MOST] for p in _pieces(features)]
        )
        for name, motions in sorted(found.items())
    }
    count = sum(map(len, described.values()))
    if count < FEWEST:
        raise InputError(
            "quality: training clips", f"{count} pieces of motion", f"at least {FEWEST}",
            "Give the training split of the track's corpus.",
        )  # fmt: skip
    centre = {name: np.nanmedian(rows, axis=0) for name, rows in described.items()}
    apart = {name: rows - centre[name] for name, rows in described.items()}
    together = np.concatenate(list(apart.values()))
    scale = TO_SD * np.nanmedian(np.abs(together), axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    near = np.clip(np.nan_to_num(together / scale), -FARTHEST, FARTHEST)
    precision = LedoitWolf(assume_centered=True).fit(near).precision_
    real = {name: _distance(rows / scale, precision) for name, rows in apart.items()}
    return Reference(centre, scale, precision, real)


def _pieces(features: Float[np.ndarray, "T 263"]) -> list[Float[np.ndarray, "t 22 3"]]:
    joints = features_to_joints(features)
    pieces = np.array_split(joints, max(1, round(len(joints) / PIECE)))
    return [piece for piece in pieces if len(piece) >= SHORTEST]


def score_motions(motions: Clips, reference: Reference) -> pd.DataFrame:
    """The score of every motion; the lower, the more like real motion of its category.

    Args:
        motions: array ``joints`` (F, 22, 3) in metres; column ``activity`` and perhaps ``motion``.

    Returns:
        A row a motion, in order: ``motion`` (its number, as virtual sensors have it), ``activity``,
        ``category``, ``score``.
    """
    number = motions.table.get("motion", pd.Series(range(len(motions))))
    table = pd.DataFrame({"motion": number, "activity": motions.table["activity"]})
    table["category"] = table["activity"].map(category_of)
    features = np.stack([motion_features(joints) for joints in motions.each("joints")])
    table["score"] = np.nan
    for name, rows in table.groupby("category").indices.items():
        table.loc[rows, "score"] = reference.score(features[rows], name)
    return table


def best(scores: pd.DataFrame, share: float) -> Bool[np.ndarray, "n"]:
    """Which motions are the best share of their activity, so that classes keep their balance.

    A smaller share is part of a larger one. Of equal scores the lower number of a motion is kept.

    Args:
        scores: of `score_motions`. share: more than 0, at most 1; rounded up to whole motions.

    Raises:
        InputError: a share out of range.
    """
    if not 0 < share <= 1:
        raise InputError("share", str(share), "more than 0 and at most 1", "Choose another.")
    order = scores.reset_index(drop=True).sort_values(["score", "motion"], kind="stable")
    place = order.groupby("activity").cumcount().sort_index().to_numpy()
    count = scores.groupby("activity")["score"].transform("size").to_numpy()
    # 0.1 of 30 is 3, whatever the binary fraction says.
    return place < np.ceil(share * count - 1e-9)


def by_activity(scores: pd.DataFrame, reference: Reference) -> pd.DataFrame:
    """Scores of each activity beside those of real training motions.

    Returns:
        A row for each activity: ``motions``, ``median`` and ``worst`` of their scores; ``real``
        (the number of training pieces) with their ``real median``, and "outside (%)", the share of
        motions that are farther out than 95 % of the real ones; NaN where there are none.
    """
    rows = {}
    for (activity, category), part in scores.groupby(["activity", "category"], sort=True):
        real = reference.real.get(category, np.empty(0))
        row = {"motions": len(part), "median": part["score"].median(), "worst": part["score"].max()}
        row |= {"real": len(real), "real median": np.median(real) if len(real) else np.nan}
        outside = (part["score"] > np.quantile(real, TAIL)).mean() if len(real) else np.nan
        rows[activity] = row | {"outside (%)": 100 * outside}
    return pd.DataFrame(rows).T.astype({"motions": int, "real": int}).rename_axis("activity")
