"""Residual vector quantisation of motion: the tokeniser of MoMask, and of T2M-GPT with one level.

Convolutions turn four frames into one vector; a codebook replaces it by its nearest code, a second
one what is left, and so on (Guo et al., "MoMask", CVPR 2024; Zeghidour et al., "SoundStream",
2021). Parameters and codebooks carry the names of the official MoMask checkpoints.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256
from t2imu_utils.models.generator import (
    Denoiser,
    Generator,
    check_requests,
    in_batches,
    refuse_processes,
)
from t2imu_utils.models.losses import TERMS, WEIGHTED, LossWeights, motion_losses
from t2imu_utils.models.text import TextEncoder
from t2imu_utils.models.trainer import (
    SENTENCES,
    TrainConfig,
    kept_row,
    key_of,
    prefix,
    step_items,
    train,
    weights_hash,
)
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from t2imu_utils.motion.features import POSITIONS, check_features
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


def new_rvq(config: RVQConfig, seed: int) -> RVQ:
    """A freshly initialised tokeniser; its codebooks are empty until the first training step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RVQ(config)


def new_transformer(kind: type[nn.Module], config: Any, seed: int) -> nn.Module:
    """A freshly initialised transformer over tokens: N(0, 0.02²), biases 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for parameter in model.parameters(recurse=False):  # tables of no layer
            nn.init.normal_(parameter, std=0.02)
    return model.eval()


def in_tokens(
    prior: Any,
    prompts: Sequence[str],
    frames: Sequence[int],
    seeds: Sequence[int],
    batch_size: int,
    device: torch.device | str,
    progress: bool,
    sample_tokens: Callable[[Tensor, list[int], list[torch.Generator]], list[Tensor]],
) -> list[Float[np.ndarray, "T 263"]]:
    """One motion for each prompt, as raw features: the tokens above its length, decoded, and cut.

    sample_tokens: (pooled texts, numbers of tokens, generators) -> tokens (N, Q) of each item.
    """
    check_requests(prior, prompts, frames, seeds, batch_size)
    text = prior.text_encoder.encode_pooled(prompts)

    def make(items: list[int], lengths: list[int], generators: list[torch.Generator]):
        counts = [n // STRIDE for n in lengths]
        tokens = sample_tokens(text[items].to(device), counts, generators)
        return [x.numpy() for x in detokenise(prior.rvq, tokens)]

    whole = [STRIDE * -(-int(n) // STRIDE) for n in frames]
    motions = in_batches(make, whole, seeds, batch_size, prior.normaliser, progress)
    return [motion[: int(n)] for motion, n in zip(motions, frames, strict=True)]


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


def normalised_motions(
    normaliser: Normaliser, clips: Sequence[MotionClip]
) -> list[Float[Tensor, "T 263"]]:
    """Normalised features of clips, float32."""
    if not clips:
        raise InputError("clips", "none", "at least one clip to train on", "Check the split.")
    for clip in clips:
        check_features(clip.features, clip.name, min_frames=STRIDE)
    normalise = normaliser.normalise
    return [torch.from_numpy(normalise(clip.features).astype(np.float32)) for clip in clips]


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


@torch.no_grad()
def rvq_validation(
    model: RVQ,
    motions: Sequence[Float[Tensor, "T 263"]],
    batch_size: int,
    weights: LossWeights,
    normaliser: Normaliser,
) -> dict[str, float]:
    """All terms on whole motions, each at its own length (a multiple of 4), averaged over them."""
    device = next(model.parameters()).device
    counts = [len(motion) // STRIDE for motion in motions]
    sums: dict[str, float] = {}
    for items in equal_lengths(counts, batch_size):
        frames = STRIDE * counts[items[0]]
        x = torch.stack([motions[i][:frames] for i in items]).to(device)
        x_hat, _, commit = model.eval()(x)
        terms = reconstruction_losses(x, x_hat, commit, weights, normaliser, True)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(items)
    return {name: total / len(motions) for name, total in sums.items()}


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
        sentences = list(dict.fromkeys(text for clip in clips for text in clip.captions))
        number = {text: i for i, text in enumerate(sentences)}
        self.captions = [[number[text] for text in clip.captions] for clip in clips]
        encode = text_encoder.encode_pooled
        self.pooled = [
            row
            for start in range(0, len(sentences), SENTENCES)
            for row in encode(sentences[start : start + SENTENCES])
        ]
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


@torch.no_grad()
def token_validation(
    data: TokenData,
    batch_size: int,
    terms: Callable[[int, Int[np.ndarray, "B"], TokenBatch], tuple[Tensor, Tensor]],
) -> dict[str, float]:
    """Cross-entropy ("total") and accuracy on clips from their first frame on, with their text,
    averaged over predictions.

    terms: (number of the batch's first clip, clips, batch) -> losses of its predictions, and which
    of them are right.
    """
    total = right = count = 0.0
    for number, (items, batch) in enumerate(data.whole(batch_size)):
        losses, hits = terms(number * batch_size, items, batch)
        total, right = total + float(losses.sum()), right + float(hits.sum())
        count += len(losses)
    return {"total": total / count, "accuracy": right / count}


class Stage(NamedTuple):
    """One network of a family: its name in the prior, its share of all steps, betas of AdamW."""

    name: str
    share: float
    betas: tuple[float, float] = (0.9, 0.99)


# (stage, settings, tokens of the clips, tokens of held-out ones) -> losses and validation of that
# stage's transformer, as in `trainer.train`.
TokenTask = Callable[[str, TrainConfig, TokenData, TokenData], tuple[Callable, Callable]]


def train_stages(
    prior: Any,
    clips: Sequence[MotionClip],
    config: TrainConfig,
    stages: Sequence[Stage],
    task: TokenTask,
    out_dir: Path,
    validation: Sequence[MotionClip] = (),
    progress: bool = True,
    device: torch.device | str = "cpu",
    *,
    level_dropout: float = 0.0,
    decoder_only: bool = False,
) -> tuple[Any, pd.DataFrame]:
    """Train copies of networks of `prior` one after the other, the tokeniser first.

    config: `steps` are those of all stages together; each stage's learning rate rises first
    (`WARMUP`), and early stopping chooses in each by its own `total`. The moving average is of the
    transformers' weights, and of the decoder's with `decoder_only`: a tokeniser that is trained
    whole keeps its last weights, since its codebooks follow the encoder as it is at each step. The
    tokens are those of the tokeniser as it is after its own stage. `out_dir` keeps the state of
    each stage (see `trainer.train`).

    Returns:
        The prior, its history one entry longer, and the curves: a row a step (split "train") and a
        row a validation (split "validation"), a column a term (`COLUMNS`); `step` counts on from
        stage to stage, and terms of another stage are NaN.
    """
    motions = normalised_motions(prior.normaliser, clips)
    held_out = normalised_motions(prior.normaliser, validation) if validation else []
    networks = {n: copy.deepcopy(getattr(prior, n)).to(device) for n, *_ in stages}
    ends = np.round(np.cumsum([stage.share for stage in stages]) * config.steps).astype(int)
    tokens: list[TokenData] = []
    tables: list[pd.DataFrame] = []
    kept: dict[str, dict[str, float]] = {}
    done = 0
    for (name, _, betas), end in zip(stages, ends.tolist(), strict=True):
        steps, averaged = end - done, name != RVQ_STAGE or decoder_only
        own = replace(
            config, steps=steps, warmup=round(WARMUP * steps), anneal=False, accumulate=1,
            ema_decay=config.ema_decay if averaged else 0.0,
        )  # fmt: skip
        network = networks[name]
        if name == RVQ_STAGE:
            network.encoder.requires_grad_(not decoder_only)
            settings = (prior.normaliser, motions, own, level_dropout, decoder_only)
            losses, key = rvq_losses(*settings), [level_dropout, decoder_only]
            key += [motions_hash(motions), motions_hash(held_out)]
            key += [sha256(np.asarray(x).tobytes()) for x in vars(prior.normaliser).values()]

            def validate(model: nn.Module) -> dict[str, float]:
                more = (config.batch_size, config.weights, prior.normaliser)
                return rvq_validation(model, held_out, *more)
        else:
            if not tokens:
                longest, rvq = prior.config.transformer.max_tokens, networks[RVQ_STAGE]
                tokens = [
                    TokenData(rvq, prior.text_encoder, longest, x, group)
                    for x, group in ((motions, clips), (held_out, validation))
                ]
            losses, validate = task(name, own, *tokens)
            key = [data.fingerprint for data in tokens]
        trained, rows, checks = train(
            network, losses, own, Path(out_dir) / f"{name}.pt", key_of(name, *key),
            validate if validation else None, betas=betas, progress=progress, device=device,
        )  # fmt: skip
        networks[name] = trained.requires_grad_(True)
        for split, part in (("train", rows), ("validation", checks)):
            table = pd.DataFrame(part, columns=list(COLUMNS))
            tables.append(table.assign(step=table["step"] + done, stage=name, split=split))
        if checks:
            kept[name] = dict(kept_row(checks, "total", config.early_stopping))
            kept[name]["step"] = float(kept[name]["step"] + done)
        done = end
    recorded = config.record() | {"decoder_only": decoder_only}
    entry = {"config": recorded, "clips": len(clips), "data": motions_hash(motions)}
    entry |= {"validation": kept} if kept else {}
    table = pd.concat([table for table in tables if len(table)], ignore_index=True)
    return replace(prior, **networks, history=[*prior.history, entry]), table


# ---------------------------------------------------------------- families of tokens
class TokenSizes(Section):
    """Sizes of the tokeniser and of the transformers over its tokens."""

    tokeniser_width: Count
    codes: Count
    width: Count
    layers: Count
    heads: Count
    feedforward: Count
    dropout: Fraction


class TokenGenerator(Generator):
    """Training, refinement and examination of a family whose motions are made of tokens."""

    curves = ("reconstruction", "accuracy")
    # Of the family.
    stages: ClassVar[Sequence[Stage]]
    task: ClassVar[TokenTask]
    level_dropout: ClassVar[float] = 0.0

    def train(
        self, prior, clips, settings, folder, held_out, device, processes=1, stages=None
    ):  # fmt: skip
        refuse_processes(type(self).__name__, processes)
        return train_stages(
            prior, clips, settings, stages or self.stages, type(self).task, folder, held_out,
            device=device, level_dropout=self.level_dropout, decoder_only=stages is not None,
        )  # fmt: skip

    def refine(self, *arguments, **named):
        """The decoder alone: tokens keep their meaning, and the transformers still fit."""
        return self.train(*arguments, **named, stages=(Stage(RVQ_STAGE, 1.0),))

    def validation(self, prior, held_out, settings, device):
        motions = normalised_motions(prior.normaliser, held_out)
        rvq = prior.rvq.to(device)
        found = rvq_validation(
            rvq, motions, settings.batch_size, LossWeights(), prior.normaliser
        )  # fmt: skip
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
