"""The Motion Diffusion Model (Tevet et al., ICLR 2023) as the paper uses it.

Parameters carry the names of the official checkpoints, so that those load as they are. Two
architectures: a transformer decoder that attends to text tokens (`trans_dec`, the DistilBERT
variant that the paper refines) and a transformer encoder that reads one pooled text vector as an
extra token (`trans_enc`, the CLIP variant).
"""

import copy
import io
import json
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write, sha256
from t2imu_utils.models import diffusion
from t2imu_utils.models.checkpoints import (
    REMEDY,
    STATISTICS,
    check_parameters,
    checked_fields,
    read_checkpoint,
    read_own,
    read_statistics,
    same_encoder,
    statistics_shapes,
    take_statistics,
    write_own,
)
from t2imu_utils.models.diffusion import (
    SCHEMES,
    Precision,
    Solver,
    add_noise,
    item_noise,
    sample,
    schedule,
)
from t2imu_utils.models.generator import DiffusionDenoiser, Generator, check_requests
from t2imu_utils.models.losses import LossWeights, motion_losses
from t2imu_utils.models.text import TextEncoder, load_text_encoder
from t2imu_utils.models.trainer import (
    ROUNDING,
    STEP,
    VALIDATION,
    Batch,
    Best,
    Dataset,
    Team,
    TrainConfig,
    _generator,
    check_early_stopping,
    check_precision,
    ema_decay_at,
    kept_row,
    launch,
    loss_curves,
    step_items,
)
from t2imu_utils.motion.corpus import MotionClip, Normaliser, statistics
from t2imu_utils.motion.features import (
    CONTACTS,
    POSITIONS,
    ROOT_HEIGHT,
    ROOT_ROTATION,
    ROOT_VELOCITY,
    ROTATIONS,
    VELOCITIES,
    WIDTH,
)
from t2imu_utils.motion.humanml3d import found_statistics
from t2imu_utils.tracks import Count, Fraction, Section, data_root

if TYPE_CHECKING:
    from diffusers import DDPMScheduler


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


@torch.inference_mode()
def guided(
    model: MDM,
    text: Float[Tensor, "B L W"],
    text_valid: Bool[Tensor, "B L"],
    mask: Bool[Tensor, "B T"],
    guidance: float,
    precision: Precision = "float32",
) -> Callable[[Tensor, Tensor], Tensor]:
    """`diffusion.guided` for sampling: the same function of (x_t, t), without gradients or dropout.

    Of `trans_enc`, whose text is one token among the frames and so changes with every layer and
    step, nothing can be computed in advance: it is run as it is.

    precision: of matrix products with weights; sums, norms and the first and last layer stay in
    the model's own. float32 is whatever the model has.

    Raises:
        InputError: more frames than the model takes.
    """
    config = model.config
    if mask.shape[1] > config.max_frames:
        raise InputError(
            "MDM: frames of mask", str(mask.shape[1]), f"at most {config.max_frames}",
            "shorten the motion or use a prior with a larger max_frames",
        )  # fmt: skip
    dtype = torch.bfloat16 if precision == "bfloat16" else model.embed_text.weight.dtype
    if config.arch != "trans_dec":
        return _as_it_is(model, text, text_valid, mask, guidance, dtype)
    doubled = guidance != 1
    once = key_bias(mask if config.mask_frames else None, text)
    twice = torch.cat([once, once]) if doubled and once is not None else once
    states = F.linear(text, model.embed_text.weight)
    steps = model.positions[: config.diffusion_steps]
    wordless = model.embed_text.bias + model.embed_timestep["time_embed"](steps)
    layers = [
        _Layer(layer, states, text_valid, wordless, dtype) for layer in model.seqTransDecoder.layers
    ]
    places = model.positions[: mask.shape[1]]

    @torch.inference_mode()
    def predict(x_t: Float[Tensor, "B T C"], t: Tensor) -> Float[Tensor, "B T C"]:
        x = model.input_process["poseEmbedding"](x_t) + places
        for number, layer in enumerate(layers):
            x = layer.attend_frames(x, twice if number else once)
            if doubled and not number:
                x = torch.cat([x, x])
            x = layer.feed_forward(layer.attend_text(x, t))
        if doubled:
            with_text, without = x.chunk(2)
            x = without + guidance * (with_text - without)
        return model.output_process["poseFinal"](x)

    return predict


def _as_it_is(model, text, text_valid, mask, guidance, dtype) -> Callable[[Tensor, Tensor], Tensor]:
    plain = diffusion.guided(model, text, text_valid, mask, guidance)

    @torch.inference_mode()
    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x_t.device.type, dtype, enabled=dtype == torch.bfloat16):
            return plain(x_t, t).to(x_t.dtype)

    return predict


