"""Where a card's temperature is going: a straight line through its last samples. Pure: samples in, a trend out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from broker.errors import InvalidRequest

if TYPE_CHECKING:
    from broker.models import Sample
    from broker.thresholds import Thresholds

#: Minutes that a window may have.
MINUTES_LEAST, MINUTES_MOST = 0.1, 1440.0
#: A slope below so many °C a minute is none: cards tell whole degrees.
SLOPE_LEAST = 0.1
#: A slope below so many of its standard errors may be noise.
ERRORS_LEAST = 2.0
#: A line says nothing about what is further away than this.
HORIZON_SECONDS = 3600.0
#: Thresholds of temperature from the coolest up, and how a trend may go.
TEMPERATURES = ("temp_optimal", "temp_normal", "temp_throttle", "temp_critical")
RISING, FALLING, STEADY, UNKNOWN = "rising", "falling", "steady", "unknown"


@dataclass(frozen=True, slots=True)
class Line:
    """The line of least squares through ``points`` readings.

    It passes ``temperature_c`` at ``seconds``, the means of the points. ``stderr_c_per_minute`` is the standard error
    of the slope, ``residual_c`` the standard deviation of the readings from the line.
    """

    points: int
    seconds: float
    temperature_c: float
    slope_c_per_minute: float
    stderr_c_per_minute: float
    residual_c: float

    def at(self, seconds: float) -> float:
        """The line's °C at a time."""
        return self.temperature_c + self.slope_c_per_minute / 60 * (seconds - self.seconds)

    @property
    def bound_c_per_minute(self) -> float:
        """The slope from which on the line counts as rising or falling."""
        return max(SLOPE_LEAST, ERRORS_LEAST * self.stderr_c_per_minute)

    @property
    def direction(self) -> str:
        """``rising``, ``falling`` or ``steady``."""
        if abs(self.slope_c_per_minute) < self.bound_c_per_minute:
            return STEADY
        return RISING if self.slope_c_per_minute > 0 else FALLING


@dataclass(frozen=True, slots=True)
class Trend:
    """Where a GPU's temperature goes, by the ``samples`` of the last ``minutes`` that tell one.

    ``temperatures`` are those readings in °C, oldest first, taken within ``span_seconds``; ``temperature_c`` is the
    last. ``direction`` is ``rising``, ``falling``, ``steady`` or ``unknown``, and ``reason`` why. ``next_threshold`` is
    what the temperature crosses next in that direction, in ``seconds_to_threshold``; those are ``None`` where it never
    will, or not within an hour.
    """

    gpu: str
    minutes: float
    samples: int
    span_seconds: float
    temperatures: tuple[int, ...]
    temperature_c: int | None
    slope_c_per_minute: float | None
    stderr_c_per_minute: float | None
    direction: str
    reason: str
    next_threshold: str | None = None
    threshold_c: int | None = None
    seconds_to_threshold: float | None = None

    def words(self) -> str:
        """The trend as a sentence."""
        if self.temperature_c is None or self.slope_c_per_minute is None:
            return f"{self.gpu}: nobody can tell where its temperature goes: {self.reason}."
        told = f"{self.gpu} is at {self.temperature_c} °C"
        if self.direction == STEADY:
            return f"{told} and steady: {self.reason}."
        verb = "rises" if self.direction == RISING else "falls"
        told += f" and {verb} by {abs(self.slope_c_per_minute):.1f} °C a minute"
        if self.next_threshold is None:
            return f"{told}; no threshold is left in its way."
        target = f"{self.next_threshold}, {self.threshold_c} °C"
        if self.seconds_to_threshold is None:
            return f"{told}; {target}, is more than an hour away."
        return f"{told}; it crosses {target}, in {_time(self.seconds_to_threshold)}."


def fit(points: Sequence[tuple[float, float]]) -> Line | None:
    """The line of least squares through (seconds, °C); values that are not finite are left out.

    ``None`` with fewer than 3 points, without spread in time, or where the numbers are too large for a line.
    """
    known = [(seconds, heat) for seconds, heat in points if math.isfinite(seconds) and math.isfinite(heat)]
    count = len(known)
    if count < 3:
        return None
    try:
        # Around the means: seconds of an epoch, squared, would leave no digits for the temperatures.
        seconds, heat = math.fsum(at for at, _ in known) / count, math.fsum(c for _, c in known) / count
        spread = math.fsum((at - seconds) ** 2 for at, _ in known)
        if spread <= 0:
            return None
        slope = math.fsum((at - seconds) * (c - heat) for at, c in known) / spread
        squares = math.fsum((c - heat - slope * (at - seconds)) ** 2 for at, c in known) / (count - 2)
        line = Line(count, seconds, heat, slope * 60, math.sqrt(squares / spread) * 60, math.sqrt(squares))
    except (OverflowError, ValueError):
        return None
    numbers = (line.slope_c_per_minute, line.stderr_c_per_minute, line.residual_c)
    return line if all(map(math.isfinite, numbers)) else None


