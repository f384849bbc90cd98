"""Which of the nine categories a clip belongs to, by the sentences that describe it."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from t2imu_utils.activities import CATEGORIES, CATEGORY_THRESHOLD, HIGH_DYNAMIC
from t2imu_utils.errors import InputError
from t2imu_utils.models.text import sentence_embeddings

OTHER = "other"
NAMED = tuple(name for name in CATEGORIES if name != OTHER)


def category_similarity(
    sentences: Sequence[str],
    embed: Callable[[list[str]], Float[np.ndarray, "B W"]] = sentence_embeddings,
) -> pd.DataFrame:
    """Cosine similarity of each sentence (row) to the name of each named category (column)."""
    vectors, names = np.asarray(embed(list(sentences))), np.asarray(embed(list(NAMED)))
    return pd.DataFrame(vectors @ names.T, columns=list(NAMED))


def categorise(
    captions: Sequence[Sequence[str]],
    threshold: float = CATEGORY_THRESHOLD,
    embed: Callable[[list[str]], Float[np.ndarray, "B W"]] = sentence_embeddings,
) -> pd.DataFrame:
    """Assign each clip to the category whose name is nearest in meaning (Section III-D).

    Captions and category names are embedded by all-MiniLM-L6-v2 and compared by cosine. The paper
    speaks of "every sample text" and leaves open what a clip with several texts gets: here their
    similarities are averaged before the best category is taken, so that one odd sentence out of
    three does not decide. A best score that does not exceed `threshold` makes the clip "other".

    Args:
        captions: for each clip, one sentence or more.
        threshold: tau of the paper.
        embed: sentences to unit vectors.

    Returns:
        One row a clip: ``category``, ``score`` (of the best named category, also where the clip
        became "other"), ``nearest`` (that category) and ``high_dynamic``.

    Raises:
        InputError: a clip without text.
    """
    for index, texts in enumerate(captions):
        if isinstance(texts, str) or not any(text.strip() for text in texts):
            raise InputError(
                f"captions: clip {index}",
                repr(texts),
                "a list of at least one sentence",
                "Give every clip its text, or leave the clip out.",
            )
    sentences = sorted({text for texts in captions for text in texts if text.strip()})
    row = {text: index for index, text in enumerate(sentences)}
    similarity = category_similarity(sentences, embed).to_numpy()
    scores = np.array(
        [similarity[[row[t] for t in texts if t.strip()]].mean(0) for texts in captions]
    ).reshape(-1, len(NAMED))
    best = scores.argmax(1)
    nearest = np.array(NAMED)[best]
    score = np.take_along_axis(scores, best[:, None], 1)[:, 0]
    category = np.where(score > threshold, nearest, OTHER)
    return pd.DataFrame(
        {
            "category": category,
            "score": score,
            "nearest": nearest,
            "high_dynamic": np.isin(category, HIGH_DYNAMIC),
        }
    )
