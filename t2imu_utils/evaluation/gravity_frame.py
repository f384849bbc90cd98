"""Windows in axes that do not depend on how a sensor was turned: vertical and horizontal.

How the axes of a sensor lie on the body differs between data sets and is often not told. Gravity
is in every accelerometer's signal: its direction is estimated from each window alone, by the mean
of the window (Mizell, "Using gravity to estimate accelerometer orientation", ISWC 2003). What is
left of three axes are the component along it and the length of the rest, which no fixed rotation of
the sensor changes. No other window, and nothing of the data set, takes part.

Why the mean, for running and jumping too: a sensor that does not turn has the mean ``g + Δv / t``,
where Δv is the change of its velocity over the t seconds of a window, so 1 m/s in 2 s tilts the
estimate by 3° at most, whatever the impacts are; a median would follow the flight phases. A sensor
that swings with a limb is told less well: turning axes shorten the mean, and what keeps the limb on
its circle acts along the limb and adds to it. `mean_table` shows by how much.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from t2imu_utils.errors import InputError

GRAVITY = 9.81
# m/s². A mean that is shorter is of free fall, of a sensor that was turned over, or of none with
# gravity; it points nowhere, so all of such a window counts as horizontal.
SHORTEST_MEAN = 1.0

Windows = Float[np.ndarray, "n T C"]


def _by_sensor(x: Windows, channels: Sequence[str]) -> Float[np.ndarray, "n T S K 3"]:
    x = np.asarray(x)
    if "acc" not in channels or x.ndim != 3 or x.shape[2] % (3 * len(channels)):
        raise InputError(
            "windows: axes",
            f"windows {x.shape} of {', '.join(channels) or 'nothing'}",
            "acc among the channels, and three axes of each at every site",
            "Add acc to the track's channels, or keep the raw axes.",
        )
    return x.reshape(*x.shape[:2], -1, len(channels), 3).astype(np.float64)


def _mean(parts: Float[np.ndarray, "n T S K 3"], channels: Sequence[str]):
    """The mean acceleration of each window and site, (n, S, 3) m/s²."""
    return parts[..., list(channels).index("acc"), :].mean(axis=1)


def gravity_aligned(x: Windows, channels: Sequence[str] = ("acc",)) -> Float[np.ndarray, "n T D"]:
    """The vertical component and the horizontal length of every sensor, in place of its axes.

    Args:
        x: as `imu.windows.windows` cuts them: sites in order, for each site the sensors in the
            order of `channels`, for each sensor x, y and z; m/s² and rad/s.
        channels: sensors of a site. "acc" must be one of them, since gravity is estimated from it;
            of "gyro" there result the rate about the vertical and the length of the rate about
            horizontal axes.

    Returns:
        float32 in the same order, two channels in place of three. Where the mean acceleration is
        shorter than `SHORTEST_MEAN`, the vertical is 0 and the horizontal is the whole length.

    Raises:
        InputError: no accelerometer, or channels that are no multiple of three axes.
    """
    parts = _by_sensor(x, channels)
    mean = _mean(parts, channels)
    length = np.linalg.norm(mean, axis=-1, keepdims=True)
    up = np.where(length < SHORTEST_MEAN, 0.0, mean / np.maximum(length, SHORTEST_MEAN))
    up = up[:, None, :, None]
    vertical = (parts * up).sum(axis=-1)
    horizontal = np.linalg.norm(parts - vertical[..., None] * up, axis=-1)
    out = np.stack([vertical, horizontal], axis=-1)
    return out.reshape(*out.shape[:2], -1).astype(np.float32)


def mean_table(
    x: Windows, labels: Sequence[str], sites: Sequence[str], channels: Sequence[str] = ("acc",)
) -> pd.DataFrame:
    """How well windows tell the vertical: the length of their mean acceleration, in g.

    Args:
        x: windows of raw axes, as for `gravity_aligned`. labels: their classes. sites: in order.

    Returns:
        A row for each class; for each site the median over windows (1 for a sensor at rest), and
        "under g/2 (%)", the share of windows and sites whose mean is shorter than half of g.
    """
    length = np.linalg.norm(_mean(_by_sensor(x, channels), channels), axis=-1) / GRAVITY
    table = pd.DataFrame(length, columns=list(sites)).groupby(np.asarray(labels)).median()
    short = pd.Series((length < 0.5).mean(axis=1) * 100).groupby(np.asarray(labels)).mean()
    return table.assign(**{"under g/2 (%)": short}).rename_axis("class")
