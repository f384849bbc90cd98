"""One container for every ragged set of time series: motions, fits, virtual and real recordings."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd

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
                    f"clips: {name}",
                    f"{len(array)} frames",
                    f"{total}, the sum of the table's lengths",
                    "Table and arrays belong to different sets of clips.",
                )

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
