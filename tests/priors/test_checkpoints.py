import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from t2imu_utils.errors import InputError
from t2imu_utils.priors.checkpoints import load_prior, new_prior, save_prior


@pytest.fixture
def saved(prior, tmp_path):
    prior.history.append({"config": {"steps": 5, "weights": {"acc": 0.1}}, "clips": 12})
    return save_prior(tmp_path / "prior.safetensors", prior)


def rewrite(path, change):
    """Change the tensors or the metadata of a file."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["t2imu"])
    tensors = load_file(path)
    change(tensors, about)
    save_file(tensors, path, {"t2imu": json.dumps(about)})


def test_a_prior_comes_back_as_it_was(prior, saved, encoder):
    loaded = load_prior(saved, encoder)
    for key, value in prior.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value)
    assert loaded.config == prior.config and loaded.history == prior.history
    np.testing.assert_array_equal(loaded.normaliser.mean, np.float32(prior.normaliser.mean))
    np.testing.assert_array_equal(loaded.normaliser.std, np.float32(prior.normaliser.std))
    assert loaded.text_encoder_name == "words" and not loaded.model.training
    assert [p.name for p in saved.parent.iterdir()] == ["prior.safetensors"]


def test_text_width_is_that_of_the_encoder(prior, encoder):
    config = replace(prior.config, text_width=999)
    assert new_prior(config, prior.normaliser, encoder, 0).config.text_width == encoder.width
    encoder.pooled_width = 12
    pooled = new_prior(replace(config, arch="trans_enc"), prior.normaliser, encoder, 0)
    assert pooled.config.text_width == 12


def test_a_decoder_is_told_token_states_and_an_encoder_one_pooled_vector(prior, encoder):
    texts = ["a person walks", "jumps"]
    tokens, valid = prior.condition(texts)
    assert tokens.shape == (2, 3, 16) and valid.sum(1).tolist() == [3, 1]
    assert torch.equal(tokens, encoder.encode(texts)[0])
    config = replace(prior.config, arch="trans_enc")
    pooled, valid = new_prior(config, prior.normaliser, encoder, 0).condition(texts)
    assert pooled.shape == (2, 1, 16) and valid.tolist() == [[True], [True]]
    assert torch.equal(pooled[:, 0], encoder.encode_pooled(texts))


def test_all_parameters_that_do_not_fit_are_listed(saved, encoder):
    def change(tensors, about):
        del tensors["embed_text.bias"]
        tensors["stranger"] = torch.zeros(2)
        tensors["embed_text.weight"] = torch.zeros(16, 15)
        tensors["seqTransDecoder.layers.0.norm1.bias"] = torch.zeros(16, dtype=torch.float64)
        tensors["seqTransDecoder.layers.0.norm2.bias"][0] = torch.nan
        tensors["normaliser.mean"] = torch.zeros(262)

    rewrite(saved, change)
    with pytest.raises(InputError) as error:
        load_prior(saved, encoder)
    for part in (
        "embed_text.bias is missing",
        "stranger is unknown",
        "embed_text.weight is float32 (16, 15), not float32 (16, 16)",
        "layers.0.norm1.bias is float64",
        "layers.0.norm2.bias holds values that are not finite",
        "normaliser.mean is float32 (262,)",
    ):
        assert part in str(error.value)
