"""Temperature and memory → state: the table, and that bettering waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.state import Standing, judge, memory_band, reason, temperature_band, worse
from broker.thresholds import Thresholds
from broker.values import State

LIMITS = Thresholds()
OPT, NOR, THR, CRI, UNA = State
BANDS = st.sampled_from([OPT, NOR, THR, CRI])


@pytest.mark.parametrize(("celsius", "state"), [
    (-5, OPT), (64, OPT), (64.9, OPT), (65, NOR), (74.9, NOR), (75, THR), (85, THR), (85.1, CRI), (86, CRI), (120, CRI),
])  # fmt: skip
def test_temperature_bands(celsius: float, state: State) -> None:
    assert temperature_band(celsius, LIMITS) is state


@pytest.mark.parametrize(("percent", "state"), [
    (0, OPT), (69.9, OPT), (70, NOR), (84.9, NOR), (85, THR), (95, THR), (95.1, CRI), (100, CRI),
])  # fmt: skip
def test_memory_bands(percent: float, state: State) -> None:
    assert memory_band(percent, LIMITS) is state


def test_the_worse_counts() -> None:
    assert worse(OPT, THR, NOR) is THR
    assert worse(CRI, UNA) is UNA


@given(st.floats(-20, 150), st.floats(-20, 150))
def test_hotter_is_never_better(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert temperature_band(low, LIMITS).rank <= temperature_band(high, LIMITS).rank


def after(*readings: tuple[float, State]) -> Standing:
    standing = None
    for now, band in readings:
        standing = judge(standing, band, LIMITS, now)
    assert standing is not None
    return standing


def test_worsening_is_immediate() -> None:
    assert after((0, OPT), (1, CRI)).state is CRI


def test_bettering_waits_for_the_cooldown_in_the_better_band() -> None:
    assert after((0, THR), (3, OPT), (32.9, OPT)).state is THR
    assert after((0, THR), (3, OPT), (33, OPT)).state is OPT


def test_a_relapse_starts_the_wait_anew() -> None:
    assert after((0, THR), (3, OPT), (20, THR), (21, OPT), (40, OPT)).state is THR
    assert after((0, THR), (3, OPT), (20, THR), (21, OPT), (51, OPT)).state is OPT


def test_it_betters_to_the_worst_band_of_the_wait() -> None:
    assert after((0, THR), (3, OPT), (10, NOR), (20, OPT), (33, OPT)).state is NOR


def test_leaving_critical_also_waits_for_its_pause() -> None:
    assert after((0, CRI), (1, OPT), (31, OPT), (59.9, OPT)).state is CRI
    assert after((0, CRI), (1, OPT), (31, OPT), (60, OPT)).state is OPT


def test_an_unavailable_card_has_no_past() -> None:
    assert after((0, CRI), (1, UNA), (2, OPT)).state is OPT


@given(st.lists(st.tuples(st.floats(0.1, 20), BANDS), min_size=1, max_size=60))
def test_a_state_is_never_better_than_the_reading_was_for_a_cooldown(steps: list[tuple[float, State]]) -> None:
    now, standing, seen = 0.0, None, []
    for wait, band in steps:
        now += wait
        standing = judge(standing, band, LIMITS, now)
        seen.append((now, band))
        assert standing.state.rank >= band.rank
        recent = [b.rank for at, b in seen if now - at < LIMITS.throttle_cooldown_seconds]
        assert standing.state.rank >= max(recent)


def test_reasons_are_words_and_numbers() -> None:
    assert reason(Standing(THR, 0), THR, 78, 40, LIMITS) == "78 °C is THROTTLED"
    assert reason(Standing(THR, 0), THR, 40, 91, LIMITS) == "91 % of memory used is THROTTLED"
    assert reason(Standing(OPT, 0), OPT, 40, 10, LIMITS) == ""
    assert "until" in reason(Standing(THR, 0), OPT, 40, 10, LIMITS)
