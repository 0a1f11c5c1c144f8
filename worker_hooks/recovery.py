"""Jobs whose worker died: found by their lease, long before RQ would look.

RQ finds a job of a killed worker after 90 s of silence, at its next maintenance (10 minutes). The ledger knows sooner:
the job's lease was not renewed and its time is over, or its waiter fell silent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rq.job import Job, JobStatus, parse_job_id
from rq.utils import as_text

from worker_hooks.request import lease_name

if TYPE_CHECKING:
    from rq.queue import Queue

    from broker.client import Broker

#: Entries looked at: those heard of least lately, and so the dead ones, come first.
_LOOK_AT = 100
#: A score in the past of any clock: RQ's own clean-up takes the entry for abandoned.
_LONG_AGO = 1


def recover_abandoned(queue: Queue, broker: Broker) -> int:
    """Take up the jobs of this queue whose worker died: one that had started is retried or fails, as RQ has it; one
    that had not goes back to the front of its queue, with its retries untouched.

    Safe to call from many workers at once: a job is taken by the first. Returns how many were found.
    """
    registry, connection = queue.started_job_registry, queue.connection
    raw: Any = connection.zrange(registry.key, 0, _LOOK_AT - 1)
    entries = [as_text(entry) for entry in raw]
    leases = {lease_name(parse_job_id(entry), entry.rpartition(":")[2]): entry for entry in entries}
    requeued = aged = 0
    for entry in (leases[name] for name in broker.abandoned(list(leases))):
        job = queue.fetch_job(parse_job_id(entry))
        if job is not None and job.get_status(refresh=False) == JobStatus.QUEUED:
            requeued += _put_in_front(queue, job, entry)
        else:
            aged += int(connection.zadd(registry.key, {entry: _LONG_AGO}, xx=True, ch=True) or 0)
    if aged:
        registry.cleanup()
    return requeued + aged


def _put_in_front(queue: Queue, job: Job, entry: str) -> int:
    """One popped job, back to where it was; 0 if somebody else did it first."""
    if not queue.connection.lrem(queue.intermediate_queue_key, 1, job.id):
        return 0
    with queue.connection.pipeline() as pipeline:
        pipeline.zrem(queue.started_job_registry.key, entry)
        queue.push_job_id(job.id, pipeline=pipeline, at_front=True)
        pipeline.execute()
    return 1
