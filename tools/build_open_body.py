"""Build the open body: an SMPL-format model from the `anny` library (Apache-2.0, assets CC0).

Run as ``python tools/build_open_body.py`` where `anny` is installed; it is needed for
this only. Adult bodies are sampled, brought into SMPL's T-pose with 24 bones, and reduced to a
mean and ten principal components of unit variance. No SMPL data is used: the joints stand where
anny's bones are, moved along them to the proportions of HumanML3D's public skeleton.
"""

from pathlib import Path
from typing import Any

import anny
import click
import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls

from t2imu_utils.body.smpl import BETAS
from t2imu_utils.body.smpl import TREE as PARENTS
from t2imu_utils.files import atomic_write, sha256
from t2imu_utils.tracks import OPEN_BODY

PELVIS = 0
WEIGHT_STEPS = 1024  # skinning weights in 1/1024: exact in half precision and exact in their sum
CANDIDATES = 160  # vertices around a joint that its regressor may use

# Which of the 24 bones moves the skin of an anny bone (left side; the right one is the next bone).
SIDED = {
    "pelvis": 0, "upperleg01": 1, "upperleg02": 1, "lowerleg01": 4, "lowerleg02": 4, "foot": 7,
    "toe": 10, "clavicle": 13, "shoulder01": 13, "upperarm01": 16, "upperarm02": 16,
    "lowerarm01": 18, "lowerarm02": 18, "wrist": 20, "metacarpal": 20, "finger": 22, "eye": 15,
}  # fmt: skip
MIDDLE = {
    "root": 0, "spine05": 0, "spine04": 0, "spine03": 3, "spine02": 6, "spine01": 9,
    "neck01": 12, "neck02": 12, "neck03": 15, "head": 15,
}  # fmt: skip
# Limb lengths and widths that anny's phenotypes do not vary by themselves; both sides alike.
LOCAL = (
    "upperlegs-height-incr", "lowerlegs-height-incr", "measure-upperarm-length-incr",
    "measure-lowerarm-length-incr", "measure-shoulder-dist-incr", "torso-scale-vert-incr",
    "hip-scale-horiz-incr",
)  # fmt: skip


