"""Which files of the package a notebook reaches by its imports, and theirs.

What a stage depends on is decided here, for the workflow (when is it executed again?) and for the
published notebooks (do these outputs belong to this code?).
"""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

NAME = "t2imu_utils"


def _imported(source: str) -> Iterator[str]:
    """Names that a piece of code imports, those from a package with the package's name before."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_files(notebook: Path, root: Path = Path()) -> list[str]:
    """The package's files that a notebook's cells import, directly or through each other.

    Args:
        notebook: an ``.ipynb``; lines of magic (``%``, ``!``) are left out.
        root: the folder that holds the package.

    Returns:
        Paths below the package, such as ``"priors/mdm.py"``, in order.
    """
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    lines = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code").splitlines()
    code = "\n".join(line for line in lines if not line.startswith(("%", "!")))
    found: set[Path] = set()
    names = set(_imported(code))
    while names:
        parts = names.pop().split(".")
        for depth in range(1, len(parts) + 1):
            path = root.joinpath(*parts[:depth])
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            if parts[0] == NAME and file.exists() and file not in found:
                found.add(file)
                names |= set(_imported(file.read_text(encoding="utf-8")))
    return sorted(file.relative_to(root / NAME).as_posix() for file in found)
