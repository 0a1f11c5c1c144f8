"""One look at a pool, for an exporter: everything that a scrape tells, in a bounded number of bounded batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from broker import plans
from broker.values import State

if TYPE_CHECKING:
    from broker.ledger.keys import Keys
    from broker.models import Tenant

T = TypeVar("T")

#: Leases and waiters that one look reads; of more there is the number alone.
LEASES_MOST, WAITERS_MOST = 10_000, 10_000
#: Hashes of one round trip: an event loop that reads a pool is given back after each.
_BATCH = 100

_CARD = (
    "uuid", "host", "index", "name", "state", "job_state", "temperature_c", "memory_total_bytes", "memory_used_bytes",
    "memory_reserved_bytes", "utilization_percent", "power_mw", "budget_bytes", "capacity_bytes", "leased_bytes",
    "free_bytes", "unmanaged_bytes", "short_bytes", "sampled_at", "fresh_until", "drained", "drained_by",
    "reserved_for",
)  # fmt: skip
_LEASE = (
    "tenant", "state", "memory_bytes", "gpu_uuids", "host", "created_at", "job_id", "function", "crew", "used_bytes",
    "over_bytes", "idle_seconds", "revoke_at",
)  # fmt: skip
_WAITER = ("tenant", "priority", "since", "memory_bytes", "gpus", "crew")


class Card(NamedTuple):
    """What is told of one card, by the names of ``broker.models.Gpu``: that one takes three times as long to be made.

    ``nth`` is its index, ``fresh`` is whether its newest sample is true yet; a card where it is not is UNAVAILABLE.
    """

    uuid: str
    host: str
    nth: str
    name: str
    state: State
    job_state: State
    temperature_c: int | None
    memory_total_bytes: int | None
    memory_used_bytes: int | None
    memory_reserved_bytes: int | None
    utilization_percent: int | None
    power_mw: int | None
    budget_bytes: int | None
    capacity_bytes: int | None
    leased_bytes: int | None
    free_bytes: int | None
    unmanaged_bytes: int | None
    short_bytes: int | None
    sampled_at: int | None
    fresh: bool
    drained: bool
    drained_by: tuple[str, ...]
    reserved_for: str

    @property
    def lends(self) -> bool:
        """Whether a grant on it is possible, given room."""
        return self.state not in (State.CRITICAL, State.UNAVAILABLE) and not self.drained


class Held(NamedTuple):
    """What is told of one lease. Bytes on all its GPUs together, ms of Redis's clock; ``None`` is not known."""

    tenant: str
    state: str
    memory_bytes: int
    uuids: tuple[str, ...]
    host: str
    created_at: int
    job_id: str
    function: str
    queue: str
    used_bytes: int | None
    over: bool
    idle: bool
    revoked: bool


class Queued(NamedTuple):
    """What is told of one waiter: ``memory_bytes`` on all the GPUs of its first alternative, since when it waits."""

    tenant: str
    priority: int
    since: int
    memory_bytes: int
    queue: str


@dataclass(slots=True)
class Look:
    """A pool as it was just now. ``lease_count`` and ``waiter_count`` count also those that were not read."""

    pool: str
    now: int
    ledger: Mapping[str, str] = field(default_factory=dict)
    cards: Sequence[Card] = ()
    hosts: Sequence[Mapping[str, str]] = ()
    tenants: Sequence[Tenant] = ()
    leases: Sequence[Held] = ()
    waiters: Sequence[Queued] = ()
    lease_count: int = 0
    waiter_count: int = 0


def look(keys: Keys) -> plans.Plan[Look]:
    """Read it. Not in one moment, as nothing that a person reads of a pool at work is."""
    ledger, time, leases, lease_count, waiters, waiter_count, uuids = yield [
        ("HGETALL", keys.ledger), ("TIME",), ("ZRANGE", keys.leases, 0, LEASES_MOST - 1), ("ZCARD", keys.leases),
        ("ZRANGE", keys.waiters, 0, WAITERS_MOST - 1), ("ZCARD", keys.waiters), ("SMEMBERS", keys.gpus),
    ]  # fmt: skip
    seen = Look(
        keys.pool,
        int(time[0]) * 1000 + int(time[1]) // 1000 + (number(ledger.get("clock_offset_ms")) or 0),
        ledger,
        lease_count=int(lease_count),
        waiter_count=int(waiter_count),
    )
    seen.hosts = yield from plans.hosts(keys)
    seen.tenants = yield from plans.tenants(keys)
    cards = yield from _rows([keys.gpu(one) for one in uuids], _CARD, lambda row: _card(row, seen.now))
    seen.cards = sorted(cards, key=lambda card: (card.host, number(card.nth) or 0, card.uuid))
    seen.leases = yield from _rows([keys.lease(one) for one in leases], _LEASE, _held)
    seen.waiters = yield from _rows([keys.waiter(one) for one in waiters], _WAITER, _queued)
    return seen


def server() -> plans.Plan[dict[str, Any]]:
    """What the ledger's server says of itself."""
    (told,) = yield [("INFO",)]
    return dict(told)


def _rows(
    names: Sequence[str], fields: Sequence[str], made: Callable[[Sequence[str | None]], T]
) -> plans.Plan[list[T]]:
    """Something made of these fields of every hash that is there yet: a first field each of them has."""
    found: list[T] = []
    for start in range(0, len(names), _BATCH):
        replies = yield [("HMGET", name, *fields) for name in names[start : start + _BATCH]]
        found += [made(reply) for reply in replies if reply[0] is not None]
    return found


def _card(row: Sequence[str | None], now: int) -> Card:
    (
        uuid, host, nth, name, state, job_state, heat, total, used, reserved, load, power, budget, capacity, leased,
        free, unmanaged, short, sampled, until, drained, by, kept_for,
    ) = row  # fmt: skip
    fresh = (number(until) or 0) >= now
    return Card(
        uuid or "", host or "", nth or "", name or "", _state(state, fresh), _state(job_state, fresh), number(heat),
        number(total), number(used), number(reserved), number(load), number(power), number(budget), number(capacity),
        number(leased), number(free), number(unmanaged), number(short), number(sampled), fresh, drained == "1",
        tuple(filter(None, (by or "").split(","))), kept_for or "",
    )  # fmt: skip


def _state(text: str | None, fresh: bool) -> State:
    """What a grant goes by: a sample past its freshness is no news, and nothing fails open."""
    return State.__members__.get(text or "", State.UNAVAILABLE) if fresh else State.UNAVAILABLE


def _held(row: Sequence[str | None]) -> Held:
    tenant, state, memory, on, host, created, job, function, crew, used, over, idle, revoke_at = row
    uuids = tuple(filter(None, (on or "").split(",")))
    return Held(
        tenant or "", state or "", (number(memory) or 0) * len(uuids), uuids, host or "", number(created) or 0,
        job or "", function or "", crew or "", number(used), bool(number(over)), bool(number(idle)),
        bool(number(revoke_at)),
    )  # fmt: skip


def _queued(row: Sequence[str | None]) -> Queued:
    tenant, priority, since, memory, gpus, crew = row
    bytes_ = (number(memory) or 0) * (number(gpus) or 1)
    return Queued(tenant or "", number(priority) or 0, number(since) or 0, bytes_, crew or "")


def number(text: str | None) -> int | None:
    """A whole number of the ledger; ``None`` where there is none, or somebody wrote something else by hand."""
    try:
        return int(text) if text else None
    except ValueError:
        return None
