"""Statistics of features and z-scores, as HumanML3D makes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from t2imu_utils.errors import InputError
from t2imu_utils.motion.features import GROUPS, MIN_FRAMES, WIDTH

Array = TypeVar("Array", np.ndarray, Tensor)


@dataclass(frozen=True, eq=False)
class Normaliser:
    """z-score by channel; channels without spread are only centred."""

    mean: Float[np.ndarray, "263"]
    std: Float[np.ndarray, "263"]

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            good = np.shape(values) == (WIDTH,) and np.isfinite(values).all()
            if not good or (name == "std" and (np.asarray(values) < 0).any()):
                raise InputError(
                    f"normaliser: {name}",
                    f"shape {np.shape(values)}, or values out of range",
                    f"{WIDTH} finite numbers, none negative in std",
                    "Take both from `statistics` or from the files beside the weights.",
                )

    def normalise(self, x: Array) -> Array:
        """(..., 263) raw features to z-scores, of the same kind, type and device."""
        mean, scale = self._like(x)
        return (x - mean) / scale

    def denormalise(self, x: Array) -> Array:
        """(..., 263) z-scores to raw features, of the same kind, type and device."""
        mean, scale = self._like(x)
        return x * scale + mean

    def _like(self, x: Array) -> tuple[Array, Array]:
        scale = np.where(self.std < 1e-6, 1.0, self.std)
        if isinstance(x, Tensor):
            return x.new_tensor(self.mean), x.new_tensor(scale)
        return self.mean.astype(x.dtype), scale.astype(x.dtype)


def check_features(
    features: Float[np.ndarray, "T 263"], where: str | Path, min_frames: int = MIN_FRAMES
) -> None:
    """Raise InputError unless `features` is a finite float array (T >= min_frames, 263)."""
    remedy = "Write this clip again, or take it out of the corpus and its splits."
    shape = getattr(features, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] != WIDTH or features.dtype.kind != "f":
        found = f"shape {shape} of {getattr(features, 'dtype', type(features).__name__)}"
        raise InputError(f"{where}: features", found, f"(frames, {WIDTH}) of float32", remedy)
    if len(features) < min_frames:
        raise InputError(
            f"{where}: features", f"{len(features)} frame(s)", f"at least {min_frames}", remedy
        )
    if not np.isfinite(features).all():
        frame, channel = np.argwhere(~np.isfinite(features))[0]
        raise InputError(
            f"{where}: features",
            f"NaN or infinity at frame {frame}, channel {channel}",
            "finite numbers",
            remedy,
        )


def statistics(
    features: Sequence[Float[np.ndarray, "T 263"]],
) -> tuple[Float[np.ndarray, "263"], Float[np.ndarray, "263"]]:
    """Mean and standard deviation (float32) over all frames of all clips.

    As HumanML3D does, the deviation is averaged within each group of channels: root rotation, root
    velocity, height, positions, rotations, velocities, contacts.
    """
    if not len(features):
        raise InputError("statistics: features", "no clip", "at least one", "Fill the train split.")
    for index, clip in enumerate(features):
        check_features(clip, f"clip {index}", min_frames=1)
    frames = sum(len(clip) for clip in features)
    mean = sum(clip.sum(axis=0, dtype=np.float64) for clip in features) / frames
    square = sum(((clip - mean) ** 2).sum(axis=0) for clip in features) / frames
    std = np.sqrt(square)
    for group in GROUPS:
        std[group] = std[group].mean()
    return mean.astype(np.float32), std.astype(np.float32)
