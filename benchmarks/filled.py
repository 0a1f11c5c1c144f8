"""Pools of many sizes, filled through the real scripts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from broker import Broker, calls
from broker.hardware import FIELDS, WORDS
from broker.lease import Lease
from broker.ledger.scripts import script
from broker.publish import Publisher
from broker.units import GIB, MIB
from broker.values import GpuReport, LeaseVerdict, State

CARDS_OF_A_HOST = 8
#: The host of the card that is full, and the bytes that fill it: all but the reserve of 512 MiB.
CROWDED, FULL = "crowded", 80 * GIB - 512 * MIB
#: A value for all that a card can say beside memory, heat and load, of a common length.
SAID = {name: "power_cap" if name in WORDS else 12_345 for name in FIELDS}
HOUR_MS, _BATCH = 3_600_000, 500


@dataclass(frozen=True, slots=True)
class Size:
    """How much is in a pool."""

    gpus: int
    leases: int
    waiters: int

    @property
    def cards_of_first_host(self) -> int:
        """How many cards a sample of the first host has."""
        return min(self.gpus, CARDS_OF_A_HOST)

    def agent(self, broker: Broker) -> Callable[[Sequence[Lease]], object]:
        """The first host's agent, which says all that NVML does: each call is a sample, with a word on these leases."""
        publisher, reports = Publisher(broker, "host-0"), cards(0, self.cards_of_first_host, talkative=True)

        def sample(leases: Sequence[Lease] = ()) -> object:
            verdicts = [LeaseVerdict(one.id, one.token, "alive", MIB, 0, 0) for one in leases]
            return publisher.publish(reports, HOUR_MS, verdicts=verdicts)

        return sample

    def __str__(self) -> str:
        """As a part of a name."""
        return f"{self.gpus}-{self.leases}-{self.waiters}-"


def cards(host: int | str, count: int, talkative: bool = False) -> list[GpuReport]:
    """Healthy 80 GiB cards; ``talkative``: with a value for everything that a card can say of itself."""
    more: dict[str, Any] = {"hardware": SAID, "utilization_percent": 87, "power_mw": 287_450, "process_count": 2}
    return [
        GpuReport(
            f"GPU-{host}-{i}", i, "card", State.OPTIMAL, State.OPTIMAL, "", memory_total_bytes=80 * GIB,
            memory_used_bytes=0, unmanaged_bytes=0, temperature_c=40, capability="8.6", **(more if talkative else {}),
        )
        for i in range(count)
    ]  # fmt: skip


def fill(broker: Broker, size: Size) -> None:
    """Cards, leases and waiters; and one card more, which is full: all waiters wait for that."""
    broker.update_config(monitor_interval=3600, waiters_max=100_000, waiter_seconds=3600, events_max=1000)
    for host in range((size.gpus + CARDS_OF_A_HOST - 1) // CARDS_OF_A_HOST):
        left = size.gpus - host * CARDS_OF_A_HOST
        Publisher(broker, f"host-{host}").publish(cards(host, min(left, CARDS_OF_A_HOST)), HOUR_MS)
    Publisher(broker, CROWDED).publish(cards(CROWDED, 1), HOUR_MS)
    broker.acquire(FULL, gpu=f"GPU-{CROWDED}-0", ttl=86_400)
    add_leases(broker, size.leases)
    add_waiters(broker, size.waiters)


def prepared(url: str) -> Broker:
    """A broker on a pool of two hosts, ``a`` and ``b``, with two cards of 6 GiB each."""
    broker = Broker.from_url(url)
    for host in ("a", "b"):
        Publisher(broker, host).publish([replace(one, memory_total_bytes=6 * GIB) for one in cards(host, 2)], 600_000)
    return broker


def add_leases(broker: Broker, count: int, name: str = "lease") -> None:
    """So many leases of 1 MiB, a day long, spread over the cards."""
    many(broker, [calls.ask(MIB, lease_id=f"{name}-{i}", ttl=86_400, placement="spread") for i in range(count)])


def add_waiters(broker: Broker, count: int, name: str = "waiter") -> None:
    """So many requests that wait for the card that is full."""
    many(broker, [in_vain(f"{name}-{i}", wait=3600) for i in range(count)], wait=True)


def in_vain(lease_id: str, wait: float = 0, priority: int = 0) -> calls.Ask:
    """A request for memory of the card that is full."""
    return calls.ask("20GiB", lease_id=lease_id, wait=wait, priority=priority, gpu=f"GPU-{CROWDED}-0")


def many(broker: Broker, requests: list[calls.Ask], wait: bool = False) -> list[Any]:
    """These requests, in pipelines; their replies. All are granted, or all wait."""
    replies = _in_pipelines(broker, "acquire", [request.asking(wait) for request in requests])
    assert all(reply[0] == ("waiting" if wait else "granted") for reply in replies), replies[0]
    return replies


def give_back(broker: Broker, held: list[tuple[str, int]]) -> None:
    """Release these leases, names and tokens, in pipelines."""
    _in_pipelines(broker, "release", held)


def _in_pipelines(broker: Broker, name: str, argvs: Sequence[tuple[str | int, ...]]) -> list[Any]:
    keys, sha = broker.keys.declared, broker.redis.script_load(script(name).text)
    replies: list[Any] = []
    for start in range(0, len(argvs), _BATCH):
        pipe = broker.redis.pipeline(transaction=False)
        for argv in argvs[start : start + _BATCH]:
            pipe.evalsha(sha, len(keys), *keys, *argv)
        replies += pipe.execute()
    return replies
