"""T2M-GPT (Zhang et al., CVPR 2023): the tokens of a motion one after another, from a text.

A causal transformer reads one pooled text vector and the tokens so far; from its logits the next
token is drawn, or the end. A tokeniser with one codebook turns tokens of four frames into features.
Parameters carry the names of the official checkpoint, so that it loads as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.priors.mdm import sinusoids
from t2imu_utils.priors.requests import check_requests
from t2imu_utils.priors.rvq import RVQ, STRIDE, RVQConfig, detokenise, new_rvq
from t2imu_utils.priors.text import TextEncoder

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
