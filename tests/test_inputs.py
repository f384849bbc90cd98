"""The registry, the checks on small files in official layouts, and the state of whole tracks."""

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from t2imu_utils.body.amass import RENAMED
from t2imu_utils.errors import InputError
from t2imu_utils.generators import remodiffuse
from t2imu_utils.inputs import status
from t2imu_utils.inputs.checks import CHECKS, examine
from t2imu_utils.inputs.downloads import unzip
from t2imu_utils.inputs.registry import (
    INPUTS,
    Registry,
    find_input,
    load_registry,
    needs_of,
    target,
)
from t2imu_utils.inputs.status import as_text, lacking, to_fetch
from t2imu_utils.priors import momask_checkpoints, retrieval_files, t2mgpt_checkpoints
from t2imu_utils.tracks import TRACKS, load_track

GENDERS = ("male", "female", "neutral")
SUBSETS = load_registry().inputs["amass"].facts["subsets"]
CLIPS = ("000001", "M000001", "000002", "M000002")


def small_registry() -> Registry:
    """The repository's registry, for a HumanML3D of two clips and their twins."""
    registry = load_registry()
    smaller = {
        "humanml3d": {"clips": len(CLIPS)},
        "humanml3d_texts": {"clips": len(CLIPS), "rows": 2},
    }
    inputs = {
        name: entry.model_copy(update={"facts": smaller.get(name, entry.facts)})
        for name, entry in registry.inputs.items()
    }
    return registry.model_copy(update={"inputs": inputs})


REGISTRY = small_registry()


