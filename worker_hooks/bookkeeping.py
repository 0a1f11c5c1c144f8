"""Where RQ keeps a job that was popped and has not started: written while it waits, and instead of a start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rq.job import JobStatus
from rq.utils import now

if TYPE_CHECKING:
    from rq.executions import Execution
    from rq.job import Job
    from rq.queue import Queue
    from rq.worker import Worker


def keep_findable(worker: Worker, job: Job, queue: Queue) -> None:
    """For RQ's maintenance, should this worker die while the job waits.

    RQ moves a job popped from a worker's only queue into the intermediate queue, but one popped from one of several
    nowhere.
    """
    if len(worker.queues) > 1:
        with worker.connection.pipeline() as pipeline:
            pipeline.lrem(queue.intermediate_queue_key, 1, job.id)
            pipeline.rpush(queue.intermediate_queue_key, job.id)
            pipeline.execute()


def put_back(worker: Worker, job: Job, queue: Queue, execution: Execution) -> None:
    """To the front of its queue, as if nobody had taken it: no failure counted, no retry burnt."""
    with worker.connection.pipeline() as pipeline:
        worker.cleanup_execution(job, pipeline=pipeline, execution=execution)
        job.set_status(JobStatus.QUEUED, pipeline=pipeline)
        pipeline.lrem(queue.intermediate_queue_key, 1, job.id)
        queue.push_job_id(job.id, pipeline=pipeline, at_front=True)
        pipeline.execute()
    worker.log.info("Worker %s: job %s is back at the front of %s", worker.name, job.id, queue.name)


def forget(worker: Worker, job: Job, queue: Queue, execution: Execution) -> None:
    """It was cancelled or deleted while it waited."""
    with worker.connection.pipeline() as pipeline:
        worker.cleanup_execution(job, pipeline=pipeline, execution=execution)
        pipeline.lrem(queue.intermediate_queue_key, 1, job.id)
        pipeline.execute()


def stop_waiting(worker: Worker, job: Job, queue: Queue, execution: Execution) -> None:
    """A stop command came while it waited."""
    job.ended_at = now()
    worker.connection.lrem(queue.intermediate_queue_key, 1, job.id)
    reason = "Job stopped by user while it waited for GPU memory."
    worker.handle_job_failure(job, queue=queue, exc_string=reason, execution=execution)
