"""Jobs whose worker died, and jobs that wait for nobody: found by their lease, long before RQ would look.

RQ finds a job of a killed worker after 90 s of silence, at its next maintenance (10 minutes). The ledger knows sooner:
the job's lease was not renewed and its time is over, or nothing of it is left.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redis.exceptions import WatchError
from rq.callbacks import execute_failure_callback
from rq.defaults import RQ_KEY_PREFIX
from rq.exceptions import AbandonedJobError
from rq.executions import Execution
from rq.job import Job, JobStatus, parse_job_id
from rq.job_lifecycle import record_job_failure
from rq.rate_limit import release_slot
from rq.utils import as_text

from worker_hooks.parking import Lot
from worker_hooks.request import lease_name

if TYPE_CHECKING:
    from rq.queue import Queue

    from broker.client import Broker

#: Entries looked at: those heard of least lately, and so the dead ones, come first.
_LOOK_AT = 100


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
    lot, retaken = Lot(queue), recover_unstarted(queue)
    raw: Any = queue.connection.zrange(queue.started_job_registry.key, 0, -1)
    entries = [as_text(entry) for entry in raw]
    found = lot.put_back_stranded([parse_job_id(entry) for entry in entries])
    leases = {lease_name(parse_job_id(entry), entry.rpartition(":")[2]): entry for entry in entries[:_LOOK_AT]}
    for entry in (leases[name] for name in broker.abandoned(list(leases))):
        job = queue.fetch_job(parse_job_id(entry))
        if job is not None and _never_ran(job):
            found += lot.retake(entry, job)
        elif job is not None:
            found += _settle(queue, entry, job)
    return retaken + found


def _settle(queue: Queue, entry: str, job: Job) -> bool:
    """A job that had started is retried, or fails, as RQ has it with abandoned ones. False if somebody else saw to it.

    RQ's own clean-up reads and then writes: two at once would retry a job twice.
    """
    registry, connection = queue.started_job_registry, queue.connection
    with connection.pipeline() as pipeline:
        pipeline.watch(job.key)  # type: ignore[no-untyped-call]
        started = as_text(pipeline.hget(job.key, "status") or b"") == JobStatus.STARTED
        if not started or pipeline.zscore(registry.key, entry) is None:
            return False
        pipeline.multi()
        Execution(entry.rpartition(":")[2], job.id, connection).delete(job, pipeline)
        why = f"Its worker died: found by the lease {lease_name(job.id, entry.rpartition(':')[2])}, which was given up."
        retried = bool(job.retries_left)
        if retried:
            job.retry(queue, pipeline)
        else:
            record_job_failure(job, why, pipeline)
        try:
            pipeline.execute()
        except WatchError:
            return False
    if not retried:
        with suppress(Exception):  # as RQ: a callback that raises is its own trouble
            execute_failure_callback(job, queue.death_penalty_class, AbandonedJobError, AbandonedJobError(why), None)
        job.send_webhooks(JobStatus.FAILED, exc_string=why)
        queue.enqueue_dependents(job)
        release_slot(job)
    return True


def _never_ran(job: Job) -> bool:
    return job.get_status(refresh=False) == JobStatus.STARTED and job.started_at is None


def recover_unstarted(queue: Queue) -> int:
    """Jobs that were taken up and never ran, and of which RQ has not heard for long; its own clean-up would drop them.

    However long nobody was there to look: a machine that was off, and with it all that the ledger remembers.
    """
    connection, lot, found = queue.connection, Lot(queue), 0
    now, _ = connection.time()
    entries: Any = connection.zrangebyscore(queue.started_job_registry.key, "-inf", now, 0, _LOOK_AT)
    for entry in map(as_text, entries):
        job = queue.fetch_job(parse_job_id(entry))
        if job is not None and _never_ran(job):
            found += lot.retake(entry, job)
    return found


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