def write(path: Path, content: bytes | str = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def array(path: Path, *shape: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.zeros(shape, np.float32))
    return path


def arrays(path: Path, **shapes: tuple[int, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    return path


def packed(path: Path, names: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"1")
    return path


def write_humanml3d_texts(root):
    folder = root / "humanml3d"
    for name, clips in {"train": CLIPS[:2], "val": CLIPS[2:3], "test": CLIPS[3:]}.items():
        write(folder / f"{name}.txt", "\n".join(clips) + "\n")
    write(folder / "all.txt", "\n".join(CLIPS))
    rows = [f"./pose_data/CMU/80/80_63_poses.npy,0,9,{name}.npy" for name in CLIPS[::2]]
    write(folder / "index.csv", "\n".join(["source_path,start_frame,end_frame,new_name", *rows]))
    array(folder / "Mean.npy", 263)
    array(folder / "Std.npy", 263)
    for name in CLIPS:
        write(folder / "texts" / f"{name}.txt", "a person walks#a/DET person/NOUN#0.0#0.0")


def write_humanml3d(root):
    for name in CLIPS:
        array(root / "humanml3d" / "new_joint_vecs" / f"{name}.npy", 40, 263)
        array(root / "humanml3d" / "new_joints" / f"{name}.npy", 40, 22, 3)


def write_amass(root):
    for number, names in enumerate(SUBSETS):
        # Old and new names by turns.
        folder = root / "amass" / names[number % len(names)]
        arrays(folder / "1" / "walk_poses.npz", poses=(5, 156), trans=(5, 3), betas=(16,))


def write_smplh(root):
    for gender in GENDERS[:2]:
        path = root / "smplh" / gender / "model.npz"
        arrays(path, v_template=(6890, 3), shapedirs=(6890, 3, 16))


def write_humanact12(root):
    array(root / "pose_data" / "humanact12" / "humanact12" / "P01G01.npy", 30, 24, 3)


def write_smpl(root):
    for gender, letter in zip(GENDERS, ("m", "f", "neutral"), strict=True):
        model = pickle.dumps({"v_template": gender}, protocol=0 if gender == "male" else 2)
        write(root / "smpl" / f"basicmodel_{letter}_lbs_10_207_0_v1.1.0.pkl", model)


def write_mdm(root, name="humanml_trans_dec_512_bert-50steps", **args):
    settings = {"arch": "trans_dec", "text_encoder_type": "bert", "diffusion_steps": 50, **args}
    write(root / "mdm" / name / "args.json", json.dumps(settings))
    packed(root / "mdm" / name / "model000600000.pt", ["archive/data.pkl"])


def safetensors(values: int) -> bytes:
    header = json.dumps({"a": {"dtype": "U8", "shape": [values], "data_offsets": [0, values]}})
    return len(header).to_bytes(8, "little") + header.encode() + bytes(values)


def write_encoder(root, name="distilbert-base-uncased", kind="distilbert"):
    folder = root / "text_encoders" / name
    write(folder / "config.json", json.dumps({"model_type": kind}))
    write(folder / "tokenizer.json", "{}")
    write(folder / "model.safetensors", safetensors(8))


def write_clip(root):
    write_encoder(root, "clip-vit-base-patch32", "clip")


def write_files(name):
    """What writes an input that is checked file by file."""

    def make(root):
        entry = load_registry().inputs[name]
        for file in entry.facts["torch"]:
            packed(root / entry.path / file, ["archive/data.pkl"])
        for file in entry.facts["statistics"]:
            array(root / entry.path / file, 263)
        for file, keys in entry.facts.get("arrays", {}).items():
            arrays(root / entry.path / file, **dict.fromkeys(keys, (2, 3)))

    return make


write_momask, write_remodiffuse, write_t2mgpt = map(
    write_files, ("momask", "remodiffuse", "t2mgpt")
)


def write_realworld(root, subjects=range(1, 16)):
    names = [
        f"realworld2016_dataset/proband{n}/data/{sensor}_walking_csv.zip"
        for n in subjects
        for sensor in ("acc", "gyr", "mag")
    ]
    packed(root / "realworld" / "realworld2016_dataset.zip", names)


MODELS = (write_mdm, write_encoder, write_momask, write_clip, write_remodiffuse)


def write_paper(root):
    for make in (write_humanml3d_texts, write_humanml3d, *MODELS, write_smpl, write_realworld):
        make(root)


def found(name, root):
    return examine(REGISTRY.inputs[name], root)


# The registry


def test_every_input_says_what_a_newcomer_needs():
    registry = load_registry()
    for name, entry in registry.inputs.items():
        assert entry.check in CHECKS, name
        assert entry.page.startswith(("https://", "http://")) and entry.licence and entry.size
        assert entry.files or entry.steps, f"{name}: neither a download nor steps"
        for file in entry.files:
            assert entry.url(file).startswith(("https://", "http://"))
            assert (file.turn is None) == (file.into is None)
            assert file.sha256 is None or len(file.sha256) == 64
            assert file.md5 is None or len(file.md5) == 32
            assert target(entry, file, Path("/d")).is_relative_to("/d")
            assert ".." not in target(entry, file, Path("/d")).parts


def test_nothing_that_needs_a_login_is_downloaded():
    for entry in load_registry().inputs.values():
        assert not any("mpg.de" in entry.url(file) for file in entry.files)


def test_names_of_subsets_are_those_that_the_build_reads():
    assert len(SUBSETS) == 18
    assert {names[0]: names[1] for names in SUBSETS if len(names) > 1} == RENAMED


def test_a_hub_of_ones_own_is_asked(monkeypatch):
    entry = load_registry().inputs["distilbert"]
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert entry.url(entry.files[0]).startswith("https://mirror.example/distilbert/distilbert")
    mdm = load_registry().inputs["mdm_clip"]
    assert "mirror" not in mdm.url(mdm.files[0])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: c["inputs"]["smpl"].pop("licence"), "inputs.smpl.licence: found field required"),
        (lambda c: c["inputs"]["smpl"].update(licence=3), "inputs.smpl.licence"),
        (lambda c: c["inputs"]["smpl"].update(colour="red"), "inputs.smpl.colour"),
        (lambda c: c["corpora"]["cmu"].update(required=["smlp"]), "corpora.cmu: found 'smlp'"),
        (lambda c: c.pop("inputs"), "no registry of inputs"),
    ],
)
def test_a_damaged_registry_is_told(tmp_path, change, word):
    content = yaml.safe_load(INPUTS.read_text("utf-8"))
    change(content)
    write(tmp_path / "inputs.yaml", yaml.safe_dump(content))
    with pytest.raises(InputError) as caught:
        load_registry(tmp_path / "inputs.yaml")
    assert word in str(caught.value)


