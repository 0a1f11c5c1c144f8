"""The growth benchmark: curves are told apart, and what it measures is what is there."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import growth, memory
from benchmarks.filled import Size
from benchmarks.fit import Kind, fit, straight
from benchmarks.meter import Cost
from benchmarks.operations import BARE, PUBLISH, PUBLISH_LEASES
from benchmarks.weights import Weight, weights
from broker.embedded import EmbeddedServer

NUMBERS = (1, 10, 100, 1000, 10_000)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of this file's own: counts of its commands are reset again and again."""
    with EmbeddedServer() as server:
        yield server.url


def _noisy(costs: list[float], seed: int, share: float = 0.04) -> list[float]:
    chance = random.Random(seed)
    return [cost * chance.uniform(1 - share, 1 + share) for cost in costs]


@pytest.mark.parametrize("seed", range(20))
def test_a_logarithm_is_told_from_a_line_and_from_nothing(seed: int) -> None:
    curves = {
        Kind.LOG: [30 + 2 * math.log2(n) for n in NUMBERS],
        Kind.LINEAR: [30 + 0.01 * n for n in NUMBERS],
        Kind.FLAT: [30.0 for _ in NUMBERS],
    }
    assert {kind: fit(NUMBERS, _noisy(costs, seed)).kind for kind, costs in curves.items()} == {k: k for k in curves}


def test_a_known_curve_gives_its_own_numbers_back() -> None:
    found = fit(NUMBERS, [30 + 2 * math.log2(n) for n in NUMBERS])
    assert found.log.a == pytest.approx(30)
    assert found.per_decade == pytest.approx(2 * math.log2(10))
    assert found.log.r2 == pytest.approx(1)
    assert found.linear.r2 < 0.6
    assert found.better is found.log
    line = fit(NUMBERS, [30 + 0.01 * n for n in NUMBERS])
    assert (line.linear.a, line.linear.b) == pytest.approx((30, 0.01))
    assert line.better is line.linear


def test_a_rise_within_the_noise_is_no_growth() -> None:
    costs = [30.0, 31.0, 33.0, 36.0, 40.0]
    assert fit(NUMBERS, costs, noise=0.5).kind is not Kind.FLAT
    assert fit(NUMBERS, costs, noise=5.0).kind is Kind.FLAT


def test_a_cost_that_falls_does_not_grow() -> None:
    assert fit(NUMBERS, [60.0, 50.0, 40.0, 30.0, 20.0]).kind is Kind.FLAT


def test_two_points_are_no_curve() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        fit((1, 10), (1.0, 2.0))
    assert straight((1, 1), (2, 4)).b == 0  # all at one place: no slope


def _growing(linear: str) -> tuple[growth.Costs, growth.Plan]:
    """Costs in which one operation grows with the number of cards itself."""
    plan = growth.Plan(leases=(0, 1, 10, 100), waiters=(0, 1, 10, 100))
    seen: growth.Costs = {}
    for pools in plan.dimensions.values():
        for size in pools.values():
            rises = {"acquire": 40.0, "status": 5.0, linear: 40 + size.gpus}
            seen[size] = {
                name: growth.Seen([cost] * 3, [cost / 10] * 3, [2 * cost] * 3) for name, cost in rises.items()
            }
    return seen, plan


def test_what_grows_too_fast_is_named() -> None:
    found = growth.curves(*_growing("release"))
    assert [(one.operation, one.grows) for one in found if one.too_fast] == [("release", "cards")]
    goals = growth.goals(found)
    assert [goal.met for goal in goals] == [True, True, False]
    assert goals[-1].why == "release with cards"


def test_what_says_that_it_reads_every_card_may() -> None:
    found = growth.curves(*_growing("status"))
    assert all(goal.met for goal in growth.goals(found))
    assert growth.tables(found, _growing("status")[1])[0].rows[-1][-4] == "n, documented"


def test_an_acquire_that_grows_misses_its_aim() -> None:
    assert [goal.met for goal in growth.goals(growth.curves(*_growing("acquire")))] == [False, False, False]


def test_growth_is_from_the_least_number_that_is_not_none() -> None:
    flat = fit((1, 10, 100), (10.0, 15.0, 20.0))
    curve = growth.Curve("acquire", "leases", [0, 1, 10, 100], [1.0, 10.0, 15.0, 20.0], [1.0] * 4, [1.0] * 4, flat)
    assert curve.growth == 2


