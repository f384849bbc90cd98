"""The two transformers of MoMask over motion tokens (Guo et al., CVPR 2024).

One fills in masked tokens of the first level, the other predicts a level from those below. Both
read one pooled text vector as an extra token. Parameters carry the names of the official
checkpoints, so that those load as they are.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from t2imu_utils.errors import InputError
from t2imu_utils.priors.mdm import MDMConfig, Stack, key_bias, sinusoids


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

    def __post_init__(self):
        if not 2 <= self.levels <= 6:
            raise InputError(
                "TokenTransformerConfig: levels", str(self.levels), "2 to 6",
                "The residual transformer needs a level above the first.",
            )  # fmt: skip
        self.stack()

    def stack(self) -> MDMConfig:
        """Sizes of the transformer itself, checked: it has the layers of MDM's encoder."""
        return MDMConfig(
            arch="trans_enc",
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            feedforward=self.feedforward,
            dropout=self.dropout,
        )


class _Head(nn.Module):
    def __init__(self, width: int, out: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.poseFinal = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.poseFinal(self.LayerNorm(F.gelu(self.dense(x))))


def _drop_foreign(module, state_dict, prefix, *_):
    # The sinusoid table is computed here; some files carry the text encoder, too.
    foreign = (f"{prefix}position_enc.", f"{prefix}clip_model.")
    for key in [key for key in state_dict if key.startswith(foreign)]:
        del state_dict[key]


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
        self.register_load_state_dict_pre_hook(_drop_foreign)

    def _text_token(
        self, text: Float[Tensor, "B W"], drop_text: Bool[Tensor, "B"] | None
    ) -> Float[Tensor, "B 1 C"]:
        if drop_text is not None:
            text = text.masked_fill(drop_text[:, None], 0.0)
        return self.cond_emb(text)[:, None]

    def _run(
        self, embedded: Float[Tensor, "B N E"], prefix: list[Tensor], valid: Bool[Tensor, "B N"]
    ) -> Float[Tensor, "B N out"]:
        config, count = self.config, embedded.shape[1]
        if count > config.max_tokens:
            raise InputError(
                "tokens", str(count), f"at most {config.max_tokens}",
                "Shorten the motion or use a prior with a larger max_tokens.",
            )  # fmt: skip
        placed = self.input_process["poseEmbedding"](embedded) + self.positions[:count]
        placed = F.dropout(placed, config.dropout, self.training)
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


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
    if isinstance(model, ResidualTransformer):
        for table in (
            model.embed_proj_shared_weight,
            model.token_embed_weight_,
            model.output_proj_weight_,
        ):
            nn.init.normal_(table, std=0.02)


def new_mask_transformer(config: TokenTransformerConfig, seed: int) -> MaskTransformer:
    """A freshly initialised mask transformer: N(0, 0.02²), biases 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MaskTransformer(config)
        _initialise(model)
    return model


def new_residual_transformer(config: TokenTransformerConfig, seed: int) -> ResidualTransformer:
    """A freshly initialised residual transformer: N(0, 0.02²), biases 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ResidualTransformer(config)
        _initialise(model)
    return model
