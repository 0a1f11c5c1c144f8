"""Jobs whose worker died, and jobs that wait for nobody: found by their lease, long before RQ would look.

RQ finds a job of a killed worker after 90 s of silence, at its next maintenance (10 minutes). The ledger knows sooner:
the job's lease was not renewed and its time is over, or nothing of it is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import WatchError
from rq.callbacks import execute_failure_callback
from rq.defaults import RQ_KEY_PREFIX
from rq.exceptions import AbandonedJobError
from rq.executions import Execution
from rq.job import Job, JobStatus, parse_job_id
from rq.job_lifecycle import call_exception_handlers, record_job_failure
from rq.rate_limit import release_slot
from rq.utils import as_text, current_timestamp, now

from worker_hooks.owning import status_within
from worker_hooks.parking import Lot
from worker_hooks.request import lease_name

if TYPE_CHECKING:
    from rq.queue import Queue

    from broker.client import Broker

Handler = Callable[..., object]

#: Entries looked at: those heard of least lately, and so the dead ones, come first.
_LOOK_AT = 100
#: What RQ's clean-up may see as forgotten before the next thing is done here; hosts' clocks differ.
_SOON_SECONDS = 5
_LOCK_SECONDS = 60


def its_turn(queue: Queue, seconds: float) -> bool:
    """Whether nobody looked after this queue for so long: one worker of many is enough."""
    key = f"{RQ_KEY_PREFIX}:gpu:{queue.name}:looked"
    return bool(queue.connection.set(key, 1, nx=True, px=round(seconds * 1000)))


def recover(queue: Queue, broker: Broker) -> int:
    """Put right what dead workers left, and jobs parked for nothing. Safe to call from many workers at once.

    A job that had started is retried or fails, as RQ has it; one that had not goes back to the front of its queue, with
    its retries untouched. Returns how many were found.
    """
    return recover_abandoned(queue, broker) + recover_parked(queue, broker)


def recover_abandoned(queue: Queue, broker: Broker) -> int:
    """The jobs that dead workers of this queue had in their hands, or at work."""
    lot, found = Lot(queue), recover_forgotten(queue)
    entries, forgotten = _started(queue)
    found += lot.put_back_stranded([parse_job_id(entry) for entry in entries])
    leases = {_lease_of(entry): entry for entry in [one for one in entries if one not in forgotten][:_LOOK_AT]}
    for name in broker.abandoned(list(leases)):
        why = f"Its worker died: found by the lease {name}, which was given up."
        recovered = _recover_one(queue, leases[name], why)
        found += recovered is not None
        if recovered is not None and recovered.failed:
            _call_back(queue, recovered.job, why, ())
    return found


def recover_forgotten(queue: Queue, handlers: Sequence[Handler] = ()) -> int:
    """Jobs of which RQ has not heard for long, however long nobody was there to look: a machine that was off, and with
    it all that the ledger remembers. ``handlers`` are called for each that had started, as RQ does.

    RQ's own clean-up of these reads, and writes later: whatever others do to a job in between, it puts the job into its
    queue once more. So nothing is done to them but under the lock that every worker of RQ's holds for its clean-up.
    """
    # Not for RQ's quarter of an hour: this worker may die in the midst of it.
    if not _started(queue)[1] or not queue.connection.set(queue.registry_cleaning_key, 1, nx=True, ex=_LOCK_SECONDS):
        return 0
    found = 0
    try:
        raw: Any = queue.connection.zrangebyscore(queue.started_job_registry.key, 0, current_timestamp())
        for entry in map(as_text, raw):
            why = f"Its worker died: nothing was heard of it for long, at {now()}."
            recovered = _recover_one(queue, entry, why)
            found += recovered is not None
            if recovered is not None and recovered.had_started:
                _call_back(queue, recovered.job, why, handlers)
    finally:
        queue.release_maintenance_lock()  # type: ignore[no-untyped-call]
    return found


class _Recovered(NamedTuple):
    job: Job
    had_started: bool
    failed: bool


def _started(queue: Queue) -> tuple[list[str], set[str]]:
    """The entries of RQ's started jobs; and those that RQ's clean-up takes for forgotten, or will within a moment."""
    raw: Any = queue.connection.zrange(queue.started_job_registry.key, 0, -1, withscores=True)
    soon = current_timestamp() + _SOON_SECONDS
    return [as_text(entry) for entry, _ in raw], {as_text(entry) for entry, until in raw if until <= soon}


def _lease_of(entry: str) -> str:
    return lease_name(parse_job_id(entry), entry.rpartition(":")[2])


def _recover_one(queue: Queue, entry: str, why: str) -> _Recovered | None:
    """A job that had not started goes back to the front of its queue; one that had is retried, or fails, as RQ has it.
    ``None`` if somebody else saw to it.
    """
    job = queue.fetch_job(parse_job_id(entry))
    if job is None or job.get_status(refresh=False) != JobStatus.STARTED:
        return None
    if job.started_at is None:
        return _Recovered(job, had_started=False, failed=False) if Lot(queue).retake(entry, job) else None
    failed = not job.retries_left
    if not _settle(queue, entry, job, why):
        return None
    if failed:
        job.send_webhooks(JobStatus.FAILED, exc_string=why)
        queue.enqueue_dependents(job)
    release_slot(job)
    return _Recovered(job, had_started=True, failed=failed)


def _settle(queue: Queue, entry: str, job: Job, why: str) -> bool:
    """Retry or fail a job in one step with a look at whose it is: False if it is not that attempt's any more."""
    registry, connection, attempt = queue.started_job_registry, queue.connection, entry.rpartition(":")[2]
    with connection.pipeline() as pipeline:
        pipeline.watch(job.key)  # type: ignore[no-untyped-call]
        started = as_text(pipeline.hget(job.key, "status") or b"") == JobStatus.STARTED
        if not started or pipeline.zscore(registry.key, entry) is None:
            return False
        pipeline.multi()
        Execution(attempt, job.id, connection).delete(job, pipeline)
        if job.retries_left:
            with status_within(job, pipeline):
                job.retry(queue, pipeline)
        else:
            record_job_failure(job, why, pipeline)
        try:
            pipeline.execute()
        except WatchError:
            return False
    return True


def _call_back(queue: Queue, job: Job, why: str, handlers: Sequence[Handler]) -> None:
    """What RQ calls for an abandoned job. What is raised there is its own trouble, as RQ has it."""
    error = AbandonedJobError(why)
    with suppress(Exception):
        execute_failure_callback(job, queue.death_penalty_class, AbandonedJobError, error, None)
    with suppress(Exception):
        call_exception_handlers(handlers, job, AbandonedJobError, error, None)


def recover_parked(queue: Queue, broker: Broker) -> int:
    """Parked jobs that the ledger does not know any more, and requests of jobs that RQ does not park any more."""
    lot, found, cursor = Lot(queue), 0, 0
    while True:
        cursor, parked = lot.page(cursor)
        unknown = set(broker.unknown([one.lease_id for one in parked])) if parked else set()
        for one in reversed([one for one in parked if one.lease_id in unknown]):
            found += lot.requeue(one.lease_id)
        for one in lot.taken_away([one for one in parked if one.lease_id not in unknown]):
            lot.requeue(one.lease_id)  # forgets it
            broker.call("cancel", one.lease_id, "")
        if cursor == 0:
            return found
