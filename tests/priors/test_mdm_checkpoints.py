import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.motion.features import Normaliser
from t2imu_utils.motion.humanml3d import write_statistics
from t2imu_utils.priors.checkpoints import Prior, load_prior, save_prior
from t2imu_utils.priors.generate import generate
from t2imu_utils.priors.mdm import MDMConfig, new_mdm, sinusoids
from t2imu_utils.priors.mdm_checkpoints import SCALES, feature_scale, read_mdm, write_mdm

SMALL = MDMConfig(
    layers=2, width=16, heads=2, feedforward=24, dropout=0.0, text_width=32, max_frames=30,
    diffusion_steps=4,
)  # fmt: skip
KINDS = [("trans_dec", "distilbert"), ("trans_enc", "clip_mdm")]
PLAIN = Normaliser(np.zeros(263, np.float32), np.ones(263, np.float32))


@pytest.fixture(autouse=True)
def no_data(tmp_path, monkeypatch):
    monkeypatch.setenv("T2IMU_DATA", str(tmp_path / "raw"))


@pytest.fixture
def bert(encoder):
    """A stub under the name that checkpoints with DistilBERT ask for."""
    encoder.name = "distilbert"
    return encoder


@pytest.fixture
def official(tmp_path, layouts):
    """A folder with a small official checkpoint."""
    return layouts.write_official_mdm(tmp_path / "mdm", replace(SMALL, text_width=16)).parent


def rewrite_args(folder, **changes):
    path = folder / "args.json"
    args = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in args.items() if v != "absent"}))


def rewrite_weights(folder, change):
    """Replace the file's content by what `change` makes of its averaged weights."""
    (path,) = folder.glob("model*.pt")
    state = torch.load(path, weights_only=True)["model_avg"]
    torch.save(change(state), path)


def message(folder, encoder, normaliser=PLAIN):
    with pytest.raises(InputError) as error:
        read_mdm(folder, normaliser, encoder)
    return str(error.value)


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(("arch", "name"), KINDS)
def test_an_official_checkpoint_is_read_with_all_it_says(tmp_path, layouts, encoder, arch, name):
    encoder.name = name
    config = replace(SMALL, arch=arch, text_width=16)
    path = layouts.write_official_mdm(tmp_path / "humanml_small", config)
    prior = read_mdm(path.parent, PLAIN, encoder)
    assert prior.config == config and prior.text_encoder is encoder and prior.normaliser is PLAIN
    assert not prior.model.training
    for key, value in prior.model.state_dict().items():
        assert torch.equal(value, layouts.rule(key, value.shape)), key
    (origin,) = prior.history
    assert len(origin.pop("sha256")) == 64
    assert origin == {
        "folder": "humanml_small",
        "file": "model000600000.pt",
        "step": 600000,
        "weights": "model_avg",
        "statistics": "argument",
        "cond_mask_prob": 0.1,
    }
    # It is a prior like others, and remembers where it came from when it is stored.
    assert load_prior(save_prior(tmp_path / "prior.safetensors", prior), encoder).history == [
        prior.history[0]
    ]


def test_files_of_the_first_release_lack_later_fields_and_averages(tmp_path, layouts, encoder):
    encoder.name = "clip_mdm"
    config = replace(SMALL, arch="trans_enc", text_width=16, mask_frames=False)
    folder = layouts.write_official_mdm(tmp_path / "mdm", config, step=475000).parent
    absent = (
        "text_encoder_type mask_frames use_ema pos_embed_max_len context_len pred_len "
        "unconstrained emb_before_mask keyframe_cond_type adam_beta2"
    )
    rewrite_args(folder, **dict.fromkeys(absent.split(), "absent"))
    rewrite_weights(folder, dict)
    prior = read_mdm(folder, PLAIN, encoder)
    assert prior.config == config and prior.history[0]["weights"] == "state dict"
    assert torch.equal(prior.model.embed_text.weight, layouts.rule("embed_text.weight", (16, 16)))


def test_without_an_average_the_last_weights_are_read(official, bert, layouts):
    rewrite_weights(official, lambda state: {"model": state})
    prior = read_mdm(official, PLAIN, bert)
    assert prior.history[0]["weights"] == "model"
    assert torch.equal(prior.model.embed_text.weight, layouts.rule("embed_text.weight", (16, 16)))


def test_prefixes_go_and_text_models_and_tables_are_passed_over(official, bert):
    plain = read_mdm(official, PLAIN, bert)

    def change(state):
        state = {key: x for key, x in state.items() if not key.endswith(".pe")}
        state |= {"clip_model.text_model.embeddings.weight": torch.tensor(torch.nan)}
        return {"model_avg": {f"module.{key}": x for key, x in state.items()}}

    rewrite_weights(official, change)
    assert same_weights(read_mdm(official, PLAIN, bert).model, plain.model)


