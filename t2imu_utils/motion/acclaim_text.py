"""The text of Acclaim files (ASF, AMC): sections, blocks and numbers, each with its line."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from t2imu_utils.errors import InputError

REMEDY = "Fetch the file again, or leave it out."
Line = tuple[int, list[str]]  # its number, from 1, and its words
Field = tuple[list[str], int]  # the words of a line that starts with a keyword, and its number


def split_sections(text: str, where: str | Path) -> dict[str, list[Line]]:
    """Lines of each ``:section`` of an ASF file; parentheses of limits count as space.

    Raises:
        InputError: no ``:units``, ``:root``, ``:bonedata`` or ``:hierarchy``.
    """
    sections: dict[str, list[Line]] = {}
    lines: list[Line] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.replace("(", " ").replace(")", " ").split()
        if not words or words[0].startswith("#"):
            continue
        if words[0].startswith(":"):
            lines = sections.setdefault(words[0][1:].lower(), [])
        else:
            lines.append((number, words))
    for section in ("units", "root", "bonedata", "hierarchy"):
        if section not in sections:
            raise InputError(where, f"no section :{section}", f"a section :{section}", REMEDY)
    return sections


def split_blocks(lines: list[Line], where: str | Path) -> list[list[Line]]:
    """The ``begin … end`` blocks of a section.

    Raises:
        InputError: a line outside of them, or ``begin`` and ``end`` not in turns.
    """
    blocks: list[list[Line]] = []
    inside = False
    for number, words in lines:
        if words[0] in ("begin", "end"):
            if (words[0] == "begin") == inside:
                raise InputError(
                    f"{where}: line {number}", words[0], "begin and end in turns", REMEDY
                )
            inside = not inside
            if inside:
                blocks.append([])
        elif not inside:
            raise InputError(f"{where}: line {number}", words[0], "begin", REMEDY)
        else:
            blocks[-1].append((number, words))
    if inside:
        raise InputError(f"{where}: line {number}", "the end of the section", "end", REMEDY)
    return blocks


def field_numbers(
    fields: dict[str, Field], field: str, count: int, where: str | Path
) -> list[float]:
    """The first `count` numbers of a field; raises `InputError` where they are not."""
    words, line = fields[field]
    return as_floats([words[1 : count + 1]], [line], f"{where}: {field}", count)[0].tolist()


def as_floats(
    rows: list[list[str]], lines: list[int], where: str, width: int | None = None
) -> Float[np.ndarray, "T D"]:
    """Rows of words as finite numbers.

    Args:
        rows: words of each row.
        lines: line number of each row.
        where: what the error names, beside the line of the first bad row.
        width: numbers a row; not looked at when None, where all rows must have as many.

    Raises:
        InputError: a word that is no finite number, or a row of another width.
    """
    try:
        values = np.array(rows, dtype=float)
        if np.isfinite(values).all() and width in (None, values.shape[1]):
            return values
    except ValueError:
        pass
    words, line = next(
        (words, line)
        for words, line in zip(rows, lines, strict=True)
        if width not in (None, len(words))
        or any(as_number(word) in (None, np.inf, -np.inf) for word in words)
    )
    expected = "finite numbers" if width is None else f"{width} finite number(s)"
    raise InputError(f"{where}, line {line}", repr(" ".join(words)), expected, REMEDY)


def as_number(word: str) -> float | None:
    """The number that a word stands for (limits may be infinite); None for any other word."""
    try:
        value = float(word)
    except ValueError:
        return None
    return None if np.isnan(value) else value