def test_costs_are_multiples_of_a_bare_call_each_in_its_own_measure(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Canned:
        def __init__(self, broker: Any, *_: Any) -> None:
            self.meter = SimpleNamespace(broker=broker)

        def turn(self) -> Iterator[tuple[str, Cost]]:
            yield BARE, Cost(2.0, 0.0, 20.0, 5.0)
            yield "acquire", Cost(20.0, 0.0, 50.0, 80.0)

    monkeypatch.setattr(growth, "Operations", Canned)
    monkeypatch.setattr(growth, "fill", lambda *_: None)
    measured = growth.measure(url, growth.Plan(cards=(1,), leases=(), waiters=(), rounds=2))
    seen = measured.costs[Size(1, 0, 0)]["acquire"]
    assert (seen.server, seen.round_trip, seen.cpu_us) == ([10, 10], [2.5, 2.5], [80, 80])
    assert measured.bare_us == 2


def test_every_operation_is_measured_in_every_pool_and_leaves_it_as_it_was(url: str) -> None:
    plan = growth.Plan(cards=(1, 8, 16), leases=(0, 2, 4, 8), waiters=(0, 2, 4, 8), rounds=2, calls=3)
    measured = growth.measure(url, plan)
    seen = measured.costs
    assert set(measured.filling) == set(seen)
    assert measured.bare_us > 0
    names = set(seen[Size(16, 0, 0)])
    assert {"acquire", "renew", "check", "resize", "release", "refused acquire", "queued acquire", "cancel", "explain",
            PUBLISH, PUBLISH_LEASES, "reap", "status", "available"} == names  # fmt: skip
    assert set(seen[Size(1, 0, 0)]) == names - {PUBLISH, PUBLISH_LEASES}
    assert BARE not in names
    for size, costs in seen.items():
        assert all(len(one.server) == 2 and min(one.server) > 0 for one in costs.values()), size
    # The whole picture grows with the cards by what it has to read, at any speed of the machine.
    status = {size.gpus: sum(seen[size]["status"].server) for size in seen if not size.leases + size.waiters}
    assert status[100] > status[1]


@pytest.fixture(scope="module")
def few(url: str) -> dict[str, Weight]:
    """What one thing of each kind weighs, by a few of them."""
    return weights(url, 64)


def test_little_weighs_what_much_does(url: str, few: dict[str, Weight]) -> None:
    for kind, much in weights(url, 1000, ("lease", "waiter", "ended")).items():
        assert 0.6 < few[kind].used / much.used < 1.7, kind
        assert much.own is not None
        assert much.own < 1.1 * much.used, "its own keys are part of what it takes"


def test_a_card_weighs_its_hashes_and_its_samples_more_than_that(few: dict[str, Weight]) -> None:
    assert few["card"].own is not None
    assert few["card"].used > few["card"].own
    assert few["history"].count == 8
    assert few["history"].used > few["card"].used, "200 samples are more than one"
    assert all(one.used > 50 for one in few.values())


def test_the_sum_for_a_large_pool_is_of_what_was_weighed(few: dict[str, Weight]) -> None:
    sums = {thing: (count, mib) for thing, count, mib in memory.planned(few)}
    assert len(sums) == len(few)
    count, mib = sums["card"]
    assert mib == pytest.approx(count * few["card"].used / 2**20)


def test_a_lease_given_back_leaves_nothing(url: str) -> None:
    assert memory.left_behind(url, 20, 1000) < memory.LEFT_MOST


def test_what_leases_do_leave_is_seen(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_forget_ended", lambda _: None)  # their tombstones stay for a minute
    assert memory.left_behind(url, 20, 1000) > memory.LEFT_MOST


def test_a_round_leaves_what_most_rounds_leave() -> None:
    assert memory.a_round([1000, 5000, 5000, 5000]) == 0, "a table grew once"
    assert memory.a_round([9000, 9100, 7000, 7100]) == 100, "a table shrank once, and each round leaks"


def test_bytes_on_the_wire_are_those_of_the_calls(url: str) -> None:
    found = memory.wire(url, 20)
    assert all(sent > 60 and back > 0 for sent, back in found.values()), "every call names a script, pool and lease"
    assert found[memory.SAMPLE][0] > 4 * found["acquire"][0]
