"""Temperature and memory → state: the table, and that bettering waits."""

from __future__ import annotations

from itertools import accumulate

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


@given(st.floats(0, 100), st.floats(0, 100))
def test_fuller_is_never_better(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert memory_band(low, LIMITS).rank <= memory_band(high, LIMITS).rank


def test_ranks_ascend_and_speeds_fall() -> None:
    assert [state.rank for state in State] == [0, 1, 2, 3, 4]
    assert [state.speed for state in State] == [1.0, 0.8, 0.5, 0.0, 0.0]


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


@given(st.lists(st.tuples(st.floats(0.1, 20), BANDS), min_size=1, max_size=60))
def test_critical_lasts_its_pause_whatever_is_read(steps: list[tuple[float, State]]) -> None:
    standing, began = judge(None, CRI, LIMITS, 0.0), 0.0
    for now, (_, band) in zip(accumulate(wait for wait, _ in steps), steps, strict=True):
        before, standing = standing, judge(standing, band, LIMITS, now)
        if before.state is not CRI and standing.state is CRI:
            began = now
        if before.state is CRI and standing.state is not CRI:
            assert now - began >= LIMITS.critical_pause_seconds


@given(st.lists(BANDS, min_size=1, max_size=30), st.sampled_from([*State]))
def test_a_card_that_stays_in_a_band_gets_there(past: list[State], band: State) -> None:
    standing, now = None, 0.0
    for now, seen in enumerate([*past, *([band] * 91)]):  # a second each: the longer pause, the cooldown, and the edge
        standing = judge(standing, seen, LIMITS, float(now))
    assert standing is not None
    assert standing.state is band


def test_reasons_are_words_and_numbers() -> None:
    assert reason(Standing(THR, 0), THR, 78, 40, LIMITS) == "78 °C is THROTTLED"
    assert reason(Standing(THR, 0), THR, 40, 91, LIMITS) == "91 % of memory used is THROTTLED"
    assert reason(Standing(OPT, 0), OPT, 40, 10, LIMITS) == ""
    assert "until" in reason(Standing(THR, 0), OPT, 40, 10, LIMITS)
