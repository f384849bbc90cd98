import json
from dataclasses import replace

import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.models import diffusion
from t2imu_utils.models.diffusion import Solver, ancestral, item_noise, sample, schedule
from t2imu_utils.models.mdm import (
    GENERATOR,
    MDM,
    MDMConfig,
    fast_guided,
    load_prior,
    longest_frames,
    read_mdm,
)


@pytest.fixture(autouse=True)
def no_data(tmp_path, monkeypatch):
    monkeypatch.setenv("T2IMU_DATA", str(tmp_path / "raw"))


def test_forward_with_and_without_text_equals_the_official_model(golden):
    arguments = (
        golden.motion("x"), golden.tensor("t"), golden.text, golden.text_valid,
        golden.mask("lengths", 40),
    )  # fmt: skip
    with torch.no_grad():
        with_text = golden.model(*arguments)
        without = golden.model(*arguments, drop_text=torch.ones(2, dtype=torch.bool))
    torch.testing.assert_close(with_text, golden.motion("cond"), atol=1e-4, rtol=0)
    torch.testing.assert_close(without, golden.motion("uncond"), atol=1e-4, rtol=0)


def test_state_dict_has_the_official_names_and_shapes(golden):
    ours = {k: tuple(v.shape) for k, v in golden.model.state_dict().items()}
    assert ours == {k: s for k, s in golden.keys.items() if not k.endswith(".pe")}


CONFIG = MDMConfig(
    layers=2, width=32, heads=4, feedforward=48, text_width=20, max_frames=24, dropout=0.2
)


LENGTHS, TOKENS = [13, 24, 9], [3, 7, 5]


def shaken(config):
    """A model whose parameters, biases too, are all at work."""
    torch.manual_seed(0)
    model = MDM(config).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def inputs(items=3):
    generator = torch.Generator().manual_seed(2)
    text = torch.randn(3, 7, 20, generator=generator)[:items]
    valid = torch.arange(7)[None] < torch.tensor(TOKENS[:items])[:, None]
    mask = torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS[:items])[:, None]
    return text, valid, mask


def motion(predict, mask, lengths=LENGTHS):
    generators = [torch.Generator().manual_seed(i) for i in range(len(lengths))]
    return ancestral(predict, item_noise(lengths, generators), schedule(50)) * mask[..., None]


