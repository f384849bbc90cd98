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

from t2imu_utils.errors import InputError
from t2imu_utils.motion.rotations import axis_angle_to_matrix
from t2imu_utils.runs import atomic_write
from t2imu_utils.tracks import OPEN_BODY

BONES, BETAS = 24, 10
GENDERS = ("male", "female")
KEYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")
REMEDY = "Rebuild it with `python -m t2imu_utils.body.build_open_body`, or check the download."


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
        transl: Float[Tensor, "F 3"],
    ) -> Float[Tensor, "F K 3"]:
        """Positions in metres of some vertices only: shape, pose blend shapes, skinning."""
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
        shapes = self.model.shapedirs.to(rotations)[ids]
        skin = self.model.v_template.to(rotations)[ids]
        skin = skin + torch.einsum("kxb,...b->...kx", shapes, betas)
        if self._bends:
            basis = self.model.posedirs.to(rotations).unflatten(1, (-1, 3))[:, ids]
            feature = (local[:, 1:] - torch.eye(3).to(rotations)).flatten(1)
            skin = skin + torch.einsum("fp,pkx->fkx", feature, basis)
        # Per bone, R (v - J) + p; blending the transforms first would be the same.
        weights = self.model.lbs_weights.to(rotations)[ids]
        rest = self.rest_joints(betas).expand(len(rotations), -1, -1)
        offset = positions - (rotations @ rest[..., None])[..., 0]
        blended = torch.einsum("kj,fjxy->fkxy", weights, rotations)
        shift = torch.einsum("kj,fjx->fkx", weights, offset)
        return (blended @ skin.expand(len(rotations), -1, -1)[..., None])[..., 0] + shift

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
        if orient.shape[1:] != (3,) or pose.shape[1:] != (BONES - 1, 3) or shift.shape[1:] != (3,):
            raise InputError(
                "pose: global_orient, body_pose, transl",
                f"{tuple(orient.shape)}, {tuple(pose.shape)}, {tuple(shift.shape)}",
                "(F, 3), (F, 69), (F, 3)",
                "Pass rotation vectors, one row a frame.",
            )
        local = axis_angle_to_matrix(torch.cat((orient[:, None], pose), dim=1))
        rest = self.rest_joints(self._tensor(betas).to(local)).expand(len(local), -1, -1)
        rotations, positions = forward_kinematics(local, rest, self.parents)
        return rotations, positions + shift[:, None], local


def forward_kinematics(
    local: Float[Tensor, "F J 3 3"], rest: Float[Tensor, "F J 3"], parents: tuple[int, ...]
) -> tuple[Float[Tensor, "F J 3 3"], Float[Tensor, "F J 3"]]:
    """Global rotations and joint positions from local rotations and rest joints."""
    rotations, positions = [local[:, 0]], [rest[:, 0]]
    for j in range(1, local.shape[1]):
        p = parents[j]
        bone = (rest[:, j] - rest[:, p])[..., None]
        positions.append(positions[p] + (rotations[p] @ bone)[..., 0])
        rotations.append(rotations[p] @ local[:, j])
    return torch.stack(rotations, dim=1), torch.stack(positions, dim=1)


def load_body(path: Path | None = None, dtype: torch.dtype = torch.float32) -> Body:
    """Read an SMPL-format body: the open one that is committed, or a licensed ``.npz`` or ``.pkl``.

    Pickles are read with an unpickler that builds arrays and nothing else. Raises `InputError` for
    a file that is missing, not such a model, lacks a field or has one of a wrong shape.
    """
    path = Path(path or OPEN_BODY)
    if not path.is_file():
        raise InputError(
            path,
            "nothing",
            "an SMPL-format body (.npz or .pkl)",
            "The licensed one comes from smpl.is.tue.mpg.de; the open one from "
            "`python -m t2imu_utils.body.build_open_body`.",
        )
    stored = _read_pickle(path) if path.suffix == ".pkl" else _read_npz(path)
    arrays = _checked(path, stored)
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
    mean = {g: stored.get(f"betas_mean_{g}", np.zeros(BETAS)).astype(float) for g in GENDERS}
    cov = {g: stored.get(f"betas_cov_{g}", np.eye(BETAS)).astype(float) for g in GENDERS}
    return Body(model, path, mean, cov)


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


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files if key in KEYS or "betas_" in key}
    except Exception as error:  # a damaged archive fails in many ways inside zipfile and numpy
        raise InputError(path, f"no readable arrays ({error})", "an .npz", REMEDY) from error


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and SciPy sparse matrices; anything else in the file is refused."""

    _ALLOWED = {
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy.core.numeric", "_frombuffer"),
        ("scipy.sparse.csc", "csc_matrix"),
        ("scipy.sparse._csc", "csc_matrix"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}")
        if name == "csc_matrix":
            module = "scipy.sparse"
        return super().find_class(module, name)


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as stream:
            stored = _ArrayUnpickler(stream, encoding="latin1").load()
    except Exception as error:
        remedy = "Convert models that hold chumpy objects with smplx's tools/clean_ch.py."
        raise InputError(path, f"no plain arrays ({error})", "a cleaned .pkl", remedy) from error
    if not isinstance(stored, dict):
        raise InputError(path, type(stored).__name__, "a dict of arrays", REMEDY)
    arrays = {k: v for k, v in stored.items() if k in KEYS}
    return {k: v.toarray() if hasattr(v, "toarray") else np.asarray(v) for k, v in arrays.items()}


def _checked(path: Path, stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The seven arrays of a model, after their shapes were compared with each other."""
    for key in KEYS:
        if key not in stored:
            raise InputError(f"{path}: {key}", "no such field", "an SMPL-format body", REMEDY)
    arrays = {key: stored[key] for key in KEYS}
    arrays["shapedirs"] = arrays["shapedirs"][..., :BETAS]
    count = len(arrays["v_template"])
    expected = {
        "v_template": (count, 3),
        "shapedirs": (count, 3, BETAS),
        "posedirs": (count, 3, 9 * (BONES - 1)),
        "J_regressor": (BONES, count),
        "weights": (count, BONES),
        "kintree_table": (2, BONES),
        "f": (len(arrays["f"]), 3),
    }
    for key, shape in expected.items():
        if arrays[key].shape != shape:
            raise InputError(f"{path}: {key}", str(arrays[key].shape), str(shape), REMEDY)
        if arrays[key].dtype.kind == "f" and not np.isfinite(arrays[key]).all():
            raise InputError(f"{path}: {key}", "NaN or infinity", "finite numbers", REMEDY)
    arrays["kintree_table"] = arrays["kintree_table"].astype(np.int64)
    arrays["f"] = arrays["f"].astype(np.int64)
    if arrays["f"].min() < 0 or arrays["f"].max() >= count:
        raise InputError(f"{path}: f", "vertices that do not exist", f"0 to {count - 1}", REMEDY)
    return arrays
