"""Fixed-length windows of recordings: what the classifier and the features see (Section III-D)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError


def windows(
    clips: Clips,
    size: int = 40,
    overlap: float = 0.5,
    channels: Sequence[str] = ("acc", "gyro"),
    sites: Sequence[str] | None = None,
) -> tuple[Float[np.ndarray, "n size C"], pd.DataFrame]:
    """Cut every clip into windows, from its first frame on; the rest at its end is left out.

    Args:
        clips: arrays named in `channels`, each (F, S, 3); meta ``sites``.
        size: frames a window.
        overlap: share of a window that the next one repeats.
        channels: arrays to use, in this order.
        sites: sites to use, in this order; None takes all.

    Returns:
        float32 windows, and a table with one row for each: the clip's own columns,
        ``clip`` (row in `clips`) and ``start_frame`` (in the clip). ``table.attrs`` tells the rest:
        ``channels``, the names of the C columns (``"acc head x"``, sites in order, for each site
        the sensors, for each sensor its axes); ``dropped``, the number of windows left out because
        a value is missing; ``short``, the number of clips under `size` frames; ``without``, the
        rows of `clips` that gave no window, for either reason.

    Raises:
        InputError: unknown channel or site, a channel that no clip recorded at a site (every
            window would be left out), or a size or overlap that makes no window.
    """
    have = list(clips.meta["sites"])
    sites = have if sites is None else list(sites)
    for what, asked, known in (("channels", channels, clips.arrays), ("sites", sites, have)):
        unknown = [name for name in asked if name not in known]
        if unknown or not asked:
            raise InputError(
                f"windows: {what}", f"{', '.join(unknown) or 'none'}",
                f"some of {', '.join(known)}", "Ask for what the recordings hold.",
            )  # fmt: skip
    step = round(size * (1 - overlap))
    if size < 1 or not 1 <= step <= size:
        raise InputError(
            "windows: size, overlap", f"{size} and {overlap}",
            "at least one frame, and an overlap from 0 to less than 1", "Change them.",
        )  # fmt: skip
    at = [have.index(name) for name in sites]
    signal = np.concatenate([clips.arrays[name][:, at] for name in channels], axis=-1)
    signal = np.ascontiguousarray(signal.reshape(len(signal), -1), dtype=np.float32)
    present = np.isfinite(signal)
    names = [f"{c} {site} {axis}" for site in sites for c in channels for axis in "xyz"]
    never = [name for name, seen in zip(names, present.any(0), strict=True) if not seen]
    if len(signal) and never:
        streams = dict.fromkeys(name.rsplit(" ", 1)[0] for name in never)
        raise InputError(
            "windows: channels", f"no value of {', '.join(streams)} in any clip",
            "sensors that were recorded", "Leave out their sites or their channels.",
        )  # fmt: skip
    spans = list(zip(clips.bounds[:-1], clips.bounds[1:], strict=True))
    starts = [np.arange(first, last - size + 1, step) for first, last in spans]
    clip = np.repeat(np.arange(len(clips)), [len(s) for s in starts])
    start = np.concatenate([np.empty(0, int), *starts])
    # Counting missing frames once, cumulatively, spares looking into every window.
    gaps = np.concatenate([[0], np.cumsum(~present.all(1))])
    whole = gaps[start + size] == gaps[start]
    clip, start = clip[whole], start[whole]
    x = signal[start[:, None] + np.arange(size)]
    table = clips.table.drop(columns="frames").iloc[clip].reset_index(drop=True)
    table = table.assign(clip=clip, start_frame=start - clips.bounds[clip])
    table.attrs = {
        "channels": names,
        "dropped": int((~whole).sum()),
        "short": sum(len(s) == 0 for s in starts),
        "without": np.setdiff1d(np.arange(len(clips)), clip).tolist(),
    }
    return x, table
