"""The open prior of a finished training, with its model card: what it is, in numbers of the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from t2imu_utils import arms, data
from t2imu_utils.activities import CATEGORIES
from t2imu_utils.arm_names import base_of, is_base
from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write, output_file, read_json, sha256
from t2imu_utils.generators import fitted_velocity_weight, generator_of, section_of
from t2imu_utils.motion.features import RATE
from t2imu_utils.priors.checkpoints import Prior
from t2imu_utils.priors.losses import TERMS
from t2imu_utils.priors.open_prior import SUFFIX, longest_frames, write_open_prior
from t2imu_utils.runs import SHARED, Run, finished_dir, input_hash, record_hash
from t2imu_utils.tracks import OPEN_PRIOR, SHIPPED, Track

THIN = 1.0  # minutes of recorded motion below which a category is called thin
THANKS = (
    "motion data from mocap.cs.cmu.edu, a database that was created with funding from NSF "
    "EIA-0196217."
)
LICENCE = "MIT (weights); CMU Graphics Lab Motion Capture Database (motion data)"

TEMPLATE = """\
# {name}: a text-to-motion prior that anybody may use

An MDM (Motion Diffusion Model, Tevet et al. 2023; a decoder that attends to the words) that makes
human motion of an English sentence, up to {longest:g} seconds at 20 frames a second. The numbers
below were read from the run that trained it (`{run}`) by `t2imu prior export`.

| | |
|---|---|
| file | `{file}`, {megabytes:.1f} MB: weights in float16, computed with in float32 |
| sha256 | `{digest}` |
| parameters | {parameters:,} |
| network | {layers} layers, width {width}, {heads} heads, feed-forward {feedforward} |
| diffusion | {diffusion_steps} steps |
| text encoder | {encoder}, frozen, not in the file |
| motion | HumanML3D's 263 numbers a frame; statistics in the file |
| trained on | {device}, {threads} thread(s), {hours} since its last start |
| finished | {finished} |
| versions | {versions} |

## Use

    t2imu generate "a person walks slowly in a circle" --seconds {longest:g} --out walk.npz --imu

    from t2imu_utils.priors.generate import generate
    from t2imu_utils.priors.open_prior import read_open_prior
    prior = read_open_prior("{file}")
    motion, = generate(prior, ["a person walks slowly in a circle"], frames=[{frames}], seeds=[0])

Meant for research and teaching on motion and on virtual inertial sensors, above all where a licence
for other motion data is in the way. It does not stand in for real recordings where decisions about
people depend on them.

## Data

| split | subjects | clips recorded | minutes recorded | clips with copies | minutes with copies |
|---|---|---|---|---|---|
{splits}

{names}

Augmentation, of training clips alone: every clip is there as recorded and as its mirror image (left
and right change places in its sentences too){speeds}. Turning the heading would change nothing: the
features do not hold it.

Training clips by category of their sentences:

| category | minutes recorded | share | clips recorded | subjects |
|---|---|---|---|---|
{categories}

## Training

{trainings}

Losses on the validation clips, in squared units of normalised features ("pos" and "foot": m²):

{losses}

## What it can do, and what not

- Best covered: {covered}.
- Thin, less than {thin:g} minute of recorded motion: {scarce}. Expect poor or wrong motion.
- Seen from one person alone: {single}.
- Not in the training data: {absent}. Do not ask for it.
- {minutes:.1f} minutes of recorded motion are little (HumanML3D has about 1,700). The prior knows
  the ways of moving of {people} people and the words of their sentences; what goes beyond that it
  ignores.
- One person; no hands, face or objects. Feet may slide and joints may jitter.
- English sentences only, and no motion longer than {longest:g} seconds.
- Nothing is known of how it does for children, old people or people with impaired movement.

## Terms

- **Weights**: MIT, as this repository.
- **Motion data**: CMU Graphics Lab Motion Capture Database, mocap.cs.cmu.edu. Its terms are CMU's:
  free for research and for products, not to be sold as data, converted or not, and to be
  acknowledged: {thanks} The descriptions of the trials are the database's own.
{kit}- **Not inside**: no AMASS, HumanML3D or SMPL data, no weights of others, no recordings of
  sensors, and none of the motion data themselves.
"""
KIT = """\
- **Sentences**: also of the KIT Motion-Language Dataset on the same trials, for research; cite
  Plappert, Mandery, Asfour: The KIT Motion-Language Dataset, Big Data 4(4), 2016.
