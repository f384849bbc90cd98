"""The Motion Diffusion Model (Tevet et al., ICLR 2023) as the paper uses it.

Parameters carry the names of the official checkpoints, so that those load as they are. Two
architectures: a transformer decoder that attends to text tokens (`trans_dec`, the DistilBERT
variant that the paper refines) and a transformer encoder that reads one pooled text vector as an
extra token (`trans_enc`, the CLIP variant).
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from t2imu_utils.errors import InputError


@dataclass(frozen=True)
class MDMConfig:
    """Sizes of an MDM; the defaults are those of the official DistilBERT checkpoint.

    `dropout` 0 is faster and is what small priors use. `mask_frames` keeps padded frames out of
    the self-attention. `max_frames` is the longest motion the model is asked for (20 fps).
    """

    arch: Literal["trans_dec", "trans_enc"] = "trans_dec"
    layers: int = 8
    width: int = 512
    heads: int = 4
    feedforward: int = 1024
    dropout: float = 0.1
    text_width: int = 768
    mask_frames: bool = True
    channels: int = 263
    max_frames: int = 196
    diffusion_steps: int = 50

    def __post_init__(self):
        if self.arch not in ("trans_dec", "trans_enc"):
            raise InputError(
                "MDMConfig: arch",
                repr(self.arch),
                "trans_dec or trans_enc",
                "choose one of the two",
            )
        if self.width % 2 or self.width % self.heads:
            raise InputError(
                "MDMConfig: width",
                f"{self.width} with {self.heads} heads",
                "an even number divisible by the number of heads",
                "change width or heads",
            )
        if not 0 <= self.dropout < 1:
            raise InputError(
                "MDMConfig: dropout", str(self.dropout), "0 <= dropout < 1", "change it"
            )


def sinusoids(length: int, width: int) -> Float[Tensor, "length width"]:
    """Sinusoidal position table of Vaswani et al. (2017): even columns sin, odd columns cos."""
    position = torch.arange(length, dtype=torch.float32)[:, None]
    frequency = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    return torch.stack([(position * frequency).sin(), (position * frequency).cos()], -1).flatten(1)


class Attention(nn.Module):
    """Multi-head attention with the parameter names of `nn.MultiheadAttention`, batch first."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, memory: Tensor | None, bias: Tensor | None) -> Tensor:
        """`x` (B, T, C) attends to itself, or to `memory` (B, L, C) where that is given.

        `bias` (B, 1, 1, L) is added to the scores: 0 at valid keys, -inf at padded ones.
        """
        width = x.shape[-1]
        if memory is None:
            q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            weight, offset = self.in_proj_weight, self.in_proj_bias
            q = F.linear(x, weight[:width], offset[:width])
            k, v = F.linear(memory, weight[width:], offset[width:]).chunk(2, dim=-1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        drop = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=drop)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Post-norm transformer layer, named as `nn.TransformerEncoderLayer` / `...DecoderLayer`."""

    def __init__(self, config: MDMConfig):
        super().__init__()
        width, dropout = config.width, config.dropout
        self.dropout = dropout
        self.crosses = config.arch == "trans_dec"
        self.self_attn = Attention(width, config.heads, dropout)
        if self.crosses:
            self.multihead_attn = Attention(width, config.heads, dropout)
        self.linear1 = nn.Linear(width, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        if self.crosses:
            self.norm3 = nn.LayerNorm(width)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def forward(
        self, x: Tensor, bias: Tensor | None, memory: Tensor | None, memory_bias: Tensor | None
    ) -> Tensor:
        x = self.norm1(x + self._drop(self.self_attn(x, None, bias)))
        if self.crosses:
            x = self.norm2(x + self._drop(self.multihead_attn(x, memory, memory_bias)))
        hidden = self._drop(F.gelu(self.linear1(x)))
        last_norm = self.norm3 if self.crosses else self.norm2
        return last_norm(x + self._drop(self.linear2(hidden)))


class Stack(nn.Module):
    """The layers, one after the other (official name: `seqTransDecoder` or `seqTransEncoder`)."""

    def __init__(self, config: MDMConfig):
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, x, bias, memory, memory_bias):
        for layer in self.layers:
            x = layer(x, bias, memory, memory_bias)
        return x


def key_bias(valid: Bool[Tensor, "B L"] | None, like: Tensor) -> Float[Tensor, "B 1 1 L"] | None:
    """Additive attention mask from a validity mask; None where every key of the batch is valid."""
    if valid is None or bool(valid.all()):
        return None
    bias = torch.zeros(valid.shape, dtype=like.dtype, device=like.device)
    return bias.masked_fill_(~valid, float("-inf"))[:, None, None]


def _drop_tables(module, state_dict, prefix, *_):
    # Official checkpoints store their sinusoid tables twice; ours are computed, not loaded.
    for key in [key for key in state_dict if key.startswith(prefix) and key.endswith(".pe")]:
        del state_dict[key]


class MDM(nn.Module):
    """Predicts the clean motion x̂_0 = G(x_t, t, c) from a noisy one and a text."""

    def __init__(self, config: MDMConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.input_process = nn.ModuleDict({"poseEmbedding": nn.Linear(config.channels, width)})
        stack = Stack(config)
        if config.arch == "trans_dec":
            self.seqTransDecoder = stack
        else:
            self.seqTransEncoder = stack
        time_embed = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.embed_timestep = nn.ModuleDict({"time_embed": time_embed})
        self.embed_text = nn.Linear(config.text_width, width)
        self.output_process = nn.ModuleDict({"poseFinal": nn.Linear(width, config.channels)})
        length = max(config.max_frames + 1, config.diffusion_steps)
        self.register_buffer("positions", sinusoids(length, width), persistent=False)
        self.register_load_state_dict_pre_hook(_drop_tables)

    def forward(
        self,
        x_t: Float[Tensor, "B T 263"],
        t: Int[Tensor, "B"],
        text: Float[Tensor, "B L W"],
        text_valid: Bool[Tensor, "B L"],
        mask: Bool[Tensor, "B T"],
        drop_text: Bool[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B T 263"]:
        """Predict the clean motion.

        x_t: noisy normalised features. t: timesteps, 0 ... diffusion_steps - 1. text, text_valid:
        token states and which of them are real. mask: valid frames (a prefix of each row; what
        the rest holds does not matter where `mask_frames` is on). drop_text: items whose text is
        replaced by zeros, the "unconditional" input of classifier-free guidance.
        """
        config = self.config
        if x_t.shape[1] > config.max_frames:
            raise InputError(
                "MDM: frames of x_t",
                str(x_t.shape[1]),
                f"at most {config.max_frames}",
                "shorten the motion or use a prior with a larger max_frames",
            )
        if drop_text is not None:
            text = text.masked_fill(drop_text[:, None, None], 0.0)
        time = self.embed_timestep["time_embed"](self.positions[t])[:, None]
        frames = self.input_process["poseEmbedding"](x_t)
        valid = mask if config.mask_frames else None

        if config.arch == "trans_dec":
            memory = self.embed_text(text) + time
            frames = self._place(frames)
            bias, text_bias = key_bias(valid, frames), key_bias(text_valid, frames)
            hidden = self.seqTransDecoder(frames, bias, memory, text_bias)
        else:
            share = text_valid.to(text.dtype)[..., None]
            pooled = (text * share).sum(1, keepdim=True) / share.sum(1, keepdim=True).clamp(min=1)
            token = self.embed_text(pooled) + time
            if valid is not None:
                valid = F.pad(valid, (1, 0), value=True)
            sequence = self._place(torch.cat([token, frames], dim=1))
            bias = key_bias(valid, sequence)
            hidden = self.seqTransEncoder(sequence, bias, None, None)[:, 1:]
        return self.output_process["poseFinal"](hidden)

    def _place(self, sequence: Tensor) -> Tensor:
        placed = sequence + self.positions[: sequence.shape[1]]
        return F.dropout(placed, self.config.dropout, self.training)


def new_mdm(config: MDMConfig, seed: int) -> MDM:
    """A freshly initialised MDM whose weights depend on `config` and `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MDM(config)
