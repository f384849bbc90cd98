"""T2M-GPT (Zhang et al., CVPR 2023): the tokens of a motion one after another, from a text.

A causal transformer reads one pooled text vector and the tokens so far; from its logits the next
token is drawn, or the end. A tokeniser with one codebook turns tokens of four frames into features.
Parameters carry the names of the official checkpoint, so that it loads as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256
from t2imu_utils.models import checkpoints
from t2imu_utils.models.mdm import sinusoids
from t2imu_utils.models.text import TextEncoder
from t2imu_utils.models.tokeniser import (
    RVQ,
    STRIDE,
    RVQConfig,
    Stage,
    TokenData,
    TokenGenerator,
    TokenSizes,
    in_tokens,
    new_rvq,
    new_transformer,
    token_validation,
)
from t2imu_utils.models.trainer import TrainConfig
from t2imu_utils.motion.corpus import Normaliser, statistics

# Keys and values of one block at all places so far, (B, heads, places, width / heads) each.
Past = tuple[Tensor, Tensor]
# Share of the tokens that the transformer is shown as they are in training; the others are random
# codes. (The text is never dropped.)
KEEP = 0.5
# Which of the random streams of a seed.
CORRUPTION = 13
FORMAT = "t2imu-t2mgpt-1"
OFFICIAL = "Take the files that the official download scripts fetch, as they are."
# Network: its file below the official folder, and the keys its weights may stand under.
FILES = {
    "rvq": ("pretrained/VQVAE/net_last.pth", ("net",)),
    "gpt": ("pretrained/VQTransformer_corruption05/net_best_fid.pth", ("trans",)),
}
# mean.npy and std.npy, with which it was trained: of the evaluator that the scripts fetch.
META = "checkpoints/t2m/VQVAEV3_CB1024_CMT_H1024_NRES3/meta"
# Our name of the codebook, and the official one.
CODEBOOK = ("quantizer.layers.0.codebook", "quantizer.codebook")
# What else an official file holds: causal masks, and a table of positions that is not used.
UNUSED = "trans_base.pos_embedding.weight"
IGNORED = (".attn.mask", UNUSED)


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
        x = x + self.trans_base.pos_embed.embed[first : first + x.shape[1], 0]
        blocks = [*self.trans_base.blocks, *self.trans_head.blocks]
        kept = []
        for i, block in enumerate(blocks):
            x, now = block(x, None if past is None else past[i])
            kept.append(now)
        return self.trans_head.head(self.trans_head.ln_f(x)), kept


def _one_level() -> RVQConfig:
    return RVQConfig(levels=1, dropout=0.0, temperature=0.0)


@dataclass(frozen=True)
class T2MGPTConfig:
    """Sizes of a T2M-GPT; the defaults are the official ones.

    rvq: the tokeniser, of one level. transformer: its text_width and codes are set by `new_t2mgpt`.
    """

    rvq: RVQConfig = field(default_factory=_one_level)
    transformer: GPTConfig = field(default_factory=GPTConfig)

    @property
    def max_frames(self) -> int:
        """The longest motion the model is asked for (20 fps)."""
        return STRIDE * self.transformer.max_tokens


@dataclass
class T2MGPTPrior:
    """The networks of T2M-GPT, the statistics of its features, its text encoder.

    history, velocity_weight: as of `mdm.Prior`.
    """

    config: T2MGPTConfig
    rvq: RVQ
    gpt: TokenGPT
    normaliser: Normaliser
    text_encoder: TextEncoder
    history: list[dict[str, Any]] = field(default_factory=list)
    velocity_weight: float | list[float] = 0.0


def new_t2mgpt(
    config: T2MGPTConfig, normaliser: Normaliser, text_encoder: TextEncoder, seed: int
) -> T2MGPTPrior:
    """An untrained T2M-GPT; the transformer's text_width and codes are set to fit."""
    config = fitted(config, text_encoder.pooled_width)
    rvq, gpt = new_rvq(config.rvq, seed).eval(), new_transformer(TokenGPT, config.transformer, seed)
    return T2MGPTPrior(config, rvq, gpt, normaliser, text_encoder)


def fitted(config: T2MGPTConfig, text_width: int) -> T2MGPTConfig:
    """`config` with a transformer that fits its tokeniser and the pooled text."""
    sizes = {"text_width": text_width, "codes": config.rvq.codes}
    return replace(config, transformer=replace(config.transformer, **sizes))


