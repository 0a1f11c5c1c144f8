"""What is bounded in a script finds all the same: behind many that will not do, and after many pushes at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker import Broker
from broker.units import GIB
from broker.values import HostReport
from tests.ledger.test_waiting import ask, granted

Cards = Callable[..., None]
HOSTS = 100


@pytest.mark.parametrize("asked", [
    {"host_memory": "4GiB"}, {"host_memory": "4GiB", "gpus": 2}, {"labels": {"rack": "z"}},
    {"labels": {"rack": "z"}, "gpus": 2},
], ids=str)  # fmt: skip
def test_the_one_host_of_many_that_will_do_is_found(broker: Broker, cards: Cards, asked: dict[str, object]) -> None:
    for number in range(HOSTS):
        last = number == HOSTS - 1
        told = HostReport(memory_bytes=8 * GIB if last else GIB, labels="rack=z" if last else "rack=a")
        cards(f"GPU-{number}a", f"GPU-{number}b", host=f"h{number}", told=told)
    for _ in range(20):  # others are looked at each time
        if ask(broker, "job", "2GiB", **asked) == "granted":
            break
    assert broker.leases()[0].host == f"h{HOSTS - 1}"


def test_more_waiters_than_fit_into_a_note_are_served_after_settling(broker: Broker, cards: Cards) -> None:
    broker.update_config(grace_seconds=1)
    for number in range(80):
        cards(f"GPU-{number}", host=f"h{number}")
    broker.call("hello", "one")
    broker.call("hello", "another")
    for number in range(80):
        assert ask(broker, f"job{number}", "1GiB", host=f"h{number}") == "waiting"
    until = int(broker.redis.hget(broker.keys.ledger, "settling_until") or 0)  # type: ignore[arg-type]
    while broker.reap() < until:
        assert not granted(broker)
    for _ in range(20):
        broker.reap()
    assert len(granted(broker)) == 80


def test_one_who_fits_is_served_behind_many_who_do_not(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", host="h1")
    cards("GPU-b", host="h2")
    cards("GPU-c", "GPU-d", host="h3")
    broker.drain(host="h3")
    holders = [broker.acquire("5.5GiB") for _ in range(2)]
    for number in range(100):
        assert ask(broker, f"gang{number}", "1GiB", gpus=2, tenant=f"t{number % 7}", ttl=30 + number) == "waiting"
    assert ask(broker, "small", "1GiB") == "waiting"
    holders[0].release()
    for _ in range(10):
        broker.reap()
    assert "small" in granted(broker)
