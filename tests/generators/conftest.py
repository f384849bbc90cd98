"""A study of each family, and a prior of it that has been trained for a moment."""

import copy
from dataclasses import replace

import pytest
import torch

from t2imu_utils.finetuning import Study, pretraining

torch.set_num_threads(1)
FAMILIES = ("mdm", "momask", "remodiffuse", "t2mgpt")


@pytest.fixture(params=FAMILIES)
def name(request) -> str:
    """Of each family in turn."""
    return request.param


@pytest.fixture
def study(tiny, name, words, clips, runs_folder) -> Study:
    """Nine clips to train on, three to validate on."""
    return Study(tiny, name, clips[:9], clips[9:], {"corpus": "a" * 64})


@pytest.fixture
def settings(study):
    """Fast enough that texts and noise come to matter."""
    return replace(pretraining(study.track, study.name), steps=24, learning_rate=5e-3)


@pytest.fixture(scope="session")
def trainings() -> dict[str, tuple]:
    """What has been trained already, by family."""
    return {}


@pytest.fixture
def trained(study, settings, trainings, tmp_path):
    """A prior and its curves."""
    if study.name not in trainings:
        trainings[study.name] = study.generator.train(
            study.start(), study.clips, settings, tmp_path, study.held_out, "cpu"
        )
    return copy.deepcopy(trainings[study.name])


@pytest.fixture
def prior(trained):
    return trained[0]
