"""Which files of the package a notebook reaches by its imports, and theirs.

What a stage depends on is decided here, for the workflow (when is it executed again?) and for the
published notebooks (do these outputs belong to this code?).
"""

import ast
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

NAME = "t2imu_utils"
ROOT = Path(__file__).parent.parent


def _imported(source: str) -> Iterator[str]:
    """Names that a piece of code imports, those from a package with the package's name before."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def _imported_by(file: Path, modified: int) -> frozenset[str]:
    return frozenset(_imported(file.read_text(encoding="utf-8")))


def _reached(names: set[str], root: Path) -> list[str]:
    """Files below the package that modules of these names are, and those that they import."""
    found: set[Path] = set()
    while names:
        parts = names.pop().split(".")
        for depth in range(1, len(parts) + 1):
            path = root.joinpath(*parts[:depth])
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            if parts[0] == NAME and file.exists() and file not in found:
                found.add(file)
                names |= _imported_by(file, file.stat().st_mtime_ns)
                names |= set(_chosen_by_name(file, root))
    return sorted(file.relative_to(root / NAME).as_posix() for file in found)


def _chosen_by_name(file: Path, root: Path) -> Iterator[str]:
    """Modules of a package that imports them by name when they are asked for."""
    imported = _imported_by(file, file.stat().st_mtime_ns)
    if file.name == "__init__.py" and "importlib" in imported:
        parts = file.parent.relative_to(root).parts
        yield from (".".join([*parts, p.stem]) for p in file.parent.glob("*.py") if p != file)


def package_files(notebook: Path, root: Path = Path()) -> list[str]:
    """The package's files that a notebook's cells import, directly or through each other.

    A package that imports its modules by name, such as `generators`, counts with all of them.

    Args:
        notebook: an ``.ipynb``; lines of magic (``%``, ``!``) are left out.
        root: the folder that holds the package.

    Returns:
        Paths below the package, such as ``"priors/mdm.py"``, in order.
    """
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    lines = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code").splitlines()
    code = "\n".join(line for line in lines if not line.startswith(("%", "!")))
    return _reached(set(_imported(code)), root)


def reached(*modules: str, rooms: Sequence[str] | None = None, root: Path = ROOT) -> list[str]:
    """The files in some rooms of the package that modules reach by their imports, themselves too.

    Args:
        modules: paths below the package, such as ``"priors/training.py"``.
        rooms: folders of the package, such as ``"priors"``; None for all files.
    """
    names = {
        f"{NAME}.{Path(module).with_suffix('').as_posix().replace('/', '.')}" for module in modules
    }
    return [file for file in _reached(names, root) if not rooms or file.split("/")[0] in rooms]
