"""Publishing outputs, and what the committed notebooks are held to."""

import base64
import os
import shutil
from pathlib import Path

import nbformat
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.execute import execute
from t2imu_utils.publish import ABSOLUTE_PATH, cells_hash, check, clean_output, publish
from t2imu_utils.runs import ROOT, STAGES

COMMITTED = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIGURE = "import matplotlib.pyplot as plt\nplt.plot([0, 1])\nplt.show()"


def write(path: Path, *cells: str) -> Path:
    parameters = 'track: str = "demo"\nlambda_acc: float = 0.1  # eq. (6)'
    made = [
        nbformat.v4.new_markdown_cell("# A stage"),
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *(nbformat.v4.new_code_cell(cell) for cell in cells),
    ]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return path


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("executed")
    committed = write(folder / "notebooks" / "02_stage.ipynb", "print(track, lambda_acc)", FIGURE)
    given = {"track": "cmu", "lambda_acc": "0.3"}
    execute(committed, folder / "run" / "notebook.ipynb", given, progress=False)
    return folder


@pytest.fixture
def stage(executed, tmp_path) -> tuple[Path, Path]:
    """A committed notebook and the folder of its run on another track."""
    shutil.copytree(executed, tmp_path, dirs_exist_ok=True)
    return tmp_path / "notebooks" / "02_stage.ipynb", tmp_path / "run"


def edited(path: Path, change) -> Path:
    node = nbformat.read(path, as_version=4)
    change(node)
    nbformat.write(node, path)
    return path


def add(**output):
    return lambda node: node.cells[-1].outputs.append(nbformat.v4.new_output(**output))


def test_outputs_move_and_sources_stay(stage):
    committed, run = stage
    before = nbformat.read(committed, as_version=4)
    times = committed.stat().st_mtime_ns
    assert publish([run], committed.parent) == [committed]
    after = nbformat.read(committed, as_version=4)
    assert [c.source for c in after.cells] == [c.source for c in before.cells]
    assert [c.id for c in after.cells] == [c.id for c in before.cells]
    # The parameters cell shows the defaults, so what was run stands below it.
    assert "`track = 'cmu'`, `lambda_acc = 0.3`" in after.cells[1].outputs[0].data["text/markdown"]
    assert after.cells[2].outputs[0].text == "cmu 0.3\n"
    assert "image/png" in after.cells[3].outputs[0].data
    assert [c.execution_count for c in after.cells[1:]] == [1, 2, 3]
    assert set(after.metadata) == {"kernelspec", "language_info", "t2imu"}
    assert after.metadata.t2imu.track == "cmu"
    assert not any(set(c.metadata) - {"tags"} for c in after.cells)
    # Nothing changed that a run depends on, so the workflow must not run it again.
    assert committed.stat().st_mtime_ns == times
    assert check([committed]) == []
    # Publishing the same run again changes nothing.
    content = committed.read_bytes()
    publish([run], committed.parent)
    assert committed.read_bytes() == content


def test_only_the_run_of_this_very_code_is_published(stage):
    committed, run = stage
    content = edited(committed, lambda node: node.cells[2].update(source="print(1)")).read_bytes()
    with pytest.raises(InputError, match="differ from the committed"):
        publish([run], committed.parent)
    with pytest.raises(InputError, match="no record of the run"):
        publish([committed], committed.parent)
    assert committed.read_bytes() == content


def test_two_runs_of_one_notebook_are_refused(stage):
    committed, run = stage
    content = committed.read_bytes()
    with pytest.raises(InputError, match="a second run"):
        publish([run, run], committed.parent)
    assert committed.read_bytes() == content


PNG = base64.b64encode(os.urandom(151_000)).decode()
PROBLEMS = {
    "code cells have changed": lambda n: n.cells[2].update(source="print(track)"),
    "t2imu_utils has changed": lambda n: n.metadata.t2imu.update(package="0" * 64),
    "never published": lambda n: n.metadata.pop("t2imu"),
    "no outputs": lambda n: [c.update(outputs=[]) for c in n.cells[1:]],
    "cell 3: never run": lambda n: n.cells[2].update(execution_count=None),
    "cell 4: an error: ValueError: boom": add(
        output_type="error", ename="ValueError", evalue="boom", traceback=[]
    ),
    "cell 4: an image of 151 kB": add(output_type="display_data", data={"image/png": PNG}),
    "1.3 MB, at most 1": add(output_type="stream", name="stdout", text="x" * 1_300_000),
    "cell 4: the absolute path /home/me/data": add(
        output_type="stream", name="stderr", text="read '/home/me/data'\n"
    ),
    "cell 4: an output of type application/x-movie": add(
        output_type="display_data", data={"application/x-movie": "x"}
    ),
    "cell 4: 21 lines of code": lambda n: n.cells[3].update(source="x = 1\n" * 21),
    "metadata of widgets": lambda n: n.metadata.update(widgets={}),
    "kernelspec is not python3": lambda n: n.metadata.kernelspec.update(name="conda"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_each_problem_is_found(tmp_path, problem):
    path = write(tmp_path / "02_stage.ipynb", "print(1)", FIGURE)

    def publish_by_hand(node):
        for count, cell in enumerate(node.cells[1:], 1):
            cell.execution_count = count
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="20 m/s and 3/4")]
        node.metadata = nbformat.from_dict(
            {"kernelspec": {"name": "python3"}, "t2imu": {"code": "", "package": "1" * 64}}
        )
        node.metadata.t2imu.code = cells_hash(node)

    edited(path, publish_by_hand)
    assert check([path], package="1" * 64) == []
    edited(path, PROBLEMS[problem])
    assert any(line.startswith(f"02_stage.ipynb: {problem}") for line in check([path], "1" * 64))


def test_progress_bars_and_widgets_go_and_text_stays():
    def stream(name, text):
        return nbformat.v4.new_output("stream", name=name, text=text)

    bar = "training:  40%|####      | 4/10 [00:01<00:02,  3.1it/s]\n"
    assert clean_output(stream("stderr", bar)) is None
    assert clean_output(stream("stderr", bar + "a warning\n")).text == "a warning\n"
    assert clean_output(stream("stdout", "loss 40%| of it\n")).text == "loss 40%| of it\n"
    widget = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "0%|"}
    assert clean_output(nbformat.v4.new_output("display_data", data=widget)) is None
    both = {"text/plain": "Figure", "image/png": "", "image/svg+xml": "<svg>"}
    kept = clean_output(nbformat.v4.new_output("execute_result", data=both, execution_count=7))
    assert set(kept.data) == {"text/plain", "image/png"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("saved to /tmp/ipykernel_1/2.py", ["/tmp/ipykernel_1/2.py"]),
        ("PosixPath('/home/me/t2imu')", ["/home/me/t2imu"]),
        (r"in C:\Users\me", [r"C:\Users\me"]),
        ("~/data/cmu", ["~/data/cmu"]),
        ("20 m/s, 1/2, </td></tr>, https://a.org/b/c, data/runs/demo, a / b / c", []),
    ],
)
def test_absolute_paths(text, found):
    assert ABSOLUTE_PATH.findall(text) == found


def test_committed_notebooks_are_all_there():
    assert [path.stem for path in COMMITTED][: len(STAGES)] == list(STAGES)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_notebook_is_published(path):
    assert check([path]) == []
