"""How real a motion moves: acceleration, jerk, sliding feet and the spectrum of acceleration.

All functions take joints in metres, Y up. Differences are central and over single frames, so at
20 fps the second difference passes ``sinc(f / fps)**2`` of a sine's true acceleration (0.41 at the
Nyquist frequency): compare only motions of one frame rate.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.signal import welch

from t2imu_utils.errors import InputError
from t2imu_utils.motion.skeleton import FEET

FPS = 20.0
# Two seconds, the length of a recognition window.
SEGMENT = 40
SHORTEST = 4
VERTICAL = 1
PLANE = (0, 2)
# A foot joint is on the ground within this height of the lowest it reaches in the clip.
CONTACT_HEIGHT = 0.03
DECIBEL_FLOOR = 1e-12


def _checked(joints: Float[np.ndarray, "T J 3"]) -> Float[np.ndarray, "T J 3"]:
    joints = np.asarray(joints, dtype=np.float64)
    if joints.ndim != 3 or joints.shape[2] != 3 or len(joints) < SHORTEST:
        raise InputError(
            "joints",
            f"shape {joints.shape}",
            f"(T, J, 3) with T >= {SHORTEST}",
            "Give one motion at a time, as joint positions, and leave out those that are shorter.",
        )
    if not np.isfinite(joints).all():
        raise InputError(
            "joints",
            f"{int((~np.isfinite(joints)).any((1, 2)).sum())} frames with NaN or infinity",
            "finite positions",
            "Cut or repair the motion first.",
        )
    return joints


def acceleration(
    joints: Float[np.ndarray, "T J 3"], fps: float = FPS
) -> Float[np.ndarray, "T-2 J 3"]:
    """Second central difference of the positions, m/s²."""
    return np.diff(_checked(joints), n=2, axis=0) * fps**2


def mean_abs_acceleration(joints: Float[np.ndarray, "T J 3"], fps: float = FPS) -> float:
    """Length of the acceleration vector, averaged over frames and joints, m/s²."""
    return float(np.linalg.norm(acceleration(joints, fps), axis=-1).mean())


def mean_abs_jerk(joints: Float[np.ndarray, "T J 3"], fps: float = FPS) -> float:
    """Length of the third difference, averaged over frames and joints, m/s³."""
    jerk = np.diff(_checked(joints), n=3, axis=0) * fps**3
    return float(np.linalg.norm(jerk, axis=-1).mean())


def foot_skate(
    joints: Float[np.ndarray, "T 22 3"], fps: float = FPS, height: float = CONTACT_HEIGHT
) -> float:
    """Mean horizontal speed of ankles and toes while they are on the ground, m/s.

    A foot joint counts as grounded between two frames when in both it is within `height` metres
    of the lowest point that it reaches in the clip. The test is blind to speed, unlike
    HumanML3D's contact channels, so that a sliding foot cannot lift its own sliding out of the
    measure. NaN when no foot joint is ever grounded for two frames.
    """
    feet = _checked(joints)[:, list(FEET)]
    low = feet[..., VERTICAL] < feet[..., VERTICAL].min(0) + height
    grounded = low[1:] & low[:-1]
    speed = np.linalg.norm(np.diff(feet[..., list(PLANE)], axis=0), axis=-1) * fps
    return float(speed[grounded].mean()) if grounded.any() else float("nan")


def power_spectrum(
    joints: Float[np.ndarray, "T J 3"], fps: float = FPS, segment: int = SEGMENT
) -> tuple[Float[np.ndarray, "F"], Float[np.ndarray, "F"]]:
    """Power spectral density of joint acceleration, summed over axes, averaged over joints.

    Welch's method with Hann windows of `segment` frames; a motion shorter than that is one window,
    zero-padded, so that all motions share one frequency grid.

    Returns:
        Frequencies (Hz) and density ((m/s²)²/Hz); its integral is the mean variance of the
        acceleration vector.
    """
    signal = acceleration(joints, fps)
    frequency, density = welch(
        signal,
        fs=fps,
        nperseg=min(segment, len(signal)),
        nfft=segment,
        detrend="constant",
        axis=0,
    )
    return frequency, density.sum(-1).mean(-1)


def mean_spectrum(
    motions: Sequence[Float[np.ndarray, "T J 3"]], fps: float = FPS, segment: int = SEGMENT
) -> tuple[Float[np.ndarray, "F"], Float[np.ndarray, "F"]]:
    """`power_spectrum` averaged over motions, each counting by its length."""
    if not len(motions):
        raise InputError("motions", "none", "at least one", "Check how they were selected.")
    parts = [power_spectrum(joints, fps, segment) for joints in motions]
    weights = np.array([len(joints) for joints in motions], dtype=float)
    return parts[0][0], np.average([density for _, density in parts], axis=0, weights=weights)


def spectral_distance(p: Float[np.ndarray, "F"], q: Float[np.ndarray, "F"]) -> float:
    """Log-spectral distance of two densities on one grid, dB (Rabiner & Juang 1993, sec. 4.5).

    Root mean square over frequencies of ``10 log10(p / q)``. The first bin is left out: the mean
    acceleration of a bounded motion is close to zero and its logarithm means nothing.
    """
    p, q = np.asarray(p, dtype=float), np.asarray(q, dtype=float)
    if p.shape != q.shape or p.ndim != 1:
        raise InputError(
            "spectra", f"shapes {p.shape} and {q.shape}", "one grid", "Use one `segment` for both."
        )
    decibel = 10 * np.log10((p[1:] + DECIBEL_FLOOR) / (q[1:] + DECIBEL_FLOOR))
    return float(np.sqrt(np.mean(decibel**2)))


def summarise(
    motions: Sequence[Float[np.ndarray, "T 22 3"]],
    names: Sequence[str] | None = None,
    fps: float = FPS,
) -> pd.DataFrame:
    """One row a motion: ``clip``, ``frames`` and the three scalar measures of this module."""
    if names is not None and len(names) != len(motions):
        raise InputError(
            "names", f"{len(names)} names", f"{len(motions)}, one a motion", "Give each its name."
        )
    return pd.DataFrame(
        [
            {
                "clip": name,
                "frames": len(joints),
                "mean_abs_acceleration": mean_abs_acceleration(joints, fps),
                "mean_abs_jerk": mean_abs_jerk(joints, fps),
                "foot_skate": foot_skate(joints, fps),
            }
            for name, joints in zip(
                names if names is not None else range(len(motions)), motions, strict=True
            )
        ],
        columns=["clip", "frames", "mean_abs_acceleration", "mean_abs_jerk", "foot_skate"],
    )
