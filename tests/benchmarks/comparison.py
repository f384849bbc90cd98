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
        """The row as plain numbers and texts; all times in order."""
        told = ("name", "title", "unit", "reach", "floor", "floor_is", "note")
        return {name: getattr(self.comparison, name) for name in told} | {
            "ratio": self.ratio, "times the floor": self.distance, "agreement": self.agreement,
            "reference": self.reference, "ours": self.ours, "memory": self.memory,
        }  # fmt: skip


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
    cells, notes = [list(HEAD), ["---"] * len(HEAD)], [""]
    for row in rows:
        c = row.comparison
        times = [
            f"{_told(float(np.median(x)))} ({_told(min(x))} to {_told(max(x))})"
            for x in (row.reference, row.ours)
        ]
        floor = _told(c.floor), f"{row.distance:.3g}"
        cells.append(
            [f"{c.title}, a {c.unit}", *times, f"{row.ratio:,.3g}", c.reach, *floor, row.agreement]
        )
        notes.append(f"- {c.title}: the floor is {c.floor_is}.")
        if row.memory is not None and None not in row.memory:
            reference, ours = (peak / 1e6 for peak in row.memory)
            notes[-1] += f" Peak memory {reference:,.0f} MB in the reference, {ours:,.0f} MB here."
        notes[-1] += f" {c.note}" if c.note else ""
    return ["| " + " | ".join(line) + " |" for line in cells] + notes


def header(machine: Machine, repeats: int) -> list[str]:
    """What stands above the table."""
    return [*machine.lines(), f"medians of {repeats} in turns, with the range"]
