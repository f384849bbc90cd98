"""Finished runs, read from their `run.json`: a list, one in full, and what two differ in."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from t2imu_utils.arm_names import model_order
from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.runs import (
    COMPARE,
    REAL,
    SHARED,
    output_hash,
    plain_stage,
    read_run,
    record_hash,
    runs_root,
)

REQUIRED = {"track", "model", "stage", "params", "inputs", "outputs", "metrics"}
SHORT, SHORTEST = 12, 4  # digits of a hash that are shown, and that must at least be given
# Ends of the names of parameters and metrics that a list of runs shows, first things first.
KEY_PARAMETERS = (
    *("weights.acc", "seed", "seeds", "steps", "learning_rate", "batch_size", "epochs", "guidance"),
    *("gravity", "repetitions", "seconds", "max_clips", "corpus", "recordings", "models"),
)
HEADLINES = (
    *(
        "validation.acc",
        "validation.total",
        "acc",
        "balanced_accuracy.mean",
        "balanced_accuracy.sd",
    ),
    *("joint error (mm)", "all.distance.value", "all.relative", "train", "requests", "motions"),
    *("clips", "recordings"),
)
SHOWN, LISTED = 3, 12  # values of a run, and runs that a message names
SECTIONS = ("parameters", "inputs", "versions", "outputs", "numbers")
NOTHING = "-"


@dataclass(frozen=True)
class RunRecord:
    """One finished run. content: its `run.json`. folder: where that stands."""

    folder: Path
    content: dict[str, Any]

    @property
    def name(self) -> str:
        """``track/model/stage``: where it stands below the runs folder."""
        return "/".join(self.folder.parts[-3:])

    @property
    def hash(self) -> str:
        """Hash of its `run.json`."""
        return record_hash(self.content)

    def as_row(self) -> dict[str, Any]:
        """What is listed of it, JSON-able."""
        taken = ("track", "model", "stage", "finished", "wall_seconds", "params", "metrics")
        row = {name: self.content.get(name) for name in taken}
        return {"run": self.name, "hash": self.hash, "folder": str(self.folder), **row}


def load_records(
    track: str | None = None, stage: str | None = None
) -> tuple[list[RunRecord], list[Skipped]]:
    """All finished runs by track, stage and model (`arm_names.model_order`).

    Args:
        track: only this one's.
        stage: only those of one stage, by its number or name (see `find_record`).

    Returns:
        The runs, and the files that are no whole `run.json`.
    """
    found, skipped = [], []
    for path in sorted(runs_root().glob("[!.]*/*/*/run.json")):
        wanted = track in (None, path.parts[-4]) and (stage is None or _fits(stage, path.parts[-2]))
        if not wanted:
            continue
        try:
            content = read_run(path.parent)
            if not REQUIRED <= set(content):
                lacking = ", ".join(sorted(REQUIRED - set(content)))
                raise InputError(path, f"no {lacking}", "a whole run.json", "Run its stage again.")
        except InputError as error:
            skipped.append(Skipped(str(path), str(error)))
        else:
            found.append(RunRecord(path.parent, content))
    return sorted(found, key=_place), skipped


def cost_by_stage(records: Iterable[RunRecord]) -> pd.DataFrame:
    """What finished runs took: a row for each stage in their order, then ``all``.

    A run's time is that of the wall, from the look whether it was done to its `run.json`; without
    the start of its process, and whatever else the machine did meanwhile is in it. Variants of a
    stage (`runs.stage_name`) count with it.

    Returns:
        Columns ``runs``, ``hours`` (sum), ``longest`` (minutes) and ``device``.
    """
    rows = [
        (plain_stage(r.content["stage"]), r.content["wall_seconds"], r.content["device"])
        for r in records
    ]
    table = pd.DataFrame(rows, columns=["stage", "seconds", "device"])
    whole = table.assign(stage="all")
    grouped = pd.concat([table, whole] if rows else [table]).groupby("stage")
    found = pd.DataFrame(
        {
            "runs": grouped["seconds"].count(),
            "hours": grouped["seconds"].sum() / 3600,
            "longest": grouped["seconds"].max() / 60,
            "device": grouped["device"].agg(lambda names: ", ".join(sorted(set(names)))),
        }
    )
    return found.loc[sorted(found.index, key=lambda stage: (stage == "all", stage))]


def _place(record: RunRecord) -> tuple[Any, ...]:
    track, model, stage = record.folder.parts[-3:]
    return track, stage, model in (SHARED, COMPARE, REAL), model_order(model)


def _fits(given: str, part: str) -> bool:
    """Whether `given` shortens `part`: its beginning, or that of what follows a stage's number."""
    return part.startswith(given) or re.sub(r"^\d+_", "", part).startswith(given)


