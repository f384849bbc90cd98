"""The network of ReMoDiffuse (Zhang et al., ICCV 2023): diffusion helped by retrieved motions.

Parameters carry the names of the official checkpoint below its prefix ``model.``. Attention is
linear (Shen et al., WACV 2021): queries are normalised over channels, keys over tokens. The keys
are those of the prompt, of two retrieved motions and of the noisy motion itself; prompt and
retrieval can each be left out, which gives four branches: both, text, retrieval, none.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from t2imu_utils.errors import InputError


@dataclass(frozen=True)
class ReMoDiffuseConfig:
    """Sizes of a ReMoDiffuse; the defaults are those of the official HumanML3D checkpoint.

    text_width: of the token states of the text encoder. text_latent, text_heads, text_layers,
    text_feedforward: of the prompt encoder. heads, feedforward: of all other attention.
    retrieval_layers: of both encoders of retrieved items, whose frames are kept every `stride`.
    retrieved: motions retrieved for a prompt. length_weight: of the lengths in their score.
    """

    layers: int = 4
    width: int = 512
    heads: int = 8
    feedforward: int = 1024
    time_width: int = 2048
    text_width: int = 512
    text_latent: int = 256
    text_heads: int = 4
    text_layers: int = 2
    text_feedforward: int = 2048
    retrieval_layers: int = 2
    retrieved: int = 2
    stride: int = 4
    length_weight: float = 0.1
    channels: int = 263
    max_frames: int = 196
    diffusion_steps: int = 1000

    def __post_init__(self):
        divisible = {
            "width": self.width % 2 == 0 and self.width % self.heads == 0,
            "text_width": self.text_width % self.heads == 0,
            "text_latent": self.text_latent % self.text_heads == 0,
        }
        for name, good in divisible.items():
            if not good:
                raise InputError(
                    f"ReMoDiffuseConfig: {name}", str(getattr(self, name)),
                    "a number divisible by its heads (width: also even)", "Change it or the heads.",
                )  # fmt: skip
        counts = ("layers", "text_layers", "retrieval_layers", "retrieved", "stride", "max_frames")
        for name in counts:
            if getattr(self, name) < 1:
                raise InputError(
                    f"ReMoDiffuseConfig: {name}", str(getattr(self, name)), "at least 1",
                    "Change it.",
                )  # fmt: skip
        if self.diffusion_steps < 2 or not 0 <= self.length_weight < math.inf:
            raise InputError(
                "ReMoDiffuseConfig: diffusion_steps, length_weight",
                f"{self.diffusion_steps}, {self.length_weight}", "at least 2, and at least 0",
                "The official ones are 1000 and 0.1.",
            )  # fmt: skip


@dataclass(frozen=True)
class Mixture:
    """How the four branches are mixed; the defaults are those of the official HumanML3D checkpoint.

    Above timestep `fine_until`, with w = 1 + coarse_scale · t / 1000 (1000: number of timesteps),
    a coin decides between w · both + (1 - w) · retrieval and w · text + (1 - w) · none; with
    `average` both are averaged instead. From there on the weights are `fine` for both, text,
    retrieval, and 1 minus their sum for none. The official ones were tuned on that checkpoint; a
    prior of other weights begins with `NEUTRAL` (`remodiffuse_training.fit_mixture` finds its own).
    """

    coarse_scale: float = 6.5
    fine: tuple[float, float, float] = (0.52351, -0.28419, 2.39872)
    fine_until: int = 100
    average: bool = False

    def __post_init__(self):
        if len(self.fine) != 3 or not all(map(math.isfinite, (*self.fine, self.coarse_scale))):
            raise InputError(
                "Mixture", f"coarse_scale {self.coarse_scale}, fine {self.fine}",
                "a finite scale and three finite weights", "Start from Mixture().",
            )  # fmt: skip


NEUTRAL = Mixture(coarse_scale=1.5, fine=(1.0, 0.0, 0.0))


@dataclass(frozen=True)
class Retrieved:
    """Encoded retrieved items: every `stride`-th frame of R motions, and one state a caption."""

    motion: Float[Tensor, "B R K C"]
    text: Float[Tensor, "B R 1 W"]
    mask: Bool[Tensor, "B R K"]


@dataclass(frozen=True)
class Condition:
    """What prompt and retrieval give to each block, the same for all timesteps.

    keys, values: one tensor (B, N, C) a block, N = prompt tokens, then retrieved frames.
    text_valid (B, L), retrieved_valid (B, N - L): which of them are no padding.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    text_valid: Bool[Tensor, "B L"]
    retrieved_valid: Bool[Tensor, "B M"]

    def repeat(self, times: int) -> "Condition":
        """The items over again, `times` times, for that many branches."""
        return Condition(
            tuple(torch.cat([x] * times) for x in self.keys),
            tuple(torch.cat([x] * times) for x in self.values),
            torch.cat([self.text_valid] * times),
            torch.cat([self.retrieved_valid] * times),
        )

    def valid(self, text_on: Tensor, retrieval_on: Tensor) -> Bool[Tensor, "B N"]:
        """Tokens that each item may look at, given which of its conditions are on (B,)."""
        on = (self.text_valid & text_on[:, None], self.retrieved_valid & retrieval_on[:, None])
        return torch.cat(on, dim=1)