def sample_rest(
    model: anny.Anny, gender: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rest meshes (n, V, 3) and bone heads (n, B, 3) of random adults, Y up, facing +Z, metres."""
    n = len(gender)
    # anny's height axis has a mean adult at 0.4; low muscle with high weight is its obese corner.
    values = {
        "gender": gender,
        "age": rng.uniform(2 / 3, 0.85, n),
        "height": rng.normal(0.4, 0.09, n),
        "weight": rng.uniform(0.3, 1.0, n),
        "muscle": rng.uniform(0.2, 0.8, n),
        "proportions": rng.uniform(0.2, 0.8, n),
        "cupsize": rng.uniform(0.3, 0.7, n),
    }
    phenotypes = np.full((n, len(model.phenotype_labels)), 0.5)
    for label, value in values.items():
        phenotypes[:, model.phenotype_labels.index(label)] = value
    local = np.zeros((n, len(model.local_change_labels)))
    for label in LOCAL:
        amount = np.clip(rng.normal(0, 0.3, n), -0.9, 0.9)
        local[:, model.local_change_labels.index(label)] = amount
    vertices, heads = [], []
    for i in range(n):
        coefficients = model._get_phenotype_blendshape_coefficients(
            torch.from_numpy(phenotypes[i : i + 1]),
            torch.from_numpy(local[i : i + 1]),
            torch.zeros(1, len(model.facial_action_labels), dtype=model.dtype),
        )
        rest = model.get_rest_model(coefficients)
        vertices.append(rest["rest_vertices"][0].numpy())
        heads.append(rest["rest_bone_poses"][0, :, :3, 3].numpy())
    to_y_up = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])  # anny is Z up and faces -Y
    return np.stack(vertices) @ to_y_up.T, np.stack(heads) @ to_y_up.T


def place_joints(heads: Float[np.ndarray, "n B 3"], labels: list[str]) -> np.ndarray:
    """The 24 joints (n, 24, 3) between anny's bone heads.

    Knees, ankles, foot balls, shoulders, elbows, wrists and knuckles are anny's. SMPL's hips lie
    lower and nearer to the middle than the anatomical centres, its pelvis above them, its collars
    in the middle of the chest, and its spine joints divide the trunk unevenly; the fractions
    follow the bone lengths, and the angles at pelvis and chest, of HumanML3D's skeleton.
    """
    at = {label: heads[:, i] for i, label in enumerate(labels)}

    def mean(names: list[str]) -> np.ndarray:
        return np.mean([at[name] for name in names], axis=0)

    joints = np.zeros((len(heads), 24, 3))
    for side, s in enumerate("LR"):
        hip = at[f"upperleg01.{s}"] + 0.085 * (at[f"lowerleg01.{s}"] - at[f"upperleg01.{s}"])
        hip[:, 0] *= 0.6
        joints[:, 1 + side] = hip
        joints[:, 4 + side] = at[f"lowerleg01.{s}"]
        joints[:, 7 + side] = at[f"foot.{s}"]
        joints[:, 10 + side] = mean([f"toe{k}-1.{s}" for k in range(1, 6)])
        joints[:, 16 + side] = at[f"upperarm01.{s}"]
        joints[:, 18 + side] = at[f"lowerarm01.{s}"]
        joints[:, 20 + side] = at[f"wrist.{s}"]
        joints[:, 22 + side] = mean([f"finger{k}-1.{s}" for k in range(2, 6)])
    joints[:, 0] = at["root"] + 0.2 * (at["spine03"] - at["root"])
    joints[:, 0, 2] += 0.01
    joints[:, 3] = at["spine03"]
    joints[:, 6] = at["spine02"] + 0.35 * (at["spine01"] - at["spine02"])
    joints[:, 9] = joints[:, 6] + 0.22 * (at["neck01"] - joints[:, 6])
    joints[:, 12] = at["neck01"]
    joints[:, 15] = at["neck03"] + 0.7 * (at["head"] - at["neck03"])
    for side, s in enumerate("LR"):
        collar = 0.5 * (at[f"clavicle.{s}"] + at[f"shoulder01.{s}"])
        joints[:, 13 + side] = collar + 0.2 * (joints[:, 9] - collar)
        joints[:, 13 + side, 0] *= 1.25
        joints[:, 13 + side, 2] = joints[:, 9, 2]
    middle = [0, 3, 6, 9, 12, 15]
    joints[:, middle, 0] = 0
    return joints


def bone_weights(model: anny.Anny) -> Float[np.ndarray, "V 24"]:
    """anny's skinning weights on the 24 bones, in steps of 1/1024, each row summing to one."""
    target = np.empty(model.bone_count, int)
    for i, label in enumerate(model.bone_labels):
        if label in MIDDLE:
            target[i] = MIDDLE[label]
            continue
        name, side = label.rsplit(".", 1)
        bone = SIDED[name if name in SIDED else name.rstrip("-0123456789")]
        target[i] = bone + (side == "R" and bone > 0)
    indices = target[model.vertex_bone_indices.numpy()]
    weights = np.zeros((len(indices), 24))
    np.add.at(weights, (np.arange(len(indices))[:, None], indices), model.vertex_bone_weights)
    steps = np.round(weights / weights.sum(1, keepdims=True) * WEIGHT_STEPS)
    steps[np.arange(len(steps)), steps.argmax(1)] += WEIGHT_STEPS - steps.sum(1)
    return steps / WEIGHT_STEPS


def between(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(n, 3, 3) shortest rotations from the directions u to v (never opposite here)."""
    u = u / np.linalg.norm(u, axis=-1, keepdims=True)
    v = np.broadcast_to(v, u.shape) / np.linalg.norm(v, axis=-1, keepdims=True)
    k = np.zeros((len(u), 3, 3))
    c = np.cross(u, v)
    k[:, 0, 1], k[:, 0, 2], k[:, 1, 2] = -c[:, 2], c[:, 1], -c[:, 0]
    k -= k.transpose(0, 2, 1)
    return np.eye(3) + k + k @ k / (1 + (u * v).sum(-1))[:, None, None]


def about(axis: tuple[int, int, int], angle: np.ndarray) -> np.ndarray:
    """(n, 3, 3) rotations about one fixed axis."""
    x, y, z = axis
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]], float)
    return np.eye(3) + np.sin(angle)[:, None, None] * k + (1 - np.cos(angle))[:, None, None] * k @ k


def t_pose_rotations(joints: np.ndarray, fingers: np.ndarray) -> Float[np.ndarray, "n 24 3 3"]:
    """Global rotation of every bone from anny's rest pose into SMPL's.

    Arms straight out with the palms down and the elbows bending forward, legs slightly apart, feet
    flat. `fingers` (n, 2, 3) points from the little finger's to the index finger's knuckle.
    """
    n = len(joints)
    rotations = np.broadcast_to(np.eye(3), (n, 24, 3, 3)).copy()
    for side, sign in enumerate((1.0, -1.0)):
        hip, knee, ankle, toe = (joints[:, k + side] for k in (1, 4, 7, 10))
        rotations[:, 1 + side] = between(knee - hip, np.array([0.08 * sign, -1, -0.01]))
        rotations[:, 4 + side] = between(ankle - knee, np.array([-0.02 * sign, -1, -0.09]))
        foot = toe - ankle
        turn = np.arctan2(0.1 * sign, 1) - np.arctan2(foot[:, 0], foot[:, 2])
        rotations[:, 7 + side] = rotations[:, 10 + side] = about((0, 1, 0), turn)

        shoulder, elbow, wrist, hand = (joints[:, k + side] for k in (16, 18, 20, 22))
        out = np.array([sign, 0, 0])
        lift = between(elbow - shoulder, out)
        bend = np.einsum("nij,nj->ni", lift, wrist - elbow)
        upper = about((1, 0, 0), np.arctan2(bend[:, 1], bend[:, 2])) @ lift
        fore = between(np.einsum("nij,nj->ni", upper, wrist - elbow), out) @ upper
        palm = between(np.einsum("nij,nj->ni", fore, hand - wrist), out) @ fore
        across = np.einsum("nij,nj->ni", palm, fingers[:, side])
        roll = np.arctan2(across[:, 1], across[:, 2])
        rotations[:, 16 + side] = upper
        rotations[:, 18 + side] = about((1, 0, 0), roll / 2) @ fore
        rotations[:, 20 + side] = rotations[:, 22 + side] = about((1, 0, 0), roll) @ palm
    return rotations


def pose(
    vertices: np.ndarray, joints: np.ndarray, rotations: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Linear blend skinning with global rotations; the pelvis ends at the origin."""
    posed = np.zeros_like(joints)
    for j in range(1, 24):
        bone = joints[:, j] - joints[:, PARENTS[j]]
        turned = np.einsum("nij,nj->ni", rotations[:, PARENTS[j]], bone)
        posed[:, j] = posed[:, PARENTS[j]] + turned
    skin = np.zeros_like(vertices)
    for j in range(24):
        ids = np.flatnonzero(weights[:, j])
        local = vertices[:, ids] - joints[:, None, j]
        moved = np.einsum("nij,nvj->nvi", rotations[:, j], local) + posed[:, None, j]
        skin[:, ids] += weights[ids, j, None] * moved
    return skin, posed


def joint_regressor(
    skin: Float[np.ndarray, "n V 3"], joints: Float[np.ndarray, "n 24 3"], weights: np.ndarray
) -> tuple[Float[np.ndarray, "24 V"], Float[np.ndarray, "24"]]:
    """Non-negative rows that sum to one and follow the joints over shapes; and their RMS error."""
    regressor = np.zeros((24, skin.shape[1]))
    error = np.zeros(24)
    for j in range(24):
        near = np.linalg.norm(skin.mean(0) - joints[:, j].mean(0), axis=-1)
        near = near + 10.0 * (weights[:, [j, max(PARENTS[j], 0)]].sum(1) < 0.2)
        ids = np.argsort(near)[: 4 * CANDIDATES : 4]
        # Shape changes count ten times as much as the place of the mean joint does.
        mean_v, mean_j = skin[:, ids].mean(0), joints[:, j].mean(0)
        change = (skin[:, ids] - mean_v).transpose(0, 2, 1).reshape(-1, len(ids))
        rows = [10 * change / np.sqrt(len(skin)), 10 * mean_v.T, np.full((1, len(ids)), 100.0)]
        goal = [10 * (joints[:, j] - mean_j).ravel() / np.sqrt(len(skin)), 10 * mean_j, [100.0]]
        solution, _ = nnls(np.concatenate(rows), np.concatenate(goal), maxiter=3000)
        solution[solution < 1e-3] = 0
        regressor[j, ids] = solution / solution.sum()
        fitted = np.einsum("v,nvx->nx", regressor[j, ids], skin[:, ids])
        error[j] = np.sqrt(((fitted - joints[:, j]) ** 2).sum(-1).mean())
    return regressor, error


def build(samples: int, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All arrays of the model file, and how well they stand for the sampled bodies."""
    rng = np.random.default_rng(seed)
    model = anny.Anny(
        rig="anny",
        topology="anny-noeyes-notongue",  # closed skin: every edge has two faces
        local_changes="default",
        phenotypes="all",
        extrapolate_phenotypes=True,
        skinning_method="lbs",
    )
    gender = (np.arange(samples) % 2).astype(float)  # 0 male, 1 female
    vertices, heads = sample_rest(model, gender, rng)
    weights = bone_weights(model)
    joints = place_joints(heads, model.bone_labels)
    index = {label: i for i, label in enumerate(model.bone_labels)}
    fingers = np.stack(
        [heads[:, index[f"finger2-1.{s}"]] - heads[:, index[f"finger5-1.{s}"]] for s in "LR"], 1
    )
    skin, posed = pose(vertices, joints, t_pose_rotations(joints, fingers), weights)

    mean = skin.mean(0)
    flat = (skin - mean).reshape(samples, -1)
    left, singular, right = np.linalg.svd(flat, full_matrices=False)
    deviation = singular[:BETAS] / np.sqrt(samples - 1)
    directions = right[:BETAS] * deviation[:, None]
    betas = left[:, :BETAS] * np.sqrt(samples - 1)
    # A positive coefficient makes the body taller: the sign of a component is arbitrary.
    taller = np.ptp((mean.ravel() + directions).reshape(BETAS, -1, 3)[:, :, 1], axis=1)
    sign = np.where(taller < np.ptp(mean[:, 1]), -1.0, 1.0)
    directions, betas = directions * sign[:, None], betas * sign
    regressor, error = joint_regressor(skin, posed, weights)
    # The regressor's own pelvis becomes the origin of every shape.
    mean = mean - regressor[PELVIS] @ mean
    components = directions.reshape(BETAS, -1, 3)
    components = components - np.einsum("v,bvx->bx", regressor[PELVIS], components)[:, None]

    arrays = {
        "v_template": mean.astype(np.float32),
        "shapedirs": components.transpose(1, 2, 0).astype(np.float16),
        "posedirs": np.zeros((len(mean), 3, 207), np.int8),
        "J_regressor": regressor.astype(np.float32),
        "weights": weights.astype(np.float16),
        "kintree_table": np.array([PARENTS, range(24)], np.int32),
        "f": model.faces.numpy().astype(np.uint16),
    }
    for name, value in (("male", 0), ("female", 1)):
        of_gender = betas[gender == value]
        arrays[f"betas_mean_{name}"] = of_gender.mean(0).astype(np.float32)
        arrays[f"betas_cov_{name}"] = np.cov(of_gender.T).astype(np.float32)
    rest = flat - betas @ directions
    report = {
        "explained": float((singular[:BETAS] ** 2).sum() / (singular**2).sum()),
        "vertex_rms_m": float(np.sqrt((rest**2).sum() / (samples * len(mean)))),
        "joint_regressor_rms_mm": np.round(1000 * error, 1).tolist(),
    }
    return arrays, report


@click.command()
@click.option("--samples", default=400, show_default=True, help="Bodies to sample.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=Path, default=OPEN_BODY)
def main(samples: int, seed: int, out: Path) -> None:
    """Sample bodies, build the model and write it."""
    arrays, report = build(samples, seed)
    with atomic_write(out) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)
    click.echo(f"{out}: {out.stat().st_size} bytes, sha256 {sha256(out)}")
    click.echo(f"anny {anny.__version__}, {samples} bodies, seed {seed}: {report}")


if __name__ == "__main__":
    main()
