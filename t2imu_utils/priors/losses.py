"""The training losses, eqs. (2)-(6) of the paper, one value a sample, padding masked out."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.motion.features import CONTACTS, RATE, features_to_joints
from t2imu_utils.motion.skeleton import FEET

TERMS = ("simple", "pos", "foot", "vel", "acc")
# Energies below these count as this: what is left of a motion that rests, in squared units of
# normalised features and of joints in m/s².
FLOOR = {"features": 1e-3, "joints": 0.1}
# Bands of the spectrum of accelerations, of equal width, up to half the frame rate; and points of
# the transform, more than HumanML3D's longest motion has frames.
BANDS, POINTS = 8, 256


# What each may be; the first is the paper's.
READINGS = {
    "acc_space": ("features", "joints"),
    "acc_target": ("motion", "energy", "spectrum"),
    "acc_levels": ("all", "signal", "low"),
}


@dataclass(frozen=True)
class LossWeights:
    """The lambdas of eq. (6) and the readings of L_acc; the weight of L_simple is 1.

    acc_space: "features" takes second differences of normalised features, as the equation is
    printed; "joints" takes them of recovered joints, in m/s². acc_contacts: False leaves the four
    binary contact channels out of the feature-space L_acc.

    Three that the paper does not have. acc_target: what of the accelerations is compared, they
    themselves ("motion"), their energy in a whole clip, or their spectrum. acc_levels: the noise
    levels at which L_acc counts, "all" alike, in proportion to the share of "signal" in x_t (ᾱ_t),
    or the "low" ones alone, where signal exceeds noise; the last two weigh 1 on average.
    """

    pos: float = 0.0
    foot: float = 0.0
    vel: float = 0.0
    acc: float = 0.0
    acc_space: Literal["features", "joints"] = "features"
    acc_contacts: bool = True
    acc_target: Literal["motion", "energy", "spectrum"] = "motion"
    acc_levels: Literal["all", "signal", "low"] = "all"

    def __post_init__(self):
        for name in ("pos", "foot", "vel", "acc"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(
                    f"LossWeights: {name}", str(getattr(self, name)), "a finite weight >= 0",
                    "Set it to 0 to leave the term out.",
                )  # fmt: skip
        for name, known in READINGS.items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"LossWeights: {name}", repr(getattr(self, name)), f"one of {', '.join(known)}",
                    "Choose one of them.",
                )  # fmt: skip


def first_difference(x: Float[Tensor, "B T ..."]) -> Float[Tensor, "B T-1 ..."]:
    """x^{i+1} - x^i along time."""
    return x[:, 1:] - x[:, :-1]


def second_difference(x: Float[Tensor, "B T ..."]) -> Float[Tensor, "B T-2 ..."]:
    """x^{i+1} - 2 x^i + x^{i-1} along time."""
    return x[:, 2:] - 2 * x[:, 1:-1] + x[:, :-2]


def _over_frames(square: Float[Tensor, "B K C"], valid: Bool[Tensor, "B K"], n: Tensor) -> Tensor:
    """Mean over channels (or joints), sum over valid frames, divided by `n` (B,)."""
    return (square.mean(-1) * valid).sum(1) / n.clamp(min=1)


def motion_losses(
    x0: Float[Tensor, "B T 263"],
    x0_hat: Float[Tensor, "B T 263"],
    mask: Bool[Tensor, "B T"],
    weights: LossWeights,
    normaliser: Normaliser,
    all_terms: bool = False,
    levels: Float[Tensor, "B"] | None = None,
) -> dict[str, Float[Tensor, "B"]]:
    """Terms of eq. (6) for each sample; `total` is their weighted sum.

    x0, x0_hat: clean and predicted motion, normalised features. mask: valid frames, a prefix of
    each row; N below is their number, and what padding holds does not matter. A term is computed
    where its weight is above 0 (`all_terms=True`: always), and only those enter `total`. levels:
    what L_acc counts at the noise level of each sample (`level_weights`); 1 where not given.

    - simple (eq. 2): mean of the squared difference over channels and the N frames.
    - pos (eq. 3), m²: squared distance of recovered joints, mean over 22 joints, sum / N.
    - foot (eq. 4), m²: squared step of the predicted feet in frames where the true contact
      channel (de-normalised) exceeds 0.5, mean over the four foot joints, sum / (N - 1).
    - vel (eq. 5): squared difference of first differences, mean over channels, sum / (N - 1).
    - acc: squared difference of second differences, mean over channels, sum over its N - 2 frames
      divided by N - 1, as printed. With acc_space="joints": of recovered joints times fps²,
      squared norm averaged over 22 joints, (m/s²)². Energy and spectrum: `energy_difference`,
      `spectral_difference` of these second differences.
    """
    wanted = {
        name: all_terms or getattr(weights, name) > 0 for name in ("pos", "foot", "vel", "acc")
    }
    # Not a product: padding may hold anything, also NaN.
    x0, x0_hat = (x.masked_fill(~mask[..., None], 0.0) for x in (x0, x0_hat))
    n = mask.sum(1)
    terms = {"simple": _over_frames((x0 - x0_hat).square(), mask, n)}

    on_joints = wanted["acc"] and weights.acc_space == "joints"
    if wanted["pos"] or wanted["foot"] or on_joints:
        raw, raw_hat = normaliser.denormalise(x0), normaliser.denormalise(x0_hat)
        joints_hat = features_to_joints(raw_hat)
        joints = features_to_joints(raw)
    if wanted["pos"]:
        terms["pos"] = _over_frames((joints - joints_hat).square().sum(-1), mask, n)
    if wanted["foot"]:
        step = first_difference(joints_hat[:, :, list(FEET)]).square().sum(-1)
        contact = raw[:, :-1, CONTACTS] > 0.5
        terms["foot"] = _over_frames(step * contact, mask[:, 1:], n - 1)
    if wanted["vel"]:
        square = first_difference(x0 - x0_hat).square()
        terms["vel"] = _over_frames(square, mask[:, 1:], n - 1)
    if wanted["acc"]:
        moved = (joints, joints_hat) if on_joints else (x0, x0_hat)
        if not (on_joints or weights.acc_contacts):
            moved = tuple(x[..., : CONTACTS.start] for x in moved)
        terms["acc"] = _acceleration_loss(*moved, mask[:, 2:], weights)
        if levels is not None:
            terms["acc"] = terms["acc"] * levels

    total = terms["simple"]
    for name in ("pos", "foot", "vel", "acc"):
        if getattr(weights, name) > 0:
            total = total + getattr(weights, name) * terms[name]
    return terms | {"total": total}


def _acceleration_loss(
    x: Float[Tensor, "B T ..."],
    x_hat: Float[Tensor, "B T ..."],
    valid: Bool[Tensor, "B K"],
    weights: LossWeights,
) -> Float[Tensor, "B"]:
    on_joints = weights.acc_space == "joints"
    unit = RATE**2 if on_joints else 1
    if weights.acc_target == "motion":
        square = (second_difference(x - x_hat) * unit).square()
        # The printed sum runs over N - 2 frames and is divided by N - 1.
        return _over_frames(square.sum(-1) if on_joints else square, valid, valid.sum(1) + 1)
    compare = energy_difference if weights.acc_target == "energy" else spectral_difference
    moved = (second_difference(y).flatten(2) * unit for y in (x, x_hat))
    return compare(*moved, valid, FLOOR[weights.acc_space])


def energy_difference(
    a: Float[Tensor, "B K C"],
    a_hat: Float[Tensor, "B K C"],
    valid: Bool[Tensor, "B K"],
    floor: float,
) -> Float[Tensor, "B"]:
    """Squared difference of the logarithms of mean squares over valid frames, mean over channels.

    Nothing is asked of when a motion accelerates, only of how much. floor: added to both energies.
    """
    n = valid.sum(1).clamp(min=1)[:, None]
    energy, energy_hat = ((y.square() * valid[..., None]).sum(1) / n for y in (a, a_hat))
    return (torch.log(energy_hat + floor) - torch.log(energy + floor)).square().mean(-1)


def spectral_difference(
    a: Float[Tensor, "B K C"],
    a_hat: Float[Tensor, "B K C"],
    valid: Bool[Tensor, "B K"],
    floor: float,
) -> Float[Tensor, "B"]:
    """As `energy_difference`, in each of `BANDS` bands of frequency; mean over bands and channels.

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


def level_weights(
    levels: Literal["all", "signal", "low"], signal: Float[Tensor, "steps"]
) -> Float[Tensor, "steps"]:
    """What L_acc counts at each noise level (`LossWeights.acc_levels`); the mean is 1.

    signal: ᾱ_t of the diffusion, the share of x_0's variance in x_t.
    """
    if levels == "all":
        return torch.ones_like(signal)
    # The clearest level is low in any case.
    low = (signal > 0.5) | (signal == signal.max())
    weight = signal if levels == "signal" else low.to(signal.dtype)
    return weight / weight.mean()