def find_record(text: str, records: Sequence[RunRecord]) -> RunRecord:
    """The one run that `text` names.

    Args:
        text: ``track/model/stage``; any of these parts, each cut short, as long as only one run
            fits (``mdm-ft/02``); or the beginning of a run's hash. A part that is given in full
            goes before one that is not: ``mdm/02`` is no run of ``mdm-ft``.

    Raises:
        InputError: no run fits, or several do.
    """
    given = text.strip("/").split("/")
    places = []  # (how many parts are given in full, the run)
    for record in records:
        parts = record.name.split("/")
        for start in range(len(parts) - len(given) + 1):
            pairs = list(zip(given, parts[start:], strict=False))
            if all(_fits(short, part) for short, part in pairs):
                places.append((sum(short == part for short, part in pairs), record))
    best = max((exact for exact, _ in places), default=0)
    found = list({r.name: r for exact, r in places if exact == best}.values())
    if not found and len(text) >= SHORTEST:
        found = [record for record in records if record.hash.startswith(text.lower())]
    if len(found) == 1:
        return found[0]
    candidates = [f"{r.name} ({r.hash[:SHORT]})" for r in found or records]
    if len(candidates) > LISTED:
        candidates[LISTED:] = [f"{len(candidates) - LISTED} more"]
    raise InputError(
        f"run {text!r}",
        f"{len(found)} runs that fit" if found else "no such run",
        f"one of {', '.join(candidates) or 'none, since nothing has been run'}",
        "Give more of its name or hash; `t2imu runs` lists all.",
    )


def leaves(value: Any, split_lists: bool = False, name: str = "") -> dict[str, Any]:
    """Nested values by dotted name: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``.

    split_lists: give each element of a list a name of its own (``a.0``).
    """
    if isinstance(value, dict) and value:
        items: Iterable[tuple[str, Any]] = value.items()
    elif isinstance(value, list) and value and (split_lists or isinstance(value[0], dict)):
        items = ((str(i), item) for i, item in enumerate(value))
    else:
        return {name: value} if name else {}
    return {
        below: leaf
        for key, item in items
        for below, leaf in leaves(item, split_lists, f"{name}.{key}".lstrip(".")).items()
    }


def list_text(records: Sequence[RunRecord]) -> str:
    """An aligned table: a line for each run."""
    rows = [
        (
            record.hash[:8],
            record.name,
            str(record.content.get("finished", NOTHING)).replace("T", " ").removesuffix("Z"),
            _duration(record.content.get("wall_seconds")),
            _chosen(leaves(record.content["params"]), KEY_PARAMETERS),
            _chosen(leaves(record.content["metrics"]), HEADLINES),
        )
        for record in records
    ]
    if not rows:
        return f"No finished run fits, below {runs_root()}. `make paper` makes them."
    heads = ("hash", "run", "finished (UTC)", "wall", "parameters", "metrics")
    return "\n".join(_aligned(heads, rows))


