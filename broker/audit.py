"""Holds the journal against the laws: an account of what happened that trusts no counter but the events themselves.

A journal may lack its beginning, since it is trimmed, and a new primary may have lost writes. The account then takes
what a card has leased from the next event that says so, lets leases of before end, and judges only what it can know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.models import Event

_LENDS = {"OPTIMAL", "NORMAL", "THROTTLED"}
_SLOW = {"THROTTLED", "CRITICAL"}
_TOKENS_AN_EPOCH = 1 << 23


@dataclass(slots=True)
class CardAccount:
    """One GPU as the journal tells it. Bytes; an empty state is not known, nor is the sum of an uncertain card."""

    state: str = "UNAVAILABLE"
    drained_by: set[str] = field(default_factory=set)
    leased_bytes: int = 0
    peak_bytes: int = 0
    budget_at_peak_bytes: int = 0
    throttles: int = 0
    recoveries: int = 0
    certain: bool = True
    kept_for: str = ""


@dataclass(slots=True)
class _Live:
    token: int
    cards: tuple[str, ...]
    memory_bytes: int
    tenant: str
    over: bool = False
    revoke_at: int | None = None


@dataclass(frozen=True, slots=True)
class _Queued:
    seq: int
    priority: int


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
    _queued: dict[str, _Queued] = field(default_factory=dict)
    _quotas: dict[str, int] = field(default_factory=dict)
    _held: Counter[str] = field(default_factory=Counter)  # bytes by tenant, of leases that are known
    _drained_hosts: set[str] = field(default_factory=set)
    _seq: int | None = None
    _at: int = 0
    _token: int = 0
    _epoch: int = 0
    _settling_until: int = 0
    _grace_until: int = 0
    _unsure: bool = False  # something before was not seen
    _first_token: int | None = None  # of the grants seen since then
    _ended: set[int] = field(default_factory=set)  # tokens of before that ended

    @property
    def live(self) -> list[str]:
        """Leases whose bytes still count at the end of the journal."""
        return sorted(self._live)

    def add(self, event: Event) -> None:
        """Take one more event into account."""
        self.events += 1
        if event.kind == "epoch" and event.fields.get("why", "born") == "born":
            self._begin(event.seq != 1 or self._seq is not None)  # what was lost is not said
        elif self._seq is None:
            self._begin(event.seq != 1)
        elif event.seq != self._seq + 1:
            self._break(event, 2, f"the journal jumps from {self._seq} to {event.seq}")
        if event.at < self._at:
            self._break(event, 6, f"time runs backwards from {self._at} to {event.at}")
        self._seq, self._at = event.seq, event.at
        handler = _HANDLERS.get(event.kind)
        if handler is not None:
            handler(self, event)

    def _break(self, event: Event, law: int | str, why: str) -> None:
        name = f"law {law}" if isinstance(law, int) else law
        self.violations.append(f"{name}, event {event.seq}: {why}")

    # -- what is not known ---------------------------------------------------------------------------------------------

    def _begin(self, unsure: bool) -> None:
        """Forget what may have been lost. Not sure: of what was before, some may still be there."""
        self._unsure, self._first_token = unsure, None
        for forgotten in (self._live, self._queued, self._held, self._ended, self._drained_hosts, self._quotas):
            forgotten.clear()
        for card in self.cards.values():
            card.certain, card.leased_bytes, card.kept_for = not unsure, 0, ""
            card.drained_by.clear()
            card.state = "" if unsure else "UNAVAILABLE"

    def _of_before(self, token: int) -> bool:
        """Whether a lease may have been granted where the journal cannot be seen."""
        return self._unsure and (self._first_token is None or token < self._first_token) and token not in self._ended

    def _card(self, uuid: str) -> CardAccount:
        if uuid not in self.cards:
            self.cards[uuid] = CardAccount(state="" if self._unsure else "UNAVAILABLE", certain=not self._unsure)
        return self.cards[uuid]

    # -- bytes lent ----------------------------------------------------------------------------------------------------

    def _granted(self, event: Event) -> None:
        self._new_token(event)
        self.grants += 1
        if int(event.fields["waited_ms"]) > 0:
            self.waits_ms.append(int(event.fields["waited_ms"]))
        self._lawful(event, "granted")
        self._hold(event)

    def _adopted(self, event: Event) -> None:
        """The process was there before: neither the card's state nor a quota could keep it out."""
        self._new_token(event)
        self._hold(event, quota=False)

    def _registered(self, event: Event) -> None:
        """A holder brings back what the ledger lost; that it was granted lawfully, an older journal said."""
        token = int(event.fields["token"])
        if self._epoch and token >= self._epoch * _TOKENS_AN_EPOCH:
            self._break(event, 5, f"{event.fields['id']} was registered under token {token} of this very epoch")
        self._hold(event, quota=False, capacity=False)

    def _new_token(self, event: Event) -> None:
        token = int(event.fields["token"])
        if token <= self._token:
            self._break(event, 5, f"token {token} after {self._token}")
        self._token = max(self._token, token)
        if self._first_token is None:
            self._first_token = token

    def _hold(self, event: Event, *, quota: bool = True, capacity: bool = True) -> None:
        f = event.fields
        if f["id"] in self._live:
            self._break(event, 4, f"{f['id']} was {event.kind} while it held a lease")
        held = _Live(int(f["token"]), _cards(f), int(f["memory_bytes"]), f.get("tenant", ""))
        self._queued.pop(f["id"], None)
        self._live[f["id"]] = held
        self._take(event, held, held.memory_bytes, quota=quota, capacity=capacity)

    def _take(self, event: Event, held: _Live, more: int, *, quota: bool = True, capacity: bool = True) -> None:
        """So many bytes more of each of its cards; the sums must be those of the ledger."""
        says, budgets = _numbers(event, "leased_bytes", held), _numbers(event, "budget_bytes", held)
        for uuid, leased, budget in zip(held.cards, says, budgets, strict=True):
            card = self._card(uuid)
            card.leased_bytes = card.leased_bytes + more if card.certain else leased
            card.certain = True
            if capacity and more > 0 and card.leased_bytes > budget:
                self._break(event, 1, f"{card.leased_bytes} bytes leased on {uuid}, its budget is {budget}")
            if card.leased_bytes != leased:
                self._break(event, 1, f"the leases sum to {card.leased_bytes} on {uuid}, the ledger says {leased}")
            if card.leased_bytes > card.peak_bytes:
                card.peak_bytes, card.budget_at_peak_bytes = card.leased_bytes, budget
        self._held[held.tenant] += more * len(held.cards)
        allowed = self._quotas.get(held.tenant, 0)
        if quota and more > 0 and 0 < allowed < self._held[held.tenant]:
            self._break(event, "quota", f"{held.tenant} holds {self._held[held.tenant]} bytes, it may hold {allowed}")

    def _lawful(self, event: Event, what: str) -> None:
        """What must hold where bytes are promised anew: the cards are open, nobody else's, and nothing settles."""
        f = event.fields
        if event.at < self._settling_until:
            self._break(event, 11, f"{f['id']} was {what} while holders could still register what they have")
        for uuid in _cards(f):
            card = self._card(uuid)
            drained = card.drained_by or f.get("host", "") in self._drained_hosts
            if drained or (card.state and card.state not in _LENDS):
                self._break(event, 8, f"{what} on {uuid}, {'drained' if drained else card.state}")
            if card.kept_for not in ("", f["id"], f"{f['id']}+") and self._comes_after(event, card.kept_for):
                self._break(event, 7, f"{f['id']} was {what} on {uuid}, which is kept for {card.kept_for}")

    def _comes_after(self, event: Event, kept_for: str) -> bool:
        """Whether the request is not of a higher priority than the waiter for whom a card is kept; false if unknown."""
        waiter = self._queued.get(kept_for)
        asked = self._queued.get(event.fields["id"])
        own = asked.priority if asked is not None else int(event.fields.get("priority") or 1000)
        return waiter is not None and own <= waiter.priority

    def _resized(self, event: Event) -> None:
        f = event.fields
        before, token = int(f["before_bytes"]), int(f["token"])
        held = self._live.get(f["id"])
        if held is None and self._of_before(token):
            held = self._live[f["id"]] = _Live(token, _cards(f), before, f.get("tenant", ""))
            self._held[held.tenant] += before * len(held.cards)
        if held is None or held.token != token:
            return self._break(event, 5, f"{f['id']} was resized under token {token}, which is not held")
        if held.memory_bytes != before:
            self._break(event, 1, f"{f['id']} had {held.memory_bytes} bytes, the ledger says {before}")
        if held.over:
            self._break(event, 3, f"{f['id']} was resized after its time")
        more = int(f["memory_bytes"]) - held.memory_bytes
        if more > 0:
            self._lawful(event, "resized")
        held.memory_bytes = int(f["memory_bytes"])
        self._queued.pop(f"{f['id']}+", None)
        return self._take(event, held, more)

    # -- the end of a lease --------------------------------------------------------------------------------------------

    def _gone(self, event: Event) -> None:
        f = event.fields
        token = int(f["token"])
        held = self._live.pop(f["id"], None)
        if held is None and self._of_before(token):
            held = _Live(token, _cards(f), int(f["memory_bytes"]), "")
        if held is None or held.token != token:
            self._break(event, 5, f"{event.kind} of {f['id']} token {token}, which is not held")
        if event.kind == "unclaimed" or f.get("why") == "delay":
            self._not_in_grace(event)
        if held is not None:
            self._ended.add(token)
            self._held[held.tenant] -= held.memory_bytes * len(held.cards)
            for uuid in held.cards:
                self._card(uuid).leased_bytes -= held.memory_bytes

    def _expired(self, event: Event) -> None:
        self.expired += 1
        self._not_in_grace(event)
        held = self._live.get(event.fields["id"])
        if held is not None and not held.over:
            held.over = True
        elif held is not None or not self._of_before(int(event.fields["token"])):
            self._break(event, 3, f"{event.fields['id']} expired without holding a lease")

    def _revived(self, event: Event) -> None:
        """An adopted process was seen again before its bytes were lent on: the lease goes on."""
        held, token = self._live.get(event.fields["id"]), int(event.fields["token"])
        if held is not None and held.token == token and held.over:
            held.over = False
        elif held is not None or not self._of_before(token):
            self._break(event, 5, f"{event.fields['id']} came back under token {token}, which had not expired")

    def _not_in_grace(self, event: Event) -> None:
        if event.at < self._grace_until:
            self._break(
                event, 6, f"{event.fields['id']} {event.kind} at {event.at}, in a grace until {self._grace_until}"
            )

    def _revoked(self, event: Event) -> None:
        f = event.fields
        held, at = self._live.get(f["id"]), int(f["revoke_at"])
        if held is None or held.token != int(f["token"]) or held.over:
            if held is not None or not self._of_before(int(f["token"])):
                self._break(event, 5, f"{f['id']} was revoked under token {f['token']}, which is not held")
        elif held.revoke_at is not None and at > held.revoke_at:
            self._break(event, 10, f"{f['id']} is to end at {at}, its holder was told {held.revoke_at}")
        else:
            held.revoke_at = at

    # -- those who wait ------------------------------------------------------------------------------------------------

    def _waits(self, event: Event) -> None:
        self._queued[event.fields["id"]] = _Queued(event.seq, int(event.fields.get("priority") or 0))

    def _leaves(self, event: Event) -> None:
        if event.kind == "dropped":
            self._not_in_grace(event)
        self._queued.pop(event.fields["id"], None)

    def _reserved(self, event: Event) -> None:
        waiter = event.fields["id"]
        if waiter not in self._queued and not self._unsure:
            self._break(event, 7, f"{event.fields['gpu_uuids']} is kept for {waiter}, who does not wait")
        for uuid in _cards(event.fields):
            card = self._card(uuid)
            if card.kept_for not in ("", waiter):
                self._break(event, 7, f"{uuid} is kept for {waiter} and for {card.kept_for}")
            card.kept_for = waiter

    def _unreserved(self, event: Event) -> None:
        for uuid in _cards(event.fields):
            self._card(uuid).kept_for = ""

    # -- cards, hosts, tenants, the ledger -----------------------------------------------------------------------------

    def _state(self, event: Event) -> None:
        card, to = self._card(event.fields["gpu"]), event.fields["to"]
        if to in _SLOW and card.state not in _SLOW:
            card.throttles += 1
        elif card.state in _SLOW and to in ("NORMAL", "OPTIMAL"):
            card.recoveries += 1
        card.state = to

    def _short(self, event: Event) -> None:
        card, says = self._card(event.fields["gpu"]), int(event.fields["leased_bytes"])
        if card.certain and card.leased_bytes != says:
            uuid = event.fields["gpu"]
            self._break(event, 1, f"the leases sum to {card.leased_bytes} on {uuid}, the ledger says {says}")

    def _drained(self, event: Event) -> None:
        uuid, host, on = event.fields.get("gpu", ""), event.fields.get("host", ""), event.kind == "drained"
        if uuid:
            marks, by = self._card(uuid).drained_by, event.fields.get("by", "gpu")
            (marks.add if on else marks.discard)(by)
        elif on:
            self._drained_hosts.add(host)
        else:
            self._drained_hosts.discard(host)

    def _left(self, event: Event) -> None:
        self._drained_hosts.discard(event.fields["host"])

    def _repaired(self, event: Event) -> None:
        """What the ledger said of a card was wrong, and so may be what this account took from it."""
        if "gpu" in event.fields:
            self._card(event.fields["gpu"]).certain = False

    def _tenant(self, event: Event) -> None:
        self._quotas[event.fields["name"]] = int(event.fields.get("quota_bytes") or 0)

    def _new_epoch(self, event: Event) -> None:
        self._epoch = int(event.fields["epoch"])
        self._settling_until = self._grace_until = int(event.fields.get("settling_until") or 0)
        if event.fields.get("why", "born") != "born":
            self._begin(unsure=True)

    def _settling(self, event: Event) -> None:
        self._settling_until = max(self._settling_until, int(event.fields["settling_until"]))
        self._grace_until = max(self._grace_until, self._settling_until)

    def _clock(self, event: Event) -> None:
        self._grace_until = max(self._grace_until, int(event.fields.get("grace_until") or 0))


