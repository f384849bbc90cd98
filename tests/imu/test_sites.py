import numpy as np
import pytest
import torch

from t2imu_utils.activities import SITES
from t2imu_utils.body.smpl import load_body
from t2imu_utils.errors import InputError
from t2imu_utils.imu.sites import RULES, sensor_frames, sensor_sites, site_vertices
from t2imu_utils.motion.rotations import axis_angle_to_matrix
from t2imu_utils.motion.skeleton import JOINTS
from tests.body.layouts import smpl_arrays


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture(scope="module")
def sites(body):
    return sensor_sites(body)


def rest(body, sites, betas=None):
    skin = body.rest_vertices(torch.zeros(10) if betas is None else betas)
    return skin, sensor_frames(skin[site_vertices(sites)], sites)


def test_nine_sites_in_the_projects_order(sites):
    assert [site.name for site in sites] == list(SITES)
    assert len({site.vertex for site in sites}) == 9


def test_rings_are_the_neighbours_in_order_counter_clockwise(body, sites):
    edges = {tuple(f[[k, (k + 1) % 3]]) for f in body.faces for k in range(3)}
    for site in sites:
        neighbours = {b for a, b in edges if a == site.vertex}
        assert set(site.ring) == neighbours and len(site.ring) == len(neighbours)
        for one, two in zip(site.ring, site.ring[1:] + site.ring[:1], strict=True):
            assert (one, two) in edges


def test_sites_lie_where_the_names_say(body, sites):
    _, (positions, _) = rest(body, sites)
    at = dict(zip(SITES, positions.numpy(), strict=True))
    joint = dict(zip(JOINTS, body.rest_joints(torch.zeros(10)).numpy()[:22], strict=True))
    between = {
        "thigh": ("right_hip", "right_knee", 1),
        "shin": ("right_knee", "right_ankle", 1),
        "shin_other": ("left_knee", "left_ankle", 1),
        "upperarm": ("right_shoulder", "right_elbow", 0),
        "forearm": ("right_elbow", "right_wrist", 0),
        "forearm_other": ("left_elbow", "left_wrist", 0),
    }
    for name, (one, two, axis) in between.items():
        share = (at[name] - joint[one])[axis] / (joint[two] - joint[one])[axis]
        assert 0.35 < share < 0.65, name
        side = -1 if "right" in one else 1
        assert side * at[name][0] > 0.03
    for name in ("head", "chest", "waist"):
        assert abs(at[name][0]) < 0.02 and at[name][2] > joint["pelvis"][2] + 0.05
    assert at["head"][1] > joint["head"][1] + 0.05
    assert joint["spine3"][1] < at["chest"][1] < joint["neck"][1]
    assert joint["right_hip"][1] < at["waist"][1] < joint["spine2"][1]


def test_frames_are_right_handed_with_z_out_of_the_skin_and_y_towards_the_head(body, sites):
    skin, (positions, rotations) = rest(body, sites)
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand(9, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(9))
    x, y, z = (dict(zip(SITES, axis.numpy(), strict=True)) for axis in rotations.unbind(-1))
    for name in ("head", "chest", "waist", "thigh", "shin", "shin_other"):
        assert z[name][2] > 0.9 and y[name][1] > 0.9 and x[name][0] > 0.9
    for name, towards_shoulder in (("upperarm", 1), ("forearm", 1), ("forearm_other", -1)):
        assert z[name][1] > 0.9 and y[name][0] * towards_shoulder > 0.9


def test_frames_turn_and_move_with_the_body(body, sites):
    skin, (positions, rotations) = rest(body, sites)
    turn = axis_angle_to_matrix(torch.tensor([0.4, -1.2, 0.7]))
    moved, turned = sensor_frames((skin[site_vertices(sites)] @ turn.T + 3.0), sites)
    torch.testing.assert_close(moved, positions @ turn.T + 3.0)
    torch.testing.assert_close(turned, turn @ rotations, atol=1e-4, rtol=0)


def test_a_bent_elbow_turns_the_forearm_and_nothing_above(body, sites):
    pose = torch.zeros(1, 23, 3)
    pose[0, JOINTS.index("right_elbow") - 1, 1] = np.pi / 2
    zero = torch.zeros(1, 3)
    skin = body.vertices(torch.as_tensor(site_vertices(sites)), torch.zeros(10), zero, pose, zero)
    _, (_, before) = rest(body, sites)
    after = sensor_frames(skin, sites)[1][0]
    cos = (torch.einsum("sij,sij->s", before, after) - 1) / 2
    angle = dict(zip(SITES, torch.rad2deg(torch.arccos(cos.clip(-1, 1))).numpy(), strict=True))
    assert angle["forearm"] == pytest.approx(90, abs=12)
    assert max(angle[name] for name in SITES if name not in ("forearm", "upperarm")) < 1


