"""Do sampled motions move like real ones? Categories, kinematics, variety, quality, solvers.

Joints are (T, 22, 3) in metres, Y up, 20 fps. Differences are over single frames, so the second
passes ``sinc(f / fps)**2`` of a sine's true acceleration: compare only motions of one frame rate.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from t2imu_utils.activities import CATEGORIES, CATEGORY_THRESHOLD, category_of
from t2imu_utils.analysis.spectra import ALL, FPS, joint_spectra, power_spectrum, spectral_distance
from t2imu_utils.analysis.stats import FEWEST, SPLITS, codes, energy_distance, halves, interval
from t2imu_utils.clips import Clips
from t2imu_utils.models.diffusion import ANCESTRAL, Solver
from t2imu_utils.models.mdm import Prior, generate
from t2imu_utils.models.text import sentence_embeddings
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from t2imu_utils.motion.features import features_to_joints
from t2imu_utils.motion.skeleton import FEET
from t2imu_utils.runs import REAL

OTHER = "other"
NAMED = tuple(name for name in CATEGORIES if name != OTHER)
CONTACT_HEIGHT = 0.03  # m over the lowest point of the clip: a foot joint is on the ground
MEASURES = ("mean_abs_acceleration", "mean_abs_jerk", "foot_skate")
PARTS = {
    "legs": (1, 2, 4, 5, 7, 8, 10, 11),
    "trunk": (0, 3, 6, 9, 12, 13, 14, 15),
    "arms": (16, 17, 18, 19, 20, 21),
}
# Below this (m/s and its derivatives) a body stands still; a logarithm would make much of nothing.
STILL = 1e-3

Features = Sequence[Float[np.ndarray, "T 263"]]
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
        became "other") and ``nearest`` (that category).
    """
    sentences = sorted({text for texts in captions for text in texts})
    row = {text: index for index, text in enumerate(sentences)}
    similarity = category_similarity(sentences, embed).to_numpy()
    scores = np.array([similarity[[row[text] for text in texts]].mean(0) for texts in captions])
    scores = scores.reshape(-1, len(NAMED))
    nearest, score = np.array(NAMED)[scores.argmax(1)], scores.max(1)
    category = np.where(score > threshold, nearest, OTHER)
    return pd.DataFrame({"category": category, "score": score, "nearest": nearest})


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
def statistics(motions: Features, normaliser: Normaliser) -> Float[np.ndarray, "n 526"]:
    """Mean and standard deviation over frames of each motion's normalised features."""
    scaled = [normaliser.normalise(np.asarray(x, dtype=np.float64)) for x in motions]
    return np.stack([np.concatenate([x.mean(0), x.std(0)]) for x in scaled])


def measure(
    model: str,
    joints: Iterable[Float[np.ndarray, "T 22 3"]],
    category: Sequence[str],
    unit: Sequence[str],
    features: Features | None = None,
    normaliser: Normaliser | None = None,
) -> pd.DataFrame:
    """A row for each motion of a model, or of `REAL`: what all comparisons are made of.

    Args:
        unit: the trial that a real motion was cut from, or the prompt of a sampled one.
        features: of the same motions, with `normaliser`; None for motions without any.

    Returns:
        Columns ``model``, ``category``, ``unit``, ``frames``, those of `MEASURES`, ``spectrum``
        (power of the acceleration of all joints and of `PARTS`, (4, F)) and ``statistics`` (526,)
        or None.
    """
    rows = []
    for x in joints:
        power = joint_spectra(x)[1]
        parts = [power.mean(0), *(power[list(part)].mean(0) for part in PARTS.values())]
        rows.append((len(x), mean_abs_acceleration(x), mean_abs_jerk(x), foot_skate(x), parts))
    table = pd.DataFrame(rows, columns=["frames", *MEASURES, "spectrum"])
    found = [None] * len(rows) if features is None else list(statistics(features, normaliser))
    more = {"category": list(category), "unit": list(unit), "statistics": found}
    return table.assign(model=model, **more)


def shared(motions: pd.DataFrame) -> pd.DataFrame:
    """The motions (`measure`) of categories that real motion and any model have."""
    is_real = motions["model"] == REAL
    names = [set(motions.loc[rows, "category"]) for rows in (is_real, ~is_real)]
    return motions[motions["category"].isin(names[0] & names[1])]


