"""What is told of one pool between two scrapes, and as which text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from itertools import chain
from typing import TYPE_CHECKING, Any

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from broker.metrics import cards, pool
from broker.metrics.cards import gauge
from broker.metrics.look import Look
from broker.metrics.tally import Follower, Tally

if TYPE_CHECKING:
    from broker.ledger.keys import Keys

#: Scrapes that come closer together are answered with the same look: many scrapers cost no more than one.
FRESH_SECONDS = 1.0

_EOF = b"# EOF\n"
#: Samples that are written as text without a pause: about two milliseconds.
_AT_A_TIME = 200


def content_type(accept: str = "") -> str:
    """What ``render`` gives for this ``Accept`` header: OpenMetrics where it is asked for, else Prometheus's text."""
    return choose_encoder(accept)[1]


class Exposition:
    """One pool: its last look, its counters, and when the ledger was compared with itself."""

    def __init__(self, keys: Keys, after: str | None, fsck_seconds: float) -> None:
        """Nothing was read yet. ``after`` and ``fsck_seconds``: see ``Exporter``."""
        self.keys, self.tally = keys, Tally(keys.pool)
        self.follower = Follower(self.tally, after)
        self._seen: tuple[Look | None, dict[str, object], float] = (None, {}, 0.0)
        self._texts: dict[str, bytes] = {}
        self._made = float("-inf")
        self._fsck_seconds, self._checked, self._tried = fsck_seconds, float("-inf"), float("-inf")
        self._differences: int | None = None

    @property
    def fresh(self) -> bool:
        """Whether the families of before will do."""
        return time.monotonic() - self._made < FRESH_SECONDS

    @property
    def wants_fsck(self) -> bool:
        """Whether the ledger is to be compared with itself again."""
        return self._fsck_seconds > 0 and time.monotonic() - self._tried >= self._fsck_seconds

    def begin_fsck(self) -> None:
        """It is being compared; one that fails is not tried again at once, as it reads the whole pool."""
        self._tried = time.monotonic()

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
