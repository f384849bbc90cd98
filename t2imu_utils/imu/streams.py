"""From delivery-time stamps to a uniform rate: what every recorded stream goes through.

A phone stamps a sample when it is *delivered*. When the phone is busy the stamps stop, and the
samples that waited arrive in a burst a moment later: nothing is lost, yet interpolation on such
stamps first stretches and then squashes the signal. So samples are counted, not clocked: a line
is fitted through the stamps of a stream, and the stream is cut only where a gap is *not* repaid,
that is, where all later stamps stay above the line.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import minimum_filter1d

CLOCK_WENT_BACK = 0.2  # seconds; smaller steps back are jitter
CLOCK_TOLERANCE = 0.01
TAIL = 16  # samples
BLOCKS = 150  # of stamps for the median-of-slopes line: enough for any clock, quick for any stream
LOBES = 12  # zero crossings of the resampling kernel on either side
KAISER_BETA = 6.0
PASS_BAND = 0.9  # of the Nyquist frequency of the slower side


@dataclass(frozen=True)
class Piece:
    """A stretch without losses: sample i was taken at ``start + i * period`` (seconds)."""

    start: float
    period: float
    values: Float[np.ndarray, "n d"]

    @property
    def stop(self) -> float:
        return self.start + self.period * (len(self.values) - 1)


@dataclass(frozen=True)
class Timing:
    """What the fit of one stream found.

    Attributes:
        rate: samples per second on the fitted line.
        late: gaps that a burst repaid.
        bridged: lost samples that were interpolated, in gaps of at most `bridge` seconds.
        lost: seconds in unrepaid gaps between the pieces.
        short: pieces that were too short to keep.
        error: largest departure of the on-time stamps from the line, seconds (block medians).
    """

    rate: float
    late: int
    bridged: int
    lost: float
    short: int
    error: float


def uniform_pieces(
    stamps: Float[np.ndarray, "n"],
    values: Float[np.ndarray, "n d"],
    numbers: Int[np.ndarray, "n"] | None = None,
    nominal: float | None = None,
    bridge: float = 0.15,
    shortest: float = 1.0,
    late_gap: float = 0.3,
) -> tuple[list[Piece], Timing]:
    """Undo delivery times: uniform pieces of a stream, on a line fitted through its stamps.

    Args:
        stamps: delivery times in seconds, in order of arrival.
        values: the samples.
        numbers: sample numbers of the recorder; a hole in them is a lost sample. Ignored when
            they do not count in ones.
        nominal: the sensor's rate, where it is known; a fit more than 1 % off gives way to it, as
            it must where the stamps of a short recording are wild.
        bridge: losses up to this many seconds are interpolated, and counted.
        shortest: pieces under this many seconds are left out, and counted.
        late_gap: repaid gaps over this many seconds are counted as late.

    Returns:
        Pieces in order of arrival, and what was found. Where the clock was set back, later pieces
        may overlap earlier ones in time.
    """
    stamps, values = np.asarray(stamps, np.float64), np.asarray(values, np.float64)
    cuts = np.flatnonzero(np.diff(stamps) < -CLOCK_WENT_BACK) + 1
    numbers = _counting(numbers, len(stamps))
    pieces: list[Piece] = []
    parts: list[Timing] = []
    for rows in np.split(np.arange(len(stamps)), cuts):
        if len(rows) < 8:
            parts.append(Timing(np.nan, 0, 0, 0.0, 1, 0.0))
            continue
        found, timing = _one_clock(
            stamps[rows], values[rows], numbers[rows], nominal, bridge, shortest, late_gap
        )
        pieces += found
        parts.append(timing)
    rates = [part.rate for part in parts if np.isfinite(part.rate)]
    total = Timing(
        rate=float(np.median(rates)) if rates else np.nan,
        late=sum(part.late for part in parts),
        bridged=sum(part.bridged for part in parts),
        lost=sum(part.lost for part in parts),
        short=sum(part.short for part in parts),
        error=max(part.error for part in parts),
    )
    return pieces, total


def _counting(numbers: np.ndarray | None, count: int) -> np.ndarray:
    """Sample numbers that increase, mostly in ones; else the rows' own."""
    if numbers is not None and count > 1:
        steps = np.diff(numbers)
        if steps.min() > 0 and np.median(steps) == 1:
            return np.asarray(numbers, np.int64)
    return np.arange(count)


