"""The open prior of a run, and its card, from a corpus of a few clips."""

import re
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from t2imu_utils import arms, data, runs
from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256
from t2imu_utils.generators import family
from t2imu_utils.model_card import category_minutes, export_prior
from t2imu_utils.motion.corpus import MotionClip, write_corpus
from t2imu_utils.priors.open_prior import read_open_prior, read_provenance
from t2imu_utils.priors.training import TrainConfig
from t2imu_utils.tracks import SHIPPED, CorpusSection, GeneratorSection, load_track

TRAIN = {  # name: subject, frames, category
    "05_01_00": ("05", 1500, "dancing"), "M05_01_00": ("05", 1500, "dancing"),
    "05_01_00x1.1": ("05", 1364, "dancing"), "M05_01_00x1.1": ("05", 1364, "dancing"),
    "06_02_00": ("06", 240, "walking"), "08_01_00": ("08", 180, "walking"),
}  # fmt: skip
VAL = {"10_01_00": ("10", 60, "walking")}


@pytest.fixture
def track(words):
    demo = load_track("demo")
    splits = {"train": "train", "validation": "val", "test": []}
    changed = {
        "name": "cmu_prior", "text_encoder": words.name,
        "generators": {"mdm": GeneratorSection(refined=True)},
        "corpus": CorpusSection(reader="cmu", speeds=[1.1], **splits),
    }  # fmt: skip
    return demo.model_copy(update=changed)


@pytest.fixture
def corpus(track, runs_folder):
    """The finished stage 00."""
    rng = np.random.default_rng(0)
    chosen = TRAIN | VAL
    clips = [
        MotionClip(name, rng.normal(size=(frames, 263)).astype(np.float32), ["walk"], who)
        for name, (who, frames, _) in chosen.items()
    ]
    run = runs.open_run(track.name, runs.SHARED, data.STAGE, {}, {})
    splits = {"train": list(TRAIN), "val": list(VAL)}
    write_corpus(run.path("corpus"), clips, splits)
    table = [{"name": name, "category": category} for name, (_, _, category) in chosen.items()]
    pd.DataFrame(table).to_parquet(run.path("categories.parquet"))
    lacking = [("cmu/kitml_sentences.json", "no such file")]
    pd.DataFrame(lacking, columns=["name", "reason"]).to_parquet(run.path("skipped.parquet"))
    names = ("corpus", "categories.parquet", "skipped.parquet")
    return run.finish({"clips": {"train": 6, "val": 1}}, [run.path(name) for name in names])


@pytest.fixture
def trained(track, corpus, clips, sizes, words):
    """The finished stage 02 of a prior that was never trained, but says that it was."""
    generator = family("mdm")
    prior = generator.untrained(generator.Sizes(**sizes["mdm"]), clips, words, 0)
    config = TrainConfig(4000, max_frames=20, validate_every=200, early_stopping=True, seed=5)
    checks = [{"step": step, "simple": 1 / step, "split": "validation"} for step in (200, 3600)]
    checks.append({"step": 4000, "simple": 0.5, "split": "validation"})
    kept = {"step": 3600, "simple": 1 / 3600}
    prior.history = [{"config": asdict(config), "clips": 6, "validation": kept}]
    inputs = {"corpus": runs.input_hash(track.name, runs.SHARED, data.STAGE)}
    run = runs.open_run(track.name, "mdm", arms.STAGE, {}, inputs)
    run.started -= 5025
    generator.save(run.path(arms.PRIOR), prior)
    empty = dict.fromkeys(("pos", "foot", "vel", "acc"), np.nan)
    pd.DataFrame([empty | row for row in checks]).to_parquet(run.path(arms.HISTORY))
    run.finish({"parameters": 1}, [run.path(arms.PRIOR), run.path(arms.HISTORY)])
    return prior


