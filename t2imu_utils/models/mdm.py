"""The Motion Diffusion Model (Tevet et al., ICLR 2023), the generator that the paper refines.

Parameters carry the names of the official checkpoints, so that those load as they are. Two
architectures: a transformer decoder that attends to text tokens (`trans_dec`, the DistilBERT
variant that the paper refines) and a transformer encoder that reads one pooled text vector as an
extra token (`trans_enc`, the CLIP variant).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256
from t2imu_utils.models import checkpoints
from t2imu_utils.models.diffusion import SCHEMES, Solver, guided, item_noise, sample, schedule
from t2imu_utils.models.generator import TransformerSizes, check_requests, in_batches, normaliser_of
from t2imu_utils.models.text import TextEncoder
from t2imu_utils.models.trainer import STEP, Batch, DiffusionGenerator, prefix
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.tracks import Count, Fraction, data_root

# The scale of the official examples.
GUIDANCE = 2.5
# Formats of own files; the second is that of older ones.
FORMAT, OPEN_FORMAT = "t2imu-prior-1", "t2imu-open-prior-1"
ARGS = "args.json"
# (arch, text_encoder_type) -> our encoder: what MDM here is conditioned on.
ENCODERS = {("trans_dec", "bert"): "distilbert", ("trans_enc", "clip"): "clip_mdm"}
# Fields of ``args.json`` of which one value is built here; older files lack most of them.
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
# Our size -> its field of ``args.json``, and what the official code builds where that is absent.
SIZES = {
    "arch": ("arch", None),
    "layers": ("layers", None),
    "width": ("latent_dim", None),
    "diffusion_steps": ("diffusion_steps", None),
    "mask_frames": ("mask_frames", False),
    "feedforward": ("ff_size", 1024),
    "heads": ("num_heads", 4),
    "dropout": ("dropout", 0.1),
    "max_frames": ("max_frames", 196),
}
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
        self.drop = nn.Dropout(dropout)
        self.crosses = config.arch == "trans_dec"
        self.self_attn = Attention(width, config.heads, dropout)
        if self.crosses:
            self.multihead_attn = Attention(width, config.heads, dropout)
        self.linear1 = nn.Linear(width, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        if self.crosses:
            self.norm3 = nn.LayerNorm(width)

    def forward(
        self, x: Tensor, bias: Tensor | None, memory: Tensor | None, memory_bias: Tensor | None
    ) -> Tensor:
        x = self.norm1(x + self.drop(self.self_attn(x, None, bias)))
        if self.crosses:
            x = self.norm2(x + self.drop(self.multihead_attn(x, memory, memory_bias)))
        hidden = self.drop(F.gelu(self.linear1(x)))
        last_norm = self.norm3 if self.crosses else self.norm2
        return last_norm(x + self.drop(self.linear2(hidden)))


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


@torch.inference_mode()
def fast_guided(
    model: MDM,
    text: Float[Tensor, "B L W"],
    text_valid: Bool[Tensor, "B L"],
    mask: Bool[Tensor, "B T"],
    guidance: float,
) -> Callable[[Tensor, Tensor], Tensor]:
    """x̂_0 with guidance as a function of (x_t, t), for sampling: `diffusion.guided` up to
    rounding. What does not change from step to step is computed once.

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
    step, nothing can be computed in advance.
    """
    config = model.config
    if config.arch != "trans_dec":
        return guided(model, text, text_valid, mask, guidance)
    doubled = guidance != 1
    once = key_bias(mask if config.mask_frames else None, text)
    twice = torch.cat([once, once]) if doubled and once is not None else once
    states = F.linear(text, model.embed_text.weight)
    steps = model.positions[: config.diffusion_steps]
    wordless = model.embed_text.bias + model.embed_timestep["time_embed"](steps)
    layers = [_Layer(one, states, text_valid, wordless) for one in model.seqTransDecoder.layers]
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
    ):
        self.layer, self.heads, other = layer, layer.self_attn.heads, layer.multihead_attn
        to_query, to_key, to_value = other.in_proj_weight.chunk(3)
        of_query, _, of_value = other.in_proj_bias.chunk(3)
        self.constant = other.out_proj(F.linear(wordless, to_value, of_value))
        keys, values = (
            F.linear(states, weight).unflatten(-1, (self.heads, -1))
            for weight in (to_key, to_value)
        )
        keys = keys * keys.shape[-1] ** -0.5
        query = to_query.unflatten(0, (self.heads, -1))
        self.score = torch.einsum("hdc,blhd->bchl", query, keys).flatten(2)
        offset = torch.einsum("hd,blhd->bhl", of_query.unflatten(0, (self.heads, -1)), keys)
        offset = offset.masked_fill(~valid[:, None], float("-inf"))
        self.offset = offset.flatten(1)[:, None]
        out = other.out_proj.weight.unflatten(1, (self.heads, -1))
        self.read = torch.einsum("blhd,chd->bhlc", values, out).flatten(1, 2)

    def attend_frames(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return self.layer.norm1(x + self.layer.self_attn(x, None, bias))

    def attend_text(self, x: Tensor, t: Tensor) -> Tensor:
        items = len(self.score)
        scores = torch.baddbmm(self.offset, x[:items], self.score)
        shares = scores.unflatten(-1, (self.heads, -1)).softmax(-1).flatten(-2)
        constant = self.constant[t][:, None]
        x = x + constant.repeat(len(x) // items, 1, 1)
        x[:items] += torch.bmm(shares, self.read)
        return self.layer.norm2(x)

    def feed_forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        return layer.norm3(x + layer.linear2(F.gelu(layer.linear1(x))))


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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MDM(replace(config, text_width=width))
    return Prior(model, normaliser, text_encoder)


def predict(model: nn.Module, x_t: Float[Tensor, "B T 263"], batch: Batch) -> Tensor:
    """x̂_0 of a batch (`trainer.Diffusion`)."""
    return model(x_t, batch.t, batch.text, batch.text_valid, batch.mask, batch.drop_text)


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
) -> list[Float[np.ndarray, "T 263"]]:
    """One motion for each prompt, as raw (de-normalised) features at 20 fps, in order.

    frames: length of each motion. seeds: one an item; an item's motion is made by its prompt,
    length and seed alone, whatever it is sampled with (up to rounding). solver: None is ancestral
    sampling over all steps.
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
        guess = fast_guided(model, *text, prefix(lengths).to(device), guidance)
        noise = item_noise(lengths, generators, prior.config.channels, device)
        return sample(guess, noise, steps, solver).cpu().numpy()

    return in_batches(make, frames, seeds, batch_size, prior.normaliser, progress)


