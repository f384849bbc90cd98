"""The training losses, eqs. (2)-(6) of the paper, one value a sample, padding masked out."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.motion.features import CONTACTS, RATE, features_to_joints
from t2imu_utils.motion.skeleton import FEET

TERMS = ("simple", "pos", "foot", "vel", "acc")


@dataclass(frozen=True)
class LossWeights:
    """The lambdas of eq. (6) and the two readings of L_acc; the weight of L_simple is 1.

    acc_space: "features" takes second differences of normalised features, as the equation is
    printed; "joints" takes them of recovered joints, in m/s². acc_contacts: False leaves the four
    binary contact channels out of the feature-space L_acc.
    """

    pos: float = 0.0
    foot: float = 0.0
    vel: float = 0.0
    acc: float = 0.0
    acc_space: Literal["features", "joints"] = "features"
    acc_contacts: bool = True

    def __post_init__(self):
        for name in ("pos", "foot", "vel", "acc"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(
                    f"LossWeights: {name}", str(getattr(self, name)), "a finite weight >= 0",
                    "Set it to 0 to leave the term out.",
                )  # fmt: skip
        if self.acc_space not in ("features", "joints"):
            raise InputError(
                "LossWeights: acc_space", repr(self.acc_space), "'features' or 'joints'",
                "Choose one of the two.",
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
) -> dict[str, Float[Tensor, "B"]]:
    """Terms of eq. (6) for each sample; `total` is their weighted sum.

    x0, x0_hat: clean and predicted motion, normalised features. mask: valid frames, a prefix of
    each row; N below is their number, and what padding holds does not matter. A term is computed
    where its weight is above 0 (`all_terms=True`: always), and only those enter `total`.

    - simple (eq. 2): mean of the squared difference over channels and the N frames.
    - pos (eq. 3), m²: squared distance of recovered joints, mean over 22 joints, sum / N.
    - foot (eq. 4), m²: squared step of the predicted feet in frames where the true contact
      channel (de-normalised) exceeds 0.5, mean over the four foot joints, sum / (N - 1).
    - vel (eq. 5): squared difference of first differences, mean over channels, sum / (N - 1).
    - acc: squared difference of second differences, mean over channels, sum over its N - 2 frames
      divided by N - 1, as printed. With acc_space="joints": of recovered joints times fps²,
      squared norm averaged over 22 joints, (m/s²)².
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
        if on_joints:
            square = (second_difference(joints - joints_hat) * RATE**2).square().sum(-1)
        else:
            error = x0 - x0_hat
            square = second_difference(
                error if weights.acc_contacts else error[..., : CONTACTS.start]
            )
            square = square.square()
        terms["acc"] = _over_frames(square, mask[:, 2:], n - 1)

    total = terms["simple"]
    for name in ("pos", "foot", "vel", "acc"):
        if getattr(weights, name) > 0:
            total = total + getattr(weights, name) * terms[name]
    return terms | {"total": total}
