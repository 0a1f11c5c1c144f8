"""Who is compared: what each peer is, how it is started, what it does not do, and why it is missing where it is."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field

from benchmarks.peer import semaphore
from benchmarks.peer.far import Far
from benchmarks.peer.rq_jobs import DECORATOR, LEASE, LIMIT, PLAIN

#: How a Python peer that is not there is shown.
NOT_INSTALLED = "not installed: pip install '.[bench]'"

#: The laws that a pool of GPU memory is held to; a peer's own are in this order.
LAWS = (
    "weights", "several cards", "queue in order", "fencing token", "TTL", "idempotent retry",
    "survives holder's death", "hardware's truth", "places across hosts",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Peer:
    """One of those that are compared. ``module`` has ``opened(url, *more)``; ``library`` is what it imports."""

    name: str
    module: str
    library: str
    #: What it does about each of ``LAWS``, in a word or two.
    laws: tuple[str, ...]
    #: Its time to live by default.
    ttl: str = ""
    #: How one who waits learns of a return, by default.
    waits: str = ""
    #: Seconds between two of its tries while it waits, by default; 0 where it is woken.
    poll_seconds: float = 0.0
    #: What it is not, or why it is quicker where it is.
    note: str = ""
    more: tuple[str, ...] = field(default=())

    def missing(self) -> str:
        """Why it cannot be run here; empty if it can."""
        if self.module == "semaphore":
            return semaphore.missing()
        return "" if importlib.util.find_spec(self.library) else NOT_INSTALLED

    def started(self, url: str) -> Far:
        """Its process, which may not be ready yet."""
        return semaphore.started(url) if self.module == "semaphore" else Far.python(self.module, url, *self.more)


_OURS = ("bytes", "yes", "yes", "yes", "30 s, renewed", "yes", "yes", "yes", "yes")
#: What a lock is not: it counts nothing, queues nobody, has no number to fence by, and repeats nothing safely.
_LOCK = ("no", "no", "no", "no")
_NOWHERE = ("no", "no")

OURS = Peer(
    "gpubroker", "ours", "broker", _OURS,
    ttl="30 s, renewed; then 5 s until its bytes are lent again",
    waits="woken (BLPOP), and holds it when it wakes",
    note="counts bytes of a card, keeps a journal, a queue and an index",
)  # fmt: skip

#: Whoever lends a name to a process.
LENDERS = (
    OURS,
    Peer(
        "redis-py Lock", "redis_py", "redis", (*_LOCK, "if asked for", "no", "with a TTL", *_NOWHERE),
        ttl="none", waits="polls, every 0.1 s", poll_seconds=0.1,
        note="one SET and a script of two commands: nothing is counted",
    ),
    Peer(
        "python-redis-lock", "redis_lock", "redis_lock", (*_LOCK, "if asked for", "no", "with a TTL", *_NOWHERE),
        ttl="none", waits="woken (BLPOP), then tries: a newcomer may be first",
        note="one holder; of its four commands none counts anything",
    ),
    Peer(
        "pottery Redlock", "redlock", "pottery", (*_LOCK, "10 s", "by undoing", "after the TTL", *_NOWHERE),
        ttl="10 s, not renewed", waits="polls, up to 0.2 s apart", poll_seconds=0.2,
        note="one holder, for ten seconds unless it extends by itself",
    ),
    Peer(
        "limits", "rate_limits", "limits", ("by cost", *_LOCK[1:], "the window", "no", "after the window", *_NOWHERE),
        ttl="10 s, the window chosen here", waits="does not wait; here a try every 0.1 s", poll_seconds=0.1,
        note="limits rates: no holder, and `clear` returns what anybody took",
    ),
    Peer(
        "redis-semaphore", "semaphore", "", ("permits", *_LOCK[1:], "10 s, renewed", "no", "after the TTL", *_NOWHERE),
        ttl="10 s, renewed", waits="polls, every 0.01 s", poll_seconds=0.01,
        note="counts holders by their own clocks; Node's client is quicker",
    ),
)  # fmt: skip

#: Whoever runs jobs of which one at a time may hold what there is.
QUEUES = (
    Peer(
        "gpubroker, GpuWorker", "rq_jobs", "broker", _OURS, more=(LEASE,), ttl=OURS.ttl,
        waits="parked; the release hands it to a worker",
        note="a lease before the job starts, back when it has ended",
    ),
    Peer(
        "RQ RateLimit", "rq_jobs", "rq", more=(LIMIT,),
        laws=("no", "no", "yes", "no", "no", "no", "worker: 600 s", "no", "one count for all"),
        ttl="none; RQ's maintenance, every 600 s", waits="promoted when a job ends",
        note="counts ids of a key; no host, no process is looked at",
    ),
    Peer(
        "Dask worker resources", "dask_resources", "distributed",
        ("numbers", "no", "by priority", "no", "no", "no", "yes", "no: a worker's word", "yes"),
        ttl="none: a connection", waits="its worker starts the next",
        note="in memory of its scheduler, and gone with that",
    ),
    Peer(
        "Ray fractional GPUs", "ray_gpus", "ray",
        ("fractions", "whole ones", "no", "no", "no", "no", "yes", "no: a logical number", "yes"),
        ttl="none: a connection", waits="its raylet starts the next",
        note="no process is held to its fraction; a cluster of its own",
    ),
)  # fmt: skip


def _around(peer: Peer) -> Peer:
    """RQ's jobs that take and give back what a peer lends."""
    return Peer(f"RQ + {peer.name}", "rq_jobs", peer.library, (), more=(peer.module,))


#: RQ's jobs without any limit, and under what else can be put around a job; redis-semaphore is not Python's.
AROUND_JOBS = (
    Peer("RQ, no limit", "rq_jobs", "rq", (), more=(PLAIN,)),
    *(_around(peer) for peer in LENDERS[1:] if peer.library),
    Peer("RQ + gpubroker's @gpu_job", "rq_jobs", "broker", (), more=(DECORATOR,)),
)
