"""From delivery-time stamps to a uniform rate: what every recorded stream goes through.

A phone stamps a sample when it is *delivered*. When the phone is busy the stamps stop, and the
samples that waited arrive in a burst a moment later: nothing is lost, yet interpolation on such
stamps first stretches and then squashes the signal. So samples are counted, not clocked: a line
is fitted through the stamps of a stream, and the stream is cut only where a gap is *not* repaid,
that is, where all later stamps stay above the line.

The streams of a recording then share one grid, and a recording is cut where no sensor recorded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import minimum_filter1d

CLOCK_WENT_BACK = 0.2  # seconds; smaller steps back are jitter
CLOCK_TOLERANCE = 0.01
TAIL = 16  # samples
SURE = 120  # samples on either side of a loss
STEP = 0.1  # of a period: smaller rises are jitter
BLOCKS = 150  # of stamps for the median-of-slopes line: enough for any clock, quick for any stream
LOBES = 12  # zero crossings of the resampling kernel on either side
KAISER_BETA = 6.0
PASS_BAND = 0.9  # of the Nyquist frequency of the slower side
SLACK = 1e-6  # frames: rounding must not cost the frame on which a stream begins or ends


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
    stamps that are early by chance: those leave the lower quartiles on either side alike. Where the
    last samples before a loss are late themselves it rises in steps, which count together; in few
    samples only a jump of its own counts. The last samples cannot tell, and count as late.
    """
    offset = stamps - period * (numbers - numbers[0])
    padded = np.concatenate([offset, np.full(ahead, np.inf)])
    floor = minimum_filter1d(padded, ahead, origin=-(ahead // 2))[: len(offset)]
    jumps = np.diff(floor) / period
    holes = np.zeros(len(jumps), np.int64)
    steps = np.flatnonzero(jumps > STEP)
    for near in np.split(steps, np.flatnonzero(np.diff(steps) > TAIL) + 1):
        sure = len(near) and min(near[0] + 1, len(offset) - 1 - near[-1], ahead) >= SURE
        for group in [near] if sure else near[jumps[near] > 0.6][:, None]:
            rise = (floor[group + 1] - floor[group[0]]) / period
            total = round(rise[-1]) if rise[-1] > 0.6 else 0
            before = np.quantile(offset[max(0, group[0] + 1 - ahead) : group[0] + 1], 0.25)
            after = np.quantile(offset[group[-1] + 1 : group[-1] + 1 + ahead], 0.25)
            tail = len(offset) - 1 - group[-1] < TAIL and total < TAIL
            if total and not tail and after - before >= 0.5 * total * period:
                level = np.minimum(np.maximum.accumulate(np.round(rise)), total)
                holes[group] = np.diff(level, prepend=0)
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
    reach, step = np.linspace(0.0, half + 1, 200 * (half + 1), retstep=True)
    window = np.i0(KAISER_BETA * np.sqrt(1 - (reach / (half + 1)) ** 2))
    kernel = np.sinc(cutoff * reach) * window
    kernel = np.append(kernel, kernel[-1])
    slope = np.diff(kernel)  # none past the end
    place = (times - piece.start) / piece.period
    centre = np.clip(np.floor(place).astype(int), -1, len(piece.values) - 1)
    taps = np.arange(-half, half + 2)
    windows = sliding_window_view(np.ascontiguousarray(padded.T), len(taps), axis=1)
    out = np.empty((len(times), padded.shape[1]))
    for rows in np.array_split(np.arange(len(times)), max(1, len(times) // 512)):
        # Linear interpolation in a table of even steps, where there is nothing to search.
        at = np.abs((centre[rows] - place[rows])[:, None] + taps) / step
        below = at.astype(np.int32)
        at -= below
        weights = slope[below]
        weights *= at
        weights += kernel[below]
        weights /= weights.sum(1, keepdims=True)
        out[rows] = np.einsum("tk,dtk->td", weights, windows[:, centre[rows] + 1])
    return out


def lay_on_grid(
    streams: Mapping[tuple[str, str], Sequence[Piece]],
    spans: Mapping[tuple[str, str], tuple[float, float]],
    sensors: Sequence[str],
    sites: Sequence[str],
    rate: float,
) -> tuple[int, dict[str, Float[np.ndarray, "F S 3"]]]:
    """Streams of one recording on one grid, whose frames lie at multiples of 1 / `rate` seconds.

    Args:
        streams: pieces by sensor and site.
        spans: seconds to take, from and to, of each stream that is to be laid.
        sensors, sites: order of the arrays and of their second axis.
        rate: frames per second.

    Returns:
        Number of the first frame, and one float32 array a sensor, NaN where a stream is missing.
    """
    first = int(np.ceil(min(start for start, _ in spans.values()) * rate - SLACK))
    last = int(np.floor(max(stop for _, stop in spans.values()) * rate + SLACK))
    shape = (last - first + 1, len(sites), 3)
    arrays = {sensor: np.full(shape, np.nan, np.float32) for sensor in sensors}
    for (sensor, site), (start, stop) in spans.items():
        low = max(0, int(np.ceil(start * rate - SLACK)) - first)
        high = int(np.floor(stop * rate + SLACK)) - first + 1
        signal = sample_pieces(streams[sensor, site], (first + low) / rate, high - low, rate)
        arrays[sensor][low:high, sites.index(site)] = signal
    return first, arrays


def recorded_stretches(arrays: Mapping[str, Float[np.ndarray, "F S 3"]]) -> list[tuple[int, int]]:
    """First frame and end of every stretch in which at least one site recorded."""
    present = np.isfinite(np.concatenate(list(arrays.values()), 1)).any((1, 2))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], present, [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def recorded_sites(arrays: Mapping[str, Float[np.ndarray, "F S 3"]]) -> int:
    """How many sites hold a value."""
    present = [np.isfinite(array).any((0, 2)) for array in arrays.values()]
    return int(np.any(present, axis=0).sum())