def _mean_spectra(motions: pd.DataFrame) -> dict[tuple[str, str], Float[np.ndarray, "4 F"]]:
    """By model and category, each motion counting by its length."""
    return {
        key: np.average(np.stack(own["spectrum"]), axis=0, weights=own["frames"])
        for key, own in motions.groupby(["model", "category"], sort=False)
    }


def compare(motions: pd.DataFrame) -> pd.DataFrame:
    """A row for each model and category: n, the three measures, distance of the spectrum to real.

    In "all" each category counts the same, since prompts and corpus weigh them differently; NaN
    for a model that lacks some: its mean would tell which categories it has, not how it moves.

    motions: of `measure`, "real" among them, as `shared` leaves them.

    Returns:
        Columns ``model``, ``category``, ``n``, those of `MEASURES` and ``spectral_distance`` (dB,
        0 for real motion itself).
    """
    grouped = motions.groupby(["model", "category"], sort=False)
    power = _mean_spectra(motions)
    table = grouped[list(MEASURES)].mean()
    table.insert(0, "n", grouped.size())
    table["spectral_distance"] = [
        float(spectral_distance(power[key][0], power[REAL, key[1]][0])) for key in table.index
    ]
    apart = {name: table[name].unstack("category") for name in table}
    whole = pd.DataFrame({name: part.mean(axis=1, skipna=False) for name, part in apart.items()})
    whole = whole.assign(n=apart["n"].sum(axis=1).astype(int), category=ALL)
    whole = whole.loc[motions["model"].unique()].reset_index()
    return pd.concat([table.reset_index(), whole], ignore_index=True)


