"""The windows of stage 07 on either side of the test, and how many things they are made of."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from t2imu_utils import data, runs
from t2imu_utils.activities import category_of
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.quality import best, fit_reference, score_motions
from t2imu_utils.evaluation.recognition_variants import RecognitionVariant
from t2imu_utils.evaluation.window_sets import WindowSet, labelled_windows
from t2imu_utils.imu.phone import measured, read_sensor_model
from t2imu_utils.tracks import RecordingsSection, Track

SENSORS = "04_imu_synthesis"
PAPER = RecognitionVariant()
# What a class is made of, by the column of the virtual recordings that tells one from another.
COUNTED = {"prompts": "prompt", "motions": "motion", "bodies": "body"}


def recordings_section(track: Track, variant: RecognitionVariant = PAPER) -> RecordingsSection:
    """The track's classes, channels and sites, without what the variant leaves out."""
    classes = variant.classes(track.recordings.classes)
    return track.recordings.model_copy(update={"classes": classes})


def real_windows(track: Track, variant: RecognitionVariant = PAPER) -> WindowSet:
    """The windows of the real recordings that classifiers are tested on."""
    recordings, most = data.load_recordings(track), track.har.test_windows_per_class
    return labelled_windows(
        recordings, recordings_section(track, variant), most, seed=0, axes=variant.axes
    )


def synthetic_windows(track: Track, model: str, variant: RecognitionVariant = PAPER) -> WindowSet:
    """All windows of a model's virtual sensors.

    Raises:
        InputError: the variant adds a sensor's errors to sensors that have some already.
    """
    clips, section = _virtual(track, model, variant), recordings_section(track, variant)
    return labelled_windows(clips, section, per_class=None, seed=0, axes=variant.axes)


def _virtual(track: Track, model: str, variant: RecognitionVariant) -> Clips:
    """A model's virtual recordings of the variant's classes, or of all activities by default."""
    clips = data.load_imu(track, model)
    if variant.keep < 1:
        table = scored_motions(track, model, variant)[0]
        kept = table.loc[best(table, variant.keep), "motion"]
        clips = clips.select(clips.table["motion"].isin(kept))
    if variant.sensor_model:
        if runs.require_run(track.name, model, SENSORS)["params"].get("sensor_model"):
            raise InputError(
                f"virtual sensors of {model}", "those of a sensor model",
                "ideal ones, to add the errors of one to",
                "Run notebook 04 again with sensor_model = None.",
            )  # fmt: skip
        clips = measured(clips, read_sensor_model(variant.sensor_model))
    return clips


def _labels(activities: pd.Series, section: RecordingsSection) -> pd.Series:
    return activities.map(category_of) if section.labels == "categories" else activities


def scored_motions(track: Track, model: str, variant: RecognitionVariant = PAPER):
    """How usual the motions of a model are that its classifiers are trained on (`quality`).

    Returns:
        The table of `quality.score_motions`, and the `quality.Reference` of the training clips.
    """
    section = recordings_section(track, variant)
    motions = data.load_sampled(track, model)
    wanted = _labels(motions.table["activity"], section).isin(section.classes)
    training = data.load_motions(track, track.corpus.train)
    reference = fit_reference(training, data.load_categories(track))
    # Numbered before some are left out, as the virtual sensors are.
    numbered = motions.table.assign(motion=motions.table.get("motion", np.arange(len(motions))))
    motions = Clips(numbered, motions.arrays, motions.meta).select(wanted)
    return score_motions(motions, reference), reference


def what_was_used(
    track: Track, models: Sequence[str], variant: RecognitionVariant = PAPER
) -> pd.DataFrame:
    """What the classifiers of each model are trained on, counted.

    Returns:
        A row for each class and model (index): ``prompts``, ``motions``, ``bodies`` that differ
        from each other, and ``windows``.
    """
    section, parts = recordings_section(track, variant), {}
    for model in models:
        clips = _virtual(track, model, variant)
        windows = labelled_windows(clips, section, per_class=None, seed=0).counts()
        by_class = clips.table.groupby(_labels(clips.table["activity"], section).to_numpy())
        counts = {name: by_class[column].nunique() for name, column in COUNTED.items()}
        parts[model] = pd.DataFrame(counts).loc[section.classes].assign(windows=windows)
    table = pd.concat(parts, names=["model", "class"]).swaplevel()
    order = [(name, model) for name in section.classes for model in models]
    return table.loc[order].astype(int)
