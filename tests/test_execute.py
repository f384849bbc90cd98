"""The strict runner, on notebooks made here: their parameters cell, and what a run leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner

from t2imu_utils import execute as runner
from t2imu_utils.errors import InputError
from t2imu_utils.execute import NotebookError, execute, main, resolve_parameters

PARAMETERS = """\
# Everything a reader may change.
track: str = "demo"  # which data
lambda_acc: float = 0.1  # weight of L_acc, eq. (6)
steps: int | None = None  # None: the track's value
models: list[str] | None = None
sizes: list[float] = [1, 2.5]
contacts: bool = True
"""


def notebook(path: Path, *cells: str, parameters: str | None = PARAMETERS) -> Path:
    tags = {"tags": ["parameters"] if parameters is not None else []}
    made = [
        nbformat.v4.new_markdown_cell("# A stage"),
        nbformat.v4.new_code_cell(parameters or "", metadata=tags),
        nbformat.v4.new_markdown_cell("## Training"),
    ]
    made += [nbformat.v4.new_code_cell(cell) for cell in cells]
    node = nbformat.v4.new_notebook(cells=made)
    # The kernel of somebody's own environment.
    node.metadata["kernelspec"] = {"name": "conda-env-x", "display_name": "x", "language": "python"}
    nbformat.write(node, path)
    return path


def printed(out: Path) -> str:
    cells = nbformat.read(out, as_version=4).cells
    outputs = [o for cell in cells for o in cell.get("outputs", [])]
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")


def test_a_run_records_all_parameters_and_is_isolated(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    question = (
        "import json, os, sys, zmq\n"
        "from ipykernel.kernelapp import IPKernelApp\n"
        "app = IPKernelApp.instance()\n"
        "print(json.dumps([lambda_acc, models, sys.executable, os.getcwd(), app.transport,"
        " app.ip, os.environ['HF_HUB_OFFLINE'], os.environ['MPLBACKEND']]))"
    )
    path = notebook(tmp_path / "nb.ipynb", question)
    before = path.read_bytes()
    caplog.set_level("INFO", logger=runner.log.name)
    out = execute(path, tmp_path / "deep" / "out.ipynb", {"lambda_acc": "0.5"}, cwd=tmp_path)
    said = json.loads(printed(out))
    assert said[:5] == [0.5, None, sys.executable, str(tmp_path), "ipc"]
    assert said[6] == "1" and "inline" in said[7]
    # The kernel's folder is its own, on this node, and gone with it.
    assert not Path(said[5]).parent.exists()
    record = nbformat.read(out, as_version=4).metadata["t2imu"]
    assert record["notebook"] == "nb.ipynb"
    assert record["parameters"] == {
        "track": "demo", "lambda_acc": 0.5, "steps": None, "models": None, "sizes": [1.0, 2.5],
        "contacts": True,
    }  # fmt: skip
    assert [p.name for p in out.parent.iterdir()] == ["out.ipynb"]
    assert path.read_bytes() == before
    lines = [r.getMessage() for r in caplog.records if r.name == runner.log.name]
    assert len(lines) == 3 and lines[1].endswith("cell 5/5  Training")


def resolve(tmp_path: Path, **given) -> dict:
    path = notebook(tmp_path / "declared.ipynb")
    return resolve_parameters(nbformat.read(path, as_version=4), given, path)[1]


def test_text_is_cast_to_the_declared_type(tmp_path):
    text = {
        "track": "001", "lambda_acc": "0", "steps": "12", "models": "[mdm, mdm-ft]",
        "sizes": "[1e-3, 2]", "contacts": "false",
    }  # fmt: skip
    found = resolve(tmp_path, **text)
    assert found == {
        "track": "001", "lambda_acc": 0.0, "steps": 12, "models": ["mdm", "mdm-ft"],
        "sizes": [0.001, 2.0], "contacts": False,
    }  # fmt: skip
    assert isinstance(found["lambda_acc"], float)
    assert resolve(tmp_path, steps="None", models="null")["models"] is None


@pytest.mark.parametrize(
    "given",
    [
        {"lambda_acc": "1:30"},  # 90 to a reader of YAML
        {"sizes": "[1:30]"},
        {"lambda_acc": "nan"},
        {"track": "\udcff"},
        {"stride": 1},
        {"models": "mdm"},
        {"lambda_acc": None},
    ],
)
def test_values_of_another_type_are_refused(tmp_path, given):
    with pytest.raises(InputError, match=f"parameter {next(iter(given))}"):
        resolve(tmp_path, **given)


@pytest.mark.parametrize(
    "parameters", [None, "n: int = 1\nm: int = n + 1", "n: int = 'one'", "n: int = ("]
)
def test_parameters_cell_must_be_plain(tmp_path, parameters):
    path = notebook(tmp_path / "nb.ipynb", parameters=parameters)
    with pytest.raises(InputError, match="nb.ipynb: "):
        execute(path, tmp_path / "out.ipynb", {})
    assert not list(tmp_path.glob("out*"))


def test_failure_keeps_what_ran_and_the_earlier_result(tmp_path):
    path = notebook(tmp_path / "nb.ipynb", "print('one')", "raise ValueError('boom')", "print(2)")
    out = tmp_path / "out.ipynb"
    out.write_text("an earlier, whole result")
    answer = CliRunner().invoke(main, [str(path), str(out), "-p", "steps", "3", "--quiet"])
    assert answer.exit_code == 1
    assert "nb.ipynb, cell 6 (under 'Training'): ValueError: boom" in answer.stderr
    assert out.read_text() == "an earlier, whole result"
    assert sorted(p.name for p in tmp_path.glob("out*")) == ["out.failed.ipynb", "out.ipynb"]
    assert printed(tmp_path / "out.failed.ipynb") == "one\n"


def test_early_exit_and_dead_kernel_are_failures(tmp_path):
    for name, cell, said in (
        ("exit", "import sys; sys.exit(0)", "never reached"),
        ("dead", "import os; os._exit(9)", "Kernel died"),
    ):
        path = notebook(tmp_path / f"{name}.ipynb", cell, "print(1)")
        with pytest.raises(NotebookError, match=said):
            execute(path, tmp_path / f"{name}.out.ipynb", {}, progress=False)
        assert (tmp_path / f"{name}.out.failed.ipynb").exists()
        assert not (tmp_path / f"{name}.out.ipynb").exists()


def test_cancelled_job_keeps_what_ran_and_takes_its_kernel_along(tmp_path):
    told = tmp_path / "pid"
    cell = f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid()))"
    path = notebook(tmp_path / "nb.ipynb", cell, "time.sleep(300)")
    out = tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "t2imu_utils.execute", str(path), str(out), "--quiet"]
    job = subprocess.Popen(command, cwd=runner.ROOT, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (told.exists() and told.read_text()) and time.monotonic() < deadline:
            assert job.poll() is None
            time.sleep(0.1)
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 128 + signal.SIGTERM
    finally:
        job.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)
    assert [p.name for p in tmp_path.glob("out*")] == ["out.failed.ipynb"]


def test_for_one_model_what_compares_models_is_left_out(tmp_path):
    cell = nbformat.v4.new_code_cell
    cells = [
        cell("model: str | None = None", metadata={"tags": ["parameters"]}),
        cell("print(model)"),
        cell("print('all')", metadata={"tags": ["compare"]}),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "nb.ipynb")
    out = execute(tmp_path / "nb.ipynb", tmp_path / "out.ipynb", {"model": "mdm"}, progress=False)
    assert printed(out) == "mdm\n"


def test_command_line_refusals(tmp_path):
    path = notebook(tmp_path / "nb.ipynb")
    answer = CliRunner().invoke(main, [str(path), str(tmp_path / "out.ipynb"), "-p", "nope", "1"])
    assert answer.exit_code == 2 and answer.stderr.startswith("Error: ")
    before = path.read_bytes()
    answer = CliRunner().invoke(main, [str(path), str(path)])
    assert answer.exit_code == 2 and path.read_bytes() == before
    assert not list(tmp_path.glob("out*"))
