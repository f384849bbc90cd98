"""Official layouts, golden vectors batch first, and a small prior that needs no text model."""

import ast
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from t2imu_utils.models.mdm import MDM, MDMConfig, Prior, new_prior, read_mdm
from t2imu_utils.models.retrieval import build_database
from t2imu_utils.models.text import load_text_encoder
from t2imu_utils.motion.corpus import Normaliser

ARCHITECTURES = {
    "distilbert": MDMConfig(arch="trans_dec", text_width=768),
    "clip": MDMConfig(arch="trans_enc", text_width=512),
}


@pytest.fixture(scope="session")
def layouts() -> ModuleType:
    """What writes official layouts: the functions of layouts.py."""
    path = Path(__file__).with_name("layouts.py")
    spec = importlib.util.spec_from_file_location("layouts", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class NamedEncoder:
    """Stands in for a text encoder where only its name and width count."""

    name: str
    width: int
    fingerprint: str = "a" * 64

    @property
    def pooled_width(self) -> int:
        return self.width


@dataclass
class Golden:
    prior: Prior
    arrays: dict[str, np.ndarray]
    keys: dict[str, tuple[int, ...]]

    @property
    def model(self) -> MDM:
        return self.prior.model

    def motion(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name]).transpose(-1, -2)

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])

    @property
    def text(self) -> torch.Tensor:
        return self.tensor("text").transpose(0, 1)

    @property
    def text_valid(self) -> torch.Tensor:
        return ~self.tensor("text_padding")

    def mask(self, lengths: str, frames: int) -> torch.Tensor:
        return torch.arange(frames)[None] < self.tensor(lengths)[:, None]


@pytest.fixture(scope="session", params=["distilbert", "clip"])
def golden(request, reference, layouts, tmp_path_factory) -> Golden:
    """Golden vectors, and the official checkpoint that they belong to as it was read."""
    name = request.param
    config = ARCHITECTURES[name]
    with np.load(reference / f"mdm_{name}_golden.npz", allow_pickle=False) as file:
        arrays = dict(file)
    lines = (reference / f"mdm_{name}_state_dict.txt").read_text().splitlines()
    keys = {k: ast.literal_eval(s) for k, s in (line.split("\t") for line in lines)}
    path = layouts.write_official_mdm(tmp_path_factory.mktemp(name), config, shapes=keys)
    layouts.write_statistics(path.parent, 1.0)
    encoder = NamedEncoder({"clip": "clip_mdm"}.get(name, name), config.text_width)
    prior = read_mdm(path.parent, encoder)
    path.unlink()  # 100 MB
    return Golden(prior, arrays, keys)


@pytest.fixture
def prior(clips, encoder):
    everything = np.concatenate([clip.features for clip in clips])
    normaliser = Normaliser(everything.mean(0), everything.std(0) + 0.05)
    config = MDMConfig(
        layers=2, width=16, heads=2, feedforward=32, dropout=0.0, max_frames=24, diffusion_steps=10
    )
    return new_prior(config, normaliser, encoder, seed=3)


@pytest.fixture
def normaliser(clips):
    everything = np.concatenate([clip.features for clip in clips])
    return Normaliser(everything.mean(0), everything.std(0) + 0.05)


@pytest.fixture
def database(clips, normaliser, encoder):
    return build_database(clips, normaliser, encoder, max_frames=24)


CAPTIONS = ["a person walks", "a man runs", "the woman sits down", "someone jumps"]


@pytest.fixture
def clip_encoder(layouts, tmp_path, monkeypatch):
    """A small CLIP with the widths of the official one."""
    folder = tmp_path / "text_encoders" / "clip-vit-base-patch32"
    layouts.write_clip(folder, width=512, pooled_width=512)
    monkeypatch.setenv("T2IMU_DATA", str(tmp_path))
    return load_text_encoder("clip")


@pytest.fixture
def official_database(clip_encoder, tmp_path):
    """The five arrays of the official file, and the indexes that nothing reads."""
    rng = np.random.default_rng(0)
    lengths = np.array([196, 40, 60, 120])
    motions = rng.standard_normal((4, 196, 263)).astype(np.float32)
    motions[np.arange(196)[None] >= lengths[:, None]] = 0
    path = tmp_path / "t2m_text_train.npz"
    np.savez(
        path,
        text_features=clip_encoder.encode_pooled(CAPTIONS).numpy(),
        captions=np.array(CAPTIONS),
        motions=motions,
        m_lengths=lengths,
        clip_seq_features=rng.standard_normal((4, 77, clip_encoder.width)).astype(np.float32),
        train_indexes=np.zeros((4, 3), int),
        test_indexes=np.zeros((4, 3), int),
    )
    return path
