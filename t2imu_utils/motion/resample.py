"""Change of sampling rate without aliasing."""

from fractions import Fraction

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from scipy.signal import fftconvolve, firwin, resample_poly

from t2imu_utils.errors import InputError

CUTOFF = 0.9  # of the lower of the two Nyquist frequencies
LOBES = 10  # half length of the filter, in samples of the lower rate: 121 taps for 120 -> 20 Hz
KAISER = 5.65  # ripple and stop band of -60 dB
MAX_DENOMINATOR = 2000
RATE_TOLERANCE = 2e-6  # relative; 1 ms in ten minutes


def resample(
    x: Float[np.ndarray, "T ..."], rate_in: float, rate_out: float
) -> Float[np.ndarray, "N ..."]:
    """Resample along the first axis from one uniform rate to another (Hz), polyphase.

    Zero phase: sample k of the result lies at k / rate_out seconds, sample 0 on sample 0. Beyond
    both ends the filter meets the point reflection of the samples, so velocity runs on through an
    end in mid-motion; if it dropped to zero there, the end would show accelerations of 10 m/s² and
    more that are not there. Straight lines and the first sample stay exact. N = floor((T - 1) *
    rate_out / rate_in) + 1: nothing beyond the last sample. More than 10 samples of the lower rate
    away from the ends, sines up to 0.7 of the lower of the two Nyquist frequencies are kept to 1e-3
    and those from 1.06 on are 40 dB down. Float64, or float32 if given.

    Raises:
        InputError: fewer than 2 samples, NaN, rates not positive, or a ratio of rates that is no
            fraction of whole numbers up to 2000 (use `resample_at`).
    """
    x = _check(x, "resample")
    ratio = _ratio(rate_in, rate_out)
    up, down = ratio.numerator, ratio.denominator
    if up == down:
        return x.copy()
    count = (len(x) - 1) * up // down + 1
    # The phases of the filter do not each sum to one, so a line stays exact only where it is taken
    # out. Point reflection continues the line through both ends.
    rest, taps = x - _line(x, np.arange(len(x))), _lowpass(max(up, down))
    smooth = resample_poly(rest, up, down, axis=0, window=taps, padtype="antireflect")[:count]
    return (smooth + _line(x, np.arange(count) * (down / up))).astype(x.dtype)


def resample_at(
    x: Float[np.ndarray, "T ..."],
    times: Float[np.ndarray, "T"],
    new_times: Float[np.ndarray, "N"],
) -> Float[np.ndarray, "N ..."]:
    """Values at `new_times` (s) of samples taken at uneven `times` (s), along the first axis.

    A cubic spline puts the samples on a fine uniform grid, a zero-phase low-pass takes out what the
    new rate cannot hold, with both ends treated as in `resample`, and another spline reads the new
    times. For streams whose rate wanders or is no round number; gaps are bridged, so look for them
    before.

    Raises:
        InputError: NaN, times that do not increase, or new times outside of the old.
    """
    x = _check(x, "resample_at")
    times, new_times = np.asarray(times, np.float64), np.asarray(new_times, np.float64)
    for name, values, length in (("times", times, len(x)), ("new_times", new_times, None)):
        if values.ndim != 1 or (length is not None and len(values) != length) or len(values) < 2:
            raise InputError(
                f"resample_at: {name}",
                f"shape {values.shape}",
                "one time for every sample, at least two",
                "Pass times in seconds.",
            )
        if not (np.diff(values) > 0).all():
            raise InputError(
                f"resample_at: {name}",
                "times that repeat, run back or are NaN",
                "strictly increasing seconds",
                "Sort the samples and drop repeated stamps first.",
            )
    slack = 1e-9 * max(1.0, abs(times[-1]))
    if new_times[0] < times[0] - slack or new_times[-1] > times[-1] + slack:
        raise InputError(
            "resample_at: new_times",
            f"{new_times[0]:.3f} to {new_times[-1]:.3f} s",
            f"times within {times[0]:.3f} to {times[-1]:.3f} s",
            "Leave out what lies before the first or after the last sample.",
        )
    rate_in, rate_out = 1.0 / np.median(np.diff(times)), 1.0 / np.median(np.diff(new_times))
    factor = max(1, int(np.ceil(rate_in / rate_out - 1e-6)))
    count = max(2, int(np.ceil((times[-1] - times[0]) * rate_out * factor - 1e-6)) + 1)
    grid = np.linspace(times[0], times[-1], count)
    fine = CubicSpline(times, x, axis=0)(grid)
    if factor > 1:
        line = _line(fine, np.arange(count))
        taps = _lowpass(factor).reshape(-1, *[1] * (x.ndim - 1))
        reach = [(len(taps) // 2,) * 2] + [(0, 0)] * (x.ndim - 1)
        rest = np.pad(fine - line, reach, mode="reflect", reflect_type="odd")
        fine = line + fftconvolve(rest, taps, mode="valid", axes=0)
    return CubicSpline(grid, fine, axis=0)(new_times.clip(times[0], times[-1])).astype(x.dtype)


def _lowpass(factor: int) -> Float[np.ndarray, "taps"]:
    return firwin(2 * LOBES * factor + 1, CUTOFF / factor, window=("kaiser", KAISER))


def _line(x: Float[np.ndarray, "T ..."], at: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N ..."]:
    """The line through the first and the last sample, at sample positions `at`."""
    at = (at / (len(x) - 1)).reshape(-1, *[1] * (x.ndim - 1))
    return x[0] + at * (x[-1] - x[0])


def _ratio(rate_in: float, rate_out: float) -> Fraction:
    for name, rate in (("rate_in", rate_in), ("rate_out", rate_out)):
        if not (np.isfinite(rate) and rate > 0):
            raise InputError(
                f"resample: {name}", repr(rate), "a positive rate in Hz", "Pass the sampling rate."
            )
    exact = rate_out / rate_in
    ratio = Fraction(exact).limit_denominator(MAX_DENOMINATOR)
    if ratio == 0 or abs(float(ratio) / exact - 1.0) > RATE_TOLERANCE:
        raise InputError(
            "resample: rate_in, rate_out",
            f"{rate_in} Hz to {rate_out} Hz",
            f"a ratio of whole numbers up to {MAX_DENOMINATOR}",
            "Use resample_at with the sample times instead.",
        )
    return ratio


def _check(x: np.ndarray, where: str) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim < 1 or len(x) < 2:
        raise InputError(
            f"{where}: x",
            f"shape {x.shape}",
            "at least 2 samples along the first axis",
            "Leave this stream out or take more of it.",
        )
    x = x if x.dtype == np.float32 else x.astype(np.float64)
    if not np.isfinite(x).all():
        raise InputError(
            f"{where}: x",
            f"{int((~np.isfinite(x)).sum())} values that are NaN or infinite",
            "finite samples",
            "Cut or fill the gaps first: a filter would spread them.",
        )
    return x
