"""The training losses, eqs. (2)-(6) of the paper, one value a sample, padding masked out."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.motion.features import CONTACTS, RATE, features_to_joints
from t2imu_utils.motion.skeleton import FEET

TERMS = ("simple", "pos", "foot", "vel", "acc")
WEIGHTED = TERMS[1:]
# What L_acc is taken of: the equation as printed, joints in m/s², or the spectrum of these.
AccVariant = Literal["features", "joints", "spectrum"]
VARIANTS = get_args(AccVariant)
# Of a batch: normalised features, joints in metres, valid frames (a prefix of each row), and a loss
# for each sample.
Features, Joints = Float[Tensor, "B T C"], Float[Tensor, "B T J 3"]
Mask, PerSample = Bool[Tensor, "B T"], Float[Tensor, "B"]
LossFunction = Callable[[Features, Features, Mask], PerSample]
# Of the spectrum: bands of equal width up to half the frame rate; points of the transform, more
# than HumanML3D's longest motion has frames; and what is added to powers, (m/s²)², so that a motion
# at rest has a logarithm.
BANDS, POINTS, FLOOR = 8, 256, 0.1


@dataclass(frozen=True)
class LossWeights:
    """The lambdas of eq. (6), and what L_acc is taken of; the weight of L_simple is 1.

    functions: terms of one's own in place of those of `motion_losses`, by name of `TERMS`: of clean
    and predicted normalised features (B, T, 263) and the mask of valid frames (B, T), a loss for
    each sample (B,). Features of padded frames are 0.
    """

    pos: float = 0.0
    foot: float = 0.0
    vel: float = 0.0
    acc: float = 0.0
    acc_variant: AccVariant = "features"
    functions: Mapping[str, LossFunction] = field(default_factory=dict)

    def __post_init__(self):
        for name in WEIGHTED:
            if not 0 <= (weight := getattr(self, name)) < float("inf"):
                raise InputError(f"LossWeights: {name}", f"{weight}", "0 or more", "Change it.")
        if (variant := self.acc_variant) not in VARIANTS:
            known = f"one of {', '.join(VARIANTS)}"
            raise InputError("LossWeights: acc_variant", repr(variant), known, "Choose one.")


def recorded(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """The `dict_factory` of `asdict` for settings that hold `LossWeights`: of functions of one's
    own their source is kept, so that another function is another training."""
    found = dict(fields)
    if own := found.pop("functions", None):
        found["functions"] = {name: inspect.getsource(loss) for name, loss in own.items()}
    return found


def first_difference(x: Float[Tensor, "B T ..."]) -> Float[Tensor, "B T-1 ..."]:
    """x^{i+1} - x^i along time."""
    return x[:, 1:] - x[:, :-1]


def second_difference(x: Float[Tensor, "B T ..."]) -> Float[Tensor, "B T-2 ..."]:
    """x^{i+1} - 2 x^i + x^{i-1} along time."""
    return x[:, 2:] - 2 * x[:, 1:-1] + x[:, :-2]


def _over_frames(square: Float[Tensor, "B K C"], valid: Bool[Tensor, "B K"], n: Tensor) -> Tensor:
    """Mean over channels (or joints), sum over valid frames, divided by `n` (B,)."""
    return (square.mean(-1) * valid).sum(1) / n.clamp(min=1)


def l_simple(x: Features, x_hat: Features, mask: Mask) -> PerSample:
    """Eq. (2): squared difference of normalised features, mean over channels and the N frames."""
    return _over_frames((x - x_hat).square(), mask, mask.sum(1))


def l_pos(joints: Joints, joints_hat: Joints, mask: Mask) -> PerSample:
    """Eq. (3), m²: squared distance of joints (m), mean over joints, sum over frames / N."""
    return _over_frames((joints - joints_hat).square().sum(-1), mask, mask.sum(1))


def l_foot(joints_hat: Joints, contact: Float[Tensor, "B T 4"], mask: Mask) -> PerSample:
    """Eq. (4), m²: squared step of the predicted feet in frames where the true contact exceeds
    0.5, mean over the four foot joints, sum over frames / (N - 1)."""
    step = first_difference(joints_hat[:, :, list(FEET)]).square().sum(-1)
    return _over_frames(step * (contact[:, :-1] > 0.5), mask[:, 1:], mask.sum(1) - 1)


def l_vel(x: Features, x_hat: Features, mask: Mask) -> PerSample:
    """Eq. (5): squared difference of first differences, mean over channels, sum / (N - 1)."""
    return _over_frames(first_difference(x - x_hat).square(), mask[:, 1:], mask.sum(1) - 1)


def l_acc(x: Features, x_hat: Features, mask: Mask) -> PerSample:
    """L_acc as printed: squared difference of second differences of normalised features, mean over
    channels, sum over N - 2 frames / (N - 1)."""
    return _over_frames(second_difference(x - x_hat).square(), mask[:, 2:], mask.sum(1) - 1)


def l_acc_joints(joints: Joints, joints_hat: Joints, mask: Mask) -> PerSample:
    """L_acc of joints (m), in (m/s²)²: the squared length, averaged over joints."""
    apart = second_difference(joints - joints_hat) * RATE**2
    return _over_frames(apart.square().sum(-1), mask[:, 2:], mask.sum(1) - 1)


def l_acc_spectrum(joints: Joints, joints_hat: Joints, mask: Mask) -> PerSample:
    """`spectral_difference` of the accelerations of joints (m): how much they are accelerated at
    which frequency is compared, and not when."""
    a, a_hat = (second_difference(x).flatten(2) * RATE**2 for x in (joints, joints_hat))
    return spectral_difference(a, a_hat, mask[:, 2:])


def motion_losses(
    x0: Features,
    x0_hat: Features,
    mask: Mask,
    weights: LossWeights,
    normaliser: Normaliser,
    all_terms: bool = False,
) -> dict[str, PerSample]:
    """Terms of eq. (6) for each sample; `total` is their weighted sum.

    x0, x0_hat: clean and predicted motion, normalised features. mask: valid frames, a prefix of
    each row; what padding holds does not matter. A term is computed where its weight is above 0
    (`all_terms=True`: always), and only those enter `total`. Joints are recovered from the
    de-normalised features; functions of one's own are taken where `weights` has them.
    """
    asked = {name for name in WEIGHTED if all_terms or getattr(weights, name) > 0}
    wanted = asked - set(weights.functions)
    # Not a product: padding may hold anything, also NaN.
    x0, x0_hat = (x.masked_fill(~mask[..., None], 0.0) for x in (x0, x0_hat))
    terms = {"simple": l_simple(x0, x0_hat, mask)}
    of_joints = weights.acc_variant != "features"
    if wanted & {"pos", "foot"} or (of_joints and "acc" in wanted):
        raw, raw_hat = normaliser.denormalise(x0), normaliser.denormalise(x0_hat)
        joints_hat, joints = features_to_joints(raw_hat), features_to_joints(raw)
    if "pos" in wanted:
        terms["pos"] = l_pos(joints, joints_hat, mask)
    if "foot" in wanted:
        terms["foot"] = l_foot(joints_hat, raw[..., CONTACTS], mask)
    if "vel" in wanted:
        terms["vel"] = l_vel(x0, x0_hat, mask)
    if "acc" in wanted:
        loss = {"features": l_acc, "joints": l_acc_joints, "spectrum": l_acc_spectrum}
        compared = (joints, joints_hat) if of_joints else (x0, x0_hat)
        terms["acc"] = loss[weights.acc_variant](*compared, mask)
    for name, loss in weights.functions.items():
        if name in (*asked, "simple"):
            terms[name] = loss(x0, x0_hat, mask)
    total = terms["simple"]
    for name in WEIGHTED:
        if getattr(weights, name) > 0:
            total = total + getattr(weights, name) * terms[name]
    return terms | {"total": total}


def spectral_difference(
    a: Float[Tensor, "B K C"],
    a_hat: Float[Tensor, "B K C"],
    valid: Bool[Tensor, "B K"],
    floor: float = FLOOR,
) -> PerSample:
    """Squared difference of the logarithms of power in each of `BANDS` bands of frequency, mean
    over bands and channels. floor: added to all powers.

    Spectra are those of the valid frames, a prefix of each row, under a Hann window of their
    length; powers are such that white noise has its mean square in each band.
    """
    frames = a.shape[1]
    n = valid.sum(1, keepdim=True).clamp(min=1)
    place = torch.arange(frames, device=a.device)[None]
    window = torch.sin(torch.pi * (place + 0.5) / n).square() * valid
    window = window / window.square().sum(1, keepdim=True).clamp(min=1e-12).sqrt()
    # The same points whatever the clip is padded to, unless that is longer.
    points = max(frames, POINTS)
    band = torch.arange(points // 2 + 1, device=a.device) * 2 * BANDS // (points + 1)
    share = torch.nn.functional.one_hot(band.clamp(max=BANDS - 1), BANDS).to(a.dtype)
    share = share / share.sum(0)

    def log_powers(y: Tensor) -> Tensor:
        power = torch.fft.rfft(y * window[..., None], n=points, dim=1).abs().square()
        return torch.log(torch.einsum("bfc,fk->bkc", power, share) + floor)

    return (log_powers(a_hat) - log_powers(a)).square().mean((1, 2))
