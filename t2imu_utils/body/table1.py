"""The eight bodies of Table I: their heights and weights, and the shapes that reach them."""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from t2imu_utils.body.smpl import BETAS, Bodies, Body, Shape
from t2imu_utils.errors import InputError

DENSITY = 985.0  # kg/m³, mean density of a body that breathes calmly; anny itself uses 980
BETA_LIMIT = 5.0  # |beta_i| < 5, Section III-B
HEIGHT_TOLERANCE, WEIGHT_TOLERANCE = 0.01, 2.0  # m, kg


@dataclass(frozen=True)
class Target:
    """One row of Table I."""

    name: str
    gender: str
    height_cm: float
    weight_kg: float


BODIES = (
    Target("male tall", "male", 200.0, 100.0),
    Target("male short", "male", 160.0, 60.0),
    Target("male average", "male", 178.9, 85.8),
    Target("male adipose", "male", 178.9, 111.0),
    Target("female tall", "female", 180.0, 75.0),
    Target("female short", "female", 150.0, 50.0),
    Target("female average", "female", 165.8, 69.2),
    Target("female adipose", "female", 165.8, 97.0),
)
MEAN = "mean"
PEOPLE = (MEAN, *(target.name for target in BODIES))


def measure(body: Body, betas: Float[np.ndarray, "10"]) -> tuple[float, float]:
    """Height in metres (vertical extent of the unposed mesh) and mass in kg (volume x density)."""
    height, mass = _measure(body, torch.tensor(np.asarray(betas, float)))
    return float(height), float(mass)


def solve_betas(body: Body, gender: str, height: float, weight: float) -> Float[np.ndarray, "10"]:
    """The likeliest body of a gender that has this height (m) and weight (kg).

    Height and mass are made linear in the betas and met by the step from the gender's mean that is
    shortest in the metric of its covariance (Mahalanobis), again and again. Raises `InputError` if
    none with |beta_i| < 5 comes within 1 cm and 2 kg.
    """
    mean = torch.as_tensor(body.betas_mean[gender], dtype=torch.float64)
    spread = torch.linalg.cholesky(torch.as_tensor(body.betas_cov[gender], dtype=torch.float64))
    wanted = torch.tensor([height, weight], dtype=torch.float64)
    scale = torch.tensor([HEIGHT_TOLERANCE, WEIGHT_TOLERANCE], dtype=torch.float64)
    betas = mean.clone()
    for _ in range(30):
        betas = betas.requires_grad_(True)
        values = torch.stack(_measure(body, betas)) / scale
        slope = [torch.autograd.grad(value, betas, retain_graph=True)[0] for value in values]
        slope = torch.stack(slope)
        values, betas = values.detach(), betas.detach()
        if not torch.isfinite(slope).all():
            break
        gap = wanted / scale - values - slope @ (mean - betas)
        goal = mean + spread @ (torch.linalg.pinv(slope @ spread) @ gap)
        goal = goal.clamp(-BETA_LIMIT + 1e-3, BETA_LIMIT - 1e-3)
        # Not the whole step: volume is cubic in the betas, and the tallest vertex may change.
        move = 0.8 * (goal - betas)
        betas = betas + move
        if move.abs().max() < 1e-5:
            break
    result = betas.numpy()
    tall, heavy = measure(body, result)
    if not (abs(tall - height) <= HEIGHT_TOLERANCE and abs(heavy - weight) <= WEIGHT_TOLERANCE):
        raise InputError(
            f"{body.path}: shape of a {gender} of {height:.3f} m and {weight:.1f} kg",
            f"{tall:.3f} m and {heavy:.1f} kg at best", "1 cm and 2 kg or nearer, with |beta| < 5",
            "The body model does not reach this build.",
        )  # fmt: skip
    return result


def solve_table(bodies: Bodies) -> pd.DataFrame:
    """Table I solved: name, gender, target and reached height (cm) and weight (kg), betas.

    The betas of a row belong to the model of its gender.
    """
    rows = []
    for target in BODIES:
        body = bodies.of(target.gender)
        betas = solve_betas(body, target.gender, target.height_cm / 100, target.weight_kg)
        height, mass = measure(body, betas)
        rows.append(asdict(target) | {
            "reached_cm": 100 * height, "reached_kg": mass,
            "largest_beta": float(np.abs(betas).max()),
            **{f"beta_{i}": float(betas[i]) for i in range(BETAS)},
        })  # fmt: skip
    return pd.DataFrame(rows)


def shapes_of(table: pd.DataFrame, bodies: Bodies) -> dict[str, Shape]:
    """The people of a solved table by name, each on the model of the own gender."""
    rows = zip(table["name"], table["gender"], betas_of(table), strict=True)
    return {name: Shape(bodies.of(gender), betas) for name, gender, betas in rows}


def shape_of(person: str, body: Body) -> Shape:
    """One of `PEOPLE`: the mean shape of a body, or the person of a row of Table I."""
    if person == MEAN:
        return Shape(body, np.zeros(BETAS))
    target = next(target for target in BODIES if target.name == person)
    betas = solve_betas(body, target.gender, target.height_cm / 100, target.weight_kg)
    return Shape(body, betas)


def betas_of(table: pd.DataFrame) -> Float[np.ndarray, "N 10"]:
    """The columns ``beta_0`` to ``beta_9`` of a table of bodies or clips."""
    return table[[f"beta_{i}" for i in range(BETAS)]].to_numpy(float, copy=True)


def _measure(body: Body, betas: Float[Tensor, "10"]) -> tuple[Tensor, Tensor]:
    vertices = body.rest_vertices(betas)
    height = vertices[:, 1].max() - vertices[:, 1].min()
    a, b, c = vertices[body.model.faces_tensor].unbind(1)
    volume = (torch.linalg.cross(a, b) * c).sum() / 6  # divergence theorem on the closed mesh
    return height, DENSITY * volume
