"""The work of one model in each stage, on a track of the smallest size."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from numpy.testing import assert_allclose

from t2imu_utils import arms, data, runs
from t2imu_utils.activities import POSITIONS, SITES
from t2imu_utils.analysis import har
from t2imu_utils.analysis.har import RecognitionVariant
from t2imu_utils.analysis.lacc import ESTIMATES, TERMS
from t2imu_utils.cells.__main__ import CELLS, main
from t2imu_utils.cells.losses import measure_losses
from t2imu_utils.cells.recognition import recognise
from t2imu_utils.cells.sampling import sample_and_fit
from t2imu_utils.cells.sensing import sense
from t2imu_utils.clips import Clips
from t2imu_utils.demo.corpus import build_corpus
from t2imu_utils.errors import InputError
from t2imu_utils.files import write_table
from t2imu_utils.imu.sensor_model import read_sensor_model
from t2imu_utils.models.diffusion import Solver
from t2imu_utils.models.text import TEXT_ENCODERS
from t2imu_utils.motion.corpus import write_corpus
from t2imu_utils.motion.features import features_to_joints
from t2imu_utils.tracks import load_track
from tests.conftest import WordEncoder

torch.set_num_threads(1)
CLASSES = ["lying", "running", "walking"]
MODELS = ("mdm", "momask", "remodiffuse")
REQUESTS = pd.DataFrame(
    {
        "activity": [*CLASSES, *CLASSES],
        "prompt": ["a person lies on a bed", "a person runs", "a person walks"] * 2,
        "repetition": [0, 0, 0, 1, 1, 1],
        "frames": [60, 62, 63, 61, 60, 64],
        "seed": range(7, 13),
    }
)


def write_track(tiny, folder):
    """The smallest track as a file of its own: three classes, one training of each classifier."""
    content = tiny.model_dump(exclude={"name", "file"}, exclude_none=True)
    content["generators"]["remodiffuse"]["max_frames"] = 64
    content["recordings"]["classes"] = CLASSES
    content["analysis"] |= {"timesteps": [1, 8], "max_clips": 4}
    content["har"] |= {
        "epochs": 1, "batch_size": 8, "filters": 4, "units": 4, "windows_per_class": 8,
        "test_windows_per_class": 12, "folds": 2, "seeds": [3, 5],
    }  # fmt: skip
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_track(str(path))


def write_shared(track):
    """Stages 00 and 01: made-up clips, recordings of noise, three requests."""
    clips, splits = build_corpus(seed=0, clips=27)
    run = runs.open_run(track.name, runs.SHARED, data.STAGE, {}, {})
    write_corpus(run.path("corpus"), clips, splits)
    table = pd.DataFrame({"name": [clip.name for clip in clips], "category": "walking"})
    rng = np.random.default_rng(0)
    rows = [{"subject": s, "activity": a} for s in range(1, 5) for a in CLASSES]
    rows = [{**row, "recording": number} for number, row in enumerate(rows)]
    acc = [rng.standard_normal((130, len(POSITIONS), 3)).astype(np.float32) for _ in rows]
    recordings = Clips.from_list(rows, {"acc": acc}, {"rate": 20.0, "sites": list(POSITIONS)})
    written = recordings.save(run.path("recordings"))
    written.append(write_table(run.path("categories.parquet"), table))
    run.finish({}, [run.path("corpus"), *written])
    run = runs.open_run(track.name, runs.SHARED, "01_prompt_generation", {}, {})
    run.finish({}, [write_table(run.path("requests.parquet"), REQUESTS)])


@pytest.fixture(scope="module")
def track(tiny, tmp_path_factory):
    """The track with stages 00 to 02 done; its runs folder stays set for this module."""
    folder = tmp_path_factory.mktemp("cells")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2IMU_RUNS", str(folder / "runs"))
        patch.setitem(TEXT_ENCODERS, "words", lambda cache: WordEncoder())
        track = write_track(tiny, folder)
        write_shared(track)
        training, held_out = (data.load_motions(track, split) for split in ("train", "val"))
        for name in MODELS:
            study = arms.Study(track, name, training, held_out, {})
            study.make_base(study.start())
        yield track


@pytest.fixture(scope="module")
def fitted(track):
    return sample_and_fit(track, "mdm")


@pytest.fixture(scope="module")
def sensed(track, fitted):
    return sense(track, "mdm")


@pytest.fixture
def apart(track, tmp_path, monkeypatch):
    """The same runs in a folder where they may be changed."""
    shutil.copytree(runs.runs_root(), tmp_path / "runs")
    monkeypatch.setenv("T2IMU_RUNS", str(tmp_path / "runs"))


def outputs(track, model, stage):
    return set(runs.require_run(track.name, model, stage)["outputs"])


# ---------------------------------------------------------------- 03
def test_motions_and_poses_are_those_of_the_requests(track, fitted):
    names = {f"{part}.{kind}" for part in ("motions", "fits") for kind in ("npz", "parquet")}
    assert outputs(track, "mdm", "03_smpl_fitting") == names
    motions, fits = data.load_sampled(track, "mdm"), Clips.load(fitted.path("fits"))
    for column in REQUESTS:
        assert motions.table[column].tolist() == REQUESTS[column].tolist()
    prior = arms.load_model(track, "mdm")
    again = arms.generator_of(track, "mdm").sample(prior, REQUESTS, None, 40, progress=False)
    assert_allclose(motions.arrays["features"], again.arrays["features"], atol=1e-5)
    for i, frames in enumerate(REQUESTS["frames"]):
        assert_allclose(motions[i]["joints"], features_to_joints(motions[i]["features"]))
        assert fits[i]["global_orient"].shape == (frames, 3)
    assert fits.table["activity"].tolist() == REQUESTS["activity"].tolist()
    assert np.isfinite(fits.arrays["body_pose"]).all() and fitted.metrics


def test_other_requests_or_guidance_are_other_motions(track, fitted, apart):
    sample_and_fit(track, "mdm", guidance=1.0)
    assert runs.load_run(track.name, "mdm", "03_smpl_fitting").params["guidance"] == 1.0
    shared = runs.open_run(track.name, runs.SHARED, "01_prompt_generation", {"other": 1}, {})
    shared.finish({}, [write_table(shared.path("requests.parquet"), REQUESTS[:1])])
    sample_and_fit(track, "mdm", guidance=1.0)
    assert len(data.load_sampled(track, "mdm")) == 1


def test_another_solver_is_another_run_of_those_that_have_a_choice(track, fitted, apart):
    short = Solver("dpm++2m", 3)
    run = sample_and_fit(track, "mdm", solver=short)
    assert run.params["solver"] == {"name": "dpm++2m", "evaluations": 3}
    made = data.load_sampled(track, "mdm").arrays["features"]
    section = track.generators["mdm"].model_copy(update={"solver": "dpm++2m", "evaluations": 3})
    other = track.model_copy(update={"generators": {**track.generators, "mdm": section}})
    sample_and_fit(other, "mdm")
    np.testing.assert_array_equal(data.load_sampled(track, "mdm").arrays["features"], made)
    sample_and_fit(track, "mdm")
    assert abs(data.load_sampled(track, "mdm").arrays["features"] - made).max() > 1e-3
    assert "solver" not in sample_and_fit(track, "momask", solver=short).params


# ---------------------------------------------------------------- 04
def test_every_motion_is_sensed_on_every_body(track, fitted, sensed):
    assert outputs(track, "mdm", "04_imu_synthesis") == {"imu.npz", "imu.parquet"}
    virtual = data.load_imu(track, "mdm")
    assert len(virtual) == 8 * len(REQUESTS) == sensed.metrics["clips"]
    assert virtual.table.groupby("body").size().tolist() == [len(REQUESTS)] * 8
    assert set(virtual.meta["sites"]) == set(SITES) and virtual.meta["rate"] == 20.0
    frames = int(8 * REQUESTS["frames"].sum())
    for name in ("acc", "gyro"):
        assert virtual.arrays[name].shape == (frames, len(virtual.meta["sites"]), 3)
        assert np.isfinite(virtual.arrays[name]).all()


def test_gravity_is_part_of_what_is_sensed(track, sensed, apart):
    before = data.load_imu(track, "mdm").arrays["acc"]
    sense(track, "mdm", gravity=0.0)
    after = data.load_imu(track, "mdm").arrays["acc"]
    assert_allclose(np.linalg.norm(before - after, axis=-1), 9.81, rtol=1e-3)


def test_a_scheme_and_a_sensor_model_are_part_of_what_is_sensed(track, sensed, apart):
    ideal = data.load_imu(track, "mdm").arrays["acc"]
    run = sense(track, "mdm", scheme="quintic")
    assert run.params["scheme"] == "quintic" and run.params["sensor_model"] is None
    assert abs(data.load_imu(track, "mdm").arrays["acc"] - ideal).max() > 0.1
    run = sense(track, "mdm", sensor_model="phone")
    assert run.params["sensor_model"]["acc_range"] == read_sensor_model("phone").acc_range
    worn = data.load_imu(track, "mdm").arrays["acc"]
    assert abs(worn).max() <= read_sensor_model("phone").acc_range
    assert 0.05 < abs(worn - np.clip(ideal, -19.6, 19.6)).mean() < 3.0


# ---------------------------------------------------------------- 05
@pytest.mark.parametrize(
    ("model", "levels"), [("mdm", [1, 8]), ("momask", [0]), ("remodiffuse", [20, 160])]
)
def test_losses_are_measured_at_levels_as_far_along(track, model, levels):
    run = measure_losses(track, model)
    assert outputs(track, model, "05_lacc_analysis") == {"losses.parquet"}
    table = pd.read_parquet(run.path("losses.parquet"))
    clips, _ = data.test_clips(track)
    assert len(clips) == 4 and set(table["clip"]) == {clip.name for clip in clips}
    assert sorted(set(table["timestep"])) == levels
    assert len(table) == 4 * len(levels) * len(ESTIMATES)
    assert np.isfinite(table[list(TERMS)].to_numpy()).all()
    own = table[table["estimate"] == "model"]
    assert run.metrics["acc"] == pytest.approx(own["acc"].mean())


def test_timesteps_and_seed_may_be_chosen(track, apart):
    first = measure_losses(track, "mdm")
    before = pd.read_parquet(first.path("losses.parquet"))
    run = measure_losses(track, "mdm", timesteps=[4])
    assert set(pd.read_parquet(run.path("losses.parquet"))["timestep"]) == {4}
    run = measure_losses(track, "mdm", seed=1)
    after = pd.read_parquet(run.path("losses.parquet"))
    assert after["timestep"].tolist() == before["timestep"].tolist()
    assert not np.allclose(after["acc"], before["acc"], rtol=1e-3)


# ---------------------------------------------------------------- 07
@pytest.mark.parametrize("model", ["mdm", runs.REAL])
def test_classifiers_are_tested_on_all_real_windows(track, sensed, model):
    run = recognise(track, model)
    assert outputs(track, model, "07_har") == {"counts.parquet"}
    counts = pd.read_parquet(run.path("counts.parquet"))
    assert set(har.COLUMNS) <= set(counts) and set(counts["truth"]) == set(CLASSES)
    # Twelve windows of each class at most, once for each of the track's seeds.
    assert counts.groupby(["seed", "truth"])["windows"].sum().tolist() == [12] * 6
    assert sorted(set(counts["seed"])) == [3, 5] and set(counts["subject"]) <= {1, 2, 3, 4}
    found = run.metrics["balanced_accuracy"]
    assert found["n"] == 2
    assert found["values"] == pytest.approx(har.balanced_accuracy(counts).tolist())


def test_seeds_of_the_classifiers_may_be_chosen(track, sensed, apart):
    run = recognise(track, "mdm", seeds=[11])
    assert set(pd.read_parquet(run.path("counts.parquet"))["seed"]) == {11}


def test_a_variant_is_kept_beside_the_default(track, sensed, apart):
    plain = recognise(track, "mdm", seeds=[3])
    assert set(plain.params) == {"har", "recordings", "seeds"}
    variant = RecognitionVariant(axes="gravity", without=("lying",))
    for model in ("mdm", runs.REAL):
        run = recognise(track, model, [3], variant)
        assert run.dir.name == "07_har-gravity-without_lying"
        counts = pd.read_parquet(run.path("counts.parquet"))
        assert set(counts["truth"]) == {"running", "walking"} >= set(counts["found"])
        assert run.params["recordings"]["classes"] == ["running", "walking"]
        assert run.params["variant"]["axes"] == "gravity"
        assert set(run.metrics["windows"]) == set(run.metrics["recall"]) == set(counts["truth"])
    # Real recordings are not filtered.
    assert recognise(track, runs.REAL, [3], replace(variant, keep=0.5)).dir == run.dir
    assert recognise(track, "mdm", seeds=[3]).metrics == plain.metrics


def test_a_filter_depends_on_the_motions_that_it_judges(track, sensed, apart, monkeypatch):
    monkeypatch.setattr(har, "repeat", counted_for_nothing)
    motions = runs.input_hash(track.name, "mdm", "03_smpl_fitting")
    half = recognise(track, "mdm", variant=RecognitionVariant(keep=0.5))
    assert half.inputs["motions"] == motions and half.params["variant"]["keep"] == 0.5
    every = recognise(track, "mdm")
    assert "motions" not in every.inputs
    found, whole = half.metrics["windows"], every.metrics["windows"]
    assert all(0 < found[name] < whole[name] for name in CLASSES)


def counted_for_nothing(train, test, classes, section, seeds, device):
    return pd.DataFrame({"seed": 3, "subject": 1, "truth": classes, "found": classes, "windows": 1})


# ---------------------------------------------------------------- what is missing, and by name
@pytest.mark.parametrize(
    ("work", "missing"),
    [
        (sample_and_fit, "02_finetuning"),
        (sense, "03_smpl_fitting"),
        (measure_losses, "02_finetuning"),
        (recognise, "04_imu_synthesis"),
    ],
)
def test_what_has_to_come_first_is_told(track, work, missing):
    with pytest.raises(InputError, match=rf"the finished stage {missing} of mdm-acc9\. Run .*"):
        work(track, "mdm-acc9")


def call(*arguments):
    return CliRunner().invoke(main, list(arguments))


def test_a_cell_is_done_by_its_name(track, fitted, apart):
    answer = call("04_imu_synthesis", "--track", str(track.file), "--model", "mdm")
    assert answer.exit_code == 0 and answer.stdout == "mdm, 04_imu_synthesis: done\n"
    answer = call("05_lacc_analysis", "--track", str(track.file), "--model", "momask")
    assert answer.exit_code == 0
    assert runs.require_run(track.name, "momask", "05_lacc_analysis")["metrics"]["acc"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("03_smpl_fitting", "--model", "kimodo"), "generator 'kimodo': found track small has mdm"),
        (("05_lacc_analysis", "--model", "mdm-acc9"), "the finished stage 02_finetuning of mdm-a"),
        (("07_har", "--model", "momask-acc9"), "the finished stage 04_imu_synthesis of momask-acc"),
        (("04_imu_synthesis", "--model", "mdm", "--track", "nowhere"), "track 'nowhere': found no"),
        (("07_har-gravity-tilted", "--model", "mdm"), "variant 'gravity-tilted'"),
    ],
)
def test_a_wrong_model_or_track_is_a_message(track, arguments, said):
    named = arguments if "--track" in arguments else (*arguments, "--track", str(track.file))
    answer = call(*named)
    assert answer.exit_code == 2 and answer.stderr.startswith("Error: ") and said in answer.stderr
    assert answer.stdout == "" and "Traceback" not in answer.output


def test_a_variant_is_done_by_its_name(track, sensed, apart):
    asked = ("--track", str(track.file), "--model", "mdm")
    answer = call("07_har-phone-without_lying", *asked)
    assert answer.exit_code == 0 and answer.stdout == "mdm, 07_har-phone-without_lying: done\n"
    assert outputs(track, "mdm", "07_har-phone-without_lying") == {"counts.parquet"}
    answer = call("04_imu_synthesis-phone", *asked)
    assert answer.exit_code == 2 and "07_har[-…]" in answer.stderr


def test_a_wrong_stage_is_a_message(track):
    command = [sys.executable, "-m", "t2imu_utils.cells"]
    answer = subprocess.run(
        [*command, "02_finetuning", "--model", "mdm"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2 and "'02_finetuning' is none of" in answer.stderr
    assert all(stage in answer.stderr for stage in CELLS)
    assert call("03_smpl_fitting").exit_code == 2  # no model
    assert "--model" in call("03_smpl_fitting").stderr


def test_every_cell_is_a_stage_of_the_paper_or_a_part_of_one():
    assert set(CELLS) <= {*runs.STAGES, *runs.PARTS}
