"""What the journal tells, counted: each event once, by one process, from where its journal ended when it began.

A process that starts anew counts from 0, which Prometheus takes for a counter's reset; nothing of it is kept. Two
processes that follow one pool count the same events each for itself: take the greater of them, never their sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from broker import connection, plans
from broker.journal import JOURNAL_KINDS
from broker.metrics.labels import Bounded
from broker.metrics.look import Card, number
from broker.values import State

if TYPE_CHECKING:
    from broker.ledger.keys import Keys

#: Entries of one round trip, and of one catching up: a journal that grows faster says what was missed.
PAGE, PAGES_MOST = 1000, 50
#: Tenants, and cards, that have series of their own.
TENANTS_MOST, CARDS_MOST = 100, 5000

_WAIT_SECONDS = (0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_HOLD_SECONDS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400)
_LOST = ("expired", "revoked")


class Tally:
    """The counters of one pool, as this process saw its journal."""

    def __init__(self, pool: str) -> None:
        """Nothing is counted yet. What is known beforehand begins at 0, so that its first event is an increase."""
        self._pool = pool
        self._tenant = Bounded(TENANTS_MOST)
        self._card = Bounded(CARDS_MOST)
        self._begun = set[tuple[str, str]]()
        self._seq: int | None = None
        counter, by_tenant = _counter, ("pool", "tenant")
        self._events = counter("journal_events", "Entries of the journal", ("pool", "kind"))
        self._missed = counter(
            "journal_missed_events", "Entries that were gone before they could be counted", ("pool",)
        )
        self._grants = counter("lease_grants", "Leases granted", by_tenant)
        self._releases = counter("lease_releases", "Leases returned by their holders", by_tenant)
        self._expiries = counter("lease_expiries", "Leases whose time was over before they were returned", ("pool",))
        self._revocations = counter("lease_revocations", "Leases whose end was asked for", ("pool",))
        self._losses = counter(
            "lease_losses", "Leases that ended under their holders: their time was over, or their notice",
            ("pool", "why"),
        )  # fmt: skip
        self._changes = counter("gpu_state_changes", "Cards that went into a state", ("pool", "to"))
        self._throttles = counter(
            "gpu_throttles", "Times that a card went into THROTTLED or CRITICAL", ("pool", "UUID", "Hostname")
        )
        self._waits = _histogram("lease_wait_seconds", "From request to grant", by_tenant, _WAIT_SECONDS)
        self._holds = _histogram("lease_hold_seconds", "From grant to the end of a lease", by_tenant, _HOLD_SECONDS)
        for kind in JOURNAL_KINDS:
            self._events.labels(pool, kind)
        for why in _LOST:
            self._losses.labels(pool, why)
        for state in State:
            self._changes.labels(pool, state.value)
        for alone in (self._missed, self._expiries, self._revocations):
            alone.labels(pool)
        self._of_tenant("default")

    def know(self, tenants: Iterable[str], cards: Iterable[Card]) -> None:
        """Tenants and cards that the pool has: their counters begin at 0 before anything befalls them."""
        for tenant in tenants:
            self._of_tenant(tenant)
        for card in cards:
            if (card.uuid, card.host) not in self._begun:
                self._begun.add((card.uuid, card.host))
                self._throttles.labels(self._pool, *self._card_labels(card.uuid, card.host))

    def _of_tenant(self, tenant: str) -> tuple[str, str]:
        labels = self._pool, self._tenant(tenant)
        for metric in (self._grants, self._releases, self._waits, self._holds):
            metric.labels(*labels)
        return labels

    def _card_labels(self, uuid: str, host: str) -> tuple[str, str]:
        shown = self._card(uuid)
        return shown, self._card(host) if shown == uuid else shown

    def count(self, fields: Mapping[str, str]) -> None:
        """One more entry. A gap in the numbers is counted as missed; numbers that begin anew are a new ledger's."""
        seq = number(fields.get("seq"))
        if seq is not None:
            if self._seq is not None and seq > self._seq + 1:
                self._missed.labels(self._pool).inc(seq - self._seq - 1)
            self._seq = seq
        kind = fields.get("kind", "")
        self._events.labels(self._pool, kind if kind in JOURNAL_KINDS else "other").inc()
        counts = _COUNTS.get(kind)
        if counts is not None:
            counts(self, fields)

    def _granted(self, fields: Mapping[str, str]) -> None:
        labels = self._of_tenant(fields.get("tenant", ""))
        self._grants.labels(*labels).inc()
        _observe(self._waits.labels(*labels), fields.get("waited_ms"))

    def _released(self, fields: Mapping[str, str]) -> None:
        self._releases.labels(*self._of_tenant(fields.get("tenant", ""))).inc()
        self._held(fields)

    def _held(self, fields: Mapping[str, str]) -> None:
        _observe(self._holds.labels(*self._of_tenant(fields.get("tenant", ""))), fields.get("held_ms"))

    def _expired(self, fields: Mapping[str, str]) -> None:
        why = "revoked" if fields.get("why") == "revoked" else "expired"
        self._losses.labels(self._pool, why).inc()
        if why == "expired":
            self._expiries.labels(self._pool).inc()

    def _revoked(self, fields: Mapping[str, str]) -> None:
        self._revocations.labels(self._pool).inc()

    def _state(self, fields: Mapping[str, str]) -> None:
        to = fields.get("to", "")
        if to in State.__members__:
            self._changes.labels(self._pool, to).inc()
        if to in ("THROTTLED", "CRITICAL"):
            self._throttles.labels(self._pool, *self._card_labels(fields.get("gpu", ""), fields.get("host", ""))).inc()

    def collect(self) -> list[Metric]:
        """All of it for an exposition. When a series began is left out: text of 0.0.4 would show it as a gauge."""
        found = [
            metric for one in vars(self).values() if isinstance(one, MetricWrapperBase) for metric in one.collect()
        ]
        for metric in found:
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
        return found


