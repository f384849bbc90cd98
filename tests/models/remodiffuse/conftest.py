"""The official network with weights by rule, and a small prior with what it retrieves from."""

import ast

import numpy as np
import pytest
import torch

from t2imu_utils.models.remodiffuse import ReMoDiffuse, ReMoDiffuseConfig, new_remodiffuse_prior
from t2imu_utils.models.retrieval import build_database
from t2imu_utils.motion.corpus import Normaliser

SMALL = ReMoDiffuseConfig(
    layers=2, width=16, heads=2, feedforward=24, time_width=20, text_width=16, text_latent=12,
    text_heads=2, text_layers=1, text_feedforward=20, retrieval_layers=1, max_frames=24,
)  # fmt: skip


@pytest.fixture(scope="session")
def official_shapes(reference):
    """Names and shapes of an official checkpoint, without CLIP."""
    lines = (reference / "remodiffuse_state_dict.txt").read_text().splitlines()
    rows = [line.split("\t")[:2] for line in lines if not line.startswith("#")]
    return {k: ast.literal_eval(s) for k, s in rows if not k.startswith("model.clip.")}


@pytest.fixture(scope="session")
def official_state(official_shapes, layouts):
    """Its parameters by rule, 47 million."""
    return {key: layouts.rule(key, shape) for key, shape in official_shapes.items()}


@pytest.fixture(scope="session")
def official_model(official_state):
    with torch.device("meta"):
        model = ReMoDiffuse(ReMoDiffuseConfig())
    state = {key.removeprefix("model."): x for key, x in official_state.items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


@pytest.fixture(scope="session")
def arrays(reference):
    with np.load(reference / "remodiffuse_golden.npz", allow_pickle=False) as file:
        return {name: torch.from_numpy(x) for name, x in file.items()}


@pytest.fixture
def normaliser(clips):
    everything = np.concatenate([clip.features for clip in clips])
    return Normaliser(everything.mean(0), everything.std(0) + 0.05)


@pytest.fixture
def database(clips, normaliser, encoder):
    return build_database(clips, normaliser, encoder, max_frames=24)


@pytest.fixture
def prior(normaliser, encoder, database):
    return new_remodiffuse_prior(SMALL, normaliser, encoder, database, seed=3)


@pytest.fixture
def shaken(prior):
    """The small prior with no weight at zero, so that everything reaches the output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in prior.model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    prior.model.eval()
    return prior
