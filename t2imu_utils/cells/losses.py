"""Stage 05 of one model: its losses on held-out clips."""

from collections.abc import Sequence

from t2imu_utils import arms, data, runs
from t2imu_utils.analysis import lacc
from t2imu_utils.arm_names import BASE, base_of
from t2imu_utils.files import write_table
from t2imu_utils.models.generator import generator_of, section_of
from t2imu_utils.tracks import Track

STAGE = "05_lacc_analysis"


def measure_losses(
    track: Track, model: str, timesteps: Sequence[int] | None = None, seed: int = 0
) -> runs.Run:
    """The losses of a model on held-out clips: ``losses.parquet`` (`lacc.clip_losses`).

    Of motions that were made elsewhere there is nothing to measure, and the run is empty.

    timesteps: of MDM's diffusion; for a generator with more or fewer noise levels those that are
    as far along. None takes the track's.
    """
    generator = generator_of(track, base_of(model))
    timesteps = list(timesteps or track.analysis.timesteps)
    steps = _mdm_steps(track) if generator.examined else None
    params = {"timesteps": timesteps, "of": steps, "seed": seed}
    params["max_clips"] = track.analysis.max_clips
    inputs = {
        "prior": runs.input_hash(track.name, model, arms.STAGE),
        "corpus": runs.input_hash(track.name, runs.SHARED, "00_data"),
    }
    run = runs.open_run(track.name, model, STAGE, params, inputs)
    if not generator.examined:
        return run.finish({}, [])
    device = runs.compute_device()
    denoise = generator.denoiser(arms.load_model(track, model), device)
    levels = lacc.levels_of(timesteps, steps, denoise.levels)
    clips, _ = data.test_clips(track)
    table = lacc.clip_losses(denoise, clips, levels, seed, references=True, device=device)
    mean = table.loc[table["estimate"] == lacc.MODEL, "acc"].mean()
    return run.finish({"acc": mean}, [write_table(run.path("losses.parquet"), table)])


def _mdm_steps(track: Track) -> int:
    """Diffusion steps of the track's MDM, which its timesteps are of."""
    sizes = section_of(track, BASE).model_extra or {}
    if "diffusion_steps" in sizes:
        return sizes["diffusion_steps"]
    return arms.load_model(track, BASE).config.diffusion_steps
