"""Do sampled motions move like real ones? Categories, kinematics, variety and a score of quality.

Joints are (T, 22, 3) in metres, Y up, 20 fps. Differences are over single frames, so the second
passes ``sinc(f / fps)**2`` of a sine's true acceleration: compare only motions of one frame rate.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.spatial.distance import cdist, pdist
from sklearn.covariance import LedoitWolf

from t2imu_utils.activities import CATEGORIES, CATEGORY_THRESHOLD, HIGH_DYNAMIC, category_of
from t2imu_utils.analysis.spectra import ALL, FPS, mean_spectrum, power_spectrum, spectral_distance
from t2imu_utils.analysis.stats import FEWEST
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.motion.features import features_to_joints
from t2imu_utils.motion.normalise import Normaliser
from t2imu_utils.motion.skeleton import FEET
from t2imu_utils.priors.text import sentence_embeddings
from t2imu_utils.runs import REAL

OTHER = "other"
NAMED = tuple(name for name in CATEGORIES if name != OTHER)
SHORTEST = 4  # frames, for a third difference
CONTACT_HEIGHT = 0.03  # m over the lowest point of the clip: a foot joint is on the ground
MEASURES = ("mean_abs_acceleration", "mean_abs_jerk", "foot_skate")
PARTS = {
    "legs": (1, 2, 4, 5, 7, 8, 10, 11),
    "trunk": (0, 3, 6, 9, 12, 13, 14, 15),
    "arms": (16, 17, 18, 19, 20, 21),
}
# Below this (m/s and its derivatives) a body stands still; a logarithm would make much of nothing.
STILL = 1e-3

Motions = dict[str, list[np.ndarray]]  # joints of each motion, by category
Embed = Callable[[list[str]], Float[np.ndarray, "B W"]]


# ---------------------------------------------------------------- categories of sentences
def category_similarity(
    sentences: Sequence[str], embed: Embed = sentence_embeddings
) -> pd.DataFrame:
    """Cosine similarity of each sentence (row) to the name of each named category (column)."""
    vectors, names = np.asarray(embed(list(sentences))), np.asarray(embed(list(NAMED)))
    return pd.DataFrame(vectors @ names.T, columns=list(NAMED))


def categorise(
    captions: Sequence[Sequence[str]],
    threshold: float = CATEGORY_THRESHOLD,
    embed: Embed = sentence_embeddings,
) -> pd.DataFrame:
    """Assign each clip to the category whose name is nearest in meaning (Section III-D).

    Captions and category names are embedded by all-MiniLM-L6-v2 and compared by cosine. The paper
    speaks of "every sample text" and leaves open what a clip with several texts gets: here their
    similarities are averaged before the best category is taken, so that one odd sentence out of
    three does not decide. A best score that does not exceed `threshold` (tau of the paper) makes
    the clip "other".

    Returns:
        One row a clip: ``category``, ``score`` (of the best named category, also where the clip
        became "other"), ``nearest`` (that category) and ``high_dynamic``.

    Raises:
        InputError: a clip without text.
    """
    captions = [[text for text in texts if text.strip()] for texts in captions]
    if empty := [index for index, texts in enumerate(captions) if not texts]:
        raise InputError(
            f"captions: clip {empty[0]}", "no sentence", "at least one",
            "Give every clip its text, or leave the clip out.",
        )  # fmt: skip
    sentences = sorted({text for texts in captions for text in texts})
    row = {text: index for index, text in enumerate(sentences)}
    similarity = category_similarity(sentences, embed).to_numpy()
    scores = np.array([similarity[[row[t] for t in texts]].mean(0) for texts in captions])
    scores = scores.reshape(-1, len(NAMED))
    nearest, score = np.array(NAMED)[scores.argmax(1)], scores.max(1)
    category = np.where(score > threshold, nearest, OTHER)
    high = np.isin(category, HIGH_DYNAMIC)
    columns = {"category": category, "score": score, "nearest": nearest, "high_dynamic": high}
    return pd.DataFrame(columns)


# ---------------------------------------------------------------- kinematics
def mean_difference(joints: Float[np.ndarray, "T J 3"], order: int) -> Float[np.ndarray, "J"]:
    """Length of the velocity (1, m/s), acceleration (2) or jerk (3) of each joint, over frames."""
    joints = np.asarray(joints, dtype=np.float64)
    return np.linalg.norm(np.diff(joints, n=order, axis=0) * FPS**order, axis=-1).mean(0)


def mean_abs_acceleration(joints: Float[np.ndarray, "T J 3"]) -> float:
    """Length of the acceleration vector, averaged over frames and joints, m/s²."""
    return float(mean_difference(joints, 2).mean())


def mean_abs_jerk(joints: Float[np.ndarray, "T J 3"]) -> float:
    """Length of the third difference, averaged over frames and joints, m/s³."""
    return float(mean_difference(joints, 3).mean())


def foot_skate(joints: Float[np.ndarray, "T 22 3"]) -> float:
    """Mean horizontal speed of ankles and toes while they are on the ground, m/s.

    A foot joint counts as grounded between two frames when in both it is within `CONTACT_HEIGHT`
    of the lowest point that it reaches in the clip. The test is blind to speed, unlike HumanML3D's
    contact channels, so that a sliding foot cannot lift its own sliding out of the measure. NaN
    when no foot joint is ever grounded for two frames.
    """
    feet = np.asarray(joints, dtype=np.float64)[:, list(FEET)]
    low = feet[..., 1] < feet[..., 1].min(0) + CONTACT_HEIGHT
    grounded = low[1:] & low[:-1]
    speed = np.linalg.norm(np.diff(feet[..., [0, 2]], axis=0), axis=-1) * FPS
    return float(speed[grounded].mean()) if grounded.any() else float("nan")


def kinetics(joints: Float[np.ndarray, "T 22 3"]) -> Float[np.ndarray, "9"]:
    """Mean length of velocity, acceleration and jerk (rows) of legs, trunk and arms (columns)."""
    each = [mean_difference(joints, order) for order in (1, 2, 3)]
    return np.array([rate[list(part)].mean() for rate in each for part in PARTS.values()])


# ---------------------------------------------------------------- sets of motions by category
def real_motions(clips: Sequence[MotionClip], category: pd.Series) -> Motions:
    """Joints of corpus clips by category; `category` is indexed by clip name."""
    return _by_category(
        [category[clip.name] for clip in clips], (features_to_joints(c.features) for c in clips)
    )


def sampled_motions(motions: Clips) -> Motions:
    """Joints of sampled motions by the category of the activity that was asked for."""
    return _by_category(map(category_of, motions.table["activity"]), motions.each("joints"))


def _by_category(categories, joints) -> Motions:
    found: Motions = defaultdict(list)
    for category, own in zip(categories, joints, strict=True):
        found[category].append(own)
    return {name: found[name] for name in CATEGORIES if name in found}


def shared(sets: dict[str, Motions]) -> dict[str, Motions]:
    """The categories that real motion and any model have, of each set those that it has.

    A model that was asked for fewer of them, as motions of another project may have been, takes
    none away from the others.
    """
    asked = {c for name, motions in sets.items() if name != REAL for c in motions}
    names = [c for c in CATEGORIES if c in asked and c in sets[REAL]]
    return {name: {c: motions[c] for c in names if c in motions} for name, motions in sets.items()}


def missing(sets: dict[str, Motions]) -> dict[str, list[str]]:
    """The categories that each incomplete set of `shared` has no motion of."""
    absent = {name: [c for c in sets[REAL] if c not in own] for name, own in sets.items()}
    return {name: categories for name, categories in absent.items() if categories}


def compare(sets: dict[str, Motions]) -> pd.DataFrame:
    """A row for each set and category: n, the three measures, distance of the spectrum to real.

    In "all" each category counts the same, since prompts and corpus weigh them differently. A set
    that lacks some has no means there: they would tell which categories it has, and not how it
    moves.

    Args:
        sets: "real" and any number of models, as `shared` leaves them.

    Returns:
        Columns ``model``, ``category``, ``n``, those of `MEASURES` and ``spectral_distance`` (dB,
        0 for real motion itself); in "all" NaN for the sets in `missing`.
    """
    functions = dict(zip(MEASURES, (mean_abs_acceleration, mean_abs_jerk, foot_skate), strict=True))
    rows = []
    for model, motions in sets.items():
        for category, joints in motions.items():
            spectra = mean_spectrum(joints)[1], mean_spectrum(sets[REAL][category])[1]
            row = {"model": model, "category": category, "n": len(joints)}
            for name, measure in functions.items():
                row[name] = pd.Series([measure(each) for each in joints]).mean()
            rows.append(row | {"spectral_distance": float(spectral_distance(*spectra))})
    table, measures = pd.DataFrame(rows), [*MEASURES, "spectral_distance"]
    total = table.groupby("model", sort=False).agg({"n": "sum"} | dict.fromkeys(measures, "mean"))
    total = total.reindex(pd.Index(sets, name="model"))
    total["n"] = total["n"].fillna(0).astype(int)
    total.loc[list(missing(sets)), measures] = np.nan
    return pd.concat([table, total.reset_index().assign(category=ALL)], ignore_index=True)


def motion_spectra(sets: dict[str, Motions]) -> pd.DataFrame:
    """Power of the joints' acceleration by frequency, for all joints and for `PARTS` of them.

    Returns:
        Columns ``model``, ``category``, ``part`` ("all" or one of `PARTS`), ``frequency`` (Hz,
        without 0) and ``density`` ((m/s²)²/Hz).
    """
    rows, total = [], sum(len(joints) for joints in PARTS.values())
    for model, motions in sets.items():
        for category, own in motions.items():
            whole = 0.0
            for part, joints in PARTS.items():
                frequency, density = mean_spectrum([x[:, list(joints)] for x in own])
                whole = whole + density * len(joints) / total
                rows.append((model, category, part, frequency[1:], density[1:]))
            rows.append((model, category, ALL, frequency[1:], whole[1:]))
    table = pd.DataFrame(rows, columns=["model", "category", "part", "frequency", "density"])
    numbers = {"frequency": float, "density": float}
    return table.explode(list(numbers), ignore_index=True).astype(numbers)


# ---------------------------------------------------------------- variety
def statistics(
    motions: Sequence[Float[np.ndarray, "T 263"]], normaliser: Normaliser
) -> Float[np.ndarray, "n 526"]:
    """Mean and standard deviation over frames of each motion's normalised features."""
    scaled = [normaliser.normalise(np.asarray(x, dtype=np.float64)) for x in motions]
    return np.stack([np.concatenate([x.mean(0), x.std(0)]) for x in scaled])


