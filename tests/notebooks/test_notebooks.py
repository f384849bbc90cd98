"""The nine notebooks, headless and in order, so small that only the machinery shows."""

import json

import pytest

from t2imu_utils import plots, runs

STACK = {"layers": 1, "width": 32, "heads": 2, "feedforward": 32, "dropout": 0.0}
TINY = {
    "corpus": {"made_up": 1},
    "recordings": {
        "made_up": 3, "sites": ["head", "waist", "shin"],
        "classes": ["lying", "running", "standing", "walking"],
    },
    "generators": {
        "mdm": {"refined": True, "diffusion_steps": 12, **STACK},
        "momask": {"tokeniser_width": 32, "codes": 32, "levels": 2, "iterations": 2, **STACK},
    },
    "training": {"pretrain_steps": 6, "finetune_steps": 4, "batch_size": 8, "checkpoint_every": 2},
    "sampling": {"seconds": [2.0, 2.2], "batch_size": 80},
    "analysis": {"timesteps": [1, 3], "max_clips": 12, "bootstrap": 50},
    "har": {
        "epochs": 1, "filters": 4, "units": 8, "windows_per_class": 8,
        "test_windows_per_class": 30, "tsne_windows": 160, "folds": 3, "seeds": [0, 1],
    },
}  # fmt: skip
ARMS = ["mdm", "mdm-ft", "mdm-acc0.5", "momask"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tools):
    """Track name, runs folder, and the executed notebooks by stage, of a whole tiny run."""
    folder = tmp_path_factory.mktemp("tiny")
    write_track, execute_all = tools
    track = write_track(folder, "tiny", "demo", TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2IMU_RUNS", str(folder / "runs"))
        patch.setenv("OMP_NUM_THREADS", "1")
        trained = [{"lambda_acc": 0.5}, {"lambda_acc": None, "generator": "momask"}]
        executed = execute_all(track, folder, trained)
        yield folder / "runs" / "tiny", folder / "runs" / "figures" / "tiny", executed


def outputs_of(notebook):
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


@pytest.mark.parametrize("stage", runs.STAGES)
def test_notebook_shows_what_it_promises(finished, stage):
    notebook = finished[2][stage]
    outputs = list(outputs_of(notebook))
    assert not [o for o in outputs if o.output_type == "error"]
    for cell in notebook.cells:
        shown = [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
        said = "".join(o.text for o in cell.get("outputs", []) if o.output_type == "stream")
        # Figures of a study, and one for each refined model beyond MDM: this track has neither.
        lacking = "No study is here" in said or "base_of(m) != BASE" in cell.source
        wanted = 0 if lacking else cell.source.count("plots.show(")
        assert len(shown) >= wanted, cell.source
        assert all(len(o.data["image/png"]) < 4 / 3 * plots.LIMIT + 1000 for o in shown)
    assert "plots.show(" in "".join(cell.source for cell in notebook.cells)


def test_every_stage_left_its_record(finished):
    folder, _, _ = finished
    found = {tuple(p.parts[-3:-1]) for p in folder.glob("*/*/run.json")}
    assert {("shared", "00_data"), ("shared", "01_prompt_generation")} <= found
    for stage in runs.STAGES[2:6] + ("07_har",):
        assert {(arm, stage) for arm in ARMS} <= found
    assert {("compare", stage) for stage in runs.STAGES[3:]} <= found
    for path in folder.glob("*/*/run.json"):
        model, stage = path.parts[-3:-1]
        written = set() if model == runs.COMPARE else set(runs.OUTPUTS.get(stage, ()))
        assert written <= set(json.loads(path.read_text())["outputs"])


def test_figures_and_results_are_written(finished):
    _, figures, _ = finished
    names = {p.name for p in figures.iterdir()}
    pictures = {"fig1_lacc.png", "fig1_seeds.png", "fig2_tsne.png", "fig3_har.png", "sweep.png"}
    pictures |= {"signals.png"}
    assert names == {*pictures, "results.json", "study.json", "paper_and_here.csv"}
    results = json.loads((figures / "results.json").read_text())
    assert set(results["models"]) == {*ARMS, "compare", "real"}
    accuracy = results["models"]["mdm"]["07_har"]["metrics"]["balanced_accuracy"]
    assert accuracy["n"] == 2 and 0 <= accuracy["mean"] <= 1
