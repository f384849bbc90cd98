"""Stage 03 of one model: its motions, and the body's pose in each."""

from t2imu_utils import arms, data, runs
from t2imu_utils.arm_names import base_of
from t2imu_utils.body.fitting import fit_summary
from t2imu_utils.models.diffusion import Solver
from t2imu_utils.models.generator import generator_of, section_of
from t2imu_utils.tracks import Track

STAGE = "03_smpl_fitting"


def sample_and_fit(
    track: Track, model: str, guidance: float | None = None, solver: Solver | None = None
) -> runs.Run:
    """Every requested motion of a model, and the body's pose in each: ``motions`` and ``fits``.

    Metrics are those of `fit_summary`, and "left out": how many requests without a motion and
    motions without a request there are, which only motions that were made elsewhere can have. The
    meta of ``motions`` names them.

    guidance: scale of the text; None takes the track's, or else the generator's own. solver: of
    generators that have a choice; None takes the track's, or else that of the generator's authors.
    """
    name = base_of(model)
    generator = generator_of(track, name)
    if solver and generator.solvers:
        generator = generator.with_solver(solver, section_of(track, name).precision)
    scale = guidance or section_of(track, name).guidance
    requests = data.load_requests(track)
    inputs = {
        "prior": runs.input_hash(track.name, model, arms.STAGE),
        "requests": runs.input_hash(track.name, runs.SHARED, "01_prompt_generation"),
        "body": data.body_files(track),
    }
    params = {"guidance": scale, "requests": len(requests), **generator.sampler}
    run = runs.open_run(track.name, model, STAGE, params, inputs)
    prior, device = arms.load_model(track, model), runs.compute_device()
    body = data.bodies(track).neutral
    motions = generator.sample(prior, requests, scale, track.sampling.batch_size, device)
    fits = generator.fits(prior, motions, body)
    outputs = motions.save(run.path("motions")) + fits.save(run.path("fits"))
    summary = fit_summary(fits, motions, body)
    if left_out := motions.meta.get("left_out"):  # of what was not made to order
        summary["left out"] = len(left_out)
    return run.finish(summary, outputs)