def _cards(fields: dict[str, str]) -> tuple[str, ...]:
    return tuple(filter(None, fields["gpu_uuids"].split(",")))


def _numbers(event: Event, name: str, held: _Live) -> list[int]:
    """One number for each card of a lease."""
    return [int(number) for number in event.fields[name].split(",")][: len(held.cards)]


_HANDLERS: dict[str, Callable[[Audit, Event], None]] = {
    "granted": Audit._granted,
    "adopted": Audit._adopted,
    "registered": Audit._registered,
    "resized": Audit._resized,
    "released": Audit._gone,
    "reclaimed": Audit._gone,
    "unclaimed": Audit._gone,
    "expired": Audit._expired,
    "revived": Audit._revived,
    "revoked": Audit._revoked,
    "queued": Audit._waits,
    "cancelled": Audit._leaves,
    "dropped": Audit._leaves,
    "reserved": Audit._reserved,
    "unreserved": Audit._unreserved,
    "state": Audit._state,
    "short": Audit._short,
    "drained": Audit._drained,
    "undrained": Audit._drained,
    "left": Audit._left,
    "repaired": Audit._repaired,
    "tenant": Audit._tenant,
    "epoch": Audit._new_epoch,
    "settling": Audit._settling,
    "clock": Audit._clock,
}


def audit(events: Iterable[Event]) -> Audit:
    """The account of a journal, from the first event that is left of it."""
    account = Audit()
    for event in events:
        account.add(event)
    return account