def linear_attention(
    query: Float[Tensor, "B T C"],
    key: Float[Tensor, "B N C"],
    value: Float[Tensor, "B N D"],
    valid: Bool[Tensor, "B N"],
    heads: int,
) -> Float[Tensor, "B T D"]:
    """softmax over channels (Q) · [softmax over tokens (K)ᵀ V], by heads; no 1/sqrt(d).

    Tokens that are not valid have no part, whatever they hold; each item needs a valid one.
    """
    off = ~valid[..., None]
    query = query.unflatten(-1, (heads, -1)).softmax(-1)
    key = key.masked_fill(off, -math.inf).softmax(1).unflatten(-1, (heads, -1))
    value = value.masked_fill(off, 0.0).unflatten(-1, (heads, -1))
    context = torch.einsum("bnhd,bnhl->bhdl", key, value)
    return torch.einsum("bthd,bhdl->bthl", query, context).flatten(2)


def _zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Stylization(nn.Module):
    """Scale and shift by the timestep, then a projection that starts at zero."""

    def __init__(self, config: ReMoDiffuseConfig):
        super().__init__()
        width = config.width
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(config.time_width, 2 * width))
        self.norm = nn.LayerNorm(width)
        # The place of a dropout of 0 keeps the official number of the projection.
        projection = _zeroed(nn.Linear(width, width))
        self.out_layers = nn.Sequential(nn.SiLU(), nn.Identity(), projection)

    def forward(self, y: Tensor, time: Float[Tensor, "B E"]) -> Tensor:
        scale, shift = self.emb_layers(time)[:, None].chunk(2, dim=-1)
        return self.out_layers(self.norm(y) * (1 + scale) + shift)


class FeedForward(nn.Module):
    """x + W2 GELU(W1 x); with `styled`, the added part goes through a Stylization."""

    def __init__(self, config: ReMoDiffuseConfig, styled: bool):
        super().__init__()
        self.linear1 = nn.Linear(config.width, config.feedforward)
        self.linear2 = _zeroed(nn.Linear(config.feedforward, config.width))
        if styled:
            self.proj_out = Stylization(config)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        y = self.linear2(F.gelu(self.linear1(x)))
        return x + (y if time is None else self.proj_out(y, time))


