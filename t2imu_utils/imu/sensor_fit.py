"""Parameters of the sensor model that a recording of a phone tells by itself.

Noise shows where the phone is quiet; the smallest step and the end of the range show in the values;
and whether samples are taken at uneven times shows where it moves. Biases, scale and placement
differ from phone to phone and from person to person, so no single recording has them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.ndimage import median_filter
from scipy.signal import welch

from t2imu_utils.errors import InputError
from t2imu_utils.imu.archives import Refused, read_columns
from t2imu_utils.imu.realworld import COLUMNS
from t2imu_utils.imu.streams import uniform_pieces

QUIET = {"acc": 0.15, "gyro": 0.07}  # m/s², rad/s: standard deviation of a quiet second, all axes
LEAST_SECONDS = 3
HIGH_BAND = 0.8  # of the Nyquist frequency: above it a person who stands still hardly moves
TOP, NEXT = 0.999, 0.99  # of the largest value: readings pile up between them where it clips
PILE = 20  # samples
LONGEST_RUN = 20  # steps between neighbouring values that still tell the step's length
OFF_GRID = 0.05  # of a step
AROUND = 201  # samples over which the clock's line is taken as straight
BLOCKS = 100  # for the standard error: samples near each other are not independent

# A sample less what its neighbours foretell (sixth difference, 1 at the centre), and the slope.
SURPRISE = np.array([1, -6, 15, -20, 15, -6, 1]) / -20
SLOPE = np.array([-1, 9, -45, 0, 45, -9, 1]) / 60


@dataclass(frozen=True)
class QuietFit:
    """What one stream of a phone tells about its sensor.

    Units are those of the stream, m/s² or rad/s.

    Attributes:
        rate: samples per second on the fitted line.
        seconds: of quiet that were found.
        noise: density of white noise, units/√Hz. An upper bound: what the quietest axis still
            moves is in it.
        offset: mean reading of each axis while quiet.
        step: smallest difference between readings; 0 where the values lie on no grid.
        limit: where the range ends; None where it was not reached.
        clipped: share of samples at the limit on any axis.
        stamps: standard deviation of the stamps about the line, ms, without late samples.
        share: how much of a stamp's deviation the values follow: 1 if each sample was taken when
            its stamp says, 0 if only its delivery was late.
        share_error: standard error of `share`.
    """

    rate: float
    seconds: int
    noise: float
    offset: tuple[float, float, float]
    step: float
    limit: float | None
    clipped: float
    stamps: float
    share: float
    share_error: float

    @property
    def jitter(self) -> float:
        """Upper bound (two standard errors) of the stamps' deviation that is sampling, ms."""
        return max(0.0, self.share + 2 * self.share_error) * self.stamps


