"""Residual vector quantisation of motion: the tokeniser of MoMask, and of T2M-GPT with one level.

Convolutions turn four frames into one vector; a codebook replaces it by its nearest code, a second
one what is left, and so on (Guo et al., "MoMask", CVPR 2024; Zeghidour et al., "SoundStream",
2021). Parameters and codebooks carry the names of the official MoMask checkpoints.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from t2imu_utils.files import sha256
from t2imu_utils.models import checkpoints
from t2imu_utils.models.generator import (
    Denoiser,
    Generator,
    check_requests,
    in_batches,
    refuse_processes,
)
from t2imu_utils.models.losses import TERMS, WEIGHTED, LossWeights, motion_losses
from t2imu_utils.models.text import TextEncoder, pooled
from t2imu_utils.models.trainer import (
    TrainConfig,
    kept_row,
    key_of,
    normalised,
    prefix,
    sentences_of,
    step_items,
    train,
    weights_hash,
)
from t2imu_utils.motion.corpus import MotionClip, Normaliser, statistics
from t2imu_utils.motion.features import POSITIONS
from t2imu_utils.tracks import Count, Fraction, Section

# Frames of one token: two halvings of the rate.
STRIDE = 4
DILATIONS = (9, 3, 1)
# A code that is met less often in a batch than this, on average, is replaced.
RARE = 1.0


@dataclass(frozen=True)
class RVQConfig:
    """Sizes of a tokeniser; the defaults are those of the official MoMask checkpoint.

    T2M-GPT's tokeniser is levels=1, dropout=0, temperature=0. temperature: in training a code is
    drawn with logits -distance² / temperature; 0 takes the nearest, as is always done outside of
    training. ema_decay: of the running sums that the codes are the quotients of.
    """

    channels: int = 263
    width: int = 512
    code_width: int = 512
    codes: int = 512
    levels: int = 6
    dropout: float = 0.2
    temperature: float = 0.5
    ema_decay: float = 0.99


class _ResidualBlock(nn.Module):
    def __init__(self, width: int, dilation: int, dropout: float):
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv1d(width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.conv2(F.relu(self.conv1(F.relu(x)))))


class _Model(nn.Module):
    """A sequence under the name `model`, as the official parameter names have it."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def _residual(config: RVQConfig) -> _Model:
    return _Model(*(_ResidualBlock(config.width, d, config.dropout) for d in DILATIONS))


def _encoder(config: RVQConfig) -> _Model:
    width = config.width
    return _Model(
        nn.Conv1d(config.channels, width, 3, padding=1),
        nn.ReLU(),
        *(
            nn.Sequential(nn.Conv1d(width, width, 4, stride=2, padding=1), _residual(config))
            for _ in range(2)
        ),
        nn.Conv1d(width, config.code_width, 3, padding=1),
    )


def _decoder(config: RVQConfig) -> _Model:
    width = config.width
    return _Model(
        nn.Conv1d(config.code_width, width, 3, padding=1),
        nn.ReLU(),
        *(
            nn.Sequential(
                _residual(config),
                nn.Upsample(scale_factor=2),
                nn.Conv1d(width, width, 3, padding=1),
            )
            for _ in range(2)
        ),
        nn.Conv1d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv1d(width, config.channels, 3, padding=1),
    )


def _running_sums(codebook, state_dict, prefix, *_):
    # Official checkpoints hold the codes alone. Sums of one vector a code let a training go on
    # from them, where it would otherwise start from new codes.
    if f"{prefix}codebook" in state_dict and f"{prefix}code_sum" not in state_dict:
        codes = state_dict[f"{prefix}codebook"]
        state_dict[f"{prefix}code_sum"] = codes.clone()
        state_dict[f"{prefix}code_count"] = codes.new_ones(len(codes))


