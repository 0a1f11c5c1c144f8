"""Why a request waits or would wait: card by card, in plain words with numbers, and when room may come.

The verdicts are those of ``lua/explain.lua``, which asks the very predicate that grants. Here they become words.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker import calls, plans
from broker.errors import InvalidRequest

if TYPE_CHECKING:
    from broker.aio import AsyncBroker
    from broker.client import Broker
    from broker.ledger.keys import Keys
    from broker.models import Tenant

#: Cards whose leases are looked at for the estimate: those that lack least.
_LIKELY = 16
_LEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,127}\+?", re.ASCII)
_HEAD, _CARD = 8, 8  # values at the head of a reply, and for each card


@dataclass(frozen=True, slots=True)
class CardVerdict:
    """What speaks against the request on one card. Bytes; ``need_bytes`` of this card.

    ``why`` is ``fits``, or: ``settling``, ``selector``, ``closed``, ``drained``, ``silent``, ``small``, ``reserved``,
    ``unmanaged``, ``leased``, ``host_memory``, ``cpus``, ``quota``, ``gang``, ``passed``, ``seat`` (no idle worker
    of its queue is there); ``detail`` says more.
    """

    uuid: str
    host: str
    why: str
    need_bytes: int
    free_bytes: int
    budget_bytes: int
    capacity_bytes: int
    detail: str = ""

    @property
    def fits(self) -> bool:
        """Whether the card has room for the request now."""
        return self.why == "fits"

    @property
    def missing_bytes(self) -> int:
        """How much more would have to be free on it."""
        return max(0, self.need_bytes - self.free_bytes)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a request waits, or would. ``kind`` is ``waiting``, ``granted``, ``ask`` (what would be) or ``unknown``.

    ``place`` 1 is next. ``quota_left_bytes`` is ``None`` without a quota, ``settling_until`` while nothing settles.
    ``estimate_seconds`` is when enough bytes may come back on one card at the earliest, by how long such leases were
    held before; ``None`` where nothing is known of them. Times are milliseconds of Redis's clock.
    """

    what: str
    request: str
    kind: str
    place: int | None
    waiters: int
    quota_left_bytes: int | None
    settling_until: int | None
    now: int
    cards: tuple[CardVerdict, ...]
    total_cards: int
    tenant: str = "default"
    gpus: int = 1
    estimate_seconds: float | None = None
    #: Why it can never be as the pool and the quota are: ``size``, ``quota``, ``host``, ``gpu``, ``selector``,
    #: ``host_memory``, ``cpus`` or ``cards``; empty if it can.
    never: str = ""

    @property
    def ahead(self) -> int:
        """How many requests stand before it; of a request that does not wait, how many wait."""
        return self.waiters if self.place is None else self.place - 1

    @property
    def fits(self) -> bool:
        """Whether it would be granted now."""
        return any(card.fits for card in self.cards)

    def words(self) -> list[str]:
        """The reasons in plain English, the one that is nearest to being mended first, each with what to do."""
        from broker.verdicts import words

        return words(self)

    def __str__(self) -> str:
        """The reasons, a line each."""
        return "\n".join(self.words())


def explain(broker: Broker, what: calls.Memory, **request: Any) -> Explanation:
    """Why the waiter or lease of that name, or RQ's job of that id, waits; or what so large a request would meet now.

    ``what`` is a size, as ``acquire`` takes it, or else a name; ``request`` is what ``acquire`` takes.

    Raises:
        InvalidRequest: neither a size nor a name, or an option that acquire does not take. PoolUnavailable.
    """
    told = _explained(broker, Inquiry(what, request))
    name = broker.run(plans.of_job(broker.keys, told.what)) if told.kind == "unknown" else None
    return told if name is None else _explained(broker, Inquiry(name, {}, named=True))


def _explained(broker: Broker, inquiry: Inquiry) -> Explanation:
    while (argv := inquiry.next_argv()) is not None:
        inquiry.take(broker.call("explain", *argv))
    return broker.run(inquiry.conclude(broker.keys))