def _one_clock(
    stamps: np.ndarray,
    values: np.ndarray,
    numbers: np.ndarray,
    nominal: float | None,
    bridge: float,
    shortest: float,
    late_gap: float,
) -> tuple[list[Piece], Timing]:
    """`uniform_pieces` for a stretch in which the clock only runs forward."""
    index = numbers - numbers[0]
    period = 1 / nominal if nominal else _first_period(stamps, index)
    gap = np.diff(stamps).max()
    ahead = int(min(len(stamps), np.ceil((2.5 + 1.5 * gap) / period)))
    for _ in range(3):
        index, holes = _count_losses(stamps, numbers, period, ahead)
        fitted = _slope(stamps, index)
        wild = nominal is not None and abs(fitted * nominal - 1) > CLOCK_TOLERANCE
        period = 1 / nominal if nominal and wild else fitted
    breaks = np.flatnonzero((np.diff(index) - 1) * period > bridge) + 1
    pieces, short, error = [], 0, 0.0
    on_time = stamps - period * index
    for rows in np.split(np.arange(len(stamps)), breaks):
        if (index[rows[-1]] - index[rows[0]]) * period < shortest:
            short += 1
            continue
        start = np.median(on_time[rows])
        blocks = np.array_split(on_time[rows] - start, max(1, len(rows) // 400))
        error = max(error, *(abs(float(np.median(block))) for block in blocks))
        whole = np.arange(index[rows[0]], index[rows[-1]] + 1)
        filled = np.stack([np.interp(whole, index[rows], column) for column in values[rows].T], 1)
        pieces.append(Piece(float(start + period * whole[0]), float(period), filled))
    lost = np.diff(index) - 1
    over = lost * period > bridge
    repaid = (np.diff(stamps) > late_gap) & (np.diff(stamps) - holes * period > late_gap)
    return pieces, Timing(
        1 / period, int(repaid.sum()), int(lost[~over].sum()), float(lost[over].sum() * period),
        short, error,
    )  # fmt: skip


def _first_period(stamps: np.ndarray, index: np.ndarray) -> float:
    """Median duration of a sample over lags of about one second: blind to few gaps and losses."""
    span = max(stamps[-1] - stamps[0], 1e-6)
    lag = int(np.clip(round(len(stamps) / span), 1, len(stamps) // 2))
    slopes = (stamps[lag:] - stamps[:-lag]) / (index[lag:] - index[:-lag])
    return max(float(np.median(slopes)), 1e-6)


def _count_losses(
    stamps: np.ndarray, numbers: np.ndarray, period: float, ahead: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sample counts that include the lost ones, and how many were lost before each next sample.

    A late sample leaves later stamps on the line; a lost one lifts all of them. So the smallest
    offset from here on (looking `ahead` past the longest burst) jumps only at losses, and at
    stamps that are early by chance: those leave the lower quartiles on either side alike. The last
    few samples cannot tell, and count as late.
    """
    offset = stamps - period * (numbers - numbers[0])
    padded = np.concatenate([offset, np.full(ahead, np.inf)])
    floor = minimum_filter1d(padded, ahead, origin=-(ahead // 2))[: len(offset)]
    jumps = np.diff(floor)
    holes = np.where(jumps > 0.6 * period, np.round(jumps / period), 0).astype(np.int64)
    for at in np.flatnonzero(holes):
        before = np.quantile(offset[max(0, at + 1 - ahead) : at + 1], 0.25)
        after = np.quantile(offset[at + 1 : at + 1 + ahead], 0.25)
        tail = len(offset) - 1 - at < TAIL and holes[at] < TAIL
        if tail or after - before < 0.5 * holes[at] * period:
            holes[at] = 0
    index = numbers - numbers[0]
    index[1:] += np.cumsum(holes)
    return index, holes


def _slope(stamps: np.ndarray, index: np.ndarray) -> float:
    """Seconds a sample: the median of all slopes between block medians (Theil and Sen)."""
    size = max(8, len(stamps) // BLOCKS)
    count = max(2, len(stamps) // size)
    size = len(stamps) // count
    x, y = (np.median(v[: count * size].reshape(count, size), axis=1) for v in (index, stamps))
    first, later = np.triu_indices(count, 1)
    return max(float(np.median((y[later] - y[first]) / (x[later] - x[first]))), 1e-6)


def sample_pieces(
    pieces: Sequence[Piece], start: float, count: int, rate: float
) -> Float[np.ndarray, "count d"]:
    """Anti-aliased samples of pieces at ``start + k / rate``; NaN where no piece covers the time.

    Each value is a Kaiser-windowed sinc average of the piece around its own time, so the change of
    rate and the shift onto the common grid are one step. Pieces are laid in order: where two
    overlap the first stays.
    """
    out = np.full((count, pieces[0].values.shape[1] if pieces else 3), np.nan)
    for piece in pieces:
        # A stamp's rounding must not cost the frame that falls on a piece's first sample.
        slack = 1e-3 * piece.period
        first = max(0, int(np.ceil((piece.start - slack - start) * rate)))
        last = min(count - 1, int(np.floor((piece.stop + slack - start) * rate)))
        rows = np.arange(first, last + 1)
        rows = rows[np.isnan(out[rows, 0])]
        if len(rows):
            out[rows] = _windowed_sinc(piece, start + rows / rate, rate)
    return out


def _windowed_sinc(piece: Piece, times: np.ndarray, rate: float) -> np.ndarray:
    """Values of a piece at times inside it, free of what the new rate cannot carry."""
    cutoff = PASS_BAND * min(rate * piece.period, 1.0)  # of the piece's own Nyquist frequency
    half = int(np.ceil(LOBES / cutoff))
    edge = min(half, len(piece.values) - 1)
    # Odd reflection continues a trend, so that the ends are neither pulled nor flattened.
    padded = np.pad(piece.values, ((edge, edge), (0, 0)), mode="reflect", reflect_type="odd")
    padded = np.pad(padded, ((half - edge + 1, half - edge + 1), (0, 0)), mode="edge")
    reach = np.linspace(0.0, half + 1, 200 * (half + 1))
    window = np.i0(KAISER_BETA * np.sqrt(1 - (reach / (half + 1)) ** 2))
    kernel = np.sinc(cutoff * reach) * window
    place = (times - piece.start) / piece.period
    centre = np.clip(np.floor(place).astype(int), -1, len(piece.values) - 1)
    taps = np.arange(-half, half + 2)
    out = np.empty((len(times), padded.shape[1]))
    for rows in np.array_split(np.arange(len(times)), max(1, len(times) // 4096)):
        weights = np.interp(np.abs(centre[rows, None] + taps - place[rows, None]), reach, kernel)
        weights /= weights.sum(1, keepdims=True)
        near = centre[rows, None] + taps + half + 1
        out[rows] = np.einsum("tk,tkd->td", weights, padded[near])
    return out
