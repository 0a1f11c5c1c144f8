"""What the doctor looks at on RQ's side: jobs that borrow and nobody starts, workers, their keepers. Reads only.

Found by ``gpubroker doctor`` among the entry points ``gpubroker.doctor``. No job is unpickled: whoever may write a
queue would run code in the doctor.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psutil

from broker.doctor import Finding, of_server

if TYPE_CHECKING:
    from redis import Redis

    from broker.client import Broker

#: The class of workers that ours are made of came with this major version of RQ.
_LEAST_RQ = 3
#: Jobs of a queue that are looked at, from its front.
_LOOK_AT = 20
_NAMED = 5
#: ``meta["gpu"]`` as pickle and as JSON write it.
_BORROWS = (b"\x8c\x03gpu\x94", b'"gpu"')


@dataclass(frozen=True, slots=True)
class _Worker:
    """One of RQ's workers, as it wrote itself down."""

    name: str
    host: str
    pid: int
    version: str
    queues: tuple[str, ...]


def rq(broker: Broker, rq_url: str | None) -> Iterator[Finding]:
    """RQ's server, queues and workers beside the ledger's crews."""
    import redis

    if rq_url is None or not rq_url.startswith(("redis://", "rediss://", "unix://")):
        yield Finding("rq", "warning", "where RQ's Redis is was not said", "`gpubroker doctor --rq-url redis://…`")
        return
    client = redis.Redis.from_url(rq_url, socket_timeout=5, socket_connect_timeout=2)
    try:
        yield from _server(client, broker)
        workers = _workers(client)
        yield from _queues(client, broker, workers)
        yield from _versions(workers)
        yield from _keepers(broker, workers)
    except redis.exceptions.NoPermissionError as error:
        mend = "name a user who may, such as a worker's, by --rq-url"
        yield Finding("rq", "warning", f"RQ's side could not be looked at: {error}", mend)
    except (redis.ConnectionError, redis.TimeoutError) as error:
        yield Finding("rq", "wrong", f"RQ's Redis cannot be reached: {error}", "see RQ_REDIS_URL, or --rq-url")
    finally:
        client.close()


def _server(client: Redis, broker: Broker) -> Iterator[Finding]:
    """Where it is another than the ledger's, it has to keep what it is told as well."""
    told: Mapping[str, Any] = client.info()
    ledger: Mapping[str, Any] = broker.redis.info("server")
    if told.get("run_id") == ledger.get("run_id"):
        yield Finding("rq", "fine", "its jobs are on the ledger's server")
        return
    for finding in of_server(told, "RQ's "):
        yield replace(finding, severity="warning") if finding.severity == "wrong" else finding


def _workers(client: Redis) -> list[_Worker]:
    from rq.worker_registration import REDIS_WORKER_KEYS

    keys: Any = sorted(client.smembers(REDIS_WORKER_KEYS))
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.hmget(key, "hostname", "pid", "version", "queues")
        rows = pipeline.execute()
    found = []
    for key, row in zip(keys, rows, strict=True):
        host, pid, version, queues = ((one or b"").decode(errors="replace") for one in row)
        if queues:  # else it is gone, and RQ has not tidied up after it yet
            name = key.decode(errors="replace").rpartition(":")[2]
            found.append(_Worker(name, host, int(pid or 0), version, tuple(queues.split(","))))
    return found


# -- jobs that nobody starts -------------------------------------------------------------------------------------------


def _queues(client: Redis, broker: Broker, workers: list[_Worker]) -> Iterator[Finding]:
    from rq.queue import Queue

    from worker_hooks.parking import Lot

    now, waiting = _ledger_now(broker), 0
    for queue in sorted(Queue.all(connection=client), key=lambda one: one.name):
        parked, queued = len(Lot(queue)), _borrowing(client, queue)
        waiting += parked + queued
        ours = broker.redis.zcount(broker.keys.crew(queue.name), now, "+inf")
        if not ours and parked + queued:
            plain = sum(queue.name in worker.queues for worker in workers)
            yield _deserted(queue.name, parked, queued, plain)
    crews = f"{len(workers)} {'worker' if len(workers) == 1 else 'workers'}"
    yield Finding("rq queues", "fine", f"{crews}; {waiting or 'no'} jobs that borrow are queued or parked")


