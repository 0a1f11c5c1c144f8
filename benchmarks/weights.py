"""What one thing of each kind takes in a server's memory. See ``benchmarks/memory.py`` for the method."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.filled import CARDS_OF_A_HOST, CROWDED, FULL, HOUR_MS, add_leases, add_waiters, cards
from broker import Broker
from broker.publish import Publisher
from broker.units import GIB, MIB

#: Samples that are kept of each card, as a pool is set by default.
HISTORY = 200
#: Functions of which a pool learns at most.
FUNCTIONS_MOST = 1000
#: Memory is at rest when so many readings, each after a turn or two of the server's clock, are alike.
_HZ, _ALIKE, _BETWEEN_SECONDS, _ABOUT, _SETTLE_SECONDS = 100, 4, 0.025, 512, 5.0


@dataclass(frozen=True, slots=True)
class Weight:
    """What one thing of a kind takes."""

    thing: str
    count: int
    #: Bytes of ``used_memory`` for each.
    used: float
    #: ``MEMORY USAGE`` of the keys that are its own, ``None`` where it has none.
    own: float | None


@contextmanager
def pool(url: str, name: str) -> Iterator[Broker]:
    """A pool with a short journal, on a server with nothing else in it."""
    with Broker.from_url(url, pool=name) as broker:
        broker.redis.config_set("hz", _HZ)
        broker.redis.execute_command("FLUSHALL", "SYNC")  # type: ignore[no-untyped-call]
        broker.update_config(monitor_interval=3600, waiters_max=100_000, waiter_seconds=3600, events_max=100)
        yield broker


def used(broker: Broker) -> int:
    """Bytes of memory in use, once nothing changes any more: buffers that a pipeline filled are gone with its
    connection, tables are moved, what was deleted is freed."""
    broker.redis.connection_pool.disconnect()
    deadline, seen = time.monotonic() + _SETTLE_SECONDS, list[int]()
    while len(seen) < _ALIKE or max(seen[-_ALIKE:]) - min(seen[-_ALIKE:]) > _ABOUT:
        told: dict[str, Any] = broker.redis.info("memory")
        seen.append(int(told["used_memory"]) - int(told["mem_clients_normal"]))
        if time.monotonic() > deadline:
            break
        time.sleep(_BETWEEN_SECONDS)
    return seen[-1]


def weigh(
    broker: Broker, thing: str, make: Callable[[str, int], int], own: Callable[[str], list[str]]
) -> Callable[[int], Weight]:
    """How to weigh so many of a thing.

    ``make``: makes so many under a name, and says how many it made; ``own``: the keys of the first of that name.
    """

    def weighed(count: int) -> Weight:
        make("few", max(CARDS_OF_A_HOST, min(count, 200)))
        before = used(broker)
        made = make("more", count)
        each = (used(broker) - before) / made
        keys = own("more")
        return Weight(thing, made, each, sum(_size(broker, key) for key in keys) if keys else None)

    return weighed


def _size(broker: Broker, key: str) -> int:
    """``MEMORY USAGE``, every field counted; 0 if there is no such key."""
    return int(broker.redis.memory_usage(key, samples=0) or 0)


def of_cards(broker: Broker) -> Callable[[int], Weight]:
    """A card: its hash, what its hardware says, its share of its host and of the indexes, one sample."""

    def make(name: str, count: int) -> int:
        for host in range(hosts := max(1, count // CARDS_OF_A_HOST)):
            publish(broker, f"{name}-{host}")
        return hosts * CARDS_OF_A_HOST

    keys = broker.keys
    own = lambda name: [keys.gpu(f"GPU-{name}-0-0"), keys.hardware(f"GPU-{name}-0-0")]  # noqa: E731
    return weigh(broker, "card", make, own)


def publish(broker: Broker, host: str, times: int = 1) -> None:
    """So many samples of a host's cards, which say all that they can."""
    agent, reports = Publisher(broker, host), cards(host, CARDS_OF_A_HOST, talkative=True)
    for _ in range(times):
        agent.publish(reports, HOUR_MS)


