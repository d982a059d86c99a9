"""The numbers of many steps as a curve that is small and quick to draw. Nothing here knows of HTML."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

Point = tuple[int, float]
"""Step and value."""

WIDTH: Final = 1000
HEIGHT: Final = 300
"""Of the drawing's own coordinates; it is stretched to the room there is."""
_MOST_BUCKETS: Final = 300
_MOST_BANDS: Final = 60
_NUM_TICKS: Final = 5
_LOG_FROM: Final = 50.0
"""Largest value over smallest, from which on a linear scale would show the end of the curve as flat."""
_FEW: Final = 12
"""Points that need no smoothing."""


@dataclass(frozen=True)
class Tick:
    """A line of the grid."""

    percent: float
    """From the left, or from the top."""
    label: str


@dataclass(frozen=True)
class Band:
    """A strip of the plot, and what a reader who points at it is told."""

    x: float
    width: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One curve, ready to be drawn."""

    title: str
    unit: str
    """Beside the title; "" for none."""
    raw: str
    """SVG path through the lowest and highest value of each stretch of steps."""
    smooth: str
    """SVG path of the moving average; "" where there are few points."""
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marks: list[float]
    """Where the run was restarted, in percent from the left."""
    bands: list[Band]
    words: str
    """What the curve says, for those who do not see it."""


@dataclass(frozen=True)
class Scale:
    """Values onto 0 to 1."""

    low: float
    high: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """How far from low to high a value is."""
        if self.is_log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)


def chart(
    title: str,
    points: Sequence[Point],
    *,
    unit: str = "",
    from_zero: bool = False,
    smoothed: bool = True,
    restarts: Sequence[int] = (),
) -> Chart | None:
    """A curve over steps; None without a point. `restarts`: the steps that later starts continued from."""
    points = [(step, value) for step, value in points if math.isfinite(value)]
    if not points:
        return None
    first, last = points[0][0], points[-1][0]
    across = Scale(first, last if last > first else first + 1)
    values = [value for _, value in points]
    averages = smooth(points) if smoothed and len(points) > _FEW else []
    up, y_ticks = _vertical(values, from_zero=from_zero)

    def place(point: Point) -> tuple[float, float]:
        return WIDTH * across(point[0]), HEIGHT * (1 - up(point[1]))

    return Chart(
        title=title,
        unit=" ".join([unit, "(log scale)"] if up.is_log else [unit]).strip(),
        raw=_path(map(place, thin(points))),
        smooth=_path(map(place, _last_of_buckets(averages))),
        x_ticks=[Tick(100 * across(step), f"{step:,}") for step in _steps(first, last)],
        y_ticks=[
            Tick(100 * (1 - up(value)), label)
            for value, label in zip(y_ticks, _labels(y_ticks, is_log=up.is_log), strict=True)
        ],
        marks=[100 * across(step) for step in restarts if first <= step <= last],
        bands=list(_bands(points, across)),
        words=f"{title} from {number(values[0])} at step {first:,} to {number(values[-1])} at step {last:,}, "
        f"lowest {number(min(values))}, highest {number(max(values))}",
    )


def smooth(points: Sequence[Point]) -> list[Point]:
    """The mean over the points around each one, about a thirtieth of all; fewer at the ends."""
    sums = list(accumulate((value for _, value in points), initial=0.0))
    half = max(2, len(points) // 60)
    found = []
    for index, (step, _) in enumerate(points):
        first, end = max(0, index - half), min(len(points), index + half + 1)
        found.append((step, (sums[end] - sums[first]) / (end - first)))
    return found


def thin(points: Sequence[Point]) -> list[Point]:
    """Few points that look like all of them: of each stretch the lowest and the highest, in their order."""
    if len(points) <= 2 * _MOST_BUCKETS:
        return list(points)
    found: list[Point] = []
    for bucket in _buckets(points, _MOST_BUCKETS):
        ends = {min(bucket, key=lambda point: point[1]), max(bucket, key=lambda point: point[1])}
        found += sorted(ends)
    return found


def number(value: float) -> str:
    """A number with as many digits as say something."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    decimals = max(0, 2 - math.floor(math.log10(size)))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _buckets(points: Sequence[Point], count: int) -> Iterator[Sequence[Point]]:
    for index in range(count):
        if bucket := points[index * len(points) // count : (index + 1) * len(points) // count]:
            yield bucket


def _last_of_buckets(points: Sequence[Point]) -> list[Point]:
    return [bucket[-1] for bucket in _buckets(points, min(len(points), _MOST_BUCKETS))]


def _path(places: Iterator[tuple[float, float]]) -> str:
    """Straight lines; a single point is a line of no length, which round ends make a dot."""
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f"M{text} h0" if text else ""


def _bands(points: Sequence[Point], across: Scale) -> Iterator[Band]:
    stretches = list(_buckets(points, min(len(points), _MOST_BANDS)))
    for index, stretch in enumerate(stretches):
        left = 0.0 if index == 0 else WIDTH * across(stretch[0][0])
        right = WIDTH if index + 1 == len(stretches) else WIDTH * across(stretches[index + 1][0][0])
        first, last = stretch[0][0], stretch[-1][0]
        where = f"step {first:,}" if first == last else f"steps {first:,} to {last:,}, mean"
        mean = sum(value for _, value in stretch) / len(stretch)
        yield Band(round(left, 1), round(right - left, 1), f"{where}: {number(mean)}")


def _vertical(values: Sequence[float], *, from_zero: bool) -> tuple[Scale, list[float]]:
    """The scale, and the values that get a line."""
    low, high = min(values), max(values)
    if not from_zero and low > 0 and high / low >= _LOG_FROM:
        return _logarithmic(low, high)
    if from_zero:
        low = min(low, 0.0)
    if high == low:
        high = low + (abs(low) or 1.0)
    step = _nice((high - low) / (_NUM_TICKS - 1))
    bottom, top = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(bottom * step, top * step), [count * step for count in range(bottom, top + 1)]


def _logarithmic(low: float, high: float) -> tuple[Scale, list[float]]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = math.ceil((last - first) / _NUM_TICKS)
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    ticks = [factor * 10.0**power for power in range(first, last + 1, every) for factor in factors]
    below = max((tick for tick in ticks if tick <= low), default=low)
    above = min((tick for tick in ticks if tick >= high), default=high)
    return Scale(below, above, is_log=True), [tick for tick in ticks if below <= tick <= above]


def _labels(ticks: Sequence[float], *, is_log: bool) -> list[str]:
    """All ticks of a scale in the same form, so that they can be compared at a glance."""
    largest = max(map(abs, ticks))
    if is_log or 0.01 <= largest < 1e6 or largest == 0:
        return [number(tick) for tick in ticks]
    power = math.floor(math.log10(largest))
    return ["0" if tick == 0 else f"{tick / 10.0**power:.3g}e{power}" for tick in ticks]


def _steps(first: int, last: int) -> list[int]:
    """Round numbers of steps between the first and the last."""
    every = max(1, round(_nice((last - first) / (_NUM_TICKS - 1))))
    return [step for step in range(-(-first // every) * every, last + 1, every) if step >= first] or [first]


def _nice(step: float) -> float:
    """The next number of 1, 2, 2.5 and 5, times a power of ten, that is no less."""
    if step <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9))
