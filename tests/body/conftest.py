"""The open body."""

import pytest

from t2imu_utils.body.smpl import load_body


@pytest.fixture(scope="session")
def body():
    return load_body()
