"""The parameters cell: declared types, casts and refusals."""

from pathlib import Path

import nbformat
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.execute import execute, resolve_parameters

PARAMETERS = """\
# Everything a reader may change.
track: str = "demo"  # which data
lambda_acc: float = 0.1  # weight of L_acc, eq. (6)
steps: int | None = None  # None: the track's value
models: list[str] | None = None
sizes: list[float] = [1, 2.5]
contacts: bool = True
"""


def notebook(path: Path, parameters: str | None = PARAMETERS) -> Path:
    made = [nbformat.v4.new_markdown_cell("# A stage")]
    if parameters is not None:
        made.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return path


def resolve(tmp_path: Path, **given) -> dict:
    path = notebook(tmp_path / "declared.ipynb")
    return resolve_parameters(nbformat.read(path, as_version=4), given, path)[1]


def test_text_is_cast_to_the_declared_type(tmp_path):
    text = {
        "track": "001",
        "lambda_acc": "0",
        "steps": "12",
        "models": "[mdm, mdm-ft]",
        "sizes": "[1e-3, 2]",
        "contacts": "false",
    }
    found = resolve(tmp_path, **text)
    assert found == {
        "track": "001",
        "lambda_acc": 0.0,
        "steps": 12,
        "models": ["mdm", "mdm-ft"],
        "sizes": [0.001, 2.0],
        "contacts": False,
    }
    assert isinstance(found["lambda_acc"], float)
    assert resolve(tmp_path, steps="None", models="null")["models"] is None
    assert resolve(tmp_path, lambda_acc="1e-3")["lambda_acc"] == 0.001
    assert resolve(tmp_path)["sizes"] == [1.0, 2.5]


@pytest.mark.parametrize(
    "given",
    [
        {"lambda_acc": "much"},
        {"steps": "1.5"},
        {"lambda_acc": "1:30"},  # 90 to a reader of YAML
        {"sizes": "[1:30]"},
        {"lambda_acc": "nan"},
        {"track": "\udcff"},
        {"stride": 1},
        {"models": "mdm"},
        {"contacts": "perhaps"},
        {"lambda_acc": None},
        {"track": 1},
    ],
)
def test_values_of_another_type_are_refused(tmp_path, given):
    with pytest.raises(InputError, match=f"parameter {next(iter(given))}"):
        resolve(tmp_path, **given)


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        "n: int = 1\nm: int = n + 1",
        "n: int = 'one'",
        "n: int = (",
    ],
)
def test_parameters_cell_must_be_plain(tmp_path, parameters):
    path = notebook(tmp_path / "nb.ipynb", parameters=parameters)
    with pytest.raises(InputError, match="nb.ipynb: "):
        execute(path, tmp_path / "out.ipynb", {})
    assert not list(tmp_path.glob("out*"))