# ---------------------------------------------------------------- files
def load_prior(path: Path, text_encoder: TextEncoder | None = None) -> Prior:
    """Read what the generator wrote (`checkpoints.load`)."""

    def build(config: MDMConfig) -> dict[str, nn.Module]:
        return {"": MDM(config)}

    kinds = (FORMAT, OPEN_FORMAT)
    networks, common, _ = checkpoints.load(path, kinds, MDMConfig, build, text_encoder)
    return Prior(networks[""], **common)


def longest_frames(prior: Prior) -> int:
    """Frames of the longest motion that a prior was trained on, as far as its history tells it."""
    told = [entry.get("config", {}).get("max_frames", 0) for entry in prior.history]
    return min(max(told, default=0) or prior.config.max_frames, prior.config.max_frames)


def read_mdm(source: Path, encoder: TextEncoder | None = None) -> Prior:
    """Read a prior from an official checkpoint, in evaluation mode on the CPU.

    Fields and keys are those of GuyTevet/motion-diffusion-model, in its first release as well as in
    the later ones. Averaged weights are preferred to the last ones. Statistics are ``Mean.npy`` and
    ``Std.npy`` beside the weights, else those in ``humanml3d``, the dataset's own.

    Args:
        source: a folder of ``model<step>.pt``, of which the highest step is read, and
            ``args.json``; or one of its files of weights.
        encoder: must be the one that the checkpoint names (`ENCODERS`); None loads it.
    """
    found = sorted(path for path in source.glob("model*.pt") if path.stem[5:].isdecimal())
    found = [source] if source.is_file() else found
    if not found:
        raise InputError(
            source, "no model<step>.pt" if source.is_dir() else "nothing",
            f"an official MDM checkpoint: model<step>.pt with its {ARGS}",
            "Unpack the published archive there; `t2imu data status` says where to get it.",
        )  # fmt: skip
    path, folder = found[-1], found[-1].parent
    config, named, args = _read_args(folder / ARGS)
    encoder = checkpoints.official_encoder(folder / ARGS, encoder, named)
    normaliser, where = _find_statistics(folder)
    prior = new_prior(config, normaliser, encoder, seed=0)
    _, weights = checkpoints.load_official(
        path, prior.model, ("model_avg", "model", ""), f"those of {config}",
        f"Check that {ARGS} belongs to these weights, and that the file is whole.",
        ignored=lambda name: name.startswith("clip_model.") or name.endswith(".pe"),
    )  # fmt: skip
    origin = {
        "folder": folder.resolve().name,
        "file": path.name,
        "sha256": sha256(path),
        "step": int(path.stem[5:]) if path.stem[5:].isdecimal() else None,
        "weights": weights or "state dict",
        "statistics": where,
        "cond_mask_prob": float(args["cond_mask_prob"]),
    }
    return replace(prior, history=[origin])


