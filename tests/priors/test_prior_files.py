"""What the files of all generators share, on a prior of one small tensor."""

import json
import os
import pickle
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.priors.prior_files import (
    check_parameters,
    checked_fields,
    official_encoder,
    read_checkpoint,
    read_official,
    read_own,
    read_statistics,
    refuse_overwriting,
    same_encoder,
    statistics_shapes,
    take_statistics,
    write_own,
    write_statistics,
)

KIND = "t2imu-small-1"
WEIGHT = torch.arange(6.0).reshape(2, 3)
OFFICIAL = "Take the official file."


@dataclass
class Small:
    """A prior of which only the statistics, the encoder and the history are looked at."""

    text_encoder: Any
    normaliser: Normaliser = field(
        default_factory=lambda: Normaliser(np.arange(263.0), np.arange(1.0, 264.0))
    )
    history: list = field(default_factory=lambda: [{"steps": 3}])
    velocity_weight: float = 2.5


@dataclass
class Config:
    width: int = 3
    layers: int = 1


@pytest.fixture
def saved(tmp_path, encoder):
    state = {"weight": WEIGHT.double().T}  # of another type, and not contiguous
    return write_own(
        tmp_path / "new" / "small.safetensors", KIND, state, Small(encoder), {"config": {"a": 1}}
    )