@pytest.mark.parametrize("arch", ["trans_dec", "trans_enc"])
def test_padding_does_not_change_valid_frames(arch):
    model, (text, valid, mask) = shaken(replace(CONFIG, arch=arch)), inputs()
    x = torch.randn(3, 24, 263, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([3, 40, 11])
    with torch.no_grad():
        plain = model(x, t, text, valid, mask)
        soiled_x = torch.where(mask[..., None], x, 50.0)
        soiled = model(soiled_x, t, torch.where(valid[..., None], text, -50.0), valid, mask)
        cut = model(x[:1, :13], t[:1], text[:1, :3], valid[:1, :3], mask[:1, :13])
    torch.testing.assert_close(plain[mask], soiled[mask], atol=1e-4, rtol=0)
    torch.testing.assert_close(plain[0, :13], cut[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("guidance", [2.5, 1.0])
@pytest.mark.parametrize("mask_frames", [True, False])
@pytest.mark.parametrize("arch", ["trans_dec", "trans_enc"])
def test_fifty_steps_equal_those_of_the_plain_guided_pass(arch, mask_frames, guidance):
    model = shaken(replace(CONFIG, arch=arch, mask_frames=mask_frames))
    text, valid, mask = inputs()
    expected = motion(diffusion.guided(model, text, valid, mask, guidance), mask)
    found = motion(fast_guided(model, text, valid, mask, guidance), mask)
    assert expected.std() > 0.3
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=0)


def test_fifty_guided_steps_equal_the_official_sample(golden):
    mask = golden.mask("sample_lengths", 16)
    guidance = float(golden.arrays["guidance"])
    predict = fast_guided(golden.model, golden.text, golden.text_valid, mask, guidance)
    recorded = iter([golden.motion("x_T"), *golden.motion("step_noise")])
    x = ancestral(predict, recorded, schedule(50))
    torch.testing.assert_close(x, golden.motion("sample"), atol=1e-3, rtol=0)


def test_bfloat16_is_a_choice_and_makes_nearly_the_same_motion():
    model, (text, valid, mask) = shaken(CONFIG), inputs()
    predict = fast_guided(model, text, valid, mask, 1.5)

    def made(precision):
        generators = [torch.Generator().manual_seed(i) for i in range(3)]
        solver = Solver("sde-dpm++2m", 10, precision)
        return sample(predict, item_noise(LENGTHS, generators), schedule(50), solver)

    whole, half = made("float32"), made("bfloat16")
    assert half.dtype == torch.float32
    assert 0 < (half - whole)[mask].square().mean() < 1e-3 * whole[mask].square().mean()


def test_the_longest_motion_is_what_was_trained(prior):
    assert longest_frames(prior) == prior.config.max_frames == 24
    prior.history = [{"file": "x"}, {"config": {"max_frames": 16}}, {"config": {"max_frames": 20}}]
    assert longest_frames(prior) == 20
    prior.history = [{"config": {"max_frames": 900}}]
    assert longest_frames(prior) == 24


SMALL = MDMConfig(
    layers=2, width=16, heads=2, feedforward=24, dropout=0.0, text_width=32, max_frames=30,
    diffusion_steps=4,
)  # fmt: skip


KINDS = [("trans_dec", "distilbert"), ("trans_enc", "clip_mdm")]


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


def message(folder, encoder):
    with pytest.raises(InputError) as error:
        read_mdm(folder, encoder)
    return str(error.value)


@pytest.mark.parametrize(("arch", "name"), KINDS)
def test_an_official_checkpoint_is_read_with_all_it_says(tmp_path, layouts, encoder, arch, name):
    encoder.name = name
    config = replace(SMALL, arch=arch, text_width=16)
    path = layouts.write_official_mdm(tmp_path / "humanml_small", config)
    layouts.write_statistics(path.parent, 2.0)
    prior = read_mdm(path.parent, encoder)
    assert prior.config == config and prior.text_encoder is encoder
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
        "statistics": "beside the weights",
        "cond_mask_prob": 0.1,
    }
    # It is a prior like others, and remembers where it came from when it is stored.
    (kept,) = GENERATOR.save(tmp_path / "prior.safetensors", prior)
    assert load_prior(kept, encoder).history == prior.history


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
    layouts.write_statistics(folder, 1.0)
    prior = read_mdm(folder, encoder)
    assert prior.config == config and prior.history[0]["weights"] == "state dict"
    assert torch.equal(prior.model.embed_text.weight, layouts.rule("embed_text.weight", (16, 16)))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"arch": "gru"}, "arch 'gru' with text_encoder_type 'bert'"),
        ({"noise_schedule": "linear"}, "noise_schedule 'linear', not 'cosine'"),
        ({"context_len": 20, "pred_len": 40}, "context_len 20, not 0; pred_len 40, not 0"),
        ({"latent_dim": "absent", "arch": "absent"}, "KeyError('arch')"),
    ],
)
def test_settings_that_are_not_built_here_are_named(official, bert, changes, expected):
    rewrite_args(official, **changes)
    told = message(official, bert)
    assert expected in told and "args.json" in told


def test_statistics_are_those_beside_the_weights_then_the_data_sets(
    official, bert, tmp_path, layouts
):
    told = message(official, bert)
    assert "found no Mean.npy and Std.npy" in told and f"{tmp_path}/raw/humanml3d" in told
    found = []
    places = [(tmp_path / "raw" / "humanml3d", 1.0), (official, 2.0, ("mean.npy", "std.npy"))]
    for place in (*places, (official, 3.0)):
        layouts.write_statistics(*place)
        found.append(read_mdm(official, bert))
    assert [(p.normaliser.mean[0], p.normaliser.std[-1]) for p in found] == [(1, 1), (2, 2), (3, 3)]
    where = ["humanml3d", "beside the weights", "beside the weights"]
    assert [p.history[0]["statistics"] for p in found] == where
