"""Every family behind the one interface: made, trained, kept, sampled, examined, published."""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from t2imu_utils import finetuning, runs
from t2imu_utils.errors import InputError
from t2imu_utils.finetuning import Study, pretraining
from t2imu_utils.models import trainer
from t2imu_utils.models.generator import family, generator_of, sizes_of
from t2imu_utils.models.losses import TERMS, LossWeights
from t2imu_utils.models.retrieval import build_database
from t2imu_utils.models.text import load_text_encoder
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.motion.features import features_to_joints
from t2imu_utils.tracks import TRACKS, GeneratorSection, load_track
from tests.models.layouts import (
    write_clip,
    write_distilbert,
    write_mdm,
    write_momask,
    write_remodiffuse,
    write_t2mgpt,
)

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


PROMPTS = ["walks slowly", "runs", "a person runs", "jumps twice", "sits down on a chair"]


FRAMES, SEEDS = [24, 9, 9, 14, 24], [4, 5, 6, 7, 5]


def networks(prior) -> dict[str, torch.Tensor]:
    """All parameters and buffers of a prior, whatever its family calls its networks."""
    modules = getattr(prior, "networks", None) or {"model": prior.model}
    return {
        f"{n}.{key}": x for n, module in modules.items() for key, x in module.state_dict().items()
    }


def differing(a, b) -> set[str]:
    a, b = networks(a), networks(b)
    assert a.keys() == b.keys() and a
    return {key for key in a if not torch.equal(a[key], b[key])}


def made(study, prior, prompts=PROMPTS, frames=FRAMES, seeds=SEEDS, batch_size=8, guidance=None):
    return study.generator.generate(
        prior, prompts, frames, seeds, guidance, batch_size, "cpu", progress=False
    )


def test_training_moves_the_weights_and_tells_its_losses(study, trained, settings):
    prior, curves = trained
    start = study.start()
    assert differing(prior, start) and not differing(start, study.start())
    assert len(prior.history) == 1 and prior.history[0]["clips"] == len(study.clips)
    np.testing.assert_array_equal(prior.normaliser.mean, start.normaliser.mean)
    assert {"step", "split", "total", *TERMS} <= set(curves.columns)
    by_split = curves.groupby("split")["step"]
    assert by_split.get_group("train").tolist() == list(range(1, settings.steps + 1))
    assert by_split.max()["validation"] == settings.steps
    for term in study.generator.curves:
        assert curves.groupby("split")[term].count().min() > 0
    validated = curves[curves["split"] == "validation"].ffill().iloc[-1]
    assert np.isfinite(validated[list(TERMS)].to_numpy(dtype=float)).all()


def test_what_is_kept_comes_back_as_it_was(study, prior, words):
    folder = runs.run_dir(study.track.name, study.name, finetuning.STAGE)
    prior.velocity_weight = [float(joint) for joint in range(22)]
    files = study.generator.save(folder / finetuning.PRIOR, prior)
    assert folder / finetuning.PRIOR in files and all(path.is_file() for path in files)
    assert {path.name for path in folder.iterdir()} == {path.name for path in files}
    for encoder in (None, words):
        loaded = study.generator.load(folder / finetuning.PRIOR, encoder)
        assert type(loaded) is type(prior) and not differing(loaded, prior)
        for one, other in zip(made(study, loaded), made(study, prior), strict=True):
            np.testing.assert_array_equal(one, other)
        assert study.generator.network(loaded) == study.generator.network(prior)
        assert len(loaded.history) == 1 and loaded.velocity_weight == prior.velocity_weight
    # Written over, as an arm that is trained again.
    study.generator.save(folder / finetuning.PRIOR, study.start())
    assert differing(study.generator.load(folder / finetuning.PRIOR), prior)


# ReMoDiffuse retrieves from motions that are not ours to ship.
@pytest.mark.parametrize("name", [family for family in FAMILIES if family != "remodiffuse"])
def test_a_base_starts_from_shipped_weights(study, prior, tmp_path, monkeypatch):
    monkeypatch.setattr(finetuning, "shipped_prior", lambda family: tmp_path / family)
    about = {"provenance": {"licence": "ours"}}
    study.generator.save(tmp_path / study.name, prior, about, half=True)
    section = GeneratorSection(checkpoint="open")
    track = study.track.model_copy(update={"generators": {study.name: section}})
    started = networks(replace(study, track=track).start())
    for key, x in networks(prior).items():
        torch.testing.assert_close(started[key], x, rtol=1e-3, atol=1e-4)


def test_motions_are_as_long_as_was_asked_and_follow_their_seed(study, prior):
    motions = made(study, prior)
    assert [x.shape for x in motions] == [(n, 263) for n in FRAMES]
    assert all(x.dtype == np.float32 and np.isfinite(x).all() for x in motions)
    for one, other in zip(motions, made(study, prior), strict=True):
        np.testing.assert_array_equal(one, other)
    other = made(study, prior, seeds=[seed + 100 for seed in SEEDS])
    assert all(not np.array_equal(a, b) for a, b in zip(motions, other, strict=True))