"""


@dataclass(frozen=True)
class Trained:
    """A finished training of MDM on CMU's motions, and what it was made from.

    record: its `run.json`. curves: its loss curves. corpus: of `data.corpus_table`, with a column
    ``recorded``: whether a clip is no mirror image and has its own speed. sentences: whether
    KIT-ML's are among the captions.
    """

    track: Track
    prior: Prior
    record: dict[str, Any]
    curves: pd.DataFrame
    corpus: pd.DataFrame
    sentences: bool


def export_prior(track: Track, model: str = "mdm", out: Path = OPEN_PRIOR) -> tuple[Path, Path]:
    """Write the open prior of a finished training and, beside it, its model card.

    The weight that its motions are read with is found on the validation clips.

    The card of the repository's own file is the ``README.md`` of its folder; that of any other has
    the name of the file.

    Returns:
        Both paths.

    Raises:
        InputError: a model that is not trained here or not an MDM, a corpus whose terms do not
            allow it, one that has changed since, a training that is not finished, or too large a
            file.
    """
    out = output_file(out, SUFFIX)
    trained = read_training(track, model)
    record = trained.record
    origin = {
        **{key: record[key] for key in ("track", "model", "finished", "device", "versions")},
        "run": record_hash(record),
        "prior_sha256": record["outputs"][arms.PRIOR],
        "licence": LICENCE,
        "data": THANKS,
    }
    denoise = generator_of(track, base_of(model)).denoiser(trained.prior, "cpu")
    held_out = data.load_motions(track, track.corpus.validation)
    trained.prior.velocity_weight = fitted_velocity_weight(denoise, held_out)
    write_open_prior(out, trained.prior, origin)
    card = out.with_name("README.md") if out.resolve() == OPEN_PRIOR else out.with_suffix(".md")
    with atomic_write(card) as temporary:
        temporary.write_text(model_card(trained, out), encoding="utf-8")
    return out, card


def read_training(track: Track, model: str) -> Trained:
    """A training that may be published; errors as in `export_prior`."""
    name = base_of(model)
    section = section_of(track, name)
    where = f"{track.name}/{model}"
    if track.corpus.reader != "cmu":
        raise InputError(
            f"{where}: corpus", track.corpus.reader, "cmu, whose terms allow it",
            "Train on a track with CMU's motions, such as cmu_prior.",
        )  # fmt: skip
    if section.checkpoint is not None and (section.checkpoint != SHIPPED or is_base(model)):
        raise InputError(
            f"{where}: checkpoint", section.checkpoint, "a prior that this track trains",
            "Take a track that trains it from scratch, such as cmu_prior.",
        )  # fmt: skip
    folder = finished_dir(track.name, model, arms.STAGE)
    record = read_json(folder / "run.json")
    prior = generator_of(track, name).load(folder / arms.PRIOR)
    if not isinstance(prior, Prior):
        raise InputError(where, section.family or name, "an MDM", "Choose mdm or an arm of it.")
    used = record["inputs"].get("corpus")
    if used != input_hash(track.name, SHARED, data.STAGE):
        raise InputError(
            f"{where}: corpus", "another one than the prior was trained on", str(used)[:12],
            "Train the prior again, or put back the run of stage 00 that it was trained on.",
        )  # fmt: skip
    prepared = finished_dir(track.name, SHARED, data.STAGE)
    about = read_json(prepared / "run.json")
    run = Run(prepared, about["params"], about["inputs"], about["code"], about["metrics"], True)
    corpus = data.corpus_table(track, run)
    corpus["recorded"] = ~corpus["name"].str.contains(r"^M|x[0-9.]+$")
    left_out = pd.read_parquet(run.path("skipped.parquet"))["name"]
    sentences = not left_out.str.contains("kitml_sentences.json", regex=False).any()
    curves = pd.read_parquet(folder / arms.HISTORY)
    return Trained(track, prior, record, curves, corpus, sentences)


def model_card(trained: Trained, file: Path) -> str:
    """The card of a file that `write_open_prior` has written, as Markdown."""
    record, prior = trained.record, trained.prior
    train = trained.corpus[trained.corpus["split"] == trained.track.corpus.train]
    minutes = category_minutes(train)
    groups = {
        "covered": minutes[minutes >= THIN],
        "scarce": minutes[(minutes > 0) & (minutes < THIN)],
        "absent": minutes[minutes == 0],
    }
    people = train.groupby("category", observed=True)["subject"].nunique()
    single = [name for name in minutes.index if people.get(name) == 1]
    speeds = ", ".join(f"{speed:g}" for speed in trained.track.corpus.speeds)
    told = {
        name: ", ".join(f"{k} ({v:.2g} min)" if v else k for k, v in group.items()) or "nothing"
        for name, group in groups.items()
    }
    return TEMPLATE.format(
        **vars(prior.config),
        **told,
        name=file.stem,
        file=file.name,
        megabytes=file.stat().st_size / 1e6,
        digest=sha256(file),
        run="/".join(str(record[key]) for key in ("track", "model", "stage")),
        parameters=sum(p.numel() for p in prior.model.parameters()),
        frames=longest_frames(prior),
        longest=longest_frames(prior) / RATE,
        encoder=prior.text_encoder_name,
        device=record["device"],
        threads=record["threads"],
        hours=_duration(record["wall_seconds"]),
        finished=record["finished"],
        versions=", ".join(f"{k} {v}" for k, v in sorted(record["versions"].items())),
        splits=_splits(trained.corpus),
        names=_names(trained.track),
        speeds=f", and both again at {speeds} times the speed" if speeds else "",
        categories=_categories(train, minutes),
        trainings=_trainings(prior.history),
        losses=_losses(trained.curves, prior.history[-1].get("validation", {})),
        thin=THIN,
        single=", ".join(single) or "nothing",
        minutes=minutes.sum(),
        people=train["subject"].nunique(),
        thanks=THANKS,
        kit=KIT if trained.sentences else "",
    )


def category_minutes(clips: pd.DataFrame) -> "pd.Series[float]":
    """Minutes of recorded motion of each of `CATEGORIES`, the largest first; copies do not count.

    Args:
        clips: columns ``category``, ``minutes`` and ``recorded``.
    """
    own = clips[clips["recorded"]].groupby("category", observed=True)["minutes"].sum()
    return own.reindex(list(CATEGORIES), fill_value=0.0).sort_values(ascending=False, kind="stable")


def _splits(corpus: pd.DataFrame) -> str:
    rows = []
    for split, part in corpus.groupby("split", sort=False):
        own = part[part["recorded"]]
        rows.append(
            (split, part["subject"].nunique(), len(own), f"{own['minutes'].sum():.1f}", len(part),
             f"{part['minutes'].sum():.1f}")
        )  # fmt: skip
    return _rows(rows)


def _names(track: Track) -> str:
    section = track.corpus
    return (
        f"It learned from `{section.train}`; choices are made by `{section.validation}` (other "
        f"people); {' and '.join(f'`{name}`' for name in section.test)} are only reported on."
    )


def _categories(train: pd.DataFrame, minutes: "pd.Series[float]") -> str:
    own = train[train["recorded"]]
    rows = []
    for name, spent in minutes.items():
        part = own[own["category"] == name]
        share = spent / minutes.sum() if minutes.sum() else 0.0
        rows.append((name, f"{spent:.2f}", f"{share:.0%}", len(part), part["subject"].nunique()))
    return _rows(rows)


def _trainings(history: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for entry in (entry for entry in history if "config" in entry):
        config = entry["config"]
        weights = {k: v for k, v in config.get("weights", {}).items() if type(v) is float and v}
        text = (
            f"- {config['steps']:,} steps of {config['batch_size']} clips, drawn from "
            f"{entry['clips']:,}, cropped to {config['max_frames']} frames; AdamW, learning rate "
            f"{config['learning_rate']:g}, moving average {config['ema_decay']:g}, text left out "
            f"for {config['condition_dropout']:.0%}; seed {config['seed']}."
        )
        if weights:
            text += f" Weights of further losses: {weights}."
        if config.get("early_stopping"):
            text += (
                f" Early stopping kept the weights of step {entry['validation']['step']:,}, looking"
                f" every {config['validate_every']:,} steps."
            )
        lines.append(text)
    return "\n".join(lines) or "- Nothing is known of its training."


def _losses(curves: pd.DataFrame, kept: Mapping[str, float]) -> str:
    """First, kept and last validation."""
    held = curves[curves["split"] == "validation"] if len(curves) else curves
    if not len(held):
        return "None were computed."
    terms = [term for term in TERMS if held[term].notna().any()]
    chosen = held[held["step"].isin([held["step"].min(), held["step"].max(), kept.get("step")])]
    rows = []
    for row in chosen.sort_values("step").to_dict("records"):
        step = f"{row['step']:,}" + (" (kept)" if row["step"] == kept.get("step") else "")
        rows.append((step, *(f"{row[term]:.4f}" for term in terms)))
    return f"| step | {' | '.join(terms)} |\n|---|{'---|' * len(terms)}\n{_rows(rows)}"


def _rows(rows: Sequence[Sequence[Any]]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{seconds / 60:.1f} minutes ({seconds:,.0f} s)"
    return f"{seconds / 3600:.1f} hours ({seconds:,.0f} s)"
