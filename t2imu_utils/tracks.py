"""Tracks: where data live and how big things are, read from ``workflow/tracks/<name>.yaml``.

The same notebooks run on every track; only what stands in the track's file differs.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from t2imu_utils.errors import InputError
from t2imu_utils.runs import ROOT

TRACKS = ROOT / "workflow" / "tracks"
PROMPTS = ROOT / "data" / "prompts" / "activities.yaml"
OPEN_BODY = ROOT / "data" / "body" / "open_body.npz"
PAPER_VALUES = ROOT / "data" / "paper_values.json"

# The generator that the paper refines.
BASE = "mdm"

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
# What networks multiply in. It decides numbers, so it is set, whatever the processor is.
Precision = Literal["float32", "bfloat16"]
# What a track calls weights that the project ships (`shipped_prior`).
SHIPPED = "open"
# Families whose motions are read, neither trained nor refined: those of other projects, and what
# was recorded.
READY_MADE = ("exported", "recorded")
# Part of the names of run folders, where a dash begins what an arm has of its own.
GeneratorName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*$")]


Kind = TypeVar("Kind", bound=BaseModel)


class Section(BaseModel):
    """A part of a track: every field required and typed, nothing unknown, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CorpusSection(Section):
    """Motion and text that the prior is trained on."""

    reader: Literal["demo", "open", "humanml3d"]
    train: str  # name of the split to train on
    validation: str  # unseen subjects, for every choice that is made
    test: list[str]  # splits that are only reported
    made_up: Count | None = None  # how many clips the demo writes


class RecordingsSection(Section):
    """Real recordings that the classifier is tested on."""

    reader: Literal["realworld", "umafall", "hapt", "csv"]
    labels: Literal["activities", "categories"]
    classes: list[str]
    channels: list[Literal["acc", "gyro"]]
    sites: list[str]
    made_up: Count | None = None  # how many subjects the demo writes
    layout: dict[str, Any] | None = None  # of CSV files: `recordings.csv.Layout`


class GeneratorSection(Section):
    """A generator of motions: where it comes from, and whether L_acc is tried on it.

    Whatever else an entry has are sizes of its network and options of its own, which the module
    of its family checks (`models.generator`). Motions that other projects made are an entry
    with ``family: exported``, whose options are those of `models.exported.Options`.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    family: str | None = None  # the module in t2imu_utils/models; by default the entry's name
    # Published weights, taken as they are: a folder below T2IMU_DATA, or `SHIPPED`.
    checkpoint: str | None = None
    text_encoder: str | None = None  # by default the track's
    pretrain_steps: Count | None = None  # by default the track's
    refined: bool = False  # whether there are a control and refined models of it
    guidance: Positive | None = None  # scale of the text; by default the family's own
    solver: str | None = None  # of a diffusion (`models.diffusion`); by default as its authors do
    evaluations: Count | None = None  # of the model for one motion; by default the solver's own
    precision: Precision | None = None  # of its network while it samples; by default float32
    # Of sampled motion (`models.generator.Generator.sample`).
    velocity_weight: Annotated[float, Field(ge=0)] | None = None
    smooth: Positive | None = None


class TrainingSection(Section):
    """Budget of each generator that is trained here, and of each of its arms."""

    pretrain_steps: Count | None = None
    pretrain_learning_rate: Positive | None = None
    finetune_steps: Count
    finetune_learning_rate: Positive
    batch_size: Count
    max_frames: Count
    ema_decay: Fraction
    condition_dropout: Fraction
    checkpoint_every: Count
    precision: Precision = "float32"  # of networks that predict clean motions


class SamplingSection(Section):
    """Motions drawn from each generator: every prompt, `repetitions` times."""

    repetitions: Count
    seconds: Annotated[list[Positive], Field(min_length=2, max_length=2)]  # shortest, longest
    batch_size: Count
    prompts: str = "activities.yaml"  # a file in data/prompts


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


class StudySection(Section):
    """Notebook 08: MDM's arms over seeds, and recognition that is done otherwise."""

    weights: list[Positive]  # of L_acc as it is printed; with a control, each with every seed
    seeds: list[Annotated[int, Field(ge=0)]]
    # Trainings of the classifier for arms of other seeds than the first, which has all, and for
    # recognition that is done otherwise.
    classifiers: Count
    variant_classifiers: Count
    # Names of `analysis.har.RecognitionVariant`, for real recordings and all models but those with
    # further weights.
    variants: list[str]


