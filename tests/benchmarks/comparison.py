"""One hot path beside its plain reference: measured in turns, told as a row of the table."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.benchmarks.machine import Machine, peak_memory, seconds


@dataclass(frozen=True)
class Comparison:
    """What is measured.

    Attributes:
        name, title: of the row; `title` says the sizes.
        unit: one of what is done, such as "clip".
        reference, ours: the two ways; each takes nothing and returns what it made.
        reference_units, our_units: how many units one call does; the reference may do fewer.
        agree: (reference's result, ours) -> the difference in words. It raises `Disagreement`
            where the two do not do the same thing.
        reach: what is wanted of this row.
        floor: seconds a unit below which this machine cannot come.
        floor_is: how that was derived.
        warm: whether a call of each comes first that is not counted.
        memory: whether the peak of memory is told too.
        note: what else a reader must know.
    """

    name: str
    title: str
    unit: str
    reference: Callable[[], Any]
    ours: Callable[[], Any]
    agree: Callable[[Any, Any], str]
    reach: str
    floor: float
    floor_is: str
    reference_units: float = 1.0
    our_units: float = 1.0
    warm: bool = True
    memory: bool = False
    note: str = ""


class Disagreement(AssertionError):
    """The reference and our way did different things: comparing their times means nothing."""


def within(found: float, limit: float, told: str) -> str:
    """`told` filled with `found`; `Disagreement` where that is above `limit` or no number."""
    if not found <= limit:
        raise Disagreement(f"{told.format(found)}: more than {limit:g}")
    return told.format(found)


@dataclass
class Row:
    """What was found; times in seconds a unit."""

    comparison: Comparison
    reference: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    agreement: str = ""
    memory: tuple[float | None, float | None] | None = None

    @property
    def ratio(self) -> float:
        """How many times as long as ours the reference takes, by medians."""
        return float(np.median(self.reference) / np.median(self.ours))

    @property
    def distance(self) -> float:
        """How many times as long as the floor ours takes."""
        return float(np.median(self.ours) / self.comparison.floor)

    def record(self) -> dict[str, Any]:
        """The row as plain numbers and texts."""
        c = self.comparison
        found = {
            "path": c.title, "unit": c.unit, "reference": float(np.median(self.reference)),
            "ours": float(np.median(self.ours)), "ratio": self.ratio, "reach": c.reach,
            "floor": c.floor, "floor is": c.floor_is, "times the floor": self.distance,
            "agreement": self.agreement, "reference, all": self.reference, "ours, all": self.ours,
        }  # fmt: skip
        if self.memory is not None:
            found["peak memory (MB), reference and ours"] = [
                None if peak is None else round(peak / 1e6, 1) for peak in self.memory
            ]
        return found | ({"note": c.note} if c.note else {})


def measure(comparison: Comparison, repeats: int, device: str) -> Row:
    """Reference and ours in turns, `repeats` of each; the first results are compared."""
    c, row = comparison, Row(comparison)
    ways = {"reference": (c.reference, c.reference_units), "ours": (c.ours, c.our_units)}
    made: dict[str, Any] = {}
    if c.warm:
        made = {name: run() for name, (run, _) in ways.items()}
    for turn in range(repeats):
        for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            run, units = ways[name]
            took, result = seconds(run, device)
            getattr(row, name).append(took / units)
            made.setdefault(name, result)
    row.agreement = c.agree(made["reference"], made["ours"])
    if c.memory:
        row.memory = peak_memory(c.reference, device), peak_memory(c.ours, device)
    return row


def _told(value: float) -> str:
    """Seconds in a unit that reads well."""
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


HEAD = ("path", "reference", "ours", "ratio", "reach", "floor", "times the floor", "agreement")


def table(rows: list[Row]) -> list[str]:
    """The rows in Markdown; below them what each floor is, and the notes."""
    cells = [list(HEAD), ["---"] * len(HEAD)]
    for row in rows:
        c = row.comparison
        ranges = (
            f"{_told(float(np.median(times)))} ({_told(min(times))} to {_told(max(times))})"
            for times in (row.reference, row.ours)
        )
        cells.append(
            [
                f"{c.title}, a {c.unit}",
                *ranges,
                f"{row.ratio:,.3g}",
                c.reach,
                _told(c.floor),
                f"{row.distance:.3g}",
                row.agreement,
            ]  # fmt: skip
        )
    lines = ["| " + " | ".join(line) + " |" for line in cells] + [""]
    for row in rows:
        c = row.comparison
        lines.append(f"- {c.title}: the floor is {c.floor_is}.")
        if row.memory is not None and None not in row.memory:
            reference, ours = (peak / 1e6 for peak in row.memory)
            lines[-1] += f" Peak memory {reference:,.0f} MB in the reference, {ours:,.0f} MB here."
        if c.note:
            lines[-1] += f" {c.note}"
    return lines


def header(machine: Machine, repeats: int) -> list[str]:
    """What stands above the table."""
    return [*machine.lines(), f"medians of {repeats} in turns, with the range"]
