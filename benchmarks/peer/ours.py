"""gpubroker: a lease on all that a card lends, by ``Broker.acquire`` and ``release``. A name is a card of the pool."""

from __future__ import annotations

from typing import Any

from benchmarks.peer.borrower import Borrower
from broker import Broker, InsufficientMemory
from broker.publish import Publisher
from broker.units import GIB, MIB
from broker.values import GpuReport, State

HOST = "peers"
#: All of a 6 GiB card but its reserve.
ALL = 6 * GIB - 512 * MIB
#: These cards have no agent; an hour is the longest that a sample says of itself, and it lends for three of them.
_FRESH_MS = 3_600_000


def stock(url: str, pool: str, names: list[str], host: str = HOST) -> None:
    """A pool with a card of each name, all on one host."""
    reports = [
        GpuReport(
            name, index, "card", State.OPTIMAL, State.OPTIMAL, "", memory_total_bytes=6 * GIB, memory_used_bytes=0,
            unmanaged_bytes=0, temperature_c=40,
        )
        for index, name in enumerate(names)
    ]  # fmt: skip
    with Broker.from_url(url, pool=pool) as broker:
        Publisher(broker, host).publish(reports, _FRESH_MS)


class Ours(Borrower):
    """The whole of one card, by its name; the lease's own name is made anew for each loan."""

    def __init__(self, url: str, pool: str = "default") -> None:
        """As ``Borrower``; its own connection is the broker's."""
        super().__init__(url)
        self._broker = Broker.from_url(url, pool=pool)

    def take(self, name: str, wait: float) -> Any:
        """As ``Borrower.take``."""
        try:
            return self._broker.acquire(ALL, gpu=name, wait=wait)
        except InsufficientMemory:
            return None

    def give(self, held: Any) -> None:
        """As ``Borrower.give``."""
        held.release()


opened = Ours
