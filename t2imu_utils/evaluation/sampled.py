"""Do sampled motions move like real ones? Accelerations per category, model by model (nb. 05)."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd

from t2imu_utils.activities import CATEGORIES, category_of
from t2imu_utils.clips import Clips
from t2imu_utils.evaluation.kinematics import mean_spectrum, spectral_distance, summarise
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.motion.features import features_to_joints

MEASURES = ("mean_abs_acceleration", "mean_abs_jerk", "foot_skate")
REAL = "real"
# Joints of each motion, by category.
Motions = dict[str, list[np.ndarray]]


def real_motions(clips: Sequence[MotionClip], category: pd.Series) -> Motions:
    """Joints of corpus clips by category; `category` is indexed by clip name."""
    found: Motions = defaultdict(list)
    for clip in clips:
        found[category[clip.name]].append(features_to_joints(clip.features))
    return _ordered(found)


def sampled_motions(motions: Clips) -> Motions:
    """Joints of sampled motions by the category of the activity that was asked for."""
    found: Motions = defaultdict(list)
    for activity, joints in zip(motions.table["activity"], motions.each("joints"), strict=True):
        found[category_of(activity)].append(joints)
    return _ordered(found)


def _ordered(found: Motions) -> Motions:
    return {name: found[name] for name in CATEGORIES if name in found}


def shared(sets: dict[str, Motions]) -> dict[str, Motions]:
    """The categories that real motion and any model have, of each set those that it has.

    A model that was asked for fewer of them, as motions of another project may have been, takes
    none away from the others.
    """
    asked = {c for name, motions in sets.items() if name != REAL for c in motions}
    names = [c for c in CATEGORIES if c in asked and c in sets[REAL]]
    return {name: {c: motions[c] for c in names if c in motions} for name, motions in sets.items()}


def lacking(sets: dict[str, Motions]) -> dict[str, list[str]]:
    """The categories that each incomplete set of `shared` has no motion of."""
    absent = {name: [c for c in sets[REAL] if c not in own] for name, own in sets.items()}
    return {name: categories for name, categories in absent.items() if categories}


def lacking_in_words(sets: dict[str, Motions]) -> str:
    """A line for each model that "all" says nothing of in `compare`; empty where there is none."""
    return "\n".join(
        f"{name}: {len(sets[name])} of {len(sets[REAL])} categories, no {', '.join(absent)}; "
        "no mean over all."
        for name, absent in lacking(sets).items()
    )


def spectra(sets: dict[str, Motions]) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Frequency (Hz) and power ((m/s²)²/Hz) of the joints' acceleration, by category and set.

    The bin of frequency zero is left out, as in `kinematics.spectral_distance`.
    """
    found = {}
    for category in sets[REAL]:
        own = {name: motions[category] for name, motions in sets.items() if category in motions}
        parts = {name: mean_spectrum(motions) for name, motions in own.items()}
        found[category] = {name: (x[1:], density[1:]) for name, (x, density) in parts.items()}
    return found


def compare(sets: dict[str, Motions]) -> pd.DataFrame:
    """A row for each set and category: n, the three measures, distance of the spectrum to real.

    In "all" each category counts the same, since prompts and corpus weigh them differently. A set
    that lacks some has no means there: they would tell which categories it has, and not how it
    moves.

    Args:
        sets: "real" and any number of models, as `shared` leaves them.

    Returns:
        Columns ``model``, ``category``, ``n``, those of `MEASURES` and ``spectral_distance`` (dB,
        0 for real motion itself); in "all" NaN for the sets in `lacking`.
    """
    rows = []
    for model, motions in sets.items():
        for category, joints in motions.items():
            means = summarise(joints)[list(MEASURES)].mean()
            spectra = mean_spectrum(joints)[1], mean_spectrum(sets[REAL][category])[1]
            rows.append(
                {"model": model, "category": category, "n": len(joints), **means}
                | {"spectral_distance": spectral_distance(*spectra)}
            )
    table, measures = pd.DataFrame(rows), [*MEASURES, "spectral_distance"]
    total = table.groupby("model", sort=False).agg({"n": "sum"} | dict.fromkeys(measures, "mean"))
    total = total.reindex(pd.Index(sets, name="model"))
    total["n"] = total["n"].fillna(0).astype(int)
    total.loc[list(lacking(sets)), measures] = np.nan
    return pd.concat([table, total.reset_index().assign(category="all")], ignore_index=True)
