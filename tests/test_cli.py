"""The command `t2imu`, as a user sees it; nothing here reaches a network."""

import json
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner

from t2imu_utils import inputs, runs
from t2imu_utils.cli import main
from t2imu_utils.errors import InputError
from t2imu_utils.models.mdm import GENERATOR, MDMConfig, new_prior
from t2imu_utils.motion.features import Normaliser


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An absent data folder, and no network."""

    def no_network(*_, **__):
        raise AssertionError("a test asked a server")

    monkeypatch.setenv("T2IMU_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(inputs.pooch, "retrieve", no_network)
    return tmp_path / "data"


def run(*arguments, code=0):
    answer = CliRunner().invoke(main, [*arguments])
    assert answer.exit_code == code, answer.output
    assert "Traceback" not in answer.output
    return answer


def test_status_for_machines(folder):
    content = json.loads(run("data", "status", "--track", "open", "--json", code=1).stdout)
    assert content["track"] == "open" and content["complete"] is False
    needed = ["cmu_descriptions", "bandai", "reactidle", "deepmimic", "uiprmd", "umafall", "hapt"]
    assert content["lacking"] == [*needed, "cmu_asfamc"]
    assert content["data_root"] == str(folder)
    first = content["inputs"][0]
    assert first["input"] == "cmu_descriptions" and first["state"] == "missing"
    assert json.loads(run("data", "status", "--json").stdout)["complete"] is True


def test_bad_input_is_a_message_and_exit_code_two(folder):
    output = run("data", "status", "--track", "papre", code=2).output
    assert output.startswith("Error: track 'papre': found no such track; expected one of demo, ")
    assert "'smlp'; expected one of amass" in run("data", "fetch", "smlp", code=2).output


def test_a_dry_run_names_addresses_and_places(folder):
    output = run("data", "fetch", "--track", "paper", "--dry-run").output
    assert "would download http://wifo5-14.informatik.uni-mannheim.de" in output
    assert f"to {folder}/realworld/realworld2016_dataset.zip" in output
    # What needs a login is explained instead.
    assert "Register at the page" in output and f"Its place: {folder}/smpl" in output
    assert "pamap2" not in output
    assert "PAMAP2" in run("data", "fetch", "--track", "paper", "--optional", "--dry-run").output
    assert not folder.exists()


def test_terms_come_before_the_download_and_failures_do_not_stop_the_rest(folder, monkeypatch):
    asked = []

    def fetch(entry, root, progress):
        asked.append(entry.name)
        if entry.name == "mhealth":
            raise InputError("http://x", "status 404, Not Found", "the file", "It has moved.")
        (root / entry.path).mkdir(parents=True)
        names = [f"Protocol/subject10{n}.dat" for n in range(1, 10)]
        with zipfile.ZipFile(root / entry.path / "pamap2.zip", "w") as archive:
            for name in names:
                archive.writestr(name, "")

    monkeypatch.setattr(inputs, "fetch", fetch)
    answer = run("data", "fetch", "mhealth", "pamap2", code=2)
    assert asked == ["mhealth", "pamap2"]
    assert "Error: http://x: found status 404" in answer.stderr
    assert "Not fetched: mhealth" in answer.stderr
    text = answer.stdout
    assert text.index("terms: CC BY 4.0; cite Reiss") < text.index("present: 9 of 9 subjects")
    assert "there already: 9 of 9 subjects" in run("data", "fetch", "pamap2").output
    assert asked == ["mhealth", "pamap2"]


def test_what_is_in_the_way_of_a_download_is_told(folder, monkeypatch):
    (folder / "mhealth").mkdir(parents=True)
    (folder / "mhealth" / "mhealth+dataset.zip").write_bytes(b"PK\x03\x04 cut off")
    answer = run("data", "fetch", "mhealth", code=2)
    assert "wrong: mhealth+dataset.zip is no whole archive" in answer.stdout
    assert f"Move what is in {folder}/mhealth away and fetch again." in answer.stderr


@pytest.fixture
def finished(runs_folder):
    """Two trainings that differ in one weight."""
    for model, weight in (("mdm-ft", 0.0), ("mdm-acc0.1", 0.1)):
        params = {"arm": {"lambda_acc": weight}, "training": {"steps": 30}}
        with runs.record("demo", model, "02_finetuning", params, {}) as made:
            made.outputs.append(made.path("prior.safetensors"))
            made.outputs[0].write_bytes(model.encode())
            made.metrics = {"validation": {"acc": 0.2 - weight}}
    return runs_folder / "demo"


def test_runs_are_listed_shown_and_compared(finished):
    lines = run("runs").output.splitlines()
    assert len(lines) == 3 and "λ" in lines[0] and "demo/mdm-acc0.1/02_finetuning" in lines[1]
    assert run("runs", "--track", "demo", "--stage", "02").output.splitlines() == lines
    assert "No finished run fits" in run("runs", "--track", "open").output
    assert "prior.safetensors" in run("runs", "show", "mdm-ft").output
    output = run("runs", "compare", "mdm-ft", "mdm-acc").output
    assert "params.arm.lambda_acc" in output and "params.training.steps" not in output
    assert "steps" in run("runs", "compare", "mdm-ft", "mdm-acc", "--all").output
    output = run("runs", "show", "mdm", code=2).output
    assert output.startswith("Error: run 'mdm': found 2 runs that fit")


@pytest.fixture
def prior(clips, words, tmp_path):
    """The file of an open prior that has learned nothing."""
    everything = np.concatenate([clip.features for clip in clips])
    normaliser = Normaliser(everything.mean(0), everything.std(0))
    config = MDMConfig(
        layers=1, width=16, heads=2, feedforward=24, dropout=0.0, max_frames=24, diffusion_steps=12
    )
    made = new_prior(config, normaliser, words, 0)
    return str(GENERATOR.save(tmp_path / "open.safetensors", made, half=True)[0])


def test_a_sentence_becomes_sensors_and_a_picture(folder, prior, tmp_path):
    out, picture = tmp_path / "new" / "walk.npz", tmp_path / "walk.png"
    output = run(
        "generate", "a person walks", "--seconds", "0.6", "--out", str(out), "--imu",
        "--picture", str(picture), "--prior", prior, "--person", "male short", "--seed", "3",
    ).stdout  # fmt: skip
    assert output.splitlines()[0] == "12 frames at 20 a second, 9 sensors"
    assert f"{out}: " in output and f"{picture}: " in output
    with np.load(out, allow_pickle=False) as file:
        assert file["acc"].shape == file["gyro"].shape == (12, 9, 3) and file["seed"] == 3
        assert json.loads(str(file["meta"]))["person"] == "male short"
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["walk", "--out", "folder.npz"], "folder.npz: found a folder"),
        (["walk", "--out", "w.npz", "--picture", "w.jpg"], "found the ending .jpg; expected .png"),
        (["", "--out", "w.npz"], "prompt: found ''; expected a sentence"),
        (["walk", "--out", "w.npz", "--seconds", "9"], "seconds: found 9; expected 0.15 to 1.2"),
        (["walk", "--out", "w.npz", "--seconds", "nan"], "seconds: found nan"),
        (["walk", "--out", "w.npz", "--guidance", "nan"], "guidance: found nan"),
        (["walk", "--out", "w.npz", "--seed", "-1"], "seed"),
        (["walk " * 100, "--out", "w.npz", "--seconds", "1"], "100 tokens"),
        (["\udce9", "--out", "w.npz"], "prompt: found '\\udce9'; expected a sentence"),
        (["walk", "--out", "w.npz", "--person", "giant"], "expected one of mean, male tall"),
        (["walk", "--out", "w.npz", "--solver", "euler"], "solver: found 'euler'"),
        (["walk", "--out", "w.npz", "--prior", "none"], "none: found nothing readable"),
    ],
)
def test_a_motion_that_cannot_be_made_is_a_message(
    folder, prior, tmp_path, monkeypatch, arguments, told
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.npz").mkdir()
    before = sorted(tmp_path.iterdir())
    assert told in run("generate", "--prior", prior, *arguments, code=2).output
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("wrong", [("--only", "4/3"), ("--workers", "0"), ("--motions", "x")])
def test_a_synthesis_that_cannot_be_is_a_message(folder, tmp_path, wrong):
    out = str(tmp_path / "windows")
    assert wrong[0] in run("synthesise", "--model", "mdm", "--out", out, *wrong, code=2).output
