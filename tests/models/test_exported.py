from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.ndimage import gaussian_filter1d

from t2imu_utils import data, finetuning, runs
from t2imu_utils.body.fitting import fit_summary, fitted_joints
from t2imu_utils.body.smpl import load_body
from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256
from t2imu_utils.models.exported import POSE, RECORDED
from t2imu_utils.models.generator import Generator
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.motion.exports import read_poses
from t2imu_utils.motion.features import features_to_joints
from t2imu_utils.tracks import OPEN_BODY, TRACKS, load_track
from tests.motion.test_exports import write_mdm
from tests.motion.test_poses import amass, joints_of, moving, rest_pelvis

# Asked for in this order; nobody makes the second.
PROMPTS = ["A person walks.", "a person sits", "A person runs.", "a person walks"]


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture(scope="module")
def motions(body):
    """Two motions of the body itself at 20 fps: joints (T, 22, 3)."""
    return [joints_of(body, moving(20.0, seconds))[:, :22] for seconds in (3.0, 4.0)]


@pytest.fixture
def root(tmp_path, runs_folder, monkeypatch):
    """The data folder, beside runs in which stage 01 has asked for four motions."""
    (tmp_path / "raw" / "theirs").mkdir(parents=True)
    monkeypatch.setenv("T2IMU_DATA", str(tmp_path / "raw"))
    requests = pd.DataFrame({"activity": ["walking", "sitting", "running", "walking"]})
    requests = requests.assign(prompt=PROMPTS, frames=60, seed=range(4))
    with runs.record("mine", runs.SHARED, "01_prompt_generation", {}, {}) as run:
        run.save("requests", requests)
    return tmp_path / "raw"


def track_with(root, **options):
    """The demo with one more generator."""
    values = yaml.safe_load((TRACKS / "demo.yaml").read_text())
    values["generators"]["kimodo"] = {"family": "exported", "folder": "theirs", **options}
    (root / "mine.yaml").write_text(yaml.safe_dump(values))
    return load_track(str(root / "mine.yaml"))


def study_of(root, **options):
    return finetuning.Study(track_with(root, **options), "kimodo", [], [], {"corpus": "0" * 64})


def sampled(study):
    """The motions of a finished stage 02, and what they are on a body."""
    study.make_base(study.start())
    prior = finetuning.load_model(study.track, "kimodo")
    requests, body = data.load_requests(study.track), data.bodies(study.track).neutral
    motions = study.generator.sample(prior, requests, None, 8)
    return motions, study.generator.fits(prior, motions, body)


def test_results_of_mdm_answer_the_requests(root, motions):
    texts = ["a person runs", "A person walks", "someone waves"]
    write_mdm(root / "theirs" / "results.npy", [*motions, motions[0][:30]], texts, each=3)
    study = study_of(root)
    base = study.make_base(study.start())
    assert base.inputs == study.inputs | {"motions": sha256(root / "theirs")}
    assert {path.name for path in base.dir.iterdir()} == {
        "motions.npz", "motions.parquet", "left_out.parquet", finetuning.HISTORY, "run.json",
    }  # fmt: skip
    counts = {"motions": 3, "left out": 0, "parameters": 0, "clips": 0, "steps": 0}
    assert base.metrics == {"validation": {}, **counts}

    found, fits = sampled(study)
    # Numbers of the requests, so that the same number is the same request in every model.
    assert found.table["motion"].tolist() == [0, 2]
    assert found.table["activity"].tolist() == ["walking", "running"]
    assert found.table["frames"].tolist() == [81, 61] and list(found.arrays) == ["joints"]
    for i, expected in enumerate(reversed(motions)):
        np.testing.assert_allclose(found[i]["joints"], expected, atol=1e-6)
    assert set(fits.arrays) == set(POSE) and fits.table["motion"].tolist() == [0, 2]
    assert 0 < fits.arrays["joint_error"].mean() < 2e-3
    assert len(found) == 2 and len(found.meta["left_out"]) == 3
    told = {each["name"]: each["reason"] for each in found.meta["left_out"]}
    assert set(told) == {"request 1", "request 3", "results.npy#2"}
    assert told["request 1"] == "no motion left of “a person sits”"


def write_amass(root, body, count=2):
    for i in range(count):
        motion = moving(60.0, 3.0 + i)
        np.savez(root / "theirs" / f"{i + 1}.npz", **amass(motion, 60.0, rest_pelvis(body)))