def test_a_motion_does_not_depend_on_what_it_is_made_with(study, prior):
    before = torch.get_rng_state()
    together = made(study, prior)
    assert torch.equal(torch.get_rng_state(), before)
    by_two = made(study, prior, batch_size=2)
    turned = made(study, prior, PROMPTS[::-1], FRAMES[::-1], SEEDS[::-1], 3)[::-1]
    for i, motion in enumerate(together):
        alone = made(study, prior, PROMPTS[i : i + 1], FRAMES[i : i + 1], SEEDS[i : i + 1])[0]
        for other in (by_two[i], turned[i], alone):
            np.testing.assert_allclose(motion, other, atol=2e-4)


def test_requests_become_a_table_with_features_and_joints(study, prior):
    requests = pd.DataFrame(
        {"prompt": PROMPTS, "frames": FRAMES, "seed": SEEDS, "activity": list("abcde")},
        index=[3, 1, 4, 15, 9],
    )
    prior.velocity_weight = [float(joint) for joint in range(22)]
    clips = study.generator.sample(prior, requests, None, 2, progress=False)
    assert clips.meta == {"rate": 20.0} and clips.table["motion"].tolist() == list(range(5))
    for column in requests:
        assert clips.table[column].tolist() == requests[column].tolist()
    for i, motion in enumerate(made(study, prior)):
        np.testing.assert_allclose(clips[i]["features"], motion, atol=2e-4)
        joints = features_to_joints(clips[i]["features"], prior.velocity_weight)
        np.testing.assert_array_equal(clips[i]["joints"], joints)
        assert joints.shape == (FRAMES[i], 22, 3)


def test_refinement_trains_a_copy_with_the_losses_asked_for(study, prior, name, tmp_path):
    before = {key: x.clone() for key, x in networks(prior).items()}
    settings = finetuning.finetuning(study.track, LossWeights(acc=2.0), 4, 0)
    more, _ = study.generator.refine(
        prior, study.clips, settings, tmp_path / "a", study.held_out, "cpu"
    )
    control, _ = study.generator.refine(
        prior, study.clips, replace(settings, weights=LossWeights()), tmp_path / "b", [], "cpu"
    )
    assert all(torch.equal(before[key], x) for key, x in networks(prior).items())
    moved = differing(more, prior)
    if name in ("momask", "t2mgpt"):
        # Tokens keep their meaning: encoder, codebooks and transformers stay, bit for bit.
        assert moved and all(key.startswith("rvq.decoder.") for key in moved)
    else:
        assert any(key.startswith("model.") for key in moved)
    assert differing(more, control)
    assert len(more.history) == 2 and more.history[-1]["config"]["weights"]["acc"] == 2.0
    np.testing.assert_array_equal(more.normaliser.std, prior.normaliser.std)


def shown(study, prior, clips, level=3, seed=0):
    """x̂_0 of clips in one batch, and the batch."""
    denoise = study.generator.denoiser(prior, "cpu")
    cut = [len(clip.features) // denoise.stride * denoise.stride for clip in clips]
    rows = [
        torch.from_numpy(prior.normaliser.normalise(clip.features[:n]).astype(np.float32))
        for clip, n in zip(clips, cut, strict=True)
    ]
    noise = [
        torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + len(x))) for x in rows
    ]
    mask = torch.arange(max(cut))[None] < torch.tensor(cut)[:, None]
    # Whatever stands behind a motion must not matter.
    x0, noise = (nn.utils.rnn.pad_sequence(x, True, padding_value=9.0) for x in (rows, noise))
    t = torch.full((len(clips),), min(level, denoise.levels - 1))
    with torch.inference_mode():
        return denoise(clips, x0, mask, t, noise), mask, x0


def test_a_motion_is_denoised_as_if_it_were_alone(study, prior):
    together, mask, x0 = shown(study, prior, study.clips)
    assert together.shape == x0.shape
    for i, clip in enumerate(study.clips):
        alone, own, _ = shown(study, prior, [clip])
        torch.testing.assert_close(together[i][mask[i]], alone[0][own[0]], atol=2e-5, rtol=1e-4)


def test_a_solver_is_taken_where_there_is_a_choice(tiny):
    def with_solver(name, **chosen):
        section = tiny.generators[name].model_copy(update=chosen)
        track = tiny.model_copy(update={"generators": {**tiny.generators, name: section}})
        return generator_of(track, name)

    ancestral = {"name": "ancestral", "evaluations": None, "precision": "float32"}
    assert generator_of(tiny, "mdm").sampler == {"solver": ancestral}
    chosen = with_solver("mdm", evaluations=7).sampler["solver"]
    assert chosen == ancestral | {"evaluations": 7}
    with pytest.raises(InputError, match="solver: found 'heun'; expected one of ancestral"):
        with_solver("mdm", solver="heun")
    with pytest.raises(InputError, match="solver 'ddim': found MoMaskGenerator has none"):
        with_solver("momask", solver="ddim")


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("    layers: 2\n", "    layers: four\n", "momask.layers"),
        ("    layers: 2\n", "    layers: 2\n    depth: 4\n", "momask.depth"),
        ("    time_width: 128\n", "", "remodiffuse.time_width"),
    ],
)
def test_a_wrong_size_is_named_with_its_file(tmp_path, old, new, field):
    path, text = tmp_path / "mine.yaml", (TRACKS / "demo.yaml").read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    track, (name, _) = load_track(str(path)), field.split(".")
    with pytest.raises(InputError) as told:
        sizes_of(track, name)
    assert str(told.value).startswith(f"{path}: generators.{field}: found ")
    assert "Sizes in t2imu_utils.models." in told.value.expected
    for other in set(track.generators) - {name}:
        sizes_of(track, other)