class Track(Section):
    """All that differs between one track and another."""

    name: str
    file: Path  # that it was read from
    title: str  # stands in the caption of every figure
    synthetic: bool  # whether the corpus is made up
    text_encoder: str
    body: Literal["open", "smpl"]  # the committed body, or the licensed files below T2IMU_DATA
    corpus: CorpusSection
    recordings: RecordingsSection
    # Others that classifiers are tested on as well, by the name that variants have (hapt-person).
    more_recordings: dict[GeneratorName, RecordingsSection] = {}
    generators: dict[GeneratorName, GeneratorSection]
    training: TrainingSection
    sampling: SamplingSection
    analysis: AnalysisSection
    har: HarSection
    study: StudySection | None = None

    @model_validator(mode="after")
    def _trained_or_published(self) -> "Track":
        ready = [n for n, g in self.generators.items() if (g.family or n) in READY_MADE]
        if BASE not in self.generators or BASE in ready:
            raise ValueError(f"the study needs the generator {BASE}, trained here or published")
        budget = (self.training.pretrain_steps, self.training.pretrain_learning_rate)
        here = [n for n, g in self.generators.items() if not g.checkpoint and n not in ready]
        if here and None in budget:
            raise ValueError(
                f"{', '.join(here)}: trained here, which needs training.pretrain_steps and "
                "training.pretrain_learning_rate; or published, which needs checkpoint"
            )
        for name, section in self.generators.items():
            given = [field for field in GeneratorSection.model_fields if getattr(section, field)]
            if name in ready and (wrong := [field for field in given if field != "family"]):
                raise ValueError(f"{name}: motions that others made take no {', '.join(wrong)}")
        return self


def shipped_prior(family: str) -> Path:
    """Where the weights of a family lie that `make prior` makes."""
    return ROOT / "data" / "prior" / f"{family}_{SHIPPED}.safetensors"


OPEN_PRIOR = shipped_prior(BASE)


def track_file(name: str) -> Path:
    """The YAML file of a track, or `name` itself where it is a path to one."""
    return Path(name) if name.endswith((".yaml", ".yml")) else TRACKS / f"{name}.yaml"


def load_track(name: str) -> Track:
    """Read and check a track: ``demo``, ``open``, ``paper``, or the path of one's own YAML file.

    A file may say ``extends: open`` and then only what differs from that track. An `InputError`
    tells of an unknown track, or a field that is unknown, missing or of the wrong type.
    """
    files = track_files(name)
    content: dict[str, Any] = {}
    for file in reversed(files):
        content = _laid_over(content, {**_yaml(file), "extends": None})
    return checked(Track, {"name": files[0].stem, **content, "file": files[0]}, files[0])


def track_files(name: str) -> list[Path]:
    """The file of a track, and those that it extends."""
    files = [track_file(name)]
    while extended := _yaml(files[-1]).get("extends"):
        if (below := track_file(str(extended))) in files:
            raise InputError(
                f"{files[-1]}: extends", f"{extended}, which leads back here", "another track",
                "Leave it out, or name the track that this one is a change of.",
            )  # fmt: skip
        files.append(below)
    return files


def _yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in TRACKS.glob("*.yaml")))
        raise InputError(
            f"track {path.stem!r}", "no such track", f"one of {known}", f"Write {path}."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig")) or {}
    except (yaml.YAMLError, UnicodeError, OSError) as error:
        raise InputError(
            path, f"no valid YAML ({error})", "a mapping", "Mend its syntax."
        ) from error
    if not isinstance(content, dict):
        raise InputError(path, type(content).__name__, "a mapping", "Compare with demo.yaml.")
    return content


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` in place of what `below` has under the same names, mapping by mapping; what is null
    above is left out."""
    merged = {name: value for name, value in below.items() if above.get(name, ...) is not None}
    for name, value in above.items():
        if value is None:
            continue
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _laid_over(merged[name], value) if both else value
    return merged


def checked(kind: type[Kind], content: Any, path: Path, *within: str) -> Kind:
    """`content` as a section of the file `path`, within sections of these names.

    An `InputError` names a field that is unknown, missing or of the wrong type.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, (*within, *first["loc"])))
        value = f" (value {first['input']!r})" if first["loc"] else ""
        raise InputError(
            f"{path}: {field}" if field else path,
            f"{first['msg'].lower()}{value}",
            f"the fields and types of {kind.__name__} in {kind.__module__}",
            "Compare with workflow/tracks/demo.yaml.",
        ) from error


def data_root() -> Path:
    """Folder of the raw data sets: ``T2IMU_DATA``, else ``data/raw`` of the repository."""
    return Path(os.environ.get("T2IMU_DATA", ROOT / "data" / "raw"))


def data_set(name: str) -> Path:
    """Folder of one raw data set below `data_root`; an `InputError` says how to get what lacks."""
    path = data_root() / name
    if not path.exists():
        raise InputError(
            path, "nothing", f"the data set {name!r}",
            "`t2imu data status --track <track>` says what belongs where below T2IMU_DATA and how "
            "to get it; the demo track needs nothing.",
        )  # fmt: skip
    return path