def test_inputs_are_found_by_name_and_by_folder():
    assert find_input(REGISTRY, "distilbert").name == "distilbert"
    assert find_input(REGISTRY, "distilbert-base-uncased").name == "distilbert"
    with pytest.raises(InputError, match="'smlp'; expected one of amass, broad, clip"):
        find_input(REGISTRY, "smlp")


def test_needs_follow_from_the_track():
    assert needs_of(load_track("demo"), REGISTRY).names() == []
    cmu = needs_of(load_track("cmu"), REGISTRY)
    assert cmu.required == ["cmu_descriptions", "umafall"]
    assert cmu.either == [["cmu_asfamc"], ["cmu_bvh"]]
    paper = needs_of(load_track("paper"), REGISTRY)
    assert paper.required == [
        "humanml3d_texts", "mdm_distilbert", "distilbert", "momask", "clip", "remodiffuse", "smpl",
        "realworld",
    ]  # fmt: skip
    assert paper.either == [["humanml3d"], ["amass", "smplh", "humanact12"]]
    assert set(paper.optional) == {"mdm_clip", "t2mgpt", "pamap2", "mhealth", "broad"}


def needs_with(tmp_path, generators, **changes):
    """What the track `paper` needs with other generators."""
    content = yaml.safe_load((TRACKS / "paper.yaml").read_text()) | changes
    content["generators"] = generators
    content["recordings"]["reader"] = "pamap2"
    write(tmp_path / "mine.yaml", yaml.safe_dump(content))
    return needs_of(load_track(str(tmp_path / "mine.yaml")), REGISTRY)


def test_needs_of_a_track_of_ones_own(tmp_path):
    mdm = {"checkpoint": "mdm/humanml-encoder-512-50steps"}
    needs = needs_with(tmp_path, {"mdm": mdm}, text_encoder="clip_mdm")
    assert needs.required == ["humanml3d_texts", "mdm_clip", "clip", "smpl", "pamap2"]
    assert needs.optional == ["momask", "remodiffuse", "t2mgpt", "mhealth", "broad"]


def test_needs_follow_the_generators(tmp_path):
    generators = {
        "mdm": {"checkpoint": "mine/mdm"},  # which the registry does not know
        "t2mgpt": {"checkpoint": "t2mgpt", "text_encoder": "clip"},
        "kimodo": {"family": "exported", "folder": "kimodo"},
    }
    needs = needs_with(tmp_path, generators)
    assert needs.required[1:-1] == ["distilbert", "t2mgpt", "clip", "smpl"]
    # The encoder of the track, where no generator is left that it encodes for.
    generators["mdm"]["text_encoder"] = "clip"
    assert needs_with(tmp_path, generators).required[1:-1] == ["clip", "t2mgpt", "smpl"]


def test_the_layouts_are_those_that_are_read():
    def facts(name):
        return load_registry().inputs[name].facts

    momask, t2mgpt = momask_checkpoints, t2mgpt_checkpoints
    needed = [file for name, (file, _) in momask.FILES.items() if name != "lengths"]
    assert facts("momask")["torch"] == needed
    assert facts("t2mgpt")["torch"] == [file for file, _ in t2mgpt.FILES.values()]
    for name, meta in (("momask", momask.META), ("t2mgpt", t2mgpt.META)):
        assert facts(name)["statistics"] == [f"{meta}/mean.npy", f"{meta}/std.npy"]
    assert facts("remodiffuse") == {
        "torch": [remodiffuse.WEIGHTS], "statistics": ["mean.npy", "std.npy"],
        "arrays": {remodiffuse.OFFICIAL_DATABASE: list(retrieval_files.OFFICIAL)},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "holds"),
    [("momask", ["."]), ("t2mgpt", ["pretrained", "checkpoints"])],
)
def test_archives_of_checkpoints_unpack_into_their_places(tmp_path, name, holds):
    write_files(name)(tmp_path / "theirs")
    # The statistics come with the evaluator.
    write(tmp_path / "theirs" / "t2mgpt" / "checkpoints/t2m/text_mot_match/model/finest.tar")
    entry = REGISTRY.inputs[name]
    for file, part in zip(entry.files, holds, strict=True):
        # What an archive holds: the folders themselves (VQVAE/…), or one above all (t2m/…).
        inside = tmp_path / "theirs" / entry.path / part
        archive = target(entry, file, tmp_path)
        archive.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(archive, "w") as packed:
            for path in sorted(inside.rglob("*.*")):
                packed.write(path, path.relative_to(inside))
        unzip(archive, tmp_path / entry.path / file.into)
    assert found(name, tmp_path).state == "present"