def test_sites_hold_on_every_shape(body, sites):
    rng = torch.Generator().manual_seed(0)
    for _ in range(5):
        _, (_, rotations) = rest(body, sites, 1.5 * torch.randn(10, generator=rng))
        torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(9))
        z = rotations[..., 2]
        assert z[[SITES.index(n) for n in ("head", "thigh", "shin")], 2].min() > 0.5


def test_some_sites_can_be_asked_for_and_unknown_ones_are_told(body, sites):
    assert sensor_sites(body, ["shin", "head"]) == [sites[SITES.index(n)] for n in ("shin", "head")]
    with pytest.raises(InputError, match="elbow"):
        sensor_sites(body, ["elbow"])
    with pytest.raises(InputError, match="site_vertices"):
        sensor_frames(torch.zeros(4, 3), sites)


def load_arrays(path, arrays):
    np.savez(path, **arrays)
    return load_body(path)


@pytest.fixture(scope="module")
def licensed(tmp_path_factory):
    """A body on 6,890 other vertices, with the pelvis away from the origin."""
    return load_arrays(tmp_path_factory.mktemp("smpl") / "SMPL_NEUTRAL.npz", smpl_arrays("neutral"))


def angles(one, other):
    cosine = (torch.einsum("sij,sij->s", one, other) - 1) / 2
    return torch.rad2deg(torch.arccos(cosine.clip(-1, 1)))


def test_sites_of_the_licensed_topology_lie_where_the_open_body_s_do(body, sites, licensed):
    _, (positions, rotations) = rest(body, sites)
    found = sensor_sites(licensed)
    assert [site.name for site in found] == list(SITES)
    _, (theirs, turned) = rest(licensed, found)
    away = (theirs - licensed.rest_joints(torch.zeros(10))[0] - positions).norm(dim=-1)
    # Other vertices: edges are 3 cm at most here, up to 5 cm on the open body's limbs.
    assert (away > 0.005).sum() >= 5 and away.max() < 0.025
    assert angles(rotations, turned).max() < 15 and angles(rotations, turned).median() < 5


def test_a_site_of_either_topology_is_a_corner_of_the_triangle_that_its_ray_leaves(body, licensed):
    for model in (body, licensed):
        joints = dict(zip(JOINTS, model.rest_joints(torch.zeros(10)).numpy()[:22], strict=True))
        skin = model.rest_vertices(torch.zeros(10)).numpy()
        for site in sensor_sites(model):
            rule = RULES[site.name]
            start = joints[rule.low] + rule.along * (joints[rule.high] - joints[rule.low])
            offset = np.linalg.norm(np.cross(skin[site.vertex] - start, rule.toward))
            longest = np.linalg.norm(skin[list(site.ring)] - skin[site.vertex], axis=1).max()
            # The weight of the heaviest corner is a third at least.
            assert offset < 2 / 3 * longest
            assert (skin[site.vertex] - start) @ rule.toward > 0.02


def test_sites_do_not_depend_on_the_order_of_vertices_and_faces(licensed, tmp_path):
    arrays = smpl_arrays("neutral")
    rng = np.random.default_rng(0)
    order = rng.permutation(6890)  # new vertex i is the old order[i]
    renumbered = np.argsort(order)[arrays["f"][rng.permutation(13776)]]
    per_vertex = ("v_template", "shapedirs", "posedirs", "weights")
    shuffled = arrays | {key: arrays[key][order] for key in per_vertex}
    shuffled |= {"J_regressor": arrays["J_regressor"][:, order]}
    shuffled |= {"f": np.roll(renumbered, 1, axis=1)}
    other = load_arrays(tmp_path / "shuffled.npz", shuffled)
    sites, again = sensor_sites(licensed), sensor_sites(other)
    assert [order[site.vertex] for site in again] == [site.vertex for site in sites]
    for mine, theirs in zip(rest(licensed, sites)[1], rest(other, again)[1], strict=True):
        torch.testing.assert_close(theirs, mine, atol=1e-4, rtol=0)


def test_sites_of_the_neutral_body_serve_the_other_genders(licensed, tmp_path):
    """Same mesh, so same vertices: they stay where a rule on the other body would put them."""
    sites = sensor_sites(licensed)
    for gender in ("male", "female"):
        other = load_arrays(tmp_path / f"{gender}.npz", smpl_arrays(gender))
        _, (positions, rotations) = rest(other, sites)
        _, (own, turned) = rest(other, sensor_sites(other))
        assert (own - positions).norm(dim=-1).max() < 0.03
        assert angles(rotations, turned).max() < 20 and angles(rotations, turned).median() < 5
