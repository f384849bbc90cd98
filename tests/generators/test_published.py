"""Checkpoints in the official layouts as a track's base: taken as they are, with their losses."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch

from t2imu_utils import arms, runs
from t2imu_utils.arms import Study
from t2imu_utils.errors import InputError
from t2imu_utils.generators import family
from t2imu_utils.generators.remodiffuse import OFFICIAL_DATABASE, WEIGHTS
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.priors import remodiffuse_checkpoints
from t2imu_utils.priors.mdm_checkpoints import OTHERS, SCALED, write_mdm
from t2imu_utils.priors.momask_checkpoints import write_momask
from t2imu_utils.priors.remodiffuse import ReMoDiffuseConfig
from t2imu_utils.priors.remodiffuse_checkpoints import write_remodiffuse
from t2imu_utils.priors.retrieval import build_database
from t2imu_utils.priors.retrieval_files import OWN, save_database
from t2imu_utils.priors.t2mgpt_checkpoints import write_t2mgpt
from t2imu_utils.priors.text import load_text_encoder
from t2imu_utils.tracks import GeneratorSection
from tests.priors.layouts import write_clip, write_distilbert

ENCODERS = {"mdm": "distilbert"}  # of the others: clip
FOLDER = "weights"


@dataclass(frozen=True)
class Small(ReMoDiffuseConfig):
    """In place of the sizes of the official file, which says none."""

    layers: int = 1
    width: int = 16
    heads: int = 2
    feedforward: int = 24
    time_width: int = 20
    text_latent: int = 12
    text_layers: int = 1
    text_feedforward: int = 20
    retrieval_layers: int = 1
    diffusion_steps: int = 200
    max_frames: int = 24


def write_official_remodiffuse(folder, prior):
    write_remodiffuse(folder / WEIGHTS, prior)
    path = save_database(folder / OFFICIAL_DATABASE, prior.database)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name not in OWN}
    np.savez(path, **arrays)


WRITERS = {
    "mdm": lambda folder, prior: write_mdm(folder, prior, 600000),
    "momask": write_momask,
    "remodiffuse": write_official_remodiffuse,
    "t2mgpt": write_t2mgpt,
}


@pytest.fixture(scope="session")
def downloads(tmp_path_factory):
    """A data root with miniatures of both text encoders."""
    root = tmp_path_factory.mktemp("downloads")
    write_distilbert(root / "text_encoders" / "distilbert-base-uncased")
    write_clip(root / "text_encoders" / "clip-vit-base-patch32")
    return root


@pytest.fixture
def official_scale(clips):
    """Statistics of the clips, their spread as that of the official ReMoDiffuse."""
    std = np.empty(263, np.float32)
    for group, typical in (*SCALED, *OTHERS):
        std[group] = typical
    for group, _ in SCALED:
        std[group] /= 25
    return Normaliser(np.concatenate([clip.features for clip in clips[:9]]).mean(0), 10 * std)


@pytest.fixture
def published(
    tiny, name, clips, sizes, downloads, official_scale, runs_folder, monkeypatch, tmp_path
):
    """A study that begins with published weights, and the prior that was published."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "text_encoders").symlink_to(downloads / "text_encoders")
    monkeypatch.setenv("T2IMU_DATA", str(data))
    monkeypatch.setattr(remodiffuse_checkpoints, "ReMoDiffuseConfig", Small)
    generator, encoder = family(name), load_text_encoder(ENCODERS.get(name, "clip"))
    untrained = generator.untrained(generator.Sizes(**sizes[name]), clips[:9], encoder, 3)
    if name == "remodiffuse":
        database = build_database(clips[:9], official_scale, encoder, 24)
        untrained = replace(untrained, normaliser=official_scale, database=database)
    settings = replace(arms.pretraining(tiny, name), steps=8)
    prior, _ = generator.train(untrained, clips[:9], settings, tmp_path, [], "cpu")
    WRITERS[name](data / FOLDER, prior)
    # Sizes where the file does not say its own.
    own = sizes[name] if name in ("momask", "t2mgpt") else {}
    section = GeneratorSection(checkpoint=FOLDER, text_encoder=encoder.name, **own)
    track = tiny.model_copy(update={"generators": {**tiny.generators, name: section}})
    return Study(track, name, clips[:9], clips[9:], {"corpus": "a" * 64}), prior