def explain_named(broker: Broker, name: str) -> Explanation:
    """As ``explain``, for a name that may read like a size.

    Raises:
        InvalidRequest: not a name. PoolUnavailable.
    """
    return _explained(broker, Inquiry(name, {}, named=True))


async def explain_async(broker: AsyncBroker, what: calls.Memory, **request: Any) -> Explanation:
    """As ``explain``."""
    told = await _explained_async(broker, Inquiry(what, request))
    name = await broker.run(plans.of_job(broker.keys, told.what)) if told.kind == "unknown" else None
    return told if name is None else await _explained_async(broker, Inquiry(name, {}, named=True))


async def explain_named_async(broker: AsyncBroker, name: str) -> Explanation:
    """As ``explain_named``; a job of RQ's is found by its id too."""
    told = await _explained_async(broker, Inquiry(name, {}, named=True))
    job = await broker.run(plans.of_job(broker.keys, name)) if told.kind == "unknown" else None
    return told if job is None else await _explained_async(broker, Inquiry(job, {}, named=True))


async def _explained_async(broker: AsyncBroker, inquiry: Inquiry) -> Explanation:
    while (argv := inquiry.next_argv()) is not None:
        inquiry.take(await broker.call("explain", *argv))
    return await broker.run(inquiry.conclude(broker.keys))


class Inquiry:
    """The questions to the ledger and what comes of their answers; no input or output."""

    def __init__(self, what: calls.Memory, request: Mapping[str, Any], *, named: bool = False) -> None:
        """Check the question; ``named``: it is a name, even if it reads like a size."""
        self._ask = None if named else _asked(what, request)
        if self._ask is None and not (isinstance(what, str) and _LEASE.fullmatch(what)):
            raise InvalidRequest("what", what, 'a size such as "4GiB" or "2x8GiB", or the name of a request or lease')
        self._what = str(what)
        self._cursor: str | None = "0"
        self._head: Sequence[str] = ()
        self._cards: list[CardVerdict] = []
        self._held = False

    def next_argv(self) -> tuple[str | int, ...] | None:
        """The next question to ``explain.lua``, or ``None``."""
        if self._cursor is None:
            return None
        if self._ask is None:
            return "lease", self._what, self._cursor
        return "ask", *self._ask.argv[1:], 0, *self._ask.options, "cursor", self._cursor

    def take(self, reply: Sequence[Any]) -> None:
        """Note one page of verdicts."""
        head = [str(value) for value in reply[:_HEAD]]
        if head[0] == "granted" and not self._what.endswith("+"):
            # It holds its lease; perhaps it waits for more, which the ledger queues under a name of its own.
            self._held, self._head, self._what = True, head, f"{self._what}+"
            return
        if self._held and head[0] != "waiting":
            self._cursor, self._what = None, self._what.removesuffix("+")
            return
        self._head, self._cursor = head, head[6] or None
        for at in range(_HEAD, len(reply), _CARD):
            uuid, host, why, need, free, budget, capacity, detail = map(str, reply[at : at + _CARD])
            numbers = (int(need), int(free), int(budget), int(capacity))
            self._cards.append(CardVerdict(uuid, host, why, *numbers, detail))

    def conclude(self, keys: Keys) -> plans.Plan[Explanation]:
        """Read what the estimate needs, and put it together."""
        from broker.models import Waiter

        kind, place, waiters, quota, settling, total, _, never = self._head
        request, tenant, gpus = "", "default", 1
        fields, time, offset = yield [
            ("HGETALL", keys.waiter(self._what)), ("TIME",), ("HGET", keys.ledger, "clock_offset_ms"),
        ]  # fmt: skip
        if self._ask is not None:
            request, tenant = " or ".join(want.words for want in self._ask.wants), str(self._ask.argv[6])
            gpus = self._ask.wants[0].count
        elif fields:
            waiter = Waiter.from_hash(fields)
            request, tenant, gpus = waiter.memory, waiter.tenant, waiter.gpus
        now = int(time[0]) * 1000 + int(time[1]) // 1000 + int(offset or 0)
        return Explanation(
            what=self._what, request=request, kind=kind, place=int(place) or None, waiters=int(waiters),
            quota_left_bytes=int(quota) if quota else None, settling_until=int(settling) or None, now=now,
            cards=tuple(self._cards), total_cards=int(total), tenant=tenant, gpus=gpus,
            estimate_seconds=None if never else (yield from _estimate(keys, self._cards, gpus, now)), never=never,
        )  # fmt: skip


