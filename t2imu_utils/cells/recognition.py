"""Stage 07 of one model: classifiers trained on its virtual sensors, tested on real recordings."""

from collections.abc import Sequence

from t2imu_utils import runs
from t2imu_utils.analysis import har
from t2imu_utils.analysis.har import PAPER, SENSORS, RecognitionVariant
from t2imu_utils.files import write_table
from t2imu_utils.study_arms import classifier_seeds
from t2imu_utils.tracks import Track

MOTIONS, STAGE = "03_smpl_fitting", PAPER.stage
CODE = ["imu/windows.py", "imu/sensor_model.py", "analysis/har.py", "analysis/windows.py"]


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

    Metrics are those of `har.metrics`, and "windows": how many there are to train on, by
    class.
    """
    variant = variant.of(model)
    seeds = list(seeds or classifier_seeds(track, model, variant.slug))
    section = har.recordings_section(track, variant)
    params = {"har": track.har.model_dump(), "recordings": section.model_dump(), "seeds": seeds}
    params |= variant.params()
    inputs = {"recordings": runs.input_hash(track.name, runs.SHARED, "00_data")}
    if model != runs.REAL:
        inputs["imu"] = runs.input_hash(track.name, model, SENSORS)
    if variant.keep < 1:  # the training clips to compare with are an input already, of stage 00
        inputs["motions"] = runs.input_hash(track.name, model, MOTIONS)
    run = runs.open_run(track.name, model, variant.stage, params, inputs)
    device = runs.compute_device()
    real = har.real_windows(track, variant)
    train = None if model == runs.REAL else har.synthetic_windows(track, model, variant)
    table = har.repeat(train, real, section.classes, track.har, seeds, device)
    counts = write_table(run.path("counts.parquet"), table)
    used = {"windows": (train or real).counts().to_dict()}
    return run.finish(har.metrics(table) | used, [counts])
