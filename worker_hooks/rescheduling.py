"""For a plain ``rq worker``: a job gives its worker back and comes again, its retries untouched and no failure counted.

Where a ``GpuWorker`` parks a job before it occupies the worker, here the job's own process finds out that there is no
room. It goes among RQ's scheduled jobs; a worker with ``--with-scheduler`` brings it back. A job that asked to be run
again goes to the front of its queue.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import NoReturn

from redis.client import Pipeline
from rq.defaults import RQ_KEY_PREFIX
from rq.job import Job
from rq.queue import Queue

from worker_hooks.again import RunAgain, noted
from worker_hooks.parking import Lot

_log = logging.getLogger("rq.worker")


def in_a_horse(job: Job) -> bool:
    """Whether this process runs just this job, as a child of its worker, and may end with it."""
    pid = job.connection.hget(f"{RQ_KEY_PREFIX}:worker:{job.worker_name}", "pid")
    return pid is not None and int(pid) == os.getppid() != os.getpid()


def come_again(job: Job, seconds: float) -> NoReturn:
    """Put the job off, and end this process."""
    due = datetime.now(UTC) + timedelta(seconds=seconds)
    with _settled(job) as (queue, pipeline):
        queue.schedule_job(job, due, pipeline=pipeline)
    _log.info("Job %s found no GPU memory and comes again in %g s", job.id, seconds)
    _end()


def at_once(job: Job, again: RunAgain) -> NoReturn:
    """Put the job back to the front of its queue, unless others have it by now, and end this process."""
    noted(job, again)
    lot, meta = Lot(_queue_of(job)), job.serializer.dumps(job.meta)
    mine = [one for one in job.get_executions() if one.worker_name == job.worker_name]
    taken = [lot.retake(one.composite_key, job, meta) for one in mine]
    if any(taken):
        _log.info("Job %s is run again: %s", job.id, again.reason)
    with job.connection.pipeline() as pipeline:
        for one in mine:
            one.delete(job=job, pipeline=pipeline)
        pipeline.execute()
    _end()


@contextmanager
def _settled(job: Job) -> Iterator[tuple[Queue, Pipeline]]:
    """In one step: this attempt is over, and what the body adds."""
    with job.connection.pipeline() as pipeline:
        for execution in job.get_executions():
            execution.delete(job=job, pipeline=pipeline)
        yield _queue_of(job), pipeline
        pipeline.execute()


def _queue_of(job: Job) -> Queue:
    return Queue(job.origin, connection=job.connection, job_class=type(job), serializer=job.serializer)


def _end() -> NoReturn:
    """RQ takes a process that ends well for a job that has settled its own affairs."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