def of_histories(broker: Broker) -> Callable[[int], Weight]:
    """A card's samples, as many as are kept: of an eighth of the cards, since each takes 200 samples."""
    names = list[str]()

    def make(name: str, count: int) -> int:
        names[:] = [f"{name}-{host}" for host in range(max(1, count // CARDS_OF_A_HOST // 8))]
        for host in names:
            publish(broker, host, HISTORY)
        return len(names) * CARDS_OF_A_HOST

    def weighed(count: int) -> Weight:
        for host in range(max(1, count // CARDS_OF_A_HOST // 8)):
            for name in ("few", "more"):
                publish(broker, f"{name}-{host}")
        before = used(broker)
        made = make("more", count)
        own = sum(_size(broker, broker.keys.metrics(host)) for host in names) / made
        return Weight(f"{HISTORY} samples of a card", made, (used(broker) - before) / made, own)

    return weighed


def of_leases(broker: Broker) -> Callable[[int], Weight]:
    """A lease of one card."""
    for host in range(13):
        publish(broker, f"host-{host}")

    def make(name: str, count: int) -> int:
        add_leases(broker, count, name)
        return count

    return weigh(broker, "lease", make, lambda name: [broker.keys.lease(f"{name}-0")])


def of_waiters(broker: Broker) -> Callable[[int], Weight]:
    """A request that waits."""
    publish(broker, CROWDED)
    broker.acquire(FULL, gpu=f"GPU-{CROWDED}-0", ttl=86_400)

    def make(name: str, count: int) -> int:
        add_waiters(broker, count, name)
        return count

    return weigh(broker, "waiter", make, lambda name: [broker.keys.waiter(f"{name}-0")])


def of_tombstones(broker: Broker) -> Callable[[int], Weight]:
    """What is kept for a minute of a lease that ended."""
    publish(broker, "host-0")

    def make(name: str, count: int) -> int:
        for at in range(count):
            broker.acquire(MIB, lease_id=f"{name}-{at}").release()
        return count

    return weigh(broker, "ended lease", make, lambda name: [broker.keys.ended(f"{name}-0")])


def of_journal(broker: Broker) -> Callable[[int], Weight]:
    """An entry of the journal, as leases write it that are taken and given back."""
    publish(broker, "host-0")
    broker.update_config(events_max=1_000_000)

    def make(name: str, count: int) -> int:
        before = broker.redis.xlen(broker.keys.events)
        for _ in range(count // 2):
            broker.acquire(MIB, lease_id="one-and-the-same").release()
        return int(broker.redis.xlen(broker.keys.events) - before)

    def weighed(count: int) -> Weight:
        found = weigh(broker, "entry of the journal", make, lambda _: [])(count)
        entries = broker.redis.xlen(broker.keys.events)
        return Weight(found.thing, found.count, found.used, _size(broker, broker.keys.events) / entries)

    return weighed


def of_tenants(broker: Broker) -> Callable[[int], Weight]:
    """A tenant with a quota that has held a lease."""
    publish(broker, "host-0")

    def make(name: str, count: int) -> int:
        for at in range(count):
            broker.set_tenant(f"{name}-{at}", quota=GIB, weight=2)
            broker.acquire(MIB, lease_id="one-and-the-same", tenant=f"{name}-{at}").release()
        return count

    return weigh(broker, "tenant", make, lambda name: [broker.keys.tenant(f"{name}-0")])


def of_sizes(broker: Broker) -> Callable[[int], Weight]:
    """A function of whose runs a pool learned: eight runs with inputs of four sizes."""

    def make(name: str, count: int) -> int:
        made = min(count, FUNCTIONS_MOST - 200)
        for at in range(made):
            for run in range(8):
                broker.learn(
                    f"{name}.job{at}",
                    f"{name}-{at}-{run}",
                    4 * GIB,
                    size=10.0 ** (run % 4),
                    peak_bytes=3 * GIB,
                    default=4 * GIB,
                )
        return made

    return weigh(broker, "learned function", make, lambda name: [broker.keys.size(f"{name}.job0")])


KINDS: dict[str, Callable[[Broker], Callable[[int], Weight]]] = {
    "card": of_cards, "history": of_histories, "lease": of_leases, "waiter": of_waiters, "ended": of_tombstones,
    "journal": of_journal, "tenant": of_tenants, "size": of_sizes,
}  # fmt: skip


def weights(url: str, count: int, kinds: tuple[str, ...] = tuple(KINDS)) -> dict[str, Weight]:
    """What one thing of each kind takes, by so many of them."""
    found = {}
    for kind in kinds:
        with pool(url, f"of-{kind}") as broker:
            found[kind] = KINDS[kind](broker)(count)
    return found
