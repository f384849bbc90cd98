"""The arms of the study: a base, a control and refined models, from the settings of a track."""

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from t2imu_utils.motion.corpus import MotionClip, Normaliser, statistics
from t2imu_utils.priors import checkpoints
from t2imu_utils.priors.checkpoints import Prior, save_prior
from t2imu_utils.priors.losses import TERMS, LossWeights
from t2imu_utils.priors.mdm import MDMConfig
from t2imu_utils.priors.text import TextEncoder
from t2imu_utils.priors.training import TrainConfig
from t2imu_utils.runs import Run, model_name
from t2imu_utils.tracks import Track

PRIOR = "prior.safetensors"
HISTORY = "history.parquet"
# What a trained prior depends on; sampling and prompts do not touch it.
CODE = (
    "motion/corpus.py",
    "motion/features.py",
    "motion/rotations.py",
    "motion/skeleton.py",
    *(
        f"priors/{name}.py"
        for name in (
            "arms",
            "batches",
            "checkpoints",
            "diffusion",
            "losses",
            "mdm",
            "text",
            "training",
        )
    ),
)
VALIDATIONS = 5


def new_prior(
    track: Track, clips: Sequence[MotionClip], encoder: TextEncoder, seed: int = 0
) -> Prior:
    """An untrained prior of the track's size, with the statistics of its training clips."""
    config = MDMConfig(arch="trans_dec", **track.prior.model_dump())
    normaliser = Normaliser(*statistics([clip.features for clip in clips]))
    return checkpoints.new_prior(config, normaliser, encoder, seed)


def pretraining(track: Track, seed: int = 0) -> TrainConfig:
    """How the base is trained: from scratch on L_simple alone, as MDM is on these features."""
    steps = track.training.pretrain_steps
    return _settings(track, steps, track.training.pretrain_learning_rate, LossWeights(), seed)


def finetuning(track: Track, weights: LossWeights, steps: int | None, seed: int) -> TrainConfig:
    """How an arm is trained: the same for all arms but for the weights of their losses."""
    steps = steps or track.training.finetune_steps
    return _settings(track, steps, track.training.finetune_learning_rate, weights, seed)


def _settings(
    track: Track, steps: int, learning_rate: float, weights: LossWeights, seed: int
) -> TrainConfig:
    training = track.training
    return TrainConfig(
        steps=steps,
        batch_size=training.batch_size,
        learning_rate=learning_rate,
        ema_decay=training.ema_decay,
        condition_dropout=training.condition_dropout,
        max_frames=training.max_frames,
        seed=seed,
        weights=weights,
        checkpoint_every=training.checkpoint_every,
        validate_every=max(1, steps // VALIDATIONS),
    )


def arm_name(weights: LossWeights, seed: int) -> str:
    """Folder name of an arm (see `runs.model_name`)."""
    named = {f"lambda_{term}": getattr(weights, term) for term in ("acc", "pos", "foot", "vel")}
    return model_name(
        **named, acc_space=weights.acc_space, acc_contacts=weights.acc_contacts, seed=seed
    )


def finish(run: Run, prior: Prior, curves: pd.DataFrame) -> Run:
    """Write a trained prior and its loss curves, and close the run."""
    save_prior(run.path(PRIOR), prior)
    curves.to_parquet(run.path(HISTORY), index=False)
    for state in run.dir.glob("training-*.pt"):  # of an interruption that is now over
        state.unlink()
    last = prior.history[-1]
    metrics = {"validation": last.get("validation", {}), "clips": last["clips"]}
    return run.finish(metrics, [run.path(PRIOR), run.path(HISTORY)])


def run_params(prior: Prior, settings: TrainConfig) -> dict:
    """Everything set for a training, for `run.json`; how often it checkpoints changes nothing."""
    trained = {k: v for k, v in asdict(settings).items() if k != "checkpoint_every"}
    return {"prior": asdict(prior.config), "training": trained}


def final_losses(curves: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Each term on held-out clips at the end of training: a row an arm."""
    rows = {
        name: table[table["split"] == "validation"].iloc[-1][list(TERMS)]
        for name, table in curves.items()
    }
    return pd.DataFrame(rows).T.astype(float)
