"""The families of motion models, all with the interface of `Generator`.

A new one is a module here, its name in `FAMILIES`, and an entry of its name under ``generators`` in
a track. Nothing else of the study knows which there are.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from pydantic import model_validator
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from tqdm import tqdm

from t2imu_utils.body.fitting import fit
from t2imu_utils.body.smpl import Body
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.models.diffusion import ANCESTRAL, Solver
from t2imu_utils.models.text import TextEncoder
from t2imu_utils.motion.corpus import MotionClip, Normaliser, statistics
from t2imu_utils.motion.features import MIN_FRAMES, RATE, features_to_joints
from t2imu_utils.tracks import Count, GeneratorSection, Section, Track, checked

# By name, the module in this folder and what it calls its generator.
FAMILIES = {
    name: (name, "GENERATOR") for name in ("exported", "mdm", "momask", "remodiffuse", "t2mgpt")
}
FAMILIES["recorded"] = ("exported", "RECORDED")


class Trained(Protocol):
    """What every trained generator has; the rest is its family's own."""

    normaliser: Normaliser
    text_encoder: TextEncoder
    history: list[dict[str, Any]]
    velocity_weight: float | list[float]


class TransformerSizes(Section):
    """Sizes that a track gives to every network that is trained here."""

    width: Count
    layers: Count
    heads: Count
    feedforward: Count

    @model_validator(mode="after")
    def _heads_part_the_width(self) -> Self:
        if self.width % 2 or self.width % self.heads:
            raise ValueError(
                f"width {self.width}: not even, or not divisible by {self.heads} heads"
            )
        return self


def normaliser_of(clips: Sequence[MotionClip]) -> Normaliser:
    return Normaliser(*statistics([clip.features for clip in clips]))


@dataclass(frozen=True)
class Denoiser:
    """What a generator makes of a motion that it is shown through its own noise.

    guess: (clips, clean motions x0 (B, T, C), their mask (B, T), levels (B,), noise like x0) -> its
    guess of the clean motions, in normalised features. normaliser: their statistics. max_frames:
    the longest motion it takes, a multiple of `stride`, as all must be. levels: how many noise
    levels it has; 1 for a tokeniser, which adds none.
    """

    guess: Callable[[Sequence[MotionClip], Tensor, Tensor, Tensor, Tensor], Tensor]
    normaliser: Normaliser
    max_frames: int
    levels: int = 1
    stride: int = 1

    def __call__(self, clips, x0, mask, level, noise) -> Float[Tensor, "B T C"]:
        return self.guess(clips, x0, mask, level, noise)


class Generator:
    """A family of text-to-motion models: how it is made, trained, kept, sampled and examined.

    Each family defines, with clips of the corpus, `TrainConfig` and a prior of its own kind:

    - ``untrained(sizes, clips, encoder, seed)``: a prior of these sizes, with the statistics of the
      training clips.
    - ``published(folder, sizes, encoder)``: the authors' weights, with the statistics that belong
      to them; sizes None where the files say their own.
    - ``train(prior, clips, settings, folder, held_out, device, processes=1)``: a copy trained from
      scratch, and its curves (a row a step and a validation, a column a term). folder: of states
      to resume from. processes: that share each batch, where it is `parallel`.
    - ``refine(...)``: the same, of a copy trained on with the losses of `settings.weights`.
    - ``validation(prior, held_out, settings, device)``: losses by name, as its training reports
      them.
    - ``save(path, prior)``, all files of it, and ``load(path, encoder=None)``; with ``about`` and
      ``half`` as in `checkpoints.save` where the project ships weights of it.
    - ``generate(prior, prompts, frames, seeds, guidance, batch_size, device, progress=True)``: one
      motion for each prompt, as raw features (T, 263) at 20 fps (`mdm.generate`).
    - ``denoiser(prior, device)``: a `Denoiser`, to measure losses on.
    - ``network(prior)``: sizes and settings, for a table.
    - ``read(options, body, clips)``, where it is `ready_made`: its motions at 20 fps, for a body;
      clips: the corpus's recordings.
    """

    # What a track may set for it.
    Sizes: ClassVar[type[Section]]
    # Terms of its own training that a reader should see.
    curves: ClassVar[Sequence[str]] = ("simple",)
    # Whether it can be shown a motion (`denoiser`); of ready-made motions there is no model here.
    examined: ClassVar[bool] = True
    # Whether its motions were made elsewhere: they are read, and neither trained nor refined.
    ready_made: ClassVar[bool] = False
    # Whether several processes can share its batches.
    parallel: ClassVar[bool] = False
    # Names of the solvers that it can be sampled with, where there is a choice.
    solvers: ClassVar[Sequence[str]] = ()

    @property
    def sampler(self) -> dict[str, Any]:
        """What its sampling can be set to, as it is set."""
        return {}

    def with_solver(self, solver: Solver) -> "Generator":
        """The same generator, sampled with a solver."""
        raise InputError(
            f"solver {solver.name!r}", f"{type(self).__name__} has none to choose",
            "a generator that is a diffusion with solvers, such as mdm",
            "Leave solver and evaluations out of its entry in the track.",
        )  # fmt: skip

    def parameters(self, prior: Any) -> int:
        """Number of parameters of a prior's networks."""
        networks = getattr(prior, "networks", None) or {"": prior.model}
        return sum(p.numel() for network in networks.values() for p in network.parameters())

    def sample(
        self,
        prior: Any,
        requests: pd.DataFrame,
        guidance: float | None,
        batch_size: int,
        device: torch.device | str = "cpu",
        progress: bool = True,
        velocity_weight: float | None = None,
        smooth: float | None = None,
    ) -> Clips:
        """One motion for each row of requests (columns ``prompt``, ``frames``, ``seed``), in order.

        velocity_weight: of the read-out of positions (`motion.features.features_to_joints`); None
        is the prior's own, 0 the official one, which knows no velocities. smooth: standard
        deviation, in frames, of a Gaussian that features are smoothed by.

        Returns:
            The requests' table with a column ``motion`` (number of the request), and arrays
            ``features`` (F, 263), raw, and ``joints`` (F, 22, 3) in metres; meta ``rate`` 20. Of a
            generator that is `ready_made` only the requests that it answers, ``joints`` alone, and
            ``left_out`` in the meta.
        """
        columns = (requests[name].tolist() for name in ("prompt", "frames", "seed"))
        features = self.generate(prior, *columns, guidance, batch_size, device, progress)
        rows = requests.assign(motion=np.arange(len(requests))).to_dict("records")
        if smooth:
            features = [gaussian_filter1d(x, smooth, axis=0, mode="nearest") for x in features]
        weight = prior.velocity_weight if velocity_weight is None else velocity_weight
        joints = [features_to_joints(motion, weight) for motion in features]
        return Clips.from_list(rows, {"features": features, "joints": joints}, {"rate": RATE})

    def fits(self, prior: Any, motions: Clips, body: Body) -> Clips:
        """Sampled motions on a body, as `fitting.fit` gives them."""
        return fit(motions, body)


