"""MoMask (Guo et al., CVPR 2024): masked tokens of a residual tokeniser, filled in from a text.

Motions are made in tokens of four frames. The first level is filled in over a few passes, the
surest tokens first; the other levels follow in one pass each; the tokeniser turns the sum of their
codes into features. Both transformers read one pooled text vector as an extra token. Parameters
carry the names of the official checkpoints, so that those load as they are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from t2imu_utils.models.diffusion import with_guidance
from t2imu_utils.models.mdm import MDMConfig, Stack, key_bias, sinusoids
from t2imu_utils.models.tokeniser import RVQ, STRIDE, RVQConfig
from t2imu_utils.models.tokens import Stage, TokenGenerator, TokenPrior, TokenSizes, drawn_codes
from t2imu_utils.models.trainer import prefix
from t2imu_utils.tracks import Count

# Score of a token that stays: higher than any probability.
KEPT = 1e5
# Share of items that are trained without their text.
TEXT_DROPOUT = {"mask": 0.1, "residual": 0.2}
# Of the masked tokens, so many are replaced by a random code; of the rest, so many by the mask.
RANDOM, MASKED = 0.1, 0.88
RVQ_FOLDER = "rvq_nq6_dc512_nc512_noshare_qdp0.2"
# Network: its file below the official folder, and the keys its weights may stand under.
FILES = {
    "rvq": (f"{RVQ_FOLDER}/model/net_best_fid.tar", ("vq_model", "net")),
    "mask": (
        "t2m_nlayer8_nhead6_ld384_ff1024_cdp0.1_rvq6ns/model/latest.tar",
        ("t2m_transformer", "trans"),
    ),
    "residual": (
        "tres_nlayer8_ld384_ff1024_rvq6ns_cdp0.2_sw/model/net_best_fid.tar",
        ("res_transformer",),
    ),
}


@dataclass(frozen=True)
class TokenTransformerConfig:
    """Sizes of either transformer; the defaults are those of the official checkpoints.

    codes, levels: of the tokeniser. token_width: of the learned embedding of a token. max_tokens:
    of the longest motion.
    """

    codes: int = 512
    levels: int = 6
    token_width: int = 512
    text_width: int = 512
    width: int = 384
    layers: int = 8
    heads: int = 6
    feedforward: int = 1024
    dropout: float = 0.2
    max_tokens: int = 49

    def stack(self) -> MDMConfig:
        """Sizes of the transformer itself, which has the layers of MDM's encoder."""
        return MDMConfig(
            "trans_enc", self.layers, self.width, self.heads, self.feedforward, self.dropout
        )


