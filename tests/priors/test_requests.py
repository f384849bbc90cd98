"""What generators refuse is the same for all of them."""

from dataclasses import replace

import numpy as np
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.priors import generate as mdm
from t2imu_utils.priors import momask, remodiffuse_sampling, t2mgpt
from t2imu_utils.priors.masked_transformer import TokenTransformerConfig
from t2imu_utils.priors.remodiffuse import ReMoDiffuseConfig
from t2imu_utils.priors.remodiffuse_checkpoints import new_remodiffuse_prior
from t2imu_utils.priors.requests import check_requests
from t2imu_utils.priors.retrieval import build_database
from t2imu_utils.priors.rvq import RVQConfig
from t2imu_utils.priors.text import load_text_encoder

RVQ = RVQConfig(width=16, code_width=8, codes=20, levels=1, dropout=0.0, temperature=0.0)
SIZES = {"width": 16, "layers": 1, "heads": 2, "feedforward": 16, "max_tokens": 6}


def new_momask(clips, normaliser, encoder):
    sizes = TokenTransformerConfig(token_width=16, **SIZES)
    config = momask.MoMaskConfig(replace(RVQ, levels=2), sizes, iterations=2)
    return momask.new_momask(config, normaliser, encoder, 0)


def new_t2mgpt(clips, normaliser, encoder):
    config = t2mgpt.T2MGPTConfig(RVQ, t2mgpt.GPTConfig(**SIZES))
    return t2mgpt.new_t2mgpt(config, normaliser, encoder, 0)


def new_remodiffuse(clips, normaliser, encoder):
    config = ReMoDiffuseConfig(
        layers=1, width=16, heads=2, feedforward=16, time_width=16, text_latent=16, text_heads=2,
        text_layers=1, text_feedforward=16, retrieval_layers=1, max_frames=24,
    )  # fmt: skip
    database = build_database(clips, normaliser, encoder, max_frames=24)
    return new_remodiffuse_prior(config, normaliser, encoder, database, 0)


GENERATORS = {
    "MDM": (None, mdm.generate),
    "MoMask": (new_momask, momask.generate),
    "ReMoDiffuse": (new_remodiffuse, remodiffuse_sampling.generate),
    "T2M-GPT": (new_t2mgpt, t2mgpt.generate),
}


@pytest.fixture(params=GENERATORS)
def generator(request, prior, clips, encoder):
    """A small prior that makes 3 to 24 frames, and its generate; MDM's is the common fixture."""
    build, generate = GENERATORS[request.param]
    return prior if build is None else build(clips, prior.normaliser, encoder), generate


def test_what_is_just_possible_is_made_by_every_generator(generator):
    prior, generate = generator
    prompts = ["walk " * 60, "runs"]
    motions = generate(prior, prompts, np.array([3, 24.0]), (1, 2), batch_size=1, progress=False)
    assert [x.shape for x in motions] == [(3, 263), (24, 263)]


def test_the_limit_is_that_of_the_text_encoder(prior):
    prior.text_encoder = load_text_encoder("minilm")
    most = prior.text_encoder.max_tokens - 2  # the marks of begin and end
    check_requests(prior, ["walks " * most], [9], [1], 32)
    message = rf"found {most + 1} words, 257 tokens; expected at most 256 tokens.* minilm reads"
    with pytest.raises(InputError, match=message):
        check_requests(prior, ["walks " * (most + 1)], [9], [1], 32)