def diversity(x: Float[np.ndarray, "n D"], category: Sequence[str]) -> float:
    """Mean distance between two different motions, their categories drawn evenly.

    After Action2Motion (Guo et al. 2020, doi:10.1145/3394171.3413635), which draws random pairs
    and describes motions by a network that recognises actions. Here all pairs are taken, and a
    motion is its `statistics`, so values compare with each other, not with those of papers.
    """
    parts = _parts(x, category)
    means = [_within(part) for part in parts]
    means += 2 * [cdist(a, b).mean() for at, a in enumerate(parts) for b in parts[:at]]
    return float(pd.Series(means).mean())


def diversity_within(x: Float[np.ndarray, "n D"], label: Sequence) -> float:
    """Mean distance between two motions of one label, all labels with two or more alike.

    With prompts for labels it is multimodality as for texts (Guo et al. 2022), with categories as
    Action2Motion has it. NaN where no label has two motions.
    """
    return float(pd.Series([_within(part) for part in _parts(x, label)]).mean())


def _parts(x: Float[np.ndarray, "n D"], label: Sequence) -> list[np.ndarray]:
    label = np.asarray(label)
    return [x[label == name] for name in dict.fromkeys(label.tolist())]


def _within(part: np.ndarray) -> float:
    return float(pdist(part).mean()) if len(part) > 1 else np.nan