@torch.inference_mode()
def generate(
    prior: T2MGPTPrior,
    prompts: Sequence[str],
    frames: Sequence[int],
    seeds: Sequence[int],
    guidance: float | None = None,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> list[Float[np.ndarray, "T 263"]]:
    """One motion for each prompt, as raw (de-normalised) features at 20 fps, in order.

    T2M-GPT chooses lengths itself: it draws an end among the tokens. To make as many frames as are
    asked for, the end is never drawn; where their number is no multiple of 4, the tokens above it
    are made and the motion is cut. Else as `mdm.generate`. guidance: None or 1, since T2M-GPT is
    not trained without texts and has none.
    """
    if guidance is not None and guidance != 1:
        raise InputError(
            "guidance", f"{guidance:g}", "None or 1",
            "T2M-GPT has no guidance: it is not trained without texts.",
        )  # fmt: skip
    gpt = prior.gpt.to(device).eval()
    prior.rvq.to(device).eval()

    def draw(text: Tensor, counts: list[int], generators: list[torch.Generator]) -> list[Tensor]:
        return [tokens[:, None] for tokens in sample_tokens(gpt, text, generators, counts)]

    return in_tokens(prior, prompts, frames, seeds, batch_size, device, progress, draw)


@torch.inference_mode()
def sample_tokens(
    model: TokenGPT,
    text: Float[Tensor, "B W"],
    generators: Sequence[torch.Generator],
    lengths: Sequence[int],
) -> list[Int[Tensor, "N"]]:
    """Tokens of a motion for each pooled text, on the CPU, drawn by their probability.

    lengths: numbers of tokens, 1 or more. Every item draws from its own generator, for each token
    as many numbers.
    """
    made: list[list[int]] = [[] for _ in lengths]
    items = list(range(len(lengths)))  # those that still grow; the others leave the batch
    logits, past = model.start(text)
    while True:
        logits[:, model.end_id] = -torch.inf
        drawn = _draw(logits, [generators[i] for i in items])
        for i, token in zip(items, drawn.tolist(), strict=True):
            made[i].append(token)
        going = [row for row, i in enumerate(items) if len(made[i]) < lengths[i]]
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


def task(name: str, config: TrainConfig, data: TokenData, held_out: TokenData):
    """How the transformer is trained on tokens (`tokeniser.TokenTask`)."""

    def losses(model: TokenGPT, step: int, part: int, parts: int) -> dict[str, Tensor]:
        device = next(model.parameters()).device
        batch = data.step(config.batch_size, config.seed, step)
        tokens, valid, text = (x.to(device) for x in batch)
        tokens = tokens[..., 0]
        rng = np.random.default_rng([config.seed, CORRUPTION, step])
        shown = corrupted(tokens, model.config.codes, KEEP, rng)
        loss, right, counted = gpt_losses(model, tokens, valid, text, shown)
        # Every motion counts alike, however long it is.
        total = ((loss * counted).sum(1) / counted.sum(1)).mean()
        return {"total": total, "accuracy": right[counted].float().mean()}

    def validate(model: TokenGPT) -> dict[str, float]:
        def terms(first: int, items: Any, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
            # The model is shown the tokens as they are.
            tokens, valid, text = (x.to(next(model.parameters()).device) for x in batch)
            loss, right, counted = gpt_losses(
                model.eval(), tokens[..., 0], valid, text, tokens[..., 0]
            )
            return loss[counted], right[counted]

        return token_validation(held_out, config.batch_size, terms)

    return losses, validate


# ---------------------------------------------------------------- files
def _networks(config: T2MGPTConfig) -> dict[str, nn.Module]:
    """Networks without weights, which files put there: drawing 228 million would take long."""
    with torch.device("meta"):
        return {"rvq": RVQ(config.rvq), "gpt": TokenGPT(config.transformer)}


def _official(network: nn.Module):
    """Our key -> the official one."""
    if isinstance(network, TokenGPT):
        return lambda key: key
    return lambda key: "vqvae." + key.replace(*CODEBOOK)


def read_t2mgpt(
    folder: Path,
    text_encoder: TextEncoder | None = None,
    config: T2MGPTConfig | None = None,
    device: torch.device | str = "cpu",
) -> T2MGPTPrior:
    """Read the checkpoints of the official release (`FILES`, `META`), in evaluation mode.

    Code: Apache License 2.0 (Mael-zys/T2M-GPT); the data that the weights were trained on keep
    their own terms.

    text_encoder: CLIP; None loads the one below the data root. config: sizes, None for the official
    ones. Mean and standard deviation are read, never computed. `history` names the files by their
    hashes.
    """
    folder = Path(folder)
    text_encoder = checkpoints.official_encoder(folder, text_encoder)
    config = fitted(config or T2MGPTConfig(), text_encoder.pooled_width)
    networks, entry = _networks(config), {"official": "T2M-GPT", "files": {}}
    for name, network in networks.items():
        file, keys = FILES[name]
        checkpoints.load_official(
            folder / file, network, keys, f"{name} of T2M-GPT", OFFICIAL, _official(network),
            lambda key: key.endswith(IGNORED),
        )  # fmt: skip
        network.to(device)
        entry["files"][name] = {"sha256": sha256(folder / file)}
    normaliser = checkpoints.read_statistics(folder / META, OFFICIAL)
    return T2MGPTPrior(
        config, normaliser=normaliser, text_encoder=text_encoder, history=[entry], **networks
    )


# ---------------------------------------------------------------- the family
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
    networks = ("rvq", "gpt")
    stages = (Stage("rvq", 0.5), Stage("gpt", 0.5, (0.5, 0.9)))
    task = staticmethod(task)

    def untrained(self, sizes, clips, encoder, seed):
        normaliser = Normaliser(*statistics([clip.features for clip in clips]))
        return new_t2mgpt(configuration(sizes), normaliser, encoder, seed)

    def published(self, folder, sizes, encoder):
        return read_t2mgpt(folder, encoder, None if sizes is None else configuration(sizes))

    def save(self, path, prior):
        held = {name: getattr(prior, name) for name in FILES}
        return [checkpoints.save(path, FORMAT, held, prior)]

    def load(self, path, encoder=None):
        networks, common, about = checkpoints.load(
            path, (FORMAT,), T2MGPTConfig, lambda config, _: _networks(config), encoder
        )
        return T2MGPTPrior(about["config"], **networks, **common)

    generate = staticmethod(generate)


GENERATOR = T2MGPTGenerator()
