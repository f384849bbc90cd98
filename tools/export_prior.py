"""Write the open prior, data/prior/mdm_cmu.safetensors, from a finished training.

    python -m tools.export_prior [TRACK [MODEL]]      # by default cmu_prior mdm

Its card, data/prior/README.md, is written by hand from the `run.json` whose place this prints.
"""

import sys

from t2imu_utils import arms, data, runs
from t2imu_utils.arm_names import base_of
from t2imu_utils.generators import fitted_velocity_weight, generator_of
from t2imu_utils.priors.open_prior import write_open_prior
from t2imu_utils.tracks import OPEN_PRIOR, load_track

LICENCE = "MIT (weights); CMU Graphics Lab Motion Capture Database (motion data)"
THANKS = (
    "motion data from mocap.cs.cmu.edu, a database that was created with funding from NSF "
    "EIA-0196217."
)


def main(track: str = "cmu_prior", model: str = "mdm") -> None:
    config = load_track(track)
    record = runs.require_run(config.name, model, arms.STAGE)
    origin = {key: record[key] for key in ("track", "model", "finished", "device", "versions")}
    origin |= {"prior_sha256": record["outputs"][arms.PRIOR], "licence": LICENCE, "data": THANKS}
    prior = arms.load_model(config, model)
    denoise = generator_of(config, base_of(model)).denoiser(prior, "cpu")
    held_out = data.load_motions(config, config.corpus.validation)
    prior.velocity_weight = fitted_velocity_weight(denoise, held_out)
    write_open_prior(OPEN_PRIOR, prior, origin)
    sys.stdout.write(f"{OPEN_PRIOR}\n{runs.run_dir(config.name, model, arms.STAGE)}/run.json\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
