"""Tracks: where data live and how big things are, read from ``workflow/tracks/<name>.yaml``.

The same notebooks run on every track; only what stands in the track's file differs.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from t2imu_utils.errors import InputError
from t2imu_utils.runs import ROOT

TRACKS = ROOT / "workflow" / "tracks"
PROMPTS = ROOT / "data" / "prompts" / "activities.yaml"
OPEN_BODY = ROOT / "data" / "body" / "open_body.npz"
PAPER_VALUES = ROOT / "data" / "paper_values.json"

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A part of a track: every field required and typed, nothing unknown, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CorpusSection(Section):
    """Motion and text that the prior is trained on."""

    reader: Literal["demo", "cmu", "humanml3d"]
    train: str  # name of the split to train on
    validation: str  # unseen subjects, for every choice that is made
    test: list[str]  # splits that are only reported
    made_up: Count | None = None  # how many clips the demo writes


class RecordingsSection(Section):
    """Real recordings that the classifier is tested on."""

    reader: Literal["realworld", "umafall", "pamap2", "mhealth"]
    labels: Literal["activities", "categories"]
    classes: list[str]
    channels: list[Literal["acc", "gyro"]]
    sites: list[str]
    made_up: Count | None = None  # how many subjects the demo writes


class PriorSection(Section):
    """Size of the diffusion model (MDM, transformer decoder)."""

    layers: Count
    width: Count
    heads: Count
    feedforward: Count
    dropout: Fraction
    diffusion_steps: Count


class TrainingSection(Section):
    """Budget of the base and of each fine-tuned arm."""

    pretrain_steps: Count | None = None  # of a base that is trained here
    pretrain_learning_rate: Positive | None = None
    finetune_steps: Count
    finetune_learning_rate: Positive
    batch_size: Count
    max_frames: Count
    ema_decay: Fraction
    condition_dropout: Fraction
    checkpoint_every: Count


class SamplingSection(Section):
    """Motions drawn from each prior: every prompt, `repetitions` times."""

    repetitions: Count
    seconds: Annotated[list[Positive], Field(min_length=2, max_length=2)]  # shortest, longest
    guidance: Positive
    batch_size: Count


class AnalysisSection(Section):
    """Notebook 05: where the losses are evaluated, and on how many clips at most."""

    timesteps: list[int]
    max_clips: Count
    bootstrap: Count


class HarSection(Section):
    """Notebooks 06 and 07: the classifier, its budget, and the sizes of the window sets."""

    epochs: Count
    batch_size: Count
    learning_rate: Positive
    filters: Count
    units: Count
    windows_per_class: Count
    test_windows_per_class: Count
    tsne_windows: Count
    folds: Count
    seeds: list[int]


class Track(Section):
    """All that differs between one track and another."""

    name: str
    title: str  # stands in the caption of every figure
    synthetic: bool  # whether the corpus is made up
    text_encoder: str
    body: Literal["open", "smpl"]  # the committed body, or the licensed files below T2IMU_DATA
    corpus: CorpusSection
    recordings: RecordingsSection
    prior: PriorSection | None = None  # size of a base that is trained here, or else ...
    checkpoint: str | None = None  # ... the published base: its folder below T2IMU_DATA
    training: TrainingSection
    sampling: SamplingSection
    analysis: AnalysisSection
    har: HarSection

    @model_validator(mode="after")
    def _one_base(self) -> "Track":
        trained = {self.training.pretrain_steps, self.training.pretrain_learning_rate, self.prior}
        if (self.checkpoint is None and None in trained) or (self.checkpoint and trained != {None}):
            raise ValueError(
                "a base is either trained here (prior, training.pretrain_steps and "
                "training.pretrain_learning_rate) or published (checkpoint)"
            )
        return self


def track_file(name: str) -> Path:
    """The YAML file of a track, or `name` itself where it is a path to one."""
    return Path(name) if name.endswith((".yaml", ".yml")) else TRACKS / f"{name}.yaml"


def load_track(name: str) -> Track:
    """Read and check a track.

    Args:
        name: ``demo``, ``cmu``, or the path of a YAML file of one's own.

    Raises:
        InputError: unknown track, or a field that is unknown, missing or of the wrong type.
    """
    path = track_file(name)
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in TRACKS.glob("*.yaml")))
        raise InputError(f"track {name!r}", "no such track", f"one of {known}", f"Write {path}.")
    try:
        return Track.model_validate({"name": path.stem, **yaml.safe_load(path.read_text())})
    except yaml.YAMLError as error:
        raise InputError(
            path, f"no valid YAML ({error})", "a mapping", "Mend its syntax."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        value = f" (value {first['input']!r})" if field else ""
        raise InputError(
            f"{path}: {field}" if field else path,
            f"{first['msg'].lower()}{value}",
            "the fields and types of t2imu_utils/tracks.py",
            "Compare with workflow/tracks/demo.yaml.",
        ) from error


def data_root() -> Path:
    """Folder of the raw data sets: ``T2IMU_DATA``, else ``data/raw`` of the repository."""
    return Path(os.environ.get("T2IMU_DATA", ROOT / "data" / "raw"))


def data_set(name: str) -> Path:
    """Folder of one raw data set below `data_root`.

    Raises:
        InputError: it is not there, with what to do.
    """
    path = data_root() / name
    if not path.exists():
        raise InputError(
            path,
            "nothing",
            f"the data set {name!r}",
            "`t2imu data status --track <track>` says what belongs where below T2IMU_DATA and how "
            "to get it; the demo track needs nothing.",
        )
    return path
