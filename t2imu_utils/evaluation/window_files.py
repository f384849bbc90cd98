"""Windows of a synthesis at scale, read as a `WindowSet`: what was drawn, and not the rest."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from jaxtyping import Float, Int

from t2imu_utils.activities import SITES, category_of
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.window_sets import WindowSet
from t2imu_utils.shards import SIZE, Shard, Store, load_store
from t2imu_utils.tracks import RecordingsSection

KEYS = ("motion", "body", "start_frame")
# Checked page by page: a flipped byte is found where it is read, without reading the whole file.
_FORMAT = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)


def read_windows(
    folder: Path,
    section: RecordingsSection,
    per_class: int | None,
    seed: int,
    sites: Sequence[str] | None = None,
    model: str | None = None,
) -> WindowSet:
    """Windows of the track's classes, at most `per_class` of each, from a folder of shards.

    Every window of a class is as likely as any other, and the same windows are drawn as
    `window_sets.labelled_windows` draws from the same motions in one piece. Of the files only
    those with drawn windows are opened, one at a time, and of them only the row groups of the
    sites and the columns of the channels.

    Args:
        folder: what `synthesis_runs` wrote.
        section: classes, channels and sites of the track.
        per_class: None reads all, which has to fit into memory.
        sites: other sites than the track's.
        model: whose windows; None where the folder has those of one model.

    Raises:
        InputError: nothing there, shards missing or damaged, or a class or site without windows.
    """
    store, wanted = load_store(folder, model), list(sites or section.sites)
    unknown = [site for site in wanted if site not in SITES]
    if unknown:
        raise InputError(
            f"{folder}: sites", f"no {', '.join(unknown)}", f"some of {', '.join(SITES)}",
            "Ask for sites that are there.",
        )  # fmt: skip
    shards = _of_classes(store, section)
    counts, dropped = _counts(store, list(shards))
    rows = _draw(list(shards.values()), counts, section.classes, per_class, seed)
    ends = np.cumsum(counts)
    owner = np.searchsorted(ends, rows, side="right")
    of_classes, parts, tables, labels = list(shards.items()), [], [], []
    for number in np.unique(owner):
        shard, label = of_classes[number]
        within = rows[owner == number] - (ends[number] - counts[number])
        x, keys = _read_shard(store.path(shard), within, section.channels, wanted)
        parts.append(x)
        tables.append(keys)
        labels += [label] * len(x)
    keys = pd.concat(tables, ignore_index=True)
    return WindowSet(
        np.concatenate(parts),
        np.array(labels, dtype=object),
        keys["motion"].to_numpy(),
        keys["body"].to_numpy(dtype=object),
        dropped,
    )


def _of_classes(store: Store, section: RecordingsSection) -> dict[Shard, str]:
    """The shards of the classes, in order, and the class of each."""
    merged = section.labels == "categories"
    found = {s: category_of(s.activity) if merged else s.activity for s in store.plan.shards}
    missing = sorted(set(section.classes) - set(found.values()))
    if missing:
        raise InputError(
            f"{store.folder}: activity", f"no {', '.join(missing)}",
            f"every class of the track: {', '.join(section.classes)}",
            "Make windows from prompts for them (`t2imu synthesise`).",
        )  # fmt: skip
    return {shard: name for shard, name in found.items() if name in section.classes}


def _counts(store: Store, shards: Sequence[Shard]) -> tuple[Int[np.ndarray, "s"], int]:
    """Windows of each shard, as recorded, and how many had been left out of all."""
    records, missing = [], []
    for shard in shards:
        path = store.path(shard)
        if not (path.exists() and store.record_path(shard).exists()):
            missing.append(shard.name)
            continue
        record = store.record(shard)
        if path.stat().st_size != record["bytes"] or record["key"] != store.key(shard):
            missing.append(shard.name)
        records.append(record)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(
            f"{store.folder}: {', '.join(missing[:3])}{more}",
            f"{len(shards) - len(missing)} of {len(shards)} shards whole",
            "all shards of these classes",
            "The same `t2imu synthesise` makes what is missing.",
        )
    counts = np.array([record["windows"] for record in records], dtype=int)
    return counts, sum(record["dropped"] for record in records)


def _draw(
    labels: Sequence[str],
    counts: Int[np.ndarray, "s"],
    classes: Sequence[str],
    per_class: int | None,
    seed: int,
) -> Int[np.ndarray, "n"]:
    """Numbers of the windows that are drawn, over all shards in order."""
    code = np.repeat([list(classes).index(name) for name in labels], counts).astype(np.int8)
    lost = [name for number, name in enumerate(classes) if not (code == number).any()]
    if lost:
        raise InputError(
            f"windows of {', '.join(lost)}", "none", "some of every class",
            "Ask for longer motions.",
        )  # fmt: skip
    rng = np.random.default_rng(seed)
    keep = [
        rng.permutation(np.flatnonzero(code == number))[:per_class]
        for number in range(len(classes))
    ]
    return np.sort(np.concatenate(keep))


def _read_shard(
    path: Path, rows: Int[np.ndarray, "n"], channels: Sequence[str], sites: Sequence[str]
) -> tuple[Float[np.ndarray, "n 40 C"], pd.DataFrame]:
    """Some windows of a file: channels as in `imu.windows.windows`, and the `KEYS` of each."""
    try:
        table = ds.dataset(path, format=_FORMAT).to_table(
            columns=[*KEYS, "site", *channels], filter=ds.field("site").isin(list(sites))
        )
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path, str(error).split("\n")[0]) from error
    at = np.array(table["site"])
    keys, signals = None, []
    for site in sites:
        mine = table.take(np.flatnonzero(at == site))
        if len(rows) and rows[-1] >= len(mine):
            raise _damaged(path, f"{len(mine)} windows at the {site}")
        mine = mine.take(rows)
        own = mine.select(KEYS).to_pandas()
        keys = own if keys is None else keys
        if not own.equals(keys):
            raise _damaged(path, f"other windows at the {site} than at the {sites[0]}")
        signals += [_signal(mine[channel]) for channel in channels]
    return np.concatenate(signals, axis=-1), keys


def _signal(column: pa.ChunkedArray) -> Float[np.ndarray, "n 40 3"]:
    flat = column.combine_chunks().flatten().to_numpy()
    return np.array(flat, dtype=np.float32).reshape(-1, SIZE, 3)


def _damaged(path: Path, found: str) -> InputError:
    return InputError(
        path, f"a damaged file ({found})", "a whole shard",
        "The same `t2imu synthesise` names it and makes it again.",
    )  # fmt: skip
