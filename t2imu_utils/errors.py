"""What a user sees when an input is wrong, and how things that are left out are told."""

from dataclasses import dataclass
from pathlib import Path


class InputError(ValueError):
    """An input that cannot be used, told so that the reader knows what to do next.

    Whatever reads an input raises it where that is missing, damaged or of another form, unit or
    rate than its docstring says.

    Args:
        where: the file, and the field in it (``"clips/0001.npy: frames"``).
        found: what was there.
        expected: what should have been there.
        remedy: what to do about it.
    """

    def __init__(self, where: str | Path, found: str, expected: str, remedy: str):
        self.where = str(where)
        self.found, self.expected, self.remedy = found, expected, remedy
        super().__init__(f"{where}: found {found}; expected {expected}. {remedy}")


@dataclass(frozen=True)
class Skipped:
    """One input that was left out, and why; readers return these instead of dropping in silence."""

    name: str
    reason: str