def check_requests(
    prior: Any, prompts: Sequence[str], frames: Sequence[int], seeds: Sequence[int], batch_size: int
) -> None:
    """Refuse what a prior cannot make, before anything is computed; frames at 20 fps."""
    counts = [len(prompts), len(frames), len(seeds)]
    if isinstance(prompts, str) or not prompts or len(set(counts)) > 1 or batch_size < 1:
        raise InputError(
            "prompts, frames, seeds, batch_size",
            f"{', '.join(map(str, counts))} of them, {batch_size}",
            "a list of prompts, one length and one seed for each, a batch size of 1 or more",
            "Repeat a prompt to sample it again with another seed.",
        )
    longest = prior.config.max_frames
    for i, count in enumerate(frames):
        if not MIN_FRAMES <= count <= longest or count != int(count):
            raise InputError(
                f"frames[{i}]", str(count), f"{MIN_FRAMES} to {longest} frames (20 a second)",
                "Ask for a length that the prior can make.",
            )  # fmt: skip
    encoder = prior.text_encoder
    for i, count in enumerate(encoder.count_tokens(prompts)):
        if count > encoder.max_tokens or not prompts[i].strip():
            raise InputError(
                f"prompts[{i}]", f"{len(prompts[i].split())} words, {count} tokens",
                f"a sentence of at most {encoder.max_tokens} tokens, the most that {encoder.name} "
                "reads", "Fill it in, or shorten it.",
            )  # fmt: skip


def in_batches(
    make: Callable[[list[int], list[int], list[torch.Generator]], Sequence],
    frames: Sequence[int],
    seeds: Sequence[int],
    batch_size: int,
    normaliser: Normaliser,
    progress: bool = True,
) -> list[Float[np.ndarray, "T 263"]]:
    """Motions in raw features, in order, made in batches by length so that little is padded.

    make: (items, their frames, their generators) -> normalised features (T, C) of each item.
    """
    order = sorted(range(len(seeds)), key=lambda i: frames[i])
    motions: list[np.ndarray] = [np.empty(0)] * len(seeds)
    with tqdm(total=len(seeds), unit="motion", mininterval=2, disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            items = order[start : start + batch_size]
            lengths = [int(frames[i]) for i in items]
            generators = [torch.Generator().manual_seed(int(seeds[i])) for i in items]
            for i, n, row in zip(items, lengths, make(items, lengths, generators), strict=True):
                motions[i] = np.asarray(normaliser.denormalise(row[:n]), dtype=np.float32)
            bar.update(len(items))
    return motions


def family(name: str) -> Generator:
    if name not in FAMILIES:
        raise InputError(
            f"generator {name!r}", "no such family", f"one of {', '.join(FAMILIES)}",
            "Check its spelling, or write a module of that name in t2imu_utils/models.",
        )  # fmt: skip
    module, attribute = FAMILIES[name]
    return getattr(importlib.import_module(f"t2imu_utils.models.{module}"), attribute)


def section_of(track: Track, name: str) -> GeneratorSection:
    """What a track says about one of its generators."""
    if name not in track.generators:
        raise InputError(
            f"generator {name!r}", f"track {track.name} has {', '.join(track.generators)}",
            "one of these", f"Choose one, or add it to {track.file}.",
        )  # fmt: skip
    return track.generators[name]


def generator_of(track: Track, name: str) -> Generator:
    """The family of one of a track's generators, sampled as the track says."""
    section = section_of(track, name)
    generator = family(section.family or name)
    if not (section.solver or section.evaluations or section.precision):
        return generator
    solver = Solver(
        section.solver or ANCESTRAL, section.evaluations, section.precision or "float32"
    )
    return generator.with_solver(solver)


def sizes_of(track: Track, name: str) -> Section | None:
    """What a track sets for one of its generators; None where nothing is and need not be."""
    section = section_of(track, name)
    given = section.model_extra or {}
    if section.checkpoint and not given:
        return None
    kind = generator_of(track, name).Sizes
    return checked(kind, given, track.file, "generators", name)
