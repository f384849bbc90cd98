"""SMPL through `smplx`: any SMPL-format body, posed at its joints or at a few vertices only.

A frame of the whole mesh is thousands of vertices, a virtual IMU needs a handful. `Body.joints`
walks the skeleton alone and `Body.vertices` skins only the vertices asked for; both equal smplx's
own forward pass (Loper et al. 2015, the paper's reference [28]).

The licensed files are pickles of Python 2 that name classes of chumpy, NumPy and SciPy. None of
these is built (see `pickles`).
"""

import contextlib
import io
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import smplx
import torch
from jaxtyping import Float, Int
from smplx.utils import Struct
from torch import Tensor

from t2imu_utils.errors import InputError
from t2imu_utils.files import ARRAYS, NUMPY, Inert, decode_array, read_pickle
from t2imu_utils.motion.rotations import axis_angle_to_matrix
from t2imu_utils.motion.skeleton import PARENTS
from t2imu_utils.tracks import OPEN_BODY

GENDERS = ("male", "female")
BONES, BETAS = 24, 10
TREE = (*PARENTS, 20, 21)  # the skeleton's joints and two hands
KEYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")
REMEDY = "Rebuild it with tools/build_open_body.py, or check the download."
DOWNLOAD = "Sign in at smpl.is.tue.mpg.de and download it again."
CLEANED = "Take a release without chumpy objects, or convert it with smplx's tools/clean_ch.py."

# Names that files carry: those that smplx asks for, and those in the archives of smpl.is.tue.mpg.de
# (version 1.0.0: male and female, 1.1.0: all three) and of SMPLify (neutral, 1.0.0).
NAME = re.compile(
    r"(smpl_(?P<name>neutral|male|female)"
    r"|basicmodel_(?P<letter>neutral|m|f)_lbs_10_207_0_v(?P<version>1\.[01]\.0))\.(pkl|npz)",
    re.IGNORECASE,
)
LETTERS = {"m": "male", "f": "female"}

# What a model's pickle names beside classes of chumpy, by package.
NAMED = {
    **NUMPY,
    "scipy": {"csc_matrix"},
    "copy_reg": {"_reconstructor"},
    "__builtin__": {"object", "set"},
    "builtins": {"object", "set"},
}


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


def load_body(path: Path | None = None) -> Body:
    """Read an SMPL-format body: the open one that is committed, or a licensed one."""
    path = Path(path or OPEN_BODY)
    arrays = read_model(path)
    with contextlib.redirect_stdout(io.StringIO()):  # smplx prints that there are 10 betas
        model = smplx.SMPL(
            str(path), data_struct=Struct(**arrays), create_betas=False,
            create_global_orient=False, create_body_pose=False, create_transl=False,
        )  # fmt: skip
    model.requires_grad_(False)
    mean = {g: arrays.get(f"betas_mean_{g}", np.zeros(BETAS)).astype(float) for g in GENDERS}
    cov = {g: arrays.get(f"betas_cov_{g}", np.eye(BETAS)).astype(float) for g in GENDERS}
    return Body(model, path, mean, cov)


def load_bodies(folder: Path | None = None) -> Bodies:
    """Read the models of all genders: the open body for each, or those in a folder (`find_models`).

    Raises `InputError` where a model is missing or unreadable, or the three are not of one mesh.
    """
    if folder is None:
        body = load_body()
        return Bodies(body, body, body)
    found = find_models(folder)
    missing = [name for name in ("neutral", *GENDERS) if name not in found]
    if missing:
        names = ", ".join(path.name for path in found.values()) or "no model"
        raise InputError(
            folder, f"{names}, so none that is {' or '.join(missing)}",
            "SMPL_NEUTRAL.pkl, SMPL_MALE.pkl and SMPL_FEMALE.pkl",
            "SMPL_python_v.1.1.0.zip of smpl.is.tue.mpg.de has all three, as "
            "basicmodel_neutral, _m and _f_lbs_10_207_0_v1.1.0.pkl; either name will do.",
        )  # fmt: skip
    bodies = Bodies(**{gender: load_body(path) for gender, path in found.items()})
    for body in (bodies.male, bodies.female):
        if not np.array_equal(body.faces, bodies.neutral.faces):
            found = f"other triangles than in {bodies.neutral.path.name}"
            remedy = "Take the three files from one release."
            raise InputError(f"{body.path}: f", found, "one mesh for all genders", remedy)
    return bodies


def find_models(folder: Path) -> dict[str, Path]:
    """The model files in a folder or below it, by gender: "neutral", "male", "female".

    Of several for one gender that named SMPL_* comes first, then the newer version, then a pickle
    before an ``.npz``, then the one nearer to the folder.
    """
    found: dict[str, list[tuple[tuple, Path]]] = {}
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        match = NAME.fullmatch(path.name)
        if match is None:
            continue
        gender = (match["name"] or match["letter"]).lower()
        original = match["version"] is not None
        old = match["version"] == "1.0.0"
        rank = original, old, path.suffix.lower() == ".npz", len(path.parts)
        found.setdefault(LETTERS.get(gender, gender), []).append((rank, path))
    return {gender: min(files)[1] for gender, files in found.items()}


def read_model(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a model in one form, and the statistics of its betas where it has them.

    Args:
        path: an ``.npz``, or a ``.pkl``: cleaned, or as downloaded. Of the shape components the
            first ten are taken.

    Returns:
        float32 ``v_template`` (V, 3), ``shapedirs`` (V, 3, 10), ``posedirs`` (V, 3, 207),
        ``J_regressor`` (24, V), ``weights`` (V, 24); int64 ``kintree_table`` (2, 24) with -1 as
        the root's parent, ``f`` (N, 3); ``betas_*`` as they stand in the file.
    """
    path = Path(path)
    if not path.is_file():
        remedy = "The licensed one comes from smpl.is.tue.mpg.de."
        raise InputError(path, "nothing", "an SMPL-format body (.npz or .pkl)", remedy)
    if path.suffix.lower() == ".pkl":
        return _checked(path, _read_pickle(path))
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = {k: file[k] for k in file.files if k in KEYS or k.startswith("betas_")}
    except Exception as error:  # a damaged archive fails in many ways inside zipfile and numpy
        raise InputError(path, f"no readable arrays ({error})", "an .npz", REMEDY) from error
    return _checked(path, stored)


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as stream:
        page = stream.read(256).lstrip().startswith(b"<")
        stream.seek(0)
        try:
            stored = read_pickle(stream, NAMED, {"chumpy"}, encoding="latin1")
        except Exception as error:  # a damaged pickle fails in many ways
            found = "a web page" if page else f"no model ({error})"
            raise InputError(path, found, "a .pkl of SMPL", DOWNLOAD) from error
    if not isinstance(stored, dict):
        raise InputError(path, type(stored).__name__, "a dict of arrays", REMEDY)
    arrays = {}
    for key in (key for key in KEYS if key in stored):
        try:
            arrays[key] = _array(f"{path}: {key}", stored[key])
        except InputError:
            raise
        except Exception as error:  # states that do not belong together
            found = f"no plain array ({error})"
            raise InputError(f"{path}: {key}", found, "an array", CLEANED) from error
    return arrays


def _array(where: str, value: Any) -> np.ndarray:
    """Decode an array: NumPy's own, a sparse matrix as a dense one, chumpy's by what it wraps."""
    if not isinstance(value, Inert):
        return np.asarray(value)
    if value.kind in ARRAYS:
        return decode_array(value)
    if value.kind == "copy_reg._reconstructor":  # objects in protocols 0 and 1
        made = value.args[0]()
        made.state = value.state
        return _array(where, made)
    if value.kind == "scipy.csc_matrix":
        from scipy.sparse import csc_matrix  # of licensed files alone

        parts = [_array(where, value.state[name]) for name in ("data", "indices", "indptr")]
        shape = [int(_array(where, length)) for length in value.state["_shape"]]
        matrix = csc_matrix(tuple(parts), shape=shape)
        matrix.check_format(full_check=True)  # indices beyond its shape would write beyond it
        return matrix.toarray()
    if value.kind == "chumpy.Ch" and isinstance(value.state, dict) and "x" in value.state:
        return _array(where, value.state["x"])
    # Other chumpy objects are expressions, whose value chumpy alone can tell.
    raise InputError(where, f"an object {value.kind} without values", "an array", CLEANED)


def _checked(path: Path, stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a model in one form, after their shapes were compared with each other."""
    for key in KEYS:
        if key not in stored:
            raise InputError(f"{path}: {key}", "no such field", "an SMPL-format body", REMEDY)
        if stored[key].dtype.kind not in "fiu":
            raise InputError(f"{path}: {key}", str(stored[key].dtype), "numbers", REMEDY)
    arrays = {key: value for key, value in stored.items() if key in KEYS or "betas_" in key}
    arrays["shapedirs"] = arrays["shapedirs"][..., :BETAS]
    count = len(np.atleast_1d(arrays["v_template"]))
    expected = {
        "v_template": (count, 3),
        "shapedirs": (count, 3, BETAS),
        "posedirs": (count, 3, 9 * (BONES - 1)),
        "J_regressor": (BONES, count),
        "weights": (count, BONES),
        "kintree_table": (2, BONES),
        "f": (len(np.atleast_1d(arrays["f"])), 3),
    }
    for key, shape in expected.items():
        if arrays[key].shape != shape:
            raise InputError(f"{path}: {key}", str(arrays[key].shape), str(shape), REMEDY)
        if arrays[key].dtype.kind == "f" and not np.isfinite(arrays[key]).all():
            raise InputError(f"{path}: {key}", "NaN or infinity", "finite numbers", REMEDY)
        kind = np.int64 if key in ("kintree_table", "f") else np.float32
        arrays[key] = arrays[key].astype(kind)
    arrays["kintree_table"][0, 0] = TREE[0]  # unsigned numbers hold no -1
    if tuple(arrays["kintree_table"][0]) != TREE:
        where, found = f"{path}: kintree_table", str(arrays["kintree_table"][0].tolist())
        raise InputError(where, found, f"the tree of SMPL, {list(TREE)}", REMEDY)
    if arrays["f"].min() < 0 or arrays["f"].max() >= count:
        raise InputError(f"{path}: f", "vertices that do not exist", f"0 to {count - 1}", REMEDY)
    return arrays
