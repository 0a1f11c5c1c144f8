"""Leases, waiters, jobs, tenants, ledger and server as metric families."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, InfoMetricFamily, Metric

from broker.metrics.cards import gauge
from broker.metrics.labels import Bounded, value
from broker.metrics.look import Held, Look, number
from broker.models import Tenant
from broker.units import MIB

#: Jobs with series of their own: those that hold longest, from so many seconds on. Short ones would each leave series
#: behind that nobody looks at.
JOBS_MOST, JOB_SECONDS = 50, 60
TENANTS_MOST, FUNCTIONS_MOST, QUEUES_MOST, PRIORITIES_MOST = 100, 200, 100, 20

_JOB = ("pool", "job_id", "tenant", "function", "Hostname", "UUID")
_STATES = ("granted", "active", "reclaiming")


def families(seen: Look) -> Iterator[Metric]:
    """What is lent, to whom, who waits for it, and how the ledger is."""
    yield from _leases(seen)
    yield from _jobs(seen)
    yield from _waiters(seen)
    yield from _queues(seen)
    yield from _tenants(seen)
    yield from _functions(seen)
    yield from _ledger(seen)


def _leases(seen: Look) -> Iterator[Metric]:
    tenant = Bounded(TENANTS_MOST)
    count, held = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for lease in seen.leases:
        at = lease.state if lease.state in _STATES else "active", tenant(lease.tenant)
        count[at] += 1
        held[at] += lease.memory_bytes
    labels = "pool", "state", "tenant"
    words = "Leases whose bytes count; a reclaiming one is over and its memory was not seen back yet"
    yield gauge("gpubroker_leases", words, labels, (([seen.pool, *at], n) for at, n in sorted(count.items())))
    words = "Bytes of the leases, on all their cards"
    yield gauge(
        "gpubroker_leases_memory_bytes", words, labels, (([seen.pool, *at], n) for at, n in sorted(held.items()))
    )
    for name, words, number_of in (
        ("unread", "Leases beyond the number that one scrape reads", seen.lease_count - len(seen.leases)),
        ("overusing", "Leases whose processes take more than they borrowed", sum(one.over for one in seen.leases)),
        ("idle", "Leases whose cards do nothing for idle_seconds", sum(one.idle for one in seen.leases)),
        ("revoked", "Leases that were asked to end and have not yet", sum(one.revoked for one in seen.leases)),
    ):
        yield gauge(f"gpubroker_leases_{name}", words, ("pool",), [([seen.pool], max(0, number_of))])


def _jobs(seen: Look) -> Iterator[Metric]:
    """The jobs that hold longest. A job that holds several leases on the same cards counts once, with all of them."""
    old = [one for one in seen.leases if one.job_id and seen.now - one.created_at >= 1000 * JOB_SECONDS]
    jobs: dict[tuple[str, ...], list[Held]] = defaultdict(list)
    for lease in sorted(old, key=lambda one: one.created_at):
        of = tuple(map(value, (lease.job_id, lease.tenant, lease.function, lease.host, ",".join(lease.uuids))))
        if of in jobs or len(jobs) < JOBS_MOST:
            jobs[of].append(lease)
    told = [([seen.pool, *of], held) for of, held in jobs.items()]
    least = f"of the {JOBS_MOST} jobs that hold longest, from {JOB_SECONDS} s on"
    sums = (([*of], sum(one.memory_bytes for one in held)) for of, held in told)
    yield gauge("gpubroker_job_leased_memory_bytes", f"Bytes lent to a job, {least}", _JOB, sums)
    seen_used = (
        ([*of], sum(one.used_bytes or 0 for one in held)) for of, held in told
        if all(one.used_bytes is not None for one in held)
    )  # fmt: skip
    yield gauge("gpubroker_job_used_memory_bytes", f"Bytes that agents see a job use, {least}", _JOB, seen_used)
    ages = (([*of], (seen.now - held[0].created_at) / 1000) for of, held in told)
    yield gauge("gpubroker_job_lease_age_seconds", f"Since the grant, {least}", _JOB, ages)


def _waiters(seen: Look) -> Iterator[Metric]:
    tenant, priority = Bounded(TENANTS_MOST), Bounded(PRIORITIES_MOST)
    count, wanted, first = Counter[tuple[str, str]](), Counter[tuple[str, str]](), dict[tuple[str, str], int]()
    for waiter in seen.waiters:
        at = tenant(waiter.tenant), priority(str(waiter.priority))
        count[at] += 1
        wanted[at] += waiter.memory_bytes
        first[at] = min(first.get(at, waiter.since), waiter.since)
    labels = "pool", "tenant", "priority"
    yield gauge("gpubroker_waiters", "Requests that wait", labels, (([seen.pool, *at], n) for at, n in count.items()))
    words = "Bytes that those who wait ask for, in their first alternatives"
    yield gauge("gpubroker_waiters_memory_bytes", words, labels, (([seen.pool, *at], n) for at, n in wanted.items()))
    words = "For how long the one waits who came first"
    ages = (([seen.pool, *at], max(0, seen.now - since) / 1000) for at, since in first.items())
    yield gauge("gpubroker_waiters_longest_seconds", words, labels, ages)
    unread = [([seen.pool], max(0, seen.waiter_count - len(seen.waiters)))]
    yield gauge("gpubroker_waiters_unread", "Waiters beyond the number that one scrape reads", ("pool",), unread)


def _queues(seen: Look) -> Iterator[Metric]:
    """Jobs by queue, in RQ's words for their status, as rq-exporter has them; read in the ledger, not in RQ."""
    queue = Bounded(QUEUES_MOST)
    count = Counter[tuple[str, str]]()
    for one in seen.waiters:
        if one.queue:
            count[queue(one.queue), "scheduled"] += 1
    for lease in seen.leases:
        if lease.queue:
            count[queue(lease.queue), "started"] += 1
    words = "Jobs that borrow: scheduled ones are parked until there is room, started ones hold a lease"
    values = (([seen.pool, *at], n) for at, n in sorted(count.items()))
    yield gauge("gpubroker_queue_jobs", words, ("pool", "queue", "status"), values)


