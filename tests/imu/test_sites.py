import numpy as np
import pytest
import torch

from t2imu_utils.activities import SITES
from t2imu_utils.body.smpl import load_body
from t2imu_utils.imu.sites import sensor_frames, sensor_sites, site_vertices
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


def load_arrays(path, arrays):
    np.savez(path, **arrays)
    return load_body(path)


@pytest.fixture(scope="module")
def licensed(tmp_path_factory):
    """A body on other vertices, with the pelvis away from the origin."""
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


def test_sites_do_not_depend_on_the_order_of_vertices_and_faces(licensed, tmp_path):
    arrays = smpl_arrays("neutral")
    rng = np.random.default_rng(0)
    order = rng.permutation(len(arrays["v_template"]))  # new vertex i is the old order[i]
    renumbered = np.argsort(order)[rng.permutation(arrays["f"])]
    per_vertex = ("v_template", "shapedirs", "posedirs", "weights")
    shuffled = arrays | {key: arrays[key][order] for key in per_vertex}
    shuffled |= {"J_regressor": arrays["J_regressor"][:, order]}
    shuffled |= {"f": np.roll(renumbered, 1, axis=1)}
    other = load_arrays(tmp_path / "shuffled.npz", shuffled)
    sites, again = sensor_sites(licensed), sensor_sites(other)
    assert [order[site.vertex] for site in again] == [site.vertex for site in sites]
    for mine, theirs in zip(rest(licensed, sites)[1], rest(other, again)[1], strict=True):
        torch.testing.assert_close(theirs, mine, atol=1e-4, rtol=0)