def check_minutes(minutes: float) -> float:
    """The window, if it may be one.

    Raises:
        InvalidRequest: it is no number from 0.1 to 1440.
    """
    number = isinstance(minutes, (int, float)) and not isinstance(minutes, bool)
    if not number or not MINUTES_LEAST <= minutes <= MINUTES_MOST:
        raise InvalidRequest("minutes", minutes, f"a number from {MINUTES_LEAST:g} to {MINUTES_MOST:g}")
    return float(minutes)


def trend(
    samples: Sequence[Sample], limits: Thresholds, minutes: float = 5.0, now_ms: int | None = None, *, gpu: str = ""
) -> Trend:
    """The trend of one GPU in the ``minutes`` before ``now_ms``, or before its last sample.

    Without ``gpu`` it is the first sample's. Samples of others, without temperature, or of another time are left out.

    Raises:
        InvalidRequest: ``minutes`` is no number from 0.1 to 1440.
    """
    minutes = check_minutes(minutes)
    gpu = gpu or (samples[0].uuid if samples else "")
    known = sorted(
        (sample.at, sample.temperature_c)
        for sample in samples
        if sample.uuid == gpu and sample.temperature_c is not None
    )  # fmt: skip
    now = now_ms if now_ms is not None else known[-1][0] if known else 0
    known = [(at, heat) for at, heat in known if now - minutes * 60_000 <= at <= now]
    line = fit([((at - now) / 1000, heat) for at, heat in known])
    told = Trend(
        gpu=gpu,
        minutes=minutes,
        samples=len(known),
        span_seconds=(known[-1][0] - known[0][0]) / 1000 if known else 0.0,
        temperatures=tuple(heat for _, heat in known),
        temperature_c=known[-1][1] if known else None,
        slope_c_per_minute=line.slope_c_per_minute if line else None,
        stderr_c_per_minute=line.stderr_c_per_minute if line else None,
        direction=line.direction if line else UNKNOWN,
        reason=_reason(line, len(known), minutes),
    )
    return told if line is None else _with_threshold(told, line, limits, (now - known[-1][0]) / 1000)


def early_warning(
    line: Line | None, temperature_c: float | None, limits: Thresholds, within_seconds: float = 120
) -> str | None:
    """The threshold of the next worse state, if a card at this temperature crosses it within that time.

    ``None`` without line or temperature, for a line that does not rise beyond its noise, and for a card that is
    CRITICAL already: ``temp_critical`` parts no two states.
    """
    if line is None or temperature_c is None or not math.isfinite(temperature_c) or line.direction != RISING:
        return None
    name = _next(temperature_c, RISING, limits, TEMPERATURES[:3])
    if name is None:
        return None
    seconds = (getattr(limits, name) - temperature_c) / line.slope_c_per_minute * 60
    return name if seconds <= within_seconds else None


def _with_threshold(told: Trend, line: Line, limits: Thresholds, age_seconds: float) -> Trend:
    """The trend with what is crossed next: from the last reading on, as that is what the card's state goes by."""
    if told.temperature_c is None or told.direction not in (RISING, FALLING):
        return told
    name = _next(told.temperature_c, told.direction, limits, TEMPERATURES)
    if name is None:
        return told
    target = int(getattr(limits, name))
    seconds = max(0.0, (target - told.temperature_c) / line.slope_c_per_minute * 60 - age_seconds)
    near = seconds if seconds <= HORIZON_SECONDS else None
    return replace(told, next_threshold=name, threshold_c=target, seconds_to_threshold=near)


def _next(heat: float, direction: str, limits: Thresholds, names: Sequence[str]) -> str | None:
    """The threshold that is crossed first; of several of one value the one of the farthest state."""

    def below(name: str) -> bool:
        """Whether the card is on the cooler side: at ``temp_throttle`` itself it still is, at the others no more."""
        limit: int = getattr(limits, name)
        return heat <= limit if name == "temp_throttle" else heat < limit

    if direction == RISING:
        ahead = [name for name in reversed(names) if below(name)]
        return min(ahead, key=lambda name: int(getattr(limits, name)), default=None)
    passed = [name for name in names if not below(name)]
    return max(passed, key=lambda name: int(getattr(limits, name)), default=None)


def _reason(line: Line | None, count: int, minutes: float) -> str:
    if line is None:
        within = f"{count} samples with a temperature in the last {minutes:g} min"
        return f"{within}, it takes 3" if count < 3 else f"{within} give no line"
    slope, bound = abs(line.slope_c_per_minute), line.bound_c_per_minute
    least = "the least that counts" if bound == SLOPE_LEAST else "twice its standard error"
    side = "below" if slope < bound else "at least"
    return f"a slope of {slope:.2f} °C a minute is {side} {least}, {bound:.2f}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
