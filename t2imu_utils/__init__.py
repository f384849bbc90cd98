"""t2imu: text to IMU, an executable paper. One package per stage; book/running.md has the map."""

import warnings

# Progress is plain text here, on purpose: widgets cannot be read on a code host.
warnings.filterwarnings("ignore", message="IProgress not found")

__version__ = "0.1.0"
