"""Inputs of the tracks: what each is, whether it is there and right, and how to get it."""

from t2imu_utils.inputs.status import status

__all__ = ["status"]