def _read_args(path: Path) -> tuple[MDMConfig, str, dict[str, Any]]:
    """Sizes of an official network that can be built here, its text encoder, and all fields."""
    try:
        usual = {name: value for name, value in SIZES.values() if value is not None}
        args = {"text_encoder_type": "clip", **usual, **json.loads(path.read_bytes())}
        found = {name: args[name] for name in FIXED if args.get(name) is not None}
        problems = [f"{k} {x!r}, not {FIXED[k]!r}" for k, x in found.items() if x != FIXED[k]]
        kind = args["arch"], args["text_encoder_type"]
        if kind not in ENCODERS:
            problems.append(f"arch {kind[0]!r} with text_encoder_type {kind[1]!r}")
        else:
            config = MDMConfig(**{own: args[name] for own, (name, _) in SIZES.items()})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            path, repr(error), "the settings of a network",
            f"Restore the {ARGS} that was published with the weights.",
        ) from error  # fmt: skip
    if problems:
        raise InputError(
            path, "; ".join(problems), "an MDM as this project builds it",
            "Take humanml_trans_dec_512_bert-50steps or humanml-encoder-512-50steps.",
        )  # fmt: skip
    return config, ENCODERS[kind], args


def _find_statistics(folder: Path) -> tuple[Normaliser, str]:
    dataset = data_root() / "humanml3d"
    for place, names in ((folder, MEAN_STD), (folder, checkpoints.MEAN_STD), (dataset, MEAN_STD)):
        if not any((place / name).is_file() for name in names):
            continue
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
class Sizes(TransformerSizes):
    """Sizes of the transformer decoder and of its diffusion."""

    dropout: Fraction
    diffusion_steps: Count


class MDMGenerator(DiffusionGenerator):
    Sizes = Sizes
    solvers = tuple(SCHEMES)
    predict = staticmethod(predict)
    schedule = staticmethod(schedule)
    stream = (STEP, 1)
    parallel = True

    def __init__(self, solver: Solver | None = None):
        self.solver = solver or Solver()

    @property
    def sampler(self):
        return {"solver": asdict(self.solver)}

    def with_solver(self, solver):
        return MDMGenerator(solver)

    def untrained(self, sizes, clips, encoder, seed):
        config = MDMConfig(arch="trans_dec", **sizes.model_dump())
        return new_prior(config, normaliser_of(clips), encoder, seed)

    def published(self, folder, sizes, encoder):
        return read_mdm(folder, encoder)

    def save(self, path, prior, about=None, half=False):
        return [checkpoints.save(path, FORMAT, {"": prior.model}, prior, about, half)]

    load = staticmethod(load_prior)

    def generate(
        self, prior, prompts, frames, seeds, guidance, batch_size, device, progress=True
    ):  # fmt: skip
        scale = GUIDANCE if guidance is None else guidance
        asked = prior, prompts, frames, seeds, scale, batch_size, device, progress
        return generate(*asked, self.solver)

    def network(self, prior):
        config = prior.config
        return {
            "layers × width": f"{config.layers} × {config.width}",
            "dropout": config.dropout,
            "mask_frames": config.mask_frames,
            "diffusion steps": config.diffusion_steps,
        }


GENERATOR = MDMGenerator()
