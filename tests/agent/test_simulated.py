"""Simulated cards behave as cards do."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sources.simulated import C_PER_W, C_PER_W_HOT, Card, SimulatedSource, Spec, parse_spec, step
from broker import InvalidRequest, State
from broker.units import GIB
from broker.values import HeldLease

SPEC = parse_spec("2x6GiB,tau=10")
LEASES = st.lists(st.integers(1, 6 * GIB), max_size=4).map(
    lambda sizes: [HeldLease(f"l{i}", size, 100 + i, "active", 0) for i, size in enumerate(sizes)]
)


def settled(held: list[HeldLease], speed: float, c_per_w: float) -> Card:
    card = Card(25.0, 15.0, 0.0, {})
    return step(step(card, held, speed, 1000, SPEC, c_per_w), held, speed, 1000, SPEC, c_per_w)


def test_specs_are_read() -> None:
    assert parse_spec("2x6GiB") == Spec(2, "Simulated 6.0 GiB", 6 * GIB)
    assert parse_spec("1xA100-80GB") == Spec(1, "A100", 80 * 10**9)
    assert parse_spec("4xRTX 3060-12GiB,ambient=30,tau=2.5,hot=3") == Spec(4, "RTX 3060", 12 * GIB, 30.0, 2.5, 3)


@pytest.mark.parametrize("bad", [
    "", "6GiB", "0x6GiB", "65x6GiB", "2x", "2xbig", "2x1MiB", "2x6GiB,", "2x6GiB,tau", "2x6GiB,tau=0", "2x6GiB,tau=nan",
    "2x6GiB,hot=2", "2x6GiB,hot=0.5", "2x6GiB,colour=red", "-1x6GiB", "2x6GiB;rm",
])  # fmt: skip
def test_what_is_no_spec_is_refused_by_name(bad: str) -> None:
    with pytest.raises(InvalidRequest, match="--simulate") as refused:
        parse_spec(bad)
    assert str(refused.value.value) in bad
    assert refused.value.allowed


@pytest.mark.parametrize(("bad", "field", "value", "allowed"), [
    ("2x6GiB,tau=0", "--simulate tau", "0", "from 0.1 to 3600"),
    ("2x6GiB,ambient=-1", "--simulate ambient", "-1", "from 0 to 60"),
    ("2x6GiB,hot=2", "--simulate hot", "2", "0 to 1"),
    ("2x1MiB", "--simulate", "2x1MiB", "at least 512MiB"),
])  # fmt: skip
def test_a_refusal_says_what_is_allowed(bad: str, field: str, value: str, allowed: str) -> None:
    with pytest.raises(InvalidRequest, match=allowed) as refused:
        parse_spec(bad)
    assert (refused.value.field, refused.value.value) == (field, value)


@given(LEASES, st.floats(0, 1), st.floats(0, 3600), st.floats(20, 100))
def test_a_card_stays_within_physics(held: list[HeldLease], speed: float, seconds: float, start: float) -> None:
    card = step(Card(start, 15.0, 0.0, {}), held, speed, seconds, SPEC, C_PER_W_HOT)
    assert 0 <= card.load <= 1
    least, most = min(start, 25), max(start, 25 + C_PER_W_HOT * 160)
    assert least - 1e-9 <= card.temperature_c <= most + 1e-9  # as exact as floats are
    assert all(0 <= card.filled[lease.id] <= lease.memory_bytes for lease in held)


@given(LEASES, st.floats(0, 1), st.lists(st.floats(0.1, 60), min_size=2, max_size=20), st.floats(20, 100))
def test_heat_goes_straight_to_where_its_load_takes_it(
    held: list[HeldLease], speed: float, waits: list[float], start: float
) -> None:
    goal = settled(held, speed, C_PER_W).temperature_c
    card, distances = Card(start, 15.0, 0.0, {}), [abs(start - goal)]
    for seconds in waits:
        card = step(card, held, speed, seconds, SPEC, C_PER_W)
        distances.append(abs(card.temperature_c - goal))
        assert (card.temperature_c - goal) * (start - goal) >= -1e-6  # never beyond it
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(distances))


@given(st.integers(0, 4), st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 60))
def test_more_leases_and_more_speed_are_never_cooler(count: int, one: float, other: float, seconds: float) -> None:
    held = [HeldLease(f"l{i}", GIB, None, "active", 0) for i in range(count + 1)]
    slow, fast = sorted((one, other))
    start = Card(40, 15, 0, {})
    fewer, more = (step(start, leases, fast, seconds, SPEC, C_PER_W) for leases in (held[:-1], held))
    slower = step(start, held, slow, seconds, SPEC, C_PER_W)
    assert fewer.temperature_c <= more.temperature_c
    assert slower.temperature_c <= more.temperature_c
    assert (fewer.power_w, slower.power_w) <= (more.power_w, more.power_w)


@given(st.floats(30, 100), st.floats(1, 60))
def test_an_idle_card_cools(start: float, seconds: float) -> None:
    assert step(Card(start, 160, 1, {}), [], 1.0, seconds, SPEC, C_PER_W).temperature_c < start


@given(LEASES, st.lists(st.floats(0.01, 5), min_size=1, max_size=20))
def test_a_leases_memory_only_grows_to_its_bytes_and_goes_with_it(held: list[HeldLease], waits: list[float]) -> None:
    card, before = Card(30, 15, 0, {}), {lease.id: 0.0 for lease in held}
    for seconds in waits:
        card = step(card, held, 1.0, seconds, SPEC, C_PER_W)
        assert all(before[lease.id] <= card.filled[lease.id] <= lease.memory_bytes for lease in held)
        before = dict(card.filled)
    assert step(card, [], 1.0, 0.1, SPEC, C_PER_W).filled == {}


@given(st.integers(1, 3), st.floats(0.1, 30))
def test_two_short_steps_are_as_one_long_one(count: int, seconds: float) -> None:
    held = [HeldLease(f"l{i}", GIB, None, "active", 0) for i in range(count)]
    once = step(Card(30, 15, 0, {}), held, 1.0, 2 * seconds, SPEC, C_PER_W)
    twice = step(step(Card(30, 15, 0, {}), held, 1.0, seconds, SPEC, C_PER_W), held, 1.0, seconds, SPEC, C_PER_W)
    assert once.temperature_c == pytest.approx(twice.temperature_c)


def test_only_a_badly_cooled_card_throttles_and_half_speed_cools_it() -> None:
    held = [HeldLease("l", 4 * GIB, None, "active", 0)]
    assert settled(held, 1.0, C_PER_W).temperature_c < 75
    assert 75 < settled(held, 0.8, C_PER_W_HOT).temperature_c <= 85
    assert settled(held, 0.5, C_PER_W_HOT).temperature_c < 75
    assert settled([], 1.0, C_PER_W_HOT).temperature_c < 40


def test_a_restart_keeps_the_cards_identity_and_hosts_differ() -> None:
    def uuids(host: str) -> list[str]:
        return [reading.uuid for reading in SimulatedSource(host, SPEC).read(lambda uuids: {})]

    assert uuids("a") == uuids("a")
    assert not set(uuids("a")) & set(uuids("b"))


def test_jobs_obey_what_was_published() -> None:
    now = [0.0]
    source = SimulatedSource("a", SPEC, clock=lambda: now[0])
    busy = HeldLease("l", GIB, None, "active", 0)
    uuid = source.read(lambda uuids: {})[0].uuid
    source.published({uuid: State.CRITICAL})
    now[0] += 100
    assert source.read(lambda uuids: {uuid: [busy]})[0].utilization_percent == 0
    source.published({uuid: State.OPTIMAL})
    now[0] += 100
    assert source.read(lambda uuids: {uuid: [busy]})[0].utilization_percent == 90