class Codebook(nn.Module):
    """Codes that follow the vectors they stand for by running sums, not by a gradient.

    van den Oord et al. (2017), appendix A.1. Codes, sums and counts are buffers; all counts are 0
    until the first batch has been seen.
    """

    codebook: Float[Tensor, "K D"]
    code_sum: Float[Tensor, "K D"]
    code_count: Float[Tensor, "K"]

    def __init__(self, config: RVQConfig):
        super().__init__()
        self.temperature, self.ema_decay = config.temperature, config.ema_decay
        self.register_buffer("codebook", torch.zeros(config.codes, config.code_width))
        self.register_buffer("code_sum", torch.zeros(config.codes, config.code_width))
        self.register_buffer("code_count", torch.zeros(config.codes))
        self.register_load_state_dict_pre_hook(_running_sums)

    @torch.no_grad()
    def choose(self, x: Float[Tensor, "M D"]) -> Int[Tensor, "M"]:
        """The code of each vector; in training drawn with the configured temperature."""
        square = x.square().sum(1, keepdim=True) + self.codebook.square().sum(1)
        logits = 2 * x @ self.codebook.T - square
        if self.training and self.temperature > 0:
            gumbel = -torch.empty_like(logits).exponential_().log()
            logits = logits / self.temperature + gumbel
        return logits.argmax(1)

    @torch.no_grad()
    def start(self, x: Float[Tensor, "M D"]) -> None:
        """Take the first codes from a batch, where this has not been done."""
        if not self.code_count.any():
            self.codebook.copy_(self._samples(x))
            self.code_sum.copy_(self.codebook)
            self.code_count.fill_(1.0)

    @torch.no_grad()
    def follow(self, x: Float[Tensor, "M D"], codes: Int[Tensor, "M"]) -> None:
        """Move the codes towards their vectors; replace rare ones by vectors of the batch."""
        chosen = F.one_hot(codes, len(self.codebook)).to(x.dtype)
        self.code_sum.lerp_(chosen.T @ x, 1 - self.ema_decay)
        self.code_count.lerp_(chosen.sum(0), 1 - self.ema_decay)
        common = (self.code_count >= RARE)[:, None]
        means = self.code_sum / self.code_count.clamp(min=1e-9)[:, None]
        self.codebook.copy_(torch.where(common, means, self._samples(x)))

    def _samples(self, x: Tensor) -> Tensor:
        # Drawn at random: the first vectors of a batch would come from one or two clips.
        wanted, found = self.codebook.shape[0], len(x)
        repeats = -(-wanted // found)
        picked = x[torch.randperm(found, device=x.device)].repeat(repeats, 1)[:wanted]
        if repeats > 1:
            picked = picked + torch.randn_like(picked) * (0.01 / x.shape[1] ** 0.5)
        return picked


class _Quantizer(nn.Module):
    def __init__(self, config: RVQConfig):
        super().__init__()
        self.layers = nn.ModuleList(Codebook(config) for _ in range(config.levels))

    def forward(
        self, z: Float[Tensor, "B N D"], active: int
    ) -> tuple[Float[Tensor, "B N D"], Int[Tensor, "B N Q"], Float[Tensor, ""]]:
        """Sum of the codes of the first `active` levels, the codes, and the commitment loss."""
        codes = z.new_full((*z.shape[:2], len(self.layers)), -1, dtype=torch.long)
        left, total, commit = z, torch.zeros_like(z), z.new_zeros(())
        for level, book in enumerate(self.layers[:active]):
            flat = left.detach().flatten(0, 1)
            if self.training:
                book.start(flat)
            chosen = book.choose(flat)
            # Looked up before the codes move, as the commitment is to the codes that were chosen.
            code = F.embedding(chosen, book.codebook).view_as(z)
            if self.training:
                book.follow(flat, chosen)
            codes[..., level] = chosen.view(z.shape[:2])
            commit = commit + F.mse_loss(left, code) / active
            left, total = left - code, total + code
        # One straight-through step around the sum. The original has one in each level, which
        # multiplies the encoder's gradient by the number of active levels, another at each step.
        return z + (total - z).detach(), codes, commit


class RVQ(nn.Module):
    """Motion to tokens and back; normalised features in and out."""

    def __init__(self, config: RVQConfig):
        super().__init__()
        self.config = config
        self.encoder = _encoder(config)
        self.quantizer = _Quantizer(config)
        self.decoder = _decoder(config)

    def forward(
        self, x: Float[Tensor, "B T C"], active: int | None = None
    ) -> tuple[Float[Tensor, "B T C"], Int[Tensor, "B N Q"], Float[Tensor, ""]]:
        """Reconstruction, codes and commitment loss; in training the codebooks move, too.

        x: T a multiple of 4, N = T / 4. active: levels in use, 1 to Q, or None for all; the codes
        of the others are -1. Commitment: mean squared difference between what a level was given
        and its code, averaged over active levels.
        """
        active = self.config.levels if active is None else active
        quantised, codes, commit = self.quantizer(self._vectors(x), active)
        return self._motion(quantised), codes, commit

    def encode(self, x: Float[Tensor, "B T C"]) -> Int[Tensor, "B N Q"]:
        """Codes of motions of one length, N = T // 4 of them; the model in evaluation mode."""
        return self.quantizer(self._vectors(x), self.config.levels)[1]

    def decode(self, codes: Int[Tensor, "B N Q"]) -> Float[Tensor, "B 4*N C"]:
        """Motion of codes, without padding: what stands beside a motion would leak into it.

        A code of -1 adds nothing. Fewer levels than the model has decode the coarser motion.
        """
        total = torch.zeros(())
        for level, book in enumerate(self.quantizer.layers[: codes.shape[-1]]):
            chosen = codes[..., level]
            vectors = F.embedding(chosen.clamp(min=0), book.codebook)
            total = total + vectors.masked_fill((chosen < 0)[..., None], 0.0)
        return self._motion(total)

    def _vectors(self, x: Tensor) -> Tensor:
        return self.encoder(x.transpose(1, 2)).transpose(1, 2)

    def _motion(self, vectors: Tensor) -> Tensor:
        return self.decoder(vectors.transpose(1, 2)).transpose(1, 2)


def initialised(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A new network in evaluation mode: of transformers over tokens N(0, 0.02²), biases 0.

    Codebooks of a tokeniser are empty until its first training step.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        if not isinstance(model, RVQ):
            for module in model.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
            for parameter in model.parameters(recurse=False):  # tables of no layer
                nn.init.normal_(parameter, std=0.02)
    return model.eval()


def equal_lengths(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Items in batches of one length each, shortest first, so that nothing is padded."""
    groups: dict[int, list[int]] = {}
    for item, length in enumerate(lengths):
        groups.setdefault(int(length), []).append(item)
    for length in sorted(groups):
        for start in range(0, len(groups[length]), batch_size):
            yield groups[length][start : start + batch_size]


@torch.no_grad()
def tokenise(
    model: RVQ, motions: Sequence[Float[Tensor, "T C"]], batch_size: int = 64
) -> list[Int[Tensor, "N Q"]]:
    """Codes of normalised motions, on the CPU, T // 4 for each; up to three last frames are cut."""
    device, model = next(model.parameters()).device, model.eval()
    counts = [len(motion) // STRIDE for motion in motions]
    codes: list[Tensor] = [torch.empty(0)] * len(motions)
    for items in equal_lengths(counts, batch_size):
        frames = STRIDE * counts[items[0]]
        rows = model.encode(torch.stack([motions[i][:frames] for i in items]).to(device)).cpu()
        for i, row in zip(items, rows, strict=True):
            codes[i] = row
    return codes


@torch.no_grad()
def detokenise(
    model: RVQ, codes: Sequence[Int[Tensor, "N Q"]], batch_size: int = 64
) -> list[Float[Tensor, "4*N C"]]:
    """Normalised motions of codes, on the CPU, each decoded at its own length."""
    device, model = next(model.parameters()).device, model.eval()
    motions: list[Tensor] = [torch.empty(0)] * len(codes)
    for items in equal_lengths([len(rows) for rows in codes], batch_size):
        decoded = model.decode(torch.stack([codes[i] for i in items]).to(device)).cpu()
        for i, motion in zip(items, decoded, strict=True):
            motions[i] = motion
    return motions


# ---------------------------------------------------------------- training
RVQ_STAGE = "rvq"
# As in MoMask: frames that a tokeniser is trained on at once; weights of the term of joint
# positions and of the commitment.
WINDOW, POSITIONS_WEIGHT, COMMIT_WEIGHT = 64, 0.5, 0.02
# Which of the random streams of a seed: windows, batches of tokens.
WINDOWS, TOKENS = 10, 11
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


def motions_hash(motions: Sequence[Float[Tensor, "T C"]]) -> str:
    """Hash of motions, in order."""
    return sha256("\n".join(sha256(x.numpy().tobytes()) for x in motions).encode())


def draw_windows(
    motions: Sequence[Float[Tensor, "T C"]], batch_size: int, seed: int, step: int
) -> Float[Tensor, "B W C"]:
    """The windows of a step: a function of the motions, the seed and the step's number.

    Motions shorter than the window come together in batches whose window is the shortest of them,
    so that nothing is padded and nothing is left out.
    """
    lengths = np.array([len(x) for x in motions])
    items = step_items(np.minimum(lengths, WINDOW), batch_size, seed, step)
    size = min(WINDOW, int(lengths[items].min()) // STRIDE * STRIDE)
    starts = np.random.default_rng([seed, WINDOWS, step]).integers(0, lengths[items] - size + 1)
    return torch.stack([motions[i][s : s + size] for i, s in zip(items, starts, strict=True)])


def reconstruction_losses(
    x: Float[Tensor, "B T 263"],
    x_hat: Float[Tensor, "B T 263"],
    commit: Float[Tensor, ""],
    weights: LossWeights,
    normaliser: Normaliser,
    all_terms: bool = False,
) -> dict[str, Float[Tensor, ""]]:
    """Terms of the tokeniser's loss, averaged over the batch; `total` is their weighted sum.

    reconstruction: smooth L1 of all normalised features. positions: of the joint positions among
    them. commit: see `RVQ.forward`. Then those of eqs. (3)-(6) on the decoder's output whose weight
    is above 0 (`all_terms=True`: all).
    """
    terms = {
        "reconstruction": F.smooth_l1_loss(x_hat, x),
        "positions": F.smooth_l1_loss(x_hat[..., POSITIONS], x[..., POSITIONS]),
        "commit": commit,
    }
    total = terms["reconstruction"] + POSITIONS_WEIGHT * terms["positions"]
    total = total + COMMIT_WEIGHT * commit
    used = {name: getattr(weights, name) for name in WEIGHTED if getattr(weights, name)}
    if all_terms or used:
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        more = motion_losses(x, x_hat, mask, weights, normaliser, all_terms)
        terms |= {name: value.mean() for name, value in more.items() if name != "total"}
        for name, weight in used.items():
            total = total + weight * terms[name]
    return terms | {"total": total}


def rvq_validation(
    normaliser: Normaliser, motions: Sequence[Float[Tensor, "T 263"]], config: TrainConfig
) -> Callable[[RVQ], dict[str, float]]:
    """All terms on whole motions, each at its own length (a multiple of 4), averaged over them."""

    @torch.no_grad()
    def validate(model: RVQ) -> dict[str, float]:
        device = next(model.parameters()).device
        counts = [len(motion) // STRIDE for motion in motions]
        sums: dict[str, float] = {}
        for items in equal_lengths(counts, config.batch_size):
            frames = STRIDE * counts[items[0]]
            x = torch.stack([motions[i][:frames] for i in items]).to(device)
            x_hat, _, commit = model.eval()(x)
            terms = reconstruction_losses(x, x_hat, commit, config.weights, normaliser, True)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(items)
        return {name: total / len(motions) for name, total in sums.items()}

    return validate


def rvq_losses(
    normaliser: Normaliser,
    motions: Sequence[Float[Tensor, "T 263"]],
    config: TrainConfig,
    level_dropout: float,
    decoder_only: bool,
) -> Callable[..., dict[str, Tensor]]:
    """Losses of a tokeniser's steps (`trainer.Losses`), on windows of motions.

    level_dropout: share of steps that use only the first k levels, k drawn evenly. decoder_only:
    encoder and codebooks stay as they are, so that tokens keep their meaning.
    """

    def losses(model: RVQ, step: int, part: int, parts: int) -> dict[str, Tensor]:
        x = draw_windows(motions, config.batch_size, config.seed, step)
        rng = np.random.default_rng([config.seed, WINDOWS, step, 1])
        levels = model.config.levels
        dropped = rng.random() < level_dropout
        active = int(rng.integers(1, levels + 1)) if dropped else levels
        if decoder_only:
            model.encoder.eval()
            model.quantizer.eval()
        x = x.to(next(model.parameters()).device)
        x_hat, _, commit = model(x, active)
        return reconstruction_losses(x, x_hat, commit, config.weights, normaliser)

    return losses


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


# ---------------------------------------------------------------- families of tokens
class Stage(NamedTuple):
    """One network of a family: its name in the prior, its share of all steps, betas of AdamW."""

    name: str
    share: float
    betas: tuple[float, float] = (0.9, 0.99)


class TokenSizes(Section):
    """Sizes of the tokeniser and of the transformers over its tokens."""

    tokeniser_width: Count
    codes: Count
    width: Count
    layers: Count
    heads: Count
    feedforward: Count
    dropout: Fraction

    def of_transformer(self) -> dict[str, Any]:
        """Those that all transformers have."""
        return self.model_dump(include={"width", "layers", "heads", "feedforward", "dropout"})


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
        """The tokeniser."""
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
    # the folder of the statistics; names that are passed over; and networks that may be absent.
    files: ClassVar[dict[str, tuple[str, tuple[str, ...]]]]
    meta: ClassVar[str]
    remedy: ClassVar[str]
    optional: ClassVar[Sequence[str]] = ()

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
        parts = self.parts(config)
        networks = {stage.name: initialised(parts[stage.name], seed) for stage in self.stages}
        return TokenPrior(config, networks, normaliser, encoder)

    def untrained(self, sizes, clips, encoder, seed):
        normaliser = Normaliser(*statistics([clip.features for clip in clips]))
        return self.new(self.configuration(sizes), normaliser, encoder, seed)

    def published(self, folder, sizes, encoder):
        config = self.Config() if sizes is None else self.configuration(sizes)
        return self.read(folder, config, encoder)

    def read(self, folder, config, encoder=None) -> TokenPrior:
        """The official release (`files`, `meta`), in evaluation mode on the CPU.

        encoder: CLIP; None loads the one below the data root. Statistics are read, never computed.
        `history` names the files by their hashes and epochs.
        """
        encoder = checkpoints.official_encoder(folder, encoder)
        config = self.fitted(config, encoder.pooled_width)
        networks: dict[str, nn.Module] = {}
        found: dict[str, Any] = {}
        for name, make in self.parts(config).items():
            file, keys = self.files[name]
            if name in self.optional and not (folder / file).exists():
                continue
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

    def save(self, path, prior):
        return [checkpoints.save(path, self.format, prior.networks, prior)]

    def load(self, path, encoder=None):
        def build(config):
            return {name: make() for name, make in self.parts(config).items()}

        networks, common, about = checkpoints.load(
            path, (self.format,), self.Config, build, encoder, optional=self.optional
        )
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
        (`WARMUP`), and early stopping chooses in each by its own `total`. The moving average is of
        the transformers' weights, and of the decoder's in `refine`: a tokeniser that is trained
        whole keeps its last weights, since its codebooks follow the encoder as it is at each step.
        The tokens are those of the tokeniser as it is after its own stage.

        Of the curves, `step` counts on from stage to stage, and terms of another stage are NaN.
        """
        refuse_processes(type(self).__name__, processes)
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
                kept[name] = dict(kept_row(checks, settings.early_stopping))
                kept[name]["step"] = float(kept[name]["step"] + done)
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

    def trained(self, prior):
        return [prior.networks[stage.name] for stage in self.stages]

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
