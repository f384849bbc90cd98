"""Part of stage 03 of one model: motions for what validation subjects did."""

import pandas as pd

from t2imu_utils import arms, data, runs
from t2imu_utils.arm_names import base_of
from t2imu_utils.generators import generator_of, section_of
from t2imu_utils.study_arms import validation_stage
from t2imu_utils.tracks import Track

# Motions for each clip.
REPETITIONS = 4


def sample_validation(
    track: Track, model: str, guidance: float | None = None, repetitions: int = REPETITIONS
) -> runs.Run:
    """Motions of a model for the first captions of the validation clips, as long as these:
    ``motions`` (`Generator.sample`), with the clip's name in a column ``clip``.

    What readings of L_acc are chosen by. guidance: scale of the text; one of its own has a folder
    of its own, None takes the track's or else the generator's.
    """
    name = base_of(model)
    generator = generator_of(track, name)
    clips = data.load_motions(track, track.corpus.validation)
    rows = [
        {
            "clip": clip.name,
            "prompt": clip.captions[0],
            "frames": len(clip.features),
            "seed": number * repetitions + again,
        }
        for number, clip in enumerate(clips)
        for again in range(repetitions)
    ]
    inputs = {
        "prior": runs.input_hash(track.name, model, arms.STAGE),
        "corpus": runs.input_hash(track.name, runs.SHARED, data.STAGE),
    }
    scale = guidance or section_of(track, name).guidance
    params = {"guidance": scale, "repetitions": repetitions, **generator.sampler}
    stage = validation_stage(guidance)
    run = runs.open_run(track.name, model, stage, params, inputs)
    prior, device = arms.load_model(track, model), runs.compute_device()
    requests = pd.DataFrame(rows)
    motions = generator.sample(prior, requests, scale, track.sampling.batch_size, device)
    return run.finish({"motions": len(motions)}, motions.save(run.path("motions")))