def test_published_weights_are_the_base_as_they_are(published):
    study, prior = published
    start = study.start()
    run = study.make_base(start)
    kept = arms.load_model(study.track, study.name)
    np.testing.assert_allclose(kept.normaliser.mean, prior.normaliser.mean, rtol=1e-6)
    np.testing.assert_allclose(kept.normaliser.std, prior.normaliser.std, rtol=1e-6)
    requests = (["a person walks", "a person jumps"], [24, 13], [1, 2], None, 2, "cpu", False)
    for one, other in zip(
        *(study.generator.generate(p, *requests) for p in (kept, start)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    settings = arms.finetuning(study.track, arms.LossWeights(), None, 0)
    theirs, found = (
        study.generator.validation(p, study.held_out, settings, "cpu") for p in (prior, kept)
    )
    assert theirs == pytest.approx(found, rel=1e-5) and np.isfinite(list(found.values())).all()
    reported = {k: v for k, v in run.metrics["validation"].items() if k != "step"}
    assert reported == pytest.approx(found, rel=1e-6)
    assert run.metrics["clips"] == 0 and len(kept.history) == 1
    assert run.metrics["parameters"] == study.generator.parameters(prior)
    curves = pd.read_parquet(run.path(arms.HISTORY))
    assert curves["split"].tolist() == ["validation"] and curves["step"].tolist() == [0]


def test_published_weights_are_made_a_base_once(published):
    study, _ = published
    before = study.make_base(study.start()).path("run.json").stat().st_mtime_ns
    again = study.make_base(study.start(), again=False)
    assert again.path("run.json").stat().st_mtime_ns == before
    record = runs.require_run(study.track.name, study.name, arms.STAGE)
    assert {"corpus", "checkpoint", "statistics", "text encoder"} == set(record["inputs"])


@pytest.mark.parametrize("name", ["mdm", "momask", "t2mgpt"])
def test_other_statistics_are_another_base(published):
    study, _ = published
    first, start = study.make_base(study.start()), study.start()
    other = Normaliser(start.normaliser.mean, start.normaliser.std * 2)
    second = study.make_base(replace(start, normaliser=other))
    changed = {key for key in first.inputs if first.inputs[key] != second.inputs[key]}
    assert changed == {"statistics"}
    np.testing.assert_allclose(arms.load_model(study.track, study.name).normaliser.std, other.std)


def test_a_motion_is_shown_to_published_weights(published):
    study, prior = published
    guesses = []
    for each in (prior, study.start()):
        denoise, clip = study.generator.denoiser(each, "cpu"), study.held_out[0]
        frames = len(clip.features) // 4 * 4
        x0 = torch.from_numpy(each.normaliser.normalise(clip.features[:frames]).astype(np.float32))
        mask, t = torch.ones(1, frames, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
        with torch.inference_mode():
            guesses.append(denoise([clip], x0[None], mask, t, torch.zeros_like(x0)[None]))
    torch.testing.assert_close(*guesses, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["mdm", "momask", "t2mgpt"])
def test_published_weights_can_be_refined(published):
    study, _ = published
    run = study.make_arm(study.make_base(study.start()), arms.LossWeights(acc=1.0), 2, 0)
    assert run.dir.parts[-2] == f"{study.name}-acc1" and run.metrics["clips"] == 9
    assert len(arms.load_model(study.track, f"{study.name}-acc1").history) == 2


@pytest.mark.parametrize("name", ["momask", "t2mgpt"])
def test_sizes_that_are_not_those_of_the_file_are_told(published):
    study, _ = published
    section = study.track.generators[study.name]
    wrong = GeneratorSection(**{**section.model_dump(), "layers": 2})
    track = study.track.model_copy(update={"generators": {study.name: wrong}})
    with pytest.raises(InputError, match="parameters: found .* is missing"):
        replace(study, track=track).start()