def test_a_file_is_plain_safetensors_with_the_rest_as_json(saved):
    with safe_open(saved, framework="pt") as file:
        assert list(file.metadata()) == ["t2imu"]
        about = json.loads(file.metadata()["t2imu"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert about == {
        "format": KIND,
        "config": {"a": 1},
        "text_encoder": {"name": "words", "fingerprint": "f" * 64},
        "history": [{"steps": 3}],
        "velocity_weight": 2.5,
    }
    assert {key: (tuple(x.shape), x.dtype) for key, x in tensors.items()} == {
        "weight": ((3, 2), torch.float32),
        "normaliser.mean": ((263,), torch.float32),
        "normaliser.std": ((263,), torch.float32),
    }
    assert [path.name for path in saved.parent.iterdir()] == ["small.safetensors"]


def test_what_was_written_is_read(saved):
    tensors, about = read_own(saved, KIND)
    assert about["config"] == {"a": 1} and about["history"] == [{"steps": 3}]
    assert {key: tuple(tensors[key].shape) for key in tensors if key != "weight"} == (
        statistics_shapes(263)
    )
    normaliser = take_statistics(tensors)
    assert normaliser.mean.tolist() == [*range(263)] and normaliser.std[262] == 263
    assert list(tensors) == ["weight"] and torch.equal(tensors["weight"], WEIGHT.T)


def test_the_text_encoder_is_the_one_of_the_training(saved, encoder, tmp_path):
    _, about = read_own(saved, KIND)
    assert same_encoder(saved, about, encoder, None) is encoder
    with pytest.raises(InputError, match="text encoder: found 'words'; expected one of minilm"):
        same_encoder(saved, about, None, None)
    encoder.fingerprint = "0" * 64
    with pytest.raises(InputError, match="text_encoder: found words 0{12}; expected words f{12}"):
        same_encoder(saved, about, encoder, None)


def test_without_an_encoder_the_named_one_is_loaded_with_its_cache(tmp_path):
    from t2imu_utils.priors.text import load_text_encoder

    fingerprint = load_text_encoder("minilm").fingerprint
    about = {"text_encoder": {"name": "minilm", "fingerprint": fingerprint}}
    loaded = same_encoder(tmp_path, about, None, tmp_path / "cache")
    assert (loaded.name, loaded.cache) == ("minilm", tmp_path / "cache")


@pytest.mark.parametrize(
    ("values", "wrong"),
    [({"width": 3}, "layers"), ({"width": 3, "layers": 1, "x": 2}, "x"), (None, "layers, width")],
)
def test_all_fields_of_a_configuration_are_asked_for(tmp_path, values, wrong):
    assert checked_fields(tmp_path, "config", {"width": 3, "layers": 1}, Config)
    with pytest.raises(InputError, match=f"config: found missing or unknown: {wrong}; .*Config"):
        checked_fields(tmp_path, "config", values, Config)


def test_parameters_are_compared_and_all_faults_listed(tmp_path):
    wanted = {"a": (2,), "b": (2,), "c": (2,), "d": (2,), "e": (2,)}
    good = {key: torch.zeros(2) for key in wanted}
    check_parameters(tmp_path, good, wanted, "these", OFFICIAL)
    bad = {
        "a": torch.zeros(3),
        "b": torch.zeros(2).half(),
        "c": torch.tensor([0, torch.inf]),
        "d": 3,
        "f": torch.zeros(1),
    }
    with pytest.raises(InputError) as error:
        check_parameters(tmp_path, bad, wanted, "these", OFFICIAL)
    assert error.value.found == (
        "a is float32 (3,), not float32 (2,); b is float16 (2,), not float32 (2,); "
        "c holds values that are not finite; d is no tensor; e is missing; f is unknown"
    )


def test_official_checkpoints_take_clip_alone(tmp_path, encoder):
    with pytest.raises(InputError, match="found text encoder words; expected clip"):
        official_encoder(tmp_path, encoder)
    encoder.name = "clip"
    assert official_encoder(tmp_path, encoder) is encoder


def test_weights_stand_under_the_first_key_there_is(tmp_path):
    path = tmp_path / "x.tar"
    torch.save({"new": {"a": torch.ones(1)}, "ep": 5}, path)
    content, weights = read_official(path, ("old", "new"), OFFICIAL)
    assert content["ep"] == 5 and list(weights) == ["a"]
    for other, found in (
        ({"ep": 5}, r"\['ep'\]"), ({"new": 3}, r"\['new'\]"), ([1], "list"), ("new", "str"),
    ):  # fmt: skip
        torch.save(other, path)
        with pytest.raises(InputError, match=f"{found}; expected weights under old or new. Take"):
            read_official(path, ("old", "new"), OFFICIAL)


class Calls:
    """What makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("called",)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_checkpoint_that_calls_something_is_not_run(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    path, content = tmp_path / "x.pth", {"net": {"a": torch.zeros(1)}, "more": Calls()}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(InputError, match="could run code and is not opened; .*Take") as error:
        read_checkpoint(path, OFFICIAL)
    # torch's own message would have the reader switch the check off.
    assert "weights_only" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_statistics_come_back_as_they_were_written(tmp_path):
    rng = np.random.default_rng(0)
    normaliser = Normaliser(rng.random(263), rng.random(263))
    write_statistics(tmp_path / "meta", normaliser)
    read = read_statistics(tmp_path / "meta", OFFICIAL)
    assert read.mean.dtype == read.std.dtype == np.float32
    assert np.array_equal(read.mean, normaliser.mean.astype(np.float32))
    assert np.array_equal(read.std, normaliser.std.astype(np.float32))
    for name in ("mean", "std"):
        (tmp_path / "meta" / f"{name}.npy").rename(tmp_path / "meta" / f"{name.title()}.npy")
    again = read_statistics(tmp_path / "meta", OFFICIAL, ("Mean.npy", "Std.npy"))
    assert np.array_equal(again.mean, read.mean) and np.array_equal(again.std, read.std)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:150]), "no array"),
        (lambda path: path.write_bytes(b"<html>"), "no array"),
        (lambda path: np.save(path, np.array([Calls()] * 263)), "no array"),
        (lambda path: np.save(path, np.ones(251)), r"shape \(251,\) of float64"),
        (lambda path: np.save(path, np.ones(263, int)), r"shape \(263,\) of int64"),
        (lambda path: np.save(path, np.full(263, np.nan)), ".*not finite"),
        (lambda path: np.savez(path.open("wb"), x=np.ones(263)), "shape None"),
    ],
)
def test_statistics_that_cannot_be_used_are_named(tmp_path, spoil, found):
    write_statistics(tmp_path, Normaliser(np.zeros(263), np.ones(263)))
    spoil(tmp_path / "std.npy")
    with pytest.raises(InputError, match=f"std.npy: found {found}.*trained with.*Take the"):
        read_statistics(tmp_path, OFFICIAL)
    assert not (tmp_path / "called").exists()


def test_checkpoints_are_not_overwritten(tmp_path):
    refuse_overwriting(tmp_path / "absent", ["a", "b"])
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b").touch()
    refuse_overwriting(tmp_path, (file for file in ("a", "b")))
    with pytest.raises(InputError, match="found deep/b; expected a folder without checkpoints"):
        refuse_overwriting(tmp_path, ["a", "deep/b"])
