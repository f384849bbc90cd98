"""T2M-GPT (Zhang et al., CVPR 2023): the tokens of a motion one after another, from a text.

A causal transformer reads one pooled text vector and the tokens so far; from its logits the next
token is drawn, or the end. A tokeniser with one codebook turns tokens of four frames into features.
Parameters carry the names of the official checkpoint, so that it loads as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write, sha256
from t2imu_utils.models.checkpoints import (
    REMEDY,
    check_parameters,
    checked_fields,
    official_encoder,
    read_official,
    read_own,
    read_statistics,
    refuse_overwriting,
    same_encoder,
    statistics_shapes,
    take_statistics,
    write_own,
    write_statistics,
)
from t2imu_utils.models.generator import check_requests
from t2imu_utils.models.losses import LossWeights
from t2imu_utils.models.mdm import sinusoids
from t2imu_utils.models.text import TextEncoder
from t2imu_utils.models.tokeniser import (
    RVQ,
    STRIDE,
    RVQConfig,
    Stage,
    StagedTrainConfig,
    TokenData,
    TokenGenerator,
    TokenSizes,
    TokenTask,
    detokenise,
    new_rvq,
    short_stage,
    train_stages,
)
from t2imu_utils.motion.corpus import MotionClip, Normaliser, statistics

# Keys and values of one block at all places so far, (B, heads, places, width / heads) each.
Past = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of the transformer; the defaults are those of the official checkpoint.

    layers: of each of its two halves, "base" and "head". codes: of the tokeniser. max_tokens: of
    the longest motion; with the text there is a place more.
    """

    codes: int = 512
    text_width: int = 512
    width: int = 1024
    layers: int = 9
    heads: int = 16
    feedforward: int = 4096
    dropout: float = 0.1
    max_tokens: int = 50

    def __post_init__(self):
        sizes = ("codes", "text_width", "layers", "heads", "feedforward", "max_tokens")
        checks = {name: getattr(self, name) >= 1 for name in sizes} | {
            "width": self.width >= 2 and self.width % 2 == 0 and self.width % self.heads == 0,
            "dropout": 0 <= self.dropout < 1,
        }
        for name, good in checks.items():
            if not good:
                raise InputError(
                    f"GPTConfig: {name}", str(getattr(self, name)), "a value in its range",
                    "width is even and divisible by the number of heads; sizes are at least 1.",
                )  # fmt: skip


class _Attention(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.key = nn.Linear(config.width, config.width)
        self.query = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`x` (B, N, C) attends to itself, causally; with a past N is 1 and all is behind it."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=past is None
        )
        out = self.proj(mixed.transpose(1, 2).flatten(2))
        return F.dropout(out, self.dropout, self.training), (key, value)


class _Block(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.attn = _Attention(config)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.feedforward),
            nn.GELU(),
            nn.Linear(config.feedforward, config.width),
            nn.Dropout(config.dropout),
        )

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        attended, past = self.attn(self.ln1(x), past)
        x = x + attended
        return x + self.mlp(self.ln2(x)), past


class _Places(nn.Module):
    embed: Float[Tensor, "places 1 C"]

    def __init__(self, config: GPTConfig):
        super().__init__()
        # In the official files this table is a parameter that is not trained.
        self.register_buffer("embed", sinusoids(config.max_tokens + 1, config.width)[:, None])