def test_of_several_steps_the_highest_is_read_unless_a_file_is_named(official, bert, layouts):
    early = layouts.write_official_mdm(official, replace(SMALL, text_width=16), step=50000)
    (official / "opt000700000.pt").write_bytes(b"not a model")
    read = read_mdm(official, PLAIN, bert).history[0]
    assert (read["file"], read["step"]) == ("model000600000.pt", 600000)
    assert read_mdm(early, PLAIN, bert).history[0]["step"] == 50000


def test_full_size_checkpoints_come_back_as_the_official_code_reads_them(golden, tmp_path):
    """Its loader deletes both tables and accepts no unknown key, nor any missing but clip_model."""
    path = write_mdm(tmp_path, golden.prior, 600000)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "Mean.npy", "Std.npy", "args.json", "model000600000.pt",
    ]  # fmt: skip
    content = torch.load(path, weights_only=True)
    assert set(content) == {"model", "model_avg"}
    for state in content.values():
        assert {k: tuple(x.shape) for k, x in state.items()} == golden.keys
        assert all(x.dtype == torch.float32 for x in state.values())
        for table in ("sequence_pos_encoder.pe", "embed_timestep.sequence_pos_encoder.pe"):
            assert torch.equal(state[table][:, 0], sinusoids(5000, 512))
    args = json.loads((tmp_path / "args.json").read_text())
    assert args["latent_dim"] == 512 and args["layers"] == 8 and args["diffusion_steps"] == 50
    assert not {"ff_size", "num_heads", "dropout", "max_frames"} & set(args)
    again = read_mdm(path, encoder=golden.prior.text_encoder)
    assert again.config == golden.prior.config
    # The golden vectors that these weights are tested with elsewhere hold for them as well.
    assert same_weights(again.model, golden.model)
    path.unlink()  # 100 MB


@pytest.mark.parametrize(("arch", "name"), KINDS)
def test_a_prior_goes_out_and_comes_back(tmp_path, clips, encoder, arch, name):
    encoder.name = name
    rng = np.random.default_rng(0)
    normaliser = Normaliser(*rng.random((2, 263)).astype(np.float32))
    config = replace(SMALL, arch=arch, text_width=16, mask_frames=False)
    history = [{"config": {"condition_dropout": 0.2}, "clips": 3}]
    prior = Prior(new_mdm(config, 4), normaliser, encoder, history)
    path = write_mdm(tmp_path / "out", prior, 1234)
    assert path == tmp_path / "out" / "model000001234.pt"
    again = read_mdm(tmp_path / "out", encoder=encoder)
    assert again.config == config and same_weights(again.model, prior.model)
    np.testing.assert_array_equal(again.normaliser.mean, normaliser.mean)
    np.testing.assert_array_equal(again.normaliser.std, normaliser.std)
    origin = again.history[0]
    assert (origin["step"], origin["statistics"]) == (1234, "beside the weights")
    assert origin["cond_mask_prob"] == 0.2
    # A later step goes beside the first one; another network or other statistics do not.
    write_mdm(tmp_path / "out", prior, 2000)
    assert read_mdm(tmp_path / "out", encoder=encoder).history[0]["step"] == 2000
    other = replace(prior, normaliser=PLAIN)
    with pytest.raises(InputError, match="Mean.npy: found a file of another checkpoint"):
        write_mdm(tmp_path / "out", other, 3000)
    deeper = Prior(new_mdm(replace(config, layers=3), 0), normaliser, encoder, history)
    with pytest.raises(InputError, match="args.json: found a file of another checkpoint"):
        write_mdm(tmp_path / "out", deeper, 3000)


