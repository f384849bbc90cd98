"""The body model: smplx's own forward pass is the reference, geometry the analytic case."""

import base64
import pickle
import zlib
from collections import Counter

import numpy as np
import pytest
import smplx
import torch

from t2imu_utils.body.smpl import KEYS, TREE, find_models, load_bodies, load_body, read_model
from t2imu_utils.errors import InputError
from t2imu_utils.motion.skeleton import JOINTS, PARENTS
from tests.body.layouts import ORIGINAL, official, python2_pickle, smpl_arrays

LEFT_ELBOW, LEFT_WRIST = JOINTS.index("left_elbow"), JOINTS.index("left_wrist")


@pytest.fixture
def pose():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    return normal(1, 10), 2 * normal(7, 3), 0.5 * normal(7, 69), normal(7, 3)


def random_model(vertices=7000):
    """Arrays in SMPL's format with pose blend shapes, which the open body does not have."""
    rng = np.random.default_rng(1)

    def rows(*shape):
        values = rng.random(shape)
        return (values / values.sum(-1, keepdims=True)).astype(np.float32)

    def normal(*shape):
        return (0.1 * rng.standard_normal(shape, dtype=np.float32)).astype(np.float32)

    parents = [*PARENTS, 20, 21]
    return {
        "v_template": normal(vertices, 3),
        "shapedirs": normal(vertices, 3, 10),
        "posedirs": normal(vertices, 3, 207),
        "J_regressor": rows(24, vertices),
        "weights": rows(vertices, 24),
        "kintree_table": np.array([parents, range(24)]),
        "f": rng.integers(0, vertices, (100, 3)),
    }


def forward(model, pose):
    betas, orient, body_pose, transl = pose
    return model(betas=betas, global_orient=orient, body_pose=body_pose, transl=transl)


def test_several_people_strike_one_pose(tmp_path, pose):
    np.savez(tmp_path / "random.npz", **random_model())
    body, ids = load_body(tmp_path / "random.npz"), torch.tensor([3, 1500, 6999])
    _, orient, body_pose, transl = pose
    betas, paths = torch.randn(3, 10), torch.stack([transl, 2 * transl, transl + 1])
    together = body.vertices(ids, betas[:, None], orient, body_pose, paths)
    assert together.shape == (3, 7, 3, 3)
    for one, beta, path in zip(together, betas, paths, strict=True):
        alone = body.vertices(ids, beta, orient, body_pose, path)
        torch.testing.assert_close(one, alone, atol=1e-5, rtol=0)


def test_bending_the_left_elbow_forward(body):
    body_pose = torch.zeros(1, 23, 3)
    body_pose[0, LEFT_ELBOW - 1, 1] = -np.pi / 2
    zero = torch.zeros(1, 3)
    joints = body.joints(torch.zeros(10), zero, body_pose, zero)[0]
    rest = body.rest_joints(torch.zeros(10))
    length = (rest[LEFT_WRIST] - rest[LEFT_ELBOW]).norm()
    forearm = joints[LEFT_WRIST] - joints[LEFT_ELBOW]
    torch.testing.assert_close(forearm / length, torch.tensor([0.0, 0.0, 1.0]), atol=0.02, rtol=0)
    moved = (joints - rest).norm(dim=-1) > 1e-6
    assert moved.nonzero().flatten().tolist() == [20, 22]


def test_the_open_body_is_a_closed_skin(body):
    edges = np.sort(body.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    assert set(Counter(map(tuple, edges.tolist())).values()) == {2}
    weights = body.model.lbs_weights
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))
    torch.testing.assert_close(body.model.J_regressor.sum(1), torch.ones(24))
    assert (body.model.J_regressor > 0).sum(1).max() < 40


@pytest.mark.parametrize("gender", ORIGINAL)
def test_licensed_models_equal_smplx(licensed, pose, tmp_path, gender):
    """The official pickle through `load_bodies`, the same arrays in a cleaned one through smplx."""
    (tmp_path / "SMPL_CLEAN.pkl").write_bytes(pickle.dumps(smpl_arrays(gender)))
    plain = smplx.create(str(tmp_path / "SMPL_CLEAN.pkl"), model_type="smpl", batch_size=7)
    betas, *motion = pose
    expected = forward(plain, (betas.expand(7, -1), *motion))
    body = licensed.of(gender)
    every = torch.arange(len(body.model.v_template))
    got = body.vertices(every, *pose)
    torch.testing.assert_close(got, expected.vertices, atol=2e-5, rtol=0)
    torch.testing.assert_close(body.joints(*pose), expected.joints[:, :24], atol=2e-5, rtol=0)
    np.testing.assert_array_equal(body.faces, plain.faces)
    assert body.parents == (*PARENTS, 20, 21)
    # Pose blend shapes take part: without them the skin is somewhere else.
    stiff = smpl_arrays(gender) | {"posedirs": np.zeros((len(every), 3, 207), np.int8)}
    np.savez(tmp_path / "stiff.npz", **stiff)
    assert (load_body(tmp_path / "stiff.npz").vertices(every, *pose) - got).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weights", np.zeros((30, 23), np.float32)),
        ("J_regressor", np.full((24, 30), np.nan, np.float32)),
        ("shapedirs", np.zeros((30, 3, 4), np.float32)),
        ("f", np.array([[0, 1, 30]])),
    ],
)
def test_a_wrong_field_is_named(tmp_path, key, value):
    np.savez(tmp_path / "model.npz", **{**random_model(30), key: value})
    with pytest.raises(InputError, match=f"model.npz: {key}"):
        load_body(tmp_path / "model.npz")


