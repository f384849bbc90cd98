"""What a notebook depends on: the package's files that its imports reach, and no others."""

import nbformat
import pytest

from t2imu_utils.dependencies import package_files
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


@pytest.mark.parametrize("stage", STAGES)
def test_stages_reach_what_they_run(stage):
    files = package_files(ROOT / "notebooks" / f"{stage}.ipynb", ROOT)
    assert {"__init__.py", "runs.py", "tracks.py"} <= set(files)
    assert ("priors/mdm.py" in files) == (
        stage in ("02_finetuning", "03_smpl_fitting", "05_lacc_analysis")
    )
    assert "body/build_open_body.py" not in files and "cli.py" not in files
