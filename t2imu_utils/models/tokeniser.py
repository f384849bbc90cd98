"""Residual vector quantisation of motion: the tokeniser of MoMask, and of T2M-GPT with one level.

Convolutions turn four frames into one vector; a codebook replaces it by its nearest code, a second
one what is left, and so on (Guo et al., "MoMask", CVPR 2024; Zeghidour et al., "SoundStream",
2021). Parameters and codebooks carry the names of the official MoMask checkpoints.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from t2imu_utils.files import sha256
from t2imu_utils.models.losses import WEIGHTED, LossWeights, motion_losses
from t2imu_utils.models.trainer import TrainConfig, step_items
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.motion.features import POSITIONS

# Frames of one token: two halvings of the rate.
STRIDE = 4
DILATIONS = (9, 3, 1)
# A code that is met less often in a batch than this, on average, is replaced.
RARE = 1.0


@dataclass(frozen=True)
class RVQConfig:
    """Sizes of a tokeniser; the defaults are those of the official MoMask checkpoint.

    T2M-GPT's tokeniser is levels=1, dropout=0, temperature=0. temperature: in training a code is
    drawn with logits -distance² / temperature; 0 takes the nearest, as is always done outside of
    training. ema_decay: of the running sums that the codes are the quotients of.
    """

    channels: int = 263
    width: int = 512
    code_width: int = 512
    codes: int = 512
    levels: int = 6
    dropout: float = 0.2
    temperature: float = 0.5
    ema_decay: float = 0.99


class _ResidualBlock(nn.Module):
    def __init__(self, width: int, dilation: int, dropout: float):
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv1d(width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.conv2(F.relu(self.conv1(F.relu(x)))))


class _Model(nn.Module):
    """A sequence under the name `model`, as the official parameter names have it."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def _residual(config: RVQConfig) -> _Model:
    return _Model(*(_ResidualBlock(config.width, d, config.dropout) for d in DILATIONS))


def _encoder(config: RVQConfig) -> _Model:
    width = config.width
    return _Model(
        nn.Conv1d(config.channels, width, 3, padding=1),
        nn.ReLU(),
        *(
            nn.Sequential(nn.Conv1d(width, width, 4, stride=2, padding=1), _residual(config))
            for _ in range(2)
        ),
        nn.Conv1d(width, config.code_width, 3, padding=1),
    )


def _decoder(config: RVQConfig) -> _Model:
    width = config.width
    return _Model(
        nn.Conv1d(config.code_width, width, 3, padding=1),
        nn.ReLU(),
        *(
            nn.Sequential(
                _residual(config),
                nn.Upsample(scale_factor=2),
                nn.Conv1d(width, width, 3, padding=1),
            )
            for _ in range(2)
        ),
        nn.Conv1d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv1d(width, config.channels, 3, padding=1),
    )


def _running_sums(codebook, state_dict, prefix, *_):
    # Official checkpoints hold the codes alone. Sums of one vector a code let a training go on
    # from them, where it would otherwise start from new codes.
    if f"{prefix}codebook" in state_dict and f"{prefix}code_sum" not in state_dict:
        codes = state_dict[f"{prefix}codebook"]
        state_dict[f"{prefix}code_sum"] = codes.clone()
        state_dict[f"{prefix}code_count"] = codes.new_ones(len(codes))