# The checks


@pytest.mark.parametrize("name", REGISTRY.inputs)
def test_nothing_is_missing_and_not_an_error(tmp_path, name):
    assert found(name, tmp_path / "absent").state == "missing"
    (tmp_path / REGISTRY.inputs[name].path).mkdir(parents=True)
    assert found(name, tmp_path).state == "missing"


WRITERS = {
    "humanml3d_texts": (write_humanml3d_texts, "captions for 4 clips"),
    "humanml3d": (write_humanml3d, "features of 4 clips"),
    "amass": (write_amass, "all 18 subsets"),
    "smplh": (write_smplh, "male and female"),
    "humanact12": (write_humanact12, "1 clips"),
    "smpl": (write_smpl, "basicmodel_m_lbs_10_207_0_v1.1.0.pkl, basicmodel_f"),
    "mdm_distilbert": (write_mdm, "model000600000.pt"),
    "distilbert": (write_encoder, "model.safetensors"),
    "momask": (write_momask, "all 5 files"),
    "remodiffuse": (write_remodiffuse, "all 4 files"),
    "t2mgpt": (write_t2mgpt, "all 4 files"),
    "realworld": (write_realworld, "15 of 15 subjects with accelerometer files"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_official_layouts_are_present(tmp_path, name):
    make, why = WRITERS[name]
    make(tmp_path)
    answer = found(name, tmp_path)
    assert answer.state == "present" and why in answer.why


MOMASK = momask_checkpoints.RVQ_FOLDER


def spoil(root: Path, name: str, what: str) -> None:
    """Write an input whole, then do to it what the tests below name."""
    WRITERS[name][0](root)
    verb, _, rest = what.partition(" ")
    path = root / REGISTRY.inputs[name].path / rest
    if verb == "drop":
        path.unlink()
    elif verb == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif verb == "html":
        path.write_text("<!DOCTYPE html><title>Sign in</title>")
    elif verb == "list":
        path.write_text("[]")
    elif verb == "head":
        path.write_bytes(path.read_bytes()[:80])


@pytest.mark.parametrize(
    ("name", "what", "state", "why"),
    [
        ("humanml3d_texts", "drop Mean.npy", "incomplete", "lacks Mean.npy"),
        ("humanml3d_texts", "drop texts/000001.txt", "incomplete", "no captions for 1 of 4 clips"),
        ("humanml3d_texts", "drop index.csv", "incomplete", "lacks index.csv"),
        ("humanml3d_texts", "html index.csv", "wrong", "index.csv has no column end_frame"),
        ("humanml3d_texts", "html Std.npy", "wrong", "Std.npy is no NumPy array"),
        ("humanml3d", "drop new_joint_vecs/000001.npy", "incomplete", "no features for 1 of 4"),
        ("humanml3d", "html new_joint_vecs/000001.npy", "wrong", "000001.npy is no NumPy array"),
        ("humanml3d", "cut new_joint_vecs/000001.npy", "wrong", "000001.npy is cut off: 42,2"),
        ("amass", "drop CMU/1/walk_poses.npz", "incomplete", "lacks CMU"),
        ("amass", "html ACCAD/1/walk_poses.npz", "wrong", "walk_poses.npz is no whole"),
        ("smplh", "drop male/model.npz", "incomplete", "lacks male/model.npz"),
        ("smplh", "html male/model.npz", "wrong", "model.npz is no whole zip archive"),
        ("smpl", "drop basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl", "incomplete", "the neutral"),
        ("smpl", "html basicmodel_f_lbs_10_207_0_v1.1.0.pkl", "wrong", "is no pickle (it begins"),
        ("smpl", "cut basicmodel_m_lbs_10_207_0_v1.1.0.pkl", "wrong", "is cut off"),
        ("mdm_distilbert", "drop args.json", "incomplete", "lacks args.json"),
        ("mdm_distilbert", "drop model000600000.pt", "incomplete", "lacks model*.pt"),
        ("mdm_distilbert", "head model000600000.pt", "wrong", "no whole PyTorch file"),
        ("mdm_distilbert", "html args.json", "wrong", "args.json is no valid JSON"),
        ("mdm_distilbert", "list args.json", "wrong", "unreadable"),
        ("distilbert", "list config.json", "wrong", "unreadable"),
        ("distilbert", "drop config.json", "incomplete", "lacks config.json"),
        ("distilbert", "drop tokenizer.json", "incomplete", "lacks tokenizer.json or vocab.txt"),
        ("distilbert", "drop model.safetensors", "incomplete", "lacks model.safetensors"),
        ("distilbert", "cut model.safetensors", "wrong", "is cut off"),
        ("distilbert", "html model.safetensors", "wrong", "is no safetensors file"),
        ("momask", f"drop {MOMASK}/meta/std.npy", "incomplete", f"lacks {MOMASK}/meta/std.npy"),
        ("momask", f"html {MOMASK}/model/net_best_fid.tar", "wrong", "no whole PyTorch file"),
        ("momask", f"cut {MOMASK}/meta/mean.npy", "wrong", "mean.npy is cut off"),
        ("remodiffuse", "drop t2m_text_train.npz", "incomplete", "lacks t2m_text_train.npz"),
        ("remodiffuse", "head t2m_text_train.npz", "wrong", "npz is no whole zip archive"),
        ("remodiffuse", "drop mean.npy", "incomplete", "lacks mean.npy"),
        ("t2mgpt", "html pretrained/VQVAE/net_last.pth", "wrong", "no whole PyTorch file"),
        ("realworld", "head realworld2016_dataset.zip", "wrong", "is no whole zip archive"),
    ],
)
def test_what_lacks_or_is_damaged_is_told(tmp_path, name, what, state, why):
    spoil(tmp_path, name, what)
    answer = found(name, tmp_path)
    assert answer.state == state and why in answer.why


def test_shapes_and_versions_are_told(tmp_path):
    write_paper(tmp_path)
    array(tmp_path / "humanml3d" / "Mean.npy", 251)
    assert found("humanml3d_texts", tmp_path).why == "Mean.npy has shape (251,), not (263,)"
    array(tmp_path / "humanml3d" / "Mean.npy", 263)
    index = tmp_path / "humanml3d" / "index.csv"
    write(index, index.read_text() + "\n./pose_data/x_poses.npy,0,9,000003.npy")
    assert found("humanml3d_texts", tmp_path).why == "index.csv has 3 rows, not 2"
    array(tmp_path / "humanml3d" / "new_joint_vecs" / "000001.npy", 40, 251)
    assert "new_joint_vecs/000001.npy has shape (40, 251)" in found("humanml3d", tmp_path).why
    write_mdm(tmp_path, arch="trans_enc")
    path = tmp_path / "remodiffuse" / "t2m_text_train.npz"
    arrays(path, text_features=(2, 3), captions=(2,), motions=(2, 3), m_lengths=(2,))
    assert found("remodiffuse", tmp_path).why == f"{path.name} has no array clip_seq_features"
    answer = found("mdm_distilbert", tmp_path)
    assert answer.why == "args.json says arch = 'trans_enc', not 'trans_dec': another model"
    write_encoder(tmp_path, kind="bert")
    assert "model_type = 'bert', not distilbert" in found("distilbert", tmp_path).why
    write_realworld(tmp_path, range(1, 15))
    answer = found("realworld", tmp_path)
    assert answer.state == "incomplete" and answer.why.startswith("14 of 15 subjects with acc")
    states = {n: found(n, tmp_path).state for n in ("humanml3d", "mdm_distilbert", "distilbert")}
    assert set(states.values()) == {"wrong"}


def test_the_smplx_release_is_told_apart(tmp_path):
    write_amass(tmp_path)
    (tmp_path / "amass" / "CMU" / "1" / "walk_poses.npz").rename(
        tmp_path / "amass" / "CMU" / "1" / "walk_stageii.npz"
    )
    answer = found("amass", tmp_path)
    assert answer.state == "wrong" and "the SMPL-X release: get SMPL+H G" in answer.why
    write_amass(tmp_path)
    arrays(tmp_path / "amass" / "ACCAD" / "1" / "walk_poses.npz", poses=(5, 165))
    assert "poses have shape (5, 165), not (frames, 156)" in found("amass", tmp_path).why
    arrays(tmp_path / "smplh" / "male" / "model.npz", v_template=(6890, 3), shapedirs=(6890, 3, 10))
    assert "10 shape components, not 16" in found("smplh", tmp_path).why
    arrays(tmp_path / "smplh" / "male" / "model.npz", v_template=(10475, 3), shapedirs=(1, 3, 16))
    assert "v_template has shape (10475, 3)" in found("smplh", tmp_path).why


def test_smpl_is_found_under_all_its_names_and_never_unpickled(tmp_path):
    folder = tmp_path / "smpl"
    evil = b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    write(folder / "SMPL_MALE.pkl", evil)
    assert found("smpl", tmp_path).state == "wrong"
    write(folder / "SMPL_MALE.pkl", pickle.dumps({}, protocol=2))
    arrays(folder / "models" / "SMPL_FEMALE.npz", v_template=(6890, 3))
    write(folder / "basicModel_neutral_lbs_10_207_0_v1.0.0.pkl", pickle.dumps({}, protocol=0))
    assert found("smpl", tmp_path).state == "present"
    arrays(folder / "models" / "SMPL_FEMALE.npz", v_template=(10475, 3))
    assert "not (6890, 3)" in found("smpl", tmp_path).why
    assert not (tmp_path / "ran").exists()
    packed(tmp_path / "other" / "smpl" / "SMPL_python_v.1.1.0.zip", ["models/x.pkl"])
    answer = found("smpl", tmp_path / "other")
    assert answer.why == "SMPL_python_v.1.1.0.zip is still packed"


def test_unpacked_and_packed_recordings_are_counted(tmp_path):
    for subject in range(1, 16):
        for name in ("acc_walking_chest.csv", "Gyroscope_walking_chest.csv"):
            write(tmp_path / "realworld" / f"proband{subject}" / "data" / name, "id,attr_time")
    assert found("realworld", tmp_path).state == "present"
    packed(tmp_path / "pamap2" / "outer.zip", ["PAMAP2_Dataset.zip", "readme.pdf"])
    assert found("pamap2", tmp_path).why == "subjects in an archive within the archive"
    protocol = [f"PAMAP2_Dataset/Protocol/subject10{n}.dat" for n in range(1, 9)]
    packed(tmp_path / "b" / "pamap2" / "p.zip", protocol)
    answer = found("pamap2", tmp_path / "b")
    assert (answer.state, answer.why) == ("incomplete", "8 of 9 subjects")
    logs = [f"MHEALTHDATASET/mHealth_subject{n}.log" for n in range(1, 11)]
    packed(tmp_path / "mhealth" / "m.zip", logs)
    assert found("mhealth", tmp_path).why == "10 of 10 subjects"


def test_tables_of_the_cmu_track_are_checked(tmp_path):
    write(tmp_path / "cmu" / "descriptions.csv", "trial,description\n01_01,walk\n")
    assert found("cmu_descriptions", tmp_path).why == "descriptions of 1 trials"
    write(tmp_path / "cmu" / "descriptions.csv", "<html>")
    assert found("cmu_descriptions", tmp_path).state == "wrong"
    write(tmp_path / "cmu" / "kitml_sentences.json", "[{}]")
    assert found("kitml_sentences", tmp_path).state == "wrong"
    write(tmp_path / "cmu" / "kitml_sentences.json", "not json")
    assert found("kitml_sentences", tmp_path).state == "wrong"


# Whole tracks


def test_an_empty_or_absent_data_folder_lacks_everything(tmp_path):
    for root in (tmp_path, tmp_path / "absent"):
        table = status("paper", root)
        assert (table["state"] == "missing").all() and len(table) == 17
        assert lacking(table) == [
            "humanml3d_texts", "mdm_distilbert", "distilbert", "momask", "clip", "remodiffuse",
            "smpl", "realworld", "humanml3d",
        ]  # fmt: skip
    assert status("demo", tmp_path).empty and lacking(status("demo", tmp_path)) == []
    assert not (tmp_path / "absent").exists()


def test_a_whole_folder_lacks_nothing(tmp_path):
    write_paper(tmp_path)
    table = status("paper", tmp_path, REGISTRY).set_index("input")
    assert lacking(table.reset_index()) == []
    assert table.loc["humanml3d", "needed"] == "either, choice 1"
    assert table.loc["amass", "state"] == "missing"
    assert table.loc["pamap2", ["needed", "state"]].tolist() == ["optional", "missing"]


def test_one_choice_suffices_but_must_be_whole(tmp_path):
    for make in (write_humanml3d_texts, *MODELS, write_smpl, write_realworld):
        make(tmp_path)
    for make in (write_amass, write_smplh):
        make(tmp_path)
        assert lacking(status("paper", tmp_path, REGISTRY)) == ["humanml3d"]
    write_humanact12(tmp_path)
    assert lacking(status("paper", tmp_path, REGISTRY)) == []


def test_what_to_fetch_leaves_other_choices_aside(tmp_path):
    table = status("cmu", tmp_path)
    required = table[table["needed"] != "optional"]
    assert to_fetch(required) == ["cmu_descriptions", "umafall", "cmu_asfamc"]
    packed(tmp_path / "cmu" / "cmuconvert-daz-01-09.zip", ["01/01_01.bvh"])
    table = status("cmu", tmp_path)
    assert to_fetch(table[table["needed"] != "optional"])[2:] == ["cmu_bvh"]
    paper = status("paper", tmp_path)
    assert set(to_fetch(paper)) == set(paper["input"])
    assert to_fetch(status("demo", tmp_path)) == []


def test_the_text_names_everything_and_keeps_to_the_width(tmp_path):
    table = status("paper", tmp_path)
    text = as_text(table, "paper", tmp_path, 80)
    for row in table.itertuples():
        assert row.page in text and str(tmp_path / row.path) in text
    # Only what cannot be broken, an address or a path, may be longer.
    long = [line for line in text.splitlines() if len(line) > 80]
    assert all(len(line.split()) <= 2 for line in long)
    assert "MISSING" in text and "\x1b" not in text
    assert "Next: t2imu data fetch --track paper" in text
    assert "By hand, as told above: remodiffuse, smpl, humanml3d." in text
    write_paper(tmp_path)
    text = as_text(status("paper", tmp_path, REGISTRY), "paper", tmp_path, 80)
    assert text.endswith("Everything that track paper requires is there.")
    assert "needs nothing" in as_text(status("demo", tmp_path), "demo", tmp_path)


def test_real_recordings_and_motions_are_present(real_data):
    table = status("cmu", real_data).set_index("input")
    needed = ["cmu_descriptions", "umafall", "cmu_asfamc", "cmu_bvh", "kitml_sentences"]
    assert (table.loc[needed, "state"] == "present").all()
    assert lacking(table.reset_index()) == []