class ModulatedAttention(nn.Module):
    """Linear attention of noisy frames to prompt, retrieved frames and themselves."""

    def __init__(self, config: ReMoDiffuseConfig):
        super().__init__()
        width, latent = config.width, config.text_latent
        self.heads = config.heads
        self.norm, self.text_norm = nn.LayerNorm(width), nn.LayerNorm(latent)
        self.query = nn.Linear(width, width)
        self.key_text, self.value_text = nn.Linear(latent, width), nn.Linear(latent, width)
        self.key_motion, self.value_motion = nn.Linear(width, width), nn.Linear(width, width)
        both = width + config.text_width
        self.retr_norm1, self.retr_norm2 = nn.LayerNorm(both), nn.LayerNorm(width)
        self.key_retr, self.value_retr = nn.Linear(both, width), _zeroed(nn.Linear(width, width))
        self.proj_out = Stylization(config)

    def condition(
        self, text: Float[Tensor, "B L D"], retrieved: Retrieved
    ) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B N C"]]:
        """Keys and values of prompt and retrieval."""
        text = self.text_norm(text)
        frames = retrieved.motion
        said = retrieved.text.expand(-1, -1, frames.shape[2], -1)
        seen = self.key_retr(self.retr_norm1(torch.cat([frames, said], dim=-1))).flatten(1, 2)
        given = self.value_retr(self.retr_norm2(frames)).flatten(1, 2)
        keys = torch.cat([self.key_text(text), seen], dim=1)
        return keys, torch.cat([self.value_text(text), given], dim=1)

    def forward(
        self, x: Tensor, key: Tensor, value: Tensor, valid: Bool[Tensor, "B N+T"], time: Tensor
    ) -> Tensor:
        normed = self.norm(x)
        key = torch.cat([key, self.key_motion(normed)], dim=1)
        value = torch.cat([value, self.value_motion(normed)], dim=1)
        y = linear_attention(self.query(normed), key, value, valid, self.heads)
        return x + self.proj_out(y, time)


class SelfAttention(nn.Module):
    """Linear attention of retrieved frames to themselves."""

    def __init__(self, config: ReMoDiffuseConfig):
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor, valid: Bool[Tensor, "B T"]) -> Tensor:
        y = self.norm(x)
        return x + linear_attention(self.query(y), self.key(y), self.value(y), valid, self.heads)


def _transformer(width: int, heads: int, feedforward: int, layers: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        width, heads, feedforward, dropout=0.0, activation="gelu", batch_first=True
    )
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def _padding(valid: Bool[Tensor, "B L"]) -> Bool[Tensor, "B L"] | None:
    return None if bool(valid.all()) else ~valid


class RetrievalEncoder(nn.Module):
    """Encodes retrieved motions and their captions (official name: `database`)."""

    def __init__(self, config: ReMoDiffuseConfig):
        super().__init__()
        self.stride = config.stride
        self.motion_proj = nn.Linear(config.channels, config.width)
        self.motion_pos_embedding = nn.Parameter(torch.randn(config.max_frames, config.width))
        self.motion_encoder_blocks = nn.ModuleList(
            nn.ModuleDict(
                {"sa_block": SelfAttention(config), "ffn": FeedForward(config, styled=False)}
            )
            for _ in range(config.retrieval_layers)
        )
        self.text_encoder = _transformer(
            config.text_width, config.heads, config.feedforward, config.retrieval_layers
        )

    def forward(
        self,
        motion: Float[Tensor, "B R T 263"],
        mask: Bool[Tensor, "B R T"],
        text: Float[Tensor, "B R L W"],
        text_valid: Bool[Tensor, "B R L"],
    ) -> Retrieved:
        """Encode R items for each of B queries; motions are normalised features.

        Of a caption the state of its last valid token is kept. With CLIP's padded states that is
        position 76, as in the official code; other encoders end there with the mark of the end,
        whose state has seen the whole caption as well.
        """
        items = motion.shape[:2]
        frames, valid = motion.flatten(0, 1), mask.flatten(0, 1)
        x = self.motion_proj(frames) + self.motion_pos_embedding[: frames.shape[1]]
        for block in self.motion_encoder_blocks:
            x = block["ffn"](block["sa_block"](x, valid))
        said = text_valid.flatten(0, 1)
        states = self.text_encoder(text.flatten(0, 1), src_key_padding_mask=_padding(said))
        last = states[torch.arange(len(states), device=states.device), said.sum(1) - 1]
        return Retrieved(
            x[:, :: self.stride].unflatten(0, items),
            last[:, None].unflatten(0, items),
            mask[:, :, :: self.stride],
        )


