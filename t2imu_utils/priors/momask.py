"""MoMask (Guo et al., CVPR 2024): masked tokens of a motion, filled in from a text.

Motions are made in tokens of four frames. The first level is filled in over a few passes, the
surest tokens first; the other levels follow in one pass each; the tokeniser turns the sum of their
codes into features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.priors.lengths import LengthEstimator
from t2imu_utils.priors.masked_transformer import (
    MaskTransformer,
    ResidualTransformer,
    TokenTransformerConfig,
    new_mask_transformer,
    new_residual_transformer,
)
from t2imu_utils.priors.requests import check_requests
from t2imu_utils.priors.rvq import RVQ, STRIDE, RVQConfig, detokenise, new_rvq
from t2imu_utils.priors.text import TextEncoder

# Score of a token that stays: higher than any probability.
KEPT = 1e5


@dataclass(frozen=True)
class MoMaskConfig:
    """Sizes of a MoMask and how it is sampled; the defaults are the official ones.

    transformer: of the mask and of the residual transformer; its text_width, codes and levels are
    set by `new_momask`. iterations: passes that fill in the first level (10 in the published
    evaluation, 18 in the published demo). guidance, residual_guidance: of the two transformers.
    top: share of the codes that are drawn from.
    """

    rvq: RVQConfig = field(default_factory=RVQConfig)
    transformer: TokenTransformerConfig = field(default_factory=TokenTransformerConfig)
    iterations: int = 10
    guidance: float = 4.0
    residual_guidance: float = 5.0
    top: float = 0.1

    def __post_init__(self):
        if self.iterations < 1 or not 0 < self.top <= 1:
            raise InputError(
                "MoMaskConfig: iterations, top", f"{self.iterations}, {self.top}",
                "at least 1, and a share of 0 to 1", "MoMask uses 10 and 0.1.",
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
class MoMaskPrior:
    """The networks of MoMask, the statistics of its features, its text encoder.

    lengths: the length estimator, where there is one. history: one entry for each training that
    led here, or for the checkpoint that was read. velocity_weight: with which `features_to_joints`
    reads its motions, one or one a joint.
    """

    config: MoMaskConfig
    rvq: RVQ
    mask: MaskTransformer
    residual: ResidualTransformer
    normaliser: Normaliser
    text_encoder: TextEncoder
    lengths: LengthEstimator | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    velocity_weight: float | list[float] = 0.0

    @property
    def text_encoder_name(self) -> str:
        """Name of the text encoder, as `load_text_encoder` knows it."""
        return self.text_encoder.name

    @property
    def parameters(self) -> int:
        """Number of trained parameters of tokeniser and transformers."""
        networks = (self.rvq, self.mask, self.residual)
        return sum(p.numel() for network in networks for p in network.parameters())


def new_momask(
    config: MoMaskConfig, normaliser: Normaliser, text_encoder: TextEncoder, seed: int
) -> MoMaskPrior:
    """An untrained MoMask; the transformer's text_width, codes and levels are set to fit."""
    config = fitted(config, text_encoder.pooled_width)
    return MoMaskPrior(
        config,
        new_rvq(config.rvq, seed).eval(),
        new_mask_transformer(config.transformer, seed).eval(),
        new_residual_transformer(config.transformer, seed).eval(),
        normaliser,
        text_encoder,
    )


def fitted(config: MoMaskConfig, text_width: int) -> MoMaskConfig:
    """`config` with a transformer that fits its tokeniser and the pooled text."""
    rvq = config.rvq
    sizes = {"text_width": text_width, "codes": rvq.codes, "levels": rvq.levels}
    return replace(config, transformer=replace(config.transformer, **sizes))


