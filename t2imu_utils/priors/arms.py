"""The arms of the study: a base, a control and refined models, from the settings of a track."""

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import torch

from t2imu_utils.motion.corpus import MotionClip, Normaliser, statistics
from t2imu_utils.priors import checkpoints
from t2imu_utils.priors.batches import Dataset
from t2imu_utils.priors.checkpoints import Prior, save_prior
from t2imu_utils.priors.losses import TERMS, LossWeights
from t2imu_utils.priors.mdm import MDMConfig
from t2imu_utils.priors.mdm_checkpoints import SCALES, feature_scale, read_mdm
from t2imu_utils.priors.text import TextEncoder
from t2imu_utils.priors.training import TrainConfig, loss_curves, train, validation_losses
from t2imu_utils.runs import BASE, Run, model_name, open_run, sha256
from t2imu_utils.tracks import Track, data_set

PRIOR = "prior.safetensors"
HISTORY = "history.parquet"
# What a trained prior depends on; sampling and prompts do not touch it.
CODE = (
    "motion/corpus.py",
    "motion/features.py",
    "motion/normalise.py",
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
            "mdm_checkpoints",
            "text",
            "training",
        )
    ),
)
VALIDATIONS = 5


def starting_prior(
    track: Track, clips: Sequence[MotionClip], encoder: TextEncoder, seed: int = 0
) -> Prior:
    """What the base begins with: the published checkpoint, with the statistics that belong to it;
    or an untrained prior of the track's size, with the statistics of its training clips."""
    if track.checkpoint is not None:
        return read_mdm(data_set(track.checkpoint), encoder=encoder)
    config = MDMConfig(arch="trans_dec", **track.prior.model_dump())
    normaliser = Normaliser(*statistics([clip.features for clip in clips]))
    return checkpoints.new_prior(config, normaliser, encoder, seed)


def pretraining(track: Track, seed: int = 0) -> TrainConfig:
    """How a base is trained here: from scratch on L_simple alone, as MDM is on these features."""
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


def open_base(track: Track, prior: Prior, inputs: dict[str, str], stage: str) -> Run:
    """The base's run: trained from `prior`, or the published `prior` as it is.

    inputs: hashes of what it is trained on, by name, for `runs.open_run`.
    """
    if track.checkpoint is not None:
        origin = prior.history[-1]
        statistics_used = np.concatenate([prior.normaliser.mean, prior.normaliser.std])
        inputs = inputs | {
            "checkpoint": origin["sha256"],
            "statistics": sha256(statistics_used.astype(np.float32).tobytes()),
            "text encoder": prior.text_encoder.fingerprint,
        }
        params = {"prior": asdict(prior.config), "file": origin["file"]}
        return open_run(track.name, BASE, stage, params, inputs, CODE)
    return open_run(track.name, BASE, stage, run_params(prior, pretraining(track)), inputs, CODE)


def make_base(
    run: Run,
    track: Track,
    prior: Prior,
    clips: Sequence[MotionClip],
    held_out: Sequence[MotionClip],
    device: torch.device | str = "cpu",
) -> Run:
    """Train the base, or take the published one and see how it does on held-out clips."""
    if track.checkpoint is None:
        trained = train(prior, clips, pretraining(track), run.dir, held_out, device=device)
        return finish(run, *trained)
    settings = finetuning(track, LossWeights(), None, 0)
    model = prior.model.to(device).eval()
    terms = validation_losses(model, Dataset(prior, held_out), prior.normaliser, settings, device)
    row = {"step": 0, **terms}
    origin = {**prior.history[-1], "clips": 0, "validation": row}
    return finish(run, replace(prior, history=[origin]), loss_curves([], [row]))


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


def settings_table(prior: Prior, settings: TrainConfig) -> pd.DataFrame:
    """The network and the training of an arm as it will be run, a row for each setting."""
    config = prior.config
    network = {
        "text encoder": prior.text_encoder_name,
        "layers × width": f"{config.layers} × {config.width}",
        "dropout": config.dropout,
        "mask_frames": config.mask_frames,
        "diffusion steps": config.diffusion_steps,
    }
    if prior.history:
        scale = feature_scale(prior.normaliser)
        network["base"] = f"{prior.history[0]['folder']}, {prior.history[0]['file']}"
        network["scale of root and contact features"] = f"{scale} ({SCALES[scale]})"
    names = ("steps", "batch_size", "learning_rate", "weight_decay", "ema_decay")
    names += ("condition_dropout", "max_frames")
    trained = {name: getattr(settings, name) for name in names}
    return pd.Series(network | trained, name="value", dtype=object).to_frame()