# What cPickle of Python 2.7.18 wrote of a tetrahedron, protocol 2; zlib, base64.
GOLDEN = """
    eNrtnEtv3FQYhs9cMjPxTO63aXq/T5pmKCVAgUICbTe1yKLqWSLXnnFrq3P77DMls4hkFkk0/4IN/8P/AJYsWbBgwQ
    IhhBCqgOOZd5BVKQghsUB8j/Tm8afPsj3Hx3ZWJ8oeUKYmi05oqUHPpawstoKuavsdysnip67/zFMh5Rudfrs3qDe6
    gVtv91vKt4PAHhhW4Da6nVAF/YYyaGq8l9FpjrtUMMUhFWXGOX5EpZqZMfNm9YimsVszOaFBhsw+vUNlU5gZvVulZu
    Zk5u7e3t7D3zWjP6ZQzvCxyAkhR3yxw2b/H61oxpGlXjd0m34Q0qw35RU8PGBz4wcsZ355TPNeZfj4848FwzAMwzAM
    wzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMAxQtOLL80ArcZ4Ebht2AFh
    thw+8N6mHPDkK3ritDx2rbKvD3DVra+IyWD2ilJot+p+k33JBW06vArSWrwFUPqeoZMutv0ymsq7h+0rqK8klyHRmd
    rE5OJ68zpVPQKeqUdKZ1DJ2yTkVnRmdWZ05nXmdBZ1FnSWdZZ0VnVWdt9BtPOzLftJVNZ9KXehaXes6rDGU8Ho8fdv
    6rVnTekaW2vd8L/I6iC+ZtWbBCz+65dNGsmvkjuiQL+pb1VECX08NwJRmGqUO66q0PZTJ2o4GvYECrowG85vQdOfNc
    HzhwXUvZTsul6+mD1JKDZJPVNTeSG9/fphu48Zsn3vg42UxPxr8zCSZJT4KTJsC/P7FuOjLzND0OW1gE8Yjq3uZQ3h
    I4fSZ1OTls51K9ySUqes2RxgtLue1ey1Yu3Uof/fU/j347mbNP/vrZnsyNf95X9IYjp0eTaLTe43aj4Y3XYfWMe55B
    b+qXwVsH9HZNlvUL4rlrNd1O6NKdoayM6/FLhN4Zysx++oe8O1kr0jim95K1IuPcq2ePcXVfwV/D38Dfwt/B37/yRP
    wI/wT/DP8C/wq/hH+bjMYu7hSchXNwHp6CC3ARLsHTsAGX4Qo8A8/Cc/D82BEsFlDDYhE1LJZQw2IZNSxWUMNiFTUs
    1lDDoooaFqdQw2IdNSxOo4bFGdSwOIsaFudQw+I8alhcGHsXjuAYFhfRhyM4hsUl9OEIjmFxGX04gmNYXEEfjuAYFl
    fRhyM4hsU19OEIjmFxHX04gmNY1NCHIziGxQb6cATHsLiBPhzBMSw20YcjOIbFTfThCI5hsYU+HMHx1q6iu/p/CUu/
    KdTAeqEffHq/YVlO328pv2NZRugqgz74hHb0y8A+fES7Mm/5+mv04Z6c12+Onttphla3k2yG9NEB3dPfnJITWqEa6M
    /NfZlrOSE96Nf/AOHKqz4=
"""


def tetrahedron():
    """The arrays in `GOLDEN`."""
    regressor = np.zeros((24, 4))
    regressor[range(24), np.repeat(range(4), 6)] = 1
    return {
        "v_template": np.eye(4, 3, k=-1),
        "shapedirs": np.arange(120.0).reshape(4, 3, 10) / 8,
        "posedirs": np.zeros((4, 3, 207)),
        "J_regressor": regressor,
        "weights": np.full((4, 24), 1 / 24),
        "kintree_table": np.array([[2**32 - 1, *TREE[1:]], range(24)], np.uint32),
        "f": np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.uint32),
    }


def assert_same(read, arrays):
    for key in KEYS:
        expected = arrays[key].astype(np.float32 if read[key].dtype.kind == "f" else np.int64)
        if key == "kintree_table":
            assert read[key][0, 0] == -1
            expected[0, 0] = -1
        np.testing.assert_array_equal(read[key], expected)


