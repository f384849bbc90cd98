import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from t2imu_utils.errors import InputError
from t2imu_utils.priors.checkpoints import save_prior
from t2imu_utils.priors.generate import generate
from t2imu_utils.priors.open_prior import (
    LIMIT,
    longest_frames,
    read_open_prior,
    read_provenance,
    write_open_prior,
)

ORIGIN = {"run": "abc", "licence": "MIT"}


@pytest.fixture
def written(prior, tmp_path):
    prior.history.append({"config": {"max_frames": 20}, "clips": 12})
    prior.velocity_weight = [0.5] * 21 + [7.0]
    return write_open_prior(tmp_path / "open.safetensors", prior, ORIGIN)


def rewrite(path, change):
    """Change the tensors or the metadata of a file."""
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["t2imu"])
    tensors = load_file(path)
    change(tensors, about)
    save_file(tensors, path, {"t2imu": json.dumps(about)})


def test_weights_come_back_within_half_precision(prior, written, encoder):
    loaded = read_open_prior(written, encoder)
    for key, value in prior.model.state_dict().items():
        found = loaded.model.state_dict()[key]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, value, rtol=2**-11, atol=2**-25)
    assert any(
        not torch.equal(loaded.model.state_dict()[k], v)
        for k, v in prior.model.state_dict().items()
    )
    np.testing.assert_array_equal(loaded.normaliser.mean, np.float32(prior.normaliser.mean))
    np.testing.assert_array_equal(loaded.normaliser.std, np.float32(prior.normaliser.std))
    assert loaded.config == prior.config and loaded.history == prior.history
    assert loaded.velocity_weight == prior.velocity_weight
    assert loaded.text_encoder is encoder and not loaded.model.training
    assert read_provenance(written) == ORIGIN


def test_a_file_that_does_not_weigh_velocities_is_read_by_positions(written, encoder):
    rewrite(written, lambda _, about: about.pop("velocity_weight"))
    assert read_open_prior(written, encoder).velocity_weight == 0


def test_weights_take_two_bytes_and_statistics_four(prior, written):
    types = {key: x.dtype for key, x in load_file(written).items()}
    assert {types.pop(f"normaliser.{name}") for name in ("mean", "std")} == {torch.float32}
    assert set(types.values()) == {torch.float16} and len(types) == len(prior.model.state_dict())
    full = save_prior(written.with_name("full.safetensors"), prior).stat().st_size
    assert written.stat().st_size < 0.65 * full


def test_samples_are_nearly_those_of_the_prior(prior, written, encoder):
    asked = (["a person walks", "jumps"], [12, 20], [4, 5])
    true = generate(prior, *asked, progress=False)
    found = generate(read_open_prior(written, encoder), *asked, progress=False)
    for one, other in zip(true, found, strict=True):
        assert np.abs(one - other).max() < 0.01 * np.abs(one).max()


def test_the_same_prior_is_the_same_file(prior, written):
    again = write_open_prior(written.with_name("again.safetensors"), prior, ORIGIN)
    assert again.read_bytes() == written.read_bytes()


def test_a_file_that_is_too_large_is_not_written(prior, tmp_path):
    path = tmp_path / "open.safetensors"
    with pytest.raises(InputError, match=r"open.safetensors: found 0.0 MB; expected at most 0.005"):
        write_open_prior(path, prior, ORIGIN, limit=5000)
    assert LIMIT == 16_000_000 and not list(tmp_path.iterdir())


def test_weights_that_half_precision_does_not_hold_are_named(prior, tmp_path):
    with torch.no_grad():
        prior.model.embed_text.bias[3] = 1e5
    with pytest.raises(InputError, match="embed_text.bias: not finite in half precision"):
        write_open_prior(tmp_path / "open.safetensors", prior, ORIGIN)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda _, about: about["config"].pop("width"), "config"),
        (lambda _, about: about["config"].update(arch="gru"), "arch"),
        (lambda _, about: about["config"].update(layers="two"), "config"),
        (lambda _, about: about["config"].update(width=-16), "config"),
        (lambda _, about: about.update(config=[1]), "config"),
        (lambda _, about: about.update(history={}), "history"),
        (lambda _, about: about["text_encoder"].pop("fingerprint"), "text_encoder"),
        (lambda _, about: about.pop("provenance"), "metadata"),
        (lambda _, about: about.update(velocity_weight=[1.0] * 21 + [-1.0]), "velocity_weight"),
        (lambda _, about: about.update(velocity_weight=[1.0] * 21), "velocity_weight"),
        (lambda _, about: about.update(velocity_weight="much"), "velocity_weight"),
        (lambda _, about: about["config"].update(layers=3), "layers.2"),
        (lambda tensors, _: tensors.pop("embed_text.bias"), "embed_text.bias is missing"),
        (lambda tensors, _: tensors.update(stranger=torch.zeros(2)), "stranger is unknown"),
        (lambda tensors, _: tensors["embed_text.bias"].fill_(torch.nan), "embed_text.bias holds"),
        (
            lambda tensors, _: tensors.update({"normaliser.std": torch.ones(263).half()}),
            "normaliser.std is float16",
        ),
        (lambda tensors, _: tensors["normaliser.std"].fill_(-1), "normaliser: std"),
        (
            lambda tensors, _: tensors.update({"embed_text.bias": torch.ones(16).bfloat16()}),
            "embed_text.bias is bfloat16",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_the_file(written, encoder, change, field):
    rewrite(written, change)
    with pytest.raises(InputError) as error:
        read_open_prior(written, encoder)
    assert str(written) in error.value.where and field in str(error.value)
    assert "data/prior" in error.value.remedy


def test_the_longest_motion_is_what_was_trained(prior):
    assert longest_frames(prior) == prior.config.max_frames == 24
    prior.history = [{"file": "x"}, {"config": {"max_frames": 16}}, {"config": {"max_frames": 20}}]
    assert longest_frames(prior) == 20
    prior.history = [{"config": {"max_frames": 900}}]
    assert longest_frames(prior) == 24
