"""The body model: smplx's own forward pass is the reference, geometry the analytic case."""

import pickle
from collections import Counter

import numpy as np
import pytest
import smplx
import torch

from t2imu_utils.body.smpl import load_bodies, load_body, same_mesh, write_smpl_pickle
from t2imu_utils.body.smpl_files import KEYS
from t2imu_utils.errors import InputError
from t2imu_utils.motion.skeleton import JOINTS, PARENTS
from tests.body.layouts import ORIGINAL, smpl_arrays

LEFT_ELBOW, LEFT_WRIST = JOINTS.index("left_elbow"), JOINTS.index("left_wrist")


@pytest.fixture(scope="module")
def body():
    return load_body()


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


def test_joints_equal_smplx(body, pose):
    torch.testing.assert_close(
        body.joints(*pose), forward(body.model, pose).joints[:, :24], atol=1e-5, rtol=0
    )


def test_partial_skinning_equals_smplx(body, pose):
    ids = torch.arange(0, 13348, 97)
    expected = forward(body.model, pose).vertices[:, ids]
    torch.testing.assert_close(body.vertices(ids, *pose), expected, atol=1e-5, rtol=0)


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


def test_partial_skinning_has_pose_blend_shapes(tmp_path, pose):
    np.savez(tmp_path / "random.npz", **random_model())
    body = load_body(tmp_path / "random.npz")
    ids = torch.tensor([3, 1500, 6999])
    full = forward(body.model, pose)
    torch.testing.assert_close(body.vertices(ids, *pose), full.vertices[:, ids], atol=1e-5, rtol=0)
    torch.testing.assert_close(body.joints(*pose), full.joints[:, :24], atol=1e-5, rtol=0)


def test_one_shape_per_frame(body, pose):
    _, *motion = pose
    betas = torch.randn(7, 10, generator=torch.Generator().manual_seed(3))
    ids = torch.tensor([5, 77])
    for t in range(7):
        frame = [x[t : t + 1] for x in motion]
        one = body.vertices(ids, betas[t : t + 1], *frame)[0]
        torch.testing.assert_close(body.vertices(ids, betas, *motion)[t], one)
        torch.testing.assert_close(body.joints(betas, *motion)[t], body.joints(betas[t], *frame)[0])


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


def test_the_open_body_stands_like_smpl(body):
    rest = body.rest_joints(torch.zeros(10)).numpy()
    at = dict(zip(JOINTS, rest, strict=False))
    assert at["left_hip"][0] > 0 > at["right_hip"][0]
    assert at["left_foot"][2] > at["left_ankle"][2] + 0.1
    np.testing.assert_allclose(rest[[18, 20, 22], 1], at["left_shoulder"][1], atol=0.01)
    heights = [at[name][1] for name in ("left_ankle", "left_knee", "left_hip", "pelvis")]
    heights += [at[name][1] for name in ("spine1", "spine2", "spine3", "neck", "head")]
    assert heights == sorted(heights)
    mirrored = rest[[0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16]]
    np.testing.assert_allclose(rest[:18], mirrored * [-1, 1, 1], atol=0.003)


def test_the_pelvis_is_the_origin_of_every_shape(body):
    betas = 2 * torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    assert body.rest_joints(betas)[:, 0].abs().max() < 1e-4


def test_the_open_body_is_a_closed_skin(body):
    edges = np.sort(body.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    assert set(Counter(map(tuple, edges.tolist())).values()) == {2}
    weights = body.model.lbs_weights
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))
    torch.testing.assert_close(body.model.J_regressor.sum(1), torch.ones(24))
    assert (body.model.J_regressor > 0).sum(1).max() < 40


def test_joints_stay_inside_the_skin_of_every_shape(body):
    """A joint lies between the vertices around it: knees within the extent of the knee's skin."""
    for beta in 3 * torch.eye(10):
        joints = body.rest_joints(beta)
        skin = body.rest_vertices(beta)
        for joint in (4, 7, 18, 20):
            near = skin[(skin - joints[joint]).norm(dim=-1) < 0.09]
            assert (near.min(0).values < joints[joint]).all()
            assert (near.max(0).values > joints[joint]).all()


def test_smplx_opens_the_exported_pickle(body, pose, tmp_path):
    write_smpl_pickle(body, tmp_path / "SMPL_NEUTRAL.pkl")
    plain = smplx.create(str(tmp_path / "SMPL_NEUTRAL.pkl"), model_type="smpl", batch_size=7)
    betas, *motion = pose
    expected = forward(body.model, pose).vertices
    got = forward(plain, (betas.expand(7, -1), *motion)).vertices
    torch.testing.assert_close(got, expected)
    again = load_body(tmp_path / "SMPL_NEUTRAL.pkl")
    torch.testing.assert_close(again.joints(*pose), body.joints(*pose))