# ---------------------------------------------------------------- quality
# A motion is 14 numbers: logarithms of `kinetics`, of `foot_skate` and of power in four bands.
BANDS = ((0.5, 1.0), (1.5, 2.5), (3.0, 5.0), (5.5, 10.0))  # Hz, of bins that are 0.5 Hz apart
QUIET = 1e-4  # (m/s²)²/Hz: below what motion capture resolves
# Real clips are cut to pieces of about this many frames: a mean over a longer time scatters less.
PIECE = 100
MOST = 300  # clips of a category; the rest adds time and no knowledge
FARTHEST = 4.0  # robust standard deviations
TO_SD = 1.4826  # from the median absolute deviation of a normal variable


def quality_features(joints: Float[np.ndarray, "T 22 3"]) -> Float[np.ndarray, "P"]:
    """Natural logarithms; NaN for feet that are never grounded."""
    frequency, power = power_spectrum(joints)
    bands = [power[(frequency >= low) & (frequency <= high)].mean() for low, high in BANDS]
    rates = np.maximum([*kinetics(joints), foot_skate(joints)], STILL)
    return np.log(np.concatenate([rates, np.maximum(bands, QUIET)]))


@dataclass(frozen=True, eq=False)
class Reference:
    """Where real training motions lie: the median of each category, a robust scale within them,
    and the inverse covariance of scaled deviations."""

    centre: dict[str, Float[np.ndarray, "P"]]
    scale: Float[np.ndarray, "P"]
    precision: Float[np.ndarray, "P P"]

    def score(self, features: Float[np.ndarray, "n P"], category: str) -> Float[np.ndarray, "n"]:
        """Mahalanobis distances to a category, about 1 for real motions; to the nearest one where
        training has no such category. An unknown number (NaN) says neither good nor bad."""
        names, apart = [category] if category in self.centre else list(self.centre), []
        for name in names:
            known = np.nan_to_num((features - self.centre[name]) / self.scale)
            squared = np.einsum("np,pq,nq->n", known, self.precision, known)
            apart.append(np.sqrt(squared / len(self.scale)))
        return np.min(apart, axis=0)


