"""T2M-GPT (Zhang et al., CVPR 2023): the tokens of a motion one after another, from a text.

A causal transformer reads one pooled text vector and the tokens so far; from its logits the next
token is drawn, or the end. A tokeniser with one codebook turns tokens of four frames into features.
Parameters carry the names of the official checkpoint, so that it loads as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from t2imu_utils.errors import InputError
from t2imu_utils.models.mdm import sinusoids
from t2imu_utils.models.tokeniser import RVQ, STRIDE, RVQConfig
from t2imu_utils.models.tokens import Stage, TokenGenerator, TokenSizes, drawn_codes

# Keys and values of one block at all places so far, (B, heads, places, width / heads) each.
Past = tuple[Tensor, Tensor]
# Share of the tokens that the transformer is shown as they are in training; the others are random
# codes. (The text is never dropped.)
KEEP = 0.5
# Network: its file below the official folder, and the keys its weights may stand under.
FILES = {
    "rvq": ("pretrained/VQVAE/net_last.pth", ("net",)),
    "gpt": ("pretrained/VQTransformer_corruption05/net_best_fid.pth", ("trans",)),
}
# mean.npy and std.npy, with which it was trained: of the evaluator that the scripts fetch.
META = "checkpoints/t2m/VQVAEV3_CB1024_CMT_H1024_NRES3/meta"
# Our name of the codebook, and the official one.
CODEBOOK = ("quantizer.layers.0.codebook", "quantizer.codebook")
# A table of positions that an official file holds beside causal masks, and that is not used.
UNUSED = "trans_base.pos_embedding.weight"


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


@dataclass(frozen=True)
class T2MGPTConfig:
    """Sizes of a T2M-GPT; the defaults are the official ones.

    rvq: the tokeniser, of one level. transformer: its text_width and codes are set to fit.
    """

    rvq: RVQConfig = RVQConfig(levels=1, dropout=0.0, temperature=0.0)
    transformer: GPTConfig = field(default_factory=GPTConfig)

    @property
    def max_frames(self) -> int:
        return STRIDE * self.transformer.max_tokens


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
        own = [generators[i] for i in items]
        drawn = drawn_codes(logits[:, None], [1] * len(items), own, top=1.0)[:, 0]
        for i, token in zip(items, drawn.tolist(), strict=True):
            made[i].append(token)
        going = [row for row, i in enumerate(items) if len(made[i]) < lengths[i]]
        if not going:
            return [torch.tensor(tokens) for tokens in made]
        if len(going) < len(items):
            items = [items[row] for row in going]
            drawn, past = drawn[going], [(key[going], value[going]) for key, value in past]
        logits, past = model.follow(drawn, past)


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


def losses(model, tokens, valid, text, rng, times=None):
    """Of the transformer (see `TokenGenerator`); in validation it is shown the tokens as they are.

    Every motion counts alike, however long it is.
    """
    tokens = shown = tokens[..., 0]
    if times is None:
        kept = torch.from_numpy(rng.random(tokens.shape) < KEEP).to(tokens.device)
        others = torch.from_numpy(rng.integers(0, model.config.codes, tokens.shape))
        shown = torch.where(kept, tokens, others.to(tokens.device))
    loss, right, counted = gpt_losses(model, tokens, valid, text, shown)
    total = ((loss * counted).sum(1) / counted.sum(1)).mean()
    return total, loss[counted], right[counted]


# ---------------------------------------------------------------- the family
class T2MGPTGenerator(TokenGenerator):
    """See the module.

    T2M-GPT chooses lengths itself: it draws an end among the tokens. To make as many frames as are
    asked for, the end is never drawn. Code: Apache License 2.0 (Mael-zys/T2M-GPT); the data that
    the weights were trained on keep their own terms.
    """

    Sizes, Config = TokenSizes, T2MGPTConfig
    format, stream = "t2imu-t2mgpt-1", 13
    stages = (Stage("rvq", 0.5), Stage("gpt", 0.5, (0.5, 0.9)))
    files, meta = FILES, META
    remedy = "Take the files that the official download scripts fetch, as they are."
    losses = staticmethod(losses)

    def parts(self, config):
        return {"rvq": partial(RVQ, config.rvq), "gpt": partial(TokenGPT, config.transformer)}

    def configuration(self, sizes):
        width = sizes.tokeniser_width
        rvq = {"levels": 1, "dropout": 0.0, "temperature": 0.0, "codes": sizes.codes}
        rvq = RVQConfig(width=width, code_width=width, **rvq)
        return T2MGPTConfig(rvq, GPTConfig(**sizes.of_transformer()))

    def ignored(self, key):
        return key.endswith((".attn.mask", UNUSED))

    def official(self, name, key):
        return key if name == "gpt" else "vqvae." + key.replace(*CODEBOOK)

    def draw(self, prior, text, counts, generators, guidance):
        if guidance is not None and guidance != 1:
            raise InputError(
                "guidance", f"{guidance:g}", "None or 1",
                "T2M-GPT has no guidance: it is not trained without texts.",
            )  # fmt: skip
        made = sample_tokens(prior.networks["gpt"], text, generators, counts)
        return [tokens[:, None] for tokens in made]


GENERATOR = T2MGPTGenerator()
