"""Stand-ins for the licensed SMPL files: the open body's shape in the layout of the downloads.

The files hold what the real ones hold, field by field: 6,890 vertices, 13,776 triangles, 24 joints,
pickled as Python 2 did, with chumpy and SciPy objects. Only the numbers are the open body's.
"""

import heapq
import io
import math
import pickle
from functools import cache
from pathlib import Path

import numpy as np

from t2imu_utils.tracks import OPEN_BODY

VERTICES, FACES, BONES, COMPONENTS = 6890, 13776, 24, 10
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
    body, faces = _remeshed()
    betas = body.get(f"betas_mean_{gender}", np.zeros(COMPONENTS))
    template = body["v_template"] + body["shapedirs"] @ betas + ORIGIN
    phase = np.arange(9 * (BONES - 1))
    return {
        "v_template": template,
        "shapedirs": body["shapedirs"],
        "posedirs": 1e-3 * np.sin(8 * template[..., None] + phase),
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
def _remeshed() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The open body's arrays on other vertices, and the triangles between these.

    Limbs and trunk of the open body are coarser than SMPL's, face and hands finer: long edges are
    halved, then short ones removed.
    """
    with np.load(OPEN_BODY) as stored:
        arrays = {key: stored[key] for key in stored.files if key != "posedirs"}
    mesh = _Mesh(arrays["v_template"].astype(float), arrays["f"].astype(int))
    halved = mesh.split(LONGEST)
    # Joints stay where they are if the vertices that regress them stay.
    mesh.thin(VERTICES, set(np.flatnonzero(arrays["J_regressor"].any(0)).tolist()))
    faces = np.array([mesh.faces[index] for index in sorted(mesh.faces)])
    kept = np.unique(faces)
    assert len(kept) == VERTICES and len(faces) == FACES
    for key in ("v_template", "shapedirs", "weights"):
        rows = list(arrays[key].astype(float))
        for one, other in halved:
            rows.append((rows[one] + rows[other]) / 2)
        arrays[key] = np.stack(rows)[kept]
    added = np.zeros((BONES, len(halved)))
    arrays["J_regressor"] = np.concatenate((arrays["J_regressor"], added), axis=1)[:, kept]
    return arrays, np.searchsorted(kept, faces)


class _Mesh:
    """A closed triangle mesh that can be made finer and coarser."""

    def __init__(self, points: np.ndarray, faces: np.ndarray):
        self.points = points.tolist()
        self.faces = {index: tuple(face) for index, face in enumerate(faces.tolist())}
        self.around: list[set[int]] = [set() for _ in self.points]  # triangles at each vertex
        for index, face in self.faces.items():
            for vertex in face:
                self.around[vertex].add(index)

    def neighbours(self, vertex: int) -> set[int]:
        return {v for index in self.around[vertex] for v in self.faces[index]} - {vertex}

    def length(self, one: int, other: int) -> float:
        return math.dist(self.points[one], self.points[other])

    def edges(self) -> set[tuple[int, int]]:
        return {(a, b) for f in self.faces.values() for a in f for b in f if a < b}

    def replace(self, index: int, old: int, new: int) -> None:
        self.faces[index] = tuple(new if vertex == old else vertex for vertex in self.faces[index])
        self.around[old].discard(index)
        self.around[new].add(index)

    def split(self, longest: float) -> list[tuple[int, int]]:
        """Halve edges, the longest first, until none is longer; returns each new vertex's ends."""
        queue = [(-self.length(a, b), a, b) for a, b in self.edges()]
        heapq.heapify(queue)
        halved = []
        while -queue[0][0] > longest:
            _, a, b = heapq.heappop(queue)
            middle = len(self.points)
            halved.append((a, b))
            ends = zip(self.points[a], self.points[b], strict=True)
            self.points.append([(x + y) / 2 for x, y in ends])
            self.around.append(set())
            for index in self.around[a] & self.around[b]:
                twin = len(self.faces)
                self.faces[twin] = self.faces[index]
                for vertex in self.faces[index]:
                    self.around[vertex].add(twin)
                self.replace(index, b, middle)
                self.replace(twin, a, middle)
            for other in self.neighbours(middle):
                heapq.heappush(queue, (-self.length(middle, other), middle, other))
        return halved

    def thin(self, count: int, fixed: set[int]) -> None:
        """Merge vertices into neighbours, the nearest first, until `count` are left.

        An edge may go if its ends share two neighbours and no more (the surface stays closed) and
        no triangle turns over.
        """
        queue = [(self.length(a, b), a, b) for a, b in self.edges()]
        heapq.heapify(queue)
        left = len(self.points)
        while left > count:
            _, keep, drop = heapq.heappop(queue)
            if drop in fixed:
                keep, drop = drop, keep
            if drop in fixed or len(self.neighbours(keep) & self.neighbours(drop)) != 2:
                continue
            gone = self.around[keep] & self.around[drop]
            moved = self.around[drop] - gone
            if len(gone) != 2 or any(self.turns(index, drop, keep) for index in moved):
                continue
            for index in gone:
                for vertex in self.faces.pop(index):
                    self.around[vertex].discard(index)
            for index in moved:
                self.replace(index, drop, keep)
            left -= 1
            for other in self.neighbours(keep):
                heapq.heappush(queue, (self.length(keep, other), keep, other))

    def turns(self, index: int, old: int, new: int) -> bool:
        """Whether a triangle tilts by more than 60 degrees when a corner moves to a neighbour."""
        face = self.faces[index]
        before = self.normal(face)
        after = self.normal(tuple(new if vertex == old else vertex for vertex in face))
        dot = sum(a * b for a, b in zip(before, after, strict=True))
        return dot <= 0.5 * math.hypot(*before) * math.hypot(*after)

    def normal(self, face: tuple[int, ...]) -> tuple[float, float, float]:
        (a, b, c), (d, e, f), (g, h, i) = (self.points[vertex] for vertex in face)
        u, v, w, x, y, z = d - a, e - b, f - c, g - a, h - b, i - c
        return v * z - w * y, w * x - u * z, u * y - v * x
