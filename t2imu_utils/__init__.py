"""t2imu: text to IMU, an executable paper. One package per stage; see the README for the map."""

__version__ = "0.1.0"