def _asked(what: object, request: Mapping[str, Any]) -> calls.Ask | None:
    """The request, if ``what`` is one: a size, or several of which one will do; else it is a name."""
    alternatives = what.split(",") if isinstance(what, str) else what
    try:
        calls.wants(alternatives)  # type: ignore[arg-type]
    except InvalidRequest:
        return None
    unknown = set(request) - set(calls.ask.__kwdefaults__ or ())
    if unknown:
        raise InvalidRequest("request", sorted(unknown)[0], "what acquire takes")
    return calls.ask(alternatives, **request)  # type: ignore[arg-type]


# -- when room may come ------------------------------------------------------------------------------------------------


def _estimate(keys: Keys, cards: Sequence[CardVerdict], gpus: int, now: int) -> plans.Plan[float | None]:
    """Seconds until enough bytes may be back on one card, or on so many cards of one host."""
    if any(card.fits for card in cards):
        return 0.0
    likely = sorted((card for card in cards if card.why in ("leased", "gang")), key=lambda card: card.missing_bytes)
    likely = likely[: _LIKELY * gpus]
    if not likely:
        return None
    names: list[list[str]] = yield [("HKEYS", keys.gpu(card.uuid)) for card in likely]
    ids = sorted({name.removeprefix("lease:") for fields in names for name in fields if name.startswith("lease:")})
    rows = yield [
        ("HMGET", keys.lease(one), "memory_bytes", "created_at", "tenant", "function", "revoke_at", "state")
        for one in ids
    ] or [("PING",)]
    leases = {one: row for one, row in zip(ids, rows, strict=False) if row[0] is not None}
    tenants = yield from _tenants(keys, sorted({row[2] for row in leases.values()}))
    left = {one: _left_ms(row, tenants, now) for one, row in leases.items()}
    by_host: dict[str, list[float]] = defaultdict(list)
    for card, fields in zip(likely, names, strict=True):
        on = [name.removeprefix("lease:") for name in fields if name.startswith("lease:")]
        back = [(left[one], int(leases[one][0])) for one in on if one in leases]
        by_host[card.host].append(_first_room(card.missing_bytes, back))
    first = min((sorted(times)[gpus - 1] for times in by_host.values() if len(times) >= gpus), default=float("inf"))
    return None if first == float("inf") else first / 1000


def _tenants(keys: Keys, names: Sequence[str]) -> plans.Plan[dict[str, Tenant]]:
    from broker.models import Tenant

    if not names:
        return {}
    hashes = yield [("HGETALL", keys.tenant(name)) for name in names]
    return {name: Tenant.from_hash({**fields, "name": name}) for name, fields in zip(names, hashes, strict=True)}


def _left_ms(row: Sequence[str | None], tenants: Mapping[str, Tenant], now: int) -> float:
    """How much longer a lease may be held: as long as its function's, or its tenant's, were on average.

    One that has outlasted that is taken to last as long again as it has been overdue.
    """
    created, tenant, function, revoke_at, state = int(row[1] or 0), row[2] or "", row[3] or "-", row[4], row[5]
    if state == "reclaiming":
        return 0.0
    mean = tenants[tenant].mean_held_ms(function) if tenant in tenants else None
    left = float("inf") if mean is None else abs(mean - (now - created))
    return min(left, max(0.0, float(revoke_at) - now)) if revoke_at else left


def _first_room(missing: int, back: Sequence[tuple[float, int]]) -> float:
    """When so many bytes have come back, of leases with their times and bytes; infinite if never."""
    if missing <= 0:
        return 0.0
    for at, size in sorted(back):
        missing -= size
        if missing <= 0:
            return at
    return float("inf")