@pytest.mark.parametrize(
    ("arch", "name"), [("trans_dec", "minilm"), ("trans_dec", "clip"), ("trans_enc", "distilbert")]
)
def test_what_official_mdm_does_not_build_is_not_written(tmp_path, encoder, arch, name):
    encoder.name = name
    prior = Prior(new_mdm(replace(SMALL, arch=arch), 0), PLAIN, encoder)
    with pytest.raises(InputError, match=f"{arch} conditioned on {name}.*trans_dec on distilbert"):
        write_mdm(tmp_path / "out", prior, 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"arch": "gru"}, "arch 'gru' with text_encoder_type 'bert'"),
        ({"text_encoder_type": "clip"}, "arch 'trans_dec' with text_encoder_type 'clip'"),
        ({"text_encoder_type": ["t5"]}, "text_encoder_type ['t5']"),
        ({"emb_trans_dec": True}, "emb_trans_dec True, not False"),
        ({"noise_schedule": "linear"}, "noise_schedule 'linear', not 'cosine'"),
        ({"dataset": "kit"}, "dataset 'kit', not 'humanml'"),
        ({"dataset": None}, "dataset None, not 'humanml'"),
        ({"unconstrained": True}, "unconstrained True"),
        ({"cond_mode": "no_cond"}, "cond_mode 'no_cond'"),
        ({"context_len": 20, "pred_len": 40}, "context_len 20, not 0; pred_len 40, not 0"),
        ({"multi_target_cond": True}, "multi_target_cond True"),
        ({"lambda_target_loc": 0.5}, "lambda_target_loc 0.5"),
        ({"emb_policy": "concat"}, "emb_policy 'concat', not 'add'"),
        ({"emb_before_mask": True}, "emb_before_mask True"),
        ({"keyframe_cond_type": "prefix"}, "keyframe_cond_type 'prefix'"),
        ({"sigma_small": False}, "sigma_small False, not True"),
        ({"layers": "8"}, "layers '8', not a whole number"),
        ({"diffusion_steps": 0}, "diffusion_steps 0"),
        ({"cond_mask_prob": 1.5}, "cond_mask_prob 1.5"),
        ({"mask_frames": "yes"}, "mask_frames 'yes'"),
        ({"latent_dim": "absent", "arch": "absent"}, "found no arch, latent_dim"),
    ],
)
def test_settings_that_are_not_built_here_are_named(official, bert, changes, expected):
    rewrite_args(official, **changes)
    told = message(official, bert)
    assert expected in told and "args.json" in told


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "args.json: found no file"),
        ("<html>404</html>", "args.json: found no valid JSON"),
        ('{"arch": "trans_d', "args.json: found no valid JSON"),
        ("[1, 2]", "args.json: found no arch"),
    ],
)
def test_settings_that_cannot_be_read_are_named(official, bert, content, expected):
    path = official / "args.json"
    path.unlink() if content is None else path.write_text(content)
    assert expected in message(official, bert)


def test_all_parameters_that_do_not_match_are_listed(official, bert):
    def change(state):
        del state["embed_text.bias"]
        state["stranger"] = torch.zeros(2)
        state["embed_text.weight"] = torch.zeros(16, 768)
        state["seqTransDecoder.layers.0.norm1.bias"] = torch.zeros(16, dtype=torch.float16)
        state["seqTransDecoder.layers.1.norm2.bias"][3] = torch.inf
        state["output_process.poseFinal.bias"] = [0.0] * 263
        return {"model_avg": state}

    rewrite_weights(official, change)
    told = message(official, bert)
    for part in (
        "embed_text.bias is missing",
        "stranger is unknown",
        "embed_text.weight is float32 (16, 768), not float32 (16, 16)",
        "layers.0.norm1.bias is float16",
        "layers.1.norm2.bias holds values that are not finite",
        "output_process.poseFinal.bias is no tensor",
        "Check that args.json belongs to these weights",
    ):
        assert part in told


def test_weights_of_another_size_than_the_settings_are_refused(official, bert):
    rewrite_args(official, layers=3)
    assert "seqTransDecoder.layers.2.norm3.weight is missing" in message(official, bert)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_weights_are_named(official, bert, share):
    (path,) = official.glob("model*.pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    told = message(official, bert)
    assert f"{path}: found a truncated or damaged file" in told and "Download it again" in told


def test_a_web_page_in_place_of_weights_is_named(official, bert):
    (path,) = official.glob("model*.pt")
    path.write_text("<!DOCTYPE html><html><title>Quota exceeded</title></html>")
    assert "found a web page (HTML), not weights" in message(official, bert)


class Intruder:
    def __reduce__(self):
        return open, ("intruded", "w")


@pytest.mark.parametrize("form", ["zip", "plain"])
def test_a_pickle_that_calls_something_is_not_run(official, bert, tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    (path,) = official.glob("model*.pt")
    content = {"model": {"embed_text.bias": Intruder()}}
    if form == "zip":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    told = message(official, bert)
    assert "found a pickle that asks for" in told and "open" in told
    # torch's own message would have the reader switch the check off.
    assert "weights_only" not in told
    assert not (tmp_path / "intruded").exists()


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3)])
def test_a_file_without_parameters_by_name_is_refused(official, bert, content):
    rewrite_weights(official, lambda _: content)
    assert f"found a {type(content).__name__}; expected parameters" in message(official, bert)


def test_absent_and_empty_folders_are_named(tmp_path, bert):
    assert "nowhere: found nothing; expected an official MDM" in message(tmp_path / "nowhere", bert)
    assert "found no model<step>.pt" in message(tmp_path, bert)


