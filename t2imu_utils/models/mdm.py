"""The Motion Diffusion Model (Tevet et al., ICLR 2023), the generator that the paper refines.

Parameters carry the names of the official checkpoints, so that those load as they are. Two
architectures: a transformer decoder that attends to text tokens (`trans_dec`, the DistilBERT
variant that the paper refines) and a transformer encoder that reads one pooled text vector as an
extra token (`trans_enc`, the CLIP variant).
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write, sha256
from t2imu_utils.models import checkpoints, trainer
from t2imu_utils.models.diffusion import (
    SCHEMES,
    Precision,
    Solver,
    add_noise,
    guided,
    item_noise,
    sample,
    schedule,
)
from t2imu_utils.models.generator import Denoiser, Generator, check_requests, in_batches
from t2imu_utils.models.losses import LossWeights, motion_losses
from t2imu_utils.models.text import TextEncoder
from t2imu_utils.models.trainer import STEP, Batch, Dataset, TrainConfig, prefix
from t2imu_utils.motion.corpus import MotionClip, Normaliser, statistics
from t2imu_utils.tracks import Count, Fraction, Section, data_root

# The scale of the official examples.
GUIDANCE = 2.5
# The term by which early stopping chooses.
CRITERION = "simple"
# Formats of own files: as trained, and in half precision with its provenance, as shipped.
FORMAT, OPEN_FORMAT = "t2imu-prior-1", "t2imu-open-prior-1"
ARGS = "args.json"
# (arch, text_encoder_type) -> our encoder: what MDM here is conditioned on.
ENCODERS = {("trans_dec", "bert"): "distilbert", ("trans_enc", "clip"): "clip_mdm"}
COUNTS = ("layers", "latent_dim", "diffusion_steps", "ff_size", "num_heads", "max_frames")
# Fields of ``args.json`` of which one value is built here; older files lack the later ones.
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
MEAN_STD = ("Mean.npy", "Std.npy")


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
        if self.arch not in ("trans_dec", "trans_enc") or self.width % 2 or self.width % self.heads:
            raise InputError(
                "MDMConfig: arch, width", f"{self.arch!r}, {self.width} with {self.heads} heads",
                "trans_dec or trans_enc; an even width divisible by the number of heads",
                "Change them.",
            )  # fmt: skip


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
def fast_guided(
    model: MDM,
    text: Float[Tensor, "B L W"],
    text_valid: Bool[Tensor, "B L"],
    mask: Bool[Tensor, "B T"],
    guidance: float,
    precision: Precision = "float32",
) -> Callable[[Tensor, Tensor], Tensor]:
    """`diffusion.guided` for sampling: the same function of (x_t, t), without gradients or dropout,
    up to rounding. What does not change from step to step is computed once.

    In a layer of `trans_dec`, frames x attend to memory tokens m_l = E y_l + e + τ(t) of text
    states y_l, a bias e and the step's time vector τ(t):

    * A key's part W_k (e + τ) + b_k is the same for all tokens, so it adds one number to all scores
      of a query and falls out of the softmax; a value's part W_v (e + τ) + b_v passes through
      unchanged, since weights sum to 1. So keys and values of the text are the same at every step.
    * Then a head's W_q and keys are one matrix (width, L), its values and W_o another (L, width):
      two narrow products take the place of the two wide projections of each frame.
    * Without text all tokens are alike, and attention gives W_o (W_v (e + τ) + b_v) + b_o whatever
      the query: a constant of the step.
    * Before the first cross-attention both halves of the guided batch are alike, and the last layer
      is linear: both parts are computed once.


    Of `trans_enc`, whose text is one token among the frames and so changes with every layer and
    step, nothing can be computed in advance: it is run as it is.

    precision: of matrix products with weights; sums, norms and the first and last layer stay in
    the model's own. float32 is whatever the model has.
    """
    config = model.config
    dtype = torch.bfloat16 if precision == "bfloat16" else model.embed_text.weight.dtype
    if config.arch != "trans_dec":
        plain = guided(model, text, text_valid, mask, guidance)

        @torch.inference_mode()
        def as_it_is(x_t: Tensor, t: Tensor) -> Tensor:
            with torch.autocast(x_t.device.type, dtype, enabled=dtype == torch.bfloat16):
                return plain(x_t, t).to(x_t.dtype)

        return as_it_is
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


# ---------------------------------------------------------------- a prior, trained and sampled
@dataclass
class Prior:
    """A text-to-motion prior: network, statistics of its features, its text encoder.

    history: one entry for each training that led here (its settings and what it ended with), or
    for the checkpoint that was read.
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
    width = text_encoder.width if config.arch == "trans_dec" else text_encoder.pooled_width
    return Prior(new_mdm(replace(config, text_width=width), seed), normaliser, text_encoder)


