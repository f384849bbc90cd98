"""SMPL through `smplx`: any SMPL-format body, posed at its joints or at a few vertices only.

A frame of the whole mesh is thousands of vertices, a virtual IMU needs a handful. `Body.joints`
walks the skeleton alone and `Body.vertices` skins only the vertices asked for; both equal smplx's
own forward pass (Loper et al. 2015, the paper's reference [28]).
"""

import contextlib
import io
import pickle
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import smplx
import torch
from jaxtyping import Float, Int
from smplx.utils import Struct
from torch import Tensor

from t2imu_utils.body.smpl_files import BETAS, BONES, find_models, read_model
from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write
from t2imu_utils.motion.rotations import axis_angle_to_matrix
from t2imu_utils.tracks import OPEN_BODY

GENDERS = ("male", "female")


@dataclass(frozen=True)
class Body:
    """An SMPL-format body.

    Attributes:
        model: the `smplx.SMPL` that holds all arrays.
        path: the file it was read from.
        betas_mean, betas_cov: gender -> mean (10,) and covariance (10, 10) of the betas of that
            gender's bodies; zeros and the identity where the file does not give them.
    """

    model: smplx.SMPL
    path: Path
    betas_mean: dict[str, Float[np.ndarray, "10"]]
    betas_cov: dict[str, Float[np.ndarray, "10 10"]]

    @property
    def faces(self) -> Int[np.ndarray, "N 3"]:
        """Vertex indices of the triangles, counter-clockwise seen from outside."""
        return self.model.faces_tensor.cpu().numpy()

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """Parent of each of the 24 bones; -1 for the pelvis."""
        return tuple(self.model.parents.tolist())

    @cached_property
    def _rest(self) -> tuple[Tensor, Tensor]:
        """Rest joints of the mean shape (24, 3), and their change with each beta (24, 3, 10)."""
        regressor = self.model.J_regressor.double()
        mean = regressor @ self.model.v_template.double()
        change = torch.einsum("jv,vxb->jxb", regressor, self.model.shapedirs.double())
        dtype = self.model.v_template.dtype
        return mean.to(dtype), change.to(dtype)

    @cached_property
    def _bends(self) -> bool:
        """Whether the file has pose blend shapes at all."""
        return bool(self.model.posedirs.any())

    def rest_joints(self, betas: Float[Tensor, "*B 10"]) -> Float[Tensor, "*B 24 3"]:
        """Joints in metres of the unposed body, linear in the shape."""
        mean, change = self._rest
        betas = self._tensor(betas)
        return mean.to(betas) + torch.einsum("jxb,...b->...jx", change.to(betas), betas)

    def rest_vertices(self, betas: Float[Tensor, "10"]) -> Float[Tensor, "V 3"]:
        """The whole mesh in metres of the unposed body."""
        betas = self._tensor(betas)
        return self.model.v_template.to(betas) + self.model.shapedirs.to(betas) @ betas

    def bone_transforms(
        self,
        betas: Float[Tensor, "*B 10"],
        global_orient: Float[Tensor, "F 3"],
        body_pose: Float[Tensor, "F 69"],
        transl: Float[Tensor, "F 3"],
    ) -> tuple[Float[Tensor, "F 24 3 3"], Float[Tensor, "F 24 3"]]:
        """Global rotation and position of every bone, for rotation vectors as in SMPL.

        `betas` is one shape for all frames or one per frame. Tensors keep their device and type,
        arrays become tensors of the model's type. `body_pose` may be (F, 23, 3) as well.
        """
        rotations, positions, _ = self._chain(betas, global_orient, body_pose, transl)
        return rotations, positions

    def joints(
        self,
        betas: Float[Tensor, "*B 10"],
        global_orient: Float[Tensor, "F 3"],
        body_pose: Float[Tensor, "F 69"],
        transl: Float[Tensor, "F 3"],
    ) -> Float[Tensor, "F 24 3"]:
        """The 24 joints in metres, without touching the mesh; the first 22 are HumanML3D's."""
        return self._chain(betas, global_orient, body_pose, transl)[1]

    def vertices(
        self,
        ids: Int[Tensor, "K"],
        betas: Float[Tensor, "*B 10"],
        global_orient: Float[Tensor, "F 3"],
        body_pose: Float[Tensor, "F 69"],
        transl: Float[Tensor, "*N F 3"],
    ) -> Float[Tensor, "*N F K 3"]:
        """Positions in metres of some vertices only: shape, pose blend shapes, skinning.

        For N people who strike the same poses `betas` is (N, 1, 10) and `transl` (N, F, 3): the
        rotations, which they share, are computed once.
        """
        rotations, positions, local = self._chain(betas, global_orient, body_pose, transl)
        ids = torch.as_tensor(ids, device=rotations.device)
        count = len(self.model.v_template)
        if ids.numel() and (ids.min() < 0 or ids.max() >= count):
            raise InputError(
                f"{self.path}: vertex ids",
                f"{int(ids.min())} to {int(ids.max())}",
                f"0 to {count - 1}",
                "The sites belong to another body model.",
            )
        betas = self._tensor(betas).to(rotations)
        betas = betas[None] if betas.ndim == 1 else betas
        shapes = self.model.shapedirs.to(rotations)[ids]
        skin = self.model.v_template.to(rotations)[ids]
        skin = skin + torch.einsum("kxb,...b->...kx", shapes, betas)
        if self._bends:
            basis = self.model.posedirs.to(rotations).unflatten(1, (-1, 3))[:, ids]
            feature = (local[:, 1:] - torch.eye(3).to(rotations)).flatten(1)
            skin = skin + torch.einsum("fp,pkx->fkx", feature, basis)
        # Per bone, R (v - J) + p; blending the transforms first would be the same.
        weights = self.model.lbs_weights.to(rotations)[ids]
        offset = positions - _turned(rotations, self.rest_joints(betas))
        blended = torch.einsum("kj,fjxy->fkxy", weights, rotations)
        return _turned(blended, skin) + weights @ offset

    def _tensor(self, values: Tensor | np.ndarray) -> Tensor:
        if isinstance(values, Tensor):
            return values
        return torch.tensor(np.asarray(values), dtype=self.model.v_template.dtype)

    def _chain(
        self, betas: Tensor, global_orient: Tensor, body_pose: Tensor, transl: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Global rotations, positions, and local rotations of the 24 bones."""
        orient, pose, shift = (self._tensor(x) for x in (global_orient, body_pose, transl))
        pose = pose.reshape(len(pose), -1, 3)
        if orient.shape[1:] != (3,) or pose.shape[1:] != (BONES - 1, 3) or shift.shape[-1:] != (3,):
            raise InputError(
                "pose: global_orient, body_pose, transl",
                f"{tuple(orient.shape)}, {tuple(pose.shape)}, {tuple(shift.shape)}",
                "(F, 3), (F, 69), (F, 3)",
                "Pass rotation vectors, one row a frame.",
            )
        local = axis_angle_to_matrix(torch.cat((orient[:, None], pose), dim=1))
        rest = self.rest_joints(self._tensor(betas).to(local))
        rest = rest[None] if rest.ndim == 2 else rest
        rotations, positions = forward_kinematics(local, rest, self.parents)
        return rotations, positions + shift[..., None, :], local


@dataclass(frozen=True)
class Bodies:
    """The models of one release: the fit uses the neutral one, each person that of the gender."""

    neutral: Body
    male: Body
    female: Body

    def of(self, gender: str) -> Body:
        """The model of a gender: "male", "female" or "neutral"."""
        if gender not in ("neutral", *GENDERS):
            expected = f"neutral, {' or '.join(GENDERS)}"
            raise InputError("gender", repr(gender), expected, "Check its spelling.")
        return getattr(self, gender)


@dataclass(frozen=True)
class Shape:
    """A person: a body model, and the betas (10,) that stand for the person on it."""

    body: Body
    betas: Float[np.ndarray, "10"]


def forward_kinematics(
    local: Float[Tensor, "F J 3 3"], rest: Float[Tensor, "*N F J 3"], parents: tuple[int, ...]
) -> tuple[Float[Tensor, "F J 3 3"], Float[Tensor, "*N F J 3"]]:
    """Global rotations and joint positions from local rotations and rest joints.

    `rest` may have one row in place of F, and rows of several people before that.
    """
    above = list(parents[1:])
    rotations = [local[:, 0]]
    for j, p in enumerate(above, start=1):
        rotations.append(rotations[p] @ local[:, j])
    turned = torch.stack(rotations, dim=1)
    bones = _turned(turned[:, above], rest[..., 1:, :] - rest[..., above, :]).unbind(-2)
    positions = [rest[..., 0, :].expand_as(bones[0])]
    for p, bone in zip(above, bones, strict=True):
        positions.append(positions[p] + bone)
    return turned, torch.stack(positions, dim=-2)


def _turned(
    rotations: Float[Tensor, "F J 3 3"], vectors: Float[Tensor, "*N F J 3"]
) -> Float[Tensor, "*N F J 3"]:
    """Vectors turned by rotations; one row of vectors may stand for all F."""
    return torch.einsum("fjxy,...fjy->...fjx", rotations, vectors)


def load_body(
    path: Path | None = None, dtype: torch.dtype = torch.float32, cache: Path | None = None
) -> Body:
    """Read an SMPL-format body: the open one that is committed, or a licensed ``.npz`` or ``.pkl``.

    Nothing in a pickle is run (`smpl_files.read_model`). `cache` is a folder where the arrays of a
    pickle are kept for later calls. Raises `InputError` for a file that is missing, not such a
    model, lacks a field or has one of a wrong shape.
    """
    path = Path(path or OPEN_BODY)
    arrays = read_model(path, cache)
    with contextlib.redirect_stdout(io.StringIO()):  # smplx prints that there are 10 betas
        model = smplx.SMPL(
            str(path),
            data_struct=Struct(**arrays),
            create_betas=False,
            create_global_orient=False,
            create_body_pose=False,
            create_transl=False,
            dtype=dtype,
        )
    model.requires_grad_(False)
    mean = {g: arrays.get(f"betas_mean_{g}", np.zeros(BETAS)).astype(float) for g in GENDERS}
    cov = {g: arrays.get(f"betas_cov_{g}", np.eye(BETAS)).astype(float) for g in GENDERS}
    return Body(model, path, mean, cov)


def load_bodies(folder: Path | None = None, cache: Path | None = None) -> Bodies:
    """Read the body models of all genders: the open body for each, or a folder of licensed SMPL.

    Args:
        folder: holds three files as downloaded, cleaned or renamed for smplx, in subfolders too
            (`smpl_files.find_models`); None takes the open body.
        cache: see `load_body`.

    Raises:
        InputError: a model is missing or unreadable, or the three are not of one mesh.
    """
    if folder is None:
        body = load_body()
        return Bodies(body, body, body)
    found = find_models(folder)
    missing = [name for name in ("neutral", *GENDERS) if name not in found]
    if missing:
        names = ", ".join(path.name for path in found.values()) or "no model"
        raise InputError(
            folder,
            f"{names}, so none that is {' or '.join(missing)}",
            "SMPL_NEUTRAL.pkl, SMPL_MALE.pkl and SMPL_FEMALE.pkl",
            "SMPL_python_v.1.1.0.zip of smpl.is.tue.mpg.de has all three, as "
            "basicmodel_neutral, _m and _f_lbs_10_207_0_v1.1.0.pkl; either name will do.",
        )
    bodies = Bodies(**{gender: load_body(path, cache=cache) for gender, path in found.items()})
    for body in (bodies.male, bodies.female):
        if not same_mesh(body, bodies.neutral):
            raise InputError(
                f"{body.path}: f",
                f"other triangles than in {bodies.neutral.path.name}",
                "one mesh for all genders",
                "Take the three files from one release.",
            )
    return bodies


def same_mesh(one: Body, other: Body) -> bool:
    """Whether vertices of one body are those of the other: the same triangles, in order."""
    return one is other or np.array_equal(one.faces, other.faces)


def write_smpl_pickle(body: Body, path: Path) -> None:
    """Write the body as the ``.pkl`` that ``smplx.create(path, model_type="smpl")`` opens."""
    model = body.model
    posedirs = model.posedirs.T.reshape(-1, 3, 9 * (BONES - 1))
    arrays = {
        "v_template": model.v_template,
        "shapedirs": model.shapedirs,
        "posedirs": posedirs,
        "J_regressor": model.J_regressor,
        "weights": model.lbs_weights,
        "kintree_table": torch.stack((model.parents, torch.arange(BONES))),
        "f": model.faces_tensor,
    }
    with atomic_write(path) as temporary:
        temporary.write_bytes(pickle.dumps({k: v.cpu().numpy() for k, v in arrays.items()}))
