"""Stand-ins for the licensed SMPL files, written once."""

import pytest

from t2imu_utils.body.smpl import load_bodies
from tests.body.layouts import write_fake_smpl


@pytest.fixture(scope="session")
def smpl_folder(tmp_path_factory):
    """SMPL_NEUTRAL.pkl, SMPL_MALE.pkl and SMPL_FEMALE.pkl as downloaded."""
    folder = tmp_path_factory.mktemp("licensed") / "smpl"
    write_fake_smpl(folder)
    return folder


@pytest.fixture(scope="session")
def licensed(smpl_folder):
    """The three models of that folder."""
    return load_bodies(smpl_folder)
