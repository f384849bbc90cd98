"""Stage 03 of a base model: what sampling it in fewer evaluations costs."""

from collections.abc import Sequence
from dataclasses import asdict

from t2imu_utils import arms, data, runs
from t2imu_utils.analysis.solvers import sample_solvers, trade_off
from t2imu_utils.arm_names import BASE, base_of
from t2imu_utils.files import write_table
from t2imu_utils.models.diffusion import Solver
from t2imu_utils.models.generator import section_of
from t2imu_utils.models.mdm import GUIDANCE
from t2imu_utils.tracks import Track

STAGE = "03_solvers"
COMPARED = [Solver(name, n) for name in ("dpm++2m", "sde-dpm++2m") for n in (6, 10)]


def compare_solvers(
    track: Track,
    model: str = BASE,
    solvers: Sequence[Solver] = COMPARED,
    prompts: int = 40,
    guidance: float | None = None,
    seed: int = 0,
) -> runs.Run:
    """MDM sampled by each solver, beside real motion: ``trade_off.parquet``.

    prompts: of the requests at most so many, evenly taken. guidance: None takes the track's.
    """
    requests = data.load_requests(track)
    requests = requests.iloc[:: -(-len(requests) // prompts)]
    scale = guidance or section_of(track, base_of(model)).guidance or GUIDANCE
    inputs = {
        "prior": runs.input_hash(track.name, model, arms.STAGE),
        "requests": runs.input_hash(track.name, runs.SHARED, "01_prompt_generation"),
        "corpus": runs.input_hash(track.name, runs.SHARED, data.STAGE),
    }
    params = {"solvers": [asdict(s) for s in solvers], "prompts": len(requests)}
    params |= {"guidance": scale, "seed": seed}
    run = runs.open_run(track.name, model, STAGE, params, inputs)
    prior, device = arms.load_model(track, model), runs.compute_device()
    batch = track.sampling.batch_size
    sampled = sample_solvers(prior, requests, solvers, scale, batch, device)
    clips, about = data.test_clips(track)
    real = [clip.features for clip in clips]
    table = trade_off(sampled, requests["prompt"], real, about["unit"], prior.normaliser, seed)
    return run.finish({}, [write_table(run.path("trade_off.parquet"), table)])
