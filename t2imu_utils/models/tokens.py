"""What MoMask and T2M-GPT share: motions as tokens, how they are trained, kept, and turned back."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from t2imu_utils.files import sha256
from t2imu_utils.models import checkpoints
from t2imu_utils.models.generator import (
    Denoiser,
    Generator,
    TransformerSizes,
    check_requests,
    in_batches,
    normaliser_of,
)
from t2imu_utils.models.losses import TERMS, LossWeights
from t2imu_utils.models.text import TextEncoder, pooled
from t2imu_utils.models.tokeniser import (
    RVQ,
    RVQ_STAGE,
    STRIDE,
    detokenise,
    initialised,
    motions_hash,
    rvq_losses,
    rvq_validation,
    tokenise,
)
from t2imu_utils.models.trainer import (
    TrainConfig,
    key_of,
    normalised,
    prefix,
    sentences_of,
    step_items,
    train,
    weights_hash,
)
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from t2imu_utils.tracks import Count, Fraction

# Which of the random streams of a seed: batches of tokens.
TOKENS = 11
# Share of clips whose tokens are one fewer than they have.
SHORTER = 1 / 3
# Share of a stage's steps over which the learning rate rises. It does not fall: the published
# recipes lower it after several hundred thousand steps, and a short training would stand still.
WARMUP = 0.02
COLUMNS = (
    "step", "stage", "split", "total", "reconstruction", "positions", "commit", "simple", "pos",
    "foot", "vel", "acc", "accuracy",
)  # fmt: skip
# Tokens of items, which of them are no padding, and pooled texts.
TokenBatch = tuple[Int[Tensor, "B N Q"], Bool[Tensor, "B N"], Float[Tensor, "B W"]]


class TokenData:
    """Tokens of clips and pooled vectors of their captions, in memory.

    A clip is cut into tokens from each of its first four frames on, so that a crop may begin at
    any frame. Tokens are those of the whole clip, not of the crop. max_tokens: longer clips are
    cropped. motions: of `clips`, normalised.
    """

    def __init__(
        self,
        rvq: RVQ,
        text_encoder: TextEncoder,
        max_tokens: int,
        motions: Sequence[Float[Tensor, "T 263"]],
        clips: Sequence[MotionClip],
    ):
        self.frames = np.array([len(motion) for motion in motions], dtype=int)
        self.max_tokens = max_tokens
        self.tokens = [
            tokenise(rvq, [x[phase:] if len(x) >= phase + STRIDE else x for x in motions])
            for phase in range(STRIDE)
        ]
        sentences, self.captions = sentences_of(clips)
        self.pooled = pooled(text_encoder, sentences)
        self.fingerprint = key_of(
            motions_hash(motions), weights_hash(rvq), sentences, self.captions,
            text_encoder.fingerprint,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.frames)

    def batch(
        self,
        items: Sequence[int],
        starts: Sequence[int],
        counts: Sequence[int],
        captions: Sequence[int],
    ) -> TokenBatch:
        """Tokens of items from a frame on, which of them are no padding, and pooled texts."""
        rows = []
        for item, start, count in zip(items, starts, counts, strict=True):
            first, phase = divmod(int(start), STRIDE)
            rows.append(self.tokens[phase][item][first : first + int(count)])
        text = [self.pooled[self.captions[i][c]] for i, c in zip(items, captions, strict=True)]
        return pad_sequence(rows, batch_first=True), prefix(list(counts)), torch.stack(text)

    def step(self, batch_size: int, seed: int, step: int) -> TokenBatch:
        """The batch of a step: random crops, one in three a token shorter, random captions."""
        rng = np.random.default_rng([seed, TOKENS, step])
        items = step_items(self.frames, batch_size, seed, step)
        counts = self.frames[items] // STRIDE
        counts = np.maximum(counts - (rng.random(len(items)) < SHORTER), 1)
        counts = np.minimum(counts, self.max_tokens)
        starts = rng.integers(0, self.frames[items] - STRIDE * counts + 1)
        captions = rng.integers(0, [len(self.captions[i]) for i in items])
        return self.batch(items, starts, counts, captions)

    def whole(self, batch_size: int) -> Iterator[tuple[Int[np.ndarray, "B"], TokenBatch]]:
        """Every clip once, shortest first, from its first frame on and with its first caption.

        Items and their batch; longer clips end at `max_tokens`.
        """
        counts = np.minimum(self.frames // STRIDE, self.max_tokens)
        order = np.argsort(counts, kind="stable")
        for start in range(0, len(order), batch_size):
            items = order[start : start + batch_size]
            zeros = np.zeros(len(items), dtype=int)
            yield items, self.batch(items, zeros, counts[items], zeros)


def drawn_codes(
    logits: Float[Tensor, "B N K"],
    lengths: Sequence[int],
    generators: Sequence[torch.Generator],
    top: float,
) -> Int[Tensor, "B N"]:
    """One of the best codes for each position, by its probability among them (Gumbel-max).

    top: share of the codes that are drawn from. Each item draws from its own generator, as often
    as its length asks for.
    """
    best = logits.topk(math.ceil(top * logits.shape[-1]))
    noise = torch.ones(logits.shape)
    for row, length, generator in zip(noise, lengths, generators, strict=True):
        row[:length].exponential_(generator=generator)
    gumbel = -noise.to(logits.device).clamp(min=1e-30).log()
    place = (best.values + gumbel.gather(-1, best.indices)).argmax(-1, keepdim=True)
    return best.indices.gather(-1, place)[..., 0]


# ---------------------------------------------------------------- families of tokens
class Stage(NamedTuple):
    """One network of a family: its name in the prior, its share of all steps, betas of AdamW."""

    name: str
    share: float
    betas: tuple[float, float] = (0.9, 0.99)


class TokenSizes(TransformerSizes):
    """Sizes of the tokeniser and of the transformers over its tokens."""

    tokeniser_width: Count
    codes: Count
    dropout: Fraction

    def of_transformer(self) -> dict[str, Any]:
        return self.model_dump(include={"dropout", *TransformerSizes.model_fields})


@dataclass
class TokenPrior:
    """Networks of a family of tokens by name, statistics of its features, its text encoder.

    config: sizes, `rvq` and `transformer`. history, velocity_weight: as of `mdm.Prior`.
    """

    config: Any
    networks: dict[str, nn.Module]
    normaliser: Normaliser
    text_encoder: TextEncoder
    history: list[dict[str, Any]] = field(default_factory=list)
    velocity_weight: float | list[float] = 0.0

    @property
    def rvq(self) -> RVQ:
        return self.networks[RVQ_STAGE]


class TokenGenerator(Generator):
    """A family whose motions are made of tokens: a tokeniser and transformers over its tokens."""

    curves = ("reconstruction", "accuracy")
    # Of the family: its configuration (of `rvq` and `transformer`), the format of own files, and
    # which of the random streams of a seed its corruption of tokens takes.
    Config: ClassVar[type]
    format: ClassVar[str]
    stream: ClassVar[int]
    # What is trained, in order; share of steps that use a part of the tokeniser's levels alone.
    stages: ClassVar[Sequence[Stage]]
    level_dropout: ClassVar[float] = 0.0
    # Official files: a network's, below their folder, with the keys its weights may stand under;
    # the folder of the statistics; and where to get them.
    files: ClassVar[dict[str, tuple[str, tuple[str, ...]]]]
    meta: ClassVar[str]
    remedy: ClassVar[str]

    # Each family defines besides:
    #
    # - ``parts(config)``: what makes each network, by name.
    # - ``configuration(sizes)``: a `Config` of a track's sizes.
    # - ``ignored(key)``, ``official(name, key)``: which official names are passed over; the
    #   official name of a parameter of a network.
    # - ``losses(model, tokens, valid, text, rng, times)``: cross-entropy of a transformer on a
    #   batch of tokens as it is minimised, of each prediction, and which predictions are right.
    #   times: None in training; in validation of 0 to 1, one a clip and nothing is dropped.
    # - ``draw(prior, text, counts, generators, guidance)``: tokens (N, Q) of each pooled text.

    def fitted(self, config, text_width):
        """`config` with a transformer that fits its tokeniser and the pooled text."""
        rvq, own = config.rvq, {f.name for f in fields(config.transformer)}
        sizes = {"text_width": text_width, "codes": rvq.codes, "levels": rvq.levels}
        sizes = {name: value for name, value in sizes.items() if name in own}
        return replace(config, transformer=replace(config.transformer, **sizes))

    def new(self, config, normaliser, encoder, seed) -> TokenPrior:
        """An untrained prior; text_width, codes and levels of the transformer are set to fit."""
        config = self.fitted(config, encoder.pooled_width)
        networks = {name: initialised(make, seed) for name, make in self.parts(config).items()}
        return TokenPrior(config, networks, normaliser, encoder)

    def untrained(self, sizes, clips, encoder, seed):
        return self.new(self.configuration(sizes), normaliser_of(clips), encoder, seed)

    def published(self, folder, sizes, encoder):
        """The official release (`files`, `meta`), in evaluation mode on the CPU; `history` names
        the files by their hashes and epochs."""
        encoder = checkpoints.official_encoder(folder, encoder)
        config = self.Config() if sizes is None else self.configuration(sizes)
        config = self.fitted(config, encoder.pooled_width)
        networks: dict[str, nn.Module] = {}
        found: dict[str, Any] = {}
        for name, make in self.parts(config).items():
            file, keys = self.files[name]
            networks[name] = make()
            content, _ = checkpoints.load_official(
                folder / file, networks[name], keys, f"{name} of {config}", self.remedy,
                lambda key, name=name: self.official(name, key), self.ignored,
            )  # fmt: skip
            epoch = content.get("ep", content.get("epoch"))
            found[name] = {"sha256": sha256(folder / file), "epoch": epoch}
        normaliser = checkpoints.read_statistics(folder / self.meta, self.remedy)
        return TokenPrior(config, networks, normaliser, encoder, [{"files": found}])

    def official(self, name, key):
        return key

    def save(self, path, prior, about=None, half=False):
        return [checkpoints.save(path, self.format, prior.networks, prior, about, half)]

    def load(self, path, encoder=None):
        def build(config):
            return {name: make() for name, make in self.parts(config).items()}

        kinds = (self.format,)
        networks, common, about = checkpoints.load(path, kinds, self.Config, build, encoder)
        return TokenPrior(about["config"], networks, **common)

    @torch.inference_mode()
    def generate(
        self, prior, prompts, frames, seeds, guidance=None, batch_size=32, device="cpu",
        progress=True,
    ):  # fmt: skip
        """Where a length is no multiple of 4, the tokens above it are made and the motion is cut.
        guidance: None takes that of the prior's configuration. Else as `mdm.generate`."""
        check_requests(prior, prompts, frames, seeds, batch_size)
        text = prior.text_encoder.encode_pooled(prompts)
        for network in prior.networks.values():
            network.to(device).eval()

        def make(items: list[int], lengths: list[int], generators: list[torch.Generator]):
            counts = [n // STRIDE for n in lengths]
            tokens = self.draw(prior, text[items].to(device), counts, generators, guidance)
            return [x.numpy() for x in detokenise(prior.rvq, tokens)]

        whole = [STRIDE * -(-int(n) // STRIDE) for n in frames]
        motions = in_batches(make, whole, seeds, batch_size, prior.normaliser, progress)
        return [motion[: int(n)] for motion, n in zip(motions, frames, strict=True)]

    def train(
        self, prior, clips, settings, folder, held_out, device, processes=1, stages=None
    ):  # fmt: skip
        """Train copies of networks one after the other, the tokeniser first.

        `steps` are those of all stages together; each stage's learning rate rises first
        (`WARMUP`). The moving average is of the transformers' weights, and of the decoder's in
        `refine`: a tokeniser that is trained whole keeps its last weights, since its codebooks
        follow the encoder as it is at each step.
        The tokens are those of the tokeniser as it is after its own stage.

        Of the curves, `step` counts on from stage to stage, and terms of another stage are NaN.
        """
        decoder_only, stages = stages is not None, stages or self.stages
        motions, unseen = (
            normalised(prior.normaliser, group, STRIDE) if len(group) else []
            for group in (clips, held_out)
        )
        networks = {s.name: copy.deepcopy(prior.networks[s.name]).to(device) for s in stages}
        ends = np.round(np.cumsum([stage.share for stage in stages]) * settings.steps).astype(int)
        tables: list[pd.DataFrame] = []
        kept: dict[str, dict[str, float]] = {}
        tokens: list[TokenData] = []
        done = 0
        for (name, _, betas), end in zip(stages, ends.tolist(), strict=True):
            averaged = name != RVQ_STAGE or decoder_only
            own = replace(
                settings, steps=end - done, warmup=round(WARMUP * (end - done)), anneal=False,
                ema_decay=settings.ema_decay if averaged else 0.0,
            )  # fmt: skip
            if name == RVQ_STAGE:
                networks[name].encoder.requires_grad_(not decoder_only)
                given = prior.normaliser, motions, own, self.level_dropout, decoder_only
                losses, validate = rvq_losses(*given), rvq_validation(prior.normaliser, unseen, own)
                key = [self.level_dropout, decoder_only, motions_hash(motions)]
                key += [motions_hash(unseen)]
                key += [sha256(np.asarray(x).tobytes()) for x in vars(prior.normaliser).values()]
            else:
                if not tokens:
                    longest, rvq = prior.config.transformer.max_tokens, networks[RVQ_STAGE]
                    tokens = [
                        TokenData(rvq, prior.text_encoder, longest, x, group)
                        for x, group in ((motions, clips), (unseen, held_out))
                    ]
                losses, validate = self._on_tokens(own, *tokens)
                key = [data.fingerprint for data in tokens]
            trained, rows, checks = train(
                networks[name], losses, own, Path(folder) / f"{name}.pt", key_of(name, *key),
                validate if len(held_out) else None, betas=betas, device=device,
            )  # fmt: skip
            networks[name] = trained.requires_grad_(True)
            for split, part in (("train", rows), ("validation", checks)):
                table = pd.DataFrame(part, columns=list(COLUMNS))
                tables.append(table.assign(step=table["step"] + done, stage=name, split=split))
            if checks:
                kept[name] = checks[-1] | {"step": float(checks[-1]["step"] + done)}
            done = end
        recorded = settings.record() | {"decoder_only": decoder_only}
        entry = {"config": recorded, "clips": len(clips), "data": motions_hash(motions)}
        entry |= {"validation": kept} if kept else {}
        table = pd.concat([table for table in tables if len(table)], ignore_index=True)
        history = [*prior.history, entry]
        return replace(prior, networks=prior.networks | networks, history=history), table

    def refine(self, *arguments):
        """The decoder alone: tokens keep their meaning, and the transformers still fit."""
        return self.train(*arguments, stages=(Stage(RVQ_STAGE, 1.0),))

    def _on_tokens(self, config: TrainConfig, data: TokenData, held_out: TokenData):
        """Losses of a transformer's steps, and its validation."""

        def terms(model: nn.Module, batch: TokenBatch, rng: np.random.Generator, times=None):
            device = next(model.parameters()).device
            return self.losses(model, *(x.to(device) for x in batch), rng, times)

        def losses(model: nn.Module, step: int, part: int, parts: int) -> dict[str, Tensor]:
            rng = np.random.default_rng([config.seed, self.stream, step])
            batch = data.step(config.batch_size, config.seed, step)
            total, _, right = terms(model, batch, rng)
            return {"total": total, "accuracy": right.float().mean()}

        @torch.no_grad()
        def validate(model: nn.Module) -> dict[str, float]:
            """On clips from their first frame on, with their text, averaged over predictions."""
            # Times are spread evenly over the clips, and what is masked is the same each time.
            times = (np.arange(len(held_out)) + 0.5) / len(held_out)
            times = np.random.default_rng([config.seed, self.stream]).permutation(times)
            total = right = count = 0.0
            for number, (items, batch) in enumerate(held_out.whole(config.batch_size)):
                first = number * config.batch_size
                rng = np.random.default_rng([config.seed, self.stream, first, 1])
                _, losses, hits = terms(model, batch, rng, times[items])
                total, right = total + float(losses.sum()), right + float(hits.sum())
                count += len(losses)
            return {"total": total / count, "accuracy": right / count}

        return losses, validate

    def validation(self, prior, held_out, settings, device):
        motions = normalised(prior.normaliser, held_out, STRIDE)
        settings = replace(settings, weights=LossWeights())
        found = rvq_validation(prior.normaliser, motions, settings)(prior.rvq.to(device))
        return {name: found[name] for name in ("reconstruction", *TERMS)}

    def denoiser(self, prior, device):
        """The motion encoded, replaced by codes and decoded; no noise is added."""
        rvq = prior.rvq.to(device).eval()

        def guess(clips, x0, mask, level, noise):
            # Each by itself, since convolutions would see padding.
            rows = [row[:n].cpu() for row, n in zip(x0, mask.sum(1).tolist(), strict=True)]
            return pad_sequence(detokenise(rvq, tokenise(rvq, rows)), batch_first=True).to(x0)

        return Denoiser(guess, prior.normaliser, prior.config.max_frames, stride=STRIDE)

    def network(self, prior):
        parts = {"tokeniser": prior.config.rvq, "transformer": prior.config.transformer}
        return {
            f"{part}: {name}": value
            for part, sizes in parts.items()
            for name, value in asdict(sizes).items()
            if name not in ("channels", "text_width", "ema_decay", "max_tokens")
        }