def _deserted(queue: str, parked: int, queued: int, plain: int) -> Finding:
    mend = (
        f"`gpubroker worker --queue {queue}`; if one runs, it speaks to another ledger: compare "
        "GPUBROKER_REDIS_URL and GPUBROKER_POOL"
    )
    jobs = (
        f"{parked} parked" if not queued else f"{queued} queued" if not parked else f"{parked} parked, {queued} queued"
    )
    if not plain:
        return Finding(f"queue {queue}", "wrong", f"jobs that borrow wait ({jobs}), and no worker serves it", mend)
    if parked:
        says = f"jobs are parked ({jobs}), and no worker of ours is left to start them when there is room"
        return Finding(f"queue {queue}", "wrong", says, mend)
    says = (
        f"jobs that borrow ({jobs}) have plain RQ workers only ({plain}): one that waits for room keeps its worker busy"
    )
    return Finding(f"queue {queue}", "warning", says, mend)


def _borrowing(client: Redis, queue: Any) -> int:
    """How many of the first jobs of a queue carry a request for memory, seen without unpickling anything."""
    prefix = queue.job_class.redis_job_namespace_prefix
    ids: Any = client.lrange(queue.key, 0, _LOOK_AT - 1)
    with client.pipeline(transaction=False) as pipeline:
        for job_id in ids:
            pipeline.hget(prefix.encode() + job_id, "meta")
        return sum(any(mark in (meta or b"") for mark in _BORROWS) for meta in pipeline.execute())


def _ledger_now(broker: Broker) -> int:
    from broker import plans

    return broker.run(plans.now(broker.keys))


# -- workers -----------------------------------------------------------------------------------------------------------


def _versions(workers: list[_Worker]) -> Iterator[Finding]:
    old = [worker for worker in workers if 0 < _major(worker.version) < _LEAST_RQ]
    for worker in old[:_NAMED]:
        says = f"runs RQ {worker.version}, on which GpuWorker does not work"
        yield Finding(
            f"worker {worker.name}", "wrong", says, f"upgrade on {worker.host} (rq>={_LEAST_RQ}) and start it again"
        )
    if len(old) > _NAMED:
        yield Finding("workers", "wrong", f"{len(old) - _NAMED} more run an RQ that is too old", "upgrade them")


def _major(version: str) -> int:
    first = version.partition(".")[0]
    return int(first) if first.isdecimal() else 0


def _keepers(broker: Broker, workers: list[_Worker]) -> Iterator[Finding]:
    """Of the idle workers of ours on this machine: whether the helper that renews leases stands beside each."""
    here = [worker for worker in workers if worker.host == socket.gethostname() and worker.pid]
    idle = {seat.split(" ")[1] for worker in here for queue in worker.queues for seat in _seats(broker, queue)}
    for worker in here:
        if worker.name in idle and _keeper_beside(worker.pid) is False:
            says = "its keeper, which renews leases and returns those of a killed worker, is gone"
            yield Finding(
                f"worker {worker.name}",
                "warning",
                says,
                "another is started with its next job; look at its log for why",
            )


def _seats(broker: Broker, queue: str) -> list[str]:
    seats: Any = broker.redis.zrange(broker.keys.seats(queue), 0, -1)
    return [str(seat) for seat in seats]


def _keeper_beside(pid: int) -> bool | None:
    """``None`` where the process cannot be seen from here, in another container for instance."""
    try:
        children = psutil.Process(pid).children()
    except psutil.Error:
        return None
    return any("worker_hooks.keeping" in _command(child) for child in children)


def _command(process: psutil.Process) -> list[str]:
    """Of one that is dead, and not buried yet, nothing is left."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []
