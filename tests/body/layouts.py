"""Stand-ins for the licensed SMPL files: the open body's shape in the layout of the downloads.

The files hold what the real ones hold, field by field, pickled as Python 2 did, with chumpy and
SciPy objects. Only the numbers are the open body's, on other vertices.
"""

import io
import pickle
from functools import cache
from pathlib import Path

import numpy as np

from t2imu_utils.tracks import OPEN_BODY

BONES, COMPONENTS = 24, 10
LONGEST = 0.03  # m, about the longest edge of SMPL's trunk and limbs
ORIGIN = (0.0, -0.22, 0.03)  # m, pelvis of SMPL's template; the open body's is at zero
# The archives' own names; smplx wants them renamed to SMPL_*.pkl.
ORIGINAL = {
    "neutral": "basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl",
    "male": "basicmodel_m_lbs_10_207_0_v1.1.0.pkl",
    "female": "basicmodel_f_lbs_10_207_0_v1.1.0.pkl",
}


def write_fake_smpl(folder: Path) -> None:
    """Write SMPL_NEUTRAL.pkl, SMPL_MALE.pkl and SMPL_FEMALE.pkl as downloads are laid out."""
    folder.mkdir(parents=True, exist_ok=True)
    for gender in ORIGINAL:
        model = official(smpl_arrays(gender))
        (folder / f"SMPL_{gender.upper()}.pkl").write_bytes(python2_pickle(model))


def smpl_arrays(gender: str) -> dict[str, np.ndarray]:
    """The seven arrays of a model with the real file's shapes and types.

    Men and women have the open body's mean of their gender as template. The origin lies where
    SMPL has it, above the pelvis, and poses change the skin by some millimetres.
    """
    body, faces = _refined()
    betas = body.get(f"betas_mean_{gender}", np.zeros(COMPONENTS))
    template = body["v_template"] + body["shapedirs"] @ betas + ORIGIN
    phase = np.arange(9 * (BONES - 1))
    return {
        "v_template": template,
        "shapedirs": body["shapedirs"],
        "posedirs": 1e-3 * np.sin(8 * template[..., None] + phase).astype(np.float32),
        "J_regressor": body["J_regressor"],
        "weights": body["weights"],
        "kintree_table": body["kintree_table"].astype(np.uint32),
        "f": faces.astype(np.uint32),
    }


def official(arrays: dict[str, np.ndarray], components: int = COMPONENTS) -> dict[str, object]:
    """All fields of the real file; shape components beyond the tenth are noise."""
    count = len(arrays["v_template"])
    shapedirs = arrays["shapedirs"]
    noise = np.random.default_rng(0).normal(size=(count, 3, components - shapedirs.shape[-1]))
    return {
        "J_regressor_prior": _sparse(arrays["J_regressor"]),
        "f": arrays["f"],
        "J_regressor": _sparse(arrays["J_regressor"]),
        "kintree_table": arrays["kintree_table"],
        "J": arrays["J_regressor"] @ arrays["v_template"],
        "weights_prior": arrays["weights"].copy(),
        "weights": arrays["weights"],
        "vert_sym_idxs": np.arange(count),
        "posedirs": arrays["posedirs"],
        "pose_training_info": {"gender": "neutral"},
        "bs_style": "lbs",
        "v_template": arrays["v_template"],
        "shapedirs": chumpy(np.concatenate((shapedirs, noise), axis=2)),
        "bs_type": "lrotmin",
    }


def chumpy(array: np.ndarray) -> object:
    """A chumpy array with the attributes that a pickle of it holds."""
    made = type("Ch", (), {"__module__": "chumpy.ch"})()
    made._dirty_vars, made._itr, made._depends_on_deps = {"x"}, None, {}
    made._make_dense, made._make_sparse = False, False
    made.x = array
    return made


def _sparse(matrix: np.ndarray) -> object:
    """A SciPy matrix in compressed columns, of the module that held it until SciPy 1.8."""
    made = type("csc_matrix", (), {"__module__": "scipy.sparse.csc"})()
    columns, rows = np.nonzero(matrix.T)
    made.data, made.indices = matrix[rows, columns], rows.astype(np.int32)
    starts = np.searchsorted(columns, np.arange(matrix.shape[1] + 1))
    made.indptr, made._shape, made.maxprint = starts.astype(np.int32), matrix.shape, 50
    return made


def python2_pickle(value: object, protocol: int = 2) -> bytes:
    """Pickle as Python 2 and its NumPy did: byte strings, and the old names of modules."""
    stream = io.BytesIO()
    _Python2Pickler(stream, protocol).dump(value)
    return stream.getvalue()


def _named(module: str, name: str) -> type:
    return type(name, (), {"__module__": module})


class _Python2Pickler(pickle._Pickler):
    _RECONSTRUCT = _named("numpy.core.multiarray", "_reconstruct")
    _NDARRAY, _DTYPE = _named("numpy", "ndarray"), _named("numpy", "dtype")
    dispatch = dict(pickle._Pickler.dispatch)

    def reducer_override(self, value: object) -> object:
        if isinstance(value, np.ndarray):
            made = self._RECONSTRUCT, (self._NDARRAY, (0,), "b")
            return *made, (1, value.shape, value.dtype, False, value.tobytes())
        if isinstance(value, np.dtype):
            made = self._DTYPE, (value.str[1:], 0, 1)
            return *made, (3, value.str[0], None, None, None, -1, -1, 0)
        return NotImplemented

    def save_text(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        if not self.bin:
            self.write(b"S" + repr(data)[1:].encode() + b"\n")
        elif len(data) < 256:
            self.write(b"U" + bytes([len(data)]) + data)
        else:
            self.write(b"T" + len(data).to_bytes(4, "little") + data)
        self.memoize(value)

    def save_global(self, value: object, name: str | None = None) -> None:
        if value.__module__.split(".")[0] not in ("numpy", "scipy", "chumpy"):
            return super().save_global(value, name)
        self.write(f"c{value.__module__}\n{value.__name__}\n".encode())
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_text
    dispatch[type] = save_global


@cache
def _refined() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The open body's arrays with a vertex more in the middle of every large triangle, as its limbs
    and trunk are coarser than SMPL's; and the triangles."""
    with np.load(OPEN_BODY) as stored:
        arrays = {key: stored[key].astype(float) for key in stored.files if key != "posedirs"}
    faces, count = arrays.pop("f").astype(int), len(arrays["v_template"])
    corners = arrays["v_template"][faces]
    large = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(1) > LONGEST
    a, b, c = halved = faces[large].T
    middle = count + np.arange(len(a))
    for key in ("v_template", "shapedirs", "weights"):
        arrays[key] = np.concatenate((arrays[key], arrays[key][halved.T].mean(1)))
    arrays["J_regressor"] = np.pad(arrays["J_regressor"], ((0, 0), (0, len(middle))))
    thirds = [np.stack((*side, middle), 1) for side in ((a, b), (b, c), (c, a))]
    return arrays, np.concatenate((faces[~large], *thirds))
