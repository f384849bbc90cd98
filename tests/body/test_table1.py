"""Table I: a box whose volume is known, the eight bodies, and builds that cannot be reached."""

import numpy as np
import pytest

from t2imu_utils.body.smpl import Bodies, load_body
from t2imu_utils.body.table1 import (
    BODIES,
    DENSITY,
    measure,
    shapes_of,
    solve_betas,
    solve_table,
)
from t2imu_utils.errors import InputError
from t2imu_utils.motion.skeleton import PARENTS


@pytest.fixture(scope="module")
def table(body):
    return solve_table(Bodies(body, body, body))


def box(path, gain=0.0):
    """An SMPL-format box of 0.2 x 1.5 x 0.3 m; beta 0 stretches its height by `gain` m a unit."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    shapedirs = np.zeros((8, 3, 10), np.float32)
    shapedirs[:, 1, 0] = gain * corners[:, 1]
    np.savez(
        path,
        v_template=corners * np.float32([0.2, 1.5, 0.3]),
        shapedirs=shapedirs,
        posedirs=np.zeros((8, 3, 207), np.int8),
        J_regressor=np.full((24, 8), 1 / 8, np.float32),
        weights=np.full((8, 24), 1 / 24, np.float32),
        kintree_table=np.array([[*PARENTS, 20, 21], range(24)]),
        f=np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]),
    )
    return load_body(path)


def test_measure_a_box(tmp_path):
    body = box(tmp_path / "box.npz", gain=0.1)
    height, mass = measure(body, np.zeros(10))
    assert height == pytest.approx(1.5)
    assert abs(mass) == pytest.approx(0.2 * 1.5 * 0.3 * DENSITY)
    assert measure(body, np.eye(10)[0] * 2)[0] == pytest.approx(1.7)


def test_all_eight_are_reached_on_the_licensed_model_of_their_gender(licensed):
    table = solve_table(licensed)
    shapes = shapes_of(table, licensed)
    assert list(shapes) == [target.name for target in BODIES]
    for target, shape in zip(BODIES, shapes.values(), strict=True):
        assert shape.body is licensed.of(target.gender)
        assert shape.body.path.name == f"SMPL_{target.gender.upper()}.pkl"
        height, mass = measure(shape.body, shape.betas)
        assert abs(100 * height - target.height_cm) < 1
        assert abs(mass - target.weight_kg) < 2
        assert np.abs(shape.betas).max() < 5
    np.testing.assert_allclose(table["reached_cm"], table["height_cm"], atol=1)


def test_the_shape_is_the_likeliest_one(body):
    betas = solve_betas(body, "female", 1.70, 70.0)
    mean, covariance = body.betas_mean["female"], body.betas_cov["female"]
    # At the optimum the deviation is covariance times a mix of the two slopes.
    slopes = []
    for which in range(2):
        steps = [np.array(measure(body, betas + 1e-4 * e))[which] for e in np.eye(10)]
        slopes.append((np.array(steps) - measure(body, betas)[which]) / 1e-4)
    span = covariance @ np.array(slopes).T
    deviation = betas - mean
    mix = np.linalg.lstsq(span, deviation, rcond=None)[0]
    np.testing.assert_allclose(span @ mix, deviation, atol=0.02)


def test_what_no_shape_reaches_is_told(body):
    with pytest.raises(InputError, match="male of 3.000 m"):
        solve_betas(body, "male", 3.0, 60.0)
