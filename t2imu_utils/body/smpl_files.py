"""Files of SMPL-format models: found by name, read without running anything, kept as plain arrays.

The licensed files are pickles of Python 2 that name classes of chumpy, NumPy and SciPy. None of
these is built (see `pickles`).
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csc_matrix

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write, sha256
from t2imu_utils.motion.skeleton import PARENTS
from t2imu_utils.pickles import ARRAYS, NUMPY, Inert, decode_array, read_pickle

BONES, BETAS = 24, 10
TREE = (*PARENTS, 20, 21)  # the skeleton's joints and two hands
KEYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")
REMEDY = "Rebuild it with `python -m tools.build_open_body`, or check the download."
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


def read_model(path: Path, cache: Path | None = None) -> dict[str, np.ndarray]:
    """The arrays of a model in one form, and the statistics of its betas where it has them.

    Args:
        path: an ``.npz``, or a ``.pkl``: cleaned, or as downloaded. Of the shape components the
            first ten are taken.
        cache: folder in which the arrays of a pickle are kept, under the hash of its content, for
            later calls; None keeps nothing.

    Returns:
        float32 ``v_template`` (V, 3), ``shapedirs`` (V, 3, 10), ``posedirs`` (V, 3, 207),
        ``J_regressor`` (24, V), ``weights`` (V, 24); int64 ``kintree_table`` (2, 24) with -1 as
        the root's parent, ``f`` (N, 3); ``betas_*`` as they stand in the file.

    Raises:
        InputError: a file that is missing, not such a model, names what no model needs, lacks a
            field or has one of a wrong shape.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            path,
            "nothing",
            "an SMPL-format body (.npz or .pkl)",
            "The licensed one comes from smpl.is.tue.mpg.de; the open one from "
            "`python -m tools.build_open_body`.",
        )
    if path.suffix.lower() != ".pkl":
        return _checked(path, _read_npz(path))
    if cache is None:
        return _checked(path, _read_pickle(path))
    kept = Path(cache) / f"{sha256(path)}.npz"
    if kept.is_file():
        try:
            return _checked(kept, _read_npz(kept))
        except InputError:  # written by an older version, or damaged: it is only a copy
            pass
    arrays = _checked(path, _read_pickle(path))
    with atomic_write(kept) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **arrays)
    return arrays


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {k: stored[k] for k in stored.files if k in KEYS or k.startswith("betas_")}
    except Exception as error:  # a damaged archive fails in many ways inside zipfile and numpy
        raise InputError(path, f"no readable arrays ({error})", "an .npz", REMEDY) from error


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
    return {key: _field(f"{path}: {key}", stored[key]) for key in KEYS if key in stored}


def _field(where: str, value: Any) -> np.ndarray:
    try:
        return _array(where, value)
    except InputError:
        raise
    except Exception as error:  # states that do not belong together
        raise InputError(where, f"no plain array ({error})", "an array", CLEANED) from error


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