def written(path, model, protocol=2):
    path.write_bytes(python2_pickle(model, protocol))
    return path


def test_what_python_2_wrote_is_read(tmp_path):
    file = tmp_path / "model.pkl"
    file.write_bytes(zlib.decompress(base64.b64decode(GOLDEN)))
    assert_same(read_model(file), tetrahedron())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_cleaned_pickles_of_python_3_are_read(tmp_path, protocol):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(tetrahedron(), protocol))
    assert_same(read_model(tmp_path / "model.pkl"), tetrahedron())


def test_of_300_components_the_first_ten_are_taken(tmp_path):
    file = written(tmp_path / ORIGINAL["female"], official(tetrahedron(), components=300))
    assert_same(read_model(file), tetrahedron())
    np.savez(tmp_path / "model.npz", **tetrahedron() | {"shapedirs": np.ones((4, 3, 300))})
    assert read_model(tmp_path / "model.npz")["shapedirs"].shape == (4, 3, 10)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"cos\nsystem\n(S'touch %s'\ntR.", "os.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.", "builtins.getattr"),
        (b"cnumpy.testing._private.utils\nrunstring\n(S'1'\n}tR.", "runstring"),
    ],
)
def test_a_pickle_that_calls_something_is_refused(tmp_path, content, name):
    file, trace = tmp_path / "SMPL_MALE.pkl", tmp_path / "trace"
    file.write_bytes(content.replace(b"%s", str(trace).encode()))
    with pytest.raises(InputError, match=f"SMPL_MALE.pkl: found no model .*run .*{name}"):
        read_model(file)
    assert not trace.exists()


def test_a_sparse_matrix_that_points_outside_is_refused(tmp_path):
    model = official(tetrahedron())
    model["J_regressor"].indices = model["J_regressor"].indices + 10**6
    with pytest.raises(InputError, match="J_regressor: found no plain array"):
        read_model(written(tmp_path / "model.pkl", model))


def test_truncated_files_and_web_pages_are_told(smpl_folder, tmp_path):
    content = (smpl_folder / "SMPL_MALE.pkl").read_bytes()
    file = tmp_path / "SMPL_MALE.pkl"
    for length in (0, 1000, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(InputError, match="SMPL_MALE.pkl: found no model.*download it again"):
            read_model(file)
    file.write_bytes(b"\n<!DOCTYPE html><title>Sign in</title>")
    with pytest.raises(InputError, match="found a web page; .*Sign in at smpl.is.tue.mpg.de"):
        read_model(file)
    file.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InputError, match="found list; expected a dict"):
        read_model(file)


def test_files_are_found_by_all_their_names(tmp_path):
    names = {
        "SMPL_NEUTRAL.pkl": "neutral",
        "smpl_male.npz": "male",
        "basicModel_neutral_lbs_10_207_0_v1.0.0.pkl": "neutral",
        "basicModel_f_lbs_10_207_0_v1.0.0.pkl": "female",
        "basicmodel_m_lbs_10_207_0_v1.0.0.pkl": "male",
        **{name: gender for gender, name in ORIGINAL.items()},
    }
    for number, (name, gender) in enumerate(names.items()):
        folder = tmp_path / str(number) / "SMPL_python_v.1.1.0" / "smpl" / "models"
        folder.mkdir(parents=True)
        (folder / name).touch()
        assert find_models(tmp_path / str(number)) == {gender: folder / name}


def test_of_several_files_the_renamed_and_the_newer_come_first(tmp_path):
    order = [
        "SMPL_MALE.pkl",
        "SMPL_MALE.npz",
        "basicmodel_m_lbs_10_207_0_v1.1.0.pkl",
        "basicmodel_m_lbs_10_207_0_v1.0.0.pkl",
    ]
    for name in reversed(order):
        (tmp_path / name).touch()
    for name in ("SMPLX_MALE.npz", "SMPL_MALE.pkl.part", "basicmodel_m_lbs_10_207_0_v1.1.0.fbx"):
        (tmp_path / name).touch()
    for name in order:
        assert find_models(tmp_path) == {"male": tmp_path / name}
        (tmp_path / name).unlink()
    assert find_models(tmp_path) == {}


def test_models_are_of_all_genders_and_of_one_mesh(tmp_path):
    bodies = load_bodies()
    assert bodies.neutral is bodies.male is bodies.female is bodies.of("male")
    for gender, faces in (("neutral", 1), ("male", -1)):
        model = random_model(30)
        model["f"] = model["f"][::faces]
        written(tmp_path / f"SMPL_{gender.upper()}.pkl", model)
    with pytest.raises(InputError, match="so none that is female"):
        load_bodies(tmp_path)
    written(tmp_path / "SMPL_FEMALE.pkl", random_model(30))
    with pytest.raises(InputError, match="SMPL_MALE.pkl: f: .* than in SMPL_NEUTRAL.pkl"):
        load_bodies(tmp_path)