def test_the_card_has_the_numbers_of_the_run(track, trained, words, tmp_path):
    file, card = export_prior(track, out=tmp_path / "mine.safetensors")
    assert card == tmp_path / "mine.md"
    text = card.read_text()
    flat = " ".join(text.split())
    count = sum(p.numel() for p in trained.model.parameters())
    for part in (
        "# mine: ", sha256(file), f"| parameters | {count:,} |", "up to 1 seconds",
        "(5,025 s)", "83.8 minutes", "torch 2", "| text encoder | words, frozen",
        # 1500 + 240 + 180 of 6148 frames were recorded.
        "| train | 3 | 3 | 1.6 | 6 | 5.1 |", "| val | 1 | 1 | 0.1 | 1 | 0.1 |",
        "| dancing | 1.25 | 78% | 1 | 1 |", "| walking | 0.35 | 22% | 2 | 2 |",
        "| lying | 0.00 | 0% | 0 | 0 |", "again at 1.1 times the speed",
        "Best covered: dancing (1.2 min).", "recorded motion: walking (0.35 min).",
        "one person alone: dancing.", "1.6 minutes of recorded motion", "moving of 3 people",
        "4,000 steps of 32 clips, drawn from 6, cropped to 20 frames", "seed 5",
        "kept the weights of step 3,600, looking every 200 steps",
        "| step | simple | |---|---| | 200 | 0.0050 | | 3,600 (kept) | 0.0003 | | 4,000 | 0.5000 |",
        "NSF EIA-0196217", "MIT, as this repository", "`cmu_prior/mdm/02_finetuning`",
    ):  # fmt: skip
        assert part in flat, part
    assert "KIT" not in text and not re.search(r"[{}]", text)
    assert "Not in the training data: jumping, running, lying" in flat
    about = read_provenance(file)
    assert about["licence"].startswith("MIT") and about["track"] == "cmu_prior"
    found = read_open_prior(file, words)
    assert np.shape(found.velocity_weight) == (22,) and min(found.velocity_weight) > 0
    assert found.history == trained.history and found.config == trained.config


def test_the_card_of_the_repositorys_own_file_is_its_readme(track, trained, tmp_path, monkeypatch):
    own = tmp_path / "prior" / "mdm_cmu.safetensors"
    monkeypatch.setattr("t2imu_utils.model_card.OPEN_PRIOR", own)
    _, card = export_prior(track, out=own)
    assert card == own.with_name("README.md")
    with pytest.raises(InputError, match="no ending"):
        export_prior(track, out=tmp_path / "prior")


def test_sentences_of_kit_are_told_where_they_are_used(track, trained, corpus, tmp_path):
    none = pd.DataFrame({"name": ["02_01"], "reason": ["spoilt"]})
    none.to_parquet(corpus.path("skipped.parquet"))
    names = ("corpus", "categories.parquet", "skipped.parquet")
    corpus.finish(corpus.metrics, [corpus.path(name) for name in names])
    with pytest.raises(InputError, match="another one than the prior was trained on"):
        export_prior(track, out=tmp_path / "mine.safetensors")
    record = runs.require_run(track.name, "mdm", arms.STAGE)
    used = {"corpus": runs.input_hash(track.name, runs.SHARED, data.STAGE)}
    run = runs.open_run(track.name, "mdm", arms.STAGE, {}, used)
    run.finish({}, [run.path(name) for name in record["outputs"]])
    _, card = export_prior(track, out=tmp_path / "mine.safetensors")
    assert "KIT Motion-Language Dataset" in card.read_text()


def test_what_is_not_ours_to_give_is_refused(track, trained, tmp_path):
    out = tmp_path / "mine.safetensors"
    theirs = {"mdm": GeneratorSection(checkpoint="mdm_distilbert")}
    with pytest.raises(InputError, match="checkpoint: found mdm_distilbert"):
        export_prior(track.model_copy(update={"generators": theirs}), out=out)
    shipped = {"mdm": GeneratorSection(checkpoint=SHIPPED)}
    with pytest.raises(InputError, match="checkpoint: found open"):
        export_prior(track.model_copy(update={"generators": shipped}), out=out)
    licensed = track.corpus.model_copy(update={"reader": "humanml3d"})
    with pytest.raises(InputError, match="corpus: found humanml3d; expected cmu"):
        export_prior(track.model_copy(update={"corpus": licensed}), out=out)
    with pytest.raises(InputError, match="run.json: found nothing"):
        export_prior(track, "mdm-ft", out)
    assert not out.exists() and not out.with_suffix(".md").exists()


def test_copies_are_no_minutes_of_their_own():
    table = pd.DataFrame(
        {"category": ["walking", "walking", "lying"], "minutes": [2.0, 2.0, 1.0]}
    ).assign(recorded=[True, False, True])
    minutes = category_minutes(table)
    assert minutes["walking"] == 2 and minutes["lying"] == 1 and minutes["running"] == 0
    assert list(minutes.index[:2]) == ["walking", "lying"] and len(minutes) == 9