def motion_spectra(motions: pd.DataFrame) -> pd.DataFrame:
    """Power of the joints' acceleration by frequency, for all joints and for `PARTS` of them.

    Returns:
        Columns ``model``, ``category``, ``part`` ("all" or one of `PARTS`), ``frequency`` (Hz,
        without 0) and ``density`` ((m/s²)²/Hz).
    """
    rows = [
        (*key, part, np.arange(1, len(density)) * FPS / 2 / (len(density) - 1), density[1:])
        for key, mean in _mean_spectra(motions).items()
        for part, density in zip((ALL, *PARTS), mean, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["model", "category", "part", "frequency", "density"])
    numbers = {"frequency": float, "density": float}
    return table.explode(list(numbers), ignore_index=True).astype(numbers)


def distance_between_halves(motions: pd.DataFrame, seed: int = 0) -> float:
    """Spectral distance (dB) of one half of the real trials to the other, the split-half reference:
    mean over categories with at least `FEWEST` trials and over `SPLITS` ways to halve them."""
    rng, found = np.random.default_rng(seed), []
    for _, own in motions[motions["model"] == REAL].groupby("category", sort=False):
        code = codes(own["unit"])
        if code.max() + 1 >= FEWEST:
            frames = own["frames"].to_numpy()
            power = frames[:, None] * np.stack([x[0] for x in own["spectrum"]])
            sides = halves(rng, SPLITS, code)[1:]
            means = ((rows @ power) / (rows @ frames)[:, None] for rows in (sides, 1 - sides))
            found.append(spectral_distance(*means).mean())
    return float(np.mean(found)) if found else np.nan


# ---------------------------------------------------------------- variety
def diversity(x: Float[np.ndarray, "n D"], category: Sequence[str]) -> float:
    """Mean distance between two different motions, their categories drawn evenly.

    After Action2Motion (Guo et al. 2020, doi:10.1145/3394171.3413635), which draws random pairs
    and describes motions by a network that recognises actions. Here all pairs are taken, and a
    motion is its `statistics`, so values compare with each other, not with those of papers.
    """
    from scipy.spatial.distance import cdist  # slow to import

    parts = _parts(x, category)
    means = [_within(part) for part in parts]
    means += 2 * [cdist(a, b).mean() for at, a in enumerate(parts) for b in parts[:at]]
    return float(pd.Series(means).mean())


def multimodality(x: Float[np.ndarray, "n D"], prompt: Sequence[str]) -> float:
    """Mean distance between two motions for one prompt (Guo et al. 2022), all prompts with two or
    more alike; NaN where there is none."""
    return float(pd.Series([_within(part) for part in _parts(x, prompt)]).mean())


def _parts(x: Float[np.ndarray, "n D"], label: Sequence[str]) -> list[np.ndarray]:
    return [x[rows] for rows in pd.Series(list(label)).groupby(list(label)).indices.values()]


def _within(part: np.ndarray) -> float:
    from scipy.spatial.distance import pdist

    return float(pdist(part).mean()) if len(part) > 1 else np.nan


def variety(motions: pd.DataFrame) -> pd.DataFrame:
    """`diversity` and `multimodality` of each model whose motions have features; real motions have
    no prompt, and so no multimodality."""
    rows = {}
    for model, own in motions[motions["statistics"].notna()].groupby("model", sort=False):
        x = np.stack(own["statistics"])
        several = np.nan if model == REAL else multimodality(x, own["unit"])
        rows[model] = {"diversity": diversity(x, own["category"]), "multimodality": several}
    return pd.DataFrame(rows, index=["diversity", "multimodality"]).T


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


def score_motions(
    motions: Clips, clips: Sequence[MotionClip], category: pd.Series, seed: int = 0
) -> pd.DataFrame:
    """How far each motion lies from real ones of its category; about 1 for real motions.

    A Mahalanobis distance, as for the detection of what a network has not been trained on (Lee et
    al., NeurIPS 2018): one covariance for all categories, since some have too few clips, by Ledoit
    & Wolf (2004), of deviations that are cut off at `FARTHEST`. A category without real motions
    takes the nearest other one. An unknown number (NaN) says neither good nor bad.

    Args:
        motions: array ``joints`` (F, 22, 3) in metres; columns ``activity`` and ``motion``.
        clips: of the training split, and of nothing else: no recording of a sensor takes part, so
            the score cannot be fitted to what a classifier is tested on.
        category: by clip name. seed: of the choice of clips where a category has more than `MOST`.

    Returns:
        A row a motion, in order: ``motion``, ``activity``, ``category``, ``score``.
    """
    from sklearn.covariance import LedoitWolf  # slow to import

    def pieces(features: np.ndarray) -> list[np.ndarray]:
        joints = features_to_joints(features)
        return np.array_split(joints, max(1, round(len(joints) / PIECE)))

    found: dict[str, list[np.ndarray]] = {}
    for index in np.random.default_rng(seed).permutation(len(clips)):
        found.setdefault(category[clips[index].name], []).append(clips[index].features)
    described = {
        name: np.stack([quality_features(piece) for x in own[:MOST] for piece in pieces(x)])
        for name, own in sorted(found.items())
    }
    centre = {name: np.nanmedian(rows, axis=0) for name, rows in described.items()}
    apart = np.concatenate([rows - centre[name] for name, rows in described.items()])
    scale = TO_SD * np.nanmedian(np.abs(apart), axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    near = np.clip(np.nan_to_num(apart / scale), -FARTHEST, FARTHEST)
    model = LedoitWolf(assume_centered=True).fit(near)
    table = motions.table[["motion", "activity"]].reset_index(drop=True)
    table["category"] = table["activity"].map(category_of)
    scores = []
    for name, joints in zip(table["category"], motions.each("joints"), strict=True):
        centres = [centre[name]] if name in centre else list(centre.values())
        away = np.nan_to_num((quality_features(joints) - centres) / scale)
        scores.append(np.sqrt(model.mahalanobis(away).min() / len(scale)))
    return table.assign(score=scores)


def best(scores: pd.DataFrame, share: float) -> Bool[np.ndarray, "n"]:
    """Which motions are the best share of their activity, so that classes keep their balance.

    A smaller share is part of a larger one. Of equal scores the lower number of a motion is kept.

    scores: of `score_motions`. share: more than 0, at most 1; rounded up to whole motions.
    """
    order = scores.reset_index(drop=True).sort_values(["score", "motion"], kind="stable")
    place = order.groupby("activity").cumcount().sort_index().to_numpy()
    count = scores.groupby("activity")["score"].transform("size").to_numpy()
    # 0.1 of 30 is 3, whatever the binary fraction says.
    return place < np.ceil(share * count - 1e-9)


# ---------------------------------------------------------------- solvers
# All solvers get the same prompts, lengths and seeds, so differences between them are paired by
# prompt. The reference is a second full sample with other seeds: no solver can be expected to be
# nearer to full sampling.
OTHER_SEEDS = 1_000_003  # added for the second full sample; requests number theirs from 0

# By solver, evaluations of the network, and seeds ("same" or "other"): raw features.
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
    """Every request (columns ``prompt``, ``frames``, ``seed``) twice by full sampling, then by each
    solver."""
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
    what sensors measure.

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
