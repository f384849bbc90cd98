"""Committed notebooks: how outputs come into them, and that a code host can show them."""

import re
import shutil

import nbformat
import pytest

from t2imu_utils.execute import execute
from t2imu_utils.runs import ROOT, STAGES
from tools.publish import publish

# At least two parts, at the start of a word: neither 20 m/s nor </td> nor https://.
ABSOLUTE = re.compile(r"(?:^|[\s\"'`(=\[,])((?:/[A-Za-z0-9_.~-]+){2,})", re.MULTILINE)


def test_outputs_move_and_sources_stay(tmp_path):
    cells = [
        nbformat.v4.new_code_cell('track: str = "demo"', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("import sys; print(track); print(1, file=sys.stderr)"),
    ]
    committed, executed = tmp_path / "02_stage.ipynb", tmp_path / "run" / "notebook.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), committed)
    execute(committed, executed, {"track": "open"}, progress=False)
    time = committed.stat().st_mtime_ns
    found = nbformat.read(publish(executed, tmp_path), as_version=4)
    assert [c.source for c in found.cells] == [c.source for c in cells]
    assert [o.text for o in found.cells[1].outputs] == ["open\n"]
    assert "track = 'open'" in str(found.cells[0].outputs)
    assert committed.stat().st_mtime_ns == time
    shutil.copy(ROOT / "notebooks" / "00_data.ipynb", committed)
    with pytest.raises(SystemExit, match="as it is now"):
        publish(executed, tmp_path)


@pytest.mark.parametrize("stage", STAGES)
def test_a_code_host_can_show_it(stage):
    path = ROOT / "notebooks" / f"{stage}.ipynb"
    assert path.stat().st_size < 1_000_000
    for cell in nbformat.read(path, as_version=4).cells:
        outputs = cell.get("outputs", [])
        assert not [o for o in outputs if o.output_type == "error"], cell.source
        texts = [
            str(text) for o in outputs for text in (o.get("text"), *o.get("data", {}).values())
        ]
        assert not [found for text in (cell.source, *texts) for found in ABSOLUTE.findall(text)]
