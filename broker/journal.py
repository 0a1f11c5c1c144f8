"""Callbacks on the journal: one thread that reads the events stream and calls back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.errors import InvalidRequest, PoolUnavailable

if TYPE_CHECKING:
    from broker.models import Event
    from broker.views import Views

log = logging.getLogger(__name__)

#: What people subscribe to, beside the journal's own kinds: the state that a GPU went into.
STATE_KINDS = {
    "optimal": "OPTIMAL",
    "normal": "NORMAL",
    "throttle": "THROTTLED",
    "critical": "CRITICAL",
    "unavailable": "UNAVAILABLE",
}
#: A ``state`` event from one of the first to one of the second is ``recovered``.
_TROUBLED = frozenset({"THROTTLED", "CRITICAL", "UNAVAILABLE"})
_WELL = frozenset({"NORMAL", "OPTIMAL"})
JOURNAL_KINDS = frozenset({
    "granted", "claimed", "queued", "released", "expired", "reclaimed", "unclaimed", "cancelled", "dropped", "state",
    "short", "joined", "left", "drained", "undrained", "config", "clock", "epoch", "settling", "resized", "revoked",
    "reserved", "unreserved", "registered", "adopted", "revived", "tenant", "repaired",
    "xid", "warning", "overuse", "idle",
})  # fmt: skip


def matches(kind: str, event: Event) -> bool:
    """Whether an event is of the kind that somebody subscribed to."""
    if kind in STATE_KINDS:
        return event.kind == "state" and event.fields.get("to") == STATE_KINDS[kind]
    if kind == "recovered":
        return event.kind == "state" and event.fields.get("from") in _TROUBLED and event.fields.get("to") in _WELL
    if kind == "lease_lost":
        return event.kind == "expired"
    return event.kind == kind


class Subscription:
    """A thread that follows the journal from now on and calls back, until stopped."""

    def __init__(self, broker: Views) -> None:
        """Remember the broker; the thread starts with the first callback."""
        self._broker = broker
        self._callbacks: list[tuple[str, Callable[[Event], None]]] = []
        self._stopped = threading.Event()
        self._started = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, kind: str, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Call back on that kind from now on; returns a function that ends it.

        Raises:
            InvalidRequest: no such kind. PoolUnavailable: Redis cannot be reached.
        """
        known = sorted({*STATE_KINDS, *JOURNAL_KINDS, "recovered", "lease_lost"})
        if kind not in known:
            raise InvalidRequest("kind", kind, "one of " + ", ".join(known))
        entry = (kind, callback)
        if self._thread is None:
            # Read where the journal ends before returning: an event right after this call is not missed.
            after = self._broker.last_event_id()
            self._thread = threading.Thread(target=self._run, args=(after,), name="gpubroker-events", daemon=True)
            self._thread.start()
        self._callbacks.append(entry)
        return lambda: self._callbacks.remove(entry) if entry in self._callbacks else None

    def _run(self, after: str) -> None:
        while not self._stopped.is_set():
            try:
                for event in self._broker.follow(after, block_ms=1000):
                    if self._stopped.is_set():
                        return
                    if event is not None:
                        after = event.stream_id
                        self._dispatch(event)
            except PoolUnavailable as error:
                log.warning("event=journal_unreachable error=%s", error)
                self._stopped.wait(1.0)

    def _dispatch(self, event: Event) -> None:
        for kind, callback in list(self._callbacks):
            if matches(kind, event):
                try:
                    callback(event)
                except Exception:
                    log.exception("event=callback_failed kind=%s", kind)

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5)
