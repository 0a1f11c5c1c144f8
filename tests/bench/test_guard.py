"""The performance guard: what each operation makes the server do, as counts, and that they do not grow.

Counts are the same on a slow machine and on a busy one, so this does not fail by chance. It fails where an operation
makes the server do more than its budget, and where it does less: then the budget is lowered, so that it stays so.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable

import pytest

from benchmarks.counts import Counted, Counter
from benchmarks.filled import Size, cards, fill
from broker import Broker, Lease, calls
from broker.embedded import EmbeddedServer
from broker.publish import Publisher
from broker.units import MIB
from tests.bench import budget
from tests.bench.operations import HOUR_MS, OPERATIONS, counted

BUDGET = budget.read()


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_keeps_to_its_budget(redis_url: str, name: str) -> None:
    found = budget.entry(name, counted(redis_url, OPERATIONS[name]))
    wrong = budget.wrongs(name, found, BUDGET.get(name))
    assert not wrong, "\n".join(wrong)


def test_every_budget_is_of_an_operation_that_is_counted() -> None:
    assert set(BUDGET) == set(OPERATIONS)


def test_more_than_the_budget_fails_and_names_what_is_new() -> None:
    now = Counted(1, ("release",), ("HMGET lease:", "HMGET tenant:"), 0)
    told = budget.wrongs("release", budget.entry("release", now), _entry("HMGET lease:"))
    assert told == ["release makes 2 calls inside scripts, budget 1", "  scripts: new HMGET tenant:; gone none"]


def test_less_than_the_budget_fails_and_says_how_to_lower_it() -> None:
    now = Counted(1, ("release",), ("HMGET lease:",), 0)
    told = budget.wrongs("release", budget.entry("release", now), _entry("HMGET lease:", "DEL lease:", "DEL lease:"))
    assert "fewer than its budget of 3" in told[0]
    assert budget.REWRITE in told[0]
    assert told[1] == "  scripts: new none; gone DEL lease: × 2"


def test_what_was_counted_can_be_written_and_read_again() -> None:
    found = {"a, b": budget.entry("acquire", Counted(1, ("acquire",), tuple(f"HMGET {i}" for i in range(99)), 1234))}
    assert tomllib.loads(budget.written(found)) == found


def _entry(*scripts: str) -> budget.Entry:
    return budget.entry("release", Counted(1, ("release",), scripts, 0))


# -- growth ------------------------------------------------------------------------------------------------------------


def _life(url: str, size: Size) -> dict[str, int]:
    """Calls inside the scripts of a lease's life, and of a sample, in a pool of that size."""
    with Broker.from_url(url) as broker, Counter(url, broker.keys) as counter:
        broker.redis.flushall()
        fill(broker, size)
        broker.acquire(MIB).release()
        agent, reports = Publisher(broker, "own"), cards("own", 1)
        agent.publish(reports, HOUR_MS)
        refused = calls.ask("70GiB", lease_id="refused", gpu="GPU-crowded-0")
        held: list[Lease] = []
        acts: dict[str, Callable[[], object]] = {
            "acquire": lambda: held.append(broker.acquire(MIB, lease_id="one", ttl=86_400)),
            "renew": lambda: held[0].renew(),
            "check": lambda: broker.check("one", held[0].token),
            "release": lambda: held[0].release(),
            "refused": lambda: broker.call("acquire", *refused.asking(False)),
            "queued": lambda: broker.call("acquire", *refused.asking(True)),
            "cancel": lambda: broker.cancel("refused"),
            "publish": lambda: agent.publish(reports, HOUR_MS),
        }
        return {name: len(counter.count(act).inside) for name, act in acts.items()}


@pytest.fixture(scope="module")
def small(redis_server: EmbeddedServer) -> dict[str, int]:
    """The counts of a pool of one card."""
    return _life(redis_server.url, Size(1, 0, 0))


def test_a_thousand_cards_make_no_call_more_than_one(redis_url: str, small: dict[str, int]) -> None:
    many = _life(redis_url, Size(1000, 0, 0))
    assert many == _life(redis_url, Size(8, 0, 0))  # one host
    # A release notes that on a host of several cards there may be room for wide requests.
    assert {**many, "release": many["release"] - 1} == small


def test_a_thousand_leases_make_no_call_more(redis_url: str, small: dict[str, int]) -> None:
    assert _life(redis_url, Size(1, 1000, 0)) == small


def test_a_thousand_waiters_make_but_a_few_calls_more(redis_url: str, small: dict[str, int]) -> None:
    few, many = _life(redis_url, Size(1, 0, 10)), _life(redis_url, Size(1, 0, 1000))
    assert many == few
    assert all(few[name] <= small[name] + 20 for name in small), (few, small)