class _Head(nn.Module):
    def __init__(self, width: int, out: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.poseFinal = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.poseFinal(self.LayerNorm(F.gelu(self.dense(x))))


class _Trunk(nn.Module):
    """Embedded tokens behind prefix tokens, through the layers, to one vector a token."""

    def __init__(self, config: TokenTransformerConfig, out: int):
        super().__init__()
        self.config = config
        self.input_process = nn.ModuleDict(
            {"poseEmbedding": nn.Linear(config.token_width, config.width)}
        )
        self.seqTransEncoder = Stack(config.stack())
        self.cond_emb = nn.Linear(config.text_width, config.width)
        self.output_process = _Head(config.width, out)
        table = sinusoids(config.max_tokens, config.width)
        self.register_buffer("positions", table, persistent=False)

    def _text_token(
        self, text: Float[Tensor, "B W"], drop_text: Bool[Tensor, "B"] | None
    ) -> Float[Tensor, "B 1 C"]:
        if drop_text is not None:
            text = text.masked_fill(drop_text[:, None], 0.0)
        return self.cond_emb(text)[:, None]

    def _run(
        self, embedded: Float[Tensor, "B N E"], prefix: list[Tensor], valid: Bool[Tensor, "B N"]
    ) -> Float[Tensor, "B N out"]:
        placed = self.input_process["poseEmbedding"](embedded)
        placed = placed + self.positions[: embedded.shape[1]]
        placed = F.dropout(placed, self.config.dropout, self.training)
        sequence = torch.cat([*prefix, placed], dim=1)
        bias = key_bias(F.pad(valid, (len(prefix), 0), value=True), sequence)
        hidden = self.seqTransEncoder(sequence, bias, None, None)
        return self.output_process(hidden[:, len(prefix) :])


class MaskTransformer(_Trunk):
    """Predicts tokens of the first level from those that are not masked, and a text."""

    def __init__(self, config: TokenTransformerConfig):
        super().__init__(config, config.codes)
        self.mask_id, self.pad_id = config.codes, config.codes + 1
        self.token_emb = nn.Embedding(config.codes + 2, config.token_width)

    def forward(
        self,
        tokens: Int[Tensor, "B N"],
        text: Float[Tensor, "B W"],
        valid: Bool[Tensor, "B N"],
        drop_text: Bool[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B N K"]:
        """Logits of the K codes at every position.

        tokens: codes, or `mask_id`; what stands where `valid` (a prefix of each row) is false does
        not matter. text: pooled. drop_text: items whose text is replaced by zeros.
        """
        tokens = tokens.masked_fill(~valid, self.pad_id)
        return self._run(self.token_emb(tokens), [self._text_token(text, drop_text)], valid)


class ResidualTransformer(_Trunk):
    """Predicts the tokens of a level from those of the levels below, and a text.

    The table that embeds a level's tokens is the one that predicts them, except at the first level
    (embedded only) and at the last (predicted only).
    """

    def __init__(self, config: TokenTransformerConfig):
        super().__init__(config, config.token_width)
        classes, width = config.codes + 1, config.token_width
        self.pad_id = config.codes
        shared = torch.empty(config.levels - 2, classes, width)
        self.embed_proj_shared_weight = nn.Parameter(shared)
        self.token_embed_weight_ = nn.Parameter(torch.empty(1, classes, width))
        self.output_proj_weight_ = nn.Parameter(torch.empty(1, classes, width))
        self.quant_emb = nn.Linear(config.levels, config.width)

    def forward(
        self,
        tokens: Int[Tensor, "B N Q"],
        level: Int[Tensor, "B"],
        text: Float[Tensor, "B W"],
        valid: Bool[Tensor, "B N"],
        drop_text: Bool[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B N K+1"]:
        """Logits of the K codes, and of the pad class, which is never to be sampled.

        tokens: those below `level` are read; the rest, and what stands where `valid` (a prefix of
        each row) is false, does not matter. level: 1 to Q - 1, for each item. text: pooled.
        drop_text: items whose text is replaced by zeros.
        """
        config = self.config
        below = torch.arange(config.levels - 1, device=tokens.device) < level[:, None]
        # Ids of padding first: levels that are not read may hold anything, -1 among it.
        read = below[:, None] & valid[..., None]
        tokens = tokens[..., : config.levels - 1]
        if tokens.shape[-1] < config.levels - 1:
            tokens = F.pad(tokens, (0, config.levels - 1 - tokens.shape[-1]))
        tokens = tokens.masked_fill(~read, self.pad_id)
        tables = torch.cat([self.token_embed_weight_, self.embed_proj_shared_weight])
        first = torch.arange(len(tables), device=tokens.device) * tables.shape[1]
        embedded = F.embedding(tokens + first, tables.flatten(0, 1))
        history = (embedded * below[:, None, :, None]).sum(2)
        which = F.one_hot(level, config.levels).to(history.dtype)
        prefix = [self._text_token(text, drop_text), self.quant_emb(which)[:, None]]
        hidden = self._run(history, prefix, valid)
        outputs = torch.cat([self.embed_proj_shared_weight, self.output_proj_weight_])
        return hidden @ outputs[level - 1].transpose(1, 2)


@dataclass(frozen=True)
class MoMaskConfig:
    """Sizes of a MoMask and how it is sampled; the defaults are the official ones.

    transformer: of the mask and of the residual transformer; its text_width, codes and levels are
    set to fit (`TokenGenerator.new`). iterations: passes that fill in the first level (10 in the
    published evaluation, 18 in the published demo). guidance, residual_guidance: of the two
    transformers. top: share of the codes that are drawn from.
    """

    rvq: RVQConfig = field(default_factory=RVQConfig)
    transformer: TokenTransformerConfig = field(default_factory=TokenTransformerConfig)
    iterations: int = 10
    guidance: float = 4.0
    residual_guidance: float = 5.0
    top: float = 0.1

    @property
    def max_frames(self) -> int:
        return STRIDE * self.transformer.max_tokens


@torch.inference_mode()
def sample_codes(
    prior: TokenPrior,
    text: Float[Tensor, "B W"],
    lengths: Sequence[int],
    generators: Sequence[torch.Generator],
    guidance: float | None = None,
) -> Int[Tensor, "B N Q"]:
    """Codes of all levels for pooled texts; 0 behind an item's own number of tokens.

    Every item draws from its own generator, as often as its length asks for.
    """
    config = prior.config
    first = config.guidance if guidance is None else guidance
    rest = config.residual_guidance if guidance is None else guidance
    mask, residual = prior.networks["mask"], prior.networks["residual"]
    base = fill_masked(mask, text, lengths, generators, first, config.iterations, config.top)
    valid = prefix(lengths).to(text.device)
    codes = torch.zeros(*base.shape, config.rvq.levels, dtype=torch.long, device=text.device)
    codes[..., 0] = base
    for level in range(1, config.rvq.levels):
        which = torch.full((len(text),), level, device=text.device)
        logits = with_guidance(residual, (codes, which, text, valid), rest)
        # The last class is padding: it is no code.
        codes[..., level] = drawn_codes(logits[..., :-1], lengths, generators, config.top)
    return codes.masked_fill(~valid[..., None], 0)


@torch.inference_mode()
def fill_masked(
    model: MaskTransformer,
    text: Float[Tensor, "B W"],
    lengths: Sequence[int],
    generators: Sequence[torch.Generator],
    guidance: float,
    iterations: int,
    top: float,
) -> Int[Tensor, "B N"]:
    """Tokens of the first level: mask all, fill in, mask the least sure again, and so on.

    The number masked falls along a quarter of a cosine (`masked_counts`). A token's sureness is
    its probability under the guided logits of the pass that drew it; one that was not masked again
    stays for good.
    """
    valid = prefix(lengths).to(text.device)
    tokens = torch.full(valid.shape, model.mask_id, device=text.device)
    scores = torch.zeros(valid.shape, device=text.device).masked_fill(~valid, KEPT)
    counts = torch.tensor([masked_counts(n, iterations) for n in lengths], device=text.device)
    for count in counts.T:
        rank = scores.argsort(dim=1, stable=True).argsort(dim=1)
        masked = rank < count[:, None]
        tokens = tokens.masked_fill(masked, model.mask_id)
        logits = with_guidance(model, (tokens, text, valid), guidance)
        drawn = drawn_codes(logits, lengths, generators, top)
        sure = logits.softmax(-1).gather(-1, drawn[..., None])[..., 0]
        tokens = torch.where(masked, drawn, tokens)
        scores = torch.where(masked, sure, KEPT)
    return tokens.masked_fill(~valid, 0)


def masked_counts(tokens: int, iterations: int) -> list[int]:
    """How many tokens of a motion are masked at each pass; all of them at the first, 1 at least."""
    shares = np.cos(np.linspace(0, 1, iterations) * math.pi / 2)
    return [max(int(count), 1) for count in np.round(shares * tokens)]


def mask_losses(
    model: MaskTransformer,
    tokens: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    text: Float[Tensor, "B W"],
    drop_text: Bool[Tensor, "B"],
    times: Float[np.ndarray, "B"],
    rng: np.random.Generator,
    corrupt: bool = True,
) -> tuple[Float[Tensor, "M"], Bool[Tensor, "M"]]:
    """Cross-entropy of masked tokens of the first level, and which of them are predicted best.

    times: of 0 to 1; a share of cos(pi time / 2) of an item's own tokens is masked, one at least
    (the original takes it of the padded length, which leaves short motions without a target now
    and then). corrupt: some masked tokens show a random code or themselves instead of the mask.
    """
    counts = valid.sum(1).cpu().numpy()
    wanted = np.maximum(np.round(np.cos(times * np.pi / 2) * counts), 1)
    # Padding ranks last, so that it is never among the masked.
    order = np.where(valid.cpu().numpy(), rng.random(valid.shape), 2.0)
    masked = torch.from_numpy(order.argsort(1).argsort(1) < wanted[:, None]).to(tokens.device)
    shown = tokens.masked_fill(masked, model.mask_id)
    if corrupt:
        dice, again = rng.random(valid.shape), rng.random(valid.shape)
        codes = rng.integers(0, model.config.codes, valid.shape)
        other = torch.from_numpy(dice < RANDOM).to(tokens.device)
        same = torch.from_numpy((dice >= RANDOM) & (again >= MASKED)).to(tokens.device)
        shown = torch.where(masked & other, torch.from_numpy(codes).to(tokens.device), shown)
        shown = torch.where(masked & same, tokens, shown)
    logits, targets = model(shown, text, valid, drop_text)[masked], tokens[masked]
    return F.cross_entropy(logits, targets, reduction="none"), logits.argmax(-1) == targets


def residual_losses(
    model: ResidualTransformer,
    tokens: Int[Tensor, "B N Q"],
    valid: Bool[Tensor, "B N"],
    text: Float[Tensor, "B W"],
    drop_text: Bool[Tensor, "B"],
    levels: Int[np.ndarray, "B"],
) -> tuple[Float[Tensor, "M"], Bool[Tensor, "M"]]:
    """Cross-entropy of an item's tokens of its level, and which of them are predicted best."""
    level = torch.from_numpy(levels).to(tokens.device)
    targets = tokens.gather(-1, level[:, None, None].expand(*valid.shape, 1))[..., 0][valid]
    logits = model(tokens, level, text, valid, drop_text)[valid]
    return F.cross_entropy(logits, targets, reduction="none"), logits.argmax(-1) == targets


def draw_levels(times: Float[np.ndarray, "B"], levels: int) -> Int[np.ndarray, "B"]:
    """Levels to be predicted, of 1 to levels - 1, for times of 0 to 1: low ones more often."""
    return np.round((1 - np.cos(times * np.pi / 2)) * (levels - 2)).astype(int) + 1


def losses(model, tokens, valid, text, rng, times=None):
    """Of either transformer (see `TokenGenerator`)."""
    masks, training = isinstance(model, MaskTransformer), times is None
    drop = np.zeros(len(tokens), dtype=bool)
    if training:
        drop = rng.random(len(tokens)) < TEXT_DROPOUT["mask" if masks else "residual"]
        times = rng.random(len(tokens))
    drop = torch.from_numpy(drop).to(tokens.device)
    if masks:
        given = tokens[..., 0], valid, text, drop, times, rng, training
        loss, right = mask_losses(model, *given)
    else:
        levels = draw_levels(times, model.config.levels)
        loss, right = residual_losses(model, tokens, valid, text, drop, levels)
    return loss.mean(), loss, right


# ---------------------------------------------------------------- the family
class Sizes(TokenSizes):
    """Sizes of the tokeniser and of both transformers."""

    levels: Count
    iterations: Count  # passes that fill in the first level


class MoMaskGenerator(TokenGenerator):
    """See the module.

    The official ``.tar`` files are PyTorch checkpoints, not archives. Code: MIT licence (Chuan Guo,
    2023); the data that the weights were trained on keep their own terms.
    """

    Sizes, Config = Sizes, MoMaskConfig
    format, stream = "t2imu-momask-1", 12
    stages = (Stage("rvq", 0.5), Stage("mask", 0.25), Stage("residual", 0.25))
    level_dropout = 0.2
    files, meta = FILES, f"{RVQ_FOLDER}/meta"
    remedy = "Take the files of the official release (checkpoints/t2m) as they are."
    losses = staticmethod(losses)

    def parts(self, config):
        sizes = config.transformer
        return {
            "rvq": partial(RVQ, config.rvq),
            "mask": partial(MaskTransformer, sizes),
            "residual": partial(ResidualTransformer, sizes),
        }

    def configuration(self, sizes):
        width = sizes.tokeniser_width
        return MoMaskConfig(
            RVQConfig(width=width, code_width=width, codes=sizes.codes, levels=sizes.levels),
            TokenTransformerConfig(token_width=width, **sizes.of_transformer()),
            iterations=sizes.iterations,
        )

    def ignored(self, key):
        # Tables of sinusoids, and CLIP.
        return key.startswith(("position_enc.", "clip_model."))

    def draw(self, prior, text, counts, generators, guidance):
        codes = sample_codes(prior, text, counts, generators, guidance).cpu()
        return [row[:count] for row, count in zip(codes, counts, strict=True)]


GENERATOR = MoMaskGenerator()