def timestep_sinusoids(t: Int[Tensor, "B"], width: int) -> Float[Tensor, "B width"]:
    """Cosines, then sines, of t times `width` / 2 frequencies from 1 down towards 1 / 10000."""
    half = width // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
    angle = t[:, None].float() * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class ReMoDiffuse(nn.Module):
    """Predicts the clean motion x̂_0 from a noisy one, a prompt and retrieved motions."""

    def __init__(self, config: ReMoDiffuseConfig):
        super().__init__()
        self.config = config
        width, time = config.width, config.time_width
        self.sequence_embedding = nn.Parameter(torch.randn(config.max_frames, width))
        self.text_pre_proj = nn.Linear(config.text_width, config.text_latent)
        self.textTransEncoder = _transformer(
            config.text_latent, config.text_heads, config.text_feedforward, config.text_layers
        )
        self.text_ln = nn.LayerNorm(config.text_latent)
        self.joint_embed = nn.Linear(config.channels, width)
        self.time_embed = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        self.temporal_decoder_blocks = nn.ModuleList(
            nn.ModuleDict(
                {"ca_block": ModulatedAttention(config), "ffn": FeedForward(config, styled=True)}
            )
            for _ in range(config.layers)
        )
        self.out = _zeroed(nn.Linear(width, config.channels))
        self.database = RetrievalEncoder(config)

    def encode_text(
        self, text: Float[Tensor, "B L W"], valid: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B L D"]:
        """Prompt features from token states; padded tokens are not looked at."""
        x = self.textTransEncoder(self.text_pre_proj(text), src_key_padding_mask=_padding(valid))
        return self.text_ln(x)

    def condition(
        self,
        text: Float[Tensor, "B L W"],
        text_valid: Bool[Tensor, "B L"],
        retrieved: Retrieved,
    ) -> Condition:
        """Everything that a prompt and its retrieved motions contribute, computed once."""
        features = self.encode_text(text, text_valid)
        pairs = [
            block["ca_block"].condition(features, retrieved)
            for block in self.temporal_decoder_blocks
        ]
        keys, values = zip(*pairs, strict=True)
        return Condition(keys, values, text_valid, retrieved.mask.flatten(1))

    def forward(
        self,
        x_t: Float[Tensor, "B T 263"],
        t: Int[Tensor, "B"],
        mask: Bool[Tensor, "B T"],
        condition: Condition,
        text_on: Bool[Tensor, "B"],
        retrieval_on: Bool[Tensor, "B"],
    ) -> Float[Tensor, "B T 263"]:
        """Predict the clean motion.

        x_t: noisy normalised features. t: timesteps 0 ... diffusion_steps - 1. mask: valid frames;
        what the others hold reaches no valid frame. text_on, retrieval_on: which conditions each
        item sees.

        Raises:
            InputError: more frames than the model has positions for.
        """
        frames = x_t.shape[1]
        if frames > self.config.max_frames:
            raise InputError(
                "ReMoDiffuse: frames of x_t", str(frames), f"at most {self.config.max_frames}",
                "Shorten the motion or use a prior with a larger max_frames.",
            )  # fmt: skip
        x = self.joint_embed(x_t) + self.sequence_embedding[:frames]
        time = self.time_embed(timestep_sinusoids(t, self.config.width))
        valid = torch.cat([condition.valid(text_on, retrieval_on), mask], dim=1)
        given = zip(self.temporal_decoder_blocks, condition.keys, condition.values, strict=True)
        for block, key, value in given:
            x = block["ffn"](block["ca_block"](x, key, value, valid, time), time)
        return self.out(x)


def new_remodiffuse(config: ReMoDiffuseConfig, seed: int) -> ReMoDiffuse:
    """A freshly initialised network whose weights depend on `config` and `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ReMoDiffuse(config)
