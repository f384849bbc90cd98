"""Windows with a class, in whichever axes: the same rule for real and synthetic clips."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from t2imu_utils.activities import category_of
from t2imu_utils.analysis.stats import codes
from t2imu_utils.clips import Clips, windows
from t2imu_utils.errors import InputError
from t2imu_utils.tracks import RecordingsSection

# What windows have in common that are not independent: overlapping ones, or one motion on eight
# bodies. The first of these columns that there is.
UNITS = ("motion", "recording", "subject")
Frame = Literal["raw", "gravity", "person"]
RAW, GRAVITY, PERSON = FRAMES = ("raw", "gravity", "person")
# m/s². A mean that is shorter is of free fall, of a sensor that was turned over, or of none with
# gravity; it points nowhere, so all of such a window counts as horizontal.
SHORTEST_MEAN = 1.0
MOVING = 1.0  # m/s², standard deviation of the magnitude in a window of somebody who moves

Windows = Float[np.ndarray, "n T C"]


def _by_sensor(x: Windows, channels: Sequence[str]) -> Float[np.ndarray, "n T S K 3"]:
    """Sites in order, for each site the sensors in the order of `channels`, for each x, y and z."""
    return np.asarray(x, dtype=np.float64).reshape(*x.shape[:2], -1, len(channels), 3)


def axes(
    x: Windows,
    frame: Frame = RAW,
    channels: Sequence[str] = ("acc",),
    persons: Sequence | None = None,
) -> Float[np.ndarray, "n T D"]:
    """The sensors' own axes, or the vertical component and the horizontal length of each sensor.

    How the axes of a sensor lie on the body differs between data sets and is often unknown; the
    vertical and the horizontal do not depend on it.

    "gravity": the direction of a window's own mean acceleration is up (Mizell, "Using gravity to
    estimate accelerometer orientation", ISWC 2003). A sensor that does not turn has the mean
    ``g + Δv / t``, so 1 m/s gained in 2 s tilts it by 3° at most. Posture is lost: lying and
    standing become alike.

    "person": one rotation for all windows of a person at a site. Up is the mean acceleration over
    the windows in which the person moves (the magnitude varies by more than `MOVING`), where
    people are mostly upright; no label is needed. Of somebody who never moves, over all windows.

    Args:
        x: as `clips.windows` cuts them, m/s² and rad/s.
        channels: sensors of a site, "acc" among them, from which gravity is estimated; of "gyro"
            there result the rate about the vertical and the length of the rest.
        persons: whose each window is: a person, or a body that virtual sensors were worn by.

    Returns:
        `x`, or float32 in the same order, two channels in place of three. Where the mean is shorter
        than `SHORTEST_MEAN`, the vertical is 0 and the horizontal is the whole length.
    """
    if frame not in FRAMES or (frame != RAW and "acc" not in channels):
        raise InputError(
            "axes", f"{frame!r} of {', '.join(channels)}",
            f"one of {', '.join(FRAMES)}, with acc among the channels for all but raw",
            "Check the spelling, or add acc to the track's channels.",
        )  # fmt: skip
    if frame == RAW:
        return x
    parts = _by_sensor(x, channels)
    acc = parts[..., list(channels).index("acc"), :]
    up = acc.mean(axis=1)
    if frame == PERSON:
        moving = np.linalg.norm(acc, axis=-1).std(axis=1) > MOVING
        code = codes(persons)
        for own in code == np.arange(code.max() + 1)[:, None]:
            for site in range(up.shape[1]):
                used = own & moving[:, site]
                up[own, site] = up[used if used.any() else own, site].mean(0)
    length = np.linalg.norm(up, axis=-1, keepdims=True)
    up = np.where(length < SHORTEST_MEAN, 0.0, up / np.maximum(length, SHORTEST_MEAN))
    up = up[:, None, :, None]
    vertical = (parts * up).sum(axis=-1)
    horizontal = np.linalg.norm(parts - vertical[..., None] * up, axis=-1)
    out = np.stack([vertical, horizontal], axis=-1)
    return out.reshape(*out.shape[:2], -1).astype(np.float32)


def random_placement(
    x: Windows,
    wearings: Sequence,
    seed: int,
    channels: Sequence[str] = ("acc",),
    about: float = 180.0,
    tilt: float = 20.0,
) -> Float[np.ndarray, "n T C"]:
    """Windows of virtual sensors as if each sensor had been strapped on in another way.

    Each wearing of a sensor at a site is turned about its segment (the sensor's y axis, along the
    bone) by up to `about` and then tilted about any axis by up to `tilt` degrees, both uniform.

    Args:
        wearings: during which wearing each window was recorded, such as a motion on a body: its
            windows are turned alike.
    """
    from scipy.spatial.transform import Rotation  # slow to import

    parts, code = _by_sensor(x, channels), codes(wearings)
    rng, shape = np.random.default_rng(seed), (code.max() + 1, parts.shape[2])
    count = np.prod(shape)
    turn = Rotation.from_euler("y", rng.uniform(-about, about, (count, 1)), degrees=True)
    axis = rng.standard_normal((count, 3))
    axis *= rng.uniform(0, np.radians(tilt), (count, 1)) / np.linalg.norm(axis, axis=1)[:, None]
    matrices = (Rotation.from_rotvec(axis) * turn).as_matrix().reshape(*shape, 3, 3)
    out = np.einsum("nsij,ntskj->ntski", matrices[code], parts)
    return out.reshape(x.shape).astype(np.float32)


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

    x: Windows
    labels: np.ndarray
    groups: np.ndarray
    subjects: np.ndarray
    dropped: int

    def __len__(self) -> int:
        return len(self.x)

    def counts(self) -> pd.Series:
        """Windows per class."""
        return pd.Series(self.labels).value_counts().sort_index()


def labels_of(activities: pd.Series, section: RecordingsSection) -> pd.Series:
    """The classes of activities, as a track tells them apart."""
    return activities.map(category_of) if section.labels == "categories" else activities


def labelled_windows(
    clips: Clips,
    section: RecordingsSection,
    per_class: int | None,
    seed: int,
    frame: Frame = RAW,
    placement: int | None = None,
) -> WindowSet:
    """Cut clips into windows of the track's classes: the same rule for real and synthetic clips.

    Args:
        clips: virtual sensors or recordings, with a column ``activity``.
        section: classes, channels and sites of the track.
        per_class: a class with more windows is thinned at random, by `seed`; None keeps all.
        frame: see `axes`. placement: seed of `random_placement`; None leaves sensors where they
            are.

    Raises:
        InputError: a class of the track has no clip, or no window with all sensors.
    """
    labels = labels_of(clips.table["activity"], section)
    wanted = labels.isin(section.classes).to_numpy()
    x, table = windows(clips.select(wanted), channels=section.channels, sites=section.sites)
    label = labels[wanted].to_numpy()[table["clip"]]
    if lost := [name for name in section.classes if name not in label]:
        raise InputError(
            f"clips: windows of {', '.join(lost)}", "none with all sensors",
            f"some of every class of the track, with {', '.join(section.sites)}",
            "Ask for fewer sites, or leave the class out (section recordings of the track).",
        )  # fmt: skip
    who = table["body" if "body" in table else "subject"].to_numpy()
    if placement is not None:
        x = random_placement(x, table["clip"], placement, section.channels)
    x = axes(x, frame, section.channels, who)
    rng = np.random.default_rng(seed)
    keep = [rng.permutation(np.flatnonzero(label == name))[:per_class] for name in section.classes]
    rows = np.sort(np.concatenate(keep))
    unit = table[next((name for name in UNITS if name in table), "clip")].to_numpy()
    return WindowSet(x[rows], label[rows], unit[rows], who[rows], table.attrs["dropped"])