def draw_batch(data: Dataset, config: TrainConfig, diffusion_steps: int, step: int) -> Batch:
    """The batch of a step: a function of the data, the seed and the step's number."""
    return trainer.draw_batch(data, config, diffusion_steps, step)[0]


def batch_losses(
    model: Callable[..., Tensor],
    batch: Batch,
    normaliser: Normaliser,
    weights: LossWeights,
    all_terms: bool = False,
    *,
    steps: int,
    precision: Precision = "float32",
) -> dict[str, Float[Tensor, "B"]]:
    """Noise a batch, predict it clean, and compare: eqs. (2)-(6), one value a sample.

    steps: of the diffusion. precision: of the network; the losses are float32.
    """
    x_t = add_noise(batch.x0, batch.noise, batch.t, schedule(steps))
    with torch.autocast(x_t.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        x0_hat = model(x_t, batch.t, batch.text, batch.text_valid, batch.mask, batch.drop_text)
    return motion_losses(batch.x0, x0_hat.float(), batch.mask, weights, normaliser, all_terms)


def step_losses(
    network: nn.Module,
    step: int,
    part: int,
    parts: int,
    *,
    data: Dataset,
    normaliser: Normaliser,
    config: TrainConfig,
    steps: int,
) -> dict[str, Tensor]:
    """Losses of a part of a step's batch (`trainer.Losses`)."""
    whole = draw_batch(data, config, steps, step)
    batch = whole.part(part, parts).to(next(network.parameters()).device)
    terms = batch_losses(
        network, batch, normaliser, config.weights, steps=steps, precision=config.precision
    )
    share = len(batch.t) / len(whole.t)
    return {name: x.mean() * share for name, x in terms.items()}


def validation_losses(
    model: MDM, data: Dataset, normaliser: Normaliser, config: TrainConfig
) -> dict[str, float]:
    """All terms on held-out clips, averaged (`trainer.held_out_losses`)."""
    device, steps = next(model.parameters()).device, model.config.diffusion_steps

    def losses(batch: Batch, _: Any) -> dict[str, Tensor]:
        batch = batch.to(device)
        return batch_losses(model, batch, normaliser, config.weights, True, steps=steps)

    return trainer.held_out_losses(data, config, steps, losses)


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

    `out_dir` keeps the state of the training (see `trainer.train`, also for `processes`).
    """
    if not 1 <= processes <= config.batch_size // config.accumulate:
        raise InputError(
            "training: processes", f"{processes}, each with {config.accumulate} parts of a batch",
            f"from 1 to as many as give each part one of the {config.batch_size} clips",
            "Change num_processes, accumulate or batch_size.",
        )  # fmt: skip
    data, settings = Dataset(prior, clips), {"normaliser": prior.normaliser, "config": config}
    losses = partial(step_losses, data=data, steps=prior.config.diffusion_steps, **settings)
    validate, key = None, []
    if validation:
        held_out = Dataset(prior, validation)
        validate = partial(validation_losses, data=held_out, **settings)
        key += [held_out.fingerprint] if config.early_stopping else []
    return trainer.train_diffusion(
        prior, data, config, out_dir, losses, validate, key, CRITERION, (STEP, 1), progress,
        device, processes,
    )  # fmt: skip


def generate(
    prior: Prior,
    prompts: Sequence[str],
    frames: Sequence[int],
    seeds: Sequence[int],
    guidance: float = GUIDANCE,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    progress: bool = True,
    solver: Solver | None = None,
    precision: Precision = "float32",
) -> list[Float[np.ndarray, "T 263"]]:
    """One motion for each prompt, as raw (de-normalised) features at 20 fps, in order.

    frames: length of each motion. seeds: one an item; an item's motion is made by its prompt,
    length and seed alone, whatever it is sampled with (up to rounding). solver: None is ancestral
    sampling over all steps. precision: of matrix products; with "bfloat16" a motion differs by
    about one percent.
    """
    check_requests(prior, prompts, frames, seeds, batch_size)
    solver = solver or Solver()
    solver.count(prior.config.diffusion_steps)
    tokens, valid = prior.condition(prompts)
    steps = schedule(prior.config.diffusion_steps)
    model = prior.model.to(device).eval()

    def make(items: list[int], lengths: list[int], generators: list[torch.Generator]):
        longest = int(valid[items].sum(1).max())
        text = tokens[items, :longest].to(device), valid[items, :longest].to(device)
        mask = prefix(lengths).to(device)
        predict = fast_guided(model, *text, mask, guidance, precision)
        noise = item_noise(lengths, generators, prior.config.channels, device)
        return sample(predict, noise, steps, solver).cpu().numpy()

    return in_batches(make, frames, seeds, batch_size, prior.normaliser, progress)


# ---------------------------------------------------------------- files
def save_prior(path: Path, prior: Prior) -> Path:
    """Write a prior into one file (`checkpoints.save`)."""
    return checkpoints.save(path, FORMAT, {"": prior.model}, prior)


def write_open_prior(path: Path, prior: Prior, provenance: dict[str, Any]) -> Path:
    """Write a trained prior in half precision, as the project ships it.

    provenance: where the weights come from and under which terms; must be JSON-able.
    """
    networks = {"": prior.model}
    return checkpoints.save(path, OPEN_FORMAT, networks, prior, half=True, provenance=provenance)


def load_prior(path: Path, text_encoder: TextEncoder | None = None) -> Prior:
    """Read what `save_prior` or `write_open_prior` wrote (`checkpoints.load`)."""
    kinds = (FORMAT, OPEN_FORMAT)
    networks, common, _ = checkpoints.load(
        path, kinds, MDMConfig, lambda config, _: {"": MDM(config)}, text_encoder
    )
    return Prior(networks[""], **common)


def longest_frames(prior: Prior) -> int:
    """Frames of the longest motion that a prior was trained on, as far as its history tells it."""
    told = [entry.get("config", {}).get("max_frames", 0) for entry in prior.history]
    return min(max(told, default=0) or prior.config.max_frames, prior.config.max_frames)


def read_mdm(
    source: Path, normaliser: Normaliser | None = None, encoder: TextEncoder | None = None
) -> Prior:
    """Read a prior from an official checkpoint, in evaluation mode on the CPU.

    source: ``model<step>.pt``, or its folder, of which the highest step is read, with ``args.json``
    beside it: fields and keys are those of GuyTevet/motion-diffusion-model, in its first release as
    well as in the later ones. Averaged weights (`model_avg`) are preferred to the last ones
    (`model`); the oldest files hold nothing else than the weights. The entry of `history` says what
    was read.

    Args:
        normaliser: the statistics that the weights were trained with. None looks for ``Mean.npy``
            and ``Std.npy`` beside the weights, then in ``humanml3d``: official MDM is trained with
            those of the dataset. They are never computed from data.
        encoder: must be the one that the checkpoint names (bert: `distilbert`, clip: `clip_mdm`);
            None loads it.
    """
    path = _weights_file(Path(source))
    args = _read_args(path.with_name(ARGS))
    named = ENCODERS[args["arch"], args["text_encoder_type"]]
    encoder = checkpoints.official_encoder(path.with_name(ARGS), encoder, named)
    config = MDMConfig(
        arch=args["arch"],
        layers=args["layers"],
        width=args["latent_dim"],
        heads=args["num_heads"],
        feedforward=args["ff_size"],
        dropout=float(args["dropout"]),
        mask_frames=args["mask_frames"],
        max_frames=args["max_frames"],
        diffusion_steps=args["diffusion_steps"],
    )
    where = "argument"
    if normaliser is None:
        normaliser, where = _find_statistics(path.parent)
    prior = new_prior(config, normaliser, encoder, seed=0)
    _, weights = checkpoints.load_official(
        path, prior.model, ("model_avg", "model"), f"those of {config}",
        f"Check that {ARGS} belongs to these weights, and that the file is whole.",
        ignored=lambda name: name.startswith("clip_model.") or name.endswith(".pe"), bare=True,
    )  # fmt: skip
    step = re.fullmatch(r"model(\d+)\.pt", path.name)
    origin = {
        "folder": path.resolve().parent.name,
        "file": path.name,
        "sha256": sha256(path),
        "step": int(step[1]) if step else None,
        "weights": weights or "state dict",
        "statistics": where,
        "cond_mask_prob": float(args["cond_mask_prob"]),
    }
    return replace(prior, history=[origin])


def write_mdm(folder: Path, prior: Prior, step: int) -> Path:
    """Write a prior as ``model<step>.pt`` with ``args.json``, ``Mean.npy`` and ``Std.npy``.

    `model` and `model_avg` are the same weights. Official code loads a prior of its own heads,
    feed-forward width and text width; `BUILT_IN` tells how others are written.
    """
    config, encoder, folder = prior.config, prior.text_encoder.name, Path(folder)
    kinds = {(arch, name): kind for (arch, kind), name in ENCODERS.items()}
    if (config.arch, encoder) not in kinds or (folder / ARGS).exists():
        raise InputError(
            f"{folder / ARGS}", f"a prior of {config.arch} conditioned on {encoder}",
            "; ".join(f"{arch} on {name}" for arch, name in kinds) + "; a folder without one",
            "Official MDM has no other encoders. Checkpoints are not overwritten.",
        )  # fmt: skip
    told = [e.get("config", e) for e in prior.history]
    told = [e.get("condition_dropout", e.get("cond_mask_prob")) for e in told]
    own = {"ff_size": config.feedforward, "num_heads": config.heads}
    own |= {"dropout": config.dropout, "max_frames": config.max_frames}
    args = FIXED | {
        "data_dir": "", "arch": config.arch, "text_encoder_type": kinds[config.arch, encoder],
        "layers": config.layers, "latent_dim": config.width,
        "diffusion_steps": config.diffusion_steps, "mask_frames": config.mask_frames,
        "cond_mask_prob": next((float(x) for x in reversed(told) if x is not None), 0.1),
        "pos_embed_max_len": TABLE_LENGTH, "use_ema": True, "lambda_rcxyz": 0.0,
        "lambda_vel": 0.0, "lambda_fc": 0.0, "multi_encoder_type": "single",
        "target_enc_layers": 1,
        **{name: value for name, value in own.items() if value != BUILT_IN[name]},
    }  # fmt: skip
    state = {k: x.detach().float().cpu().clone() for k, x in prior.model.state_dict().items()}
    # The official loader deletes the tables from what it reads, so they have to be there.
    state |= dict.fromkeys(POSITION_TABLES, sinusoids(TABLE_LENGTH, config.width)[:, None])
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in zip(MEAN_STD, (prior.normaliser.mean, prior.normaliser.std), strict=True):
        np.save(folder / name, np.asarray(values, dtype=np.float32))
    path = folder / f"model{step:09d}.pt"
    with atomic_write(path) as temporary:
        torch.save({"model": state, "model_avg": state}, temporary)
    (folder / ARGS).write_text(json.dumps(args, indent=4, sort_keys=True))
    return path


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
    """Settings of an official network, if it is one that is built here."""
    try:
        args = {"text_encoder_type": "clip", "mask_frames": False, **BUILT_IN}
        args |= json.loads(path.read_bytes())
        kind = args["arch"], args["text_encoder_type"]
        found = {name: args[name] for name in FIXED if args.get(name) is not None}
        counts = [args[name] for name in COUNTS]
        shares = float(args["cond_mask_prob"]), float(args["dropout"])
        absent = {"dataset", "noise_schedule"} - set(args)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            path, repr(error), "the settings of a network",
            f"Restore the {ARGS} that was published with the weights.",
        ) from error  # fmt: skip
    problems = [f"no {name}" for name in absent]
    problems += [f"arch {kind[0]!r} with text_encoder_type {kind[1]!r}"] * (kind not in ENCODERS)
    problems += [f"{k} {x!r}, not {FIXED[k]!r}" for k, x in found.items() if x != FIXED[k]]
    problems += ["cond_mode 'no_cond', not 'text'"] * (args.get("cond_mode") == "no_cond")
    if not all(type(n) is int and n >= 1 for n in counts) or not all(0 <= x < 1 for x in shares):
        problems.append(f"{', '.join(COUNTS)} {counts}; cond_mask_prob, dropout {shares}")
    if problems:
        raise InputError(
            path, "; ".join(problems), "an MDM as this project builds it",
            "Take humanml_trans_dec_512_bert-50steps or humanml-encoder-512-50steps.",
        )  # fmt: skip
    return args


def _find_statistics(folder: Path) -> tuple[Normaliser, str]:
    dataset = data_root() / "humanml3d"
    places = ((folder, MEAN_STD), (folder, ("mean.npy", "std.npy")), (dataset, MEAN_STD))
    for place, names in places:
        if any((place / name).is_file() for name in names):
            remedy = "Restore it from where the weights came."
            if place == dataset:
                remedy = "Run `t2imu data fetch humanml3d_texts`."
            found = checkpoints.read_statistics(place, remedy, names)
            return found, "humanml3d" if place == dataset else "beside the weights"
    raise InputError(
        folder, "no Mean.npy and Std.npy", "the statistics that the weights were trained with",
        f"Put HumanML3D's own Mean.npy and Std.npy there, or into {dataset}; never compute them.",
    )  # fmt: skip


# ---------------------------------------------------------------- the family
class Sizes(Section):
    """Sizes of the transformer (decoder) and of its diffusion."""

    layers: Count
    width: Count
    heads: Count
    feedforward: Count
    dropout: Fraction
    diffusion_steps: Count


class MDMGenerator(Generator):
    """See the module."""

    Sizes = Sizes
    solvers = tuple(SCHEMES)

    def __init__(self, solver: Solver | None = None, precision: Precision = "float32"):
        self.solver, self.precision = solver or Solver(), precision

    @property
    def sampler(self):
        return {"solver": asdict(self.solver), "precision": self.precision}

    def with_solver(self, solver, precision="float32"):
        return MDMGenerator(solver, precision)

    def untrained(self, sizes, clips, encoder, seed):
        config = MDMConfig(arch="trans_dec", **sizes.model_dump())
        normaliser = Normaliser(*statistics([clip.features for clip in clips]))
        return new_prior(config, normaliser, encoder, seed)

    def published(self, folder, sizes, encoder):
        return read_mdm(folder, encoder=encoder)

    def train(self, prior, clips, settings, folder, held_out, device, processes=1):
        return train(prior, clips, settings, folder, held_out, device=device, processes=processes)

    refine = train

    def validation(self, prior, held_out, settings, device):
        model, data = prior.model.to(device).eval(), Dataset(prior, held_out)
        return validation_losses(model, data, prior.normaliser, settings)

    def save(self, path, prior):
        return [save_prior(path, prior)]

    load = staticmethod(load_prior)

    def generate(
        self, prior, prompts, frames, seeds, guidance, batch_size, device, progress=True
    ):  # fmt: skip
        scale = GUIDANCE if guidance is None else guidance
        return generate(
            prior, prompts, frames, seeds, scale, batch_size, device, progress, self.solver,
            self.precision,
        )  # fmt: skip

    def denoiser(self, prior, device):
        """x̂_0 from a noisy motion and the clip's first caption, without guidance."""
        model, levels = prior.model.to(device).eval(), prior.config.diffusion_steps

        def guess(clips, x0, mask, level, noise):
            text, valid = prior.condition([clip.captions[0] for clip in clips])
            x_t = add_noise(x0, noise, level, schedule(levels))
            return model(x_t, level, text.to(device), valid.to(device), mask)

        return Denoiser(guess, prior.normaliser, prior.config.max_frames, levels)

    def network(self, prior):
        config = prior.config
        return {
            "layers × width": f"{config.layers} × {config.width}",
            "dropout": config.dropout,
            "mask_frames": config.mask_frames,
            "diffusion steps": config.diffusion_steps,
        }


GENERATOR = MDMGenerator()
