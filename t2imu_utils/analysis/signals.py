"""Windows of sensors with a class, and how near synthetic ones are to real ones.

catch22 z-scores every series before it looks at it, so its 22 numbers, and the picture made of
them, are blind to how *large* an acceleration is. catch24 adds mean and standard deviation.
Windows of one recording resemble each other, so recordings and motions are the sample, not windows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
import pycatch22
from jaxtyping import Bool, Float
from threadpoolctl import threadpool_limits

from t2imu_utils.activities import category_of
from t2imu_utils.analysis.stats import (
    FEWEST,
    SPLITS,
    TAILS,
    codes,
    energy_distance,
    halves,
    two_sample_distance,
    written,
)
from t2imu_utils.clips import Clips, windows
from t2imu_utils.errors import InputError
from t2imu_utils.runs import REAL
from t2imu_utils.tracks import RecordingsSection

# What windows have in common that are not independent: overlapping ones, or one motion on eight
# bodies. The first of these columns that there is.
UNITS = ("motion", "recording", "subject")
Frame = Literal["raw", "gravity", "person"]
RAW, PERSON = "raw", "person"
FRAMES = get_args(Frame)
# m/s². A mean that is shorter is of free fall, of a sensor that was turned over, or of none with
# gravity; it points nowhere, so all of such a window counts as horizontal.
SHORTEST_MEAN = 1.0
MOVING = 1.0  # m/s², standard deviation of the magnitude in a window of somebody who moves

Windows = Float[np.ndarray, "n T C"]

NAMES = pycatch22.catch22_all(np.arange(8.0), catch24=True)["names"]
SHAPE = np.tile([name not in ("DN_mean", "DN_Spread_std") for name in NAMES], 3)
DYNAMIC = ("jumping", "running")  # panels C and D
TOGETHER = " + ".join(DYNAMIC)
# By measure, its name and which of the features it sees.
MEASURES = {
    "distance": "energy distance, catch22",
    "distance_sized": "energy distance, catch22 + mean, sd",
}
FEATURES = {"distance": SHAPE, "distance_sized": np.ones(len(SHAPE), bool)}
IQR_PER_SD = 1.35  # interquartile range of a normal distribution in standard deviations


# ---------------------------------------------------------------- windows, in whichever axes
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


def labels_of(clips: Clips, section: RecordingsSection) -> pd.Series:
    """The class of each clip, as a track tells them apart."""
    activities = clips.table["activity"]
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
    labels = labels_of(clips, section)
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


# ---------------------------------------------------------------- features and distances
def catch24(windows: Float[np.ndarray, "n T 3"]) -> Float[np.ndarray, "n 72"]:
    """The features of Lubba et al. (2019), mean and standard deviation of each of three axes.

    NaN throughout where an axis is constant or not finite, so that it has no features.
    """
    windows = np.asarray(windows, dtype=np.float64)
    found = np.full((len(windows), 3 * len(NAMES)), np.nan)
    for index in np.flatnonzero(np.isfinite(windows).all((1, 2)) & (np.ptp(windows, 1) > 0).all(1)):
        each = (pycatch22.catch22_all(series, catch24=True) for series in windows[index].T)
        found[index] = np.concatenate([one["values"] for one in each])
    return found


def describe(clips: Clips, section: RecordingsSection, per_class: int, seed: int) -> pd.DataFrame:
    """Features of at most so many windows of each class: columns 0 to 71 are `catch24` of one
    accelerometer, the section's only site; and ``label``, ``group`` and ``subject``. Windows
    without features are left out."""
    own = labelled_windows(clips, section, per_class, seed)
    found = catch24(own.x)
    who = {"label": own.labels, "group": own.groups, "subject": own.subjects}
    return pd.DataFrame(found).assign(**who)[np.isfinite(found).all(1)]


def scaled(pooled: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n F"]:
    """A robust sigmoid per feature: median to 0.5, outliers bent towards 0 and 1.

    The transform of the catch22 authors' own tools (Fulcher & Jones 2017, hctsa): several features
    have long tails, on which any linear scaling lets single windows rule all distances. The spread
    is the interquartile range / 1.35, or the standard deviation where more than half of the values
    are equal. A constant feature ends up constant.
    """
    low, centre, high = np.percentile(pooled, [25, 50, 75], axis=0)
    spread = (high - low) / IQR_PER_SD
    spread = np.where(spread > 0, spread, pooled.std(0))
    spread = np.where(spread > 0, spread, 1.0)
    return 1 / (1 + np.exp(-np.clip((pooled - centre) / spread, -500, 500)))


def tsne(
    features: Float[np.ndarray, "n F"], seed: int, perplexity: float = 30.0
) -> Float[np.ndarray, "n 2"]:
    """t-SNE of scaled features (van der Maaten & Hinton 2008), started from two PCA axes."""
    from sklearn.manifold import TSNE  # slow to import

    model = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    # Its threads wait for each other at every step: with a busy core that takes many times longer.
    with threadpool_limits(limits=1):
        return model.fit_transform(features)


def thinned(described: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """`count` windows, as evenly over classes as they allow."""
    shuffled = described.sample(frac=1, random_state=seed)
    turn = shuffled.groupby("label").cumcount().to_numpy()
    return shuffled.iloc[turn.argsort(kind="stable")[:count]]


def embed(
    real: pd.DataFrame, synthetic: pd.DataFrame, perplexity: float, seed: int
) -> tuple[Float[np.ndarray, "n 2"], Bool[np.ndarray, "n"], list[str]]:
    """t-SNE of equally many real and synthetic windows, which of the points are real, and the
    class of each."""
    count = min(len(real), len(synthetic))
    both = pd.concat([thinned(part, count, seed) for part in (real, synthetic)])
    pooled = scaled(both[np.flatnonzero(SHAPE)].to_numpy())
    points = tsne(pooled, seed, min(perplexity, (len(pooled) - 1) / 4))
    return points, np.arange(len(pooled)) < count, both["label"].tolist()


def compare(
    real: pd.DataFrame, synthetic: Mapping[str, pd.DataFrame], seed: int, classes: str = "all"
) -> pd.DataFrame:
    """Energy distance of each model, on features scaled by all models' windows together.

    The row `REAL` is the split-half reference: one half of the subjects against the other, the
    mean and the range of 95 % over `SPLITS` ways to halve them. No synthetic set can be expected to
    lie nearer than that. NaN where the halves have too few recordings.

    Returns:
        Columns ``model``, ``classes``, ``measure`` (keys of `MEASURES`), ``value`` with ``low`` and
        ``high`` (95 %), and how many recordings and motions stood behind it.
    """
    parts, rows = {REAL: real, **synthetic}, []
    everything = pd.concat(parts)
    for measure, columns in FEATURES.items():
        pooled = scaled(everything[np.flatnonzero(columns)].to_numpy())
        own = pooled[: len(real)]
        for model, part in parts.items():
            if model == REAL:
                value = _between_halves(own, real, seed)
            else:
                x = pooled[everything.index.get_level_values(0) == model]
                value = two_sample_distance(own, x, real["group"], part["group"], seed)
            counts = real["group"].nunique(), part["group"].nunique()
            rows.append((model, classes, measure, *value, *counts))
    names = ["model", "classes", "measure", "value", "low", "high", "recordings", "motions"]
    return pd.DataFrame(rows, columns=names)


def compare_all(
    real: pd.DataFrame, synthetic: Mapping[str, pd.DataFrame], seed: int
) -> pd.DataFrame:
    """`compare` on all classes, then on jumping and running alone."""
    sources = {REAL: real, **synthetic}
    dynamic = {name: x[x["label"].isin(DYNAMIC)] for name, x in sources.items()}
    parts = compare(real, synthetic, seed), compare(dynamic.pop(REAL), dynamic, seed, TOGETHER)
    return pd.concat(parts, ignore_index=True)


def _between_halves(x: np.ndarray, real: pd.DataFrame, seed: int) -> tuple[float, float, float]:
    rng, code = np.random.default_rng(seed), codes(real["group"])
    sides = halves(rng, SPLITS, codes(real["subject"]))[1:]
    enough = [s for s in sides if min(len({*code[s == 1]}), len({*code[s == 0]})) >= FEWEST]
    if not enough:
        return np.nan, np.nan, np.nan
    rows = np.array(enough)
    values = energy_distance(x, x, code, code, rows, 1 - rows)
    return float(values.mean()), *map(float, np.percentile(values, TAILS))


def table(numbers: pd.DataFrame) -> pd.DataFrame:
    """`compare` for reading: a row for each model, "value [low, high]" in the cells."""
    cells = numbers.assign(text=written(numbers, 3), measure=numbers["measure"].map(MEASURES))
    wide = cells.pivot(index="model", columns=["classes", "measure"], values="text")
    return wide.loc[cells["model"].unique()]
