"""What notebooks and cells depend on: the files that their imports reach, and no others."""

import nbformat
import pytest

from t2imu_utils.cells.__main__ import CELLS
from t2imu_utils.dependencies import package_files, reached
from t2imu_utils.runs import ROOT, STAGES


@pytest.fixture
def root(tmp_path):
    """A package in which `a` imports `deep.b`, which imports `c` inside a function."""
    package = tmp_path / "t2imu_utils"
    (package / "deep").mkdir(parents=True)
    for name, text in {
        "__init__": "", "a": "from t2imu_utils.deep.b import thing\n", "unused": "",
        "deep/__init__": "import numpy\n", "c": "import t2imu_utils.a\n",
        "deep/b": "def thing():\n    from t2imu_utils import c\n    return c\n",
    }.items():  # fmt: skip
        (package / f"{name}.py").write_text(text)
    return tmp_path


def notebook(root, *cells):
    path = root / "nb.ipynb"
    made = [nbformat.v4.new_code_cell(cell) for cell in cells]
    prose = nbformat.v4.new_markdown_cell("from t2imu_utils import unused")
    nbformat.write(nbformat.v4.new_notebook(cells=[prose, *made]), path)
    return path


def test_imports_are_followed_through_files_and_functions(root):
    path = notebook(root, "%matplotlib inline\nimport pandas", "from t2imu_utils.a import thing")
    files = ["__init__.py", "a.py", "c.py", "deep/__init__.py", "deep/b.py"]
    assert package_files(path, root) == files


def test_what_is_not_imported_does_not_count(root):
    assert package_files(notebook(root, "import os", "x = 1"), root) == []
    assert package_files(notebook(root, "from t2imu_utils import unused"), root) == [
        "__init__.py", "unused.py",
    ]  # fmt: skip


def test_modules_reach_themselves_and_what_they_import(root):
    files = ["__init__.py", "a.py", "c.py", "deep/__init__.py", "deep/b.py"]
    assert reached("deep/b.py", root=root) == files
    assert reached("unused.py", root=root) == ["__init__.py", "unused.py"]
    assert reached("unused.py", "deep/b.py", root=root) == sorted([*files, "unused.py"])


def test_of_what_is_reached_only_some_rooms_count(root):
    """A room is a folder: what stands beside the folders belongs to none."""
    assert reached("a.py", rooms=["deep"], root=root) == ["deep/__init__.py", "deep/b.py"]
    assert reached("a.py", rooms=["shallow"], root=root) == []


def test_a_package_that_imports_by_name_counts_with_all_its_modules(root):
    folder = root / "t2imu_utils" / "families"
    folder.mkdir()
    (folder / "__init__.py").write_text("import importlib\n")
    (folder / "one.py").write_text("from t2imu_utils import unused\n")
    (folder / "two.py").write_text("import os\n")
    chosen = ["families/__init__.py", "families/one.py", "families/two.py"]
    path = notebook(root, "from t2imu_utils.families import family")
    assert package_files(path, root) == ["__init__.py", *chosen, "unused.py"]
    assert reached("families/two.py", root=root) == ["__init__.py", *chosen, "unused.py"]
    # One that imports nothing by name counts with what is imported.
    (folder / "__init__.py").write_text("")
    assert reached("families/two.py", root=root) == ["__init__.py", chosen[0], chosen[2]]


@pytest.mark.parametrize("stage", STAGES)
def test_stages_reach_what_they_run(stage):
    files = set(package_files(ROOT / "notebooks" / f"{stage}.ipynb", ROOT))
    assert {"__init__.py", "runs.py", "files.py", "tracks.py"} <= files
    # All generators or none, since the track says which there are.
    generators = {f"generators/{p.name}" for p in (ROOT / "t2imu_utils/generators").glob("*.py")}
    trains = stage in ("02_finetuning", "03_smpl_fitting", "05_lacc_analysis", "07_har", "08_sweep")
    assert files & generators == (generators if trains else set())
    assert ("analysis/har.py" in files) == (stage in ("07_har", "08_sweep"))
    assert not files & {"body/build_open_body.py", "cli.py", "publish.py", "cells/__main__.py"}


@pytest.mark.parametrize("stage", CELLS)
def test_cells_reach_what_they_run_and_no_pictures(stage):
    module = CELLS[stage][0]
    files = set(reached(f"cells/{module}.py"))
    assert {f"cells/{module}.py", "data.py", "runs.py", "tracks.py"} <= files
    assert ("analysis/har.py" in files) == (module == "recognition")
    assert ("analysis/lacc.py" in files) == (module == "losses")
    assert ("generators/mdm.py" in files) == (module in ("sampling", "losses", "validation"))
    assert not files & {"plots.py", "pictures.py", "cells/__main__.py"}
    if module == "validation":  # the work of no notebook: 08 reads what it leaves
        return
    # Its notebook does the same work, so it is executed again whenever the cell is.
    assert files <= set(package_files(ROOT / "notebooks" / f"{stage}.ipynb", ROOT))
