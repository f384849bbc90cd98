"""The state of every input of a track, as a table, and as text that says what to do next."""

import textwrap
from pathlib import Path

import pandas as pd

from t2imu_utils.inputs.checks import examine
from t2imu_utils.inputs.registry import Input, Registry, load_registry, needs_of
from t2imu_utils.tracks import data_root, load_track

COLUMNS = ["input", "needed", "state", "why", "what", "licence", "page", "size", "path", "get"]
COMMAND = "t2imu data fetch"
INDENT = 9  # of the labels in the text


def status(
    track: str,
    root: Path | None = None,
    registry: Registry | None = None,
) -> pd.DataFrame:
    """Every input of a track: is it there and right, under which terms, and how to get it.

    Args:
        track: name of a track, or the path of a YAML file of one's own.
        root: the data folder; None takes `tracks.data_root`.
        registry: None takes the repository's.

    Returns:
        A row for each input: ``input``, ``needed`` ("required", "either, choice 1" and so on, or
        "optional"), ``state`` ("present", "missing", "incomplete" or "wrong"), ``why``, ``what``,
        ``licence``, ``page``, ``size``, ``path`` (below the data folder), and ``get`` (a command,
        or steps by hand, one a line). No rows for a track that needs nothing.

    Raises:
        InputError: no such track, or a damaged registry.
    """
    root = data_root() if root is None else Path(root)
    registry = registry or load_registry()
    needs = needs_of(load_track(track), registry)
    listed = [(name, "required") for name in needs.required]
    for number, choice in enumerate(needs.either, 1):
        listed += [(name, f"either, choice {number}") for name in choice]
    listed += [(name, "optional") for name in needs.optional]
    rows = []
    for name, needed in listed:
        entry = registry.inputs[name]
        found = examine(entry, root)
        rows.append(
            (name, needed, found.state, found.why, entry.what, entry.licence, entry.page)
            + (entry.size, f"{entry.path}/", _how(entry))
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def lacking(table: pd.DataFrame) -> list[str]:
    """Names of the inputs that a track still lacks; empty if it can run.

    Of the choices only one must be whole; where none is, the members of the first that are not
    there are named.
    """
    absent = table["state"] != "present"
    names = table.loc[absent & (table["needed"] == "required"), "input"].tolist()
    either = table[table["needed"].str.startswith("either")]
    choices = [group for _, group in either.groupby("needed", sort=False)]
    if choices and not any((group["state"] == "present").all() for group in choices):
        first = choices[0]
        names += first.loc[first["state"] != "present", "input"].tolist()
    return names


def _how(entry: Input) -> str:
    steps = [f"{number}. {step}" for number, step in enumerate(entry.steps, 1)]
    if entry.files:
        steps = [f"{COMMAND} {entry.name}", *(["if that is refused:", *steps] if steps else [])]
    else:
        steps = ["by hand:", *steps]
    return "\n".join(steps)


def to_fetch(table: pd.DataFrame) -> list[str]:
    """Names of the inputs to go for, of a table without its optional rows if they are not wanted.

    Where one choice is whole, or can be downloaded, the others are left aside.
    """
    either = table[table["needed"].str.startswith("either")]
    choices = [group for _, group in either.groupby("needed", sort=False)]
    by_command = [g for g in choices if g["get"].str.startswith(COMMAND).all()]
    whole = [g for g in choices if (g["state"] == "present").all()]
    chosen = (whole or by_command or [either])[0]["input"]
    return [n for n in table["input"] if n in set(chosen) or n not in set(either["input"])]


def as_text(table: pd.DataFrame, track: str, root: Path, width: int = 80) -> str:
    """The table for a terminal of `width` columns, with what to do next at its end."""
    if table.empty:
        return f"Track {track} needs nothing: it makes its own data."
    lines = [f"Inputs of track {track}. Data folder (T2IMU_DATA):", f"  {root}", ""]
    for row in table.itertuples():
        lines.append(f"{row.state.upper():<{INDENT + 2}} {row.input}  [{row.needed}]")
        facts = {"what": f"{row.what} ({row.size})", "why": row.why, "licence": row.licence}
        facts |= {"from": row.page, "path": str(root / row.path)}
        if row.state != "present":
            facts["get"] = row.get
        for label, text in facts.items():
            lines += _labelled(label, text, max(width, 40))
        lines.append("")
    return "\n".join([*lines, *_closing(table, track, max(width, 40))])


def _labelled(label: str, text: str, width: int) -> list[str]:
    lines = []
    for part in text.splitlines():
        lines += textwrap.wrap(
            part,
            width,
            initial_indent=f"  {label:<{INDENT}} ",
            subsequent_indent=" " * (INDENT + 3),
            break_long_words=False,
            break_on_hyphens=False,
        )
        label = ""
    return lines


def _closing(table: pd.DataFrame, track: str, columns: int) -> list[str]:
    """A short table of all inputs, and what to do next."""
    by_command = table["get"].str.startswith(COMMAND)
    brief = table[["input", "state", "needed"]].assign(get="by hand")
    brief.loc[by_command, "get"] = "fetch"
    rows = [list(brief), *brief.itertuples(index=False)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shown = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    absent = lacking(table)
    if not absent:
        return [*shown, "", f"Everything that track {track} requires is there."]
    fetchable = [name for name in absent if name in set(table.loc[by_command, "input"])]
    by_hand = [name for name in absent if name not in fetchable]
    said = [f"Track {track} cannot run yet. Not there or not right: {', '.join(absent)}."]
    if fetchable:
        said.append(f"Next: {COMMAND} --track {track}  (for {', '.join(fetchable)})")
    if by_hand:
        said.append(f"By hand, as told above: {', '.join(by_hand)}.")
    if table["needed"].str.startswith("either").any():
        said.append("Of the choices under 'either' one suffices.")
    wrapped = [textwrap.wrap(text, columns, break_on_hyphens=False) for text in said]
    return [*shown, "", *sum(wrapped, [])]
