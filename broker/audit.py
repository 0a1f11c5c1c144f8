"""Holds the journal against the laws: an account of what happened that trusts no counter but the events themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.models import Event

_LENDS = {"OPTIMAL", "NORMAL", "THROTTLED"}
_SLOW = {"THROTTLED", "CRITICAL"}


@dataclass(slots=True)
class CardAccount:
    """One GPU as the journal tells it. Bytes."""

    state: str = "UNAVAILABLE"
    drained: bool = False
    leased_bytes: int = 0
    peak_bytes: int = 0
    budget_at_peak_bytes: int = 0
    throttles: int = 0
    recoveries: int = 0


@dataclass(slots=True)
class _Live:
    token: str
    gpu: str
    memory_bytes: int
    over: bool = False


@dataclass(slots=True)
class Audit:
    """The account: what was granted, how long it waited, and every law that an event broke, in words."""

    events: int = 0
    grants: int = 0
    waits_ms: list[int] = field(default_factory=list)
    expired: int = 0
    cards: dict[str, CardAccount] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    _live: dict[str, _Live] = field(default_factory=dict)
    _seq: int | None = None
    _at: int = 0
    _token: int = 0

    @property
    def live(self) -> list[str]:
        """Leases whose bytes still count at the end of the journal."""
        return sorted(self._live)

    def _break(self, event: Event, law: int, why: str) -> None:
        self.violations.append(f"law {law}, event {event.seq}: {why}")

    def add(self, event: Event) -> None:
        """Take one more event into account."""
        self.events += 1
        if self._seq is not None and event.seq != self._seq + 1:
            self._break(event, 2, f"the journal jumps from {self._seq} to {event.seq}")
        if event.at < self._at:
            self._break(event, 6, f"time runs backwards from {self._at} to {event.at}")
        self._seq, self._at = event.seq, event.at
        handler = _HANDLERS.get(event.kind)
        if handler is not None:
            handler(self, event)

    def _card(self, uuid: str) -> CardAccount:
        return self.cards.setdefault(uuid, CardAccount())

    def _granted(self, event: Event) -> None:
        f = event.fields
        card, size, budget = self._card(f["gpu_uuids"]), int(f["memory_bytes"]), int(f["budget_bytes"])
        self.grants += 1
        if int(f["waited_ms"]) > 0:
            self.waits_ms.append(int(f["waited_ms"]))
        if int(f["token"]) <= self._token:
            self._break(event, 5, f"token {f['token']} after {self._token}")
        if f["id"] in self._live:
            self._break(event, 4, f"{f['id']} was granted while it held a lease")
        if card.state not in _LENDS or card.drained:
            self._break(event, 8, f"granted on {f['gpu_uuids']}, {'drained' if card.drained else card.state}")
        self._token = max(self._token, int(f["token"]))
        self._live[f["id"]] = _Live(f["token"], f["gpu_uuids"], size)
        card.leased_bytes += size
        if card.leased_bytes > budget:
            self._break(event, 1, f"{card.leased_bytes} bytes leased on {f['gpu_uuids']}, its budget is {budget}")
        if card.leased_bytes != int(f["leased_bytes"]):
            self._break(event, 1, f"the leases sum to {card.leased_bytes}, the ledger says {f['leased_bytes']}")
        if card.leased_bytes > card.peak_bytes:
            card.peak_bytes, card.budget_at_peak_bytes = card.leased_bytes, budget

    def _gone(self, event: Event) -> None:
        held = self._live.pop(event.fields["id"], None)
        if held is None or held.token != event.fields["token"]:
            self._break(
                event, 5, f"{event.kind} of {event.fields['id']} token {event.fields['token']}, which is not held"
            )
        if held is not None:
            self._card(held.gpu).leased_bytes -= held.memory_bytes

    def _expired(self, event: Event) -> None:
        self.expired += 1
        held = self._live.get(event.fields["id"])
        if held is None or held.over:
            self._break(event, 3, f"{event.fields['id']} expired without holding a lease")
        else:
            held.over = True

    def _state(self, event: Event) -> None:
        card, to = self._card(event.fields["gpu"]), event.fields["to"]
        if to in _SLOW and card.state not in _SLOW:
            card.throttles += 1
        elif card.state in _SLOW and to in ("NORMAL", "OPTIMAL"):
            card.recoveries += 1
        card.state = to

    def _drained(self, event: Event) -> None:
        self._card(event.fields["gpu"]).drained = event.kind == "drained"


_HANDLERS = {
    "granted": Audit._granted,
    "released": Audit._gone,
    "reclaimed": Audit._gone,
    "unclaimed": Audit._gone,
    "expired": Audit._expired,
    "state": Audit._state,
    "drained": Audit._drained,
    "undrained": Audit._drained,
}


def audit(events: Iterable[Event]) -> Audit:
    """The account of a whole journal, from its first event on."""
    account = Audit()
    for event in events:
        account.add(event)
    return account
