"""The panels of Fig. 2 (notebook 06)."""

from collections.abc import Mapping, Sequence

import numpy as np

from t2imu_utils.evaluation.similarity_runs import DYNAMIC, TOGETHER, Described, embed
from t2imu_utils.palette import label
from t2imu_utils.plots import Panel


def fig2_panels(
    real: Described,
    described: Mapping[str, Described],
    models: Sequence[str],
    perplexity: float,
    seed: int,
) -> list[Panel]:
    """A row of all classes and one of jumping and running, each with a panel for each model."""
    rows = {"all activities": np.unique(real.labels), TOGETHER: DYNAMIC}
    panels = []
    for title, classes in rows.items():
        for model in models:
            parts = (part.only(classes) for part in (real, described[model]))
            points, is_real = embed(*parts, perplexity, seed)
            panels.append(Panel(f"{label(model)}, {title}", points, is_real, model))
    return panels


def panel_sizes(panels: Sequence[Panel]) -> str:
    """How many windows each panel shows, by its letter, for the caption."""
    letters = zip("ABCDEFGHIJ", panels, strict=False)
    return ", ".join(f"{letter}: n = {len(panel.points)}" for letter, panel in letters)