ENCODERS = {"mdm": "distilbert"}  # of the others: clip
FOLDER = "weights"


WRITERS = {
    "mdm": write_mdm,
    "momask": write_momask,
    "remodiffuse": write_remodiffuse,
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
    """Statistics of the clips, contacts spread as in those of the official ReMoDiffuse."""
    features = np.concatenate([clip.features for clip in clips[:9]])
    std = features.std(0) + 0.05
    std[259:] = 0.352 / 25
    return Normaliser(features.mean(0), std)


@pytest.fixture
def published(
    tiny, name, clips, sizes, downloads, official_scale, runs_folder, monkeypatch, tmp_path
):
    """A study that begins with published weights, and the prior that was published."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "text_encoders").symlink_to(downloads / "text_encoders")
    monkeypatch.setenv("T2IMU_DATA", str(data))
    generator, encoder = family(name), load_text_encoder(ENCODERS.get(name, "clip"))
    untrained = generator.untrained(generator.Sizes(**sizes[name]), clips[:9], encoder, 3)
    if name == "remodiffuse":
        database = build_database(clips[:9], official_scale, encoder, 24)
        untrained = replace(untrained, normaliser=official_scale, database=database)
    settings = replace(finetuning.pretraining(tiny, name), steps=8)
    prior, _ = generator.train(untrained, clips[:9], settings, tmp_path, [], "cpu")
    WRITERS[name](data / FOLDER, prior)
    own = {} if name == "mdm" else sizes[name]  # of which the file says its own
    section = GeneratorSection(checkpoint=FOLDER, text_encoder=encoder.name, **own)
    track = tiny.model_copy(update={"generators": {**tiny.generators, name: section}})
    return Study(track, name, clips[:9], clips[9:], {"corpus": "a" * 64}), prior


def test_published_weights_are_the_base_as_they_are(published):
    study, prior = published
    start = study.start()
    run = study.make_base(start)
    kept = finetuning.load_model(study.track, study.name)
    np.testing.assert_allclose(kept.normaliser.mean, prior.normaliser.mean, rtol=1e-6)
    np.testing.assert_allclose(kept.normaliser.std, prior.normaliser.std, rtol=1e-6)
    requests = (["a person walks", "a person jumps"], [24, 13], [1, 2], None, 2, "cpu", False)
    for one, other in zip(
        *(study.generator.generate(p, *requests) for p in (kept, start)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    settings = finetuning.finetuning(study.track, finetuning.LossWeights(), None, 0)
    theirs, found = (
        study.generator.validation(p, study.held_out, settings, "cpu") for p in (prior, kept)
    )
    assert theirs == pytest.approx(found, rel=1e-5) and np.isfinite(list(found.values())).all()
    reported = {k: v for k, v in run.metrics["validation"].items() if k != "step"}
    assert reported == pytest.approx(found, rel=1e-6)
    assert run.metrics["clips"] == 0 and len(kept.history) == 1
    assert run.metrics["parameters"] == study.generator.parameters(prior)
    curves = pd.read_parquet(run.path(finetuning.HISTORY))
    assert curves["split"].tolist() == ["validation"] and curves["step"].tolist() == [0]


def test_an_interrupted_training_ends_bit_for_bit_where_a_whole_one_ends(
    study, settings, tmp_path, monkeypatch
):
    """Whatever stage it is in."""
    settings = replace(settings, checkpoint_every=5, validate_every=4, ema_decay=0.9)
    arguments = (study.clips, settings, tmp_path / "whole", study.held_out, "cpu")
    whole, curves = study.generator.train(study.start(), *arguments)
    update, updates = trainer._Training.update, []

    def interrupt(self, network):
        updates.append(self.step)
        if len(updates) in (8, 16):
            raise KeyboardInterrupt
        update(self, network)

    monkeypatch.setattr(trainer._Training, "update", interrupt)
    arguments = (study.clips, settings, tmp_path / "parts", study.held_out, "cpu")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            study.generator.train(study.start(), *arguments)
        torch.randn(50)
    resumed, again = study.generator.train(study.start(), *arguments)
    assert len(updates) > settings.steps and not differing(whole, resumed)
    assert curves.equals(again) and whole.history == resumed.history
