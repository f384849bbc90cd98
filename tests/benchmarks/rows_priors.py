"""Rows of the motion prior: sampling, a faster solver, and a training step."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from t2imu_utils.models import trainer as training
from t2imu_utils.models.diffusion import Solver
from t2imu_utils.models.losses import LossWeights
from t2imu_utils.models.mdm import GENERATOR, Prior, generate, new_prior
from t2imu_utils.models.trainer import CHUNK, Batch, Dataset, Team, TrainConfig, step_items
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from t2imu_utils.motion.features import CONTACTS, WIDTH
from tests.benchmarks.comparison import Comparison, within
from tests.benchmarks.machine import Machine
from tests.benchmarks.operations import mdm_guided, mdm_pass
from tests.benchmarks.reference import sampling
from tests.benchmarks.reference import training as plain_training
from tests.benchmarks.reference.mdm import PlainMDM
from tests.benchmarks.sampling import PROMPT, FixedText
from tests.benchmarks.sizes import Sizes

TOKENS = 20  # of `FixedText`
SOLVER = "dpm++2m"
ACC = 0.1  # weight of L_acc


class WideText(FixedText):
    """`FixedText` of DistilBERT's width."""

    width = pooled_width = 768


def prior_of(sizes: Sizes) -> Prior:
    """An untrained prior; statistics that leave features as they are."""
    normaliser = Normaliser(np.zeros(WIDTH, np.float32), np.ones(WIDTH, np.float32))
    return new_prior(sizes.mdm, normaliser, WideText(), 0)


def _apart(reference: Sequence[np.ndarray], ours: Sequence[np.ndarray], limit: float) -> str:
    a, b = np.concatenate(reference), np.concatenate(ours)
    return within(
        float(np.linalg.norm(a - b) / np.linalg.norm(a)), limit, "samples differ by {:.1e}"
    )


def sampling_row(sizes: Sizes, machine: Machine, folder: Path) -> Comparison:
    """All ancestral steps with guidance."""
    prior, device = prior_of(sizes), machine.device
    plain = PlainMDM(prior.model)
    task = _task(sizes, device)
    steps, shape = prior.config.diffusion_steps, (sizes.items, sizes.frames, TOKENS)
    needed = steps * mdm_guided(prior.config, *shape)
    written = steps * 2 * mdm_pass(prior.config, *shape)
    parameters = sum(p.numel() for p in prior.model.parameters()) / 1e6
    return Comparison(
        name="sampling",
        title=f"MDM ({parameters:.1f} M) sampling, {sizes.items} clips of {sizes.frames} frames, "
        f"{steps} steps, guidance {task.guidance:g}, {machine.precision}",
        unit="batch",
        reference=lambda: sampling.ancestral(prior, plain, task),
        ours=lambda: _generate(prior, task, Solver(precision=machine.precision)),
        agree=lambda a, b: _apart(a, b, 1e-3 if machine.precision == "float32" else 1e-2),
        reach=">= 3x",
        floor=machine.operations(needed),
        floor_is=f"{needed:.2g} operations that are needed ({written:.2g} as it is written down)",
        warm=False,
    )


def second_order_row(sizes: Sizes, machine: Machine, folder: Path) -> Comparison:
    """The same motions from few evaluations of a second-order solver."""
    row = sampling_row(sizes, machine, folder)
    prior, device = prior_of(sizes), machine.device
    plain, task = PlainMDM(prior.model), _task(sizes, device)
    solver = Solver(SOLVER, sizes.evaluations, machine.precision)
    steps = prior.config.diffusion_steps
    share = sizes.evaluations / steps

    def agree(_: Sequence[np.ndarray], ours: Sequence[np.ndarray]) -> str:
        same = sampling.second_order(prior, plain, task, sizes.evaluations)
        return f"{_apart(same, ours, 2e-2)} (from this solver in the reference)"

    return replace(
        row,
        name="solver",
        title=f"the same, {SOLVER} with {sizes.evaluations} evaluations",
        reference=lambda: sampling.ancestral(prior, plain, task, steps - sizes.evaluations),
        ours=lambda: _generate(prior, task, solver),
        agree=agree,
        reach=">= 10x, at most 12 evaluations",
        floor=row.floor * share,
        floor_is=f"that of {sizes.evaluations} of the {steps} steps",
        reference_units=share,
        note=f"The reference is timed over {sizes.evaluations} of its steps. The solver makes other"
        " motions than ancestral steps do; how near the distributions are is judged with a trained "
        "prior, not here.",
    )


