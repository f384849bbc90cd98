"""Change of sampling rate without aliasing."""

from fractions import Fraction

import numpy as np
from jaxtyping import Float

CUTOFF = 0.9  # of the lower of the two Nyquist frequencies
LOBES = 10  # half length of the filter, in samples of the lower rate: 121 taps for 120 -> 20 Hz
KAISER = 5.65  # ripple and stop band of -60 dB
MAX_DENOMINATOR = 2000


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

    At least 2 finite samples. The ratio of the rates is taken as the nearest fraction of whole
    numbers up to 2000 (rates are written rounded, such as 33.33), which is off by less than 3e-4
    where neither rate is 500 times the other.
    """
    from scipy.signal import firwin, resample_poly  # slow to import, and few need it

    x = np.asarray(x)
    x = x if x.dtype == np.float32 else x.astype(np.float64)
    ratio = Fraction(rate_out / rate_in).limit_denominator(MAX_DENOMINATOR)
    up, down = ratio.numerator, ratio.denominator
    if up == down:
        return x.copy()
    count = (len(x) - 1) * up // down + 1
    factor = max(up, down)
    taps = firwin(2 * LOBES * factor + 1, CUTOFF / factor, window=("kaiser", KAISER))
    # The phases of the filter do not each sum to one, so a line stays exact only where it is taken
    # out. Point reflection continues the line through both ends.
    rest = x - _line(x, np.arange(len(x)))
    smooth = resample_poly(rest, up, down, axis=0, window=taps, padtype="antireflect")[:count]
    return (smooth + _line(x, np.arange(count) * (down / up))).astype(x.dtype)


def _line(x: Float[np.ndarray, "T ..."], at: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N ..."]:
    """The line through the first and the last sample, at sample positions `at`."""
    at = (at / (len(x) - 1)).reshape(-1, *[1] * (x.ndim - 1))
    return x[0] + at * (x[-1] - x[0])
