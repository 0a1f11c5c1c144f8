"""The line through temperatures, where it goes, and when that is worth a warning."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.cli.trend import sparkline
from broker.errors import InvalidRequest
from broker.models import Sample
from broker.state import temperature_band
from broker.thresholds import Thresholds
from broker.trend import TEMPERATURES, Line, early_warning, fit, trend
from broker.values import State

LIMITS = Thresholds()
NOW = 1_700_000_000_000
SLOPES = st.floats(-60, 60)


def samples(*heats: int | None, step_ms: int = 3000, until: int = NOW, gpu: str = "GPU-a") -> list[Sample]:
    """One sample every ``step_ms`` until ``until``."""
    first = until - step_ms * (len(heats) - 1)
    return [
        Sample(
            stream_id=f"{i}-0", uuid=gpu, host="h1", at=first + i * step_ms, temperature_c=heat,
            state=State.UNAVAILABLE if heat is None else temperature_band(heat, LIMITS),
        )
        for i, heat in enumerate(heats)
    ]  # fmt: skip


def line(slope: float, stderr: float = 0.0) -> Line:
    return Line(10, 0.0, 70.0, slope, stderr, 0.0)


# -- the line ----------------------------------------------------------------------------------------------------------


@given(SLOPES, st.floats(0, 120), st.lists(st.integers(0, 3600), min_size=3, max_size=50, unique=True))
def test_an_exact_line_is_found_again(slope: float, start: float, seconds: list[int]) -> None:
    found = fit([(at, start + slope / 60 * at) for at in seconds])
    assert found is not None
    assert found.slope_c_per_minute == pytest.approx(slope, abs=1e-6)
    assert found.residual_c == pytest.approx(0, abs=1e-6)
    assert found.stderr_c_per_minute == pytest.approx(0, abs=1e-5)
    assert found.at(1000) == pytest.approx(start + slope / 60 * 1000, abs=1e-4)


POINTS = st.lists(st.tuples(st.integers(0, 3600), st.integers(0, 150)), max_size=40)


@given(POINTS, st.integers(-(10**9), 2 * 10**9))
def test_a_line_does_not_depend_on_when_time_began(points: list[tuple[int, int]], shift: int) -> None:
    here, there = fit(points), fit([(at + shift, heat) for at, heat in points])
    assert (here is None) == (there is None)
    if here is not None and there is not None:
        assert there.slope_c_per_minute == pytest.approx(here.slope_c_per_minute, rel=1e-4, abs=1e-4)
        assert there.residual_c == pytest.approx(here.residual_c, rel=1e-4, abs=1e-4)


@given(SLOPES, st.floats(0.01, 3), st.integers(20, 200), st.randoms(use_true_random=False))
def test_noise_moves_the_slope_no_further_than_it_can(
    slope: float, noise: float, count: int, randomly: random.Random
) -> None:
    points = [(3.0 * i, 60 + slope / 20 * i + randomly.uniform(-noise, noise)) for i in range(count)]
    found = fit(points)
    assert found is not None
    assert found.residual_c <= noise * math.sqrt(count / (count - 2)) * (1 + 1e-6)
    mean = 3.0 * (count - 1) / 2
    far = [3.0 * i - mean for i in range(count)]
    worst = noise * sum(map(abs, far)) / sum(x * x for x in far) * 60
    assert abs(found.slope_c_per_minute - slope) <= worst * (1 + 1e-6) + 1e-6


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=20))
def test_whatever_comes_in_no_number_comes_out_that_is_none(points: list[tuple[float, float]]) -> None:
    found = fit(points)
    if found is not None:
        numbers = (found.seconds, found.temperature_c, found.slope_c_per_minute, found.stderr_c_per_minute)
        assert all(map(math.isfinite, (*numbers, found.residual_c)))
        assert found.points >= 3


@pytest.mark.parametrize(
    "points",
    [
        [], [(0, 1), (1, 2)], [(5, 1), (5, 2), (5, 3)], [(0, 1), (1, 2), (2, math.nan)],
        [(0, 1), (1, 2), (math.inf, 3)], [(1e308, 1), (-1e308, 1), (1e308, 2)],
        [(0, 1e308), (1, -1e308), (2, 1e308), (3, 1e308)],
        [(0, 0), (5e-324, 9e307), (1e-323, 0)],
    ],
)  # fmt: skip
def test_some_points_have_no_line(points: Sequence[tuple[float, float]]) -> None:
    assert fit(points) is None


# -- the trend ---------------------------------------------------------------------------------------------------------


def test_a_card_that_warms_up_tells_when_it_gets_to_the_next_threshold() -> None:
    told = trend(samples(60, 61, 62, 63, 64, step_ms=30_000), LIMITS, now_ms=NOW)
    assert (told.gpu, told.samples, told.temperature_c, told.direction) == ("GPU-a", 5, 64, "rising")
    assert told.slope_c_per_minute == pytest.approx(2.0)
    assert (told.next_threshold, told.threshold_c) == ("temp_optimal", 65)
    assert told.seconds_to_threshold == pytest.approx(30.0)
    assert (told.span_seconds, told.temperatures) == (120.0, (60, 61, 62, 63, 64))
    assert told.words() == "GPU-a is at 64 °C and rises by 2.0 °C a minute; it crosses temp_optimal, 65 °C, in 30 s."


def test_the_time_since_the_last_sample_has_passed_already() -> None:
    warming = samples(60, 61, 62, 63, 64, step_ms=30_000)
    assert trend(warming, LIMITS, now_ms=NOW + 20_000).seconds_to_threshold == pytest.approx(10.0)
    assert trend(warming, LIMITS, now_ms=NOW + 90_000).seconds_to_threshold == 0.0


def test_a_card_that_cools_down_crosses_the_thresholds_from_above() -> None:
    told = trend(samples(80, 79, 78, 77, 76, step_ms=60_000), LIMITS)
    assert (told.direction, told.next_threshold, told.threshold_c) == ("falling", "temp_normal", 75)
    assert told.seconds_to_threshold == pytest.approx(60.0)
    assert "falls by 1.0 °C" in told.words()


@pytest.mark.parametrize(("heats", "name"), [
    ((83, 84, 85), "temp_throttle"), ((84, 85, 86), "temp_critical"), ((88, 89, 90), None),
    ((73, 74, 75), "temp_throttle"), ((77, 76, 75), "temp_normal"), ((76, 75, 74), "temp_optimal"),
    ((87, 86, 85), "temp_normal"), ((66, 65, 64), None),
    ((88, 87, 86), "temp_throttle"),
])  # fmt: skip
def test_at_a_threshold_it_counts_which_state_the_card_is_in(heats: tuple[int, ...], name: str | None) -> None:
    told = trend(samples(*heats, step_ms=30_000), LIMITS)
    assert told.next_threshold == name
    if name is None:
        assert "no threshold is left" in told.words()


def test_a_threshold_of_the_far_future_is_named_without_a_time() -> None:
    told = trend(samples(30, 31, 32, step_ms=240_000), LIMITS, minutes=10)
    assert (told.next_threshold, told.seconds_to_threshold) == ("temp_optimal", None)
    assert "more than an hour away" in told.words()


def test_a_slope_that_may_be_noise_is_steady_and_says_so() -> None:
    flat = trend(samples(*[60] * 50), LIMITS)
    assert (flat.direction, flat.slope_c_per_minute, flat.next_threshold) == ("steady", 0.0, None)
    assert "the least that counts, 0.10" in flat.reason
    shaken = trend(samples(60, 70, 60, 70, 60, 71), LIMITS)
    assert shaken.direction == "steady"
    assert "twice its standard error" in shaken.reason
    assert "steady" in shaken.words()


def test_gaps_old_samples_and_other_cards_are_left_out() -> None:
    kept = samples(60, None, None, 63, 64, step_ms=30_000)
    told = trend([*samples(20, 90, 20, until=NOW - 300_001), *kept, *samples(99, 99, gpu="GPU-b")], LIMITS)
    assert told.temperatures == (60, 63, 64)
    assert told.slope_c_per_minute == pytest.approx(2.0)
    assert trend(kept, LIMITS, now_ms=NOW - 1).temperatures == (60, 63)


@pytest.mark.parametrize("found", [[], samples(60, 61), samples(None, None, None), samples(60, 61, 62, step_ms=0)])
def test_too_little_is_unknown_and_says_so(found: list[Sample]) -> None:
    told = trend(found, LIMITS, gpu="GPU-a")
    assert (told.direction, told.slope_c_per_minute, told.seconds_to_threshold) == ("unknown", None, None)
    assert "samples with a temperature in the last 5 min" in told.words()


@pytest.mark.parametrize("minutes", [0, 0.09, 1441, -5, math.nan, math.inf, True, "5", None])
def test_a_window_that_cannot_be_is_refused(minutes: float) -> None:
    with pytest.raises(InvalidRequest, match="minutes"):
        trend([], LIMITS, minutes)


@given(st.lists(st.none() | st.integers(0, 150), max_size=60), st.integers(0, 60_000), st.floats(0.1, 1440))
def test_a_trend_never_holds_a_number_that_is_none(heats: list[int | None], step_ms: int, minutes: float) -> None:
    told = trend(samples(*heats, step_ms=step_ms), LIMITS, minutes, NOW)
    numbers = (told.slope_c_per_minute, told.stderr_c_per_minute, told.seconds_to_threshold, told.span_seconds)
    assert all(number is None or math.isfinite(number) for number in numbers)
    if told.seconds_to_threshold is not None:
        assert 0 <= told.seconds_to_threshold <= 3600
        assert told.next_threshold in TEMPERATURES
    assert told.words()
    assert told.reason


# -- the warning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("heat", "slope", "name"), [
    (64, 1.0, "temp_optimal"), (74, 1.0, "temp_normal"), (84, 1.0, "temp_throttle"), (85, 1.0, "temp_throttle"),
    (70, 1.0, None), (86, 5.0, None), (95, 5.0, None), (74, -1.0, None), (74, 0.05, None), (73, 1.0, "temp_normal"),
])  # fmt: skip
def test_a_warning_names_the_next_worse_state_within_its_time(heat: float, slope: float, name: str | None) -> None:
    assert early_warning(line(slope), heat, LIMITS) == name


def test_there_is_no_warning_without_knowledge_or_for_noise() -> None:
    assert early_warning(None, 74, LIMITS) is None
    assert early_warning(line(1.0), None, LIMITS) is None
    assert early_warning(line(1.0), math.nan, LIMITS) is None
    assert early_warning(line(1.0, stderr=0.6), 74, LIMITS) is None
    assert early_warning(line(1.0), 74, LIMITS, within_seconds=59) is None


@given(st.floats(0, 130), SLOPES, st.floats(1, 3600))
def test_what_a_warning_names_is_worse_and_near(heat: float, slope: float, within: float) -> None:
    name = early_warning(line(slope), heat, LIMITS, within)
    if name is not None:
        beyond = getattr(LIMITS, name) + 1e-6
        assert temperature_band(beyond, LIMITS).rank == temperature_band(heat, LIMITS).rank + 1
        assert heat + slope / 60 * within >= getattr(LIMITS, name) - 1e-6


def test_thresholds_of_one_value_are_crossed_into_the_farthest_state() -> None:
    limits = Thresholds(temp_optimal=75, temp_normal=75)
    assert early_warning(line(1.0), 74, limits) == "temp_normal"
    assert trend(samples(78, 77, 76, step_ms=60_000), limits).next_threshold == "temp_optimal"


# -- the picture -------------------------------------------------------------------------------------------------------


def test_a_sparkline_goes_from_the_least_to_the_greatest() -> None:
    assert sparkline([60, 61, 62, 63, 64, 65, 66, 67]) == "▁▂▃▄▅▆▇█"
    assert sparkline([5, 5, 5]) == "▁▁▁"
    assert sparkline([]) == ""


@given(st.lists(st.integers(0, 150), min_size=1, max_size=500))
def test_a_sparkline_has_a_width(values: list[int]) -> None:
    assert len(sparkline(values)) == min(60, len(values))
