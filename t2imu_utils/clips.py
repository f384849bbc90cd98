"""One container for every ragged set of time series: motions, fits, virtual and real recordings;
and the windows of recordings that the classifier and the features see (Section III-D)."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from jaxtyping import Float

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write, write_table

META_KEY = "__meta__"
REBUILD = "Delete it and run the stage that writes it again."


@dataclass(frozen=True)
class Clips:
    """Clips laid end to end, with one table row for each.

    Attributes:
        table: one row a clip; the column ``frames`` is its length, the others are free.
        arrays: each ``(sum(frames), ...)``.
        meta: JSON-able facts that hold for all clips, such as ``{"rate": 20.0, "sites": [...]}``.
    """

    table: pd.DataFrame
    arrays: dict[str, np.ndarray]
    meta: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        total = int(self.table["frames"].sum())
        for name, array in self.arrays.items():
            if len(array) != total:
                raise InputError(
                    f"clips: {name}", f"{len(array)} frames",
                    f"{total}, the sum of the table's lengths",
                    "Table and arrays belong to different sets of clips.",
                )  # fmt: skip

    @classmethod
    def from_list(
        cls, rows: Sequence[dict], arrays: dict[str, Sequence[np.ndarray]], meta: dict | None = None
    ) -> "Clips":
        """Build from one dict and one array per clip; ``frames`` is filled in."""
        lengths = [len(array) for array in next(iter(arrays.values()))]
        table = pd.DataFrame(list(rows)).assign(frames=lengths).reset_index(drop=True)
        return cls(table, {name: np.concatenate(list(v)) for name, v in arrays.items()}, meta or {})

    @classmethod
    def concat(cls, parts: Sequence["Clips"]) -> "Clips":
        """Clips of all parts in order; the parts must hold the same arrays."""
        table = pd.concat([part.table for part in parts], ignore_index=True)
        arrays = {
            name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays
        }
        return cls(table, arrays, parts[0].meta)

    @property
    def bounds(self) -> np.ndarray:
        """(n + 1,) frame offsets: clip i is ``bounds[i]:bounds[i + 1]``."""
        return np.concatenate([[0], np.cumsum(self.table["frames"].to_numpy())]).astype(int)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Views of one clip's arrays, by name."""
        start, stop = self.bounds[index], self.bounds[index + 1]
        return {name: array[start:stop] for name, array in self.arrays.items()}

    def each(self, name: str) -> Iterator[np.ndarray]:
        """The views of one array, clip by clip."""
        return (self.arrays[name][start:stop] for start, stop in pairwise(self.bounds))

    def select(self, rows: np.ndarray | pd.Series | Sequence[int]) -> "Clips":
        """The clips of a boolean mask or of a list of row numbers, in that order."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(int)
        bounds = self.bounds
        spans = [np.arange(bounds[row], bounds[row + 1]) for row in rows]
        frames = np.concatenate(spans) if spans else np.empty(0, int)
        table = self.table.iloc[rows].reset_index(drop=True)
        return Clips(table, {name: array[frames] for name, array in self.arrays.items()}, self.meta)

    def save(self, path: Path) -> list[Path]:
        """Write ``<path>.npz`` and ``<path>.parquet``; return both."""
        files = [Path(f"{path}.npz"), Path(f"{path}.parquet")]
        meta = np.frombuffer(json.dumps(self.meta).encode(), dtype=np.uint8)
        with atomic_write(files[0]) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, **self.arrays, **{META_KEY: meta})
        write_table(files[1], self.table)
        return files

    @classmethod
    def load(cls, path: Path) -> "Clips":
        """Read what `save` wrote."""
        try:
            with np.load(f"{path}.npz", allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            table = pd.read_parquet(f"{path}.parquet")
        except FileNotFoundError as error:
            raise InputError(
                error.filename or path, "nothing", "clips", "Run the stage that writes it first."
            ) from error
        except (BadZipFile, ValueError, OSError, EOFError) as error:
            raise InputError(path, f"a damaged file ({error})", "whole clips", REBUILD) from error
        meta = json.loads(arrays.pop(META_KEY).tobytes().decode())
        return cls(table, arrays, meta)


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
        float32 windows (the C columns: sites in order, for each site the sensors, for each sensor
        its axes), and a table with one row for each: the clip's own columns, ``clip`` (row in
        `clips`) and ``start_frame`` (in the clip). Its ``attrs["dropped"]`` is the number of
        windows left out because a value is missing.

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
    recorded = present.any(0).reshape(len(sites), len(channels), 3).all(2)
    never = np.argwhere(~recorded)
    if len(signal) and len(never):
        streams = [f"{channels[channel]} {sites[site]}" for site, channel in never]
        raise InputError(
            "windows: channels", f"no value of {', '.join(streams)} in any clip",
            "sensors that were recorded", "Leave out their sites or their channels.",
        )  # fmt: skip
    starts = [np.arange(first, last - size + 1, step) for first, last in pairwise(clips.bounds)]
    clip = np.repeat(np.arange(len(clips)), [len(s) for s in starts])
    start = np.concatenate([np.empty(0, int), *starts])
    # Counting missing frames once, cumulatively, spares looking into every window.
    gaps = np.concatenate([[0], np.cumsum(~present.all(1))])
    whole = gaps[start + size] == gaps[start]
    clip, start = clip[whole], start[whole]
    x = signal[start[:, None] + np.arange(size)]
    table = clips.table.drop(columns="frames").iloc[clip].reset_index(drop=True)
    table = table.assign(clip=clip, start_frame=start - clips.bounds[clip])
    table.attrs = {"dropped": int((~whole).sum())}
    return x, table