class _Base(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        # Codes, the end, padding; the last two are never read.
        self.tok_emb = nn.Embedding(config.codes + 2, config.width)
        self.cond_emb = nn.Linear(config.text_width, config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.pos_embed = _Places(config)


class _Head(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.codes + 1, bias=False)


class TokenGPT(nn.Module):
    """Predicts each token of a motion, or its end, from a text and the tokens before it."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config, self.end_id = config, config.codes
        self.trans_base = _Base(config)
        self.trans_head = _Head(config)

    def forward(
        self, tokens: Int[Tensor, "B N"], text: Float[Tensor, "B W"]
    ) -> Float[Tensor, "B N+1 K+1"]:
        """Logits of the K codes and of the end (class K): of the first token, and after each token.

        text: pooled. What stands behind a token does not matter to it, so that padding may be any
        code.
        """
        base = self.trans_base
        embedded = torch.cat([base.cond_emb(text)[:, None], base.tok_emb(tokens)], dim=1)
        return self._run(embedded, None)[0]

    def start(self, text: Float[Tensor, "B W"]) -> tuple[Float[Tensor, "B K+1"], list[Past]]:
        """Logits of the first token, and what `follow` goes on from."""
        logits, past = self._run(self.trans_base.cond_emb(text)[:, None], None)
        return logits[:, 0], past

    def follow(
        self, tokens: Int[Tensor, "B"], past: Sequence[Past]
    ) -> tuple[Float[Tensor, "B K+1"], list[Past]]:
        """Logits after one more token of each item, without computing those before it again."""
        logits, past = self._run(self.trans_base.tok_emb(tokens)[:, None], past)
        return logits[:, 0], past

    def _run(self, x: Tensor, past: Sequence[Past] | None) -> tuple[Tensor, list[Past]]:
        first = 0 if past is None else past[0][0].shape[2]
        last, table = first + x.shape[1], self.trans_base.pos_embed.embed
        if last > len(table):
            raise InputError(
                "tokens", str(last - 1), f"at most {len(table) - 1}",
                "Shorten the motion or use a prior with a larger max_tokens.",
            )  # fmt: skip
        x = x + table[first:last, 0]
        blocks = [*self.trans_base.blocks, *self.trans_head.blocks]
        kept = []
        for i, block in enumerate(blocks):
            x, now = block(x, None if past is None else past[i])
            kept.append(now)
        return self.trans_head.head(self.trans_head.ln_f(x)), kept


def new_gpt(config: GPTConfig, seed: int) -> TokenGPT:
    """A freshly initialised transformer: N(0, 0.02²), biases 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TokenGPT(config)
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def _one_level() -> RVQConfig:
    return RVQConfig(levels=1, dropout=0.0, temperature=0.0)


@dataclass(frozen=True)
class T2MGPTConfig:
    """Sizes of a T2M-GPT; the defaults are the official ones.

    rvq: the tokeniser, of one level. transformer: its text_width and codes are set by `new_t2mgpt`.
    """

    rvq: RVQConfig = field(default_factory=_one_level)
    transformer: GPTConfig = field(default_factory=GPTConfig)

    def __post_init__(self):
        if self.rvq.levels != 1:
            raise InputError(
                "T2MGPTConfig: rvq.levels", str(self.rvq.levels), "1",
                "T2M-GPT has one codebook: use RVQConfig(levels=1, dropout=0, temperature=0).",
            )  # fmt: skip

    @property
    def max_frames(self) -> int:
        """The longest motion the model is asked for (20 fps)."""
        return STRIDE * self.transformer.max_tokens

    @property
    def channels(self) -> int:
        """Width of the features."""
        return self.rvq.channels


@dataclass
class T2MGPTPrior:
    """The networks of T2M-GPT, the statistics of its features, its text encoder.

    history: one entry for each training that led here, or for the checkpoint that was read.
    velocity_weight: with which `features_to_joints` reads its motions, one or one a joint.
    """

    config: T2MGPTConfig
    rvq: RVQ
    gpt: TokenGPT
    normaliser: Normaliser
    text_encoder: TextEncoder
    history: list[dict[str, Any]] = field(default_factory=list)
    velocity_weight: float | list[float] = 0.0

    @property
    def text_encoder_name(self) -> str:
        """Name of the text encoder, as `load_text_encoder` knows it."""
        return self.text_encoder.name

    @property
    def parameters(self) -> int:
        """Number of trained parameters of tokeniser and transformer."""
        return sum(p.numel() for network in (self.rvq, self.gpt) for p in network.parameters())


def new_t2mgpt(
    config: T2MGPTConfig, normaliser: Normaliser, text_encoder: TextEncoder, seed: int
) -> T2MGPTPrior:
    """An untrained T2M-GPT; the transformer's text_width and codes are set to fit."""
    config = fitted(config, text_encoder.pooled_width)
    rvq, gpt = new_rvq(config.rvq, seed).eval(), new_gpt(config.transformer, seed).eval()
    return T2MGPTPrior(config, rvq, gpt, normaliser, text_encoder)


def fitted(config: T2MGPTConfig, text_width: int) -> T2MGPTConfig:
    """`config` with a transformer that fits its tokeniser and the pooled text."""
    sizes = {"text_width": text_width, "codes": config.rvq.codes}
    return replace(config, transformer=replace(config.transformer, **sizes))


@torch.inference_mode()
def generate(
    prior: T2MGPTPrior,
    prompts: Sequence[str],
    frames: Sequence[int] | None,
    seeds: Sequence[int],
    guidance: float | None = None,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> list[Float[np.ndarray, "T 263"]]:
    """One motion for each prompt, as raw (de-normalised) features at 20 fps, in order.

    T2M-GPT chooses lengths itself: it draws an end among the tokens. To make as many frames as are
    asked for, the end is never drawn; where their number is no multiple of 4, the tokens above it
    are made and the motion is cut. With frames=None a motion ends where the model ends it, as in
    the original: after 1 to `max_tokens` tokens of 4 frames. A seed draws the same tokens in both
    ways, up to that end.

    frames: length of each motion, or None. seeds: one an item; an item's motion is made by its
    prompt, length and seed alone, whatever it is sampled with (up to rounding). guidance: None or
    1, since T2M-GPT is not trained without texts and has none.

    Raises:
        InputError: what `check_requests` refuses, or a guidance.
    """
    check_requests(prior, prompts, frames, seeds, batch_size)
    if guidance is not None and guidance != 1:
        raise InputError(
            "guidance", f"{guidance:g}", "None or 1",
            "T2M-GPT has no guidance: it is not trained without texts.",
        )  # fmt: skip
    text = prior.text_encoder.encode_pooled(prompts)
    rvq, gpt = (network.to(device).eval() for network in (prior.rvq, prior.gpt))
    longest = [prior.config.transformer.max_tokens] * len(prompts)
    counts = longest if frames is None else [-(-int(n) // STRIDE) for n in frames]
    order = sorted(range(len(prompts)), key=lambda i: counts[i])
    motions: list[np.ndarray] = [np.empty(0)] * len(prompts)
    with tqdm(total=len(prompts), unit="motion", mininterval=2, disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            items = order[start : start + batch_size]
            lengths = None if frames is None else [counts[i] for i in items]
            generators = [torch.Generator().manual_seed(int(seeds[i])) for i in items]
            tokens = sample_tokens(gpt, text[items].to(device), generators, lengths)
            for i, x in zip(items, detokenise(rvq, [t[:, None] for t in tokens]), strict=True):
                cut = len(x) if frames is None else int(frames[i])
                raw = prior.normaliser.denormalise(x[:cut].numpy())
                motions[i] = np.asarray(raw, dtype=np.float32)
            bar.update(len(items))
    return motions


@torch.inference_mode()
def sample_tokens(
    model: TokenGPT,
    text: Float[Tensor, "B W"],
    generators: Sequence[torch.Generator],
    lengths: Sequence[int] | None = None,
) -> list[Int[Tensor, "N"]]:
    """Tokens of a motion for each pooled text, on the CPU, drawn by their probability.

    lengths: numbers of tokens, 1 or more. With None a motion goes on until its end is drawn, which
    is not possible before the first token, or until it has `max_tokens`. Every item draws from its
    own generator, for each token as many numbers.
    """
    wanted = [model.config.max_tokens] * len(text) if lengths is None else list(lengths)
    made: list[list[int]] = [[] for _ in wanted]
    # Items that still grow; the others leave the batch.
    items = list(range(len(wanted)))
    logits, past = model.start(text)
    while True:
        if lengths is not None or not made[items[0]]:
            logits[:, model.end_id] = -torch.inf
        drawn = _draw(logits, [generators[i] for i in items])
        going = []
        for row, (i, token) in enumerate(zip(items, drawn.tolist(), strict=True)):
            if token != model.end_id:
                made[i].append(token)
                if len(made[i]) < wanted[i]:
                    going.append(row)
        if not going:
            return [torch.tensor(tokens) for tokens in made]
        if len(going) < len(items):
            items = [items[row] for row in going]
            drawn, past = drawn[going], [(key[going], value[going]) for key, value in past]
        logits, past = model.follow(drawn, past)


def _draw(logits: Float[Tensor, "B K"], generators: Sequence[torch.Generator]) -> Int[Tensor, "B"]:
    """A class of each row by its probability (Gumbel-max)."""
    noise = torch.empty(logits.shape)
    for row, generator in zip(noise, generators, strict=True):
        row.exponential_(generator=generator)
    return (logits - noise.to(logits.device).clamp(min=1e-30).log()).argmax(-1)


STAGES = ("rvq", "gpt")
# Which of the random streams of a seed.
CORRUPTION = 13


@dataclass(frozen=True)
class T2MGPTTrainConfig(StagedTrainConfig):
    """Settings of the training of a whole T2M-GPT; the recipe is the published one.

    keep: share of the tokens that the transformer is shown as they are; the others are random
    codes. The text is never dropped. The other fields are those of `StagedTrainConfig`.
    """

    STAGES = STAGES
    BETAS = {"gpt": (0.5, 0.9)}

    rvq: Stage = Stage(0.5, 256, warmup=0.0033, milestones=(0.67,), decay=0.05)
    gpt: Stage = Stage(0.5, 128, 1e-4, 1e-6, warmup=0.0, milestones=(0.5,), decay=0.05)
    keep: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.keep <= 1:
            raise InputError(
                "T2MGPTTrainConfig: keep", str(self.keep), "a share of 0 to 1", "T2M-GPT uses 0.5."
            )
        if any(self.stage(name).text_dropout for name in STAGES):
            raise InputError(
                "T2MGPTTrainConfig: text_dropout", "more than 0", "0",
                "T2M-GPT has no guidance and is always trained with its text.",
            )  # fmt: skip


def plain_training(
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int = 0,
    *,
    ema_decay: float = 0.0,
    checkpoint_every: int = 500,
    validate_every: int = 0,
    early_stopping: bool = False,
) -> T2MGPTTrainConfig:
    """A short training: one batch size and one rate in both stages (`short_stage`).

    ema_decay, checkpoint_every, validate_every: see `StagedTrainConfig`.
    """
    stage = short_stage(0.5, batch_size, learning_rate)
    return T2MGPTTrainConfig(
        steps,
        rvq=stage,
        gpt=stage,
        ema_decay=ema_decay,
        checkpoint_every=checkpoint_every,
        validate_every=validate_every,
        early_stopping=early_stopping,
        seed=seed,
    )


def refinement(
    steps: int,
    batch_size: int,
    learning_rate: float,
    weights: LossWeights,
    seed: int = 0,
    *,
    ema_decay: float = 0.0,
    checkpoint_every: int = 500,
    validate_every: int = 0,
    early_stopping: bool = False,
) -> T2MGPTTrainConfig:
    """Fine-tuning of the decoder alone, with L_acc where `weights.acc` is above 0.

    Encoder and codebook stay, so that tokens keep their meaning and the transformer still fits.
    ema_decay: of the decoder's weights; it and the others: see `StagedTrainConfig`.
    """
    return T2MGPTTrainConfig(
        steps,
        rvq=short_stage(1.0, batch_size, learning_rate),
        gpt=Stage(0.0),
        weights=weights,
        decoder_only=True,
        ema_decay=ema_decay,
        checkpoint_every=checkpoint_every,
        validate_every=validate_every,
        early_stopping=early_stopping,
        seed=seed,
    )


def train(
    prior: T2MGPTPrior,
    clips: Sequence[MotionClip],
    config: T2MGPTTrainConfig,
    out_dir: Path,
    validation: Sequence[MotionClip] = (),
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> tuple[T2MGPTPrior, pd.DataFrame]:
    """Train a copy of `prior` on `clips`; returns it and its loss curves (see `train_stages`).

    Reconstruction is compared on whole clips; `total` and `accuracy` of the transformer are
    cross-entropy and share of right predictions, in validation with the tokens as they are.
    `out_dir` keeps the state of each stage: the same call goes on where it was interrupted, bit for
    bit on a CPU.

    Raises:
        InputError: unusable clips, a damaged state file, or a loss that is no longer finite.
    """
    return train_stages(
        prior, clips, config, _task, out_dir, "t2mgpt", validation, progress, device
    )


def gpt_losses(
    model: TokenGPT,
    tokens: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    text: Float[Tensor, "B W"],
    shown: Int[Tensor, "B N"],
) -> tuple[Float[Tensor, "B N+1"], Bool[Tensor, "B N+1"], Bool[Tensor, "B N+1"]]:
    """Cross-entropy of every token and of the end, which are predicted best, and which count.

    shown: what the model reads in place of `tokens`. `valid` is a prefix of each row. Padding does
    not count, nor does the end of a motion of `max_tokens`: it may have been cut there, and
    sampling goes no further.
    """
    places = torch.arange(tokens.shape[1] + 1, device=tokens.device)
    counts = valid.sum(1, keepdim=True)
    targets = F.pad(tokens, (0, 1)).masked_fill(places >= counts, model.end_id)
    counted = (places <= counts) & (places < model.config.max_tokens)
    logits = model(shown, text)
    loss = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return loss, logits.argmax(-1) == targets, counted


def corrupted(
    tokens: Int[Tensor, "B N"], codes: int, keep: float, rng: np.random.Generator
) -> Int[Tensor, "B N"]:
    """Tokens of which a share of about 1 - `keep` are replaced by any of the codes."""
    kept = torch.from_numpy(rng.random(tokens.shape) < keep)
    others = torch.from_numpy(rng.integers(0, codes, tokens.shape))
    return torch.where(kept.to(tokens.device), tokens, others.to(tokens.device))


def _task(config: T2MGPTTrainConfig, name: str, data: TokenData, held_out: TokenData) -> TokenTask:
    batch_size = config.stage(name).batch_size

    def validate(averaged: TokenGPT) -> dict[str, float]:
        return gpt_validation(averaged, held_out, batch_size)

    return TokenTask(_losses(data, batch_size, config.keep, config.seed), validate, (config.keep,))


def _losses(
    data: TokenData, batch_size: int, keep: float, seed: int
) -> Callable[[TokenGPT, int], dict[str, Tensor]]:
    def losses(model: TokenGPT, step: int) -> dict[str, Tensor]:
        device = next(model.parameters()).device
        tokens, valid, text = (x.to(device) for x in data.step(batch_size, seed, step))
        tokens = tokens[..., 0]
        rng = np.random.default_rng([seed, CORRUPTION, step])
        shown = corrupted(tokens, model.config.codes, keep, rng)
        loss, right, counted = gpt_losses(model, tokens, valid, text, shown)
        # Every motion counts alike, however long it is.
        total = ((loss * counted).sum(1) / counted.sum(1)).mean()
        return {"total": total, "accuracy": right[counted].float().mean()}

    return losses


@torch.no_grad()
def gpt_validation(model: TokenGPT, data: TokenData, batch_size: int) -> dict[str, float]:
    """Cross-entropy ("total") and accuracy on clips from their first frame on, with their text.

    Averaged over predictions. The model is shown the tokens as they are.
    """
    device = next(model.parameters()).device
    total = hits = predictions = 0.0
    for _, batch in data.whole(batch_size):
        tokens, valid, text = (x.to(device) for x in batch)
        tokens = tokens[..., 0]
        loss, right, counted = gpt_losses(model.eval(), tokens, valid, text, tokens)
        total, hits = total + float(loss[counted].sum()), hits + float(right[counted].sum())
        predictions += int(counted.sum())
    return {"total": total / predictions, "accuracy": hits / predictions}


FORMAT = "t2imu-t2mgpt-1"
OFFICIAL = "Take the files that the official download scripts fetch, as they are."
# Network: its file below the official folder, and the key that its weights stand under.
FILES = {
    "rvq": ("pretrained/VQVAE/net_last.pth", "net"),
    "gpt": ("pretrained/VQTransformer_corruption05/net_best_fid.pth", "trans"),
}
META = "checkpoints/t2m/VQVAEV3_CB1024_CMT_H1024_NRES3/meta"
PREFIX = "vqvae."
# Our name of the codebook, and the official one.
CODEBOOK = ("quantizer.layers.0.codebook", "quantizer.codebook")
UNUSED = "trans_base.pos_embedding.weight"
IGNORED = (".attn.mask", UNUSED)


def save_t2mgpt(path: Path, prior: T2MGPTPrior) -> Path:
    """Write a prior into one file (see `prior_files`)."""
    state = {
        f"{name}.{key}": x for name in FILES for key, x in getattr(prior, name).state_dict().items()
    }
    return write_own(path, FORMAT, state, prior, {"config": asdict(prior.config)})


def load_t2mgpt(
    path: Path,
    text_encoder: TextEncoder | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> T2MGPTPrior:
    """Read a prior that `save_t2mgpt` wrote, in evaluation mode.

    text_encoder: the encoder to use; None loads the one that the prior names, with what it computes
    kept in `cache`.

    Raises:
        InputError: no such file, a damaged one, parameters that do not fit the file's own
            configuration (all are listed), or another text encoder than that of the training.
    """
    path = Path(path)
    tensors, about = read_own(path, FORMAT)
    config = _config(path, about["config"])
    text_encoder = same_encoder(path, about, text_encoder, cache)
    networks = _empty(config)
    wanted = {
        f"{name}.{key}": tuple(x.shape)
        for name, network in networks.items()
        for key, x in network.state_dict().items()
    } | statistics_shapes(config.channels)
    check_parameters(path, tensors, wanted, f"those of {config}", REMEDY)
    normaliser = take_statistics(tensors)
    for name, network in networks.items():
        _fill(network, {key: tensors[f"{name}.{key}"] for key in network.state_dict()}, device)
    return T2MGPTPrior(
        config,
        normaliser=normaliser,
        text_encoder=text_encoder,
        history=about["history"],
        velocity_weight=about["velocity_weight"],
        **networks,
    )


def read_t2mgpt(
    folder: Path,
    text_encoder: TextEncoder | None = None,
    config: T2MGPTConfig | None = None,
    device: torch.device | str = "cpu",
) -> T2MGPTPrior:
    """Read the official checkpoints of a folder (see above), in evaluation mode.

    text_encoder: CLIP; None loads the one below the data root. config: sizes, None for the official
    ones. Mean and standard deviation are read, never computed. Causal masks and a table of
    positions that the original does not use are passed over; the table that it uses is read.
    `history` names the files by their hashes.

    Raises:
        InputError: a file that is missing, damaged, or would run code, or parameters of other
            names and shapes (all are listed, by file).
    """
    folder = Path(folder)
    text_encoder = official_encoder(folder, text_encoder)
    config = fitted(config or T2MGPTConfig(), text_encoder.pooled_width)
    networks, entry = _empty(config), {"official": "T2M-GPT", "files": {}}
    for name, network in networks.items():
        path = folder / FILES[name][0]
        _, weights = read_official(path, (FILES[name][1],), OFFICIAL)
        weights = {str(k): x for k, x in weights.items() if not str(k).endswith(IGNORED)}
        names = _official_names(network)
        state = network.state_dict()
        wanted = {official: tuple(state[key].shape) for key, official in names.items()}
        check_parameters(path, weights, wanted, f"{name} of T2M-GPT", OFFICIAL)
        _fill(network, {key: weights[official] for key, official in names.items()}, device)
        entry["files"][name] = {"sha256": sha256(path)}
    return T2MGPTPrior(
        config,
        normaliser=read_statistics(folder / META, OFFICIAL),
        text_encoder=text_encoder,
        history=[entry],
        **networks,
    )


def write_t2mgpt(folder: Path, prior: T2MGPTPrior) -> Path:
    """Write weights and statistics in the official layout; returns the folder.

    Running sums of the codebook have no place in it.

    Raises:
        InputError: the folder already holds such files.
    """
    folder = Path(folder)
    refuse_overwriting(folder, (file for file, _ in FILES.values()))
    for name, (file, key) in FILES.items():
        state = official_state(getattr(prior, name))
        with atomic_write(folder / file) as temporary:
            torch.save({key: {k: x.float().cpu().clone() for k, x in state.items()}}, temporary)
    write_statistics(folder / META, prior.normaliser)
    return folder


def official_state(network: RVQ | TokenGPT) -> dict[str, Tensor]:
    """All that the official file of a network holds, by its names there.

    Of the transformer also what is the same in every file (causal masks), and zeros for the table
    of positions that the original does not use: it asks for them all the same.
    """
    state = network.state_dict()
    official = {name: state[key].detach() for key, name in _official_names(network).items()}
    if isinstance(network, TokenGPT):
        table = state["trans_base.pos_embed.embed"]
        mask = table.new_ones(len(table), len(table)).tril()[None, None]
        names = [name for name, _ in network.named_modules() if name.endswith(".attn")]
        official |= {f"{name}.mask": mask for name in names}
        official[UNUSED] = torch.zeros_like(table[:, 0])
    return official


def _official_names(network: RVQ | TokenGPT) -> dict[str, str]:
    """Our key to the official one, of what is read from official files."""
    keys = [k for k in network.state_dict() if not k.endswith(("code_sum", "code_count"))]
    if isinstance(network, TokenGPT):
        return {key: key for key in keys}
    return {key: PREFIX + key.replace(*CODEBOOK) for key in keys}


def _empty(config: T2MGPTConfig) -> dict[str, Any]:
    """Networks without weights, which `_fill` puts there: drawing 228 million would take long."""
    with torch.device("meta"):
        return {"rvq": RVQ(config.rvq), "gpt": TokenGPT(config.transformer)}


def _fill(network: nn.Module, state: Mapping[str, Tensor], device: torch.device | str) -> None:
    network.load_state_dict(dict(state), assign=True)
    network.to(device).eval()


def _config(path: Path, values: dict[str, Any]) -> T2MGPTConfig:
    checked_fields(path, "config", values, T2MGPTConfig)
    parts = {"rvq": RVQConfig, "transformer": GPTConfig}
    built = {n: kind(**checked_fields(path, n, values[n], kind)) for n, kind in parts.items()}
    return T2MGPTConfig(**built)


def configuration(sizes: TokenSizes) -> T2MGPTConfig:
    """The sizes as T2M-GPT has them."""
    names = ("width", "layers", "heads", "feedforward", "dropout")
    chosen = {name: getattr(sizes, name) for name in names}
    width = sizes.tokeniser_width
    rvq = RVQConfig(
        width=width, code_width=width, codes=sizes.codes, levels=1, dropout=0.0, temperature=0.0
    )
    return T2MGPTConfig(rvq, GPTConfig(**chosen))


class T2MGPTGenerator(TokenGenerator):
    """See the module."""

    Sizes = TokenSizes
    plain = staticmethod(plain_training)
    decoder_alone = staticmethod(refinement)
    run = staticmethod(train)

    def untrained(self, sizes, clips, encoder, seed):
        normaliser = Normaliser(*statistics([clip.features for clip in clips]))
        return new_t2mgpt(configuration(sizes), normaliser, encoder, seed)

    def published(self, folder: Path, sizes, encoder: TextEncoder) -> T2MGPTPrior:
        return read_t2mgpt(folder, encoder, None if sizes is None else configuration(sizes))

    def save(self, path: Path, prior: T2MGPTPrior) -> list[Path]:
        return [save_t2mgpt(path, prior)]

    def load(self, path: Path, encoder: TextEncoder | None = None) -> T2MGPTPrior:
        return load_t2mgpt(path, encoder)

    def generate(
        self, prior, prompts, frames, seeds, guidance, batch_size, device, progress=True
    ):  # fmt: skip
        return generate(prior, prompts, frames, seeds, guidance, batch_size, device, progress)


GENERATOR = T2MGPTGenerator()