def _tenants(seen: Look) -> Iterator[Metric]:
    tenants = seen.tenants[:TENANTS_MOST]
    for name, words, told in (
        ("leased_memory_bytes", "Bytes that it holds", [one.leased_bytes for one in tenants]),
        ("quota_memory_bytes", "Bytes that it may hold; absent without a quota", [one.quota_bytes for one in tenants]),
        ("weight", "Its weight among tenants of one priority", [one.weight for one in tenants]),
        (
            "usage_byte_seconds", "What it used lately; older use counts less",
            [one.usage_mib_seconds * MIB for one in tenants],
        ),
    ):  # fmt: skip
        values = (([seen.pool, value(one.name)], number_of) for one, number_of in zip(tenants, told, strict=True))
        yield gauge(f"gpubroker_tenant_{name}", words, ("pool", "tenant"), values)


def _functions(seen: Look) -> Iterator[Metric]:
    """The ledger's own running sums: the same from every server, and they go on where it is started anew."""
    sums = {
        "leases": ("Leases of a function that ended", lambda one: one.count),
        "lease_wait_seconds": ("Time that leases of a function waited", lambda one: one.waited_ms / 1000),
        "lease_hold_seconds": ("Time that leases of a function were held", lambda one: one.held_ms / 1000),
        "lease_memory_byte_seconds": ("Bytes times time that a function held", lambda one: one.mib_seconds * MIB),
    }  # fmt: skip
    functions = [(tenant, name) for tenant in seen.tenants[:TENANTS_MOST] for name in sorted(tenant.functions)]
    for what, (words, read) in sums.items():
        family = CounterMetricFamily(f"gpubroker_function_{what}", words, labels=("pool", "tenant", "function"))
        for labels, total in _summed(seen.pool, functions[:FUNCTIONS_MOST], read).items():
            family.add_metric(labels, total)
        yield family


def _summed(pool: str, functions: list[tuple[Tenant, str]], read: Any) -> Mapping[tuple[str, ...], float]:
    sums = Counter[tuple[str, ...]]()
    for tenant, name in functions:
        sums[pool, value(tenant.name), value(name)] += read(tenant.functions[name])
    return sums


def _ledger(seen: Look) -> Iterator[Metric]:
    ledger = seen.ledger
    settling = (number(ledger.get("settling_until")) or 0) - seen.now
    for name, words, told in (
        ("epoch", "Generation: grows when data was lost or another primary took over", number(ledger.get("epoch"))),
        ("settling", "1 while nothing is lent, until its holders have registered again", settling > 0),
        ("settling_seconds", "For how long it still settles", max(0, settling) / 1000),
        (
            "clock_offset_seconds", "By how much its clock is ahead of its server's, which stepped back",
            (number(ledger.get("clock_offset_ms")) or 0) / 1000,
        ),
    ):  # fmt: skip
        if ledger:
            yield gauge(f"gpubroker_ledger_{name}", words, ("pool",), [([seen.pool], told)])


def server(pool: str, told: Mapping[str, Any]) -> Iterator[Metric]:
    """The ledger's server, by its INFO; nothing where its user may not ask."""
    if not told:
        return
    version = told.get("valkey_version") or told.get("redis_version") or ""
    kind = "valkey" if told.get("valkey_version") else "redis"
    info = InfoMetricFamily("gpubroker_server", "Kind and version of the ledger's server", labels=("pool",))
    info.add_metric([pool], {"kind": kind, "version": value(str(version)), "role": value(str(told.get("role", "")))})
    yield info
    most, aof = int(told.get("maxmemory") or 0), bool(told.get("aof_enabled"))
    written = all(told.get(name, "ok") == "ok" for name in ("aof_last_write_status", "aof_last_bgrewrite_status"))
    for name, words, number_of in (
        ("memory_used_bytes", "Memory that the server uses", told.get("used_memory")),
        ("memory_limit_bytes", "The server's maxmemory; absent where it has none", most or None),
        ("append_only", "1 if it keeps an append-only file: without one a restart loses leases", aof),
        ("append_only_written", "1 if its append-only file could be written", written if aof else None),
        ("evicts", "1 if a full server would throw leases away", told.get("maxmemory_policy") != "noeviction"),
        ("clients", "Connections to it", told.get("connected_clients")),
    ):
        yield gauge(f"gpubroker_server_{name}", words, ("pool",), [([pool], number_of)])
