"""The track `paper`, headless and in order, on a miniature of every official layout.

Nothing but the data is made up: the files lie where downloads lie, in the downloads' own layouts,
and are read by the code that reads those. One generator more is another project's files.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from t2imu_utils import runs
from t2imu_utils.demo import write_recordings
from t2imu_utils.files import sha256
from t2imu_utils.models.mdm import MDM, MDMConfig
from t2imu_utils.models.prompts import load_prompts
from t2imu_utils.models.text import load_text_encoder
from t2imu_utils.motion.corpus import mirror_caption, write_corpus
from t2imu_utils.motion.features import features_to_joints, joints_to_features, mirror_joints
from tests.body.layouts import write_fake_smpl
from tests.gait import gait_corpus
from tests.models.layouts import (
    write_clip,
    write_distilbert,
    write_official_mdm,
    write_official_momask,
    write_official_remodiffuse,
)
from tests.motion.test_exports import write_mdm

MODEL = MDMConfig(layers=1, width=32, heads=2, feedforward=32, text_width=32, dropout=0.1)
TRANSFORMER = {"width": 32, "layers": 1, "heads": 2, "feedforward": 32}
MOMASK = {
    "tokeniser_width": 32, "codes": 32, "levels": 2, "dropout": 0.1, "iterations": 2, **TRANSFORMER,
}  # fmt: skip
REMODIFFUSE = {
    "retrieval_layers": 1, "time_width": 32, "text_latent": 16, "text_layers": 1,
    "text_feedforward": 32, "diffusion_steps": 1000, "max_frames": 196, **TRANSFORMER,
}  # fmt: skip
CLASSES = ["lying", "running", "standing", "walking"]
TINY = {
    # Sizes beside a checkpoint are those of the published network.
    "generators": {
        "momask": {"checkpoint": "momask", "text_encoder": "clip", **MOMASK},
        "remodiffuse": {"checkpoint": "remodiffuse", "text_encoder": "clip", **REMODIFFUSE},
        "theirs": {"family": "exported", "folder": "theirs"},
    },
    "training": {"finetune_steps": 3, "batch_size": 8, "checkpoint_every": 2},
    "sampling": {"repetitions": 1, "seconds": [2.0, 2.2], "batch_size": 80},
    "analysis": {"timesteps": [1, 30], "max_clips": 12, "bootstrap": 50},
    "recordings": {"sites": ["head", "waist", "shin"], "classes": CLASSES},
    "har": {
        "epochs": 1, "filters": 4, "units": 8, "windows_per_class": 8,
        "test_windows_per_class": 30, "tsne_windows": 160, "folds": 3, "seeds": [0],
    },
}  # fmt: skip
ARMS = ["mdm", "mdm-ft", "mdm-acc0.2"]
OTHERS = ["momask", "remodiffuse", "theirs"]


def write_humanml3d(root, clips, splits):
    """The official folder, twins and index included, with one clip that official readers skip."""
    twins = [
        replace(
            clip,
            name=f"M{clip.name}",
            features=joints_to_features(mirror_joints(features_to_joints(clip.features))),
            captions=[mirror_caption(caption) for caption in clip.captions],
        )
        for clip in clips
    ]
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


def write_theirs(folder, clips):
    """What official MDM writes, for all prompts of the track but one."""
    prompts = [text for texts in load_prompts().values() for text in texts][1:]
    joints = [features_to_joints(clip.features[:60]) for clip in clips]
    motions = [joints[i % len(joints)] for i in range(len(prompts))]
    write_mdm(folder / "results.npy", motions, prompts, each=len(prompts))


@pytest.fixture(scope="module")
def paper(tmp_path_factory, tools):
    """Runs folder of the track, its executed notebooks, the clip that is not there, raw data."""
    folder = tmp_path_factory.mktemp("paper")
    root = folder / "raw"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2IMU_RUNS", str(folder / "runs"))
        patch.setenv("T2IMU_DATA", str(root))
        patch.setenv("OMP_NUM_THREADS", "1")
        clips, splits = gait_corpus(27)
        absent = write_humanml3d(root / "humanml3d", clips, splits)
        write_distilbert(root / "text_encoders" / "distilbert-base-uncased")
        write_clip(root / "text_encoders" / "clip-vit-base-patch32")
        write_official_mdm(root / "mdm" / "humanml_trans_dec_512_bert-50steps", MODEL)
        clip = load_text_encoder("clip")
        write_official_momask(root / "momask", MOMASK, clips, clip)
        write_official_remodiffuse(root / "remodiffuse", REMODIFFUSE, clips, clip)
        write_theirs(root / "theirs", clips)
        write_fake_smpl(root / "smpl")
        write_recordings(root / "realworld", 0, 3, CLASSES)
        write_track, execute_all = tools
        track = write_track(folder, "paper", "paper", TINY)
        bases = [{"generator": name, "lambda_acc": None} for name in OTHERS]
        executed = execute_all(track, folder, [{"lambda_acc": 0.2}, *bases])
        yield folder / "runs" / "paper", executed, absent, root


@pytest.mark.parametrize("stage", [*runs.STAGES, *(f"02_finetuning, {name}" for name in OTHERS)])
def test_every_notebook_runs_through(paper, stage):
    outputs = [o for cell in paper[1][stage].cells for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error"]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    written = sum(cell.source.count("plots.show(") for cell in paper[1][stage].cells)
    # Sensors on the open body and on SMPL, two activities by a phone; no other generator is
    # fine-tuned; no base is trained here, so that none has curves.
    more = {"04_imu_synthesis": 2, "05_lacc_analysis": -1, "02_finetuning": -1}
    more |= {f"02_finetuning, {name}": -2 for name in OTHERS}
    assert len(pictures) == written + more.get(stage, 0)


def record(paper, model, stage):
    return json.loads((paper[0] / model / stage / "run.json").read_text())


def test_every_arm_starts_from_the_checkpoint(paper):
    base = record(paper, "mdm", "02_finetuning")
    assert base["inputs"]["checkpoint"] and base["metrics"]["clips"] == 0
    assert base["params"]["sizes"] is None and base["params"]["file"] == "model000600000.pt"
    assert base["metrics"]["parameters"] == sum(p.numel() for p in MDM(MODEL).parameters())
    validation = {arm: record(paper, arm, "02_finetuning")["metrics"]["validation"] for arm in ARMS}
    assert validation["mdm"]["step"] == 0
    assert validation["mdm-ft"]["step"] == validation["mdm-acc0.2"]["step"] == 3
    assert len({terms["simple"] for terms in validation.values()}) == 3
    for arm in ARMS[1:]:
        trained = record(paper, arm, "02_finetuning")
        assert trained["inputs"]["base"] == runs.output_hash(base)
        assert trained["params"]["training"]["weights"]["acc"] == (0.2 if arm != "mdm-ft" else 0)
    settings = record(paper, "mdm-acc0.2", "02_finetuning")["params"]["training"]
    assert settings["learning_rate"] == 1e-4 and settings["ema_decay"] == 0.9999


def test_the_other_generators_are_taken_as_published(paper):
    sizes = {"momask": MOMASK, "remodiffuse": REMODIFFUSE}
    for name, own in sizes.items():
        base = record(paper, name, "02_finetuning")
        assert base["params"]["sizes"] == own and "training" not in base["params"]
        assert set(base["inputs"]) == {"checkpoint", "statistics", "text encoder", "corpus"}
        assert base["metrics"]["clips"] == 0 and base["metrics"]["validation"]["step"] == 0
        assert np.isfinite(list(base["metrics"]["validation"].values())).all()
        assert not (paper[0] / f"{name}-ft").exists()
    # The same CLIP, which is not MDM's encoder.
    encoders = {
        name: record(paper, name, "02_finetuning")["inputs"]["text encoder"]
        for name in ("mdm", *sizes)
    }
    assert encoders["momask"] == encoders["remodiffuse"] != encoders["mdm"]
    used = np.concatenate([np.load(paper[3] / "remodiffuse" / f"{n}.npy") for n in ("mean", "std")])
    statistics = record(paper, "remodiffuse", "02_finetuning")["inputs"]["statistics"]
    assert statistics == sha256(used.astype(np.float32).tobytes())


def test_motions_of_another_project_go_through(paper):
    base = record(paper, "theirs", "02_finetuning")
    assert base["inputs"]["motions"] == sha256(paper[3] / "theirs")
    requests = pd.read_parquet(paper[0] / "shared" / "01_prompt_generation" / "requests.parquet")
    found = record(paper, "theirs", "03_smpl_fitting")["metrics"]
    assert (found["motions"], found["left out"]) == (len(requests) - 1, 1)
    assert record(paper, "momask", "03_smpl_fitting")["metrics"]["motions"] == len(requests)
    losses = record(paper, "compare", "05_lacc_analysis")
    assert "theirs" not in losses["metrics"]["losses"] and "theirs, sampled" in losses["inputs"]
    compared = record(paper, "compare", "07_har")["params"]["models"]
    assert compared == [*ARMS, *OTHERS]


def test_a_clip_that_is_not_there_is_told(paper):
    skipped = pd.read_parquet(paper[0] / "shared" / "00_data" / "skipped.parquet")
    assert skipped["name"].str.contains(paper[2]).any()
    census = pd.read_parquet(paper[0] / "shared" / "00_data" / "census.parquet")
    assert census.set_index("source").loc["CMU", "missing"] == 1


def test_bodies_are_those_of_the_licensed_files(paper):
    expected = sha256(paper[3] / "smpl")
    for model in (*ARMS, *OTHERS):
        for stage in ("03_smpl_fitting", "04_imu_synthesis"):
            assert record(paper, model, stage)["inputs"]["body"] == expected
    # Eight people of two genders wear the sensors.
    bodies = pd.read_parquet(paper[0] / "mdm" / "04_imu_synthesis" / "imu.parquet")
    assert bodies["body"].nunique() == 8