_COUNTS = {
    "granted": Tally._granted,
    "released": Tally._released,
    "reclaimed": Tally._held,
    "expired": Tally._expired,
    "revoked": Tally._revoked,
    "state": Tally._state,
}


def _counter(name: str, words: str, labels: Sequence[str]) -> Counter:
    return Counter(f"gpubroker_{name}", words, labels, registry=None)


def _histogram(name: str, words: str, labels: Sequence[str], buckets: Sequence[float]) -> Histogram:
    return Histogram(f"gpubroker_{name}", words, labels, registry=None, buckets=buckets)


def _observe(histogram: Histogram, milliseconds: str | None) -> None:
    value = number(milliseconds)
    if value is not None:
        histogram.observe(value / 1000)


class Follower:
    """Where a process is in a pool's journal. It goes on from there whatever happens in between."""

    def __init__(self, tally: Tally, after: str | None = None) -> None:
        """Begin after a stream id; without one, where the journal ends at the first look."""
        self._tally, self._after = tally, after

    def catch_up(self, keys: Keys) -> plans.Plan[int]:
        """Count what came since, ``PAGE * PAGES_MOST`` entries at most. How many there were."""
        if self._after is None:
            self._after = yield from plans.last_event_id(keys)
            return 0
        counted = 0
        for _ in range(PAGES_MOST):
            page = yield from self._page(keys)
            for stream_id, fields in page:
                self._tally.count(fields)
                self._after = stream_id  # after each: whatever fails, none is counted twice
            counted += len(page)
            if len(page) < PAGE:
                break
        return counted

    def _page(self, keys: Keys) -> plans.Plan[list[tuple[str, Any]]]:
        after = self._after or "0"
        start = "-" if after == "0" else f"({after}"
        reply, last = yield [
            ("XRANGE", keys.events, start, "+", "COUNT", PAGE),
            ("XREVRANGE", keys.events, "+", "-", "COUNT", 1),
        ]
        page = list(connection.entries(reply))
        ends = next((stream_id for stream_id, _ in connection.entries(last)), "")
        if not page and ends and _place(ends) < _place(after):
            # Another journal: the ledger was lost, and its server's clock is behind what it was. All of it is new.
            self._after = "0"
            return (yield from self._page(keys))
        return page


def _place(stream_id: str) -> tuple[int, int]:
    milliseconds, _, nth = stream_id.partition("-")
    return int(milliseconds), int(nth or 0)
