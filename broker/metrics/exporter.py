"""The exposition: what is read, how often, and as which text. For threads and for an event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from itertools import chain
from typing import TYPE_CHECKING, Any

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from broker import fsck, plans, snapshot
from broker.errors import BrokerError
from broker.metrics import cards, pool
from broker.metrics.cards import gauge
from broker.metrics.look import Look, look, server
from broker.metrics.tally import Follower, Tally

if TYPE_CHECKING:
    from broker.aio import AsyncBroker
    from broker.client import Broker
    from broker.ledger.keys import Keys

log = logging.getLogger(__name__)

#: Scrapes that come closer together are answered with the same look: many scrapers cost no more than one.
FRESH_SECONDS = 1.0
#: Between two comparisons of the ledger with itself, which read the whole pool.
FSCK_SECONDS = 300.0
#: A scrape by an event loop is given up after so long; Prometheus itself waits ten seconds.
PATIENCE_SECONDS = 8.0
#: Between two catchings-up with the journal where nobody scrapes, so that none of it is trimmed uncounted.
FOLLOW_SECONDS = 2.0

_EOF = b"# EOF\n"
#: Samples that are written as text without a pause: about two milliseconds.
_AT_A_TIME = 200


def content_type(accept: str = "") -> str:
    """What ``render`` gives for this ``Accept`` header: OpenMetrics where it is asked for, else Prometheus's text."""
    return choose_encoder(accept)[1]


class _Pool:
    """What is known of one pool between two scrapes."""

    def __init__(self, keys: Keys, after: str | None, fsck_seconds: float) -> None:
        self.keys, self.tally = keys, Tally(keys.pool)
        self.follower = Follower(self.tally, after)
        self._seen: tuple[Look | None, dict[str, object], float] = (None, {}, 0.0)
        self._texts: dict[str, bytes] = {}
        self._made = float("-inf")
        self._fsck_seconds, self._checked = fsck_seconds, float("-inf")
        self._differences: int | None = None

    @property
    def fresh(self) -> bool:
        """Whether the families of before will do."""
        return time.monotonic() - self._made < FRESH_SECONDS

    @property
    def wants_fsck(self) -> bool:
        """Whether the ledger is to be compared with itself again."""
        return self._fsck_seconds > 0 and time.monotonic() - self._checked >= self._fsck_seconds

    def checked(self, differences: int) -> None:
        """So many things did not follow from the leases."""
        self._differences, self._checked = differences, time.monotonic()

    def saw(self, seen: Look | None, told: dict[str, object], seconds: float) -> None:
        """Tell of this look from now on; without one the ledger cannot be reached, which is told, and the counters."""
        self._seen = seen, told, seconds
        if seen is not None:
            self.tally.know((one.name for one in seen.tenants), seen.cards)
        self._texts.clear()
        self._made = time.monotonic()

    def families(self) -> Iterator[Metric]:
        """Each made when it is asked for: kept, so many samples would keep the garbage collector busy."""
        name, (seen, told, seconds) = self.keys.pool, self._seen
        yield gauge("gpubroker_ledger_up", "1 if the ledger answered", ("pool",), [([name], seen is not None)])
        yield gauge("gpubroker_scrape_duration_seconds", "What reading the pool took", ("pool",), [([name], seconds)])
        if seen is not None:
            yield from chain(cards.families(seen), pool.families(seen), pool.server(name, told), self._fsck())
        yield from self.tally.collect()

    def _fsck(self) -> Iterator[GaugeMetricFamily]:
        if self._differences is not None:
            at = [([self.keys.pool], float(self._differences))]
            yield gauge("gpubroker_fsck_differences", "What does not follow from the leases", ("pool",), at)
            age = [([self.keys.pool], time.monotonic() - self._checked)]
            yield gauge("gpubroker_fsck_age_seconds", "Since the ledger was compared with itself", ("pool",), age)

    def text(self, accept: str) -> Iterator[bytes]:
        """The exposition; before it nothing, many times, so that an event loop can do something else in between."""
        encode, kind = choose_encoder(accept)
        if kind not in self._texts:
            parts = []
            for family in self.families():
                for part in _parts(family, encode):
                    parts.append(part)
                    yield b""
            end = _EOF if kind.startswith("application/openmetrics-text") else b""
            self._texts[kind] = b"".join(parts) + end
        yield self._texts[kind]


def _parts(family: Metric, encode: Callable[[Any], bytes]) -> Iterator[bytes]:
    """A family as text, so many samples at a time; nothing of one that has none: absent is absent."""
    samples = family.samples
    part = copy(family)
    part.samples = []
    head = encode(_One(part)).removesuffix(_EOF) if samples else b""
    for start in range(0, len(samples), _AT_A_TIME):
        part.samples = samples[start : start + _AT_A_TIME]
        text = encode(_One(part)).removesuffix(_EOF)
        yield text if start == 0 else text.removeprefix(head)


class _One:
    """A registry of one family, for an encoder."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Sequence[Metric]:
        """The family."""
        return [self._family]


def lasting_differences(keys: Keys) -> plans.Plan[int]:
    """How many things do not follow from the leases, in two readings in a row."""
    found = set(fsck.compare((yield from snapshot.read(keys))))
    if not found:
        return 0
    return len(found & set(fsck.compare((yield from snapshot.read(keys)))))


@contextmanager
def _told_instead() -> Iterator[None]:
    """A ledger that cannot be reached, or holds what is none of its own, is told as such: a scrape is no error."""
    try:
        yield
    except (BrokerError, TimeoutError) as error:
        log.warning("event=ledger_away error=%r", str(error))
    except ValueError:
        log.exception("event=ledger_unreadable")


class Exporter:
    """A pool's metrics, for threads. Counters count from its first ``render`` on, unless ``after`` says otherwise."""

    def __init__(self, broker: Broker, *, after: str | None = None, fsck_seconds: float = FSCK_SECONDS) -> None:
        """Read nothing yet. ``after``: count the journal from this stream id on, ``"0"`` all that it holds.

        Every ``fsck_seconds`` a scrape also compares the ledger with itself; 0 never does.
        """
        self._broker, self._lock = broker, threading.Lock()
        self._pool = _Pool(broker.keys, after, fsck_seconds)

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
        self._pool = _Pool(broker.keys, after, fsck_seconds)

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
                with suppress(BrokerError):  # away for now; the journal waits
                    async with self._lock:
                        await self._broker.run(self._pool.follower.catch_up(self._broker.keys))
                    if self._pool.wants_fsck:
                        self._pool.checked(await self._broker.run(lasting_differences(self._broker.keys)))
                await asyncio.sleep(FOLLOW_SECONDS)
        finally:
            self._following = False

    async def _look(self) -> None:
        begun, broker, pool_ = time.monotonic(), self._broker, self._pool
        seen: Look | None = None
        told: dict[str, object] = {}
        with _told_instead():
            async with asyncio.timeout(PATIENCE_SECONDS):
                await broker.run(pool_.follower.catch_up(broker.keys))
                seen = await broker.run(look(broker.keys))
                if pool_.wants_fsck and not self._following:
                    pool_.checked(await broker.run(lasting_differences(broker.keys)))
        if seen is not None:
            with suppress(BrokerError):
                told = await broker.run(server())
        pool_.saw(seen, told, time.monotonic() - begun)
