"""What is read for a scrape, and how often. For threads and for an event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from broker import fsck, plans, snapshot
from broker.errors import BrokerError
from broker.metrics.exposition import Exposition
from broker.metrics.look import Look, look, server

if TYPE_CHECKING:
    from broker.aio import AsyncBroker
    from broker.client import Broker
    from broker.ledger.keys import Keys

log = logging.getLogger(__name__)

#: Between two comparisons of the ledger with itself, which read the whole pool.
FSCK_SECONDS = 300.0
#: A scrape by an event loop is given up after so long; Prometheus itself waits ten seconds.
PATIENCE_SECONDS = 8.0
#: Between two catchings-up with the journal where nobody scrapes, so that none of it is trimmed uncounted.
FOLLOW_SECONDS = 2.0


def lasting_differences(keys: Keys) -> plans.Plan[int]:
    """How many things do not follow from the leases, in two readings in a row."""
    found = set(fsck.compare((yield from snapshot.read(keys))))
    if not found:
        return 0
    return len(found & set(fsck.compare((yield from snapshot.read(keys)))))


@contextmanager
def _told_instead(level: int = logging.WARNING) -> Iterator[None]:
    """A ledger that cannot be reached, or holds what is none of its own, is told as such: a scrape is no error."""
    try:
        yield
    except (BrokerError, TimeoutError) as error:
        log.log(level, "event=ledger_away error=%r", str(error))
    except ValueError:
        log.exception("event=ledger_unreadable")


class Exporter:
    """A pool's metrics, for threads. Counters count from its first ``render`` on, unless ``after`` says otherwise."""

    def __init__(self, broker: Broker, *, after: str | None = None, fsck_seconds: float = FSCK_SECONDS) -> None:
        """Read nothing yet. ``after``: count the journal from this stream id on, ``"0"`` all that it holds.

        Every ``fsck_seconds`` a scrape also compares the ledger with itself; 0 never does.
        """
        self._broker, self._lock = broker, threading.Lock()
        self._pool = Exposition(broker.keys, after, fsck_seconds)

    def render(self, accept: str = "") -> bytes:
        """The exposition for this ``Accept`` header. A ledger that cannot be reached is told, not raised."""
        with self._lock:
            if not self._pool.fresh:
                self._look()
            *_, text = self._pool.text(accept)
            return text

    def _look(self) -> None:
        begun, broker, pool_ = time.monotonic(), self._broker, self._pool
        seen: Look | None = None
        told: dict[str, object] = {}
        with _told_instead():
            broker.run(pool_.follower.catch_up(broker.keys))
            seen = broker.run(look(broker.keys))
            if pool_.wants_fsck:
                pool_.begin_fsck()
                pool_.checked(broker.run(lasting_differences(broker.keys)))
        if seen is not None:
            with suppress(BrokerError):  # a user who may not ask
                told = broker.run(server())
        pool_.saw(seen, told, time.monotonic() - begun)


class AsyncExporter:
    """As ``Exporter``, awaited, for one event loop."""

    def __init__(self, broker: AsyncBroker, *, after: str | None = None, fsck_seconds: float = FSCK_SECONDS) -> None:
        """As ``Exporter``."""
        self._broker, self._lock, self._following = broker, asyncio.Lock(), False
        self._pool = Exposition(broker.keys, after, fsck_seconds)

    async def render(self, accept: str = "") -> bytes:
        """As ``Exporter.render``. In between the event loop is given back, every few milliseconds."""
        async with self._lock:
            if not self._pool.fresh:
                await self._look()
            body = b""
            for body in self._pool.text(accept):  # noqa: B007 - the last one is all of it
                await asyncio.sleep(0)
            return body

    async def follow(self) -> None:
        """Keep up with the journal until cancelled, and compare the ledger with itself now and then.

        A task of a server's life: what nobody scrapes in time is counted all the same, and no scrape waits for a
        comparison.
        """
        self._following = True
        try:
            while True:
                with _told_instead(logging.DEBUG):  # away for now; the journal waits
                    async with self._lock:
                        await self._broker.run(self._pool.follower.catch_up(self._broker.keys))
                    if self._pool.wants_fsck:
                        await self._check()
                await asyncio.sleep(FOLLOW_SECONDS)
        finally:
            self._following = False

    async def _check(self) -> None:
        self._pool.begin_fsck()
        self._pool.checked(await self._broker.run(lasting_differences(self._broker.keys)))

    async def _look(self) -> None:
        begun, broker, pool_ = time.monotonic(), self._broker, self._pool
        seen: Look | None = None
        told: dict[str, object] = {}
        with _told_instead():
            async with asyncio.timeout(PATIENCE_SECONDS):
                await broker.run(pool_.follower.catch_up(broker.keys))
                seen = await broker.run(look(broker.keys))
                if pool_.wants_fsck and not self._following:
                    await self._check()
        if seen is not None:
            with suppress(BrokerError):
                told = await broker.run(server())
        pool_.saw(seen, told, time.monotonic() - begun)