def _task(sizes: Sizes, device: str) -> sampling.Task:
    items = range(sizes.items)
    prompts, frames = [PROMPT for _ in items], [sizes.frames for _ in items]
    return sampling.Task(prompts, frames, list(items), device=device)


def _generate(prior: Prior, task: sampling.Task, solver: Solver | None = None) -> list[np.ndarray]:
    return generate(
        prior, task.prompts, task.frames, task.seeds, task.guidance, len(task.prompts),
        task.device, progress=False, solver=solver,
    )  # fmt: skip


def training_row(sizes: Sizes, machine: Machine, folder: Path) -> Comparison:
    """Steps of AdamW on L_simple and L_acc, drawing of the batch included."""
    prior, device, config = prior_of(sizes), machine.device, sizes.mdm
    clips = clips_of(sizes)
    data = Dataset(prior, clips)
    settings = TrainConfig(
        steps=CHUNK, batch_size=sizes.batch, max_frames=sizes.lengths[1],
        weights=LossWeights(acc=ACC), precision=machine.precision,
    )  # fmt: skip
    shown = [step_items(data.lengths, sizes.batch, settings.seed, step) for step in range(CHUNK)]
    # Batches differ in length: those nearest to the mean stand for all.
    far = [abs(data.lengths[items].mean() - data.lengths.mean()) for items in shown]
    steps = np.argsort(far)[: sizes.steps].tolist()

    def drawn(step: int) -> Batch:
        return training.draw_batch(data, settings, config.diffusion_steps, step)

    draws = [plain_training.Draw(shown[step], drawn(step)) for step in steps]
    plain_training.write_files(folder, prior, clips)
    files = plain_training.MotionFiles(
        folder, len(clips), prior.normaliser, config.max_frames, TOKENS
    )
    plain = PlainMDM(prior.model)
    how = GENERATOR.how(prior)
    losses = partial(training.step_losses, data=data, config=settings, how=how)
    task = prior.model, losses, settings, folder / "state.pt", "", None, (0.9, 0.999), (3,)
    # Copies of the weights and their moments are made before the clock starts, on either side.
    state = training._Training(Team(device), *task)
    trainer = plain_training.Trainer(
        plain, settings.learning_rate, ACC, config.diffusion_steps, device
    )
    lengths = data.lengths[np.concatenate([shown[step] for step in steps])]
    forward = sum(mdm_pass(config, 1, frames, TOKENS) for frames in lengths.tolist())
    needed = 3 * forward / sizes.steps

    def ours() -> list[float]:
        first = len(state._pending)
        for step in steps:
            state.step = step
            state.update(state.model)
        return [float(terms["total"]) for terms in state._pending[first:]]

    def agree(reference: list[float], ours: list[float]) -> str:
        apart = max(abs(a / b - 1) for a, b in zip(reference, ours, strict=True))
        # Dropout draws anew, and bfloat16 rounds.
        exact = not config.dropout and settings.precision == "float32"
        return within(apart, 1e-4 if exact else 5e-2, "losses differ by {:.1e}")

    return Comparison(
        name="training",
        title=f"MDM training, {sizes.batch} clips of {lengths.mean():.0f} frames on average, "
        f"{settings.precision}",
        unit="step",
        reference=lambda: trainer.run(files, draws),
        ours=ours,
        agree=agree,
        reach=">= 2x",
        floor=machine.operations(needed),
        floor_is=f"{needed:.2g} operations on the frames that there are, forward and twice that "
        "backward",
        reference_units=sizes.steps,
        our_units=sizes.steps,
        note=f"Clips have {sizes.lengths[0]} to {sizes.lengths[1]} frames; the reference pads all "
        f"to {config.max_frames}, ours cuts batches from clips sorted by length.",
    )


def clips_of(sizes: Sizes) -> list[MotionClip]:
    """Random features of random lengths, in place of clips."""
    rng = np.random.default_rng(0)
    low, high = sizes.lengths
    clips = []
    for i, frames in enumerate(rng.integers(low, high + 1, CHUNK * sizes.batch)):
        features = rng.standard_normal((frames, WIDTH)).astype(np.float32)
        features[:, CONTACTS] = features[:, CONTACTS] > 0
        clips.append(MotionClip(f"clip{i}", features, [PROMPT]))
    return clips