class _Layer:
    """One layer of `trans_dec` for given texts; rows of x: those with text, then those without."""

    def __init__(
        self,
        layer: Layer,
        states: Float[Tensor, "B L C"],
        valid: Bool[Tensor, "B L"],
        wordless: Float[Tensor, "S C"],
        dtype: torch.dtype,
    ):
        self.layer, self.dtype = layer, dtype
        self.heads = layer.self_attn.heads
        own = layer.self_attn
        self.in_frames = self._cast(own.in_proj_weight, own.in_proj_bias)
        self.out_frames = self._cast(own.out_proj.weight, own.out_proj.bias)
        self.widen = self._cast(layer.linear1.weight, layer.linear1.bias)
        self.narrow = self._cast(layer.linear2.weight, layer.linear2.bias)

        other = layer.multihead_attn
        to_query, to_key, to_value = other.in_proj_weight.chunk(3)
        of_query, _, of_value = other.in_proj_bias.chunk(3)
        out = other.out_proj
        self.constant = out(F.linear(wordless, to_value, of_value))

        keys, values = (
            F.linear(states, weight).unflatten(-1, (self.heads, -1))
            for weight in (to_key, to_value)
        )
        keys = keys * keys.shape[-1] ** -0.5
        query = to_query.unflatten(0, (self.heads, -1))
        score = torch.einsum("hdc,blhd->bchl", query, keys)
        offset = torch.einsum("hd,blhd->bhl", of_query.unflatten(0, (self.heads, -1)), keys)
        offset = offset.masked_fill(~valid[:, None], float("-inf"))
        read = torch.einsum("blhd,chd->bhlc", values, out.weight.unflatten(1, (self.heads, -1)))
        self.score, self.offset, self.read = self._cast(
            score.flatten(2), offset.flatten(1)[:, None], read.flatten(1, 2)
        )

    def _cast(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.detach().to(self.dtype) for x in tensors)

    def attend_frames(self, x: Tensor, bias: Tensor | None) -> Tensor:
        low = x.to(self.dtype)
        parts = F.linear(low, *self.in_frames).chunk(3, dim=-1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in parts)
        mask = None if bias is None else bias.to(self.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        return self.layer.norm1(x + F.linear(out, *self.out_frames))

    def attend_text(self, x: Tensor, t: Tensor) -> Tensor:
        items = len(self.score)
        scores = torch.baddbmm(self.offset, x[:items].to(self.dtype), self.score)
        shares = scores.unflatten(-1, (self.heads, -1)).to(x.dtype).softmax(-1).flatten(-2)
        constant = self.constant[t][:, None]
        x = x + constant.repeat(len(x) // items, 1, 1)
        x[:items] += torch.bmm(shares.to(self.dtype), self.read)
        return self.layer.norm2(x)

    def feed_forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(F.linear(x.to(self.dtype), *self.widen))
        return self.layer.norm3(x + F.linear(hidden, *self.narrow))


FORMAT = "t2imu-prior-1"


@dataclass
class Prior:
    """A text-to-motion prior: network, statistics of its features, its text encoder.

    history: one entry for each training that led here (its settings and what it ended with).
    velocity_weight: with which `features_to_joints` reads its motions, one or one a joint.
    """

    model: MDM
    normaliser: Normaliser
    text_encoder: TextEncoder
    history: list[dict[str, Any]] = field(default_factory=list)
    velocity_weight: float | list[float] = 0.0

    @property
    def config(self) -> MDMConfig:
        """Sizes of the network."""
        return self.model.config

    @property
    def text_encoder_name(self) -> str:
        """Name of the text encoder, as `load_text_encoder` knows it."""
        return self.text_encoder.name

    def condition(self, texts: Sequence[str]) -> tuple[Float[Tensor, "B L W"], Bool[Tensor, "B L"]]:
        """What the network is told of texts, and which of it is no padding.

        `trans_dec` attends to the token states; `trans_enc` gets the pooled vector as one token.
        """
        if self.config.arch == "trans_dec":
            return self.text_encoder.encode(texts)
        pooled = self.text_encoder.encode_pooled(texts)[:, None]
        return pooled, torch.ones(pooled.shape[:2], dtype=torch.bool)


def new_prior(
    config: MDMConfig, normaliser: Normaliser, text_encoder: TextEncoder, seed: int
) -> Prior:
    """An untrained prior; `text_width` of `config` is set to what the encoder gives it."""
    width = condition_width(config.arch, text_encoder)
    return Prior(new_mdm(replace(config, text_width=width), seed), normaliser, text_encoder)


def condition_width(arch: str, text_encoder: TextEncoder) -> int:
    """Size of what `Prior.condition` gives: of a token state, or of the pooled vector."""
    return text_encoder.width if arch == "trans_dec" else text_encoder.pooled_width


def save_prior(path: Path, prior: Prior) -> Path:
    """Write a prior into one file (see `prior_files`)."""
    about = {"config": asdict(prior.config)}
    return write_own(path, FORMAT, prior.model.state_dict(), prior, about)


def load_prior(
    path: Path,
    text_encoder: TextEncoder | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> Prior:
    """Read a prior that `save_prior` wrote, in evaluation mode.

    text_encoder: the encoder to use; None loads the one that the prior names, with token states
    kept in `cache`.

    Raises:
        InputError: no such file, a damaged one, parameters that do not fit the file's own
            configuration (all are listed), or another text encoder than that of the training.
    """
    path = Path(path)
    tensors, about = read_own(path, FORMAT)
    config = MDMConfig(**checked_fields(path, "config", about["config"], MDMConfig))
    text_encoder = same_encoder(path, about, text_encoder, cache)
    model = MDM(config)
    wanted = {key: tuple(x.shape) for key, x in model.state_dict().items()}
    wanted |= statistics_shapes(config.channels)
    check_parameters(path, tensors, wanted, f"those of {config}", REMEDY)
    normaliser = take_statistics(tensors)
    model.load_state_dict(tensors)
    model.to(device).eval()
    return Prior(model, normaliser, text_encoder, about["history"], about["velocity_weight"])


OPEN_FORMAT = "t2imu-open-prior-1"
SUFFIX = ".safetensors"
LIMIT = 16_000_000  # bytes: what a repository bears
OPEN_REMEDY = "Take the file in data/prior again, or write one with `make prior`."


def write_open_prior(
    path: Path, prior: Prior, provenance: dict[str, Any], limit: int = LIMIT
) -> Path:
    """Write a trained prior in half precision, whole or not at all.

    Args:
        provenance: where the weights come from and under which terms; must be JSON-able.
        limit: bytes that the file may have.

    Raises:
        InputError: a weight that half precision does not hold, or too large a file.
    """
    path = Path(path)
    tensors = {k: x.detach().cpu().half().contiguous() for k, x in prior.model.state_dict().items()}
    if broken := [name for name, x in tensors.items() if not x.isfinite().all()]:
        raise InputError(
            f"{path}: parameters", f"{', '.join(broken)}: not finite in half precision",
            "weights below 65504", "Look at the training: weights of this size are not healthy.",
        )  # fmt: skip
    for name in STATISTICS:
        values = np.array(getattr(prior.normaliser, name), dtype=np.float32)
        tensors[f"normaliser.{name}"] = torch.from_numpy(values)
    encoder = prior.text_encoder
    about = {
        "format": OPEN_FORMAT,
        "config": asdict(prior.config),
        "text_encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint},
        "history": prior.history,
        "velocity_weight": prior.velocity_weight,
        "provenance": provenance,
    }
    content = save(tensors, {"t2imu": json.dumps(about, sort_keys=True)})
    if len(content) > limit:
        raise InputError(
            path, f"{len(content) / 1e6:.1f} MB", f"at most {limit / 1e6:g} MB",
            "Train a smaller network: fewer layers, or less width.",
        )  # fmt: skip
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return path


def read_open_prior(
    path: Path,
    text_encoder: TextEncoder | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> Prior:
    """Read what `write_open_prior` wrote, in float32 (in which it computes) and evaluation mode.

    text_encoder: the encoder to use; None loads the one that the prior names, with token states
    kept in `cache`.

    Raises:
        InputError: no such file, a damaged one, one of another format, parameters that do not fit
            the file's own configuration, or another text encoder than that of the training.
    """
    path = Path(path)
    with _told_of(path):
        tensors, about = _read(path)
        config = MDMConfig(**checked_fields(path, "config", about["config"], MDMConfig))
        model = MDM(config)
        wanted = {key: tuple(x.shape) for key, x in model.state_dict().items()}
        # Statistics are not widened: float16 would have lost some of them.
        half = {k: x for k, x in tensors.items() if k in wanted and x.dtype == torch.float16}
        tensors |= {key: x.float() for key, x in half.items()}
        wanted |= statistics_shapes(config.channels)
        check_parameters(path, tensors, wanted, f"those of {config}", OPEN_REMEDY)
        normaliser = take_statistics(tensors)
    text_encoder = same_encoder(path, about, text_encoder, cache)
    model.load_state_dict(tensors)
    model.to(device).eval()
    return Prior(model, normaliser, text_encoder, about["history"], about["velocity_weight"])


def read_provenance(path: Path) -> dict[str, Any]:
    """Where the weights of a file of `write_open_prior` come from, and under which terms.

    Raises:
        InputError: no such file, a damaged one, or one of another format.
    """
    with _told_of(Path(path)):
        return _read(Path(path))[1]["provenance"]


def longest_frames(prior: Prior) -> int:
    """Frames of the longest motion that a prior was trained on, as far as its history tells it."""
    told = [entry.get("config", {}).get("max_frames", 0) for entry in prior.history]
    return min(max(told, default=0) or prior.config.max_frames, prior.config.max_frames)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata, whose fields are of the right kinds."""
    tensors, about = read_own(path, OPEN_FORMAT, {"provenance"})
    kinds = {"config": dict, "text_encoder": dict, "history": list, "provenance": dict}
    for name, kind in kinds.items():
        if not isinstance(about[name], kind):
            found = type(about[name]).__name__
            raise InputError(f"{path}: {name}", f"a {found}", f"a {kind.__name__}", OPEN_REMEDY)
    if lacking := {"name", "fingerprint"} - about["text_encoder"].keys():
        found = f"no {', '.join(sorted(lacking))}"
        raise InputError(f"{path}: text_encoder", found, "both", OPEN_REMEDY)
    return tensors, about


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Errors name the file and what to do about one of the repository, not of a training."""
    try:
        yield
    except InputError as error:
        where = error.where if str(path) in error.where else f"{path}: {error.where}"
        raise InputError(where, error.found, error.expected, OPEN_REMEDY) from error
    # What torch makes of sizes that no network has.
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"{path}: config", str(error), "sizes of an MDM", OPEN_REMEDY) from error


# The term by which early stopping chooses.
SIMPLE = "simple"


def draw_batch(data: Dataset, config: TrainConfig, diffusion_steps: int, step: int) -> Batch:
    """The batch of a step: a function of the data, the seed and the step's number."""
    rng = np.random.default_rng([config.seed, STEP, step])
    shown = np.minimum(data.lengths, config.max_frames)
    items = step_items(shown, config.batch_size, config.seed, step)
    spare = data.lengths[items] - shown[items]
    return data.batch(
        items,
        starts=rng.integers(0, spare + 1),
        captions=rng.integers(0, [len(data.captions[i]) for i in items]),
        max_frames=config.max_frames,
        t=torch.from_numpy(rng.integers(0, diffusion_steps, len(items))),
        drop_text=torch.from_numpy(rng.random(len(items)) < config.condition_dropout),
        noise=_generator(rng),
    )


def batch_losses(
    model: Callable[..., Tensor],
    batch: Batch,
    normaliser: Normaliser,
    weights: LossWeights,
    scheduler: "DDPMScheduler",
    all_terms: bool = False,
) -> dict[str, Float[Tensor, "B"]]:
    """Noise a batch, predict it clean, and compare: eqs. (2)-(6), one value a sample."""
    x_t = add_noise(batch.x0, batch.noise, batch.t, scheduler)
    x0_hat = model(x_t, batch.t, batch.text, batch.text_valid, batch.mask, batch.drop_text)
    return motion_losses(batch.x0, x0_hat, batch.mask, weights, normaliser, all_terms)


@torch.inference_mode()
def validation_losses(
    model: MDM,
    data: Dataset,
    normaliser: Normaliser,
    config: TrainConfig,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """All terms on held-out clips, averaged; timesteps, noise and captions are the same each time.

    Timesteps are spread evenly over the clips; clips are cut at `max_frames`.
    """
    steps, n = model.config.diffusion_steps, len(data)
    scheduler = schedule(steps)
    spread = np.arange(n) * steps // n if n >= steps else np.linspace(0, steps - 1, n).astype(int)
    timesteps = np.random.default_rng([config.seed, VALIDATION, 0]).permutation(spread)
    order = np.argsort(data.lengths, kind="stable")
    sums: dict[str, float] = {}
    for start in range(0, n, config.batch_size):
        items = order[start : start + config.batch_size]
        zeros = np.zeros(len(items), dtype=int)
        batch = data.batch(
            items,
            starts=zeros,
            captions=zeros,
            max_frames=config.max_frames,
            t=torch.from_numpy(timesteps[items]),
            drop_text=torch.zeros(len(items), dtype=torch.bool),
            noise=_generator(np.random.default_rng([config.seed, VALIDATION, 1, start])),
        )
        terms = batch_losses(
            model, batch.to(device), normaliser, config.weights, scheduler, all_terms=True
        )
        for name, values in terms.items():
            sums[name] = sums.get(name, 0.0) + float(values.sum())
    return {name: total / n for name, total in sums.items()}


def train(
    prior: Prior,
    clips: Sequence[MotionClip],
    config: TrainConfig,
    out_dir: Path,
    validation: Sequence[MotionClip] = (),
    progress: bool = True,
    device: torch.device | str = "cpu",
    processes: int = 1,
) -> tuple[Prior, pd.DataFrame]:
    """Train a copy of `prior` on `clips`; returns it (averaged weights) and its loss curves.

    The curves have a row a step (split "train") and a row a validation (split "validation", all
    terms, averaged weights), a column a term; a term that was not computed is NaN. `out_dir` keeps
    the state of the training, named after its ingredients: the same call goes on where it was
    interrupted, bit for bit on a CPU, and returns at once when it had ended.

    processes: more than 1 trains data-parallel in new processes (`parallel.launch`), on as many
    CUDA devices where `device` is one; the batch of a step is the same, and so are losses and
    weights up to the order of sums where the model has no dropout. Another number may go on with a
    state. The model then comes back on the CPU.

    Raises:
        InputError: unusable clips, none held out for early stopping, a damaged state file, a loss
            that is no longer finite, a precision that the device lacks, too many processes, or one
            that was killed.
    """
    if config.max_frames > prior.config.max_frames:
        raise InputError(
            "TrainConfig: max_frames", str(config.max_frames),
            f"at most the model's {prior.config.max_frames}", "Lower it or enlarge the model.",
        )  # fmt: skip
    if not 1 <= processes <= config.batch_size // config.accumulate:
        raise InputError(
            "training: processes", f"{processes}, each with {config.accumulate} parts of a batch",
            f"from 1 to as many as give each part one of the {config.batch_size} clips",
            "Change num_processes, accumulate or batch_size.",
        )  # fmt: skip
    check_early_stopping(config, validation)
    task = _Task(
        prior.model,
        prior.normaliser,
        prior.text_encoder.fingerprint,
        Dataset(prior, clips),
        Dataset(prior, validation) if validation else None,
        config,
        Path(out_dir),
    )
    state = _Training(task, Team(device if processes == 1 else "cpu"))
    bar = tqdm(
        total=config.steps, initial=state.step, unit="step", mininterval=2, disable=not progress
    )

    def tell(step: int, loss: float | None) -> None:
        if loss is not None:
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        bar.update(step - bar.n)

    with bar:
        if processes == 1:
            # Dropout draws from the global generator; it is left as it was found.
            with torch.random.fork_rng(enabled=prior.config.dropout > 0):
                _run(state, tell)
        elif state.step < config.steps:
            launch(_work, task, processes, device, tell)
            state.load()
            tell(state.step, None)
    if state.step < config.steps:
        raise KeyboardInterrupt(f"training: interrupted after step {state.step} of {config.steps}")
    curves = loss_curves(state.rows, state.validated)
    entry = {"config": config.record(), "clips": len(clips), "data": task.data.fingerprint}
    if task.held_out is not None:
        entry["validation"] = kept_row(state.validated, SIMPLE, config.early_stopping)
    if config.early_stopping:
        state.best.restore(state.ema)
    return replace(prior, model=state.ema.eval(), history=[*prior.history, entry]), curves


@dataclass(frozen=True)
class _Task:
    """What a process needs for its share of a training; encoder: fingerprint of the text encoder,
    which is not needed itself."""

    model: MDM
    normaliser: Normaliser
    encoder: str
    data: Dataset
    held_out: Dataset | None
    config: TrainConfig
    folder: Path


def _work(team: Team, task: _Task) -> None:
    """One process of several; what is trained ends in the state file."""
    _run(_Training(task, team), team.tell)


def _run(state: "_Training", tell: Callable[[int, float | None], None]) -> None:
    """All steps that are left, with their validations and checkpoints."""
    task, config, team = state.task, state.config, state.team
    check_precision(config.precision, team.device)
    every = config.validate_every or config.steps
    state.prepare()
    while state.step < config.steps:
        batch = draw_batch(task.data, config, task.model.config.diffusion_steps, state.step)
        state.update(batch)
        ends = state.step == config.steps
        if team.first and task.held_out is not None and (ends or state.step % every == 0):
            terms = validation_losses(
                state.ema, task.held_out, task.normaliser, config, team.device
            )
            state.validated.append({"step": state.step, **terms})
            if config.early_stopping:
                state.best.offer(state.ema, state.step, terms[SIMPLE])
        saves = ends or state.step % config.checkpoint_every == 0
        if saves:
            state.save()
        tell(state.step, state.rows[-1]["total"] if saves else None)


class _Training:
    """Weights, their average, optimiser and curves between two steps; what a state file holds."""

    def __init__(self, task: _Task, team: Team):
        config = task.config
        self.task, self.team, self.config, self.step = task, team, config, 0
        self.scheduler = schedule(task.model.config.diffusion_steps)
        self.model: MDM = copy.deepcopy(task.model).to(team.device).train().requires_grad_(True)
        self.ema: MDM = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.rows: list[dict[str, float]] = []
        self.validated: list[dict[str, float]] = []
        self.best = Best()
        self._pending: list[dict[str, Tensor | float]] = []
        self._joined: nn.Module = self.model
        ingredients = [
            config.record(*ROUNDING), asdict(task.model.config), _weights_hash(task.model),
            task.data.fingerprint, task.encoder,
        ]  # fmt: skip
        if config.early_stopping:
            ingredients.append(task.held_out.fingerprint)
        self.key = sha256(json.dumps(ingredients, sort_keys=True).encode())
        self.path = task.folder / f"training-{self.key[:12]}.pt"
        if self.path.exists():
            self.load()

    def prepare(self) -> None:
        """Compile the layers where asked to, and join the other processes."""
        if self.config.compile:
            stack = next(part for part in self.model.children() if isinstance(part, Stack))
            stack.compile(dynamic=True)
        self._joined = self.team.join(self.model)

    def _predict(self, *inputs: Tensor) -> Tensor:
        if self.config.precision == "float32":
            return self._joined(*inputs)
        with torch.autocast(self.team.device.type, dtype=torch.bfloat16):
            return self._joined(*inputs).float()

    def _parts(self, batch: Batch) -> Iterator[tuple[Batch, float, bool]]:
        """This process's parts of a batch, the share of each in it, and whether it is the last."""
        size, team, k = len(batch.t), self.team, self.config.accumulate
        for i in range(team.index * k, (team.index + 1) * k):
            start, end = (size * n // (team.count * k) for n in (i, i + 1))
            part = Batch(**{name: x[start:end] for name, x in vars(batch).items()})
            yield part.to(team.device), (end - start) / size, i + 1 == (team.index + 1) * k

    def update(self, batch: Batch) -> None:
        """One step of AdamW on the mean of `total`, then of the moving average."""
        if self.model.config.dropout > 0:
            stream = [self.config.seed, STEP, self.step, 1]
            stream += [self.team.index] if self.team.index else []
            torch.manual_seed(int(np.random.default_rng(stream).integers(2**63)))
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.learning_rate_at(self.step)
        self.optimiser.zero_grad()
        means: dict[str, Tensor] = {}
        for part, share, last in self._parts(batch):
            with nullcontext() if last else self.team.apart(self._joined):
                terms = batch_losses(
                    self._predict, part, self.task.normaliser, self.config.weights, self.scheduler
                )
                # Processes average their gradients, which here are to add up.
                (terms["total"].mean() * (share * self.team.count)).backward()
            for name, x in terms.items():
                mean = x.detach().mean() * share
                means[name] = means[name] + mean if name in means else mean
        self.optimiser.step()
        if self.team.first:
            decay = ema_decay_at(self.config.ema_decay, self.step)
            with torch.no_grad():
                for kept, new in zip(self.ema.parameters(), self.model.parameters(), strict=True):
                    kept.lerp_(new, 1 - decay)
        self.step += 1
        self._pending.append(means)

    def save(self) -> None:
        """Write the state atomically, after making sure that it is still sound."""
        self._flush()
        if not self.team.first:
            return
        content = {
            "key": self.key,
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rows": self.rows,
            "validated": self.validated,
            "best": self.best.state(),
        }
        with atomic_write(self.path) as temporary:
            torch.save(content, temporary)

    def _flush(self) -> None:
        first = self.step - len(self._pending)
        if self.team.count > 1:
            names = list(self._pending[0])
            table = torch.stack([torch.stack(list(terms.values())) for terms in self._pending])
            summed = self.team.sum(table).tolist()
            self._pending = [dict(zip(names, values, strict=True)) for values in summed]
        for i, terms in enumerate(self._pending, start=first + 1):
            row = {"step": i, **{name: float(x) for name, x in terms.items()}}
            if not np.isfinite(row["total"]):
                raise InputError(
                    f"training, step {i}: loss", str(row["total"]), "a finite loss",
                    "Lower learning_rate or the weights of the losses.",
                )  # fmt: skip
            self.rows.append(row)
        self._pending.clear()

    def load(self) -> None:
        """Go to where the state file is."""
        try:
            content = torch.load(self.path, map_location=self.team.device, weights_only=True)
            if content["key"] != self.key:
                raise KeyError("it belongs to another training")
            self.model.load_state_dict(content["model"])
            self.ema.load_state_dict(content["ema"])
            self.optimiser.load_state_dict(content["optimiser"])
            self.step, self.rows = content["step"], content["rows"]
            self.validated = content["validated"]
            self.best.load(content["best"])
        except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise InputError(
                self.path,
                f"unreadable ({type(error).__name__})",
                "the state of an interrupted training",
                "Delete the file to train from the start.",
            ) from error


def _weights_hash(model: nn.Module) -> str:
    parts = [f"{k}:{sha256(x.cpu().numpy().tobytes())}" for k, x in model.state_dict().items()]
    return sha256("\n".join(parts).encode())


def generate(
    prior: Prior,
    prompts: Sequence[str],
    frames: Sequence[int],
    seeds: Sequence[int],
    guidance: float = 2.5,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    progress: bool = True,
    solver: Solver | None = None,
    precision: Precision = "float32",
) -> list[Float[np.ndarray, "T 263"]]:
    """One motion for each prompt, as raw (de-normalised) features at 20 fps, in order.

    frames: length of each motion. seeds: one an item; an item's motion is made by its prompt,
    length and seed alone, whatever it is sampled with (up to rounding). Items are batched by
    length, so that little padding is computed.

    solver: None is ancestral sampling over all steps. precision: of matrix products; with
    "bfloat16" a motion differs by about one percent.

    Raises:
        InputError: what `check_requests` refuses, or more evaluations than the prior has steps.
    """
    check_requests(prior, prompts, frames, seeds, batch_size)
    solver = solver or Solver()
    solver.count(prior.config.diffusion_steps)
    tokens, valid = prior.condition(prompts)
    scheduler = schedule(prior.config.diffusion_steps)
    model = prior.model.to(device).eval()
    order = sorted(range(len(prompts)), key=lambda i: frames[i])
    motions: list[np.ndarray] = [np.empty(0)] * len(prompts)
    with tqdm(total=len(prompts), unit="motion", mininterval=2, disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            items = order[start : start + batch_size]
            lengths = [int(frames[i]) for i in items]
            mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
            generators = [torch.Generator().manual_seed(int(seeds[i])) for i in items]
            longest = int(valid[items].sum(1).max())
            predict = guided(
                model,
                tokens[items, :longest].to(device),
                valid[items, :longest].to(device),
                mask.to(device),
                guidance,
                precision,
            )
            noise = item_noise(lengths, generators, prior.config.channels, device)
            x = sample(predict, noise, scheduler, solver).cpu().numpy()
            for i, length, row in zip(items, lengths, x, strict=True):
                raw = prior.normaliser.denormalise(row[:length])
                motions[i] = np.asarray(raw, dtype=np.float32)
            bar.update(len(items))
    return motions


ARGS = "args.json"
# (arch, text_encoder_type) -> our encoder: what MDM here is conditioned on.
ENCODERS = {("trans_dec", "bert"): "distilbert", ("trans_enc", "clip"): "clip_mdm"}
REQUIRED = (
    "arch", "dataset", "layers", "latent_dim", "cond_mask_prob", "noise_schedule",
    "diffusion_steps",
)  # fmt: skip
# Fields of which one value is built here; older files lack those that came later.
FIXED = {
    "dataset": "humanml",
    "noise_schedule": "cosine",
    "sigma_small": True,
    "emb_trans_dec": False,
    "unconstrained": False,
    "context_len": 0,
    "pred_len": 0,
    "emb_policy": "add",
    "emb_before_mask": False,
    "keyframe_cond_type": "",
    "multi_target_cond": False,
    "lambda_target_loc": 0.0,
}
# What the official code builds without asking ``args.json``. Priors of other sizes are written with
# these fields, which are read here and nowhere else.
BUILT_IN = {"ff_size": 1024, "num_heads": 4, "dropout": 0.1, "max_frames": 196}
POSITION_TABLES = ("sequence_pos_encoder.pe", "embed_timestep.sequence_pos_encoder.pe")
TABLE_LENGTH = 5000
STATISTICS_FILES = (("Mean.npy", "Std.npy"), ("mean.npy", "std.npy"))
# Std.npy of HumanML3D: half-angle a frame, m a frame, m, share of frames; m, -, m a frame.
SCALED = (
    (ROOT_ROTATION, 0.0129), (ROOT_VELOCITY, 0.0169), (ROOT_HEIGHT, 0.153), (CONTACTS, 0.352)
)  # fmt: skip
OTHERS = ((POSITIONS, 0.123), (ROTATIONS, 0.300), (VELOCITIES, 0.0195))
SCALES = {
    1: "HumanML3D's own",
    5: "divided by HumanML3D's feature bias, once",
    25: "the evaluators', divided by the feature bias twice",
}


def read_mdm(
    source: Path,
    normaliser: Normaliser | None = None,
    encoder: TextEncoder | None = None,
    cache: Path | None = None,
) -> Prior:
    """Read a prior from an official checkpoint, in evaluation mode on the CPU.

    source: ``model<step>.pt``, or its folder, of which the highest step is read. Averaged weights
    (`model_avg`) are preferred to the last ones (`model`); the oldest files hold nothing else than
    the weights. The weights of the text encoder and the tables of sinusoids are passed over. The
    entry of `history` says what was read: ``folder``, ``file``, ``sha256``, ``step``, ``weights``,
    ``statistics``, ``cond_mask_prob``.

    Args:
        normaliser: the statistics that the weights were trained with. None looks for ``Mean.npy``
            and ``Std.npy`` beside the weights, then in ``humanml3d``: official MDM is trained with
            those of the dataset. They are never computed from data.
        encoder: must be the one that the checkpoint names (bert: `distilbert`, clip: `clip_mdm`);
            None loads it, with its states kept in `cache`.

    Raises:
        InputError: no checkpoint, a damaged or unsafe file, a network that is not built here, no
            statistics, another text encoder, or parameters that do not match (all are listed).
    """
    path = _weights_file(Path(source))
    args = _read_args(path.with_name(ARGS))
    named = ENCODERS[args["arch"], args["text_encoder_type"]]
    if encoder is None:
        encoder = load_text_encoder(named, cache)
    if encoder.name != named:
        raise InputError(
            f"{path.with_name(ARGS)}: text_encoder_type", f"the encoder {encoder.name}",
            f"{named}, which the weights were trained with",
            "Pass that encoder; another one's states mean nothing to these weights.",
        )  # fmt: skip
    config = _config(args, condition_width(args["arch"], encoder))
    statistics = "argument"
    if normaliser is None:
        normaliser, statistics = _find_statistics(path.parent)
    tensors, weights = _read_weights(path)
    model = new_mdm(config, seed=0)
    wanted = {key: tuple(x.shape) for key, x in model.state_dict().items()}
    remedy = f"Check that {ARGS} belongs to these weights, and that they are whole."
    check_parameters(path, tensors, wanted, f"those of {config}", remedy)
    model.load_state_dict(tensors)
    step = re.fullmatch(r"model(\d+)\.pt", path.name)
    origin = {
        "folder": path.resolve().parent.name,
        "file": path.name,
        "sha256": sha256(path),
        "step": int(step[1]) if step else None,
        "weights": weights,
        "statistics": statistics,
        "cond_mask_prob": float(args["cond_mask_prob"]),
    }
    return Prior(model.eval(), normaliser, encoder, [origin])


def write_mdm(folder: Path, prior: Prior, step: int) -> Path:
    """Write a prior as ``model<step>.pt`` with ``args.json``, ``Mean.npy`` and ``Std.npy``.

    `model` and `model_avg` are the same weights. Official code loads a prior of its own heads,
    feed-forward width and text width; `BUILT_IN` tells how others are written.

    Returns:
        The file with the weights.

    Raises:
        InputError: a text encoder that official MDM does not have, or a folder that holds another
            checkpoint.
    """
    config, encoder = prior.config, prior.text_encoder.name
    kinds = {(arch, name): kind for (arch, kind), name in ENCODERS.items()}
    if (config.arch, encoder) not in kinds or not 0 <= step < 10**9:
        raise InputError(
            "write_mdm", f"{config.arch} conditioned on {encoder}, step {step}",
            "; ".join(f"{arch} on {name}" for arch, name in kinds) + "; a step of 0 to 999999999",
            "Train with that encoder: official MDM has no other.",
        )  # fmt: skip
    own = {
        "ff_size": config.feedforward,
        "num_heads": config.heads,
        "dropout": config.dropout,
        "max_frames": config.max_frames,
    }
    args = {
        **FIXED,
        "data_dir": "",
        "arch": config.arch,
        "text_encoder_type": kinds[config.arch, encoder],
        "layers": config.layers,
        "latent_dim": config.width,
        "diffusion_steps": config.diffusion_steps,
        "cond_mask_prob": _condition_dropout(prior),
        "mask_frames": config.mask_frames,
        "pos_embed_max_len": TABLE_LENGTH,
        "use_ema": True,
        "lambda_rcxyz": 0.0,
        "lambda_vel": 0.0,
        "lambda_fc": 0.0,
        "multi_encoder_type": "single",
        "target_enc_layers": 1,
        **{name: value for name, value in own.items() if value != BUILT_IN[name]},
    }
    state = {
        key: x.detach().float().cpu().contiguous() for key, x in prior.model.state_dict().items()
    }
    # The official loader deletes the tables from what it reads, so they have to be there.
    state |= dict.fromkeys(POSITION_TABLES, sinusoids(TABLE_LENGTH, config.width)[:, None])
    folder = Path(folder)
    _write_beside(folder / ARGS, json.dumps(args, indent=4, sort_keys=True).encode())
    for name, values in zip(
        STATISTICS_FILES[0], (prior.normaliser.mean, prior.normaliser.std), strict=True
    ):
        _write_beside(folder / name, _npy(np.asarray(values, dtype=np.float32)))
    path = folder / f"model{step:09d}.pt"
    with atomic_write(path) as temporary, open(temporary, "wb") as stream:
        torch.save({"model": state, "model_avg": state}, stream)
    return path


def feature_scale(normaliser: Normaliser) -> int:
    """By what the spread of root and contact channels was divided: 1, 5 or 25 (see `SCALES`).

    Official MDM is trained with HumanML3D's ``Std.npy`` (1); the evaluators of HumanML3D and models
    trained by its code divide these channels twice by 5. The spread of both kinds of channels is
    compared with that of HumanML3D; a corpus would have to be stranger than by a factor 2 to be
    taken for another scale.
    """

    def below(groups: tuple[tuple[slice, float], ...]) -> float:
        found = [max(float(np.mean(normaliser.std[group])), 1e-9) for group, _ in groups]
        return float(np.mean(np.log([typical for _, typical in groups]) - np.log(found)))

    scale = np.exp(below(SCALED) - below(OTHERS))
    nearest = min(SCALES, key=lambda known: abs(np.log(scale / known)))
    if abs(np.log(scale / nearest)) > np.log(5) / 2:
        raise InputError(
            "normaliser: std of channels 0:4 and 259:263",
            f"{scale:.3g} times smaller than the others, against HumanML3D",
            f"about {', '.join(map(str, SCALES))}",
            "Use the statistics that belong to the weights.",
        )
    return nearest


def _weights_file(source: Path) -> Path:
    if source.is_file():
        return source
    found = {
        int(match[1]): path
        for path in (source.iterdir() if source.is_dir() else ())
        if (match := re.fullmatch(r"model(\d+)\.pt", path.name))
    }
    if not found:
        raise InputError(
            source, "no model<step>.pt" if source.is_dir() else "nothing",
            f"an official MDM checkpoint: model<step>.pt with its {ARGS}",
            "Unpack the published archive there; `t2imu data status` says where to get it.",
        )  # fmt: skip
    return found[max(found)]


def _read_args(path: Path) -> dict[str, Any]:
    remedy = f"Restore the {ARGS} that was published with the weights."
    try:
        args = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(path, "no file", "settings of the network", remedy) from error
    except ValueError as error:
        raise InputError(path, f"no valid JSON ({error})", "settings", remedy) from error
    missing = set(REQUIRED) - set(args) if isinstance(args, dict) else REQUIRED
    if missing:
        raise InputError(path, f"no {', '.join(sorted(missing))}", "these fields", remedy)
    args = {"text_encoder_type": "clip", "mask_frames": False, **BUILT_IN, **args}
    problems = []
    arch, kind = args["arch"], args["text_encoder_type"]
    if (arch, kind) not in list(ENCODERS):
        known = " or ".join(f"arch {a!r} with {k!r}" for a, k in ENCODERS)
        problems.append(f"arch {arch!r} with text_encoder_type {kind!r}, not {known}")
    for name, built in FIXED.items():
        absent = args.get(name) is None and name not in REQUIRED
        if not absent and args[name] != built:
            problems.append(f"{name} {args[name]!r}, not {built!r}")
    if args.get("cond_mode") == "no_cond":
        problems.append("cond_mode 'no_cond', not 'text'")
    for name in ("layers", "latent_dim", "diffusion_steps", "ff_size", "num_heads", "max_frames"):
        if type(args[name]) is not int or args[name] < 1:
            problems.append(f"{name} {args[name]!r}, not a whole number from 1")
    for name in ("cond_mask_prob", "dropout"):
        if type(args[name]) not in (int, float) or not 0 <= args[name] < 1:
            problems.append(f"{name} {args[name]!r}, not a number of 0 to 1")
    if type(args["mask_frames"]) is not bool:
        problems.append(f"mask_frames {args['mask_frames']!r}, not true or false")
    if problems:
        raise InputError(
            path, "; ".join(problems), "an MDM as this project builds it",
            "Take humanml_trans_dec_512_bert-50steps or humanml-encoder-512-50steps.",
        )  # fmt: skip
    return args


def _config(args: dict[str, Any], text_width: int) -> MDMConfig:
    return MDMConfig(
        arch=args["arch"],
        layers=args["layers"],
        width=args["latent_dim"],
        heads=args["num_heads"],
        feedforward=args["ff_size"],
        dropout=float(args["dropout"]),
        text_width=text_width,
        mask_frames=args["mask_frames"],
        channels=WIDTH,
        max_frames=args["max_frames"],
        diffusion_steps=args["diffusion_steps"],
    )


def _read_weights(path: Path) -> tuple[dict[str, Any], str]:
    """The parameters by name, and under which name they stood in the file."""
    again = "Download it again and compare its size with the published one."
    content = read_checkpoint(path, again)
    weights = next((x for x in ("model_avg", "model") if _is_dict(content, x)), "state dict")
    state = content if weights == "state dict" else content[weights]
    if not isinstance(state, dict):
        raise InputError(
            path, f"a {type(state).__name__}", "parameters by name, or model_avg or model",
            "Take the file that official MDM wrote, model<step>.pt.",
        )  # fmt: skip
    names = {key: str(key).removeprefix("module.") for key in state}
    kept = {
        names[key]: x
        for key, x in state.items()
        if not names[key].startswith("clip_model.") and not names[key].endswith(".pe")
    }
    return kept, weights


def _is_dict(content: Any, name: str) -> bool:
    return isinstance(content, dict) and isinstance(content.get(name), dict)


def _find_statistics(folder: Path) -> tuple[Normaliser, str]:
    dataset = data_root() / "humanml3d"
    for place, names in (
        *((folder, names) for names in STATISTICS_FILES),
        (dataset, STATISTICS_FILES[0]),
    ):
        if any((place / name).is_file() for name in names):
            where = "humanml3d" if place == dataset else "beside the weights"
            if place == dataset and len(found_statistics(dataset)) < len(names):
                raise InputError(
                    dataset, "not both of Mean.npy and Std.npy, or some computed with the build",
                    "the published ones, which the weights were trained with",
                    "Move these two away and run `t2imu data fetch humanml3d_texts`.",
                )  # fmt: skip
            remedy = "Restore it from where the weights came."
            return read_statistics(place, remedy, names), where
    raise InputError(
        folder, "no Mean.npy and Std.npy", "the statistics that the weights were trained with",
        f"Put HumanML3D's own Mean.npy and Std.npy there, or into {dataset}; never compute them.",
    )  # fmt: skip


def _condition_dropout(prior: Prior) -> float:
    """Of the last training that says; 0.1, as published, where none does."""
    entries = [entry.get("config", entry) for entry in prior.history]
    said = [entry.get("condition_dropout", entry.get("cond_mask_prob")) for entry in entries]
    return next((float(share) for share in reversed(said) if share is not None), 0.1)


def _npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def _write_beside(path: Path, content: bytes) -> None:
    """Write what several steps of one checkpoint share, but never over that of another."""
    if path.exists() and path.read_bytes() != content:
        raise InputError(
            path, "a file of another checkpoint", "none, or the same",
            "Choose an empty folder: checkpoints are not overwritten.",
        )  # fmt: skip
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


# The scale of the official examples.
GUIDANCE = 2.5


class Sizes(Section):
    """Sizes of the transformer (decoder) and of its diffusion."""

    layers: Count
    width: Count
    heads: Count
    feedforward: Count
    dropout: Fraction
    diffusion_steps: Count


@dataclass(frozen=True)
class MDMDenoiser(DiffusionDenoiser):
    """x̂_0 from a noisy motion and the clip's first caption, without guidance."""

    prior: Prior

    def __call__(
        self,
        clips: Sequence[MotionClip],
        x0: Float[Tensor, "B T C"],
        mask: Bool[Tensor, "B T"],
        level: Int[Tensor, "B"],
        noise: Float[Tensor, "B T C"],
    ) -> Float[Tensor, "B T C"]:
        """Its guess of the clean motions."""
        text, valid = (
            x.to(self.device) for x in self.prior.condition([c.captions[0] for c in clips])
        )
        model = self.prior.model.to(self.device).eval()
        x_t = add_noise(x0, noise, level, schedule(self.levels))
        return model(x_t, level, text, valid, mask)


class MDMGenerator(Generator):
    """See the module."""

    Sizes = Sizes
    solvers = tuple(SCHEMES)

    def __init__(self, solver: Solver | None = None, precision: Precision = "float32"):
        self.solver, self.precision = solver or Solver(), precision

    @property
    def sampler(self) -> dict[str, Any]:
        return {"solver": asdict(self.solver), "precision": self.precision}

    def with_solver(self, solver: Solver, precision: Precision = "float32") -> "MDMGenerator":
        return MDMGenerator(solver, precision)

    def untrained(self, sizes, clips, encoder, seed):
        config = MDMConfig(arch="trans_dec", **sizes.model_dump())
        normaliser = Normaliser(*statistics([clip.features for clip in clips]))
        return new_prior(config, normaliser, encoder, seed)

    def published(self, folder: Path, sizes, encoder: TextEncoder) -> Prior:
        return read_mdm(folder, encoder=encoder)

    def train(self, prior, clips, settings, folder, held_out, device, processes=1):
        return train(
            prior, clips, settings, folder, held_out, device=device, processes=processes
        )  # fmt: skip

    refine = train

    def validation(self, prior, held_out, settings: TrainConfig, device) -> dict[str, float]:
        model, data = prior.model.to(device).eval(), Dataset(prior, held_out)
        return validation_losses(model, data, prior.normaliser, settings, device)

    def save(self, path: Path, prior: Prior) -> list[Path]:
        return [save_prior(path, prior)]

    def load(self, path: Path, encoder: TextEncoder | None = None) -> Prior:
        return load_prior(path, encoder)

    def generate(
        self, prior, prompts, frames, seeds, guidance, batch_size, device, progress=True
    ):  # fmt: skip
        scale = GUIDANCE if guidance is None else guidance
        return generate(
            prior, prompts, frames, seeds, scale, batch_size, device, progress, self.solver,
            self.precision,
        )  # fmt: skip

    def denoiser(self, prior: Prior, device) -> MDMDenoiser:
        return MDMDenoiser(prior, device)

    def parameters(self, prior: Prior) -> int:
        return sum(p.numel() for p in prior.model.parameters())

    def network(self, prior: Prior) -> dict:
        config = prior.config
        table = {
            "layers × width": f"{config.layers} × {config.width}",
            "dropout": config.dropout,
            "mask_frames": config.mask_frames,
            "diffusion steps": config.diffusion_steps,
        }
        if prior.history:
            scale = feature_scale(prior.normaliser)
            table["scale of root and contact features"] = f"{scale} ({SCALES[scale]})"
        return table


GENERATOR = MDMGenerator()
