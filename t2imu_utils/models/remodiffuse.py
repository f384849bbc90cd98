"""ReMoDiffuse (Zhang et al., ICCV 2023): diffusion that looks at retrieved motions.

Parameters carry the names of the official checkpoint below its prefix ``model.``. Attention is
linear (Shen et al., WACV 2021): queries are normalised over channels, keys over tokens. The keys
are those of the prompt, of two retrieved motions and of the noisy motion itself; prompt and
retrieval can each be left out, which gives four branches: both, text, retrieval, none.

The authors' code and weights are under the S-Lab License 1.0, for non-commercial use; neither is
part of this project.
"""

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256
from t2imu_utils.models import checkpoints
from t2imu_utils.models.diffusion import Schedule, ddim_step, item_noise, schedule_of
from t2imu_utils.models.generator import TransformerSizes, check_requests, in_batches, normaliser_of
from t2imu_utils.models.retrieval import (
    Database,
    build_database,
    gather,
    read_database,
    retrieve,
    save_database,
    token_states,
)
from t2imu_utils.models.text import TextEncoder, pooled
from t2imu_utils.models.trainer import Batch, DiffusionGenerator, prefix, sentences_of
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from t2imu_utils.motion.features import CONTACTS
from t2imu_utils.runs import cache_dir
from t2imu_utils.tracks import Count

# Sampling steps in each fifth of the timesteps, from the clean end on.
SECTIONS = (15, 15, 8, 6, 6)
FORMAT = "t2imu-remodiffuse-1"
WEIGHTS, OFFICIAL_DATABASE = "latest.pth", "t2m_text_train.npz"
OFFICIAL = "Take latest.pth of the HumanML3D configuration as published, whole."
PUBLISHED = "Copy mean.npy and std.npy from data/datasets/human_ml3d of the official data."
# In the official statistics contacts spread by 0.352 / 25, since root and contact channels are
# divided twice by the feature bias of 5; by HumanML3D's own Std.npy and by one division by more.
CONTACT_SPREAD = 0.03


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


@dataclass(frozen=True)
class Mixture:
    """How the four branches are mixed; the defaults are those of the official HumanML3D checkpoint.

    Above timestep `fine_until`, with w = 1 + coarse_scale · t / 1000 (1000: number of timesteps),
    a coin decides between w · both + (1 - w) · retrieval and w · text + (1 - w) · none; with
    `average` both are averaged instead. From there on the weights are `fine` for both, text,
    retrieval, and 1 minus their sum for none. The official ones were tuned on that checkpoint; a
    prior of other weights begins with `NEUTRAL`.
    """

    coarse_scale: float = 6.5
    fine: tuple[float, float, float] = (0.52351, -0.28419, 2.39872)
    fine_until: int = 100
    average: bool = False


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
        keys, values = ([x.repeat(times, 1, 1) for x in each] for each in (self.keys, self.values))
        masks = (mask.repeat(times, 1) for mask in (self.text_valid, self.retrieved_valid))
        return Condition(tuple(keys), tuple(values), *masks)

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
        self, text: Float[Tensor, "B L W"], text_valid: Bool[Tensor, "B L"], retrieved: Retrieved
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
        """
        x = self.joint_embed(x_t) + self.sequence_embedding[: x_t.shape[1]]
        time = self.time_embed(timestep_sinusoids(t, self.config.width))
        valid = torch.cat([condition.valid(text_on, retrieval_on), mask], dim=1)
        given = zip(self.temporal_decoder_blocks, condition.keys, condition.values, strict=True)
        for block, key, value in given:
            x = block["ffn"](block["ca_block"](x, key, value, valid, time), time)
        return self.out(x)


@dataclass
class ReMoDiffusePrior:
    """A trained network, statistics of its features, its text encoder, what it retrieves from.

    history, velocity_weight: as of `mdm.Prior`.
    """

    model: ReMoDiffuse
    normaliser: Normaliser
    text_encoder: TextEncoder
    database: Database
    mixture: Mixture = NEUTRAL
    history: list[dict[str, Any]] = field(default_factory=list)
    velocity_weight: float | list[float] = 0.0

    @property
    def config(self) -> ReMoDiffuseConfig:
        return self.model.config

    def condition(self, texts: Sequence[str]) -> tuple[Float[Tensor, "B L W"], Bool[Tensor, "B L"]]:
        return token_states(self.text_encoder, texts)


def new_remodiffuse_prior(
    config: ReMoDiffuseConfig,
    normaliser: Normaliser,
    text_encoder: TextEncoder,
    database: Database,
    seed: int,
    mixture: Mixture = NEUTRAL,
) -> ReMoDiffusePrior:
    """An untrained prior; `text_width` of `config` is set to that of the encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ReMoDiffuse(replace(config, text_width=text_encoder.width))
    return ReMoDiffusePrior(model, normaliser, text_encoder, database, mixture)