def fit_quiet(
    stamps: Float[np.ndarray, "n"], values: Float[np.ndarray, "n 3"], quiet: float
) -> QuietFit:
    """Noise, grid, range and jitter of one sensor from its stream.

    Noise is the mean power density in the highest fifth of the band over all quiet seconds, each
    rid of its trend, on the axis where it is least: movement only adds to it.

    A stamp is off its line for two reasons: the sample was taken late, or it was handed over late.
    Gaps with bursts after them are of the second kind and are left out; of what remains the values
    tell. If sample i was taken a time e too late it differs from what its six neighbours foretell
    by its slope times e (less theirs). The regression on this, over all of the stream that moves,
    has slope `QuietFit.share`.

    Args:
        stamps: seconds, in order of arrival.
        values: the samples of one sensor.
        quiet: standard deviation over one second, of all axes together, below which it is quiet.

    Raises:
        InputError: fewer than three quiet seconds, or a stream that is lost for the most part.
    """
    stamps, values = np.asarray(stamps, np.float64), np.asarray(values, np.float64)
    pieces, timing = uniform_pieces(stamps, values)
    if not pieces:
        raise InputError(
            "fit_quiet: stamps", f"{len(stamps)} samples without an unbroken second", "a stream",
            "Take another recording.",
        )  # fmt: skip
    size = round(timing.rate)
    seconds = np.concatenate([
        piece.values[: len(piece.values) // size * size].reshape(-1, size, 3) for piece in pieces
    ])  # fmt: skip
    still = seconds[np.sqrt(seconds.var(1).sum(1)) < quiet]
    if len(still) < LEAST_SECONDS:
        raise InputError(
            "fit_quiet: values", f"{len(still)} quiet seconds", f"at least {LEAST_SECONDS}",
            "Take a recording that begins or ends at rest.",
        )  # fmt: skip
    frequency, power = welch(still, timing.rate, nperseg=size, axis=1, detrend="linear")
    high = (frequency >= HIGH_BAND * timing.rate / 2) & (frequency < timing.rate / 2)
    limit = _limit(values)
    at_limit = np.abs(values) >= (np.inf if limit is None else TOP * limit)
    deviation, share, error = _jitter(stamps, values, 1 / timing.rate, at_limit.any(1))
    x, y, z = still.mean((0, 1)).tolist()
    return QuietFit(
        rate=timing.rate,
        seconds=len(still),
        noise=float(np.sqrt(power[:, high].mean((0, 1)).min())),
        offset=(x, y, z),
        step=_step(values),
        limit=limit,
        clipped=float(at_limit.any(1).mean()),
        stamps=1000 * deviation,
        share=share,
        share_error=error,
    )


def _step(values: Float[np.ndarray, "n 3"]) -> float:
    """Greatest common step of the values, 0 for none: differences of neighbours are few of it."""
    gaps = np.concatenate([np.diff(np.unique(axis)) for axis in values.T])
    if len(gaps) < PILE:
        return 0.0
    first = np.median(gaps[gaps <= 1.5 * np.quantile(gaps, 0.1)])
    near = gaps[gaps < (LONGEST_RUN + 0.5) * first]
    count = np.round(near / first)
    if np.median(np.abs(near / first - count)) > OFF_GRID or (count < 1).mean() > OFF_GRID:
        return 0.0
    return float(near.sum() / count.sum())


def _limit(values: Float[np.ndarray, "n 3"]) -> float | None:
    """The value at which readings pile up, None where the largest ones are rare, as in a tail."""
    sizes = np.abs(values)
    top = sizes.max()
    at_top, below = (sizes >= TOP * top), (sizes >= NEXT * top) & (sizes < TOP * top)
    if at_top.sum() < PILE or at_top.sum() <= below.sum():
        return None
    return float(np.median(sizes[at_top]))


def _jitter(
    stamps: Float[np.ndarray, "n"], values: Float[np.ndarray, "n 3"], period: float, bad: np.ndarray
) -> tuple[float, float, float]:
    """Deviation of the stamps (s), the share of it that the values follow, and its error."""
    offset = stamps - period * np.arange(len(stamps))
    late = offset - median_filter(offset, AROUND, mode="nearest")
    usual = np.abs(late) < period / 2
    deviation = float(late[usual].std())

    def along(signal: np.ndarray, taps: np.ndarray) -> np.ndarray:
        return np.apply_along_axis(np.correlate, 0, signal, taps, "same")

    slope = along(values, SLOPE) / period
    surprise = along(values, SURPRISE)
    expected = along(slope * late[:, None], SURPRISE)
    # Two filters of seven taps one after the other reach six samples to either side.
    good = np.convolve(~usual | bad, np.ones(13), "same") < 0.5
    good[:12] = good[-12:] = False
    surprise, expected = surprise[good], expected[good]
    if len(surprise) < BLOCKS or deviation == 0:
        return deviation, 0.0, 0.0
    weight = 1 / np.maximum(surprise.var(0), np.finfo(float).tiny)
    upper = np.array([b.sum() for b in np.array_split(surprise * expected * weight, BLOCKS)])
    lower = np.array([b.sum() for b in np.array_split(expected**2 * weight, BLOCKS)])
    share = upper.sum() / lower.sum()
    error = np.sqrt(((upper - share * lower) ** 2).sum()) / lower.sum()
    return deviation, float(share), float(error)


def fit_phone(acc: Path, gyro: Path) -> dict[str, QuietFit]:
    """The fits of both sensors of one phone, from two CSV files of RealWorld.

    Raises:
        InputError: a file is missing or cannot be read, or has no quiet part.
    """
    fits: dict[str, QuietFit] = {}
    for sensor, path in (("acc", Path(acc)), ("gyro", Path(gyro))):
        try:
            table, _ = read_columns(path.read_bytes(), COLUMNS[:4])
        except (OSError, Refused) as error:
            raise InputError(
                path, str(error), "a stream of RealWorld as CSV", "Check the file."
            ) from error
        fits[sensor] = fit_quiet(table[:, 0] / 1000, table[:, 1:], QUIET[sensor])
    return fits


def fitted_parameters(fits: dict[str, QuietFit]) -> dict[str, float]:
    """The fields of `SensorModel` that the fits of one phone tell.

    ``gyro_bias`` is the root mean square of the three axes at rest, one phone's. The accelerometer
    has no such number: what it reads at rest is gravity, in an unknown direction.
    """
    acc, gyro = fits["acc"], fits["gyro"]
    found = {
        "acc_noise": acc.noise,
        "gyro_noise": gyro.noise,
        "gyro_bias": float(np.sqrt(np.mean(np.square(gyro.offset)))),
        "acc_step": acc.step,
        "gyro_step": gyro.step,
        "jitter": max(acc.jitter, gyro.jitter),
    }
    limits = {"acc_range": acc.limit, "gyro_range": gyro.limit}
    return found | {name: limit for name, limit in limits.items() if limit is not None}
