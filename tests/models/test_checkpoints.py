"""What the files of all generators share, on MDM's and on a network of one small tensor."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from t2imu_utils.errors import InputError
from t2imu_utils.models.checkpoints import (
    load_official,
    official_encoder,
    read_checkpoint,
    read_statistics,
)
from t2imu_utils.models.mdm import GENERATOR, load_prior
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.tracks import OPEN_PRIOR

OFFICIAL = "Take the official file."


@pytest.fixture(params=[False, True], ids=["as trained", "as shipped"])
def saved(request, prior, tmp_path):
    prior.history.append({"config": {"steps": 5}, "clips": 12})
    prior.velocity_weight = [0.5] * 22
    path = tmp_path / "new" / "prior.safetensors"
    return GENERATOR.save(path, prior, {"provenance": {"a": 1}}, half=request.param)[0]


def rewrite(path, change):
    """Change the tensors or the metadata of a file."""
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["t2imu"])
    tensors = load_file(path)
    change(tensors, about)
    save_file(tensors, path, {"t2imu": json.dumps(about)})


def test_a_prior_comes_back_as_it_was(prior, saved, encoder):
    half = load_file(saved)["embed_text.bias"].dtype == torch.float16
    loaded = load_prior(saved, encoder)
    for key, value in prior.model.state_dict().items():
        found = loaded.model.state_dict()[key]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, value.half().float() if half else value, rtol=0, atol=0)
    np.testing.assert_array_equal(loaded.normaliser.mean, np.float32(prior.normaliser.mean))
    np.testing.assert_array_equal(loaded.normaliser.std, np.float32(prior.normaliser.std))
    assert loaded.config == prior.config and loaded.history == prior.history
    assert loaded.velocity_weight == prior.velocity_weight
    assert loaded.text_encoder is encoder and not loaded.model.training
    assert [path.name for path in saved.parent.iterdir()] == ["prior.safetensors"]
    # Older files say nothing of velocities.
    rewrite(saved, lambda _, about: about.pop("velocity_weight"))
    assert load_prior(saved, encoder).velocity_weight == 0


def test_the_shipped_prior_is_read():
    prior = load_prior(OPEN_PRIOR)
    tensors = load_file(OPEN_PRIOR)
    for key, value in prior.model.state_dict().items():
        assert torch.equal(value, tensors[key].float())
    assert prior.history and not prior.model.training


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda _, about: about["config"].update(depth=3), "depth"),
        (lambda _, about: about["config"].update(layers="two"), "nothing readable"),
        (lambda _, about: about.update(format="t2imu-momask-1"), "format"),
        (lambda _, about: about["text_encoder"].update(fingerprint="0" * 64), "text_encoder"),
        (lambda _, about: about["config"].update(layers=3), "layers.2"),
        (lambda tensors, _: tensors["embed_text.bias"].fill_(torch.nan), "embed_text.bias holds"),
        (
            lambda tensors, _: tensors.update({"normaliser.std": torch.ones(263).half()}),
            "normaliser.std is float16",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_told(saved, encoder, change, told):
    rewrite(saved, change)
    with pytest.raises(InputError, match=told):
        load_prior(saved, encoder)


# ---------------------------------------------------------------- official files
class Calls:
    """What makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("called",)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_of_a_checkpoint_with_code_the_class_and_a_safe_way_are_told(tmp_path, monkeypatch, form):
    """Downloading it again would not help, and nothing in it is run."""
    monkeypatch.chdir(tmp_path)
    path, content = tmp_path / "x.pth", {"net": {"a": torch.zeros(1)}, "more": Calls()}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content | {"net": {}}, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(InputError) as error:
        read_checkpoint(path, OFFICIAL)
    assert "holds code" in error.value.found and "mkdir" in error.value.found
    assert "container without network" in error.value.remedy and OFFICIAL not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]
    # What it says to do there makes a file that is read.
    torch.save({k: v for k, v in content.items() if isinstance(v, dict)}, tmp_path / "clean.pt")
    assert set(read_checkpoint(tmp_path / "clean.pt", OFFICIAL)) == {"net"}


@pytest.mark.parametrize(
    "content", [b"", b"<html><title>Quota exceeded", b"PK\x03\x04" + b"x" * 99]
)
def test_a_damaged_checkpoint_is_told(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(InputError, match="web page|damaged.*Take the official") as error:
        read_checkpoint(tmp_path / "x.pt", OFFICIAL)
    assert ("web page" in str(error.value)) == content.startswith(b"<")


def test_weights_stand_under_the_first_key_there_is(tmp_path):
    path, network = tmp_path / "x.tar", nn.Linear(2, 1)
    state = {"module.w.weight": torch.ones(1, 2), "w.bias": torch.zeros(1), "clip": 3}
    torch.save({"new": state, "ep": 5}, path)
    chosen = (lambda key: f"w.{key}", lambda key: key == "clip")
    content, key = load_official(path, network, ("old", "new"), "it", OFFICIAL, *chosen)
    assert (content["ep"], key) == (5, "new") and torch.equal(network.weight, torch.ones(1, 2))
    torch.save(state, path)
    _, key = load_official(path, network, ("old", ""), "it", OFFICIAL, *chosen)
    assert key == ""
    for other in ({"ep": 5}, {"new": 3}, [1], "new"):
        torch.save(other, path)
        with pytest.raises(InputError, match="expected weights under old or new"):
            load_official(path, network, ("old", "new"), "it", OFFICIAL)


def test_official_checkpoints_take_their_own_encoder(tmp_path, encoder):
    with pytest.raises(InputError, match="found text encoder words; expected clip"):
        official_encoder(tmp_path, encoder)
    encoder.name = "clip"
    assert official_encoder(tmp_path, encoder) is encoder


@pytest.mark.parametrize("names", [("mean.npy", "std.npy"), ("Mean.npy", "Std.npy")])
def test_statistics_come_back_as_they_were_written(tmp_path, names):
    normaliser = Normaliser(*np.random.default_rng(0).random((2, 263)))
    for name, values in zip(names, (normaliser.mean, normaliser.std), strict=True):
        np.save(tmp_path / name, values)
    read = read_statistics(tmp_path, OFFICIAL, names)
    assert read.mean.dtype == read.std.dtype == np.float32
    assert np.array_equal(read.mean, normaliser.mean.astype(np.float32))
    assert np.array_equal(read.std, normaliser.std.astype(np.float32))
    spoilt = (
        lambda path: path.write_bytes(path.read_bytes()[:150]),
        lambda path: np.save(path, np.array([Calls()] * 263)),
        lambda path: np.save(path, np.ones(251)),
        lambda path: np.save(path, np.full(263, np.nan)),
        lambda path: path.unlink(),
    )
    for spoil in spoilt:
        spoil(tmp_path / names[1])
        with pytest.raises(InputError, match=f"{names[1]}.*trained with"):
            read_statistics(tmp_path, OFFICIAL, names)
