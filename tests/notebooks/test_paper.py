"""The track `paper`, headless and in order, on a miniature of every official layout.

Nothing but the data is made up: the files lie where downloads lie, in the downloads' own layouts,
and are read by the code that reads those.
"""

import json
import shutil

import pandas as pd
import pytest

from t2imu_utils import runs
from t2imu_utils.demo.corpus import build_corpus
from t2imu_utils.demo.recordings import write_recordings
from t2imu_utils.inputs.status import status
from t2imu_utils.motion.corpus import mirrored, write_corpus
from t2imu_utils.priors.mdm import MDMConfig
from tests.body.layouts import write_fake_smpl
from tests.priors.layouts import write_distilbert, write_official_mdm

TINY = {
    "training": {"finetune_steps": 3, "batch_size": 8, "checkpoint_every": 2},
    "sampling": {"repetitions": 1, "seconds": [3.0, 3.2], "batch_size": 80},
    "analysis": {"timesteps": [1, 30], "max_clips": 12, "bootstrap": 50},
    "recordings": {"sites": ["head", "waist", "shin"]},
    "har": {
        "epochs": 1, "filters": 4, "units": 8, "windows_per_class": 8,
        "test_windows_per_class": 30, "tsne_windows": 160, "folds": 3, "seeds": [0],
    },
}  # fmt: skip
MODEL = MDMConfig(layers=1, width=32, heads=2, feedforward=32, text_width=32, dropout=0.1)
ARMS = ["mdm", "mdm-ft", "mdm-acc0.2"]


def write_humanml3d(root):
    """The official folder, twins and index included, with one clip that official readers skip."""
    clips, splits = build_corpus(0, 54)
    twins = [mirrored(clip) for clip in clips]
    splits = {name: [*own, *(f"M{n}" for n in own)] for name, own in splits.items()}
    write_corpus(root, [*clips, *twins], splits)
    (root / "clips.csv").unlink()
    shutil.rmtree(root / "new_joints")
    (root / "new_joint_vecs" / f"{splits['train'][0]}.npy").unlink()
    rows = [
        (f"./pose_data/CMU/{i:02d}/{i:02d}_01_poses.npy", 0, len(clip.features) + 1,
         f"{clip.name}.npy")
        for i, clip in enumerate(clips)
    ]  # fmt: skip
    index = pd.DataFrame(rows, columns=["source_path", "start_frame", "end_frame", "new_name"])
    index.to_csv(root / "index.csv", index=False)
    return splits["train"][0]


@pytest.fixture(scope="module")
def paper(tmp_path_factory, tools):
    """Runs folder of the track, its executed notebooks, and the clip that is not there."""
    folder = tmp_path_factory.mktemp("paper")
    root = folder / "raw"
    absent = write_humanml3d(root / "humanml3d")
    write_official_mdm(root / "mdm" / "humanml_trans_dec_512_bert-50steps", MODEL)
    write_distilbert(root / "text_encoders" / "distilbert-base-uncased")
    write_fake_smpl(root / "smpl")
    write_recordings(root / "realworld", 0, 3)
    write_track, execute_all = tools
    track = write_track(folder, "paper", "paper", TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2IMU_RUNS", str(folder / "runs"))
        patch.setenv("T2IMU_DATA", str(root))
        patch.setenv("OMP_NUM_THREADS", "1")
        executed = execute_all(track, folder, {"02_finetuning": {"lambda_acc": 0.2}})
        yield folder / "runs" / "paper", executed, absent


@pytest.mark.parametrize("stage", runs.STAGES)
def test_every_notebook_runs_through(paper, stage):
    outputs = [o for cell in paper[1][stage].cells for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error"]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    # One more than elsewhere: sensors on the open body and on SMPL.
    written = sum(cell.source.count("plots.show(") for cell in paper[1][stage].cells)
    assert len(pictures) == written + (stage == "04_imu_synthesis")


def record(paper, model, stage):
    return json.loads((paper[0] / model / stage / "run.json").read_text())


def test_every_arm_starts_from_the_checkpoint(paper):
    base = record(paper, "mdm", "02_finetuning")
    assert base["inputs"]["checkpoint"] and base["metrics"]["clips"] == 0
    assert base["params"]["prior"]["layers"] == MODEL.layers
    assert "training" not in base["params"]
    validation = {arm: record(paper, arm, "02_finetuning")["metrics"]["validation"] for arm in ARMS}
    assert validation["mdm"]["step"] == 0
    assert validation["mdm-ft"]["step"] == validation["mdm-acc0.2"]["step"] == 3
    assert len({terms["simple"] for terms in validation.values()}) == 3
    settings = record(paper, "mdm-acc0.2", "02_finetuning")["params"]["training"]
    assert settings["learning_rate"] == 1e-4 and settings["ema_decay"] == 0.9999


def test_a_clip_that_is_not_there_is_told(paper):
    skipped = pd.read_parquet(paper[0] / "shared" / "00_data" / "skipped.parquet")
    assert skipped["name"].str.contains(paper[2]).any()
    census = pd.read_parquet(paper[0] / "shared" / "00_data" / "census.parquet")
    assert census.set_index("source").loc["CMU", "missing"] == 1


def test_eight_people_of_two_genders_wear_the_sensors(paper):
    bodies = pd.read_parquet(paper[0] / "mdm" / "04_imu_synthesis" / "imu.parquet")
    assert bodies["body"].nunique() == 8
    assert record(paper, "mdm", "04_imu_synthesis")["inputs"]["body"]


def test_results_name_what_differs(paper):
    rows = record(paper, "compare", "07_har")["metrics"]["comparison"]
    text = " ".join(row["what differs"] for row in rows)
    assert "instead of the official checkpoint" not in text and "synthetic" not in text


def test_the_miniature_is_seen_as_incomplete_not_as_absent(paper):
    table = status("paper").set_index("input")
    assert (table["state"] != "missing").any()