def show_text(record: RunRecord, others: Sequence[RunRecord] = ()) -> str:
    """One run in full.

    Args:
        others: runs in which its inputs are looked for, to tell where they come from.
    """
    content = record.content
    origin = {output_hash(other.content): other.name for other in others}
    about = {
        "hash": record.hash,
        "folder": record.folder,
        "finished": content.get("finished"),
        "wall time": _duration(content.get("wall_seconds")),
        **_machine(content),
    }
    inputs = {
        name: f"{digest[:SHORT]}  {origin.get(digest, '')}"
        for name, digest in content["inputs"].items()
    }
    sections = {
        "parameters": leaves(content["params"]),
        "inputs": inputs,
        "outputs": {name: digest[:SHORT] for name, digest in content["outputs"].items()},
        "metrics": leaves(content["metrics"]),
        "versions": content.get("versions", {}),
    }
    lines = [record.name, *_pairs(about)]
    for title, values in sections.items():
        lines += ["", title, *(_pairs(values) or ["  none"])]
    return "\n".join(lines)


def differences(first: RunRecord, second: RunRecord, everything: bool = False) -> pd.DataFrame:
    """What two runs differ in.

    Args:
        everything: also what is equal.

    Returns:
        A row for each value: ``section`` (of `SECTIONS`), ``name``, ``a``, ``b`` (None where one
        has no such value), and for numbers ``difference`` (b - a) and ``ratio`` (b / a).
    """
    rows = []
    for section, a, b in zip(SECTIONS, _sections(first), _sections(second), strict=True):
        for name in dict.fromkeys([*a, *b]):
            old, new = a.get(name), b.get(name)
            if everything or not _same(old, new):
                measured = section == "numbers" and _number(old) and _number(new)
                change = (new - old, new / old if old else None) if measured else (None, None)
                rows.append((section, name, old, new, *change))
    columns = ["section", "name", "a", "b", "difference", "ratio"]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def compare_text(first: RunRecord, second: RunRecord, table: pd.DataFrame) -> str:
    """The table of `differences`, a part for each section."""
    lines = [f"a  {first.name}  {first.hash[:SHORT]}", f"b  {second.name}  {second.hash[:SHORT]}"]
    for section, rows in table.groupby("section", sort=False):
        heads = ("name", "a", "b", *(("b - a", "b / a") if section == "numbers" else ()))
        shown = _exactly if section == "parameters" else _shown
        cells = [
            (r.name, *map(shown, (r.a, r.b, r.difference, r.ratio)[: len(heads) - 1]))
            for r in rows.itertuples(index=False)
        ]
        lines += ["", section, *(f"  {line}" for line in _aligned(heads, cells))]
    return "\n".join(lines if len(table) else [*lines, "", "They differ in nothing."])


def _sections(record: RunRecord) -> list[dict[str, Any]]:
    """The values of a run that are compared, in the order of `SECTIONS`."""
    content = record.content
    short = {
        part: {name: digest[:SHORT] for name, digest in content[part].items()}
        for part in ("inputs", "outputs")
    }
    return [
        leaves(content["params"]),
        short["inputs"],
        content.get("versions", {}) | _machine(content),
        short["outputs"],
        leaves(content["metrics"], split_lists=True),
    ]


def _machine(content: dict[str, Any]) -> dict[str, Any]:
    git = content.get("git") or {}
    dirty = " and changes that were not committed" if git.get("dirty") else ""
    return {
        "git revision": f"{(git.get('revision') or 'unknown')[:SHORT]}{dirty}",
        "device": content.get("device"),
        "threads": content.get("threads"),
    }


def _chosen(values: dict[str, Any], ends: Sequence[str]) -> str:
    """The first few values whose names end as wished; by that end where it is clear."""
    labels: dict[str, str] = {}
    for end in ends:
        names = [n for n in values if n == end or n.endswith(f".{end}")]
        for name in names:
            labels.setdefault(name, end if len(names) == 1 else name)
    shown = [f"{label}={_shown(values[name])}" for name, label in labels.items()]
    return " ".join(shown[:SHOWN]) or NOTHING


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b or _number(a) and _number(b) and a == b


def _shown(value: Any) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        return ",".join(map(_shown, value))
    return str(value)


def _exactly(value: Any) -> str:
    return NOTHING if value is None else repr(value)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _pairs(values: dict[str, Any]) -> list[str]:
    width = max(map(len, values), default=0)
    return [f"  {name:<{width}}  {_shown(value)}".rstrip() for name, value in values.items()]


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *rows)
    ]
