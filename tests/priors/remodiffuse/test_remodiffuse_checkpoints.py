from dataclasses import replace

import numpy as np
import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.priors.remodiffuse import Mixture
from t2imu_utils.priors.remodiffuse_checkpoints import (
    load_remodiffuse,
    new_remodiffuse_prior,
    read_remodiffuse,
    save_remodiffuse,
    write_remodiffuse,
)
from t2imu_utils.priors.remodiffuse_sampling import generate
from t2imu_utils.priors.retrieval_files import read_database
from t2imu_utils.priors.text import load_text_encoder


@pytest.fixture
def saved(shaken, tmp_path):
    shaken.history.append({"config": {"steps": 5}, "clips": 12})
    mixture = Mixture(2.0, (0.5, 0.25, 0.5), average=True)
    return save_remodiffuse(tmp_path / "prior.safetensors", replace(shaken, mixture=mixture))


def test_a_prior_comes_back_as_it_was(shaken, saved, database, encoder):
    loaded = load_remodiffuse(saved, database, encoder)
    for key, value in shaken.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value)
    assert loaded.config == shaken.config and loaded.history == shaken.history
    assert loaded.mixture == Mixture(2.0, (0.5, 0.25, 0.5), average=True)
    assert loaded.text_encoder_name == "words" and not loaded.model.training
    requests = (["a person runs"], [9], [4])
    np.testing.assert_array_equal(
        generate(loaded, *requests, progress=False)[0],
        generate(replace(shaken, mixture=loaded.mixture), *requests, progress=False)[0],
    )
    assert [path.name for path in saved.parent.iterdir()] == ["prior.safetensors"]


def test_text_width_is_that_of_the_encoder(prior, normaliser, encoder, database):
    config = replace(prior.config, text_width=64)
    made = new_remodiffuse_prior(config, normaliser, encoder, database, 0)
    assert made.config.text_width == encoder.width


CAPTIONS = ["a person walks", "a man runs", "the woman sits down"]


@pytest.fixture
def clip(layouts, tmp_path, monkeypatch):
    """A small CLIP with the widths of the official one."""
    folder = tmp_path / "text_encoders" / "clip-vit-base-patch32"
    layouts.write_clip(folder, width=512, pooled_width=512)
    monkeypatch.setenv("T2IMU_DATA", str(tmp_path))
    return load_text_encoder("clip")


@pytest.fixture
def official_database(clip, tmp_path):
    rng = np.random.default_rng(1)
    lengths = np.array([196, 50, 80])
    motions = rng.standard_normal((3, 196, 263)).astype(np.float32)
    motions[np.arange(196)[None] >= lengths[:, None]] = 0
    path = tmp_path / "t2m_text_train.npz"
    np.savez(
        path,
        text_features=clip.encode_pooled(CAPTIONS).numpy(),
        captions=np.array(CAPTIONS),
        motions=motions,
        m_lengths=lengths,
        clip_seq_features=rng.standard_normal((3, 77, 512)).astype(np.float32),
    )
    return read_database(path, clip)


def write_statistics(folder, bias=25):
    """Shaped like the published ones: root and contact channels divided by `bias`."""
    std = np.full(263, 0.2, np.float32)
    std[:1], std[1:3], std[3], std[4:67], std[67:193] = 0.0129, 0.0169, 0.153, 0.123, 0.3
    std[193:259], std[259:] = 0.0195, 0.352
    std[[0, 1, 2, 3, *range(259, 263)]] /= bias
    np.save(folder / "mean.npy", np.linspace(-1, 1, 263, dtype=np.float32))
    np.save(folder / "std.npy", std)


def test_an_official_checkpoint_loads_samples_and_is_written_again(
    official_state, official_database, clip, tmp_path
):
    """Full size, with the container, the prefix of several GPUs and the CLIP that it has."""
    published = {f"module.{key}": x for key, x in official_state.items()}
    published["module.model.clip.logit_scale"] = torch.tensor(4.6)
    path = tmp_path / "latest.pth"
    torch.save({"meta": {"epoch": 40}, "state_dict": published, "optimizer": {}}, path)
    write_statistics(tmp_path)
    prior = read_remodiffuse(path, official_database, encoder=clip)
    path.unlink()  # 200 MB
    assert prior.mixture == Mixture() and not prior.model.training
    assert prior.history[0]["licence"].endswith("non-commercial use only")
    motions = generate(prior, CAPTIONS[:2], [4, 6], [1, 2], progress=False)
    assert [motion.shape for motion in motions] == [(4, 263), (6, 263)]
    assert all(np.isfinite(motion).all() for motion in motions)
    again = write_remodiffuse(tmp_path / "again" / "latest.pth", prior)
    stored = torch.load(again, weights_only=True)["state_dict"]
    assert set(stored) == set(official_state)
    assert all(torch.equal(stored[key], x) for key, x in official_state.items())
    for name in ("mean.npy", "std.npy"):
        assert np.array_equal(np.load(again.with_name(name)), np.load(tmp_path / name))


def test_a_published_network_of_other_sizes(prior, official_database, clip, tmp_path):
    config = replace(prior.config, text_width=512, max_frames=196)
    write_statistics(tmp_path)
    normaliser = Normaliser(*(np.load(tmp_path / f"{name}.npy") for name in ("mean", "std")))
    small = new_remodiffuse_prior(config, normaliser, clip, official_database, seed=0)
    path = write_remodiffuse(tmp_path / "latest.pth", small)
    other = replace(config, text_width=16)  # the encoder knows better
    again = read_remodiffuse(path, official_database, encoder=clip, config=other)
    assert again.config == config
    with pytest.raises(InputError, match="parameters"):
        read_remodiffuse(path, official_database, encoder=clip)


class Runs:
    def __reduce__(self):
        return (print, ("code was run",))


def test_an_unsafe_checkpoint_is_not_opened(tmp_path, official_database, clip, capsys):
    write_statistics(tmp_path)
    path = tmp_path / "latest.pth"
    torch.save({"meta": Runs(), "state_dict": {}}, path)
    with pytest.raises(InputError, match="could run code and is not opened"):
        read_remodiffuse(path, official_database, encoder=clip)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {}}, r"found \['model'\]; expected weights under state_dict"),
        ([1, 2], "found list; expected weights under state_dict"),
        (
            {"state_dict": {"model.out.bias": torch.zeros(251), "epoch": 3}},
            r"epoch is unknown.*model.joint_embed.bias is missing"
            r".*model.out.bias is float32 \(251,\), not float32 \(263,\)",
        ),
    ],
)
def test_other_checkpoints_are_refused(tmp_path, official_database, clip, content, message):
    write_statistics(tmp_path)
    path = tmp_path / "latest.pth"
    torch.save(content, path)
    with pytest.raises(InputError, match=message):
        read_remodiffuse(path, official_database, encoder=clip)
