"""Stage 02 of a track: a base, its control and fine-tuned models, and what is known of them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from t2imu_utils import data
from t2imu_utils.arms import TRAINING, Arm, base_of
from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256
from t2imu_utils.models.generator import Generator, Trained, generator_of, section_of, sizes_of
from t2imu_utils.models.losses import TERMS, LossWeights
from t2imu_utils.models.text import TextEncoder, load_text_encoder
from t2imu_utils.models.trainer import TrainConfig
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.runs import Run, cache_dir, finished_dir, record, require_run, same_run
from t2imu_utils.style import label
from t2imu_utils.tracks import BASE, SHIPPED, Track, data_set, shipped_prior

PRIOR = "prior.safetensors"
HISTORY, STAGE = "history.parquet", TRAINING
VALIDATIONS = 5  # in one training


@dataclass(frozen=True)
class Study:
    """One generator of a track: what its base and its arms begin with and are trained on.

    name: of the track's entry, and of the base's run folder. inputs: hashes of what it is trained
    on, by name, for `runs.record`. num_processes: that share each batch; they change nothing but
    rounding.
    """

    track: Track
    name: str
    clips: Sequence[MotionClip]
    held_out: Sequence[MotionClip]
    inputs: dict[str, Any]
    device: torch.device | str = "cpu"
    num_processes: int = 1

    @property
    def generator(self) -> Generator:
        return generator_of(self.track, self.name)

    @property
    def refined(self) -> bool:
        return section_of(self.track, self.name).refined

    @property
    def encoder(self) -> TextEncoder:
        """Its text encoder: its own or the track's."""
        name = section_of(self.track, self.name).text_encoder or self.track.text_encoder
        return load_text_encoder(name, cache_dir("text"))

    def start(self, seed: int = 0) -> Trained:
        """What the base begins with: published weights, with the statistics that belong to
        them; or an untrained prior of the track's size, with those of its training clips; or
        motions that were made elsewhere."""
        section, sizes = section_of(self.track, self.name), sizes_of(self.track, self.name)
        if self.generator.ready_made:
            body = data.bodies(self.track).neutral
            return self.generator.read(sizes, body, data.recorded(self.clips))
        if section.checkpoint == SHIPPED:
            return self.generator.load(shipped_prior(section.family or self.name), self.encoder)
        if section.checkpoint is not None:
            return self.generator.published(data_set(section.checkpoint), sizes, self.encoder)
        return self.generator.untrained(sizes, self.clips, self.encoder, seed)

    def make_base(self, prior: Trained, again: bool = True) -> Run:
        """The base's run: trained from `prior`, or the published `prior` as it is, with its losses
        on held-out clips, or motions as they were read.

        again: False takes a base that was made of the same data with the same settings.
        """
        section, arm = section_of(self.track, self.name), Arm(self.name)
        if self.generator.ready_made:
            inputs = self.inputs | prior.sources
            return self._run(arm, {}, inputs, again, lambda _: (prior, pd.DataFrame()))
        if section.checkpoint is None:
            settings = pretraining(self.track, self.name)
            return self._run(
                arm, {"training": settings.record("checkpoint_every")}, self.inputs, again,
                lambda folder: self.generator.train(prior, *self._given(settings, folder)),
            )  # fmt: skip
        shipped = None
        if section.checkpoint == SHIPPED:
            shipped = shipped_prior(section.family or self.name)
        origin = {"file": shipped.name} if shipped else prior.history[-1]
        used = np.concatenate([prior.normaliser.mean, prior.normaliser.std])
        inputs = self.inputs | {
            "checkpoint": sha256(shipped or repr(sorted(origin.items(), key=str)).encode()),
            "statistics": sha256(used.astype(np.float32).tobytes()),
            "text encoder": prior.text_encoder.fingerprint,
        }

        def examine(_: Path) -> tuple[Trained, pd.DataFrame]:
            settings = finetuning(self.track, LossWeights())
            terms = self.generator.validation(prior, self.held_out, settings, self.device)
            row = {"step": 0, **terms}
            trained = prior.history if shipped else []  # of others' no more is known
            clips = trained[-1]["clips"] if trained else 0
            history = [*trained, {**origin, "clips": clips, "validation": row}]
            return replace(prior, history=history), pd.DataFrame([{**row, "split": "validation"}])

        return self._run(arm, {"file": origin.get("file")}, inputs, again, examine)

    def make_arm(self, base: Run, settings: TrainConfig, again: bool = True) -> Run:
        """The run of an arm: the base, trained on (`finetuning`). again: as of `make_base`."""
        weights, terms = settings.weights, ("acc", "pos", "foot", "vel")
        named = {f"lambda_{term}": getattr(weights, term) for term in terms}
        arm = Arm(self.name, **named, acc_variant=weights.acc_variant, seed=settings.seed)

        def train(folder: Path) -> tuple[Trained, pd.DataFrame]:
            prior = self.generator.load(base.path(PRIOR), self.encoder)
            return self.generator.refine(prior, *self._given(settings, folder))

        inputs = self.inputs | {"base": (self.name, STAGE)}
        params = {"training": settings.record("checkpoint_every")}
        return self._run(arm, params, inputs, again, train)

    def _given(self, settings: TrainConfig, folder: Path) -> tuple:
        if self.num_processes != 1 and not self.generator.parallel:
            raise InputError(
                f"num_processes of {self.name}", str(self.num_processes), "1",
                "MDM alone is trained by several processes.",
            )  # fmt: skip
        return self.clips, settings, folder, self.held_out, self.device, self.num_processes

    def _run(
        self,
        arm: Arm,
        params: dict[str, Any],
        inputs: dict[str, Any],
        again: bool,
        make: Callable[[Path], tuple[Trained, pd.DataFrame]],
    ) -> Run:
        """The run of a model: the prior and loss curves that `make` returns, given its folder; or
        the finished one, if it was made of the same with the same settings and not `again`."""
        sizes = sizes_of(self.track, self.name)
        params = {"arm": asdict(arm), "sizes": sizes.model_dump() if sizes else None, **params}
        stage = self.track.name, arm.name, STAGE, params, inputs
        if not again and (done := same_run(*stage)):
            return done
        with record(*stage) as run:
            prior, curves = make(run.dir)
            run.outputs += self.generator.save(run.path(PRIOR), prior)
            run.save(Path(HISTORY).stem, curves)
            for state in run.dir.glob("*.pt"):  # of an interruption that is now over
                state.unlink()
            last = prior.history[-1]
            run.metrics = {
                "validation": last.get("validation", {}),
                "clips": last.get("clips", 0),
                "parameters": self.generator.parameters(prior),
                **{name: last[name] for name in ("motions", "left out") if name in last},
            }
            if "training" not in params:  # what is known of weights that were trained elsewhere
                told = [entry.get("config", {}).get("steps", 0) for entry in prior.history]
                run.metrics["steps"] = sum(told)
        return run