@pytest.mark.parametrize("gender", ORIGINAL)
def test_licensed_models_equal_smplx(licensed, pose, tmp_path, gender):
    """The official pickle through `load_bodies`, the same arrays in a cleaned one through smplx."""
    (tmp_path / "SMPL_CLEAN.pkl").write_bytes(pickle.dumps(smpl_arrays(gender)))
    plain = smplx.create(str(tmp_path / "SMPL_CLEAN.pkl"), model_type="smpl", batch_size=7)
    betas, *motion = pose
    expected = forward(plain, (betas.expand(7, -1), *motion))
    body = licensed.of(gender)
    every = torch.arange(6890)
    got = body.vertices(every, *pose)
    torch.testing.assert_close(got, expected.vertices, atol=2e-5, rtol=0)
    torch.testing.assert_close(body.joints(*pose), expected.joints[:, :24], atol=2e-5, rtol=0)
    np.testing.assert_array_equal(body.faces, plain.faces)
    assert body.parents == (*PARENTS, 20, 21)
    # Pose blend shapes take part: without them the skin is somewhere else.
    stiff = smpl_arrays(gender) | {"posedirs": np.zeros((6890, 3, 207), np.int8)}
    np.savez(tmp_path / "stiff.npz", **stiff)
    assert (load_body(tmp_path / "stiff.npz").vertices(every, *pose) - got).abs().max() > 1e-3


def test_the_open_body_serves_all_genders():
    bodies = load_bodies()
    assert bodies.neutral is bodies.male is bodies.female is bodies.of("male")
    with pytest.raises(InputError, match="gender: found 'men'; expected neutral, male or female"):
        bodies.of("men")


def test_each_gender_has_its_model_on_one_mesh(licensed):
    assert [licensed.of(g).path.name for g in ("neutral", "male", "female")] == [
        "SMPL_NEUTRAL.pkl",
        "SMPL_MALE.pkl",
        "SMPL_FEMALE.pkl",
    ]
    assert same_mesh(licensed.male, licensed.female)
    assert not same_mesh(licensed.male, load_body())
    skins = [licensed.of(gender).rest_vertices(np.zeros(10)).numpy() for gender in ORIGINAL]
    heights = [np.ptp(skin[:, 1]) for skin in skins]
    assert heights[2] + 0.05 < heights[0] < heights[1] - 0.05


def write_small(path, **changes):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps({**random_model(30), **changes}))


def test_missing_models_are_told_with_where_to_get_them(tmp_path):
    with pytest.raises(InputError, match="found no model, so none that is neutral or male or fem"):
        load_bodies(tmp_path)
    for name in ("basicModel_f_lbs_10_207_0_v1.0.0.pkl", "basicmodel_m_lbs_10_207_0_v1.0.0.pkl"):
        write_small(tmp_path / name)
    expected = r"basicModel_f_.*basicmodel_m_.*none that is neutral; expected SMPL_NEUTRAL.pkl"
    with pytest.raises(InputError, match=expected + r".*SMPL_python_v\.1\.1\.0\.zip"):
        load_bodies(tmp_path)


def test_models_of_different_meshes_are_told(tmp_path):
    for gender in ORIGINAL:
        write_small(tmp_path / f"SMPL_{gender.upper()}.pkl")
    write_small(tmp_path / "SMPL_MALE.pkl", f=random_model(30)["f"][::-1])
    with pytest.raises(InputError, match="SMPL_MALE.pkl: f: .* than in SMPL_NEUTRAL.pkl"):
        load_bodies(tmp_path)


def test_bodies_are_cached_where_the_caller_says(tmp_path):
    for gender in ORIGINAL:
        write_small(tmp_path / "smpl" / f"SMPL_{gender.upper()}.pkl")
    first = load_bodies(tmp_path / "smpl", tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 1  # one content, three names
    again = load_bodies(tmp_path / "smpl", tmp_path / "cache")
    for name, array in first.male.model.state_dict().items():
        torch.testing.assert_close(again.male.model.state_dict()[name], array, rtol=0, atol=0)
    assert len(list((tmp_path / "smpl").iterdir())) == 3


class Command:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_pickle_runs_nothing(tmp_path, capsys):
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"v_template": Command()}))
    with pytest.raises(InputError, match="evil.pkl.*print"):
        load_body(tmp_path / "evil.pkl")
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_field_is_named(tmp_path, key):
    arrays = random_model(30)
    del arrays[key]
    np.savez(tmp_path / "model.npz", **arrays)
    with pytest.raises(InputError, match=f"model.npz: {key}"):
        load_body(tmp_path / "model.npz")


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


def test_unreadable_files(tmp_path):
    with pytest.raises(InputError, match="nothing"):
        load_body(tmp_path / "absent.npz")
    for name in ("broken.npz", "broken.pkl"):
        (tmp_path / name).write_bytes(b"not a model")
        with pytest.raises(InputError, match=name):
            load_body(tmp_path / name)


def test_wrong_poses_and_vertices(body, pose):
    betas, orient, body_pose, transl = pose
    with pytest.raises(InputError, match="body_pose"):
        body.joints(betas, orient, body_pose[:, :63], transl)
    with pytest.raises(InputError, match="vertex ids"):
        body.vertices(torch.tensor([13348]), *pose)
