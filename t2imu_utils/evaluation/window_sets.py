"""Windows with a class, ready for Figs. 2 and 3: the same rule for real and synthetic clips."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from t2imu_utils.activities import category_of
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.gravity_frame import gravity_aligned
from t2imu_utils.imu.windows import windows
from t2imu_utils.tracks import RecordingsSection

# The smallest independent unit of a clip table: what overlapping windows, or one motion on eight
# bodies, have in common.
UNITS = ("motion", "recording", "subject")
# Axes of the sensors as they come, or the vertical and the horizontal (`gravity_frame`).
Axes = Literal["raw", "gravity"]
RAW, GRAVITY = AXES = ("raw", "gravity")


@dataclass(frozen=True)
class WindowSet:
    """Labelled windows.

    Attributes:
        x: (n, 40, C) m/s² and rad/s.
        labels: (n,) class of each window.
        groups: (n,) the motion or recording that a window comes from.
        subjects: (n,) who performed it: a person, or a body of Table I.
        dropped: windows left out because a sensor was missing in them.
    """

    x: Float[np.ndarray, "n T C"]
    labels: np.ndarray
    groups: np.ndarray
    subjects: np.ndarray
    dropped: int

    def __len__(self) -> int:
        return len(self.x)

    def counts(self) -> pd.Series:
        """Windows per class."""
        return pd.Series(self.labels).value_counts().sort_index()


def labelled_windows(
    clips: Clips,
    section: RecordingsSection,
    per_class: int | None,
    seed: int,
    sites: list[str] | None = None,
    axes: Axes = "raw",
) -> WindowSet:
    """Cut clips into windows of the track's classes, at most `per_class` of each.

    Args:
        clips: virtual sensors or recordings, with a column ``activity``.
        section: classes, channels and sites of the track.
        per_class: a class with more windows is thinned at random, by `seed`; None keeps all.
        sites: other sites than the track's.
        axes: "raw" are the sensors' own, three channels each; "gravity" the vertical component and
            the horizontal length, two channels each (`gravity_frame.gravity_aligned`).
    """
    if axes not in AXES:
        raise InputError("axes", repr(axes), f"one of {', '.join(AXES)}", "Check its spelling.")
    labels = clips.table["activity"]
    if section.labels == "categories":
        labels = labels.map(category_of)
    wanted = labels.isin(section.classes).to_numpy()
    missing = sorted(set(section.classes) - set(labels))
    if missing:
        raise InputError(
            "clips: activity",
            f"no {', '.join(missing)}",
            f"every class of the track: {', '.join(section.classes)}",
            "Check the recordings of notebook 00, or the prompts of notebook 01.",
        )
    chosen = clips.select(wanted)
    x, table = windows(chosen, channels=tuple(section.channels), sites=sites or section.sites)
    label = labels[wanted].to_numpy()[table["clip"]]
    lost = [name for name in section.classes if name not in label]
    if lost:
        raise InputError(
            f"clips: windows of {', '.join(lost)}",
            "none with all sensors",
            f"some with {', '.join(sites or section.sites)}",
            "Ask for fewer sites, or leave the class out (section recordings of the track).",
        )
    rng = np.random.default_rng(seed)
    keep = [rng.permutation(np.flatnonzero(label == name))[:per_class] for name in section.classes]
    rows = np.sort(np.concatenate(keep))
    unit = next((name for name in UNITS if name in table), "clip")
    who = "body" if "body" in table else "subject"
    x = gravity_aligned(x[rows], section.channels) if axes == GRAVITY else x[rows]
    return WindowSet(
        x,
        label[rows],
        table[unit].to_numpy()[rows],
        table[who].to_numpy()[rows],
        int(table.attrs.get("dropped", 0)),
    )
