"""One look at a pool, for an exporter: everything that a scrape tells, in a bounded number of bounded batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from broker import plans

if TYPE_CHECKING:
    from broker.ledger.keys import Keys
    from broker.models import Gpu, Tenant

#: Leases and waiters that one look reads; of more there is the number alone.
LEASES_MOST, WAITERS_MOST = 10_000, 10_000
_BATCH = 500

_LEASE = (
    "tenant", "state", "memory_bytes", "gpu_uuids", "host", "created_at", "job_id", "function", "crew", "used_bytes",
    "over_bytes", "idle_seconds", "revoke_at",
)  # fmt: skip
_WAITER = ("tenant", "priority", "since", "memory_bytes", "gpus", "crew")


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
    gpus: Sequence[Gpu] = ()
    hosts: Sequence[Mapping[str, str]] = ()
    tenants: Sequence[Tenant] = ()
    leases: Sequence[Held] = ()
    waiters: Sequence[Queued] = ()
    lease_count: int = 0
    waiter_count: int = 0


def look(keys: Keys) -> plans.Plan[Look]:
    """Read it. Not in one moment, as nothing that a person reads of a pool at work is."""
    ledger, time, leases, lease_count, waiters, waiter_count = yield [
        ("HGETALL", keys.ledger), ("TIME",), ("ZRANGE", keys.leases, 0, LEASES_MOST - 1), ("ZCARD", keys.leases),
        ("ZRANGE", keys.waiters, 0, WAITERS_MOST - 1), ("ZCARD", keys.waiters),
    ]  # fmt: skip
    seen = Look(
        keys.pool,
        int(time[0]) * 1000 + int(time[1]) // 1000 + (number(ledger.get("clock_offset_ms")) or 0),
        ledger,
        lease_count=int(lease_count),
        waiter_count=int(waiter_count),
    )
    seen.gpus = yield from plans.gpus(keys)
    seen.hosts = yield from plans.hosts(keys)
    seen.tenants = yield from plans.tenants(keys)
    rows = yield from _rows([keys.lease(one) for one in leases], _LEASE)
    seen.leases = [_held(dict(zip(_LEASE, row, strict=True))) for row in rows]
    rows = yield from _rows([keys.waiter(one) for one in waiters], _WAITER)
    seen.waiters = [_queued(dict(zip(_WAITER, row, strict=True))) for row in rows]
    return seen


def server() -> plans.Plan[dict[str, Any]]:
    """What the ledger's server says of itself."""
    (told,) = yield [("INFO",)]
    return dict(told)


def _rows(names: Sequence[str], fields: Sequence[str]) -> plans.Plan[list[Sequence[str | None]]]:
    """These fields of every hash that is there yet; each has a tenant."""
    found: list[Sequence[str | None]] = []
    for some in _batches(names):
        replies = yield [("HMGET", name, *fields) for name in some]
        found += [reply for reply in replies if reply[0] is not None]
    return found


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _BATCH):
        yield names[start : start + _BATCH]


def _held(told: Mapping[str, str | None]) -> Held:
    uuids = tuple(filter(None, (told["gpu_uuids"] or "").split(",")))
    used = number(told["used_bytes"])
    return Held(
        told["tenant"] or "", told["state"] or "", (number(told["memory_bytes"]) or 0) * len(uuids), uuids,
        told["host"] or "", number(told["created_at"]) or 0, told["job_id"] or "", told["function"] or "",
        told["crew"] or "", used, bool(number(told["over_bytes"])), bool(number(told["idle_seconds"])),
        bool(number(told["revoke_at"])),
    )  # fmt: skip


def _queued(told: Mapping[str, str | None]) -> Queued:
    return Queued(
        told["tenant"] or "", number(told["priority"]) or 0, number(told["since"]) or 0,
        (number(told["memory_bytes"]) or 0) * (number(told["gpus"]) or 1), told["crew"] or "",
    )  # fmt: skip


def number(text: str | None) -> int | None:
    """A whole number of the ledger; ``None`` where there is none, or somebody wrote something else by hand."""
    try:
        return int(text) if text else None
    except ValueError:
        return None