def linear_schedule(steps: int = 1000) -> Schedule:
    """Betas from 1e-4 to 0.02 (Ho et al. 2020)."""
    return schedule_of(torch.linspace(1e-4, 0.02, steps, dtype=torch.float32))


def timestep_map(steps: int = 1000, sections: Sequence[int] = SECTIONS) -> Int[np.ndarray, "S"]:
    """The timesteps that are sampled, ascending: evenly spread within equal sections.

    A section of n timesteps from a on with k kept ones: a + round(i (n - 1) / (k - 1)), the
    products made by repeated addition as in the official code, which decides about halves.
    """
    size, extra = divmod(steps, len(sections))
    kept, start = [], 0
    for i, count in enumerate(sections):
        length = size + (i < extra)
        stride = (length - 1) / max(count - 1, 1)
        places = accumulate([stride] * (count - 1), initial=0.0)
        kept += [start + round(place) for place in places]
        start += length
    return np.array(kept)


def respaced(timesteps: Int[np.ndarray, "S"], steps: int = 1000) -> Schedule:
    """The linear schedule at these timesteps alone.

    Betas are computed again so that the kept timesteps keep their signal: beta_i = 1 - ᾱ_i /
    ᾱ_(i-1) (Nichol & Dhariwal 2021, section 4).
    """
    signal = np.cumprod(1 - np.linspace(1e-4, 0.02, steps))[timesteps]
    betas = 1 - signal / np.concatenate([[1.0], signal[:-1]])
    return schedule_of(torch.tensor(betas, dtype=torch.float32))


def mixed(
    model: ReMoDiffuse, condition: Condition, mask: Bool[Tensor, "B T"], mixture: Mixture
) -> Callable[[Tensor, int, Tensor], Tensor]:
    """The mixture of the four branches as a function of (x_t, t, coins (B,)) -> x̂_0.

    Only branches of weight other than zero are run: two of four above `fine_until`, unless both
    sides of the coin are averaged.
    """
    items = len(mask)
    repeated = {times: (condition.repeat(times), torch.cat([mask] * times)) for times in (2, 4)}

    def branches(x_t: Tensor, t: int, text: Tensor, retrieval: Tensor) -> Tensor:
        times = len(text) // items
        given, valid = repeated[times]
        at = torch.full((len(text),), t, device=x_t.device)
        out = model(torch.cat([x_t] * times), at, valid, given, text, retrieval)
        return out.unflatten(0, (times, items))

    def predict(x_t: Tensor, t: int, coins: Bool[Tensor, "B"]) -> Tensor:
        coarse = t > mixture.fine_until
        scale = 1 + mixture.coarse_scale * t / model.config.diffusion_steps
        on = torch.ones(items, dtype=torch.bool, device=x_t.device)
        if coarse and not mixture.average:
            # Heads: both and retrieval; tails: text and none. Either is a guidance by the text.
            seen, unseen = branches(x_t, t, torch.cat([on, ~on]), torch.cat([coins, coins]))
            return scale * seen + (1 - scale) * unseen
        text = torch.cat([on, on, ~on, ~on])
        out = branches(x_t, t, text, torch.cat([on, ~on, on, ~on]))
        if coarse:
            weights = [scale / 2, scale / 2, (1 - scale) / 2, (1 - scale) / 2]
        else:
            weights = [*mixture.fine, 1 - sum(mixture.fine)]
        return torch.einsum("k,kbtc->btc", out.new_tensor(weights), out)

    return predict