def test_poses_are_taken_as_they_are(root, body):
    write_amass(root, body)
    (root / "prompts.txt").write_text("a person sits\nA person runs.\n")
    study = study_of(root, format="poses", prompts="prompts.txt", made_by="kimodo")
    found, fits = sampled(study)
    direct, _ = read_poses(root / "theirs", body)
    assert fits.table["motion"].tolist() == [1, 2]
    assert fits.table["project"].tolist() == ["kimodo"] * 2
    for name in POSE:
        np.testing.assert_array_equal(fits.arrays[name], direct.arrays[name])
    np.testing.assert_allclose(
        found.arrays["joints"], fitted_joints(direct, body).astype(np.float32), atol=1e-6
    )
    summary = fit_summary(fits, found, body)
    assert summary["joint error (mm)"] == 0 and summary["added acceleration (m/s²)"] < 1e-2
    sources = runs.require_run("mine", "kimodo", finetuning.STAGE)["inputs"]
    assert sources == study.inputs | {
        "motions": sha256(root / "theirs"), "prompts": sha256(root / "prompts.txt"),
        "body": sha256(OPEN_BODY),
    }  # fmt: skip


def test_there_is_no_model_to_train_or_to_examine(root, motions):
    write_mdm(root / "theirs" / "results.npy", motions, PROMPTS[:2], each=2)
    study = study_of(root)
    base = study.make_base(study.start())
    assert not study.refined and not finetuning.has_losses(study.track, "kimodo")
    with pytest.raises(InputError, match="there is no model here"):
        study.generator.train(None, [], None, None, [], "cpu")
    with pytest.raises(InputError, match="there is no model here"):
        study.generator.denoiser(None, "cpu")
    # Notebook 02 has no curves to show, and 05 nothing to measure.
    curves = pd.read_parquet(base.path(finetuning.HISTORY))
    assert curves.empty and not study.generator.curves
    assert finetuning.final_losses({"kimodo": curves}).empty


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folder": "nowhere"}, "raw/nowhere: found nothing; expected exported motions"),
        ({"rate": "30"}, "generators.kimodo.rate: found input should be a valid number"),
        ({"shape": "file"}, "generators.kimodo: found value error, shape: not for joints"),
        ({"rate": 20, "up": "y"}, "theirs: found motions without prompts; expected the prompt"),
        ({"rate": 20, "up": "y", "prompts": "none.txt"}, "raw/none.txt: found nothing readable"),
        ({"rate": 20, "up": "y", "prompts": "one.txt"}, "found 1 lines; expected 2, one for each"),
    ],
)
def test_bad_input_is_told(root, motions, options, message):
    for i, joints in enumerate(motions):
        np.save(root / "theirs" / f"{i}.npy", joints)
    (root / "one.txt").write_text("a person walks\n")
    with pytest.raises(InputError) as caught:
        study_of(root, **options).start()
    assert message in str(caught.value)


# ---------------------------------------------------------------- recorded motion
def test_each_request_gets_a_clip_of_its_activity(tmp_path):
    clips = [
        MotionClip(name, np.zeros((frames, 263), np.float32), ["-"], "", activity)
        for name, frames, activity in (
            ("a", 50, "walking"), ("b", 90, "walking"), ("c", 30, "walking"), ("d", 60, "gesture"),
            ("e", 45, "running"),
        )
    ]  # fmt: skip
    read = RECORDED.read(None, None, clips)
    assert read.clips.table["name"].tolist() == ["a", "b", "e"] and read.skipped[0].name == "c"
    requests = pd.DataFrame(
        {"activity": ["walking", "walking", "running", "lying"], "prompt": "-", "frames": 60,
         "seed": range(4)}
    )  # fmt: skip
    found = RECORDED.sample(read, requests, None, 1)
    # Different clips as long as there are any, whole or cut to what was asked for.
    assert sorted(found.table["frames"][:2]) == [50, 60] and found.table["frames"][2] == 45
    assert found.table["motion"].tolist() == [0, 1, 2]
    assert [left["name"] for left in found.meta["left_out"]] == ["lying"]
    path = tmp_path / "prior.safetensors"
    RECORDED.save(path, read)
    again = RECORDED.sample(RECORDED.load(path), requests, None, 1)
    np.testing.assert_array_equal(again.arrays["joints"], found.arrays["joints"])


def test_a_readout_and_a_gaussian_may_be_asked_for():
    features = np.random.default_rng(0).normal(0, 0.1, (30, 263)).astype(np.float32)

    class Fixed(Generator):
        def generate(self, *_):
            return [features]

    prior = SimpleNamespace(velocity_weight=3.0)
    requests = pd.DataFrame({"prompt": ["-"], "frames": [30], "seed": [0]})
    sample = Fixed().sample
    for given, weight in ((None, 3.0), (0.0, 0.0)):
        joints = sample(prior, requests, None, 1, velocity_weight=given).arrays["joints"]
        np.testing.assert_allclose(joints, features_to_joints(features, weight), atol=1e-6)
    smooth = sample(prior, requests, None, 1, smooth=1.0).arrays["features"]
    np.testing.assert_allclose(
        smooth, gaussian_filter1d(features, 1.0, axis=0, mode="nearest"), atol=1e-6
    )
    assert smooth.std() == pytest.approx(
        0.53 * features.std(), rel=0.1
    )  # 1 / (2 sqrt(pi)) of power
