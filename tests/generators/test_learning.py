"""What is learnt from closed-form gaits holds for people whom no model has seen.

The networks are narrow and trained for seconds; each is compared with itself as it was before.
"""

from dataclasses import replace

import pytest
import torch

from t2imu_utils.finetuning import pretraining
from t2imu_utils.models.generator import family
from t2imu_utils.models.momask import transformer_validation
from t2imu_utils.models.t2mgpt import gpt_validation
from t2imu_utils.models.tokeniser import TokenData, normalised_motions
from t2imu_utils.tracks import load_track
from tests.gait import gait_corpus

torch.set_num_threads(1)
NARROW = {
    "mdm": {
        "width": 128, "feedforward": 256, "layers": 2, "heads": 4, "dropout": 0.0,
        "diffusion_steps": 50,
    },
    "momask": {"tokeniser_width": 64, "codes": 32, "width": 64, "feedforward": 128},
    "remodiffuse": {"width": 128, "feedforward": 256},
    "t2mgpt": {"tokeniser_width": 64, "codes": 32, "width": 64, "feedforward": 128},
}  # fmt: skip
STEPS = {"mdm": 40, "momask": 120, "remodiffuse": 40, "t2mgpt": 240}
RATE = 2e-3


@pytest.fixture(scope="module")
def corpus():
    """Clips of one person to train on, and those of two others."""
    clips, splits = gait_corpus(54)
    named = {clip.name: replace(clip, captions=clip.captions[:1]) for clip in clips}
    training, *others = ([named[name] for name in splits[s]] for s in ("train", "val", "test"))
    held_out = [clip for part in others for clip in part]
    assert {clip.subject for clip in training}.isdisjoint(clip.subject for clip in held_out)
    return training, held_out


@pytest.fixture
def learnt(corpus, name, encoder, tmp_path):
    """A prior before and after its training, and the settings of that."""
    training, _ = corpus
    demo = load_track("demo")
    sizes = family(name).Sizes(**demo.generators[name].model_extra | NARROW[name])
    settings = replace(
        pretraining(demo, name), steps=STEPS[name], learning_rate=RATE, batch_size=8, max_frames=48
    )
    before = family(name).untrained(sizes, training, encoder, 0)
    after, _ = family(name).train(before, training, settings, tmp_path, [], "cpu")
    return before, after, settings


def test_losses_of_unseen_people_fall(corpus, name, learnt):
    before, after, settings = learnt
    first, last = (
        family(name).validation(prior, corpus[1], settings, "cpu") for prior in (before, after)
    )
    terms = ("reconstruction", "simple") if name in ("momask", "t2mgpt") else ("simple",)
    for term in terms:
        assert last[term] < first[term]
    if name not in ("momask", "t2mgpt"):
        return
    # The transformers are asked for the same tokens: those of the trained tokeniser.
    motions = normalised_motions(after.normaliser, corpus[1])
    tokens = TokenData(after.rvq, after.text_encoder, 49, motions, corpus[1])

    def asked(network):
        if name == "t2mgpt":
            return gpt_validation(network, tokens, 16)
        return transformer_validation(network, tokens, 16, seed=0)

    for part in ("gpt",) if name == "t2mgpt" else ("mask", "residual"):
        untrained, trained = (asked(getattr(prior, part)) for prior in (before, after))
        assert trained["accuracy"] > untrained["accuracy"]
        assert trained["total"] < untrained["total"]
