"""The parameters cell of a notebook: which values it declares, and values cast to their types."""

import ast
from pathlib import Path
from typing import Any

import nbformat
import yaml
from papermill.iorw import load_notebook_node
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from t2imu_utils.errors import InputError

TAG = "parameters"
TYPES = {t.__name__: t for t in (str, int, float, bool, list, tuple, dict)}


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """Read a notebook; an `InputError` names the file that is missing or damaged."""
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no file", "a notebook", "Check the path.")
    try:
        return load_notebook_node(str(path))
    except Exception as error:  # nbformat lets json, schema and key errors through
        raise InputError(
            path, f"no valid notebook ({error})", "a notebook of format 4", "Restore it from git."
        ) from error


def parameters_cell(notebook: nbformat.NotebookNode, where: Path) -> nbformat.NotebookNode:
    """The one cell tagged ``parameters``.

    Raises:
        InputError: there is none, or more than one.
    """
    tagged = [c for c in notebook.cells if TAG in c.metadata.get("tags", [])]
    if len(tagged) != 1 or tagged[0].cell_type != "code":
        raise InputError(
            where,
            f"{len(tagged)} cells tagged {TAG!r}",
            "one code cell with that tag",
            "Tag the cell that holds the parameters, and only that one.",
        )
    return tagged[0]


def declared_parameters(source: str, where: Path) -> dict[str, tuple[TypeAdapter, str, Any]]:
    """Name → (type, the type's text, default) of a parameters cell.

    Every statement must read ``name: type = literal``: a value derived there would keep what
    followed from the default when another value is injected below it.

    Raises:
        InputError: another statement, an unknown type, or a default of another type.
    """
    declared = {}
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise InputError(where, f"{error}", "Python", "Mend the parameters cell.") from error
    for node in statements:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        try:
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                raise ValueError
            default = ast.literal_eval(node.value)
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{where}: parameters cell",
                f"`{ast.unparse(node)}`",
                "only lines of the form `name: type = literal`",
                "Write the type, and derive values in the next cell.",
            ) from error
        name, annotation = node.target.id, ast.unparse(node.annotation)
        field = f"{where}: parameter {name}"
        try:
            adapter = TypeAdapter(eval(annotation, {"__builtins__": {}}, TYPES))
        except (NameError, TypeError, AttributeError, PydanticSchemaGenerationError) as error:
            known = ", ".join(TYPES)
            raise InputError(
                field, f"type {annotation}", f"a type made of {known} or None", "Use one of these."
            ) from error
        declared[name] = adapter, annotation, _cast(adapter, annotation, default, field)
    return declared


def _cast(adapter: TypeAdapter, annotation: str, value: Any, field: str) -> Any:
    """`value` as the declared type; text from a command line is read as text first, then as YAML.

    YAML alone would turn the tag ``001`` into 1 and leave ``1e-3`` a string.
    """
    readings = [value]
    if isinstance(value, str):
        if value in ("None", "null", ""):
            readings.insert(0, None)
        try:
            readings.append(yaml.safe_load(value))
        except yaml.YAMLError:
            pass
    for reading in readings:
        try:
            return adapter.validate_python(reading)
        except ValidationError:
            continue
    raise InputError(field, repr(value), f"a value of type {annotation}", "Pass such a value.")


def resolve_parameters(
    notebook: nbformat.NotebookNode, parameters: dict[str, Any], where: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check given parameters against the notebook's declared ones.

    Args:
        notebook: with its one parameters cell.
        parameters: name → value; text is cast to the declared type.
        where: the notebook's path, for messages.

    Returns:
        The given parameters cast, and all parameters with the defaults of the others.

    Raises:
        InputError: an unknown name, or a value that is not of the declared type.
    """
    declared = declared_parameters(parameters_cell(notebook, where).source, where)
    unknown = sorted(set(parameters) - set(declared))
    if unknown:
        raise InputError(
            where,
            f"unknown parameter {', '.join(unknown)}",
            f"one of {', '.join(declared)}",
            "Check the spelling, or declare it in the notebook's parameters cell.",
        )
    given = {
        name: _cast(*declared[name][:2], value, f"{where}: parameter {name}")
        for name, value in parameters.items()
    }
    return given, {name: given.get(name, default) for name, (_, _, default) in declared.items()}
