"""Stage 07 of one model: classifiers trained on its virtual sensors, tested on real recordings."""

from collections.abc import Sequence

from t2imu_utils import runs
from t2imu_utils.evaluation import har_runs
from t2imu_utils.evaluation.recognition_variants import RecognitionVariant
from t2imu_utils.evaluation.recognition_windows import (
    PAPER,
    SENSORS,
    real_windows,
    recordings_section,
    synthetic_windows,
)
from t2imu_utils.files import write_table
from t2imu_utils.study_arms import classifier_seeds
from t2imu_utils.tracks import Track

MOTIONS, STAGE = "03_smpl_fitting", PAPER.stage


def recognise(
    track: Track,
    model: str,
    seeds: Sequence[int] | None = None,
    variant: RecognitionVariant = PAPER,
) -> runs.Run:
    """Classifiers trained on a model's windows, or on real ones: ``counts.parquet``.

    model: a model's name, or `runs.REAL`. seeds: one training each; None takes the track's
    (`study_arms.classifier_seeds`).
    variant: what is done otherwise than in the paper, kept in a folder of its own; for real
    recordings only what applies to them (`RecognitionVariant.of`).

    Metrics are those of `har_runs.metrics`, and "windows": how many there are to train on, by
    class.
    """
    variant = variant.of(model)
    seeds = list(seeds or classifier_seeds(track, model, variant.slug))
    section = recordings_section(track, variant)
    params = {"har": track.har.model_dump(), "recordings": section.model_dump(), "seeds": seeds}
    params |= variant.params()
    inputs = {"recordings": runs.input_hash(track.name, runs.SHARED, "00_data")}
    if model != runs.REAL:
        inputs["imu"] = runs.input_hash(track.name, model, SENSORS)
    if variant.keep < 1:  # the training clips to compare with are an input already, of stage 00
        inputs["motions"] = runs.input_hash(track.name, model, MOTIONS)
    run = runs.open_run(track.name, model, variant.stage, params, inputs)
    device = runs.compute_device()
    train = real = real_windows(track, variant)
    if model == runs.REAL:
        table = har_runs.repeat_on_real(real, section.classes, track.har, seeds, device)
    else:
        train = synthetic_windows(track, model, variant)
        table = har_runs.repeat(train, real, section.classes, track.har, seeds, device)
    counts = write_table(run.path("counts.parquet"), table)
    used = {"windows": train.counts().to_dict()}
    return run.finish(har_runs.metrics(table) | used, [counts])
