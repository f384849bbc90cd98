"""Stage 03 of a base model: what sampling it in fewer evaluations costs."""

from collections.abc import Sequence
from dataclasses import asdict

from t2imu_utils import arms, data, runs
from t2imu_utils.analysis.solvers import sample_solvers, trade_off
from t2imu_utils.arm_names import BASE
from t2imu_utils.files import write_table
from t2imu_utils.generators import generator_of, section_of
from t2imu_utils.generators.mdm import GUIDANCE
from t2imu_utils.priors.solvers import Solver
from t2imu_utils.tracks import Track

STAGE = "03_solvers"
CODE = tuple(f"analysis/{name}.py" for name in ("solvers", "motions", "spectra", "stats"))


def compare_solvers(
    track: Track,
    solvers: Sequence[Solver],
    prompts: int = 40,
    guidance: float | None = None,
    seed: int = 0,
) -> runs.Run:
    """MDM sampled by each solver, beside real motion and full sampling: ``trade_off.parquet``.

    prompts: of the requests at most so many, evenly taken. guidance: None takes the track's.
    """
    requests = data.load_requests(track)
    requests = requests.iloc[:: -(-len(requests) // prompts)]
    scale = guidance or section_of(track, BASE).guidance or GUIDANCE
    inputs = {
        "prior": runs.input_hash(track.name, BASE, arms.STAGE),
        "requests": runs.input_hash(track.name, runs.SHARED, "01_prompt_generation"),
        "corpus": runs.input_hash(track.name, runs.SHARED, data.STAGE),
    }
    params = {"solvers": [asdict(s) for s in solvers], "prompts": len(requests)}
    params |= {"guidance": scale, "seed": seed}
    code = [*CODE, *generator_of(track, BASE).sampling_code]
    run = runs.open_run(track.name, BASE, STAGE, params, inputs, code)
    if run.done:
        return run
    prior, device = arms.load_model(track, BASE), runs.compute_device()
    batch = track.sampling.batch_size
    sampled = sample_solvers(prior, requests, solvers, scale, batch, device)
    clips, about = data.test_clips(track)
    real = [clip.features for clip in clips]
    table = trade_off(sampled, real, about["unit"], prior.normaliser, seed)
    return run.finish({}, [write_table(run.path("trade_off.parquet"), table)])