@torch.inference_mode()
def generate(
    prior: MoMaskPrior,
    prompts: Sequence[str],
    frames: Sequence[int],
    seeds: Sequence[int],
    guidance: float | None = None,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> list[Float[np.ndarray, "T 263"]]:
    """One motion for each prompt, as raw (de-normalised) features at 20 fps, in order.

    frames: length of each motion; where it is no multiple of 4, the tokens above it are made and
    the motion is cut. seeds: one an item; an item's motion is made by its prompt, length and seed
    alone, whatever it is sampled with (up to rounding). guidance: of both transformers; None takes
    those of the prior's configuration.

    Raises:
        InputError: what `check_requests` refuses.
    """
    check_requests(prior, prompts, frames, seeds, batch_size)
    text = prior.text_encoder.encode_pooled(prompts)
    networks = [network.to(device).eval() for network in (prior.rvq, prior.mask, prior.residual)]
    counts = [-(-int(n) // STRIDE) for n in frames]
    order = sorted(range(len(prompts)), key=lambda i: counts[i])
    motions: list[np.ndarray] = [np.empty(0)] * len(prompts)
    with tqdm(total=len(prompts), unit="motion", mininterval=2, disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            items = order[start : start + batch_size]
            lengths = [counts[i] for i in items]
            generators = [torch.Generator().manual_seed(int(seeds[i])) for i in items]
            codes = sample_codes(prior, text[items].to(device), lengths, generators, guidance).cpu()
            rows = [row[:length] for row, length in zip(codes, lengths, strict=True)]
            for i, x in zip(items, detokenise(networks[0], rows), strict=True):
                raw = prior.normaliser.denormalise(x[: int(frames[i])].numpy())
                motions[i] = np.asarray(raw, dtype=np.float32)
            bar.update(len(items))
    return motions


@torch.inference_mode()
def sample_codes(
    prior: MoMaskPrior,
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
    base = fill_masked(prior.mask, text, lengths, generators, first, config.iterations, config.top)
    valid = _valid(lengths, text.device)
    codes = torch.zeros(*base.shape, config.rvq.levels, dtype=torch.long, device=text.device)
    codes[..., 0] = base
    for level in range(1, config.rvq.levels):
        which = torch.full((len(text),), level, device=text.device)
        logits = _guided(prior.residual, (codes, which), text, valid, rest)
        # The last class is padding: it is no code.
        codes[..., level] = _draw(logits[..., :-1], lengths, generators, config.top)
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
    valid = _valid(lengths, text.device)
    tokens = torch.full(valid.shape, model.mask_id, device=text.device)
    scores = torch.zeros(valid.shape, device=text.device).masked_fill(~valid, KEPT)
    counts = torch.tensor([masked_counts(n, iterations) for n in lengths], device=text.device)
    for count in counts.T:
        rank = scores.argsort(dim=1, stable=True).argsort(dim=1)
        masked = rank < count[:, None]
        tokens = tokens.masked_fill(masked, model.mask_id)
        logits = _guided(model, (tokens,), text, valid, guidance)
        drawn = _draw(logits, lengths, generators, top)
        sure = logits.softmax(-1).gather(-1, drawn[..., None])[..., 0]
        tokens = torch.where(masked, drawn, tokens)
        scores = torch.where(masked, sure, KEPT)
    return tokens.masked_fill(~valid, 0)


def masked_counts(tokens: int, iterations: int) -> list[int]:
    """How many tokens of a motion are masked at each pass; all of them at the first, 1 at least."""
    shares = np.cos(np.linspace(0, 1, iterations) * math.pi / 2)
    return [max(int(count), 1) for count in np.round(shares * tokens)]


def _valid(lengths: Sequence[int], device) -> Tensor:
    counts = torch.tensor(list(lengths), device=device)
    return torch.arange(int(counts.max()), device=device) < counts[:, None]


def _guided(
    model: nn.Module, inputs: tuple[Tensor, ...], text: Tensor, valid: Tensor, guidance: float
) -> Tensor:
    """Classifier-free guidance on logits; both halves in one batch."""
    if guidance == 1:
        return model(*inputs, text, valid)
    twice = [torch.cat([x, x]) for x in (*inputs, text, valid)]
    drop = torch.arange(2 * len(text), device=text.device) >= len(text)
    with_text, without = model(*twice, drop).chunk(2)
    return without + guidance * (with_text - without)


def _draw(
    logits: Float[Tensor, "B N K"],
    lengths: Sequence[int],
    generators: Sequence[torch.Generator],
    top: float,
) -> Int[Tensor, "B N"]:
    """One of the best codes for each position, by its probability among them (Gumbel-max)."""
    best = logits.topk(math.ceil(top * logits.shape[-1]))
    noise = torch.ones(logits.shape)
    for row, length, generator in zip(noise, lengths, generators, strict=True):
        row[:length].exponential_(generator=generator)
    gumbel = -noise.to(logits.device).clamp(min=1e-30).log()
    place = (best.values + gumbel.gather(-1, best.indices)).argmax(-1, keepdim=True)
    return best.indices.gather(-1, place)[..., 0]