def finetuning(
    track: Track, weights: LossWeights, steps: int | None = None, seed: int = 0
) -> TrainConfig:
    """How an arm is trained: the same for all arms but for the weights of their losses."""
    steps = steps or track.training.finetune_steps
    names = (
        "batch_size",
        "ema_decay",
        "condition_dropout",
        "max_frames",
        "checkpoint_every",
        "precision",
    )
    return TrainConfig(
        steps=steps,
        learning_rate=track.training.finetune_learning_rate,
        weights=weights,
        seed=seed,
        validate_every=max(1, steps // VALIDATIONS),
        **{name: getattr(track.training, name) for name in names},
    )


def pretraining(track: Track, generator: str, seed: int = 0) -> TrainConfig:
    """How a base is trained here: from scratch on its own loss alone, as its authors do."""
    training = track.training
    steps = section_of(track, generator).pretrain_steps or training.pretrain_steps
    settings = finetuning(track, LossWeights(), steps, seed)
    return replace(settings, learning_rate=training.pretrain_learning_rate)


def load_model(track: Track, model: str, encoder: TextEncoder | None = None) -> Trained:
    """The trained prior of a model that has finished stage 02."""
    path = finished_dir(track.name, model, STAGE) / PRIOR
    return generator_of(track, base_of(model)).load(path, encoder)


def has_losses(track: Track, model: str) -> bool:
    """Whether losses can be measured on a model."""
    return generator_of(track, base_of(model)).examined


def base_steps(track: Track) -> int:
    """Diffusion steps of the track's MDM, which the timesteps of its analysis are of."""
    sizes = section_of(track, BASE).model_extra or {}
    return sizes.get("diffusion_steps") or load_model(track, BASE).config.diffusion_steps


def budget_table(track: Track, models: Sequence[str]) -> pd.DataFrame:
    """What stands behind each model: parameters, clips, steps of all its trainings."""
    rows = {}
    for model in models:
        made = require_run(track.name, model, STAGE)
        # Of a training here, or of what is known of those elsewhere.
        trained = [require_run(track.name, m, STAGE) for m in {model, base_of(model)}]
        steps = [r["params"].get("training", r["metrics"]).get("steps", 0) for r in trained]
        rows[model] = {
            "parameters (M)": round(made["metrics"].get("parameters", 0) / 1e6, 2),
            "clips": made["metrics"].get("clips", 0),
            "steps": sum(steps),
            "clips a step": track.training.batch_size,
        }
    return pd.DataFrame(rows).T


def budget(track: Track, models: Sequence[str]) -> str:
    """The same in a sentence for a caption: parameters and steps of each generator."""
    table = budget_table(track, list(dict.fromkeys(base_of(model) for model in models)))
    trained = table[table["parameters (M)"] > 0]  # what was made elsewhere has none here
    sizes = [
        f"{label(model)} {row['parameters (M)']:.1f}"
        + (f" ({int(row['steps']):,} steps)" if row["steps"] else "")
        for model, row in trained.iterrows()
    ]
    clips = f"; {track.training.batch_size} clips a step" if table["steps"].any() else ""
    return f"Parameters (M): {', '.join(sizes)}{clips}."


def final_losses(
    curves: dict[str, pd.DataFrame], before: dict[str, dict[str, Any]] | None = None
) -> pd.DataFrame:
    """Each term on held-out clips when it was last computed: a row a model; none without curves.

    before: by name, metrics of runs that have been written over (`Run.before`), for rows of their
    own.
    """
    rows = {
        name: table[table["split"] == "validation"].ffill().iloc[-1]
        for name, table in curves.items()
        if len(table)
    }
    for name, metrics in (before or {}).items():
        if found := metrics.get("validation"):
            rows[f"{name}, before"] = pd.Series(found.get("rvq", found))
    return pd.DataFrame(rows).T.reindex(columns=list(TERMS)).astype(float)


def settings_table(study: Study, prior: Trained, settings: TrainConfig) -> pd.DataFrame:
    """The network and the training of an arm as it will be run, a row for each setting; of motions
    that were made elsewhere what is known of them."""
    if study.generator.ready_made:
        known = study.generator.network(prior)
        return pd.Series(known, name="value", dtype=object).to_frame()
    network = {"text encoder": prior.text_encoder.name, **study.generator.network(prior)}
    if prior.history and "file" in prior.history[0]:
        network["base"] = f"{prior.history[0].get('folder', '')}, {prior.history[0]['file']}"
    names = (
        "steps", "batch_size", "learning_rate", "weight_decay", "ema_decay", "condition_dropout",
        "max_frames",
    )  # fmt: skip
    trained = {name: getattr(settings, name) for name in names}
    return pd.Series(network | trained, name="value", dtype=object).to_frame()
