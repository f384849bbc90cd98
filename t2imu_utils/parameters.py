"""The parameters cell of a notebook: which values it declares, and values cast to their types.

papermill's own inspection drops a parameter whose type is a union, such as ``int | None``.
"""

import ast
from pathlib import Path
from typing import Any

import nbformat
import yaml
from papermill.iorw import load_notebook_node
from pydantic import ConfigDict, TypeAdapter, ValidationError

from t2imu_utils.errors import InputError

TAG = "parameters"
TYPES = {t.__name__: t for t in (str, int, float, bool, list, tuple, dict)}


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """Read a notebook; an `InputError` names the file that is missing or damaged."""
    try:
        return load_notebook_node(str(path))
    except Exception as error:  # nbformat lets json, schema and key errors through
        raise InputError(
            path, f"no notebook ({error})", "a notebook of format 4", "Check the path."
        ) from error


def resolve_parameters(
    notebook: nbformat.NotebookNode, given: dict[str, Any], where: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check given parameters against those that a notebook declares.

    Every statement of its one cell tagged ``parameters`` reads ``name: type = literal``: a value
    derived there would keep what followed from the default when another value is injected.

    Args:
        given: name to value; text is read as the declared type.
        where: the notebook's path, for messages.

    Returns:
        The given parameters cast, and all parameters with the defaults of the others.

    Raises:
        InputError: no such cell, an unknown name, or a value that is not of the declared type.
    """
    cells = [c.source for c in notebook.cells if TAG in c.metadata.get("tags", [])]
    form = "one cell of lines `name: type = literal`"
    declared, resolved = {}, {}
    try:
        (source,) = cells
        for line in ast.parse(source).body:
            if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
                continue
            name, kind = line.target.id, ast.unparse(line.annotation)
            reader = TypeAdapter(
                eval(kind, {"__builtins__": {}}, TYPES), config=ConfigDict(allow_inf_nan=False)
            )
            declared[name] = (reader, kind, f"{where}: parameter {name}")
            resolved[name] = _cast(ast.literal_eval(line.value), *declared[name])
    except InputError:
        raise
    except Exception as error:  # no such cell, another statement, an unknown type
        raise InputError(f"{where}: cells tagged {TAG}", str(error), form, "Mend them.") from error
    if unknown := sorted(set(given) - set(declared)):
        known = ", ".join(declared)
        raise InputError(
            where, f"unknown parameter {', '.join(unknown)}", f"one of {known}", "Check it."
        )
    cast = {name: _cast(value, *declared[name]) for name, value in given.items()}
    return cast, resolved | cast


def _cast(value: Any, reader: TypeAdapter, kind: str, field: str) -> Any:
    """`value` as the declared type; of the text of a list the items are read as theirs.

    A YAML reader that guesses would make 90 of ``1:30`` and 1 of the tag ``001``.
    """
    readings = [value]
    if isinstance(value, str):
        readings = [None, value] if value in ("None", "null", "") else [value]
        if value[:1] in ("[", "{"):
            try:
                readings.append(yaml.load(value, yaml.BaseLoader))
            except yaml.YAMLError:
                pass
        if value != value.encode("utf-8", "ignore").decode():  # bytes that are no UTF-8
            readings = []
    for reading in readings:
        try:
            return reader.validate_python(reading)
        except ValidationError:
            continue
    raise InputError(field, ascii(value), f"a value of type {kind}", "Pass such a value.")
