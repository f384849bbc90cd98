"""Stage 07 of one model: classifiers trained on its virtual sensors, tested on real recordings."""

from collections.abc import Sequence

from t2imu_utils import data, runs
from t2imu_utils.evaluation import har_runs
from t2imu_utils.evaluation.window_sets import WindowSet, labelled_windows
from t2imu_utils.files import write_table
from t2imu_utils.tracks import Track

SENSORS, STAGE = "04_imu_synthesis", "07_har"


def recognise(track: Track, model: str, seeds: Sequence[int] | None = None) -> runs.Run:
    """Classifiers trained on a model's windows, or on real ones: ``counts.parquet``.

    model: a model's name, or `runs.REAL`. seeds: one training each; None takes the track's.
    """
    seeds = list(seeds or track.har.seeds)
    section = track.recordings
    params = {"har": track.har.model_dump(), "recordings": section.model_dump(), "seeds": seeds}
    inputs = {"recordings": runs.input_hash(track.name, runs.SHARED, "00_data")}
    if model != runs.REAL:
        inputs["imu"] = runs.input_hash(track.name, model, SENSORS)
    run = runs.open_run(track.name, model, STAGE, params, inputs, har_runs.CODE)
    if run.done:
        return run
    device = runs.compute_device()
    real = real_windows(track)
    if model == runs.REAL:
        table = har_runs.repeat_on_real(real, section.classes, track.har, seeds, device)
    else:
        windows = synthetic_windows(track, model)
        table = har_runs.repeat(windows, real, section.classes, track.har, seeds, device)
    counts = write_table(run.path("counts.parquet"), table)
    return run.finish(har_runs.metrics(table), [counts])


def real_windows(track: Track) -> WindowSet:
    """The windows of the real recordings that classifiers are tested on."""
    recordings, most = data.load_recordings(track), track.har.test_windows_per_class
    return labelled_windows(recordings, track.recordings, most, seed=0)


def synthetic_windows(track: Track, model: str) -> WindowSet:
    """All windows of a model's virtual sensors."""
    return labelled_windows(data.load_imu(track, model), track.recordings, per_class=None, seed=0)