def test_another_text_encoder_is_refused(official, encoder):
    told = message(official, encoder)
    assert "text_encoder_type: found the encoder words; expected distilbert" in told


def test_without_an_encoder_the_named_one_is_loaded_and_motions_are_made(tmp_path, layouts):
    raw = tmp_path / "raw"
    with pytest.raises(InputError, match="t2imu data fetch distilbert-base-uncased"):
        read_mdm(layouts.write_official_mdm(tmp_path / "mdm", SMALL), PLAIN)
    layouts.write_distilbert(raw / "text_encoders" / "distilbert-base-uncased")
    layouts.write_clip(raw / "text_encoders" / "clip-vit-base-patch32")
    encoder = replace(SMALL, arch="trans_enc", text_width=24)
    for name, config in {"decoder": SMALL, "encoder": encoder}.items():
        folder = layouts.write_official_mdm(tmp_path / name, config).parent
        prior = read_mdm(folder, PLAIN, cache=tmp_path / "cache")
        assert prior.text_encoder_name == {"decoder": "distilbert", "encoder": "clip_mdm"}[name]
        a, b = generate(prior, ["a person walks", "someone jumps"], [9, 9], [1, 1], progress=False)
        assert a.shape == (9, 263) and np.isfinite(a).all()
        assert np.abs(a - b).max() > 1e-3  # the same noise: the text alone differs
    assert len(list((tmp_path / "cache").iterdir())) == 4


def save_statistics(folder, level, names=("Mean.npy", "Std.npy")):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        np.save(folder / name, np.full(263, level))


def test_statistics_are_those_given_then_those_beside_the_weights_then_the_data_sets(
    official, bert, tmp_path
):
    told = message(official, bert, normaliser=None)
    assert "found no Mean.npy and Std.npy" in told and f"{tmp_path}/raw/humanml3d" in told
    found = []
    save_statistics(tmp_path / "raw" / "humanml3d", 1.0)
    found.append(read_mdm(official, encoder=bert))
    save_statistics(official, 2.0, ("mean.npy", "std.npy"))
    found.append(read_mdm(official, encoder=bert))
    save_statistics(official, 3.0)
    found.append(read_mdm(official, encoder=bert))
    found.append(read_mdm(official, Normaliser(*np.full((2, 263), 4.0)), bert))
    levels = [(p.normaliser.mean[0], p.normaliser.std[-1]) for p in found]
    assert levels == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert [p.history[0]["statistics"] for p in found] == [
        "humanml3d", "beside the weights", "beside the weights", "argument",
    ]  # fmt: skip


def test_statistics_that_a_build_computed_do_not_belong_to_the_weights(official, bert, tmp_path):
    root = tmp_path / "raw" / "humanml3d"
    (root / "new_joint_vecs").mkdir(parents=True)
    features = np.random.default_rng(0).normal(size=(50, 263)).astype(np.float32)
    np.save(root / "new_joint_vecs" / "000000.npy", features)
    write_statistics(root)
    told = message(official, bert, normaliser=None)
    assert "computed with the build" in told and "t2imu data fetch humanml3d_texts" in told


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda path: path.unlink(), "found no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "found no array"),
        (lambda path: path.write_bytes(b"<html>"), "found no array"),
        (lambda path: np.save(path, np.array([print] * 263)), "found no array"),
        (lambda path: np.save(path, np.ones(251)), "shape (251,) of float64"),
        (lambda path: np.save(path, np.full(263, np.nan)), "not finite"),
    ],
)
def test_statistics_that_cannot_be_used_are_named(official, bert, tmp_path, spoil, expected):
    # Half a pair beside the weights is a fault, not a reason to take another pair.
    save_statistics(tmp_path / "raw" / "humanml3d", 1.0)
    save_statistics(official, 1.0)
    spoil(official / "Std.npy")
    told = message(official, bert, normaliser=None)
    assert f"{official}/Std.npy" in told and expected in told


def test_the_scale_of_root_and_contact_channels_is_told(real_data):
    mean, std = (
        np.load(real_data / "humanml3d" / f"t2m_{name}.npy", allow_pickle=False)
        for name in ("mean", "std")
    )
    factor = np.ones(263)
    factor[:4] = factor[259:] = 25
    assert feature_scale(Normaliser(mean, std)) == 25
    assert feature_scale(Normaliser(mean, std * factor)) == 1
    assert feature_scale(Normaliser(mean, std * np.sqrt(factor))) == 5
    assert set(SCALES) == {1, 5, 25}
    # A livelier or calmer corpus than HumanML3D has the same scale.
    assert feature_scale(Normaliser(mean, std * 3)) == 25
    with pytest.raises(InputError, match="times smaller than the others"):
        feature_scale(Normaliser(mean, std * factor * factor))