def fit_reference(clips: Sequence[MotionClip], category: pd.Series, seed: int = 0) -> Reference:
    """Learn where real motions lie, as for the detection of what a network has not been trained on
    (Lee et al., NeurIPS 2018): one covariance for all categories, since some have too few clips,
    by Ledoit & Wolf (2004), of deviations that are cut off at `FARTHEST`.

    Args:
        clips: of the training split, and of nothing else: no recording of a sensor takes part, so
            the score cannot be fitted to what a classifier is tested on.
        category: by clip name. seed: of the choice of clips where a category has more than `MOST`.
    """
    found: dict[str, list[np.ndarray]] = {}
    for index in np.random.default_rng(seed).permutation(len(clips)):
        found.setdefault(category[clips[index].name], []).append(clips[index].features)
    described = {
        name: np.stack([quality_features(p) for x in motions[:MOST] for p in _pieces(x)])
        for name, motions in sorted(found.items())
    }
    if sum(map(len, described.values())) < FEWEST:
        raise InputError(
            "quality: training clips", f"{len(clips)} clips", f"at least {FEWEST} pieces of motion",
            "Give the training split of the track's corpus.",
        )  # fmt: skip
    centre = {name: np.nanmedian(rows, axis=0) for name, rows in described.items()}
    apart = np.concatenate([rows - centre[name] for name, rows in described.items()])
    scale = TO_SD * np.nanmedian(np.abs(apart), axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    near = np.clip(np.nan_to_num(apart / scale), -FARTHEST, FARTHEST)
    return Reference(centre, scale, LedoitWolf(assume_centered=True).fit(near).precision_)


def _pieces(features: Float[np.ndarray, "T 263"]) -> list[Float[np.ndarray, "t 22 3"]]:
    joints = features_to_joints(features)
    pieces = np.array_split(joints, max(1, round(len(joints) / PIECE)))
    return [piece for piece in pieces if len(piece) >= SHORTEST]


def score_motions(motions: Clips, reference: Reference) -> pd.DataFrame:
    """The score of every motion; the lower, the more like real motion of its category.

    Args:
        motions: array ``joints`` (F, 22, 3) in metres; columns ``activity`` and ``motion``.

    Returns:
        A row a motion, in order: ``motion``, ``activity``, ``category``, ``score``.
    """
    table = motions.table[["motion", "activity"]].reset_index(drop=True)
    table["category"] = table["activity"].map(category_of)
    features = np.stack([quality_features(joints) for joints in motions.each("joints")])
    table["score"] = np.nan
    for name, rows in table.groupby("category").indices.items():
        table.loc[rows, "score"] = reference.score(features[rows], name)
    return table


def best(scores: pd.DataFrame, share: float) -> Bool[np.ndarray, "n"]:
    """Which motions are the best share of their activity, so that classes keep their balance.

    A smaller share is part of a larger one. Of equal scores the lower number of a motion is kept.

    Args:
        scores: of `score_motions`. share: more than 0, at most 1; rounded up to whole motions.
    """
    order = scores.reset_index(drop=True).sort_values(["score", "motion"], kind="stable")
    place = order.groupby("activity").cumcount().sort_index().to_numpy()
    count = scores.groupby("activity")["score"].transform("size").to_numpy()
    # 0.1 of 30 is 3, whatever the binary fraction says.
    return place < np.ceil(share * count - 1e-9)