class Codebook(nn.Module):
    """Codes that follow the vectors they stand for by running sums, not by a gradient.

    van den Oord et al. (2017), appendix A.1. Codes, sums and counts are buffers; all counts are 0
    until the first batch has been seen.
    """

    codebook: Float[Tensor, "K D"]
    code_sum: Float[Tensor, "K D"]
    code_count: Float[Tensor, "K"]

    def __init__(self, config: RVQConfig):
        super().__init__()
        self.temperature, self.ema_decay = config.temperature, config.ema_decay
        self.register_buffer("codebook", torch.zeros(config.codes, config.code_width))
        self.register_buffer("code_sum", torch.zeros(config.codes, config.code_width))
        self.register_buffer("code_count", torch.zeros(config.codes))
        self.register_load_state_dict_pre_hook(_running_sums)

    @torch.no_grad()
    def choose(self, x: Float[Tensor, "M D"]) -> Int[Tensor, "M"]:
        """The code of each vector; in training drawn with the configured temperature."""
        square = x.square().sum(1, keepdim=True) + self.codebook.square().sum(1)
        logits = 2 * x @ self.codebook.T - square
        if self.training and self.temperature > 0:
            gumbel = -torch.empty_like(logits).exponential_().log()
            logits = logits / self.temperature + gumbel
        return logits.argmax(1)

    @torch.no_grad()
    def start(self, x: Float[Tensor, "M D"]) -> None:
        """Take the first codes from a batch, where this has not been done."""
        if not self.code_count.any():
            self.codebook.copy_(self._samples(x))
            self.code_sum.copy_(self.codebook)
            self.code_count.fill_(1.0)

    @torch.no_grad()
    def follow(self, x: Float[Tensor, "M D"], codes: Int[Tensor, "M"]) -> None:
        """Move the codes towards their vectors; replace rare ones by vectors of the batch."""
        chosen = F.one_hot(codes, len(self.codebook)).to(x.dtype)
        self.code_sum.lerp_(chosen.T @ x, 1 - self.ema_decay)
        self.code_count.lerp_(chosen.sum(0), 1 - self.ema_decay)
        common = (self.code_count >= RARE)[:, None]
        means = self.code_sum / self.code_count.clamp(min=1e-9)[:, None]
        self.codebook.copy_(torch.where(common, means, self._samples(x)))

    def _samples(self, x: Tensor) -> Tensor:
        # Drawn at random: the first vectors of a batch would come from one or two clips.
        wanted, found = self.codebook.shape[0], len(x)
        repeats = -(-wanted // found)
        picked = x[torch.randperm(found, device=x.device)].repeat(repeats, 1)[:wanted]
        if repeats > 1:
            picked = picked + torch.randn_like(picked) * (0.01 / x.shape[1] ** 0.5)
        return picked


class _Quantizer(nn.Module):
    def __init__(self, config: RVQConfig):
        super().__init__()
        self.layers = nn.ModuleList(Codebook(config) for _ in range(config.levels))

    def forward(
        self, z: Float[Tensor, "B N D"], active: int
    ) -> tuple[Float[Tensor, "B N D"], Int[Tensor, "B N Q"], Float[Tensor, ""]]:
        """Sum of the codes of the first `active` levels, the codes, and the commitment loss."""
        codes = z.new_full((*z.shape[:2], len(self.layers)), -1, dtype=torch.long)
        left, total, commit = z, torch.zeros_like(z), z.new_zeros(())
        for level, book in enumerate(self.layers[:active]):
            flat = left.detach().flatten(0, 1)
            if self.training:
                book.start(flat)
            chosen = book.choose(flat)
            # Looked up before the codes move, as the commitment is to the codes that were chosen.
            code = F.embedding(chosen, book.codebook).view_as(z)
            if self.training:
                book.follow(flat, chosen)
            codes[..., level] = chosen.view(z.shape[:2])
            commit = commit + F.mse_loss(left, code) / active
            left, total = left - code, total + code
        # One straight-through step around the sum. The original has one in each level, which
        # multiplies the encoder's gradient by the number of active levels, another at each step.
        return z + (total - z).detach(), codes, commit


class RVQ(nn.Module):
    """Motion to tokens and back; normalised features in and out."""

    def __init__(self, config: RVQConfig):
        super().__init__()
        self.config = config
        self.encoder = _encoder(config)
        self.quantizer = _Quantizer(config)
        self.decoder = _decoder(config)

    def forward(
        self, x: Float[Tensor, "B T C"], active: int | None = None
    ) -> tuple[Float[Tensor, "B T C"], Int[Tensor, "B N Q"], Float[Tensor, ""]]:
        """Reconstruction, codes and commitment loss; in training the codebooks move, too.

        x: T a multiple of 4, N = T / 4. active: levels in use, 1 to Q, or None for all; the codes
        of the others are -1. Commitment: mean squared difference between what a level was given
        and its code, averaged over active levels.
        """
        active = self.config.levels if active is None else active
        quantised, codes, commit = self.quantizer(self._vectors(x), active)
        return self._motion(quantised), codes, commit

    def encode(self, x: Float[Tensor, "B T C"]) -> Int[Tensor, "B N Q"]:
        """Codes of motions of one length, N = T // 4 of them; the model in evaluation mode."""
        return self.quantizer(self._vectors(x), self.config.levels)[1]

    def decode(self, codes: Int[Tensor, "B N Q"]) -> Float[Tensor, "B 4*N C"]:
        """Motion of codes, without padding: what stands beside a motion would leak into it.

        A code of -1 adds nothing. Fewer levels than the model has decode the coarser motion.
        """
        total = torch.zeros(())
        for level, book in enumerate(self.quantizer.layers[: codes.shape[-1]]):
            chosen = codes[..., level]
            vectors = F.embedding(chosen.clamp(min=0), book.codebook)
            total = total + vectors.masked_fill((chosen < 0)[..., None], 0.0)
        return self._motion(total)

    def _vectors(self, x: Tensor) -> Tensor:
        return self.encoder(x.transpose(1, 2)).transpose(1, 2)

    def _motion(self, vectors: Tensor) -> Tensor:
        return self.decoder(vectors.transpose(1, 2)).transpose(1, 2)


def initialised(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A new network in evaluation mode: of transformers over tokens N(0, 0.02²), biases 0.

    Codebooks of a tokeniser are empty until its first training step.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        if not isinstance(model, RVQ):
            for module in model.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
            for parameter in model.parameters(recurse=False):  # tables of no layer
                nn.init.normal_(parameter, std=0.02)
    return model.eval()


def equal_lengths(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Items in batches of one length each, shortest first, so that nothing is padded."""
    groups: dict[int, list[int]] = {}
    for item, length in enumerate(lengths):
        groups.setdefault(int(length), []).append(item)
    for length in sorted(groups):
        for start in range(0, len(groups[length]), batch_size):
            yield groups[length][start : start + batch_size]


@torch.no_grad()
def _by_length(
    rows: Sequence[Float[Tensor, "N C"]], make: Callable[[Tensor], Tensor], batch_size: int = 64
) -> list[Tensor]:
    """What `make` makes of rows, on the CPU, stacked with others of their own length."""
    made: list[Tensor] = [torch.empty(0)] * len(rows)
    for items in equal_lengths([len(row) for row in rows], batch_size):
        for i, one in zip(items, make(torch.stack([rows[i] for i in items])).cpu(), strict=True):
            made[i] = one
    return made


def tokenise(model: RVQ, motions: Sequence[Float[Tensor, "T C"]]) -> list[Int[Tensor, "N Q"]]:
    """Codes of normalised motions, on the CPU, T // 4 for each; up to three last frames are cut."""
    device, model = next(model.parameters()).device, model.eval()
    cut = [motion[: len(motion) // STRIDE * STRIDE] for motion in motions]
    return _by_length(cut, lambda x: model.encode(x.to(device)))


def detokenise(model: RVQ, codes: Sequence[Int[Tensor, "N Q"]]) -> list[Float[Tensor, "4*N C"]]:
    """Normalised motions of codes, on the CPU, each decoded at its own length."""
    device, model = next(model.parameters()).device, model.eval()
    return _by_length(codes, lambda x: model.decode(x.to(device)))


# ---------------------------------------------------------------- training
RVQ_STAGE = "rvq"
# As in MoMask: frames that a tokeniser is trained on at once; weights of the term of joint
# positions and of the commitment.
WINDOW, POSITIONS_WEIGHT, COMMIT_WEIGHT = 64, 0.5, 0.02
# Which of the random streams of a seed.
WINDOWS = 10


def motions_hash(motions: Sequence[Float[Tensor, "T C"]]) -> str:
    return sha256("\n".join(sha256(x.numpy().tobytes()) for x in motions).encode())


def draw_windows(
    motions: Sequence[Float[Tensor, "T C"]], batch_size: int, seed: int, step: int
) -> Float[Tensor, "B W C"]:
    """The windows of a step: a function of the motions, the seed and the step's number.

    Motions shorter than the window come together in batches whose window is the shortest of them,
    so that nothing is padded and nothing is left out.
    """
    lengths = np.array([len(x) for x in motions])
    items = step_items(np.minimum(lengths, WINDOW), batch_size, seed, step)
    size = min(WINDOW, int(lengths[items].min()) // STRIDE * STRIDE)
    starts = np.random.default_rng([seed, WINDOWS, step]).integers(0, lengths[items] - size + 1)
    return torch.stack([motions[i][s : s + size] for i, s in zip(items, starts, strict=True)])


def reconstruction_losses(
    x: Float[Tensor, "B T 263"],
    x_hat: Float[Tensor, "B T 263"],
    commit: Float[Tensor, ""],
    weights: LossWeights,
    normaliser: Normaliser,
    all_terms: bool = False,
) -> dict[str, Float[Tensor, ""]]:
    """Terms of the tokeniser's loss, averaged over the batch; `total` is their weighted sum.

    reconstruction: smooth L1 of all normalised features. positions: of the joint positions among
    them. commit: see `RVQ.forward`. Then those of eqs. (3)-(6) on the decoder's output whose weight
    is above 0 (`all_terms=True`: all).
    """
    terms = {
        "reconstruction": F.smooth_l1_loss(x_hat, x),
        "positions": F.smooth_l1_loss(x_hat[..., POSITIONS], x[..., POSITIONS]),
        "commit": commit,
    }
    total = terms["reconstruction"] + POSITIONS_WEIGHT * terms["positions"]
    total = total + COMMIT_WEIGHT * commit
    used = {name: getattr(weights, name) for name in WEIGHTED if getattr(weights, name)}
    if all_terms or used:
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        more = motion_losses(x, x_hat, mask, weights, normaliser, all_terms)
        terms |= {name: value.mean() for name, value in more.items() if name != "total"}
        for name, weight in used.items():
            total = total + weight * terms[name]
    return terms | {"total": total}


def rvq_validation(
    normaliser: Normaliser, motions: Sequence[Float[Tensor, "T 263"]], config: TrainConfig
) -> Callable[[RVQ], dict[str, float]]:
    """All terms on whole motions, each at its own length (a multiple of 4), averaged over them."""

    @torch.no_grad()
    def validate(model: RVQ) -> dict[str, float]:
        device = next(model.parameters()).device
        frames = [len(motion) // STRIDE * STRIDE for motion in motions]
        sums: dict[str, float] = {}
        for items in equal_lengths(frames, config.batch_size):
            x = torch.stack([motions[i][: frames[i]] for i in items]).to(device)
            x_hat, _, commit = model.eval()(x)
            terms = reconstruction_losses(x, x_hat, commit, config.weights, normaliser, True)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(items)
        return {name: total / len(motions) for name, total in sums.items()}

    return validate


def rvq_losses(
    normaliser: Normaliser,
    motions: Sequence[Float[Tensor, "T 263"]],
    config: TrainConfig,
    level_dropout: float,
    decoder_only: bool,
) -> Callable[..., dict[str, Tensor]]:
    """Losses of a tokeniser's steps (`trainer.Losses`), on windows of motions.

    level_dropout: share of steps that use only the first k levels, k drawn evenly. decoder_only:
    encoder and codebooks stay as they are, so that tokens keep their meaning.
    """

    def losses(model: RVQ, step: int, part: int, parts: int) -> dict[str, Tensor]:
        x = draw_windows(motions, config.batch_size, config.seed, step)
        rng = np.random.default_rng([config.seed, WINDOWS, step, 1])
        levels = model.config.levels
        dropped = rng.random() < level_dropout
        active = int(rng.integers(1, levels + 1)) if dropped else levels
        if decoder_only:
            model.encoder.eval()
            model.quantizer.eval()
        x = x.to(next(model.parameters()).device)
        x_hat, _, commit = model(x, active)
        return reconstruction_losses(x, x_hat, commit, config.weights, normaliser)

    return losses