@torch.inference_mode()
def sample(
    predict: Callable[[Tensor, int, Tensor], Tensor],
    noise: Float[Tensor, "B T C"],
    coins: Bool[Tensor, "B S"],
    timesteps: Int[np.ndarray, "S"],
    steps: int = 1000,
) -> Float[Tensor, "B T C"]:
    """DDIM (Song et al. 2021, eta 0) from pure noise, over `timesteps` from the last one down.

    predict: what `mixed` makes. coins: one for each item and sampling step, in order of sampling.
    """
    schedule, x = respaced(timesteps, steps), noise
    for toss, i in zip(coins.T, reversed(range(len(timesteps))), strict=True):
        x = ddim_step(x, predict(x, int(timesteps[i]), toss), schedule, i)
    return x


def generate(
    prior: ReMoDiffusePrior,
    prompts: Sequence[str],
    frames: Sequence[int],
    seeds: Sequence[int],
    guidance: float | None = None,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> list[Float[np.ndarray, "T 263"]]:
    """One motion for each prompt, as raw (de-normalised) features at 20 fps, in order.

    They are as the model makes them: the joints that the authors publish are smoothed by a Gaussian
    of 2.5 frames, which hides jitter. Else as `mdm.generate`; guidance: the mixture's
    `coarse_scale`; None keeps that of the prior.
    """
    check_requests(prior, prompts, frames, seeds, batch_size)
    mixture = prior.mixture
    if guidance is not None:
        mixture = replace(mixture, coarse_scale=float(guidance))
    tokens, valid = prior.condition(prompts)
    config, queries = prior.config, pooled(prior.text_encoder, prompts).numpy()
    rows = retrieve(prior.database, queries, frames, None, config.retrieved, config.length_weight)
    model = prior.model.to(device).eval()
    timesteps = timestep_map(config.diffusion_steps)

    def make(items: list[int], lengths: list[int], generators: list[torch.Generator]):
        longest = int(valid[items].sum(1).max())
        text = tokens[items, :longest].to(device), valid[items, :longest].to(device)
        with torch.inference_mode():
            found = (part.to(device) for part in gather(prior.database, rows[items]))
            condition = model.condition(*text, model.database(*found))
        noise = next(item_noise(lengths, generators, config.channels, device))
        coins = torch.stack(
            [torch.randint(0, 2, (len(timesteps),), generator=g) for g in generators]
        )
        guess = mixed(model, condition, prefix(lengths).to(device), mixture)
        coins = coins.bool().to(device)
        return sample(guess, noise, coins, timesteps, config.diffusion_steps).cpu().numpy()

    return in_batches(make, frames, seeds, batch_size, prior.normaliser, progress)


# ---------------------------------------------------------------- training
def predict(model: ReMoDiffuse, x_t: Float[Tensor, "B T 263"], batch: Batch) -> Tensor:
    """x̂_0 of a batch (`trainer.Diffusion`)."""
    condition = model.condition(batch.text, batch.text_valid, model.database(*batch.retrieved))
    return model(x_t, batch.t, batch.mask, condition, ~batch.drop_text, ~batch.drop_retrieval)


def neighbours(
    prior: ReMoDiffusePrior, clips: Sequence[MotionClip], max_frames: int, held_out: bool = False
) -> list[Int[np.ndarray, "captions R"]]:
    """Retrieved rows for each caption of each clip, at the length that training shows of it.

    Rows of the clip's own recording are left out: itself, its mirrored twin, other cuts. Where the
    database does not say whose clips it holds, as the official one, none can be; that is only good
    for clips that are `held_out`, which it has not.
    """
    sentences, captions = sentences_of(clips)
    counts = [len(numbers) for numbers in captions]
    unknown = held_out and prior.database.names is None
    kin = [[] if unknown else prior.database.kin(clip) for clip in clips]
    frames = [min(len(clip.features), max_frames) for clip in clips]
    owner = np.repeat(np.arange(len(clips)), counts)
    rows = retrieve(
        prior.database,
        pooled(prior.text_encoder, sentences).numpy()[np.concatenate(captions)],
        [frames[i] for i in owner],
        [kin[i] for i in owner],
        prior.config.retrieved,
        prior.config.length_weight,
    )
    return np.split(rows, np.cumsum(counts)[:-1])


# ---------------------------------------------------------------- the family
class Sizes(TransformerSizes):
    """Sizes of the network and of its diffusion."""

    retrieval_layers: Count
    time_width: Count
    text_latent: Count
    text_layers: Count
    text_feedforward: Count
    max_frames: Count  # of a motion, and of those that are retrieved
    diffusion_steps: Annotated[int, Field(ge=5 * max(SECTIONS))]


class ReMoDiffuseGenerator(DiffusionGenerator):
    """See the module.

    As its authors train it: batches of 128, learning rate 2e-4 falling along a cosine, no moving
    average; here it gets the budget that all have.
    """

    Sizes = Sizes
    predict = staticmethod(predict)
    schedule = staticmethod(linear_schedule)

    def untrained(self, sizes, clips, encoder, seed):
        config = ReMoDiffuseConfig(**sizes.model_dump())
        normaliser = normaliser_of(clips)
        database = build_database(clips, normaliser, encoder, config.max_frames)
        return new_remodiffuse_prior(config, normaliser, encoder, database, seed)

    def published(self, folder, sizes, encoder):
        """The official HumanML3D checkpoint (``latest.pth``, of mmcv), its ``mean.npy`` and
        ``std.npy``, and ``t2m_text_train.npz``; CLIP in it is passed over. Its licence is the S-Lab
        License 1.0, for non-commercial use only."""
        path, given = folder / WEIGHTS, {} if sizes is None else sizes.model_dump()
        encoder = checkpoints.official_encoder(path, encoder)
        database = read_database(folder / OFFICIAL_DATABASE, encoder)
        normaliser = checkpoints.read_statistics(folder, PUBLISHED)
        if (spread := float(np.mean(normaliser.std[CONTACTS]))) > CONTACT_SPREAD:
            raise InputError(
                "statistics", f"contacts that spread by {spread:.3g}",
                f"less than {CONTACT_SPREAD}",
                "Take mean.npy and std.npy that were published with ReMoDiffuse.",
            )  # fmt: skip
        config = ReMoDiffuseConfig(**given, text_width=encoder.width)
        with torch.device("meta"):
            model = ReMoDiffuse(config)
        checkpoints.load_official(
            path, model, ("state_dict",), f"those of {config}", OFFICIAL,
            lambda key: f"model.{key}", lambda key: key.startswith("model.clip."),
        )  # fmt: skip
        origin = {
            "folder": folder.resolve().name,
            "file": path.name,
            "sha256": sha256(path),
            "licence": "S-Lab License 1.0: non-commercial use only",
        }
        return ReMoDiffusePrior(model, normaliser, encoder, database, Mixture(), [origin])

    def retrieval(self, prior, clips, max_frames, held_out=False):
        """A clip never sees a retrieved motion of its own recording (`neighbours`)."""
        near = neighbours(prior, clips, max_frames, held_out)

        def found(items, captions):
            rows = [near[i][caption] for i, caption in zip(items, captions, strict=True)]
            return gather(prior.database, np.stack(rows))

        return found

    def key(self, prior):
        return [prior.database.version]

    def save(self, path, prior):
        # What is retrieved from belongs to the prior, and all arms have the same: kept once.
        database = path.with_name("database.npz")
        kept = cache_dir("retrieval") / f"{prior.database.version}.npz"
        if not kept.is_file():
            save_database(kept, prior.database)
        database.unlink(missing_ok=True)
        try:
            os.link(kept, database)
        except OSError:  # a file system without links
            shutil.copyfile(kept, database)
        about = {"mixture": asdict(prior.mixture), "database": prior.database.version}
        return [checkpoints.save(path, FORMAT, {"": prior.model}, prior, about), database]

    def load(self, path, encoder=None):
        networks, common, about = checkpoints.load(
            path, (FORMAT,), ReMoDiffuseConfig, lambda config: {"": ReMoDiffuse(config)},
            encoder, cache_dir("text"),
        )  # fmt: skip
        database = read_database(path.with_name("database.npz"), common["text_encoder"])
        if database.version != about["database"]:
            raise InputError(
                f"{path}: database", database.version[:12], f"{about['database'][:12]}, with which "
                "the prior was trained", "Restore database.npz, or train the prior again.",
            )  # fmt: skip
        mixture = checkpoints.config_of(Mixture, about["mixture"])
        return ReMoDiffusePrior(networks[""], database=database, mixture=mixture, **common)

    generate = staticmethod(generate)

    def network(self, prior):
        table = {k: v for k, v in asdict(prior.config).items() if k != "channels"}
        return table | {"motions to retrieve from": len(prior.database)}


GENERATOR = ReMoDiffuseGenerator()
